/* Integer products of backward against plain loops that follow docs/numerics.md: the same bits, on every instruction
 * set and for any number of threads; and what stochastic rounding promises: means and variances.
 *
 * Random numbers, steps and codes are made here once more, from Philox alone. */
#define _DEFAULT_SOURCE
#include "gemm_world.h"
#include "isa_contexts.h"
#include "kernels/kernels.h"

/* ---- The reference ------------------------------------------------------------------------------------------- */

static float random_half(const struct rng *rng, size_t token, size_t row) {
    uint32_t words[4];
    rng_block(rng, (uint64_t)token << 32 | row / 8, words);
    const uint32_t word = words[row % 8 / 2];
    return (float)(row % 2 ? word >> 16 : word & 0xffff) / 65536.0f;
}

static bool counts(float most) {
    return isfinite(most) && most >= 0x1p-119f;
}

static float step_of(float most) {
    return counts(most) ? most / 127.0f : isfinite(most) ? 0.0f : NAN;
}

/* v is finite. */
static int code_of(float v, float random) {
    v = fminf(fmaxf(v, -127.0f), 127.0f);
    return (int)floorf(v + (128.0f + random)) - 128;
}

/* The greatest magnitude; NaN or infinite where something is not finite. */
static float greater(float most, float z) {
    return !isfinite(most) ? most : !isfinite(z) ? z : fmaxf(most, fabsf(z));
}

/* dx[tokens][w->cols] from rows [row, row + rows), dy[tokens][ld]. */
static void reference_dx(const dqt_tensor *w, const float *dy, size_t ld, size_t tokens, size_t row, size_t rows,
                         const struct rng *rng, bool accumulate, float *dx) {
    int8_t *codes = calloc(rows * round_up(w->cols, PACK_BLOCK), 1);
    float *z = malloc(rows * sizeof *z);
    int *q = malloc(rows * sizeof *q);
    for (size_t r = 0; r < rows; r++)
        tensor_read_codes(w, row + r, 0, w->cols, codes + r * w->cols);
    for (size_t t = 0; t < tokens; t++) {
        float most = 0;
        for (size_t r = 0; r < rows; r++) {
            z[r] = dy[t * ld + r] * tensor_compute_scale(w, row + r);
            most = greater(most, z[r]);
        }
        for (size_t r = 0; r < rows; r++)
            q[r] = counts(most) ? code_of(z[r] * (127.0f / most), random_half(rng, t, row + r)) : 0;
        for (size_t c = 0; c < w->cols; c++) {
            int64_t sum = 0;
            for (size_t r = 0; r < rows; r++)
                sum += q[r] * codes[r * w->cols + c];
            const float value = (float)sum * step_of(most);
            dx[t * w->cols + c] = accumulate ? dx[t * w->cols + c] + value : value;
        }
    }
    free(codes);
    free(z);
    free(q);
}

/* dw[rows][x->cols]; dy[tokens][ld], whose first row is row `row` of the weight. */
static void reference_dw(const struct activations *x, const float *dy, size_t ld, size_t row, size_t rows,
                         const struct rng *rng, float *dw) {
    int *q = malloc(GRADIENT_TOKENS * sizeof *q);
    memset(dw, 0, rows * x->cols * sizeof *dw);
    for (size_t r = 0; r < rows; r++) {
        for (size_t first = 0; first < x->tokens; first += GRADIENT_TOKENS) {
            const size_t count = size_min(GRADIENT_TOKENS, x->tokens - first);
            float most = 0;
            for (size_t i = 0; i < count; i++)
                most = greater(most, dy[(first + i) * ld + r] * x->step[first + i]);
            for (size_t i = 0; i < count; i++) {
                const float z = dy[(first + i) * ld + r] * x->step[first + i];
                q[i] = counts(most) ? code_of(z * (127.0f / most), random_half(rng, first + i, row + r)) : 0;
            }
            for (size_t c = 0; c < x->cols; c++) {
                int64_t sum = 0;
                for (size_t i = 0; i < count; i++)
                    sum += q[i] * x->codes[(first + i) * x->ld + c];
                const float value = (float)sum * step_of(most);
                dw[r * x->cols + c] = first ? dw[r * x->cols + c] + value : value;
            }
        }
    }
    free(q);
}

/* ---- Calls --------------------------------------------------------------------------------------------------- */

static struct workspace integer_workspace(dqt_context *ctx, size_t tokens, size_t rows, size_t cols) {
    struct scratch_need need = {0};
    struct workspace ws = {0};
    gemm_int8_gradient_scratch(ctx, tokens, rows, cols, &need);
    OK(ctx, workspace_create(ctx, &need, &ws));
    return ws;
}

struct collected {
    float *dw;
    size_t rows, cols;
    bool bad;
};

static void collect(void *arg, size_t row, size_t rows, float *tile, size_t ld, int lane) {
    struct collected *g = arg;
    (void)lane;
    if (row % GEMM_TILE_ROWS != 0 || rows > GEMM_TILE_ROWS || row + rows > g->rows) g->bad = true;
    for (size_t r = 0; r < rows; r++)
        memcpy(g->dw + (row + r) * g->cols, tile + r * ld, g->cols * sizeof(float));
}

static float *weight_gradient(dqt_context *ctx, const struct activations *x, const float *dy, size_t ld, size_t row,
                              size_t rows, const struct rng *rng) {
    struct workspace ws = integer_workspace(ctx, x->tokens, rows, x->cols);
    struct collected g = {calloc(rows * x->cols, sizeof(float)), rows, x->cols, false};
    gemm_weight_gradient_int8(ctx, &ws, dy, ld, row, rows, x, rng, collect, &g);
    CHECK(!g.bad);
    workspace_destroy(ctx, &ws);
    return g.dw;
}

static bool same(const char *what, const float *got, const float *want, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0 && !(isnan(got[i]) && isnan(want[i]))) {
            CHECKF(false, "%s: element %zu of %zu is %.9g, not %.9g", what, i, count, (double)got[i], (double)want[i]);
            return false;
        }
    return true;
}

/* Tokens of very different magnitudes, one of zeros, one too small to count. */
static void spread(float *dy, size_t tokens, size_t rows) {
    for (size_t t = 0; t < tokens; t++) {
        const float factor = t % 7 == 3   ? 0.0f
                             : t % 7 == 5 ? 1e-38f
                             : t % 7 == 6 ? 1e-20f
                                          : ldexpf(1.0f, (int)(t % 23));
        for (size_t r = 0; r < rows; r++)
            dy[t * rows + r] *= factor;
    }
}

static void check_dx(dqt_context *ctx, const char *name, int storage, int compute, const size_t size[3], size_t row) {
    const size_t tokens = size[0], rows = size[1], cols = size[2];
    const struct rng rng = rng_make(0x123456789abcdefu, tokens, RNG_INPUT_PRODUCT, (uint32_t)rows);
    dqt_tensor *t = weights(ctx, storage, compute, rows, cols, rows * 31 + cols);
    struct setup s = setup(t, tokens, true, tokens + rows);
    spread(s.dy, tokens, rows);
    struct workspace ws = integer_workspace(ctx, tokens, rows, cols);
    float *dx = guard_alloc(tokens * cols * sizeof *dx), *want = malloc(tokens * cols * sizeof *want);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        char what[128];
        snprintf(what, sizeof what, "%s %s/%s dx %zux%zux%zu from row %zu%s", name, format_name(t->storage),
                 format_name(t->compute), tokens, rows, cols, row, accumulate ? ", added" : "");
        for (size_t i = 0; i < tokens * cols; i++)
            dx[i] = want[i] = 0.25f;
        reference_dx(t, s.dy + row, rows, tokens, row, rows - row, &rng, accumulate, want);
        gemm_input_gradient_int8(ctx, &ws, s.dy + row, rows, tokens, t, row, rows - row, &rng, accumulate, dx);
        same(what, dx, want, tokens * cols);
    }
    free(want);
    free(s.w);
    workspace_destroy(ctx, &ws);
    tensor_destroy(t);
    guard_free_all();
}

static const size_t dx_sizes[][3] = {{1, 1, 1},      {1, 65, 63},  {2, 16, 64},    {5, 31, 129},  {63, 130, 100},
                                     {33, 70, 1030}, {17, 300, 5}, {130, 129, 67}, {64, 64, 192}, {8, 2100, 70}};

static void input_gradients_of(int isa, const char *name) {
    for (int threads = 1; threads <= 3; threads++) {
        dqt_context *ctx = context(isa, threads);
        if (!ctx) return;
        for (size_t i = 0; i < sizeof dx_sizes / sizeof *dx_sizes; i++) {
            if (threads > 1 && i % 3 != (size_t)threads - 1) continue; /* a few are enough */
            EACH_FORMAT(number)
            if (number_is_code(number)) check_dx(ctx, name, number, 0, dx_sizes[i], 0);
            check_dx(ctx, name, DQT_FORMAT_F32, DQT_FORMAT_TERNARY, dx_sizes[i], 0);
            check_dx(ctx, name, DQT_FORMAT_BF16, DQT_FORMAT_INT8, dx_sizes[i], 0);
            check_dx(ctx, name, DQT_FORMAT_INT8, DQT_FORMAT_INT4, dx_sizes[i], 0);
            if (dx_sizes[i][1] > 64) check_dx(ctx, name, DQT_FORMAT_INT8, 0, dx_sizes[i], 64);
        }
        dqt_context_destroy(ctx);
    }
}

static void input_gradients(void) {
    for (size_t i = 0; i < ISA_COUNT; i++)
        input_gradients_of(isa_caps[i].isa, isa_caps[i].name);
}

/* The greatest sums: codes of dy and of weights are all at an end. 63 tokens: blocks of rows that are nearly full. */
static void extreme_input_gradients_are_exact(void) {
    enum { TOKENS = 63, ROWS = 1500, COLS = 33 };
    const struct rng rng = rng_make(1, 2, RNG_INPUT_PRODUCT, 3);
    float *dy = malloc((size_t)TOKENS * ROWS * sizeof *dy), dx[TOKENS * COLS];
    int8_t codes[PACK_BLOCK] = {0};
    for (size_t i = 0; i < (size_t)TOKENS * ROWS; i++)
        dy[i] = i / ROWS % 2 ? -127.0f : 127.0f;
    for (size_t k = 0; k < ISA_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 1);
        if (!ctx) continue;
        EACH_FORMAT(number) {
            if (!number_is_code(number)) continue;
            dqt_tensor *t = weights(ctx, number, 0, ROWS, COLS, 1);
            const int low = format_min(t->storage), high = format_max(t->storage);
            for (int c = 0; c < COLS; c++)
                codes[c] = (int8_t)(c % 2 ? low : high);
            for (size_t r = 0; r < ROWS; r++) {
                tensor_pack_codes(t, r, codes);
                t->scales[r] = 1.0f;
            }
            struct workspace ws = integer_workspace(ctx, TOKENS, ROWS, COLS);
            gemm_input_gradient_int8(ctx, &ws, dy, ROWS, TOKENS, t, 0, ROWS, &rng, false, dx);
            for (int i = 0; i < TOKENS * COLS; i++) {
                const int want = ROWS * (i / COLS % 2 ? -127 : 127) * (i % COLS % 2 ? low : high);
                CHECKF(dx[i] == (float)want, "%s %s: %g, not %d", isa_caps[k].name, format_public_name(number),
                       (double)dx[i], want);
            }
            workspace_destroy(ctx, &ws);
            tensor_destroy(t);
            guard_free_all();
        }
        dqt_context_destroy(ctx);
    }
    free(dy);
}

static const size_t dw_sizes[][3] = {{1, 1, 1},      {1, 70, 63},    {63, 130, 100},  {64, 33, 64},
                                     {65, 300, 129}, {1024, 66, 70}, {1025, 130, 67}, {2500, 65, 33}};

static void check_dw(const size_t size[3], size_t row) {
    const size_t tokens = size[0], rows = size[1], cols = size[2];
    const struct rng rng = rng_make(77, tokens, RNG_WEIGHT_PRODUCT, (uint32_t)cols);
    float *want = NULL;
    for (size_t k = 0; k < ISA_COUNT; k++)
        for (int threads = 1; threads <= 3; threads++) {
            dqt_context *ctx = context(isa_caps[k].isa, threads);
            if (!ctx) continue;
            dqt_tensor *t = weights(ctx, DQT_FORMAT_TERNARY, 0, rows, cols, 1);
            struct setup s = setup(t, tokens, true, tokens + rows);
            char what[128];
            snprintf(what, sizeof what, "%s, %d threads, dw %zux%zux%zu of row %zu", isa_caps[k].name, threads, tokens,
                     rows, cols, row);
            spread(s.dy, tokens, rows);
            for (size_t i = 0; i < tokens; i++) /* a row of dW that is 0 in the first block */
                if (rows > 5 && i < GRADIENT_TOKENS) s.dy[i * rows + 5] = 0.0f;
            if (!want) {
                want = malloc(rows * cols * sizeof *want);
                reference_dw(&s.x, s.dy, rows, row, rows, &rng, want);
            }
            float *dw = weight_gradient(ctx, &s.x, s.dy, rows, row, rows, &rng);
            same(what, dw, want, rows * cols);
            free(dw);
            free(s.w);
            tensor_destroy(t);
            guard_free_all();
            dqt_context_destroy(ctx);
        }
    free(want);
}

static void weight_gradients(void) {
    for (size_t i = 0; i < sizeof dw_sizes / sizeof *dw_sizes; i++)
        check_dw(dw_sizes[i], i % 2 * GEMM_TILE_ROWS);
}

/* ---- Kernels ------------------------------------------------------------------------------------------------- */

/* Every length, at a guard page, against plain C: extremes, numbers that are not finite, and factors that make of the
 * greatest gradient a little more than 127. */
static void kernels_agree(void) {
    dqt_context *scalar = context(DQT_ISA_SCALAR, 1);
    const struct gradient_kernels *plain = &scalar->kernels->gradient;
    const struct rng rng = rng_make(5, 6, RNG_INPUT_PRODUCT, 7);
    for (size_t k = 1; k < ISA_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 1);
        if (!ctx) continue;
        const struct gradient_kernels *fast = &ctx->kernels->gradient;
        for (size_t n = 1; n <= 200; n++) {
            uint64_t seed = n;
            const uint64_t row = n % 3 ? 64 * n : (uint64_t)8 * 0xfffffff8u; /* the blocks' lower word runs over */
            float *dy = guard_alloc(n * sizeof *dy), *each = guard_alloc(n * sizeof *each);
            float *most = guard_alloc(n * sizeof *most);
            int8_t *codes = guard_alloc(round_up(n, GRADIENT_PART));
            float want_most[200];
            int8_t want[256];
            for (size_t i = 0; i < n; i++) {
                dy[i] = test_uniform(&seed);
                each[i] = 127.0001f * test_uniform(&seed);
                most[i] = want_most[i] = fabsf(test_uniform(&seed));
            }
            dy[n / 2] = n % 5 == 1 ? NAN : n % 5 == 2 ? -INFINITY : n % 5 == 3 ? 1e30f : n % 5 == 4 ? -0.0f : 1e-40f;
            const float a = plain->largest(dy, each, n), b = fast->largest(dy, each, n);
            CHECKF(memcmp(&a, &b, sizeof a) == 0, "%s: largest of %zu", isa_caps[k].name, n);
            CHECK(isfinite(a) == (n % 5 != 1 && n % 5 != 2));
            plain->largest_by_row(dy, 0.7f, n, want_most);
            fast->largest_by_row(dy, 0.7f, n, most);
            CHECKF(memcmp(want_most, most, n * sizeof *most) == 0, "%s: largest of rows, %zu", isa_caps[k].name, n);
            plain->round(dy, each, 1.0f, n, &rng, n, row, want);
            fast->round(dy, each, 1.0f, n, &rng, n, row, codes);
            CHECKF(memcmp(want, codes, round_up(n, GRADIENT_PART)) == 0, "%s: round %zu", isa_caps[k].name, n);
            plain->round_by_row(dy, 1.0f, each, n, &rng, n, row, want);
            fast->round_by_row(dy, 1.0f, each, n, &rng, n, row, codes);
            CHECKF(memcmp(want, codes, round_up(n, GRADIENT_PART)) == 0, "%s: round rows, %zu", isa_caps[k].name, n);
            for (size_t i = 0; i < round_up(n, GRADIENT_PART); i++)
                CHECK(codes[i] >= -127 && (i < n || codes[i] == 0));
            guard_free_all();
        }
        dqt_context_destroy(ctx);
    }
    dqt_context_destroy(scalar);
}

/* ---- Stochastic rounding ------------------------------------------------------------------------------------- */

enum { PASSES = 400, TOKENS = 64, ROWS = 48, COLS = 12 };

/* What many passes give for one exact result: their mean and variance, and what they should be. */
struct moments {
    double sum, squares, want, variance;
};

/* The mean of `passes` results lies around `want` with a standard error of sqrt(variance / passes): the mean square of
 * the errors in these units is 1, its own standard error sqrt(2 / count) where results are independent; they nearly
 * are. Their mean is 0 with a standard error of sqrt(1 / count). The variance of results over passes is as expected,
 * with a relative standard error of sqrt(2 / (count * passes)). All within 5. */
static void check_moments(const char *what, const struct moments *m, size_t count) {
    double squares = 0, mean = 0, found = 0, expected = 0;
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (m[i].variance <= 0) continue;
        const double average = m[i].sum / PASSES, error = (average - m[i].want) / sqrt(m[i].variance / PASSES);
        squares += error * error;
        mean += error;
        found += (m[i].squares / PASSES - average * average) / m[i].variance * PASSES / (PASSES - 1.0);
        expected += 1;
        used++;
    }
    const double n = (double)used;
    CHECKF(used > count / 2, "%s: only %zu of %zu are rounded", what, used, count);
    CHECKF(fabs(squares / n - 1) < 5 * sqrt(2 / n), "%s: mean square of errors %.4f", what, squares / n);
    CHECKF(fabs(mean) < 5 * sqrt(n), "%s: mean error %.4f", what, mean / n);
    CHECKF(fabs(found / expected - 1) < 5 * sqrt(2 / (n * PASSES)), "%s: variance %.4f of what is expected", what,
           found / expected);
}

static double chance(float v) {
    const double f = (double)v - floor((double)v);
    return f * (1 - f);
}

static void add(struct moments *m, const float *result, size_t count) {
    for (size_t i = 0; i < count; i++) {
        m[i].sum += (double)result[i];
        m[i].squares += (double)result[i] * (double)result[i];
    }
}

static void input_gradients_are_unbiased(void) {
    dqt_context *ctx = context(DQT_ISA_SCALAR, 1);
    dqt_tensor *t = weights(ctx, DQT_FORMAT_INT4, 0, ROWS, COLS, 3);
    struct setup s = setup(t, TOKENS, true, 4);
    struct workspace ws = integer_workspace(ctx, TOKENS, ROWS, COLS);
    struct moments *m = calloc(TOKENS * COLS, sizeof *m);
    float dx[TOKENS * COLS];
    for (size_t i = 0; i < TOKENS; i++) {
        float most = 0;
        for (size_t r = 0; r < ROWS; r++)
            most = fmaxf(most, fabsf(s.dy[i * ROWS + r] * tensor_compute_scale(t, r)));
        for (size_t r = 0; r < ROWS; r++)
            for (size_t c = 0; c < COLS; c++) {
                const float scale = tensor_compute_scale(t, r), z = s.dy[i * ROWS + r] * scale;
                const double code = s.w[r * COLS + c] / (double)scale, step = (double)most / 127;
                m[i * COLS + c].want += (double)s.dy[i * ROWS + r] * s.w[r * COLS + c];
                m[i * COLS + c].variance += chance(z * (127.0f / most)) * code * code * step * step;
            }
    }
    for (uint64_t pass = 0; pass < PASSES; pass++) {
        const struct rng rng = rng_make(11, pass, RNG_INPUT_PRODUCT, 2);
        gemm_input_gradient_int8(ctx, &ws, s.dy, ROWS, TOKENS, t, 0, ROWS, &rng, false, dx);
        add(m, dx, TOKENS * COLS);
    }
    check_moments("dx", m, TOKENS * COLS);
    free(m);
    free(s.w);
    workspace_destroy(ctx, &ws);
    tensor_destroy(t);
    guard_free_all();
    dqt_context_destroy(ctx);
}

static void weight_gradients_are_unbiased(void) {
    dqt_context *ctx = context(DQT_ISA_SCALAR, 1);
    dqt_tensor *t = weights(ctx, DQT_FORMAT_INT4, 0, ROWS, COLS, 3);
    struct setup s = setup(t, TOKENS, true, 4);
    struct moments *m = calloc(ROWS * COLS, sizeof *m);
    for (size_t r = 0; r < ROWS; r++) {
        float most = 0;
        for (size_t i = 0; i < TOKENS; i++)
            most = fmaxf(most, fabsf(s.dy[i * ROWS + r] * s.x.step[i]));
        for (size_t i = 0; i < TOKENS; i++)
            for (size_t c = 0; c < COLS; c++) {
                const float z = s.dy[i * ROWS + r] * s.x.step[i];
                const double code = s.x.codes[i * s.x.ld + c], step = (double)most / 127;
                m[r * COLS + c].want += (double)s.dy[i * ROWS + r] * x_value(&s, i, c);
                m[r * COLS + c].variance += chance(z * (127.0f / most)) * code * code * step * step;
            }
    }
    for (uint64_t pass = 0; pass < PASSES; pass++) {
        const struct rng rng = rng_make(11, pass, RNG_WEIGHT_PRODUCT, 2);
        float *dw = weight_gradient(ctx, &s.x, s.dy, ROWS, 0, ROWS, &rng);
        add(m, dw, ROWS * COLS);
        free(dw);
    }
    check_moments("dw", m, ROWS * COLS);
    free(m);
    free(s.w);
    tensor_destroy(t);
    guard_free_all();
    dqt_context_destroy(ctx);
}

/* ---- Numbers that are not finite ----------------------------------------------------------------------------- */

/* A token with a NaN or an infinity is NaN in dX, and every row of dW that it is in; the others are as without it. */
static void not_finite(void) {
    for (size_t k = 0; k < ISA_COUNT; k++)
        for (int kind = 0; kind < 3; kind++) {
            dqt_context *ctx = context(isa_caps[k].isa, 2);
            if (!ctx) continue;
            dqt_tensor *t = weights(ctx, DQT_FORMAT_INT8, 0, 70, 40, 3);
            struct setup s = setup(t, 1100, true, 4);
            const struct rng rng = rng_make(1, 2, RNG_INPUT_PRODUCT, 3);
            struct workspace ws = integer_workspace(ctx, 1100, 70, 40);
            float *dx = malloc(1100 * 40 * sizeof *dx), *want = malloc(1100 * 40 * sizeof *want);
            if (kind == 2) {
                ((float *)s.x.step)[1050] = NAN; /* of a token of activations */
            } else {
                s.dy[1050 * 70 + 66] = kind ? -INFINITY : NAN;
            }
            gemm_input_gradient_int8(ctx, &ws, s.dy, 70, 1100, t, 0, 70, &rng, false, dx);
            reference_dx(t, s.dy, 70, 1100, 0, 70, &rng, false, want);
            same("dx", dx, want, 1100 * 40);
            CHECK(isnan(dx[1050 * 40 + 3]) == (kind != 2) && isfinite(dx[1049 * 40 + 3]));
            float *dw = weight_gradient(ctx, &s.x, s.dy, 70, 0, 70, &rng);
            reference_dw(&s.x, s.dy, 70, 0, 70, &rng, want);
            same("dw", dw, want, 70 * 40);
            CHECK(isnan(dw[66 * 40]) && isnan(dw[65 * 40]) == (kind == 2));
            free(dw);
            free(dx);
            free(want);
            free(s.w);
            workspace_destroy(ctx, &ws);
            tensor_destroy(t);
            guard_free_all();
            dqt_context_destroy(ctx);
        }
}

static const struct test tests[] = {
    TEST(input_gradients), TEST(extreme_input_gradients_are_exact), TEST(weight_gradients),
    TEST(kernels_agree),   TEST(input_gradients_are_unbiased),      TEST(weight_gradients_are_unbiased),
    TEST(not_finite),
};
TEST_MAIN(tests)
