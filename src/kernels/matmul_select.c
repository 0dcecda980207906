#include "dqt.h"
#include "kernels/matmul_kernels.h"

void matmul_kernels_select(struct matmul_kernels *k, int isa, uint64_t features) {
    (void)isa;
    (void)features;
    matmul_scalar_set(k);
}
