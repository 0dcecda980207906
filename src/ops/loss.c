#include "ops/loss.h"

#include <string.h>

#include "core/assert.h"
#include "core/parallel.h"
#include "core/size.h"
#include "kernels/kernels.h"

enum { CHUNK_TOKENS = 8 };

struct job {
    const struct vector_kernels *kernels;
    const float *logits; /* [tokens][ld], of classes [first, first + count) */
    float *gradient;     /* logits, for backward */
    size_t ld, tokens, first, count;
    const int32_t *targets;              /* [tokens]; NULL: forward makes sums of all tokens */
    float *maximum, *sum, *target_logit; /* [tokens] */
    const float *weights, *log_sum;      /* [tokens] */
    float scale;
};

/* exp as the tiles compute it: no other rounding enters. */
static float exp_one(const struct vector_kernels *kernels, float x) {
    return kernels->exp_sum(&x, 1, 0, NULL);
}

static bool holds(const struct job *job, int32_t target) {
    return (size_t)target >= job->first && (size_t)target - job->first < job->count;
}

static void loss_token(const struct job *job, size_t t) {
    const float *row = job->logits + t * job->ld;
    DQT_ASSERT(!job->targets || job->targets[t] >= -1);
    if (job->targets && job->targets[t] < 0) return;
    float old = job->maximum[t], best = job->kernels->maximum(row, job->count);
    if (!(best > old)) best = old;
    job->sum[t] = job->sum[t] * exp_one(job->kernels, old - best) + job->kernels->exp_sum(row, job->count, best, NULL);
    job->maximum[t] = best;
    if (job->targets && holds(job, job->targets[t])) job->target_logit[t] = row[(size_t)job->targets[t] - job->first];
}

static void gradient_token(const struct job *job, size_t t) {
    float *row = job->gradient + t * job->ld;
    int32_t target = job->targets[t];
    DQT_ASSERT(target >= -1);
    if (target < 0) {
        memset(row, 0, job->count * sizeof *row);
        return;
    }
    /* p - 1 before scaling: nothing cancels when p is near 1 */
    float at_target = 0, scale = job->scale * job->weights[t];
    if (holds(job, target))
        at_target = (exp_one(job->kernels, row[(size_t)target - job->first] - job->log_sum[t]) - 1.0f) * scale;
    job->kernels->softmax_scale(row, job->count, job->log_sum[t], scale);
    if (holds(job, target)) row[(size_t)target - job->first] = at_target;
}

static void loss_chunk(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    (void)lane;
    size_t end = size_min((task + 1) * CHUNK_TOKENS, job->tokens);
    for (size_t t = task * CHUNK_TOKENS; t < end; t++) {
        if (job->gradient)
            gradient_token(job, t);
        else
            loss_token(job, t);
    }
}

static void run(const dqt_context *ctx, struct job *job) {
    DQT_ASSERT(job->count > 0 && job->ld >= job->count);
    parallel_run(ctx, ceil_div(job->tokens, CHUNK_TOKENS), WORK_ELEMENT * (double)job->tokens * (double)job->count,
                 loss_chunk, job);
}

void loss_tile(const dqt_context *ctx, const float *logits, size_t ld, size_t tokens, size_t first, size_t count,
               const int32_t *targets, float *maximum, float *sum, float *target_logit) {
    struct job job = {.kernels = &ctx->kernels->vector,
                      .logits = logits,
                      .ld = ld,
                      .tokens = tokens,
                      .first = first,
                      .count = count,
                      .targets = targets,
                      .maximum = maximum,
                      .sum = sum,
                      .target_logit = target_logit};
    run(ctx, &job);
}

void loss_tile_backward(const dqt_context *ctx, float *logits, size_t ld, size_t tokens, size_t first, size_t count,
                        const int32_t *targets, const float *weights, const float *log_sum, float scale) {
    struct job job = {.kernels = &ctx->kernels->vector,
                      .gradient = logits,
                      .ld = ld,
                      .tokens = tokens,
                      .first = first,
                      .count = count,
                      .targets = targets,
                      .weights = weights,
                      .log_sum = log_sum,
                      .scale = scale};
    run(ctx, &job);
}
