/* What the files of NEON offer. The updater needs none: plain C is compiled to NEON. */
#ifndef DQT_KERNELS_KERNELS_NEON_H
#define DQT_KERNELS_KERNELS_NEON_H

#include "kernels/gemm_kernels.h"
#include "kernels/vector_kernels.h"

pack_b_packed_fn gemm_pack_b_packed_neon; /* bytes or 16-bit numbers */
pack_b_codes_fn gemm_pack_b_codes_neon;   /* to f32 */

extern const struct gemm_engine gemm_int8_neon; /* for codes below 8 bits too */
extern const struct gemm_engine gemm_bf16_neon, gemm_f32_neon;
permute_for_dot_fn permute_for_dot_neon;
dot_packed_fn dot_packed_neon;
dot_packed_tokens_fn dot_packed_tokens_neon;
extern const struct packed_dot_kernels packed_dot_neon;
dot_groups_fn dot_groups_neon;
dot_codes_fn dot_codes_neon;
extern const struct float_dot_kernels float_dot_neon;
unpack_fn unpack_neon;
quantize_fn quantize_neon;
extern const struct vector_kernels vector_kernels_neon;

#endif
