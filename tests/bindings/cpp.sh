#!/bin/sh
# examples/cpp: the C++17 header, its objects, its programs in this tree and against an installation.
. "$(dirname "$0")/common"
if ! have "${CXX%% *}"; then
    skip "no $CXX"
    finish
fi
reference
# build OUT SOURCE FLAGS ...: with strict warnings.
build() {
    out=$1 source=$2
    shift 2
    $CXX -std=c++17 -O1 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wold-style-cast -Werror -pthread \
        "$source" -o "$tmp/$out" "$@"
}
for program in train generate own_transformer; do
    check "$program builds" build $program examples/cpp/$program.cpp -Iinclude -L"$OUTDIR" -ldqt
done
own_reference
same_own "C++" "$tmp/own_transformer"
# objects PROGRAM: what check_cpp counts.
objects() {
    mkdir -p "$tmp/objects"
    if env ASAN_OPTIONS=detect_leaks=0 "$1" "$tmp/objects" >"$tmp/checks" 2>&1; then
        passed=$((passed + $(sed -n 's/^check_cpp: \([0-9]*\) passed.*/\1/p' "$tmp/checks")))
    else
        cat "$tmp/checks"
        fail "$1"
    fi
}
check "check_cpp builds" build check_cpp tests/bindings/check_cpp.cpp -Iinclude -Iexamples/cpp -L"$OUTDIR" -ldqt
objects "$tmp/check_cpp"
same "C++" "$tmp/train"
check "generate runs" "$tmp/generate" "$tmp/generate.dqt"
check "make cpp" $MAKE -s cpp B="$B" OUTDIR="$OUTDIR" CC="$CC" CXX="$CXX"

# Destroying in the wrong order, or twice, would be seen.
if printf 'int main() {}\n' >"$tmp/empty.cpp" && $CXX -fsanitize=address "$tmp/empty.cpp" -o "$tmp/empty" 2>"$tmp/no" && "$tmp/empty"; then
    check "generate builds with the address sanitizer" build checked examples/cpp/generate.cpp -Iinclude -L"$OUTDIR" -ldqt \
        -fsanitize=address
    check "generate is clean under the address sanitizer" env ASAN_OPTIONS=detect_leaks=0 "$tmp/checked" "$tmp/generate.dqt"
    check "check_cpp builds with it" build checked_cpp tests/bindings/check_cpp.cpp -Iinclude -Iexamples/cpp -L"$OUTDIR" -ldqt \
        -fsanitize=address
    objects "$tmp/checked_cpp"
fi

if ! have pkg-config; then
    skip "no pkg-config: installation"
    finish
fi
installed
cp examples/cpp/dqt.hpp examples/cpp/train.cpp "$tmp/"
check "train builds against an installation" build installed "$tmp/train.cpp" $(pkg-config --cflags --libs dqt)
same "C++, installed" "$tmp/installed"
finish
