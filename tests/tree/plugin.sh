#!/bin/sh
# The archive inside a plug-in, which must not export the library's functions: two plug-ins with different versions of it would
# take each other's. docs/abi.md, "Inside a plug-in", has the two ways that are tried here.
. "$(dirname "$0")/common"
LC_ALL=C
export LC_ALL
cat >"$tmp/plugin.c" <<'END'
#include "dqt.h"
__attribute__((visibility("default"))) int plugin(void);
int plugin(void) {
    dqt_context *ctx = 0;
    dqt_tensor *tensor = 0;
    int good = dqt_context_create(0, &ctx) == DQT_OK && dqt_tensor_create(ctx, 2, 2, 0, &tensor) == DQT_OK;
    dqt_tensor_destroy(tensor);
    dqt_context_destroy(ctx);
    return good && dqt_version() == DQT_VERSION;
}
END
cat >"$tmp/host.c" <<'END'
#include <dlfcn.h>
int main(int argc, char **argv) {
    void *handle = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : 0;
    int (*plugin)(void) = 0;
    if (handle) *(void **)&plugin = dlsym(handle, "plugin");
    return plugin && plugin() ? 0 : 1;
}
END
check "the host builds" $CC -O1 "$tmp/host.c" -o "$tmp/host" -ldl
# link NAME ARCHIVE FLAGS ...
link() {
    out=$tmp/$1.so archive=$2
    shift 2
    $CC -std=c11 -O1 -fPIC -shared -Iinclude "$tmp/plugin.c" "$archive" -fopenmp -lm "$@" -o "$out"
}
exports() {
    nm -D --defined-only "$tmp/$1.so" | sed 's/.* //' | grep -E 'dqt|plugin' >"$tmp/exports"
}
check "a plug-in links" link plain "$OUTDIR/libdqt.a"
exports plain
check "without more it exports the library" test "$(wc -l <"$tmp/exports")" -gt 5

check "a plug-in links with --exclude-libs" link excluded "$OUTDIR/libdqt.a" -Wl,--exclude-libs,ALL
exports excluded
check "it exports its own function alone" test "$(cat "$tmp/exports")" = plugin
check "it works" "$tmp/host" "$tmp/excluded.so"

# Installed, for that archive's names are sorted once more.
check "the library builds with DQT_API as nothing" $MAKE -s -j2 B="$B/hidden" OUTDIR="$B/hidden/lib" CC="$CC" CFLAGS=-O1 CPPFLAGS=-DDQT_API= \
    DESTDIR="$tmp/root" prefix=/usr install-headers install-static
check "a plug-in links with that archive" link hidden "$(find "$tmp/root" -name libdqt.a)"
exports hidden
check "it exports its own function alone, too" test "$(cat "$tmp/exports")" = plugin
check "it works, too" "$tmp/host" "$tmp/hidden.so"
finish
