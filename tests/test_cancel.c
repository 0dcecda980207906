/* The host asks to stop: at every place where it is asked, and at every gradient. What is unchanged then is what dqt.h
 * says, and the next call goes as if nothing had happened. */
#define _POSIX_C_SOURCE 200809L
#include "batch_world.h"
#include "memory_file.h"

#include <unistd.h>

enum { MOST_PARAMETERS = 64 };

/* What the host answers, and what it saw. */
struct host {
    size_t asked, stop_at;                   /* number of a question; 0: none */
    size_t reported, refuse_at;              /* the same of gradients */
    unsigned char complete[MOST_PARAMETERS]; /* gradients that were reported */
};

static int32_t ask(void *user_data) {
    struct host *host = user_data;
    return ++host->asked == host->stop_at;
}

static int32_t gradient_ready(void *user_data, size_t index) {
    struct host *host = user_data;
    host->reported++;
    if (index < MOST_PARAMETERS) host->complete[index]++;
    return host->reported == host->refuse_at;
}

static struct world *cancel_world(const struct setting *setting, struct host *host) {
    dqt_context_options o = DQT_INIT(dqt_context_options);
    o.interrupt = ask;
    o.interrupt_user_data = host;
    struct world *w = world_create_in(setting, &o);
    OK(w->ctx, dqt_tape_on_gradient(w->tape, gradient_ready, host));
    return w;
}

static dqt_status forward(struct world *w, const dqt_batch *b, float *loss) {
    (void)loss;
    return dqt_llama_forward(w->model, w->tape, b, NULL);
}
static dqt_status make_loss(struct world *w, const dqt_batch *b, float *loss) {
    return dqt_llama_loss(w->model, w->tape, b, loss, NULL);
}

/* A forward or loss that is stopped leaves no pass to go back from, an earlier one neither, and writes no loss. */
static void check_forward(struct world *w, struct host *host,
                          dqt_status (*call)(struct world *, const dqt_batch *, float *)) {
    const dqt_batch b = batch_of(w);
    float loss, kept = 7;
    const struct gradients expected = gradients_of(w, &b, &loss);
    host->asked = host->stop_at = 0;
    OK(w->ctx, call(w, &b, &loss));
    const size_t questions = host->asked;
    CHECKF(questions > LAYERS, "%zu questions", questions);
    for (size_t at = 1; at <= questions; at++) {
        OK(w->ctx, make_loss(w, &b, &loss));
        *host = (struct host){.stop_at = at};
        CHECK(call(w, &b, &kept) == DQT_E_CANCELLED);
        CHECK(host->asked == at);
        CHECK(kept >= 7 && kept <= 7);
        CHECK(strstr(dqt_last_error(w->ctx), "interrupt") != NULL);
        const dqt_logits_gradient g = {.struct_size = sizeof g, .dlogits = &loss};
        CHECK(dqt_llama_backward(w->model, w->tape, 1) == DQT_E_STATE);
        CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_STATE);
    }
    *host = (struct host){0};
    const struct gradients again = gradients_of(w, &b, &loss);
    CHECK(!memcmp(expected.values, again.values, again.count * sizeof(float)));
    free(expected.values);
    free(again.values);
}
static void test_stopped_forward(void) {
    for (size_t i = 0; i < SETTINGS; i++) {
        struct host host = {0};
        struct world *w = cancel_world(&settings[i], &host);
        check_forward(w, &host, forward);
        check_forward(w, &host, make_loss);
        world_destroy(w);
    }
}

/* A backward that is stopped: no weight moves, the pass is used up; with gradients zeroed the next is as ever. */
static void check_backward(struct world *w, struct host *host, bool refuse) {
    const dqt_batch b = batch_of(w);
    float loss;
    size_t count, same;
    int8_t *before = take_codes(w, &count);
    const struct gradients expected = gradients_of(w, &b, &loss);
    OK(w->ctx, make_loss(w, &b, &loss));
    *host = (struct host){0};
    OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
    const size_t questions = refuse ? host->reported : host->asked;
    CHECKF(refuse ? questions == w->num_parameters : questions > LAYERS, "%zu questions", questions);
    for (size_t at = 1; at <= questions; at++) {
        OK(w->ctx, make_loss(w, &b, &loss));
        *host = (struct host){.stop_at = refuse ? 0 : at, .refuse_at = refuse ? at : 0};
        CHECK(dqt_llama_backward(w->model, w->tape, 1) == DQT_E_CANCELLED);
        CHECK((refuse ? host->reported : host->asked) == at);
        CHECK(dqt_llama_backward(w->model, w->tape, 1) == DQT_E_STATE);
    }
    *host = (struct host){0};
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
    const struct gradients again = gradients_of(w, &b, &loss);
    CHECK(!memcmp(expected.values, again.values, again.count * sizeof(float)));
    int8_t *after = take_codes(w, &same);
    CHECK(same == count && !memcmp(before, after, count));
    free(before);
    free(after);
    free(expected.values);
    free(again.values);
}
static void test_stopped_backward(void) {
    for (size_t i = 0; i < SETTINGS; i++) {
        struct host host = {0};
        struct world *w = cancel_world(&settings[i], &host);
        check_backward(w, &host, false);
        check_backward(w, &host, true);
        world_destroy(w);
    }
}

/* A fused step of a new network. */
static dqt_status fused_step(const struct setting *setting, struct host *host, int8_t **before, int8_t **after,
                             size_t *starts) {
    struct world *w = cancel_world(setting, host);
    const dqt_batch b = batch_of(w);
    const struct host wanted = *host;
    float loss;
    size_t count;
    uint64_t steps = 0;
    *host = (struct host){0};
    OK(w->ctx, make_loss(w, &b, &loss));
    *host = wanted;
    *before = take_codes(w, &count);
    dqt_updater *updater = updater_of(w);
    const dqt_status status = dqt_llama_backward_update(w->model, w->tape, updater, step_rate(0.05f), NULL);
    OK(w->ctx, dqt_updater_get_step(updater, &steps));
    CHECK(steps == 1);
    *after = take_codes(w, &count);
    size_t at = 0;
    for (size_t i = 0; i < w->num_parameters && i < MOST_PARAMETERS; i++) {
        dqt_parameter p = DQT_INIT(dqt_parameter);
        OK(w->ctx, dqt_tape_get_parameter(w->tape, i, &p));
        starts[i] = at;
        if (p.parameter_class != DQT_CLASS_NORM) at += p.rows * p.cols;
        starts[i + 1] = at;
    }
    CHECK(w->num_parameters < MOST_PARAMETERS && at == count);
    const size_t num_parameters = w->num_parameters;
    dqt_updater_destroy(updater);
    world_destroy(w);
    for (size_t i = num_parameters; i < MOST_PARAMETERS; i++)
        starts[i + 1] = at;
    return status;
}

/* Parameters whose gradient was complete have the codes of an undisturbed step, the others theirs of before. */
static void check_fused(const struct setting *setting, bool refuse) {
    struct host host = {0};
    size_t starts[MOST_PARAMETERS + 1], updated = 0, kept = 0;
    int8_t *before, *whole, *begin, *partly;
    CHECK(fused_step(setting, &host, &before, &whole, starts) == DQT_OK);
    const size_t questions = refuse ? host.reported : host.asked;
    CHECK(questions > LAYERS);
    for (size_t at = 1; at <= questions; at++) {
        host = (struct host){.stop_at = refuse ? 0 : at, .refuse_at = refuse ? at : 0};
        CHECK(fused_step(setting, &host, &begin, &partly, starts) == DQT_E_CANCELLED);
        for (size_t i = 0; i < MOST_PARAMETERS; i++) {
            const size_t n = starts[i + 1] - starts[i];
            CHECK(!memcmp(partly + starts[i], (host.complete[i] ? whole : before) + starts[i], n));
            if (n == 0 || !memcmp(whole + starts[i], before + starts[i], n)) continue;
            updated += host.complete[i];
            kept += !host.complete[i];
        }
        free(begin);
        free(partly);
    }
    CHECK(updated > 0 && kept > 0);
    free(before);
    free(whole);
}
static void test_stopped_fused(void) {
    for (size_t i = 0; i < SETTINGS; i++) {
        check_fused(&settings[i], false);
        check_fused(&settings[i], true);
    }
}

/* Calls of single layers ask as well. */
static void test_stopped_layers(void) {
    struct host host = {0};
    struct world *w = cancel_world(&settings[0], &host);
    dqt_layer *block = w->layers[1], *head = w->layers[w->num_layers - 1];
    const dqt_batch b = batch_of(w);
    float *x = random_floats(TOKENS * HIDDEN, 1, 3), *y = random_floats(TOKENS * HIDDEN, 1, 4), loss = 7;
    host.stop_at = 1;
    CHECK(dqt_layer_forward(block, w->tape, &b, x, y) == DQT_E_CANCELLED);
    CHECK(dqt_layer_backward(block, w->tape, x, y) == DQT_E_STATE);
    OK(w->ctx, dqt_layer_forward(block, w->tape, &b, x, y));
    host = (struct host){.stop_at = 1};
    CHECK(dqt_layer_backward(block, w->tape, x, y) == DQT_E_CANCELLED);
    OK(w->ctx, dqt_layer_backward(block, w->tape, x, y));
    host = (struct host){.stop_at = 2};
    CHECK(dqt_head_loss(head, w->tape, &b, x, &loss, NULL) == DQT_E_CANCELLED);
    CHECK(loss >= 7 && loss <= 7);
    CHECK(dqt_head_backward(head, w->tape, 1, NULL) == DQT_E_STATE);
    OK(w->ctx, dqt_head_loss(head, w->tape, &b, x, &loss, NULL));
    host = (struct host){.stop_at = 2};
    CHECK(dqt_head_backward(head, w->tape, 1, NULL) == DQT_E_CANCELLED);
    free(x);
    free(y);
    world_destroy(w);
}

/* Everything of a network that a checkpoint has. */
static struct memory_file whole_state(struct world *w, const dqt_updater *updater) {
    struct memory_file f = memory_new();
    OK(w->ctx, dqt_llama_write(w->model, updater, memory_write, &f, NULL));
    return f;
}

/* A step that is stopped changes nothing; the next one is as ever. */
static void test_stopped_steps(void) {
    for (size_t i = 0; i < SETTINGS; i++) {
        struct host host = {0};
        struct world *w = cancel_world(&settings[i], &host);
        const dqt_batch b = batch_of(w);
        dqt_updater *updater = updater_of(w);
        float loss;
        OK(w->ctx, make_loss(w, &b, &loss));
        OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
        const struct memory_file before = whole_state(w, updater);
        size_t at = 0;
        dqt_status status = DQT_E_CANCELLED;
        while (status == DQT_E_CANCELLED && at < 1000) {
            host = (struct host){.stop_at = ++at};
            status = dqt_updater_step(updater, w->tape, step_rate(0.05f), NULL);
            host = (struct host){0};
            struct memory_file after = whole_state(w, updater);
            CHECK(same_bytes(&before, &after) == (status != DQT_OK));
            free(after.bytes);
        }
        OK(w->ctx, status);
        CHECKF(at > w->num_parameters, "%zu questions", at);
        free(before.bytes);
        dqt_updater_destroy(updater);
        world_destroy(w);
    }
}

/* A path keeps its old file, a model its weights, and loading leaves nothing. */
static void test_stopped_files(void) {
    struct host host = {0};
    struct world *w = cancel_world(&settings[0], &host);
    char path[] = "/tmp/dqt-cancel-XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0);
    OK(w->ctx, dqt_llama_save(w->model, NULL, path, save_host("old", 3)));
    const struct memory_file old = slurp(path);
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    host = (struct host){.stop_at = 1};
    CHECK(dqt_llama_save(w->model, NULL, path, save_host("new", 3)) == DQT_E_CANCELLED);
    host = (struct host){.stop_at = 1};
    CHECK(dqt_llama_export_safetensors(w->model, path, NULL) == DQT_E_CANCELLED);
    const struct memory_file kept = slurp(path);
    CHECK(same_bytes(&old, &kept));
    const size_t allocated = dqt_context_allocated(w->ctx);
    size_t at = 0;
    dqt_status status = DQT_E_CANCELLED;
    while (status == DQT_E_CANCELLED && at < 100) {
        host = (struct host){.stop_at = ++at};
        status = dqt_llama_load(w->ctx, path, NULL, &c);
        CHECK(status == DQT_OK || (!c.model && !c.host && dqt_context_allocated(w->ctx) == allocated));
    }
    OK(w->ctx, status);
    CHECK(at > 1);
    dqt_llama_destroy(c.model);
    dqt_host_bytes_free(w->ctx, c.host, c.host_size);
    host = (struct host){0};
    const struct memory_file before = whole_state(w, NULL);
    host = (struct host){.stop_at = 1};
    CHECK(dqt_layers_load(w->layers, w->num_layers, NULL, path, NULL, NULL) == DQT_E_CANCELLED);
    host = (struct host){0};
    OK(w->ctx, dqt_llama_export_safetensors(w->model, path, NULL));
    host = (struct host){.stop_at = 1};
    CHECK(dqt_llama_import_safetensors(w->model, path, NULL) == DQT_E_CANCELLED);
    host = (struct host){0};
    const struct memory_file after = whole_state(w, NULL);
    CHECK(same_bytes(&before, &after));
    free(before.bytes);
    free(after.bytes);
    free(old.bytes);
    free(kept.bytes);
    close(file);
    unlink(path);
    world_destroy(w);
}

static const struct test tests[] = {
    TEST(test_stopped_steps),    TEST(test_stopped_files), TEST(test_stopped_forward),
    TEST(test_stopped_backward), TEST(test_stopped_fused), TEST(test_stopped_layers),
};

TEST_MAIN(tests)
