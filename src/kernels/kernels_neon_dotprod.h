/* What the files of NEON's dot product instructions offer. */
#ifndef DQT_KERNELS_KERNELS_NEON_DOTPROD_H
#define DQT_KERNELS_KERNELS_NEON_DOTPROD_H

#include "kernels/gemm_kernels.h"

extern const struct gemm_engine gemm_int8_neon_dotprod; /* for codes below 8 bits too */
permute_for_dot_fn permute_for_dot_neon_dotprod;
dot_packed_fn dot_packed_neon_dotprod;
dot_packed_tokens_fn dot_packed_tokens_neon_dotprod;
extern const struct packed_dot_kernels packed_dot_neon_dotprod;
dot_groups_fn dot_groups_neon_dotprod;
dot_codes_fn dot_codes_neon_dotprod;

#endif
