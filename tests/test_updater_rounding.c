/* Rounding: the statistics of stochastic codes and states, nearest for contrast, and what ECO conserves. Bounds are 5
 * standard errors (p < 6e-7 each) with fixed seeds, unless said otherwise. */
#include "core/rng.h"
#include "updater_fixture.h"

/* One SGD step of `step` grid units against weights that are all `code`; returns the change of the codes. */
static double *moved_with(dqt_context *ctx, int format, int rounding, float noise, int8_t code, double step,
                          size_t rows, size_t cols, uint64_t first_step) {
    dqt_tensor *t = make_tensor(ctx, rows, cols, format, false, 1);
    set_code(t, code);
    t->scales[0] = 0.5f;
    dqt_updater_options o = plain_options(DQT_OPTIMIZER_SGD, rounding, 0.0f);
    o.rounding_noise = noise;
    const struct update_target target = {"w", 1, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    updater_set_step_count(u, first_step);
    float *g = malloc(rows * cols * sizeof *g);
    double *change = malloc(rows * cols * sizeof *change);
    if (!g || !change) abort();
    for (size_t i = 0; i < rows * cols; i++)
        g[i] = (float)(-step * 0.5);
    const struct gradient gradient = gradient_around(g, t), *list = &gradient;
    OK(ctx, updater_step(u, &list, 1.0f, NULL));
    int8_t *codes = codes_of(t);
    for (size_t i = 0; i < rows * cols; i++)
        change[i] = codes[i] - code;
    free(codes);
    free(g);
    updater_destroy(u);
    tensor_destroy(t);
    return change;
}

static double *moved(dqt_context *ctx, int format, int rounding, int8_t code, double step, size_t rows, size_t cols,
                     uint64_t first_step) {
    return moved_with(ctx, format, rounding, 1.0f, code, step, rows, cols, first_step);
}

/* floor(x + 1/2 + n (r - 1/2)) is 1 for r >= 1/2 + (1/2 - x) / n: never, always, or with that probability; n = 0 is
 * nearest. */
static void less_noise(void) {
    enum { ROWS = 256, COLS = 501, N = ROWS * COLS };
    static const double steps[] = {0.0, 0.1, 0.29, 0.4, 0.5, 0.62, 0.9, -0.45, -0.1};
    static const float noises[] = {0.0f, 0.25f, 0.4f, 0.9f};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t n = 0; n < sizeof noises / sizeof *noises; n++)
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
            if (noises[n] == 0.0f && steps[i] == 0.5) continue; /* a tie */
            double *d = moved_with(ctx, DQT_FORMAT_INT4, DQT_ROUND_STOCHASTIC, noises[n], 1, steps[i], ROWS, COLS, 0);
            const double x = steps[i] - floor(steps[i]), noise = (double)noises[n];
            const double p = noise > 0 ? fmin(fmax(1 - (0.5 + (0.5 - x) / noise), 0), 1) : x > 0.5;
            double sum = 0;
            for (size_t k = 0; k < N; k++)
                sum += d[k] - floor(steps[i]);
            CHECKF(fabs(sum / N - p) <= 5 * sqrt(p * (1 - p) / N) + 1e-6, "noise %g, step %g: %g moved up, expected %g",
                   noise, steps[i], sum / N, p);
            free(d);
        }
    dqt_context_destroy(ctx);
}

static void stochastic_mean_and_variance(void) {
    enum { ROWS = 256, COLS = 501, N = ROWS * COLS };
    static const double steps[] = {0.3, -0.3, 0.01, -0.01, 0.0004, 0.5, 1.25, -2.75};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        for (int8_t code = -100; code <= 100; code = (int8_t)(code + 50)) {
            double *d = moved(ctx, DQT_FORMAT_INT8, DQT_ROUND_STOCHASTIC, code, steps[i], ROWS, COLS, 0);
            const double p = steps[i] - floor(steps[i]), variance = p * (1 - p);
            double sum = 0, squares = 0;
            for (size_t k = 0; k < N; k++) {
                sum += d[k] - steps[i];
                squares += (d[k] - steps[i]) * (d[k] - steps[i]);
                if (d[k] != floor(steps[i]) && d[k] != floor(steps[i]) + 1) CHECKF(false, "moved by %g", d[k]);
            }
            const double fourth = variance * (1 - 3 * variance) - variance * variance; /* of a Bernoulli number */
            CHECKF(fabs(sum / N) < 5 * sqrt(variance / N), "step %g from %d: mean off by %g", steps[i], code, sum / N);
            CHECKF(fabs(squares / N - variance) < 5 * sqrt(fmax(fourth, 0) / N) + 1e-6,
                   "step %g: variance %g, expected %g", steps[i], squares / N, variance);
            free(d);
        }
    dqt_context_destroy(ctx);
}

/* Half a grid unit up is the first bit of the weight's word: element e takes word e % 4 of Philox's block e / 4 with
 * the seed's 64 bits as key, and (step, stream and tensor) above the counter. On every instruction set. */
static void moves_are_words_of_philox(void) {
    enum { ROWS = 3, COLS = 389, N = ROWS * COLS };
    static float g[N];
    static const uint64_t seeds[] = {11, 0x9e3779b9u | (uint64_t)11 << 32, (uint64_t)1 << 63};
    const uint64_t step = 70000;
    for (size_t i = 0; i < N; i++)
        g[i] = -0.5f;
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 1);
        for (size_t k = 0; ctx && k < sizeof seeds / sizeof *seeds; k++) {
            dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT4, false, 1);
            set_code(t, 2);
            t->scales[0] = 1.0f;
            dqt_updater_options o = plain_options(DQT_OPTIMIZER_SGD, DQT_ROUND_STOCHASTIC, 0.0f);
            o.seed = seeds[k];
            const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
            dqt_updater *u = make_updater(ctx, &target, 1, &o);
            updater_set_step_count(u, step);
            const struct gradient gradient = gradient_around(g, t), *list = &gradient;
            OK(ctx, updater_step(u, &list, 1.0f, NULL));
            int8_t *codes = codes_of(t);
            const struct rng rng = rng_make(seeds[k], step, RNG_WEIGHT, 0);
            size_t wrong = 0;
            for (size_t e = 0; e < N; e++) {
                uint32_t words[4];
                rng_block(&rng, e / 4, words);
                wrong += codes[e] != 2 + (int)(words[e % 4] >> 31);
            }
            CHECKF(wrong == 0, "isa %d, seed %#llx: %zu codes differ", isa_caps[i].isa, (unsigned long long)seeds[k],
                   wrong);
            free(codes);
            updater_destroy(u);
            tensor_destroy(t);
        }
        dqt_context_destroy(ctx);
    }
}

/* The same of a row so far into a tensor that the lower word of Philox's counter runs over within it. */
static void words_go_on_past_the_counters_lower_word(void) {
    enum { COLS = 389 };
    const struct packing *packing = format_packing(FORMAT_INT4);
    const uint64_t first = ((uint64_t)1 << 34) - 101;
    const struct update_plan plan = {.method = UPDATE_SGD,
                                     .packing = packing,
                                     .stochastic = true,
                                     .clip = 1.0f,
                                     .learning_rate = 1.0f,
                                     .one_minus_beta1 = 1.0f,
                                     .noise = 1.0f,
                                     .inverse_bias1 = 1.0f,
                                     .update_factor = 1.0f,
                                     .weight = rng_make(11, 5, RNG_WEIGHT, 3)};
    float g[COLS];
    for (size_t k = 0; k < COLS; k++)
        g[k] = -0.5f;
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 1);
        if (!ctx) continue;
        uint8_t codes[(COLS + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK] = {0};
        const struct update_row row = {
            .gradient = g, .cols = COLS, .element = first, .weight = codes, .scale = 1.0f, .row_factor = 1.0f};
        struct update_result result;
        ctx->kernels->update.row(&plan, &row, &result);
        size_t wrong = 0;
        for (size_t k = 0; k < COLS; k++) {
            uint32_t words[4];
            int8_t block[PACK_BLOCK];
            rng_block(&plan.weight, (first + k) / 4, words);
            block_unpack(packing, codes + k / PACK_BLOCK * packing_block_bytes(packing), block);
            wrong += block[k % PACK_BLOCK] != packing->min + (int)(words[(first + k) % 4] >> 31);
        }
        CHECKF(wrong == 0, "isa %d: %zu codes differ", isa_caps[i].isa, wrong);
        dqt_context_destroy(ctx);
    }
}

/* Neighbours, rows and consecutive steps do not move together. */
static void stochastic_moves_are_independent(void) {
    enum { ROWS = 256, COLS = 501, N = ROWS * COLS };
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    double *a = moved(ctx, DQT_FORMAT_TERNARY, DQT_ROUND_STOCHASTIC, 0, 0.5, ROWS, COLS, 0);
    double *b = moved(ctx, DQT_FORMAT_TERNARY, DQT_ROUND_STOCHASTIC, 0, 0.5, ROWS, COLS, 1);
    double steps = 0, neighbours = 0, rows = 0;
    for (size_t i = 0; i < N; i++) {
        steps += (a[i] - 0.5) * (b[i] - 0.5);
        neighbours += (a[i] - 0.5) * (a[(i + 1) % N] - 0.5);
        rows += (a[i] - 0.5) * (a[(i + COLS) % N] - 0.5);
    }
    const double bound = 5 * 0.25 / sqrt(N);
    CHECKF(fabs(steps / N) < bound, "steps %g", steps / N);
    CHECKF(fabs(neighbours / N) < bound, "neighbours %g", neighbours / N);
    CHECKF(fabs(rows / N) < bound, "rows %g", rows / N);
    free(a);
    free(b);
    dqt_context_destroy(ctx);
}

/* 200 steps of 0.02 grid units: nearest stays where it is, stochastic gets to 4. */
static void nearest_loses_small_steps(void) {
    enum { ROWS = 64, COLS = 128, N = ROWS * COLS };
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_NEAREST; rounding++) {
        dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT8, false, 1);
        set_code(t, 0);
        t->scales[0] = 1.0f;
        const dqt_updater_options o = plain_options(DQT_OPTIMIZER_SGD, rounding, 0.0f);
        const struct update_target target = {"w", 1, t, 0, 0};
        dqt_updater *u = make_updater(ctx, &target, 1, &o);
        static float g[N];
        for (size_t i = 0; i < N; i++)
            g[i] = -0.02f;
        const struct gradient gradient = gradient_around(g, t), *list = &gradient;
        for (int step = 0; step < 200; step++)
            OK(ctx, updater_step(u, &list, 1.0f, NULL));
        int8_t *codes = codes_of(t);
        double sum = 0;
        for (size_t i = 0; i < N; i++)
            sum += codes[i];
        if (rounding == DQT_ROUND_NEAREST) {
            CHECK(sum == 0);
        } else {
            CHECKF(fabs(sum / N - 4) < 5 * sqrt(200 * 0.02 * 0.98 / N), "mean %g, expected 4", sum / N);
        }
        free(codes);
        updater_destroy(u);
        tensor_destroy(t);
    }
    dqt_context_destroy(ctx);
}

/* With a constant rate and denominator, W - lr * beta1 / (1 - beta1) * m / denominator follows the unrounded
 * trajectory's exactly: what rounding took from W is in m (docs/numerics.md). Plain stochastic rounding must fail the
 * same bound. */
static void eco_conserves(void) {
    enum { ROWS = 4, COLS = 300, N = ROWS * COLS, STEPS = 60 };
    const double b1 = 0.75, scale = 0.01;
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAMW; optimizer++)
        for (int rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_ECO_NEAREST; rounding++) {
            const bool adam = optimizer == DQT_OPTIMIZER_ADAMW;
            const double lr = 0.003, magnitude = adam ? 0.5 : 1.0, first = adam ? 1 - b1 : 1.0;
            dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT8, false, 1);
            set_code(t, 3);
            t->scales[0] = (float)scale;
            dqt_updater_options o = plain_options(optimizer, rounding, (float)b1);
            o.beta2 = 0.0f; /* v = g^2, the same in every step */
            o.eps = 1e-30f;
            const struct update_target target = {"w", 1, t, 0, 0};
            dqt_updater *u = make_updater(ctx, &target, 1, &o);
            updater_set_step_count(u, 1000); /* 1 - beta1^t is 1 */
            static float g[N];
            static double w[N], m[N];
            for (size_t i = 0; i < N; i++) {
                w[i] = 3 * (double)t->scales[0];
                m[i] = 0;
            }
            uint64_t random = 77;
            for (int step = 0; step < STEPS; step++) {
                for (size_t i = 0; i < N; i++) {
                    g[i] = (float)(test_uniform(&random) < 0 ? -magnitude : magnitude);
                    m[i] = b1 * m[i] + first * (double)g[i];
                    w[i] -= lr * m[i] / (adam ? magnitude : 1);
                }
                const struct gradient gradient = gradient_around(g, t), *list = &gradient;
                dqt_step_stats stats = {.struct_size = sizeof stats};
                OK(ctx, updater_step(u, &list, (float)lr, &stats));
                CHECK(stats.saturated == 0);
            }
            const float *have_m = state_piece(u, "0.m").data;
            int8_t *codes = codes_of(t);
            double worst = 0;
            for (size_t i = 0; i < N; i++) {
                const double factor = lr * b1 / (1 - b1) / (adam ? magnitude : 1);
                const double have = codes[i] * (double)t->scales[0] - factor * (double)have_m[i],
                             want = w[i] - factor * m[i];
                worst = fmax(worst, fabs(have - want) / scale);
            }
            if (rounding >= DQT_ROUND_ECO_STOCHASTIC) {
                CHECKF(worst < 1e-3, "optimizer %d rounding %d: lost %g grid units", optimizer, rounding, worst);
            } else {
                CHECKF(worst > 1, "optimizer %d rounding %d: %g grid units", optimizer, rounding, worst);
            }
            free(codes);
            updater_destroy(u);
            tensor_destroy(t);
        }
    dqt_context_destroy(ctx);
}

/* ---- States -------------------------------------------------------------------------------------------------- */

/* The first step's moments of many seeds: SGD's m is g, AdamW's v is (1 - beta2) g^2. */
struct states {
    dqt_updater *u;
    dqt_tensor *t;
};

static struct states first_step(dqt_context *ctx, int optimizer, int state, uint64_t seed, float *g, size_t rows,
                                size_t cols) {
    struct states s;
    dqt_updater_options o = plain_options(optimizer, DQT_ROUND_STOCHASTIC, 0.5f);
    o.momentum_state = o.variance_state = state;
    o.seed = seed;
    s.t = make_tensor(ctx, rows, cols, DQT_FORMAT_TERNARY, false, 1);
    const struct update_target target = {"w", 1, s.t, 0, 0};
    s.u = make_updater(ctx, &target, 1, &o);
    const struct gradient gradient = gradient_around(g, s.t), *list = &gradient;
    OK(ctx, updater_step(s.u, &list, 0.0f, NULL));
    return s;
}

static void drop(struct states *s) {
    updater_destroy(s->u);
    tensor_destroy(s->t);
}

enum { STATE_ROWS = 3, STATE_COLS = 300, STATE_COUNT = STATE_ROWS * STATE_COLS, SEEDS = 400 };

static void wide_gradient(float *g) {
    uint64_t random = 5;
    for (size_t i = 0; i < STATE_COUNT; i++) {
        const float size = powf(10.0f, 2.0f * test_uniform(&random) - 3.0f); /* 1e-5 .. 0.1 */
        g[i] = test_random(&random) & 1 ? size : -size;
    }
    g[7] = 0.0f;
}

/* The two stored values around a wanted one. Rounding between them without bias has variance (want - low) * (high -
 * want). */
struct between {
    double low, high;
};

/* Every mean within 6 sigma of its theoretical variance (900 elements: p < 2e-6), and 3 rare jumps more, where a jump
 * is so improbable that the mean is not normal. */
static void check_means(const char *what, const double *sum, const double *want, const struct between *b) {
    for (size_t i = 0; i < STATE_COUNT; i++) {
        const double mean = sum[i] / SEEDS, gap = b[i].high - b[i].low;
        const double variance = fmax((want[i] - b[i].low) * (b[i].high - want[i]), 0);
        const double error = 6 * sqrt(variance / SEEDS) + 3 * gap / SEEDS + 1e-6 * fabs(want[i]);
        CHECKF(fabs(mean - want[i]) <= error, "%s %zu: mean %.9g, expected %.9g, error %g", what, i, mean, want[i],
               error);
    }
}

static struct between bf16_neighbours(double x) {
    int exponent;
    frexp(x, &exponent);
    const double ulp = ldexp(1.0, exponent - 8);
    return (struct between){floor(x / ulp) * ulp, (floor(x / ulp) + 1) * ulp};
}

/* Codes are neighbours of the wanted value, and the mean of m itself is kept. */
static void int8_momentum_is_unbiased(void) {
    static float g[STATE_COUNT];
    static double sum[STATE_COUNT], want[STATE_COUNT];
    static struct between around[STATE_COUNT];
    memset(sum, 0, sizeof sum);
    wide_gradient(g);
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct states s = first_step(ctx, DQT_OPTIMIZER_SGD, DQT_STATE_INT8, seed, g, STATE_ROWS, STATE_COLS);
        const int8_t *code = state_piece(s.u, "0.m").data;
        const float *scale = state_piece(s.u, "0.m_scale").data;
        CHECK(state_piece(s.u, "0.m_scale").count == STATE_ROWS * 3); /* the last block of a row is short */
        for (size_t i = 0; i < STATE_COUNT; i++) {
            const size_t row = i / STATE_COLS, block = i % STATE_COLS / 128,
                         end = block == 2 ? STATE_COLS : (block + 1) * 128;
            float a = 0;
            for (size_t k = block * 128; k < end; k++)
                a = fmaxf(a, fabsf(g[row * STATE_COLS + k]));
            if (a != scale[row * 3 + block])
                CHECKF(false, "block scale %g, largest %g", (double)scale[row * 3 + block], (double)a);
            const double z = 127 * sqrt(fabs((double)g[i]) / (double)a), below = fmin(floor(z * (1 + 1e-7)), 126);
            const double size = abs(code[i]), sign = g[i] < 0 ? -1 : 1, unit = (double)a / (127 * 127);
            CHECKF(size == below || size == below + 1, "%d for %g", code[i], z);
            CHECKF(code[i] * sign >= 0, "code %d for %g", code[i], (double)g[i]);
            want[i] = (double)g[i];
            sum[i] += sign * size * size * unit;
            around[i] = (struct between){below * below * unit, (below + 1) * (below + 1) * unit};
            if (sign < 0) around[i] = (struct between){-around[i].high, -around[i].low};
        }
        drop(&s);
    }
    check_means("momentum", sum, want, around);
    dqt_context_destroy(ctx);
}

/* A constant gradient of 1 in one column of a block and of `size` in the others: AdamW's u is 1 in all. The mean over
 * elements and steps, with the standard error that the elements' own means show (they are independent): within 5 of
 * those, which are below 0.4 % down to 1e-4 of the block's largest, below 2 % at 1e-5 and below 6 % at 1e-6. */
static void small_int8_momentum_moves_as_it_should(void) {
    enum { ROWS = 48, COLS = 128, N = ROWS * COLS, FROM = 40, STEPS = 240 };
    static float g[N];
    static const double most_error[] = {1e-3, 2e-3, 3e-3, 4e-3, 2e-2, 6e-2};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int power = 1; power <= 6; power++) {
        dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, 0.8f);
        o.momentum_state = DQT_STATE_INT8;
        dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_F32, false, 1);
        float *w = (float *)(void *)t->data;
        memset(w, 0, N * sizeof *w);
        const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
        dqt_updater *u = make_updater(ctx, &target, 1, &o);
        for (size_t i = 0; i < N; i++)
            g[i] = i % COLS ? powf(10.0f, (float)-power) : 1.0f;
        const struct gradient gradient = gradient_around(g, t), *list = &gradient;
        for (int step = 0; step < STEPS; step++) {
            if (step == FROM) memset(w, 0, N * sizeof *w);
            OK(ctx, updater_step(u, &list, 1.0f, NULL));
        }
        double sum = 0, squares = 0;
        const double count = (double)ROWS * (COLS - 1);
        for (size_t i = 0; i < N; i++) {
            const double mean = -(double)w[i] / (STEPS - FROM);
            if (i % COLS == 0) continue;
            sum += mean;
            squares += mean * mean;
        }
        const double mean = sum / count, error = sqrt((squares / count - mean * mean) / count);
        CHECKF(error < most_error[power - 1], "1e-%d: standard error %g", power, error);
        CHECKF(fabs(mean - 1) < 5 * error + 1e-4, "1e-%d of the largest: mean update %g, standard error %g", power,
               mean, error);
        updater_destroy(u);
        tensor_destroy(t);
    }
    dqt_context_destroy(ctx);
}

/* How far codes are from the unrounded trajectory, rms in grid steps, under ECO with 8-bit momentum, where gradients of
 * columns differ by up to `spread`. f32 momentum: about half a step, whatever the spread. */
static double eco_lag(dqt_context *ctx, int state, double spread) {
    enum { ROWS = 16, COLS = 128, N = ROWS * COLS, STEPS = 400 };
    static float g[N];
    static double m[N], w[N];
    const double b1 = 0.9, lr = 0.02;
    dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAMW, DQT_ROUND_ECO_STOCHASTIC, 0.9f);
    o.momentum_state = state;
    dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT8, false, 1);
    set_code(t, 0);
    t->scales[0] = 1.0f;
    const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    memset(m, 0, sizeof m);
    memset(w, 0, sizeof w);
    uint64_t random = 77;
    double correction = 1;
    for (int step = 0; step < STEPS; step++) {
        correction *= b1;
        for (size_t i = 0; i < N; i++) {
            const double size = pow(spread, (double)(i % COLS) / (COLS - 1));
            g[i] = (float)(test_uniform(&random) < 0 ? -size : size);
            m[i] = b1 * m[i] + (1 - b1) * (double)g[i];
            w[i] -= lr * m[i] / (1 - correction) / size;
        }
        const struct gradient gradient = gradient_around(g, t), *list = &gradient;
        OK(ctx, updater_step(u, &list, (float)lr, NULL));
    }
    int8_t *codes = codes_of(t);
    double squares = 0;
    for (size_t i = 0; i < N; i++)
        squares += (codes[i] - w[i]) * (codes[i] - w[i]);
    free(codes);
    updater_destroy(u);
    tensor_destroy(t);
    return sqrt(squares / N);
}

/* Biased codes (of sqrt(m)) lagged by 1.5, 9.6 and 33 steps; unbiased ones have more variance where columns are small,
 * which leaves 1.1, 2.8 and 6.5. */
static void eco_lag_with_int8_momentum(void) {
    static const double spread[] = {1, 1e-2, 1e-4, 1e-5, 1e-6}, most[] = {0.5, 0.55, 1.3, 3.5, 8};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t i = 0; i < sizeof spread / sizeof *spread; i++) {
        const double exact = eco_lag(ctx, DQT_STATE_F32, spread[i]), lag = eco_lag(ctx, DQT_STATE_INT8, spread[i]);
        CHECKF(exact < 0.5 && lag < most[i], "columns down to %g: lag %g steps, with f32 momentum %g", spread[i], lag,
               exact);
    }
    dqt_context_destroy(ctx);
}

static void int8_variance_is_unbiased_and_positive(void) {
    static float g[STATE_COUNT];
    static double sum[STATE_COUNT], want[STATE_COUNT];
    static struct between around[STATE_COUNT];
    memset(sum, 0, sizeof sum);
    wide_gradient(g);
    g[8] = 1e-12f; /* far below the least code of its block */
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct states s = first_step(ctx, DQT_OPTIMIZER_ADAMW, DQT_STATE_INT8, seed, g, STATE_ROWS, STATE_COLS);
        const uint8_t *code = state_piece(s.u, "0.v").data;
        const float *scale = state_piece(s.u, "0.v_scale").data;
        for (size_t i = 0; i < STATE_COUNT; i++) {
            const double a = (double)scale[i / STATE_COLS * 3 + i % STATE_COLS / 128], x = pow(code[i] / 255.0, 4) * a;
            want[i] = fmax(0.05 * (double)g[i] * (double)g[i], pow(1 / 255.0, 4) * a);
            if (g[i] == 0.0f) want[i] = 0;
            CHECKF((code[i] > 0) == (g[i] != 0.0f), "code %d for a gradient of %g", code[i], (double)g[i]);
            sum[i] += x;
            const double below = a > 0 ? fmax(floor(255 * pow(want[i] / a, 0.25) * (1 + 1e-9)), want[i] > 0) : 0;
            around[i] = (struct between){pow(below / 255, 4) * a, pow(fmin(below + 1, 255) / 255, 4) * a};
        }
        drop(&s);
    }
    check_means("variance", sum, want, around);
    dqt_context_destroy(ctx);
}

static void bf16_states_are_unbiased(void) {
    static float g[STATE_COUNT];
    static double m_sum[STATE_COUNT], v_sum[STATE_COUNT];
    static struct between m_around[STATE_COUNT], v_around[STATE_COUNT];
    static double m_want[STATE_COUNT], v_want[STATE_COUNT];
    memset(m_sum, 0, sizeof m_sum);
    memset(v_sum, 0, sizeof v_sum);
    wide_gradient(g);
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct states s = first_step(ctx, DQT_OPTIMIZER_ADAMW, DQT_STATE_BF16, seed, g, STATE_ROWS, STATE_COLS);
        const uint16_t *m = state_piece(s.u, "0.m").data, *v = state_piece(s.u, "0.v").data;
        for (size_t i = 0; i < STATE_COUNT; i++) {
            const double x = (double)bf16_to_f32(m[i]), y = (double)bf16_to_f32(v[i]);
            m_want[i] = 0.5 * (double)g[i];
            v_want[i] = 0.05 * (double)g[i] * (double)g[i];
            CHECK(fabs(x - m_want[i]) <= fabs(m_want[i]) * 0x1p-7 && fabs(y - v_want[i]) <= v_want[i] * 0x1p-7);
            m_sum[i] += x;
            m_around[i] = bf16_neighbours(m_want[i]);
            v_sum[i] += y;
            v_around[i] = bf16_neighbours(v_want[i]);
        }
        drop(&s);
    }
    check_means("momentum", m_sum, m_want, m_around);
    check_means("variance", v_sum, v_want, v_around);
    dqt_context_destroy(ctx);
}

/* 8-bit and bf16 moments follow f32 ones over 100 steps: rms difference of m within a few percent of rms m. */
static void low_states_follow_f32(void) {
    enum { ROWS = 8, COLS = 256, N = ROWS * COLS };
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    static float g[N];
    static double m[3][N], v[3][N];
    for (int state = 0; state < 3; state++) {
        dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, 0.9f);
        o.momentum_state = o.variance_state = state;
        dqt_tensor *t = make_tensor(ctx, ROWS, COLS, DQT_FORMAT_F32, false, 1);
        const struct update_target target = {"w", 1, t, 0, 0};
        dqt_updater *u = make_updater(ctx, &target, 1, &o);
        for (uint64_t step = 1; step <= 100; step++) {
            random_fill(g, N, 1.0f, step);
            for (size_t i = 0; i < N; i++)
                g[i] += 0.3f * (float)(i % 3);
            const struct gradient gradient = gradient_around(g, t), *list = &gradient;
            OK(ctx, updater_step(u, &list, 1e-3f, NULL));
        }
        const void *pm = state_piece(u, "0.m").data, *pv = state_piece(u, "0.v").data;
        const float *ms = state_piece(u, "0.m_scale").data, *vs = state_piece(u, "0.v_scale").data;
        for (size_t i = 0; i < N; i++) {
            if (state == DQT_STATE_F32) {
                m[0][i] = (double)((const float *)pm)[i];
                v[0][i] = (double)((const float *)pv)[i];
            } else if (state == DQT_STATE_BF16) {
                m[1][i] = (double)bf16_to_f32(((const uint16_t *)pm)[i]);
                v[1][i] = (double)bf16_to_f32(((const uint16_t *)pv)[i]);
            } else {
                const double z = ((const int8_t *)pm)[i] / 127.0;
                m[2][i] = z * fabs(z) * (double)ms[i / 128];
                v[2][i] = pow(((const uint8_t *)pv)[i] / 255.0, 4) * (double)vs[i / 128];
            }
        }
        updater_destroy(u);
        tensor_destroy(t);
    }
    for (int state = 1; state < 3; state++) {
        double dm = 0, dv = 0, sm = 0, sv = 0, bias = 0;
        for (size_t i = 0; i < N; i++) {
            dm += pow(m[state][i] - m[0][i], 2);
            dv += pow(v[state][i] - v[0][i], 2);
            sm += m[0][i] * m[0][i];
            sv += v[0][i] * v[0][i];
            bias += v[state][i] - v[0][i];
        }
        CHECKF(sqrt(dm / sm) < 0.05, "state %d: m off by %g", state, sqrt(dm / sm));
        CHECKF(sqrt(dv / sv) < 0.05, "state %d: v off by %g", state, sqrt(dv / sv));
        CHECKF(fabs(bias) < 5 * sqrt(dv), "state %d: v biased by %g", state, bias / N);
    }
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {TEST(stochastic_mean_and_variance),
                                    TEST(moves_are_words_of_philox),
                                    TEST(words_go_on_past_the_counters_lower_word),
                                    TEST(less_noise),
                                    TEST(stochastic_moves_are_independent),
                                    TEST(nearest_loses_small_steps),
                                    TEST(eco_conserves),
                                    TEST(int8_momentum_is_unbiased),
                                    TEST(small_int8_momentum_moves_as_it_should),
                                    TEST(eco_lag_with_int8_momentum),
                                    TEST(int8_variance_is_unbiased_and_positive),
                                    TEST(bf16_states_are_unbiased),
                                    TEST(low_states_follow_f32)};
TEST_MAIN(tests)
