/* Products in plain C: the specification. */
#include <math.h>
#include <string.h>

#include "core/size.h"
#include "format/format.h"
#include "kernels/kernels_scalar.h"

enum { ROWS = 4 };

static void epilogue(const struct gemm_block *b, size_t i, size_t n, float sum) {
    float scale = (b->row_scale ? b->row_scale[i] : 1.0f) * (b->col_scale ? b->col_scale[n] : 1.0f);
    float *y = &b->y[i * b->ld_y + n];
    *y = b->accumulate ? *y + sum * scale : sum * scale;
}

/* partial[rows][round_up(n, 16)]. Sums are unsigned: their wrap-around is meant. */
static void block_code(const struct gemm_block *b) {
    const size_t ld = round_up(b->n, PANEL);
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

/* partial: [n / 16][rows][16] floats. */
static void block_code_groups(const struct gemm_block *b) {
    for (size_t n0 = 0; n0 < b->n; n0 += PANEL) {
        const int8_t *a = b->a;
        const uint8_t *panel = (const uint8_t *)b->b + n0 / PANEL * b->panel_stride;
        const float *scale = b->group_scale + n0 / PANEL * b->group_scale_stride;
        float *total = (float *)b->partial + n0 * ROWS;
        for (size_t i = 0; b->first && i < ROWS * PANEL; i++)
            total[i] = -0.0f; /* any number can be added to it without a change */
        for (size_t g = 0; g < b->k / b->group; g++, scale += PANEL) {
            uint32_t sum[ROWS][PANEL];
            for (size_t i = 0; i < ROWS; i++)
                for (size_t j = 0; j < PANEL; j++)
                    sum[i][j] = (uint32_t)b->row_add[g * b->row_add_stride + i];
            for (size_t k = 0; k < b->group; k++, a += ROWS, panel += PANEL)
                for (size_t i = 0; i < ROWS; i++)
                    for (size_t j = 0; j < PANEL; j++)
                        sum[i][j] += (uint32_t)(a[i] * panel[j]);
            for (size_t i = 0; i < ROWS; i++)
                for (size_t j = 0; j < PANEL; j++)
                    total[i * PANEL + j] += (float)(int32_t)sum[i][j] * scale[j];
        }
        for (size_t i = 0; b->last && i < b->m; i++)
            for (size_t j = 0; j < PANEL && n0 + j < b->n; j++)
                epilogue(b, i, n0 + j, total[i * PANEL + j]);
    }
}

static void block_f32(const struct gemm_block *b) {
    const size_t ld = round_up(b->n, PANEL);
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

void unpack_scalar(const struct packing *p, const uint8_t *packed, size_t blocks, int8_t *codes) {
    const size_t block_bytes = packing_block_bytes(p);
    for (size_t b = 0; b < blocks; b++)
        block_unpack(p, packed + b * block_bytes, codes + b * PACK_BLOCK);
}

float quantize_scalar(const float *x, size_t cols, int8_t *codes) {
    float amax = 1e-5f;
    for (size_t c = 0; c < cols; c++) {
        if (!isfinite(x[c])) {
            memset(codes, 0, cols);
            return NAN;
        }
        amax = fabsf(x[c]) > amax ? fabsf(x[c]) : amax;
    }
    const float factor = 127.0f / amax; /* no product exceeds 127 by so much that it would round to 128 */
    for (size_t c = 0; c < cols; c++) {
        const float v = rintf(x[c] * factor);
        codes[c] = (int8_t)(v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v);
    }
    return amax / 127.0f;
}

int32_t dot_codes_scalar(const int8_t *a, const int8_t *b, size_t n) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Eight partial sums, so that compilers may use vectors and long sums lose less. */
enum { SUMS = 8 };

static float add_sums(const float sum[SUMS]) {
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

static float dot_code_float(const int8_t *codes, const float *x, size_t n) {
    float sum[SUMS] = {0};
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (size_t j = 0; j < SUMS; j++)
            sum[j] += (float)codes[i + j] * x[i + j];
    for (; i < n; i++)
        sum[i % SUMS] += (float)codes[i] * x[i];
    return add_sums(sum);
}

static float dot_bf16_float(const uint16_t *w, const float *x, size_t n) {
    float sum[SUMS] = {0};
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (size_t j = 0; j < SUMS; j++)
            sum[j] += bf16_to_f32(w[i + j]) * x[i + j];
    for (; i < n; i++)
        sum[i % SUMS] += bf16_to_f32(w[i]) * x[i];
    return add_sums(sum);
}

static float dot_float(const float *w, const float *x, size_t n) {
    float sum[SUMS] = {0};
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (size_t j = 0; j < SUMS; j++)
            sum[j] += w[i + j] * x[i + j];
    for (; i < n; i++)
        sum[i % SUMS] += w[i] * x[i];
    return add_sums(sum);
}

const struct float_dot_kernels float_dot_scalar = {.code = dot_code_float, .bf16 = dot_bf16_float, .f32 = dot_float};

#define ENGINE_CODE                                                                                                    \
    .rows = ROWS, .columns = PANEL, .group = 1, .size = 1, .k_align = 1, .kc_bytes = GEMM_KC_BYTES,                    \
    .bytes_bias = -128, .max_range = 255, .gebp = block_code, .gebp_groups = block_code_groups,                        \
    .pack_a_codes = gemm_pack_a_codes, .pack_b_packed = gemm_pack_b_packed
const struct gemm_engine gemm_code_scalar = {ENGINE_CODE};

#define ENGINE_F32                                                                                                     \
    .rows = ROWS, .columns = PANEL, .group = 1, .size = 4, .k_align = 1, .kc_bytes = GEMM_KC_BYTES, .gebp = block_f32, \
    .pack_a = gemm_pack_a, .pack_a_transposed = gemm_pack_a_transposed, .pack_b = gemm_pack_b,                         \
    .pack_b_transposed = gemm_pack_b_transposed, .pack_b_codes = gemm_pack_b_codes
const struct gemm_engine gemm_f32_scalar = {ENGINE_F32};
const struct gemm_engine gemm_bf16_scalar = {ENGINE_F32, .emulates_bf16 = true};
