#!/bin/sh
# Runs test programs and scripts and adds up their "NAME: N passed, N failed, N skipped" lines. The last line is the sum; before
# it are the slowest, with the seconds that each took.
# Exit status 1 for any failure, or for any skip when DQT_REQUIRE_ALL is 1.
# RUN: an emulator to run programs with. JOBS: so many at a time (1), in the order given. Those after a + share files, so they run
# one after another, as one of the JOBS. A test that this CPU cannot run says "skipped: this CPU ..."; it is counted, and never a
# failure.
# usage: tests/run.sh PROGRAM ... [+ PROGRAM ...]
passed=0 failed=0 skipped=0 excused=0
jobs=${JOBS:-1}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export RUN
# one WORK NUMBER PROGRAM: its output, seconds and status go to files; the status comes last.
one='start=$(date +%s)
case $2 in *.sh) "$2" ;; *) ${RUN:-} "$2" ;; esac >"$0/$1.out" 2>&1
echo $? >"$0/$1.tmp"
echo "$(($(date +%s) - start)) $(basename "$2")" >"$0/$1.seconds"
mv "$0/$1.tmp" "$0/$1.status"'
: >"$work/list"
: >"$work/lane"
number=0 list=list
for program in "$@"; do
    if [ "$program" = + ]; then
        list=lane
        continue
    fi
    number=$((number + 1))
    printf '%s\n%s\n' "$number" "$program" >>"$work/$list"
done
workers=
if [ "$jobs" -gt 1 ]; then
    if [ -s "$work/lane" ]; then
        xargs -n 2 sh -c "$one" "$work" <"$work/lane" &
        workers=$!
        jobs=$((jobs - 1))
    fi
    xargs -n 2 -P "$jobs" sh -c "$one" "$work" <"$work/list" &
    workers="$workers $!"
fi
# working: one of the workers is there.
working() {
    for worker in $workers; do
        if kill -0 "$worker" 2>/dev/null; then return 0; fi
    done
    return 1
}
number=0
for program in "$@"; do
    if [ "$program" = + ]; then continue; fi
    number=$((number + 1))
    if [ -n "$workers" ]; then
        while [ ! -f "$work/$number.status" ] && working; do sleep 1; done
    else
        sh -c "$one" "$work" "$number" "$program"
    fi
    status=$(cat "$work/$number.status" || echo 1)
    output=$(tr -d '\r' <"$work/$number.out")
    line=$(printf '%s\n' "$output" | tail -n 1)
    counts=$(printf '%s\n' "$line" | sed -n 's/^.*: \([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p')
    if [ -z "$counts" ]; then
        printf '%s\n' "$output"
        echo "$program: ended with status $status without a summary"
        failed=$((failed + 1))
        continue
    fi
    set -- $counts
    excused=$((excused + $(printf '%s\n' "$output" | grep -c 'skipped: this CPU')))
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
    if [ "$2" -gt 0 ] || [ "$3" -gt 0 ] || [ "$status" -ne 0 ]; then printf '%s\n' "$output"; else printf '%s\n' "$line"; fi
    if [ "$status" -ne 0 ] && [ "$2" -eq 0 ]; then failed=$((failed + 1)); fi
done
slowest=$(cat "$work"/*.seconds | sort -rn | head -n 8 | awk '$1 > 0 { printf "%s%s %d s", (NR > 1 ? ", " : ""), $2, $1 }')
echo
if [ -n "$slowest" ]; then echo "slowest: $slowest"; fi
echo "$passed passed, $failed failed, $skipped skipped"
if [ "$failed" -gt 0 ]; then exit 1; fi
if [ "${DQT_REQUIRE_ALL:-0}" = 1 ] && [ "$skipped" -gt "$excused" ]; then exit 1; fi
exit 0
