/* Independent work items over the context's threads: OpenMP, the host's parallel_for, or a plain loop. */
#ifndef DQT_CORE_PARALLEL_H
#define DQT_CORE_PARALLEL_H

#include "core/context.h"

/* `lane` is below ctx->num_threads and never in use by two items at once: it selects scratch, and nothing else may depend
 * on it (results must not change with the number of threads). */
typedef void (*item_fn)(void *arg, size_t item, int lane);

/* Runs fn for every item in [0, count), handing out items one by one. */
void parallel_run(const dqt_context *ctx, size_t count, item_fn fn, void *arg);

#endif
