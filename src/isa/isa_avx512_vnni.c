/* AVX-512 with VNNI. No kernel uses AVX512_BF16: vdpbf16ps has half the rate of two f32 multiply-adds on the Intel
 * cores that have it (0.125 against 0.249 TFLOP/s measured; docs/performance.md). It only says that bf16 is meant to be
 * used. */
#include "isa/isa.h"
#include "kernels/kernels_avx512_vnni.h"

#if defined(__x86_64__)
enum { NEEDS = DQT_CPU_AVX2 | DQT_CPU_AVX512 | DQT_CPU_AVX512_VNNI };

const struct isa_set isa_avx512_vnni = {
    .name = "avx512_vnni",
    .isa = DQT_ISA_VNNI,
    .gemm_code = {NEEDS, &gemm_int8_avx512_vnni},
    .gemm_int8 = {NEEDS, &gemm_int8_avx512_vnni},
    .packed_dot = {NEEDS, &packed_dot_avx512_vnni},
    .dot_codes = {NEEDS, dot_codes_avx512_vnni},
    .gemv_max_tokens = {NEEDS, 6},
    .fast_bf16 = {NEEDS | DQT_CPU_AVX512_BF16, true},
};
#endif
