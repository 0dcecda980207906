#include "dqt.h"
#include "kernels/matmul_kernels.h"

/* Engines first, then the packing that depends on their layouts. */
void matmul_kernels_select(struct matmul_kernels *k, int isa, uint64_t features) {
    (void)features;
    matmul_scalar_set(k);
#if defined(__x86_64__)
    if (isa == DQT_ISA_AMX) matmul_amx_set(k);
    if (isa >= DQT_ISA_AVX512 && isa <= DQT_ISA_AMX) unpack_avx512_set(k);
#endif
}
