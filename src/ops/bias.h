/* Biases: y += b for every token, and their gradient. */
#ifndef DQT_OPS_BIAS_H
#define DQT_OPS_BIAS_H

#include "core/context.h"

/* y[tokens][cols] += bias[cols]. */
void bias_add(const dqt_context *ctx, const float *bias, size_t tokens, size_t cols, float *y);

/* dbias[cols] = sum over tokens of dy[tokens][cols], summed in a fixed shape. */
void bias_gradient(const dqt_context *ctx, const float *dy, size_t tokens, size_t cols, float *dbias);

#endif
