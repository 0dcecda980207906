/* Packing of operands in plain C, for any engine: the specification of the layouts, and what is used where packing is a
 * small part of the work. */
#include <string.h>

#include "core/size.h"
#include "format/format.h"
#include "kernels/kernels_scalar.h"

/* One element; `size` and `emulates_bf16` are the engine's, held in registers by the loops. */
static void store_code(void *out, size_t index, int code, size_t size) {
    if (size == 1) {
        ((uint8_t *)out)[index] = (uint8_t)code;
    } else {
        ((int16_t *)out)[index] = (int16_t)code;
    }
}

static void store_float(void *out, size_t index, float value, size_t size, bool emulates_bf16) {
    if (size == 2) {
        ((uint16_t *)out)[index] = f32_to_bf16(value);
    } else {
        ((float *)out)[index] = emulates_bf16 ? bf16_to_f32(f32_to_bf16(value)) : value;
    }
}

void gemm_pack_a_codes(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                       int32_t *sums) {
    const size_t k_align = e->k_align, size = e->size, step = e->rows * k_align;
    memset(out, 0, e->rows * k * size);
    for (size_t i = 0; i < m; i++) {
        const int8_t *row = src + i * ld;
        int32_t sum = 0;
        for (size_t c = 0; c < k; c++)
            sum += row[c];
        sums[i] += sum;
        size_t index = i * k_align;
        if (size == 1 && k_align == 4) {
            for (size_t c = 0; c < k; c += 4, index += step)
                memcpy((uint8_t *)out + index, row + c, 4);
        } else if (size == 1 && k_align == 8) {
            for (size_t c = 0; c < k; c += 8, index += step)
                memcpy((uint8_t *)out + index, row + c, 8);
        } else if (size == 2 && k_align == 2) {
            for (size_t c = 0; c < k; c += 2, index += step) {
                ((int16_t *)out)[index] = row[c];
                ((int16_t *)out)[index + 1] = row[c + 1];
            }
        } else {
            for (size_t c = 0; c < k; c += k_align, index += step)
                for (size_t j = 0; j < k_align; j++)
                    store_code(out, index + j, row[c + j], size);
        }
    }
}

void gemm_pack_b_packed(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                        size_t n, size_t blocks, void *panel) {
    const int bias = panel_bias(e, p);
    const size_t block_bytes = packing_block_bytes(p), group = e->group, size = e->size;
    for (size_t i = 0; i < PANEL; i++) {
        size_t index = i * group;
        for (size_t b = 0; b < blocks; b++) {
            int8_t codes[PACK_BLOCK];
            block_unpack(p, src + size_min(i, n - 1) * stride + b * block_bytes, codes);
            for (size_t k = 0; k < PACK_BLOCK; k += group, index += PANEL * group)
                for (size_t j = 0; j < group; j++)
                    store_code(panel, index + j, codes[k + j] - bias, size);
        }
    }
}

/* Row i of a block of A from a column of src. */
static int32_t pack_column(const int8_t *restrict src, size_t ld, size_t k, size_t k_align, size_t step, size_t size,
                           void *restrict out, size_t index) {
    int32_t sum = 0;
    for (size_t c = 0; c < k; c += k_align, index += step) {
        for (size_t j = 0; j < k_align; j++, src += ld) {
            store_code(out, index + j, *src, size);
            sum += *src;
        }
    }
    return sum;
}

void gemm_pack_a_rows(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                      int32_t *sums) {
    const size_t k_align = e->k_align, size = e->size, step = e->rows * k_align;
    memset(out, 0, e->rows * k * size);
    for (size_t i = 0; i < m; i++) { /* the engines' sizes as constants, for speed */
        if (size == 1 && k_align == 4) {
            sums[i] += pack_column(src + i, ld, k, 4, step, 1, out, i * 4);
        } else if (size == 1 && k_align == 8) {
            sums[i] += pack_column(src + i, ld, k, 8, step, 1, out, i * 8);
        } else if (size == 2 && k_align == 2) {
            sums[i] += pack_column(src + i, ld, k, 2, step, 2, out, i * 2);
        } else {
            sums[i] += pack_column(src + i, ld, k, k_align, step, size, out, i * k_align);
        }
    }
}

/* To 4 bytes of each group; group is a constant where this is inlined. */
static inline void pack_four_rows(const int8_t *restrict a, size_t ld, int bias, size_t group, uint8_t *restrict out) {
    const int8_t *restrict b = a + ld, *restrict c = b + ld, *restrict d = c + ld;
    for (size_t i = 0; i < PANEL; i++) {
        out[group * i] = (uint8_t)(a[i] - bias);
        out[group * i + 1] = (uint8_t)(b[i] - bias);
        out[group * i + 2] = (uint8_t)(c[i] - bias);
        out[group * i + 3] = (uint8_t)(d[i] - bias);
    }
}

/* Two 16-bit numbers a word, the first one at the lower address: compilers find vectors for words. */
static void pack_two_rows(const int8_t *restrict a, size_t ld, int bias, uint32_t *restrict out) {
    enum { FIRST = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : 16, SECOND = 16 - FIRST };
    const int8_t *restrict b = a + ld;
    for (size_t i = 0; i < PANEL; i++)
        out[i] = (uint32_t)(uint16_t)(a[i] - bias) << FIRST | (uint32_t)(uint16_t)(b[i] - bias) << SECOND;
}

void gemm_pack_b_rows(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, int bias, void *panel) {
    const size_t group = e->group, size = e->size;
    DQT_ASSERT(k % e->k_align == 0);
    for (size_t c = 0; c < k; c += group, src += group * ld) {
        if (size == 1 && group == 4) {
            pack_four_rows(src, ld, bias, 4, (uint8_t *)panel + c * PANEL);
        } else if (size == 1 && group == 8) {
            pack_four_rows(src, ld, bias, 8, (uint8_t *)panel + c * PANEL);
            pack_four_rows(src + 4 * ld, ld, bias, 8, (uint8_t *)panel + c * PANEL + 4);
        } else if (size == 2 && group == 2) {
            pack_two_rows(src, ld, bias, (uint32_t *)panel + c * PANEL / 2);
        } else {
            for (size_t i = 0; i < PANEL; i++)
                for (size_t j = 0; j < group; j++)
                    store_code(panel, c * PANEL + i * group + j, src[j * ld + i] - bias, size);
        }
    }
}

void gemm_pack_a(const struct gemm_engine *e, const float *src, size_t ld, size_t m, size_t k, const float *k_scale,
                 void *out) {
    const size_t k_align = e->k_align, size = e->size, padded = round_up(k, k_align);
    const bool emulates_bf16 = e->emulates_bf16;
    memset(out, 0, e->rows * padded * size);
    for (size_t i = 0; i < m; i++) {
        const float *row = src + i * ld;
        for (size_t c = 0; c < k; c += k_align) {
            const size_t index = c * e->rows + i * k_align, last = size_min(k_align, k - c);
            for (size_t j = 0; j < last; j++)
                store_float(out, index + j, k_scale ? row[c + j] * k_scale[c + j] : row[c + j], size, emulates_bf16);
        }
    }
}

void gemm_pack_a_transposed(const struct gemm_engine *e, const float *src, size_t ld, size_t m, size_t k,
                            const float *k_scale, void *out) {
    const size_t k_align = e->k_align, size = e->size;
    const bool emulates_bf16 = e->emulates_bf16;
    memset(out, 0, e->rows * round_up(k, k_align) * size);
    for (size_t c = 0; c < k; c++) {
        const float scale = k_scale ? k_scale[c] : 1.0f;
        const size_t index = c / k_align * k_align * e->rows + c % k_align;
        for (size_t i = 0; i < m; i++)
            store_float(out, index + i * k_align, src[c * ld + i] * scale, size, emulates_bf16);
    }
}

void gemm_pack_b(const struct gemm_engine *e, const float *src, size_t ld, size_t n, size_t k, void *panel) {
    const size_t group = e->group, size = e->size;
    const bool emulates_bf16 = e->emulates_bf16;
    memset(panel, 0, round_up(k, e->k_align) * PANEL * size);
    for (size_t c = 0; c < k; c++) {
        const size_t index = c / group * group * PANEL + c % group;
        for (size_t i = 0; i < n; i++)
            store_float(panel, index + i * group, src[c * ld + i], size, emulates_bf16);
    }
}

void gemm_pack_b_transposed(const struct gemm_engine *e, const float *src, size_t ld, size_t n, size_t k, void *panel) {
    const size_t group = e->group, size = e->size;
    const bool emulates_bf16 = e->emulates_bf16;
    memset(panel, 0, round_up(k, e->k_align) * PANEL * size);
    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < k; c += group) {
            const size_t index = c * PANEL + i * group, last = size_min(group, k - c);
            for (size_t j = 0; j < last; j++)
                store_float(panel, index + j, src[i * ld + c + j], size, emulates_bf16);
        }
    }
}

void gemm_pack_b_codes(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, const float *scale,
                       size_t ld_scale, void *panel) {
    const size_t group = e->group, size = e->size;
    const bool emulates_bf16 = e->emulates_bf16;
    memset(panel, 0, round_up(k, e->k_align) * PANEL * size);
    for (size_t c = 0; c < k; c++) {
        const size_t index = c / group * group * PANEL + c % group;
        const float factor = scale ? scale[c * ld_scale] : 1.0f;
        for (size_t i = 0; i < PANEL; i++)
            store_float(panel, index + i * group, factor * (float)src[c * ld + i], size, emulates_bf16);
    }
}
