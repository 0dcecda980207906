/* The end of a product, 4 columns at a time, for the NEON kernel files that include it. */
#ifndef DQT_KERNELS_GEMM_EPILOGUE_NEON_H
#define DQT_KERNELS_GEMM_EPILOGUE_NEON_H

#include <arm_neon.h>

#include "kernels/gemm_epilogue.h"

static inline void epilogue4_float(const struct epilogue *f, size_t i, size_t n, float32x4_t sum) {
    float *y = f->y + i * f->ld_y + n;
    float32x4_t scale = vdupq_n_f32(f->row_scale[i]);
    if (f->col_scale) scale = vmulq_f32(scale, vld1q_f32(f->col_scale + n));
    float32x4_t value = vmulq_f32(sum, scale);
    if (f->accumulate) value = vaddq_f32(vld1q_f32(y), value);
    vst1q_f32(y, value);
}

static inline void epilogue4_int(const struct epilogue *f, size_t i, size_t n, int32x4_t sum) {
    epilogue4_float(f, i, n, vcvtq_f32_s32(vaddq_s32(sum, vdupq_n_s32(f->row_add[i]))));
}

static inline void epilogue4_floats(const struct epilogue *f, size_t i, size_t n, const float *from) {
    epilogue4_float(f, i, n, vld1q_f32(from));
}

/* Groups of K. */
static inline void add_scaled4(float *to, int32x4_t sum, const float *scale) {
    vst1q_f32(to, vaddq_f32(vld1q_f32(to), vmulq_f32(vcvtq_f32_s32(sum), vld1q_f32(scale))));
}

#endif
