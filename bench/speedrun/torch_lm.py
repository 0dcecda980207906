"""The peer of `make speedrun`: the same byte-level LLaMA (gated SiLU, RMSNorm, rotary positions) in PyTorch with float weights,
trained until the same held-out windows reach --until bits per byte. It ends with the line that 03_train ends with; the seconds of
training contain neither evaluation nor compilation, which is said apart.

    python3 torch_lm.py --data train.txt --valid valid.txt --until 1.85 --threads 2 [--bf16] [--compile]

--help lists the options. --device cuda trains on a GPU, a step as one CUDA graph, in exact F32 products unless --bf16: the number of steps
is then about the same, and soon known."""
import argparse, contextlib, math, signal, time
import torch, torch.nn as nn, torch.nn.functional as F


def options():
    p = argparse.ArgumentParser()
    for name, value in dict(hidden=256, ff=704, layers=4, heads=4, seq=128, batch=16, steps=2000, warmup=100, threads=0, seed=1,
                            eval_every=100, eval_windows=512).items():
        p.add_argument('--' + name.replace('_', '-'), type=int, default=value)
    for name, value in dict(lr=6e-3, linear_lr=1 / 3, beta1=0.8, beta2=0.95, decay=0.0, clip_norm=1.0, init_std=0.02,
                            linear_init_std=0.04, until=1.85, cooldown=0.0).items():
        p.add_argument('--' + name.replace('_', '-'), type=float, default=value)
    for name in 'bf16', 'compile', 'sub_norms', 'no_graph':
        p.add_argument('--' + name.replace('_', '-'), action='store_true')
    p.add_argument('--data', required=True)
    p.add_argument('--valid', required=True)
    p.add_argument('--device', default='cpu')
    return p.parse_args()


class Norm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.gain.to(x.dtype), 1e-5)


def linear(n_in, n_out, std):
    layer = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Block(nn.Module):
    """Queries, keys and values are one product, gate and up another: fewer calls, the same model."""

    def __init__(self, o):
        super().__init__()
        d, f, std = o.hidden, o.ff, o.linear_init_std
        self.heads = o.heads
        self.norm1, self.norm2 = Norm(d), Norm(d)
        self.sub1, self.sub2 = (Norm(d), Norm(f)) if o.sub_norms else (nn.Identity(), nn.Identity())
        self.qkv, self.out = linear(d, 3 * d, std), linear(d, d, std)
        self.gate_up, self.down = linear(d, 2 * f, std), linear(f, d, std)

    def forward(self, x, cos, sin):
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.out(self.sub1(y.transpose(1, 2).reshape(n, t, d)))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(self.sub2(F.silu(gate) * up))


class Model(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.embedding = nn.Embedding(256, o.hidden)
        nn.init.normal_(self.embedding.weight, std=o.init_std)
        self.blocks = nn.ModuleList(Block(o) for _ in range(o.layers))
        self.norm, self.head = Norm(o.hidden), linear(o.hidden, 256, o.init_std)
        half = o.hidden // o.heads // 2
        angles = torch.outer(torch.arange(o.seq).float(), 1e4 ** (-torch.arange(half).float() / half))
        self.register_buffer('cos', angles.cos())
        self.register_buffer('sin', angles.sin())

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.cross_entropy(self.head(self.norm(x)).float().view(-1, 256), targets.reshape(-1))


def read(path, device):
    with open(path, 'rb') as f:
        return torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).to(device)


def windows(text, starts, length):
    w = text[starts[:, None] + torch.arange(length + 1, device=text.device)].long()
    return w[:, :-1], w[:, 1:]


def held_out(text, o):
    """The windows of 03_train: evenly spaced, the first at the beginning, the last at the end (windows_held_out)."""
    last, n = len(text) - o.seq - 1, o.eval_windows
    starts = torch.tensor([int(last * i / (n - 1)) if n > 1 else 0 for i in range(n)], device=text.device)
    return [windows(text, s, o.seq) for s in starts.split(o.batch if text.device.type == 'cpu' else n)]


def rate(step, o):
    """dqt_schedule_cosine, or with --cooldown dqt_schedule_wsd, to zero; the peak is 1."""
    if step < o.warmup:
        return (step + 1) / o.warmup
    if step >= o.steps:
        return 0.0
    begin = max(o.warmup, (1 - o.cooldown) * o.steps if o.cooldown > 0 else 0)
    fallen = 0.0 if step <= begin else (step - begin) / (o.steps - begin)
    return 1 - fallen if o.cooldown > 0 else 0.5 + 0.5 * math.cos(math.pi * fallen)


def optimizer_of(model, o):
    """Blocks' matrices have a rate and a decay of their own, as in the library's recipes."""
    blocks = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is b for b in blocks)]
    groups = [dict(params=blocks, lr=o.lr * o.linear_lr, weight_decay=o.decay), dict(params=others, lr=o.lr, weight_decay=0.0)]
    on_gpu = blocks[0].is_cuda  # rates are tensors there, so that a graph reads them
    for g in groups:
        g['peak'] = g['lr']
        g['lr'] = torch.tensor(g['lr'], device=blocks[0].device) if on_gpu else g['lr']
    return torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), fused=True, capturable=on_gpu)


class Trainer:
    def __init__(self, o):
        torch.manual_seed(o.seed)
        self.o, self.train = o, read(o.data, o.device)
        self.windows = held_out(read(o.valid, o.device), o)
        self.model = Model(o).to(o.device)
        self.loss = torch.compile(self.model) if o.compile else self.model
        self.optimizer = optimizer_of(self.model, o)
        self.graph = None

    def precision(self):
        return torch.autocast(self.o.device, dtype=torch.bfloat16) if self.o.bf16 else contextlib.nullcontext()

    def backward(self):
        starts = torch.randint(len(self.train) - self.o.seq, (self.o.batch,), device=self.o.device)
        with self.precision():
            loss = self.loss(*windows(self.train, starts, self.o.seq))
        loss.backward()

    def update(self):
        self.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.o.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, number):
        for g in self.optimizer.param_groups:
            if self.o.device == 'cpu':
                g['lr'] = g['peak'] * rate(number, self.o)
            else:
                g['lr'].fill_(g['peak'] * rate(number, self.o))
        if self.o.device == 'cpu':
            self.update()
        else:
            self.update_on_gpu(number)

    def update_on_gpu(self, number):
        """The first steps run as they are, which makes the optimizer's state; then one is recorded, and that is repeated."""
        if number < 3 or self.o.no_graph:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.update()
            torch.cuda.current_stream().wait_stream(side)
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.update()
        self.graph.replay()

    @torch.no_grad()
    def evaluate(self):
        total = 0.0
        for tokens, targets in self.windows:
            with self.precision():
                total += self.loss(tokens, targets).item() * len(tokens)
        return total / self.o.eval_windows / math.log(2)


def main():
    o = options()
    if o.threads:
        torch.set_num_threads(o.threads)
    t = Trainer(o)
    signal.signal(signal.SIGINT, lambda *_: setattr(o, 'steps', 0))  # ends after this step, as 03_train does
    begun = time.monotonic()
    t.backward()  # compiles; its gradients are thrown away
    t.optimizer.zero_grad(set_to_none=True)
    print(f'torch {torch.__version__}, {sum(p.numel() for p in t.model.parameters())} parameters, {torch.get_num_threads()} threads; '
          f'{time.monotonic() - begun:.1f} s for the first pass, {t.evaluate():.4f} bits per byte before training', flush=True)
    training = evaluating = 0.0
    begun, done, loss = time.monotonic(), 0, math.inf
    while done < o.steps and loss > o.until:
        t.step(done)
        done += 1
        if done % o.eval_every and done < o.steps:
            continue
        if o.device != 'cpu':
            torch.cuda.synchronize()
        paused = time.monotonic()
        training += paused - begun
        loss = t.evaluate()
        print(f'step {done}: held-out bits per byte: {loss:.4f}, {training:.1f} s', flush=True)
        begun = time.monotonic()
        evaluating += begun - paused
    print(f'{"reached" if loss <= o.until else "did not reach"} {o.until:.4g} bits per byte at step {done}: '
          f'{done * o.batch * o.seq} tokens, {training:.2f} s of training, {evaluating:.2f} s of evaluation')


if __name__ == '__main__':
    main()
