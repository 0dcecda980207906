/* Importing weights that were trained elsewhere: by which rule they become codes, and what the log is told. */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "calls.h"
#include "format/tensor.h"
#include "test.h"

struct messages {
    int info, warning, error;
    char last_info[512], warned[512];
};

static void take_message(void *user_data, int32_t level, const char *message) {
    struct messages *m = user_data;
    m->info += level == DQT_LOG_INFO;
    m->warning += level == DQT_LOG_WARNING;
    m->error += level == DQT_LOG_ERROR;
    if (level == DQT_LOG_INFO) snprintf(m->last_info, sizeof m->last_info, "%s", message);
    if (level == DQT_LOG_WARNING) snprintf(m->warned, sizeof m->warned, "%s", message);
}

static dqt_context *logging_context(struct messages *m, int32_t level) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    *m = (struct messages){0};
    OK(NULL, dqt_context_options_init(&o, sizeof o));
    o.log = take_message;
    o.log_user_data = m;
    o.log_level = level;
    OK(NULL, dqt_context_create(&o, &ctx));
    return ctx;
}

static dqt_llama *create(dqt_context *ctx, int32_t storage, int32_t compute, int32_t rule, int32_t axis) {
    dqt_llama_config c;
    dqt_llama *m = NULL;
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 48;
    c.hidden_size = 64;
    c.intermediate_size = 96;
    c.num_layers = 2;
    c.num_heads = c.num_kv_heads = 2;
    c.linear = c.embedding = c.head = (dqt_tensor_options){.struct_size = sizeof c.linear,
                                                           .storage = storage,
                                                           .compute = compute,
                                                           .scale_rule = rule,
                                                           .scale_axis = axis,
                                                           .group_size = axis == DQT_AXIS_GROUP ? 32 : 0,
                                                           .sigma = 4};
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    return m;
}

enum { MATRICES = 2 * 7 + 2 };

static dqt_tensor *tensor_of(dqt_llama *m, size_t layer, size_t index) {
    dqt_layer *const *layers = NULL;
    size_t count = 0;
    dqt_parameter p = {.struct_size = sizeof p};
    if (dqt_llama_get_layers(m, &layers, &count) != DQT_OK) abort();
    if (dqt_layer_get_parameter(layers[layer], index, &p) != DQT_OK) abort();
    return p.tensor;
}

/* A file of F32 weights with outliers in one matrix, the first of block 1. */
static void write_weights(const char *path) {
    struct messages none;
    dqt_context *ctx = logging_context(&none, 0);
    dqt_llama *m = create(ctx, DQT_FORMAT_F32, DQT_FORMAT_SAME, 0, 0);
    dqt_tensor *t = tensor_of(m, 2, 1);
    for (size_t r = 0; r < t->rows; r++)
        ((float *)(void *)tensor_row(t, r))[r * 7 % t->cols] *= 60;
    OK(ctx, dqt_llama_export_safetensors(m, path, NULL));
    dqt_llama_destroy(m);
    dqt_context_destroy(ctx);
}

static void rules(void) {
    char path[] = "/tmp/dqt-import-XXXXXX";
    close(mkstemp(path));
    write_weights(path);
    static const struct {
        int32_t storage, compute, rule, axis, quantised_by; /* 0: floats stay */
        int warnings;
    } cases[] = {
        {DQT_FORMAT_INT4, 0, DQT_SCALE_AUTO, DQT_AXIS_ROW, DQT_SCALE_ABSMAX, -1},
        {DQT_FORMAT_INT8, 0, DQT_SCALE_AUTO, DQT_AXIS_TENSOR, DQT_SCALE_ABSMAX, 1},
        {DQT_FORMAT_INT4, 0, DQT_SCALE_AUTO, DQT_AXIS_GROUP, DQT_SCALE_MSE, -1},
        {DQT_FORMAT_INT4, 0, DQT_SCALE_MSE, DQT_AXIS_ROW, DQT_SCALE_MSE, 0},
        {DQT_FORMAT_INT4, 0, DQT_SCALE_ABSMAX, DQT_AXIS_ROW, DQT_SCALE_ABSMAX, -1},
        {DQT_FORMAT_INT8, 0, DQT_SCALE_SIGMA, DQT_AXIS_TENSOR, DQT_SCALE_SIGMA, 1},
        {DQT_FORMAT_INT4, 0, DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR, DQT_SCALE_ABSMEAN, 1},
        {DQT_FORMAT_F32, DQT_FORMAT_INT8, DQT_SCALE_AUTO, DQT_AXIS_TENSOR, 0, 1},
        {DQT_FORMAT_F32, DQT_FORMAT_INT4, DQT_SCALE_ABSMEAN, DQT_AXIS_TENSOR, 0, 1},
        {DQT_FORMAT_F32, DQT_FORMAT_INT4, DQT_SCALE_MSE, DQT_AXIS_ROW, 0, 0},
        {DQT_FORMAT_F32, 0, DQT_SCALE_AUTO, DQT_AXIS_TENSOR, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int32_t level = 0; level <= DQT_LOG_INFO; level++) {
            struct messages m;
            dqt_context *ctx = logging_context(&m, level);
            dqt_llama *to = create(ctx, cases[i].storage, cases[i].compute, cases[i].rule, cases[i].axis);
            dqt_tensor *t = tensor_of(to, 2, 1), *expected = NULL;
            dqt_tensor_options o = tensor_options_of(t);
            OK(ctx, dqt_llama_import_safetensors(to, path, NULL));
            const bool codes = cases[i].quantised_by || cases[i].compute;
            CHECKF(m.error == 0 && m.info == (level == DQT_LOG_INFO && codes ? MATRICES : 0), "case %zu: %d", i,
                   m.info);
            const bool warns = level == 0 || level >= DQT_LOG_WARNING; /* 0: the default */
            if (cases[i].warnings >= 0)
                CHECKF(m.warning == (warns ? cases[i].warnings : 0), "case %zu, level %d: %s", i, level, m.warned);
            if (m.warning) CHECKF(strstr(m.warned, "relative error"), "%s", m.warned);
            if (m.info) CHECKF(strstr(m.last_info, "beyond the codes"), "%s", m.last_info);
            if (cases[i].quantised_by) { /* from the floats themselves */
                dqt_llama *floats = create(ctx, DQT_FORMAT_F32, DQT_FORMAT_SAME, 0, 0);
                OK(ctx, dqt_llama_import_safetensors(floats, path, NULL));
                o.scale_rule = cases[i].quantised_by;
                OK(ctx, dqt_tensor_create(ctx, t->rows, t->cols, &o, &expected));
                tensor_quantize(expected, (const float *)(const void *)tensor_of(floats, 2, 1)->data, false, 0);
                CHECK(memcmp(t->data, expected->data, t->data_bytes) == 0 &&
                      memcmp(t->half_scales ? (void *)t->half_scales : t->scales,
                             t->half_scales ? (void *)expected->half_scales : expected->scales,
                             tensor_scale_bytes(t)) == 0);
                dqt_tensor_destroy(expected);
                dqt_llama_destroy(floats);
            }
            /* the rule of what is trained on is what it was, but where layers read codes of their own */
            const dqt_tensor_options said = {
                .storage = cases[i].storage, .compute = cases[i].compute, .scale_rule = cases[i].rule};
            CHECK(t->scale_rule == (cases[i].compute && cases[i].rule == DQT_SCALE_AUTO
                                        ? scale_rule_of_trained(cases[i].axis)
                                        : tensor_scale_rule(&said)));
            m.info = 0; /* what comes back on its grid is not quantised: nothing is told */
            if (cases[i].quantised_by) {
                OK(ctx, dqt_llama_export_safetensors(to, path, NULL));
                OK(ctx, dqt_llama_import_safetensors(to, path, NULL));
                CHECK(m.info == 0);
                write_weights(path);
            }
            dqt_llama_destroy(to);
            dqt_context_destroy(ctx);
        }
    unlink(path);
}

static bool same_floats(const dqt_tensor *a, const dqt_tensor *b) {
    float p[96], q[96];
    bool same = a->rows == b->rows && a->cols == b->cols && a->cols <= 96;
    for (size_t r = 0; r < a->rows && same; r++) {
        tensor_read_floats(a, r, 0, a->cols, p);
        tensor_read_floats(b, r, 0, b->cols, q);
        same = memcmp(p, q, a->cols * sizeof *p) == 0;
    }
    return same;
}

/* Saved and loaded, layers read the same and the rules are the same. */
static void check_saved(dqt_context *ctx, dqt_llama *m, size_t layer, size_t index) {
    char path[] = "/tmp/dqt-import-XXXXXX";
    dqt_llama *back = NULL;
    close(mkstemp(path));
    OK(ctx, dqt_llama_save(m, NULL, path, NULL));
    OK(ctx, load_checkpoint(ctx, path, &back, NULL, NULL, NULL));
    if (back) {
        CHECK(same_floats(tensor_of(m, layer, index), tensor_of(back, layer, index)));
        CHECK(tensor_of(m, layer, index)->scale_rule == tensor_of(back, layer, index)->scale_rule);
    }
    dqt_llama_destroy(back);
    unlink(path);
}

/* What layers read of another storage is made by the rule of import too, where it was left open: at once, after saving
 * and loading, and as the config says. */
static void compute_codes(void) {
    static const int32_t storages[] = {DQT_FORMAT_F32, DQT_FORMAT_BF16, DQT_FORMAT_INT8};
    static const int32_t computes[] = {DQT_FORMAT_INT4, DQT_FORMAT_TERNARY};
    char path[] = "/tmp/dqt-import-XXXXXX";
    struct messages none;
    dqt_context *ctx = logging_context(&none, DQT_LOG_ERROR);
    close(mkstemp(path));
    write_weights(path);
    dqt_llama *floats = create(ctx, DQT_FORMAT_F32, DQT_FORMAT_SAME, 0, 0);
    OK(ctx, dqt_llama_import_safetensors(floats, path, NULL));
    for (int k = 0; k < 3 * 2 * 3 * 2; k++) {
        const int32_t axis = k / 6 % 3, rule = k / 18 ? DQT_SCALE_SIGMA : DQT_SCALE_AUTO;
        const int32_t expected_rule = rule ? rule : axis == DQT_AXIS_GROUP ? DQT_SCALE_MSE : DQT_SCALE_ABSMAX;
        dqt_llama *to = create(ctx, storages[k % 3], computes[k / 3 % 2], rule, axis);
        OK(ctx, dqt_llama_import_safetensors(to, path, NULL));
        dqt_tensor *t = tensor_of(to, 2, 1), *expected = NULL;
        dqt_tensor_options o = tensor_options_of(t);
        o.scale_rule = expected_rule;
        OK(ctx, dqt_tensor_create(ctx, t->rows, t->cols, &o, &expected));
        tensor_quantize(expected, (const float *)(const void *)tensor_of(floats, 2, 1)->data, false, 0);
        CHECKF(same_floats(t, expected), "case %d", k);
        dqt_llama_config c = DQT_INIT(dqt_llama_config);
        OK(ctx, dqt_llama_get_config(to, &c));
        CHECK(c.linear.scale_rule == expected_rule && t->scale_rule == expected_rule);
        check_saved(ctx, to, 2, 1);
        dqt_tensor_destroy(expected);
        dqt_llama_destroy(to);
    }
    dqt_llama_destroy(floats);
    dqt_context_destroy(ctx);
    unlink(path);
}

/* A tied head goes on saying what its embedding does, in the config or in overrides, so that what is saved is loaded.
 */
static void tied_rules(void) {
    const dqt_tensor_options masters = {.struct_size = sizeof masters,
                                        .storage = DQT_FORMAT_F32,
                                        .compute = DQT_FORMAT_INT4,
                                        .scale_axis = DQT_AXIS_ROW};
    const dqt_tensor_override overrides[] = {{"embedding", masters}, {"head", masters}};
    char path[] = "/tmp/dqt-import-XXXXXX";
    struct messages none;
    dqt_context *ctx = logging_context(&none, DQT_LOG_ERROR);
    close(mkstemp(path));
    for (size_t count = 0; count <= 2; count++) {
        dqt_llama_config c = DQT_INIT(dqt_llama_config);
        dqt_llama *m = NULL;
        c.vocab_size = 48;
        c.hidden_size = 64;
        c.tie_embeddings = 1;
        if (count == 0) c.embedding = c.head = masters;
        c.overrides = count ? overrides : NULL;
        c.num_overrides = count;
        OK(ctx, dqt_llama_create(ctx, &c, &m));
        OK(ctx, dqt_llama_export_safetensors(m, path, NULL));
        OK(ctx, dqt_llama_import_safetensors(m, path, NULL));
        OK(ctx, dqt_llama_get_config(m, &c));
        CHECK(tensor_of(m, 0, 0)->scale_rule == DQT_SCALE_ABSMAX);
        CHECK((c.embedding.scale_rule == DQT_SCALE_ABSMAX) == (count == 0));
        for (size_t i = 0; i < count; i++)
            CHECK(c.overrides[i].options.scale_rule == DQT_SCALE_ABSMAX);
        check_saved(ctx, m, 0, 0);
        dqt_llama_destroy(m);
    }
    dqt_context_destroy(ctx);
    unlink(path);
}

static const struct test tests[] = {TEST(rules), TEST(compute_codes), TEST(tied_rules)};
TEST_MAIN(tests)
