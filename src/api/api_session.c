/* Sessions and samplers. */
#include <math.h>

#include "api/check.h"
#include "model/session.h"

dqt_status dqt_session_create(dqt_llama *model, size_t max_length, dqt_session **out) {
    if (out) *out = NULL;
    TRY(check_object(model, "model"));
    TRY(check_pointer(model->ctx, out, "out"));
    if (max_length == 0 || max_length > INT32_MAX)
        return fail(model->ctx, DQT_E_SHAPE, "max_length is %zu; it must be 1 to %d", max_length, INT32_MAX);
    if (model->config.shape_only) return fail(model->ctx, DQT_E_STATE, "the model is shape-only: it has no weights");
    return session_create(model, max_length, out);
}

void dqt_session_destroy(dqt_session *session) {
    session_destroy(session);
}

dqt_status dqt_session_append(dqt_session *session, const int32_t *tokens, size_t count, float *logits) {
    TRY(check_object(session, "session"));
    const dqt_llama *model = session->model;
    TRY(check_pointer(model->ctx, tokens, "tokens"));
    if (count == 0) return fail(model->ctx, DQT_E_ARGUMENT, "count is 0; there must be at least one token");
    if (count > session->max_length - session->length)
        return fail(model->ctx, DQT_E_STATE, "%zu tokens do not fit: the session holds %zu of at most %zu", count,
                    session->length, session->max_length);
    TRY(check_tokens(model->ctx, tokens, count, 0, model->config.vocab_size, "tokens"));
    session_append(session, tokens, count, logits);
    return DQT_OK;
}

dqt_status dqt_session_length(const dqt_session *session, size_t *length) {
    TRY(check_object(session, "session"));
    TRY(check_pointer(session->model->ctx, length, "length"));
    *length = session->length;
    return DQT_OK;
}

dqt_status dqt_session_truncate(dqt_session *session, size_t length) {
    TRY(check_object(session, "session"));
    if (length > session->length)
        return fail(session->model->ctx, DQT_E_ARGUMENT, "length is %zu; the session holds %zu tokens", length,
                    session->length);
    session->length = length;
    return DQT_OK;
}

static const dqt_sampler_options sampler_defaults = {
    .struct_size = sizeof(dqt_sampler_options), .temperature = 1.0f, .top_p = 1.0f, .seed = 1};

dqt_status dqt_sampler_options_init(dqt_sampler_options *options, size_t struct_size) {
    return options_init(options, struct_size, &sampler_defaults, sizeof sampler_defaults, "dqt_sampler_options");
}

dqt_status dqt_sampler_create(dqt_context *ctx, size_t vocab_size, const dqt_sampler_options *options,
                              dqt_sampler **out) {
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, out, "out"));
    dqt_sampler_options o = sampler_defaults;
    TRY(options_read(ctx, &o, sizeof o, options, "dqt_sampler_options"));
    if (vocab_size == 0 || vocab_size > INT32_MAX)
        return fail(ctx, DQT_E_SHAPE, "vocab_size is %zu; it must be 1 to %d", vocab_size, INT32_MAX);
    if (!(o.temperature >= 0) || !isfinite(o.temperature))
        return fail(ctx, DQT_E_ARGUMENT, "temperature is %g; it must be finite and not negative",
                    (double)o.temperature);
    if (!(o.top_p > 0 && o.top_p <= 1))
        return fail(ctx, DQT_E_ARGUMENT, "top_p is %g; it must be above 0 and at most 1", (double)o.top_p);
    return sampler_create(ctx, vocab_size, &o, out);
}

void dqt_sampler_destroy(dqt_sampler *sampler) {
    sampler_destroy(sampler);
}

dqt_status dqt_sampler_sample(dqt_sampler *sampler, const float *logits, int32_t *token) {
    TRY(check_object(sampler, "sampler"));
    TRY(check_pointer(sampler->ctx, logits, "logits"));
    TRY(check_pointer(sampler->ctx, token, "token"));
    bool any = false;
    for (size_t i = 0; i < sampler->vocab_size; i++) {
        if (isnan(logits[i]) || (isinf(logits[i]) && logits[i] > 0))
            return fail(sampler->ctx, DQT_E_NUMERIC, "logits[%zu] is %g", i, (double)logits[i]);
        any = any || isfinite(logits[i]);
    }
    if (!any) return fail(sampler->ctx, DQT_E_NUMERIC, "no logit is finite");
    *token = sampler_sample(sampler, logits);
    return DQT_OK;
}
