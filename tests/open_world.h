/* A folder of its own, and model files that are made piece by piece, so that each piece can be wrong. */
#ifndef OPEN_WORLD_H
#define OPEN_WORLD_H

#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "calls.h"
#include "counting_alloc.h"
#include "io/encoding.h"
#include "io/stream.h"
#include "model_files.h"

struct open_world {
    struct counting memory;
    dqt_context *ctx;
    char folder[40], path[GOLDEN_PATH_BYTES];
};

static inline void world_begin(struct open_world *w) {
    snprintf(w->folder, sizeof w->folder, "/tmp/dqt-open-XXXXXX");
    CHECK(mkdtemp(w->folder) != NULL);
    w->ctx = counting_context(&w->memory);
}

static inline const char *world_path(struct open_world *w, const char *name) {
    snprintf(w->path, sizeof w->path, "%s/%s", w->folder, name);
    return w->path;
}

static inline void world_write(struct open_world *w, const char *name, const void *bytes, size_t size) {
    FILE *f = fopen(world_path(w, name), "wb");
    CHECK(f && fwrite(bytes, 1, size, f) == size && fclose(f) == 0);
}

static inline void world_remove(struct open_world *w, const char *name) {
    unlink(world_path(w, name));
}

/* The folder must be empty. */
static inline void world_end(struct open_world *w) {
    counting_end(w->ctx, &w->memory);
    CHECK(rmdir(w->folder) == 0);
}

/* ---- GGUF ----------------------------------------------------------------------------------------------------- */

static inline void put_number(struct memory_file *f, uint64_t value, size_t bytes) {
    unsigned char le[8];
    put_le(le, value, bytes);
    memory_write(f, le, bytes);
}
static inline void put_text(struct memory_file *f, const char *text) {
    put_number(f, strlen(text), 8);
    memory_write(f, text, strlen(text));
}
static inline void put_u32_key(struct memory_file *f, const char *key, uint32_t value) {
    put_text(f, key);
    put_number(f, 4, 4);
    put_number(f, value, 4);
}
static inline void put_f32_key(struct memory_file *f, const char *key, float value) {
    put_text(f, key);
    put_number(f, 6, 4);
    put_number(f, f32_bits(value), 4);
}
static inline void put_text_key(struct memory_file *f, const char *key, const char *value) {
    put_text(f, key);
    put_number(f, 8, 4);
    put_text(f, value);
}

/* A file of the llama architecture: what differs from an ordinary one is set after file_defaults. */
struct gguf_tensor {
    char name[80];
    uint64_t rows, cols; /* rows 0: a vector */
    uint32_t type;
    uint64_t offset;     /* set by file_bytes unless it is not 0 */
    unsigned char *data; /* [bytes]; random and finite unless given */
    size_t bytes;
};

enum { MOST_TENSORS = 32, MOST_EXTRA = 4096 };

struct gguf_file {
    const char *architecture;
    uint32_t version, hidden, intermediate, layers, heads, kv_heads, vocab;
    uint32_t alignment; /* 0: no key */
    float eps, theta;
    struct memory_file extra; /* more keys */
    uint64_t num_extra;
    uint64_t more_keys, more_tensors; /* that the head claims */
    struct gguf_tensor tensors[MOST_TENSORS];
    size_t num_tensors;
    uint64_t seed;
};

/* Random bytes that are finite weights: fp16 numbers of blocks are between 2^-8 and 2^-6, of either sign. */
static inline void random_blocks(const struct encoding *e, unsigned char *data, size_t blocks, uint64_t *seed) {
    static const struct {
        const char *name;
        size_t halves[2];
    } places[] = {{"Q4_0", {0, 0}},    {"Q4_1", {0, 2}},     {"Q5_0", {0, 0}}, {"Q5_1", {0, 2}}, {"Q8_0", {0, 0}},
                  {"Q2_K", {80, 82}},  {"Q3_K", {108, 108}}, {"Q4_K", {0, 2}}, {"Q5_K", {0, 2}}, {"Q6_K", {208, 208}},
                  {"TQ1_0", {52, 52}}, {"TQ2_0", {64, 64}},  {"F16", {0, 0}}};
    for (size_t b = 0; b < blocks; b++, data += e->bytes) {
        for (size_t i = 0; i < e->bytes; i++)
            data[i] = (unsigned char)test_random(seed);
        for (size_t i = 0; i < e->bytes && strcmp(e->name, "TQ2_0") == 0; i++) /* no field of 3 */
            data[i] = (unsigned char)(data[i] & ~(data[i] >> 1 & 0x55));
        if (strcmp(e->name, "F32") == 0) put_le(data, f32_bits(test_uniform(seed)), 4);
        if (strcmp(e->name, "BF16") == 0) put_le(data, f32_bits(test_uniform(seed)) >> 16, 2);
        for (size_t i = 0; i < sizeof places / sizeof *places; i++)
            for (size_t k = 0; k < 2 && strcmp(e->name, places[i].name) == 0; k++)
                put_le(data + places[i].halves[k],
                       (test_random(seed) & 0x83ff) | (uint64_t)(7 + test_random(seed) % 2) << 10, 2);
    }
}

static inline struct gguf_tensor *file_add(struct gguf_file *g, const char *name, uint64_t rows, uint64_t cols,
                                           uint32_t type) {
    struct gguf_tensor *t = &g->tensors[g->num_tensors++];
    const struct encoding *e = encoding_of_gguf(type);
    *t = (struct gguf_tensor){.rows = rows, .cols = cols, .type = type};
    snprintf(t->name, sizeof t->name, "%s", name);
    t->bytes = (size_t)((rows ? rows : 1) * cols / e->block * e->bytes);
    t->data = malloc(t->bytes);
    random_blocks(e, t->data, t->bytes / e->bytes, &g->seed);
    return t;
}

/* One block of this type in all matrices; gains are F32. */
static inline struct gguf_file file_defaults(uint32_t type) {
    struct gguf_file g = {.architecture = "llama",
                          .version = 3,
                          .hidden = 256,
                          .intermediate = 256,
                          .layers = 1,
                          .heads = 4,
                          .kv_heads = 2,
                          .vocab = 8,
                          .eps = 1e-5f,
                          .theta = 1e4f,
                          .extra = memory_new(),
                          .seed = 1 + type};
    static const struct {
        const char *name;
        uint64_t rows;
    } matrices[] = {{"attn_q", 256},   {"attn_k", 128}, {"attn_v", 128},  {"attn_output", 256},
                    {"ffn_gate", 256}, {"ffn_up", 256}, {"ffn_down", 256}};
    file_add(&g, "token_embd.weight", g.vocab, g.hidden, type);
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        char name[80];
        snprintf(name, sizeof name, "blk.0.%s.weight", matrices[i].name);
        file_add(&g, name, matrices[i].rows, 256, type);
    }
    file_add(&g, "blk.0.attn_norm.weight", 0, 256, 0);
    file_add(&g, "blk.0.ffn_norm.weight", 0, 256, 0);
    file_add(&g, "output_norm.weight", 0, 256, 0);
    return g;
}

static inline struct gguf_tensor *file_tensor(struct gguf_file *g, const char *name) {
    for (size_t i = 0; i < g->num_tensors; i++)
        if (strcmp(g->tensors[i].name, name) == 0) return &g->tensors[i];
    return NULL;
}

static inline void put_keys(const struct gguf_file *g, struct memory_file *f) {
    const struct {
        const char *key;
        uint32_t value;
    } keys[] = {{"embedding_length", g->hidden}, {"feed_forward_length", g->intermediate},
                {"block_count", g->layers},      {"attention.head_count", g->heads},
                {"context_length", 64},          {"attention.head_count_kv", g->kv_heads}};
    char key[80];
    put_number(f, 9u + (g->alignment ? 1u : 0u) + g->num_extra + g->more_keys, 8);
    put_text_key(f, "general.architecture", g->architecture);
    if (g->alignment) put_u32_key(f, "general.alignment", g->alignment);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(key, sizeof key, "%s.%s", g->architecture, keys[i].key);
        put_u32_key(f, key, keys[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", g->architecture);
    put_f32_key(f, key, g->eps);
    snprintf(key, sizeof key, "%s.rope.freq_base", g->architecture);
    put_f32_key(f, key, g->theta);
    if (g->extra.size) memory_write(f, g->extra.bytes, g->extra.size);
}

static inline void put_padding(struct memory_file *f, size_t alignment) {
    while (f->size % alignment)
        put_number(f, 0, 1);
}

static inline struct memory_file file_bytes(const struct gguf_file *g) {
    struct memory_file f = memory_new();
    const size_t alignment = g->alignment ? g->alignment : 32;
    uint64_t offset = 0;
    memory_write(&f, "GGUF", 4);
    put_number(&f, g->version, 4);
    put_number(&f, g->num_tensors + g->more_tensors, 8);
    put_keys(g, &f);
    for (size_t i = 0; i < g->num_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        put_text(&f, t->name);
        put_number(&f, t->rows ? 2 : 1, 4);
        put_number(&f, t->cols, 8);
        if (t->rows) put_number(&f, t->rows, 8);
        put_number(&f, t->type, 4);
        put_number(&f, t->offset ? t->offset : offset, 8);
        offset = (offset + t->bytes + alignment - 1) / alignment * alignment;
    }
    put_padding(&f, alignment);
    for (size_t i = 0; i < g->num_tensors; i++) {
        memory_write(&f, g->tensors[i].data, g->tensors[i].bytes);
        put_padding(&f, alignment);
    }
    return f;
}

static inline void file_end(struct gguf_file *g) {
    for (size_t i = 0; i < g->num_tensors; i++)
        free(g->tensors[i].data);
    free(g->extra.bytes);
}

/* Opens what the file says. */
static inline dqt_status file_open_model(struct open_world *w, const struct gguf_file *g, const dqt_open_options *o,
                                         dqt_llama **model) {
    struct memory_file f = file_bytes(g);
    world_write(w, "model.gguf", f.bytes, f.size);
    free(f.bytes);
    const dqt_status status = dqt_llama_open(w->ctx, world_path(w, "model.gguf"), o, model);
    world_remove(w, "model.gguf");
    return status;
}

#endif
