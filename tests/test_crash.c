/* Processes that die while they save, and a file system that is full: the file is the old one or the new one. */
#define _GNU_SOURCE

#include "calls.h"
#include "files_fixture.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <time.h>

enum { KILLS = 500, HOST_BYTES = 1 << 20 };

/* What the dying process tells: the versions whose saving has begun and ended. */
struct progress {
    volatile uint64_t begun, ended;
};

static unsigned char host[HOST_BYTES];

static dqt_status save_large(struct place *p, const char *path, uint64_t version) {
    memcpy(host, &version, sizeof version);
    return dqt_llama_save(p->model, NULL, path, save_host(host, sizeof host));
}

static void save_for_ever(struct place *p, const char *path, struct progress *progress) {
    for (;;) {
        progress->begun = progress->ended + 1;
        if (save_large(p, path, progress->begun) != DQT_OK) _exit(1);
        progress->ended = progress->begun;
    }
}

/* Killing tests the order of the calls, not the disk: a folder in memory, if there is one, makes 500 kills quick. */
static void use_folder_in_memory(struct place *p) {
    char folder[] = "/dev/shm/dqt-crash-XXXXXX";
    if (!mkdtemp(folder)) return;
    rmdir(p->folder);
    strcpy(p->folder, folder);
}

static void killed_while_saving(void) {
    struct place p;
    place_begin(&p);
    use_folder_in_memory(&p);
    const char *path = place_path(&p, "model");
    struct progress *progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(progress != MAP_FAILED);
    OK(p.ctx, save_large(&p, path, 1));
    progress->ended = 1;
    uint64_t random = 20261128;
    size_t inside = 0, left = 0, news = 0;
    fflush(stdout);
    for (int kill_number = 0; kill_number < KILLS; kill_number++) {
        const uint64_t before = progress->ended;
        const pid_t child = fork();
        if (child == 0) save_for_ever(&p, path, progress);
        while (progress->ended == before && progress->begun <= before) /* it runs */
            sched_yield();
        const struct timespec pause = {0, (long)(test_random(&random) % 12000000)};
        nanosleep(&pause, NULL);
        int status = 0;
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
        CHECKF(WIFSIGNALED(status), "the process ended by itself: %x", (unsigned)status);
        const uint64_t version = version_of(&p, path), ended = progress->ended, begun = progress->begun;
        CHECKF(version == ended || version == begun, "kill %d: the file has version %llu; %llu was saved, %llu begun",
               kill_number, (unsigned long long)version, (unsigned long long)ended, (unsigned long long)begun);
        const size_t entries = entries_in(p.folder);
        CHECKF(entries == 1 || entries == 2, "%zu", entries); /* one temporary file at most: the next save cleans up */
        inside += begun != ended;
        left += entries == 2;
        news += begun != ended && version == begun;
        progress->ended = version;
    }
    OK(p.ctx, save_large(&p, path, 9));
    CHECK(entries_in(p.folder) == 1 && version_of(&p, path) == 9);
    printf("killed_while_saving: %d kills, %zu inside a save, %zu left a temporary file, %zu came after the rename\n",
           KILLS, inside, left, news);
    CHECK(inside > KILLS / 2 && left > KILLS / 5);
    munmap(progress, sizeof *progress);
    unlink(path);
    place_end(&p);
}

/* ---- A full file system --------------------------------------------------------------------------------------- */

enum { NOT_PERMITTED = 77 };

/* Mounts 1 MiB of memory in a mount namespace of this process alone, which ends with it. */
static bool mount_small(const char *folder) {
    const uid_t user = geteuid();
    if (unshare(user == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0) return false;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return false;
    return mount("none", folder, "tmpfs", 0, "size=1m") == 0;
}

/* In a child: the number of what went wrong. */
static int fill_up(struct place *p, const char *path) {
    if (!mount_small(p->folder)) return NOT_PERMITTED;
    static unsigned char large[700 << 10];
    static const uint64_t first = 1, third = 3;
    memcpy(large, &first, sizeof first);
    /* The old file of 700 KiB leaves no room for a new one of that size; a small one fits. */
    if (dqt_llama_save(p->model, NULL, path, save_host(large, sizeof large)) != DQT_OK) return 1;
    for (int i = 0; i < 20; i++) {
        if (dqt_llama_save(p->model, NULL, path, save_host(large, sizeof large)) != DQT_E_IO) return 2;
        if (!strstr(dqt_last_error(p->ctx), strerror(ENOSPC))) return 3;
        if (entries_in(p->folder) != 1 || version_of(p, path) != 1) return 4;
    }
    if (dqt_llama_save(p->model, NULL, path, save_host(&third, sizeof third)) != DQT_OK || version_of(p, path) != 3)
        return 5;
    if (dqt_llama_save(p->model, NULL, path, save_host(large, sizeof large)) != DQT_OK || version_of(p, path) != 1)
        return 6;
    if (dqt_llama_export_safetensors(p->model, path, NULL) != DQT_OK) return 7;
    return entries_in(p->folder) == 1 ? 0 : 8;
}

static void full_file_system(void) {
    struct place p;
    place_begin(&p);
    const char *path = place_path(&p, "model");
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) _exit(fill_up(&p, path));
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    place_end(&p);
    if (WEXITSTATUS(status) == NOT_PERMITTED) SKIP("this process may not mount a small file system");
    CHECKF(WEXITSTATUS(status) == 0, "step %d", WEXITSTATUS(status));
}

static const struct test tests[] = {TEST(killed_while_saving), TEST(full_file_system)};
TEST_MAIN(tests)
