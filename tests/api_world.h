/* What the tests of bad input share: a model with all that belongs to it, some layers of a host's own, and a hash that
 * shows whether anything changed. */
#ifndef API_WORLD_H
#define API_WORLD_H

#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

enum { VOCAB = 40, HIDDEN = 32, BATCH = 2, LENGTH = 6, TOKENS = BATCH * LENGTH };

/* A model with all that belongs to it, and some layers of a host's own. */
struct world {
    struct counting memory;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_layer *const *layers;
    size_t num_layers;
    dqt_tape *tape, *inference, *without, *bf16; /* with gradients; for inference; without gradients; bf16 gradients */
    dqt_updater *updater, *fused;
    dqt_layer *linear, *norm, *embedding, *head, *own[4];
    dqt_tape *own_tape;
    dqt_updater *own_updater;
    int32_t tokens[TOKENS], targets[TOKENS];
};

static inline dqt_llama_config small_config(void) {
    dqt_llama_config c;
    CHECK(dqt_llama_config_init(&c, sizeof c) == DQT_OK);
    c.vocab_size = VOCAB;
    c.hidden_size = HIDDEN;
    c.intermediate_size = 48;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    return c;
}

static inline dqt_tape_options tape_options(void) {
    dqt_tape_options o;
    CHECK(dqt_tape_options_init(&o, sizeof o) == DQT_OK);
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    return o;
}

static inline dqt_updater_options updater_options(void) {
    dqt_updater_options o;
    CHECK(dqt_updater_options_init(&o, sizeof o) == DQT_OK);
    return o;
}

static inline void begin(struct world *w) {
    *w = (struct world){0};
    dqt_context *ctx = w->ctx = counting_context(&w->memory);
    const dqt_llama_config c = small_config();
    dqt_tape_options t = tape_options();
    dqt_updater_options u = updater_options();
    OK(ctx, dqt_llama_create(ctx, &c, &w->model));
    OK(ctx, dqt_llama_get_layers(w->model, &w->layers, &w->num_layers));
    OK(ctx, dqt_tape_create(ctx, w->layers, w->num_layers, &t, &w->tape));
    t.no_gradient_buffers = 1;
    OK(ctx, dqt_tape_create(ctx, w->layers, w->num_layers, &t, &w->without));
    t.no_gradient_buffers = 0;
    t.inference = 1;
    OK(ctx, dqt_tape_create(ctx, w->layers, w->num_layers, &t, &w->inference));
    t.inference = 0;
    t.gradient_format = DQT_FLOAT_BF16;
    OK(ctx, dqt_tape_create(ctx, w->layers, w->num_layers, &t, &w->bf16));
    OK(ctx, dqt_updater_create(ctx, w->layers, w->num_layers, &u, &w->updater));
    u.clip = DQT_CLIP_NONE;
    OK(ctx, dqt_updater_create(ctx, w->layers, w->num_layers, &u, &w->fused));
    OK(ctx, dqt_linear_create(ctx, 8, 6, NULL, &w->linear));
    OK(ctx, dqt_rmsnorm_create(ctx, 6, NULL, &w->norm));
    OK(ctx, dqt_embedding_create(ctx, 10, 8, NULL, &w->embedding));
    OK(ctx, dqt_head_create(ctx, NULL, 6, 10, NULL, &w->head));
    w->own[0] = w->embedding;
    w->own[1] = w->linear;
    w->own[2] = w->norm;
    w->own[3] = w->head;
    t = tape_options();
    OK(ctx, dqt_tape_create(ctx, w->own, 4, &t, &w->own_tape));
    OK(ctx, dqt_updater_create(ctx, w->own, 4, NULL, &w->own_updater));
    uint64_t seed = 3;
    for (int i = 0; i < TOKENS; i++) {
        w->tokens[i] = (int32_t)(test_random(&seed) % VOCAB);
        w->targets[i] = (int32_t)(test_random(&seed) % VOCAB);
    }
}

static inline void end(struct world *w) {
    dqt_updater_destroy(w->own_updater);
    dqt_tape_destroy(w->own_tape);
    for (int i = 0; i < 4; i++)
        dqt_layer_destroy(w->own[i]);
    dqt_updater_destroy(w->fused);
    dqt_updater_destroy(w->updater);
    dqt_tape_destroy(w->bf16);
    dqt_tape_destroy(w->inference);
    dqt_tape_destroy(w->without);
    dqt_tape_destroy(w->tape);
    dqt_llama_destroy(w->model);
    counting_end(w->ctx, &w->memory);
}

static inline uint64_t hash_bytes(uint64_t h, const void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return h;
}

/* Codes, scales and gradients of a tape's parameters. */
static inline uint64_t hash_tape(const struct world *w, dqt_tape *tape) {
    uint64_t h = 14695981039346656037u;
    size_t n = 0;
    OK(w->ctx, dqt_tape_get_num_parameters(tape, &n));
    for (size_t i = 0; i < n; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        dqt_tensor_info info = {.struct_size = sizeof info};
        float *gradient = NULL, scale = 0;
        void *data = NULL;
        size_t bytes = 0;
        OK(w->ctx, dqt_tape_get_parameter(tape, i, &p));
        OK(w->ctx, dqt_tape_gradient_data(tape, i, &gradient));
        OK(w->ctx, dqt_tensor_get_info(p.tensor, &info));
        OK(w->ctx, dqt_tensor_data(p.tensor, &data, &bytes));
        if (info.num_scales == 1) OK(w->ctx, dqt_tensor_get_scales(p.tensor, &scale));
        h = hash_bytes(h, gradient, p.rows * p.cols * sizeof *gradient);
        h = hash_bytes(hash_bytes(h, data, bytes), &scale, sizeof scale);
    }
    return h;
}

static inline uint64_t hash_world(const struct world *w) {
    uint64_t steps[3] = {0};
    OK(w->ctx, dqt_updater_get_step(w->updater, &steps[0]));
    OK(w->ctx, dqt_updater_get_step(w->fused, &steps[1]));
    OK(w->ctx, dqt_updater_get_step(w->own_updater, &steps[2]));
    return hash_bytes(hash_tape(w, w->tape) ^ hash_tape(w, w->own_tape), steps, sizeof steps);
}

/* The call is refused with this status, and the sentence that `ctx` (NULL: no context) has names `word`. */
#define REFUSED(ctx, status, word, call)                                                                               \
    do {                                                                                                               \
        const dqt_status refused_status = (call);                                                                      \
        CHECKF(refused_status == (status), "%s instead of %s", dqt_status_string(refused_status), #status);            \
        const char *refused_text = dqt_last_error(ctx);                                                                \
        CHECKF(strstr(refused_text, word), "no \"%s\" in: %s", word, refused_text);                                    \
    } while (0)

/* The same for a function that creates *out, which becomes NULL. */
#define NOT_CREATED(ctx, status, word, out, call)                                                                      \
    do {                                                                                                               \
        out = (void *)&out;                                                                                            \
        REFUSED(ctx, status, word, call);                                                                              \
        CHECK(out == NULL);                                                                                            \
    } while (0)

static inline dqt_layer_options layer_options(void) {
    dqt_layer_options o;
    CHECK(dqt_layer_options_init(&o, sizeof o) == DQT_OK);
    return o;
}

#endif
