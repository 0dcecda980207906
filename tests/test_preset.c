/* Presets: every recipe makes a model and an updater that train; budgets choose; what is not there is refused. */
#define _POSIX_C_SOURCE 200809L
#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

#include <unistd.h>

static dqt_preset_options asked(int32_t format, float bytes) {
    dqt_preset_options o = DQT_INIT(dqt_preset_options);
    o.format = format;
    o.bytes_per_weight = bytes;
    return o;
}

/* Codes and state of matrices take what the recipe says, of 256 columns: of fewer, the scales take more. */
static void check_memory(dqt_context *ctx, const dqt_preset_options *o) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    dqt_preset p = DQT_INIT(dqt_preset);
    c.hidden_size = 256;
    c.intermediate_size = 704;
    OK(NULL, dqt_preset_get(o, &c, &u, &p));
    dqt_llama *model = NULL;
    dqt_layer *const *layers = NULL;
    size_t n = 0;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    dqt_updater_memory_info m = DQT_INIT(dqt_updater_memory_info);
    OK(ctx, dqt_updater_memory(ctx, layers + 1, n - 3, &u, &m));
    dqt_llama_memory_info mm = DQT_INIT(dqt_llama_memory_info);
    OK(ctx, dqt_llama_memory(ctx, &c, &mm));
    const double bytes = (double)(m.momentum + m.variance + m.scales + mm.linear_bytes) / (double)mm.linear_weights;
    CHECKF(fabs(bytes - (double)p.bytes_per_weight) < 0.02 + 0.01 * bytes, "%s: %.3f bytes a weight, not %.3f", p.name,
           bytes, (double)p.bytes_per_weight);
    dqt_llama_destroy(model);
}

/* The loss of a repeated text falls. */
static void check_recipe(dqt_context *ctx, const dqt_preset_options *o, float falls) {
    enum { LENGTH = 32 };
    check_memory(ctx, o);
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    dqt_preset p = DQT_INIT(dqt_preset);
    c.hidden_size = 128;
    c.intermediate_size = 352;
    OK(NULL, dqt_preset_get(o, &c, &u, &p));
    CHECK(c.hidden_size == 128 && c.intermediate_size == 352 && p.learning_rate > 0 && strlen(p.name) > 3);
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
    CHECKF(loss < first - falls, "%s: loss %g -> %g", p.name, (double)first, (double)loss);
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
        check_recipe(ctx, &o, 1);
    }
    dqt_preset_options tune = asked(DQT_FORMAT_INT4, 1.6f);
    tune.purpose = DQT_PRESET_FINETUNE;
    check_recipe(ctx, &tune, 0);
    tune.format = DQT_FORMAT_INT8;
    tune.bytes_per_weight = 0;
    check_recipe(ctx, &tune, 0);
    counting_end(ctx, &memory);
}

/* ---- Fine-tuning --------------------------------------------------------------------------------------------- */

enum { LENGTH = 64 };
struct network {
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
};

static struct network network_new(dqt_context *ctx, const dqt_llama_config *c, const dqt_updater_options *u) {
    struct network n = {NULL, NULL, NULL};
    dqt_layer *const *layers = NULL;
    size_t count = 0;
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    t.max_length = LENGTH;
    OK(ctx, dqt_llama_create(ctx, c, &n.model));
    OK(ctx, dqt_llama_get_layers(n.model, &layers, &count));
    OK(ctx, dqt_tape_create(ctx, layers, count, &t, &n.tape));
    OK(ctx, dqt_updater_create(ctx, layers, count, u, &n.updater));
    return n;
}

static void network_end(struct network *n) {
    dqt_updater_destroy(n->updater);
    dqt_tape_destroy(n->tape);
    dqt_llama_destroy(n->model);
}

/* Steps on a text that repeats; the loss before the last one. */
static float learn(dqt_context *ctx, const struct network *n, const char *text, int steps, float rate) {
    int32_t tokens[LENGTH], targets[LENGTH];
    float loss = 0;
    for (size_t i = 0; i < LENGTH; i++) {
        tokens[i] = text[i % strlen(text)];
        targets[i] = text[(i + 1) % strlen(text)];
    }
    for (int step = 0; step < steps; step++) {
        OK(ctx, dqt_tape_zero_gradients(n->tape));
        OK(ctx, dqt_llama_loss(n->model, n->tape, batch_pairs(tokens, targets, 1, LENGTH), &loss, NULL));
        OK(ctx, dqt_llama_backward(n->model, n->tape, 1));
        OK(ctx, dqt_updater_step(n->updater, n->tape, step_rate(rate), NULL));
    }
    return loss;
}

/* A float model that learned a text, some of whose weights were made outliers: quantised as the recipe says it still
 * knows the text, as scales that suit untrained weights do not, and learns another; state takes what the recipe says.
 */
static void fine_tuning(void) {
    static const char before[] = "sphinx of black quartz, judge my vow. ", after[] = "the five boxing wizards jump. ";
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    c.hidden_size = 64;
    c.intermediate_size = 192;
    c.no_sub_norms = 1;
    c.linear.storage = c.embedding.storage = c.head.storage = DQT_FORMAT_F32;
    struct network trained = network_new(ctx, &c, &u);
    char path[] = "/tmp/dqt-preset-XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0);
    dqt_parameter p = DQT_INIT(dqt_parameter);
    for (size_t i = 0; i < 7; i++) {
        void *data = NULL;
        size_t bytes = 0;
        OK(ctx, dqt_tape_get_parameter(trained.tape, 3 + i, &p));
        OK(ctx, dqt_tensor_data(p.tensor, &data, &bytes));
        if (p.rows > 1) ((float *)data)[p.cols + i] = 4; /* 200 times the others */
    }
    learn(ctx, &trained, before, 150, 0.003f);
    const float known = learn(ctx, &trained, before, 1, 0);
    OK(ctx, dqt_llama_export_safetensors(trained.model, path, NULL));
    static const int32_t formats[] = {0, DQT_FORMAT_INT8};
    for (size_t i = 0; i < 2; i++) {
        dqt_preset_options o = asked(formats[i], 0);
        dqt_preset preset = DQT_INIT(dqt_preset);
        o.purpose = DQT_PRESET_FINETUNE;
        OK(NULL, dqt_preset_get(&o, &c, &u, &preset));
        CHECK(c.hidden_size == 64 && c.no_sub_norms == 1);
        CHECK(c.linear.storage == (i ? DQT_FORMAT_INT8 : DQT_FORMAT_INT4) && c.linear.scale_axis == DQT_AXIS_ROW);
        struct network tuned = network_new(ctx, &c, &u);
        OK(ctx, dqt_llama_import_safetensors(tuned.model, path, NULL));
        const float start = learn(ctx, &tuned, before, 1, 0), first = learn(ctx, &tuned, after, 1, 0);
        const float last = learn(ctx, &tuned, after, 40, preset.learning_rate);
        dqt_llama_config plain = c;
        plain.linear.scale_rule = DQT_SCALE_SIGMA;
        plain.linear.scale_axis = DQT_AXIS_TENSOR;
        struct network cut = network_new(ctx, &plain, &u);
        OK(ctx, dqt_llama_import_safetensors(cut.model, path, NULL));
        const float lost = learn(ctx, &cut, before, 1, 0);
        CHECKF(start < 1.4f * known && lost > 1.7f * known, "%s: %g of %g, SIGMA scales %g", preset.name, (double)start,
               (double)known, (double)lost);
        CHECKF(last < 0.1f * first, "%s: the new text's loss goes from %g to %g", preset.name, (double)first,
               (double)last);
        network_end(&cut);
        network_end(&tuned);
    }
    network_end(&trained);
    close(file);
    unlink(path);
    counting_end(ctx, &memory);
}

/* The rate of the recipes for trained weights falls as 1 / hidden_size; that of others is the table's up to 256, and
 * falls so above. */
static void rates(void) {
    static const size_t widths[] = {0, 64, 256, 576, 4096};
    dqt_preset p = DQT_INIT(dqt_preset), plain = DQT_INIT(dqt_preset);
    for (int32_t format = DQT_FORMAT_INT4;; format = DQT_FORMAT_INT8) {
        dqt_preset_options o = asked(format, 0);
        OK(NULL, dqt_preset_get(&o, NULL, NULL, &plain));
        for (size_t i = 0; i < 5; i++) {
            dqt_llama_config c = DQT_INIT(dqt_llama_config);
            c.hidden_size = widths[i];
            o.purpose = DQT_PRESET_PRETRAIN;
            OK(NULL, dqt_preset_get(&o, &c, NULL, &p));
            const float narrow = plain.learning_rate, wide = widths[i] > 256 ? 256 / (float)widths[i] * narrow : narrow;
            CHECKF(fabsf(p.learning_rate - wide) <= 1e-6f * wide, "%zu: %g", widths[i], (double)p.learning_rate);
            if (widths[i] <= 256) CHECK(memcmp(&p.learning_rate, &narrow, sizeof narrow) == 0);
            o.purpose = DQT_PRESET_FINETUNE;
            OK(NULL, dqt_preset_get(&o, &c, NULL, &p));
            const float width = widths[i] ? (float)widths[i] : 128, expected = 0.1152f / width;
            CHECKF(fabsf(p.learning_rate - expected) < 1e-6f * expected, "%zu: %g", widths[i], (double)p.learning_rate);
        }
        OK(NULL, dqt_preset_get(&o, NULL, NULL, &p));
        CHECK(fabsf(p.learning_rate - 9e-4f) < 1e-9f);
        if (format == DQT_FORMAT_INT8) break;
    }
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
    CHECK(strcmp(p.name, "ternary-acc") == 0);
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
    o = asked(DQT_FORMAT_TERNARY, 0);
    o.purpose = DQT_PRESET_FINETUNE;
    CHECK(dqt_preset_get(&o, &c, NULL, &p) == DQT_E_UNSUPPORTED);
    o = asked(0, 1.5f);
    o.purpose = DQT_PRESET_FINETUNE;
    CHECK(dqt_preset_get(&o, &c, NULL, &p) == DQT_E_UNSUPPORTED);
    CHECK(dqt_preset_get(NULL, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(memcmp(&c, &before, sizeof c) == 0);
}

static const struct test tests[] = {TEST(every_recipe), TEST(fine_tuning), TEST(rates), TEST(budgets)};
TEST_MAIN(tests)
