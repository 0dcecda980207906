/* Products of activations with weights, forward and both backward directions.
 *
 * Shapes: x[tokens][cols], w[rows][cols] (rows = outputs), y[tokens][rows]. All functions may be given a range of
 * weight rows [row, row + rows). Results do not depend on the number of threads. Nothing is allocated: scratch comes
 * from the workspace, sized by gemm_scratch. Source: design section 4; docs/numerics.md. */
#ifndef DQT_GEMM_GEMM_H
#define DQT_GEMM_GEMM_H

#include "core/memory.h"
#include "format/tensor.h"

/* Activations (made by ops/activations.h): either int8 codes with one step per token (x = code * step[t]), or floats.
 */
struct activations {
    size_t tokens, cols;
    const int8_t *codes; /* [tokens][ld], ld a multiple of 64 >= cols, zero from cols on; NULL: floats */
    const float *step;   /* [tokens] */
    const float *floats; /* [tokens][ld] */
    size_t ld;
};

/* Scratch that covers every function below for at most these sizes; group_cols as tensor_compute_group_cols has it. */
void gemm_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols, size_t group_cols,
                  struct scratch_need *need);
/* What the integer products of backward need beyond that. */
void gemm_int8_gradient_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                                struct scratch_need *need);

/* The `gemv_tokens` of a product of so many tokens of one pass: all of them, or none. */
size_t gemm_gemv_tokens(const dqt_context *ctx, size_t tokens);

/* y[t][r] = x[t] . W[row + r]; y has leading dimension ld_y; accumulate adds to y. precision: DQT_PRECISION_F32 or BF16
 * (resolved; only read for float activations). Integer activations with integer compute format: exact int32 sums, then
 * (float)sum * (step[t] * scale[r]); with scales of groups step[t] * (sum over groups of (float)sum * scale[r][group]),
 * in order. Integer activations with float compute format, or the reverse: float products, with scales of groups of
 * weights as floats, scale * code.
 * There are two kinds of kernels, for few tokens and for many, whose float sums have different orders; with both a
 * token's bits do not depend on the other tokens. Float products of the first `gemv_tokens` tokens are of the first
 * kind, those of the others of the second; exact products choose by speed. */
void gemm_forward(const dqt_context *ctx, const struct workspace *ws, const struct activations *x, size_t gemv_tokens,
                  const dqt_tensor *w, size_t row, size_t rows, int precision, bool accumulate, float *y, size_t ld_y);

/* The same for several ranges of rows of one x, y being set: few tokens with weights of one format are one job of the
 * lanes. At most GEMM_MOST_PARTS. */
enum { GEMM_MOST_PARTS = 3 };
struct gemm_part {
    const dqt_tensor *w;
    size_t row, rows;
    float *y;
    size_t ld_y;
};
void gemm_forward_parts(const dqt_context *ctx, const struct workspace *ws, const struct activations *x,
                        size_t gemv_tokens, const struct gemm_part *part, size_t count, int precision);

/* dx[t][c] = sum_r dy[t][r] * W[row + r][c]; dy has leading dimension ld_dy; dx[tokens][w->cols] dense. The row scale
 * is folded into dy before it is rounded to bf16, so that codes enter exactly; with scales of groups W is scale * code,
 * rounded. */
void gemm_input_gradient(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                         size_t tokens, const dqt_tensor *w, size_t row, size_t rows, int precision, bool accumulate,
                         float *dx);

/* The same by integer products, of a weight whose compute format is codes with one scale a row: dy times the row scales
 * is rounded stochastically to int8, with a step for each token, kernels/gradient_kernels.h; dx = (float)sum * step,
 * where the sums are exact. `row` is a multiple of GEMM_TILE_ROWS; rows * 127 * the codes' greatest magnitude is below
 * 2^31. Identical on every instruction set. A token that is not finite comes out NaN. */
void gemm_input_gradient_int8(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                              size_t tokens, const dqt_tensor *w, size_t row, size_t rows, const struct rng *rng,
                              bool accumulate, float *dx);

/* dW[r][c] = sum_t dy[t][r] * x[t][c], made in tiles of whole rows in a lane's scratch and handed to `consume` there,
 * at most GEMM_TILE_ROWS rows at a time, tile boundaries at multiples of GEMM_TILE_ROWS (whatever the thread
 * count). consume may change the tile and use workspace_consumer(ws, lane); it runs on several lanes at once for
 * different rows. Token steps are folded into dy before it is rounded to bf16, so that codes enter exactly. */
enum { GEMM_TILE_ROWS = 64 };
typedef void (*tile_fn)(void *arg, size_t row, size_t rows, float *tile, size_t ld, int lane);
void gemm_weight_gradient(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                          size_t rows, const struct activations *x, int precision, tile_fn consume, void *arg);

/* The same by integer products, x being codes: dy times the tokens' steps is rounded stochastically to int8, with a
 * step for each row of dW in each block of GRADIENT_TOKENS tokens; dW = sum over blocks, in order, of (float)sum *
 * step, where a block's sum is exact. Row 0 of dy and dW is row `row`, a multiple of GEMM_TILE_ROWS, of the weight:
 * random numbers depend on it. Identical on every instruction set. */
enum { GRADIENT_TOKENS = 1024 };
void gemm_weight_gradient_int8(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                               size_t row, size_t rows, const struct activations *x, const struct rng *rng,
                               tile_fn consume, void *arg);

#endif
