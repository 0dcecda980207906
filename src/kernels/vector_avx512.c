#include "kernels/vector_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define VEC_WIDTH 16
#define PRODUCT_ROWS 8

typedef float vec __attribute__((vector_size(64)));

static inline vec vec_set(float x) {
    return _mm512_set1_ps(x);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}

#include "kernels/vector_template.h"

#include "kernels/attention_template.h"

void vector_kernels_avx512(struct vector_kernels *k) {
    vector_fill(k);
    attention_fill(k);
}
#else
typedef int vector_avx512_unused;
#endif
