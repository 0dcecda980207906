/* The kernel table: filled by the scalar set, then overwritten slot by slot by what the instruction set offers.
 * Resolved once, when a context is created. Kernels know nothing of threads, handles or errors. */
#ifndef DQT_KERNELS_KERNELS_H
#define DQT_KERNELS_KERNELS_H

#include <stdint.h>

#include "kernels/gemm_kernels.h"
#include "kernels/update_kernels.h"
#include "kernels/vector_kernels.h"

struct kernels {
    struct gemm_kernels gemm;
    struct vector_kernels vector;
    struct update_kernels update;
};

/* isa: a DQT_ISA_* that the CPU supports; features: DQT_CPU_* bits, for extras within an isa. */
void kernels_select(struct kernels *k, int isa, uint64_t features);

#endif
