#include "ops/attention.h"

#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "kernels/kernels.h"
#include "kernels/prefetch.h"
#include "ops/attention_job.h"

/* Tiles of TILE queries by TILE keys; the tile of scores is transposed, s[key][query]. Keys come in groups of ROWS and
 * head columns are padded to COLUMNS. On the diagonal, products leave out what lies wholly above it.
 *
 * Lane scratch, in floats (P = length rounded up to TILE, D = head size rounded up to COLUMNS):
 *   forward   keys [P][D], values [P][D], query^T [D][TILE], s [TILE][TILE], out [TILE][D], 3 rows [TILE]
 *   backward  keys, values, dkeys, dvalues [P][D], query and dout [TILE][D] and transposed [D][TILE], dquery [TILE][D],
 *             s, ds [TILE][TILE], 2 rows [TILE] */
enum { TILE = ATTENTION_TILE, ROWS = ATTENTION_ROWS, COLUMNS = ATTENTION_COLUMNS };
/* Rows of a head are read so far ahead: each is on a line, and mostly a page, of its own. */
enum { FETCH_ROWS = 8 };
_Static_assert(TILE % COLUMNS == 0 && COLUMNS % ROWS == 0, "tiles are whole groups of columns, these of rows");

struct attention_job attention_job_make(const dqt_context *ctx, const struct workspace *ws,
                                        const struct attention_shape *s, const float *q, const float *k,
                                        const float *v) {
    DQT_ASSERT(s->kv_heads > 0 && s->heads % s->kv_heads == 0);
    DQT_ASSERT(s->head_size > 0 && s->head_size % 2 == 0);
    struct attention_job job = {.kernels = &ctx->kernels->vector,
                                .bf16 = &ctx->kernels->attention_bf16,
                                .ws = ws,
                                .s = *s,
                                .depth = round_up(s->head_size, COLUMNS),
                                .q_ld = s->heads * s->head_size,
                                .k_ld = s->kv_heads * s->head_size,
                                .scale = 1.0f / sqrtf((float)s->head_size),
                                .q = q,
                                .k = k,
                                .v = v};
    return job;
}

void attention_scratch(const dqt_context *ctx, const struct attention_shape *s, struct scratch_need *need) {
    struct arena a = {0};
    size_t depth = round_up(s->head_size, COLUMNS), sequence = SIZE_MAX;
    if (s->length <= SIZE_MAX - TILE) (void)size_mul(round_up(s->length, TILE), depth, &sequence);
    for (int i = 0; i < 4; i++)
        arena_take(&a, sequence, sizeof(float));
    for (int i = 0; i < 5; i++)
        arena_take(&a, TILE * depth, sizeof(float));
    for (int i = 0; i < 2; i++)
        arena_take(&a, TILE * TILE, sizeof(float));
    for (int i = 0; i < 3; i++)
        arena_take(&a, TILE, sizeof(float));
    scratch_max(need, 0, a.used, 0);
    if (ctx->kernels->attention_bf16.product) attention_bf16_scratch(s, need);
}

/* out[padded][depth] = x[rows][head_size] (leading dimension ld) * factor, zeros elsewhere. */
static void copy_padded(const struct attention_job *job, const float *x, size_t ld, size_t rows, size_t padded,
                        float factor, float *out) {
    size_t size = job->s.head_size, depth = job->depth;
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < size; i += 16)
            prefetch_ahead(x + r * ld + i, FETCH_ROWS * ld * sizeof *x);
        job->kernels->scale(x + r * ld, size, factor, out + r * depth);
        for (size_t i = size; i < depth; i++)
            out[r * depth + i] = 0;
    }
    memset(out + rows * depth, 0, (padded - rows) * depth * sizeof *out);
}

/* s[key][query] of one tile = keys . queries, above the diagonal only as far as the column step forces. */
static void score_tile(const struct attention_job *job, const float *keys, const float *queries_t, size_t key_count,
                       size_t query_count, bool diagonal, float *s) {
    size_t cols = round_up(query_count, COLUMNS), rows = round_up(key_count, ROWS);
    if (!diagonal) {
        job->kernels->attention_product(rows, cols, job->s.head_size, keys, job->depth, 1, queries_t, TILE, s, TILE,
                                        false);
        return;
    }
    for (size_t j = 0; j < rows; j += ROWS) {
        size_t col = j / COLUMNS * COLUMNS;
        job->kernels->attention_product(ROWS, cols - col, job->s.head_size, keys + j * job->depth, job->depth, 1,
                                        queries_t + col, TILE, s + j * TILE + col, TILE, false);
    }
}

/* out[query][depth] (+)= sum over keys p[key][query] * values[key]. */
static void mix_tile(const struct attention_job *job, const float *p, const float *values, size_t key_count,
                     size_t query_count, bool diagonal, bool accumulate, float *out) {
    size_t rows = round_up(query_count, ROWS), keys = round_up(key_count, ROWS), step = diagonal ? ROWS : rows;
    for (size_t i = 0; i < rows; i += step)
        job->kernels->attention_product(step, job->depth, diagonal ? size_min(i + ROWS, keys) : keys, p + i, 1, TILE,
                                        values, job->depth, out + i * job->depth, job->depth, accumulate);
}

/* out[key][depth] += sum over queries p[key][query] * x[query]. */
static void scatter_tile(const struct attention_job *job, const float *p, const float *x, size_t key_count,
                         size_t query_count, bool diagonal, float *out) {
    size_t rows = round_up(key_count, ROWS), queries = round_up(query_count, ROWS), step = diagonal ? ROWS : rows;
    for (size_t j = 0; j < rows; j += step) {
        size_t from = diagonal ? j : 0;
        job->kernels->attention_product(step, job->depth, queries - from, p + j * TILE + from, TILE, 1,
                                        x + from * job->depth, job->depth, out + j * job->depth, job->depth, true);
    }
}

struct query_tile attention_tile_place(const struct attention_job *job, struct arena *a) {
    struct query_tile t;
    t.queries_t = arena_take(a, job->depth * TILE, sizeof(float));
    t.s = arena_take(a, TILE * TILE, sizeof(float));
    t.mixed = arena_take(a, TILE * job->depth, sizeof(float));
    t.maximum = arena_take(a, TILE, sizeof(float));
    t.sum = arena_take(a, TILE, sizeof(float));
    t.correction = arena_take(a, TILE, sizeof(float));
    t.count = 0;
    t.empty = true;
    return t;
}

void attention_tile_begin(const struct attention_job *job, struct query_tile *t, const float *q, size_t count) {
    job->kernels->attention_transpose(q, job->q_ld, count, job->s.head_size, job->scale, t->queries_t, TILE);
    for (size_t i = 0; i < TILE; i++) {
        t->maximum[i] = -INFINITY;
        t->sum[i] = 0;
    }
    t->count = count;
    t->empty = true;
}

void attention_tile_add(const struct attention_job *job, struct query_tile *t, const float *keys, const float *values,
                        size_t count, bool diagonal) {
    const size_t depth = job->depth;
    score_tile(job, keys, t->queries_t, count, t->count, diagonal, t->s);
    job->kernels->attention_softmax(t->s, count, t->count, diagonal, t->maximum, t->sum, t->correction);
    for (size_t i = 0; !t->empty && i < t->count; i++)
        job->kernels->scale(t->mixed + i * depth, depth, t->correction[i], t->mixed + i * depth);
    mix_tile(job, t->s, values, count, t->count, diagonal, !t->empty, t->mixed);
    t->empty = false;
}

void attention_tile_end(const struct attention_job *job, const struct query_tile *t, float *out) {
    for (size_t i = 0; i < t->count; i++)
        job->kernels->scale(t->mixed + i * job->depth, job->s.head_size, 1.0f / t->sum[i], out + i * job->q_ld);
}

static void forward_head(void *arg, size_t task, int lane) {
    const struct attention_job *job = arg;
    const struct attention_run run = attention_run(job, task / job->s.heads);
    size_t length = run.length, size = job->s.head_size, depth = job->depth, padded = round_up(length, TILE);
    size_t head = task % job->s.heads, kv_head = head / (job->s.heads / job->s.kv_heads), token0 = run.token0;
    struct arena a = lane_arena(job->ws, lane);
    float *keys = arena_take(&a, padded * depth, sizeof(float)),
          *values = arena_take(&a, padded * depth, sizeof(float));
    struct query_tile t = attention_tile_place(job, &a);

    copy_padded(job, job->k + token0 * job->k_ld + kv_head * size, job->k_ld, length, padded, 1, keys);
    copy_padded(job, job->v + token0 * job->k_ld + kv_head * size, job->k_ld, length, padded, 1, values);
    for (size_t q0 = 0; q0 < length; q0 += TILE) {
        size_t offset = (token0 + q0) * job->q_ld + head * size;
        attention_tile_begin(job, &t, job->q + offset, size_min(TILE, length - q0));
        for (size_t k0 = 0; k0 <= q0; k0 += TILE)
            attention_tile_add(job, &t, keys + k0 * depth, values + k0 * depth, size_min(TILE, length - k0), k0 == q0);
        attention_tile_end(job, &t, job->out + offset);
        for (size_t i = 0; job->log_sum && i < t.count; i++)
            job->log_sum[(token0 + q0 + i) * job->s.heads + head] = t.maximum[i] + logf(t.sum[i]);
    }
}

static size_t num_runs(const struct attention_job *job) {
    return job->runs.start ? job->runs.count : job->s.batch;
}

/* Of so many products of queries with the keys before them, and a softmax. */
static double causal_work(const struct attention_job *job, double products) {
    double pairs = 0;
    for (size_t r = 0; r < num_runs(job); r++) {
        const double length = (double)attention_run(job, r).length;
        pairs += 0.5 * length * length * (double)job->s.heads;
    }
    return pairs * (products * (double)job->s.head_size * WORK_PRODUCT + WORK_ELEMENT);
}

void attention_forward(const dqt_context *ctx, const struct workspace *ws, const struct attention_shape *s,
                       struct attention_runs runs, const float *q, const float *k, const float *v, int precision,
                       float *out, float *log_sum) {
    struct attention_job job = attention_job_make(ctx, ws, s, q, k, v);
    job.runs = runs;
    job.out = out;
    job.log_sum = log_sum;
    bool bf16 = precision == DQT_PRECISION_BF16 && job.bf16->product; /* without such products f32 serves both */
    parallel_run(ctx, num_runs(&job) * s->heads, causal_work(&job, 2.0),
                 bf16 ? attention_bf16_forward_head : forward_head, &job);
}

static void copy_out(const struct attention_job *job, const float *x, size_t rows, float factor, float *out,
                     size_t ld) {
    for (size_t r = 0; r < rows; r++)
        job->kernels->scale(x + r * job->depth, job->s.head_size, factor, out + r * ld);
}

/* What backward keeps in a lane's scratch, in the shapes above. */
struct backward_scratch {
    float *keys, *values, *dkeys, *dvalues;
    float *queries, *queries_t, *douts, *douts_t, *dqueries;
    float *s, *ds, *log_sum, *delta;
};

static struct backward_scratch backward_place(const struct attention_job *job, struct arena *a) {
    size_t sequence = round_up(job->s.length, TILE) * job->depth, tile = TILE * job->depth;
    struct backward_scratch m;
    float **const parts[13] = {&m.keys,    &m.values,   &m.dkeys, &m.dvalues, &m.queries, &m.queries_t, &m.douts,
                               &m.douts_t, &m.dqueries, &m.s,     &m.ds,      &m.log_sum, &m.delta};
    for (int i = 0; i < 13; i++)
        *parts[i] = arena_take(a, i < 4 ? sequence : i < 9 ? tile : i < 11 ? TILE * TILE : TILE, sizeof(float));
    return m;
}

/* One tile of queries against all tiles of keys up to it. */
static void backward_queries(const struct attention_job *job, const struct backward_scratch *m,
                             struct attention_run run, size_t head, size_t q0) {
    size_t size = job->s.head_size, depth = job->depth, count = size_min(TILE, run.length - q0), token0 = run.token0;
    size_t offset = (token0 + q0) * job->q_ld + head * size;
    copy_padded(job, job->q + offset, job->q_ld, count, TILE, job->scale, m->queries);
    copy_padded(job, job->dout + offset, job->q_ld, count, TILE, 1, m->douts);
    job->kernels->attention_transpose(job->q + offset, job->q_ld, count, size, job->scale, m->queries_t, TILE);
    job->kernels->attention_transpose(job->dout + offset, job->q_ld, count, size, 1, m->douts_t, TILE);
    for (size_t i = 0; i < TILE; i++) {
        m->log_sum[i] = i < count ? job->log_sum_in[(token0 + q0 + i) * job->s.heads + head] : 0;
        m->delta[i] = i < count ? job->kernels->dot(m->douts + i * depth, job->o + offset + i * job->q_ld, size) : 0;
    }
    for (size_t k0 = 0; k0 <= q0; k0 += TILE) {
        size_t keys = size_min(TILE, run.length - k0), at = k0 * depth;
        bool diagonal = k0 == q0;
        score_tile(job, m->keys + at, m->queries_t, keys, count, diagonal, m->s);
        score_tile(job, m->values + at, m->douts_t, keys, count, diagonal, m->ds);
        job->kernels->attention_softmax_gradient(m->s, m->ds, keys, count, diagonal, m->log_sum, m->delta);
        scatter_tile(job, m->s, m->douts, keys, count, diagonal, m->dvalues + at);
        scatter_tile(job, m->ds, m->queries, keys, count, diagonal, m->dkeys + at);
        mix_tile(job, m->ds, m->keys + at, keys, count, diagonal, k0 > 0, m->dqueries);
    }
    copy_out(job, m->dqueries, count, job->scale, job->dq + offset, job->q_ld);
}

/* One kv head: its query heads in order, for each the tiles of queries in order, for each the tiles of keys in order.
 */
static void backward_kv_head(void *arg, size_t task, int lane) {
    const struct attention_job *job = arg;
    const struct attention_run run = attention_run(job, task / job->s.kv_heads);
    size_t length = run.length, padded = round_up(length, TILE), group = job->s.heads / job->s.kv_heads;
    size_t kv_head = task % job->s.kv_heads, offset = run.token0 * job->k_ld + kv_head * job->s.head_size;
    struct arena a = lane_arena(job->ws, lane);
    struct backward_scratch m = backward_place(job, &a);
    copy_padded(job, job->k + offset, job->k_ld, length, padded, 1, m.keys);
    copy_padded(job, job->v + offset, job->k_ld, length, padded, 1, m.values);
    memset(m.dkeys, 0, padded * job->depth * sizeof *m.dkeys);
    memset(m.dvalues, 0, padded * job->depth * sizeof *m.dvalues);
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (size_t q0 = 0; q0 < length; q0 += TILE)
            backward_queries(job, &m, run, head, q0);
    copy_out(job, m.dkeys, length, 1, job->dk + offset, job->k_ld);
    copy_out(job, m.dvalues, length, 1, job->dv + offset, job->k_ld);
}

void attention_backward(const dqt_context *ctx, const struct workspace *ws, const struct attention_shape *s,
                        struct attention_runs runs, const float *q, const float *k, const float *v, const float *out,
                        const float *log_sum, const float *dout, int precision, float *dq, float *dk, float *dv) {
    struct attention_job job = attention_job_make(ctx, ws, s, q, k, v);
    job.runs = runs;
    job.o = out;
    job.log_sum_in = log_sum;
    job.dout = dout;
    job.dq = dq;
    job.dk = dk;
    job.dv = dv;
    bool bf16 = precision == DQT_PRECISION_BF16 && job.bf16->product;
    parallel_run(ctx, num_runs(&job) * s->kv_heads, causal_work(&job, 5.0),
                 bf16 ? attention_bf16_backward_kv_head : backward_kv_head, &job);
}
