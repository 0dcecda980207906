/* What the files in plain C offer: the specification, and every slot that no instruction set fills. */
#ifndef DQT_KERNELS_KERNELS_SCALAR_H
#define DQT_KERNELS_KERNELS_SCALAR_H

#include "format/scale.h"
#include "kernels/gemm_kernels.h"
#include "kernels/update_kernels.h"
#include "kernels/vector_kernels.h"

/* Packing for any engine. */
pack_a_codes_fn gemm_pack_a_codes;
pack_a_rows_fn gemm_pack_a_rows;
pack_b_rows_fn gemm_pack_b_rows;
pack_b_packed_fn gemm_pack_b_packed;
pack_a_fn gemm_pack_a, gemm_pack_a_transposed;
pack_b_fn gemm_pack_b, gemm_pack_b_transposed;
pack_b_codes_fn gemm_pack_b_codes;

extern const struct gemm_engine gemm_code_scalar, gemm_bf16_scalar, gemm_f32_scalar;
dot_codes_fn dot_codes_scalar;
extern const struct float_dot_kernels float_dot_scalar;
unpack_fn unpack_scalar;
quantize_fn quantize_scalar;
extern const struct vector_kernels vector_kernels_scalar;
extern const struct update_kernels update_kernels_scalar;
search_add_fn search_add_scalar;

#endif
