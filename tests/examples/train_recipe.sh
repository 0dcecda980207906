#!/bin/sh
# 03_train without options of the rule is the row of examples/results.list that its recipe names, byte for byte; what is said wins.
. "$(dirname "$0")/../tree/common"
export LD_LIBRARY_PATH="$OUTDIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" OMP_WAIT_POLICY=passive
train=$B/examples/03_train
small="--data README.md --hidden 32 --ff 64 --layers 1 --heads 2 --seq 16 --batch 4 --steps 40 --stop-at 12 --eval-every 0 --eval-windows 2 --threads 1"

# same NAME ROW RECIPE...: the options RECIPE train the same as results.list's ROW with a twentieth of the steps as warm-up.
same() {
    same_name=$1 row=$2
    shift 2
    options=$(sed -n "s/^$row | //p" examples/results.list)
    [ -n "$options" ] || fail "no row $row"
    check "by the recipe: $same_name" $train $small --out "$tmp/recipe" "$@"
    cp "$tmp/check.out" "$tmp/said"
    # shellcheck disable=SC2086
    check "by the row $row" $train $small --out "$tmp/row" --recipe none --warmup 2 $options
    check "$same_name: the same bytes" cmp "$tmp/recipe/model.dqt" "$tmp/row/model.dqt"
    rm -rf "$tmp/recipe" "$tmp/row"
}
same "no format: ternary" ternary-acc-s1
check "the recipe is told" grep -q '^recipe ternary-acc, learning rate 0.012$' "$tmp/said"
same int2 dqt2-eco --format int2
same int3 dqt3-best-s1 --format int3
same int4 dqt4-best-s1 --format int4
same int8 dqt8-sigma-s1 --format int8
same "int8 in two bytes" dqt8-one-byte --format int8 --state-bytes 2
same f32 f32-tuned-s1 --format f32

# The rate falls with the width above 256 (dqt_preset_get).
check "512 wide" $train $small --hidden 512 --stop-at 1 --out "$tmp/wide"
cp "$tmp/check.out" "$tmp/said"
check "half the rate" grep -q '^recipe ternary-acc, learning rate 0.006$' "$tmp/said"

# What is said stands, whatever the recipe says.
check "one option of one's own" $train $small --out "$tmp/recipe" --format int4 --lr 1e-3 --warmup 7
check "the same by hand" $train $small --out "$tmp/row" --recipe none --format int4 --rounding eco --beta1 0.8 --optimizer adafactor \
    --momentum-state int8 --decay 0.3 --linear-init-std 0.08 --lr 1e-3 --warmup 7
check "options over the recipe" cmp "$tmp/recipe/model.dqt" "$tmp/row/model.dqt"

# Without a recipe the rounding is what the optimiser can: MUON has no ECO, and without a first moment nothing has.
check "MUON without a rounding" $train $small --out "$tmp/muon" --recipe none --optimizer muon
check "MUON, stochastic" $train $small --out "$tmp/stochastic" --recipe none --optimizer muon --rounding sr
cut -d, -f1-3,5- "$tmp/muon/log.csv" >"$tmp/muon.csv" # but seconds; the files' rules differ for embedding and head
check "MUON's rounding is stochastic" sh -c "cut -d, -f1-3,5- '$tmp/stochastic/log.csv' | cmp - '$tmp/muon.csv'"
check "no first moment and no rounding" $train $small --out "$tmp/free" --recipe none --beta1 0
check "AdamW without a rounding" $train $small --out "$tmp/adamw" --recipe none
check "AdamW, ECO" $train $small --out "$tmp/eco" --recipe none --rounding eco
check "AdamW's rounding is ECO" cmp "$tmp/adamw/model.dqt" "$tmp/eco/model.dqt"

# A format that no recipe names takes that of its kind.
check "int5" $train $small --out "$tmp/int5" --format int5
cp "$tmp/check.out" "$tmp/said"
check "as int4" grep -q '^recipe dqt4-best' "$tmp/said"
check "bf16" $train $small --out "$tmp/bf16" --format bf16
cp "$tmp/check.out" "$tmp/said"
check "as f32" grep -q '^recipe f32-tuned' "$tmp/said"
if $train $small --out "$tmp/none" --format int4 --state-bytes 0.5 >"$tmp/out" 2>&1; then
    fail "half a byte for 4 bits and their state"
else
    check "it is said why" grep -q 'no recipe for .* fits 0.5 bytes a weight' "$tmp/out"
fi
finish
