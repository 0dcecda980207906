/* Small models of the architectures that differ from LLaMA 2 in their layers. */
#ifndef ARCHITECTURES_H
#define ARCHITECTURES_H

#include "calls.h"
#include "format/tensor.h"
#include "golden_file.h"

enum { VOCAB = 48, HIDDEN = 32, BATCH = 2, LENGTH = 12, TOKENS = BATCH * LENGTH, MOST = 64 * 64, SEED = 1 };

struct subject {
    const char *name;
    int32_t mlp, sub_norms, tied, bias, qk_norm;
    size_t kv_heads, head_dim;
    float eps, theta;
    int32_t scaling;
    float factor, low, high;
    size_t context;
    dqt_llama_config config; /* F32, nothing rounded */
    int32_t tokens[TOKENS], targets[TOKENS];
};

static const struct subject subjects[] = {
    {.name = "llama3",
     .kv_heads = 2,
     .head_dim = 12,
     .scaling = DQT_ROPE_LLAMA3,
     .factor = 8,
     .low = 1,
     .high = 4,
     .context = 64},
    {.name = "llama_linear", .kv_heads = 1, .theta = 500, .tied = 1, .scaling = DQT_ROPE_LINEAR, .factor = 2.5f},
    {.name = "mistral", .kv_heads = 4, .head_dim = 16},
    {.name = "qwen2", .kv_heads = 2, .eps = 1e-6f, .theta = 1000, .tied = 1, .bias = 1},
    {.name = "qwen3", .kv_heads = 2, .eps = 1e-6f, .theta = 1000, .head_dim = 12, .qk_norm = 1},
    {.name = "bitnet", .kv_heads = 2, .theta = 500, .tied = 1, .sub_norms = 1, .mlp = DQT_MLP_GATED_SQUARED_RELU},
};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

static inline void subject_open(struct subject *s) {
    dqt_llama_config *c = &s->config;
    dqt_llama_config_init(c, sizeof *c);
    c->mlp = s->mlp;
    c->vocab_size = VOCAB;
    c->hidden_size = HIDDEN;
    c->intermediate_size = 48;
    c->num_heads = 4;
    c->num_kv_heads = s->kv_heads;
    c->no_sub_norms = !s->sub_norms;
    c->tie_embeddings = s->tied;
    c->head_dim = s->head_dim;
    c->attention_bias = s->bias;
    c->qk_norm = s->qk_norm;
    c->norm_eps = s->eps;
    c->rope_theta = s->theta;
    c->rope_scaling = s->scaling;
    c->rope_factor = s->factor;
    c->rope_low_freq_factor = s->low;
    c->rope_high_freq_factor = s->high;
    c->rope_original_context = s->context;
    c->activation = DQT_ACTIVATION_NONE;
    c->linear.storage = c->embedding.storage = c->head.storage = DQT_FORMAT_F32;
    const struct rng rng = rng_make(SEED, 1, RNG_INIT, 0);
    for (size_t i = 0; i < 2 * TOKENS; i++) {
        uint32_t words[4];
        rng_block(&rng, i / 4, words);
        (i < TOKENS ? s->tokens : s->targets)[i % TOKENS] = (int32_t)(words[i % 4] % VOCAB);
    }
    s->targets[3] = s->targets[LENGTH] = s->targets[LENGTH + 11] = -1;
}

static inline void each_subject(void (*run)(const struct subject *s)) {
    for (size_t i = 0; i < SUBJECTS; i++) {
        struct subject s = subjects[i];
        subject_open(&s);
        run(&s);
    }
}

struct made {
    dqt_llama *model;
    dqt_tape *tape;
    dqt_layer *const *layers;
    size_t num_layers, num_parameters;
};

static inline dqt_tape_options tape_options(void) {
    dqt_tape_options o;
    dqt_tape_options_init(&o, sizeof o);
    o.precision = DQT_PRECISION_F32;
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    return o;
}

static inline struct made make(dqt_context *ctx, const dqt_llama_config *c, const dqt_tape_options *o) {
    struct made m = {0};
    OK(ctx, dqt_llama_create(ctx, c, &m.model));
    OK(ctx, dqt_llama_get_layers(m.model, &m.layers, &m.num_layers));
    OK(ctx, dqt_tape_create(ctx, m.layers, m.num_layers, o, &m.tape));
    OK(ctx, dqt_tape_get_num_parameters(m.tape, &m.num_parameters));
    return m;
}

static inline void unmake(struct made *m) {
    dqt_tape_destroy(m->tape);
    dqt_llama_destroy(m->model);
}

static inline dqt_parameter parameter(dqt_context *ctx, const struct made *m, size_t i) {
    dqt_parameter p = {.struct_size = sizeof p};
    OK(ctx, dqt_tape_get_parameter(m->tape, i, &p));
    return p;
}

/* The script's weights: gains about 1, all else about 0. */
static inline void set_weights(dqt_context *ctx, const struct made *m) {
    float w[MOST];
    for (size_t i = 0; i < m->num_parameters; i++) {
        const dqt_parameter p = parameter(ctx, m, i);
        golden_weights(SEED, i, p.parameter_class == DQT_CLASS_NORM ? 1.0f : 0.0f, w, p.rows * p.cols);
        OK(ctx, dqt_tensor_quantize(p.tensor, w, DQT_ROUND_NEAREST, 0));
    }
}

#endif
