#include "ops/bias.h"

#include <string.h>

#include "core/assert.h"
#include "core/parallel.h"
#include "core/size.h"
#include "kernels/kernels.h"

/* Gradients are summed over the tokens of a chunk, then over chunks in order: the same shape for any thread count. */
enum { CHUNK_TOKENS = 32, CHUNK_COLS = 256 };

struct job {
    const struct vector_kernels *kernels;
    const float *in; /* [cols], or [tokens][cols] */
    size_t tokens, cols;
    float *out; /* the other */
};

static void add_chunk(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    (void)lane;
    const size_t end = size_min((task + 1) * CHUNK_TOKENS, job->tokens);
    for (size_t t = task * CHUNK_TOKENS; t < end; t++)
        job->kernels->add(job->in, job->cols, job->out + t * job->cols);
}

void bias_add(const dqt_context *ctx, const float *bias, size_t tokens, size_t cols, float *y) {
    DQT_ASSERT(bias && y && cols > 0);
    struct job job = {&ctx->kernels->vector, bias, tokens, cols, y};
    parallel_run(ctx, ceil_div(tokens, CHUNK_TOKENS), WORK_ELEMENT * (double)tokens * (double)cols, add_chunk, &job);
}

static void sum_columns(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    (void)lane;
    const size_t first = task * CHUNK_COLS, count = size_min(CHUNK_COLS, job->cols - first);
    float *sum = job->out + first, part[CHUNK_COLS];
    memset(sum, 0, count * sizeof *sum);
    for (size_t t0 = 0; t0 < job->tokens; t0 += CHUNK_TOKENS) {
        const size_t end = size_min(t0 + CHUNK_TOKENS, job->tokens);
        memset(part, 0, sizeof part);
        for (size_t t = t0; t < end; t++)
            job->kernels->add(job->in + t * job->cols + first, count, part);
        job->kernels->add(part, count, sum);
    }
}

void bias_gradient(const dqt_context *ctx, const float *dy, size_t tokens, size_t cols, float *dbias) {
    DQT_ASSERT(dy && dbias && cols > 0);
    struct job job = {&ctx->kernels->vector, dy, tokens, cols, dbias};
    parallel_run(ctx, ceil_div(cols, CHUNK_COLS), WORK_ELEMENT * (double)tokens * (double)cols, sum_columns, &job);
}
