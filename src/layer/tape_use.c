/* What layers do with a tape: slots, temporaries, saved inputs, gradients. */
#include "layer/tape.h"

#include "core/status.h"

struct slot *tape_slot(const dqt_tape *tape, const dqt_layer *layer) {
    for (size_t i = 0; i < tape->num_slots; i++)
        if (tape->slots[i].layer == layer) return &tape->slots[i];
    return NULL;
}

bool tape_stop(dqt_tape *tape, dqt_status status) {
    DQT_ASSERT(status != DQT_OK);
    if (tape->status == DQT_OK) tape->status = status;
    return false;
}

bool tape_interrupted(dqt_tape *tape) {
    if (tape->status == DQT_OK) tape->status = check_interrupt(tape->ctx);
    return tape_stopped(tape);
}

dqt_status tape_finish(dqt_tape *tape) {
    const dqt_status status = tape->status;
    tape->status = DQT_OK;
    return status;
}

float *tape_take(dqt_tape *tape, size_t rows, size_t cols) {
    return arena_take(&tape->temporaries, rows, cols * sizeof(float));
}

struct activations save_input(const dqt_tape *tape, const struct activation_buffer *b, const float *x, size_t tokens) {
    DQT_ASSERT(tokens <= tape->max_tokens);
    const struct activation_source source = {.x = x};
    activations_make(tape->ctx, &tape->workspace, &source, tokens, b);
    return activations_of(b, tokens);
}

void tape_begin_parameter(dqt_tape *tape, size_t parameter) {
    DQT_ASSERT(parameter < tape->num_parameters);
    DQT_ASSERT(!tape_stopped(tape));
    if (tape->fused) updater_begin_parameter(tape->fused, parameter);
}

void tape_end_parameter(dqt_tape *tape, size_t parameter) {
    DQT_ASSERT(parameter < tape->num_parameters);
    if (tape->fused) updater_end_parameter(tape->fused, parameter);
    if (tape_stopped(tape) || !tape->ready || !tape->ready(tape->ready_user_data, parameter)) return;
    tape_stop(tape, fail(tape->ctx, DQT_E_CANCELLED, "the host's gradient callback asked to stop at parameter %zu",
                         parameter));
}

void tape_add_gradient(dqt_tape *tape, size_t parameter, size_t row, size_t rows, const float *gradient, size_t ld,
                       int lane) {
    DQT_ASSERT(parameter < tape->num_parameters);
    struct tape_parameter *p = &tape->parameters[parameter];
    DQT_ASSERT(row + rows <= p->tensor->rows && ld >= p->tensor->cols);
    if (tape->fused) {
        updater_apply_rows(tape->fused, parameter, row, rows, gradient, ld);
    } else {
        DQT_ASSERT(p->gradient.data);
        const struct rng rng = rng_make(tape->options.seed, tape->pass, RNG_GRADIENT, (uint32_t)parameter);
        gradient_add_rows(&p->gradient, &rng, row, rows, gradient, ld, workspace_consumer(&tape->workspace, lane));
    }
}

/* Where the tiles of one product go. */
struct tile_target {
    dqt_tape *tape;
    size_t parameter, row;
};

static void add_tile(void *arg, size_t row, size_t rows, float *tile, size_t ld, int lane) {
    const struct tile_target *to = arg;
    tape_add_gradient(to->tape, to->parameter, to->row + row, rows, tile, ld, lane);
}

void tape_weight_gradient(dqt_tape *tape, size_t parameter, size_t row, const float *dy, size_t ld_dy, size_t rows,
                          const struct activations *x) {
    DQT_ASSERT(row % GEMM_TILE_ROWS == 0);
    struct tile_target to = {tape, parameter, row};
    gemm_weight_gradient(tape->ctx, &tape->workspace, dy, ld_dy, rows, x, tape->precision, add_tile, &to);
}
