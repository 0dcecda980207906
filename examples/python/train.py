#!/usr/bin/env python3
"""The program of ../binding.c in Python. The same lines, the same file, byte for byte. usage: train.py CHECKPOINT"""
import sys

import numpy as np

import dqt

TEXT = (b'It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of '
        b'foolishness, it was the epoch of belief')
BATCH, LENGTH, STEPS = 2, 64, 20


def main(path):
    ctx = dqt.Context()
    model = dqt.Llama(ctx, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4)
    tape = dqt.Tape(model, max_batch=BATCH, max_length=LENGTH)
    updater = dqt.Updater(model)
    text = np.frombuffer(TEXT, np.uint8).astype(np.int32)
    tokens = text[:BATCH * LENGTH].reshape(BATCH, LENGTH)
    targets = text[1:BATCH * LENGTH + 1].reshape(BATCH, LENGTH)
    for step in range(STEPS):
        tape.zero_gradients()
        loss = tape.loss(model, tokens, targets)
        tape.backward(model)
        updater.step(tape, dqt.schedule_cosine(step, 2, STEPS, 0.02, 0.1))
        print(f'step {step:2}  loss {loss:.6f}  {int(np.float32(loss).view(np.uint32)):08x}')
    model.save(path, updater, b'binding')

    tokens[0, 3] = 256
    try:
        tape.loss(model, tokens, targets)
    except dqt.Error as error:
        print(error)


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit('usage: train.py CHECKPOINT')
    main(sys.argv[1])
