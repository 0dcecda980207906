/* Updaters and learning-rate schedules. */
#include <math.h>

#include "api/check.h"
#include "core/fpenv.h"
#include "layer/tape.h"
#include "optim/rounding.h"
#include "optim/updater_state.h"

static const dqt_updater_options updater_defaults = {.struct_size = sizeof(dqt_updater_options),
                                                     .optimizer = DQT_OPTIMIZER_ADAMW,
                                                     .beta1 = 0.8f,
                                                     .beta2 = 0.95f,
                                                     .eps = 1e-8f,
                                                     .clip = DQT_CLIP_GLOBAL_NORM,
                                                     .clip_norm = 1.0f,
                                                     .update_clip = 1.0f,
                                                     .scale_lr = 1.0f,
                                                     .seed = 1,
                                                     .rounding_noise = 1.0f};

dqt_status dqt_updater_options_init(dqt_updater_options *options, size_t struct_size) {
    return options_init(options, struct_size, &updater_defaults, sizeof updater_defaults, "dqt_updater_options");
}

static const dqt_group_options group_defaults = {.struct_size = sizeof(dqt_group_options)};

static dqt_status check_rules(const dqt_context *ctx, const dqt_group_options *o) {
    TRY(check_finite(ctx, &o->lr_factor, 1, "lr_factor"));
    TRY(check_finite(ctx, &o->weight_decay, 1, "weight_decay"));
    TRY(check_finite(ctx, &o->beta1, 1, "beta1"));
    TRY(check_finite(ctx, &o->rounding_noise, 1, "rounding_noise"));
    if (o->parameter_class < 0 || o->parameter_class > DQT_CLASS_BIAS)
        return fail(ctx, DQT_E_ARGUMENT, "parameter_class is %d; it must be 0 or a DQT_CLASS_* value",
                    o->parameter_class);
    if (o->lr_factor < 0)
        return fail(ctx, DQT_E_ARGUMENT, "lr_factor is %g; it must not be negative", (double)o->lr_factor);
    if (o->beta1 < 0 || o->beta1 >= 1)
        return fail(ctx, DQT_E_ARGUMENT, "beta1 is %g; it must be 0 (keep) or below 1", (double)o->beta1);
    if (o->rounding_noise < 0 || o->rounding_noise > 1)
        return fail(ctx, DQT_E_ARGUMENT, "rounding_noise is %g; it must be 0 (keep) or at most 1",
                    (double)o->rounding_noise);
    if (o->freeze < -1 || o->freeze > 1)
        return fail(ctx, DQT_E_ARGUMENT, "freeze is %d; it must be -1, 0 (keep) or 1", o->freeze);
    if (o->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_group_options is not 0");
    return DQT_OK;
}

/* Group `index` of the options. */
static dqt_status check_group(const dqt_context *ctx, const dqt_updater_options *o, size_t index) {
    dqt_group_options g = group_defaults;
    TRY(options_read_element(ctx, &g, sizeof g, o->groups, index, "dqt_group_options", "groups"));
    if (g.optimizer && !optimizer_of(g.optimizer))
        return fail(ctx, DQT_E_ARGUMENT, "groups[%zu].optimizer is %d; it must be a DQT_OPTIMIZER_* value", index,
                    g.optimizer);
    if (g.rounding != DQT_ROUND_DEFAULT && !rounding_of(g.rounding))
        return fail(ctx, DQT_E_ARGUMENT, "groups[%zu].rounding is %d; it must be a DQT_ROUND_* value", index,
                    g.rounding);
    if (g.beta1 > 0 && !(o->beta1 > 0))
        return fail(ctx, DQT_E_UNSUPPORTED, "groups[%zu].beta1 needs a first moment, which beta1 %g says is not kept",
                    index, (double)o->beta1);
    return check_rules(ctx, &g);
}

/* Zeros become defaults; then negative numbers, which stand for "none" outside, become the zeros of the inside. */
static void complete_options(dqt_updater_options *o) {
    const dqt_updater_options *d = &updater_defaults;
    DEFAULT_TO(o->optimizer, d->optimizer);
    DEFAULT_TO(o->beta1, d->beta1);
    DEFAULT_TO(o->beta2, d->beta2);
    DEFAULT_TO(o->eps, d->eps);
    DEFAULT_TO(o->clip, d->clip);
    DEFAULT_TO(o->clip_norm, d->clip_norm);
    DEFAULT_TO(o->update_clip, d->update_clip);
    DEFAULT_TO(o->scale_lr, d->scale_lr);
    DEFAULT_TO(o->rounding_noise, d->rounding_noise);
    if (o->beta1 < 0) o->beta1 = 0;
    if (o->update_clip < 0) o->update_clip = 0;
    if (o->scale_lr < 0) o->scale_lr = 0;
    if (o->num_parts == 1) o->num_parts = 0;
}

/* Options and parameters of a list of layers, checked. The caller frees the targets. */
static dqt_status prepare(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                          const dqt_updater_options *options, dqt_updater_options *o, struct update_target **targets,
                          size_t *count) {
    TRY(check_pointer(ctx, layers, "layers"));
    if (num_layers == 0) return fail(ctx, DQT_E_ARGUMENT, "num_layers is 0; an updater needs at least one layer");
    for (size_t i = 0; i < num_layers; i++) {
        if (!layers[i]) return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] is NULL", i);
        if (layers[i]->ctx != ctx) return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] belongs to another context", i);
    }
    *o = updater_defaults;
    TRY(options_read(ctx, o, sizeof *o, options, "dqt_updater_options"));
    complete_options(o);
    if (!o->groups != !o->num_groups)
        return fail(ctx, DQT_E_ARGUMENT, "groups is %s, but num_groups is %zu", o->groups ? "set" : "NULL",
                    o->num_groups);
    for (size_t i = 0; i < o->num_groups; i++)
        TRY(check_group(ctx, o, i));
    *targets = layers_targets(ctx, layers, num_layers, count);
    if (!*targets) return fail(ctx, DQT_E_MEMORY, "no memory for a list of parameters");
    dqt_status status = updater_check(ctx, *targets, *count, o);
    if (status != DQT_OK) layers_targets_free(ctx, *targets, *count);
    return status;
}

dqt_status dqt_updater_memory(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                              const dqt_updater_options *options, dqt_updater_memory_info *memory) {
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, memory, "memory"));
    dqt_updater_options o;
    struct update_target *targets;
    size_t count;
    TRY(prepare(ctx, layers, num_layers, options, &o, &targets, &count));
    dqt_updater_memory_info m = {.struct_size = sizeof m};
    dqt_status status = updater_memory(ctx, targets, count, &o, &m);
    layers_targets_free(ctx, targets, count);
    if (status != DQT_OK) return status;
    return options_return(ctx, memory, &m, sizeof m, "dqt_updater_memory_info");
}

dqt_status dqt_updater_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                              const dqt_updater_options *options, dqt_updater **out) {
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, out, "out"));
    dqt_updater_options o;
    struct update_target *targets;
    size_t count;
    TRY(prepare(ctx, layers, num_layers, options, &o, &targets, &count));
    dqt_status status = DQT_OK;
    for (size_t i = 0; i < count && status == DQT_OK; i++)
        if (!targets[i].tensor->data)
            status = fail(ctx, DQT_E_STATE, "parameter %s is shape-only: it has no weights", targets[i].name);
    if (status == DQT_OK) status = updater_create(ctx, targets, count, &o, out);
    layers_targets_free(ctx, targets, count);
    return status;
}

void dqt_updater_destroy(dqt_updater *updater) {
    updater_destroy(updater);
}

dqt_status dqt_group_options_init(dqt_group_options *options, size_t struct_size) {
    return options_init(options, struct_size, &group_defaults, sizeof group_defaults, "dqt_group_options");
}

dqt_status dqt_updater_add_group(dqt_updater *updater, const dqt_group_options *options, size_t *num_matched) {
    FPENV_DEFAULT();
    TRY(check_object(updater, "updater"));
    const dqt_context *ctx = updater_context(updater);
    TRY(check_idle(updater));
    TRY(check_pointer(ctx, options, "options"));
    dqt_group_options o = group_defaults;
    TRY(options_read(ctx, &o, sizeof o, options, "dqt_group_options"));
    TRY(check_rules(ctx, &o));
    if (o.optimizer)
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "a group's optimizer decides what state is kept: give it in dqt_updater_options");
    if (o.beta1 > 0 && !(updater_options(updater)->beta1 > 0))
        return fail(ctx, DQT_E_UNSUPPORTED, "a beta1 of %g needs a first moment, which this updater does not keep",
                    (double)o.beta1);
    size_t matched;
    TRY(updater_add_group(updater, &o, &matched));
    if (num_matched) *num_matched = matched;
    return DQT_OK;
}

dqt_status dqt_updater_get_rule(const dqt_updater *updater, size_t index, dqt_parameter_rule *rule) {
    TRY(check_object(updater, "updater"));
    const dqt_context *ctx = updater_context(updater);
    TRY(check_index(ctx, index, updater_num_parameters(updater), "parameter index"));
    const struct update_rule r = updater_get_rule(updater, index);
    const dqt_parameter_rule out = {.struct_size = sizeof out,
                                    .optimizer = updater_optimizer(updater, index),
                                    .rounding = r.rounding,
                                    .frozen = r.frozen,
                                    .lr_factor = r.lr_factor,
                                    .weight_decay = r.weight_decay,
                                    .beta1 = r.beta1,
                                    .rounding_noise = r.rounding_noise};
    return options_return(ctx, rule, &out, sizeof out, "dqt_parameter_rule");
}

/* Updater, tape and what a step returns. */
static dqt_status check_step(const dqt_updater *updater, const dqt_tape *tape, const dqt_step_stats *stats) {
    const dqt_context *ctx = updater_context(updater);
    TRY(check_pointer(ctx, tape, "tape"));
    if (updater_reads_gradients(updater) && (tape->options.no_gradient_buffers || tape->options.inference))
        return fail(ctx, DQT_E_STATE, "this tape has no gradient buffers");
    TRY(check_parameters(ctx, updater, tape));
    return options_check_result(ctx, stats, sizeof *stats, "dqt_step_stats");
}

/* The same before a step begins; o: its options. */
static dqt_status check_first(const dqt_updater *updater, const dqt_tape *tape, const dqt_step_options *options,
                              const dqt_step_stats *stats, dqt_step_options *o) {
    TRY(check_object(updater, "updater"));
    TRY(check_idle(updater));
    TRY(read_step(updater_context(updater), options, o));
    return check_step(updater, tape, stats);
}

dqt_status dqt_updater_step(dqt_updater *updater, dqt_tape *tape, const dqt_step_options *options,
                            dqt_step_stats *stats) {
    FPENV_DEFAULT();
    dqt_step_options o;
    TRY(check_first(updater, tape, options, stats, &o));
    TRY(check_whole(updater, "dqt_updater_step updates all rows (see dqt_updater_begin_step)"));
    dqt_step_stats s = {.struct_size = sizeof s};
    updater_set_gradient_scale(updater, o.gradient_scale);
    TRY(updater_step(updater, tape->gradient_list, o.learning_rate, &s));
    return stats ? options_return(updater_context(updater), stats, &s, sizeof s, "dqt_step_stats") : DQT_OK;
}

static dqt_status check_sums(const dqt_context *ctx, const dqt_step_sums *sums) {
    TRY(check_pointer(ctx, sums, "sums"));
    return options_check_result(ctx, sums, sizeof *sums, "dqt_step_sums");
}

dqt_status dqt_updater_begin_step(dqt_updater *updater, dqt_tape *tape, const dqt_step_options *options,
                                  dqt_step_sums *sums) {
    FPENV_DEFAULT();
    dqt_step_options o;
    TRY(check_first(updater, tape, options, NULL, &o));
    TRY(check_sums(updater_context(updater), sums));
    updater_set_gradient_scale(updater, o.gradient_scale);
    TRY(updater_open_step(updater, tape->gradient_list, o.learning_rate));
    return return_sums(updater, sums);
}

dqt_status dqt_updater_continue_step(dqt_updater *updater, dqt_tape *tape, dqt_step_sums *sums, dqt_step_stats *stats) {
    FPENV_DEFAULT();
    TRY(check_object(updater, "updater"));
    const dqt_context *ctx = updater_context(updater);
    if (!updater_is_open(updater))
        return fail(ctx, DQT_E_STATE, "no step of this updater is open: dqt_updater_begin_step begins one");
    TRY(check_step(updater, tape, stats));
    TRY(check_sums(ctx, sums));
    dqt_step_stats s = {.struct_size = sizeof s};
    const uint64_t before = updater_step_count(updater);
    const dqt_status status = updater_continue_step(updater, tape->gradient_list, &s);
    TRY(return_sums(updater, sums));
    if (stats && updater_step_count(updater) != before) TRY(options_return(ctx, stats, &s, sizeof s, "dqt_step_stats"));
    return status;
}

dqt_status dqt_updater_get_part(const dqt_updater *updater, size_t index, size_t part, size_t num_parts, size_t *row,
                                size_t *count) {
    TRY(check_object(updater, "updater"));
    const dqt_context *ctx = updater_context(updater);
    TRY(check_pointer(ctx, row, "row"));
    TRY(check_pointer(ctx, count, "count"));
    TRY(check_part(ctx, part, num_parts));
    TRY(check_index(ctx, index, updater_num_parameters(updater), "parameter index"));
    updater_shard_rows(updater, index, part, num_parts, row, count);
    return DQT_OK;
}

dqt_status dqt_updater_get_step(const dqt_updater *updater, uint64_t *step) {
    TRY(check_object(updater, "updater"));
    TRY(check_pointer(updater_context(updater), step, "step"));
    *step = updater_step_count(updater);
    return DQT_OK;
}

dqt_status dqt_updater_set_step(dqt_updater *updater, uint64_t step) {
    TRY(check_object(updater, "updater"));
    TRY(check_idle(updater));
    updater_set_step_count(updater, step);
    return DQT_OK;
}

dqt_status dqt_updater_get_options(const dqt_updater *updater, dqt_updater_options *options) {
    TRY(check_object(updater, "updater"));
    dqt_updater_options o = *updater_options(updater);
    if (!(o.beta1 > 0)) o.beta1 = -1;
    if (!(o.update_clip > 0)) o.update_clip = -1;
    if (!(o.scale_lr > 0)) o.scale_lr = -1;
    return options_return(updater_context(updater), options, &o, sizeof o, "dqt_updater_options");
}

/* Fraction of the fall that is done, 0 to 1; or negative: still warming up. The fall takes the share `decay` of all
 * steps, the last ones, or what warm-up leaves of them. */
static double progress(uint64_t step, uint64_t warmup, uint64_t total, float decay) {
    if (step < warmup) return -1;
    if (step >= total) return 1;
    const double share = decay < 0 ? 0 : decay < 1 ? (double)decay : 1; /* not a number: 1 */
    const double begin = fmax((double)warmup, (1 - share) * (double)total);
    return (double)step <= begin ? 0 : ((double)step - begin) / ((double)total - begin);
}

/* Not inlined, and with an asm that does nothing, so that compilers do not move it out of its callers' block, in which
 * the thread's mode is the default. */
__attribute__((noinline)) static float schedule(uint64_t step, uint64_t warmup, uint64_t total, float peak,
                                                float final_fraction, float decay, bool cosine) {
    __asm__ volatile("");
    const double p = progress(step, warmup, total, decay), end = (double)final_fraction;
    if (p < 0) return peak * (float)((double)(step + 1) / (double)warmup);
    const double fall = cosine ? 0.5 * (1 + cos(3.141592653589793 * p)) : 1 - p;
    return peak * (float)(end + (1 - end) * fall);
}

float dqt_schedule_cosine(uint64_t step, uint64_t warmup, uint64_t total, float peak, float final_fraction) {
    FPENV_DEFAULT();
    return schedule(step, warmup, total, peak, final_fraction, 1, true);
}

float dqt_schedule_linear(uint64_t step, uint64_t warmup, uint64_t total, float peak, float final_fraction) {
    FPENV_DEFAULT();
    return schedule(step, warmup, total, peak, final_fraction, 1, false);
}

float dqt_schedule_wsd(uint64_t step, uint64_t warmup, uint64_t total, float peak, float final_fraction, float decay) {
    FPENV_DEFAULT();
    return schedule(step, warmup, total, peak, final_fraction, decay, false);
}
