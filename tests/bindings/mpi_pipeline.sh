#!/bin/sh
# examples/mpi/pipeline: 1 to 4 ranks have the bits of one, in every file; resuming on others; memory of a rank; mistakes; a whole
# model's program reads the file. MPICC and MPIRUN may be set.
. "$(dirname "$0")/common"
MPICC=${MPICC:-mpicc} MPIRUN=${MPIRUN:-mpirun}
if ! have "${MPICC%% *}" || ! have "${MPIRUN%% *}"; then
    skip "no $MPICC or no $MPIRUN"
    finish
fi
# More ranks than cores: those that wait give way.
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_backing_directory="$tmp"
check "pipeline builds" $MPICC -std=c11 -D_POSIX_C_SOURCE=200809L -O2 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror \
    -Iinclude -Iexamples/support examples/mpi/pipeline/pipeline.c examples/support/args.c examples/support/tokens.c -L"$OUTDIR" -ldqt -lm \
    -o "$tmp/pipeline"

# ranks N OUT OPTIONS ...: a small run of 6 blocks, into $tmp/OUT and $tmp/OUT.txt.
ranks() {
    n=$1 out=$2
    shift 2
    timeout 120 $MPIRUN -n "$n" --oversubscribe --allow-run-as-root "$tmp/pipeline" --data include/dqt.h --out "$tmp/$out" --layers 6 \
        --hidden 64 --ff 160 --batch 1 --seq 32 --micro-batches 5 --steps 6 --warmup 2 "$@" >"$tmp/$out.txt" 2>&1 && return
    cat "$tmp/$out.txt"
    return 1
}
run() {
    check "$2 runs" ranks "$@"
}
equal() {
    check "$1 and $2 have the same checkpoint" cmp "$tmp/$1/model.dqt" "$tmp/$2/model.dqt"
    check "$1 and $2 print the same losses" sh -c "grep '^step' '$tmp/$1.txt' >'$tmp/a' && grep '^step' '$tmp/$2.txt' | cmp - '$tmp/a'"
}
other() {
    check "$1 and $2 have different checkpoints" sh -c "test -s '$tmp/$1/model.dqt' -a -s '$tmp/$2/model.dqt' && ! cmp -s '$tmp/$1/model.dqt' '$tmp/$2/model.dqt'"
}

# Any number of ranks. INT8: random numbers of backward are by the number of its pass.
for kind in "adamw f32 f32" "adafactor int8 int8" "sgd bf16 f32"; do
    set -- $kind
    options="--optimizer $1 --state $2 --precision $3"
    run 1 "$1-1" $options
    for n in 2 3 4; do
        run $n "$1-$n" $options
        equal "$1-1" "$1-$n"
    done
done
run 3 uneven --optimizer adamw --state f32 --precision f32 --blocks 1,4,1
equal adamw-1 uneven
run 2 few --micro-batches 1
run 4 few-4 --micro-batches 1
equal few few-4
other few adamw-1
check "the loss falls" awk '/^step/ { last = $4; if (!first) first = $4 } END { exit !(last < first - 0.3) }' "$tmp/adamw-4.txt"

# A rank has the memory of its blocks, so half of them less than 60 % of the whole's.
check "memory is of the blocks" awk '/^rank/ { n[FILENAME, $2] = $(NF - 1) } END {
    whole = n[ARGV[1], "0:"]; exit !(whole > 0 && n[ARGV[2], "0:"] < 0.6 * whole && n[ARGV[2], "1:"] < 0.6 * whole) }' \
    "$tmp/adamw-1.txt" "$tmp/adamw-2.txt"

# Another number of ranks goes on, and so would one process.
run 4 resumed --optimizer adafactor --state int8 --precision int8 --stop-at 2
other adafactor-1 resumed
run 2 resumed --optimizer adafactor --state int8 --precision int8 --stop-at 4 --resume --save-every 1
run 3 resumed --optimizer adafactor --state int8 --precision int8 --resume
check "resumed and adafactor-1 have the same checkpoint" cmp "$tmp/resumed/model.dqt" "$tmp/adafactor-1/model.dqt"

check "04_generate reads the file" sh -c "'$B/examples/04_generate' --model '$tmp/adamw-4/model.dqt' --prompt 'int ' --tokens 8 >'$tmp/text' && test -s '$tmp/text'"

refused() {
    check "$1" sh -c "! timeout 60 $MPIRUN -n 2 --oversubscribe --allow-run-as-root '$tmp/pipeline' --data include/dqt.h --out '$tmp/mistake' $2 \
        && ! [ -e '$tmp/mistake' ]"
}
refused "blocks that are too few are refused" "--layers 4 --blocks 1,2"
refused "blocks for another number of ranks are refused" "--layers 4 --blocks 1,2,1"
refused "more ranks than blocks are refused" "--layers 1"
refused "a file that is not there is refused" "--resume"
for other in "--layers 6 --hidden 32" "--layers 6 --hidden 128" "--layers 5 --hidden 64" "--layers 7 --hidden 64"; do
    check "resuming with $other is refused" sh -c "timeout 60 $MPIRUN -n 2 --oversubscribe --allow-run-as-root '$tmp/pipeline' --data include/dqt.h \
        --out '$tmp/adamw-4' $other --resume 2>&1 | grep -q 'another --hidden or --layers\|blocks'"
done
check "ranks with other options are refused" sh -c "timeout 60 $MPIRUN --oversubscribe --allow-run-as-root -n 1 '$tmp/pipeline' --data include/dqt.h \
    --out '$tmp/mistake' : -n 1 '$tmp/pipeline' --data include/dqt.h --out '$tmp/mistake' --micro-batches 6 2>&1 | grep -q 'need the same options'"
finish
