#include "ops/kv_cache.h"

#include <string.h>

#include "core/parallel.h"
#include "format/format.h"
#include "kernels/kernels.h"

/* A head's part of a row. */
static size_t head_bytes(const struct kv_cache *c) {
    return c->head_size * cache_element_bytes(c->format);
}

size_t kv_cache_layout(struct kv_cache *c) {
    DQT_ASSERT(c->layers > 0 && c->positions > 0 && c->format >= 0 && c->format < CACHE_FORMATS);
    struct arena half = {0}, all = {0};
    arena_take(&half, c->positions, c->kv_heads * head_bytes(c));
    c->steps_at = half.used;
    if (c->format == DQT_CACHE_INT8) arena_take(&half, c->positions, c->kv_heads * sizeof(float));
    c->half_bytes = half.used;
    arena_take(&all, 2 * c->layers, c->half_bytes);
    return all.used;
}

static unsigned char *half(const struct kv_cache *c, size_t layer, size_t which) {
    DQT_ASSERT(layer < c->layers && which <= CACHED_VALUES);
    return c->data + (2 * layer + which) * c->half_bytes;
}

void *kv_cache_rows(const struct kv_cache *c, size_t layer, size_t which, size_t kv_head) {
    DQT_ASSERT(kv_head < c->kv_heads);
    return half(c, layer, which) + kv_head * c->positions * head_bytes(c);
}

float *kv_cache_steps(const struct kv_cache *c, size_t layer, size_t which, size_t kv_head) {
    DQT_ASSERT(kv_head < c->kv_heads);
    if (c->format != DQT_CACHE_INT8) return NULL;
    return (float *)(void *)(half(c, layer, which) + c->steps_at) + kv_head * c->positions;
}

struct put_job {
    const struct cached_tokens *tokens;
    size_t layer;
    const float *rows[2]; /* of keys and values */
    const struct kernels *kernels;
};

static void put_row(const struct put_job *job, const struct kv_cache *c, size_t position, size_t which,
                    const float *row) {
    for (size_t h = 0; h < c->kv_heads; h++, row += c->head_size) {
        char *to = (char *)kv_cache_rows(c, job->layer, which, h) + position * head_bytes(c);
        if (c->format == DQT_CACHE_F32) memcpy(to, row, head_bytes(c));
        if (c->format == DQT_CACHE_BF16) bf16_store(row, c->head_size, 0, NULL, (uint16_t *)(void *)to);
        if (c->format == DQT_CACHE_INT8)
            kv_cache_steps(c, job->layer, which, h)[position] =
                job->kernels->gemm.quantize(row, c->head_size, (int8_t *)to);
    }
}

static void put_token(void *arg, size_t i, int lane) {
    (void)lane;
    const struct put_job *job = arg;
    const struct kv_cache *c = job->tokens->cache[i];
    DQT_ASSERT(job->tokens->position[i] < c->positions);
    for (size_t which = 0; which < 2; which++)
        put_row(job, c, job->tokens->position[i], which, job->rows[which] + i * c->kv_heads * c->head_size);
}

void kv_cache_put(const dqt_context *ctx, const struct cached_tokens *tokens, size_t layer, const float *k,
                  const float *v) {
    struct put_job job = {tokens, layer, {k, v}, ctx->kernels};
    const struct kv_cache *c = tokens->cache[0];
    parallel_run(ctx, tokens->count, 2 * WORK_ELEMENT * (double)tokens->count * (double)(c->kv_heads * c->head_size),
                 put_token, &job);
}

void kv_cache_copy(const struct kv_cache *to, const struct kv_cache *from, size_t count) {
    DQT_ASSERT(to->layers == from->layers && to->format == from->format && to->kv_heads == from->kv_heads &&
               head_bytes(to) == head_bytes(from));
    DQT_ASSERT(count <= to->positions && count <= from->positions);
    for (size_t layer = 0; layer < to->layers; layer++)
        for (size_t which = 0; which < 2; which++)
            for (size_t h = 0; h < from->kv_heads; h++) {
                memcpy(kv_cache_rows(to, layer, which, h), kv_cache_rows(from, layer, which, h),
                       count * head_bytes(from));
                if (from->format == DQT_CACHE_INT8)
                    memcpy(kv_cache_steps(to, layer, which, h), kv_cache_steps(from, layer, which, h),
                           count * sizeof(float));
            }
}
