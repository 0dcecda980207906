#include "kernels/vector_kernels.h"

#include "dqt.h"

void vector_kernels_select(struct vector_kernels *k, int isa, uint64_t features) {
    (void)features; /* no extras within an instruction set */
    k->bf16 = (struct attention_bf16_kernels){0};
    vector_kernels_scalar(k);
#if defined(__x86_64__)
    if (isa >= DQT_ISA_AVX512 && isa <= DQT_ISA_AMX)
        vector_kernels_avx512(k);
    else if (isa == DQT_ISA_AVX2)
        vector_kernels_avx2(k);
    if (isa == DQT_ISA_AMX) vector_kernels_amx(k);
#elif defined(__aarch64__)
    if (isa == DQT_ISA_NEON) vector_kernels_neon(k);
#else
    (void)isa;
#endif
}
