/* The updater against the formulas of docs/numerics.md in double: optimisers, decay, clipping, rounding, feedback,
 * scales, statistics. */
#include "core/rng.h"
#include "counting_alloc.h"
#include "formats.h"
#include "updater_fixture.h"

enum { ROWS = 70, COLS = 150, COUNT = ROWS * COLS, STEPS = 6 };

struct reference {
    dqt_updater_options o;
    size_t rows, cols;
    double m[COUNT], v[COUNT], row[ROWS], column[COLS], u[COUNT], denominator[COUNT], w[COUNT];
    double scale_m[ROWS], scale_v[ROWS];
    double previous_rms;
};

static double mean_of(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

/* Moments and u of step t (1-based), as in the papers. */
static void reference_moments(struct reference *r, const float *g32, double clip, int t) {
    const dqt_updater_options *o = &r->o;
    const double b1 = (double)o->beta1, b2 = (double)o->beta2, bc1 = 1 - pow(b1, t), bc2 = 1 - pow(b2, t);
    const bool sgd = o->optimizer == DQT_OPTIMIZER_SGD;
    const bool factored = o->optimizer == DQT_OPTIMIZER_ADAFACTOR && r->rows > 1 && r->cols > 1;
    static double old_column[COLS];
    memcpy(old_column, r->column, sizeof old_column);
    if (factored) {
        for (size_t i = 0; i < r->rows; i++) {
            double s = 0;
            for (size_t k = 0; k < r->cols; k++)
                s += pow((double)g32[i * r->cols + k] * clip, 2) + 1e-30;
            r->row[i] = b2 * r->row[i] + (1 - b2) * s / (double)r->cols;
        }
        for (size_t k = 0; k < r->cols; k++) {
            double s = 0;
            for (size_t i = 0; i < r->rows; i++)
                s += pow((double)g32[i * r->cols + k] * clip, 2) + 1e-30;
            r->column[k] = b2 * r->column[k] + (1 - b2) * s / (double)r->rows;
        }
    }
    const double *column = o->lagged ? old_column : r->column;
    const double column_mean = mean_of(column, r->cols);
    double squares = 0;
    for (size_t i = 0; i < r->rows * r->cols; i++) {
        const double g = (double)g32[i] * clip;
        r->m[i] = b1 * r->m[i] + (sgd ? 1 : 1 - b1) * g;
        double v;
        if (factored) {
            v = column_mean > 0 ? r->row[i / r->cols] * column[i % r->cols] / column_mean : r->row[i / r->cols];
        } else {
            v = r->v[i] = b2 * r->v[i] + (1 - b2) * g * g;
        }
        r->denominator[i] = sgd ? 1 : sqrt(v / bc2) + (double)o->eps;
        r->u[i] = (b1 > 0 ? r->m[i] / (sgd ? 1 : bc1) : g) / r->denominator[i];
        squares += r->u[i] * r->u[i];
    }
    const double rms = sqrt(squares / (double)(r->rows * r->cols));
    if (o->optimizer == DQT_OPTIMIZER_ADAFACTOR && b1 == 0 && o->update_clip > 0) {
        const double used = o->lagged ? r->previous_rms : rms, excess = used / (double)o->update_clip;
        for (size_t i = 0; i < r->rows * r->cols; i++)
            r->u[i] /= excess > 1 ? excess : 1;
    }
    r->previous_rms = rms;
}

static double clip_of(double norm, double limit) {
    return fmin(1.0, limit / (norm + 1e-6));
}

static double norm_of(const float *g, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)g[i] * (double)g[i];
    return sqrt(s);
}

/* Weights in f32 follow the formulas to rounding error for every optimiser, with and without momentum, decay, clipping.
 */
static void float_weights(void) {
    static struct reference r;
    static float g[COUNT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++)
        for (int variant = 0; variant < 16; variant++) {
            memset(&r, 0, sizeof r);
            const size_t rows = variant & 8 ? 1 : ROWS, cols = COLS, n = rows * cols;
            r.o = plain_options(optimizer, DQT_ROUND_STOCHASTIC, variant & 1 ? 0.9f : 0.0f);
            r.o.lagged = variant >> 1 & 1;
            r.o.weight_decay = 0.3f;
            r.o.clip = variant & 4 ? DQT_CLIP_GLOBAL_NORM : DQT_CLIP_NONE;
            r.rows = rows;
            r.cols = cols;
            dqt_tensor *t = make_tensor(ctx, rows, cols, DQT_FORMAT_F32, false, 5);
            const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
            dqt_updater *u = make_updater(ctx, &target, 1, &r.o);
            for (size_t i = 0; i < n; i++)
                r.w[i] = (double)((float *)(void *)t->data)[i];
            double worst = 0;
            for (int step = 1; step <= STEPS; step++) {
                const float lr = 0.01f * (float)step;
                random_fill(g, n, 0.1f, (uint64_t)step);
                for (size_t i = 0; i < n; i++)
                    g[i] *= 1.0f + (float)(i % cols % 5); /* columns differ */
                const struct gradient gradient = gradient_around(g, t), *list = &gradient;
                dqt_step_stats stats = {.struct_size = sizeof stats};
                OK(ctx, updater_step(u, &list, lr, &stats));
                const double norm = norm_of(g, n);
                CHECKF(fabs(stats.gradient_norm / norm - 1) < 1e-12, "norm %g, expected %g", stats.gradient_norm, norm);
                reference_moments(&r, g, variant & 4 ? clip_of(norm, 1.0) : 1.0, step);
                const double wd = rows > 1 ? (double)r.o.weight_decay : 0.0; /* gains are not decayed */
                for (size_t i = 0; i < n; i++) {
                    r.w[i] -= (double)lr * (r.u[i] + wd * r.w[i]);
                    worst = fmax(worst, fabs(r.w[i] - (double)((float *)(void *)t->data)[i]));
                }
            }
            CHECKF(worst < 2e-6, "optimizer %d variant %d: off by %g", optimizer, variant, worst);
            updater_destroy(u);
            tensor_destroy(t);
        }
    dqt_context_destroy(ctx);
}

/* Codes: t = q - lr (u + decay W) / s, rounded with the word of the element; momentum with the error fed back; per-row
 * scales trained. Elements whose rounding hangs on less than 1e-4 of a step may go either way. */
static void integer_weights(void) {
    static const int formats[] = {DQT_FORMAT_INT8, DQT_FORMAT_INT6, DQT_FORMAT_INT5,   DQT_FORMAT_INT4,
                                  DQT_FORMAT_INT3, DQT_FORMAT_INT2, DQT_FORMAT_TERNARY};
    static struct reference r;
    static float g[COUNT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++)
        for (size_t format = 0; format < sizeof formats / sizeof *formats; format++)
            for (int rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_ECO_NEAREST; rounding++) {
                memset(&r, 0, sizeof r);
                const bool trained = format & 1, eco = rounding >= DQT_ROUND_ECO_STOCHASTIC;
                r.o = plain_options(optimizer, rounding, 0.8f);
                r.o.weight_decay = 0.1f;
                r.rows = ROWS;
                r.cols = COLS;
                dqt_tensor *t = make_tensor(ctx, ROWS, COLS, formats[format], trained, 6);
                const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
                dqt_updater *u = make_updater(ctx, &target, 1, &r.o);
                const double low = format_min(t->storage), high = format_max(t->storage),
                             lr = optimizer == 1 ? 0.02 : 0.01;
                double unit = 0; /* trained scales: steps of codes are measured in their first mean */
                for (size_t i = 0; trained && i < ROWS; i++)
                    unit += (double)tensor_scale(t, i) / ROWS;
                size_t wrong = 0, close = 0, saturated = 0, flipped = 0;
                double worst_m = 0, worst_s = 0;
                for (int step = 1; step <= STEPS; step++) {
                    random_fill(g, COUNT, 1.0f, (uint64_t)step * 3);
                    int8_t *before = codes_of(t);
                    float scales[ROWS];
                    for (size_t i = 0; i < ROWS; i++)
                        scales[i] = tensor_scale(t, i);
                    const struct gradient gradient = gradient_around(g, t), *list = &gradient;
                    dqt_step_stats stats = {.struct_size = sizeof stats};
                    OK(ctx, updater_step(u, &list, (float)lr, &stats));
                    reference_moments(&r, g, 1.0, step);
                    int8_t *after = codes_of(t);
                    const struct rng rng = rng_make(r.o.seed, (uint64_t)step - 1, RNG_WEIGHT, 0);
                    const float *m = state_piece(u, "0.m").data;
                    double rms = 0;
                    flipped = saturated = close = 0;
                    for (size_t i = 0; i < COUNT; i++) {
                        const double s = trained ? unit : (double)scales[i / COLS], q = before[i];
                        const double tgt = q - lr * (r.u[i] + 0.1 * q * s) / s;
                        uint32_t words[4];
                        rng_block(&rng, i / 4, words);
                        const bool stochastic =
                            rounding == DQT_ROUND_STOCHASTIC || rounding == DQT_ROUND_ECO_STOCHASTIC;
                        const double y = stochastic ? tgt + (double)rng_uniform01(words[i % 4]) : tgt + 0.5,
                                     want = floor(y);
                        if (fabs(y - nearbyint(y)) < 1e-4) {
                            close++;
                        } else {
                            wrong += after[i] != fmin(fmax(want, low), high);
                            saturated += want < low || want > high;
                        }
                        flipped += before[i] != after[i];
                        rms += pow(lr * r.u[i], 2);
                        if (eco) {
                            const double e = (fmin(fmax(tgt, low - 0.5), high + 0.5) - after[i]) * s;
                            const double bc1 = optimizer == 1 ? 1 : 1 - pow((double)r.o.beta1, step);
                            r.m[i] += e * (1 - 1 / (double)r.o.beta1) * r.denominator[i] * bc1 / lr;
                        }
                        worst_m = fmax(worst_m, fabs(r.m[i] - (double)m[i]) / (1 + fabs(r.m[i])));
                    }
                    CHECKF(stats.flipped == flipped, "flipped %llu, counted %zu", (unsigned long long)stats.flipped,
                           flipped);
                    CHECKF(stats.saturated >= saturated && stats.saturated <= saturated + close,
                           "saturated %llu, counted %zu", (unsigned long long)stats.saturated, saturated);
                    CHECK(stats.quantized == COUNT && stats.step == (uint64_t)step);
                    rms = sqrt(rms / COUNT);
                    CHECKF(fabs(stats.update_rms / rms - 1) < 1e-5, "rms %g, expected %g", stats.update_rms, rms);
                    for (size_t i = 0; trained && i < ROWS; i++) {
                        double gs = 0;
                        for (size_t k = 0; k < COLS; k++)
                            gs += (double)g[i * COLS + k] * before[i * COLS + k];
                        r.scale_m[i] = 0.8 * r.scale_m[i] + 0.2 * gs;
                        r.scale_v[i] = 0.95 * r.scale_v[i] + 0.05 * gs * gs;
                        const double us =
                            r.scale_m[i] / (1 - pow(0.8, step)) / (sqrt(r.scale_v[i] / (1 - pow(0.95, step))) + 1e-8);
                        const double want = (double)scales[i] * (1 - lr * us);
                        worst_s = fmax(worst_s, fabs((double)tensor_scale(t, i) / want - 1));
                    }
                    free(before);
                    free(after);
                }
                CHECKF(wrong == 0, "optimizer %d format %s rounding %d: %zu codes are wrong", optimizer,
                       format_name(t->storage), rounding, wrong);
                CHECKF(worst_m < 2e-5, "optimizer %d format %s rounding %d: momentum off by %g", optimizer,
                       format_name(t->storage), rounding, worst_m);
                CHECKF(worst_s < 1e-5, "optimizer %d format %s: scales off by %g", optimizer, format_name(t->storage),
                       worst_s);
                updater_destroy(u);
                tensor_destroy(t);
            }
    dqt_context_destroy(ctx);
}

static const float betas[] = {0.0f, 0.6f, 0.95f}, noises[] = {1.0f, 0.3f, 0.0f};

/* DQT_ROUND_ACCUMULATE: P -= lr (u / s + decay q), q' = floor(q + (1 - b1) P + 1/2 + n (r1 - 1/2)) within the codes,
 * P -= q' - q, kept as floor(P / step + r2) steps of limit / 127, within +-limit = (1/2 + n/2) / (1 - b1). Each step
 * begins with the accumulator that is kept. What hangs on less than 1e-4 of a step may go either way; a reference that
 * took m for g, or P before for P after, is off by whole codes. */
static void check_accumulated(dqt_context *ctx, struct reference *r, int format, bool trained, float b1, float noise) {
    static float g[COUNT];
    memset(r, 0, sizeof *r);
    dqt_updater_options o = plain_options(DQT_OPTIMIZER_SGD + format % 3, DQT_ROUND_ACCUMULATE, b1);
    o.rounding_noise = noise;
    o.weight_decay = 0.1f;
    o.lagged = trained;
    o.update_clip = 0.5f;
    o.momentum_state = format % 2 ? DQT_STATE_INT8 : DQT_STATE_F32; /* does not matter */
    r->o = o;
    r->o.beta1 = 0; /* no first moment enters u */
    r->rows = ROWS;
    r->cols = COLS;
    dqt_tensor *t = make_tensor(ctx, ROWS, COLS, format, trained, 6);
    const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    CHECK(!state_piece(u, "0.m").data && state_piece(u, "0.accumulator").count == COUNT);
    const int8_t *kept = state_piece(u, "0.accumulator").data;
    const double low = format_min(t->storage), high = format_max(t->storage), part = 1 - (double)b1, n = (double)noise,
                 grid = (0.5 + n / 2) / part / 127;
    double unit = 0;
    for (size_t i = 0; i < ROWS; i++)
        unit += (double)tensor_scale(t, trained ? i : 0) / ROWS;
    const double lr = (double)(float)(0.4 * unit / part);
    size_t wrong_codes = 0, wrong_sums = 0, close = 0, moved = 0, full = 0;
    for (int step = 1; step <= 2 * STEPS; step++) {
        random_fill(g, COUNT, 1.0f, (uint64_t)step * 3);
        int8_t *before = codes_of(t);
        double scales[ROWS], sum[COUNT];
        for (size_t i = 0; i < ROWS; i++)
            scales[i] = trained ? unit : (double)tensor_scale(t, i);
        for (size_t i = 0; i < COUNT; i++)
            sum[i] = kept[i] * grid;
        const struct gradient gradient = gradient_around(g, t), *list = &gradient;
        dqt_step_stats stats = {.struct_size = sizeof stats};
        OK(ctx, updater_step(u, &list, (float)lr, &stats));
        reference_moments(r, g, 1.0, step);
        int8_t *after = codes_of(t);
        const struct rng r1 = rng_make(o.seed, (uint64_t)step - 1, RNG_WEIGHT, 0),
                         r2 = rng_make(o.seed, (uint64_t)step - 1, RNG_MOMENTUM, 0);
        size_t flipped = 0, saturated = 0;
        for (size_t i = 0; i < COUNT; i++) {
            const double q = before[i];
            sum[i] -= lr * (r->u[i] / scales[i / COLS] + 0.1 * q);
            uint32_t words[2][4];
            rng_block(&r1, i / 4, words[0]);
            rng_block(&r2, i / 4, words[1]);
            const double y = q + part * sum[i] + 0.5 + n * ((double)rng_uniform01(words[0][i % 4]) - 0.5),
                         want = fmin(fmax(floor(y), low), high);
            const bool near = fabs(y - nearbyint(y)) < 1e-4;
            wrong_codes += !near && after[i] != want;
            sum[i] -= after[i] - q;
            const double z = sum[i] / grid + (double)rng_uniform01(words[1][i % 4]);
            const bool between = fabs(z - nearbyint(z)) < 1e-2; /* f32, and the grid is 127 times finer */
            wrong_sums += !between && kept[i] != fmin(fmax(floor(z), -127), 127);
            close += (near ? 1u : 0u) + (fabs(z - nearbyint(z)) < 1e-4 ? 1u : 0u);
            flipped += after[i] != before[i];
            saturated += floor(y) < low || floor(y) > high;
            full += abs(kept[i]) == 127;
        }
        moved += flipped;
        CHECK(stats.flipped == flipped && stats.quantized == COUNT);
        CHECKF(fabs((double)stats.saturated - (double)saturated) <= (double)close, "saturated %llu, counted %zu",
               (unsigned long long)stats.saturated, saturated);
        free(before);
        free(after);
    }
    CHECKF(wrong_codes == 0 && wrong_sums == 0 && close < COUNT / 50,
           "%s, beta1 %g, noise %g: %zu codes and %zu sums are wrong (%zu close)", format_name(t->storage), (double)b1,
           n, wrong_codes, wrong_sums, close);
    CHECKF(moved > COUNT / 10 && (full > 0 || format == DQT_FORMAT_INT8), "%s: %zu moved, %zu full",
           format_name(t->storage), moved, full);
    updater_destroy(u);
    tensor_destroy(t);
}

static void accumulated_weights(void) {
    static struct reference r;
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    EACH_FORMAT(format)
    for (int v = 0; number_is_code(format) && v < 18; v++)
        check_accumulated(ctx, &r, format, v & 1, betas[v / 2 % 3], noises[v / 6]);
    dqt_context_destroy(ctx);
}

/* lr 0 moves moments, never a weight or an accumulator: also not codes whose sum with the random number would round up
 * in f32. */
static void zero_rate_moves_nothing(void) {
    static float g[COUNT];
    random_fill(g, COUNT, 1.0f, 1);
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    EACH_FORMAT(format)
    for (int rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_ACCUMULATE; rounding++) {
        dqt_tensor *t = make_tensor(ctx, ROWS, COLS, format, false, 8);
        if (format == DQT_FORMAT_INT8) set_code(t, 127);
        const dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAMW, rounding, 0.9f);
        const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
        dqt_updater *u = make_updater(ctx, &target, 1, &o);
        const struct gradient gradient = gradient_around(g, t), *list = &gradient;
        const uint64_t before = hash_tensor(1, t);
        const struct find_state sums = state_piece(u, "0.accumulator");
        CHECK((sums.data != NULL) == (rounding == DQT_ROUND_ACCUMULATE && number_is_code(format)));
        for (size_t i = 0; i < sums.count; i++)
            ((int8_t *)sums.data)[i] = (int8_t)(i % 255 - 127);
        const uint64_t sums_before = sums.data ? hash_bytes(1, sums.data, sums.count) : 0;
        dqt_step_stats stats = {.struct_size = sizeof stats};
        for (int step = 0; step < 40; step++)
            OK(ctx, updater_step(u, &list, 0.0f, &stats));
        CHECKF(hash_tensor(1, t) == before, "format %d rounding %d moved", format, rounding);
        CHECK(stats.flipped == 0 && stats.saturated == 0);
        if (sums.data) CHECK(hash_bytes(1, sums.data, sums.count) == sums_before);
        const float *moment = state_piece(u, sums.data ? "0.v" : "0.m").data;
        CHECK(moment[0] != 0.0f && isfinite(moment[0]));
        updater_destroy(u);
        tensor_destroy(t);
    }
    dqt_context_destroy(ctx);
}

/* Clip modes over two parameters. SGD without momentum: the step of an f32 weight is lr * factor * g. */
static void clip_modes(void) {
    enum { N = 4 };
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int clip = DQT_CLIP_NONE; clip <= DQT_CLIP_TENSOR_NORM; clip++)
        for (int fused = 0; fused < 2; fused++) {
            if (fused && clip == DQT_CLIP_GLOBAL_NORM) continue;
            dqt_updater_options o = plain_options(DQT_OPTIMIZER_SGD, DQT_ROUND_STOCHASTIC, 0.0f);
            o.clip = clip;
            o.clip_norm = 0.5f;
            dqt_tensor *t[2] = {make_tensor(ctx, 1, N, DQT_FORMAT_F32, false, 1),
                                make_tensor(ctx, 1, N, DQT_FORMAT_F32, false, 2)};
            const struct update_target targets[2] = {{"a", 1, t[0], 0, 0}, {"b", 1, t[1], 0, 0}};
            dqt_updater *u = make_updater(ctx, targets, 2, &o);
            double previous[3] = {0, 0, 0};
            for (int step = 1; step <= 3; step++) {
                float g[2][N], before[2][N];
                for (int i = 0; i < 2; i++) {
                    random_fill(g[i], N, (float)(i + 1) * (float)step, (uint64_t)(step * 7 + i));
                    memcpy(before[i], t[i]->data, sizeof before[i]);
                }
                const struct gradient ga = gradient_around(g[0], t[0]), gb = gradient_around(g[1], t[1]);
                const struct gradient *list[2] = {&ga, &gb};
                OK(ctx, fused ? fused_step(u, list, 0.1f, NULL) : updater_step(u, list, 0.1f, NULL));
                const double own[2] = {norm_of(g[0], N), norm_of(g[1], N)}, all = hypot(own[0], own[1]);
                for (int i = 0; i < 2; i++) {
                    double factor = 1;
                    if (clip == DQT_CLIP_GLOBAL_NORM) factor = clip_of(all, 0.5);
                    if (clip == DQT_CLIP_PREVIOUS_NORM && step > 1) factor = clip_of(previous[2], 0.5);
                    if (clip == DQT_CLIP_TENSOR_NORM && !fused) factor = clip_of(own[i], 0.5);
                    if (clip == DQT_CLIP_TENSOR_NORM && fused && step > 1) factor = clip_of(previous[i], 0.5);
                    for (int k = 0; k < N; k++) {
                        const double want = (double)before[i][k] - 0.1 * factor * (double)g[i][k];
                        const double have = (double)((float *)(void *)t[i]->data)[k];
                        CHECKF(fabs(have - want) < 1e-6, "clip %d fused %d step %d: %g, expected %g", clip, fused, step,
                               have, want);
                    }
                    previous[i] = own[i];
                }
                previous[2] = all;
            }
            updater_destroy(u);
            tensor_destroy(t[0]);
            tensor_destroy(t[1]);
        }
    dqt_context_destroy(ctx);
}

/* Lower-precision gradients act as their decoded values. */
static void gradient_formats(void) {
    static float g[COUNT], decoded[COUNT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int format = DQT_FLOAT_BF16; format <= DQT_FLOAT_FP8_E5M2; format++)
        for (int lagged = 0; lagged < 2; lagged++) {
            random_fill(g, COUNT, 1.0f, 2);
            dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, 0.0f);
            o.clip = DQT_CLIP_GLOBAL_NORM;
            o.lagged = lagged;
            uint64_t hashes[2];
            struct gradient low = {.format = format, .rows = ROWS, .cols = COLS};
            struct arena count = {0};
            gradient_place(&low, &count);
            struct arena arena = {.base = counting_block(count.used), .size = count.used};
            gradient_place(&low, &arena);
            gradient_write_rows(&low, NULL, 0, ROWS, g);
            gradient_read_rows(&low, 0, ROWS, decoded);
            for (int i = 0; i < 2; i++) {
                dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_TERNARY, false, 3);
                const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
                dqt_updater *u = make_updater(ctx, &target, 1, &o);
                const struct gradient full = gradient_around(decoded, t), *list = i ? &full : &low;
                for (int step = 0; step < 3; step++)
                    OK(ctx, updater_step(u, &list, 0.02f, NULL));
                hashes[i] = hash_all(u);
                updater_destroy(u);
                tensor_destroy(t);
            }
            CHECKF(hashes[0] == hashes[1], "format %d", format);
            counting_block_free(arena.base);
        }
    dqt_context_destroy(ctx);
}

/* Statistics count weights, not what fills the last chunk of a row: also where a row ends with a whole unit of packing.
 */
static void statistics_of_weights_alone(void) {
    static const size_t widths[] = {64, 127, 128, 129, 192, 320};
    static float zeros[2 * 320];
    int8_t codes[2 * 320], after[2 * 320];
    for (size_t set = 0; set < ISA_COUNT; set++) {
        dqt_context *ctx = isa_context(isa_caps[set].isa, 1);
        for (size_t i = 0; ctx && i < sizeof widths / sizeof *widths; i++) {
            const size_t cols = widths[i], count = 2 * cols;
            dqt_updater_options o = plain_options(DQT_OPTIMIZER_SGD, DQT_ROUND_NEAREST, 0.0f);
            o.weight_decay = 0.3f;
            dqt_tensor *t = make_tensor(ctx, 2, cols, DQT_FORMAT_INT8, false, 3);
            memset(codes, 100, sizeof codes);
            OK(ctx, dqt_tensor_set_codes(t, 0, 2, codes));
            const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
            dqt_updater *u = make_updater(ctx, &target, 1, &o);
            const struct gradient gradient = gradient_around(zeros, t), *list = &gradient;
            dqt_step_stats stats = {.struct_size = sizeof stats};
            OK(ctx, updater_step(u, &list, 1.0f, &stats));
            OK(ctx, dqt_tensor_get_codes(t, 0, 2, after));
            for (size_t k = 0; k < count; k++)
                CHECK(after[k] == 70);
            CHECKF(stats.flipped == count && stats.saturated == 0 && stats.quantized == count,
                   "%zu columns: %llu of %zu", cols, (unsigned long long)stats.flipped, count);
            updater_destroy(u);
            tensor_destroy(t);
        }
        dqt_context_destroy(ctx);
    }
}

static const struct test tests[] = {
    TEST(float_weights), TEST(integer_weights),  TEST(accumulated_weights),        TEST(zero_rate_moves_nothing),
    TEST(clip_modes),    TEST(gradient_formats), TEST(statistics_of_weights_alone)};
TEST_MAIN(tests)
