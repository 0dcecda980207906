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

/* Masks: memory beyond n is not touched. */
static inline __m256i first_lanes(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vec vec_load_tail(const float *x, size_t n, float rest) {
    const __m256i mask = first_lanes(n);
    return _mm256_blendv_ps(_mm256_set1_ps(rest), _mm256_maskload_ps(x, mask), _mm256_castsi256_ps(mask));
}
static inline void vec_store_tail(float *x, size_t n, vec v) {
    _mm256_maskstore_ps(x, first_lanes(n), v);
}

#define VEC_TAILS
#define VECTOR_KERNELS vector_kernels_avx2
#include "kernels/vector_template.h"

#include "kernels/attention_template.h"

TARGET_END
#else
typedef int vector_avx2_unused;
#endif
