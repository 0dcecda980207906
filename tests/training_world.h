/* Models in training, and snapshots of all that training leaves: losses, codes, scales, the updater's states and its
 * norms. Sizes make every product, norm and update more than one item of work, with ends that fill no tile. */
#ifndef TRAINING_WORLD_H
#define TRAINING_WORLD_H

#include "calls.h"
#include "isa_contexts.h"
#include "optim/updater.h"

enum { VOCAB = 150, BATCH = 2, LENGTH = 25, TOKENS = BATCH * LENGTH };

static inline dqt_context *context(int isa, int threading, int threads, dqt_parallel_for_fn parallel_for) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.threading = threading;
    o.num_threads = threads;
    o.parallel_for = parallel_for;
    if (dqt_context_create(&o, &ctx) != DQT_OK) return NULL;
    share_all_work(ctx);
    if (isa == DQT_ISA_AUTO || dqt_context_isa(ctx) == isa) return ctx;
    dqt_context_destroy(ctx);
    return NULL;
}

/* Neither the plainest instruction set nor the best: those in between are tested less, for time. */
static inline bool between(int isa) {
    dqt_context *ctx = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
    const int best = dqt_context_isa(ctx);
    dqt_context_destroy(ctx);
    return isa != DQT_ISA_SCALAR && isa != best;
}

/* ---- A model in training ------------------------------------------------------------------------------------- */

struct setup {
    const char *name;
    int linear, compute, axis, train_scale, tied, mlp; /* model; linear: storage */
    int parts; /* 1: what attention of other architectures has: a head size of its own, biases, norms of heads */
    int recompute, checkpoint, gradient, precision;            /* tape; INT8: with an int8 head */
    int optimizer, rounding, momentum, variance, clip, lagged; /* updater */
    int rate_corrected;                                        /* then the rate falls from step to step */
    float beta1, learning_rate;
};

static const struct setup adam = {.name = "ternary AdamW",
                                  .linear = DQT_FORMAT_TERNARY,
                                  .optimizer = DQT_OPTIMIZER_ADAMW,
                                  .clip = DQT_CLIP_NONE,
                                  .beta1 = 0.9f,
                                  .learning_rate = 4e-3f};

static const struct setup fused_setups[] = {
    {.name = "ternary AdamW",
     .linear = DQT_FORMAT_TERNARY,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .clip = DQT_CLIP_NONE,
     .beta1 = 0.9f,
     .learning_rate = 4e-3f},
    {.name = "ternary AdamW ECO, previous norm",
     .linear = DQT_FORMAT_TERNARY,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .momentum = DQT_STATE_INT8,
     .variance = DQT_STATE_BF16,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.8f,
     .learning_rate = 4e-3f},
    {.name = "int8 Adafactor, no momentum",
     .linear = DQT_FORMAT_INT8,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .lagged = 1,
     .clip = DQT_CLIP_NONE,
     .beta1 = 0.0f,
     .learning_rate = 2e-3f},
    {.name = "ternary Adafactor ECO, trained scales, previous norm",
     .linear = DQT_FORMAT_TERNARY,
     .axis = DQT_AXIS_ROW,
     .train_scale = 1,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .momentum = DQT_STATE_INT8,
     .lagged = 1,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.8f,
     .learning_rate = 4e-3f},
    {.name = "ternary Adafactor ECO, rates corrected",
     .linear = DQT_FORMAT_TERNARY,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .momentum = DQT_STATE_INT8,
     .lagged = 1,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .rate_corrected = 1,
     .beta1 = 0.8f,
     .learning_rate = 4e-3f},
    {.name = "ternary Adafactor, accumulators, trained scales, previous norm",
     .linear = DQT_FORMAT_TERNARY,
     .axis = DQT_AXIS_ROW,
     .train_scale = 1,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .rounding = DQT_ROUND_ACCUMULATE,
     .lagged = 1,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.6f,
     .learning_rate = 4e-3f},
    {.name = "int4 Muon, accumulators, previous norm",
     .linear = DQT_FORMAT_INT4,
     .optimizer = DQT_OPTIMIZER_MUON,
     .rounding = DQT_ROUND_ACCUMULATE,
     .momentum = DQT_STATE_INT8,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.6f,
     .learning_rate = 4e-3f},
    {.name = "int8 AdamW, gated squared ReLU, attention with biases and norms",
     .linear = DQT_FORMAT_INT8,
     .mlp = DQT_MLP_GATED_SQUARED_RELU,
     .parts = 1,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.9f,
     .learning_rate = 4e-3f},
    {.name = "int4 AdamW ECO, groups of 32",
     .linear = DQT_FORMAT_INT4,
     .axis = DQT_AXIS_GROUP,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .momentum = DQT_STATE_INT8,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.9f,
     .learning_rate = 4e-3f},
    {.name = "int3 Adafactor ECO, trained scales of groups of 32",
     .linear = DQT_FORMAT_INT3,
     .axis = DQT_AXIS_GROUP,
     .train_scale = 1,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .lagged = 1,
     .clip = DQT_CLIP_NONE,
     .beta1 = 0.8f,
     .learning_rate = 4e-3f},
    {.name = "F32 AdamW computing in int4, groups of 32",
     .linear = DQT_FORMAT_F32,
     .compute = DQT_FORMAT_INT4,
     .axis = DQT_AXIS_GROUP,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .clip = DQT_CLIP_NONE,
     .beta1 = 0.9f,
     .learning_rate = 4e-3f},
    {.name = "BF16 SGD",
     .linear = DQT_FORMAT_BF16,
     .optimizer = DQT_OPTIMIZER_SGD,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.9f,
     .learning_rate = 0.05f},
};

struct training {
    struct setup setup;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_layer *const *layers;
    size_t num_layers;
    float losses[32];
    size_t steps;
};

static inline void open_tape(struct training *t, bool gradients) {
    dqt_tape_options o;
    dqt_tape_options_init(&o, sizeof o);
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    o.no_gradient_buffers = !(gradients);
    o.recompute = t->setup.recompute;
    o.checkpoint_format = t->setup.checkpoint;
    o.gradient_format = t->setup.gradient;
    o.precision = t->setup.precision;
    o.seed = 9;
    OK(t->ctx, dqt_llama_get_layers(t->model, &t->layers, &t->num_layers));
    OK(t->ctx, dqt_tape_create(t->ctx, t->layers, t->num_layers, &o, &t->tape));
}

static inline bool training_open(struct training *t, dqt_context *ctx, const struct setup *s, bool gradients) {
    *t = (struct training){.setup = *s, .ctx = ctx};
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = VOCAB;
    c.hidden_size = s->axis == DQT_AXIS_GROUP ? 96 : 80;
    c.intermediate_size = s->axis == DQT_AXIS_GROUP ? 160 : 136;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.init_std = 0.1f;
    c.mlp = s->mlp;
    c.tie_embeddings = s->tied;
    c.attention_bias = c.qk_norm = s->parts;
    if (s->parts) c.head_dim = 24;
    if (s->precision == DQT_PRECISION_INT8) c.head_activation = DQT_ACTIVATION_INT8;
    c.linear.storage = s->linear;
    c.linear.compute = s->compute;
    c.linear.scale_axis = s->axis;
    c.linear.train_scale = s->train_scale;
    if (s->linear == DQT_FORMAT_INT8) c.linear.scale_rule = DQT_SCALE_SIGMA;
    dqt_updater_options o;
    dqt_updater_options_init(&o, sizeof o);
    o.optimizer = s->optimizer;
    o.rounding = s->rounding;
    o.momentum_state = s->momentum;
    o.variance_state = s->variance;
    o.clip = s->clip;
    o.lagged = s->lagged;
    o.rate_corrected = s->rate_corrected;
    o.beta1 = s->beta1;
    o.weight_decay = 0.1f;
    OK(ctx, dqt_llama_create(ctx, &c, &t->model));
    if (!t->model) return false;
    open_tape(t, gradients);
    OK(ctx, dqt_updater_create(ctx, t->layers, t->num_layers, &o, &t->updater));
    return t->tape && t->updater;
}

static inline void training_close(struct training *t) {
    dqt_updater_destroy(t->updater);
    dqt_tape_destroy(t->tape);
    dqt_llama_destroy(t->model);
}

/* Text of step i: repeated tokens, some targets ignored. */
static inline void batch_of(size_t step, int32_t *tokens, int32_t *targets) {
    uint64_t seed = 1000 + step;
    for (size_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB / (i % 3 + 1));
        targets[i] = i % 11 == 5 ? -1 : (int32_t)(test_random(&seed) % VOCAB / 2);
    }
}

static inline float rate_of(const struct training *t) {
    return t->setup.rate_corrected ? t->setup.learning_rate / (float)(1 + t->steps) : t->setup.learning_rate;
}

static inline void train(struct training *t, size_t steps, bool fused) {
    int32_t tokens[TOKENS], targets[TOKENS];
    for (size_t i = 0; i < steps; i++, t->steps++) {
        batch_of(t->steps, tokens, targets);
        OK(t->ctx,
           dqt_llama_loss(t->model, t->tape, batch_pairs(tokens, targets, BATCH, LENGTH), &t->losses[t->steps], NULL));
        if (fused) {
            OK(t->ctx, dqt_llama_backward_update(t->model, t->tape, t->updater, step_rate(rate_of(t)), NULL));
        } else {
            OK(t->ctx, dqt_tape_zero_gradients(t->tape));
            OK(t->ctx, dqt_llama_backward(t->model, t->tape, 1.0f));
            OK(t->ctx, dqt_updater_step(t->updater, t->tape, step_rate(rate_of(t)), NULL));
        }
    }
}

/* ---- What training leaves ------------------------------------------------------------------------------------ */

struct piece {
    char name[96];
    size_t at, bytes;
};

struct snapshot {
    unsigned char *bytes;
    size_t used;
    struct piece pieces[512];
    size_t count;
};

static inline void snapshot_add(struct snapshot *s, const char *name, const void *data, size_t bytes) {
    if (s->count == 512) abort();
    struct piece *p = &s->pieces[s->count++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->at = s->used;
    p->bytes = bytes;
    s->bytes = realloc(s->bytes, s->used + bytes);
    memcpy(s->bytes + s->used, data, bytes);
    s->used += bytes;
}

static inline dqt_status add_state(void *arg, const struct state_array *a) {
    snapshot_add(arg, a->label, a->data, a->count * a->element_size);
    return DQT_OK;
}

static inline void add_weights(struct snapshot *s, dqt_tape *tape) {
    size_t count = 0;
    CHECK(dqt_tape_get_num_parameters(tape, &count) == DQT_OK);
    for (size_t i = 0; i < count; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        dqt_tensor_info info = {.struct_size = sizeof info};
        void *data = NULL;
        size_t bytes = 0;
        CHECK(dqt_tape_get_parameter(tape, i, &p) == DQT_OK && dqt_tensor_data(p.tensor, &data, &bytes) == DQT_OK);
        CHECK(dqt_tensor_get_info(p.tensor, &info) == DQT_OK);
        snapshot_add(s, p.name, data, bytes);
        if (info.num_scales == 0) continue;
        float *scales = calloc(info.num_scales, sizeof *scales);
        CHECK(dqt_tensor_get_scales(p.tensor, scales) == DQT_OK);
        snapshot_add(s, p.name, scales, info.num_scales * sizeof *scales);
        free(scales);
    }
}

static inline struct snapshot *take_snapshot(const struct training *t) {
    struct snapshot *s = calloc(1, sizeof *s);
    uint64_t step = 0;
    snapshot_add(s, "losses", t->losses, t->steps * sizeof *t->losses);
    add_weights(s, t->tape);
    CHECK(updater_visit_state(t->updater, add_state, s) == DQT_OK);
    CHECK(dqt_updater_get_step(t->updater, &step) == DQT_OK);
    snapshot_add(s, "step", &step, sizeof step);
    return s;
}

static inline void snapshot_free(struct snapshot *s) {
    free(s->bytes);
    free(s);
}

static inline void check_same(const char *what, const char *way, const struct snapshot *a, const struct snapshot *b) {
    CHECKF(a->count == b->count && a->used == b->used, "%s, %s: other pieces", what, way);
    if (a->count != b->count || a->used != b->used) return;
    for (size_t i = 0; i < a->count; i++)
        if (memcmp(a->bytes + a->pieces[i].at, b->bytes + b->pieces[i].at, a->pieces[i].bytes) != 0) {
            CHECKF(0, "%s, %s: %s differs (piece %zu of %zu)", what, way, a->pieces[i].name, i, a->count);
            return;
        }
}

static inline struct snapshot *trained(dqt_context *ctx, const struct setup *s, size_t steps, bool fused) {
    struct training t;
    struct snapshot *result = NULL;
    if (training_open(&t, ctx, s, !fused)) {
        train(&t, steps, fused);
        result = take_snapshot(&t);
    }
    training_close(&t);
    return result;
}

/* Scales of groups are of 32 columns. */
static inline dqt_layer *code_linear(dqt_context *ctx, size_t in, size_t out, int storage, int axis, int activation,
                                     bool shape) {
    dqt_layer_options o = DQT_INIT(dqt_layer_options);
    dqt_layer *l = NULL;
    o.weight.storage = storage;
    o.weight.scale_axis = axis;
    if (axis == DQT_AXIS_GROUP) o.weight.group_size = 32;
    o.activation = activation;
    o.shape_only = shape;
    o.seed = in;
    OK(ctx, dqt_linear_create(ctx, in, out, &o, &l));
    return l;
}

#endif
