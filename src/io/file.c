#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/status.h"

enum { SUFFIX_BYTES = 48, ATTEMPTS = 100, LARGEST_CALL = 1 << 30 };

static dqt_status io_error(const dqt_context *ctx, const char *what, const char *path) {
    return fail(ctx, DQT_E_IO, "%s %s failed: error %d", what, path, errno);
}

static int32_t file_write(void *user_data, const void *buffer, size_t size) {
    const int descriptor = *(const int *)user_data;
    const char *p = buffer;
    while (size) {
        const ssize_t n = write(descriptor, p, size < LARGEST_CALL ? size : LARGEST_CALL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? errno : EIO;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

/* The folder a path lies in, in place of the buffer's content; "." and "/" included. */
static void folder_of(char *buffer, const char *path) {
    const char *slash = strrchr(path, '/');
    const size_t n = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    memcpy(buffer, n ? path : ".", n ? n : 1);
    buffer[n ? n : 1] = '\0';
}

/* The name is taken by this process alone; a leftover of a killed process of the same id is stepped over. */
static int open_temporary(const char *path, char *name, size_t bytes) {
    int descriptor = -1;
    for (int i = 0; i < ATTEMPTS && descriptor < 0; i++) {
        snprintf(name, bytes, "%s.tmp-%ld-%d", path, (long)getpid(), i);
        descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor < 0 && errno != EEXIST) break;
    }
    return descriptor;
}

static dqt_status fill(dqt_context *ctx, int descriptor, const char *name, file_produce_fn produce, void *arg) {
    dqt_status status = produce(arg, file_write, &descriptor);
    if (status == DQT_OK && fsync(descriptor) != 0) status = io_error(ctx, "flushing", name);
    if (close(descriptor) != 0 && status == DQT_OK) status = io_error(ctx, "closing", name);
    return status;
}

dqt_status file_replace(dqt_context *ctx, const char *path, file_produce_fn produce, void *arg) {
    const size_t bytes = strlen(path) + SUFFIX_BYTES;
    char *name = memory_alloc(ctx, bytes);
    if (!name) return fail(ctx, DQT_E_MEMORY, "no memory for a path of %zu bytes", bytes);
    dqt_status status = DQT_OK;
    folder_of(name, path);
    const int folder = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        status = io_error(ctx, "opening the folder", name);
    } else {
        const int descriptor = open_temporary(path, name, bytes);
        if (descriptor < 0) {
            status = io_error(ctx, "creating", name);
        } else {
            status = fill(ctx, descriptor, name, produce, arg);
            if (status == DQT_OK && rename(name, path) != 0) status = io_error(ctx, "renaming to", path);
            if (status != DQT_OK) unlink(name);
        }
        /* Some file systems cannot flush a folder: the rename is then as durable as they make it. */
        if (status == DQT_OK && fsync(folder) != 0 && errno != EINVAL && errno != ENOTSUP)
            status = io_error(ctx, "the file is in place, but flushing the folder of", path);
        close(folder);
    }
    memory_free(ctx, name, bytes);
    return status;
}

dqt_status file_open(dqt_context *ctx, const char *path, struct input_file *out) {
    struct stat info;
    out->size = UINT64_MAX;
    do
        out->descriptor = open(path, O_RDONLY | O_CLOEXEC);
    while (out->descriptor < 0 && errno == EINTR);
    if (out->descriptor < 0) return io_error(ctx, "opening", path);
    if (fstat(out->descriptor, &info) == 0 && S_ISREG(info.st_mode)) out->size = (uint64_t)info.st_size;
    return DQT_OK;
}

size_t file_read(void *file, void *buffer, size_t size) {
    const struct input_file *f = file;
    ssize_t n;
    do
        n = read(f->descriptor, buffer, size < LARGEST_CALL ? size : LARGEST_CALL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? SIZE_MAX : (size_t)n;
}

void file_close(struct input_file *file) {
    close(file->descriptor);
}
