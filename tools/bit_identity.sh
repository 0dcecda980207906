#!/bin/sh
# Compares this tree with another build of the project bit for bit: trains a small model with 03_train for each format x
# optimiser x rounding rule and more, under each instruction set, and compares checkpoints and printed losses.
#
#   tools/bit_identity.sh BASE [ISA ...]      BASE: a built checkout (git worktree add DIR e2ac776; make -C DIR)
#
# Without ISA: scalar and avx2. QUICK=1: one run per format. Prints what differs; exits 0 if nothing does.
cd "$(dirname "$0")/.." || exit 1
base=$1
shift
[ -x "$base/build/examples/03_train" ] || { echo "no built checkout in $base"; exit 2; }
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
data=$base/README.md
small="--hidden 64 --ff 160 --layers 2 --heads 2 --kv-heads 2 --seq 32 --batch 4 --steps 4 --warmup 1 --eval-every 0 --eval-windows 4 --threads 2"
compared=0 different=0 skipped=0

# What was changed on purpose since e2ac776, as patterns of the names below, one a line, each with its reason. These are
# not compared, only counted.
changed='
*int8 states    # 8-bit first moments keep the mean of m, not of its root
trained scales  # the same: it has an 8-bit first moment
'
changed=$(echo "$changed" | sed 's/ *#.*//; /^$/d')

changed_on_purpose() {
    echo "$changed" >"$out/changed"
    while read -r pattern; do
        # shellcheck disable=SC2254
        case $1 in
        $pattern) return 0 ;;
        esac
    done <"$out/changed"
    return 1
}

# Both checkpoints are written anew by this tree's library, which reads all versions of the format.
cat >"$out/resave.c" <<'END'
#include <dqt.h>
int main(int argc, char **argv) {
    dqt_context *ctx;
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    if (argc < 3 || dqt_context_create(0, &ctx) || dqt_llama_load(ctx, argv[1], 0, &c)) return 1;
    dqt_save_options o = DQT_INIT(dqt_save_options);
    o.host = c.host;
    o.host_size = c.host_size;
    return dqt_llama_save(c.model, c.updater, argv[2], &o) != DQT_OK;
}
END
${CC:-cc} -std=c11 -Iinclude "$out/resave.c" -Llib -ldqt -Wl,-rpath,"$PWD/lib" -o "$out/resave" || exit 2

# compare NAME OPTIONS...: the same options, both programs. Runs that both refuse count as equal if they say the same.
compare() {
    compare_name=$1
    shift
    if changed_on_purpose "$compare_name"; then
        skipped=$((skipped + 1))
        return
    fi
    # shellcheck disable=SC2086
    for tree in base new; do
        root=$base recipe=
        [ $tree = new ] && root=. recipe="--recipe none"
        rm -rf "${out:?}/$tree"
        mkdir "$out/$tree"
        DQT_ISA=$isa OMP_WAIT_POLICY=passive "$root/build/examples/03_train" --data "$data" --out "$out/$tree" $small $recipe "$@" \
            >"$out/$tree.log" 2>&1
        echo "status $?" >>"$out/$tree.log"
        cut -d, -f1-4 "$out/$tree"/*.csv >"$out/$tree.csv" 2>/dev/null
        grep -iE 'bits per byte|status|refus|error' "$out/$tree.log" | sed 's/, [0-9.]* s.*//; s/[0-9.]* tokens.*//' >"$out/$tree.losses"
    done
    compared=$((compared + 1))
    if [ -f "$out/base/model.dqt" ] || [ -f "$out/new/model.dqt" ]; then
        "$out/resave" "$out/base/model.dqt" "$out/base/again" && "$out/resave" "$out/new/model.dqt" "$out/new/again" &&
            cmp -s "$out/base/again" "$out/new/again" && cmp -s "$out/base.losses" "$out/new.losses" && return
    else
        cmp -s "$out/base.losses" "$out/new.losses" && return
    fi
    different=$((different + 1))
    echo "differs: $isa $compare_name"
}

# shellcheck disable=SC2048
for isa in ${*:-scalar avx2}; do
    for format in f32 bf16 int8 int4 int3 int2 ternary; do
        compare "$format" --format $format
        [ "$QUICK" = 1 ] && continue
        for optimizer in sgd adamw adafactor; do
            for rounding in sr nearest eco eco-nearest; do
                compare "$format $optimizer $rounding" --format $format --optimizer $optimizer --rounding $rounding
            done
            compare "$format $optimizer bf16 states" --format $format --optimizer $optimizer --momentum-state bf16 --variance-state bf16
            compare "$format $optimizer int8 states" --format $format --optimizer $optimizer --momentum-state int8 --variance-state int8
            compare "$format $optimizer no momentum" --format $format --optimizer $optimizer --beta1 0 --rounding sr
        done
        compare "$format row scales, fused" --format $format --row-scales --fused --clip previous
        compare "$format ternary compute" --format $format --compute ternary
        compare "$format embedding and head" --format $format --embedding $format --head $format --tied --recompute
        compare "$format low-precision environment" --format $format --gradients bf16 --checkpoints e4m3 --recompute --precision bf16
    done
    [ "$QUICK" = 1 ] && continue
    compare "trained scales" --format ternary --row-scales --train-scales --noise 0.3 --optimizer adafactor --momentum-state int8
    compare "squared ReLU" --mlp squared-relu --no-sub-norms --activation none --kv-heads 1
    compare "absmax, e5m2" --format int4 --scale absmax --gradients e5m2 --accumulate 2
done
echo "$compared compared, $different differ, $skipped changed on purpose"
[ $different -eq 0 ]
