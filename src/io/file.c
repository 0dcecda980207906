#include "io/file.h"

#include <string.h>

#include "core/status.h"
#include "io/file_system.h"

enum { SHOWN_BYTES = 200 }; /* of a path, so that the reason fits the sentence too */

static dqt_status io_error(const dqt_context *ctx, const char *verb, const char *path,
                           const struct system_failure *failure) {
    char text[SYSTEM_TEXT_BYTES];
    const size_t length = strlen(path);
    const char *dots = length > SHOWN_BYTES ? "..." : "",
               *shown = length > SHOWN_BYTES ? path + length - SHOWN_BYTES : path;
    while (((unsigned char)*shown & 0xC0) == 0x80) /* not in the middle of a UTF-8 character */
        shown++;
    if (!failure->error) return fail(ctx, DQT_E_IO, "%s %s%s: %s", verb, dots, shown, failure->doing);
    return fail(ctx, DQT_E_IO, "%s %s%s: %s failed: %s", verb, dots, shown, failure->doing,
                system_text(failure->error, text));
}

/* ---- Writing -------------------------------------------------------------------------------------------------- */

struct output_file {
    struct replacement *replacement;
    int error;
};

static int32_t file_write(void *user_data, const void *buffer, size_t size) {
    struct output_file *f = user_data;
    const unsigned char *p = buffer;
    while (size && !f->error) {
        size_t written = 0;
        f->error = replacement_write(f->replacement, p, size_min(size, LARGEST_CALL), &written);
        p += written;
        size -= written;
    }
    return f->error;
}

/* The replacement has begun; it is over afterwards. */
static dqt_status fill_and_commit(dqt_context *ctx, const char *path, struct replacement *r, file_produce_fn produce,
                                  void *arg) {
    struct output_file f = {.replacement = r};
    struct system_failure failure = {.doing = "writing"};
    bool in_place = false;
    dqt_status status = produce(arg, file_write, &f);
    if (status == DQT_OK && replacement_commit(r, &failure, &in_place)) return DQT_OK;
    if (status == DQT_OK)
        return io_error(ctx, in_place ? "the new file is in place, but saving" : "saving", path, &failure);
    replacement_discard(r);
    failure.error = f.error;
    return f.error ? io_error(ctx, "saving", path, &failure) : status;
}

dqt_status file_replace(dqt_context *ctx, const char *path, file_produce_fn produce, void *arg) {
    const size_t bytes = replacement_bytes();
    struct replacement *r = memory_alloc(ctx, bytes);
    if (!r) return fail(ctx, DQT_E_MEMORY, "no memory for a path of %zu bytes", bytes);
    struct system_failure failure;
    const dqt_status status = replacement_begin(r, path, &failure) ? fill_and_commit(ctx, path, r, produce, arg)
                                                                   : io_error(ctx, "saving", path, &failure);
    memory_free(ctx, r, bytes);
    return status;
}

/* ---- Reading -------------------------------------------------------------------------------------------------- */

static dqt_status open_file(dqt_context *ctx, const char *path, bool wait, struct input_file *out) {
    out->error = system_open(path, wait, &out->handle, &out->size);
    if (!out->error) return DQT_OK;
    const struct system_failure failure = {"opening it", out->error};
    return io_error(ctx, "reading", path, &failure);
}

dqt_status file_open(dqt_context *ctx, const char *path, struct input_file *out) {
    return open_file(ctx, path, true, out);
}

dqt_status file_open_at_once(dqt_context *ctx, const char *path, struct input_file *out) {
    return open_file(ctx, path, false, out);
}

bool file_exists(const char *path) {
    struct input_file f;
    if (system_open(path, false, &f.handle, &f.size)) return false;
    system_close(f.handle);
    return true;
}

size_t file_read(void *file, void *buffer, size_t size) {
    struct input_file *f = file;
    size_t got = 0;
    f->error = system_read(f->handle, buffer, size_min(size, LARGEST_CALL), &got);
    return f->error ? SIZE_MAX : got;
}

dqt_status file_read_at(dqt_context *ctx, struct input_file *f, uint64_t offset, void *buffer, size_t size) {
    unsigned char *p = buffer;
    TRY(check_interrupt(ctx));
    f->error = system_seek(f->handle, offset);
    while (size && !f->error) {
        const size_t got = file_read(f, p, size);
        if (got == SIZE_MAX) break;
        if (got == 0)
            return fail(ctx, DQT_E_FORMAT, "the file ends %zu bytes before the end of what lies at byte %llu", size,
                        (unsigned long long)offset);
        p += got;
        size -= got;
    }
    return f->error ? fail(ctx, DQT_E_IO, "reading at byte %llu failed", (unsigned long long)offset) : DQT_OK;
}

dqt_status file_close(dqt_context *ctx, const char *path, struct input_file *file, dqt_status status) {
    const struct system_failure failure = {"a read", file->error};
    system_close(file->handle);
    return status != DQT_OK && file->error ? io_error(ctx, "reading", path, &failure) : status;
}

dqt_status file_read_text(dqt_context *ctx, const char *path, uint64_t most, char **text, size_t *length) {
    struct input_file file;
    *text = NULL;
    *length = 0;
    TRY(file_open_at_once(ctx, path, &file));
    dqt_status status = DQT_OK;
    const size_t size = file.size <= most ? (size_t)file.size : 0;
    if (file.size > most)
        status = fail(ctx, DQT_E_FORMAT, "%s is no regular file of at most %llu bytes", path, (unsigned long long)most);
    if (status == DQT_OK && !(*text = memory_alloc_raw(ctx, size_max(size, 1))))
        status = fail(ctx, DQT_E_MEMORY, "no memory for a file of %zu bytes", size);
    if (status == DQT_OK) status = file_read_at(ctx, &file, 0, *text, size);
    status = file_close(ctx, path, &file, status);
    *length = size;
    if (status == DQT_OK) return DQT_OK;
    file_free_text(ctx, *text, size);
    *text = NULL;
    *length = 0;
    return status;
}

void file_free_text(dqt_context *ctx, char *text, size_t length) {
    memory_free(ctx, text, size_max(length, 1));
}
