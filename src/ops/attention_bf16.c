/* Attention with bf16 operands and f32 sums, scores and softmax: see attention.c for the tiles.
 *
 * A product takes rows of bf16 on its left and pairs of rows on its right. With scores transposed, s[key][query]:
 *   s    = keys . queries      queries as words of two columns, transposed: [D / 2][TILE]
 *   out' = values' . p         values transposed, [D][P]; p as pairs of keys; out transposed
 *   ds   = values . douts      as s
 *   dvalues += p . douts       p as rows; douts as pairs of queries
 *   dkeys   += ds . queries    the same
 *   dq'  = keys' . ds          as out'
 * Lane scratch: struct attention_bf16_scratch. */
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "ops/attention_job.h"

enum { TILE = ATTENTION_TILE, COLUMNS = ATTENTION_COLUMNS };

struct attention_bf16_scratch attention_bf16_layout(size_t length, size_t depth, struct arena *a) {
    size_t sequence = SIZE_MAX, tile = TILE * depth;
    if (length <= SIZE_MAX - TILE) (void)size_mul(round_up(length, TILE), depth, &sequence);
    struct attention_bf16_scratch m;
    m.keys = arena_take(a, sequence, sizeof *m.keys);
    m.values = arena_take(a, sequence, sizeof *m.values);
    m.transposed = arena_take(a, sequence, sizeof *m.transposed);
    m.dkeys = arena_take(a, sequence, sizeof *m.dkeys);
    m.dvalues = arena_take(a, sequence, sizeof *m.dvalues);
    m.pairs = arena_take(a, tile / 2, sizeof *m.pairs);
    m.dout_pairs = arena_take(a, tile / 2, sizeof *m.dout_pairs);
    m.query_words = arena_take(a, tile / 2, sizeof *m.query_words);
    m.dout_words = arena_take(a, tile / 2, sizeof *m.dout_words);
    m.rows = arena_take(a, tile, sizeof *m.rows);
    m.s = arena_take(a, TILE * TILE, sizeof *m.s);
    m.ds = arena_take(a, TILE * TILE, sizeof *m.ds);
    m.p_rows = arena_take(a, TILE * TILE, sizeof *m.p_rows);
    m.ds_rows = arena_take(a, TILE * TILE, sizeof *m.ds_rows);
    m.p_pairs = arena_take(a, TILE / 2 * TILE, sizeof *m.p_pairs);
    m.result_t = arena_take(a, tile, sizeof *m.result_t);
    m.result = arena_take(a, tile, sizeof *m.result);
    m.maximum = arena_take(a, TILE, sizeof *m.maximum);
    m.sum = arena_take(a, TILE, sizeof *m.sum);
    m.correction = arena_take(a, TILE, sizeof *m.correction);
    return m;
}

void attention_bf16_scratch(const struct attention_shape *s, struct scratch_need *need) {
    struct arena a = {0};
    attention_bf16_layout(s->length, round_up(s->head_size, COLUMNS), &a);
    scratch_max(need, 0, a.used, 0);
}

/* Two tokens of a column make a word, and words are transposed. */
void attention_bf16_transpose(const struct attention_job *job, const float *x, size_t ld, size_t length, size_t padded,
                              uint32_t *pairs, uint16_t *out) {
    const struct attention_bf16_kernels *k = job->bf16;
    uint32_t *words = (uint32_t *)(void *)out;
    for (size_t t = 0; t < length; t += TILE) {
        k->pack_pairs(x + t * ld, ld, size_min(TILE, length - t), job->s.head_size, TILE, job->depth, pairs);
        k->transpose(pairs, job->depth, TILE / 2, job->depth, words + t / 2, padded / 2);
    }
}

/* words[column / 2][row] of up to TILE rows. */
static void pack_words(const struct attention_job *job, const float *x, size_t ld, size_t rows, uint16_t *packed,
                       uint32_t *words) {
    const struct attention_bf16_kernels *k = job->bf16;
    k->pack_rows(x, ld, rows, job->s.head_size, TILE, job->depth, packed);
    k->transpose((const uint32_t *)(const void *)packed, job->depth / 2, TILE, job->depth / 2, words, TILE);
}

/* s[key][query]; on the diagonal only blocks that some query sees. */
static void score_tile(const struct attention_job *job, const uint16_t *keys, const uint32_t *words, size_t key_count,
                       size_t query_count, bool diagonal, float *s) {
    size_t step = diagonal ? COLUMNS : key_count;
    for (size_t j = 0; j < key_count; j += step) {
        size_t from = diagonal ? j : 0;
        job->bf16->product(step, query_count - from, job->depth, keys + j * job->depth, job->depth, words + from, TILE,
                           s + j * TILE + from, TILE, false);
    }
}

/* result_t[column][query] (+)= sum over keys transposed[column][key] * p[key][query]. */
static void mix_tile(const struct attention_job *job, const struct attention_bf16_scratch *m,
                     const uint16_t *transposed, size_t ld, size_t key_count, size_t query_count, bool diagonal,
                     bool accumulate) {
    size_t step = diagonal ? COLUMNS : query_count;
    for (size_t i = 0; i < query_count; i += step)
        job->bf16->product(job->depth, step, diagonal ? size_min(i + COLUMNS, key_count) : key_count, transposed, ld,
                           m->p_pairs + i, TILE, m->result_t + i, TILE, accumulate);
}

/* out[key][column] += sum over queries p[key][query] * x[query][column]. */
static void scatter_tile(const struct attention_job *job, const uint16_t *p, const uint32_t *pairs, size_t key_count,
                         size_t query_count, bool diagonal, float *out) {
    size_t step = diagonal ? COLUMNS : key_count;
    for (size_t j = 0; j < key_count; j += step) {
        size_t from = diagonal ? j : 0;
        job->bf16->product(step, job->depth, query_count - from, p + j * TILE + from, TILE,
                           pairs + from / 2 * job->depth, job->depth, out + j * job->depth, job->depth, true);
    }
}

/* Rows of result_t, transposed, to out. */
static void write_result(const struct attention_job *job, const struct attention_bf16_scratch *m, size_t count,
                         float *out) {
    job->bf16->transpose((const uint32_t *)(const void *)m->result_t, TILE, job->depth, TILE,
                         (uint32_t *)(void *)m->result, job->depth);
    for (size_t i = 0; i < count; i++)
        memcpy(out + i * job->q_ld, m->result + i * job->depth, job->s.head_size * sizeof *out);
}

void attention_bf16_begin(const struct attention_job *job, const struct attention_bf16_scratch *m, const float *q,
                          size_t queries) {
    pack_words(job, q, job->q_ld, queries, m->rows, m->query_words);
    for (size_t i = 0; i < TILE; i++) {
        m->maximum[i] = -INFINITY;
        m->sum[i] = 0;
    }
}

void attention_bf16_add(const struct attention_job *job, const struct attention_bf16_scratch *m, const uint16_t *keys,
                        const uint16_t *transposed, size_t ld, size_t count, size_t queries, bool diagonal,
                        bool first) {
    const size_t key_count = round_up(count, COLUMNS), query_count = round_up(queries, COLUMNS);
    score_tile(job, keys, m->query_words, key_count, query_count, diagonal, m->s);
    job->bf16->softmax(m->s, key_count, query_count, diagonal, job->scale, m->maximum, m->sum, m->correction,
                       m->p_pairs);
    for (size_t c = 0; !first && c < job->depth; c++)
        job->kernels->multiply(m->correction, TILE, m->result_t + c * TILE);
    mix_tile(job, m, transposed, ld, key_count, query_count, diagonal, !first);
}

void attention_bf16_end(const struct attention_job *job, const struct attention_bf16_scratch *m, size_t queries,
                        float *out) {
    for (size_t i = 0; i < TILE; i++)
        m->correction[i] = i < queries ? 1.0f / m->sum[i] : 0;
    for (size_t c = 0; c < job->depth; c++)
        job->kernels->multiply(m->correction, round_up(queries, COLUMNS), m->result_t + c * TILE);
    write_result(job, m, queries, out);
}

void attention_bf16_forward_head(void *arg, size_t task, int lane) {
    const struct attention_job *job = arg;
    const struct attention_bf16_kernels *k = job->bf16;
    const struct attention_run run = attention_run(job, task / job->s.heads);
    size_t length = run.length, size = job->s.head_size, depth = job->depth, padded = round_up(length, TILE);
    size_t token0 = run.token0, head = task % job->s.heads;
    size_t kv_offset = token0 * job->k_ld + head / (job->s.heads / job->s.kv_heads) * size;
    struct arena a = lane_arena(job->ws, lane);
    const struct attention_bf16_scratch m = attention_bf16_layout(length, depth, &a);
    k->pack_rows(job->k + kv_offset, job->k_ld, length, size, padded, depth, m.keys);
    attention_bf16_transpose(job, job->v + kv_offset, job->k_ld, length, padded, m.pairs, m.transposed);
    k->begin();
    for (size_t q0 = 0; q0 < length; q0 += TILE) {
        size_t queries = size_min(TILE, length - q0), offset = (token0 + q0) * job->q_ld + head * size;
        attention_bf16_begin(job, &m, job->q + offset, queries);
        for (size_t k0 = 0; k0 <= q0; k0 += TILE)
            attention_bf16_add(job, &m, m.keys + k0 * depth, m.transposed + k0, padded, size_min(TILE, length - k0),
                               queries, k0 == q0, k0 == 0);
        attention_bf16_end(job, &m, queries, job->out + offset);
        for (size_t i = 0; job->log_sum && i < queries; i++)
            job->log_sum[(token0 + q0 + i) * job->s.heads + head] = m.maximum[i] * job->scale + logf(m.sum[i]);
    }
    k->end();
}

static void backward_queries(const struct attention_job *job, const struct attention_bf16_scratch *m,
                             struct attention_run run, size_t head, size_t q0, size_t padded) {
    const struct attention_bf16_kernels *k = job->bf16;
    size_t size = job->s.head_size, depth = job->depth, queries = size_min(TILE, run.length - q0), token0 = run.token0;
    size_t offset = (token0 + q0) * job->q_ld + head * size, query_count = round_up(queries, COLUMNS);
    const float *q = job->q + offset, *dout = job->dout + offset;
    pack_words(job, q, job->q_ld, queries, m->rows, m->query_words);
    pack_words(job, dout, job->q_ld, queries, m->rows, m->dout_words);
    k->pack_pairs(q, job->q_ld, queries, size, TILE, depth, m->pairs);
    k->pack_pairs(dout, job->q_ld, queries, size, TILE, depth, m->dout_pairs);
    float *log_sum = m->maximum, *delta = m->sum;
    for (size_t i = 0; i < TILE; i++) {
        log_sum[i] = i < queries ? job->log_sum_in[(token0 + q0 + i) * job->s.heads + head] : 0;
        /* of rounded douts, as dp is: the gradients of a row of scores then sum to 0 */
        delta[i] = i < queries ? k->dot(m->rows + i * depth, job->o + offset + i * job->q_ld, size) : 0;
    }
    for (size_t k0 = 0; k0 <= q0; k0 += TILE) {
        size_t keys = round_up(size_min(TILE, run.length - k0), COLUMNS), at = k0 * depth;
        bool diagonal = k0 == q0;
        score_tile(job, m->keys + at, m->query_words, keys, query_count, diagonal, m->s);
        score_tile(job, m->values + at, m->dout_words, keys, query_count, diagonal, m->ds);
        k->softmax_gradient(m->s, m->ds, keys, query_count, diagonal, job->scale, log_sum, delta, m->p_rows, m->ds_rows,
                            m->p_pairs);
        scatter_tile(job, m->p_rows, m->dout_pairs, keys, query_count, diagonal, m->dvalues + at);
        scatter_tile(job, m->ds_rows, m->pairs, keys, query_count, diagonal, m->dkeys + at);
        mix_tile(job, m, m->transposed + k0, padded, keys, query_count, diagonal, k0 > 0);
    }
    write_result(job, m, queries, job->dq + offset);
}

void attention_bf16_backward_kv_head(void *arg, size_t task, int lane) {
    const struct attention_job *job = arg;
    const struct attention_bf16_kernels *k = job->bf16;
    const struct attention_run run = attention_run(job, task / job->s.kv_heads);
    size_t length = run.length, size = job->s.head_size, depth = job->depth, padded = round_up(length, TILE);
    size_t kv_head = task % job->s.kv_heads, offset = run.token0 * job->k_ld + kv_head * size,
           group = job->s.heads / job->s.kv_heads;
    struct arena a = lane_arena(job->ws, lane);
    const struct attention_bf16_scratch m = attention_bf16_layout(length, depth, &a);
    k->pack_rows(job->k + offset, job->k_ld, length, size, padded, depth, m.keys);
    k->pack_rows(job->v + offset, job->k_ld, length, size, padded, depth, m.values);
    attention_bf16_transpose(job, job->k + offset, job->k_ld, length, padded, m.pairs, m.transposed);
    memset(m.dkeys, 0, padded * depth * sizeof *m.dkeys);
    memset(m.dvalues, 0, padded * depth * sizeof *m.dvalues);
    k->begin();
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (size_t q0 = 0; q0 < length; q0 += TILE)
            backward_queries(job, &m, run, head, q0, padded);
    k->end();
    for (size_t t = 0; t < length; t++) {
        memcpy(job->dk + offset + t * job->k_ld, m.dkeys + t * depth, size * sizeof(float));
        memcpy(job->dv + offset + t * job->k_ld, m.dvalues + t * depth, size * sizeof(float));
    }
}
