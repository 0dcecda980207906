/* What is behind dqt_updater: one block of memory,
 *
 *   struct dqt_updater | parameters | per parameter: m, m scales or accumulator, v, v scales, row and column
 * statistics, moments of trained scales and their reference, history | tile results | column sums | sums of u^2 | sums
 * of all tiles | where each part's lie | gradients of a row's scales | gradient rows, one per lane |
 * scratch of MUON
 *
 * Of m, accumulator, v, their scales, row statistics and moments of trained scales there are the rows of the updater's
 * part; column statistics, reference, history and last rate, which lies in the parameter, are of all rows in every
 * part.
 *
 * State that survives a step is what updater_visit_state shows; the rest is scratch of one step. */
#ifndef DQT_OPTIM_UPDATER_STATE_H
#define DQT_OPTIM_UPDATER_STATE_H

#include "gemm/gemm.h"
#include "kernels/kernels.h"
#include "optim/muon.h"
#include "optim/optimizer.h"
#include "optim/rounding.h"
#include "optim/state.h"
#include "optim/updater.h"

/* Sums over one tile of GEMM_TILE_ROWS rows (what gemm_weight_gradient hands over, and what a task is, whatever the
 * thread count), added up in order afterwards. */
struct tile_result {
    double gradient_squares, update_squares;
    uint64_t flipped, saturated;
    uint32_t rows; /* that were updated, 0 if the gradient was not finite; of another part, whose sums have come, too */
    uint32_t nonfinite;
};

struct parameter {
    struct update_target target;
    const struct optimizer *optimizer; /* the updater's, or a group's */
    struct update_rule rule;
    size_t tiles;
    size_t turn;                 /* see shard_tiles */
    size_t first_tile, end_tile; /* of the updater's part */
    size_t first_row, own_rows;  /* the same in rows: what the states by row begin with, and how many they have */
    size_t own_at;               /* where its own tiles begin in the updater's sums */
    const struct state_format *momentum, *variance; /* of m and v; NULL: not kept */
    bool accumulates;                               /* an accumulator is kept, also by a part that owns no rows */
    bool factored;                                  /* row and column statistics are kept */
    float last_rate; /* options.rate_corrected: rate in which m is measured, the last above 0 of ECO; 0: none */

    void *m, *v;              /* [own_rows][cols] */
    int8_t *accumulator;      /* [own_rows][cols] steps that codes have not made yet, where `accumulates` */
    float *m_scale, *v_scale; /* [own_rows][chunks] of DQT_STATE_INT8 */
    float *own_columns;  /* [own tiles][cols] column sums of an update inside backward, of one part, until its end */
    float *row, *column; /* factored statistics: means of g^2, [own_rows] and [cols] */
    float *scale_m, *scale_v; /* [own_rows][row_groups], trained scales */
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

/* What the parts exchange next in a step from buffers, see optim/step.c. */
enum step_point {
    STEP_CLOSED,         /* no step is open */
    STEP_SQUARES,        /* of all gradients: squares of tiles */
    STEP_COLUMNS,        /* of a parameter: column sums of tiles, before its weights are written */
    STEP_UPDATES,        /* of a parameter: u^2 of tiles, before its weights are written */
    STEP_LAGGED_COLUMNS, /* as COLUMNS, for the next step */
    STEP_RESULTS,        /* of all parameters: struct tile_sums of tiles */
    STEP_FUSED_RESULTS,  /* the same, of an update inside backward */
    STEP_FUSED_COLUMNS   /* of a parameter: column sums of tiles, for the next step */
};

/* What becomes known of a tile as it is updated, as it travels. */
struct tile_sums {
    double gradient_squares; /* of updates inside backward: infinite for a gradient that is not finite */
    double update_squares, flipped, saturated; /* counts are exact */
};

/* What became of a parameter of a partial model, as it travels. Squares are of lr * u. */
struct parameter_sums {
    double update_squares, flipped, saturated, quantized;
};

struct dqt_updater {
    dqt_context *ctx;
    dqt_updater_options options;
    size_t bytes; /* of the whole block */
    size_t count;
    struct parameter *parameters;
    uint64_t step;              /* steps done */
    double previous_norm;       /* global gradient norm of the previous step, 0 before the first */
    size_t part, num_parts;     /* part < num_parts */
    size_t first_number, whole; /* of a partial model: number of its first parameter of `whole` in all; else 0 */
    size_t all_tiles;           /* of all parameters */
    enum step_point point;
    size_t current; /* parameter that the point is of */
    double norm;    /* of all gradients of the step that is open */
    struct tile_result *tiles;
    struct parameter_sums *whole_sums; /* [whole] of a partial model; at STEP_SQUARES doubles lie there */
    float *column_sums;                /* [tiles][cols] of the current parameter */
    double *update_sums;               /* [tiles] of the current parameter */
    struct tile_sums *sums;  /* of all tiles of all parameters: part by part, in each by parameter. At STEP_SQUARES
                                doubles lie there */
    size_t *offsets;         /* [num_parts + 1], of a partial model [4]: bytes from which the parts' sums lie in what is
                                exchanged */
    double *scale_gradients; /* [tiles][row_groups] of the current parameter: a row's */
    float *gradient_rows;    /* [lanes][most cols]: rows of gradients that are not f32 */
    size_t gradient_ld;
    struct muon_scratch muon; /* where a parameter takes MUON */
    float learning_rate;      /* of the current step */
    float gradient_scale;     /* factor of all its gradients; norms have it, the sums of tiles do not */
    dqt_updater **holder;     /* of a fused step that is open; NULL: none is */
};

/* The sums at STEP_SQUARES. */
static inline double *updater_squares(const dqt_updater *u) {
    return (double *)(void *)u->sums;
}

/* The same by parameter, of a partial model. */
static inline double *updater_whole_squares(const dqt_updater *u) {
    return (double *)(void *)u->whole_sums;
}

static inline bool parameter_frozen(const struct parameter *p) {
    return p->rule.frozen;
}

/* Of part `part` of the updater's. */
void shard_tiles(size_t tiles, size_t turn, size_t part, size_t num_parts, size_t *first, size_t *end);
/* The turn of the parameter that follows one of `tiles` and `turn`. */
size_t shard_turn(size_t tiles, size_t turn, size_t num_parts);

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
/* Whether the options ask for the parameter's m to be corrected when its rate changes; it is with ECO. */
bool updater_corrects_rate(const dqt_updater *u, const struct parameter *p);
/* After a step that the plan was carried out in: last_rate. */
void updater_remember_rate(const dqt_updater *u, struct parameter *p);
/* Whether the parameter's u is divided by max(1, rms(u) / update_clip), and the factor that follows from rms(u). */
bool updater_clips_updates(const dqt_updater *u, const struct parameter *p);
void updater_set_update_factor(const dqt_updater *u, struct parameter *p, double rms);

/* ---- groups.c ---- */

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
/* From u->column_sums of the tiles that were seen, in place. */
void factored_columns(const dqt_updater *u, struct parameter *p);
/* column_factor, from the column statistic. */
void factored_refresh(struct parameter *p);

/* ---- scale.c ---- */

/* gradients[row_groups]: dL/ds of the row's scales, before clipping. */
void updater_update_scales(const dqt_updater *u, struct parameter *p, size_t row, const double *gradients);

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

/* MUON: of rows that have been seen, momentum and direction move on, and no weight; then all weights of the parameter,
 * which ends the use of its plan. */
void updater_muon_tile(dqt_updater *u, struct parameter *p, size_t first, const struct row_source *source);
void updater_muon_apply(dqt_updater *u, struct parameter *p);

/* ---- exchange.c ---- */

/* The step waits here for the other parts' sums; p: the parameter that they are of. */
void updater_stop_at(dqt_updater *u, enum step_point point, const struct parameter *p);
/* Whether what has come are sums that a part can have sent. */
bool updater_sums_valid(const dqt_updater *u);
/* Takes them over, in the order of tiles. DQT_E_NUMERIC: a gradient is not finite, and nothing has been changed. */
dqt_status updater_take_squares(dqt_updater *u);
void updater_take_columns(dqt_updater *u, struct parameter *p);
void updater_take_updates(dqt_updater *u, struct parameter *p);
void updater_take_results(dqt_updater *u);
void updater_take_fused_results(dqt_updater *u);
/* Of a partial model: its own squares, and what became of its parameters, go to what is exchanged; they have been taken
 * over. */
void updater_give_squares(dqt_updater *u);
void updater_give_results(dqt_updater *u);

/* ---- fused.c ---- */

/* history, from the sums over the parameter's rows of this step. */
void updater_remember(struct parameter *p);
/* What the statistics of a step have of a parameter. */
struct parameter_sums updater_results(const struct parameter *p);

/* Updates the tile that starts at row `first`. row_squares: sums of squares of its rows, where the caller has made
 * them; NULL: not yet. */
void updater_apply_tile(dqt_updater *u, struct parameter *p, size_t first, const struct row_source *source,
                        const double *row_squares);

#endif
