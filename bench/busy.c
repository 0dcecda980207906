/* A machine whose cores are taken: training steps and generated tokens on all cores, in proportion to the same on one
 * thread, with 0, 1 and 2 spinning neighbours on each core (processes, bound to it). The two are measured turn by turn,
 * so that they meet the same machine; wall times of one round mean little.
 *
 *   build/bench/busy [ROUNDS [WINDOW_MS]]      default: 7 rounds of 2 x 300 ms each
 *
 * The ratio is that of the medians over the rounds of the time per step: below 1 all cores were faster. What is
 * demanded: at most 1.3 with one neighbour per core, 1.6 with two (docs/performance.md).
 *
 * Then what it costs to look out for neighbours where there are none: the system call and the clock readings of each
 * region, timed alone, in proportion to the fastest step of one thread divided by the threads, which is less than all
 * cores can do. Demanded: below 1 %. And steps on all cores with looking out and without, turn by turn: about 1 on an
 * idle machine, below it beside neighbours. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "core/contention.h"
#include "core/context.h"
#include "core/process.h"

enum { MAX_ROUNDS = 101, MAX_NEIGHBOURS = 256 };

struct job {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_session *session;
    int32_t batch, length;
    int32_t tokens[2048], targets[2048];
    float logits[256];
};

struct shape {
    const char *name;
    size_t hidden, ff, layers;
    int32_t batch, length; /* of a training step; 0: generation of one token after another */
};

static void ok(const dqt_context *ctx, dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static size_t regions;

static void counting_for(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    regions++;
    for (size_t i = 0; i < count; i++)
        task(task_data, i);
}

static void job_open(struct job *j, const struct shape *s, int threading, int threads) {
    dqt_context_options o;
    dqt_llama_config c;
    dqt_tape_options t;
    dqt_layer *const *layers;
    size_t count;
    *j = (struct job){.batch = s->batch, .length = s->length};
    ok(NULL, dqt_context_options_init(&o, sizeof o));
    o.threading = threading;
    o.num_threads = threads;
    o.parallel_for = threading == DQT_THREADING_HOST ? counting_for : NULL;
    ok(NULL, dqt_context_create(&o, &j->ctx));
    ok(j->ctx, dqt_llama_config_init(&c, sizeof c));
    c.hidden_size = s->hidden;
    c.intermediate_size = s->ff;
    c.num_layers = s->layers;
    ok(j->ctx, dqt_llama_create(j->ctx, &c, &j->model));
    for (int i = 0; i < 2048; i++) {
        j->tokens[i] = i * 7919 % 256;
        j->targets[i] = (i + 1) * 7919 % 256;
    }
    if (!s->batch) {
        const dqt_session_options session = {.struct_size = sizeof session, .max_length = 256};
        ok(j->ctx, dqt_session_create(j->model, &session, &j->session));
        return;
    }
    ok(j->ctx, dqt_llama_get_layers(j->model, &layers, &count));
    ok(j->ctx, dqt_tape_options_init(&t, sizeof t));
    t.max_batch = (size_t)s->batch;
    t.max_length = (size_t)s->length;
    ok(j->ctx, dqt_tape_create(j->ctx, layers, count, &t, &j->tape));
    ok(j->ctx, dqt_updater_create(j->ctx, layers, count, NULL, &j->updater));
}

static void job_close(struct job *j) {
    dqt_session_destroy(j->session);
    dqt_updater_destroy(j->updater);
    dqt_tape_destroy(j->tape);
    dqt_llama_destroy(j->model);
    dqt_context_destroy(j->ctx);
}

static void job_step(struct job *j) {
    if (j->session) {
        if (dqt_session_append(j->session, j->tokens, 1, j->logits) == DQT_OK) return;
        ok(j->ctx, dqt_session_truncate(j->session, 0));
        ok(j->ctx, dqt_session_append(j->session, j->tokens, 1, j->logits));
        return;
    }
    float loss;
    ok(j->ctx, dqt_tape_zero_gradients(j->tape));
    const dqt_batch batch = {.struct_size = sizeof batch,
                             .batch = (size_t)j->batch,
                             .length = (size_t)j->length,
                             .tokens = j->tokens,
                             .targets = j->targets};
    const dqt_step_options step = {.struct_size = sizeof step, .learning_rate = 1e-4f};
    ok(j->ctx, dqt_llama_loss(j->model, j->tape, &batch, &loss, NULL));
    ok(j->ctx, dqt_llama_backward(j->model, j->tape, 1.0f));
    ok(j->ctx, dqt_updater_step(j->updater, j->tape, &step, NULL));
}

/* Seconds per step within a window. */
static double measure(struct job *j, double window) {
    const double start = bench_now();
    double now;
    int steps = 0;
    do {
        job_step(j);
        steps++;
        now = bench_now();
    } while (now - start < window);
    return (now - start) / steps;
}

static int neighbours_start(int per_core, pid_t *pids) {
    cpu_set_t all;
    int count = 0;
    if (sched_getaffinity(0, sizeof all, &all)) return 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && count + per_core <= MAX_NEIGHBOURS; cpu++)
        for (int i = 0; CPU_ISSET((size_t)cpu, &all) && i < per_core; i++) {
            const pid_t pid = fork();
            if (pid > 0) pids[count++] = pid;
            if (pid == 0) {
                cpu_set_t one;
                CPU_ZERO(&one);
                CPU_SET((size_t)cpu, &one);
                sched_setaffinity(0, sizeof one, &one);
                for (volatile unsigned long spin = 0; getppid() != 1;) /* ends with its parent, killed or not */
                    for (int k = 0; k < 1000000; k++)
                        spin++;
                _exit(0);
            }
        }
    return count;
}

static void neighbours_stop(const pid_t *pids, int count) {
    for (int i = 0; i < count; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, bench_compare);
    return values[count / 2];
}

static const struct shape shapes[] = {{"token 128x2", 128, 352, 2, 0, 0},
                                      {"token 512x4", 512, 1408, 4, 0, 0},
                                      {"step 128x2 1x64", 128, 352, 2, 1, 64},
                                      {"step 256x4 4x128", 256, 704, 4, 4, 128},
                                      {"step 512x4 4x256", 512, 1408, 4, 4, 256}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void beside_neighbours(const struct shape *s, int rounds, double window) {
    static struct job one, all;
    job_open(&one, s, DQT_THREADING_SERIAL, 1);
    job_open(&all, s, DQT_THREADING_AUTO, 0);
    for (int per_core = 0; per_core <= 2; per_core++) {
        pid_t pids[MAX_NEIGHBOURS];
        double t_one[MAX_ROUNDS], t_all[MAX_ROUNDS], worst = 0;
        const int count = neighbours_start(per_core, pids);
        measure(&one, window);
        measure(&all, window);
        for (int r = 0; r < rounds; r++) {
            t_one[r] = measure(&one, window);
            t_all[r] = measure(&all, window);
            if (t_all[r] / t_one[r] > worst) worst = t_all[r] / t_one[r];
        }
        neighbours_stop(pids, count);
        const double m_one = median(t_one, rounds), m_all = median(t_all, rounds);
        printf("%-20s %10d %8d %12.1f %12.1f %8.2f %8.2f\n", s->name, per_core, dqt_context_num_threads(all.ctx),
               m_one * 1e6, m_all * 1e6, m_all / m_one, worst);
        fflush(stdout);
    }
    job_close(&all);
    job_close(&one);
}

/* ---- What looking out costs ------------------------------------------------------------------------------------ */

/* Seconds that core/parallel.c adds to a region on the calling thread: the least of many runs. */
static double region_cost(int threads) {
    enum { REGIONS = 1000, RUNS = 200 };
    struct contention c;
    double least = 1.0;
    long sum = 0;
    contention_init(&c, threads);
    for (int run = 0; run < RUNS; run++) {
        const double start = bench_now();
        for (int i = 0; i < REGIONS; i++) {
            struct region_times r = {.lanes = 2, .tasks = 64.0};
            r.begin = bench_now();
            sum += process_id() + contention_lanes(&c, threads, r.begin);
            const double begin = bench_now();
            r.busy = 2.0 * (bench_now() - begin);
            r.fastest_task = r.busy / 64.0;
            r.end = bench_now();
            contention_count(&c, &r);
        }
        const double time = (bench_now() - start) / REGIONS;
        if (time < least) least = time;
    }
    return sum ? least : 0.0;
}

/* Seconds of this thread's own work: a neighbour's do not count. */
static double work_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double timed_step(struct job *j) {
    const double start = bench_now();
    job_step(j);
    return bench_now() - start;
}

static void cost_of_looking_out(const struct shape *s, double seconds) {
    enum { MOST = 1000 };
    static struct job one, all, counted;
    static double with[MOST], without[MOST];
    job_open(&all, s, DQT_THREADING_AUTO, 0);
    struct contention *c = all.ctx->contention;
    const int threads = dqt_context_num_threads(all.ctx);
    if (!c || threads < 2) {
        printf("%-20s one thread: nothing to look out for\n", s->name);
        job_close(&all);
        return;
    }
    job_open(&one, s, DQT_THREADING_SERIAL, 1);
    job_open(&counted, s, DQT_THREADING_HOST, threads);
    regions = 0;
    job_step(&counted);
    int steps = 0;
    double fastest = 1e9;
    for (const double end = bench_now() + seconds; steps < MOST && (steps < 3 || bench_now() < end); steps++) {
        contention_init(c, threads); /* what it judged is forgotten */
        with[steps] = timed_step(&all);
        all.ctx->contention = NULL;
        without[steps] = timed_step(&all);
        all.ctx->contention = c;
        const double before = work_now();
        job_step(&one);
        const double alone = work_now() - before;
        if (alone < fastest) fastest = alone;
    }
    const double region = region_cost(threads);
    printf("%-20s %10zu %12.0f %12.1f %9.2f%% %8.3f\n", s->name, regions, region * 1e9, fastest * 1e6,
           100.0 * (double)regions * region * threads / fastest, median(with, steps) / median(without, steps));
    fflush(stdout);
    job_close(&counted);
    job_close(&one);
    job_close(&all);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 7;
    const double window = argc > 2 ? atof(argv[2]) * 1e-3 : 0.3;
    rounds = rounds < 1 ? 1 : rounds > MAX_ROUNDS ? MAX_ROUNDS : rounds;
    printf("%-20s %10s %8s %12s %12s %8s %8s\n", "job", "neighbours", "threads", "one, us", "all, us", "ratio",
           "worst");
    for (size_t s = 0; s < SHAPES; s++)
        beside_neighbours(&shapes[s], rounds, window);
    printf("\n%-20s %10s %12s %12s %10s %8s\n", "job", "regions", "ns a region", "one, us", "cost", "with/out");
    for (size_t s = 0; s < SHAPES; s++)
        cost_of_looking_out(&shapes[s], rounds * window);
    return 0;
}
