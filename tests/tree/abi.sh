#!/bin/sh
# The binary interface against the baseline in docs/abi (docs/abi.md): enumerators by text, functions and structs by abidiff.
# Then changed headers, each compiled into a library of empty functions: what breaks programs is found, what may change is not.
. "$(dirname "$0")/common"
LC_ALL=C
export CC LC_ALL
base=docs/abi/libdqt-x86_64.abi
soname=libdqt.so.$($MAKE -s print-SOVERSION)

# constants_kept HEADER: every enumerator of the baseline is in the header, with the same value.
constants_kept() {
    tools/abi.sh constants "$1" >"$tmp/now"
    comm -23 docs/abi/constants "$tmp/now" >"$tmp/lost"
    cat "$tmp/lost"
    [ -s "$tmp/now" ] && ! [ -s "$tmp/lost" ]
}
# without_growth BASELINE NEW: NEW without the fields that were added behind the end of a struct. dqt_tensor_options is
# embedded in other structs, so it must not grow.
without_growth() {
    awk -F"'" '
        /<class-decl / && FNR == NR && / size-in-bits=/ { size[$2] = $4 }
        FNR == NR { next }
        /<class-decl / { known = $2 != "dqt_tensor_options" && $2 in size ? size[$2] : -1 }
        /<class-decl / && known >= 0 && / size-in-bits=/ && $4 + 0 > known + 0 {
            sub(/size-in-bits=.[0-9]*/, "size-in-bits=" FS known)
        }
        /<data-member / && known >= 0 && $4 + 0 >= known + 0 { dropped = 1 }
        !dropped
        /<\/data-member>/ { dropped = 0 }' "$1" "$2"
}
# Experimental functions may change.
printf '[suppress_function]\n  symbol_version = DQT_EXPERIMENTAL\n' >"$tmp/experimental"
# abi_kept LIBRARY HEADERS: functions and structs are those of the baseline, but for new functions and fields behind the end.
abi_kept() {
    tools/abi.sh types "$1" "$2" >"$tmp/now.abi" && without_growth "$base" "$tmp/now.abi" >"$tmp/known.abi" &&
        abidiff --no-added-syms --suppressions "$tmp/experimental" "$base" "$tmp/known.abi"
}
# stub HEADER SONAME LIBRARY [NAME]: a library of the header's functions without bodies; NAME is exported too.
stub() {
    tools/abi.sh stub "$1" >"$tmp/stub.c" &&
        sed "s/^\( *\)local:/\1    ${4:-dqt_version};\n\1local:/" src/dqt.map >"$tmp/stub.map" &&
        $CC -std=c11 -g -O0 -w -shared -fPIC "-Wl,-soname,$2" "-Wl,--version-script=$tmp/stub.map" "$tmp/stub.c" -o "$3"
}
# changed NAME SED: include/dqt.h, changed by a sed program, as $tmp/NAME/dqt.h.
changed() {
    mkdir "$tmp/$1"
    sed "$2" include/dqt.h >"$tmp/$1/dqt.h"
    if cmp -s include/dqt.h "$tmp/$1/dqt.h"; then fail "$1: the header did not change"; fi
}
refused() {
    ! "$@"
}

check "the baseline has enumerators" test "$(wc -l <docs/abi/constants)" -gt 60
check "enumerators are those of the baseline" constants_kept include/dqt.h
changed another_value 's/DQT_E_SHAPE = 20/DQT_E_SHAPE = 21/'
changed another_name 's/DQT_MLP_SQUARED_RELU/DQT_MLP_RELU/'
changed new_value 's/DQT_E_CANCELLED = 90 /DQT_E_CANCELLED = 90, DQT_E_NEW = 91 /'
check "an enumerator of another value is found" refused constants_kept "$tmp/another_value/dqt.h"
check "an enumerator that is gone is found" refused constants_kept "$tmp/another_name/dqt.h"
check "a new enumerator is allowed" constants_kept "$tmp/new_value/dqt.h"

# Structs that grow are each tried with older and newer callers. dqt_tensor_override never does, and dqt_logits_tile is the
# library's own, given to a callback.
without_comments <include/dqt.h | sed -n 's/^} \(dqt_[a-z_]*\);/\1/p' |
    grep -Ev '^dqt_(tensor_override|logits_tile)$' >"$tmp/structs"
check "there are structs" test "$(wc -l <"$tmp/structs")" -gt 10
while read -r struct; do
    grep -Eq "\"$struct\", sizeof\($struct\), (init|get)_" tests/test_options*.c || echo "$struct"
done <"$tmp/structs" >"$tmp/untried"
empty "structs that are not in the lists of tests/test_options*.c" "$tmp/untried"

grep -nE '/(home|root|tmp|usr|work|build|opt|var)/' docs/abi/* >"$tmp/paths"
empty "paths of a machine in the baseline" "$tmp/paths"
check "the baseline is small" test "$(wc -c <"$base")" -lt 250000

if ! have abidiff || ! have abidw; then
    skip "no abidiff (Debian: abigail-tools)"
    finish
fi
case $($CC -dumpmachine) in
x86_64*) ;;
*)
    skip "the baseline is of x86_64"
    finish
    ;;
esac
if tools/abi.sh types "$OUTDIR/libdqt.so" include 2>/dev/null | grep -q 'class-decl'; then
    check "functions and structs are those of the baseline" abi_kept "$OUTDIR/libdqt.so" include
else
    skip "the library has no debug information"
fi
stub include/dqt.h "$soname" "$tmp/same.so"
check "empty functions have the interface of the library" abi_kept "$tmp/same.so" include

# breaks WHAT SED, allows WHAT SED [NEW FUNCTION]
n=0
breaks() {
    n=$((n + 1))
    changed "break$n" "$2"
    stub "$tmp/break$n/dqt.h" "$soname" "$tmp/break$n.so" || fail "$1: does not compile"
    check "$1 is found" refused abi_kept "$tmp/break$n.so" "$tmp/break$n"
}
allows() {
    n=$((n + 1))
    changed "allow$n" "$2"
    stub "$tmp/allow$n/dqt.h" "$soname" "$tmp/allow$n.so" "$3" || fail "$1: does not compile"
    check "$1 is allowed" abi_kept "$tmp/allow$n.so" "$tmp/allow$n"
}
breaks "a field in the middle of a struct" 's/^\( *\)float beta2;/\1float another;\n&/'
breaks "a field of another type" 's/^\( *\)size_t max_batch;/\1uint32_t max_batch;/'
breaks "a field that is gone" 's/^ *int32_t recompute;/\/\/&/'
breaks "two fields that changed places" 's/int32_t storage, compute,/int32_t compute, storage,/'
breaks "a longer dqt_tensor_options" 's/^} dqt_tensor_options;/int32_t another;\n&/'
breaks "an argument of another type" 's/(dqt_context \*ctx, size_t rows, size_t cols,/(dqt_context *ctx, uint32_t rows, size_t cols,/'
breaks "a function that is gone" 's/^DQT_API uint32_t dqt_version(void);//'
breaks "another result" 's/^DQT_API uint32_t dqt_version(void);/DQT_API uint64_t dqt_version(void);/'
breaks "another callback" 's/(void \*user_data, int32_t level, const char \*message)/(void *user_data, int64_t level, const char *message)/'
breaks "another dqt_status" 's/^typedef int32_t dqt_status;/typedef int64_t dqt_status;/'
stub include/dqt.h libdqt.so.99 "$tmp/soname.so"
check "another soname is found" refused abi_kept "$tmp/soname.so" include
allows "a new function" 's/^DQT_API uint32_t dqt_version(void);/&\nDQT_API uint32_t dqt_another(void);/' dqt_another
allows "a field at the end of a struct" 's/^} dqt_sampler_options;/uint64_t another;\n&/'
finish
