"""The library's rules for fine-tuning, and what they are compared with, imitated in PyTorch on a GPU: to find settings by many short
runs. What docs/results.md says of the library comes from runs of the library.

    python3 imitate.py MODEL.npz train.bin valid.bin JOBS OUT.jsonl [--steps 293] [--windows 64] [--seconds S]
    python3 imitate.py --dump MODEL.gguf MODEL.npz FORMAT:GROUP,...       (by the library: lib/ and examples/python)

JOBS has a JSON object a line, {"rule": ..., "rates": [...], "seeds": [...]} and options of OPTIONS: the rates run with the first seed, the
best of them with the others. `rule` is

f32, bf16      all weights in F32; matrices in BF16, rounded stochastically after each step
masters        F32; products read codes of the linear layers of the blocks, made anew of the weights in every step by least squared
               error (src/format/scale.c, here in f32): `10_finetune --format f32 --compute FORMAT --group GROUP`
eco, sr        codes of the linear layers with the scales of the library's import, Adafactor; the embedding is int8 with a scale per 32
               weights. eco: the error is fed back into the momentum (8 bits in blocks of 128)
acc            DQT_ROUND_ACCUMULATE; with `m` 1, of a first moment kept beside the accumulator

with `format` int2 to int8 or ternary, and `group` 32 to 256, or 0 for a scale per row. Steps of 2 x 512 tokens, warm-up of 10 %, a cosine
to 0, clip 1, b1 0.8 for codes and 0.9 for the others, b2 0.95, no decay. Products in bf16, activations not quantised. Differences from the
library: random numbers and the order of data. `lag` 1: Adafactor's column statistics are the previous step's, 2: the norm for clipping is,
3: both, as in a step inside backward. `keep` 1: momentum times the last rate over the present one, as in ../imitation."""
import argparse
import json
import math
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

LENGTH, BATCH, EVAL_BATCH = 512, 2, 8
OPTIONS = dict(format="int4", group=32, noise=1.0, keep=0, b1=-1.0, b2=0.95, m=0, lag=0, clip=1.0)
RANGES = {"ternary": (-1, 1), **{f"int{n}": (-(1 << n - 1), (1 << n - 1) - 1) for n in range(2, 9)}}
PARTS = {"q": "attention.q", "k": "attention.k", "v": "attention.v", "o": "attention.o", "gate": "mlp.gate", "up": "mlp.up", "down": "mlp.down"}


# ---- What the library makes of a file --------------------------------------------------------------------------------

def dump(model, out, formats):
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../examples/python"))
    import dqt
    ctx, arrays = dqt.Context(), {}
    number = lambda f: getattr(dqt, "FORMAT_" + f.upper())

    def options(name, group):
        axis = dict(scale_axis=dqt.AXIS_GROUP, group_size=group) if group else dict(scale_axis=dqt.AXIS_ROW)
        return dict(storage=number(name), **(axis if name != "f32" else {}))

    for text in ["f32:0"] + formats:
        name, group = text.split(":")
        linear, wide = options(name, int(group)), options("f32" if name == "f32" else "int8", 32)
        net = dqt.Llama.open(ctx, model, max_length=LENGTH, linear=linear, embedding=wide, head=wide)
        by = {p.name: p.tensor for p in net.parameters}
        layers = net.config.num_layers
        if name == "f32":
            arrays["config"] = json.dumps({k: getattr(net.config, k) for k in ("num_layers", "num_heads", "num_kv_heads", "norm_eps", "rope_theta")})
            stack = {k: [by[f"blocks.{l}.{v}"] for l in range(layers)] for k, v in PARTS.items()}
            stack.update({k: [by[f"blocks.{l}.{k}"] for l in range(layers)] for k in ("attention_norm", "mlp_norm")})
            stack.update(embedding=[by["embedding"]], norm=[by["norm"]] if "norm" in by else [by["final_norm"]])
            for k, tensors in stack.items():
                arrays[f"f32:0/{k}"] = np.stack([t.dequantize() for t in tensors]).astype(np.float32)
            continue
        for k in [*PARTS, "embedding"]:
            key = f"{text}/{k}" if k != "embedding" else "int8:32/embedding"
            tensors = [by["embedding"]] if k == "embedding" else [by[f"blocks.{l}.{PARTS[k]}"] for l in range(layers)]
            arrays[key + "/codes"] = np.stack([t.codes for t in tensors]).astype(np.int8)
            arrays[key + "/scales"] = np.stack([t.scales.reshape(t.shape[0], -1) for t in tensors]).astype(np.float32)
    np.savez(out, **arrays)


# ---- The scales of DQT_SCALE_MSE, in f32 -------------------------------------------------------------------------------

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton:
    @triton.jit
    def _kept(s):
        size = tl.minimum(tl.maximum(tl.abs(s), 5.9604644775390625e-08), 65504.0)
        return tl.where(s < 0, -size, size).to(tl.float16).to(tl.float32)

    @triton.jit
    def _codes(w, s, low, high):
        x = tl.minimum(tl.maximum(w / s[:, None], low), high)
        return (x + 12582912.0) - 12582912.0

    @triton.jit
    def _try(w, s, there, least, result, low, high):
        s = _kept(tl.where(there, s, 1.0))
        q = _codes(w, s, low, high)
        error = s * (s * tl.sum(q * q, 1) - 2 * tl.sum(w * q, 1))
        better = there & (error < least)
        return tl.where(better, error, least), tl.where(better, s, result)

    @triton.jit
    def _search(w_at, out_at, rows, low, high, GROUP: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, BOTH: tl.constexpr):
        r, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, PADDED)
        at, inside = r.to(tl.int64)[:, None] * GROUP + c[None, :], (r < rows)[:, None] & (c < GROUP)[None, :]
        w = tl.load(w_at + at, inside, other=0.0)
        most, rms = tl.max(tl.abs(w), 1), tl.sqrt(tl.sum(w * w, 1) / GROUP)
        s = 1.189207115002721 * most / high
        end = tl.maximum(0.8 * rms / -low, s * 0.0009765625)
        gain0, gain1, scale0, scale1 = s * 0, s * 0, s * 0, s * 0
        while tl.sum(((s >= end) & (s > 0)).to(tl.int32), 0) > 0:
            active = (s >= end) & (s > 0)
            t = _kept(tl.where(active, s, 1.0))
            q = _codes(w, t, low, high)
            product, square = tl.sum(w * q, 1), tl.sum(q * q, 1)
            gain = tl.where(active & (square > 0), product * product / square, 0.0)
            scale0, gain0 = tl.where(gain > gain0, product / square, scale0), tl.maximum(gain, gain0)
            if BOTH:
                q = _codes(w, -t, low, high)
                product, square = tl.sum(w * q, 1), tl.sum(q * q, 1)
                gain = tl.where(active & (square > 0), product * product / square, 0.0)
                scale1, gain1 = tl.where(gain > gain1, product / square, scale1), tl.maximum(gain, gain1)
            s = s * 0.9170040432046712
        least, result = most * 0 + 3e38, most * 0
        least, result = _try(w, most / high, most > 0, least, result, low, high)
        if BOTH:
            least, result = _try(w, most / low, most > 0, least, result, low, high)
            least, result = _try(w, scale1, gain1 > 0, least, result, low, high)
        least, result = _try(w, most / -low, most > 0, least, result, low, high)
        least, result = _try(w, scale0, gain0 > 0, least, result, low, high)
        q = _codes(w, tl.where(result == 0, 1.0, result), low, high)
        tl.store(out_at + at, (q * result[:, None]).to(out_at.dtype.element_ty), inside)


def least_squares(w, group, low, high, out):
    """out: scales times the codes that they give; w, out [..., columns]."""
    group = group or w.shape[-1]
    padded, rows = triton.next_power_of_2(group), w.numel() // group
    block = max(1, 2048 // padded)
    _search[(triton.cdiv(rows, block),)](w, out, rows, float(low), float(high), group, padded, block, low + high != 0)


# ---- The model: stacked weights of all blocks, bf16 products, f32 between ----------------------------------------------

def rms(x, gain, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


class Net:
    def __init__(self, config, device):
        self.c, dim = config, config["head_dim"]
        angle = torch.outer(torch.arange(LENGTH).float(), config["rope_theta"] ** (-torch.arange(0, dim, 2).float() / dim))
        angle = torch.cat((angle, angle), -1).to(device)
        self.cos, self.sin = angle.cos(), angle.sin()

    def rope(self, x):
        half = x.shape[-1] // 2
        return (x * self.cos + torch.cat((-x[..., half:], x[..., :half]), -1) * self.sin).bfloat16()

    def loss(self, w, tokens):
        """w: bf16 matrices, f32 gains; tokens [sequences][LENGTH + 1]."""
        c = self.c
        heads = lambda y: y.float().unflatten(-1, (-1, c["head_dim"])).transpose(1, 2)
        x = F.embedding(tokens[:, :-1], w["embedding"][0]).float()
        for l in range(c["num_layers"]):
            h = rms(x, w["attention_norm"][l], c["norm_eps"]).bfloat16()
            q, k, v = (heads(h @ w[n][l].T) for n in "qkv")
            repeat = c["num_heads"] // c["num_kv_heads"]
            k, v = (y.repeat_interleave(repeat, 1) for y in (self.rope(k), v.bfloat16()))
            a = F.scaled_dot_product_attention(self.rope(q), k, v, is_causal=True)
            x = x + (a.transpose(1, 2).flatten(2) @ w["o"][l].T).float()
            h = rms(x, w["mlp_norm"][l], c["norm_eps"]).bfloat16()
            x = x + ((F.silu(h @ w["gate"][l].T) * (h @ w["up"][l].T)) @ w["down"][l].T).float()
        logits = rms(x, w["norm"][0], c["norm_eps"]).bfloat16() @ w["embedding"][0].T
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


# ---- Rules -------------------------------------------------------------------------------------------------------------

def round_momentum(m):
    """Blocks of 128 of a row, sign(c) (c / 127)^2 max|m|, stochastic, the mean kept."""
    pad = -m.shape[-1] % 128
    y = F.pad(m, (0, pad)).unflatten(-1, (-1, 128))
    a = y.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    z = y.abs() / a
    c = torch.floor(z.sqrt() * 127).clamp(max=126)
    low, high = (c / 127) ** 2, ((c + 1) / 127) ** 2
    z = torch.where(torch.rand_like(z) * (high - low) < z - low, high, low)
    return (y.sign() * z * a).flatten(-2)[..., :m.shape[-1]]


class Weight:
    """One stack of matrices or gains, and its rule."""

    def __init__(self, o, name, value, codes, scales):
        self.o, self.name = o, name
        rule = o["rule"]
        self.matrix = value.shape[1] > 1
        self.codes = self.matrix and rule in ("eco", "sr", "acc")
        self.block = name in PARTS
        self.masters = rule == "masters" and self.block
        self.bf16 = rule == "bf16" and self.matrix
        self.noise = o["noise"]
        self.b1 = o["b1"] if self.codes and o["b1"] >= 0 else 0.8 if self.codes else 0.9
        self.acc = self.codes and rule == "acc" and self.block
        self.low, self.high = RANGES[o["format"]] if self.block else (-128, 127)
        if self.codes:
            self.q, self.s = codes.float(), scales[..., None].clone()
        else:
            self.w = value.clone()
            if self.bf16:
                self.w.copy_(self.w.bfloat16())
        like = codes.float() if self.codes else value
        self.m = torch.zeros_like(like) if not self.acc or o["m"] else None
        self.P = torch.zeros_like(like) if self.acc else None
        if self.codes:
            self.R, self.C = torch.zeros_like(like[..., :1]), torch.zeros_like(like[:, :1])
        else:
            self.v = torch.zeros_like(like)
        self.out = torch.empty_like(like, dtype=torch.bfloat16) if self.masters else None

    def read(self):
        """What products take."""
        if self.codes:
            w = (self.q.view(*self.s.shape[:-1], -1) * self.s).view(self.q.shape)
        elif self.masters:
            least_squares(self.w, self.o["group"], self.low, self.high, self.out)
            w = self.out
        else:
            w = self.w
        return w.bfloat16() if self.matrix else w.clone()

    def step(self, g, h):
        lr, b1, b2 = h["lr"], self.b1, self.o["b2"]
        bc1, bc2 = 1 - b1 ** h["t"], 1 - b2 ** h["t"]
        if self.codes:
            g2, columns = g * g + 1e-30, self.C.clone()
            self.R.mul_(b2).add_(g2.mean(-1, keepdim=True), alpha=1 - b2)
            self.C.mul_(b2).add_(g2.mean(-2, keepdim=True), alpha=1 - b2)
            if self.o["lag"] & 1:  # C of the step before; in the first step R alone
                first = h["t"] < 2
                den = torch.where(first, self.R / bc2, self.R * columns / columns.mean(-1, keepdim=True).clamp(min=1e-38) /
                                  (1 - b2 ** (h["t"] - 1).clamp(min=1))).sqrt_().add_(1e-8)
            else:
                den = (self.R * self.C / self.C.mean(-1, keepdim=True) / bc2).sqrt_().add_(1e-8)
        else:
            self.v.mul_(b2).addcmul_(g, g, value=1 - b2)
            den = (self.v / bc2).sqrt_().add_(1e-8)
        if self.acc:
            if self.m is not None:
                self.m.copy_(round_momentum(self.o["m"] * self.m + (1 - self.o["m"]) * g))
                u = self.m / (1 - self.o["m"] ** h["t"]) / den
            else:
                u = g / den
                u /= u.pow(2).mean((-2, -1), keepdim=True).sqrt().clamp(min=1)
            self.P -= (lr * u.view(*self.s.shape[:-1], -1) / self.s).view(u.shape)
            new = torch.floor(self.q + (1 - b1) * self.P + 0.5 + self.noise * (torch.rand_like(u) - 0.5)).clamp_(self.low, self.high)
            limit = (0.5 + self.noise / 2) / (1 - b1)
            self.P.copy_((torch.floor((self.P - new + self.q) / (limit / 127) + torch.rand_like(u)) * (limit / 127)).clamp_(-limit, limit))
            self.q.copy_(new)
            return
        m = (self.m * (b1 * h["keep"]) if self.codes and self.o["keep"] else self.m * b1).add_(g, alpha=1 - b1)
        u = m / den
        u *= lr / bc1
        if not self.codes:
            self.m.copy_(m)
            self.w -= u
            if self.bf16:
                bits = self.w.view(torch.int32)
                bits += torch.randint_like(bits, 1 << 16)
                bits &= -(1 << 16)
            return
        unit = self.s.expand(*self.s.shape[:-1], self.q.shape[-1] // self.s.shape[-2]).reshape(self.q.shape)
        zero = unit == 0
        target = torch.where(zero, self.q, self.q - u / unit)
        new = torch.floor(target + 0.5 + self.noise * (torch.rand_like(u) - 0.5)).clamp_(self.low, self.high)
        if self.o["rule"] == "eco":
            error = (target.clamp_(self.low - 0.5, self.high + 0.5) - new) * unit
            m += torch.where(lr > 0, error * den * (bc1 / lr.clamp(min=1e-12) * (1 - 1 / b1)), 0.0)
        self.m.copy_(round_momentum(m))
        self.q.copy_(new)


# ---- Runs ------------------------------------------------------------------------------------------------------------

class Bench:
    def __init__(self, args):
        self.args, self.end = args, time.time() + args.seconds
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.arrays = np.load(args.model)
        c = json.loads(str(self.arrays["config"]))
        self.value = {k[6:]: self.array(k) for k in self.arrays.files if k.startswith("f32:0/")}
        c["head_dim"] = self.value["q"].shape[1] // c["num_heads"]
        self.net = Net(c, self.device)
        read = lambda f: torch.from_numpy(np.fromfile(f, np.uint16, offset=1024).astype(np.int64)).to(self.device)
        self.train, self.valid = read(args.train), read(args.valid)
        self.at = torch.arange(LENGTH + 1, device=self.device)

    def array(self, name):
        return torch.from_numpy(self.arrays[name]).to(self.device)

    @torch.no_grad()
    def held_out(self, weights):
        w = {k: x.read() for k, x in weights.items()}
        starts = torch.arange(self.args.windows, device=self.device) * LENGTH
        parts = starts.split(EVAL_BATCH)
        return sum(self.net.loss(w, self.valid[p[:, None] + self.at]).item() * len(p) for p in parts) / len(starts)

    def run(self, job, rate, seed):
        started = time.time()
        o = {**OPTIONS, **job}
        torch.manual_seed(seed)
        weights, steps, device = {}, self.args.steps, self.device
        for k, value in self.value.items():
            key = "int8:32/embedding" if k == "embedding" else f"{o['format']}:{o['group']}/{k}"
            coded = o["rule"] in ("eco", "sr", "acc") and value.shape[1] > 1
            weights[k] = Weight(o, k, value, *((self.array(f"{key}/{x}") for x in ("codes", "scales")) if coded else (None, None)))
        before = self.held_out(weights)
        draw = np.random.default_rng(seed)
        starts = torch.from_numpy(draw.integers(0, len(self.train) - LENGTH - 1, (steps, BATCH))).to(device)
        warm = max(1, round(0.1 * steps))
        factor = [(i + 1) / warm if i < warm else 0.5 + 0.5 * math.cos(math.pi * (i - warm) / (steps - warm)) for i in range(steps)]
        b1 = o["b1"] if o["b1"] >= 0 else 0.8
        pending = [f / (1 - b1 ** (i + 1)) for i, f in enumerate(factor)]
        keep = [1.0] + [min(a / b, 2.0) if b > 0 else 1.0 for a, b in zip(pending, pending[1:])]
        table = torch.tensor([(f * rate, k, i + 1) for i, (f, k) in enumerate(zip(factor, keep))], device=device)
        at, last = torch.zeros(1, dtype=torch.long, device=device), torch.ones((), device=device)

        def one():
            lr, keep, t = table.index_select(0, at)[0].unbind()
            h = dict(lr=lr, keep=keep, t=t)
            w = {k: x.read().requires_grad_() for k, x in weights.items()}
            rows = self.train[starts.index_select(0, at)[0][:, None] + self.at]
            gs = torch.autograd.grad(self.net.loss(w, rows), list(w.values()))
            with torch.no_grad():
                norm = torch.stack([g.float().pow(2).sum() for g in gs]).sum().sqrt()
                clip = (o["clip"] / ((torch.where(at[0] == 0, norm, last) if o["lag"] & 2 else norm) + 1e-6)).clamp(max=1)
                last.copy_(norm)
                for x, g in zip(weights.values(), gs):
                    x.step(g.float() * clip, h)
                at.add_(1)

        done = 0
        if device == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    one()
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                one()
            done, replay = 3, graph.replay
        else:
            replay = one
        for _ in range(done, steps):
            replay()
        after = self.held_out(weights)
        line = {**job, "rate": rate, "seed": seed, "before": round(before, 4), "after": round(after, 4), "seconds": round(time.time() - started, 1)}
        line.pop("rates"), line.pop("seeds")
        print(line, flush=True)
        with open(self.args.out, "a") as out:
            out.write(json.dumps(line) + "\n")
        return after

    def run_all(self, job):
        seeds, rates = job.get("seeds", [1]), job["rates"]
        found = {}
        for rate in rates:
            if time.time() > self.end:
                return
            found[rate] = self.run({"seeds": 0, **job}, rate, seeds[0])
        for seed in seeds[1:]:
            if time.time() < self.end:
                self.run({"seeds": 0, **job}, min(found, key=lambda r: found[r] if found[r] == found[r] else math.inf), seed)


def main():
    if sys.argv[1:2] == ["--dump"]:
        return dump(sys.argv[2], sys.argv[3], sys.argv[4].split(","))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in "model", "train", "valid", "jobs", "out":
        p.add_argument(name)
    p.add_argument("--steps", type=int, default=293)
    p.add_argument("--windows", type=int, default=64)
    p.add_argument("--seconds", type=float, default=math.inf)
    p.add_argument("--share", default="0/1", help="K/N: of the jobs, every Nth from the Kth")
    args = p.parse_args()
    bench = Bench(args)
    k, n = map(int, args.share.split("/"))
    jobs = [json.loads(line) for line in open(args.jobs) if line.strip()]
    for job in jobs[k::n]:
        bench.run_all(job)


if __name__ == "__main__":
    main()
