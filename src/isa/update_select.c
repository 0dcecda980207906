/* Which instance of the updater's kernels an instruction set gets. AArch64 has NEON in its baseline, so the scalar file
 * is already compiled to vectors there. */
#include "dqt.h"
#include "kernels/update_isa.h"

void update_kernels_select(struct update_kernels *k, int isa, uint64_t features) {
    (void)features;
    k->row = update_row_scalar;
    k->sum_squares = update_sum_squares_scalar;
    k->add_squares = update_add_squares_scalar;
#if defined(__x86_64__)
    if (isa >= DQT_ISA_AVX2) {
        k->row = update_row_avx2;
        k->sum_squares = update_sum_squares_avx2;
        k->add_squares = update_add_squares_avx2;
    }
    if (isa >= DQT_ISA_AVX512) {
        k->row = update_row_avx512;
        k->sum_squares = update_sum_squares_avx512;
        k->add_squares = update_add_squares_avx512;
    }
#else
    (void)isa;
#endif
}
