/* Presets: every recipe makes a model and an updater that train; budgets choose; what is not there is refused. */
#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

static dqt_preset_options asked(int32_t format, float bytes) {
    dqt_preset_options o = DQT_INIT(dqt_preset_options);
    o.format = format;
    o.bytes_per_weight = bytes;
    return o;
}

/* The loss of a repeated text falls; codes and state take what the recipe says. */
static void check_recipe(dqt_context *ctx, const dqt_preset_options *o) {
    enum { LENGTH = 32 };
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    dqt_preset p = DQT_INIT(dqt_preset);
    c.hidden_size = 256;
    c.intermediate_size = 704;
    OK(NULL, dqt_preset_get(o, &c, &u, &p));
    CHECK(c.hidden_size == 256 && c.intermediate_size == 704 && p.learning_rate > 0 && strlen(p.name) > 3);
    dqt_llama *model = NULL;
    dqt_layer *const *layers = NULL;
    size_t n = 0;
    dqt_updater *updater = NULL;
    dqt_tape *tape = NULL;
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    t.max_length = LENGTH;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_tape_create(ctx, layers, n, &t, &tape));
    OK(ctx, dqt_updater_create(ctx, layers, n, &u, &updater));
    dqt_updater_memory_info m = DQT_INIT(dqt_updater_memory_info);
    OK(ctx, dqt_updater_memory(ctx, layers + 1, n - 3, &u, &m));
    dqt_llama_memory_info mm = DQT_INIT(dqt_llama_memory_info);
    OK(ctx, dqt_llama_memory(ctx, &c, &mm));
    const double bytes = (double)(m.momentum + m.variance + m.scales + mm.linear_bytes) / (double)mm.linear_weights;
    CHECKF(fabs(bytes - (double)p.bytes_per_weight) < 0.02 + 0.01 * bytes, "%s: %.3f bytes a weight, not %.3f", p.name,
           bytes, (double)p.bytes_per_weight);
    int32_t tokens[LENGTH], targets[LENGTH];
    for (int i = 0; i < LENGTH; i++) {
        tokens[i] = "abcdefgh"[i % 8];
        targets[i] = "abcdefgh"[(i + 1) % 8];
    }
    float first = 0, loss = 0;
    for (int step = 0; step < 12; step++) {
        OK(ctx, dqt_tape_zero_gradients(tape));
        OK(ctx, dqt_llama_loss(model, tape, batch_pairs(tokens, targets, 1, LENGTH), &loss, NULL));
        if (step == 0) first = loss;
        OK(ctx, dqt_llama_backward(model, tape, 1));
        OK(ctx, dqt_updater_step(updater, tape, step_rate(p.learning_rate), NULL));
    }
    CHECKF(loss < first - 1, "%s: loss %g -> %g", p.name, (double)first, (double)loss);
    dqt_parameter_rule rule = DQT_INIT(dqt_parameter_rule);
    OK(ctx, dqt_updater_get_rule(updater, 2, &rule)); /* q of the first block: its group holds */
    if (u.num_groups && u.groups[0].lr_factor > 0) CHECK(fabsf(rule.lr_factor - u.groups[0].lr_factor) < 1e-6f);
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
}

static void every_recipe(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    static const struct {
        int32_t format;
        float bytes;
    } cases[] = {{0, 0},
                 {DQT_FORMAT_TERNARY, 1.4f},
                 {DQT_FORMAT_INT2, 0},
                 {DQT_FORMAT_INT3, 0},
                 {DQT_FORMAT_INT4, 2},
                 {DQT_FORMAT_INT8, 0},
                 {DQT_FORMAT_INT8, 1.5f},
                 {DQT_FORMAT_F32, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const dqt_preset_options o = asked(cases[i].format, cases[i].bytes);
        check_recipe(ctx, &o);
    }
    counting_end(ctx, &memory);
}

static void budgets(void) {
    dqt_preset p = DQT_INIT(dqt_preset);
    dqt_preset_options o = asked(DQT_FORMAT_INT8, 0);
    OK(NULL, dqt_preset_get(&o, NULL, NULL, &p));
    CHECK(strcmp(p.name, "dqt8-sigma") == 0);
    o = asked(DQT_FORMAT_INT8, 2);
    OK(NULL, dqt_preset_get(&o, NULL, NULL, &p));
    CHECK(strcmp(p.name, "dqt8-one-byte") == 0);
    OK(NULL, dqt_preset_get(NULL, NULL, NULL, &p));
    CHECK(strcmp(p.name, "ternary-best") == 0);
    dqt_llama_config c = DQT_INIT(dqt_llama_config), before = c;
    o = asked(DQT_FORMAT_TERNARY, 1);
    CHECK(dqt_preset_get(&o, &c, NULL, &p) == DQT_E_UNSUPPORTED && memcmp(&c, &before, sizeof c) == 0);
    o = asked(DQT_FORMAT_BF16, 0);
    CHECK(dqt_preset_get(&o, &c, NULL, &p) == DQT_E_UNSUPPORTED);
    o = asked(0, -1);
    CHECK(dqt_preset_get(&o, &c, NULL, &p) == DQT_E_ARGUMENT);
    o = asked(0, NAN);
    CHECK(dqt_preset_get(&o, &c, NULL, &p) == DQT_E_ARGUMENT);
    o = asked(0, 0);
    o.purpose = 2;
    CHECK(dqt_preset_get(&o, &c, NULL, &p) == DQT_E_ARGUMENT);
    o.purpose = DQT_PRESET_FINETUNE;
    CHECK(dqt_preset_get(&o, &c, NULL, &p) == DQT_E_UNSUPPORTED && strstr(dqt_last_error(NULL), "measured"));
    CHECK(dqt_preset_get(NULL, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(memcmp(&c, &before, sizeof c) == 0);
}

static const struct test tests[] = {TEST(every_recipe), TEST(budgets)};
TEST_MAIN(tests)
