#!/bin/sh
# A real model of the llama architecture in a GGUF file, by libdqt, transformers and llama.cpp: logits of the first 2048 tokens of a
# text, through the GGUF file and through a folder; then 4 steps of 10_finetune as int4 in groups of 32, whose GGUF file llama.cpp reads:
# the tokens of difficult strings, and greedy text. Run by hand, for no model is in the repository. A minute or two of two cores, 4 GB of
# memory, 3 GB of files.
# usage, from the project's folder after `make lib examples` and tests/interop/run.sh:
#     MODEL=FILE.gguf TEXT=FILE PYTHON=python3 tests/interop/real_model.sh
# PYTHON has torch, transformers, accelerate and gguf. OUTDIR, OUT and NODE may be set.
set -eu
here=$(dirname "$0")
OUTDIR=${OUTDIR:-lib} OUT=${OUT:-build/interop} NODE=${NODE:-node} PYTHON=${PYTHON:-python3} CC=${CC:-cc}
work=$OUT/real length=512 windows=4
rm -rf "$work"
mkdir -p "$work"
"$CC" -std=c11 -O2 -Wall -Wextra -Iinclude -Itests -o "$work/outputs" "$here/outputs.c" -L"$OUTDIR" -ldqt \
    "-Wl,-rpath,$(cd "$OUTDIR" && pwd)" -lm
build/examples/12_tokenize --tokenizer "$MODEL" --text "$TEXT" --raw --out "$work/text.tokens"
vocab=$("$PYTHON" -c 'import gguf, sys; print(len(gguf.GGUFReader(sys.argv[1]).fields["tokenizer.ggml.tokens"].data))' "$MODEL")

status=0
# compare NAME TOLERANCE OURS THEIRS
compare() {
    "$PYTHON" "$here/compare_logits.py" "$1" "$work/$3" "$work/$4" "$vocab" "$2" $((length * windows)) || status=1
}
"$work/outputs" logits "$MODEL" "$work/text.tokens" $length $windows "$work/gguf.logits"
"$PYTHON" "$here/transformers_logits.py" "$MODEL" "$work/text.tokens" $length $windows "$work/transformers.logits" "$work/folder"
compare "transformers, through GGUF" 1e-4 gguf.logits transformers.logits
"$work/outputs" logits "$work/folder" "$work/text.tokens" $length $windows "$work/folder.logits"
compare "transformers, through a folder" 1e-4 folder.logits transformers.logits
"$work/outputs" gguf "$MODEL" "$work/f32.gguf"
"$NODE" "$here/client_logits.mjs" "$OUT" "$work/f32.gguf" "$work/text.tokens" $length $windows "$work/client.logits"
compare "llama.cpp" 1e-3 gguf.logits client.logits
rm "$work"/*.logits "$work/f32.gguf"

build/examples/10_finetune --model "$MODEL" --tokens "$work/text.tokens" --format int4 --group 32 --steps 4 --accumulate 1 --eval-windows 1 \
    --out "$work/tuned" --gguf "$work/tuned-auto.gguf"
"$work/outputs" passages "$work/tuned/model.dqt" "$work/text.tokens" "$work/tuned.reference"
"$PYTHON" "$here/write_strings.py" build/examples/12_tokenize "$MODEL" "$work/tuned.strings"
"$NODE" "$here/gguf_client.mjs" "$work" tuned || status=1
exit $status
