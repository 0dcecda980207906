/* Tensors: packed bytes, rounding, scale rules, statistics, conversion, re-quantised reading, refusals. */
#include "calls.h"
#include "codes.h"
#include "counting_alloc.h"
#include "format/tensor.h"
#include "formats.h"
#include "test.h"

/* What is documented, written anew; from many to few different values. */
static const int formats[] = {DQT_FORMAT_F32,  DQT_FORMAT_BF16, DQT_FORMAT_INT8, DQT_FORMAT_INT6,   DQT_FORMAT_INT5,
                              DQT_FORMAT_INT4, DQT_FORMAT_INT3, DQT_FORMAT_INT2, DQT_FORMAT_TERNARY};
enum { FORMATS = 9, FIRST_CODE = 2 };

static const size_t block_bytes[] = {0, 0, 64, 48, 40, 32, 24, 16, 16};
static const int lowest[] = {0, 0, -128, -32, -16, -8, -4, -2, -1}, highest[] = {0, 0, 127, 31, 15, 7, 3, 1, 1};

static struct counting memory;
static dqt_context *ctx;

static void begin(void) {
    ctx = counting_context(&memory);
}
static void end(void) {
    counting_end(ctx, &memory);
}

static dqt_tensor_options options_of(int storage, int rule, int axis) {
    dqt_tensor_options o;
    dqt_tensor_options_init(&o, sizeof o);
    o.storage = storage;
    o.scale_rule = rule;
    o.scale_axis = axis;
    return o;
}

static dqt_tensor *make(size_t rows, size_t cols, int storage, int rule, int axis) {
    const dqt_tensor_options o = options_of(storage, rule, axis);
    dqt_tensor *t = NULL;
    OK(ctx, dqt_tensor_create(ctx, rows, cols, &o, &t));
    return t;
}

static dqt_tensor_info info_of(const dqt_tensor *t) {
    dqt_tensor_info i = {.struct_size = sizeof i};
    OK(ctx, dqt_tensor_get_info(t, &i));
    return i;
}

static unsigned char *bytes_of(dqt_tensor *t, size_t *count) {
    void *data = NULL;
    OK(ctx, dqt_tensor_data(t, &data, count));
    return data;
}

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

/* A normal number by the sum of twelve uniforms would have thin tails; Box-Muller has not. */
static float normal(uint64_t *seed) {
    const double u = ((double)(test_random(seed) >> 11) + 1) * 0x1p-53, v = (double)(test_random(seed) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static float *normals(size_t count, uint64_t seed) {
    float *w = malloc(count * sizeof *w);
    for (size_t i = 0; i < count; i++)
        w[i] = normal(&seed);
    return w;
}

/* ---- Packing ------------------------------------------------------------------------------------------------- */

/* Rows of the table: complete, one a public number, and every format of the table is one of those above. */
static void table(void) {
    CHECK(format_count() == FORMATS);
    for (size_t i = 0; i < format_count(); i++) {
        const enum format format = (enum format)i;
        enum format back = (enum format)(i + 1);
        CHECK(format_from_public(format_public(format), &back) && back == format);
        CHECK(strlen(format_name(format)) > 0 && strcmp(format_name(format), "unknown") != 0);
        CHECK(strcmp(format_public_name(format_public(format)), format_name(format)) == 0);
        const struct packing *p = format_packing(format);
        CHECK(format_is_code(format) == (p != NULL) && format_is_code(format) == (format_float_bytes(format) == 0));
        CHECK(!format_fewer_values(format, format));
        if (!p) continue;
        int bits = 0;
        for (int j = 0; j < p->num_planes; j++) {
            CHECKF(p->planes[j].shift == bits, "%s: plane %d is shifted by %d", format_name(format), j,
                   p->planes[j].shift);
            bits += (int)p->planes[j].plane;
        }
        CHECK(p->min - p->bias >= (packing_is_bytes(p) ? -128 : 0) && p->max - p->bias < 1 << (bits < 8 ? bits : 7));
        CHECK(p->min <= 0 && p->max >= 1 && format_block_bytes(format) == (size_t)bits * 8);
    }
    enum format none;
    CHECK(!format_from_public(DQT_FORMAT_SAME, &none) && !format_from_public(-1, &none) &&
          !format_from_public(1000, &none));
    CHECK(strcmp(format_public_name(0), "unknown") == 0);
    for (int f = 1; f < FORMATS; f++)
        CHECK(format_fewer_values(format_of(formats[f]), format_of(formats[f - 1])));
}

static void row_sizes(void) {
    begin();
    static const size_t cols[] = {1, 63, 64, 65, 128, 130};
    for (int f = 0; f < FORMATS; f++)
        for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
            dqt_tensor *t = make(3, cols[i], formats[f], DQT_SCALE_ABSMEAN, DQT_AXIS_ROW);
            const dqt_tensor_info n = info_of(t);
            const size_t expected = f == 0 ? 4 * cols[i] : f == 1 ? 2 * cols[i] : (cols[i] + 63) / 64 * block_bytes[f];
            CHECKF(n.row_bytes == expected, "format %d, %zu columns: %zu", formats[f], cols[i], n.row_bytes);
            CHECK(n.data_bytes == 3 * expected && n.rows == 3 && n.cols == cols[i]);
            CHECK(n.code_min == lowest[f] && n.code_max == highest[f]);
            CHECK(n.num_scales == (f < FIRST_CODE ? 0u : 3u));
            CHECK(n.storage == formats[f] && n.compute == formats[f]);
            size_t bytes;
            CHECK(bytes_of(t, &bytes) != NULL && bytes == n.data_bytes);
            dqt_tensor_destroy(t);
        }
    end();
}

/* The documented layout, written anew: where code k of a pack block of 64 puts the bits of u = q - Qn (int8: q itself).
 */
static void expect_block(int f, const int8_t codes[64], unsigned char out[64]) {
    memset(out, 0, 64);
    for (unsigned k = 0; k < 64; k++) {
        const unsigned u = (unsigned)(codes[k] - (f == 2 ? 0 : lowest[f]));
        switch (formats[f]) {
        case DQT_FORMAT_INT8: out[k] = (unsigned char)codes[k]; break;
        case DQT_FORMAT_INT6:
            out[k & 31] = (unsigned char)(out[k & 31] | (u & 15) << (k & 32 ? 4 : 0));
            out[32 + (k & 15)] = (unsigned char)(out[32 + (k & 15)] | (u >> 4) << (k >> 4) * 2);
            break;
        case DQT_FORMAT_INT5:
            out[k & 31] = (unsigned char)(out[k & 31] | (u & 15) << (k & 32 ? 4 : 0));
            out[32 + (k >> 3)] = (unsigned char)(out[32 + (k >> 3)] | (u >> 4) << (k & 7));
            break;
        case DQT_FORMAT_INT4: out[k & 31] = (unsigned char)(out[k & 31] | u << (k & 32 ? 4 : 0)); break;
        case DQT_FORMAT_INT3:
            out[k & 15] = (unsigned char)(out[k & 15] | (u & 3) << (k >> 4) * 2);
            out[16 + (k >> 3)] = (unsigned char)(out[16 + (k >> 3)] | (u >> 2) << (k & 7));
            break;
        default: out[k & 15] = (unsigned char)(out[k & 15] | u << (k >> 4) * 2);
        }
    }
}

static void packed_bytes(void) {
    begin();
    for (int f = FIRST_CODE; f < FORMATS; f++) {
        dqt_tensor *t = make(1, 64, formats[f], DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR);
        size_t bytes;
        const unsigned char *data = bytes_of(t, &bytes);
        CHECK(bytes == block_bytes[f]);
        int8_t codes[64];
        unsigned char expected[64];
        for (int pattern = 0; pattern < 40; pattern++) {
            uint64_t seed = (uint64_t)pattern;
            const int span = highest[f] - lowest[f] + 1;
            for (int k = 0; k < 64; k++)
                codes[k] = (int8_t)(pattern == 0   ? lowest[f]
                                    : pattern == 1 ? highest[f]
                                    : pattern == 2 ? lowest[f] + k % span
                                                   : lowest[f] + (int)(test_random(&seed) % (unsigned)span));
            OK(ctx, dqt_tensor_set_codes(t, 0, 1, codes));
            expect_block(f, codes, expected);
            CHECKF(memcmp(data, expected, bytes) == 0, "format %d, pattern %d", formats[f], pattern);
        }
        dqt_tensor_destroy(t);
    }
    end();
}

/* Bytes written down by hand: they pin the format against a mistake that both sides of packed_bytes could share. */
static void golden_bytes(void) {
    begin();
    static const struct {
        int format;
        int8_t code; /* at position 37 among zeros */
        size_t byte; /* that differs from the zero byte */
        unsigned char zero, value;
    } cases[] = {
        {DQT_FORMAT_TERNARY, 1, 5, 0x55, 0x65},  {DQT_FORMAT_TERNARY, -1, 5, 0x55, 0x45},
        {DQT_FORMAT_INT2, -2, 5, 0xAA, 0x8A},    {DQT_FORMAT_INT2, 1, 5, 0xAA, 0xBA},
        {DQT_FORMAT_INT4, 7, 5, 0x88, 0xF8},     {DQT_FORMAT_INT4, -8, 5, 0x88, 0x08},
        {DQT_FORMAT_INT8, -128, 37, 0x00, 0x80}, {DQT_FORMAT_INT3, 3, 5, 0x00, 0x30},
        {DQT_FORMAT_INT3, -4, 20, 0xFF, 0xDF},   {DQT_FORMAT_INT5, 15, 5, 0x00, 0xF0},
        {DQT_FORMAT_INT5, -16, 36, 0xFF, 0xDF},  {DQT_FORMAT_INT6, 15, 5, 0x00, 0xF0},
        {DQT_FORMAT_INT6, -32, 37, 0xAA, 0x8A},  {DQT_FORMAT_INT6, 16, 37, 0xAA, 0xBA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dqt_tensor *t = make(1, 64, cases[i].format, DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR);
        int8_t codes[64] = {0};
        codes[37] = cases[i].code;
        OK(ctx, dqt_tensor_set_codes(t, 0, 1, codes));
        size_t bytes;
        const unsigned char *data = bytes_of(t, &bytes);
        for (size_t b = 0; b < bytes; b++) {
            unsigned char zero = cases[i].zero;
            if (cases[i].format == DQT_FORMAT_INT3) zero = b < 16 ? 0x00 : 0xFF;
            if (cases[i].format == DQT_FORMAT_INT5) zero = b < 32 ? 0x00 : 0xFF;
            if (cases[i].format == DQT_FORMAT_INT6) zero = b < 32 ? 0x00 : 0xAA;
            CHECKF(data[b] == (b == cases[i].byte ? cases[i].value : zero), "case %zu, byte %zu is %02x", i, b,
                   data[b]);
        }
        dqt_tensor_destroy(t);
    }
    end();
}

/* A new tensor is zero: codes 0, scales 1, floats 0; padding too. */
static void new_is_zero(void) {
    begin();
    for (int f = 0; f < FORMATS; f++) {
        dqt_tensor *t = make(2, 67, formats[f], DQT_SCALE_ABSMAX, DQT_AXIS_ROW);
        float out[2 * 67], scales[2] = {1, 1};
        OK(ctx, dqt_tensor_dequantize(t, 0, 2, out));
        for (size_t i = 0; i < 2 * 67; i++)
            CHECK(out[i] >= 0 && out[i] <= 0);
        if (f >= FIRST_CODE) OK(ctx, dqt_tensor_get_scales(t, scales));
        CHECK(scales[0] >= 1 && scales[0] <= 1 && scales[1] >= 1 && scales[1] <= 1);
        if (f >= FIRST_CODE) { /* padding holds code 0 */
            int8_t codes[128];
            memset(codes, 77, sizeof codes);
            tensor_unpack_codes(t, 1, codes);
            for (int k = 0; k < 128; k++)
                CHECK(codes[k] == 0);
        }
        dqt_tensor_destroy(t);
    }
    end();
}

static void codes_round_trip(void) {
    begin();
    static const size_t cols[] = {1, 3, 63, 64, 65, 100, 129};
    for (int f = FIRST_CODE; f < FORMATS; f++)
        for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
            const size_t n = cols[i];
            dqt_tensor *t = make(5, n, formats[f], DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR);
            int8_t codes[5 * 129], got[5 * 129 + 1];
            uint64_t seed = n;
            const unsigned span = (unsigned)(highest[f] - lowest[f] + 1);
            for (size_t k = 0; k < 5 * n; k++)
                codes[k] = (int8_t)(lowest[f] + (int)(test_random(&seed) % span));
            OK(ctx, dqt_tensor_set_codes(t, 0, 5, codes));
            OK(ctx, dqt_tensor_set_codes(t, 2, 2, codes)); /* rows 2 and 3 are now rows 0 and 1 */
            memcpy(codes + 2 * n, codes, 2 * n);
            memset(got, 99, sizeof got);
            OK(ctx, dqt_tensor_get_codes(t, 0, 5, got));
            CHECKF(memcmp(got, codes, 5 * n) == 0 && got[5 * n] == 99, "format %d, %zu columns", formats[f], n);
            memset(got, 99, sizeof got);
            OK(ctx, dqt_tensor_get_codes(t, 3, 1, got));
            CHECK(memcmp(got, codes + 3 * n, n) == 0 && got[n] == 99);
            OK(ctx, dqt_tensor_get_codes(t, 5, 0, got));
            dqt_tensor_destroy(t);
        }
    end();
}

/* ---- Quantising ---------------------------------------------------------------------------------------------- */

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

/* ---- Statistics, conversion, ranges -------------------------------------------------------------------------- */

static void statistics(void) {
    begin();
    enum { ROWS = 9, COLS = 70, N = ROWS * COLS };
    float *w = normals(N, 3), *out = malloc(N * sizeof *out);
    for (size_t i = 0; i < N; i += 5)
        w[i] = 0;
    for (int f = 0; f < FORMATS; f++) {
        dqt_tensor *t = make(ROWS, COLS, formats[f], DQT_SCALE_ABSMEAN, DQT_AXIS_ROW);
        OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 5));
        OK(ctx, dqt_tensor_dequantize(t, 0, ROWS, out));
        uint64_t histogram[256] = {0}, zeros = 0, saturated = 0;
        double sum = 0, square = 0;
        int8_t codes[N];
        if (f >= FIRST_CODE) OK(ctx, dqt_tensor_get_codes(t, 0, ROWS, codes));
        for (size_t i = 0; i < N; i++) {
            sum += (double)out[i];
            square += (double)out[i] * (double)out[i];
            zeros += out[i] >= 0 && out[i] <= 0;
            if (f < FIRST_CODE) continue;
            histogram[codes[i] + 128]++;
            saturated += codes[i] == lowest[f] || codes[i] == highest[f];
        }
        dqt_tensor_stats s = {.struct_size = sizeof s};
        OK(ctx, dqt_tensor_get_stats(t, &s));
        CHECK(memcmp(s.histogram, histogram, sizeof histogram) == 0);
        CHECKF(s.zeros == zeros && s.saturated == saturated, "format %d", formats[f]);
        CHECK(zeros >= N / 5);
        CHECK(fabs(s.mean - sum / N) < 1e-9 && fabs(s.rms - sqrt(square / N)) < 1e-9);
        dqt_tensor_destroy(t);
    }
    free(w);
    free(out);
    end();
}

static bool same_tensor(dqt_tensor *a, dqt_tensor *b) {
    const dqt_tensor_info i = info_of(a), j = info_of(b);
    size_t n, m;
    const unsigned char *p = bytes_of(a, &n), *q = bytes_of(b, &m);
    if (memcmp(&i, &j, sizeof i) != 0 || n != m || memcmp(p, q, n) != 0) return false;
    float s[8] = {0}, u[8] = {0};
    if (i.num_scales == 0) return true;
    OK(ctx, dqt_tensor_get_scales(a, s));
    OK(ctx, dqt_tensor_get_scales(b, u));
    return memcmp(s, u, sizeof s) == 0;
}

/* Converting is quantising the dequantised weights. */
static void convert_all_pairs(void) {
    begin();
    enum { ROWS = 5, COLS = 99, N = ROWS * COLS };
    float *w = normals(N, 8), out[N], back[N];
    for (int f = 0; f < FORMATS; f++)
        for (int g = 0; g < FORMATS; g++)
            for (int rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_NEAREST; rounding++) {
                dqt_tensor *a = make(ROWS, COLS, formats[f], DQT_SCALE_SIGMA, DQT_AXIS_ROW);
                dqt_tensor *expected = make(ROWS, COLS, formats[g], DQT_SCALE_ABSMAX, DQT_AXIS_ROW), *got = NULL;
                OK(ctx, dqt_tensor_quantize(a, w, DQT_ROUND_STOCHASTIC, 2));
                OK(ctx, dqt_tensor_dequantize(a, 0, ROWS, out));
                OK(ctx, dqt_tensor_quantize(expected, out, rounding, 77));
                const dqt_tensor_options o = options_of(formats[g], DQT_SCALE_ABSMAX, DQT_AXIS_ROW);
                OK(ctx, dqt_tensor_convert(a, rounding, 77, &o, &got));
                CHECKF(same_tensor(got, expected), "format %d to %d", formats[f], formats[g]);
                if (g == 0) {
                    OK(ctx, dqt_tensor_dequantize(got, 0, ROWS, back));
                    CHECK(memcmp(out, back, sizeof out) == 0);
                }
                dqt_tensor_destroy(a);
                dqt_tensor_destroy(expected);
                dqt_tensor_destroy(got);
            }
    free(w);
    end();
}

static void ranges(void) {
    begin();
    enum { ROWS = 6, COLS = 65 };
    float *w = normals(ROWS * COLS, 1), all[ROWS * COLS], part[ROWS * COLS];
    int8_t codes[ROWS * COLS];
    for (int f = 0; f < FORMATS; f++) {
        dqt_tensor *t = make(ROWS, COLS, formats[f], DQT_SCALE_ABSMEAN, DQT_AXIS_ROW);
        OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
        OK(ctx, dqt_tensor_dequantize(t, 0, ROWS, all));
        for (size_t row = 0; row <= ROWS; row++)
            for (size_t count = 0; count <= ROWS + 1; count++) {
                memset(part, 0x7f, sizeof part);
                const dqt_status status = dqt_tensor_dequantize(t, row, count, part);
                CHECK(status == (row + count <= ROWS ? DQT_OK : DQT_E_ARGUMENT));
                if (status == DQT_OK) CHECK(memcmp(part, all + row * COLS, count * COLS * sizeof *part) == 0);
                const size_t written = status == DQT_OK ? count * COLS : 0;
                for (size_t i = written; i < ROWS * COLS; i++)
                    CHECK(((unsigned char *)&part[i])[0] == 0x7f);
            }
        CHECK(dqt_tensor_dequantize(t, 2, SIZE_MAX, part) == DQT_E_ARGUMENT);
        CHECK(dqt_tensor_dequantize(t, SIZE_MAX, 2, part) == DQT_E_ARGUMENT);
        if (f >= FIRST_CODE) {
            CHECK(dqt_tensor_get_codes(t, 1, SIZE_MAX, codes) == DQT_E_ARGUMENT);
            CHECK(dqt_tensor_set_codes(t, SIZE_MAX, 1, codes) == DQT_E_ARGUMENT);
        }
        dqt_tensor_destroy(t);
    }
    free(w);
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

/* ---- Refusals ------------------------------------------------------------------------------------------------ */

static void refusals_change_nothing(void) {
    begin();
    enum { ROWS = 3, COLS = 66, N = ROWS * COLS };
    float *w = normals(N, 6);
    for (int f = 0; f < FORMATS; f++) {
        dqt_tensor *t = make(ROWS, COLS, formats[f], DQT_SCALE_ABSMEAN, DQT_AXIS_ROW);
        dqt_tensor *before = make(ROWS, COLS, formats[f], DQT_SCALE_ABSMEAN, DQT_AXIS_ROW);
        OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_NEAREST, 0));
        OK(ctx, dqt_tensor_quantize(before, w, DQT_ROUND_NEAREST, 0));
        static const float bad[] = {NAN, INFINITY, -INFINITY};
        for (size_t i = 0; i < 3; i++) {
            float v[N];
            for (size_t k = 0; k < N; k++)
                v[k] = 9;
            v[N - 1] = bad[i];
            CHECK(dqt_tensor_quantize(t, v, DQT_ROUND_NEAREST, 0) == DQT_E_NUMERIC);
            CHECK(strstr(dqt_last_error(ctx), "weights[197]"));
            CHECK(same_tensor(t, before));
        }
        CHECK(dqt_tensor_quantize(t, w, DQT_ROUND_ECO_STOCHASTIC, 0) == DQT_E_ARGUMENT);
        CHECK(dqt_tensor_quantize(t, w, -1, 0) == DQT_E_ARGUMENT);
        int8_t codes[N] = {0};
        float scales[ROWS] = {1, 1, 0};
        if (f < FIRST_CODE) {
            CHECK(dqt_tensor_get_codes(t, 0, 1, codes) == DQT_E_UNSUPPORTED);
            CHECK(dqt_tensor_set_codes(t, 0, 1, codes) == DQT_E_UNSUPPORTED);
            CHECK(dqt_tensor_get_scales(t, scales) == DQT_E_UNSUPPORTED);
            CHECK(dqt_tensor_set_scales(t, scales) == DQT_E_UNSUPPORTED);
        } else {
            static const float wrong[] = {0, -1, NAN, INFINITY};
            for (size_t i = 0; i < 4; i++) {
                scales[2] = wrong[i];
                CHECK(dqt_tensor_set_scales(t, scales) == DQT_E_ARGUMENT);
                CHECK(strstr(dqt_last_error(ctx), "scales[2]"));
            }
            if (formats[f] != DQT_FORMAT_INT8) {
                codes[N - 1] = (int8_t)(highest[f] + 1);
                CHECK(dqt_tensor_set_codes(t, 0, ROWS, codes) == DQT_E_ARGUMENT);
                codes[N - 1] = (int8_t)(lowest[f] - 1);
                CHECK(dqt_tensor_set_codes(t, 0, ROWS, codes) == DQT_E_ARGUMENT);
                CHECK(strstr(dqt_last_error(ctx), "codes[197]"));
            }
        }
        CHECK(same_tensor(t, before));
        dqt_tensor_destroy(t);
        dqt_tensor_destroy(before);
    }
    free(w);
    end();
}

/* Every format and axis, into a tensor of another context; what does not fit changes nothing. */
static void copies(void) {
    begin();
    struct counting other_memory;
    dqt_context *other = counting_context(&other_memory);
    for (int f = 0; f < FORMATS; f++)
        for (int axis = DQT_AXIS_TENSOR; axis <= DQT_AXIS_ROW; axis++) {
            if (f < FIRST_CODE && axis == DQT_AXIS_ROW) continue;
            const dqt_tensor_options o = options_of(formats[f], DQT_SCALE_SIGMA, axis);
            dqt_tensor *from = make(3, 70, formats[f], DQT_SCALE_SIGMA, axis), *to = NULL, *wider = NULL;
            float values[3 * 70], got[3 * 70];
            uint64_t seed = (uint64_t)f;
            for (size_t i = 0; i < 3 * 70; i++)
                values[i] = (float)(test_random(&seed) % 1000) / 500.0f - 1.0f;
            OK(ctx, dqt_tensor_quantize(from, values, DQT_ROUND_NEAREST, 0));
            OK(other, dqt_tensor_create(other, 3, 70, &o, &to));
            OK(other, dqt_tensor_create(other, 3, 71, &o, &wider));
            OK(other, dqt_tensor_copy(to, from));
            OK(ctx, dqt_tensor_dequantize(from, 0, 3, values));
            OK(other, dqt_tensor_dequantize(to, 0, 3, got));
            CHECKF(memcmp(values, got, sizeof got) == 0, "format %d", formats[f]);
            CHECK(dqt_tensor_copy(wider, from) == DQT_E_SHAPE);
            dqt_tensor *foreign = make(3, 70, formats[(f + 1) % FORMATS], DQT_SCALE_SIGMA, DQT_AXIS_TENSOR);
            CHECK(dqt_tensor_copy(foreign, from) == DQT_E_UNSUPPORTED);
            OK(ctx, dqt_tensor_dequantize(foreign, 0, 3, got));
            for (size_t i = 0; i < 3 * 70; i++)
                CHECK(got[i] == 0);
            CHECK(dqt_tensor_copy(NULL, from) == DQT_E_ARGUMENT && dqt_tensor_copy(to, NULL) == DQT_E_ARGUMENT);
            dqt_tensor_destroy(from);
            dqt_tensor_destroy(to);
            dqt_tensor_destroy(wider);
            dqt_tensor_destroy(foreign);
        }
    counting_end(other, &other_memory);
    end();
}

static const struct test tests[] = {
    TEST(table),
    TEST(row_sizes),
    TEST(initial_scale),
    TEST(packed_bytes),
    TEST(golden_bytes),
    TEST(new_is_zero),
    TEST(codes_round_trip),
    TEST(quantize_nearest),
    TEST(nearest_ties),
    TEST(stochastic_is_unbiased),
    TEST(bf16_rounding),
    TEST(bf16_conversions),
    TEST(seeds_count_whole),
    TEST(clipping_of_a_gaussian),
    TEST(extreme_weights),
    TEST(statistics),
    TEST(convert_all_pairs),
    TEST(ranges),
    TEST(reading_another_format),
    TEST(layer_reads_compute_format),
    TEST(touch),
    TEST(refusals_change_nothing),
    TEST(copies),
};
TEST_MAIN(tests)
