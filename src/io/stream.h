/* Buffered, little-endian, checksummed reading and writing over host callbacks. Neither seeks. */
#ifndef DQT_IO_STREAM_H
#define DQT_IO_STREAM_H

#include <string.h>

#include "core/bits.h"
#include "core/memory.h"
#include "io/crc32c.h"

enum { STREAM_BUFFER = 1 << 16 };

/* Little-endian numbers in memory. */
void put_le(unsigned char *out, uint64_t value, size_t bytes);
uint64_t get_le(const unsigned char *in, size_t bytes);
/* count elements of 1, 2, 4 or 8 bytes, in place, from the host's byte order or into it. */
void elements_to_le(void *data, size_t count, size_t size);

/* Where bytes go. With write NULL it only counts them. */
struct sink {
    dqt_context *ctx;
    dqt_write_fn write;
    void *user_data;
    uint64_t written; /* bytes so far, buffered ones included */
    uint32_t crc;     /* of the bytes since the user set it to 0 */
    size_t used;
    struct crc32c table;
    unsigned char buffer[STREAM_BUFFER];
};

dqt_status sink_create(dqt_context *ctx, struct sink **out);
void sink_destroy(struct sink *s);
/* Starts again at byte 0 with this target. */
void sink_begin(struct sink *s, dqt_write_fn write, void *user_data);

dqt_status sink_bytes(struct sink *s, const void *data, size_t n);
dqt_status sink_zeros(struct sink *s, size_t n);
/* The low `bytes` bytes of value. */
dqt_status sink_number(struct sink *s, uint64_t value, size_t bytes);
/* count elements of 1, 2, 4 or 8 bytes, in the host's byte order. */
dqt_status sink_elements(struct sink *s, const void *data, size_t count, size_t size);
dqt_status sink_flush(struct sink *s);

/* Where bytes come from; `limit` is the number of bytes that may be asked of the callback, so that a stream is never
 * read beyond the end of the file it carries. Bytes that were fetched and not yet used are first those of `ahead`, then
 * those of `buffer`. */
struct source {
    dqt_context *ctx;
    const char *what; /* "checkpoint": begins the sentences */
    dqt_read_fn read;
    void *user_data;
    uint64_t consumed, fetched, limit;
    uint32_t crc;
    size_t begin, end;             /* in buffer */
    unsigned char *ahead;          /* of ahead_room bytes, or NULL */
    size_t ahead_begin, ahead_end; /* in ahead */
    size_t ahead_room;
    struct crc32c table;
    unsigned char buffer[STREAM_BUFFER];
};

dqt_status source_create(dqt_context *ctx, const char *what, dqt_read_fn read, void *user_data, struct source **out);
void source_destroy(struct source *s);

/* DQT_E_FORMAT if fewer than n bytes come; DQT_E_IO if the callback fails. */
dqt_status source_bytes(struct source *s, void *out, size_t n);
dqt_status source_number(struct source *s, size_t bytes, uint64_t *value);
/* Into the host's byte order. */
dqt_status source_elements(struct source *s, void *out, size_t count, size_t size);
dqt_status source_skip(struct source *s, uint64_t n);
/* size bytes of a part of several, from a host that passes on what the part writes; `name` is its in sentences.
 * DQT_E_FORMAT where the part ends before them, DQT_E_IO where the callback fails. */
dqt_status read_part_bytes(dqt_context *ctx, dqt_read_part_fn read_part, void *user_data, size_t part, const char *name,
                           void *out, size_t size);
/* To be called before `size` bytes are allocated for what only the stream itself says that it holds, at least `claimed`
 * bytes of it from here on: reads ahead until SOURCE_TRUST times what has come covers them. So a short stream cannot
 * make a host allocate much, and an honest one is held twice only in small part. */
enum { SOURCE_TRUST = 4, SOURCE_FREE = 1 << 20 /* bytes that are never asked about */ };
dqt_status source_prove(struct source *s, uint64_t claimed, uint64_t size);

#endif
