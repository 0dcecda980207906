/* Sessions and samplers. */
#include <math.h>

#include "api/check.h"
#include "core/fpenv.h"
#include "model/session.h"

static const dqt_session_options session_defaults = {.struct_size = sizeof(dqt_session_options), .max_length = 2048};

dqt_status dqt_session_options_init(dqt_session_options *options, size_t struct_size) {
    return options_init(options, struct_size, &session_defaults, sizeof session_defaults, "dqt_session_options");
}

/* The options that the host asks for, without defaults. */
static dqt_status read_options(dqt_context *ctx, const dqt_session_options *given, dqt_session_options *o) {
    *o = session_defaults;
    TRY(options_read(ctx, o, sizeof *o, given, "dqt_session_options"));
    DEFAULT_TO(o->max_length, session_defaults.max_length);
    if (o->max_length > INT32_MAX)
        return fail(ctx, DQT_E_SHAPE, "max_length is %zu; it must be at most %d", o->max_length, INT32_MAX);
    if (o->cache_format < DQT_CACHE_F32 || o->cache_format > DQT_CACHE_INT8)
        return fail(ctx, DQT_E_ARGUMENT, "cache_format is %d; it must be a DQT_CACHE_* value", o->cache_format);
    return DQT_OK;
}

dqt_status dqt_session_memory(const dqt_llama *model, const dqt_session_options *options,
                              dqt_session_memory_info *memory) {
    FPENV_DEFAULT();
    dqt_session_options o;
    dqt_session_memory_info m;
    TRY(check_whole_model(model));
    TRY(read_options(model->ctx, options, &o));
    TRY(session_memory(model, &o, &m));
    return options_return(model->ctx, memory, &m, sizeof m, "dqt_session_memory_info");
}

dqt_status dqt_session_create(const dqt_llama *model, const dqt_session_options *options, dqt_session **out) {
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_whole_model(model));
    dqt_session_options o;
    TRY(check_pointer(model->ctx, out, "out"));
    TRY(read_options(model->ctx, options, &o));
    TRY(check_model(model));
    return session_create(model, &o, out);
}

dqt_status dqt_session_get_options(const dqt_session *session, dqt_session_options *options) {
    TRY(check_object(session, "session"));
    return options_return(session->model->ctx, options, &session->options, sizeof session->options,
                          "dqt_session_options");
}

void dqt_session_destroy(dqt_session *session) {
    session_destroy(session);
}

static dqt_status check_append(const dqt_session *session, const int32_t *tokens, size_t count) {
    TRY(check_object(session, "session"));
    const dqt_llama *model = session->model;
    TRY(check_pointer(model->ctx, tokens, "tokens"));
    if (count == 0) return fail(model->ctx, DQT_E_ARGUMENT, "count is 0; there must be at least one token");
    if (count > session->options.max_length - session->length)
        return fail(model->ctx, DQT_E_STATE, "%zu tokens do not fit: the session holds %zu of at most %zu", count,
                    session->length, session->options.max_length);
    return check_tokens(model->ctx, tokens, count, 0, model->config.vocab_size, "tokens");
}

/* For sessions_append: a session that appends alone, or the first of several. */
static void request(dqt_session *session, const struct session_request *r) {
    session->request = *r;
    session->following = NULL;
}

dqt_status dqt_session_append(dqt_session *session, const int32_t *tokens, size_t count, float *logits) {
    FPENV_DEFAULT();
    TRY(check_append(session, tokens, count));
    request(session, &(struct session_request){.tokens = tokens, .count = count, .logits = logits});
    return sessions_append(session);
}

dqt_status dqt_session_score(dqt_session *session, const int32_t *tokens, size_t count, float *log_probs) {
    FPENV_DEFAULT();
    TRY(check_append(session, tokens, count));
    dqt_context *ctx = session->model->ctx;
    TRY(check_pointer(ctx, log_probs, "log_probs"));
    if (session->length == 0)
        return fail(ctx, DQT_E_STATE, "the session is empty: append a token before what is to be scored");
    if (session->last_of != session->length)
        return fail(ctx, DQT_E_STATE, "the session was truncated: append a token before what is to be scored");
    request(session, &(struct session_request){.tokens = tokens, .count = count, .log_probs = log_probs});
    return sessions_append(session);
}

/* steps[i], of which all have the size of the first. */
static dqt_status read_session_step(const dqt_context *ctx, const dqt_session_step *steps, size_t i,
                                    dqt_session_step *step) {
    *step = (dqt_session_step){.struct_size = sizeof *step};
    TRY(options_read_element(ctx, step, sizeof *step, steps, i, "dqt_session_step", "steps"));
    if (step->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_session_step is not 0");
    return check_append(step->session, step->tokens, step->count);
}

/* A step that fits the i steps before it, whose sessions are listed from `first` on. */
static dqt_status check_session_step(const dqt_session *first, const dqt_session_step *step, size_t i) {
    dqt_context *ctx = step->session->model->ctx;
    size_t k = 0;
    if (step->session->model != first->model)
        return fail(first->model->ctx, DQT_E_ARGUMENT, "steps[%zu].session is of another model than that of steps[0]",
                    i);
    for (const dqt_session *s = first; s; s = s->following, k++)
        if (s == step->session) return fail(ctx, DQT_E_ARGUMENT, "steps[%zu] and steps[%zu] are of one session", k, i);
    return DQT_OK;
}

dqt_status dqt_sessions_append(const dqt_session_step *steps, size_t num_steps) {
    FPENV_DEFAULT();
    TRY(check_object(steps, "steps"));
    if (num_steps == 0) return fail(NULL, DQT_E_ARGUMENT, "num_steps is 0; there must be at least one step");
    dqt_session *first = NULL, *latest = NULL;
    for (size_t i = 0; i < num_steps; i++) {
        dqt_session_step step;
        TRY(read_session_step(first ? first->model->ctx : NULL, steps, i, &step));
        if (first) TRY(check_session_step(first, &step, i));
        request(step.session,
                &(struct session_request){.tokens = step.tokens, .count = step.count, .logits = step.logits});
        if (latest) latest->following = step.session;
        latest = step.session;
        if (!first) first = latest;
    }
    return sessions_append(first);
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

dqt_status dqt_session_fork(const dqt_session *session, dqt_session **out) {
    if (out) *out = NULL;
    TRY(check_object(session, "session"));
    TRY(check_pointer(session->model->ctx, out, "out"));
    TRY(session_create(session->model, &session->options, out));
    session_copy(*out, session);
    return DQT_OK;
}

dqt_status dqt_session_copy(dqt_session *destination, const dqt_session *source) {
    TRY(check_object(destination, "destination"));
    const dqt_context *ctx = destination->model->ctx;
    TRY(check_pointer(ctx, source, "source"));
    if (destination->model != source->model)
        return fail(ctx, DQT_E_UNSUPPORTED, "the sessions are of different models");
    if (destination->options.cache_format != source->options.cache_format)
        return fail(ctx, DQT_E_UNSUPPORTED, "cache_format of source is %d, that of destination %d",
                    source->options.cache_format, destination->options.cache_format);
    if (source->length > destination->options.max_length)
        return fail(ctx, DQT_E_STATE, "source holds %zu tokens; destination holds at most %zu", source->length,
                    destination->options.max_length);
    session_copy(destination, source);
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
