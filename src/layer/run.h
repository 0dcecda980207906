/* Forward and backward of layers on their slots of a tape, beyond what every kind has (layer/kind.h). Shapes as in
 * dqt.h; arguments are checked by the caller. x, y, dy and dx are [tokens][features] with tokens = batch * length. */
#ifndef DQT_LAYER_RUN_H
#define DQT_LAYER_RUN_H

#include "layer/tape.h"
#include "ops/norm.h"

static inline size_t slot_tokens(const struct slot *s) {
    return s->batch * s->length;
}

/* Layers of floats, by kind->forward and kind->backward. segments[batch * length]: runs of equal ids in a sequence are
 * documents, for kinds that mix tokens; NULL: a sequence is one. dx NULL: only weight gradients. Backward uses the
 * forward up. */
void layer_forward(dqt_tape *t, struct slot *s, size_t batch, size_t length, const int32_t *segments, const float *x,
                   float *y);
void layer_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx);

/* y[tokens][weight rows] = what enters . weight^T. */
void weight_forward(dqt_tape *t, const struct slot *s, int weight, const struct activations *x, bool accumulate,
                    float *y);
/* The same of several weights, y[i] of weight[i], y[i] being set: one job where tokens are few. */
void weights_forward(dqt_tape *t, const struct slot *s, const int *weight, size_t count, const struct activations *x,
                     float *const *y);
/* What every weight does in backward: dx (NULL: not wanted) from dy before the weight may change, then its gradient.
 * `x` is what entered the product. */
void weight_backward(dqt_tape *t, struct slot *s, int weight, const float *dy, const struct activations *x,
                     bool accumulate, float *dx);

/* The gain `weight` of an RMSNorm, backward: what `g` asks for (gain and dgain are filled in here) and the gain's
 * gradient. It takes vector_temporaries. */
void gain_backward(dqt_tape *t, struct slot *s, int weight, struct norm_gradient g);
/* A bias's gradient, from dy[tokens][cols]. It takes vector_temporaries. */
void bias_backward(dqt_tape *t, struct slot *s, int weight, const float *dy);
/* The gradient of a gain or a bias, [1][cols]. */
float *vector_temporaries(dqt_tape *t, const dqt_layer *l, int weight);

/* What blocks need of their sublayers. RMSNorm: into `out`, whose floats may be x; backward adds to dx with
 * `accumulate`; dx may be dy without, or NULL. */
void rmsnorm_forward(dqt_tape *t, struct slot *s, const float *x, const struct activation_buffer *out);
void rmsnorm_backward(dqt_tape *t, struct slot *s, const float *dy, bool accumulate, float *dx);
/* Attention and MLP, whose input is in s->input already: y is set, or added to with `accumulate` (residual
 * connections). y NULL: only save what backward needs (recomputation). */
void attention_from_input(dqt_tape *t, struct slot *s, bool accumulate, float *y);
void mlp_from_input(dqt_tape *t, struct slot *s, bool accumulate, float *y);

/* Embedding. In an update, backward makes the weight gradient of a tied head too, which has gone backward before. */
void embedding_forward(dqt_tape *t, struct slot *s, size_t batch, size_t length, const int32_t *tokens, float *y);
void embedding_backward(dqt_tape *t, struct slot *s, const float *dy);

/* Head. b gives batch, length, targets (NULL: only the log-sum-exp of every token is made), weights, and a divisor that
 * is not 0. Where the host interrupts it or a number is not finite the tape is stopped, and there is no forward. */
void head_loss(dqt_tape *t, struct slot *s, const dqt_batch *b, const float *x, float *loss, float *token_losses);
/* The latest forward made a loss. */
bool head_has_loss(const struct slot *s);
/* logits NULL: only what backward needs is kept. */
void head_logits(dqt_tape *t, struct slot *s, size_t batch, size_t length, const float *x, float *logits);

/* Logits of x[tokens][in] for generation, tile by tile of classes: logits[tokens][ld] of classes [first, first +
 * count).
 */
typedef void logits_tile_fn(void *arg, size_t first, size_t count, const float *logits, size_t ld);
void head_logits_tiles(dqt_tape *t, struct slot *s, size_t tokens, const float *x, logits_tile_fn *take, void *arg);

/* What goes backward from a head. */
struct head_gradient {
    bool is_own; /* a host's own loss; else the latest loss, times loss_scale */
    float loss_scale;
    dqt_logits_gradient own; /* dlogits or callback; of a tied head in an update embedding_backward reads it too */
};
/* dx NULL: only the weight gradient. May stop the tape. */
void head_backward(dqt_tape *t, struct slot *s, const struct head_gradient *gradient, float *dx);

/* Classes whose logits are made at a time, a multiple of GEMM_TILE_ROWS; and room for them, float[max_tokens][tile] of
 * the tape's temporaries. */
size_t head_tile(const dqt_layer *head);
float *head_temporaries(dqt_tape *t, const dqt_layer *head);
/* The gradient of one tile of logits, d[tokens][ld], `count` classes. */
struct logit_gradient {
    const float *d;
    size_t ld, count;
};
/* That of classes [first, ...), first a multiple of head_tile, of the latest head_backward; logits of
 * head_temporaries. False: the host's function stopped the tape. */
bool head_logit_gradient(dqt_tape *t, const struct slot *s, size_t first, float *logits, struct logit_gradient *out);

#endif
