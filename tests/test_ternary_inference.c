/* "Ternary inference": weights of every storage format read as ternary, trained so or read so afterwards, evaluate and
 * generate exactly as a model that stores the ternary codes of the same weights. */
#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

enum { VOCAB = 64, BATCH = 2, LENGTH = 16, TOKENS = BATCH * LENGTH, STEPS = 8, GENERATED = 24 };

static struct counting memory;
static dqt_context *ctx;

static const struct {
    const char *name;
    int storage, scale_rule;
} formats[] = {{"f32", DQT_FORMAT_F32, DQT_SCALE_ABSMEAN},   {"bf16", DQT_FORMAT_BF16, DQT_SCALE_ABSMEAN},
               {"int8", DQT_FORMAT_INT8, DQT_SCALE_SIGMA},   {"int8", DQT_FORMAT_INT8, DQT_SCALE_ABSMEAN},
               {"int4", DQT_FORMAT_INT4, DQT_SCALE_ABSMEAN}, {"int3", DQT_FORMAT_INT3, DQT_SCALE_ABSMEAN},
               {"int2", DQT_FORMAT_INT2, DQT_SCALE_ABSMAX}};

static dqt_llama *create(int storage, int scale_rule, int compute) {
    dqt_llama_config c;
    dqt_llama *model = NULL;
    CHECK(dqt_llama_config_init(&c, sizeof c) == DQT_OK);
    c.vocab_size = VOCAB;
    c.hidden_size = 48;
    c.intermediate_size = 80;
    c.num_layers = 2;
    c.num_heads = 4;
    c.linear = (dqt_tensor_options){.storage = storage, .compute = compute, .scale_rule = scale_rule, .sigma = 4.0f};
    c.embedding.storage = c.head.storage = DQT_FORMAT_F32;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    return model;
}

/* Codes and scales where both store the same format, else the weights, quantised to nearest by the copy's own rule. */
static void copy_weights(dqt_llama *from, dqt_llama *to) {
    dqt_layer *const *a, *const *b;
    size_t n = 0;
    OK(ctx, dqt_llama_get_layers(from, &a, &n));
    OK(ctx, dqt_llama_get_layers(to, &b, &n));
    for (size_t i = 0; i < n; i++) {
        dqt_layer_info info = {.struct_size = sizeof info};
        OK(ctx, dqt_layer_get_info(a[i], &info));
        for (size_t k = 0; k < info.num_parameters; k++) {
            dqt_parameter p = {.struct_size = sizeof p}, q = {.struct_size = sizeof q};
            dqt_tensor_info s = {.struct_size = sizeof s}, t = {.struct_size = sizeof t};
            OK(ctx, dqt_layer_get_parameter(a[i], k, &p));
            OK(ctx, dqt_layer_get_parameter(b[i], k, &q));
            OK(ctx, dqt_tensor_get_info(p.tensor, &s));
            OK(ctx, dqt_tensor_get_info(q.tensor, &t));
            float *values = malloc(p.rows * p.cols * sizeof *values);
            int8_t *codes = malloc(p.rows * p.cols);
            if (!values || !codes) abort();
            if (s.storage == t.storage && s.num_scales) {
                OK(ctx, dqt_tensor_get_codes(p.tensor, 0, p.rows, codes));
                OK(ctx, dqt_tensor_get_scales(p.tensor, values));
                OK(ctx, dqt_tensor_set_codes(q.tensor, 0, p.rows, codes));
                OK(ctx, dqt_tensor_set_scales(q.tensor, values));
            } else {
                OK(ctx, dqt_tensor_dequantize(p.tensor, 0, p.rows, values));
                OK(ctx, dqt_tensor_quantize(q.tensor, values, DQT_ROUND_NEAREST, 0));
            }
            free(values);
            free(codes);
        }
    }
}

static void tokens_of(uint64_t seed, int32_t *tokens, int32_t *targets) {
    for (size_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
        targets[i] = (tokens[i] * 5 + 3) % VOCAB;
    }
}

static dqt_tape *create_tape(dqt_llama *model, bool inference) {
    dqt_tape_options o;
    dqt_layer *const *layers;
    dqt_tape *tape = NULL;
    size_t n = 0;
    CHECK(dqt_tape_options_init(&o, sizeof o) == DQT_OK);
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    o.inference = inference;
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_tape_create(ctx, layers, n, &o, &tape));
    return tape;
}

static void train(dqt_llama *model) {
    dqt_updater_options o;
    dqt_updater *updater = NULL;
    dqt_layer *const *layers;
    size_t n = 0;
    dqt_tape *tape = create_tape(model, false);
    CHECK(dqt_updater_options_init(&o, sizeof o) == DQT_OK);
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_updater_create(ctx, layers, n, &o, &updater));
    for (uint64_t step = 0; step < STEPS; step++) {
        int32_t tokens[TOKENS], targets[TOKENS];
        float loss = 0;
        tokens_of(step + 1, tokens, targets);
        OK(ctx, dqt_tape_zero_gradients(tape));
        OK(ctx, dqt_llama_loss(model, tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL));
        OK(ctx, dqt_llama_backward(model, tape, 1.0f));
        OK(ctx, dqt_updater_step(updater, tape, step_rate(0.01f), NULL));
    }
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
}

static float evaluate(dqt_llama *model) {
    int32_t tokens[TOKENS], targets[TOKENS];
    float loss = NAN;
    dqt_tape *tape = create_tape(model, true);
    tokens_of(99, tokens, targets);
    OK(ctx, dqt_llama_loss(model, tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL));
    dqt_tape_destroy(tape);
    return loss;
}

/* The likeliest tokens, one after the other. */
static void generate(dqt_llama *model, int32_t *out) {
    dqt_session *session = NULL;
    float logits[VOCAB] = {0};
    int32_t token = 7;
    OK(ctx, dqt_session_create(model, session_of(GENERATED), &session));
    for (size_t i = 0; i < GENERATED; i++) {
        OK(ctx, dqt_session_append(session, &token, 1, logits));
        token = 0;
        for (int32_t v = 1; v < VOCAB; v++)
            if (logits[v] > logits[token]) token = v;
        out[i] = token;
    }
    dqt_session_destroy(session);
}

/* `model` reads ternary weights; `trained` has the weights. */
static void check_same(const char *name, const char *how, dqt_llama *model, dqt_llama *trained) {
    int32_t text[GENERATED], expected[GENERATED];
    dqt_llama *reference = create(DQT_FORMAT_TERNARY, DQT_SCALE_ABSMEAN, DQT_FORMAT_SAME);
    copy_weights(trained, reference);
    const float loss = evaluate(model), same = evaluate(reference);
    CHECKF(isfinite(loss) && loss == same, "%s %s: loss %.9g, stored as ternary %.9g", name, how, (double)loss,
           (double)same);
    generate(model, text);
    generate(reference, expected);
    CHECKF(memcmp(text, expected, sizeof text) == 0, "%s %s generates otherwise", name, how);
    dqt_llama_destroy(reference);
}

static void trained_with_ternary_compute(void) {
    ctx = counting_context(&memory);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        dqt_llama *model = create(formats[i].storage, formats[i].scale_rule, DQT_FORMAT_TERNARY);
        const float before = evaluate(model);
        train(model);
        CHECKF(evaluate(model) != before, "%s: training changed nothing", formats[i].name);
        check_same(formats[i].name, "trained so", model, model);
        dqt_llama_destroy(model);
    }
    counting_end(ctx, &memory);
}

static void read_as_ternary_after_training(void) {
    ctx = counting_context(&memory);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        dqt_llama *trained = create(formats[i].storage, formats[i].scale_rule, DQT_FORMAT_SAME);
        dqt_llama *model = create(formats[i].storage, formats[i].scale_rule, DQT_FORMAT_TERNARY);
        train(trained);
        copy_weights(trained, model);
        CHECKF(evaluate(trained) != evaluate(model), "%s: reading as ternary changes nothing", formats[i].name);
        check_same(formats[i].name, "read so afterwards", model, trained);
        dqt_llama_destroy(model);
        dqt_llama_destroy(trained);
    }
    counting_end(ctx, &memory);
}

static const struct test tests[] = {TEST(trained_with_ternary_compute), TEST(read_as_ternary_after_training)};
TEST_MAIN(tests)
