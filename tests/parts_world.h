/* Replicas with updaters of one part each, which exchange sums of tiles and gather rows, beside one of all rows. */
#ifndef PARTS_WORLD_H
#define PARTS_WORLD_H

#include "counting_threads.h"
#include "memory_file.h"
#include "optim/updater.h"
#include "test.h"

enum { LAYERS = 9, MOST_PARTS = 8, STEPS = 4 };

/* A replica: layers of all kinds of tensor, with an updater and a tape. */
struct replica {
    struct counting memory;
    dqt_context *ctx;
    dqt_layer *layers[LAYERS];
    dqt_tape *tape;
    dqt_updater *updater;
    size_t count;
};

struct setting {
    const char *name;
    int optimizer, rounding, clip, momentum_state, variance_state, lagged, gradient_format;
    float beta1, weight_decay;
    int rate_corrected;
};

static const struct setting settings[] = {
    {"SGD", DQT_OPTIMIZER_SGD, DQT_ROUND_STOCHASTIC, DQT_CLIP_NONE, DQT_STATE_F32, DQT_STATE_F32, 0, DQT_FLOAT_F32,
     0.9f, 0.1f, 0},
    {"SGD without momentum, bf16 gradients", DQT_OPTIMIZER_SGD, DQT_ROUND_NEAREST, DQT_CLIP_TENSOR_NORM, DQT_STATE_F32,
     DQT_STATE_F32, 0, DQT_FLOAT_BF16, 0.0f, 0.0f, 0},
    {"AdamW", DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, DQT_CLIP_GLOBAL_NORM, DQT_STATE_F32, DQT_STATE_F32, 0,
     DQT_FLOAT_F32, 0.9f, 0.1f, 0},
    {"AdamW, ECO, 8-bit states", DQT_OPTIMIZER_ADAMW, DQT_ROUND_ECO_STOCHASTIC, DQT_CLIP_PREVIOUS_NORM, DQT_STATE_INT8,
     DQT_STATE_INT8, 0, DQT_FLOAT_F32, 0.8f, 0.0f, 0},
    {"AdamW, bf16 states, fp8 gradients", DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, DQT_CLIP_TENSOR_NORM,
     DQT_STATE_BF16, DQT_STATE_BF16, 0, DQT_FLOAT_FP8_E4M3, 0.9f, 0.0f, 0},
    {"Adafactor", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, DQT_CLIP_GLOBAL_NORM, DQT_STATE_F32, DQT_STATE_F32, 0,
     DQT_FLOAT_F32, 0.0f, 0.1f, 0},
    {"Adafactor, ECO, 8-bit momentum", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, DQT_CLIP_GLOBAL_NORM,
     DQT_STATE_INT8, DQT_STATE_F32, 0, DQT_FLOAT_F32, 0.9f, 0.0f, 0},
    {"Adafactor, lagged", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, DQT_CLIP_PREVIOUS_NORM, DQT_STATE_F32,
     DQT_STATE_F32, 1, DQT_FLOAT_BF16, 0.0f, 0.1f, 0},
    {"Adafactor, accumulators", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ACCUMULATE, DQT_CLIP_GLOBAL_NORM, DQT_STATE_INT8,
     DQT_STATE_F32, 0, DQT_FLOAT_F32, 0.6f, 0.5f, 0},
    {"AdamW, accumulators, no momentum of floats", DQT_OPTIMIZER_ADAMW, DQT_ROUND_ACCUMULATE, DQT_CLIP_TENSOR_NORM,
     DQT_STATE_F32, DQT_STATE_INT8, 0, DQT_FLOAT_BF16, 0.0f, 0.1f, 0},
    {"Adafactor, lagged, momentum", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, DQT_CLIP_NONE, DQT_STATE_BF16,
     DQT_STATE_F32, 1, DQT_FLOAT_F32, 0.9f, 0.0f, 0},
    {"Adafactor, ECO, rates corrected", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, DQT_CLIP_GLOBAL_NORM,
     DQT_STATE_INT8, DQT_STATE_F32, 0, DQT_FLOAT_F32, 0.9f, 0.0f, 1},
    {"AdamW, ECO, rates corrected, lagged", DQT_OPTIMIZER_ADAMW, DQT_ROUND_ECO_NEAREST, DQT_CLIP_PREVIOUS_NORM,
     DQT_STATE_BF16, DQT_STATE_F32, 1, DQT_FLOAT_F32, 0.8f, 0.1f, 1},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

/* Outputs, inputs and storage of the linear layers: five tiles with a short one, exact tiles, one column, fewer tiles
 * than parts, trained scales of groups; then a gain. */
static const struct {
    size_t rows, cols;
    int storage, compute, train_scale, axis;
} shapes[LAYERS - 1] = {
    {300, 70, DQT_FORMAT_TERNARY, DQT_FORMAT_SAME, 0, DQT_AXIS_TENSOR},
    {256, 130, DQT_FORMAT_INT8, DQT_FORMAT_TERNARY, 0, DQT_AXIS_TENSOR},
    {260, 33, DQT_FORMAT_F32, DQT_FORMAT_SAME, 0, DQT_AXIS_TENSOR},
    {320, 20, DQT_FORMAT_TERNARY, DQT_FORMAT_SAME, 1, DQT_AXIS_ROW},
    {280, 1, DQT_FORMAT_F32, DQT_FORMAT_SAME, 0, DQT_AXIS_TENSOR},
    {70, 12, DQT_FORMAT_INT3, DQT_FORMAT_SAME, 0, DQT_AXIS_TENSOR},
    {321, 9, DQT_FORMAT_BF16, DQT_FORMAT_SAME, 0, DQT_AXIS_TENSOR},
    {200, 96, DQT_FORMAT_INT4, DQT_FORMAT_SAME, 1, DQT_AXIS_GROUP},
};

static const char *const names[LAYERS - 1] = {"a", "b", "c", "d", "e", "f", "g", "h"};

/* Learning rate of a step: it falls, for what is corrected for that. */
static inline float rate_of(uint64_t step) {
    return 0.01f / (float)(1 + step);
}

/* One parameter has an optimiser and rules of its own. */
static inline dqt_updater_options options_of(const struct setting *s, size_t part, size_t parts) {
    dqt_updater_options u;
    OK(NULL, dqt_updater_options_init(&u, sizeof u));
    u.optimizer = s->optimizer;
    u.rounding = s->rounding;
    u.clip = s->clip;
    u.clip_norm = 3.0f;
    u.momentum_state = s->momentum_state;
    u.variance_state = s->variance_state;
    u.lagged = s->lagged;
    u.rate_corrected = s->rate_corrected;
    u.beta1 = s->beta1;
    u.weight_decay = s->weight_decay;
    u.update_clip = 0.7f;
    u.part = part;
    u.num_parts = parts;
    static const dqt_group_options group = {.struct_size = sizeof group,
                                            .pattern = "f",
                                            .optimizer = DQT_OPTIMIZER_ADAMW,
                                            .lr_factor = 3.0f,
                                            .rounding_noise = 0.5f};
    u.groups = &group;
    u.num_groups = 1;
    return u;
}

static inline void open_layers(struct replica *r, int threads) {
    memset(r, 0, sizeof *r);
    dqt_context *ctx = r->ctx = counting_threads(&r->memory, threads);
    for (int i = 0; i < LAYERS - 1; i++) {
        dqt_layer_options o;
        OK(ctx, dqt_layer_options_init(&o, sizeof o));
        o.weight.storage = shapes[i].storage;
        o.weight.compute = shapes[i].compute;
        o.weight.scale_axis = shapes[i].axis;
        o.weight.group_size = shapes[i].axis == DQT_AXIS_GROUP ? 32 : 0;
        o.weight.train_scale = shapes[i].train_scale;
        o.seed = 7 + (uint64_t)i;
        o.name = names[i];
        OK(ctx, dqt_linear_create(ctx, shapes[i].cols, shapes[i].rows, &o, &r->layers[i]));
    }
    OK(ctx, dqt_rmsnorm_create(ctx, 9, NULL, &r->layers[LAYERS - 1]));
}

/* parts 0: an updater of all rows. What creation takes is what was planned. */
static inline void open_replica(struct replica *r, const struct setting *s, int threads, size_t part, size_t parts) {
    open_layers(r, threads);
    dqt_context *ctx = r->ctx;
    dqt_tape_options t;
    OK(ctx, dqt_tape_options_init(&t, sizeof t));
    t.max_length = 1;
    t.gradient_format = s->gradient_format;
    OK(ctx, dqt_tape_create(ctx, r->layers, LAYERS, &t, &r->tape));
    const dqt_updater_options u = options_of(s, part, parts);
    dqt_updater_memory_info m = {.struct_size = sizeof m};
    OK(ctx, dqt_updater_memory(ctx, r->layers, LAYERS, &u, &m));
    const size_t before = r->memory.bytes;
    OK(ctx, dqt_updater_create(ctx, r->layers, LAYERS, &u, &r->updater));
    CHECKF(r->memory.bytes - before == m.total, "%s, part %zu of %zu: %zu bytes, planned %zu", s->name, part, parts,
           r->memory.bytes - before, m.total);
    CHECK(m.total == m.momentum + m.variance + m.scales + m.workspace + m.other);
    OK(ctx, dqt_tape_get_num_parameters(r->tape, &r->count));
}

static inline void close_replica(struct replica *r) {
    dqt_updater_destroy(r->updater);
    dqt_tape_destroy(r->tape);
    for (int i = 0; i < LAYERS; i++)
        dqt_layer_destroy(r->layers[i]);
    counting_end(r->ctx, &r->memory);
}

static inline dqt_parameter parameter(const struct replica *r, size_t index) {
    dqt_parameter p = {.struct_size = sizeof p};
    OK(r->ctx, dqt_tape_get_parameter(r->tape, index, &p));
    return p;
}

/* Of one updater of all rows; rows differ in size, so that statistics of some rows are not those of all. */
static inline void set_gradients(const struct replica *r, uint64_t step) {
    for (size_t i = 0; i < r->count; i++) {
        const dqt_parameter p = parameter(r, i);
        float *g = random_floats(p.rows * p.cols, 0.3f, 100 * step + i);
        for (size_t k = 0; k < p.rows * p.cols; k++)
            g[k] *= (float)(1 + (k / p.cols) % 90) / 20.0f;
        OK(r->ctx, dqt_tape_set_gradient(r->tape, i, 0, p.rows, g));
        free(g);
    }
}

/* What a host's reduce-scatter does: rows of the part are the whole's, in the same format, and others are anything,
 * infinite here. */
static inline void scatter_gradients(const struct replica *r, const struct replica *whole, size_t part, size_t parts) {
    for (size_t i = 0; i < r->count; i++) {
        const dqt_parameter p = parameter(r, i);
        float *g = malloc(p.rows * p.cols * sizeof *g);
        size_t row, count;
        if (!g) abort();
        OK(whole->ctx, dqt_tape_get_gradient(whole->tape, i, 0, p.rows, g));
        OK(r->ctx, dqt_updater_get_part(r->updater, i, part, parts, &row, &count));
        for (size_t k = 0; k < p.rows * p.cols; k++)
            if (k < row * p.cols || k >= (row + count) * p.cols) g[k] = INFINITY;
        OK(r->ctx, dqt_tape_set_gradient(r->tape, i, 0, p.rows, g));
        free(g);
    }
}

/* What a host's all-gather does. */
static inline void exchange(const dqt_step_sums *sums, size_t parts) {
    for (size_t to = 0; to < parts; to++)
        for (size_t from = 0; from < parts; from++) {
            const size_t begin = sums[from].offsets[from], bytes = sums[from].offsets[from + 1] - begin;
            CHECK(memcmp(sums[to].offsets, sums[from].offsets, (parts + 1) * sizeof *sums->offsets) == 0);
            memcpy((char *)sums[to].data + begin, (const char *)sums[from].data + begin, bytes);
        }
}

/* A step of all parts; returns how often they have told each other something. */
static inline size_t step_together(struct replica *r, size_t parts, float rate, dqt_step_stats *stats) {
    dqt_step_sums sums[MOST_PARTS] = {{0}};
    size_t times = 0;
    for (size_t k = 0; k < parts; k++) {
        sums[k] = (dqt_step_sums){.struct_size = sizeof *sums};
        stats[k] = (dqt_step_stats){.struct_size = sizeof *stats};
        OK(r[k].ctx, dqt_updater_begin_step(r[k].updater, r[k].tape, step_rate(rate), &sums[k]));
    }
    for (; sums[0].data && times < 1000; times++) {
        exchange(sums, parts);
        for (size_t k = 0; k < parts; k++)
            OK(r[k].ctx, dqt_updater_continue_step(r[k].updater, r[k].tape, &sums[k], &stats[k]));
    }
    for (size_t k = 0; k < parts; k++)
        CHECK(!sums[k].data);
    return times;
}

struct bytes {
    unsigned char *data;
    size_t size, row_bytes;
};

static inline struct bytes packed(dqt_tensor *t) {
    dqt_tensor_info info = {.struct_size = sizeof info};
    void *data = NULL;
    size_t size = 0;
    CHECK(dqt_tensor_get_info(t, &info) == DQT_OK);
    CHECK(dqt_tensor_data(t, &data, &size) == DQT_OK);
    return (struct bytes){data, size, info.row_bytes};
}

/* What a host does over the network: each row of each tensor from the part that wrote it. */
static inline void gather(struct replica *replicas, size_t parts) {
    for (size_t i = 0; i < replicas[0].count; i++) {
        for (size_t to = 0; to < parts; to++) {
            dqt_tensor *t = parameter(&replicas[to], i).tensor;
            const struct bytes b = packed(t);
            float scales[1024], others[1024];
            dqt_tensor_info info = {.struct_size = sizeof info};
            OK(replicas[to].ctx, dqt_tensor_get_info(t, &info));
            if (info.train_scale) OK(replicas[to].ctx, dqt_tensor_get_scales(t, scales));
            for (size_t from = 0; from < parts; from++) {
                size_t row, count;
                OK(replicas[from].ctx, dqt_updater_get_part(replicas[from].updater, i, from, parts, &row, &count));
                dqt_tensor *source = parameter(&replicas[from], i).tensor;
                if (from != to)
                    memcpy(b.data + row * b.row_bytes, packed(source).data + row * b.row_bytes, count * b.row_bytes);
                if (!info.train_scale) continue;
                OK(replicas[from].ctx, dqt_tensor_get_scales(source, others));
                const size_t each = info.num_scales / info.rows;
                memcpy(scales + row * each, others + row * each, count * each * sizeof *scales);
            }
            if (info.train_scale) OK(replicas[to].ctx, dqt_tensor_set_scales(t, scales));
            OK(replicas[to].ctx, dqt_tensor_touch(t));
        }
    }
}

static inline void compare_weights(const struct replica *r, const struct replica *whole, const char *what) {
    for (size_t i = 0; i < r->count; i++) {
        dqt_tensor *t = parameter(r, i).tensor, *w = parameter(whole, i).tensor;
        const struct bytes a = packed(t), b = packed(w);
        CHECKF(memcmp(a.data, b.data, b.size) == 0, "%s: codes of parameter %zu", what, i);
        float mine[1024] = {0}, theirs[1024] = {0};
        dqt_tensor_info info = {.struct_size = sizeof info};
        OK(r->ctx, dqt_tensor_get_info(t, &info));
        if (!info.num_scales) continue;
        OK(r->ctx, dqt_tensor_get_scales(t, mine));
        OK(r->ctx, dqt_tensor_get_scales(w, theirs));
        CHECKF(memcmp(mine, theirs, sizeof mine) == 0, "%s: scales of parameter %zu", what, i);
    }
    /* what layers read, re-quantised where compute is not storage */
    float *mine = malloc(256 * 130 * sizeof *mine), *theirs = malloc(256 * 130 * sizeof *theirs);
    if (!mine || !theirs) abort();
    OK(r->ctx, dqt_tensor_dequantize(parameter(r, 1).tensor, 0, 256, mine));
    OK(whole->ctx, dqt_tensor_dequantize(parameter(whole, 1).tensor, 0, 256, theirs));
    CHECKF(memcmp(mine, theirs, 256 * 130 * sizeof *mine) == 0, "%s: the compute format's weights", what);
    free(mine);
    free(theirs);
}

/* ---- State ----------------------------------------------------------------------------------------------------- */

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
    const struct replica *whole;
    size_t row, count; /* of the part, of the parameter that is looked at */
    size_t part, parts, compared;
    const char *what;
};

/* A part has the whole's rows and nothing else; what is not of rows is the whole's. */
static inline dqt_status compare_array(void *arg, const struct state_array *a) {
    struct comparison *c = arg;
    struct piece theirs = {.label = a->label};
    size_t row = 0, count = 0;
    OK(c->whole->ctx, updater_visit_state(c->whole->updater, find_piece, &theirs));
    if (a->row_elements)
        OK(c->whole->ctx, dqt_updater_get_part(c->whole->updater, a->parameter, c->part, c->parts, &row, &count));
    const size_t expected = a->row_elements ? count * a->row_elements : theirs.a.count;
    const unsigned char *from = (const unsigned char *)theirs.a.data + row * a->row_elements * a->element_size;
    CHECKF(a->count == expected, "%s: %s has %zu elements, not %zu", c->what, a->label, a->count, expected);
    CHECKF(a->count == 0 || memcmp(a->data, from, a->count * a->element_size) == 0, "%s: %s", c->what, a->label);
    c->compared += a->count > 0;
    return DQT_OK;
}

static inline void compare_states(const struct replica *r, const struct replica *whole, size_t part, size_t parts,
                                  const char *what) {
    struct comparison c = {.whole = whole, .part = part, .parts = parts, .what = what};
    OK(r->ctx, updater_visit_state(r->updater, compare_array, &c));
    CHECKF(c.compared > 2, "%s: no state was compared", what);
}

#endif
