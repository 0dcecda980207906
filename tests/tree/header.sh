#!/bin/sh
# dqt.h alone, under every compiler and language that is here, with all warnings; and what bindings cannot read is not in it.
. "$(dirname "$0")/common"
printf '#include "dqt.h"\n#include "dqt.h"\nint user(void);\nint user(void) { return DQT_OK; }\n' >"$tmp/user.c"
cp "$tmp/user.c" "$tmp/user.cpp"
common="-Iinclude -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-align -Werror -fsyntax-only"
for compiler in "$CC" gcc clang; do
    if ! have "${compiler%% *}"; then
        skip "no $compiler"
        continue
    fi
    for standard in c99 c11 c17; do
        check "$compiler -std=$standard" $compiler -std=$standard $common -Wstrict-prototypes -Wmissing-prototypes "$tmp/user.c"
    done
done
for compiler in "$CXX" g++ clang++; do
    if ! have "${compiler%% *}"; then
        skip "no $compiler"
        continue
    fi
    for standard in c++11 c++17 c++20; do
        check "$compiler -std=$standard" $compiler -std=$standard $common -Wold-style-cast -Wzero-as-null-pointer-constant "$tmp/user.cpp"
    done
done

# Declarations only, comments and system headers gone; what is behind them is DQT_INIT, which bindings have no use for.
sed '/^} .* extern "C" /,$d' include/dqt.h | without_comments | grep -v '^#' >"$tmp/plain"
check "dqt.h has declarations" test "$(grep -c DQT_API "$tmp/plain")" -gt 50
grep -nE '(^|[^A-Za-z_])(union|long|unsigned|short|bool|_Bool|va_list|inline|__int128|double complex)([^A-Za-z_]|$)|\.\.\.|[A-Za-z0-9_]+ *: *[0-9]+ *;' \
    "$tmp/plain" >"$tmp/awkward"
empty "unions, bit-fields, varargs, inline functions or types whose width is not fixed" "$tmp/awkward"

# Every enumerator is given a value, so that none moves when one is added.
tr '\n' ' ' <"$tmp/plain" | grep -o 'enum {[^}]*}' | tr '{,' '\n\n' | grep -E 'DQT_' | grep -v '=' >"$tmp/unpinned"
empty "enumerators without a value" "$tmp/unpinned"

# Structs that grow begin with struct_size; dqt_tensor_override never does.
tr '\n' ' ' <"$tmp/plain" | grep -o 'typedef struct dqt_[a-z_]* { *[^;]*;' | grep -v '{ *uint32_t struct_size;' |
    grep -v '^typedef struct dqt_tensor_override ' >"$tmp/unsized"
empty "structs that do not begin with struct_size" "$tmp/unsized"

# Every function says since when it is there, in its own comment or one before it.
check "functions say since when" test "$(grep -c 'Since [0-9]*\.[0-9]*' include/dqt.h)" -gt 40
finish
