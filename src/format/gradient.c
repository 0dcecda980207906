#include "format/gradient.h"

#include <math.h>
#include <string.h>

#include "format/format.h"

/* ---- FP8 (Micikevicius et al. 2022) -------------------------------------------------------------------------- */

/* E4M3: bias 7, no infinities, largest 448. E5M2: bias 15, largest 57344. 0x7f is NaN in both. */
struct fp8 {
    int mantissa, bias;
    float largest;
};

static struct fp8 fp8_of(int format) {
    const struct fp8 e4m3 = {3, 7, 448.0f}, e5m2 = {2, 15, 57344.0f};
    return format == DQT_FLOAT_FP8_E4M3 ? e4m3 : e5m2;
}

static float fp8_decode(const struct fp8 *f, uint8_t code) {
    const int magnitude = code & 0x7f, exponent = magnitude >> f->mantissa,
              fraction = magnitude & ((1 << f->mantissa) - 1);
    float x;
    if (magnitude == 0x7f) return code & 0x80 ? -NAN : NAN;
    if (f->mantissa == 2 && exponent == 31) {
        x = fraction ? NAN : INFINITY;
    } else if (exponent == 0) {
        x = ldexpf((float)fraction, 1 - f->bias - f->mantissa);
    } else {
        x = ldexpf((float)(fraction | 1 << f->mantissa), exponent - f->bias - f->mantissa);
    }
    return code & 0x80 ? -x : x;
}

/* |x| <= largest, or not finite (which becomes NaN). random: 32 bits for stochastic rounding, half of them for nearest
 * with ties away; the kept bits are those of a fixed-point number in units of the last place. */
static uint8_t fp8_encode(const struct fp8 *f, float x, uint32_t random) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint8_t sign = (uint8_t)(bits >> 31 << 7);
    bits &= 0x7fffffffu;
    if (bits >= 0x7f800000u) return sign | 0x7f;
    const int drop = 23 - f->mantissa, smallest = 127 + 1 - f->bias; /* biased exponent of the least normal number */
    if ((int)(bits >> 23) >= smallest) {
        bits += random >> (32 - drop);
        return (uint8_t)(sign | ((bits >> drop) - ((uint32_t)(smallest - 1) << f->mantissa)));
    }
    const float units = ldexpf(fabsf(x), f->bias + f->mantissa - 1); /* below 2^mantissa */
    const float whole = floorf(units);
    const uint32_t up = (units - whole) + rng_uniform01(random) >= 1.0f;
    return (uint8_t)(sign | ((uint32_t)whole + up));
}

/* The least power of two with largest / scale within range; 1 for a row of zeros. */
static float fp8_row_scale(const struct fp8 *f, const float *x, size_t cols) {
    float most = 0.0f;
    for (size_t k = 0; k < cols; k++) {
        const float a = fabsf(x[k]);
        if (a > most && a <= 3.4028235e38f) most = a;
    }
    if (most == 0.0f) return 1.0f;
    int exponent;
    const float fraction = frexpf(most, &exponent); /* most = fraction * 2^exponent, fraction in [0.5, 1) */
    int limit;
    const float limit_fraction = frexpf(f->largest, &limit);
    int power = exponent - limit + (fraction > limit_fraction);
    if (power < -126) power = -126;
    return ldexpf(1.0f, power);
}

static void fp8_write_row(const struct gradient *g, size_t row, const float *in, const struct rng *rng) {
    const struct fp8 f = fp8_of(g->format);
    const float scale = fp8_row_scale(&f, in, g->cols), inverse = 1.0f / scale;
    uint8_t *out = (uint8_t *)g->data + row * g->cols;
    uint32_t words[4];
    for (size_t k = 0; k < g->cols; k++) {
        const uint64_t element = (uint64_t)row * g->cols + k;
        if (rng && (k == 0 || element % 4 == 0)) rng_block(rng, element / 4, words);
        out[k] = fp8_encode(&f, in[k] * inverse, rng ? words[element % 4] : 0x80000000u);
    }
    g->row_scale[row] = scale;
}

/* ---- Buffers ------------------------------------------------------------------------------------------------- */

static size_t element_size(int format) {
    return format == DQT_FLOAT_F32 ? 4 : format == DQT_FLOAT_BF16 ? 2 : 1;
}

static bool is_fp8(int format) {
    return format == DQT_FLOAT_FP8_E4M3 || format == DQT_FLOAT_FP8_E5M2;
}

void gradient_place(struct gradient *g, struct arena *a) {
    size_t count;
    size_mul(g->rows, g->cols, &count);
    g->data = arena_take(a, count, element_size(g->format));
    g->row_scale = is_fp8(g->format) ? arena_take(a, g->rows, sizeof(float)) : NULL;
}

void gradient_zero(struct gradient *g) {
    memset(g->data, 0, g->rows * g->cols * element_size(g->format));
    if (g->row_scale)
        for (size_t r = 0; r < g->rows; r++)
            g->row_scale[r] = 1.0f;
}

static void write_row(const struct gradient *g, size_t row, const float *in, const struct rng *rng) {
    if (g->format == DQT_FLOAT_F32) {
        memcpy((float *)g->data + row * g->cols, in, g->cols * sizeof *in);
    } else if (g->format == DQT_FLOAT_BF16) {
        bf16_store(in, g->cols, (uint64_t)row * g->cols, rng, (uint16_t *)g->data + row * g->cols);
    } else {
        fp8_write_row(g, row, in, rng);
    }
}

void gradient_add_rows(struct gradient *g, const struct rng *rng, size_t row, size_t rows, const float *tile, size_t ld,
                       float *scratch) {
    for (size_t r = 0; r < rows; r++, tile += ld) {
        if (g->format == DQT_FLOAT_F32) {
            float *sum = (float *)g->data + (row + r) * g->cols;
            for (size_t k = 0; k < g->cols; k++)
                sum[k] += tile[k];
            continue;
        }
        gradient_read_rows(g, row + r, 1, scratch);
        for (size_t k = 0; k < g->cols; k++)
            scratch[k] += tile[k];
        write_row(g, row + r, scratch, rng);
    }
}

void gradient_read_rows(const struct gradient *g, size_t row, size_t rows, float *out) {
    const size_t count = rows * g->cols, at = row * g->cols;
    if (g->format == DQT_FLOAT_F32) {
        memcpy(out, (const float *)g->data + at, count * sizeof *out);
    } else if (g->format == DQT_FLOAT_BF16) {
        const uint16_t *in = (const uint16_t *)g->data + at;
        for (size_t k = 0; k < count; k++)
            out[k] = bf16_to_f32(in[k]);
    } else {
        const struct fp8 f = fp8_of(g->format);
        float table[256];
        for (int c = 0; c < 256; c++)
            table[c] = fp8_decode(&f, (uint8_t)c);
        const uint8_t *in = (const uint8_t *)g->data + at;
        for (size_t r = 0; r < rows; r++)
            for (size_t k = 0; k < g->cols; k++)
                out[r * g->cols + k] = table[in[r * g->cols + k]] * g->row_scale[row + r];
    }
}

void gradient_write_rows(struct gradient *g, const struct rng *rng, size_t row, size_t rows, const float *in) {
    for (size_t r = 0; r < rows; r++)
        write_row(g, row + r, in + r * g->cols, rng);
}
