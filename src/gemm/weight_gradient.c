/* Weight gradients: dW[rows][cols] = dy^T x. A is dy^T of a task's rows, packed by its lane; B is x. Engines with
 * gepb share its panels, packed once, and run all of A past a few of them at a time; the others pack it block by
 * block in each lane. */
#include "gemm/gemm_block.h"

enum { A_TOKENS = 32 }; /* read at a time: each may be on a page of its own, and prefetchers follow some 32 pages */

struct weight_gradient {
    const dqt_context *ctx;
    const struct workspace *ws;
    const struct gemm_engine *e;
    const struct activations *x;
    const float *dy; /* [tokens][ld_dy], `rows` of a row are read */
    size_t ld_dy, rows, task_rows, padded_k, columns;
    size_t ld_tile;
    unsigned char *shared; /* panels of x; NULL: packed by lanes */
    atomic_uint *state;    /* of each block of columns of `shared` */
    tile_fn consume;
    void *arg;
};

struct lane_scratch {
    unsigned char *a; /* dy^T: [blocks][e->rows * padded_k] elements, each block in the engine's order */
    float *tile;      /* [task_rows][ld_tile] */
    void *partial;    /* gepb: sums of all rows of A times one group of panels */
    struct block_scratch block;
};

static bool shares_panels(const struct gemm_engine *e) {
    return e->gepb;
}

static void lane_layout(const struct gemm_engine *e, size_t rows, size_t cols, size_t padded_k, size_t columns,
                        struct arena *a, struct lane_scratch *s) {
    rows = size_min(GRADIENT_TASK_ROWS, rows);
    s->a = arena_take(a, scratch_product(round_up(rows, e->rows), padded_k), e->size);
    s->tile = arena_take(a, scratch_product(rows, tile_stride(cols)), sizeof(float));
    s->partial = shares_panels(e) ? arena_take(a, round_up(rows, e->rows) * e->columns, sizeof(float)) : NULL;
    s->block.done = arena_take(a, ceil_div(cols, PACK_BLOCK), 1);
    block_layout(e, shares_panels(e) ? 0 : padded_k, 0, columns, a, &s->block);
}

static void shared_layout(struct weight_gradient *g, size_t cols, size_t column_bytes, struct arena *a) {
    g->state = arena_take(a, ceil_div(cols, PACK_BLOCK), sizeof *g->state);
    g->shared = arena_take(a, scratch_product(round_up(cols, PACK_BLOCK), column_bytes), 1);
}

void weight_gradient_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                             struct scratch_need *need) {
    const struct gemm_engine *const engines[] = {&ctx->kernels->gemm.bf16, &ctx->kernels->gemm.f32};
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        const struct gemm_engine *e = engines[i];
        const size_t padded_k = round_up(tokens, e->k_align);
        struct arena a = {0};
        struct lane_scratch s;
        lane_layout(e, rows, cols, padded_k, 0, &a, &s);
        block_layout(e, 0, 0, BLOCK_COLUMNS, &a, &s.block);
        const size_t column_bytes = scratch_product(padded_k, e->size);
        if (!shares_panels(e))
            arena_take(&a,
                       size_min(scratch_product(BLOCK_COLUMNS, column_bytes),
                                size_max(BLOCK_BYTES, scratch_product(PACK_BLOCK, column_bytes))),
                       1);
        struct weight_gradient g = {.e = e};
        struct arena shared = {0};
        if (shares_panels(e)) shared_layout(&g, cols, column_bytes, &shared);
        scratch_max(need, scratch_bytes(shared.used), scratch_bytes(a.used), 0);
    }
}

/* Panels of columns n .. n + count - 1 of x; n is a multiple of 64, count of the engine's columns except at the end. By
 * blocks of 64 tokens x 64 columns: the panels of a block share its lines, which would displace each other in L1 where
 * they lie a power of two apart, hence the copy. */
static void pack_panels(const struct weight_gradient *g, size_t n, size_t count, unsigned char *b) {
    const struct gemm_engine *e = g->e;
    const struct activations *x = g->x;
    const size_t panels_end = round_up(count, e->columns);
    int8_t codes[PACK_BLOCK * PACK_BLOCK];
    for (size_t t = 0; t < x->tokens; t += PACK_BLOCK) {
        const size_t tokens = size_min(PACK_BLOCK, x->tokens - t);
        for (size_t c = 0; c < panels_end; c += PANEL) {
            unsigned char *out = b + (c * g->padded_k + t * PANEL) * e->size;
            if (x->codes) {
                for (size_t i = 0; c % PACK_BLOCK == 0 && i < tokens; i++) /* n + c + 64 <= round_up(cols, 64) <= ld */
                    memcpy(codes + i * PACK_BLOCK, x->codes + (t + i) * x->ld + n + c, PACK_BLOCK);
                e->pack_b_codes(e, codes + c % PACK_BLOCK, PACK_BLOCK, tokens, NULL, 0, out);
            } else {
                const size_t from = size_min(n + c, x->cols);
                e->pack_b(e, x->floats + t * x->ld + from, x->ld, size_min(PANEL, x->cols - from), tokens, out);
            }
        }
    }
}

/* Columns n .. n + count - 1 of the task's tile from their panels b. */
static void multiply_part(const struct operand *o, const unsigned char *b, size_t n, size_t count,
                          const struct lane_scratch *s, size_t ld_tile, struct prefetch prefetch) {
    const struct gemm_engine *e = o->e;
    if (!e->gepb) {
        const struct result to = {.y = s->tile + n, .ld_y = ld_tile};
        for (size_t i = 0; i < o->m; i += e->rows)
            gebp_multiply(o, i, b, count, s->block.partial, &to, prefetch);
        return;
    }
    prefetch.bytes /= ceil_div(count, e->columns);
    for (size_t c = 0; c < count; c += e->columns) {
        const struct result to = {.y = s->tile + n + c, .ld_y = ld_tile};
        gepb_multiply(o, b + c * o->padded_k * e->size, size_min(e->columns, count - c), s->partial, &to, prefetch);
        if (prefetch.bytes) prefetch.from = (const unsigned char *)prefetch.from + prefetch.bytes;
    }
}

static void multiply_task(void *arg, size_t task, int lane) {
    const struct weight_gradient *g = arg;
    const struct gemm_engine *e = g->e;
    const struct activations *x = g->x;
    const size_t row = task * g->task_rows, rows = size_min(g->task_rows, g->rows - row), ld = g->ld_tile;
    struct arena arena = lane_arena(g->ws, lane);
    struct lane_scratch s;
    lane_layout(e, g->rows, x->cols, g->padded_k, g->columns, &arena, &s);
    for (size_t t = 0; t < x->tokens; t += A_TOKENS) /* a token's row of dy is read whole: 256 rows are 1 KiB */
        for (size_t i = 0; i < rows; i += e->rows)
            e->pack_a_transposed(e, g->dy + t * g->ld_dy + row + i, g->ld_dy, size_min(e->rows, rows - i),
                                 size_min(A_TOKENS, x->tokens - t), x->codes ? x->step + t : NULL,
                                 s.a + (i * g->padded_k + t * e->rows) * e->size);
    const struct operand o = {.e = e, .a = s.a, .m = rows, .padded_k = g->padded_k};
    const size_t panel_bytes = g->padded_k * e->size, parts = ceil_div(x->cols, g->columns);
    struct pack_queue w = pack_queue_begin(g->state, s.block.done, parts, lane, g->ctx->num_threads);
    size_t part;
    bool pack;
    block_begin(e);
    while (pack_queue_next(&w, &part, &pack)) {
        const size_t n = part * g->columns, next = w.index * g->columns, count = size_min(g->columns, x->cols - n);
        unsigned char *b = g->shared ? g->shared + n * panel_bytes : s.block.b;
        if (pack) {
            pack_panels(g, n, count, b);
            pack_queue_packed(&w, part);
        }
        struct prefetch prefetch = {NULL, 0}; /* A stays in L2: the panels that follow */
        if (g->shared && pack_queue_is_packed(&w, w.index))
            prefetch =
                (struct prefetch){g->shared + next * panel_bytes, size_min(g->columns, x->cols - next) * panel_bytes};
        multiply_part(&o, b, n, count, &s, ld, prefetch);
    }
    block_end(e);
    for (size_t i = 0; i < rows; i += GEMM_TILE_ROWS)
        g->consume(g->arg, row + i, size_min(GEMM_TILE_ROWS, rows - i), s.tile + i * ld, ld, lane);
}

void gemm_weight_gradient(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                          size_t rows, const struct activations *x, int precision, tile_fn consume, void *arg) {
    const struct gemm_kernels *kernels = &ctx->kernels->gemm;
    struct weight_gradient g = {.ctx = ctx,
                                .ws = ws,
                                .x = x,
                                .dy = dy,
                                .ld_dy = ld_dy,
                                .rows = rows,
                                .task_rows = task_rows(rows, ctx->num_threads),
                                .consume = consume,
                                .arg = arg,
                                .ld_tile = tile_stride(x->cols)};
    g.e = precision == DQT_PRECISION_BF16 ? &kernels->bf16 : &kernels->f32;
    g.padded_k = round_up(x->tokens, g.e->k_align);
    g.columns = block_columns(x->cols, g.padded_k * g.e->size, PACK_BLOCK, BLOCK_BYTES / 8, 1); /* A stays in L2 */
    if (shares_panels(g.e)) {
        struct arena shared = shared_arena(ws);
        shared_layout(&g, x->cols, g.padded_k * g.e->size, &shared);
        pack_queue_reset(g.state, ceil_div(x->cols, g.columns));
    }
    parallel_run(ctx, ceil_div(rows, g.task_rows), product_work(ctx, false, x->tokens, rows, x->cols), multiply_task,
                 &g);
}
