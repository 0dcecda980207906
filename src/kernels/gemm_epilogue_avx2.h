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

static inline __m256i broadcast(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

#endif
