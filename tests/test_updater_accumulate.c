/* DQT_ROUND_ACCUMULATE: what is kept of a step, when a code moves, that nothing is lost on the way, the grid of another
 * rule, what stays and what is refused; the kernels on every instruction set. tests/test_updater_formulas.c has the
 * formula. Bounds are 5 standard errors (p < 6e-7 each) with fixed seeds. */
#define _DEFAULT_SOURCE
#include <float.h>

#include "core/rng.h"
#include "formats.h"
#include "gemm_world.h"
#include "optim/updater_state.h"
#include "updater_fixture.h"

enum { ROWS = 130, COLS = 501, COUNT = ROWS * COLS };

/* One tensor in training: SGD, so that u is the gradient. */
struct one {
    dqt_tensor *t;
    dqt_updater *u;
    int8_t *sums;
};

/* All codes `code`, of scale 1; all accumulators `sum` steps of their grid. */
static struct one open_one(dqt_context *ctx, int format, int8_t code, int8_t sum, float beta1, float noise) {
    dqt_updater_options o = plain_options(DQT_OPTIMIZER_SGD, DQT_ROUND_ACCUMULATE, beta1);
    o.rounding_noise = noise;
    struct one w = {.t = make_tensor(ctx, ROWS, COLS, format, false, 1)};
    set_code(w.t, code);
    w.t->scales[0] = 1.0f;
    const struct update_target target = {"w", DQT_CLASS_LINEAR, w.t, 0, 0};
    w.u = make_updater(ctx, &target, 1, &o);
    w.sums = state_piece(w.u, "0.accumulator").data;
    memset(w.sums, sum, COUNT);
    return w;
}

static void close_one(struct one *w) {
    updater_destroy(w->u);
    tensor_destroy(w->t);
}

/* Every weight by `codes` steps of its codes. */
static dqt_step_stats push(struct one *w, double codes) {
    static float g[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        g[i] = (float)-codes;
    const struct gradient gradient = gradient_around(g, w->t), *list = &gradient;
    dqt_step_stats stats = {.struct_size = sizeof stats};
    OK(updater_context(w->u), updater_step(w->u, &list, 1.0f, &stats));
    return stats;
}

static double grid_of(float beta1, float noise) {
    return (0.5 + (double)noise / 2) / (1 - (double)beta1) / 127;
}

/* ---- Statistics ----------------------------------------------------------------------------------------------- */

/* Below the threshold codes stay, and the accumulator takes up the step: one of two neighbours on its grid, the mean
 * and the variance those of unbiased rounding. */
static void steps_are_kept(void) {
    static const double steps[] = {0.3, -0.3, 0.01, -0.01, 0.0004, 0.5, 1.25, -2.75, 7};
    static const int8_t firsts[] = {0, 100, -100, 3};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        for (size_t k = 0; k < sizeof firsts; k++) {
            struct one w = open_one(ctx, DQT_FORMAT_INT4, 1, firsts[k], 0.75f, 0.0f);
            CHECK(push(&w, steps[i] * grid_of(0.75f, 0.0f)).flipped == 0);
            const double p = steps[i] - floor(steps[i]), variance = p * (1 - p);
            double sum = 0, squares = 0;
            size_t elsewhere = 0;
            for (size_t e = 0; e < COUNT; e++) {
                const double d = w.sums[e] - firsts[k] - steps[i];
                sum += d;
                squares += d * d;
                elsewhere += fabs(d) > 1.0;
            }
            const double fourth = variance * (1 - 3 * variance) - variance * variance; /* of a Bernoulli number */
            CHECKF(elsewhere == 0 && fabs(sum / COUNT) < 5 * sqrt(variance / COUNT) + 1e-5,
                   "%g steps from %d: mean off by %g", steps[i], firsts[k], sum / COUNT);
            CHECKF(fabs(squares / COUNT - variance) < 5 * sqrt(fmax(fourth, 0) / COUNT) + 1e-5,
                   "%g steps: variance %g, expected %g", steps[i], squares / COUNT, variance);
            close_one(&w);
        }
    dqt_context_destroy(ctx);
}

/* Without a gradient a code moves up where r >= 1/2 + (1/2 - y) / n, y = (1 - b1) P; what it moved by leaves P, so that
 * the mean of q + P stays, whatever the noise. */
static void codes_move_by_chance(void) {
    static const int8_t sums[] = {0, 20, 63, 64, 90, 110, 126, 127, -127, -70};
    static const float noises[] = {1.0f, 0.3f, 0.05f}, betas[] = {0.0f, 0.6f, 0.9f};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t i = 0; i < sizeof sums; i++)
        for (int v = 0; v < 9; v++) {
            const float noise = noises[v % 3], beta1 = betas[v / 3];
            struct one w = open_one(ctx, DQT_FORMAT_INT4, 1, sums[i], beta1, noise);
            push(&w, 0);
            const double grid = grid_of(beta1, noise), y = (1 - (double)beta1) * sums[i] * grid, x = y - floor(y);
            const double p = fmin(fmax(1 - (0.5 + (0.5 - x) / (double)noise), 0), 1), error = sqrt(p * (1 - p) / COUNT);
            int8_t *codes = codes_of(w.t);
            double up = 0, both = 0;
            for (size_t e = 0; e < COUNT; e++) {
                up += codes[e] - 1 - floor(y);
                both += codes[e] - 1 + (w.sums[e] - sums[i]) * grid;
            }
            CHECKF(fabs(up / COUNT - p) <= 5 * error + 1e-6, "beta1 %g, noise %g, sum %d: %g moved up, expected %g",
                   (double)beta1, (double)noise, sums[i], up / COUNT, p);
            CHECKF(fabs(both / COUNT) <= 5 * 0.5 * grid / sqrt(COUNT), "beta1 %g, noise %g, sum %d: %g was lost",
                   (double)beta1, (double)noise, sums[i], both / COUNT);
            free(codes);
            close_one(&w);
        }
    dqt_context_destroy(ctx);
}

/* 300 steps of 0.011 codes, and decay: q + P is the unrounded weight but for the rounding of P, which is unbiased. */
static void nothing_is_lost(void) {
    enum { STEPS = 300 };
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int v = 0; v < 4; v++) {
        const float beta1 = v & 1 ? 0.6f : 0.0f, noise = v & 2 ? 0.3f : 1.0f;
        struct one w = open_one(ctx, DQT_FORMAT_INT8, 2, 0, beta1, noise);
        const double grid = grid_of(beta1, noise);
        uint64_t flipped = 0;
        for (int step = 0; step < STEPS; step++)
            flipped += push(&w, 0.011).flipped;
        int8_t *codes = codes_of(w.t);
        double sum = 0;
        for (size_t e = 0; e < COUNT; e++)
            sum += codes[e] - 2 + w.sums[e] * grid;
        CHECKF(fabs(sum / COUNT - 0.011 * STEPS) < 5 * sqrt(STEPS / 4.0) * grid / sqrt(COUNT) + 1e-5 && flipped > COUNT,
               "beta1 %g, noise %g: mean %g", (double)beta1, (double)noise, sum / COUNT);
        free(codes);
        close_one(&w);
    }
    dqt_context_destroy(ctx);
}

/* ---- Ends ----------------------------------------------------------------------------------------------------- */

/* A code at the end of its format keeps no more than the limit, and comes back when that is used up. */
static void ends_hold(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    EACH_FORMAT(format) {
        if (!number_is_code(format)) continue;
        const int8_t high = (int8_t)format_max(format_of(format));
        struct one w = open_one(ctx, format, high, 0, 0.6f, 0.0f);
        for (int step = 0; step < 3; step++) {
            const dqt_step_stats s = push(&w, 5);
            CHECK(s.flipped == 0 && s.saturated == COUNT);
        }
        for (size_t e = 0; e < COUNT; e++)
            CHECK(w.sums[e] == 127);
        CHECK(push(&w, -2.4).flipped == 0); /* the limit is 1.25 on either side */
        CHECK(push(&w, -0.2).flipped == COUNT);
        int8_t *codes = codes_of(w.t);
        for (size_t e = 0; e < COUNT; e++)
            CHECK(codes[e] == high - 1);
        free(codes);
        close_one(&w);
    }
    dqt_context_destroy(ctx);
}

/* Frozen: nothing changes; thawed, it goes on from there. A gradient that is not finite changes nothing. */
static void frozen_stays(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    struct one a = open_one(ctx, DQT_FORMAT_TERNARY, 0, 0, 0.6f, 0.3f);
    push(&a, 0.3);
    const uint64_t before = hash_bytes(hash_tensor(1, a.t), a.sums, COUNT);
    size_t matched;
    dqt_group_options group = {.struct_size = sizeof group, .freeze = 1};
    OK(ctx, updater_add_group(a.u, &group, &matched));
    CHECK(push(&a, 0.7).flipped == 0 && hash_bytes(hash_tensor(1, a.t), a.sums, COUNT) == before);
    group.freeze = -1;
    OK(ctx, updater_add_group(a.u, &group, &matched));
    float *g = random_floats(COUNT, 1, 5);
    g[COUNT - 1] = NAN;
    const struct gradient gradient = gradient_around(g, a.t), *list = &gradient;
    const uint64_t all = hash_all(a.u);
    CHECK(updater_step(a.u, &list, 1, NULL) == DQT_E_NUMERIC && hash_all(a.u) == all);
    CHECK(fused_step(a.u, &list, 1, NULL) == DQT_E_NUMERIC); /* the last tile stays, the others move */
    for (size_t e = 128 * COLS; e < COUNT; e++)
        CHECK(a.sums[e] >= 0);
    size_t negative = 0;
    for (size_t e = 0; e < 128 * COLS; e++)
        negative += a.sums[e] < 0;
    CHECK(negative > COUNT / 4);
    const uint64_t tail = hash_bytes(1, a.sums + 128 * COLS, 2 * COLS);
    CHECK(push(&a, 0.7).flipped > 0 && hash_bytes(1, a.sums + 128 * COLS, 2 * COLS) != tail);
    free(g);
    close_one(&a);
    dqt_context_destroy(ctx);
}

/* A scale of 0, of a group or a tensor: codes and accumulators stay as they are, whatever these hold. */
static void scale_zero_stays(void) {
    enum { GROUPED = 128 };
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_tensor_options to = {.struct_size = sizeof to,
                             .storage = DQT_FORMAT_INT4,
                             .scale_rule = DQT_SCALE_ABSMEAN,
                             .scale_axis = DQT_AXIS_GROUP,
                             .sigma = 4.0f,
                             .group_size = 32};
    dqt_tensor *t;
    OK(ctx, tensor_create(ctx, ROWS, GROUPED, &to, false, &t));
    float *g = random_floats(ROWS * GROUPED, 0.3f, 3);
    tensor_quantize(t, g, false, 0);
    for (size_t k = 0; k < t->num_scales; k += 2)
        t->half_scales[k] = k % 4 ? 0x8000 : 0;
    const dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAMW, DQT_ROUND_ACCUMULATE, 0.6f);
    const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    int8_t *sums = state_piece(u, "0.accumulator").data, *before = codes_of(t), *kept = malloc(ROWS * GROUPED);
    if (!kept) abort();
    for (size_t e = 0; e < ROWS * GROUPED; e++)
        kept[e] = sums[e] = (int8_t)(e % 255 - 127);
    const struct gradient gradient = gradient_around(g, t), *list = &gradient;
    for (int step = 0; step < 3; step++)
        OK(ctx, updater_step(u, &list, 0.05f, NULL));
    int8_t *after = codes_of(t);
    size_t wrong = 0, moved = 0;
    for (size_t e = 0; e < ROWS * GROUPED; e++) {
        const bool changed = before[e] != after[e] || sums[e] != kept[e];
        *(e / 32 % 2 ? &moved : &wrong) += changed;
    }
    CHECKF(wrong == 0 && moved > ROWS * GROUPED / 4, "%zu wrong, %zu moved", wrong, moved);
    free(g);
    free(kept);
    free(before);
    free(after);
    updater_destroy(u);
    tensor_destroy(t);
    dqt_context_destroy(ctx);
}

/* ---- Rules ---------------------------------------------------------------------------------------------------- */

/* Another beta1 or noise: the accumulators on the new grid, unbiased between its neighbours; ends are ends. */
static void another_grid(void) {
    static const struct {
        float beta1, noise;
    } rules[] = {{0.6f, 0.3f}, {0.6f, 1.0f}, {0.9f, 0.3f}, {0.1f, 0.05f}, {0x1.fffffep-1f, 1.0f}};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        for (int sum = -127; sum <= 127; sum += 31) {
            struct one w = open_one(ctx, DQT_FORMAT_INT4, 1, (int8_t)sum, 0.6f, 0.3f);
            const dqt_group_options group = {
                .struct_size = sizeof group, .beta1 = rules[i].beta1, .rounding_noise = rules[i].noise, .lr_factor = 2};
            size_t matched = 0;
            OK(ctx, updater_add_group(w.u, &group, &matched));
            CHECK(matched == 1);
            const double want =
                fmin(fmax(sum * grid_of(0.6f, 0.3f) / grid_of(rules[i].beta1, rules[i].noise), -127), 127);
            const double p = want - floor(want);
            double mean = 0;
            size_t elsewhere = 0;
            for (size_t e = 0; e < COUNT; e++) {
                mean += w.sums[e];
                elsewhere += fabs(w.sums[e] - want) >= 1.0;
            }
            mean /= COUNT;
            CHECKF(elsewhere == 0 && fabs(mean - want) <= 5 * sqrt(p * (1 - p) / COUNT) + 1e-4,
                   "beta1 %g, noise %g, from %d: %g, expected %g", (double)rules[i].beta1, (double)rules[i].noise, sum,
                   mean, want);
            if (i == 0) CHECK(mean == (double)sum); /* the same grid: not a bit */
            push(&w, 0.1);
            close_one(&w);
        }
    dqt_context_destroy(ctx);
}

/* The format of first moments does not matter to codes, and no beta1 means none of float weights either. */
static void momentum_state_does_not_matter(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    float *g = random_floats(COUNT, 1, 5);
    for (int32_t optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++) {
        uint64_t first = 0;
        for (int32_t state = DQT_STATE_F32; state <= DQT_STATE_INT8; state++) {
            dqt_updater_options o = plain_options(optimizer, DQT_ROUND_ACCUMULATE, 0.6f);
            o.momentum_state = state;
            dqt_tensor *t[2] = {make_tensor(ctx, ROWS, COLS, DQT_FORMAT_TERNARY, true, 1),
                                make_tensor(ctx, ROWS, COLS, DQT_FORMAT_BF16, false, 1)};
            const struct update_target targets[2] = {{"code", DQT_CLASS_MLP, t[0], 0, 0},
                                                     {"number", DQT_CLASS_HEAD, t[1], 0, 0}};
            dqt_updater *u = make_updater(ctx, targets, 2, &o);
            CHECK(!state_piece(u, "0.m").data && state_piece(u, "0.accumulator").data &&
                  state_piece(u, "0.scale_m").data);
            CHECK(state_piece(u, "1.m").data && !state_piece(u, "1.accumulator").data);
            const struct gradient a = gradient_around(g, t[0]), *list[2] = {&a, &a};
            for (int step = 0; step < 3; step++)
                OK(ctx, updater_step(u, list, 0.03f, NULL));
            const uint64_t h = hash_bytes(hash_tensor(1, t[0]), state_piece(u, "0.accumulator").data, COUNT);
            if (state == DQT_STATE_F32) first = h;
            CHECK(h == first);
            updater_destroy(u);
            for (int k = 0; k < 2; k++)
                tensor_destroy(t[k]);
        }
    }
    free(g);
    dqt_context_destroy(ctx);
}

/* Groups of the options may have it or not; a group that comes later must leave it, and nothing has changed then. An
 * optimiser that needs a first moment cannot have it. */
static void rules_are_kept(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_tensor *t[3];
    for (int i = 0; i < 3; i++)
        t[i] = make_tensor(ctx, 4, 8, i < 2 ? DQT_FORMAT_TERNARY : DQT_FORMAT_BF16, false, 1);
    const struct update_target targets[3] = {
        {"a", DQT_CLASS_MLP, t[0], 0, 0}, {"b", DQT_CLASS_MLP, t[1], 0, 0}, {"number", DQT_CLASS_HEAD, t[2], 0, 0}};
    const dqt_group_options first = {.struct_size = sizeof first, .pattern = "a", .rounding = DQT_ROUND_ACCUMULATE};
    dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, 0.6f);
    o.groups = &first;
    o.num_groups = 1;
    dqt_updater *u = make_updater(ctx, targets, 3, &o);
    CHECK(state_piece(u, "0.accumulator").count == 32 && !state_piece(u, "0.m").data);
    CHECK(!state_piece(u, "1.accumulator").data && state_piece(u, "1.m").count == 32);
    static const struct {
        const char *pattern;
        int32_t rounding;
        bool possible;
    } changes[] = {{"a", DQT_ROUND_ACCUMULATE, true},      {"a", DQT_ROUND_ECO_STOCHASTIC, false},
                   {"a", DQT_ROUND_NEAREST, false},        {"b", DQT_ROUND_ACCUMULATE, false},
                   {"b", DQT_ROUND_STOCHASTIC, true},      {"*", DQT_ROUND_ACCUMULATE, false},
                   {"number", DQT_ROUND_ACCUMULATE, true}, {"number", DQT_ROUND_NEAREST, true}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const dqt_group_options g = {
            .struct_size = sizeof g, .pattern = changes[i].pattern, .rounding = changes[i].rounding, .beta1 = 0.9f};
        struct update_rule before[3];
        for (size_t k = 0; k < 3; k++)
            before[k] = updater_get_rule(u, k);
        size_t matched;
        CHECKF(updater_add_group(u, &g, &matched) == (changes[i].possible ? DQT_OK : DQT_E_UNSUPPORTED), "change %zu",
               i);
        for (size_t k = 0; k < 3 && !changes[i].possible; k++)
            CHECK(updater_get_rule(u, k).rounding == before[k].rounding &&
                  updater_get_rule(u, k).beta1 == before[k].beta1);
    }
    struct update_rule rule = updater_get_rule(u, 0);
    rule.rounding = DQT_ROUND_STOCHASTIC;
    CHECK(!updater_set_rule(u, 0, rule) && updater_get_rule(u, 0).rounding == DQT_ROUND_ACCUMULATE);
    struct optimizer needy = *optimizer_of(DQT_OPTIMIZER_SGD);
    needy.needs_momentum = true;
    needy.linear = false;
    CHECK(updater_check_rounding(ctx, &needy, 0.9f, DQT_ROUND_ACCUMULATE, &targets[0]) == DQT_E_UNSUPPORTED);
    CHECK(updater_check_rounding(ctx, &needy, 0.9f, DQT_ROUND_ACCUMULATE, &targets[2]) == DQT_OK);
    needy.needs_momentum = false;
    CHECK(updater_check_rounding(ctx, &needy, 0.0f, DQT_ROUND_ACCUMULATE, &targets[0]) == DQT_OK);
    updater_destroy(u);
    for (int i = 0; i < 3; i++)
        tensor_destroy(t[i]);
    dqt_context_destroy(ctx);
}

/* ---- Kernels -------------------------------------------------------------------------------------------------- */

struct row_memory {
    float *gradient, *v, *column;
    unsigned char *weight;
    int8_t *accumulator;
    uint16_t *half_scales;
};

static float any_of(uint64_t *random, const float *values, size_t count) {
    return values[test_random(random) % count];
}

/* Every instruction set as plain C: rows that end at a guard page, of any length, in any format, with ends of what
 * gradients, scales, rates and accumulators may be (codes of -128 too, which only a file can hold). */
static void kernels_agree(void) {
    static const float gradients[] = {0, 1, -1, 0x1p-149f, 3e38f, -3e38f, 0.3f, -1e-5f};
    static const float scales[] = {0, 1, 0.01f, 1e-30f, 1e30f, -0.5f}, rates[] = {0, 1e-38f, 1e-3f, 1, 1e30f, FLT_MAX};
    static const float noises[] = {0, 0.3f, 1}, betas[] = {0, 0.6f, 0x1.fffffep-1f};
    dqt_context *scalar = isa_context(DQT_ISA_SCALAR, 1);
    uint64_t random = 9;
    size_t flipped = 0;
    for (size_t set = 0; set < ISA_COUNT; set++) {
        dqt_context *ctx = isa_context(isa_caps[set].isa, 1);
        EACH_FORMAT(format)
        for (int round = 0; ctx && number_is_code(format) && round < 60; round++) {
            const struct packing *packing = format_packing(format_of(format));
            const bool groups = round % 3 == 0;
            const size_t cols = groups ? 32 * (1 + test_random(&random) % 12) : 1 + test_random(&random) % 400;
            const size_t bytes = (cols + 63) / 64 * packing_block_bytes(packing);
            const struct update_rule rule = {.beta1 = any_of(&random, betas, 3),
                                             .rounding_noise = any_of(&random, noises, 3)};
            const struct update_plan plan = {
                .method = round % 2 ? UPDATE_ADAMW : UPDATE_ADAFACTOR,
                .packing = packing,
                .stochastic = true,
                .accumulate = true,
                .train_scale = round % 5 == 0 && !groups,
                .variance = round % 2,
                .clip = 1,
                .learning_rate = any_of(&random, rates, 6),
                .weight_decay = round % 7 ? 0.1f : 1e30f,
                .one_minus_beta1 = 1,
                .beta2 = 0.95f,
                .one_minus_beta2 = 0.05f,
                .eps = 1e-8f,
                .noise = rule.rounding_noise,
                .inverse_bias1 = 1,
                .inverse_bias2 = 1,
                .update_factor = 1,
                .accumulator_unit = (float)accumulator_unit(&rule),
                .accumulator_reach = (float)accumulator_reach(&rule),
                .weight = rng_make(7, (uint64_t)round, RNG_WEIGHT, 0),
                .momentum_rng = rng_make(7, (uint64_t)round, RNG_MOMENTUM, 0),
            };
            struct row_memory m[2];
            struct update_result results[2];
            const uint64_t seed = test_random(&random);
            const float scale = any_of(&random, scales, 6);
            for (int k = 0; k < 2; k++) {
                uint64_t same = seed;
                m[k] =
                    (struct row_memory){guard_alloc(cols * 4), guard_alloc(cols * 4), guard_alloc(cols * 4),
                                        guard_alloc(bytes),    guard_alloc(cols),     guard_alloc(cols / 32 * 2 + 2)};
                int8_t codes[512] = {0};
                for (size_t c = 0; c < cols; c++) {
                    m[k].gradient[c] = test_random(&same) % 2 ? test_uniform(&same) : any_of(&same, gradients, 8);
                    m[k].v[c] = fabsf(test_uniform(&same));
                    m[k].column[c] = fabsf(test_uniform(&same));
                    m[k].accumulator[c] = (int8_t)(test_random(&same) % 256 - 128);
                    codes[c] = (int8_t)(packing->min +
                                        (int)(test_random(&same) % (uint64_t)(packing->max - packing->min + 1)));
                }
                for (size_t c = 0; c * 64 < cols; c++)
                    block_pack(packing, codes + 64 * c, m[k].weight + c * packing_block_bytes(packing));
                for (size_t c = 0; c < cols / 32; c++)
                    m[k].half_scales[c] = f32_to_f16(any_of(&same, scales, 6));
                const struct update_row row = {.gradient = m[k].gradient,
                                               .cols = cols,
                                               .element = seed % 1000,
                                               .weight = m[k].weight,
                                               .scale = scale,
                                               .half_scales = groups ? m[k].half_scales : NULL,
                                               .group_cols = 32,
                                               .v = plan.variance ? m[k].v : NULL,
                                               .column = round % 4 ? m[k].column : NULL,
                                               .row_factor = 0.5f,
                                               .accumulator = m[k].accumulator};
                (k ? ctx : scalar)->kernels->update.row(&plan, &row, &results[k]);
            }
            CHECKF(memcmp(m[0].accumulator, m[1].accumulator, cols) == 0 &&
                       memcmp(m[0].weight, m[1].weight, bytes) == 0 && memcmp(m[0].v, m[1].v, cols * 4) == 0 &&
                       memcmp(&results[0], &results[1], sizeof results[0]) == 0,
                   "%s, %s, %zu columns, round %d", isa_caps[set].name, format_public_name(format), cols, round);
            for (size_t c = 0; c < cols; c++)
                CHECK(m[1].accumulator[c] >= -127);
            flipped += results[1].flipped;
            guard_free_all();
        }
        if (ctx) dqt_context_destroy(ctx);
    }
    CHECK(flipped > 1000);
    dqt_context_destroy(scalar);
}

static const struct test tests[] = {
    TEST(steps_are_kept), TEST(codes_move_by_chance), TEST(nothing_is_lost), TEST(ends_hold),
    TEST(frozen_stays),   TEST(scale_zero_stays),     TEST(another_grid),    TEST(momentum_state_does_not_matter),
    TEST(rules_are_kept), TEST(kernels_agree)};
TEST_MAIN(tests)
