#!/bin/sh
# Other people's readers on libdqt's files: PyPI's gguf and safetensors, and llama.cpp in npm's node-llama-cpp. Installs
# them into build/interop (needs the network the first time), and compares: the model of `make demo`, and one trained here.
# usage, from the project's folder after `make demo`: tests/interop/run.sh
# OUTDIR, OUT, DEMO, CC, PYTHON, NODE and NPM may be set.
set -eu
here=$(dirname "$0")
OUTDIR=${OUTDIR:-lib} OUT=${OUT:-build/interop} DEMO=${DEMO:-build/demo} CC=${CC:-cc} PYTHON=${PYTHON:-python3} NODE=${NODE:-node} NPM=${NPM:-npm}
mkdir -p "$OUT/files"

if ! "$OUT/venv/bin/python" -c 'import gguf, numpy, safetensors' 2>/dev/null; then
    "$PYTHON" -m venv "$OUT/venv"
    "$OUT/venv/bin/pip" install -q 'gguf==0.19.0' 'safetensors==0.8.0' numpy
fi
# Without the packages for GPUs, and without scripts: the prebuilt llama.cpp for this machine comes as a package.
case "$(uname -s)-$(uname -m)" in
Linux-x86_64) binary=linux-x64 ;;
Linux-aarch64) binary=linux-arm64 ;;
*) binary= ;;
esac
if [ -n "$binary" ] && [ ! -d "$OUT/node_modules/@node-llama-cpp/$binary" ]; then
    echo '{"private": true}' > "$OUT/package.json"
    "$NPM" install --prefix "$OUT" --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error \
        node-llama-cpp@3.22.1 "@node-llama-cpp/$binary@3.22.1"
fi

for program in files outputs; do
    "$CC" -std=c11 -O2 -Wall -Wextra -Iinclude -Itests -o "$OUT/files/$program" "$here/$program.c" -L"$OUTDIR" -ldqt \
        "-Wl,-rpath,$(cd "$OUTDIR" && pwd)" -lm
done
rm -f "$OUT"/files/*.gguf
"$OUT/files/files" make "$OUT/files" "$DEMO/text.txt" "$DEMO/run/model.dqt"
cp "$DEMO/run/model.gguf" "$OUT/files/bitnet-demo.gguf"
for json in "$here"/../examples/golden/*.json; do
    "$OUT/files/files" tokenizer "$json" 710 "$OUT/files/tokenizer-$(basename "$json" .json).gguf"
done

status=0
"$OUT/venv/bin/python" "$here/check_gguf.py" "$OUT/files" "$here/../examples/golden" || status=1
"$OUT/venv/bin/python" "$here/check_safetensors.py" "$OUT/files" "$OUT/files/files" || status=1
if [ -n "$binary" ]; then
    "$NODE" "$here/gguf_client.mjs" "$OUT/files" bitnet llama || status=1
    # Logits with nothing rounded: 4 windows of 256 bytes.
    "$OUT/files/outputs" logits "$OUT/files/llama-f32.gguf" "$OUT/files/text.tokens" 256 4 "$OUT/files/ours.logits"
    "$NODE" "$here/client_logits.mjs" "$OUT" "$OUT/files/llama-f32.gguf" "$OUT/files/text.tokens" 256 4 "$OUT/files/theirs.logits"
    "$OUT/venv/bin/python" "$here/compare_logits.py" llama.cpp "$OUT/files/ours.logits" "$OUT/files/theirs.logits" 256 1e-3 1024 || status=1
else
    echo "gguf_client.mjs: 0 passed, 0 failed, 1 skipped"
fi
exit $status
