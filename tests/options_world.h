/* What the tests of versioned structs share: one object of each kind, and callers that are older, newer or wrong. */
#ifndef OPTIONS_WORLD_H
#define OPTIONS_WORLD_H

#include "calls.h"
#include "counting_alloc.h"
#include "memory_file.h"

#include <stddef.h>

enum { MORE = 64, MOST = 512 }; /* bytes beyond today's structs: tried, and the documented limit */

static dqt_context *ctx;
static dqt_layer *linear;
static dqt_tensor *tensor;
static dqt_tape *tape;
static dqt_updater *updater;
static dqt_llama *model;
static dqt_tape *model_tape;
static dqt_updater *model_updater;
static struct counting memory;

static inline void begin(void) {
    ctx = counting_context(&memory);
    dqt_layer *const *layers;
    size_t n;
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = 256;
    c.tie_embeddings = 1; /* a GGUF file wants it */
    c.hidden_size = 16;
    c.intermediate_size = 24;
    c.num_layers = 1;
    c.num_heads = 2;
    dqt_updater_options u;
    dqt_updater_options_init(&u, sizeof u);
    u.clip = DQT_CLIP_NONE;
    OK(ctx, dqt_linear_create(ctx, 8, 4, NULL, &linear));
    OK(ctx, dqt_tensor_create(ctx, 3, 70, NULL, &tensor));
    OK(ctx, dqt_tape_create(ctx, &linear, 1, NULL, &tape));
    OK(ctx, dqt_updater_create(ctx, &linear, 1, NULL, &updater));
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_tape_create(ctx, layers, n, NULL, &model_tape));
    OK(ctx, dqt_updater_create(ctx, layers, n, &u, &model_updater));
}

static inline void end(void) {
    dqt_updater_destroy(model_updater);
    dqt_tape_destroy(model_tape);
    dqt_llama_destroy(model);
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_tensor_destroy(tensor);
    dqt_layer_destroy(linear);
    counting_end(ctx, &memory);
}

/* A struct that the host fills and a call that takes it. */
struct options_case {
    const char *name;
    size_t size;
    dqt_status (*init)(void *options, size_t size); /* of `size` bytes: what the call takes */
    dqt_status (*use)(const void *options);
    size_t step;  /* of struct sizes to try; creation of a whole model is slow */
    size_t least; /* the smallest struct that has what the call must be told */
    bool needed;  /* NULL is refused */
    bool apart;   /* failures are in no context */
};

static inline const char *sentence_of(const struct options_case *c) {
    return dqt_last_error(c->apart ? NULL : ctx);
}

/* An older caller's struct ends early: what lies behind it is not looked at (it would be refused or crash). */
static inline void try_older(const struct options_case *c) {
    for (size_t size = c->least ? c->least : sizeof(uint32_t); size <= c->size; size += c->step) {
        unsigned char *exact = malloc(size); /* for the address sanitizer */
        unsigned char dirty[1024];
        memset(dirty, 0x7B, sizeof dirty);
        CHECK(c->init(exact, size) == DQT_OK && c->init(dirty, size) == DQT_OK);
        CHECKF(c->use(exact) == DQT_OK, "%s of %zu bytes: %s", c->name, size, dqt_last_error(ctx));
        CHECKF(c->use(dirty) == DQT_OK, "%s of %zu bytes: %s", c->name, size, dqt_last_error(ctx));
        free(exact);
    }
}

/* A newer caller's struct is longer: accepted while it uses nothing that this library does not know. */
static inline void try_newer(const struct options_case *c) {
    for (size_t more = 1; more <= MORE; more += c->step / 4 * 3 + 4) {
        unsigned char *buffer = malloc(c->size + more);
        CHECK(c->init(buffer, c->size + more) == DQT_OK);
        CHECKF(c->use(buffer) == DQT_OK, "%s of %zu bytes: %s", c->name, c->size + more, dqt_last_error(ctx));
        for (size_t k = 0; k < more; k++) {
            buffer[c->size + k] = 1;
            CHECKF(c->use(buffer) == DQT_E_ARGUMENT, "%s of %zu bytes, byte %zu", c->name, c->size + more, c->size + k);
            CHECKF(strstr(sentence_of(c), c->name), "%s: %s", c->name, sentence_of(c));
            buffer[c->size + k] = 0;
        }
        free(buffer);
    }
}

static inline void try_uninitialised(const struct options_case *c) {
    const uint32_t wrong[] = {0, 1, 2, 3, (uint32_t)c->size + MOST + 1, 4096, 0xCCCCCCCCu, UINT32_MAX};
    unsigned char buffer[1024];
    CHECK(c->init(buffer, c->size) == DQT_OK);
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        memcpy(buffer, &wrong[k], sizeof wrong[k]);
        CHECKF(c->use(buffer) == DQT_E_ARGUMENT, "%s: struct_size %u", c->name, (unsigned)wrong[k]);
        CHECKF(strstr(sentence_of(c), c->name) && strstr(sentence_of(c), "struct_size"), "%s: %s", c->name,
               sentence_of(c));
    }
    CHECKF((c->use(NULL) == DQT_OK) == !c->needed, "%s: NULL means defaults", c->name);
}

#endif
