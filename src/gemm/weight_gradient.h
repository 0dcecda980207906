/* Weight gradients: dW[rows][cols] = dy^T x, by blocks of at most GRADIENT_TOKENS tokens whose sums are added in order.
 * A is dy^T, B is x. What differs between float and integer products is how they are packed. */
#ifndef DQT_GEMM_WEIGHT_GRADIENT_H
#define DQT_GEMM_WEIGHT_GRADIENT_H

#include "gemm/pieces.h"

struct weight_gradient {
    struct pieces p; /* of the rows in flight, one block of tokens, and the columns in flight */
    const struct activations *x;
    const float *dy; /* [tokens][ld_dy], `rows` of a row are read */
    size_t ld_dy, rows;
    size_t row, column;   /* the first in flight */
    size_t first, tokens; /* of the block */
    size_t k_align;       /* to which a block's tokens are padded */
    unsigned char *a;     /* dy^T of the rows in flight */
    float *sums;          /* [rows in flight][sums_stride]: dW */
    tile_fn consume;
    void *arg;

    /* Integer products: */
    bool integer;
    const struct rng *rng;
    size_t weight_row; /* of the weight: that of dy's first */
    int bias;          /* of B */
    float *step;       /* [rows in flight]: what a code stands for */
    int32_t *row_add;  /* [rows in flight, groups padded] */
};

/* Needs ctx, ws, o.e, pack_rows and pack_columns of p, and all from x to arg. */
void weight_gradient_run(struct weight_gradient *g);
/* Of the shared scratch and of pieces' lanes. */
void weight_gradient_need(const dqt_context *ctx, const struct gemm_engine *e, bool integer, size_t tokens, size_t rows,
                          size_t cols, size_t lane_bytes, struct scratch_need *need);

#endif
