"""The package `safetensors` (Hugging Face's own) reads libdqt's files; libdqt reads files that it wrote.

usage: check_safetensors.py DIR FILES_PROGRAM"""
import filecmp
import os
import subprocess
import sys

import numpy as np
from safetensors import deserialize, safe_open
from safetensors.numpy import load_file, save_file

from common import Checks, foreign_name, read_weights


def to_bf16(x):
    """Nearest, ties to even, as the float32 of the same value."""
    u = x.view(np.uint32).astype(np.uint64)
    u = (u + 0x7FFF + (u >> 16 & 1)) >> 16 << 16
    return u.astype(np.uint32).view(np.float32)


def unpack(packed, fmt, cols):
    """Codes [rows, cols] of packed rows, from docs/numerics.md, "Packing": units of 64 codes."""
    rows = packed.shape[0]
    if fmt == "int8":
        return packed.view(np.int8)[:, :cols]
    unit = {"ternary": 16, "int2": 16, "int3": 24, "int4": 32}[fmt]
    b = packed.reshape(rows, -1, unit)
    if fmt == "int4":
        u = np.concatenate([b & 15, b >> 4], axis=2)
    else:
        u = np.concatenate([b[:, :, :16] >> s & 3 for s in (0, 2, 4, 6)], axis=2)
    low = {"ternary": 1, "int2": 2, "int3": 4, "int4": 8}[fmt]
    if fmt == "int3":
        u = u | np.unpackbits(b[:, :, 16:], axis=2, bitorder="little") << 2
    return u.reshape(rows, -1)[:, :cols].astype(np.int8) - low


def check_f32(c, path, weights):
    tensors = load_file(path)
    c.check(set(tensors) == {foreign_name(n) for n in weights}, f"{path}: names")
    for name, expected in weights.items():
        got = tensors[foreign_name(name)]
        c.check(got.dtype == np.float32 and np.array_equal(got.reshape(expected.shape), expected), f"{path}: {name}")
        c.check(got.ndim == (1 if "norm" in name else 2), f"{path}: {name} has {got.ndim} dimensions")
    with safe_open(path, "np") as f:
        c.check(f.metadata() == {"format": "pt"}, f"{path}: metadata")
    return tensors


def check_bf16(c, path, weights):
    with open(path, "rb") as f:
        tensors = dict(deserialize(f.read()))
    for name, expected in weights.items():
        t = tensors[foreign_name(name)]
        if "norm" in name:
            good = t["dtype"] == "F32" and np.array_equal(np.frombuffer(t["data"], "<f4"), expected[0])
        else:
            raw = np.frombuffer(bytes(t["data"]), "<u2").astype(np.uint32) << 16
            good = t["dtype"] == "BF16" and np.array_equal(raw.view(np.float32).reshape(expected.shape), to_bf16(expected))
        c.check(good, f"{path}: {name}")


def check_codes(c, path, weights, floats):
    tensors = load_file(path)
    with safe_open(path, "np") as f:
        metadata = f.metadata()
    for name, expected in weights.items():
        t = tensors[foreign_name(name)]
        if name in floats:
            c.check(t.dtype == np.float32 and np.array_equal(t.reshape(expected.shape), expected), f"{path}: {name}")
            continue
        fmt = metadata["dqt." + (name if name in ("embedding", "head") else "linear")]
        scale = tensors[foreign_name(name) + "_scale"]
        got = unpack(t, fmt, expected.shape[1]).astype(np.float32) * scale.reshape(-1, 1)
        c.check(np.array_equal(got, expected), f"{path}: {name} as {fmt}")


def main():
    c = Checks("check_safetensors.py")
    folder, program = sys.argv[1:]
    for name in ("bitnet", "llama"):
        base = os.path.join(folder, name)
        weights = read_weights(base + ".weights")
        tensors = check_f32(c, base + "-f32.safetensors", weights)
        check_bf16(c, base + "-bf16.safetensors", weights)
        floats = {n for n in weights if "norm" in n or (name == "bitnet" and n == "embedding")}
        check_codes(c, base + "-codes.safetensors", weights, floats)
        # Written anew in the package's own order, and read into a model of zeros: the same checkpoint, bit for bit.
        again = base + "-again.safetensors"
        save_file(tensors, again, metadata={"format": "pt", "by": "safetensors"})
        for source in (again, base + "-f32.safetensors", base + "-codes.safetensors"):
            out = base + "-imported.dqt"
            subprocess.run([program, "import", base + ".dqt", source, out], check=True)
            c.check(filecmp.cmp(base + ".dqt", out, shallow=False), f"{source} imported is not {base}.dqt")
    c.end()


main()
