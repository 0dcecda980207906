/* What enters a product, made a token's row at a time: the row stays in L1 from its source through RMSNorm (Zhang and
 * Sennrich 2019) to int8 codes. Rows do not depend on each other. */
#ifndef DQT_OPS_ACTIVATIONS_H
#define DQT_OPS_ACTIVATIONS_H

#include "core/memory.h"
#include "gemm/gemm.h"

/* Where they are kept: codes and steps, or floats. */
struct activation_buffer {
    int8_t *codes; /* [tokens][ld], ld a multiple of 64; NULL: floats */
    float *step;   /* [tokens] */
    float *floats; /* [tokens][ld] */
    size_t cols, ld;
};

static inline struct activations activations_of(const struct activation_buffer *b, size_t tokens) {
    return (struct activations){
        .tokens = tokens, .cols = b->cols, .codes = b->codes, .step = b->step, .floats = b->floats, .ld = b->ld};
}

/* What they are made from. [tokens][cols] throughout, dense. */
struct activation_source {
    const float *x;         /* the rows (may be the buffer's floats); NULL: an MLP's hidden rows: */
    const float *gate, *up; /* as ops/mlp.h has them; gate may be NULL */
    bool squared;           /* of the gate */
    float *kept;            /* gets a copy of x; NULL: not wanted */
    const float *gain;      /* RMSNorm: row * r * gain, r = 1 / sqrt(mean(row^2) + eps); NULL: none */
    float eps;
    float *inverse_rms; /* [tokens], gets r for backward; NULL: not wanted */
};

void activations_scratch(size_t cols, struct scratch_need *need);

/* Codes: amax = max(max|row|, 1e-5), q = clamp(rint(row * (127 / amax)), -127, 127), step = amax / 127, padding zeroed.
 * A row that is not finite: codes 0, step NaN.
 * ws may be NULL where neither codes are made from hidden rows nor from normed ones. */
void activations_make(const dqt_context *ctx, const struct workspace *ws, const struct activation_source *source,
                      size_t tokens, const struct activation_buffer *out);

#endif
