/* dqt_tape: what forward saves for backward, gradients, and scratch.
 *
 * Memory of a tape (one block, see tape_layout in tape.c; the workspace is a second one):
 *
 *   | dqt_tape | parameters | gradient list | slots | what kinds keep in their slots |
 *   | tables and saved activations ... | overlay | temporaries | stream | gradients |
 *
 * Every layer, and every sublayer of a block, has a slot: the buffers that its forward fills and its backward reads.
 * Most slots' buffers are their own. Those that need not survive until backward lie in the overlay, one range of memory
 * that all of them use in turn, as large as the largest needs: with `inference` every slot's, with `recompute` those of
 * the sublayers, each block's in turn, for backward fills them again. */
#ifndef DQT_LAYER_TAPE_H
#define DQT_LAYER_TAPE_H

#include "layer/layer.h"
#include "ops/activations.h"
#include "ops/attention.h"
#include "ops/kv_cache.h"
#include "optim/updater.h"

struct slot {
    dqt_layer *layer;
    bool is_sublayer;
    size_t parameter[MAX_WEIGHTS];  /* index in the tape of layer->weight[i] */
    size_t batch, length;           /* of the latest forward; length 0: none that backward could use */
    int32_t *run_start;             /* [max_tokens + 1], of kinds that mix tokens; a block's is its sublayers' too */
    bool deferred;                  /* of a tied head in an update: its weight's gradient waits for the embedding's */
    uint64_t deferred_pass;         /* the tape's when it went backward */
    struct attention_runs runs;     /* of the latest forward; start is NULL, or run_start */
    struct activation_buffer input; /* [max_tokens][in]: what enters the layer's first products */
    void *saved;                    /* the kind's own struct, of kind->saved_bytes */
};

struct tape_parameter {
    const char *name;
    int parameter_class;
    dqt_tensor *tensor;
    bool integer_products;    /* those of backward: precision INT8, or AUTO that took it for this parameter */
    struct gradient gradient; /* data NULL without gradient buffers */
};

/* A pass of sessions (model/session.c): its tokens are of different sequences, whose earlier keys and values are
 * cached. */
struct cached_pass {
    struct cached_tokens tokens;
    size_t layer;       /* of the caches: that of the block that runs */
    size_t gemv_tokens; /* as gemm_forward wants it */
};

/* Sees what enters the product of a weight, before it. */
struct input_watch {
    void (*see)(void *arg, const dqt_tensor *weight, const struct activations *x);
    void *arg;
};

struct dqt_tape {
    dqt_context *ctx;
    dqt_tape_options options;
    int precision;                /* of float products, resolved: F32 or BF16 */
    size_t max_tokens, positions; /* positions >= max_length: of the rotation tables and of a session's cache */
    size_t num_layers, num_slots, num_parameters;
    size_t first_parameter, first_slot; /* numbers of those at index 0 in random numbers: not 0 in a partial model */
    struct slot *slots;
    struct tape_parameter *parameters;
    const struct gradient **gradient_list; /* of the parameters, for the updater */
    struct arena temporaries;              /* taken and released within one call */
    float *stream;          /* [max_tokens][hidden] of the LLaMA graph; NULL unless the list begins with tokens */
    float *stream_gradient; /* the same, of backward */
    struct workspace workspace;
    size_t bytes;  /* of the block this struct begins */
    uint64_t pass; /* backward passes, for the random numbers of stored gradients */
    dqt_gradient_ready_fn ready;
    void *ready_user_data;
    size_t shown;                     /* of one buffer: the parameter whose callback runs; else num_parameters */
    dqt_updater *fused;               /* from tape_begin_update to tape_end_update, unless it is destroyed before */
    dqt_status status;                /* of the call that runs; once it is not DQT_OK nothing more is done */
    const struct cached_pass *cached; /* of sessions; else NULL */
    const struct input_watch *watch;  /* of forward; NULL: nobody's */
};

dqt_status tape_check(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o);
/* positions: at least o->max_length. */
dqt_status tape_memory(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                       size_t positions, dqt_tape_memory_info *out);
dqt_status tape_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                       size_t positions, dqt_tape **out);
void tape_destroy(dqt_tape *tape);
/* DQT_PRECISION_*, never AUTO: INT8 where AUTO took it for one weight or more. */
int tape_precision(const dqt_tape *tape);

/* NULL if the layer is not in the tape. The slots of sublayers follow their layer's. */
struct slot *tape_slot(const dqt_tape *tape, const dqt_layer *layer);

/* Forward saves what backward needs. */
static inline bool tape_saves(const dqt_tape *tape) {
    return !tape->options.inference;
}

/* One gradient buffer, in which the gradients of an update come one after the other. */
enum { ONE_GRADIENT_BUFFER = 2 };
static inline bool tape_has_one_buffer(const dqt_tape *tape) {
    return tape->options.no_gradient_buffers == ONE_GRADIENT_BUFFER;
}

/* The call that runs ends early, with this status, which is not DQT_OK. Returns false. */
bool tape_stop(dqt_tape *tape, dqt_status status);
static inline bool tape_stopped(const dqt_tape *tape) {
    return tape->status != DQT_OK;
}
/* Asks the host, unless the tape is stopped already; true: stopped. */
bool tape_interrupted(dqt_tape *tape);
/* The status of the call that ends; the next one begins with DQT_OK. */
dqt_status tape_finish(dqt_tape *tape);

/* How many of the tokens that run take, in float products, the kernels for few tokens. */
static inline size_t tape_gemv_tokens(const dqt_tape *tape, size_t tokens) {
    DQT_ASSERT(!tape->cached || tape->cached->tokens.count == tokens);
    return tape->cached ? tape->cached->gemv_tokens : gemm_gemv_tokens(tape->ctx, tokens);
}

/* Buffers of a slot: [max_tokens][cols] floats, and what enters products: [max_tokens][cols] codes or floats, as the
 * layer's activations are. For kind->layout. */
float *layout_rows(const dqt_tape *tape, size_t cols, struct arena *a);
struct activation_buffer layout_input(const dqt_tape *tape, const dqt_layer *layer, size_t cols, struct arena *a);
/* Scratch of the products of a weight, of which so many rows are multiplied at a time; and of the products, and of the
 * gains, of all weights of a layer. For kind->scratch. */
void weight_scratch(const dqt_tape *tape, const dqt_layer *layer, int weight, size_t rows, struct scratch_need *need);
void layer_scratch(const dqt_tape *tape, const dqt_layer *layer, struct scratch_need *need);

/* float[rows][cols] until tape_release(tape, mark); NULL while temporaries are counted (layer/kind.h). */
float *tape_take(dqt_tape *tape, size_t rows, size_t cols);
static inline size_t tape_mark(const dqt_tape *tape) {
    return tape->temporaries.used;
}
static inline void tape_release(dqt_tape *tape, size_t mark) {
    DQT_ASSERT(mark <= tape->temporaries.used);
    tape->temporaries.used = mark;
}

/* Saves x[tokens][cols] into b (quantised if it has codes) and returns it. */
struct activations save_input(const dqt_tape *tape, const struct activation_buffer *b, const float *x, size_t tokens);

/* The update inside backward: from begin to end gradients go to the updater, which nobody holds. DQT_E_UNSUPPORTED for
 * two heads that are tied to one embedding; else as updater_begin. */
dqt_status tape_begin_update(dqt_tape *tape, dqt_updater *updater, float learning_rate, float gradient_scale);
/* As updater_end; DQT_E_STATE where a tied head's embedding did not go backward: their weight stayed as it was. */
dqt_status tape_end_update(dqt_tape *tape, dqt_step_stats *stats);
/* The same of an updater of one part: its sums are to be exchanged next. */
dqt_status tape_end_update_part(dqt_tape *tape);
/* DQT_E_STATE: a parameter of the slot's layer, or of its sublayers, has had its gradient in this update. */
dqt_status tape_check_update(const dqt_tape *tape, const struct slot *slot);

/* With `fused`: leaves the parameter as it is, whole, unless its gradient, the sum over tokens of dy[t][0 .. rows)
 * times x[t] (NULL: 1), is proved finite. Before its first rows are added. Not with one buffer: there the updater sees
 * the gradient itself. */
void tape_check_gradient(const dqt_tape *tape, size_t parameter, const float *dy, size_t ld_dy, size_t tokens,
                         size_t rows, const struct activations *x);
/* dx (= or +=) dy W of rows [row, row + rows) of a weight, from whose product with x dy comes: at the tape's precision,
 * in integers where both factors of the product were. row is a multiple of GEMM_TILE_ROWS. */
void tape_input_gradient(const dqt_tape *tape, const struct slot *slot, int weight, size_t row, const float *dy,
                         size_t ld_dy, size_t rows, const struct activations *x, bool accumulate, float *dx);
/* The tiles of the weight gradient of a parameter, in the same way, of the backward pass of this number. */
void tape_weight_tiles(const dqt_tape *tape, size_t parameter, uint64_t pass, size_t row, const float *dy, size_t ld_dy,
                       size_t rows, const struct activations *x, tile_fn consume, void *arg);
/* Weight gradient of rows [row, row + rows) of a parameter: into its buffer, or with `fused`, where it has been
 * checked, into the updater, unless the tape has one buffer. row is a multiple of GEMM_TILE_ROWS. */
void tape_weight_gradient(dqt_tape *tape, size_t parameter, size_t row, const float *dy, size_t ld_dy, size_t rows,
                          const struct activations *x);
/* The same for a gradient that is there already, float[rows][ld], such as a gain's. */
void tape_add_gradient(dqt_tape *tape, size_t parameter, size_t row, size_t rows, const float *gradient, size_t ld,
                       int lane);
/* Around the gradients of a parameter; not of a stopped tape. */
void tape_begin_parameter(dqt_tape *tape, size_t parameter);
void tape_end_parameter(dqt_tape *tape, size_t parameter);

#endif
