#!/usr/bin/env python3
"""Makes the golden files of tests/test_golden.c with PyTorch, in double precision, from the definitions alone.

    python3 tests/golden/make_golden.py            (needs torch and numpy; writes *.golden beside itself)

Nothing here comes from the library: the model, straight-through quantisation, AdamW, the rounding rules and Philox4x32-10
are written out again. Rounding is discontinuous and training multiplies each jump, so seeds and a learning rate are searched
for with which every rounded number of all ten steps keeps a distance from the points where rounding jumps. Then float32 and
double agree on every code, and a difference is an error.

A file is the magic "DQTGOLD1" and records until the end of the file, little-endian:
    u8 length, name, u8 type, u32 count, payload
    type 0: f32; 1: i32; 2: i8; 3: codes -1..1, four to a byte, u = q + 1, low bits first;
    type 4: f32 step, then int16 k of value = step * k (gradients: an error of 1e-4 of their norm at most)
"""
import math
import os
import struct

import numpy as np
import torch

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB, LAYERS, BATCH, LENGTH = 32, 48, 4, 2, 48, 2, 2, 12
EPS, THETA, STEPS = 1e-5, 10000.0, 10
F32, INT8, TERNARY = 1, 3, 7                       # DQT_FORMAT_*
ABSMEAN, SIGMA, ABSMAX = 0, 1, 2                   # DQT_SCALE_*, but 0 is AUTO: for ternary codes ABSMEAN
STOCHASTIC, ECO_STOCHASTIC = 0, 2                  # DQT_ROUND_* less 1
RNG_WEIGHT, RNG_INIT = 1, 4                        # streams of src/core/rng.h
RANGE = {INT8: (-128, 127), TERNARY: (-1, 1)}

# activation, head_activation: 0 int8, 1 not quantised
CASES = {
    'f32': dict(activation=1, sub_norms=0, linear=F32),
    'int8': dict(activation=0, sub_norms=1, linear=INT8, rule=SIGMA, row=1),
    'ternary': dict(activation=0, sub_norms=1, linear=TERNARY, rule=ABSMEAN, row=0),
    'relu_tied': dict(activation=0, sub_norms=0, linear=TERNARY, rule=ABSMEAN, row=1, mlp=1, tied=1, head_activation=0,
                      embedding=INT8, embedding_rule=ABSMAX),
    'bitnet': dict(activation=0, sub_norms=1, linear=F32, compute=TERNARY),
}


def philox(seed, step, stream, ident, count):
    """The first `count` words of Philox4x32-10 (Salmon et al. 2011): element e is word e % 4 of counter e // 4."""
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    c = [block & mask, block >> shift, np.full_like(block, step & 0xFFFFFFFF), np.full_like(block, (stream << 24) ^ ident)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> shift) ^ c[1] ^ np.uint64(k0), p1 & mask, (p0 >> shift) ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, 1).reshape(-1)[:count]


def uniform(seed, ident, shape, width):
    """Float32 in [-width, width), exactly as the C test makes them: one product of two float32 numbers."""
    words = philox(seed, 0, RNG_INIT, ident, int(np.prod(shape))) >> np.uint64(8)
    return ((words.astype(np.int64) - (1 << 23)).astype(np.float32) * np.float32(width * 2.0 ** -23)).reshape(shape)


def parameters(c):
    """(name, shape) in the library's order."""
    kv = KV_HEADS * HIDDEN // HEADS
    out = [('embedding', (VOCAB, HIDDEN))]
    for i in range(LAYERS):
        b = f'blocks.{i}.'
        out += [(b + 'attention_norm', (1, HIDDEN)), (b + 'attention.q', (HIDDEN, HIDDEN)), (b + 'attention.k', (kv, HIDDEN)),
                (b + 'attention.v', (kv, HIDDEN)), (b + 'attention.o', (HIDDEN, HIDDEN))]
        if c['sub_norms']:
            out.append((b + 'attention.sub_norm', (1, HIDDEN)))
        out.append((b + 'mlp_norm', (1, HIDDEN)))
        if not c['mlp']:
            out.append((b + 'mlp.gate', (INTERMEDIATE, HIDDEN)))
        out += [(b + 'mlp.up', (INTERMEDIATE, HIDDEN)), (b + 'mlp.down', (HIDDEN, INTERMEDIATE))]
        if c['sub_norms']:
            out.append((b + 'mlp.sub_norm', (1, INTERMEDIATE)))
    out.append(('norm', (1, HIDDEN)))
    if not c['tied']:
        out.append(('head', (VOCAB, HIDDEN)))
    return out


def storage(c, name):
    if name in ('embedding', 'head'):
        return c['embedding'], c['embedding_rule'], 0
    return (F32, 0, 0) if name.endswith('norm') else (c['linear'], c['rule'], c['row'])


class Distance:
    """The least distance of rounded numbers to a half, of codes before floor to a whole number."""
    def __init__(self):
        self.activation, self.weight, self.code = 1.0, 1.0, 1.0

    def enough(self, activation):
        """Float32 is right to about 1e-5 of an activation's 127, 3e-7 of a weight in units of its scale."""
        return self.activation > activation and self.weight > 1e-6 and self.code > 1e-6

    @staticmethod
    def of(x):
        return float((0.5 - (x - torch.round(x)).abs()).min())


def quantise(w, fmt, rule, row):
    """Codes (double), scales (float32, [1] or [rows]), least distance to a half."""
    low, high = RANGE[fmt]
    w = torch.from_numpy(w).double()
    dims = dict(dim=1, keepdim=True) if row else dict(dim=(0, 1), keepdim=True)
    s = {ABSMEAN: lambda: w.abs().mean(**dims), SIGMA: lambda: 4 * w.pow(2).mean(**dims).sqrt(),
         ABSMAX: lambda: w.abs().amax(**dims)}[rule]() / high
    s = s.float().double()
    inside = w / s
    return inside.round().clamp(low, high), s, Distance.of(inside)


def act(x, on, d):
    """int8 per token, straight-through."""
    if not on:
        return x
    s = 127.0 / x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-5)
    y = x.detach() * s
    d.activation = min(d.activation, Distance.of(y))
    return x + (y.round().clamp(-128, 127) / s - x).detach()


def read(c, w, d):
    """What a linear computes with: ternary by AbsMean where the storage is wider, straight-through."""
    if c['compute'] != TERNARY:
        return w
    s = w.detach().abs().mean()
    d.weight = min(d.weight, Distance.of(w.detach() / s))
    return w + ((w.detach() / s).round().clamp(-1, 1) * s - w.detach())


def rms(x, gain):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * gain


def rotate(x):
    """x[batch][heads][length][size], rotate-half."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[-2]).double(), THETA ** (-torch.arange(half).double() / half))
    cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def forward(c, p, tokens, d):
    size = HIDDEN // HEADS
    x = p['embedding'][tokens]
    later = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)
    for i in range(LAYERS):
        b = f'blocks.{i}.'
        w = lambda n: read(c, p[b + n], d)
        y = act(rms(x, p[b + 'attention_norm']), not c['activation'], d)
        heads = lambda t: t.view(BATCH, LENGTH, -1, size).transpose(1, 2)
        q, k, v = (heads(y @ w('attention.' + n).T) for n in 'qkv')
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
        scores = rotate(q) @ rotate(k).transpose(-1, -2) / math.sqrt(size)
        a = scores.masked_fill(later, -math.inf).softmax(-1) @ v
        a = a.transpose(1, 2).reshape(BATCH, LENGTH, HIDDEN)
        if c['sub_norms']:
            a = rms(a, p[b + 'attention.sub_norm'])
        x = x + act(a, not c['activation'], d) @ w('attention.o').T
        y = act(rms(x, p[b + 'mlp_norm']), not c['activation'], d)
        up = y @ w('mlp.up').T
        h = up.clamp(min=0).pow(2) if c['mlp'] else torch.nn.functional.silu(y @ w('mlp.gate').T) * up
        if c['sub_norms']:
            h = rms(h, p[b + 'mlp.sub_norm'])
        x = x + act(h, not c['activation'], d) @ w('mlp.down').T
    x = act(rms(x, p['norm']), not c['head_activation'], d)
    return x @ p['embedding' if c['tied'] else 'head'].T


def loss_of(logits, targets):
    return torch.nn.functional.cross_entropy(logits.view(-1, VOCAB), targets.reshape(-1), ignore_index=-1)


def initial(c, seed):
    """Values (on the grid), codes, scales."""
    values, codes, scales, distance = {}, {}, {}, 1.0
    for i, (name, shape) in enumerate(parameters(c)):
        w = uniform(seed, i, shape, 0.5)
        if name.endswith('norm'):
            w = np.float32(1) + w
        fmt, rule, row = storage(c, name)
        if fmt == F32:
            values[name] = torch.from_numpy(w).double()
            continue
        codes[name], scales[name], near = quantise(w, fmt, rule, row)
        values[name] = codes[name] * scales[name]
        distance = min(distance, near)
    return values, codes, scales, distance


def train(c, values, codes, scales, tokens, targets, o):
    """Ten steps of AdamW as docs/numerics.md has it. Returns losses, gradient norms and the codes at the end; None if a
    number comes too near to where rounding jumps."""
    d = Distance()
    values, codes = {n: v.clone() for n, v in values.items()}, {n: v.clone() for n, v in codes.items()}
    m, v = ({n: torch.zeros_like(x) for n, x in values.items()} for _ in range(2))
    losses, norms = [], []
    for step in range(STEPS):
        p = {n: x.clone().requires_grad_() for n, x in values.items()}
        loss = loss_of(forward(c, p, tokens, d), targets)
        loss.backward()
        norm = math.sqrt(sum(float(x.grad.pow(2).sum()) for x in p.values()))
        clip = min(1.0, o['clip'] / (norm + 1e-6)) if o['clip'] else 1.0
        losses.append(loss.item())
        norms.append(norm)
        for i, (name, shape) in enumerate(parameters(c)):
            b1, b2 = o['beta1'], o['beta2']
            g = p[name].grad * clip
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            bias = 1 - b1 ** (step + 1)
            denominator = (v[name] / (1 - b2 ** (step + 1))).sqrt() + o['eps']
            change = o['lr'] * (m[name] / bias / denominator + (o['decay'] if shape[0] > 1 else 0) * values[name])
            if name not in codes:
                values[name] = values[name] - change
                continue
            low, high = RANGE[storage(c, name)[0]]
            t = codes[name] - change / scales[name]
            words = philox(o['seed'], step, RNG_WEIGHT, i, t.numel()) >> np.uint64(8)
            r = torch.from_numpy(words.astype(np.float64)).reshape(t.shape) * 2.0 ** -24
            codes[name] = torch.floor(t + r).clamp(low, high)
            d.code = min(d.code, float((t + r - torch.round(t + r)).abs()[change != 0].min()))
            if o['rounding'] == ECO_STOCHASTIC:
                e = (t.clamp(low - 0.5, high + 0.5) - codes[name]) * scales[name]
                m[name] = m[name] + e * (1 - 1 / b1) * denominator * bias / o['lr']
            values[name] = codes[name] * scales[name]
        if not d.enough(4e-5):
            return None
    return losses, norms, codes


class File:
    def __init__(self, path):
        self.path, self.data = path, b'DQTGOLD1'

    def add(self, name, kind, count, payload):
        self.data += struct.pack('<B', len(name)) + name.encode() + struct.pack('<BI', kind, count) + payload

    def floats(self, name, x):
        x = np.asarray(x, dtype='<f4').reshape(-1)
        self.add(name, 0, x.size, x.tobytes())

    def ints(self, name, x):
        x = np.asarray(x, dtype='<i4').reshape(-1)
        self.add(name, 1, x.size, x.tobytes())

    def codes(self, name, x, fmt):
        x = np.asarray(x).reshape(-1).astype(np.int8)
        if fmt != TERNARY:
            self.add(name, 2, x.size, x.tobytes())
            return
        u = (np.concatenate([x, np.zeros(-x.size % 4, np.int8)]) + 1).astype(np.uint8).reshape(-1, 4)
        self.add(name, 3, x.size, (u[:, 0] | u[:, 1] << 2 | u[:, 2] << 4 | u[:, 3] << 6).astype(np.uint8).tobytes())

    def gradient(self, name, x):
        x = np.asarray(x).reshape(-1)
        step = np.float32(np.abs(x).max() / 32767)
        self.add(name, 4, x.size, struct.pack('<f', step) + np.rint(x / np.float64(step)).astype('<i2').tobytes())

    def close(self):
        with open(self.path, 'wb') as f:
            f.write(self.data)
        print(f'{os.path.basename(self.path)}: {len(self.data)} bytes')


def data(seed):
    words = philox(seed, 1, RNG_INIT, 0, 2 * BATCH * LENGTH).astype(np.int64)
    tokens, targets = torch.from_numpy(words % VOCAB).reshape(2, BATCH, LENGTH)
    targets = targets.clone()
    targets[0, 3] = targets[1, 0] = targets[1, 11] = -1
    return tokens, targets


def make(name, c):
    c = dict(dict(rule=0, row=0, mlp=0, tied=0, head_activation=1, embedding=F32, embedding_rule=0, compute=0), **c)
    seed = 1
    while True:
        values, codes, scales, near = initial(c, seed)
        tokens, targets = data(seed)
        p = {n: x.clone().requires_grad_() for n, x in values.items()}
        d = Distance()
        logits = forward(c, p, tokens, d)
        if near > 1e-6 and d.enough(2e-4):
            break
        seed += 1
    loss = loss_of(logits, targets)
    loss.backward()
    f = File(os.path.join(os.path.dirname(os.path.abspath(__file__)), name + '.golden'))
    f.ints('config', [c['mlp'], c['sub_norms'], c['tied'], c['activation'], c['head_activation'], c['linear'], c['compute'],
                      c['rule'], c['row'], c['embedding'], c['embedding_rule'], seed])
    f.ints('tokens', tokens)
    f.ints('targets', targets)
    f.floats('logits', logits.detach())
    f.floats('loss', [loss.item()])
    for n, x in codes.items():
        f.codes('code ' + n, x, storage(c, n)[0])
        f.floats('scale ' + n, scales[n])
    for n, x in p.items():
        f.gradient('gradient ' + n, x.grad)
    for run, o in enumerate([dict(clip=0.0, rounding=STOCHASTIC, beta1=0.9), dict(clip=1.0, rounding=ECO_STOCHASTIC, beta1=0.8)]):
        found, tries = None, 0
        while not found:
            o = dict(o, beta2=0.95, eps=1e-3, decay=0.125, lr=(1 + tries / 1024) / 256, seed=7 + tries)
            found, tries = train(c, values, codes, scales, tokens, targets, o), tries + 1
        losses, norms, ends = found
        f.floats(f'{run} options', [o['lr'], o['decay'], o['beta1'], o['beta2'], o['eps'], o['clip']])
        f.ints(f'{run} rounding', [o['rounding'], o['seed']])
        f.floats(f'{run} losses', losses)
        f.floats(f'{run} norms', norms)
        for n, x in ends.items():
            f.codes(f'{run} end {n}', x, storage(c, n)[0])
        changed = [float((ends[n] != codes[n]).double().mean()) for n in ends]
        print(f'{name} run {run} seed {seed} try {tries}: loss {losses[0]:.4f} -> {losses[-1]:.4f}, norm {norms[0]:.3f} -> {norms[-1]:.3f}, '
              f'codes changed {100 * np.mean(changed) if changed else 0:.1f} %')
    f.close()


if __name__ == '__main__':
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for case, options in CASES.items():
        make(case, options)
