/* Kernels of the updater: contracts. */
#ifndef DQT_KERNELS_UPDATE_KERNELS_H
#define DQT_KERNELS_UPDATE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

struct update_kernels {
    int reserved;
};

void update_kernels_select(struct update_kernels *k, int isa, uint64_t features);

#endif
