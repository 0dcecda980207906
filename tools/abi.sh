#!/bin/sh
# The binary interface of libdqt, in text: tools/abi.sh types LIBRARY HEADERS | constants HEADER | stub HEADER.
# `make abi-baseline` keeps what it prints in docs/abi, tests/tree/abi.sh compares. Environment: CC.
CC=${CC:-cc}
LC_ALL=C
export LC_ALL

# The header's declarations on one line, comments and preprocessor gone.
plain() {
    $CC -E -P "$1" | tr '\n\t' '  '
}

case $1 in
types) # functions, structs and function types that the header declares; needs abidw and debug information
    exec abidw --headers-dir "$3" --drop-private-types --exported-interfaces-only --no-show-locs --no-corpus-path \
        --no-comp-dir-path --no-elf-needed --no-parameter-names "$2"
    ;;
constants) # enumerators: C compilers put them nowhere in the library, for they travel as int32_t
    plain "$2" | grep -o 'enum {[^}]*}' | sed 's/^enum {//; s/}$//' | tr ',' '\n' |
        sed -n 's/^ *\(DQT_[A-Z0-9_]*\) *= *\(.*[^ ]\) *$/\1 = \2/p' | sort
    ;;
stub) # a source of every function without its body: a library with the same interface, compiled in no time
    echo "#include \"$(cd "$(dirname "$2")" && pwd)/$(basename "$2")\""
    plain "$2" | grep -o '__attribute__((visibility("default"))) [^;]*;' | sed 's/;$/ { for (;;); }/'
    ;;
*)
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
    ;;
esac
