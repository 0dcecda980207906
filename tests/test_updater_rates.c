/* rate_corrected: ECO's momentum is measured in the rate of the step. Against formulas in double under a warm-up, a
 * cosine to 0 and rates of 0; what ECO keeps, with gradients of 0, stays whatever the rate does; and where the option
 * does nothing. */
#include <float.h>

#include "optim/updater_state.h"
#include "updater_fixture.h"

enum { ROWS = 70, COLS = 150, COUNT = ROWS * COLS, STEPS = 14 };

/* Warm-up, a pause at rate 0, a cosine that ends at 0, and a new start. */
static const float schedule[STEPS] = {0.0f,   0.003f,  0.006f,  0.009f,   0.009f,    0.0f, 0.008f,
                                      0.005f, 0.0023f, 0.0006f, 0.00015f, 0.000002f, 0.0f, 0.004f};

static dqt_updater_options corrected(int optimizer, int rounding) {
    dqt_updater_options o = plain_options(optimizer, rounding, 0.8f);
    o.rate_corrected = 1;
    return o;
}

static dqt_status step_of(dqt_updater *u, float *g, const dqt_tensor *t, float rate, bool fused) {
    const struct gradient gradient = gradient_around(g, t), *list = &gradient;
    return fused ? fused_step(u, &list, rate, NULL) : updater_step(u, &list, rate, NULL);
}

/* ---- Formulas ------------------------------------------------------------------------------------------------ */

struct reference {
    double m[COUNT], v[COUNT], row[ROWS], column[COLS], denominator[COUNT];
    double last; /* rate */
};

static void reference_statistics(struct reference *r, const float *g) {
    double sums[COLS] = {0};
    for (size_t i = 0; i < ROWS; i++) {
        double s = 0;
        for (size_t k = 0; k < COLS; k++) {
            const double x = (double)g[i * COLS + k] * (double)g[i * COLS + k] + 1e-30;
            s += x / COLS;
            sums[k] += x / ROWS;
        }
        r->row[i] = 0.95 * r->row[i] + 0.05 * s;
    }
    for (size_t k = 0; k < COLS; k++)
        r->column[k] = 0.95 * r->column[k] + 0.05 * sums[k];
}

/* The step of docs/numerics.md, in double, from the codes before it to those after it. */
static void reference_step(struct reference *r, int optimizer, const float *g, int t, double lr, double scale,
                           const int8_t *before, const int8_t *after, double low, double high) {
    const bool sgd = optimizer == DQT_OPTIMIZER_SGD, held = !(lr > 0) && r->last > 0;
    const double b1 = (double)0.8f, bc1 = sgd ? 1 : 1 - pow(b1, t), bc2 = 1 - pow(0.95, t);
    const double ratio = lr > 0 && r->last > 0 ? r->last / lr : 1;
    double mean = 0;
    reference_statistics(r, g);
    for (size_t k = 0; k < COLS; k++)
        mean += r->column[k] / COLS;
    for (size_t i = 0; i < COUNT; i++) {
        const double gi = (double)g[i];
        r->v[i] = 0.95 * r->v[i] + 0.05 * gi * gi;
        const double v = optimizer == DQT_OPTIMIZER_ADAMW ? r->v[i] : r->row[i / COLS] * r->column[i % COLS] / mean;
        r->denominator[i] = sgd ? 1 : sqrt(v / bc2) + 1e-8;
        if (held) continue;
        r->m[i] = b1 * (ratio * r->m[i]) + (sgd ? 1 : 1 - b1) * gi;
        if (!(lr > 0)) continue;
        const double target = before[i] - lr * r->m[i] / (bc1 * r->denominator[i]) / scale;
        const double e = (fmin(fmax(target, low - 0.5), high + 0.5) - after[i]) * scale;
        r->m[i] += e * (1 - 1 / b1) * r->denominator[i] * bc1 / lr;
    }
    if (lr > 0) r->last = lr;
}

static void check_formulas(dqt_context *ctx, int optimizer, int rounding, int format, bool fused) {
    static struct reference r;
    static float g[COUNT];
    memset(&r, 0, sizeof r);
    const dqt_updater_options o = corrected(optimizer, rounding);
    dqt_tensor *t = make_tensor(ctx, ROWS, COLS, format, false, 6);
    const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    const float *m = state_piece(u, "0.m").data, *rate = state_piece(u, "0.rate").data;
    size_t moved = 0;
    for (int step = 1; step <= STEPS; step++) {
        random_fill(g, COUNT, 1.0f, (uint64_t)step * 3);
        int8_t *before = codes_of(t);
        const float lr = schedule[step - 1] * (optimizer == DQT_OPTIMIZER_SGD ? 10.0f : 3.0f);
        OK(ctx, step_of(u, g, t, lr, fused));
        int8_t *after = codes_of(t);
        reference_step(&r, optimizer, g, step, (double)lr, (double)tensor_scale(t, 0), before, after,
                       format_min(t->storage), format_max(t->storage));
        double worst = 0, square = 0;
        for (size_t i = 0; i < COUNT; i++) {
            worst = fmax(worst, fabs(r.m[i] - (double)m[i]));
            square += r.m[i] * r.m[i] / COUNT;
            moved += before[i] != after[i];
        }
        CHECKF(worst <= 2e-5 * sqrt(square), "optimizer %d rounding %d %s fused %d step %d: m off by %g of %g",
               optimizer, rounding, format_name(t->storage), fused, step, worst, sqrt(square));
        CHECK((double)*rate == r.last);
        free(before);
        free(after);
    }
    CHECKF(moved > COUNT / 50, "%zu codes moved", moved);
    updater_destroy(u);
    tensor_destroy(t);
}

static void formulas(void) {
    static const int formats[] = {DQT_FORMAT_INT8, DQT_FORMAT_INT4, DQT_FORMAT_TERNARY};
    for (size_t set = 0; set < ISA_COUNT; set++) {
        dqt_context *ctx = isa_context(isa_caps[set].isa, 1);
        for (int optimizer = DQT_OPTIMIZER_SGD; ctx && optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++)
            for (int k = 0; k < 6; k++) {
                const int rounding = k % 2 ? DQT_ROUND_ECO_NEAREST : DQT_ROUND_ECO_STOCHASTIC;
                check_formulas(ctx, optimizer, rounding, formats[k / 2], false);
                /* in a fused step Adafactor's statistics are the previous step's: compared with unfused ones elsewhere
                 */
                if (optimizer != DQT_OPTIMIZER_ADAFACTOR)
                    check_formulas(ctx, optimizer, rounding, formats[k / 2], true);
            }
        dqt_context_destroy(ctx);
    }
}

/* ---- What is kept -------------------------------------------------------------------------------------------- */

/* Rates of the parameter after the group's factor, which changes in the middle; while it is frozen, rates pass by. */
enum { KEEP_STEPS = 12, GROUP_AT = 6, FREEZE_AT = 8, THAW_AT = 10 };
static const float keep_rates[KEEP_STEPS] = {0.003f, 0.006f, 0.009f, 0.0f,  0.007f,  0.004f,
                                             0.002f, 0.001f, 0.9f,   0.00f, 0.0004f, 0.00006f};

static void group_at(dqt_updater *u, int step) {
    dqt_group_options g = {.struct_size = sizeof g};
    size_t matched;
    if (step == GROUP_AT) g.lr_factor = 3.0f;
    if (step == FREEZE_AT) g.freeze = 1;
    if (step == THAW_AT) g.freeze = -1;
    OK(updater_context(u), updater_add_group(u, &g, &matched));
}

/* q s - (what m will return), with a denominator of eps and 1 - beta1^t of 1. factor: of the bias and the denominator.
 */
static void kept(dqt_updater *u, const dqt_tensor *t, double rate, double *out) {
    const struct find_state m = state_piece(u, "0.m"), scale = state_piece(u, "0.m_scale");
    const bool sgd = updater_options(u)->optimizer == DQT_OPTIMIZER_SGD;
    const double b1 = (double)updater_options(u)->beta1, denominator = sgd ? 1 : (double)updater_options(u)->eps;
    int8_t *codes = codes_of(t);
    for (size_t i = 0; i < COUNT; i++) {
        double x;
        if (m.element_size == 1) {
            const double z = (double)((const int8_t *)m.data)[i] / 127;
            x = z * fabs(z) * (double)((const float *)scale.data)[i / COLS * 2 + i % COLS / 128];
        } else {
            x = (double)((const float *)m.data)[i];
        }
        out[i] = codes[i] * (double)tensor_scale(t, 0) - rate * x * b1 / (1 - b1) / denominator;
    }
    free(codes);
}

struct drift {
    double worst, mean,
        error; /* of the sum's change, in steps of codes; mean of the part that goes with m, its standard error */
};

/* Gradients of 0, so that codes move by what m has taken up, and nothing else. */
static struct drift drift_of(dqt_context *ctx, int optimizer, int rounding, int state, bool correct) {
    static float zeros[COUNT], start[COUNT];
    static double before[COUNT], after[COUNT];
    dqt_updater_options o = plain_options(optimizer, rounding, 0.8f);
    o.rate_corrected = correct;
    o.momentum_state = state;
    o.eps = 0.01f;
    dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT8, false, 6);
    const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    updater_set_step_count(u, 1000);
    const double s = (double)tensor_scale(t, 0), denominator = optimizer == DQT_OPTIMIZER_SGD ? 1 : 0.01;
    set_code(t, 3);
    random_fill(start, COUNT, 1.0f, 9);
    /* it returns up to 8 steps of codes */
    struct find_state m = state_piece(u, "0.m"), scale = state_piece(u, "0.m_scale");
    for (size_t i = 0; i < COUNT; i++) {
        const double x = (double)start[i] * 8 * s * 0.25 * denominator / (double)keep_rates[0];
        if (m.element_size == 1)
            ((int8_t *)m.data)[i] = (int8_t)(start[i] * 127);
        else
            ((float *)m.data)[i] = (float)x;
    }
    for (size_t i = 0; i < scale.count; i++)
        ((float *)scale.data)[i] = (float)(8 * s * 0.25 * denominator / (double)keep_rates[0]);
    double rate = (double)keep_rates[0];
    kept(u, t, rate, before);
    for (int step = 0; step < KEEP_STEPS; step++) {
        if (step == GROUP_AT || step == FREEZE_AT || step == THAW_AT) group_at(u, step);
        OK(ctx, step_of(u, zeros, t, keep_rates[step], step % 2));
        const bool frozen = step >= FREEZE_AT && step < THAW_AT;
        if (keep_rates[step] > 0 && !frozen) rate = (double)keep_rates[step] * (step >= GROUP_AT ? 3 : 1);
    }
    kept(u, t, rate, after);
    struct drift d = {0};
    double square = 0;
    for (size_t i = 0; i < COUNT; i++) {
        const double x = (after[i] - before[i]) / s, along = start[i] > 0 ? x : -x;
        d.worst = fmax(d.worst, fabs(x));
        d.mean += along / COUNT;
        square += along * along / COUNT;
    }
    d.error = sqrt((square - d.mean * d.mean) / COUNT);
    updater_destroy(u);
    tensor_destroy(t);
    return d;
}

/* In f32 each weight's sum stays; in 8 bits, which are rounded without bias, its mean does. Without the correction what
 * m has not returned yet shrinks or grows with the rate. */
static void sums_stay(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++)
        for (int rounding = DQT_ROUND_ECO_STOCHASTIC; rounding <= DQT_ROUND_ECO_NEAREST; rounding++) {
            const struct drift with = drift_of(ctx, optimizer, rounding, DQT_STATE_F32, true),
                               without = drift_of(ctx, optimizer, rounding, DQT_STATE_F32, false),
                               coded = drift_of(ctx, optimizer, rounding, DQT_STATE_INT8, true);
            CHECKF(with.worst < 1e-4, "optimizer %d rounding %d: the sum moves by %g steps", optimizer, rounding,
                   with.worst);
            CHECKF(without.worst > 0.5 && fabs(without.mean) > 0.1, "optimizer %d rounding %d: only %g, %g", optimizer,
                   rounding, without.worst, without.mean);
            CHECKF(fabs(coded.mean) < 4 * coded.error && coded.error < 0.02, "optimizer %d rounding %d: %g +- %g",
                   optimizer, rounding, coded.mean, coded.error);
        }
    dqt_context_destroy(ctx);
}

/* ---- Elsewhere ------------------------------------------------------------------------------------------------ */

static uint64_t trained(dqt_context *ctx, int format, int optimizer, int rounding, float beta1, const float *rates,
                        int correct, bool fused) {
    static float g[COUNT];
    dqt_updater_options o = plain_options(optimizer, rounding, beta1);
    o.rate_corrected = correct;
    o.momentum_state = DQT_STATE_BF16;
    o.lagged = 1;
    dqt_tensor *t = make_tensor(ctx, ROWS, COLS, format, false, 6);
    const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    for (int step = 0; step < 6; step++) {
        random_fill(g, COUNT, 1.0f, (uint64_t)step * 3);
        OK(ctx, step_of(u, g, t, rates[step], fused));
    }
    float *rate = state_piece(u, "0.rate").data;
    CHECK((rate != NULL) == (correct && o.beta1 > 0 && format_is_code(t->storage) && rounding != DQT_ROUND_ACCUMULATE));
    uint64_t h = hash_tensor(1, t);
    const struct find_state m = state_piece(u, "0.m"), v = state_piece(u, "0.v");
    if (m.data) h = hash_bytes(h, m.data, m.count * m.element_size);
    if (v.data) h = hash_bytes(h, v.data, v.count * v.element_size);
    updater_destroy(u);
    tensor_destroy(t);
    return h;
}

/* With one rate, for floats, and with rules other than ECO the option changes no bit. */
static void changes_nothing_elsewhere(void) {
    static const float constant[6] = {0.01f, 0.01f, 0.01f, 0.01f, 0.01f, 0.01f},
                       falling[6] = {0.01f, 0.008f, 0.004f, 0.0f, 0.002f, 0.001f};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    static const int formats[] = {DQT_FORMAT_F32, DQT_FORMAT_BF16, DQT_FORMAT_INT4, DQT_FORMAT_TERNARY};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++)
            for (int rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_ACCUMULATE; rounding++)
                for (int fused = 0; fused < 2; fused++) {
                    const bool eco = rounding == DQT_ROUND_ECO_STOCHASTIC || rounding == DQT_ROUND_ECO_NEAREST;
                    const float beta1 = eco || fused ? 0.9f : 0.0f;
                    const int format = formats[f];
#define BOTH(rates)                                                                                                    \
    (trained(ctx, format, optimizer, rounding, beta1, rates, 1, fused) ==                                              \
     trained(ctx, format, optimizer, rounding, beta1, rates, 0, fused))
                    CHECKF(BOTH(constant), "format %d optimizer %d rounding %d: one rate", format, optimizer, rounding);
                    CHECKF(BOTH(falling) == !(eco && f > 1), "format %d optimizer %d rounding %d: falling", format,
                           optimizer, rounding);
#undef BOTH
                }
    dqt_context_destroy(ctx);
}

/* A rule without ECO in between: what was remembered before it says nothing of m after it. A refused gradient leaves m,
 * and so its rate. */
static void remembers(void) {
    static float g[COUNT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    const dqt_updater_options o = corrected(DQT_OPTIMIZER_ADAMW, DQT_ROUND_ECO_STOCHASTIC);
    dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT4, false, 6);
    const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    const float *rate = state_piece(u, "0.rate").data;
    const struct gradient gradient = gradient_around(g, t), *list = &gradient;
    dqt_group_options group = {.struct_size = sizeof group, .rounding = DQT_ROUND_STOCHASTIC};
    size_t matched;
    random_fill(g, COUNT, 1.0f, 3);
    CHECK(*rate == 0.0f);
    OK(ctx, updater_step(u, &list, 0.25f, NULL));
    CHECK(*rate == 0.25f);
    OK(ctx, updater_begin(u, 0.5f));
    updater_begin_parameter(u, 0);
    updater_refuse_parameter(u, 0);
    updater_end_parameter(u, 0);
    CHECK(updater_end(u, NULL) == DQT_E_NUMERIC && *rate == 0.25f);
    OK(ctx, updater_begin(u, 0.5f));
    OK(ctx, updater_end(u, NULL)); /* no backward reached it */
    CHECK(*rate == 0.25f);
    g[7] = NAN;
    CHECK(updater_step(u, &list, 0.5f, NULL) == DQT_E_NUMERIC && *rate == 0.25f);
    g[7] = 0;
    OK(ctx, updater_step(u, &list, 0.125f, NULL));
    CHECK(*rate == 0.125f);
    OK(ctx, updater_add_group(u, &group, &matched));
    OK(ctx, updater_step(u, &list, 0.5f, NULL));
    CHECK(*rate == 0.0f && u->parameters[0].plan.momentum_factor == 1.0f);
    group.rounding = DQT_ROUND_ECO_NEAREST;
    OK(ctx, updater_add_group(u, &group, &matched));
    OK(ctx, updater_step(u, &list, 0.75f, NULL));
    CHECK(*rate == 0.75f && u->parameters[0].plan.momentum_factor == 1.0f);
    updater_destroy(u);
    tensor_destroy(t);
    dqt_context_destroy(ctx);
}

/* A quotient that is no number of f32 leaves m as it is measured; m itself ends at its limit. */
static void quotients_out_of_range(void) {
    static const struct {
        float first, second, factor;
    } cases[] = {{1e-3f, 1e-3f, 1.0f},   {1e-3f, 2e-3f, 0.5f},  {1e-3f, 1e-45f, 1.0f},
                 {FLT_MAX, 1e-3f, 1.0f}, {1e-45f, 1e30f, 0.0f}, {0x1p110f, 0x1p-10f, 0x1p120f}};
    static float zeros[COUNT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const dqt_updater_options o = corrected(DQT_OPTIMIZER_SGD, DQT_ROUND_ECO_NEAREST);
        dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT4, false, 6);
        const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
        dqt_updater *u = make_updater(ctx, &target, 1, &o);
        const struct find_state m = state_piece(u, "0.m");
        OK(ctx, step_of(u, zeros, t, cases[i].first, false));
        for (size_t k = 0; k < m.count; k++)
            ((float *)m.data)[k] = k % 2 ? 1.0f : -1e10f;
        OK(ctx, step_of(u, zeros, t, cases[i].second, false));
        const float factor = u->parameters[0].plan.momentum_factor;
        CHECKF(factor >= cases[i].factor && factor <= cases[i].factor, "%g to %g: %g", (double)cases[i].first,
               (double)cases[i].second, (double)factor);
        for (size_t k = 0; k < m.count; k++)
            CHECK(fabsf(((const float *)m.data)[k]) <= 0x1p100f);
        updater_destroy(u);
        tensor_destroy(t);
    }
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {TEST(formulas), TEST(sums_stay), TEST(changes_nothing_elsewhere), TEST(remembers),
                                    TEST(quotients_out_of_range)};
TEST_MAIN(tests)
