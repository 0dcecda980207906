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
exported >"$tmp/exported"
sed -n 's/^ *pub fn \(dqt_[a-z0-9_]*\)(.*/\1/p' $bindings | sort >"$tmp/declared"
check "every function is declared, no other (dqt-sys/generate.sh)" diff "$tmp/exported" "$tmp/declared"

# The layouts that the crate asserts of itself hold for the header: the same numbers as assertions in C.
{
    echo '#include <dqt.h>'
    tr -d '\n' <$bindings | tr ';' '\n' | tr -s ' ' | sed -n \
        -e 's/.*size_of::<\(dqt_[a-z_]*\)>() - \([0-9]*\)usize.*/_Static_assert(sizeof(\1) == \2, "size of \1");/p' \
        -e 's/.*offset_of!( *\(dqt_[a-z_]*\), \([a-z0-9_]*\),* *) - \([0-9]*\)usize.*/_Static_assert(offsetof(\1, \2) == \3, "\1.\2");/p' |
        sed 's/_) ==/) ==/' # what is a keyword in Rust ends in _ there
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
export CARGO_TARGET_DIR="$work/cargo" DQT_LIB_DIR="$OUTDIR"
check "cargo test" crates examples/rust test
check "the train example builds" crates examples/rust build --example train
same "Rust" "$work/cargo/debug/examples/train"
own_reference
check "the own_transformer example builds" crates examples/rust build --example own_transformer
same_own "Rust" "$work/cargo/debug/examples/own_transformer"

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

# A program outside of this tree that takes the crates from git: the files of this tree as a commit. With nothing installed
# the C sources are built, here quickly. Folders that stay have one path, so that cargo does not build everything again.
if ! have git; then
    skip "no git: the crates as a git dependency"
    finish
fi
host=$work/rust-host origin=$work/rust-origin
export CARGO_TARGET_DIR="$work/cargo-host" CARGO_HOME="$tmp/cargo-home" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}"
rm -rf "$host" "$origin"
mkdir -p "$host/src" "$origin"
cp -r Makefile include src pkgconfig cmake "$origin/"
mkdir "$origin/examples"
cp -r examples/rust examples/cpp examples/support "$origin/examples/"
(
    export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE='2000-01-01 00:00 +0000' GIT_COMMITTER_DATE='2000-01-01 00:00 +0000'
    cd "$origin" && git init -q . && git add -A && git -c user.name=test -c user.email=test@localhost commit -qm "The tree"
) >"$tmp/check.out" 2>&1 || fail "a repository of this tree"
# host FEATURES: builds the program.
host() {
    printf '[package]\nname = "host"\nversion = "1.0.0"\nedition = "2021"\n\n[dependencies]\ndqt = { git = "file://%s"%s }\n' \
        "$origin" "$1" >"$host/Cargo.toml"
    rm -f "$host/Cargo.lock"
    (cd "$host" && CFLAGS=-O1 $CARGO build --quiet --jobs 2)
}
cp examples/rust/dqt/examples/train.rs "$host/src/main.rs"
nothing_installed() {
    PKG_CONFIG=false host ""
}
check "a git dependency builds where nothing is installed" nothing_installed
same "Rust, git dependency" "$work/cargo-host/debug/host"
static_feature() {
    host ', features = ["static"]'
}
check "the feature static builds against an installation" static_feature
same "Rust, static" "$work/cargo-host/debug/host"
if have readelf; then
    check "it does not need libdqt.so" sh -c "! readelf -d '$work/cargo-host/debug/host' | grep -q libdqt"
fi
finish
