#!/usr/bin/env python3
"""Fine-tunes a model of a Hugging Face folder or GGUF file in low bits, as ../10_finetune.c does; docs/finetune.md explains it.

    finetune.py --model MODEL --tokens TRAIN.bin --valid VALID.bin --out DIR [--format int4] [--group 32] [--steps 100]

Token files are uint16 or uint32 with llm.c's header, or plain uint16 (../12_tokenize.c makes them, and so does numpy's tofile).
Writes into DIR: model.dqt, and config.json and model.safetensors for transformers.
"""
import argparse
import os

import numpy as np

import dqt

FORMATS = dict(f32=dqt.FORMAT_F32, bf16=dqt.FORMAT_BF16, int8=dqt.FORMAT_INT8, int4=dqt.FORMAT_INT4, int3=dqt.FORMAT_INT3,
               ternary=dqt.FORMAT_TERNARY)
WIDTHS = {20240520: np.uint16, 20240801: np.uint32}  # by llm.c's magic numbers


def read_tokens(path):
    """Mapped, not read."""
    head = np.fromfile(path, '<i4', 1)
    if len(head) and int(head[0]) in WIDTHS:
        return np.memmap(path, np.dtype(WIDTHS[int(head[0])]).newbyteorder('<'), 'r', offset=1024)
    return np.memmap(path, '<u2', 'r')


def scales(storage, group):
    """Options of a tensor: one scale per row, or per group of columns; such that no trained weight is cut off much."""
    if storage in (dqt.FORMAT_F32, dqt.FORMAT_BF16):
        return dict(storage=storage)
    if group:
        return dict(storage=storage, scale_axis=dqt.AXIS_GROUP, group_size=group)
    return dict(storage=storage, scale_axis=dqt.AXIS_ROW)


def perplexity(model, tape, tokens, length, windows):
    """On the first windows, one after another: every token predicts the next one."""
    losses = []
    for first in range(0, min(windows * length, len(tokens) - length), length):
        window = tokens[first:first + length + 1].astype(np.int32)[None]
        losses.append(tape.loss(model, window[:, :-1], window[:, 1:]))
    return np.exp(np.mean(losses))


def update(model, tape, updater, windows, rate):
    """One step, by the mean loss of the windows: inside backward if there is one, else from gradients summed in buffers."""
    if len(windows) == 1:
        loss = tape.loss(model, windows[0][:, :-1], windows[0][:, 1:])
        updater.backward_step(model, tape, rate)
        return loss
    losses = []
    tape.zero_gradients()
    for window in windows:
        losses.append(tape.loss(model, window[:, :-1], window[:, 1:]))
        tape.backward(model, 1 / len(windows))
    updater.step(tape, rate)
    return np.mean(losses)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in 'model', 'tokens', 'valid', 'out':
        p.add_argument('--' + name, required=True)
    p.add_argument('--format', choices=FORMATS, default='int4')
    p.add_argument('--group', type=int, default=0, help='columns per scale (0: one scale per row)')
    p.add_argument('--steps', type=int, default=100)
    p.add_argument('--length', type=int, default=512)
    p.add_argument('--accumulate', type=int, default=2,
                   help='passes of a step, whose gradients are summed in buffers (1: update inside backward, no buffers)')
    p.add_argument('--windows', type=int, default=16, help='of an evaluation')
    p.add_argument('--lr', type=float, help='default: what the recipe says for a model of this width')
    a = p.parse_args()
    if a.accumulate < 1:
        p.error('--accumulate is at least 1')

    ctx, storage = dqt.Context(), FORMATS[a.format]
    wide = scales(storage if storage in (dqt.FORMAT_F32, dqt.FORMAT_BF16) else dqt.FORMAT_INT8, a.group)
    model = dqt.Llama.open(ctx, a.model, max_length=a.length, linear=scales(storage, a.group), embedding=wide, head=wide)
    _, recipe, preset = dqt.preset_get(dict(hidden_size=model.config.hidden_size), purpose=dqt.PRESET_FINETUNE)
    rate = a.lr or preset.learning_rate
    fused = a.accumulate == 1  # then clipped by the norm of the step before: a step's own is known when all is updated
    updater = dqt.Updater(model, recipe, clip=dqt.CLIP_PREVIOUS_NORM if fused else dqt.CLIP_GLOBAL_NORM)
    tape = dqt.Tape(model, max_length=a.length, no_gradient_buffers=int(fused))
    train, valid = read_tokens(a.tokens), read_tokens(a.valid)
    rng = np.random.default_rng(1)

    print(f'before: perplexity {perplexity(model, tape, valid, a.length, a.windows):.4f}')
    for step in range(a.steps):
        firsts = rng.integers(len(train) - a.length, size=a.accumulate)
        windows = [train[first:first + a.length + 1].astype(np.int32)[None] for first in firsts]
        loss = update(model, tape, updater, windows, dqt.schedule_cosine(step, a.steps // 10, a.steps, rate, 0.0))
        print(f'step {step + 1}/{a.steps}  loss {loss:.4f}', flush=True)
    print(f'after: perplexity {perplexity(model, tape, valid, a.length, a.windows):.4f}')

    os.makedirs(a.out, exist_ok=True)
    model.save(os.path.join(a.out, 'model.dqt'), updater)
    model.export_folder(a.out)


if __name__ == '__main__':
    main()
