/* Keys (rotated) and values of sequences that grow, and attention over them. */
#ifndef DQT_OPS_KV_CACHE_H
#define DQT_OPS_KV_CACHE_H

#include "core/memory.h"

/* Of one sequence, in all layers of a model: [layers][2: keys, values] halves, each of
 *
 *   | rows [kv_heads][positions][head_size]: f32, bf16 or int8 codes | with codes: steps, f32 [kv_heads][positions] |
 *
 * Attention reads a head at a time, one stretch of memory. An element of int8 is its code times the step of its
 * position and head. */
struct kv_cache {
    int32_t format; /* DQT_CACHE_* */
    size_t layers, positions, kv_heads, head_size;
    size_t steps_at, half_bytes; /* where steps begin in a half; bytes of a half */
    unsigned char *data;         /* [layers][2] halves: keys, then values */
};

/* Fills in the sizes of a cache whose format and shape are set. Returns the bytes of its data, SIZE_MAX if there are
 * too many. */
size_t kv_cache_layout(struct kv_cache *c);

/* The tokens of a pass: each is of a sequence, at a position of it. Caches have one shape, but for their positions;
 * their formats may differ. */
struct cached_tokens {
    size_t count;
    const size_t *position;        /* [count] */
    struct kv_cache *const *cache; /* [count] */
};

/* k and v[count][kv_heads * head_size] into a layer of the tokens' caches: as they are, rounded to the nearest bf16, or
 * quantised head by head as activations are (ops/activations.h): what is not finite stays so, or has a step of NaN. */
void kv_cache_put(const dqt_context *ctx, const struct cached_tokens *tokens, size_t layer, const float *k,
                  const float *v);
/* Of a layer and head: rows [positions][head_size], and steps [positions]; NULL without codes. */
enum { CACHED_KEYS, CACHED_VALUES };
void *kv_cache_rows(const struct kv_cache *c, size_t layer, size_t which, size_t kv_head);
float *kv_cache_steps(const struct kv_cache *c, size_t layer, size_t which, size_t kv_head);
/* The first `count` positions of all layers, between caches of one shape and format. */
void kv_cache_copy(const struct kv_cache *to, const struct kv_cache *from, size_t count);

/* Of at most so many tokens. */
void attention_cached_scratch(const dqt_context *ctx, size_t tokens, size_t heads, size_t head_size,
                              struct scratch_need *need);
/* out[count][heads * head_size] from q of the same shape: each token attends to its sequence as far as its own
 * position. Tokens of a sequence that follow each other in the pass are few (each token's bits depend on nothing else)
 * or many (on where their first one is, and how many they are). Among many, what is not finite may be seen by tokens
 * before it. */
void attention_cached(const dqt_context *ctx, const struct workspace *ws, const struct cached_tokens *tokens,
                      size_t layer, size_t heads, const float *q, float *out);

/* Tokens [begin, end) of a pass, of one sequence, that are attended to together. */
struct token_block {
    size_t begin, end;
};
/* The same of the many alone: of block[blocks], of which there are some. */
void attention_prefill_scratch(const dqt_context *ctx, size_t head_size, struct scratch_need *need);
void attention_prefill(const dqt_context *ctx, const struct workspace *ws, const struct cached_tokens *tokens,
                       const struct token_block *block, size_t blocks, size_t layer, size_t heads, const float *q,
                       float *out);

#endif
