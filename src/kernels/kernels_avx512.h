/* What the files of AVX-512 (F, BW, DQ, VL) offer. */
#ifndef DQT_KERNELS_KERNELS_AVX512_H
#define DQT_KERNELS_KERNELS_AVX512_H

#include "kernels/gemm_kernels.h"
#include "kernels/update_kernels.h"
#include "kernels/vector_kernels.h"

pack_b_packed_fn gemm_pack_b_packed_avx512; /* [K / 4][16][4] bytes, INT8 plus 128 */
pack_b_packed_fn gemm_pack_b_signed_avx512; /* for engines of signed codes */
/* For f32 engines of at most 16 rows. */
pack_a_fn gemm_pack_a_avx512, gemm_pack_a_transposed_avx512;
pack_b_fn gemm_pack_b_avx512, gemm_pack_b_transposed_avx512;
pack_b_codes_fn gemm_pack_b_codes_avx512, gemm_pack_b_codes_bf16_avx512;

extern const struct gemm_engine gemm_code_avx512, gemm_int8_avx512, gemm_bf16_avx512, gemm_f32_avx512;
extern const struct float_dot_kernels float_dot_avx512;
unpack_fn unpack_avx512;
quantize_fn quantize_avx512;
extern const struct vector_kernels vector_kernels_avx512;
extern const struct update_kernels update_kernels_avx512;

#endif
