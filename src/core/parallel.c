#include "core/parallel.h"

#include <limits.h>
#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "core/assert.h"
#include "core/contention.h"
#include "core/fpenv.h"
#include "core/process.h"
#include "core/size.h"
#include "core/team.h"

/* Tasks that follow each other are mostly one lane's: what it fetches ahead at the end of a task is what it reads next,
 * and lanes do not pass one counter's cache line around. */
enum { RANGES = 16, LINE = 64 };
struct range {
    _Alignas(LINE) atomic_size_t next;
    size_t end;
    /* Of the lanes that begin with it, where the job is timed: */
    atomic_llong busy;    /* nanoseconds from first to last task, summed */
    atomic_llong fastest; /* nanoseconds of a task: the least of their means */
};

struct job {
    task_fn fn;
    void *arg;
    size_t count;
    size_t ranges; /* of tasks; lanes that have done theirs help with the others */
    struct range range[RANGES];
    const double *waited; /* [lanes]; NULL: tasks do not wait */
    bool timed;
};

static void share_tasks(struct job *job, size_t lanes) {
    job->ranges = size_min(lanes, RANGES);
    for (size_t i = 0; i < job->ranges; i++) {
        struct range *range = &job->range[i];
        atomic_init(&range->next, job->count * i / job->ranges);
        range->end = job->count * (i + 1) / job->ranges;
        atomic_init(&range->busy, 0);
        atomic_init(&range->fastest, LLONG_MAX);
    }
}

/* One call per lane; each takes tasks until none is left, so lanes may run at once or one after the other. The number
 * of tasks that this one took. */
static size_t take_tasks(struct job *job, size_t lane) {
    size_t taken = 0;
    FPENV_DEFAULT();
    for (size_t i = 0; i < job->ranges; i++) {
        struct range *range = &job->range[(lane + i) % job->ranges];
        /* Looking costs less than taking, which moves the cache line. */
        for (; atomic_load_explicit(&range->next, memory_order_relaxed) < range->end; taken++) {
            const size_t task = atomic_fetch_add_explicit(&range->next, 1, memory_order_relaxed);
            if (task >= range->end) break;
            job->fn(job->arg, task, (int)lane);
        }
    }
    return taken;
}

static void run_lane(void *data, size_t lane) {
    take_tasks(data, lane);
}

#ifdef _OPENMP
static void run_timed_lane(void *data, size_t lane) {
    struct job *job = data;
    const double begin = job->timed ? omp_get_wtime() : 0.0;
    const double taken = (double)take_tasks(job, lane);
    if (!job->timed || taken < 1) return;
    const double waited = job->waited ? job->waited[lane] : 0.0;
    const double time = 1e9 * fmax(omp_get_wtime() - begin - waited, 0.0);
    struct range *range = &job->range[lane % job->ranges];
    atomic_fetch_add_explicit(&range->busy, (long long)time, memory_order_relaxed);
    long long least = atomic_load_explicit(&range->fastest, memory_order_relaxed);
    while ((long long)(time / taken) < least &&
           !atomic_compare_exchange_weak_explicit(&range->fastest, &least, (long long)(time / taken),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

/* The team of lanes that stand by for this thread, and the context that it is of. */
static _Thread_local struct standing {
    const dqt_context *ctx;
    struct team team;
    size_t size;
} * standing;

static bool stands_by(const dqt_context *ctx) {
    return standing && standing->ctx == ctx;
}

/* Some lanes of a team that stands by, or a region of `team` threads, of which `lanes` work. All regions have as many
 * threads as the contention allows, since libgomp ends those that a smaller region does not need and the next larger
 * one starts them anew. It begins at `now`; `c` NULL: nobody asks for its times. */
static void run_lanes(const dqt_context *ctx, struct contention *c, double now, struct job *job, int team, int lanes) {
    struct region_times r = {.lanes = lanes, .tasks = (double)job->count, .begin = now};
    job->timed = c != NULL;
    if (stands_by(ctx)) {
        team_run(&standing->team, job, (size_t)lanes);
    } else {
#pragma omp parallel for num_threads(team) schedule(static, 1)
        for (int lane = 0; lane < lanes; lane++)
            run_timed_lane(job, (size_t)lane);
    }
    if (!c) return;
    r.end = omp_get_wtime();
    long long busy = 0, fastest = LLONG_MAX;
    for (size_t i = 0; i < job->ranges; i++) {
        const long long least = atomic_load_explicit(&job->range[i].fastest, memory_order_relaxed);
        busy += atomic_load_explicit(&job->range[i].busy, memory_order_relaxed);
        if (least < fastest) fastest = least;
    }
    r.busy = 1e-9 * (double)busy;
    r.fastest_task = 1e-9 * (double)fastest;
    contention_count(c, &r);
}
#endif

/* Lanes that this much work pays for, where a lane costs `lane_work`. */
static int paying_lanes(const dqt_context *ctx, size_t count, double work, double lane_work) {
    double lanes = (double)size_min(count, (size_t)ctx->num_threads);
    if (lane_work > 0.0) lanes = fmin(lanes, work / lane_work);
    return lanes < 2.0 ? 1 : (int)lanes;
}

#ifdef _OPENMP
/* getpid is a system call of some 100 ns: of no account where there is work for two lanes, and the only sign of a fork
 * that needs no handler in the host's process. */
static bool may_open_region(const dqt_context *ctx) {
    return stands_by(ctx) || process_id() == ctx->process_id;
}

static int region_lanes(const dqt_context *ctx, struct contention *c, double now) {
    const int lanes = c ? contention_lanes(c, ctx->num_threads, now) : ctx->num_threads;
    return stands_by(ctx) && (size_t)lanes > standing->size ? (int)standing->size : lanes;
}
#endif

void parallel_stand_by(const dqt_context *ctx, double work, void (*body)(void *), void *arg) {
#ifdef _OPENMP
    const bool pays =
        ctx->threading == DQT_THREADING_OPENMP && paying_lanes(ctx, SIZE_MAX, work, ctx->lane_work * STANDING_PAYS) > 1;
    if (pays && !standing && may_open_region(ctx)) {
        struct contention *c = ctx->lane_work > 0.0 ? ctx->contention : NULL;
        int size = region_lanes(ctx, c, c ? omp_get_wtime() : 0.0);
        if (size > TEAM_LANES) size = TEAM_LANES;
        if (size > 1) {
            struct standing s = {.ctx = ctx, .size = (size_t)size};
            struct region_times r = {.lanes = size, .tasks = 1.0}; /* no work: all of it is waiting for the others */
            team_init(&s.team, run_timed_lane);
#pragma omp parallel num_threads(size)
            if (omp_get_thread_num() == 0) {
                standing = &s;
                body(arg);
                standing = NULL;
                if (c) r.begin = omp_get_wtime();
                team_dismiss(&s.team);
            } else {
                team_stand_by(&s.team, (size_t)omp_get_thread_num());
            }
            if (!c) return;
            r.end = omp_get_wtime();
            contention_count(c, &r);
            return;
        }
    }
#else
    (void)ctx;
    (void)work;
#endif
    body(arg);
}

static void run(const dqt_context *ctx, double work, struct job *job) {
    DQT_ASSERT(work >= 0.0);
    double lane_work = ctx->lane_work;
#ifdef _OPENMP
    if (stands_by(ctx)) lane_work *= STANDING_LANE_WORK / LANE_WORK;
#endif
    int lanes = ctx->threading == DQT_THREADING_SERIAL ? 1 : paying_lanes(ctx, job->count, work, lane_work);
    if (lanes > 1 && ctx->threading == DQT_THREADING_HOST) {
        share_tasks(job, (size_t)lanes);
        ctx->parallel_for(ctx->parallel_user_data, (size_t)lanes, run_lane, job);
        return;
    }
#ifdef _OPENMP
    if (lanes > 1 && may_open_region(ctx)) {
        struct contention *c = ctx->lane_work > 0.0 ? ctx->contention : NULL;
        const double now = c ? omp_get_wtime() : 0.0;
        const int team = region_lanes(ctx, c, now);
        if (lanes > team) lanes = team;
        if (lanes > 1) {
            share_tasks(job, (size_t)lanes);
            run_lanes(ctx, c, now, job, team, lanes);
            return;
        }
    }
#endif
    share_tasks(job, 1);
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
