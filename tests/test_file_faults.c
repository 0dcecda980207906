/* Every system call of saving and loading fails in turn, comes short, or is interrupted by a signal. The calls are
 * replaced by this program's own functions of the same names, which the library's archive is linked with. */
#define _GNU_SOURCE

#include "calls.h"
#include "files_fixture.h"

#if defined(__linux__)
#include <sys/syscall.h>

enum call { WRITE, READ, FSYNC, CLOSE, RENAME, CALLS };
static const char *const call_names[CALLS] = {"write", "read", "fsync", "close", "rename"};

/* What happens to the calls: `call` number `at` (from 0) fails with `error`; or every call moves at most `most` bytes;
 * or every other one is interrupted. */
static struct {
    bool armed;
    enum call call;
    size_t at;
    int error;
    size_t most;
    bool interrupt;
    size_t count[CALLS], interrupted;
} faults;

static bool fault(enum call call) {
    if (!faults.armed) return false;
    const size_t n = faults.count[call]++;
    if (faults.interrupt && n % 2 == 0 && call != CLOSE && call != RENAME) {
        faults.interrupted++;
        errno = EINTR;
        return true;
    }
    if (faults.error && call == faults.call && n == faults.at) {
        errno = faults.error;
        return true;
    }
    return false;
}

static size_t shortened(size_t size) {
    return faults.armed && faults.most && size > faults.most ? faults.most : size;
}

ssize_t write(int file, const void *data, size_t size) {
    return fault(WRITE) ? -1 : syscall(SYS_write, file, data, shortened(size));
}
ssize_t read(int file, void *data, size_t size) {
    return fault(READ) ? -1 : syscall(SYS_read, file, data, shortened(size));
}
int fsync(int file) {
    return fault(FSYNC) ? -1 : (int)syscall(SYS_fsync, file);
}
/* A failing close closes all the same. */
int close(int file) {
    const bool wrong = fault(CLOSE);
    const int error = errno, result = (int)syscall(SYS_close, file);
    if (wrong) errno = error;
    return wrong ? -1 : result;
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return fault(RENAME) ? -1 : (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, 0);
}

static size_t open_descriptors(void) {
    size_t n = 0;
    for (int i = 0; i < 256; i++)
        n += fcntl(i, F_GETFD) >= 0;
    return n;
}

enum { HOST_BYTES = 300000 }; /* several writes */

static dqt_status save(struct place *p, const char *path, uint64_t version) {
    static unsigned char host[HOST_BYTES];
    memcpy(host, &version, sizeof version);
    return dqt_llama_save(p->model, NULL, path, save_host(host, sizeof host));
}

static void arm(enum call call, size_t at, int error) {
    memset(&faults, 0, sizeof faults);
    faults.call = call;
    faults.at = at;
    faults.error = error;
    faults.armed = true;
}

/* Call by call until a save makes no such call any more. Returns how many of the failures were refusals. */
static size_t fail_in_turn(enum call call, int error) {
    struct place p;
    place_begin(&p);
    const char *path = place_path(&p, "model");
    uint64_t version = 1;
    size_t refused = 0;
    OK(p.ctx, save(&p, path, version));
    const size_t descriptors = open_descriptors();
    for (size_t n = 0;; n++) {
        arm(call, n, error);
        const dqt_status status = save(&p, path, version + 1);
        faults.armed = false;
        const bool happened = faults.count[call] > n;
        const char *sentence = dqt_last_error(p.ctx);
        if (status == DQT_OK) {
            version++;
        } else {
            refused++;
            CHECKF(status == DQT_E_IO && strstr(sentence, strerror(error)) && strstr(sentence, path),
                   "%s %zu: status %d: %s", call_names[call], n, status, sentence);
            if (strstr(sentence, "in place")) {
                CHECK(call == FSYNC && n == 1); /* the folder's */
                version++;
            }
        }
        CHECKF(version_of(&p, path) == version, "%s %zu: %llu", call_names[call], n,
               (unsigned long long)version_of(&p, path));
        CHECKF(entries_in(p.folder) == 1, "%s %zu left a temporary file", call_names[call], n);
        CHECK(open_descriptors() == descriptors);
        if (!happened) break;
    }
    unlink(path);
    place_end(&p);
    return refused;
}

static void writes_fail(void) {
    CHECK(fail_in_turn(WRITE, ENOSPC) >= 5);
    CHECK(fail_in_turn(WRITE, EIO) >= 5);
    CHECK(fail_in_turn(WRITE, EFBIG) >= 5);
}
static void flushes_fail(void) {
    CHECK(fail_in_turn(FSYNC, EIO) == 2);
}
/* Folders are closed too, where a failure loses nothing; only the file's own close counts. */
static void closes_fail(void) {
    CHECK(fail_in_turn(CLOSE, EIO) == 1);
    CHECK(fail_in_turn(CLOSE, EINTR) == 0);
}
static void renames_fail(void) {
    CHECK(fail_in_turn(RENAME, EACCES) == 1);
    CHECK(fail_in_turn(RENAME, ENOSPC) == 1);
}
/* File systems that cannot flush a folder. */
static void folders_that_cannot_be_flushed(void) {
    struct place p;
    place_begin(&p);
    const char *path = place_path(&p, "model");
    arm(FSYNC, 1, EINVAL);
    OK(p.ctx, save(&p, path, 1));
    faults.armed = false;
    CHECK(faults.count[FSYNC] == 2 && version_of(&p, path) == 1);
    unlink(path);
    place_end(&p);
}

static void reads_fail(void) {
    struct place p;
    dqt_llama *model;
    size_t refused = 0;
    place_begin(&p);
    const char *path = place_path(&p, "model");
    OK(p.ctx, save(&p, path, 1));
    const size_t held = p.memory.bytes, descriptors = open_descriptors();
    for (size_t n = 0;; n++) {
        arm(READ, n, EIO);
        const dqt_status status = load_checkpoint(p.ctx, path, &model, NULL, NULL, NULL);
        faults.armed = false;
        if (status == DQT_OK) break;
        refused++;
        CHECKF(status == DQT_E_IO && strstr(dqt_last_error(p.ctx), strerror(EIO)), "%s", dqt_last_error(p.ctx));
        CHECK(!model && p.memory.bytes == held && open_descriptors() == descriptors);
    }
    CHECK(refused >= 4);
    dqt_llama_destroy(model);
    OK(p.ctx, dqt_llama_export_safetensors(p.model, path, NULL));
    for (size_t n = 0; n < 2; n++) {
        arm(READ, n, EIO);
        CHECK(dqt_llama_import_safetensors(p.model, path, import_rounding(DQT_ROUND_NEAREST, 0)) == DQT_E_IO);
        faults.armed = false;
        CHECKF(strstr(dqt_last_error(p.ctx), strerror(EIO)), "%s", dqt_last_error(p.ctx));
    }
    unlink(path);
    place_end(&p);
}

/* The same file comes of short and of interrupted calls. */
static void short_and_interrupted_calls(void) {
    struct place p;
    place_begin(&p);
    char path[PLACE_BYTES], whole[PLACE_BYTES];
    strcpy(path, place_path(&p, "model"));
    strcpy(whole, place_path(&p, "whole"));
    OK(p.ctx, save(&p, whole, 5));
    struct memory_file wanted = slurp(whole);
    static const size_t pieces[] = {0, 1000, 4097, 65535};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        for (int interrupt = 0; interrupt < 2; interrupt++) {
            arm(WRITE, 0, 0);
            faults.most = pieces[i];
            faults.interrupt = interrupt;
            OK(p.ctx, save(&p, path, 5));
            CHECK(version_of(&p, path) == 5);
            faults.armed = false;
            struct memory_file got = slurp(path);
            CHECKF(same_bytes(&wanted, &got), "pieces of %zu bytes", pieces[i]);
            CHECK(!pieces[i] || faults.count[WRITE] >= HOST_BYTES / pieces[i]);
            CHECK(!interrupt || faults.interrupted > 10);
            free(got.bytes);
            unlink(path);
        }
    free(wanted.bytes);
    unlink(whole);
    place_end(&p);
}

static const struct test tests[] = {
    TEST(writes_fail),
    TEST(flushes_fail),
    TEST(closes_fail),
    TEST(renames_fail),
    TEST(folders_that_cannot_be_flushed),
    TEST(reads_fail),
    TEST(short_and_interrupted_calls),
};
#else
static void interposition(void) {
    SKIP("the system calls are replaced on Linux only");
}
static const struct test tests[] = {TEST(interposition)};
#endif
TEST_MAIN(tests)
