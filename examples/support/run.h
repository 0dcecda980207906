/* One training run on a text or on tokens, from options to files: what 03_train does, for one or many runs. */
#ifndef RUN_H
#define RUN_H

#include <signal.h>
#include <stdbool.h>

#include "args.h"
#include "dqt.h"
#include "ranks.h"
#include "tokens.h"

struct run_options {
    /* model */
    size_t hidden, intermediate, layers, heads, kv_heads, vocab;
    int format, compute, scale_rule, row_scales, train_scales, embedding_format, head_format, tied, no_sub_norms, mlp,
        activation, head_activation, group; /* columns per scale; 0: not by groups */
    float sigma, init_std, linear_init_std;
    /* update */
    int optimizer, rounding, momentum_state, variance_state, clip, fused, rate_corrected;
    float lr, beta1, beta2, weight_decay, clip_norm, scale_lr, final_lr,
        cooldown; /* fraction of all steps in which the rate falls, by a line; 0: by a cosine, from the warm-up on */
    float linear_lr, linear_beta1,
        noise; /* of the blocks' weights: factor, first-moment decay (negative: beta1), rounding */
    /* run */
    size_t batch, length, steps, warmup, eval_every, eval_windows, save_every, accumulate, stop_at;
    float until; /* train until the held-out loss is at most this, in the unit; 0: to the end */
    int seed, recompute, precision, gradient_format, checkpoint_format;
    int inference; /* only run_evaluate: no updater, and nothing is saved for backward */
};

/* The lab's setting for a small model. */
struct run_options run_defaults(void);

/* The options as command-line arguments: of a new model, and of its training. Each returns how many were written to
 * `table`; both together are at most RUN_ARGS. */
size_t run_model_args(struct run_options *o, struct arg *table);
size_t run_training_args(struct run_options *o, struct arg *table);
enum { RUN_ARGS = 64 };

/* What a loss is told in: bits per byte of text, nats per token. */
struct unit {
    const char *name, *column; /* as words, and in a CSV file's head */
    double nats;               /* of one unit */
};
struct unit run_unit(const struct tokens *data);

/* One line of a run's log. */
struct run_point {
    double step, train_loss, valid_loss, seconds; /* losses in the run's unit; NAN between evaluations */
};

struct run {
    dqt_context *ctx;
    const struct tokens *data;
    struct unit unit;
    struct run_options options;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    struct exchange *exchange;                /* of ranks.h; NULL: a rank alone */
    struct windows windows;                   /* of this rank's sequences of one micro-batch */
    size_t step;                              /* steps done */
    uint64_t pass;                            /* of the tape, from the checkpoint */
    double train_loss;                        /* of the latest step, in the unit */
    dqt_step_stats stats;                     /* of the latest step */
    const volatile sig_atomic_t *interrupted; /* not 0: an evaluation ends early, and its loss is none; NULL: never */
};

/* Creates model, tape and updater, or takes model and updater from a checkpoint (path NULL: new; the options of the
 * model and the updater then come from the file). On failure everything is released and dqt_last_error(ctx) tells why.
 */
dqt_status run_open(struct run *r, dqt_context *ctx, const struct tokens *data, const struct run_options *o,
                    const char *path);
/* The same with a model that is there, and the run's from now on, also where this fails. */
dqt_status run_open_model(struct run *r, dqt_context *ctx, const struct tokens *data, const struct run_options *o,
                          dqt_llama *model);
void run_close(struct run *r);

/* One optimiser step, of `accumulate` micro-batches whose sequences the ranks share. */
dqt_status run_step(struct run *r);
/* Mean held-out loss over eval_windows windows, in the unit. */
dqt_status run_evaluate(struct run *r, double *loss);
/* Writes the checkpoint, with the step in the host bytes. */
dqt_status run_save(struct run *r, const char *path);

/* Bytes of training state per linear weight: codes, scales and optimiser state over all linear weights. */
dqt_status run_state_bytes(struct run *r, double *bytes);

/* Writes the loss curves of a log. */
bool run_plot(const char *path, const char *title, struct unit unit, const struct run_point *points, size_t count);

#endif
