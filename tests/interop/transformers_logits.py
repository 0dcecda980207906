"""transformers' logits of a GGUF file in float32, as raw floats: after each token of the first WINDOWS windows of LENGTH
tokens of TOKENS (uint16). And, in FOLDER, the same model as a folder of Hugging Face.

usage: transformers_logits.py MODEL.gguf TOKENS LENGTH WINDOWS OUT FOLDER   (needs torch, transformers, gguf, accelerate)"""
import json
import os
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file


def main():
    path, text, length, windows, out, folder = sys.argv[1:]
    length, windows = int(length), int(windows)
    model = transformers.AutoModelForCausalLM.from_pretrained(os.path.dirname(os.path.abspath(path)), gguf_file=os.path.basename(path),
                                                              dtype=torch.float32, attn_implementation="eager").eval()
    os.makedirs(folder, exist_ok=True)
    # save_pretrained refuses models that were read from GGUF files.
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config["architectures"] = [type(model).__name__]
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if k not in tied}, os.path.join(folder, "model.safetensors"))
    tokens = torch.from_numpy(np.fromfile(text, "<u2", length * windows).astype(np.int64)).reshape(windows, length)
    with open(out, "wb") as f, torch.inference_mode():
        for window in tokens:
            f.write(model(window[None], use_cache=False).logits[0].numpy().astype("<f4").tobytes())


main()
