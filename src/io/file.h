/* Files by path: written beside their place and renamed, so that a reader sees the old file or the new one, never half.
 */
#ifndef DQT_IO_FILE_H
#define DQT_IO_FILE_H

#include "core/memory.h"

/* Makes a file out of what `produce` writes through the callback it is given. On failure the path is as it was. Refuses
 * to replace what is not a regular file. docs/checkpoint.md, "Files by path". */
typedef dqt_status (*file_produce_fn)(void *arg, dqt_write_fn write, void *user_data);
dqt_status file_replace(dqt_context *ctx, const char *path, file_produce_fn produce, void *arg);

/* An open file; file_read is a dqt_read_fn whose user_data is the struct. */
struct input_file {
    intptr_t handle;
    uint64_t size; /* UINT64_MAX if it is not a regular file */
    int error;     /* of the read that failed */
};
dqt_status file_open(dqt_context *ctx, const char *path, struct input_file *out);
/* For who refuses or cannot read what is not a regular file: no writer of a fifo is waited for. */
dqt_status file_open_at_once(dqt_context *ctx, const char *path, struct input_file *out);
bool file_exists(const char *path); /* and can be opened */
size_t file_read(void *file, void *buffer, size_t size);
/* Exactly `size` bytes from byte `offset` of a regular file. DQT_E_FORMAT if it ends before them. */
dqt_status file_read_at(dqt_context *ctx, struct input_file *file, uint64_t offset, void *buffer, size_t size);
/* A regular file of at most `most` bytes, whole; on failure *text is NULL and *length 0. */
dqt_status file_read_text(dqt_context *ctx, const char *path, uint64_t most, char **text, size_t *length);
void file_free_text(dqt_context *ctx, char *text, size_t length);
/* Closes it. `status` is what came of the reading; a failed read gets its sentence here. */
dqt_status file_close(dqt_context *ctx, const char *path, struct input_file *file, dqt_status status);

#endif
