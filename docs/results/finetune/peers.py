"""What docs/results.md compares the library's fine-tuning with, in PyTorch, at the same tokens, steps, batch and
held-out windows as tools/finetune_results.py:

    python3 peers.py BASE train.bin valid.bin OUT.jsonl [--ranks 32,16] [--full] [--bf16] [--masters int4:32,ternary:32]
                     [--rates 1e-4,3e-4] [--seeds 1,2,3] [--steps 293] [--windows 64] [--seconds S]

  --ranks    LoRA on frozen weights (QLoRA's recipe, arXiv 2305.14314): every linear layer of the blocks gets an
             adapter, B A x * alpha / rank with alpha = 2 * rank; embedding, head and norms are frozen. AdamW (0.9,
             0.999), warm-up of 3 % and then constant, clip 0.3.
  --full     all weights, F32.
  --bf16     all weights; matrices are bf16, rounded stochastically after each step (here: floats that bf16 holds).
  --masters  all weights, F32; products read codes of the linear layers of the blocks, made anew of the F32 weights in
             every step, with a scale in fp16 per so many columns: those of `10_finetune --format f32 --compute int4
             --group 32`, to the bit. Straight-through gradients, float activations, as that program has them for models
             that were trained so. (There the embedding is what the file has, int8 with a scale per 32; here F32.)

All but LoRA: AdamW (0.9, 0.95), warm-up of 10 % and then a cosine to 0, clip 1. No decay. bf16 autocast on a GPU.

The files of tokens are uint16 with llm.c's header. BASE is a folder of Hugging Face. For LoRA its weights are already
codes times scales (the library's import as int4 with a scale per 32 weights, given back by dqt_llama_export_folder),
so that the base is the model that the library begins with; for the others they are those of the file, as F32:

    from dqt import *                                                        # examples/python
    w = dict(storage=FORMAT_F32)
    Llama.open(Context(), MODEL, linear=w, embedding=w, head=w).export_folder(BASE)

The rates are run with the first seed, the best of them with the others. A line of OUT is one run; runs that OUT has
already are not run again, and none begins after --seconds."""
import argparse
import copy
import json
import math
import os
import time
from functools import partial

import numpy as np
import torch
from transformers import AutoModelForCausalLM

LENGTH, BATCH, EVAL_BATCH = 512, 2, 8


# ---- Codes: src/format/scale.c's DQT_SCALE_MSE, in the same operations, for all groups at once ----------------------

STEP, ABOVE_MOST = float.fromhex("0x1.d5818dcfba487p-1"), float.fromhex("0x1.306fe0a31b715p+0")
RANGES = {"ternary": (-1, 1), **{f"int{n}": (-(1 << n - 1), (1 << n - 1) - 1) for n in range(2, 9)}}
CHUNK = 1 << 20  # groups at a time


def kept(scale):
    """As fp16, of the magnitudes that it has, in f32."""
    size = scale.abs().clamp(2.0**-24, 65504).float()
    return torch.where(scale < 0, -size, size).half().float()


def codes_of(w, inverse, low, high):
    return (w * inverse).clamp_(low, high).round_()


def lane_sums(x):
    """Of x[group][...], in the order in which 16 lanes sum."""
    total = x[:16].clone()
    for at in range(16, len(x), 16):
        total += x[at:at + 16]
    while len(total) > 1:
        total = total[:len(total) // 2] + total[len(total) // 2:]
    return total[0].double()


def sums_of(w, scale, low, high):
    """Of w * q and of q * q, with the codes q that the scales give the weights."""
    q = codes_of(w, 1 / scale, low, high).to(w.dtype)
    return lane_sums(w * q), lane_sums(q * q)


def search_grid(w, most, square_sum, low, high):
    """Of the scales above 0 and of those below: the best gain, and the scale of least error with its codes."""
    count, groups = w.shape
    best = torch.zeros(2, 2, groups, dtype=torch.double, device=w.device)
    scale = ABOVE_MOST * most / high
    least = torch.maximum(0.8 * (square_sum / count).sqrt() / -low, scale * 2.0**-10)
    at = None  # which groups w has; None: all
    while True:
        active = (scale >= least) & (scale > 0)
        left = int(active.sum())
        if left == 0:
            return best
        if left < 0.7 * len(scale):
            at = active.nonzero()[:, 0] if at is None else at[active]
            w, scale, least, active = w[:, active], scale[active], least[active], active[active]
        for sign in range(1 if high + low == 0 else 2):
            product, square = sums_of(w, kept(-scale if sign else scale), low, high)
            gain = torch.where(active & (square > 0), product * product / square, 0)
            before = best[sign, 0] if at is None else best[sign, 0, at]
            better = (gain > before).nonzero()[:, 0]
            to = better if at is None else at[better]
            best[sign, 0, to] = gain[better]
            best[sign, 1, to] = product[better] / square[better]
        scale = scale * STEP


def scales_of(w, low, high):
    """Of w[group][groups], f32 numbers that fp16 holds; 0 for weights that are all 0."""
    exact = w.double()
    most = exact.abs().amax(0)
    square_sum = torch.zeros_like(most)
    for row in exact:
        square_sum += row * row
    best = search_grid(w, most, square_sum, low, high)
    least, result = torch.full_like(most, math.inf), torch.zeros_like(w[0])
    tries = [(most / high, most > 0), (most / low, most > 0), (most / -low, most > 0)]
    for scale, there in tries + [(b[1], b[0] > 0) for b in best]:
        scale = kept(scale)
        q = codes_of(w, 1 / scale, low, high).double()
        product, square, scale64 = lane_sums(exact * q), lane_sums(q * q), scale.double()
        error = scale64 * (scale64 * square - 2 * product)
        better = there & (error < least)
        least, result = torch.where(better, error, least), torch.where(better, scale, result)
    return result


def quantise(flat, group, low, high, out=None, parts=None):
    """flat[...] in groups of so many weights: out, the scales times the codes that they give. parts: a list that takes
    scales[groups] and codes[groups][group]."""
    out = torch.empty_like(flat) if out is None else out
    rows, values = flat.view(-1, group), out.view(-1, group)
    for at in range(0, len(rows), CHUNK):
        w = rows[at:at + CHUNK].t().contiguous()
        scale = scales_of(w, low, high)
        q = codes_of(w, torch.where(scale == 0, 0, 1 / scale), low, high)
        values[at:at + CHUNK] = (scale * q).t()
        if parts is not None:
            parts.append((scale, q.t()))
    return out


# ---- Rules: what is trained, and what the products read of it --------------------------------------------------------

def linear_layers(model):
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    yield part, name, child


class Full:
    clip, betas = 1.0, (0.9, 0.95)

    def __init__(self, model):
        self.weights = list(model.parameters())

    def factor(self, step, steps):
        warm = max(1, round(0.1 * steps))
        return (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (steps - warm))

    def after_step(self):
        pass


class Bf16(Full):
    def __init__(self, model):
        super().__init__(model)
        for p in self.matrices():
            p.data.copy_(p.data.bfloat16())

    def matrices(self):
        return [p for p in self.weights if p.dim() > 1]

    def after_step(self):
        for p in self.matrices():
            bits = p.data.view(torch.int32)  # a float's upper half is its bf16
            bits += torch.randint_like(bits, 1 << 16)
            bits &= -(1 << 16)


class Masters(Full):
    """The weights of the layers are views of `values`, their gradients of `flat.grad`: straight-through."""

    def __init__(self, model, codes, group):
        layers = [child for _, _, child in linear_layers(model)]
        assert all(child.in_features % group == 0 for child in layers)
        self.group, self.range = group, RANGES[codes]
        self.flat = torch.cat([child.weight.data.flatten() for child in layers])
        self.flat.grad = torch.zeros_like(self.flat)
        self.values = torch.empty_like(self.flat)
        at = 0
        for child in layers:
            w = child.weight
            w.data, w.grad = (x[at:at + w.numel()].view_as(w) for x in (self.values, self.flat.grad))
            at += w.numel()
        read = {id(child.weight) for child in layers}
        self.weights = [self.flat] + [p for p in model.parameters() if id(p) not in read]
        self.after_step()

    def after_step(self):
        quantise(self.flat, self.group, *self.range, out=self.values)


class Adapter(torch.nn.Module):
    def __init__(self, base, rank):
        super().__init__()
        self.base, self.scale = base, 2.0
        self.a = torch.nn.Parameter(torch.empty(rank, base.in_features, device=base.weight.device))
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x):
        return self.base(x) + (x @ self.a.t() @ self.b.t()) * self.scale


class Lora(Full):
    clip, betas = 0.3, (0.9, 0.999)

    def __init__(self, model, rank):
        for p in model.parameters():
            p.requires_grad_(False)
        for part, name, child in linear_layers(model):
            setattr(part, name, Adapter(child, rank))
        self.weights = [p for p in model.parameters() if p.requires_grad]

    def factor(self, step, steps):
        return min(1.0, (step + 1) / max(1, round(0.03 * steps)))


# ---- Runs ------------------------------------------------------------------------------------------------------------

class Bench:
    """The model as it is in the folder, and the tokens, on the device."""

    def __init__(self, args):
        self.args, self.end = args, time.time() + args.seconds
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.start = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).to(self.device)
        self.train, self.valid = (torch.from_numpy(np.fromfile(f, np.uint16, offset=1024).astype(np.int64)).to(
            self.device) for f in (args.train, args.valid))
        self.have = {}
        for line in open(args.out) if os.path.exists(args.out) else []:
            d = json.loads(line)
            self.have[d["row"], d["lr"], d["seed"]] = d["after"]

    def loss(self, model, tokens, starts):
        at = torch.as_tensor(starts, device=self.device)[:, None] + torch.arange(LENGTH + 1, device=self.device)
        rows = tokens[at]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            logits = model(rows[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    @torch.no_grad()
    def held_out(self, model):
        starts = [w * LENGTH for w in range(self.args.windows)]
        parts = [starts[i:i + EVAL_BATCH] for i in range(0, len(starts), EVAL_BATCH)]
        return sum(self.loss(model, self.valid, p).item() * len(p) for p in parts) / len(starts)

    def run(self, name, make, rate, seed):
        """The held-out loss after training; None where there is no time for it."""
        if (name, rate, seed) in self.have:
            return self.have[name, rate, seed]
        started = time.time()
        if started > self.end:
            return None
        torch.manual_seed(seed)
        model = copy.deepcopy(self.start)
        rule = make(model)
        steps, draw = self.args.steps, np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(rule.weights, lr=rate, betas=rule.betas, weight_decay=0,
                                      fused=self.device == "cuda")
        before = self.held_out(model)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * rule.factor(step, steps)
            optimizer.zero_grad(set_to_none=False)
            self.loss(model, self.train, draw.integers(0, len(self.train) - LENGTH - 1, BATCH)).backward()
            torch.nn.utils.clip_grad_norm_(rule.weights, rule.clip)
            with torch.no_grad():
                optimizer.step()
                rule.after_step()
        after = self.held_out(model)
        line = {"row": name, "lr": rate, "seed": seed, "before": before, "after": after, "steps": steps,
                "tokens": steps * BATCH * LENGTH, "windows": self.args.windows,
                "trained": sum(p.numel() for p in rule.weights), "seconds": round(time.time() - started, 1)}
        print(line, flush=True)
        with open(self.args.out, "a") as out:
            out.write(json.dumps(line) + "\n")
        return after

    def run_all(self, name, make, rates, seeds):
        found = {r: self.run(name, make, r, seeds[0]) for r in rates}
        if None in found.values():
            return
        for seed in seeds[1:]:
            self.run(name, make, min(found, key=found.get), seed)


def rules(args):
    """Names and what makes them of a model."""
    if args.full:
        yield "full-f32", Full
    if args.bf16:
        yield "bf16", Bf16
    for text in filter(None, args.masters.split(",")):
        codes, group = text.split(":")
        yield f"masters-{codes}-g{group}", partial(Masters, codes=codes, group=int(group))
    for rank in filter(None, args.ranks.split(",")):
        yield f"lora-r{rank}", partial(Lora, rank=int(rank))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("base")
    p.add_argument("train")
    p.add_argument("valid")
    p.add_argument("out")
    p.add_argument("--ranks", default="")
    p.add_argument("--full", action="store_true")
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--masters", default="")
    p.add_argument("--rates", default="5e-5,1e-4,2e-4,4e-4")
    p.add_argument("--seeds", default="1,2,3")
    p.add_argument("--steps", type=int, default=293)
    p.add_argument("--windows", type=int, default=64)
    p.add_argument("--seconds", type=float, default=math.inf)
    args = p.parse_args()
    bench = Bench(args)
    for name, make in rules(args):
        bench.run_all(name, make, [float(r) for r in args.rates.split(",")], [int(s) for s in args.seeds.split(",")])


if __name__ == "__main__":
    main()
