/* A log callback that uses the library: at each kind of failure, also in the middle of a longer call, it trains,
 * generates, saves and loads in the context that failed and in another. What it computes is what it computes elsewhere,
 * and the call that failed ends as it would have without it. */
#include "batch_world.h"
#include "lanes.h"
#include "memory_file.h"

/* What the callback works with: a model of its own, in the context whose failure it hears of or in another. */
struct work {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_session *session;
    float loss, logits[64];
    struct memory_file file;
};

static void work_create(struct work *k, dqt_context *ctx) {
    *k = (struct work){.ctx = ctx, .file = memory_new()};
    dqt_llama_config c;
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 64;
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.num_layers = 1;
    c.init_std = 0.2f;
    dqt_layer *const *layers;
    size_t count;
    OK(ctx, dqt_llama_create(ctx, &c, &k->model));
    OK(ctx, dqt_llama_get_layers(k->model, &layers, &count));
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.max_length = 16;
    OK(ctx, dqt_tape_create(ctx, layers, count, &o, &k->tape));
    OK(ctx, dqt_updater_create(ctx, layers, count, NULL, &k->updater));
    OK(ctx, dqt_session_create(k->model, NULL, &k->session));
}

static void work_destroy(struct work *k) {
    dqt_session_destroy(k->session);
    dqt_updater_destroy(k->updater);
    dqt_tape_destroy(k->tape);
    dqt_llama_destroy(k->model);
    free(k->file.bytes);
}

/* A step of training, tokens generated, a checkpoint written and read, and a failure. */
static void work_do(struct work *k) {
    int32_t tokens[12];
    for (int i = 0; i < 12; i++)
        tokens[i] = i * 7 % 64;
    dqt_batch b = DQT_INIT(dqt_batch);
    b.length = 12;
    b.tokens = b.targets = tokens;
    dqt_step_options step = DQT_INIT(dqt_step_options);
    step.learning_rate = 0.02f;
    OK(k->ctx, dqt_tape_zero_gradients(k->tape));
    OK(k->ctx, dqt_llama_loss(k->model, k->tape, &b, &k->loss, NULL));
    OK(k->ctx, dqt_llama_backward(k->model, k->tape, 1));
    OK(k->ctx, dqt_updater_step(k->updater, k->tape, &step, NULL));
    OK(k->ctx, dqt_session_append(k->session, tokens, 12, k->logits));
    k->file.size = k->file.position = 0;
    OK(k->ctx, dqt_llama_write(k->model, k->updater, memory_write, &k->file, NULL));
    dqt_checkpoint loaded = DQT_INIT(dqt_checkpoint);
    OK(k->ctx, dqt_llama_read(k->ctx, memory_read, &k->file, NULL, &loaded));
    dqt_updater_destroy(loaded.updater);
    dqt_llama_destroy(loaded.model);
    tokens[3] = -5;
    CHECK(dqt_llama_loss(k->model, k->tape, &b, &k->loss, NULL) == DQT_E_ARGUMENT);
    CHECK(strstr(dqt_last_error(k->ctx), "-5"));
}

/* What the callback knows; `twin` does the same work where nothing fails. */
struct host {
    struct work same, other, twin;
    int calls;
    char message[600];
    size_t asked,
        stop_at; /* questions of the interrupt callback outside of the log callback; 0: none is answered yes */
    bool inside;
};

static void on_log(void *user_data, int32_t level, const char *message) {
    struct host *h = user_data;
    char before[sizeof h->message];
    CHECK(level == DQT_LOG_ERROR && !h->inside);
    h->inside = true;
    h->calls++;
    snprintf(h->message, sizeof h->message, "%s", message);
    snprintf(before, sizeof before, "%s", message);
    work_do(&h->same);
    work_do(&h->other);
    CHECK(!strcmp(before, message));
    h->inside = false;
}

static int32_t on_question(void *user_data) {
    struct host *h = user_data;
    return !h->inside && ++h->asked == h->stop_at;
}

/* The call said `status`; the callback was called once, and its work is that of the twin. */
static void after(struct host *h, const dqt_context *ctx, dqt_status status, dqt_status expected, const char *what) {
    CHECKF(status == expected, "%s: %s", what, dqt_status_string(status));
    CHECKF(h->calls == 1, "%s: %d calls", what, h->calls);
    CHECKF(!strcmp(dqt_last_error(ctx), h->message), "%s: %s, logged %s", what, dqt_last_error(ctx), h->message);
    CHECKF(!strcmp(dqt_last_error(NULL), h->message), "%s: %s, logged %s", what, dqt_last_error(NULL), h->message);
    work_do(&h->twin);
    const struct work *const both[] = {&h->same, &h->other};
    for (int i = 0; i < 2; i++) {
        const struct work *k = both[i], *t = &h->twin;
        CHECKF(!memcmp(k->logits, t->logits, sizeof t->logits) && !memcmp(&k->loss, &t->loss, sizeof t->loss),
               "%s: other numbers in the callback's %s", what, i ? "other context" : "context");
        CHECKF(k->file.size == t->file.size && !memcmp(k->file.bytes, t->file.bytes, t->file.size),
               "%s: other weights in the callback's %s", what, i ? "other context" : "context");
    }
    h->calls = 0;
    h->stop_at = 0;
}

static struct memory_file bytes_of(const struct world *w, const dqt_updater *u) {
    struct memory_file f = memory_new();
    OK(w->ctx, dqt_llama_write(w->model, u, memory_write, &f, NULL));
    return f;
}

/* The arguments are wrong, the host stops forward and the step, and numbers are not finite. */
static void fail_in_passes(struct world *w, struct host *h, dqt_updater *u) {
    dqt_batch b = batch_of(w);
    float loss;
    const int32_t token = w->tokens[TOKENS - 1];
    w->tokens[TOKENS - 1] = VOCAB;
    after(h, w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL), DQT_E_ARGUMENT, "a token");
    w->tokens[TOKENS - 1] = token;
    h->asked = 0;
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL));
    for (size_t at = 1, questions = h->asked; at <= questions; at++) {
        h->asked = 0;
        h->stop_at = at;
        after(h, w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL), DQT_E_CANCELLED, "a stopped loss");
    }
    static float dlogits[TOKENS * VOCAB];
    dqt_logits_gradient g = DQT_INIT(dqt_logits_gradient);
    g.dlogits = dlogits;
    dlogits[TOKENS * VOCAB - 1] = NAN;
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL));
    after(h, w->ctx, dqt_llama_backward_logits(w->model, w->tape, &g), DQT_E_NUMERIC, "a gradient of logits");

    dqt_step_options step = DQT_INIT(dqt_step_options);
    step.learning_rate = 0.02f;
    dqt_parameter p = DQT_INIT(dqt_parameter);
    OK(w->ctx, dqt_tape_get_parameter(w->tape, w->num_parameters - 1, &p));
    const float bad[HIDDEN] = {[HIDDEN - 1] = NAN};
    OK(w->ctx, dqt_tape_set_gradient(w->tape, w->num_parameters - 1, 0, 1, bad));
    after(h, w->ctx, dqt_updater_step(u, w->tape, &step, NULL), DQT_E_NUMERIC, "a gradient");
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL));
    OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
    h->asked = 0;
    h->stop_at = 2;
    after(h, w->ctx, dqt_updater_step(u, w->tape, &step, NULL), DQT_E_CANCELLED, "a stopped step");
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
}

/* Files that end too soon, a callback that refuses, a full cache and logits that are not finite. */
static void fail_in_files(struct world *w, struct host *h, dqt_updater *u) {
    struct memory_file f = bytes_of(w, u);
    const size_t size = f.size;
    for (size_t cut = 1; cut < 8; cut++) {
        f.size = size * cut / 8;
        f.position = 0;
        dqt_checkpoint out = DQT_INIT(dqt_checkpoint);
        after(h, w->ctx, dqt_llama_read(w->ctx, memory_read, &f, NULL, &out), DQT_E_FORMAT, "a file, created");
        CHECK(!out.model && !out.updater && !out.host);
        f.position = 0;
        const dqt_status status = dqt_layers_read(w->layers, w->num_layers, u, memory_read, &f, NULL, NULL);
        after(h, w->ctx, status, DQT_E_FORMAT, "a file, into layers");
    }
    struct memory_file full = memory_new();
    full.fail_at = size / 2;
    after(h, w->ctx, dqt_llama_write(w->model, u, memory_write, &full, NULL), DQT_E_IO, "a writer that refuses");
    free(full.bytes);
    free(f.bytes);

    dqt_session_options o = DQT_INIT(dqt_session_options);
    o.max_length = 4;
    dqt_session *session = NULL;
    OK(w->ctx, dqt_session_create(w->model, &o, &session));
    after(h, w->ctx, dqt_session_append(session, w->tokens, 5, NULL), DQT_E_STATE, "a full cache");
    dqt_session_destroy(session);
    dqt_sampler *sampler = NULL;
    const float logits[2] = {0, NAN};
    int32_t token;
    OK(w->ctx, dqt_sampler_create(w->ctx, 2, NULL, &sampler));
    after(h, w->ctx, dqt_sampler_sample(sampler, logits, &token), DQT_E_NUMERIC, "a logit");
    dqt_sampler_destroy(sampler);
}

static void test_log_callback_works(void) {
    for (size_t i = 0; i < SETTINGS; i++) {
        struct host h = {.calls = 0};
        dqt_context *other = NULL, *quiet = NULL;
        dqt_context_options c = DQT_INIT(dqt_context_options);
        c.log = on_log;
        c.log_user_data = &h;
        c.interrupt = on_question;
        c.interrupt_user_data = &h;
        struct world *w = world_create_in(&settings[i], &c);
        OK(NULL, dqt_context_create(&c, &other));
        OK(NULL, dqt_context_create(NULL, &quiet));
        share_all_work(w->ctx);
        share_all_work(other);
        work_create(&h.same, w->ctx);
        work_create(&h.other, other);
        work_create(&h.twin, quiet);
        dqt_updater *u = NULL;
        OK(w->ctx, dqt_updater_create(w->ctx, w->layers, w->num_layers, NULL, &u));

        const dqt_batch b = batch_of(w);
        float loss;
        struct memory_file before = bytes_of(w, u);
        const struct gradients expected = gradients_of(w, &b, &loss);
        fail_in_passes(w, &h, u);
        fail_in_files(w, &h, u);
        struct memory_file now = bytes_of(w, u);
        CHECK(now.size == before.size && !memcmp(now.bytes, before.bytes, before.size));
        const struct gradients again = gradients_of(w, &b, &loss);
        CHECK(!memcmp(expected.values, again.values, again.count * sizeof(float)));
        free(expected.values);
        free(again.values);
        free(before.bytes);
        free(now.bytes);
        dqt_updater_destroy(u);
        work_destroy(&h.same);
        work_destroy(&h.other);
        work_destroy(&h.twin);
        world_destroy(w);
        dqt_context_destroy(other);
        dqt_context_destroy(quiet);
    }
}

static const struct test tests[] = {
    {"log_callback_works", test_log_callback_works},
};
TEST_MAIN(tests)
