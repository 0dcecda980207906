#if defined(_WIN32)
#define _WIN32_WINNT 0x0600 /* Vista: SetFileInformationByHandle, GetFinalPathNameByHandleW */
#define WIN32_LEAN_AND_MEAN
#endif

#include "io/file_system.h"

#if defined(_WIN32)

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>
#include <windows.h>

/* Paths come in UTF-8 and go to the system in UTF-16. A temporary file is open without any sharing until it has its
 * name, so that nobody can remove one that is being written: that takes the place of the lock of file_posix.c. */
enum {
    PATH_UNITS = 32768, /* the longest path of NT, with its end */
    LONG_PATH = 248,    /* from here on the prefix is needed that turns off the limit of MAX_PATH */
    ATTEMPTS = 100
};

#define TEMPORARY_PREFIX L".dqt-"
#define TEMPORARY_SUFFIX L".tmp"
enum { TEMPORARY_DIGITS = 16, TEMPORARY_UNITS = 5 + TEMPORARY_DIGITS + 4 + 1 };

struct rename_request {
    FILE_RENAME_INFO info;
    WCHAR rest[PATH_UNITS]; /* of info.FileName */
};

struct replacement {
    HANDLE file;
    size_t folder_units; /* of target, the last separator included */
    WCHAR target[PATH_UNITS], path[PATH_UNITS];
    struct rename_request rename;
};

size_t replacement_bytes(void) {
    return sizeof(struct replacement);
}

const char *system_text(int error, char *buffer) {
    WCHAR text[SYSTEM_TEXT_BYTES / 4]; /* a unit takes three bytes at most */
    DWORD n = FormatMessageW(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, NULL, (DWORD)error, 0, text,
                             SYSTEM_TEXT_BYTES / 4, NULL);
    while (n && (text[n - 1] == L'\r' || text[n - 1] == L'\n' || text[n - 1] == L'.'))
        n--;
    const int bytes = WideCharToMultiByte(CP_UTF8, 0, text, (int)n, buffer, SYSTEM_TEXT_BYTES - 1, NULL, NULL);
    if (n == 0 || bytes <= 0)
        snprintf(buffer, SYSTEM_TEXT_BYTES, "Windows error %d", error);
    else
        buffer[bytes] = '\0';
    return buffer;
}

static int last_system_error(void) {
    return (int)GetLastError();
}

static bool failed(struct system_failure *failure, const char *doing, int error) {
    *failure = (struct system_failure){doing, error};
    return false;
}

/* Absolute, in UTF-16, of any length. Needs two buffers of PATH_UNITS. */
static bool wide_path(const char *path, WCHAR *out, WCHAR *scratch) {
    static const WCHAR prefix[] = L"\\\\?\\";
    if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, scratch, PATH_UNITS)) return false;
    const DWORD n = GetFullPathNameW(scratch, PATH_UNITS - 4, out, NULL);
    if (n == 0 || n >= PATH_UNITS - 4) return false;
    if (n >= LONG_PATH && out[1] == L':') {
        memmove(out + 4, out, (n + 1) * sizeof *out);
        memcpy(out, prefix, 4 * sizeof *out);
    }
    return true;
}

/* ---- Reading -------------------------------------------------------------------------------------------------- */

int system_open(const char *path, _Bool wait, intptr_t *file, uint64_t *size) {
    (void)wait; /* opening a pipe does not wait here */
    WCHAR wide[PATH_UNITS], scratch[PATH_UNITS];
    LARGE_INTEGER length;
    if (!wide_path(path, wide, scratch)) return last_system_error();
    HANDLE handle = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                                OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (handle == INVALID_HANDLE_VALUE) return last_system_error();
    *file = (intptr_t)handle;
    *size = GetFileType(handle) == FILE_TYPE_DISK && GetFileSizeEx(handle, &length) ? (uint64_t)length.QuadPart
                                                                                    : UINT64_MAX;
    return 0;
}

int system_read(intptr_t file, void *buffer, size_t size, size_t *got) {
    DWORD n = 0;
    *got = 0;
    if (!ReadFile((HANDLE)file, buffer, (DWORD)size, &n, NULL)) {
        const int error = last_system_error();
        return error == ERROR_BROKEN_PIPE || error == ERROR_HANDLE_EOF ? 0 : error;
    }
    *got = n;
    return 0;
}

int system_seek(intptr_t file, uint64_t offset) {
    LARGE_INTEGER to;
    to.QuadPart = (LONGLONG)offset;
    return SetFilePointerEx((HANDLE)file, to, NULL, FILE_BEGIN) ? 0 : last_system_error();
}

void system_close(intptr_t file) {
    CloseHandle((HANDLE)file);
}

/* ---- Replacing ------------------------------------------------------------------------------------------------ */

/* What the path means at the end of its links becomes the target. */
static bool find_target(struct replacement *r, const char *path, struct system_failure *failure) {
    if (!wide_path(path, r->target, r->path)) return failed(failure, "finding it", last_system_error());
    HANDLE old = CreateFileW(r->target, FILE_READ_ATTRIBUTES, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                             NULL, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (old == INVALID_HANDLE_VALUE) {
        const int error = last_system_error();
        const DWORD attributes = GetFileAttributesW(r->target);
        if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_REPARSE_POINT))
            return failed(failure, "it is a link that leads to no file; nothing was written", 0);
        return error == ERROR_FILE_NOT_FOUND || failed(failure, "finding it", error);
    }
    BY_HANDLE_FILE_INFORMATION info;
    const char *refusal = NULL;
    if (GetFileType(old) != FILE_TYPE_DISK || !GetFileInformationByHandle(old, &info))
        refusal = "it is a device, not a regular file; nothing was written";
    else if (info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY)
        refusal = "it is a folder, which a file does not replace; nothing was written";
    const DWORD n = refusal ? 0 : GetFinalPathNameByHandleW(old, r->path, PATH_UNITS, FILE_NAME_NORMALIZED);
    CloseHandle(old);
    if (refusal) return failed(failure, refusal, 0);
    if (n > 0 && n < PATH_UNITS) memcpy(r->target, r->path, (n + 1) * sizeof *r->path);
    return true;
}

/* The path of `name` in the target's folder, in r->path; false if it is too long. */
static bool beside(struct replacement *r, const WCHAR *name) {
    const size_t units = wcslen(name) + 1;
    if (r->folder_units + units > PATH_UNITS) return false;
    memcpy(r->path, r->target, r->folder_units * sizeof *r->path);
    memcpy(r->path + r->folder_units, name, units * sizeof *name);
    return true;
}

static bool is_temporary_name(const WCHAR *name) {
    return wcsncmp(name, TEMPORARY_PREFIX, 5) == 0 && wcsspn(name + 5, L"0123456789abcdef") == TEMPORARY_DIGITS &&
           wcscmp(name + 5 + TEMPORARY_DIGITS, TEMPORARY_SUFFIX) == 0;
}

/* Those that are being written cannot be deleted. */
static void remove_stale(struct replacement *r) {
    WIN32_FIND_DATAW entry;
    if (!beside(r, TEMPORARY_PREFIX L"*" TEMPORARY_SUFFIX)) return;
    HANDLE search = FindFirstFileW(r->path, &entry);
    if (search == INVALID_HANDLE_VALUE) return;
    do
        if (is_temporary_name(entry.cFileName) &&
            !(entry.dwFileAttributes & (FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_REPARSE_POINT)) &&
            beside(r, entry.cFileName))
            DeleteFileW(r->path);
    while (FindNextFileW(search, &entry));
    FindClose(search);
}

static bool create_temporary(struct replacement *r, struct system_failure *failure) {
    int error = ERROR_FILENAME_EXCED_RANGE;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        WCHAR name[TEMPORARY_UNITS];
        LARGE_INTEGER now;
        QueryPerformanceCounter(&now);
        const uint64_t number = (uint64_t)now.QuadPart * 0x9E3779B97F4A7C15u + ((uint64_t)GetCurrentProcessId() << 32) +
                                (uintptr_t)r + (uint64_t)attempt;
        for (int i = 0; i < TEMPORARY_DIGITS; i++)
            name[5 + i] = L"0123456789abcdef"[number >> 4 * i & 15];
        memcpy(name, TEMPORARY_PREFIX, 5 * sizeof *name);
        memcpy(name + 5 + TEMPORARY_DIGITS, TEMPORARY_SUFFIX, 5 * sizeof *name);
        if (!beside(r, name)) break;
        r->file = CreateFileW(r->path, GENERIC_WRITE | DELETE, 0, NULL, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, NULL);
        if (r->file != INVALID_HANDLE_VALUE) return true;
        error = last_system_error();
        if (error != ERROR_FILE_EXISTS) break;
    }
    return failed(failure, "creating a temporary file beside it", error);
}

bool replacement_begin(struct replacement *r, const char *path, struct system_failure *failure) {
    if (!find_target(r, path, failure)) return false;
    r->folder_units = wcslen(r->target);
    while (r->folder_units && r->target[r->folder_units - 1] != L'\\')
        r->folder_units--;
    remove_stale(r);
    return create_temporary(r, failure);
}

int replacement_write(struct replacement *r, const void *data, size_t size, size_t *written) {
    DWORD n = 0;
    const bool done = WriteFile(r->file, data, (DWORD)size, &n, NULL);
    *written = n;
    return !done ? last_system_error() : n > 0 ? 0 : ERROR_WRITE_FAULT;
}

void replacement_discard(struct replacement *r) {
    FILE_DISPOSITION_INFO remove = {TRUE};
    SetFileInformationByHandle(r->file, FileDispositionInfo, &remove, sizeof remove);
    CloseHandle(r->file);
}

/* Security and attributes are those that the folder gives to new files. NTFS has the rename in its journal. */
bool replacement_commit(struct replacement *r, struct system_failure *failure, bool *in_place) {
    const size_t units = wcslen(r->target);
    *in_place = false;
    if (!FlushFileBuffers(r->file)) {
        failed(failure, "flushing it", last_system_error());
        replacement_discard(r);
        return false;
    }
    r->rename.info.ReplaceIfExists = TRUE;
    r->rename.info.RootDirectory = NULL;
    r->rename.info.FileNameLength = (DWORD)(units * sizeof *r->target);
    memcpy(r->rename.info.FileName, r->target, (units + 1) * sizeof *r->target);
    if (!SetFileInformationByHandle(r->file, FileRenameInfo, &r->rename, sizeof r->rename)) {
        failed(failure, "renaming the temporary file", last_system_error());
        replacement_discard(r);
        return false;
    }
    CloseHandle(r->file);
    return true;
}

#endif
