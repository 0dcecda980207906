/* One step: norms, the plan of each parameter, row tiles through the kernels, sums in a fixed order.
 *
 * Fused and unfused steps share apply_tile, so they give the same bits; they differ in what they know beforehand: an
 * unfused step has seen all gradients (their norm, and Adafactor's statistics of this step unless lagged). */
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "core/status.h"
#include "kernels/kernels.h"
#include "optim/updater_state.h"

static const float TINY = 1e-30f; /* added to the squares of factored statistics, as in Shazeer and Stern 2018 */

double update_power(double beta, uint64_t step) {
    double result = 1.0;
    for (; step; step >>= 1, beta *= beta)
        if (step & 1) result *= beta;
    return result;
}

static const struct update_kernels *kernels(const dqt_updater *u) {
    return &u->ctx->kernels->update;
}

/* Where the rows of a tile come from: f32 in memory, or a gradient buffer that is decoded row by row. */
struct row_source {
    const float *rows; /* of the tile; NULL: decode */
    size_t ld;
    const struct gradient *gradient;
    float *scratch;
};

static const float *source_row(const struct row_source *s, size_t first, size_t row) {
    if (s->rows) return s->rows + (row - first) * s->ld;
    gradient_read_rows(s->gradient, row, 1, s->scratch);
    return s->scratch;
}

static struct row_source source_of(const dqt_updater *u, const struct gradient *g, size_t first, int lane) {
    struct row_source s = {NULL, g->cols, g, u->gradient_rows + (size_t)lane * u->gradient_ld};
    if (g->format == DQT_FLOAT_F32) s.rows = (const float *)g->data + first * g->cols;
    return s;
}

static size_t tile_end(const struct parameter *p, size_t first) {
    const size_t rows = p->target.tensor->rows;
    return rows - first < TILE_ROWS ? rows : first + TILE_ROWS;
}

/* ---- Plan ---------------------------------------------------------------------------------------------------- */

/* As in torch.nn.utils.clip_grad_norm_. */
static float clip_factor(const dqt_updater *u, double norm) {
    const double factor = (double)u->options.clip_norm / (norm + 1e-6);
    return factor < 1.0 ? (float)factor : 1.0f;
}

static double column_mean(const struct parameter *p) {
    const size_t cols = p->target.tensor->cols;
    double sum = 0.0;
    for (size_t k = 0; k < cols; k++)
        sum += (double)p->column[k];
    return sum / (double)cols;
}

/* v = row * column / mean(row); mean(row) and mean(column) are both the mean of g^2, and the latter is at hand before
 * all rows are. Without a column statistic v is the row's. */
static void refresh_column_factor(struct parameter *p) {
    const double mean = column_mean(p);
    p->column_factor = mean > 0.0 ? (float)(1.0 / mean) : 0.0f;
}

/* Steps of codes under trained scales are lr * u / (mean scale at the first step): where a row's scale grows, its
 * weights then move faster in proportion. Measured in the live scale the codes would all but stop (docs/results.md). */
static void set_scale_unit(struct parameter *p) {
    if (!p->reference_scale || *p->reference_scale > 0.0f) return;
    const dqt_tensor *t = p->target.tensor;
    double sum = 0.0;
    for (size_t row = 0; row < t->rows; row++)
        sum += (double)tensor_scale(t, row);
    *p->reference_scale = (float)(sum / (double)t->rows);
}

static void plan_parameter(dqt_updater *u, size_t index, float clip) {
    struct parameter *p = &u->parameters[index];
    const dqt_updater_options *o = &u->options;
    const dqt_tensor *t = p->target.tensor;
    const uint32_t id = (uint32_t)index;
    const double bias1 = 1.0 - update_power((double)p->rule.beta1, u->step + 1);
    const double bias2 = 1.0 - update_power((double)o->beta2, u->step + 1);
    const bool sgd = o->optimizer == DQT_OPTIMIZER_SGD, integer = format_is_code(t->storage);
    const bool eco = p->rule.rounding == DQT_ROUND_ECO_STOCHASTIC || p->rule.rounding == DQT_ROUND_ECO_NEAREST;
    struct update_plan plan = {
        .method = sgd           ? UPDATE_SGD
                  : p->factored ? UPDATE_FACTORED
                                : UPDATE_ADAM,
        .storage = t->storage,
        .code_min = format_min(t->storage),
        .code_max = format_max(t->storage),
        .stochastic = p->rule.rounding == DQT_ROUND_STOCHASTIC || p->rule.rounding == DQT_ROUND_ECO_STOCHASTIC,
        .train_scale = t->train_scale && integer,
        .momentum_state = o->momentum_state,
        .variance_state = p->variance_state,
        .momentum = p->momentum,
        .clip = clip,
        .learning_rate = u->learning_rate * p->rule.lr_factor,
        .weight_decay = t->rows > 1 ? p->rule.weight_decay : 0.0f,
        .beta1 = p->rule.beta1,
        .one_minus_beta1 = sgd ? 1.0f : (float)(1.0 - (double)p->rule.beta1),
        .beta2 = o->beta2,
        .one_minus_beta2 = (float)(1.0 - (double)o->beta2),
        .eps = o->eps,
        .inverse_bias1 = sgd ? 1.0f : (float)(1.0 / bias1),
        .inverse_bias2 = (float)(1.0 / bias2),
        .update_factor = 1.0f,
        .noise = p->rule.rounding_noise,
        .weight = rng_make(o->seed, u->step, RNG_WEIGHT, id),
        .momentum_rng = rng_make(o->seed, u->step, RNG_MOMENTUM, id),
        .variance_rng = rng_make(o->seed, u->step, RNG_VARIANCE, id),
    };
    /* ECO: what is added to m now comes back as lr / ((1 - beta1^t) * denominator) * (beta1 + beta1^2 + ...) of itself
     * over the next steps, which is e for (1 - 1 / beta1). SGD's m has no factors, and its geometric sum is the same.
     */
    plan.eco = eco && integer && p->momentum && plan.learning_rate > 0.0f;
    if (plan.eco)
        plan.eco_factor =
            (float)((1.0 - 1.0 / (double)p->rule.beta1) * (sgd ? 1.0 : bias1) / (double)plan.learning_rate);
    p->plan = plan;
    p->column_factor = 0.0f;
    p->row_ready = false;
    if (p->factored) refresh_column_factor(p);
    set_scale_unit(p);
}

static bool clips_updates(const dqt_updater *u, const struct parameter *p) {
    return u->options.optimizer == DQT_OPTIMIZER_ADAFACTOR && !p->momentum && u->options.update_clip > 0.0f;
}

static void set_update_factor(const dqt_updater *u, struct parameter *p, double rms) {
    const double excess = rms / (double)u->options.update_clip;
    p->plan.update_factor = excess > 1.0 ? (float)(1.0 / excess) : 1.0f;
}

/* ---- Tiles --------------------------------------------------------------------------------------------------- */

/* Row statistic from the double sum of squares that the finiteness check makes anyway. */
static void update_row_statistic(struct parameter *p, size_t row, double squares) {
    const struct update_plan *plan = &p->plan;
    const double clip = (double)plan->clip, limit = (double)UPDATE_GRADIENT_LIMIT * (double)UPDATE_GRADIENT_LIMIT;
    double mean = squares * clip * clip / (double)p->target.tensor->cols;
    mean = mean < limit ? mean : limit;
    p->row[row] = plan->beta2 * p->row[row] + plan->one_minus_beta2 * ((float)mean + TINY);
}

static struct update_row kernel_row(const struct parameter *p, size_t row, const float *gradient) {
    const dqt_tensor *t = p->target.tensor;
    const size_t chunks = (t->cols + UPDATE_CHUNK - 1) / UPDATE_CHUNK, at = row * t->cols;
    const int ms = p->plan.momentum_state, vs = p->plan.variance_state;
    struct update_row r = {
        .gradient = gradient,
        .cols = t->cols,
        .element = at,
        .weight = tensor_row(t, row),
        .scale = p->reference_scale ? *p->reference_scale : tensor_scale(t, row),
    };
    if (p->m) r.m = (unsigned char *)p->m + at * (ms == DQT_STATE_F32 ? 4 : ms == DQT_STATE_BF16 ? 2 : 1);
    if (p->v) r.v = (unsigned char *)p->v + at * (vs == DQT_STATE_F32 ? 4 : vs == DQT_STATE_BF16 ? 2 : 1);
    if (p->m_scale) r.m_scale = p->m_scale + row * chunks;
    if (p->v_scale) r.v_scale = p->v_scale + row * chunks;
    if (p->factored) {
        r.column = p->column_factor > 0.0f ? p->column : NULL;
        r.row_factor = p->column_factor > 0.0f ? p->row[row] * p->column_factor : p->row[row];
    }
    return r;
}

/* Adam on the row's scale with relative steps, s *= 1 - lr * scale_lr * u, a factor kept within 1/2..2 and s within
 * 1e-30..1e30. The gradient dL/ds = sum_k g[k] * q[k] is of the codes before the update. */
static void update_scale(const dqt_updater *u, struct parameter *p, size_t row, double gradient) {
    const struct update_plan *plan = &p->plan;
    const double limit = (double)UPDATE_GRADIENT_LIMIT;
    double clipped = gradient * (double)plan->clip;
    clipped = clipped > limit ? limit : clipped < -limit ? -limit : clipped;
    const float g = (float)clipped, rest1 = (float)(1.0 - (double)plan->beta1);
    float first = g;
    if (p->scale_m) {
        p->scale_m[row] = plan->beta1 * p->scale_m[row] + rest1 * g;
        first = p->scale_m[row] / (float)(1.0 - update_power((double)plan->beta1, u->step + 1));
    }
    p->scale_v[row] = plan->beta2 * p->scale_v[row] + plan->one_minus_beta2 * g * g;
    const float update = first / (sqrtf(p->scale_v[row] * plan->inverse_bias2) + plan->eps);
    float factor = 1.0f - plan->learning_rate * u->options.scale_lr * update;
    if (!(factor > 0.5f)) factor = 0.5f;
    if (!(factor < 2.0f)) factor = 2.0f;
    float *scale = &p->target.tensor->scales[row];
    const float next = *scale * factor;
    if (next >= 1e-30f && next <= 1e30f) *scale = next;
}

/* row_squares: sums of squares of the tile's rows, where the caller has made them; NULL: not yet. */
static void apply_tile(dqt_updater *u, struct parameter *p, size_t first, const struct row_source *source,
                       const double *row_squares) {
    const struct update_kernels *k = kernels(u);
    const size_t cols = p->target.tensor->cols, end = tile_end(p, first), tile = first / TILE_ROWS;
    struct tile_result *result = &u->tiles[tile];
    const bool statistics = p->factored && !p->row_ready;
    float *column_sums = u->column_sums + tile * cols;
    if (statistics) memset(column_sums, 0, cols * sizeof *column_sums);
    for (size_t row = first; row < end; row++) {
        const float *g = source_row(source, first, row);
        if (statistics) {
            update_row_statistic(p, row, row_squares ? row_squares[row - first] : k->sum_squares(g, cols));
            k->add_squares(g, cols, p->plan.clip, column_sums);
        }
        const struct update_row r = kernel_row(p, row, g);
        struct update_result sums;
        k->row(&p->plan, &r, &sums);
        if (p->plan.train_scale) update_scale(u, p, row, sums.scale_gradient);
        result->update_squares += sums.update_squares;
        result->flipped += sums.flipped;
        result->saturated += sums.saturated;
    }
    result->rows = (uint32_t)(end - first);
}

/* What a tile of another part adds to the statistics that are kept whole: those of Adafactor, and where rms(u) will be
 * needed, u itself. */
static void stats_tile(dqt_updater *u, struct parameter *p, size_t first, const struct row_source *source) {
    const struct update_kernels *k = kernels(u);
    const size_t cols = p->target.tensor->cols, end = tile_end(p, first), tile = first / TILE_ROWS;
    struct tile_result *result = &u->tiles[tile];
    float *column_sums = u->column_sums + tile * cols;
    struct update_plan plan = p->plan;
    plan.dry = true;
    memset(column_sums, 0, cols * sizeof *column_sums);
    for (size_t row = first; row < end; row++) {
        const float *g = source_row(source, first, row);
        update_row_statistic(p, row, k->sum_squares(g, cols));
        k->add_squares(g, cols, plan.clip, column_sums);
        if (!clips_updates(u, p)) continue;
        const struct update_row r = kernel_row(p, row, g);
        struct update_result sums;
        k->row(&plan, &r, &sums);
        result->update_squares += sums.update_squares;
    }
    result->rows = (uint32_t)(end - first);
    result->stats_only = 1;
}

/* Column means of g^2 over the tiles that were seen, in tile order. */
static void update_column_statistic(const dqt_updater *u, struct parameter *p) {
    const size_t cols = p->target.tensor->cols;
    size_t rows = 0;
    for (size_t i = 0; i < p->tiles; i++)
        rows += u->tiles[i].rows;
    if (rows == 0) return;
    const float inverse = (float)(1.0 / (double)rows);
    for (size_t i = 1; i < p->tiles; i++) {
        if (u->tiles[i].rows == 0) continue;
        const float *more = u->column_sums + i * cols;
        for (size_t k = 0; k < cols; k++)
            u->column_sums[k] += more[k];
    }
    for (size_t k = 0; k < cols; k++) {
        const float mean = u->column_sums[k] * inverse + TINY;
        p->column[k] = p->plan.beta2 * p->column[k] + p->plan.one_minus_beta2 * mean;
    }
}

/* ---- Fused --------------------------------------------------------------------------------------------------- */

void updater_begin(dqt_updater *u, float learning_rate) {
    u->learning_rate = learning_rate;
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        p->gradient_squares = p->update_squares = 0.0;
        p->flipped = p->saturated = p->weights = 0;
        p->nonfinite = false;
    }
}

void updater_begin_parameter(dqt_updater *u, size_t index) {
    struct parameter *p = &u->parameters[index];
    float clip = 1.0f;
    if (u->options.clip == DQT_CLIP_PREVIOUS_NORM && u->previous_norm > 0.0) clip = clip_factor(u, u->previous_norm);
    if (u->options.clip == DQT_CLIP_TENSOR_NORM && p->history[0] > 0.0) clip = clip_factor(u, p->history[0]);
    plan_parameter(u, index, clip);
    if (clips_updates(u, p)) set_update_factor(u, p, p->history[1]);
    memset(u->tiles, 0, p->tiles * sizeof *u->tiles);
}

void updater_apply_rows(dqt_updater *u, size_t index, size_t row, size_t rows, const float *gradient, size_t ld) {
    struct parameter *p = &u->parameters[index];
    if (parameter_frozen(p)) return;
    struct tile_result *result = &u->tiles[row / TILE_ROWS];
    double row_squares[TILE_ROWS];
    for (size_t i = 0; i < rows; i++) {
        row_squares[i] = kernels(u)->sum_squares(gradient + i * ld, p->target.tensor->cols);
        result->gradient_squares += row_squares[i];
    }
    if (!isfinite(result->gradient_squares)) {
        result->gradient_squares = 0.0;
        result->nonfinite = 1;
        return;
    }
    const struct row_source source = {gradient, ld, NULL, NULL};
    apply_tile(u, p, row, &source, row_squares);
}

void updater_end_parameter(dqt_updater *u, size_t index) {
    struct parameter *p = &u->parameters[index];
    if (parameter_frozen(p)) return;
    const dqt_tensor *t = p->target.tensor;
    double gradient_squares = 0.0, update_squares = 0.0, all_squares = 0.0;
    uint64_t all_weights = 0;
    for (size_t i = 0; i < p->tiles; i++) {
        const struct tile_result *r = &u->tiles[i];
        gradient_squares += r->gradient_squares;
        all_squares += r->update_squares;
        all_weights += (uint64_t)r->rows * t->cols;
        if (r->stats_only) continue;
        update_squares += r->update_squares;
        p->flipped += r->flipped;
        p->saturated += r->saturated;
        p->weights += (uint64_t)r->rows * t->cols;
        p->nonfinite = p->nonfinite || r->nonfinite;
    }
    p->gradient_squares = gradient_squares;
    p->update_squares = update_squares;
    if (p->factored && !p->row_ready) {
        /* a nonfinite tile must not leave stale sums in the first slot */
        if (u->tiles[0].rows == 0) memset(u->column_sums, 0, t->cols * sizeof *u->column_sums);
        update_column_statistic(u, p);
    }
    p->history[0] = sqrt(gradient_squares);
    if (all_weights) {
        const double factor = (double)p->plan.update_factor;
        p->history[1] = sqrt(all_squares / (double)all_weights) / factor;
    }
    tensor_refresh(p->target.tensor);
}

dqt_status updater_end(dqt_updater *u, dqt_step_stats *stats) {
    double gradient_squares = 0.0, update_squares = 0.0;
    uint64_t flipped = 0, saturated = 0, quantized = 0;
    const struct parameter *nonfinite = NULL;
    for (size_t i = 0; i < u->count; i++) {
        const struct parameter *p = &u->parameters[i];
        if (parameter_frozen(p)) continue;
        gradient_squares += p->gradient_squares;
        if (p->nonfinite && !nonfinite) nonfinite = p;
        if (!format_is_code(p->target.tensor->storage)) continue;
        const double rate = (double)p->plan.learning_rate;
        update_squares += rate * rate * p->update_squares;
        flipped += p->flipped;
        saturated += p->saturated;
        quantized += p->weights;
    }
    u->step++;
    u->previous_norm = sqrt(gradient_squares);
    if (stats) {
        stats->gradient_norm = u->previous_norm;
        stats->update_rms = quantized ? sqrt(update_squares / (double)quantized) : 0.0;
        stats->flipped = flipped;
        stats->saturated = saturated;
        stats->quantized = quantized;
        stats->step = u->step;
    }
    if (nonfinite)
        return fail(u->ctx, DQT_E_NUMERIC, "the gradient of %s is not finite: its rows were left as they were",
                    nonfinite->target.name);
    return DQT_OK;
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
    const size_t first = task * TILE_ROWS, end = tile_end(p, first);
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    double squares = 0.0;
    for (size_t row = first; row < end; row++)
        squares += kernels(pass->u)->sum_squares(source_row(&source, first, row), p->target.tensor->cols);
    pass->u->tiles[task].gradient_squares = squares;
}

static void statistics_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    struct parameter *p = pass->p;
    const size_t first = task * TILE_ROWS, end = tile_end(p, first), cols = p->target.tensor->cols;
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    float *column_sums = pass->u->column_sums + task * cols;
    memset(column_sums, 0, cols * sizeof *column_sums);
    for (size_t row = first; row < end; row++) {
        const float *g = source_row(&source, first, row);
        update_row_statistic(p, row, kernels(pass->u)->sum_squares(g, cols));
        kernels(pass->u)->add_squares(g, cols, p->plan.clip, column_sums);
    }
    pass->u->tiles[task].rows = (uint32_t)(end - first);
}

/* rms(u) without writing anything. */
static void dry_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const struct parameter *p = pass->p;
    const size_t first = task * TILE_ROWS, end = tile_end(p, first);
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    double squares = 0.0;
    for (size_t row = first; row < end; row++) {
        const struct update_row r = kernel_row(p, row, source_row(&source, first, row));
        struct update_result sums;
        kernels(pass->u)->row(&p->plan, &r, &sums);
        squares += sums.update_squares;
    }
    pass->u->tiles[task].update_squares = squares;
}

static void apply_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const size_t first = (pass->first + task) * TILE_ROWS;
    const struct row_source source = source_of(pass->u, pass->gradient, first, lane);
    apply_tile(pass->u, pass->p, first, &source, NULL);
}

static void apply_or_watch_task(void *arg, size_t task, int lane) {
    const struct pass *pass = arg;
    const struct row_source source = source_of(pass->u, pass->gradient, task * TILE_ROWS, lane);
    if (task >= pass->first && task < pass->end)
        apply_tile(pass->u, pass->p, task * TILE_ROWS, &source, NULL);
    else
        stats_tile(pass->u, pass->p, task * TILE_ROWS, &source);
}

/* This step's statistics, where lagged ones are not asked for. */
static void prepare_current(struct pass *pass) {
    dqt_updater *u = pass->u;
    struct parameter *p = pass->p;
    if (p->factored) {
        parallel_run(u->ctx, p->tiles, statistics_task, pass);
        update_column_statistic(u, p);
        refresh_column_factor(p);
        p->row_ready = true;
    }
    if (clips_updates(u, p) && pass->end > pass->first) {
        const dqt_tensor *t = p->target.tensor;
        double squares = 0.0;
        p->plan.dry = true;
        p->plan.update_factor = 1.0f;
        parallel_run(u->ctx, p->tiles, dry_task, pass);
        p->plan.dry = false;
        for (size_t i = 0; i < p->tiles; i++)
            squares += u->tiles[i].update_squares;
        set_update_factor(u, p, sqrt(squares / ((double)t->rows * (double)t->cols)));
    }
}

static dqt_status measure_gradients(dqt_updater *u, const struct gradient *const *gradients, double *norm) {
    double total = 0.0;
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        if (parameter_frozen(p)) continue;
        struct pass pass = {u, p, gradients[i], 0, p->tiles};
        parallel_run(u->ctx, p->tiles, norm_task, &pass);
        double squares = 0.0;
        for (size_t k = 0; k < p->tiles; k++)
            squares += u->tiles[k].gradient_squares;
        if (!isfinite(squares))
            return fail(u->ctx, DQT_E_NUMERIC, "the gradient of %s is not finite: nothing was changed", p->target.name);
        p->gradient_squares = squares;
        total += squares;
    }
    *norm = sqrt(total);
    return DQT_OK;
}

/* Where rms(u) of all rows decides and each row's u needs a state of its own, which other parts do not have. */
static bool indivisible(const dqt_updater *u, const struct parameter *p) {
    return clips_updates(u, p) && !p->factored;
}

static void part_tiles(const dqt_updater *u, size_t index, size_t part, size_t num_parts, size_t *first, size_t *end) {
    const struct parameter *p = &u->parameters[index];
    *first = *end = 0;
    if (parameter_frozen(p)) return;
    if (p->tiles < num_parts || indivisible(u, p)) {
        size_t before = 0;
        for (size_t i = 0; i < index; i++) {
            const struct parameter *q = &u->parameters[i];
            if (!parameter_frozen(q) && (q->tiles < num_parts || indivisible(u, q))) before++;
        }
        if (before % num_parts == part) *end = p->tiles;
        return;
    }
    const size_t each = p->tiles / num_parts, more = p->tiles % num_parts; /* the first `more` parts have one more */
    *first = part * each + (part < more ? part : more);
    *end = *first + each + (part < more ? 1 : 0);
}

void updater_part(const dqt_updater *u, size_t index, size_t part, size_t num_parts, size_t *row, size_t *count) {
    size_t first, end;
    part_tiles(u, index, part, num_parts, &first, &end);
    *row = first * TILE_ROWS;
    *count = end > first ? tile_end(&u->parameters[index], (end - 1) * TILE_ROWS) - *row : 0;
}

dqt_status updater_step(dqt_updater *u, const struct gradient *const *gradients, float learning_rate,
                        dqt_step_stats *stats) {
    return updater_step_part(u, gradients, learning_rate, 0, 1, stats);
}

dqt_status updater_step_part(dqt_updater *u, const struct gradient *const *gradients, float learning_rate, size_t part,
                             size_t num_parts, dqt_step_stats *stats) {
    if (!(learning_rate >= 0.0f) || !isfinite(learning_rate))
        return fail(u->ctx, DQT_E_ARGUMENT, "learning_rate is %g, expected a finite number >= 0",
                    (double)learning_rate);
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
        part_tiles(u, i, part, num_parts, &pass.first, &pass.end);
        const double squares = p->gradient_squares;
        p->flipped = p->saturated = p->weights = 0;
        p->nonfinite = false;
        updater_begin_parameter(u, i);
        if (u->options.clip == DQT_CLIP_GLOBAL_NORM) p->plan.clip = clip_factor(u, norm);
        if (u->options.clip == DQT_CLIP_TENSOR_NORM) p->plan.clip = clip_factor(u, sqrt(squares));
        if (!u->options.lagged) prepare_current(&pass);
        memset(u->tiles, 0, p->tiles * sizeof *u->tiles);
        if (p->factored && !p->row_ready)
            parallel_run(u->ctx, p->tiles, apply_or_watch_task, &pass);
        else
            parallel_run(u->ctx, pass.end - pass.first, apply_task, &pass);
        updater_end_parameter(u, i);
        p->gradient_squares = squares;
        p->history[0] = sqrt(squares);
    }
    return updater_end(u, stats);
}
