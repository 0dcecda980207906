#!/bin/sh
# No public struct ends in padding: a client that copies members would leave there what a later version reads as its new
# member. gcc says where it pads (clang only for structs that are used); that it does is shown with a struct that needs it.
. "$(dirname "$0")/common"
printf '#include "dqt.h"\nstruct padded { double d; char c; };\n' >"$tmp/padding.c"
for bits in 64 32; do
    if ! gcc -m$bits -std=c11 -Iinclude -Wpadded -fsyntax-only "$tmp/padding.c" >"$tmp/padded" 2>&1; then
        [ $bits = 32 ] || skip "gcc cannot read the header"
        continue # no C library of 32 bits here
    fi
    grep "padding struct size" "$tmp/padded" >"$tmp/ends"
    check "gcc -m$bits sees padding" grep -q '/padding\.c' "$tmp/ends"
    grep -v '/padding\.c' "$tmp/ends" >"$tmp/wrong"
    empty "structs that end in padding (gcc -m$bits)" "$tmp/wrong"
done
finish
