/* gradient_scale of a step: the bits are those of gradients that were scaled, norms and clipping included. */
#include "calls.h"
#include "counting_alloc.h"
#include "memory_file.h"
#include "test.h"

enum { VOCAB = 61, LENGTH = 12, STEPS = 3 };

struct trained {
    dqt_llama *model;
    dqt_layer *const *layers;
    size_t num_layers;
    dqt_tape *tape;
    dqt_updater *updater;
};

static struct trained begin(dqt_context *ctx, const dqt_updater_options *o, int32_t train_scale) {
    struct trained t;
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_tape_options to = DQT_INIT(dqt_tape_options);
    c.vocab_size = VOCAB;
    c.hidden_size = 64;
    c.intermediate_size = 72;
    c.num_layers = 1;
    c.num_heads = c.num_kv_heads = 2;
    c.linear.train_scale = train_scale;
    c.linear.scale_axis = DQT_AXIS_ROW;
    to.max_batch = 2;
    to.max_length = LENGTH;
    OK(ctx, dqt_llama_create(ctx, &c, &t.model));
    OK(ctx, dqt_llama_get_layers(t.model, &t.layers, &t.num_layers));
    OK(ctx, dqt_tape_create(ctx, t.layers, t.num_layers, &to, &t.tape));
    OK(ctx, dqt_updater_create(ctx, t.layers, t.num_layers, o, &t.updater));
    return t;
}

static void end(struct trained *t) {
    dqt_updater_destroy(t->updater);
    dqt_tape_destroy(t->tape);
    dqt_llama_destroy(t->model);
}

static void make_batch(int32_t *tokens, int32_t *targets, uint64_t seed) {
    for (size_t i = 0; i < 2 * LENGTH; i++)
        tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
    for (size_t i = 0; i < 2 * LENGTH; i++)
        targets[i] = tokens[(i + 1) % (2 * LENGTH)];
}

enum way { SCALED_BY_OPTION, SCALED_BY_HOST, FUSED };

static void train(dqt_context *ctx, struct trained *t, enum way way, float scale, double norms[STEPS]) {
    for (int step = 0; step < STEPS; step++) {
        int32_t tokens[2 * LENGTH], targets[2 * LENGTH];
        dqt_step_options so = DQT_INIT(dqt_step_options);
        dqt_step_stats stats = DQT_INIT(dqt_step_stats);
        float loss;
        so.learning_rate = 0.01f;
        make_batch(tokens, targets, (uint64_t)step + 1);
        OK(ctx, dqt_llama_loss(t->model, t->tape, batch_pairs(tokens, targets, 2, LENGTH), &loss, NULL));
        if (way != SCALED_BY_HOST) so.gradient_scale = scale;
        if (way == FUSED) {
            OK(ctx, dqt_llama_backward_update(t->model, t->tape, t->updater, &so, &stats));
        } else {
            size_t count;
            OK(ctx, dqt_tape_zero_gradients(t->tape));
            OK(ctx, dqt_llama_backward(t->model, t->tape, 1));
            OK(ctx, dqt_tape_get_num_parameters(t->tape, &count));
            for (size_t i = 0; way == SCALED_BY_HOST && i < count; i++) {
                dqt_parameter p = DQT_INIT(dqt_parameter);
                dqt_tensor_info info = DQT_INIT(dqt_tensor_info);
                float *g;
                OK(ctx, dqt_tape_get_parameter(t->tape, i, &p));
                OK(ctx, dqt_tensor_get_info(p.tensor, &info));
                OK(ctx, dqt_tape_gradient_data(t->tape, i, &g));
                for (size_t k = 0; k < info.rows * info.cols; k++)
                    g[k] *= scale;
            }
            OK(ctx, dqt_updater_step(t->updater, t->tape, &so, &stats));
        }
        norms[step] = stats.gradient_norm;
    }
}

static void check_same(dqt_context *ctx, const char *name, const struct trained *a, const struct trained *b) {
    struct memory_file x = memory_new(), y = memory_new();
    OK(ctx, dqt_layers_write(a->layers, a->num_layers, a->updater, memory_write, &x, NULL));
    OK(ctx, dqt_layers_write(b->layers, b->num_layers, b->updater, memory_write, &y, NULL));
    CHECKF(same_bytes(&x, &y), "%s: other codes or state", name);
    free(x.bytes);
    free(y.bytes);
}

static const struct {
    const char *name;
    int32_t optimizer, clip, lagged, train_scale;
} cases[] = {{"sgd", DQT_OPTIMIZER_SGD, DQT_CLIP_NONE, 0, 0},
             {"sgd, global norm", DQT_OPTIMIZER_SGD, DQT_CLIP_GLOBAL_NORM, 0, 0},
             {"sgd, tensor norm", DQT_OPTIMIZER_SGD, DQT_CLIP_TENSOR_NORM, 1, 0},
             {"adamw, previous norm", DQT_OPTIMIZER_ADAMW, DQT_CLIP_PREVIOUS_NORM, 1, 0},
             {"adamw, trained scales", DQT_OPTIMIZER_ADAMW, DQT_CLIP_GLOBAL_NORM, 0, 1},
             {"adafactor", DQT_OPTIMIZER_ADAFACTOR, DQT_CLIP_NONE, 1, 0},
             {"adafactor, global norm", DQT_OPTIMIZER_ADAFACTOR, DQT_CLIP_GLOBAL_NORM, 0, 0},
             {"muon", DQT_OPTIMIZER_MUON, DQT_CLIP_NONE, 0, 0},
             {"muon, global norm", DQT_OPTIMIZER_MUON, DQT_CLIP_GLOBAL_NORM, 0, 0}};

static void as_if_the_gradients_were_scaled(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int s = 0; s < 2; s++) {
            const float scale = s ? 64.0f : 0.125f; /* powers of two: exact */
            double by_option[STEPS], by_host[STEPS], fused[STEPS];
            dqt_updater_options o = DQT_INIT(dqt_updater_options);
            o.optimizer = cases[i].optimizer;
            o.clip = cases[i].clip;
            o.clip_norm = 0.5f;
            o.lagged = cases[i].lagged;
            struct trained a = begin(ctx, &o, cases[i].train_scale), b = begin(ctx, &o, cases[i].train_scale);
            train(ctx, &a, SCALED_BY_OPTION, scale, by_option);
            train(ctx, &b, SCALED_BY_HOST, scale, by_host);
            check_same(ctx, cases[i].name, &a, &b);
            CHECKF(memcmp(by_option, by_host, sizeof by_host) == 0, "%s: norms %g and %g", cases[i].name, by_option[1],
                   by_host[1]);
            if (cases[i].clip != DQT_CLIP_GLOBAL_NORM && cases[i].lagged && cases[i].clip != DQT_CLIP_TENSOR_NORM) {
                struct trained f = begin(ctx, &o, cases[i].train_scale);
                train(ctx, &f, FUSED, scale, fused);
                check_same(ctx, cases[i].name, &a, &f);
                CHECK(memcmp(by_option, fused, sizeof fused) == 0);
                end(&f);
            }
            end(&a);
            end(&b);
        }
    counting_end(ctx, &memory);
}

static const struct test tests[] = {TEST(as_if_the_gradients_were_scaled)};
TEST_MAIN(tests)
