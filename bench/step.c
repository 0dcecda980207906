/* The updater alone and whole training steps of a 134 M model (vocab 32002, hidden 768, ff 2048, 12 layers, 12 heads,
 * sub-norms), 4 x 256 tokens, ternary AdamW with f32 states and stochastic rounding: fused, at each precision of
 * gradients and with an int8 head; unfused, and its phases. On 1, 2, 4, ... threads.
 *
 *   build/bench/step [threads] [batch ...] [words that names contain ...]
 *
 * A batch is 4x256, 16x256 or 32x256: fused steps of so many tokens. */
#include "../tests/calls.h"
#include "machine.h"

enum { LENGTH = 256, MOST_BATCH = 32, MOST_TOKENS = MOST_BATCH * LENGTH };

struct step {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_layer *linear;
    int32_t tokens[MOST_TOKENS], targets[MOST_TOKENS];
    size_t batch;
    bool fused;
};

static void ok(const dqt_context *ctx, dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static dqt_context *context(int threads) {
    dqt_context_options o;
    dqt_context *ctx;
    ok(NULL, dqt_context_options_init(&o, sizeof o));
    o.num_threads = threads;
    ok(NULL, dqt_context_create(&o, &ctx));
    return ctx;
}

static void open_parts(struct step *s, bool fused, int precision) {
    dqt_layer *const *layers = &s->linear;
    size_t count = 1;
    if (s->model) ok(s->ctx, dqt_llama_get_layers(s->model, &layers, &count));
    dqt_tape_options t;
    dqt_updater_options u;
    ok(s->ctx, dqt_tape_options_init(&t, sizeof t));
    t.max_batch = s->batch;
    t.max_length = LENGTH;
    t.no_gradient_buffers = fused;
    t.precision = precision;
    ok(s->ctx, dqt_tape_create(s->ctx, layers, count, &t, &s->tape));
    ok(s->ctx, dqt_updater_options_init(&u, sizeof u));
    u.rounding = DQT_ROUND_STOCHASTIC;
    u.clip = fused ? DQT_CLIP_PREVIOUS_NORM : DQT_CLIP_NONE;
    ok(s->ctx, dqt_updater_create(s->ctx, layers, count, &u, &s->updater));
    s->fused = fused;
}

static void close_parts(struct step *s) {
    dqt_updater_destroy(s->updater);
    dqt_tape_destroy(s->tape);
}

static void zero(void *arg) {
    struct step *s = arg;
    ok(s->ctx, dqt_tape_zero_gradients(s->tape));
}

static void loss(void *arg) {
    struct step *s = arg;
    float value;
    ok(s->ctx, dqt_llama_loss(s->model, s->tape, batch_pairs(s->tokens, s->targets, s->batch, LENGTH), &value, NULL));
}

static void update(void *arg) {
    struct step *s = arg;
    ok(s->ctx, dqt_updater_step(s->updater, s->tape, step_rate(1e-4f), NULL));
}

static void whole(void *arg) {
    struct step *s = arg;
    if (!s->fused) zero(s);
    loss(s);
    if (s->fused) {
        ok(s->ctx, dqt_llama_backward_update(s->model, s->tape, s->updater, step_rate(1e-4f), NULL));
    } else {
        ok(s->ctx, dqt_llama_backward(s->model, s->tape, 1.0f));
        update(s);
    }
}

/* One ternary matrix of 4096 x 4096, gradients zero (the time does not depend on them). */
static void measure_updater(struct bench *b, int threads) {
    static struct step s;
    s = (struct step){.ctx = context(threads), .batch = 4};
    ok(s.ctx, dqt_linear_create(s.ctx, 4096, 4096, NULL, &s.linear));
    open_parts(&s, false, DQT_PRECISION_AUTO);
    /* Of a weight: gradient read, two f32 states and 2-bit codes read and written. */
    const double limit = machine_memory(b, true, 96, threads) / (4 + 2 * (8 + 0.25)) * 1e3;
    const struct bench_times t = bench_time(update, &s);
    bench_rate(b, "updater ternary adamw", "4096x4096", dqt_context_isa(s.ctx), threads, &t, 4096.0 * 4096.0, 1e-6,
               "Mweight/s", limit);
    close_parts(&s);
    dqt_layer_destroy(s.linear);
    dqt_context_destroy(s.ctx);
}

/* The model, its tokens and its context. */
static void open_model(struct step *s, int threads, size_t batch, int head_activation) {
    dqt_llama_config c;
    *s = (struct step){.ctx = context(threads), .batch = batch};
    for (int i = 0; i < MOST_TOKENS; i++) {
        s->tokens[i] = i * 7919 % 32002;
        s->targets[i] = (i + 1) * 7919 % 32002;
    }
    ok(s->ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 32002;
    c.hidden_size = 768;
    c.intermediate_size = 2048;
    c.num_layers = 12;
    c.num_heads = 12;
    c.head_activation = head_activation;
    ok(s->ctx, dqt_llama_create(s->ctx, &c, &s->model));
}

static void close_model(struct step *s) {
    dqt_llama_destroy(s->model);
    dqt_context_destroy(s->ctx);
}

static const struct {
    const char *name;
    int precision, head_activation;
} fused_steps[] = {
    {"step 134M fused", DQT_PRECISION_AUTO, DQT_ACTIVATION_NONE},
    {"step 134M fused int8", DQT_PRECISION_INT8, DQT_ACTIVATION_NONE},
    {"step 134M fused bf16", DQT_PRECISION_BF16, DQT_ACTIVATION_NONE},
    {"step 134M fused f32", DQT_PRECISION_F32, DQT_ACTIVATION_NONE},
    {"step 134M fused int8, int8 head", DQT_PRECISION_INT8, DQT_ACTIVATION_INT8},
    {"step 134M fused f32, int8 head", DQT_PRECISION_F32, DQT_ACTIVATION_INT8},
};

static void measure_fused(struct bench *b, int threads, size_t batch, size_t which) {
    static struct step s;
    char shape[16];
    if (!bench_wants(b, fused_steps[which].name)) return;
    open_model(&s, threads, batch, fused_steps[which].head_activation);
    open_parts(&s, true, fused_steps[which].precision);
    whole(&s); /* touches all memory */
    const struct bench_times t = bench_time(whole, &s);
    snprintf(shape, sizeof shape, "%zux%d", batch, LENGTH);
    bench_rate(b, fused_steps[which].name, shape, dqt_context_isa(s.ctx), threads, &t, (double)(batch * LENGTH), 1,
               "tokens/s", 0);
    close_parts(&s);
    close_model(&s);
}

static void measure_unfused(struct bench *b, int threads) {
    static struct step s;
    if (!bench_wants(b, "step 134M unfused")) return;
    open_model(&s, threads, 4, DQT_ACTIVATION_NONE);
    open_parts(&s, false, DQT_PRECISION_AUTO);
    const int isa = dqt_context_isa(s.ctx);
    whole(&s);
    struct bench_times t = bench_time(whole, &s);
    bench_rate(b, "step 134M unfused", "4x256", isa, threads, &t, 1024, 1, "tokens/s", 0);
    t = bench_time(loss, &s);
    bench_microseconds(b, "step 134M forward", "4x256", isa, threads, &t, 0);
    t = bench_time(update, &s);
    bench_microseconds(b, "step 134M update", "4x256", isa, threads, &t, 0);
    t = bench_time(zero, &s);
    bench_microseconds(b, "step 134M zero", "4x256", isa, threads, &t, 0);
    close_parts(&s);
    close_model(&s);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        size_t batch;
    } batches[] = {{"4x256", 4}, {"16x256", 16}, {"32x256", MOST_BATCH}};
    enum { BATCHES = sizeof batches / sizeof *batches };
    struct bench b = bench_begin(argc, argv, false);
    const int named = machine_take_threads(&b), most = named ? named : machine_threads();
    bool wanted[BATCHES] = {false}, any = false;
    for (size_t i = 0; i < BATCHES;) {
        if (b.num_words && strcmp(b.words[0], batches[i].name) == 0) {
            wanted[i] = any = true;
            bench_next_word(&b);
            i = 0;
        } else {
            i++;
        }
    }
    if (!any) wanted[0] = true;
    for (int threads = named ? named : 1; threads <= most; threads *= 2) {
        if (!any && bench_wants(&b, "updater")) measure_updater(&b, threads);
        for (size_t i = 0; i < BATCHES; i++)
            for (size_t j = 0; wanted[i] && j < sizeof fused_steps / sizeof *fused_steps; j++)
                measure_fused(&b, threads, batches[i].batch, j);
        if (!any) measure_unfused(&b, threads);
    }
    return bench_end(&b);
}
