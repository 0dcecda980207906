#!/usr/bin/env python3
"""examples/python/dqt.py: its declarations against the header, as a C compiler sees it, and what its objects promise.

    check_python.py HEADER_FOLDER       (CC names the compiler; dqt.py is on PYTHONPATH)
"""
import ctypes as C
import gc
import io
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
    """Structs with offsets, constants and prototypes of dqt.h against dqt.py's."""
    with open(os.path.join(folder, 'dqt.h')) as f:
        text = re.sub(r'/\*.*?\*/', '', f.read(), flags=re.S)
    structs = re.findall(r'typedef struct (dqt_\w+) \{(.*?)\}', text, re.S)
    constants = [name for body in re.findall(r'^enum \{(.*?)\};', text, re.S | re.M) for name in re.findall(r'\bDQT_\w+', body)]
    constants = [name for name in dict.fromkeys(constants)]
    known = {f'dqt_{k}': v for k, v in vars(dqt).items() if isinstance(v, type) and issubclass(v, C.Structure)}
    known.pop('dqt__Struct')
    check('the structs are the header\'s', sorted(known) == sorted(name for name, _ in structs))
    lines = []
    for name, kind in known.items():
        lines.append((f'{name}', f'sizeof(struct {name})', C.sizeof(kind)))
        for member, ctype, *_ in kind._fields_:
            lines.append((f'{name}.{member}', f'offsetof(struct {name}, {member})', getattr(kind, member).offset))
            lines.append((f'size of {name}.{member}', f'sizeof(((struct {name} *)0)->{member})', C.sizeof(ctype)))
    for name in constants:
        lines.append((name, name, getattr(dqt, name[len('DQT_'):], None)))
    check('there are structs and constants to compare', len(structs) > 15 and len(constants) > 80)
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
    here = {'dqt_' + e.split()[1]: e.split()[0] + ' ' + ''.join(e.split()[2:]) for e in dqt.FUNCTIONS.split(';')}
    check('there are functions to compare', len(there) > 90)
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
    dqt.lib.dqt_tape_read_gradient(tape.raw, q, 0, len(copy), copy.ctypes.data)
    check('a gradient is what the library reads', gradient.any() and np.array_equal(gradient, copy))
    gradient[:] = 2
    dqt.lib.dqt_tape_read_gradient(tape.raw, q, 0, len(copy), copy.ctypes.data)
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
        loaded, state, host = dqt.Llama.load(ctx, path)
    check('host bytes', host == b'host\0bytes')
    del loaded
    gc.collect()
    again = io.BytesIO()
    file.seek(0)
    copy, state2, host = dqt.Llama.load(ctx, file)
    copy.save(again, state2, host)
    check('what is loaded is what was saved', again.getvalue() == file.getvalue())
    check('config', repr(copy.config) == repr(model.config) and copy.config.linear.storage == dqt.FORMAT_TERNARY)
    model.save(again := io.BytesIO())
    again.seek(0)
    check('no updater, no host bytes', dqt.Llama.load(ctx, again)[1:] == (None, b''))
    del model, updater, state, copy, state2
    gc.collect()
    check('loading gives all memory back', ctx.allocated == empty)


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
    check('groups', updater.add_group(pattern='first*', lr_factor=0.0) == 1)
    x = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
    normed = layers[0].forward(tape, x)
    check('RMSNorm is numpy\'s', np.allclose(normed, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5), rtol=1e-5))
    y = layers[1].forward(tape, normed)
    raw = dqt.sized(dqt.parameter)
    dqt.lib.dqt_tape_parameter(tape.raw, 1, C.byref(raw))
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
    check('a tied head', dqt.Layer.head(ctx, 8, 16, tied=dqt.Layer.embedding(ctx, 16, 8)).info.num_parameters == 0)
    model = dqt.Llama(ctx, **SMALL)
    fused, updater = dqt.Tape(model, gradients=0), dqt.Updater(model, clip=dqt.CLIP_NONE)
    fused.loss(model, TOKENS, TOKENS)
    check('a fused step', updater.backward_step(model, fused, 0.01).flipped > 0)
    check('logits', fused.logits(model, TOKENS).shape == (1, 32, 256))


if len(sys.argv) != 2:
    sys.exit(__doc__)
header(sys.argv[1])
for group in memory, mistakes, files, threads, networks:
    group()
print(f'check_python: {passed} passed, {failed} failed')
sys.exit(failed != 0)
