#!/bin/sh
# The program in README.md compiles without warnings and runs as it stands; files that the README names are there.
. "$(dirname "$0")/common"
if ! [ -f README.md ]; then
    skip "no README.md"
    finish
fi
awk '/^```c$/ && !done { inside = 1; next } /^```/ && inside { done = 1; inside = 0 } inside' README.md >"$tmp/host.c"
check "README.md has a program" grep -q 'int main' "$tmp/host.c"
check "it compiles" $CC -std=c11 -Wall -Wextra -Werror -Iinclude "$tmp/host.c" -L"$OUTDIR" -ldqt -o "$tmp/host"
check "it runs" sh -c "LD_LIBRARY_PATH=$OUTDIR '$tmp/host' >'$tmp/out'"
check "it prints a loss" grep -Eq '^loss [0-9.]+$' "$tmp/out"
# Bytes that follow each other are learnt: from ln 256 = 5.5 to below 5.
check "the loss has fallen" awk '{ exit !($2 > 0 && $2 < 5) }' "$tmp/out"

for file in README.md examples/README.md docs/*.md; do
    [ -f "$file" ] || continue
    grep -o '](\([^)#:]*\))' "$file" | sed 's/^](//; s/)$//' | while read -r target; do
        [ -e "$(dirname "$file")/$target" ] || echo "$file: $target"
    done
done >"$tmp/links"
empty "links to files that are not there" "$tmp/links"

# Names that documents give: files, from the root, src, tests or the document's own folder; and what dqt.h declares.
for file in *.md docs/*.md examples/README.md examples/*/README.md fuzz/README.md; do
    grep -oE '[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+\.(c|h|sh|py|hpp|cpp|list|map)([^A-Za-z0-9_]|$)' "$file" |
        sed 's/[^A-Za-z0-9_]$//' | sort -u | while read -r named; do
        for folder in . src tests "$(dirname "$file")"; do
            [ -e "$folder/$named" ] && continue 2
        done
        echo "$file: $named"
    done
    # Not environment variables, the version's placeholders, CMake's target, what is inside, and what is to come.
    sed '/^## What is to come/,/^## /d' "$file" | grep -oE '(^|[^A-Za-z0-9_])(dqt|DQT)_[A-Za-z0-9_]+' | sed 's/^[^dD]//' |
        grep -vxE 'DQT_(ASSERT|CHECKED|LIBRARY|LIB_DIR|OPENMP|MAJOR|1)|dqt_(static|noun_verb)' |
        sort -u | while read -r named; do
        grep -q "$named" include/dqt.h || echo "$file: $named"
    done
done >"$tmp/names"
empty "names of files and functions that are not there" "$tmp/names"

# Each stage of continuous integration is explained.
{ sed -n 's/^stage \([a-z-]*\) .*/\1/p' .ci/run && tests/platforms.sh --list; } >"$tmp/run"
check "there are stages" test "$(wc -l <"$tmp/run")" -ge 15
while read -r stage; do
    grep -qE "^\|([^|]* )?${stage}[, ]" CONTRIBUTING.md || echo "$stage"
done <"$tmp/run" >"$tmp/stages"
empty "stages of .ci/run that CONTRIBUTING.md does not have" "$tmp/stages"
finish
