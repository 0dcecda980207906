#include "io/import_report.h"

#include <math.h>
#include <stdio.h>

#include "core/parallel.h"
#include "core/status.h"

enum { RUN = 256, SHARES = 64 };

/* Rows in SHARES runs, added in order. */
struct comparison {
    const dqt_tensor *t;
    const float *weights;
    struct {
        double error, square;
        uint64_t clipped;
    } share[SHARES];
};

/* Weights that are more than half a code from what they became lie beyond the codes' range. */
static void compare_share(void *arg, size_t share, int lane) {
    (void)lane;
    struct comparison *c = arg;
    const dqt_tensor *t = c->t;
    const size_t per = ceil_div(t->rows, SHARES), group = tensor_compute_group_cols(t);
    double error = 0, square = 0;
    uint64_t clipped = 0;
    float values[RUN];
    for (size_t r = share * per; r < t->rows && r < (share + 1) * per; r++)
        for (size_t col = 0; col < t->cols; col += RUN) {
            const size_t n = size_min(t->cols - col, RUN);
            tensor_read_floats(t, r, col, n, values);
            for (size_t k = 0; k < n; k++) {
                const double w = (double)c->weights[r * t->cols + col + k], e = fabs(w - (double)values[k]);
                const double scale = (double)tensor_compute_group_scale(t, r, (col + k) / group);
                error += e * e;
                square += w * w;
                clipped += e > 0.501 * fabs(scale);
            }
        }
    c->share[share].error = error;
    c->share[share].square = square;
    c->share[share].clipped = clipped;
}

void import_report_add(struct import_report *r, const char *name, const dqt_tensor *t, const float *weights) {
    if (!log_wanted(r->ctx, DQT_LOG_WARNING) || !format_is_code(t->compute)) return;
    struct comparison c = {.t = t, .weights = weights};
    parallel_run(r->ctx, SHARES, 4 * WORK_ELEMENT * (double)t->rows * (double)t->cols, compare_share, &c);
    double error = 0, square = 0;
    uint64_t clipped = 0;
    for (int i = 0; i < SHARES; i++) {
        error += c.share[i].error;
        square += c.share[i].square;
        clipped += c.share[i].clipped;
    }
    const double relative = square > 0 ? sqrt(error / square) : 0;
    const double excess = relative / format_normal_error(t->compute);
    const double count = (double)t->rows * (double)t->cols;
    log_message(r->ctx, DQT_LOG_INFO, "import: %s: %s, relative error %.4g, %.4g %% of the weights beyond the codes",
                name, format_name(t->compute), relative, 100 * (double)clipped / count);
    r->tensors++;
    r->poor += excess > IMPORT_ERROR_BOUND;
    if (excess <= r->worst) return;
    r->worst = excess;
    r->worst_error = relative;
    snprintf(r->worst_name, sizeof r->worst_name, "%s", name);
}

void import_report_end(const struct import_report *r) {
    if (!r->poor) return;
    log_message(r->ctx, DQT_LOG_WARNING,
                "import: %zu of %zu tensors lose more than %g times what normally distributed weights would; %s has a "
                "relative error of %.4g: scales of groups lose less",
                r->poor, r->tensors, IMPORT_ERROR_BOUND, r->worst_name, r->worst_error);
}
