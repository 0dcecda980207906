/* Sections of a checkpoint that partial models send to the one that writes the file of all. */
#ifndef DQT_IO_CHECKPOINT_STAGE_H
#define DQT_IO_CHECKPOINT_STAGE_H

#include "io/checkpoint.h"

/* Sections that each partial model has of its own, and that lie together in the file. */
enum stage_group { STAGE_PARAMETERS, STAGE_RULES, STAGE_STATES, STAGE_GROUPS };

/* What a partial model says of itself, and sends first:
 *
 *   magic 8 | first, count, whole, step, digest 8 each | bytes, sections 8 each, group by group | checksum 4
 *
 * Then come the groups' sections as they will lie in the file, in pieces of STREAM_BUFFER bytes and one of what is left
 * of the group, each with a checksum (of group, the byte at which the piece begins, and its bytes) behind it. Head and
 * pieces are each written by one call and read by as many bytes. */
struct stage_head {
    uint64_t first, count, whole; /* numbers of its parameters among those of the whole model */
    uint64_t step, digest;        /* digest: of what all have alike */
    uint64_t bytes[STAGE_GROUPS], sections[STAGE_GROUPS];
};

struct stages;

dqt_status stages_create(dqt_context *ctx, size_t most, struct stages **out);
void stages_destroy(struct stages *s); /* NULL: nothing */

/* Sends the head; then each group is written, through stages_write, between begin and the sink's flush. */
dqt_status stages_send(struct stages *s, const struct stage_head *own, dqt_write_fn write, void *user_data);
void stages_begin_group(struct stages *s, enum stage_group group);
int32_t stages_write(void *stages, const void *bytes, size_t size); /* at most STREAM_BUFFER */

/* Reads the heads of part 1, 2, ... until they make up the whole model with `own`, the first. DQT_E_FORMAT: they do
 * not. */
dqt_status stages_open(struct stages *s, const struct stage_head *own, dqt_read_part_fn read, void *user_data);
/* A group of all of them, in order; *sections grows by as many. A sink that counts gets nothing but their size. */
dqt_status stages_copy(struct stages *s, enum stage_group group, struct sink *sink, uint32_t *sections);

#endif
