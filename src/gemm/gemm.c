#include "gemm/gemm.h"

#include "gemm/pieces.h"
#include "kernels/kernels_scalar.h"

/* A forward product or an input gradient. Shared scratch: packed A of a chunk of tokens, packed B of as many columns as
 * fit, what belongs to rows and columns, states of pieces. */
struct product {
    struct pieces p;             /* of the chunk and the columns in flight */
    const struct activations *x; /* forward */
    const float *dy;             /* input gradient: [tokens][ld_dy], k of a row are read */
    size_t ld_dy;
    const dqt_tensor *w;
    size_t row, k, n;
    size_t first, column; /* token of the chunk, first column in flight */
    unsigned char *a;     /* [blocks][e->rows * padded_k] elements, each block in the engine's order */
    int32_t *row_add;     /* [tokens], those of the chunk; [blocks][groups][e->rows] with groups */
    float *k_scale;       /* [k]; NULL: 1 */
    float *col_scale;     /* [columns in flight] */
    float *group_scale;   /* [columns in flight / PANEL][groups][PANEL] */
    bool rounds;          /* input gradient of dy as int8 codes: */
    float *step;          /* [tokens]: what a code of dy stands for */
    const struct rng *rng;
    int bias;
    float *y; /* [tokens][ld_y], n of a row are written */
};

enum { MOST_GROUP = 8, SCRATCH = 4 * PACK_BLOCK * PACK_BLOCK * sizeof(float) }; /* blocks of a group; of a lane */

/* Tokens of a chunk of A. */
static size_t chunk_tokens(const struct gemm_engine *e, size_t padded_k) {
    return round_up(size_max(A_BYTES / (padded_k * e->size), A_ROWS), e->rows);
}

/* Bytes of a column of B. */
static size_t column_bytes(const struct operand *o, size_t padded_k) {
    return scratch_bytes(scratch_product(padded_k, o->e->size) + o->groups * sizeof(float));
}

/* For `tokens` x k times k x n, k padded; a_bytes of packed A. */
static void shared_layout(struct product *p, size_t tokens, size_t padded_k, size_t a_bytes, struct arena *a) {
    const struct operand *o = &p->p.o;
    const size_t columns = round_up(pieces_columns(p->n, column_bytes(o, padded_k), p->p.ctx->num_threads), PACK_BLOCK);
    pieces_layout(&p->p, tokens, p->n, o->e->rows, a);
    p->row_add = arena_take(a, scratch_product(round_up(tokens, o->e->rows), size_max(o->groups, 1)), sizeof(int32_t));
    p->k_scale = arena_take(a, p->k, sizeof(float));
    p->step = arena_take(a, p->rounds ? tokens : 0, sizeof(float));
    p->col_scale = arena_take(a, columns, sizeof(float));
    p->group_scale = arena_take(a, scratch_product(columns, o->groups), sizeof(float));
    p->p.b = arena_take(a, scratch_product(columns, scratch_product(padded_k, o->e->size)), 1);
    p->a = arena_take(a, a_bytes, 1);
}

/* Covers every product with at most these tokens, k and n: all that is bounded here grows with them. */
static void product_scratch(const dqt_context *ctx, const struct gemm_engine *e, size_t tokens, size_t k, size_t n,
                            size_t groups, bool rounds, struct scratch_need *need) {
    struct product p = {.p = {.ctx = ctx, .o = {.e = e, .groups = groups}}, .k = k, .n = n, .rounds = rounds};
    struct arena shared = {0};
    const size_t padded_k = round_up(k, PACK_BLOCK), row_bytes = scratch_product(padded_k, e->size);
    const size_t all = scratch_product(round_up(tokens, e->rows), row_bytes); /* or a chunk, rounded up to a block */
    const size_t chunk =
        size_max(A_BYTES + scratch_product(e->rows, row_bytes), scratch_product(A_ROWS + e->rows, row_bytes));
    shared_layout(&p, tokens, padded_k, size_min(all, chunk), &shared);
    scratch_max(need, scratch_bytes(shared.used), 0, 0);
    pieces_lane_scratch(e, SCRATCH, need);
}

void gemm_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols, size_t group_cols,
                  struct scratch_need *need) {
    const struct gemm_kernels *k = &ctx->kernels->gemm;
    const size_t groups = scale_groups(cols, group_cols);
    product_scratch(ctx, &k->code, tokens, cols, rows, groups, false, need);
    if (k->code.ternary) product_scratch(ctx, k->code.ternary, tokens, cols, rows, 0, false, need);
    product_scratch(ctx, &k->int8, tokens, cols, rows, groups, false, need);
    product_scratch(ctx, &k->bf16, tokens, cols, rows, 0, false, need);
    product_scratch(ctx, &k->bf16, tokens, rows, cols, 0, false, need);
    product_scratch(ctx, &k->f32, tokens, cols, rows, 0, false, need);
    product_scratch(ctx, &k->f32, tokens, rows, cols, 0, false, need);
    gemv_scratch(ctx, tokens, cols, need);
    weight_gradient_scratch(ctx, tokens, rows, cols, need);
}

void gemm_int8_gradient_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols,
                                struct scratch_need *need) {
    const struct gemm_kernels *k = &ctx->kernels->gemm;
    product_scratch(ctx, &k->code, tokens, rows, cols, 0, true, need);
    if (k->code.ternary) product_scratch(ctx, k->code.ternary, tokens, rows, cols, 0, true, need);
    product_scratch(ctx, &k->int8, tokens, rows, cols, 0, true, need);
    weight_gradient_int8_scratch(ctx, tokens, rows, cols, need);
}

/* ---- A ---- */

/* Codes of activations; `sums` [e->rows], or [groups][e->rows], become what the engine adds to its own sums. */
static void pack_codes(const struct product *p, size_t i, size_t m, unsigned char *out, int32_t *sums) {
    const struct operand *o = &p->p.o;
    const struct gemm_engine *e = o->e;
    const struct activations *x = p->x;
    const int8_t *codes = x->codes + (p->first + i) * x->ld;
    const bool by_group = o->groups && p->bias != 0;
    const size_t parts = by_group ? o->groups : 1, depth = by_group ? o->group : o->padded_k;
    memset(sums, 0, parts * e->rows * sizeof *sums);
    for (size_t g = 0; g < parts; g++)
        e->pack_a_codes(e, codes + g * depth, x->ld, m, depth, out + g * depth * e->rows * e->size, sums + g * e->rows);
    for (size_t r = 0; r < parts * e->rows; r++)
        sums[r] = (int32_t)((uint32_t)sums[r] * (uint32_t)p->bias);
}

/* dy of m tokens times the row scales, rounded to codes[m][depth] at a time. */
static void pack_rounded(const struct product *p, size_t i, size_t m, unsigned char *out, int8_t *codes) {
    const struct gradient_kernels *kernels = &p->p.ctx->kernels->gradient;
    const struct gemm_engine *e = p->p.o.e;
    const size_t t = p->first + i, depth = 2 * PACK_BLOCK;
    int32_t *sums = p->row_add + i;
    float factor[GEMM_MAX_ROWS];
    for (size_t r = 0; r < m; r++)
        p->step[t + r] = gradient_step(kernels->largest(p->dy + (t + r) * p->ld_dy, p->k_scale, p->k), &factor[r]);
    memset(sums, 0, e->rows * sizeof *sums);
    for (size_t k = 0; k < p->k; k += depth) {
        const size_t count = size_min(depth, p->k - k);
        for (size_t r = 0; r < m; r++)
            kernels->round(p->dy + (t + r) * p->ld_dy + k, p->k_scale + k, factor[r], count, p->rng, t + r, p->row + k,
                           codes + r * depth);
        e->pack_a_codes(e, codes, depth, m, round_up(count, PACK_BLOCK), out + k * e->rows * e->size, sums);
    }
    for (size_t r = 0; r < e->rows; r++)
        sums[r] = (int32_t)((uint32_t)sums[r] * (uint32_t)p->bias);
}

static void pack_block(const struct product *p, size_t i, void *scratch) {
    const struct operand *o = &p->p.o;
    const struct gemm_engine *e = o->e;
    const struct activations *x = p->x;
    const size_t m = size_min(e->rows, o->m - i), t = p->first + i;
    unsigned char *out = p->a + i * o->padded_k * e->size;
    float *chunk = scratch;
    if (p->rounds) {
        pack_rounded(p, i, m, out, scratch);
    } else if (p->dy) {
        e->pack_a(e, p->dy + t * p->ld_dy, p->ld_dy, m, p->k, p->k_scale, out);
    } else if (!x->codes) {
        e->pack_a(e, x->floats + t * x->ld, x->ld, m, p->k, NULL, out);
    } else if (o->row_add) {
        pack_codes(p, i, m, out, p->row_add + i * size_max(o->groups, 1));
    } else {
        for (size_t k = 0; k < p->k; k += PACK_BLOCK) {
            for (size_t r = 0; r < m; r++)
                for (size_t c = 0; c < PACK_BLOCK; c++)
                    chunk[r * PACK_BLOCK + c] = (float)x->codes[(t + r) * x->ld + k + c];
            e->pack_a(e, chunk, PACK_BLOCK, m, size_min(PACK_BLOCK, p->k - k), NULL, out + k * e->rows * e->size);
        }
    }
}

static size_t rows_of_group(const struct product *p, size_t group) {
    return size_min(p->p.rows, p->p.o.m - group * p->p.rows);
}

static void pack_rows(void *arg, size_t group, void *scratch) {
    const struct product *p = arg;
    for (size_t i = 0; i < rows_of_group(p, group); i += p->p.o.e->rows)
        pack_block(p, group * p->p.rows + i, scratch);
}

/* What the group's first block is packed from. */
static struct prefetch source(void *arg, size_t group) {
    const struct product *p = arg;
    const size_t t = p->first + group * p->p.rows, rows = size_min(p->p.o.e->rows, rows_of_group(p, group));
    if (p->dy) return (struct prefetch){p->dy + t * p->ld_dy, rows * p->ld_dy * sizeof *p->dy};
    if (p->x->codes) return (struct prefetch){p->x->codes + t * p->x->ld, rows * p->x->ld};
    return (struct prefetch){p->x->floats + t * p->x->ld, rows * p->x->ld * sizeof(float)};
}

/* ---- B ---- */

/* Scales of the groups of columns n .. n + 15, [groups][16]; beyond the last column zeros. */
static void panel_scales(const struct product *p, size_t n, float *out) {
    const size_t groups = p->p.o.groups, count = n < p->n ? size_min(PANEL, p->n - n) : 0;
    float scales[PACK_BLOCK];
    memset(out, 0, groups * PANEL * sizeof *out);
    for (size_t i = 0; i < count; i++) {
        for (size_t g = 0; g < groups; g += PACK_BLOCK) {
            const size_t part = size_min(PACK_BLOCK, groups - g);
            tensor_read_compute_scales(p->w, p->row + n + i, g, part, scales);
            for (size_t j = 0; j < part; j++)
                out[(g + j) * PANEL + i] = scales[j];
        }
    }
}

/* Whether B holds codes: of float products with scales of groups it holds scale * code. */
static bool holds_codes(const struct product *p) {
    return format_is_code(p->w->compute) && (p->p.o.row_add || !tensor_scale_groups(p->w));
}

/* Columns n .. n + 15 of B are weight rows; beyond the last one it is repeated. */
static void forward_panel(const struct product *p, size_t n, unsigned char *panel, void *chunk) {
    const struct gemm_engine *e = p->p.o.e;
    const dqt_tensor *w = p->w;
    n = size_min(n, p->n - 1);
    const size_t count = size_min(PANEL, p->n - n), row = p->row + n;
    const bool code = holds_codes(p);
    const struct packing *packing = w->compute == w->storage ? format_packing(w->storage) : NULL;
    if (p->p.o.row_add && packing) {
        e->pack_b_packed(e, packing, tensor_row(w, row), w->row_bytes, count, p->p.o.padded_k / PACK_BLOCK, panel);
        return;
    }
    for (size_t k = 0; k < p->k; k += PACK_BLOCK) {
        unsigned char *out = panel + k * PANEL * e->size;
        const size_t depth = size_min(PACK_BLOCK, p->k - k);
        int8_t codes[PACK_BLOCK] = {0};
        for (size_t i = 0; i < count; i++) {
            if (!code) {
                tensor_read_floats(w, row + i, k, depth, (float *)chunk + i * PACK_BLOCK);
                continue;
            }
            if (packing) {
                const size_t offset = k / PACK_BLOCK * packing_block_bytes(packing);
                p->p.ctx->kernels->gemm.unpack(packing, tensor_row(w, row + i) + offset, 1, codes);
            } else {
                tensor_read_codes(w, row + i, k, depth, codes);
            }
            if (p->p.o.row_add) {
                memcpy((int8_t *)chunk + i * PACK_BLOCK, codes, PACK_BLOCK);
            } else {
                for (size_t c = 0; c < depth; c++)
                    ((float *)chunk)[i * PACK_BLOCK + c] = (float)codes[c];
            }
        }
        if (p->p.o.row_add) {
            e->pack_b_packed(e, &plain_bytes, chunk, PACK_BLOCK, count, 1, out);
        } else {
            e->pack_b_transposed(e, chunk, PACK_BLOCK, count, depth, out);
        }
    }
}

/* Columns n .. n + count - 1 of B are columns of the weight, its rows are K. n is a multiple of 64. */
static void input_gradient_panels(const struct product *p, size_t n, size_t count, unsigned char *b, void *chunk) {
    const struct gemm_engine *e = p->p.o.e;
    const dqt_tensor *w = p->w;
    const size_t width = round_up(count, PACK_BLOCK), panel_stride = p->p.o.padded_k * PANEL * e->size;
    const size_t end = round_up(count, e->columns);
    const bool code = format_is_code(w->compute);
    const struct packing *packing = w->compute == w->storage ? format_packing(w->storage) : NULL;
    const size_t group = tensor_compute_group_cols(w), first_group = n / group;
    const size_t groups = tensor_scale_groups(w) ? (n + count - 1) / group + 1 - first_group : 0;
    pack_b_rows_fn *pack = e->pack_b_rows ? e->pack_b_rows : gemm_pack_b_rows;
    float *scales = groups ? (float *)chunk + width * PACK_BLOCK / sizeof(float) : NULL; /* [64][groups], after codes */
    for (size_t k = 0; k < p->k; k += PACK_BLOCK) {
        const size_t depth = size_min(PACK_BLOCK, p->k - k);
        if (code && !packing) memset(chunk, 0, depth * width);
        if (p->rounds) memset((int8_t *)chunk + depth * width, 0, (PACK_BLOCK - depth) * width);
        for (size_t i = 0; i < depth; i++) {
            const size_t row = p->row + k + i;
            if (groups) tensor_read_compute_scales(w, row, first_group, groups, scales + i * groups);
            if (packing) {
                const size_t offset = n / PACK_BLOCK * packing_block_bytes(packing);
                p->p.ctx->kernels->gemm.unpack(packing, tensor_row(w, row) + offset, width / PACK_BLOCK,
                                               (int8_t *)chunk + i * width);
            } else if (code) {
                tensor_read_codes(w, row, n, count, (int8_t *)chunk + i * width);
            } else {
                tensor_read_floats(w, row, n, count, (float *)chunk + i * width);
            }
        }
        for (size_t c = 0; c < end; c += PANEL) {
            unsigned char *out = b + c / PANEL * panel_stride + k * PANEL * e->size;
            if (p->rounds) {
                pack(e, (const int8_t *)chunk + c, width, PACK_BLOCK, p->bias, out);
            } else if (code) {
                const size_t g = size_min((n + c) / group - first_group, groups ? groups - 1 : 0);
                e->pack_b_codes(e, (const int8_t *)chunk + c, width, depth, groups ? scales + g : NULL, groups, out);
            } else {
                e->pack_b(e, (const float *)chunk + c, width, c < count ? size_min(PANEL, count - c) : 0, depth, out);
            }
        }
    }
}

/* Whether the result goes past the caches: where it would not stay in L2 anyway, reading its lines first is waste. */
static bool streams(const struct product *p) {
    const size_t row = p->p.to.ld_y * sizeof *p->y;
    return p->x && p->x->codes && (uintptr_t)p->y % ALIGNMENT == 0 && row % ALIGNMENT == 0 &&
           p->p.o.m * row >= STREAM_BYTES;
}

/* Columns [n, n + count) of those in flight. */
static void pack_columns(void *arg, size_t n, size_t count, void *scratch) {
    const struct product *p = arg;
    const struct operand *o = &p->p.o;
    unsigned char *b = p->p.b + n * o->padded_k * o->e->size;
    const size_t first = p->column + n;
    if (p->dy) {
        input_gradient_panels(p, first, count, b, scratch);
        return;
    }
    for (size_t c = 0; c < round_up(count, o->e->columns); c += PANEL) {
        forward_panel(p, first + c, b + c * o->padded_k * o->e->size, scratch);
        if (o->groups) panel_scales(p, first + c, p->group_scale + (n + c) * o->groups);
    }
    for (size_t c = 0; p->p.to.col_scale && c < count; c++)
        p->col_scale[n + c] = tensor_compute_scale(p->w, p->row + first + c);
}

static void run(struct product *p, size_t tokens) {
    struct operand *o = &p->p.o;
    const struct gemm_engine *e = o->e;
    const float *row_scale = o->row_scale;
    const size_t chunk = chunk_tokens(e, o->padded_k), column = column_bytes(o, o->padded_k);
    const size_t columns = pieces_columns(p->n, column, p->p.ctx->num_threads);
    p->p.arg = p;
    p->p.pack_rows = pack_rows;
    p->p.pack_columns = pack_columns;
    p->p.source = source;
    p->p.to.col_scale = p->x && !o->groups && holds_codes(p) ? p->col_scale : NULL;
    p->p.to.group_scale = p->group_scale;
    o->m = size_min(chunk, tokens);
    p->p.n = columns;
    pieces_cut(&p->p, e->rows, MOST_GROUP * e->rows, column, BLOCK_BYTES);
    for (p->first = 0; p->first < tokens; p->first += chunk) {
        o->m = size_min(chunk, tokens - p->first);
        o->row_scale = row_scale ? row_scale + p->first : NULL;
        p->p.to.stream = streams(p);
        pieces_new_rows(&p->p);
        for (p->column = 0; p->column < p->n; p->column += columns) {
            p->p.n = size_min(columns, p->n - p->column);
            p->p.to.y = p->y + p->first * p->p.to.ld_y + p->column;
            if (p->first == 0 || columns < p->n) pieces_new_columns(&p->p);
            pieces_run(&p->p, false, product_work(p->p.ctx, o->row_add != NULL, o->m, p->p.n, p->k));
        }
    }
}

static const struct gemm_engine *integer_engine(const dqt_context *ctx, const struct packing *packing) {
    const struct gemm_kernels *kernels = &ctx->kernels->gemm;
    const struct gemm_engine *e = packing_range(packing) <= kernels->code.max_range ? &kernels->code : &kernels->int8;
    DQT_ASSERT(packing_range(packing) <= e->max_range);
    return e;
}

/* At least four of five rows of its blocks would be tokens. */
static bool fills_blocks(const struct gemm_engine *e, size_t tokens) {
    return round_up(tokens, e->rows) - tokens <= tokens / 4;
}

static const struct gemm_engine *engine_for(const dqt_context *ctx, const struct packing *packing, size_t groups,
                                            size_t tokens) {
    const struct gemm_engine *e = integer_engine(ctx, packing), *ternary = e->ternary;
    const bool takes = ternary && !groups && packing_range(packing) <= ternary->max_range;
    return takes && fills_blocks(ternary, tokens) ? ternary : e;
}

/* The shared scratch of a product whose engine is chosen. */
static void place_shared(struct product *p, size_t tokens) {
    struct arena shared = shared_arena(p->p.ws);
    shared_layout(p, tokens, p->p.o.padded_k, 0, &shared);
    p->a = shared.base + shared.used;
    p->p.o.a = p->a;
}

/* gemm_forward of many tokens. */
static void forward_many(const dqt_context *ctx, const struct workspace *ws, const struct activations *x,
                         const dqt_tensor *w, size_t row, size_t rows, int precision, bool accumulate, float *y,
                         size_t ld_y) {
    const struct gemm_kernels *kernels = &ctx->kernels->gemm;
    const bool integer = x->codes && format_is_code(w->compute);
    /* of what is packed: re-quantised codes come as plain bytes */
    const struct packing *packing = w->compute == w->storage ? format_packing(w->storage) : &plain_bytes;
    struct product p = {.p = {.ctx = ctx, .ws = ws, .to = {.ld_y = ld_y, .accumulate = accumulate}},
                        .x = x,
                        .w = w,
                        .row = row,
                        .k = x->cols,
                        .n = rows,
                        .y = y};
    if (integer) {
        p.p.o.groups = tensor_scale_groups(w);
        p.p.o.e = engine_for(ctx, packing, p.p.o.groups, x->tokens);
        p.p.o.padded_k = round_up(x->cols, PACK_BLOCK);
        p.p.o.group = p.p.o.groups ? tensor_compute_group_cols(w) : 0;
        p.bias = panel_bias(p.p.o.e, packing);
    } else {
        const bool bf16 = x->codes ? format_float_bytes(w->compute) == 2 : precision == DQT_PRECISION_BF16;
        p.p.o.e = bf16 ? &kernels->bf16 : &kernels->f32;
        p.p.o.padded_k = round_up(x->cols, p.p.o.e->k_align);
    }
    p.p.o.row_scale = x->codes ? x->step : NULL;
    place_shared(&p, x->tokens);
    p.p.o.row_add = !integer ? NULL : p.p.o.groups && p.bias == 0 ? no_row_add : p.row_add;
    p.k_scale = NULL;
    run(&p, x->tokens);
}

size_t gemm_gemv_tokens(const dqt_context *ctx, size_t tokens) {
    return tokens <= ctx->kernels->gemm.gemv_max_tokens ? tokens : 0;
}

static struct activations activations_range(const struct activations *x, size_t first, size_t count) {
    struct activations part = *x;
    part.tokens = count;
    if (x->codes) {
        part.codes += first * x->ld;
        part.step += first;
    } else {
        part.floats += first * x->ld;
    }
    return part;
}

/* Tokens of a product that are multiplied row by row; exact products choose by speed. */
static size_t few_tokens(const dqt_context *ctx, const struct activations *x, size_t gemv_tokens, const dqt_tensor *w) {
    DQT_ASSERT(gemv_tokens <= x->tokens);
    if (x->codes && format_is_code(w->compute)) return x->tokens <= gemv_exact_tokens(ctx, w) ? x->tokens : 0;
    return gemv_tokens;
}

void gemm_forward(const dqt_context *ctx, const struct workspace *ws, const struct activations *x, size_t gemv_tokens,
                  const dqt_tensor *w, size_t row, size_t rows, int precision, bool accumulate, float *y, size_t ld_y) {
    gemv_tokens = few_tokens(ctx, x, gemv_tokens, w);
    if (gemv_tokens) {
        const struct activations first = activations_range(x, 0, gemv_tokens);
        gemv_forward(ctx, ws, &first, &(struct gemm_part){w, row, rows, y, ld_y}, 1, accumulate);
    }
    if (gemv_tokens < x->tokens) {
        const struct activations rest = activations_range(x, gemv_tokens, x->tokens - gemv_tokens);
        forward_many(ctx, ws, &rest, w, row, rows, precision, accumulate, y + gemv_tokens * ld_y, ld_y);
    }
}

void gemm_forward_parts(const dqt_context *ctx, const struct workspace *ws, const struct activations *x,
                        size_t gemv_tokens, const struct gemm_part *part, size_t count, int precision) {
    size_t few = 0;
    while (few < count && few_tokens(ctx, x, gemv_tokens, part[few].w) == x->tokens)
        few++;
    if (few == count) {
        gemv_forward(ctx, ws, x, part, count, false);
        return;
    }
    for (const struct gemm_part *p = part; p < part + count; p++)
        gemm_forward(ctx, ws, x, gemv_tokens, p->w, p->row, p->rows, precision, false, p->y, p->ld_y);
}

static struct product input_gradient(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                                     const dqt_tensor *w, size_t row, size_t rows, bool accumulate, float *dx) {
    return (struct product){.p = {.ctx = ctx, .ws = ws, .to = {.ld_y = w->cols, .accumulate = accumulate}},
                            .dy = dy,
                            .ld_dy = ld_dy,
                            .w = w,
                            .row = row,
                            .k = rows,
                            .n = w->cols,
                            .y = dx};
}

void gemm_input_gradient(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                         size_t tokens, const dqt_tensor *w, size_t row, size_t rows, int precision, bool accumulate,
                         float *dx) {
    const struct gemm_kernels *kernels = &ctx->kernels->gemm;
    struct product p = input_gradient(ctx, ws, dy, ld_dy, w, row, rows, accumulate, dx);
    p.p.o.e = precision == DQT_PRECISION_BF16 ? &kernels->bf16 : &kernels->f32;
    p.p.o.padded_k = round_up(rows, p.p.o.e->k_align);
    place_shared(&p, tokens);
    if (holds_codes(&p)) {
        for (size_t r = 0; r < rows; r++)
            p.k_scale[r] = tensor_compute_scale(w, row + r);
    } else {
        p.k_scale = NULL;
    }
    run(&p, tokens);
}

void gemm_input_gradient_int8(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy,
                              size_t tokens, const dqt_tensor *w, size_t row, size_t rows, const struct rng *rng,
                              bool accumulate, float *dx) {
    const struct packing *packing = format_packing(w->compute);
    DQT_ASSERT(packing && !tensor_scale_groups(w) && row % GEMM_TILE_ROWS == 0);
    struct product p = input_gradient(ctx, ws, dy, ld_dy, w, row, rows, accumulate, dx);
    p.rounds = true;
    p.rng = rng;
    p.p.o.e = engine_for(ctx, packing, 0, tokens);
    p.p.o.padded_k = round_up(rows, PACK_BLOCK);
    p.bias = panel_bias(p.p.o.e, packing);
    place_shared(&p, tokens);
    p.p.o.row_add = p.row_add;
    p.p.o.row_scale = p.step;
    for (size_t r = 0; r < rows; r++)
        p.k_scale[r] = tensor_compute_scale(w, row + r);
    run(&p, tokens);
}
