"""What the checks share: the weights that libdqt's layers read, and counting."""
import sys

import numpy as np


class Checks:
    def __init__(self, name):
        self.name, self.passed, self.failed = name, 0, 0

    def check(self, good, what):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"{self.name}: FAILED: {what}")

    def end(self):
        print(f"{self.name}: {self.passed} passed, {self.failed} failed, 0 skipped")
        sys.exit(1 if self.failed or not self.passed else 0)


def read_weights(path):
    """{name: float32 [rows, cols]} of a file of `files make`."""
    with open(path, "rb") as f:
        data = f.read()
    weights, at = {}, 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, rows, cols = data[at:end].decode().split()
        rows, cols = int(rows), int(cols)
        at = end + 1
        weights[name] = np.frombuffer(data, "<f4", rows * cols, at).reshape(rows, cols)
        at += 4 * rows * cols
    return weights


FOREIGN = {
    "attention_norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "attention.sub_norm": "self_attn.inner_attn_ln",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "mlp.sub_norm": "mlp.ffn_layernorm",
}


def foreign_name(name):
    """The name of Hugging Face's LlamaForCausalLM."""
    single = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
    if name in single:
        return single[name] + ".weight"
    _, block, rest = name.split(".", 2)
    return f"model.layers.{block}.{FOREIGN[rest]}.weight"
