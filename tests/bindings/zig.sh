#!/bin/sh
# examples/zig: the header's translation, the program in this tree and against an installation. ZIG may be set.
. "$(dirname "$0")/common"
if [ -z "${ZIG:-}" ]; then
    if have zig; then ZIG=zig; elif have "$PYTHON" && "$PYTHON" -m ziglang version >"$tmp/version" 2>&1; then ZIG="$PYTHON -m ziglang"; fi
fi
if [ -z "${ZIG:-}" ]; then
    skip "no zig, and $PYTHON has no ziglang"
    finish
fi
reference
export ZIG_GLOBAL_CACHE_DIR="$work/zig" ZIG_LOCAL_CACHE_DIR="$work/zig-local"

# As examples/zig/README.md has it: translate FLAGS ..., then program OUT FLAGS ..., or SOURCE's with source set.
translate() {
    $ZIG translate-c -lc "$@" examples/zig/c.h >"$tmp/c.zig"
}
program() {
    out=$1
    shift
    $ZIG build-exe --dep c -Mroot=examples/zig/${source:-train}.zig -Mc="$tmp/c.zig" -lc "$@" -O ReleaseSafe -femit-bin="$tmp/$out"
}
check "the header is translated" translate -Iinclude
exported >"$tmp/exported"
sed -n 's/^pub extern fn \(dqt_[a-z0-9_]*\)(.*/\1/p' "$tmp/c.zig" | sort >"$tmp/translated"
check "every function is translated" diff "$tmp/exported" "$tmp/translated"
# DQT_API, visibility for C compilers, and DQT_INIT, an initialiser, are all that mean nothing to zig; structs with members must
# not become opaque.
grep -E '^pub const (struct_)?(dqt|DQT)_[A-Za-z_]* = (@compileError|opaque)' "$tmp/c.zig" |
    grep -vE '^pub const (DQT_API|DQT_INIT|(struct_)?dqt_(context|tensor|layer|tape|llama|updater|session|sampler)) ' >"$tmp/untranslatable"
empty "declarations that zig cannot translate" "$tmp/untranslatable"
check "train builds" program train -L"$OUTDIR" -ldqt
same "Zig" "$tmp/train"
own_reference
source=own_transformer
check "own_transformer builds" program own_transformer -lm -L"$OUTDIR" -ldqt
same_own "Zig" "$tmp/own_transformer"
source=

if have pkg-config; then
    installed
    check "the installed header is translated" translate $(pkg-config --cflags dqt)
    check "train builds against an installation" program installed $(pkg-config --libs dqt)
    same "Zig, installed" "$tmp/installed"
else
    skip "no pkg-config: installation"
fi

# As a package: build.zig of this tree, taken by the project in examples/zig. Both are copied, for zig writes beside them; in
# folders that stay, so that it does not build everything again. Zig links expf, logf and others of its own, whose last bits
# may be others: the reference is the C program with the package's archive, and what gcc builds is near: for 10 steps in plain C, and
# for 2 where AUTO rounds gradients to bf16 or int8, for there such a bit can be another code, and each step makes more of them.
package=$work/zig-package
rm -rf "$package"
mkdir -p "$package/examples"
cp -r build.zig build.zig.zon include src LICENSE README.md "$package/"
cp -r examples/zig examples/cpp "$package/examples/"
as_package() {
    (cd "$package/examples/zig" && $ZIG build --prefix "$tmp/package")
}
c_program() {
    (cd "$package" && $ZIG build --prefix "$tmp/archive") &&
        $ZIG cc -std=c11 -Iinclude examples/binding.c "$tmp/archive/lib/libdqt.a" -o "$tmp/zig-binding"
}
check "a project builds with the package" as_package
check "examples/binding.c builds with the package's archive" c_program
for set in $sets; do
    cp "$tmp/c-$set.txt" "$tmp/gcc-$set.txt"
done
reference_of "$tmp/zig-binding"
same "Zig, package" "$tmp/package/bin/train"
for set in $sets; do
    steps=2
    [ "$set" != scalar ] || steps=10
    paste "$tmp/gcc-$set.txt" "$tmp/c-$set.txt" | awk -v steps=$steps '
        /^step/ { losses++; if ($2 < steps && ($4 - $9 > 0.002 || $9 - $4 > 0.002)) print }
        END { if (losses != 20) print losses " losses" }' >"$tmp/far"
    empty "losses of the package that are far from those of $CC, $set" "$tmp/far"
done
check "it does not need libdqt.so" sh -c "! readelf -d '$tmp/package/bin/train' | grep -q libdqt"
# What is fetched is what build.zig.zon lists.
check "zig fetch" sh -c "$ZIG fetch '$package' | grep -q '^dqt-$($MAKE -s print-VERSION)-'"
finish
