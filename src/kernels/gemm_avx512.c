/* AVX-512: f32 with fused multiply-add; int8 for CPUs without VNNI. */
typedef int gemm_avx512_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512)
#include "kernels/gemm_epilogue_avx512.h"
#include "kernels/kernels_avx2.h"
#include "kernels/kernels_avx512.h"
#include "kernels/kernels_scalar.h"

enum { CODE_ROWS = 8, INT8_ROWS = 12, F32_ROWS = 14 };

static inline __m512 broadcast_float(const char *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_ps(v);
}

static inline __m512 dot_float(__m512 sum, __m512 a, __m512 b) {
    return _mm512_fmadd_ps(a, b, sum);
}

#define BLOCK block_f32
#define ROWS F32_ROWS
#define GROUP 1
#define BROADCAST broadcast_float
#define DOT dot_float
#define OPERAND __m512
#define LOAD_B _mm512_load_ps
#define VECTORS 2
#define LANES 16
#define SUM __m512
#define ZERO _mm512_setzero_ps
#define LOAD _mm512_load_ps
#define STORE _mm512_store_ps
#define NUMBER float
#define EPILOGUE epilogue16_float
#define EPILOGUE_NUMBER epilogue_number_float
#include "kernels/gemm_block_template.h"

static inline __m512i broadcast(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* |u0 x0 + u1 x1| <= 2 * MAX_RANGE * 128, and CODE_WIDEN_STEPS of these fit 16 bits: u, a code without its bias, is 0
 * .. MAX_RANGE. */
enum { CODE_WIDEN_STEPS = 8, MAX_RANGE = INT16_MAX / (2 * 128 * CODE_WIDEN_STEPS) };
static inline __m512i short_dot(__m512i sum, __m512i a, __m512i b) {
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(b, a));
}

static inline __m512i widen(__m512i sum, __m512i short_sum) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(short_sum, _mm512_set1_epi16(1)));
}

#define BLOCK block_code
#define ROWS CODE_ROWS
#define GROUP 4
#define BROADCAST broadcast
#define WIDEN_STEPS CODE_WIDEN_STEPS
#define SHORT_DOT short_dot
#define WIDEN widen
#define VECTORS 2
#define LANES 16
#define SUM __m512i
#define ZERO _mm512_setzero_si512
#define LOAD _mm512_load_si512
#define STORE _mm512_store_si512
#define OPERAND __m512i
#define LOAD_B _mm512_load_si512
#define NUMBER int32_t
#define EPILOGUE epilogue16_int
#define EPILOGUE_NUMBER epilogue_number_int
#define BLOCK_GROUPS block_code_groups
#define GROUP_SUM ints16
#define SET _mm512_set1_epi32
#define ADD_SCALED add_scaled16
#define EPILOGUE_FLOATS epilogue16_floats
#include "kernels/gemm_block_template.h"

/* Wider codes: both operands as 16-bit numbers. */
static inline __m512i dot16(__m512i sum, __m512i a, __m512i b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}

#define BLOCK block_int8
#define ROWS INT8_ROWS
#define GROUP 2
#define BROADCAST broadcast
#define DOT dot16
#define VECTORS 2
#define LANES 16
#define SUM __m512i
#define ZERO _mm512_setzero_si512
#define LOAD _mm512_load_si512
#define STORE _mm512_store_si512
#define OPERAND __m512i
#define LOAD_B _mm512_load_si512
#define NUMBER int32_t
#define EPILOGUE epilogue16_int
#define EPILOGUE_NUMBER epilogue_number_int
#define BLOCK_GROUPS block_int8_groups
#define GROUP_SUM ints16
#define SET _mm512_set1_epi32
#define ADD_SCALED add_scaled16
#define EPILOGUE_FLOATS epilogue16_floats
#include "kernels/gemm_block_template.h"

const struct gemm_engine gemm_code_avx512 = {.rows = CODE_ROWS,
                                             .columns = 2 * PANEL,
                                             .group = 4,
                                             .size = 1,
                                             .k_align = 4,
                                             .kc_bytes = GEMM_KC_BYTES,
                                             .bytes_bias = -128,
                                             .max_range = MAX_RANGE,
                                             .gebp = block_code,
                                             .gebp_groups = block_code_groups,
                                             .pack_a_codes = gemm_pack_a_codes,
                                             .pack_b_packed = gemm_pack_b_packed_avx512};
const struct gemm_engine gemm_int8_avx512 = {.rows = INT8_ROWS,
                                             .columns = 2 * PANEL,
                                             .group = 2,
                                             .size = 2,
                                             .k_align = 2,
                                             .kc_bytes = GEMM_KC_BYTES,
                                             .bytes_bias = 0,
                                             .max_range = 255,
                                             .gebp = block_int8,
                                             .gebp_groups = block_int8_groups,
                                             .pack_a_codes = gemm_pack_a_codes,
                                             .pack_b_packed = gemm_pack_b_packed16_avx2};

#define ENGINE_F32                                                                                                     \
    .rows = F32_ROWS, .columns = 2 * PANEL, .group = 1, .size = 4, .k_align = 1, .kc_bytes = GEMM_KC_BYTES,            \
    .gebp = block_f32, .pack_a = gemm_pack_a_avx512, .pack_a_transposed = gemm_pack_a_transposed_avx512,               \
    .pack_b = gemm_pack_b_avx512, .pack_b_transposed = gemm_pack_b_transposed_avx512,                                  \
    .pack_b_codes = gemm_pack_b_codes_avx512
const struct gemm_engine gemm_f32_avx512 = {ENGINE_F32};
const struct gemm_engine gemm_bf16_avx512 = {ENGINE_F32, .emulates_bf16 = true};

TARGET_END
#endif
