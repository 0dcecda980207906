/* What a host's process may do: fork with inherited and with new contexts, processors granted by control groups. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "calls.h"
#include "core/process.h"
#include "lanes.h"
#include "test.h"

/* ---- Fork ------------------------------------------------------------------------------------------------------ */

enum { LENGTH = 32, SECONDS = 60 };

static dqt_context *context(int threading, int threads) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_options_init(&o, sizeof o));
    o.threading = threading;
    o.num_threads = threads;
    OK(NULL, dqt_context_create(&o, &ctx));
    share_all_work(ctx);
    return ctx;
}

/* The loss after three steps of a small model. */
static float train(dqt_context *ctx) {
    dqt_llama *model = NULL;
    dqt_tape *tape = NULL;
    dqt_updater *updater = NULL;
    dqt_layer *const *layers;
    size_t count;
    int32_t text[LENGTH + 1];
    float loss = -1;
    for (int i = 0; i <= LENGTH; i++)
        text[i] = i * 5 % 256;
    OK(ctx, dqt_llama_create(ctx, NULL, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    OK(ctx, dqt_tape_create(ctx, layers, count, NULL, &tape));
    OK(ctx, dqt_updater_create(ctx, layers, count, NULL, &updater));
    for (int i = 0; i < 3; i++) {
        OK(ctx, dqt_tape_zero_gradients(tape));
        OK(ctx, dqt_llama_loss(model, tape, batch_pairs(text, text + 1, 1, LENGTH), &loss, NULL));
        OK(ctx, dqt_llama_backward(model, tape, 1.0f));
        OK(ctx, dqt_updater_step(updater, tape, step_rate(1e-2f), NULL));
    }
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    return loss;
}

/* Ends a child: 0 where `good` and nothing else failed. */
static void child_ends(bool good) {
    fflush(stdout);
    _exit(good && !test_failures ? 0 : 1);
}

/* What the child ended with, -1 unless it did so by itself and within a minute: one that waits for threads of its
 * parent never does. */
static int child_ended_with(pid_t pid) {
    const struct timespec tick = {0, 10000000};
    int status = 0;
    for (int i = 0; i < SECONDS * 100; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        nanosleep(&tick, NULL);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    printf("a child was still running after %d s\n", SECONDS);
    return -1;
}

static bool child_is_well(pid_t pid) {
    return child_ended_with(pid) == 0;
}

/* The number of threads of a new context in a child, without OpenMP's being used. */
static bool new_context_has(int threading, int given, int expected) {
    dqt_context *ctx = context(threading, given);
    const int threads = dqt_context_num_threads(ctx);
    dqt_context_destroy(ctx);
    if (threads != expected) printf("%d threads instead of %d\n", threads, expected);
    return threads == expected;
}

static void children_work(void) {
    dqt_context *ctx = context(DQT_THREADING_AUTO, 2);
    const float expected = train(ctx);
    CHECK(process_history() == PROCESS_WHOLE);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) child_ends(train(ctx) == expected);
    CHECK(child_is_well(pid)); /* with the inherited context */
    pid = fork();
    if (pid == 0) {
        dqt_context *own = context(DQT_THREADING_AUTO, 2);
        const bool good = train(own) == expected && process_history() == PROCESS_FORKED_LATER;
        dqt_context_destroy(own);
        child_ends(good && new_context_has(DQT_THREADING_AUTO, 2, 1));
    }
    CHECK(child_is_well(pid)); /* with its own */
    pid = fork();
    if (pid == 0) {
        pid = fork();
        if (pid == 0) child_ends(train(ctx) == expected && new_context_has(DQT_THREADING_AUTO, 0, 1));
        child_ends(child_is_well(pid));
    }
    CHECK(child_is_well(pid)); /* a grandchild, whose parent used nothing */
    CHECK(train(ctx) == expected);
    dqt_context_destroy(ctx);
}

#if defined(_OPENMP) && defined(__linux__)
/* This program, in a new process. */
static pid_t run_anew(const char *argument) {
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "test_process", argument, (char *)NULL);
        _exit(2);
    }
    return pid;
}
#endif

/* In a forked process that the library is new to, OpenMP may have been used by others before: only by name. This
 * program is run anew by a child of a fork that has used OpenMP, but not the library, and forks again. */
static void children_of_a_host_with_openmp(void) {
#if defined(_OPENMP) && defined(__linux__)
    CHECK(child_is_well(run_anew("--host")));
#else
    SKIP("built without OpenMP, or not on Linux");
#endif
}

#if defined(_OPENMP) && defined(__linux__)
static int host(void) {
    int sum = 0;
#pragma omp parallel for num_threads(2) reduction(+ : sum)
    for (int i = 0; i < 100; i++)
        sum += i;
    pid_t pid = fork();
    if (pid == 0) {
        dqt_context *ctx = context(DQT_THREADING_AUTO, 2);
        child_ends(sum == 4950 && dqt_context_num_threads(ctx) == 1 && train(ctx) > 0.0f);
    }
    bool good = child_is_well(pid);
    pid = fork();
    if (pid == 0) child_ends(new_context_has(DQT_THREADING_OPENMP, 2, 2)); /* the host's word; no region here */
    good = child_is_well(pid) && good;
    return good && !test_failures ? 0 : 1;
}
#endif

/* ---- Processors ------------------------------------------------------------------------------------------------ */

static char root[] = "/tmp/dqt-process-XXXXXX";

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0);
    if (file) fclose(file);
}

/* Into `root`, with the folders that it needs. */
static void put(const char *path, const char *text) {
    char full[600];
    for (const char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        snprintf(full, sizeof full, "%s%.*s", root, (int)(slash - path), path);
        mkdir(full, 0700);
    }
    snprintf(full, sizeof full, "%s%s", root, path);
    write_text(full, text);
}

static void clear(void) {
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0);
    CHECK(mkdir(root, 0700) == 0);
}

#define V1 "7:cpuacct:/x\n4:cpu,cpuacct:/a/b\n1:name=systemd:/\n0::/\n"

static void quotas(void) {
    static const struct {
        int expected;
        const char *cgroup, *path[2], *text[2];
    } all[] = {
        /* version 2 */
        {2, "0::/\n", {"/sys/fs/cgroup/cpu.max"}, {"200000 100000\n"}},
        {3, "0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max"}, {"200001 100000\n"}},
        {1, "0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max"}, {"1000 100000\n"}},
        {0, "0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max"}, {"max 100000\n"}},
        {4,
         "0::/a/b\n",
         {"/sys/fs/cgroup/a/b/cpu.max", "/sys/fs/cgroup/a/cpu.max"},
         {"max 100000\n", "400000 100000\n"}},
        {2, "0::/a\n", {"/sys/fs/cgroup/a/cpu.max", "/sys/fs/cgroup/cpu.max"}, {"150000 100000\n", "400000 100000\n"}},
        {5, "0::/not/here\n", {"/sys/fs/cgroup/cpu.max"}, {"500000 100000"}},
        {5, "0::/../..\n", {"/sys/fs/cgroup/cpu.max"}, {"500000 100000"}},
        /* version 1, and both */
        {3,
         V1,
         {"/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us"},
         {"250000\n", "100000\n"}},
        {3,
         V1,
         {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"},
         {"300000\n", "100000\n"}},
        {0,
         V1,
         {"/sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us"},
         {"-1\n", "100000\n"}},
        {0, V1, {"/sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us"}, {"100000\n"}},
        {0,
         "3:cpuset:/\n",
         {"/sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "/sys/fs/cgroup/cpuset/cpu.cfs_period_us"},
         {"100000\n", "100000\n"}},
        /* nothing, and nonsense */
        {0, "0::/\n", {NULL}, {NULL}},
        {0, "", {"/sys/fs/cgroup/cpu.max"}, {"200000 100000\n"}},
        {0, "nonsense\n::\n:\n\n0:\n", {"/sys/fs/cgroup/cpu.max"}, {"200000\n"}},
        {0, "0::/\n", {"/sys/fs/cgroup/cpu.max"}, {"200000\n"}},
        {0, "0::/\n", {"/sys/fs/cgroup/cpu.max"}, {"two hundred\n"}},
        {0, "0::/\n", {"/sys/fs/cgroup/cpu.max"}, {"200000 0\n"}},
        {0, "0::/\n", {"/sys/fs/cgroup/cpu.max"}, {"-5 100000\n"}},
        {0, "0::/\n", {"/sys/fs/cgroup/cpu.max"}, {"9223372036854775807 1\n"}},
        {0,
         "0::/\n",
         {"/sys/fs/cgroup/cpu.max"},
         {"99999999999999999999999999999999999999999999999999999999999999999 1\n"}},
        {0, "0::/\n", {"/sys/fs/cgroup/cpu.max"}, {""}},
    };
    CHECK(mkdtemp(root) != NULL);
    CHECK(process_cpu_quota(root) == 0); /* not even a /proc */
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        clear();
        put("/proc/self/cgroup", all[i].cgroup);
        for (int k = 0; k < 2 && all[i].path[k]; k++)
            put(all[i].path[k], all[i].text[k]);
        const int quota = process_cpu_quota(root);
        CHECKF(quota == all[i].expected, "%zu: %d instead of %d", i, quota, all[i].expected);
    }
    clear();
    char longest[3000];
    memset(longest, 'x', sizeof longest);
    memcpy(longest, "0::/", 4);
    memcpy(longest + sizeof longest - 2, "\n", 2);
    put("/proc/self/cgroup", longest); /* a folder whose name does not fit */
    put("/sys/fs/cgroup/cpu.max", "700000 100000\n");
    CHECK(process_cpu_quota(root) == 7);
    clear();
    CHECK(rmdir(root) == 0);
}

#if defined(_OPENMP) && defined(__linux__)
enum { NOT_PERMITTED = 77 };

/* In a new process, whose control groups a file and a folder in memory take the place of. */
static int granted(void) {
    static const struct {
        const char *cgroup, *name[2], *text[2];
        int most;
    } all[] = {{"0::/\n", {"/cpu.max", NULL}, {"max 100000\n", NULL}, 1024},
               {"0::/\n", {"/cpu.max", NULL}, {"50000 100000\n", NULL}, 1},
               {"0::/\n", {"/cpu.max", NULL}, {"150000 100000\n", NULL}, 2},
               {"1:cpu:/\n", {"/cpu/cpu.cfs_quota_us", "/cpu/cpu.cfs_period_us"}, {"-1\n", "100000\n"}, 1024},
               {"1:cpu:/\n", {"/cpu/cpu.cfs_quota_us", "/cpu/cpu.cfs_period_us"}, {"100000\n", "100000\n"}, 1}};
    char own[64], path[600];
    const int usual = omp_get_max_threads() < omp_get_num_procs() ? omp_get_max_threads() : omp_get_num_procs();
    if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0) return NOT_PERMITTED;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || !mkdtemp(root)) return NOT_PERMITTED;
    put("/cgroup", "");
    snprintf(path, sizeof path, "%s/cgroup", root);
    snprintf(own, sizeof own, "/proc/%ld/cgroup", (long)getpid());
    bool mounted = mount("none", "/sys/fs/cgroup", "tmpfs", 0, "size=1m") == 0;
    mounted = mounted && mount(path, own, NULL, MS_BIND, NULL) == 0;
    if (mounted) mkdir("/sys/fs/cgroup/cpu", 0700);
    for (size_t i = 0; mounted && i < sizeof all / sizeof *all; i++) {
        write_text(path, all[i].cgroup);
        for (int k = 0; k < 2 && all[i].name[k]; k++) {
            char file[128];
            snprintf(file, sizeof file, "/sys/fs/cgroup%s", all[i].name[k]);
            write_text(file, all[i].text[k]);
        }
        CHECKF(new_context_has(DQT_THREADING_AUTO, 0, usual < all[i].most ? usual : all[i].most), "case %zu", i);
        CHECK(new_context_has(DQT_THREADING_AUTO, 3, 3)); /* the host's word */
    }
    umount(own);
    clear();
    CHECK(rmdir(root) == 0);
    return mounted ? test_failures != 0 : NOT_PERMITTED;
}
#endif

/* A context asks for them. */
static void quotas_of_this_process(void) {
#if defined(_OPENMP) && defined(__linux__)
    const int status = child_ended_with(run_anew("--granted"));
    if (status == NOT_PERMITTED) SKIP("this process may not mount control groups of its own");
    CHECK(status == 0);
#else
    SKIP("built without OpenMP, or not on Linux");
#endif
}

/* The default is no more than this thread may use. */
static void affinity(void) {
#if defined(_OPENMP) && defined(__linux__)
    cpu_set_t before, one;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    if (CPU_COUNT(&before) < 2) SKIP("this CPU has one core");
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&one); cpu++)
        if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
    dqt_context *ctx = context(DQT_THREADING_OPENMP, 0);
    const int threads = dqt_context_num_threads(ctx), quota = process_cpu_quota("");
    int most = omp_get_max_threads() < CPU_COUNT(&before) ? omp_get_max_threads() : CPU_COUNT(&before);
    if (quota && quota < most) most = quota;
    CHECKF(threads == most, "%d instead of %d", threads, most);
    dqt_context_destroy(ctx);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    ctx = context(DQT_THREADING_OPENMP, 0);
    CHECK(dqt_context_num_threads(ctx) == 1);
    dqt_context_destroy(ctx);
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
#else
    SKIP("built without OpenMP, or not on Linux");
#endif
}

static const struct test tests[] = {TEST(children_work), TEST(children_of_a_host_with_openmp), TEST(quotas),
                                    TEST(quotas_of_this_process), TEST(affinity)};

int main(int argc, char **argv) {
#if defined(_OPENMP) && defined(__linux__)
    if (argc == 2 && !strcmp(argv[1], "--host")) return host();
    if (argc == 2 && !strcmp(argv[1], "--granted")) return granted();
#endif
    return test_main(argv[0], tests, sizeof tests / sizeof *tests, argc > 1 ? argv[1] : NULL);
}
