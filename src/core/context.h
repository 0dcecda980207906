/* The context: allocator, threads, instruction set, log. */
#ifndef DQT_CORE_CONTEXT_H
#define DQT_CORE_CONTEXT_H

#include <stdatomic.h>

#include "dqt.h"

struct kernels; /* kernels/kernels.h */
struct search;  /* format/scale.h */
struct search_sums;
struct contention; /* core/contention.h */

struct dqt_context {
    size_t serial; /* by which threads know its errors */
    dqt_alloc_fn alloc;
    dqt_free_fn free;
    void *alloc_user_data;
    atomic_size_t allocated; /* bytes now, this struct included */
    int threading;           /* never AUTO */
    int num_threads;
    double lane_work;              /* nanoseconds of work that pay for a lane; 0 (tests): any, on all lanes */
    struct contention *contention; /* for OPENMP, else NULL */
    long process_id;               /* of the process that made the context */
    dqt_parallel_for_fn parallel_for;
    void *parallel_user_data;
    dqt_log_fn log;
    void *log_user_data;
    int log_level;
    dqt_interrupt_fn interrupt; /* NULL: nothing interrupts */
    void *interrupt_user_data;
    int isa; /* never AUTO */
    uint64_t cpu_features;
    struct kernels *kernels; /* resolved at creation, constant afterwards */
    /* the one of them that src/format calls, which comes before kernels: search_add_fn */
    void (*search_add)(const struct search *f, struct search_sums *sums, const float *w, const float *importance,
                       size_t count);
};

#endif
