"""Imitation of libdqt's update rules in PyTorch: trains byte-level BitNet-structured LLaMAs on one GPU and prints held-out
bits per byte. It is a laboratory for rules, not the library: codes are kept as floats on integers, states are rounded as the
library's are but not packed, random numbers and the order of data differ. docs/numerics.md has the rules by name.

    python3 imitate.py TRAIN.txt VALID.txt '{"size": "lab", "family": "ternary", "seeds": [1, 2, 3]}'

trains three models at once (seeds are stacked, so that a small model fills a GPU) and prints one JSON line per model.
run_queue.py runs many of these, report.py makes the table and the plot. A run's options are those of DEFAULTS, one of SIZES
and one of FAMILIES below; what is given last wins. COMPILE=0 in the environment does without torch.compile.

What is imitated: int8 activations per token, ternary and integer codes with one scale per tensor, row or group, trained scales with
a fixed step, decay, rounding noise, ECO, 8-bit momentum in blocks of 128 whose mean is kept, the factored second moment.
What the library does not have: `keep` (the fed-back error is kept when the learning rate changes) where 1 - b1^t and b1 change, too
(rate_corrected follows the rate alone), kind `acc` (DQT_ROUND_ACCUMULATE: the rounding error in an accumulator of its own, in grid
units) in other than 8 bits, orthogonalised and sign directions, momentum of low rank, schedules of noise and b1.

kind    what is kept of a linear weight, and how a step changes it
float   F32 (ternary compute: BitNet b1.58): w -= lr (u + decay w)
sr      codes, rounded stochastically; the rounding error is lost
eco     codes; the rounding error goes into the momentum (direction must be linear in it: adam)
acc     codes q and an accumulator P of `pbits`: P -= lr (u / unit + decay q); q' = round(q + (1 - b1) P); P -= q' - q. ECO with constant
        lr and second moment is this rule with P in the momentum's place; here any direction may be taken.
"""
import argparse, json, math, os, sys, time
import torch, torch.nn.functional as F

SIZES = {
    'tiny': dict(d=128, f=128, L=1, h=2, T=16, B=2, steps=6, warm=2),
    'lab': dict(d=256, f=704, L=4, h=4, T=128, B=64, steps=2000, warm=100),
    '25m': dict(d=512, f=1408, L=8, h=8, T=256, B=128, steps=3000, warm=100),
    '85m': dict(d=768, f=2048, L=12, h=12, T=256, B=64, steps=3000, warm=100),
}
DEFAULTS = dict(
    kind='float', bits=0, tern=0, std=0.04, sigma=0.0, rows=0, group=0, scale_lr=0.0,   # storage; scale_lr 0: scales are fixed
    dir='adam', factored=0, mbits=32, pbits=8, rank=4, urms=0.3, keep=0, turns=5, polar=0,
    lr=2e-3, fp_lr=6e-3, sched='cosine', cool=0.3, wd=0.0, fp_wd=-1.0, b1=0.8, b1_end=-1.0, fp_b1=0.8, b2=0.95, noise=1.0, noise_end=-1.0,
    clip=1.0, seeds=[1], lrs=[], eval_every=500)
TERNARY = dict(kind='eco', bits=0, std=0.04, rows=1, scale_lr=9.0, factored=1, mbits=8, lr=4e-3, fp_lr=12e-3, wd=0.75, b1=0.6, noise=0.3)
FAMILIES = {
    'f32': dict(),
    'bitnet': dict(tern=1),
    'ternary': TERNARY,
    'int4': dict(kind='eco', bits=4, std=0.08, factored=1, mbits=8, lr=4e-3, fp_lr=4e-3, wd=0.3),
    'ternary-acc': dict(TERNARY, kind='acc', mbits=0),
    'latent': dict(kind='sr', bits=8, sigma=4.0, tern=1, factored=1, mbits=0),
}
VOCAB = 256

# ---- model: K models at once, x is [K, B * T, d] ------------------------------------------------------------------------

def rms(x, gain): return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * gain

def act(x):
    """int8 codes times their step, one step per token; backward is straight-through."""
    a = x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return (x + ((x * (127 / a)).round().clamp(-127, 127) * (a / 127) - x).detach()).bfloat16()

def lin(x, w): return torch.bmm(x, w.transpose(1, 2)).float()

def rope(x, cos, sin):
    h = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., h:], x[..., :h]), -1) * sin

def block(x, n1, n2, sn1, sn2, wa, wg, wd, cos, sin, B, T, h):
    """wa [4, K, d, d] holds q, k, v, o; wg [2, K, f, d] gate and up; wd [K, d, f]."""
    K, N, d = x.shape
    y = lin(act(rms(x, n1)), wa[:3].transpose(0, 1).reshape(K, 3 * d, d))
    q, k, v = y.view(K * B, T, 3, h, d // h).permute(2, 0, 3, 1, 4).unbind(0)
    a = F.scaled_dot_product_attention(rope(q, cos, sin).bfloat16(), rope(k, cos, sin).bfloat16(), v.bfloat16(), is_causal=True)
    x = x + lin(act(rms(a.transpose(1, 2).reshape(K, N, d).float(), sn1)), wa[3])
    y = lin(act(rms(x, n2)), wg.transpose(0, 1).reshape(K, -1, d))
    g, u = y.chunk(2, -1)
    return x + lin(act(rms(F.silu(g) * u, sn2)), wd)

def head_loss(x, gain, head, target):
    """Mean cross-entropy of each model, [K]."""
    K, N, _ = x.shape
    logits = lin(rms(x, gain).bfloat16(), head.bfloat16())
    return F.cross_entropy(logits.view(K * N, VOCAB), target.reshape(-1), reduction='none').view(K, N).mean(1)

# ---- states ---------------------------------------------------------------------------------------------------------------

def round_momentum(m, bits, r):
    """Blocks of 128 of a row, code c of 2^bits - 1 stands for sign(c) (c / top)^2 max|m|; stochastic between neighbours, mean kept."""
    top = 2 ** (bits - 1) - 1
    y = m.reshape(*m.shape[:-1], -1, 128 if m.shape[-1] % 128 == 0 else 64)
    a = y.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    z = (y.abs() / a).clamp(max=1)
    c = torch.floor(z.sqrt() * top).clamp(max=top - 1)
    lo, hi = (c / top) ** 2, ((c + 1) / top) ** 2
    z = torch.where(r.reshape(y.shape) * (hi - lo) < z - lo, hi, lo)
    return (y.sign() * z * a).reshape(m.shape)

def round_uniform(p, limit, bits, r):
    """2^bits - 1 values over -limit..limit, stochastic."""
    step = limit / (2 ** (bits - 1) - 1)
    return ((torch.floor(p / step + r) * step).clamp(min=-limit)).clamp(max=limit)

JORDAN = [(3.4445, -4.7750, 2.0315)] * 5                                            # [Jordan et al. 2024, Muon]
POLAR = [(8.2051, -22.9019, 16.4607), (4.0664, -2.8612, 0.5184), (3.9096, -2.8234, 0.5250),
         (3.2856, -2.4153, 0.4853), (2.2779, -1.6198, 0.3985)]                      # [Amsel et al. 2025, Polar Express]

def newton_schulz(g, turns=JORDAN):
    """About the nearest (semi-)orthogonal matrix, values of about 1 / sqrt(larger side) each."""
    x = g.bfloat16(); tall = x.shape[-2] > x.shape[-1]
    if tall: x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-20).bfloat16()
    for a, b, c in turns:
        y = x @ x.mT
        x = a * x + (b * y + c * (y @ y)) @ x
    return (x.mT if tall else x).float()

def low_rank(M, V):
    """One step of subspace iteration: V [.., c, rank] orthonormal becomes that of M^T (M V); gives U, V with M close to U V^T."""
    Y = M.mT @ (M @ V); cols = []
    for k in range(V.shape[-1]):
        v = Y[..., k:k + 1]
        for w in cols + cols: v = v - w * (w * v).sum(-2, keepdim=True)        # twice: what is left may be small
        cols.append(v / (v.norm(dim=-2, keepdim=True) + 1e-20))
    V = torch.cat(cols, -1)
    return M @ V, V

# ---- rules ----------------------------------------------------------------------------------------------------------------

def second_moment(S, g, H):
    g2 = g * g
    if 'v' in S:
        S['v'].copy_(H['b2'] * S['v'] + (1 - H['b2']) * g2); v = S['v']
    else:
        S['R'].copy_(H['b2'] * S['R'] + (1 - H['b2']) * (g2 + 1e-30).mean(-1, keepdim=True))
        S['C'].copy_(H['b2'] * S['C'] + (1 - H['b2']) * (g2 + 1e-30).mean(-2, keepdim=True))
        v = S['R'] * S['C'] / S['R'].mean(-2, keepdim=True)
    return (v / H['bc2']).sqrt() + 1e-8

def float_step(S, g, H):
    """Embedding, head and gains: AdamW, or with the factored second moment."""
    g = g * H['clip']; den = second_moment(S, g, H)
    S['m'].copy_(H['b1'] * S['m'] + (1 - H['b1']) * g)
    S['w'].copy_(S['w'] * (1 - H['lr'] * H['wd']) - H['lr'] * S['m'] / (H['bc1'] * den))

def linear_step(S, g, H, u, r1, r2, c):
    """One step of a stack [n, K, rows, cols] of linear weights; u: the direction where it was made outside (not adam, not sign).
    c: (kind, dir, lowest code, highest code, mbits, pbits)"""
    kind, direction, qn, qp, mbits, pbits = c
    g = g.float() * H['clip']; lr, b1 = H['lr'], H['b1']; m = den = None
    if direction == 'adam':
        den = second_moment(S, g, H)
        if 'm' in S:
            m = b1 * H['keep'] * S['m'] + (1 - b1) * g; u = m / (H['bc1'] * den)
        else:
            u = g / den; u = u / u.pow(2).mean((-2, -1), keepdim=True).sqrt().clamp(min=1.0)
    elif direction == 'sign':
        if 'm' in S: u = (0.9 * S['m'] + 0.1 * g).sign(); m = 0.98 * S['m'] + 0.02 * g
        else: u = g.sign()
    elif direction == 'lowrank':
        u = u / (H['bc1'] * second_moment(S, g, H))
    if 'sc' in S and 'sm' in S:                                     # trained scales: Adam, relative steps
        q5 = S['q'].view(*S['sc'].shape[:-1], -1)
        gs = (g.view(q5.shape) * q5).sum(-1, keepdim=True)
        S['sm'].copy_(H['sb1'] * S['sm'] + (1 - H['sb1']) * gs); S['sv'].copy_(H['b2'] * S['sv'] + (1 - H['b2']) * gs * gs)
        su = S['sm'] / H['sbc1'] / ((S['sv'] / H['bc2']).sqrt() + 1e-8)
        S['sc'].copy_(S['sc'] * (1 - lr.unsqueeze(-1) * H['slr'] * su).clamp(0.5, 2))
    if kind == 'float':
        S['q'].copy_(S['q'] * (1 - lr * H['wd']) - lr * u)
    elif kind == 'acc':
        P = S['P'] - lr * (u / S['unit'] + H['wd'] * S['q'])
        new = torch.floor(S['q'] + (1 - b1) * P + 0.5 + H['noise'] * (r1 - 0.5)).clamp(qn, qp)
        S['P'].copy_(round_uniform(P - (new - S['q']), H['limit'], pbits, r2)); S['q'].copy_(new)
    else:
        t = S['q'] * (1 - lr * H['wd']) - lr * u / S['unit']
        new = torch.floor(t + 0.5 + H['noise'] * (r1 - 0.5)).clamp(qn, qp)
        if kind == 'eco':
            e = (t.clamp(qn - 0.5, qp + 0.5) - new) * S['unit']
            m = m + e * den * H['bc1'] / lr.clamp(min=1e-12) * (1 - 1 / b1)
        S['q'].copy_(new)
    if m is not None: S['m'].copy_(round_momentum(m, mbits, r2) if mbits < 32 and kind != 'float' else m)

def outside(S, g, H, c):
    """Directions that are products of matrices: orthogonalised (of g, or of momentum with Nesterov's step), or momentum of low rank."""
    g = g.float() * H['clip']
    if c.dir == 'muon':
        if 'm' in S:
            m = 0.95 * S['m'] + 0.05 * g; g = 0.95 * m + 0.05 * g
            S['m'].copy_(round_momentum(m, c.mbits, torch.rand_like(m)) if c.mbits < 32 and c.kind != 'float' else m)
        return newton_schulz(g, (POLAR if c.polar else JORDAN)[:c.turns]) * (c.urms * max(g.shape[-2:]) ** 0.5)
    M = H['b1'] * (S['U'] @ S['V'].mT) + (1 - H['b1']) * g
    U, V = low_rank(M, S['V']); S['U'].copy_(U); S['V'].copy_(V)
    return M

_compiled = {}
def compiled(f):
    if os.environ.get('COMPILE', '1') == '0' or not torch.cuda.is_available() and os.environ.get('COMPILE') != '1': return f
    if f not in _compiled:
        for n in ('recompile_limit', 'cache_size_limit', 'accumulated_recompile_limit', 'accumulated_cache_size_limit'):
            if hasattr(torch._dynamo.config, n): setattr(torch._dynamo.config, n, 256)
        _compiled[f] = torch.compile(f, dynamic=False)
    return _compiled[f]

# ---- one run --------------------------------------------------------------------------------------------------------------

def options(job):
    """The Namespace of a run: defaults, size, family, then the job's own."""
    o = {**DEFAULTS, **SIZES[job.get('size', 'lab')], **FAMILIES[job.get('family', 'ternary')], **job}
    c = argparse.Namespace(**o)
    c.qn, c.qp = (-1, 1) if c.bits == 0 else (-2 ** (c.bits - 1), 2 ** (c.bits - 1) - 1)
    if c.lrs: c.seeds = [c.seeds[0]] * len(c.lrs)
    return c

def shapes(c): return {'a': (4 * c.L, c.d, c.d), 'g': (2 * c.L, c.f, c.d), 'd': (c.L, c.d, c.f)}

def state_bytes(c):
    """Bytes kept between steps per linear weight: codes or weights, scales, moments, accumulator; what the library packs, packed."""
    total = count = 0
    for n, r, k in shapes(c).values():
        b = 4 if c.kind == 'float' else c.bits / 8 if c.bits else 0.25
        if c.kind != 'float': b += (4 + (8 if c.scale_lr else 0)) * (1 / c.group if c.group else 1 / k if c.rows else 1 / (r * k))
        if c.dir == 'lowrank': b += 4 * c.rank * (1 / r + 1 / k)
        elif c.mbits: b += 4 if c.mbits == 32 or c.kind == 'float' else c.mbits / 8 + 4 / 128
        if c.dir in ('adam', 'lowrank'): b += 4 * (1 / r + 1 / k) if c.factored else 4
        if c.kind == 'acc': b += c.pbits / 8
        total += n * r * k * b; count += n * r * k
    return total / count

def schedule(c, i):
    x = i / c.steps
    s = 0.5 * (1 + math.cos(math.pi * min(1, x))) if c.sched == 'cosine' else min(1.0, (1 - x) / c.cool) if c.sched == 'wsd' else 1 - x
    return min(1, (i + 1) / c.warm) * s

def tables(c, dev):
    """What changes with the step, one row a step: rates' factor, noise, b1 of linear weights, products for bias corrections, keep."""
    rows, prod, fprod, last = [], 1.0, 1.0, None
    for i in range(c.steps):
        x = i / c.steps; s = schedule(c, i)
        b1 = c.b1 if c.b1_end < 0 else c.b1 + (c.b1_end - c.b1) * x
        noise = c.noise if c.noise_end < 0 else c.noise + (c.noise_end - c.noise) * x
        prod *= b1; fprod *= c.fp_b1; bc1 = 1 - prod
        pending = s / bc1 * (b1 / (1 - b1) if 0 < b1 < 1 else 1)                    # what one unit of m still moves a code
        keep = last / pending if c.keep and last and pending else 1.0
        last = pending
        rows.append((s, noise, b1, bc1, 1 - fprod, 1 - c.b2 ** (i + 1), keep))
    return torch.tensor(rows, device=dev)

class Net:
    def __init__(s, c, dev):
        s.c = c; K = len(c.seeds); g = [torch.Generator(device=dev).manual_seed(k) for k in c.seeds]
        normal = lambda n, r, k, std: torch.stack([torch.randn(n, r, k, device=dev, generator=x) for x in g], 1) * std
        s.lin = {k: s.storage(normal(*v, c.std)) for k, v in shapes(c).items()}
        one = lambda n, k: torch.ones(n, K, 1, k, device=dev)
        s.fp = dict(emb=normal(1, VOCAB, c.d, 0.02), head=normal(1, VOCAB, c.d, 0.02), n1=one(c.L, c.d), n2=one(c.L, c.d), sn1=one(c.L, c.d),
                    sn2=one(c.L, c.f), norm=one(1, c.d))
        s.fps = {k: s.float_state(w) for k, w in s.fp.items()}
        hd = c.d // c.h; e = torch.outer(torch.arange(c.T).float(), 1.0 / (10000 ** (torch.arange(0, hd, 2).float() / hd)))
        e = torch.cat((e, e), -1).to(dev); s.cos, s.sin = e.cos(), e.sin()
        s.shift = (torch.arange(K, device=dev) * VOCAB).view(K, 1); s.t = torch.zeros(1, dtype=torch.long, device=dev)

    def float_state(s, w):
        S = dict(w=w, m=torch.zeros_like(w))
        if s.c.factored and w.shape[-2] > 1: S.update(R=torch.zeros_like(w[..., :1]), C=torch.zeros_like(w[..., :1, :]))
        else: S['v'] = torch.zeros_like(w)
        return S

    def storage(s, w):
        c = s.c; n, K, r, k = w.shape; S = {}
        if c.kind == 'float': S['q'] = w
        else:
            w5 = w.view(n, K, r, k // (c.group or k), -1); ax = (-1,) if c.rows or c.group else (-3, -2, -1)
            sc = w5.abs().mean(ax, keepdim=True) / c.qp if not c.sigma else w5.pow(2).mean(ax, keepdim=True).sqrt() * c.sigma / c.qp
            sc = sc.expand(*w5.shape[:-1], 1).contiguous()
            S['q'] = (w5 / sc).round().clamp(c.qn, c.qp).view(w.shape)
            S['sc'] = sc; S['unit'] = sc.mean((-3, -2, -1)).view(n, K, 1, 1)
            if c.scale_lr: S['sm'] = torch.zeros_like(sc); S['sv'] = torch.zeros_like(sc)
        if c.dir == 'lowrank':
            S['U'] = torch.zeros(n, K, r, c.rank, device=w.device); S['V'] = torch.randn(n, K, k, c.rank, device=w.device)
        elif c.mbits: S['m'] = torch.zeros_like(w)
        if c.dir in ('adam', 'lowrank'):
            if c.factored: S.update(R=torch.zeros_like(w[..., :1]), C=torch.zeros_like(w[..., :1, :]))
            else: S['v'] = torch.zeros_like(w)
        if c.kind == 'acc': S['P'] = torch.zeros_like(w)
        return S

    def weights(s):
        """What forward multiplies with, in bf16: leaves of the graph, since every path to the kept weight is straight-through."""
        out = {}
        for k, S in s.lin.items():
            w = S['q'] if 'sc' not in S else (S['q'].view(*S['sc'].shape[:-1], -1) * S['sc']).view(S['q'].shape)
            if s.c.tern:
                a = w.abs().mean((-2, -1), keepdim=True).clamp(min=1e-5); w = (w / a).round().clamp(-1, 1) * a
            out[k] = w.bfloat16().requires_grad_()
        return out

    def loss(s, ix, tg, W, P):
        c = s.c; K, N = ix.shape; f = compiled(block)
        x = F.embedding(ix + s.shift, P['emb'].view(K * VOCAB, c.d))
        wa = W['a'].view(c.L, 4, K, c.d, c.d).unbind(0); wg = W['g'].view(c.L, 2, K, c.f, c.d).unbind(0); wd = W['d'].unbind(0)
        n1, n2, s1, s2 = (P[k].unbind(0) for k in ('n1', 'n2', 'sn1', 'sn2'))
        for l in range(c.L): x = f(x, n1[l], n2[l], s1[l], s2[l], wa[l], wg[l], wd[l], s.cos, s.sin, N // c.T, c.T, c.h)
        return compiled(head_loss)(x, P['norm'][0], P['head'][0], tg)

    def step(s, ix, tg, tab, lrs):
        """lrs [K]: greatest rate of each model's linear weights."""
        c = s.c; W = s.weights(); P = {k: v.detach().requires_grad_() for k, v in s.fp.items()}
        l = s.loss(ix, tg, W, P); leaves = list(W.values()) + list(P.values())
        gs = dict(zip([*W, *P], torch.autograd.grad(l.sum(), leaves)))
        with torch.no_grad():
            norm = torch.stack([g.float().pow(2).sum((0, 2, 3)) for g in gs.values()]).sum(0).sqrt()
            f, noise, b1, bc1, fbc1, bc2, keep = tab.index_select(0, s.t)[0].unbind(0)
            num = lambda x: torch.full((), float(x), device=f.device)
            clip = (c.clip / (norm + 1e-6)).clamp(max=1).view(1, -1, 1, 1); lr = (f * lrs).view(1, -1, 1, 1)
            H = dict(clip=clip, lr=lr, b1=b1, bc1=bc1, bc2=bc2, keep=keep, noise=noise, b2=num(c.b2), wd=num(c.wd), slr=num(c.scale_lr), sb1=num(c.fp_b1),
                     sbc1=fbc1, limit=num((0.5 + max(c.noise, c.noise_end) / 2) / (1 - max(c.b1, c.b1_end))))
            for k, S in s.lin.items():
                u = outside(S, gs[k], H, c) if c.dir in ('muon', 'lowrank') else None
                r1, r2 = torch.rand_like(S['q']), torch.rand_like(S['q'])
                compiled(linear_step)(S, gs[k], H, u, r1, r2, (c.kind, c.dir, c.qn, c.qp, c.mbits, c.pbits))
            for k, S in s.fps.items():
                Hf = dict(clip=clip, lr=f * c.fp_lr, b1=num(c.fp_b1), bc1=fbc1, bc2=bc2, b2=num(c.b2),
                          wd=num((c.wd if c.fp_wd < 0 else c.fp_wd) if k in ('emb', 'head') else 0))
                compiled(float_step)(S, gs[k], Hf)
            s.t += 1
        return l.detach()

def run(job, data, val, stop_at=math.inf, progress=lambda **k: None):
    """data, val: uint8 tensors on the device. Gives one result (a dict) per model; `stopped` where stop_at (time.time()) came first."""
    c = options(job); dev = data.device; K = len(c.seeds); N = c.B * c.T; t0 = time.time()
    torch.manual_seed(1000 + c.seeds[0]); net = Net(c, dev); tab = tables(c, dev)
    lrs = torch.tensor([float(x) for x in (c.lrs or [c.lr] * K)], device=dev)
    starts = torch.stack([torch.randint(0, len(data) - c.T - 1, (c.steps, c.B), device=dev, generator=torch.Generator(device=dev).manual_seed(k + 1))
                          for k in c.seeds], 1)
    ar = torch.arange(c.T + 1, device=dev); log = torch.zeros(c.steps, K, device=dev)
    def windows(d, i):
        b = d[i.unsqueeze(-1) + ar].long(); return b[..., :-1].reshape(K, -1), b[..., 1:].reshape(K, -1)
    def one():
        ix, tg = windows(data, starts.index_select(0, net.t)[0])
        l = net.step(ix, tg, tab, lrs); log.index_copy_(0, net.t - 1, l.view(1, K))
    n = min(1024, len(val) // (c.T + 1)) // c.B * c.B
    at = torch.linspace(0, len(val) - c.T - 2, n, device=dev).long().view(-1, 1, c.B).expand(-1, K, -1)
    def evaluate():
        tot = torch.zeros(K, device=dev); W = net.weights(); P = {k: v.detach().requires_grad_() for k, v in net.fp.items()}
        for i in at: tot += net.loss(*windows(val, i), W, P).detach()               # with grad: the compiled code of training is used again
        return [round(x, 4) for x in (tot / len(at) / math.log(2)).tolist()]
    if dev.type == 'cuda':
        side = torch.cuda.Stream(); side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3): one()
        torch.cuda.current_stream().wait_stream(side); torch.cuda.synchronize()
        G = torch.cuda.CUDAGraph()
        with torch.cuda.graph(G): one()
        step, i = G.replay, 3
    else: step, i = one, 0
    t1 = time.time(); curve = []; stopped = diverged = False
    while i < c.steps and not stopped and not diverged:
        step(); i += 1
        if i % 100 == 0 or i == c.steps:
            l = log[i - 1].tolist(); stopped = i < c.steps and time.time() > stop_at; diverged = not any(map(math.isfinite, l))
            if i % c.eval_every == 0 and i < c.steps:
                curve.append((i, evaluate())); progress(step=i, val=curve[-1][1], sec=round(time.time() - t0, 1))
    v = evaluate(); sec = time.time() - t0; out = []
    base = {k: x for k, x in vars(c).items() if k not in ('seeds', 'lrs', 'qn', 'qp', 'name')}
    for k in range(K):
        r = dict(name=job.get('name', c.family), val=v[k], seed=c.seeds[k], rate=round(lrs[k].item(), 7), steps_done=i, state=round(state_bytes(c), 4),
                 train=round(log[max(0, i - 200):i, k].mean().item() / math.log(2), 4), sec=round(sec / K, 1), setup=round(t1 - t0, 1), models=K,
                 curve=[(a, b[k]) for a, b in curve], options=dict(base, lr=round(lrs[k].item(), 7)))
        if stopped or diverged: r['stopped' if stopped else 'diverged'] = True
        if c.kind != 'float':
            q = torch.cat([S['q'][:, k].flatten() for S in net.lin.values()]); r['zero'] = round((q == 0).float().mean().item(), 3)
            r['scale'] = round(torch.stack([(S['sc'][:, k] / S['unit'][:, k].unsqueeze(-1)).mean() for S in net.lin.values()]).mean().item(), 3)
        out.append(r)
    return out

def load(path, dev):
    import lzma, numpy as np
    raw = (lzma.open(path).read() if path.endswith('.xz') else open(path, 'rb').read())
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).copy()).to(dev)

if __name__ == '__main__':
    if len(sys.argv) != 4: sys.exit(__doc__)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    for line in run(json.loads(sys.argv[3]), load(sys.argv[1], device), load(sys.argv[2], device)): print(json.dumps(line))
