/* The elementwise part of an MLP, hidden rows h: silu(gate) * up (Shazeer 2020), where `squared` max(gate, 0)^2 * up
 * (BitNet b1.58 2B4T, Ma et al. 2025), or where gate is NULL max(up, 0)^2 (So et al. 2021). Forward runs a row at a
 * time in ops/activations.h; with a sub-norm after it backward does too, in ops/norm.h.
 */
#ifndef DQT_OPS_MLP_H
#define DQT_OPS_MLP_H

#include "core/context.h"
#include "kernels/vector_kernels.h"

static inline void hidden_row(const struct vector_kernels *k, bool squared, const float *gate, const float *up,
                              size_t n, float *h) {
    if (gate) {
        (squared ? k->gated_squared_relu : k->swiglu)(gate, up, n, h);
    } else {
        k->squared_relu(up, n, h);
    }
}

/* dgate and dup from dh; dgate may be gate's buffer (and is NULL where gate is), dup may be up's or dh's. */
static inline void hidden_row_backward(const struct vector_kernels *k, bool squared, const float *gate, const float *up,
                                       const float *dh, size_t n, float *dgate, float *dup) {
    if (gate) {
        (squared ? k->gated_squared_relu_gradient : k->swiglu_gradient)(gate, up, dh, n, dgate, dup);
    } else {
        k->squared_relu_gradient(up, dh, n, dup);
    }
}

/* The same for `count` numbers, on all threads. */
void hidden_backward(const dqt_context *ctx, bool squared, const float *gate, const float *up, const float *dh,
                     size_t count, float *dgate, float *dup);

#endif
