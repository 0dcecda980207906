/* Backward of an MLP's elementwise part (forward: ops/activations.h; with a sub-norm after it: ops/norm.h). Arrays of
 * `count` floats. */
#ifndef DQT_OPS_MLP_H
#define DQT_OPS_MLP_H

#include "core/context.h"

/* Of h = silu(gate) * up: dgate and dup from dh; dgate may be gate's buffer, dup may be up's or dh's. */
void swiglu_backward(const dqt_context *ctx, const float *gate, const float *up, const float *dh, size_t count, float *dgate,
                     float *dup);
/* Of h = max(up, 0)^2; dup may be up's or dh's buffer. */
void squared_relu_backward(const dqt_context *ctx, const float *up, const float *dh, size_t count, float *dup);

#endif
