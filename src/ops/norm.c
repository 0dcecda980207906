#include "ops/norm.h"

#include <string.h>

#include "core/parallel.h"
#include "kernels/kernels.h"
#include "ops/mlp.h"

/* dgain is summed over the tokens of a chunk, then over chunks in order: the same shape for any thread count. */
enum { CHUNK_TOKENS = 32, CHUNK_FEATURES = 256 };

void norm_scratch(size_t tokens, size_t features, struct scratch_need *need) {
    size_t shared, lane;
    if (size_mul(ceil_div(tokens, CHUNK_TOKENS), features, &shared)) (void)size_mul(shared, sizeof(float), &shared);
    size_mul(features, 2 * sizeof(float), &lane);
    scratch_max(need, shared, lane, 0);
}

struct job {
    const struct vector_kernels *kernels;
    const struct workspace *ws;
    const struct norm_gradient *g;
    size_t tokens, features;
    float *partial; /* [chunks][features], NULL where dgain is not wanted */
};

static void norm_row_gradient(const struct job *job, size_t t, const float *x, bool accumulate, float *dx,
                              float *partial) {
    const struct norm_gradient *g = job->g;
    const size_t n = job->features;
    const float *dy = g->dy + t * n, r = g->inverse_rms[t];
    const float c = r * r * (job->kernels->dot3(dy, g->gain, x, n) / (float)n);
    job->kernels->norm_gradient_row(dy, x, g->gain, r, c, n, accumulate, dx, partial);
}

/* scratch[2][features] */
static void hidden_row_gradient(const struct job *job, size_t t, float *scratch, float *partial) {
    const struct norm_gradient *g = job->g;
    const size_t n = job->features;
    const float *gate = g->gate ? g->gate + t * n : NULL, *up = g->up + t * n;
    float *h = scratch, *dh = scratch + n;
    hidden_row(job->kernels, g->squared, gate, up, n, h);
    norm_row_gradient(job, t, h, false, dh, partial);
    hidden_row_backward(job->kernels, g->squared, gate, up, dh, n, gate ? g->dgate + t * n : NULL, g->dup + t * n);
}

static void backward_chunk(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    const struct norm_gradient *g = job->g;
    const size_t n = job->features, end = size_min((task + 1) * CHUNK_TOKENS, job->tokens);
    float *partial = job->partial ? job->partial + task * n : NULL;
    if (partial) memset(partial, 0, n * sizeof *partial);
    for (size_t t = task * CHUNK_TOKENS; t < end; t++) {
        if (g->x && g->dx) {
            norm_row_gradient(job, t, g->x + t * n, g->accumulate, g->dx + t * n, partial);
        } else if (g->x) { /* dx is not wanted: its rows go over each other in scratch */
            norm_row_gradient(job, t, g->x + t * n, false, workspace_lane(job->ws, lane), partial);
        } else {
            hidden_row_gradient(job, t, workspace_lane(job->ws, lane), partial);
        }
    }
}

static void sum_chunks(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    (void)lane;
    size_t first = task * CHUNK_FEATURES, count = size_min(CHUNK_FEATURES, job->features - first);
    size_t chunks = ceil_div(job->tokens, CHUNK_TOKENS);
    float *dgain = job->g->dgain + first;
    memset(dgain, 0, count * sizeof *dgain);
    for (size_t i = 0; i < chunks; i++)
        job->kernels->add(job->partial + i * job->features + first, count, dgain);
}

void norm_backward(const dqt_context *ctx, const struct workspace *ws, const struct norm_gradient *g, size_t tokens,
                   size_t features) {
    DQT_ASSERT(features > 0 && g->gain && g->inverse_rms);
    DQT_ASSERT(g->x || (g->up && g->dup && (!g->gate || g->dgate)));
    DQT_ASSERT(!g->accumulate || g->dx != g->dy);
    DQT_ASSERT(ws || (g->x && g->dx && !g->dgain));
    DQT_ASSERT(!g->dgain || ceil_div(tokens, CHUNK_TOKENS) * features * sizeof(float) <= ws->need.shared);
    struct job job = {&ctx->kernels->vector, ws, g, tokens, features, g->dgain ? workspace_shared(ws) : NULL};
    const double work = WORK_ELEMENT * (double)tokens * (double)features;
    parallel_run(ctx, ceil_div(tokens, CHUNK_TOKENS), 4 * work, backward_chunk, &job);
    if (g->dgain) parallel_run(ctx, ceil_div(features, CHUNK_FEATURES), work / CHUNK_TOKENS, sum_chunks, &job);
}
