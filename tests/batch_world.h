/* Networks in several settings, their gradients and codes, for tests of what a batch and a host's own loss say.
 *
 * Gradients that must be equal but are summed in another order are compared by the largest difference, relative to the
 * largest number of the parameter. */
#ifndef BATCH_WORLD_H
#define BATCH_WORLD_H

#include "calls.h"
#include "isa_contexts.h"

enum { VOCAB = 2100, HIDDEN = 32, LAYERS = 2, BATCH = 3, LENGTH = 9, TOKENS = BATCH * LENGTH };

/* Where networks differ. */
struct setting {
    const char *name;
    int32_t precision, activation, head_activation, tied, recompute;
    double tolerance;
};
static const struct setting settings[] = {
    {"f32", DQT_PRECISION_F32, DQT_ACTIVATION_NONE, DQT_ACTIVATION_NONE, 0, 0, 1e-5},
    {"f32 tied", DQT_PRECISION_F32, DQT_ACTIVATION_NONE, DQT_ACTIVATION_NONE, 1, 0, 1e-5},
    {"f32 recomputed", DQT_PRECISION_F32, DQT_ACTIVATION_NONE, DQT_ACTIVATION_NONE, 0, 1, 1e-5},
    {"f32 int8", DQT_PRECISION_F32, DQT_ACTIVATION_INT8, DQT_ACTIVATION_INT8, 1, 1, 1e-5},
    {"bf16 int8", DQT_PRECISION_BF16, DQT_ACTIVATION_INT8, DQT_ACTIVATION_NONE, 0, 0, 2e-2},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

struct world {
    const struct setting *setting;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_layer *const *layers;
    size_t num_layers, num_parameters;
    int32_t tokens[TOKENS], targets[TOKENS];
    float weights[TOKENS];
};

static inline void world_open_tape(struct world *w, size_t max_batch, size_t max_length) {
    dqt_tape_options o;
    OK(w->ctx, dqt_tape_options_init(&o, sizeof o));
    o.max_batch = max_batch;
    o.max_length = max_length;
    o.precision = w->setting->precision;
    o.recompute = w->setting->recompute;
    OK(w->ctx, dqt_tape_create(w->ctx, w->layers, w->num_layers, &o, &w->tape));
    OK(w->ctx, dqt_tape_get_num_parameters(w->tape, &w->num_parameters));
}

static inline struct world *world_create_in(const struct setting *setting, const dqt_context_options *options) {
    struct world *w = calloc(1, sizeof *w);
    if (!w) abort();
    w->setting = setting;
    OK(NULL, dqt_context_create(options, &w->ctx));
    dqt_llama_config c;
    OK(w->ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = VOCAB;
    c.hidden_size = HIDDEN;
    c.intermediate_size = 48;
    c.num_layers = LAYERS;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.tie_embeddings = setting->tied;
    c.activation = setting->activation;
    c.head_activation = setting->head_activation;
    c.init_std = 0.2f;
    OK(w->ctx, dqt_llama_create(w->ctx, &c, &w->model));
    OK(w->ctx, dqt_llama_get_layers(w->model, &w->layers, &w->num_layers));
    world_open_tape(w, BATCH, LENGTH);
    uint64_t random = 3;
    for (int i = 0; i < TOKENS; i++) {
        w->tokens[i] = (int32_t)(test_random(&random) % VOCAB);
        w->targets[i] = i % 5 == 3 ? -1 : (int32_t)(test_random(&random) % VOCAB);
        w->weights[i] = 1;
    }
    return w;
}

static inline struct world *world_create(const struct setting *setting) {
    return world_create_in(setting, NULL);
}

static inline void world_destroy(struct world *w) {
    dqt_tape_destroy(w->tape);
    dqt_llama_destroy(w->model);
    dqt_context_destroy(w->ctx);
    free(w);
}

static inline dqt_batch batch_of(const struct world *w) {
    return (dqt_batch){
        .struct_size = sizeof(dqt_batch), .batch = BATCH, .length = LENGTH, .tokens = w->tokens, .targets = w->targets};
}

/* A copy of all gradients, one after the other. */
struct gradients {
    float *values;
    size_t count;
};
static inline struct gradients take_gradients(struct world *w) {
    struct gradients g = {0};
    for (size_t i = 0; i < w->num_parameters; i++) {
        dqt_parameter p = DQT_INIT(dqt_parameter);
        OK(w->ctx, dqt_tape_get_parameter(w->tape, i, &p));
        g.values = realloc(g.values, (g.count + p.rows * p.cols) * sizeof *g.values);
        if (!g.values) abort();
        OK(w->ctx, dqt_tape_get_gradient(w->tape, i, 0, p.rows, g.values + g.count));
        g.count += p.rows * p.cols;
    }
    OK(w->ctx, dqt_tape_zero_gradients(w->tape));
    return g;
}

/* The largest difference of a parameter, relative to its largest number; the largest of all parameters. */
static inline double distance(const struct world *w, const struct gradients *a, const struct gradients *b) {
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < w->num_parameters; i++) {
        dqt_parameter p = DQT_INIT(dqt_parameter);
        OK(w->ctx, dqt_tape_get_parameter(w->tape, i, &p));
        double largest = 0, difference = 0;
        for (size_t n = p.rows * p.cols; n-- > 0; at++) {
            largest = fmax(largest, fabs((double)b->values[at]));
            difference = fmax(difference, fabs((double)a->values[at] - (double)b->values[at]));
        }
        CHECKF(largest > 0, "%s: %s has no gradient", w->setting->name, p.name);
        worst = fmax(worst, difference / largest);
    }
    CHECK(at == a->count && at == b->count);
    return worst;
}

static inline void check_equal(const struct world *w, struct gradients a, struct gradients b, double tolerance,
                               const char *what) {
    const double found = distance(w, &a, &b);
    CHECKF(found <= tolerance, "%s: %s: relative difference %g, at most %g", w->setting->name, what, found, tolerance);
    free(a.values);
    free(b.values);
}

static inline struct gradients gradients_of(struct world *w, const dqt_batch *b, float *loss) {
    OK(w->ctx, dqt_llama_loss(w->model, w->tape, b, loss, NULL));
    OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
    return take_gradients(w);
}

static inline void each_setting(void (*check)(struct world *w)) {
    for (size_t i = 0; i < SETTINGS; i++) {
        struct world *w = world_create(&settings[i]);
        check(w);
        world_destroy(w);
    }
}

/* All codes, one after the other. */
static inline int8_t *take_codes(const struct world *w, size_t *count) {
    int8_t *codes = NULL;
    *count = 0;
    for (size_t i = 0; i < w->num_parameters; i++) {
        dqt_parameter p = DQT_INIT(dqt_parameter);
        OK(w->ctx, dqt_tape_get_parameter(w->tape, i, &p));
        if (p.parameter_class == DQT_CLASS_NORM) continue;
        codes = realloc(codes, *count + p.rows * p.cols);
        if (!codes) abort();
        OK(w->ctx, dqt_tensor_get_codes(p.tensor, 0, p.rows, codes + *count));
        *count += p.rows * p.cols;
    }
    return codes;
}

static inline dqt_updater *updater_of(const struct world *w) {
    dqt_updater_options o;
    dqt_updater *updater = NULL;
    OK(w->ctx, dqt_updater_options_init(&o, sizeof o));
    o.clip = DQT_CLIP_NONE;
    OK(w->ctx, dqt_updater_create(w->ctx, w->layers, w->num_layers, &o, &updater));
    return updater;
}

#endif
