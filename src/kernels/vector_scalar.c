/* Vectors of four floats in the compiler's own terms: whatever the baseline of the architecture offers. */
#include "kernels/vector_kernels.h"

#define VEC_WIDTH 4
#define PRODUCT_ROWS 4

typedef float vec __attribute__((vector_size(16)));

static inline vec vec_set(float x) {
    return (vec){x, x, x, x};
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return a * b + c;
}

#include "kernels/vector_template.h"

#include "kernels/attention_template.h"

void vector_kernels_scalar(struct vector_kernels *k) {
    vector_fill(k);
    attention_fill(k);
}
