/* AVX-512 F, BW, DQ and VL. */
#include "isa/isa.h"
#include "kernels/kernels_avx512.h"

#if defined(__x86_64__)
enum { NEEDS = DQT_CPU_AVX2 | DQT_CPU_AVX512 };

const struct isa_set isa_avx512 = {
    .name = "avx512",
    .isa = DQT_ISA_AVX512,
    .gemm_code = {NEEDS, &gemm_code_avx512},
    .gemm_int8 = {NEEDS, &gemm_int8_avx512},
    .gemm_bf16 = {NEEDS, &gemm_bf16_avx512},
    .gemm_f32 = {NEEDS, &gemm_f32_avx512},
    .float_dot = {NEEDS, &float_dot_avx512},
    .unpack = {NEEDS, unpack_avx512},
    .quantize = {NEEDS, quantize_avx512},
    .vector = {NEEDS, &vector_kernels_avx512},
    .gradient = {NEEDS, &gradient_kernels_avx512},
    .update = {NEEDS, &update_kernels_avx512},
};
#endif
