/* What the tiles of one attention call share; the f32 and bf16 ways of doing them. */
#ifndef DQT_OPS_ATTENTION_JOB_H
#define DQT_OPS_ATTENTION_JOB_H

#include "core/assert.h"
#include "kernels/vector_kernels.h"
#include "ops/attention.h"

struct attention_job {
    const struct vector_kernels *kernels;
    const struct attention_bf16_kernels *bf16;
    const struct workspace *ws;
    struct attention_shape s;
    struct attention_runs runs;
    size_t depth;      /* head size, rounded up to ATTENTION_COLUMNS */
    size_t q_ld, k_ld; /* floats from one token to the next */
    float scale;       /* of scores */
    /* q, o, dout, out, dq [tokens][q_ld]; k, v, dk, dv [tokens][k_ld]; log sums [tokens][heads] */
    const float *q, *k, *v, *o, *log_sum_in, *dout;
    float *out, *log_sum, *dq, *dk, *dv;
};

/* What a task attends over: a sequence, or a document in it. */
struct attention_run {
    size_t token0, length;
};
static inline struct attention_run attention_run(const struct attention_job *job, size_t run) {
    const int32_t *start = job->runs.start;
    if (!start) return (struct attention_run){run * job->s.length, job->s.length};
    DQT_ASSERT(run < job->runs.count && start[run] < start[run + 1]);
    return (struct attention_run){(size_t)start[run], (size_t)(start[run + 1] - start[run])};
}

struct attention_job attention_job_make(const dqt_context *ctx, const struct workspace *ws,
                                        const struct attention_shape *s, const float *q, const float *k,
                                        const float *v);

/* Up to ATTENTION_TILE queries of a head, in f32, and what they have seen: keys and values join tile by tile. */
struct query_tile {
    size_t count;
    bool empty;                        /* nothing has joined */
    float *queries_t;                  /* [depth][TILE]: transposed and scaled */
    float *s;                          /* [TILE][TILE]: scores, transposed */
    float *mixed;                      /* [TILE][depth] */
    float *maximum, *sum, *correction; /* [TILE] */
};
struct query_tile attention_tile_place(const struct attention_job *job, struct arena *a);
/* q[count][q_ld]: a head's columns. */
void attention_tile_begin(const struct attention_job *job, struct query_tile *t, const float *q, size_t count);
/* keys and values [count, rounded up to ATTENTION_ROWS][depth], zeros beyond what there is. diagonal: key i is query
 * i's own, and none sees a later one. */
void attention_tile_add(const struct attention_job *job, struct query_tile *t, const float *keys, const float *values,
                        size_t count, bool diagonal);
/* To out[count][q_ld]. */
void attention_tile_end(const struct attention_job *job, const struct query_tile *t, float *out);

/* What a lane needs for tiles with bf16 operands; P: length rounded up to TILE, D: depth. */
struct attention_bf16_scratch {
    uint16_t *keys, *values;            /* [P][D]; values only backward */
    uint16_t *transposed;               /* [D][P]: values forward, keys backward */
    float *dkeys, *dvalues;             /* [P][D], backward */
    uint32_t *pairs, *dout_pairs;       /* [TILE / 2][D] of queries and douts */
    uint32_t *query_words, *dout_words; /* [D / 2][TILE] */
    uint16_t *rows;                     /* [TILE][D], of queries, then of douts */
    float *s, *ds;                      /* [TILE][TILE] */
    uint16_t *p_rows, *ds_rows;         /* [TILE][TILE] */
    uint32_t *p_pairs;                  /* [TILE / 2][TILE]: p forward, ds backward */
    float *result_t, *result;           /* [D][TILE], [TILE][D]: out forward, dq backward */
    float *maximum, *sum, *correction;  /* [TILE]; log-sum and delta in the first two for backward */
};
struct attention_bf16_scratch attention_bf16_layout(size_t length, size_t depth, struct arena *a);
void attention_bf16_scratch(const struct attention_shape *s, struct scratch_need *need);

/* As query_tile, of bf16 operands, between begin and end of job->bf16; queries, which are at most TILE, are those of
 * all three calls. */
void attention_bf16_begin(const struct attention_job *job, const struct attention_bf16_scratch *m, const float *q,
                          size_t queries);
/* keys[count][depth] and transposed[depth][ld] of values, both with count rounded up to ATTENTION_COLUMNS and zeros
 * beyond. Unless it is the diagonal, count is whole: no key may be padded. */
void attention_bf16_add(const struct attention_job *job, const struct attention_bf16_scratch *m, const uint16_t *keys,
                        const uint16_t *transposed, size_t ld, size_t count, size_t queries, bool diagonal, bool first);
void attention_bf16_end(const struct attention_job *job, const struct attention_bf16_scratch *m, size_t queries,
                        float *out);
/* out[column][token] of x[length][ld], rounded to bf16; padded tokens are 0 as far as the tile goes. pairs: scratch. */
void attention_bf16_transpose(const struct attention_job *job, const float *x, size_t ld, size_t length, size_t padded,
                              uint32_t *pairs, uint16_t *out);

/* Work tasks of parallel_run; arg is the job. */
void attention_bf16_forward_head(void *arg, size_t task, int lane);
void attention_bf16_backward_kv_head(void *arg, size_t task, int lane);

#endif
