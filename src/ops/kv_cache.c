#include "ops/kv_cache.h"

#include <string.h>

#include "core/parallel.h"

size_t kv_cache_layout(struct kv_cache *c) {
    size_t bytes;
    DQT_ASSERT(c->layers > 0 && c->positions > 0);
    if (!size_mul(c->kv_heads * c->head_size, sizeof(float), &c->row_bytes)) return SIZE_MAX;
    if (!size_mul(c->row_bytes, c->positions, &c->half_bytes)) return SIZE_MAX;
    (void)size_mul(c->half_bytes, 2 * c->layers, &bytes);
    return bytes;
}

void *kv_cache_rows(const struct kv_cache *c, size_t layer, size_t which) {
    DQT_ASSERT(layer < c->layers && which <= CACHED_VALUES);
    return c->data + (2 * layer + which) * c->half_bytes;
}

struct put_job {
    const struct cached_tokens *tokens;
    size_t layer;
    const float *rows[2];
};

static void put_token(void *arg, size_t i, int lane) {
    (void)lane;
    const struct put_job *job = arg;
    const struct kv_cache *c = job->tokens->cache[i];
    const size_t position = job->tokens->position[i], cols = c->kv_heads * c->head_size;
    DQT_ASSERT(position < c->positions);
    for (size_t which = 0; which < 2; which++)
        memcpy((float *)kv_cache_rows(c, job->layer, which) + position * cols, job->rows[which] + i * cols,
               c->row_bytes);
}

void kv_cache_put(const dqt_context *ctx, const struct cached_tokens *tokens, size_t layer, const float *k,
                  const float *v) {
    struct put_job job = {tokens, layer, {k, v}};
    const struct kv_cache *c = tokens->cache[0];
    parallel_run(ctx, tokens->count, 2 * WORK_ELEMENT * (double)tokens->count * (double)(c->kv_heads * c->head_size),
                 put_token, &job);
}

void kv_cache_copy(const struct kv_cache *to, const struct kv_cache *from, size_t count) {
    DQT_ASSERT(to->layers == from->layers && to->row_bytes == from->row_bytes);
    DQT_ASSERT(count <= to->positions && count <= from->positions);
    for (size_t layer = 0; layer < to->layers; layer++)
        for (size_t which = 0; which < 2; which++)
            memcpy(kv_cache_rows(to, layer, which), kv_cache_rows(from, layer, which), count * from->row_bytes);
}
