/* A context of several threads whose allocations are counted; the threads share even the smallest work. */
#ifndef COUNTING_THREADS_H
#define COUNTING_THREADS_H

#include "calls.h"
#include "counting_alloc.h"
#include "isa_contexts.h"

static inline dqt_context *counting_threads(struct counting *memory, int threads) {
    dqt_context *ctx = NULL;
    *memory = counting_new();
    dqt_context_options c = counting_options(memory);
    c.num_threads = threads;
#ifndef _OPENMP
    c.parallel_for = backwards_for;
#endif
    OK(NULL, dqt_context_create(&c, &ctx));
    share_all_work(ctx);
    return ctx;
}

#endif
