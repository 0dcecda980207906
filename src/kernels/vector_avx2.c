#include "kernels/kernels_avx2.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)

#define VEC_WIDTH 8
#define PRODUCT_ROWS 4

typedef float vec __attribute__((vector_size(32)));

static inline vec vec_set(float x) {
    return _mm256_set1_ps(x);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vec vec_codes(const int8_t *x) {
    int64_t eight;
    memcpy(&eight, x, sizeof eight);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(eight)));
}

#define VECTOR_KERNELS vector_kernels_avx2
#include "kernels/vector_template.h"

#include "kernels/attention_template.h"

TARGET_END
#else
typedef int vector_avx2_unused;
#endif
