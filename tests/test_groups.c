/* Groups in an updater's options: rules and optimisers by parameter, with exactly the state that each needs. */
#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

enum { IN = 24, OUT = 12, T = 6 };

struct net {
    dqt_layer *layers[3]; /* linear, norm, linear */
    dqt_tape *tape;
    dqt_updater *updater;
};

static struct net open_net(dqt_context *ctx, const dqt_updater_options *u) {
    struct net n;
    dqt_layer_options o;
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    OK(ctx, dqt_layer_options_init(&o, sizeof o));
    o.weight.storage = DQT_FORMAT_INT4;
    o.name = "first";
    OK(ctx, dqt_linear_create(ctx, IN, OUT, &o, &n.layers[0]));
    o.name = "norm";
    OK(ctx, dqt_rmsnorm_create(ctx, OUT, &o, &n.layers[1]));
    o.name = "second";
    OK(ctx, dqt_linear_create(ctx, OUT, IN, &o, &n.layers[2]));
    t.max_length = T;
    OK(ctx, dqt_tape_create(ctx, n.layers, 3, &t, &n.tape));
    OK(ctx, dqt_updater_create(ctx, n.layers, 3, u, &n.updater));
    return n;
}

static void close_net(struct net *n) {
    dqt_updater_destroy(n->updater);
    dqt_tape_destroy(n->tape);
    for (int i = 0; i < 3; i++)
        dqt_layer_destroy(n->layers[i]);
}

/* Steps towards y = x. */
static void train(dqt_context *ctx, struct net *n, int steps) {
    float x[T * IN], h[T * OUT], y[T * IN];
    for (int s = 0; s < steps; s++) {
        for (int i = 0; i < T * IN; i++)
            x[i] = (float)((i * 37 + s * 11) % 17 - 8) / 8;
        OK(ctx, dqt_tape_zero_gradients(n->tape));
        OK(ctx, dqt_layer_forward(n->layers[0], n->tape, batch_shape(1, T), x, h));
        OK(ctx, dqt_layer_forward(n->layers[1], n->tape, batch_shape(1, T), h, h));
        OK(ctx, dqt_layer_forward(n->layers[2], n->tape, batch_shape(1, T), h, y));
        for (int i = 0; i < T * IN; i++)
            y[i] -= x[i];
        OK(ctx, dqt_layer_backward(n->layers[2], n->tape, y, h));
        OK(ctx, dqt_layer_backward(n->layers[1], n->tape, h, h));
        OK(ctx, dqt_layer_backward(n->layers[0], n->tape, h, NULL));
        OK(ctx, dqt_updater_step(n->updater, n->tape, step_rate(0.01f), NULL));
    }
}

static void codes_of_layer(dqt_context *ctx, dqt_layer *l, int8_t codes[IN * OUT]) {
    dqt_parameter p = DQT_INIT(dqt_parameter);
    OK(ctx, dqt_layer_get_parameter(l, 0, &p));
    OK(ctx, dqt_tensor_get_codes(p.tensor, 0, p.rows, codes));
}

/* One optimiser for each layer by groups: the first moves as under that optimiser for all. */
static void optimizers_by_group(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    const dqt_group_options groups[] = {
        {.struct_size = sizeof groups[0], .pattern = "first", .optimizer = DQT_OPTIMIZER_ADAFACTOR},
        {.struct_size = sizeof groups[0], .parameter_class = DQT_CLASS_NORM, .freeze = 1},
        {.struct_size = sizeof groups[0], .pattern = "sec*", .optimizer = DQT_OPTIMIZER_SGD, .beta1 = 0.5f},
    };
    dqt_updater_options u = DQT_INIT(dqt_updater_options), all = DQT_INIT(dqt_updater_options);
    u.clip = all.clip = DQT_CLIP_NONE;
    u.groups = groups;
    u.num_groups = 3;
    all.optimizer = DQT_OPTIMIZER_ADAFACTOR;
    struct net n = open_net(ctx, &u), same = open_net(ctx, &all);
    static const struct {
        int32_t optimizer, frozen;
        float beta1;
    } expected[] = {{DQT_OPTIMIZER_ADAFACTOR, 0, 0.8f}, {DQT_OPTIMIZER_ADAMW, 1, 0.8f}, {DQT_OPTIMIZER_SGD, 0, 0.5f}};
    for (size_t i = 0; i < 3; i++) {
        dqt_parameter_rule r = DQT_INIT(dqt_parameter_rule);
        OK(ctx, dqt_updater_get_rule(n.updater, i, &r));
        CHECKF(r.optimizer == expected[i].optimizer && r.frozen == expected[i].frozen &&
                   fabsf(r.beta1 - expected[i].beta1) < 1e-6f && r.rounding == DQT_ROUND_ECO_STOCHASTIC,
               "rule %zu: optimizer %d, frozen %d, beta1 %g, rounding %d", i, r.optimizer, r.frozen, (double)r.beta1,
               r.rounding);
    }
    /* first: row and column statistics, 12 and 24 floats; norm: AdamW's v of 12 gains; second: nothing, with SGD */
    dqt_updater_memory_info m = DQT_INIT(dqt_updater_memory_info);
    OK(ctx, dqt_updater_memory(ctx, n.layers, 3, &u, &m));
    const size_t line = 64;
    CHECKF(m.variance == 4 * line && m.momentum == 2 * IN * OUT * sizeof(float) + line, "variance %zu, momentum %zu",
           m.variance, m.momentum);
    train(ctx, &n, 1);
    train(ctx, &same, 1);
    int8_t a[IN * OUT], b[IN * OUT];
    codes_of_layer(ctx, n.layers[0], a);
    codes_of_layer(ctx, same.layers[0], b);
    CHECK(memcmp(a, b, sizeof a) == 0);
    codes_of_layer(ctx, n.layers[2], a);
    codes_of_layer(ctx, same.layers[2], b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    close_net(&n);
    close_net(&same);
    counting_end(ctx, &memory);
}

static void mistakes(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    struct net n = open_net(ctx, NULL);
    dqt_updater *out = NULL;
    dqt_group_options groups[2] = {{.struct_size = sizeof groups[0]}, {.struct_size = sizeof groups[0]}};
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    u.groups = groups;
    CHECK(dqt_updater_create(ctx, n.layers, 3, &u, &out) == DQT_E_ARGUMENT &&
          strstr(dqt_last_error(ctx), "num_groups"));
    u.num_groups = 2;
    OK(ctx, dqt_updater_create(ctx, n.layers, 3, &u, &out)); /* zeros say nothing */
    dqt_updater_destroy(out);
    groups[1].optimizer = 99;
    CHECK(dqt_updater_create(ctx, n.layers, 3, &u, &out) == DQT_E_ARGUMENT && strstr(dqt_last_error(ctx), "groups[1]"));
    groups[1].optimizer = 0;
    groups[1].rounding = 99;
    CHECK(dqt_updater_create(ctx, n.layers, 3, &u, &out) == DQT_E_ARGUMENT && strstr(dqt_last_error(ctx), "rounding"));
    groups[1].rounding = 0;
    groups[1].struct_size = 12;
    CHECK(dqt_updater_create(ctx, n.layers, 3, &u, &out) == DQT_E_ARGUMENT &&
          strstr(dqt_last_error(ctx), "struct_size"));
    groups[1].struct_size = sizeof groups[1];
    groups[0].beta1 = 0.9f;
    u.beta1 = -1;
    CHECK(dqt_updater_create(ctx, n.layers, 3, &u, &out) == DQT_E_UNSUPPORTED && !out);
    close_net(&n);
    counting_end(ctx, &memory);
}

static dqt_parameter_rule rule_after(struct net *n, dqt_context *ctx, dqt_group_options group) {
    dqt_parameter_rule rule = DQT_INIT(dqt_parameter_rule);
    size_t matched = 0;
    group.struct_size = sizeof group;
    OK(ctx, dqt_updater_add_group(n->updater, &group, &matched));
    CHECK(matched == 3);
    OK(ctx, dqt_updater_get_rule(n->updater, 0, &rule));
    return rule;
}

/* A member that is 0 keeps what holds, and each other one changes itself alone. */
static void zeros_keep(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    u.weight_decay = 0.25f;
    struct net n = open_net(ctx, &u);
    const dqt_group_options steps[] = {{.pattern = "*"}, {.lr_factor = 0.5f},    {.beta1 = 0.75f},
                                       {.freeze = 1},    {.weight_decay = -1},   {.rounding = DQT_ROUND_ECO_NEAREST},
                                       {.freeze = -1},   {.weight_decay = 0.5f}, {.rounding_noise = 0.5f}};
    dqt_parameter_rule expected = DQT_INIT(dqt_parameter_rule);
    OK(ctx, dqt_updater_get_rule(n.updater, 0, &expected));
    CHECK(expected.rounding == DQT_ROUND_ECO_STOCHASTIC && expected.frozen == 0);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].lr_factor != 0) expected.lr_factor = steps[i].lr_factor;
        if (steps[i].beta1 != 0) expected.beta1 = steps[i].beta1;
        if (steps[i].freeze != 0) expected.frozen = steps[i].freeze > 0;
        if (steps[i].weight_decay != 0) expected.weight_decay = steps[i].weight_decay > 0 ? steps[i].weight_decay : 0;
        if (steps[i].rounding != 0) expected.rounding = steps[i].rounding;
        if (steps[i].rounding_noise != 0) expected.rounding_noise = steps[i].rounding_noise;
        for (int again = 0; again < 2; again++) { /* a group of zeros is no change */
            const dqt_parameter_rule rule = rule_after(&n, ctx, again ? (dqt_group_options){0} : steps[i]);
            CHECKF(!memcmp(&rule, &expected, sizeof rule), "after group %zu, again %d", i, again);
        }
    }
    train(ctx, &n, 1);
    close_net(&n);
    counting_end(ctx, &memory);
}

static const struct test tests[] = {TEST(optimizers_by_group), TEST(mistakes), TEST(zeros_keep)};
TEST_MAIN(tests)
