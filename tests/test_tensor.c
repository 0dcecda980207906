/* Tensors: packed bytes, statistics, conversion, ranges of rows, copies, refusals. */
#include "codes.h"
#include "formats.h"
#include "tensor_world.h"

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

static const size_t block_bytes[] = {0, 0, 64, 48, 40, 32, 24, 16, 16};

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
    TEST(table),        TEST(row_sizes),
    TEST(packed_bytes), TEST(golden_bytes),
    TEST(new_is_zero),  TEST(codes_round_trip),
    TEST(statistics),   TEST(convert_all_pairs),
    TEST(ranges),       TEST(refusals_change_nothing),
    TEST(copies),
};
TEST_MAIN(tests)
