#include "core/parallel.h"

struct job {
    task_fn fn;
    void *arg;
    size_t count;
    atomic_size_t next;
};

/* One task per lane; each takes tasks until none is left, so lanes may run at once or one after the other. */
static void run_lane(void *data, size_t lane) {
    struct job *job = data;
    for (;;) {
        size_t task = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (task >= job->count) return;
        job->fn(job->arg, task, (int)lane);
    }
}

void parallel_run(const dqt_context *ctx, size_t count, task_fn fn, void *arg) {
    struct job job = {.fn = fn, .arg = arg, .count = count};
    atomic_init(&job.next, 0);
    size_t lanes = (size_t)ctx->num_threads < count ? (size_t)ctx->num_threads : count;
    if (lanes <= 1 || ctx->threading == DQT_THREADING_SERIAL) {
        run_lane(&job, 0);
        return;
    }
    if (ctx->threading == DQT_THREADING_HOST) {
        ctx->parallel_for(ctx->parallel_user_data, lanes, run_lane, &job);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel for num_threads((int)lanes) schedule(static, 1)
    for (int lane = 0; lane < (int)lanes; lane++)
        run_lane(&job, (size_t)lane);
#endif
}
