/* The end of a product, 8 columns at a time, and loads of integers, for the kernel files of 256-bit vectors. */
#ifndef DQT_KERNELS_GEMM_EPILOGUE_AVX2_H
#define DQT_KERNELS_GEMM_EPILOGUE_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "kernels/gemm_epilogue.h"

static inline void epilogue8_float(const struct epilogue *f, size_t i, size_t n, __m256 sum) {
    float *y = f->y + i * f->ld_y + n;
    __m256 scale = _mm256_set1_ps(f->row_scale[i]);
    if (f->col_scale) scale = _mm256_mul_ps(scale, _mm256_loadu_ps(f->col_scale + n));
    __m256 value = _mm256_mul_ps(sum, scale);
    if (f->accumulate) value = _mm256_add_ps(_mm256_loadu_ps(y), value);
    _mm256_storeu_ps(y, value);
}

static inline void epilogue8_int(const struct epilogue *f, size_t i, size_t n, __m256i sum) {
    epilogue8_float(f, i, n, _mm256_cvtepi32_ps(_mm256_add_epi32(sum, _mm256_set1_epi32(f->row_add[i]))));
}

static inline void epilogue8_floats(const struct epilogue *f, size_t i, size_t n, const float *from) {
    epilogue8_float(f, i, n, _mm256_load_ps(from));
}

/* Groups of K. */
typedef int32_t ints8 __attribute__((vector_size(32)));
static inline void add_scaled8(float *to, __m256i sum, const float *scale) {
    const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(scale));
    _mm256_store_ps(to, _mm256_add_ps(_mm256_load_ps(to), value));
}

static inline __m256i load_int(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void store_int(void *p, __m256i v) {
    _mm256_storeu_si256((__m256i *)p, v);
}

static inline int32_t sum_ints(__m256i v) {
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}

/* Dwords: row i of the result is column i of the 8 rows. */
static inline void transpose_ints(__m256i r[8]) {
    __m256i t[8], q[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        q[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        q[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        q[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        q[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2x128_si256(q[i], q[4 + i], 0x20);
        r[4 + i] = _mm256_permute2x128_si256(q[i], q[4 + i], 0x31);
    }
}

static inline __m256i broadcast(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

#endif
