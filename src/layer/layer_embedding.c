/* Embedding: rows looked up in forward; in backward gradients go to the touched rows only. */
#include "core/parallel.h"
#include "layer/run.h"

struct lookup_job {
    const dqt_tensor *w;
    const int32_t *tokens;
    float *y;
};

static void lookup(void *arg, size_t i, int lane) {
    (void)lane;
    const struct lookup_job *job = arg;
    tensor_read_floats(job->w, (size_t)job->tokens[i], 0, job->w->cols, job->y + i * job->w->cols);
}

/* Counting sort of token positions by token: positions of token v are order[start[v]] .. order[start[v + 1] - 1],
 * ascending, so that gradients are summed in a fixed order. */
static void sort_positions(const int32_t *tokens, size_t count, size_t vocab, int32_t *order, int32_t *start) {
    memset(start, 0, (vocab + 1) * sizeof *start);
    for (size_t i = 0; i < count; i++)
        start[tokens[i] + 1]++;
    for (size_t v = 0; v < vocab; v++)
        start[v + 1] += start[v];
    for (size_t i = 0; i < count; i++)
        order[start[tokens[i]]++] = (int32_t)i; /* start[v] is now the end of v */
    memmove(start + 1, start, vocab * sizeof *start);
    start[0] = 0;
}

void embedding_forward(dqt_tape *t, struct slot *s, size_t batch, size_t length, const int32_t *tokens, float *y) {
    s->batch = batch;
    s->length = length;
    if (s->tokens) memcpy(s->tokens, tokens, batch * length * sizeof *tokens);
    struct lookup_job job = {s->layer->weight[W], tokens, y};
    parallel_run(t->ctx, batch * length, lookup, &job);
}

struct scatter_job {
    dqt_tape *t;
    const struct slot *s;
    const float *dy;
};

/* Rows [tile * 64, ...) of the gradient. Without gradient buffers the updater wants every row; buffers only the
 * touched. */
static void scatter_tile(void *arg, size_t tile, int lane) {
    const struct scatter_job *job = arg;
    const struct slot *s = job->s;
    const dqt_tensor *w = s->layer->weight[W];
    const size_t first = tile * GEMM_TILE_ROWS, cols = w->cols;
    const size_t rows = w->rows - first < GEMM_TILE_ROWS ? w->rows - first : GEMM_TILE_ROWS;
    const bool all = job->t->fused != NULL;
    if (!all && s->start[first] == s->start[first + rows]) return;
    float *g = workspace_lane(&job->t->workspace, lane);
    for (size_t r = 0; r < rows; r++) {
        float *row = g + (all ? r * cols : 0);
        memset(row, 0, cols * sizeof *row);
        for (int32_t i = s->start[first + r]; i < s->start[first + r + 1]; i++) {
            const float *d = job->dy + (size_t)s->order[i] * cols;
            for (size_t c = 0; c < cols; c++)
                row[c] += d[c];
        }
        if (!all && s->start[first + r] < s->start[first + r + 1])
            tape_add_gradient(job->t, s->parameter[W], first + r, 1, row, cols, lane);
    }
    if (all) tape_add_gradient(job->t, s->parameter[W], first, rows, g, cols, lane);
}

/* Fused and tied: each tile of the head's gradient gets the embedding's rows before the updater sees it. */
struct tied_job {
    struct scatter_job scatter;
    size_t first;
};

static void tied_tile(void *arg, size_t row, size_t rows, float *tile, size_t ld, int lane) {
    const struct tied_job *job = arg;
    const struct slot *s = job->scatter.s;
    const size_t cols = s->layer->weight[W]->cols, first = job->first + row;
    float *sum = workspace_consumer(&job->scatter.t->workspace, lane); /* apart, as without fusion: the same bits */
    for (size_t r = 0; r < rows; r++) {
        if (s->start[first + r] == s->start[first + r + 1]) continue;
        memset(sum, 0, cols * sizeof *sum);
        for (int32_t i = s->start[first + r]; i < s->start[first + r + 1]; i++) {
            const float *d = job->scatter.dy + (size_t)s->order[i] * cols;
            for (size_t c = 0; c < cols; c++)
                sum[c] += d[c];
        }
        for (size_t c = 0; c < cols; c++)
            tile[r * ld + c] += sum[c];
    }
    tape_add_gradient(job->scatter.t, s->parameter[W], first, rows, tile, ld, lane);
}

void embedding_backward(dqt_tape *t, struct slot *s, const float *dy, struct slot *head, float loss_scale) {
    const dqt_tensor *w = s->layer->weight[W];
    const size_t tokens = slot_tokens(s), mark = tape_mark(t);
    struct scatter_job job = {t, s, dy};
    sort_positions(s->tokens, tokens, w->rows, s->order, s->start);
    tape_begin_parameter(t, s->parameter[W]);
    if (head) {
        const struct activations x = activations_of(&head->input, slot_tokens(head));
        float *logits = tape_take(t, t->max_tokens * t->head_tile);
        for (size_t first = 0; first < w->rows; first += t->head_tile) {
            const size_t count = w->rows - first < t->head_tile ? w->rows - first : t->head_tile;
            struct tied_job tied = {job, first};
            head_logit_gradient(t, head, first, count, loss_scale, logits);
            gemm_weight_gradient(t->ctx, &t->workspace, logits, t->head_tile, count, &x, t->precision, tied_tile,
                                 &tied);
        }
    } else {
        parallel_run(t->ctx, (w->rows + GEMM_TILE_ROWS - 1) / GEMM_TILE_ROWS, scatter_tile, &job);
    }
    tape_end_parameter(t, s->parameter[W]);
    tape_release(t, mark);
    s->length = 0;
}
