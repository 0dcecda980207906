/* Attention: q, k, v; rotation; causal attention; optional sub-norm; o. */
#include "core/status.h"
#include "layer/run.h"
#include "ops/attention.h"
#include "ops/bias.h"

enum { HEAD_NORMS = ATTENTION_WEIGHTS - ATTENTION_HEAD_NORMS }; /* of q and of k */

/* width = heads * head_size, kv = kv_heads * head_size. */
struct attention_saved {
    float *q, *k, *v;               /* q [max_tokens][width] and k [max_tokens][kv], rotated; v [max_tokens][kv] */
    float *mixed;                   /* [max_tokens][width]: the heads' outputs */
    float *log_sum;                 /* [max_tokens][heads], of the softmax's denominators */
    float *inverse_rms;             /* [max_tokens], of the sub-norm */
    struct activation_buffer inner; /* [max_tokens][width]: what enters o */
    struct {
        float *x;           /* as q or k: what was normed */
        float *inverse_rms; /* [max_tokens][heads or kv_heads] */
    } head_norms[HEAD_NORMS];
    float *cosines, *sines; /* [positions][head_size / 2], shared by slots with the same rotation */
};

static dqt_status attention_check(dqt_context *ctx, const struct layer_shape *s, const dqt_layer *tied) {
    (void)tied;
    size_t width;
    if (s->heads == 0 || s->head_size == 0 || s->head_size % 2)
        return fail(ctx, DQT_E_SHAPE,
                    "hidden %zu must be num_heads %zu times an even head size, or head_dim an even number", s->in,
                    s->heads);
    if (!size_mul(s->heads, s->head_size, &width))
        return fail(ctx, DQT_E_SHAPE, "num_heads %zu times head_dim %zu is too large", s->heads, s->head_size);
    if (s->kv_heads == 0 || s->heads % s->kv_heads)
        return fail(ctx, DQT_E_SHAPE, "num_kv_heads %zu must divide num_heads %zu", s->kv_heads, s->heads);
    return DQT_OK;
}

static void attention_layout(const dqt_tape *t, struct slot *s, struct arena *a) {
    const dqt_layer *l = s->layer;
    const size_t width = layer_size(l, SIZE_Q), kv = layer_size(l, SIZE_KV);
    struct attention_saved *saved = s->saved;
    s->input = layout_input(t, l, l->shape.in, a);
    saved->inner = layout_input(t, l, width, a);
    saved->q = layout_rows(t, width, a);
    saved->k = layout_rows(t, kv, a);
    saved->v = layout_rows(t, kv, a);
    saved->mixed = layout_rows(t, width, a);
    if (!tape_saves(t)) return;
    saved->log_sum = layout_rows(t, l->shape.heads, a);
    if (l->weight[ATTENTION_NORM]) saved->inverse_rms = layout_rows(t, 1, a);
    for (int i = 0; i < HEAD_NORMS && l->weight[ATTENTION_HEAD_NORMS + i]; i++) {
        const size_t rows = layer_normed_rows(l, ATTENTION_HEAD_NORMS + i);
        saved->head_norms[i].x = layout_rows(t, rows * l->shape.head_size, a);
        saved->head_norms[i].inverse_rms = layout_rows(t, rows, a);
    }
}

static bool same_float(float a, float b) {
    return a >= b && a <= b;
}

/* What a scaling does not read is 0, so its numbers tell which it is. */
static bool same_rotation(const dqt_layer *a, const dqt_layer *b) {
    const struct rope *r = &a->rope, *s = &b->rope;
    return a->shape.head_size == b->shape.head_size && same_float(r->theta, s->theta) &&
           same_float(r->factor, s->factor) && same_float(r->low_freq_factor, s->low_freq_factor) &&
           same_float(r->high_freq_factor, s->high_freq_factor) && r->original_context == s->original_context;
}

/* The tables of an earlier slot with the same rotation, or new ones. */
static void attention_layout_tables(const dqt_tape *t, struct slot *s, struct arena *a) {
    const size_t head_size = s->layer->shape.head_size;
    struct attention_saved *saved = s->saved;
    for (const struct slot *other = t->slots; other < s; other++) {
        if (other->layer->kind != &attention_kind || !same_rotation(other->layer, s->layer)) continue;
        const struct attention_saved *shared = other->saved;
        saved->cosines = shared->cosines;
        saved->sines = shared->sines;
        return;
    }
    saved->cosines = arena_take(a, t->positions, head_size / 2 * sizeof(float));
    saved->sines = arena_take(a, t->positions, head_size / 2 * sizeof(float));
    if (saved->cosines) rope_table(&s->layer->rope, head_size, t->positions, saved->cosines, saved->sines);
}

/* Of backward: gradients of what forward saved, in its shapes. */
struct attention_temporaries {
    float *dmixed, *dq; /* [tokens][width] */
    float *dk, *dv;     /* [tokens][kv] */
};

static struct attention_temporaries take_temporaries(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    const size_t width = layer_size(l, SIZE_Q), kv = layer_size(l, SIZE_KV);
    struct attention_temporaries d;
    d.dmixed = tape_take(t, tokens, width);
    d.dq = tape_take(t, tokens, width);
    d.dk = tape_take(t, tokens, kv);
    d.dv = tape_take(t, tokens, kv);
    return d;
}

static void attention_backward_temporaries(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    take_temporaries(t, l, tokens);
    for (int i = ATTENTION_NORM; i < ATTENTION_WEIGHTS; i++) {
        const size_t mark = tape_mark(t);
        if (l->weight[i]) vector_temporaries(t, l, i);
        tape_release(t, mark);
    }
}

static void attention_layer_scratch(const dqt_tape *t, const dqt_layer *l, struct scratch_need *need) {
    const struct attention_shape shape = {t->options.max_batch, t->options.max_length, l->shape.heads,
                                          l->shape.kv_heads, l->shape.head_size};
    layer_scratch(t, l, need);
    attention_scratch(t->ctx, &shape, need);
    if (t->options.inference) attention_cached_scratch(t->ctx, t->max_tokens, l->shape.heads, l->shape.head_size, need);
}

static struct attention_shape shape_of(const struct slot *s) {
    const dqt_layer *l = s->layer;
    return (struct attention_shape){s->batch, s->length, l->shape.heads, l->shape.kv_heads, l->shape.head_size};
}

static void rotate(const dqt_tape *t, const struct slot *s, float *q, float *k, bool inverse) {
    const struct attention_saved *saved = s->saved;
    const struct attention_shape n = shape_of(s);
    const size_t *position = t->cached ? t->cached->tokens.position : NULL;
    DQT_ASSERT(position || n.length <= t->positions);
    rope_apply(t->ctx, q, n.batch, n.length, s->runs, n.heads, n.head_size, position, saved->cosines, saved->sines,
               inverse);
    rope_apply(t->ctx, k, n.batch, n.length, s->runs, n.kv_heads, n.head_size, position, saved->cosines, saved->sines,
               inverse);
}

/* The heads' outputs, from this pass's keys and values or, of sessions, from the caches after they joined them. */
static void mix(const dqt_tape *t, struct slot *s) {
    struct attention_saved *saved = s->saved;
    const struct attention_shape shape = shape_of(s);
    const struct cached_pass *pass = t->cached;
    if (!pass) {
        attention_forward(t->ctx, &t->workspace, &shape, s->runs, saved->q, saved->k, saved->v, t->precision,
                          saved->mixed, saved->log_sum);
        return;
    }
    kv_cache_put(t->ctx, &pass->tokens, pass->layer, saved->k, saved->v);
    attention_cached(t->ctx, &t->workspace, &pass->tokens, pass->layer, shape.heads, saved->q, saved->mixed);
}

/* What follows the product of q, k or v: bias, and the norm of every head of q and of k (Qwen3, Yang et al. 2025,
 * section 2). */
static void add_bias_and_norm(dqt_tape *t, const struct slot *s, int weight, size_t tokens, float *y) {
    const dqt_layer *l = s->layer;
    const struct attention_saved *saved = s->saved;
    const dqt_tensor *bias = l->weight[ATTENTION_BIASES + weight];
    const dqt_tensor *gain = weight < HEAD_NORMS ? l->weight[ATTENTION_HEAD_NORMS + weight] : NULL;
    if (bias) bias_add(t->ctx, gain_of(bias), tokens, bias->cols, y);
    if (!gain) return;
    const struct activation_source source = {.x = y,
                                             .kept = saved->head_norms[weight].x,
                                             .gain = gain_of(gain),
                                             .eps = l->eps,
                                             .inverse_rms = saved->head_norms[weight].inverse_rms};
    const struct activation_buffer out = {.floats = y, .cols = gain->cols, .ld = gain->cols};
    activations_make(t->ctx, &t->workspace, &source, tokens * layer_normed_rows(l, ATTENTION_HEAD_NORMS + weight),
                     &out);
}

/* q, k and v before rotation. */
static void project(dqt_tape *t, const struct slot *s, const struct activations *in) {
    static const int weights[] = {ATTENTION_Q, ATTENTION_K, ATTENTION_V};
    enum { COUNT = sizeof weights / sizeof *weights };
    const struct attention_saved *saved = s->saved;
    float *const y[COUNT] = {saved->q, saved->k, saved->v};
    weights_forward(t, s, weights, COUNT, in, y);
    for (int i = 0; i < COUNT; i++)
        add_bias_and_norm(t, s, weights[i], in->tokens, y[i]);
}

/* One of them backward, from d, the gradient of y, which becomes that of the product. */
static void project_backward(dqt_tape *t, struct slot *s, int weight, const struct activations *in, float *d,
                             float *dx) {
    const dqt_layer *l = s->layer;
    const struct attention_saved *saved = s->saved;
    if (weight < HEAD_NORMS && l->weight[ATTENTION_HEAD_NORMS + weight])
        gain_backward(t, s, ATTENTION_HEAD_NORMS + weight,
                      (struct norm_gradient){.dy = d,
                                             .x = saved->head_norms[weight].x,
                                             .inverse_rms = saved->head_norms[weight].inverse_rms,
                                             .dx = d});
    if (l->weight[ATTENTION_BIASES + weight]) bias_backward(t, s, ATTENTION_BIASES + weight, d);
    weight_backward(t, s, weight, d, in, weight != ATTENTION_Q, dx);
}

void attention_from_input(dqt_tape *t, struct slot *s, bool accumulate, float *y) {
    const dqt_layer *l = s->layer;
    const struct attention_saved *saved = s->saved;
    const size_t tokens = slot_tokens(s);
    const struct activations in = activations_of(&s->input, tokens), inner = activations_of(&saved->inner, tokens);
    project(t, s, &in);
    rotate(t, s, saved->q, saved->k, false);
    mix(t, s);
    struct activation_source mixed = {.x = saved->mixed};
    if (l->weight[ATTENTION_NORM]) {
        mixed.gain = gain_of(l->weight[ATTENTION_NORM]);
        mixed.eps = l->eps;
        mixed.inverse_rms = saved->inverse_rms;
    }
    activations_make(t->ctx, &t->workspace, &mixed, tokens, &saved->inner);
    if (y) weight_forward(t, s, ATTENTION_O, &inner, accumulate, y);
}

static void forward(dqt_tape *t, struct slot *s, const float *x, float *y) {
    save_input(t, &s->input, x, slot_tokens(s));
    attention_from_input(t, s, false, y);
}

static void backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const dqt_layer *l = s->layer;
    const struct attention_saved *saved = s->saved;
    const size_t tokens = slot_tokens(s), mark = tape_mark(t);
    const struct attention_shape shape = shape_of(s);
    const struct activations in = activations_of(&s->input, tokens), inner = activations_of(&saved->inner, tokens);
    const struct attention_temporaries d = take_temporaries(t, l, tokens);

    weight_backward(t, s, ATTENTION_O, dy, &inner, false, d.dmixed);
    if (l->weight[ATTENTION_NORM])
        gain_backward(t, s, ATTENTION_NORM,
                      (struct norm_gradient){
                          .dy = d.dmixed, .x = saved->mixed, .inverse_rms = saved->inverse_rms, .dx = d.dmixed});
    attention_backward(t->ctx, &t->workspace, &shape, s->runs, saved->q, saved->k, saved->v, saved->mixed,
                       saved->log_sum, d.dmixed, t->precision, d.dq, d.dk, d.dv);
    rotate(t, s, d.dq, d.dk, true);
    project_backward(t, s, ATTENTION_Q, &in, d.dq, dx);
    project_backward(t, s, ATTENTION_K, &in, d.dk, dx);
    project_backward(t, s, ATTENTION_V, &in, d.dv, dx);
    tape_release(t, mark);
}

#define BIAS(name, hf, gguf, size)                                                                                     \
    {                                                                                                                  \
        .names = {name, hf, NULL, gguf}, .parameter_class = DQT_CLASS_BIAS, .rows = SIZE_ONE, .cols = size,            \
        .need = WITH_BIAS                                                                                              \
    }
#define HEAD_NORM(name, hf, gguf, count)                                                                               \
    {                                                                                                                  \
        .names = {name, hf, NULL, gguf}, .parameter_class = DQT_CLASS_NORM, .rows = SIZE_ONE, .cols = SIZE_HEAD,       \
        .need = WITH_QK_NORM, .normed_rows = count                                                                     \
    }

const struct layer_kind attention_kind =
    {
        .id = DQT_LAYER_ATTENTION,
        .name = "attention",
        .mixes_tokens = true,
        .weights =
            {
                [ATTENTION_Q] = {.names = {"q", "self_attn.q_proj", NULL, "attn_q"},
                                 .parameter_class = DQT_CLASS_ATTENTION,
                                 .rows = SIZE_Q,
                                 .cols = SIZE_IN,
                                 .rotated_heads = SIZE_HEADS},
                [ATTENTION_K] = {.names = {"k", "self_attn.k_proj", NULL, "attn_k"},
                                 .parameter_class = DQT_CLASS_ATTENTION,
                                 .rows = SIZE_KV,
                                 .cols = SIZE_IN,
                                 .rotated_heads = SIZE_KV_HEADS},
                [ATTENTION_V] = {.names = {"v", "self_attn.v_proj", NULL, "attn_v"},
                                 .parameter_class = DQT_CLASS_ATTENTION,
                                 .rows = SIZE_KV,
                                 .cols = SIZE_IN},
                [ATTENTION_O] = {.names = {"o", "self_attn.o_proj", NULL, "attn_output"},
                                 .parameter_class = DQT_CLASS_ATTENTION,
                                 .rows = SIZE_IN,
                                 .cols = SIZE_Q},
                [ATTENTION_NORM] = {.names = {"sub_norm", "self_attn.inner_attn_ln", "self_attn.attn_sub_norm",
                                              "attn_sub_norm"},
                                    .parameter_class = DQT_CLASS_NORM,
                                    .rows = SIZE_ONE,
                                    .cols = SIZE_Q,
                                    .need = WITH_SUB_NORM},
                [ATTENTION_BIASES + ATTENTION_Q] = BIAS("q_bias", "self_attn.q_proj", "attn_q", SIZE_Q),
                [ATTENTION_BIASES + ATTENTION_K] = BIAS("k_bias", "self_attn.k_proj", "attn_k", SIZE_KV),
                [ATTENTION_BIASES + ATTENTION_V] = BIAS("v_bias", "self_attn.v_proj", "attn_v", SIZE_KV),
                [ATTENTION_HEAD_NORMS + ATTENTION_Q] =
                    HEAD_NORM("q_norm", "self_attn.q_norm", "attn_q_norm", SIZE_HEADS),
                [ATTENTION_HEAD_NORMS + ATTENTION_K] =
                    HEAD_NORM("k_norm", "self_attn.k_norm", "attn_k_norm", SIZE_KV_HEADS),
            },
        .check = attention_check,
        .saved_bytes = sizeof(struct attention_saved),
        .layout = attention_layout,
        .layout_tables = attention_layout_tables,
        .backward_temporaries = attention_backward_temporaries,
        .scratch = attention_layer_scratch,
        .forward = forward,
        .backward = backward,
};
