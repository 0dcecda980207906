/* A small reader of GGUF files, written from the format's description, not from the writer. */
#ifndef GGUF_READER_H
#define GGUF_READER_H

#include "format/half.h"
#include "format/tensor.h"
#include "io/stream.h"
#include "memory_file.h"

struct reader {
    const unsigned char *bytes;
    size_t size, at;
    uint64_t tensors, keys;
    size_t keys_at, infos_at, data_at;
    bool bad; /* it went beyond the end */
};

static inline uint64_t take(struct reader *r, size_t n) {
    if (r->at > r->size || n > r->size - r->at) {
        CHECKF(false, "byte %zu of %zu", r->at, r->size);
        r->bad = true;
        return 0;
    }
    r->at += n;
    return get_le(r->bytes + r->at - n, n);
}

static inline void take_string(struct reader *r, char *out, size_t room) {
    const uint64_t n = take(r, 8);
    out[0] = '\0';
    if (n >= room || n > r->size - r->at) {
        CHECKF(false, "a string of %llu bytes", (unsigned long long)n);
        r->bad = true;
        return;
    }
    memcpy(out, r->bytes + r->at, (size_t)n);
    out[n] = '\0';
    r->at += (size_t)n;
}

/* Of a number: 32 bits, a bool, 64 bits. */
static inline size_t value_bytes(uint64_t type) {
    return type == 7 ? 1 : type >= 10 ? 8 : 4;
}

static inline void skip_value(struct reader *r, uint64_t type) {
    char text[4096];
    if (type == 8) {
        take_string(r, text, sizeof text);
    } else if (type == 9) {
        const uint64_t inner = take(r, 4), count = take(r, 8);
        for (uint64_t i = 0; i < count && !r->bad; i++)
            skip_value(r, inner);
    } else {
        CHECK((type >= 4 && type <= 7) || (type >= 10 && type <= 12));
        take(r, value_bytes(type));
    }
}

static inline struct reader reader_new(const struct memory_file *f) {
    struct reader r = {.bytes = f->bytes, .size = f->size};
    char name[256];
    CHECK(take(&r, 4) == 0x46554747u && take(&r, 4) == 3);
    r.tensors = take(&r, 8);
    r.keys = take(&r, 8);
    r.keys_at = r.at;
    for (uint64_t i = 0; i < r.keys && !r.bad; i++) {
        take_string(&r, name, sizeof name);
        skip_value(&r, take(&r, 4));
    }
    r.infos_at = r.at;
    for (uint64_t i = 0; i < r.tensors && !r.bad; i++) {
        take_string(&r, name, sizeof name);
        const uint64_t dims = take(&r, 4);
        CHECK(dims == 1 || dims == 2);
        r.at += (size_t)(8 * dims + 12);
    }
    r.data_at = (r.at + 31) / 32 * 32;
    return r;
}

/* Type of a key's value, r->at its first byte; 0: no such key. */
static inline uint64_t find_key(struct reader *r, const char *key) {
    char name[256];
    r->at = r->keys_at;
    for (uint64_t i = 0; i < r->keys && !r->bad; i++) {
        take_string(r, name, sizeof name);
        const uint64_t type = take(r, 4);
        if (strcmp(name, key) == 0) return type;
        skip_value(r, type);
    }
    return 0;
}

static inline uint64_t number_key(struct reader *r, const char *key, uint64_t type) {
    const uint64_t found = find_key(r, key);
    CHECKF(found == type, "key %s has type %d", key, (int)found);
    return found ? take(r, value_bytes(type)) : 0;
}

struct stored {
    uint64_t dims, cols, rows, type, offset;
    const unsigned char *data;
};

static inline bool find_tensor(struct reader *r, const char *wanted, struct stored *out) {
    char name[256];
    r->at = r->infos_at;
    for (uint64_t i = 0; i < r->tensors && !r->bad; i++) {
        take_string(r, name, sizeof name);
        out->dims = take(r, 4);
        out->cols = take(r, 8);
        out->rows = out->dims == 2 ? take(r, 8) : 1;
        out->type = take(r, 4);
        out->offset = take(r, 8);
        out->data = r->bytes + r->data_at + out->offset;
        if (strcmp(name, wanted) == 0) return true;
    }
    return false;
}

/* Weight `index` of a row of blocks, from the descriptions in ggml-common.h. */
static inline float stored_weight(const struct stored *t, uint64_t row, uint64_t col) {
    static const unsigned powers[] = {1, 3, 9, 27, 81};
    const uint64_t i = row * t->cols + col;
    const unsigned char *b;
    unsigned k = (unsigned)(i % 256), byte, n;
    switch (t->type) {
    case 0: return f32_from_bits((uint32_t)get_le(t->data + 4 * i, 4));
    case 1: return f16_to_f32((uint16_t)get_le(t->data + 2 * i, 2));
    case 2:
        b = t->data + i / 32 * 18;
        k %= 32;
        return f16_to_f32((uint16_t)get_le(b, 2)) * (float)((b[2 + k % 16] >> (k < 16 ? 0 : 4) & 15) - 8);
    case 6: /* four bits as in Q4_0, the fifth in a little-endian word */
        b = t->data + i / 32 * 22;
        k %= 32;
        n = (unsigned)(get_le(b + 2, 4) >> k & 1) << 4;
        return f16_to_f32((uint16_t)get_le(b, 2)) *
               (float)((int)(((unsigned)b[6 + k % 16] >> (k < 16 ? 0 : 4) & 15u) | n) - 16);
    case 8: b = t->data + i / 32 * 34; return f16_to_f32((uint16_t)get_le(b, 2)) * (float)(int8_t)b[2 + k % 32];
    case 34: /* bytes of trits: v * 3^n keeps the later ones, and 3 times that overflows by the next */
        b = t->data + i / 256 * 54;
        if (k < 160) {
            byte = k % 32;
            n = k / 32;
        } else if (k < 240) {
            byte = 32 + (k - 160) % 16;
            n = (k - 160) / 16;
        } else {
            byte = 48 + (k - 240) % 4;
            n = (k - 240) / 4;
        }
        return f16_to_f32((uint16_t)get_le(b + 52, 2)) * (float)((int)(((b[byte] * powers[n] & 255) * 3) >> 8) - 1);
    case 35:
        b = t->data + i / 256 * 66;
        byte = 32 * (k / 128) + k % 32;
        return f16_to_f32((uint16_t)get_le(b + 64, 2)) * (float)((b[byte] >> 2 * (k % 128 / 32) & 3) - 1);
    default: CHECKF(false, "type %d", (int)t->type); return 0;
    }
}

#endif
