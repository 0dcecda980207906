/* What layers do with a tape: slots, temporaries, saved inputs, gradients. */
#include "layer/tape.h"

struct slot *tape_slot(const dqt_tape *tape, const dqt_layer *layer) {
    for (size_t i = 0; i < tape->num_slots; i++)
        if (tape->slots[i].layer == layer) return &tape->slots[i];
    return NULL;
}

float *tape_take(dqt_tape *tape, size_t count) {
    float *p = tape->temporary + tape->temporary_used;
    tape->temporary_used += round_up(count, ALIGNMENT / sizeof *p);
    return p;
}

struct activations save_input(const dqt_tape *tape, const struct activation_buffer *b, const float *x, size_t tokens) {
    const struct activation_source source = {.x = x};
    activations_make(tape->ctx, &tape->workspace, &source, tokens, b);
    return activations_of(b, tokens);
}

void tape_begin_parameter(dqt_tape *tape, size_t parameter) {
    if (tape->fused) updater_begin_parameter(tape->fused, parameter);
}

void tape_end_parameter(dqt_tape *tape, size_t parameter) {
    if (tape->fused) updater_end_parameter(tape->fused, parameter);
    if (tape->ready) tape->ready(tape->ready_user_data, parameter);
}

void tape_add_gradient(dqt_tape *tape, size_t parameter, size_t row, size_t rows, const float *gradient, size_t ld,
                       int lane) {
    if (tape->fused) {
        updater_apply_rows(tape->fused, parameter, row, rows, gradient, ld);
    } else {
        const struct rng rng = rng_make(tape->options.seed, tape->pass, RNG_GRADIENT, (uint32_t)parameter);
        gradient_add_rows(&tape->parameters[parameter].gradient, &rng, row, rows, gradient, ld,
                          workspace_consumer(&tape->workspace, lane));
    }
}

struct sink {
    dqt_tape *tape;
    size_t parameter, row;
};

static void sink_tile(void *arg, size_t row, size_t rows, float *tile, size_t ld, int lane) {
    const struct sink *s = arg;
    tape_add_gradient(s->tape, s->parameter, s->row + row, rows, tile, ld, lane);
}

void tape_weight_gradient(dqt_tape *tape, size_t parameter, size_t row, const float *dy, size_t ld_dy, size_t rows,
                          const struct activations *x) {
    struct sink s = {tape, parameter, row};
    gemm_weight_gradient(tape->ctx, &tape->workspace, dy, ld_dy, rows, x, tape->precision, sink_tile, &s);
}
