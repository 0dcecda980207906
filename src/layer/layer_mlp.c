/* MLP layer: SwiGLU or squared ReLU, optional sub-norm, down. */
#include "layer/run.h"
#include "ops/mlp.h"

void mlp_forward(dqt_tape *t, struct slot *s, bool accumulate, float *y) {
    const dqt_layer *l = s->layer;
    const size_t tokens = slot_tokens(s), n = l->intermediate;
    const struct activations in = activations_of(&s->input, tokens), inner = activations_of(&s->inner, tokens);
    if (s->gate) gemm_forward(t->ctx, &t->workspace, &in, l->weight[MLP_GATE], 0, n, t->precision, false, s->gate, n);
    gemm_forward(t->ctx, &t->workspace, &in, l->weight[MLP_UP], 0, n, t->precision, false, s->up, n);
    struct activation_source hidden = {.gate = s->gate, .up = s->up};
    if (l->weight[MLP_NORM]) {
        hidden.gain = gain_of(l->weight[MLP_NORM]);
        hidden.eps = l->eps;
        hidden.inverse_rms = s->inverse_rms;
    }
    activations_make(t->ctx, &t->workspace, &hidden, tokens, &s->inner);
    if (y)
        gemm_forward(t->ctx, &t->workspace, &inner, l->weight[MLP_DOWN], 0, l->in, t->precision, accumulate, y, l->in);
}

void mlp_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const dqt_layer *l = s->layer;
    const size_t tokens = slot_tokens(s), n = l->intermediate, mark = tape_mark(t);
    const struct activations in = activations_of(&s->input, tokens), inner = activations_of(&s->inner, tokens);
    float *dh = tape_take(t, tokens * n), *dup = dh, *dgate = s->gate ? tape_take(t, tokens * n) : NULL;

    weight_backward(t, s, MLP_DOWN, dy, &inner, false, dh);
    if (l->weight[MLP_NORM]) {
        gain_backward(t, s, MLP_NORM,
                      (struct norm_gradient){.dy = dh, .gate = s->gate, .up = s->up, .dgate = dgate, .dup = dup});
    } else {
        hidden_backward(t->ctx, s->gate, s->up, dh, tokens * n, dgate, dup);
    }
    if (s->gate) weight_backward(t, s, MLP_GATE, dgate, &in, false, dx);
    weight_backward(t, s, MLP_UP, dup, &in, s->gate != NULL, dx);
    tape_release(t, mark);
}
