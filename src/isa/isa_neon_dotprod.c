/* NEON with the dot product instructions (sdot). */
#include "isa/isa.h"
#include "kernels/kernels_neon_dotprod.h"

#if defined(__aarch64__)
enum { NEEDS = DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD };

const struct isa_set isa_neon_dotprod = {
    .name = "neon_dotprod",
    .isa = DQT_ISA_NEON_DOTPROD,
    .gemm_code = {NEEDS, &gemm_int8_neon_dotprod},
    .gemm_int8 = {NEEDS, &gemm_int8_neon_dotprod},
    .packed_dot = {NEEDS, &packed_dot_neon_dotprod},
    .dot_groups = {NEEDS, dot_groups_neon_dotprod},
    .dot_codes = {NEEDS, dot_codes_neon_dotprod},
};
#endif
