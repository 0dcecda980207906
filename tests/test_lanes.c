/* How many lanes take part: none beside the caller for work too small to pay, fewer where cores are taken. Nothing here
 * is timed: regions are counted, and the judgement of contention is given times. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "calls.h"
#include "core/contention.h"
#include "core/parallel.h"
#include "core/team.h"
#include "lanes.h"
#include "test.h"

static size_t regions, tasks;

static void counting_for(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    regions++;
    tasks += count;
    for (size_t i = 0; i < count; i++)
        task(task_data, i);
}

static dqt_context *counting_context(int threads, int isa) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_options_init(&o, sizeof o));
    o.threading = DQT_THREADING_HOST;
    o.parallel_for = counting_for;
    o.num_threads = threads;
    o.isa = isa;
    OK(NULL, dqt_context_create(&o, &ctx));
    return ctx;
}

/* ---- Work that pays -------------------------------------------------------------------------------------------- */

static void one_token_of_a_small_model(void) {
    dqt_context *ctx = counting_context(2, DQT_ISA_AUTO);
    dqt_llama_config c;
    dqt_llama *model = NULL;
    dqt_session *session = NULL;
    float logits[256];
    const int32_t token = 7;
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    if (dqt_context_isa(ctx) == DQT_ISA_SCALAR) c.hidden_size = c.intermediate_size = 64;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_session_create(model, session_of(8), &session));
    regions = 0;
    for (int i = 0; i < 8; i++)
        OK(ctx, dqt_session_append(session, &token, 1, logits));
    CHECKF(regions == 0, "%zu regions for 8 tokens", regions);
    dqt_session_destroy(session);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
}

/* Every phase of a step that is worth it is shared: without regions this test of the test above would be empty. */
static void steps_are_shared(void) {
    dqt_context *ctx = counting_context(2, DQT_ISA_SCALAR); /* the others share less: they are faster */
    dqt_llama_config c;
    dqt_llama *model = NULL;
    dqt_tape *tape = NULL;
    dqt_updater *updater = NULL;
    dqt_layer *const *layers;
    size_t count, before;
    float loss;
    static int32_t text[65];
    for (int i = 0; i < 65; i++)
        text[i] = i * 31 % 256;
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.hidden_size = 256;
    c.intermediate_size = 704;
    regions = 0;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    CHECKF(regions >= 14, "%zu regions to draw 14 matrices", regions);
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    dqt_tape_options t;
    OK(ctx, dqt_tape_options_init(&t, sizeof t));
    t.max_batch = 1;
    t.max_length = 64;
    OK(ctx, dqt_tape_create(ctx, layers, count, &t, &tape));
    OK(ctx, dqt_updater_create(ctx, layers, count, NULL, &updater));
    before = regions;
    OK(ctx, dqt_tape_zero_gradients(tape));
    CHECKF(regions == before + 1, "%zu regions to zero gradients", regions - before);
    before = regions;
    OK(ctx, dqt_llama_loss(model, tape, batch_pairs(text, text + 1, 1, 64), &loss, NULL));
    CHECKF(regions >= before + 15, "%zu regions forward: 14 products, a head and more", regions - before);
    before = regions;
    OK(ctx, dqt_llama_backward(model, tape, 1.0f));
    CHECKF(regions >= before + 30, "%zu regions backward", regions - before);
    before = regions;
    OK(ctx, dqt_updater_step(updater, tape, step_rate(1e-3f), NULL));
    CHECKF(regions >= before + 14, "%zu regions of the update", regions - before);
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
}

static void count_task(void *arg, size_t task, int lane) {
    (void)task;
    ((size_t *)arg)[lane]++;
}

static void lanes_that_work_pays_for(void) {
    static const struct {
        size_t count;
        double work;
        size_t lanes; /* 1: no region */
    } all[] = {{100, 0.0, 1},
               {100, 1.9 * LANE_WORK, 1},
               {100, 2.0 * LANE_WORK, 2},
               {100, 3.9 * LANE_WORK, 3},
               {100, 1e3 * LANE_WORK, 8},
               {3, 1e3 * LANE_WORK, 3},
               {1, 1e3 * LANE_WORK, 1},
               {0, 1e3 * LANE_WORK, 1},
               {100, 1e300, 8}};
    dqt_context *ctx = counting_context(8, DQT_ISA_AUTO);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        size_t done[8] = {0}, sum = 0;
        regions = tasks = 0;
        parallel_run(ctx, all[i].count, all[i].work, count_task, done);
        for (int lane = 0; lane < 8; lane++)
            sum += done[lane];
        CHECKF(sum == all[i].count, "%zu: %zu of %zu tasks", i, sum, all[i].count);
        CHECKF(all[i].lanes == 1 ? regions == 0 : regions == 1 && tasks == all[i].lanes, "%zu: %zu regions, %zu lanes",
               i, regions, tasks);
    }
    dqt_context_destroy(ctx);
}

/* ---- Contention ------------------------------------------------------------------------------------------------ */

enum { TASKS = 64 };

/* A machine that is simulated: a region's tasks take 100 us altogether; where the lanes are more than the `free` cores,
 * a lane waits a time slice for its core at one region in `often`. */
struct machine {
    struct contention c;
    int lanes, free;
    unsigned often, turn;
    double now, serial, waited; /* seconds */
};

static const double work = 100e-6, slice = 3e-3;

static struct machine machine(int lanes, int free, unsigned often) {
    struct machine m = {.lanes = lanes, .free = free, .often = often};
    contention_init(&m.c, lanes);
    return m;
}

static int region(struct machine *m) {
    const int lanes = contention_lanes(&m->c, m->lanes, m->now);
    CHECK(!atomic_flag_test_and_set(&m->c.updating)); /* it owns the judgement no longer */
    atomic_flag_clear(&m->c.updating);
    const bool waits = lanes > m->free && m->turn++ % m->often == 0;
    const double took = work / lanes + (waits ? slice : 0.0);
    const struct region_times r = {.lanes = lanes,
                                   .begin = m->now,
                                   .end = m->now + took,
                                   .busy = work + (waits && m->turn % 2 ? slice : 0.0), /* in a task, or before one */
                                   .fastest_task = work / TASKS,
                                   .tasks = TASKS};
    if (lanes > 1) contention_count(&m->c, &r);
    m->now += took;
    m->serial += work;
    m->waited += waits ? slice : 0.0;
    return lanes;
}

static void idle_machines_keep_all_lanes(void) {
    static const int counts[] = {2, 3, 8, 32, 1024};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct machine m = machine(counts[i], counts[i], 1);
        for (int n = 0; n < 20000; n++)
            CHECK(region(&m) == counts[i]);
    }
    struct machine m = machine(2, 1, 2000); /* somebody is there for a slice each tenth of a second */
    for (int n = 0; n < 20000; n++)
        CHECK(region(&m) == 2);
}

static void taken_cores_are_left_alone(void) {
    for (unsigned often = 1; often <= 16; often *= 2) {
        struct machine m = machine(2, 1, often);
        while (m.now < 20.0)
            region(&m);
        CHECKF(m.now < 1.1 * m.serial, "one of %u waits: %.2f s for %.2f s of work", often, m.now, m.serial);
        /* and are used again when they are free */
        m.free = 2;
        const double end = m.now + 4.1;
        while (m.now < end)
            region(&m);
        CHECK(region(&m) == 2);
    }
}

/* Threads of a host may use one context at once: the judgement has one owner at a time (make check-tsan looks on). */
static struct contention of_several;

static void *judge(void *arg) {
    const struct region_times r = {.lanes = 2, .end = 3e-3, .busy = work, .fastest_task = work / TASKS, .tasks = TASKS};
    int *least = arg;
    *least = 2;
    for (int i = 0; i < 1000; i++) {
        const int lanes = contention_lanes(&of_several, 2, 0.0);
        if (lanes < *least) *least = lanes;
        if (lanes > 1) contention_count(&of_several, &r);
    }
    return NULL;
}

static void several_threads_judge(void) {
    pthread_t threads[4];
    int least[4];
    contention_init(&of_several, 2);
    for (size_t i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, judge, &least[i]) == 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK(contention_lanes(&of_several, 2, 0.0) == 1);
    CHECK(least[0] >= 1 && least[1] >= 1 && least[2] >= 1 && least[3] >= 1);
}

/* With many cores a neighbour costs few lanes, not all but one. */
static void one_neighbour_of_many_cores(void) {
    struct machine m = machine(32, 31, 1);
    double sum = 0.0;
    int count = 0;
    while (m.now < 20.0) {
        const int lanes = region(&m);
        sum += lanes;
        count++;
    }
    CHECKF(sum / count > 20.0, "%.1f lanes on average", sum / count);
    CHECKF(m.waited < 0.1 * m.now, "%.2f of %.2f s waited", m.waited, m.now);
}

/* A task that says that all of its time went by waiting for another's. */
static void waiting_task(void *arg, size_t task, int lane) {
    const double begin = parallel_clock();
    double now;
    (void)task;
    do
        now = parallel_clock();
    while (now - begin < 1e-3);
    ((double *)arg)[lane] += now - begin;
}

static void waiting_is_no_work(void) {
    dqt_context *ctx;
    dqt_context_options o;
    double waited[2];
    OK(NULL, dqt_context_options_init(&o, sizeof o));
    o.num_threads = 2;
    OK(NULL, dqt_context_create(&o, &ctx));
    if (!ctx->contention) {
        dqt_context_destroy(ctx);
        SKIP("a build without OpenMP");
    }
    int least = 2;
    for (int i = 0; i < 40 && least == 2; i++) {
        parallel_run_waiting(ctx, 8, 1e6, waiting_task, waited, waited);
        least = atomic_load(&ctx->contention->lanes);
    }
    CHECK(waited[0] + waited[1] > 0); /* one lane may have come too late for any task */
    CHECKF(least == 1, "%d lanes though all that they did was to wait", least);
    dqt_context_destroy(ctx);
}

/* ---- Lanes that stand by --------------------------------------------------------------------------------------- */

enum { STANDING = 3, JOBS = 3000, JOB_TASKS = 5 };

struct team_job {
    atomic_size_t next;
    size_t done[JOB_TASKS]; /* no atomics: only one lane may come to it, and the leader after that */
    unsigned lanes;
};

static void job_lane(void *data, size_t lane) {
    struct team_job *job = data;
    CHECK(lane < job->lanes);
    for (size_t i = atomic_fetch_add(&job->next, 1); i < JOB_TASKS; i = atomic_fetch_add(&job->next, 1))
        job->done[i]++;
}

struct member {
    struct team *team;
    size_t lane;
};

static void *member(void *arg) {
    const struct member *m = arg;
    team_stand_by(m->team, m->lane);
    return NULL;
}

/* When a job has returned nobody is in it any more, whoever came or came too late. */
static void jobs_are_done(struct team *team) {
    for (unsigned i = 0; i < JOBS; i++) {
        struct team_job job = {.lanes = 1 + i % STANDING};
        atomic_init(&job.next, 0);
        team_run(team, &job, job.lanes);
        for (size_t k = 0; k < JOB_TASKS; k++)
            CHECKF(job.done[k] == 1, "job %u: task %zu done %zu times", i, k, job.done[k]);
        memset(&job, 0xff, sizeof job);
    }
}

static void a_team_does_one_job_after_the_other(void) {
    struct team team;
    pthread_t threads[STANDING];
    struct member members[STANDING];
    team_init(&team, job_lane);
    jobs_are_done(&team); /* nobody has come yet: nobody is waited for */
    for (size_t i = 1; i < STANDING; i++) {
        members[i] = (struct member){&team, i};
        CHECK(pthread_create(&threads[i], NULL, member, &members[i]) == 0);
    }
    jobs_are_done(&team);
    team_dismiss(&team);
    for (size_t i = 1; i < STANDING; i++)
        pthread_join(threads[i], NULL);
}

static void count_lane(void *data, size_t lane) {
    atomic_size_t *entered = data;
    if (lane) atomic_fetch_add(entered, 1);
}

/* A lane that saw a job's gate, and lost its core until that job and others were over. */
static void who_comes_too_late_stays_out(void) {
    struct team team;
    struct member late = {&team, 1};
    pthread_t thread;
    atomic_size_t entered;
    atomic_init(&entered, 0);
    team_init(&team, count_lane);
    team_run(&team, &entered, 2);
    const size_t gate = atomic_load(&team.gate);
    for (int i = 0; i < 3; i++)
        team_run(&team, &entered, 2);
    atomic_store(&team.gate, gate);
    CHECK(pthread_create(&thread, NULL, member, &late) == 0);
    for (int i = 0; i < 10000 && atomic_load(&entered) == 0; i++)
        sched_yield();
    team_dismiss(&team);
    pthread_join(thread, NULL);
    CHECK(atomic_load(&entered) == 0);
}

static dqt_context *openmp_context(void) {
    dqt_context *ctx = NULL;
    dqt_context_options o;
    OK(NULL, dqt_context_options_init(&o, sizeof o));
    o.num_threads = STANDING;
    OK(NULL, dqt_context_create(&o, &ctx));
    share_all_work(ctx);
    return ctx;
}

struct standing_work {
    dqt_context *ctx, *other;
    atomic_size_t lanes; /* a bit each */
    atomic_size_t done;
};

static void note_lane(void *arg, size_t task, int lane) {
    struct standing_work *w = arg;
    (void)task;
    atomic_fetch_add(&w->done, 1);
    atomic_fetch_or(&w->lanes, (size_t)1 << lane);
}

static void many_small_jobs(void *arg) {
    struct standing_work *w = arg;
    for (size_t i = 0; i < JOBS || (w->ctx->contention && atomic_load(&w->lanes) == 1 && i < 1000 * (size_t)JOBS);
         i++) {
        const size_t before = atomic_load(&w->done);
        parallel_run(i % 16 == 15 ? w->other : w->ctx, 1 + i % 64, 1.0, note_lane, w);
        CHECK(atomic_load(&w->done) - before == 1 + i % 64);
    }
}

/* Also where another context's work comes in between. */
static void small_jobs_find_lanes(void) {
    struct standing_work w = {.ctx = openmp_context(), .other = openmp_context()};
    parallel_stand_by(w.ctx, 1.0, many_small_jobs, &w);
    CHECKF(!w.ctx->contention || atomic_load(&w.lanes) > 1, "lanes %zu", atomic_load(&w.lanes));
    parallel_run(w.ctx, 7, 1.0, note_lane, &w); /* and afterwards */
    dqt_context_destroy(w.ctx);
    dqt_context_destroy(w.other);
}

static const struct test tests[] = {
    TEST(one_token_of_a_small_model),   TEST(steps_are_shared),           TEST(lanes_that_work_pays_for),
    TEST(idle_machines_keep_all_lanes), TEST(taken_cores_are_left_alone), TEST(several_threads_judge),
    TEST(one_neighbour_of_many_cores),  TEST(waiting_is_no_work),         TEST(a_team_does_one_job_after_the_other),
    TEST(who_comes_too_late_stays_out), TEST(small_jobs_find_lanes)};
TEST_MAIN(tests)
