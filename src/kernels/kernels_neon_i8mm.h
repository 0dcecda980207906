/* What the files of NEON's matrix product instructions offer. */
#ifndef DQT_KERNELS_KERNELS_NEON_I8MM_H
#define DQT_KERNELS_KERNELS_NEON_I8MM_H

#include "kernels/gemm_kernels.h"

extern const struct gemm_engine gemm_int8_neon_i8mm; /* for codes below 8 bits too */
extern const struct packed_dot_kernels packed_dot_neon_i8mm;

#endif
