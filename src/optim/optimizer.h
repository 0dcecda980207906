/* What an optimiser is like. Nothing outside its own file asks which one it is.
 *
 * To add one: its description in optim/<name>.c, its moments in kernels/update_moments.h, its line in UPDATE_METHODS
 * (kernels/update_kernels.h), its DQT_OPTIMIZER_* in dqt.h. */
#ifndef DQT_OPTIM_OPTIMIZER_H
#define DQT_OPTIM_OPTIMIZER_H

#include "kernels/update_kernels.h"

enum second_moment {
    SECOND_NONE,
    SECOND_PER_WEIGHT, /* v[rows][cols] */
    SECOND_FACTORED    /* means of rows and columns; per weight, in f32, for tensors of one row or column */
};

struct optimizer {
    int32_t id;       /* DQT_OPTIMIZER_* */
    const char *name; /* as dqt.h spells it */
    enum update_method method;
    enum second_moment second;
    /* beta1 0 is refused. Otherwise it means that no first moment is kept: u is made of the gradient itself. */
    bool needs_momentum;
    /* u is linear in m, and m decays by beta1: what is added to m comes back in the following updates as a known sum,
     * so that ECO may add rounding errors to it. */
    bool linear;
    /* m is an average: the gradient enters with 1 - beta1, and m / (1 - beta1^t) is its estimate. Else m is a sum. */
    bool averages;
    /* v per weight is kept in the format that variance_state asks for. Else in f32. */
    bool variance_formats;
    /* u of matrices of linear layers is made of the whole matrix (optim/muon.c), of an m whose decay is the optimiser's
     * own, also with an accumulator; other parameters take ADAMW. */
    bool orthogonal;
    /* Without a first moment u is divided by max(1, rms(u) / update_clip). */
    bool clips_updates;
};

/* NULL for a number that is none of them. */
const struct optimizer *optimizer_of(int32_t id);

/* The names of all of them, for error sentences: "SGD 1, ADAMW 2". Returns text. */
const char *optimizer_list(char *text, size_t size);

#endif
