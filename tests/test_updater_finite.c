/* Every number of a step stays finite: weights, scales, states and statistics, for every optimiser x storage x state x
 * rounding, with and without first moments, at ordinary and at extreme gradients, rates, decays and scales. A step
 * either says DQT_OK and all is finite, or says DQT_E_NUMERIC and (not fused) has changed nothing. */
#include <float.h>
#include <math.h>

#include "format/format.h"
#include "layer/tape.h"
#include "optim/rounding.h"
#include "updater_fixture.h"

enum { ROWS = 66, COLS = 131, COUNT = ROWS * COLS, GAIN = 131, TENSORS = 2 };

struct world {
    dqt_tensor *tensors[TENSORS]; /* a matrix and a gain */
    dqt_updater *u;
    float *gradients[TENSORS];
    struct gradient buffers[TENSORS];
};

static dqt_status take_step(struct world *w, bool fused, float rate, dqt_step_stats *stats) {
    const struct gradient *list[TENSORS] = {&w->buffers[0], &w->buffers[1]};
    return fused ? fused_step(w->u, list, rate, stats) : updater_step(w->u, list, rate, stats);
}

static struct world begin(dqt_context *ctx, int storage, bool trained_scales, const dqt_updater_options *o) {
    struct world w;
    w.tensors[0] = make_tensor(ctx, ROWS, COLS, storage, trained_scales, 3);
    w.tensors[1] = make_tensor(ctx, 1, GAIN, DQT_FORMAT_F32, false, 4);
    const struct update_target targets[TENSORS] = {{"matrix", DQT_CLASS_MLP, w.tensors[0], 0, 0},
                                                   {"gain", DQT_CLASS_NORM, w.tensors[1], 0, 0}};
    w.u = make_updater(ctx, targets, TENSORS, o);
    for (int i = 0; i < TENSORS; i++) {
        w.gradients[i] = calloc(w.tensors[i]->rows * w.tensors[i]->cols, sizeof(float));
        if (!w.gradients[i]) abort();
        w.buffers[i] = gradient_around(w.gradients[i], w.tensors[i]);
    }
    return w;
}

static void end(struct world *w) {
    updater_destroy(w->u);
    for (int i = 0; i < TENSORS; i++) {
        tensor_destroy(w->tensors[i]);
        free(w->gradients[i]);
    }
}

/* ---- What is finite ------------------------------------------------------------------------------------------ */

static bool all_finite(const void *data, size_t count, size_t size) {
    for (size_t i = 0; i < count; i++) {
        const double x = size == 8   ? ((const double *)data)[i]
                         : size == 4 ? (double)((const float *)data)[i]
                         : size == 2 ? (double)bf16_to_f32(((const uint16_t *)data)[i])
                                     : 0.0;
        if (!isfinite(x)) return false;
    }
    return true;
}

static dqt_status check_piece(void *arg, const struct state_array *a) {
    if (strcmp(a->label, "step") == 0 || all_finite(a->data, a->count, a->element_size)) return DQT_OK;
    snprintf(arg, 64, "state %s", a->label);
    return DQT_E_NUMERIC;
}

/* NULL, or what is not finite. */
static const char *not_finite(const struct world *w) {
    static char text[64];
    static float row[COLS];
    if (updater_visit_state(w->u, check_piece, text) != DQT_OK) return text;
    for (int i = 0; i < TENSORS; i++) {
        const dqt_tensor *t = w->tensors[i];
        if (!all_finite(t->scales, t->num_scales, 4)) return "scales";
        for (size_t r = 0; r < t->rows; r++) {
            tensor_dequantize_row(t, r, row);
            if (!all_finite(row, t->cols, 4)) return i ? "gain" : "matrix";
        }
    }
    return NULL;
}

/* ---- Random and extreme -------------------------------------------------------------------------------------- */

/* Of any magnitude that a float has, now and then exactly 0 or the largest. */
static float any_float(uint64_t *random) {
    const float sign = test_random(random) & 1 ? -1.0f : 1.0f;
    switch (test_random(random) % 8) {
    case 0: return 0.0f;
    case 1: return sign * FLT_MAX;
    case 2: return sign * 0x1p-149f;
    case 3:
    case 4: return test_uniform(random);
    default: return sign * ldexpf(1.0f + 0.5f * fabsf(test_uniform(random)), (int)(test_random(random) % 276) - 149);
    }
}

static float pick(uint64_t *random, const float *values, size_t count) {
    return values[test_random(random) % count];
}
#define PICK(random, ...)                                                                                              \
    pick(random, (const float[]){__VA_ARGS__}, sizeof((const float[]){__VA_ARGS__}) / sizeof(float))

static dqt_updater_options any_options(uint64_t *random, int optimizer, int rounding, int state, float beta1) {
    dqt_updater_options o = plain_options(optimizer, rounding, beta1);
    o.momentum_state = state;
    o.variance_state = test_random(random) % 2 ? state : (int)(test_random(random) % 3);
    o.beta2 = PICK(random, 0.0f, 0.95f, 0.999f, 0x1.fffffep-1f);
    o.eps = PICK(random, 0x1p-126f, 1e-8f, 1e30f);
    o.weight_decay = PICK(random, 0.0f, 0.0f, 0.1f, 1e30f);
    o.clip = DQT_CLIP_GLOBAL_NORM + (int)(test_random(random) % 4);
    o.clip_norm = PICK(random, 0x1p-126f, 1.0f, 1e30f);
    o.update_clip = PICK(random, 0.0f, 0x1p-149f, 1.0f, 1e30f);
    o.scale_lr = PICK(random, 0.0f, 1.0f, 1e30f);
    o.rounding_noise = PICK(random, 1.0f, 0.0f, 0.3f);
    o.lagged = (int)(test_random(random) % 2);
    o.rate_corrected = (int)(test_random(random) % 2);
    return o;
}

static void any_gradient(uint64_t *random, float *g, size_t count) {
    const bool wild = test_random(random) % 2;
    const float size = fabsf(any_float(random)), most = fminf(size, FLT_MAX / 2);
    for (size_t i = 0; i < count; i++)
        g[i] = wild ? any_float(random) : most * test_uniform(random);
}

static float any_rate(uint64_t *random) {
    const float rate = fabsf(any_float(random));
    return test_random(random) % 4 ? rate : PICK(random, 0.0f, 1e-45f, 7e-40f, 1e-3f, 1.0f, 0x1p76f, 1e30f, FLT_MAX);
}

static size_t accepted, refused;

static void some_steps(struct world *w, uint64_t *random, bool fused, const char *what) {
    for (int step = 0; step < 5; step++) {
        any_gradient(random, w->gradients[0], COUNT);
        any_gradient(random, w->gradients[1], GAIN);
        const float rate = any_rate(random);
        const uint64_t before = hash_all(w->u);
        dqt_step_stats stats = {.struct_size = sizeof stats};
        const dqt_status status = take_step(w, fused, rate, &stats);
        CHECKF(status == DQT_OK || status == DQT_E_NUMERIC, "%s: %s", what, dqt_last_error(updater_context(w->u)));
        const char *wrong = not_finite(w);
        if (wrong) {
            CHECKF(false, "%s, rate %g, step %d, status %d: %s not finite", what, (double)rate, step, status, wrong);
            return;
        }
        if (status == DQT_OK)
            CHECK(isfinite(stats.gradient_norm) && isfinite(stats.update_rms));
        else
            CHECKF(hash_all(w->u) == before, "%s, rate %g: refused and changed", what, (double)rate);
        *(status == DQT_OK ? &accepted : &refused) += 1;
    }
}

/* Weights of float storage as large as they come, now and then. */
static void any_weights(struct world *w, uint64_t *random) {
    const dqt_tensor *t = w->tensors[0];
    if (format_is_code(t->storage) || test_random(random) % 2) return;
    for (size_t i = 0; i < COUNT; i++) {
        const float x = any_float(random);
        if (format_float_bytes(t->storage) == sizeof(float))
            ((float *)(void *)t->data)[i] = x;
        else
            ((uint16_t *)(void *)t->data)[i] = f32_to_bf16(fmaxf(fminf(x, 0x1.fep127f), -0x1.fep127f));
    }
}

static void all_stays_finite(void) {
    dqt_context *contexts[] = {isa_context(DQT_ISA_SCALAR, 1), NULL};
    if (dqt_context_create(NULL, &contexts[1]) != DQT_OK) abort();
    uint64_t random = 20261128;
    const int formats = (int)format_count();
    for (int i = 0; i < formats * 4 * 5 * 3 * 2 * 2; i++) {
        const int storage = DQT_FORMAT_F32 + i % formats, k = i / formats;
        const int optimizer = DQT_OPTIMIZER_SGD + k % 4, rounding = DQT_ROUND_STOCHASTIC + k / 4 % 5,
                  state = k / 20 % 3;
        const bool momentum = k / 60 % 2, fused = k / 120;
        if ((!momentum || optimizer == DQT_OPTIMIZER_MUON) && rounding_of(rounding)->eco) continue;
        char what[96];
        snprintf(what, sizeof what, "%s optimizer %d rounding %d state %d beta1 %d fused %d",
                 format_public_name(storage), optimizer, rounding, state, momentum, fused);
        for (int round = 0; round < 3; round++) {
            const float beta1 = momentum ? PICK(&random, 0x1p-20f, 0.9f, 0x1.fffffep-1f) : 0.0f;
            dqt_updater_options o = any_options(&random, optimizer, rounding, state, beta1);
            if (fused && o.clip == DQT_CLIP_GLOBAL_NORM) o.clip = DQT_CLIP_NONE;
            struct world w = begin(contexts[round % 2], storage,
                                   storage != DQT_FORMAT_F32 && storage != DQT_FORMAT_BF16 && round == 2 &&
                                       optimizer != DQT_OPTIMIZER_MUON,
                                   &o);
            any_weights(&w, &random);
            some_steps(&w, &random, fused, what);
            end(&w);
        }
    }
    CHECKF(accepted > 3000 && refused > 300, "%zu steps accepted, %zu refused", accepted, refused);
    for (int i = 0; i < 2; i++)
        dqt_context_destroy(contexts[i]);
}

/* ---- Single cases -------------------------------------------------------------------------------------------- */

/* A step at a rate near 0 and one at an ordinary rate: the factor of what ECO feeds back overflows, nothing is fed
 * back, and codes move as they would without that step. */
static void eco_at_tiny_rates(void) {
    static const float tiny[] = {1e-45f, 7e-40f, 1e-38f};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++)
        for (int state = 0; state < 3; state++)
            for (int k = 0; k < 3; k++) {
                dqt_updater_options o = plain_options(optimizer, DQT_ROUND_ECO_STOCHASTIC, 0.8f);
                o.momentum_state = state;
                struct world w = begin(ctx, DQT_FORMAT_TERNARY, false, &o);
                w.tensors[0]->scales[0] = k ? 1e-3f : 1e6f; /* the moment overflows, or already the factor */
                random_fill(w.gradients[0], COUNT, 1.0f, 1);
                for (int step = 0; step < 4; step++)
                    OK(ctx, take_step(&w, false, step == 2 ? tiny[k] : 2e-3f, NULL));
                CHECKF(!not_finite(&w), "%s", not_finite(&w));
                const struct find_state m = state_piece(w.u, state == DQT_STATE_INT8 ? "0.m_scale" : "0.m");
                for (size_t i = 0; i < m.count; i++) {
                    const double x = state == DQT_STATE_BF16 ? (double)bf16_to_f32(((const uint16_t *)m.data)[i])
                                                             : (double)((const float *)m.data)[i];
                    if (!(fabs(x) < 1e12)) {
                        CHECKF(false, "optimizer %d state %d rate %g: m is %g", optimizer, state, (double)tiny[k], x);
                        break;
                    }
                }
                end(&w);
            }
    dqt_context_destroy(ctx);
}

/* Rates at which float weights might overflow are refused, below they are not; codes take any rate. */
static void limits_of_rates(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    const dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, 0.9f);
    for (int fused = 0; fused < 2; fused++) {
        struct world w = begin(ctx, DQT_FORMAT_INT4, false, &o);
        for (int i = 0; i < TENSORS; i++)
            random_fill(w.gradients[i], w.tensors[i]->rows * w.tensors[i]->cols, 1.0f, 5);
        const uint64_t before = hash_all(w.u);
        for (int k = 0; k < 2; k++) {
            const float rate = k ? FLT_MAX : 0x1.000002p76f;
            CHECK(take_step(&w, fused, rate, NULL) == DQT_E_NUMERIC);
            CHECK(strstr(dqt_last_error(ctx), "gain") != NULL && hash_all(w.u) == before);
        }
        OK(ctx, take_step(&w, fused, 0x1p76f, NULL));
        const dqt_group_options gain = {.struct_size = sizeof gain, .pattern = "gain", .freeze = 1};
        size_t matched;
        OK(ctx, updater_add_group(w.u, &gain, &matched)); /* frozen */
        OK(ctx, take_step(&w, fused, FLT_MAX, NULL));
        CHECK(!not_finite(&w));
        end(&w);
    }
    dqt_updater_options decay = o;
    decay.weight_decay = 4.0f;
    struct world w = begin(ctx, DQT_FORMAT_BF16, false, &decay);
    OK(ctx, take_step(&w, false, 0.5f, NULL));
    const uint64_t before = hash_all(w.u);
    CHECK(take_step(&w, false, 0.51f, NULL) == DQT_E_NUMERIC && hash_all(w.u) == before);
    CHECK(strstr(dqt_last_error(ctx), "matrix") != NULL);
    decay.weight_decay = 1e30f;
    struct world still = begin(ctx, DQT_FORMAT_F32, false, &decay);
    float *weights = (float *)(void *)still.tensors[0]->data;
    weights[0] = FLT_MAX; /* decay * w is infinite, 0 times it no number */
    OK(ctx, take_step(&still, false, 0.0f, NULL));
    CHECK(weights[0] == FLT_MAX);
    end(&still);
    updater_set_step_count(w.u, UINT64_MAX);
    const uint64_t last = hash_all(w.u);
    CHECK(take_step(&w, false, 0.1f, NULL) == DQT_E_STATE && hash_all(w.u) == last);
    CHECK(take_step(&w, true, 0.1f, NULL) == DQT_E_STATE && hash_all(w.u) == last);
    end(&w);
    dqt_context_destroy(ctx);
}

/* Lagged column statistics that are tiny, or 0, beside a row's: their product overflows. */
static void uneven_statistics(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, 0.9f);
    o.lagged = 1;
    struct world w = begin(ctx, DQT_FORMAT_F32, false, &o);
    random_fill(w.gradients[0], COUNT, 1.0f, 5);
    float *row = state_piece(w.u, "0.row").data, *column = state_piece(w.u, "0.column").data;
    for (size_t r = 0; r < ROWS; r++)
        row[r] = 0x1p100f;
    for (size_t k = 0; k < COLS; k++)
        column[k] = k % 2 ? 1e-38f : 0.0f;
    OK(ctx, take_step(&w, false, 1e-3f, NULL));
    CHECK(!not_finite(&w));
    for (size_t i = 0; i < COUNT; i++) {
        const float x = ((const float *)(const void *)w.tensors[0]->data)[i];
        if (!(fabsf(x) < 1e8f)) {
            CHECKF(false, "weight %zu is %g", i, (double)x);
            break;
        }
    }
    end(&w);
    dqt_context_destroy(ctx);
}

/* A gradient of 0 moves no trained scale, whatever the rate: infinity times 0 is no number. */
static void zero_gradient_keeps_scales(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, 0.9f);
    o.scale_lr = 1e30f;
    struct world w = begin(ctx, DQT_FORMAT_TERNARY, true, &o);
    const float before = w.tensors[0]->scales[5];
    OK(ctx, take_step(&w, false, 0x1p76f, NULL));
    CHECK(w.tensors[0]->scales[5] == before);
    end(&w);
    dqt_context_destroy(ctx);
}

/* ---- Fused, a tensor as a whole ------------------------------------------------------------------------------ */

/* Two layers of several tiles of 64 rows, of which the second, going back first, gets a gradient that is fine. */
struct fused_world {
    dqt_layer *layers[2];
    dqt_tape *tape;
    dqt_updater *u;
};

static struct fused_world fused_begin(dqt_context *ctx, bool embedding, int activation, int optimizer) {
    struct fused_world w;
    dqt_layer_options l = {.struct_size = sizeof l, .activation = activation, .weight.storage = DQT_FORMAT_INT4};
    dqt_updater_options o = {.struct_size = sizeof o, .optimizer = optimizer, .clip = DQT_CLIP_NONE, .lagged = 1};
    const dqt_tape_options t = {.struct_size = sizeof t, .max_length = 70};
    OK(ctx, embedding ? dqt_embedding_create(ctx, 150, 70, &l, &w.layers[0])
                      : dqt_linear_create(ctx, 70, 150, &l, &w.layers[0]));
    OK(ctx, dqt_linear_create(ctx, 70, 150, &l, &w.layers[1]));
    OK(ctx, dqt_tape_create(ctx, w.layers, 2, &t, &w.tape));
    OK(ctx, dqt_updater_create(ctx, w.layers, 2, &o, &w.u));
    return w;
}

static void fused_end(struct fused_world *w) {
    dqt_updater_destroy(w->u);
    dqt_tape_destroy(w->tape);
    dqt_layer_destroy(w->layers[0]);
    dqt_layer_destroy(w->layers[1]);
}

enum { FUSED_TOKENS = 70, FUSED_IN = 70, FUSED_OUT = 150 };

static dqt_status fused_pass_of(dqt_context *ctx, struct fused_world *w, bool embedding, float *x, float *dy) {
    static float y[FUSED_TOKENS * FUSED_OUT], fine[FUSED_TOKENS * FUSED_OUT];
    static int32_t tokens[FUSED_TOKENS];
    for (int i = 0; i < FUSED_TOKENS; i++)
        tokens[i] = i * 2;
    const dqt_batch batch = {.struct_size = sizeof batch, .length = FUSED_TOKENS, .tokens = tokens};
    static float x1[FUSED_TOKENS * FUSED_IN];
    random_fill(x1, FUSED_TOKENS * FUSED_IN, 1.0f, 8);
    random_fill(fine, FUSED_TOKENS * FUSED_OUT, 1.0f, 9 + updater_step_count(w->u));
    OK(ctx, embedding ? dqt_embedding_forward(w->layers[0], w->tape, &batch, y)
                      : dqt_layer_forward(w->layers[0], w->tape, &batch, x, y));
    OK(ctx, dqt_layer_forward(w->layers[1], w->tape, &batch, x1, y));
    OK(ctx, updater_begin(w->u, 0.1f));
    w->tape->fused = w->u;
    OK(ctx, dqt_layer_backward(w->layers[1], w->tape, fine, NULL));
    OK(ctx, embedding ? dqt_embedding_backward(w->layers[0], w->tape, dy)
                      : dqt_layer_backward(w->layers[0], w->tape, dy, NULL));
    w->tape->fused = NULL;
    return updater_end(w->u, NULL);
}

static uint64_t hash_of_first(struct fused_world *w) {
    static const char *const pieces[] = {"0.m", "0.v", "0.row", "0.column", "0.history"};
    uint64_t h = hash_tensor(1, updater_target(w->u, 0)->tensor);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        const struct find_state p = state_piece(w->u, pieces[i]);
        if (p.data) h = hash_bytes(h, p.data, p.count * p.element_size);
    }
    return h;
}

/* One element of dy that is not finite, or products that could overflow in some tile: no tile of the tensor is written,
 * the other tensor is updated, and the next step goes on. */
static void fused_tensors_stay_whole(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e38f};
    static float x[FUSED_TOKENS * FUSED_IN], dy[FUSED_TOKENS * FUSED_OUT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 2);
    for (int k = 0; k < 4 * 3 * 3; k++) {
        const bool embedding = k / 4 % 3 == 2;
        const int activation = k / 4 % 3 ? DQT_ACTIVATION_NONE : DQT_ACTIVATION_INT8;
        const size_t width = embedding ? FUSED_IN : FUSED_OUT;
        struct fused_world w = fused_begin(ctx, embedding, activation, DQT_OPTIMIZER_SGD + k / 12);
        random_fill(x, FUSED_TOKENS * FUSED_IN, 3.0f, 1);
        random_fill(dy, FUSED_TOKENS * width, 1.0f, 2);
        OK(ctx, fused_pass_of(ctx, &w, embedding, x, dy));
        const uint64_t first = hash_of_first(&w), second = hash_tensor(1, updater_target(w.u, 1)->tensor);
        dy[65 * width + width - 1] = bad[k % 4]; /* of the last tile */
        if (bad[k % 4] < INFINITY && embedding) dy[0] = FLT_MAX;
        if (bad[k % 4] < INFINITY) x[65 * FUSED_IN] = 50.0f;
        CHECKF(fused_pass_of(ctx, &w, embedding, x, dy) == DQT_E_NUMERIC, "case %d", k);
        CHECKF(hash_of_first(&w) == first, "case %d: the tensor, or its state, was changed", k);
        CHECK(hash_tensor(1, updater_target(w.u, 1)->tensor) != second);
        CHECK(strstr(dqt_last_error(ctx), updater_target(w.u, 0)->name) != NULL);
        random_fill(x, FUSED_TOKENS * FUSED_IN, 3.0f, 1);
        random_fill(dy, FUSED_TOKENS * width, 1.0f, 2);
        OK(ctx, fused_pass_of(ctx, &w, embedding, x, dy));
        CHECK(hash_of_first(&w) != first && updater_step_count(w.u) == 3);
        fused_end(&w);
    }
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {
    TEST(all_stays_finite),  TEST(eco_at_tiny_rates),          TEST(limits_of_rates),
    TEST(uneven_statistics), TEST(zero_gradient_keeps_scales), TEST(fused_tensors_stay_whole)};
TEST_MAIN(tests)
