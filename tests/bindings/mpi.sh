#!/bin/sh
# examples/mpi: the same weights from 1, 2 and 4 ranks, plain and sharded; resuming; mistakes. MPICC and MPIRUN may be set.
. "$(dirname "$0")/common"
MPICC=${MPICC:-mpicc} MPIRUN=${MPIRUN:-mpirun}
if ! have "${MPICC%% *}" || ! have "${MPIRUN%% *}"; then
    skip "no $MPICC or no $MPIRUN"
    finish
fi
# More ranks than cores: those that wait give way.
export OMPI_MCA_mpi_yield_when_idle=1
check "train builds" $MPICC -std=c11 -D_POSIX_C_SOURCE=200809L -O2 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror \
    -Iinclude -Iexamples/support examples/mpi/train.c examples/support/args.c examples/support/tokens.c -L"$OUTDIR" -ldqt -lm \
    -o "$tmp/mpi-train"

# ranks N OUT OPTIONS ...: a small run.
ranks() {
    n=$1 out=$2
    shift 2
    timeout 120 $MPIRUN -n "$n" --oversubscribe --allow-run-as-root "$tmp/mpi-train" --data include/dqt.h --out "$tmp/$out" \
        --hidden 64 --ff 160 --layers 2 --batch 1 --seq 32 --steps 6 --warmup 2 "$@" >"$tmp/$out.txt" 2>&1 && return
    cat "$tmp/$out.txt"
    return 1
}
run() {
    check "$2 runs" ranks "$@"
    check "$2: the replicas are equal" grep -q 'all replicas are equal' "$tmp/$2.txt"
}
# equal A B: weights of two runs.
equal() {
    check "$1 and $2 have the same weights" cmp "$tmp/$1/model.dqt" "$tmp/$2/model.dqt"
}
other() {
    check "$1 and $2 have different weights" sh -c "test -s '$tmp/$1/model.dqt' -a -s '$tmp/$2/model.dqt' && ! cmp -s '$tmp/$1/model.dqt' '$tmp/$2/model.dqt'"
}

# Any number of ranks, for each kind of state.
for kind in "adamw f32" "adafactor int8" "sgd bf16 --train-scales"; do
    set -- $kind
    options="--deterministic --optimizer $1 --state $2 $3"
    run 1 "$1-1" $options
    for n in 2 4; do
        run $n "$1-$n" $options
        run $n "$1-$n-sharded" $options --sharded
        equal "$1-1" "$1-$n"
        equal "$1-1" "$1-$n-sharded"
    done
done
check "the loss falls" awk '/^step/ { last = $4; if (!first) first = $4 } END { exit !(last < first - 0.1) }' "$tmp/adamw-4.txt"
run 2 seed --deterministic --seed 2
other adamw-1 seed

# Reductions by MPI: two numbers have one sum, so that two ranks must agree whatever the algorithm.
run 2 plain
run 2 sharded --sharded
equal plain sharded
run 2 scatter --scatter
equal plain scatter
run 2 factored --optimizer adafactor
run 2 factored-scatter --optimizer adafactor --scatter
equal factored factored-scatter
other plain factored
# The state of two ranks is a half each, but for column statistics and scratch.
check "a rank has its own state" awk '/with an updater of/ { n[FILENAME] = $(NF - 1) } END {
    exit !(n[ARGV[2]] > 0 && n[ARGV[2]] < 0.6 * n[ARGV[1]]) }' "$tmp/plain.txt" "$tmp/sharded.txt"
# Codes of a quarter of a byte (blocks) and of one (embedding and head), not four bytes; no weights at all where all update.
sed -n 's/^on the wire.* weights \([0-9]*\) (\([0-9]*\).*/\1 \2/p' "$tmp/sharded.txt" >"$tmp/wire"
check "few bytes of weights on the wire" awk '{ few = $1 > 0 && $2 >= 6 } END { exit !few }' "$tmp/wire"
check "no weights on the wire" grep -q '^on the wire.* weights 0;' "$tmp/plain.txt"

# Resuming, each rank from its own state.
for mode in "" --sharded; do
    run 2 "resumed$mode" $mode --stop-at 3
    other plain "resumed$mode"
    run 2 "resumed$mode" $mode --resume
    equal plain "resumed$mode"
done

check "micro-batches that cannot be shared are refused" sh -c "! timeout 60 $MPIRUN -n 2 --oversubscribe --allow-run-as-root \
    '$tmp/mpi-train' --data include/dqt.h --out '$tmp/mistake' --micro-batches 3 && ! [ -e '$tmp/mistake' ]"
if ! have pkg-config; then
    skip "no pkg-config: installation"
    finish
fi
run 2 in-tree --deterministic
installed
check "train builds against an installation" $MPICC -std=c11 -D_POSIX_C_SOURCE=200809L -O2 -Iexamples/support examples/mpi/train.c \
    examples/support/args.c examples/support/tokens.c $(pkg-config --cflags --libs dqt) -lm -o "$tmp/mpi-train"
run 2 installed --deterministic
equal in-tree installed
finish
