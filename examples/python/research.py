#!/usr/bin/env python3
"""A research harness: the loop, the data, the schedule and the plots are Python's, the arithmetic is libdqt's.

    research.py --out DIR [--text FILE] [--steps N] [--rounding stochastic,eco,nearest]

Trains the same small byte model with each rounding rule and writes DIR/losses.csv and, with matplotlib, DIR/losses.png.
With torch it then compares logits and gradients of trained models with those of the PyTorch model in
tests/golden/make_golden.py, in double precision, and fails where they are too far apart.
"""
import argparse
import csv
import importlib.util
import os
import sys
import time

import numpy as np

import dqt

ROUNDING = dict(stochastic=dict(rounding=dqt.ROUND_STOCHASTIC), nearest=dict(rounding=dqt.ROUND_NEAREST),
                eco=dict(rounding=dqt.ROUND_ECO_STOCHASTIC))
HERE = os.path.dirname(os.path.abspath(__file__))


def batches(text, batch, length, seed):
    """tokens and targets [batch][length], for ever."""
    rng = np.random.default_rng(seed)
    while True:
        at = rng.integers(0, len(text) - length - 1, batch)[:, None] + np.arange(length)
        yield text[at], text[at + 1]


def train(ctx, text, steps, updater_options, batch=8, length=64, lr=3e-3):
    """Yields (step, loss, share of the codes that changed)."""
    model = dqt.Llama(ctx, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4)
    tape = dqt.Tape(model, max_batch=batch, max_length=length)
    updater = dqt.Updater(model, **updater_options)
    for step, (tokens, targets) in zip(range(steps), batches(text, batch, length, 1)):
        tape.zero_gradients()
        loss = tape.loss(model, tokens, targets)
        tape.backward(model)
        stats = updater.step(tape, dqt.schedule_cosine(step, steps // 20, steps, lr, 0.1))
        yield step, loss, stats.flipped / stats.quantized


def plot(runs, path):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(8, 8))
    for name, rows in runs.items():
        step, loss, changed = np.array(rows).T
        width = max(1, len(loss) // 20)
        above.plot(step[width - 1:], np.convolve(loss, np.ones(width) / width, 'valid'), label=name)
        below.semilogy(step, np.maximum(changed, 1e-7), label=name)
    above.set_ylabel(f'loss, nats per byte (mean of {width} steps)')
    above.legend()
    below.set_ylabel('share of the codes that changed')
    below.set_xlabel('step')
    figure.tight_layout()
    figure.savefig(path)


def golden():
    """The PyTorch model of the golden tests, or None without torch."""
    if not importlib.util.find_spec('torch'):
        return None
    spec = importlib.util.spec_from_file_location('make_golden', os.path.join(HERE, '../../tests/golden/make_golden.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def compare(ctx, g, case):
    """Trains the golden model of a case with libdqt, then its logits, loss and gradients in both: relative distances."""
    import torch
    c = dict(dict(rule=0, row=0, mlp=0, tied=0, head_activation=1, embedding=g.F32, embedding_rule=0, compute=0), **g.CASES[case])
    linear = dict(storage=c['linear'], compute=c['compute'], scale_rule=c['rule'], scale_axis=c['row'])
    quantised = dqt.ACTIVATION_INT8, dqt.ACTIVATION_NONE
    embedding = dict(storage=c['embedding'], scale_rule=c['embedding_rule'], scale_axis=dqt.AXIS_TENSOR)
    model = dqt.Llama(ctx, vocab_size=g.VOCAB, hidden_size=g.HIDDEN, intermediate_size=g.INTERMEDIATE, num_layers=g.LAYERS,
                      num_heads=g.HEADS, num_kv_heads=g.KV_HEADS, mlp=c['mlp'], no_sub_norms=not c['sub_norms'],
                      tie_embeddings=c['tied'], activation=quantised[c['activation']],
                      head_activation=quantised[c['head_activation']],
                      init_std=0.2, linear=linear, embedding=embedding, head=embedding)
    tape = dqt.Tape(model, max_batch=g.BATCH, max_length=g.LENGTH, precision=dqt.PRECISION_F32)
    updater = dqt.Updater(model)
    tokens = np.random.default_rng(3).integers(0, g.VOCAB, (g.BATCH, g.LENGTH))
    targets = np.roll(tokens, -1, 1)
    for _ in range(20):
        tape.zero_gradients()
        tape.loss(model, tokens, targets)
        tape.backward(model)
        updater.step(tape, 2e-3)

    tape.zero_gradients()
    loss = tape.loss(model, tokens, targets)
    tape.backward(model)
    gradients = tape.gradients
    assert list(gradients) == [name for name, _ in g.parameters(c)]
    p = {x.name: torch.from_numpy(x.tensor.dequantize()).double().requires_grad_() for x in model.parameters}
    logits = g.forward(c, p, torch.from_numpy(tokens), g.Distance())
    expected = g.loss_of(logits, torch.from_numpy(targets))
    expected.backward()
    far = {name: relative(gradients[name], x.grad.numpy().reshape(gradients[name].shape)) for name, x in p.items()}
    worst = max(far, key=far.get)
    near = relative(tape.logits(model, tokens).reshape(-1, g.VOCAB), logits.detach().numpy().reshape(-1, g.VOCAB))
    return dict(logits=near, loss=abs(loss - expected.item()) / expected.item(), gradients=far[worst]), worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True)
    parser.add_argument('--text', default=os.path.join(HERE, '../../include/dqt.h'))
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--rounding', default='stochastic,eco,nearest')
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    text = np.fromfile(args.text, np.uint8).astype(np.int32)
    ctx = dqt.Context()

    runs = {}
    for name in args.rounding.split(','):
        start = time.time()
        runs[name] = list(train(ctx, text, args.steps, ROUNDING[name]))
        last = np.mean([loss for _, loss, _ in runs[name][-20:]])
        print(f'{name}: loss {runs[name][0][1]:.3f} -> {last:.3f}, {time.time() - start:.1f} s', flush=True)
    with open(os.path.join(args.out, 'losses.csv'), 'w', newline='') as f:
        out = csv.writer(f)
        out.writerow(['run', 'step', 'loss', 'changed'])
        out.writerows((name, *row) for name, rows in runs.items() for row in rows)
    try:
        plot(runs, os.path.join(args.out, 'losses.png'))
    except ImportError:
        print('no matplotlib: no plot')

    g = golden()
    if not g:
        print('no torch: no comparison')
        return 0
    status = 0
    for case in g.CASES:
        distances, worst = compare(ctx, g, case)
        # int8 activations may round another way where float32 and double differ: a step of 1/127 somewhere.
        limit = 1e-4 if g.CASES[case]['activation'] else 1e-2
        good = max(distances.values()) < limit
        status |= not good
        print(f'{case} against PyTorch: ' + ', '.join(f'{k} {v:.1e}' for k, v in distances.items()) +
              f' ({worst}) {"" if good else "TOO FAR, "}limit {limit}', flush=True)
    return status


if __name__ == '__main__':
    sys.exit(main())
