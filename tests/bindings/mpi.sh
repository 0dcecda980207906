#!/bin/sh
# examples/mpi: what ranks exchange, and 03_train and 10_finetune over 1, 2 and 3 of them: the same bits on all, bytes on the
# wire, one checkpoint for any number of ranks, interrupts, mistakes. mpi_kills.sh kills. MPICC and MPIRUN may be set.
. "$(dirname "$0")/common"
. "$(dirname "$0")/mpi_common"

check "check_mpi.c builds" $MPICC $strict -Iexamples/mpi tests/bindings/check_mpi.c examples/mpi/wire.c examples/mpi/exchange.c \
    -L"$OUTDIR" -ldqt -lm -o "$tmp/check_mpi"
for n in 1 2 3; do
    check "check_mpi on $n ranks" mpi $n "$tmp/check_mpi"
done

# ranks N OUT OPTIONS ...: a small run, into $tmp/OUT and $tmp/OUT.txt.
ranks() {
    n=$1 out=$2
    shift 2
    mpi "$n" "$tmp/03_train" --data include/dqt.h --out "$tmp/$out" $model "$@" >"$tmp/$out.txt" 2>&1 && return
    cat "$tmp/$out.txt"
    return 1
}
run() {
    check "$2 runs" ranks "$@"
    if [ "$1" -gt 1 ]; then check "$2: the ranks are equal" grep -q 'all ranks have the same weights' "$tmp/$2.txt"; fi
}
equal() {
    check "$1 and $2 have the same checkpoint" cmp "$tmp/$1/model.dqt" "$tmp/$2/model.dqt"
}
other() {
    check "$1 and $2 have different checkpoints" sh -c "test -s '$tmp/$1/model.dqt' -a -s '$tmp/$2/model.dqt' && ! cmp -s '$tmp/$1/model.dqt' '$tmp/$2/model.dqt'"
}
# at_most OUT GRADIENTS ALL: percents of an f32 all-reduce's bytes.
at_most() {
    sed -n 's/.*a step sends.*: \([0-9.]*\) % of that for gradients, \([0-9.]*\) % for all.*/\1 \2/p' "$tmp/$1.txt" >"$tmp/percents"
    check "$1: at most $2 % of the bytes for gradients, $3 % for all" awk -v gradients="$2" -v all="$3" '{
        good = $1 > 0 && $1 <= gradients && $2 > $1 && $2 <= all } END { exit !good }' "$tmp/percents"
}
# held_out OUT: after training.
held_out() {
    tr '\r' '\n' <"$tmp/$1.txt" | sed -n 's/.*after training: //p'
}
near() {
    check "$1 has learnt what $2 has" awk -v a="$(held_out "$1")" -v b="$(held_out "$2")" 'BEGIN {
        exit !(a > 0 && b > 0 && a < 7.5 && a - b < 0.03 * b && b - a < 0.03 * b) }'
}

# A rank alone is the program without MPI.
model="--hidden 64 --ff 160 --layers 2 --batch 6 --seq 32 --steps 16 --warmup 2 --eval-windows 6 --eval-every 0 --threads 1
    --embedding int8 --head int8"
check "the plain program" "$B/examples/03_train" --data include/dqt.h --out "$tmp/plain" $model
run 1 one
equal plain one

# Bytes: INT8 gradients and codes are at most a quarter of an f32 all-reduce's, BF16's a third; floats are a half, for each rank
# gets the sums of its own rows only.
for n in 2 3; do
    run $n f32-$n --wire f32
    run $n bf16-$n --wire bf16
    run $n int8-$n
    at_most f32-$n 50 60
    at_most bf16-$n 25 33.3
    at_most int8-$n 13.4 25
    for wire in f32 bf16 int8; do near $wire-$n one; done
    other bf16-$n int8-$n
done
run 3 int8-3-again
equal int8-3 int8-3-again

# Embedding and head as floats, which the recipe says: what changed of them is sent as INT8.
codes=$model model=${model%--embedding*}
run 1 one-floats
for n in 2 3; do
    run $n bf16-$n-floats --wire bf16
    run $n int8-$n-floats
    at_most bf16-$n-floats 25 33.3
    at_most int8-$n-floats 13.4 25
    for wire in bf16 int8; do near $wire-$n-floats one-floats; done
done
run 2 int8-2-first --stop-at 6
run 2 int8-2-first --resume
equal int8-2-floats int8-2-first
model=$codes

# One checkpoint: another number of ranks takes it up and writes it again, byte for byte; as many ranks go on as if nothing had been.
for kind in "adamw" "adafactor --optimizer adafactor --momentum-state int8" "sgd --optimizer sgd --train-scales --accumulate 2" \
    "fused --fused --optimizer adafactor"; do
    rule=${kind%% *} kind=$(echo "$kind" | cut -s -d' ' -f2-)
    run 2 "$rule-whole" $kind
    run 2 "$rule" $kind --stop-at 6
    cp -r "$tmp/$rule" "$tmp/$rule-first"
    run 2 "$rule" $kind --resume
    equal "$rule-whole" "$rule"
    for n in 3 1; do
        run $n "$rule-first" $kind --resume --stop-at 6
        check "$rule on $n ranks: taken up" grep -q 'going on from step 6' "$tmp/$rule-first.txt"
    done
    run 2 "$rule-first" $kind --resume
    equal "$rule-whole" "$rule-first"
done
# The update inside backward: one gradient buffer and one message at a time, in place of those of all parameters; the same bytes.
check "the plain program, fused" "$B/examples/03_train" --data include/dqt.h --out "$tmp/plain-fused" $model --fused
run 1 one-fused --fused
equal plain-fused one-fused
at_most fused-whole 13.4 25
near fused-whole one-fused
run 2 buffers --optimizer adafactor
mebibytes() {
    tr '\r' '\n' <"$tmp/$1.txt" | sed -n 's/.* \([0-9.]*\) MiB.*/\1/p' | tail -n 1
}
check "no rank has all gradients" awk -v fused="$(mebibytes fused-whole)" -v buffers="$(mebibytes buffers)" 'BEGIN {
    exit !(fused > 0 && fused < buffers - 0.3) }' # 0.48 MiB are all gradients, 0.06 the largest
run 2 chain --stop-at 5
run 3 chain --resume --stop-at 10
run 1 chain --resume
near chain one

# Ctrl-C, as mpirun passes it on, and SIGUSR1: saved at once; with SIGUSR1 mpirun reports no failure.
for signal in INT USR1; do
    endless=$(echo "$model" | sed 's/--steps 16/--steps 100000/')
    $MPIRUN $mpi_options -n 2 "$tmp/03_train" --data include/dqt.h --out "$tmp/$signal" $endless --save-every 1 >"$tmp/$signal.txt" 2>&1 &
    pid=$!
    for _ in $(seq 300); do
        grep -qs 'step 3: saved' "$tmp/$signal.txt" && break
        sleep 0.1
    done
    kill -$signal $pid
    wait $pid
    check "$signal: interrupted and saved" grep -q 'interrupted at step .*: saved' "$tmp/$signal.txt"
    step=$(tr '\r' '\n' <"$tmp/$signal.txt" | sed -n 's/^interrupted at step \([0-9]*\).*/\1/p')
    check "$signal: a rank alone takes it up" ranks 1 "$signal" --resume --steps 100000 --stop-at $((step + 1))
    check "$signal: where it was saved" grep -q "going on from step $step\$" "$tmp/$signal.txt"
done

# 10_finetune: 2 ranks, resumed by 3 and ended by one alone; rank 0 exports. Two passes a step, and updates inside backward.
golden=tests/examples/golden
check "tokens" "$B/examples/12_tokenize" --tokenizer $golden/gpt2.json --text $golden/strings.txt --out "$tmp/data.bin"
check "a model to tune" "$B/examples/03_train" --tokens "$tmp/data.bin" --vocab 700 --out "$tmp/base" --format f32 --no-sub-norms --tied \
    --hidden 64 --ff 96 --layers 2 --seq 16 --batch 2 --steps 4 --warmup 1 --eval-every 0 --eval-windows 2 --threads 1 --recipe none
mkdir "$tmp/base/hf"
check "as safetensors" "$B/examples/09_export" --model "$tmp/base/model.dqt" --safetensors "$tmp/base/hf/model.safetensors"
cat >"$tmp/base/hf/config.json" <<'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 700, "hidden_size": 64,
 "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "max_position_embeddings": 256}
END
# tune RANKS OPTIONS ...
tune() {
    n=$1
    shift
    check "10_finetune on $n ranks" mpi "$n" "$tmp/10_finetune" --model "$tmp/base/hf" --tokens "$tmp/data.bin" --out "$tmp/tuned" --batch 3 \
        --seq 16 --steps 9 --eval-windows 3 --threads 1 "$@"
}
for passes in 2 1; do
    rm -rf "$tmp/tuned"
    tune 2 --accumulate $passes --stop-at 3
    check "nothing is exported before the end" test ! -e "$tmp/tuned/model.safetensors"
    tune 3 --accumulate $passes --stop-at 6 --resume
    tune 1 --accumulate $passes --resume
    check "the tuned model is exported" test -s "$tmp/tuned/model.safetensors" -a -s "$tmp/tuned/config.json"
done

check "sequences that cannot be shared are refused" sh -c "! timeout 60 $MPIRUN $mpi_options -n 3 '$tmp/03_train' \
    --data include/dqt.h --out '$tmp/mistake' --batch 2 && ! [ -e '$tmp/mistake' ]"

check "ranks with other options are refused" sh -c "timeout 60 $MPIRUN $mpi_options -n 1 '$tmp/03_train' --data include/dqt.h --out '$tmp/mistake' \
    : -n 1 '$tmp/03_train' --data include/dqt.h --out '$tmp/mistake' --wire bf16 2>&1 | grep -q 'need the same options' && ! [ -e '$tmp/mistake' ]"

if ! have pkg-config; then
    skip "no pkg-config: installation"
    finish
fi
installed
check "03_train builds against an installation" $MPICC -std=c11 -D_POSIX_C_SOURCE=200809L -O2 -Iexamples/support examples/03_train.c \
    examples/mpi/*.c $support $(pkg-config --cflags --libs dqt) -lm -o "$tmp/03_train"
run 2 int8-2-installed
equal int8-2 int8-2-installed
finish
