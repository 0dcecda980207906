#include "io/entries.h"

#include <string.h>

#include "core/status.h"

enum { FIXED_BYTES = 6 };

static size_t value_bytes(enum entry_kind kind) {
    switch (kind) {
    case ENTRY_INT32:
    case ENTRY_FLOAT: return 4;
    case ENTRY_SIZE:
    case ENTRY_UINT64: return 8;
    }
    return 0;
}

static uint64_t value_get(const struct entry *e, const void *object) {
    const unsigned char *at = (const unsigned char *)object + e->offset;
    uint32_t word;
    uint64_t number;
    size_t size;
    switch (e->kind) {
    case ENTRY_INT32:
    case ENTRY_FLOAT: memcpy(&word, at, sizeof word); return word;
    case ENTRY_SIZE: memcpy(&size, at, sizeof size); return size;
    case ENTRY_UINT64: memcpy(&number, at, sizeof number); return number;
    }
    return 0;
}

/* False: it does not fit. */
static bool value_set(const struct entry *e, uint64_t value, void *object) {
    unsigned char *at = (unsigned char *)object + e->offset;
    const uint32_t word = (uint32_t)value;
    const size_t size = (size_t)value;
    switch (e->kind) {
    case ENTRY_INT32:
    case ENTRY_FLOAT: memcpy(at, &word, sizeof word); break;
    case ENTRY_SIZE: memcpy(at, &size, sizeof size); return size == value;
    case ENTRY_UINT64: memcpy(at, &value, sizeof value); break;
    }
    return true;
}

static bool is_written(const struct entry *e, const void *object) {
    return !e->later || value_get(e, object) != 0;
}

uint64_t entries_bytes(const struct entry_table *table, const void *object) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < table->count; i++)
        if (is_written(&table->entries[i], object))
            bytes += FIXED_BYTES + strlen(table->entries[i].name) + value_bytes(table->entries[i].kind);
    return bytes;
}

dqt_status entries_write(struct sink *s, const struct entry_table *table, const void *object) {
    for (size_t i = 0; i < table->count; i++) {
        const struct entry *e = &table->entries[i];
        if (!is_written(e, object)) continue;
        TRY(sink_number(s, strlen(e->name), 2));
        TRY(sink_number(s, value_bytes(e->kind), 4));
        TRY(sink_bytes(s, e->name, strlen(e->name)));
        TRY(sink_number(s, value_get(e, object), value_bytes(e->kind)));
    }
    return DQT_OK;
}

static const struct entry *find(const struct entry_table *table, const char *name) {
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->entries[i].name, name) == 0) return &table->entries[i];
    return NULL;
}

dqt_status entries_read(struct source *s, const struct entry_table *table, uint64_t bytes, void *object) {
    const uint64_t end = s->consumed + bytes;
    bool seen[MAX_ENTRIES] = {false};
    DQT_ASSERT(table->count <= MAX_ENTRIES);
    while (s->consumed < end) {
        uint64_t name_length, length, value;
        char name[ENTRY_NAME_BYTES];
        if (end - s->consumed < FIXED_BYTES)
            return fail(s->ctx, DQT_E_FORMAT, "%s: the %s is cut short", s->what, table->what);
        TRY(source_number(s, 2, &name_length));
        TRY(source_number(s, 4, &length));
        if (name_length >= sizeof name || name_length + length > end - s->consumed)
            return fail(s->ctx, DQT_E_FORMAT, "%s: the %s is damaged", s->what, table->what);
        TRY(source_bytes(s, name, (size_t)name_length));
        name[name_length] = '\0';
        const struct entry *e = find(table, name);
        if (!e)
            return fail(s->ctx, DQT_E_FORMAT,
                        "%s: the %s has an entry \"%s\", which this version of the library does not know", s->what,
                        table->what, name);
        if (length != value_bytes(e->kind) || seen[e - table->entries])
            return fail(s->ctx, DQT_E_FORMAT, "%s: the %s's entry \"%s\" is damaged", s->what, table->what, name);
        TRY(source_number(s, (size_t)length, &value));
        if (!value_set(e, value, object))
            return fail(s->ctx, DQT_E_FORMAT, "%s: the %s's entry \"%s\" is too large for this system", s->what,
                        table->what, name);
        if (e->later && value == 0)
            return fail(s->ctx, DQT_E_FORMAT, "%s: the %s's entry \"%s\" is 0, which is left out", s->what, table->what,
                        name);
        seen[e - table->entries] = true;
    }
    for (size_t i = 0; i < table->count; i++)
        if (!seen[i] && !table->entries[i].later)
            return fail(s->ctx, DQT_E_FORMAT, "%s: the %s has no entry \"%s\"", s->what, table->what,
                        table->entries[i].name);
    return DQT_OK;
}

const char *entries_difference(const struct entry_table *table, const void *a, const void *b) {
    for (size_t i = 0; i < table->count; i++)
        if (value_get(&table->entries[i], a) != value_get(&table->entries[i], b)) return table->entries[i].name;
    return NULL;
}
