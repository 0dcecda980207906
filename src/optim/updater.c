/* Creation, memory, access and the state that checkpoints hold. */
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "optim/updater_state.h"

enum { NAME_LENGTH = 40, LIST_LENGTH = 200, MOST_PARTS = 1 << 16 };

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

/* The layers of a partial model are all in the list, in order: its own numbers are without gaps. */
static dqt_status check_places(const dqt_context *ctx, const struct update_target *targets, size_t count,
                               const dqt_updater_options *o) {
    for (size_t i = 0; i < count; i++)
        if (targets[i].whole != targets[0].whole || (targets[0].whole && targets[i].number != targets[0].number + i))
            return fail(ctx, DQT_E_UNSUPPORTED,
                        "an updater of a partial model takes its layers and no others, in order: %s follows %s",
                        targets[i].name, targets[i - 1].name);
    if (count && targets[0].whole && o->num_parts > 1)
        return fail(ctx, DQT_E_UNSUPPORTED, "updater options: num_parts is %llu, but the model is partial",
                    (unsigned long long)o->num_parts);
    return DQT_OK;
}

static dqt_status check_number(const dqt_context *ctx, const char *name, float value, float low, float high) {
    if (in_range(value, low, high)) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "updater options: %s is %g, expected %g to %g", name, (double)value, (double)low,
                (double)high);
}

dqt_status updater_check_part(const dqt_context *ctx, uint64_t part, uint64_t num_parts) {
    if (num_parts > MOST_PARTS)
        return fail(ctx, DQT_E_UNSUPPORTED, "num_parts is %llu, expected at most %d", (unsigned long long)num_parts,
                    MOST_PARTS);
    if (part >= (num_parts ? num_parts : 1))
        return fail(ctx, DQT_E_ARGUMENT, "part is %llu, expected less than num_parts, %llu", (unsigned long long)part,
                    (unsigned long long)num_parts);
    return DQT_OK;
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
    TRY(check_choice(ctx, "rate_corrected", o->rate_corrected, 0, 1));
    TRY(check_number(ctx, "beta1", o->beta1, 0.0f, below_one));
    TRY(check_number(ctx, "beta2", o->beta2, 0.0f, below_one));
    TRY(check_number(ctx, "eps", o->eps, 0x1p-126f, 1e30f));
    TRY(check_number(ctx, "weight_decay", o->weight_decay, 0.0f, 1e30f));
    if (o->clip != DQT_CLIP_NONE) TRY(check_number(ctx, "clip_norm", o->clip_norm, 0x1p-126f, 1e30f));
    TRY(check_number(ctx, "update_clip", o->update_clip, 0.0f, 1e30f));
    TRY(check_number(ctx, "scale_lr", o->scale_lr, 0.0f, 1e30f));
    TRY(check_number(ctx, "rounding_noise", o->rounding_noise, 0.0f, 1.0f));
    TRY(updater_check_part(ctx, o->part, o->num_parts));
    TRY(check_places(ctx, targets, count, o));
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
        if (optimizer->orthogonal && o->num_parts > 1)
            return fail(ctx, DQT_E_UNSUPPORTED,
                        "updater options: %s makes a step of a matrix of all its rows, and num_parts is %llu",
                        optimizer->name, (unsigned long long)o->num_parts);
        if (optimizer->orthogonal && targets[i].tensor->train_scale)
            return fail(ctx, DQT_E_UNSUPPORTED,
                        "updater options: %s does not train scales, as those of %s are: take train_scale 0",
                        optimizer->name, targets[i].name);
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

/* Of the parameter's own rows. */
static void *take_state(struct layout *l, size_t *kind, const struct parameter *p, const struct state_format *format,
                        float **scales) {
    size_t weights, blocks;
    const dqt_tensor *t = p->target.tensor;
    size_mul(p->own_rows, t->cols, &weights);
    void *ptr = take(l, kind, weights, format->element_size);
    *scales = NULL;
    if (format->scaled) {
        size_mul(p->own_rows, state_blocks(t->cols), &blocks);
        *scales = take(l, kind, blocks, sizeof(float));
    }
    return ptr;
}

/* Which states the optimiser keeps for a tensor of this shape. */
static void choose_states(struct parameter *p, const dqt_updater_options *o) {
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
    const bool momentum = optimizer->orthogonal || (o->beta1 > 0.0f && !p->accumulates);
    p->momentum = momentum ? state_format_of(o->momentum_state) : NULL;
    p->variance = per_weight ? state_format_of(optimizer->variance_formats ? o->variance_state : DQT_STATE_F32) : NULL;
}

static void lay_out_parameter(struct layout *l, struct parameter *p, const dqt_updater_options *o) {
    const dqt_tensor *t = p->target.tensor;
    p->rule = updater_first_rule(o, &p->target, &p->optimizer);
    p->accumulates = accumulator_kept(t, p->rule.rounding);
    choose_states(p, o);
    if (p->momentum) p->m = take_state(l, &l->momentum, p, p->momentum, &p->m_scale);
    if (p->accumulates) {
        size_t weights;
        size_mul(p->own_rows, t->cols, &weights);
        p->accumulator = take(l, &l->momentum, weights, sizeof *p->accumulator);
    }
    if (p->variance) p->v = take_state(l, &l->variance, p, p->variance, &p->v_scale);
    if (p->factored) {
        p->row = take(l, &l->variance, p->own_rows, sizeof(float));
        p->column = take(l, &l->variance, t->cols, sizeof(float));
    }
    if (t->train_scale) {
        const size_t scales = p->own_rows * t->row_groups;
        if (o->beta1 > 0.0f) p->scale_m = take(l, &l->scales, scales, sizeof(float));
        p->scale_v = take(l, &l->scales, scales, sizeof(float));
        p->reference_scale = take(l, &l->scales, 1, sizeof(float));
    }
    if (p->factored && o->lagged && o->num_parts > 1) {
        size_t sums;
        size_mul(p->end_tile - p->first_tile, t->cols, &sums);
        p->own_columns = take(l, &l->workspace, sums, sizeof(float));
    }
    p->history = take(l, NULL, 2, sizeof(double));
}

/* Tiles, and those of the part; `turn` and `own_at` are where the parameter begins, and move on to the next. */
static void choose_rows(struct parameter *p, size_t part, size_t num_parts, size_t *turn, size_t *own_at) {
    const size_t rows = p->target.tensor->rows;
    p->tiles = ceil_div(rows, GEMM_TILE_ROWS);
    p->turn = *turn;
    p->own_at = *own_at;
    shard_tiles(p->tiles, p->turn, part, num_parts, &p->first_tile, &p->end_tile);
    p->first_row = size_min(rows, p->first_tile * GEMM_TILE_ROWS);
    p->own_rows = size_min(rows, p->end_tile * GEMM_TILE_ROWS) - p->first_row;
    *turn = shard_turn(p->tiles, p->turn, num_parts);
    *own_at += p->end_tile - p->first_tile;
}

/* Dealt in turn, the tiles of all parameters fall to the parts as those of one parameter would. */
static size_t own_tiles_begin(size_t all_tiles, size_t part, size_t num_parts) {
    size_t first, end;
    shard_tiles(all_tiles, 0, part, num_parts, &first, &end);
    return first;
}

/* The same pass counts (arena without a base, *out stays as it is) and lays out. */
static void lay_out(struct layout *l, const dqt_context *ctx, const struct update_target *targets, size_t count,
                    const dqt_updater_options *o, dqt_updater **out) {
    dqt_updater *u = take(l, NULL, 1, sizeof *u);
    struct parameter *parameters = take(l, NULL, count, sizeof *parameters);
    const size_t part = (size_t)o->part, num_parts = size_max((size_t)o->num_parts, 1);
    struct muon_sizes muon = {0};
    size_t most_cols = 0, most_tiles = 0, most_sums = 0, most_groups = 0, all_tiles = 0, turn = 0;
    for (size_t i = 0; i < count; i++)
        size_add(all_tiles, ceil_div(targets[i].tensor->rows, GEMM_TILE_ROWS), &all_tiles);
    size_t own_at = own_tiles_begin(all_tiles, part, num_parts);
    for (size_t i = 0; i < count; i++) {
        struct parameter scratch = {.target = targets[i]}, *p = u ? &parameters[i] : &scratch;
        *p = scratch;
        choose_rows(p, part, num_parts, &turn, &own_at);
        lay_out_parameter(l, p, o);
        size_t sums;
        size_mul(p->tiles, targets[i].tensor->cols, &sums);
        most_cols = size_max(most_cols, targets[i].tensor->cols);
        most_tiles = size_max(most_tiles, p->tiles);
        if (p->factored) most_sums = size_max(most_sums, sums);
        if (p->optimizer->orthogonal) muon_need(ctx, targets[i].tensor, &muon);
        const dqt_tensor *t = targets[i].tensor;
        if (t->train_scale && t->row_groups > 1) most_groups = size_max(most_groups, p->tiles * t->row_groups);
    }
    const size_t ld = round_up(most_cols, ALIGNMENT / sizeof(float));
    struct tile_result *tiles = take(l, &l->workspace, most_tiles, sizeof *tiles);
    float *column_sums = take(l, &l->workspace, most_sums, sizeof(float));
    double *update_sums = take(l, &l->workspace, most_tiles, sizeof *update_sums);
    struct tile_sums *sums = take(l, &l->workspace, all_tiles, sizeof *sums);
    const size_t whole = count ? targets[0].whole : 0;
    struct parameter_sums *whole_sums = take(l, &l->workspace, whole, sizeof *whole_sums);
    size_t *offsets = take(l, &l->workspace, whole ? 4 : num_parts + 1, sizeof *offsets);
    double *scale_gradients = take(l, &l->workspace, most_groups, sizeof(double));
    size_t row_bytes;
    size_mul(ld, sizeof(float), &row_bytes);
    float *gradient_rows = take(l, &l->workspace, (size_t)ctx->num_threads, row_bytes);
    const struct muon_scratch scratch_of_muon = {
        take(l, &l->workspace, muon.elements, sizeof(float)), take(l, &l->workspace, muon.elements, sizeof(float)),
        take(l, &l->workspace, muon.square, sizeof(float)), take(l, &l->workspace, muon.square, sizeof(float)),
        workspace_in(&muon.products, ctx->num_threads,
                     take(l, &l->workspace, workspace_bytes(&muon.products, ctx->num_threads), 1))};
    if (!u) return;
    u->muon = scratch_of_muon;
    u->count = count;
    u->parameters = parameters;
    u->part = part;
    u->num_parts = num_parts;
    u->all_tiles = all_tiles;
    u->whole = whole;
    u->first_number = whole ? targets[0].number : 0;
    u->whole_sums = whole_sums;
    u->tiles = tiles;
    u->column_sums = column_sums;
    u->update_sums = update_sums;
    u->sums = sums;
    u->offsets = offsets;
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

/* An array that all parts have whole (row_elements 0), or one of rows. */
struct visit {
    dqt_updater *u;
    state_visit_fn visit;
    void *arg;
    size_t index;
};

static dqt_status visit_array(const struct visit *v, const char *what, void *data, size_t count, size_t row_elements,
                              size_t element_size) {
    char label[NAME_LENGTH];
    snprintf(label, sizeof label, "%zu.%s", v->u->first_number + v->index, what);
    const struct state_array a = {label, data, count, element_size, v->index, row_elements};
    return v->visit(v->arg, &a);
}

static dqt_status visit_rows(const struct visit *v, const char *what, void *data, size_t row_elements,
                             size_t element_size) {
    return visit_array(v, what, data, v->u->parameters[v->index].own_rows * row_elements, row_elements, element_size);
}

static dqt_status visit_moments(const struct visit *v, const char *what, const char *scale_name, void *data,
                                float *scales, const struct state_format *format) {
    const size_t cols = v->u->parameters[v->index].target.tensor->cols;
    if (!format) return DQT_OK;
    TRY(visit_rows(v, what, data, cols, format->element_size));
    return format->scaled ? visit_rows(v, scale_name, scales, state_blocks(cols), 4) : DQT_OK;
}

static dqt_status visit_parameter(const struct visit *v) {
    struct parameter *p = &v->u->parameters[v->index];
    const dqt_tensor *t = p->target.tensor;
    TRY(visit_moments(v, "m", "m_scale", p->m, p->m_scale, p->momentum));
    if (p->accumulates) TRY(visit_rows(v, "accumulator", p->accumulator, t->cols, 1));
    TRY(visit_moments(v, "v", "v_scale", p->v, p->v_scale, p->variance));
    if (p->factored) {
        TRY(visit_rows(v, "row", p->row, 1, 4));
        TRY(visit_array(v, "column", p->column, t->cols, 0, 4));
    }
    if (t->train_scale) {
        if (v->u->options.beta1 > 0.0f) TRY(visit_rows(v, "scale_m", p->scale_m, t->row_groups, 4));
        TRY(visit_rows(v, "scale_v", p->scale_v, t->row_groups, 4));
        TRY(visit_array(v, "scale_unit", p->reference_scale, 1, 0, 4));
    }
    if (updater_corrects_rate(v->u, p)) TRY(visit_array(v, "rate", &p->last_rate, 1, 0, 4));
    return visit_array(v, "history", p->history, 2, 0, 8);
}

dqt_status updater_visit_state(dqt_updater *u, state_visit_fn visit, void *arg) {
    const struct state_array step = {"step", &u->step, 1, 8, 0, 0}, norm = {"norm", &u->previous_norm, 1, 8, 0, 0};
    TRY(visit(arg, &step));
    TRY(visit(arg, &norm));
    for (struct visit v = {u, visit, arg, 0}; v.index < u->count; v.index++)
        TRY(visit_parameter(&v));
    return DQT_OK;
}
