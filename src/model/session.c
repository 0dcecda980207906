/* Generation: the model's layers on an inference tape, with cached keys and values in place of attention over the pass.
 */
#include "model/session.h"

#include <math.h>
#include <string.h>

#include "core/status.h"

enum { CHUNK = 64 }; /* tokens that run through the layers at once while a prompt is read */

static size_t hidden_bytes(const dqt_session *s) {
    return s->model->config.hidden_size * sizeof(float);
}

static size_t logits_bytes(const dqt_session *s) {
    return s->model->config.vocab_size * sizeof(float);
}

static bool session_rows(dqt_session *s) {
    s->last = memory_alloc(s->model->ctx, hidden_bytes(s));
    s->next = memory_alloc(s->model->ctx, hidden_bytes(s));
    s->logits = memory_alloc(s->model->ctx, logits_bytes(s));
    return s->last && s->next && s->logits;
}

static dqt_status create_buffers(dqt_session *s) {
    const dqt_llama_config *c = &s->model->config;
    dqt_context *ctx = s->model->ctx;
    const dqt_tape_options o = {.struct_size = sizeof o,
                                .precision = DQT_PRECISION_F32,
                                .max_batch = 1,
                                .max_length = size_min(s->max_length, CHUNK),
                                .inference = 1};
    size_t bytes = c->hidden_size / c->num_heads * llama_kv_heads(c) * 2 * sizeof(float);
    if (!size_mul(bytes, c->num_layers, &bytes) || !size_mul(bytes, s->max_length, &s->cache_bytes))
        return fail(ctx, DQT_E_SHAPE, "a cache of %zu tokens is too large", s->max_length);
    s->cache = memory_alloc(ctx, s->cache_bytes);
    if (!s->cache) return fail(ctx, DQT_E_MEMORY, "no memory for a cache of %zu bytes", s->cache_bytes);
    if (!session_rows(s)) return fail(ctx, DQT_E_MEMORY, "no memory for a session");
    return tape_create(ctx, s->model->layers, s->model->num_layers, &o, s->max_length, &s->tape);
}

dqt_status session_create(const dqt_llama *model, size_t max_length, dqt_session **out) {
    *out = NULL;
    dqt_session *s = memory_alloc(model->ctx, sizeof *s);
    if (!s) return fail(model->ctx, DQT_E_MEMORY, "no memory for a session");
    *s = (dqt_session){.model = model, .max_length = max_length};
    dqt_status status = create_buffers(s);
    if (status != DQT_OK) {
        session_destroy(s);
        return status;
    }
    *out = s;
    return DQT_OK;
}

void session_destroy(dqt_session *s) {
    if (!s) return;
    dqt_context *ctx = s->model->ctx;
    tape_destroy(s->tape);
    memory_free(ctx, s->cache, s->cache_bytes);
    memory_free(ctx, s->last, hidden_bytes(s));
    memory_free(ctx, s->next, hidden_bytes(s));
    memory_free(ctx, s->logits, logits_bytes(s));
    memory_free(ctx, s, sizeof *s);
}

static bool all_finite(const float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* Logits from a token's stream, which is overwritten. False where they are not finite. */
static bool predict(dqt_session *s, float *stream, float *logits) {
    dqt_tape *t = s->tape;
    layer_forward(t, llama_norm_slot(t), 1, 1, NULL, stream, stream);
    head_logits(t, llama_head_slot(t), 1, 1, stream, logits);
    return all_finite(logits, s->model->config.vocab_size);
}

/* The log-probability of a token after the one of this stream, which is overwritten. */
static bool score(dqt_session *s, float *stream, int32_t token, float *log_prob) {
    if (!predict(s, stream, s->logits)) return false;
    const size_t vocab = s->model->config.vocab_size;
    double largest = (double)s->logits[0], sum = 0;
    for (size_t i = 1; i < vocab; i++)
        largest = fmax(largest, (double)s->logits[i]);
    for (size_t i = 0; i < vocab; i++)
        sum += exp((double)s->logits[i] - largest);
    *log_prob = (float)((double)s->logits[token] - largest - log(sum));
    return true;
}

/* False where numbers are not finite: a NaN in a key or a value of a token is one in its stream, too. `before` is the
 * stream of the token before the chunk, which scores overwrite; s->next becomes that of the chunk's last one. */
static bool append_chunk(dqt_session *s, const int32_t *tokens, size_t count, float *before, float *log_probs) {
    dqt_tape *t = s->tape;
    const dqt_layer *block = llama_block_slot(t, 0)->layer;
    const size_t half = s->max_length * layer_size(block, SIZE_KV), hidden = s->model->config.hidden_size;
    if (log_probs && !score(s, before, tokens[0], log_probs)) return false;
    embedding_forward(t, llama_embedding_slot(t), 1, count, tokens, t->stream);
    for (size_t i = 0; i < s->model->config.num_layers; i++) {
        const struct kv_cache cache = {s->cache + 2 * i * half, s->cache + (2 * i + 1) * half, s->length};
        t->cache = &cache;
        layer_forward(t, llama_block_slot(t, i), 1, count, NULL, t->stream, t->stream);
        t->cache = NULL;
    }
    s->length += count;
    if (!all_finite(t->stream, count * hidden)) return false;
    memcpy(s->next, t->stream + (count - 1) * hidden, hidden_bytes(s));
    for (size_t i = 1; log_probs && i < count; i++)
        if (!score(s, t->stream + (i - 1) * hidden, tokens[i], &log_probs[i])) return false;
    return true;
}

static dqt_status append_all(dqt_session *s, const int32_t *tokens, size_t count,
                             const struct session_results *results) {
    dqt_tape *t = s->tape;
    const dqt_status not_finite = DQT_E_NUMERIC;
    float *log_probs = results->log_probs, *before = t->stream;
    memcpy(before, s->last, hidden_bytes(s));
    while (count) {
        const size_t n = size_min(count, t->max_tokens);
        TRY(check_interrupt(s->model->ctx));
        if (!append_chunk(s, tokens, n, before, log_probs)) return not_finite;
        memcpy(before, s->next, hidden_bytes(s));
        if (log_probs) log_probs += n;
        tokens += n;
        count -= n;
    }
    return !results->logits || predict(s, before, results->logits) ? DQT_OK : not_finite;
}

static void exchange_last(dqt_session *s) {
    float *last = s->last;
    s->last = s->next;
    s->next = last;
}

dqt_status session_append(dqt_session *s, const int32_t *tokens, size_t count, const struct session_results *results) {
    const size_t length = s->length;
    DQT_ASSERT(count && count <= s->max_length - s->length);
    const dqt_status status = append_all(s, tokens, count, results);
    if (status != DQT_OK) {
        s->length = length;
        if (status != DQT_E_NUMERIC) return status;
        return fail(s->model->ctx, DQT_E_NUMERIC, "the model gives numbers that are not finite");
    }
    exchange_last(s);
    s->undo_length = length;
    s->undo_last_of = s->last_of;
    s->last_of = s->length;
    return DQT_OK;
}

void session_undo(dqt_session *s) {
    s->length = s->undo_length;
    s->last_of = s->undo_last_of;
    exchange_last(s);
}

void session_copy(dqt_session *to, const dqt_session *from) {
    const size_t row = layer_size(llama_block_slot(to->tape, 0)->layer, SIZE_KV);
    DQT_ASSERT(to->model == from->model && from->length <= to->max_length);
    if (to == from) return;
    for (size_t half = 0; half < 2 * to->model->config.num_layers; half++)
        memcpy(to->cache + half * to->max_length * row, from->cache + half * from->max_length * row,
               from->length * row * sizeof(float));
    memcpy(to->last, from->last, hidden_bytes(to));
    to->length = from->length;
    to->last_of = from->last_of;
}
