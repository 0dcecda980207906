/* Backward of RMSNorm (Zhang and Sennrich 2019): y = x * r * gain, r = 1 / sqrt(mean(x^2) + eps). Forward is
 * activations_make's. */
#ifndef DQT_OPS_NORM_H
#define DQT_OPS_NORM_H

#include "core/memory.h"

void norm_scratch(size_t tokens, size_t features, struct scratch_need *need);

/* [tokens][features], dense, where nothing else is said. */
struct norm_gradient {
    const float *dy;
    const float *x; /* what was normed; NULL: the MLP's hidden rows, made again from gate and up */
    float *dx;      /* of x: set, or added to if accumulate; may be dy; NULL: not wanted */
    bool accumulate;
    const float *gate, *up; /* as in activation_source */
    bool squared;
    float *dgate, *dup;              /* dgate may be gate's buffer, dup may be up's or dy's */
    const float *gain, *inverse_rms; /* [features], [tokens] */
    float *dgain;                    /* [features], set; NULL: not wanted. Sums over tokens in a fixed shape. */
};
void norm_backward(const dqt_context *ctx, const struct workspace *ws, const struct norm_gradient *g, size_t tokens,
                   size_t features);

#endif
