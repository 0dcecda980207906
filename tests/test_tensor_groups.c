/* Scales of groups of columns, scales of re-quantised weights by row and group, and the rule of least squared error. */
#include <float.h>
#include <math.h>

#include "core/bits.h"
#include "format/half.h"
#include "format/tensor.h"
#include "lanes.h"
#include "tensor_world.h"

enum { ROWS = 5, COLS = 512, COUNT = ROWS * COLS };

#define REFUSED(status, word, call)                                                                                    \
    CHECKF((call) == (status) && strstr(dqt_last_error(ctx), word), "%s", dqt_last_error(ctx))

static const int32_t group_sizes[] = {32, 64, 128, 256};
enum { GROUPS = 4, RULES = 4 };
static const int rules[RULES] = {DQT_SCALE_SIGMA, DQT_SCALE_ABSMAX, DQT_SCALE_ABSMEAN, DQT_SCALE_MSE};

static dqt_tensor *make_grouped(size_t rows, size_t cols, int storage, int compute, int rule, int32_t group) {
    dqt_tensor_options o = options_of(storage, rule, DQT_AXIS_GROUP);
    o.compute = compute;
    o.group_size = group;
    dqt_tensor *t = NULL;
    OK(ctx, dqt_tensor_create(ctx, rows, cols, &o, &t));
    return t;
}

/* Of very different sizes, with outliers. */
static float *uneven(size_t count, uint64_t seed) {
    float *w = normals(count, seed);
    for (size_t i = 0; i < count; i++) {
        w[i] *= 0.02f * (float)(1 + i / 32 % 7);
        if (i % 97 == 0) w[i] *= 8;
    }
    return w;
}

static float half_of(float x) {
    return f16_to_f32(f32_to_f16(x));
}

/* Each group has the scale that it has as a row of its own, as fp16, and codes of that scale. */
static void groups_are_rows(void) {
    begin();
    float *w = uneven(COUNT, 1), *got = malloc(COUNT * sizeof *got);
    int8_t *codes = malloc(COUNT);
    for (int f = FIRST_CODE; f < FORMATS; f++)
        for (size_t g = 0; g < GROUPS; g++)
            for (int rule = 0; rule < RULES - 1; rule++) {
                const size_t group = (size_t)group_sizes[g], num = COUNT / group;
                dqt_tensor *t = make_grouped(ROWS, COLS, formats[f], DQT_FORMAT_SAME, rules[rule], group_sizes[g]);
                dqt_tensor *rows = make(num, group, formats[f], rules[rule], DQT_AXIS_ROW);
                const dqt_tensor_info i = info_of(t);
                CHECK(i.scale_axis == DQT_AXIS_GROUP && i.group_size == group_sizes[g] && i.num_scales == num);
                float *scales = malloc(num * sizeof *scales), *row_scales = malloc(num * sizeof *row_scales);
                OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
                OK(ctx, dqt_tensor_quantize(rows, w, DQT_ROUND_NEAREST, 0));
                OK(ctx, dqt_tensor_get_scales(t, scales));
                OK(ctx, dqt_tensor_get_scales(rows, row_scales));
                OK(ctx, dqt_tensor_get_codes(t, 0, ROWS, codes));
                OK(ctx, dqt_tensor_dequantize(t, 0, ROWS, got));
                for (size_t k = 0; k < num; k++)
                    CHECK(f32_bits(scales[k]) == f32_bits(half_of(row_scales[k])));
                for (size_t k = 0; k < COUNT; k++) {
                    const float s = scales[k / group], q = rintf(w[k] * (1.0f / s));
                    const float clamped =
                        fminf(fmaxf(q, (float)lowest[f]), (float)highest[f]); /* against the rounded scale */
                    CHECKF(codes[k] == (int)clamped && f32_bits(got[k]) == f32_bits(s * (float)codes[k]),
                           "%s, %d, weight %zu", format_name(t->storage), group_sizes[g], k);
                }
                free(scales);
                free(row_scales);
                dqt_tensor_destroy(t);
                dqt_tensor_destroy(rows);
            }
    free(w);
    free(got);
    free(codes);
    end();
}

/* What fp16 cannot hold: zeros get 0, what is too small its least number, what is too large its largest. */
static void extreme_groups(void) {
    begin();
    static const float sizes[] = {0, 1e-9f, 1e-6f, 3e-5f, 1, 6e4f, 1e6f, 1e38f};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    float w[SIZES * 32], got[SIZES * 32];
    uint64_t seed = 3;
    for (size_t i = 0; i < SIZES * 32; i++)
        w[i] = sizes[i / 32] * test_uniform(&seed);
    for (int f = FIRST_CODE; f < FORMATS; f++)
        for (int rule = 0; rule < RULES; rule++)
            for (int rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_NEAREST; rounding++) {
                dqt_tensor *t = make_grouped(1, SIZES * 32, formats[f], DQT_FORMAT_SAME, rules[rule], 32);
                float scales[SIZES];
                OK(ctx, dqt_tensor_quantize(t, w, rounding, 7));
                OK(ctx, dqt_tensor_get_scales(t, scales));
                OK(ctx, dqt_tensor_dequantize(t, 0, 1, got));
                CHECK(f32_bits(scales[0]) == 0 && fabsf(scales[1]) >= 0x1p-24f && fabsf(scales[7]) <= 65504);
                for (size_t i = 0; i < SIZES * 32; i++)
                    CHECK(isfinite(got[i]) && (i >= 32 || f32_bits(got[i]) == 0));
                dqt_tensor_destroy(t);
            }
    end();
}

static void scales_are_checked(void) {
    begin();
    dqt_tensor *t = make_grouped(1, 96, DQT_FORMAT_INT4, DQT_FORMAT_SAME, DQT_SCALE_ABSMAX, 32);
    const float good[] = {-0.0f, -65504, 0x1p-24f}, other[] = {0.1f, 0, 65519};
    const float bad[] = {INFINITY, NAN, 65520, -1e10f};
    float got[3];
    OK(ctx, dqt_tensor_get_scales(t, got));
    for (int i = 0; i < 3; i++)
        CHECK(f32_bits(got[i]) == f32_bits(1));
    OK(ctx, dqt_tensor_set_scales(t, good));
    OK(ctx, dqt_tensor_get_scales(t, got));
    CHECK(memcmp(got, good, sizeof got) == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const float with[] = {1, 2, bad[i]};
        REFUSED(DQT_E_ARGUMENT, "scales[2]", dqt_tensor_set_scales(t, with));
        OK(ctx, dqt_tensor_get_scales(t, got));
        CHECK(memcmp(got, good, sizeof got) == 0);
    }
    OK(ctx, dqt_tensor_set_scales(t, other));
    OK(ctx, dqt_tensor_get_scales(t, got));
    CHECK(f32_bits(got[0]) == f32_bits(half_of(0.1f)) && f32_bits(got[2]) == f32_bits(65504));
    dqt_tensor_destroy(t);
    end();
}

/* Rows as files have them, bit for bit. */
static void rows_of_files(void) {
    begin();
    dqt_tensor *t = make_grouped(2, 96, DQT_FORMAT_INT4, DQT_FORMAT_SAME, DQT_SCALE_ABSMAX, 32);
    int8_t codes[96], got[192];
    for (int i = 0; i < 96; i++)
        codes[i] = (int8_t)(i % 16 - 8);
    const uint16_t halves[] = {0x8000, 0x0001, 0xfbff}, infinite[] = {0, 0x7c00, 0}, nan[] = {0, 0, 0xfe00};
    CHECK(tensor_set_row(t, 1, codes, halves));
    OK(ctx, dqt_tensor_get_codes(t, 0, 2, got));
    CHECK(memcmp(got + 96, codes, 96) == 0 && memcmp(t->half_scales + 3, halves, sizeof halves) == 0);
    CHECK(!tensor_set_row(t, 1, codes, infinite) && !tensor_set_row(t, 1, codes, nan));
    codes[95] = 8;
    CHECK(!tensor_set_row(t, 1, codes, halves));
    codes[95] = -9;
    CHECK(!tensor_set_row(t, 1, codes, halves));
    OK(ctx, dqt_tensor_get_codes(t, 0, 2, got));
    CHECK(got[95] == 0 && got[191] == 7 && memcmp(t->half_scales + 3, halves, sizeof halves) == 0);
    dqt_tensor_destroy(t);
    end();
}

/* Re-quantised weights have the scales and codes that the stored values have in a tensor of the compute format. */
static void compute_scales(void) {
    begin();
    float *w = uneven(COUNT, 5), *stored = malloc(COUNT * sizeof *stored), *got = malloc(COUNT * sizeof *got),
          *want = malloc(COUNT * sizeof *want);
    int8_t *codes = malloc(COUNT), *want_codes = malloc(COUNT);
    static const int storages[] = {DQT_FORMAT_F32, DQT_FORMAT_BF16, DQT_FORMAT_INT8};
    for (int s = 0; s < 3; s++)
        for (int f = FIRST_CODE + 1; f < FORMATS; f++)
            for (int rule = 0; rule < RULES; rule++)
                for (size_t g = 0; g <= GROUPS; g++) { /* the last: rows */
                    if (formats[f] == DQT_FORMAT_TERNARY && rules[rule] != DQT_SCALE_MSE &&
                        rules[rule] != DQT_SCALE_ABSMEAN)
                        continue;
                    dqt_tensor_options o = options_of(storages[s], rules[rule], DQT_AXIS_ROW);
                    o.compute = formats[f];
                    if (g < GROUPS) {
                        o.scale_axis = DQT_AXIS_GROUP;
                        o.group_size = group_sizes[g];
                    }
                    dqt_tensor *t = NULL, *as_stored = NULL;
                    OK(ctx, dqt_tensor_create(ctx, ROWS, COLS, &o, &t));
                    o.storage = formats[f];
                    o.compute = DQT_FORMAT_SAME;
                    OK(ctx, dqt_tensor_create(ctx, ROWS, COLS, &o, &as_stored));
                    OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
                    OK(ctx, dqt_tensor_dequantize(t, 0, ROWS, stored));
                    OK(ctx, dqt_tensor_quantize(as_stored, stored, DQT_ROUND_NEAREST, 0));
                    OK(ctx, dqt_tensor_get_codes(as_stored, 0, ROWS, want_codes));
                    OK(ctx, dqt_tensor_dequantize(as_stored, 0, ROWS, want));
                    CHECK(info_of(t).num_scales == (s < 2 ? 0 : as_stored->num_scales));
                    CHECK(tensor_num_compute_scales(t) == as_stored->num_scales);
                    for (size_t r = 0; r < ROWS; r++) {
                        tensor_read_codes(t, r, 0, COLS, codes + r * COLS);
                        tensor_read_floats(t, r, 0, COLS, got + r * COLS);
                        float scales[COLS / 32], want_scales[COLS / 32];
                        tensor_read_compute_scales(t, r, 0, t->row_groups, scales);
                        tensor_read_scales(as_stored, r, 0, t->row_groups, want_scales);
                        CHECK(memcmp(scales, want_scales, t->row_groups * sizeof *scales) == 0);
                    }
                    CHECK(memcmp(codes, want_codes, COUNT) == 0 && memcmp(got, want, COUNT * sizeof *got) == 0);
                    dqt_tensor_destroy(t);
                    dqt_tensor_destroy(as_stored);
                }
    free(w);
    free(stored);
    free(got);
    free(want);
    free(codes);
    free(want_codes);
    end();
}

/* ---- MSE ------------------------------------------------------------------------------------------------------ */

/* Rounds to even with 1.5 * 2^23, as rintf does: the searches ask so often that calls would be most of this program. */
static double error_of(const float *w, size_t count, int low, int high, float scale) {
    const float least = (float)low, most = (float)high, inverse = 1.0f / scale;
    double error = 0;
    for (size_t i = 0; i < count; i++) {
        const float x = w[i] * inverse, above = x > least ? x : least, inside = above < most ? above : most;
        const float q = (inside + 0x1.8p23f) - 0x1.8p23f;
        const double e = (double)w[i] - (double)scale * (double)q;
        error += e * e;
    }
    return error;
}

/* The same of int4, each squared error by the importance of its column; weight `at` of rows of 2080 comes first. */
static double weighted_error(const float *w, const float *importance, size_t at, size_t count, float scale) {
    double error = 0;
    for (size_t i = 0; i < count; i++)
        error += error_of(w + i, 1, -8, 7, scale) * (double)importance[(at + i) % 2080];
    return error;
}

static bool same_scale(const dqt_tensor *a, const dqt_tensor *b, size_t row, size_t group) {
    return f32_bits(tensor_group_scale(a, row, group)) == f32_bits(tensor_group_scale(b, row, group));
}

static double squares(const float *w, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)w[i] * (double)w[i];
    return sum;
}

/* llama.cpp's quantize_row_q4_0 (ggml-quants.c), written anew: codes by the scale before it is rounded to fp16. */
static double q4_0_error(const float *w) {
    float most = 0, error = 0;
    double sum = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(w[i]) > fabsf(most)) most = w[i];
    const float d = most / -8, inverse = d < 0 || d > 0 ? 1.0f / d : 0, kept = half_of(d);
    for (int i = 0; i < 32; i++) {
        const int q = (int8_t)(w[i] * inverse + 8.5f);
        error = w[i] - kept * (float)((q < 15 ? q : 15) - 8);
        sum += (double)error * (double)error;
    }
    return sum;
}

/* The error is within a little of the least of a much finer search, and never above ABSMAX's or Q4_0's. */
static void least_error(void) {
    begin();
    enum { SETS = 40 };
    for (size_t g = 0; g < GROUPS; g++)
        for (int f = FIRST_CODE; f < FORMATS; f++) {
            const size_t n = (size_t)group_sizes[g];
            float *w = uneven(SETS * n, 11 + g);
            dqt_tensor *t = make_grouped(SETS, n, formats[f], DQT_FORMAT_SAME, DQT_SCALE_MSE, group_sizes[g]);
            dqt_tensor *rows = make(SETS, n, formats[f], DQT_SCALE_MSE, DQT_AXIS_ROW);
            OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
            OK(ctx, dqt_tensor_quantize(rows, w, DQT_ROUND_NEAREST, 0));
            double sum = 0, finest = 0, by_row = 0, finest_row = 0;
            for (size_t r = 0; r < SETS; r++) {
                const float *x = w + r * n;
                float most = 0;
                for (size_t i = 0; i < n; i++)
                    most = fmaxf(most, fabsf(x[i]));
                const double error = error_of(x, n, lowest[f], highest[f], tensor_group_scale(t, r, 0));
                double least = INFINITY, least_positive = INFINITY;
                for (int k = 1; k <= 2000; k++) {
                    const float s = 1.3f * most / (float)highest[f] * (float)k / 2000;
                    const double e = error_of(x, n, lowest[f], highest[f], s);
                    least_positive = fmin(least_positive, e);
                    least = fmin(least, fmin(e, error_of(x, n, lowest[f], highest[f], -s)));
                }
                const float absmax = half_of(most / (float)highest[f]);
                CHECK(error <= error_of(x, n, lowest[f], highest[f], absmax));
                if (n == 32 && formats[f] == DQT_FORMAT_INT4)
                    CHECKF(error <= q4_0_error(x), "%g, Q4_0 %g", error, q4_0_error(x));
                sum += error / squares(x, n);
                finest += least / squares(x, n);
                by_row += error_of(x, n, lowest[f], highest[f], tensor_scale(rows, r)) / squares(x, n);
                finest_row += least_positive / squares(x, n);
                CHECK(tensor_scale(rows, r) > 0);
            }
            const double near =
                highest[f] < 8 ? 1.02 : 1.3; /* many codes fall on a few weights by luck, each in its own way */
            CHECKF(sum <= near * finest && by_row <= near * finest_row, "%s, %zu: %g of %g, rows %g of %g",
                   format_name(t->storage), n, sum, finest, by_row, finest_row);
            free(w);
            dqt_tensor_destroy(t);
            dqt_tensor_destroy(rows);
        }
    end();
}

/* One scale of a whole tensor; its sums do not depend on the number of threads. */
static void least_error_of_tensors(void) {
    enum { TALL = 75, WIDE = 1100 };
    float *w = uneven((size_t)TALL * WIDE, 21);
    for (int f = FIRST_CODE; f < FORMATS; f++) {
        float scales[2][3];
        for (int threads = 1; threads <= 2; threads++) {
            dqt_context_options o;
            dqt_context_options_init(&o, sizeof o);
            o.num_threads = threads == 1 ? 1 : 5;
            dqt_context *c = NULL;
            OK(NULL, dqt_context_create(&o, &c));
            share_all_work(c);
            static const int axes[] = {DQT_AXIS_TENSOR, DQT_AXIS_ROW};
            for (int a = 0; a < 3; a++) {
                dqt_tensor_options to = options_of(a < 2 ? formats[f] : DQT_FORMAT_F32, DQT_SCALE_MSE, axes[a % 2]);
                if (a == 2) to.compute = formats[f];
                dqt_tensor *t = NULL;
                OK(c, dqt_tensor_create(c, TALL, WIDE, &to, &t));
                OK(c, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
                scales[threads - 1][a] = tensor_compute_scale(t, a == 1 ? TALL - 1 : 0);
                dqt_tensor_destroy(t);
            }
            dqt_context_destroy(c);
        }
        CHECK(memcmp(scales[0], scales[1], sizeof scales[0]) == 0);
        CHECK(f32_bits(scales[0][0]) == f32_bits(scales[0][2]));
        double least = INFINITY;
        for (int k = 1; k <= 200; k++)
            least = fmin(least, error_of(w, (size_t)TALL * WIDE, lowest[f], highest[f],
                                         2.0f / (float)highest[f] * (float)k / 200));
        const double error = error_of(w, (size_t)TALL * WIDE, lowest[f], highest[f], scales[0][0]);
        CHECKF(error <= 1.01 * least, "%d: %g, %g", formats[f], error, least);
    }
    free(w);
}

/* ---- Copies --------------------------------------------------------------------------------------------------- */

static void copies(void) {
    begin();
    float *w = uneven(COUNT, 31), *a = malloc(COUNT * sizeof *a), *b = malloc(COUNT * sizeof *b);
    dqt_tensor *from = make_grouped(ROWS, COLS, DQT_FORMAT_INT4, DQT_FORMAT_SAME, DQT_SCALE_MSE, 32), *other = NULL;
    dqt_tensor *to = make_grouped(ROWS, COLS, DQT_FORMAT_INT4, DQT_FORMAT_SAME, DQT_SCALE_ABSMAX, 32);
    dqt_tensor *wider = make_grouped(ROWS, COLS, DQT_FORMAT_INT4, DQT_FORMAT_SAME, DQT_SCALE_ABSMAX, 64);
    dqt_tensor_options o = options_of(DQT_FORMAT_INT4, DQT_SCALE_ABSMAX, DQT_AXIS_GROUP);
    o.train_scale = 1;
    OK(ctx, dqt_tensor_create(ctx, ROWS, COLS, &o, &other)); /* group_size 0: 32 */
    CHECK(info_of(other).num_scales == COUNT / 32 && other->scales && !other->half_scales);
    OK(ctx, dqt_tensor_quantize(from, w, DQT_ROUND_STOCHASTIC, 5));
    OK(ctx, dqt_tensor_copy(to, from));
    OK(ctx, dqt_tensor_dequantize(from, 0, ROWS, a));
    OK(ctx, dqt_tensor_dequantize(to, 0, ROWS, b));
    CHECK(memcmp(a, b, COUNT * sizeof *a) == 0);
    REFUSED(DQT_E_UNSUPPORTED, "scales", dqt_tensor_copy(wider, from));
    REFUSED(DQT_E_UNSUPPORTED, "fp16", dqt_tensor_copy(other, from));
    dqt_tensor_destroy(other);
    other = NULL;
    o.train_scale = 0;
    OK(ctx, dqt_tensor_convert(from, DQT_ROUND_NEAREST, 0, &o, &other));
    CHECK(info_of(other).group_size == 32);
    dqt_tensor_stats s = {.struct_size = sizeof s};
    OK(ctx, dqt_tensor_get_stats(from, &s));
    double square = 0;
    uint64_t saturated = 0;
    int8_t codes[COLS];
    for (size_t r = 0; r < ROWS; r++) {
        OK(ctx, dqt_tensor_get_codes(from, r, 1, codes));
        for (size_t c = 0; c < COLS; c++) {
            square += (double)a[r * COLS + c] * (double)a[r * COLS + c];
            saturated += codes[c] == -8 || codes[c] == 7;
        }
    }
    CHECK(s.saturated == saturated && fabs(s.rms - sqrt(square / COUNT)) < 1e-9);
    dqt_tensor_destroy(other);
    dqt_tensor_destroy(from);
    dqt_tensor_destroy(to);
    dqt_tensor_destroy(wider);
    free(w);
    free(a);
    free(b);
    end();
}

/* Squared errors by the importance of their columns: of groups in any place, of rows that are read in pieces, and of
 * whole tensors. Ones change nothing. */
static void importance(void) {
    enum { HIGH = 6, LONG = 2080 };
    static const struct {
        int axis;
        size_t count; /* of weights that share a scale */
    } cases[] = {{DQT_AXIS_GROUP, 32}, {DQT_AXIS_ROW, LONG}, {DQT_AXIS_TENSOR, HIGH * LONG}};
    begin();
    float *w = uneven(HIGH * LONG, 31), *important = malloc(LONG * sizeof *important), *ones = malloc(LONG * sizeof *w);
    uint64_t seed = 3;
    for (size_t c = 0; c < LONG; c++) {
        ones[c] = 1;
        important[c] = expf(3 * test_uniform(&seed));
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dqt_tensor_options o = options_of(DQT_FORMAT_INT4, DQT_SCALE_MSE, cases[i].axis);
        o.group_size = cases[i].axis == DQT_AXIS_GROUP ? 32 : 0;
        dqt_tensor *t[3];
        for (int k = 0; k < 3; k++) {
            OK(ctx, dqt_tensor_create(ctx, HIGH, LONG, &o, &t[k]));
            tensor_quantize_by_importance(t[k], w, k == 0 ? NULL : k == 1 ? ones : important, false, 0);
        }
        double sum = 0, plain = 0, finest = 0;
        for (size_t at = 0; at < HIGH * LONG; at += cases[i].count) {
            const size_t r = at / LONG, g = at % LONG / 32, n = cases[i].count;
            float most = 0;
            double least = INFINITY;
            for (size_t k = 0; k < n; k++)
                most = fmaxf(most, fabsf(w[at + k]));
            CHECK(same_scale(t[0], t[1], r, i == 0 ? g : 0));
            for (int k = 1; k <= 200; k++)
                for (int sign = i == 0 ? -1 : 1; sign <= 1; sign += 2)
                    least = fmin(least, weighted_error(w + at, important, at, n,
                                                       1.3f * (float)sign * most / 7 * (float)k / 200));
            finest += least;
            sum += weighted_error(w + at, important, at, n, tensor_group_scale(t[2], r, i == 0 ? g : 0));
            plain += weighted_error(w + at, important, at, n, tensor_group_scale(t[0], r, i == 0 ? g : 0));
        }
        CHECKF(sum <= 1.02 * finest && sum < (i == 0 ? 0.9 : 1.0) * plain, "%zu: %g, finest %g, plain %g", i, sum,
               finest, plain);
        for (int k = 0; k < 3; k++)
            dqt_tensor_destroy(t[k]);
    }
    free(w);
    free(important);
    free(ones);
    end();
}

static const struct test tests[] = {
    TEST(groups_are_rows),        TEST(extreme_groups), TEST(scales_are_checked),
    TEST(rows_of_files),          TEST(compute_scales), TEST(least_error),
    TEST(least_error_of_tensors), TEST(copies),         TEST(importance),
};
TEST_MAIN(tests)
