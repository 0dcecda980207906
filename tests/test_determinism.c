/* The same bits whatever the number of threads, the way tasks are run, the instruction set of updates or an
 * interruption. What is compared is everything that training leaves (training_world.h). */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <unistd.h>

#include "memory_file.h"
#include "training_world.h"

/* ---- Threads ------------------------------------------------------------------------------------------------- */

struct task {
    dqt_task_fn run;
    void *data;
    size_t index;
};

static void *run_task(void *arg) {
    const struct task *t = arg;
    t->run(t->data, t->index);
    return NULL;
}

static void pthread_for(void *user_data, size_t count, dqt_task_fn run, void *data) {
    pthread_t threads[8];
    struct task tasks[8];
    (void)user_data;
    if (count > 8) abort();
    for (size_t i = 0; i < count; i++) {
        tasks[i] = (struct task){run, data, i};
        if (pthread_create(&threads[i], NULL, run_task, &tasks[i])) abort();
    }
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

static const struct setup thread_setups[] = {
    {.name = "ternary ECO Adafactor, trained scales",
     .linear = DQT_FORMAT_TERNARY,
     .axis = DQT_AXIS_ROW,
     .train_scale = 1,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .momentum = DQT_STATE_INT8,
     .clip = DQT_CLIP_GLOBAL_NORM,
     .beta1 = 0.8f,
     .learning_rate = 4e-3f},
    {.name = "int8 AdamW, FP8 gradients, BF16 checkpoints, tied",
     .linear = DQT_FORMAT_INT8,
     .tied = 1,
     .mlp = DQT_MLP_SQUARED_RELU,
     .recompute = 1,
     .checkpoint = DQT_FLOAT_BF16,
     .gradient = DQT_FLOAT_FP8_E4M3,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .momentum = DQT_STATE_BF16,
     .variance = DQT_STATE_INT8,
     .clip = DQT_CLIP_TENSOR_NORM,
     .beta1 = 0.9f,
     .learning_rate = 2e-3f},
    {.name = "int4 Muon, accumulators",
     .linear = DQT_FORMAT_INT4,
     .optimizer = DQT_OPTIMIZER_MUON,
     .rounding = DQT_ROUND_ACCUMULATE,
     .momentum = DQT_STATE_INT8,
     .clip = DQT_CLIP_GLOBAL_NORM,
     .beta1 = 0.6f,
     .learning_rate = 4e-3f},
    {.name = "BF16 SGD, BF16 gradients",
     .linear = DQT_FORMAT_BF16,
     .gradient = DQT_FLOAT_BF16,
     .optimizer = DQT_OPTIMIZER_SGD,
     .clip = DQT_CLIP_GLOBAL_NORM,
     .beta1 = 0.9f,
     .learning_rate = 0.1f},
};

/* few: only the first setup and the first ways. */
static void check_threads(int isa, bool few) {
    static const struct {
        const char *name;
        int threading, threads;
        dqt_parallel_for_fn parallel_for;
    } ways[] = {
        {"last task first", DQT_THREADING_HOST, 3, backwards_for},
        {"OpenMP, 2 threads", DQT_THREADING_OPENMP, 2, NULL},
        {"host threads, 4", DQT_THREADING_HOST, 4, pthread_for},
        {"host threads, 2", DQT_THREADING_HOST, 2, pthread_for},
        {"OpenMP, 1 thread", DQT_THREADING_OPENMP, 1, NULL},
        {"OpenMP, 3 threads", DQT_THREADING_OPENMP, 3, NULL},
        {"OpenMP, 4 threads", DQT_THREADING_OPENMP, 4, NULL},
    };
    dqt_context *serial = context(isa, DQT_THREADING_SERIAL, 1, NULL);
    if (!serial) return;
    for (size_t k = 0; k < (few ? 1 : sizeof thread_setups / sizeof *thread_setups); k++) {
        const struct setup *s = &thread_setups[k];
        struct snapshot *expected = trained(serial, s, 3, false);
        for (size_t i = 0; i < (few ? 3 : sizeof ways / sizeof *ways) && expected; i++) {
            char way[96];
            snprintf(way, sizeof way, "isa %d, %s", isa, ways[i].name);
            dqt_context *ctx = context(isa, ways[i].threading, ways[i].threads, ways[i].parallel_for);
            if (!ctx && ways[i].threading == DQT_THREADING_OPENMP) continue; /* built without */
            CHECK(ctx != NULL && dqt_context_num_threads(ctx) == ways[i].threads);
            struct snapshot *found = trained(ctx, s, 3, false);
            check_same(s->name, way, expected, found);
            snapshot_free(found);
            dqt_context_destroy(ctx);
        }
        snapshot_free(expected);
    }
    dqt_context_destroy(serial);
}

static void threads_and_tasks(void) {
    for (size_t i = 0; i < ISA_COUNT; i++)
        check_threads(isa_caps[i].isa, between(isa_caps[i].isa));
}

/* ---- Instruction sets ---------------------------------------------------------------------------------------- */

/* Three steps from the same gradients leave the same bits on every instruction set, but for MUON, whose directions are
 * products of floats. */
static struct snapshot *updated(dqt_context *ctx, const struct setup *s) {
    struct training t;
    struct snapshot *result = NULL;
    size_t parameters = 0;
    uint64_t seed = 1;
    if (training_open(&t, ctx, s, true)) {
        OK(ctx, dqt_tape_get_num_parameters(t.tape, &parameters));
        for (int step = 0; step < 3; step++) {
            for (size_t i = 0; i < parameters; i++) {
                dqt_parameter p = {.struct_size = sizeof p};
                OK(ctx, dqt_tape_get_parameter(t.tape, i, &p));
                float *g = random_floats(p.rows * p.cols, 0.01f, seed++);
                OK(ctx, dqt_tape_set_gradient(t.tape, i, 0, p.rows, g));
                free(g);
            }
            OK(ctx, dqt_updater_step(t.updater, t.tape, step_rate(s->learning_rate), NULL));
        }
        result = take_snapshot(&t);
    }
    training_close(&t);
    return result;
}

static void updates_across_instruction_sets(void) {
    dqt_context *scalar = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t k = 0; k < sizeof thread_setups / sizeof *thread_setups; k++) {
        if (thread_setups[k].optimizer == DQT_OPTIMIZER_MUON) continue;
        struct snapshot *expected = updated(scalar, &thread_setups[k]);
        for (size_t i = 1; i < ISA_COUNT; i++) {
            char way[32];
            snprintf(way, sizeof way, "isa %d", isa_caps[i].isa);
            dqt_context *ctx = isa_context(isa_caps[i].isa, 1);
            if (!ctx) continue;
            struct snapshot *found = updated(ctx, &thread_setups[k]);
            check_same(thread_setups[k].name, way, expected, found);
            snapshot_free(found);
            dqt_context_destroy(ctx);
        }
        snapshot_free(expected);
    }
    dqt_context_destroy(scalar);
}

/* ---- Interrupted --------------------------------------------------------------------------------------------- */

/* Twenty steps, and ten, a checkpoint and ten more in another context with other threads. */
static void interrupted(void) {
    for (size_t k = 0; k < sizeof fused_setups / sizeof *fused_setups; k++) {
        struct setup s = fused_setups[k];
        s.tied = k & 1;
        s.checkpoint = k % 4 == 2 ? DQT_FLOAT_BF16 : k % 4 == 3 ? DQT_FLOAT_FP8_E4M3 : DQT_FLOAT_F32;
        s.recompute = s.checkpoint != DQT_FLOAT_F32;
        dqt_context *first = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
        dqt_context *second = context(DQT_ISA_AUTO, DQT_THREADING_HOST, 2, backwards_for);
        struct snapshot *expected = trained(first, &s, 20, true);
        struct memory_file f = memory_new();
        struct training t, resumed;
        if (!training_open(&t, first, &s, false)) return;
        train(&t, 10, true);
        uint64_t pass = 0;
        OK(first, dqt_llama_write(t.model, t.updater, memory_write, &f, NULL));
        OK(first, dqt_tape_get_pass(t.tape, &pass));
        CHECK(pass == 10);
        resumed = t;
        training_close(&t);
        resumed.ctx = second;
        resumed.model = NULL;
        resumed.updater = NULL;
        resumed.tape = NULL;
        OK(second, read_checkpoint(second, memory_read, &f, &resumed.model, &resumed.updater, NULL, NULL));
        CHECK(f.position == f.size);
        if (resumed.model && resumed.updater) {
            open_tape(&resumed, false);
            OK(second, dqt_tape_set_pass(resumed.tape, pass));
            train(&resumed, 10, true);
            struct snapshot *found = take_snapshot(&resumed);
            check_same(s.name, "interrupted", expected, found);
            snapshot_free(found);
        }
        training_close(&resumed);
        snapshot_free(expected);
        free(f.bytes);
        dqt_context_destroy(first);
        dqt_context_destroy(second);
    }
}

/* ---- Two at once --------------------------------------------------------------------------------------------- */

static void *train_alone(void *arg) {
    struct training *t = arg;
    train(t, 4, t->setup.tied != 0);
    return NULL;
}

/* Two contexts, and two models of one context, trained from two threads. */
static void trainings_at_once(void) {
    struct setup setups[2] = {adam, fused_setups[3]};
    setups[1].tied = 1; /* and fused: see train_alone */
    for (int shared = 0; shared < 2; shared++) {
        dqt_context *first = context(DQT_ISA_AUTO, DQT_THREADING_HOST, 2, pthread_for);
        dqt_context *second = shared ? first : context(DQT_ISA_SCALAR, DQT_THREADING_SERIAL, 1, NULL);
        struct training t[2];
        struct snapshot *expected[2] = {trained(first, &setups[0], 4, false), trained(second, &setups[1], 4, true)};
        pthread_t threads[2];
        if (!training_open(&t[0], first, &setups[0], true) || !training_open(&t[1], second, &setups[1], false)) return;
        for (int i = 0; i < 2; i++)
            if (pthread_create(&threads[i], NULL, train_alone, &t[i])) abort();
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < 2; i++) {
            struct snapshot *found = take_snapshot(&t[i]);
            check_same(setups[i].name, shared ? "at once in one context" : "at once in two contexts", expected[i],
                       found);
            snapshot_free(found);
            snapshot_free(expected[i]);
            training_close(&t[i]);
        }
        if (!shared) dqt_context_destroy(second);
        dqt_context_destroy(first);
    }
}

static const struct test tests[] = {
    TEST(threads_and_tasks),
    TEST(updates_across_instruction_sets),
    TEST(interrupted),
    TEST(trainings_at_once),
};

/* OpenMP reads its environment before main. With more threads than processors its waiting threads would burn the time
 * that the others need: start again with threads that sleep. */
int main(int argc, char **argv) {
    if (!getenv("OMP_WAIT_POLICY") && setenv("OMP_WAIT_POLICY", "passive", 1) == 0) execv("/proc/self/exe", argv);
    return test_main(argv[0], tests, sizeof tests / sizeof *tests, argc > 1 ? argv[1] : NULL);
}
