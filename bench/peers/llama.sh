#!/bin/sh
# Decoding and prefill beside llama.cpp's, turn by turn (llama.c says what of). Builds llama.cpp for this CPU, of the
# source that PyPI's llama-cpp-python comes with, in a folder of its own; wants pip, cmake and `make lib`.
#
#   bench/peers/llama.sh [threads] [rounds] [folder]
#
# LLAMA_CPP: a checkout of llama.cpp that is built in its folder `b` already. Where other work runs on the machine,
# OMP_WAIT_POLICY=passive keeps threads from spinning for each other.
set -eu
threads=${1:-2} rounds=${2:-5} work=${3:-build/peers}
mkdir -p "$work"
source=${LLAMA_CPP:-}
if [ -z "$source" ]; then
    python3 -m pip -q download --no-deps --no-build-isolation --no-binary :all: -d "$work" llama-cpp-python ||
        python3 -m pip -q download --no-deps --no-binary :all: -d "$work" llama-cpp-python
    for archive in "$work"/llama_cpp_python-*.tar.gz; do
        tar -xzf "$archive" -C "$work"
        source=${archive%.tar.gz}/vendor/llama.cpp
    done
    cmake -S "$source" -B "$source/b" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
        -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
        -DLLAMA_BUILD_TOOLS=OFF >"$work/cmake.log"
    cmake --build "$source/b" --target llama -j "${JOBS:-2}" >>"$work/cmake.log"
fi
libraries=$(cd "$source/b/bin" && pwd)
"${CC:-gcc}" -std=c11 -O3 -fopenmp -D_GNU_SOURCE -Iinclude -Isrc -Ibench -I"$source/include" -I"$source/ggml/include" \
    -o "$work/llama" bench/peers/llama.c "${OUTDIR:-lib}/libdqt.a" -L"$libraries" -Wl,-rpath,"$libraries" \
    -Wl,-rpath-link,"$libraries" -lllama -lm
"$work/llama" "$work/ternary.gguf" "$threads" "$rounds"
