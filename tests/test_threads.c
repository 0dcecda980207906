/* What the header allows several threads at once, in one context with threads of its own: sessions, tapes, saving,
 * exporting and inspecting one model, a model that is trained beside it, failing calls, and another context. Each does
 * the same alone before, and must come to the same numbers. Under ThreadSanitizer (make check-tsan) this is the test of
 * races. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>

#include "calls.h"
#include "lanes.h"
#include "memory_file.h"

enum { VOCAB = 256, LENGTH = 16, LANES = 3, TOKENS = 24, PASSES = 3 };

static dqt_context *shared;
static dqt_llama *model;
static dqt_updater *saved_updater;

/* ---- Threads of the host --------------------------------------------------------------------------------------- */

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
    pthread_t threads[LANES];
    struct task tasks[LANES];
    (void)user_data;
    if (count > LANES) abort();
    for (size_t i = 0; i < count; i++) {
        tasks[i] = (struct task){run, data, i};
        if (pthread_create(&threads[i], NULL, run_task, &tasks[i])) abort();
    }
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

static dqt_context *context(void) {
    dqt_context_options o = {.struct_size = sizeof o};
    dqt_context *ctx = NULL;
    o.num_threads = LANES;
    o.parallel_for = pthread_for;
    OK(NULL, dqt_context_create(&o, &ctx));
    share_all_work(ctx);
    return ctx;
}

static dqt_llama *small(dqt_context *ctx, uint64_t seed) {
    dqt_llama_config c = {.struct_size = sizeof c};
    dqt_llama *m = NULL;
    c.vocab_size = VOCAB;
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.num_layers = 1;
    c.seed = seed;
    c.linear.storage = DQT_FORMAT_INT8;
    c.linear.compute = DQT_FORMAT_TERNARY;
    c.tie_embeddings = seed % 2 == 0;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    return m;
}

/* ---- Actors: each adds what it sees to a hash ------------------------------------------------------------------- */

static uint64_t add(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3u; /* FNV-1a */
    return hash;
}

static uint64_t generate(uint64_t number) {
    dqt_session *session = NULL;
    dqt_sampler *sampler = NULL;
    float logits[VOCAB];
    uint64_t hash = 0;
    int32_t token = (int32_t)number;
    OK(shared, dqt_session_create(model, session_of(TOKENS), &session));
    OK(shared, dqt_sampler_create(shared, VOCAB, NULL, &sampler));
    for (int i = 0; i < TOKENS; i++) {
        OK(shared, dqt_session_append(session, &token, 1, logits));
        OK(shared, dqt_sampler_sample(sampler, logits, &token));
        hash = add(add(hash, logits, sizeof logits), &token, sizeof token);
    }
    CHECK(dqt_session_append(session, &token, 1, logits) == DQT_E_STATE);
    dqt_sampler_destroy(sampler);
    dqt_session_destroy(session);
    return hash;
}

static void text(int32_t out[LENGTH + 1], uint64_t number) {
    for (int i = 0; i <= LENGTH; i++)
        out[i] = (int32_t)((uint64_t)i * (2 * number + 3) % VOCAB);
}

/* Passes over a model; with `learn` it is this actor's own. */
static uint64_t pass(dqt_context *ctx, dqt_llama *m, uint64_t number, bool learn) {
    dqt_layer *const *layers;
    dqt_tape *tape = NULL;
    dqt_updater *updater = NULL;
    size_t count;
    int32_t t[LENGTH + 1];
    float loss = 0;
    uint64_t hash = 0;
    dqt_tape_options o = {.struct_size = sizeof o};
    text(t, number);
    o.max_length = LENGTH;
    o.recompute = number % 2 == 1;
    o.gradient_format = number % 2 ? DQT_FLOAT_BF16 : DQT_FLOAT_F32;
    OK(ctx, dqt_llama_get_layers(m, &layers, &count));
    OK(ctx, dqt_tape_create(ctx, layers, count, &o, &tape));
    if (learn) OK(ctx, dqt_updater_create(ctx, layers, count, NULL, &updater));
    for (int i = 0; i < PASSES; i++) {
        OK(ctx, dqt_tape_zero_gradients(tape));
        OK(ctx, dqt_llama_loss(m, tape, batch_pairs(t, t + 1, 1, LENGTH), &loss, NULL));
        OK(ctx, dqt_llama_backward(m, tape, 1.0f));
        if (learn) OK(ctx, dqt_updater_step(updater, tape, step_rate(1e-2f), NULL));
        hash = add(hash, &loss, sizeof loss);
        CHECK(dqt_llama_loss(m, tape, batch_pairs(t, t + 1, 99, LENGTH), &loss, NULL) == DQT_E_SHAPE);
        CHECK(strstr(dqt_last_error(ctx), "99"));
    }
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    return hash;
}

static uint64_t train_shared_context(uint64_t number) {
    dqt_llama *own = small(shared, number);
    const uint64_t hash = pass(shared, own, number, true);
    dqt_llama_destroy(own);
    return hash;
}

static uint64_t train_own_context(uint64_t number) {
    dqt_context *ctx = context();
    dqt_llama *own = small(ctx, number);
    const uint64_t hash = pass(ctx, own, number, true);
    dqt_llama_destroy(own);
    CHECK(dqt_context_num_threads(ctx) == LANES);
    dqt_context_destroy(ctx);
    return hash;
}

static uint64_t pass_shared_model(uint64_t number) {
    return pass(shared, model, number, false);
}

static uint64_t save(uint64_t number) {
    uint64_t hash = 0;
    for (int i = 0; i < PASSES; i++) {
        struct memory_file f = memory_new();
        OK(shared, dqt_llama_write(model, saved_updater, memory_write, &f, save_host(&number, sizeof number)));
        hash = add(hash, f.bytes, f.size);
        f.size = 0;
        OK(shared, dqt_llama_write_safetensors(model, memory_write, &f, NULL));
        hash = add(hash, f.bytes, f.size);
        f.size = 0;
        OK(shared, dqt_llama_write_gguf(model, memory_write, &f, NULL));
        hash = add(hash, f.bytes, f.size);
        free(f.bytes);
    }
    return hash;
}

static uint64_t inspect(uint64_t number) {
    dqt_layer *const *layers;
    size_t count;
    uint64_t hash = number;
    OK(shared, dqt_llama_get_layers(model, &layers, &count));
    for (int i = 0; i < PASSES; i++)
        for (size_t l = 0; l + 1 < count; l++) { /* the head is tied: it has no tensor */
            dqt_parameter p = {.struct_size = sizeof p};
            dqt_tensor_stats stats = {.struct_size = sizeof stats};
            OK(shared, dqt_layer_get_parameter(layers[l], 0, &p));
            OK(shared, dqt_tensor_get_stats(p.tensor, &stats));
            hash = add(hash, &stats, sizeof stats);
        }
    return hash;
}

/* ---- All at once ----------------------------------------------------------------------------------------------- */

struct actor {
    uint64_t (*run)(uint64_t number);
    uint64_t number, hash;
};

static void *act(void *arg) {
    struct actor *a = arg;
    a->hash = a->run(a->number);
    return NULL;
}

static void all_at_once(void) {
    struct actor actors[] = {{generate, 1, 0},
                             {generate, 2, 0},
                             {pass_shared_model, 1, 0},
                             {pass_shared_model, 2, 0},
                             {save, 1, 0},
                             {save, 2, 0},
                             {inspect, 1, 0},
                             {train_shared_context, 1, 0},
                             {train_shared_context, 2, 0},
                             {train_own_context, 1, 0},
                             {train_own_context, 2, 0}};
    enum { COUNT = sizeof actors / sizeof *actors };
    pthread_t threads[COUNT];
    uint64_t alone[COUNT];
    dqt_layer *const *layers;
    size_t count, before;
    shared = context();
    model = small(shared, 6);
    OK(shared, dqt_llama_get_layers(model, &layers, &count));
    OK(shared, dqt_updater_create(shared, layers, count, NULL, &saved_updater));
    before = dqt_context_allocated(shared);
    for (size_t i = 0; i < COUNT; i++)
        alone[i] = actors[i].run(actors[i].number);
    for (size_t i = 0; i < COUNT; i++)
        CHECK(pthread_create(&threads[i], NULL, act, &actors[i]) == 0);
    for (size_t i = 0; i < COUNT; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < COUNT; i++)
        CHECKF(actors[i].hash == alone[i], "actor %zu", i);
    CHECK(dqt_context_allocated(shared) == before);
    dqt_updater_destroy(saved_updater);
    dqt_llama_destroy(model);
    CHECK(alone[0] != alone[1] && alone[7] == alone[9]);
    dqt_context_destroy(shared);
}

static const struct test tests[] = {TEST(all_at_once)};
TEST_MAIN(tests)
