/* Independent work tasks over the context's threads: OpenMP, the host's parallel_for, or a plain loop. How many lanes
 * (threads) take part is decided here and nowhere else:
 *
 *  - no lane for less than LANE_WORK nanoseconds of work: a region costs 1 to 2 us where the threads spin, and 20 to 50
 *    where they must be woken;
 *  - fewer lanes where regions take longer than they would with fewer, as contention.h measures it: cores that other
 *    processes keep busy make every region wait for the lane that did not get its core;
 *  - one in the child of a fork: OpenMP's threads are the parent's, and a region would wait for them for ever.
 *
 * Results do not depend on any of it. */
#ifndef DQT_CORE_PARALLEL_H
#define DQT_CORE_PARALLEL_H

#include "core/context.h"

/* `lane` is below ctx->num_threads and never in use by two tasks at once: it selects scratch, and nothing else may
 * depend on it (results must not change with the number of threads). */
typedef void (*task_fn)(void *arg, size_t task, int lane);

/* Nanoseconds of one lane, of the right order: what a job's `work` is made of. */
#define WORK_ELEMENT 0.5  /* a float that goes through a row kernel: norm, rope, activation, quantisation, softmax */
#define WORK_PRODUCT 0.04 /* a multiplication and addition of floats in attention */
#define WORK_UPDATE 3.0   /* a weight that an updater reads and writes, with its state and gradient */
#define WORK_NORMAL 20.0  /* a normal random number */
#define WORK_BYTE 0.1     /* a byte that is zeroed */
#define LANE_WORK 20000.0 /* work that is worth a lane of its own */
#define STANDING_LANE_WORK 2500.0 /* the same where lanes stand by */
#define STANDING_PAYS 4.0         /* times LANE_WORK: what is worth a lane that stands by */

/* Runs fn for every task in [0, count), handing out tasks one by one; `work` is that of all tasks together. */
void parallel_run(const dqt_context *ctx, size_t count, double work, task_fn fn, void *arg);

/* Runs body, whose calls of parallel_run from this thread find the other lanes standing by: for many small jobs with
 * little between them, `work` altogether. Lanes that wait use their cores, so body must not wait for anything, nor call
 * the host. Without OpenMP's threads, and where lanes are not worth it, it only runs body. */
void parallel_stand_by(const dqt_context *ctx, double work, void (*body)(void *), void *arg);

/* parallel_run for tasks that wait for what others of the run make: each adds to waited[lane], which is 0 at first, the
 * seconds of parallel_clock that it has waited. They are no work: who waits for a lane that lost its core would
 * otherwise look busy. */
void parallel_run_waiting(const dqt_context *ctx, size_t count, double work, task_fn fn, void *arg, double *waited);
double parallel_clock(void); /* seconds; 0 without OpenMP, where nobody waits for a lane at work */

#endif
