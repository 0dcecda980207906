/* Creation, memory, groups and the state that checkpoints hold. */
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "optim/updater_state.h"

enum { NAME_LENGTH = 40 };

static bool is_eco(int rounding) {
    return rounding == DQT_ROUND_ECO_STOCHASTIC || rounding == DQT_ROUND_ECO_NEAREST;
}

static bool in_range(float value, float low, float high) {
    return value >= low && value <= high; /* false for NaN */
}

/* ---- Checks -------------------------------------------------------------------------------------------------- */

static dqt_status check_choice(const dqt_context *ctx, const char *name, int32_t value, int32_t low, int32_t high) {
    if (value >= low && value <= high) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "updater options: %s is %d, expected %d to %d", name, (int)value, (int)low,
                (int)high);
}

static dqt_status check_number(const dqt_context *ctx, const char *name, float value, float low, float high) {
    if (in_range(value, low, high)) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "updater options: %s is %g, expected %g to %g", name, (double)value, (double)low,
                (double)high);
}

dqt_status updater_check(const dqt_context *ctx, const struct update_target *targets, size_t count,
                         const dqt_updater_options *o) {
    const float below_one = 0x1.fffffep-1f;
    TRY(check_choice(ctx, "optimizer", o->optimizer, DQT_OPTIMIZER_SGD, DQT_OPTIMIZER_ADAFACTOR));
    TRY(check_choice(ctx, "rounding", o->rounding, DQT_ROUND_STOCHASTIC, DQT_ROUND_ECO_NEAREST));
    TRY(check_choice(ctx, "momentum_state", o->momentum_state, DQT_STATE_F32, DQT_STATE_INT8));
    TRY(check_choice(ctx, "variance_state", o->variance_state, DQT_STATE_F32, DQT_STATE_INT8));
    TRY(check_choice(ctx, "clip", o->clip, DQT_CLIP_NONE, DQT_CLIP_TENSOR_NORM));
    TRY(check_choice(ctx, "lagged", o->lagged, 0, 1));
    TRY(check_number(ctx, "beta1", o->beta1, 0.0f, below_one));
    TRY(check_number(ctx, "beta2", o->beta2, 0.0f, below_one));
    TRY(check_number(ctx, "eps", o->eps, 0x1p-126f, 1e30f));
    TRY(check_number(ctx, "weight_decay", o->weight_decay, 0.0f, 1e30f));
    if (o->clip != DQT_CLIP_NONE) TRY(check_number(ctx, "clip_norm", o->clip_norm, 0x1p-126f, 1e30f));
    TRY(check_number(ctx, "update_clip", o->update_clip, 0.0f, 1e30f));
    TRY(check_number(ctx, "scale_lr", o->scale_lr, 0.0f, 1e30f));
    TRY(check_number(ctx, "rounding_noise", o->rounding_noise, 0.0f, 1.0f));
    TRY(check_number(ctx, "reserved", o->reserved, 0.0f, 0.0f));
    if (count >= (size_t)1 << 24)
        return fail(ctx, DQT_E_UNSUPPORTED, "an updater of %zu parameters, at most 16777215 can be numbered", count);
    for (size_t i = 0; i < count; i++) {
        if (is_eco(o->rounding) && o->beta1 == 0.0f && format_is_code(targets[i].tensor->storage))
            return fail(
                ctx, DQT_E_UNSUPPORTED,
                "updater options: rounding is ECO with beta1 0; parameter %s of %s storage has no first moment to "
                "feed the rounding error back into: take rounding STOCHASTIC or a beta1 above 0",
                targets[i].name, format_name(targets[i].tensor->storage));
    }
    return DQT_OK;
}

/* ---- Memory -------------------------------------------------------------------------------------------------- */

struct layout {
    struct arena arena;
    size_t momentum, variance, scales, workspace;
};

static void *take(struct layout *l, size_t *part, size_t count, size_t size) {
    const size_t before = l->arena.used;
    void *ptr = arena_take(&l->arena, count, size);
    if (part && l->arena.used != SIZE_MAX) *part += l->arena.used - before;
    return ptr;
}

static void *take_state(struct layout *l, size_t *part, const dqt_tensor *t, int state, float **scales) {
    size_t weights, chunks = (t->cols + UPDATE_CHUNK - 1) / UPDATE_CHUNK;
    size_mul(t->rows, t->cols, &weights);
    void *ptr = take(l, part, weights, state == DQT_STATE_F32 ? 4 : state == DQT_STATE_BF16 ? 2 : 1);
    *scales = NULL;
    if (state == DQT_STATE_INT8) {
        size_mul(t->rows, chunks, &chunks);
        *scales = take(l, part, chunks, sizeof(float));
    }
    return ptr;
}

static void place_parameter(struct layout *l, struct parameter *p, const dqt_updater_options *o) {
    const dqt_tensor *t = p->target.tensor;
    p->tiles = (t->rows + TILE_ROWS - 1) / TILE_ROWS;
    p->momentum = o->beta1 > 0.0f;
    p->factored = o->optimizer == DQT_OPTIMIZER_ADAFACTOR && t->rows > 1 && t->cols > 1;
    p->variance = o->optimizer != DQT_OPTIMIZER_SGD && !p->factored;
    p->variance_state = o->optimizer == DQT_OPTIMIZER_ADAMW ? o->variance_state : DQT_STATE_F32;
    if (p->momentum) p->m = take_state(l, &l->momentum, t, o->momentum_state, &p->m_scale);
    if (p->variance) p->v = take_state(l, &l->variance, t, p->variance_state, &p->v_scale);
    if (p->factored) {
        p->row = take(l, &l->variance, t->rows, sizeof(float));
        p->column = take(l, &l->variance, t->cols, sizeof(float));
    }
    if (t->train_scale) {
        if (p->momentum) p->scale_m = take(l, &l->scales, t->rows, sizeof(float));
        p->scale_v = take(l, &l->scales, t->rows, sizeof(float));
        p->reference_scale = take(l, &l->scales, 1, sizeof(float));
    }
    p->history = take(l, NULL, 2, sizeof(double));
}

/* The same walk counts (scratch parameter, base NULL) and places. */
static void place(struct layout *l, const dqt_context *ctx, const struct update_target *targets, size_t count,
                  const dqt_updater_options *o, dqt_updater **out) {
    dqt_updater *u = take(l, NULL, 1, sizeof *u);
    struct parameter *parameters = take(l, NULL, count, sizeof *parameters);
    size_t most_cols = 0, most_tiles = 0, most_sums = 0;
    for (size_t i = 0; i < count; i++) {
        struct parameter scratch = {.target = targets[i]}, *p = u ? &parameters[i] : &scratch;
        *p = scratch;
        place_parameter(l, p, o);
        size_t sums;
        size_mul(p->tiles, targets[i].tensor->cols, &sums);
        if (targets[i].tensor->cols > most_cols) most_cols = targets[i].tensor->cols;
        if (p->tiles > most_tiles) most_tiles = p->tiles;
        if (p->factored && sums > most_sums) most_sums = sums;
    }
    const size_t ld = round_up(most_cols, ALIGNMENT / sizeof(float));
    struct tile_result *tiles = take(l, &l->workspace, most_tiles, sizeof *tiles);
    float *column_sums = take(l, &l->workspace, most_sums, sizeof(float));
    size_t row_bytes;
    size_mul(ld, sizeof(float), &row_bytes);
    float *gradient_rows = take(l, &l->workspace, (size_t)ctx->num_threads, row_bytes);
    if (!u) return;
    u->count = count;
    u->parameters = parameters;
    u->tiles = tiles;
    u->column_sums = column_sums;
    u->gradient_rows = gradient_rows;
    u->gradient_ld = ld;
    *out = u;
}

dqt_status updater_memory(const dqt_context *ctx, const struct update_target *targets, size_t count,
                          const dqt_updater_options *o, dqt_updater_memory_info *out) {
    TRY(updater_check(ctx, targets, count, o));
    struct layout l = {0};
    place(&l, ctx, targets, count, o, NULL);
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
    place(&l, ctx, targets, count, o, &u);
    u->ctx = ctx;
    u->options = *o;
    u->bytes = memory.total;
    for (size_t i = 0; i < count; i++)
        u->parameters[i].rule = (struct update_rule){1.0f, o->weight_decay, o->rounding, o->beta1, o->rounding_noise};
    *out = u;
    return DQT_OK;
}

void updater_destroy(dqt_updater *u) {
    if (u) memory_free(u->ctx, u, u->bytes);
}

/* ---- Access -------------------------------------------------------------------------------------------------- */

dqt_context *updater_context(const dqt_updater *u) {
    return u->ctx;
}

size_t updater_num_parameters(const dqt_updater *u) {
    return u->count;
}

const struct update_target *updater_target(const dqt_updater *u, size_t index) {
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

struct update_rule updater_get_rule(const dqt_updater *u, size_t index) {
    return u->parameters[index].rule;
}

void updater_set_rule(dqt_updater *u, size_t index, struct update_rule rule) {
    u->parameters[index].rule = rule;
}

/* ---- Groups -------------------------------------------------------------------------------------------------- */

/* '*' stands for any number of characters, '?' for one. On a mismatch the latest '*' takes one character more. */
static bool name_matches(const char *pattern, const char *name) {
    const char *star = NULL, *retry = NULL;
    while (*name) {
        if (*pattern == '*') {
            star = ++pattern;
            retry = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star;
            name = ++retry;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

static bool group_matches(const dqt_group_options *o, const struct update_target *t) {
    if (o->parameter_class != 0 && o->parameter_class != t->parameter_class) return false;
    return !o->pattern || name_matches(o->pattern, t->name);
}

size_t updater_add_group(dqt_updater *u, const dqt_group_options *o) {
    size_t matched = 0;
    for (size_t i = 0; i < u->count; i++) {
        const struct update_target *t = &u->parameters[i].target;
        if (is_eco(o->rounding) && u->options.beta1 == 0.0f && format_is_code(t->tensor->storage) &&
            group_matches(o, t)) {
            fail(u->ctx, DQT_E_UNSUPPORTED,
                 "group options: rounding is ECO with beta1 0; parameter %s has no first moment", t->name);
            return SIZE_MAX;
        }
    }
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        if (!group_matches(o, &p->target)) continue;
        if (o->lr_factor >= 0.0f) p->rule.lr_factor = o->lr_factor;
        if (o->weight_decay >= 0.0f) p->rule.weight_decay = o->weight_decay;
        if (o->rounding >= 0) p->rule.rounding = o->rounding;
        if (o->beta1 >= 0.0f) p->rule.beta1 = o->beta1;
        if (o->rounding_noise >= 0.0f) p->rule.rounding_noise = o->rounding_noise;
        matched++;
    }
    return matched;
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
                                void *data, float *scales, const dqt_tensor *t, int state) {
    const size_t size = state == DQT_STATE_F32 ? 4 : state == DQT_STATE_BF16 ? 2 : 1;
    TRY(visit_one(visit, arg, index, what, data, t->rows * t->cols, size));
    return visit_one(visit, arg, index, scale_name, scales, t->rows * ((t->cols + UPDATE_CHUNK - 1) / UPDATE_CHUNK), 4);
}

dqt_status updater_visit_state(dqt_updater *u, state_visit_fn visit, void *arg) {
    TRY(visit(arg, "step", &u->step, 1, 8));
    TRY(visit(arg, "norm", &u->previous_norm, 1, 8));
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        const dqt_tensor *t = p->target.tensor;
        TRY(visit_moments(visit, arg, i, "m", "m_scale", p->m, p->m_scale, t, u->options.momentum_state));
        TRY(visit_moments(visit, arg, i, "v", "v_scale", p->v, p->v_scale, t, p->variance_state));
        TRY(visit_one(visit, arg, i, "row", p->row, t->rows, 4));
        TRY(visit_one(visit, arg, i, "column", p->column, t->cols, 4));
        TRY(visit_one(visit, arg, i, "scale_m", p->scale_m, t->rows, 4));
        TRY(visit_one(visit, arg, i, "scale_v", p->scale_v, t->rows, 4));
        TRY(visit_one(visit, arg, i, "scale_unit", p->reference_scale, 1, 4));
        TRY(visit_one(visit, arg, i, "history", p->history, 2, 8));
    }
    return DQT_OK;
}
