/* Forward and backward of every layer kind on its slot of a tape. Shapes as in dqt.h; arguments are checked by the
 * caller. x, y, dy and dx are [tokens][features] with tokens = batch * length. */
#ifndef DQT_LAYER_RUN_H
#define DQT_LAYER_RUN_H

#include "layer/tape.h"
#include "ops/norm.h"

static inline size_t slot_tokens(const struct slot *s) {
    return s->batch * s->length;
}

/* What every weight does in backward: dx (NULL: not wanted) from dy before the weight may change, then its gradient.
 * `x` is what entered the product. */
void weight_backward(dqt_tape *t, struct slot *s, int weight, const float *dy, const struct activations *x,
                     bool accumulate, float *dx);
/* RMSNorm with gain `weight` of the slot's layer, backward: what `g` asks for (the norm's own fields are filled in
 * here) and the gain's gradient. */
void gain_backward(dqt_tape *t, struct slot *s, int weight, struct norm_gradient g);

void linear_forward(dqt_tape *t, struct slot *s, const float *x, float *y);
void linear_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx);

/* RMSNorm: into `out`, whose floats may be x; backward adds to dx with `accumulate`; dx may be dy without. */
void rmsnorm_forward(dqt_tape *t, struct slot *s, const float *x, const struct activation_buffer *out);
void rmsnorm_backward(dqt_tape *t, struct slot *s, const float *dy, bool accumulate, float *dx);

/* Attention and MLP, whose input is in s->input already: y is set, or added to with `accumulate` (residual
 * connections). y NULL: only save what backward needs (recomputation). */
void attention_layer_forward(dqt_tape *t, struct slot *s, bool accumulate, float *y);
void attention_layer_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx);

void mlp_forward(dqt_tape *t, struct slot *s, bool accumulate, float *y);
void mlp_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx);

/* Block: y may be x, dx may be dy. The slots of the parts follow s. */
void block_forward(dqt_tape *t, struct slot *s, const float *x, float *y);
void block_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx);

/* Float layers by kind. dx NULL: only weight gradients. */
void layer_forward(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, float *y);
void layer_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx);

/* Embedding. head: the slot of a tied head in fused mode, whose weight gradient is made here; else NULL. */
void embedding_forward(dqt_tape *t, struct slot *s, size_t batch, size_t length, const int32_t *tokens, float *y);
void embedding_backward(dqt_tape *t, struct slot *s, const float *dy, struct slot *head, float loss_scale);

/* Head. */
dqt_status head_loss(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, const int32_t *targets,
                     float *loss, float *token_losses);
void head_backward(dqt_tape *t, struct slot *s, float loss_scale, float *dx);
void head_logits(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, float *logits);

/* Logits of classes [first, first + count) are made again and turned into their gradient, logits[tokens][head_tile]. */
void head_logit_gradient(dqt_tape *t, struct slot *s, size_t first, size_t count, float loss_scale, float *logits);

#endif
