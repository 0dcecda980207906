#include "kernels/kernels_neon.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define VEC_WIDTH 4
#define PRODUCT_ROWS 8

typedef float vec __attribute__((vector_size(16)));

static inline vec vec_set(float x) {
    return (vec){x, x, x, x};
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

#define VECTOR_KERNELS vector_kernels_neon
#include "kernels/vector_template.h"

#include "kernels/attention_template.h"
#else
typedef int vector_neon_unused;
#endif
