/* Sessions together: forks and copies go on as their originals do, scores are those of the logits, and several sessions
 * append as each would alone. */
#include "calls.h"
#include "counting_alloc.h"
#include "isa_contexts.h"
#include "test.h"

enum { VOCAB = 97, LONGEST = 700, PROMPT = 70 };

static struct counting memory;
static dqt_context *ctx;
static dqt_llama *model;
static int32_t tokens[LONGEST];

static void begin(int32_t storage, int32_t tied) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    ctx = counting_context(&memory);
    c.vocab_size = VOCAB;
    c.hidden_size = 64;
    c.intermediate_size = 96;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.linear.storage = storage;
    c.activation = storage == DQT_FORMAT_F32 ? DQT_ACTIVATION_NONE : DQT_ACTIVATION_INT8;
    c.tie_embeddings = tied;
    c.init_std = 0.3f;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    uint64_t seed = 5;
    for (size_t i = 0; i < LONGEST; i++)
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
}

static void end(void) {
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static dqt_session *session_with(size_t max_length, size_t count) {
    dqt_session_options o = DQT_INIT(dqt_session_options);
    dqt_session *s = NULL;
    o.max_length = max_length;
    OK(ctx, dqt_session_create(model, &o, &s));
    if (count) OK(ctx, dqt_session_append(s, tokens, count, NULL));
    return s;
}

static size_t length_of(const dqt_session *s) {
    size_t length = SIZE_MAX;
    OK(ctx, dqt_session_get_length(s, &length));
    return length;
}

/* The next three tokens give the same bits in both. */
static void check_same(const char *what, dqt_session *a, dqt_session *b) {
    float x[VOCAB], y[VOCAB], p, q;
    CHECKF(length_of(a) == length_of(b), "%s: %zu and %zu tokens", what, length_of(a), length_of(b));
    for (int i = 0; i < 3; i++) {
        OK(ctx, dqt_session_append(a, &tokens[i], 1, x));
        OK(ctx, dqt_session_append(b, &tokens[i], 1, y));
        CHECKF(memcmp(x, y, sizeof x) == 0, "%s: other logits", what);
        OK(ctx, dqt_session_score(a, &tokens[i + 7], 1, &p));
        OK(ctx, dqt_session_score(b, &tokens[i + 7], 1, &q));
        CHECKF(memcmp(&p, &q, sizeof p) == 0, "%s: other scores", what);
    }
}

static void forks_and_copies(void) {
    begin(DQT_FORMAT_TERNARY, 1);
    dqt_session *s = session_with(LONGEST, PROMPT), *f = NULL, *other = session_with(PROMPT + 20, 3);
    float p;
    OK(ctx, dqt_session_fork(s, &f));
    OK(ctx, dqt_session_copy(other, s));
    CHECK(length_of(s) == PROMPT);
    /* A score needs nothing but what was copied. */
    OK(ctx, dqt_session_score(f, &tokens[1], 1, &p));
    OK(ctx, dqt_session_truncate(f, PROMPT));
    check_same("copy", s, other);
    OK(ctx, dqt_session_append(f, &tokens[9], 1, NULL)); /* a fork does not touch its original */
    OK(ctx, dqt_session_truncate(f, PROMPT));
    OK(ctx, dqt_session_truncate(s, PROMPT));
    OK(ctx, dqt_session_append(s, &tokens[4], 1, NULL));
    OK(ctx, dqt_session_append(f, &tokens[4], 1, NULL));
    check_same("fork", s, f);
    OK(ctx, dqt_session_copy(s, s));
    check_same("itself", s, f);

    /* What does not fit changes nothing. */
    dqt_session *small = session_with(PROMPT / 2, 5);
    CHECK(dqt_session_copy(small, s) == DQT_E_STATE && length_of(small) == 5);
    CHECK(strstr(dqt_last_error(ctx), "destination holds at most 35"));
    CHECK(dqt_session_copy(NULL, s) == DQT_E_ARGUMENT && dqt_session_copy(s, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_session_fork(s, NULL) == DQT_E_ARGUMENT);
    dqt_llama *model_before = model;
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    c.vocab_size = VOCAB;
    OK(ctx, dqt_llama_get_config(model_before, &c));
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    dqt_session *foreign = session_with(LONGEST, 2);
    CHECK(dqt_session_copy(foreign, s) == DQT_E_UNSUPPORTED && length_of(foreign) == 2);
    dqt_session_destroy(foreign);
    dqt_llama_destroy(model);
    model = model_before;
    dqt_session_destroy(s);
    dqt_session_destroy(f);
    dqt_session_destroy(other);
    dqt_session_destroy(small);
    end();
}

static double log_probability(const float *logits, int32_t token) {
    double sum = 0;
    for (size_t i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i] - (double)logits[token]);
    return -log(sum);
}

/* Against the logits of a session that appends token by token; with activations in F32 the pieces do not matter much.
 */
static void scores_are_log_probabilities(void) {
    static const int32_t formats[] = {DQT_FORMAT_F32, DQT_FORMAT_INT4};
    for (size_t f = 0; f < 2; f++) {
        begin(formats[f], f == 1);
        dqt_session *s = session_with(LONGEST, 1), *one = session_with(LONGEST, 0);
        float scores[LONGEST], logits[VOCAB];
        OK(ctx, dqt_session_score(s, tokens + 1, 260, scores)); /* more than runs through the layers at once */
        OK(ctx, dqt_session_score(s, tokens + 261, 1, scores + 260));
        OK(ctx, dqt_session_score(s, tokens + 262, LONGEST - 262, scores + 261));
        CHECK(length_of(s) == LONGEST);
        const double tolerance = f ? 0.2 : 1e-4; /* a last bit can be a step of an int8 activation */
        for (size_t i = 0; i + 1 < LONGEST; i++) {
            OK(ctx, dqt_session_append(one, &tokens[i], 1, logits));
            const double expected = log_probability(logits, tokens[i + 1]);
            CHECKF(fabs((double)scores[i] - expected) < tolerance, "token %zu: %g, not %g", i, (double)scores[i],
                   expected);
        }
        dqt_session_destroy(s);
        dqt_session_destroy(one);
        end();
    }
}

static void scores_that_are_refused(void) {
    begin(DQT_FORMAT_TERNARY, 0);
    dqt_session *s = session_with(20, 0);
    float scores[LONGEST];
    CHECK(dqt_session_score(s, tokens, 1, scores) == DQT_E_STATE && strstr(dqt_last_error(ctx), "empty"));
    OK(ctx, dqt_session_append(s, tokens, 10, NULL));
    OK(ctx, dqt_session_truncate(s, 10)); /* to where it is */
    OK(ctx, dqt_session_score(s, tokens, 1, scores));
    OK(ctx, dqt_session_truncate(s, 9));
    CHECK(dqt_session_score(s, tokens, 1, scores) == DQT_E_STATE && strstr(dqt_last_error(ctx), "truncated"));
    CHECK(dqt_session_score(s, tokens, 12, scores) == DQT_E_STATE && length_of(s) == 9);
    OK(ctx, dqt_session_append(s, tokens, 1, NULL));
    CHECK(dqt_session_score(s, NULL, 1, scores) == DQT_E_ARGUMENT);
    CHECK(dqt_session_score(s, tokens, 0, scores) == DQT_E_ARGUMENT);
    CHECK(dqt_session_score(s, tokens, 1, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_session_score(s, (const int32_t[]){VOCAB}, 1, scores) == DQT_E_ARGUMENT);
    OK(ctx, dqt_session_score(s, tokens, 1, scores));
    dqt_session_destroy(s);
    end();
}

static dqt_session_step step_of(dqt_session *s, size_t first, size_t count, float *logits) {
    return (dqt_session_step){.struct_size = sizeof(dqt_session_step),
                              .session = s,
                              .tokens = tokens + first,
                              .count = count,
                              .logits = logits};
}

static void several_append_as_one_does(void) {
    begin(DQT_FORMAT_TERNARY, 0);
    enum { SESSIONS = 3 };
    static const size_t lengths[SESSIONS] = {5, 80, 1}, counts[SESSIONS] = {1, 3, 270};
    dqt_session *together[SESSIONS], *alone[SESSIONS];
    dqt_session_step steps[SESSIONS];
    float x[SESSIONS][VOCAB], y[VOCAB];
    for (size_t i = 0; i < SESSIONS; i++) {
        together[i] = session_with(LONGEST, lengths[i]);
        alone[i] = session_with(LONGEST, lengths[i]);
        steps[i] = step_of(together[i], 10 * i, counts[i], x[i]);
    }
    OK(ctx, dqt_sessions_append(steps, SESSIONS));
    for (size_t i = 0; i < SESSIONS; i++) {
        OK(ctx, dqt_session_append(alone[i], tokens + 10 * i, counts[i], y));
        CHECK(memcmp(x[i], y, sizeof y) == 0);
        check_same("appended together", together[i], alone[i]);
    }

    /* A refused step: nothing is appended anywhere. */
    const dqt_session_step good = steps[2];
    size_t before[SESSIONS];
    for (size_t i = 0; i < SESSIONS; i++)
        before[i] = length_of(together[i]);
    static const int32_t foreign = VOCAB;
    for (int c = 0; c < 6; c++) {
        steps[2] = good;
        if (c == 0) steps[2].session = steps[0].session;
        if (c == 1) steps[2].tokens = &foreign, steps[2].count = 1;
        if (c == 2) steps[2].count = LONGEST;
        if (c == 3) steps[2].count = 0;
        if (c == 4) steps[2].session = NULL;
        if (c == 5) steps[2].reserved = 1;
        CHECKF(dqt_sessions_append(steps, SESSIONS) != DQT_OK, "case %d", c);
        for (size_t i = 0; i < SESSIONS; i++)
            CHECK(length_of(together[i]) == before[i]);
    }
    CHECK(dqt_sessions_append(NULL, 1) == DQT_E_ARGUMENT && dqt_sessions_append(steps, 0) == DQT_E_ARGUMENT);
    for (size_t i = 0; i < SESSIONS; i++) {
        check_same("after refusals", together[i], alone[i]);
        dqt_session_destroy(together[i]);
        dqt_session_destroy(alone[i]);
    }
    end();
}

/* Models whose products are of every kind: exact ones, and float ones of codes, bf16 and f32 with either. */
static const struct product_kind {
    int32_t storage, activation;
} product_kinds[] = {
    {DQT_FORMAT_TERNARY, DQT_ACTIVATION_INT8}, {DQT_FORMAT_INT8, DQT_ACTIVATION_INT8},
    {DQT_FORMAT_BF16, DQT_ACTIVATION_INT8},    {DQT_FORMAT_F32, DQT_ACTIVATION_INT8},
    {DQT_FORMAT_INT4, DQT_ACTIVATION_NONE},    {DQT_FORMAT_BF16, DQT_ACTIVATION_NONE},
    {DQT_FORMAT_F32, DQT_ACTIVATION_NONE},
};
enum { PRODUCT_KINDS = sizeof product_kinds / sizeof *product_kinds };

/* Caches of all formats, few tokens and many, more than a pass takes, sessions that are too short for a pass of all;
 * whose parts of passes begin at every kind of row. */
static const struct part {
    size_t max_length, before, count;
} parts[] = {{90, 0, 1}, {20, 3, 7},  {130, 60, 2}, {80, 5, 64}, {90, 7, 1},   {LONGEST, 0, 540}, {8, 0, 5},
             {40, 0, 3}, {50, 20, 4}, {3, 2, 1},    {90, 30, 6}, {75, 10, 65}, {90, 88, 1},       {300, 30, 257}};
enum { PARTS = sizeof parts / sizeof *parts };

static dqt_llama *model_of_products(dqt_context *on, const struct product_kind *kind) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_llama *made = NULL;
    c.vocab_size = VOCAB;
    c.hidden_size = 72;
    c.intermediate_size = 100;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.linear.storage = c.embedding.storage = c.head.storage = kind->storage;
    c.activation = kind->activation;
    c.init_std = 0.3f;
    OK(on, dqt_llama_create(on, &c, &made));
    return made;
}

/* Logits after each part, appended together or each on its own, and scores of what follows. */
static void append_parts(dqt_context *on, const dqt_llama *of, bool together, float logits[PARTS][VOCAB],
                         float scores[PARTS][2]) {
    dqt_session *s[PARTS];
    dqt_session_step steps[PARTS];
    for (size_t i = 0; i < PARTS; i++) {
        dqt_session_options o = DQT_INIT(dqt_session_options);
        o.max_length = parts[i].max_length;
        o.cache_format = (int32_t)(i % 3);
        OK(on, dqt_session_create(of, &o, &s[i]));
        if (parts[i].before) OK(on, dqt_session_append(s[i], tokens, parts[i].before, NULL));
        steps[i] = step_of(s[i], parts[i].before, parts[i].count, logits[i]);
        if (!together) OK(on, dqt_session_append(s[i], steps[i].tokens, steps[i].count, steps[i].logits));
    }
    if (together) OK(on, dqt_sessions_append(steps, PARTS));
    for (size_t i = 0; i < PARTS; i++) {
        scores[i][0] = scores[i][1] = 0;
        CHECK(length_of(s[i]) == parts[i].before + parts[i].count);
        const size_t left = parts[i].max_length - length_of(s[i]);
        if (left) OK(on, dqt_session_score(s[i], tokens, size_min(left, 2), scores[i]));
        dqt_session_destroy(s[i]);
    }
}

static void bits_are_of_the_session_alone(void) {
    static float alone[PARTS][VOCAB], together[PARTS][VOCAB], scores[2][PARTS][2];
    uint64_t seed = 11;
    for (size_t i = 0; i < LONGEST; i++)
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
    for (size_t set = 0; set < ISA_COUNT; set++)
        for (size_t kind = 0; kind < PRODUCT_KINDS; kind++)
            for (int threads = 1; threads <= 3; threads += 2) {
                ctx = isa_context(isa_caps[set].isa, threads);
                if (!ctx) continue;
                model = model_of_products(ctx, &product_kinds[kind]);
                if (threads == 1) append_parts(ctx, model, false, alone, scores[0]);
                append_parts(ctx, model, true, together, scores[1]);
                for (size_t i = 0; i < PARTS; i++)
                    CHECKF(memcmp(alone[i], together[i], sizeof alone[i]) == 0, "isa %d, products %zu, part %zu",
                           isa_caps[set].isa, kind, i);
                CHECK(memcmp(scores[0], scores[1], sizeof scores[0]) == 0);
                dqt_llama_destroy(model);
                dqt_context_destroy(ctx);
            }
}

/* The last session's append fails in the middle: those before it are as they were, scores included. */
static int32_t interrupt_after(void *user_data) {
    int *left = user_data;
    return (*left)-- == 0;
}

static void a_failure_undoes_all(void) {
    int left = -1;
    dqt_context_options o = DQT_INIT(dqt_context_options);
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    o.interrupt = interrupt_after;
    o.interrupt_user_data = &left;
    OK(NULL, dqt_context_create(&o, &ctx));
    c.vocab_size = VOCAB;
    c.hidden_size = 64;
    c.intermediate_size = 96;
    c.num_layers = 1;
    c.num_heads = c.num_kv_heads = 2;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    dqt_session *a = session_with(LONGEST, 4), *b = session_with(LONGEST, 2);
    dqt_session *a2 = session_with(LONGEST, 4), *b2 = session_with(LONGEST, 2);
    const dqt_session_step steps[] = {step_of(a, 0, 2, NULL), step_of(b, 0, 690, NULL)};
    float p, q;
    for (int at = 0; at < 3; at++) {
        left = at;
        CHECKF(dqt_sessions_append(steps, 2) == DQT_E_CANCELLED, "%d", at);
        CHECK(length_of(a) == 4 && length_of(b) == 2);
    }
    left = -1;
    OK(ctx, dqt_session_score(a, tokens, 1, &p));
    OK(ctx, dqt_session_score(a2, tokens, 1, &q));
    CHECK(memcmp(&p, &q, sizeof p) == 0);
    check_same("after it was cancelled", a, a2);
    check_same("cancelled in the middle", b, b2);
    dqt_session_destroy(a);
    dqt_session_destroy(b);
    dqt_session_destroy(a2);
    dqt_session_destroy(b2);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
}

/* A token whose embedding is NaN, in the second pass of the last session: nothing is appended anywhere. */
static void numbers_that_are_not_finite(void) {
    enum { BAD = 7 };
    static const struct product_kind floats = {DQT_FORMAT_F32, DQT_ACTIVATION_NONE};
    ctx = counting_context(&memory);
    model = model_of_products(ctx, &floats);
    dqt_layer *const *layers = NULL;
    size_t count = 0, bytes = 0;
    void *data = NULL;
    dqt_parameter embedding = DQT_INIT(dqt_parameter);
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    OK(ctx, dqt_layer_get_parameter(layers[0], 0, &embedding));
    OK(ctx, dqt_tensor_data(embedding.tensor, &data, &bytes));
    ((float *)data)[BAD * embedding.cols + 1] = NAN;
    OK(ctx, dqt_tensor_touch(embedding.tensor));
    for (size_t i = 0; i < LONGEST; i++)
        tokens[i] = (int32_t)(i % BAD);
    dqt_session *a = session_with(LONGEST, 4), *a2 = session_with(LONGEST, 4), *b = session_with(LONGEST, 2);
    dqt_session *b2 = session_with(LONGEST, 2);
    const dqt_session_step steps[] = {step_of(a, 0, 2, NULL), step_of(b, 0, 100, NULL)};
    float score;
    tokens[90] = BAD;
    CHECK(dqt_sessions_append(steps, 2) == DQT_E_NUMERIC && strstr(dqt_last_error(ctx), "not finite"));
    CHECK(length_of(a) == 4 && length_of(b) == 2);
    CHECK(dqt_session_score(a, &tokens[90], 1, &score) == DQT_E_NUMERIC && length_of(a) == 4);
    tokens[90] = 0;
    check_same("beside it", a, a2);
    check_same("where it was", b, b2);
    dqt_session_destroy(a);
    dqt_session_destroy(a2);
    dqt_session_destroy(b);
    dqt_session_destroy(b2);
    end();
}

static const struct test tests[] = {
    TEST(forks_and_copies),
    TEST(scores_are_log_probabilities),
    TEST(scores_that_are_refused),
    TEST(several_append_as_one_does),
    TEST(a_failure_undoes_all),
    TEST(bits_are_of_the_session_alone),
    TEST(numbers_that_are_not_finite),
};
TEST_MAIN(tests)
