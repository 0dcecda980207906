/* A Hugging Face folder: config.json, and model.safetensors or the files that model.safetensors.index.json names. */
#include <stdio.h>

#include "core/status.h"
#include "io/foreign.h"
#include "io/json.h"
#include "io/safetensors.h"

enum { CONFIG_MOST = 1 << 24, INDEX_MOST = 1 << 26, SHARDS_MOST = 4096 };

#define WEIGHTS "model.safetensors"
#define INDEX "model.safetensors.index.json"

/* ---- Weights ------------------------------------------------------------------------------------------------- */

struct shard {
    struct foreign *f;
    size_t file;  /* of the paths */
    size_t first; /* of its tensors */
};

static dqt_status on_tensor(void *arg, const struct listing *l) {
    const struct shard *s = arg;
    struct foreign_tensor *t;
    TRY(foreign_add(s->f, &t));
    memcpy(t->name, l->name, sizeof t->name);
    t->dims = l->dims;
    t->rows = l->dims > 1 ? l->shape[0] : 1;
    t->cols = l->dims > 1 ? l->shape[1] : l->dims == 1 ? l->shape[0] : 1;
    t->encoding = element_encoding(l->type);
    t->offset = l->begin;
    t->bytes = l->end - l->begin;
    t->file = s->file;
    return DQT_OK;
}

static void on_metadata(void *arg, const char *key, const char *value) {
    (void)arg, (void)key, (void)value;
}

static dqt_status read_header(struct shard *s, struct input_file *file) {
    struct foreign *f = s->f;
    unsigned char le[8];
    const struct header_visitor visitor = {on_tensor, on_metadata, s};
    if (file->size == UINT64_MAX || file->size < 8)
        return fail(f->ctx, DQT_E_FORMAT, "safetensors: this is no regular file of at least 8 bytes");
    TRY(file_read_at(f->ctx, file, 0, le, 8));
    const uint64_t length = get_le(le, 8);
    if (length == 0 || length > HEADER_MOST || length > file->size - 8)
        return fail(f->ctx, DQT_E_FORMAT,
                    "safetensors: a header of %llu bytes; the file has %llu and the format allows %d",
                    (unsigned long long)length, (unsigned long long)file->size, HEADER_MOST);
    char *text = memory_alloc_raw(f->ctx, (size_t)length);
    if (!text) return fail(f->ctx, DQT_E_MEMORY, "no memory for a header of %llu bytes", (unsigned long long)length);
    dqt_status status = file_read_at(f->ctx, file, 8, text, (size_t)length);
    if (status == DQT_OK) status = header_read(f->ctx, text, (size_t)length, &visitor);
    memory_free(f->ctx, text, (size_t)length);
    if (status != DQT_OK) return status;
    const uint64_t begin = 8 + length;
    for (size_t i = s->first; i < f->num_tensors; i++) {
        struct foreign_tensor *t = &f->tensors[i];
        if (t->offset > file->size) t->offset = file->size; /* nothing overflows: it is beyond the end either way */
        t->offset += begin;
    }
    return foreign_check_layout(f, s->first, begin, file->size, true);
}

static dqt_status read_shard(struct foreign *f, size_t index) {
    struct shard s = {f, index, f->num_tensors};
    struct input_file file;
    const char *path = foreign_path(f, index);
    TRY(file_open_at_once(f->ctx, path, &file));
    return file_close(f->ctx, path, &file, read_header(&s, &file));
}

/* ---- Index --------------------------------------------------------------------------------------------------- */

/* A file of this very folder: what is no plain name of a safetensors file is refused. */
static dqt_status add_shard(struct foreign *f, const char *folder, const char *name) {
    static const char suffix[] = ".safetensors";
    const size_t n = strlen(name), end = sizeof suffix - 1;
    if (n <= end || n >= FILE_NAME_BYTES - 1 || name[0] == '.' || strpbrk(name, "/\\:") ||
        strcmp(name + n - end, suffix) != 0)
        return fail(f->ctx, DQT_E_FORMAT, "%s names the file \"%s\"; it must be a .safetensors file of the same folder",
                    INDEX, name);
    for (size_t i = 0; i < f->num_paths; i++) {
        const char *path = foreign_path(f, i);
        if (strcmp(path + strlen(path) - n, name) == 0 && path[strlen(path) - n - 1] == '/') return DQT_OK;
    }
    if (f->num_paths == SHARDS_MOST)
        return fail(f->ctx, DQT_E_FORMAT, "%s names more than %d files", INDEX, SHARDS_MOST);
    return foreign_add_path(f, folder, name);
}

struct index {
    struct foreign *f;
    const char *folder;
};

static dqt_status read_place(void *arg, struct json *j, const char *tensor) {
    const struct index *x = arg;
    char name[FILE_NAME_BYTES];
    (void)tensor;
    TRY(json_string(j, name, sizeof name));
    return add_shard(x->f, x->folder, name);
}

static dqt_status read_index(void *arg, struct json *j, const char *key) {
    return strcmp(key, "weight_map") == 0 ? json_members(j, read_place, arg) : json_skip(j);
}

/* ---- Whole --------------------------------------------------------------------------------------------------- */

/* The paths of what holds weights; at first there is none. */
static dqt_status list_shards(struct foreign *f, const char *folder) {
    char *text;
    size_t length;
    TRY(foreign_add_path(f, folder, WEIGHTS));
    if (file_exists(foreign_path(f, 0))) return DQT_OK;
    f->num_paths = 0;
    TRY(foreign_add_path(f, folder, INDEX));
    if (!file_exists(foreign_path(f, 0)))
        return fail(f->ctx, DQT_E_IO, "%s has neither %s nor %s", folder, WEIGHTS, INDEX);
    TRY(file_read_text(f->ctx, foreign_path(f, 0), INDEX_MOST, &text, &length));
    f->num_paths = 0;
    struct json j = json_of(f->ctx, INDEX, text, length);
    dqt_status status = json_members(&j, read_index, &(struct index){f, folder});
    if (status == DQT_OK) status = json_end(&j);
    file_free_text(f->ctx, text, length);
    if (status == DQT_OK && f->num_paths == 0) return fail(f->ctx, DQT_E_FORMAT, "%s names no file", INDEX);
    return status;
}

dqt_status foreign_open_folder(struct foreign *f, const char *folder) {
    char *text;
    size_t length;
    f->what = "folder";
    TRY(foreign_add_path(f, folder, "config.json"));
    TRY(file_read_text(f->ctx, foreign_path(f, 0), CONFIG_MOST, &text, &length));
    f->num_paths = 0;
    const dqt_status status = facts_read_json(f->ctx, text, length, &f->facts);
    file_free_text(f->ctx, text, length);
    if (status != DQT_OK) return status;
    TRY(list_shards(f, folder));
    for (size_t i = 0; i < f->num_paths; i++)
        TRY(read_shard(f, i));
    return DQT_OK;
}
