/* Rules of single parameters: groups, and what a checkpoint restores. */
#include <math.h>
#include <string.h>

#include "core/pattern.h"
#include "core/size.h"
#include "core/status.h"
#include "dqt.h"
#include "optim/muon.h"
#include "optim/updater_state.h"

static bool group_matches(const dqt_group_options *o, const struct update_target *t) {
    if (o->parameter_class != 0 && o->parameter_class != t->parameter_class) return false;
    return !o->pattern || name_matches(o->pattern, t->name);
}

dqt_status updater_check_rounding(const dqt_context *ctx, const struct optimizer *optimizer, float beta1,
                                  int32_t rounding, const struct update_target *t) {
    if (accumulator_kept(t->tensor, rounding) && optimizer->needs_momentum)
        return fail(
            ctx, DQT_E_UNSUPPORTED,
            "rounding is ACCUMULATE, which keeps no first moment of %s, but %s needs one: take another rounding",
            t->name, optimizer->name);
    if (!rounding_of(rounding)->eco || !format_is_code(t->tensor->storage)) return DQT_OK; /* nothing to feed back */
    if (!optimizer->linear)
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "ECO rounding feeds errors back through a first moment in which the update is linear, and %s's is "
                    "not (parameter %s of %s storage): take rounding STOCHASTIC",
                    optimizer->name, t->name, format_name(t->tensor->storage));
    if (beta1 == 0.0f)
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "rounding is ECO with beta1 0; parameter %s of %s storage has no first moment to feed the rounding "
                    "error back into: take rounding STOCHASTIC or a beta1 above 0",
                    t->name, format_name(t->tensor->storage));
    return DQT_OK;
}

/* What a group asks for, on top of what holds so far; zeros keep it. */
static struct update_rule changed(struct update_rule rule, const dqt_group_options *o) {
    if (o->lr_factor > 0.0f) rule.lr_factor = o->lr_factor;
    if (o->weight_decay > 0.0f) rule.weight_decay = o->weight_decay;
    if (o->weight_decay < 0.0f) rule.weight_decay = 0.0f;
    if (o->rounding != DQT_ROUND_DEFAULT) rule.rounding = o->rounding;
    if (o->beta1 > 0.0f) rule.beta1 = o->beta1;
    if (o->rounding_noise > 0.0f) rule.rounding_noise = o->rounding_noise;
    if (o->freeze) rule.frozen = o->freeze > 0;
    return rule;
}

/* Group `index` of the options, complete. */
static dqt_group_options updater_group(const dqt_updater_options *o, size_t index) {
    dqt_group_options group = {.struct_size = sizeof group};
    const size_t size = o->groups->struct_size;
    memcpy(&group, (const unsigned char *)o->groups + index * size, size_min(size, sizeof group));
    return group;
}

int32_t updater_default_rounding(const struct optimizer *optimizer, float beta1) {
    return optimizer && optimizer->linear && beta1 > 0.0f ? DQT_ROUND_ECO_STOCHASTIC : DQT_ROUND_STOCHASTIC;
}

struct update_rule updater_first_rule(const dqt_updater_options *o, const struct update_target *t,
                                      const struct optimizer **optimizer) {
    struct update_rule rule = {1.0f, o->weight_decay, o->rounding, o->beta1, o->rounding_noise, false};
    int32_t id = o->optimizer;
    for (size_t i = 0; i < o->num_groups; i++) {
        const dqt_group_options group = updater_group(o, i);
        if (!group_matches(&group, t)) continue;
        rule = changed(rule, &group);
        if (group.optimizer) id = group.optimizer;
    }
    *optimizer = optimizer_of(id);
    if (*optimizer && (*optimizer)->orthogonal && !muon_takes(t)) *optimizer = optimizer_of(DQT_OPTIMIZER_ADAMW);
    if (rule.rounding == DQT_ROUND_DEFAULT) rule.rounding = updater_default_rounding(*optimizer, o->beta1);
    return rule;
}

dqt_status updater_add_group(dqt_updater *u, const dqt_group_options *o, size_t *matched) {
    const struct rounding *rounding = rounding_of(o->rounding);
    *matched = 0;
    if (o->rounding != DQT_ROUND_DEFAULT && !rounding)
        return fail(u->ctx, DQT_E_ARGUMENT, "rounding is %d; it must be a DQT_ROUND_* value, or 0", (int)o->rounding);
    if (rounding && rounding->eco && u->options.beta1 == 0.0f)
        return fail(u->ctx, DQT_E_UNSUPPORTED, "ECO rounding needs a first moment, but beta1 is 0");
    for (size_t i = 0; i < u->count; i++) {
        const struct parameter *p = &u->parameters[i];
        if (!group_matches(o, &p->target)) continue;
        const int32_t next = changed(p->rule, o).rounding;
        TRY(updater_check_rounding(u->ctx, p->optimizer, u->options.beta1, next, &p->target));
        if (!updater_keeps_state(u, i, next))
            return fail(u->ctx, DQT_E_UNSUPPORTED,
                        "rounding ACCUMULATE decides what state is kept: %s %s it from dqt_updater_options on",
                        p->target.name, p->accumulates ? "has" : "does not have");
    }
    for (size_t i = 0; i < u->count; i++) {
        struct parameter *p = &u->parameters[i];
        if (!group_matches(o, &p->target)) continue;
        const struct update_rule next = changed(p->rule, o);
        accumulator_regrid(u, i, &next);
        p->rule = next;
        ++*matched;
    }
    return DQT_OK;
}

bool updater_keeps_state(const dqt_updater *u, size_t index, int32_t rounding) {
    DQT_ASSERT(index < u->count);
    const struct parameter *p = &u->parameters[index];
    return !rounding_of(rounding) || accumulator_kept(p->target.tensor, rounding) == p->accumulates;
}

/* ---- Single rules -------------------------------------------------------------------------------------------- */

struct update_rule updater_get_rule(const dqt_updater *u, size_t index) {
    DQT_ASSERT(index < u->count);
    return u->parameters[index].rule;
}

bool updater_set_rule(dqt_updater *u, size_t index, struct update_rule rule) {
    DQT_ASSERT(index < u->count);
    struct parameter *p = &u->parameters[index];
    const bool possible =
        rounding_of(rule.rounding) && isfinite(rule.lr_factor) && rule.lr_factor >= 0.0f &&
        isfinite(rule.weight_decay) && rule.weight_decay >= 0.0f && rule.rounding_noise >= 0.0f &&
        rule.rounding_noise <= 1.0f && rule.beta1 >= 0.0f && rule.beta1 < 1.0f &&
        (rule.beta1 > 0.0f) == (u->options.beta1 > 0.0f) && updater_keeps_state(u, index, rule.rounding) &&
        updater_check_rounding(u->ctx, p->optimizer, u->options.beta1, rule.rounding, &p->target) == DQT_OK;
    if (possible) p->rule = rule;
    return possible;
}
