#include "ops/matmul.h"

#include <string.h>

#include "core/parallel.h"

/* Plain products: one output block per item, fixed order of sums. */

enum { ROW_BLOCK = 16, TOKEN_BLOCK = 16 };

struct product {
    const dqt_context *ctx;
    const struct workspace *ws;
    const struct activations *x;
    const float *dy;
    size_t ld_dy, tokens, rows, row;
    const dqt_tensor *w;
    bool bf16, accumulate;
    float *y;
    size_t ld_y;
    tile_fn consume;
    void *arg;
};

static float rounded(float f, bool bf16) {
    return bf16 ? bf16_to_f32(f32_to_bf16(f)) : f;
}

void matmul_scratch(const dqt_context *ctx, size_t tokens, size_t rows, size_t cols, struct scratch_need *need) {
    (void)ctx;
    (void)tokens;
    (void)rows;
    scratch_max(need, 0, (MATMUL_TILE_ROWS + 1) * round_up(cols, UNIT) * sizeof(float), 0);
}

/* Compute codes or, for float compute formats, floats of a row, as floats; *scale is what multiplies them. */
static void read_row(const dqt_tensor *w, size_t row, float *out, float *scale) {
    if (!format_is_code(w->compute)) {
        tensor_read_floats(w, row, 0, w->cols, out);
        *scale = 1.0f;
        return;
    }
    for (size_t c = 0; c < w->cols; c += UNIT) {
        int8_t codes[UNIT];
        size_t n = w->cols - c < UNIT ? w->cols - c : UNIT;
        tensor_read_codes(w, row, c, n, codes);
        for (size_t i = 0; i < n; i++) out[c + i] = (float)codes[i];
    }
    *scale = tensor_compute_scale(w, row);
}

static void forward_item(void *arg, size_t item, int lane) {
    const struct product *p = arg;
    const struct activations *x = p->x;
    float *w = workspace_lane(p->ws, lane);
    size_t last = (item + 1) * ROW_BLOCK < p->rows ? (item + 1) * ROW_BLOCK : p->rows;
    for (size_t r = item * ROW_BLOCK; r < last; r++) {
        float scale;
        read_row(p->w, p->row + r, w, &scale);
        for (size_t t = 0; t < x->tokens; t++) {
            float value;
            if (x->codes && format_is_code(p->w->compute)) {
                int32_t sum = 0;
                for (size_t c = 0; c < x->cols; c++) sum += x->codes[t * x->ld + c] * (int32_t)w[c];
                value = (float)sum * (x->step[t] * scale);
            } else if (x->codes) {
                float sum = 0.0f;
                for (size_t c = 0; c < x->cols; c++) sum += (float)x->codes[t * x->ld + c] * w[c];
                value = sum * x->step[t];
            } else {
                float sum = 0.0f;
                for (size_t c = 0; c < x->cols; c++)
                    sum += rounded(x->floats[t * x->ld + c], p->bf16) * rounded(w[c], p->bf16);
                value = sum * scale;
            }
            float *y = &p->y[t * p->ld_y + r];
            *y = p->accumulate ? *y + value : value;
        }
    }
}

void matmul_forward(const dqt_context *ctx, const struct workspace *ws, const struct activations *x, const dqt_tensor *w,
                    size_t row, size_t rows, int precision, bool accumulate, float *y, size_t ld_y) {
    struct product p = {.ctx = ctx, .ws = ws, .x = x, .w = w, .row = row, .rows = rows, .bf16 = precision == DQT_PRECISION_BF16,
                        .accumulate = accumulate, .y = y, .ld_y = ld_y};
    parallel_run(ctx, (rows + ROW_BLOCK - 1) / ROW_BLOCK, forward_item, &p);
}

static void input_gradient_item(void *arg, size_t item, int lane) {
    const struct product *p = arg;
    float *w = workspace_lane(p->ws, lane);
    size_t cols = p->w->cols;
    size_t first = item * TOKEN_BLOCK, last = first + TOKEN_BLOCK < p->tokens ? first + TOKEN_BLOCK : p->tokens;
    if (!p->accumulate) memset(p->y + first * cols, 0, (last - first) * cols * sizeof(float));
    for (size_t r = 0; r < p->rows; r++) {
        float scale;
        read_row(p->w, p->row + r, w, &scale);
        for (size_t t = first; t < last; t++) {
            float d = rounded(p->dy[t * p->ld_dy + r] * scale, p->bf16);
            for (size_t c = 0; c < cols; c++) p->y[t * cols + c] += d * rounded(w[c], p->bf16);
        }
    }
}

void matmul_input_gradient(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy, size_t tokens,
                           const dqt_tensor *w, size_t row, size_t rows, int precision, bool accumulate, float *dx) {
    struct product p = {.ctx = ctx, .ws = ws, .dy = dy, .ld_dy = ld_dy, .tokens = tokens, .w = w, .row = row, .rows = rows,
                        .bf16 = precision == DQT_PRECISION_BF16, .accumulate = accumulate, .y = dx};
    parallel_run(ctx, (tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK, input_gradient_item, &p);
}

static void weight_gradient_item(void *arg, size_t item, int lane) {
    const struct product *p = arg;
    const struct activations *x = p->x;
    float *tile = workspace_lane(p->ws, lane);
    size_t ld = round_up(x->cols, 16), first = item * MATMUL_TILE_ROWS;
    size_t rows = p->rows - first < MATMUL_TILE_ROWS ? p->rows - first : MATMUL_TILE_ROWS;
    memset(tile, 0, rows * ld * sizeof *tile);
    for (size_t t = 0; t < x->tokens; t++) {
        float step = x->codes ? x->step[t] : 1.0f;
        for (size_t r = 0; r < rows; r++) {
            float d = rounded(p->dy[t * p->ld_dy + first + r] * step, p->bf16);
            float *out = tile + r * ld;
            if (x->codes) {
                for (size_t c = 0; c < x->cols; c++) out[c] += d * (float)x->codes[t * x->ld + c];
            } else {
                for (size_t c = 0; c < x->cols; c++) out[c] += d * rounded(x->floats[t * x->ld + c], p->bf16);
            }
        }
    }
    p->consume(p->arg, first, rows, tile, ld, lane);
}

void matmul_weight_gradient(const dqt_context *ctx, const struct workspace *ws, const float *dy, size_t ld_dy, size_t rows,
                            const struct activations *x, int precision, tile_fn consume, void *arg) {
    struct product p = {.ctx = ctx, .ws = ws, .dy = dy, .ld_dy = ld_dy, .x = x, .rows = rows,
                        .bf16 = precision == DQT_PRECISION_BF16, .consume = consume, .arg = arg};
    parallel_run(ctx, (rows + MATMUL_TILE_ROWS - 1) / MATMUL_TILE_ROWS, weight_gradient_item, &p);
}
