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

#define VECTOR_KERNELS vector_kernels_avx512
#include "kernels/vector_template.h"

#include "kernels/attention_template.h"

TARGET_END
#else
typedef int vector_avx512_unused;
#endif
