#if !defined(_WIN32)
#define _GNU_SOURCE      /* O_PATH */
#define _DARWIN_C_SOURCE /* flock, F_FULLFSYNC, O_SEARCH */
#define _FILE_OFFSET_BITS 64
#endif

#include "io/file_system.h"

#if !defined(_WIN32)

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <sys/random.h> /* getentropy */
#endif

/* Every struct stat is zeroed before it is filled: clang's MemorySanitizer does not know that fstat fills it. */

/* A folder that is only passed through needs no permission to read it. */
#if defined(O_PATH)
#define OPEN_FOLDER (O_PATH | O_DIRECTORY | O_CLOEXEC)
#elif defined(O_SEARCH)
#define OPEN_FOLDER (O_SEARCH | O_DIRECTORY | O_CLOEXEC)
#else
#define OPEN_FOLDER (O_RDONLY | O_DIRECTORY | O_CLOEXEC)
#endif

enum {
    PATH_BYTES = 4096,
    MOST_LINKS = 40, /* as Linux follows */
    ATTEMPTS = 100   /* at a name that is free */
};

#define TEMPORARY_PREFIX ".dqt-"
#define TEMPORARY_SUFFIX ".tmp"
enum { TEMPORARY_DIGITS = 16, TEMPORARY_BYTES = sizeof TEMPORARY_PREFIX + TEMPORARY_DIGITS + sizeof TEMPORARY_SUFFIX };

/* All names are relative to `folder`, so that a temporary name never makes a path too long, and the folder may be
 * renamed meanwhile. */
struct replacement {
    int folder, file;
    bool exists; /* the file to replace; then `old` describes it */
    struct stat old;
    const char *name; /* in path */
    char path[PATH_BYTES], link[PATH_BYTES];
    char temporary[TEMPORARY_BYTES];
};

size_t replacement_bytes(void) {
    return sizeof(struct replacement);
}

/* strerror_r comes in two kinds: POSIX returns an error number, GNU the text. */
static inline const char *text_of_posix(int result, const char *buffer) {
    return result == 0 ? buffer : "unknown error";
}
static inline const char *text_of_gnu(const char *result, const char *buffer) {
    (void)buffer;
    return result;
}

const char *system_text(int error, char *buffer) {
    return _Generic(strerror_r(error, buffer, SYSTEM_TEXT_BYTES), int
                    : text_of_posix, default
                    : text_of_gnu)(strerror_r(error, buffer, SYSTEM_TEXT_BYTES), buffer);
}

static bool failed(struct system_failure *failure, const char *doing, int error) {
    *failure = (struct system_failure){doing, error};
    return false;
}

static int open_at(int folder, const char *name, int flags, mode_t mode) {
    int file;
    do
        file = openat(folder, name, flags | O_CLOEXEC, mode);
    while (file < 0 && errno == EINTR);
    return file;
}

static void close_quietly(int file) {
    if (file >= 0) close(file);
}

/* ---- Reading -------------------------------------------------------------------------------------------------- */

int system_open(const char *path, _Bool wait, intptr_t *file, uint64_t *size) {
    struct stat info = {0};
    const int descriptor = open_at(AT_FDCWD, path, wait ? O_RDONLY : O_RDONLY | O_NONBLOCK, 0);
    if (descriptor < 0) return errno;
    *file = descriptor;
    *size = fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) ? (uint64_t)info.st_size : UINT64_MAX;
    return 0;
}

int system_read(intptr_t file, void *buffer, size_t size, size_t *got) {
    ssize_t n;
    do
        n = read((int)file, buffer, size);
    while (n < 0 && errno == EINTR);
    *got = n < 0 ? 0 : (size_t)n;
    return n < 0 ? errno : 0;
}

int system_seek(intptr_t file, uint64_t offset) {
    return lseek((int)file, (off_t)offset, SEEK_SET) < 0 ? errno : 0;
}

void system_close(intptr_t file) {
    close((int)file);
}

/* ---- The file that a path means ------------------------------------------------------------------------------- */

static const char *refusal(mode_t mode) {
    if (S_ISREG(mode)) return NULL;
    if (S_ISDIR(mode)) return "it is a folder, which a file does not replace; nothing was written";
    if (S_ISFIFO(mode)) return "it is a fifo, not a regular file; nothing was written";
    if (S_ISSOCK(mode)) return "it is a socket, not a regular file; nothing was written";
    return "it is a device, not a regular file; nothing was written";
}

/* Cuts r->path into the folder, which is opened in place of the one that the path is relative to, and the name. */
static bool enter_folder(struct replacement *r, struct system_failure *failure) {
    char *slash = strrchr(r->path, '/');
    const char *folder = !slash ? "." : slash == r->path ? "/" : r->path;
    if (slash) *slash = '\0';
    r->name = slash ? slash + 1 : r->path;
    const int opened = open_at(r->folder, folder, OPEN_FOLDER, 0);
    const int error = errno;
    if (r->folder != AT_FDCWD) close(r->folder);
    r->folder = opened;
    return opened >= 0 || failed(failure, "opening its folder", error);
}

/* The link's text becomes the path, relative to the folder that the link lies in. */
static bool follow_link(struct replacement *r, struct system_failure *failure) {
    const ssize_t n = readlinkat(r->folder, r->name, r->link, sizeof r->link);
    if (n < 0) return failed(failure, "reading a symbolic link", errno);
    if ((size_t)n >= sizeof r->link) return failed(failure, "reading a symbolic link", ENAMETOOLONG);
    memcpy(r->path, r->link, (size_t)n);
    r->path[n] = '\0';
    return true;
}

/* Folder, name and, if it exists, description of the file that the path means at the end of all symbolic links. */
static bool find_target(struct replacement *r, const char *path, struct system_failure *failure) {
    struct stat info = {0};
    const size_t length = strlen(path);
    if (length == 0) return failed(failure, "finding a file with an empty name", ENOENT);
    if (length >= sizeof r->path) return failed(failure, "finding it", ENAMETOOLONG);
    /* The kernel's own links, such as /dev/stdout's, mean what their text does not say. */
    if (stat(path, &info) == 0 && refusal(info.st_mode)) return failed(failure, refusal(info.st_mode), 0);
    memcpy(r->path, path, length + 1);
    for (int links = 0; links <= MOST_LINKS; links++) {
        if (!enter_folder(r, failure)) return false;
        if (*r->name == '\0') return failed(failure, refusal(S_IFDIR), 0);
        if (fstatat(r->folder, r->name, &r->old, AT_SYMLINK_NOFOLLOW) != 0)
            return errno == ENOENT || failed(failure, "finding it", errno);
        if (!S_ISLNK(r->old.st_mode)) {
            r->exists = true;
            return !refusal(r->old.st_mode) || failed(failure, refusal(r->old.st_mode), 0);
        }
        if (!follow_link(r, failure)) return false;
    }
    return failed(failure, "following its symbolic links", ELOOP);
}

/* ---- Temporary files ------------------------------------------------------------------------------------------ */

/* A temporary file belongs to who holds its lock (flock), which ends with the process, however that ends, and means the
 * same to processes of other containers and, where the file system shares locks, of other machines. Process numbers and
 * ages do not. Where there are no locks, nothing is ever taken for stale. */
static bool lock_taken(int file) {
    int result;
    do
        result = flock(file, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    return result == 0;
}

static bool is_temporary_name(const char *name) {
    const size_t prefix = strlen(TEMPORARY_PREFIX);
    return strncmp(name, TEMPORARY_PREFIX, prefix) == 0 &&
           strspn(name + prefix, "0123456789abcdef") == TEMPORARY_DIGITS &&
           strcmp(name + prefix + TEMPORARY_DIGITS, TEMPORARY_SUFFIX) == 0;
}

static void remove_if_stale(int folder, const char *name) {
    struct stat info = {0};
    if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode)) return;
    int file = open_at(folder, name, O_RDWR | O_NONBLOCK | O_NOFOLLOW, 0); /* a lock over NFS wants a writable file */
    if (file < 0) file = open_at(folder, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
    if (file < 0) return;
    if (lock_taken(file)) unlinkat(folder, name, 0);
    close(file);
}

/* Needs a folder that may be read; what cannot be removed stays. */
static void remove_stale(const struct replacement *r) {
    const int folder = open_at(r->folder, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *entries = folder < 0 ? NULL : fdopendir(folder);
    if (!entries) {
        close_quietly(folder);
        return;
    }
    for (const struct dirent *e; (e = readdir(entries));)
        if (is_temporary_name(e->d_name)) remove_if_stale(r->folder, e->d_name);
    closedir(entries);
}

static void new_temporary_name(struct replacement *r, int attempt) {
    uint64_t number;
    if (getentropy(&number, sizeof number) != 0)
        number = ((uint64_t)getpid() << 32) + (uint64_t)(uintptr_t)r + (uint64_t)attempt;
    snprintf(r->temporary, sizeof r->temporary, "%s%016llx%s", TEMPORARY_PREFIX, (unsigned long long)number,
             TEMPORARY_SUFFIX);
}

/* A file that nobody but its owner may read stays so while it is being written. */
static bool create_temporary(struct replacement *r, struct system_failure *failure) {
    static const char doing[] = "creating a temporary file beside it";
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        struct stat info = {0};
        new_temporary_name(r, attempt);
        r->file = open_at(r->folder, r->temporary, O_WRONLY | O_CREAT | O_EXCL, r->exists ? 0600 : 0666);
        if (r->file < 0 && errno == EEXIST) continue;
        if (r->file < 0) return failed(failure, doing, errno);
        /* Between creation and lock another process may take the file for a stale one. */
        const bool locked = lock_taken(r->file) || errno != EWOULDBLOCK;
        if (locked && fstat(r->file, &info) == 0 && info.st_nlink > 0) return true;
        unlinkat(r->folder, r->temporary, 0);
        close(r->file);
    }
    return failed(failure, doing, EEXIST);
}

/* ---- Replacing ------------------------------------------------------------------------------------------------ */

bool replacement_begin(struct replacement *r, const char *path, struct system_failure *failure) {
    r->folder = AT_FDCWD;
    r->exists = false;
    if (find_target(r, path, failure)) {
        remove_stale(r);
        if (create_temporary(r, failure)) return true;
    }
    if (r->folder != AT_FDCWD) close_quietly(r->folder);
    return false;
}

int replacement_write(struct replacement *r, const void *data, size_t size, size_t *written) {
    ssize_t n;
    do
        n = write(r->file, data, size);
    while (n < 0 && errno == EINTR);
    *written = n > 0 ? (size_t)n : 0;
    return n > 0 ? 0 : n < 0 ? errno : EIO;
}

static int flush(int file) {
    int result;
#if defined(F_FULLFSYNC)
    if (fcntl(file, F_FULLFSYNC) == 0) return 0; /* macOS: fsync leaves data in the drive's cache */
#endif
    do
        result = fsync(file);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

/* Owner, group and mode of the file to replace, as far as this process may give them and the file system has them. A
 * group that it may not give gets no more than everyone. */
static void keep_attributes(const struct replacement *r) {
    mode_t mode = r->old.st_mode & 07777;
    struct stat now = {0};
    if (fstat(r->file, &now) != 0) return;
    const bool owner = now.st_uid == r->old.st_uid || fchown(r->file, r->old.st_uid, (gid_t)-1) == 0;
    const bool group = now.st_gid == r->old.st_gid || fchown(r->file, (uid_t)-1, r->old.st_gid) == 0;
    if (!owner) mode &= (mode_t)~S_ISUID;
    if (!group) mode &= 04707 | S_ISVTX | (mode & 07) << 3;
    (void)!fchmod(r->file, mode);
}

/* A rename lasts when its folder is flushed. A folder that may not be read cannot be: there the file is flushed once
 * more, which on file systems with a journal takes the rename along. Some file systems cannot flush folders. */
static int flush_folder(const struct replacement *r, int renamed) {
    const int folder = open_at(r->folder, ".", O_RDONLY | O_DIRECTORY, 0);
    if (folder < 0) {
        if (renamed >= 0) flush(renamed);
        return 0;
    }
    const int error = flush(folder);
    close(folder);
    return error == EINVAL || error == ENOTSUP ? 0 : error;
}

bool replacement_commit(struct replacement *r, struct system_failure *failure, bool *in_place) {
    *in_place = false;
    if (r->exists) keep_attributes(r);
    int error = flush(r->file);
    failed(failure, "flushing it", error);
    /* close may report a late write error, so it comes before the rename; the lock must last beyond that. */
    const int lock = error ? -1 : fcntl(r->file, F_DUPFD_CLOEXEC, 0);
    if (close(r->file) != 0 && !error && errno != EINTR) failed(failure, "closing it", error = errno);
    if (!error && renameat(r->folder, r->temporary, r->folder, r->name) != 0)
        failed(failure, "renaming the temporary file", error = errno);
    if (error) {
        unlinkat(r->folder, r->temporary, 0);
    } else {
        *in_place = true;
        failed(failure, "flushing its folder", error = flush_folder(r, lock));
    }
    close_quietly(lock);
    close(r->folder);
    return error == 0;
}

void replacement_discard(struct replacement *r) {
    unlinkat(r->folder, r->temporary, 0);
    close(r->file);
    close(r->folder);
}

#endif
