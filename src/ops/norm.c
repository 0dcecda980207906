#include "ops/norm.h"

#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "kernels/kernels.h"

/* dgain is summed over the tokens of a chunk, then over chunks in order: the same shape for any thread count. */
enum { CHUNK_TOKENS = 32, CHUNK_FEATURES = 256 };

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t chunks_of(size_t n, size_t chunk) {
    return (n + chunk - 1) / chunk;
}

void norm_scratch(const dqt_context *ctx, size_t tokens, size_t features, struct scratch_need *need) {
    (void)ctx;
    size_t bytes;
    if (size_mul(chunks_of(tokens, CHUNK_TOKENS), features, &bytes)) (void)size_mul(bytes, sizeof(float), &bytes);
    scratch_max(need, bytes, 0, 0);
}

struct forward_job {
    const struct vector_kernels *kernels;
    const float *x, *gain;
    float eps;
    size_t tokens, features;
    float *y, *inverse_rms;
};

static void forward_chunk(void *arg, size_t item, int lane) {
    const struct forward_job *job = arg;
    (void)lane;
    size_t n = job->features, end = min_size((item + 1) * CHUNK_TOKENS, job->tokens);
    for (size_t t = item * CHUNK_TOKENS; t < end; t++) {
        float mean = job->kernels->sum_squares(job->x + t * n, n) / (float)n;
        float r = 1.0f / sqrtf(mean + job->eps);
        job->kernels->norm_row(job->x + t * n, job->gain, r, n, job->y + t * n);
        if (job->inverse_rms) job->inverse_rms[t] = r;
    }
}

void norm_forward(const dqt_context *ctx, const float *x, const float *gain, float eps, size_t tokens, size_t features,
                  float *y, float *inverse_rms) {
    struct forward_job job = {&ctx->kernels->vector, x, gain, eps, tokens, features, y, inverse_rms};
    parallel_run(ctx, chunks_of(tokens, CHUNK_TOKENS), forward_chunk, &job);
}

struct backward_job {
    const struct vector_kernels *kernels;
    const float *dy, *x, *gain, *inverse_rms;
    size_t tokens, features;
    bool accumulate;
    float *dx, *dgain;
    float *partial; /* [chunks][features], NULL where dgain is not wanted */
};

static void backward_chunk(void *arg, size_t item, int lane) {
    const struct backward_job *job = arg;
    (void)lane;
    size_t n = job->features, end = min_size((item + 1) * CHUNK_TOKENS, job->tokens);
    float *partial = job->partial ? job->partial + item * n : NULL;
    if (partial) memset(partial, 0, n * sizeof *partial);
    for (size_t t = item * CHUNK_TOKENS; t < end; t++) {
        const float *dy = job->dy + t * n, *x = job->x + t * n;
        float r = job->inverse_rms[t];
        float c = r * r * (job->kernels->dot3(dy, job->gain, x, n) / (float)n);
        job->kernels->norm_gradient_row(dy, x, job->gain, r, c, n, job->accumulate, job->dx + t * n, partial);
    }
}

static void sum_chunks(void *arg, size_t item, int lane) {
    const struct backward_job *job = arg;
    (void)lane;
    size_t first = item * CHUNK_FEATURES, count = min_size(CHUNK_FEATURES, job->features - first);
    size_t chunks = chunks_of(job->tokens, CHUNK_TOKENS);
    memset(job->dgain + first, 0, count * sizeof *job->dgain);
    for (size_t i = 0; i < chunks; i++)
        job->kernels->add(job->partial + i * job->features + first, count, job->dgain + first);
}

void norm_backward(const dqt_context *ctx, const struct workspace *ws, const float *dy, const float *x,
                   const float *gain, const float *inverse_rms, size_t tokens, size_t features, bool accumulate,
                   float *dx, float *dgain) {
    struct backward_job job = {&ctx->kernels->vector,
                               dy,
                               x,
                               gain,
                               inverse_rms,
                               tokens,
                               features,
                               accumulate,
                               dx,
                               dgain,
                               dgain ? workspace_shared(ws) : NULL};
    parallel_run(ctx, chunks_of(tokens, CHUNK_TOKENS), backward_chunk, &job);
    if (dgain) parallel_run(ctx, chunks_of(features, CHUNK_FEATURES), sum_chunks, &job);
}
