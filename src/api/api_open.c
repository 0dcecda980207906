/* Models of other programs. */
#include "api/check.h"
#include "core/fpenv.h"
#include "io/foreign.h"

static dqt_open_options open_defaults(void) {
    dqt_tensor_options as_file = tensor_defaults;
    as_file.storage = 0;
    return (dqt_open_options){.struct_size = sizeof(dqt_open_options),
                              .rounding = DQT_ROUND_NEAREST,
                              .linear = as_file,
                              .embedding = as_file,
                              .head = as_file};
}

dqt_status dqt_open_options_init(dqt_open_options *options, size_t struct_size) {
    FPENV_DEFAULT();
    const dqt_open_options o = open_defaults();
    return options_init(options, struct_size, &o, sizeof o, "dqt_open_options");
}

static dqt_status read_options(const dqt_context *ctx, const dqt_open_options *given, struct foreign_options *f) {
    dqt_open_options o = open_defaults();
    TRY(options_read(ctx, &o, sizeof o, given, "dqt_open_options"));
    DEFAULT_TO(o.rounding, DQT_ROUND_NEAREST);
    if (o.rounding != DQT_ROUND_STOCHASTIC && o.rounding != DQT_ROUND_NEAREST)
        return fail(ctx, DQT_E_ARGUMENT, "rounding is %d; it must be STOCHASTIC or NEAREST", o.rounding);
    if (o.activation < DQT_ACTIVATION_DEFAULT || o.activation > DQT_ACTIVATION_INT8)
        return fail(ctx, DQT_E_ARGUMENT, "activation is %d; it must be a DQT_ACTIVATION_* value", o.activation);
    if (o.reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_open_options is not 0");
    dqt_tensor_options *const weights[] = {&o.linear, &o.embedding, &o.head};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        if (!weights[i]->storage) continue;
        tensor_complete(weights[i], weights[i]->storage);
        TRY(tensor_check_options(ctx, weights[i])); /* the layers check the shapes */
    }
    *f = (struct foreign_options){.linear = o.linear,
                                  .embedding = o.embedding,
                                  .head = o.head,
                                  .activation = o.activation,
                                  .max_length = o.max_length,
                                  .stochastic = o.rounding == DQT_ROUND_STOCHASTIC,
                                  .seed = o.seed};
    return DQT_OK;
}

/* What cannot be opened as a file is taken for a folder, which says why it is none. */
static dqt_status open_path(struct foreign *f, const char *path) {
    struct input_file file;
    if (file_exists(path)) {
        TRY(file_open_at_once(f->ctx, path, &file));
        if (file.size != UINT64_MAX) return file_close(f->ctx, path, &file, foreign_open_gguf(f, path, &file));
        TRY(file_close(f->ctx, path, &file, DQT_OK));
    }
    return foreign_open_folder(f, path);
}

dqt_status dqt_llama_open(dqt_context *ctx, const char *path, const dqt_open_options *options, dqt_llama **out) {
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, path, "path"));
    TRY(check_pointer(ctx, out, "out"));
    struct foreign_options o;
    TRY(read_options(ctx, options, &o));
    struct foreign f = {.ctx = ctx};
    dqt_status status = open_path(&f, path);
    if (status == DQT_OK) status = foreign_create(&f, &o, out);
    foreign_close(&f);
    return status;
}
