/* The end of a product, 16 columns at a time, for the AVX-512 kernel files that include it. */
#ifndef DQT_KERNELS_MATMUL_FINISH_AVX512_H
#define DQT_KERNELS_MATMUL_FINISH_AVX512_H

#include <immintrin.h>

#include "kernels/matmul_kernels.h"

/* Columns n .. n + 15 of the block: those that exist, and their scales. */
struct columns16 {
    __mmask16 mask;
    __m512 scale;
};

static inline struct columns16 columns_load(const struct matmul_block *b, size_t n) {
    const size_t count = n < b->n ? b->n - n : 0;
    struct columns16 c = {(__mmask16)(count >= 16 ? 0xffff : (1u << count) - 1), _mm512_set1_ps(1.0f)};
    if (b->col_scale && count) c.scale = _mm512_maskz_loadu_ps(c.mask, b->col_scale + n);
    return c;
}

/* y[i][n..] from 16 sums. */
static inline void finish_float(const struct matmul_block *b, size_t i, size_t n, struct columns16 c, __m512 sum) {
    float *y = b->y + i * b->ld_y + n;
    const __m512 scale = b->row_scale ? _mm512_mul_ps(_mm512_set1_ps(b->row_scale[i]), c.scale) : c.scale;
    __m512 value = _mm512_mul_ps(sum, scale);
    if (c.mask == 0xffff) {
        if (b->accumulate) value = _mm512_add_ps(_mm512_loadu_ps(y), value);
        _mm512_storeu_ps(y, value);
    } else if (c.mask) {
        if (b->accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(c.mask, y), value);
        _mm512_mask_storeu_ps(y, c.mask, value);
    }
}

static inline void finish_int(const struct matmul_block *b, size_t i, size_t n, struct columns16 c, __m512i sum) {
    finish_float(b, i, n, c, _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(b->row_add[i]))));
}

#endif
