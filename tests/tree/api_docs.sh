#!/bin/sh
# docs/api is what tools/api_docs.py makes of dqt.h, every function has a comment, and links lead somewhere. Then changed headers:
# the checks fail where they should.
. "$(dirname "$0")/common"
if ! have python3; then
    skip "no python3"
    finish
fi
refused() {
    ! "$@"
}
check "docs/api is up to date and every function has a comment" python3 tools/api_docs.py --check

for file in docs/api/*.md; do
    grep -o '](\([a-z]*\.md\)*#[A-Za-z0-9_]*)' "$file" | sed 's/^](//; s/)$//' | sort -u | while IFS='#' read -r page anchor; do
        target=docs/api/${page:-$(basename "$file")}
        grep -q "<a id=\"$anchor\"></a>" "$target" || echo "$file: $page#$anchor"
    done
done >"$tmp/links"
empty "links to names that are not there" "$tmp/links"
$CC -DDQT_EXPERIMENTAL -E -P include/dqt.h | tr '\n' ' ' | grep -o '(visibility("default"))) [^;(]*(' | sed 's/.*[ *]\(dqt_[a-z0-9_]*\) *($/\1/' |
    sort >"$tmp/header"
sed -n '/^## Functions/,/^## Types/s/^- \[`\(dqt_[a-z0-9_]*\)`\].*/\1/p' docs/api/README.md | sort >"$tmp/index"
check "the index lists every function" cmp "$tmp/header" "$tmp/index"
without_comments <include/dqt.h | tr '{,' '\n\n' | sed -n 's/^ *\(DQT_[A-Z0-9_]*\) *= .*/\1/p' >"$tmp/names"
without_comments <include/dqt.h | sed -n 's/^} \(dqt_[a-z_]*\);/\1/p; s/^typedef struct \(dqt_[a-z_]*\) dqt_.*;/\1/p' >>"$tmp/names"
check "there are types and enumerators" test "$(wc -l <"$tmp/names")" -gt 100
while read -r symbol; do
    cat docs/api/*.md | grep -q "<a id=\"$symbol\"></a>" || echo "$symbol"
done <"$tmp/names" >"$tmp/missing"
empty "types and enumerators that no page has" "$tmp/missing"

# stale WHAT SED: the pages of the header changed by a sed program are others.
stale() {
    sed "$2" include/dqt.h >"$tmp/changed.h"
    cmp -s include/dqt.h "$tmp/changed.h" && fail "$1: the header did not change"
    check "$1 is found" refused python3 tools/api_docs.py --check --header "$tmp/changed.h"
}
stale "another comment" 's/Version of the linked library/The version of the library/'
stale "another argument" 's/size_t rows, size_t cols,/size_t rows, size_t columns,/'
stale "another field" 's/float init_std; /double init_std;/'
cp -r docs/api "$tmp/api"
echo more >"$tmp/api/more.md"
check "a page of no section is found" refused python3 tools/api_docs.py --check --out "$tmp/api"
sed 's|^/\* Describes a layer;.*||' include/dqt.h >"$tmp/bare.h"
check "a function without a comment is found" refused python3 tools/api_docs.py --header "$tmp/bare.h" --out "$tmp/bare"
finish
