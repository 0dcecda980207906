#!/bin/sh
# examples/results.list: every row trains, alone as in the list, and its figures are told; tools/results_rows.py chooses rows by name, goes on where
# it was stopped, and docs/results/summary.py draws what there is.
. "$(dirname "$0")/../tree/common"
export LD_LIBRARY_PATH="$OUTDIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" OMP_WAIT_POLICY=passive
compare=$B/examples/08_compare
small="--hidden 256 --ff 704 --layers 1 --heads 2 --seq 16 --batch 2 --steps 3 --warmup 1 --eval-every 2 --eval-windows 2"
text="--data README.md --valid CONTRIBUTING.md"
rows=$(grep -c '^[a-z].*|' examples/results.list)

# shellcheck disable=SC2086
check "every row trains" $compare $text --out "$tmp/all" $small --threads 1
set -- "$tmp"/all/*.done
if [ $# -eq "$rows" ] && [ "$rows" -gt 60 ]; then pass; else fail "$rows rows, $# have ended"; fi
check "a line of the table for each" [ "$(grep -c '^| [a-z0-9-]* | [0-9]' "$tmp/all/table.md")" -eq "$rows" ]
check "no name twice" [ "$(sed -n 's/^\([a-z][^ |]*\) |.*/\1/p' examples/results.list | sort -u | wc -l)" -eq "$rows" ]
check "no row is another's double" [ "$(sed -n 's/^[a-z][^|]*|//p' examples/results.list | sort -u | wc -l)" -eq "$rows" ]

check "one run" $compare $text --out "$tmp/one" $small --threads 1 --only dqt4-best-group32-s2
check "the same as among the others" cmp "$tmp/one/dqt4-best-group32-s2.done" "$tmp/all/dqt4-best-group32-s2.done"
check "nothing beside it" [ "$(ls "$tmp/one" | wc -l)" -eq 2 ]
if $compare $text --out "$tmp/one" $small --only dqt5 >"$tmp/said" 2>&1; then fail "a run that there is not"; else
    check "it is said" grep -q 'has no run dqt5' "$tmp/said"
fi

# Codes of 8 bits are read as ternary in the end, trained scales of groups too, which their copy keeps as fp16.
echo 'groups | --format int8 --group 32 --train-scales' >"$tmp/list"
check "trained scales of groups" $compare --list "$tmp/list" $text --out "$tmp/groups" $small --threads 1
check "are read as ternary" grep -q '^| groups | [0-9.]* | [0-9.]* | ' "$tmp/groups/table.md"

if ! have python3 || ! have taskset; then
    skip "no python3 or taskset"
    finish
fi
cpu=$(python3 -c 'import os; print(min(os.sched_getaffinity(0)))')
# shellcheck disable=SC2086
chosen() {
    python3 tools/results_rows.py $text --program "$compare" --out "$tmp/some" --threads 1 --cpus "$cpu" "$@" -- $small >"$tmp/said" 2>&1
}
check "rows by name and by pattern" chosen f32-tuned-s2 'dqt3-best-*'
check "in that order" grep -q '^4 runs, 1 at a time: f32-tuned-s2 dqt3-best-s1 dqt3-best-s2 dqt3-best-s3$' "$tmp/said"
check "the same figures" cmp "$tmp/some/dqt3-best-s3.done" "$tmp/all/dqt3-best-s3.done"
check "once more" chosen f32-tuned-s2 'dqt3-best-*'
check "nothing is left" grep -q '^0 runs' "$tmp/said"
if chosen 'dqt5-*'; then fail "a pattern of nothing"; else pass; fi

summary() {
    python3 docs/results/summary.py --results "$tmp/all" --out "$tmp/summary.svg" --highest 20 >"$tmp/points"
}
check "the summary" summary
check "a point for each rule" [ "$(grep -c '<circle[^>]*r="4.5"' "$tmp/summary.svg")" -ge "$(grep -c '^| library |' "$tmp/points")" ]
check "seeds are one point" grep -q '^| library | ternary-acc-int8-backward | 1.3[0-9] | 3 | ' "$tmp/points"
mean=$(awk '{ s += $1 } END { printf "%.4f", s / NR }' "$tmp"/all/dqt4-acc-s[123].done)
check "the mean of three, $mean" grep -q "^| library | dqt4-acc | 1.5[0-9] | 3 | $mean | " "$tmp/points"
check "it is well formed" python3 -c "import xml.dom.minidom; xml.dom.minidom.parse('$tmp/summary.svg')"
finish
