#include "kernels/kernels_avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512)

#define VEC_WIDTH 16
#define PRODUCT_ROWS 8

typedef float vec __attribute__((vector_size(64)));

static inline vec vec_set(float x) {
    return _mm512_set1_ps(x);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec vec_codes(const int8_t *x) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)x)));
}

/* Masks: memory beyond n is not touched. */
static inline vec vec_load_tail(const float *x, size_t n, float rest) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(rest), (__mmask16)((1u << n) - 1), x);
}
static inline void vec_store_tail(float *x, size_t n, vec v) {
    _mm512_mask_storeu_ps(x, (__mmask16)((1u << n) - 1), v);
}

#define VEC_TAILS
#define VECTOR_KERNELS vector_kernels_avx512
#include "kernels/vector_template.h"

#include "kernels/attention_template.h"

TARGET_END
#else
typedef int vector_avx512_unused;
#endif
