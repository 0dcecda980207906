/* NEON with the matrix product instructions of bytes (smmla). */
#include "isa/isa.h"
#include "kernels/kernels_neon_i8mm.h"

#if defined(__aarch64__)
enum { NEEDS = DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD | DQT_CPU_NEON_I8MM };

const struct isa_set isa_neon_i8mm = {
    .name = "neon_i8mm",
    .isa = DQT_ISA_NEON_I8MM,
    .gemm_code = {NEEDS, &gemm_int8_neon_i8mm},
    .gemm_int8 = {NEEDS, &gemm_int8_neon_i8mm},
    .packed_dot = {NEEDS, &packed_dot_neon_i8mm},
};
#endif
