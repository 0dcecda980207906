/* AVX512_BF16: pairs of bf16 summed in f32 (denormals count as zero). */
typedef int matmul_bf16_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <string.h>

#include "kernels/matmul_finish_avx512.h"

static inline __m512i broadcast(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

static inline __m512 dot(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)b, (__m512bh)a);
}

#define BLOCK block_bf16
#define ROWS 14
#define GROUP 2
#define BROADCAST broadcast
#define DOT dot
#define OPERAND __m512i
#define LOAD_B _mm512_load_si512
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

void matmul_bf16_set(struct matmul_kernels *k) {
    k->bf16.rows = 14;
    k->bf16.columns = 32;
    k->bf16.group = 2;
    k->bf16.size = 2;
    k->bf16.k_unit = 2;
    k->bf16.rounded = false;
    k->bf16.block = block_bf16;
}
#endif
