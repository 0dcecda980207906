/* Members of a struct as tagged entries of a file: each has its name beside its value, so that a reader can say what it
 * does not know, and a later version can add some.
 *
 *   entry   name length 2 | value length 4 | name | value, little-endian */
#ifndef DQT_IO_ENTRIES_H
#define DQT_IO_ENTRIES_H

#include "io/stream.h"

enum entry_kind { ENTRY_INT32, ENTRY_FLOAT, ENTRY_SIZE, ENTRY_UINT64 };

struct entry {
    const char *name;
    enum entry_kind kind;
    size_t offset; /* in the struct */
    bool later;    /* came after the first files: written where it is not 0, and one that is missing is 0 */
};

enum { MAX_ENTRIES = 64, ENTRY_NAME_BYTES = 64 };

struct entry_table {
    const char *what; /* "config": for sentences */
    const struct entry *entries;
    size_t count; /* at most MAX_ENTRIES */
};

/* Bytes of an object's entries. */
uint64_t entries_bytes(const struct entry_table *table, const void *object);
dqt_status entries_write(struct sink *s, const struct entry_table *table, const void *object);

/* Reads `bytes` bytes of entries into the object. Each of the table comes once, later ones at most once and not as 0:
 * an object has one way of being written. An unknown name, a wrong length, a number that a size_t cannot hold, one that
 * is missing or comes twice: DQT_E_FORMAT with its name. */
dqt_status entries_read(struct source *s, const struct entry_table *table, uint64_t bytes, void *object);

/* The first entry in which two objects differ; NULL: none. Floats are compared bit by bit. */
const char *entries_difference(const struct entry_table *table, const void *a, const void *b);

#endif
