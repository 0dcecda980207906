/* What the files of AVX-512 VNNI offer. */
#ifndef DQT_KERNELS_KERNELS_AVX512_VNNI_H
#define DQT_KERNELS_KERNELS_AVX512_VNNI_H

#include "kernels/gemm_kernels.h"

extern const struct gemm_engine gemm_int8_avx512_vnni; /* for codes below 8 bits too */
dot_packed_tokens_fn dot_packed_tokens_avx512_vnni;
extern const struct packed_dot_kernels packed_dot_avx512_vnni, packed_dot_avx512_vnni_amx;
dot_codes_fn dot_codes_avx512_vnni;

#endif
