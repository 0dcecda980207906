#include "io/checkpoint_part.h"

#include <stdio.h>

#include "core/status.h"

enum { HEAD_BYTES = 44, CHECKSUM_BYTES = 4 };

static const unsigned char part_magic[8] = {'D', 'Q', 'T', 'P', 'A', 'R', 'T', '1'};

struct parts {
    dqt_context *ctx;
    const dqt_updater *updater;
    size_t part, num_parts;
    uint64_t digest;
    dqt_read_part_fn read;
    dqt_write_fn write;
    void *user_data;
    struct crc32c table;
    uint64_t numbers[(STREAM_BUFFER + CHECKSUM_BYTES) / sizeof(uint64_t) + 1]; /* a piece, aligned for any element */
};

struct state_range state_range_of(const dqt_updater *u, const struct state_array *a, size_t part, size_t num_parts) {
    const uint64_t bytes = (uint64_t)a->count * a->element_size;
    if (!a->row_elements) return (struct state_range){0, bytes, bytes};
    const uint64_t row_bytes = (uint64_t)a->row_elements * a->element_size;
    size_t row, count;
    updater_shard_rows(u, a->parameter, part, num_parts, &row, &count);
    return (struct state_range){row * row_bytes, (row + count) * row_bytes,
                                updater_target(u, a->parameter)->tensor->rows * row_bytes};
}

dqt_status parts_create(const dqt_updater *u, uint64_t digest, struct parts **out) {
    dqt_context *ctx = updater_context(u);
    struct parts *p = memory_alloc(ctx, sizeof *p);
    *out = p;
    if (!p) return fail(ctx, DQT_E_MEMORY, "no memory for a buffer of %zu bytes", sizeof *p);
    p->ctx = ctx;
    p->updater = u;
    p->part = (size_t)updater_options(u)->part;
    p->num_parts = (size_t)updater_options(u)->num_parts;
    p->digest = digest;
    crc32c_init(&p->table);
    return DQT_OK;
}

void parts_destroy(struct parts *p) {
    if (p) memory_free(p->ctx, p, sizeof *p);
}

static unsigned char *piece_bytes(struct parts *p) {
    return (unsigned char *)p->numbers;
}

/* Of the piece that begins at byte `at` of this array. */
static uint32_t piece_checksum(struct parts *p, const char *label, uint64_t at, size_t size) {
    unsigned char place[8];
    put_le(place, at, sizeof place);
    uint32_t crc = crc32c_add(&p->table, 0, label, strlen(label));
    crc = crc32c_add(&p->table, crc, place, sizeof place);
    return crc32c_add(&p->table, crc, piece_bytes(p), size);
}

static void make_head(const struct parts *p, size_t part, unsigned char head[HEAD_BYTES]) {
    memcpy(head, part_magic, sizeof part_magic);
    put_le(head + 8, part, 8);
    put_le(head + 16, p->num_parts, 8);
    put_le(head + 24, updater_step_count(p->updater), 8);
    put_le(head + 32, p->digest, 8);
    put_le(head + 40, crc32c_add(&p->table, 0, head, HEAD_BYTES - CHECKSUM_BYTES), 4);
}

/* ---- Sending --------------------------------------------------------------------------------------------------- */

static dqt_status send(struct parts *p, const void *bytes, size_t size) {
    TRY(check_interrupt(p->ctx));
    const int32_t error = p->write(p->user_data, bytes, size);
    return error ? fail(p->ctx, DQT_E_IO, "sending %zu bytes of part %zu failed with error %d", size, p->part, error)
                 : DQT_OK;
}

static dqt_status send_rows(void *arg, const struct state_array *a) {
    struct parts *p = arg;
    if (!a->row_elements) return DQT_OK;
    const size_t bytes = a->count * a->element_size;
    unsigned char *piece = piece_bytes(p);
    for (size_t at = 0; at < bytes;) {
        const size_t size = size_min(bytes - at, STREAM_BUFFER);
        memcpy(piece, (const unsigned char *)a->data + at, size);
        elements_to_le(piece, size / a->element_size, a->element_size);
        put_le(piece + size, piece_checksum(p, a->label, at, size), CHECKSUM_BYTES);
        TRY(send(p, piece, size + CHECKSUM_BYTES));
        at += size;
    }
    return DQT_OK;
}

dqt_status parts_send(struct parts *p, dqt_write_fn write, void *user_data) {
    unsigned char head[HEAD_BYTES];
    p->write = write;
    p->user_data = user_data;
    make_head(p, p->part, head);
    TRY(send(p, head, sizeof head));
    return updater_visit_state((dqt_updater *)(uintptr_t)p->updater, send_rows, p); /* send_rows only reads */
}

/* ---- Receiving ------------------------------------------------------------------------------------------------- */

static dqt_status receive(struct parts *p, size_t part, void *out, size_t size) {
    char name[64];
    snprintf(name, sizeof name, "part %zu of %zu", part, p->num_parts);
    return read_part_bytes(p->ctx, p->read, p->user_data, part, name, out, size);
}

static dqt_status receive_head(struct parts *p, size_t part) {
    unsigned char head[HEAD_BYTES], expected[HEAD_BYTES];
    TRY(receive(p, part, head, sizeof head));
    make_head(p, part, expected);
    if (memcmp(head, expected, sizeof head) == 0) return DQT_OK;
    const uint32_t crc = crc32c_add(&p->table, 0, head, HEAD_BYTES - CHECKSUM_BYTES);
    if (memcmp(head, part_magic, sizeof part_magic) != 0 || get_le(head + 40, 4) != crc)
        return fail(p->ctx, DQT_E_FORMAT, "part %zu of %zu: what has come is not what dqt_updater_write_part writes",
                    part, p->num_parts);
    if (get_le(head + 8, 8) != part || get_le(head + 16, 8) != p->num_parts)
        return fail(p->ctx, DQT_E_FORMAT, "what has come as part %zu of %zu is part %llu of %llu", part, p->num_parts,
                    (unsigned long long)get_le(head + 8, 8), (unsigned long long)get_le(head + 16, 8));
    if (get_le(head + 24, 8) != updater_step_count(p->updater))
        return fail(p->ctx, DQT_E_FORMAT, "part %zu of %zu has made %llu steps, part %zu %llu", part, p->num_parts,
                    (unsigned long long)get_le(head + 24, 8), p->part,
                    (unsigned long long)updater_step_count(p->updater));
    return fail(p->ctx, DQT_E_FORMAT,
                "part %zu of %zu has other parameters, options, rules or statistics than part %zu", part, p->num_parts,
                p->part);
}

dqt_status parts_open(struct parts *p, dqt_read_part_fn read, void *user_data) {
    p->read = read;
    p->user_data = user_data;
    for (size_t part = 0; part < p->num_parts; part++)
        if (part != p->part) TRY(receive_head(p, part));
    return DQT_OK;
}

/* `bytes` bytes of the array, all that part `part` has of it. */
static dqt_status copy_rows(struct parts *p, size_t part, uint64_t bytes, struct sink *s, const struct state_array *a) {
    unsigned char *piece = piece_bytes(p);
    for (uint64_t at = 0; at < bytes;) {
        const size_t size = bytes - at < STREAM_BUFFER ? (size_t)(bytes - at) : STREAM_BUFFER;
        const size_t count = size / a->element_size;
        TRY(receive(p, part, piece, size + CHECKSUM_BYTES));
        if (get_le(piece + size, CHECKSUM_BYTES) != piece_checksum(p, a->label, at, size))
            return fail(p->ctx, DQT_E_FORMAT, "part %zu of %zu: state %s is damaged", part, p->num_parts, a->label);
        elements_to_le(piece, count, a->element_size);
        if (!state_valid(a->label, piece, count, a->element_size))
            return fail(p->ctx, DQT_E_FORMAT,
                        "part %zu of %zu: state %s holds a number that is not finite or has the wrong sign", part,
                        p->num_parts, a->label);
        TRY(sink_elements(s, piece, count, a->element_size));
        at += size;
    }
    return DQT_OK;
}

dqt_status parts_copy(struct parts *p, struct sink *s, const struct state_array *a) {
    for (size_t part = 0; part < p->num_parts; part++) {
        const struct state_range r = state_range_of(p->updater, a, part, p->num_parts);
        if (part == p->part)
            TRY(sink_elements(s, a->data, a->count, a->element_size));
        else
            TRY(copy_rows(p, part, r.end - r.begin, s, a));
    }
    return DQT_OK;
}
