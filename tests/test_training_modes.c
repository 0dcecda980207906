/* The same bits whatever the mode of training: fused or not, recomputed or not, layers driven by hand; gradients of
 * micro-batches add up to those of the batch, and each is announced once it is complete. */
#include "training_world.h"

/* ---- Fused, recomputed --------------------------------------------------------------------------------------- */

/* The third step is the first whose norm and whose lagged statistics come from a step that had them itself. */
enum { STEPS = 3 };

/* Fused or not, recomputed or not, tied or not: ways that must agree, all four for every other pair of setup and tied,
 * else the first and the last. few: only those. */
static void check_modes(int isa, bool few) {
    dqt_context *ctx = isa_context(isa, 1);
    if (!ctx) return;
    for (size_t k = 0; k < sizeof fused_setups / sizeof *fused_setups; k++)
        for (int tied = few ? (int)k & 1 : 0; tied < 2; tied += few ? 2 : 1) {
            const bool all = !few && tied == ((int)k & 1);
            struct setup s = fused_setups[k];
            s.tied = tied;
            struct snapshot *expected = trained(ctx, &s, STEPS, false);
            for (int way = all ? 1 : 3; way < 4 && expected; way++) {
                char name[96];
                snprintf(name, sizeof name, "isa %d, tied %d, fused %d, recompute %d", isa, tied, way & 1, way >> 1);
                s.recompute = way >> 1;
                struct snapshot *found = trained(ctx, &s, STEPS, way & 1);
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

/* ---- Driven by hand ------------------------------------------------------------------------------------------ */

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

/* The model on two tapes, layer by layer: embedding and block 0; block 1, norm and head. (Partial models:
 * test_partial.c.) */
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
        OK(ctx, dqt_layer_forward(t.layers[1], front, batch_shape(BATCH, LENGTH), x, x));
        OK(ctx, dqt_layer_forward(t.layers[2], back, batch_shape(BATCH, LENGTH), x, x));
        OK(ctx, dqt_layer_forward(t.layers[3], back, batch_shape(BATCH, LENGTH), x, x));
        OK(ctx, dqt_head_loss(t.layers[4], back, batch_targets(targets, BATCH, LENGTH), x, &loss[1], NULL));
        CHECKF(memcmp(&loss[0], &loss[1], sizeof *loss) == 0, "%.9g, %.9g", (double)loss[0], (double)loss[1]);
        OK(ctx, dqt_head_backward(t.layers[4], back, 0.5f, x));
        OK(ctx, dqt_layer_backward(t.layers[3], back, x, x));
        OK(ctx, dqt_layer_backward(t.layers[2], back, x, x));
        OK(ctx, dqt_layer_backward(t.layers[1], front, x, x));
        OK(ctx, dqt_embedding_backward(t.layers[0], front, x));
        add_gradients(hand, front);
        add_gradients(hand, back);
        check_same("pipeline", recompute ? "recomputed" : "saved", whole, hand);

        /* and on the whole's tape, all that the model has, through a buffer of the host's */
        struct snapshot *again = calloc(1, sizeof *again);
        OK(ctx, dqt_tape_zero_gradients(t.tape));
        OK(ctx,
           dqt_llama_forward_blocks(t.model, t.tape, batch_pairs(tokens, targets, BATCH, LENGTH), x, &loss[1], NULL));
        OK(ctx, dqt_llama_backward_blocks(t.model, t.tape, 0.5f, x));
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
    TEST(fused_and_recomputed), TEST(bf16_checkpoints),    TEST(accumulation),
    TEST(pipelined_blocks),     TEST(gradients_announced),
};
TEST_MAIN(tests)
