/* What the fuzz targets share: a serial context whose memory is counted and bounded, streams in memory, paths to bytes
 * in memory, a small random generator for mutators. A broken promise ends the process, which libFuzzer reports. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dqt.h"

#define REQUIRE(condition, ...)                                                                                        \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not true: %s: ", __FILE__, __LINE__, #condition);                                  \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, "\n");                                                                                     \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* ---- Memory --------------------------------------------------------------------------------------------------- */

static struct {
    size_t now, peak, most; /* most: more is refused, for large blocks cost time */
} fuzz_memory = {.most = (size_t)64 << 20};

enum { FUZZ_FILLED = 64 << 10 }; /* bytes of a block that are set: a tape's scratch is megabytes */

static void *fuzz_alloc(void *user_data, size_t size, size_t align) {
    (void)user_data;
    if (size > fuzz_memory.most - fuzz_memory.now) return NULL;
    void *p = aligned_alloc(align, (size + align - 1) / align * align);
    if (!p) return NULL;
    memset(p, 0xA5, size < FUZZ_FILLED ? size : FUZZ_FILLED);
    fuzz_memory.now += size;
    if (fuzz_memory.now > fuzz_memory.peak) fuzz_memory.peak = fuzz_memory.now;
    return p;
}

static void fuzz_free(void *user_data, void *p, size_t size, size_t align) {
    (void)user_data;
    (void)align;
    fuzz_memory.now -= size;
    free(p);
}

static inline dqt_context *fuzz_context(void) {
    static dqt_context *ctx;
    if (ctx) return ctx;
    dqt_context_options o;
    dqt_context_options_init(&o, sizeof o);
    o.threading = DQT_THREADING_SERIAL;
    o.alloc = fuzz_alloc;
    o.free = fuzz_free;
    REQUIRE(dqt_context_create(&o, &ctx) == DQT_OK, "%s", dqt_last_error(NULL));
    return ctx;
}

/* ---- Bytes ---------------------------------------------------------------------------------------------------- */

struct bytes {
    uint8_t *data;
    size_t size, room, at;
    size_t piece; /* most bytes of one read; 0: any */
};

static inline int32_t bytes_write(void *user_data, const void *buffer, size_t size) {
    struct bytes *b = user_data;
    if (b->size + size > b->room) {
        b->room = 2 * (b->size + size);
        b->data = realloc(b->data, b->room);
    }
    memcpy(b->data + b->size, buffer, size);
    b->size += size;
    return 0;
}

static inline size_t bytes_read(void *user_data, void *buffer, size_t size) {
    struct bytes *b = user_data;
    size_t n = b->size - b->at < size ? b->size - b->at : size;
    if (b->piece && n > b->piece) n = b->piece;
    if (n) memcpy(buffer, b->data + b->at, n);
    b->at += n;
    return n;
}

static inline bool bytes_equal(const struct bytes *b, const uint8_t *data, size_t size) {
    return b->size == size && (size == 0 || memcmp(b->data, data, size) == 0);
}

/* A path that leads to these bytes until close(*descriptor). */
struct path {
    char text[40];
    int descriptor;
};
static inline struct path path_to(const uint8_t *data, size_t size) {
    struct path p;
    p.descriptor = memfd_create("fuzz", 0);
    REQUIRE(p.descriptor >= 0 && write(p.descriptor, data, size) == (ssize_t)size, "no file in memory");
    snprintf(p.text, sizeof p.text, "/proc/self/fd/%d", p.descriptor);
    return p;
}

/* ---- Small models --------------------------------------------------------------------------------------------- */

enum { FUZZ_MODELS = 10 };

/* One of a few shapes and formats, in all kinds between them. */
static inline dqt_llama_config fuzz_config(int which) {
    static const int32_t formats[FUZZ_MODELS] = {
        DQT_FORMAT_TERNARY, DQT_FORMAT_INT2, DQT_FORMAT_INT3, DQT_FORMAT_INT4, DQT_FORMAT_INT8,
        DQT_FORMAT_BF16,    DQT_FORMAT_F32,  DQT_FORMAT_INT8, DQT_FORMAT_INT4, DQT_FORMAT_TERNARY};
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = 5;
    c.hidden_size = 4;
    c.intermediate_size = 3;
    c.num_layers = 1;
    c.num_heads = 2;
    c.num_kv_heads = which % 2 ? 2 : 1;
    c.linear.storage = formats[which];
    c.linear.scale_axis = which % 2 ? DQT_AXIS_ROW : DQT_AXIS_TENSOR;
    c.linear.train_scale = which == 7;
    if (which == 4) c.linear.compute = DQT_FORMAT_TERNARY;
    c.tie_embeddings = which % 3 == 0;
    c.no_sub_norms = which % 2 == 0;
    c.mlp = which % 4 == 1 ? DQT_MLP_SQUARED_RELU : DQT_MLP_SWIGLU;
    if (which < 8) return c;
    c.head_dim = 4; /* the last two: what other architectures have */
    c.attention_bias = which == 8;
    c.qk_norm = which == 9;
    if (which == 9) c.mlp = DQT_MLP_GATED_SQUARED_RELU;
    c.rope_scaling = which == 8 ? DQT_ROPE_LLAMA3 : DQT_ROPE_LINEAR;
    c.rope_factor = 2;
    if (which == 9) return c;
    c.rope_low_freq_factor = 1;
    c.rope_high_freq_factor = 4;
    c.rope_original_context = 16;
    return c;
}

static inline dqt_llama *fuzz_model(int which) {
    const dqt_llama_config c = fuzz_config(which);
    dqt_llama *m;
    REQUIRE(dqt_llama_create(fuzz_context(), &c, &m) == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    return m;
}

/* Each optimiser and each state format. */
static inline void fuzz_updater_options(int which, dqt_updater_options *o) {
    dqt_updater_options_init(o, sizeof *o);
    o->optimizer = which == 3 ? DQT_OPTIMIZER_MUON : DQT_OPTIMIZER_SGD + which % 3;
    o->momentum_state = which % 3;
    o->variance_state = o->optimizer == DQT_OPTIMIZER_ADAFACTOR ? DQT_STATE_F32 : which / 3 % 3;
}

/* ---- Chance --------------------------------------------------------------------------------------------------- */

static uint64_t fuzz_state;
static inline size_t chance(size_t below) {
    fuzz_state = fuzz_state * 6364136223846793005u + 1442695040888963407u;
    return below ? (size_t)(fuzz_state >> 33) % below : 0;
}

/* Numbers at which code goes wrong, as integers and as floats. */
static inline uint64_t odd_number(void) {
    static const uint64_t numbers[] = {
        0,          1,          2,          3,          7,           8,          127,        128,        255,
        256,        0x7fffffff, 0x80000000, 0xffffffff, 0x7f800000,  0x7fc00000, 0xff800000, 0x3f800000, 0x00800000,
        0x7f7fffff, 0x33333333, 100000,     1u << 20,   0x100000000, INT64_MAX,  UINT64_MAX, 1ull << 63, 1ull << 40};
    return numbers[chance(sizeof numbers / sizeof *numbers)];
}

#endif
