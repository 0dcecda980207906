/* Linear: y = x W^T. */
#include "layer/run.h"

static void linear_layout(const dqt_tape *t, struct slot *s, struct arena *a) {
    s->input = layout_input(t, s->layer, s->layer->shape.in, a);
}

static void linear_forward(dqt_tape *t, struct slot *s, const float *x, float *y) {
    const struct activations a = save_input(t, &s->input, x, slot_tokens(s));
    weight_forward(t, s, W, &a, false, y);
}

static void linear_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const struct activations x = activations_of(&s->input, slot_tokens(s));
    weight_backward(t, s, W, dy, &x, false, dx);
}

const struct layer_kind linear_kind = {
    .id = DQT_LAYER_LINEAR,
    .name = "linear",
    .weights = {[W] = {.parameter_class = DQT_CLASS_LINEAR, .rows = SIZE_OUT, .cols = SIZE_IN}},
    .layout = linear_layout,
    .scratch = layer_scratch,
    .forward = linear_forward,
    .backward = linear_backward,
};
