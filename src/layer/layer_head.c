/* Head: logits in tiles of classes; cross-entropy by running log-sum-exp; logits are made again in backward. */
#include <math.h>

#include "core/status.h"
#include "layer/run.h"
#include "ops/loss.h"

struct head_saved {
    float *log_sum;      /* [max_tokens]: log of the sum of exp(logit); until it is known, of exp(logit - maximum) */
    float *maximum;      /* [max_tokens], while the loss is made */
    float *target_logit; /* [max_tokens], while the loss is made */
    int32_t *targets;    /* [max_tokens] */
    size_t used;         /* targets that are not ignored */
};

static void head_layout(const dqt_tape *t, struct slot *s, struct arena *a) {
    struct head_saved *saved = s->saved;
    s->input = layout_input(t, s->layer, s->layer->shape.in, a);
    saved->log_sum = layout_rows(t, 1, a);
    saved->maximum = layout_rows(t, 1, a);
    saved->target_logit = layout_rows(t, 1, a);
    saved->targets = arena_take(a, t->max_tokens, sizeof *saved->targets);
}

static dqt_status head_check(dqt_context *ctx, const struct layer_shape *s, const dqt_layer *tied) {
    if (!tied) return DQT_OK;
    if (!tied->kind->takes_tokens || tied->ctx != ctx)
        return fail(ctx, DQT_E_ARGUMENT, "tied must be an embedding of the same context");
    if (tied->shape.in != s->out || tied->shape.out != s->in)
        return fail(ctx, DQT_E_SHAPE, "a head of %zu x %zu cannot use an embedding of %zu x %zu", s->out, s->in,
                    tied->shape.in, tied->shape.out);
    return DQT_OK;
}

enum { HEAD_TILE_FLOATS = 2 << 20 }; /* 8 MiB of logits at a time */

size_t head_tile(const dqt_tape *t, const dqt_layer *head) {
    const size_t fit = HEAD_TILE_FLOATS / t->max_tokens / GEMM_TILE_ROWS * GEMM_TILE_ROWS;
    return size_min(size_max(fit, GEMM_TILE_ROWS), round_up(head->shape.out, GEMM_TILE_ROWS));
}

float *head_temporaries(dqt_tape *t, const dqt_layer *head) {
    return tape_take(t, t->max_tokens, head_tile(t, head));
}

static void take_temporaries(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    (void)tokens;
    head_temporaries(t, l);
}

static void head_scratch(const dqt_tape *t, const dqt_layer *l, struct scratch_need *need) {
    activations_scratch(l->shape.in, need);
    gemm_scratch(t->ctx, t->max_tokens, head_tile(t, l), l->shape.in, need);
}

static void tile_logits(dqt_tape *t, const struct slot *s, const struct activations *x, size_t first, size_t count,
                        float *out, size_t ld) {
    gemm_forward(t->ctx, &t->workspace, x, s->layer->weight[W], first, count, t->precision, false, out, ld);
}

void head_logits(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, float *logits) {
    const size_t classes = s->layer->shape.out;
    const struct activations a = save_input(t, &s->input, x, batch * length);
    s->length = 0;
    tile_logits(t, s, &a, 0, classes, logits, classes);
}

/* Mean over used targets in double, in token order. */
static double mean_loss(const struct head_saved *s, size_t tokens, float *token_losses) {
    double total = 0;
    for (size_t i = 0; i < tokens; i++) {
        double loss = 0;
        if (s->targets[i] >= 0) {
            const double log_sum = (double)s->maximum[i] + log((double)s->log_sum[i]);
            loss = log_sum - (double)s->target_logit[i];
        }
        if (token_losses) token_losses[i] = (float)loss;
        total += loss;
    }
    return s->used ? total / (double)s->used : 0;
}

dqt_status head_loss(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, const int32_t *targets,
                     float *loss, float *token_losses) {
    struct head_saved *saved = s->saved;
    const size_t tokens = batch * length, classes = s->layer->shape.out, tile = head_tile(t, s->layer),
                 mark = tape_mark(t);
    DQT_ASSERT(batch >= 1 && length >= 1 && tokens <= t->max_tokens);
    const struct activations a = save_input(t, &s->input, x, tokens);
    float *sum = saved->log_sum;
    s->batch = batch;
    s->length = 0;
    saved->used = 0;
    for (size_t i = 0; i < tokens; i++) {
        DQT_ASSERT(targets[i] >= -1 && (targets[i] < 0 || (size_t)targets[i] < classes));
        saved->targets[i] = targets[i];
        saved->used += targets[i] >= 0;
        saved->maximum[i] = -INFINITY;
        sum[i] = saved->target_logit[i] = 0;
    }
    float *logits = head_temporaries(t, s->layer);
    for (size_t first = 0; first < classes; first += tile) {
        const size_t count = size_min(classes - first, tile);
        tile_logits(t, s, &a, first, count, logits, tile);
        loss_tile(t->ctx, logits, tile, tokens, first, count, saved->targets, saved->maximum, sum, saved->target_logit);
    }
    tape_release(t, mark);
    const double mean = mean_loss(saved, tokens, token_losses);
    if (!isfinite(mean)) return fail(t->ctx, DQT_E_NUMERIC, "the loss is not finite");
    for (size_t i = 0; i < tokens; i++)
        saved->log_sum[i] = saved->targets[i] < 0 ? 0.0f : saved->maximum[i] + logf(sum[i]);
    s->length = length;
    *loss = (float)mean;
    return DQT_OK;
}

void head_logit_gradient(dqt_tape *t, struct slot *s, size_t first, size_t count, float loss_scale, float *logits) {
    const struct head_saved *saved = s->saved;
    const size_t tokens = slot_tokens(s), tile = head_tile(t, s->layer);
    DQT_ASSERT(count <= tile && first + count <= s->layer->shape.out);
    const struct activations a = activations_of(&s->input, tokens);
    const float scale = saved->used ? loss_scale / (float)saved->used : 0.0f;
    tile_logits(t, s, &a, first, count, logits, tile);
    loss_tile_backward(t->ctx, logits, tile, tokens, first, count, saved->targets, saved->log_sum, scale);
}

void head_backward(dqt_tape *t, struct slot *s, float loss_scale, float *dx) {
    const dqt_tensor *w = s->layer->weight[W];
    const size_t tokens = slot_tokens(s), tile = head_tile(t, s->layer), mark = tape_mark(t);
    DQT_ASSERT(s->length >= 1 && tape_saves(t));
    const struct activations a = activations_of(&s->input, tokens);
    const bool later = t->fused && s->layer->tied; /* embedding_backward makes the weight gradient */
    float *logits = head_temporaries(t, s->layer);
    if (!later) tape_begin_parameter(t, s->parameter[W]);
    for (size_t first = 0; first < w->rows; first += tile) {
        const size_t count = size_min(w->rows - first, tile);
        head_logit_gradient(t, s, first, count, loss_scale, logits);
        if (dx)
            gemm_input_gradient(t->ctx, &t->workspace, logits, tile, tokens, w, first, count, t->precision, first > 0,
                                dx);
        if (!later) tape_weight_gradient(t, s->parameter[W], first, logits, tile, count, &a);
    }
    /* A tied weight's gradient is complete only after the embedding's backward. */
    if (!later && !s->layer->tied) tape_end_parameter(t, s->parameter[W]);
    tape_release(t, mark);
    if (!later) s->length = 0;
}

const struct layer_kind head_kind = {
    .id = DQT_LAYER_HEAD,
    .name = "head",
    .may_be_tied = true,
    .weights = {[W] = {.names = {NULL, "lm_head", NULL, "output"},
                       .parameter_class = DQT_CLASS_HEAD,
                       .rows = SIZE_OUT,
                       .cols = SIZE_IN}},
    .check = head_check,
    .saved_bytes = sizeof(struct head_saved),
    .layout = head_layout,
    .forward_temporaries = take_temporaries,
    .backward_temporaries = take_temporaries,
    .scratch = head_scratch,
};
