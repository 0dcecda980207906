/* Ternary models learn a short text, which they see over and over, in seconds: with stochastic rounding, with ECO, with
 * accumulators, in the paper's low-precision environments, with small optimiser states; and they do not with rounding
 * to nearest.
 *
 * The text is 96 random letters of an alphabet of 16, repeated. A letter has 2.67 nats, 1.61 once the one before is
 * known and about none after three: a loss below 1.5 needs attention. Embedding, head and gains are frozen, so all that
 * is learned is learned by ternary codes. At this learning rate a step is a few hundredths of the grid's, below the
 * half that rounding to nearest needs. Bounds have a margin of about a third over what was measured. */
#include "calls.h"
#include "isa_contexts.h"

enum { PERIOD = 96, ALPHABET = 16, BATCH = 8, LENGTH = 24, TOKENS = BATCH * LENGTH };

struct recipe {
    const char *name;
    int rounding, optimizer, momentum, variance; /* updater */
    int gradient, checkpoint;                    /* tape */
    float beta1, learning_rate, noise;           /* noise 0: 1 */
    int storage;                                 /* 0: ternary */
    int precision, axis, int8_head;              /* of gradients; of scales; 1: the head multiplies codes */
    uint64_t seed;                               /* of weights, batches and the tape's rounding; 0: 1 */
};

struct outcome {
    double first, last; /* mean losses of the first and last ten steps */
    uint64_t flipped;
};

static void batch_of(uint64_t *seed, int32_t *tokens, int32_t *targets) {
    int32_t text[PERIOD];
    uint64_t letters = 5;
    for (int i = 0; i < PERIOD; i++)
        text[i] = (int32_t)(test_random(&letters) % ALPHABET);
    for (int b = 0; b < BATCH; b++) {
        const size_t start = test_random(seed) % PERIOD;
        for (size_t i = 0; i < LENGTH; i++) {
            tokens[(size_t)b * LENGTH + i] = text[(start + i) % PERIOD];
            targets[(size_t)b * LENGTH + i] = text[(start + i + 1) % PERIOD];
        }
    }
}

static void freeze(dqt_context *ctx, dqt_updater *u, int parameter_class) {
    dqt_group_options o;
    size_t matched = 0;
    dqt_group_options_init(&o, sizeof o);
    o.parameter_class = parameter_class;
    o.freeze = 1;
    OK(ctx, dqt_updater_add_group(u, &o, &matched));
    CHECK(matched > 0);
}

static struct outcome learn(const struct recipe *r, int steps) {
    struct outcome out = {0};
    dqt_context *ctx = NULL;
    dqt_llama *model = NULL;
    dqt_tape *tape = NULL;
    dqt_updater *u = NULL;
    dqt_layer *const *layers = NULL;
    size_t num_layers = 0;
    dqt_context_options co;
    dqt_llama_config c;
    dqt_tape_options to;
    dqt_updater_options uo;
    dqt_context_options_init(&co, sizeof co);
    co.threading = DQT_THREADING_SERIAL;
    OK(NULL, dqt_context_create(&co, &ctx));
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = ALPHABET;
    c.hidden_size = 32;
    c.intermediate_size = 64;
    c.num_heads = 2;
    c.init_std = 0.2f;
    if (r->storage) c.linear.storage = r->storage;
    c.linear.scale_axis = r->axis;
    if (r->int8_head) c.head_activation = DQT_ACTIVATION_INT8;
    if (r->seed) c.seed = r->seed;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &num_layers));
    dqt_tape_options_init(&to, sizeof to);
    to.max_batch = BATCH;
    to.max_length = LENGTH;
    to.gradient_format = r->gradient;
    to.precision = r->precision;
    if (r->seed) to.seed = r->seed;
    to.checkpoint_format = r->checkpoint;
    to.recompute = r->checkpoint != DQT_FLOAT_F32;
    OK(ctx, dqt_tape_create(ctx, layers, num_layers, &to, &tape));
    dqt_updater_options_init(&uo, sizeof uo);
    uo.optimizer = r->optimizer;
    uo.rounding = r->rounding;
    uo.momentum_state = r->momentum;
    uo.variance_state = r->variance;
    uo.beta1 = r->beta1;
    uo.rounding_noise = r->noise;
    OK(ctx, dqt_updater_create(ctx, layers, num_layers, &uo, &u));
    freeze(ctx, u, DQT_CLASS_EMBEDDING);
    freeze(ctx, u, DQT_CLASS_HEAD);
    freeze(ctx, u, DQT_CLASS_NORM);
    uint64_t seed = r->seed ? r->seed : 1;
    for (int step = 0; step < steps && u; step++) {
        int32_t tokens[TOKENS], targets[TOKENS];
        float loss = 0;
        dqt_step_stats stats = {.struct_size = sizeof stats};
        batch_of(&seed, tokens, targets);
        OK(ctx, dqt_tape_zero_gradients(tape));
        OK(ctx, dqt_llama_loss(model, tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL));
        OK(ctx, dqt_llama_backward(model, tape, 1.0f));
        const float rate = dqt_schedule_cosine((uint64_t)step, 10, (uint64_t)steps, r->learning_rate, 0);
        OK(ctx, dqt_updater_step(u, tape, step_rate(rate), &stats));
        out.flipped += stats.flipped;
        if (step < 10) out.first += (double)loss / 10;
        if (step >= steps - 10) out.last += (double)loss / 10;
    }
    dqt_updater_destroy(u);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
    return out;
}

enum { STEPS = 150 };

/* Ends below `bound`. */
static void check_learns(const struct recipe *r, double bound) {
    const struct outcome o = learn(r, STEPS);
    CHECKF(o.last < bound, "%s: loss %.3f -> %.3f, %llu codes changed", r->name, o.first, o.last,
           (unsigned long long)o.flipped);
    CHECKF(o.flipped > 0, "%s: no code changed", r->name);
}

static const struct recipe paper = {
    .name = "stochastic", .optimizer = DQT_OPTIMIZER_ADAMW, .beta1 = 0.9f, .learning_rate = 0.01f};

static void stochastic_rounding(void) {
    struct recipe r = paper;
    check_learns(&r, 1.0);
    r.name = "int8 codes";
    r.storage = DQT_FORMAT_INT8;
    r.learning_rate = 0.005f;
    check_learns(&r, 0.5);
}

static void eco(void) {
    struct recipe r = paper;
    r.name = "ECO";
    r.rounding = DQT_ROUND_ECO_STOCHASTIC;
    r.beta1 = 0.8f;
    check_learns(&r, 1.25);
    r.name = "ECO, Adafactor, 8-bit momentum";
    r.optimizer = DQT_OPTIMIZER_ADAFACTOR;
    r.momentum = DQT_STATE_INT8;
    check_learns(&r, 1.25);
}

static void accumulators(void) {
    struct recipe r = paper;
    r.name = "accumulators, Adafactor";
    r.rounding = DQT_ROUND_ACCUMULATE;
    r.optimizer = DQT_OPTIMIZER_ADAFACTOR;
    r.beta1 = 0.6f;
    r.noise = 0.3f;
    check_learns(&r, 0.8);
    r.name = "accumulators, AdamW, noise 1";
    r.optimizer = DQT_OPTIMIZER_ADAMW;
    r.noise = 1;
    check_learns(&r, 1.3);
}

/* No step reaches half of the grid's, so not one code ever changes. */
static void nearest_rounding_does_not(void) {
    struct recipe r = paper;
    r.rounding = DQT_ROUND_NEAREST;
    const struct outcome o = learn(&r, STEPS);
    CHECKF(o.flipped == 0 && o.last > o.first - 0.1, "loss %.3f -> %.3f, %llu codes changed", o.first, o.last,
           (unsigned long long)o.flipped);
}

static void bf16_environment(void) {
    struct recipe r = paper;
    r.name = "BF16 gradients, checkpoints and states";
    r.gradient = r.checkpoint = DQT_FLOAT_BF16;
    r.momentum = r.variance = DQT_STATE_BF16;
    check_learns(&r, 1.0);
}

static void fp8_environment(void) {
    struct recipe r = paper;
    r.name = "FP8 gradients, E4M3, FP8 checkpoints";
    r.gradient = DQT_FLOAT_FP8_E4M3;
    r.checkpoint = DQT_FLOAT_FP8_E4M3;
    check_learns(&r, 1.0);
    r.name = "FP8 gradients, E5M2";
    r.gradient = DQT_FLOAT_FP8_E5M2;
    r.checkpoint = DQT_FLOAT_F32;
    check_learns(&r, 1.05);
}

static void small_states(void) {
    struct recipe r = paper;
    r.name = "8-bit states";
    r.momentum = r.variance = DQT_STATE_INT8;
    check_learns(&r, 1.05);
}

/* Integer backward ends at about the loss of F32 backward, with an int8 head: of three seeds the mean difference is
 * below `bound`, and none lies above the bound of `paper`. */
static void check_integer_backward(const char *name, int storage, int axis, float learning_rate, double bound) {
    double difference = 0;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct recipe r = paper;
        r.name = name;
        r.storage = storage;
        r.axis = axis;
        r.learning_rate = learning_rate;
        r.int8_head = 1;
        r.seed = seed;
        r.precision = DQT_PRECISION_F32;
        const struct outcome floats = learn(&r, STEPS);
        r.precision = DQT_PRECISION_INT8;
        const struct outcome codes = learn(&r, STEPS);
        CHECKF(codes.last < 1.0 && codes.flipped > 0, "%s, seed %d: loss %.3f -> %.3f", name, (int)seed, codes.first,
               codes.last);
        difference += (codes.last - floats.last) / 3;
    }
    CHECKF(difference < bound, "%s: mean loss %.3f above that of F32", name, difference);
}

static void integer_backward(void) {
    check_integer_backward("ternary, INT8 backward", DQT_FORMAT_TERNARY, DQT_AXIS_TENSOR, 0.01f, 0.1);
    check_integer_backward("4-bit rows, INT8 backward", DQT_FORMAT_INT4, DQT_AXIS_ROW, 0.005f, 0.03);
}

static const struct test tests[] = {TEST(stochastic_rounding), TEST(eco),
                                    TEST(accumulators),        TEST(nearest_rounding_does_not),
                                    TEST(bf16_environment),    TEST(fp8_environment),
                                    TEST(small_states),        TEST(integer_backward)};
TEST_MAIN(tests)
