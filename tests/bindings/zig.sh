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

# As examples/zig/README.md has it: translate FLAGS ..., then program OUT FLAGS ...
translate() {
    $ZIG translate-c -lc "$@" examples/zig/c.h >"$tmp/c.zig"
}
program() {
    out=$1
    shift
    $ZIG build-exe --dep c -Mroot=examples/zig/train.zig -Mc="$tmp/c.zig" -lc "$@" -O ReleaseSafe -femit-bin="$tmp/$out"
}
check "the header is translated" translate -Iinclude
sed -n 's/^ *\(dqt_[a-z0-9_]*\);.*/\1/p' src/dqt.map | sort >"$tmp/exported"
sed -n 's/^pub extern fn \(dqt_[a-z0-9_]*\)(.*/\1/p' "$tmp/c.zig" | sort >"$tmp/translated"
check "every function is translated" diff "$tmp/exported" "$tmp/translated"
# DQT_API, visibility for C compilers, is all that means nothing to zig; structs with members must not become opaque.
grep -E '^pub const (struct_)?(dqt|DQT)_[A-Za-z_]* = (@compileError|opaque)' "$tmp/c.zig" |
    grep -vE '^pub const (DQT_API|(struct_)?dqt_(context|tensor|layer|tape|llama|updater|session|sampler)) ' >"$tmp/untranslatable"
empty "declarations that zig cannot translate" "$tmp/untranslatable"
check "train builds" program train -L"$OUTDIR" -ldqt
same "Zig" "$tmp/train"

# As a package: build.zig of this tree, taken by the project in examples/zig. Both are copied, for zig writes beside them; in
# folders that stay, so that it does not build everything again.
package=$work/zig-package
rm -rf "$package"
mkdir -p "$package/examples"
cp -r build.zig build.zig.zon include src LICENSE README.md "$package/"
cp -r examples/zig examples/cpp "$package/examples/"
as_package() {
    (cd "$package/examples/zig" && $ZIG build --prefix "$tmp/package")
}
check "a project builds with the package" as_package
same "Zig, package" "$tmp/package/bin/train"
check "it does not need libdqt.so" sh -c "! readelf -d '$tmp/package/bin/train' | grep -q libdqt"
# What is fetched is what build.zig.zon lists.
check "zig fetch" sh -c "$ZIG fetch '$package' | grep -q '^dqt-$($MAKE -s print-VERSION)-'"

if ! have pkg-config; then
    skip "no pkg-config: installation"
    finish
fi
installed
check "the installed header is translated" translate $(pkg-config --cflags dqt)
check "train builds against an installation" program installed $(pkg-config --libs dqt)
same "Zig, installed" "$tmp/installed"
finish
