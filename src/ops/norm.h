/* RMSNorm (Zhang and Sennrich 2019): y = x * r * gain, r = 1 / sqrt(mean(x^2) + eps). */
#ifndef DQT_OPS_NORM_H
#define DQT_OPS_NORM_H

#include "core/memory.h"

void norm_scratch(const dqt_context *ctx, size_t tokens, size_t features, struct scratch_need *need);

/* x, y [tokens][features] (y may be x); inverse_rms[tokens] is saved for backward, NULL: not wanted. */
void norm_forward(const dqt_context *ctx, const float *x, const float *gain, float eps, size_t tokens, size_t features,
                  float *y, float *inverse_rms);

/* dx[tokens][features] (may be dy): set, or added to if accumulate. dgain[features] is set (NULL: not wanted); sums over
 * tokens in a fixed shape. */
void norm_backward(const dqt_context *ctx, const struct workspace *ws, const float *dy, const float *x, const float *gain,
                   const float *inverse_rms, size_t tokens, size_t features, bool accumulate, float *dx, float *dgain);

#endif
