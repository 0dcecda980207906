#include "ops/mlp.h"

#include "core/memory.h"
#include "core/parallel.h"
#include "kernels/kernels.h"

enum { CHUNK = 16384 }; /* elements of one work task: some microseconds */

struct job {
    const struct vector_kernels *kernels;
    bool squared;
    const float *gate, *up, *dh; /* [count]; gate NULL: squared ReLU */
    size_t count;                /* tokens * features */
    float *dgate, *dup;          /* [count] */
};

static void backward_chunk(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    (void)lane;
    const size_t i = task * CHUNK, n = size_min(CHUNK, job->count - i);
    hidden_row_backward(job->kernels, job->squared, job->gate ? job->gate + i : NULL, job->up + i, job->dh + i, n,
                        job->gate ? job->dgate + i : NULL, job->dup + i);
}

void hidden_backward(const dqt_context *ctx, bool squared, const float *gate, const float *up, const float *dh,
                     size_t count, float *dgate, float *dup) {
    DQT_ASSERT(!gate || dgate);
    struct job job = {&ctx->kernels->vector, squared, gate, up, dh, count, dgate, dup};
    parallel_run(ctx, ceil_div(count, CHUNK), 4 * WORK_ELEMENT * (double)count, backward_chunk, &job);
}
