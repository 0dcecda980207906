/* A factored second moment: decayed means of g^2 over rows and over columns [Shazeer and Stern 2018]. */
#include <float.h>
#include <math.h>

#include "optim/updater_state.h"

static const float TINY = 1e-30f; /* added to the squares, as in the paper */

static double column_mean(const struct parameter *p) {
    const size_t cols = p->target.tensor->cols;
    double sum = 0.0;
    for (size_t k = 0; k < cols; k++)
        sum += (double)p->column[k];
    return sum / (double)cols;
}

/* v = row * column / mean(row); mean(row) and mean(column) are both the mean of g^2, and the latter is at hand before
 * all rows are. Without a column statistic v is the row's. */
void factored_refresh(struct parameter *p) {
    const double mean = column_mean(p);
    p->column_factor = mean > 0.0 ? (float)(1.0 / fmax(mean, 1.0 / (double)FLT_MAX)) : 0.0f;
}

/* Row statistic from the double sum of squares that the finiteness check makes anyway. */
void factored_row(struct parameter *p, size_t row, double squares) {
    const struct update_plan *plan = &p->plan;
    const double clip = (double)plan->clip, limit = (double)UPDATE_LIMIT * (double)UPDATE_LIMIT;
    double mean = squares * clip * clip / (double)p->target.tensor->cols;
    mean = mean < limit ? mean : limit;
    float *statistic = &p->row[row - p->first_row];
    *statistic = plan->beta2 * *statistic + plan->one_minus_beta2 * ((float)mean + TINY);
}

/* Column means of g^2 over the tiles that were seen, in tile order. */
void factored_columns(const dqt_updater *u, struct parameter *p) {
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
