/* VNNI: 4 bytes of K a step; B is unsigned, A signed; vpdpbusd wraps around, it does not saturate. 28 sums, 2 vectors
 * of B. */
typedef int gemm_vnni_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512_VNNI)
#include "kernels/gemm_epilogue_avx512.h"
#include "kernels/kernels_avx512.h"
#include "kernels/kernels_avx512_vnni.h"
#include "kernels/kernels_scalar.h"

enum { INT8_ROWS = 14 };

static inline __m512i broadcast(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

static inline __m512i dot(__m512i sum, __m512i a, __m512i b) {
    return _mm512_dpbusd_epi32(sum, b, a);
}

#define BLOCK block_int8
#define ROWS INT8_ROWS
#define GROUP 4
#define BROADCAST broadcast
#define DOT dot
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

const struct gemm_engine gemm_int8_avx512_vnni = {.rows = INT8_ROWS,
                                                  .columns = 2 * PANEL,
                                                  .group = 4,
                                                  .size = 1,
                                                  .k_align = 4,
                                                  .kc_bytes = GEMM_KC_BYTES,
                                                  .bytes_bias = -128,
                                                  .max_range = 255,
                                                  .gebp = block_int8,
                                                  .gebp_groups = block_int8_groups,
                                                  .pack_a_codes = gemm_pack_a_codes,
                                                  .pack_b_packed = gemm_pack_b_packed_avx512};

TARGET_END
#endif
