/* Files: checkpoints and exchange with other programs. */
#include "api/check.h"
#include "core/fpenv.h"
#include "io/checkpoint.h"
#include "io/file.h"
#include "io/foreign.h"
#include "io/gguf.h"
#include "io/safetensors.h"

/* Layers of one context, and an updater (or none) of exactly their parameters, in order. */
static dqt_status check_layers(dqt_layer *const *layers, size_t num_layers, const dqt_updater *updater) {
    TRY(check_idle(updater));
    TRY(check_object(layers, "layers"));
    if (num_layers == 0) return fail(NULL, DQT_E_ARGUMENT, "num_layers is 0; there must be at least one layer");
    TRY(check_object(layers[0], "layers[0]"));
    const dqt_context *ctx = layers[0]->ctx;
    const size_t count = updater ? updater_num_parameters(updater) : 0;
    size_t k = 0;
    for (size_t i = 0; i < num_layers; i++) {
        if (!layers[i]) return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] is NULL", i);
        if (layers[i]->ctx != ctx) return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] belongs to another context", i);
        for (size_t p = 0; p < layer_num_parameters(layers[i]); p++, k++) {
            const struct update_target target = layer_parameter(layers[i], p);
            if (!target.tensor->data) return fail(ctx, DQT_E_STATE, "layers[%zu] is shape-only: it has no weights", i);
            if (updater && (k >= count || updater_target(updater, k)->tensor != target.tensor))
                return fail(ctx, DQT_E_UNSUPPORTED,
                            "the updater's parameters are not those of the layers, in order: parameter %zu differs", k);
        }
    }
    if (updater && k != count)
        return fail(ctx, DQT_E_UNSUPPORTED, "the updater has %zu parameters, the layers %zu", count, k);
    return DQT_OK;
}

struct save {
    dqt_context *ctx;
    struct checkpoint_source from;
};

static const dqt_save_options save_defaults = {.struct_size = sizeof(dqt_save_options)};
static const dqt_load_options load_defaults = {.struct_size = sizeof(dqt_load_options)};

dqt_status dqt_save_options_init(dqt_save_options *options, size_t struct_size) {
    FPENV_DEFAULT();
    return options_init(options, struct_size, &save_defaults, sizeof save_defaults, "dqt_save_options");
}

dqt_status dqt_load_options_init(dqt_load_options *options, size_t struct_size) {
    FPENV_DEFAULT();
    return options_init(options, struct_size, &load_defaults, sizeof load_defaults, "dqt_load_options");
}

static dqt_status prepare_save(dqt_layer *const *layers, size_t num_layers, const dqt_updater *updater,
                               const dqt_save_options *options, struct save *s) {
    TRY(check_layers(layers, num_layers, updater));
    dqt_context *ctx = layers[0]->ctx;
    dqt_save_options o = save_defaults;
    TRY(options_read(ctx, &o, sizeof o, options, "dqt_save_options"));
    if (o.reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_save_options is not 0");
    if (o.host_size) TRY(check_pointer(ctx, o.host, "host"));
    *s = (struct save){ctx,
                       {.layers = layers,
                        .num_layers = num_layers,
                        .updater = updater,
                        .host = o.host,
                        .host_size = o.host_size,
                        .pass = o.tape ? o.tape->pass : 0,
                        .read_part = o.read_part,
                        .part_user_data = o.part_user_data}};
    return DQT_OK;
}

static dqt_status save_to(void *arg, dqt_write_fn write, void *user_data) {
    const struct save *s = arg;
    return checkpoint_write(s->ctx, &s->from, write, user_data);
}

static dqt_status save_path(struct save *s, const char *path) {
    TRY(check_pointer(s->ctx, path, "path"));
    return file_replace(s->ctx, path, save_to, s);
}

static dqt_status save_stream(struct save *s, dqt_write_fn write, void *user_data) {
    return write ? save_to(s, write, user_data) : fail(s->ctx, DQT_E_ARGUMENT, "write is NULL");
}

static dqt_status prepare_model(const dqt_llama *model, const dqt_updater *updater, const dqt_save_options *options,
                                struct save *s) {
    TRY(check_model(model));
    TRY(prepare_save(model->layers, model->num_layers, updater, options, s));
    s->from.model = model;
    if (s->from.read_part && !llama_has_embedding(&model->config))
        return fail(model->ctx, DQT_E_ARGUMENT,
                    "read_part is set, but this partial model begins at block %zu: the one with the embedding saves",
                    model->config.first_block);
    return DQT_OK;
}

dqt_status dqt_llama_save(const dqt_llama *model, const dqt_updater *updater, const char *path,
                          const dqt_save_options *options) {
    FPENV_DEFAULT();
    struct save s;
    TRY(prepare_model(model, updater, options, &s));
    return save_path(&s, path);
}

dqt_status dqt_llama_write(const dqt_llama *model, const dqt_updater *updater, dqt_write_fn write, void *user_data,
                           const dqt_save_options *options) {
    FPENV_DEFAULT();
    struct save s;
    TRY(prepare_model(model, updater, options, &s));
    return save_stream(&s, write, user_data);
}

dqt_status dqt_layers_save(dqt_layer *const *layers, size_t num_layers, const dqt_updater *updater, const char *path,
                           const dqt_save_options *options) {
    FPENV_DEFAULT();
    struct save s;
    TRY(prepare_save(layers, num_layers, updater, options, &s));
    return save_path(&s, path);
}

dqt_status dqt_layers_write(dqt_layer *const *layers, size_t num_layers, const dqt_updater *updater, dqt_write_fn write,
                            void *user_data, const dqt_save_options *options) {
    FPENV_DEFAULT();
    struct save s;
    TRY(prepare_save(layers, num_layers, updater, options, &s));
    return save_stream(&s, write, user_data);
}

dqt_status dqt_updater_write(const dqt_updater *updater, dqt_write_fn write, void *user_data) {
    FPENV_DEFAULT();
    TRY(check_object(updater, "updater"));
    TRY(check_idle(updater));
    struct save s = {updater_context(updater), {.updater = updater}};
    return save_stream(&s, write, user_data);
}

dqt_status dqt_llama_write_part(const dqt_llama *model, const dqt_updater *updater, dqt_write_fn write,
                                void *user_data) {
    FPENV_DEFAULT();
    TRY(check_model(model));
    TRY(check_layers(model->layers, model->num_layers, updater));
    if (!write) return fail(model->ctx, DQT_E_ARGUMENT, "write is NULL");
    if (!llama_is_partial(&model->config))
        return fail(model->ctx, DQT_E_UNSUPPORTED, "the model is whole: it is no part of another");
    return checkpoint_write_stage(model, updater, write, user_data);
}

dqt_status dqt_updater_write_part(const dqt_updater *updater, dqt_write_fn write, void *user_data) {
    FPENV_DEFAULT();
    TRY(check_object(updater, "updater"));
    TRY(check_idle(updater));
    dqt_context *ctx = updater_context(updater);
    if (!write) return fail(ctx, DQT_E_ARGUMENT, "write is NULL");
    if (updater_options(updater)->num_parts == 0)
        return fail(ctx, DQT_E_UNSUPPORTED, "the updater is of all rows: it is no part of several");
    return checkpoint_write_part(updater, write, user_data);
}

/* Options and the result struct, which is emptied first. */
static dqt_status prepare_load(dqt_context *ctx, const dqt_load_options *options, dqt_checkpoint *out,
                               dqt_load_options *o) {
    const dqt_checkpoint nothing = {.struct_size = sizeof nothing};
    TRY(check_object(ctx, "ctx"));
    TRY(options_return(ctx, out, &nothing, sizeof nothing, "dqt_checkpoint"));
    *o = load_defaults;
    TRY(options_read(ctx, o, sizeof *o, options, "dqt_load_options"));
    if (o->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_load_options is not 0");
    if ((o->skip_updater | o->skip_host) & ~1)
        return fail(ctx, DQT_E_ARGUMENT, "skip_updater %d and skip_host %d must be 0 or 1", o->skip_updater,
                    o->skip_host);
    TRY(updater_check_part(ctx, o->part, o->num_parts));
    if (o->num_parts == 1) o->num_parts = 0;
    return DQT_OK;
}

static dqt_status load_from(dqt_context *ctx, dqt_read_fn read, void *user_data, uint64_t file_size,
                            const dqt_load_options *o, dqt_checkpoint *out) {
    struct checkpoint c;
    const struct checkpoint_wanted wanted = {!o->skip_updater, !o->skip_host,  o->part,
                                             o->num_parts,     o->first_block, o->num_blocks};
    TRY(checkpoint_read(ctx, read, user_data, file_size, wanted, &c));
    const dqt_checkpoint result = {.struct_size = sizeof result,
                                   .model = c.model,
                                   .updater = c.updater,
                                   .host = c.host,
                                   .host_size = c.host_size,
                                   .passes = c.pass};
    return options_return(ctx, out, &result, sizeof result, "dqt_checkpoint");
}

dqt_status dqt_llama_load(dqt_context *ctx, const char *path, const dqt_load_options *options, dqt_checkpoint *out) {
    FPENV_DEFAULT();
    dqt_load_options o;
    TRY(prepare_load(ctx, options, out, &o));
    TRY(check_pointer(ctx, path, "path"));
    struct input_file file;
    TRY(file_open(ctx, path, &file));
    return file_close(ctx, path, &file, load_from(ctx, file_read, &file, file.size, &o, out));
}

dqt_status dqt_llama_read(dqt_context *ctx, dqt_read_fn read, void *user_data, const dqt_load_options *options,
                          dqt_checkpoint *out) {
    FPENV_DEFAULT();
    dqt_load_options o;
    TRY(prepare_load(ctx, options, out, &o));
    if (!read) return fail(ctx, DQT_E_ARGUMENT, "read is NULL");
    return load_from(ctx, read, user_data, UINT64_MAX, &o, out);
}

/* Where a result struct that is not wanted would be. */
static dqt_status prepare_load_into(dqt_layer *const *layers, size_t num_layers, const dqt_updater *updater,
                                    const dqt_load_options *options, dqt_checkpoint *out, dqt_load_options *o) {
    dqt_checkpoint unwanted = {.struct_size = sizeof unwanted};
    TRY(check_layers(layers, num_layers, updater));
    TRY(prepare_load(layers[0]->ctx, options, out ? out : &unwanted, o));
    if (!out) o->skip_host = 1;
    if (o->first_block || o->num_blocks)
        return fail(layers[0]->ctx, DQT_E_ARGUMENT, "first_block %zu and num_blocks %zu are of dqt_llama_load",
                    o->first_block, o->num_blocks);
    if (o->num_parts == 0) return DQT_OK;
    return fail(layers[0]->ctx, DQT_E_ARGUMENT, "num_parts is %llu; the updater that is there says of which part it is",
                (unsigned long long)o->num_parts);
}

static dqt_status load_into(dqt_layer *const *layers, size_t num_layers, dqt_updater *updater, dqt_read_fn read,
                            void *user_data, uint64_t file_size, const dqt_load_options *o, dqt_checkpoint *out) {
    dqt_context *ctx = layers[0]->ctx;
    struct checkpoint c;
    TRY(checkpoint_read_into(ctx, read, user_data, file_size, layers, num_layers, o->skip_updater ? NULL : updater,
                             !o->skip_host, &c));
    if (!out) return DQT_OK;
    const dqt_checkpoint result = {
        .struct_size = sizeof result, .host = c.host, .host_size = c.host_size, .passes = c.pass};
    return options_return(ctx, out, &result, sizeof result, "dqt_checkpoint");
}

dqt_status dqt_layers_load(dqt_layer *const *layers, size_t num_layers, dqt_updater *updater, const char *path,
                           const dqt_load_options *options, dqt_checkpoint *out) {
    FPENV_DEFAULT();
    dqt_load_options o;
    TRY(prepare_load_into(layers, num_layers, updater, options, out, &o));
    dqt_context *ctx = layers[0]->ctx;
    TRY(check_pointer(ctx, path, "path"));
    struct input_file file;
    TRY(file_open(ctx, path, &file));
    return file_close(ctx, path, &file, load_into(layers, num_layers, updater, file_read, &file, file.size, &o, out));
}

dqt_status dqt_layers_read(dqt_layer *const *layers, size_t num_layers, dqt_updater *updater, dqt_read_fn read,
                           void *user_data, const dqt_load_options *options, dqt_checkpoint *out) {
    FPENV_DEFAULT();
    dqt_load_options o;
    TRY(prepare_load_into(layers, num_layers, updater, options, out, &o));
    if (!read) return fail(layers[0]->ctx, DQT_E_ARGUMENT, "read is NULL");
    return load_into(layers, num_layers, updater, read, user_data, UINT64_MAX, &o, out);
}

dqt_status dqt_updater_read(dqt_updater *updater, dqt_read_fn read, void *user_data) {
    FPENV_DEFAULT();
    TRY(check_object(updater, "updater"));
    TRY(check_idle(updater));
    dqt_context *ctx = updater_context(updater);
    if (!read) return fail(ctx, DQT_E_ARGUMENT, "read is NULL");
    struct checkpoint c;
    return checkpoint_read_into(ctx, read, user_data, UINT64_MAX, NULL, 0, updater, false, &c);
}

void dqt_host_bytes_free(dqt_context *ctx, void *host, size_t host_size) {
    if (ctx) memory_free(ctx, host, host_size);
}

/* ---- GGUF ----------------------------------------------------------------------------------------------------- */

static const dqt_gguf_options gguf_defaults = {.struct_size = sizeof(dqt_gguf_options)};

dqt_status dqt_gguf_options_init(dqt_gguf_options *options, size_t struct_size) {
    FPENV_DEFAULT();
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

dqt_status dqt_llama_export_gguf(const dqt_llama *model, const char *path, const dqt_gguf_options *options) {
    FPENV_DEFAULT();
    TRY(check_whole_model(model));
    TRY(check_model(model));
    TRY(check_pointer(model->ctx, path, "path"));
    struct gguf_export e = {model, gguf_defaults};
    TRY(options_read(model->ctx, &e.options, sizeof e.options, options, "dqt_gguf_options"));
    return file_replace(model->ctx, path, gguf_to, &e);
}

dqt_status dqt_llama_write_gguf(const dqt_llama *model, dqt_write_fn write, void *user_data,
                                const dqt_gguf_options *options) {
    FPENV_DEFAULT();
    TRY(check_whole_model(model));
    TRY(check_model(model));
    if (!write) return fail(model->ctx, DQT_E_ARGUMENT, "write is NULL");
    struct gguf_export e = {model, gguf_defaults};
    TRY(options_read(model->ctx, &e.options, sizeof e.options, options, "dqt_gguf_options"));
    return gguf_to(&e, write, user_data);
}

/* ---- safetensors ---------------------------------------------------------------------------------------------- */

static const dqt_safetensors_options safetensors_defaults = {.struct_size = sizeof(dqt_safetensors_options)};

dqt_status dqt_safetensors_options_init(dqt_safetensors_options *options, size_t struct_size) {
    FPENV_DEFAULT();
    return options_init(options, struct_size, &safetensors_defaults, sizeof safetensors_defaults,
                        "dqt_safetensors_options");
}

struct safetensors_export {
    const dqt_llama *model;
    dqt_safetensors_options options;
    bool folder; /* with a config.json beside it */
};

static dqt_status safetensors_to(void *arg, dqt_write_fn write, void *user_data) {
    const struct safetensors_export *e = arg;
    return safetensors_write(e->model, &e->options, e->folder, write, user_data);
}

static dqt_status prepare_safetensors(const dqt_llama *model, const dqt_safetensors_options *options,
                                      struct safetensors_export *e) {
    *e = (struct safetensors_export){model, safetensors_defaults, false};
    TRY(options_read(model->ctx, &e->options, sizeof e->options, options, "dqt_safetensors_options"));
    if (e->options.context_length < 0)
        return fail(model->ctx, DQT_E_ARGUMENT, "context_length is %d; it must be 1 or more, or 0 for 2048",
                    e->options.context_length);
    return DQT_OK;
}

dqt_status dqt_llama_export_safetensors(const dqt_llama *model, const char *path,
                                        const dqt_safetensors_options *options) {
    FPENV_DEFAULT();
    TRY(check_whole_model(model));
    TRY(check_model(model));
    TRY(check_pointer(model->ctx, path, "path"));
    struct safetensors_export e;
    TRY(prepare_safetensors(model, options, &e));
    return file_replace(model->ctx, path, safetensors_to, &e);
}

dqt_status dqt_llama_write_safetensors(const dqt_llama *model, dqt_write_fn write, void *user_data,
                                       const dqt_safetensors_options *options) {
    FPENV_DEFAULT();
    TRY(check_whole_model(model));
    TRY(check_model(model));
    if (!write) return fail(model->ctx, DQT_E_ARGUMENT, "write is NULL");
    struct safetensors_export e;
    TRY(prepare_safetensors(model, options, &e));
    return safetensors_to(&e, write, user_data);
}

enum { CONTEXT_LENGTH = 2048 /* by default */ };

static dqt_status config_to(void *arg, dqt_write_fn write, void *user_data) {
    const struct safetensors_export *e = arg;
    const size_t length = e->options.context_length ? (size_t)e->options.context_length : CONTEXT_LENGTH;
    return config_write(e->model, length, e->options.dtype == DQT_SAFETENSORS_BF16, write, user_data);
}

/* The weights first: they are what can fail. */
static dqt_status export_to_folder(struct safetensors_export *e, const char *folder) {
    struct foreign paths = {.ctx = e->model->ctx};
    dqt_status status = foreign_add_path(&paths, folder, "model.safetensors");
    if (status == DQT_OK) status = foreign_add_path(&paths, folder, "config.json");
    if (status == DQT_OK) status = file_replace(paths.ctx, foreign_path(&paths, 0), safetensors_to, e);
    if (status == DQT_OK) status = file_replace(paths.ctx, foreign_path(&paths, 1), config_to, e);
    foreign_close(&paths);
    return status;
}

dqt_status dqt_llama_export_folder(const dqt_llama *model, const char *folder, const dqt_safetensors_options *options) {
    FPENV_DEFAULT();
    TRY(check_whole_model(model));
    TRY(check_model(model));
    TRY(check_pointer(model->ctx, folder, "folder"));
    struct safetensors_export e;
    TRY(prepare_safetensors(model, options, &e));
    e.folder = true;
    if (e.options.dtype == DQT_SAFETENSORS_CODES)
        return fail(model->ctx, DQT_E_ARGUMENT, "dtype is CODES, which transformers does not read: F32 or BF16");
    if (!architecture_of_config(&model->config))
        return fail(model->ctx, DQT_E_UNSUPPORTED,
                    "transformers has no architecture with all of mlp %d, no_sub_norms %d, attention_bias %d and "
                    "qk_norm %d",
                    model->config.mlp, model->config.no_sub_norms, model->config.attention_bias, model->config.qk_norm);
    return export_to_folder(&e, folder);
}

static const dqt_import_options import_defaults = {.struct_size = sizeof(dqt_import_options),
                                                   .rounding = DQT_ROUND_NEAREST};

dqt_status dqt_import_options_init(dqt_import_options *options, size_t struct_size) {
    FPENV_DEFAULT();
    return options_init(options, struct_size, &import_defaults, sizeof import_defaults, "dqt_import_options");
}

dqt_status dqt_llama_import_safetensors(dqt_llama *model, const char *path, const dqt_import_options *options) {
    FPENV_DEFAULT();
    TRY(check_whole_model(model));
    TRY(check_model(model));
    TRY(check_pointer(model->ctx, path, "path"));
    dqt_import_options o = import_defaults;
    TRY(options_read(model->ctx, &o, sizeof o, options, "dqt_import_options"));
    DEFAULT_TO(o.rounding, DQT_ROUND_NEAREST);
    if (o.rounding != DQT_ROUND_STOCHASTIC && o.rounding != DQT_ROUND_NEAREST)
        return fail(model->ctx, DQT_E_ARGUMENT, "rounding is %d; it must be STOCHASTIC or NEAREST", o.rounding);
    struct input_file file;
    TRY(file_open(model->ctx, path, &file));
    return file_close(model->ctx, path, &file,
                      safetensors_read(model, &file, o.rounding == DQT_ROUND_STOCHASTIC, o.seed));
}
