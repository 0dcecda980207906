#include "kernels/vector_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define VEC_WIDTH 8
#define PRODUCT_ROWS 4

typedef float vec __attribute__((vector_size(32)));

static inline vec vec_set(float x) {
    return _mm256_set1_ps(x);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}

#include "kernels/vector_template.h"

#include "kernels/attention_template.h"

void vector_kernels_avx2(struct vector_kernels *k) {
    vector_fill(k);
    attention_fill(k);
}
#else
typedef int vector_avx2_unused;
#endif
