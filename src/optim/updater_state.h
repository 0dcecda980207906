/* What is behind dqt_updater: one block of memory,
 *
 *   struct dqt_updater | parameters | per parameter: m, m scales or accumulator, v, v scales, row and column
 * statistics, moments of trained scales and their reference, history | tile results | column sums | gradients of a
 * row's scales | gradient rows, one per lane
 *
 * State that survives a step is what updater_visit_state shows; the rest is scratch of one step. */
#ifndef DQT_OPTIM_UPDATER_STATE_H
#define DQT_OPTIM_UPDATER_STATE_H

#include "gemm/gemm.h"
#include "kernels/kernels.h"
#include "optim/optimizer.h"
#include "optim/rounding.h"
#include "optim/state.h"
#include "optim/updater.h"

/* Sums over one tile of GEMM_TILE_ROWS rows (what gemm_weight_gradient hands over, and what a task is, whatever the
 * thread count), added up in order afterwards. */
struct tile_result {
    double gradient_squares, update_squares;
    uint64_t flipped, saturated;
    uint32_t rows; /* that were updated or stats_only: 0 if the gradient was not finite */
    uint32_t nonfinite;
    uint32_t stats_only; /* of another shard: read for the statistics, not written */
};

struct parameter {
    struct update_target target;
    const struct optimizer *optimizer; /* the updater's, or a group's */
    struct update_rule rule;
    size_t tiles;
    const struct state_format *momentum, *variance; /* of m and v; NULL: not kept */
    bool factored;                                  /* row and column statistics are kept */

    void *m, *v;
    int8_t *accumulator; /* [rows][cols] steps that codes have not made yet; NULL: another rounding rule, or floats */
    float *m_scale, *v_scale; /* [rows][chunks] of DQT_STATE_INT8 */
    float *row, *column;      /* factored statistics: means of g^2 */
    float *scale_m, *scale_v; /* [num_scales], trained scales */
    float *reference_scale; /* [1], trained scales: their mean at the first step, in which steps of codes are measured;
                          0: not yet known */
    double *history;        /* [2]: norm of the gradient and rms(u) of the previous step */

    /* of the current step */
    struct update_plan plan;
    float column_factor; /* 1 / mean(column), 0: no column statistic yet */
    bool row_ready;      /* this step's row and column statistics are already in place */
    double gradient_squares, update_squares;
    uint64_t flipped, saturated, weights;
    bool begun, nonfinite;
};

struct dqt_updater {
    dqt_context *ctx;
    dqt_updater_options options;
    size_t bytes; /* of the whole block */
    size_t count;
    struct parameter *parameters;
    uint64_t step;        /* steps done */
    double previous_norm; /* global gradient norm of the previous step, 0 before the first */
    struct tile_result *tiles;
    float *column_sums;      /* [tiles][cols] of the current parameter */
    double *scale_gradients; /* [tiles][row_groups] of the current parameter: a row's */
    float *gradient_rows;    /* [lanes][most cols]: rows of gradients that are not f32 */
    size_t gradient_ld;
    float learning_rate;  /* of the current step */
    float gradient_scale; /* factor of all its gradients; norms have it, the sums of tiles do not */
    dqt_updater **holder; /* of a fused step that is open; NULL: none is */
};

static inline bool parameter_frozen(const struct parameter *p) {
    return p->rule.frozen;
}

/* The row after the last of the tile that starts at `first`. */
static inline size_t tile_end(const struct parameter *p, size_t first) {
    DQT_ASSERT(first % GEMM_TILE_ROWS == 0 && first < p->target.tensor->rows);
    return size_min(p->target.tensor->rows, first + GEMM_TILE_ROWS);
}

/* ---- plan.c ---- */

/* beta^step by squaring: the same on every system, which pow is not. */
double update_power(double beta, uint64_t step);
/* Factor of gradients whose scaled norm is this: gradient_scale, and what clipping leaves of it. */
float updater_clip_factor(const dqt_updater *u, double norm);
/* DQT_E_ARGUMENT; DQT_E_STATE when the steps are all numbered; DQT_E_NUMERIC for a rate (times a group's factor and
 * decay) at which float weights could become infinite. Codes and states stay finite at any. */
dqt_status updater_check_rate(const dqt_updater *u, float learning_rate);
/* Fills the parameter's plan for the step that begins. clip: factor of its gradient. */
void updater_plan(dqt_updater *u, size_t index, float clip);
/* Whether the parameter's u is divided by max(1, rms(u) / update_clip), and the factor that follows from rms(u). */
bool updater_clips_updates(const dqt_updater *u, const struct parameter *p);
void updater_set_update_factor(const dqt_updater *u, struct parameter *p, double rms);

/* ---- groups.c ---- */

/* Group `index` of the options, complete. */
dqt_group_options updater_group(const dqt_updater_options *o, size_t index);

/* What DQT_ROUND_DEFAULT stands for. */
int32_t updater_default_rounding(const struct optimizer *optimizer, float beta1);

/* What the options and their groups say of a parameter; *optimizer is NULL for a number that is none. */
struct update_rule updater_first_rule(const dqt_updater_options *o, const struct update_target *t,
                                      const struct optimizer **optimizer);

/* DQT_E_UNSUPPORTED where this rounding needs what the optimiser, or beta1 0, does not give a tensor of this storage.
 */
dqt_status updater_check_rounding(const dqt_context *ctx, const struct optimizer *optimizer, float beta1,
                                  int32_t rounding, const struct update_target *t);

/* ---- accumulator.c ---- */

/* Whether a parameter of this storage with this rounding keeps an accumulator. */
bool accumulator_kept(const dqt_tensor *t, int32_t rounding);
/* Steps of the accumulator's grid in one step of codes, and how many of those one step of the grid moves a code. */
double accumulator_unit(const struct update_rule *rule);
double accumulator_reach(const struct update_rule *rule);
/* Between steps: from the grid of the parameter's rule to that of another. */
void accumulator_regrid(const dqt_updater *u, size_t index, const struct update_rule *next);

/* ---- factored.c ---- */

/* squares: sum of g^2 of the row, before clipping. */
void factored_row(struct parameter *p, size_t row, double squares);
/* From u->column_sums of the tiles that were seen. */
void factored_columns(const dqt_updater *u, struct parameter *p);
/* column_factor, from the column statistic. */
void factored_refresh(struct parameter *p);

/* ---- scale.c ---- */

/* gradients[row_groups]: dL/ds of the row's scales, before clipping. */
void updater_update_scales(const dqt_updater *u, struct parameter *p, size_t row, const double *gradients);

/* ---- shards.c ---- */

void shard_tiles(const dqt_updater *u, size_t index, size_t shard, size_t num_shards, size_t *first, size_t *end);

/* ---- step.c ---- */

static inline const struct update_kernels *updater_kernels(const dqt_updater *u) {
    return &u->ctx->kernels->update;
}

/* Where the rows of a tile come from: f32 in memory, or a gradient buffer that is decoded row by row. */
struct row_source {
    const float *rows; /* of the tile; NULL: decode */
    size_t ld;
    const struct gradient *gradient;
    float *scratch; /* [cols] */
};

/* Updates the tile that starts at row `first`. row_squares: sums of squares of its rows, where the caller has made
 * them; NULL: not yet. */
void updater_apply_tile(dqt_updater *u, struct parameter *p, size_t first, const struct row_source *source,
                        const double *row_squares);

#endif
