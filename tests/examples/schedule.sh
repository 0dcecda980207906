#!/bin/sh
# The learning rates of 03_train and 10_finetune, with --cooldown and without: by the formulas, in the log; and runs of other lengths that begin alike.
. "$(dirname "$0")/../tree/common"
export LD_LIBRARY_PATH="$OUTDIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" OMP_WAIT_POLICY=passive
small="--seq 16 --batch 4 --accumulate 1 --eval-every 0 --eval-windows 2 --threads 1 --format int4"
check "tokens" $B/examples/12_tokenize --tokenizer tests/examples/golden/gpt2.json --text README.md --out "$tmp/tokens.bin"

# train NAME ARGUMENT ... and tune NAME ARGUMENT ...: into $tmp/NAME.
train() {
    train_name=$1
    shift
    check "training: $train_name" $B/examples/03_train $small --data README.md --recipe none --hidden 32 --ff 64 --layers 1 --heads 2 \
        --out "$tmp/$train_name" "$@"
}
tune() {
    tune_name=$1
    shift
    check "fine-tuning: $tune_name" $B/examples/10_finetune $small --tokens "$tmp/tokens.bin" --model "$tmp/base/model.dqt" --out "$tmp/$tune_name" "$@"
}

# At a rate of almost nothing all runs have the same updates but for the rate, so the log's update_rms beside that of a constant rate is
# the rate: over 4 steps up, then down to a tenth. An update of step n has the rate at n - 1.
# rates PROGRAM CURVE FALL ARGUMENT ...: with the arguments the fall is as the formula FALL has it, 1 to 0.
rates() {
    program=$1 curve=$2 fall=$3
    shift 3
    $program "$curve" --steps 20 --rounding sr --lr 1e-12 --warmup 4 --final-lr 0.1 "$@"
    paste -d, "$tmp/$curve/log.csv" "$tmp/constant/log.csv" >"$tmp/both"
    check "$program: rates by the formula: $curve" awk -F, "
        \$1 + 0 > 0 { s = \$1 - 1; rate = s < 4 ? (s + 1) / 4 : 0.1 + 0.9 * ($fall); n++; if ((\$6 / \$14 / rate - 1) ^ 2 > 1e-9) exit 1 }
        END { exit n != 20 }" "$tmp/both"
}
# both PROGRAM
both() {
    $1 constant --steps 20 --rounding sr --lr 1e-12 --warmup 0 --final-lr 1
    rates $1 cosine "(1 + cos(3.14159265 * (s - 4) / 16)) / 2"
    rates $1 wsd "s < 12 ? 1 : 1 - (s - 12) / 8" --cooldown 0.4
}
both train
check "a model to tune" $B/examples/03_train $small --tokens "$tmp/tokens.bin" --recipe none --hidden 32 --ff 64 --layers 1 --heads 2 --steps 2 \
    --out "$tmp/base"
both tune

# Until the fall begins nothing depends on the length: a run that was stopped there can end at another.
train whole --lr 3e-3 --warmup 4 --steps 20 --cooldown 0.4
train other --lr 3e-3 --warmup 4 --steps 24 --cooldown 0.5 --stop-at 12
train other --lr 3e-3 --warmup 4 --steps 20 --cooldown 0.4 --resume
check "a shorter end" cmp "$tmp/whole/model.dqt" "$tmp/other/model.dqt"
finish
