/* What the products share: blocks of operands and the loop over K.
 *
 * A product is cut in both dimensions, gemm/pieces.h. A piece multiplies the blocks of its rows of A with its panels of
 * B, which stay in L2, KC elements of K at a time (so that KC elements of a block of A, rows * KC * size <= the
 * engine's kc_bytes, stay in L1 while the panels stream from L2). See docs/performance.md. */
#ifndef DQT_GEMM_GEMM_BLOCK_H
#define DQT_GEMM_GEMM_BLOCK_H

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "core/parallel.h"
#include "gemm/gemm.h"
#include "kernels/kernels.h"

enum {
    BLOCK_COLUMNS = 1024,
    BLOCK_BYTES = 1 << 20, /* of B in a piece, of 2 MiB of L2 */
    A_BYTES = 8 << 20,     /* of packed A, unless A_ROWS rows need more */
    A_ROWS = 256,
    STREAM_BYTES = 4 << 20 /* results from this size on are written past the caches */
};

/* Sizes for scratch_need: those that cannot be are too large to allocate, but can still be rounded up. */
static inline size_t scratch_bytes(size_t bytes) {
    return size_min(bytes, SIZE_MAX / 2);
}
static inline size_t scratch_product(size_t a, size_t b) {
    size_t bytes;
    size_mul(a, b, &bytes);
    return scratch_bytes(bytes);
}

/* A of one product, packed block by block. */
struct operand {
    const struct gemm_engine *e;
    const void *a; /* blocks of e->rows rows */
    size_t m, padded_k;
    const int32_t *row_add; /* [m]; NULL: 0. With groups: [blocks][groups][e->rows], or one of `no_row_add` */
    const float *row_scale; /* [m]; NULL: 1 */
    size_t group, groups;   /* of K, each with scales of its own; groups 0: none */
};

/* Bytes that will be read later, to be fetched into L2. */
struct prefetch {
    const void *from;
    size_t bytes;
};

/* The result: y[m][ld_y] of the block's n columns. */
struct result {
    float *y;
    size_t ld_y;
    bool accumulate, stream;  /* as in struct gemm_block */
    const float *col_scale;   /* [n]; NULL: 1 */
    const float *group_scale; /* [n / PANEL][groups][PANEL] */
};

/* For blocks of A that have no sums to add, of any group. */
extern const int32_t no_row_add[GEMM_MAX_ROWS];

/* Rows [i, i + e->rows) of the result from n columns of packed B; i is a multiple of e->rows. `prefetch` is fetched
 * into L2 meanwhile. partial: [e->rows][round_up(n, e->columns)] sums. Between the engine's begin and end. */
void gebp_multiply(const struct operand *o, size_t i, const void *b, size_t n, void *partial, const struct result *to,
                   struct prefetch prefetch);

/* Scales of a row of weights as products see them; 0: one scale, which is multiplied at the end, or floats, which have
 * none whatever their axis. */
static inline size_t scale_groups(size_t cols, size_t group_cols) {
    return group_cols < cols ? cols / group_cols : 0;
}
static inline size_t tensor_scale_groups(const dqt_tensor *w) {
    return format_is_code(w->compute) ? scale_groups(w->cols, tensor_compute_group_cols(w)) : 0;
}

/* For parallel_run: nanoseconds of a product [tokens][cols] x [rows][cols], as measured on one core of 2 GHz
 * (docs/performance.md, tables of forward and gradient products), a third of the rates of large matrices; NEON's are
 * estimates. */
static inline double product_work(const dqt_context *ctx, bool integer, size_t tokens, size_t rows, size_t cols) {
    static const struct {
        int isa;
        double integer, real; /* multiplications per nanosecond */
    } rates[] = {{DQT_ISA_SCALAR, 1, 1},  {DQT_ISA_AVX2, 40, 15}, {DQT_ISA_AVX512, 50, 25},  {DQT_ISA_VNNI, 120, 25},
                 {DQT_ISA_AMX, 500, 100}, {DQT_ISA_NEON, 20, 8},  {DQT_ISA_NEON_I8MM, 40, 8}};
    const double weights = (double)rows * (double)cols;
    double rate = 1;
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        if (rates[i].isa <= ctx->isa) rate = integer ? rates[i].integer : rates[i].real;
    return weights * ((double)tokens / rate + 0.05); /* the weights are unpacked once */
}

static inline void block_begin(const struct gemm_engine *e) {
    if (e->begin) e->begin();
}
static inline void block_end(const struct gemm_engine *e) {
    if (e->end) e->end();
}

/* What gradients are rounded with whose greatest magnitude is `most`: the step of their int8 codes, and the factor that
 * makes `most` 127. Below 2^-119 a step would not be a normal number: such gradients count as 0. What is not finite has
 * a step of NaN. */
static inline float gradient_step(float most, float *factor) {
    const bool zero = most < 0x1p-119f;
    *factor = zero || !isfinite(most) ? 0.0f : 127.0f / most;
    return zero ? 0.0f : isfinite(most) ? most / 127.0f : NAN;
}

/* Floats from a row of a weight gradient to the next: a panel more than needed, since rows a power of two apart fall on
 * the same few cache sets. */
static inline size_t sums_stride(size_t cols) {
    return round_up(cols, PANEL) + PANEL;
}

void weight_gradient_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                             struct scratch_need *need);
void weight_gradient_int8_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                                  struct scratch_need *need);

/* Most tokens that exact products with w take this way: beyond them the engines are faster. */
size_t gemv_exact_tokens(const dqt_context *ctx, const dqt_tensor *w);
/* Forward products of few tokens, any formats; exact ones of at most gemv_exact_tokens. */
void gemv_scratch(const dqt_context *ctx, size_t tokens, size_t cols, struct scratch_need *need);
void gemv_forward(const dqt_context *ctx, const struct workspace *ws, const struct activations *x,
                  const struct gemm_part *part, size_t count, bool accumulate);

#endif
