/* What the tiles of one attention call share; the f32 and bf16 ways of doing them. */
#ifndef DQT_OPS_ATTENTION_JOB_H
#define DQT_OPS_ATTENTION_JOB_H

#include "kernels/vector_kernels.h"
#include "ops/attention.h"

struct attention_job {
    const struct vector_kernels *kernels;
    const struct attention_bf16_kernels *bf16;
    const struct workspace *ws;
    struct attention_shape s;
    size_t depth;      /* head size, rounded up to ATTENTION_COLUMNS */
    size_t q_ld, k_ld; /* floats from one token to the next */
    float scale;       /* of scores */
    const float *q, *k, *v, *o, *log_sum_in, *dout;
    float *out, *log_sum, *dq, *dk, *dv;
    size_t first; /* cached: position of the first query */
};

void attention_bf16_scratch(const struct attention_shape *s, struct scratch_need *need);

/* Work tasks of parallel_run; arg is the job. */
void attention_bf16_forward_head(void *arg, size_t task, int lane);
void attention_bf16_backward_kv_head(void *arg, size_t task, int lane);

#endif
