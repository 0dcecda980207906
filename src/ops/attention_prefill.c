/* Attention of many tokens that a session appends at once: in tiles of queries and keys, as training's forward has
 * them, so that keys and values are read and converted once for up to 64 queries. Operands are bf16 where the CPU has
 * products of them and the cache is not F32 (docs/numerics.md, "Sessions"). */
#include <string.h>

#include "core/parallel.h"
#include "kernels/kernels.h"
#include "ops/attention_job.h"
#include "ops/kv_cache.h"

enum { TILE = ATTENTION_TILE, ROWS = ATTENTION_ROWS, COLUMNS = ATTENTION_COLUMNS };

struct prefill {
    struct attention_job job;
    const struct cached_tokens *tokens;
    const struct token_block *block; /* [blocks] */
    size_t blocks, layer;
};

/* A head's keys and values, and queries of a block of it. Lane scratch: [TILE][depth] of both, and what a tile of
 * queries needs, of either kind. */
struct cached_head {
    const struct prefill *p;
    const struct kv_cache *cache;
    size_t kv_head, before, count; /* tokens before the block, and of it */
    const float *q;
    float *keys, *values, *out;
};

void attention_prefill_scratch(const dqt_context *ctx, size_t head_size, struct scratch_need *need) {
    const struct attention_job job = {.depth = round_up(head_size, COLUMNS)};
    for (int bf16 = 0; bf16 < (ctx->kernels->attention_bf16.product ? 2 : 1); bf16++) {
        struct arena a = {0};
        arena_take(&a, TILE * job.depth, sizeof(float));
        arena_take(&a, TILE * job.depth, sizeof(float));
        if (bf16) {
            attention_bf16_layout(TILE, job.depth, &a);
        } else {
            attention_tile_place(&job, &a);
        }
        scratch_max(need, 0, a.used, 0);
    }
}

/* [count rounded up to ROWS][depth] floats of positions from `first` on, zeros beyond: in the cache or, converted, in
 * scratch. */
static const float *read_rows(const struct cached_head *h, size_t which, size_t first, size_t count, float *scratch) {
    const struct kv_cache *c = h->cache;
    const struct attention_job *job = &h->p->job;
    const size_t row_bytes = c->head_size * cache_element_bytes(c->format);
    const char *from = (const char *)kv_cache_rows(c, h->p->layer, which, h->kv_head) + first * row_bytes;
    const float *steps = kv_cache_steps(c, h->p->layer, which, h->kv_head);
    if (c->format == DQT_CACHE_F32 && c->head_size == job->depth && count % ROWS == 0)
        return (const float *)(const void *)from;
    if (count % ROWS || c->head_size < job->depth)
        memset(scratch, 0, round_up(count, ROWS) * job->depth * sizeof *scratch);
    job->kernels->attention_widen[c->format](from, steps ? steps + first : NULL, count, c->head_size, scratch,
                                             job->depth);
    return scratch;
}

static void join(const struct cached_head *h, size_t first, size_t count, bool own, struct query_tile *t) {
    const float *keys = read_rows(h, CACHED_KEYS, first, count, h->keys);
    const float *values = read_rows(h, CACHED_VALUES, first, count, h->values);
    attention_tile_add(&h->p->job, t, keys, values, count, own);
}

/* What was cached before the block, then its own. */
static void attend(const struct cached_head *h, struct arena *a) {
    const struct attention_job *job = &h->p->job;
    struct query_tile t = attention_tile_place(job, a);
    attention_tile_begin(job, &t, h->q, h->count);
    for (size_t k = 0; k < h->before; k += TILE)
        join(h, k, size_min(TILE, h->before - k), false, &t);
    join(h, h->before, h->count, true, &t);
    attention_tile_end(job, &t, h->out);
}

/* Tiles of bf16 have whole COLUMNS of keys; only the diagonal hides those that are padded. */
static bool takes_bf16(const struct cached_head *h) {
    return h->cache->format != DQT_CACHE_F32 && h->p->job.bf16->product && h->before % COLUMNS == 0;
}

static void join_bf16(const struct cached_head *h, size_t first, size_t count, const struct attention_bf16_scratch *m) {
    const struct attention_job *job = &h->p->job;
    const float *keys = read_rows(h, CACHED_KEYS, first, count, h->keys);
    const float *values = read_rows(h, CACHED_VALUES, first, count, h->values);
    job->bf16->pack_rows(keys, job->depth, count, job->depth, TILE, job->depth, m->keys);
    attention_bf16_transpose(job, values, job->depth, count, TILE, m->pairs, m->transposed);
    attention_bf16_add(job, m, m->keys, m->transposed, TILE, count, h->count, first == h->before, first == 0);
}

static void attend_bf16(const struct cached_head *h, struct arena *a) {
    const struct attention_job *job = &h->p->job;
    const struct attention_bf16_scratch m = attention_bf16_layout(TILE, job->depth, a);
    job->bf16->begin();
    attention_bf16_begin(job, &m, h->q, h->count);
    for (size_t k = 0; k < h->before; k += TILE)
        join_bf16(h, k, size_min(TILE, h->before - k), &m);
    join_bf16(h, h->before, h->count, &m);
    attention_bf16_end(job, &m, h->count, h->out);
    job->bf16->end();
}

/* A block's tokens and a head. */
static void prefill_head(void *arg, size_t task, int lane) {
    const struct prefill *p = arg;
    const struct attention_job *job = &p->job;
    const size_t head = task / p->blocks;
    const size_t begin = p->block[task % p->blocks].begin, end = p->block[task % p->blocks].end;
    const size_t offset = begin * job->q_ld + head * job->s.head_size;
    struct arena a = lane_arena(job->ws, lane);
    struct cached_head h = {.p = p, .cache = p->tokens->cache[begin], .q = job->q + offset, .out = job->out + offset};
    h.kv_head = head / (job->s.heads / job->s.kv_heads);
    h.before = p->tokens->position[begin];
    h.count = end - begin;
    DQT_ASSERT(p->tokens->position[end - 1] == h.before + h.count - 1);
    h.keys = arena_take(&a, TILE * job->depth, sizeof(float));
    h.values = arena_take(&a, TILE * job->depth, sizeof(float));
    if (takes_bf16(&h)) {
        attend_bf16(&h, &a);
    } else {
        attend(&h, &a);
    }
}

void attention_prefill(const dqt_context *ctx, const struct workspace *ws, const struct cached_tokens *tokens,
                       const struct token_block *block, size_t blocks, size_t layer, size_t heads, const float *q,
                       float *out) {
    const struct kv_cache *c = tokens->cache[0];
    const struct attention_shape s = {1, tokens->count, heads, c->kv_heads, c->head_size};
    struct prefill p = {.job = attention_job_make(ctx, ws, &s, q, NULL, NULL),
                        .tokens = tokens,
                        .block = block,
                        .blocks = blocks,
                        .layer = layer};
    double pairs = 0;
    p.job.out = out;
    for (size_t b = 0; b < blocks; b++)
        pairs += (double)(block[b].end - block[b].begin) * (double)(tokens->position[block[b].begin] + TILE / 2);
    parallel_run(ctx, blocks * heads, pairs * (double)heads * (2 * WORK_PRODUCT * (double)c->head_size + WORK_ELEMENT),
                 prefill_head, &p);
}
