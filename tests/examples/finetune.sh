#!/bin/sh
# 10_finetune and 11_evaluate on a small model that 03_train and 09_export make: perplexities, formats, documents, resuming, mistakes.
. "$(dirname "$0")/../tree/common"
export LD_LIBRARY_PATH="$OUTDIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" OMP_WAIT_POLICY=passive
examples=$B/examples golden=tests/examples/golden

check "tokens" $examples/12_tokenize --tokenizer $golden/gpt2.json --text $golden/strings.txt --out "$tmp/data.bin"
check "other tokens" $examples/12_tokenize --tokenizer $golden/gpt2.json --text README.md --out "$tmp/other.bin"
check "a model" $examples/03_train --tokens "$tmp/data.bin" --out "$tmp/base" --format f32 --no-sub-norms --tied --hidden 64 --ff 96 \
    --layers 2 --heads 4 --kv-heads 2 --seq 32 --batch 4 --steps 400 --warmup 20 --eval-every 0 --eval-windows 4 --threads 1 --recipe none --lr 3e-3
mkdir "$tmp/model"
check "as safetensors" $examples/09_export --model "$tmp/base/model.dqt" --safetensors "$tmp/model/model.safetensors"
cat >"$tmp/model/config.json" <<'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 700, "hidden_size": 64,
 "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "max_position_embeddings": 256}
END
cp $golden/gpt2.json "$tmp/model/tokenizer.json"
vocabulary=$($examples/12_tokenize --tokenizer "$tmp/model" --text $golden/strings.txt --numbers 2>/dev/null | sort -n | tail -n 1)
sed -i "s/700/$((vocabulary + 1))/" "$tmp/model/config.json"

# perplexity ARGUMENT ...: the last line's number, on $data.
data=data
perplexity() {
    $examples/11_evaluate --tokens "$tmp/$data.bin" --length 32 --windows 16 --threads 1 "$@" 2>"$tmp/err" | tail -n 1 |
        sed -n 's/^perplexity \([0-9.]*\)$/\1/p'
}
# ratio "what it is" A B LEAST MOST: whether A / B is between.
ratio() {
    check "$1: $2 to $3" awk -v a="$2" -v b="$3" -v least="$4" -v most="$5" 'BEGIN { exit !(a > 0 && b > 0 && a / b >= least && a / b <= most) }'
}
base=$(perplexity --model "$tmp/model")
check "the model has learnt: $base" awk -v p="$base" 'BEGIN { exit !(p > 5 && p < 300) }'
ratio "a folder is the checkpoint" "$base" "$(perplexity --model "$tmp/base/model.dqt")" 1 1
ratio "int8, one scale per row" "$(perplexity --model "$tmp/model" --format int8)" "$base" 0.97 1.03
ratio "int8, groups of 32" "$(perplexity --model "$tmp/model" --format int8 --group 32)" "$base" 0.98 1.02
groups=$(perplexity --model "$tmp/model" --format int4 --group 32) rows=$(perplexity --model "$tmp/model" --format int4)
ratio "int4, groups of 32" "$groups" "$base" 0.9 1.3
ratio "int4, one scale per row" "$rows" "$base" 0.9 3
check "which is another: $rows, $groups" [ "$rows" != "$groups" ]
ratio "activations as int8" "$(perplexity --model "$tmp/model" --activation int8)" "$base" 0.97 1.03
ratio "in f32 the same on every instruction set" "$(perplexity --model "$tmp/model" --precision f32)" \
    "$(DQT_ISA=scalar perplexity --model "$tmp/model" --precision f32)" 1 1
ratio "ternary has not learnt it" "$(perplexity --model "$tmp/model" --format ternary)" "$base" 1.1 1000
all=$($examples/11_evaluate --tokens "$tmp/data.bin" --length 32 --windows 0 --threads 1 --model "$tmp/model" | sed -n 's/ windows.*//p')
check "all windows" test "$all" -eq $((($(wc -c <"$tmp/data.bin") - 1024) / 2 / 32))

# Windows of two documents of 16 tokens, told apart, are windows of one: positions restart and attention stays inside.
awk 'BEGIN { for (d = 0; d < 20; d++) { printf "\\0\\0"; for (i = 1; i < 16; i++) printf "\\%03o\\0", 1 + (d * 37 + i * i) % 255 } printf "\\0\\0" }' \
    >"$tmp/escaped"
# shellcheck disable=SC2059
printf "$(cat "$tmp/escaped")" >"$tmp/documents.bin"
documents() {
    $examples/11_evaluate --model "$tmp/model" --tokens "$tmp/documents.bin" --windows 0 --threads 1 "$@" | sed -n 's/^perplexity //p'
}
check "20 documents of 16 tokens" test "$(wc -c <"$tmp/documents.bin")" -eq 642
apart=$(documents --length 16)
ratio "documents are apart" "$(documents --length 32 --document-token 0)" "$apart" 0.99999 1.00001
check "or not" awk -v a="$(documents --length 32)" -v b="$apart" 'BEGIN { exit !((a / b - 1) ^ 2 > 1e-8) }'

# What it has not seen is learnt: other tokens.
data=other
rows=$(perplexity --model "$tmp/model" --format int4) groups=$(perplexity --model "$tmp/model" --format int4 --group 32)

# tune NAME ARGUMENT ...: into $tmp/NAME.
tune() {
    tune_name=$1
    shift
    check "fine-tuning: $tune_name" $examples/10_finetune --model "$tmp/model" --tokens "$tmp/other.bin" --valid "$tmp/other.bin" --seq 32 \
        --batch 2 --steps 40 --eval-windows 16 --threads 1 --lr 2e-3 --out "$tmp/$tune_name" "$@"
    cp "$tmp/check.out" "$tmp/$tune_name.txt"
}
# after NAME WHEN: the perplexity that it has shown.
after() {
    sed -n "s/.*held-out loss per token $2 training: [0-9.]*, perplexity \\([0-9.]*\\)\$/\\1/p" "$tmp/$1.txt"
}
tune int4
ratio "it begins as 11_evaluate says" "$(after int4 before)" "$rows" 0.999 1.001
ratio "it learns" "$(after int4 after)" "$(after int4 before)" 0.01 0.8
ratio "the checkpoint has what was learnt" "$(perplexity --model "$tmp/int4/model.dqt")" "$(after int4 after)" 0.999 1.001
ratio "the folder too" "$(perplexity --model "$tmp/int4")" "$(after int4 after)" 0.99 1.01
ratio "and as int4 again" "$(perplexity --model "$tmp/int4" --format int4)" "$(after int4 after)" 0.99 1.01
tune masters --format f32 --compute int4 --group 32
ratio "float masters begin as their int4 codes do" "$(after masters before)" "$groups" 0.95 1.05
ratio "float masters learn" "$(after masters after)" "$(after masters before)" 0.01 0.8
check "the folder has the tokenizer" cmp "$tmp/int4/tokenizer.json" "$tmp/model/tokenizer.json"
check "little state" awk '/bytes of state per linear weight/ { found = $(NF - 6) } END { exit !(found > 1.5 && found < 1.9) }' "$tmp/int4.txt"
tune groups --group 32
ratio "groups learn" "$(after groups after)" "$(after groups before)" 0.01 0.8
ratio "and begin as 11_evaluate says" "$(after groups before)" "$groups" 0.999 1.001
tune half --stop-at 15
check "no export before the end" test ! -e "$tmp/half/model.safetensors"
tune half --resume
check "resumed is uninterrupted" cmp "$tmp/half/model.dqt" "$tmp/int4/model.dqt"
check "and exported" cmp "$tmp/half/model.safetensors" "$tmp/int4/model.safetensors"
tune adamw --optimizer adamw --format int8 --momentum-state f32
ratio "AdamW, int8" "$(after adamw after)" "$(after adamw before)" 0.01 0.8

# A step is two passes with gradient buffers; of one pass the update is inside backward, in less memory, as 07_plan says.
tune passes --accumulate 2
check "two passes a step are the default" cmp "$tmp/passes/model.dqt" "$tmp/int4/model.dqt"
tune one --accumulate 1
ratio "updated inside backward it learns" "$(after one after)" "$(after one before)" 0.01 0.8
check "which is another step" sh -c "! cmp -s '$tmp/one/model.dqt' '$tmp/int4/model.dqt'"
tune fused --fused
check "--fused is --accumulate 1" cmp "$tmp/fused/model.dqt" "$tmp/one/model.dqt"
OMP_NUM_THREADS=1 $examples/07_plan --vocab $((vocabulary + 1)) --hidden 64 --ff 96 --layers 2 --heads 4 --kv-heads 2 --tied --batch 2 --seq 32 \
    >"$tmp/plan.txt"
# planned "row of 07_plan" NAME: what the plan says is what the run has shown.
planned() {
    shown=$(sed -n 's/^step.* \([0-9.]*\) MiB$/\1/p' "$tmp/$2.txt" | tail -n 1)
    check "planned: $1" test "$(awk -v row="$1" 'index($0, row) == 1 { print $(NF - 1) }' "$tmp/plan.txt")" = "${shown:-none}"
}
planned "10_finetune, int4" int4
planned "  --accumulate 1: fused" one
# A model without a folder gets a config.json of its own.
tune again --model "$tmp/base/model.dqt" --steps 4
ratio "a checkpoint's export opens" "$(perplexity --model "$tmp/again")" "$(after again after)" 0.99 1.01

# A model of a GGUF file goes back as one, with its tokenizer.
source=$golden/smollm.gguf
check "its tokens" $examples/12_tokenize --tokenizer $source --text $golden/strings.txt --out "$tmp/strings.bin"
check "others" $examples/12_tokenize --tokenizer $source --text README.md --out "$tmp/smollm.bin"
vocabulary=$($examples/12_tokenize --tokenizer $source --text README.md --numbers --token-bytes 1 2>&1 | sed -n 's/.*vocabulary of \([0-9]*\) .*/\1/p')
check "a model of its vocabulary" $examples/03_train --tokens "$tmp/strings.bin" --vocab "$vocabulary" --out "$tmp/small" --format f32 --no-sub-norms --tied \
    --hidden 64 --ff 96 --layers 2 --heads 4 --kv-heads 2 --seq 32 --batch 4 --steps 60 --eval-every 0 --eval-windows 4 --threads 1 --lr 3e-3
check "as GGUF" $examples/09_export --model "$tmp/small/model.dqt" --gguf "$tmp/small.gguf" --type f32 --embedding-type f32 --source $source \
    --context 4096
data=smollm
tune gguf --model "$tmp/small.gguf" --tokens "$tmp/smollm.bin" --valid "$tmp/smollm.bin" --format int4 --group 32 --gguf "$tmp/tuned.gguf"
ratio "it learns" "$(after gguf after)" "$(after gguf before)" 0.01 0.8
ratio "GGUF has what was learnt" "$(perplexity --model "$tmp/tuned.gguf")" "$(after gguf after)" 0.99 1.01
check "and the tokenizer" $examples/12_tokenize --tokenizer "$tmp/tuned.gguf" --text $golden/strings.txt --raw --out "$tmp/tuned.bin"
check "which is the source's" cmp "$tmp/tuned.bin" $golden/smollm.bin
check "09_export" $examples/09_export --model "$tmp/gguf/model.dqt" --gguf "$tmp/exported.gguf" --source "$tmp/small.gguf"
check "which makes the same file" cmp "$tmp/exported.gguf" "$tmp/tuned.gguf"
data=other

check "a plot" grep -q 'loss per token' "$tmp/int4/losses.svg"
check "a log of each step" test "$(wc -l <"$tmp/half/log.csv")" -eq 42

# Ctrl-C saves.
$examples/10_finetune --model "$tmp/model" --tokens "$tmp/data.bin" --seq 32 --steps 1000000 --eval-windows 1 --threads 1 --out "$tmp/long" >"$tmp/long.txt" 2>&1 &
# Its folder is made after it has begun to listen.
for _ in 1 2 3 4 5 6 7 8 9; do [ -d "$tmp/long" ] || sleep 1; done
sleep 1
kill -INT $!
check "an interrupted run ends well" wait $!
check "it says so" grep -q "interrupted at step .*: saved; go on with --resume" "$tmp/long.txt"
check "its checkpoint opens" test -n "$(perplexity --model "$tmp/long/model.dqt")"

# refused "words of the sentence" PROGRAM ARGUMENT ...
refused() {
    words=$1 program=$2
    shift 2
    if $examples/$program "$@" >"$tmp/out" 2>"$tmp/err"; then fail "not refused: $words"; else check "refused: $words" grep -q -e "$words" "$tmp/err"; fi
}
refused "are needed" 11_evaluate --model "$tmp/model"
refused "are needed" 10_finetune --tokens "$tmp/data.bin"
refused "at least 1" 10_finetune --model "$tmp/model" --tokens "$tmp/data.bin" --steps 0
refused "cannot be opened" 11_evaluate --model "$tmp/model" --tokens "$tmp/none"
refused "nowhere" 11_evaluate --model "$tmp/nowhere" --tokens "$tmp/data.bin"
refused "cannot be \"int7\"; it takes" 11_evaluate --model "$tmp/model" --tokens "$tmp/data.bin" --format int7
refused "group" 11_evaluate --model "$tmp/model" --tokens "$tmp/data.bin" --format int4 --group 48
refused "too short" 11_evaluate --model "$tmp/model" --tokens "$tmp/data.bin" --length 100000
refused "is not" 10_finetune --model "$tmp/model" --tokens "$tmp/data.bin" --gguf "$tmp/no.gguf"
refused "resume from" 10_finetune --model "$tmp/model" --tokens "$tmp/data.bin" --seq 32 --out "$tmp/empty" --resume
check "tokens that the model does not have" $examples/12_tokenize --tokenizer $golden/llama3.json --text $golden/strings.txt --out "$tmp/llama3.bin" \
    --document-token 701
refused "token" 11_evaluate --model "$tmp/model" --tokens "$tmp/llama3.bin"
# The same in Python.
found=
for python in "$PYTHON" python3 /usr/bin/python3; do
    if [ -z "$found" ] && have "$python" && "$python" -c "import numpy" 2>"$tmp/no"; then found=$python; fi
done
if [ -z "$found" ]; then
    skip "no python3 with numpy"
    finish
fi
for group in 0 32; do
    [ $group = 0 ] && passes="--accumulate 1" || passes=
    check "finetune.py, groups of $group $passes" env DQT_LIB_DIR="$OUTDIR" PYTHONDONTWRITEBYTECODE=1 "$found" examples/python/finetune.py --model "$tmp/model" \
        --tokens "$tmp/other.bin" --valid "$tmp/other.bin" --out "$tmp/python" --group $group --steps 40 --length 32 --lr 2e-3 $passes
    cp "$tmp/check.out" "$tmp/python.txt"
    before=$(sed -n 's/^before: perplexity //p' "$tmp/python.txt") after=$(sed -n 's/^after: perplexity //p' "$tmp/python.txt")
    [ $group = 0 ] && expected=$rows || expected=$groups
    ratio "it begins as 11_evaluate says" "$before" "$expected" 0.999 1.001
    ratio "it learns" "$after" "$before" 0.01 0.9
    ratio "its folder too" "$(perplexity --model "$tmp/python")" "$after" 0.99 1.01
    ratio "its checkpoint has what was learnt" "$(perplexity --model "$tmp/python/model.dqt")" "$after" 0.999 1.001
done
check "finetune.py, two passes a step" env DQT_LIB_DIR="$OUTDIR" PYTHONDONTWRITEBYTECODE=1 "$found" examples/python/finetune.py --model "$tmp/model" \
    --tokens "$tmp/other.bin" --valid "$tmp/other.bin" --out "$tmp/passes" --group 32 --steps 40 --length 32 --lr 2e-3 --accumulate 2
check "which is its default" cmp "$tmp/passes/model.dqt" "$tmp/python/model.dqt"
finish
