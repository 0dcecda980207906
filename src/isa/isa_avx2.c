/* AVX2 with FMA. */
#include "isa/isa.h"
#include "kernels/kernels_avx2.h"

#if defined(__x86_64__)
enum { NEEDS = DQT_CPU_AVX2 };

const struct isa_set isa_avx2 = {
    .name = "avx2",
    .isa = DQT_ISA_AVX2,
    .gemm_code = {NEEDS, &gemm_code_avx2},
    .gemm_int8 = {NEEDS, &gemm_int8_avx2},
    .gemm_bf16 = {NEEDS, &gemm_bf16_avx2},
    .gemm_f32 = {NEEDS, &gemm_f32_avx2},
    .packed_dot = {NEEDS, &packed_dot_avx2},
    .dot_groups = {NEEDS, dot_groups_avx2},
    .dot_codes = {NEEDS, dot_codes_avx2},
    .float_dot = {NEEDS, &float_dot_avx2},
    .unpack = {NEEDS, unpack_avx2},
    .quantize = {NEEDS, quantize_avx2},
    .vector = {NEEDS, &vector_kernels_avx2},
    .gradient = {NEEDS, &gradient_kernels_avx2},
    .update = {NEEDS, &update_kernels_avx2},
    .search_add = {NEEDS, search_add_avx2},
    .fast_int8_backward = {NEEDS, true}, /* and of all stronger sets */
};
#endif
