/* AVX2 and FMA: 12 vectors of sums, 2 of B, one of A, one to spare. */
typedef int gemm_avx2_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "kernels/gemm_epilogue_avx2.h"
#include "kernels/kernels_avx2.h"
#include "kernels/kernels_scalar.h"

enum { CODE_ROWS = 4, INT8_ROWS = 6, F32_ROWS = 6 };

static inline __m256 load_float(const char *p) {
    return _mm256_loadu_ps((const float *)(const void *)p);
}

static inline __m256 broadcast_float(const char *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_ps(v);
}

static inline __m256 dot_float(__m256 sum, __m256 a, __m256 b) {
    return _mm256_fmadd_ps(a, b, sum);
}

#define BLOCK block_f32
#define ROWS F32_ROWS
#define GROUP 1
#define BROADCAST broadcast_float
#define DOT dot_float
#define VECTORS 2
#define LANES 8
#define SUM __m256
#define ZERO _mm256_setzero_ps
#define LOAD _mm256_load_ps
#define STORE _mm256_store_ps
#define OPERAND __m256
#define LOAD_B load_float
#define NUMBER float
#define EPILOGUE epilogue8_float
#define EPILOGUE_NUMBER epilogue_number_float
#include "kernels/gemm_block_template.h"

/* |u0 x0 + u1 x1| <= 2 * MAX_RANGE * 128, and CODE_WIDEN_STEPS of these fit 16 bits: u, a code without its bias, is 0
 * .. MAX_RANGE. */
enum { CODE_WIDEN_STEPS = 8, MAX_RANGE = INT16_MAX / (2 * 128 * CODE_WIDEN_STEPS) };
static inline __m256i short_dot(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(b, a));
}

static inline __m256i widen(__m256i sum, __m256i short_sum) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(short_sum, _mm256_set1_epi16(1)));
}

#define BLOCK block_code
#define ROWS CODE_ROWS
#define GROUP 4
#define BROADCAST broadcast
#define WIDEN_STEPS CODE_WIDEN_STEPS
#define SHORT_DOT short_dot
#define WIDEN widen
#define VECTORS 2
#define LANES 8
#define SUM __m256i
#define ZERO _mm256_setzero_si256
#define LOAD load_int
#define STORE store_int
#define OPERAND __m256i
#define LOAD_B load_int
#define NUMBER int32_t
#define EPILOGUE epilogue8_int
#define EPILOGUE_NUMBER epilogue_number_int
#define BLOCK_GROUPS block_code_groups
#define GROUP_SUM ints8
#define SET _mm256_set1_epi32
#define ADD_SCALED add_scaled8
#define EPILOGUE_FLOATS epilogue8_floats
#include "kernels/gemm_block_template.h"

/* Wider codes: both operands as 16-bit numbers. */
static inline __m256i dot16(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

#define BLOCK block_int8
#define ROWS INT8_ROWS
#define GROUP 2
#define BROADCAST broadcast
#define DOT dot16
#define VECTORS 2
#define LANES 8
#define SUM __m256i
#define ZERO _mm256_setzero_si256
#define LOAD load_int
#define STORE store_int
#define OPERAND __m256i
#define LOAD_B load_int
#define NUMBER int32_t
#define EPILOGUE epilogue8_int
#define EPILOGUE_NUMBER epilogue_number_int
#define BLOCK_GROUPS block_int8_groups
#define GROUP_SUM ints8
#define SET _mm256_set1_epi32
#define ADD_SCALED add_scaled8
#define EPILOGUE_FLOATS epilogue8_floats
#include "kernels/gemm_block_template.h"

const struct gemm_engine gemm_code_avx2 = {.rows = CODE_ROWS,
                                           .columns = PANEL,
                                           .group = 4,
                                           .size = 1,
                                           .k_align = 4,
                                           .kc_bytes = GEMM_KC_BYTES,
                                           .bytes_bias = -128,
                                           .max_range = MAX_RANGE,
                                           .ternary = &gemm_ternary_avx2,
                                           .gebp = block_code,
                                           .gebp_groups = block_code_groups,
                                           .pack_a_codes = gemm_pack_a_codes_avx2,
                                           .pack_b_packed = gemm_pack_b_packed_avx2};
const struct gemm_engine gemm_int8_avx2 = {.rows = INT8_ROWS,
                                           .columns = PANEL,
                                           .group = 2,
                                           .size = 2,
                                           .k_align = 2,
                                           .kc_bytes = GEMM_KC_BYTES,
                                           .bytes_bias = 0,
                                           .max_range = 255,
                                           .gebp = block_int8,
                                           .gebp_groups = block_int8_groups,
                                           .pack_a_codes = gemm_pack_a_codes16_avx2,
                                           .pack_a_rows = gemm_pack_a_rows16_avx2,
                                           .pack_b_packed = gemm_pack_b_packed16_avx2};

#define ENGINE_F32                                                                                                     \
    .rows = F32_ROWS, .columns = PANEL, .group = 1, .size = 4, .k_align = 1, .kc_bytes = GEMM_KC_BYTES,                \
    .gebp = block_f32, .pack_a = gemm_pack_a_avx2, .pack_a_transposed = gemm_pack_a_transposed, .pack_b = gemm_pack_b, \
    .pack_b_transposed = gemm_pack_b_transposed, .pack_b_codes = gemm_pack_b_codes_avx2
const struct gemm_engine gemm_f32_avx2 = {ENGINE_F32};
const struct gemm_engine gemm_bf16_avx2 = {ENGINE_F32, .emulates_bf16 = true};

TARGET_END
#endif
