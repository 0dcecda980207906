#include "ops/mlp.h"

#include "core/parallel.h"
#include "kernels/kernels.h"

enum { CHUNK = 16384 }; /* elements of one work item: some microseconds */

struct job {
    const struct vector_kernels *kernels;
    const float *gate, *up, *dh;
    size_t count;
    float *dgate, *dup;
};

static size_t chunk_count(const struct job *job, size_t first) {
    return job->count - first < CHUNK ? job->count - first : CHUNK;
}

static void run(const dqt_context *ctx, item_fn fn, struct job *job) {
    parallel_run(ctx, (job->count + CHUNK - 1) / CHUNK, fn, job);
}

static void swiglu_gradient_chunk(void *arg, size_t item, int lane) {
    const struct job *job = arg;
    (void)lane;
    size_t i = item * CHUNK;
    job->kernels->swiglu_gradient(job->gate + i, job->up + i, job->dh + i, chunk_count(job, i), job->dgate + i,
                                  job->dup + i);
}

void swiglu_backward(const dqt_context *ctx, const float *gate, const float *up, const float *dh, size_t count,
                     float *dgate, float *dup) {
    struct job job = {
        .kernels = &ctx->kernels->vector, .gate = gate, .up = up, .dh = dh, .count = count, .dgate = dgate, .dup = dup};
    run(ctx, swiglu_gradient_chunk, &job);
}

static void squared_relu_gradient_chunk(void *arg, size_t item, int lane) {
    const struct job *job = arg;
    (void)lane;
    size_t i = item * CHUNK;
    job->kernels->squared_relu_gradient(job->up + i, job->dh + i, chunk_count(job, i), job->dup + i);
}

void squared_relu_backward(const dqt_context *ctx, const float *up, const float *dh, size_t count, float *dup) {
    struct job job = {.kernels = &ctx->kernels->vector, .up = up, .dh = dh, .count = count, .dup = dup};
    run(ctx, squared_relu_gradient_chunk, &job);
}
