/* Elementwise parts of the MLP. All [tokens][features], dense. */
#ifndef DQT_OPS_ACTIVATION_H
#define DQT_OPS_ACTIVATION_H

#include "core/context.h"

/* h = silu(gate) * up (Shazeer 2020); h may be gate or up. */
void swiglu_forward(const dqt_context *ctx, const float *gate, const float *up, size_t count, float *h);
/* dgate and dup from dh; dgate may be gate's buffer, dup may be up's or dh's. */
void swiglu_backward(const dqt_context *ctx, const float *gate, const float *up, const float *dh, size_t count, float *dgate,
                     float *dup);

/* h = max(up, 0)^2 (So et al. 2021). */
void squared_relu_forward(const dqt_context *ctx, const float *up, size_t count, float *h);
void squared_relu_backward(const dqt_context *ctx, const float *up, const float *dh, size_t count, float *dup);

#endif
