/* What the files of AVX2 with FMA offer. */
#ifndef DQT_KERNELS_KERNELS_AVX2_H
#define DQT_KERNELS_KERNELS_AVX2_H

#include "format/scale.h"
#include "kernels/gemm_kernels.h"
#include "kernels/update_kernels.h"
#include "kernels/vector_kernels.h"

pack_a_codes_fn gemm_pack_a_codes_avx2;     /* [K / 4][4][4] bytes */
pack_a_codes_fn gemm_pack_a_codes16_avx2;   /* [K / 2][6][2] 16-bit numbers */
pack_a_rows_fn gemm_pack_a_rows16_avx2;     /* the same */
pack_a_fn gemm_pack_a_avx2;                 /* [K][6] floats */
pack_b_packed_fn gemm_pack_b_packed_avx2;   /* [K / 4][16][4] bytes */
pack_b_packed_fn gemm_pack_b_packed16_avx2; /* [K / 2][16][2] 16-bit numbers, INT8 only */
pack_b_codes_fn gemm_pack_b_codes_avx2;     /* to f32 */

extern const struct gemm_engine gemm_code_avx2, gemm_ternary_avx2, gemm_int8_avx2, gemm_bf16_avx2, gemm_f32_avx2;
dot_packed_tokens_fn dot_packed_tokens_avx2;
extern const struct packed_dot_kernels packed_dot_avx2;
dot_groups_fn dot_groups_avx2;
dot_codes_fn dot_codes_avx2;
extern const struct float_dot_kernels float_dot_avx2;
unpack_fn unpack_avx2;
quantize_fn quantize_avx2;
extern const struct vector_kernels vector_kernels_avx2;
extern const struct update_kernels update_kernels_avx2;
search_add_fn search_add_avx2;

#endif
