/* The kernels of attention with bf16 operands (kernels/vector_kernels.h) in plain C: with them the tiles around them
 * run on every CPU, where else only AMX has such kernels. */
#ifndef BF16_KERNELS_H
#define BF16_KERNELS_H

#include <math.h>
#include <string.h>

#include "core/context.h"
#include "format/format.h"
#include "kernels/kernels.h"

static inline void plain_begin(void) {
}

static inline uint32_t plain_pair(float low, float high) {
    return (uint32_t)f32_to_bf16(low) | (uint32_t)f32_to_bf16(high) << 16;
}

static inline void plain_product(size_t rows, size_t cols, size_t depth, const uint16_t *a, size_t lda,
                                 const uint32_t *b, size_t ldb, float *c, size_t ldc, bool accumulate) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float sum = accumulate ? c[i * ldc + j] : 0;
            for (size_t k = 0; k < depth; k++) {
                const uint32_t pair = b[k / 2 * ldb + j];
                sum += bf16_to_f32(a[i * lda + k]) * bf16_to_f32((uint16_t)(k % 2 ? pair >> 16 : pair & 0xffff));
            }
            c[i * ldc + j] = sum;
        }
}

static inline float plain_at(const float *x, size_t ldx, size_t rows, size_t cols, size_t r, size_t c) {
    return r < rows && c < cols ? x[r * ldx + c] : 0;
}

static inline void plain_pack_rows(const float *x, size_t ldx, size_t rows, size_t cols, size_t padded_rows,
                                   size_t padded_cols, uint16_t *out) {
    for (size_t r = 0; r < padded_rows; r++)
        for (size_t c = 0; c < padded_cols; c++)
            out[r * padded_cols + c] = f32_to_bf16(plain_at(x, ldx, rows, cols, r, c));
}

static inline void plain_pack_pairs(const float *x, size_t ldx, size_t rows, size_t cols, size_t padded_rows,
                                    size_t padded_cols, uint32_t *out) {
    for (size_t r = 0; r < padded_rows; r += 2)
        for (size_t c = 0; c < padded_cols; c++)
            out[r / 2 * padded_cols + c] =
                plain_pair(plain_at(x, ldx, rows, cols, r, c), plain_at(x, ldx, rows, cols, r + 1, c));
}

static inline float plain_dot(const uint16_t *x, const float *y, size_t n) {
    float sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += bf16_to_f32(x[i]) * y[i];
    return sum;
}

static inline void plain_transpose(const uint32_t *x, size_t ldx, size_t rows, size_t cols, uint32_t *out, size_t ldo) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            out[c * ldo + r] = x[r * ldx + c];
}

static inline bool plain_sees(size_t query, size_t key, bool diagonal) {
    return !diagonal || key <= query;
}

static inline size_t plain_keys(size_t query, size_t keys, bool diagonal) {
    const size_t last = (query | (ATTENTION_COLUMNS - 1)) + 1;
    return diagonal && last < keys ? last : keys;
}

static inline void plain_softmax(const float *s, size_t keys, size_t queries, bool diagonal, float scale,
                                 float *maximum, float *sum, float *correction, uint32_t *p) {
    for (size_t q = 0; q < queries; q++) {
        float best = maximum[q], total = 0, pair[2];
        for (size_t j = 0; j < keys; j++)
            if (plain_sees(q, j, diagonal)) best = fmaxf(best, s[j * ATTENTION_TILE + q]);
        for (size_t j = 0; j < plain_keys(q, keys, diagonal); j++) {
            const bool seen = plain_sees(q, j, diagonal);
            pair[j % 2] = seen ? expf((s[j * ATTENTION_TILE + q] - best) * scale) : 0;
            total += pair[j % 2];
            if (j % 2) p[j / 2 * ATTENTION_TILE + q] = plain_pair(pair[0], pair[1]);
        }
        correction[q] = expf((maximum[q] - best) * scale);
        sum[q] = sum[q] * correction[q] + total;
        maximum[q] = best;
    }
}

static inline void plain_softmax_gradient(const float *s, const float *dp, size_t keys, size_t queries, bool diagonal,
                                          float scale, const float *log_sum, const float *delta, uint16_t *p,
                                          uint16_t *ds, uint32_t *ds_pairs) {
    for (size_t q = 0; q < queries; q++)
        for (size_t j = 0; j < plain_keys(q, keys, diagonal); j += 2) {
            float gradient[2];
            for (size_t i = 0; i < 2; i++) {
                const size_t at = (j + i) * ATTENTION_TILE + q;
                const float weight = plain_sees(q, j + i, diagonal) ? expf(s[at] * scale - log_sum[q]) : 0;
                gradient[i] = weight * (dp[at] - delta[q]) * scale;
                p[at] = f32_to_bf16(weight);
                ds[at] = f32_to_bf16(gradient[i]);
            }
            ds_pairs[j / 2 * ATTENTION_TILE + q] = plain_pair(gradient[0], gradient[1]);
        }
}

/* The context's attention has bf16 operands, where the call asks for them. Before workspaces are made. */
static inline void use_plain_bf16(dqt_context *ctx) {
    ctx->kernels->attention_bf16 = (struct attention_bf16_kernels){.begin = plain_begin,
                                                                   .end = plain_begin,
                                                                   .product = plain_product,
                                                                   .pack_rows = plain_pack_rows,
                                                                   .pack_pairs = plain_pack_pairs,
                                                                   .dot = plain_dot,
                                                                   .transpose = plain_transpose,
                                                                   .softmax = plain_softmax,
                                                                   .softmax_gradient = plain_softmax_gradient};
}

#endif
