/* Products in plain C: the specification. */
#include <math.h>
#include <string.h>

#include "format/format.h"
#include "kernels/gemm_kernels.h"

enum { ROWS = 4, KC_BYTES = 16 << 10 /* of 32 or 48 KiB of L1 */ };

static void epilogue(const struct gemm_block *b, size_t i, size_t n, float sum) {
    float scale = (b->row_scale ? b->row_scale[i] : 1.0f) * (b->col_scale ? b->col_scale[n] : 1.0f);
    float *y = &b->y[i * b->ld_y + n];
    *y = b->accumulate ? *y + sum * scale : sum * scale;
}

/* partial[rows][round_up(n, 16)]. Sums are unsigned: their wrap-around is meant. */
static void block_code(const struct gemm_block *b) {
    const size_t ld = (b->n + PANEL - 1) / PANEL * PANEL;
    uint32_t *partial = b->partial;
    for (size_t n0 = 0; n0 < b->n; n0 += PANEL) {
        const int8_t *a = b->a;
        const uint8_t *panel = (const uint8_t *)b->b + n0 / PANEL * b->panel_stride;
        uint32_t sum[ROWS][PANEL];
        for (size_t i = 0; i < ROWS; i++)
            for (size_t j = 0; j < PANEL; j++)
                sum[i][j] = b->first ? 0 : partial[i * ld + n0 + j];
        for (size_t k = 0; k < b->k; k++)
            for (size_t i = 0; i < ROWS; i++)
                for (size_t j = 0; j < PANEL; j++)
                    sum[i][j] += (uint32_t)(a[k * ROWS + i] * panel[k * PANEL + j]);
        for (size_t i = 0; i < ROWS; i++) {
            for (size_t j = 0; j < PANEL; j++) {
                if (!b->last) {
                    partial[i * ld + n0 + j] = sum[i][j];
                } else if (i < b->m && n0 + j < b->n) {
                    epilogue(b, i, n0 + j, (float)(int32_t)(sum[i][j] + (uint32_t)b->row_add[i]));
                }
            }
        }
    }
}

static void block_f32(const struct gemm_block *b) {
    const size_t ld = (b->n + PANEL - 1) / PANEL * PANEL;
    float *partial = b->partial;
    for (size_t n0 = 0; n0 < b->n; n0 += PANEL) {
        const float *a = b->a, *panel = (const float *)((const char *)b->b + n0 / PANEL * b->panel_stride);
        float sum[ROWS][PANEL];
        for (size_t i = 0; i < ROWS; i++)
            for (size_t j = 0; j < PANEL; j++)
                sum[i][j] = b->first ? 0.0f : partial[i * ld + n0 + j];
        for (size_t k = 0; k < b->k; k++)
            for (size_t i = 0; i < ROWS; i++)
                for (size_t j = 0; j < PANEL; j++)
                    sum[i][j] += a[k * ROWS + i] * panel[k * PANEL + j];
        for (size_t i = 0; i < ROWS; i++) {
            for (size_t j = 0; j < PANEL; j++) {
                if (!b->last) {
                    partial[i * ld + n0 + j] = sum[i][j];
                } else if (i < b->m && n0 + j < b->n) {
                    epilogue(b, i, n0 + j, sum[i][j]);
                }
            }
        }
    }
}

static void unpack(int format, const uint8_t *packed, size_t units, int8_t *codes) {
    const size_t unit_bytes = format_unit_bytes(format);
    for (size_t u = 0; u < units; u++)
        unit_unpack(format, packed + u * unit_bytes, codes + u * UNIT);
}

static float quantize(const float *x, size_t cols, int8_t *codes) {
    float amax = 1e-5f;
    for (size_t c = 0; c < cols; c++)
        amax = fabsf(x[c]) > amax ? fabsf(x[c]) : amax;
    const float factor = 127.0f / amax;
    for (size_t c = 0; c < cols; c++) {
        float v = rintf(x[c] * factor);
        codes[c] = (int8_t)(v > 127.0f ? 127.0f : v > -128.0f ? v : -128.0f); /* NaN: -128 */
    }
    return amax / 127.0f;
}

static int32_t dot_codes(const int8_t *a, const int8_t *b, size_t n) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Eight sums, so that compilers may use vectors and long sums lose less. */
enum { PARTS = 8 };

static float add_parts(const float sum[PARTS]) {
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

static float dot_code_float(const int8_t *codes, const float *x, size_t n) {
    float sum[PARTS] = {0};
    size_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (size_t j = 0; j < PARTS; j++)
            sum[j] += (float)codes[i + j] * x[i + j];
    for (; i < n; i++)
        sum[i % PARTS] += (float)codes[i] * x[i];
    return add_parts(sum);
}

static float dot_bf16_float(const uint16_t *w, const float *x, size_t n) {
    float sum[PARTS] = {0};
    size_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (size_t j = 0; j < PARTS; j++)
            sum[j] += bf16_to_f32(w[i + j]) * x[i + j];
    for (; i < n; i++)
        sum[i % PARTS] += bf16_to_f32(w[i]) * x[i];
    return add_parts(sum);
}

static float dot_float(const float *w, const float *x, size_t n) {
    float sum[PARTS] = {0};
    size_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (size_t j = 0; j < PARTS; j++)
            sum[j] += w[i + j] * x[i + j];
    for (; i < n; i++)
        sum[i % PARTS] += w[i] * x[i];
    return add_parts(sum);
}

void gemm_scalar_set(struct gemm_kernels *k) {
    const struct gemm_engine code = {.rows = ROWS,
                                     .columns = PANEL,
                                     .group = 1,
                                     .size = 1,
                                     .k_align = 1,
                                     .kc_bytes = KC_BYTES,
                                     .int8_bias = -128,
                                     .gebp = block_code};
    const struct gemm_engine f32 = {
        .rows = ROWS, .columns = PANEL, .group = 1, .size = 4, .k_align = 1, .kc_bytes = KC_BYTES, .gebp = block_f32};
    k->code = k->int8 = code;
    k->f32 = k->bf16 = f32;
    k->bf16.emulates_bf16 = true;
    gemm_pack_set(&k->code);
    gemm_pack_set(&k->int8);
    gemm_pack_set(&k->bf16);
    gemm_pack_set(&k->f32);
    k->permute_for_dot = NULL;
    k->dot_packed = NULL;
    k->dot_codes = dot_codes;
    k->dot_code_float = dot_code_float;
    k->dot_bf16_float = dot_bf16_float;
    k->dot_float = dot_float;
    k->gemv_max_tokens = 2;
    k->unpack = unpack;
    k->quantize = quantize;
}
