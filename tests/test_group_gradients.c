/* A whole model whose matrices have trained scales of groups, with activations that are floats and F32 precision: its
 * loss and gradients are, bit for bit, those of a model of the same weights as floats, whose gradients
 * tests/test_layer_gradients.c compares with differences; and along the scales they agree with differences of the loss.
 */
#include "calls.h"
#include "isa_contexts.h"

enum { BATCH = 2, LENGTH = 19, TOKENS = BATCH * LENGTH, VOCAB = 70 };

struct world {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    int32_t tokens[TOKENS], targets[TOKENS];
};

/* group 0: floats. */
static bool world_open(struct world *w, dqt_context *ctx, int format, int group, size_t hidden, size_t intermediate) {
    dqt_llama_config c;
    dqt_tape_options o;
    dqt_layer *const *layers;
    size_t count;
    *w = (struct world){.ctx = ctx};
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = VOCAB;
    c.hidden_size = hidden;
    c.intermediate_size = intermediate;
    c.num_layers = 1;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.activation = DQT_ACTIVATION_NONE;
    c.linear.storage = group ? format : DQT_FORMAT_F32;
    c.linear.scale_axis = group ? DQT_AXIS_GROUP : DQT_AXIS_TENSOR;
    c.linear.scale_rule = DQT_SCALE_ABSMAX;
    c.linear.group_size = group;
    c.linear.train_scale = group != 0;
    c.embedding = c.head = c.linear;
    OK(ctx, dqt_llama_create(ctx, &c, &w->model));
    if (!w->model) return false;
    OK(ctx, dqt_llama_get_layers(w->model, &layers, &count));
    OK(ctx, dqt_tape_options_init(&o, sizeof o));
    o.precision = DQT_PRECISION_F32;
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    OK(ctx, dqt_tape_create(ctx, layers, count, &o, &w->tape));
    uint64_t seed = 3;
    for (size_t i = 0; i < TOKENS; i++) {
        w->tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
        w->targets[i] = (int32_t)(test_random(&seed) % VOCAB);
    }
    return w->tape != NULL;
}

static void world_close(struct world *w) {
    dqt_tape_destroy(w->tape);
    dqt_llama_destroy(w->model);
}

/* The mean of the tokens' losses, which has more digits than one float. */
static double loss_of(struct world *w) {
    float loss, each[TOKENS];
    double sum = 0;
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, batch_pairs(w->tokens, w->targets, BATCH, LENGTH), &loss, each));
    for (size_t i = 0; i < TOKENS; i++)
        sum += (double)each[i];
    return sum / TOKENS;
}

static void backward(struct world *w) {
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
    loss_of(w);
    OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1.0f));
}

static dqt_parameter parameter(const struct world *w, size_t i, const float **gradient) {
    dqt_parameter p = {.struct_size = sizeof p};
    float *g = NULL;
    OK(w->ctx, dqt_tape_get_parameter(w->tape, i, &p));
    OK(w->ctx, dqt_tape_gradient_data(w->tape, i, &g));
    *gradient = g;
    return p;
}

/* The weights of one as floats in the other; then all gradients. */
static void check_twins(struct world *w, struct world *floats) {
    size_t count;
    const float *g, *want;
    OK(w->ctx, dqt_tape_get_num_parameters(w->tape, &count));
    for (size_t i = 0; i < count; i++) {
        const dqt_parameter p = parameter(w, i, &g), q = parameter(floats, i, &want);
        float *values = malloc(p.rows * p.cols * sizeof *values);
        OK(w->ctx, dqt_tensor_dequantize(p.tensor, 0, p.rows, values));
        OK(w->ctx, dqt_tensor_quantize(q.tensor, values, DQT_ROUND_NEAREST, 0));
        free(values);
    }
    backward(w);
    backward(floats);
    const double a = loss_of(w), b = loss_of(floats);
    CHECKF(memcmp(&a, &b, sizeof a) == 0, "loss %.9g, not %.9g", a, b);
    for (size_t i = 0; i < count; i++) {
        const dqt_parameter p = parameter(w, i, &g);
        parameter(floats, i, &want);
        CHECKF(memcmp(g, want, p.rows * p.cols * sizeof *g) == 0, "gradient of %s", p.name);
    }
}

/* (f(s + h d) - f(s - h d)) / 2h, d the signs. */
static double difference(struct world *w, dqt_tensor *t, const float *scales, const float *signs, size_t num, float h) {
    float *moved = malloc(num * sizeof *moved);
    double f[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < num; i++)
            moved[i] = scales[i] * (1.0f + (side ? -h : h) * signs[i]);
        OK(w->ctx, dqt_tensor_set_scales(t, moved));
        f[side] = loss_of(w);
    }
    OK(w->ctx, dqt_tensor_set_scales(t, scales));
    free(moved);
    return (f[0] - f[1]) / (2 * (double)h);
}

/* Scales move in proportion to themselves: dL/ds s = sum of g q s over the group. */
static void check_scales(struct world *w) {
    size_t count;
    OK(w->ctx, dqt_tape_get_num_parameters(w->tape, &count));
    for (size_t i = 0; i < count; i++) {
        const float *g;
        const dqt_parameter p = parameter(w, i, &g);
        dqt_tensor_info info = {.struct_size = sizeof info};
        OK(w->ctx, dqt_tensor_get_info(p.tensor, &info));
        if (!info.num_scales) continue;
        const size_t num = info.num_scales, group = p.rows * p.cols / num;
        float *scales = malloc(num * sizeof *scales), *signs = malloc(num * sizeof *signs);
        float *values = malloc(p.rows * p.cols * sizeof *values);
        OK(w->ctx, dqt_tensor_get_scales(p.tensor, scales));
        OK(w->ctx, dqt_tensor_dequantize(p.tensor, 0, p.rows, values));
        uint64_t seed = i;
        double expected = 0, norm = 0;
        for (size_t s = 0; s < num; s++) {
            double slope = 0;
            for (size_t k = s * group; k < (s + 1) * group; k++)
                slope += (double)g[k] * (double)values[k];
            signs[s] = test_random(&seed) >> 63 ? 1.0f : -1.0f;
            expected += slope * (double)signs[s];
            norm += slope * slope;
        }
        const float h = 0x1p-6f;
        const double measured =
            (4 * difference(w, p.tensor, scales, signs, num, h) - difference(w, p.tensor, scales, signs, num, 2 * h)) /
            3;
        CHECKF(fabs(measured - expected) <= 0.02 * sqrt(norm), "%s: %.7g measured, %.7g returned, of %.3g", p.name,
               measured, expected, sqrt(norm));
        free(scales);
        free(signs);
        free(values);
    }
}

static void check_model(int isa, int format, int group) {
    dqt_context *ctx = isa_context(isa, 2);
    struct world w, floats;
    if (!ctx) return;
    const size_t hidden = 2 * (size_t)group, intermediate = group == 256 ? 512 : 3 * (size_t)group;
    if (world_open(&w, ctx, format, group, hidden, intermediate) &&
        world_open(&floats, ctx, format, 0, hidden, intermediate)) {
        check_twins(&w, &floats);
        check_scales(&w);
        world_close(&floats);
    }
    world_close(&w);
    dqt_context_destroy(ctx);
}

static void groups_of_32(void) {
    for (size_t i = 0; i < ISA_COUNT; i += 2) /* tests/test_gemm_groups.c has every one */
        check_model(isa_caps[i].isa, DQT_FORMAT_INT4, 32);
}

static void groups_of_128_and_256(void) {
    for (size_t i = 1; i < ISA_COUNT; i += 4) {
        check_model(isa_caps[i].isa, DQT_FORMAT_INT8, 128);
        check_model(isa_caps[i].isa, DQT_FORMAT_TERNARY, 256);
    }
}

static const struct test tests[] = {TEST(groups_of_32), TEST(groups_of_128_and_256)};
TEST_MAIN(tests)
