/* Sessions whose keys and values are cached in F32, BF16 or INT8: memory to the byte, logits near those of F32, and
 * forks, copies, scores and truncation with each. tests/test_attention.c has the formats' arithmetic, and
 * tests/test_sessions.c that a session's bits are its own. */
#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

enum { VOCAB = 97, LONGEST = 150, LAYERS = 3, HEADS = 6, KV_HEADS = 2 };
static const int32_t formats[] = {DQT_CACHE_F32, DQT_CACHE_BF16, DQT_CACHE_INT8};
enum { FORMATS = sizeof formats / sizeof *formats };

static struct counting memory;
static dqt_context *ctx;
static dqt_llama *model;
static int32_t tokens[LONGEST];

static dqt_llama_config config_of(size_t head_size) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    c.vocab_size = VOCAB;
    c.hidden_size = HEADS * head_size;
    c.intermediate_size = 100;
    c.num_layers = LAYERS;
    c.num_heads = HEADS;
    c.num_kv_heads = KV_HEADS;
    c.linear.storage = DQT_FORMAT_F32;
    c.activation = DQT_ACTIVATION_NONE;              /* no rounding but the cache's */
    c.init_std = 1.0f / sqrtf((float)c.hidden_size); /* keys and queries of the size that norms give */
    return c;
}

static void begin(size_t head_size) {
    const dqt_llama_config c = config_of(head_size);
    ctx = counting_context(&memory);
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    uint64_t seed = head_size;
    for (size_t i = 0; i < LONGEST; i++)
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
}

static void end(void) {
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static dqt_session_options options_of(int32_t format, size_t max_length) {
    dqt_session_options o = DQT_INIT(dqt_session_options);
    o.cache_format = format;
    o.max_length = max_length;
    return o;
}

static dqt_session *session_in(int32_t format, size_t max_length) {
    const dqt_session_options o = options_of(format, max_length);
    dqt_session_options read = DQT_INIT(dqt_session_options);
    dqt_session *s = NULL;
    OK(ctx, dqt_session_create(model, &o, &s));
    OK(ctx, dqt_session_get_options(s, &read));
    CHECK(read.cache_format == format && read.max_length == max_length);
    return s;
}

/* Every half lies on a cache line of its own. */
static size_t line(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static void memory_is_planned(void) {
    static const size_t head_sizes[] = {16, 18, 64}, lengths[] = {1, 63, LONGEST, 2048};
    for (size_t h = 0; h < 3; h++) {
        begin(head_sizes[h]);
        dqt_llama_config c = config_of(head_sizes[h]);
        dqt_llama *plan = NULL;
        c.shape_only = 1;
        OK(ctx, dqt_llama_create(ctx, &c, &plan));
        for (size_t f = 0; f < FORMATS; f++)
            for (size_t l = 0; l < 4; l++) {
                const dqt_session_options o = options_of(formats[f], lengths[l]);
                dqt_session_memory_info planned = DQT_INIT(dqt_session_memory_info), real = planned;
                const size_t before = memory.bytes, elements = lengths[l] * KV_HEADS * head_sizes[h];
                OK(ctx, dqt_session_memory(plan, &o, &planned));
                OK(ctx, dqt_session_memory(model, &o, &real));
                CHECK(memcmp(&planned, &real, sizeof real) == 0 && memory.bytes == before);
                dqt_session *s = session_in(formats[f], lengths[l]);
                CHECKF(memory.bytes - before == planned.total, "format %d: %zu bytes, planned %zu", formats[f],
                       memory.bytes - before, planned.total);
                const size_t half = formats[f] == DQT_CACHE_F32    ? line(4 * elements)
                                    : formats[f] == DQT_CACHE_BF16 ? line(2 * elements)
                                                                   : line(elements) + line(4 * lengths[l] * KV_HEADS);
                CHECKF(planned.cache == 2 * LAYERS * half, "format %d: %zu bytes", formats[f], planned.cache);
                CHECK(planned.total == planned.cache + planned.other);
                if (lengths[l] == 2048)
                    printf("cache of 2048 tokens, %d kv heads of %zu, format %d: %zu bytes a token and layer\n",
                           KV_HEADS, head_sizes[h], formats[f], planned.cache / LAYERS / 2048);
                dqt_session_destroy(s);
                CHECK(memory.bytes == before);
            }
        dqt_llama_destroy(plan);
        end();
    }
}

static void memory_is_refused(void) {
    begin(16);
    dqt_session_memory_info m = DQT_INIT(dqt_session_memory_info);
    dqt_session_options o = options_of(3, 20);
    dqt_session *s = NULL;
    CHECK(dqt_session_memory(model, &o, &m) == DQT_E_ARGUMENT && strstr(dqt_last_error(ctx), "cache_format is 3"));
    CHECK(dqt_session_create(model, &o, &s) == DQT_E_ARGUMENT && !s);
    o = options_of(-1, 20);
    CHECK(dqt_session_create(model, &o, &s) == DQT_E_ARGUMENT && !s);
    o = options_of(DQT_CACHE_INT8, (size_t)INT32_MAX + 1);
    CHECK(dqt_session_memory(model, &o, &m) == DQT_E_SHAPE && strstr(dqt_last_error(ctx), "max_length"));
    CHECK(dqt_session_memory(NULL, NULL, &m) == DQT_E_ARGUMENT);
    CHECK(dqt_session_memory(model, NULL, NULL) == DQT_E_ARGUMENT);
    end();
}

/* Logits after each of LONGEST tokens: [LONGEST][VOCAB]. Appends allocate nothing. */
static float *logits_with(int32_t format) {
    float *logits = malloc(LONGEST * VOCAB * sizeof *logits);
    dqt_session *s = session_in(format, LONGEST);
    const size_t calls = memory.calls;
    OK(ctx, dqt_session_append(s, tokens, 70, logits + 69 * VOCAB));
    for (size_t i = 70; i < LONGEST; i++)
        OK(ctx, dqt_session_append(s, &tokens[i], 1, logits + i * VOCAB));
    CHECK(memory.calls == calls);
    dqt_session_destroy(s);
    return logits;
}

/* Root of the mean square of the differences over that of F32's logits. bf16 keeps 8 bits, int8 codes 7 of the largest
 * of a head; three layers of attention over random weights of 0.3 pass that on. docs/numerics.md states the limits. */
static void logits_are_near(void) {
    static const double limits[FORMATS] = {0, 0.006, 0.016};
    static const size_t head_sizes[] = {16, 18, 64};
    for (size_t h = 0; h < 3; h++) {
        begin(head_sizes[h]);
        float *expected = logits_with(DQT_CACHE_F32);
        for (size_t f = 0; f < FORMATS; f++) {
            float *logits = logits_with(formats[f]);
            double difference = 0, size = 0;
            for (size_t i = 69 * VOCAB; i < LONGEST * VOCAB; i++) {
                const double d = (double)logits[i] - (double)expected[i];
                difference += d * d;
                size += (double)expected[i] * (double)expected[i];
            }
            const double relative = sqrt(difference / size);
            printf("head size %zu, format %d: logits off by %.2g of their size\n", head_sizes[h], formats[f], relative);
            CHECKF(relative <= limits[f], "format %d: off by %g", formats[f], relative);
            CHECK(f == 0 || relative > 0); /* it is another cache */
            free(logits);
        }
        free(expected);
        end();
    }
}

static void check_same(int32_t format, dqt_session *a, dqt_session *b) {
    float x[VOCAB], y[VOCAB], p[2], q[2];
    OK(ctx, dqt_session_append(a, tokens, 3, x));
    OK(ctx, dqt_session_append(b, tokens, 3, y));
    CHECKF(memcmp(x, y, sizeof x) == 0, "format %d: other logits", format);
    OK(ctx, dqt_session_score(a, &tokens[5], 2, p));
    OK(ctx, dqt_session_score(b, &tokens[5], 2, q));
    CHECKF(memcmp(p, q, sizeof p) == 0, "format %d: other scores", format);
}

/* Between caches of different lengths, whose rows and steps lie elsewhere. */
static void forks_and_copies(void) {
    begin(18);
    for (size_t f = 0; f < FORMATS; f++) {
        dqt_session *s = session_in(formats[f], LONGEST), *fork = NULL, *copy = session_in(formats[f], 100);
        OK(ctx, dqt_session_append(copy, &tokens[20], 90, NULL)); /* is overwritten */
        OK(ctx, dqt_session_append(s, tokens, 90, NULL));
        OK(ctx, dqt_session_truncate(s, 80));
        OK(ctx, dqt_session_append(s, &tokens[3], 1, NULL));
        OK(ctx, dqt_session_fork(s, &fork));
        const size_t calls = memory.calls;
        OK(ctx, dqt_session_copy(copy, s));
        CHECK(memory.calls == calls);
        dqt_session_options o = DQT_INIT(dqt_session_options);
        OK(ctx, dqt_session_get_options(fork, &o));
        CHECK(o.cache_format == formats[f] && o.max_length == LONGEST);
        check_same(formats[f], s, fork);
        OK(ctx, dqt_session_truncate(s, 81));
        check_same(formats[f], s, copy);

        dqt_session *other = session_in(formats[(f + 1) % FORMATS], LONGEST);
        size_t length = 1;
        CHECK(dqt_session_copy(other, s) == DQT_E_UNSUPPORTED && strstr(dqt_last_error(ctx), "cache_format"));
        OK(ctx, dqt_session_get_length(other, &length));
        CHECK(length == 0);
        dqt_session_destroy(s);
        dqt_session_destroy(fork);
        dqt_session_destroy(copy);
        dqt_session_destroy(other);
    }
    end();
}

static const struct test tests[] = {TEST(memory_is_planned), TEST(memory_is_refused), TEST(logits_are_near),
                                    TEST(forks_and_copies)};
TEST_MAIN(tests)
