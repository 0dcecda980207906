#include "io/checkpoint_stage.h"

#include <stdio.h>

#include "core/status.h"

enum { HEAD_NUMBERS = 5 + 2 * STAGE_GROUPS, CHECKSUM_BYTES = 4, HEAD_BYTES = 8 + 8 * HEAD_NUMBERS + CHECKSUM_BYTES };

static const unsigned char stage_magic[8] = {'D', 'Q', 'T', 'S', 'T', 'A', 'G', '1'};

struct stages {
    dqt_context *ctx;
    size_t bytes, most, count;
    struct stage_head *heads; /* [count] of the others */
    dqt_read_part_fn read;
    dqt_write_fn write;
    void *user_data;
    enum stage_group group;
    uint64_t at; /* bytes of the group that are sent */
    struct crc32c table;
    unsigned char piece[STREAM_BUFFER + CHECKSUM_BYTES];
};

dqt_status stages_create(dqt_context *ctx, size_t most, struct stages **out) {
    struct arena a = {0};
    struct stages *s = NULL;
    struct stage_head *heads = NULL;
    *out = NULL;
    for (int pass = 0; pass < 2; pass++) {
        s = arena_take(&a, 1, sizeof *s);
        heads = arena_take(&a, most, sizeof *heads);
        if (pass == 0 && !arena_alloc(ctx, &a))
            return fail(ctx, DQT_E_MEMORY, "no memory for a buffer of %zu bytes", sizeof *s);
    }
    s->ctx = ctx;
    s->bytes = a.used;
    s->most = most;
    s->heads = heads;
    crc32c_init(&s->table);
    *out = s;
    return DQT_OK;
}

void stages_destroy(struct stages *s) {
    if (s) memory_free(s->ctx, s, s->bytes);
}

/* Of the piece that begins at byte `at` of a group. */
static uint32_t piece_checksum(struct stages *s, enum stage_group group, uint64_t at, size_t size) {
    unsigned char place[16];
    put_le(place, group, 8);
    put_le(place + 8, at, 8);
    return crc32c_add(&s->table, crc32c_add(&s->table, 0, place, sizeof place), s->piece, size);
}

/* ---- Sending --------------------------------------------------------------------------------------------------- */

dqt_status stages_send(struct stages *s, const struct stage_head *own, dqt_write_fn write, void *user_data) {
    uint64_t numbers[HEAD_NUMBERS] = {own->first, own->count, own->whole, own->step, own->digest};
    unsigned char head[HEAD_BYTES];
    s->write = write;
    s->user_data = user_data;
    for (int g = 0; g < STAGE_GROUPS; g++) {
        numbers[5 + 2 * g] = own->bytes[g];
        numbers[6 + 2 * g] = own->sections[g];
    }
    memcpy(head, stage_magic, sizeof stage_magic);
    for (size_t i = 0; i < HEAD_NUMBERS; i++)
        put_le(head + 8 + 8 * i, numbers[i], 8);
    put_le(head + HEAD_BYTES - CHECKSUM_BYTES, crc32c_add(&s->table, 0, head, HEAD_BYTES - CHECKSUM_BYTES), 4);
    const int32_t error = write(user_data, head, sizeof head);
    return error ? fail(s->ctx, DQT_E_IO, "sending a partial model's head failed with error %d", error) : DQT_OK;
}

void stages_begin_group(struct stages *s, enum stage_group group) {
    s->group = group;
    s->at = 0;
}

int32_t stages_write(void *stages, const void *bytes, size_t size) {
    struct stages *s = stages;
    DQT_ASSERT(size <= STREAM_BUFFER);
    memcpy(s->piece, bytes, size);
    put_le(s->piece + size, piece_checksum(s, s->group, s->at, size), CHECKSUM_BYTES);
    s->at += size;
    return s->write(s->user_data, s->piece, size + CHECKSUM_BYTES);
}

/* ---- Receiving ------------------------------------------------------------------------------------------------- */

static dqt_status receive(struct stages *s, size_t part, void *out, size_t size) {
    char name[64];
    snprintf(name, sizeof name, "partial model %zu", part);
    return read_part_bytes(s->ctx, s->read, s->user_data, part, name, out, size);
}

static dqt_status receive_head(struct stages *s, size_t part, struct stage_head *h) {
    unsigned char head[HEAD_BYTES];
    uint64_t numbers[HEAD_NUMBERS];
    TRY(receive(s, part, head, sizeof head));
    const uint32_t crc = crc32c_add(&s->table, 0, head, HEAD_BYTES - CHECKSUM_BYTES);
    if (memcmp(head, stage_magic, sizeof stage_magic) != 0 || get_le(head + HEAD_BYTES - CHECKSUM_BYTES, 4) != crc)
        return fail(s->ctx, DQT_E_FORMAT, "partial model %zu: what has come is not what dqt_llama_write_part writes",
                    part);
    for (size_t i = 0; i < HEAD_NUMBERS; i++)
        numbers[i] = get_le(head + 8 + 8 * i, 8);
    *h = (struct stage_head){numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], {0}, {0}};
    for (int g = 0; g < STAGE_GROUPS; g++) {
        h->bytes[g] = numbers[5 + 2 * g];
        h->sections[g] = numbers[6 + 2 * g];
        if (h->bytes[g] > UINT64_MAX / 4 || h->sections[g] > UINT32_MAX / 4)
            return fail(s->ctx, DQT_E_FORMAT, "partial model %zu: its size is impossible", part);
    }
    return DQT_OK;
}

static dqt_status check_head(const struct stages *s, size_t part, const struct stage_head *own,
                             const struct stage_head *h, uint64_t next) {
    if (h->first != next || h->whole != own->whole || h->count == 0 || h->count > own->whole - next)
        return fail(s->ctx, DQT_E_FORMAT,
                    "partial model %zu has %llu parameters from number %llu of %llu on; it must go on from number %llu "
                    "of %llu",
                    part, (unsigned long long)h->count, (unsigned long long)h->first, (unsigned long long)h->whole,
                    (unsigned long long)next, (unsigned long long)own->whole);
    if (h->step != own->step)
        return fail(s->ctx, DQT_E_FORMAT, "partial model %zu has made %llu steps, the first %llu", part,
                    (unsigned long long)h->step, (unsigned long long)own->step);
    if (h->digest == own->digest) return DQT_OK;
    return fail(s->ctx, DQT_E_FORMAT,
                "partial model %zu has another config, other options or another norm than the first", part);
}

dqt_status stages_open(struct stages *s, const struct stage_head *own, dqt_read_part_fn read, void *user_data) {
    s->read = read;
    s->user_data = user_data;
    for (uint64_t next = own->count; next < own->whole; s->count++) {
        struct stage_head *h = &s->heads[s->count];
        if (s->count == s->most)
            return fail(s->ctx, DQT_E_FORMAT, "the first %zu partial models are not the whole model", s->most + 1);
        TRY(receive_head(s, s->count + 1, h));
        TRY(check_head(s, s->count + 1, own, h, next));
        next += h->count;
    }
    return DQT_OK;
}

static dqt_status copy_group(struct stages *s, size_t index, enum stage_group group, struct sink *sink) {
    const uint64_t bytes = s->heads[index].bytes[group];
    for (uint64_t at = 0; at < bytes;) {
        const size_t size = bytes - at < STREAM_BUFFER ? (size_t)(bytes - at) : STREAM_BUFFER;
        TRY(receive(s, index + 1, s->piece, size + CHECKSUM_BYTES));
        if (get_le(s->piece + size, CHECKSUM_BYTES) != piece_checksum(s, group, at, size))
            return fail(s->ctx, DQT_E_FORMAT, "partial model %zu is damaged", index + 1);
        TRY(sink_bytes(sink, s->piece, size));
        at += size;
    }
    return DQT_OK;
}

dqt_status stages_copy(struct stages *s, enum stage_group group, struct sink *sink, uint32_t *sections) {
    for (size_t i = 0; i < s->count; i++) {
        *sections += (uint32_t)s->heads[i].sections[group];
        if (sink->write)
            TRY(copy_group(s, i, group, sink));
        else
            sink->written += s->heads[i].bytes[group];
    }
    return DQT_OK;
}
