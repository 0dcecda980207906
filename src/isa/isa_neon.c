/* NEON, which every AArch64 CPU has. */
#include "isa/isa.h"
#include "kernels/kernels_neon.h"

#if defined(__aarch64__)
enum { NEEDS = DQT_CPU_NEON };

const struct isa_set isa_neon = {
    .name = "neon",
    .isa = DQT_ISA_NEON,
    .gemm_code = {NEEDS, &gemm_int8_neon},
    .gemm_int8 = {NEEDS, &gemm_int8_neon},
    .gemm_bf16 = {NEEDS, &gemm_bf16_neon},
    .gemm_f32 = {NEEDS, &gemm_f32_neon},
    .packed_dot = {NEEDS, &packed_dot_neon},
    .dot_groups = {NEEDS, dot_groups_neon},
    .dot_codes = {NEEDS, dot_codes_neon},
    .float_dot = {NEEDS, &float_dot_neon},
    .unpack = {NEEDS, unpack_neon},
    .quantize = {NEEDS, quantize_neon},
    .vector = {NEEDS, &vector_kernels_neon},
};
#endif
