/* What the files of AMX offer. */
#ifndef DQT_KERNELS_KERNELS_AMX_H
#define DQT_KERNELS_KERNELS_AMX_H

#include "kernels/gemm_kernels.h"
#include "kernels/vector_kernels.h"

extern const struct gemm_engine gemm_int8_amx; /* for codes below 8 bits too */
extern const struct gemm_engine gemm_bf16_amx;
extern const struct attention_bf16_kernels attention_bf16_amx;

#endif
