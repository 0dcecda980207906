#include "kernels/kernels_neon.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#define VEC_WIDTH 4
#define PRODUCT_ROWS 8

typedef float vec __attribute__((vector_size(16)));

static inline vec vec_set(float x) {
    return (vec){x, x, x, x};
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
static inline vec vec_codes(const int8_t *x) {
    uint32_t four;
    memcpy(&four, x, sizeof four);
    const int8x8_t codes = vreinterpret_s8_u32(vdup_n_u32(four));
    return (vec)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(codes))));
}

#define VECTOR_KERNELS vector_kernels_neon
#include "kernels/vector_template.h"

#include "kernels/attention_template.h"
#else
typedef int vector_neon_unused;
#endif
