/* Tensors: rounding to codes and to bf16, scale rules, and what is read as another format than the stored one. */
#include "format/tensor.h"
#include "tensor_world.h"

/* ---- Quantising ---------------------------------------------------------------------------------------------- */

/* Initial weights of a code format are those of F32, and their one scale is taken from all of them. */
static void initial_scale(void) {
    enum { ROWS = 5, COLS = 40 };
    begin();
    dqt_tensor *floats = make(ROWS, COLS, DQT_FORMAT_F32, DQT_SCALE_AUTO, DQT_AXIS_TENSOR);
    dqt_tensor *codes = make(ROWS, COLS, DQT_FORMAT_TERNARY, DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR);
    tensor_init_normal(floats, 3, 4, 0.5f);
    tensor_init_normal(codes, 3, 4, 0.5f);
    float w[ROWS * COLS], scale = 0;
    OK(ctx, dqt_tensor_dequantize(floats, 0, ROWS, w));
    OK(ctx, dqt_tensor_get_scales(codes, &scale));
    double sum = 0;
    for (size_t i = 0; i < ROWS * COLS; i++)
        sum += fabs((double)w[i]);
    CHECKF(fabs((double)scale - sum / (ROWS * COLS)) < 1e-6 * (double)scale, "%g, not %g", (double)scale,
           sum / (ROWS * COLS));
    dqt_tensor_destroy(floats);
    dqt_tensor_destroy(codes);
    end();
}

static double rule_scale(const float *w, size_t count, int rule, double sigma, int qp) {
    double abs = 0, square = 0, max = 0;
    for (size_t i = 0; i < count; i++) {
        abs += fabs((double)w[i]);
        square += (double)w[i] * (double)w[i];
        if (fabs((double)w[i]) > max) max = fabs((double)w[i]);
    }
    return (rule == DQT_SCALE_ABSMEAN ? abs / (double)count
            : rule == DQT_SCALE_SIGMA ? sigma * sqrt(square / (double)count)
                                      : max) /
           qp;
}

static void check_quantized(dqt_tensor *t, int f, int rule, int axis, const float *w, size_t rows, size_t cols) {
    float scales[8];
    int8_t codes[8 * 130];
    float out[8 * 130];
    OK(ctx, dqt_tensor_get_scales(t, scales));
    OK(ctx, dqt_tensor_get_codes(t, 0, rows, codes));
    OK(ctx, dqt_tensor_dequantize(t, 0, rows, out));
    for (size_t r = 0; r < rows; r++) {
        const float s = scales[axis == DQT_AXIS_ROW ? r : 0];
        const double expected = axis == DQT_AXIS_ROW ? rule_scale(w + r * cols, cols, rule, 4, highest[f])
                                                     : rule_scale(w, rows * cols, rule, 4, highest[f]);
        CHECKF(fabs((double)s - expected) <= 1e-6 * expected, "scale %g, expected %g", (double)s, expected);
        for (size_t c = 0; c < cols; c++) {
            const size_t i = r * cols + c;
            const double x = (double)w[i] / (double)s;
            double q = rint(x);
            q = q < lowest[f] ? lowest[f] : q > highest[f] ? highest[f] : q;
            const bool tie = fabs(fabs(x - floor(x)) - 0.5) < 1e-4;
            CHECKF(codes[i] == (int)q || (tie && fabs(codes[i] - x) < 0.6), "format %d: code %d of %g", formats[f],
                   codes[i], x);
            CHECK(out[i] >= s * (float)codes[i] && out[i] <= s * (float)codes[i]);
        }
    }
}

static void quantize_nearest(void) {
    begin();
    static const size_t cols[] = {1, 31, 64, 65, 130};
    for (int f = FIRST_CODE; f < FORMATS; f++)
        for (int rule = DQT_SCALE_ABSMEAN; rule <= DQT_SCALE_ABSMAX; rule++)
            for (int axis = DQT_AXIS_TENSOR; axis <= DQT_AXIS_ROW; axis++)
                for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
                    const size_t rows = 7;
                    float *w = normals(rows * cols[i], 5 + i);
                    for (size_t r = 0; r < rows; r++) /* rows of different size show a mixed-up axis */
                        for (size_t c = 0; c < cols[i]; c++)
                            w[r * cols[i] + c] *= (float)(1 + r);
                    dqt_tensor *t = make(rows, cols[i], formats[f], rule, axis);
                    OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 1));
                    check_quantized(t, f, rule, axis, w, rows, cols[i]);
                    dqt_tensor_destroy(t);
                    free(w);
                }
    end();
}

/* Ties go to even: with one weight of 127 the scale is exactly 1. */
static void nearest_ties(void) {
    begin();
    dqt_tensor *t = make(1, 7, DQT_FORMAT_INT8, DQT_SCALE_ABSMAX, DQT_AXIS_TENSOR);
    const float w[7] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f};
    const int8_t expected[7] = {127, 0, 2, 2, 0, -2, -2};
    int8_t codes[7];
    OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
    OK(ctx, dqt_tensor_get_codes(t, 0, 1, codes));
    CHECK(memcmp(codes, expected, 7) == 0);
    dqt_tensor_destroy(t);
    end();
}

/* With a weight of 127 the scale is exactly 1, and a code of x is floor(x) + 1 with probability x - floor(x). The count
 * of N trials is within 5 standard deviations but for a chance of 6e-7 each; the seed is fixed. */
static void stochastic_is_unbiased(void) {
    begin();
    enum { ROWS = 400, COLS = 251, N = ROWS * COLS - 1 };
    static const float values[] = {0.3f, -0.3f, 0.5f, 2.9f, -126.75f, 0.0f, 5.0f, -7.0f};
    float *w = malloc((N + 1) * sizeof *w);
    int8_t *codes = malloc(N + 1), *again = malloc(N + 1);
    dqt_tensor *t = make(ROWS, COLS, DQT_FORMAT_INT8, DQT_SCALE_ABSMAX, DQT_AXIS_TENSOR);
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
        const double x = (double)values[v], low = floor(x), p = x - low;
        w[0] = 127;
        for (size_t i = 1; i <= N; i++)
            w[i] = values[v];
        OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 7 + v));
        OK(ctx, dqt_tensor_get_codes(t, 0, ROWS, codes));
        size_t up = 0, other = 0;
        for (size_t i = 1; i <= N; i++) {
            up += codes[i] == (int)low + 1;
            other += codes[i] != (int)low && codes[i] != (int)low + 1;
        }
        CHECK(codes[0] == 127 && other == 0);
        CHECKF(fabs((double)up - N * p) <= 5 * sqrt(N * p * (1 - p)), "%g went up %zu times of %d", x, up, N);
        OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 7 + v));
        OK(ctx, dqt_tensor_get_codes(t, 0, ROWS, again));
        CHECK(memcmp(codes, again, N + 1) == 0);
        OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 99));
        OK(ctx, dqt_tensor_get_codes(t, 0, ROWS, again));
        CHECK((memcmp(codes, again, N + 1) != 0) == (p > 0));
    }
    dqt_tensor_destroy(t);
    free(w);
    free(codes);
    free(again);
    end();
}

/* 1 + 1/1024 lies 1/8 of the way between the bf16 numbers 1 and 1 + 1/128. */
static void bf16_rounding(void) {
    begin();
    enum { N = 50000 };
    float *w = malloc(N * sizeof *w), *out = malloc(N * sizeof *out);
    for (size_t i = 0; i < N; i++)
        w[i] = i % 2 ? 1.0f + 0x1p-10f : -1.0f - 0x1p-10f;
    dqt_tensor *t = make(1, N, DQT_FORMAT_BF16, DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR);
    OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 3));
    OK(ctx, dqt_tensor_dequantize(t, 0, 1, out));
    size_t up = 0, other = 0;
    for (size_t i = 0; i < N; i++) {
        up += fabsf(out[i]) > 1;
        other += fabsf(out[i]) < 1 || fabsf(out[i]) > 1 + 0x1p-7f || (out[i] > 0) != (i % 2 == 1);
    }
    CHECK(other == 0);
    CHECKF(fabs((double)up - N / 8.0) <= 5 * sqrt(N * 7.0 / 64), "%zu of %d", up, N);
    OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 3));
    OK(ctx, dqt_tensor_dequantize(t, 0, 1, out));
    for (size_t i = 0; i < N; i++)
        CHECK(fabsf(out[i]) >= 1 && fabsf(out[i]) <= 1);
    dqt_tensor_destroy(t);
    t = make(1, N, DQT_FORMAT_F32, DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR);
    OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 3));
    OK(ctx, dqt_tensor_dequantize(t, 0, 1, out));
    CHECK(memcmp(w, out, N * sizeof *w) == 0);
    dqt_tensor_destroy(t);
    free(w);
    free(out);
    end();
}

/* Every seed of a tensor counts with all of its 64 bits. */
static void seeds_count_whole(void) {
    begin();
    enum { N = 400 };
    static const uint64_t others[] = {2, 1 | (uint64_t)1 << 32, 1 | (uint64_t)1 << 63};
    float w[N];
    int8_t codes[4][N];
    for (size_t i = 0; i < N; i++)
        w[i] = (float)(i % 37) * 0.013f - 0.2f;
    dqt_tensor *t = make(1, N, DQT_FORMAT_INT8, DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR);
    OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 1));
    OK(ctx, dqt_tensor_get_codes(t, 0, 1, codes[0]));
    for (size_t i = 0; i < 3; i++) {
        OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, others[i]));
        OK(ctx, dqt_tensor_get_codes(t, 0, 1, codes[1 + i]));
        for (size_t k = 0; k <= i; k++)
            CHECKF(memcmp(codes[k], codes[1 + i], N) != 0, "quantize: seed %zu equals seed %zu", i + 1, k);
    }
    dqt_tensor_destroy(t);
    for (size_t i = 0; i < 4; i++) {
        dqt_layer_options o;
        dqt_layer *layer;
        dqt_parameter p = {.struct_size = sizeof p};
        OK(ctx, dqt_layer_options_init(&o, sizeof o));
        o.seed = i ? others[i - 1] : 1;
        OK(ctx, dqt_linear_create(ctx, N, 1, &o, &layer));
        OK(ctx, dqt_layer_get_parameter(layer, 0, &p));
        OK(ctx, dqt_tensor_get_codes(p.tensor, 0, 1, codes[i]));
        for (size_t k = 0; k < i; k++)
            CHECKF(memcmp(codes[k], codes[i], N) != 0, "initial weights: seed %zu equals seed %zu", i, k);
        dqt_layer_destroy(layer);
    }
    end();
}

/* The scalar conversions to bf16: ties to even; of the random word the high half is added below the kept bits. */
static void bf16_conversions(void) {
    const float tie = 1.0f + 0x1p-8f, odd_tie = 1.0f + 0x3p-8f;
    CHECK(f32_to_bf16(tie) == 0x3f80 && f32_to_bf16(odd_tie) == 0x3f82 && f32_to_bf16(-tie) == 0xbf80);
    CHECK(f32_to_bf16(nextafterf(tie, 2)) == 0x3f81 && f32_to_bf16(nextafterf(odd_tie, 0)) == 0x3f81);
    CHECK(f32_to_bf16_stochastic(tie, 0x80000000u) == 0x3f81 && f32_to_bf16_stochastic(tie, 0x7fffffffu) == 0x3f80);
    CHECK(f32_to_bf16_stochastic(tie, 0x0000ffffu) == 0x3f80 && f32_to_bf16_stochastic(-tie, 0x80000000u) == 0xbf81);
    CHECK(f32_to_bf16_stochastic(1.0f + 0x1p-23f, 0xffff0000u) == 0x3f81);
    CHECK(f32_to_bf16_stochastic(1.0f + 0x1p-23f, 0xfffeffffu) == 0x3f80);
    CHECK(f32_to_bf16_stochastic(1.0f, 0xffffffffu) == 0x3f80);
    CHECK(f32_to_bf16_stochastic(INFINITY, 0xffffffffu) == 0x7f80 && f32_to_bf16(-INFINITY) == 0xff80);
    CHECK(isnan(bf16_to_f32(f32_to_bf16_stochastic(NAN, 0xffffffffu))) && isnan(bf16_to_f32(f32_to_bf16(-NAN))));
}

/* Share of a standard normal above z. */
static double tail(double z) {
    return 0.5 * erfc(z * 0.7071067811865476);
}

/* Codes at Qn or Qp of a Gaussian quantised to nearest, against the exact share: 5 standard deviations of the count,
 * and some for the scale, which is itself estimated from the sample. `span` is Qp * scale in standard deviations. */
static void check_saturated(int f, int rule, float sigma, double span) {
    enum { ROWS = 300, COLS = 400, N = ROWS * COLS };
    float *w = normals(N, 11);
    dqt_tensor_options o = options_of(formats[f], rule, DQT_AXIS_TENSOR);
    o.sigma = sigma;
    dqt_tensor *t = NULL;
    OK(ctx, dqt_tensor_create(ctx, ROWS, COLS, &o, &t));
    OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
    dqt_tensor_stats s = {.struct_size = sizeof s};
    OK(ctx, dqt_tensor_get_stats(t, &s));
    const double step = span / highest[f];
    const double p = tail((highest[f] - 0.5) * step) + tail((-lowest[f] - 0.5) * step);
    CHECKF(fabs((double)s.saturated - N * p) <= 5 * sqrt(N * p * (1 - p)) + 0.01 * N * p, "format %d: %g of %g",
           formats[f], (double)s.saturated / N, p);
    dqt_tensor_destroy(t);
    free(w);
}

static void clipping_of_a_gaussian(void) {
    begin();
    const double mean_abs = 0.7978845608028654; /* sqrt(2 / pi) */
    check_saturated(2, DQT_SCALE_ABSMEAN, 4, mean_abs);
    check_saturated(3, DQT_SCALE_ABSMEAN, 4, mean_abs);
    check_saturated(2, DQT_SCALE_SIGMA, 4, 4);
    check_saturated(3, DQT_SCALE_SIGMA, 2.5f, 2.5);
    check_saturated(4, DQT_SCALE_SIGMA, 2, 2);
    end();
    /* The figures of the documentation: 42 % against hardly any. */
    CHECK(fabs(tail(mean_abs) * 2 - 0.425) < 0.001);
    CHECK(tail(4) * 2 < 1e-4 && tail(2.5) * 2 < 0.013);
}

static void extreme_weights(void) {
    begin();
    static const float sizes[] = {0.0f, 1e-45f, 1e-40f, 1e-30f, 1e30f, 3.4e38f};
    for (int f = 0; f < FORMATS; f++)
        for (int rule = DQT_SCALE_ABSMEAN; rule <= DQT_SCALE_ABSMAX; rule++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                float w[66], out[66];
                for (int k = 0; k < 66; k++)
                    w[k] = k % 2 ? sizes[i] : -sizes[i];
                dqt_tensor *t = make(1, 66, formats[f], rule, DQT_AXIS_TENSOR);
                OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
                OK(ctx, dqt_tensor_dequantize(t, 0, 1, out));
                for (int k = 0; k < 66; k++)
                    CHECKF(isfinite(out[k]) || f == 1, "format %d, rule %d: %g became %g", formats[f], rule,
                           (double)w[k], (double)out[k]);
                if (f >= FIRST_CODE) {
                    float s;
                    OK(ctx, dqt_tensor_get_scales(t, &s));
                    CHECKF(s > 0 && isfinite(s), "scale %g", (double)s);
                }
                dqt_tensor_destroy(t);
            }
    end();
}

/* ---- Compute format ------------------------------------------------------------------------------------------ */

/* What layers read from a wider storage: the stored weights quantised to nearest with AbsMean for ternary and the
 * tensor's rule for other formats, one scale. */
static void reading_another_format(void) {
    begin();
    enum { ROWS = 6, COLS = 130, N = ROWS * COLS };
    float *w = normals(N, 4), stored[N], read[N];
    int8_t codes[N + 64];
    for (int f = 0; f < FORMATS; f++)
        for (int g = FIRST_CODE; g < FORMATS; g++) {
            dqt_tensor_options o = options_of(formats[f], DQT_SCALE_SIGMA, DQT_AXIS_TENSOR);
            o.compute = formats[g];
            dqt_tensor *t = NULL;
            const dqt_status status = dqt_tensor_create(ctx, ROWS, COLS, &o, &t);
            if (g < f) {
                CHECK(status == DQT_E_UNSUPPORTED && !t);
                continue;
            }
            CHECK(status == DQT_OK);
            OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
            OK(ctx, dqt_tensor_dequantize(t, 0, ROWS, stored));
            const int rule = formats[g] == DQT_FORMAT_TERNARY && f != g ? DQT_SCALE_ABSMEAN : DQT_SCALE_SIGMA;
            const double scale = f == g ? (double)tensor_scale(t, 0) : rule_scale(stored, N, rule, 4, highest[g]);
            CHECK(fabs((double)tensor_compute_scale(t, 1) - scale) <= 1e-6 * scale);
            for (size_t r = 0; r < ROWS; r++) {
                tensor_read_codes(t, r, 0, COLS, codes);
                tensor_read_floats(t, r, 64, COLS - 64, read);
                for (size_t c = 0; c < COLS; c++) {
                    const double x = (double)stored[r * COLS + c] / scale;
                    double q = rint(x);
                    q = q < lowest[g] ? lowest[g] : q > highest[g] ? highest[g] : q;
                    const bool tie = fabs(fabs(x - floor(x)) - 0.5) < 1e-4;
                    CHECKF(codes[c] == (int)q || (tie && fabs(codes[c] - x) < 0.6), "%d read as %d: %d of %g",
                           formats[f], formats[g], codes[c], x);
                    if (c >= 64) CHECK(fabs((double)read[c - 64] - codes[c] * scale) <= 1e-6 * scale * 128);
                }
            }
            dqt_tensor_destroy(t);
        }
    free(w);
    end();
}

/* The same seen through the public functions: a linear layer applied to unit vectors shows the weights it reads. */
static void layer_reads_compute_format(void) {
    begin();
    enum { IN = 40, OUT = 6 };
    dqt_layer_options o;
    dqt_layer_options_init(&o, sizeof o);
    o.activation = DQT_ACTIVATION_NONE;
    o.weight.storage = DQT_FORMAT_INT8;
    o.weight.compute = DQT_FORMAT_TERNARY;
    o.weight.scale_rule = DQT_SCALE_SIGMA;
    dqt_layer *layer = NULL;
    OK(ctx, dqt_linear_create(ctx, IN, OUT, &o, &layer));
    dqt_tape_options to;
    dqt_tape_options_init(&to, sizeof to);
    to.precision = DQT_PRECISION_F32;
    to.inference = 1;
    dqt_tape *tape = NULL;
    OK(ctx, dqt_tape_create(ctx, &layer, 1, &to, &tape));
    dqt_parameter p = {.struct_size = sizeof p};
    OK(ctx, dqt_layer_get_parameter(layer, 0, &p));
    float stored[OUT * IN], x[IN * IN] = {0}, y[IN * OUT];
    OK(ctx, dqt_tensor_dequantize(p.tensor, 0, OUT, stored));
    const double scale = rule_scale(stored, OUT * IN, DQT_SCALE_ABSMEAN, 0, 1);
    for (size_t i = 0; i < IN; i++)
        x[i * IN + i] = 1;
    OK(ctx, dqt_layer_forward(layer, tape, batch_shape(1, IN), x, y));
    size_t values = 0;
    for (size_t r = 0; r < OUT; r++)
        for (size_t c = 0; c < IN; c++) {
            double q = rint((double)stored[r * IN + c] / scale);
            q = q < -1 ? -1 : q > 1 ? 1 : q;
            values += fabs(q) > 0;
            CHECK(fabs((double)y[c * OUT + r] - q * scale) <= 1e-6);
        }
    CHECK(values > 0 && values < OUT * IN);
    dqt_tape_destroy(tape);
    dqt_layer_destroy(layer);
    end();
}

/* A host that writes packed bytes itself must touch the tensor; setters do it themselves. */
static void touch(void) {
    begin();
    dqt_tensor_options o = options_of(DQT_FORMAT_INT8, DQT_SCALE_ABSMAX, DQT_AXIS_TENSOR);
    o.compute = DQT_FORMAT_TERNARY;
    dqt_tensor *t = NULL;
    OK(ctx, dqt_tensor_create(ctx, 1, 64, &o, &t));
    int8_t codes[64];
    memset(codes, 10, sizeof codes);
    float scale = 0.5f;
    OK(ctx, dqt_tensor_set_codes(t, 0, 1, codes));
    CHECK(fabsf(tensor_compute_scale(t, 0) - 10) < 1e-5f);
    OK(ctx, dqt_tensor_set_scales(t, &scale));
    CHECK(fabsf(tensor_compute_scale(t, 0) - 5) < 1e-5f);
    size_t bytes;
    memset(bytes_of(t, &bytes), 40, 64);
    OK(ctx, dqt_tensor_touch(t));
    CHECK(fabsf(tensor_compute_scale(t, 0) - 20) < 1e-4f);
    OK(ctx, dqt_tensor_get_codes(t, 0, 1, codes));
    CHECK(codes[0] == 40 && codes[63] == 40);
    dqt_tensor_destroy(t);
    end();
}

static const struct test tests[] = {
    TEST(initial_scale),
    TEST(quantize_nearest),
    TEST(nearest_ties),
    TEST(stochastic_is_unbiased),
    TEST(bf16_rounding),
    TEST(bf16_conversions),
    TEST(seeds_count_whole),
    TEST(clipping_of_a_gaussian),
    TEST(extreme_weights),
    TEST(reading_another_format),
    TEST(layer_reads_compute_format),
    TEST(touch),
};
TEST_MAIN(tests)
