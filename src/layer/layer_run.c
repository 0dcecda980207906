/* Forward and backward of any layer of floats, and of one weight of it: a matrix, a gain or a bias. */
#include "layer/run.h"
#include "ops/bias.h"

static struct attention_runs find_runs(const struct slot *s, const int32_t *segments) {
    if (!segments || !s->run_start) return (struct attention_runs){0};
    size_t count = 0;
    for (size_t i = 0; i < slot_tokens(s); i++)
        if (i % s->length == 0 || segments[i] != segments[i - 1]) s->run_start[count++] = (int32_t)i;
    s->run_start[count] = (int32_t)slot_tokens(s);
    return (struct attention_runs){count, s->run_start};
}

void layer_forward(dqt_tape *t, struct slot *s, size_t batch, size_t length, const int32_t *segments, const float *x,
                   float *y) {
    DQT_ASSERT(x && y && s->layer->kind->forward);
    DQT_ASSERT(batch >= 1 && length >= 1 && batch * length <= t->max_tokens);
    s->batch = batch;
    s->length = length;
    s->runs = find_runs(s, segments);
    s->layer->kind->forward(t, s, x, y);
    DQT_ASSERT(tape_mark(t) == 0); /* what was taken is released */
}

void layer_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    DQT_ASSERT(dy && s->layer->kind->backward);
    DQT_ASSERT(s->length >= 1 && tape_saves(t));
    s->layer->kind->backward(t, s, dy, dx);
    s->length = 0; /* used up */
    DQT_ASSERT(tape_mark(t) == 0);
}

void weight_forward(dqt_tape *t, const struct slot *s, int weight, const struct activations *x, bool accumulate,
                    float *y) {
    const dqt_tensor *w = s->layer->weight[weight];
    if (t->watch) t->watch->see(t->watch->arg, w, x);
    gemm_forward(t->ctx, &t->workspace, x, tape_gemv_tokens(t, x->tokens), w, 0, w->rows, t->precision, accumulate, y,
                 w->rows);
}

void weights_forward(dqt_tape *t, const struct slot *s, const int *weight, size_t count, const struct activations *x,
                     float *const *y) {
    struct gemm_part part[GEMM_MOST_PARTS];
    DQT_ASSERT(count <= GEMM_MOST_PARTS);
    for (size_t i = 0; i < count; i++) {
        const dqt_tensor *w = s->layer->weight[weight[i]];
        if (t->watch) t->watch->see(t->watch->arg, w, x);
        part[i] = (struct gemm_part){w, 0, w->rows, y[i], w->rows};
    }
    gemm_forward_parts(t->ctx, &t->workspace, x, tape_gemv_tokens(t, x->tokens), part, count, t->precision);
}

void weight_backward(dqt_tape *t, struct slot *s, int weight, const float *dy, const struct activations *x,
                     bool accumulate, float *dx) {
    const dqt_tensor *w = s->layer->weight[weight];
    DQT_ASSERT(x->cols == w->cols);
    if (dx) tape_input_gradient(t, s, weight, 0, dy, w->rows, w->rows, x, accumulate, dx);
    if (tape_stopped(t)) return;
    tape_begin_parameter(t, s->parameter[weight]);
    tape_check_gradient(t, s->parameter[weight], dy, w->rows, x->tokens, w->rows, x);
    tape_weight_gradient(t, s->parameter[weight], 0, dy, w->rows, w->rows, x);
    tape_end_parameter(t, s->parameter[weight]);
}

float *vector_temporaries(dqt_tape *t, const dqt_layer *l, int weight) {
    return tape_take(t, 1, l->weight[weight]->cols);
}

static void add_vector_gradient(dqt_tape *t, struct slot *s, int weight, const float *d) {
    if (tape_stopped(t)) return;
    tape_begin_parameter(t, s->parameter[weight]);
    tape_add_gradient(t, s->parameter[weight], 0, 1, d, s->layer->weight[weight]->cols, 0);
    tape_end_parameter(t, s->parameter[weight]);
}

void gain_backward(dqt_tape *t, struct slot *s, int weight, struct norm_gradient g) {
    const dqt_tensor *gain = s->layer->weight[weight];
    const size_t mark = tape_mark(t);
    g.gain = gain_of(gain);
    g.dgain = vector_temporaries(t, s->layer, weight);
    norm_backward(t->ctx, &t->workspace, &g, slot_tokens(s) * layer_normed_rows(s->layer, weight), gain->cols);
    add_vector_gradient(t, s, weight, g.dgain);
    tape_release(t, mark);
}

void bias_backward(dqt_tape *t, struct slot *s, int weight, const float *dy) {
    const dqt_tensor *bias = s->layer->weight[weight];
    const size_t mark = tape_mark(t);
    float *d = vector_temporaries(t, s->layer, weight);
    bias_gradient(t->ctx, dy, slot_tokens(s), bias->cols, d);
    add_vector_gradient(t, s, weight, d);
    tape_release(t, mark);
}
