/* Training, generation and inspection allocate nothing: neither through the context's allocator nor, where this program
 * can watch it, from the C library behind the context's back. */
#include "calls.h"
#include "counting_alloc.h"
#include "formats.h"
#include "lanes.h"
#include "test.h"

/* With glibc and without a sanitizer of its own, malloc and its kin are replaced here and counted while `armed`. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(SANITIZED)
#define WATCHED 1
#else
#define WATCHED 0
#endif

static bool armed;
static size_t heap_calls;

#if WATCHED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *ptr, size_t size);
void *__libc_memalign(size_t align, size_t size);

void *malloc(size_t size) {
    heap_calls += armed;
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    heap_calls += armed;
    return __libc_calloc(count, size);
}
void *realloc(void *ptr, size_t size) {
    heap_calls += armed;
    return __libc_realloc(ptr, size);
}
void *aligned_alloc(size_t align, size_t size) {
    heap_calls += armed;
    return __libc_memalign(align, size);
}
int posix_memalign(void **out, size_t align, size_t size);
int posix_memalign(void **out, size_t align, size_t size) {
    heap_calls += armed;
    *out = __libc_memalign(align, size);
    return *out ? 0 : 12; /* ENOMEM */
}
#endif

static struct counting memory;
static size_t calls_before;

static void arm(void) {
    calls_before = memory.calls;
    heap_calls = 0;
    armed = true;
}

static void disarm(const char *what) {
    armed = false;
    CHECKF(memory.calls == calls_before, "%s: %zu calls of the allocator", what, memory.calls - calls_before);
    CHECKF(heap_calls == 0, "%s: %zu calls of malloc", what, heap_calls);
}

/* The call succeeds and allocates nothing. */
#define NOTHING(call)                                                                                                  \
    do {                                                                                                               \
        arm();                                                                                                         \
        const dqt_status nothing_status = (call);                                                                      \
        disarm(#call);                                                                                                 \
        CHECKF(nothing_status == DQT_OK, "%s: %s", #call, dqt_last_error(ctx));                                        \
    } while (0)

static void plain_for(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    for (size_t i = 0; i < count; i++)
        task(task_data, i);
}

static dqt_context *begin(void) {
    memory = counting_new();
    dqt_context_options o = counting_options(&memory);
    o.threading = DQT_THREADING_HOST;
    o.parallel_for = plain_for;
    o.num_threads = 3;
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(&o, &ctx));
    share_all_work(ctx);
    return ctx;
}

/* The counters count: an allocation in the window is seen. */
static void watch_works(void) {
    dqt_context *ctx = begin();
    dqt_tensor *t = NULL;
    arm();
    OK(ctx, dqt_tensor_create(ctx, 4, 4, NULL, &t));
    armed = false;
    CHECK(memory.calls == calls_before + 1);
    CHECK(!WATCHED || heap_calls > 0); /* of the counting allocator */
    dqt_tensor_destroy(t);
    counting_end(ctx, &memory);
}

enum { VOCAB = 80, BATCH = 2, LENGTH = 9, TOKENS = BATCH * LENGTH };

static void train_variant(unsigned v) {
    dqt_context *ctx = begin();
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = VOCAB;
    c.hidden_size = 64;
    c.intermediate_size = v % 3 == 2 ? 96 : 90;
    c.num_heads = 4;
    c.num_kv_heads = v % 2 ? 2 : 4;
    c.mlp = (int32_t)(v / 2 % 2);
    c.tie_embeddings = v / 4 % 2;
    c.no_sub_norms = !(v % 3 != 0);
    c.activation = v % 5 == 4 ? DQT_ACTIVATION_NONE : DQT_ACTIVATION_INT8;
    const bool integer = v % 3 != 2 && v % 2; /* backward; not of groups */
    if (integer && v > 5) c.head_activation = DQT_ACTIVATION_INT8;
    if (v % 4 == 1) c.linear.storage = DQT_FORMAT_INT8;
    if (v % 4 == 1) c.linear.compute = DQT_FORMAT_TERNARY;
    if (v % 4 == 2) c.linear.storage = DQT_FORMAT_F32;
    if (v % 3 == 2) c.linear.scale_axis = DQT_AXIS_GROUP;
    if (v % 3 == 2 && v % 4 == 2) c.linear.compute = DQT_FORMAT_INT4;
    if (v % 3 == 2 && v % 4 == 3) c.linear.train_scale = 1;
    dqt_tape_options to;
    dqt_tape_options_init(&to, sizeof to);
    to.max_batch = BATCH;
    to.max_length = LENGTH;
    to.recompute = v % 3 == 1;
    if (integer) to.precision = DQT_PRECISION_INT8;
    to.checkpoint_format = v % 6 == 4 ? DQT_FLOAT_BF16 : DQT_FLOAT_F32;
    to.gradient_format = (int32_t)(v % 4);
    dqt_updater_options uo;
    dqt_updater_options_init(&uo, sizeof uo);
    uo.optimizer = 1 + (int32_t)(v % 3);
    uo.momentum_state = uo.variance_state = (int32_t)(v / 2 % 3);
    uo.rounding = v % 5 == 4 ? DQT_ROUND_ACCUMULATE : v % 2 ? DQT_ROUND_ECO_STOCHASTIC : DQT_ROUND_STOCHASTIC;
    dqt_updater_options fo = uo;
    fo.clip = DQT_CLIP_PREVIOUS_NORM;
    dqt_llama *model = NULL;
    dqt_layer *const *layers = NULL;
    size_t n = 0;
    dqt_tape *tape = NULL, *fused = NULL;
    dqt_updater *updater = NULL, *fused_updater = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_tape_create(ctx, layers, n, &to, &tape));
    to.no_gradient_buffers = 1;
    OK(ctx, dqt_tape_create(ctx, layers, n, &to, &fused));
    OK(ctx, dqt_updater_create(ctx, layers, n, &uo, &updater));
    OK(ctx, dqt_updater_create(ctx, layers, n, &fo, &fused_updater));

    static float logits[TOKENS * VOCAB], token_losses[TOKENS], stream[TOKENS * 64], row[2 * 64];
    float loss;
    int32_t tokens[TOKENS], targets[TOKENS];
    uint64_t seed = v;
    for (size_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
        targets[i] = i % 5 ? (int32_t)(test_random(&seed) % VOCAB) : -1;
    }
    for (size_t i = 0; i < TOKENS * 64; i++)
        stream[i] = test_uniform(&seed);
    dqt_step_stats stats = {.struct_size = sizeof stats};
    for (int step = 0; step < 2; step++) {
        NOTHING(dqt_llama_forward(model, tape, batch_tokens(tokens, BATCH, LENGTH), logits));
        NOTHING(dqt_llama_loss(model, tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, token_losses));
        NOTHING(dqt_llama_backward(model, tape, 1));
        NOTHING(dqt_updater_step(updater, tape, step_rate(1e-3f), &stats));
        NOTHING(dqt_tape_get_gradient(tape, 0, 1, 2, row));
        NOTHING(dqt_tape_set_gradient(tape, 0, 1, 2, row));
        NOTHING(dqt_tape_zero_gradients(tape));
        NOTHING(
            dqt_llama_forward_blocks(model, tape, batch_pairs(tokens, targets, BATCH, LENGTH), stream, &loss, NULL));
        NOTHING(dqt_llama_backward_blocks(model, tape, 1, stream));
        NOTHING(dqt_llama_loss(model, fused, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL));
        NOTHING(dqt_llama_backward_update(model, fused, fused_updater, step_rate(1e-3f), &stats));
    }
    dqt_updater_destroy(fused_updater);
    dqt_updater_destroy(updater);
    dqt_tape_destroy(fused);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static void training(void) {
    for (unsigned v = 0; v < 12; v++)
        train_variant(v);
}

static void generation(void) {
    dqt_context *ctx = begin();
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    dqt_llama *model = NULL;
    dqt_session *session = NULL;
    dqt_sampler *sampler = NULL;
    dqt_sampler_options so;
    dqt_sampler_options_init(&so, sizeof so);
    so.top_k = 40;
    so.top_p = 0.9f;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_session_create(model, session_of(100), &session));
    OK(ctx, dqt_sampler_create(ctx, 256, &so, &sampler));
    int32_t prompt[70], token = 1;
    float logits[256];
    size_t length;
    for (int i = 0; i < 70; i++)
        prompt[i] = i;
    NOTHING(dqt_session_append(session, prompt, 70, logits));
    for (int i = 0; i < 20; i++) {
        NOTHING(dqt_sampler_sample(sampler, logits, &token));
        NOTHING(dqt_session_append(session, &token, 1, logits));
    }
    NOTHING(dqt_session_truncate(session, 5));
    NOTHING(dqt_session_get_length(session, &length));
    NOTHING(dqt_session_append(session, prompt, 3, NULL));
    dqt_sampler_destroy(sampler);
    dqt_session_destroy(session);
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static void layers(void) {
    dqt_context *ctx = begin();
    dqt_layer *l[4] = {NULL}, *embedding = NULL, *head = NULL, *all[6];
    OK(ctx, dqt_linear_create(ctx, 24, 24, NULL, &l[0]));
    OK(ctx, dqt_rmsnorm_create(ctx, 24, NULL, &l[1]));
    OK(ctx, dqt_attention_create(ctx, 24, 4, 2, NULL, &l[2]));
    OK(ctx, dqt_mlp_create(ctx, 24, 33, NULL, &l[3]));
    OK(ctx, dqt_embedding_create(ctx, 50, 24, NULL, &embedding));
    OK(ctx, dqt_head_create(ctx, NULL, 24, 50, NULL, &head));
    memcpy(all, l, sizeof l);
    all[4] = embedding;
    all[5] = head;
    dqt_tape *tape = NULL;
    OK(ctx, dqt_tape_create(ctx, all, 6, NULL, &tape));
    enum { N = 11 };
    float x[N * 24], y[N * 24], logits[N * 50], loss;
    int32_t tokens[N];
    for (int i = 0; i < N; i++)
        tokens[i] = i;
    NOTHING(dqt_embedding_forward(embedding, tape, batch_tokens(tokens, 1, N), x));
    for (int i = 0; i < 4; i++)
        NOTHING(dqt_layer_forward(l[i], tape, batch_shape(1, N), x, y));
    NOTHING(dqt_head_logits(head, tape, batch_shape(1, N), y, logits));
    NOTHING(dqt_head_loss(head, tape, batch_targets(tokens, 1, N), y, &loss, NULL));
    NOTHING(dqt_head_backward(head, tape, 1, x));
    for (int i = 3; i >= 0; i--)
        NOTHING(dqt_layer_backward(l[i], tape, x, y));
    NOTHING(dqt_embedding_backward(embedding, tape, y));
    dqt_tape_destroy(tape);
    for (int i = 0; i < 6; i++)
        dqt_layer_destroy(all[i]);
    counting_end(ctx, &memory);
}

static void tensors(void) {
    dqt_context *ctx = begin();
    EACH_FORMAT(format)
    for (int32_t axis = DQT_AXIS_TENSOR; axis <= DQT_AXIS_GROUP; axis++) {
        enum { ROWS = 3, COLS = 96 };
        dqt_tensor_options o;
        dqt_tensor_options_init(&o, sizeof o);
        o.storage = format;
        o.scale_axis = axis;
        if (axis == DQT_AXIS_GROUP) {
            o.group_size = 32;
            o.scale_rule = DQT_SCALE_MSE;
        }
        if (format != DQT_FORMAT_TERNARY && axis == DQT_AXIS_ROW) o.compute = DQT_FORMAT_TERNARY;
        dqt_tensor *t = NULL;
        float w[ROWS * COLS], scales[ROWS * COLS / 32];
        int8_t codes[ROWS * COLS];
        uint64_t seed = 1;
        void *data;
        size_t bytes;
        dqt_tensor_info info = {.struct_size = sizeof info};
        dqt_tensor_stats stats = {.struct_size = sizeof stats};
        for (int i = 0; i < ROWS * COLS; i++)
            w[i] = test_uniform(&seed);
        OK(ctx, dqt_tensor_create(ctx, ROWS, COLS, &o, &t));
        NOTHING(dqt_tensor_quantize(t, w, DQT_ROUND_STOCHASTIC, 1));
        NOTHING(dqt_tensor_dequantize(t, 0, ROWS, w));
        NOTHING(dqt_tensor_get_info(t, &info));
        NOTHING(dqt_tensor_get_stats(t, &stats));
        NOTHING(dqt_tensor_data(t, &data, &bytes));
        NOTHING(dqt_tensor_touch(t));
        if (number_is_code(format)) {
            NOTHING(dqt_tensor_get_codes(t, 0, ROWS, codes));
            NOTHING(dqt_tensor_set_codes(t, 0, ROWS, codes));
            NOTHING(dqt_tensor_get_scales(t, scales));
            NOTHING(dqt_tensor_set_scales(t, scales));
        }
        dqt_tensor_destroy(t);
    }
    counting_end(ctx, &memory);
}

static const struct test tests[] = {TEST(watch_works), TEST(training), TEST(generation), TEST(layers), TEST(tensors)};
TEST_MAIN(tests)
