#include "dqt.h"
#include "kernels/gemm_kernels.h"

/* Engines first, then the packing that depends on their layouts. AVX512_BF16 is not used: vdpbf16ps has half the rate
 * of two f32 multiply-adds on the Intel cores that have it (0.125 against 0.249 TFLOP/s measured;
 * docs/performance.md). */
void gemm_kernels_select(struct gemm_kernels *k, int isa, uint64_t features) {
    gemm_scalar_set(k);
#if defined(__x86_64__)
    if (isa < DQT_ISA_AVX2 || isa > DQT_ISA_AMX) return;
    (void)features;
    gemm_avx2_set(k);
    if (isa >= DQT_ISA_AVX512) gemm_avx512_set(k);
    if (isa == DQT_ISA_VNNI) gemm_vnni_set(k);
    if (isa >= DQT_ISA_VNNI) gemv_vnni_set(k);
    if (isa == DQT_ISA_AMX) gemm_amx_set(k);
    unpack_avx2_set(k);
    if (isa >= DQT_ISA_AVX512) unpack_avx512_set(k);
#elif defined(__aarch64__)
    if (isa != DQT_ISA_NEON) return;
    gemm_neon_set(k);
    if (features & DQT_CPU_NEON_DOTPROD) gemm_dotprod_set(k);
    unpack_neon_set(k);
#else
    (void)isa;
    (void)features;
#endif
}
