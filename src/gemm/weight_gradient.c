#include "gemm/weight_gradient.h"

enum {
    A_TOKENS = 32, /* read at a time: each may be on a page of its own, and prefetchers follow some 32 pages */
    MOST_ROWS = 4 * GEMM_TILE_ROWS, /* of a group */
    LANE_ROWS = 4 * GEMM_TILE_ROWS, /* in flight for each lane */
    BLOCKS_ROWS = 1024,     /* in flight at least, if there are several blocks: x is packed again for the next rows */
    COLUMNS_BYTES = 8 << 20 /* of x in flight at least */
};

static size_t rows_in_flight(const dqt_context *ctx, size_t tokens, size_t rows) {
    const size_t lanes = (size_t)ctx->num_threads * LANE_ROWS;
    return size_min(rows, tokens > GRADIENT_TOKENS ? size_max(lanes, BLOCKS_ROWS) : lanes);
}

static size_t columns_in_flight(const dqt_context *ctx, size_t cols, size_t column_bytes) {
    return pieces_columns(cols, column_bytes, (int)size_max((size_t)ctx->num_threads, COLUMNS_BYTES / BLOCK_BYTES));
}

static void shared_layout(struct weight_gradient *g, size_t tokens, size_t cols, struct arena *a) {
    const struct gemm_engine *e = g->p.o.e;
    const size_t padded_k = round_up(size_min(tokens, GRADIENT_TOKENS), g->k_align);
    const size_t rows = rows_in_flight(g->p.ctx, tokens, g->rows);
    const size_t padded_rows = ceil_div(rows, GEMM_TILE_ROWS) * round_up(GEMM_TILE_ROWS, e->rows);
    const size_t columns = columns_in_flight(g->p.ctx, cols, padded_k * e->size);
    pieces_layout(&g->p, rows, columns, GEMM_TILE_ROWS, a);
    g->step = arena_take(a, g->integer ? rows : 0, sizeof(float));
    g->row_add = arena_take(a, g->integer ? padded_rows : 0, sizeof(int32_t));
    g->a = arena_take(a, scratch_product(padded_rows, padded_k), e->size);
    g->p.b = arena_take(a, scratch_product(round_up(columns, PACK_BLOCK), padded_k), e->size);
    g->sums = arena_take(a, scratch_product(rows, sums_stride(cols)), sizeof(float));
}

void weight_gradient_need(const dqt_context *ctx, const struct gemm_engine *e, bool integer, size_t tokens, size_t rows,
                          size_t cols, size_t lane_bytes, struct scratch_need *need) {
    struct weight_gradient g = {.p = {.ctx = ctx, .o = {.e = e}}, .rows = rows, .integer = integer};
    struct arena shared = {0};
    g.k_align = integer ? PACK_BLOCK : e->k_align;
    shared_layout(&g, tokens, cols, &shared);
    scratch_max(need, scratch_bytes(shared.used), 0, 0);
    pieces_lane_scratch(e, lane_bytes, need);
}

void weight_gradient_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                             struct scratch_need *need) {
    weight_gradient_need(ctx, &ctx->kernels->gemm.bf16, false, tokens, rows, cols, 0, need);
    weight_gradient_need(ctx, &ctx->kernels->gemm.f32, false, tokens, rows, cols, 0, need);
}

static void consume_tile(void *arg, size_t row, size_t rows, int lane) {
    const struct weight_gradient *g = arg;
    const size_t ld = g->p.to.ld_y;
    g->consume(g->arg, g->row + row, rows, g->sums + row * ld, ld, lane);
}

/* One block of tokens of the columns in flight. */
static void run_block(struct weight_gradient *g) {
    struct operand *o = &g->p.o;
    g->p.to.y = g->sums + g->column;
    g->p.to.accumulate = g->first > 0;
    const bool last = g->first + g->tokens == g->x->tokens && g->column + g->p.n == g->x->cols;
    pieces_run(&g->p, last, product_work(g->p.ctx, g->integer, g->tokens, o->m, g->p.n));
}

void weight_gradient_run(struct weight_gradient *g) {
    struct pieces *p = &g->p;
    const struct gemm_engine *e = p->o.e;
    const size_t tokens = g->x->tokens, cols = g->x->cols;
    const size_t longest = round_up(size_min(tokens, GRADIENT_TOKENS), g->k_align) * e->size;
    const size_t columns = columns_in_flight(p->ctx, cols, longest);
    const size_t rows = rows_in_flight(p->ctx, tokens, g->rows), blocks = ceil_div(tokens, GRADIENT_TOKENS);
    struct arena shared = shared_arena(p->ws);
    shared_layout(g, tokens, cols, &shared);
    p->arg = g;
    p->consume = consume_tile;
    p->tile_rows = GEMM_TILE_ROWS;
    p->to.ld_y = sums_stride(cols);
    p->o.a = g->a;
    if (g->integer) {
        p->o.row_add = g->row_add;
        p->o.row_scale = g->step;
    }
    p->o.m = rows;
    p->n = columns;
    /* A lane that is alone can take many rows at a time, of which fewer fill a last block in vain. */
    const size_t step = p->ctx->num_threads == 1 && GEMM_TILE_ROWS % e->rows != 0 ? MOST_ROWS : GEMM_TILE_ROWS;
    pieces_cut(p, step, MOST_ROWS, longest, e->size < 4 ? BLOCK_BYTES / 2 : BLOCK_BYTES / 4);
    const size_t parts = cols / columns * ceil_div(columns, p->columns) + ceil_div(cols % columns, p->columns);
    for (g->row = 0; g->row < g->rows; g->row += rows) {
        p->o.m = size_min(rows, g->rows - g->row);
        pieces_expect(p, blocks * parts);
        for (g->first = 0; g->first < tokens; g->first += GRADIENT_TOKENS) {
            g->tokens = size_min(GRADIENT_TOKENS, tokens - g->first);
            p->o.padded_k = round_up(g->tokens, g->k_align);
            pieces_new_rows(p);
            for (g->column = 0; g->column < cols; g->column += columns) {
                p->n = size_min(columns, cols - g->column);
                if (g->row == 0 || blocks > 1 || columns < cols) pieces_new_columns(p);
                run_block(g);
            }
        }
    }
}

/* ---- Float products ------------------------------------------------------------------------------------------ */

static void pack_rows(void *arg, size_t group, void *scratch) {
    const struct weight_gradient *g = arg;
    const struct gemm_engine *e = g->p.o.e;
    const size_t first = group * g->p.rows, rows = size_min(g->p.rows, g->p.o.m - first), padded_k = g->p.o.padded_k;
    const float *dy = g->dy + g->first * g->ld_dy + g->row + first;
    unsigned char *a = g->a + group * g->p.padded_rows * padded_k * e->size;
    (void)scratch;
    for (size_t t = 0; t < g->tokens; t += A_TOKENS)
        for (size_t i = 0; i < rows; i += e->rows)
            e->pack_a_transposed(e, dy + t * g->ld_dy + i, g->ld_dy, size_min(e->rows, rows - i),
                                 size_min(A_TOKENS, g->tokens - t), g->x->codes ? g->x->step + g->first + t : NULL,
                                 a + (i * padded_k + t * e->rows) * e->size);
}

/* By blocks of 64 tokens x 64 columns: the panels of a block share its lines, which would displace each other in L1
 * where they lie a power of two apart, hence the copy. */
static void pack_columns(void *arg, size_t n, size_t count, void *scratch) {
    const struct weight_gradient *g = arg;
    const struct gemm_engine *e = g->p.o.e;
    const struct activations *x = g->x;
    const size_t end = round_up(count, e->columns), padded_k = g->p.o.padded_k, column = g->column + n;
    int8_t codes[PACK_BLOCK * PACK_BLOCK];
    (void)scratch;
    for (size_t t = 0; t < g->tokens; t += PACK_BLOCK) {
        const size_t tokens = size_min(PACK_BLOCK, g->tokens - t), token = g->first + t;
        for (size_t c = 0; c < end; c += PANEL) {
            unsigned char *out = g->p.b + ((n + c) * padded_k + t * PANEL) * e->size;
            if (x->codes) {
                for (size_t i = 0; c % PACK_BLOCK == 0 && i < tokens; i++) /* column + c + 64 <= ld */
                    memcpy(codes + i * PACK_BLOCK, x->codes + (token + i) * x->ld + column + c, PACK_BLOCK);
                e->pack_b_codes(e, codes + c % PACK_BLOCK, PACK_BLOCK, tokens, NULL, 0, out);
            } else {
                const size_t from = size_min(column + c, x->cols);
                e->pack_b(e, x->floats + token * x->ld + from, x->ld, size_min(PANEL, x->cols - from), tokens, out);
            }
        }
    }
}

void gemm_weight_gradient(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                          size_t rows, const struct activations *x, int precision, tile_fn consume, void *arg) {
    const struct gemm_kernels *kernels = &ctx->kernels->gemm;
    const struct gemm_engine *e = precision == DQT_PRECISION_BF16 ? &kernels->bf16 : &kernels->f32;
    struct weight_gradient g = {
        .p = {.ctx = ctx, .ws = ws, .o = {.e = e}, .pack_rows = pack_rows, .pack_columns = pack_columns},
        .x = x,
        .dy = dy,
        .ld_dy = ld_dy,
        .rows = rows,
        .k_align = e->k_align,
        .consume = consume,
        .arg = arg};
    weight_gradient_run(&g);
}
