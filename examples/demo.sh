#!/bin/sh
# The main job in three minutes (one, on two idle cores): trains a ternary model on this project's own documents and
# headers (or DATA=FILE), shows held-out bits per byte before and after, proves that saving and resuming changes nothing,
# prints a sample and exports the model for llama.cpp.
set -eu
out=${OUT:-build/demo}
mkdir -p "$out"
data=${DATA:-$out/text.txt}
# docs/api repeats dqt.h: it would be in the training text and in the held-out end of it.
if [ -z "${DATA:-}" ]; then
    find README.md docs include src examples tests -type f \( -name '*.md' -o -name '*.h' \) ! -path 'docs/api/*' |
        LC_ALL=C sort | xargs cat > "$data"
fi
length=256
options="--data $data --format ternary --lr 1e-2 --linear-lr 0.4 --tied --hidden 256 --ff 512 --layers 2 \
  --heads 4 --seq $length --batch 4"

echo "== Training: ternary weights, 2 bits each in memory =="
# shellcheck disable=SC2086
build/examples/03_train $options --out "$out/run" --steps 1500 --warmup 50 --eval-every 150 --eval-windows 64

echo
echo "== Saving and resuming: 20 steps at once against 10, saved, loaded, 10 more =="
short="$options --steps 20 --warmup 5 --eval-every 0 --eval-windows 8"
# shellcheck disable=SC2086
{
    build/examples/03_train $short --out "$out/whole" > /dev/null
    build/examples/03_train $short --out "$out/parts" --stop-at 10 > /dev/null
    build/examples/03_train $short --out "$out/parts" --resume > /dev/null
}
cmp "$out/whole/model.dqt" "$out/parts/model.dqt"
echo "the two checkpoints are the same, byte for byte"

echo
echo "== A sample from the trained model =="
# No longer than the sequences it learned from: positions beyond them are new to the model, and the text falls apart there.
prompt="The library "
build/examples/04_generate --model "$out/run/model.dqt" --prompt "$prompt" --tokens $((length - ${#prompt})) \
    --temperature 0.5 | tee "$out/sample.txt"
if [ "$(tr -d '[:space:]' < "$out/sample.txt" | wc -c)" -lt $((length / 2)) ]; then
    echo "the sample is mostly blanks" >&2
    exit 1
fi

echo
echo "== The same model as a GGUF file, 2.06 bits a weight =="
build/examples/09_export --model "$out/run/model.dqt" --gguf "$out/run/model.gguf"
