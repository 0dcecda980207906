/* Head: logits in tiles of classes; cross-entropy by running log-sum-exp; logits are made again in backward. */
#include <math.h>

#include "core/status.h"
#include "layer/run.h"
#include "ops/loss.h"

struct head_saved {
    float *log_sum;      /* [max_tokens]: log of the sum of exp(logit); until it is known, of exp(logit - maximum) */
    float *maximum;      /* [max_tokens], while sums are made; then free for bounds of gradients */
    float *target_logit; /* [max_tokens], while the loss is made */
    float *weights;      /* [max_tokens]: of the targets' losses */
    int32_t *targets;    /* [max_tokens] */
    double divisor;      /* of the sum of losses */
    bool has_loss;       /* targets, weights, divisor and the targets' log_sum are there */
    bool has_sums;       /* log_sum of all tokens is there */
    struct head_gradient gradient; /* of the latest backward */
};

static void head_layout(const dqt_tape *t, struct slot *s, struct arena *a) {
    struct head_saved *saved = s->saved;
    s->input = layout_input(t, s->layer, s->layer->shape.in, a);
    saved->log_sum = layout_rows(t, 1, a);
    saved->maximum = layout_rows(t, 1, a);
    saved->target_logit = layout_rows(t, 1, a);
    saved->weights = layout_rows(t, 1, a);
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

/* Classes at a time: for each tile x is packed and the gradient of x read and written, so not fewer, and they keep all
 * lanes busy; more would be more memory. Gradients are sums over tiles and an int8 head is rounded by tiles, so the
 * number must not depend on what the tape has room for. */
enum { HEAD_TILE_CLASSES = 1024 };

size_t head_tile(const dqt_layer *head) {
    return size_min(HEAD_TILE_CLASSES, round_up(head->shape.out, GEMM_TILE_ROWS));
}

float *head_temporaries(dqt_tape *t, const dqt_layer *head) {
    return tape_take(t, t->max_tokens, head_tile(head));
}

static void take_temporaries(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    (void)tokens;
    head_temporaries(t, l);
}

static void head_scratch(const dqt_tape *t, const dqt_layer *l, struct scratch_need *need) {
    activations_scratch(l->shape.in, need);
    weight_scratch(t, l, W, head_tile(l), need);
}

static void tile_logits(dqt_tape *t, const struct slot *s, const struct activations *x, size_t first, size_t count,
                        float *out, size_t ld) {
    gemm_forward(t->ctx, &t->workspace, x, tape_gemv_tokens(t, x->tokens), s->layer->weight[W], first, count,
                 t->precision, false, out, ld);
}

/* What every pass begins with. */
static struct activations begin_pass(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x) {
    struct head_saved *saved = s->saved;
    DQT_ASSERT(batch >= 1 && length >= 1 && batch * length <= t->max_tokens);
    s->batch = batch;
    s->length = length;
    saved->has_loss = saved->has_sums = false;
    return save_input(t, &s->input, x, batch * length);
}

void head_logits(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, float *logits) {
    const size_t classes = s->layer->shape.out;
    const struct activations a = begin_pass(t, s, batch, length, x);
    if (logits) tile_logits(t, s, &a, 0, classes, logits, classes);
}

void head_logits_tiles(dqt_tape *t, struct slot *s, size_t tokens, const float *x, logits_tile_fn *take, void *arg) {
    const size_t classes = s->layer->shape.out, tile = head_tile(s->layer), mark = tape_mark(t);
    const struct activations a = begin_pass(t, s, 1, tokens, x);
    float *logits = head_temporaries(t, s->layer);
    for (size_t first = 0; first < classes; first += tile) {
        const size_t count = size_min(classes - first, tile);
        tile_logits(t, s, &a, first, count, logits, tile);
        take(arg, first, count, logits, tile);
    }
    tape_release(t, mark);
}

/* Maxima and sums over all classes, of the tokens with a target (and its logit), or with targets NULL of all. */
static void sum_tiles(dqt_tape *t, const struct slot *s, const int32_t *targets) {
    const struct head_saved *saved = s->saved;
    const size_t tokens = slot_tokens(s), classes = s->layer->shape.out, tile = head_tile(s->layer),
                 mark = tape_mark(t);
    const struct activations a = activations_of(&s->input, tokens);
    float *logits = head_temporaries(t, s->layer);
    for (size_t i = 0; i < tokens; i++) {
        saved->maximum[i] = -INFINITY;
        saved->log_sum[i] = saved->target_logit[i] = 0;
    }
    for (size_t first = 0; first < classes && !tape_interrupted(t); first += tile) {
        const size_t count = size_min(classes - first, tile);
        tile_logits(t, s, &a, first, count, logits, tile);
        loss_tile(t->ctx, logits, tile, tokens, first, count, targets, saved->maximum, saved->log_sum,
                  saved->target_logit);
    }
    tape_release(t, mark);
}

/* Maxima and sums become logarithms; 0 for ignored tokens. */
static void finish_sums(const struct slot *s, const int32_t *targets) {
    const struct head_saved *saved = s->saved;
    for (size_t i = 0; i < slot_tokens(s); i++)
        saved->log_sum[i] = targets && targets[i] < 0 ? 0.0f : saved->maximum[i] + logf(saved->log_sum[i]);
}

/* log_sum of all tokens. False if the host interrupted it, or one is not finite: the tape's status tells. */
static bool make_sums(dqt_tape *t, struct slot *s) {
    struct head_saved *saved = s->saved;
    if (saved->has_sums) return true;
    sum_tiles(t, s, NULL);
    if (tape_stopped(t)) return false;
    finish_sums(s, NULL);
    for (size_t i = 0; i < slot_tokens(s); i++)
        if (!isfinite(saved->log_sum[i]))
            return tape_stop(t, fail(t->ctx, DQT_E_NUMERIC, "the logits of token %zu are not finite", i));
    return saved->has_sums = true;
}

/* Sum over targets in double, in token order, over the divisor. */
static double mean_loss(const struct head_saved *s, size_t tokens, float *token_losses) {
    double total = 0;
    for (size_t i = 0; i < tokens; i++) {
        double loss = 0;
        if (s->targets[i] >= 0) {
            const double log_sum = (double)s->maximum[i] + log((double)s->log_sum[i]);
            loss = log_sum - (double)s->target_logit[i];
        }
        if (token_losses) token_losses[i] = (float)loss;
        total += (double)s->weights[i] * loss;
    }
    return total / s->divisor;
}

/* True: every token has a target. */
static bool save_targets(struct head_saved *saved, const dqt_batch *b, size_t classes) {
    (void)classes;
    bool all = true;
    saved->divisor = b->divisor;
    for (size_t i = 0; i < b->batch * b->length; i++) {
        DQT_ASSERT(b->targets[i] >= -1 && (b->targets[i] < 0 || (size_t)b->targets[i] < classes));
        saved->targets[i] = b->targets[i];
        saved->weights[i] = b->weights ? b->weights[i] : 1.0f;
        all = all && b->targets[i] >= 0;
    }
    return all;
}

static void loss_of_targets(dqt_tape *t, struct slot *s, const dqt_batch *b, float *loss, float *token_losses) {
    struct head_saved *saved = s->saved;
    const size_t tokens = slot_tokens(s);
    const bool all = save_targets(saved, b, s->layer->shape.out);
    sum_tiles(t, s, saved->targets);
    if (tape_stopped(t)) return;
    const double mean = mean_loss(saved, tokens, token_losses);
    if (!isfinite(mean)) {
        tape_stop(t, fail(t->ctx, DQT_E_NUMERIC, "the loss is not finite"));
        return;
    }
    finish_sums(s, saved->targets);
    saved->has_loss = true;
    saved->has_sums = all;
    *loss = (float)mean;
}

void head_loss(dqt_tape *t, struct slot *s, const dqt_batch *b, const float *x, float *loss, float *token_losses) {
    DQT_ASSERT(!b->targets || (isfinite(b->divisor) && (b->divisor < 0 || b->divisor > 0)));
    begin_pass(t, s, b->batch, b->length, x);
    if (b->targets) {
        loss_of_targets(t, s, b, loss, token_losses);
    } else if (make_sums(t, s)) {
        *loss = 0;
        for (size_t i = 0; token_losses && i < slot_tokens(s); i++)
            token_losses[i] = 0;
    }
    if (tape_stopped(t)) s->length = 0;
}

bool head_has_loss(const struct slot *s) {
    const struct head_saved *saved = s->saved;
    return s->length > 0 && saved->has_loss;
}

/* A number that is not finite among x[tokens][count]. */
static bool any_nonfinite(const float *x, size_t ld, size_t tokens, size_t count) {
    uint32_t largest = 0; /* of the magnitudes' bits: order as the numbers do, infinity and NaN above all */
    for (size_t i = 0; i < tokens; i++)
        for (size_t c = 0; c < count; c++) {
            uint32_t bits;
            memcpy(&bits, &x[i * ld + c], sizeof bits);
            bits &= 0x7fffffffu;
            if (bits > largest) largest = bits;
        }
    return largest >= 0x7f800000u;
}

/* The host's function turns a tile of logits into its gradient. */
static bool own_gradient(dqt_tape *t, const struct slot *s, size_t first, size_t count, float *logits, size_t ld) {
    const struct head_saved *saved = s->saved;
    const dqt_logits_gradient *own = &saved->gradient.own;
    const dqt_logits_tile tile = {.struct_size = sizeof tile,
                                  .num_tokens = slot_tokens(s),
                                  .first_class = first,
                                  .num_classes = count,
                                  .ld = ld,
                                  .logits = logits,
                                  .log_sum_exp = saved->log_sum};
    if (own->callback(own->user_data, &tile))
        return tape_stop(t, fail(t->ctx, DQT_E_CANCELLED, "the host's logits function asked to stop"));
    if (any_nonfinite(logits, ld, tile.num_tokens, count))
        return tape_stop(
            t, fail(t->ctx, DQT_E_NUMERIC, "a gradient of classes %zu to %zu is not finite", first, first + count - 1));
    return true;
}

bool head_logit_gradient(dqt_tape *t, const struct slot *s, size_t first, float *logits, struct logit_gradient *out) {
    const struct head_saved *saved = s->saved;
    const struct head_gradient *g = &saved->gradient;
    const size_t tokens = slot_tokens(s), tile = head_tile(s->layer), classes = s->layer->shape.out;
    DQT_ASSERT(first < classes && first % tile == 0);
    *out = (struct logit_gradient){logits, tile, size_min(classes - first, tile)};
    if (g->is_own && g->own.dlogits) {
        out->d = g->own.dlogits + first;
        out->ld = classes;
        return true;
    }
    const struct activations a = activations_of(&s->input, tokens);
    tile_logits(t, s, &a, first, out->count, logits, tile);
    if (g->is_own) return own_gradient(t, s, first, out->count, logits, tile);
    loss_tile_backward(t->ctx, logits, tile, tokens, first, out->count, saved->targets, saved->weights, saved->log_sum,
                       (float)((double)g->loss_scale / saved->divisor));
    return true;
}

/* In an update: leaves the weight as it is, whole, unless its gradient is proved finite. Of the latest loss a token's
 * gradient is (softmax - 1 at its target) * factor, whose norm is at most sqrt(2) * |factor|. */
static void check_weight_gradient(const dqt_tape *t, const struct slot *s) {
    const struct head_saved *saved = s->saved;
    const struct head_gradient *g = &saved->gradient;
    const size_t tokens = slot_tokens(s), classes = s->layer->shape.out;
    const struct activations a = activations_of(&s->input, tokens);
    if (g->is_own) {
        tape_check_gradient(t, s->parameter[W], g->own.dlogits, classes, tokens, classes, &a);
        return;
    }
    const float factor = 1.5f * (float)((double)g->loss_scale / saved->divisor);
    for (size_t i = 0; i < tokens; i++)
        saved->maximum[i] = saved->targets[i] < 0 ? 0.0f : factor * saved->weights[i];
    tape_check_gradient(t, s->parameter[W], saved->maximum, 1, tokens, 1, &a);
}

/* Over all tiles: dx, unless NULL, and the weight's gradient; without the latter, in an update, its check. */
static void backward_tiles(dqt_tape *t, struct slot *s, float *dx, bool weight) {
    const dqt_tensor *w = s->layer->weight[W];
    const size_t tokens = slot_tokens(s), tile = head_tile(s->layer), mark = tape_mark(t);
    const struct activations a = activations_of(&s->input, tokens);
    const struct head_saved *saved = s->saved;
    const bool own_tiles = saved->gradient.is_own && saved->gradient.own.callback;
    float *logits = head_temporaries(t, s->layer);
    struct logit_gradient g;
    for (size_t first = 0; first < w->rows; first += tile) {
        if (!(t->fused && weight) && tape_interrupted(t)) break; /* a weight is updated as a whole */
        if (!head_logit_gradient(t, s, first, logits, &g)) break;
        if (dx) tape_input_gradient(t, s, W, first, g.d, g.ld, g.count, &a, first > 0, dx);
        if (weight)
            tape_weight_gradient(t, s->parameter[W], first, g.d, g.ld, g.count, &a);
        else if (own_tiles)
            tape_check_gradient(t, s->parameter[W], g.d, g.ld, tokens, g.count, &a);
    }
    tape_release(t, mark);
}

void head_backward(dqt_tape *t, struct slot *s, const struct head_gradient *gradient, float *dx) {
    struct head_saved *saved = s->saved;
    DQT_ASSERT(s->length >= 1 && tape_saves(t) && (gradient->is_own || saved->has_loss));
    saved->gradient = *gradient;
    const bool by_tile = gradient->is_own && gradient->own.callback;
    const bool later = t->fused && s->layer->tied;     /* embedding_backward makes the weight gradient */
    const bool apart = later || (t->fused && by_tile); /* a tile that is refused comes before any update */
    if (!by_tile || make_sums(t, s)) {
        if (t->fused && !by_tile) check_weight_gradient(t, s);
        if (apart) backward_tiles(t, s, dx, false);
        if (!later && !tape_stopped(t)) {
            tape_begin_parameter(t, s->parameter[W]);
            backward_tiles(t, s, apart ? NULL : dx, true);
            /* A tied weight's gradient is complete only after the embedding's backward. */
            if (!s->layer->tied) tape_end_parameter(t, s->parameter[W]);
        }
    }
    s->deferred = later && !tape_stopped(t);
    s->deferred_pass = t->pass;
    if (!s->deferred) s->length = 0;
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
