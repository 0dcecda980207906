/* Forward products of a few tokens (generation): every weight row is read once and multiplied with each token.
 * Integer sums are exact, so they are those of the other path, bit for bit. */
#include <string.h>

#include "gemm/gemm_block.h"

/* Rows of a task: of whole groups of DOT_ROWS and DOT_TILE_ROWS, and few, so that lanes end together: 768 rows are 4
 * tasks for each of 8 lanes. */
enum { TASK_ROWS = 24 };

struct gemv {
    const dqt_context *ctx;
    const struct workspace *ws;
    const struct activations *x;
    const dqt_tensor *w;
    size_t row, rows;
    bool integer, accumulate;
    bool packed, grouped;   /* DOT_ROWS rows at a time: dot_packed, or dot_groups */
    size_t groups;          /* scales of a row, where it has several */
    bool together;          /* packed: batches of tokens at a time, dot_packed_tokens */
    const int8_t *permuted; /* [tokens][ld_permuted]; together: those of a batch beside each other */
    size_t ld_permuted;
    const int32_t *x_sum; /* [tokens], or [tokens][groups]; together: whole batches */
    float *y;             /* [tokens][ld_y], `rows` of a row are written */
    size_t ld_y;
};

static size_t permuted_bytes(size_t cols) {
    return round_up(cols, PACK_BLOCK * DOT_GROUP_BLOCKS);
}

/* Most scales of a row. */
static size_t max_groups(size_t cols) {
    return ceil_div(cols, 32);
}

void gemv_scratch(const dqt_context *ctx, size_t tokens, size_t cols, struct scratch_need *need) {
    const struct gemm_kernels *k = &ctx->kernels->gemm;
    const size_t most = size_max(k->gemv_max_tokens, k->packed_dot.max_tokens);
    const size_t taken = round_up(size_min(tokens, most), DOT_MOST_TOKENS);
    const size_t sums = round_up(scratch_product(taken, scratch_product(max_groups(cols), sizeof(int32_t))), ALIGNMENT);
    const size_t row = scratch_product(round_up(cols, PACK_BLOCK), sizeof(float)); /* or DOT_ROWS rows of codes */
    const size_t scales = scratch_product(max_groups(cols), DOT_ROWS * sizeof(float));
    scratch_max(need, scratch_bytes(scratch_product(taken, permuted_bytes(cols)) + sums),
                scratch_bytes(row + round_up(scales, ALIGNMENT)), 0);
}

static void put(const struct gemv *g, size_t t, size_t r, float sum, float scale) {
    float *y = g->y + t * g->ld_y + r;
    const float value = sum * scale;
    *y = g->accumulate ? *y + value : value;
}

static inline void store_values(const struct gemv *g, float *y, const float *value, size_t count) {
    for (size_t i = 0; i < count; i++)
        y[i] = g->accumulate ? y[i] + value[i] : value[i];
}

/* The first `count` values of a group of `all`, a constant: most groups are whole. */
static inline void store_rows(const struct gemv *g, float *y, const float *value, size_t count, size_t all) {
    if (count == all) {
        store_values(g, y, value, all);
    } else {
        store_values(g, y, value, count);
    }
}

/* DOT_ROWS sums of a token, of which `count` are put. */
static inline void put_rows(const struct gemv *g, size_t t, size_t r, size_t count, const int32_t sums[DOT_ROWS],
                            const float scale[DOT_ROWS]) {
    const float step = g->x->step[t];
    float value[DOT_ROWS];
    for (size_t i = 0; i < DOT_ROWS; i++)
        value[i] = (float)sums[i] * (step * scale[i]);
    store_rows(g, g->y + t * g->ld_y + r, value, count, DOT_ROWS);
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

/* The same for several tokens: what is unpacked of a row is used for all tokens of a batch. */
static void packed_rows_together(const struct gemv *g, size_t r, size_t count, const float scale[DOT_ROWS]) {
    const struct gemm_kernels *k = &g->ctx->kernels->gemm;
    const size_t tokens = g->x->tokens, blocks = round_up(g->w->cols, PACK_BLOCK) / PACK_BLOCK;
    const uint8_t *rows[DOT_ROWS];
    for (size_t i = 0; i < DOT_ROWS; i++)
        rows[i] = tensor_row(g->w, g->row + r + size_min(i, count - 1));
    for (size_t t = 0; t < tokens; t += k->packed_dot.batch) {
        const size_t batch = dot_batch(tokens - t, k->packed_dot.batch);
        int32_t sums[DOT_MOST_TOKENS][DOT_ROWS];
        k->packed_dot.dot_packed_tokens(format_packing(g->w->storage), rows, blocks, g->permuted + t * g->ld_permuted,
                                        batch, g->x_sum + t, sums);
        for (size_t j = 0; j < size_min(batch, tokens - t); j++)
            put_rows(g, t + j, r, count, sums[j], scale);
    }
}

/* Scales of the groups of rows [row, row + count), [groups][DOT_ROWS]; beyond count anything finite. */
static void read_scales(const struct gemv *g, size_t row, size_t count, float *out) {
    float part[DOT_ROWS][PACK_BLOCK] = {{0}};
    for (size_t from = 0; from < g->groups; from += PACK_BLOCK) {
        const size_t n = size_min(PACK_BLOCK, g->groups - from);
        for (size_t i = 0; i < count; i++)
            tensor_read_compute_scales(g->w, row + i, from, n, part[i]);
        for (size_t j = 0; j < n; j++)
            for (size_t i = 0; i < DOT_ROWS; i++)
                out[(from + j) * DOT_ROWS + i] = part[i][j];
    }
}

/* Rows r .. r + count - 1 of the range, count <= DOT_ROWS, with scales of groups. */
static void group_rows(const struct gemv *g, size_t r, size_t count, void *scratch) {
    const struct gemm_kernels *k = &g->ctx->kernels->gemm;
    const struct activations *x = g->x;
    const size_t padded = round_up(g->w->cols, PACK_BLOCK), group = tensor_compute_group_cols(g->w);
    const bool direct = g->w->compute == g->w->storage && dot_groups_takes(format_packing(g->w->storage), group);
    const struct packing *packing = direct ? format_packing(g->w->storage) : &plain_bytes;
    int8_t *codes = scratch;
    float *scales = (float *)(void *)(codes + DOT_ROWS * padded);
    const uint8_t *rows[DOT_ROWS];
    for (size_t i = 0; i < DOT_ROWS; i++) {
        if (i >= count) {
            rows[i] = rows[i - 1];
        } else if (direct) {
            rows[i] = tensor_row(g->w, g->row + r + i);
        } else {
            rows[i] = (const uint8_t *)row_codes(g, g->row + r + i, codes + i * padded);
        }
    }
    read_scales(g, g->row + r, count, scales);
    for (size_t t = 0; t < x->tokens; t++) {
        float sums[DOT_ROWS];
        k->dot_groups(packing, rows, group, g->groups, x->codes + t * x->ld, g->x_sum + t * g->groups, scales, sums);
        for (size_t i = 0; i < count; i++)
            put(g, t, r + i, sums[i], x->step[t]);
    }
}

/* The same without dot_groups; the sum starts at -0, to which any number can be added without a change. */
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
    const struct activations *x = g->x;
    const int8_t *codes = row_codes(g, g->row + r, scratch);
    const float scale = tensor_compute_scale(g->w, g->row + r);
    for (size_t t = 0; t < x->tokens; t++) {
        const int32_t sum = g->ctx->kernels->gemm.dot_codes(codes, x->codes + t * x->ld, round_up(x->cols, PACK_BLOCK));
        put(g, t, r, (float)sum, x->step[t] * scale);
    }
}

/* Either operand becomes floats first: codes of weights that have scales of groups, or those of activations. */
static void converted_row(const struct gemv *g, size_t r, float *scratch) {
    const struct float_dot_kernels *k = &g->ctx->kernels->gemm.float_dot;
    const struct activations *x = g->x;
    tensor_read_floats(g->w, g->row + r, 0, g->w->cols, scratch);
    for (size_t t = 0; t < x->tokens; t++) {
        if (x->codes) {
            put(g, t, r, k->code(x->codes + t * x->ld, scratch, x->cols), x->step[t]);
        } else {
            put(g, t, r, k->f32(scratch, x->floats + t * x->ld, x->cols), 1.0f);
        }
    }
}

static float dot_float(const struct float_dot_kernels *k, enum dot_element type, const void *row, const float *x,
                       size_t n) {
    switch (type) {
    case DOT_CODE: return k->code(row, x, n);
    case DOT_BF16: return k->bf16(row, x, n);
    case DOT_F32: break;
    }
    return k->f32(row, x, n);
}

/* Rows r .. r + count - 1 of the range, count <= DOT_TILE_ROWS, with float activations. */
static void float_rows(const struct gemv *g, size_t r, size_t count, const float scale[DOT_TILE_ROWS],
                       int8_t *scratch) {
    const struct float_dot_kernels *k = &g->ctx->kernels->gemm.float_dot;
    const struct activations *x = g->x;
    const dqt_tensor *w = g->w;
    const bool code = format_is_code(w->compute);
    const enum dot_element type = code ? DOT_CODE : format_float_bytes(w->storage) == 2 ? DOT_BF16 : DOT_F32;
    const void *rows[DOT_TILE_ROWS];
    for (size_t i = 0; i < DOT_TILE_ROWS; i++) {
        if (i < count) {
            const size_t row = g->row + r + i;
            rows[i] = tensor_row(w, row);
            if (code) rows[i] = row_codes(g, row, scratch + i * round_up(w->cols, PACK_BLOCK));
        } else {
            rows[i] = rows[i - 1];
        }
    }
    for (size_t t = 0; t < x->tokens; t += DOT_MOST_TOKENS) {
        const size_t n = size_min(DOT_MOST_TOKENS, x->tokens - t), batch = dot_batch(n, DOT_MOST_TOKENS);
        const float *tokens[DOT_MOST_TOKENS];
        float sums[DOT_TILE_ROWS][DOT_MOST_TOKENS]; /* [count][n] of it are used */
        for (size_t j = 0; j < batch; j++)
            tokens[j] = x->floats + (t + size_min(j, n - 1)) * x->ld;
        if (k->tile && n > 1) {
            k->tile(type, rows, tokens, batch, x->cols, sums);
        } else {
            for (size_t i = 0; i < count; i++)
                for (size_t j = 0; j < n; j++)
                    sums[i][j] = dot_float(k, type, rows[i], tokens[j], x->cols);
        }
        for (size_t j = 0; j < n; j++) {
            float value[DOT_TILE_ROWS];
            for (size_t i = 0; i < count; i++)
                value[i] = sums[i][j] * scale[i];
            store_rows(g, g->y + (t + j) * g->ld_y + r, value, count, DOT_TILE_ROWS);
        }
    }
}

/* Scales of a task's rows, at once: they are long in memory when vectors of them are read. Beyond the last: 0. */
enum { TASK_SCALES = TASK_ROWS + DOT_ROWS };

static void read_task_scales(const struct gemv *g, size_t r, size_t end, float scale[TASK_SCALES]) {
    const bool code = format_is_code(g->w->compute);
    for (size_t i = 0; r + i < end; i++)
        scale[i] = code ? tensor_compute_scale(g->w, g->row + r + i) : 1.0f;
    for (size_t i = end - r; i < TASK_SCALES; i++)
        scale[i] = 0;
}

static void gemv_task(const struct gemv *g, size_t task, int lane) {
    void *scratch = workspace_lane(g->ws, lane);
    const size_t end = size_min((task + 1) * TASK_ROWS, g->rows);
    const bool floats = !g->x->codes && !(format_is_code(g->w->compute) && g->groups);
    const size_t most = g->packed || g->grouped ? DOT_ROWS : floats ? DOT_TILE_ROWS : 1;
    float scales[TASK_SCALES];
    if (g->together || floats) read_task_scales(g, task * TASK_ROWS, end, scales);
    for (size_t r = task * TASK_ROWS; r < end; r += most) {
        const size_t count = size_min(most, end - r);
        const float *scale = scales + (r - task * TASK_ROWS);
        if (g->together) {
            packed_rows_together(g, r, count, scale);
        } else if (g->packed) {
            packed_rows(g, r, count);
        } else if (g->grouped) {
            group_rows(g, r, count, scratch);
        } else if (floats) {
            float_rows(g, r, count, scale, scratch);
        } else if (!g->integer) {
            converted_row(g, r, scratch);
        } else if (g->groups) {
            group_row(g, r, scratch);
        } else {
            code_row(g, r, scratch);
        }
    }
}

static void permute_token(const struct gemv *g, size_t t, int8_t *permuted) {
    const struct activations *x = g->x;
    const size_t most = g->ctx->kernels->gemm.packed_dot.batch, first = g->together ? t / most * most : t;
    const size_t lanes = g->together ? dot_batch(x->tokens - first, most) : 1;
    int8_t *out = permuted + first * g->ld_permuted;
    if (t == first && x->tokens - first < lanes) memset(out, 0, lanes * g->ld_permuted);
    g->ctx->kernels->gemm.packed_dot.permute_for_dot(format_packing(g->w->storage), x->codes + t * x->ld,
                                                     round_up(x->cols, PACK_BLOCK) / PACK_BLOCK, t - first, lanes, out);
}

/* What packed_rows and group_rows read of x besides its codes. */
static void prepare_codes(struct gemv *g) {
    const struct activations *x = g->x;
    const size_t groups = size_max(g->groups, 1), group = ceil_div(x->cols, groups);
    struct arena shared = shared_arena(g->ws);
    const size_t room = g->together ? round_up(x->tokens, DOT_TOKENS) : x->tokens;
    int32_t *sums = arena_take(&shared, room * groups, sizeof *sums);
    int8_t *permuted = arena_take(&shared, room * g->ld_permuted, 1);
    for (size_t t = 0; t < x->tokens; t++) {
        const int8_t *codes = x->codes + t * x->ld;
        for (size_t i = 0; i < groups; i++) {
            int32_t sum = 0;
            for (size_t c = i * group; c < (i + 1) * group; c++)
                sum += codes[c];
            sums[t * groups + i] = sum;
        }
        if (g->packed) permute_token(g, t, permuted);
    }
    for (size_t t = x->tokens; t < room; t++)
        sums[t] = 0;
    g->x_sum = sums;
    g->permuted = permuted;
}

/* Codes that are not shifted down before they are multiplied make sums up to 64 times as large: with 2 bits and AVX-512
 * VNNI they fit 32 bits up to 5.5 million columns. */
enum { PACKED_COLUMNS = 1 << 22 };

/* Whether weights are multiplied as they are packed. */
static bool takes_packed(const dqt_context *ctx, const dqt_tensor *w) {
    return w->cols <= PACKED_COLUMNS && format_is_code(w->compute) && w->compute == w->storage &&
           !tensor_scale_groups(w) && packed_dot_takes(&ctx->kernels->gemm.packed_dot, format_packing(w->storage));
}

size_t gemv_exact_tokens(const dqt_context *ctx, const dqt_tensor *w) {
    const struct gemm_kernels *k = &ctx->kernels->gemm;
    return takes_packed(ctx, w) ? size_max(k->gemv_max_tokens, k->packed_dot.max_tokens) : k->gemv_max_tokens;
}

/* Products of one x that are one job, since a lane that waits for the end of each would wait longer than it works. */
struct gemv_parts {
    struct gemv part[GEMM_MOST_PARTS];
    size_t first_task[GEMM_MOST_PARTS + 1];
};

static void part_task(void *arg, size_t task, int lane) {
    const struct gemv_parts *parts = arg;
    size_t i = 0;
    while (task >= parts->first_task[i + 1])
        i++;
    gemv_task(&parts->part[i], task - parts->first_task[i], lane);
}

static struct gemv gemv_of(const dqt_context *ctx, const struct workspace *ws, const struct activations *x,
                           const struct gemm_part *part, bool accumulate) {
    const struct gemm_kernels *k = &ctx->kernels->gemm;
    const dqt_tensor *w = part->w;
    struct gemv g = {.ctx = ctx,
                     .ws = ws,
                     .x = x,
                     .w = w,
                     .row = part->row,
                     .rows = part->rows,
                     .accumulate = accumulate,
                     .y = part->y,
                     .ld_y = part->ld_y,
                     .ld_permuted = permuted_bytes(x->cols)};
    g.integer = x->codes && format_is_code(w->compute);
    g.groups = tensor_scale_groups(w);
    g.packed = g.integer && takes_packed(ctx, w);
    g.together = g.packed && k->packed_dot.dot_packed_tokens && x->tokens > 2;
    g.grouped = g.integer && g.groups && k->dot_groups;
    return g;
}

/* What prepare_codes makes does for both. */
static bool reads_alike(const struct gemv *a, const struct gemv *b) {
    return a->packed == b->packed && a->grouped == b->grouped && a->groups == b->groups &&
           a->w->storage == b->w->storage;
}

void gemv_forward(const dqt_context *ctx, const struct workspace *ws, const struct activations *x,
                  const struct gemm_part *part, size_t count, bool accumulate) {
    DQT_ASSERT(count >= 1 && count <= GEMM_MOST_PARTS);
    for (size_t done = 0, n; done < count; done += n) {
        struct gemv_parts parts = {0};
        struct gemv *first = parts.part;
        double work = 0;
        for (n = 0; done + n < count; n++) {
            struct gemv *g = &parts.part[n];
            *g = gemv_of(ctx, ws, x, &part[done + n], accumulate);
            if (n > 0 && !reads_alike(first, g)) break;
            if (n == 0 && (g->packed || g->grouped)) prepare_codes(g);
            g->x_sum = first->x_sum;
            g->permuted = first->permuted;
            work += product_work(ctx, g->integer, x->tokens, g->rows, x->cols);
            parts.first_task[n + 1] = parts.first_task[n] + ceil_div(g->rows, TASK_ROWS);
        }
        parallel_run(ctx, parts.first_task[n], work, part_task, &parts);
    }
}
