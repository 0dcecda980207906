/* dqt_session: generation with a KV cache; dqt_sampler: drawing tokens from logits. */
#ifndef DQT_MODEL_SESSION_H
#define DQT_MODEL_SESSION_H

#include "model/llama.h"

struct dqt_session {
    const dqt_llama *model;
    dqt_tape *tape; /* inference, CHUNK tokens at a time, F32 */
    size_t max_length, length;
    float *cache; /* [layers][2: k, v][max_length][kv_heads * head_size] */
    size_t cache_bytes;
    float *last;    /* [hidden]: the stream of token `last_of` - 1, from which the next token is predicted */
    float *next;    /* [hidden]: where the next such stream is made; then the two change places */
    float *logits;  /* [vocab]: for scores */
    size_t last_of; /* tokens that were in the session then; at another length `last` is of no use */
    size_t undo_length, undo_last_of; /* before the latest append */
};

dqt_status session_create(const dqt_llama *model, size_t max_length, dqt_session **out);
void session_destroy(dqt_session *s);
/* What an append gives, each NULL if it is not wanted: logits[vocab] after the last token, log_probs[count] of the
 * tokens themselves, which need a valid `last`. */
struct session_results {
    float *logits, *log_probs;
};
/* tokens are in the vocabulary and fit the cache. DQT_E_NUMERIC where the stream or the logits are not finite,
 * DQT_E_CANCELLED: then nothing is appended. */
dqt_status session_append(dqt_session *s, const int32_t *tokens, size_t count, const struct session_results *results);
/* Undoes the latest append, which succeeded; nothing else has been done since. */
void session_undo(dqt_session *s);
/* Content of `from`, which fits, into a session of the same model. */
void session_copy(dqt_session *to, const dqt_session *from);

struct dqt_sampler {
    dqt_context *ctx;
    dqt_sampler_options options;
    size_t vocab_size;
    uint64_t draws;
    int32_t *order;     /* [vocab]: candidates, best first once sorted */
    float *probability; /* [vocab] */
    size_t bytes;
};

dqt_status sampler_create(dqt_context *ctx, size_t vocab_size, const dqt_sampler_options *o, dqt_sampler **out);
void sampler_destroy(dqt_sampler *s);
/* Logits hold no NaN and at least one finite number. */
int32_t sampler_sample(dqt_sampler *s, const float *logits);

#endif
