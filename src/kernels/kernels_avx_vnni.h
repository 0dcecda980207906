/* What the files of AVX-VNNI (256-bit vectors, without AVX-512) offer. */
#ifndef DQT_KERNELS_KERNELS_AVX_VNNI_H
#define DQT_KERNELS_KERNELS_AVX_VNNI_H

#include "kernels/gemm_kernels.h"

extern const struct gemm_engine gemm_int8_avx_vnni; /* for codes below 8 bits too */
dot_codes_fn dot_codes_avx_vnni;

#endif
