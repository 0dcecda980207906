/* Results do not depend on how the host's threads round or flush, and the host finds its mode as it was: everything
 * that computes runs once in the default mode and again in others, on the calling thread and in the host's lanes. */
#include <fenv.h>

#include "calls.h"
#include "isa_contexts.h"

/* A mode of a thread: how it rounds, and on x86-64 whether denormal results (FTZ) and inputs (DAZ) become 0. */
struct mode {
    const char *name;
    int rounding;
    bool flush;
};
static const struct mode modes[] = {
    {"default", FE_TONEAREST, false},       {"upward", FE_UPWARD, false},     {"downward", FE_DOWNWARD, false},
    {"towards zero", FE_TOWARDZERO, false}, {"flushing", FE_TONEAREST, true}, {"upward and flushing", FE_UPWARD, true},
};
enum { MODES = sizeof modes / sizeof *modes };

static void set_mode(const struct mode *m) {
    fesetround(m->rounding);
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr((__builtin_ia32_stmxcsr() & ~0x8040u) | (m->flush ? 0x8040u : 0));
#endif
}

static bool mode_is(const struct mode *m) {
    bool flush = m->flush;
#if defined(__x86_64__)
    flush = (__builtin_ia32_stmxcsr() & 0x8040u) == 0x8040u;
#endif
    return fegetround() == m->rounding && flush == m->flush;
}

/* Lanes of a host whose threads are all in the mode. */
static void lanes_in_mode(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    fenv_t caller;
    fegetenv(&caller);
    for (size_t i = 0; i < count; i++) {
        set_mode(user_data);
        task(task_data, i);
        CHECK(mode_is(user_data));
    }
    fesetenv(&caller);
}

/* ---- What is computed: a digest of all results --------------------------------------------------------------- */

struct digest {
    uint64_t hash[32];
    const char *name[32];
    size_t count;
};

static void add(struct digest *d, const char *name, const void *data, size_t bytes) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    d->hash[d->count] = h;
    d->name[d->count++] = name;
}

enum { LENGTH = 12, VOCAB = 40 };

static int32_t add_bytes(void *user_data, const void *buffer, size_t size) {
    uint64_t *h = user_data;
    for (size_t i = 0; i < size; i++)
        *h = (*h ^ ((const unsigned char *)buffer)[i]) * 1099511628211u;
    return 0;
}

static void training(dqt_context *ctx, struct digest *d, int32_t optimizer, bool fused) {
    dqt_llama *model = NULL;
    dqt_tape *tape = NULL;
    dqt_updater *updater = NULL;
    dqt_session *session = NULL;
    dqt_layer *const *layers;
    size_t count;
    dqt_llama_config c = {.struct_size = sizeof c};
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = VOCAB;
    c.hidden_size = 48;
    c.intermediate_size = 80;
    c.num_heads = 4;
    dqt_tape_options t;
    dqt_tape_options_init(&t, sizeof t);
    t.max_length = LENGTH;
    t.gradient_format = DQT_FLOAT_BF16;
    t.recompute = 1;
    t.checkpoint_format = DQT_FLOAT_FP8_E4M3;
    dqt_updater_options u;
    dqt_updater_options_init(&u, sizeof u);
    u.optimizer = optimizer;
    u.momentum_state = DQT_STATE_INT8;
    u.lagged = fused;
    u.clip = fused ? DQT_CLIP_PREVIOUS_NORM : DQT_CLIP_GLOBAL_NORM;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    OK(ctx, dqt_tape_create(ctx, layers, count, &t, &tape));
    OK(ctx, dqt_updater_create(ctx, layers, count, &u, &updater));
    int32_t tokens[LENGTH], targets[LENGTH];
    for (int i = 0; i < LENGTH; i++) {
        tokens[i] = i * 7 % VOCAB;
        targets[i] = i * 5 % VOCAB;
    }
    for (int step = 0; step < 3; step++) {
        float losses[LENGTH], loss = 0;
        const float rate = dqt_schedule_cosine((uint64_t)step, 1, 7, 3e-2f, 0.1f);
        OK(ctx, dqt_tape_zero_gradients(tape));
        OK(ctx, dqt_llama_loss(model, tape, batch_pairs(tokens, targets, 1, LENGTH), &loss, losses));
        if (fused) {
            OK(ctx, dqt_llama_backward_update(model, tape, updater, step_rate(rate), NULL));
        } else {
            OK(ctx, dqt_llama_backward(model, tape, 0.7f));
            OK(ctx, dqt_updater_step(updater, tape, step_rate(rate), NULL));
        }
        if (step == 2) add(d, "losses", losses, sizeof losses);
    }
    uint64_t h = 1;
    OK(ctx, dqt_llama_write(model, updater, add_bytes, &h, NULL));
    add(d, "checkpoint", &h, sizeof h);
    OK(ctx, dqt_llama_write_safetensors(model, add_bytes, &h, NULL));
    add(d, "safetensors", &h, sizeof h);
    float logits[VOCAB];
    OK(ctx, dqt_session_create(model, session_of(LENGTH), &session));
    OK(ctx, dqt_session_append(session, tokens, 5, logits));
    OK(ctx, dqt_session_append(session, tokens, 1, logits));
    add(d, "logits", logits, sizeof logits);
    dqt_sampler *sampler = NULL;
    int32_t drawn[20];
    dqt_sampler_options s;
    dqt_sampler_options_init(&s, sizeof s);
    s.top_p = 0.9f;
    OK(ctx, dqt_sampler_create(ctx, VOCAB, &s, &sampler));
    for (int i = 0; i < 20; i++)
        OK(ctx, dqt_sampler_sample(sampler, logits, &drawn[i]));
    add(d, "sampler", drawn, sizeof drawn);
    dqt_sampler_destroy(sampler);
    dqt_session_destroy(session);
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
}

/* A network of the host's own layers, each call by itself. */
static void own_layers(dqt_context *ctx, struct digest *d) {
    enum { HIDDEN = 16, VALUES = LENGTH * HIDDEN, LAYERS = 4 };
    dqt_layer *layers[LAYERS] = {0};
    dqt_tape *tape = NULL;
    dqt_layer_options o;
    dqt_layer_options_init(&o, sizeof o);
    o.init_std = 0.3f;
    OK(ctx, dqt_embedding_create(ctx, VOCAB, HIDDEN, &o, &layers[0]));
    OK(ctx, dqt_block_create(ctx, HIDDEN, 24, 2, 1, &o, &layers[1]));
    OK(ctx, dqt_rmsnorm_create(ctx, HIDDEN, &o, &layers[2]));
    OK(ctx, dqt_head_create(ctx, NULL, HIDDEN, VOCAB, &o, &layers[3]));
    dqt_tape_options t;
    dqt_tape_options_init(&t, sizeof t);
    t.max_length = LENGTH;
    OK(ctx, dqt_tape_create(ctx, layers, LAYERS, &t, &tape));
    int32_t tokens[LENGTH], targets[LENGTH];
    for (int i = 0; i < LENGTH; i++)
        tokens[i] = i * 7 % VOCAB, targets[i] = i * 5 % VOCAB;
    static float x[LAYERS][VALUES], dx[LAYERS][VALUES], logits[LENGTH * VOCAB], dlogits[LENGTH * VOCAB];
    float loss = 0;
    const dqt_batch *batch = batch_pairs(tokens, targets, 1, LENGTH);
    for (int own_loss = 0; own_loss < 2; own_loss++) {
        OK(ctx, dqt_embedding_forward(layers[0], tape, batch, x[0]));
        OK(ctx, dqt_layer_forward(layers[1], tape, batch_shape(1, LENGTH), x[0], x[1]));
        OK(ctx, dqt_layer_forward(layers[2], tape, batch_shape(1, LENGTH), x[1], x[2]));
        if (own_loss) {
            OK(ctx, dqt_head_logits(layers[3], tape, batch_shape(1, LENGTH), x[2], logits));
            for (int i = 0; i < LENGTH * VOCAB; i++)
                dlogits[i] = (float)(i % 7 - 3) / 8;
            const dqt_logits_gradient g = {.struct_size = sizeof g, .dlogits = dlogits};
            OK(ctx, dqt_head_backward_logits(layers[3], tape, &g, dx[3]));
            add(d, "own logits", logits, sizeof logits);
        } else {
            OK(ctx, dqt_head_loss(layers[3], tape, batch, x[2], &loss, NULL));
            OK(ctx, dqt_head_backward(layers[3], tape, 0.7f, dx[3]));
            add(d, "own loss", &loss, sizeof loss);
        }
        OK(ctx, dqt_layer_backward(layers[2], tape, dx[3], dx[2]));
        OK(ctx, dqt_layer_backward(layers[1], tape, dx[2], dx[1]));
        OK(ctx, dqt_embedding_backward(layers[0], tape, dx[1]));
        add(d, "own rows", x, sizeof x);
        add(d, "own gradients of rows", dx, sizeof dx);
        float row[HIDDEN];
        OK(ctx, dqt_tape_get_gradient(tape, 0, 7, 1, row));
        add(d, "own gradient", row, sizeof row);
    }
    dqt_tape_destroy(tape);
    for (int i = LAYERS - 1; i >= 0; i--)
        dqt_layer_destroy(layers[i]);
}

static void tensors(dqt_context *ctx, struct digest *d) {
    enum { ROWS = 5, COLS = 70 };
    static const int32_t formats[] = {DQT_FORMAT_TERNARY, DQT_FORMAT_INT4, DQT_FORMAT_INT8, DQT_FORMAT_BF16};
    float w[ROWS * COLS], back[4][ROWS * COLS];
    for (size_t i = 0; i < ROWS * COLS; i++)
        w[i] = (float)(i * i % 251) - 125.5f; /* exact in every mode (and not 0, whose sign is the mode's) */
    for (size_t i = 0; i < 4; i++) {
        dqt_tensor_options o;
        dqt_tensor *t = NULL;
        dqt_tensor_options_init(&o, sizeof o);
        o.storage = formats[i];
        OK(ctx, dqt_tensor_create(ctx, ROWS, COLS, &o, &t));
        OK(ctx, dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 3));
        OK(ctx, dqt_tensor_dequantize(t, 0, ROWS, back[i]));
        dqt_tensor_destroy(t);
    }
    add(d, "tensors", back, sizeof back);
}

/* Sums of denormal numbers. */
static void denormals(dqt_context *ctx, struct digest *d) {
    enum { IN = 64, OUT = 48 };
    dqt_layer *layer = NULL;
    dqt_tape *tape = NULL;
    dqt_layer_options o;
    dqt_layer_options_init(&o, sizeof o);
    o.activation = DQT_ACTIVATION_NONE;
    o.weight.storage = DQT_FORMAT_F32;
    o.init_std = 1e-20f;
    float x[4 * IN], y[4 * OUT];
    for (size_t i = 0; i < 4 * IN; i++)
        x[i] = (float)(i % 13 + 1) * 0x1p-67f;
    OK(ctx, dqt_linear_create(ctx, IN, OUT, &o, &layer));
    OK(ctx, dqt_tape_create(ctx, &layer, 1, NULL, &tape));
    OK(ctx, dqt_layer_forward(layer, tape, batch_shape(1, 4), x, y));
    add(d, "denormals", y, sizeof y);
    dqt_tape_destroy(tape);
    dqt_layer_destroy(layer);
}

static struct digest compute(int isa, const struct mode *m, bool lanes) {
    struct digest d = {0};
    struct mode lane_mode = *m;
    dqt_context *ctx = NULL;
    dqt_context_options o;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.num_threads = 2;
    o.threading = DQT_THREADING_HOST;
    o.parallel_for = lanes ? lanes_in_mode : backwards_for;
    o.parallel_user_data = &lane_mode;
    fenv_t before;
    fegetenv(&before);
    set_mode(lanes ? &modes[0] : m);
    feclearexcept(FE_ALL_EXCEPT);
    if (dqt_context_create(&o, &ctx) == DQT_OK && dqt_context_isa(ctx) == isa) {
        training(ctx, &d, DQT_OPTIMIZER_ADAMW, false);
        training(ctx, &d, DQT_OPTIMIZER_ADAFACTOR, true);
        training(ctx, &d, DQT_OPTIMIZER_MUON, true);
        tensors(ctx, &d);
        denormals(ctx, &d);
        own_layers(ctx, &d);
        CHECKF(mode_is(lanes ? &modes[0] : m), "%s: the mode was changed", m->name);
    }
    dqt_context_destroy(ctx);
    fesetenv(&before);
    return d;
}

static void same_bits_in_every_mode(void) {
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        const struct digest right = compute(isa_caps[isa].isa, &modes[0], false);
        for (size_t m = 1; m < MODES && right.count; m++)
            for (int lanes = 0; lanes < 2; lanes++) {
                const struct digest got = compute(isa_caps[isa].isa, &modes[m], lanes);
                CHECK(got.count == right.count);
                for (size_t i = 0; i < right.count; i++)
                    CHECKF(got.hash[i] == right.hash[i], "isa %d, %s, %s: %s", isa_caps[isa].isa, modes[m].name,
                           lanes ? "lanes" : "caller", right.name[i]);
            }
    }
}

/* A library call raises no exception flag in the host's thread, and clears none. */
static void flags_stay(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    struct digest d = {0};
    fenv_t before;
    fegetenv(&before);
    feclearexcept(FE_ALL_EXCEPT);
    tensors(ctx, &d);
    CHECK(fetestexcept(FE_OVERFLOW | FE_UNDERFLOW | FE_DIVBYZERO | FE_INVALID) == 0);
    feraiseexcept(FE_DIVBYZERO);
    tensors(ctx, &d);
    CHECK(fetestexcept(FE_DIVBYZERO) != 0);
    fesetenv(&before);
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {TEST(same_bits_in_every_mode), TEST(flags_stay)};
TEST_MAIN(tests)
