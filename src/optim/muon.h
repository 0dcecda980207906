/* Directions of DQT_OPTIMIZER_MUON: see muon.c. */
#ifndef DQT_OPTIM_MUON_H
#define DQT_OPTIM_MUON_H

#include <stdbool.h>

#include "core/memory.h"
#include "kernels/update_kernels.h"
#include "optim/updater.h"

struct parameter;

/* Scratch of the updater's largest matrices, of one parameter at a time. */
struct muon_sizes {
    size_t elements, square; /* floats */
    struct scratch_need products;
};
struct muon_scratch {
    float *direction, *spare;   /* [rows][cols]; direction: g + 0.95 m of the tiles that have come */
    float *square, *polynomial; /* [less][less], less the smaller side */
    struct workspace products;
};

/* Matrices of linear layers; other parameters of an updater with MUON take ADAMW. */
bool muon_takes(const struct update_target *t);

/* Makes the sizes those of this matrix too. */
void muon_need(const dqt_context *ctx, const dqt_tensor *t, struct muon_sizes *sizes);

/* Of one row with its gradient: moves m on, and makes out[cols] = g + 0.95 m. */
void muon_momentum_row(const dqt_updater *u, const struct parameter *p, const struct update_row *row, float *out);

/* Once all rows are in the scratch: the direction, [rows][cols], in the scratch too. u is muon_factor times it. */
float *muon_direction(const dqt_updater *u, const struct parameter *p);
float muon_factor(const struct parameter *p);

#endif
