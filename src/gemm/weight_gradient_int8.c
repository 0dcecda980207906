/* Weight gradients by integer products: A is dy^T of a task's rows, rounded to int8 by its lane, B the codes of x;
 * block after block of tokens. */
#include "gemm/gemm_block.h"
#include "kernels/kernels_scalar.h"

enum { COLUMNS = PACK_BLOCK }; /* of B at a time */

/* |code of dy| <= 127 and |code of x| <= 128: a block's sum is exact in int32, and as a float. */
_Static_assert(GRADIENT_TOKENS * 127 * 128 < 1 << 24, "sums of a block are exact");

struct weight_gradient {
    const dqt_context *ctx;
    const struct workspace *ws;
    const struct gemm_engine *e;
    const struct activations *x;
    const float *dy; /* [tokens][ld_dy], `rows` of a row are read */
    size_t ld_dy, rows, task_rows;
    size_t row; /* of the weight: that of dy's first */
    const struct rng *rng;
    int bias; /* of B */
    tile_fn consume;
    void *arg;
};

struct lane_scratch {
    unsigned char *a; /* dy^T: [blocks][e->rows * padded_k] elements, each block in the engine's order */
    unsigned char *b; /* panels of x, COLUMNS columns */
    int8_t *codes;    /* [PACK_BLOCK][rows, rounded up to whole parts] */
    float *tile;      /* [rows][tile_stride] */
    float *factor;    /* [rows]; before, the greatest magnitudes */
    float *step;      /* [rows] */
    int32_t *row_add; /* [rows, rounded up to whole blocks] */
    void *partial;
};

/* Of a task of so many rows, and of a block of so many tokens. */
static void lane_layout(const struct gemm_engine *e, size_t rows, size_t cols, size_t tokens, struct arena *a,
                        struct lane_scratch *s) {
    const size_t padded_k = round_up(size_min(tokens, GRADIENT_TOKENS), PACK_BLOCK);
    rows = size_min(GRADIENT_TASK_ROWS, rows);
    s->a = arena_take(a, round_up(rows, e->rows) * padded_k, e->size);
    s->b = arena_take(a, COLUMNS * padded_k, e->size);
    s->codes = arena_take(a, PACK_BLOCK, round_up(rows, GRADIENT_PART));
    s->tile = arena_take(a, scratch_product(rows, tile_stride(cols)), sizeof(float));
    s->factor = arena_take(a, rows, sizeof(float));
    s->step = arena_take(a, rows, sizeof(float));
    s->row_add = arena_take(a, round_up(rows, e->rows), sizeof(int32_t));
    s->partial = arena_take(a, e->rows * COLUMNS, sizeof(int32_t));
}

void weight_gradient_int8_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                                  struct scratch_need *need) {
    struct arena a = {0};
    struct lane_scratch s;
    lane_layout(&ctx->kernels->gemm.int8, rows, cols, tokens, &a, &s);
    scratch_max(need, 0, scratch_bytes(a.used), 0);
}

/* A of the tokens [first, first + tokens), and the steps of its rows. */
static void round_block(const struct weight_gradient *g, const struct lane_scratch *s, size_t first, size_t tokens,
                        size_t row, size_t rows) {
    const struct gradient_kernels *kernels = &g->ctx->kernels->gradient;
    const struct gemm_engine *e = g->e;
    const size_t padded_k = round_up(tokens, PACK_BLOCK), ld = round_up(rows, GRADIENT_PART);
    const float *dy = g->dy + first * g->ld_dy + row, *scale = g->x->step + first;
    memset(s->factor, 0, rows * sizeof *s->factor);
    for (size_t t = 0; t < tokens; t++)
        kernels->largest_by_row(dy + t * g->ld_dy, scale[t], rows, s->factor);
    for (size_t r = 0; r < rows; r++)
        s->step[r] = gradient_step(s->factor[r], &s->factor[r]);
    memset(s->row_add, 0, round_up(rows, e->rows) * sizeof *s->row_add);
    for (size_t t = 0; t < tokens; t += PACK_BLOCK) {
        const size_t count = size_min(PACK_BLOCK, tokens - t);
        for (size_t i = 0; i < count; i++)
            kernels->round_by_row(dy + (t + i) * g->ld_dy, scale[t + i], s->factor, rows, g->rng, first + t + i,
                                  g->row + row, s->codes + i * ld);
        memset(s->codes + count * ld, 0, (PACK_BLOCK - count) * ld);
        for (size_t i = 0; i < rows; i += e->rows)
            gemm_pack_a_rows(e, s->codes + i, ld, size_min(e->rows, rows - i), PACK_BLOCK,
                             s->a + (i * padded_k + t * e->rows) * e->size, s->row_add + i);
    }
    for (size_t r = 0; r < rows; r++)
        s->row_add[r] = (int32_t)((uint32_t)s->row_add[r] * (uint32_t)g->bias);
}

/* Panels of columns n .. n + count - 1 of x, tokens [first, first + tokens); n is a multiple of COLUMNS, so that 64
 * columns of x are readable. */
static void pack_panels(const struct weight_gradient *g, size_t first, size_t tokens, size_t n, size_t count,
                        unsigned char *b) {
    const struct gemm_engine *e = g->e;
    const struct activations *x = g->x;
    const size_t padded_k = round_up(tokens, PACK_BLOCK), end = round_up(count, e->columns);
    int8_t codes[PACK_BLOCK * COLUMNS];
    for (size_t t = 0; t < tokens; t += PACK_BLOCK) {
        const size_t part = size_min(PACK_BLOCK, tokens - t);
        for (size_t i = 0; i < part; i++)
            memcpy(codes + i * COLUMNS, x->codes + (first + t + i) * x->ld + n, COLUMNS);
        memset(codes + part * COLUMNS, 0, (PACK_BLOCK - part) * COLUMNS);
        for (size_t c = 0; c < end; c += PANEL)
            gemm_pack_b_rows(e, codes + c, COLUMNS, PACK_BLOCK, g->bias, b + (c * padded_k + t * PANEL) * e->size);
    }
}

static void multiply_task(void *arg, size_t task, int lane) {
    const struct weight_gradient *g = arg;
    const struct gemm_engine *e = g->e;
    const struct activations *x = g->x;
    const size_t row = task * g->task_rows, rows = size_min(g->task_rows, g->rows - row), ld = tile_stride(x->cols);
    const struct prefetch none = {NULL, 0};
    struct arena arena = lane_arena(g->ws, lane);
    struct lane_scratch s;
    lane_layout(e, rows, x->cols, x->tokens, &arena, &s);
    for (size_t t = 0; t < x->tokens; t += GRADIENT_TOKENS) {
        const size_t tokens = size_min(GRADIENT_TOKENS, x->tokens - t);
        const struct operand o = {.e = e,
                                  .a = s.a,
                                  .m = rows,
                                  .padded_k = round_up(tokens, PACK_BLOCK),
                                  .row_add = s.row_add,
                                  .row_scale = s.step};
        round_block(g, &s, t, tokens, row, rows);
        block_begin(e);
        for (size_t n = 0; n < x->cols; n += COLUMNS) {
            const size_t count = size_min(COLUMNS, x->cols - n);
            const struct result to = {.y = s.tile + n, .ld_y = ld, .accumulate = t > 0};
            pack_panels(g, t, tokens, n, count, s.b);
            for (size_t i = 0; i < rows; i += e->rows)
                gebp_multiply(&o, i, s.b, count, s.partial, &to, none);
        }
        block_end(e);
    }
    for (size_t i = 0; i < rows; i += GEMM_TILE_ROWS)
        g->consume(g->arg, row + i, size_min(GEMM_TILE_ROWS, rows - i), s.tile + i * ld, ld, lane);
}

void gemm_weight_gradient_int8(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                               size_t row, size_t rows, const struct activations *x, const struct rng *rng,
                               tile_fn consume, void *arg) {
    const struct gemm_engine *e = &ctx->kernels->gemm.int8;
    DQT_ASSERT(x->codes && row % GEMM_TILE_ROWS == 0);
    struct weight_gradient g = {.ctx = ctx,
                                .ws = ws,
                                .e = e,
                                .x = x,
                                .dy = dy,
                                .ld_dy = ld_dy,
                                .rows = rows,
                                .task_rows = task_rows(rows, ctx->num_threads),
                                .row = row,
                                .rng = rng,
                                .bias = panel_bias(e, &plain_bytes),
                                .consume = consume,
                                .arg = arg};
    parallel_run(ctx, ceil_div(rows, g.task_rows), product_work(ctx, true, x->tokens, rows, x->cols), multiply_task,
                 &g);
}
