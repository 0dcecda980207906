"""What dqt.py is made of: constants, structs and functions of dqt.h, the library itself, handles, arrays and files."""
import ctypes as C
import os
import threading
import weakref

import numpy as np

# ---- Constants: dqt.h's without DQT_ ----
OK, E_ARGUMENT, E_SHAPE, E_MEMORY, E_UNSUPPORTED, E_FORMAT, E_IO, E_NUMERIC, E_STATE, E_CANCELLED = range(0, 100, 10)
LOG_ERROR, LOG_WARNING, LOG_INFO = 1, 2, 3
THREADING_AUTO, THREADING_SERIAL, THREADING_OPENMP, THREADING_HOST = range(4)
ISA_AUTO, ISA_SCALAR, ISA_AVX2, ISA_AVX_VNNI, ISA_AVX512, ISA_VNNI, ISA_AMX = 0, 1, 10, 15, 20, 30, 40
ISA_NEON, ISA_NEON_DOTPROD, ISA_NEON_I8MM = 100, 110, 120
(CPU_AVX2, CPU_AVX512, CPU_AVX512_VNNI, CPU_AVX512_BF16, CPU_AMX_INT8, CPU_AMX_BF16, CPU_NEON,
 CPU_NEON_DOTPROD, CPU_AVX_VNNI, CPU_NEON_I8MM) = (1 << bit for bit in range(10))
(FORMAT_SAME, FORMAT_F32, FORMAT_BF16, FORMAT_INT8, FORMAT_INT4, FORMAT_INT3, FORMAT_INT2, FORMAT_TERNARY,
 FORMAT_INT5, FORMAT_INT6) = range(10)
SCALE_AUTO, SCALE_SIGMA, SCALE_ABSMAX, SCALE_ABSMEAN, SCALE_MSE = range(5)
AXIS_TENSOR, AXIS_ROW, AXIS_GROUP = range(3)
(ROUND_DEFAULT, ROUND_STOCHASTIC, ROUND_NEAREST, ROUND_ECO_STOCHASTIC, ROUND_ECO_NEAREST,
 ROUND_ACCUMULATE) = range(6)
(LAYER_EMBEDDING, LAYER_LINEAR, LAYER_RMSNORM, LAYER_ATTENTION, LAYER_MLP, LAYER_BLOCK, LAYER_HEAD) = range(1, 8)
ACTIVATION_DEFAULT, ACTIVATION_NONE, ACTIVATION_INT8 = range(3)
MLP_SWIGLU, MLP_SQUARED_RELU, MLP_GATED_SQUARED_RELU = range(3)
ROPE_NONE, ROPE_LINEAR, ROPE_LLAMA3 = range(3)
CLASS_EMBEDDING, CLASS_HEAD, CLASS_NORM, CLASS_ATTENTION, CLASS_MLP, CLASS_LINEAR, CLASS_BIAS = range(1, 8)
PRECISION_AUTO, PRECISION_F32, PRECISION_BF16, PRECISION_INT8 = range(4)
FLOAT_F32, FLOAT_BF16, FLOAT_FP8_E4M3, FLOAT_FP8_E5M2 = range(4)
OPTIMIZER_SGD, OPTIMIZER_ADAMW, OPTIMIZER_ADAFACTOR, OPTIMIZER_MUON = range(1, 5)
STATE_F32, STATE_BF16, STATE_INT8 = range(3)
CLIP_DEFAULT, CLIP_GLOBAL_NORM, CLIP_PREVIOUS_NORM, CLIP_TENSOR_NORM, CLIP_NONE = range(5)
PRESET_PRETRAIN, PRESET_FINETUNE = range(2)
CACHE_F32, CACHE_BF16, CACHE_INT8 = range(3)
GGUF_AUTO, GGUF_F32, GGUF_F16, GGUF_Q8_0, GGUF_Q4_0, GGUF_TQ1_0, GGUF_TQ2_0, GGUF_Q5_0 = range(8)
(GGUF_VALUE_UINT32, GGUF_VALUE_INT32, GGUF_VALUE_FLOAT32, GGUF_VALUE_BOOL, GGUF_VALUE_STRING, GGUF_VALUE_STRINGS,
 GGUF_VALUE_UINT64, GGUF_VALUE_INT64, GGUF_VALUE_FLOAT64) = range(4, 13)
SAFETENSORS_F32, SAFETENSORS_BF16, SAFETENSORS_CODES = range(3)

# ---- Structs: "type: names" line by line; i int32, u uint32, l int64, q uint64, z size_t, f float, d double, s string, p pointer,
# a struct by its name; T*count is an array of T that is as long as the member `count` says; a name*n is an array of n ----
TYPES = dict(i=C.c_int32, u=C.c_uint32, l=C.c_int64, q=C.c_uint64, z=C.c_size_t, f=C.c_float, d=C.c_double, s=C.c_char_p,
             p=C.c_void_p)
alloc_fn = C.CFUNCTYPE(C.c_void_p, C.c_void_p, C.c_size_t, C.c_size_t)
free_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_void_p, C.c_size_t, C.c_size_t)
task_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_size_t)
parallel_for_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_size_t, C.c_void_p, C.c_void_p)
log_fn = C.CFUNCTYPE(None, C.c_void_p, C.c_int32, C.c_char_p)
interrupt_fn = C.CFUNCTYPE(C.c_int32, C.c_void_p)
logits_fn = C.CFUNCTYPE(C.c_int32, C.c_void_p, C.c_void_p)
gradient_ready_fn = C.CFUNCTYPE(C.c_int32, C.c_void_p, C.c_size_t)
read_fn = C.CFUNCTYPE(C.c_size_t, C.c_void_p, C.c_void_p, C.c_size_t)
write_fn = C.CFUNCTYPE(C.c_int32, C.c_void_p, C.c_void_p, C.c_size_t)
read_part_fn = C.CFUNCTYPE(C.c_size_t, C.c_void_p, C.c_size_t, C.c_void_p, C.c_size_t)


class Struct(C.Structure):
    def __repr__(self):
        def shown(name):
            value = getattr(self, name)
            return value if name not in self._counts else value[:getattr(self, self._counts[name])] if value else []
        return type(self).__name__ + '(' + ', '.join(
            f'{name}={shown(name)!r}' for name, *_ in self._fields_
            if name != 'struct_size' and not name.startswith('reserved')) + ')'


def _type(name):
    return TYPES.get(name) or globals()[name]


def _struct(name, fields, first='u: struct_size;'):
    members, counts = [], {}
    for group in (first + fields).split(';'):
        kind, names = group.split(':')
        kind, _, count = kind.strip().partition('*')
        for member in names.split():
            member, _, n = member.partition('*')
            if count:
                counts[member] = count
            members.append((member, C.POINTER(_type(kind)) if count else _type(kind) * int(n) if n else _type(kind)))
    return type(name, (Struct,), {'_fields_': members, '_counts': counts, '__module__': __name__})


context_options = _struct('context_options', '''i: threading num_threads isa forbid_amx log_level; alloc_fn: alloc;
    free_fn: free; p: alloc_user_data; parallel_for_fn: parallel_for; p: parallel_user_data; log_fn: log; p: log_user_data;
    interrupt_fn: interrupt; p: interrupt_user_data''')
tensor_options = _struct('tensor_options', '''i: storage compute scale_rule scale_axis; f: sigma; i: train_scale group_size;
    q: reserved64*4''')
tensor_info = _struct('tensor_info', '''i: storage compute scale_rule scale_axis train_scale code_min code_max; f: sigma;
    i: group_size; z: rows cols row_bytes data_bytes num_scales''')
tensor_stats = _struct('tensor_stats', 'u: reserved; q: histogram*256 zeros saturated; d: mean rms')
layer_options = _struct('layer_options', '''i: activation; tensor_options: weight; q: seed; f: init_std norm_eps;
    i: mlp sub_norm; f: rope_theta; i: shape_only; s: name; z: head_dim; i: attention_bias qk_norm rope_scaling;
    f: rope_factor rope_low_freq_factor rope_high_freq_factor; z: rope_original_context reserved''')
layer_info = _struct('layer_info', 'i: kind; z: in_features out_features num_parameters num_sublayers')
parameter = _struct('parameter', 'i: parameter_class; s: name; p: tensor; z: rows cols')
batch = _struct('batch', 'u: reserved; d: divisor; z: batch length; p: tokens targets weights segments')
logits_tile = _struct('logits_tile', '''u: reserved; z: first_token num_tokens first_class num_classes ld;
    p: logits log_sum_exp''')
logits_gradient = _struct('logits_gradient', 'u: reserved; p: dlogits; logits_fn: callback; p: user_data')
tape_options = _struct('tape_options', '''i: precision; z: max_batch max_length; i: no_gradient_buffers inference recompute
    gradient_format checkpoint_format reserved; q: seed''')
tape_memory_info = _struct('tape_memory_info', 'u: reserved; z: total activations gradients workspace other')
tensor_override = _struct('tensor_override', 's: pattern; tensor_options: options', first='')
llama_config = _struct('llama_config', '''i: mlp; z: vocab_size hidden_size intermediate_size num_layers num_heads
    num_kv_heads; f: norm_eps rope_theta init_std linear_init_std; i: no_sub_norms tie_embeddings activation head_activation
    shape_only reserved; tensor_options: linear embedding head; q: seed; tensor_override*num_overrides: overrides;
    z: num_overrides head_dim; i: attention_bias qk_norm rope_scaling; f: rope_factor rope_low_freq_factor
    rope_high_freq_factor; z: rope_original_context first_block num_blocks''')
llama_memory_info = _struct('llama_memory_info', '''u: reserved; z: total linear_bytes embedding_bytes head_bytes other_bytes
    linear_weights embedding_weights head_weights norm_weights''')
group_options = _struct('group_options', '''i: parameter_class; s: pattern; i: optimizer rounding; f: lr_factor weight_decay
    beta1 rounding_noise; i: freeze reserved''')
updater_options = _struct('updater_options', '''i: optimizer rounding momentum_state variance_state; f: beta1 beta2 eps
    weight_decay; i: clip; f: clip_norm update_clip; i: lagged; f: scale_lr; q: seed; f: rounding_noise; i: rate_corrected;
    group_options*num_groups: groups; z: num_groups; q: part num_parts''')
updater_memory_info = _struct('updater_memory_info', 'u: reserved; z: total momentum variance scales workspace other')
parameter_rule = _struct('parameter_rule', 'i: optimizer rounding frozen; f: lr_factor weight_decay beta1 rounding_noise')
step_options = _struct('step_options', 'f: learning_rate gradient_scale; i: reserved')
step_sums = _struct('step_sums', 'u: num_parts; p: data offsets')
step_stats = _struct('step_stats', 'u: reserved; d: gradient_norm update_rms; q: flipped saturated quantized step')
preset_options = _struct('preset_options', 'i: purpose format; f: bytes_per_weight')
preset = _struct('preset', 'f: learning_rate warmup_fraction final_fraction bytes_per_weight; i: reserved; s: name')
session_options = _struct('session_options', 'i: cache_format; z: max_length')
session_memory_info = _struct('session_memory_info', 'u: reserved; z: total cache other')
session_step = _struct('session_step', 'u: reserved; p: session tokens; z: count; p: logits')
sampler_options = _struct('sampler_options', 'f: temperature; z: top_k; f: top_p; i: reserved; q: seed')
save_options = _struct('save_options', 'u: reserved; p: host; z: host_size; p: tape read_part part_user_data')
load_options = _struct('load_options', 'i: skip_updater skip_host reserved; q: part num_parts; z: first_block num_blocks')
checkpoint = _struct('checkpoint', 'u: reserved; p: model updater host; z: host_size; q: passes')
gguf_key = _struct('gguf_key', '''i: value_type; l: integer; d: number; s: key text; s*num_texts: texts;
    z: num_texts''')
gguf_options = _struct('gguf_options', '''i: linear_type embedding_type bos_token eos_token unknown_token add_bos
    add_space_prefix; z: context_length; s*num_tokens: tokens; f*num_tokens: scores; i*num_tokens: types; z: num_tokens;
    s: source; gguf_key*num_keys: keys; z: num_keys; s*num_merges: merges; z: num_merges; s: pre_tokenizer tokenizer
    tokenizer_json; z: tokenizer_json_size''')
safetensors_options = _struct('safetensors_options', 'i: dtype stored context_length')
import_options = _struct('import_options', 'i: rounding; q: seed')
open_options = _struct('open_options', '''i: activation rounding reserved; q: seed; z: max_length;
    tensor_options: linear embedding head''')

# ---- Functions: result and arguments, n for none; a callback or any other pointer is p ----
FUNCTIONS = '''
u version; s version_string; s status_string i; i context_options_init pz; i context_create pp; n context_destroy p;
s last_error p; q context_cpu_features p; i context_isa p; i context_num_threads p; z context_allocated p;
i tensor_options_init pz; i tensor_create pzzpp; n tensor_destroy p; i tensor_get_info pp; i tensor_quantize ppiq;
i tensor_dequantize pzzp; i tensor_get_codes pzzp; i tensor_set_codes pzzp; i tensor_get_scales pp; i tensor_set_scales pp;
i tensor_data ppp; i tensor_touch p; i tensor_get_stats pp; i tensor_copy pp; i tensor_convert piqpp;
i layer_options_init pz; i embedding_create pzzpp; i linear_create pzzpp; i rmsnorm_create pzpp; i attention_create pzzzpp;
i mlp_create pzzpp; i block_create pzzzzpp; i head_create ppzzpp; n layer_destroy p; i layer_get_info pp;
i layer_get_sublayer pzp; i layer_get_parameter pzp; i layer_forward ppppp; i layer_backward pppp;
i embedding_forward pppp; i embedding_backward ppp; i head_loss pppppp; i head_backward ppfp; i head_logits ppppp;
i head_backward_logits pppp; i layers_copy ppz;
i tape_options_init pz; i tape_memory ppzpp; i tape_create ppzpp; n tape_destroy p; i tape_get_options pp;
i tape_get_num_parameters pp; i tape_get_parameter pzp; i tape_gradient_data pzp; i tape_get_gradient pzzzp;
i tape_set_gradient pzzzp; i tape_zero_gradients p; i tape_get_pass pp; i tape_set_pass pq; i tape_on_gradient ppp;
i tape_begin_update ppp; i tape_end_update pp; i tape_end_update_part ppp;
i llama_config_init pz; i llama_memory ppp; i llama_create ppp; n llama_destroy p; i llama_get_config pp;
i llama_get_layers ppp; i llama_forward pppp; i llama_loss ppppp; i llama_backward ppf; i llama_backward_logits ppp;
i updater_options_init pz; i updater_memory ppzpp; i updater_create ppzpp; n updater_destroy p; i group_options_init pz;
i updater_add_group ppp; i updater_get_rule pzp; i updater_step pppp;
i updater_begin_step pppp; i updater_continue_step pppp; i updater_get_part pzzzpp;
i llama_backward_update ppppp; i updater_get_step pp; i updater_set_step pq; i updater_get_options pp;
f schedule_cosine qqqff; f schedule_linear qqqff; f schedule_wsd qqqfff; i preset_options_init pz; i preset_get pppp;
i session_options_init pz; i session_memory ppp; i session_create ppp; n session_destroy p; i session_get_options pp; i session_append ppzp;
i sessions_append pz; i session_score ppzp; i session_fork pp; i session_copy pp; i session_get_length pp;
i session_truncate pz; i sampler_options_init pz; i sampler_create pzpp; n sampler_destroy p; i sampler_sample ppp;
i sampler_get_draws pp; i sampler_set_draws pq;
i save_options_init pz; i llama_save ppsp; i llama_write ppppp; i load_options_init pz; i llama_load pspp;
i llama_read ppppp; n host_bytes_free ppz; i layers_save pzpsp; i layers_write pzpppp; i layers_load pzpspp;
i layers_read pzppppp; i updater_write ppp; i updater_read ppp; i updater_write_part ppp; i llama_write_part pppp;
i gguf_options_init pz; i llama_export_gguf psp; i llama_write_gguf pppp; i safetensors_options_init pz;
i llama_export_safetensors psp; i llama_write_safetensors pppp; i import_options_init pz;
i llama_import_safetensors psp; i open_options_init pz; i llama_open pspp; i llama_export_folder psp'''.split(';')
INITS = {f.split()[1] for f in FUNCTIONS if f.split()[1].endswith('_init')}
# What DQT_EXPERIMENTAL shows: a library may lack it.
EXPERIMENTAL = 'i llama_forward_blocks pppppp; i llama_backward_blocks ppfp'.split(';')


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
    for entry in FUNCTIONS + EXPERIMENTAL:
        result, name, *arguments = entry.split()
        function = getattr(library, 'dqt_' + name, None)
        if function is None:
            if entry in EXPERIMENTAL:
                continue
            raise ImportError(f'dqt: {path} is not the libdqt that this module is for: it has no dqt_{name}')
        function.restype = None if result == 'n' else TYPES[result]
        function.argtypes = [TYPES[kind] for kind in ''.join(arguments)]
    return library


lib = _open()


class Error(RuntimeError):
    """A refusal: .status is E_*, .sentence names the argument, its value and what would be right."""
    __module__ = 'dqt'

    def __init__(self, status, sentence):
        self.status, self.sentence = status, sentence
        super().__init__(f'{lib.dqt_status_string(status).decode()}: {sentence}')


def check(status, ctx=None):
    if status:
        raise Error(status, lib.dqt_last_error(ctx).decode())


def sized(kind, **values):
    """A struct of zeros with its size set, and these values."""
    o = kind()
    for name, member in kind._fields_:
        if name == 'struct_size':
            o.struct_size = C.sizeof(kind)
        elif issubclass(member, Struct):
            setattr(o, name, sized(member))
    _set(o, values)
    return o


def options(kind, values, base=None):
    """An options struct with the library's defaults, or a copy of the struct `base`, and these values."""
    if isinstance(base, kind):
        o = kind.from_buffer_copy(base)
    elif base is not None:
        raise TypeError(f'{kind.__name__} is wanted, not {type(base).__name__}; options are keyword arguments')
    elif kind.__name__ + '_init' in INITS:
        o = kind()
        check(getattr(lib, f'dqt_{kind.__name__}_init')(C.byref(o), C.sizeof(o)))
    else:
        o = sized(kind)
    _set(o, values)
    return o


def _set(o, values):
    types, lengths = dict(o._fields_), {}
    for name, value in values.items():
        if name not in types or name == 'struct_size' or name in o._counts.values():
            raise TypeError(f'{type(o).__name__} has no {name}')
        if issubclass(types[name], Struct):
            if not isinstance(value, dict):
                raise TypeError(f'{name} takes a dict')
            _set(getattr(o, name), value)
        elif name in o._counts:
            _set_array(o, name, types[name]._type_, list(value), lengths)
        else:
            setattr(o, name, value.encode() if isinstance(value, str) else value)


def _set_array(o, name, kind, items, lengths):
    count = o._counts[name]
    if lengths.setdefault(count, len(items)) != len(items):
        raise ValueError(f'{name} has {len(items)} items; {count} is {lengths[count]}')
    if issubclass(kind, Struct):
        items = [options(kind, item) for item in items]
    items = [item.encode() if isinstance(item, str) else item for item in items]
    setattr(o, name, (kind * len(items))(*items) if items else None)
    setattr(o, count, len(items))


def array_of(x, dtype, shape=None):
    """x as a contiguous array of this type; its shape is checked."""
    a = np.ascontiguousarray(x, dtype)
    if a is not x and np.issubdtype(dtype, np.integer) and not np.array_equal(a, x):
        raise ValueError('not whole numbers of the range of ' + np.dtype(dtype).name)
    if shape is not None and a.shape != tuple(shape):
        raise ValueError(f'the shape is {a.shape}; it must be {tuple(shape)}')
    return a


def view_of(address, kind, shape, owner):
    """A numpy array over memory of the library's that keeps its owner alive."""
    buffer = (kind * int(np.prod(shape))).from_address(address)
    buffer.owner = owner
    return np.frombuffer(buffer, dtype=kind).reshape(shape)


class Object:
    """A handle, destroyed when nothing uses it any more; `keep` lives longer."""
    @classmethod
    def of(cls, raw, owner):
        """What belongs to `owner`."""
        self = cls.__new__(cls)
        self.ctx, self.raw, self.owner = owner.ctx, raw, owner
        return self

    def _call(self, name, *arguments):
        """Calls a function on this object; arrays go as pointers."""
        values = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
        self.ctx.check(getattr(lib, f'dqt_{name}')(self.raw, *values))

    def _get(self, name, *arguments, kind=None):
        """What a function writes to its last argument, a struct or a number."""
        out = sized(kind) if issubclass(kind, Struct) else kind()
        self._call(name, *arguments, C.byref(out))
        return out if isinstance(out, Struct) else out.value

    def _create(self, ctx, destroy, create, *arguments, keep=()):
        raw = C.c_void_p()
        status = create(*arguments, C.byref(raw))
        if raw.value:
            self._own(ctx, destroy, raw.value, keep)
        ctx.check(status)

    def _own(self, ctx, destroy, raw, keep=()):
        self.ctx, self.raw = ctx, raw
        self._end = weakref.finalize(self, Object._destroy, destroy, raw, (ctx, keep))

    @staticmethod
    def _destroy(destroy, raw, keep):
        destroy(raw)


class Errors(threading.local):
    """The first exception of a callback in the call that this thread is in."""
    first = None

    def keep(self, error):
        self.first = self.first or error

    def guard(self, function, failure=1):
        """`function` as a callback that returns `failure` where it raises."""
        def call(*arguments):
            try:
                return function(*arguments)
            except BaseException as e:
                self.keep(e)
                return failure
        return call


def writer_of(ctx, file):
    """A file object as the library writes to it."""
    def write(_, data, size):
        view, done = memoryview((C.c_char * size).from_address(data)).cast('B').toreadonly(), 0
        while done < size:
            written = file.write(view[done:])
            done += size - done if written is None else written
        return 0
    return write_fn(ctx._errors.guard(write))


def reader_of(ctx, file):
    def read(_, buffer, wanted):
        data = file.read(wanted)
        if len(data) > wanted:
            raise ValueError(f'read({wanted}) gave {len(data)} bytes')
        C.memmove(buffer, data, len(data))
        return len(data)
    return read_fn(ctx._errors.guard(read, C.c_size_t(-1).value))


def part_reader_of(ctx, parts):
    """parts(part, size): up to size bytes of what a part's Updater.write_part writes."""
    def read(_, part, buffer, wanted):
        data = parts(part, wanted)
        if len(data) > wanted:
            raise ValueError(f'parts({part}, {wanted}) gave {len(data)} bytes')
        C.memmove(buffer, bytes(data), len(data))
        return len(data)
    return read_part_fn(ctx._errors.guard(read, C.c_size_t(-1).value))
