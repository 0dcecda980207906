/* Forward products of a few tokens (generation): every weight row is read once and multiplied with each token.
 * Integer sums are exact, so they are those of the other path, bit for bit. */
#include <string.h>

#include "gemm/gemm_block.h"

enum { TASK_ROWS = 64 };

struct gemv {
    const dqt_context *ctx;
    const struct workspace *ws;
    const struct activations *x;
    const dqt_tensor *w;
    size_t row, rows;
    bool integer, packed, groups, accumulate;
    const int8_t *permuted; /* [tokens][ld_permuted] */
    size_t ld_permuted;
    const int32_t *x_sum; /* [tokens] */
    float *y;             /* [tokens][ld_y], `rows` of a row are written */
    size_t ld_y;
};

static size_t permuted_bytes(size_t cols) {
    return round_up(cols, PACK_BLOCK * DOT_GROUP_BLOCKS);
}

void gemv_scratch(const dqt_context *ctx, size_t tokens, size_t cols, struct scratch_need *need) {
    const size_t taken = size_min(tokens, ctx->kernels->gemm.gemv_max_tokens);
    const size_t sums = round_up(taken * sizeof(int32_t), ALIGNMENT);
    const size_t row = scratch_product(round_up(cols, PACK_BLOCK), sizeof(float));
    scratch_max(need, scratch_product(taken, permuted_bytes(cols)) + sums, row, 0);
}

static void put(const struct gemv *g, size_t t, size_t r, float sum, float scale) {
    float *y = g->y + t * g->ld_y + r;
    const float value = sum * scale;
    *y = g->accumulate ? *y + value : value;
}

/* Codes of a row into scratch: [round_up(cols, 64)], zeros at the end. */
static const int8_t *row_codes(const struct gemv *g, size_t row, int8_t *scratch) {
    const dqt_tensor *w = g->w;
    const size_t padded = round_up(w->cols, PACK_BLOCK);
    if (w->compute == w->storage) {
        const struct packing *packing = format_packing(w->storage);
        if (packing_is_bytes(packing)) return (const int8_t *)tensor_row(w, row);
        g->ctx->kernels->gemm.unpack(packing, tensor_row(w, row), padded / PACK_BLOCK, scratch);
    } else {
        tensor_read_codes(w, row, 0, w->cols, scratch);
        memset(scratch + w->cols, 0, padded - w->cols);
    }
    return scratch;
}

/* Rows r .. r + count - 1 of the range, count <= DOT_ROWS, from packed bytes. */
static void packed_rows(const struct gemv *g, size_t r, size_t count) {
    const struct gemm_kernels *k = &g->ctx->kernels->gemm;
    const uint8_t *rows[DOT_ROWS];
    for (size_t i = 0; i < DOT_ROWS; i++)
        rows[i] = tensor_row(g->w, g->row + r + size_min(i, count - 1));
    for (size_t t = 0; t < g->x->tokens; t++) {
        int32_t sums[DOT_ROWS];
        k->packed_dot.dot_packed(format_packing(g->w->storage), rows, round_up(g->w->cols, PACK_BLOCK) / PACK_BLOCK,
                                 g->permuted + t * g->ld_permuted, g->x_sum[t], sums);
        for (size_t i = 0; i < count; i++)
            put(g, t, r + i, (float)sums[i], g->x->step[t] * tensor_compute_scale(g->w, g->row + r + i));
    }
}

/* Codes with scales of groups; their sum starts at -0, to which any number can be added without a change. */
static void group_row(const struct gemv *g, size_t r, int8_t *scratch) {
    const struct activations *x = g->x;
    const int8_t *codes = row_codes(g, g->row + r, scratch);
    const size_t group = tensor_compute_group_cols(g->w);
    for (size_t t = 0; t < x->tokens; t++) {
        float sum = -0.0f;
        for (size_t c = 0; c < x->cols; c += group) {
            float scale;
            tensor_read_compute_scales(g->w, g->row + r, c / group, 1, &scale);
            sum += (float)g->ctx->kernels->gemm.dot_codes(codes + c, x->codes + t * x->ld + c, group) * scale;
        }
        put(g, t, r, sum, x->step[t]);
    }
}

static void code_row(const struct gemv *g, size_t r, int8_t *scratch) {
    const struct gemm_kernels *k = &g->ctx->kernels->gemm;
    const struct activations *x = g->x;
    const int8_t *codes = row_codes(g, g->row + r, scratch);
    const float scale = tensor_compute_scale(g->w, g->row + r);
    for (size_t t = 0; t < x->tokens; t++) {
        if (g->integer) {
            const int32_t sum = k->dot_codes(codes, x->codes + t * x->ld, round_up(x->cols, PACK_BLOCK));
            put(g, t, r, (float)sum, x->step[t] * scale);
        } else {
            put(g, t, r, k->dot_code_float(codes, x->floats + t * x->ld, x->cols), scale);
        }
    }
}

static void float_row(const struct gemv *g, size_t r, float *scratch) {
    const struct gemm_kernels *k = &g->ctx->kernels->gemm;
    const struct activations *x = g->x;
    const dqt_tensor *w = g->w;
    const void *data = tensor_row(w, g->row + r);
    const bool code = format_is_code(w->compute); /* with scales of groups */
    if (x->codes || code) tensor_read_floats(w, g->row + r, 0, w->cols, scratch);
    for (size_t t = 0; t < x->tokens; t++) {
        if (x->codes) {
            put(g, t, r, k->dot_code_float(x->codes + t * x->ld, scratch, x->cols), x->step[t]);
        } else if (code) {
            put(g, t, r, k->dot_float(scratch, x->floats + t * x->ld, x->cols), 1.0f);
        } else if (format_float_bytes(w->storage) == 2) {
            put(g, t, r, k->dot_bf16_float(data, x->floats + t * x->ld, x->cols), 1.0f);
        } else {
            put(g, t, r, k->dot_float(data, x->floats + t * x->ld, x->cols), 1.0f);
        }
    }
}

static void gemv_task(void *arg, size_t task, int lane) {
    const struct gemv *g = arg;
    void *scratch = workspace_lane(g->ws, lane);
    const size_t end = size_min((task + 1) * TASK_ROWS, g->rows);
    for (size_t r = task * TASK_ROWS; r < end;) {
        if (g->packed) {
            const size_t count = size_min(DOT_ROWS, end - r);
            packed_rows(g, r, count);
            r += count;
        } else if (g->integer && g->groups) {
            group_row(g, r++, scratch);
        } else if (format_is_code(g->w->compute) && !g->groups) {
            code_row(g, r++, scratch);
        } else {
            float_row(g, r++, scratch);
        }
    }
}

void gemv_forward(const dqt_context *ctx, const struct workspace *ws, const struct activations *x, const dqt_tensor *w,
                  size_t row, size_t rows, bool accumulate, float *y, size_t ld_y) {
    const struct gemm_kernels *k = &ctx->kernels->gemm;
    struct gemv g = {.ctx = ctx,
                     .ws = ws,
                     .x = x,
                     .w = w,
                     .row = row,
                     .rows = rows,
                     .accumulate = accumulate,
                     .y = y,
                     .ld_y = ld_y,
                     .ld_permuted = permuted_bytes(x->cols)};
    g.integer = x->codes && format_is_code(w->compute);
    g.groups = tensor_scale_groups(w) != 0;
    g.packed = g.integer && !g.groups && k->packed_dot.dot_packed && w->compute == w->storage &&
               dot_packed_takes(format_packing(w->storage));
    if (g.packed) {
        struct arena shared = shared_arena(ws);
        int32_t *sums = arena_take(&shared, x->tokens, sizeof *sums);
        int8_t *permuted = arena_take(&shared, x->tokens * g.ld_permuted, 1);
        for (size_t t = 0; t < x->tokens; t++) {
            const int8_t *codes = x->codes + t * x->ld;
            sums[t] = 0;
            for (size_t c = 0; c < x->cols; c++)
                sums[t] += codes[c];
            k->packed_dot.permute_for_dot(format_packing(w->storage), codes, round_up(x->cols, PACK_BLOCK) / PACK_BLOCK,
                                          permuted + t * g.ld_permuted);
        }
        g.x_sum = sums;
        g.permuted = permuted;
    }
    parallel_run(ctx, ceil_div(rows, TASK_ROWS), product_work(ctx, g.integer, x->tokens, rows, x->cols), gemv_task, &g);
}
