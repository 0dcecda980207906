"""libdqt for Python: training of language models directly in low-bit integers, over ctypes and numpy.

    import dqt
    ctx = dqt.Context()
    model = dqt.Llama(ctx, hidden_size=64, linear=dict(storage=dqt.FORMAT_TERNARY))
    tape = dqt.Tape(model, max_batch=2, max_length=64)
    updater = dqt.Updater(model)
    tape.zero_gradients(); loss = tape.loss(model, tokens, targets); tape.backward(model); updater.step(tape, 0.01)

Options are keyword arguments with the names of dqt.h. A status that is not 0 is raised as dqt.Error, whose text is the
library's sentence. Gradients and packed codes are numpy arrays over the library's own memory, not copies. An object keeps
what it was made from alive, an array what it looks into; memory is given back when the last of them is gone. ctypes lets
other Python threads run while the library works.

The library is the file DQT_LIBRARY or the one in the folder DQT_LIB_DIR, where those are set; else one beside this module, or
in lib/ of the project's own tree, or where the system looks. Every function of dqt.h is in dqt.lib with its argument types,
for what has no method here.
"""
import ctypes as C
import os
import threading
import weakref

import numpy as np

# ---- Constants: dqt.h's without DQT_ ----
OK, E_ARGUMENT, E_SHAPE, E_MEMORY, E_UNSUPPORTED, E_FORMAT, E_IO, E_NUMERIC, E_STATE = range(0, 90, 10)
LOG_ERROR, LOG_WARNING, LOG_INFO = 1, 2, 3
THREADING_AUTO, THREADING_SERIAL, THREADING_OPENMP, THREADING_HOST = range(4)
ISA_AUTO, ISA_SCALAR, ISA_AVX2, ISA_AVX_VNNI, ISA_AVX512, ISA_VNNI, ISA_AMX, ISA_NEON = 0, 1, 10, 15, 20, 30, 40, 100
(CPU_AVX2, CPU_AVX512, CPU_AVX512_VNNI, CPU_AVX512_BF16, CPU_AMX_INT8, CPU_AMX_BF16, CPU_NEON,
 CPU_NEON_DOTPROD, CPU_AVX_VNNI, CPU_NEON_I8MM) = (1 << bit for bit in range(10))
(FORMAT_SAME, FORMAT_F32, FORMAT_BF16, FORMAT_INT8, FORMAT_INT4, FORMAT_INT3, FORMAT_INT2, FORMAT_TERNARY,
 FORMAT_INT5, FORMAT_INT6) = range(10)
SCALE_ABSMEAN, SCALE_SIGMA, SCALE_ABSMAX, SCALE_AUTO = range(4)
AXIS_TENSOR, AXIS_ROW = range(2)
ROUND_STOCHASTIC, ROUND_NEAREST, ROUND_ECO_STOCHASTIC, ROUND_ECO_NEAREST = range(4)
(LAYER_EMBEDDING, LAYER_LINEAR, LAYER_RMSNORM, LAYER_ATTENTION, LAYER_MLP, LAYER_BLOCK, LAYER_HEAD) = range(1, 8)
ACTIVATION_INT8, ACTIVATION_NONE = range(2)
MLP_SWIGLU, MLP_SQUARED_RELU = range(2)
CLASS_EMBEDDING, CLASS_HEAD, CLASS_NORM, CLASS_ATTENTION, CLASS_MLP, CLASS_LINEAR = range(1, 7)
PRECISION_AUTO, PRECISION_F32, PRECISION_BF16 = range(3)
FLOAT_F32, FLOAT_BF16, FLOAT_FP8_E4M3, FLOAT_FP8_E5M2 = range(4)
OPTIMIZER_SGD, OPTIMIZER_ADAMW, OPTIMIZER_ADAFACTOR = 1, 2, 3
STATE_F32, STATE_BF16, STATE_INT8 = range(3)
CLIP_NONE, CLIP_GLOBAL_NORM, CLIP_PREVIOUS_NORM, CLIP_TENSOR_NORM = range(4)
GGUF_AUTO, GGUF_F32, GGUF_F16, GGUF_Q8_0, GGUF_Q4_0, GGUF_TQ1_0, GGUF_TQ2_0, GGUF_Q5_0 = range(8)
SAFETENSORS_F32, SAFETENSORS_BF16, SAFETENSORS_CODES = range(3)

# ---- Structs: "type: names" line by line; i int32, u uint32, q uint64, z size_t, f float, d double, s string, p pointer ----
TYPES = dict(i=C.c_int32, u=C.c_uint32, q=C.c_uint64, z=C.c_size_t, f=C.c_float, d=C.c_double, s=C.c_char_p, p=C.c_void_p)
alloc_fn = C.CFUNCTYPE(C.c_void_p, C.c_void_p, C.c_size_t, C.c_size_t)
free_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_void_p, C.c_size_t, C.c_size_t)
task_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_size_t)
parallel_for_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_size_t, C.c_void_p, C.c_void_p)
log_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_int32, C.c_char_p)
gradient_ready_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_size_t)
read_fn = C.CFUNCTYPE(C.c_size_t, C.c_void_p, C.c_void_p, C.c_size_t)
write_fn = C.CFUNCTYPE(C.c_int32, C.c_void_p, C.c_void_p, C.c_size_t)


class _Struct(C.Structure):
    def __repr__(self):
        members = ', '.join(f'{n}={getattr(self, n)!r}' for n, *_ in self._fields_ if n not in ('struct_size', 'reserved'))
        return f'{type(self).__name__}({members})'


def _struct(name, fields):
    members = [('struct_size', C.c_uint32)]
    for group in fields.split(';'):
        kind, names = group.split(':')
        kind = TYPES.get(kind.strip()) or globals()[kind.strip()]
        for member in names.split():
            member, _, count = member.partition('*')
            members.append((member, kind * int(count) if count else kind))
    return type(name, (_Struct,), {'_fields_': members, '__module__': __name__})


context_options = _struct('context_options', '''i: threading num_threads isa forbid_amx log_level; alloc_fn: alloc;
    free_fn: free; p: alloc_user_data; parallel_for_fn: parallel_for; p: parallel_user_data; log_fn: log; p: log_user_data''')
tensor_options = _struct('tensor_options', 'i: storage compute scale_rule scale_axis; f: sigma; i: train_scale reserved*9')
tensor_info = _struct('tensor_info', '''i: storage compute scale_rule scale_axis train_scale code_min code_max; f: sigma;
    z: rows cols row_bytes data_bytes num_scales''')
tensor_stats = _struct('tensor_stats', 'u: reserved; q: histogram*256 zeros saturated; d: mean rms')
layer_options = _struct('layer_options', '''i: activation; tensor_options: weight; q: seed; f: init_std norm_eps;
    i: mlp sub_norm; f: rope_theta; s: name; i: shape_only reserved''')
layer_info = _struct('layer_info', 'i: kind; z: in out num_parameters num_parts')
parameter = _struct('parameter', 'i: parameter_class; s: name; p: tensor; z: rows cols')
tape_options = _struct('tape_options', '''i: precision; z: max_batch max_length; i: gradients inference recompute
    gradient_format checkpoint_format; q: seed''')
tape_memory_info = _struct('tape_memory_info', 'u: reserved; z: total activations gradients workspace other')
llama_config = _struct('llama_config', '''i: mlp; z: vocab_size hidden_size intermediate_size num_layers num_heads
    num_kv_heads; f: norm_eps rope_theta init_std; i: sub_norms tie_embeddings activation head_activation shape_only;
    tensor_options: linear embedding head; q: seed; f: linear_init_std; i: reserved''')
llama_memory_info = _struct('llama_memory_info', '''u: reserved; z: total linear_bytes embedding_bytes head_bytes other_bytes
    linear_weights embedding_weights head_weights norm_weights''')
updater_options = _struct('updater_options', '''i: optimizer rounding momentum_state variance_state; f: beta1 beta2 eps
    weight_decay; i: clip; f: clip_norm update_clip; i: lagged; f: scale_lr; q: seed; f: rounding_noise reserved''')
updater_memory_info = _struct('updater_memory_info', 'u: reserved; z: total momentum variance scales workspace other')
group_options = _struct('group_options', '''i: parameter_class; s: pattern; f: lr_factor weight_decay; i: rounding;
    f: beta1 rounding_noise; i: reserved''')
step_stats = _struct('step_stats', 'u: reserved; d: gradient_norm update_rms; q: flipped saturated quantized step')
sampler_options = _struct('sampler_options', 'f: temperature; z: top_k; f: top_p; q: seed')
gguf_options = _struct('gguf_options', '''i: linear_type embedding_type bos_token eos_token unknown_token add_bos
    add_space_prefix; z: context_length; p: tokens scores types; z: num_tokens''')
safetensors_options = _struct('safetensors_options', 'i: dtype stored reserved')

# ---- Functions: result and arguments, n for none; a callback or any other pointer is p ----
FUNCTIONS = '''
u version; s version_string; s status_string i; i context_options_init pz; i context_create pp; n context_destroy p;
s last_error p; q cpu_features p; i context_isa p; i context_num_threads p; z context_allocated p;
i tensor_options_init pz; i tensor_create pzzpp; n tensor_destroy p; i tensor_get_info pp; i tensor_quantize ppiq;
i tensor_dequantize pzzp; i tensor_get_codes pzzp; i tensor_set_codes pzzp; i tensor_get_scales pp; i tensor_set_scales pp;
i tensor_data ppp; i tensor_touch p; i tensor_get_stats pp; i tensor_convert ppiqp;
i layer_options_init pz; i embedding_create pzzpp; i linear_create pzzpp; i rmsnorm_create pzpp; i attention_create pzzzpp;
i mlp_create pzzpp; i block_create pzzzzpp; i head_create pzzppp; n layer_destroy p; i layer_get_info pp; i layer_part pzp;
i layer_parameter pzp; i layer_forward ppzzpp; i layer_backward pppp; i embedding_forward ppzzpp; i embedding_backward ppp;
i head_loss ppzzpppp; i head_backward ppfp; i head_logits ppzzpp;
i tape_options_init pz; i tape_memory ppzpp; i tape_create ppzpp; n tape_destroy p; i tape_num_parameters pp;
i tape_parameter pzp; i tape_gradient pzp; i tape_read_gradient pzzzp; i tape_write_gradient pzzzp; i tape_zero_gradients p;
i tape_get_pass pp; i tape_set_pass pq; i tape_on_gradient ppp;
i llama_config_init pz; i llama_memory ppp; i llama_create ppp; n llama_destroy p; i llama_get_config pp; i llama_layers ppp;
i llama_forward pppzzp; i llama_loss ppppzzpp; i llama_backward ppf; i llama_forward_blocks ppzzzzp;
i llama_backward_blocks ppzzp;
i updater_options_init pz; i updater_memory ppzpp; i updater_create ppzpp; n updater_destroy p; i group_options_init pz;
i updater_add_group ppp; i updater_step ppfp; i updater_step_range ppfzzp; i updater_range pzzzpp; i llama_backward_update pppfp; i updater_get_step pp; i updater_set_step pq;
i updater_get_options pp; f schedule_cosine qqqff; f schedule_linear qqqff;
i session_create pzp; n session_destroy p; i session_append ppzp; i session_length pp; i session_truncate pz;
i sampler_options_init pz; i sampler_create pzpp; n sampler_destroy p; i sampler_sample ppp;
i llama_save pppzs; i llama_write pppzpp; i llama_load pspppp; i llama_read ppppppp; n host_bytes_free ppz;
i gguf_options_init pz; i llama_export_gguf pps; i llama_write_gguf pppp; i safetensors_options_init pz;
i llama_export_safetensors pps; i llama_write_safetensors pppp; i llama_import_safetensors psiq'''


def _find():
    """The library that is to be loaded: a path, or a name that the system knows."""
    name = 'libdqt.so.1'
    if os.environ.get('DQT_LIBRARY'):
        return os.environ['DQT_LIBRARY']
    if os.environ.get('DQT_LIB_DIR'):
        return os.path.join(os.environ['DQT_LIB_DIR'], name)
    here = os.path.dirname(os.path.abspath(__file__))
    tree = os.path.join(here, '..', '..')
    folders = [here] + ([os.path.join(tree, 'lib')] if os.path.exists(os.path.join(tree, 'include', 'dqt.h')) else [])
    for folder in folders:
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return name


def _open():
    path = _find()
    try:
        library = C.CDLL(path)
    except OSError as error:
        raise ImportError(f'dqt: {path} cannot be loaded ({error}): install libdqt ("make install", then "ldconfig"), or set '
                          'DQT_LIBRARY to the file or DQT_LIB_DIR to its folder') from None
    for entry in FUNCTIONS.split(';'):
        result, name, *arguments = entry.split()
        function = getattr(library, 'dqt_' + name)
        function.restype = None if result == 'n' else TYPES[result]
        function.argtypes = [TYPES[kind] for kind in ''.join(arguments)]
    return library


lib = _open()


class Error(RuntimeError):
    """A refusal: .status is E_*, .sentence names the argument, its value and what would be right."""
    def __init__(self, status, sentence):
        self.status, self.sentence = status, sentence
        super().__init__(f'{lib.dqt_status_string(status).decode()}: {sentence}')


def _check(status, ctx=None):
    if status:
        raise Error(status, lib.dqt_last_error(ctx).decode())


def options(kind, values):
    """An options struct with the library's defaults and these values; embedded structs take a dict."""
    o = kind()
    _check(getattr(lib, f'dqt_{kind.__name__}_init')(C.byref(o), C.sizeof(o)))
    _set(o, values)
    return o


def _set(o, values):
    for name, value in values.items():
        if name == 'struct_size' or name not in (n for n, *_ in o._fields_):
            raise TypeError(f'{type(o).__name__} has no {name}')
        if isinstance(value, dict):
            _set(getattr(o, name), value)
        elif isinstance(getattr(o, name), C.Structure):
            raise TypeError(f'{name} takes a dict')
        else:
            setattr(o, name, value.encode() if isinstance(value, str) else value)


def sized(kind):
    """An information struct to be filled."""
    return kind(struct_size=C.sizeof(kind))


def _array(x, dtype, shape=None):
    """x as a contiguous array of this type; its shape is checked."""
    a = np.ascontiguousarray(x, dtype)
    if a is not x and np.issubdtype(dtype, np.integer) and not np.array_equal(a, x):
        raise ValueError('not whole numbers of the range of ' + np.dtype(dtype).name)
    if shape is not None and a.shape != tuple(shape):
        raise ValueError(f'the shape is {a.shape}; it must be {tuple(shape)}')
    return a


def _view(address, kind, shape, owner):
    """A numpy array over memory of the library's that keeps its owner alive."""
    buffer = (kind * int(np.prod(shape))).from_address(address)
    buffer.owner = owner
    return np.frombuffer(buffer, dtype=kind).reshape(shape)


class _Object:
    """A handle, destroyed when nothing uses it any more; `keep` lives longer."""
    def _create(self, ctx, destroy, create, *arguments, keep=()):
        raw = C.c_void_p()
        status = create(*arguments, C.byref(raw))
        if raw.value:
            self._own(ctx, destroy, raw.value, keep)
        ctx.check(status)

    def _own(self, ctx, destroy, raw, keep=()):
        self.ctx, self.raw = ctx, raw
        self._end = weakref.finalize(self, _Object._destroy, destroy, raw, (ctx, keep))

    @staticmethod
    def _destroy(destroy, raw, keep):
        destroy(raw)


class Context(_Object):
    """Allocator, threads, instruction set and log. parallel_for(count, task) calls task(i) for i below count, on threads if
    it likes; what it leaves out is made up for, and waited for. log(level, sentence) gets messages. What they raise is raised
    by the call that they were called from."""
    def __init__(self, parallel_for=None, log=None, **values):
        o, errors = options(context_options, values), []
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
                errors.append(e)
            for i in range(count):
                one(i)
            for i in range(count):
                finished.acquire()

        def say(_, level, message):
            try:
                log(level, message.decode())
            except BaseException as e:
                errors.append(e)
        if parallel_for:
            o.parallel_for = parallel_for_fn(run)
        if log:
            o.log = log_fn(say)
        raw = C.c_void_p()
        _check(lib.dqt_context_create(C.byref(o), C.byref(raw)))
        self.raw = raw.value
        self._end = weakref.finalize(self, _Object._destroy, lib.dqt_context_destroy, raw.value, o)

    def check(self, status):
        """Raises what went wrong in a call: an exception of a callback, or the library's refusal."""
        sentence = lib.dqt_last_error(self.raw).decode() if status else ''
        if self._errors:
            error = self._errors[0]
            self._errors.clear()
            raise error
        if status:
            raise Error(status, sentence)

    isa = property(lambda self: lib.dqt_context_isa(self.raw))
    num_threads = property(lambda self: lib.dqt_context_num_threads(self.raw))
    cpu_features = property(lambda self: lib.dqt_cpu_features(self.raw))
    allocated = property(lambda self: lib.dqt_context_allocated(self.raw))


class Tensor(_Object):
    """A packed weight matrix [rows][cols]: one's own, or a parameter's."""
    def __init__(self, ctx, rows, cols, **values):
        self._create(ctx, lib.dqt_tensor_destroy, lib.dqt_tensor_create, ctx.raw, rows, cols,
                     C.byref(options(tensor_options, values)))

    @classmethod
    def of(cls, raw, owner):
        self = cls.__new__(cls)
        self.ctx, self.raw, self.owner = owner.ctx, raw, owner
        return self

    @property
    def info(self):
        info = sized(tensor_info)
        self.ctx.check(lib.dqt_tensor_get_info(self.raw, C.byref(info)))
        return info

    @property
    def shape(self):
        info = self.info
        return info.rows, info.cols

    def quantize(self, weights, rounding=ROUND_NEAREST, seed=1):
        w = _array(weights, np.float32, self.shape)
        self.ctx.check(lib.dqt_tensor_quantize(self.raw, w.ctypes.data, rounding, seed))

    def dequantize(self):
        w = np.empty(self.shape, np.float32)
        self.ctx.check(lib.dqt_tensor_dequantize(self.raw, 0, len(w), w.ctypes.data))
        return w

    @property
    def codes(self):
        """A copy, one int8 each."""
        codes = np.empty(self.shape, np.int8)
        self.ctx.check(lib.dqt_tensor_get_codes(self.raw, 0, len(codes), codes.ctypes.data))
        return codes

    @codes.setter
    def codes(self, values):
        codes = _array(values, np.int8, self.shape)
        self.ctx.check(lib.dqt_tensor_set_codes(self.raw, 0, len(codes), codes.ctypes.data))

    @property
    def scales(self):
        scales = np.empty(self.info.num_scales, np.float32)
        self.ctx.check(lib.dqt_tensor_get_scales(self.raw, scales.ctypes.data))
        return scales

    @scales.setter
    def scales(self, values):
        scales = _array(values, np.float32, (self.info.num_scales,))
        self.ctx.check(lib.dqt_tensor_set_scales(self.raw, scales.ctypes.data))

    @property
    def packed(self):
        """The packed bytes [rows][row_bytes] themselves, not a copy. After writing codes within range call touch()."""
        data, size, info = C.c_void_p(), C.c_size_t(), self.info
        self.ctx.check(lib.dqt_tensor_data(self.raw, C.byref(data), C.byref(size)))
        return _view(data.value, C.c_uint8, (info.rows, info.row_bytes), self)

    def touch(self):
        self.ctx.check(lib.dqt_tensor_touch(self.raw))

    @property
    def stats(self):
        stats = sized(tensor_stats)
        self.ctx.check(lib.dqt_tensor_get_stats(self.raw, C.byref(stats)))
        return stats


class Parameter:
    """A parameter's .name, .parameter_class, .shape and .tensor."""
    def __init__(self, raw, owner):
        self.name, self.parameter_class, self.shape = raw.name.decode(), raw.parameter_class, (raw.rows, raw.cols)
        self.tensor = Tensor.of(raw.tensor, owner)

    def __repr__(self):
        return f'Parameter({self.name!r}, {self.shape})'


class Layer(_Object):
    """A layer of one's own network: Layer.linear(ctx, in, out, ...) and so on. Calls take arrays [batch][length][features]."""
    def __init__(self, ctx, kind, *sizes, tied=None, **values):
        o = options(layer_options, values)
        more = (tied.raw if tied else None,) if kind == 'head' else ()
        self._create(ctx, lib.dqt_layer_destroy, getattr(lib, f'dqt_{kind}_create'), ctx.raw, *sizes, *more, C.byref(o),
                     keep=tied)

    @property
    def info(self):
        info = sized(layer_info)
        self.ctx.check(lib.dqt_layer_get_info(self.raw, C.byref(info)))
        return info

    def forward(self, tape, x):
        x = _array(x, np.float32)
        y = np.empty(x.shape[:2] + (self.info.out,), np.float32)
        if x.shape != x.shape[:2] + (getattr(self.info, 'in'),):
            raise ValueError(f'the shape is {x.shape}; it must be [batch][length][{getattr(self.info, "in")}]')
        self.ctx.check(lib.dqt_layer_forward(self.raw, tape.raw, *x.shape[:2], x.ctypes.data, y.ctypes.data))
        tape._shapes[self.raw] = y.shape
        return y

    def backward(self, tape, dy):
        dy = _array(dy, np.float32)
        if dy.shape != tape._shapes.get(self.raw, dy.shape) or dy.ndim != 3:
            raise ValueError(f'the shape is {dy.shape}; it must be the latest forward\'s, {tape._shapes.get(self.raw)}')
        dx = np.empty(dy.shape[:2] + (getattr(self.info, 'in'),), np.float32)
        self.ctx.check(lib.dqt_layer_backward(self.raw, tape.raw, dy.ctypes.data, dx.ctypes.data))
        return dx


for _kind in ('embedding', 'linear', 'rmsnorm', 'attention', 'mlp', 'block', 'head'):
    setattr(Layer, _kind, staticmethod(lambda ctx, *sizes, kind=_kind, **values: Layer(ctx, kind, *sizes, **values)))


class Llama(_Object):
    def __init__(self, ctx, **config):
        self._create(ctx, lib.dqt_llama_destroy, lib.dqt_llama_create, ctx.raw, C.byref(options(llama_config, config)))

    @property
    def config(self):
        config = sized(llama_config)
        self.ctx.check(lib.dqt_llama_get_config(self.raw, C.byref(config)))
        return config

    def _layers(self):
        layers, count = C.c_void_p(), C.c_size_t()
        self.ctx.check(lib.dqt_llama_layers(self.raw, C.byref(layers), C.byref(count)))
        return layers.value, count.value

    @property
    def parameters(self):
        """All parameters, numbered as in tapes and updaters."""
        layers, count = self._layers()
        found = []
        for layer in (C.c_void_p * count).from_address(layers):
            info = sized(layer_info)
            self.ctx.check(lib.dqt_layer_get_info(layer, C.byref(info)))
            for i in range(info.num_parameters):
                p = sized(parameter)
                self.ctx.check(lib.dqt_layer_parameter(layer, i, C.byref(p)))
                found.append(Parameter(p, self))
        return found

    def save(self, file, updater=None, host=b''):
        """Writes a checkpoint to a path (under a temporary name, then renamed) or to a file object."""
        state = updater.raw if updater else None
        data = C.create_string_buffer(host, len(host)) if host else None
        if not hasattr(file, 'write'):
            self.ctx.check(lib.dqt_llama_save(self.raw, state, data, len(host), os.fsencode(file)))
            return

        def write(_, bytes_, size):
            try:
                view, done = memoryview((C.c_char * size).from_address(bytes_)).cast('B').toreadonly(), 0
                while done < size:
                    written = file.write(view[done:])
                    done += size - done if written is None else written
                return 0
            except BaseException as e:
                self.ctx._errors.append(e)
                return 1
        self.ctx.check(lib.dqt_llama_write(self.raw, state, data, len(host), write_fn(write), None))

    @classmethod
    def load(cls, ctx, file):
        """(model, updater or None, host bytes) from a path or a file object."""
        model, updater, host, size = C.c_void_p(), C.c_void_p(), C.c_void_p(), C.c_size_t()
        out = C.byref(model), C.byref(updater), C.byref(host), C.byref(size)

        def read(_, buffer, wanted):
            try:
                data = file.read(wanted)
                if len(data) > wanted:
                    raise ValueError(f'read({wanted}) gave {len(data)} bytes')
                C.memmove(buffer, data, len(data))
                return len(data)
            except BaseException as e:
                ctx._errors.append(e)
                return C.c_size_t(-1).value
        if hasattr(file, 'read'):
            ctx.check(lib.dqt_llama_read(ctx.raw, read_fn(read), None, *out))
        else:
            ctx.check(lib.dqt_llama_load(ctx.raw, os.fsencode(file), *out))
        self = cls.__new__(cls)
        self._own(ctx, lib.dqt_llama_destroy, model.value)
        state = None
        if updater.value:
            state = Updater.__new__(Updater)
            state._own(ctx, lib.dqt_updater_destroy, updater.value, self)
        data = C.string_at(host.value, size.value) if host.value else b''
        lib.dqt_host_bytes_free(ctx.raw, host, size)
        return self, state, data


def _layers_of(of):
    """Context, layer list, count and what to keep alive, of a model or of a list of layers."""
    if isinstance(of, Llama):
        return of.ctx, *of._layers(), of
    of = tuple(of)
    return of[0].ctx, (C.c_void_p * len(of))(*(layer.raw for layer in of)), len(of), of


class Tape(_Object):
    """Activations and gradients of a model, or of a list of layers."""
    def __init__(self, of, **values):
        ctx, layers, count, keep = _layers_of(of)
        self._shapes = {}
        self._create(ctx, lib.dqt_tape_destroy, lib.dqt_tape_create, ctx.raw, layers, count,
                     C.byref(options(tape_options, values)), keep=keep)

    def zero_gradients(self):
        self.ctx.check(lib.dqt_tape_zero_gradients(self.raw))

    def loss(self, model, tokens, targets):
        """Forward and mean cross-entropy of tokens[batch][length]; targets of -1 are ignored."""
        tokens = np.atleast_2d(_array(tokens, np.int32))
        targets = _array(np.atleast_2d(targets), np.int32, tokens.shape)
        loss = C.c_float()
        self.ctx.check(lib.dqt_llama_loss(model.raw, self.raw, tokens.ctypes.data, targets.ctypes.data, *tokens.shape,
                                          C.byref(loss), None))
        return loss.value

    def logits(self, model, tokens):
        """[batch][length][vocab]"""
        tokens = np.atleast_2d(_array(tokens, np.int32))
        logits = np.empty(tokens.shape + (model.config.vocab_size,), np.float32)
        self.ctx.check(lib.dqt_llama_forward(model.raw, self.raw, tokens.ctypes.data, *tokens.shape, logits.ctypes.data))
        return logits

    def backward(self, model, loss_scale=1.0):
        self.ctx.check(lib.dqt_llama_backward(model.raw, self.raw, loss_scale))

    def parameter(self, index):
        p = sized(parameter)
        self.ctx.check(lib.dqt_tape_parameter(self.raw, index, C.byref(p)))
        return Parameter(p, self)

    def __len__(self):
        count = C.c_size_t()
        self.ctx.check(lib.dqt_tape_num_parameters(self.raw, C.byref(count)))
        return count.value

    def gradient(self, index):
        """The gradient float32 [rows][cols] itself, not a copy."""
        data, shape = C.c_void_p(), self.parameter(index).shape
        self.ctx.check(lib.dqt_tape_gradient(self.raw, index, C.byref(data)))
        return _view(data.value, C.c_float, shape, self)

    @property
    def gradients(self):
        return {self.parameter(i).name: self.gradient(i) for i in range(len(self))}


class Updater(_Object):
    """Optimiser, rounding rule and their state, for a model or a list of layers: the only thing that writes a weight."""
    def __init__(self, of, **values):
        ctx, layers, count, keep = _layers_of(of)
        self._create(ctx, lib.dqt_updater_destroy, lib.dqt_updater_create, ctx.raw, layers, count,
                     C.byref(options(updater_options, values)), keep=keep)

    def add_group(self, **values):
        """Rules by pattern and parameter_class; how many parameters they are for."""
        matched = C.c_size_t()
        self.ctx.check(lib.dqt_updater_add_group(self.raw, C.byref(options(group_options, values)), C.byref(matched)))
        return matched.value

    def step(self, tape, learning_rate):
        stats = sized(step_stats)
        self.ctx.check(lib.dqt_updater_step(self.raw, tape.raw, learning_rate, C.byref(stats)))
        return stats

    def backward_step(self, model, tape, learning_rate):
        """Backward of the latest loss and the update in one pass, without gradient buffers."""
        stats = sized(step_stats)
        self.ctx.check(lib.dqt_llama_backward_update(model.raw, tape.raw, self.raw, learning_rate, C.byref(stats)))
        return stats


class Session(_Object):
    """Key-value cache and position of one sequence."""
    def __init__(self, model, max_length):
        self._create(model.ctx, lib.dqt_session_destroy, lib.dqt_session_create, model.raw, max_length, keep=model)
        self._vocab = model.config.vocab_size

    def append(self, tokens):
        """The logits after the last token."""
        tokens, logits = _array(tokens, np.int32).reshape(-1), np.empty(self._vocab, np.float32)
        self.ctx.check(lib.dqt_session_append(self.raw, tokens.ctypes.data, tokens.size, logits.ctypes.data))
        return logits

    def truncate(self, length):
        self.ctx.check(lib.dqt_session_truncate(self.raw, length))

    def __len__(self):
        length = C.c_size_t()
        self.ctx.check(lib.dqt_session_length(self.raw, C.byref(length)))
        return length.value


class Sampler(_Object):
    def __init__(self, ctx, vocab_size, **values):
        self._vocab = vocab_size
        self._create(ctx, lib.dqt_sampler_destroy, lib.dqt_sampler_create, ctx.raw, vocab_size,
                     C.byref(options(sampler_options, values)))

    def sample(self, logits):
        logits, token = _array(logits, np.float32, (self._vocab,)), C.c_int32()
        self.ctx.check(lib.dqt_sampler_sample(self.raw, logits.ctypes.data, C.byref(token)))
        return token.value


def schedule_cosine(step, warmup, total, peak, final_fraction):
    """Learning rate at `step`: warm-up to `peak`, then a cosine to peak * final_fraction at `total`."""
    return lib.dqt_schedule_cosine(step, warmup, total, peak, final_fraction)
