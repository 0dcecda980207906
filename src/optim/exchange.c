/* What the parts of a step tell each other: sums of tiles, part by part. They are added in the order of tiles, whoever
 * made them. */
#include <math.h>

#include "core/status.h"
#include "optim/updater_state.h"

static size_t part_tiles(const dqt_updater *u, const struct parameter *p, size_t part) {
    size_t first, end;
    shard_tiles(p->tiles, p->turn, part, u->num_parts, &first, &end);
    return end - first;
}

/* A partial model's parameters lie between those before it and those after it. */
static void lay_out_whole(dqt_updater *u, size_t parameter_bytes) {
    u->offsets[0] = 0;
    u->offsets[1] = u->first_number * parameter_bytes;
    u->offsets[2] = (u->first_number + u->count) * parameter_bytes;
    u->offsets[3] = u->whole * parameter_bytes;
}

void updater_stop_at(dqt_updater *u, enum step_point point, const struct parameter *p) {
    const size_t tiles = p ? p->tiles : u->all_tiles, turn = p ? p->turn : 0;
    size_t tile_bytes = 0, first, end;
    u->point = point;
    if (u->whole && (point == STEP_SQUARES || point == STEP_RESULTS)) {
        lay_out_whole(u, point == STEP_SQUARES ? sizeof(double) : sizeof(struct parameter_sums));
        return;
    }
    switch (point) {
    case STEP_CLOSED: return;
    case STEP_SQUARES:
    case STEP_UPDATES: tile_bytes = sizeof(double); break;
    case STEP_COLUMNS:
    case STEP_LAGGED_COLUMNS:
    case STEP_FUSED_COLUMNS: tile_bytes = p->target.tensor->cols * sizeof(float); break;
    case STEP_RESULTS:
    case STEP_FUSED_RESULTS: tile_bytes = sizeof(struct tile_sums); break;
    }
    u->offsets[0] = 0;
    for (size_t part = 0; part < u->num_parts; part++) {
        shard_tiles(tiles, turn, part, u->num_parts, &first, &end);
        u->offsets[part + 1] = end * tile_bytes;
    }
}

void *updater_exchange(const dqt_updater *u, const size_t **offsets) {
    *offsets = u->point == STEP_CLOSED ? NULL : u->offsets;
    switch (u->point) {
    case STEP_CLOSED: break;
    case STEP_SQUARES:
    case STEP_RESULTS: return u->whole ? (void *)u->whole_sums : u->sums;
    case STEP_FUSED_RESULTS: return u->sums;
    case STEP_COLUMNS:
    case STEP_LAGGED_COLUMNS:
    case STEP_FUSED_COLUMNS: return u->column_sums;
    case STEP_UPDATES: return u->update_sums;
    }
    return NULL;
}

uint32_t updater_exchange_parts(const dqt_updater *u) {
    return u->whole ? 3 : (uint32_t)u->num_parts;
}

/* Above what sums of a tile can be: u and clipped gradients are at most UPDATE_LIMIT. */
static const double SUM_LIMIT = 0x1p170, COUNT_LIMIT = 0x1p53;
static const float COLUMN_LIMIT = 0x1p106f;

static bool doubles_within(const double *x, size_t count, double limit) {
    bool within = true;
    for (size_t i = 0; i < count; i++)
        within = within && x[i] >= 0.0 && x[i] <= limit;
    return within;
}

static bool whole_results_valid(const dqt_updater *u) {
    bool valid = true;
    for (size_t i = 0; i < u->whole; i++) {
        const double counts[] = {u->whole_sums[i].flipped, u->whole_sums[i].saturated, u->whole_sums[i].quantized};
        valid = valid && u->whole_sums[i].update_squares >= 0.0 && isfinite(u->whole_sums[i].update_squares) &&
                doubles_within(counts, sizeof counts / sizeof *counts, COUNT_LIMIT);
    }
    return valid;
}

bool updater_sums_valid(const dqt_updater *u) {
    const size_t bytes = u->offsets[u->num_parts];
    bool valid = true;
    if (u->whole && u->point == STEP_RESULTS) return whole_results_valid(u);
    switch (u->point) {
    case STEP_CLOSED:
    case STEP_SQUARES: break; /* what is not finite says that a gradient is not */
    case STEP_COLUMNS:
    case STEP_LAGGED_COLUMNS:
    case STEP_FUSED_COLUMNS:
        for (size_t i = 0; i < bytes / sizeof(float); i++)
            valid = valid && u->column_sums[i] >= 0.0f && u->column_sums[i] <= COLUMN_LIMIT;
        break;
    case STEP_UPDATES: return doubles_within(u->update_sums, bytes / sizeof(double), SUM_LIMIT);
    case STEP_RESULTS:
    case STEP_FUSED_RESULTS:
        for (size_t i = 0; i < bytes / sizeof *u->sums; i++)
            valid = valid && u->sums[i].gradient_squares >= 0.0 &&
                    doubles_within(&u->sums[i].update_squares, 1, SUM_LIMIT) &&
                    doubles_within(&u->sums[i].flipped, 1, COUNT_LIMIT) &&
                    doubles_within(&u->sums[i].saturated, 1, COUNT_LIMIT);
        break;
    }
    return valid;
}

/* ---- Taking over: parts in ascending order have the tiles of each parameter in ascending order ------------------ */

static void add_squares(dqt_updater *u) {
    const double *squares = updater_squares(u);
    for (size_t i = 0; i < u->count; i++)
        u->parameters[i].gradient_squares = 0.0;
    for (size_t part = 0; part < u->num_parts; part++)
        for (size_t i = 0; i < u->count; i++)
            for (size_t tiles = part_tiles(u, &u->parameters[i], part); tiles > 0; tiles--)
                u->parameters[i].gradient_squares += *squares++;
}

void updater_give_squares(dqt_updater *u) {
    add_squares(u);
    for (size_t i = 0; i < u->count; i++)
        updater_whole_squares(u)[u->first_number + i] = u->parameters[i].gradient_squares;
}

/* Of a partial model; frozen parameters have sent 0. */
static dqt_status take_whole_squares(dqt_updater *u) {
    const double *squares = updater_whole_squares(u), scale = (double)u->gradient_scale;
    double total = 0.0;
    for (size_t i = 0; i < u->whole; i++) {
        if (!(squares[i] >= 0.0) || !isfinite(squares[i]))
            return fail(u->ctx, DQT_E_NUMERIC,
                        "the gradient of parameter %zu of the whole model is not finite: nothing was changed", i);
        total += squares[i] * (scale * scale);
    }
    for (size_t i = 0; i < u->count; i++)
        u->parameters[i].gradient_squares = squares[u->first_number + i] * (scale * scale);
    u->norm = sqrt(total);
    return DQT_OK;
}

dqt_status updater_take_squares(dqt_updater *u) {
    double total = 0.0;
    if (u->whole) return take_whole_squares(u);
    add_squares(u);
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        if (parameter_frozen(p)) continue;
        if (!(p->gradient_squares >= 0.0) || !isfinite(p->gradient_squares))
            return fail(u->ctx, DQT_E_NUMERIC, "the gradient of %s is not finite: nothing was changed", p->target.name);
        p->gradient_squares *= (double)u->gradient_scale * (double)u->gradient_scale;
        total += p->gradient_squares;
    }
    u->norm = sqrt(total);
    return DQT_OK;
}

void updater_take_columns(dqt_updater *u, struct parameter *p) {
    for (size_t tile = 0; tile < p->tiles; tile++)
        u->tiles[tile].rows = (uint32_t)(tile_end(p, tile * GEMM_TILE_ROWS) - tile * GEMM_TILE_ROWS);
    factored_columns(u, p);
}

void updater_take_updates(dqt_updater *u, struct parameter *p) {
    const dqt_tensor *t = p->target.tensor;
    double squares = 0.0;
    for (size_t tile = 0; tile < p->tiles; tile++)
        squares += u->update_sums[tile];
    updater_set_update_factor(u, p, sqrt(squares / ((double)t->rows * (double)t->cols)));
}

/* Adds the sums of all tiles to their parameters'. */
static void add_results(dqt_updater *u) {
    const struct tile_sums *sums = u->sums;
    for (size_t part = 0; part < u->num_parts; part++)
        for (size_t i = 0; i < u->count; i++) {
            struct parameter *p = &u->parameters[i];
            for (size_t tiles = part_tiles(u, p, part); tiles > 0; tiles--, sums++) {
                if (parameter_frozen(p)) continue;
                if (u->point == STEP_FUSED_RESULTS) p->gradient_squares += sums->gradient_squares;
                p->update_squares += sums->update_squares;
                p->flipped += (uint64_t)sums->flipped;
                p->saturated += (uint64_t)sums->saturated;
            }
        }
}

static void remember_whole(struct parameter *p) {
    p->weights = (uint64_t)p->target.tensor->rows * p->target.tensor->cols;
    updater_remember(p);
}

void updater_take_results(dqt_updater *u) {
    add_results(u);
    for (size_t i = 0; i < u->count; i++)
        if (!parameter_frozen(&u->parameters[i])) remember_whole(&u->parameters[i]);
}

void updater_take_fused_results(dqt_updater *u) {
    add_results(u);
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        if (parameter_frozen(p) || !p->begun) continue;
        p->nonfinite = !isfinite(p->gradient_squares);
        p->gradient_squares *= (double)u->gradient_scale * (double)u->gradient_scale;
        if (p->nonfinite)
            p->gradient_squares = 0.0;
        else
            remember_whole(p);
    }
}

void updater_give_results(dqt_updater *u) {
    for (size_t i = 0; i < u->count; i++)
        u->whole_sums[u->first_number + i] = updater_results(&u->parameters[i]);
}
