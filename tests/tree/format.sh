#!/bin/sh
# Every C file is as clang-format 14 writes it (.clang-format), and shellcheck has nothing to say about the scripts.
. "$(dirname "$0")/common"
formatter=
for candidate in clang-format-14 clang-format; do
    if [ -z "$formatter" ] && have $candidate && $candidate --version | grep -q ' version 14\.'; then formatter=$candidate; fi
done
if [ -n "$formatter" ]; then
    find include src tests examples bench tools -name '*.[ch]' ! -path '*/target/*' ! -path '*/.zig-cache/*' >"$tmp/files"
    check "there are files" test "$(wc -l <"$tmp/files")" -gt 100
    while read -r file; do
        $formatter --style=file "$file" | cmp -s - "$file" || echo "$file"
    done <"$tmp/files" >"$tmp/unformatted"
    empty "files that clang-format would change (clang-format -i)" "$tmp/unformatted"
else
    skip "no clang-format of version 14"
fi
# Words that are split on purpose (flags), names that tests/tree/common gives, and lists of this tree's own files are no faults.
if have shellcheck; then
    find .ci/run tests tools examples -type f \( -name '*.sh' -o -path .ci/run -o -path 'tests/*/common' \) >"$tmp/scripts"
    check "there are scripts" test "$(wc -l <"$tmp/scripts")" -gt 15
    while read -r script; do
        shellcheck -s "$(sed -n '1s|^#!/bin/||p' "$script" | grep . || echo sh)" -S warning -e SC1090,SC1091,SC2034,SC2086,SC2046,SC2012,SC2010,SC2154 "$script"
    done <"$tmp/scripts" >"$tmp/shellcheck" 2>&1
    empty "what shellcheck finds" "$tmp/shellcheck"
else
    skip "no shellcheck"
fi
finish
