/* Models of tests/golden, from wherever the test is started. */
#ifndef MODEL_FILES_H
#define MODEL_FILES_H

#include "memory_file.h"

enum { GOLDEN_PATH_BYTES = 256 };

/* The path of tests/golden/NAME; "" where it is not. */
static inline const char *golden_path(char path[GOLDEN_PATH_BYTES], const char *name) {
    static const char *const folders[] = {"tests/golden", "golden", "../tests/golden", "../../tests/golden"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, GOLDEN_PATH_BYTES, "%s/%s", folders[i], name);
        FILE *f = fopen(path, "rb");
        if (!f) continue;
        fclose(f);
        return path;
    }
    path[0] = '\0';
    return path;
}

static inline uint32_t golden_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline float golden_f32(const unsigned char *p) {
    const uint32_t u = golden_u32(p);
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The record NAME of a file as make_golden.py describes, of type 0 (f32) or 1 (i32); its count, 0 if there is none. */
static inline size_t golden_record(const struct memory_file *f, const char *name, const unsigned char **values) {
    for (size_t at = 8; at + 6 <= f->size;) {
        const size_t length = f->bytes[at], count = golden_u32(f->bytes + at + 2 + length);
        *values = f->bytes + at + 6 + length;
        if (strlen(name) == length && memcmp(f->bytes + at + 1, name, length) == 0) return count;
        at += 6 + length + 4 * count;
    }
    return 0;
}

#endif
