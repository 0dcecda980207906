/* What is constant over one parameter and step. */
#include <float.h>
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
    return (factor < 1.0 ? (float)factor : 1.0f) * u->gradient_scale;
}

/* Steps of codes under trained scales are lr * u / (mean scale at the first step): where a row's scale grows, its
 * weights then move faster in proportion. Measured in the live scale the codes would all but stop (docs/results.md). */
static void set_reference_scale(struct parameter *p) {
    if (!p->reference_scale || *p->reference_scale > 0.0f) return;
    const dqt_tensor *t = p->target.tensor;
    double sum = 0.0;
    for (size_t i = 0; i < t->num_scales; i++)
        sum += (double)t->scales[i];
    *p->reference_scale = (float)(sum / (double)t->num_scales);
}

static float parameter_rate(const struct parameter *p, float learning_rate) {
    return fminf(learning_rate * p->rule.lr_factor, FLT_MAX);
}

/* Decay touches matrices, never gains. */
static float parameter_decay(const struct parameter *p) {
    return p->target.tensor->rows > 1 ? p->rule.weight_decay : 0.0f;
}

dqt_status updater_check_rate(const dqt_updater *u, float learning_rate) {
    if (!(learning_rate >= 0.0f) || !isfinite(learning_rate))
        return fail(u->ctx, DQT_E_ARGUMENT, "learning_rate is %g, expected a finite number >= 0",
                    (double)learning_rate);
    if (u->step == UINT64_MAX)
        return fail(u->ctx, DQT_E_STATE, "the step count is 2^64 - 1: another step could not be numbered");
    for (size_t i = 0; i < u->count; i++) {
        const struct parameter *p = &u->parameters[i];
        if (parameter_frozen(p) || format_is_code(p->target.tensor->storage)) continue;
        const float rate = parameter_rate(p, learning_rate);
        if (rate > UPDATE_RATE_LIMIT)
            return fail(u->ctx, DQT_E_NUMERIC,
                        "a learning rate of %g: weights of %s could become infinite above %g; nothing was changed",
                        (double)rate, p->target.name, (double)UPDATE_RATE_LIMIT);
        if (rate * parameter_decay(p) > 2.0f)
            return fail(
                u->ctx, DQT_E_NUMERIC,
                "a learning rate of %g with a weight decay of %g: weights of %s would grow without bound (their "
                "product is above 2); nothing was changed",
                (double)rate, (double)parameter_decay(p), p->target.name);
    }
    return DQT_OK;
}

bool updater_corrects_rate(const dqt_updater *u, const struct parameter *p) {
    return u->options.rate_corrected && p->momentum && format_is_code(p->target.tensor->storage);
}

/* What m holds moves weights by the rate of the step that it comes back in, so that rate * m is what is kept
 * (docs/numerics.md): m is measured in the new rate from now on. A step of rate 0 moves no weight and takes nothing out
 * of m. Where no rate is known, and where the quotient is out of range, m stays as it is measured. */
static void plan_correction(const dqt_updater *u, const struct parameter *p, struct update_plan *plan) {
    plan->momentum_factor = 1.0f;
    if (!updater_corrects_rate(u, p) || !rounding_of(p->rule.rounding)->eco || !(p->last_rate > 0.0f)) return;
    plan->momentum_held = !(plan->learning_rate > 0.0f);
    if (plan->momentum_held) return;
    const float quotient = p->last_rate / plan->learning_rate;
    if (isfinite(quotient)) plan->momentum_factor = quotient;
}

void updater_remember_rate(const dqt_updater *u, struct parameter *p) {
    if (!updater_corrects_rate(u, p)) return;
    if (!rounding_of(p->rule.rounding)->eco)
        p->last_rate = 0.0f;
    else if (p->plan.learning_rate > 0.0f)
        p->last_rate = p->plan.learning_rate;
}

void updater_plan(dqt_updater *u, size_t index, float clip) {
    DQT_ASSERT(index < u->count);
    struct parameter *p = &u->parameters[index];
    const dqt_updater_options *o = &u->options;
    const dqt_tensor *t = p->target.tensor;
    const uint32_t id = (uint32_t)(u->first_number + index);
    const double bias1 = 1.0 - update_power((double)p->rule.beta1, u->step + 1);
    const double bias2 = 1.0 - update_power((double)o->beta2, u->step + 1);
    const struct optimizer *optimizer = p->optimizer;
    const struct rounding *rounding = rounding_of(p->rule.rounding);
    const bool integer = format_is_code(t->storage);
    struct update_plan plan = {
        .method = optimizer->orthogonal ? UPDATE_SGD : optimizer->method, /* of a direction that is made beforehand */
        .packing = format_packing(t->storage),
        .float_bytes = format_float_bytes(t->storage),
        .stochastic = rounding->stochastic,
        .train_scale = t->train_scale && integer,
        .momentum = p->momentum && !optimizer->orthogonal,
        .variance = p->variance != NULL,
        .momentum_codec = p->momentum ? p->momentum->first : UPDATE_F32,
        .variance_codec = p->variance ? p->variance->second : UPDATE_F32,
        .clip = clip,
        .learning_rate = parameter_rate(p, u->learning_rate),
        .weight_decay = parameter_decay(p),
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
        .accumulate = p->accumulates,
        .accumulator_unit = (float)accumulator_unit(&p->rule),
        .accumulator_reach = (float)accumulator_reach(&p->rule),
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
    plan_correction(u, p, &plan);
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
    if (!(p->plan.update_factor >= FLT_MIN)) p->plan.update_factor = FLT_MIN; /* rms(u) is divided by it again */
}
