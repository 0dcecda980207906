/* Files by path as strange as they come: what is not a file, symbolic links, modes, long names, folders that cannot be
 * read, left-over temporary files, descriptors. */
#define _GNU_SOURCE

#include "calls.h"
#include "files_fixture.h"

#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

/* ---- What is not replaced ------------------------------------------------------------------------------------ */

static void check_refused(struct place *p, const char *path, const char *word) {
    struct stat before, after;
    const size_t entries = entries_in(p->folder);
    CHECK(stat(path, &before) == 0);
    CHECKF(save_version(p, path, 1) == DQT_E_IO, "%s", path);
    CHECKF(strstr(dqt_last_error(p->ctx), word) && strstr(dqt_last_error(p->ctx), path), "%s: %s", word,
           dqt_last_error(p->ctx));
    CHECK(dqt_llama_export_gguf(p->model, path, NULL) == DQT_E_IO);
    CHECK(dqt_llama_export_safetensors(p->model, path, NULL) == DQT_E_IO);
    CHECK(stat(path, &after) == 0);
    CHECK(before.st_ino == after.st_ino && before.st_mode == after.st_mode && before.st_rdev == after.st_rdev);
    CHECK(entries_in(p->folder) == entries);
}

static void also_through_a_link(struct place *p, const char *path, const char *word) {
    char link[PLACE_BYTES + 8];
    snprintf(link, sizeof link, "%s.link", path);
    check_refused(p, path, word);
    CHECK(symlink(path, link) == 0);
    check_refused(p, link, word);
    unlink(link);
}

static void fifos_sockets_and_folders(void) {
    struct place p;
    place_begin(&p);
    const char *path = place_path(&p, "fifo");
    CHECK(mkfifo(path, 0600) == 0);
    const int reader = open(path, O_RDONLY | O_NONBLOCK);
    also_through_a_link(&p, path, "fifo");
    char byte;
    CHECK(read(reader, &byte, 1) == 0); /* nothing was written, and nobody has it open */
    close(reader);
    unlink(path);

    path = place_path(&p, "socket");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s", path);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, (const struct sockaddr *)&address, sizeof address) == 0);
    also_through_a_link(&p, path, "socket");
    close(listener);
    unlink(path);

    path = place_path(&p, "folder");
    CHECK(mkdir(path, 0700) == 0);
    also_through_a_link(&p, path, "folder");
    CHECK(save_version(&p, place_path(&p, "folder/"), 1) == DQT_E_IO);
    CHECK(save_version(&p, place_path(&p, "new/"), 1) == DQT_E_IO);
    CHECK(save_version(&p, "", 1) == DQT_E_IO && save_version(&p, "/", 1) == DQT_E_IO);
    CHECK(save_version(&p, ".", 1) == DQT_E_IO && save_version(&p, "..", 1) == DQT_E_IO);
    rmdir(place_path(&p, "folder"));
    place_end(&p);
}

/* A node of our own with the numbers of the null device: harmless to lose. */
static void devices(void) {
    struct place p;
    place_begin(&p);
    const char *path = place_path(&p, "null");
    const bool made = mknod(path, S_IFCHR | 0600, makedev(1, 3)) == 0;
    if (made) also_through_a_link(&p, path, "device");
    unlink(path);
    place_end(&p);
    if (!made) SKIP("only root makes device nodes");
}

/* ---- What is replaced ---------------------------------------------------------------------------------------- */

static bool is_link(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
}

static void symbolic_links(void) {
    struct place p;
    char target[PLACE_BYTES], link[PLACE_BYTES], second[PLACE_BYTES];
    place_begin(&p);
    snprintf(target, sizeof target, "%s/models", p.folder);
    CHECK(mkdir(target, 0700) == 0);
    snprintf(target, sizeof target, "%s/models/target", p.folder);
    snprintf(link, sizeof link, "%s/models/link", p.folder);
    snprintf(second, sizeof second, "%s/second", p.folder);

    /* Dangling: the target is made, relative to the link's folder; then replaced; the links stay. */
    CHECK(symlink("target", link) == 0 && symlink("models/link", second) == 0);
    OK(p.ctx, save_version(&p, second, 1));
    CHECK(is_link(second) && is_link(link) && !is_link(target) && version_of(&p, target) == 1);
    OK(p.ctx, save_version(&p, link, 2));
    CHECK(is_link(link) && version_of(&p, target) == 2 && version_of(&p, second) == 2);
    unlink(second);
    CHECK(symlink(target, second) == 0);
    OK(p.ctx, save_version(&p, second, 3));
    CHECK(is_link(second) && version_of(&p, target) == 3);
    CHECK(entries_in(p.folder) == 2);

    /* Loops, and links into nowhere, are refused. */
    unlink(second);
    CHECK(symlink("second", second) == 0);
    CHECK(save_version(&p, second, 4) == DQT_E_IO);
    CHECKF(strstr(dqt_last_error(p.ctx), strerror(ELOOP)), "%s", dqt_last_error(p.ctx));
    unlink(second);
    CHECK(symlink("no/folder/x", second) == 0);
    CHECK(save_version(&p, second, 4) == DQT_E_IO);
    CHECKF(strstr(dqt_last_error(p.ctx), strerror(ENOENT)), "%s", dqt_last_error(p.ctx));
    CHECK(is_link(second) && version_of(&p, target) == 3);
    unlink(second);
    unlink(link);
    unlink(target);
    CHECK(rmdir(place_path(&p, "models")) == 0);
    place_end(&p);
}

static mode_t mode_of(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? info.st_mode & 07777 : 0;
}

static void modes_and_owners(void) {
    struct place p;
    place_begin(&p);
    const char *path = place_path(&p, "model");
    const mode_t before = umask(027);
    OK(p.ctx, save_version(&p, path, 1));
    CHECKF(mode_of(path) == 0640, "%o", (unsigned)mode_of(path));
    umask(022);
    static const mode_t modes[] = {0600, 0660, 0444, 0664, 0400, 0755};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        CHECK(chmod(path, modes[i]) == 0);
        OK(p.ctx, save_version(&p, path, 2 + i));
        CHECKF(mode_of(path) == modes[i], "%o became %o", (unsigned)modes[i], (unsigned)mode_of(path));
        if (modes[i] & 0400) CHECK(version_of(&p, path) == 2 + i);
    }
    if (geteuid() == 0) {
        struct stat info;
        CHECK(chown(path, 1234, 2345) == 0 && chmod(path, 0770) == 0);
        OK(p.ctx, save_version(&p, path, 9));
        CHECK(stat(path, &info) == 0 && info.st_uid == 1234 && info.st_gid == 2345 && (info.st_mode & 07777) == 0770);
    }
    umask(before);
    unlink(path);
    place_end(&p);
}

static void long_names(void) {
    struct place p;
    static char path[PLACE_BYTES + 300], folders[20][PLACE_BYTES];
    char name[256];
    int depth = 0;
    place_begin(&p);
    memset(name, 'n', 255);
    name[255] = '\0';
    const char *longest = place_path(&p, name);
    OK(p.ctx, save_version(&p, longest, 1));
    OK(p.ctx, save_version(&p, longest, 2));
    CHECK(version_of(&p, longest) == 2 && entries_in(p.folder) == 1);
    unlink(longest);
    name[250] = '\0';
    snprintf(path, sizeof path, "%s/%s/%s", p.folder, name, name);
    CHECK(save_version(&p, path, 1) == DQT_E_IO);

    /* As long as a path can be: no room for a suffix. */
    snprintf(path, sizeof path, "%s", p.folder);
    while (strlen(path) + 251 + 2 < PLACE_BYTES) {
        strcat(strcat(path, "/"), name);
        CHECK(mkdir(path, 0700) == 0);
        strcpy(folders[depth++], path);
    }
    strcat(path, "/");
    const size_t room = PLACE_BYTES - 1 - strlen(path);
    memset(path + strlen(path), 'f', room);
    CHECK(strlen(path) == PLACE_BYTES - 1);
    OK(p.ctx, save_version(&p, path, 1));
    OK(p.ctx, save_version(&p, path, 2));
    CHECK(version_of(&p, path) == 2 && entries_in(folders[depth - 1]) == 1);
    unlink(path);
    strcat(path, "f");
    CHECK(save_version(&p, path, 3) == DQT_E_IO);
    CHECKF(strstr(dqt_last_error(p.ctx), strerror(ENAMETOOLONG)), "%s", dqt_last_error(p.ctx));
    while (depth)
        CHECK(rmdir(folders[--depth]) == 0);
    place_end(&p);
}

/* In a child, as root may read everything: there it becomes somebody else. */
static void unreadable_folders(void) {
    struct place p;
    place_begin(&p);
    if (geteuid() == 0) CHECK(chown(p.folder, 65534, 65534) == 0);
    const char *path = place_path(&p, "model");
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(9);
        if (chmod(p.folder, 0300) != 0 || entries_in(p.folder) != SIZE_MAX) _exit(8);
        int wrong = 0;
        for (uint64_t version = 1; version <= 3; version++)
            wrong += save_version(&p, path, version) != DQT_OK || version_of(&p, path) != version;
        if (wrong) printf("%s\n", dqt_last_error(p.ctx));
        fflush(stdout);
        /* A folder that cannot be written. */
        wrong += chmod(p.folder, 0500) != 0 || save_version(&p, path, 4) != DQT_E_IO;
        wrong += strstr(dqt_last_error(p.ctx), strerror(EACCES)) == NULL || version_of(&p, path) != 3;
        _exit(wrong);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(status == 0, "%x", (unsigned)status);
    CHECK(chmod(p.folder, 0700) == 0);
    CHECK(entries_in(p.folder) == 1 && unlink(path) == 0);
    place_end(&p);
}

/* ---- Temporary files of others ------------------------------------------------------------------------------- */

static void make_file(const char *path) {
    const int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(file >= 0 && write(file, "rest", 4) == 4);
    close(file);
}

static void stale_temporaries(void) {
    struct place p;
    char name[64], held[PLACE_BYTES], path[PLACE_BYTES];
    place_begin(&p);
    strcpy(path, place_path(&p, "model"));
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, ".dqt-%016x.tmp", (unsigned)i * 77u);
        make_file(place_path(&p, name));
        snprintf(name, sizeof name, "model.tmp-%ld-%d", (long)getpid(), i); /* as 0.1 named them */
        make_file(place_path(&p, name));
    }
    OK(p.ctx, save_version(&p, path, 1));
    CHECKF(entries_in(p.folder) == 101, "%zu", entries_in(p.folder));
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "model.tmp-%ld-%d", (long)getpid(), i);
        CHECK(unlink(place_path(&p, name)) == 0);
    }

    /* One that is being written is left alone; and so is what only looks like one. */
    strcpy(held, place_path(&p, ".dqt-00000000deadbeef.tmp"));
    make_file(held);
    const int file = open(held, O_WRONLY | O_CLOEXEC);
    CHECK(flock(file, LOCK_EX | LOCK_NB) == 0);
    static const char *const others[] = {".dqt-0000000000000000.tmpx", ".dqt-000000000000000.tmp",
                                         ".dqt-000000000000000G.tmp", "dqt-0000000000000000.tmp", ".dqt-.tmp"};
    enum { OTHERS = sizeof others / sizeof *others };
    for (int i = 0; i < OTHERS; i++)
        make_file(place_path(&p, others[i]));
    CHECK(mkdir(place_path(&p, ".dqt-0000000000000001.tmp"), 0700) == 0);
    CHECK(mkfifo(place_path(&p, ".dqt-0000000000000002.tmp"), 0600) == 0);
    CHECK(symlink(path, place_path(&p, ".dqt-0000000000000003.tmp")) == 0);
    OK(p.ctx, save_version(&p, path, 2));
    CHECKF(entries_in(p.folder) == OTHERS + 5, "%zu", entries_in(p.folder));
    close(file);
    OK(p.ctx, save_version(&p, path, 3));
    CHECK(access(held, F_OK) != 0 && entries_in(p.folder) == OTHERS + 4 && version_of(&p, path) == 3);
    for (int i = 0; i < OTHERS; i++)
        unlink(place_path(&p, others[i]));
    rmdir(place_path(&p, ".dqt-0000000000000001.tmp"));
    unlink(place_path(&p, ".dqt-0000000000000002.tmp"));
    unlink(place_path(&p, ".dqt-0000000000000003.tmp"));
    unlink(path);
    place_end(&p);
}

/* Two processes save into one folder: neither takes the other's temporary file for a stale one. */
static void two_writers(void) {
    struct place p;
    place_begin(&p);
    pid_t children[2];
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        const char *path = place_path(&p, i ? "b" : "a");
        children[i] = fork();
        if (children[i] == 0) {
            int wrong = 0;
            for (uint64_t version = 1; version <= 50 && !wrong; version++)
                wrong = save_version(&p, path, version) != DQT_OK || version_of(&p, path) != version;
            if (wrong) printf("%s\n", dqt_last_error(p.ctx));
            fflush(stdout);
            _exit(wrong);
        }
    }
    for (int i = 0; i < 2; i++) {
        int status = -1;
        CHECK(waitpid(children[i], &status, 0) == children[i] && status == 0);
    }
    CHECK(entries_in(p.folder) == 2);
    unlink(place_path(&p, "a"));
    unlink(place_path(&p, "b"));
    place_end(&p);
}

/* ---- Sentences ----------------------------------------------------------------------------------------------- */

static void sentences(void) {
    struct place p;
    dqt_llama *model = NULL;
    place_begin(&p);
    const char *path = place_path(&p, "no/model");
    CHECK(save_version(&p, path, 1) == DQT_E_IO);
    CHECKF(strstr(dqt_last_error(p.ctx), path) && strstr(dqt_last_error(p.ctx), strerror(ENOENT)), "%s",
           dqt_last_error(p.ctx));
    CHECK(load_checkpoint(p.ctx, path, &model, NULL, NULL, NULL) == DQT_E_IO);
    CHECKF(strstr(dqt_last_error(p.ctx), path) && strstr(dqt_last_error(p.ctx), strerror(ENOENT)), "%s",
           dqt_last_error(p.ctx));
    CHECK(dqt_llama_import_safetensors(p.model, path, import_rounding(DQT_ROUND_NEAREST, 0)) == DQT_E_IO);
    CHECK(strstr(dqt_last_error(p.ctx), strerror(ENOENT)) != NULL);
    for (size_t last = 0; last < 2; last++) { /* a long path is cut between characters, not inside one */
        char name[320] = {0};
        for (size_t i = 0; i < 150; i++)
            memcpy(name + 2 * i, "\xc3\xa9", 2);
        memset(name + 300, 'a', last);
        CHECK(save_version(&p, place_path(&p, name), 1) == DQT_E_IO);
        const char *dots = strstr(dqt_last_error(p.ctx), "...");
        CHECKF(dots && (unsigned char)dots[3] == 0xc3, "%s", dqt_last_error(p.ctx));
    }
    CHECK(load_checkpoint(p.ctx, p.folder, &model, NULL, NULL, NULL) == DQT_E_IO);
    CHECKF(strstr(dqt_last_error(p.ctx), strerror(EISDIR)), "%s", dqt_last_error(p.ctx));
    CHECK(dqt_llama_import_safetensors(p.model, p.folder, import_rounding(DQT_ROUND_NEAREST, 0)) == DQT_E_IO);
    CHECK(strstr(dqt_last_error(p.ctx), "regular") != NULL && !model);
    place_end(&p);
}

/* ---- What is saved is only read ------------------------------------------------------------------------------ */

/* An allocator of whole pages, which can be write-protected. */
static struct {
    struct {
        void *at;
        size_t bytes;
    } blocks[100];
    size_t count;
} pages;

static void *page_alloc(void *user_data, size_t size, size_t align) {
    (void)user_data;
    (void)align;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || pages.count == sizeof pages.blocks / sizeof *pages.blocks) return NULL;
    pages.blocks[pages.count].at = at;
    pages.blocks[pages.count++].bytes = size;
    return at;
}

static void page_free(void *user_data, void *at, size_t size, size_t align) {
    (void)user_data;
    (void)align;
    munmap(at, size);
    for (size_t i = 0; i < pages.count; i++)
        if (pages.blocks[i].at == at) pages.blocks[i].at = NULL;
}

/* In a child: a write ends it. */
static int save_protected(struct place *p) {
    dqt_context_options o = {.struct_size = sizeof o, .threading = DQT_THREADING_SERIAL};
    dqt_context *ctx = NULL;
    dqt_llama *model = NULL;
    dqt_updater *updater = NULL;
    dqt_layer *const *layers = NULL;
    size_t count = 0;
    const char *path = place_path(p, "model");
    struct memory_file f = memory_new();
    o.alloc = page_alloc;
    o.free = page_free;
    OK(NULL, dqt_context_create(&o, &ctx));
    const size_t first = pages.count;
    dqt_llama_config c = {.struct_size = sizeof c, .hidden_size = 32, .intermediate_size = 48, .num_layers = 1};
    c.linear.storage = DQT_FORMAT_INT8;
    c.linear.compute = DQT_FORMAT_TERNARY;
    c.tie_embeddings = 1;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    OK(ctx, dqt_updater_create(ctx, layers, count, NULL, &updater));
    const size_t last = pages.count;
    for (size_t i = first; i < last; i++)
        if (pages.blocks[i].at) CHECK(mprotect(pages.blocks[i].at, pages.blocks[i].bytes, PROT_READ) == 0);
    OK(ctx, dqt_llama_save(model, updater, path, NULL));
    OK(ctx, dqt_llama_write(model, updater, memory_write, &f, NULL));
    OK(ctx, dqt_layers_save(layers, count, updater, path, NULL));
    OK(ctx, dqt_layers_write(layers, count, updater, memory_write, &f, NULL));
    OK(ctx, dqt_updater_write(updater, memory_write, &f));
    OK(ctx, dqt_llama_export_gguf(model, path, NULL));
    OK(ctx, dqt_llama_export_safetensors(model, path, NULL));
    CHECK(dqt_llama_save(model, updater, p->folder, NULL) == DQT_E_IO);
    return last > first + 2 && !test_failures ? 0 : 1;
}

static void saving_only_reads(void) {
    struct place p;
    place_begin(&p);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const int wrong = save_protected(&p);
        fflush(stdout);
        _exit(wrong);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(status == 0, "%x", (unsigned)status);
    unlink(place_path(&p, "model"));
    place_end(&p);
}

/* ---- Descriptors --------------------------------------------------------------------------------------------- */

static struct { size_t base, inherited, looks; } descriptors;

/* Open descriptors, and those that an exec would pass on. */
static size_t count_descriptors(size_t *inherited) {
    size_t n = 0;
    *inherited = 0;
    for (int i = 0; i < 256; i++) {
        const int flags = fcntl(i, F_GETFD);
        n += flags >= 0;
        *inherited += flags >= 0 && !(flags & FD_CLOEXEC);
    }
    return n;
}

/* The allocator is called in the middle of saving and loading. */
static void *watching_alloc(void *user_data, size_t size, size_t align) {
    size_t inherited;
    descriptors.looks += count_descriptors(&inherited) > descriptors.base;
    CHECKF(inherited == descriptors.inherited, "%zu descriptors would be inherited, not %zu", inherited,
           descriptors.inherited);
    return counting_alloc(user_data, size, align);
}

static void no_descriptor_leaks(void) {
    struct place p;
    struct counting memory;
    place_begin(&p);
    const char *path = place_path(&p, "model");
    descriptors.base = count_descriptors(&descriptors.inherited);
    memory = counting_new();
    dqt_context_options o = counting_options(&memory);
    o.alloc = watching_alloc;
    dqt_context *ctx;
    dqt_llama *model, *loaded;
    OK(p.ctx, dqt_context_create(&o, &ctx));
    OK(p.ctx, dqt_llama_create(ctx, NULL, &model));
    for (int i = 0; i < 3; i++) {
        OK(ctx, dqt_llama_save(model, NULL, path, NULL));
        OK(ctx, load_checkpoint(ctx, path, &loaded, NULL, NULL, NULL));
        dqt_llama_destroy(loaded);
        CHECK(dqt_llama_save(model, NULL, p.folder, NULL) == DQT_E_IO);
        CHECK(dqt_llama_save(model, NULL, "/no/such/folder/model", NULL) == DQT_E_IO);
        CHECK(load_checkpoint(ctx, p.folder, &loaded, NULL, NULL, NULL) == DQT_E_IO);
        CHECK(dqt_llama_import_safetensors(model, path, import_rounding(DQT_ROUND_NEAREST, 0)) == DQT_E_FORMAT);
        OK(ctx, dqt_llama_export_safetensors(model, path, NULL));
        OK(ctx, dqt_llama_import_safetensors(model, path, import_rounding(DQT_ROUND_NEAREST, 0)));
        CHECK(load_checkpoint(ctx, path, &loaded, NULL, NULL, NULL) == DQT_E_FORMAT);
        for (size_t k = 0; k < 2; k++) { /* no memory in the middle */
            memory.fail_at = memory.calls + k;
            CHECK(dqt_llama_save(model, NULL, path, NULL) == DQT_E_MEMORY);
            memory.fail_at = memory.calls + k;
            CHECK(load_checkpoint(ctx, path, &loaded, NULL, NULL, NULL) != DQT_OK);
            memory.fail_at = SIZE_MAX;
        }
        size_t inherited;
        CHECK(count_descriptors(&inherited) == descriptors.base && inherited == descriptors.inherited);
    }
    CHECKF(descriptors.looks > 10, "files were open in %zu of %zu looks", descriptors.looks, memory.calls);
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
    unlink(path);
    place_end(&p);
}

/* ---- Reading ----------------------------------------------------------------------------------------------------- */

/* A path that is a fifo is read as a stream. */
static void loading_from_a_fifo(void) {
    struct place p;
    place_begin(&p);
    const char *path = place_path(&p, "fifo");
    CHECK(mkfifo(path, 0600) == 0);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        struct memory_file f = memory_new();
        const uint64_t version = 77;
        bool right = dqt_llama_write(p.model, NULL, memory_write, &f, save_host(&version, sizeof version)) == DQT_OK;
        const int out = open(path, O_WRONLY | O_CLOEXEC);
        for (size_t at = 0; at < f.size && right;) {
            const ssize_t n = write(out, f.bytes + at, f.size - at < 99 ? f.size - at : 99);
            right = n > 0;
            at += right ? (size_t)n : 0;
        }
        _exit(right ? 0 : 1);
    }
    CHECK(version_of(&p, path) == 77);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    unlink(path);
    place_end(&p);
}

static const struct test tests[] = {
    TEST(fifos_sockets_and_folders),
    TEST(devices),
    TEST(symbolic_links),
    TEST(modes_and_owners),
    TEST(long_names),
    TEST(unreadable_folders),
    TEST(stale_temporaries),
    TEST(two_writers),
    TEST(sentences),
    TEST(saving_only_reads),
    TEST(no_descriptor_leaks),
    TEST(loading_from_a_fifo),
};
TEST_MAIN(tests)
