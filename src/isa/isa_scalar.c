/* Plain C: every slot but those of instructions for bf16 and of dot products of packed rows. */
#include "isa/isa.h"
#include "kernels/kernels_scalar.h"

const struct isa_set isa_scalar = {
    .name = "scalar",
    .isa = DQT_ISA_SCALAR,
    .gemm_code = {0, &gemm_code_scalar},
    .gemm_int8 = {0, &gemm_code_scalar},
    .gemm_bf16 = {0, &gemm_bf16_scalar},
    .gemm_f32 = {0, &gemm_f32_scalar},
    .dot_codes = {0, dot_codes_scalar},
    .float_dot = {0, &float_dot_scalar},
    .gemv_max_tokens = {0, 2},
    .unpack = {0, unpack_scalar},
    .quantize = {0, quantize_scalar},
    .vector = {0, &vector_kernels_scalar},
    .gradient = {0, &gradient_kernels_scalar},
    .update = {0, &update_kernels_scalar},
    .search_add = {0, search_add_scalar},
};
