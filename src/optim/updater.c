/* Creation, memory, access and the state that checkpoints hold. */
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "optim/updater_state.h"

enum { NAME_LENGTH = 40, LIST_LENGTH = 200 };

static bool in_range(float value, float low, float high) {
    return value >= low && value <= high; /* false for NaN */
}

/* ---- Checks -------------------------------------------------------------------------------------------------- */

static dqt_status check_choice(const dqt_context *ctx, const char *name, int32_t value, int32_t low, int32_t high) {
    if (value >= low && value <= high) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "updater options: %s is %d, expected %d to %d", name, (int)value, (int)low,
                (int)high);
}

/* row: of the table that has such a value; NULL: none has. */
static dqt_status check_row(const dqt_context *ctx, const char *name, int32_t value, const void *row,
                            const char *kind) {
    if (row) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "updater options: %s is %d, expected a %s value", name, (int)value, kind);
}

static dqt_status check_number(const dqt_context *ctx, const char *name, float value, float low, float high) {
    if (in_range(value, low, high)) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "updater options: %s is %g, expected %g to %g", name, (double)value, (double)low,
                (double)high);
}

dqt_status updater_check(const dqt_context *ctx, const struct update_target *targets, size_t count,
                         const dqt_updater_options *o) {
    const float below_one = 0x1.fffffep-1f;
    const struct optimizer *optimizer = optimizer_of(o->optimizer);
    if (!optimizer) {
        char list[LIST_LENGTH];
        return fail(ctx, DQT_E_ARGUMENT, "updater options: optimizer is %d, expected one of %s", (int)o->optimizer,
                    optimizer_list(list, sizeof list));
    }
    if (o->rounding != DQT_ROUND_DEFAULT)
        TRY(check_row(ctx, "rounding", o->rounding, rounding_of(o->rounding), "DQT_ROUND_*"));
    TRY(check_row(ctx, "momentum_state", o->momentum_state, state_format_of(o->momentum_state), "DQT_STATE_*"));
    TRY(check_row(ctx, "variance_state", o->variance_state, state_format_of(o->variance_state), "DQT_STATE_*"));
    TRY(check_choice(ctx, "clip", o->clip, DQT_CLIP_GLOBAL_NORM, DQT_CLIP_NONE));
    TRY(check_choice(ctx, "lagged", o->lagged, 0, 1));
    TRY(check_number(ctx, "beta1", o->beta1, 0.0f, below_one));
    TRY(check_number(ctx, "beta2", o->beta2, 0.0f, below_one));
    TRY(check_number(ctx, "eps", o->eps, 0x1p-126f, 1e30f));
    TRY(check_number(ctx, "weight_decay", o->weight_decay, 0.0f, 1e30f));
    if (o->clip != DQT_CLIP_NONE) TRY(check_number(ctx, "clip_norm", o->clip_norm, 0x1p-126f, 1e30f));
    TRY(check_number(ctx, "update_clip", o->update_clip, 0.0f, 1e30f));
    TRY(check_number(ctx, "scale_lr", o->scale_lr, 0.0f, 1e30f));
    TRY(check_number(ctx, "rounding_noise", o->rounding_noise, 0.0f, 1.0f));
    if (count >= (size_t)1 << 24)
        return fail(ctx, DQT_E_UNSUPPORTED, "an updater of %zu parameters, at most 16777215 can be numbered", count);
    for (size_t i = 0; i < count; i++) {
        const struct update_rule rule = updater_first_rule(o, &targets[i], &optimizer);
        if (!optimizer)
            return fail(ctx, DQT_E_ARGUMENT, "updater options: a group gives %s an optimizer that is none",
                        targets[i].name);
        if (optimizer->needs_momentum && o->beta1 == 0.0f)
            return fail(ctx, DQT_E_UNSUPPORTED, "updater options: beta1 is 0, but %s needs a first moment",
                        optimizer->name);
        TRY(updater_check_rounding(ctx, optimizer, o->beta1, rule.rounding, &targets[i]));
    }
    return DQT_OK;
}

/* ---- Memory -------------------------------------------------------------------------------------------------- */

struct layout {
    struct arena arena;
    size_t momentum, variance, scales, workspace;
};

static void *take(struct layout *l, size_t *kind, size_t count, size_t size) {
    const size_t before = l->arena.used;
    void *ptr = arena_take(&l->arena, count, size);
    if (kind && l->arena.used != SIZE_MAX) *kind += l->arena.used - before;
    return ptr;
}

static void *take_state(struct layout *l, size_t *kind, const dqt_tensor *t, const struct state_format *format,
                        float **scales) {
    size_t weights, blocks;
    size_mul(t->rows, t->cols, &weights);
    void *ptr = take(l, kind, weights, format->element_size);
    *scales = NULL;
    if (format->scaled) {
        size_mul(t->rows, state_blocks(t->cols), &blocks);
        *scales = take(l, kind, blocks, sizeof(float));
    }
    return ptr;
}

/* Which states the optimiser keeps for a tensor of this shape. */
static void choose_states(struct parameter *p, const dqt_updater_options *o, bool accumulates) {
    const struct optimizer *optimizer = p->optimizer;
    const dqt_tensor *t = p->target.tensor;
    bool per_weight = false;
    p->factored = false;
    switch (optimizer->second) {
    case SECOND_NONE: break;
    case SECOND_PER_WEIGHT: per_weight = true; break;
    case SECOND_FACTORED:
        p->factored = t->rows > 1 && t->cols > 1;
        per_weight = !p->factored;
        break;
    }
    p->momentum = o->beta1 > 0.0f && !accumulates ? state_format_of(o->momentum_state) : NULL;
    p->variance = per_weight ? state_format_of(optimizer->variance_formats ? o->variance_state : DQT_STATE_F32) : NULL;
}

static void lay_out_parameter(struct layout *l, struct parameter *p, const dqt_updater_options *o) {
    const dqt_tensor *t = p->target.tensor;
    p->tiles = ceil_div(t->rows, GEMM_TILE_ROWS);
    p->rule = updater_first_rule(o, &p->target, &p->optimizer);
    const bool accumulates = accumulator_kept(t, p->rule.rounding);
    choose_states(p, o, accumulates);
    if (p->momentum) p->m = take_state(l, &l->momentum, t, p->momentum, &p->m_scale);
    if (accumulates) {
        size_t weights;
        size_mul(t->rows, t->cols, &weights);
        p->accumulator = take(l, &l->momentum, weights, sizeof *p->accumulator);
    }
    if (p->variance) p->v = take_state(l, &l->variance, t, p->variance, &p->v_scale);
    if (p->factored) {
        p->row = take(l, &l->variance, t->rows, sizeof(float));
        p->column = take(l, &l->variance, t->cols, sizeof(float));
    }
    if (t->train_scale) {
        if (o->beta1 > 0.0f) p->scale_m = take(l, &l->scales, t->num_scales, sizeof(float));
        p->scale_v = take(l, &l->scales, t->num_scales, sizeof(float));
        p->reference_scale = take(l, &l->scales, 1, sizeof(float));
    }
    p->history = take(l, NULL, 2, sizeof(double));
}

/* The same pass counts (arena without a base, *out stays as it is) and lays out. */
static void lay_out(struct layout *l, const dqt_context *ctx, const struct update_target *targets, size_t count,
                    const dqt_updater_options *o, dqt_updater **out) {
    dqt_updater *u = take(l, NULL, 1, sizeof *u);
    struct parameter *parameters = take(l, NULL, count, sizeof *parameters);
    size_t most_cols = 0, most_tiles = 0, most_sums = 0, most_groups = 0;
    for (size_t i = 0; i < count; i++) {
        struct parameter scratch = {.target = targets[i]}, *p = u ? &parameters[i] : &scratch;
        *p = scratch;
        lay_out_parameter(l, p, o);
        size_t sums;
        size_mul(p->tiles, targets[i].tensor->cols, &sums);
        most_cols = size_max(most_cols, targets[i].tensor->cols);
        most_tiles = size_max(most_tiles, p->tiles);
        if (p->factored) most_sums = size_max(most_sums, sums);
        const dqt_tensor *t = targets[i].tensor;
        if (t->train_scale && t->row_groups > 1) most_groups = size_max(most_groups, p->tiles * t->row_groups);
    }
    const size_t ld = round_up(most_cols, ALIGNMENT / sizeof(float));
    struct tile_result *tiles = take(l, &l->workspace, most_tiles, sizeof *tiles);
    float *column_sums = take(l, &l->workspace, most_sums, sizeof(float));
    double *scale_gradients = take(l, &l->workspace, most_groups, sizeof(double));
    size_t row_bytes;
    size_mul(ld, sizeof(float), &row_bytes);
    float *gradient_rows = take(l, &l->workspace, (size_t)ctx->num_threads, row_bytes);
    if (!u) return;
    u->count = count;
    u->parameters = parameters;
    u->tiles = tiles;
    u->column_sums = column_sums;
    u->scale_gradients = scale_gradients;
    u->gradient_rows = gradient_rows;
    u->gradient_ld = ld;
    *out = u;
}

dqt_status updater_memory(const dqt_context *ctx, const struct update_target *targets, size_t count,
                          const dqt_updater_options *o, dqt_updater_memory_info *out) {
    TRY(updater_check(ctx, targets, count, o));
    struct layout l = {0};
    lay_out(&l, ctx, targets, count, o, NULL);
    if (l.arena.used == SIZE_MAX) return fail(ctx, DQT_E_SHAPE, "the updater's state does not fit a size_t");
    out->total = l.arena.used;
    out->momentum = l.momentum;
    out->variance = l.variance;
    out->scales = l.scales;
    out->workspace = l.workspace;
    out->other = l.arena.used - l.momentum - l.variance - l.scales - l.workspace;
    return DQT_OK;
}

dqt_status updater_create(dqt_context *ctx, const struct update_target *targets, size_t count,
                          const dqt_updater_options *o, dqt_updater **out) {
    *out = NULL;
    dqt_updater_memory_info memory;
    TRY(updater_memory(ctx, targets, count, o, &memory));
    for (size_t i = 0; i < count; i++) {
        if (!targets[i].tensor->data)
            return fail(ctx, DQT_E_STATE, "parameter %s has only a shape: it has no weights to update",
                        targets[i].name);
    }
    struct layout l = {.arena = {.base = memory_alloc(ctx, memory.total), .size = memory.total}};
    if (!l.arena.base) return fail(ctx, DQT_E_MEMORY, "no memory for an updater of %zu bytes", memory.total);
    dqt_updater *u = NULL;
    lay_out(&l, ctx, targets, count, o, &u);
    u->ctx = ctx;
    u->options = *o;
    u->gradient_scale = 1.0f;
    u->bytes = memory.total;
    if (o->rounding == DQT_ROUND_DEFAULT)
        u->options.rounding = updater_default_rounding(optimizer_of(o->optimizer), o->beta1);
    u->options.groups = NULL; /* they are in the rules */
    u->options.num_groups = 0;
    *out = u;
    return DQT_OK;
}

void updater_destroy(dqt_updater *u) {
    if (!u) return;
    updater_release(u);
    memory_free(u->ctx, u, u->bytes);
}

/* ---- Access -------------------------------------------------------------------------------------------------- */

dqt_context *updater_context(const dqt_updater *u) {
    return u->ctx;
}

size_t updater_num_parameters(const dqt_updater *u) {
    return u->count;
}

const struct update_target *updater_target(const dqt_updater *u, size_t index) {
    DQT_ASSERT(index < u->count);
    return &u->parameters[index].target;
}

uint64_t updater_step_count(const dqt_updater *u) {
    return u->step;
}

void updater_set_step_count(dqt_updater *u, uint64_t step) {
    u->step = step;
}

const dqt_updater_options *updater_options(const dqt_updater *u) {
    return &u->options;
}

int32_t updater_optimizer(const dqt_updater *u, size_t index) {
    DQT_ASSERT(index < u->count);
    return u->parameters[index].optimizer->id;
}

/* ---- State --------------------------------------------------------------------------------------------------- */

static dqt_status visit_one(state_visit_fn visit, void *arg, size_t index, const char *what, void *data, size_t count,
                            size_t element_size) {
    if (!data || count == 0) return DQT_OK;
    char label[NAME_LENGTH];
    snprintf(label, sizeof label, "%zu.%s", index, what);
    return visit(arg, label, data, count, element_size);
}

static dqt_status visit_moments(state_visit_fn visit, void *arg, size_t index, const char *what, const char *scale_name,
                                void *data, float *scales, const dqt_tensor *t, const struct state_format *format) {
    if (!format) return DQT_OK;
    TRY(visit_one(visit, arg, index, what, data, t->rows * t->cols, format->element_size));
    return visit_one(visit, arg, index, scale_name, scales, t->rows * state_blocks(t->cols), 4);
}

dqt_status updater_visit_state(dqt_updater *u, state_visit_fn visit, void *arg) {
    TRY(visit(arg, "step", &u->step, 1, 8));
    TRY(visit(arg, "norm", &u->previous_norm, 1, 8));
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        const dqt_tensor *t = p->target.tensor;
        TRY(visit_moments(visit, arg, i, "m", "m_scale", p->m, p->m_scale, t, p->momentum));
        TRY(visit_one(visit, arg, i, "accumulator", p->accumulator, t->rows * t->cols, 1));
        TRY(visit_moments(visit, arg, i, "v", "v_scale", p->v, p->v_scale, t, p->variance));
        TRY(visit_one(visit, arg, i, "row", p->row, t->rows, 4));
        TRY(visit_one(visit, arg, i, "column", p->column, t->cols, 4));
        TRY(visit_one(visit, arg, i, "scale_m", p->scale_m, t->num_scales, 4));
        TRY(visit_one(visit, arg, i, "scale_v", p->scale_v, t->num_scales, 4));
        TRY(visit_one(visit, arg, i, "scale_unit", p->reference_scale, 1, 4));
        TRY(visit_one(visit, arg, i, "history", p->history, 2, 8));
    }
    return DQT_OK;
}
