/* What the products share: sizes of blocks and the loop over them.
 *
 * One item of work is a block of up to BLOCK_COLUMNS columns of the result. Its lane packs the block of B once
 * (bounded by BLOCK_BYTES, so that it stays in L2) and runs every block of packed A past it, KC elements of K at a
 * time (so that the piece of A, rows * KC * size <= A_PIECE, stays in L1 while the panels stream from L2). See
 * docs/performance.md. */
#ifndef DQT_OPS_MATMUL_BLOCK_H
#define DQT_OPS_MATMUL_BLOCK_H

#include "core/parallel.h"
#include "kernels/kernels.h"
#include "ops/matmul.h"

enum {
    BLOCK_COLUMNS = 1024,
    BLOCK_BYTES = 1 << 20, /* of B, of 2 MiB of L2 */
    A_PIECE = 16 << 10,    /* of packed A, of 48 KiB of L1, through which panels of B stream */
    A_BYTES = 8 << 20,     /* of packed A, unless A_ROWS rows need more */
    A_ROWS = 256
};

static inline size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}
static inline size_t most(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Sizes for scratch_need: those that cannot be are too large to allocate, but can still be rounded up. */
static inline size_t scratch_bytes(size_t bytes) {
    return least(bytes, SIZE_MAX / 2);
}
static inline size_t scratch_product(size_t a, size_t b) {
    size_t bytes;
    size_mul(a, b, &bytes);
    return scratch_bytes(bytes);
}

/* A and the result of one product, once packed. */
struct operand {
    const struct matmul_engine *e;
    const void *a; /* blocks of e->rows rows */
    size_t m, padded_k;
    const int32_t *row_add;
    const float *row_scale;
    const void *next; /* bytes to fetch ahead, next_bytes each call; NULL: the next block of A */
    size_t next_bytes;
};

/* One lane's scratch for a block of B. */
struct block_scratch {
    unsigned char *b;
    void *partial;
    float *col_scale;
    void *chunk; /* 64 rows of a block of B before packing, as int8 or float */
};

/* Columns of an item: at most BLOCK_COLUMNS, at most `bytes` of B unless it is `smallest` (which it is a multiple
 * of), and equal shares for the threads. */
size_t block_columns(const struct matmul_engine *e, size_t n, size_t padded_k, size_t smallest, size_t bytes,
                     int threads);
void block_place(const struct matmul_engine *e, size_t padded_k, size_t columns, struct arena *a,
                 struct block_scratch *s);

/* y[m][n] from all of A and a packed block of B with n columns. */
void block_multiply(const struct operand *o, const void *b, size_t n, void *partial, const float *col_scale, float *y,
                    size_t ld_y, bool accumulate);

/* Calls of the kernel that block_multiply makes. */
size_t block_calls(const struct operand *o);

void weight_gradient_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                             struct scratch_need *need);

/* Forward products of at most kernels.few_tokens tokens, any formats. */
void few_scratch(const dqt_context *ctx, size_t tokens, size_t cols, struct scratch_need *need);
void few_forward(const dqt_context *ctx, const struct workspace *ws, const struct activations *x, const dqt_tensor *w,
                 size_t row, size_t rows, bool accumulate, float *y, size_t ld_y);

#endif
