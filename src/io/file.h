/* Files by path: written beside their place and renamed, so that a reader sees the old file or the new one, never half.
 */
#ifndef DQT_IO_FILE_H
#define DQT_IO_FILE_H

#include "core/memory.h"

/* Makes a file out of what `produce` writes through the callback it is given. On failure the path is as it was. */
typedef dqt_status (*file_produce_fn)(void *arg, dqt_write_fn write, void *user_data);
dqt_status file_replace(dqt_context *ctx, const char *path, file_produce_fn produce, void *arg);

/* An open file; file_read is a dqt_read_fn whose user_data is the struct. */
struct input_file {
    int descriptor;
    uint64_t size; /* UINT64_MAX if it is not a regular file */
};
dqt_status file_open(dqt_context *ctx, const char *path, struct input_file *out);
size_t file_read(void *file, void *buffer, size_t size);
void file_close(struct input_file *file);

#endif
