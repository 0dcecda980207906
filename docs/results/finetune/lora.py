"""LoRA on a frozen int4 base (QLoRA's recipe, arXiv 2305.14314), and fine-tuning of all weights, in PyTorch: what
docs/results.md compares the library's fine-tuning with. Same tokens, steps, batch and held-out windows as
tools/finetune_results.py.

    python3 lora.py BASE_FOLDER train.bin valid.bin OUT.jsonl [--ranks 16,32] [--rates 1e-4,3e-4] [--seeds 1,2,3] [--full]

The files of tokens are uint16 with llm.c's header. BASE_FOLDER is a folder of Hugging Face whose weights are already codes times scales (the library's own import as int4
with a scale per 32 weights, given back by dqt_llama_export_folder), so the base is the model that the library begins
with. Every linear layer of the blocks gets an adapter, B A x * alpha / rank with alpha = 2 * rank; embedding, head and
norms are frozen. AdamW (0.9, 0.999), weight decay 0, warm-up of 3 % and then constant, clip 0.3 (QLoRA's), bf16
autocast on a GPU. A line of OUT is one run."""
import argparse
import json
import math
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM

LENGTH, BATCH = 512, 2


class Adapter(torch.nn.Module):
    def __init__(self, base, rank):
        super().__init__()
        self.base, self.scale = base, 2.0
        self.a = torch.nn.Parameter(torch.empty(rank, base.in_features, device=base.weight.device))
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x):
        return self.base(x) + (x @ self.a.t() @ self.b.t()) * self.scale


def adapt(model, rank):
    for p in model.parameters():
        p.requires_grad_(False)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(part, name, Adapter(child, rank))
    return [p for p in model.parameters() if p.requires_grad]


def loss_of(model, rows, device):
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        logits = model(rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def held_out(model, valid, windows, device):
    total = 0.0
    with torch.no_grad():
        for w in range(windows):
            row = torch.from_numpy(valid[w * LENGTH:w * LENGTH + LENGTH + 1][None]).to(device)
            total += loss_of(model, row, device).item()
    return total / windows


def run(args, train, valid, device, rank, rate, seed):
    torch.manual_seed(seed)
    started = time.time()
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).to(device)
    if rank:
        weights = adapt(model, rank)
        optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.999), weight_decay=0)
    else:
        weights = list(model.parameters())
        optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.95), weight_decay=0)
    before = held_out(model, valid, args.windows, device)
    draw = np.random.default_rng(seed)
    for step in range(args.steps):
        at = draw.integers(0, len(train) - LENGTH - 1, BATCH)
        rows = torch.from_numpy(np.stack([train[i:i + LENGTH + 1] for i in at])).to(device)
        if rank:
            factor = min(1.0, (step + 1) / max(1, round(0.03 * args.steps)))
        else:
            warm = max(1, round(0.1 * args.steps))
            factor = (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(
                math.pi * (step - warm) / (args.steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.zero_grad()
        loss_of(model, rows, device).backward()
        torch.nn.utils.clip_grad_norm_(weights, 0.3 if rank else 1.0)
        optimizer.step()
    after = held_out(model, valid, args.windows, device)
    line = {"row": f"lora-r{rank}" if rank else "full-f32", "lr": rate, "seed": seed, "before": before, "after": after,
            "steps": args.steps, "tokens": args.steps * BATCH * LENGTH, "windows": args.windows,
            "trained": sum(p.numel() for p in weights), "seconds": round(time.time() - started, 1)}
    print(line, flush=True)
    with open(args.out, "a") as out:
        out.write(json.dumps(line) + "\n")
    return after


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("base")
    p.add_argument("train")
    p.add_argument("valid")
    p.add_argument("out")
    p.add_argument("--ranks", default="32,16")
    p.add_argument("--rates", default="2e-4,5e-4,1e-3,2e-3")
    p.add_argument("--seeds", default="1,2,3")
    p.add_argument("--steps", type=int, default=293)
    p.add_argument("--windows", type=int, default=64)
    p.add_argument("--full", action="store_true", help="all weights instead of adapters")
    args = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, valid = (np.fromfile(f, np.uint16, offset=1024).astype(np.int64) for f in (args.train, args.valid))
    seeds = [int(s) for s in args.seeds.split(",")]
    for rank in [0] if args.full else [int(r) for r in args.ranks.split(",")]:
        found = {r: run(args, train, valid, device, rank, r, seeds[0]) for r in map(float, args.rates.split(","))}
        for seed in seeds[1:]:
            run(args, train, valid, device, rank, min(found, key=found.get), seed)


if __name__ == "__main__":
    main()
