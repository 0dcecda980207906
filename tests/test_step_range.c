/* dqt_updater_step_range: parts on replicas, gathered, against the whole step, bit for bit. */
#include "calls.h"
#include "dqt.h"
#include "isa_contexts.h"
#include "optim/updater.h"
#include "test.h"

enum { LAYERS = 8, MOST_PARTS = 5, STEPS = 4 };

/* A replica: layers of all kinds of tensor, with an updater and a tape. */
struct replica {
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
};

static const struct setting settings[] = {
    {"SGD", DQT_OPTIMIZER_SGD, DQT_ROUND_STOCHASTIC, DQT_CLIP_NONE, DQT_STATE_F32, DQT_STATE_F32, 0, DQT_FLOAT_F32,
     0.9f, 0.1f},
    {"SGD without momentum, bf16 gradients", DQT_OPTIMIZER_SGD, DQT_ROUND_NEAREST, DQT_CLIP_TENSOR_NORM, DQT_STATE_F32,
     DQT_STATE_F32, 0, DQT_FLOAT_BF16, 0.0f, 0.0f},
    {"AdamW", DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, DQT_CLIP_GLOBAL_NORM, DQT_STATE_F32, DQT_STATE_F32, 0,
     DQT_FLOAT_F32, 0.9f, 0.1f},
    {"AdamW, ECO, 8-bit states", DQT_OPTIMIZER_ADAMW, DQT_ROUND_ECO_STOCHASTIC, DQT_CLIP_PREVIOUS_NORM, DQT_STATE_INT8,
     DQT_STATE_INT8, 0, DQT_FLOAT_F32, 0.8f, 0.0f},
    {"AdamW, bf16 states, fp8 gradients", DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, DQT_CLIP_TENSOR_NORM,
     DQT_STATE_BF16, DQT_STATE_BF16, 0, DQT_FLOAT_FP8_E4M3, 0.9f, 0.0f},
    {"Adafactor", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, DQT_CLIP_GLOBAL_NORM, DQT_STATE_F32, DQT_STATE_F32, 0,
     DQT_FLOAT_F32, 0.0f, 0.1f},
    {"Adafactor, ECO, 8-bit momentum", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, DQT_CLIP_GLOBAL_NORM,
     DQT_STATE_INT8, DQT_STATE_F32, 0, DQT_FLOAT_F32, 0.9f, 0.0f},
    {"Adafactor, lagged", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, DQT_CLIP_PREVIOUS_NORM, DQT_STATE_F32,
     DQT_STATE_F32, 1, DQT_FLOAT_BF16, 0.0f, 0.1f},
    {"Adafactor, accumulators", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ACCUMULATE, DQT_CLIP_GLOBAL_NORM, DQT_STATE_INT8,
     DQT_STATE_F32, 0, DQT_FLOAT_F32, 0.6f, 0.5f},
    {"AdamW, accumulators, no momentum of floats", DQT_OPTIMIZER_ADAMW, DQT_ROUND_ACCUMULATE, DQT_CLIP_TENSOR_NORM,
     DQT_STATE_F32, DQT_STATE_INT8, 0, DQT_FLOAT_BF16, 0.0f, 0.1f},
    {"Adafactor, lagged, momentum", DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, DQT_CLIP_NONE, DQT_STATE_BF16,
     DQT_STATE_F32, 1, DQT_FLOAT_F32, 0.9f, 0.0f},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

/* Outputs, inputs and storage of the linear layers: five tiles with a short one, exact tiles, one column, fewer tiles
 * than parts; then a gain. */
static const struct {
    size_t rows, cols;
    int storage, compute, train_scale;
} shapes[LAYERS - 1] = {
    {300, 70, DQT_FORMAT_TERNARY, DQT_FORMAT_SAME, 0}, {256, 130, DQT_FORMAT_INT8, DQT_FORMAT_TERNARY, 0},
    {260, 33, DQT_FORMAT_F32, DQT_FORMAT_SAME, 0},     {320, 20, DQT_FORMAT_TERNARY, DQT_FORMAT_SAME, 1},
    {280, 1, DQT_FORMAT_F32, DQT_FORMAT_SAME, 0},      {70, 12, DQT_FORMAT_INT3, DQT_FORMAT_SAME, 0},
    {321, 9, DQT_FORMAT_BF16, DQT_FORMAT_SAME, 0},
};

static void open_replica(struct replica *r, const struct setting *s, int threads) {
    *r = (struct replica){.ctx = NULL};
    dqt_context_options c;
    CHECK(dqt_context_options_init(&c, sizeof c) == DQT_OK);
    c.num_threads = threads;
#ifndef _OPENMP
    c.parallel_for = backwards_for;
#endif
    OK(NULL, dqt_context_create(&c, &r->ctx));
    share_all_work(r->ctx);
    dqt_context *ctx = r->ctx;
    for (int i = 0; i < LAYERS - 1; i++) {
        dqt_layer_options o;
        OK(ctx, dqt_layer_options_init(&o, sizeof o));
        o.weight.storage = shapes[i].storage;
        o.weight.compute = shapes[i].compute;
        o.weight.scale_axis = shapes[i].train_scale ? DQT_AXIS_ROW : DQT_AXIS_TENSOR;
        o.weight.train_scale = shapes[i].train_scale;
        o.seed = 7 + (uint64_t)i;
        OK(ctx, dqt_linear_create(ctx, shapes[i].cols, shapes[i].rows, &o, &r->layers[i]));
    }
    OK(ctx, dqt_rmsnorm_create(ctx, 9, NULL, &r->layers[LAYERS - 1]));
    dqt_tape_options t;
    OK(ctx, dqt_tape_options_init(&t, sizeof t));
    t.max_length = 1;
    t.gradient_format = s->gradient_format;
    OK(ctx, dqt_tape_create(ctx, r->layers, LAYERS, &t, &r->tape));
    dqt_updater_options u;
    OK(ctx, dqt_updater_options_init(&u, sizeof u));
    u.optimizer = s->optimizer;
    u.rounding = s->rounding;
    u.clip = s->clip;
    u.clip_norm = 3.0f;
    u.momentum_state = s->momentum_state;
    u.variance_state = s->variance_state;
    u.lagged = s->lagged;
    u.beta1 = s->beta1;
    u.weight_decay = s->weight_decay;
    u.update_clip = 0.7f;
    OK(ctx, dqt_updater_create(ctx, r->layers, LAYERS, &u, &r->updater));
    OK(ctx, dqt_tape_get_num_parameters(r->tape, &r->count));
}

static void close_replica(struct replica *r) {
    dqt_updater_destroy(r->updater);
    dqt_tape_destroy(r->tape);
    for (int i = 0; i < LAYERS; i++)
        dqt_layer_destroy(r->layers[i]);
    dqt_context_destroy(r->ctx);
}

static dqt_parameter parameter(const struct replica *r, size_t index) {
    dqt_parameter p = {.struct_size = sizeof p};
    OK(r->ctx, dqt_tape_get_parameter(r->tape, index, &p));
    return p;
}

/* The same gradients for every replica; rows differ in size, so that statistics of some rows are not those of all. */
static void set_gradients(const struct replica *r, uint64_t step) {
    for (size_t i = 0; i < r->count; i++) {
        const dqt_parameter p = parameter(r, i);
        float *g = random_floats(p.rows * p.cols, 0.3f, 100 * step + i);
        for (size_t k = 0; k < p.rows * p.cols; k++)
            g[k] *= (float)(1 + (k / p.cols) % 90) / 20.0f;
        OK(r->ctx, dqt_tape_set_gradient(r->tape, i, 0, p.rows, g));
        free(g);
    }
}

struct bytes {
    unsigned char *data;
    size_t size, row_bytes;
};

static struct bytes packed(dqt_tensor *t) {
    dqt_tensor_info info = {.struct_size = sizeof info};
    void *data = NULL;
    size_t size = 0;
    CHECK(dqt_tensor_get_info(t, &info) == DQT_OK);
    CHECK(dqt_tensor_data(t, &data, &size) == DQT_OK);
    return (struct bytes){data, size, info.row_bytes};
}

/* What a host does over the network: each row of each tensor from the part that wrote it. */
static void gather(struct replica *replicas, size_t parts) {
    for (size_t i = 0; i < replicas[0].count; i++) {
        for (size_t to = 0; to < parts; to++) {
            dqt_tensor *t = parameter(&replicas[to], i).tensor;
            const struct bytes b = packed(t);
            float scales[512], others[512];
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
                memcpy(scales + row, others + row, count * sizeof *scales);
            }
            if (info.train_scale) OK(replicas[to].ctx, dqt_tensor_set_scales(t, scales));
            OK(replicas[to].ctx, dqt_tensor_touch(t));
        }
    }
}

static void compare_weights(const struct replica *r, const struct replica *whole, const char *what) {
    for (size_t i = 0; i < r->count; i++) {
        dqt_tensor *t = parameter(r, i).tensor, *w = parameter(whole, i).tensor;
        const struct bytes a = packed(t), b = packed(w);
        CHECKF(memcmp(a.data, b.data, b.size) == 0, "%s: codes of parameter %zu", what, i);
        float mine[512] = {0}, theirs[512] = {0};
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

/* Moments of rows are the whole updater's in the part, and zero, as at the beginning, outside it. */
struct piece {
    const char *label;
    const unsigned char *data;
    size_t bytes;
};

static dqt_status find_piece(void *arg, const char *label, void *data, size_t count, size_t element_size) {
    struct piece *p = arg;
    if (strcmp(label, p->label) != 0) return DQT_OK;
    p->data = data;
    p->bytes = count * element_size;
    return DQT_OK;
}

static void compare_moments(const struct replica *r, const struct replica *whole, size_t part, size_t parts,
                            const char *what) {
    static const char *const names[] = {"m", "m_scale", "v", "v_scale", "scale_m", "scale_v"};
    size_t compared = 0;
    for (size_t i = 0; i < r->count; i++) {
        const size_t rows = parameter(r, i).rows;
        size_t row, count;
        OK(r->ctx, dqt_updater_get_part(r->updater, i, part, parts, &row, &count));
        for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
            char label[40];
            snprintf(label, sizeof label, "%zu.%s", i, names[n]);
            struct piece mine = {label, NULL, 0}, theirs = {label, NULL, 0};
            OK(r->ctx, updater_visit_state(r->updater, find_piece, &mine));
            OK(r->ctx, updater_visit_state(whole->updater, find_piece, &theirs));
            if (!mine.data) continue;
            const size_t each = mine.bytes / rows, first = row * each, end = (row + count) * each;
            CHECKF(memcmp(mine.data + first, theirs.data + first, end - first) == 0, "%s: %s in the part", what, label);
            bool touched = false;
            for (size_t k = 0; k < mine.bytes; k++)
                if ((k < first || k >= end) && mine.data[k] != 0) touched = true;
            CHECKF(!touched, "%s: %s outside the part", what, label);
            compared += count;
        }
        /* Adafactor's are whole everywhere */
        static const char *const shared[] = {"row", "column"};
        for (size_t n = 0; n < 2; n++) {
            char label[40];
            snprintf(label, sizeof label, "%zu.%s", i, shared[n]);
            struct piece mine = {label, NULL, 0}, theirs = {label, NULL, 0};
            OK(r->ctx, updater_visit_state(r->updater, find_piece, &mine));
            OK(r->ctx, updater_visit_state(whole->updater, find_piece, &theirs));
            CHECKF(mine.bytes == theirs.bytes && (!mine.data || memcmp(mine.data, theirs.data, mine.bytes) == 0),
                   "%s: %s", what, label);
        }
    }
    CHECKF(compared > 0, "%s: no moments were compared", what);
}

static void run_setting(const struct setting *s, size_t parts) {
    struct replica whole, replicas[MOST_PARTS];
    char what[128];
    open_replica(&whole, s, 1);
    for (size_t k = 0; k < parts; k++)
        open_replica(&replicas[k], s, parts == 3 && k == 1 ? 2 : 1);
    for (uint64_t step = 0; step < STEPS; step++) {
        dqt_step_stats expected = {.struct_size = sizeof expected};
        uint64_t flipped = 0, saturated = 0, quantized = 0;
        snprintf(what, sizeof what, "%s, %zu parts, step %d", s->name, parts, (int)step);
        set_gradients(&whole, step);
        OK(whole.ctx, dqt_updater_step(whole.updater, whole.tape, step_rate(0.01f), &expected));
        CHECKF(expected.flipped > 0, "%s: nothing was updated", what);
        for (size_t k = 0; k < parts; k++) {
            dqt_step_stats stats = {.struct_size = sizeof stats};
            set_gradients(&replicas[k], step);
            OK(replicas[k].ctx,
               dqt_updater_step(replicas[k].updater, replicas[k].tape, step_part(0.01f, k, parts), &stats));
            CHECKF(stats.gradient_norm == expected.gradient_norm && stats.step == expected.step, "%s: norm or step",
                   what);
            CHECKF(parts > 1 || stats.update_rms == expected.update_rms, "%s: update_rms", what);
            flipped += stats.flipped;
            saturated += stats.saturated;
            quantized += stats.quantized;
        }
        CHECKF(flipped == expected.flipped && saturated == expected.saturated && quantized == expected.quantized,
               "%s: counts", what);
        gather(replicas, parts);
        for (size_t k = 0; k < parts; k++)
            compare_weights(&replicas[k], &whole, what);
    }
    for (size_t k = 0; k < parts; k++)
        compare_moments(&replicas[k], &whole, k, parts, what);
    for (size_t k = 0; k < parts; k++)
        close_replica(&replicas[k]);
    close_replica(&whole);
}

static void parts_are_the_whole(void) {
    for (int s = 0; s < SETTINGS; s++)
        for (size_t parts = 1; parts <= MOST_PARTS; parts++)
            run_setting(&settings[s], parts);
}

/* On one updater, with the step set back. */
static void parts_on_one_updater(void) {
    static const int which[] = {0, 1, 2, 4}; /* SGD and AdamW without PREVIOUS_NORM */
    for (int i = 0; i < 4; i++) {
        struct replica whole, one;
        open_replica(&whole, &settings[which[i]], 1);
        open_replica(&one, &settings[which[i]], 1);
        for (uint64_t step = 0; step < STEPS; step++) {
            set_gradients(&whole, step);
            set_gradients(&one, step);
            OK(whole.ctx, dqt_updater_step(whole.updater, whole.tape, step_rate(0.01f), NULL));
            for (size_t part = 3; part-- > 0;) {
                OK(one.ctx, dqt_updater_set_step(one.updater, step));
                OK(one.ctx, dqt_updater_step(one.updater, one.tape, step_part(0.01f, part, 3), NULL));
            }
            compare_weights(&one, &whole, settings[which[i]].name);
        }
        close_replica(&one);
        close_replica(&whole);
    }
}

/* Without clipping SGD and AdamW look at the part's rows alone: hosts may scatter gradients. */
static void rows_of_the_part_suffice(void) {
    static const int which[] = {0, 2};
    for (int i = 0; i < 2; i++) {
        struct setting s = settings[which[i]];
        struct replica whole, replicas[3];
        s.clip = DQT_CLIP_NONE;
        open_replica(&whole, &s, 1);
        for (size_t part = 0; part < 3; part++)
            open_replica(&replicas[part], &s, 1);
        for (uint64_t step = 0; step < STEPS; step++) {
            set_gradients(&whole, step);
            OK(whole.ctx, dqt_updater_step(whole.updater, whole.tape, step_rate(0.01f), NULL));
            for (size_t part = 0; part < 3; part++) {
                struct replica *r = &replicas[part];
                set_gradients(r, 1000 + part);
                for (size_t k = 0; k < r->count; k++) {
                    size_t row, count;
                    float *from, *to;
                    const size_t cols = parameter(r, k).cols;
                    OK(r->ctx, dqt_updater_get_part(r->updater, k, part, 3, &row, &count));
                    OK(r->ctx, dqt_tape_gradient_data(whole.tape, k, &from));
                    OK(r->ctx, dqt_tape_gradient_data(r->tape, k, &to));
                    memcpy(to + row * cols, from + row * cols, count * cols * sizeof *to);
                }
                OK(r->ctx, dqt_updater_step(r->updater, r->tape, step_part(0.01f, part, 3), NULL));
            }
            gather(replicas, 3);
            for (size_t part = 0; part < 3; part++)
                compare_weights(&replicas[part], &whole, s.name);
        }
        for (size_t part = 0; part < 3; part++)
            close_replica(&replicas[part]);
        close_replica(&whole);
    }
}

/* Parts cover each row once, in tiles of 64, evenly; frozen parameters are nobody's. */
static void ranges(void) {
    for (int s = 0; s < SETTINGS; s++) {
        struct replica r;
        open_replica(&r, &settings[s], 1);
        for (size_t parts = 1; parts <= 9; parts++) {
            size_t whole[9] = {0};
            for (size_t i = 0; i < r.count; i++) {
                const size_t rows = parameter(&r, i).rows;
                size_t next = 0, least = SIZE_MAX, most = 0;
                for (size_t part = 0; part < parts; part++) {
                    size_t row, count;
                    OK(r.ctx, dqt_updater_get_part(r.updater, i, part, parts, &row, &count));
                    CHECK(row % 64 == 0);
                    if (count == rows && parts > 1) whole[part]++;
                    const size_t tiles = (count + 63) / 64;
                    least = tiles < least ? tiles : least;
                    most = tiles > most ? tiles : most;
                    if (count == 0) continue;
                    CHECKF(row == next, "parameter %zu, part %zu of %zu begins at %zu, not %zu", i, part, parts, row,
                           next);
                    next = row + count;
                }
                CHECKF(next == rows, "parameter %zu of %zu parts: %zu of %zu rows", i, parts, next, rows);
                CHECK(most - least <= 1 || (least == 0 && most == (rows + 63) / 64));
            }
            for (size_t part = 0; part < parts; part++)
                CHECKF(whole[0] >= whole[part] && whole[0] <= whole[part] + 1, "whole tensors go in turn: %zu and %zu",
                       whole[0], whole[part]);
        }
        close_replica(&r);
    }
}

static void frozen(void) {
    struct replica r;
    open_replica(&r, &settings[2], 1);
    dqt_group_options g;
    OK(r.ctx, dqt_group_options_init(&g, sizeof g));
    g.parameter_class = DQT_CLASS_LINEAR;
    g.freeze = 1;
    OK(r.ctx, dqt_updater_add_group(r.updater, &g, NULL));
    size_t row = 1, count = 1;
    OK(r.ctx, dqt_updater_get_part(r.updater, 0, 0, 2, &row, &count));
    CHECK(row == 0 && count == 0);
    OK(r.ctx, dqt_updater_get_part(r.updater, LAYERS - 1, 0, 2, &row, &count));
    CHECK(row == 0 && count == 1); /* the first that is left */
    close_replica(&r);
}

/* Mistakes change nothing. */
static void mistakes(void) {
    struct replica r, same;
    open_replica(&r, &settings[2], 1);
    open_replica(&same, &settings[2], 1);
    size_t row, count;
    uint64_t step = 9;
    set_gradients(&r, 0);
    CHECK(dqt_updater_step(NULL, r.tape, step_part(0.1f, 0, 1), NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_step(r.updater, NULL, step_part(0.1f, 0, 1), NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_step(r.updater, r.tape, step_part(0.1f, 2, 2), NULL) == DQT_E_ARGUMENT);
    CHECK(strstr(dqt_last_error(r.ctx), "part is 2"));
    CHECK(dqt_updater_step(r.updater, r.tape, step_part(0.1f, 1, 0), NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_step(r.updater, r.tape, step_part(-0.1f, 0, 1), NULL) == DQT_E_ARGUMENT);
    /* not finite, in a row of the other part */
    const float infinite[20] = {INFINITY};
    OK(r.ctx, dqt_tape_set_gradient(r.tape, 3, 319, 1, infinite));
    CHECK(dqt_updater_step(r.updater, r.tape, step_part(0.1f, 0, 2), NULL) == DQT_E_NUMERIC);
    OK(r.ctx, dqt_updater_get_step(r.updater, &step));
    CHECK(step == 0);
    compare_weights(&r, &same, "after mistakes");
    CHECK(dqt_updater_get_part(NULL, 0, 0, 1, &row, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(r.updater, r.count, 0, 1, &row, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(r.updater, 0, 1, 1, &row, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(r.updater, 0, 0, 0, &row, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(r.updater, 0, 0, 1, NULL, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(r.updater, 0, 0, 1, &row, NULL) == DQT_E_ARGUMENT);
    close_replica(&same);
    close_replica(&r);
}

static const struct test tests[] = {TEST(parts_are_the_whole),
                                    TEST(parts_on_one_updater),
                                    TEST(rows_of_the_part_suffice),
                                    TEST(ranges),
                                    TEST(frozen),
                                    TEST(mistakes)};
TEST_MAIN(tests)
