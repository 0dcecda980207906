/* RMSNorm (Zhang and Sennrich 2019): y = x * r * gain, r = 1 / sqrt(mean(x^2) + eps). */
#include "layer/run.h"

struct rmsnorm_saved {
    float *x;           /* [max_tokens][in] */
    float *inverse_rms; /* [max_tokens] */
};

static void rmsnorm_layout(const dqt_tape *t, struct slot *s, struct arena *a) {
    struct rmsnorm_saved *saved = s->saved;
    if (!tape_saves(t)) return;
    saved->x = layout_rows(t, s->layer->shape.in, a);
    saved->inverse_rms = layout_rows(t, 1, a);
}

void rmsnorm_forward(dqt_tape *t, struct slot *s, const float *x, const struct activation_buffer *out) {
    const dqt_layer *l = s->layer;
    const struct rmsnorm_saved *saved = s->saved;
    const struct activation_source source = {
        .x = x, .kept = saved->x, .gain = gain_of(l->weight[W]), .eps = l->eps, .inverse_rms = saved->inverse_rms};
    activations_make(t->ctx, &t->workspace, &source, slot_tokens(s), out);
}

static void forward(dqt_tape *t, struct slot *s, const float *x, float *y) {
    const size_t out = s->layer->shape.out;
    rmsnorm_forward(t, s, x, &(struct activation_buffer){.floats = y, .cols = out, .ld = out});
}

void rmsnorm_backward(dqt_tape *t, struct slot *s, const float *dy, bool accumulate, float *dx) {
    const struct rmsnorm_saved *saved = s->saved;
    gain_backward(t, s, W,
                  (struct norm_gradient){
                      .dy = dy, .x = saved->x, .inverse_rms = saved->inverse_rms, .dx = dx, .accumulate = accumulate});
}

static void backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    rmsnorm_backward(t, s, dy, false, dx);
}

static void backward_temporaries(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    (void)tokens;
    vector_temporaries(t, l, W);
}

const struct layer_kind rmsnorm_kind = {
    .id = DQT_LAYER_RMSNORM,
    .name = "norm",
    .weights = {[W] = {.parameter_class = DQT_CLASS_NORM, .rows = SIZE_ONE, .cols = SIZE_IN}},
    .saved_bytes = sizeof(struct rmsnorm_saved),
    .layout = rmsnorm_layout,
    .backward_temporaries = backward_temporaries,
    .scratch = layer_scratch,
    .forward = forward,
    .backward = backward,
};
