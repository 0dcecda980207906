/* Files: checkpoints and exchange with other programs. */
#include "api/check.h"
#include "io/checkpoint.h"
#include "io/file.h"
#include "io/gguf.h"
#include "io/safetensors.h"

static dqt_status check_model(const dqt_llama *model) {
    TRY(check_object(model, "model"));
    if (model->config.shape_only) return fail(model->ctx, DQT_E_STATE, "the model is shape-only: it has no weights");
    return DQT_OK;
}

/* The updater's parameters are the model's, in order. */
static dqt_status check_updater(dqt_llama *model, const dqt_updater *updater) {
    size_t k = 0;
    if (!updater) return DQT_OK;
    const size_t count = updater_num_parameters(updater);
    for (size_t i = 0; i < model->num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(model->layers[i]); p++, k++)
            if (k >= count || updater_target(updater, k)->tensor != layer_parameter(model->layers[i], p).tensor)
                return fail(model->ctx, DQT_E_UNSUPPORTED,
                            "the updater's parameters are not the model's, in order: parameter %zu differs", k);
    if (k != count)
        return fail(model->ctx, DQT_E_UNSUPPORTED, "the updater has %zu parameters, the model %zu", count, k);
    return DQT_OK;
}

static dqt_status check_save(dqt_llama *model, const dqt_updater *updater, const void *host, size_t host_size) {
    TRY(check_model(model));
    TRY(check_updater(model, updater));
    return host_size ? check_pointer(model->ctx, host, "host") : DQT_OK;
}

struct save {
    dqt_llama *model;
    dqt_updater *updater;
    const void *host;
    size_t host_size;
};

static dqt_status save_to(void *arg, dqt_write_fn write, void *user_data) {
    const struct save *s = arg;
    return checkpoint_write(s->model, s->updater, s->host, s->host_size, write, user_data);
}

dqt_status dqt_llama_save(dqt_llama *model, dqt_updater *updater, const void *host, size_t host_size,
                          const char *path) {
    TRY(check_save(model, updater, host, host_size));
    TRY(check_pointer(model->ctx, path, "path"));
    struct save s = {model, updater, host, host_size};
    return file_replace(model->ctx, path, save_to, &s);
}

dqt_status dqt_llama_write(dqt_llama *model, dqt_updater *updater, const void *host, size_t host_size,
                           dqt_write_fn write, void *user_data) {
    TRY(check_save(model, updater, host, host_size));
    if (!write) return fail(model->ctx, DQT_E_ARGUMENT, "write is NULL");
    return checkpoint_write(model, updater, host, host_size, write, user_data);
}

static dqt_status check_load(dqt_context *ctx, dqt_llama **model, dqt_updater **updater, void **host,
                             size_t *host_size) {
    if (model) *model = NULL;
    if (updater) *updater = NULL;
    if (host) *host = NULL;
    if (host_size) *host_size = 0;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, model, "model"));
    return host ? check_pointer(ctx, host_size, "host_size") : DQT_OK;
}

static dqt_status load_from(dqt_context *ctx, dqt_read_fn read, void *user_data, uint64_t file_size, dqt_llama **model,
                            dqt_updater **updater, void **host, size_t *host_size) {
    struct checkpoint c;
    TRY(checkpoint_read(ctx, read, user_data, file_size, (struct checkpoint_wanted){updater != NULL, host != NULL},
                        &c));
    *model = c.model;
    if (updater) *updater = c.updater;
    if (host) *host = c.host;
    if (host_size) *host_size = c.host_size;
    return DQT_OK;
}

dqt_status dqt_llama_load(dqt_context *ctx, const char *path, dqt_llama **model, dqt_updater **updater, void **host,
                          size_t *host_size) {
    TRY(check_load(ctx, model, updater, host, host_size));
    TRY(check_pointer(ctx, path, "path"));
    struct input_file file;
    TRY(file_open(ctx, path, &file));
    return file_close(ctx, path, &file, load_from(ctx, file_read, &file, file.size, model, updater, host, host_size));
}

dqt_status dqt_llama_read(dqt_context *ctx, dqt_read_fn read, void *user_data, dqt_llama **model, dqt_updater **updater,
                          void **host, size_t *host_size) {
    TRY(check_load(ctx, model, updater, host, host_size));
    if (!read) return fail(ctx, DQT_E_ARGUMENT, "read is NULL");
    return load_from(ctx, read, user_data, UINT64_MAX, model, updater, host, host_size);
}

void dqt_host_bytes_free(dqt_context *ctx, void *host, size_t host_size) {
    if (ctx) memory_free(ctx, host, host_size);
}

/* ---- GGUF ----------------------------------------------------------------------------------------------------- */

static const dqt_gguf_options gguf_defaults = {.struct_size = sizeof(dqt_gguf_options), .context_length = 2048};

dqt_status dqt_gguf_options_init(dqt_gguf_options *options, size_t struct_size) {
    return options_init(options, struct_size, &gguf_defaults, sizeof gguf_defaults, "dqt_gguf_options");
}

struct gguf_export {
    const dqt_llama *model;
    dqt_gguf_options options;
};

static dqt_status gguf_to(void *arg, dqt_write_fn write, void *user_data) {
    const struct gguf_export *e = arg;
    return gguf_write(e->model, &e->options, write, user_data);
}

dqt_status dqt_llama_export_gguf(const dqt_llama *model, const dqt_gguf_options *options, const char *path) {
    TRY(check_model(model));
    TRY(check_pointer(model->ctx, path, "path"));
    struct gguf_export e = {model, gguf_defaults};
    TRY(options_read(model->ctx, &e.options, sizeof e.options, options, "dqt_gguf_options"));
    return file_replace(model->ctx, path, gguf_to, &e);
}

dqt_status dqt_llama_write_gguf(const dqt_llama *model, const dqt_gguf_options *options, dqt_write_fn write,
                                void *user_data) {
    TRY(check_model(model));
    if (!write) return fail(model->ctx, DQT_E_ARGUMENT, "write is NULL");
    struct gguf_export e = {model, gguf_defaults};
    TRY(options_read(model->ctx, &e.options, sizeof e.options, options, "dqt_gguf_options"));
    return gguf_to(&e, write, user_data);
}

/* ---- safetensors ---------------------------------------------------------------------------------------------- */

static const dqt_safetensors_options safetensors_defaults = {.struct_size = sizeof(dqt_safetensors_options)};

dqt_status dqt_safetensors_options_init(dqt_safetensors_options *options, size_t struct_size) {
    return options_init(options, struct_size, &safetensors_defaults, sizeof safetensors_defaults,
                        "dqt_safetensors_options");
}

struct safetensors_export {
    dqt_llama *model;
    dqt_safetensors_options options;
};

static dqt_status safetensors_to(void *arg, dqt_write_fn write, void *user_data) {
    const struct safetensors_export *e = arg;
    return safetensors_write(e->model, &e->options, write, user_data);
}

static dqt_status prepare_safetensors(dqt_llama *model, const dqt_safetensors_options *options,
                                      struct safetensors_export *e) {
    *e = (struct safetensors_export){model, safetensors_defaults};
    TRY(options_read(model->ctx, &e->options, sizeof e->options, options, "dqt_safetensors_options"));
    if (e->options.reserved) return fail(model->ctx, DQT_E_ARGUMENT, "reserved of dqt_safetensors_options is not 0");
    return DQT_OK;
}

dqt_status dqt_llama_export_safetensors(dqt_llama *model, const dqt_safetensors_options *options, const char *path) {
    TRY(check_model(model));
    TRY(check_pointer(model->ctx, path, "path"));
    struct safetensors_export e;
    TRY(prepare_safetensors(model, options, &e));
    return file_replace(model->ctx, path, safetensors_to, &e);
}

dqt_status dqt_llama_write_safetensors(dqt_llama *model, const dqt_safetensors_options *options, dqt_write_fn write,
                                       void *user_data) {
    TRY(check_model(model));
    if (!write) return fail(model->ctx, DQT_E_ARGUMENT, "write is NULL");
    struct safetensors_export e;
    TRY(prepare_safetensors(model, options, &e));
    return safetensors_to(&e, write, user_data);
}

dqt_status dqt_llama_import_safetensors(dqt_llama *model, const char *path, int32_t rounding, uint64_t seed) {
    TRY(check_model(model));
    TRY(check_pointer(model->ctx, path, "path"));
    if (rounding != DQT_ROUND_STOCHASTIC && rounding != DQT_ROUND_NEAREST)
        return fail(model->ctx, DQT_E_ARGUMENT, "rounding is %d; it must be STOCHASTIC or NEAREST", rounding);
    struct input_file file;
    TRY(file_open(model->ctx, path, &file));
    return file_close(model->ctx, path, &file, safetensors_read(model, &file, rounding == DQT_ROUND_STOCHASTIC, seed));
}
