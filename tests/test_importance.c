/* How much errors of columns matter when a model is opened: what is measured, and what becomes of it. */
#define _POSIX_C_SOURCE 200809L
#include "io/importance.h"

#include "core/rng.h"
#include "io/names.h"
#include "lanes.h"
#include "open_world.h"

enum { TOKENS = 64, VOCAB = 50, HIDDEN = 64, WIDE = 96, MOST_PARAMETERS = 64 };

/* A folder of F32 whose norms make columns differ by a factor of thousands in their squares; dead: of the first block
 * the attention's norm is 0. */
static void make_folder(struct open_world *w, bool dead) {
    dqt_llama_config c;
    OK(w->ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = VOCAB;
    c.hidden_size = HIDDEN;
    c.intermediate_size = WIDE;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.no_sub_norms = 1;
    c.init_std = c.linear_init_std = 0.3f;
    c.linear.storage = c.embedding.storage = c.head.storage = DQT_FORMAT_F32;
    dqt_llama *model;
    OK(w->ctx, dqt_llama_create(w->ctx, &c, &model));
    const struct parameter_list list = parameter_list(model);
    uint64_t seed = 5;
    for (size_t i = 0; i < list.count; i++) {
        const struct update_target p = list_parameter(&list, i);
        if (p.parameter_class != DQT_CLASS_NORM) continue;
        for (size_t k = 0; k < p.tensor->cols; k++)
            gain_of(p.tensor)[k] = dead && i < 1 + list.per_block / 2 ? 0.0f : k % 9 == 4 ? 8.0f : test_uniform(&seed);
    }
    OK(w->ctx, dqt_llama_export_folder(model, w->folder, NULL));
    dqt_llama_destroy(model);
}

static dqt_open_options groups_of(int32_t storage, int32_t rule) {
    dqt_open_options o = DQT_INIT(dqt_open_options);
    o.linear.storage = storage;
    o.linear.scale_axis = DQT_AXIS_GROUP;
    o.linear.scale_rule = rule;
    return o;
}

static dqt_llama *opened(dqt_context *ctx, const char *folder, const dqt_open_options *o) {
    dqt_llama *model = NULL;
    OK(ctx, dqt_llama_open(ctx, folder, o, &model));
    return model;
}

static void remove_folder(struct open_world *w) {
    world_remove(w, "config.json");
    world_remove(w, "model.safetensors");
    world_end(w);
}

/* The floats of a block, for measuring. */
static void measure_block(struct importance *i, const struct parameter_list *list, size_t block) {
    for (size_t k = 0; k < list->per_block; k++) {
        const dqt_tensor *t = list_parameter(list, 1 + block * list->per_block + k).tensor;
        memcpy(importance_weights(i, k), t->data, t->rows * t->cols * sizeof(float));
    }
    OK(NULL, importance_measure(i));
}

struct seen {
    struct parameter_list list;
    double square[MOST_PARAMETERS][WIDE];
};

static void see(void *arg, const dqt_tensor *weight, const struct activations *x) {
    struct seen *s = arg;
    for (size_t i = 0; i < s->list.count; i++)
        for (size_t t = 0; t < x->tokens && list_parameter(&s->list, i).tensor == weight; t++)
            for (size_t c = 0; c < x->cols; c++)
                s->square[i][c] += (double)x->floats[t * x->ld + c] * (double)x->floats[t * x->ld + c];
}

/* The inputs' mean squares in a forward of the whole model over the tokens drawn, each by its tensor's mean, and 0.03.
 */
static void mean_squares(void) {
    struct open_world w;
    world_begin(&w);
    make_folder(&w, false);
    dqt_llama *model = opened(w.ctx, w.folder, NULL);
    static struct seen seen;
    memset(&seen, 0, sizeof seen);
    seen.list = parameter_list(model);
    int32_t tokens[TOKENS];
    static float logits[TOKENS * VOCAB];
    const struct rng rng = rng_make(0, 0, RNG_IMPORTANCE, 0);
    for (size_t t = 0; t < TOKENS; t++) {
        uint32_t words[4];
        rng_block(&rng, t / 4, words);
        tokens[t] = (int32_t)(words[t % 4] % VOCAB);
    }
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.max_length = TOKENS;
    o.precision = DQT_PRECISION_F32;
    o.inference = 1;
    dqt_tape *tape;
    OK(w.ctx, dqt_tape_create(w.ctx, model->layers, model->num_layers, &o, &tape));
    const struct input_watch watch = {see, &seen};
    tape->watch = &watch;
    OK(w.ctx, dqt_llama_forward(model, tape, batch_tokens(tokens, 1, TOKENS), logits));
    struct importance *i;
    OK(w.ctx, importance_create(model, &i));
    size_t linears = 0;
    for (size_t block = 0; block < 2; block++) {
        measure_block(i, &seen.list, block);
        for (size_t k = 0; k < seen.list.per_block; k++) {
            const size_t index = 1 + block * seen.list.per_block + k;
            const struct update_target p = list_parameter(&seen.list, index);
            const float *got = importance_of(i, index);
            CHECK((got != NULL) == !class_is_vector(p.parameter_class));
            double mean = 0;
            for (size_t c = 0; c < p.tensor->cols; c++)
                mean += seen.square[index][c] / (double)p.tensor->cols;
            for (size_t c = 0; c < p.tensor->cols && got; c++) {
                const double expected = seen.square[index][c] / mean + 0.03;
                CHECKF(fabs((double)got[c] - expected) < 1e-4 * expected, "%s, column %zu: %g, %g", p.name, c,
                       (double)got[c], expected);
            }
            linears += got != NULL;
        }
    }
    CHECK(linears == 14);
    CHECK(!importance_of(i, EMBEDDING) && !importance_of(NULL, 2));
    importance_destroy(i);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    remove_folder(&w);
}

/* Sum of the squared errors of a tensor's weights, by importance. */
static double error_of(const dqt_tensor *t, const float *weights, const float *importance) {
    double sum = 0;
    float row[WIDE];
    for (size_t r = 0; r < t->rows; r++) {
        tensor_read_floats(t, r, 0, t->cols, row);
        for (size_t c = 0; c < t->cols; c++) {
            const double e = (double)weights[r * t->cols + c] - (double)row[c];
            sum += e * e * (double)importance[c];
        }
    }
    return sum;
}

static bool same_bits(const dqt_tensor *a, const dqt_tensor *b) {
    return memcmp(a->data, b->data, a->data_bytes) == 0 &&
           memcmp(a->half_scales, b->half_scales, a->num_scales * sizeof *a->half_scales) == 0;
}

/* AUTO weighs errors, so that they matter less by far; MSE by name does not. */
static void what_is_opened(void) {
    static const int32_t storages[] = {DQT_FORMAT_INT8, DQT_FORMAT_INT4, DQT_FORMAT_INT3, DQT_FORMAT_TERNARY};
    struct open_world w;
    world_begin(&w);
    make_folder(&w, false);
    dqt_llama *model = opened(w.ctx, w.folder, NULL);
    const struct parameter_list list = parameter_list(model);
    for (size_t s = 0; s < sizeof storages / sizeof *storages; s++) {
        const dqt_open_options weighed = groups_of(storages[s], DQT_SCALE_AUTO),
                               plain = groups_of(storages[s], DQT_SCALE_MSE);
        dqt_llama *a = opened(w.ctx, w.folder, &weighed), *b = opened(w.ctx, w.folder, &plain);
        const struct parameter_list of_a = parameter_list(a), of_b = parameter_list(b);
        struct importance *i;
        OK(w.ctx, importance_create(model, &i));
        double error = 0, error_plain = 0;
        for (size_t index = 1; index < list.count; index++) {
            const size_t block = (index - 1) / list.per_block;
            if (block < 2 && (index - 1) % list.per_block == 0) measure_block(i, &list, block);
            const dqt_tensor *from = list_parameter(&list, index).tensor, *t = list_parameter(&of_a, index).tensor,
                             *u = list_parameter(&of_b, index).tensor;
            if (t->storage == from->storage) continue;
            const float *weights = (const float *)(const void *)from->data, *importance = importance_of(i, index);
            dqt_tensor *expected;
            const dqt_tensor_options o = tensor_options_of(t);
            OK(w.ctx, tensor_create(w.ctx, t->rows, t->cols, &o, false, &expected));
            tensor_quantize(expected, weights, false, 0);
            CHECK(same_bits(expected, u));
            tensor_quantize_by_importance(expected, weights, importance, false, 0);
            CHECK(same_bits(expected, t));
            error += error_of(t, weights, importance);
            error_plain += error_of(u, weights, importance);
            tensor_destroy(expected);
        }
        CHECKF(error < (s ? 0.8 : 0.95) * error_plain, "%d: %g, %g", storages[s], error, error_plain);
        importance_destroy(i);
        dqt_llama_destroy(a);
        dqt_llama_destroy(b);
    }
    dqt_llama_destroy(model);
    remove_folder(&w);
}

static dqt_context *context_of(int32_t isa, int32_t threads) {
    dqt_context_options o = DQT_INIT(dqt_context_options);
    dqt_context *ctx = NULL;
    o.isa = isa;
    o.num_threads = threads;
    OK(NULL, dqt_context_create(&o, &ctx));
    share_all_work(ctx);
    return ctx;
}

/* Importance of the last block, of all its linears. */
static void check_same_importance(const dqt_llama *a, const dqt_llama *b) {
    struct importance *of_a, *of_b;
    const struct parameter_list list = parameter_list(a);
    OK(a->ctx, importance_create(a, &of_a));
    OK(b->ctx, importance_create(b, &of_b));
    for (size_t block = 0; block < 2; block++) {
        measure_block(of_a, &list, block);
        measure_block(of_b, &list, block);
    }
    for (size_t i = 1; i <= list.per_block; i++) {
        const float *x = importance_of(of_a, i), *y = importance_of(of_b, i);
        CHECK(!x == !y && (!x || memcmp(x, y, list_parameter(&list, i).tensor->cols * sizeof *x) == 0));
    }
    importance_destroy(of_a);
    importance_destroy(of_b);
}

/* The same for every number of threads and instruction set; and what was opened so, and written as floats, is opened as
 * it was. */
static void same_everywhere(void) {
    struct open_world w, again;
    world_begin(&w);
    world_begin(&again);
    make_folder(&w, false);
    const dqt_open_options o = groups_of(DQT_FORMAT_INT4, DQT_SCALE_AUTO);
    dqt_context *plain = context_of(DQT_ISA_SCALAR, 1), *best = context_of(DQT_ISA_AUTO, 3);
    dqt_llama *a = opened(plain, w.folder, NULL), *b = opened(best, w.folder, NULL), *c = NULL;
    check_same_importance(a, b);
    dqt_llama_destroy(a);
    dqt_llama_destroy(b);
    a = opened(plain, w.folder, &o);
    b = opened(best, w.folder, &o);
    OK(plain, dqt_llama_export_folder(a, again.folder, NULL));
    c = opened(best, again.folder, &o);
    const struct parameter_list of_a = parameter_list(a), of_b = parameter_list(b), of_c = parameter_list(c);
    for (size_t i = 0; i < of_a.count; i++) {
        const dqt_tensor *t = list_parameter(&of_a, i).tensor;
        if (!t->half_scales) continue;
        CHECK(same_bits(t, list_parameter(&of_b, i).tensor));
        float row[2][WIDE];
        for (size_t r = 0; r < t->rows; r++) {
            tensor_read_floats(t, r, 0, t->cols, row[0]);
            tensor_read_floats(list_parameter(&of_c, i).tensor, r, 0, t->cols, row[1]);
            for (size_t k = 0; k < t->cols; k++) /* 0 may have another sign */
                CHECK(row[0][k] >= row[1][k] && row[0][k] <= row[1][k]);
        }
    }
    dqt_llama_destroy(a);
    dqt_llama_destroy(b);
    dqt_llama_destroy(c);
    dqt_context_destroy(plain);
    dqt_context_destroy(best);
    remove_folder(&w);
    remove_folder(&again);
}

/* Where nothing comes in nothing can be measured. */
static void zeros(void) {
    struct open_world w;
    world_begin(&w);
    make_folder(&w, true);
    const dqt_open_options o = groups_of(DQT_FORMAT_INT4, DQT_SCALE_AUTO),
                           mse = groups_of(DQT_FORMAT_INT4, DQT_SCALE_MSE);
    dqt_llama *a = opened(w.ctx, w.folder, &o), *b = opened(w.ctx, w.folder, &mse);
    const dqt_layer *first = a->layers[1]->sublayer[BLOCK_ATTENTION];
    CHECK(same_bits(first->weight[ATTENTION_Q], b->layers[1]->sublayer[BLOCK_ATTENTION]->weight[ATTENTION_Q]));
    dqt_llama_destroy(a);
    dqt_llama_destroy(b);
    remove_folder(&w);
}

/* Whatever allocation fails, nothing is left. */
static void memory_fails(void) {
    struct open_world w;
    world_begin(&w);
    make_folder(&w, false);
    const dqt_open_options o = groups_of(DQT_FORMAT_INT4, DQT_SCALE_AUTO);
    const size_t before = w.memory.bytes;
    size_t n = 0;
    for (dqt_llama *model = NULL; !model && n < 1000; n++) {
        w.memory.fail_at = w.memory.calls + n;
        const dqt_status status = dqt_llama_open(w.ctx, w.folder, &o, &model);
        w.memory.fail_at = SIZE_MAX;
        CHECKF(status == DQT_OK || (status == DQT_E_MEMORY && !model), "%zu: %d", n, status);
        dqt_llama_destroy(model);
        CHECK(w.memory.bytes == before);
    }
    CHECK(n > 40 && n < 1000);
    remove_folder(&w);
}

static const struct test tests[] = {TEST(mean_squares), TEST(what_is_opened), TEST(same_everywhere), TEST(zeros),
                                    TEST(memory_fails)};
TEST_MAIN(tests)
