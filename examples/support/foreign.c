#include "foreign.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

size_t foreign_args(struct foreign_options *o, struct arg *table) {
    const struct arg all[FOREIGN_ARGS] = {
        {"--model", ARG_TEXT, &o->path, "folder of Hugging Face, GGUF file, or checkpoint (.dqt)", NULL},
        {"--format", ARG_CHOICE, &o->format, "of the blocks' weights (same: as the file)", "same=0 " FORMAT_CHOICES},
        {"--compute", ARG_CHOICE, &o->compute,
         "what the blocks' products read of f32 or bf16 weights (same: the weights), by group and rule",
         "same=0 " FORMAT_CHOICES},
        {"--embedding", ARG_CHOICE, &o->embedding,
         "of embedding and head (same: int8 beside integers, else as the file)", "same=0 " FORMAT_CHOICES},
        {"--group", ARG_INT, &o->group, "columns per scale: 32, 64, 128 or 256 (0: one scale per row)", NULL},
        {"--scale-rule", ARG_CHOICE, &o->scale_rule,
         "of scales (auto: absmax of rows, of groups mse weighted by activations)",
         "auto=0 sigma=1 absmax=2 absmean=3 mse=4"},
        {"--activation", ARG_CHOICE, &o->activation, "activations of linear layers (auto: as the model was trained)",
         "auto=0 none=1 int8=2"},
    };
    memcpy(table, all, sizeof all);
    return FOREIGN_ARGS;
}

static bool is_integers(int format) {
    return format != DQT_FORMAT_SAME && format != DQT_FORMAT_F32 && format != DQT_FORMAT_BF16;
}

static dqt_tensor_options tensor_options(const struct foreign_options *o, int format, int compute) {
    dqt_tensor_options t = DQT_INIT(dqt_tensor_options);
    t.storage = format;
    t.compute = compute;
    if (!is_integers(format) && !is_integers(compute)) return t;
    t.scale_rule = o->scale_rule;
    t.scale_axis = o->group ? DQT_AXIS_GROUP : DQT_AXIS_ROW;
    t.group_size = o->group;
    return t;
}

static bool ends_in(const char *path, const char *end) {
    const size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

dqt_status foreign_open(dqt_context *ctx, const struct foreign_options *o, dqt_llama **model) {
    *model = NULL;
    if (ends_in(o->path, ".dqt")) {
        dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
        const dqt_load_options weights = {.struct_size = sizeof weights, .skip_updater = 1, .skip_host = 1};
        const dqt_status status = dqt_llama_load(ctx, o->path, &weights, &c);
        *model = c.model;
        return status;
    }
    const int embedding = o->embedding ? o->embedding : is_integers(o->format) ? DQT_FORMAT_INT8 : DQT_FORMAT_SAME;
    dqt_open_options options;
    dqt_status status = dqt_open_options_init(&options, sizeof options);
    options.activation = o->activation;
    options.max_length = o->length;
    options.linear = tensor_options(o, o->format, o->compute);
    options.embedding = tensor_options(o, embedding, DQT_FORMAT_SAME);
    options.head = options.embedding;
    return status == DQT_OK ? dqt_llama_open(ctx, o->path, &options, model) : status;
}

/* ---- Giving it back ------------------------------------------------------------------------------------------------
 */

static FILE *open_in(const char *folder, const char *name, const char *mode) {
    char path[1024];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return NULL;
    return fopen(path, mode);
}

/* True also where `from` has no such file. */
static bool copy_file(const char *from, const char *to, const char *name) {
    char buffer[1 << 14];
    size_t n;
    FILE *in = open_in(from, name, "rb");
    if (!in) return true;
    FILE *out = open_in(to, name, "wb");
    while (out && (n = fread(buffer, 1, sizeof buffer, in)) > 0)
        fwrite(buffer, 1, n, out);
    const bool read = !ferror(in);
    fclose(in);
    return out && !ferror(out) && fclose(out) == 0 && read;
}

static bool is_good(dqt_context *ctx, dqt_status status) {
    if (status != DQT_OK) fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    return status == DQT_OK;
}

bool foreign_export(dqt_context *ctx, const dqt_llama *model, const char *source, const char *folder) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};
    struct stat s;
    if (!is_good(ctx, dqt_llama_export_folder(model, folder, NULL))) return false;
    for (size_t i = 0; i < sizeof names / sizeof *names && stat(source, &s) == 0 && S_ISDIR(s.st_mode); i++)
        if (!copy_file(source, folder, names[i])) {
            fprintf(stderr, "%s/%s cannot be written\n", folder, names[i]);
            return false;
        }
    return true;
}

bool foreign_is_gguf(const char *path) {
    char magic[4] = {0};
    FILE *f = fopen(path, "rb");
    const bool found = f && fread(magic, 1, sizeof magic, f) == sizeof magic && memcmp(magic, "GGUF", 4) == 0;
    if (f) fclose(f);
    return found;
}

bool foreign_export_gguf(dqt_context *ctx, const dqt_llama *model, const char *source, const char *path) {
    dqt_gguf_options o;
    dqt_status status = dqt_gguf_options_init(&o, sizeof o);
    o.source = source;
    if (status == DQT_OK) status = dqt_llama_export_gguf(model, path, &o);
    return is_good(ctx, status);
}
