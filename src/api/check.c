#include "api/check.h"

#include <float.h>
#include <math.h>

dqt_status check_object(const void *object, const char *name) {
    return object ? DQT_OK : fail(NULL, DQT_E_ARGUMENT, "%s is NULL", name);
}

dqt_status check_pointer(const dqt_context *ctx, const void *pointer, const char *name) {
    return pointer ? DQT_OK : fail(ctx, DQT_E_ARGUMENT, "%s is NULL", name);
}

dqt_status check_model(const dqt_llama *model) {
    TRY(check_object(model, "model"));
    if (model->config.shape_only) return fail(model->ctx, DQT_E_STATE, "the model is shape-only: it has no weights");
    return DQT_OK;
}

dqt_status check_whole_model(const dqt_llama *model) {
    TRY(check_object(model, "model"));
    const dqt_llama_config *c = &model->config;
    if (!llama_is_partial(c)) return DQT_OK;
    return fail(model->ctx, DQT_E_STATE, "the model is partial: of %zu blocks it has %zu from number %zu on",
                c->num_layers, c->num_blocks, c->first_block);
}

dqt_status check_index(const dqt_context *ctx, size_t index, size_t count, const char *name) {
    if (index < count) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "%s is %zu; there are %zu", name, index, count);
}

dqt_status check_range(const dqt_context *ctx, size_t first, size_t count, size_t total, const char *name) {
    if (first <= total && count <= total - first) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "%s %zu to %zu + %zu are not all within %zu", name, first, first, count, total);
}

dqt_status check_finite(const dqt_context *ctx, const float *values, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return fail(ctx, DQT_E_NUMERIC, "%s[%zu] is %g", name, i, (double)values[i]);
    return DQT_OK;
}

dqt_status check_tokens(const dqt_context *ctx, const int32_t *tokens, size_t count, int32_t lowest, size_t vocab,
                        const char *name) {
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < lowest || (tokens[i] >= 0 && (size_t)tokens[i] >= vocab))
            return fail(ctx, DQT_E_ARGUMENT, "%s[%zu] is %d; it must be %d to %zu", name, i, tokens[i], lowest,
                        vocab - 1);
    return DQT_OK;
}

dqt_status read_batch(const dqt_tape *tape, const dqt_batch *given, dqt_batch *b) {
    const dqt_context *ctx = tape->ctx;
    TRY(check_pointer(ctx, given, "batch"));
    *b = (dqt_batch){.struct_size = sizeof *b};
    TRY(options_read(ctx, b, sizeof *b, given, "dqt_batch"));
    if (b->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_batch is not 0");
    DEFAULT_TO(b->batch, 1);
    if (b->batch > tape->options.max_batch || b->length == 0 || b->length > tape->options.max_length)
        return fail(ctx, DQT_E_SHAPE, "batch %zu x length %zu; this tape takes 1 to %zu x 1 to %zu", b->batch,
                    b->length, tape->options.max_batch, tape->options.max_length);
    if (!isfinite(b->divisor)) return fail(ctx, DQT_E_NUMERIC, "divisor is %g", b->divisor);
    return DQT_OK;
}

dqt_status read_targets(const dqt_context *ctx, dqt_batch *b, size_t classes) {
    const size_t tokens = b->batch * b->length;
    if (!b->targets) return DQT_OK;
    TRY(check_tokens(ctx, b->targets, tokens, -1, classes, "targets"));
    if (b->weights) TRY(check_finite(ctx, b->weights, tokens, "weights"));
    if (fabs(b->divisor) > 0) {
        if (fabs(b->divisor) < (double)FLT_MIN)
            return fail(ctx, DQT_E_ARGUMENT, "divisor is %g; its reciprocal is not a float", b->divisor);
        return DQT_OK;
    }
    double sum = 0;
    size_t used = 0;
    for (size_t i = 0; i < tokens; i++) {
        if (b->targets[i] < 0) continue;
        sum += b->weights ? (double)b->weights[i] : 1;
        used++;
    }
    if (used > 0 && !(sum >= (double)FLT_MIN))
        return fail(ctx, DQT_E_ARGUMENT, "weights of %zu targets sum to %g, not above 0: a divisor is needed", used,
                    sum);
    b->divisor = used > 0 ? sum : 1;
    return DQT_OK;
}

dqt_status read_logits_gradient(const dqt_context *ctx, const dqt_logits_gradient *given, size_t count,
                                dqt_logits_gradient *g) {
    TRY(check_pointer(ctx, given, "gradient"));
    *g = (dqt_logits_gradient){.struct_size = sizeof *g};
    TRY(options_read(ctx, g, sizeof *g, given, "dqt_logits_gradient"));
    if (g->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_logits_gradient is not 0");
    if (!g->dlogits == !g->callback)
        return fail(ctx, DQT_E_ARGUMENT,
                    "of dlogits and callback of dqt_logits_gradient, one must be set and one NULL");
    return g->dlogits ? check_finite(ctx, g->dlogits, count, "dlogits") : DQT_OK;
}

dqt_status read_step(const dqt_context *ctx, const dqt_step_options *given, dqt_step_options *o) {
    TRY(check_pointer(ctx, given, "options"));
    *o = (dqt_step_options){.struct_size = sizeof *o};
    TRY(options_read(ctx, o, sizeof *o, given, "dqt_step_options"));
    if (o->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_step_options is not 0");
    TRY(check_finite(ctx, &o->learning_rate, 1, "learning_rate"));
    TRY(check_finite(ctx, &o->gradient_scale, 1, "gradient_scale"));
    if (o->learning_rate < 0)
        return fail(ctx, DQT_E_ARGUMENT, "learning_rate is %g; it must not be negative", (double)o->learning_rate);
    if (o->gradient_scale < 0)
        return fail(ctx, DQT_E_ARGUMENT, "gradient_scale is %g; it must not be negative", (double)o->gradient_scale);
    DEFAULT_TO(o->gradient_scale, 1);
    return DQT_OK;
}

dqt_status check_whole(const dqt_updater *updater, const char *why) {
    const dqt_updater_options *o = updater_options(updater);
    const struct update_target *first = updater_num_parameters(updater) ? updater_target(updater, 0) : NULL;
    if (first && first->whole)
        return fail(updater_context(updater), DQT_E_UNSUPPORTED,
                    "%s, and this updater is of a partial model, from parameter %zu of %zu on", why, first->number,
                    first->whole);
    if (o->num_parts <= 1) return DQT_OK;
    return fail(updater_context(updater), DQT_E_UNSUPPORTED, "%s, and this updater is part %zu of %zu", why,
                (size_t)o->part, (size_t)o->num_parts);
}

dqt_status check_part(const dqt_context *ctx, size_t part, size_t num_parts) {
    if (num_parts == 0) return fail(ctx, DQT_E_ARGUMENT, "num_parts is 0; it must be at least 1");
    if (part >= num_parts)
        return fail(ctx, DQT_E_ARGUMENT, "part is %zu; it must be below num_parts, %zu", part, num_parts);
    return DQT_OK;
}

dqt_status check_parameters(const dqt_context *ctx, const dqt_updater *updater, const dqt_tape *tape) {
    if (updater_num_parameters(updater) != tape->num_parameters)
        return fail(ctx, DQT_E_STATE, "the updater has %zu parameters, the tape %zu", updater_num_parameters(updater),
                    tape->num_parameters);
    for (size_t i = 0; i < tape->num_parameters; i++)
        if (updater_target(updater, i)->tensor != tape->parameters[i].tensor)
            return fail(ctx, DQT_E_STATE, "parameter %zu of the updater is not the tape's", i);
    return DQT_OK;
}

dqt_status check_idle(const dqt_updater *updater) {
    if (updater && updater_is_open(updater))
        return fail(updater_context(updater), DQT_E_STATE,
                    "a step of this updater is open: dqt_updater_continue_step has to end it first");
    if (!updater || !updater_is_held(updater)) return DQT_OK;
    return fail(updater_context(updater), DQT_E_STATE,
                "a tape updates with this updater: dqt_tape_end_update has to come first");
}

dqt_status check_gradients_go(const dqt_tape *tape) {
    if (!tape->options.inference && (!tape->options.no_gradient_buffers || tape->fused)) return DQT_OK;
    return fail(tape->ctx, DQT_E_STATE, "this tape has no gradient buffers, and no update has begun on it");
}

dqt_status check_not_deferred(const dqt_tape *tape, const struct slot *head) {
    if (!tape->fused || !head->deferred) return DQT_OK;
    return fail(tape->ctx, DQT_E_STATE, "head %s went backward in this update, and waits for its embedding to",
                head->layer->name);
}

dqt_status return_sums(const dqt_updater *updater, dqt_step_sums *sums) {
    dqt_step_sums s = {.struct_size = sizeof s};
    s.data = updater_exchange(updater, &s.offsets);
    if (s.data) s.num_parts = updater_exchange_parts(updater);
    return options_return(updater_context(updater), sums, &s, sizeof s, "dqt_step_sums");
}

dqt_status return_parameter(const dqt_context *ctx, dqt_parameter *out, const char *name, int parameter_class,
                            dqt_tensor *t) {
    const dqt_parameter p = {.struct_size = sizeof p,
                             .parameter_class = parameter_class,
                             .name = name,
                             .tensor = t,
                             .rows = t->rows,
                             .cols = t->cols};
    return options_return(ctx, out, &p, sizeof p, "dqt_parameter");
}
