/* The end of a product, for the kernel files that include it. Products and sums are rounded one by one: the same bits
 * from every instruction set. */
#ifndef DQT_KERNELS_GEMM_EPILOGUE_H
#define DQT_KERNELS_GEMM_EPILOGUE_H

#include <stdatomic.h>

#include "core/assert.h"
#include "kernels/gemm_kernels.h"

/* The block's fields in registers: vector stores may alias anything, so they would be read again for each row. */
struct epilogue {
    float *y; /* [m][ld_y] */
    size_t ld_y;
    const float *row_scale, *col_scale; /* [m], [n]; col_scale NULL: 1 */
    const int32_t *row_add;             /* [m] */
    bool accumulate;
};

static const float epilogue_ones[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* As microkernels load and store B and their sums. */
static inline bool block_is_aligned(const struct gemm_block *b) {
    return ((uintptr_t)b->b | b->panel_stride | (uintptr_t)b->partial) % 64 == 0;
}

static inline struct epilogue epilogue_begin(const struct gemm_block *b) {
    const struct epilogue f = {b->y,         b->ld_y,    b->row_scale ? b->row_scale : epilogue_ones,
                               b->col_scale, b->row_add, b->accumulate};
    return f;
}

static inline void epilogue_one(const struct epilogue *f, size_t i, size_t n, float sum) {
    float *y = f->y + i * f->ld_y + n;
    const float value = sum * (f->row_scale[i] * (f->col_scale ? f->col_scale[n] : 1.0f));
    *y = f->accumulate ? *y + value : value;
}

static inline float epilogue_number_int(const struct epilogue *f, size_t i, int32_t sum) {
    return (float)(int32_t)((uint32_t)sum + (uint32_t)f->row_add[i]);
}

static inline float epilogue_number_float(const struct epilogue *f, size_t i, float sum) {
    (void)f;
    (void)i;
    return sum;
}

#endif
