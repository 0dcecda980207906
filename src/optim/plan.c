/* What is constant over one parameter and step. */
#include <math.h>

#include "core/status.h"
#include "optim/updater_state.h"

double update_power(double beta, uint64_t step) {
    double result = 1.0;
    for (; step; step >>= 1, beta *= beta)
        if (step & 1) result *= beta;
    return result;
}

/* As in torch.nn.utils.clip_grad_norm_. */
float updater_clip_factor(const dqt_updater *u, double norm) {
    const double factor = (double)u->options.clip_norm / (norm + 1e-6);
    return factor < 1.0 ? (float)factor : 1.0f;
}

/* Steps of codes under trained scales are lr * u / (mean scale at the first step): where a row's scale grows, its
 * weights then move faster in proportion. Measured in the live scale the codes would all but stop (docs/results.md). */
static void set_reference_scale(struct parameter *p) {
    if (!p->reference_scale || *p->reference_scale > 0.0f) return;
    const dqt_tensor *t = p->target.tensor;
    double sum = 0.0;
    for (size_t row = 0; row < t->rows; row++)
        sum += (double)tensor_scale(t, row);
    *p->reference_scale = (float)(sum / (double)t->rows);
}

void updater_plan(dqt_updater *u, size_t index, float clip) {
    DQT_ASSERT(index < u->count);
    struct parameter *p = &u->parameters[index];
    const dqt_updater_options *o = &u->options;
    const dqt_tensor *t = p->target.tensor;
    const uint32_t id = (uint32_t)index;
    const double bias1 = 1.0 - update_power((double)p->rule.beta1, u->step + 1);
    const double bias2 = 1.0 - update_power((double)o->beta2, u->step + 1);
    const struct optimizer *optimizer = p->optimizer;
    const struct rounding *rounding = rounding_of(p->rule.rounding);
    const bool integer = format_is_code(t->storage);
    struct update_plan plan = {
        .method = optimizer->method,
        .packing = format_packing(t->storage),
        .float_bytes = format_float_bytes(t->storage),
        .stochastic = rounding->stochastic,
        .train_scale = t->train_scale && integer,
        .momentum = p->momentum != NULL,
        .variance = p->variance != NULL,
        .momentum_codec = p->momentum ? p->momentum->first : UPDATE_F32,
        .variance_codec = p->variance ? p->variance->second : UPDATE_F32,
        .clip = clip,
        .learning_rate = u->learning_rate * p->rule.lr_factor,
        .weight_decay = t->rows > 1 ? p->rule.weight_decay : 0.0f,
        .beta1 = p->rule.beta1,
        .one_minus_beta1 = optimizer->averages ? (float)(1.0 - (double)p->rule.beta1) : 1.0f,
        .beta2 = o->beta2,
        .one_minus_beta2 = (float)(1.0 - (double)o->beta2),
        .eps = o->eps,
        .inverse_bias1 = optimizer->averages ? (float)(1.0 / bias1) : 1.0f,
        .inverse_bias2 = (float)(1.0 / bias2),
        .update_factor = 1.0f,
        .noise = p->rule.rounding_noise,
        .weight = rng_make(o->seed, u->step, RNG_WEIGHT, id),
        .momentum_rng = rng_make(o->seed, u->step, RNG_MOMENTUM, id),
        .variance_rng = rng_make(o->seed, u->step, RNG_VARIANCE, id),
    };
    /* ECO: what is added to m now comes back as lr / ((1 - beta1^t) * denominator) * (beta1 + beta1^2 + ...) of itself
     * over the next steps, which is e for (1 - 1 / beta1). An m that is a sum has no factors, and its geometric sum is
     * the same. */
    plan.eco = rounding->eco && integer && p->momentum && plan.learning_rate > 0.0f;
    if (plan.eco) {
        DQT_ASSERT(optimizer->linear);
        const double correction = optimizer->averages ? bias1 : 1.0;
        plan.eco_factor = (float)((1.0 - 1.0 / (double)p->rule.beta1) * correction / (double)plan.learning_rate);
    }
    p->plan = plan;
    p->column_factor = 0.0f;
    p->row_ready = false;
    if (p->factored) factored_refresh(p);
    set_reference_scale(p);
}

bool updater_clips_updates(const dqt_updater *u, const struct parameter *p) {
    return p->optimizer->clips_updates && !p->momentum && u->options.update_clip > 0.0f;
}

void updater_set_update_factor(const dqt_updater *u, struct parameter *p, double rms) {
    const double excess = rms / (double)u->options.update_clip;
    p->plan.update_factor = excess > 1.0 ? (float)(1.0 / excess) : 1.0f;
}
