/* Embedding: rows looked up in forward; in backward gradients go to the touched rows only. */
#include "core/parallel.h"
#include "layer/run.h"

struct embedding_saved {
    int32_t *tokens; /* [max_tokens] */
    int32_t *order;  /* [max_tokens]: positions sorted by token */
    int32_t *start;  /* [vocab + 1]: each token's first place in order */
};

static void embedding_layout(const dqt_tape *t, struct slot *s, struct arena *a) {
    struct embedding_saved *saved = s->saved;
    if (!tape_saves(t)) return;
    saved->tokens = arena_take(a, t->max_tokens, sizeof *saved->tokens);
    saved->order = arena_take(a, t->max_tokens, sizeof *saved->order);
    saved->start = arena_take(a, s->layer->shape.in + 1, sizeof *saved->start);
}

/* A lane's tile of rows of the gradient, and the rows of activations_make. */
static void embedding_scratch(const dqt_tape *t, const dqt_layer *l, struct scratch_need *need) {
    (void)t;
    activations_scratch(l->shape.out, need);
    scratch_max(need, 0, GEMM_TILE_ROWS * l->shape.out * sizeof(float), 0);
}

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
    const struct embedding_saved *saved = s->saved;
    DQT_ASSERT(batch >= 1 && length >= 1 && batch * length <= t->max_tokens);
    s->batch = batch;
    s->length = length;
    if (saved->tokens) memcpy(saved->tokens, tokens, batch * length * sizeof *tokens);
    struct lookup_job job = {s->layer->weight[W], tokens, y};
    parallel_run(t->ctx, batch * length, WORK_ELEMENT * (double)(batch * length) * (double)job.w->cols, lookup, &job);
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
    const struct embedding_saved *saved = s->saved;
    const dqt_tensor *w = s->layer->weight[W];
    const size_t first = tile * GEMM_TILE_ROWS, cols = w->cols;
    const size_t rows = size_min(w->rows - first, GEMM_TILE_ROWS);
    const bool all = job->t->fused != NULL;
    if (!all && saved->start[first] == saved->start[first + rows]) return;
    float *g = workspace_lane(&job->t->workspace, lane);
    for (size_t r = 0; r < rows; r++) {
        float *row = g + (all ? r * cols : 0);
        memset(row, 0, cols * sizeof *row);
        for (int32_t i = saved->start[first + r]; i < saved->start[first + r + 1]; i++) {
            const float *d = job->dy + (size_t)saved->order[i] * cols;
            for (size_t c = 0; c < cols; c++)
                row[c] += d[c];
        }
        if (!all && saved->start[first + r] < saved->start[first + r + 1])
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
    const struct embedding_saved *saved = s->saved;
    const size_t cols = s->layer->weight[W]->cols, first = job->first + row;
    float *sum = workspace_consumer(&job->scatter.t->workspace, lane); /* apart, as without fusion: the same bits */
    for (size_t r = 0; r < rows; r++) {
        if (saved->start[first + r] == saved->start[first + r + 1]) continue;
        memset(sum, 0, cols * sizeof *sum);
        for (int32_t i = saved->start[first + r]; i < saved->start[first + r + 1]; i++) {
            const float *d = job->scatter.dy + (size_t)saved->order[i] * cols;
            for (size_t c = 0; c < cols; c++)
                sum[c] += d[c];
        }
        for (size_t c = 0; c < cols; c++)
            tile[r * ld + c] += sum[c];
    }
    tape_add_gradient(job->scatter.t, s->parameter[W], first, rows, tile, ld, lane);
}

static void tied_backward(const struct scatter_job *job, const struct slot *head) {
    dqt_tape *t = job->t;
    const size_t rows = head->layer->weight[W]->rows, tile = head_tile(head->layer);
    const struct activations x = activations_of(&head->input, slot_tokens(head));
    float *logits = head_temporaries(t, head->layer);
    struct logit_gradient g;
    for (size_t first = 0; first < rows && head_logit_gradient(t, head, first, logits, &g); first += tile) {
        struct tied_job tied = {*job, first};
        tape_weight_tiles(t, head->parameter[W], head->deferred_pass, first, g.d, g.ld, g.count, &x, tied_tile, &tied);
    }
}

/* The slot of a head that is tied to this embedding, and whose weight gradient waits for it; NULL: none. */
static struct slot *deferred_head(const dqt_tape *t, const dqt_layer *embedding) {
    for (size_t i = 0; i < t->num_slots; i++)
        if (t->slots[i].deferred && t->slots[i].layer->tied == embedding) return &t->slots[i];
    return NULL;
}

void embedding_backward(dqt_tape *t, struct slot *s, const float *dy) {
    const struct embedding_saved *saved = s->saved;
    const size_t rows = s->layer->weight[W]->rows, mark = tape_mark(t);
    struct scatter_job job = {t, s, dy};
    struct slot *head = t->fused ? deferred_head(t, s->layer) : NULL;
    DQT_ASSERT(s->length >= 1 && tape_saves(t));
    sort_positions(saved->tokens, slot_tokens(s), rows, saved->order, saved->start);
    tape_begin_parameter(t, s->parameter[W]);
    tape_check_gradient(t, s->parameter[W], dy, s->layer->weight[W]->cols, slot_tokens(s), s->layer->weight[W]->cols,
                        NULL);
    if (head) {
        tied_backward(&job, head);
        head->deferred = false;
        head->length = 0;
    } else {
        const double cols = (double)s->layer->weight[W]->cols;
        const double work =
            WORK_ELEMENT * (double)slot_tokens(s) * cols + (t->fused ? WORK_UPDATE * (double)rows * cols : 0);
        parallel_run(t->ctx, ceil_div(rows, GEMM_TILE_ROWS), work, scatter_tile, &job);
    }
    tape_end_parameter(t, s->parameter[W]);
    tape_release(t, mark);
    s->length = 0;
}

const struct layer_kind embedding_kind = {
    .id = DQT_LAYER_EMBEDDING,
    .name = "embedding",
    .takes_tokens = true,
    .weights = {[W] = {.names = {NULL, "model.embed_tokens", NULL, "token_embd"},
                       .parameter_class = DQT_CLASS_EMBEDDING,
                       .rows = SIZE_IN,
                       .cols = SIZE_OUT}},
    .saved_bytes = sizeof(struct embedding_saved),
    .layout = embedding_layout,
    .scratch = embedding_scratch,
};
