/* What layers do with a tape: slots, temporaries, saved inputs, gradients. */
#include "layer/tape.h"

#include <math.h>

#include "core/parallel.h"
#include "core/status.h"
#include "kernels/kernels.h"

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
    if (tape_has_one_buffer(tape)) gradient_zero(&tape->parameters[parameter].gradient);
}

static void tell_host(dqt_tape *tape, size_t parameter) {
    if (tape_stopped(tape) || !tape->ready || !tape->ready(tape->ready_user_data, parameter)) return;
    tape_stop(tape, fail(tape->ctx, DQT_E_CANCELLED, "the host's gradient callback asked to stop at parameter %zu",
                         parameter));
}

/* The host reduces the gradient, the updater takes it, and the next one is made in its place. */
static void end_parameter_in_one_buffer(dqt_tape *tape, size_t parameter) {
    tape->shown = parameter;
    tell_host(tape, parameter);
    tape->shown = tape->num_parameters;
    if (tape_stopped(tape)) {
        updater_leave_parameter(tape->fused, parameter);
        return;
    }
    updater_apply_gradient(tape->fused, parameter, &tape->parameters[parameter].gradient);
    updater_end_parameter(tape->fused, parameter);
}

void tape_end_parameter(dqt_tape *tape, size_t parameter) {
    DQT_ASSERT(parameter < tape->num_parameters);
    if (tape_has_one_buffer(tape)) {
        end_parameter_in_one_buffer(tape, parameter);
        return;
    }
    if (tape->fused) updater_end_parameter(tape->fused, parameter);
    tell_host(tape, parameter);
}

void tape_add_gradient(dqt_tape *tape, size_t parameter, size_t row, size_t rows, const float *gradient, size_t ld,
                       int lane) {
    DQT_ASSERT(parameter < tape->num_parameters);
    struct tape_parameter *p = &tape->parameters[parameter];
    DQT_ASSERT(row + rows <= p->tensor->rows && ld >= p->tensor->cols);
    if (tape->fused && !tape_has_one_buffer(tape)) {
        updater_apply_rows(tape->fused, parameter, row, rows, gradient, ld);
    } else {
        DQT_ASSERT(p->gradient.data);
        const struct rng rng =
            rng_make(tape->options.seed, tape->pass, RNG_GRADIENT, (uint32_t)(tape->first_parameter + parameter));
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

/* ---- Gradients that will be finite --------------------------------------------------------------------------- */

enum { CHECK_TOKENS = 16 };

struct check {
    const dqt_tape *tape;
    const float *dy; /* [tokens][ld], `rows` of a row are read */
    size_t ld, rows, tokens;
    const struct activations *x; /* [tokens]; NULL: all 1 */
};

/* The greatest square of a product of one token that may enter a gradient, of the tokens that this lane has seen.
 * Infinite where something is not finite. */
static double *lane_largest(const struct check *c, int lane) {
    return workspace_lane(&c->tape->workspace, lane);
}

/* Sum of x^2: in f32, and where that overflows in f64, which is infinite only if an element is not finite. */
static double squares(const struct check *c, const float *x, size_t count) {
    const struct kernels *k = c->tape->ctx->kernels;
    const double fast = (double)k->vector.sum_squares(x, count);
    return isfinite(fast) ? fast : k->update.sum_squares(x, count);
}

static void check_task(void *arg, size_t task, int lane) {
    const struct check *c = arg;
    const struct activations *x = c->x;
    double *largest = lane_largest(c, lane);
    const size_t end = size_min(c->tokens, (task + 1) * CHECK_TOKENS);
    for (size_t t = task * CHECK_TOKENS; t < end; t++) {
        double square = squares(c, c->dy + t * c->ld, c->rows);
        if (x && x->codes) square *= 127.0 * 127.0 * (double)x->step[t] * (double)x->step[t];
        if (x && !x->codes) square *= squares(c, x->floats + t * x->ld, x->cols);
        if (!isfinite(square)) square = (double)INFINITY;
        if (square > *largest) *largest = square;
    }
}

/* No element of a sum over tokens of dy[t][r] * x[t][c] exceeds tokens * the greatest |dy[t]| |x[t]|. */
void tape_check_gradient(const dqt_tape *tape, size_t parameter, const float *dy, size_t ld_dy, size_t tokens,
                         size_t rows, const struct activations *x) {
    DQT_ASSERT(!x || x->tokens == tokens);
    if (!tape->fused || tape_has_one_buffer(tape)) return;
    struct check c = {tape, dy, ld_dy, rows, tokens, x};
    double largest = 0.0;
    for (int lane = 0; lane < tape->workspace.lanes; lane++)
        *lane_largest(&c, lane) = 0.0;
    parallel_run(tape->ctx, ceil_div(tokens, CHECK_TOKENS), WORK_ELEMENT * (double)tokens * (double)rows, check_task,
                 &c);
    for (int lane = 0; lane < tape->workspace.lanes; lane++)
        largest = fmax(largest, *lane_largest(&c, lane));
    if (!((double)tokens * sqrt(largest) < 0x1p126)) updater_refuse_parameter(tape->fused, parameter);
}

/* ---- Products ------------------------------------------------------------------------------------------------ */

/* Of the heads that share an embedding's weight some may take floats. */
static bool is_integer(const dqt_tape *tape, size_t parameter, const struct activations *x) {
    return tape->parameters[parameter].integer_products && x->codes;
}

void tape_input_gradient(const dqt_tape *tape, const struct slot *slot, int weight, size_t row, const float *dy,
                         size_t ld_dy, size_t rows, const struct activations *x, bool accumulate, float *dx) {
    const dqt_tensor *w = slot->layer->weight[weight];
    if (is_integer(tape, slot->parameter[weight], x)) {
        const struct rng rng = rng_make(tape->options.seed, tape->pass, RNG_INPUT_PRODUCT,
                                        (uint32_t)(tape->first_parameter + slot->parameter[weight]));
        gemm_input_gradient_int8(tape->ctx, &tape->workspace, dy, ld_dy, x->tokens, w, row, rows, &rng, accumulate, dx);
    } else {
        gemm_input_gradient(tape->ctx, &tape->workspace, dy, ld_dy, x->tokens, w, row, rows, tape->precision,
                            accumulate, dx);
    }
}

void tape_weight_tiles(const dqt_tape *tape, size_t parameter, uint64_t pass, size_t row, const float *dy, size_t ld_dy,
                       size_t rows, const struct activations *x, tile_fn consume, void *arg) {
    DQT_ASSERT(row % GEMM_TILE_ROWS == 0);
    if (is_integer(tape, parameter, x)) {
        const struct rng rng =
            rng_make(tape->options.seed, pass, RNG_WEIGHT_PRODUCT, (uint32_t)(tape->first_parameter + parameter));
        gemm_weight_gradient_int8(tape->ctx, &tape->workspace, dy, ld_dy, row, rows, x, &rng, consume, arg);
    } else {
        gemm_weight_gradient(tape->ctx, &tape->workspace, dy, ld_dy, rows, x, tape->precision, consume, arg);
    }
}

void tape_weight_gradient(dqt_tape *tape, size_t parameter, size_t row, const float *dy, size_t ld_dy, size_t rows,
                          const struct activations *x) {
    struct tile_target to = {tape, parameter, row};
    tape_weight_tiles(tape, parameter, tape->pass, row, dy, ld_dy, rows, x, add_tile, &to);
}
