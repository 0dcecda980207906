#!/bin/sh
# Runs test programs and scripts and adds up their "NAME: N passed, N failed, N skipped" lines. The last line is the sum.
# Exit status 1 for any failure, or for any skip when DQT_REQUIRE_ALL is 1.
# RUN: an emulator to run programs with. JOBS: so many at a time (1), in the order given. A test that this CPU cannot run
# says "skipped: this CPU ..."; it is counted, and never a failure.
# usage: tests/run.sh PROGRAM ...
passed=0 failed=0 skipped=0 excused=0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export RUN
# one WORK NUMBER PROGRAM: its output and status go to files; the status comes last.
one='case $2 in *.sh) "$2" ;; *) ${RUN:-} "$2" ;; esac >"$0/$1.out" 2>&1
echo $? >"$0/$1.tmp" && mv "$0/$1.tmp" "$0/$1.status"'
number=0
for program in "$@"; do
    number=$((number + 1))
    printf '%s\n%s\n' "$number" "$program"
done >"$work/list"
if [ "${JOBS:-1}" -gt 1 ]; then
    xargs -n 2 -P "$JOBS" sh -c "$one" "$work" <"$work/list" &
    workers=$!
fi
number=0
for program in "$@"; do
    number=$((number + 1))
    if [ "${JOBS:-1}" -gt 1 ]; then
        while [ ! -f "$work/$number.status" ] && kill -0 $workers 2>/dev/null; do sleep 1; done
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
echo
echo "$passed passed, $failed failed, $skipped skipped"
if [ "$failed" -gt 0 ]; then exit 1; fi
if [ "${DQT_REQUIRE_ALL:-0}" = 1 ] && [ "$skipped" -gt "$excused" ]; then exit 1; fi
exit 0
