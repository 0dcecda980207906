/* dqt.h - libdqt: training of LLaMA-structured language models directly in low-bit integers.
 *
 * SPDX-License-Identifier: MIT
 *
 * Direct Quantized Training (DQT, arXiv 2412.04787): the weights exist only as packed ternary or 2-8 bit codes.
 * The optimiser's update is added to the integer weight and rounded stochastically back to the grid; there is no
 * high-precision master copy and no straight-through estimator.
 *
 * The host owns the training loop, the data, the schedule, the logging and the process. The library never prints,
 * exits, aborts, starts threads behind the host's back or touches global state.
 *
 * Conventions that hold for every function here:
 *  - Functions return dqt_status; 0 is success. dqt_last_error() then has a sentence. On failure nothing is changed
 *    and every handle out-parameter is NULL.
 *  - Matrices are row-major. A weight matrix has rows = outputs and cols = inputs. Activations are
 *    float x[tokens][features] with tokens = batch * length, sequence after sequence.
 *  - Sizes are size_t, tokens int32_t, targets int32_t with -1 = ignore. Enumerations travel as int32_t.
 *  - Options structs begin with struct_size and are filled with defaults by their *_init function. A smaller (older)
 *    size is accepted; a larger one (by up to 512 bytes) only if the tail that this library does not know is zero.
 *    Result structs begin with struct_size too, which the caller sets; a larger one's tail is filled with zeros.
 *  - Handles are destroyed by their *_destroy function, which accepts NULL. Destroy objects before what they were
 *    made from: sessions, tapes and updaters before models and layers, everything before the context.
 *  - Threads: different contexts are independent. Objects of one context may be used from several threads at once as
 *    long as no object is written by one thread while another uses it: forward, loss and backward write the tape and
 *    read the model; updater steps write the model, the updater and nothing else.
 *  - "Allocates nothing" is said of a function that never calls the allocator; creation functions allocate everything.
 *
 * What is NOT promised: the layout of opaque handles; the bit pattern of float results across instruction sets
 * (integer products, packing, random numbers and updates are bit-identical everywhere; see docs/numerics.md).
 */
#ifndef DQT_H
#define DQT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) && __GNUC__ >= 4
#define DQT_API __attribute__((visibility("default")))
#else
#define DQT_API
#endif

/* ---- Version ------------------------------------------------------------------------------------------------- */

#define DQT_VERSION_MAJOR 0
#define DQT_VERSION_MINOR 1
#define DQT_VERSION_PATCH 0

/* Version of the linked library: major * 10000 + minor * 100 + patch. Thread-safe. Since 0.1. */
DQT_API uint32_t dqt_version(void);

/* The same as text, "0.1.0"; a static string. Thread-safe. Since 0.1. */
DQT_API const char *dqt_version_string(void);

/* ---- Status -------------------------------------------------------------------------------------------------- */

typedef int32_t dqt_status;

enum {
    DQT_OK = 0,
    DQT_E_ARGUMENT = 10,    /* a NULL, an unknown enumeration value, an index or number out of range */
    DQT_E_SHAPE = 20,       /* sizes that do not fit each other, overflow, or could overflow an int32 sum */
    DQT_E_MEMORY = 30,      /* the allocator returned NULL */
    DQT_E_UNSUPPORTED = 40, /* a valid combination that this library does not implement */
    DQT_E_FORMAT = 50,      /* a file that is truncated, damaged, foreign or of an unknown version */
    DQT_E_IO = 60,          /* the operating system or a host callback refused to read or write */
    DQT_E_NUMERIC = 70,     /* a non-finite loss, gradient or weight; nothing was changed */
    DQT_E_STATE = 80        /* called out of order: backward without forward, a full cache, a shape-only model */
};

/* Short name of a status, "DQT_E_SHAPE"; "unknown status" for other numbers. Static string. Thread-safe. Since 0.1. */
DQT_API const char *dqt_status_string(dqt_status status);

/* ---- Context ------------------------------------------------------------------------------------------------- */

/* Allocator, threads, instruction set, log callback and last error. Every other object belongs to one. */
typedef struct dqt_context dqt_context;

/* Returns at least `size` bytes aligned to `align` (a power of two, at most 64), or NULL. */
typedef void *(*dqt_alloc_fn)(void *user_data, size_t size, size_t align);

/* Releases what dqt_alloc_fn returned, with the same size and align. */
typedef void (*dqt_free_fn)(void *user_data, void *ptr, size_t size, size_t align);

/* One of `count` independent tasks. */
typedef void (*dqt_task_fn)(void *task_data, size_t index);

/* Calls task(task_data, i) once for each i in [0, count), in any order, concurrently or not, and returns when all are
 * done. `count` is at most the context's num_threads. Results do not depend on the order. */
typedef void (*dqt_parallel_for_fn)(void *user_data, size_t count, dqt_task_fn task, void *task_data);

enum { DQT_LOG_ERROR = 1, DQT_LOG_WARNING = 2, DQT_LOG_INFO = 3 };

/* Receives one sentence without a line break, valid during the call. May be called from any thread that is inside a
 * function of this library; never from inside a task. */
typedef void (*dqt_log_fn)(void *user_data, int32_t level, const char *message);

enum { DQT_THREADING_AUTO = 0, DQT_THREADING_SERIAL = 1, DQT_THREADING_OPENMP = 2, DQT_THREADING_HOST = 3 };

/* Instruction sets, weakest first within an architecture; AUTO takes the best the CPU and the system offer. */
enum {
    DQT_ISA_AUTO = 0,
    DQT_ISA_SCALAR = 1,
    DQT_ISA_AVX2 = 10,     /* AVX2 + FMA */
    DQT_ISA_AVX_VNNI = 15, /* AVX2 with AVX-VNNI, as on CPUs without AVX-512. Since 0.2. */
    DQT_ISA_AVX512 = 20,   /* AVX-512 F, BW, DQ, VL */
    DQT_ISA_VNNI = 30,     /* AVX-512 with VNNI (and BF16 where present) */
    DQT_ISA_AMX = 40,      /* AMX int8 and bf16 */
    DQT_ISA_NEON = 100     /* AArch64 (with dot product and i8mm where present) */
};

/* Bits of dqt_cpu_features(). */
enum {
    DQT_CPU_AVX2 = 1 << 0,
    DQT_CPU_AVX512 = 1 << 1,
    DQT_CPU_AVX512_VNNI = 1 << 2,
    DQT_CPU_AVX512_BF16 = 1 << 3,
    DQT_CPU_AMX_INT8 = 1 << 4,
    DQT_CPU_AMX_BF16 = 1 << 5,
    DQT_CPU_NEON = 1 << 6,
    DQT_CPU_NEON_DOTPROD = 1 << 7,
    DQT_CPU_AVX_VNNI = 1 << 8, /* the 256-bit form, which needs no AVX-512. Since 0.2. */
    DQT_CPU_NEON_I8MM = 1 << 9 /* Since 0.2. */
};

typedef struct dqt_context_options {
    uint32_t struct_size;
    int32_t threading;   /* DQT_THREADING_*; AUTO: HOST if parallel_for is set, else OPENMP if built in, else SERIAL */
    int32_t num_threads; /* 1..1024; 0: 1 for SERIAL and HOST, the OpenMP default for OPENMP */
    int32_t isa;         /* highest DQT_ISA_* to use; the environment variable DQT_ISA (scalar, avx2, avxvnni, avx512,
                            vnni, amx, neon) caps it further, for tests: only what both allow is used */
    int32_t forbid_amx;  /* 1: do not ask the system for AMX (the permission is process-wide) */
    int32_t log_level;   /* messages above this DQT_LOG_* level are not sent; default WARNING */
    dqt_alloc_fn alloc;  /* both or neither; NULL: the C library's */
    dqt_free_fn free;
    void *alloc_user_data;
    dqt_parallel_for_fn parallel_for; /* for HOST */
    void *parallel_user_data;
    dqt_log_fn log; /* NULL: no messages */
    void *log_user_data;
} dqt_context_options;

/* Fills defaults. struct_size is sizeof(dqt_context_options) of the caller. DQT_E_ARGUMENT for NULL or a size that is
 * too small to hold struct_size itself. Thread-safe. Since 0.1. (The other *_init functions are alike.) */
DQT_API dqt_status dqt_context_options_init(dqt_context_options *options, size_t struct_size);

/* Creates a context. options NULL: defaults. DQT_E_ARGUMENT, DQT_E_UNSUPPORTED (OPENMP without OpenMP, an isa of
 * another architecture), DQT_E_MEMORY. Allocates. Since 0.1. */
DQT_API dqt_status dqt_context_create(const dqt_context_options *options, dqt_context **out);

/* Destroys a context whose objects have all been destroyed. NULL is accepted. Since 0.1. */
DQT_API void dqt_context_destroy(dqt_context *ctx);

/* The sentence of the calling thread's latest failure in this context ("" if none): names the argument, its value and
 * what would be right. ctx NULL: the latest failure of a call that had no context, such as dqt_context_create. Valid
 * until the same thread's next call into the library. Since 0.1. */
DQT_API const char *dqt_last_error(const dqt_context *ctx);

/* DQT_CPU_* bits that CPU and operating system offer, whatever the context's isa option. 0 for NULL. Since 0.1. */
DQT_API uint64_t dqt_cpu_features(const dqt_context *ctx);

/* The DQT_ISA_* in use. 0 for NULL. Since 0.1. */
DQT_API int32_t dqt_context_isa(const dqt_context *ctx);

/* The number of threads in use. 0 for NULL. Since 0.1. */
DQT_API int32_t dqt_context_num_threads(const dqt_context *ctx);

/* Bytes that are allocated now through this context, the context itself included. 0 for NULL. Since 0.1. */
DQT_API size_t dqt_context_allocated(const dqt_context *ctx);

/* ---- Tensor -------------------------------------------------------------------------------------------------- */

/* A weight matrix [rows][cols]: W = scale * code. The storage format is what the updater writes, the compute format
 * what layers read; where they differ the weight is re-quantised as it is read (straight-through in backward). */
typedef struct dqt_tensor dqt_tensor;

/* n bits hold Qn = -2^(n-1) .. Qp = 2^(n-1)-1; ternary holds -1, 0, 1 (Qp = 1). */
enum {
    DQT_FORMAT_SAME = 0, /* as compute: the storage format */
    DQT_FORMAT_F32 = 1,
    DQT_FORMAT_BF16 = 2,
    DQT_FORMAT_INT8 = 3,
    DQT_FORMAT_INT4 = 4,
    DQT_FORMAT_INT3 = 5,
    DQT_FORMAT_INT2 = 6,
    DQT_FORMAT_TERNARY = 7,
    DQT_FORMAT_INT5 = 8,
    DQT_FORMAT_INT6 = 9
};

enum {
    DQT_SCALE_ABSMEAN = 0, /* s = mean|w| / Qp (the paper, section 3; BitNet b1.58) */
    DQT_SCALE_SIGMA = 1,   /* s = sigma * std(w) / Qp, std about zero */
    DQT_SCALE_ABSMAX = 2,  /* s = max|w| / Qp */
    DQT_SCALE_AUTO = 3     /* SIGMA for 8-bit codes, ABSMEAN for fewer bits: what learned best (docs/results.md) */
};

enum { DQT_AXIS_TENSOR = 0, DQT_AXIS_ROW = 1 };

enum {
    DQT_ROUND_STOCHASTIC = 0,     /* floor(t + r), r uniform in [0, 1) */
    DQT_ROUND_NEAREST = 1,        /* ties to even; loses updates below half a step: for ablation */
    DQT_ROUND_ECO_STOCHASTIC = 2, /* stochastic, and the error is fed back through the momentum (arXiv 2601.22101) */
    DQT_ROUND_ECO_NEAREST = 3
};

typedef struct dqt_tensor_options {
    uint32_t struct_size;
    int32_t storage;     /* DQT_FORMAT_*; default TERNARY */
    int32_t compute;     /* DQT_FORMAT_SAME, or a format of fewer bits than the storage's */
    int32_t scale_rule;  /* DQT_SCALE_*; default AUTO */
    int32_t scale_axis;  /* DQT_AXIS_*; default TENSOR */
    float sigma;         /* factor of DQT_SCALE_SIGMA; default 4 */
    int32_t train_scale; /* 1: scales have a gradient and are trained (needs integer storage and AXIS_ROW) */
    int32_t reserved[9]; /* zero; this struct is embedded in others, so it keeps its size */
} dqt_tensor_options;

DQT_API dqt_status dqt_tensor_options_init(dqt_tensor_options *options, size_t struct_size);

/* Creates a tensor of zeros with scales 1. rows, cols >= 1. options NULL: defaults. DQT_E_ARGUMENT, DQT_E_SHAPE,
 * DQT_E_UNSUPPORTED, DQT_E_MEMORY. Allocates. Since 0.1. */
DQT_API dqt_status dqt_tensor_create(dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *options,
                                     dqt_tensor **out);

/* Destroys a tensor that dqt_tensor_create or dqt_tensor_convert made. Tensors of layers belong to their layer. */
DQT_API void dqt_tensor_destroy(dqt_tensor *tensor);

typedef struct dqt_tensor_info {
    uint32_t struct_size;
    int32_t storage, compute, scale_rule, scale_axis, train_scale;
    int32_t code_min, code_max; /* Qn and Qp; 0 and 0 for F32 and BF16 */
    float sigma;
    size_t rows, cols;
    size_t row_bytes;  /* bytes from one packed row to the next */
    size_t data_bytes; /* rows * row_bytes */
    size_t num_scales; /* 0 (F32, BF16), 1 or rows */
} dqt_tensor_info;

/* Describes a tensor; info->struct_size says how much of it is filled. Thread-safe. Since 0.1. */
DQT_API dqt_status dqt_tensor_get_info(const dqt_tensor *tensor, dqt_tensor_info *info);

/* Sets scales by the tensor's rule and codes by rounding weights[rows][cols] / scale, clamped. rounding: STOCHASTIC
 * (seeded) or NEAREST. BF16 storage rounds to bf16; F32 copies. DQT_E_NUMERIC for a weight that is not finite.
 * Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tensor_quantize(dqt_tensor *tensor, const float *weights, int32_t rounding, uint64_t seed);

/* Writes rows [row, row + count) as floats scale * code to out[count][cols]. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tensor_dequantize(const dqt_tensor *tensor, size_t row, size_t count, float *out);

/* Reads or writes the codes of rows [row, row + count), one int8 each, codes[count][cols]. DQT_E_UNSUPPORTED for F32
 * and BF16; DQT_E_ARGUMENT for a code outside Qn..Qp (nothing is written then). Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tensor_get_codes(const dqt_tensor *tensor, size_t row, size_t count, int8_t *codes);
DQT_API dqt_status dqt_tensor_set_codes(dqt_tensor *tensor, size_t row, size_t count, const int8_t *codes);

/* Reads or writes all num_scales scales; written ones must be normal numbers, and finite times
 * 128. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tensor_get_scales(const dqt_tensor *tensor, float *scales);
DQT_API dqt_status dqt_tensor_set_scales(dqt_tensor *tensor, const float *scales);

/* The packed bytes themselves (layout: docs/numerics.md, "Packing"), for hosts that gather or hash them. Owned by the
 * tensor. Writing needs codes within range and then dqt_tensor_touch. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tensor_data(dqt_tensor *tensor, void **data, size_t *bytes);

/* Tells the library that the packed bytes were written directly. Since 0.1. */
DQT_API dqt_status dqt_tensor_touch(dqt_tensor *tensor);

typedef struct dqt_tensor_stats {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t histogram[256]; /* count of code q at index q + 128; all zero for F32 and BF16 */
    uint64_t zeros;          /* weights equal to 0 */
    uint64_t saturated;      /* codes at Qn or Qp (for ternary: not 0) */
    double mean, rms;        /* of the dequantised weights */
} dqt_tensor_stats;

/* Counts codes. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tensor_get_stats(const dqt_tensor *tensor, dqt_tensor_stats *stats);

/* Creates a tensor of other options from the dequantised weights of `source`. Allocates. Since 0.1. */
DQT_API dqt_status dqt_tensor_convert(const dqt_tensor *source, const dqt_tensor_options *options, int32_t rounding,
                                      uint64_t seed, dqt_tensor **out);

/* ---- Layer --------------------------------------------------------------------------------------------------- */

/* One differentiable operation with its weights. Read-only during forward and backward; what changes lives in a tape.
 */
typedef struct dqt_layer dqt_layer;

/* Activations and gradients of a list of layers, for one maximal batch x length. */
typedef struct dqt_tape dqt_tape;

enum {
    DQT_LAYER_EMBEDDING = 1, /* tokens -> [tokens][hidden] */
    DQT_LAYER_LINEAR = 2,    /* y = x W^T */
    DQT_LAYER_RMSNORM = 3,   /* y = x / sqrt(mean(x^2) + eps) * gain */
    DQT_LAYER_ATTENTION = 4, /* q, k, v; RoPE; causal attention; optional sub-norm; o */
    DQT_LAYER_MLP = 5,       /* SwiGLU: down(norm(silu(gate x) * up x)); squared ReLU: down(norm(relu(up x)^2)) */
    DQT_LAYER_BLOCK = 6,     /* x + attention(norm x), then x + mlp(norm x) */
    DQT_LAYER_HEAD = 7       /* logits = x W^T; mean cross-entropy */
};

enum { DQT_ACTIVATION_INT8 = 0, DQT_ACTIVATION_NONE = 1 }; /* quantisation of what enters a linear layer */
enum { DQT_MLP_SWIGLU = 0, DQT_MLP_SQUARED_RELU = 1 };

/* Options of every layer kind; each creation function says which it reads. */
typedef struct dqt_layer_options {
    uint32_t struct_size;
    int32_t activation;        /* DQT_ACTIVATION_*; default INT8, which a head takes too; dqt_head_create
                                  with options NULL, and dqt_llama's heads, take NONE */
    dqt_tensor_options weight; /* of every weight matrix in the layer; gains are always F32 */
    uint64_t seed;             /* of the initial weights: normal(0, init_std), counter-based */
    float init_std;            /* default 0.02 */
    float norm_eps;            /* default 1e-5 */
    int32_t mlp;               /* DQT_MLP_* */
    int32_t sub_norm;          /* 1: RMSNorm before o and before down (BitNet) */
    float rope_theta;          /* default 10000 */
    const char *name;          /* prefix of parameter names, copied; NULL: the kind's name; at most 47 bytes */
    int32_t shape_only;        /* 1: no weights are allocated: for planning memory; only *_memory calls work */
    int32_t reserved;          /* zero */
} dqt_layer_options;

DQT_API dqt_status dqt_layer_options_init(dqt_layer_options *options, size_t struct_size);

/* Creation. options NULL: defaults. All return DQT_E_ARGUMENT, DQT_E_SHAPE (also where an int32 sum could overflow:
 * inputs * 128 * max|q| >= 2^31), DQT_E_UNSUPPORTED or DQT_E_MEMORY, and allocate. Since 0.1.
 *
 * embedding: weight [vocab][hidden]; reads weight, seed, init_std. Default storage in options: TERNARY, as everywhere;
 *   dqt_llama's own default for embedding and head is INT8 with SIGMA(4).
 * linear: weight [out][in]. rmsnorm: gain [1][features]. attention: hidden = num_heads * head size; num_kv_heads
 * divides num_heads; the head size is even. mlp: gate, up [intermediate][hidden], down [hidden][intermediate]. block:
 * norms, attention, mlp. head: weight [classes][hidden]; `tied` NULL or an embedding layer whose weight is used. */
DQT_API dqt_status dqt_embedding_create(dqt_context *ctx, size_t vocab, size_t hidden, const dqt_layer_options *options,
                                        dqt_layer **out);
DQT_API dqt_status dqt_linear_create(dqt_context *ctx, size_t in, size_t out_features, const dqt_layer_options *options,
                                     dqt_layer **out);
DQT_API dqt_status dqt_rmsnorm_create(dqt_context *ctx, size_t features, const dqt_layer_options *options,
                                      dqt_layer **out);
DQT_API dqt_status dqt_attention_create(dqt_context *ctx, size_t hidden, size_t num_heads, size_t num_kv_heads,
                                        const dqt_layer_options *options, dqt_layer **out);
DQT_API dqt_status dqt_mlp_create(dqt_context *ctx, size_t hidden, size_t intermediate,
                                  const dqt_layer_options *options, dqt_layer **out);
DQT_API dqt_status dqt_block_create(dqt_context *ctx, size_t hidden, size_t intermediate, size_t num_heads,
                                    size_t num_kv_heads, const dqt_layer_options *options, dqt_layer **out);
DQT_API dqt_status dqt_head_create(dqt_context *ctx, size_t hidden, size_t classes, dqt_layer *tied,
                                   const dqt_layer_options *options, dqt_layer **out);

/* Destroys a layer that the host created. Layers of a dqt_llama belong to the model. */
DQT_API void dqt_layer_destroy(dqt_layer *layer);

typedef struct dqt_layer_info {
    uint32_t struct_size;
    int32_t kind;          /* DQT_LAYER_* */
    size_t in, out;        /* features; for an embedding in = vocabulary, for a head out = classes */
    size_t num_parameters; /* tensors of this layer and its parts; a tied head has none of its own */
    size_t num_parts;      /* layers it is made of: block 4 (norm, attention, norm, mlp), others 0 */
} dqt_layer_info;

/* Describes a layer; info->struct_size says how much of it is filled. Thread-safe. Since 0.1. */
DQT_API dqt_status dqt_layer_get_info(const dqt_layer *layer, dqt_layer_info *info);

/* Part `index` of a block; it belongs to the block. Since 0.1. */
DQT_API dqt_status dqt_layer_part(dqt_layer *layer, size_t index, dqt_layer **part);

enum {
    DQT_CLASS_EMBEDDING = 1,
    DQT_CLASS_HEAD = 2,
    DQT_CLASS_NORM = 3,
    DQT_CLASS_ATTENTION = 4, /* q, k, v, o */
    DQT_CLASS_MLP = 5,       /* gate, up, down */
    DQT_CLASS_LINEAR = 6
};

typedef struct dqt_parameter {
    uint32_t struct_size;
    int32_t parameter_class; /* DQT_CLASS_* */
    const char *name;        /* such as "blocks.3.attention.q"; valid as long as the layer */
    dqt_tensor *tensor;      /* belongs to the layer */
    size_t rows, cols;
} dqt_parameter;

/* Parameter `index` of a layer, in the order in which tapes and updaters number them. Since 0.1. */
DQT_API dqt_status dqt_layer_parameter(dqt_layer *layer, size_t index, dqt_parameter *parameter);

/* Float layers (linear, RMSNorm, attention, MLP, block). The layer must be one of the tape's. batch and length are at
 * most the tape's. x[batch * length][in] and y[batch * length][out]; y may be x where in == out. A layer is used once
 * per forward pass. Allocates nothing. DQT_E_STATE if the layer is not in the tape. Since 0.1. */
DQT_API dqt_status dqt_layer_forward(dqt_layer *layer, dqt_tape *tape, size_t batch, size_t length, const float *x,
                                     float *y);

/* Backward of the latest forward: dy[tokens][out] to dx[tokens][in] (NULL: not wanted; may be dy where in == out),
 * weight gradients are added to the tape's. DQT_E_STATE without a forward. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_layer_backward(dqt_layer *layer, dqt_tape *tape, const float *dy, float *dx);

/* Embedding: y[t] = W[tokens[t]]. DQT_E_ARGUMENT for a token outside the vocabulary. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_embedding_forward(dqt_layer *layer, dqt_tape *tape, size_t batch, size_t length,
                                         const int32_t *tokens, float *y);
DQT_API dqt_status dqt_embedding_backward(dqt_layer *layer, dqt_tape *tape, const float *dy);

/* Head: mean cross-entropy in nats over the targets that are not -1, *loss (0 if there are none); token_losses[tokens]
 * may be NULL, ignored tokens get 0. No tokens x classes matrix is made. DQT_E_NUMERIC for a loss that is not finite.
 * Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_head_loss(dqt_layer *layer, dqt_tape *tape, size_t batch, size_t length, const float *x,
                                 const int32_t *targets, float *loss, float *token_losses);

/* Backward of the latest dqt_head_loss, times loss_scale (1 / micro-batches when accumulating): dx[tokens][hidden]
 * (NULL: not wanted). */
DQT_API dqt_status dqt_head_backward(dqt_layer *layer, dqt_tape *tape, float loss_scale, float *dx);

/* Logits [tokens][classes] without a loss. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_head_logits(dqt_layer *layer, dqt_tape *tape, size_t batch, size_t length, const float *x,
                                   float *logits);

/* ---- Tape ---------------------------------------------------------------------------------------------------- */

/* Inputs of float products: backward of every linear, and forward where activations are not quantised. F32: as the name
 * says. BF16: inputs rounded to bf16, sums in f32; integer codes are exact in bf16. AUTO: BF16 where the instruction
 * set in use has bf16 products (AMX, or AVX-512 BF16), else F32. */
enum { DQT_PRECISION_AUTO = 0, DQT_PRECISION_F32 = 1, DQT_PRECISION_BF16 = 2 };

/* Formats of gradients and residual checkpoints between steps (the paper's environments). BF16 and FP8 are written with
 * stochastic rounding; FP8 gradients carry one power-of-two scale per row. */
enum { DQT_FLOAT_F32 = 0, DQT_FLOAT_BF16 = 1, DQT_FLOAT_FP8_E4M3 = 2, DQT_FLOAT_FP8_E5M2 = 3 };

typedef struct dqt_tape_options {
    uint32_t struct_size;
    int32_t precision;         /* DQT_PRECISION_* */
    size_t max_batch;          /* default 1 */
    size_t max_length;         /* default 128 */
    int32_t gradients;         /* 1 (default): gradient buffers for dqt_layer_backward; 0: none: only forward, or
                                  dqt_llama_backward_update */
    int32_t inference;         /* 1: nothing is saved for backward: forward and loss only */
    int32_t recompute;         /* 1: blocks save only their input and run forward again in backward */
    int32_t gradient_format;   /* DQT_FLOAT_* of the gradient buffers */
    int32_t checkpoint_format; /* DQT_FLOAT_* of the block inputs saved with recompute */
    uint64_t seed;             /* of stochastic rounding of gradients and checkpoints */
} dqt_tape_options;

DQT_API dqt_status dqt_tape_options_init(dqt_tape_options *options, size_t struct_size);

typedef struct dqt_tape_memory_info {
    uint32_t struct_size;
    uint32_t reserved;
    size_t total;       /* exactly what creation allocates */
    size_t activations; /* saved for backward */
    size_t gradients;
    size_t workspace; /* scratch of kernels, per thread and shared */
    size_t other;
} dqt_tape_memory_info;

/* What dqt_tape_create would allocate. Layers may be shape-only. Since 0.1. */
DQT_API dqt_status dqt_tape_memory(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                                   const dqt_tape_options *options, dqt_tape_memory_info *memory);

/* Creates a tape for these layers, in this order (blocks bring their parts; list each layer once). The layers must
 * outlive it. Parameters are numbered layer after layer. Allocates. Since 0.1. */
DQT_API dqt_status dqt_tape_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                                   const dqt_tape_options *options, dqt_tape **out);
DQT_API void dqt_tape_destroy(dqt_tape *tape);

/* Parameters of all layers of the tape, and the one of number `index`, whose name and tensor belong to its layer.
 * DQT_E_ARGUMENT for an index out of range. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tape_num_parameters(const dqt_tape *tape, size_t *count);
DQT_API dqt_status dqt_tape_parameter(dqt_tape *tape, size_t index, dqt_parameter *parameter);

/* The gradient of parameter `index` with respect to W, float[rows][cols], in place: to inspect, log or all-reduce.
 * DQT_E_STATE without gradient buffers; DQT_E_UNSUPPORTED unless gradient_format is F32 (use read and write). Since
 * 0.1. */
DQT_API dqt_status dqt_tape_gradient(dqt_tape *tape, size_t index, float **gradient);

/* Copies of rows [row, row + count) of a gradient as floats, whatever its format. Since 0.1. */
DQT_API dqt_status dqt_tape_read_gradient(dqt_tape *tape, size_t index, size_t row, size_t count, float *out);
DQT_API dqt_status dqt_tape_write_gradient(dqt_tape *tape, size_t index, size_t row, size_t count, const float *in);

/* Sets all gradients to zero; backward adds to them. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tape_zero_gradients(dqt_tape *tape);

/* Backward passes done, which the random numbers of low-precision gradients and checkpoints depend on, beside the seed.
 * A host that resumes such a run on a new tape sets what it had saved; F32 gradients and checkpoints need nothing.
 * Since 0.1. */
DQT_API dqt_status dqt_tape_get_pass(const dqt_tape *tape, uint64_t *pass);
DQT_API dqt_status dqt_tape_set_pass(dqt_tape *tape, uint64_t pass);

/* Called inside a backward function as soon as the gradient of a parameter is complete for this pass, so that a host
 * can start reducing it. On the thread that called backward. fn NULL: none. Since 0.1. */
typedef void (*dqt_gradient_ready_fn)(void *user_data, size_t parameter_index);
DQT_API dqt_status dqt_tape_on_gradient(dqt_tape *tape, dqt_gradient_ready_fn fn, void *user_data);

/* ---- LLaMA --------------------------------------------------------------------------------------------------- */

/* Embedding, blocks, final RMSNorm and head, each reachable as a dqt_layer. */
typedef struct dqt_llama dqt_llama;

typedef struct dqt_llama_config {
    uint32_t struct_size;
    int32_t mlp;                  /* DQT_MLP_* */
    size_t vocab_size;            /* default 256: bytes */
    size_t hidden_size;           /* default 128 */
    size_t intermediate_size;     /* default 352 */
    size_t num_layers;            /* default 2 */
    size_t num_heads;             /* default 4 */
    size_t num_kv_heads;          /* 0 (default): num_heads */
    float norm_eps;               /* default 1e-5 */
    float rope_theta;             /* default 10000 */
    float init_std;               /* default 0.02 */
    int32_t sub_norms;            /* default 1 */
    int32_t tie_embeddings;       /* default 0; 1: the head uses the embedding's weight */
    int32_t activation;           /* DQT_ACTIVATION_* of the blocks' linears; default INT8 */
    int32_t head_activation;      /* DQT_ACTIVATION_* of the head; default NONE */
    int32_t shape_only;           /* as in dqt_layer_options */
    dqt_tensor_options linear;    /* blocks' weights; default TERNARY, ABSMEAN, per tensor */
    dqt_tensor_options embedding; /* default INT8, SIGMA(4), per tensor */
    dqt_tensor_options head;      /* default INT8, SIGMA(4); must equal `embedding` when tied */
    uint64_t seed;                /* default 1 */
    float linear_init_std; /* of the blocks' weights; 0 (default): init_std. With ABSMEAN scales a larger one means a
                              larger step between codes, not other codes */
    int32_t reserved;      /* zero */
} dqt_llama_config;

DQT_API dqt_status dqt_llama_config_init(dqt_llama_config *config, size_t struct_size);

typedef struct dqt_llama_memory_info {
    uint32_t struct_size;
    uint32_t reserved;
    size_t total;                                                         /* exactly what creation allocates */
    size_t linear_bytes, embedding_bytes, head_bytes, other_bytes;        /* codes and scales by class; the rest */
    size_t linear_weights, embedding_weights, head_weights, norm_weights; /* counts; a tied head has 0 */
} dqt_llama_memory_info;

/* What dqt_llama_create would allocate. Since 0.1. */
DQT_API dqt_status dqt_llama_memory(dqt_context *ctx, const dqt_llama_config *config, dqt_llama_memory_info *memory);

/* Creates a model with normal(0, init_std) weights, counter-based from the seed, quantised to nearest by each tensor's
 * rule. DQT_E_ARGUMENT, DQT_E_SHAPE, DQT_E_UNSUPPORTED, DQT_E_MEMORY. Allocates. Since 0.1. */
DQT_API dqt_status dqt_llama_create(dqt_context *ctx, const dqt_llama_config *config, dqt_llama **out);
DQT_API void dqt_llama_destroy(dqt_llama *model);
DQT_API dqt_status dqt_llama_get_config(const dqt_llama *model, dqt_llama_config *config);

/* The model's layers: embedding, num_layers blocks, norm, head: num_layers + 3 of them; for dqt_tape_create and
 * dqt_updater_create. The array belongs to the model. Since 0.1. */
DQT_API dqt_status dqt_llama_layers(dqt_llama *model, dqt_layer *const **layers, size_t *num_layers);

/* Forward of tokens[batch][length] to logits[batch * length][vocab] (NULL: not wanted). Allocates nothing. Since 0.1.
 */
DQT_API dqt_status dqt_llama_forward(dqt_llama *model, dqt_tape *tape, const int32_t *tokens, size_t batch,
                                     size_t length, float *logits);

/* Forward and mean cross-entropy in nats, see dqt_head_loss. Since 0.1. */
DQT_API dqt_status dqt_llama_loss(dqt_llama *model, dqt_tape *tape, const int32_t *tokens, const int32_t *targets,
                                  size_t batch, size_t length, float *loss, float *token_losses);

/* Backward of the latest dqt_llama_loss, times loss_scale; adds to the tape's gradients. Allocates nothing. Since 0.1.
 */
DQT_API dqt_status dqt_llama_backward(dqt_llama *model, dqt_tape *tape, float loss_scale);

/* Forward or backward of blocks [first, first + count) on x[batch * length][hidden], in place: for hosts that pipeline
 * blocks over machines. Same rules as dqt_layer_forward and dqt_layer_backward. Since 0.1. */
DQT_API dqt_status dqt_llama_forward_blocks(dqt_llama *model, dqt_tape *tape, size_t first, size_t count, size_t batch,
                                            size_t length, float *x);
DQT_API dqt_status dqt_llama_backward_blocks(dqt_llama *model, dqt_tape *tape, size_t first, size_t count, float *dx);

/* ---- Updater ------------------------------------------------------------------------------------------------- */

/* Optimiser x rounding rule x state precision, with its state: the only thing that writes a weight. Per weight, in f32:
 * clip factor; moments; u; target in grid units t = q - lr * (u + decay * W) / s; rounding. docs/numerics.md has it
 * all. */
typedef struct dqt_updater dqt_updater;

enum {
    DQT_OPTIMIZER_SGD = 1,      /* m = momentum * m + g; u = m */
    DQT_OPTIMIZER_ADAMW = 2,    /* bias-corrected moments, decoupled decay */
    DQT_OPTIMIZER_ADAFACTOR = 3 /* factored second moment for matrices; momentum optional */
};

enum { DQT_STATE_F32 = 0, DQT_STATE_BF16 = 1, DQT_STATE_INT8 = 2 }; /* INT8: blocks of 128, square-root companded */

enum {
    DQT_CLIP_NONE = 0,
    DQT_CLIP_GLOBAL_NORM = 1,   /* by the norm of all gradients; needs gradient buffers */
    DQT_CLIP_PREVIOUS_NORM = 2, /* by the previous step's global norm (the first step is not clipped) */
    DQT_CLIP_TENSOR_NORM = 3    /* each tensor by its own norm, which in fused mode is the previous step's */
};

typedef struct dqt_updater_options {
    uint32_t struct_size;
    int32_t optimizer;      /* default ADAMW */
    int32_t rounding;       /* DQT_ROUND_* of integer storage; default ECO_STOCHASTIC, the best below 8 bits
                               (docs/results.md); without a first moment take STOCHASTIC. BF16 storage rounds
                               stochastically (NEAREST: to nearest); F32 needs no rounding */
    int32_t momentum_state; /* DQT_STATE_* of the first moment (SGD's momentum); default F32 */
    int32_t variance_state; /* DQT_STATE_* of AdamW's second moment; default F32 */
    float beta1;            /* default 0.8; SGD's momentum; 0: no first moment is kept */
    float beta2;            /* default 0.95 */
    float eps;              /* default 1e-8 */
    float weight_decay;     /* default 0; matrices only, never gains */
    int32_t clip;           /* DQT_CLIP_*; default GLOBAL_NORM */
    float clip_norm;        /* default 1 */
    float update_clip;      /* Adafactor without momentum: update divided by max(1, rms(u) / update_clip); 0: off;
                               default 1. In fused mode rms(u) is the previous step's */
    int32_t lagged; /* 1: Adafactor's column statistics and rms(u) are the previous step's even when not fused */
    float scale_lr; /* learning-rate factor of trained scales, relative steps; default 1. Codes under trained scales
                       step in units of the tensor's mean scale at the first step, not of the live one */
    uint64_t seed;  /* of the rounding; default 1 */
    float rounding_noise; /* 0..1, default 1: the stochastic rules use floor(t + 1/2 + noise * (r - 1/2)). Below 1 small
                             updates are lost unless ECO feeds the error back; see docs/results.md */
    float reserved;       /* zero */
} dqt_updater_options;

DQT_API dqt_status dqt_updater_options_init(dqt_updater_options *options, size_t struct_size);

typedef struct dqt_updater_memory_info {
    uint32_t struct_size;
    uint32_t reserved;
    size_t total; /* exactly what creation allocates */
    size_t momentum, variance, scales, workspace, other;
} dqt_updater_memory_info;

/* What dqt_updater_create would allocate. Layers may be shape-only. Since 0.1. */
DQT_API dqt_status dqt_updater_memory(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                                      const dqt_updater_options *options, dqt_updater_memory_info *memory);

/* Creates an updater for the parameters of these layers, numbered as in a tape of the same list. The layers must
 * outlive it. DQT_E_UNSUPPORTED: ECO without a first moment (beta1 0), ECO with BF16 or F32 storage only is allowed
 * (nothing to feed back), unknown combinations. Allocates. Since 0.1. */
DQT_API dqt_status dqt_updater_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                                      const dqt_updater_options *options, dqt_updater **out);
DQT_API void dqt_updater_destroy(dqt_updater *updater);

/* Rules for parameters whose name matches `pattern` (with * and ?; NULL: any) and whose class is `parameter_class` (0:
 * any). Later groups win. Negative numbers keep what holds so far. Call between steps; it holds from the next one.
 * Since 0.1. */
typedef struct dqt_group_options {
    uint32_t struct_size;
    int32_t parameter_class;
    const char *pattern;
    float lr_factor;    /* 0 freezes; default -1: keep (1) */
    float weight_decay; /* default -1: keep */
    int32_t rounding;   /* DQT_ROUND_*; default -1: keep */
    float beta1; /* above 0 and below 1; default -1: keep. Needs an updater with a first moment (beta1 above 0) */
    float rounding_noise; /* 0..1; default -1: keep */
    int32_t reserved;     /* zero */
} dqt_group_options;

DQT_API dqt_status dqt_group_options_init(dqt_group_options *options, size_t struct_size);

/* Adds the group; *num_matched (NULL: not wanted) is how many parameters it is of. DQT_E_ARGUMENT (also for options
 * NULL), DQT_E_UNSUPPORTED (ECO rounding or a beta1 without a first moment). Since 0.1. */
DQT_API dqt_status dqt_updater_add_group(dqt_updater *updater, const dqt_group_options *options, size_t *num_matched);

typedef struct dqt_step_stats {
    uint32_t struct_size;
    uint32_t reserved;
    double gradient_norm; /* before clipping */
    double update_rms;    /* of lr * u over weights of integer storage, in units of W */
    uint64_t flipped;     /* codes that changed */
    uint64_t saturated;   /* codes clamped at Qn or Qp */
    uint64_t quantized;   /* weights of integer storage */
    uint64_t step;        /* number of steps done, this one included */
} dqt_step_stats;

/* One update of every weight from the tape's gradients with this learning rate (the host owns the schedule). The tape
 * has the same layers. stats NULL: not wanted. DQT_E_NUMERIC for a gradient that is not finite: nothing is changed.
 * Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_updater_step(dqt_updater *updater, dqt_tape *tape, float learning_rate, dqt_step_stats *stats);

/* The same, but only rows of part `part` of `num_parts` (0-based) are written, with their moments and trained scales:
 * for hosts that shard the update over replicas of the model. Every replica calls it with the same complete gradients,
 * its own part and the same learning rate; norms, clipping and Adafactor's statistics are of all rows, everywhere. Then
 * each sends its rows of dqt_tensor_data, with their scales where they are trained (dqt_tensor_get_scales), puts the
 * others' in place and calls dqt_tensor_touch: now all have the bits that dqt_updater_step gives. Until then this
 * replica's tensors are partly old. The step counts as one. Moments outside the part stay as they were: a part needs
 * always the same updater, and a checkpoint of it resumes that part only. In stats, gradient_norm and step are of the
 * whole, the rest of the part.
 *
 * Where nothing depends on other rows (SGD or AdamW without clipping), gradients outside the part need only be finite:
 * a host may reduce-scatter them. gradient_norm is then of what the tape holds.
 *
 * One updater may do several parts, with dqt_updater_set_step back in between, for SGD and AdamW but not with
 * DQT_CLIP_PREVIOUS_NORM; Adafactor's statistics would be decayed once per part.
 *
 * Errors as of dqt_updater_step; DQT_E_ARGUMENT unless part < num_parts. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_updater_step_range(dqt_updater *updater, dqt_tape *tape, float learning_rate, size_t part,
                                          size_t num_parts, dqt_step_stats *stats);

/* The rows [*row, *row + *count) of parameter `parameter` that dqt_updater_step_range writes: whole tiles of 64 rows,
 * as evenly as they go. A tensor of fewer tiles than parts belongs to one part as a whole, in turn; so does one whose
 * rows depend on each other (Adafactor without momentum, update_clip on, one column). *count is 0 for a part that has
 * none, and for a parameter that a group froze. Ask after the groups are set. DQT_E_ARGUMENT. Allocates nothing.
 * Thread-safe while no step runs. Since 0.1. */
DQT_API dqt_status dqt_updater_range(const dqt_updater *updater, size_t parameter, size_t part, size_t num_parts,
                                     size_t *row, size_t *count);

/* Backward of the latest dqt_llama_loss and the update in one pass: each weight's gradient is made in row tiles,
 * applied to the packed codes and forgotten; the tape needs no gradient buffers. One call per step, no accumulation.
 * With the same options (lagged = 1 for Adafactor; clip NONE or PREVIOUS_NORM) it gives the codes of backward + step,
 * bit for bit. DQT_E_UNSUPPORTED for DQT_CLIP_GLOBAL_NORM. DQT_E_NUMERIC: a loss that is not finite is refused before
 * anything is written; a tensor whose gradient is not finite is left as it was, and the rest is updated. Since 0.1. */
DQT_API dqt_status dqt_llama_backward_update(dqt_llama *model, dqt_tape *tape, dqt_updater *updater,
                                             float learning_rate, dqt_step_stats *stats);

/* Steps done, and setting them (a host that restores its own state). Since 0.1. */
DQT_API dqt_status dqt_updater_get_step(const dqt_updater *updater, uint64_t *step);
DQT_API dqt_status dqt_updater_set_step(dqt_updater *updater, uint64_t step);
DQT_API dqt_status dqt_updater_get_options(const dqt_updater *updater, dqt_updater_options *options);

/* Learning rate at `step` (0-based): linear warm-up over `warmup` steps to `peak`, then cosine or line to peak *
 * final_fraction at `total`. Pure functions. Since 0.1. */
DQT_API float dqt_schedule_cosine(uint64_t step, uint64_t warmup, uint64_t total, float peak, float final_fraction);
DQT_API float dqt_schedule_linear(uint64_t step, uint64_t warmup, uint64_t total, float peak, float final_fraction);

/* ---- Session ------------------------------------------------------------------------------------------------- */

/* KV cache and position of one sequence; many per model. */
typedef struct dqt_session dqt_session;

/* Creates a session for at most max_length tokens. Allocates. Since 0.1. */
DQT_API dqt_status dqt_session_create(dqt_llama *model, size_t max_length, dqt_session **out);
DQT_API void dqt_session_destroy(dqt_session *session);

/* Appends tokens[count] and writes the logits after the last one, logits[vocab] (NULL: not wanted). DQT_E_STATE if the
 * cache would overflow, DQT_E_ARGUMENT for a token outside the vocabulary; then nothing is appended. Float products in
 * F32. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_session_append(dqt_session *session, const int32_t *tokens, size_t count, float *logits);

/* Tokens in the cache, and going back to fewer (0: empty). Since 0.1. */
DQT_API dqt_status dqt_session_length(const dqt_session *session, size_t *length);
DQT_API dqt_status dqt_session_truncate(dqt_session *session, size_t length);

/* Draws tokens from logits. */
typedef struct dqt_sampler dqt_sampler;

typedef struct dqt_sampler_options {
    uint32_t struct_size;
    float temperature; /* default 1; 0: greedy */
    size_t top_k;      /* 0 (default): off */
    float top_p;       /* default 1: off */
    uint64_t seed;     /* default 1; the n-th draw uses the n-th number of this seed */
} dqt_sampler_options;

DQT_API dqt_status dqt_sampler_options_init(dqt_sampler_options *options, size_t struct_size);

/* Creates a sampler for logits of this many tokens, with all the memory that sampling needs. options NULL: defaults.
 * DQT_E_ARGUMENT, DQT_E_MEMORY. Allocates. Since 0.1. */
DQT_API dqt_status dqt_sampler_create(dqt_context *ctx, size_t vocab_size, const dqt_sampler_options *options,
                                      dqt_sampler **out);
DQT_API void dqt_sampler_destroy(dqt_sampler *sampler);

/* Draws a token from logits[vocab_size]. Ties go to the lower token. DQT_E_NUMERIC if no logit is finite or one is NaN.
 * Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_sampler_sample(dqt_sampler *sampler, const float *logits, int32_t *token);

/* ---- Files --------------------------------------------------------------------------------------------------- */

/* Host input and output. read: fills up to `size` bytes, returns how many (0: end, SIZE_MAX: error). write: 0 or an
 * error number. */
typedef size_t (*dqt_read_fn)(void *user_data, void *buffer, size_t size);
typedef int32_t (*dqt_write_fn)(void *user_data, const void *buffer, size_t size);

/* Checkpoint: config, codes, scales, optimiser state (updater NULL: none), step, seeds and host_size bytes of the
 * host's own (host NULL with 0). Little-endian, versioned, each section with a checksum: docs/checkpoint.md. A path is
 * written under a temporary name in the same folder, flushed and renamed, so that it holds the old file or the new one
 * whatever happens; symbolic links are followed, mode and owner of the old file kept; what is not a regular file is
 * never replaced. DQT_E_IO, with the system's reason. Allocates buffers of bounded size while it runs. Since 0.1. */
DQT_API dqt_status dqt_llama_save(dqt_llama *model, dqt_updater *updater, const void *host, size_t host_size,
                                  const char *path);
DQT_API dqt_status dqt_llama_write(dqt_llama *model, dqt_updater *updater, const void *host, size_t host_size,
                                   dqt_write_fn write, void *user_data);

/* Creates model, updater (NULL: not wanted; *updater NULL if the file has none) and host bytes (NULL: not wanted;
 * released with dqt_host_bytes_free) from a checkpoint. Truncated, damaged or foreign: DQT_E_FORMAT with a sentence,
 * nothing is created. What a stream claims is allocated as its data arrive: about 6 times what has come, at most.
 * Since 0.1. */
DQT_API dqt_status dqt_llama_load(dqt_context *ctx, const char *path, dqt_llama **model, dqt_updater **updater,
                                  void **host, size_t *host_size);
DQT_API dqt_status dqt_llama_read(dqt_context *ctx, dqt_read_fn read, void *user_data, dqt_llama **model,
                                  dqt_updater **updater, void **host, size_t *host_size);
DQT_API void dqt_host_bytes_free(dqt_context *ctx, void *host, size_t host_size);

/* Weight types of GGUF files. AUTO takes what holds the compute format's codes exactly: ternary TQ2_0, 2 to 4 bits
 * Q4_0, 5 bits Q5_0, 6 and 8 bits Q8_0, bf16 F16, f32 F32; for the embedding and an untied head Q8_0, F16 or F32. */
enum {
    DQT_GGUF_AUTO = 0,
    DQT_GGUF_F32 = 1,
    DQT_GGUF_F16 = 2,
    DQT_GGUF_Q8_0 = 3,  /* 8.5 bits per weight */
    DQT_GGUF_Q4_0 = 4,  /* 4.5 bits; up to 4-bit codes */
    DQT_GGUF_TQ1_0 = 5, /* 1.69 bits; ternary */
    DQT_GGUF_TQ2_0 = 6, /* 2.06 bits; ternary */
    DQT_GGUF_Q5_0 = 7   /* 5.5 bits; up to 5-bit codes */
};

typedef struct dqt_gguf_options {
    uint32_t struct_size;
    int32_t linear_type;    /* DQT_GGUF_* of the blocks' weights; a tensor whose rows are not whole blocks (256 weights
                               for TQ, 32 for Q) goes out as F16 */
    int32_t embedding_type; /* AUTO, F32, F16 or Q8_0; of the embedding and an untied head */
    int32_t bos_token, eos_token, unknown_token; /* default 0; -1: the file names none */
    int32_t add_bos;                             /* 1: readers put bos_token before a text; default 0 */
    int32_t add_space_prefix;                    /* 1: readers put a space before a text; default 0 */
    size_t context_length;                       /* default 2048 */
    const char *const *tokens; /* [num_tokens], UTF-8, in the notation of a "llama" tokenizer; NULL: the 256 bytes */
    const float *scores;       /* [num_tokens]; NULL: zeros */
    const int32_t *types; /* [num_tokens], 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; NULL: 1 */
    size_t num_tokens;    /* the vocabulary's size, or 0 with tokens NULL */
} dqt_gguf_options;

DQT_API dqt_status dqt_gguf_options_init(dqt_gguf_options *options, size_t struct_size);

/* Writes the model as a GGUF file (version 3) that llama.cpp and its clients run; options NULL: defaults. A model with
 * sub-norms becomes architecture `bitnet`, one without `llama`. What the layers read is written: the compute codes. In
 * bitnet files one scale per tensor is kept exactly, as a tensor of its own; other scales become the blocks' fp16
 * scales. DQT_E_UNSUPPORTED, with the reason, for what a file cannot express: sub-norms without tied embeddings,
 * squared ReLU, a type too narrow for the codes, a scale that fp16 cannot hold. Readers quantise activations in blocks
 * where libdqt does so per token, so logits agree closely, not exactly. Paths are written as in dqt_llama_save.
 * DQT_E_ARGUMENT, DQT_E_NUMERIC, DQT_E_IO, DQT_E_STATE, DQT_E_MEMORY. Allocates a buffer of bounded size while it runs.
 * Since 0.1. */
DQT_API dqt_status dqt_llama_export_gguf(const dqt_llama *model, const dqt_gguf_options *options, const char *path);
DQT_API dqt_status dqt_llama_write_gguf(const dqt_llama *model, const dqt_gguf_options *options, dqt_write_fn write,
                                        void *user_data);

enum {
    DQT_SAFETENSORS_F32 = 0,
    DQT_SAFETENSORS_BF16 = 1, /* gains stay F32 */
    DQT_SAFETENSORS_CODES = 2 /* the packed storage: U8 [rows][row_bytes], and scales, NAME_scale F32 [1] or [rows] */
};

typedef struct dqt_safetensors_options {
    uint32_t struct_size;
    int32_t dtype;    /* DQT_SAFETENSORS_*; default F32 */
    int32_t stored;   /* 0 (default): the weights that layers read (compute format); 1: those that the updater writes
                         (storage format). CODES are always the latter */
    int32_t reserved; /* zero */
} dqt_safetensors_options;

DQT_API dqt_status dqt_safetensors_options_init(dqt_safetensors_options *options, size_t struct_size);

/* Writes the weights as a safetensors file with the names of Hugging Face's LlamaForCausalLM
 * ("model.layers.0.self_attn. q_proj.weight"), sub-norms as self_attn.inner_attn_ln and mlp.ffn_layernorm. A tied head
 * is not listed. options NULL: defaults. Paths are written as in dqt_llama_save. DQT_E_ARGUMENT, DQT_E_NUMERIC (a
 * weight that is not finite), DQT_E_IO, DQT_E_STATE, DQT_E_MEMORY. Allocates a buffer of bounded size while it runs.
 * Since 0.1. */
DQT_API dqt_status dqt_llama_export_safetensors(dqt_llama *model, const dqt_safetensors_options *options,
                                                const char *path);
DQT_API dqt_status dqt_llama_write_safetensors(dqt_llama *model, const dqt_safetensors_options *options,
                                               dqt_write_fn write, void *user_data);

/* Reads weights with such names, F32, BF16, F16 or CODES, into a model of the same shape; an updater's state is left
 * alone. Where all weights of a tensor (of each row, with AXIS_ROW) are integers of the storage format times one scale,
 * rounded to the file's type, exactly these codes and the coarsest such scale are taken: F32 files of this library come
 * back bit for bit, unless every code of a tensor has a common factor. (BF16 and F16 files: codes of up to 4 bits; 8
 * bits are more than their numbers tell apart.) Otherwise the tensor is quantised by its own rule with `rounding`,
 * STOCHASTIC (seeded) or NEAREST. Names that the model does not have, or lacks: DQT_E_FORMAT; other shapes:
 * DQT_E_SHAPE; a file that is damaged, hostile or not finite: DQT_E_FORMAT. Then the model is unchanged.
 * DQT_E_ARGUMENT, DQT_E_IO, DQT_E_STATE, DQT_E_MEMORY. Allocates the model's weights a second time and the largest of
 * them as floats while it runs. Since 0.1. */
DQT_API dqt_status dqt_llama_import_safetensors(dqt_llama *model, const char *path, int32_t rounding, uint64_t seed);

#ifdef __cplusplus
}
#endif

#endif /* DQT_H */
