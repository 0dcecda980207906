/* What files need of the operating system: file_posix.c and file_windows.c each give all of it. These functions know
 * nothing of contexts, statuses and sentences; they never allocate. */
#ifndef DQT_IO_FILE_SYSTEM_H
#define DQT_IO_FILE_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

enum {
    LARGEST_CALL = 1 << 30, /* bytes asked of one read or write */
    SYSTEM_TEXT_BYTES = 256
};

/* Why a step failed: what was being done, and the system's error number. With error 0 `doing` is the whole reason. */
struct system_failure {
    const char *doing;
    int error;
};

/* The system's text for an error number, in the buffer of SYSTEM_TEXT_BYTES or elsewhere; thread-safe. */
const char *system_text(int error, char *buffer);

/* ---- Reading -------------------------------------------------------------------------------------------------- */

/* 0 or the system's error number. *size is UINT64_MAX for what is not a regular file. Of a fifo the call waits until
 * somebody writes to it, if `wait`. */
int system_open(const char *path, _Bool wait, intptr_t *file, uint64_t *size);
/* Up to `size` bytes, 0 at the end; interruptions by signals are no errors. */
int system_read(intptr_t file, void *buffer, size_t size, size_t *got);
/* The next read is of this byte; of regular files. */
int system_seek(intptr_t file, uint64_t offset);
void system_close(intptr_t file);

/* ---- Replacing a file ----------------------------------------------------------------------------------------- */

/* A file being written beside the one that it will replace; the members are the system's own. */
struct replacement;
size_t replacement_bytes(void);

/* Finds the file that `path` means, through symbolic links; refuses what exists and is not a regular file; removes
 * temporary files that a killed process left; creates a temporary file. True, or the failure: then nothing remains. */
_Bool replacement_begin(struct replacement *r, const char *path, struct system_failure *failure);
/* Up to `size` bytes of data. 0 or the system's error number. */
int replacement_write(struct replacement *r, const void *data, size_t size, size_t *written);
/* Flushes the file, gives it the mode and owner of the one it replaces, and puts it in that one's place. On failure the
 * old file is as it was and the temporary one is removed, unless *in_place: then only the folder was not flushed. */
_Bool replacement_commit(struct replacement *r, struct system_failure *failure, _Bool *in_place);
/* Instead of a commit: removes the temporary file. */
void replacement_discard(struct replacement *r);

#endif
