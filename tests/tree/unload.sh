#!/bin/sh
# The library as a plug-in: dlopen, use with threads, dlclose, again and again; two copies of it in one process.
. "$(dirname "$0")/common"
so=$(readlink -f "$OUTDIR/libdqt.so")
check "the host builds" $CC -std=c11 -O2 -Wall -Wextra -Iinclude tests/consumers/unload.c -o "$tmp/unload" -ldl
check "it is not linked with the library" test -z "$(nm -D --undefined-only "$tmp/unload" | grep ' dqt_')"
check "the library stays when it is closed" sh -c "readelf -d '$so' | grep -q NODELETE"
check "100 rounds of loading, use and unloading" timeout 300 "$tmp/unload" "$so"
cp "$so" "$tmp/another.so"
check "25 rounds of two copies in one process" timeout 300 "$tmp/unload" "$so" "$tmp/another.so"
finish
