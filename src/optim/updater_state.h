/* What is behind dqt_updater: one block of memory,
 *
 *   struct dqt_updater | parameters | per parameter: m, m scales, v, v scales, row and column statistics,
 *   moments and unit of trained scales, history | tile results | column partials | gradient rows, one per lane
 *
 * State that survives a step is what updater_visit_state shows; the rest is scratch of one step. */
#ifndef DQT_OPTIM_UPDATER_STATE_H
#define DQT_OPTIM_UPDATER_STATE_H

#include "kernels/update_kernels.h"
#include "optim/updater.h"

enum { TILE_ROWS = 64 }; /* what a work task is, whatever the thread count */

/* Sums over one tile of rows, added up in order afterwards. */
struct tile_result {
    double gradient_squares, update_squares;
    uint64_t flipped, saturated;
    uint32_t rows; /* that were updated or stats_only: 0 if the gradient was not finite */
    uint32_t nonfinite;
    uint32_t stats_only; /* of another part: seen for the statistics, not written */
};

struct parameter {
    struct update_target target;
    struct update_rule rule;
    size_t tiles;
    bool momentum, variance, factored; /* which states it has */
    int variance_state;                /* Adafactor keeps the few unfactored ones in f32 */

    void *m, *v;
    float *m_scale, *v_scale; /* [rows][chunks] of DQT_STATE_INT8 */
    float *row, *column;      /* factored statistics: means of g^2 */
    float *scale_m, *scale_v; /* [rows], trained scales */
    float *reference_scale; /* [1], trained scales: their mean at the first step, in which steps of codes are measured;
                          0: not yet known */
    double *history;        /* [2]: norm of the gradient and rms(u) of the previous step */

    /* of the current step */
    struct update_plan plan;
    float column_factor; /* 1 / mean(column), 0: no column statistic yet */
    bool row_ready;      /* this step's row and column statistics are already in place */
    double gradient_squares, update_squares;
    uint64_t flipped, saturated, weights;
    bool nonfinite;
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
    float *column_sums;   /* [tiles][cols] of the current parameter */
    float *gradient_rows; /* [lanes][most cols]: rows of gradients that are not f32 */
    size_t gradient_ld;
    float learning_rate; /* of the current step */
};

static inline bool parameter_frozen(const struct parameter *p) {
    return p->rule.lr_factor == 0.0f;
}

/* beta^step by squaring: the same on every system, which pow is not. */
double update_power(double beta, uint64_t step);

#endif
