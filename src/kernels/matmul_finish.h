/* The end of a product, for the kernel files that include it. Products and sums are rounded one by one: the same bits
 * from every instruction set. */
#ifndef DQT_KERNELS_MATMUL_FINISH_H
#define DQT_KERNELS_MATMUL_FINISH_H

#include "kernels/matmul_kernels.h"

/* The block's fields in registers: vector stores may alias anything, so they would be read again for each row. */
struct finish {
    float *y;
    size_t ld_y;
    const float *row_scale, *col_scale; /* col_scale NULL: 1 */
    const int32_t *row_add;
    bool accumulate;
};

static const float finish_ones[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                      1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static inline struct finish finish_begin(const struct matmul_block *b) {
    const struct finish f = {b->y,       b->ld_y,      b->row_scale ? b->row_scale : finish_ones,
                             b->col_scale, b->row_add, b->accumulate};
    return f;
}

static inline void finish_one(const struct finish *f, size_t i, size_t n, float sum) {
    float *y = f->y + i * f->ld_y + n;
    const float value = sum * (f->row_scale[i] * (f->col_scale ? f->col_scale[n] : 1.0f));
    *y = f->accumulate ? *y + value : value;
}

static inline float finish_number_int(const struct finish *f, size_t i, int32_t sum) {
    return (float)(int32_t)((uint32_t)sum + (uint32_t)f->row_add[i]);
}

static inline float finish_number_float(const struct finish *f, size_t i, float sum) {
    (void)f;
    (void)i;
    return sum;
}

#endif
