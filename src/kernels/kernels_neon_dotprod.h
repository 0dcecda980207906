/* What the files of NEON's dot product instructions offer. */
#ifndef DQT_KERNELS_KERNELS_NEON_DOTPROD_H
#define DQT_KERNELS_KERNELS_NEON_DOTPROD_H

#include "kernels/gemm_kernels.h"

extern const struct gemm_engine gemm_int8_neon_dotprod; /* for codes below 8 bits too */

#endif
