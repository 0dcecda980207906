#include "core/parallel.h"

#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "core/assert.h"
#include "core/contention.h"
#include "core/fpenv.h"
#include "core/process.h"
#include "core/size.h"

struct job {
    task_fn fn;
    void *arg;
    size_t count;
    atomic_size_t next;
    const double *waited; /* [lanes]; NULL: tasks do not wait */
};

/* One call per lane; each takes tasks until none is left, so lanes may run at once or one after the other. The number
 * of tasks that this one took. */
static size_t take_tasks(struct job *job, size_t lane) {
    FPENV_DEFAULT();
    for (size_t taken = 0;; taken++) {
        const size_t task = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (task >= job->count) return taken;
        job->fn(job->arg, task, (int)lane);
    }
}

static void run_lane(void *data, size_t lane) {
    take_tasks(data, lane);
}

#ifdef _OPENMP
/* A region of `team` threads, of which `lanes` work. All regions have as many threads as the contention allows, since
 * libgomp ends those that a smaller region does not need and the next larger one starts them anew. It begins at
 * `now`; `c` NULL: nobody asks for its times. */
static void run_team(struct contention *c, double now, struct job *job, int team, int lanes) {
    struct region_times r = {.lanes = lanes, .tasks = (double)job->count, .begin = now};
    double busy = 0.0, fastest = HUGE_VAL;
#pragma omp parallel for num_threads(team) schedule(static, 1) reduction(+ : busy) reduction(min : fastest)
    for (int lane = 0; lane < lanes; lane++) {
        const double begin = c ? omp_get_wtime() : 0.0;
        const double taken = (double)take_tasks(job, (size_t)lane);
        if (c && taken > 0) {
            const double waited = job->waited ? job->waited[lane] : 0.0;
            const double time = fmax(omp_get_wtime() - begin - waited, 0.0);
            busy += time;
            fastest = fmin(fastest, time / taken);
        }
    }
    if (!c) return;
    r.end = omp_get_wtime();
    r.busy = busy;
    r.fastest_task = fastest;
    contention_count(c, &r);
}
#endif

/* Lanes that this much work pays for. */
static int paying_lanes(const dqt_context *ctx, size_t count, double work) {
    double lanes = (double)size_min(count, (size_t)ctx->num_threads);
    if (ctx->lane_work > 0.0) lanes = fmin(lanes, work / ctx->lane_work);
    return lanes < 2.0 ? 1 : (int)lanes;
}

static void run(const dqt_context *ctx, double work, struct job *job) {
    DQT_ASSERT(work >= 0.0);
    atomic_init(&job->next, 0);
    int lanes = ctx->threading == DQT_THREADING_SERIAL ? 1 : paying_lanes(ctx, job->count, work);
    if (lanes > 1 && ctx->threading == DQT_THREADING_HOST) {
        ctx->parallel_for(ctx->parallel_user_data, (size_t)lanes, run_lane, job);
        return;
    }
#ifdef _OPENMP
    /* getpid is a system call of some 100 ns: of no account where there is work for two lanes, and the only sign of a
     * fork that needs no handler in the host's process. */
    if (lanes > 1 && process_id() == ctx->process_id) {
        struct contention *c = ctx->lane_work > 0.0 ? ctx->contention : NULL;
        const double now = c ? omp_get_wtime() : 0.0;
        const int team = c ? contention_lanes(c, ctx->num_threads, now) : ctx->num_threads;
        if (lanes > team) lanes = team;
        if (lanes > 1) {
            run_team(c, now, job, team, lanes);
            return;
        }
    }
#endif
    run_lane(job, 0);
}

void parallel_run(const dqt_context *ctx, size_t count, double work, task_fn fn, void *arg) {
    struct job job = {.fn = fn, .arg = arg, .count = count};
    run(ctx, work, &job);
}

void parallel_run_waiting(const dqt_context *ctx, size_t count, double work, task_fn fn, void *arg, double *waited) {
    struct job job = {.fn = fn, .arg = arg, .count = count, .waited = waited};
    for (int lane = 0; lane < ctx->num_threads; lane++)
        waited[lane] = 0.0;
    run(ctx, work, &job);
}

double parallel_clock(void) {
#ifdef _OPENMP
    return omp_get_wtime();
#else
    return 0.0;
#endif
}
