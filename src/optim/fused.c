/* The fused step: gradients come in tiles of rows, in any order, or from a buffer that all parameters share, and are
 * forgotten. What needs all of them is the previous step's. An updater of one part keeps the sums of its tiles until
 * all gradients have come. The end of the step serves that from buffers too. */
#include <math.h>
#include <string.h>

#include "core/status.h"
#include "optim/updater_state.h"

void updater_set_gradient_scale(dqt_updater *u, float scale) {
    DQT_ASSERT(scale > 0 && isfinite(scale));
    u->gradient_scale = scale;
}

dqt_status updater_begin(dqt_updater *u, float learning_rate) {
    TRY(updater_check_rate(u, learning_rate));
    u->learning_rate = learning_rate;
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        p->gradient_squares = p->update_squares = 0.0;
        p->flipped = p->saturated = p->weights = 0;
        p->begun = p->nonfinite = false;
        memset(u->sums + p->own_at, 0, (p->end_tile - p->first_tile) * sizeof *u->sums);
    }
    return DQT_OK;
}

dqt_status updater_check_fused(const dqt_updater *u) {
    for (size_t i = 0; i < u->count && u->num_parts > 1; i++)
        if (u->parameters[i].factored && !u->options.lagged)
            return fail(u->ctx, DQT_E_UNSUPPORTED,
                        "a fused step of one part keeps Adafactor's statistics for the next step: take lagged = 1");
    return DQT_OK;
}

void updater_open_exchange(dqt_updater *u) {
    DQT_ASSERT(u->point == STEP_CLOSED && u->num_parts > 1);
    updater_stop_at(u, STEP_FUSED_RESULTS, NULL);
}

void updater_hold(dqt_updater *u, dqt_updater **holder) {
    DQT_ASSERT(!u->holder && !*holder);
    u->holder = holder;
    *holder = u;
}

void updater_release(dqt_updater *u) {
    if (u->holder) *u->holder = NULL;
    u->holder = NULL;
}

bool updater_is_held(const dqt_updater *u) {
    return u->holder != NULL;
}

bool updater_is_open(const dqt_updater *u) {
    return u->point != STEP_CLOSED;
}

bool updater_parameter_begun(const dqt_updater *u, size_t index) {
    DQT_ASSERT(index < u->count);
    return u->parameters[index].begun;
}

void updater_begin_parameter(dqt_updater *u, size_t index) {
    DQT_ASSERT(index < u->count);
    struct parameter *p = &u->parameters[index];
    float clip = u->gradient_scale;
    p->begun = true;
    if (u->options.clip == DQT_CLIP_PREVIOUS_NORM && u->previous_norm > 0.0)
        clip = updater_clip_factor(u, u->previous_norm);
    if (u->options.clip == DQT_CLIP_TENSOR_NORM && p->history[0] > 0.0) clip = updater_clip_factor(u, p->history[0]);
    updater_plan(u, index, clip);
    if (updater_clips_updates(u, p)) updater_set_update_factor(u, p, p->history[1]);
    memset(u->tiles, 0, p->tiles * sizeof *u->tiles);
}

void updater_leave_parameter(dqt_updater *u, size_t index) {
    DQT_ASSERT(index < u->count);
    u->parameters[index].begun = false;
}

void updater_refuse_parameter(dqt_updater *u, size_t index) {
    DQT_ASSERT(index < u->count);
    if (!parameter_frozen(&u->parameters[index])) u->parameters[index].nonfinite = true;
}

void updater_apply_rows(dqt_updater *u, size_t index, size_t row, size_t rows, const float *gradient, size_t ld) {
    DQT_ASSERT(index < u->count);
    struct parameter *p = &u->parameters[index];
    DQT_ASSERT(rows > 0 && row + rows == tile_end(p, row) && ld >= p->target.tensor->cols);
    if (parameter_frozen(p) || p->nonfinite) return;
    struct tile_result *result = &u->tiles[row / GEMM_TILE_ROWS];
    double row_squares[GEMM_TILE_ROWS];
    for (size_t i = 0; i < rows; i++) {
        row_squares[i] = updater_kernels(u)->sum_squares(gradient + i * ld, p->target.tensor->cols);
        result->gradient_squares += row_squares[i];
    }
    if (!isfinite(result->gradient_squares)) {
        result->gradient_squares = 0.0;
        result->nonfinite = 1;
        return;
    }
    const struct row_source source = {gradient, ld, NULL, NULL};
    if (p->optimizer->orthogonal) {
        updater_muon_tile(u, p, row, &source);
        return;
    }
    updater_apply_tile(u, p, row, &source, row_squares);
}

/* What the other parts will need of a parameter. */
static void keep_sums(dqt_updater *u, struct parameter *p) {
    const size_t cols = p->target.tensor->cols, own = p->end_tile - p->first_tile;
    for (size_t i = 0; i < own; i++) {
        const struct tile_result *r = &u->tiles[p->first_tile + i];
        const double squares = p->nonfinite ? (double)INFINITY : r->gradient_squares;
        u->sums[p->own_at + i] =
            (struct tile_sums){squares, r->update_squares, (double)r->flipped, (double)r->saturated};
    }
    if (own && p->factored && !p->nonfinite)
        memcpy(p->own_columns, u->column_sums + p->first_tile * cols, own * cols * sizeof(float));
}

/* All rows have come, but those of tiles that are not finite. */
static void end_muon(dqt_updater *u, struct parameter *p) {
    for (size_t i = 0; i < p->tiles; i++)
        if (u->tiles[i].nonfinite) return;
    updater_muon_apply(u, p);
}

void updater_end_parameter(dqt_updater *u, size_t index) {
    DQT_ASSERT(index < u->count);
    struct parameter *p = &u->parameters[index];
    if (parameter_frozen(p)) return;
    if (u->num_parts > 1) {
        keep_sums(u, p);
        return;
    }
    if (p->nonfinite) return;
    if (p->optimizer->orthogonal) end_muon(u, p);
    const dqt_tensor *t = p->target.tensor;
    double gradient_squares = 0.0, update_squares = 0.0;
    for (size_t i = 0; i < p->tiles; i++) {
        const struct tile_result *r = &u->tiles[i];
        gradient_squares += r->gradient_squares;
        update_squares += r->update_squares;
        p->flipped += r->flipped;
        p->saturated += r->saturated;
        p->weights += (uint64_t)r->rows * t->cols;
        p->nonfinite = p->nonfinite || r->nonfinite;
    }
    gradient_squares *= (double)u->gradient_scale * (double)u->gradient_scale;
    p->gradient_squares = gradient_squares;
    p->update_squares = update_squares;
    if (p->factored && !p->row_ready) {
        /* a nonfinite tile must not leave stale sums in the first slot */
        if (u->tiles[0].rows == 0) memset(u->column_sums, 0, t->cols * sizeof *u->column_sums);
        factored_columns(u, p);
    }
    updater_remember(p);
    tensor_refresh(p->target.tensor);
}

void updater_remember(struct parameter *p) {
    p->history[0] = sqrt(p->gradient_squares);
    if (p->weights == 0) return;
    p->history[1] = sqrt(p->update_squares / (double)p->weights) / (double)p->plan.update_factor;
}

struct parameter_sums updater_results(const struct parameter *p) {
    if (parameter_frozen(p) || !format_is_code(p->target.tensor->storage)) return (struct parameter_sums){0};
    const double rate = (double)p->plan.learning_rate;
    return (struct parameter_sums){rate * rate * p->update_squares, (double)p->flipped, (double)p->saturated,
                                   (double)p->weights};
}

dqt_status updater_end(dqt_updater *u, dqt_step_stats *stats) {
    double gradient_squares = 0.0, update_squares = 0.0;
    uint64_t flipped = 0, saturated = 0, quantized = 0;
    const struct parameter *nonfinite = NULL;
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        if (parameter_frozen(p)) continue;
        gradient_squares += p->gradient_squares;
        if (p->nonfinite && !nonfinite) nonfinite = p;
        if (p->begun && !p->nonfinite) updater_remember_rate(u, p);
    }
    for (size_t i = 0; i < (u->whole ? u->whole : u->count); i++) {
        const struct parameter_sums sums = u->whole ? u->whole_sums[i] : updater_results(&u->parameters[i]);
        update_squares += sums.update_squares;
        flipped += (uint64_t)sums.flipped;
        saturated += (uint64_t)sums.saturated;
        quantized += (uint64_t)sums.quantized;
    }
    u->step++;
    u->previous_norm = u->whole ? u->norm : sqrt(gradient_squares);
    if (stats) {
        stats->gradient_norm = u->previous_norm;
        stats->update_rms = quantized ? sqrt(update_squares / (double)quantized) : 0.0;
        stats->flipped = flipped;
        stats->saturated = saturated;
        stats->quantized = quantized;
        stats->step = u->step;
    }
    if (nonfinite)
        return fail(u->ctx, DQT_E_NUMERIC, "the gradient of %s is not finite: it was left as it was",
                    nonfinite->target.name);
    return DQT_OK;
}
