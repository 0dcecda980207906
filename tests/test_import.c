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
        {DQT_FORMAT_F32, DQT_FORMAT_INT4, DQT_SCALE_AUTO, DQT_AXIS_TENSOR, 0, 1},
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
            /* the rule of what is trained on is what it was */
            CHECK(t->scale_rule == tensor_scale_rule(&(dqt_tensor_options){.storage = cases[i].storage,
                                                                           .compute = cases[i].compute,
                                                                           .scale_rule = cases[i].rule}));
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

static const struct test tests[] = {TEST(rules)};
TEST_MAIN(tests)
