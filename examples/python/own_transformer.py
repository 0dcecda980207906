#!/usr/bin/env python3
"""The program of ../14_own_transformer.c in Python: a network of one's own, trained with soft targets and the update inside
backward, saved and resumed. The same files, byte for byte. usage: own_transformer.py FOLDER"""
import filecmp
import math
import os
import sys

import numpy as np

import dqt

VOCAB, HIDDEN, BLOCKS, BATCH, LENGTH = 64, 32, 2, 2, 16
STEPS, HALF = 12, 6


class Network:
    def __init__(self, ctx, seed):
        wide = dict(weight=dict(storage=dqt.FORMAT_INT8), seed=seed)
        # Of the last block: int4 with a scale for each 32 columns.
        groups = dict(storage=dqt.FORMAT_INT4, scale_axis=dqt.AXIS_GROUP, group_size=32)
        blocks = [dqt.Layer.block(ctx, HIDDEN, 2 * HIDDEN, 4, 2, name=f'blocks.{i}', seed=seed,
                                  weight=groups if i + 1 == BLOCKS else {}) for i in range(BLOCKS)]
        self.embedding = dqt.Layer.embedding(ctx, VOCAB, HIDDEN, **wide)
        self.middle = blocks + [dqt.Layer.rmsnorm(ctx, HIDDEN, seed=seed)]
        self.head = dqt.Layer.head(ctx, HIDDEN, VOCAB, **wide)
        self.layers = [self.embedding, *self.middle, self.head]
        self.tape = dqt.Tape(self.layers, max_batch=BATCH, max_length=LENGTH, no_gradient_buffers=1, recompute=1,
                             checkpoint_format=dqt.FLOAT_BF16)
        self.updater = dqt.Updater(self.layers, momentum_state=dqt.STATE_INT8, variance_state=dqt.STATE_INT8,
                                   clip=dqt.CLIP_PREVIOUS_NORM)

    def train(self, start, end):
        for step in range(start, end):
            tokens = np.array([(7 * i + 3 * step) % VOCAB for i in range(BATCH * LENGTH)]).reshape(BATCH, LENGTH)
            x = self.embedding.forward(self.tape, tokens)
            for layer in self.middle:
                x = layer.forward(self.tape, x)
            loss, gradient = soft_loss(tokens, self.head.forward(self.tape, x))
            print(f'step {step:2}: loss {loss:.6f}')
            self.tape.begin_update(self.updater, dqt.schedule_cosine(step, 2, STEPS, 0.02, 0.1))
            d = self.head.backward(self.tape, gradient)
            for layer in reversed(self.middle):
                d = layer.backward(self.tape, d)
            self.embedding.backward(self.tape, d)
            self.tape.end_update()

    def save(self, path, steps):
        dqt.layers_save(self.layers, path, self.updater, str(steps).encode(), self.tape)

    def load(self, path):
        """Into a network that has been created alike; returns the steps done."""
        loaded = dqt.layers_load(self.layers, path, self.updater)
        self.tape.passes = loaded.passes
        return int(loaded.host)


# The soft target of a token by class - token: the one 7 further, and a little of its neighbours.
TARGETS = {6: 0.05, 7: 0.9, 8: 0.05}


def soft_loss(tokens, logits):
    """Mean cross-entropy and its gradient. (Python's exp is C's, to the last bit; numpy has its own.)"""
    loss, gradient = 0.0, np.empty_like(logits)
    rows = zip(tokens.reshape(-1).tolist(), logits.reshape(-1, VOCAB).tolist(), gradient.reshape(-1, VOCAB))
    for token, row, out in rows:
        total = 0.0
        for x in row:
            total += math.exp(x)
        for c, x in enumerate(row):
            q = TARGETS.get((c - token) % VOCAB, 0.0)
            loss += q * (math.log(total) - x) / tokens.size
            out[c] = (math.exp(x) / total - q) / tokens.size
    return loss, gradient


def main(folder):
    whole, half, resumed = (os.path.join(folder, name) for name in ('whole.dqt', 'half.dqt', 'resumed.dqt'))
    ctx = dqt.Context()
    network = Network(ctx, 1)
    network.train(0, HALF)
    network.save(half, HALF)
    network.train(HALF, STEPS)
    network.save(whole, STEPS)

    network = Network(ctx, 2)  # other weights, which loading replaces
    done = network.load(half)
    network.train(done, STEPS)
    network.save(resumed, STEPS)
    if not filecmp.cmp(whole, resumed, shallow=False):
        sys.exit(f'{whole} and {resumed} differ')
    print(f'resumed after step {done}: the same bytes')


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit('usage: own_transformer.py FOLDER')
    main(sys.argv[1])
