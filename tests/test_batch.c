/* What a batch and a host's own loss say: weights of targets, divisor, gradients of logits given whole or tile by tile.
 *
 * Gradients that must be equal but are summed in another order are compared by the largest difference, relative to the
 * largest number of the parameter. */
#include "calls.h"
#include "isa_contexts.h"

enum { VOCAB = 1100, HIDDEN = 32, LAYERS = 2, BATCH = 3, LENGTH = 9, TOKENS = BATCH * LENGTH };

/* Where networks differ. */
struct setting {
    const char *name;
    int32_t precision, activation, head_activation, tied, recompute;
    double tolerance;
};
static const struct setting settings[] = {
    {"f32", DQT_PRECISION_F32, DQT_ACTIVATION_NONE, DQT_ACTIVATION_NONE, 0, 0, 1e-5},
    {"f32 tied", DQT_PRECISION_F32, DQT_ACTIVATION_NONE, DQT_ACTIVATION_NONE, 1, 0, 1e-5},
    {"f32 recomputed", DQT_PRECISION_F32, DQT_ACTIVATION_NONE, DQT_ACTIVATION_NONE, 0, 1, 1e-5},
    {"f32 int8", DQT_PRECISION_F32, DQT_ACTIVATION_INT8, DQT_ACTIVATION_INT8, 1, 1, 1e-5},
    {"bf16 int8", DQT_PRECISION_BF16, DQT_ACTIVATION_INT8, DQT_ACTIVATION_NONE, 0, 0, 2e-2},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

struct world {
    const struct setting *setting;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_layer *const *layers;
    size_t num_layers, num_parameters;
    int32_t tokens[TOKENS], targets[TOKENS];
    float weights[TOKENS];
};

static struct world *world_create(const struct setting *setting) {
    struct world *w = calloc(1, sizeof *w);
    if (!w) abort();
    w->setting = setting;
    OK(NULL, dqt_context_create(NULL, &w->ctx));
    dqt_llama_config c;
    OK(w->ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = VOCAB;
    c.hidden_size = HIDDEN;
    c.intermediate_size = 48;
    c.num_layers = LAYERS;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.tie_embeddings = setting->tied;
    c.activation = setting->activation;
    c.head_activation = setting->head_activation;
    c.init_std = 0.2f;
    OK(w->ctx, dqt_llama_create(w->ctx, &c, &w->model));
    OK(w->ctx, dqt_llama_get_layers(w->model, &w->layers, &w->num_layers));
    dqt_tape_options o;
    OK(w->ctx, dqt_tape_options_init(&o, sizeof o));
    o.max_batch = 64; /* 4096 tokens: tiles of 512 classes */
    o.max_length = 64;
    o.precision = setting->precision;
    o.recompute = setting->recompute;
    OK(w->ctx, dqt_tape_create(w->ctx, w->layers, w->num_layers, &o, &w->tape));
    OK(w->ctx, dqt_tape_get_num_parameters(w->tape, &w->num_parameters));
    uint64_t random = 3;
    for (int i = 0; i < TOKENS; i++) {
        w->tokens[i] = (int32_t)(test_random(&random) % VOCAB);
        w->targets[i] = i % 5 == 3 ? -1 : (int32_t)(test_random(&random) % VOCAB);
        w->weights[i] = 1;
    }
    return w;
}

static void world_destroy(struct world *w) {
    dqt_tape_destroy(w->tape);
    dqt_llama_destroy(w->model);
    dqt_context_destroy(w->ctx);
    free(w);
}

static dqt_batch batch_of(const struct world *w) {
    return (dqt_batch){
        .struct_size = sizeof(dqt_batch), .batch = BATCH, .length = LENGTH, .tokens = w->tokens, .targets = w->targets};
}

/* A copy of all gradients, one after the other. */
struct gradients {
    float *values;
    size_t count;
};
static struct gradients take_gradients(struct world *w) {
    struct gradients g = {0};
    for (size_t i = 0; i < w->num_parameters; i++) {
        dqt_parameter p = DQT_INIT(dqt_parameter);
        OK(w->ctx, dqt_tape_get_parameter(w->tape, i, &p));
        g.values = realloc(g.values, (g.count + p.rows * p.cols) * sizeof *g.values);
        if (!g.values) abort();
        OK(w->ctx, dqt_tape_get_gradient(w->tape, i, 0, p.rows, g.values + g.count));
        g.count += p.rows * p.cols;
    }
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
    return g;
}

/* The largest difference of a parameter, relative to its largest number; the largest of all parameters. */
static double distance(const struct world *w, const struct gradients *a, const struct gradients *b) {
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < w->num_parameters; i++) {
        dqt_parameter p = DQT_INIT(dqt_parameter);
        OK(w->ctx, dqt_tape_get_parameter(w->tape, i, &p));
        double largest = 0, difference = 0;
        for (size_t n = p.rows * p.cols; n-- > 0; at++) {
            largest = fmax(largest, fabs((double)b->values[at]));
            difference = fmax(difference, fabs((double)a->values[at] - (double)b->values[at]));
        }
        CHECKF(largest > 0, "%s: %s has no gradient", w->setting->name, p.name);
        worst = fmax(worst, difference / largest);
    }
    CHECK(at == a->count && at == b->count);
    return worst;
}

static void check_equal(const struct world *w, struct gradients a, struct gradients b, double tolerance,
                        const char *what) {
    const double found = distance(w, &a, &b);
    CHECKF(found <= tolerance, "%s: %s: relative difference %g, at most %g", w->setting->name, what, found, tolerance);
    free(a.values);
    free(b.values);
}

static struct gradients gradients_of(struct world *w, const dqt_batch *b, float *loss) {
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, b, loss, NULL));
    OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
    return take_gradients(w);
}

static void each_setting(void (*check)(struct world *w)) {
    for (size_t i = 0; i < SETTINGS; i++) {
        struct world *w = world_create(&settings[i]);
        check(w);
        world_destroy(w);
    }
}

/* ---- Weights ------------------------------------------------------------------------------------------------- */

/* Sequences of weights 2, 1, 0 against the first twice and the second once. */
static void check_repeated(struct world *w) {
    dqt_batch b = batch_of(w);
    for (int i = 0; i < TOKENS; i++)
        w->weights[i] = i < LENGTH ? 2 : i < 2 * LENGTH ? 1 : 0;
    float weighted, repeated;
    b.weights = w->weights;
    const struct gradients a = gradients_of(w, &b, &weighted);
    memcpy(w->tokens + 2 * LENGTH, w->tokens, LENGTH * sizeof *w->tokens);
    memcpy(w->targets + 2 * LENGTH, w->targets, LENGTH * sizeof *w->targets);
    b.weights = NULL;
    const struct gradients c = gradients_of(w, &b, &repeated);
    CHECKF(fabs((double)(weighted - repeated)) < 1e-5, "%s: losses %g and %g", w->setting->name, (double)weighted,
           (double)repeated);
    check_equal(w, a, c, w->setting->tolerance, "weights and repeated sequences");
}
static void test_weights_are_repeated_targets(void) {
    each_setting(check_repeated);
}

/* Weights of 1, and a divisor that is the number of targets, change no bit. */
static void check_ones(struct world *w) {
    dqt_batch b = batch_of(w);
    float plain, with;
    double used = 0;
    for (int i = 0; i < TOKENS; i++)
        used += w->targets[i] >= 0;
    const struct gradients a = gradients_of(w, &b, &plain);
    b.weights = w->weights;
    const struct gradients ones = gradients_of(w, &b, &with);
    CHECK(with >= plain && with <= plain);
    CHECK(!memcmp(a.values, ones.values, a.count * sizeof(float)));
    free(ones.values);
    b.weights = NULL;
    b.divisor = used;
    const struct gradients counted = gradients_of(w, &b, &with);
    CHECK(with >= plain && with <= plain);
    CHECK(!memcmp(a.values, counted.values, a.count * sizeof(float)));
    free(counted.values);
    free(a.values);
}
static void test_weights_of_one_change_nothing(void) {
    each_setting(check_ones);
}

/* A negative weight and a divisor: the loss by the tokens' own losses, and twice the divisor halves the gradients. */
static void check_divisor(struct world *w) {
    dqt_batch b = batch_of(w);
    float loss, losses[TOKENS], halved;
    for (int i = 0; i < TOKENS; i++)
        w->weights[i] = (float)(i % 4 - 1);
    b.weights = w->weights;
    b.divisor = 8;
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, losses));
    double expected = 0;
    for (int i = 0; i < TOKENS; i++) {
        CHECK(w->targets[i] >= 0 ? losses[i] > 0 : losses[i] >= 0 && losses[i] <= 0);
        expected += (double)w->weights[i] * (double)losses[i] / 8;
    }
    CHECKF(fabs(expected - (double)loss) < 1e-5, "loss %g, %g", (double)loss, expected);
    const struct gradients a = gradients_of(w, &b, &loss);
    b.divisor = 16;
    const struct gradients c = gradients_of(w, &b, &halved);
    CHECK(fabs((double)(loss - 2 * halved)) < 1e-6);
    size_t different = 0;
    for (size_t i = 0; i < a.count; i++)
        different += fabsf(a.values[i] - 2 * c.values[i]) > 0;
    CHECKF(different == 0, "%zu gradients are not halved", different);
    free(a.values);
    free(c.values);
}
static void test_divisor(void) {
    each_setting(check_divisor);
}

static void test_weights_are_checked(void) {
    struct world *w = world_create(&settings[0]);
    dqt_batch b = batch_of(w);
    float loss = 7;
    b.weights = w->weights;
    w->weights[4] = -TOKENS;
    CHECK(dqt_llama_loss(w->model, w->tape, &b, &loss, NULL) == DQT_E_ARGUMENT);
    w->weights[4] = INFINITY;
    CHECK(dqt_llama_loss(w->model, w->tape, &b, &loss, NULL) == DQT_E_NUMERIC);
    w->weights[4] = 1;
    b.divisor = 1e-300;
    CHECK(dqt_llama_loss(w->model, w->tape, &b, &loss, NULL) == DQT_E_ARGUMENT);
    b.divisor = (double)NAN;
    CHECK(dqt_llama_loss(w->model, w->tape, &b, &loss, NULL) == DQT_E_NUMERIC);
    CHECK(loss >= 7 && loss <= 7);
    for (int i = 0; i < TOKENS; i++)
        w->targets[i] = -1;
    b.divisor = 0;
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL));
    CHECK(loss >= 0 && loss <= 0);
    world_destroy(w);
}

/* ---- Own losses ---------------------------------------------------------------------------------------------- */

/* A host's cross-entropy, or a gradient that it has as a whole. */
struct own {
    const struct world *w;
    const float *dlogits;          /* [TOKENS][VOCAB]; NULL: cross-entropy */
    size_t calls, tokens, classes; /* seen */
    size_t refuse_at, nan_at;      /* number of a call; 0: none */
    float logits[TOKENS * VOCAB];  /* seen, as log_sums */
    float log_sums[TOKENS];
};

static int32_t own_loss(void *user_data, const dqt_logits_tile *tile) {
    struct own *own = user_data;
    double used = 0;
    own->calls++;
    own->classes += tile->num_classes;
    own->tokens = tile->num_tokens;
    for (size_t i = 0; i < TOKENS; i++)
        used += own->w->targets[i] >= 0;
    for (size_t i = 0; i < tile->num_tokens; i++) {
        const size_t token = tile->first_token + i;
        for (size_t c = 0; c < tile->num_classes; c++) {
            const size_t class = tile->first_class + c;
            float *x = &tile->logits[i * tile->ld + c];
            own->logits[token * VOCAB + class] = *x;
            if (own->dlogits)
                *x = own->dlogits[token * VOCAB + class];
            else if (own->w->targets[token] < 0)
                *x = 0;
            else
                *x = (float)((exp((double)*x - (double)tile->log_sum_exp[i]) -
                              ((size_t)own->w->targets[token] == class ? 1.0 : 0.0)) /
                             used);
        }
        own->log_sums[token] = tile->log_sum_exp[i];
    }
    if (own->nan_at == own->calls) tile->logits[tile->ld + 1] = NAN;
    return own->refuse_at == own->calls;
}

static struct own *own_create(const struct world *w) {
    struct own *own = calloc(1, sizeof *own);
    if (!own) abort();
    own->w = w;
    return own;
}

static struct gradients own_gradients(struct world *w, struct own *own) {
    const dqt_logits_gradient g = {.struct_size = sizeof g, .fn = own_loss, .user_data = own};
    OK(w->ctx, dqt_llama_backward_logits(w->model, w->tape, &g));
    CHECK(own->tokens == TOKENS && own->classes == VOCAB);
    CHECKF(own->calls > 2, "%zu calls", own->calls);
    for (size_t i = 0; i < TOKENS; i++) {
        double sum = 0;
        for (size_t c = 0; c < VOCAB; c++)
            sum += exp((double)own->logits[i * VOCAB + c]);
        CHECKF(fabs(log(sum) - (double)own->log_sums[i]) < 1e-5, "log_sum_exp[%zu] is %g, not %g", i,
               (double)own->log_sums[i], log(sum));
    }
    return take_gradients(w);
}

/* Cross-entropy made by the host, after a loss with ignored targets, after one without targets, and after forward. */
static void check_own_cross_entropy(struct world *w) {
    dqt_batch b = batch_of(w);
    float loss, losses[TOKENS];
    for (int after = 0; after < 3; after++) {
        struct own *own = own_create(w);
        const struct gradients expected = gradients_of(w, &b, &loss);
        if (after == 0) OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL));
        if (after == 1) {
            dqt_batch bare = b;
            bare.targets = NULL;
            OK(w->ctx, dqt_llama_loss(w->model, w->tape, &bare, &loss, losses));
            CHECK(loss >= 0 && loss <= 0 && losses[5] >= 0 && losses[5] <= 0);
        }
        if (after == 2) OK(w->ctx, dqt_llama_forward(w->model, w->tape, &b, NULL));
        if (after > 0) CHECK(dqt_llama_backward(w->model, w->tape, 1) == DQT_E_STATE);
        check_equal(w, own_gradients(w, own), expected, w->setting->tolerance, "own cross-entropy");
        const dqt_logits_gradient g = {.struct_size = sizeof g, .fn = own_loss, .user_data = own};
        CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_STATE);
        free(own);
    }
}
static void test_own_cross_entropy(void) {
    each_setting(check_own_cross_entropy);
}

/* Given whole and tile by tile: the same bits; the tiles hold what forward gives. */
static void check_whole(struct world *w) {
    dqt_batch b = batch_of(w);
    struct own *own = own_create(w);
    float *logits = malloc(TOKENS * VOCAB * sizeof *logits), *dlogits = random_floats(TOKENS * VOCAB, 1, 5);
    if (!logits) abort();
    OK(w->ctx, dqt_llama_forward(w->model, w->tape, &b, logits));
    const dqt_logits_gradient g = {.struct_size = sizeof g, .dlogits = dlogits};
    OK(w->ctx, dqt_llama_backward_logits(w->model, w->tape, &g));
    const struct gradients whole = take_gradients(w);
    OK(w->ctx, dqt_llama_forward(w->model, w->tape, &b, NULL));
    own->dlogits = dlogits;
    const struct gradients tiles = own_gradients(w, own);
    CHECK(!memcmp(whole.values, tiles.values, whole.count * sizeof(float)));
    CHECK(!memcmp(own->logits, logits, sizeof own->logits));
    free(whole.values);
    free(tiles.values);
    free(logits);
    free(dlogits);
    free(own);
}
static void test_whole_and_tiles(void) {
    each_setting(check_whole);
}

/* Refused, or not finite, at each tile: a status, and no forward to go back from; the next pass is as ever. */
static void check_refused(struct world *w) {
    dqt_batch b = batch_of(w);
    float loss;
    const struct gradients expected = gradients_of(w, &b, &loss);
    struct own *own = own_create(w);
    const dqt_logits_gradient g = {.struct_size = sizeof g, .fn = own_loss, .user_data = own};
    for (size_t at = 1; at <= 3; at++) {
        for (int refuse = 0; refuse < 2; refuse++) {
            OK(w->ctx, dqt_llama_forward(w->model, w->tape, &b, NULL));
            own->calls = 0;
            own->refuse_at = refuse ? at : 0;
            own->nan_at = refuse ? 0 : at;
            CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == (refuse ? DQT_E_CANCELLED : DQT_E_NUMERIC));
            CHECK(own->calls == at);
            CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_STATE);
        }
    }
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
    const struct gradients again = gradients_of(w, &b, &loss);
    CHECK(!memcmp(again.values, expected.values, again.count * sizeof(float)));
    free(again.values);
    free(expected.values);
    free(own);
}
static void test_refused(void) {
    each_setting(check_refused);
}

static void test_own_arguments(void) {
    struct world *w = world_create(&settings[0]);
    dqt_batch b = batch_of(w);
    float *dlogits = random_floats(TOKENS * VOCAB, 1, 5);
    struct own *own = own_create(w);
    dqt_logits_gradient g = {.struct_size = sizeof g, .dlogits = dlogits, .fn = own_loss, .user_data = own};
    CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_STATE);
    OK(w->ctx, dqt_llama_forward(w->model, w->tape, &b, NULL));
    CHECK(dqt_llama_backward_logits(w->model, w->tape, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_ARGUMENT);
    g.fn = NULL;
    g.dlogits = NULL;
    CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_ARGUMENT);
    g.dlogits = dlogits;
    dlogits[TOKENS * VOCAB - 1] = INFINITY;
    CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_NUMERIC);
    dlogits[TOKENS * VOCAB - 1] = 1; /* nothing was changed: the forward is still there */
    OK(w->ctx, dqt_llama_backward_logits(w->model, w->tape, &g));
    free(dlogits);
    free(own);
    world_destroy(w);
}

/* A head of its own: log_sum_exp against logits in double, dx wanted or not. */
static void test_head_own_loss(void) {
    struct world *w = world_create(&settings[0]);
    dqt_layer *head = w->layers[w->num_layers - 1];
    dqt_batch b = batch_of(w);
    struct own *own = own_create(w);
    float *x = random_floats(TOKENS * HIDDEN, 1, 7), *logits = random_floats(TOKENS * VOCAB, 1, 8), loss;
    float dx[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
    const dqt_logits_gradient g = {.struct_size = sizeof g, .fn = own_loss, .user_data = own};
    OK(w->ctx, dqt_head_loss(head, w->tape, &b, x, &loss, NULL));
    OK(w->ctx, dqt_head_backward(head, w->tape, 1, expected));
    OK(w->ctx, dqt_head_logits(head, w->tape, &b, x, logits));
    CHECK(dqt_head_backward(head, w->tape, 1, dx) == DQT_E_STATE);
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
    OK(w->ctx, dqt_head_backward_logits(head, w->tape, &g, dx));
    float *with = NULL, *without = NULL;
    const size_t index = w->num_parameters - 1, bytes = VOCAB * HIDDEN * sizeof(float);
    OK(w->ctx, dqt_tape_gradient_data(w->tape, index, &with));
    without = malloc(bytes);
    if (!without) abort();
    memcpy(without, with, bytes);
    for (int i = 0; i < TOKENS * HIDDEN; i++)
        CHECK(fabsf(dx[i] - expected[i]) < 1e-6f);
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
    OK(w->ctx, dqt_head_logits(head, w->tape, &b, x, logits));
    OK(w->ctx, dqt_head_backward_logits(head, w->tape, &g, NULL));
    CHECK(!memcmp(without, with, bytes));
    CHECK(dqt_head_backward_logits(head, w->tape, &g, NULL) == DQT_E_STATE);
    free(without);
    free(x);
    free(logits);
    free(own);
    world_destroy(w);
}

static const struct test tests[] = {
    TEST(test_weights_are_repeated_targets),
    TEST(test_weights_of_one_change_nothing),
    TEST(test_divisor),
    TEST(test_weights_are_checked),
    TEST(test_own_cross_entropy),
    TEST(test_whole_and_tiles),
    TEST(test_refused),
    TEST(test_own_arguments),
    TEST(test_head_own_loss),
};

TEST_MAIN(tests)
