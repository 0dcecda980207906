/* dqt_session: generation with a KV cache; dqt_sampler: drawing tokens from logits. */
#ifndef DQT_MODEL_SESSION_H
#define DQT_MODEL_SESSION_H

#include "model/llama.h"

/* What an append takes and gives. Each result NULL if it is not wanted: logits[vocab] after the last token,
 * log_probs[count] of the tokens themselves, which need a valid `last`. */
struct session_request {
    const int32_t *tokens;
    size_t count;
    float *logits, *log_probs;
};

struct dqt_session {
    const dqt_llama *model;
    dqt_tape *tape; /* inference, F32, of so many tokens as pass through the layers at once */
    dqt_session_options options;
    size_t length;
    struct kv_cache cache;
    size_t cache_bytes;
    double pass_work; /* of a pass, for parallel_stand_by */
    float *last;      /* [hidden]: the stream of token `last_of` - 1, from which the next token is predicted */
    float *next;      /* [hidden]: where the next such stream is made; then the two change places */
    size_t last_of;   /* tokens that were in the session then; at another length `last` is of no use */

    /* The append that runs; nothing above but the cache beyond `length` changes before it has succeeded. */
    struct session_request request;
    size_t done;            /* tokens of it that have passed */
    size_t row, taken;      /* those of the pass that runs: rows [row, row + taken) of the stream */
    dqt_session *following; /* the next session of the same append */
};

/* Options are checked and have no defaults left. */
dqt_status session_create(const dqt_llama *model, const dqt_session_options *o, dqt_session **out);
/* What it allocates. */
dqt_status session_memory(const dqt_llama *model, const dqt_session_options *o, dqt_session_memory_info *out);
void session_destroy(dqt_session *s);
/* Appends the requests of a list of different sessions of one model. Tokens are in the vocabulary and fit the caches.
 * DQT_E_NUMERIC where a stream or logits are not finite, DQT_E_CANCELLED: then nothing is appended anywhere. */
dqt_status sessions_append(dqt_session *first);
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
