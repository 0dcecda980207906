/* MLP: hidden rows from gate and up (ops/mlp.h), optional sub-norm, down. */
#include "layer/run.h"
#include "ops/mlp.h"

struct mlp_saved {
    float *gate, *up;               /* [max_tokens][intermediate]; gate NULL in a squared-ReLU MLP */
    float *inverse_rms;             /* [max_tokens], of the sub-norm */
    struct activation_buffer inner; /* [max_tokens][intermediate]: what enters down */
};

static void mlp_layout(const dqt_tape *t, struct slot *s, struct arena *a) {
    const dqt_layer *l = s->layer;
    const size_t n = l->shape.intermediate;
    struct mlp_saved *saved = s->saved;
    s->input = layout_input(t, l, l->shape.in, a);
    saved->inner = layout_input(t, l, n, a);
    if (l->weight[MLP_GATE]) saved->gate = layout_rows(t, n, a);
    saved->up = layout_rows(t, n, a);
    if (tape_saves(t) && l->weight[MLP_NORM]) saved->inverse_rms = layout_rows(t, 1, a);
}

/* Of backward, [tokens][intermediate]: gradients of the hidden rows, then of up in the same place, and of gate. */
struct mlp_temporaries {
    float *dup, *dgate;
};

static struct mlp_temporaries take_temporaries(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    struct mlp_temporaries d = {.dup = tape_take(t, tokens, l->shape.intermediate)};
    if (l->weight[MLP_GATE]) d.dgate = tape_take(t, tokens, l->shape.intermediate);
    return d;
}

static void mlp_backward_temporaries(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    take_temporaries(t, l, tokens);
    if (l->weight[MLP_NORM]) vector_temporaries(t, l, MLP_NORM);
}

static bool gate_is_squared(const dqt_layer *l) {
    return l->mlp == DQT_MLP_GATED_SQUARED_RELU;
}

void mlp_from_input(dqt_tape *t, struct slot *s, bool accumulate, float *y) {
    const dqt_layer *l = s->layer;
    const struct mlp_saved *saved = s->saved;
    const size_t tokens = slot_tokens(s);
    const struct activations in = activations_of(&s->input, tokens), inner = activations_of(&saved->inner, tokens);
    static const int weights[] = {MLP_UP, MLP_GATE};
    float *const out[] = {saved->up, saved->gate};
    weights_forward(t, s, weights, saved->gate ? 2 : 1, &in, out);
    struct activation_source hidden = {.gate = saved->gate, .up = saved->up, .squared = gate_is_squared(l)};
    if (l->weight[MLP_NORM]) {
        hidden.gain = gain_of(l->weight[MLP_NORM]);
        hidden.eps = l->eps;
        hidden.inverse_rms = saved->inverse_rms;
    }
    activations_make(t->ctx, &t->workspace, &hidden, tokens, &saved->inner);
    if (y) weight_forward(t, s, MLP_DOWN, &inner, accumulate, y);
}

static void forward(dqt_tape *t, struct slot *s, const float *x, float *y) {
    save_input(t, &s->input, x, slot_tokens(s));
    mlp_from_input(t, s, false, y);
}

static void backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const dqt_layer *l = s->layer;
    const struct mlp_saved *saved = s->saved;
    const size_t tokens = slot_tokens(s), mark = tape_mark(t);
    const struct activations in = activations_of(&s->input, tokens), inner = activations_of(&saved->inner, tokens);
    const struct mlp_temporaries d = take_temporaries(t, l, tokens);

    weight_backward(t, s, MLP_DOWN, dy, &inner, false, d.dup);
    if (l->weight[MLP_NORM]) {
        gain_backward(t, s, MLP_NORM,
                      (struct norm_gradient){.dy = d.dup,
                                             .gate = saved->gate,
                                             .up = saved->up,
                                             .squared = gate_is_squared(l),
                                             .inverse_rms = saved->inverse_rms,
                                             .dgate = d.dgate,
                                             .dup = d.dup});
    } else {
        hidden_backward(t->ctx, gate_is_squared(l), saved->gate, saved->up, d.dup, tokens * l->shape.intermediate,
                        d.dgate, d.dup);
    }
    if (saved->gate) weight_backward(t, s, MLP_GATE, d.dgate, &in, false, dx);
    weight_backward(t, s, MLP_UP, d.dup, &in, saved->gate != NULL, dx);
    tape_release(t, mark);
}

const struct layer_kind mlp_kind = {
    .id = DQT_LAYER_MLP,
    .name = "mlp",
    .weights =
        {
            [MLP_GATE] = {.names = {"gate", "mlp.gate_proj", NULL, "ffn_gate"},
                          .parameter_class = DQT_CLASS_MLP,
                          .rows = SIZE_INTERMEDIATE,
                          .cols = SIZE_IN,
                          .need = WITH_GATE},
            [MLP_UP] = {.names = {"up", "mlp.up_proj", NULL, "ffn_up"},
                        .parameter_class = DQT_CLASS_MLP,
                        .rows = SIZE_INTERMEDIATE,
                        .cols = SIZE_IN},
            [MLP_DOWN] = {.names = {"down", "mlp.down_proj", NULL, "ffn_down"},
                          .parameter_class = DQT_CLASS_MLP,
                          .rows = SIZE_OUT,
                          .cols = SIZE_INTERMEDIATE},
            [MLP_NORM] = {.names = {"sub_norm", "mlp.ffn_layernorm", "mlp.ffn_sub_norm", "ffn_sub_norm"},
                          .parameter_class = DQT_CLASS_NORM,
                          .rows = SIZE_ONE,
                          .cols = SIZE_INTERMEDIATE,
                          .need = WITH_SUB_NORM},
        },
    .saved_bytes = sizeof(struct mlp_saved),
    .layout = mlp_layout,
    .backward_temporaries = mlp_backward_temporaries,
    .scratch = layer_scratch,
    .forward = forward,
    .backward = backward,
};
