#include "kernels/kernels.h"

void kernels_select(struct kernels *k, int isa, uint64_t features) {
    gemm_kernels_select(&k->gemm, isa, features);
    vector_kernels_select(&k->vector, isa, features);
    update_kernels_select(&k->update, isa, features);
}
