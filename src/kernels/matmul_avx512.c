/* AVX-512: f32 with fused multiply-add; int8 for CPUs without VNNI. */
typedef int matmul_avx512_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <string.h>

#include "kernels/matmul_finish_avx512.h"

static inline __m512 broadcast_float(const char *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_ps(v);
}

static inline __m512 dot_float(__m512 sum, __m512 a, __m512 b) {
    return _mm512_fmadd_ps(a, b, sum);
}

#define BLOCK block_f32
#define ROWS 14
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
#define FINISH finish16_float
#define FINISH_NUMBER finish_number_float
#include "kernels/matmul_block_template.h"

static inline __m512i broadcast(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* Codes below 8 bits: u <= 15, so |u0 x0 + u1 x1| <= 2 * 15 * 128 and 8 of them fit 16 bits. */
static inline __m512i short_dot(__m512i sum, __m512i a, __m512i b) {
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(b, a));
}

static inline __m512i widen(__m512i sum, __m512i short_sum) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(short_sum, _mm512_set1_epi16(1)));
}

#define BLOCK block_code
#define ROWS 12
#define GROUP 4
#define BROADCAST broadcast
#define WIDEN_STEPS 8
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
#define FINISH finish16_int
#define FINISH_NUMBER finish_number_int
#include "kernels/matmul_block_template.h"

/* INT8: both operands as 16-bit numbers. */
static inline __m512i dot16(__m512i sum, __m512i a, __m512i b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}

#define BLOCK block_int8
#define ROWS 12
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
#define FINISH finish16_int
#define FINISH_NUMBER finish_number_int
#include "kernels/matmul_block_template.h"

void matmul_avx512_set(struct matmul_kernels *k) {
    k->code.rows = 12;
    k->code.columns = 32;
    k->code.group = 4;
    k->code.size = 1;
    k->code.k_unit = 4;
    k->code.block = block_code;
    k->int8 = k->code;
    k->int8.group = 2;
    k->int8.size = 2;
    k->int8.k_unit = 2;
    k->int8.int8_bias = 0;
    k->int8.block = block_int8;
    k->f32.rows = 14;
    k->f32.columns = 32;
    k->f32.block = block_f32;
    k->bf16 = k->f32;
    k->bf16.rounded = true;
}
#endif
