/* A file in memory behind the library's read and write callbacks; it can fail and give little at a time. */
#ifndef MEMORY_FILE_H
#define MEMORY_FILE_H

#include "dqt.h"
#include "test.h"

struct memory_file {
    unsigned char *bytes;
    size_t size, room, position;
    size_t most;    /* bytes per read; 0: as many as wanted */
    size_t fail_at; /* the call that reaches this byte fails; SIZE_MAX: none */
};

static inline int32_t memory_write(void *user_data, const void *buffer, size_t size) {
    struct memory_file *f = user_data;
    if (f->fail_at != SIZE_MAX && f->size + size > f->fail_at) return 28;
    if (f->size + size > f->room) {
        f->room = 2 * (f->size + size);
        f->bytes = realloc(f->bytes, f->room);
    }
    memcpy(f->bytes + f->size, buffer, size);
    f->size += size;
    return 0;
}

static inline size_t memory_read(void *user_data, void *buffer, size_t size) {
    struct memory_file *f = user_data;
    if (f->most && size > f->most) size = f->most;
    if (size > f->size - f->position) size = f->size - f->position;
    if (f->fail_at != SIZE_MAX && f->position + size > f->fail_at) return SIZE_MAX;
    memcpy(buffer, f->bytes + f->position, size);
    f->position += size;
    return size;
}

static struct memory_file memory_new(void) {
    return (struct memory_file){.fail_at = SIZE_MAX};
}

static inline struct memory_file slurp(const char *path) {
    struct memory_file f = memory_new();
    unsigned char part[4096];
    FILE *in = fopen(path, "rb");
    for (size_t n; in && (n = fread(part, 1, sizeof part, in));)
        memory_write(&f, part, n);
    if (in) fclose(in);
    return f;
}

static inline bool same_bytes(const struct memory_file *a, const struct memory_file *b) {
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

#endif
