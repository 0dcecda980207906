#!/bin/sh
# How dqt.h reads elsewhere: clang with every warning there is, pycparser, cffi, cgo and SWIG. (bindgen is in
# tests/bindings/rust.sh, zig translate-c in zig.sh; ordinary warnings and keywords of languages in header.sh.) Each has to find
# every struct, field, enumerator and function, at the offset or of the value that C says. PYTHON and GO may be set.
. "$(dirname "$0")/common"
LC_ALL=C
export LC_ALL
mkdir -p "$B/hygiene" && work=$(cd "$B/hygiene" && pwd) || exit 1
lib=$(cd "$OUTDIR" && pwd) || exit 1

# What there is, from the list of symbols: functions, enumerators, and fields as STRUCT.FIELD.
list() {
    awk -v wanted="$1" '/^# / { on = substr($0, 3) == wanted; next } on && NF { print $1 }' docs/symbols-in-versions
}
list functions >"$tmp/functions"
list enumerators >"$tmp/enumerators"
list fields >"$tmp/fields"
sed 's/\..*//' "$tmp/fields" | sort -u >"$tmp/structs"
check "there are names" test "$(cat "$tmp/functions" "$tmp/enumerators" "$tmp/fields" | wc -l)" -gt 450

# A program that makes every struct as hosts do, for warnings about uses.
{
    echo '#include "dqt.h"'
    grep -v '^dqt_tensor_override$' "$tmp/structs" | while read -r struct; do
        printf '%s make_%s(void);\n%s make_%s(void) {\n    %s value = DQT_INIT(%s);\n    return value;\n}\n' \
            "$struct" "$struct" "$struct" "$struct" "$struct" "$struct"
    done
} >"$tmp/use.c"
cp "$tmp/use.c" "$tmp/use.cpp"
if have clang; then
    for standard in c99 c11 c17 c2x; do
        check "clang -Weverything -std=$standard" clang -Weverything -Werror -std=$standard -Iinclude -fsyntax-only "$tmp/use.c"
    done
    for standard in c++98 c++03 c++11 c++14 c++17 c++20 c++2b; do
        check "clang++ -Weverything -std=$standard" clang++ -Weverything -Werror -std=$standard -Iinclude -fsyntax-only "$tmp/use.cpp"
    done
else
    skip "no clang"
fi

# What C says: NAME NUMBER for sizes, offsets and values.
{
    printf '#include <stddef.h>\n#include <stdio.h>\n#include "dqt.h"\nint main(void) {\n'
    sed 's/.*/    printf("& %zu\\n", sizeof(&));/' "$tmp/structs"
    sed 's/^\(.*\)\.\(.*\)$/    printf("& %zu\\n", offsetof(\1, \2));/' "$tmp/fields"
    sed 's/.*/    printf("& %d\\n", (int)&);/' "$tmp/enumerators"
    echo '    return 0;
}'
} >"$tmp/numbers.c"
check "the numbers in C" $CC -std=c11 -Iinclude "$tmp/numbers.c" -o "$tmp/numbers"
"$tmp/numbers" | sort >"$tmp/expected"
check "they are many" test "$(wc -l <"$tmp/expected")" -gt 300

# Plain declarations, as such tools want them: without system headers and attributes.
grep -v '^#include' include/dqt.h | $CC -E -P -DDQT_API= - >"$tmp/plain.h"
found=
for python in "${PYTHON:-}" python3 /usr/bin/python3; do
    if [ -z "$found" ] && [ -n "$python" ] && "$python" -c 'import cffi, pycparser' 2>"$tmp/no"; then found=$python; fi
done
if [ -n "$found" ]; then
    cat >"$tmp/numbers.py" <<'END'
import sys
import cffi, pycparser
plain, library, functions, structs, fields, enumerators = (open(a).read() if a[-3:] != '.so' else a for a in sys.argv[1:])
tree = pycparser.CParser().parse(''.join(f'typedef int {t};' for t in
    'int8_t int32_t uint32_t int64_t uint64_t size_t'.split()) + plain)
parsed = {d.name for d in tree.ext if isinstance(getattr(d, 'type', None), pycparser.c_ast.FuncDecl)}
missing = set(functions.split()) ^ parsed
assert not missing, f'pycparser: {missing}'
ffi = cffi.FFI()
ffi.cdef(plain)
dqt = ffi.dlopen(library)
for name in functions.split():
    assert ffi.typeof(getattr(dqt, name)).kind == 'function', name
for name in structs.split():
    print(name, ffi.sizeof(name))
for name in fields.split():
    struct, field = name.split('.')
    print(name, ffi.offsetof(struct, field))
for name in enumerators.split():
    print(name, getattr(dqt, name))
END
    check "pycparser and cffi read it" sh -c '"$@" >"$0"' "$tmp/cffi" "$found" "$tmp/numbers.py" "$tmp/plain.h" "$lib/libdqt.so" \
        "$tmp/functions" "$tmp/structs" "$tmp/fields" "$tmp/enumerators"
    sort "$tmp/cffi" >"$tmp/cffi.sorted"
    check "cffi has C's numbers" diff "$tmp/expected" "$tmp/cffi.sorted"
else
    skip "no python3 with cffi and pycparser"
fi

# cgo renames a field whose name is a keyword of Go, and leaves out what it cannot read: both would not compile.
GO=${GO:-go}
if have "$GO"; then
    mkdir -p "$tmp/go"
    {
        printf 'package main\n\n// #include "dqt.h"\nimport "C"\nimport (\n\t"fmt"\n\t"unsafe"\n)\n\nfunc main() {\n'
        while read -r struct; do
            printf '\tvar v_%s C.%s\n\tfmt.Println("%s", unsafe.Sizeof(v_%s))\n' "$struct" "$struct" "$struct" "$struct"
        done <"$tmp/structs"
        sed 's/^\(.*\)\.\(.*\)$/\tfmt.Println("&", unsafe.Offsetof(v_\1.\2))/' "$tmp/fields"
        sed 's/.*/\tfmt.Println("&", int(C.&))/' "$tmp/enumerators"
        sed 's/.*/\t_ = C.&/' "$tmp/functions"
        printf '\tif C.dqt_version() != C.DQT_VERSION {\n\t\tpanic("another version")\n\t}\n}\n'
    } >"$tmp/go/main.go"
    build_go() {
        env CGO_CFLAGS="-I$PWD/include" CGO_LDFLAGS="-L$lib -ldqt -Wl,-rpath,$lib" GO111MODULE=off GOFLAGS= GOCACHE="$work/go" CC="$CC" \
            "$GO" build -o "$tmp/go/main" "$tmp/go/main.go"
    }
    check "cgo reads it" build_go
    "$tmp/go/main" | sort >"$tmp/go/numbers"
    check "cgo has C's numbers" diff "$tmp/expected" "$tmp/go/numbers"
else
    skip "no go"
fi

# 451: whoever sets a text through SWIG gives it memory that nobody frees; hosts set texts in C or do not mind.
if have swig; then
    printf '%%module dqt\n%%{\n#include "dqt.h"\n%%}\n%%include "stdint.i"\n%%include "dqt.h"\n' >"$tmp/dqt.i"
    for language in python java csharp go; do
        options=
        if [ $language = go ]; then options="-intgosize 64 -cgo"; fi
        mkdir -p "$tmp/swig-$language"
        swig -Wall -$language $options -Iinclude -outdir "$tmp/swig-$language" -o "$tmp/swig-$language/wrap.c" "$tmp/dqt.i" \
            2>&1 | grep -v "Warning 451: Setting a const char" >"$tmp/swig.out"
        empty "swig -$language: warnings" "$tmp/swig.out"
        check "swig -$language writes" test -s "$tmp/swig-$language/wrap.c"
    done
    while read -r function; do
        grep -q "$function(" "$tmp/swig-csharp/wrap.c" || echo "$function"
    done <"$tmp/functions" >"$tmp/unwrapped"
    empty "functions that SWIG leaves out" "$tmp/unwrapped"
    check "what SWIG writes for C# compiles" $CC -std=c11 -w -Iinclude -fsyntax-only "$tmp/swig-csharp/wrap.c"
else
    skip "no swig"
fi
finish
