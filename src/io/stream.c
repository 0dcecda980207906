#include "io/stream.h"

#include "core/status.h"

static bool big_endian(void) {
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 0;
}

void put_le(unsigned char *out, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        out[i] = (unsigned char)(value >> 8 * i);
}

uint64_t get_le(const unsigned char *in, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)in[i] << 8 * i;
    return value;
}

/* Reverses the bytes of each element. */
static void swap_elements(unsigned char *data, size_t count, size_t size) {
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < size / 2; k++) {
            unsigned char *a = data + i * size + k, *b = data + (i + 1) * size - 1 - k, t = *a;
            *a = *b;
            *b = t;
        }
}

void elements_to_le(void *data, size_t count, size_t size) {
    if (size > 1 && big_endian()) swap_elements(data, count, size);
}

/* ---- Writing -------------------------------------------------------------------------------------------------- */

dqt_status sink_create(dqt_context *ctx, struct sink **out) {
    *out = memory_alloc(ctx, sizeof **out);
    if (!*out) return fail(ctx, DQT_E_MEMORY, "no memory for a buffer of %zu bytes", sizeof **out);
    (*out)->ctx = ctx;
    crc32c_init(&(*out)->table);
    return DQT_OK;
}

void sink_destroy(struct sink *s) {
    if (s) memory_free(s->ctx, s, sizeof *s);
}

void sink_begin(struct sink *s, dqt_write_fn write, void *user_data) {
    s->write = write;
    s->user_data = user_data;
    s->written = 0;
    s->crc = 0;
    s->used = 0;
}

dqt_status sink_flush(struct sink *s) {
    if (s->used == 0) return DQT_OK;
    TRY(check_interrupt(s->ctx));
    const int32_t error = s->write(s->user_data, s->buffer, s->used);
    if (error)
        return fail(s->ctx, DQT_E_IO, "writing %zu bytes at byte %llu failed with error %d", s->used,
                    (unsigned long long)(s->written - s->used), error);
    s->used = 0;
    return DQT_OK;
}

dqt_status sink_bytes(struct sink *s, const void *data, size_t n) {
    const unsigned char *p = data;
    if (!s->write) {
        s->written += n;
        return DQT_OK;
    }
    s->crc = crc32c_add(&s->table, s->crc, data, n);
    while (n) {
        const size_t room = STREAM_BUFFER - s->used, part = size_min(n, room);
        memcpy(s->buffer + s->used, p, part);
        s->used += part;
        s->written += part;
        p += part;
        n -= part;
        if (s->used == STREAM_BUFFER) TRY(sink_flush(s));
    }
    return DQT_OK;
}

dqt_status sink_zeros(struct sink *s, size_t n) {
    static const unsigned char zeros[64];
    for (; n > sizeof zeros; n -= sizeof zeros)
        TRY(sink_bytes(s, zeros, sizeof zeros));
    return sink_bytes(s, zeros, n);
}

dqt_status sink_number(struct sink *s, uint64_t value, size_t bytes) {
    unsigned char le[8];
    put_le(le, value, bytes);
    return sink_bytes(s, le, bytes);
}

dqt_status sink_elements(struct sink *s, const void *data, size_t count, size_t size) {
    if (size == 1 || !big_endian()) return sink_bytes(s, data, count * size);
    unsigned char part[256];
    for (size_t i = 0; i < count;) {
        const size_t n = count - i < sizeof part / size ? count - i : sizeof part / size;
        memcpy(part, (const unsigned char *)data + i * size, n * size);
        elements_to_le(part, n, size);
        TRY(sink_bytes(s, part, n * size));
        i += n;
    }
    return DQT_OK;
}

/* ---- Reading -------------------------------------------------------------------------------------------------- */

dqt_status source_create(dqt_context *ctx, const char *what, dqt_read_fn read, void *user_data, struct source **out) {
    struct source *s = memory_alloc(ctx, sizeof *s);
    *out = s;
    if (!s) return fail(ctx, DQT_E_MEMORY, "no memory for a buffer of %zu bytes", sizeof *s);
    s->ctx = ctx;
    s->what = what;
    s->read = read;
    s->user_data = user_data;
    crc32c_init(&s->table);
    return DQT_OK;
}

static void free_ahead(struct source *s) {
    memory_free(s->ctx, s->ahead, s->ahead_room);
    s->ahead = NULL;
    s->ahead_begin = s->ahead_end = s->ahead_room = 0;
}

void source_destroy(struct source *s) {
    if (!s) return;
    free_ahead(s);
    memory_free(s->ctx, s, sizeof *s);
}

/* Into `out`, at most n bytes that the limit allows, at least one. */
static dqt_status fetch(struct source *s, void *out, size_t n, size_t *got) {
    const uint64_t left = s->limit - s->fetched;
    if (n > left) n = (size_t)left;
    TRY(check_interrupt(s->ctx));
    *got = n ? s->read(s->user_data, out, n) : 0;
    if (*got == SIZE_MAX || *got > n)
        return fail(s->ctx, DQT_E_IO, "%s: reading at byte %llu failed", s->what, (unsigned long long)s->fetched);
    if (*got == 0)
        return fail(s->ctx, DQT_E_FORMAT, "%s: it ends at byte %llu, before it is complete", s->what,
                    (unsigned long long)s->fetched);
    s->fetched += *got;
    return DQT_OK;
}

/* Up to n of the bytes that lie between *begin and end. */
static size_t take(unsigned char *out, const unsigned char *from, size_t *begin, size_t end, size_t n) {
    const size_t got = size_min(end - *begin, n);
    memcpy(out, from + *begin, got);
    *begin += got;
    return got;
}

dqt_status source_bytes(struct source *s, void *out, size_t n) {
    unsigned char *p = out;
    while (n) {
        size_t got;
        if (s->ahead_begin < s->ahead_end) {
            got = take(p, s->ahead, &s->ahead_begin, s->ahead_end, n);
            if (s->ahead_begin == s->ahead_end) free_ahead(s);
        } else if (s->begin == s->end && n >= STREAM_BUFFER) {
            TRY(fetch(s, p, n, &got)); /* many bytes go straight to where they are wanted */
        } else {
            if (s->begin == s->end) {
                s->begin = s->end = 0;
                TRY(fetch(s, s->buffer, STREAM_BUFFER, &s->end));
            }
            got = take(p, s->buffer, &s->begin, s->end, n);
        }
        s->crc = crc32c_add(&s->table, s->crc, p, got);
        s->consumed += got;
        p += got;
        n -= got;
    }
    return DQT_OK;
}

/* Room for more bytes ahead: at most twice what is there, and SOURCE_FREE. */
static dqt_status grow_ahead(struct source *s) {
    const size_t used = s->ahead_end - s->ahead_begin, room = size_max(2 * used, SOURCE_FREE);
    unsigned char *larger = memory_alloc_raw(s->ctx, room);
    if (!larger) return fail(s->ctx, DQT_E_MEMORY, "no memory for %zu bytes of a stream", room);
    if (used) memcpy(larger, s->ahead + s->ahead_begin, used);
    memory_free(s->ctx, s->ahead, s->ahead_room);
    s->ahead = larger;
    s->ahead_room = room;
    s->ahead_begin = 0;
    s->ahead_end = used;
    return DQT_OK;
}

dqt_status source_prove(struct source *s, uint64_t claimed, uint64_t size) {
    const uint64_t end = s->consumed + claimed;
    while (size > SOURCE_FREE && s->fetched < size / SOURCE_TRUST && s->fetched < end) {
        size_t got;
        if (s->ahead_end == s->ahead_room) TRY(grow_ahead(s));
        if (s->begin < s->end) { /* they come before what is not fetched yet */
            s->ahead_end += take(s->ahead + s->ahead_end, s->buffer, &s->begin, s->end, s->ahead_room - s->ahead_end);
            continue;
        }
        TRY(fetch(s, s->ahead + s->ahead_end, s->ahead_room - s->ahead_end, &got));
        s->ahead_end += got;
    }
    return DQT_OK;
}

dqt_status source_number(struct source *s, size_t bytes, uint64_t *value) {
    unsigned char le[8];
    TRY(source_bytes(s, le, bytes));
    *value = get_le(le, bytes);
    return DQT_OK;
}

dqt_status source_elements(struct source *s, void *out, size_t count, size_t size) {
    TRY(source_bytes(s, out, count * size));
    elements_to_le(out, count, size);
    return DQT_OK;
}

dqt_status source_skip(struct source *s, uint64_t n) {
    unsigned char part[1024];
    while (n) {
        const size_t k = n < sizeof part ? (size_t)n : sizeof part;
        TRY(source_bytes(s, part, k));
        n -= k;
    }
    return DQT_OK;
}

/* ---- Parts ------------------------------------------------------------------------------------------------------ */

dqt_status read_part_bytes(dqt_context *ctx, dqt_read_part_fn read_part, void *user_data, size_t part, const char *name,
                           void *out, size_t size) {
    unsigned char *bytes = out;
    while (size) {
        TRY(check_interrupt(ctx));
        const size_t got = read_part(user_data, part, bytes, size);
        if (got == SIZE_MAX || got > size) return fail(ctx, DQT_E_IO, "reading %s failed", name);
        if (got == 0) return fail(ctx, DQT_E_FORMAT, "%s ends before it is complete", name);
        bytes += got;
        size -= got;
    }
    return DQT_OK;
}
