/* Kernels of elementwise and row operations: contracts. */
#ifndef DQT_KERNELS_VECTOR_KERNELS_H
#define DQT_KERNELS_VECTOR_KERNELS_H

#include <stddef.h>
#include <stdint.h>

struct vector_kernels {
    int reserved;
};

void vector_kernels_select(struct vector_kernels *k, int isa, uint64_t features);

#endif
