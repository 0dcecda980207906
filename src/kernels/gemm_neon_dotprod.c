/* NEON with the dot product instruction: 4 bytes of K a step. Codes below 8 bits lie minus their bias (0 ..
 * 127), plain bytes as they are: all fit signed bytes. */
typedef int gemm_dotprod_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_NEON_DOTPROD)
#include "kernels/gemm_epilogue_neon.h"
#include "kernels/kernels_neon.h"
#include "kernels/kernels_neon_dotprod.h"
#include "kernels/kernels_scalar.h"

enum { INT8_ROWS = 6 };

static inline int32x4_t zero(void) {
    return vdupq_n_s32(0);
}

static inline int8x16_t load_b(const char *p) {
    return vld1q_s8((const int8_t *)p);
}

static inline int8x16_t broadcast(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

#define BLOCK block_int8
#define ROWS INT8_ROWS
#define GROUP 4
#define BROADCAST broadcast
#define DOT vdotq_s32
#define SUM int32x4_t
#define ZERO zero
#define LOAD vld1q_s32
#define STORE vst1q_s32
#define OPERAND int8x16_t
#define LOAD_B load_b
#define NUMBER int32_t
#define EPILOGUE epilogue4_int
#define EPILOGUE_NUMBER epilogue_number_int
#define VECTORS 4
#define LANES 4
#define BLOCK_GROUPS block_int8_groups
#define GROUP_SUM int32x4_t
#define SET vdupq_n_s32
#define ADD_SCALED add_scaled4
#define EPILOGUE_FLOATS epilogue4_floats
#include "kernels/gemm_block_template.h"

const struct gemm_engine gemm_int8_neon_dotprod = {.rows = INT8_ROWS,
                                                   .columns = PANEL,
                                                   .group = 4,
                                                   .size = 1,
                                                   .k_align = 4,
                                                   .kc_bytes = GEMM_KC_BYTES,
                                                   .bytes_bias = 0,
                                                   .max_range = 255,
                                                   .gebp = block_int8,
                                                   .gebp_groups = block_int8_groups,
                                                   .pack_a_codes = gemm_pack_a_codes,
                                                   .pack_b_packed = gemm_pack_b_packed_neon};

TARGET_END
#endif
