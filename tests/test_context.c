/* Contexts: threading, instruction sets, host callbacks, logs, last errors, NULL handles, status and version strings.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>

#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

/* The test override of the instruction set is taken out of the environment during a test and put back at its end. */
static char *saved_isa;

static void isa_begin(void) {
    const char *value = getenv("DQT_ISA");
    saved_isa = NULL;
    if (value) {
        saved_isa = malloc(strlen(value) + 1);
        memcpy(saved_isa, value, strlen(value) + 1);
    }
    unsetenv("DQT_ISA");
}

static void isa_end(void) {
    if (saved_isa)
        setenv("DQT_ISA", saved_isa, 1);
    else
        unsetenv("DQT_ISA");
    free(saved_isa);
}

static dqt_context_options defaults(void) {
    dqt_context_options o;
    CHECK(dqt_context_options_init(&o, sizeof o) == DQT_OK);
    return o;
}

/* Creates, and demands success. */
static dqt_context *create(const dqt_context_options *o) {
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(o, &ctx));
    return ctx;
}

/* Creates, and demands this refusal with a sentence that has this word. */
static void refuse(const dqt_context_options *o, dqt_status expected, const char *word) {
    dqt_context *ctx = (dqt_context *)(void *)&ctx;
    const dqt_status status = dqt_context_create(o, &ctx);
    CHECKF(status == expected, "%s instead of %s", dqt_status_string(status), dqt_status_string(expected));
    CHECK(ctx == NULL);
    CHECKF(strstr(dqt_last_error(NULL), word), "no \"%s\" in: %s", word, dqt_last_error(NULL));
    if (status == DQT_OK) dqt_context_destroy(ctx);
}

static void version(void) {
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", DQT_VERSION_MAJOR, DQT_VERSION_MINOR, DQT_VERSION_PATCH);
    CHECK(strcmp(dqt_version_string(), text) == 0);
    CHECK(dqt_version() == DQT_VERSION_MAJOR * 10000u + DQT_VERSION_MINOR * 100u + DQT_VERSION_PATCH);
}

/* Values of statuses are part of the ABI. */
static void statuses(void) {
    static const struct {
        dqt_status status, value;
        const char *name;
    } all[] = {{DQT_OK, 0, "DQT_OK"},
               {DQT_E_ARGUMENT, 10, "DQT_E_ARGUMENT"},
               {DQT_E_SHAPE, 20, "DQT_E_SHAPE"},
               {DQT_E_MEMORY, 30, "DQT_E_MEMORY"},
               {DQT_E_UNSUPPORTED, 40, "DQT_E_UNSUPPORTED"},
               {DQT_E_FORMAT, 50, "DQT_E_FORMAT"},
               {DQT_E_IO, 60, "DQT_E_IO"},
               {DQT_E_NUMERIC, 70, "DQT_E_NUMERIC"},
               {DQT_E_STATE, 80, "DQT_E_STATE"},
               {DQT_E_CANCELLED, 90, "DQT_E_CANCELLED"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CHECK(all[i].status == all[i].value);
        CHECK(strcmp(dqt_status_string(all[i].value), all[i].name) == 0);
    }
    static const dqt_status unknown[] = {-1, 1, 9, 11, 91, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        CHECK(strcmp(dqt_status_string(unknown[i]), "unknown status") == 0);
}

static void null_handles(void) {
    CHECK(dqt_context_cpu_features(NULL) == 0 && dqt_context_isa(NULL) == 0);
    CHECK(dqt_context_num_threads(NULL) == 0 && dqt_context_allocated(NULL) == 0);
    CHECK(dqt_last_error(NULL) != NULL);
    dqt_context_destroy(NULL);
    dqt_tensor_destroy(NULL);
    dqt_layer_destroy(NULL);
    dqt_tape_destroy(NULL);
    dqt_llama_destroy(NULL);
    dqt_updater_destroy(NULL);
    dqt_session_destroy(NULL);
    dqt_sampler_destroy(NULL);
    CHECK(dqt_context_create(NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(strstr(dqt_last_error(NULL), "out"));
}

/* ---- Threads ------------------------------------------------------------------------------------------------- */

static void plain_for(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    for (size_t i = 0; i < count; i++)
        task(task_data, i);
}

static void threading(void) {
    static const struct {
        int32_t threading, given, threads;
        bool host;
    } good[] = {
        {DQT_THREADING_SERIAL, 0, 1, false}, {DQT_THREADING_SERIAL, 8, 1, false},
        {DQT_THREADING_HOST, 0, 1, true},    {DQT_THREADING_HOST, 5, 5, true},
        {DQT_THREADING_AUTO, 7, 7, true},    {DQT_THREADING_HOST, 1024, 1024, true},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        dqt_context_options o = defaults();
        o.threading = good[i].threading;
        o.num_threads = good[i].given;
        o.parallel_for = good[i].host ? plain_for : NULL;
        dqt_context *ctx = create(&o);
        CHECKF(dqt_context_num_threads(ctx) == good[i].threads, "case %zu: %d", i, dqt_context_num_threads(ctx));
        dqt_context_destroy(ctx);
    }
    dqt_context *ctx = create(NULL);
    CHECK(dqt_context_num_threads(ctx) >= 1);
    dqt_context_destroy(ctx);
    dqt_context_options o = defaults();
    o.threading = DQT_THREADING_OPENMP;
    o.num_threads = 3;
#ifdef _OPENMP
    ctx = create(&o);
    CHECK(dqt_context_num_threads(ctx) == 3);
    dqt_context_destroy(ctx);
#else
    refuse(&o, DQT_E_UNSUPPORTED, "OpenMP");
#endif
}

static void threading_refusals(void) {
    static const int32_t kinds[] = {-1, 4, INT32_MAX, INT32_MIN}, threads[] = {-1, 1025, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        dqt_context_options o = defaults();
        o.threading = kinds[i];
        refuse(&o, DQT_E_ARGUMENT, "threading");
        o = defaults();
        o.num_threads = threads[i];
        refuse(&o, DQT_E_ARGUMENT, "num_threads");
    }
    dqt_context_options o = defaults();
    o.threading = DQT_THREADING_HOST;
    refuse(&o, DQT_E_ARGUMENT, "parallel_for");
}

/* A host's loop that runs tasks backwards, or on threads, and remembers what it was asked for. */
struct host_for {
    size_t calls, most, tasks;
    bool threads;
    int32_t marker;
};

struct started {
    dqt_task_fn task;
    void *data;
    size_t index;
};

static void *start(void *data) {
    const struct started *s = data;
    s->task(s->data, s->index);
    return NULL;
}

static void host_for(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    struct host_for *h = user_data;
    CHECK(h->marker == 4711);
    h->calls++;
    h->tasks += count;
    if (count > h->most) h->most = count;
    if (!h->threads) {
        for (size_t i = count; i-- > 0;)
            task(task_data, i);
        return;
    }
    pthread_t thread[16];
    struct started s[16];
    CHECK(count <= 16);
    for (size_t i = 0; i < count; i++) {
        s[i] = (struct started){task, task_data, i};
        CHECK(pthread_create(&thread[i], NULL, start, &s[i]) == 0);
    }
    for (size_t i = 0; i < count; i++)
        pthread_join(thread[i], NULL);
}

enum { BATCH = 2, LENGTH = 12, TOKENS = BATCH * LENGTH, STEPS = 2 };

/* Two training steps; the losses, and a sum over all codes, as bits. */
static void train(dqt_context *ctx, float losses[STEPS], uint64_t *codes) {
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = 70;
    c.hidden_size = 64;
    c.intermediate_size = 96;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    dqt_llama *model = NULL;
    dqt_layer *const *layers = NULL;
    dqt_tape *tape = NULL;
    dqt_updater *updater = NULL;
    size_t n = 0;
    dqt_tape_options t;
    dqt_tape_options_init(&t, sizeof t);
    t.max_batch = BATCH;
    t.max_length = LENGTH;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_tape_create(ctx, layers, n, &t, &tape));
    OK(ctx, dqt_updater_create(ctx, layers, n, NULL, &updater));
    int32_t tokens[TOKENS], targets[TOKENS];
    uint64_t seed = 5;
    for (size_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(test_random(&seed) % 70);
        targets[i] = (int32_t)(test_random(&seed) % 70);
    }
    for (int step = 0; step < STEPS; step++) {
        OK(ctx, dqt_llama_loss(model, tape, batch_pairs(tokens, targets, BATCH, LENGTH), &losses[step], NULL));
        OK(ctx, dqt_llama_backward(model, tape, 1));
        OK(ctx, dqt_updater_step(updater, tape, step_rate(0.01f), NULL));
        OK(ctx, dqt_tape_zero_gradients(tape));
    }
    *codes = 14695981039346656037u;
    OK(ctx, dqt_tape_get_num_parameters(tape, &n));
    for (size_t i = 0; i < n; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        OK(ctx, dqt_tape_get_parameter(tape, i, &p));
        void *data = NULL;
        size_t bytes = 0;
        OK(ctx, dqt_tensor_data(p.tensor, &data, &bytes));
        for (size_t b = 0; b < bytes; b++)
            *codes = (*codes ^ ((unsigned char *)data)[b]) * 1099511628211u;
    }
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
}

static void host_parallel_for(void) {
    dqt_context_options o = defaults();
    o.threading = DQT_THREADING_SERIAL;
    dqt_context *ctx = create(&o);
    float serial[STEPS] = {0}, losses[STEPS] = {0};
    uint64_t serial_codes = 0, codes = 0;
    train(ctx, serial, &serial_codes);
    dqt_context_destroy(ctx);
    CHECK(isfinite(serial[0]) && serial[0] > 0);
    for (int32_t threads = 1; threads <= 5; threads += 2)
        for (int real = 0; real <= 1; real++) {
            struct host_for h = {.threads = real != 0, .marker = 4711};
            o = defaults();
            o.parallel_for = host_for;
            o.parallel_user_data = &h;
            o.num_threads = threads;
            ctx = create(&o);
            train(ctx, losses, &codes);
            dqt_context_destroy(ctx);
            CHECKF(h.most <= (size_t)threads, "%zu tasks for %d threads", h.most, threads);
            CHECK(threads == 1 || (h.calls > 0 && h.most == (size_t)threads && h.tasks >= 2 * h.calls));
            CHECKF(memcmp(serial, losses, sizeof losses) == 0 && codes == serial_codes,
                   "%d threads: loss %.9g, serial %.9g", threads, (double)losses[STEPS - 1], (double)serial[STEPS - 1]);
        }
}

/* ---- Instruction sets ---------------------------------------------------------------------------------------- */

static const int32_t isas[] = {DQT_ISA_SCALAR, DQT_ISA_AVX2, DQT_ISA_AVX_VNNI,     DQT_ISA_AVX512,   DQT_ISA_VNNI,
                               DQT_ISA_AMX,    DQT_ISA_NEON, DQT_ISA_NEON_DOTPROD, DQT_ISA_NEON_I8MM};
static const char *const isa_names[] = {"scalar", "avx2", "avxvnni", "avx512", "vnni",
                                        "amx",    "neon", "dotprod", "i8mm"};
/* What a CPU needs for the set. */
static const uint64_t isa_features[] = {
    0,
    DQT_CPU_AVX2,
    DQT_CPU_AVX2 | DQT_CPU_AVX_VNNI,
    DQT_CPU_AVX2 | DQT_CPU_AVX512,
    DQT_CPU_AVX2 | DQT_CPU_AVX512 | DQT_CPU_AVX512_VNNI,
    DQT_CPU_AVX2 | DQT_CPU_AVX512 | DQT_CPU_AVX512_VNNI | DQT_CPU_AMX_INT8 | DQT_CPU_AMX_BF16,
    DQT_CPU_NEON,
    DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD,
    DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD | DQT_CPU_NEON_I8MM,
};
enum { ISAS = sizeof isas / sizeof *isas };

#if defined(__x86_64__)
enum { FIRST_HERE = 1, LAST_HERE = 5 };
#elif defined(__aarch64__)
enum { FIRST_HERE = 6, LAST_HERE = 8 };
#else
enum { FIRST_HERE = 1, LAST_HERE = 0 };
#endif

static bool here(int i) {
    return i == 0 || (i >= FIRST_HERE && i <= LAST_HERE);
}

static bool cpu_has(uint64_t features, int32_t isa) {
    for (int i = 0; i < ISAS; i++)
        if (isas[i] == isa) return (features & isa_features[i]) == isa_features[i];
    return false;
}

/* What a cap allows. */
static uint64_t allowed(int i) {
    return isa_features[i] | (isas[i] == DQT_ISA_VNNI || isas[i] == DQT_ISA_AMX ? DQT_CPU_AVX_VNNI : 0);
}

static void isa_option(void) {
    isa_begin();
    dqt_context *ctx = create(NULL);
    const int32_t best = dqt_context_isa(ctx);
    const uint64_t features = dqt_context_cpu_features(ctx);
    CHECK(cpu_has(features, best));
    dqt_context_destroy(ctx);
    for (int i = 0; i < ISAS; i++) {
        dqt_context_options o = defaults();
        o.isa = isas[i];
        if (!here(i)) {
            refuse(&o, DQT_E_UNSUPPORTED, "isa");
            continue;
        }
        ctx = create(&o);
        const int32_t isa = dqt_context_isa(ctx);
        CHECKF(isa == (isas[i] < best ? isa : best) && isa <= isas[i], "cap %s gives %d", isa_names[i], isa);
        CHECK(cpu_has(features, isa) && dqt_context_cpu_features(ctx) == features);
        if (cpu_has(features, isas[i]) && isas[i] != DQT_ISA_AMX) CHECK(isa == isas[i]);
        dqt_context_destroy(ctx);
        o.forbid_amx = 1;
        ctx = create(&o);
        CHECK(dqt_context_isa(ctx) != DQT_ISA_AMX && dqt_context_isa(ctx) <= isa);
        CHECK(dqt_context_cpu_features(ctx) == features);
        dqt_context_destroy(ctx);
    }
    static const int32_t wrong[] = {-1, 2, 9, 11, 25, 50, 99, 101, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        dqt_context_options o = defaults();
        o.isa = wrong[i];
        refuse(&o, DQT_E_ARGUMENT, "isa");
    }
    dqt_context_options o = defaults();
    o.forbid_amx = 2;
    refuse(&o, DQT_E_ARGUMENT, "forbid_amx");
    isa_end();
}

/* DQT_ISA and the option: what both allow is used. */
static void isa_override(void) {
    isa_begin();
    dqt_context_options o = defaults();
    dqt_context *plain = create(NULL);
    const uint64_t features = dqt_context_cpu_features(plain);
    dqt_context_destroy(plain);
    for (int i = 0; i < ISAS; i++)
        for (int k = -1; k < ISAS; k++) { /* -1: AUTO */
            if (k >= 0 && !here(k)) continue;
            o.isa = k < 0 ? DQT_ISA_AUTO : isas[k];
            setenv("DQT_ISA", isa_names[i], 1);
            dqt_context *ctx = create(&o);
            const int32_t got = dqt_context_isa(ctx);
            dqt_context_destroy(ctx);
            /* the strongest of those that have no more than both */
            const uint64_t both = features & allowed(i) & (k < 0 ? UINT64_MAX : allowed(k));
            int32_t want = DQT_ISA_SCALAR;
            for (int j = 0; j < ISAS; j++)
                if (cpu_has(both, isas[j])) want = isas[j];
            CHECKF(got == want || (want == DQT_ISA_AMX && got == DQT_ISA_VNNI), "DQT_ISA=%s, isa %d: %d, not %d",
                   isa_names[i], o.isa, got, want);
            unsetenv("DQT_ISA");
        }
    o.isa = DQT_ISA_AUTO;
    static const char *const wrong[] = {"sse9", "AVX2", "scalar ",
                                        "a very long name that is no instruction set at all"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("DQT_ISA", wrong[i], 1);
        refuse(&o, DQT_E_ARGUMENT, "DQT_ISA");
        for (int k = 0; k < ISAS; k++)
            refuse(&o, DQT_E_ARGUMENT, isa_names[k]);
    }
    setenv("DQT_ISA", "", 1);
    dqt_context *ctx = create(&o);
    dqt_context_destroy(ctx);
    isa_end();
}

/* ---- Allocator, log, errors ---------------------------------------------------------------------------------- */

static void allocator(void) {
    struct counting memory, other;
    dqt_context *ctx = counting_context(&memory), *second = counting_context(&other);
    const size_t empty = dqt_context_allocated(ctx);
    CHECK(empty == memory.bytes && empty > 0 && other.bytes == empty);
    dqt_tensor *t = NULL;
    OK(ctx, dqt_tensor_create(ctx, 100, 100, NULL, &t));
    CHECK(dqt_context_allocated(ctx) == memory.bytes && memory.bytes >= empty + 100 * 32);
    CHECK(other.bytes == empty && dqt_context_allocated(second) == empty);
    dqt_tensor_destroy(t);
    CHECK(memory.bytes == empty);
    counting_end(ctx, &memory);
    counting_end(second, &other);

    dqt_context_options o = counting_options(&memory);
    o.free = NULL;
    refuse(&o, DQT_E_ARGUMENT, "alloc");
    o = counting_options(&memory);
    o.alloc = NULL;
    refuse(&o, DQT_E_ARGUMENT, "alloc");
    CHECK(memory.bytes == 0);
}

struct record {
    size_t messages;
    int32_t level;
    char text[600];
};

static void record(void *user_data, int32_t level, const char *message) {
    struct record *r = user_data;
    r->messages++;
    r->level = level;
    snprintf(r->text, sizeof r->text, "%s", message);
}

static void log_callback(void) {
    struct record r = {0};
    dqt_context_options o = defaults();
    CHECK(o.log_level == DQT_LOG_WARNING && o.log == NULL);
    o.log = record;
    o.log_user_data = &r;
    dqt_context *ctx = create(&o);
    CHECK(r.messages == 0);
    dqt_tensor *t;
    CHECK(dqt_tensor_create(ctx, 0, 5, NULL, &t) == DQT_E_SHAPE);
    CHECK(r.messages == 1 && r.level == DQT_LOG_ERROR);
    CHECK(strcmp(r.text, dqt_last_error(ctx)) == 0 && strlen(r.text) > 10);
    CHECK(!strchr(r.text, '\n'));
    OK(ctx, dqt_tensor_create(ctx, 1, 5, NULL, &t));
    CHECK(r.messages == 1);
    dqt_tensor_destroy(t);
    dqt_context_destroy(ctx);

    static const int32_t levels[] = {DQT_LOG_ERROR, DQT_LOG_WARNING, DQT_LOG_INFO};
    for (size_t i = 0; i < 3; i++) { /* an error is told at every level */
        r.messages = 0;
        o.log_level = levels[i];
        ctx = create(&o);
        CHECK(dqt_tensor_create(ctx, 0, 5, NULL, &t) == DQT_E_SHAPE);
        CHECKF(r.messages == 1 && r.level == DQT_LOG_ERROR, "log_level %d: %zu messages", levels[i], r.messages);
        dqt_context_destroy(ctx);
    }

    o.log_level = 0;
    ctx = create(&o);
    CHECK(dqt_tensor_create(ctx, 0, 5, NULL, &t) == DQT_E_SHAPE);
    CHECK(r.messages == 2 && *dqt_last_error(ctx)); /* 0 is the default: errors are sent */
    dqt_context_destroy(ctx);
    static const int32_t wrong[] = {-1, 4, INT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        o.log_level = wrong[i];
        refuse(&o, DQT_E_ARGUMENT, "log_level");
    }
}

/* A callback that fails itself, in the same context, in another and in none, and asks for the sentence. */
struct failing {
    dqt_context *own, *other;
    int calls;
    bool inner;
};

static void fail_within(void *user_data, int32_t level, const char *message) {
    struct failing *f = user_data;
    dqt_tensor *t = NULL;
    (void)level;
    f->calls++;
    if (f->calls > 1) return;
    char outer[200];
    snprintf(outer, sizeof outer, "%s", message);
    f->inner = dqt_tensor_create(f->other, 0, 21, NULL, &t) == DQT_E_SHAPE &&
               dqt_tensor_create(f->own, 0, 22, NULL, &t) == DQT_E_SHAPE && strstr(dqt_last_error(f->own), "0 x 22") &&
               dqt_tensor_create(NULL, 0, 23, NULL, &t) == DQT_E_ARGUMENT && strcmp(outer, message) == 0 &&
               dqt_tensor_create(f->own, 1, 5, NULL, &t) == DQT_OK;
    dqt_tensor_destroy(t);
}

static void log_callback_that_fails(void) {
    struct failing f = {.calls = 0};
    dqt_context_options o = defaults();
    o.log = fail_within;
    o.log_user_data = &f;
    dqt_tensor *t;
    f.own = create(&o);
    f.other = create(&o);
    CHECK(dqt_tensor_create(f.own, 0, 20, NULL, &t) == DQT_E_SHAPE);
    CHECKF(f.calls == 1, "%d calls", f.calls);
    CHECK(f.inner);
    CHECK(strstr(dqt_last_error(f.own), "0 x 20") && strstr(dqt_last_error(NULL), "0 x 20"));
    CHECK(strstr(dqt_last_error(f.other), "0 x 21"));
    CHECK(dqt_tensor_create(f.own, 0, 24, NULL, &t) == DQT_E_SHAPE);
    CHECK(f.calls == 2); /* later ones are logged again */
    dqt_context_destroy(f.own);
    dqt_context_destroy(f.other);
}

struct other_thread {
    dqt_context *ctx;
    bool empty_before, own_after;
};

static void *fail_elsewhere(void *data) {
    struct other_thread *o = data;
    dqt_tensor *t;
    o->empty_before = *dqt_last_error(o->ctx) == '\0';
    dqt_tensor_create(o->ctx, 3, 0, NULL, &t);
    o->own_after = strstr(dqt_last_error(o->ctx), "3 x 0") != NULL;
    return NULL;
}

static void last_error(void) {
    dqt_context *a = create(NULL), *b = create(NULL);
    dqt_tensor *t;
    CHECK(*dqt_last_error(a) == '\0' && *dqt_last_error(b) == '\0');
    CHECK(dqt_tensor_create(a, 0, 7, NULL, &t) == DQT_E_SHAPE);
    CHECK(strstr(dqt_last_error(a), "0 x 7"));
    CHECK(*dqt_last_error(b) == '\0');
    CHECK(strcmp(dqt_last_error(NULL), dqt_last_error(a)) == 0); /* the latest of all */

    struct other_thread other = {.ctx = a};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fail_elsewhere, &other) == 0);
    pthread_join(thread, NULL);
    CHECK(other.empty_before && other.own_after);
    CHECK(strstr(dqt_last_error(a), "0 x 7"));

    CHECK(dqt_tensor_create(b, 0, 9, NULL, &t) == DQT_E_SHAPE);
    CHECK(strstr(dqt_last_error(b), "0 x 9"));
    CHECK(strstr(dqt_last_error(a), "0 x 7")); /* still a's own */
    CHECK(strcmp(dqt_last_error(NULL), dqt_last_error(b)) == 0);
    /* A call without a context is the latest, and no context's. */
    CHECK(dqt_tensor_create(NULL, 1, 1, NULL, &t) == DQT_E_ARGUMENT);
    CHECK(strstr(dqt_last_error(NULL), "ctx"));
    CHECK(strstr(dqt_last_error(a), "0 x 7") && strstr(dqt_last_error(b), "0 x 9"));
    dqt_context_destroy(b);
    /* Those of the last few contexts are remembered, the latest of each. */
    for (int i = 0; i < 8; i++) {
        dqt_context *c = create(NULL);
        CHECK(*dqt_last_error(c) == '\0');
        CHECK(dqt_tensor_create(c, 0, 11, NULL, &t) == DQT_E_SHAPE &&
              dqt_tensor_create(a, 0, 8, NULL, &t) == DQT_E_SHAPE);
        CHECK(strstr(dqt_last_error(c), "0 x 11") && strstr(dqt_last_error(a), "0 x 8"));
        CHECK(strcmp(dqt_last_error(NULL), dqt_last_error(a)) == 0);
        dqt_context_destroy(c);
    }
    dqt_context_destroy(a);
    /* A new context, perhaps at the same address, has no error. */
    a = create(NULL);
    CHECK(*dqt_last_error(a) == '\0');
    dqt_context_destroy(a);
}

static const struct test tests[] = {
    TEST(version),
    TEST(statuses),
    TEST(null_handles),
    TEST(threading),
    TEST(threading_refusals),
    TEST(host_parallel_for),
    TEST(isa_option),
    TEST(isa_override),
    TEST(allocator),
    TEST(log_callback),
    TEST(log_callback_that_fails),
    TEST(last_error),
};
TEST_MAIN(tests)
