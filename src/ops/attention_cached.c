/* Attention of generation: queries of a pass against the keys and values of their own sequences. */
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "kernels/kernels.h"
#include "kernels/prefetch.h"
#include "ops/kv_cache.h"

/* QUERIES: tokens of a sequence that go through its keys together, tile by tile. As many are done by tiles of queries,
 * which are whole blocks of registers there. */
enum { TILE = ATTENTION_TILE, LINE = 64, QUERIES = 16 };

struct job {
    const struct vector_kernels *kernels;
    const struct workspace *ws;
    const struct cached_tokens *tokens;
    const struct token_block *block; /* [blocks] */
    size_t blocks, layer, heads;
    const float *q; /* [tokens][heads * head_size] */
    float *out;     /* the same */
};

/* Shared scratch: blocks [tokens]. Lane scratch, in floats: scores [TILE], maximum and sum [QUERIES][heads of a kv
 * head]. */
void attention_cached_scratch(const dqt_context *ctx, size_t tokens, size_t heads, size_t head_size,
                              struct scratch_need *need) {
    struct arena a = {0}, shared = {0};
    arena_take(&shared, tokens, sizeof(struct token_block));
    scratch_max(need, shared.used, 0, 0);
    attention_prefill_scratch(ctx, head_size, need);
    arena_take(&a, TILE, sizeof(float));
    for (int i = 0; i < 2; i++)
        arena_take(&a, QUERIES * heads, sizeof(float));
    scratch_max(need, 0, a.used, 0);
}

/* Tokens [begin, end) of one sequence and a kv head. */
struct block {
    const struct job *job;
    size_t begin, end, kv_head, group;
    const char *k, *v; /* rows of the head */
    const float *k_steps, *v_steps;
    float *scores, *maximum, *sum;
};

/* Blocks of the few, or of the many, to out; returns how many. */
static size_t list_blocks(const struct cached_tokens *t, bool many, struct token_block *out) {
    const size_t most = many ? TILE : QUERIES;
    size_t count = 0;
    for (size_t first = 0, next; first < t->count; first = next) {
        next = first + 1;
        while (next < t->count && t->cache[next] == t->cache[first])
            next++;
        if ((next - first >= QUERIES) != many) continue;
        for (size_t begin = first; begin < next; begin += most)
            out[count++] = (struct token_block){begin, size_min(begin + most, next)};
    }
    return count;
}

/* Values come while scores are made of the keys; among many tokens the first one's waiting does not matter. */
static void fetch_ahead(const char *rows, size_t bytes) {
    for (size_t i = 0; i < bytes; i += LINE)
        prefetch_ahead(rows, i);
}

/* Keys k0 to k0 + count of one token, for all heads of the group. Steps of codes enter the scores, and of values the
 * probabilities: factors of a position, not of an element. */
static void add_tile(const struct block *b, size_t token, size_t k0, size_t count) {
    const struct job *job = b->job;
    const struct vector_kernels *kernels = job->kernels;
    const struct kv_cache *c = job->tokens->cache[token];
    const size_t size = c->head_size, row_bytes = size * cache_element_bytes(c->format);
    const float scale = 1.0f / sqrtf((float)size);
    for (size_t h = 0; h < b->group; h++) {
        const size_t offset = (token * job->heads + b->kv_head * b->group + h) * size;
        float *maximum = b->maximum + (token - b->begin) * b->group + h;
        float *sum = b->sum + (token - b->begin) * b->group + h;
        kernels->attention_scores[c->format](job->q + offset, b->k + k0 * row_bytes, size, count, size, scale,
                                             b->scores);
        if (b->k_steps) kernels->multiply(b->k_steps + k0, count, b->scores);
        float best = kernels->maximum(b->scores, count), correction = 0;
        if (k0) {
            if (!(best > *maximum)) best = *maximum;
            correction = *maximum - best;
            correction = kernels->exp_sum(&correction, 1, 0, NULL);
        } else {
            *sum = 0;
        }
        *maximum = best;
        *sum = *sum * correction + kernels->exp_sum(b->scores, count, best, b->scores);
        if (b->v_steps) kernels->multiply(b->v_steps + k0, count, b->scores);
        kernels->attention_mix[c->format](b->scores, b->v + k0 * row_bytes, size, count, size, correction,
                                          job->out + offset);
    }
}

/* A tile of keys at a time, which all tokens of the block and heads of the group find in cache. Blocks of one head
 * follow each other, so that its keys and values stay in L2. */
static void cached_block(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    const struct cached_tokens *tokens = job->tokens;
    struct block b = {.job = job, .kv_head = task / job->blocks, .group = job->heads / tokens->cache[0]->kv_heads};
    b.begin = job->block[task % job->blocks].begin;
    b.end = job->block[task % job->blocks].end;
    const struct kv_cache *c = tokens->cache[b.begin];
    const size_t width = b.group * c->head_size, row_bytes = c->head_size * cache_element_bytes(c->format);
    b.k = kv_cache_rows(c, job->layer, CACHED_KEYS, b.kv_head);
    b.v = kv_cache_rows(c, job->layer, CACHED_VALUES, b.kv_head);
    b.k_steps = kv_cache_steps(c, job->layer, CACHED_KEYS, b.kv_head);
    b.v_steps = kv_cache_steps(c, job->layer, CACHED_VALUES, b.kv_head);
    struct arena a = lane_arena(job->ws, lane);
    b.scores = arena_take(&a, TILE, sizeof(float));
    b.maximum = arena_take(&a, QUERIES * b.group, sizeof(float));
    b.sum = arena_take(&a, QUERIES * b.group, sizeof(float));
    size_t keys = 0;
    for (size_t t = b.begin; t < b.end; t++) {
        keys = size_max(keys, tokens->position[t] + 1);
        memset(job->out + t * job->heads * c->head_size + b.kv_head * width, 0, width * sizeof(float));
    }
    for (size_t k0 = 0; k0 < keys; k0 += TILE) {
        if (b.end - b.begin < QUERIES / 2) fetch_ahead(b.v + k0 * row_bytes, size_min(TILE, keys - k0) * row_bytes);
        for (size_t t = b.begin; t < b.end; t++)
            if (tokens->position[t] >= k0) add_tile(&b, t, k0, size_min(TILE, tokens->position[t] + 1 - k0));
    }
    for (size_t t = b.begin; t < b.end; t++)
        for (size_t h = 0; h < b.group; h++) {
            float *out = job->out + t * job->heads * c->head_size + b.kv_head * width + h * c->head_size;
            job->kernels->scale(out, c->head_size, 1.0f / b.sum[(t - b.begin) * b.group + h], out);
        }
}

void attention_cached(const dqt_context *ctx, const struct workspace *ws, const struct cached_tokens *tokens,
                      size_t layer, size_t heads, const float *q, float *out) {
    const struct kv_cache *c = tokens->cache[0];
    DQT_ASSERT(c->kv_heads > 0 && heads % c->kv_heads == 0);
    struct arena shared = shared_arena(ws);
    struct token_block *block = arena_take(&shared, tokens->count, sizeof *block);
    struct job job = {
        &ctx->kernels->vector, ws, tokens, block, list_blocks(tokens, false, block), layer, heads, q, out};
    double keys = 0;
    for (size_t b = 0; b < job.blocks; b++)
        for (size_t i = block[b].begin; i < block[b].end; i++) {
            DQT_ASSERT(tokens->position[i] < tokens->cache[i]->positions);
            keys += (double)(tokens->position[i] + 1);
        }
    if (job.blocks > 0)
        parallel_run(ctx, job.blocks * c->kv_heads, WORK_ELEMENT * keys * (double)(c->kv_heads * c->head_size),
                     cached_block, &job);
    const size_t many = list_blocks(tokens, true, block);
    if (many > 0) attention_prefill(ctx, ws, tokens, block, many, layer, heads, q, out);
}
