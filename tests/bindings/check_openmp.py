#!/usr/bin/env python3
"""libdqt beside the OpenMP of others in one process: PyTorch's and scikit-learn's (either may be missing), before and after
multiprocessing has forked. dqt.py is on PYTHONPATH. Losses are compared bit for bit; a child that hangs ends the run.

    check_openmp.py [MODULE ...]        torch, sklearn
"""
import multiprocessing
import sys

import numpy as np

passed = failed = 0
SECONDS = 120


def check(what, condition):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    if not condition:
        print('FAILED openmp:', what)


def train(ctx=None, steps=3):
    """Losses of a model that is large enough for threads."""
    import dqt
    ctx = ctx or dqt.Context(num_threads=2)
    model = dqt.Llama(ctx, hidden_size=256, intermediate_size=704, num_layers=2, num_heads=4)
    tape = dqt.Tape(model, max_batch=4, max_length=128)
    updater = dqt.Updater(model)
    tokens = (np.arange(513) * 31 % 256).astype(np.int32)
    losses = []
    for _ in range(steps):
        tape.zero_gradients()
        losses.append(tape.loss(model, tokens[:512].reshape(4, 128), tokens[1:].reshape(4, 128)))
        tape.backward(model)
        updater.step(tape, 1e-2)
    return losses


def torch_step():
    import torch
    torch.manual_seed(1)
    torch.set_num_threads(2)
    w = torch.randn(512, 512, requires_grad=True)
    loss = (torch.randn(2048, 512) @ w).relu().mean()
    loss.backward()
    return float(loss)


def sklearn_step():
    from sklearn.cluster import KMeans
    points = np.random.default_rng(1).normal(size=(20000, 8))
    return float(KMeans(8, n_init=1, max_iter=5, random_state=1).fit(points).inertia_)


def in_child(how, expected, inherited, connection):
    import dqt
    if how == 'inherited':
        good = train(inherited) == expected
    else:
        ctx = dqt.Context(num_threads=2)
        good = train(ctx) == expected and ctx.num_threads == 1
    connection.send(good)


def forked(how, expected, inherited=None):
    """What a child of fork() says; False if it hangs."""
    context = multiprocessing.get_context('fork')
    here, there = context.Pipe()
    child = context.Process(target=in_child, args=(how, expected, inherited, there))
    child.start()
    answer = here.poll(SECONDS) and here.recv()
    if not answer:
        child.kill()
    child.join()
    return answer


def main(modules):
    steps = {'torch': torch_step, 'sklearn': sklearn_step}
    steps = [steps[name] for name in modules]
    expected_of = [step() for step in steps]
    # the library is not even loaded here: its process is the child of one that has used OpenMP
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
        expected = pool.apply(train)
    check('losses are numbers, and not all the same', np.isfinite(expected).all() and expected[0] != expected[-1])
    check('in a child that loads the library', forked('fresh', expected))
    import dqt
    ctx = dqt.Context(num_threads=2)
    check('in the parent', train(ctx) == expected)
    check('it has threads there', ctx.num_threads == 2)
    for step, value in zip(steps, expected_of):
        check(f'{step.__name__} is as before', abs(step() - value) <= 1e-4 * abs(value))
        check(f'after {step.__name__}', train(ctx) == expected)
    check('in a child, an inherited context', forked('inherited', expected, ctx))
    check('in a child, a new context', forked('fresh', expected))
    for step, value in zip(steps, expected_of):
        check(f'{step.__name__} after forks', abs(step() - value) <= 1e-4 * abs(value))
    check('in the parent after forks', train(ctx) == expected)
    print(f'check_openmp: {passed} passed, {failed} failed')
    return failed != 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
