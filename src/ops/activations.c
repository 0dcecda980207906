#include "ops/activations.h"

#include <math.h>
#include <string.h>

#include "core/assert.h"
#include "core/parallel.h"
#include "kernels/kernels.h"
#include "ops/mlp.h"

enum { TOKENS_PER_TASK = 16 };

struct job {
    const struct kernels *kernels;
    const struct workspace *ws;
    const struct activation_source *source;
    const struct activation_buffer *out;
    size_t tokens;
};

void activations_scratch(size_t cols, struct scratch_need *need) {
    size_t bytes;
    size_mul(cols, sizeof(float), &bytes);
    scratch_max(need, 0, bytes, 0);
}

/* out_row: where floats go, [cols]: the row of the buffer, or scratch if codes are made. */
static void make_row(const struct job *job, size_t t, float *out_row) {
    const struct activation_source *s = job->source;
    const struct activation_buffer *out = job->out;
    const struct vector_kernels *vector = &job->kernels->vector;
    const size_t n = out->cols;
    const float *row = s->x ? s->x + t * n : out_row;
    if (s->kept) memcpy(s->kept + t * n, row, n * sizeof *row);
    if (!s->x) hidden_row(vector, s->squared, s->gate ? s->gate + t * n : NULL, s->up + t * n, n, out_row);
    if (s->gain) {
        const float r = 1.0f / sqrtf(vector->sum_squares(row, n) / (float)n + s->eps);
        vector->norm_row(row, s->gain, r, n, out_row);
        row = out_row;
        if (s->inverse_rms) s->inverse_rms[t] = r;
    }
    if (out->codes) {
        int8_t *codes = out->codes + t * out->ld;
        out->step[t] = job->kernels->gemm.quantize(row, n, codes);
        memset(codes + n, 0, out->ld - n);
    } else if (row != out_row) {
        memcpy(out_row, row, n * sizeof *row);
    }
}

static void make_task(void *arg, size_t task, int lane) {
    const struct job *job = arg;
    const size_t first = task * TOKENS_PER_TASK;
    const size_t last = size_min(first + TOKENS_PER_TASK, job->tokens);
    float *scratch = job->ws ? workspace_lane(job->ws, lane) : NULL;
    for (size_t t = first; t < last; t++)
        make_row(job, t, job->out->codes ? scratch : job->out->floats + t * job->out->ld);
}

void activations_make(const dqt_context *ctx, const struct workspace *ws, const struct activation_source *source,
                      size_t tokens, const struct activation_buffer *out) {
    DQT_ASSERT(source->x || source->up);
    DQT_ASSERT(!source->inverse_rms || source->gain);
    DQT_ASSERT(out->cols > 0 && out->ld >= out->cols);
    DQT_ASSERT(out->codes ? out->step && out->ld % GEMM_K_ALIGN == 0 : out->floats != NULL);
    DQT_ASSERT(ws || !out->codes || (source->x && !source->gain));
    struct job job = {ctx->kernels, ws, source, out, tokens};
    parallel_run(ctx, ceil_div(tokens, TOKENS_PER_TASK), WORK_ELEMENT * (double)tokens * (double)out->cols, make_task,
                 &job);
}
