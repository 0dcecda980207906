/* What a batch and a host's own loss say: weights of targets, divisor, gradients of logits given whole or tile by tile.
 */
#include "batch_world.h"

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

/* What a tape has room for changes no bit. */
static void check_room(struct world *w) {
    const dqt_batch b = batch_of(w);
    float loss, again;
    const struct gradients g = gradients_of(w, &b, &loss);
    dqt_tape_destroy(w->tape);
    world_open_tape(w, 64, 64);
    check_equal(w, gradients_of(w, &b, &again), g, 0, "a tape of 4096 tokens");
    CHECKF(loss == again, "%s: loss %g, of a larger tape %g", w->setting->name, (double)loss, (double)again);
}
static void test_room_changes_nothing(void) {
    static const struct setting integers = {.name = "int8",
                                            .precision = DQT_PRECISION_INT8,
                                            .activation = DQT_ACTIVATION_INT8,
                                            .head_activation = DQT_ACTIVATION_INT8};
    struct world *w = world_create(&integers);
    each_setting(check_room);
    check_room(w);
    world_destroy(w);
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
    const dqt_logits_gradient g = {.struct_size = sizeof g, .callback = own_loss, .user_data = own};
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
        const dqt_logits_gradient g = {.struct_size = sizeof g, .callback = own_loss, .user_data = own};
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
    const dqt_logits_gradient g = {.struct_size = sizeof g, .callback = own_loss, .user_data = own};
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
    dqt_logits_gradient g = {.struct_size = sizeof g, .dlogits = dlogits, .callback = own_loss, .user_data = own};
    CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_STATE);
    OK(w->ctx, dqt_llama_forward(w->model, w->tape, &b, NULL));
    CHECK(dqt_llama_backward_logits(w->model, w->tape, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_backward_logits(w->model, w->tape, &g) == DQT_E_ARGUMENT);
    g.callback = NULL;
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
    const dqt_logits_gradient g = {.struct_size = sizeof g, .callback = own_loss, .user_data = own};
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
    TEST(test_room_changes_nothing),
    TEST(test_divisor),
    TEST(test_weights_are_checked),
    TEST(test_own_cross_entropy),
    TEST(test_whole_and_tiles),
    TEST(test_refused),
    TEST(test_own_arguments),
    TEST(test_head_own_loss),
};

TEST_MAIN(tests)
