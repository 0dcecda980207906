/* Packing of operands in plain C, for any engine: the specification of the layouts, and what is used where packing is a
 * small part of the work. */
#include <string.h>

#include "kernels/matmul_kernels.h"
#include "quant/format.h"

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t rounded_up(size_t n, size_t unit) {
    return (n + unit - 1) / unit * unit;
}

/* Element index of A's (row i, column k) and of a panel's (row k, column n). */
static size_t a_index(const struct matmul_engine *e, size_t i, size_t k) {
    return (k / e->k_unit * e->rows + i) * e->k_unit + k % e->k_unit;
}
static size_t b_index(const struct matmul_engine *e, size_t k, size_t n) {
    return (k / e->group * PANEL + n) * e->group + k % e->group;
}

static void store_code(const struct matmul_engine *e, void *out, size_t index, int code) {
    if (e->size == 1) {
        ((uint8_t *)out)[index] = (uint8_t)code;
    } else {
        ((int16_t *)out)[index] = (int16_t)code;
    }
}

static void store_float(const struct matmul_engine *e, void *out, size_t index, float value) {
    if (e->size == 2) {
        ((uint16_t *)out)[index] = f32_to_bf16(value);
    } else {
        ((float *)out)[index] = e->rounded ? bf16_to_f32(f32_to_bf16(value)) : value;
    }
}

static void pack_a_codes(const struct matmul_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                         int32_t *sums) {
    for (size_t i = 0; i < e->rows; i++) {
        int32_t sum = 0;
        for (size_t c = 0; c < k; c += e->k_unit) {
            for (size_t j = 0; j < e->k_unit; j++) {
                int code = i < m ? src[i * ld + c + j] : 0;
                sum += code;
                store_code(e, out, a_index(e, i, c) + j, code);
            }
        }
        sums[i] += sum;
    }
}

static void pack_b_packed(const struct matmul_engine *e, int format, const uint8_t *src, size_t stride, size_t n, size_t units,
                          void *panel) {
    const int bias = format == DQT_FORMAT_INT8 ? e->int8_bias : format_min(format);
    const size_t unit_bytes = format_unit_bytes(format);
    for (size_t i = 0; i < PANEL; i++) {
        for (size_t u = 0; u < units; u++) {
            int8_t codes[UNIT];
            unit_unpack(format, src + least(i, n - 1) * stride + u * unit_bytes, codes);
            for (size_t k = 0; k < UNIT; k++) store_code(e, panel, b_index(e, u * UNIT + k, i), codes[k] - bias);
        }
    }
}

static void pack_a(const struct matmul_engine *e, const float *src, size_t ld, size_t m, size_t k, const float *k_scale,
                   void *out) {
    size_t padded = rounded_up(k, e->k_unit);
    for (size_t i = 0; i < e->rows; i++) {
        for (size_t c = 0; c < padded; c++) {
            float value = i < m && c < k ? src[i * ld + c] : 0.0f;
            if (k_scale && c < k) value *= k_scale[c];
            store_float(e, out, a_index(e, i, c), value);
        }
    }
}

static void pack_a_transposed(const struct matmul_engine *e, const float *src, size_t ld, size_t m, size_t k,
                              const float *k_scale, void *out) {
    size_t padded = rounded_up(k, e->k_unit);
    for (size_t c = 0; c < padded; c++) {
        float scale = k_scale && c < k ? k_scale[c] : 1.0f;
        for (size_t i = 0; i < e->rows; i++)
            store_float(e, out, a_index(e, i, c), i < m && c < k ? src[c * ld + i] * scale : 0.0f);
    }
}

static void pack_b(const struct matmul_engine *e, const float *src, size_t ld, size_t n, size_t k, void *panel) {
    size_t padded = rounded_up(k, e->k_unit);
    for (size_t c = 0; c < padded; c++)
        for (size_t i = 0; i < PANEL; i++)
            store_float(e, panel, b_index(e, c, i), i < n && c < k ? src[c * ld + i] : 0.0f);
}

static void pack_b_transposed(const struct matmul_engine *e, const float *src, size_t ld, size_t n, size_t k, void *panel) {
    size_t padded = rounded_up(k, e->k_unit);
    for (size_t i = 0; i < PANEL; i++)
        for (size_t c = 0; c < padded; c++)
            store_float(e, panel, b_index(e, c, i), i < n && c < k ? src[i * ld + c] : 0.0f);
}

static void pack_b_codes(const struct matmul_engine *e, const int8_t *src, size_t ld, size_t k, void *panel) {
    size_t padded = rounded_up(k, e->k_unit);
    for (size_t c = 0; c < padded; c++)
        for (size_t i = 0; i < PANEL; i++) store_float(e, panel, b_index(e, c, i), c < k ? (float)src[c * ld + i] : 0.0f);
}

void matmul_pack_set(struct matmul_engine *e) {
    e->pack_a_codes = pack_a_codes;
    e->pack_b_packed = pack_b_packed;
    e->pack_a = pack_a;
    e->pack_a_transposed = pack_a_transposed;
    e->pack_b = pack_b;
    e->pack_b_transposed = pack_b_transposed;
    e->pack_b_codes = pack_b_codes;
}
