/* One step from gradient buffers, which are all seen beforehand: their norm, and a factored second moment of this step
 * unless lagged ones are asked for. Row tiles go through the kernels, sums are made in a fixed order.
 *
 * An updater of one part sees its own rows only. What depends on all rows (norms, column statistics, rms(u)) is a sum
 * over tiles, and the step stops where it needs the other parts' (optim/exchange.c). That of all rows stops at the same
 * points and goes on at once, so both have the same bits.
 *
 * Fused steps (optim/fused.c) share updater_apply_tile, so they give the same bits too. */
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "core/status.h"
#include "optim/updater_state.h"

/* ---- Tiles ---------------------------------------------------------------------------------------------------- */

static const float *source_row(const struct row_source *s, size_t first, size_t row) {
    DQT_ASSERT(row >= first && row - first < GEMM_TILE_ROWS);
    if (s->rows) return s->rows + (row - first) * s->ld;
    gradient_read_rows(s->gradient, row, 1, s->scratch);
    return s->scratch;
}

static struct row_source source_of(const dqt_updater *u, const struct gradient *g, size_t first, int lane) {
    struct row_source s = {NULL, g->cols, g, u->gradient_rows + (size_t)lane * u->gradient_ld};
    if (g->format == DQT_FLOAT_F32) s.rows = (const float *)g->data + first * g->cols;
    return s;
}

static struct update_row kernel_row(const struct parameter *p, size_t row, const float *gradient) {
    const dqt_tensor *t = p->target.tensor;
    const size_t blocks = state_blocks(t->cols), own = row - p->first_row;
    DQT_ASSERT(row >= p->first_row && own < p->own_rows);
    struct update_row r = {
        .gradient = gradient,
        .cols = t->cols,
        .element = row * t->cols,
        .weight = tensor_row(t, row),
        .scale = p->reference_scale ? *p->reference_scale : tensor_group_scale(t, row, 0),
        .half_scales = t->half_scales ? t->half_scales + row * t->row_groups : NULL,
        .group_cols = t->group_cols,
    };
    if (p->m) r.m = (unsigned char *)p->m + own * t->cols * p->momentum->element_size;
    if (p->v) r.v = (unsigned char *)p->v + own * t->cols * p->variance->element_size;
    if (p->m_scale) r.m_scale = p->m_scale + own * blocks;
    if (p->accumulator) r.accumulator = p->accumulator + own * t->cols;
    if (p->v_scale) r.v_scale = p->v_scale + own * blocks;
    if (p->factored) {
        r.column = p->column_factor > 0.0f ? p->column : NULL;
        r.row_factor = p->column_factor > 0.0f ? p->row[own] * p->column_factor : p->row[own];
    }
    return r;
}

void updater_apply_tile(dqt_updater *u, struct parameter *p, size_t first, const struct row_source *source,
                        const double *row_squares) {
    const struct update_kernels *k = updater_kernels(u);
    const size_t cols = p->target.tensor->cols, end = tile_end(p, first), tile = first / GEMM_TILE_ROWS;
    struct tile_result *result = &u->tiles[tile];
    const bool statistics = p->factored && !p->row_ready;
    float *column_sums = statistics ? u->column_sums + tile * cols : NULL;
    const size_t groups = p->target.tensor->row_groups;
    double *scale_gradients = p->plan.train_scale && groups > 1 ? u->scale_gradients + tile * groups : NULL;
    if (statistics) memset(column_sums, 0, cols * sizeof *column_sums);
    for (size_t row = first; row < end; row++) {
        const float *g = source_row(source, first, row);
        if (statistics) {
            factored_row(p, row, row_squares ? row_squares[row - first] : k->sum_squares(g, cols));
            k->add_squares(g, cols, p->plan.clip, column_sums);
        }
        struct update_row r = kernel_row(p, row, g);
        struct update_result sums;
        if (scale_gradients) r.scale_gradients = scale_gradients;
        k->row(&p->plan, &r, &sums);
        if (p->plan.train_scale)
            updater_update_scales(u, p, row, scale_gradients ? scale_gradients : &sums.scale_gradient);
        result->update_squares += sums.update_squares;
        result->flipped += sums.flipped;
        result->saturated += sums.saturated;
    }
    result->rows = (uint32_t)(end - first);
}

void updater_muon_tile(dqt_updater *u, struct parameter *p, size_t first, const struct row_source *source) {
    const size_t cols = p->target.tensor->cols, end = tile_end(p, first);
    for (size_t row = first; row < end; row++) {
        const struct update_row r = kernel_row(p, row, source_row(source, first, row));
        muon_momentum_row(u, p, &r, u->muon.direction + row * cols);
    }
}

/* ---- Passes over the own tiles of a parameter ------------------------------------------------------------------- */

struct pass {
    dqt_updater *u;
    struct parameter *p;
    const struct gradient *gradient;
};

/* The row with which the own tile number `task` begins. */
static size_t task_row(const struct pass *pass, size_t task) {
    return (pass->p->first_tile + task) * GEMM_TILE_ROWS;
}

static double tile_squares(const struct pass *pass, size_t first, int lane) {
    const struct parameter *p = pass->p;
    const size_t end = tile_end(p, first);
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    double squares = 0.0;
    for (size_t row = first; row < end; row++)
        squares += updater_kernels(pass->u)->sum_squares(source_row(&source, first, row), p->target.tensor->cols);
    return squares;
}

static void norm_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    updater_squares(pass->u)[pass->p->own_at + task] = tile_squares(pass, task_row(pass, task), lane);
}

/* The same for an update inside backward, whose sums of other parameters are there already. */
static void fused_norm_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    pass->u->tiles[pass->p->first_tile + task].gradient_squares = tile_squares(pass, task_row(pass, task), lane);
}

static void statistics_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    struct parameter *p = pass->p;
    const size_t first = task_row(pass, task), end = tile_end(p, first), cols = p->target.tensor->cols;
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    float *column_sums = pass->u->column_sums + (p->first_tile + task) * cols;
    memset(column_sums, 0, cols * sizeof *column_sums);
    for (size_t row = first; row < end; row++) {
        const float *g = source_row(&source, first, row);
        factored_row(p, row, updater_kernels(pass->u)->sum_squares(g, cols));
        updater_kernels(pass->u)->add_squares(g, cols, p->plan.clip, column_sums);
    }
}

/* rms(u) without writing anything. */
static void dry_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const struct parameter *p = pass->p;
    const size_t first = task_row(pass, task), end = tile_end(p, first);
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    double squares = 0.0;
    for (size_t row = first; row < end; row++) {
        const struct update_row r = kernel_row(p, row, source_row(&source, first, row));
        struct update_result sums;
        updater_kernels(pass->u)->row(&p->plan, &r, &sums);
        squares += sums.update_squares;
    }
    pass->u->update_sums[p->first_tile + task] = squares;
}

static void apply_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const size_t first = task_row(pass, task);
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    updater_apply_tile(pass->u, pass->p, first, &source, NULL);
}

static void muon_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const size_t first = task_row(pass, task);
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    updater_muon_tile(pass->u, pass->p, first, &source);
}

static void run_pass(dqt_updater *u, struct parameter *p, const struct gradient *gradient,
                     void (*task)(void *, size_t, int)) {
    struct pass pass = {u, p, gradient};
    const size_t tiles = p->end_tile - p->first_tile;
    const double work = WORK_UPDATE * (double)tiles * GEMM_TILE_ROWS * (double)p->target.tensor->cols;
    if (tiles) parallel_run(u->ctx, tiles, work, task, &pass);
}

/* Of a parameter whose plan is made: its step; of MUON, which updater_muon_apply ends, momentum and direction. */
static void take_gradient(dqt_updater *u, struct parameter *p, const struct gradient *gradient) {
    run_pass(u, p, gradient, p->optimizer->orthogonal ? muon_task : apply_task);
}

void updater_muon_apply(dqt_updater *u, struct parameter *p) {
    const dqt_tensor *t = p->target.tensor;
    const struct gradient direction = {
        .format = DQT_FLOAT_F32, .rows = t->rows, .cols = t->cols, .data = muon_direction(u, p)};
    p->plan.clip = muon_factor(p); /* of this gradient, and the plan's last use */
    run_pass(u, p, &direction, apply_task);
}

/* ---- Inside backward -------------------------------------------------------------------------------------------- */

void updater_apply_gradient(dqt_updater *u, size_t index, const struct gradient *gradient) {
    DQT_ASSERT(index < u->count);
    struct parameter *p = &u->parameters[index];
    if (parameter_frozen(p)) return;
    run_pass(u, p, gradient, fused_norm_task);
    for (size_t tile = p->first_tile; tile < p->end_tile; tile++)
        p->nonfinite = p->nonfinite || !isfinite(u->tiles[tile].gradient_squares);
    if (!p->nonfinite) take_gradient(u, p, gradient);
}

/* ---- The step, from one exchange to the next -------------------------------------------------------------------- */

dqt_status updater_open_step(dqt_updater *u, const struct gradient *const *gradients, float learning_rate) {
    DQT_ASSERT(u->point == STEP_CLOSED);
    TRY(updater_check_rate(u, learning_rate));
    for (size_t i = 0; i < u->count; i++) {
        const dqt_tensor *t = u->parameters[i].target.tensor;
        if (gradients[i]->rows != t->rows || gradients[i]->cols != t->cols)
            return fail(u->ctx, DQT_E_SHAPE, "gradient %zu is %zu x %zu, parameter %s is %zu x %zu", i,
                        gradients[i]->rows, gradients[i]->cols, u->parameters[i].target.name, t->rows, t->cols);
    }
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        const size_t own = p->end_tile - p->first_tile;
        memset(updater_squares(u) + p->own_at, 0, own * sizeof(double));
        if (parameter_frozen(p)) continue;
        TRY(check_interrupt(u->ctx)); /* here only: what follows writes weights, all or none */
        run_pass(u, p, gradients[i], norm_task);
    }
    u->learning_rate = learning_rate;
    if (u->whole) updater_give_squares(u);
    updater_stop_at(u, STEP_SQUARES, NULL);
    return DQT_OK;
}

/* Of its own tiles: the weights; then what became of each goes to the updater's sums. */
static void apply_parameter(dqt_updater *u, struct parameter *p, const struct gradient *gradient) {
    memset(u->tiles, 0, p->tiles * sizeof *u->tiles);
    take_gradient(u, p, gradient);
    if (p->optimizer->orthogonal) updater_muon_apply(u, p);
    for (size_t tile = p->first_tile; tile < p->end_tile; tile++) {
        const struct tile_result *r = &u->tiles[tile];
        u->sums[p->own_at + tile - p->first_tile] =
            (struct tile_sums){0.0, r->update_squares, (double)r->flipped, (double)r->saturated};
    }
    if (u->num_parts == 1) tensor_refresh(p->target.tensor); /* else the host does, when all rows have come */
}

static void begin_parameter(dqt_updater *u, size_t index) {
    struct parameter *p = &u->parameters[index];
    const double squares = p->gradient_squares;
    p->flipped = p->saturated = p->weights = 0;
    p->update_squares = 0.0;
    p->nonfinite = false;
    updater_begin_parameter(u, index);
    if (u->options.clip == DQT_CLIP_GLOBAL_NORM) p->plan.clip = updater_clip_factor(u, u->norm);
    if (u->options.clip == DQT_CLIP_TENSOR_NORM) p->plan.clip = updater_clip_factor(u, sqrt(squares));
}

/* Goes on with parameter u->current after the point `done` (STEP_SQUARES: from its beginning), to the next point. */
static void run_parameters(dqt_updater *u, const struct gradient *const *gradients, enum step_point done) {
    for (; u->current < u->count; u->current++, done = STEP_SQUARES) {
        struct parameter *p = &u->parameters[u->current];
        const struct gradient *gradient = gradients[u->current];
        if (parameter_frozen(p)) {
            memset(u->sums + p->own_at, 0, (p->end_tile - p->first_tile) * sizeof *u->sums);
            continue;
        }
        if (done == STEP_LAGGED_COLUMNS) continue;
        if (done == STEP_SQUARES) {
            begin_parameter(u, u->current);
            if (p->factored && !u->options.lagged) {
                run_pass(u, p, gradient, statistics_task);
                updater_stop_at(u, STEP_COLUMNS, p);
                return;
            }
        }
        if (done != STEP_UPDATES && updater_clips_updates(u, p) && !u->options.lagged) {
            p->plan.dry = true;
            p->plan.update_factor = 1.0f;
            run_pass(u, p, gradient, dry_task);
            p->plan.dry = false;
            updater_stop_at(u, STEP_UPDATES, p);
            return;
        }
        apply_parameter(u, p, gradient);
        if (p->factored && u->options.lagged) {
            updater_stop_at(u, STEP_LAGGED_COLUMNS, p);
            return;
        }
    }
    if (u->whole) {
        updater_take_results(u);
        updater_give_results(u);
    }
    updater_stop_at(u, STEP_RESULTS, NULL);
}

/* Goes on with parameter u->current, to the next whose column sums the parts exchange. */
static dqt_status run_fused_columns(dqt_updater *u, dqt_step_stats *stats) {
    for (; u->current < u->count; u->current++) {
        struct parameter *p = &u->parameters[u->current];
        const size_t cols = p->target.tensor->cols, own = p->end_tile - p->first_tile;
        if (!p->factored || !p->begun || p->nonfinite || parameter_frozen(p)) continue;
        if (own) memcpy(u->column_sums + p->first_tile * cols, p->own_columns, own * cols * sizeof(float));
        updater_stop_at(u, STEP_FUSED_COLUMNS, p);
        return DQT_OK;
    }
    updater_stop_at(u, STEP_CLOSED, NULL);
    return updater_end(u, stats);
}

bool updater_reads_gradients(const dqt_updater *u) {
    return u->point != STEP_FUSED_RESULTS && u->point != STEP_FUSED_COLUMNS;
}

static dqt_status next_point(dqt_updater *u, const struct gradient *const *gradients, dqt_step_stats *stats) {
    const enum step_point point = u->point;
    struct parameter *p = &u->parameters[u->current];
    if (!updater_sums_valid(u))
        return fail(u->ctx, DQT_E_NUMERIC, "the sums of tiles hold a number that no part of a step has sent");
    switch (point) {
    case STEP_CLOSED: DQT_ASSERT(false); return DQT_E_STATE;
    case STEP_SQUARES:
        updater_stop_at(u, STEP_CLOSED, NULL);
        TRY(updater_take_squares(u));
        u->current = 0;
        break;
    case STEP_COLUMNS:
        updater_take_columns(u, p);
        factored_refresh(p);
        p->row_ready = true;
        break;
    case STEP_LAGGED_COLUMNS: updater_take_columns(u, p); break;
    case STEP_UPDATES: updater_take_updates(u, p); break;
    case STEP_RESULTS:
        if (!u->whole) updater_take_results(u);
        updater_stop_at(u, STEP_CLOSED, NULL);
        return updater_end(u, stats);
    case STEP_FUSED_RESULTS:
        updater_take_fused_results(u);
        u->current = 0;
        return run_fused_columns(u, stats);
    case STEP_FUSED_COLUMNS:
        updater_take_columns(u, p);
        u->current++;
        return run_fused_columns(u, stats);
    }
    run_parameters(u, gradients, point);
    return DQT_OK;
}

/* A partial model has all rows of its parameters: only sums over parameters are exchanged. */
dqt_status updater_continue_step(dqt_updater *u, const struct gradient *const *gradients, dqt_step_stats *stats) {
    do
        TRY(next_point(u, gradients, stats));
    while (u->whole && u->point != STEP_CLOSED && u->point != STEP_RESULTS);
    return DQT_OK;
}

dqt_status updater_step(dqt_updater *u, const struct gradient *const *gradients, float learning_rate,
                        dqt_step_stats *stats) {
    DQT_ASSERT(u->num_parts == 1);
    TRY(updater_open_step(u, gradients, learning_rate));
    while (u->point != STEP_CLOSED)
        TRY(updater_continue_step(u, gradients, stats));
    return DQT_OK;
}
