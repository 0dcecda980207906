/* Kernels of elementwise and row operations, softmax and attention tiles: contracts.
 *
 * None of them reads or writes a float outside the ranges named here, but attention tiles, which live in padded
 * scratch. All but the attention products (fused multiply-add) give the same bits on every instruction set: sums have
 * 32 partial sums, element i in partial sum i % 32, halved 32, 16, ... 1 at the end. */
#ifndef DQT_KERNELS_VECTOR_KERNELS_H
#define DQT_KERNELS_VECTOR_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dqt.h"

/* Granularity of attention tiles: what scratch is padded to. */
enum {
    ATTENTION_TILE = 64,   /* queries or keys per tile */
    ATTENTION_ROWS = 8,    /* rows of a product come in multiples of this */
    ATTENTION_COLUMNS = 32 /* and its columns in multiples of this */
};

/* Formats of cached keys and values, DQT_CACHE_*, and the bytes of an element. */
enum { CACHE_FORMATS = DQT_CACHE_INT8 + 1 };
static inline size_t cache_element_bytes(int format) {
    static const size_t bytes[CACHE_FORMATS] = {
        [DQT_CACHE_F32] = sizeof(float), [DQT_CACHE_BF16] = sizeof(uint16_t), [DQT_CACHE_INT8] = sizeof(int8_t)};
    return bytes[format];
}

/* Attention with bf16 operands, for instruction sets that multiply whole tiles of them; all NULL elsewhere.
 * "Pairs" are words of two bf16, the earlier row in the low half: pairs[r / 2][c] = (x[r][c], x[r + 1][c]). */
struct attention_bf16_kernels {
    /* Around a run of products on one thread: tile registers are configured, and released. */
    void (*begin)(void);
    void (*end)(void);
    /* C[i][j] (+)= sum_k a[i][k] * B[k][j], B as pairs b[depth / 2][ldb]. rows, cols, depth are multiples of
     * ATTENTION_COLUMNS. lda and ldb in elements of their own type. */
    void (*product)(size_t rows, size_t cols, size_t depth, const uint16_t *a, size_t lda, const uint32_t *b,
                    size_t ldb, float *c, size_t ldc, bool accumulate);
    /* x[rows][cols], rounded to nearest, to out[padded_rows][padded_cols], or to pairs [padded_rows / 2][padded_cols];
     * the rest is 0. Padded sizes are multiples of ATTENTION_COLUMNS. */
    void (*pack_rows)(const float *x, size_t ldx, size_t rows, size_t cols, size_t padded_rows, size_t padded_cols,
                      uint16_t *out);
    void (*pack_pairs)(const float *x, size_t ldx, size_t rows, size_t cols, size_t padded_rows, size_t padded_cols,
                       uint32_t *out);
    /* sum x[i] y[i]. */
    float (*dot)(const uint16_t *x, const float *y, size_t n);
    /* out[c][r] = x[r][c]; rows and cols are multiples of 16. */
    void (*transpose)(const uint32_t *x, size_t ldx, size_t rows, size_t cols, uint32_t *out, size_t ldo);
    /* As attention_softmax below, of scores * scale; p as pairs of keys [keys / 2][ATTENTION_TILE]. keys and queries
     * are multiples of ATTENTION_COLUMNS; diagonal: zeros as far as key (i | 31). maximum is of the unscaled scores. */
    void (*softmax)(const float *s, size_t keys, size_t queries, bool diagonal, float scale, float *maximum, float *sum,
                    float *correction, uint32_t *p);
    /* p = exp(s * scale - log_sum[query]), ds = p * (dp - delta[query]) * scale: both as rows, ds also as pairs of
     * keys. */
    void (*softmax_gradient)(const float *s, const float *dp, size_t keys, size_t queries, bool diagonal, float scale,
                             const float *log_sum, const float *delta, uint16_t *p, uint16_t *ds, uint32_t *ds_pairs);
};

struct vector_kernels {
    /* sum x[i]^2; sum x[i] y[i]; sum x[i] y[i] z[i]; max x[i] (-inf for n = 0; NaN are passed over). */
    float (*sum_squares)(const float *x, size_t n);
    float (*dot)(const float *x, const float *y, size_t n);
    float (*dot3)(const float *x, const float *y, const float *z, size_t n);
    float (*maximum)(const float *x, size_t n);
    /* sum exp(x[i] - shift); the terms go to out, which may be x, or NULL. */
    float (*exp_sum)(const float *x, size_t n, float shift, float *out);

    /* y = x * r * gain; y may be x. */
    void (*norm_row)(const float *x, const float *gain, float r, size_t n, float *y);
    /* dx = r * (dy * gain - x * c), added to dx if accumulate; dx may be dy (unless accumulate). dgain += dy * x * r,
     * NULL: not wanted. */
    void (*norm_gradient_row)(const float *dy, const float *x, const float *gain, float r, float c, size_t n,
                              bool accumulate, float *dx, float *dgain);
    /* y += x; y *= x; y = x * factor (y may be x). */
    void (*add)(const float *x, size_t n, float *y);
    void (*multiply)(const float *x, size_t n, float *y);
    void (*scale)(const float *x, size_t n, float factor, float *y);

    /* One token, x[heads][2 * half]: x1' = x1 cos - x2 sin, x2' = x2 cos + x1 sin; sign -1 for the inverse. */
    void (*rope_row)(float *x, size_t heads, size_t half, const float *cosines, const float *sines, float sign);

    /* See ops/activations.h; any output may be any input's buffer. */
    void (*swiglu)(const float *gate, const float *up, size_t n, float *h);
    void (*swiglu_gradient)(const float *gate, const float *up, const float *dh, size_t n, float *dgate, float *dup);
    void (*gated_squared_relu)(const float *gate, const float *up, size_t n, float *h);
    void (*gated_squared_relu_gradient)(const float *gate, const float *up, const float *dh, size_t n, float *dgate,
                                        float *dup);
    void (*squared_relu)(const float *up, size_t n, float *h);
    void (*squared_relu_gradient)(const float *up, const float *dh, size_t n, float *dup);

    /* x = exp(x - log_sum) * factor, in place. */
    void (*softmax_scale)(float *x, size_t n, float log_sum, float factor);

    /* C[i][j] (+)= sum_k a[i * row_step + k * depth_step] * b[k * ldb + j], j < cols. rows is a multiple of
     * ATTENTION_ROWS, cols of ATTENTION_COLUMNS. */
    void (*attention_product)(size_t rows, size_t cols, size_t depth, const float *a, size_t row_step,
                              size_t depth_step, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate);
    /* out[c][r] = x[r][c] * factor for r < rows; zero for r in [rows, round_up(rows, ATTENTION_COLUMNS)). */
    void (*attention_transpose)(const float *x, size_t ldx, size_t rows, size_t cols, float factor, float *out,
                                size_t ldo);
    /* Scores s[keys][ATTENTION_TILE queries] of one tile become exp(score - maximum), with maximum[query] and
     * sum[query] brought up to date; correction[query] = exp(old maximum - new). `queries` is rounded up to 16.
     * diagonal: key j counts for query i only if j <= i; others become 0 as far as key (i | 15). */
    void (*attention_softmax)(float *s, size_t keys, size_t queries, bool diagonal, float *maximum, float *sum,
                              float *correction);
    /* s becomes p = exp(s - log_sum[query]), dp becomes p * (dp - delta[query]); the rest as above. */
    void (*attention_softmax_gradient)(float *s, float *dp, size_t keys, size_t queries, bool diagonal,
                                       const float *log_sum, const float *delta);
    /* scores[j] = factor * q . k[j * ldk], j < keys; and out = out * correction + sum_j p[j] * v[j * ldv]; for each
     * format of the elements of k and v (DQT_CACHE_*): floats, bf16, int8 codes without their steps. */
    void (*attention_scores[CACHE_FORMATS])(const float *q, const void *k, size_t ldk, size_t keys, size_t head_size,
                                            float factor, float *scores);
    void (*attention_mix[CACHE_FORMATS])(const float *p, const void *v, size_t ldv, size_t keys, size_t head_size,
                                         float correction, float *out);
    /* out[i * ldo + c] = x[i * head_size + c] * steps[i], i < rows; steps NULL: all 1. The formats as above. */
    void (*attention_widen[CACHE_FORMATS])(const void *x, const float *steps, size_t rows, size_t head_size, float *out,
                                           size_t ldo);
};

#endif
