/* Documents within a sequence: the numbers of a pass are those of the documents run apart. */
#include "batch_world.h"

/* ---- Segments ------------------------------------------------------------------------------------------------ */

enum { LONG = 150, SEQUENCES = 2, DOCUMENTS = 6 };
/* Longer than a tile of attention and not, of one token, and the same id again, beside another sequence's. */
static const struct {
    size_t length;
    int32_t id;
} documents[DOCUMENTS] = {{1, 3}, {70, 4}, {1, 3}, {64, -7}, {14, 9}, {LONG, 9}};

struct kind {
    const char *name;
    size_t hidden, heads, kv_heads;
    int32_t block, sub_norm, activation, precision, recompute;
};
static const struct kind kinds[] = {
    {"attention f32", 32, 4, 2, 0, 0, DQT_ACTIVATION_NONE, DQT_PRECISION_F32, 0},
    {"attention of one head f32", 40, 1, 1, 0, 1, DQT_ACTIVATION_NONE, DQT_PRECISION_F32, 0},
    {"attention bf16", 96, 6, 1, 0, 1, DQT_ACTIVATION_NONE, DQT_PRECISION_BF16, 0},
    {"attention int8 bf16", 128, 2, 2, 0, 0, DQT_ACTIVATION_INT8, DQT_PRECISION_BF16, 0},
    {"block f32", 64, 4, 4, 1, 0, DQT_ACTIVATION_NONE, DQT_PRECISION_F32, 0},
    {"block recomputed f32", 64, 4, 1, 1, 1, DQT_ACTIVATION_NONE, DQT_PRECISION_F32, 1},
    {"block recomputed int8 bf16", 64, 2, 1, 1, 1, DQT_ACTIVATION_INT8, DQT_PRECISION_BF16, 1},
};

struct layer_world {
    const struct kind *kind;
    dqt_context *ctx;
    dqt_layer *layer;
    dqt_tape *tape;
    size_t num_parameters;
    float *x, *dy;
    float *y[2], *dx[2]; /* in one pass, and document by document; [SEQUENCES * LONG][hidden] */
};

static void layer_world_create(struct layer_world *w, const struct kind *kind) {
    *w = (struct layer_world){.kind = kind};
    OK(NULL, dqt_context_create(NULL, &w->ctx));
    dqt_layer_options o;
    OK(w->ctx, dqt_layer_options_init(&o, sizeof o));
    o.activation = kind->activation;
    o.sub_norm = kind->sub_norm;
    o.init_std = 0.2f;
    if (kind->block)
        OK(w->ctx, dqt_block_create(w->ctx, kind->hidden, 48, kind->heads, kind->kv_heads, &o, &w->layer));
    else
        OK(w->ctx, dqt_attention_create(w->ctx, kind->hidden, kind->heads, kind->kv_heads, &o, &w->layer));
    dqt_tape_options t;
    OK(w->ctx, dqt_tape_options_init(&t, sizeof t));
    t.max_batch = SEQUENCES;
    t.max_length = LONG;
    t.precision = kind->precision;
    t.recompute = kind->recompute;
    OK(w->ctx, dqt_tape_create(w->ctx, &w->layer, 1, &t, &w->tape));
    OK(w->ctx, dqt_tape_get_num_parameters(w->tape, &w->num_parameters));
    const size_t count = SEQUENCES * LONG * kind->hidden;
    w->x = random_floats(count, 1, 11);
    w->dy = random_floats(count, 1, 12);
    for (int i = 0; i < 2; i++) {
        w->y[i] = random_floats(count, 1, 13);
        w->dx[i] = random_floats(count, 1, 14);
    }
}

static void layer_world_destroy(struct layer_world *w) {
    for (int i = 0; i < 2; i++) {
        free(w->y[i]);
        free(w->dx[i]);
    }
    free(w->x);
    free(w->dy);
    dqt_tape_destroy(w->tape);
    dqt_layer_destroy(w->layer);
    dqt_context_destroy(w->ctx);
}

static void run_layer(struct layer_world *w, const int32_t *segments, const float *x, const float *dy, float *y,
                      float *dx) {
    dqt_batch b = DQT_INIT(dqt_batch);
    b.batch = SEQUENCES;
    b.length = LONG;
    b.segments = segments;
    OK(w->ctx, dqt_layer_forward(w->layer, w->tape, &b, x, y));
    OK(w->ctx, dqt_layer_backward(w->layer, w->tape, dy, dx));
}

/* A document at the beginning of a sequence, in a pass of the same shape, for products of fewer tokens may be computed
 * otherwise: nothing looks at what comes after it, and no gradient comes from there. */
static void run_document(struct layer_world *w, size_t token, size_t length) {
    const size_t all = SEQUENCES * LONG * w->kind->hidden, at = token * w->kind->hidden, n = length * w->kind->hidden;
    float *x = random_floats(all, 1, 15), *dy = calloc(all, sizeof *dy);
    float *y = random_floats(all, 1, 16), *dx = random_floats(all, 1, 17);
    if (!dy) abort();
    memcpy(x, w->x + at, n * sizeof *x);
    memcpy(dy, w->dy + at, n * sizeof *dy);
    run_layer(w, NULL, x, dy, y, dx);
    memcpy(w->y[1] + at, y, n * sizeof *y);
    memcpy(w->dx[1] + at, dx, n * sizeof *dx);
    free(x);
    free(dy);
    free(y);
    free(dx);
}

static void fill_segments(int32_t *segments) {
    for (size_t d = 0, at = 0; d < DOCUMENTS; d++)
        for (size_t i = 0; i < documents[d].length; i++)
            segments[at++] = documents[d].id;
}

/* Outputs and dx have the bits of the documents run one by one; weight gradients are sums in another order. */
static void check_segments(const struct kind *kind) {
    struct layer_world w;
    int32_t segments[SEQUENCES * LONG];
    layer_world_create(&w, kind);
    fill_segments(segments);
    run_layer(&w, segments, w.x, w.dy, w.y[0], w.dx[0]);
    struct world plain = {.setting = &(struct setting){.name = kind->name},
                          .ctx = w.ctx,
                          .tape = w.tape,
                          .num_parameters = w.num_parameters};
    const struct gradients packed = take_gradients(&plain);
    for (size_t d = 0, at = 0; d < DOCUMENTS; at += documents[d++].length)
        run_document(&w, at, documents[d].length);
    const struct gradients apart = take_gradients(&plain);
    const size_t bytes = SEQUENCES * LONG * kind->hidden * sizeof(float);
    CHECKF(!memcmp(w.y[0], w.y[1], bytes), "%s: outputs differ", kind->name);
    CHECKF(!memcmp(w.dx[0], w.dx[1], bytes), "%s: dx differs", kind->name);
    check_equal(&plain, packed, apart, 1e-5, "documents in one pass and apart");
    /* without segments the next pass forgets them */
    run_layer(&w, NULL, w.x, w.dy, w.y[0], w.dx[0]);
    CHECKF(memcmp(w.y[0], w.y[1], bytes) != 0, "%s: segments changed nothing", kind->name);
    layer_world_destroy(&w);
}
static void test_segments_of_layers(void) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        check_segments(&kinds[i]);
}

/* Losses and gradients of documents of 1, 5 and 3 tokens in each sequence, in one pass and apart. */
static void check_documents(struct world *w) {
    static const size_t lengths[] = {1, 5, 3};
    dqt_batch b = batch_of(w);
    int32_t segments[TOKENS];
    float loss, one, losses[TOKENS], apart_losses[TOKENS];
    double sum = 0;
    for (int i = 0; i < TOKENS; i++)
        segments[i] = i % LENGTH < 1 ? 1 : i % LENGTH < 6 ? 2 : 1;
    b.segments = segments;
    b.divisor = 20;
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, losses));
    OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
    const struct gradients packed = take_gradients(w);
    for (size_t d = 0, at = 0; d < 3 * BATCH; at += lengths[d++ % 3]) {
        const dqt_batch document = {.struct_size = sizeof document,
                                    .length = lengths[d % 3],
                                    .tokens = w->tokens + at,
                                    .targets = w->targets + at,
                                    .divisor = 20};
        OK(w->ctx, dqt_llama_loss(w->model, w->tape, &document, &one, apart_losses + at));
        OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
        sum += (double)one;
    }
    const double tolerance = w->setting->tolerance; /* few tokens: f32 products even in a bf16 tape */
    CHECKF(fabs(sum - (double)loss) < tolerance, "%s: losses %g and %g", w->setting->name, (double)loss, sum);
    for (int i = 0; i < TOKENS; i++)
        CHECKF(fabs((double)(losses[i] - apart_losses[i])) < tolerance, "%s: token %d: %g and %g", w->setting->name, i,
               (double)losses[i], (double)apart_losses[i]);
    check_equal(w, packed, take_gradients(w), tolerance, "documents in one pass and apart");
}
static void test_documents(void) {
    each_setting(check_documents);
}

/* With segments and weights the fused step gives the codes of backward and step. */
static void test_fused(void) {
    for (size_t i = 0; i < SETTINGS; i++) {
        int8_t *codes[2];
        size_t count = 0, moved = 0;
        for (int fused = 0; fused < 2; fused++) {
            struct world *w = world_create(&settings[i]);
            dqt_batch b = batch_of(w);
            int32_t segments[TOKENS];
            for (int t = 0; t < TOKENS; t++) {
                segments[t] = t / 4;
                w->weights[t] = (float)(t % 4) - 0.5f;
            }
            b.segments = segments;
            b.weights = w->weights;
            dqt_updater *updater = updater_of(w);
            float loss;
            int8_t *before = take_codes(w, &count);
            OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL));
            if (fused) {
                OK(w->ctx, dqt_llama_backward_update(w->model, w->tape, updater, step_rate(0.05f), NULL));
            } else {
                OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
                OK(w->ctx, dqt_updater_step(updater, w->tape, step_rate(0.05f), NULL));
            }
            codes[fused] = take_codes(w, &count);
            for (size_t c = 0; c < count; c++)
                moved += codes[fused][c] != before[c];
            free(before);
            dqt_updater_destroy(updater);
            world_destroy(w);
        }
        CHECK(moved > 0);
        CHECKF(!memcmp(codes[0], codes[1], count), "%s: codes differ", settings[i].name);
        free(codes[0]);
        free(codes[1]);
    }
}

static const struct test tests[] = {
    TEST(test_segments_of_layers),
    TEST(test_documents),
    TEST(test_fused),
};

TEST_MAIN(tests)
