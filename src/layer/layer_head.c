/* Head: logits in tiles of classes; cross-entropy by running log-sum-exp; logits are made again in backward. */
#include <math.h>

#include "core/status.h"
#include "layer/run.h"
#include "ops/loss.h"

static void tile_logits(dqt_tape *t, const struct slot *s, const struct activations *x, size_t first, size_t count,
                        float *out, size_t ld) {
    gemm_forward(t->ctx, &t->workspace, x, s->layer->weight[W], first, count, t->precision, false, out, ld);
}

static size_t tile_count(const dqt_tape *t, const struct slot *s, size_t first) {
    const size_t left = s->layer->out - first;
    return left < t->head_tile ? left : t->head_tile;
}

void head_logits(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, float *logits) {
    const struct activations a = save_input(t, &s->input, x, batch * length);
    s->length = 0;
    tile_logits(t, s, &a, 0, s->layer->out, logits, s->layer->out);
}

/* Mean over used targets in double, in token order. */
static double mean_loss(const struct slot *s, size_t tokens, const float *maximum, const float *target_logit,
                        const float *sum, float *token_losses) {
    double total = 0;
    for (size_t i = 0; i < tokens; i++) {
        double loss = 0;
        if (s->tokens[i] >= 0) {
            const double log_sum = (double)maximum[i] + log((double)sum[i]);
            loss = log_sum - (double)target_logit[i];
        }
        if (token_losses) token_losses[i] = (float)loss;
        total += loss;
    }
    return s->used ? total / (double)s->used : 0;
}

dqt_status head_loss(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, const int32_t *targets,
                     float *loss, float *token_losses) {
    const size_t tokens = batch * length, mark = tape_mark(t);
    const struct activations a = save_input(t, &s->input, x, tokens);
    float *sum = s->log_sum, *maximum = sum + t->max_tokens, *target_logit = maximum + t->max_tokens;
    s->batch = batch;
    s->length = 0;
    s->used = 0;
    for (size_t i = 0; i < tokens; i++) {
        s->tokens[i] = targets[i];
        s->used += targets[i] >= 0;
        maximum[i] = -INFINITY;
        sum[i] = target_logit[i] = 0;
    }
    float *logits = tape_take(t, t->max_tokens * t->head_tile);
    for (size_t first = 0; first < s->layer->out; first += t->head_tile) {
        const size_t count = tile_count(t, s, first);
        tile_logits(t, s, &a, first, count, logits, t->head_tile);
        loss_tile(t->ctx, logits, t->head_tile, tokens, first, count, s->tokens, maximum, sum, target_logit);
    }
    tape_release(t, mark);
    const double mean = mean_loss(s, tokens, maximum, target_logit, sum, token_losses);
    if (!isfinite(mean)) return fail(t->ctx, DQT_E_NUMERIC, "the loss is not finite");
    for (size_t i = 0; i < tokens; i++)
        s->log_sum[i] = s->tokens[i] < 0 ? 0.0f : maximum[i] + logf(sum[i]);
    s->length = length;
    *loss = (float)mean;
    return DQT_OK;
}

void head_logit_gradient(dqt_tape *t, struct slot *s, size_t first, size_t count, float loss_scale, float *logits) {
    const size_t tokens = slot_tokens(s);
    const struct activations a = activations_of(&s->input, tokens);
    const float scale = s->used ? loss_scale / (float)s->used : 0.0f;
    tile_logits(t, s, &a, first, count, logits, t->head_tile);
    loss_tile_backward(t->ctx, logits, t->head_tile, tokens, first, count, s->tokens, s->log_sum, scale);
}

void head_backward(dqt_tape *t, struct slot *s, float loss_scale, float *dx) {
    const dqt_tensor *w = s->layer->weight[W];
    const size_t tokens = slot_tokens(s), mark = tape_mark(t);
    const struct activations a = activations_of(&s->input, tokens);
    const bool later = t->fused && s->layer->tied; /* embedding_backward makes the weight gradient */
    float *logits = tape_take(t, t->max_tokens * t->head_tile);
    if (!later) tape_begin_parameter(t, s->parameter[W]);
    for (size_t first = 0; first < w->rows; first += t->head_tile) {
        const size_t count = tile_count(t, s, first);
        head_logit_gradient(t, s, first, count, loss_scale, logits);
        gemm_input_gradient(t->ctx, &t->workspace, logits, t->head_tile, tokens, w, first, count, t->precision,
                            first > 0, dx);
        if (!later) tape_weight_gradient(t, s->parameter[W], first, logits, t->head_tile, count, &a);
    }
    /* A tied weight's gradient is complete only after the embedding's backward. */
    if (!later && !s->layer->tied) tape_end_parameter(t, s->parameter[W]);
    tape_release(t, mark);
    if (!later) s->length = 0;
}
