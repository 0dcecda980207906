/* The same bits whatever the number of threads, the way tasks are run, the mode of training or an interruption.
 *
 * What is compared is everything that training leaves: losses, codes, scales, the updater's states and its norms. Sizes
 * make every product, norm and update more than one item of work, with ends that fill no tile. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <unistd.h>

#include "calls.h"
#include "isa_contexts.h"
#include "optim/updater.h"

enum { VOCAB = 150, BATCH = 2, LENGTH = 25, TOKENS = BATCH * LENGTH };

/* ---- Ways to run tasks --------------------------------------------------------------------------------------- */

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

static dqt_context *context(int isa, int threading, int threads, dqt_parallel_for_fn parallel_for) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.threading = threading;
    o.num_threads = threads;
    o.parallel_for = parallel_for;
    if (dqt_context_create(&o, &ctx) != DQT_OK) return NULL;
    share_all_work(ctx);
    if (isa == DQT_ISA_AUTO || dqt_context_isa(ctx) == isa) return ctx;
    dqt_context_destroy(ctx);
    return NULL;
}

/* Neither the plainest instruction set nor the best: those in between are tested less, for time. */
static bool between(int isa) {
    dqt_context *ctx = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
    const int best = dqt_context_isa(ctx);
    dqt_context_destroy(ctx);
    return isa != DQT_ISA_SCALAR && isa != best;
}

/* ---- A model in training ------------------------------------------------------------------------------------- */

struct setup {
    const char *name;
    int linear, axis, train_scale, tied, mlp;                  /* model; linear: storage */
    int recompute, checkpoint, gradient;                       /* tape */
    int optimizer, rounding, momentum, variance, clip, lagged; /* updater */
    float beta1, learning_rate;
};

static const struct setup adam = {.name = "ternary AdamW",
                                  .linear = DQT_FORMAT_TERNARY,
                                  .optimizer = DQT_OPTIMIZER_ADAMW,
                                  .clip = DQT_CLIP_NONE,
                                  .beta1 = 0.9f,
                                  .learning_rate = 4e-3f};

struct training {
    struct setup setup;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_layer *const *layers;
    size_t num_layers;
    float losses[32];
    size_t steps;
};

static void open_tape(struct training *t, bool gradients) {
    dqt_tape_options o;
    dqt_tape_options_init(&o, sizeof o);
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    o.no_gradient_buffers = !(gradients);
    o.recompute = t->setup.recompute;
    o.checkpoint_format = t->setup.checkpoint;
    o.gradient_format = t->setup.gradient;
    o.seed = 9;
    OK(t->ctx, dqt_llama_get_layers(t->model, &t->layers, &t->num_layers));
    OK(t->ctx, dqt_tape_create(t->ctx, t->layers, t->num_layers, &o, &t->tape));
}

static bool training_open(struct training *t, dqt_context *ctx, const struct setup *s, bool gradients) {
    *t = (struct training){.setup = *s, .ctx = ctx};
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = VOCAB;
    c.hidden_size = 80;
    c.intermediate_size = 136;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.init_std = 0.1f;
    c.mlp = s->mlp;
    c.tie_embeddings = s->tied;
    c.linear.storage = s->linear;
    c.linear.scale_axis = s->axis;
    c.linear.train_scale = s->train_scale;
    if (s->linear == DQT_FORMAT_INT8) c.linear.scale_rule = DQT_SCALE_SIGMA;
    dqt_updater_options o;
    dqt_updater_options_init(&o, sizeof o);
    o.optimizer = s->optimizer;
    o.rounding = s->rounding;
    o.momentum_state = s->momentum;
    o.variance_state = s->variance;
    o.clip = s->clip;
    o.lagged = s->lagged;
    o.beta1 = s->beta1;
    o.weight_decay = 0.1f;
    OK(ctx, dqt_llama_create(ctx, &c, &t->model));
    if (!t->model) return false;
    open_tape(t, gradients);
    OK(ctx, dqt_updater_create(ctx, t->layers, t->num_layers, &o, &t->updater));
    return t->tape && t->updater;
}

static void training_close(struct training *t) {
    dqt_updater_destroy(t->updater);
    dqt_tape_destroy(t->tape);
    dqt_llama_destroy(t->model);
}

/* Text of step i: repeated tokens, some targets ignored. */
static void batch_of(size_t step, int32_t *tokens, int32_t *targets) {
    uint64_t seed = 1000 + step;
    for (size_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB / (i % 3 + 1));
        targets[i] = i % 11 == 5 ? -1 : (int32_t)(test_random(&seed) % VOCAB / 2);
    }
}

static void train(struct training *t, size_t steps, bool fused) {
    int32_t tokens[TOKENS], targets[TOKENS];
    for (size_t i = 0; i < steps; i++, t->steps++) {
        batch_of(t->steps, tokens, targets);
        OK(t->ctx,
           dqt_llama_loss(t->model, t->tape, batch_pairs(tokens, targets, BATCH, LENGTH), &t->losses[t->steps], NULL));
        if (fused) {
            OK(t->ctx,
               dqt_llama_backward_update(t->model, t->tape, t->updater, step_rate(t->setup.learning_rate), NULL));
        } else {
            OK(t->ctx, dqt_tape_zero_gradients(t->tape));
            OK(t->ctx, dqt_llama_backward(t->model, t->tape, 1.0f));
            OK(t->ctx, dqt_updater_step(t->updater, t->tape, step_rate(t->setup.learning_rate), NULL));
        }
    }
}

/* ---- What training leaves ------------------------------------------------------------------------------------ */

struct piece {
    char name[96];
    size_t at, bytes;
};

struct snapshot {
    unsigned char *bytes;
    size_t used;
    struct piece pieces[512];
    size_t count;
};

static void snapshot_add(struct snapshot *s, const char *name, const void *data, size_t bytes) {
    if (s->count == 512) abort();
    struct piece *p = &s->pieces[s->count++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->at = s->used;
    p->bytes = bytes;
    s->bytes = realloc(s->bytes, s->used + bytes);
    memcpy(s->bytes + s->used, data, bytes);
    s->used += bytes;
}

static dqt_status add_state(void *arg, const char *label, void *data, size_t count, size_t element_size) {
    snapshot_add(arg, label, data, count * element_size);
    return DQT_OK;
}

static void add_weights(struct snapshot *s, dqt_tape *tape) {
    size_t count = 0;
    CHECK(dqt_tape_get_num_parameters(tape, &count) == DQT_OK);
    for (size_t i = 0; i < count; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        dqt_tensor_info info = {.struct_size = sizeof info};
        void *data = NULL;
        size_t bytes = 0;
        CHECK(dqt_tape_get_parameter(tape, i, &p) == DQT_OK && dqt_tensor_data(p.tensor, &data, &bytes) == DQT_OK);
        CHECK(dqt_tensor_get_info(p.tensor, &info) == DQT_OK);
        snapshot_add(s, p.name, data, bytes);
        if (info.num_scales == 0) continue;
        float *scales = calloc(info.num_scales, sizeof *scales);
        CHECK(dqt_tensor_get_scales(p.tensor, scales) == DQT_OK);
        snapshot_add(s, p.name, scales, info.num_scales * sizeof *scales);
        free(scales);
    }
}

static void add_gradients(struct snapshot *s, dqt_tape *tape) {
    size_t count = 0;
    CHECK(dqt_tape_get_num_parameters(tape, &count) == DQT_OK);
    for (size_t i = 0; i < count; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        float *g = NULL;
        CHECK(dqt_tape_get_parameter(tape, i, &p) == DQT_OK && dqt_tape_gradient_data(tape, i, &g) == DQT_OK);
        if (g) snapshot_add(s, p.name, g, p.rows * p.cols * sizeof *g);
    }
}

static struct snapshot *take_snapshot(const struct training *t) {
    struct snapshot *s = calloc(1, sizeof *s);
    uint64_t step = 0;
    snapshot_add(s, "losses", t->losses, t->steps * sizeof *t->losses);
    add_weights(s, t->tape);
    CHECK(updater_visit_state(t->updater, add_state, s) == DQT_OK);
    CHECK(dqt_updater_get_step(t->updater, &step) == DQT_OK);
    snapshot_add(s, "step", &step, sizeof step);
    return s;
}

static void snapshot_free(struct snapshot *s) {
    free(s->bytes);
    free(s);
}

static void check_same(const char *what, const char *way, const struct snapshot *a, const struct snapshot *b) {
    CHECKF(a->count == b->count && a->used == b->used, "%s, %s: other pieces", what, way);
    if (a->count != b->count || a->used != b->used) return;
    for (size_t i = 0; i < a->count; i++)
        if (memcmp(a->bytes + a->pieces[i].at, b->bytes + b->pieces[i].at, a->pieces[i].bytes) != 0) {
            CHECKF(0, "%s, %s: %s differs (piece %zu of %zu)", what, way, a->pieces[i].name, i, a->count);
            return;
        }
}

static struct snapshot *trained(dqt_context *ctx, const struct setup *s, size_t steps, bool fused) {
    struct training t;
    struct snapshot *result = NULL;
    if (training_open(&t, ctx, s, !fused)) {
        train(&t, steps, fused);
        result = take_snapshot(&t);
    }
    training_close(&t);
    return result;
}

/* ---- Threads ------------------------------------------------------------------------------------------------- */

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

/* ---- Fused, recomputed --------------------------------------------------------------------------------------- */

static const struct setup fused_setups[] = {
    {.name = "ternary AdamW",
     .linear = DQT_FORMAT_TERNARY,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .clip = DQT_CLIP_NONE,
     .beta1 = 0.9f,
     .learning_rate = 4e-3f},
    {.name = "ternary AdamW ECO, previous norm",
     .linear = DQT_FORMAT_TERNARY,
     .optimizer = DQT_OPTIMIZER_ADAMW,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .momentum = DQT_STATE_INT8,
     .variance = DQT_STATE_BF16,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.8f,
     .learning_rate = 4e-3f},
    {.name = "int8 Adafactor, no momentum",
     .linear = DQT_FORMAT_INT8,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .lagged = 1,
     .clip = DQT_CLIP_NONE,
     .beta1 = 0.0f,
     .learning_rate = 2e-3f},
    {.name = "ternary Adafactor ECO, trained scales, previous norm",
     .linear = DQT_FORMAT_TERNARY,
     .axis = DQT_AXIS_ROW,
     .train_scale = 1,
     .optimizer = DQT_OPTIMIZER_ADAFACTOR,
     .rounding = DQT_ROUND_ECO_STOCHASTIC,
     .momentum = DQT_STATE_INT8,
     .lagged = 1,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.8f,
     .learning_rate = 4e-3f},
    {.name = "BF16 SGD",
     .linear = DQT_FORMAT_BF16,
     .optimizer = DQT_OPTIMIZER_SGD,
     .clip = DQT_CLIP_PREVIOUS_NORM,
     .beta1 = 0.9f,
     .learning_rate = 0.05f},
};

/* Fused or not, recomputed or not, tied or not: four ways that must agree. few: only fused and recomputed. */
static void check_modes(int isa, bool few) {
    dqt_context *ctx = isa_context(isa, 1);
    if (!ctx) return;
    for (size_t k = 0; k < sizeof fused_setups / sizeof *fused_setups; k++)
        for (int tied = few ? (int)k & 1 : 0; tied < 2; tied += few ? 2 : 1) {
            struct setup s = fused_setups[k];
            s.tied = tied;
            struct snapshot *expected = trained(ctx, &s, 4, false);
            for (int way = few ? 3 : 1; way < 4 && expected; way++) {
                char name[96];
                snprintf(name, sizeof name, "isa %d, tied %d, fused %d, recompute %d", isa, tied, way & 1, way >> 1);
                s.recompute = way >> 1;
                struct snapshot *found = trained(ctx, &s, 4, way & 1);
                if (found) check_same(s.name, name, expected, found);
                if (found) snapshot_free(found);
            }
            if (expected) snapshot_free(expected);
        }
    dqt_context_destroy(ctx);
}

static void fused_and_recomputed(void) {
    for (size_t i = 0; i < ISA_COUNT; i++)
        check_modes(isa_caps[i].isa, between(isa_caps[i].isa));
}

/* Stochastic BF16 checkpoints: not the bits of F32 ones, but the same whether the step is fused or not. */
static void bf16_checkpoints(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    struct setup s = adam;
    struct snapshot *plain = trained(ctx, &s, 3, false);
    s.recompute = 1;
    s.checkpoint = DQT_FLOAT_BF16;
    struct snapshot *a = trained(ctx, &s, 3, false), *b = trained(ctx, &s, 3, true);
    check_same("BF16 checkpoints", "fused", a, b);
    CHECK(memcmp(plain->bytes, a->bytes, 3 * sizeof(float)) != 0);
    snapshot_free(plain);
    snapshot_free(a);
    snapshot_free(b);
    dqt_context_destroy(ctx);
}

/* ---- Instruction sets ---------------------------------------------------------------------------------------- */

/* Three steps from the same gradients leave the same bits on every instruction set. */
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

struct memory_file {
    unsigned char *bytes;
    size_t size, at;
};

static int32_t write_memory(void *user_data, const void *buffer, size_t size) {
    struct memory_file *f = user_data;
    f->bytes = realloc(f->bytes, f->size + size);
    if (!f->bytes) return 1;
    memcpy(f->bytes + f->size, buffer, size);
    f->size += size;
    return 0;
}

static size_t read_memory(void *user_data, void *buffer, size_t size) {
    struct memory_file *f = user_data;
    const size_t n = f->size - f->at < size ? f->size - f->at : size;
    memcpy(buffer, f->bytes + f->at, n);
    f->at += n;
    return n;
}

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
        struct memory_file f = {0};
        struct training t, resumed;
        if (!training_open(&t, first, &s, false)) return;
        train(&t, 10, true);
        uint64_t pass = 0;
        OK(first, dqt_llama_write(t.model, t.updater, write_memory, &f, NULL));
        OK(first, dqt_tape_get_pass(t.tape, &pass));
        CHECK(pass == 10);
        resumed = t;
        training_close(&t);
        resumed.ctx = second;
        resumed.model = NULL;
        resumed.updater = NULL;
        resumed.tape = NULL;
        OK(second, read_checkpoint(second, read_memory, &f, &resumed.model, &resumed.updater, NULL, NULL));
        CHECK(f.at == f.size);
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

/* ---- Accumulation -------------------------------------------------------------------------------------------- */

static double *gradients_of(struct training *t, const int32_t *tokens, const int32_t *targets, size_t batch,
                            size_t parts, size_t *count) {
    size_t parameters = 0;
    float loss;
    OK(t->ctx, dqt_tape_zero_gradients(t->tape));
    for (size_t i = 0; i < parts; i++) {
        const size_t at = i * (batch / parts) * LENGTH;
        OK(t->ctx, dqt_llama_loss(t->model, t->tape, batch_pairs(tokens + at, targets + at, batch / parts, LENGTH),
                                  &loss, NULL));
        OK(t->ctx, dqt_llama_backward(t->model, t->tape, 1.0f / (float)parts));
    }
    OK(t->ctx, dqt_tape_get_num_parameters(t->tape, &parameters));
    double *all = NULL;
    *count = 0;
    for (size_t i = 0; i < parameters; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        OK(t->ctx, dqt_tape_get_parameter(t->tape, i, &p));
        const size_t n = p.rows * p.cols;
        float *g = malloc(n * sizeof *g);
        OK(t->ctx, dqt_tape_get_gradient(t->tape, i, 0, p.rows, g));
        all = realloc(all, (*count + n) * sizeof *all);
        for (size_t k = 0; k < n; k++)
            all[*count + k] = (double)g[k];
        *count += n;
        free(g);
    }
    return all;
}

/* Two micro-batches of one sequence, each scaled by a half, against one batch of two. F32: only the order of float32
 * sums differs. FP8 E4M3 rounds each sum to 4 bits, stochastically: about 2^-4 of each number, per rounding. */
static void accumulation(void) {
    const struct {
        int gradient;
        double tolerance;
    } cases[] = {{DQT_FLOAT_F32, 2e-6}, {DQT_FLOAT_BF16, 6e-3}, {DQT_FLOAT_FP8_E4M3, 0.09}, {DQT_FLOAT_FP8_E5M2, 0.18}};
    int32_t tokens[TOKENS], targets[TOKENS];
    batch_of(0, tokens, targets);
    for (size_t i = 0; i < TOKENS; i++)
        targets[i] = targets[i] < 0 ? 1 : targets[i]; /* as many in each part */
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct training one, two;
        struct setup s = adam;
        double error = 0, norm = 0;
        size_t n = 0, m = 0;
        if (!training_open(&one, ctx, &s, true)) return;
        s.gradient = cases[c].gradient;
        if (!training_open(&two, ctx, &s, true)) return;
        double *a = gradients_of(&one, tokens, targets, BATCH, 1, &n),
               *b = gradients_of(&two, tokens, targets, BATCH, 2, &m);
        for (size_t i = 0; i < n && n == m; i++) {
            error += (a[i] - b[i]) * (a[i] - b[i]);
            norm += a[i] * a[i];
        }
        CHECKF(n == m && norm > 0 && sqrt(error / norm) <= cases[c].tolerance, "gradient format %d: off by %g",
               cases[c].gradient, sqrt(error / norm));
        CHECKF(cases[c].gradient == DQT_FLOAT_F32 || error > 0, "gradient format %d: nothing was rounded",
               cases[c].gradient);
        /* each pass has its own random numbers */
        double *again = gradients_of(&two, tokens, targets, BATCH, 2, &m);
        CHECK((memcmp(b, again, m * sizeof *b) == 0) == (cases[c].gradient == DQT_FLOAT_F32));
        free(again);
        free(a);
        free(b);
        training_close(&one);
        training_close(&two);
    }
    dqt_context_destroy(ctx);
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

/* ---- Driven by hand ------------------------------------------------------------------------------------------ */

/* The model on two tapes, as two machines of a pipeline would: embedding and block 0; block 1, norm and head. */
static void pipelined_blocks(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    int32_t tokens[TOKENS], targets[TOKENS];
    batch_of(0, tokens, targets);
    for (int recompute = 0; recompute < 2; recompute++) {
        struct training t;
        struct setup s = adam;
        s.recompute = recompute;
        if (!training_open(&t, ctx, &s, true)) return;
        struct snapshot *whole = calloc(1, sizeof *whole), *hand = calloc(1, sizeof *hand);
        float loss[2] = {0}, *x = calloc(TOKENS * 80, sizeof *x);
        OK(ctx, dqt_llama_loss(t.model, t.tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss[0], NULL));
        OK(ctx, dqt_llama_backward(t.model, t.tape, 0.5f));
        add_gradients(whole, t.tape);

        dqt_tape_options o;
        dqt_tape *front = NULL, *back = NULL;
        dqt_tape_options_init(&o, sizeof o);
        o.max_batch = BATCH;
        o.max_length = LENGTH;
        o.recompute = recompute;
        OK(ctx, dqt_tape_create(ctx, t.layers, 2, &o, &front));
        OK(ctx, dqt_tape_create(ctx, t.layers + 2, 3, &o, &back));
        OK(ctx, dqt_embedding_forward(t.layers[0], front, batch_tokens(tokens, BATCH, LENGTH), x));
        OK(ctx, dqt_llama_forward_blocks(t.model, front, 0, 1, batch_shape(BATCH, LENGTH), x));
        OK(ctx, dqt_llama_forward_blocks(t.model, back, 1, 1, batch_shape(BATCH, LENGTH), x));
        OK(ctx, dqt_layer_forward(t.layers[3], back, batch_shape(BATCH, LENGTH), x, x));
        OK(ctx, dqt_head_loss(t.layers[4], back, batch_targets(targets, BATCH, LENGTH), x, &loss[1], NULL));
        CHECKF(memcmp(&loss[0], &loss[1], sizeof *loss) == 0, "%.9g, %.9g", (double)loss[0], (double)loss[1]);
        OK(ctx, dqt_head_backward(t.layers[4], back, 0.5f, x));
        OK(ctx, dqt_layer_backward(t.layers[3], back, x, x));
        OK(ctx, dqt_llama_backward_blocks(t.model, back, 1, 1, x));
        OK(ctx, dqt_llama_backward_blocks(t.model, front, 0, 1, x));
        OK(ctx, dqt_embedding_backward(t.layers[0], front, x));
        add_gradients(hand, front);
        add_gradients(hand, back);
        check_same("pipeline", recompute ? "recomputed" : "saved", whole, hand);

        /* and on the whole's tape, both blocks at once */
        struct snapshot *again = calloc(1, sizeof *again);
        OK(ctx, dqt_tape_zero_gradients(t.tape));
        OK(ctx, dqt_embedding_forward(t.layers[0], t.tape, batch_tokens(tokens, BATCH, LENGTH), x));
        OK(ctx, dqt_llama_forward_blocks(t.model, t.tape, 0, 2, batch_shape(BATCH, LENGTH), x));
        OK(ctx, dqt_layer_forward(t.layers[3], t.tape, batch_shape(BATCH, LENGTH), x, x));
        OK(ctx, dqt_head_loss(t.layers[4], t.tape, batch_targets(targets, BATCH, LENGTH), x, &loss[1], NULL));
        OK(ctx, dqt_head_backward(t.layers[4], t.tape, 0.5f, x));
        OK(ctx, dqt_layer_backward(t.layers[3], t.tape, x, x));
        OK(ctx, dqt_llama_backward_blocks(t.model, t.tape, 0, 2, x));
        OK(ctx, dqt_embedding_backward(t.layers[0], t.tape, x));
        add_gradients(again, t.tape);
        check_same("pipeline", "one tape", whole, again);

        snapshot_free(whole);
        snapshot_free(hand);
        snapshot_free(again);
        free(x);
        dqt_tape_destroy(front);
        dqt_tape_destroy(back);
        training_close(&t);
    }
    dqt_context_destroy(ctx);
}

/* ---- Gradients as they become ready -------------------------------------------------------------------------- */

struct ready {
    struct training *t;
    size_t order[64], count;
    double sums[64]; /* of the gradient when it was announced */
};

static double gradient_sum(struct training *t, size_t parameter) {
    dqt_parameter p = {.struct_size = sizeof p};
    float *g = NULL;
    double sum = 0;
    OK(t->ctx, dqt_tape_get_parameter(t->tape, parameter, &p));
    if (dqt_tape_gradient_data(t->tape, parameter, &g) != DQT_OK) return 0;
    for (size_t i = 0; i < p.rows * p.cols; i++)
        sum += (double)g[i] * (double)(i % 7 + 1);
    return sum;
}

static int32_t on_gradient(void *user_data, size_t parameter) {
    struct ready *r = user_data;
    if (r->count == 64) abort();
    r->sums[r->count] = gradient_sum(r->t, parameter);
    r->order[r->count++] = parameter;
    return 0;
}

/* Rank of a parameter in the order of backward: head, norm, blocks from last to first, embedding. */
static int rank_of(const char *name) {
    const char *const prefixes[] = {
        "head", "norm", "blocks.1.mlp", "blocks.1.attention", "blocks.0.mlp", "blocks.0.attention", "embedding"};
    for (int i = 0; i < 7; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return i;
    return -1;
}

static void gradients_announced(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    int32_t tokens[TOKENS], targets[TOKENS];
    batch_of(0, tokens, targets);
    for (int way = 0; way < 4; way++) {
        const bool fused = way & 1;
        struct training t;
        struct setup s = adam;
        size_t parameters = 0, seen[64] = {0};
        float loss = 0;
        int last = -1;
        s.tied = way >> 1;
        if (!training_open(&t, ctx, &s, !fused)) return;
        struct ready r = {.t = &t};
        OK(ctx, dqt_tape_get_num_parameters(t.tape, &parameters));
        OK(ctx, dqt_tape_on_gradient(t.tape, on_gradient, &r));
        OK(ctx, dqt_llama_loss(t.model, t.tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL));
        CHECK(r.count == 0);
        if (fused)
            OK(ctx, dqt_llama_backward_update(t.model, t.tape, t.updater, step_rate(1e-3f), NULL));
        else
            OK(ctx, dqt_llama_backward(t.model, t.tape, 1.0f));
        CHECKF(r.count == parameters, "tied %d, fused %d: %zu of %zu", s.tied, fused, r.count, parameters);
        for (size_t i = 0; i < r.count; i++) {
            dqt_parameter p = {.struct_size = sizeof p};
            OK(ctx, dqt_tape_get_parameter(t.tape, r.order[i], &p));
            const int rank = rank_of(p.name);
            CHECKF(rank >= last, "tied %d, fused %d: %s is late", s.tied, fused, p.name);
            last = rank;
            seen[r.order[i]]++;
            if (!fused) {
                const double sum = gradient_sum(&t, r.order[i]);
                CHECKF(sum <= r.sums[i] && sum >= r.sums[i] && fabs(sum) > 0, "tied %d: %s was not complete", s.tied,
                       p.name);
            }
        }
        for (size_t i = 0; i < parameters; i++)
            CHECKF(seen[i] == 1, "parameter %zu %zu times", i, seen[i]);
        OK(ctx, dqt_tape_on_gradient(t.tape, NULL, NULL));
        const size_t before = r.count;
        train(&t, 1, fused);
        CHECK(r.count == before);
        training_close(&t);
    }
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {
    TEST(threads_and_tasks),   TEST(fused_and_recomputed),
    TEST(bf16_checkpoints),    TEST(updates_across_instruction_sets),
    TEST(interrupted),         TEST(accumulation),
    TEST(trainings_at_once),   TEST(pipelined_blocks),
    TEST(gradients_announced),
};

/* OpenMP reads its environment before main. With more threads than processors its waiting threads would burn the time
 * that the others need: start again with threads that sleep. */
int main(int argc, char **argv) {
    if (!getenv("OMP_WAIT_POLICY") && setenv("OMP_WAIT_POLICY", "passive", 1) == 0) execv("/proc/self/exe", argv);
    return test_main(argv[0], tests, sizeof tests / sizeof *tests, argc > 1 ? argv[1] : NULL);
}
