/* Rotary embedding (rotate-half, Su et al. 2021) and causal attention with grouped kv heads, tiled so that no length x
 * length matrix is in memory (Dao 2022).
 *
 * q[tokens][heads * head_size], k and v [tokens][kv_heads * head_size], tokens = batch * length. Scores are q.k /
 * sqrt(head_size). log_sum[tokens][heads] is saved for backward. */
#ifndef DQT_OPS_ATTENTION_H
#define DQT_OPS_ATTENTION_H

#include "core/memory.h"

struct attention_shape {
    size_t batch, length, heads, kv_heads, head_size;
};

/* Documents within the sequences of a pass: run r is of tokens [start[r], start[r + 1]), none longer than a sequence.
 * Attention stays within a run and positions begin anew: each run is computed as a sequence of its own would be. */
struct attention_runs {
    size_t count;
    const int32_t *start; /* [count + 1]; NULL: every sequence is one run */
};

/* The frequencies that heads are rotated with. scaling: DQT_ROPE_*, which says what of the rest is read. */
struct rope {
    float theta;
    int scaling;
    float factor, low_freq_factor, high_freq_factor;
    size_t original_context;
};

/* Radians per position of pair i: theta^(-2i/head_size), scaled. */
double rope_frequency(const struct rope *rope, size_t head_size, size_t i);

/* cos and sin tables [positions][head_size / 2]. */
void rope_table(const struct rope *rope, size_t head_size, size_t positions, float *cosines, float *sines);

/* Rotates x[batch * length][heads * head_size] in place, each token at its position[batch * length], or with NULL token
 * i of a run at position i; inverse: the backward rotation. */
void rope_apply(const dqt_context *ctx, float *x, size_t batch, size_t length, struct attention_runs runs, size_t heads,
                size_t head_size, const size_t *position, const float *cosines, const float *sines, bool inverse);

void attention_scratch(const dqt_context *ctx, const struct attention_shape *s, struct scratch_need *need);

/* out[tokens][heads * head_size]; log_sum NULL: not wanted. */
void attention_forward(const dqt_context *ctx, const struct workspace *ws, const struct attention_shape *s,
                       struct attention_runs runs, const float *q, const float *k, const float *v, int precision,
                       float *out, float *log_sum);

/* dq, dk, dv are set. */
void attention_backward(const dqt_context *ctx, const struct workspace *ws, const struct attention_shape *s,
                        struct attention_runs runs, const float *q, const float *k, const float *v, const float *out,
                        const float *log_sum, const float *dout, int precision, float *dq, float *dk, float *dv);

#endif
