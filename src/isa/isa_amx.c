/* AMX. Operands are packed with AVX-512, its VNNI (sums of codes) and its BF16 (rounding). */
#include "isa/isa.h"
#include "kernels/kernels_amx.h"
#include "kernels/kernels_avx512_vnni.h"

#if defined(__x86_64__) && !defined(_WIN32)
enum {
    AVX512 = DQT_CPU_AVX2 | DQT_CPU_AVX512,
    NEEDS_INT8 = AVX512 | DQT_CPU_AVX512_VNNI | DQT_CPU_AMX_INT8,
    NEEDS_BF16 = AVX512 | DQT_CPU_AVX512_BF16 | DQT_CPU_AMX_BF16
};

const struct isa_set isa_amx = {
    .name = "amx",
    .isa = DQT_ISA_AMX,
    .gemm_code = {NEEDS_INT8, &gemm_int8_amx},
    .gemm_int8 = {NEEDS_INT8, &gemm_int8_amx},
    .gemm_bf16 = {NEEDS_BF16, &gemm_bf16_amx},
    .packed_dot = {NEEDS_INT8, &packed_dot_avx512_vnni_amx},
    .gemv_max_tokens = {NEEDS_INT8, 4},
    .attention_bf16 = {NEEDS_BF16, &attention_bf16_amx},
    .fast_bf16 = {NEEDS_BF16, true},
};
#endif
