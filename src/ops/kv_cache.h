/* Keys (rotated) and values of sequences that grow, and attention over them. */
#ifndef DQT_OPS_KV_CACHE_H
#define DQT_OPS_KV_CACHE_H

#include "core/memory.h"

/* Of one sequence, in all layers of a model: [layers][2: keys, values][positions][kv_heads * head_size], f32. */
struct kv_cache {
    size_t layers, positions, kv_heads, head_size;
    size_t row_bytes, half_bytes; /* of a position; of all keys, or values, of a layer */
    unsigned char *data;
};

/* Fills in the sizes of a cache whose shape is set. Returns the bytes of its data, SIZE_MAX if there are too many. */
size_t kv_cache_layout(struct kv_cache *c);

/* The tokens of a pass: each is of a sequence, at a position of it. Caches are of one shape, but for their positions.
 */
struct cached_tokens {
    size_t count;
    const size_t *position;
    struct kv_cache *const *cache;
};

/* k and v[count][kv_heads * head_size] into a layer of the tokens' caches. */
void kv_cache_put(const dqt_context *ctx, const struct cached_tokens *tokens, size_t layer, const float *k,
                  const float *v);
/* Those of a layer, [positions][kv_heads * head_size]. */
enum { CACHED_KEYS, CACHED_VALUES };
void *kv_cache_rows(const struct kv_cache *c, size_t layer, size_t which);
/* The first `count` positions of all layers. */
void kv_cache_copy(const struct kv_cache *to, const struct kv_cache *from, size_t count);

void attention_cached_scratch(size_t heads, struct scratch_need *need);
/* out[count][heads * head_size] from q of the same shape: each token attends to its sequence as far as its own
 * position. Its bits depend on nothing else. */
void attention_cached(const dqt_context *ctx, const struct workspace *ws, const struct cached_tokens *tokens,
                      size_t layer, size_t heads, const float *q, float *out);

#endif
