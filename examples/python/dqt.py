"""libdqt for Python: training of language models directly in low-bit integers, over ctypes and numpy.

    import dqt
    ctx = dqt.Context()
    model = dqt.Llama(ctx, hidden_size=64, linear=dict(storage=dqt.FORMAT_TERNARY))
    tape = dqt.Tape(model, max_batch=2, max_length=64)
    updater = dqt.Updater(model)
    tape.zero_gradients(); loss = tape.loss(model, tokens, targets); tape.backward(model); updater.step(tape, 0.01)

Options are keyword arguments with the names of dqt.h: an embedded struct takes a dict, an array a list, of dicts where its items
are structs, and sets its length. A status that is not 0 is raised as dqt.Error, whose text is the library's sentence. Gradients
and packed codes are numpy arrays over the library's own memory, not copies. An object keeps what it was made from alive, an array
what it looks into; memory is given back when the last of them is gone. ctypes lets other Python threads run while the library
works. What a callback raises is raised by the call that it was called from.

The library is the file DQT_LIBRARY or the one in the folder DQT_LIB_DIR, where those are set; else one beside this module, or
in lib/ of the project's own tree, or where the system looks. Every function of dqt.h is in dqt.lib with its argument types,
for what has no method here.
"""
import collections
import ctypes as C
import os
import threading
import weakref

import numpy as np

from dqt_c import *


class Context(Object):
    """Allocator, threads, instruction set and log. parallel_for(count, task) calls task(i) for i below count, on threads if
    it likes; what it leaves out is made up for, and waited for. log(level, sentence) gets messages. interrupt() is asked now
    and then: what is true, or an exception such as KeyboardInterrupt, ends the call."""
    def __init__(self, parallel_for=None, log=None, interrupt=None, **values):
        o, errors = options(context_options, values), Errors()
        self._errors = errors

        def run(_, count, task, data):
            task, waiting, finished = task_fn(task), dict.fromkeys(range(count), True), threading.Semaphore(0)

            def one(i):
                if waiting.pop(i, False):
                    task(data, i)
                    finished.release()
            try:
                parallel_for(count, one)
            except BaseException as e:
                errors.keep(e)
            for i in range(count):
                one(i)
            for i in range(count):
                finished.acquire()
        if parallel_for:
            o.parallel_for = parallel_for_fn(run)
        if log:
            o.log = log_fn(errors.guard(lambda _, level, message: log(level, message.decode()), None))
        if interrupt:
            o.interrupt = interrupt_fn(errors.guard(lambda _: bool(interrupt())))
        raw = C.c_void_p()
        check(lib.dqt_context_create(C.byref(o), C.byref(raw)))
        self.raw = raw.value
        self._end = weakref.finalize(self, Object._destroy, lib.dqt_context_destroy, raw.value, o)

    def check(self, status):
        """Raises what went wrong in a call: an exception of a callback, or the library's refusal."""
        sentence = lib.dqt_last_error(self.raw).decode() if status else ''
        error, self._errors.first = self._errors.first, None
        if error:
            raise error
        if status:
            raise Error(status, sentence)

    isa = property(lambda self: lib.dqt_context_isa(self.raw))
    num_threads = property(lambda self: lib.dqt_context_num_threads(self.raw))
    cpu_features = property(lambda self: lib.dqt_context_cpu_features(self.raw))
    allocated = property(lambda self: lib.dqt_context_allocated(self.raw))


class Tensor(Object):
    """A packed weight matrix [rows][cols]: one's own, or a parameter's."""
    def __init__(self, ctx, rows, cols, **values):
        self._create(ctx, lib.dqt_tensor_destroy, lib.dqt_tensor_create, ctx.raw, rows, cols,
                     C.byref(options(tensor_options, values)))

    info = property(lambda self: self._get('tensor_get_info', kind=tensor_info))
    stats = property(lambda self: self._get('tensor_get_stats', kind=tensor_stats))

    @property
    def shape(self):
        info = self.info
        return info.rows, info.cols

    def quantize(self, weights, rounding=ROUND_NEAREST, seed=1):
        self._call('tensor_quantize', array_of(weights, np.float32, self.shape), rounding, seed)

    def dequantize(self):
        w = np.empty(self.shape, np.float32)
        self._call('tensor_dequantize', 0, len(w), w)
        return w

    @property
    def codes(self):
        """A copy, one int8 each."""
        codes = np.empty(self.shape, np.int8)
        self._call('tensor_get_codes', 0, len(codes), codes)
        return codes

    @codes.setter
    def codes(self, values):
        codes = array_of(values, np.int8, self.shape)
        self._call('tensor_set_codes', 0, len(codes), codes)

    @property
    def scales(self):
        scales = np.empty(self.info.num_scales, np.float32)
        self._call('tensor_get_scales', scales)
        return scales

    @scales.setter
    def scales(self, values):
        self._call('tensor_set_scales', array_of(values, np.float32, (self.info.num_scales,)))

    @property
    def packed(self):
        """The packed bytes [rows][row_bytes] themselves, not a copy. After writing codes within range call touch()."""
        data, size, info = C.c_void_p(), C.c_size_t(), self.info
        self._call('tensor_data', C.byref(data), C.byref(size))
        return view_of(data.value, C.c_uint8, (info.rows, info.row_bytes), self)

    def touch(self):
        self._call('tensor_touch')

    def copy_from(self, other):
        self._call('tensor_copy', other.raw)

    def convert(self, rounding=ROUND_NEAREST, seed=1, **values):
        """A tensor of other options from the dequantised weights."""
        new = Tensor.__new__(Tensor)
        new._create(self.ctx, lib.dqt_tensor_destroy, lib.dqt_tensor_convert, self.raw,
                    rounding, seed, C.byref(options(tensor_options, values)))
        return new


class Parameter:
    """A parameter's .name, .parameter_class, .shape and .tensor."""
    def __init__(self, raw, owner):
        self.name, self.parameter_class, self.shape = raw.name.decode(), raw.parameter_class, (raw.rows, raw.cols)
        self.tensor = Tensor.of(raw.tensor, owner)

    def __repr__(self):
        return f'Parameter({self.name!r}, {self.shape})'


def _batch(tokens=None, targets=None, weights=None, segments=None, divisor=0.0, shape=None):
    """A batch of arrays [batch][length]; one row may come without its dimension."""
    b = sized(batch, divisor=divisor)
    b.arrays = []  # what the pointers point to
    for name, values, kind in (('tokens', tokens, np.int32), ('targets', targets, np.int32), ('weights', weights, np.float32),
                               ('segments', segments, np.int32)):
        if values is not None:
            a = np.atleast_2d(array_of(values, kind))
            shape = a.shape if shape is None else shape
            b.arrays.append(array_of(a, kind, shape))
            setattr(b, name, b.arrays[-1].ctypes.data)
    b.batch, b.length = b.shape = shape
    return b


class _Model(Object):
    """What layers and the LLaMA graph share: losses, and gradients that come from outside."""
    def _loss(self, name, tape, b, inputs, token_losses):
        loss = C.c_float()
        if token_losses is not None and not (isinstance(token_losses, np.ndarray) and token_losses.dtype == np.float32
                                             and token_losses.shape == b.shape and token_losses.flags.carray):
            raise ValueError(f'token_losses must be a float32 array of the shape {b.shape}')
        self._call(name, tape.raw, C.byref(b), *inputs, C.byref(loss), token_losses)
        return loss.value

    def _backward_logits(self, name, tape, gradient, shape, *outputs):
        """gradient: an array [batch][length][classes], or a function that turns tiles of logits into gradients in place."""
        def make(_, raw):
            tile = logits_tile.from_address(raw)
            logits = view_of(tile.logits, C.c_float, (tile.num_tokens, tile.ld), None)[:, :tile.num_classes]
            sums = view_of(tile.log_sum_exp, C.c_float, (tile.num_tokens,), None)
            gradient(logits, sums, slice(tile.first_token, tile.first_token + tile.num_tokens),
                     slice(tile.first_class, tile.first_class + tile.num_classes))
            return 0
        o = sized(logits_gradient)
        if callable(gradient):
            o.callback = logits_fn(self.ctx._errors.guard(make))
        else:
            dlogits = array_of(gradient, np.float32, shape)
            o.dlogits = dlogits.ctypes.data
        self._call(name, tape.raw, C.byref(o), *outputs)
        tape._gradients[self.raw] = o, None if callable(gradient) else dlogits  # a tied head's is read again, by its embedding


class Layer(_Model):
    """A layer of one's own network: Layer.linear(ctx, in, out, ...) and so on. Arrays are [batch][length][features]; an
    embedding takes tokens [batch][length], a head makes logits or a loss."""
    def __init__(self, ctx, kind, *sizes, tied=None, **values):
        o = options(layer_options, values)
        more = (tied.raw if tied else None,) if kind == 'head' else ()
        self._create(ctx, lib.dqt_layer_destroy, getattr(lib, f'dqt_{kind}_create'), ctx.raw, *more, *sizes, C.byref(o),
                     keep=tied)

    info = property(lambda self: self._get('layer_get_info', kind=layer_info))

    @property
    def sublayers(self):
        return [Layer.of(self._get('layer_get_sublayer', i, kind=C.c_void_p), self) for i in range(self.info.num_sublayers)]

    @property
    def parameters(self):
        return [Parameter(self._get('layer_get_parameter', i, kind=parameter), self) for i in range(self.info.num_parameters)]

    def _input(self, x, info):
        x = array_of(x, np.float32)
        if x.ndim != 3 or x.shape[2] != info.in_features:
            raise ValueError(f'the shape is {x.shape}; it must be [batch][length][{info.in_features}]')
        return x

    def forward(self, tape, x, segments=None):
        info = self.info
        if info.kind == LAYER_EMBEDDING:
            b, inputs, name = _batch(x), (), 'embedding_forward'
        else:
            x = self._input(x, info)
            b, inputs = _batch(segments=segments, shape=x.shape[:2]), (x,)
            name = 'head_logits' if info.kind == LAYER_HEAD else 'layer_forward'
        y = np.empty(b.shape + (info.out_features,), np.float32)
        self._call(name, tape.raw, C.byref(b), *inputs, y)
        tape._shapes[self.raw] = y.shape
        return y

    def loss(self, tape, x, targets, weights=None, divisor=0.0, token_losses=None):
        """Of a head: cross-entropy; see Tape.loss."""
        info = self.info
        x = self._input(x, info)
        b = _batch(targets=targets, weights=weights, divisor=divisor, shape=x.shape[:2])
        loss = self._loss('head_loss', tape, b, (x,), token_losses)
        tape._shapes[self.raw] = b.shape + (info.out_features,)
        return loss

    def _shape(self, tape):
        if self.raw not in tape._shapes:
            raise ValueError('there was no forward of this layer')
        return tape._shapes[self.raw]

    def backward(self, tape, dy):
        """The gradient with respect to the input; nothing from an embedding. A head takes the gradient of the logits, see
        Tape.backward_logits."""
        info, shape = self.info, self._shape(tape)
        dx = np.empty(shape[:2] + (info.in_features,), np.float32) if info.kind != LAYER_EMBEDDING else None
        if info.kind == LAYER_HEAD:
            self._backward_logits('head_backward_logits', tape, dy, shape, dx.ctypes.data)
        elif info.kind == LAYER_EMBEDDING:
            self._call('embedding_backward', tape.raw, array_of(dy, np.float32, shape))
        else:
            self._call('layer_backward', tape.raw, array_of(dy, np.float32, shape), dx)
        return dx

    def loss_backward(self, tape, loss_scale=1.0):
        """Of a head, after loss()."""
        dx = np.empty(self._shape(tape)[:2] + (self.info.in_features,), np.float32)
        self._call('head_backward', tape.raw, loss_scale, dx)
        return dx


for _kind in ('embedding', 'linear', 'rmsnorm', 'attention', 'mlp', 'block', 'head'):
    setattr(Layer, _kind, staticmethod(lambda ctx, *sizes, kind=_kind, **values: Layer(ctx, kind, *sizes, **values)))


class Llama(_Model):
    """`base` may be a config, as preset_get makes one."""
    def __init__(self, ctx, base=None, **values):
        self._create(ctx, lib.dqt_llama_destroy, lib.dqt_llama_create, ctx.raw,
                     C.byref(options(llama_config, values, base)))

    @classmethod
    def open(cls, ctx, path, **values):
        """The model in a Hugging Face folder or a GGUF file; values are those of dqt_open_options."""
        model = cls.__new__(cls)
        model._create(ctx, lib.dqt_llama_destroy, lib.dqt_llama_open, ctx.raw, os.fsencode(path),
                      C.byref(options(open_options, values)))
        return model

    @staticmethod
    def memory(ctx, base=None, **values):
        """What such a model would take."""
        return _memory(ctx, 'llama_memory', llama_memory_info, ctx.raw, C.byref(options(llama_config, values, base)))

    @property
    def config(self):
        """The config in effect. Its overrides are the model's, which it keeps alive."""
        config = self._get('llama_get_config', kind=llama_config)
        config._model = self
        return config

    def _layers(self):
        layers, count = C.c_void_p(), C.c_size_t()
        self._call('llama_get_layers', C.byref(layers), C.byref(count))
        return layers.value, count.value

    @property
    def layers(self):
        """Embedding, blocks, norm, head."""
        layers, count = self._layers()
        return [Layer.of(raw, self) for raw in (C.c_void_p * count).from_address(layers)]

    @property
    def parameters(self):
        """All parameters, numbered as in tapes and updaters."""
        return [p for layer in self.layers for p in layer.parameters]

    def save(self, file, updater=None, host=b'', tape=None, parts=None):
        """Writes a checkpoint to a path (under a temporary name, then renamed) or to a file object."""
        _save(self.ctx, 'llama', (self.raw,), file, updater, host, tape, parts)

    def write_part(self, file, updater=None):
        """What the partial model that saves reads through parts; of another partial model, to a file object."""
        self._call('llama_write_part', updater.raw if updater else None, writer_of(self.ctx, file), None)

    @classmethod
    def load(cls, ctx, file, **values):
        """The Checkpoint at a path or in a file object; values are those of dqt_load_options."""
        return _load(ctx, 'llama', (ctx.raw,), file, values)

    def export_gguf(self, file, **values):
        _write(self.ctx, 'llama_export_gguf', 'llama_write_gguf', (self.raw,), file, options(gguf_options, values))

    def export_safetensors(self, file, **values):
        _write(self.ctx, 'llama_export_safetensors', 'llama_write_safetensors', (self.raw,), file,
               options(safetensors_options, values))

    def export_folder(self, folder, **values):
        """config.json and model.safetensors for transformers; values are those of dqt_safetensors_options."""
        self._call('llama_export_folder', os.fsencode(folder), C.byref(options(safetensors_options, values)))

    def import_safetensors(self, path, **values):
        self._call('llama_import_safetensors', os.fsencode(path), C.byref(options(import_options, values)))


# A model and an updater where the file has them, the host's bytes, and a tape's number of passes.
Checkpoint = collections.namedtuple('Checkpoint', 'model updater host passes')


def _write(ctx, to_path, to_stream, first, file, o):
    if hasattr(file, 'write'):
        ctx.check(getattr(lib, f'dqt_{to_stream}')(*first, writer_of(ctx, file), None, C.byref(o)))
    else:
        ctx.check(getattr(lib, f'dqt_{to_path}')(*first, os.fsencode(file), C.byref(o)))


def _save(ctx, what, first, file, updater, host, tape, parts):
    data = C.create_string_buffer(host, len(host)) if host else None
    read_part = part_reader_of(ctx, parts) if parts else None
    o = options(save_options, dict(host=C.cast(data, C.c_void_p).value, host_size=len(host), tape=tape.raw if tape else None,
                                   read_part=C.cast(read_part, C.c_void_p).value if parts else None))
    _write(ctx, f'{what}_save', f'{what}_write', (*first, updater.raw if updater else None), file, o)


def _load(ctx, what, first, file, values):
    o, out = options(load_options, values), sized(checkpoint)
    if hasattr(file, 'read'):
        ctx.check(getattr(lib, f'dqt_{what}_read')(*first, reader_of(ctx, file), None, C.byref(o), C.byref(out)))
    else:
        ctx.check(getattr(lib, f'dqt_{what}_load')(*first, os.fsencode(file), C.byref(o), C.byref(out)))
    model = updater = None
    if out.model:
        model = Llama.__new__(Llama)
        model._own(ctx, lib.dqt_llama_destroy, out.model)
    if out.updater:
        updater = Updater.__new__(Updater)
        updater._own(ctx, lib.dqt_updater_destroy, out.updater, model)
    host = C.string_at(out.host, out.host_size) if out.host else b''
    lib.dqt_host_bytes_free(ctx.raw, out.host, out.host_size)
    return Checkpoint(model, updater, host, out.passes)


def _layers_of(of):
    """Context, layer list, count and what to keep alive, of a model or of a list of layers."""
    if isinstance(of, Llama):
        return of.ctx, *of._layers(), of
    of = tuple(of)
    return of[0].ctx, (C.c_void_p * len(of))(*(layer.raw for layer in of)), len(of), of


def layers_save(of, file, updater=None, host=b'', tape=None, parts=None):
    """Llama.save for a list of layers."""
    ctx, layers, count, _ = _layers_of(of)
    _save(ctx, 'layers', (layers, count), file, updater, host, tape, parts)


def layers_load(of, file, updater=None, **values):
    """Reads weights into layers and state into their updater. The Checkpoint has host bytes and passes only."""
    ctx, layers, count, _ = _layers_of(of)
    return _load(ctx, 'layers', (layers, count, updater.raw if updater else None), file, values)


def layers_copy(to, source):
    """Copies the weights of a model or of layers into others of the same shapes."""
    (ctx, layers, count, _), (_, others, other_count, _) = _layers_of(to), _layers_of(source)
    if count != other_count:
        raise ValueError(f'{other_count} layers into {count}')
    ctx.check(lib.dqt_layers_copy(layers, others, count))


def _memory(ctx, name, kind, *inputs):
    memory = sized(kind)
    ctx.check(getattr(lib, f'dqt_{name}')(*inputs, C.byref(memory)))
    return memory


class Tape(Object):
    """Activations and gradients of a model, or of a list of layers."""
    def __init__(self, of, **values):
        ctx, layers, count, keep = _layers_of(of)
        self._shapes, self._gradients = {}, {}
        self._create(ctx, lib.dqt_tape_destroy, lib.dqt_tape_create, ctx.raw, layers, count,
                     C.byref(options(tape_options, values)), keep=keep)

    @staticmethod
    def memory(of, **values):
        """What such a tape would take."""
        ctx, layers, count, _ = _layers_of(of)
        return _memory(ctx, 'tape_memory', tape_memory_info, ctx.raw, layers, count, C.byref(options(tape_options, values)))

    options = property(lambda self: self._get('tape_get_options', kind=tape_options))

    def zero_gradients(self):
        self._call('tape_zero_gradients')

    def loss(self, model, tokens, targets, weights=None, segments=None, divisor=0.0, token_losses=None):
        """Forward and cross-entropy of arrays [batch][length]: the sum of weight * loss over targets that are not -1, by
        `divisor` (0: the sum of the weights). A float32 array `token_losses` gets each one's. targets None: no loss, for
        backward_logits."""
        b = _batch(tokens, targets, weights, segments, divisor)
        loss = model._loss('llama_loss', self, b, (), token_losses)
        self._shapes[model.raw] = b.shape + (model.config.vocab_size,)
        return loss

    def logits(self, model, tokens, segments=None):
        """[batch][length][vocab]"""
        b = _batch(tokens, segments=segments)
        logits = np.empty(b.shape + (model.config.vocab_size,), np.float32)
        model._call('llama_forward', self.raw, C.byref(b), logits)
        self._shapes[model.raw] = logits.shape
        return logits

    def backward(self, model, loss_scale=1.0):
        model._call('llama_backward', self.raw, loss_scale)

    def backward_logits(self, model, gradient):
        """From a loss of one's own, after loss() or logits(): its gradient [batch][length][vocab], or a function
        gradient(logits, log_sum_exp, tokens, classes) that is given tile after tile, of these slices of batch * length and
        of the vocabulary, and turns the array logits[tokens][classes] into gradients in place; the arrays end with the
        call, and the same tile may come twice."""
        model._backward_logits('llama_backward_logits', self, gradient, self._shapes.get(model.raw))

    def on_gradient(self, ready):
        """ready(index) is called inside backward when a parameter's gradient is complete; what is true ends backward."""
        fn = gradient_ready_fn(self.ctx._errors.guard(lambda _, index: bool(ready(index)))) if ready else None
        self._call('tape_on_gradient', fn, None)
        self._ready = fn

    def begin_update(self, updater, learning_rate, **values):
        """From here to end_update() backward functions update the weights; values are those of dqt_step_options."""
        self._call('tape_begin_update', updater.raw, C.byref(sized(step_options, learning_rate=learning_rate, **values)))
        self._updating = updater

    def end_update(self):
        return self._get('tape_end_update', kind=step_stats)

    def end_update_part(self, exchange):
        """The same with an updater of one part; exchange as in Updater.step_part."""
        sums, stats = sized(step_sums), sized(step_stats)
        self._call('tape_end_update_part', C.byref(sums), C.byref(stats))
        return self._updating._exchange(self, sums, stats, exchange)

    def parameter(self, index):
        return Parameter(self._get('tape_get_parameter', index, kind=parameter), self)

    def __len__(self):
        return self._get('tape_get_num_parameters', kind=C.c_size_t)

    def gradient(self, index):
        """The gradient float32 [rows][cols] itself, not a copy."""
        return view_of(self._get('tape_gradient_data', index, kind=C.c_void_p), C.c_float, self.parameter(index).shape, self)

    @property
    def gradients(self):
        return {self.parameter(i).name: self.gradient(i) for i in range(len(self))}

    def get_gradient(self, index):
        """A copy, whatever the format of the gradients."""
        gradient = np.empty(self.parameter(index).shape, np.float32)
        self._call('tape_get_gradient', index, 0, len(gradient), gradient)
        return gradient

    def set_gradient(self, index, values):
        gradient = array_of(values, np.float32, self.parameter(index).shape)
        self._call('tape_set_gradient', index, 0, len(gradient), gradient)

    # Calls of backward functions, see dqt_tape_get_pass.
    passes = property(lambda self: self._get('tape_get_pass', kind=C.c_uint64),
                     lambda self, value: self._call('tape_set_pass', value))


class Updater(Object):
    """Optimiser, rounding rule and their state, for a model or a list of layers: the only thing that writes a weight.
    `base` may be a struct of options, as preset_get makes one; groups=[dict(pattern=..., ...), ...] are rules by name
    and class."""
    def __init__(self, of, base=None, **values):
        ctx, layers, count, keep = _layers_of(of)
        self._create(ctx, lib.dqt_updater_destroy, lib.dqt_updater_create, ctx.raw, layers, count,
                     C.byref(options(updater_options, values, base)), keep=keep)

    @staticmethod
    def memory(of, base=None, **values):
        """What such an updater would take."""
        ctx, layers, count, _ = _layers_of(of)
        return _memory(ctx, 'updater_memory', updater_memory_info, ctx.raw, layers, count,
                       C.byref(options(updater_options, values, base)))

    options = property(lambda self: self._get('updater_get_options', kind=updater_options))
    # Steps done.
    steps = property(lambda self: self._get('updater_get_step', kind=C.c_uint64),
                     lambda self, value: self._call('updater_set_step', value))

    def add_group(self, **values):
        """Rules by pattern and parameter_class; how many parameters they are for."""
        return self._get('updater_add_group', C.byref(options(group_options, values)), kind=C.c_size_t)

    def rule(self, index):
        """What holds for a parameter after all groups."""
        return self._get('updater_get_rule', index, kind=parameter_rule)

    def part(self, index, part, num_parts):
        """(row, count) of a parameter's rows that belong to a part."""
        row, count = C.c_size_t(), C.c_size_t()
        self._call('updater_get_part', index, part, num_parts, C.byref(row), C.byref(count))
        return row.value, count.value

    def step(self, tape, learning_rate, **values):
        """Updates the weights from the tape's gradients; values are those of dqt_step_options."""
        o = sized(step_options, learning_rate=learning_rate, **values)
        return self._get('updater_step', tape.raw, C.byref(o), kind=step_stats)

    def step_part(self, tape, learning_rate, exchange, **values):
        """The same of an updater of one part, or of a partial model: exchange(data, offsets) is called until there is nothing
        more to exchange, with a writable memoryview of bytes, of which those from offsets[k] on are part k's (of a partial
        model the middle one of three is its own), and gathers all parts' into it."""
        o, sums = sized(step_options, learning_rate=learning_rate, **values), sized(step_sums)
        self._call('updater_begin_step', tape.raw, C.byref(o), C.byref(sums))
        return self._exchange(tape, sums, sized(step_stats), exchange)

    def _exchange(self, tape, sums, stats, exchange):
        while sums.data:
            offsets = list(C.cast(sums.offsets, C.POINTER(C.c_size_t))[:sums.num_parts + 1])
            exchange(memoryview((C.c_ubyte * offsets[-1]).from_address(sums.data)).cast('B'), offsets)
            self._call('updater_continue_step', tape.raw, C.byref(sums), C.byref(stats))
        return stats

    def backward_step(self, model, tape, learning_rate, **values):
        """Backward of the latest loss and the update in one pass, without gradient buffers."""
        o = sized(step_options, learning_rate=learning_rate, **values)
        return model._get('llama_backward_update', tape.raw, self.raw, C.byref(o), kind=step_stats)

    def write(self, file):
        """The rules and state alone, to a file object."""
        self._call('updater_write', writer_of(self.ctx, file), None)

    def read(self, file):
        self._call('updater_read', reader_of(self.ctx, file), None)

    def write_part(self, file):
        """What the replica that saves reads as parts(part, size); of an updater of one part."""
        self._call('updater_write_part', writer_of(self.ctx, file), None)


def preset_get(config=None, updater=None, **values):
    """(llama_config, updater_options, preset): the recipe of docs/results.md for a purpose, format and bytes_per_weight, on
    top of `config` and `updater`, dicts of options. The structs go into Llama(ctx, config) and Updater(model, options)."""
    wanted, found = options(preset_options, values), sized(preset)
    c, u = options(llama_config, config or {}), options(updater_options, updater or {})
    check(lib.dqt_preset_get(C.byref(wanted), C.byref(c), C.byref(u), C.byref(found)))
    return c, u, found


class Session(Object):
    """Key-value cache and position of one sequence; values are those of dqt_session_options."""
    def __init__(self, model, max_length=0, **values):
        o = options(session_options, dict(max_length=max_length, **values))
        self._create(model.ctx, lib.dqt_session_destroy, lib.dqt_session_create, model.raw, C.byref(o), keep=model)
        self._model, self._vocab = model, model.config.vocab_size

    @staticmethod
    def memory(model, max_length=0, **values):
        """What such a session would take."""
        o = options(session_options, dict(max_length=max_length, **values))
        return _memory(model.ctx, 'session_memory', session_memory_info, model.raw, C.byref(o))

    options = property(lambda self: self._get('session_get_options', kind=session_options))

    def append(self, tokens):
        """The logits after the last token."""
        tokens, logits = array_of(tokens, np.int32).reshape(-1), np.empty(self._vocab, np.float32)
        self._call('session_append', tokens, tokens.size, logits)
        return logits

    def score(self, tokens):
        """Appends tokens; the logarithm of the probability of each after all that is before it."""
        tokens = array_of(tokens, np.int32).reshape(-1)
        log_probs = np.empty(tokens.size, np.float32)
        self._call('session_score', tokens, tokens.size, log_probs)
        return log_probs

    def fork(self):
        new = Session.__new__(Session)
        new._create(self.ctx, lib.dqt_session_destroy, lib.dqt_session_fork, self.raw, keep=self._model)
        new._model, new._vocab = self._model, self._vocab
        return new

    def copy_from(self, other):
        self._call('session_copy', other.raw)

    def truncate(self, length):
        self._call('session_truncate', length)

    def __len__(self):
        return self._get('session_get_length', kind=C.c_size_t)


def sessions_append(sessions, tokens):
    """Appends tokens[i], one or several, to sessions[i] in one pass: the logits after the last ones, [sessions][vocab]."""
    if not sessions or len(sessions) != len(tokens):
        raise ValueError(f'{len(tokens)} lists of tokens for {len(sessions)} sessions')
    tokens = [array_of(t, np.int32).reshape(-1) for t in tokens]
    logits = np.empty((len(sessions), sessions[0]._vocab), np.float32)
    steps = (session_step * len(sessions))(*(
        sized(session_step, session=s.raw, tokens=t.ctypes.data, count=t.size, logits=row.ctypes.data)
        for s, t, row in zip(sessions, tokens, logits)))
    sessions[0].ctx.check(lib.dqt_sessions_append(steps, len(sessions)))
    return logits


class Sampler(Object):
    def __init__(self, ctx, vocab_size, **values):
        self._vocab = vocab_size
        self._create(ctx, lib.dqt_sampler_destroy, lib.dqt_sampler_create, ctx.raw, vocab_size,
                     C.byref(options(sampler_options, values)))

    def sample(self, logits):
        return self._get('sampler_sample', array_of(logits, np.float32, (self._vocab,)), kind=C.c_int32)

    # Draws made.
    draws = property(lambda self: self._get('sampler_get_draws', kind=C.c_uint64),
                     lambda self, value: self._call('sampler_set_draws', value))


def schedule_cosine(step, warmup, total, peak, final_fraction):
    """Learning rate at `step`: warm-up to `peak`, then a cosine to peak * final_fraction at `total`."""
    return lib.dqt_schedule_cosine(step, warmup, total, peak, final_fraction)


def schedule_linear(step, warmup, total, peak, final_fraction):
    """The same with a line."""
    return lib.dqt_schedule_linear(step, warmup, total, peak, final_fraction)


def schedule_wsd(step, warmup, total, peak, final_fraction, decay):
    """The same with a line over the last steps, the fraction `decay` of all; until then it stays at `peak`."""
    return lib.dqt_schedule_wsd(step, warmup, total, peak, final_fraction, decay)
