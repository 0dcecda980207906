/* Vectors of four floats in the compiler's own terms: whatever the baseline of the architecture offers. */
#include "kernels/kernels_scalar.h"

#define VEC_WIDTH 4
#define PRODUCT_ROWS 4

typedef float vec __attribute__((vector_size(16)));

static inline vec vec_set(float x) {
    return (vec){x, x, x, x};
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return a * b + c;
}
static inline vec vec_codes(const int8_t *x) {
    return (vec){(float)x[0], (float)x[1], (float)x[2], (float)x[3]};
}

#define VECTOR_KERNELS vector_kernels_scalar
#include "kernels/vector_template.h"

#include "kernels/attention_template.h"
