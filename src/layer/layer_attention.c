/* Attention layer: q, k, v; rotation; causal attention; optional sub-norm; o. */
#include "layer/run.h"
#include "ops/attention.h"

static struct attention_shape shape_of(const struct slot *s) {
    const dqt_layer *l = s->layer;
    return (struct attention_shape){s->batch, s->length, l->heads, l->kv_heads, l->head_size};
}

static void rotate(const dqt_tape *t, const struct slot *s, float *q, float *k, bool inverse) {
    const dqt_layer *l = s->layer;
    const size_t first = t->cache ? t->cache->first : 0;
    rope_apply(t->ctx, q, s->batch, s->length, l->heads, l->head_size, first, s->cosines, s->sines, inverse);
    rope_apply(t->ctx, k, s->batch, s->length, l->kv_heads, l->head_size, first, s->cosines, s->sines, inverse);
}

/* The heads' outputs, from this pass's keys and values or, in a session, from the cache after they joined it. */
static void mix(const dqt_tape *t, struct slot *s) {
    struct attention_shape shape = shape_of(s);
    if (!t->cache) {
        attention_forward(t->ctx, &t->workspace, &shape, s->q, s->k, s->v, t->precision, s->mixed, s->log_sum);
        return;
    }
    const size_t kv = shape.kv_heads * shape.head_size, first = t->cache->first, count = s->length;
    memcpy(t->cache->k + first * kv, s->k, count * kv * sizeof(float));
    memcpy(t->cache->v + first * kv, s->v, count * kv * sizeof(float));
    shape.length = t->positions;
    attention_cached(t->ctx, &t->workspace, &shape, s->q, t->cache->k, t->cache->v, first, count, s->mixed);
}

void attention_layer_forward(dqt_tape *t, struct slot *s, bool accumulate, float *y) {
    const dqt_layer *l = s->layer;
    const size_t tokens = slot_tokens(s);
    const struct activations in = activations_of(&s->input, tokens), inner = activations_of(&s->inner, tokens);
    float *const outputs[] = {s->q, s->k, s->v};
    for (int i = ATTENTION_Q; i <= ATTENTION_V; i++)
        gemm_forward(t->ctx, &t->workspace, &in, l->weight[i], 0, l->weight[i]->rows, t->precision, false, outputs[i],
                     l->weight[i]->rows);
    rotate(t, s, s->q, s->k, false);
    mix(t, s);
    struct activation_source mixed = {.x = s->mixed};
    if (l->weight[ATTENTION_NORM]) {
        mixed.gain = gain_of(l->weight[ATTENTION_NORM]);
        mixed.eps = l->eps;
        mixed.inverse_rms = s->inverse_rms;
    }
    activations_make(t->ctx, &t->workspace, &mixed, tokens, &s->inner);
    if (y)
        gemm_forward(t->ctx, &t->workspace, &inner, l->weight[ATTENTION_O], 0, l->in, t->precision, accumulate, y,
                     l->in);
}

void attention_layer_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const dqt_layer *l = s->layer;
    const size_t tokens = slot_tokens(s), kv = l->kv_heads * l->head_size, mark = tape_mark(t);
    const struct attention_shape shape = shape_of(s);
    const struct activations in = activations_of(&s->input, tokens), inner = activations_of(&s->inner, tokens);
    float *dmixed = tape_take(t, tokens * l->in);

    weight_backward(t, s, ATTENTION_O, dy, &inner, false, dmixed);
    if (l->weight[ATTENTION_NORM])
        gain_backward(t, s, ATTENTION_NORM, (struct norm_gradient){.dy = dmixed, .x = s->mixed, .dx = dmixed});

    float *dq = tape_take(t, tokens * l->in), *dk = tape_take(t, tokens * kv), *dv = tape_take(t, tokens * kv);
    attention_backward(t->ctx, &t->workspace, &shape, s->q, s->k, s->v, s->mixed, s->log_sum, dmixed, t->precision, dq,
                       dk, dv);
    rotate(t, s, dq, dk, true);
    const float *const gradients[] = {dq, dk, dv};
    for (int i = ATTENTION_Q; i <= ATTENTION_V; i++)
        weight_backward(t, s, i, gradients[i], &in, i != ATTENTION_Q, dx);
    tape_release(t, mark);
}
