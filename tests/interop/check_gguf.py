"""The package `gguf` (llama.cpp's own) reads libdqt's files and gets the weights that libdqt's layers read.
And the tokenizers of tokenizer.json files in FOLDER, with keys of the host's own.

usage: check_gguf.py DIR FOLDER"""
import glob
import json
import os
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from common import Checks, read_weights

NAMES = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.o": "attn_output",
    "attention.sub_norm": "attn_sub_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    "mlp.sub_norm": "ffn_sub_norm",
}
EXPECTED = {"tq1_0": "TQ1_0", "q8_0": "Q8_0", "q4_0": "Q4_0", "f16": "F16", "f32": "F32"}
HEADS = {"attention.q": 8, "attention.k": 4}


def gguf_name(name):
    single = {"embedding": "token_embd", "norm": "output_norm", "head": "output"}
    if name in single:
        return single[name]
    _, block, rest = name.split(".", 2)
    return f"blk.{block}.{NAMES[rest]}"


def check_file(c, path, weights):
    reader = GGUFReader(path)
    base = os.path.basename(path)
    arch = base.split("-")[0]
    kind = base.split("-")[1].split(".")[0]
    tensors = {t.name: t for t in reader.tensors}
    c.check(reader.get_field("general.architecture").contents() == arch, f"{base}: architecture")
    c.check(reader.get_field(f"{arch}.embedding_length").contents() == 256, f"{base}: embedding_length")
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    c.check(len(tokens) == 256 and tokens[65] == "<0x41>" and tokens[32] == "\u2581", f"{base}: tokens")
    used = set()
    for name, expected in weights.items():
        stored = gguf_name(name)
        tensor = tensors[stored + ".weight"]
        used.add(tensor.name)
        got = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(expected.shape)
        rest = name.split(".", 2)[-1]
        if arch == "llama" and rest in HEADS:  # (head, d / 2, half) -> (head, half, d / 2)
            rows, cols = got.shape
            heads = HEADS[rest]
            got = got.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)
        scale = tensors.get(stored + ".scale")
        if scale is not None:
            used.add(scale.name)
            got = got * np.float32(scale.data[0])
        exact = tensor.tensor_type.name == "F32" or scale is not None
        close = np.array_equal(got, expected) if exact else np.allclose(got, expected, rtol=2**-10, atol=2**-25)
        c.check(close, f"{base}: {name}")
        if "blocks" in name and "norm" not in name:
            wanted = EXPECTED.get(kind, "TQ2_0" if arch == "bitnet" else "Q4_0")
            c.check(tensor.tensor_type.name == wanted, f"{base}: {name} is {tensor.tensor_type.name}")
    c.check(used == set(tensors), f"{base}: unknown tensors {set(tensors) - used}")


PRE = {"gpt2": "gpt-2", "smollm": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2"}
OWN = {
    "general.name": ("a name", ["STRING"]), "general.tags": (["one tag", "another \u00e9"], ["ARRAY", "STRING"]),
    "own.u32": (2**32 - 1, ["UINT32"]), "own.i32": (-2, ["INT32"]), "own.u64": (2**63 - 1, ["UINT64"]),
    "own.i64": (-2**63, ["INT64"]), "own.f32": (float(np.float32(0.1)), ["FLOAT32"]), "own.f64": (0.1, ["FLOAT64"]),
    "own.bool": (True, ["BOOL"]), "llama.context_length": (77, ["UINT32"]),
}


def check_tokenizer(c, name, path, source):
    with open(source, encoding="utf-8") as f:
        data = json.load(f)
    reader = GGUFReader(path)
    tokens, merges, types = (reader.get_field(f"tokenizer.ggml.{key}").contents() for key in ("tokens", "merges", "token_type"))
    expected, kinds = [f"[PAD{i}]" for i in range(710)], [5] * 710
    for token, i in data["model"]["vocab"].items():
        expected[i], kinds[i] = token, 1
    for added in data["added_tokens"]:
        expected[added["id"]], kinds[added["id"]] = added["content"], 3 if added["special"] else 4
    c.check(tokens == expected, f"{name}: tokens")
    c.check(types == kinds and 3 in types and 5 in types, f"{name}: types")
    c.check(merges == [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]], f"{name}: merges")
    c.check(reader.get_field("tokenizer.ggml.model").contents() == "gpt2", f"{name}: model")
    c.check(reader.get_field("tokenizer.ggml.pre").contents() == PRE[name], f"{name}: pre-tokenizer")
    for key, (value, kind) in OWN.items():
        field = reader.get_field(key)
        c.check(field and field.contents() == value and [t.name for t in field.types] == kind, f"{name}: {key}")


def main():
    c = Checks("check_gguf.py")
    for name in ("bitnet", "llama"):
        weights = read_weights(os.path.join(sys.argv[1], name + ".weights"))
        files = sorted(glob.glob(os.path.join(sys.argv[1], name + "-*.gguf")))
        c.check(len(files) >= 5, f"{name}: {len(files)} files")
        for path in files:
            check_file(c, path, weights)
    for name in PRE:
        check_tokenizer(c, name, os.path.join(sys.argv[1], f"tokenizer-{name}.gguf"), os.path.join(sys.argv[2], name + ".json"))
    c.end()


main()
