/* The snippets of docs/host-loop.md: what lies between a line "[name]" and the next "[end]" is in the page word for
 * word, and tests/tree/host_loop.sh compiles and runs this program. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dqt.h"

enum { BATCH = 4, LENGTH = 32, TOKENS = BATCH * LENGTH, VOCAB = 256 };

static dqt_context *ctx;
static dqt_llama *model;
static dqt_layer *const *layers; /* of the model */
static size_t num_layers;
static dqt_tape *tape;
static dqt_updater *updater;
static int32_t tokens[TOKENS], targets[TOKENS];

static void must(int true_thing, const char *what) {
    if (true_thing) return;
    fprintf(stderr, "host_loop: %s\n", what);
    exit(1);
}

/* [status] */
static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(NULL));
    exit(1);
}
/* [end] */

static dqt_batch batch_of(size_t sequences) {
    dqt_batch b = DQT_INIT(dqt_batch);
    b.batch = sequences;
    b.length = LENGTH;
    b.tokens = tokens;
    b.targets = targets;
    return b;
}

static dqt_step_options step_of(float learning_rate) {
    dqt_step_options s = DQT_INIT(dqt_step_options);
    s.learning_rate = learning_rate;
    return s;
}

static void create(void) {
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    t.max_batch = BATCH;
    t.max_length = LENGTH;
    t.precision = DQT_PRECISION_F32;
    ok(dqt_context_create(NULL, &ctx));
    ok(dqt_llama_create(ctx, NULL, &model));
    ok(dqt_llama_get_layers(model, &layers, &num_layers));
    ok(dqt_tape_create(ctx, layers, num_layers, &t, &tape));
    ok(dqt_updater_create(ctx, layers, num_layers, NULL, &updater));
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = 'a' + (i * i) % 26;
        targets[i] = 'a' + ((i + 1) * (i + 1)) % 26;
        if (i % LENGTH < i / LENGTH * 7) targets[i] = -1; /* so that sequences have different numbers of targets */
    }
}

static void train(int steps) {
    for (int i = 0; i < steps; i++) {
        const dqt_batch b = batch_of(BATCH);
        const dqt_step_options s = step_of(5e-3f);
        float loss;
        ok(dqt_tape_zero_gradients(tape));
        ok(dqt_llama_loss(model, tape, &b, &loss, NULL));
        ok(dqt_llama_backward(model, tape, 1.0f));
        ok(dqt_updater_step(updater, tape, &s, NULL));
    }
}

static int same_files(const char *a, const char *b) {
    FILE *first = fopen(a, "rb"), *second = fopen(b, "rb");
    int x = 0, y = 0;
    must(first && second, "no file");
    while (x == y && x != EOF) {
        x = fgetc(first);
        y = fgetc(second);
    }
    fclose(first);
    fclose(second);
    return x == y;
}

static int same_weights(dqt_layer *const *a, dqt_layer *const *b, size_t count) {
    for (size_t l = 0; l < count; l++) {
        dqt_layer_info info = DQT_INIT(dqt_layer_info);
        ok(dqt_layer_get_info(a[l], &info));
        for (size_t i = 0; i < info.num_parameters; i++) {
            dqt_parameter p = DQT_INIT(dqt_parameter), q = DQT_INIT(dqt_parameter);
            void *x, *y;
            size_t x_bytes, y_bytes;
            ok(dqt_layer_get_parameter(a[l], i, &p));
            ok(dqt_layer_get_parameter(b[l], i, &q));
            ok(dqt_tensor_data(p.tensor, &x, &x_bytes));
            ok(dqt_tensor_data(q.tensor, &y, &y_bytes));
            if (x_bytes != y_bytes || memcmp(x, y, x_bytes) != 0) return 0;
        }
    }
    return 1;
}

/* ---- Accumulation ---- */

/* [accumulate] */
/* One step over micro-batches of one sequence each, with different numbers of targets. Returns the mean loss. */
static float step_by_micro_batches(const dqt_step_options *step) {
    double num_targets = 0;
    float loss, sum = 0;
    for (int i = 0; i < TOKENS; i++)
        num_targets += targets[i] >= 0;
    ok(dqt_tape_zero_gradients(tape));
    for (int m = 0; m < BATCH; m++) {
        dqt_batch b = DQT_INIT(dqt_batch);
        b.length = LENGTH;
        b.tokens = tokens + m * LENGTH;
        b.targets = targets + m * LENGTH;
        b.divisor = num_targets; /* of the whole step, not of this micro-batch */
        ok(dqt_llama_loss(model, tape, &b, &loss, NULL));
        ok(dqt_llama_backward(model, tape, 1.0f));
        sum += loss;
    }
    if (step) ok(dqt_updater_step(updater, tape, step, NULL));
    return sum;
}
/* [end] */

static double gradient_difference(const float *a, const float *b, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)a[i] * (double)a[i];
    }
    must(norm > 0, "a gradient is zero");
    return sqrt(difference / norm);
}

/* The gradients of the micro-batches are those of one batch, for parameter 2, of the first block. */
static void check_accumulation(void) {
    const dqt_batch b = batch_of(BATCH);
    dqt_parameter p = DQT_INIT(dqt_parameter);
    float loss, *gradient;
    ok(dqt_tape_get_parameter(tape, 2, &p));
    ok(dqt_tape_gradient_data(tape, 2, &gradient));
    const size_t count = p.rows * p.cols;
    float *kept = malloc(count * sizeof *kept);
    must(kept != NULL, "no memory");
    ok(dqt_tape_zero_gradients(tape));
    ok(dqt_llama_loss(model, tape, &b, &loss, NULL));
    ok(dqt_llama_backward(model, tape, 1.0f));
    memcpy(kept, gradient, count * sizeof *kept);
    const float sum = step_by_micro_batches(NULL);
    must(fabsf(sum - loss) < 1e-5f * loss, "losses of micro-batches do not sum to the batch's");
    must(gradient_difference(kept, gradient, count) < 1e-5, "micro-batches have other gradients than the batch");
    free(kept);
}

/* [weights] */
/* Answers count, questions do not; a divisor that the host knows stays the same however the batch is cut. */
static dqt_batch answers_only(float *weights, const unsigned char *is_answer, double answers_in_step) {
    dqt_batch b = DQT_INIT(dqt_batch);
    b.batch = BATCH;
    b.length = LENGTH;
    b.tokens = tokens;
    b.targets = targets;
    for (int i = 0; i < TOKENS; i++)
        weights[i] = is_answer[i] ? 1.0f : 0.0f;
    b.weights = weights;
    b.divisor = answers_in_step;
    return b;
}
/* [end] */

static void check_weights(void) {
    float weights[TOKENS], loss, token_losses[TOKENS];
    unsigned char is_answer[TOKENS];
    double expected = 0;
    for (int i = 0; i < TOKENS; i++)
        is_answer[i] = i % LENGTH >= LENGTH / 2;
    const dqt_batch b = answers_only(weights, is_answer, 50);
    ok(dqt_llama_loss(model, tape, &b, &loss, token_losses));
    for (int i = 0; i < TOKENS; i++)
        if (is_answer[i]) expected += (double)token_losses[i] / 50;
    must(fabs(expected - (double)loss) < 1e-5 * expected, "weights of tokens");
}

/* ---- Validation ---- */

/* [validate] */
/* A tape of its own, which saves nothing for backward, so that training's forward is not disturbed. */
static dqt_tape *validation_tape(void) {
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    dqt_tape *t;
    o.inference = 1;
    o.max_batch = 1;
    o.max_length = LENGTH;
    ok(dqt_tape_create(ctx, layers, num_layers, &o, &t));
    return t;
}

/* The mean over all targets of all windows: with a divisor of 1 a loss is a sum. */
static double validate(dqt_tape *t, const int32_t *in, const int32_t *out, size_t windows) {
    double sum = 0, num_targets = 0;
    for (size_t w = 0; w < windows; w++) {
        dqt_batch b = DQT_INIT(dqt_batch);
        float loss;
        b.length = LENGTH;
        b.tokens = in + w * LENGTH;
        b.targets = out + w * LENGTH;
        b.divisor = 1;
        ok(dqt_llama_loss(model, t, &b, &loss, NULL));
        sum += (double)loss;
        for (size_t i = 0; i < LENGTH; i++)
            num_targets += b.targets[i] >= 0;
    }
    return sum / num_targets;
}
/* [end] */

static void check_validation(void) {
    dqt_tape *t = validation_tape();
    const dqt_batch b = batch_of(BATCH);
    float loss;
    ok(dqt_llama_loss(model, tape, &b, &loss, NULL));
    const double mean = validate(t, tokens, targets, BATCH);
    ok(dqt_llama_backward(model, tape, 1.0f)); /* the training tape's forward is still there */
    must(fabs(mean - (double)loss) < 1e-2, "validation's loss");
    dqt_tape_destroy(t);
}

/* ---- Threads ---- */

/* [threads] */
/* Replicas of the activations, not of the weights: each thread has a tape on the same model. */
struct worker {
    dqt_tape *tape;
    int sequence;
    double num_targets;
    float loss;
    dqt_status status;
};

static void *work(void *argument) {
    struct worker *w = argument;
    dqt_batch b = DQT_INIT(dqt_batch);
    b.length = LENGTH;
    b.tokens = tokens + w->sequence * LENGTH;
    b.targets = targets + w->sequence * LENGTH;
    b.divisor = w->num_targets;
    w->status = dqt_tape_zero_gradients(w->tape);
    if (!w->status) w->status = dqt_llama_loss(model, w->tape, &b, &w->loss, NULL);
    if (!w->status) w->status = dqt_llama_backward(model, w->tape, 1.0f);
    return NULL; /* the sentence of a failure is this thread's: dqt_last_error here, not in the main thread */
}

/* Adds the gradients of `from` to those of `to`: in a fixed order, so that every run has the same bits. */
static void add_gradients(dqt_tape *to, dqt_tape *from) {
    size_t count;
    ok(dqt_tape_get_num_parameters(to, &count));
    for (size_t i = 0; i < count; i++) {
        dqt_parameter p = DQT_INIT(dqt_parameter);
        float *sum, *part;
        ok(dqt_tape_get_parameter(to, i, &p));
        ok(dqt_tape_gradient_data(to, i, &sum));
        ok(dqt_tape_gradient_data(from, i, &part));
        for (size_t k = 0; k < p.rows * p.cols; k++)
            sum[k] += part[k];
    }
}
/* [end] */

static void check_threads(void) {
    enum { WORKERS = 2 };
    struct worker w[WORKERS];
    pthread_t threads[WORKERS];
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.max_length = LENGTH;
    for (int i = 0; i < WORKERS; i++) {
        w[i] = (struct worker){.sequence = i, .num_targets = 2 * LENGTH};
        ok(dqt_tape_create(ctx, layers, num_layers, &o, &w[i].tape));
        must(pthread_create(&threads[i], NULL, work, &w[i]) == 0, "no thread");
    }
    for (int i = 0; i < WORKERS; i++) {
        must(pthread_join(threads[i], NULL) == 0, "no join");
        ok(w[i].status);
    }
    const dqt_step_options s = step_of(1e-3f);
    add_gradients(w[0].tape, w[1].tape);
    ok(dqt_updater_step(updater, w[0].tape, &s, NULL));
    for (int i = 0; i < WORKERS; i++)
        dqt_tape_destroy(w[i].tape);
}

/* ---- Generation ---- */

/* [snapshot] */
/* A second model of the same config, for generation; its weights are set between two steps. */
static dqt_llama *snapshot_create(void) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_llama *snapshot;
    ok(dqt_llama_get_config(model, &c));
    ok(dqt_llama_create(ctx, &c, &snapshot));
    return snapshot;
}

/* While no session of the snapshot runs. Keys and values of the old weights go: sessions begin anew. */
static void snapshot_take(dqt_llama *snapshot, dqt_session **sessions, size_t num_sessions) {
    dqt_layer *const *copies;
    size_t count;
    ok(dqt_llama_get_layers(snapshot, &copies, &count));
    ok(dqt_layers_copy(copies, layers, count));
    for (size_t i = 0; i < num_sessions; i++)
        ok(dqt_session_truncate(sessions[i], 0));
}
/* [end] */

/* [sessions] */
/* Continues two prompts of the same length together: the weights are read once for both. */
static void generate(dqt_session *a, dqt_session *b, const int32_t *prompt_a, const int32_t *prompt_b, size_t length,
                     dqt_sampler *sampler, int32_t *out, int count) {
    static float logits[2][VOCAB];
    dqt_session_step s[2] = {DQT_INIT(dqt_session_step), DQT_INIT(dqt_session_step)};
    s[0].session = a;
    s[0].tokens = prompt_a;
    s[1].session = b;
    s[1].tokens = prompt_b;
    for (int i = 0; i < 2; i++) {
        s[i].count = length;
        s[i].logits = logits[i];
    }
    for (int n = 0; n < count; n++) {
        ok(dqt_sessions_append(s, 2));
        for (int i = 0; i < 2; i++) {
            int32_t *token = &out[2 * n + i];
            ok(dqt_sampler_sample(sampler, logits[i], token));
            s[i].tokens = token;
            s[i].count = 1;
        }
    }
}
/* [end] */

static void *train_some(void *argument) {
    train(3);
    return argument;
}

static void check_generation(void) {
    dqt_llama *snapshot = snapshot_create();
    dqt_layer *const *copies;
    dqt_session *sessions[2];
    dqt_session_options o = DQT_INIT(dqt_session_options);
    dqt_sampler *sampler;
    pthread_t trainer;
    int32_t with[20], without[20];
    size_t count;
    ok(dqt_llama_get_layers(snapshot, &copies, &count));
    o.max_length = LENGTH;
    for (int i = 0; i < 2; i++)
        ok(dqt_session_create(snapshot, &o, &sessions[i]));
    train(1);
    snapshot_take(snapshot, sessions, 2);
    must(same_weights(layers, copies, count), "a snapshot has other weights");
    ok(dqt_sampler_create(ctx, VOCAB, NULL, &sampler));
    must(pthread_create(&trainer, NULL, train_some, NULL) == 0, "no thread");
    generate(sessions[0], sessions[1], tokens, tokens + LENGTH, 4, sampler, with, 10);
    must(pthread_join(trainer, NULL) == 0, "no join");
    must(!same_weights(layers, copies, count), "training wrote nothing, or into the snapshot");
    ok(dqt_session_truncate(sessions[0], 0));
    ok(dqt_session_truncate(sessions[1], 0));
    ok(dqt_sampler_set_draws(sampler, 0));
    generate(sessions[0], sessions[1], tokens, tokens + LENGTH, 4, sampler, without, 10);
    must(memcmp(with, without, sizeof with) == 0, "training changed what is generated");
    dqt_sampler_destroy(sampler);
    for (int i = 0; i < 2; i++)
        dqt_session_destroy(sessions[i]);
    dqt_llama_destroy(snapshot);
}

/* ---- Checkpoints ---- */

/* [save] */
struct progress {
    uint64_t step, position; /* what the host itself needs to go on */
};

static void save(const char *path, const struct progress *progress) {
    dqt_save_options o = DQT_INIT(dqt_save_options);
    o.host = progress;
    o.host_size = sizeof *progress;
    o.tape = tape;
    ok(dqt_llama_save(model, updater, path, &o));
}

/* Creates model and updater; the host makes a tape for them as it made the first. */
static dqt_checkpoint load(const char *path, struct progress *progress) {
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    ok(dqt_llama_load(ctx, path, NULL, &c));
    if (c.host_size == sizeof *progress) memcpy(progress, c.host, sizeof *progress);
    dqt_host_bytes_free(ctx, c.host, c.host_size);
    return c; /* of the new tape: dqt_tape_set_pass(tape, c.passes) */
}
/* [end] */

/* [layers] */
/* Back to what was saved, into the objects that are there: after a loss that is not finite, say. */
static void go_back(const char *path) {
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    ok(dqt_layers_load(layers, num_layers, updater, path, NULL, &c));
    ok(dqt_tape_set_pass(tape, c.passes));
    dqt_host_bytes_free(ctx, c.host, c.host_size);
}
/* [end] */

/* [updater] */
/* The updater alone, for a host that keeps the weights itself: into a growing buffer of its own. */
struct buffer {
    unsigned char *bytes;
    size_t size, taken;
};

static int32_t buffer_write(void *user_data, const void *bytes, size_t size) {
    struct buffer *b = user_data;
    unsigned char *grown = realloc(b->bytes, b->size + size);
    if (!grown) return 1; /* any number but 0: DQT_E_IO */
    b->bytes = grown;
    memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
    return 0;
}

static size_t buffer_read(void *user_data, void *bytes, size_t size) {
    struct buffer *b = user_data;
    if (size > b->size - b->taken) size = b->size - b->taken;
    memcpy(bytes, b->bytes + b->taken, size);
    b->taken += size;
    return size; /* 0: the end */
}
/* [end] */

/* [parts] */
/* Here the messages of the other parts are in memory; a network's are received from replica `part`. */
static size_t receive_part(void *user_data, size_t part, void *bytes, size_t size) {
    struct buffer *from = user_data; /* [num_parts] */
    return buffer_read(&from[part], bytes, size);
}

/* On one replica, while all others call dqt_updater_write_part with a function that sends to it. */
static void save_all_parts(const char *path, const dqt_updater *own, struct buffer *from) {
    dqt_save_options o = DQT_INIT(dqt_save_options);
    o.tape = tape;
    o.read_part = receive_part;
    o.part_user_data = from;
    ok(dqt_llama_save(model, own, path, &o));
}
/* [end] */

/* Three parts of the updater's state, saved as one file, and its own file. */
static void check_parts(void) {
    struct buffer state = {0}, messages[3] = {{0}};
    dqt_updater *parts[3];
    dqt_save_options o = DQT_INIT(dqt_save_options);
    ok(dqt_updater_write(updater, buffer_write, &state));
    for (int k = 0; k < 3; k++) {
        dqt_updater_options u = DQT_INIT(dqt_updater_options);
        ok(dqt_updater_get_options(updater, &u));
        u.part = (uint64_t)k;
        u.num_parts = 3;
        state.taken = 0;
        ok(dqt_updater_create(ctx, layers, num_layers, &u, &parts[k]));
        ok(dqt_updater_read(parts[k], buffer_read, &state));
        if (k > 0) ok(dqt_updater_write_part(parts[k], buffer_write, &messages[k]));
    }
    save_all_parts("host_loop_parts.dqt", parts[0], messages);
    o.tape = tape;
    ok(dqt_llama_save(model, updater, "host_loop_whole.dqt", &o));
    must(same_files("host_loop_parts.dqt", "host_loop_whole.dqt"), "parts do not make the file of all rows");
    for (int k = 0; k < 3; k++) {
        dqt_updater_destroy(parts[k]);
        free(messages[k].bytes);
    }
    free(state.bytes);
}

static void check_checkpoints(void) {
    const struct progress progress = {7, 12345};
    struct progress loaded = {0, 0};
    struct buffer state = {0};
    dqt_layer *const *others;
    size_t count;
    uint64_t step, again;
    save("host_loop.dqt", &progress);
    dqt_checkpoint c = load("host_loop.dqt", &loaded);
    ok(dqt_llama_get_layers(c.model, &others, &count));
    must(loaded.position == 12345 && same_weights(layers, others, count), "a checkpoint is not what was saved");
    ok(dqt_updater_write(updater, buffer_write, &state));
    ok(dqt_updater_get_step(updater, &step));
    train(2);
    must(!same_weights(layers, others, count), "training wrote nothing");
    go_back("host_loop.dqt");
    must(same_weights(layers, others, count), "not back");
    train(1);
    ok(dqt_updater_read(updater, buffer_read, &state));
    ok(dqt_updater_get_step(updater, &again));
    must(step == again, "the updater's state is not what was written");
    free(state.bytes);
    dqt_updater_destroy(c.updater);
    dqt_llama_destroy(c.model);
}

/* ---- Cancellation ---- */

/* [cancel] */
static volatile sig_atomic_t stop; /* set by a signal's handler, or by a thread with an atomic variable */

static int32_t interrupted(void *user_data) {
    (void)user_data;
    return stop != 0;
}

static dqt_context *cancellable_context(void) {
    dqt_context_options o = DQT_INIT(dqt_context_options);
    dqt_context *c;
    o.interrupt = interrupted;
    ok(dqt_context_create(&o, &c));
    return c;
}

/* True: the step is done. False: it was cancelled, and may be made again with the same batch. */
static int cancellable_step(dqt_llama *m, dqt_tape *t, dqt_updater *u, const dqt_batch *b, const dqt_step_options *o) {
    float loss;
    dqt_status s = dqt_tape_zero_gradients(t); /* of a cancelled backward too */
    if (!s) s = dqt_llama_loss(m, t, b, &loss, NULL);
    if (!s) s = dqt_llama_backward(m, t, 1.0f);
    if (!s) s = dqt_updater_step(u, t, o, NULL);
    if (s == DQT_E_CANCELLED) return 0;
    ok(s);
    return 1;
}
/* [end] */

/* [ready] */
/* Gradients leave while backward makes the rest; what cannot be sent ends it. */
static int32_t send_gradient(void *user_data, size_t parameter) {
    float *gradient;
    if (dqt_tape_gradient_data(user_data, parameter, &gradient)) return 1;
    return 0; /* here: begin a reduction of gradient over machines, and return 1 if that fails */
}
/* [end] */

static void check_cancellation(void) {
    dqt_context *c = cancellable_context();
    dqt_llama *m;
    dqt_tape *t;
    dqt_updater *u;
    dqt_layer *const *list;
    size_t count;
    uint64_t steps;
    dqt_batch b = batch_of(1);
    const dqt_step_options s = step_of(1e-3f);
    ok(dqt_llama_create(c, NULL, &m));
    ok(dqt_llama_get_layers(m, &list, &count));
    ok(dqt_tape_create(c, list, count, NULL, &t));
    ok(dqt_updater_create(c, list, count, NULL, &u));
    ok(dqt_tape_on_gradient(t, send_gradient, t));
    stop = 1;
    must(!cancellable_step(m, t, u, &b, &s), "nothing was cancelled");
    ok(dqt_updater_get_step(u, &steps));
    must(steps == 0, "a cancelled step counts");
    stop = 0;
    must(cancellable_step(m, t, u, &b, &s), "cancelled without a reason");
    dqt_updater_destroy(u);
    dqt_tape_destroy(t);
    dqt_llama_destroy(m);
    dqt_context_destroy(c);
}

/* ---- Fork ---- */

/* [fork] */
/* The child saves the weights as they are now, the parent trains on; the system copies the pages that it writes. */
static pid_t save_in_child(const char *path) {
    const pid_t child = fork();
    if (child) return child; /* the parent: waitpid tells how it went; -1: no child */
    _exit(dqt_llama_save(model, updater, path, NULL) ? 1 : 0);
}
/* [end] */

static void check_fork(void) {
    int result;
    struct progress none = {0, 0};
    dqt_layer *const *others;
    size_t count;
    dqt_llama *before = snapshot_create();
    dqt_layer *const *copies;
    snapshot_take(before, NULL, 0);
    ok(dqt_llama_get_layers(before, &copies, &count));
    const pid_t child = save_in_child("host_loop_child.dqt");
    must(child > 0, "no child");
    train(1);
    must(waitpid(child, &result, 0) == child && WIFEXITED(result) && WEXITSTATUS(result) == 0, "the child failed");
    dqt_checkpoint c = load("host_loop_child.dqt", &none);
    ok(dqt_llama_get_layers(c.model, &others, &count));
    must(same_weights(copies, others, count), "the child saved other weights");
    dqt_updater_destroy(c.updater);
    dqt_llama_destroy(c.model);
    dqt_llama_destroy(before);
}

/* ---- Unloading ---- */

/* [unload] */
static void use_and_unload(const char *file) {
    dqt_status (*create_context)(const dqt_context_options *, dqt_context **);
    void (*destroy_context)(dqt_context *);
    dqt_context *c;
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    must(library != NULL, "no library");
    *(void **)&create_context = dlsym(library, "dqt_context_create");
    *(void **)&destroy_context = dlsym(library, "dqt_context_destroy");
    must(create_context && destroy_context && create_context(NULL, &c) == DQT_OK, "no context");
    destroy_context(c); /* and all objects before it */
    dlclose(library);   /* harmless: the library stays mapped, for OpenMP's threads may wait in it */
}
/* [end] */

/* ---- Memory ---- */

/* [memory] */
/* What a config costs with these options, before any of it is there. */
static size_t bytes_of(const dqt_llama_config *config, const dqt_tape_options *t, const dqt_updater_options *u) {
    dqt_llama_config shape = *config;
    dqt_llama_memory_info weights = DQT_INIT(dqt_llama_memory_info);
    dqt_tape_memory_info activations = DQT_INIT(dqt_tape_memory_info);
    dqt_updater_memory_info state = DQT_INIT(dqt_updater_memory_info);
    dqt_layer *const *list;
    dqt_llama *plan;
    size_t count;
    shape.shape_only = 1; /* kilobytes, whatever the size of the model */
    ok(dqt_llama_create(ctx, &shape, &plan));
    ok(dqt_llama_get_layers(plan, &list, &count));
    ok(dqt_llama_memory(ctx, config, &weights));
    ok(dqt_tape_memory(ctx, list, count, t, &activations));
    ok(dqt_updater_memory(ctx, list, count, u, &state));
    dqt_llama_destroy(plan);
    return weights.total + activations.total + state.total;
}
/* [end] */

static void check_memory(void) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    dqt_layer *const *list;
    dqt_llama *m;
    dqt_tape *a;
    dqt_updater *s;
    size_t count;
    c.num_layers = 3;
    t.recompute = 1;
    const size_t planned = bytes_of(&c, &t, &u), before = dqt_context_allocated(ctx);
    ok(dqt_llama_create(ctx, &c, &m));
    ok(dqt_llama_get_layers(m, &list, &count));
    ok(dqt_tape_create(ctx, list, count, &t, &a));
    ok(dqt_updater_create(ctx, list, count, &u, &s));
    must(dqt_context_allocated(ctx) - before == planned, "the plan is not exact");
    dqt_updater_destroy(s);
    dqt_tape_destroy(a);
    dqt_llama_destroy(m);
}

/* ---- Own losses, own networks ---- */

/* [loss] */
/* Cross-entropy with z-loss, z * (log sum exp)^2: p - target + 2 z lse p, over the targets that count. */
struct z_loss {
    double z, num_targets;
};

static int32_t z_loss_gradient(void *user_data, const dqt_logits_tile *tile) {
    const struct z_loss *l = user_data;
    for (size_t t = 0; t < tile->num_tokens; t++) {
        const int32_t target = targets[tile->first_token + t];
        const double lse = (double)tile->log_sum_exp[t];
        for (size_t c = 0; c < tile->num_classes; c++) {
            float *x = &tile->logits[t * tile->ld + c];
            const double p = exp((double)*x - lse), hit = (size_t)target == tile->first_class + c;
            *x = target < 0 ? 0.0f : (float)((p * (1 + 2 * l->z * lse) - hit) / l->num_targets);
        }
    }
    return 0; /* the same tile may come twice, and gets the same numbers */
}

static void backward_z_loss(struct z_loss *loss) {
    dqt_batch b = DQT_INIT(dqt_batch);
    dqt_logits_gradient g = DQT_INIT(dqt_logits_gradient);
    b.batch = BATCH;
    b.length = LENGTH;
    b.tokens = tokens;
    g.callback = z_loss_gradient;
    g.user_data = loss;
    ok(dqt_llama_forward(model, tape, &b, NULL));
    ok(dqt_llama_backward_logits(model, tape, &g));
}
/* [end] */

/* With z = 0 it is the library's own loss. */
static void check_loss(void) {
    const dqt_batch b = batch_of(BATCH);
    struct z_loss l = {0, 0};
    dqt_parameter p = DQT_INIT(dqt_parameter);
    float loss, *gradient;
    for (int i = 0; i < TOKENS; i++)
        l.num_targets += targets[i] >= 0;
    ok(dqt_tape_get_parameter(tape, 2, &p));
    ok(dqt_tape_gradient_data(tape, 2, &gradient));
    const size_t count = p.rows * p.cols;
    float *kept = malloc(count * sizeof *kept);
    must(kept != NULL, "no memory");
    ok(dqt_tape_zero_gradients(tape));
    ok(dqt_llama_loss(model, tape, &b, &loss, NULL));
    ok(dqt_llama_backward(model, tape, 1.0f));
    memcpy(kept, gradient, count * sizeof *kept);
    ok(dqt_tape_zero_gradients(tape));
    backward_z_loss(&l);
    must(gradient_difference(kept, gradient, count) < 1e-4, "an own loss has other gradients");
    free(kept);
}

/* [fused] */
/* A classifier of the host's own: every weight is updated as its gradient is made, and no gradient is kept. */
enum { FEATURES = 16, CLASSES = 4 };

static float fused_step(dqt_layer *const *net, dqt_tape *t, dqt_updater *u, const float *x, const int32_t *labels,
                        size_t samples, const dqt_step_options *step) {
    static float hidden[TOKENS * FEATURES];
    dqt_batch b = DQT_INIT(dqt_batch);
    float loss;
    b.batch = samples; /* samples of one token each */
    b.length = 1;
    b.targets = labels;
    ok(dqt_layer_forward(net[0], t, &b, x, hidden));
    ok(dqt_layer_forward(net[1], t, &b, hidden, hidden));
    ok(dqt_head_loss(net[2], t, &b, hidden, &loss, NULL));
    ok(dqt_tape_begin_update(t, u, step));
    ok(dqt_head_backward(net[2], t, 1.0f, hidden));
    ok(dqt_layer_backward(net[1], t, hidden, hidden));
    ok(dqt_layer_backward(net[0], t, hidden, NULL)); /* nobody wants the gradient of x */
    ok(dqt_tape_end_update(t, NULL));
    return loss;
}
/* [end] */

static void check_fused(void) {
    dqt_layer *net[3];
    dqt_layer_options o = DQT_INIT(dqt_layer_options);
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    dqt_tape *a;
    dqt_updater *s;
    float x[TOKENS * FEATURES], first = 0, last = 0;
    int32_t labels[TOKENS];
    o.weight.storage = DQT_FORMAT_INT8;
    o.init_std = 0.3f;
    t.max_batch = TOKENS;
    t.max_length = 1;
    t.no_gradient_buffers = 1;
    u.clip = DQT_CLIP_NONE;
    ok(dqt_linear_create(ctx, FEATURES, FEATURES, &o, &net[0]));
    ok(dqt_rmsnorm_create(ctx, FEATURES, &o, &net[1]));
    ok(dqt_head_create(ctx, NULL, FEATURES, CLASSES, &o, &net[2]));
    ok(dqt_tape_create(ctx, net, 3, &t, &a));
    ok(dqt_updater_create(ctx, net, 3, &u, &s));
    for (int i = 0; i < TOKENS; i++) {
        labels[i] = i % CLASSES;
        for (int k = 0; k < FEATURES; k++)
            x[i * FEATURES + k] = (float)(k % CLASSES == labels[i]) + 0.1f * (float)((i * 7 + k * 3) % 5);
    }
    const dqt_step_options step = step_of(1e-2f);
    for (int i = 0; i < 40; i++) {
        last = fused_step(net, a, s, x, labels, TOKENS, &step);
        if (i == 0) first = last;
    }
    must(last < 0.5f * first, "the classifier learnt nothing");
    dqt_updater_destroy(s);
    dqt_tape_destroy(a);
    for (int i = 0; i < 3; i++)
        dqt_layer_destroy(net[i]);
}

int main(void) {
    create();
    train(2);
    check_accumulation();
    const dqt_step_options s = step_of(1e-3f);
    must(step_by_micro_batches(&s) > 0, "no loss");
    check_weights();
    check_validation();
    check_threads();
    check_generation();
    check_checkpoints();
    check_parts();
    check_cancellation();
    check_memory();
    check_loss();
    check_fused();
    check_fork();
    use_and_unload("libdqt.so.1");
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    must(dqt_context_allocated(ctx) > 0, "a context is memory too");
    dqt_context_destroy(ctx);
    puts("host_loop: all is as the page says");
    return 0;
}
