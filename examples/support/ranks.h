/* The processes (ranks, in MPI's word) that train one model together, data-parallel: each has the whole model, and its
 * share of every micro-batch's sequences and of the optimiser's state. The steps of a run call these functions whether
 * there are others or not: one_rank.c has them for a program alone; examples/mpi/ranks.c, linked in its place, over
 * MPI. All ranks make the same calls in the same order; where one fails and ends with ranks_end, all end. */
#ifndef RANKS_H
#define RANKS_H

#include <stdbool.h>

#include "args.h"
#include "dqt.h"

struct run;

/* The first call of main, and its last: main returns what ranks_end does. Only rank 0 has a standard output. */
void ranks_begin(int *argc, char ***argv);
int ranks_end(int status);

size_t ranks_own(void); /* 0 .. ranks_count() - 1 */
size_t ranks_count(void);

/* Options; returns how many were written to `table`. */
size_t ranks_args(struct arg *table);
enum { RANKS_ARGS = 1 };

/* Of `count` things in a row those of this rank, as evenly as they go. */
struct share {
    size_t first, count;
};
struct share ranks_share(size_t count);

/* The sum over all ranks, in their order; and whether it is so on any of them. */
double ranks_sum(double own);
bool ranks_any(bool own);

/* Between run_open and run_close: what the functions below need of an open run. */
dqt_status ranks_open(struct run *r);
void ranks_close(struct run *r);

/* Said before the backward pass after which the gradients of a step are complete: they are exchanged while it runs. */
void ranks_last_pass(struct run *r);

/* The step, with the gradients of all ranks: as dqt_updater_step. Then all have the same weights. */
dqt_status ranks_step(struct run *r, const dqt_step_options *options, dqt_step_stats *stats);

/* Backward of the latest loss, which is `weight` of the mean over all ranks, with the update inside it: parameter after
 * parameter is reduced, updated and forgotten. As dqt_llama_backward_update; then all have the same weights. */
dqt_status ranks_backward_update(struct run *r, float weight, const dqt_step_options *options, dqt_step_stats *stats);

/* One checkpoint of all, as dqt_llama_save. */
dqt_status ranks_save(struct run *r, const char *path, const dqt_save_options *options);

/* At the end of a run: says how many bytes were exchanged, and checks that all ranks have the same bits. */
bool ranks_report(struct run *r);

#endif
