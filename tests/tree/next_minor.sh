#!/bin/sh
# What docs/abi.md promises, tried with a simulated next minor version: version 1.1 of this tree, in which every struct has new
# fields behind its end, dqt_tensor_options one from its reserve, and there is a new status and a new function. A program built
# before runs with it and gets the same numbers; one built after runs with this library while it uses nothing new, is refused
# where it sets a new field, and does not start where it uses the new function.
. "$(dirname "$0")/common"
if ! have python3; then
    skip "no python3"
    finish
fi
lib=$(cd "$OUTDIR" && pwd) || exit 1
next=$B/next-minor
mkdir -p "$next"
next=$(cd "$next" && pwd) || exit 1

# The grown tree; files that stay the same are not touched, so that the next run compiles little.
grow() {
    python3 - "$tmp/grown" <<'END'
import pathlib, re, shutil, sys
to = pathlib.Path(sys.argv[1])
for folder in ('include', 'src', 'tools', 'docs'):
    (to / folder).mkdir(parents=True)
shutil.copytree('src', to / 'src', dirs_exist_ok=True)
shutil.copy('Makefile', to)
shutil.copy('tools/symbols.py', to / 'tools')
shutil.copy('docs/symbols-in-versions', to / 'docs')
h = pathlib.Path('include/dqt.h').read_text()
grown = 0
for name in re.findall(r'^\} (dqt_\w+);', h, flags=re.M):
    if name not in ('dqt_tensor_options', 'dqt_tensor_override'):
        fields = '    double next_double;\n    const void *next_pointer;\n    uint64_t next_numbers[4];\n'
        h, n = re.subn(r'^\} %s;' % name, fields + '} %s;' % name, h, flags=re.M)
        grown += n
def change(old, new):
    global h
    assert h.count(old) == 1, old
    h = h.replace(old, new)
change('    uint64_t reserved64[4];\n} dqt_tensor_options;',
       '    uint64_t next_reserved;\n    uint64_t reserved64[3];\n} dqt_tensor_options;')
change('    DQT_E_CANCELLED = 90 ', '    DQT_E_NEXT = 100,\n    DQT_E_CANCELLED = 90 ')
h = re.sub(r'(#define DQT_VERSION_MAJOR) \d+', r'\1 1', h)
h = re.sub(r'(#define DQT_VERSION_MINOR) \d+', r'\1 1', h)
last_error = 'DQT_API const char *dqt_last_error(const dqt_context *ctx);\n'
change(last_error, last_error + 'DQT_API dqt_status dqt_added_in_next_minor(const dqt_context *ctx);\n')
(to / 'include/dqt.h').write_text(h)
with open(to / 'src/core/status.c', 'a') as f:
    f.write('\ndqt_status dqt_added_in_next_minor(const dqt_context *ctx) {\n    (void)ctx;\n    return DQT_OK;\n}\n')
assert grown > 25, grown
END
}
check "the header grows" grow
python3 "$tmp/grown/tools/symbols.py"
(cd "$tmp/grown" && find . -type f) | while read -r file; do
    cmp -s "$tmp/grown/$file" "$next/$file" || { mkdir -p "$next/$(dirname "$file")" && cp "$tmp/grown/$file" "$next/$file"; }
done
(cd "$next" && find include src -type f) | while read -r file; do [ -e "$tmp/grown/$file" ] || rm "$next/$file"; done
check "the next version builds" $MAKE -s -C "$next" -j2 CC="$CC" CFLAGS="-O1 -g" B=build "lib/libdqt.so.1.1.0"
check "it has a node of its own" sh -c "readelf --dyn-syms -W '$next/lib/libdqt.so.1.1.0' | grep -q 'dqt_added_in_next_minor@@DQT_1.1'"
check "what was there stays in its node" sh -c "readelf --dyn-syms -W '$next/lib/libdqt.so.1.1.0' | grep -q 'dqt_version@@DQT_1.0'"
ln -sf libdqt.so.1.1.0 "$next/lib/libdqt.so.1" && ln -sf libdqt.so.1 "$next/lib/libdqt.so"

# Every versioned struct is in the program.
without_comments <include/dqt.h | sed -n 's/^} \(dqt_[a-z_]*\);/\1/p' | grep -v '^dqt_logits_tile$' | while read -r struct; do
    grep -q "(\?$struct\( \*\|, \)" tests/consumers/growing.c || echo "$struct"
done >"$tmp/missing"
empty "structs that tests/consumers/growing.c does not use" "$tmp/missing"

build() {
    out=$1 include=$2 libraries=$3
    shift 3
    check "$out builds" $CC -std=c11 -O1 -g -Wall -Wextra "-I$include" "$@" tests/consumers/growing.c -o "$tmp/$out" "-L$libraries" -ldqt
}
run() { # PROGRAM LIBRARY: what it prints goes to $tmp/out, its errors to $tmp/err
    (cd "$tmp" && env LD_LIBRARY_PATH="$2" "./$1" >"$tmp/out" 2>"$tmp/err")
}
build before include "$lib"
build after "$next/include" "$next/lib" -DNEXT
build user "$next/include" "$next/lib" -DNEXT -DNEXT_FUNCTION -Wl,-z,lazy

check "a program runs" run before "$lib"
cp "$tmp/out" "$tmp/expected"
check "it says much" test "$(wc -l <"$tmp/expected")" -gt 10
check "it runs with the next version" run before "$next/lib"
check "with the same numbers" diff "$tmp/expected" "$tmp/out"
check "a program of the next version runs" run after "$next/lib"
check "with the same numbers again" diff "$tmp/expected" "$tmp/out"
check "no new field is refused there" grep -q "^new fields: 0 refused, " "$tmp/err"
check "it runs with this version" run after "$lib"
check "with the same numbers yet again" diff "$tmp/expected" "$tmp/out"
check "every new field is refused here" grep -q "^new fields: [1-9][0-9]* refused, 0 accepted" "$tmp/err"
check "a program that uses the new function runs with the next version" run user "$next/lib"
if run user "$lib"; then fail "it runs with this version, which has no such function"; else pass; fi
check "it does not even start" sh -c "! grep -q started '$tmp/err'"
check "and the loader says why" grep -q "DQT_1.1" "$tmp/err"
finish
