#!/usr/bin/env python3
"""examples/python: the declarations of dqt_c.py against the header, as a C compiler sees it, and what dqt.py's objects promise.

    check_python.py HEADER_FOLDER       (CC names the compiler; the modules are on PYTHONPATH)
"""
import ctypes as C
import gc
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import dqt

passed = failed = 0


def check(what, condition):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    if not condition:
        print('FAILED python:', what)


def raises(kind, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind as e:
        return e
    return None


def header(folder):
    """Structs with offsets, constants and prototypes of dqt.h against dqt_c.py's."""
    with open(os.path.join(folder, 'dqt.h')) as f:
        text = re.sub(r'/\*.*?\*/', '', f.read(), flags=re.S)
    structs = re.findall(r'typedef struct (dqt_\w+) \{(.*?)\}', text, re.S)
    constants = [name for body in re.findall(r'^enum \{(.*?)\};', text, re.S | re.M) for name in re.findall(r'\bDQT_\w+', body)]
    constants = [name for name in dict.fromkeys(constants)]
    known = {f'dqt_{k}': v for k, v in vars(dqt).items() if isinstance(v, type) and issubclass(v, C.Structure)}
    known.pop('dqt_Struct')
    check('the structs are the header\'s', sorted(known) == sorted(name for name, _ in structs))
    lines = []
    for name, kind in known.items():
        lines.append((f'{name}', f'sizeof(struct {name})', C.sizeof(kind)))
        for member, ctype, *_ in kind._fields_:
            lines.append((f'{name}.{member}', f'offsetof(struct {name}, {member})', getattr(kind, member).offset))
            lines.append((f'size of {name}.{member}', f'sizeof(((struct {name} *)0)->{member})', C.sizeof(ctype)))
    for name in constants:
        lines.append((name, name, getattr(dqt, name[len('DQT_'):], None)))
    check('there are structs and constants to compare', len(structs) > 30 and len(constants) > 100)
    with tempfile.TemporaryDirectory() as tmp:
        source, program = os.path.join(tmp, 'layout.c'), os.path.join(tmp, 'layout')
        with open(source, 'w') as f:
            f.write('#include <stdio.h>\n#include <dqt.h>\nint main(void) {\n')
            f.writelines(f'    printf("%lld\\n", (long long)({c}));\n' for _, c, _ in lines)
            f.write('    return 0;\n}\n')
        subprocess.run([*os.environ.get('CC', 'cc').split(), '-std=c11', '-I', folder, source, '-o', program], check=True)
        values = subprocess.run([program], check=True, stdout=subprocess.PIPE).stdout.split()
    for (what, _, here), there in zip(lines, values):
        check(f'{what} is {int(there)} in C, {here} here', here == int(there))
    # Members that C has and Python lacks would show in a size or in a name.
    for name, body in structs:
        if name in known:
            names = {re.sub(r'[\s*]|\[.*?\]', '', m.split(' ')[-1]) for d in body.split(';') for m in d.strip().split(',') if m.strip()}
            check(f'members of {name}', names == {n for n, *_ in known[name]._fields_})

    letters = dict(int32_t='i', dqt_status='i', uint32_t='u', uint64_t='q', size_t='z', float='f', void='n')

    def letter(declaration, argument):
        words = declaration.replace('const', ' ').split()
        if '*' in declaration:
            plain = re.sub(r'\s|\w+$', '', declaration.replace('const', ' ')) if argument else ''.join(words)
            return 's' if plain in ('char*',) else 'p'
        return 'p' if words[0].endswith('_fn') else letters[words[0]]
    there = {}
    for result, name, arguments in re.findall(r'DQT_API ([^;(]*?)(dqt_\w+)\(([^;]*?)\);', text, re.S):
        arguments = [] if arguments.strip() == 'void' else arguments.split(',')
        there[name] = letter(result, False) + ' ' + ''.join(letter(a, True) for a in arguments)
    here = {'dqt_' + e.split()[1]: e.split()[0] + ' ' + ''.join(e.split()[2:]) for e in dqt.FUNCTIONS + dqt.EXPERIMENTAL}
    check('there are functions to compare', len(there) > 120)
    for name in sorted(set(there) | set(here)):
        check(f'{name} is {there.get(name)} in C, {here.get(name)} here', there.get(name) == here.get(name))


SMALL = dict(hidden_size=32, intermediate_size=48, num_layers=1)
TOKENS = np.arange(32) % 4 + 97


def train(ctx, steps):
    model = dqt.Llama(ctx, **SMALL)
    tape, updater = dqt.Tape(model), dqt.Updater(model)
    losses = []
    for _ in range(steps):
        tape.zero_gradients()
        losses.append(tape.loss(model, TOKENS, np.roll(TOKENS, -1)))
        tape.backward(model)
        updater.step(tape, 0.01)
    return losses


def memory():
    ctx = dqt.Context()
    empty = ctx.allocated
    model = dqt.Llama(ctx, **SMALL)
    tape = dqt.Tape(model)
    names = [p.name for p in model.parameters]
    q = names.index('blocks.0.attention.q')
    tape.loss(model, TOKENS, TOKENS)
    tape.backward(model)
    gradient = tape.gradient(q)
    copy = np.empty_like(gradient)
    dqt.lib.dqt_tape_get_gradient(tape.raw, q, 0, len(copy), copy.ctypes.data)
    check('a gradient is what the library reads', gradient.any() and np.array_equal(gradient, copy))
    gradient[:] = 2
    dqt.lib.dqt_tape_get_gradient(tape.raw, q, 0, len(copy), copy.ctypes.data)
    check('a gradient is the library\'s own memory', (copy == 2).all())
    tape.zero_gradients()
    check('the library writes into the array', not gradient.any())
    check('names of gradients', list(tape.gradients) == names)

    tensor = model.parameters[q].tensor
    packed, before = tensor.packed, tensor.codes
    check('packed ternary codes', packed.shape == (32, tensor.info.row_bytes) and np.abs(before).max() == 1)
    tensor.codes = -before
    check('packed codes are the library\'s own memory', np.array_equal(tensor.packed, packed))
    packed[:] = 0x55
    tensor.touch()
    check('and can be written', not tensor.codes.any() and not tensor.dequantize().any())
    check('codes out of range', raises(dqt.Error, setattr, tensor, 'codes', before + 5).status == dqt.E_ARGUMENT)
    scales = tensor.scales
    tensor.scales = scales * 2
    check('scales', np.array_equal(tensor.scales, scales * 2) and tensor.stats.zeros == before.size)

    # Only arrays and a session are left; what they need is alive.
    session = dqt.Session(model, 8)
    del model, tape, tensor
    gc.collect()
    check('an array keeps its tape', not gradient.any() and ctx.allocated > empty)
    check('an array keeps its model', (packed == 0x55).all())
    check('a session keeps its model', np.isfinite(session.append([1, 2])).all() and len(session) == 2)
    del gradient, packed, session
    gc.collect()
    check('then all memory is given back', ctx.allocated == empty)


def mistakes():
    heard = []
    ctx = dqt.Context(log=lambda level, sentence: heard.append((level, sentence)))
    error = raises(dqt.Error, dqt.Llama, ctx, num_heads=5)
    check('a refusal has a status and a sentence', error.status in (dqt.E_SHAPE, dqt.E_ARGUMENT) and error.sentence in str(error))
    check('the log hears it', heard == [(dqt.LOG_ERROR, error.sentence)])
    check('an unknown option', raises(TypeError, dqt.Llama, ctx, hidden=5))
    check('an unknown embedded option', raises(TypeError, dqt.Llama, ctx, linear=dict(format=5)))
    check('an embedded struct that is no dict', raises(TypeError, dqt.Llama, ctx, linear=5))
    model = dqt.Llama(ctx, **SMALL)
    tape = dqt.Tape(model)
    check('tokens that are not whole', raises(ValueError, tape.loss, model, TOKENS + 0.5, TOKENS))
    check('tokens beyond int32', raises(ValueError, tape.loss, model, TOKENS.astype(np.int64) << 32, TOKENS))
    check('targets of another shape', raises(ValueError, tape.loss, model, TOKENS, TOKENS[1:]))
    check('no context', 'num_threads' in str(raises(dqt.Error, dqt.Context, num_threads=-1)))
    silent = dqt.Context(log=lambda *_: 1 / 0)
    check('an exception in a log is raised', raises(ZeroDivisionError, dqt.Llama, silent, num_heads=5))

    class Full(io.RawIOBase):
        def write(self, _):
            raise OSError(28, 'no space')
    check('an exception in a writer is raised', raises(OSError, model.save, Full()).errno == 28)
    check('a file that is not there', raises(dqt.Error, dqt.Llama.load, ctx, '/no/such/file').status == dqt.E_IO)
    check('a file that is none', raises(dqt.Error, dqt.Llama.load, ctx, io.BytesIO(b'DQTMODEL')).status == dqt.E_FORMAT)


def files():
    ctx = dqt.Context()
    empty = ctx.allocated
    model = dqt.Llama(ctx, **SMALL)
    updater = dqt.Updater(model)
    file = io.BytesIO()
    model.save(file, updater, b'host\0bytes')
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, 'model.dqt')
        model.save(path, updater, b'host\0bytes')
        with open(path, 'rb') as f:
            check('a file object gets what a path gets', f.read() == file.getvalue())
        loaded, state, host, _ = dqt.Llama.load(ctx, path)
    check('host bytes', host == b'host\0bytes')
    del loaded
    gc.collect()
    again = io.BytesIO()
    file.seek(0)
    copy, state2, host, _ = dqt.Llama.load(ctx, file)
    copy.save(again, state2, host)
    check('what is loaded is what was saved', again.getvalue() == file.getvalue())
    check('config', repr(copy.config) == repr(model.config) and copy.config.linear.storage == dqt.FORMAT_TERNARY)
    model.save(again := io.BytesIO())
    again.seek(0)
    check('no updater, no host bytes, no passes', dqt.Llama.load(ctx, again)[1:] == (None, b'', 0))
    del model, updater, state, copy, state2
    gc.collect()
    check('loading gives all memory back', ctx.allocated == empty)


def resuming():
    """A network of one's own that goes on from a file has the bits of one that never stopped."""
    ctx = dqt.Context()

    class Network:
        def __init__(self, seed):
            self.layers = [dqt.Layer.embedding(ctx, 128, 32, seed=seed), dqt.Layer.block(ctx, 32, 48, 4, 2, seed=seed),
                           dqt.Layer.rmsnorm(ctx, 32, name='last'), dqt.Layer.head(ctx, 32, 128, seed=seed)]
            self.tape = dqt.Tape(self.layers, max_batch=2, max_length=16, gradient_format=dqt.FLOAT_BF16)
            self.updater = dqt.Updater(self.layers)

        def step(self):
            self.tape.zero_gradients()
            x = tokens = TOKENS.reshape(2, 16)
            for layer in self.layers[:-1]:
                x = layer.forward(self.tape, x)
            loss = self.layers[-1].loss(self.tape, x, np.roll(tokens, -1))
            d = self.layers[-1].loss_backward(self.tape)
            for layer in self.layers[-2::-1]:
                d = layer.backward(self.tape, d)
            self.updater.step(self.tape, 0.01)
            return loss
    whole = Network(1)
    losses = [whole.step() for _ in range(3)]
    file, state = io.BytesIO(), io.BytesIO()
    dqt.layers_save(whole.layers, file, whole.updater, b'mine', whole.tape)
    whole.updater.write(state)
    weights = io.BytesIO()
    dqt.layers_save(whole.layers, weights)
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, 'network.dqt')
        dqt.layers_save(whole.layers, path, whole.updater, b'mine', whole.tape)
        with open(path, 'rb') as f:
            check('layers: a file object gets what a path gets', f.read() == file.getvalue())
        part = Network(2)
        loaded = dqt.layers_load(part.layers, path, part.updater)
    check('what layers_load gives', loaded == (None, None, b'mine', whole.tape.passes) and part.updater.steps == 3)
    check('the host\'s bytes are skipped', dqt.layers_load(part.layers, io.BytesIO(file.getvalue()), part.updater,
                                                           skip_host=1).host == b'')
    other = Network(3)
    check('a tape\'s passes', loaded.passes > 0 and other.tape.passes == 0)
    part.tape.passes = other.tape.passes = loaded.passes
    dqt.layers_load(other.layers, io.BytesIO(weights.getvalue()))
    check('an updater that is not in the file', raises(dqt.Error, dqt.layers_load, other.layers, io.BytesIO(weights.getvalue()),
                                                       other.updater).status == dqt.E_STATE)
    other.updater.read(io.BytesIO(state.getvalue()))
    losses += [whole.step() for _ in range(3)]
    check('the losses fall', losses[-1] < losses[0])
    check('layers go on', [part.step() for _ in range(3)] == losses[3:])
    check('an updater alone goes on', [other.step() for _ in range(3)] == losses[3:])

    overrides = [{'pattern': 'blocks.*', 'options': {'storage': dqt.FORMAT_INT4, 'scale_axis': dqt.AXIS_ROW}},
                 {'pattern': '*.mlp.down', 'options': {'storage': dqt.FORMAT_INT8}}]
    config = dqt.Llama(ctx, **SMALL, overrides=overrides).config
    gc.collect()
    check('a config keeps its overrides', config.num_overrides == 2 and config.overrides[1].pattern == b'*.mlp.down')
    model = dqt.Llama(ctx, config)
    model.save(file := io.BytesIO())
    for m in (model, dqt.Llama.load(ctx, io.BytesIO(file.getvalue())).model):
        formats = {p.name: p.tensor.info.storage for p in m.parameters if '.mlp.' in p.name and 'norm' not in p.name}
        check('formats by name', formats == {'blocks.0.mlp.gate': dqt.FORMAT_INT4, 'blocks.0.mlp.up': dqt.FORMAT_INT4,
                                             'blocks.0.mlp.down': dqt.FORMAT_INT8})
    check('an override of nothing', raises(dqt.Error, dqt.Llama, ctx, **SMALL, overrides=[{'pattern': 'blocks.9.*'}])
          .status == dqt.E_ARGUMENT)

    model = dqt.Llama(ctx, **SMALL)
    tape, updater = dqt.Tape(model), dqt.Updater(model)
    tape.loss(model, TOKENS, TOKENS)
    tape.backward(model)
    model.save(file := io.BytesIO(), updater, b'host', tape)
    check('a model\'s passes', dqt.Llama.load(ctx, io.BytesIO(file.getvalue())).passes == 1)
    bare = dqt.Llama.load(ctx, io.BytesIO(file.getvalue()), skip_updater=1, skip_host=1)
    check('what is not wanted', bare.model.config.hidden_size == 32 and bare.updater is None and bare.host == b'')


def threads():
    expected = train(dqt.Context(num_threads=1), 3)
    pool = ThreadPoolExecutor(2)

    def in_pool(count, task):
        list(pool.map(task, range(count)))

    def does_not_wait(count, task):
        for i in range(count):
            pool.submit(task, i)

    def forgets(count, task):
        pass

    def twice(count, task):
        for i in list(range(count)) * 2:
            task(i)
    for f in in_pool, does_not_wait, forgets, twice:
        check(f'parallel_for that is {f.__name__}', train(dqt.Context(num_threads=3, parallel_for=f), 3) == expected)
    check('an exception in parallel_for is raised',
          raises(ZeroDivisionError, train, dqt.Context(num_threads=3, parallel_for=lambda *_: 1 / 0), 1))
    with ThreadPoolExecutor(2) as both:
        jobs = [both.submit(train, dqt.Context(num_threads=1), 3) for _ in range(2)]
        check('contexts in two threads', [job.result() for job in jobs] == [expected] * 2)


def networks():
    ctx = dqt.Context()
    layers = [dqt.Layer.rmsnorm(ctx, 8, name='first'), dqt.Layer.linear(ctx, 8, 4, activation=dqt.ACTIVATION_NONE,
                                                          weight=dict(storage=dqt.FORMAT_F32), init_std=1.0)]
    tape = dqt.Tape(layers, max_batch=2, max_length=3, precision=dqt.PRECISION_F32)
    updater = dqt.Updater(layers, clip=dqt.CLIP_NONE)
    check('groups', updater.add_group(pattern='first*', freeze=1) == 1)
    x = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
    normed = layers[0].forward(tape, x)
    check('RMSNorm is numpy\'s', np.allclose(normed, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5), rtol=1e-5))
    y = layers[1].forward(tape, normed)
    w = tape.parameter(1).tensor.dequantize()
    check('a linear layer is numpy\'s', np.allclose(y, normed @ w.T, atol=1e-5))
    tape.zero_gradients()
    dx = layers[1].backward(tape, np.ones_like(y))
    check('its backward too', np.allclose(dx, np.ones_like(y) @ w, atol=1e-5))
    check('its gradient too', np.allclose(tape.gradient(1), np.ones((4, 6)) @ normed.reshape(6, 8), atol=1e-4))
    check('backward of another shape', raises(ValueError, layers[1].backward, tape, y[:1]))
    check('forward of another shape', raises(ValueError, layers[1].forward, tape, x[..., :4]))
    layers[0].backward(tape, dx)
    stats = updater.step(tape, 0.1)
    check('a step', stats.step == 1 and not np.array_equal(tape.parameter(1).tensor.dequantize(), w))
    del layers
    gc.collect()
    check('a tape keeps its layers', tape.parameter(0).name.startswith('first'))
    check('a greedy sampler', dqt.Sampler(ctx, 4, temperature=0).sample([0, 2, 2, 1]) == 1)
    block = dqt.Layer.block(ctx, 8, 16, 2, 1, name='b')
    check('sublayers', [x.info.kind for x in block.sublayers] ==
          [dqt.LAYER_RMSNORM, dqt.LAYER_ATTENTION, dqt.LAYER_RMSNORM, dqt.LAYER_MLP])
    check('their parameters', [p.name for x in block.sublayers for p in x.parameters] == [p.name for p in block.parameters])
    check('a tied head', dqt.Layer.head(ctx, 8, 16, tied=dqt.Layer.embedding(ctx, 16, 8)).info.num_parameters == 0)
    model = dqt.Llama(ctx, **SMALL)
    fused, updater = dqt.Tape(model, no_gradient_buffers=1), dqt.Updater(model, clip=dqt.CLIP_NONE)
    fused.loss(model, TOKENS, TOKENS)
    check('a fused step', updater.backward_step(model, fused, 0.01).flipped > 0)
    check('logits', fused.logits(model, TOKENS).shape == (1, 32, 256))
    check('memory is planned', dqt.Session.memory(model).cache > dqt.Session.memory(model, 64).cache > 0 and
          dqt.Llama.memory(ctx, **SMALL).total > 0 and dqt.Updater.memory(model).momentum > 0 and
          dqt.Tape.memory(model).gradients > dqt.Tape.memory(model, no_gradient_buffers=1).gradients == 0)


def own_updates():
    """The update inside backward of one's own layers, with a tied head whose gradient is read again by the embedding."""
    ctx = dqt.Context()

    def learn(fused, gradient):
        embedding = dqt.Layer.embedding(ctx, 96, 16)
        layers = [embedding, dqt.Layer.linear(ctx, 16, 16), dqt.Layer.head(ctx, 16, 96, tied=embedding)]
        tape = dqt.Tape(layers, max_length=32, no_gradient_buffers=fused)
        updater = dqt.Updater(layers, clip=dqt.CLIP_NONE)
        for step in range(3):
            x = layers[1].forward(tape, embedding.forward(tape, TOKENS % 96))
            logits = layers[2].forward(tape, x)
            if fused:
                tape.begin_update(updater, 0.05)
            else:
                tape.zero_gradients()
            d = layers[2].backward(tape, gradient(logits))
            gc.collect()
            embedding.backward(tape, layers[1].backward(tape, d))
            stats = tape.end_update() if fused else updater.step(tape, 0.05)
        file = io.BytesIO()
        dqt.layers_save(layers, file, updater)
        return stats.flipped, file.getvalue()

    def halve(logits, *_):
        logits *= 0.5
    for name, gradient in ('array', lambda logits: (logits * 0.5).tolist()), ('function', lambda _: halve):
        check(f'fused is unfused, {name}', learn(1, gradient) == learn(0, gradient) and learn(1, gradient)[0] > 0)


def losses():
    ctx = dqt.Context()
    model = dqt.Llama(ctx, **SMALL)
    tape = dqt.Tape(model, max_batch=2, max_length=16, precision=dqt.PRECISION_F32)
    tokens, targets = TOKENS.reshape(2, 16), np.roll(TOKENS, -1).reshape(2, 16).copy()
    targets[0, 3] = -1
    each = np.empty((2, 16), np.float32)
    loss = tape.loss(model, tokens, targets, token_losses=each)
    tape.backward(model)
    gradients = [tape.get_gradient(i) for i in range(len(tape))]
    logits = tape.logits(model, tokens).astype(np.float64)
    sums = np.log(np.exp(logits).sum(-1))
    expected = np.where(targets < 0, 0, sums - np.take_along_axis(logits, np.maximum(targets, 0)[..., None], 2)[..., 0])
    check('losses of tokens are numpy\'s', np.allclose(each, expected, atol=1e-5) and each[0, 3] == 0)
    check('the loss is their mean', np.isclose(loss, expected.sum() / 31, rtol=1e-6))
    weights = np.arange(32).reshape(2, 16) / 8
    check('weights', np.isclose(tape.loss(model, tokens, targets, weights),
                                (weights * expected).sum() / weights[targets >= 0].sum(), rtol=1e-6))
    check('a divisor', np.isclose(tape.loss(model, tokens, targets, divisor=2), expected.sum() / 2, rtol=1e-6))
    apart = tape.logits(model, tokens.reshape(4, 8)[:2])
    check('segments', np.array_equal(tape.logits(model, tokens[:1], segments=np.repeat([7, 9], 8))[0], apart.reshape(16, -1)))
    check('they matter', not np.array_equal(tape.logits(model, tokens[:1])[0], apart.reshape(16, -1)))
    check('weights of another shape', raises(ValueError, tape.loss, model, tokens, targets, weights[:1]))
    check('token losses of another type', raises(ValueError, tape.loss, model, tokens, targets, token_losses=expected))

    def close():
        return all(np.allclose(tape.get_gradient(i), g, atol=1e-5 * np.abs(g).max()) for i, g in enumerate(gradients))
    outside = np.exp(logits - sums[..., None])
    np.put_along_axis(outside, np.maximum(targets, 0)[..., None],
                      np.take_along_axis(outside, np.maximum(targets, 0)[..., None], 2) - 1, 2)
    outside = np.where(targets[..., None] < 0, 0, outside) / 31
    tape.zero_gradients()
    check('there is nothing to compare yet', not close())
    tape.logits(model, tokens)
    tape.backward_logits(model, outside)
    check('backward from an array is that of the loss', close())

    def make(tile, log_sum_exp, rows, classes):
        check('a tile', tile.shape == (rows.stop - rows.start, classes.stop - classes.start))
        tile[:] = np.exp(tile - log_sum_exp[:, None])
        for i, target in enumerate(targets.reshape(-1)[rows]):
            if target < 0:
                tile[i] = 0
            elif classes.start <= target < classes.stop:
                tile[i, target - classes.start] -= 1
        tile /= 31
    tape.zero_gradients()
    check('no targets, no loss', tape.loss(model, tokens, None) == 0)
    tape.backward_logits(model, make)
    check('backward from tiles is that of the loss', close())
    tape.loss(model, tokens, None)
    check('an exception in a tile is raised', raises(ZeroDivisionError, tape.backward_logits, model, lambda *_: 1 / 0))
    check('an array of another shape', raises(ValueError, tape.backward_logits, model, outside[:1]))

    seen = []
    tape.on_gradient(seen.append)
    tape.loss(model, tokens, targets)
    tape.backward(model)
    check('every gradient is told', sorted(seen) == list(range(len(tape))))
    tape.on_gradient(lambda index: index == 3)
    tape.loss(model, tokens, targets)
    check('a gradient can stop backward', raises(dqt.Error, tape.backward, model).status == dqt.E_CANCELLED)
    tape.on_gradient(None)
    tape.set_gradient(1, np.ones((1, 32)))
    check('a gradient is set', (tape.gradient(1) == 1).all())


def interrupts():
    stop = [False]
    ctx = dqt.Context(interrupt=lambda: stop[0])
    model = dqt.Llama(ctx, **SMALL)
    tape = dqt.Tape(model)
    check('nothing interrupts', np.isfinite(tape.loss(model, TOKENS, TOKENS)))
    stop[0] = True
    check('an interrupt', raises(dqt.Error, tape.loss, model, TOKENS, TOKENS).status == dqt.E_CANCELLED)

    def ctrl_c():
        raise KeyboardInterrupt
    ctx = dqt.Context(interrupt=ctrl_c)
    model = dqt.Llama(ctx, **SMALL)
    check('an exception in an interrupt', raises(KeyboardInterrupt, dqt.Tape(model).loss, model, TOKENS, TOKENS))


def rules():
    ctx = dqt.Context()
    model = dqt.Llama(ctx, **SMALL)
    names = [p.name for p in model.parameters]
    head, q = names.index('head'), names.index('blocks.0.attention.q')
    updater = dqt.Updater(model, weight_decay=0.5, groups=[dict(pattern='head', optimizer=dqt.OPTIMIZER_SGD, lr_factor=0.5),
                                                          dict(parameter_class=dqt.CLASS_ATTENTION, weight_decay=-1)])
    rule = updater.rule(head)
    check('a group with an optimiser', (rule.optimizer, rule.lr_factor, rule.weight_decay) == (dqt.OPTIMIZER_SGD, 0.5, 0.5))
    check('a group of a class', (updater.rule(q).optimizer, updater.rule(q).weight_decay) == (dqt.OPTIMIZER_ADAMW, 0))
    check('options in effect', updater.options.optimizer == dqt.OPTIMIZER_ADAMW and abs(updater.options.beta1 - 0.8) < 1e-6)
    check('a length is not set', raises(TypeError, dqt.Updater, model, num_groups=1))
    check('arrays of one length', raises(ValueError, dqt.options, dqt.gguf_options, dict(tokens=['a', 'b'], scores=[1.0])))
    o = dqt.options(dqt.gguf_options, dict(tokens=['a', '\u2581b'], types=[1, 3]))
    check('arrays', (o.tokens[:2], o.types[:2], o.num_tokens) == ([b'a', '\u2581b'.encode()], [1, 3], 2) and not o.scores)

    tape = dqt.Tape(model)
    tape.loss(model, TOKENS, TOKENS)
    tape.backward(model)
    embedding = model.parameters[0].tensor
    before = embedding.codes
    row, count = updater.part(0, 1, 2)
    check('a part', (row, count) == (128, 128))
    half = dqt.Updater(model, part=1, num_parts=2, clip=dqt.CLIP_NONE, weight_decay=0.5)
    seen = []
    stats = half.step_part(tape, 0.01, lambda data, offsets: seen.append((len(data), data.readonly, offsets)))
    check('a step of a part', not (embedding.codes != before)[:row].any() and (embedding.codes != before)[row:].any())
    check('what it exchanges', len(seen) == 2 and all(size == offsets[2] and not fixed and len(offsets) == 3
                                                      for size, fixed, offsets in seen) and stats.step == 1)
    check('a part has no step of all rows', raises(dqt.Error, half.step, tape, 0.01))
    halves = [dqt.Updater(model, part=k, num_parts=2) for k in range(2)]
    sent, together, alone = io.BytesIO(), io.BytesIO(), io.BytesIO()
    halves[1].write_part(sent)
    sent.seek(0)
    model.save(together, halves[0], parts=lambda part, size: sent.read(size) if part == 1 else b'')
    model.save(alone, dqt.Updater(model))
    check('a file of all parts', together.getvalue() == alone.getvalue())
    check('a part that ends early', raises(dqt.Error, model.save, io.BytesIO(), halves[0], parts=lambda part, size: b''))
    check('what a part raises', raises(KeyError, model.save, io.BytesIO(), halves[0], parts=lambda part, size: {}[part]))
    together.seek(0)
    check('loaded into a part', dqt.Llama.load(ctx, together, part=1, num_parts=2).updater.options.part == 1)
    fused, lagged, ready = dqt.Tape(model, no_gradient_buffers=2), dqt.Updater(model, part=1, num_parts=2, clip=dqt.CLIP_NONE), []
    fused.on_gradient(lambda index: ready.append(fused.gradient(index).shape) and False)
    fused.loss(model, TOKENS, TOKENS)
    fused.begin_update(lagged, 0.0)
    fused.backward(model)
    check('an update of a part', fused.end_update_part(lambda data, offsets: None).step == 1 and len(ready) == len(fused))
    embedding.touch()
    updater.step(tape, 0.01)
    check('an unknown step option', raises(TypeError, updater.step, tape, 0.01, parts=2))
    check('steps', updater.steps == 1)
    updater.steps = 7
    check('steps are set', updater.steps == 7 and updater.step(tape, 0.0).step == 8)

    config, options, recipe = dqt.preset_get(config=SMALL, updater=dict(seed=5), format=dqt.FORMAT_INT4)
    check('a preset', config.linear.storage == dqt.FORMAT_INT4 and config.hidden_size == 32 and
          recipe.learning_rate > 0 and recipe.name)
    trained = dqt.Llama(ctx, config, num_layers=2)
    check('a config as a struct', (trained.config.linear.storage, trained.config.num_layers) == (dqt.FORMAT_INT4, 2))
    updater = dqt.Updater(trained, options)
    check('and options', updater.options.optimizer == options.optimizer)
    check('a struct of another kind', raises(TypeError, dqt.Updater, trained, config))
    check('no recipe is so small', raises(dqt.Error, dqt.preset_get, bytes_per_weight=0.01).status == dqt.E_UNSUPPORTED)
    check('schedules', dqt.schedule_linear(5, 0, 10, 1, 0) == 0.5 and abs(dqt.schedule_cosine(5, 0, 10, 1, 0) - 0.5) < 1e-6)
    check('warm-up, stable, decay', [dqt.schedule_wsd(step, 0, 8, 1, 0.5, 0.25) for step in (5, 6, 7, 8)] == [1, 1, 0.75, 0.5])


def generation():
    ctx = dqt.Context()
    model = dqt.Llama(ctx, **SMALL)
    session = dqt.Session(model, 8)
    check('a session\'s options', (session.options.max_length, session.options.cache_format) == (8, dqt.CACHE_F32))
    check('its default', dqt.Session(model).options.max_length == 2048)
    session.append([1, 2, 3])
    one = session.append([4])
    session.truncate(3)
    check('going back', len(session) == 3 and np.array_equal(session.append([4]), one) and len(session) == 4)
    fork, other = session.fork(), dqt.Session(model, 8)
    check('a fork has the content', len(fork) == 4 and fork.options.max_length == 8)
    other.copy_from(session)
    scores = fork.score([5, 6])
    expected = one.astype(np.float64) - np.log(np.exp(one.astype(np.float64)).sum())
    check('scores', scores.shape == (2,) and len(fork) == 6 and abs(scores[0] - expected[5]) < 1e-5)
    both = dqt.sessions_append([session, other], [[5], [7, 8]])
    check('several sessions at once', (len(session), len(other)) == (5, 6) and both.shape == (2, 256))
    session.truncate(4)
    other.truncate(4)
    check('each as if alone', np.array_equal(session.append([5]), both[0]) and np.array_equal(other.append([7, 8]), both[1]))
    check('a list too few', raises(ValueError, dqt.sessions_append, [session, other], [[1]]))
    small = [dqt.Session(model, 8, cache_format=f) for f in (dqt.CACHE_F32, dqt.CACHE_BF16, dqt.CACHE_INT8)]
    logits = dqt.sessions_append(small, [[1, 2, 3]] * 3)
    check('caches of other formats', small[2].fork().options.cache_format == dqt.CACHE_INT8 and
          not np.array_equal(logits[0], logits[2]) and np.allclose(logits[0], logits[2], atol=0.1 * np.abs(logits[0]).max()))
    check('a copy into another format', raises(dqt.Error, small[0].copy_from, small[2]).status == dqt.E_UNSUPPORTED)
    del model
    gc.collect()
    check('a fork keeps its model', np.isfinite(fork.append([1])).all())
    sampler = dqt.Sampler(ctx, 256, seed=3)
    first = [sampler.sample(one) for _ in range(8)]
    check('draws', sampler.draws == 8 and len(set(first)) > 1)
    sampler.draws = 4
    check('draws are set', [sampler.sample(one) for _ in range(4)] == first[4:])


def exchange():
    ctx = dqt.Context()
    model, other = dqt.Llama(ctx, **SMALL), dqt.Llama(ctx, **SMALL, seed=2)
    weights = [p.tensor.codes for p in model.parameters if p.tensor.info.code_max]

    def same():
        return all(np.array_equal(p, q.tensor.codes) for p, q in
                   zip(weights, (q for q in other.parameters if q.tensor.info.code_max)))
    check('other models differ', not same())
    dqt.layers_copy(other, model)
    check('layers are copied', same())
    other = dqt.Llama(ctx, **SMALL, seed=2)
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, 'model.safetensors')
        model.export_safetensors(path, dtype=dqt.SAFETENSORS_CODES)
        model.export_safetensors(stream := io.BytesIO(), dtype=dqt.SAFETENSORS_CODES)
        with open(path, 'rb') as f:
            check('safetensors in a file object', f.read() == stream.getvalue())
        other.import_safetensors(path)
    check('safetensors come back', same())
    model = dqt.Llama(ctx, **SMALL, no_sub_norms=1)
    model.export_gguf(stream := io.BytesIO(), linear_type=dqt.GGUF_F16, tokens=[f't{i}' for i in range(256)])
    keys = [dict(key='general.name', value_type=dqt.GGUF_VALUE_STRING, text='a name'),
            dict(key='a.number', value_type=dqt.GGUF_VALUE_INT64, integer=-2),
            dict(key='general.tags', value_type=dqt.GGUF_VALUE_STRINGS, texts=['one tag', 'another'])]
    model.export_gguf(own := io.BytesIO(), keys=keys, context_length=7)
    check('a GGUF file with keys of the host\'s', all(word in own.getvalue() for word in (b'a name', b'another', b'\xfe' + 7 * b'\xff')))
    check('a key of the library\'s', 'said by' in str(raises(dqt.Error, model.export_gguf, io.BytesIO(), keys=[
        dict(key='llama.block_count', value_type=dqt.GGUF_VALUE_UINT32, integer=1)])))
    vocabulary = {f't{i}': i for i in range(255)}
    text = json.dumps(dict(added_tokens=[dict(id=255, content='<end>', special=True)], pre_tokenizer=dict(type='ByteLevel'),
                           model=dict(type='BPE', vocab=vocabulary, merges=['t 1']))).encode()
    model.export_gguf(own := io.BytesIO(), tokenizer_json=text, tokenizer_json_size=len(text))
    check('a GGUF file with a tokenizer.json', all(word in own.getvalue() for word in (b'gpt-2', b'<end>', b't254', b't 1')))
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, 'model.gguf')
        model.export_gguf(path, linear_type=dqt.GGUF_F32, embedding_type=dqt.GGUF_F32)
        opened = dqt.Llama.open(ctx, path, embedding=dict(storage=dqt.FORMAT_INT8))
        check('a GGUF file is opened', opened.config.hidden_size == model.config.hidden_size and
              opened.config.embedding.storage == dqt.FORMAT_INT8 and opened.config.linear.storage == dqt.FORMAT_F32)
        model.export_folder(tmp, context_length=64)
        check('a folder is written and opened', dqt.Llama.open(ctx, tmp).config.num_layers == model.config.num_layers)
        check('a file that is not there', raises(dqt.Error, dqt.Llama.open, ctx, path + '.gguf').status == dqt.E_IO)
    check('a GGUF file with tokens', stream.getvalue()[:4] == b'GGUF' and b't255' in stream.getvalue())
    check('a GGUF file of other tokens',
          raises(dqt.Error, model.export_gguf, io.BytesIO(), tokens=['t']).status == dqt.E_ARGUMENT)
    tensor = dqt.Tensor(ctx, 4, 64, storage=dqt.FORMAT_INT8)
    tensor.quantize(np.arange(256).reshape(4, 64) / 256)
    wide = tensor.convert(storage=dqt.FORMAT_F32)
    check('a tensor is converted', np.array_equal(wide.dequantize(), tensor.dequantize()) and wide.info.storage == dqt.FORMAT_F32)
    again = dqt.Tensor(ctx, 4, 64, storage=dqt.FORMAT_INT8)
    again.copy_from(tensor)
    check('a tensor is copied', np.array_equal(again.dequantize(), tensor.dequantize()))


if len(sys.argv) != 2:
    sys.exit(__doc__)
header(sys.argv[1])
for group in memory, mistakes, files, resuming, threads, networks, own_updates, losses, interrupts, rules, generation, exchange:
    group()
print(f'check_python: {passed} passed, {failed} failed')
sys.exit(failed != 0)
