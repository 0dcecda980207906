/* A temporary folder, a tiny model and what tests of files ask again and again. */
#ifndef FILES_FIXTURE_H
#define FILES_FIXTURE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "counting_alloc.h"
#include "memory_file.h"

enum { PLACE_BYTES = 4096 };

struct place {
    struct counting memory;
    dqt_context *ctx;
    dqt_llama *model;
    char folder[40], path[PLACE_BYTES]; /* path: what place_path was asked last */
};

static inline void place_begin(struct place *p) {
    snprintf(p->folder, sizeof p->folder, "/tmp/dqt-files-XXXXXX");
    CHECK(mkdtemp(p->folder) != NULL);
    p->ctx = counting_context(&p->memory);
    dqt_llama_config c;
    OK(p->ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 32;
    c.hidden_size = 16;
    c.intermediate_size = 24;
    c.num_layers = 1;
    c.num_heads = c.num_kv_heads = 2;
    OK(p->ctx, dqt_llama_create(p->ctx, &c, &p->model));
}

/* The model is gone, the context clean and the folder empty. */
static inline void place_end(struct place *p) {
    dqt_llama_destroy(p->model);
    counting_end(p->ctx, &p->memory);
    CHECKF(rmdir(p->folder) == 0, "%s: %s", p->folder, strerror(errno));
}

static inline const char *place_path(struct place *p, const char *name) {
    snprintf(p->path, sizeof p->path, "%s/%s", p->folder, name);
    return p->path;
}

/* Saves the model with `version` as the host's bytes. */
static inline dqt_status save_version(struct place *p, const char *path, uint64_t version) {
    return dqt_llama_save(p->model, NULL, path, save_host(&version, sizeof version));
}

/* The version in the file; 0 if it cannot be loaded. */
static inline uint64_t version_of(struct place *p, const char *path) {
    dqt_llama *model = NULL;
    void *host = NULL;
    size_t size = 0;
    uint64_t version = 0;
    if (load_checkpoint(p->ctx, path, &model, NULL, &host, &size) == DQT_OK && size >= sizeof version)
        memcpy(&version, host, sizeof version);
    dqt_host_bytes_free(p->ctx, host, size);
    dqt_llama_destroy(model);
    return version;
}

static inline size_t entries_in(const char *folder) {
    size_t n = 0;
    DIR *d = opendir(folder);
    if (!d) return SIZE_MAX;
    for (const struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

#endif
