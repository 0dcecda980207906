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
 *  - Functions return dqt_status; 0 is success. dqt_last_error() then has a sentence. Unless a function says otherwise,
 *    nothing is changed on failure, and every handle out-parameter is NULL.
 *  - Arguments come in this order: the object, other objects, inputs, options, outputs.
 *  - Matrices are row-major. A weight matrix has rows = outputs and cols = inputs. Activations are
 *    float x[tokens][features] with tokens = batch * length, sequence after sequence.
 *  - Sizes are size_t, tokens int32_t, targets int32_t with -1 = ignore. Enumerations travel as int32_t.
 *  - Structs begin with struct_size. Options are filled with defaults by their *_init function, or begin as zeros with
 *    struct_size set, `dqt_batch b = DQT_INIT(dqt_batch);`: a member that is 0 has its default unless its comment says
 *    what 0 means. A smaller (older) struct_size is accepted; a larger one only if the tail that this library does not
 *    know is zero. Results are filled as far as their struct_size says; one that no version of this struct can have
 * (more than 512 bytes beyond this one) is refused as uninitialised. `reserved` members are 0.
 *  - Names are UTF-8, paths too; a path is what the system's file functions take.
 *  - const says what a call only reads. Lists of layers are `dqt_layer *const *` even where the layers are only read,
 * as in saving: C converts a host's `dqt_layer **` to that, and to `const dqt_layer *const *` only by a cast.
 *  - Handles are destroyed by their *_destroy function, which accepts NULL. Destroy objects before what they were
 *    made from: sessions, tapes and updaters before models and layers, everything before the context.
 *  - Threads: different contexts are independent. Objects of one context may be used from several threads at once as
 *    long as no object is written by one thread while another uses it: forward, loss and backward write the tape and
 *    read the model; saving only reads; updater steps write the model, the updater and nothing else.
 *  - Processes: after fork() the child goes on with inherited and with new contexts, on one thread where they are
 *    OPENMP's (results are the same; its threads are the parent's), by the host's own parallel_for where they are
 * HOST's. No other thread of the parent may have been inside this library. Once loaded the library stays: dlclose()
 * does not unmap it, since OpenMP's idle threads may be in it. Several copies in one process do not know of each other.
 *  - Threads are used for work that pays for them, and fewer while other processes keep the cores busy. Results do not
 *    depend on it.
 *  - "Allocates nothing" is said of a function that never calls the allocator; creation functions allocate everything.
 *  - Defaults belong to the major version: they stay as they are until the next one. Better recipes come as presets.
 *
 * What is NOT promised: the layout of opaque handles; the bit pattern of float results across instruction sets
 * (integer products, packing, random numbers and updates, but MUON's, are bit-identical everywhere; see
 * docs/numerics.md).
 *
 * Define DQT_EXPERIMENTAL before including to see what is not frozen: it may change in any minor version, and its
 * symbols are in a node of their own.
 */
#ifndef DQT_H
#define DQT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* DQT_API may be defined before: as nothing while the library is compiled, and the functions of its archive are hidden
 * in the plug-in that it is linked into (docs/abi.md). */
#ifndef DQT_API
#if defined(_WIN32) && defined(DQT_BUILD_SHARED)
#define DQT_API __declspec(dllexport)
#elif defined(__GNUC__) && __GNUC__ >= 4
#define DQT_API __attribute__((visibility("default")))
#else
#define DQT_API
#endif
#endif

/* ---- Version ------------------------------------------------------------------------------------------------- */

#define DQT_VERSION_MAJOR 0
#define DQT_VERSION_MINOR 9
#define DQT_VERSION_PATCH 0

/* Version of this header as one number: major * 10000 + minor * 100 + patch. */
#define DQT_VERSION (DQT_VERSION_MAJOR * 10000 + DQT_VERSION_MINOR * 100 + DQT_VERSION_PATCH)

/* Version of the linked library, as DQT_VERSION. Thread-safe. Since 0.1. */
DQT_API uint32_t dqt_version(void);

/* The same as text, "0.9.0"; a static string. Thread-safe. Since 0.1. */
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
    DQT_E_STATE = 80,       /* called out of order: backward without forward, a full cache, a shape-only model */
    DQT_E_CANCELLED = 90    /* the host's interrupt or gradient callback asked to stop */
};

/* Short name of a status, "DQT_E_SHAPE"; "unknown status" for other numbers. Static string. Thread-safe. Since 0.1. */
DQT_API const char *dqt_status_string(dqt_status status);

/* ---- Context ------------------------------------------------------------------------------------------------- */

/* Allocator, threads, instruction set, log callback and last error. Every other object belongs to one. */
typedef struct dqt_context dqt_context;

/* Returns at least `size` bytes aligned to `alignment` (a power of two, at most 64), or NULL. */
typedef void *(*dqt_alloc_fn)(void *user_data, size_t size, size_t alignment);

/* Releases what dqt_alloc_fn returned, with the same size and alignment. */
typedef void (*dqt_free_fn)(void *user_data, void *ptr, size_t size, size_t alignment);

/* One of `count` independent tasks. */
typedef void (*dqt_task_fn)(void *task_data, size_t index);

/* Calls task(task_data, i) once for each i in [0, count), in any order, concurrently or not, and returns when all are
 * done. `count` is at most the context's num_threads. Results do not depend on the order. */
typedef void (*dqt_parallel_for_fn)(void *user_data, size_t count, dqt_task_fn task, void *task_data);

/* Asked now and then, between layers and between tensors, on the thread that called the library, never from inside a
 * task: non-zero ends the call with DQT_E_CANCELLED. A cancelled forward, loss or append leaves its tape or session as
 * if the call had not been made (a tape's earlier forward is gone). A cancelled backward has added some of the
 * gradients: zero them. A cancelled unfused step, load or import has changed nothing, nor has saving or exporting to a
 * path; a callback that is written to has got a part. A cancelled fused backward has updated the parameters whose
 * gradients were complete, and the step counts. */
typedef int32_t (*dqt_interrupt_fn)(void *user_data);

enum { DQT_LOG_ERROR = 1, DQT_LOG_WARNING = 2, DQT_LOG_INFO = 3 };

/* Receives one sentence without a line break, valid during the call. May be called from any thread that is inside a
 * function of this library; never from inside a task. May call the library (but not destroy what is in use): what fails
 * in there is not logged again, and dqt_last_error tells of the failure that was logged. */
typedef void (*dqt_log_fn)(void *user_data, int32_t level, const char *message);

enum { DQT_THREADING_AUTO = 0, DQT_THREADING_SERIAL = 1, DQT_THREADING_OPENMP = 2, DQT_THREADING_HOST = 3 };

/* Instruction sets, weakest first within an architecture; AUTO takes the best the CPU and the system offer. */
enum {
    DQT_ISA_AUTO = 0,
    DQT_ISA_SCALAR = 1,
    DQT_ISA_AVX2 = 10,          /* AVX2 + FMA */
    DQT_ISA_AVX_VNNI = 15,      /* AVX2 with AVX-VNNI, as on CPUs without AVX-512. Since 0.2. */
    DQT_ISA_AVX512 = 20,        /* AVX-512 F, BW, DQ, VL */
    DQT_ISA_VNNI = 30,          /* AVX-512 with VNNI (and BF16 where present) */
    DQT_ISA_AMX = 40,           /* AMX int8 and bf16 */
    DQT_ISA_NEON = 100,         /* AArch64 */
    DQT_ISA_NEON_DOTPROD = 110, /* NEON with dot products of bytes. Since 0.9. */
    DQT_ISA_NEON_I8MM = 120     /* the same with matrix products of bytes. Since 0.9. */
};

/* Bits of dqt_context_cpu_features(). */
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
    int32_t threading;   /* DQT_THREADING_*; AUTO: HOST if parallel_for is set, else OPENMP if built in, else SERIAL.
                            In a process that was forked without exec, AUTO means SERIAL instead of OPENMP, since the
                            parent may have used OpenMP, whose threads are then missing; a host that knows better says
                            OPENMP. It becomes SERIAL all the same if the parent had created a context. */
    int32_t num_threads; /* 1..1024; 0: 1 for SERIAL and HOST; for OPENMP the least of OpenMP's own default, the
                            processors that the calling thread may run on, and what control groups grant (cpu.max or
                            cpu.cfs_quota_us over its period, rounded up), as they are now */
    int32_t isa;         /* highest DQT_ISA_* to use; the environment variable DQT_ISA (scalar, avx2, avxvnni, avx512,
                            vnni, amx, neon, dotprod, i8mm) caps it further, for tests: only what both allow is used */
    int32_t forbid_amx;  /* 1: do not ask the system for AMX (the permission is process-wide) */
    int32_t log_level;   /* messages above this DQT_LOG_* level are not sent; 0: default, WARNING */
    dqt_alloc_fn alloc;  /* both or neither; NULL: the C library's */
    dqt_free_fn free;
    void *alloc_user_data;
    dqt_parallel_for_fn parallel_for; /* for HOST */
    void *parallel_user_data;
    dqt_log_fn log; /* NULL: no messages. It may call the library. */
    void *log_user_data;
    dqt_interrupt_fn interrupt; /* NULL: nothing interrupts */
    void *interrupt_user_data;
} dqt_context_options;

/* Fills defaults. struct_size is sizeof(dqt_context_options) of the caller. DQT_E_ARGUMENT for NULL or a size that is
 * too small to hold struct_size itself. Thread-safe. Since 0.1. (The other *_init functions are alike.) */
DQT_API dqt_status dqt_context_options_init(dqt_context_options *options, size_t struct_size);

/* Creates a context. options NULL: defaults. DQT_E_ARGUMENT, DQT_E_UNSUPPORTED (OPENMP without OpenMP, an isa of
 * another architecture), DQT_E_MEMORY. Allocates. Since 0.1. */
DQT_API dqt_status dqt_context_create(const dqt_context_options *options, dqt_context **out);

/* Destroys a context whose objects have all been destroyed. NULL is accepted. Since 0.1. */
DQT_API void dqt_context_destroy(dqt_context *ctx);

/* The sentence of the calling thread's latest failure in this context ("" if none is remembered: a thread keeps those
 * of the last few contexts): names the argument, its value and what would be right. ctx NULL: the thread's latest
 * failure of all, in whatever context or none (a NULL handle). Valid until the same thread's next call into the
 * library. Since 0.1. */
DQT_API const char *dqt_last_error(const dqt_context *ctx);

/* DQT_CPU_* bits that the CPU and operating system offer, whatever the context's isa option. 0 for NULL. Since 0.1. */
DQT_API uint64_t dqt_context_cpu_features(const dqt_context *ctx);

/* The DQT_ISA_* in use. 0 for NULL. Since 0.1. */
DQT_API int32_t dqt_context_isa(const dqt_context *ctx);

/* The number of threads in use at most. 0 for NULL. Since 0.1. */
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
    DQT_SCALE_AUTO = 0,    /* of random weights: SIGMA for 8-bit codes, ABSMEAN for fewer bits: what learned best
                              (docs/results.md); of codes that import makes of trained weights, and from then on
                              of those that layers read of them in another format: MSE for scales of groups, which
                              dqt_llama_open weighs, else ABSMAX, for these have outliers, which the others cut off */
    DQT_SCALE_SIGMA = 1,   /* s = sigma * std(w) / Qp, std about zero */
    DQT_SCALE_ABSMAX = 2,  /* s = max|w| / Qp */
    DQT_SCALE_ABSMEAN = 3, /* s = mean|w| / Qp (the paper, section 3; BitNet b1.58) */
    DQT_SCALE_MSE = 4      /* the s of least squared error over clipping and rounding: for trained weights in groups */
};

/* What has a scale: the tensor, each row, or each group of group_size columns of a row. Group scales that are not
 * trained are kept as fp16, of either sign; a group of scale 0 is 0 and stays as it is. Where the compute format is not
 * the storage's, its scales have this axis and group too. */
enum { DQT_AXIS_TENSOR = 0, DQT_AXIS_ROW = 1, DQT_AXIS_GROUP = 2 };

enum {
    DQT_ROUND_DEFAULT = 0,        /* of an updater: ECO_STOCHASTIC where a first moment is kept, else STOCHASTIC, which
                                     MUON has in any case; of dqt_tensor_quantize and the like: NEAREST */
    DQT_ROUND_STOCHASTIC = 1,     /* floor(t + r), r uniform in [0, 1) */
    DQT_ROUND_NEAREST = 2,        /* ties to even; loses updates below half a step: for ablation */
    DQT_ROUND_ECO_STOCHASTIC = 3, /* stochastic, and the error is fed back through the momentum (arXiv 2601.22101) */
    DQT_ROUND_ECO_NEAREST = 4,
    DQT_ROUND_ACCUMULATE = 5 /* of an updater: steps are summed in an accumulator of 8 bits a weight, in the place of a
                                first moment, and a code moves with what 1 - beta1 of it rounds to; see
                                dqt_updater_options. Since 0.9 */
};

/* This struct is embedded in others, so it keeps its size. */
typedef struct dqt_tensor_options {
    uint32_t struct_size;
    int32_t storage;     /* DQT_FORMAT_*; 0: TERNARY (in dqt_llama_config.embedding and head: INT8) */
    int32_t compute;     /* DQT_FORMAT_SAME, or a format of fewer bits than the storage's */
    int32_t scale_rule;  /* DQT_SCALE_* */
    int32_t scale_axis;  /* DQT_AXIS_*; default TENSOR */
    float sigma;         /* factor of DQT_SCALE_SIGMA; 0: 4 */
    int32_t train_scale; /* 1: scales have a gradient and are trained (needs integer storage, and AXIS_ROW or GROUP) */
    int32_t group_size;  /* columns per scale with AXIS_GROUP: 32, 64, 128 or 256, a divisor of cols; 0: 32; else 0 */
    uint64_t reserved64[4];
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
    int32_t group_size; /* columns per scale with AXIS_GROUP, else 0 */
    size_t rows, cols;
    size_t row_bytes;  /* bytes from one packed row to the next */
    size_t data_bytes; /* rows * row_bytes */
    size_t num_scales; /* 0 (F32, BF16), 1, rows, or rows * cols / group_size: row after row */
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

/* Reads or writes all num_scales scales; written ones must be normal numbers above 0, and finite times
 * 128. Fixed scales of groups are rounded to fp16, where they must be finite; they may be 0 or negative. Allocates
 * nothing. Since 0.1. */
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

/* Copies codes, scales and floats of a tensor of the same shape, storage format and scale axis; the contexts may
 * differ. DQT_E_SHAPE, DQT_E_UNSUPPORTED. Allocates nothing. Since 0.9. */
DQT_API dqt_status dqt_tensor_copy(dqt_tensor *destination, const dqt_tensor *source);

/* Creates a tensor of other options from the dequantised weights of `source`. Allocates. Since 0.1. */
DQT_API dqt_status dqt_tensor_convert(const dqt_tensor *source, int32_t rounding, uint64_t seed,
                                      const dqt_tensor_options *options, dqt_tensor **out);

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
    DQT_LAYER_ATTENTION =
        4,               /* q, k, v, with biases and norms where wanted; RoPE; causal attention; optional sub-norm; o
                          */
    DQT_LAYER_MLP = 5,   /* down(norm(hidden)), hidden as DQT_MLP_* say, the norm only with sub_norm */
    DQT_LAYER_BLOCK = 6, /* x + attention(norm x), then x + mlp(norm x) */
    DQT_LAYER_HEAD = 7   /* logits = x W^T; mean cross-entropy */
};

/* Quantisation of what enters a linear layer. DEFAULT: INT8, but NONE for heads. */
enum { DQT_ACTIVATION_DEFAULT = 0, DQT_ACTIVATION_NONE = 1, DQT_ACTIVATION_INT8 = 2 };

/* What an MLP makes of its input: SWIGLU silu(gate x) * up x; SQUARED_RELU max(up x, 0)^2, without a gate;
 * GATED_SQUARED_RELU max(gate x, 0)^2 * up x (BitNet b1.58 2B4T). */
enum { DQT_MLP_SWIGLU = 0, DQT_MLP_SQUARED_RELU = 1, DQT_MLP_GATED_SQUARED_RELU = 2 };

/* Scaling of RoPE's frequencies for longer contexts than those of a model's first training. NONE: theta^(-2i / head
 * size). LINEAR: that over rope_factor (Chen et al. 2023). LLAMA3: low frequencies over rope_factor, high ones as they
 * are, and between them, by wavelength, both in proportion (Llama 3.1). */
enum { DQT_ROPE_NONE = 0, DQT_ROPE_LINEAR = 1, DQT_ROPE_LLAMA3 = 2 };

/* Options of every layer kind; each creation function says which it reads. */
typedef struct dqt_layer_options {
    uint32_t struct_size;
    int32_t activation;        /* DQT_ACTIVATION_* */
    dqt_tensor_options weight; /* of every weight matrix in the layer; gains and biases are F32 */
    uint64_t seed;             /* of the initial weights: normal(0, init_std), counter-based; any number, init says 1 */
    float init_std;            /* 0: 0.02; negative: weights of zeros */
    float norm_eps;            /* 0: 1e-5 */
    int32_t mlp;               /* DQT_MLP_* */
    int32_t sub_norm;          /* 1: RMSNorm before o and before down (BitNet) */
    float rope_theta;          /* 0: 10000 */
    int32_t shape_only;        /* 1: no weights are allocated: for planning memory; only *_memory calls work */
    const char *name;          /* prefix of parameter names, copied; NULL: the kind's name; at most 47 bytes */
    size_t head_dim;           /* head size of attention, even; 0: hidden / num_heads */
    int32_t attention_bias;    /* 1: q, k and v have biases (Qwen2) */
    int32_t qk_norm;           /* 1: RMSNorm of every head of q and of k, before RoPE (Qwen3) */
    int32_t rope_scaling;      /* DQT_ROPE_* */
    float rope_factor;         /* of LINEAR and LLAMA3, at least 1; like the next three 0 where it is not read */
    float rope_low_freq_factor, rope_high_freq_factor; /* of LLAMA3: wavelengths above rope_original_context / low are
                                                          low frequencies, below rope_original_context / high high ones;
                                                          above 0, the first below the second */
    size_t rope_original_context;                      /* of LLAMA3: tokens */
    size_t reserved;
} dqt_layer_options;

DQT_API dqt_status dqt_layer_options_init(dqt_layer_options *options, size_t struct_size);

/* Creation. options NULL: defaults. All return DQT_E_ARGUMENT, DQT_E_SHAPE (also where an int32 sum could overflow:
 * inputs * 128 * max|q| >= 2^31), DQT_E_UNSUPPORTED or DQT_E_MEMORY, and allocate. Since 0.1.
 *
 * embedding: weight [vocab][hidden]; reads weight, seed, init_std. Default storage in options: TERNARY, as everywhere;
 *   dqt_llama's own default for embedding and head is INT8 with SIGMA(4).
 * linear: weight [out][in]. rmsnorm: gain [1][features]. attention: q [num_heads * head size][hidden], k and v
 * [num_kv_heads * head size][hidden], o [hidden][num_heads * head size], biases [1][rows], at first 0, norms of q and k
 * [1][head size]; num_kv_heads divides num_heads; the head size is even. mlp: gate, up [intermediate][hidden], down
 * [hidden][intermediate]. block: norms, attention, mlp. head: weight [classes][hidden]; `tied` NULL or an embedding
 * layer whose weight is used. */
DQT_API dqt_status dqt_embedding_create(dqt_context *ctx, size_t vocab, size_t hidden, const dqt_layer_options *options,
                                        dqt_layer **out);
DQT_API dqt_status dqt_linear_create(dqt_context *ctx, size_t in_features, size_t out_features,
                                     const dqt_layer_options *options, dqt_layer **out);
DQT_API dqt_status dqt_rmsnorm_create(dqt_context *ctx, size_t features, const dqt_layer_options *options,
                                      dqt_layer **out);
DQT_API dqt_status dqt_attention_create(dqt_context *ctx, size_t hidden, size_t num_heads, size_t num_kv_heads,
                                        const dqt_layer_options *options, dqt_layer **out);
DQT_API dqt_status dqt_mlp_create(dqt_context *ctx, size_t hidden, size_t intermediate,
                                  const dqt_layer_options *options, dqt_layer **out);
DQT_API dqt_status dqt_block_create(dqt_context *ctx, size_t hidden, size_t intermediate, size_t num_heads,
                                    size_t num_kv_heads, const dqt_layer_options *options, dqt_layer **out);
DQT_API dqt_status dqt_head_create(dqt_context *ctx, dqt_layer *tied, size_t hidden, size_t classes,
                                   const dqt_layer_options *options, dqt_layer **out);

/* Destroys a layer that the host created. Layers of a dqt_llama belong to the model. */
DQT_API void dqt_layer_destroy(dqt_layer *layer);

typedef struct dqt_layer_info {
    uint32_t struct_size;
    int32_t kind;          /* DQT_LAYER_* */
    size_t in_features;    /* of an embedding: the vocabulary */
    size_t out_features;   /* of a head: the classes */
    size_t num_parameters; /* tensors of this layer and its sublayers; a tied head has none of its own */
    size_t num_sublayers;  /* layers it is made of: block 4 (norm, attention, norm, mlp), others 0 */
} dqt_layer_info;

/* Describes a layer; info->struct_size says how much of it is filled. Thread-safe. Since 0.1. */
DQT_API dqt_status dqt_layer_get_info(const dqt_layer *layer, dqt_layer_info *info);

/* Sublayer `index` of a block; it belongs to the block. Since 0.9. */
DQT_API dqt_status dqt_layer_get_sublayer(dqt_layer *layer, size_t index, dqt_layer **sublayer);

enum {
    DQT_CLASS_EMBEDDING = 1,
    DQT_CLASS_HEAD = 2,
    DQT_CLASS_NORM = 3,
    DQT_CLASS_ATTENTION = 4, /* q, k, v, o */
    DQT_CLASS_MLP = 5,       /* gate, up, down */
    DQT_CLASS_LINEAR = 6,
    DQT_CLASS_BIAS = 7 /* F32, like gains */
};

typedef struct dqt_parameter {
    uint32_t struct_size;
    int32_t parameter_class; /* DQT_CLASS_* */
    const char *name;        /* such as "blocks.3.attention.q"; valid as long as the layer */
    dqt_tensor *tensor;      /* belongs to the layer */
    size_t rows, cols;
} dqt_parameter;

/* Parameter `index` of a layer, in the order in which tapes and updaters number them. Since 0.1. */
DQT_API dqt_status dqt_layer_get_parameter(const dqt_layer *layer, size_t index, dqt_parameter *parameter);

/* What one forward pass runs on. Arrays belong to the host and are read during the call only. */
typedef struct dqt_batch {
    uint32_t struct_size;
    uint32_t reserved;
    double divisor;          /* of the sum of losses; 0: the sum of the weights of all targets, or their number */
    size_t batch;            /* sequences, at most the tape's max_batch; 0: 1 */
    size_t length;           /* tokens of each, at most the tape's max_length; never 0 */
    const int32_t *tokens;   /* [batch][length]: for an embedding, and the LLaMA graph */
    const int32_t *targets;  /* [batch][length], -1: ignored: for losses; NULL: no loss, see dqt_head_loss */
    const float *weights;    /* [batch][length]: factor of each target's loss; may be 0 or negative; NULL: all 1 */
    const int32_t *segments; /* [batch][length]: document ids: attention stays inside a run of equal ids, and positions
                                restart with it; NULL: a sequence is one document */
} dqt_batch;

/* Float layers (linear, RMSNorm, attention, MLP, block). The layer must be one of the tape's. batch gives batch, length
 * and segments. x[batch * length][in_features] and y[batch * length][out_features]; y may be x where the widths are
 * equal. A row of x that is not finite gives a row that is not; where there is attention, the other rows of its
 * document may be like that too. A layer is used once per forward pass. Allocates nothing. DQT_E_STATE if the layer is
 * not in the tape, DQT_E_SHAPE, DQT_E_CANCELLED. Since 0.9. */
DQT_API dqt_status dqt_layer_forward(const dqt_layer *layer, dqt_tape *tape, const dqt_batch *batch, const float *x,
                                     float *y);

/* Backward of the latest forward: dy[tokens][out_features] to dx[tokens][in_features] (NULL: not wanted; may be dy
 * where the widths are equal), weight gradients are added to the tape's, or go to the updater between
 * dqt_tape_begin_update and dqt_tape_end_update. DQT_E_STATE without a forward. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_layer_backward(const dqt_layer *layer, dqt_tape *tape, const float *dy, float *dx);

/* Embedding: y[t] = W[tokens[t]], of batch->tokens. DQT_E_ARGUMENT for a token outside the vocabulary. Allocates
 * nothing. Since 0.9. */
DQT_API dqt_status dqt_embedding_forward(const dqt_layer *layer, dqt_tape *tape, const dqt_batch *batch, float *y);
DQT_API dqt_status dqt_embedding_backward(const dqt_layer *layer, dqt_tape *tape, const float *dy);

/* Head: cross-entropy in nats over the targets that are not -1, *loss = sum of weight * loss of each / divisor (0 if
 * there are no targets); token_losses[tokens] may be NULL, unweighted, ignored tokens get 0. No tokens x classes matrix
 * is made. targets NULL: *loss is 0, and only what dqt_head_backward_logits needs is made. DQT_E_NUMERIC for a loss
 * that is not finite; DQT_E_ARGUMENT where divisor is 0 and the weights do not sum to a number above 0. Allocates
 * nothing. Since 0.9. */
DQT_API dqt_status dqt_head_loss(const dqt_layer *layer, dqt_tape *tape, const dqt_batch *batch, const float *x,
                                 float *loss, float *token_losses);

/* Backward of the latest dqt_head_loss with targets, times loss_scale: dx[tokens][hidden] (NULL: not wanted). A host
 * that accumulates micro-batches of n1, n2, ... targets (or weights) gives n1 / (n1 + n2 + ...) and so on: the
 * gradients are then those of one batch. */
DQT_API dqt_status dqt_head_backward(const dqt_layer *layer, dqt_tape *tape, float loss_scale, float *dx);

/* Logits [tokens][classes] without a loss. dqt_head_backward_logits may follow. DQT_E_NUMERIC if one is not finite.
 * Allocates nothing. Since 0.9. */
DQT_API dqt_status dqt_head_logits(const dqt_layer *layer, dqt_tape *tape, const dqt_batch *batch, const float *x,
                                   float *logits);

/* A tile of logits, whose gradient a host's own loss makes. */
typedef struct dqt_logits_tile {
    uint32_t struct_size;
    uint32_t reserved;
    size_t first_token, num_tokens; /* of the pass's batch * length */
    size_t first_class, num_classes;
    size_t ld;                /* floats from a token's logits to the next one's */
    float *logits;            /* [num_tokens][ld]: in: logits; out: the loss's gradient with respect to them */
    const float *log_sum_exp; /* [num_tokens], over all classes of each token */
} dqt_logits_tile;

/* Turns a tile's logits into gradients, in place. On the thread that called backward, tile after tile. It must be pure:
 * the same tile may come twice in one backward and must then get the same gradients. Non-zero: DQT_E_CANCELLED. */
typedef int32_t (*dqt_logits_fn)(void *user_data, const dqt_logits_tile *tile);

/* The gradient of a host's own loss with respect to the logits: given whole, or made tile by tile. */
typedef struct dqt_logits_gradient {
    uint32_t struct_size;
    uint32_t reserved;
    const float *dlogits;   /* [tokens][classes], finite; NULL: callback */
    dqt_logits_fn callback; /* NULL: dlogits */
    void *user_data;
} dqt_logits_gradient;

/* Backward of the latest dqt_head_loss or dqt_head_logits from a host's own loss: dx[tokens][hidden] (NULL: not
 * wanted). DQT_E_NUMERIC for a gradient that is not finite: dlogits are refused before anything is done; a tile of
 * callback, as one that it cancels, ends backward with some of the gradients added (between dqt_tape_begin_update and
 * dqt_tape_end_update: before any weight is written), and the forward is used up. Allocates nothing. Since 0.9. */
DQT_API dqt_status dqt_head_backward_logits(const dqt_layer *layer, dqt_tape *tape, const dqt_logits_gradient *gradient,
                                            float *dx);

/* Copies the weights of a list of layers into another of the same kinds, shapes and storage formats: a snapshot for
 * generation while training goes on. The contexts may differ. DQT_E_SHAPE, DQT_E_UNSUPPORTED. Allocates nothing. Since
 * 0.9. */
DQT_API dqt_status dqt_layers_copy(dqt_layer *const *destination, dqt_layer *const *source, size_t num_layers);

/* ---- Tape ---------------------------------------------------------------------------------------------------- */

/* Inputs of the products of backward, and of those of forward whose activations are not quantised. F32: as the name
 * says. BF16: inputs rounded to bf16, sums in f32; integer codes are exact in bf16. INT8: where a layer multiplies
 * codes (a weight that layers read as codes, activation INT8), backward does too: gradients are rounded stochastically
 * to int8, for dX = dY W with a step for each token, for dW = dY^T X with one for each row of W and 1024 tokens; sums
 * are exact, and the same on every instruction set (docs/numerics.md). The random numbers are functions of the tape's
 * seed and pass. Everything else (float weights or activations, heads with activation NONE, attention) is as with BF16
 * where AUTO would be BF16, else F32. Creating a tape is refused with DQT_E_UNSUPPORTED where such a weight has scales
 * of groups, with DQT_E_SHAPE where rows * 127 * the greatest code is 2^31 or more. AUTO: the fastest of those that
 * learn equally well, which may be another in a later minor version. Now, weight by weight: as INT8 where that is not
 * refused, the instruction set in use is AVX2 or a stronger one of its line, and neither gradients nor checkpoints are
 * FP8; everything else is BF16 where it has bf16 products (AMX, or AVX-512 BF16), else F32. Threads and time have no
 * part in it. As with INT8, going on bit for bit takes the tape's seed and pass (dqt_tape_set_pass), and tapes of ranks
 * take seeds of their own. Who needs the same numbers from every version and CPU names one. INT8: since 0.9.
 */
enum { DQT_PRECISION_AUTO = 0, DQT_PRECISION_F32 = 1, DQT_PRECISION_BF16 = 2, DQT_PRECISION_INT8 = 3 };

/* Formats of gradients and residual checkpoints between steps (the paper's environments). BF16 and FP8 are written with
 * stochastic rounding; FP8 gradients carry one power-of-two scale per row. */
enum { DQT_FLOAT_F32 = 0, DQT_FLOAT_BF16 = 1, DQT_FLOAT_FP8_E4M3 = 2, DQT_FLOAT_FP8_E5M2 = 3 };

typedef struct dqt_tape_options {
    uint32_t struct_size;
    int32_t precision;           /* DQT_PRECISION_* */
    size_t max_batch;            /* 0: 1 */
    size_t max_length;           /* 0: 128 */
    int32_t no_gradient_buffers; /* 1: none: only forward, or the update inside backward (dqt_tape_begin_update,
                                  dqt_llama_backward_update). 2: one, F32, as large as the largest parameter, in which
                                  gradients come one after the other: only forward, or an update inside backward that
                                  shows each gradient to the host first (dqt_tape_on_gradient), as updaters of one part
                                  need it. Since 0.9 */
    int32_t inference;           /* 1: nothing is saved for backward: forward and loss only */
    int32_t recompute;           /* 1: blocks save only their input and run forward again in backward */
    int32_t gradient_format;     /* DQT_FLOAT_* of the gradient buffers */
    int32_t checkpoint_format;   /* DQT_FLOAT_* of the block inputs saved with recompute */
    int32_t reserved;
    uint64_t seed; /* of stochastic rounding of gradients (stored ones, and of precision INT8, which AUTO may be) and of
                    * checkpoints; any number, init says 1 */
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

/* Creates a tape for these layers, in this order (blocks bring their sublayers; list each layer once). The layers must
 * outlive it. Parameters are numbered layer after layer. Allocates. Since 0.1. */
DQT_API dqt_status dqt_tape_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                                   const dqt_tape_options *options, dqt_tape **out);
DQT_API void dqt_tape_destroy(dqt_tape *tape);

/* The options in effect: precision is never AUTO, but INT8 where AUTO took that for one weight or more (a tape with
 * others that INT8 refuses is had by AUTO only). Since 0.9. */
DQT_API dqt_status dqt_tape_get_options(const dqt_tape *tape, dqt_tape_options *options);

/* Parameters of all layers of the tape, and the one of number `index`, whose name and tensor belong to its layer.
 * DQT_E_ARGUMENT for an index out of range. Allocates nothing. Since 0.9. */
DQT_API dqt_status dqt_tape_get_num_parameters(const dqt_tape *tape, size_t *count);
DQT_API dqt_status dqt_tape_get_parameter(const dqt_tape *tape, size_t index, dqt_parameter *parameter);

/* The gradient of parameter `index` with respect to W, float[rows][cols], in place: to inspect, log or all-reduce.
 * DQT_E_STATE without gradient buffers, and where there is one for all, but inside the parameter's gradient callback;
 * DQT_E_UNSUPPORTED unless gradient_format is F32 (use get and set). Since 0.9.
 */
DQT_API dqt_status dqt_tape_gradient_data(dqt_tape *tape, size_t index, float **gradient);

/* Copies of rows [row, row + count) of a gradient as floats, whatever its format. Since 0.9. */
DQT_API dqt_status dqt_tape_get_gradient(const dqt_tape *tape, size_t index, size_t row, size_t count, float *gradient);
DQT_API dqt_status dqt_tape_set_gradient(dqt_tape *tape, size_t index, size_t row, size_t count, const float *gradient);

/* Sets all gradients to zero; backward adds to them. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_tape_zero_gradients(dqt_tape *tape);

/* Calls of backward functions so far: one per pass of a dqt_llama, one per layer and pass of a host's own network (so
 * it is no count of steps). The random numbers of low-precision gradients and checkpoints, and of precision INT8, which
 * AUTO may be, depend on it, beside the seed. Saving writes it where dqt_save_options names the tape; a host that goes
 * on with a new tape sets it. Other precisions with F32 gradients and checkpoints need nothing. Since 0.1. */
DQT_API dqt_status dqt_tape_get_pass(const dqt_tape *tape, uint64_t *passes);
DQT_API dqt_status dqt_tape_set_pass(dqt_tape *tape, uint64_t passes);

/* Called inside a backward function as soon as the gradient of a parameter is complete for this pass, so that a host
 * can start reducing it. On the thread that called backward. Non-zero ends backward with DQT_E_CANCELLED (see
 * dqt_interrupt_fn). callback NULL: none. Where a tape has one buffer (no_gradient_buffers 2) the updater takes the
 * gradient as the callback leaves it: a host reduces it in there. Since 0.9. */
typedef int32_t (*dqt_gradient_ready_fn)(void *user_data, size_t parameter_index);
DQT_API dqt_status dqt_tape_on_gradient(dqt_tape *tape, dqt_gradient_ready_fn callback, void *user_data);

/* ---- LLaMA --------------------------------------------------------------------------------------------------- */

/* Embedding, blocks, final RMSNorm and head, each reachable as a dqt_layer. */
typedef struct dqt_llama dqt_llama;

/* Tensor options of the weight matrices whose name matches a pattern ("embedding", "blocks.3.attention.q", "head"; see
 * dqt_parameter): real files mix formats from tensor to tensor. It never grows. */
typedef struct dqt_tensor_override {
    const char *pattern;        /* with * and ?, such as "blocks.*.mlp.down"; at most 79 bytes */
    dqt_tensor_options options; /* all of them, in place of the config's; a storage of 0 is TERNARY */
} dqt_tensor_override;

typedef struct dqt_llama_config {
    uint32_t struct_size;
    int32_t mlp;              /* DQT_MLP_* */
    size_t vocab_size;        /* 0: 256, bytes */
    size_t hidden_size;       /* 0: 128 */
    size_t intermediate_size; /* 0: 352 */
    size_t num_layers;        /* 0: 2 */
    size_t num_heads;         /* 0: 4 */
    size_t num_kv_heads;      /* 0: num_heads */
    float norm_eps;           /* 0: 1e-5 */
    float rope_theta;         /* 0: 10000 */
    float init_std;           /* of all weights; 0: 0.02 */
    float linear_init_std;  /* of the blocks' weights; 0: init_std. With ABSMEAN scales a larger one means a larger step
                               between codes, not other codes */
    int32_t no_sub_norms;   /* 1: plain LLaMA blocks; 0: RMSNorm before o and before down too (BitNet) */
    int32_t tie_embeddings; /* 1: the head uses the embedding's weight */
    int32_t activation;     /* DQT_ACTIVATION_* of the blocks' linears */
    int32_t head_activation; /* DQT_ACTIVATION_* of the head */
    int32_t shape_only;      /* as in dqt_layer_options */
    int32_t reserved;
    dqt_tensor_options linear;            /* blocks' weights */
    dqt_tensor_options embedding;         /* INT8 by default */
    dqt_tensor_options head;              /* INT8 by default; must equal `embedding` when tied */
    uint64_t seed;                        /* any number; init says 1 */
    const dqt_tensor_override *overrides; /* [num_overrides], copied; of several that match the last holds; NULL with 0.
                                             Each must match a weight matrix. Gains and biases stay F32. A tied head has
                                             the embedding's: one that matches `head` must say the same */
    size_t num_overrides;                 /* at most 4096 */
    size_t head_dim;                      /* of dqt_layer_options, as all that follow; 0: hidden_size / num_heads */
    int32_t attention_bias, qk_norm;
    int32_t rope_scaling; /* DQT_ROPE_* */
    float rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    size_t rope_original_context;
    size_t first_block, num_blocks; /* a partial model: of the num_layers blocks only [first_block, first_block +
                                       num_blocks), the embedding where the first one is among them, norm and head where
                                       the last one is; see dqt_llama_forward_blocks. num_blocks 0: all from first_block
                                       on. Not with tie_embeddings */
} dqt_llama_config;

DQT_API dqt_status dqt_llama_config_init(dqt_llama_config *config, size_t struct_size);

typedef struct dqt_llama_memory_info {
    uint32_t struct_size;
    uint32_t reserved;
    size_t total;                                                         /* exactly what creation allocates */
    size_t linear_bytes, embedding_bytes, head_bytes, other_bytes;        /* codes and scales by class; the rest */
    size_t linear_weights, embedding_weights, head_weights, norm_weights; /* counts; a tied head has 0,
                                                                             biases count with norms */
} dqt_llama_memory_info;

/* What dqt_llama_create would allocate. Since 0.1. */
DQT_API dqt_status dqt_llama_memory(dqt_context *ctx, const dqt_llama_config *config, dqt_llama_memory_info *memory);

/* Creates a model with normal(0, init_std) weights, counter-based from the seed, quantised to nearest by each tensor's
 * rule. DQT_E_ARGUMENT, DQT_E_SHAPE, DQT_E_UNSUPPORTED, DQT_E_MEMORY. Allocates. Since 0.1. */
DQT_API dqt_status dqt_llama_create(dqt_context *ctx, const dqt_llama_config *config, dqt_llama **out);
DQT_API void dqt_llama_destroy(dqt_llama *model);

/* The config in effect: nothing in it is 0 that has a default. Its overrides belong to the model and are valid as long
 * as it is. Since 0.1. */
DQT_API dqt_status dqt_llama_get_config(const dqt_llama *model, dqt_llama_config *config);

/* The model's layers: embedding, num_layers blocks, norm, head: num_layers + 3 of them (of a partial model those that
 * it has); for dqt_tape_create, dqt_updater_create, dqt_layers_copy. The array belongs to the model. Since 0.9. */
DQT_API dqt_status dqt_llama_get_layers(const dqt_llama *model, dqt_layer *const **layers, size_t *num_layers);

/* Forward of batch->tokens to logits[batch * length][vocab] (NULL: not wanted). dqt_llama_backward_logits may follow.
 * DQT_E_NUMERIC for logits that are not finite. Allocates nothing. Since 0.9. */
DQT_API dqt_status dqt_llama_forward(const dqt_llama *model, dqt_tape *tape, const dqt_batch *batch, float *logits);

/* Forward and cross-entropy in nats, see dqt_head_loss. Since 0.9. */
DQT_API dqt_status dqt_llama_loss(const dqt_llama *model, dqt_tape *tape, const dqt_batch *batch, float *loss,
                                  float *token_losses);

/* Backward of the latest dqt_llama_loss, times loss_scale (see dqt_head_backward); adds to the tape's gradients.
 * Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_llama_backward(const dqt_llama *model, dqt_tape *tape, float loss_scale);

/* The same from a host's own loss, after dqt_llama_loss or dqt_llama_forward; see dqt_head_backward_logits. Since 0.9.
 */
DQT_API dqt_status dqt_llama_backward_logits(const dqt_llama *model, dqt_tape *tape,
                                             const dqt_logits_gradient *gradient);

/* ---- Updater ------------------------------------------------------------------------------------------------- */

/* Optimiser x rounding rule x state precision, with its state: the only thing that writes a weight. Per weight, in f32:
 * clip factor; moments; u; target in grid units t = q - lr * (u + decay * W) / s; rounding. docs/numerics.md has it
 * all. */
typedef struct dqt_updater dqt_updater;

enum {
    DQT_OPTIMIZER_SGD = 1,       /* m = momentum * m + g; u = m */
    DQT_OPTIMIZER_ADAMW = 2,     /* bias-corrected moments, decoupled decay */
    DQT_OPTIMIZER_ADAFACTOR = 3, /* factored second moment for matrices; momentum optional */
    DQT_OPTIMIZER_MUON = 4       /* of matrices of linear layers (classes ATTENTION, MLP, LINEAR): m = 0.95 m + g, and u
                                    is g + 0.95 m with all singular values brought to about 1, times 0.2 sqrt(greater
                                    side), in some products of matrices a step. Other parameters take ADAMW. m, in
                                    momentum_state, is kept with every rounding and beta1; ECO, trained scales and
                                    updaters of one part are refused. docs/numerics.md has it. Since 0.9 */
};

enum { DQT_STATE_F32 = 0, DQT_STATE_BF16 = 1, DQT_STATE_INT8 = 2 }; /* INT8: blocks of 128, square-root companded */

enum {
    DQT_CLIP_DEFAULT = 0,       /* GLOBAL_NORM */
    DQT_CLIP_GLOBAL_NORM = 1,   /* by the norm of all gradients; needs gradient buffers */
    DQT_CLIP_PREVIOUS_NORM = 2, /* by the previous step's global norm (the first step is not clipped) */
    DQT_CLIP_TENSOR_NORM = 3,   /* each tensor by its own norm, which in fused mode is the previous step's */
    DQT_CLIP_NONE = 4
};

/* Rules for the parameters whose name matches `pattern` and whose class is `parameter_class`. A member that is 0 keeps
 * what holds so far. */
typedef struct dqt_group_options {
    uint32_t struct_size;
    int32_t parameter_class; /* DQT_CLASS_*; 0: any */
    const char *pattern;     /* with * and ?; NULL: any */
    int32_t optimizer;    /* DQT_OPTIMIZER_*; only in dqt_updater_options.groups, for it decides what state is kept */
    int32_t rounding;     /* DQT_ROUND_*; ACCUMULATE in dqt_updater_options.groups only, as it decides too */
    float lr_factor;      /* above 0 */
    float weight_decay;   /* negative: none */
    float beta1;          /* above 0 and below 1; needs a first moment */
    float rounding_noise; /* above 0, at most 1 */
    int32_t freeze;       /* 1: these parameters are not updated; -1: they are again */
    int32_t reserved;
} dqt_group_options;

DQT_API dqt_status dqt_group_options_init(dqt_group_options *options, size_t struct_size);

typedef struct dqt_updater_options {
    uint32_t struct_size;
    int32_t optimizer; /* DQT_OPTIMIZER_*; 0: ADAMW */
    int32_t rounding;  /* DQT_ROUND_* of integer storage. BF16 storage rounds stochastically (NEAREST: to nearest); F32
                          needs no rounding. ACCUMULATE: integer storage keeps no first moment, u is made of the gradient
                          itself (MUON: of its m); an accumulator takes up every step, P -= lr (u / s + decay q), then
                          q' = floor(q + (1 - beta1) P + 1/2 + noise (r - 1/2)) and P -= q' - q. P is kept in 8 bits,
                          stochastically, within +-(1/2 + noise/2) / (1 - beta1); momentum_state does not matter
                          to it. With every optimiser */
    int32_t momentum_state; /* DQT_STATE_* of the first moment (SGD's momentum) */
    int32_t variance_state; /* DQT_STATE_* of AdamW's second moment */
    float beta1;        /* SGD's momentum; 0: 0.8; negative: no first moment is kept. Of integer storage with rounding
                           ACCUMULATE: 1 - beta1 of the accumulator moves codes, all of it where beta1 is negative */
    float beta2;        /* 0: 0.95 */
    float eps;          /* 0: 1e-8 */
    float weight_decay; /* 0: none; matrices only, never gains or biases */
    int32_t clip;       /* DQT_CLIP_* */
    float clip_norm;    /* 0: 1 */
    float update_clip;  /* Adafactor without momentum, or ACCUMULATE: update divided by max(1, rms(u) / update_clip); 0:
                           1; negative: off. In fused mode rms(u) is the previous step's */
    int32_t lagged;     /* 1: Adafactor's column statistics and rms(u) are the previous step's even when not fused */
    float scale_lr; /* learning-rate factor of trained scales, relative steps; 0: 1; negative: they stay. Codes under
                       trained scales step in units of the tensor's mean scale at the first step, not the live one */
    uint64_t seed;  /* of the rounding; any number, init says 1 */
    float rounding_noise;   /* 0: 1. The stochastic rules use floor(t + 1/2 + noise * (r - 1/2)): below 1 small updates
                               are lost unless ECO or ACCUMULATE keeps the error; see docs/results.md */
    int32_t rate_corrected; /* 1: with ECO rounding of integer storage, what m holds is multiplied by the parameter's
                               last learning rate over this step's before m moves on, so that rounding errors that m has
                               taken up come back whole while the rate changes, and each gradient acts at the rate of
                               its own step; at a rate of 0 m stays. 0: m is left as it is, and under a schedule that
                               falls to 0 part of the errors is lost. Elsewhere it changes nothing. docs/numerics.md has
                               it. Since 0.9 */
    const dqt_group_options *groups; /* [num_groups], each of groups[0].struct_size; later ones win; NULL with 0 */
    size_t num_groups;
    uint64_t part, num_parts; /* state for the rows of part `part` of `num_parts` (at most 65536) alone, see
                                 dqt_updater_begin_step; 0 and 0 (or 1): for all */
} dqt_updater_options;

DQT_API dqt_status dqt_updater_options_init(dqt_updater_options *options, size_t struct_size);

typedef struct dqt_updater_memory_info {
    uint32_t struct_size;
    uint32_t reserved;
    size_t total;    /* exactly what creation allocates */
    size_t momentum; /* first moments, and the accumulators of DQT_ROUND_ACCUMULATE */
    size_t variance, scales, workspace, other;
} dqt_updater_memory_info;

/* What dqt_updater_create would allocate. Layers may be shape-only. Since 0.1. */
DQT_API dqt_status dqt_updater_memory(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                                      const dqt_updater_options *options, dqt_updater_memory_info *memory);

/* Creates an updater for the parameters of these layers, numbered as in a tape of the same list. The layers must
 * outlive it. DQT_E_UNSUPPORTED: ECO with codes for which the optimiser keeps no first moment (beta1 negative), unknown
 * combinations. Allocates. Since 0.1. */
DQT_API dqt_status dqt_updater_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                                      const dqt_updater_options *options, dqt_updater **out);
DQT_API void dqt_updater_destroy(dqt_updater *updater);

/* Adds a group; *num_matched (NULL: not wanted) is how many parameters it is of. Call between steps; it holds from the
 * next one. DQT_E_ARGUMENT (also for options NULL), DQT_E_UNSUPPORTED (an optimizer; ECO rounding or a beta1 without a
 * first moment; rounding ACCUMULATE for integer storage that has another, or the reverse). Where beta1 or
 * rounding_noise moves the limits of accumulators, these are rounded to the new grid, stochastically; what is beyond
 * its ends is lost. Since 0.1. */
DQT_API dqt_status dqt_updater_add_group(dqt_updater *updater, const dqt_group_options *options, size_t *num_matched);

/* What holds for one parameter after all groups. */
typedef struct dqt_parameter_rule {
    uint32_t struct_size;
    int32_t optimizer; /* DQT_OPTIMIZER_* */
    int32_t rounding;  /* DQT_ROUND_*, never DEFAULT */
    int32_t frozen;
    float lr_factor, weight_decay, beta1, rounding_noise; /* beta1 0: no first moment but MUON's, which is not of it */
} dqt_parameter_rule;

/* The rule of parameter `index`. Thread-safe while no step runs. Since 0.9. */
DQT_API dqt_status dqt_updater_get_rule(const dqt_updater *updater, size_t index, dqt_parameter_rule *rule);

/* One step of an updater. */
typedef struct dqt_step_options {
    uint32_t struct_size;
    float learning_rate;  /* 0 or more; the host owns the schedule */
    float gradient_scale; /* of all gradients, before norms and clipping: 1 / (sum of micro-batches), a loss scale; 0: 1
                           */
    int32_t reserved;
} dqt_step_options;

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

/* One update of every weight from the tape's gradients. The tape has the same layers. stats NULL: not wanted.
 * DQT_E_NUMERIC, and nothing is changed: a gradient that is not finite, or a learning rate at which float weights might
 * not stay so (times a group's factor above 2^76; times the weight decay above 2). DQT_E_STATE after 2^64 - 1 steps;
 * DQT_E_UNSUPPORTED for an updater of one part of several. Allocates nothing. Since 0.9. */
DQT_API dqt_status dqt_updater_step(dqt_updater *updater, dqt_tape *tape, const dqt_step_options *options,
                                    dqt_step_stats *stats);

/* What the parts of a step tell each other next: sums over tiles of 64 rows, as bytes that mean the same on machines of
 * one byte order. */
typedef struct dqt_step_sums {
    uint32_t struct_size;
    uint32_t num_parts; /* the updater's; of a partial model 3: those before it, itself, those after it */
    void *data;         /* the updater's, offsets[num_parts] bytes; NULL: the step has ended */
    const size_t
        *offsets; /* [num_parts + 1]: part k's are the bytes from offsets[k] to offsets[k + 1]; the updater's */
} dqt_step_sums;

/* The same for an updater whose options name a part, or whose model is partial (see below): for hosts that train
 * replicas of a model, in as many processes as there are parts. Each replica's updater has the state of its part's rows
 * and updates these; gradients are read in these rows alone, so a host may reduce-scatter them. What depends on all
 * rows (norms, clipping, Adafactor's statistics) is made of sums that the replicas exchange in memory that is here
 * already, by whatever the host has:
 *
 *     status = dqt_updater_begin_step(updater, tape, &options, &sums);
 *     while (status == DQT_OK && sums.data) {
 *         all_gather(sums.data, sums.offsets); // the own part's bytes go to all others, theirs come into place
 *         status = dqt_updater_continue_step(updater, tape, &sums, &stats);
 *     }
 *
 * Sums are added in the order of tiles, so the bits are those of one updater of all rows with the same gradients, for
 * any number of parts. All replicas call with the same options and make the same exchanges, which are few for SGD and
 * AdamW (norms at the beginning, statistics in the end); Adafactor has one or two more for each matrix.
 *
 * Then each sends its rows (dqt_updater_get_part) of dqt_tensor_data, with their scales where they are trained
 * (dqt_tensor_get_scales), puts the others' in place and calls dqt_tensor_touch for every tensor: now all have the bits
 * of a whole step. Until then this replica's tensors are partly old. stats are of the whole.
 *
 * begin: as dqt_updater_step, but gradients that are not finite are found when the norms have come; DQT_E_STATE if a
 * step of this updater is open. continue: DQT_E_NUMERIC, everywhere, for a gradient that is not finite: nothing was
 * changed, and the step has ended; also for data that no part can have sent: the step stays where it is, so that it can
 * go on with right ones. DQT_E_STATE if no step is open. Once continue has succeeded the first time, a step that cannot
 * go on (a replica is gone) leaves the updater between two steps: go back to a checkpoint. Until a step has ended, the
 * updater is not saved, loaded or changed (DQT_E_STATE), and the tape's gradients stay as they are. An updater of all
 * rows may step in this way too: its own bytes are all there are.
 *
 * Partial models, which together are a whole one, step in this way too, each with an updater of all rows of all of its
 * layers. Their sums are of parameters, few bytes: those of the gradients first, what became of the weights in the end,
 * with every optimiser. No weights are sent afterwards. norms, clipping, stats and bits are those of an updater of the
 * whole model. Allocate nothing. Since 0.9. */
DQT_API dqt_status dqt_updater_begin_step(dqt_updater *updater, dqt_tape *tape, const dqt_step_options *options,
                                          dqt_step_sums *sums);
DQT_API dqt_status dqt_updater_continue_step(dqt_updater *updater, dqt_tape *tape, dqt_step_sums *sums,
                                             dqt_step_stats *stats);

/* The rows [*row, *row + *count) of parameter `index` that belong to part `part` of `num_parts`: whole tiles of 64
 * rows. Of each parameter every part has as many tiles as go evenly; those that remain go to the parts in turn, so that
 * parts differ by one tile of all parameters together. *count is 0 for a part that has none. It depends on nothing but
 * the shapes of the updater's tensors, not on the part that it was created for. DQT_E_ARGUMENT. Allocates nothing.
 * Thread-safe. Since 0.9. */
DQT_API dqt_status dqt_updater_get_part(const dqt_updater *updater, size_t index, size_t part, size_t num_parts,
                                        size_t *row, size_t *count);

/* The update inside backward, for any list of layers: between begin and end, backward functions of this tape apply each
 * weight's gradient to the packed codes as it is made, in row tiles, and forget it; gradient buffers are not needed,
 * and not used. The forward may come before begin or after it. With the same options (lagged = 1 for Adafactor; clip
 * NONE or PREVIOUS_NORM) it gives the codes and the state of backward + dqt_updater_step, bit for bit.
 *
 * Each layer goes backward once between the two, or not at all: its parameters then stay as they are, and the step
 * counts all the same. A tied head goes backward before its embedding, whose backward updates the weight of both: until
 * then the head has no other forward, and its dlogits (or the function, which may be called again) stay as they are.
 *
 * begin: DQT_E_STATE if an update has begun on this tape, or on another one with this updater, and for a tape made for
 * inference; DQT_E_UNSUPPORTED for DQT_CLIP_GLOBAL_NORM, two heads tied to one embedding, and an updater of one part
 * but as below; DQT_E_NUMERIC for a learning rate that dqt_updater_step refuses. Backward functions: DQT_E_STATE for a
 * layer that has gone backward in this update.
 *
 * end: DQT_E_STATE if no update has begun, DQT_E_UNSUPPORTED for an updater of one part, whose update goes on.
 * Otherwise the update ends, fills stats and counts the step: DQT_E_NUMERIC if a gradient was not finite, or its
 * products could have overflowed: that tensor is left as it was, as a whole and with its state; the others are updated;
 * DQT_E_STATE if a tied head went backward and its embedding did not: their weight is left as it was. What was
 * cancelled or failed in between is updated as far as gradients were complete.
 *
 * In between, the updater makes no other step, and is not saved, loaded or changed: DQT_E_STATE. Destroying the tape
 * ends the update; destroying the updater drops it, as if it had not begun, but weights are updated already.
 * Allocate nothing. Since 0.9. */
DQT_API dqt_status dqt_tape_begin_update(dqt_tape *tape, dqt_updater *updater, const dqt_step_options *options);
DQT_API dqt_status dqt_tape_end_update(dqt_tape *tape, dqt_step_stats *stats);

/* The same for updaters of one part each (see dqt_updater_begin_step), so that no replica ever holds all gradients: the
 * tape has one gradient buffer (no_gradient_buffers 2), and its gradient callback reduces what is in it, at least the
 * part's rows, which are then updated; the next parameter's gradient is made in its place. This call ends the backward
 * passes in place of dqt_tape_end_update, and the parts exchange sums:
 *
 *     status = dqt_tape_begin_update(tape, updater, &options);
 *     // backward functions; inside them gradient_ready(user_data, index): dqt_tape_gradient_data, reduce in place
 *     status = dqt_tape_end_update_part(tape, &sums, &stats);
 *     while (status == DQT_OK && sums.data) {
 *         all_gather(sums.data, sums.offsets);
 *         status = dqt_updater_continue_step(updater, tape, &sums, &stats);
 *     }
 *
 * and then their rows, as after dqt_updater_continue_step. There is one exchange, and one more for each matrix of
 * Adafactor, which needs lagged = 1 (DQT_E_UNSUPPORTED from begin). The bits are those of one updater of all rows that
 * gets the reduced gradients. An updater of all rows ends here too, as by dqt_tape_end_update, with sums->data NULL; it
 * may have either kind of tape.
 *
 * A gradient that is not finite: the parameter's rows of the part that has it stay as they are, other parts' are
 * updated; the last continue is DQT_E_NUMERIC everywhere, counts the step and fills stats. A callback that ends
 * backward, and an interrupt, leave this replica's rows between two steps, as does a replica that is gone: go back to a
 * checkpoint. Destroying the tape drops the update. DQT_E_STATE if no update has begun, or, with sums as else, for a
 * tied head that went backward without its embedding. stats NULL: not wanted. Allocates nothing. Since 0.9. */
DQT_API dqt_status dqt_tape_end_update_part(dqt_tape *tape, dqt_step_sums *sums, dqt_step_stats *stats);

/* dqt_tape_begin_update, dqt_llama_backward with loss_scale 1, and dqt_tape_end_update in one call. Since 0.9. */
DQT_API dqt_status dqt_llama_backward_update(dqt_llama *model, dqt_tape *tape, dqt_updater *updater,
                                             const dqt_step_options *options, dqt_step_stats *stats);

/* Steps done, and setting them (a host that restores its own state). Since 0.1. */
DQT_API dqt_status dqt_updater_get_step(const dqt_updater *updater, uint64_t *step);
DQT_API dqt_status dqt_updater_set_step(dqt_updater *updater, uint64_t step);

/* The options in effect, without groups (see dqt_updater_get_rule). Since 0.1. */
DQT_API dqt_status dqt_updater_get_options(const dqt_updater *updater, dqt_updater_options *options);

/* Learning rate at `step` (0-based): linear warm-up over `warmup` steps to `peak`, then cosine or line to peak *
 * final_fraction at `total`. Pure functions. Since 0.1. */
DQT_API float dqt_schedule_cosine(uint64_t step, uint64_t warmup, uint64_t total, float peak, float final_fraction);
DQT_API float dqt_schedule_linear(uint64_t step, uint64_t warmup, uint64_t total, float peak, float final_fraction);

/* Warm-up, stable, decay (Hu et al. 2024, MiniCPM, arXiv 2404.06395): the same warm-up, then `peak` until (1 - decay) *
 * total, then a line to peak * final_fraction at `total`. So steps before the fall do not depend on `total`: one run
 * can be ended at several lengths. `decay` is a fraction of all steps, 0 to 1; below it is taken as 0: no fall before
 * `total`; above, or not a number, as 1. Where warm-up ends later than (1 - decay) * total, the line begins at its end:
 * 1 is dqt_schedule_linear. A pure function. Since 0.9. */
DQT_API float dqt_schedule_wsd(uint64_t step, uint64_t warmup, uint64_t total, float peak, float final_fraction,
                               float decay);

/* ---- Presets ------------------------------------------------------------------------------------------------- */

enum { DQT_PRESET_PRETRAIN = 0, DQT_PRESET_FINETUNE = 1 };

/* What a recipe is asked for. */
typedef struct dqt_preset_options {
    uint32_t struct_size;
    int32_t purpose;        /* DQT_PRESET_*: from random weights, or from trained ones */
    int32_t format;         /* DQT_FORMAT_* of the blocks' weights; 0: TERNARY, from trained weights INT4 */
    float bytes_per_weight; /* bound of codes and state of a linear weight; 0: what learns best, whatever it takes */
} dqt_preset_options;

DQT_API dqt_status dqt_preset_options_init(dqt_preset_options *options, size_t struct_size);

/* What a recipe says beside config and updater. */
typedef struct dqt_preset {
    uint32_t struct_size;
    float learning_rate;    /* peak, at the config's hidden size, see below */
    float warmup_fraction;  /* of all steps */
    float final_fraction;   /* last learning rate, of the peak (dqt_schedule_cosine) */
    float bytes_per_weight; /* that a linear weight takes */
    int32_t reserved;
    const char *name; /* static string, the row of docs/results.md */
} dqt_preset;

/* The recipe of docs/results.md for a format and a budget: sets the formats, scales and initial sizes of *config (its
 * shape and overrides stay; NULL: not wanted), all of *updater with its groups (which are static; NULL: not wanted) and
 * *preset. The learning rate is for the width that config->hidden_size says: that of the row of docs/results.md up to
 * 256 (and where it is 0, or config NULL), and 256 / hidden_size of it above. FINETUNE (INT4 and INT8: scales of rows
 * that cut nothing off): 0.115 / hidden_size (128 where that is 0, or config NULL). docs/finetune.md has what it
 * brought. config and updater have been initialised. DQT_E_UNSUPPORTED: no recipe is
 * that small. Recipes may become better in any version. Thread-safe. Since 0.9. */
DQT_API dqt_status dqt_preset_get(const dqt_preset_options *options, dqt_llama_config *config,
                                  dqt_updater_options *updater, dqt_preset *preset);

/* ---- Session ------------------------------------------------------------------------------------------------- */

/* KV cache and position of one sequence; many per model. */
typedef struct dqt_session dqt_session;

/* Formats of cached keys and values: as computed, rounded to bf16, or rounded to int8 with one scale for each token and
 * kv head. Half and about a quarter of the memory; docs/numerics.md has what it does to logits. */
enum { DQT_CACHE_F32 = 0, DQT_CACHE_BF16 = 1, DQT_CACHE_INT8 = 2 };

typedef struct dqt_session_options {
    uint32_t struct_size;
    int32_t cache_format; /* DQT_CACHE_* */
    size_t max_length;    /* tokens that the cache holds; 0: 2048 */
} dqt_session_options;

DQT_API dqt_status dqt_session_options_init(dqt_session_options *options, size_t struct_size);

typedef struct dqt_session_memory_info {
    uint32_t struct_size;
    uint32_t reserved;
    size_t total; /* exactly what creation allocates */
    size_t cache; /* keys and values, and their scales */
    size_t other; /* what up to 256 tokens need on their way through the layers */
} dqt_session_memory_info;

/* What dqt_session_create would allocate. The model may be shape-only. Since 0.9. */
DQT_API dqt_status dqt_session_memory(const dqt_llama *model, const dqt_session_options *options,
                                      dqt_session_memory_info *memory);

/* Creates a session. options NULL: defaults. Allocates. Since 0.9. */
DQT_API dqt_status dqt_session_create(const dqt_llama *model, const dqt_session_options *options, dqt_session **out);
DQT_API void dqt_session_destroy(dqt_session *session);
DQT_API dqt_status dqt_session_get_options(const dqt_session *session, dqt_session_options *options);

/* Appends tokens[count] and writes the logits after the last one, logits[vocab] (NULL: not wanted). DQT_E_STATE if the
 * cache would overflow, DQT_E_ARGUMENT for a token outside the vocabulary, DQT_E_NUMERIC for numbers that are not
 * finite, DQT_E_CANCELLED; then nothing is appended. Float products in F32; those of attention in BF16 where the cache
 * is not F32, many tokens are appended and the CPU has AMX. The bits depend on what is appended call by call, never on
 * threads. Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_session_append(dqt_session *session, const int32_t *tokens, size_t count, float *logits);

/* What one of several sessions appends. */
typedef struct dqt_session_step {
    uint32_t struct_size;
    uint32_t reserved;
    dqt_session *session;
    const int32_t *tokens; /* [count] */
    size_t count;          /* at least 1 */
    float *logits;         /* [vocab], after the last token; NULL: not wanted */
} dqt_session_step;

/* The same for several different sessions of one model, all in one pass over the weights (256 tokens at a time): the
 * bits are those of one dqt_session_append each. steps[num_steps], each of steps[0].struct_size. On failure nothing is
 * appended anywhere. Allocates nothing. Since 0.9. */
DQT_API dqt_status dqt_sessions_append(const dqt_session_step *steps, size_t num_steps);

/* Appends tokens[count] and writes log_probs[count]: the natural logarithm of each token's probability after all that
 * is before it. DQT_E_STATE for an empty session, or one that was truncated since the latest append: append a token
 * first. Else as dqt_session_append. Since 0.9. */
DQT_API dqt_status dqt_session_score(dqt_session *session, const int32_t *tokens, size_t count, float *log_probs);

/* A new session of the same model, options and content; and copying the content of one into another of the same model
 * and cache format (DQT_E_UNSUPPORTED, DQT_E_STATE where it does not fit). fork allocates, copy does not. Since 0.9. */
DQT_API dqt_status dqt_session_fork(const dqt_session *session, dqt_session **out);
DQT_API dqt_status dqt_session_copy(dqt_session *destination, const dqt_session *source);

/* Tokens in the cache, and going back to fewer (0: empty). Since 0.9. */
DQT_API dqt_status dqt_session_get_length(const dqt_session *session, size_t *length);
DQT_API dqt_status dqt_session_truncate(dqt_session *session, size_t length);

/* Draws tokens from logits. */
typedef struct dqt_sampler dqt_sampler;

typedef struct dqt_sampler_options {
    uint32_t struct_size;
    float temperature; /* 0: greedy; init says 1 */
    size_t top_k;      /* 0: off */
    float top_p;       /* of the probability that top_k left, as Hugging Face and llama.cpp do; 0: 1, off */
    int32_t reserved;
    uint64_t seed; /* any number, init says 1; the n-th draw uses the n-th number of this seed */
} dqt_sampler_options;

DQT_API dqt_status dqt_sampler_options_init(dqt_sampler_options *options, size_t struct_size);

/* Creates a sampler for logits of this many tokens, with all the memory that sampling needs. options NULL: defaults.
 * DQT_E_ARGUMENT, DQT_E_MEMORY. Allocates. Since 0.1. */
DQT_API dqt_status dqt_sampler_create(dqt_context *ctx, size_t vocab_size, const dqt_sampler_options *options,
                                      dqt_sampler **out);
DQT_API void dqt_sampler_destroy(dqt_sampler *sampler);

/* Draws a token from logits[vocab_size]. Ties go to the lower token. DQT_E_NUMERIC if one is NaN or +inf, or none is
 * finite (-inf: never drawn). Allocates nothing. Since 0.1. */
DQT_API dqt_status dqt_sampler_sample(dqt_sampler *sampler, const float *logits, int32_t *token);

/* Draws made so far, all that a sampler remembers: to go on as if nothing had happened. Since 0.9. */
DQT_API dqt_status dqt_sampler_get_draws(const dqt_sampler *sampler, uint64_t *draws);
DQT_API dqt_status dqt_sampler_set_draws(dqt_sampler *sampler, uint64_t draws);

/* ---- Files --------------------------------------------------------------------------------------------------- */

/* Host input and output. read: fills up to `size` bytes, returns how many (0: end, SIZE_MAX: error). write: 0 or an
 * error number. */
typedef size_t (*dqt_read_fn)(void *user_data, void *buffer, size_t size);
typedef int32_t (*dqt_write_fn)(void *user_data, const void *buffer, size_t size);

/* The next bytes of what dqt_updater_write_part of part `part` writes: as dqt_read_fn. Since 0.9. */
typedef size_t (*dqt_read_part_fn)(void *user_data, size_t part, void *buffer, size_t size);

/* What a checkpoint holds beside the weights. */
typedef struct dqt_save_options {
    uint32_t struct_size;
    uint32_t reserved;
    const void *host; /* bytes of the host's own; NULL with 0 */
    size_t host_size;
    const dqt_tape *tape;       /* its dqt_tape_get_pass is saved; NULL: 0 */
    dqt_read_part_fn read_part; /* with an updater of one part: where the others' rows come from, so that the file is
                                   that of one updater of all rows. NULL: the file is of this part alone. An updater
                                   of all rows does not look at it. With a partial model, the one with the embedding:
                                   where the other partial models' parameters come from, see dqt_llama_write_part; NULL:
                                   the file is of this one alone, and loads as such. Since 0.9 */
    void *part_user_data;       /* Since 0.9 */
} dqt_save_options;

DQT_API dqt_status dqt_save_options_init(dqt_save_options *options, size_t struct_size);

/* Checkpoint: config, codes, scales, optimiser options, rules and state (updater NULL: none), step, seeds and the
 * host's bytes. Little-endian, versioned, each section with a checksum: docs/checkpoint.md. options NULL: defaults. The
 * model is only read: other threads may too.
 *
 * A path is written under a temporary name in the same folder, fsynced and renamed: a reader, or the next start after a
 * crash, finds the old file or the new one. Symbolic links are followed, the mode of an existing file is kept, and what
 * is not a regular file is refused. DQT_E_IO with the system's words. Allocates a buffer of bounded size while it runs.
 * Since 0.9. */
DQT_API dqt_status dqt_llama_save(const dqt_llama *model, const dqt_updater *updater, const char *path,
                                  const dqt_save_options *options);
DQT_API dqt_status dqt_llama_write(const dqt_llama *model, const dqt_updater *updater, dqt_write_fn write,
                                   void *user_data, const dqt_save_options *options);

typedef struct dqt_load_options {
    uint32_t struct_size;
    int32_t skip_updater; /* 1: not wanted; an updater that is given stays as it is */
    int32_t skip_host;    /* 1: not wanted */
    int32_t reserved;
    uint64_t part, num_parts; /* as in dqt_updater_options: the updater that dqt_llama_load and dqt_llama_read create
                                 of a file of all rows; 0 and 0: as the file has it. An updater that is given says it
                                 itself. Since 0.9 */
    size_t first_block, num_blocks; /* as in dqt_llama_config: the partial model, with its updater, that dqt_llama_load
                                       and dqt_llama_read create of a whole model's file; 0 and 0: as the file has it.
                                       Since 0.9 */
} dqt_load_options;

DQT_API dqt_status dqt_load_options_init(dqt_load_options *options, size_t struct_size);

/* What loading gives. */
typedef struct dqt_checkpoint {
    uint32_t struct_size;
    uint32_t reserved;
    dqt_llama *model;     /* the caller destroys it; NULL from dqt_layers_load */
    dqt_updater *updater; /* the same; NULL: none in the file, or skipped */
    void *host;           /* released with dqt_host_bytes_free; NULL with 0: none, or skipped */
    size_t host_size;
    uint64_t passes; /* of the tape that was named when saving: for dqt_tape_set_pass */
} dqt_checkpoint;

/* Creates model, updater and host bytes from a checkpoint. Truncated, damaged or foreign: DQT_E_FORMAT with a sentence,
 * nothing is created and *out holds NULLs. DQT_E_UNSUPPORTED: options.part and num_parts are not those of a file that
 * an updater of one part has written alone. What a stream claims is allocated as its data arrive: about 6 times what
 * has come, at most; scratch of an updater, which with MUON is more than that, once all has come. Since 0.9. */
DQT_API dqt_status dqt_llama_load(dqt_context *ctx, const char *path, const dqt_load_options *options,
                                  dqt_checkpoint *out);
DQT_API dqt_status dqt_llama_read(dqt_context *ctx, dqt_read_fn read, void *user_data, const dqt_load_options *options,
                                  dqt_checkpoint *out);
DQT_API void dqt_host_bytes_free(dqt_context *ctx, void *host, size_t host_size);

/* The same for any list of layers, such as a host's own network: weights of all of them (an updater of the same list
 * NULL: none), into the same kind of file. */
DQT_API dqt_status dqt_layers_save(dqt_layer *const *layers, size_t num_layers, const dqt_updater *updater,
                                   const char *path, const dqt_save_options *options);
DQT_API dqt_status dqt_layers_write(dqt_layer *const *layers, size_t num_layers, const dqt_updater *updater,
                                    dqt_write_fn write, void *user_data, const dqt_save_options *options);

/* Reads such a file, or a model's, into existing layers of the same parameters (names, shapes, formats) and an updater
 * of the same options (NULL: its state is skipped; rate_corrected may be 1 where the file has 0). out (NULL: not
 * wanted) gets host bytes and passes. A network that goes on has the bits of one that never stopped. On failure nothing
 * is changed; hence weights and state are in memory twice while it runs. DQT_E_FORMAT, DQT_E_SHAPE (other parameters),
 * DQT_E_STATE (the file has no updater), DQT_E_UNSUPPORTED (another optimiser), DQT_E_IO, DQT_E_MEMORY. An updater of
 * one part takes its rows out of a file of all; what an updater of one part has written goes into the same part only.
 * Since 0.9. */
DQT_API dqt_status dqt_layers_load(dqt_layer *const *layers, size_t num_layers, dqt_updater *updater, const char *path,
                                   const dqt_load_options *options, dqt_checkpoint *out);
DQT_API dqt_status dqt_layers_read(dqt_layer *const *layers, size_t num_layers, dqt_updater *updater, dqt_read_fn read,
                                   void *user_data, const dqt_load_options *options, dqt_checkpoint *out);

/* An updater's rules and state alone: for hosts that keep the weights themselves. Reading needs an updater of the same
 * options and parameters; on failure it is unchanged. Since 0.9. */
DQT_API dqt_status dqt_updater_write(const dqt_updater *updater, dqt_write_fn write, void *user_data);
DQT_API dqt_status dqt_updater_read(dqt_updater *updater, dqt_read_fn read, void *user_data);

/* One file of replicas with an updater of one part each, which any number of parts reads: one of them saves with
 * dqt_save_options.read_part, while each of the others calls this, with a `write` that gives the bytes to it. The file
 * has the bytes that one updater of all rows would have given, and nobody holds more than one part's state and a buffer
 * of bounded size.
 *
 * Between two steps, when all rows of the weights have been gathered. The saving replica reads the parts' heads first,
 * before it writes anything, then pieces of at most 65,540 bytes as they come into the file. For each write of a part
 * there is one read of that part, of the same size and in the same order, as long as reads are not cut short: a host
 * may send each write as one message and receive it where it is read.
 *
 * A replica that fails writes nothing more: the host tells the saving one, whose read_part then returns SIZE_MAX (or
 * 0); when saving fails, the host tells the others, whose write then returns an error number. A path is then as it was.
 * Saving: DQT_E_FORMAT for what is not a part of the same step, parameters, options, rules and statistics, for bytes
 * that were damaged on the way, and for parts that end early; DQT_E_IO where read_part failed.
 *
 * This: DQT_E_UNSUPPORTED for an updater of all rows; DQT_E_NUMERIC, before anything is written, for state that could
 * not be read; DQT_E_ARGUMENT, DQT_E_IO, DQT_E_STATE, DQT_E_MEMORY, DQT_E_CANCELLED. Allocates a buffer of bounded size
 * while it runs. Since 0.9. */
DQT_API dqt_status dqt_updater_write_part(const dqt_updater *updater, dqt_write_fn write, void *user_data);

/* One file of partial models, with the bytes that the whole model in one process would have given: the one with the
 * embedding saves (dqt_llama_save, dqt_llama_write) with dqt_save_options.read_part, while each of the others calls
 * this, with a `write` that gives the bytes to it. For read_part they are part 1, 2, ... in the order of their blocks.
 * All have an updater, or none (NULL). Heads come first, then of one partial model after the other the weights, then
 * rules, then state; what dqt_updater_write_part says of messages, their sizes, failures and memory holds here too. The
 * file has the config as of the whole; pass and host bytes are those of the one that saves.
 *
 * Saving: DQT_E_FORMAT for partial models that do not make up the whole, in order, or are of another step, config or
 * updater. This: DQT_E_UNSUPPORTED for a whole model; DQT_E_NUMERIC, before anything is written; DQT_E_ARGUMENT,
 * DQT_E_IO, DQT_E_STATE, DQT_E_MEMORY, DQT_E_CANCELLED. Allocates a buffer of bounded size while it runs. Since 0.9. */
DQT_API dqt_status dqt_llama_write_part(const dqt_llama *model, const dqt_updater *updater, dqt_write_fn write,
                                        void *user_data);

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

/* Types of values, with GGUF's own numbers. Since 0.9. */
enum {
    DQT_GGUF_VALUE_UINT32 = 4,
    DQT_GGUF_VALUE_INT32 = 5,
    DQT_GGUF_VALUE_FLOAT32 = 6,
    DQT_GGUF_VALUE_BOOL = 7,
    DQT_GGUF_VALUE_STRING = 8,
    DQT_GGUF_VALUE_STRINGS = 9, /* an array of strings */
    DQT_GGUF_VALUE_UINT64 = 10,
    DQT_GGUF_VALUE_INT64 = 11,
    DQT_GGUF_VALUE_FLOAT64 = 12
};

/* A key of the host's own and its value, of which only the member of its type is read. Since 0.9. */
typedef struct dqt_gguf_key {
    uint32_t struct_size;
    int32_t value_type;       /* DQT_GGUF_VALUE_* */
    int64_t integer;          /* of UINT32, INT32, UINT64 (up to INT64_MAX), INT64, and of BOOL 0 or 1 */
    double number;            /* of FLOAT32 and FLOAT64; finite */
    const char *key;          /* "general.name"; 1 to 126 bytes */
    const char *text;         /* of STRING, UTF-8 */
    const char *const *texts; /* [num_texts], of STRINGS, UTF-8; NULL with 0 */
    size_t num_texts;
} dqt_gguf_key;

typedef struct dqt_gguf_options {
    uint32_t struct_size;
    int32_t linear_type;    /* DQT_GGUF_* of the blocks' weights; a tensor whose rows are not whole blocks (256 weights
                               for TQ, 32 for Q) goes out as F16. AUTO: the first that holds the codes and the groups'
                               scales bit for bit */
    int32_t embedding_type; /* AUTO, F32, F16 or Q8_0; of the embedding and an untied head */
    int32_t bos_token, eos_token, unknown_token; /* default 0; -1: the file names none */
    int32_t add_bos;                             /* 1: readers put bos_token before a text; default 0 */
    int32_t add_space_prefix;                    /* 1: readers put a space before a text; default 0 */
    size_t context_length;                       /* 0: the source's, or where there is none 2048 */
    const char *const *tokens; /* [num_tokens], UTF-8, in the notation of a "llama" tokenizer, or with merges of
                                  byte-level BPE ("gpt2"). With no tokenizer below either, NULL: the 256 bytes */
    const float *scores;       /* [num_tokens]; NULL: zeros. Not with merges */
    const int32_t *types; /* [num_tokens], 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; NULL: 1 */
    size_t num_tokens;    /* the vocabulary's size, or 0 with tokens NULL */
    const char *source;   /* path of a GGUF file whose keys go out too, tokenizer, chat template, names and all, but for
                             those that say what the weights are, which are the model's own. Then what else is said of
                             tokens here has no effect, and tokens and tokenizers are NULL. NULL: none */
    const dqt_gguf_key *keys;   /* [num_keys] of the host's own, behind all others; each replaces the source's of the
                                   same name. Refused are keys that say what the model or the options say, among them
                                   the tokenizer's where there is no source. NULL with 0. Since 0.9 */
    size_t num_keys;            /* Since 0.9 */
    const char *const *merges;  /* [num_merges] of tokens that are byte-level BPE, the first one first: "left right",
                                   two texts with a space between them. NULL with 0: none. Since 0.9 */
    size_t num_merges;          /* Since 0.9 */
    const char *pre_tokenizer;  /* llama.cpp's name of how a text is cut before merges ("gpt-2", "smollm", "llama-bpe",
                                   "qwen2", or another that readers know): must be set with merges. With a tokenizer
                                   below NULL means what that says, and a name that its pre-tokenizer, normaliser and
                                   ignore_merges are not looked at. Since 0.9 */
    const char *tokenizer;      /* path of a tokenizer.json (Hugging Face's `tokenizers`) of byte-level BPE: vocabulary,
                                   merges, added tokens (special ones as control, others as user-defined) and the
                                   pre-tokenizer's name go out. Numbers of the model's vocabulary that it does not use
                                   become "[PAD7]", unused. bos_token, eos_token, unknown_token and add_bos are the
                                   host's to say. NULL: none. Since 0.9 */
    const void *tokenizer_json; /* the same from memory, [tokenizer_json_size]; NULL with 0: none. Since 0.9 */
    size_t tokenizer_json_size; /* Since 0.9 */
} dqt_gguf_options;

DQT_API dqt_status dqt_gguf_options_init(dqt_gguf_options *options, size_t struct_size);

/* Writes the model as a GGUF file (version 3) that llama.cpp and its clients run; options NULL: defaults. A model with
 * sub-norms becomes architecture `bitnet`, with attention_bias `qwen2`, with qk_norm `qwen3`, else `llama`. What the
 * layers read is written: the compute codes. In bitnet files one scale per tensor is kept exactly, as a tensor of its
 * own; other scales become the blocks' fp16 scales. DQT_E_UNSUPPORTED, with the reason, for what a file cannot express:
 * sub-norms without tied embeddings, squared ReLU, two of these architectures in one, a head_dim of `bitnet` or
 * `qwen2`, DQT_ROPE_LLAMA3 but in `llama`, a type too narrow for the codes, a scale that fp16 cannot hold, a tokenizer
 * that is no byte-level BPE. DQT_E_FORMAT: a damaged source or tokenizer. Then nothing is written. Readers
 * quantise activations in blocks where libdqt does so per token, so logits agree closely, not exactly. Paths are
 * written as in dqt_llama_save. DQT_E_ARGUMENT, DQT_E_NUMERIC, DQT_E_IO, DQT_E_STATE, DQT_E_MEMORY. Allocates a buffer
 * of bounded size while it runs. Since 0.1. */
DQT_API dqt_status dqt_llama_export_gguf(const dqt_llama *model, const char *path, const dqt_gguf_options *options);
DQT_API dqt_status dqt_llama_write_gguf(const dqt_llama *model, dqt_write_fn write, void *user_data,
                                        const dqt_gguf_options *options);

enum {
    DQT_SAFETENSORS_F32 = 0,
    DQT_SAFETENSORS_BF16 = 1, /* gains and biases stay F32 */
    DQT_SAFETENSORS_CODES = 2 /* the packed storage: U8 [rows][row_bytes], and scales, NAME_scale F32 [num_scales], or
                                 F16 where they are fp16 */
};

typedef struct dqt_safetensors_options {
    uint32_t struct_size;
    int32_t dtype;  /* DQT_SAFETENSORS_*; default F32 */
    int32_t stored; /* 0 (default): the weights that layers read (compute format); 1: those that the updater writes
                       (storage format). CODES are always the latter */
    int32_t context_length; /* of dqt_llama_export_folder: max_position_embeddings; 0: 2048 */
} dqt_safetensors_options;

DQT_API dqt_status dqt_safetensors_options_init(dqt_safetensors_options *options, size_t struct_size);

/* Writes the weights as a safetensors file with the names of Hugging Face's LlamaForCausalLM
 * ("model.layers.0.self_attn.q_proj.weight"), sub-norms as self_attn.inner_attn_ln and mlp.ffn_layernorm. A tied head
 * is not listed. options NULL: defaults. Paths are written as in dqt_llama_save. DQT_E_ARGUMENT, DQT_E_NUMERIC (a
 * weight that is not finite), DQT_E_IO, DQT_E_STATE, DQT_E_MEMORY. Allocates a buffer of bounded size while it runs.
 * Since 0.1. */
DQT_API dqt_status dqt_llama_export_safetensors(const dqt_llama *model, const char *path,
                                                const dqt_safetensors_options *options);
DQT_API dqt_status dqt_llama_write_safetensors(const dqt_llama *model, dqt_write_fn write, void *user_data,
                                               const dqt_safetensors_options *options);

/* Writes config.json and model.safetensors into a folder that exists, so that transformers loads it: as
 * LlamaForCausalLM, with attention_bias as Qwen2ForCausalLM, with qk_norm as Qwen3ForCausalLM, with sub-norms as
 * BitNetForCausalLM. Activations are not quantised there. options NULL: defaults; CODES: DQT_E_ARGUMENT.
 * DQT_E_UNSUPPORTED: a squared ReLU without a gate, or two of these architectures in one. Both files are written as in
 * dqt_llama_save, and the same errors come. The tokenizer's files are the host's. Since 0.9. */
DQT_API dqt_status dqt_llama_export_folder(const dqt_llama *model, const char *folder,
                                           const dqt_safetensors_options *options);

typedef struct dqt_import_options {
    uint32_t struct_size;
    int32_t rounding; /* of what is quantised anew: DQT_ROUND_STOCHASTIC or NEAREST; 0: NEAREST */
    uint64_t seed;    /* of stochastic rounding */
} dqt_import_options;

DQT_API dqt_status dqt_import_options_init(dqt_import_options *options, size_t struct_size);

/* Reads weights with such names, F32, BF16, F16 or CODES, into a model of the same shape; an updater's state is left
 * alone. Where all weights of a tensor (of each row or group, with AXIS_ROW or GROUP) are integers of the storage
 * format times one scale, rounded to the file's type, exactly these codes and the coarsest such scale are taken: F32
 * files of this library come back bit for bit, unless every code of a tensor has a common factor. (BF16 and F16 files:
 * codes of up to 4 bits; 8 bits are more than their numbers tell apart.) Otherwise the tensor is quantised by its own
 * rule (in a model that was created with AUTO, and not loaded: as DQT_SCALE_AUTO says) with `rounding`, STOCHASTIC
 * (seeded) or NEAREST. The context's log gets, at level INFO, each such tensor's relative error and how many weights
 * lie beyond its codes, and a WARNING where what layers read loses more than twice as much as normally distributed
 * weights would. Names that the model does not have, or lacks, and a head that is not the embedding where the model
 * ties them: DQT_E_FORMAT; other shapes: DQT_E_SHAPE; a file that is damaged, hostile or not finite: DQT_E_FORMAT. Then
 * the model is unchanged. DQT_E_ARGUMENT, DQT_E_IO, DQT_E_STATE, DQT_E_MEMORY. Allocates the model's weights a second
 * time and the largest of them as floats while it runs. Since 0.1. */
DQT_API dqt_status dqt_llama_import_safetensors(dqt_llama *model, const char *path, const dqt_import_options *options);

/* How a model of another program is opened. */
typedef struct dqt_open_options {
    uint32_t struct_size;
    int32_t activation; /* DQT_ACTIVATION_* of the blocks' linears; 0: as the model was trained, INT8 for BitNet, else
                           NONE. The head's is NONE */
    int32_t rounding;   /* of what is quantised: DQT_ROUND_STOCHASTIC or NEAREST; 0: NEAREST */
    int32_t reserved;
    uint64_t seed;     /* of stochastic rounding */
    size_t max_length; /* tokens of the longest sequence that the host will run; 0: what the file says of its model. A
                          sliding window of attention that is shorter than that is refused */
    dqt_tensor_options linear, embedding, head; /* of the blocks' weights, the embedding and an untied head. A storage
                                                   of 0 (and then the rest is not read): tensor by tensor what holds the
                                                   file's weights exactly: see docs/open.md. DQT_SCALE_AUTO means what
                                                   it does for import, and that MSE is weighed: see
                                                   dqt_llama_open */
} dqt_open_options;

DQT_API dqt_status dqt_open_options_init(dqt_open_options *options, size_t struct_size);

/* Creates a model from a Hugging Face folder (config.json; model.safetensors, or the files that
 * model.safetensors.index.json names; F32, BF16, F16, and BitNet's packed U8) or a GGUF file (versions 2 and 3; F32,
 * F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, TQ1_0, TQ2_0). docs/open.md lists the architectures. Weights
 * are read tensor by tensor: beside the model there is never more than the largest tensor as floats.
 * Where options.linear has scales of groups and DQT_SCALE_AUTO, what the blocks' weights lose is weighed: the scales
 * are those of the least sum of squared errors, each times the mean square of the activations that the weight's column
 * meets, and 3 % of the tensor's mean of those. They are those of 64 tokens that are drawn from the vocabulary, always
 * the same ones, in a forward of the float weights, a block at a time, so that a block as floats is in memory too. It
 * runs in plain C on the context's threads: codes and scales depend neither on their number nor on the instruction set.
 * What the file has as codes of the storage format stays as it is. DQT_SCALE_MSE weighs nothing. options NULL:
 * defaults. DQT_E_UNSUPPORTED names the key and the value that this library does not do; DQT_E_FORMAT: damaged, hostile
 * or incomplete files; DQT_E_SHAPE: tensors of other shapes than the config says; DQT_E_ARGUMENT, DQT_E_IO,
 * DQT_E_MEMORY, DQT_E_CANCELLED. Allocates. Since 0.9. */
DQT_API dqt_status dqt_llama_open(dqt_context *ctx, const char *path, const dqt_open_options *options, dqt_llama **out);

/* ---- Experimental -------------------------------------------------------------------------------------------- */

#ifdef DQT_EXPERIMENTAL

/* Forward and backward of all that a partial model has, for hosts that pipeline blocks over machines: one pass of each
 * part, the blocks in ascending order forward and in descending order backward, is dqt_llama_loss and
 * dqt_llama_backward of the whole model, with the same bits. A tape of all the model's layers; of several passes
 * (micro-batches) only the latest forward can go backward: a host that has more of them under way keeps their x, and
 * runs forward again. Whole models go too.
 *
 * forward: x[batch * length][hidden] is what the part before has left in its own, and gets what the part behind wants;
 * the first part, with the embedding, reads batch->tokens instead, and the last one, with the head, makes *loss and
 * token_losses as dqt_head_loss does, and leaves nothing of use in x. Others do not look at loss and token_losses.
 * backward: dx is the gradient that the part behind has left in its own, and gets that for the part before; the last
 * one does not read it, and takes loss_scale as dqt_llama_backward does, which others do not look at. The tape counts
 * one pass (dqt_tape_get_pass); where numbers are drawn by it, a host sets it before each forward to what one process
 * would have. DQT_E_STATE, DQT_E_SHAPE, DQT_E_ARGUMENT, DQT_E_NUMERIC, DQT_E_CANCELLED. Allocate nothing. */
DQT_API dqt_status dqt_llama_forward_blocks(const dqt_llama *model, dqt_tape *tape, const dqt_batch *batch, float *x,
                                            float *loss, float *token_losses);
DQT_API dqt_status dqt_llama_backward_blocks(const dqt_llama *model, dqt_tape *tape, float loss_scale, float *dx);

#endif /* DQT_EXPERIMENTAL */

#ifdef __cplusplus
} /* extern "C" */

/* A struct of zeros with its size set. */
template <class T> inline T dqt_zero() {
    T t = T();
    t.struct_size = static_cast<uint32_t>(sizeof(T));
    return t;
}
#define DQT_INIT(type) dqt_zero<type>()
#else
#define DQT_INIT(type)                                                                                                 \
    { .struct_size = (uint32_t)sizeof(type) }
#endif

#endif /* DQT_H */
