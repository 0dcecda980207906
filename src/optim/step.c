/* One step from gradient buffers, which are all seen beforehand: their norm, and a factored second moment of this step
 * unless lagged ones are asked for. Row tiles go through the kernels, sums are made in a fixed order.
 *
 * Fused steps (optim/fused.c) share updater_apply_tile, so they give the same bits. */
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
    const size_t blocks = state_blocks(t->cols), at = row * t->cols;
    DQT_ASSERT(row < t->rows);
    struct update_row r = {
        .gradient = gradient,
        .cols = t->cols,
        .element = at,
        .weight = tensor_row(t, row),
        .scale = p->reference_scale ? *p->reference_scale : tensor_group_scale(t, row, 0),
        .half_scales = t->half_scales ? t->half_scales + row * t->row_groups : NULL,
        .group_cols = t->group_cols,
    };
    if (p->m) r.m = (unsigned char *)p->m + at * p->momentum->element_size;
    if (p->v) r.v = (unsigned char *)p->v + at * p->variance->element_size;
    if (p->m_scale) r.m_scale = p->m_scale + row * blocks;
    if (p->accumulator) r.accumulator = p->accumulator + at;
    if (p->v_scale) r.v_scale = p->v_scale + row * blocks;
    if (p->factored) {
        r.column = p->column_factor > 0.0f ? p->column : NULL;
        r.row_factor = p->column_factor > 0.0f ? p->row[row] * p->column_factor : p->row[row];
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

/* What a tile of another shard adds to the statistics that are kept whole: factored ones, and where rms(u) will be
 * needed, u itself. */
static void stats_tile(dqt_updater *u, struct parameter *p, size_t first, const struct row_source *source) {
    const struct update_kernels *k = updater_kernels(u);
    const size_t cols = p->target.tensor->cols, end = tile_end(p, first), tile = first / GEMM_TILE_ROWS;
    struct tile_result *result = &u->tiles[tile];
    float *column_sums = u->column_sums + tile * cols;
    struct update_plan plan = p->plan;
    plan.dry = true;
    memset(column_sums, 0, cols * sizeof *column_sums);
    for (size_t row = first; row < end; row++) {
        const float *g = source_row(source, first, row);
        factored_row(p, row, k->sum_squares(g, cols));
        k->add_squares(g, cols, plan.clip, column_sums);
        if (!updater_clips_updates(u, p)) continue;
        const struct update_row r = kernel_row(p, row, g);
        struct update_result sums;
        k->row(&plan, &r, &sums);
        result->update_squares += sums.update_squares;
    }
    result->rows = (uint32_t)(end - first);
    result->stats_only = 1;
}

/* ---- Unfused ------------------------------------------------------------------------------------------------- */

struct pass {
    dqt_updater *u;
    struct parameter *p;
    const struct gradient *gradient;
    size_t first, end; /* tiles of the caller's shard */
};

static void norm_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const struct parameter *p = pass->p;
    const size_t first = task * GEMM_TILE_ROWS, end = tile_end(p, first);
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    double squares = 0.0;
    for (size_t row = first; row < end; row++)
        squares += updater_kernels(pass->u)->sum_squares(source_row(&source, first, row), p->target.tensor->cols);
    pass->u->tiles[task].gradient_squares = squares;
}

static void statistics_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    struct parameter *p = pass->p;
    const size_t first = task * GEMM_TILE_ROWS, end = tile_end(p, first), cols = p->target.tensor->cols;
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    float *column_sums = pass->u->column_sums + task * cols;
    memset(column_sums, 0, cols * sizeof *column_sums);
    for (size_t row = first; row < end; row++) {
        const float *g = source_row(&source, first, row);
        factored_row(p, row, updater_kernels(pass->u)->sum_squares(g, cols));
        updater_kernels(pass->u)->add_squares(g, cols, p->plan.clip, column_sums);
    }
    pass->u->tiles[task].rows = (uint32_t)(end - first);
}

/* rms(u) without writing anything. */
static void dry_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const struct parameter *p = pass->p;
    const size_t first = task * GEMM_TILE_ROWS, end = tile_end(p, first);
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    double squares = 0.0;
    for (size_t row = first; row < end; row++) {
        const struct update_row r = kernel_row(p, row, source_row(&source, first, row));
        struct update_result sums;
        updater_kernels(pass->u)->row(&p->plan, &r, &sums);
        squares += sums.update_squares;
    }
    pass->u->tiles[task].update_squares = squares;
}

static void apply_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const size_t first = (pass->first + task) * GEMM_TILE_ROWS;
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    updater_apply_tile(pass->u, pass->p, first, &source, NULL);
}

static void apply_or_stats_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const struct row_source source = source_of(pass->u, pass->gradient, task * GEMM_TILE_ROWS, lane);
    if (task >= pass->first && task < pass->end)
        updater_apply_tile(pass->u, pass->p, task * GEMM_TILE_ROWS, &source, NULL);
    else
        stats_tile(pass->u, pass->p, task * GEMM_TILE_ROWS, &source);
}

static double tiles_work(const struct parameter *p, size_t tiles) {
    return WORK_UPDATE * (double)tiles * GEMM_TILE_ROWS * (double)p->target.tensor->cols;
}

/* This step's statistics, where lagged ones are not asked for. */
static void prepare_current(struct pass *pass) {
    dqt_updater *u = pass->u;
    struct parameter *p = pass->p;
    if (p->factored) {
        parallel_run(u->ctx, p->tiles, tiles_work(p, p->tiles), statistics_task, pass);
        factored_columns(u, p);
        factored_refresh(p);
        p->row_ready = true;
    }
    if (updater_clips_updates(u, p) && pass->end > pass->first) {
        const dqt_tensor *t = p->target.tensor;
        double squares = 0.0;
        p->plan.dry = true;
        p->plan.update_factor = 1.0f;
        parallel_run(u->ctx, p->tiles, tiles_work(p, p->tiles), dry_task, pass);
        p->plan.dry = false;
        for (size_t i = 0; i < p->tiles; i++)
            squares += u->tiles[i].update_squares;
        updater_set_update_factor(u, p, sqrt(squares / ((double)t->rows * (double)t->cols)));
    }
}

static dqt_status measure_gradients(dqt_updater *u, const struct gradient *const *gradients, double *norm) {
    double total = 0.0;
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        if (parameter_frozen(p)) continue;
        struct pass pass = {u, p, gradients[i], 0, p->tiles};
        TRY(check_interrupt(u->ctx)); /* here only: what follows writes weights, all or none */
        parallel_run(u->ctx, p->tiles, tiles_work(p, p->tiles), norm_task, &pass);
        double squares = 0.0;
        for (size_t k = 0; k < p->tiles; k++)
            squares += u->tiles[k].gradient_squares;
        if (!isfinite(squares))
            return fail(u->ctx, DQT_E_NUMERIC, "the gradient of %s is not finite: nothing was changed", p->target.name);
        p->gradient_squares = squares * (double)u->gradient_scale * (double)u->gradient_scale;
        total += p->gradient_squares;
    }
    *norm = sqrt(total);
    return DQT_OK;
}

dqt_status updater_step(dqt_updater *u, const struct gradient *const *gradients, float learning_rate,
                        dqt_step_stats *stats) {
    return updater_step_shard(u, gradients, learning_rate, 0, 1, stats);
}

dqt_status updater_step_shard(dqt_updater *u, const struct gradient *const *gradients, float learning_rate,
                              size_t shard, size_t num_shards, dqt_step_stats *stats) {
    TRY(updater_check_rate(u, learning_rate));
    DQT_ASSERT(shard < num_shards);
    for (size_t i = 0; i < u->count; i++) {
        const dqt_tensor *t = u->parameters[i].target.tensor;
        if (gradients[i]->rows != t->rows || gradients[i]->cols != t->cols)
            return fail(u->ctx, DQT_E_SHAPE, "gradient %zu is %zu x %zu, parameter %s is %zu x %zu", i,
                        gradients[i]->rows, gradients[i]->cols, u->parameters[i].target.name, t->rows, t->cols);
    }
    double norm = 0.0;
    TRY(measure_gradients(u, gradients, &norm));
    u->learning_rate = learning_rate;
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        if (parameter_frozen(p)) continue;
        struct pass pass = {.u = u, .p = p, .gradient = gradients[i]};
        shard_tiles(u, i, shard, num_shards, &pass.first, &pass.end);
        const double squares = p->gradient_squares;
        p->flipped = p->saturated = p->weights = 0;
        p->nonfinite = false;
        updater_begin_parameter(u, i);
        if (u->options.clip == DQT_CLIP_GLOBAL_NORM) p->plan.clip = updater_clip_factor(u, norm);
        if (u->options.clip == DQT_CLIP_TENSOR_NORM) p->plan.clip = updater_clip_factor(u, sqrt(squares));
        if (!u->options.lagged) prepare_current(&pass);
        memset(u->tiles, 0, p->tiles * sizeof *u->tiles);
        if (p->factored && !p->row_ready)
            parallel_run(u->ctx, p->tiles, tiles_work(p, p->tiles), apply_or_stats_task, &pass);
        else
            parallel_run(u->ctx, pass.end - pass.first, tiles_work(p, pass.end - pass.first), apply_task, &pass);
        updater_end_parameter(u, i);
        p->gradient_squares = squares;
        p->history[0] = sqrt(squares);
    }
    return updater_end(u, stats);
}
