/* Rotary embedding: tables of frequencies, and rotating rows of heads. */
#include <math.h>

#include "core/assert.h"
#include "core/parallel.h"
#include "core/size.h"
#include "kernels/kernels.h"
#include "ops/attention.h"

enum { CHUNK_TOKENS = 16 };

#define TWO_PI 6.283185307179586

/* Llama 3.1's, as transformers' _compute_llama3_parameters has it (modeling_rope_utils.py): by how often a pair turns
 * within the original context, at most low_freq_factor times, at least high_freq_factor times, or in between. */
static double llama3_frequency(const struct rope *rope, double frequency) {
    const double low = (double)rope->low_freq_factor, high = (double)rope->high_freq_factor;
    const double turns = (double)rope->original_context * frequency / TWO_PI, scaled = frequency / (double)rope->factor;
    if (turns < low) return scaled;
    if (turns > high) return frequency;
    const double smooth = (turns - low) / (high - low);
    return (1 - smooth) * scaled + smooth * frequency;
}

double rope_frequency(const struct rope *rope, size_t head_size, size_t i) {
    const double frequency = pow((double)rope->theta, -2.0 * (double)i / (double)head_size);
    switch (rope->scaling) {
    case DQT_ROPE_LINEAR: return frequency / (double)rope->factor;
    case DQT_ROPE_LLAMA3: return llama3_frequency(rope, frequency);
    default: return frequency;
    }
}

void rope_table(const struct rope *rope, size_t head_size, size_t positions, float *cosines, float *sines) {
    size_t half = head_size / 2;
    for (size_t i = 0; i < half; i++) {
        double frequency = rope_frequency(rope, head_size, i);
        for (size_t p = 0; p < positions; p++) {
            cosines[p * half + i] = (float)cos((double)p * frequency);
            sines[p * half + i] = (float)sin((double)p * frequency);
        }
    }
}

struct job {
    const struct vector_kernels *kernels;
    float *x; /* [tokens][heads][2 * half] */
    size_t tokens, length, heads, half;
    const size_t *position; /* [tokens]; NULL: as they lie in their run */
    struct attention_runs runs;
    const float *cosines, *sines; /* [positions][half] */
    float sign;
};

/* The run of a token: the last that begins at or before it. */
static size_t find_run(const struct attention_runs *runs, size_t token) {
    size_t low = 0, high = runs->count;
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if ((size_t)runs->start[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void rotate_chunk(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    (void)lane;
    const struct attention_runs *runs = &job->runs;
    size_t end = size_min((task + 1) * CHUNK_TOKENS, job->tokens);
    size_t run = runs->start ? find_run(runs, task * CHUNK_TOKENS) : 0;
    for (size_t t = task * CHUNK_TOKENS; t < end; t++) {
        const size_t begin = runs->start ? (size_t)runs->start[run] : t - t % job->length;
        const size_t at = (job->position ? job->position[t] : t - begin) * job->half;
        job->kernels->rope_row(job->x + t * job->heads * 2 * job->half, job->heads, job->half, job->cosines + at,
                               job->sines + at, job->sign);
        if (runs->start && t + 1 == (size_t)runs->start[run + 1]) run++;
    }
}

void rope_apply(const dqt_context *ctx, float *x, size_t batch, size_t length, struct attention_runs runs, size_t heads,
                size_t head_size, const size_t *position, const float *cosines, const float *sines, bool inverse) {
    DQT_ASSERT(head_size % 2 == 0);
    struct job job = {.kernels = &ctx->kernels->vector,
                      .x = x,
                      .tokens = batch * length,
                      .length = length,
                      .heads = heads,
                      .half = head_size / 2,
                      .position = position,
                      .runs = runs,
                      .cosines = cosines,
                      .sines = sines,
                      .sign = inverse ? -1.0f : 1.0f};
    parallel_run(ctx, ceil_div(job.tokens, CHUNK_TOKENS),
                 WORK_ELEMENT * (double)job.tokens * (double)(heads * head_size), rotate_chunk, &job);
}
