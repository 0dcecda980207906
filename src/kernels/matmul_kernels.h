/* Kernels of products: contracts. */
#ifndef DQT_KERNELS_MATMUL_KERNELS_H
#define DQT_KERNELS_MATMUL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

struct matmul_kernels {
    int reserved;
};

void matmul_kernels_select(struct matmul_kernels *k, int isa, uint64_t features);

#endif
