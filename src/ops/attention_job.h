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

void attention_bf16_scratch(const struct attention_shape *s, struct scratch_need *need);

/* Work tasks of parallel_run; arg is the job. */
void attention_bf16_forward_head(void *arg, size_t task, int lane);
void attention_bf16_backward_kv_head(void *arg, size_t task, int lane);

#endif
