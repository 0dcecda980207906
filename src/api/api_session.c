/* Sessions and samplers. */
#include <math.h>

#include "api/check.h"
#include "core/fpenv.h"
#include "model/session.h"

static const dqt_session_options session_defaults = {.struct_size = sizeof(dqt_session_options), .max_length = 2048};

dqt_status dqt_session_options_init(dqt_session_options *options, size_t struct_size) {
    return options_init(options, struct_size, &session_defaults, sizeof session_defaults, "dqt_session_options");
}

dqt_status dqt_session_create(const dqt_llama *model, const dqt_session_options *options, dqt_session **out) {
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_object(model, "model"));
    dqt_context *ctx = model->ctx;
    TRY(check_pointer(ctx, out, "out"));
    dqt_session_options o = session_defaults;
    TRY(options_read(ctx, &o, sizeof o, options, "dqt_session_options"));
    DEFAULT_TO(o.max_length, session_defaults.max_length);
    if (o.max_length > INT32_MAX)
        return fail(ctx, DQT_E_SHAPE, "max_length is %zu; it must be at most %d", o.max_length, INT32_MAX);
    if (o.cache_format < DQT_CACHE_F32 || o.cache_format > DQT_CACHE_INT8)
        return fail(ctx, DQT_E_ARGUMENT, "cache_format is %d; it must be a DQT_CACHE_* value", o.cache_format);
    if (o.cache_format != DQT_CACHE_F32) return fail(ctx, DQT_E_UNSUPPORTED, "cache formats are not there yet");
    if (model->config.shape_only) return fail(ctx, DQT_E_STATE, "the model is shape-only: it has no weights");
    return session_create(model, o.max_length, out);
}

dqt_status dqt_session_get_options(const dqt_session *session, dqt_session_options *options) {
    TRY(check_object(session, "session"));
    const dqt_session_options o = {.struct_size = sizeof o, .max_length = session->max_length};
    return options_return(session->model->ctx, options, &o, sizeof o, "dqt_session_options");
}

void dqt_session_destroy(dqt_session *session) {
    session_destroy(session);
}

dqt_status dqt_session_append(dqt_session *session, const int32_t *tokens, size_t count, float *logits) {
    FPENV_DEFAULT();
    TRY(check_object(session, "session"));
    const dqt_llama *model = session->model;
    TRY(check_pointer(model->ctx, tokens, "tokens"));
    if (count == 0) return fail(model->ctx, DQT_E_ARGUMENT, "count is 0; there must be at least one token");
    if (count > session->max_length - session->length)
        return fail(model->ctx, DQT_E_STATE, "%zu tokens do not fit: the session holds %zu of at most %zu", count,
                    session->length, session->max_length);
    TRY(check_tokens(model->ctx, tokens, count, 0, model->config.vocab_size, "tokens"));
    return session_append(session, tokens, count, logits);
}

dqt_status dqt_session_get_length(const dqt_session *session, size_t *length) {
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
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, out, "out"));
    dqt_sampler_options o = sampler_defaults;
    TRY(options_read(ctx, &o, sizeof o, options, "dqt_sampler_options"));
    if (o.reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_sampler_options is not 0");
    DEFAULT_TO(o.top_p, 1);
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
    FPENV_DEFAULT();
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

dqt_status dqt_sampler_get_draws(const dqt_sampler *sampler, uint64_t *draws) {
    TRY(check_object(sampler, "sampler"));
    TRY(check_pointer(sampler->ctx, draws, "draws"));
    *draws = sampler->draws;
    return DQT_OK;
}

dqt_status dqt_sampler_set_draws(dqt_sampler *sampler, uint64_t draws) {
    TRY(check_object(sampler, "sampler"));
    sampler->draws = draws;
    return DQT_OK;
}

static dqt_status missing(const dqt_session *session, const char *what) {
    TRY(check_object(session, "session"));
    return fail(session->model->ctx, DQT_E_UNSUPPORTED, "%s is not there yet", what);
}

dqt_status dqt_sessions_append(const dqt_session_step *steps, size_t num_steps) {
    FPENV_DEFAULT();
    (void)num_steps;
    TRY(check_object(steps, "steps"));
    return missing(steps->session, "dqt_sessions_append");
}

dqt_status dqt_session_score(dqt_session *session, const int32_t *tokens, size_t count, float *log_probs) {
    FPENV_DEFAULT();
    (void)tokens, (void)count, (void)log_probs;
    return missing(session, "dqt_session_score");
}

dqt_status dqt_session_fork(const dqt_session *session, dqt_session **out) {
    if (out) *out = NULL;
    return missing(session, "dqt_session_fork");
}

dqt_status dqt_session_copy(dqt_session *to, const dqt_session *from) {
    (void)from;
    return missing(to, "dqt_session_copy");
}
