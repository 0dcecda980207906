/* Weight gradients by integer products: A is dy^T rounded to int8, B the codes of x. */
#include "gemm/weight_gradient.h"
#include "kernels/kernels_scalar.h"

/* |code of dy| <= 127 and |code of x| <= 128: a block's sum is exact in int32, and as a float. */
_Static_assert(GRADIENT_TOKENS * 127 * 128 < 1 << 24, "sums of a block are exact");

enum { MOST_ROWS = 4 * GEMM_TILE_ROWS }; /* of a group */

struct rounding_scratch {
    int8_t *codes; /* [PACK_BLOCK][rows, rounded up to whole parts] */
    float *factor; /* [rows]; before, the greatest magnitudes */
};

static struct rounding_scratch rounding_layout(struct arena *a) {
    struct rounding_scratch s;
    s.codes = arena_take(a, PACK_BLOCK, round_up(MOST_ROWS, GRADIENT_PART));
    s.factor = arena_take(a, MOST_ROWS, sizeof(float));
    return s;
}

void weight_gradient_int8_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                                  struct scratch_need *need) {
    struct arena lane = {0};
    rounding_layout(&lane);
    weight_gradient_need(ctx, &ctx->kernels->gemm.int8, true, tokens, rows, cols, lane.used, need);
}

/* The block's tokens, and the steps of the group's rows. */
static void pack_rows(void *arg, size_t group, void *scratch) {
    const struct weight_gradient *g = arg;
    const struct gradient_kernels *kernels = &g->p.ctx->kernels->gradient;
    const struct gemm_engine *e = g->p.o.e;
    const size_t row = group * g->p.rows, rows = size_min(g->p.rows, g->p.o.m - row);
    const size_t padded_k = g->p.o.padded_k, padded = group * g->p.padded_rows, ld = round_up(rows, GRADIENT_PART);
    const float *dy = g->dy + g->first * g->ld_dy + g->row + row, *scale = g->x->step + g->first;
    unsigned char *a = g->a + padded * padded_k * e->size;
    int32_t *row_add = g->row_add + padded;
    pack_a_rows_fn *pack = e->pack_a_rows ? e->pack_a_rows : gemm_pack_a_rows;
    struct arena lane = {.base = scratch};
    const struct rounding_scratch s = rounding_layout(&lane);
    memset(s.factor, 0, rows * sizeof *s.factor);
    for (size_t t = 0; t < g->tokens; t++)
        kernels->largest_by_row(dy + t * g->ld_dy, scale[t], rows, s.factor);
    for (size_t r = 0; r < rows; r++)
        g->step[row + r] = gradient_step(s.factor[r], &s.factor[r]);
    memset(row_add, 0, round_up(rows, e->rows) * sizeof *row_add);
    for (size_t t = 0; t < g->tokens; t += PACK_BLOCK) {
        const size_t count = size_min(PACK_BLOCK, g->tokens - t);
        for (size_t i = 0; i < count; i++)
            kernels->round_by_row(dy + (t + i) * g->ld_dy, scale[t + i], s.factor, rows, g->rng, g->first + t + i,
                                  g->weight_row + g->row + row, s.codes + i * ld);
        memset(s.codes + count * ld, 0, (PACK_BLOCK - count) * ld);
        for (size_t i = 0; i < rows; i += e->rows)
            pack(e, s.codes + i, ld, size_min(e->rows, rows - i), PACK_BLOCK,
                 a + (i * padded_k + t * e->rows) * e->size, row_add + i);
    }
    for (size_t r = 0; r < rows; r++)
        row_add[r] = (int32_t)((uint32_t)row_add[r] * (uint32_t)g->bias);
}

/* By blocks of 64 columns: so many are readable of a row of x. */
static void pack_columns(void *arg, size_t n, size_t count, void *scratch) {
    const struct weight_gradient *g = arg;
    const struct gemm_engine *e = g->p.o.e;
    const struct activations *x = g->x;
    const size_t padded_k = g->p.o.padded_k, end = round_up(count, e->columns);
    int8_t codes[PACK_BLOCK * PACK_BLOCK];
    (void)scratch;
    for (size_t t = 0; t < g->tokens; t += PACK_BLOCK) {
        const size_t part = size_min(PACK_BLOCK, g->tokens - t);
        for (size_t c = 0; c < end; c += PANEL) {
            for (size_t i = 0; c % PACK_BLOCK == 0 && i < part; i++)
                memcpy(codes + i * PACK_BLOCK, x->codes + (g->first + t + i) * x->ld + g->column + n + c, PACK_BLOCK);
            if (c % PACK_BLOCK == 0) memset(codes + part * PACK_BLOCK, 0, (PACK_BLOCK - part) * PACK_BLOCK);
            gemm_pack_b_rows(e, codes + c % PACK_BLOCK, PACK_BLOCK, PACK_BLOCK, g->bias,
                             g->p.b + ((n + c) * padded_k + t * PANEL) * e->size);
        }
    }
}

void gemm_weight_gradient_int8(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                               size_t row, size_t rows, const struct activations *x, const struct rng *rng,
                               tile_fn consume, void *arg) {
    const struct gemm_engine *e = &ctx->kernels->gemm.int8;
    DQT_ASSERT(x->codes && row % GEMM_TILE_ROWS == 0);
    struct weight_gradient g = {
        .p = {.ctx = ctx, .ws = ws, .o = {.e = e}, .pack_rows = pack_rows, .pack_columns = pack_columns},
        .x = x,
        .dy = dy,
        .ld_dy = ld_dy,
        .rows = rows,
        .k_align = PACK_BLOCK,
        .consume = consume,
        .arg = arg,
        .integer = true,
        .rng = rng,
        .weight_row = row,
        .bias = panel_bias(e, &plain_bytes)};
    weight_gradient_run(&g);
}
