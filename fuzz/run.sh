#!/bin/sh
# Runs a fuzz target on its committed inputs for so many seconds; what it finds on the way is kept for the next time.
# usage: fuzz/run.sh TARGET CORPUS FOUND SECONDS
target=$1 corpus=$2 found=$3 seconds=$4
name=$(basename "$target")
mkdir -p "$found/$name" "$found/artifacts" "$corpus" || exit 1
log=$found/$name.log
"$target" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -entropic=0 \
    -artifact_prefix="$found/artifacts/$name-" "$found/$name" "$corpus" >"$log" 2>&1
status=$?
if [ $status -ne 0 ]; then
    tail -n 60 "$log"
    echo "$name: failed; the input is in $found/artifacts"
    exit 1
fi
covered=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
echo "$name: $runs inputs in $seconds s, $covered edges covered, nothing found"
grep "^$name:" "$log" # what the target itself counts
exit 0
