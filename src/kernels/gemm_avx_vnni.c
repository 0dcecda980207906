/* AVX-VNNI: 4 bytes of K a step; B is unsigned, A signed; vpdpbusd wraps around, it does not saturate. 12 vectors of
 * sums, 2 of B, one of A, one to spare. */
typedef int gemm_avx_vnni_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX_VNNI)
#include "kernels/gemm_epilogue_avx2.h"
#include "kernels/kernels_avx2.h"
#include "kernels/kernels_avx_vnni.h"
#include "kernels/kernels_scalar.h"

enum { INT8_ROWS = 6 };

static inline __m256i dot(__m256i sum, __m256i a, __m256i b) {
    return _mm256_dpbusd_avx_epi32(sum, b, a);
}

#define BLOCK block_int8
#define ROWS INT8_ROWS
#define GROUP 4
#define BROADCAST broadcast
#define DOT dot
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

/* a is made unsigned; 128 times the sum of b is taken away again. Wrap-around is exact. */
int32_t dot_codes_avx_vnni(const int8_t *a, const int8_t *b, size_t n) {
    DQT_ASSERT(n % 32 == 0);
    const __m256i flip = _mm256_set1_epi8((char)0x80);
    __m256i s0 = _mm256_setzero_si256(), s1 = s0;
    for (size_t i = 0; i < n; i += 32) {
        const __m256i y = load_int(b + i);
        s0 = _mm256_dpbusd_avx_epi32(s0, _mm256_xor_si256(load_int(a + i), flip), y);
        s1 = _mm256_dpbusd_avx_epi32(s1, flip, y);
    }
    return sum_ints(_mm256_sub_epi32(s0, s1));
}

const struct gemm_engine gemm_int8_avx_vnni = {.rows = INT8_ROWS,
                                               .columns = PANEL,
                                               .group = 4,
                                               .size = 1,
                                               .k_align = 4,
                                               .kc_bytes = GEMM_KC_BYTES,
                                               .bytes_bias = -128,
                                               .max_range = 255,
                                               .gebp = block_int8,
                                               .gebp_groups = block_int8_groups,
                                               .pack_a_codes = gemm_pack_a_codes,
                                               .pack_b_packed = gemm_pack_b_packed_avx2};

TARGET_END
#endif
