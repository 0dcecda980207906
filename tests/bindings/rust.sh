#!/bin/sh
# examples/rust: declarations against the header, the safe crate's own tests, the program in this tree and against an
# installation. Nothing is fetched: the crates have no dependencies.
. "$(dirname "$0")/common"
if ! have "$CARGO"; then
    skip "no $CARGO"
    finish
fi
reference
bindings=examples/rust/dqt-sys/src/bindings.rs
sed -n 's/^ *\(dqt_[a-z0-9_]*\);.*/\1/p' src/dqt.map | sort >"$tmp/exported"
sed -n 's/^ *pub fn \(dqt_[a-z0-9_]*\)(.*/\1/p' $bindings | sort >"$tmp/declared"
check "every function is declared, no other (dqt-sys/generate.sh)" diff "$tmp/exported" "$tmp/declared"

# The layouts that the crate asserts of itself hold for the header: the same numbers as assertions in C.
{
    echo '#include <dqt.h>'
    tr -d '\n' <$bindings | tr ';' '\n' | tr -s ' ' | sed -n \
        -e 's/.*size_of::<\(dqt_[a-z_]*\)>() - \([0-9]*\)usize.*/_Static_assert(sizeof(\1) == \2, "size of \1");/p' \
        -e 's/.*offset_of!( *\(dqt_[a-z_]*\), \([a-z0-9_]*\),* *) - \([0-9]*\)usize.*/_Static_assert(offsetof(\1, \2) == \3, "\1.\2");/p' |
        sed 's/, in_) ==/, in) ==/'
    echo 'int main(void) { return 0; }'
} >"$tmp/layout.c"
check "there are layouts to compare" test "$(grep -c Static_assert "$tmp/layout.c")" -gt 150
check "the layouts are the header's" $CC -std=c11 -Iinclude -c "$tmp/layout.c" -o "$tmp/layout.o"
if have bindgen; then
    cp -r examples/rust "$tmp/again"
    check "bindgen runs" "$tmp/again/dqt-sys/generate.sh" "$PWD/include/dqt.h"
    check "bindings.rs is what bindgen makes" cmp $bindings "$tmp/again/dqt-sys/src/bindings.rs"
fi

# crates FOLDER COMMAND ...: cargo there, with a folder of its own for what it builds.
crates() {
    folder=$1
    shift
    (cd "$folder" && $CARGO "$@" --offline --quiet --jobs 2)
}
export CARGO_TARGET_DIR="$work/cargo" DQT_LIB_DIR="$LIBDIR"
check "cargo test" crates examples/rust test
check "the train example builds" crates examples/rust build --example train
same "Rust" "$work/cargo/debug/examples/train"

if ! have pkg-config; then
    skip "no pkg-config: installation"
    finish
fi
installed
unset DQT_LIB_DIR LD_LIBRARY_PATH
cp -r examples/rust "$tmp/rust"
export CARGO_TARGET_DIR="$tmp/cargo"
check "the train example builds against an installation" crates "$tmp/rust" build --example train
same "Rust, installed" "$tmp/cargo/debug/examples/train"
finish
