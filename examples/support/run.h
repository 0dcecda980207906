/* One training run on a text, from options to files: what 03_train does, for one or many runs. */
#ifndef RUN_H
#define RUN_H

#include <stdbool.h>

#include "args.h"
#include "dqt.h"
#include "text.h"

struct run_options {
    /* model */
    size_t hidden, intermediate, layers, heads, kv_heads, vocab;
    int format, compute, scale_rule, row_scales, train_scales, embedding_format, head_format, tied, no_sub_norms, mlp,
        activation;
    float sigma, init_std, linear_init_std;
    /* update */
    int optimizer, rounding, momentum_state, variance_state, clip, fused;
    float lr, beta1, beta2, weight_decay, clip_norm, scale_lr, final_lr;
    float linear_lr, linear_beta1,
        noise; /* of the blocks' weights: factor, first-moment decay (negative: beta1), rounding */
    /* run */
    size_t batch, length, steps, warmup, eval_every, eval_windows, save_every, accumulate, stop_at;
    int seed, recompute, precision, gradient_format, checkpoint_format;
};

/* The lab's setting for a small model. */
struct run_options run_defaults(void);

/* The options as command-line arguments; returns how many were written to `table` (at most `room`). */
size_t run_args(struct run_options *o, struct arg *table, size_t room);

/* One line of a run's log. */
struct run_point {
    double step, train_bits, valid_bits, seconds; /* bits per byte; valid_bits is NAN between evaluations */
};

struct run {
    dqt_context *ctx;
    const struct text *text;
    struct run_options options;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    int32_t *tokens, *targets; /* [batch][length] */
    size_t step;               /* steps done */
    uint64_t pass;             /* of the tape, from the checkpoint */
    double train_bits;         /* of the latest step */
    dqt_step_stats stats;      /* of the latest step */
};

/* Creates model, tape and updater, or takes model and updater from a checkpoint (path NULL: new; the options of the
 * model and the updater then come from the file). On failure everything is released and dqt_last_error(ctx) tells why.
 */
dqt_status run_open(struct run *r, dqt_context *ctx, const struct text *text, const struct run_options *o,
                    const char *path);
void run_close(struct run *r);

/* One optimiser step, of `accumulate` micro-batches. */
dqt_status run_step(struct run *r);
/* Mean held-out bits per byte over eval_windows windows. */
dqt_status run_evaluate(struct run *r, double *bits);
/* Writes the checkpoint, with the step in the host bytes. */
dqt_status run_save(struct run *r, const char *path);

/* Bytes of training state per linear weight: codes, scales and optimiser state over all linear weights. */
dqt_status run_state_bytes(struct run *r, double *bytes);

/* Writes the loss curves of a log. */
bool run_plot(const char *path, const char *title, const struct run_point *points, size_t count);

#endif
