/* MLP layer: SwiGLU or squared ReLU, optional sub-norm, down. */
#include "nn/run.h"
#include "ops/activation.h"
#include "ops/norm.h"

static void hidden_forward(const dqt_tape *t, const struct slot *s, size_t count, float *h) {
    if (s->gate)
        swiglu_forward(t->ctx, s->gate, s->up, count, h);
    else
        squared_relu_forward(t->ctx, s->up, count, h);
}

void mlp_forward(dqt_tape *t, struct slot *s, const float *x, bool accumulate, float *y) {
    const dqt_layer *l = s->layer;
    const size_t tokens = slot_tokens(s), n = l->intermediate, mark = tape_mark(t);
    const struct activations in = save_input(t, &s->input, x, tokens);
    if (s->gate)
        matmul_forward(t->ctx, &t->workspace, &in, l->weight[MLP_GATE], 0, n, t->precision, false, s->gate, n);
    matmul_forward(t->ctx, &t->workspace, &in, l->weight[MLP_UP], 0, n, t->precision, false, s->up, n);
    float *h = tape_take(t, tokens * n);
    hidden_forward(t, s, tokens * n, h);
    if (l->weight[MLP_NORM]) norm_forward(t->ctx, h, gain_of(l->weight[MLP_NORM]), l->eps, tokens, n, h, s->inverse_rms);
    const struct activations inner = save_input(t, &s->inner, h, tokens);
    if (y)
        matmul_forward(t->ctx, &t->workspace, &inner, l->weight[MLP_DOWN], 0, l->in, t->precision, accumulate, y, l->in);
    tape_release(t, mark);
}

void mlp_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const dqt_layer *l = s->layer;
    const size_t tokens = slot_tokens(s), n = l->intermediate, mark = tape_mark(t);
    const struct activations in = saved_activations(&s->input, tokens), inner = saved_activations(&s->inner, tokens);
    float *dh = tape_take(t, tokens * n), *h = tape_take(t, tokens * n);

    weight_backward(t, s, MLP_DOWN, dy, &inner, false, dh);
    if (l->weight[MLP_NORM]) {
        hidden_forward(t, s, tokens * n, h);
        gain_backward(t, s, MLP_NORM, dh, h, false, dh);
    }
    if (s->gate) {
        float *dgate = h;
        swiglu_backward(t->ctx, s->gate, s->up, dh, tokens * n, dgate, dh);
        weight_backward(t, s, MLP_GATE, dgate, &in, false, dx);
    } else {
        squared_relu_backward(t->ctx, s->up, dh, tokens * n, dh);
    }
    weight_backward(t, s, MLP_UP, dh, &in, s->gate != NULL, dx);
    tape_release(t, mark);
}
