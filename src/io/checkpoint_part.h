/* State of rows that several processes have, each its part's, on its way into one file. */
#ifndef DQT_IO_CHECKPOINT_PART_H
#define DQT_IO_CHECKPOINT_PART_H

#include "io/checkpoint.h"

/* Where the bytes of part `part` lie in this array of all rows; an array that is not of rows is whole in each. */
struct state_range {
    uint64_t begin, end, all; /* all: bytes of the array */
};
struct state_range state_range_of(const dqt_updater *u, const struct state_array *a, size_t part, size_t num_parts);

/* What a part sends:
 *
 *   magic 8 | part 8 | num_parts 8 | step 8 | digest 8 | checksum 4
 *   per array of rows, in the order of updater_visit_state: pieces of STREAM_BUFFER bytes and one of what is left, each
 *   with a checksum (of the array's label, the byte at which the piece begins, and its bytes) behind it
 *
 * Head and pieces are each written by one call and read by as many bytes, so that a host may send them as messages.
 * digest: of what all parts have alike. */
struct parts;

/* Of `u`, an updater of one part, for reading or for writing; parts_close accepts NULL. */
dqt_status parts_create(const dqt_updater *u, uint64_t digest, struct parts **out);
void parts_destroy(struct parts *p);

dqt_status parts_send(struct parts *p, dqt_write_fn write, void *user_data);

/* Reads the heads of all parts but u's own. DQT_E_FORMAT: not what parts of this step have sent. */
dqt_status parts_open(struct parts *p, dqt_read_part_fn read, void *user_data);
/* The rows of all parts, u's own among them, in their order. */
dqt_status parts_copy(struct parts *p, struct sink *s, const struct state_array *a);

#endif
