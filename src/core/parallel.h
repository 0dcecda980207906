/* Independent work tasks over the context's threads: OpenMP, the host's parallel_for, or a plain loop. */
#ifndef DQT_CORE_PARALLEL_H
#define DQT_CORE_PARALLEL_H

#include "core/context.h"

/* `lane` is below ctx->num_threads and never in use by two tasks at once: it selects scratch, and nothing else may
 * depend on it (results must not change with the number of threads). */
typedef void (*task_fn)(void *arg, size_t task, int lane);

/* Runs fn for every task in [0, count), handing out tasks one by one. */
void parallel_run(const dqt_context *ctx, size_t count, task_fn fn, void *arg);

#endif
