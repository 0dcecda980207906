#!/bin/sh
# The bindings cover the whole interface: each names every public function (Zig's is the translated header itself, which zig.sh
# compares; experimental functions are C's alone). And examples/14_own_transformer.c, the reference of what they do with
# networks of the host's own.
. "$(dirname "$0")/common"
exported >"$tmp/functions"
check "there are functions to look for" test "$(wc -l <"$tmp/functions")" -gt 120

# names LANGUAGE FILES ...: all functions are in the files; prints those that are not.
names() {
    language=$1
    shift
    case $language in
    Python) cat "$@" | grep -oE '\b[a-z][a-z0-9_]+\b' | sed 's/^/dqt_/' ;;
    *) cat "$@" | grep -oE '\bdqt_[a-z0-9_]+\b' ;;
    esac | sort -u | comm -13 - "$tmp/functions" >"$tmp/unnamed"
    cat "$tmp/unnamed"
    ! [ -s "$tmp/unnamed" ]
}
refused() {
    ! "$@"
}
# binding LANGUAGE FILES ...: the same, and a function that is taken away is missed.
binding() {
    check "$1 names every function" names "$@"
    language=$1
    shift
    for function in dqt_layers_copy dqt_tape_end_update dqt_session_fork; do
        cat "$@" | sed "s/\b$function\b/gone/g; s/\b${function#dqt_}\b/gone/g" >"$tmp/without"
        check "$language without $function is found" refused names "$language" "$tmp/without"
    done
}
binding C++ examples/cpp/dqt.hpp
binding Rust examples/rust/dqt/src/*.rs examples/rust/dqt-sys/src/lib.rs
binding Python examples/python/dqt_c.py
check "Zig's is the header" grep -qx '#include <dqt.h>' examples/zig/c.h

own_reference
for set in $sets; do
    check "resumed is uninterrupted, $set" cmp "$tmp/own-$set/whole.dqt" "$tmp/own-$set/resumed.dqt"
    check "half the way is not the whole, $set" sh -c "! cmp -s '$tmp/own-$set/half.dqt' '$tmp/own-$set/whole.dqt'"
done
finish
