#!/bin/sh
# The snippets of docs/host-loop.md are those of tests/tree/host_loop.c, all of them and in its order; the program compiles
# without warnings and runs. UPDATE=1 puts the program's text into the page.
. "$(dirname "$0")/common"
program=tests/tree/host_loop.c
page=docs/host-loop.md

# "[name]" and the lines of each snippet: of the program, and of the page.
awk '/^\/\* \[end\] \*\/$/ { inside = 0; next }
    /^\/\* \[[a-z]+\] \*\/$/ { print $2; inside = 1; next }
    inside' "$program" >"$tmp/program"
if [ "${UPDATE:-0}" = 1 ]; then
    awk 'FNR == NR { if (/^\[[a-z]+\]$/) name = $0; else text[name] = text[name] $0 "\n"; next }
        /^```$/ && inside { inside = 0 }
        !inside
        /^<!-- \[[a-z]+\] -->$/ { name = $2 }
        /^```c$/ { printf "%s", text[name]; inside = 1 }' "$tmp/program" "$page" >"$tmp/page.md"
    cp "$tmp/page.md" "$page"
fi
awk '/^<!-- \[[a-z]+\] -->$/ { print $2 }
    /^```$/ { inside = 0 }
    inside
    /^```c$/ { inside = 1 }' "$page" >"$tmp/page"
check "there are snippets" test "$(grep -c '^\[' "$tmp/program")" -ge 12
diff "$tmp/page" "$tmp/program" >"$tmp/different"
empty "snippets of the page (<) that are not the program's (>)" "$tmp/different"

library=$(cd "$OUTDIR" && pwd)
check "it compiles" $CC -std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Werror \
    -Iinclude "$program" -L"$OUTDIR" -ldqt -lm -ldl -pthread -o "$tmp/host_loop"
check "it runs" sh -c "cd '$tmp' && OMP_WAIT_POLICY=passive LD_LIBRARY_PATH='$library' ./host_loop"
finish
