#!/bin/sh
# The API fuzzer calls every exported function.
. "$(dirname "$0")/common"
sed -n 's/^[[:space:]]*dqt_\([a-z0-9_]*\);.*/\1/p' src/dqt.map | sort >"$tmp/exported"
check "there are functions" test "$(wc -l <"$tmp/exported")" -gt 80
sed 's/CALL(//; s/)//' fuzz/calls.list | sort >"$tmp/called"
comm -3 "$tmp/exported" "$tmp/called" >"$tmp/differ"
empty "functions that are exported and not in fuzz/calls.list, or (indented) the other way" "$tmp/differ"
while read -r function; do
    grep -qE "dqt_$function\\(|(INIT|CREATE_LAYER)\\(${function%_*}," fuzz/fuzz_calls*.h || echo "$function"
done <"$tmp/called" >"$tmp/uncalled"
empty "functions of fuzz/calls.list whose call calls something else" "$tmp/uncalled"
finish
