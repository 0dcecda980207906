/* Cross-entropy over logits that are made in tiles of classes and never held whole. */
#ifndef DQT_OPS_LOSS_H
#define DQT_OPS_LOSS_H

#include "core/context.h"

/* Running log-sum-exp per token, updated with logits[tokens][count] (leading dimension ld) of classes
 * first..first+count-1: maximum[tokens], sum[tokens] (of exp(logit - maximum); start with -INFINITY and 0),
 * target_logit[tokens] (set when the tile holds the token's target). Skips targets of -1. targets NULL: sums of all
 * tokens, and target_logit is not written. */
void loss_tile(const dqt_context *ctx, const float *logits, size_t ld, size_t tokens, size_t first, size_t count,
               const int32_t *targets, float *maximum, float *sum, float *target_logit);

/* In place: logits -> gradient (exp(logit - log_sum[t]) - [class == target]) * scale * weights[t], and 0 for ignored
 * tokens. */
void loss_tile_backward(const dqt_context *ctx, float *logits, size_t ld, size_t tokens, size_t first, size_t count,
                        const int32_t *targets, const float *weights, const float *log_sum, float scale);

#endif
