/* NEON: f32, 24 vectors of sums. */
typedef int gemm_neon_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#include "kernels/gemm_epilogue_neon.h"
#include "kernels/kernels_neon.h"
#include "kernels/kernels_scalar.h"

enum { INT8_ROWS = 4, F32_ROWS = 6 };

static inline float32x4_t zero_float(void) {
    return vdupq_n_f32(0.0f);
}

static inline float32x4_t load_float(const void *p) {
    return vld1q_f32(p);
}

static inline float32x4_t broadcast_float(const char *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return vdupq_n_f32(v);
}

static inline float32x4_t dot_float(float32x4_t sum, float32x4_t a, float32x4_t b) {
    return vfmaq_f32(sum, a, b);
}

#define BLOCK block_f32
#define ROWS F32_ROWS
#define GROUP 1
#define BROADCAST broadcast_float
#define DOT dot_float
#define SUM float32x4_t
#define ZERO zero_float
#define LOAD load_float
#define STORE vst1q_f32
#define OPERAND float32x4_t
#define LOAD_B load_float
#define NUMBER float
#define EPILOGUE epilogue4_float
#define EPILOGUE_NUMBER epilogue_number_float
#define VECTORS 4
#define LANES 4
#include "kernels/gemm_block_template.h"

/* Integers without the dot product instruction: 16-bit operands, pairs of products added. */
static inline int32x4_t zero_int(void) {
    return vdupq_n_s32(0);
}

static inline int16x8_t load_int16(const void *p) {
    return vreinterpretq_s16_s8(vld1q_s8(p));
}

static inline int16x8_t broadcast16(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return vreinterpretq_s16_s32(vdupq_n_s32(v));
}

static inline int32x4_t dot16(int32x4_t sum, int16x8_t a, int16x8_t b) {
    const int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b)), high = vmull_high_s16(a, b);
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

#define BLOCK block_int16
#define ROWS INT8_ROWS
#define GROUP 2
#define BROADCAST broadcast16
#define DOT dot16
#define SUM int32x4_t
#define ZERO zero_int
#define LOAD vld1q_s32
#define STORE vst1q_s32
#define OPERAND int16x8_t
#define LOAD_B load_int16
#define NUMBER int32_t
#define EPILOGUE epilogue4_int
#define EPILOGUE_NUMBER epilogue_number_int
#define VECTORS 4
#define LANES 4
#define BLOCK_GROUPS block_int16_groups
#define GROUP_SUM int32x4_t
#define SET vdupq_n_s32
#define ADD_SCALED add_scaled4
#define EPILOGUE_FLOATS epilogue4_floats
#include "kernels/gemm_block_template.h"

const struct gemm_engine gemm_int8_neon = {.rows = INT8_ROWS,
                                           .columns = PANEL,
                                           .group = 2,
                                           .size = 2,
                                           .k_align = 2,
                                           .kc_bytes = GEMM_KC_BYTES,
                                           .bytes_bias = 0,
                                           .max_range = 255,
                                           .gebp = block_int16,
                                           .gebp_groups = block_int16_groups,
                                           .pack_a_codes = gemm_pack_a_codes,
                                           .pack_b_packed = gemm_pack_b_packed_neon};

#define ENGINE_F32                                                                                                     \
    .rows = F32_ROWS, .columns = PANEL, .group = 1, .size = 4, .k_align = 1, .kc_bytes = GEMM_KC_BYTES,                \
    .gebp = block_f32, .pack_a = gemm_pack_a, .pack_a_transposed = gemm_pack_a_transposed, .pack_b = gemm_pack_b,      \
    .pack_b_transposed = gemm_pack_b_transposed, .pack_b_codes = gemm_pack_b_codes_neon
const struct gemm_engine gemm_f32_neon = {ENGINE_F32};
const struct gemm_engine gemm_bf16_neon = {ENGINE_F32, .emulates_bf16 = true};
#endif
