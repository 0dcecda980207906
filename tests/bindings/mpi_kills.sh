#!/bin/sh
# kill -9 of one rank of three, KILLS times (5), while a run trains and saves after every step, in turn at a random time and while the
# checkpoint is written: each time all ranks end, the checkpoint is whole, and the run goes on from the step that was saved last; in the end it has the bits of a run that nothing
# happened to. SEED: of times and ranks.
. "$(dirname "$0")/common"
. "$(dirname "$0")/mpi_common"
KILLS=${KILLS:-5} SEED=${SEED:-1}
options="--data include/dqt.h --hidden 192 --ff 512 --layers 3 --batch 3 --seq 16 --steps 1000000 --warmup 10 --eval-windows 3
    --eval-every 0 --threads 1 --embedding int8 --head int8"

# last TEXT: the number in the last line of the program's output that has it.
last() {
    tr '\r' '\n' <"$tmp/out" | sed -n "s/.*$1.*/\1/p" | tail -n 1
}

# while_saving: waits until the checkpoint is being written.
while_saving() {
    polls=0
    until [ -e "${1:-}" ] || [ $polls -gt 1000000 ]; do
        polls=$((polls + 1))
        set -- "$tmp"/run/.dqt-*.tmp
    done
}

awk -v n="$KILLS" -v seed="$SEED" 'BEGIN { srand(seed); for (i = 0; i < n; i++) print int(3 * rand()), 0.6 * rand() }' >"$tmp/plan"
saved=0 killed=0 in_save=0 resume=
while read -r victim delay; do
    timeout 120 $MPIRUN $mpi_options -n 3 "$tmp/03_train" --out "$tmp/run" $options --save-every 1 $resume >"$tmp/out" 2>&1 </dev/null &
    pid=$!
    for _ in $(seq 1200); do
        grep -qs 'saved' "$tmp/out" && break
        sleep 0.05
    done
    if ! grep -q 'saved' "$tmp/out"; then
        cat "$tmp/out"
        fail "kill $killed: the run does not go on"
        break
    fi
    from=$(last 'going on from step \([0-9]*\)')
    if [ -n "$resume" ]; then
        check "kill $killed: from step ${from:-none}, $saved was saved" test "${from:--1}" -ge "$saved" -a "${from:--1}" -le $((saved + 1))
    fi
    if [ $((killed % 2)) -eq 0 ]; then sleep "$delay"; else while_saving; fi
    mpirun=$(cat /proc/$pid/task/$pid/children)
    set -- $(cat /proc/${mpirun% }/task/${mpirun% }/children)
    shift "$victim"
    kill -9 "$1" && killed=$((killed + 1))
    wait $pid
    status=$?
    check "kill $killed: the others end too, with a failure" test $status -ne 0 -a $status -ne 124
    saved=$(last 'step \([0-9]*\): saved')
    in_save=$((in_save + $(find "$tmp/run" -name '.dqt-*.tmp' | wc -l)))
    resume=--resume
done <"$tmp/plan"
check "every rank that was to be killed was" test $killed -eq "$KILLS"
end=$((saved + 3))
check "the run ends" mpi 3 "$tmp/03_train" --out "$tmp/run" $options --resume --stop-at $end
check "a run that nothing happens to" mpi 3 "$tmp/03_train" --out "$tmp/whole" $options --stop-at $end
if [ "$KILLS" -gt 3 ]; then check "some were killed while the checkpoint was written" test $in_save -gt 0; fi
check "both have the same checkpoint" cmp "$tmp/run/model.dqt" "$tmp/whole/model.dqt"
check "no file of a killed rank is left" test -z "$(find "$tmp/run" -name '.dqt-*.tmp')"
echo "$name: $killed ranks killed in $end steps, $in_save of them while the checkpoint was written"
finish
