/* Linear and RMSNorm layers, and the dispatch over kinds. */
#include "layer/run.h"

void linear_forward(dqt_tape *t, struct slot *s, const float *x, float *y) {
    const dqt_tensor *w = s->layer->weight[W];
    const struct activations a = save_input(t, &s->input, x, slot_tokens(s));
    gemm_forward(t->ctx, &t->workspace, &a, w, 0, w->rows, t->precision, false, y, w->rows);
}

void weight_backward(dqt_tape *t, struct slot *s, int weight, const float *dy, const struct activations *x,
                     bool accumulate, float *dx) {
    const dqt_tensor *w = s->layer->weight[weight];
    if (dx)
        gemm_input_gradient(t->ctx, &t->workspace, dy, w->rows, x->tokens, w, 0, w->rows, t->precision, accumulate, dx);
    tape_begin_parameter(t, s->parameter[weight]);
    tape_weight_gradient(t, s->parameter[weight], 0, dy, w->rows, w->rows, x);
    tape_end_parameter(t, s->parameter[weight]);
}

void linear_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const struct activations x = activations_of(&s->input, slot_tokens(s));
    weight_backward(t, s, W, dy, &x, false, dx);
}

void rmsnorm_forward(dqt_tape *t, struct slot *s, const float *x, const struct activation_buffer *out) {
    const dqt_layer *l = s->layer;
    const struct activation_source source = {
        .x = x, .kept = s->x, .gain = gain_of(l->weight[W]), .eps = l->eps, .inverse_rms = s->inverse_rms};
    activations_make(t->ctx, &t->workspace, &source, slot_tokens(s), out);
}

void gain_backward(dqt_tape *t, struct slot *s, int weight, struct norm_gradient g) {
    const dqt_tensor *gain = s->layer->weight[weight];
    const size_t mark = tape_mark(t);
    g.gain = gain_of(gain);
    g.inverse_rms = s->inverse_rms;
    g.dgain = tape_take(t, gain->cols);
    tape_begin_parameter(t, s->parameter[weight]);
    norm_backward(t->ctx, &t->workspace, &g, slot_tokens(s), gain->cols);
    tape_add_gradient(t, s->parameter[weight], 0, 1, g.dgain, gain->cols, 0);
    tape_end_parameter(t, s->parameter[weight]);
    tape_release(t, mark);
}

void rmsnorm_backward(dqt_tape *t, struct slot *s, const float *dy, bool accumulate, float *dx) {
    gain_backward(t, s, W, (struct norm_gradient){.dy = dy, .x = s->x, .dx = dx, .accumulate = accumulate});
}

void layer_forward(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, float *y) {
    const struct activation_buffer out = {.floats = y, .cols = s->layer->out, .ld = s->layer->out};
    s->batch = batch;
    s->length = length;
    switch (s->layer->kind) {
    case DQT_LAYER_LINEAR: linear_forward(t, s, x, y); break;
    case DQT_LAYER_RMSNORM: rmsnorm_forward(t, s, x, &out); break;
    case DQT_LAYER_ATTENTION:
        save_input(t, &s->input, x, slot_tokens(s));
        attention_layer_forward(t, s, false, y);
        break;
    case DQT_LAYER_MLP:
        save_input(t, &s->input, x, slot_tokens(s));
        mlp_forward(t, s, false, y);
        break;
    default: block_forward(t, s, x, y);
    }
}

void layer_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    switch (s->layer->kind) {
    case DQT_LAYER_LINEAR: linear_backward(t, s, dy, dx); break;
    case DQT_LAYER_RMSNORM: rmsnorm_backward(t, s, dy, false, dx); break;
    case DQT_LAYER_ATTENTION: attention_layer_backward(t, s, dy, dx); break;
    case DQT_LAYER_MLP: mlp_backward(t, s, dy, dx); break;
    default: block_backward(t, s, dy, dx);
    }
    s->length = 0; /* used up */
}
