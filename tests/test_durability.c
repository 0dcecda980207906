/* What a save leaves after a crash of the system: the new file is flushed before it takes the name, its folder after
 * that, and a flush that fails is told. The program's own fsync takes the place of libc's. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dqt.h"
#include "memory_file.h"

/* ---- fsync as the library sees it ---------------------------------------------------------------------------- */

static struct {
    char folder[64], path[96];
    size_t files, folders, calls; /* flushed so far; calls in all */
    off_t size;                   /* of the file when it was flushed */
    ino_t file;                   /* the flushed file */
    bool early, late;             /* the file had its name before its flush; the folder was flushed after that */
    int file_error, folder_error; /* what the flush fails with; 0: it succeeds */
} disk;

/* The file that has the name now; 0: none. */
static ino_t named(void) {
    struct stat s;
    return stat(disk.path, &s) == 0 ? s.st_ino : 0;
}

int fsync(int descriptor) {
    struct stat s, folder;
    int error = 0;
    disk.calls++;
    CHECK(fstat(descriptor, &s) == 0 && stat(disk.folder, &folder) == 0);
    if (S_ISREG(s.st_mode)) {
        disk.files++;
        disk.size = s.st_size;
        disk.file = s.st_ino;
        disk.early = named() == s.st_ino;
        error = disk.file_error;
    } else if (S_ISDIR(s.st_mode) && s.st_ino == folder.st_ino && s.st_dev == folder.st_dev) {
        disk.folders++;
        disk.late = disk.files == 1 && named() == disk.file;
        error = disk.folder_error;
    }
    errno = error;
    return error ? -1 : 0;
}

static void forget(void) {
    disk.files = disk.folders = disk.calls = 0;
    disk.early = disk.late = false;
    disk.file_error = disk.folder_error = 0;
}

/* ---- Every function that writes a file by its path ------------------------------------------------------------ */

static dqt_context *ctx;
static dqt_llama *model;

static dqt_status save(const char *path) {
    return dqt_llama_save(model, NULL, path, NULL);
}

static dqt_status export_gguf(const char *path) {
    return dqt_llama_export_gguf(model, path, NULL);
}

static dqt_status export_safetensors(const char *path) {
    return dqt_llama_export_safetensors(model, path, NULL);
}

static const struct {
    const char *name;
    dqt_status (*write)(const char *path);
} writers[] = {{"save", save}, {"export_gguf", export_gguf}, {"export_safetensors", export_safetensors}};
enum { WRITERS = sizeof writers / sizeof *writers };

static void begin(void) {
    dqt_llama_config c;
    OK(NULL, dqt_context_create(NULL, &ctx));
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 256;
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.num_layers = 1;
    c.num_heads = 2;
    c.no_sub_norms = 1;
    c.tie_embeddings = 1;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    snprintf(disk.folder, sizeof disk.folder, "/tmp/dqt-durability-XXXXXX");
    CHECK(mkdtemp(disk.folder) != NULL);
    snprintf(disk.path, sizeof disk.path, "%s/model", disk.folder);
    forget();
}

static void end(void) {
    unlink(disk.path);
    CHECK(rmdir(disk.folder) == 0); /* nothing else is left */
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
}

/* ---- Tests --------------------------------------------------------------------------------------------------- */

/* Whole, flushed, named, and the name flushed: in this order; the first time and over an earlier file. */
static void file_then_name_then_folder(void) {
    begin();
    for (size_t i = 0; i < WRITERS; i++)
        for (int again = 0; again < 2; again++) {
            struct stat s;
            forget();
            OK(ctx, writers[i].write(disk.path));
            CHECKF(disk.calls == 2 && disk.files == 1 && disk.folders == 1, "%s: %zu flushes, %zu files, %zu folders",
                   writers[i].name, disk.calls, disk.files, disk.folders);
            CHECKF(!disk.early, "%s: the file had its name before it was flushed", writers[i].name);
            CHECKF(disk.late, "%s: the folder was flushed before the file had its name", writers[i].name);
            CHECK(stat(disk.path, &s) == 0 && s.st_ino == disk.file);
            CHECKF(s.st_size == disk.size, "%s: flushed with %lld of %lld bytes", writers[i].name, (long long)disk.size,
                   (long long)s.st_size);
        }
    end();
}

/* A file that could not be flushed does not get the name. */
static void file_flush_fails(void) {
    begin();
    for (size_t i = 0; i < WRITERS; i++) {
        forget();
        OK(ctx, save(disk.path));
        const ino_t earlier = named();
        forget();
        disk.file_error = EIO;
        CHECKF(writers[i].write(disk.path) == DQT_E_IO, "%s", writers[i].name);
        CHECKF(strstr(dqt_last_error(ctx), disk.path), "%s", dqt_last_error(ctx));
        CHECKF(named() == earlier, "%s: the earlier file is gone", writers[i].name);
        CHECKF(disk.folders == 0, "%s", writers[i].name);
    }
    end();
}

/* A folder that could not be flushed is told, with the new file in place; one that never can be is no error. */
static void folder_flush_fails(void) {
    begin();
    static const int harmless[] = {EINVAL, ENOTSUP};
    for (size_t i = 0; i < WRITERS; i++) {
        forget();
        disk.folder_error = EIO;
        CHECKF(writers[i].write(disk.path) == DQT_E_IO, "%s", writers[i].name);
        CHECKF(strstr(dqt_last_error(ctx), disk.path), "%s", dqt_last_error(ctx));
        CHECK(named() == disk.file && disk.late);
        for (size_t k = 0; k < 2; k++) {
            forget();
            disk.folder_error = harmless[k];
            OK(ctx, writers[i].write(disk.path));
            CHECK(named() == disk.file && disk.late);
        }
    }
    end();
}

static const struct test tests[] = {TEST(file_then_name_then_folder), TEST(file_flush_fails), TEST(folder_flush_fails)};
TEST_MAIN(tests)
