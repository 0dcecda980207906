/* Sessions: incremental logits against the full forward pass, the cache's limits; samplers: distributions, seeds,
 * refusals. */
#include <pthread.h>

#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

enum { VOCAB = 97, MAX_LENGTH = 300 };

static struct counting memory;
static dqt_context *ctx;

static void begin(void) {
    ctx = counting_context(&memory);
}
static void end(void) {
    counting_end(ctx, &memory);
}

/* ---- Sessions ------------------------------------------------------------------------------------------------ */

static const struct variant {
    const char *name;
    int32_t storage, compute, activation, mlp, tied, sub_norms;
    size_t kv_heads;
    double tolerance; /* of the largest logit; a last bit can turn into a step of an int8 activation, and what follows
                         sees it */
} variants[] = {
    {"f32", DQT_FORMAT_F32, 0, DQT_ACTIVATION_NONE, DQT_MLP_SWIGLU, 0, 0, 4, 3e-5},
    {"f32, grouped kv heads", DQT_FORMAT_F32, 0, DQT_ACTIVATION_NONE, DQT_MLP_SWIGLU, 0, 1, 2, 3e-5},
    {"f32, squared ReLU", DQT_FORMAT_F32, 0, DQT_ACTIVATION_NONE, DQT_MLP_SQUARED_RELU, 0, 1, 4, 3e-5},
    {"bf16, tied", DQT_FORMAT_BF16, 0, DQT_ACTIVATION_NONE, DQT_MLP_SWIGLU, 1, 1, 1, 3e-5},
    {"ternary without rounded activations", DQT_FORMAT_TERNARY, 0, DQT_ACTIVATION_NONE, DQT_MLP_SWIGLU, 0, 1, 4, 3e-5},
    {"ternary", DQT_FORMAT_TERNARY, 0, DQT_ACTIVATION_INT8, DQT_MLP_SWIGLU, 0, 1, 4, 0.15},
    {"ternary, grouped, squared ReLU, tied", DQT_FORMAT_TERNARY, 0, DQT_ACTIVATION_INT8, DQT_MLP_SQUARED_RELU, 1, 1, 2,
     0.15},
    {"int8", DQT_FORMAT_INT8, 0, DQT_ACTIVATION_INT8, DQT_MLP_SWIGLU, 0, 0, 2, 0.15},
    {"int8 read as ternary", DQT_FORMAT_INT8, DQT_FORMAT_TERNARY, DQT_ACTIVATION_INT8, DQT_MLP_SWIGLU, 0, 1, 4, 0.15},
    {"int3", DQT_FORMAT_INT3, 0, DQT_ACTIVATION_INT8, DQT_MLP_SWIGLU, 0, 1, 4, 0.15},
    {"int4", DQT_FORMAT_INT4, 0, DQT_ACTIVATION_NONE, DQT_MLP_SWIGLU, 1, 0, 1, 3e-5},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

static dqt_llama *create_model(const struct variant *v) {
    dqt_llama_config c;
    CHECK(dqt_llama_config_init(&c, sizeof c) == DQT_OK);
    c.vocab_size = VOCAB;
    c.hidden_size = 64;
    c.intermediate_size = 100;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = v->kv_heads;
    c.linear.storage = v->storage;
    c.linear.compute = v->compute;
    c.activation = v->activation;
    c.mlp = v->mlp;
    c.tie_embeddings = v->tied;
    c.no_sub_norms = !(v->sub_norms);
    c.init_std = 0.3f; /* attention that looks at particular positions, so that a wrong one shows */
    dqt_llama *model = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    return model;
}

static void make_tokens(int32_t *tokens, size_t count, uint64_t seed) {
    for (size_t i = 0; i < count; i++)
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
}

/* Logits of every position by the whole-sequence pass. */
static float *full_logits(dqt_llama *model, const int32_t *tokens, size_t length) {
    dqt_tape_options o;
    CHECK(dqt_tape_options_init(&o, sizeof o) == DQT_OK);
    o.max_length = length;
    o.inference = 1;
    o.precision = DQT_PRECISION_F32;
    dqt_layer *const *layers = NULL;
    size_t n = 0;
    dqt_tape *tape = NULL;
    float *logits = malloc(length * VOCAB * sizeof *logits);
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_tape_create(ctx, layers, n, &o, &tape));
    OK(ctx, dqt_llama_forward(model, tape, batch_tokens(tokens, 1, length), logits));
    dqt_tape_destroy(tape);
    return logits;
}

static void compare(const struct variant *v, const char *how, const float *got, const float *expected,
                    size_t position) {
    double largest = 0, difference = 0;
    for (size_t i = 0; i < VOCAB; i++) {
        const double d = fabs((double)got[i] - (double)expected[i]);
        largest = fmax(largest, fabs((double)expected[i]));
        if (!(d <= difference)) difference = d; /* a NaN stays */
    }
    CHECKF(difference <= v->tolerance * largest, "%s, %s, position %zu: off by %g of %g", v->name, how, position,
           difference, largest);
}

static void token_by_token(void) {
    begin();
    for (size_t i = 0; i < VARIANTS; i++) {
        const struct variant *v = &variants[i];
        int32_t tokens[MAX_LENGTH];
        float logits[VOCAB];
        make_tokens(tokens, MAX_LENGTH, 7 + i);
        dqt_llama *model = create_model(v);
        dqt_session *s = NULL;
        OK(ctx, dqt_session_create(model, session_of(MAX_LENGTH), &s));
        float *expected = full_logits(model, tokens, MAX_LENGTH);
        for (size_t t = 0; t < MAX_LENGTH; t++) {
            OK(ctx, dqt_session_append(s, &tokens[t], 1, logits));
            compare(v, "token by token", logits, expected + t * VOCAB, t);
        }
        free(expected);
        dqt_session_destroy(s);
        dqt_llama_destroy(model);
    }
    end();
}

/* Pieces that end before, at and after 256, the number of tokens that run through the layers at once, and 64, of a tile
 * of attention. */
static void in_pieces(void) {
    begin();
    static const size_t pieces[][8] = {{300},     {1, 299},          {64, 192, 44},    {63, 1, 192, 44},
                                       {257, 43}, {65, 64, 31, 140}, {130, 1, 1, 168}, {5, 80, 215}};
    for (size_t i = 0; i < VARIANTS; i++) {
        const struct variant *v = &variants[i];
        int32_t tokens[MAX_LENGTH];
        float logits[VOCAB];
        make_tokens(tokens, MAX_LENGTH, 70 + i);
        dqt_llama *model = create_model(v);
        dqt_session *s = NULL;
        OK(ctx, dqt_session_create(model, session_of(MAX_LENGTH), &s));
        float *expected = full_logits(model, tokens, MAX_LENGTH);
        for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
            OK(ctx, dqt_session_truncate(s, 0));
            size_t at = 0;
            for (size_t p = 0; at < MAX_LENGTH; p++) {
                OK(ctx, dqt_session_append(s, tokens + at, pieces[k][p], logits));
                at += pieces[k][p];
                compare(v, "in pieces", logits, expected + (at - 1) * VOCAB, at - 1);
            }
            size_t length = 0;
            OK(ctx, dqt_session_get_length(s, &length));
            CHECK(length == MAX_LENGTH);
        }
        free(expected);
        dqt_session_destroy(s);
        dqt_llama_destroy(model);
    }
    end();
}

/* Going back and on with other tokens is as if the dropped ones had never been. */
static void after_truncation(void) {
    begin();
    static const size_t back_to[] = {0, 1, 40, 64, 65, 100};
    for (size_t i = 0; i < VARIANTS; i++) {
        const struct variant *v = &variants[i];
        int32_t tokens[MAX_LENGTH], other[MAX_LENGTH];
        float logits[VOCAB];
        make_tokens(tokens, MAX_LENGTH, 700 + i);
        make_tokens(other, MAX_LENGTH, 7000 + i);
        dqt_llama *model = create_model(v);
        dqt_session *s = NULL;
        OK(ctx, dqt_session_create(model, session_of(MAX_LENGTH), &s));
        for (size_t k = 0; k < sizeof back_to / sizeof *back_to; k++) {
            const size_t kept = back_to[k];
            OK(ctx, dqt_session_truncate(s, 0));
            OK(ctx, dqt_session_append(s, tokens, 120, NULL));
            OK(ctx, dqt_session_truncate(s, kept));
            int32_t joined[MAX_LENGTH];
            memcpy(joined, tokens, kept * sizeof *joined);
            memcpy(joined + kept, other, 30 * sizeof *joined);
            float *expected = full_logits(model, joined, kept + 30);
            OK(ctx, dqt_session_append(s, other, 29, NULL));
            OK(ctx, dqt_session_append(s, other + 29, 1, logits));
            compare(v, "after truncation", logits, expected + (kept + 29) * VOCAB, kept + 29);
            free(expected);
        }
        dqt_session_destroy(s);
        dqt_llama_destroy(model);
    }
    end();
}

static void cache_limits(void) {
    begin();
    dqt_llama *model = create_model(&variants[0]), *plan = NULL;
    dqt_session *s = NULL;
    int32_t tokens[20];
    float logits[VOCAB], again[VOCAB];
    make_tokens(tokens, 20, 1);
    size_t length = 99;
    CHECK(dqt_session_create(model, session_of((size_t)INT32_MAX + 1), &s) == DQT_E_SHAPE && !s);
    CHECK(strstr(dqt_last_error(ctx), "max_length"));
    OK(ctx, dqt_session_create(model, session_of(10), &s));
    OK(ctx, dqt_session_get_length(s, &length));
    CHECK(length == 0);
    CHECK(dqt_session_append(s, tokens, 11, logits) == DQT_E_STATE);
    CHECK(strstr(dqt_last_error(ctx), "11") && strstr(dqt_last_error(ctx), "10"));
    CHECK(dqt_session_append(s, tokens, SIZE_MAX, logits) == DQT_E_STATE);
    OK(ctx, dqt_session_append(s, tokens, 9, logits));
    CHECK(dqt_session_append(s, tokens, 2, logits) == DQT_E_STATE);
    OK(ctx, dqt_session_get_length(s, &length));
    CHECK(length == 9);
    OK(ctx, dqt_session_append(s, tokens + 9, 1, logits));
    CHECK(dqt_session_append(s, tokens, 1, logits) == DQT_E_STATE);
    CHECK(dqt_session_truncate(s, 11) == DQT_E_ARGUMENT);
    OK(ctx, dqt_session_truncate(s, 10));

    /* A refused append leaves the session as it was. */
    OK(ctx, dqt_session_truncate(s, 9));
    static const int32_t wrong[] = {-1, VOCAB, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        const int32_t bad[1] = {wrong[i]};
        CHECK(dqt_session_append(s, bad, 1, again) == DQT_E_ARGUMENT);
        CHECK(strstr(dqt_last_error(ctx), "tokens[0]"));
    }
    OK(ctx, dqt_session_truncate(s, 5));
    int32_t late[4] = {1, 2, 3, VOCAB};
    CHECK(dqt_session_append(s, late, 4, again) == DQT_E_ARGUMENT);
    CHECK(strstr(dqt_last_error(ctx), "tokens[3]"));
    CHECK(dqt_session_append(s, tokens, 0, again) == DQT_E_ARGUMENT);
    CHECK(dqt_session_append(s, NULL, 1, again) == DQT_E_ARGUMENT);
    OK(ctx, dqt_session_get_length(s, &length));
    CHECK(length == 5);
    OK(ctx, dqt_session_append(s, tokens + 5, 4, NULL));
    OK(ctx, dqt_session_append(s, tokens + 9, 1, again));
    for (size_t i = 0; i < VOCAB; i++)
        CHECK(fabsf(logits[i] - again[i]) <= 1e-4f * fabsf(logits[i]) + 1e-4f);

    CHECK(dqt_session_get_length(s, NULL) == DQT_E_ARGUMENT && dqt_session_get_length(NULL, &length) == DQT_E_ARGUMENT);
    CHECK(dqt_session_truncate(NULL, 0) == DQT_E_ARGUMENT &&
          dqt_session_append(NULL, tokens, 1, logits) == DQT_E_ARGUMENT);
    dqt_session_destroy(s);
    CHECK(dqt_session_create(NULL, session_of(5), &s) == DQT_E_ARGUMENT && !s);
    CHECK(dqt_session_create(model, session_of(5), NULL) == DQT_E_ARGUMENT);
    dqt_llama_config c;
    CHECK(dqt_llama_config_init(&c, sizeof c) == DQT_OK);
    c.shape_only = 1;
    OK(ctx, dqt_llama_create(ctx, &c, &plan));
    CHECK(dqt_session_create(plan, session_of(5), &s) == DQT_E_STATE && !s);
    dqt_llama_destroy(plan);
    dqt_llama_destroy(model);
    end();
}

/* Several sessions of one model, from several threads at once. */
struct run {
    dqt_session *session;
    int32_t tokens[80];
    float logits[VOCAB];
    dqt_status status;
};

static void *run(void *data) {
    struct run *r = data;
    r->status = dqt_session_append(r->session, r->tokens, 70, NULL);
    for (size_t i = 70; i < 80 && r->status == DQT_OK; i++)
        r->status = dqt_session_append(r->session, &r->tokens[i], 1, r->logits);
    return NULL;
}

static void sessions_are_independent(void) {
    begin();
    enum { COUNT = 3 };
    dqt_llama *model = create_model(&variants[5]);
    static struct run runs[COUNT];
    pthread_t thread[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        make_tokens(runs[i].tokens, 80, i);
        OK(ctx, dqt_session_create(model, session_of(80), &runs[i].session));
    }
    for (size_t i = 0; i < COUNT; i++)
        CHECK(pthread_create(&thread[i], NULL, run, &runs[i]) == 0);
    for (size_t i = 0; i < COUNT; i++)
        pthread_join(thread[i], NULL);
    for (size_t i = 0; i < COUNT; i++) {
        static struct run alone;
        alone = runs[i];
        CHECK(runs[i].status == DQT_OK);
        OK(ctx, dqt_session_truncate(alone.session, 0));
        run(&alone);
        CHECKF(memcmp(alone.logits, runs[i].logits, sizeof alone.logits) == 0, "session %zu", i);
        dqt_session_destroy(alone.session);
    }
    dqt_llama_destroy(model);
    end();
}

/* ---- Samplers ------------------------------------------------------------------------------------------------ */

static dqt_sampler_options sampler_options(float temperature, size_t top_k, float top_p, uint64_t seed) {
    dqt_sampler_options o;
    CHECK(dqt_sampler_options_init(&o, sizeof o) == DQT_OK);
    o.temperature = temperature;
    o.top_k = top_k;
    o.top_p = top_p;
    o.seed = seed;
    return o;
}

static dqt_sampler *create_sampler(size_t vocab, float temperature, size_t top_k, float top_p, uint64_t seed) {
    const dqt_sampler_options o = sampler_options(temperature, top_k, top_p, seed);
    dqt_sampler *s = NULL;
    OK(ctx, dqt_sampler_create(ctx, vocab, &o, &s));
    return s;
}

/* Chi-square of counts against expectations, and the value that chance exceeds once in a million (Wilson and Hilferty).
 */
static void check_counts(const char *what, const size_t *counts, const double *p, size_t cells, size_t draws) {
    double chi = 0, degrees = -1;
    for (size_t i = 0; i < cells; i++) {
        const double expected = p[i] * (double)draws;
        if (expected <= 0) {
            CHECKF(counts[i] == 0, "%s: token %zu was drawn %zu times", what, i, counts[i]);
            continue;
        }
        chi += ((double)counts[i] - expected) * ((double)counts[i] - expected) / expected;
        degrees++;
    }
    if (degrees <= 0) return;
    const double a = 2 / (9 * degrees), root = 1 - a + 4.7534 * sqrt(a), limit = degrees * root * root * root;
    CHECKF(chi <= limit, "%s: chi-square %g over %g", what, chi, limit);
}

enum { CELLS = 12, DRAWS = 40000 };
static const float scores[CELLS] = {1.0f, -0.5f, 2.0f, 0.25f, 2.0f, -2.0f, 0.0f, 1.5f, -1.0f, 0.7f, -INFINITY, 0.7f};

/* What the options mean, written plainly: order by logit then token, cut at k, cut where the mass reaches p of what k
 * left. */
static void expected_distribution(float temperature, size_t top_k, float top_p, double p[CELLS]) {
    double weight[CELLS], total = 0, mass = 0;
    size_t order[CELLS], left = top_k && top_k < CELLS ? top_k : CELLS;
    bool used[CELLS] = {false}, kept[CELLS] = {false};
    for (size_t i = 0; i < CELLS; i++)
        weight[i] = exp((double)scores[i] / (double)temperature);
    for (size_t k = 0; k < left; k++) {
        size_t best = CELLS;
        for (size_t i = 0; i < CELLS; i++)
            if (!used[i] && (best == CELLS || weight[i] > weight[best])) best = i;
        order[k] = best;
        used[best] = true;
        total += weight[best];
    }
    for (size_t k = 0; k < left && (k == 0 || mass < (double)top_p * total); k++) {
        kept[order[k]] = true;
        mass += weight[order[k]];
    }
    for (size_t i = 0; i < CELLS; i++)
        p[i] = kept[i] ? weight[i] / mass : 0;
}

static void distributions(void) {
    begin();
    static const struct {
        float temperature;
        size_t top_k;
        float top_p;
    } cases[] = {{1, 0, 1},       {0.5f, 0, 1}, {2.5f, 0, 1},    {1, 1, 1},      {1, 2, 1},
                 {1, 3, 1},       {1, 5, 1},    {1, 100, 1},     {1, 0, 0.9f},   {1, 0, 0.5f},
                 {1, 0, 0.0001f}, {2, 4, 0.8f}, {0.7f, 3, 0.7f}, {1, 0, 0.9999f}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        double p[CELLS];
        size_t counts[CELLS] = {0};
        expected_distribution(cases[c].temperature, cases[c].top_k, cases[c].top_p, p);
        dqt_sampler *s = create_sampler(CELLS, cases[c].temperature, cases[c].top_k, cases[c].top_p, 42 + c);
        for (size_t i = 0; i < DRAWS; i++) {
            int32_t token = -1;
            CHECK(dqt_sampler_sample(s, scores, &token) == DQT_OK);
            CHECK(token >= 0 && token < CELLS);
            counts[token]++;
        }
        char what[64];
        snprintf(what, sizeof what, "temperature %g, top_k %zu, top_p %g", (double)cases[c].temperature, cases[c].top_k,
                 (double)cases[c].top_p);
        check_counts(what, counts, p, CELLS, DRAWS);
        dqt_sampler_destroy(s);
    }
    end();
}

/* A sampler that is told how many draws were made goes on as one that made them. */
static void draws_are_all_that_is_remembered(void) {
    begin();
    dqt_sampler *a = create_sampler(CELLS, 1, 0, 1, 7), *b = create_sampler(CELLS, 1, 0, 1, 7);
    for (int i = 0; i < 50; i++) {
        int32_t x = -1, y = -1;
        uint64_t draws = 99;
        OK(ctx, dqt_sampler_get_draws(a, &draws));
        CHECK(draws == (uint64_t)i);
        OK(ctx, dqt_sampler_set_draws(b, draws));
        OK(ctx, dqt_sampler_sample(a, scores, &x));
        OK(ctx, dqt_sampler_sample(b, scores, &y));
        CHECK(x == y);
        OK(ctx, dqt_sampler_sample(b, scores, &y)); /* a draw that is taken back by the next set */
    }
    CHECK(dqt_sampler_get_draws(a, NULL) == DQT_E_ARGUMENT && dqt_sampler_set_draws(NULL, 1) == DQT_E_ARGUMENT);
    dqt_sampler_destroy(a);
    dqt_sampler_destroy(b);
    end();
}

/* Draws of one seed, one to five apart, and first draws of neighbouring seeds are independent: 4 x 4 cells. */
static void draws_are_independent(void) {
    begin();
    enum { LAGS = 5 };
    static const float flat[4] = {0, 0, 0, 0};
    double p[16];
    size_t pairs[LAGS][16] = {{0}}, seeds[16] = {0};
    for (size_t i = 0; i < 16; i++)
        p[i] = 1.0 / 16;
    dqt_sampler *s = create_sampler(4, 1, 0, 1, 9);
    int32_t a = 0, b = 0, drawn[2 * LAGS];
    for (size_t i = 0; i < DRAWS; i++) { /* pairs that do not overlap */
        for (size_t k = 0; k < 2 * LAGS; k++)
            CHECK(dqt_sampler_sample(s, flat, &drawn[k]) == DQT_OK);
        for (size_t lag = 1; lag <= LAGS; lag++)
            pairs[lag - 1][4 * drawn[0] + drawn[lag]]++;
    }
    dqt_sampler_destroy(s);
    for (uint64_t seed = 0; seed < 4000; seed++) {
        s = create_sampler(4, 1, 0, 1, seed);
        CHECK(dqt_sampler_sample(s, flat, &a) == DQT_OK);
        if (seed % 2) seeds[4 * b + a]++;
        b = a;
        dqt_sampler_destroy(s);
    }
    for (size_t lag = 0; lag < LAGS; lag++)
        check_counts("draws of one seed", pairs[lag], p, 16, DRAWS);
    check_counts("successive seeds", seeds, p, 16, 2000);
    end();
}

static void seeds_reproduce(void) {
    begin();
    dqt_sampler *a = create_sampler(CELLS, 1, 0, 1, 5), *b = create_sampler(CELLS, 1, 0, 1, 5);
    dqt_sampler *c = create_sampler(CELLS, 1, 0, 1, 6), *d = create_sampler(CELLS, 1, 0, 1, (uint64_t)5 << 32);
    size_t same_c = 0, same_d = 0;
    float bad[CELLS];
    memcpy(bad, scores, sizeof bad);
    bad[3] = NAN;
    for (int i = 0; i < 200; i++) {
        int32_t t[4];
        CHECK(dqt_sampler_sample(a, scores, &t[0]) == DQT_OK && dqt_sampler_sample(b, scores, &t[1]) == DQT_OK);
        CHECK(dqt_sampler_sample(c, scores, &t[2]) == DQT_OK && dqt_sampler_sample(d, scores, &t[3]) == DQT_OK);
        CHECK(t[0] == t[1]);
        same_c += t[0] == t[2];
        same_d += t[0] == t[3];
        t[0] = 77; /* a refused draw does not count */
        CHECK(dqt_sampler_sample(a, bad, &t[0]) == DQT_E_NUMERIC && t[0] == 77);
    }
    CHECK(same_c < 120 && same_d < 120);
    dqt_sampler_destroy(a);
    dqt_sampler_destroy(b);
    dqt_sampler_destroy(c);
    dqt_sampler_destroy(d);
    end();
}

static void greedy_and_ties(void) {
    begin();
    dqt_sampler *s = create_sampler(CELLS, 0, 0, 0.5f, 1);
    int32_t token = -1;
    for (int i = 0; i < 20; i++) {
        OK(ctx, dqt_sampler_sample(s, scores, &token));
        CHECK(token == 2); /* 2 and 4 are equal */
    }
    dqt_sampler_destroy(s);
    /* Of equal logits the lower tokens are kept: 2, 4, 7, 0, then 9 before 11. */
    s = create_sampler(CELLS, 1, 5, 1, 1);
    for (int i = 0; i < 2000; i++) {
        OK(ctx, dqt_sampler_sample(s, scores, &token));
        CHECK(token != 11);
    }
    dqt_sampler_destroy(s);
    /* Hardly warm is greedy; large logits do not overflow; one token is all there is. */
    s = create_sampler(3, 1e-30f, 0, 1, 1);
    const float close[3] = {1.0f, 1.0000001f, 0.5f}, large[3] = {-3e38f, -3e38f, 3e38f},
                lone[3] = {-INFINITY, -1e30f, -INFINITY};
    OK(ctx, dqt_sampler_sample(s, close, &token));
    CHECK(token == 1);
    OK(ctx, dqt_sampler_sample(s, large, &token));
    CHECK(token == 2);
    OK(ctx, dqt_sampler_sample(s, lone, &token));
    CHECK(token == 1);
    dqt_sampler_destroy(s);
    s = create_sampler(1, 1, 0, 1, 1);
    OK(ctx, dqt_sampler_sample(s, close, &token));
    CHECK(token == 0);
    dqt_sampler_destroy(s);
    end();
}

/* The limits of top_k and top_p themselves: of v equal tokens top_k = k keeps the first k, and top_p = i / v the first
 * i, for the mass is reached, not passed. Of two kept tokens both come. */
static void limits_are_exact(void) {
    begin();
    static const float equal[4] = {0, 0, 0, 0}, falling[3] = {0, 0, -0.1f};
    for (int i = 1; i <= 4; i++)
        for (int by_k = 0; by_k < 2; by_k++) {
            dqt_sampler *s = by_k ? create_sampler(4, 1, (size_t)i, 1, 1) : create_sampler(4, 1, 0, (float)i / 4, 1);
            unsigned seen = 0;
            for (int draw = 0; draw < 300; draw++) {
                int32_t token = -1;
                OK(ctx, dqt_sampler_sample(s, equal, &token));
                seen |= 1u << token;
            }
            CHECKF(seen == (1u << i) - 1, "%s of %d of 4: tokens %#x", by_k ? "top_k" : "top_p", i, seen);
            dqt_sampler_destroy(s);
        }
    dqt_sampler *s = create_sampler(3, 1, 2, 1, 1);
    unsigned seen = 0;
    for (int draw = 0; draw < 300; draw++) {
        int32_t token = -1;
        OK(ctx, dqt_sampler_sample(s, falling, &token));
        seen |= 1u << token;
    }
    CHECKF(seen == 3, "top_k of vocabulary - 1: tokens %#x", seen);
    dqt_sampler_destroy(s);
    end();
}

static void sampler_refusals(void) {
    begin();
    static const struct {
        float temperature, top_p;
        const char *word;
    } wrong[] = {{-1, 1, "temperature"}, {NAN, 1, "temperature"}, {INFINITY, 1, "temperature"},
                 {1, -0.5f, "top_p"},    {1, 1.01f, "top_p"},     {1, NAN, "top_p"}};
    dqt_sampler *s = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const dqt_sampler_options o = sampler_options(wrong[i].temperature, 0, wrong[i].top_p, 1);
        CHECK(dqt_sampler_create(ctx, CELLS, &o, &s) == DQT_E_ARGUMENT && !s);
        CHECKF(strstr(dqt_last_error(ctx), wrong[i].word), "%s", dqt_last_error(ctx));
    }
    CHECK(dqt_sampler_create(ctx, 0, NULL, &s) == DQT_E_SHAPE);
    CHECK(dqt_sampler_create(ctx, (size_t)INT32_MAX + 1, NULL, &s) == DQT_E_SHAPE);
    CHECK(dqt_sampler_create(NULL, CELLS, NULL, &s) == DQT_E_ARGUMENT && !s);
    CHECK(dqt_sampler_create(ctx, CELLS, NULL, NULL) == DQT_E_ARGUMENT);
    OK(ctx, dqt_sampler_create(ctx, 3, NULL, &s));
    const float nan[3] = {0, NAN, 1}, infinite[3] = {0, 1, INFINITY}, none[3] = {-INFINITY, -INFINITY, -INFINITY};
    int32_t token = 55;
    CHECK(dqt_sampler_sample(s, nan, &token) == DQT_E_NUMERIC);
    CHECK(strstr(dqt_last_error(ctx), "logits[1]"));
    CHECK(dqt_sampler_sample(s, infinite, &token) == DQT_E_NUMERIC);
    CHECK(dqt_sampler_sample(s, none, &token) == DQT_E_NUMERIC);
    CHECK(dqt_sampler_sample(s, NULL, &token) == DQT_E_ARGUMENT);
    CHECK(dqt_sampler_sample(s, scores, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_sampler_sample(NULL, scores, &token) == DQT_E_ARGUMENT);
    CHECK(token == 55);
    dqt_sampler_destroy(s);
    end();
}

static const struct test tests[] = {
    TEST(token_by_token),           TEST(in_pieces),
    TEST(after_truncation),         TEST(cache_limits),
    TEST(sessions_are_independent), TEST(distributions),
    TEST(draws_are_independent),    TEST(seeds_reproduce),
    TEST(greedy_and_ties),          TEST(limits_are_exact),
    TEST(sampler_refusals),         TEST(draws_are_all_that_is_remembered),
};
TEST_MAIN(tests)
