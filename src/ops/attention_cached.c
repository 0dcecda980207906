/* Attention of generation: queries of a pass against the keys and values of their own sequences. */
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "kernels/kernels.h"
#include "kernels/prefetch.h"
#include "ops/kv_cache.h"

enum { TILE = ATTENTION_TILE, LINE = 64 };

struct job {
    const struct vector_kernels *kernels;
    const struct workspace *ws;
    const struct cached_tokens *tokens;
    size_t layer, heads;
    const float *q; /* [tokens][heads * head_size] */
    float *out;     /* the same */
};

/* Lane scratch, in floats: scores [TILE], maximum and sum [heads of a kv head]. */
void attention_cached_scratch(size_t heads, struct scratch_need *need) {
    struct arena a = {0};
    arena_take(&a, TILE, sizeof(float));
    for (int i = 0; i < 2; i++)
        arena_take(&a, heads, sizeof(float));
    scratch_max(need, 0, a.used, 0);
}

/* Values come while scores are made of the keys. */
static void fetch_ahead(const char *rows, size_t bytes) {
    for (size_t i = 0; i < bytes; i += LINE)
        prefetch_ahead(rows, i);
}

/* One token and kv head: keys in tiles, so that the group's heads find them in cache. Steps of codes enter the scores,
 * and of values the probabilities: factors of a position, not of an element. */
static void cached_kv_head(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    const size_t kv_heads = job->tokens->cache[0]->kv_heads, token = task / kv_heads, kv_head = task % kv_heads;
    const struct kv_cache *c = job->tokens->cache[token];
    const size_t size = c->head_size, group = job->heads / kv_heads;
    const size_t keys = job->tokens->position[token] + 1;
    const size_t offset = (token * job->heads + kv_head * group) * size;
    const size_t row_bytes = size * cache_element_bytes(c->format);
    const char *k = kv_cache_rows(c, job->layer, CACHED_KEYS, kv_head);
    const char *v = kv_cache_rows(c, job->layer, CACHED_VALUES, kv_head);
    const float *k_steps = kv_cache_steps(c, job->layer, CACHED_KEYS, kv_head);
    const float *v_steps = kv_cache_steps(c, job->layer, CACHED_VALUES, kv_head);
    const float scale = 1.0f / sqrtf((float)size);
    struct arena a = lane_arena(job->ws, lane);
    float *scores = arena_take(&a, TILE, sizeof(float));
    float *maximum = arena_take(&a, group, sizeof(float)), *sum = arena_take(&a, group, sizeof(float));
    float *out = job->out + offset;
    memset(out, 0, group * size * sizeof *out);
    for (size_t k0 = 0; k0 < keys; k0 += TILE) {
        const size_t count = size_min(TILE, keys - k0);
        fetch_ahead(v + k0 * row_bytes, count * row_bytes);
        for (size_t h = 0; h < group; h++) {
            job->kernels->attention_scores[c->format](job->q + offset + h * size, k + k0 * row_bytes, size, count, size,
                                                      scale, scores);
            if (k_steps) job->kernels->multiply(k_steps + k0, count, scores);
            float best = job->kernels->maximum(scores, count), correction = 0;
            if (k0) {
                if (!(best > maximum[h])) best = maximum[h];
                correction = maximum[h] - best;
                correction = job->kernels->exp_sum(&correction, 1, 0, NULL);
            } else {
                sum[h] = 0;
            }
            maximum[h] = best;
            sum[h] = sum[h] * correction + job->kernels->exp_sum(scores, count, best, scores);
            if (v_steps) job->kernels->multiply(v_steps + k0, count, scores);
            job->kernels->attention_mix[c->format](scores, v + k0 * row_bytes, size, count, size, correction,
                                                   out + h * size);
        }
    }
    for (size_t h = 0; h < group; h++)
        job->kernels->scale(out + h * size, size, 1.0f / sum[h], out + h * size);
}

void attention_cached(const dqt_context *ctx, const struct workspace *ws, const struct cached_tokens *tokens,
                      size_t layer, size_t heads, const float *q, float *out) {
    const struct kv_cache *c = tokens->cache[0];
    DQT_ASSERT(c->kv_heads > 0 && heads % c->kv_heads == 0);
    struct job job = {&ctx->kernels->vector, ws, tokens, layer, heads, q, out};
    double keys = 0;
    for (size_t i = 0; i < tokens->count; i++) {
        DQT_ASSERT(tokens->position[i] < tokens->cache[i]->positions);
        keys += (double)(tokens->position[i] + 1);
    }
    parallel_run(ctx, tokens->count * c->kv_heads, WORK_ELEMENT * keys * (double)(c->kv_heads * c->head_size),
                 cached_kv_head, &job);
}
