/* The end of a product, 16 columns at a time, for the AVX-512 kernel files that include it. */
#ifndef DQT_KERNELS_GEMM_EPILOGUE_AVX512_H
#define DQT_KERNELS_GEMM_EPILOGUE_AVX512_H

#include <immintrin.h>

#include "kernels/gemm_epilogue.h"

/* Columns n .. n + 15 of the block: those that exist, and their scales. */
struct columns16 {
    __mmask16 mask;
    __m512 scale;
};

static inline struct columns16 columns_load(const struct gemm_block *b, size_t n) {
    const size_t count = n < b->n ? b->n - n : 0;
    struct columns16 c = {(__mmask16)(count >= 16 ? 0xffff : (1u << count) - 1), _mm512_set1_ps(1.0f)};
    if (b->col_scale && count) c.scale = _mm512_maskz_loadu_ps(c.mask, b->col_scale + n);
    return c;
}

/* y[i][n..] from 16 sums. `how` is a constant where this is inlined. */
enum epilogue_store {
    EPILOGUE_PARTIAL, /* not all columns exist, or y is added to */
    EPILOGUE_WHOLE,   /* y is set */
    EPILOGUE_STREAM   /* y is set past the caches; it is aligned to 64 bytes */
};

static inline void epilogue_float(const struct epilogue *f, size_t i, size_t n, struct columns16 c, __m512 sum,
                                  enum epilogue_store how) {
    float *y = f->y + i * f->ld_y + n;
    __m512 value = _mm512_mul_ps(sum, _mm512_mul_ps(_mm512_set1_ps(f->row_scale[i]), c.scale));
    if (how == EPILOGUE_STREAM) {
        _mm512_stream_ps(y, value);
    } else if (how == EPILOGUE_WHOLE) {
        _mm512_storeu_ps(y, value);
    } else {
        if (f->accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(c.mask, y), value);
        _mm512_mask_storeu_ps(y, c.mask, value);
    }
}

static inline void epilogue_int(const struct epilogue *f, size_t i, size_t n, struct columns16 c, __m512i sum,
                                enum epilogue_store how) {
    epilogue_float(f, i, n, c, _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(f->row_add[i]))), how);
}

/* The same for whole vectors that may be added to. */
static inline void epilogue16_float(const struct epilogue *f, size_t i, size_t n, __m512 sum) {
    const struct columns16 c = {0xffff, f->col_scale ? _mm512_loadu_ps(f->col_scale + n) : _mm512_set1_ps(1.0f)};
    if (f->accumulate) {
        epilogue_float(f, i, n, c, sum, EPILOGUE_PARTIAL);
    } else {
        epilogue_float(f, i, n, c, sum, EPILOGUE_WHOLE);
    }
}

static inline void epilogue16_int(const struct epilogue *f, size_t i, size_t n, __m512i sum) {
    epilogue16_float(f, i, n, _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(f->row_add[i]))));
}

static inline void epilogue16_floats(const struct epilogue *f, size_t i, size_t n, const float *from) {
    epilogue16_float(f, i, n, _mm512_load_ps(from));
}

/* Groups of K. */
typedef int32_t ints16 __attribute__((vector_size(64)));
static inline void add_scaled16(float *to, __m512i sum, const float *scale) {
    const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(scale));
    _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), value));
}

#endif
