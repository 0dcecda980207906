/* A model in one piece, and the same model in stages: partial models in contexts of their own, as in processes of their
 * own, that pass on activations, gradients and sums. */
#ifndef PARTIAL_WORLD_H
#define PARTIAL_WORLD_H

#include "counting_threads.h"
#include "memory_file.h"
#include "optim/updater.h"
#include "test.h"

enum {
    VOCAB = 90,
    HIDDEN = 64,
    BLOCKS = 5,
    BATCH = 2,
    LENGTH = 9,
    TOKENS = BATCH * LENGTH,
    MICRO = 3,
    STEPS = 3,
    MOST_STAGES = 5
};

struct setting {
    const char *name;
    int linear, compute, axis, train_scale, override;                      /* model */
    int recompute, checkpoint_format, gradient_format, precision;          /* tape */
    int optimizer, rounding, momentum_state, variance_state, clip, lagged; /* updater */
    float beta1;
    int group; /* a group of one block's parameters */
};

static const struct setting settings[] = {
    {.name = "AdamW, global norm",
     .linear = DQT_FORMAT_TERNARY,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .rounding = DQT_ROUND_STOCHASTIC,
     .clip = DQT_CLIP_GLOBAL_NORM,
     .beta1 = 0.9f,
     .group = 1},
    {.name = "AdamW ECO, previous norm, fp8 gradients and checkpoints, overrides",
     .linear = DQT_FORMAT_INT8,
     .override = 1,
     .recompute = 1,
     .checkpoint_format = DQT_FLOAT_FP8_E4M3,
     .gradient_format = DQT_FLOAT_FP8_E5M2,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .momentum_state = DQT_STATE_INT8,
     .variance_state = DQT_STATE_BF16,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.8f},
    {.name = "Adafactor, integer backward, global norm",
     .linear = DQT_FORMAT_TERNARY,
     .precision = DQT_PRECISION_INT8,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .rounding = DQT_ROUND_STOCHASTIC,
     .clip = DQT_CLIP_GLOBAL_NORM},
    {.name = "Adafactor, lagged, accumulators, trained scales, bf16 gradients",
     .linear = DQT_FORMAT_INT4,
     .axis = DQT_AXIS_ROW,
     .train_scale = 1,
     .gradient_format = DQT_FLOAT_BF16,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .rounding = DQT_ROUND_ACCUMULATE,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .lagged = 1,
     .beta1 = 0.6f,
     .group = 1},
    {.name = "SGD, norms of tensors, int8 that computes in ternary",
     .linear = DQT_FORMAT_INT8,
     .compute = DQT_FORMAT_TERNARY,
     .optimizer = DQT_OPTIMIZER_SGD,
     .rounding = DQT_ROUND_STOCHASTIC,
     .momentum_state = DQT_STATE_BF16,
     .clip = DQT_CLIP_TENSOR_NORM,
     .beta1 = 0.9f,
     .override = 1},
    {.name = "Muon, accumulators, global norm",
     .linear = DQT_FORMAT_INT4,
     .optimizer = DQT_OPTIMIZER_MUON,
     .rounding = DQT_ROUND_ACCUMULATE,
     .momentum_state = DQT_STATE_INT8,
     .clip = DQT_CLIP_GLOBAL_NORM,
     .beta1 = 0.6f,
     .override = 1},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static const dqt_tensor_override overrides[] = {
    {"blocks.3.mlp.*", {.struct_size = sizeof(dqt_tensor_options), .storage = DQT_FORMAT_INT6, .sigma = 4}},
    {"head", {.struct_size = sizeof(dqt_tensor_options), .storage = DQT_FORMAT_F32, .sigma = 4}}};

/* A whole model, or a stage. */
struct stage {
    struct counting memory;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_layer *const *layers;
    size_t num_layers, count;
    float *kept[MICRO]; /* [TOKENS][HIDDEN]: what has come of each micro-batch */
    float *x;           /* [TOKENS][HIDDEN] */
};

static inline dqt_llama_config config_of(const struct setting *s, size_t first, size_t count) {
    dqt_llama_config c;
    OK(NULL, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = VOCAB;
    c.hidden_size = HIDDEN;
    c.intermediate_size = 96;
    c.num_layers = BLOCKS;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.init_std = 0.1f;
    c.linear.storage = s->linear;
    c.linear.compute = s->compute;
    c.linear.scale_axis = s->axis;
    c.linear.train_scale = s->train_scale;
    c.overrides = s->override ? overrides : NULL;
    c.num_overrides = s->override ? sizeof overrides / sizeof *overrides : 0;
    if (s->precision == DQT_PRECISION_INT8) c.head_activation = DQT_ACTIVATION_INT8;
    c.first_block = first;
    c.num_blocks = count;
    return c;
}

static inline dqt_updater_options updater_of(const struct setting *s) {
    static const dqt_group_options groups[] = {
        {.struct_size = sizeof *groups, .pattern = "blocks.1.*", .lr_factor = 2.0f, .rounding_noise = 0.5f},
        {.struct_size = sizeof *groups, .pattern = "blocks.4.attention.q", .freeze = 1}};
    dqt_updater_options u;
    OK(NULL, dqt_updater_options_init(&u, sizeof u));
    u.optimizer = s->optimizer;
    u.rounding = s->rounding;
    u.momentum_state = s->momentum_state;
    u.variance_state = s->variance_state;
    u.clip = s->clip;
    u.clip_norm = 0.5f;
    u.lagged = s->lagged;
    u.rate_corrected = 1; /* only with ECO */
    u.beta1 = s->beta1 > 0 ? s->beta1 : -1.0f;
    u.weight_decay = 0.1f;
    u.groups = s->group ? groups : NULL;
    u.num_groups = s->group ? 2 : 0;
    return u;
}

static inline void stage_context(struct stage *t, int threads) {
    memset(t, 0, sizeof *t);
    t->ctx = counting_threads(&t->memory, threads);
}

/* Tape and buffers; what creation takes is what was planned. */
static inline void stage_tape(struct stage *t, const struct setting *s) {
    OK(t->ctx, dqt_llama_get_layers(t->model, &t->layers, &t->num_layers));
    dqt_tape_options o;
    OK(t->ctx, dqt_tape_options_init(&o, sizeof o));
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    o.recompute = s->recompute;
    o.checkpoint_format = s->checkpoint_format;
    o.gradient_format = s->gradient_format;
    o.precision = s->precision;
    o.seed = 5;
    OK(t->ctx, dqt_tape_create(t->ctx, t->layers, t->num_layers, &o, &t->tape));
    OK(t->ctx, dqt_tape_get_num_parameters(t->tape, &t->count));
    for (int m = 0; m < MICRO; m++)
        t->kept[m] = calloc(TOKENS * HIDDEN, sizeof(float));
    t->x = calloc(TOKENS * HIDDEN, sizeof(float));
}

static inline void stage_open(struct stage *t, const struct setting *s, size_t first, size_t count, int threads) {
    stage_context(t, threads);
    const dqt_llama_config c = config_of(s, first, count);
    const dqt_updater_options u = updater_of(s);
    dqt_llama_memory_info planned = {.struct_size = sizeof planned};
    dqt_updater_memory_info state = {.struct_size = sizeof state};
    OK(t->ctx, dqt_llama_memory(t->ctx, &c, &planned));
    size_t before = t->memory.bytes;
    OK(t->ctx, dqt_llama_create(t->ctx, &c, &t->model));
    CHECKF(t->memory.bytes - before == planned.total, "%zu bytes, planned %zu", t->memory.bytes - before,
           planned.total);
    stage_tape(t, s);
    OK(t->ctx, dqt_updater_memory(t->ctx, t->layers, t->num_layers, &u, &state));
    before = t->memory.bytes;
    OK(t->ctx, dqt_updater_create(t->ctx, t->layers, t->num_layers, &u, &t->updater));
    CHECK(t->memory.bytes - before == state.total);
}

static inline void stage_close(struct stage *t) {
    for (int m = 0; m < MICRO; m++)
        free(t->kept[m]);
    free(t->x);
    dqt_updater_destroy(t->updater);
    dqt_tape_destroy(t->tape);
    dqt_llama_destroy(t->model);
    counting_end(t->ctx, &t->memory);
}

struct data {
    int32_t tokens[MICRO][TOKENS], targets[MICRO][TOKENS];
};

static inline void data_of(struct data *d, uint32_t step) {
    uint32_t x = 7 + step;
    for (int m = 0; m < MICRO; m++)
        for (int i = 0; i < TOKENS; i++) {
            x = x * 1664525u + 1013904223u;
            d->tokens[m][i] = (int32_t)(x >> 9) % VOCAB;
            d->targets[m][i] = (d->tokens[m][i] * 3 + 1) % VOCAB;
        }
    d->targets[0][2] = d->targets[2][7] = -1;
}

static inline dqt_batch micro_batch(const struct data *d, int m) {
    return (dqt_batch){.struct_size = sizeof(dqt_batch),
                       .divisor = MICRO * TOKENS,
                       .batch = BATCH,
                       .length = LENGTH,
                       .tokens = d->tokens[m],
                       .targets = d->targets[m]};
}

/* One process. */
static inline void whole_gradients(struct stage *t, const struct data *d, float *losses) {
    OK(t->ctx, dqt_tape_zero_gradients(t->tape));
    for (int m = 0; m < MICRO; m++) {
        const dqt_batch b = micro_batch(d, m);
        OK(t->ctx, dqt_llama_loss(t->model, t->tape, &b, &losses[m], NULL));
        OK(t->ctx, dqt_llama_backward(t->model, t->tape, 0.75f));
    }
}

/* All micro-batches go forward before the first goes backward, as in GPipe, in another order on each stage. passes: of
 * one process before. */
static inline void stages_gradients(struct stage *s, size_t stages, const struct data *d, uint64_t passes,
                                    float *losses) {
    for (size_t k = 0; k < stages; k++) {
        OK(s[k].ctx, dqt_tape_zero_gradients(s[k].tape));
        for (int i = 0; i < MICRO; i++) {
            const int m = k % 2 ? MICRO - 1 - i : i;
            const dqt_batch b = micro_batch(d, m);
            memcpy(s[k].x, s[k].kept[m], TOKENS * HIDDEN * sizeof(float));
            OK(s[k].ctx, dqt_tape_set_pass(s[k].tape, passes + (uint64_t)m));
            OK(s[k].ctx, dqt_llama_forward_blocks(s[k].model, s[k].tape, &b, s[k].x, &losses[m], NULL));
            if (k + 1 < stages) memcpy(s[k + 1].kept[m], s[k].x, TOKENS * HIDDEN * sizeof(float));
        }
    }
    for (int m = 0; m < MICRO; m++)
        for (size_t k = stages; k-- > 0;) {
            const dqt_batch b = micro_batch(d, m);
            float again = 0;
            memcpy(s[k].x, s[k].kept[m], TOKENS * HIDDEN * sizeof(float));
            OK(s[k].ctx, dqt_tape_set_pass(s[k].tape, passes + (uint64_t)m));
            OK(s[k].ctx, dqt_llama_forward_blocks(s[k].model, s[k].tape, &b, s[k].x, &again, NULL));
            if (k + 1 == stages) CHECK(memcmp(&again, &losses[m], sizeof again) == 0);
            if (k + 1 < stages) memcpy(s[k].x, s[k + 1].x, TOKENS * HIDDEN * sizeof(float));
            OK(s[k].ctx, dqt_llama_backward_blocks(s[k].model, s[k].tape, k + 1 == stages ? 0.75f : 0.0f, s[k].x));
        }
}

static inline const dqt_step_options *step_options(void) {
    static const dqt_step_options o = {.struct_size = sizeof o, .learning_rate = 0.01f, .gradient_scale = 1.5f};
    return &o;
}

/* What a host's all-gather does. */
static inline void exchange(const dqt_step_sums *sums, size_t stages) {
    for (size_t from = 0; from < stages; from++) {
        const size_t *o = sums[from].offsets;
        CHECK(sums[from].num_parts == 3 && o[0] == 0 && o[3] == sums[0].offsets[3]);
        CHECK(o[1] == (from ? sums[from - 1].offsets[2] : 0) && (from + 1 < stages || o[2] == o[3]));
        for (size_t to = 0; to < stages; to++)
            if (to != from) memcpy((char *)sums[to].data + o[1], (const char *)sums[from].data + o[1], o[2] - o[1]);
    }
}

static inline size_t stages_step(struct stage *s, size_t stages, dqt_step_stats *stats) {
    dqt_step_sums sums[MOST_STAGES];
    size_t times = 0;
    for (size_t k = 0; k < stages; k++) {
        sums[k] = (dqt_step_sums){.struct_size = sizeof *sums};
        stats[k] = (dqt_step_stats){.struct_size = sizeof *stats};
        OK(s[k].ctx, dqt_updater_begin_step(s[k].updater, s[k].tape, step_options(), &sums[k]));
    }
    for (; sums[0].data && times < 100; times++) {
        exchange(sums, stages);
        for (size_t k = 0; k < stages; k++)
            OK(s[k].ctx, dqt_updater_continue_step(s[k].updater, s[k].tape, &sums[k], &stats[k]));
    }
    for (size_t k = 0; k < stages; k++)
        CHECK(!sums[k].data && sums[k].num_parts == 0);
    return times;
}

/* ---- Comparing ----------------------------------------------------------------------------------------------------
 */

static inline dqt_parameter parameter_of(const struct stage *t, size_t index) {
    dqt_parameter p = {.struct_size = sizeof p};
    OK(t->ctx, dqt_tape_get_parameter(t->tape, index, &p));
    return p;
}

static inline void compare_gradients(const struct stage *t, size_t index, const struct stage *whole, size_t number,
                                     const char *what) {
    const dqt_parameter p = parameter_of(t, index), w = parameter_of(whole, number);
    float *a = calloc(2 * p.rows * p.cols, sizeof *a), *b = a + p.rows * p.cols;
    CHECKF(strcmp(p.name, w.name) == 0 && p.rows == w.rows && p.cols == w.cols, "%s: %s is %s", what, p.name, w.name);
    OK(t->ctx, dqt_tape_get_gradient(t->tape, index, 0, p.rows, a));
    OK(whole->ctx, dqt_tape_get_gradient(whole->tape, number, 0, p.rows, b));
    CHECKF(memcmp(a, b, p.rows * p.cols * sizeof *a) == 0, "%s: the gradient of %s", what, p.name);
    free(a);
}

static inline void compare_weights(const struct stage *t, size_t index, const struct stage *whole, size_t number,
                                   const char *what) {
    const dqt_parameter p = parameter_of(t, index), w = parameter_of(whole, number);
    dqt_tensor_info info = {.struct_size = sizeof info};
    void *a = NULL, *b = NULL;
    size_t bytes = 0;
    float mine[128] = {0}, theirs[128] = {0};
    OK(t->ctx, dqt_tensor_get_info(p.tensor, &info));
    OK(t->ctx, dqt_tensor_data(p.tensor, &a, &bytes));
    OK(whole->ctx, dqt_tensor_data(w.tensor, &b, &bytes));
    CHECKF(memcmp(a, b, bytes) == 0, "%s: the weights of %s", what, p.name);
    if (!info.num_scales) return;
    OK(t->ctx, dqt_tensor_get_scales(p.tensor, mine));
    OK(whole->ctx, dqt_tensor_get_scales(w.tensor, theirs));
    CHECKF(memcmp(mine, theirs, sizeof mine) == 0, "%s: the scales of %s", what, p.name);
}

struct piece {
    const char *label;
    struct state_array a;
};

static inline dqt_status find_piece(void *arg, const struct state_array *a) {
    struct piece *p = arg;
    if (strcmp(a->label, p->label) == 0) p->a = *a;
    return DQT_OK;
}

struct comparison {
    dqt_updater *whole;
    const char *what;
};

static inline dqt_status compare_piece(void *arg, const struct state_array *a) {
    const struct comparison *c = arg;
    struct piece p = {.label = a->label};
    updater_visit_state(c->whole, find_piece, &p);
    CHECKF(p.a.data && p.a.count == a->count && p.a.element_size == a->element_size, "%s: %s", c->what, a->label);
    if (p.a.data && a->count)
        CHECKF(memcmp(p.a.data, a->data, a->count * a->element_size) == 0, "%s: state %s", c->what, a->label);
    return DQT_OK;
}

/* Weights and states of all stages. */
static inline void compare_stages(struct stage *s, size_t stages, struct stage *whole, const char *what) {
    size_t number = 0;
    for (size_t k = 0; k < stages; k++) {
        struct comparison c = {whole->updater, what};
        for (size_t i = 0; i < s[k].count; i++)
            compare_weights(&s[k], i, whole, number++, what);
        updater_visit_state(s[k].updater, compare_piece, &c);
    }
    CHECK(number == whole->count);
}

#endif
