/* Generation: the model's layers on an inference tape, with cached keys and values in place of attention over the pass.
 */
#include "model/session.h"

#include <math.h>

#include "core/status.h"

enum { CHUNK = 64 }; /* tokens that run through the layers at once while a prompt is read */

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
    memory_free(ctx, s, sizeof *s);
}

static bool all_finite(const float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* False where numbers are not finite: a NaN in a key or a value of a token is one in its stream, too. */
static bool append_chunk(dqt_session *s, const int32_t *tokens, size_t count, float *logits) {
    dqt_tape *t = s->tape;
    const dqt_layer *block = llama_block_slot(t, 0)->layer;
    const size_t half = s->max_length * layer_size(block, SIZE_KV), hidden = s->model->config.hidden_size;
    embedding_forward(t, llama_embedding_slot(t), 1, count, tokens, t->stream);
    for (size_t i = 0; i < s->model->config.num_layers; i++) {
        const struct kv_cache cache = {s->cache + 2 * i * half, s->cache + (2 * i + 1) * half, s->length};
        t->cache = &cache;
        layer_forward(t, llama_block_slot(t, i), 1, count, NULL, t->stream, t->stream);
        t->cache = NULL;
    }
    s->length += count;
    if (!all_finite(t->stream, count * hidden)) return false;
    if (!logits) return true;
    float *last = t->stream + (count - 1) * hidden;
    layer_forward(t, llama_norm_slot(t), 1, 1, NULL, last, last);
    head_logits(t, llama_head_slot(t), 1, 1, last, logits);
    return all_finite(logits, s->model->config.vocab_size);
}

dqt_status session_append(dqt_session *s, const int32_t *tokens, size_t count, float *logits) {
    const size_t length = s->length;
    DQT_ASSERT(count <= s->max_length - s->length);
    while (count) {
        const size_t n = size_min(count, s->tape->max_tokens);
        if (!append_chunk(s, tokens, n, n == count ? logits : NULL)) {
            s->length = length;
            return fail(s->model->ctx, DQT_E_NUMERIC, "the model gives numbers that are not finite");
        }
        tokens += n;
        count -= n;
    }
    return DQT_OK;
}
