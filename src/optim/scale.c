/* Trained scales of rows and groups. */
#include <float.h>
#include <math.h>

#include "optim/updater_state.h"

/* Adam on a scale with relative steps, s *= 1 - lr * scale_lr * u, a factor kept within 1/2..2 and s within
 * 1e-30..1e30. The gradient dL/ds = sum_k g[k] * q[k] is of the codes before the update. */
static void update_scale(const dqt_updater *u, struct parameter *p, size_t index, double gradient) {
    const size_t own = index - p->first_row * p->target.tensor->row_groups;
    const struct update_plan *plan = &p->plan;
    const double limit = (double)UPDATE_LIMIT;
    double clipped = gradient * (double)plan->clip;
    clipped = clipped > limit ? limit : clipped < -limit ? -limit : clipped;
    const float g = (float)clipped, rest1 = (float)(1.0 - (double)plan->beta1);
    float first = g;
    if (p->scale_m) {
        p->scale_m[own] = plan->beta1 * p->scale_m[own] + rest1 * g;
        first = p->scale_m[own] / (float)(1.0 - update_power((double)plan->beta1, u->step + 1));
    }
    p->scale_v[own] = plan->beta2 * p->scale_v[own] + plan->one_minus_beta2 * g * g;
    const float update = first / (sqrtf(p->scale_v[own] * plan->inverse_bias2) + plan->eps);
    /* neither factor infinite: 0 * infinity would be no number */
    const float rate = fminf(plan->learning_rate * u->options.scale_lr, FLT_MAX);
    float factor = 1.0f - rate * fmaxf(fminf(update, FLT_MAX), -FLT_MAX);
    if (!(factor > 0.5f)) factor = 0.5f;
    if (!(factor < 2.0f)) factor = 2.0f;
    float *scale = &p->target.tensor->scales[index];
    const float next = *scale * factor;
    if (next >= 1e-30f && next <= 1e30f) *scale = next;
}

void updater_update_scales(const dqt_updater *u, struct parameter *p, size_t row, const double *gradients) {
    const size_t groups = p->target.tensor->row_groups;
    for (size_t g = 0; g < groups; g++)
        update_scale(u, p, row * groups + g, gradients[g]);
}
