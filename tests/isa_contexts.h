/* Contexts that reach each instruction set, and workspaces, for tests of single operations. */
#ifndef ISA_CONTEXTS_H
#define ISA_CONTEXTS_H

#include "core/memory.h"
#include "dqt.h"
#include "isa/isa.h"
#include "lanes.h"
#include "test.h"

/* Every instruction set that a cap can name: isa_caps[i]. */
enum { ISA_COUNT = ISA_CAP_COUNT };

/* Where the library is built without OpenMP: lanes one after the other, the last first. */
static void backwards_for(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    for (size_t i = count; i-- > 0;)
        task(task_data, i);
}

/* NULL where the CPU (or DQT_ISA) does not offer exactly this instruction set. */
static inline dqt_context *isa_context(int isa, int threads) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.num_threads = threads;
#ifndef _OPENMP
    o.parallel_for = backwards_for;
#else
    (void)backwards_for;
#endif
    if (dqt_context_create(&o, &ctx) != DQT_OK) return NULL;
    share_all_work(ctx);
    if (dqt_context_isa(ctx) == isa) return ctx;
    dqt_context_destroy(ctx);
    return NULL;
}

static inline void random_fill(float *x, size_t n, float scale, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        x[i] = scale * test_uniform(&seed);
}

static inline float *random_floats(size_t n, float scale, uint64_t seed) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    if (!x) abort();
    random_fill(x, n, scale, seed);
    return x;
}

#endif
