/* AVX2 with AVX-VNNI, as on CPUs without AVX-512. */
#include "isa/isa.h"
#include "kernels/kernels_avx_vnni.h"

#if defined(__x86_64__)
enum { NEEDS = DQT_CPU_AVX2 | DQT_CPU_AVX_VNNI };

const struct isa_set isa_avx_vnni = {
    .name = "avx_vnni",
    .isa = DQT_ISA_AVX_VNNI,
    .gemm_code = {NEEDS, &gemm_int8_avx_vnni},
    .gemm_int8 = {NEEDS, &gemm_int8_avx_vnni},
    .dot_codes = {NEEDS, dot_codes_avx_vnni},
};
#endif
