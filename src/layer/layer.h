/* dqt_layer: shapes and weights of one operation. One struct for all kinds; the fields a kind does not use are zero. */
#ifndef DQT_LAYER_LAYER_H
#define DQT_LAYER_LAYER_H

#include "optim/updater.h"

/* A host's name, that name with a part of a block behind it, and that with a weight behind it; each with its final
 * zero. */
enum { NAME_BYTES = 48, LAYER_NAME_BYTES = 64, PARAMETER_NAME_BYTES = 80 };
enum { MAX_WEIGHTS = 5, BLOCK_PARTS = 4 };

/* Index into weight[] by kind. Embedding, linear, RMSNorm and head have one weight, W. */
enum { W = 0 };
enum { ATTENTION_Q, ATTENTION_K, ATTENTION_V, ATTENTION_O, ATTENTION_NORM };
enum { MLP_GATE, MLP_UP, MLP_DOWN, MLP_NORM }; /* no gate in a squared-ReLU MLP */
enum { BLOCK_NORM1, BLOCK_ATTENTION, BLOCK_NORM2, BLOCK_MLP };

struct dqt_layer {
    dqt_context *ctx;
    int kind; /* DQT_LAYER_* */
    char name[LAYER_NAME_BYTES];
    size_t in, out;
    size_t intermediate;               /* MLP, block */
    size_t heads, kv_heads, head_size; /* attention, block */
    int activation;                    /* DQT_ACTIVATION_* */
    int mlp;                           /* DQT_MLP_* */
    float eps, rope_theta;
    dqt_tensor *weight[MAX_WEIGHTS]; /* some NULL */
    char weight_name[MAX_WEIGHTS][PARAMETER_NAME_BYTES];
    int weight_class[MAX_WEIGHTS];
    struct dqt_layer *tied;              /* head: the embedding that owns weight[W] */
    struct dqt_layer *part[BLOCK_PARTS]; /* block */
};

/* Checked creation; options are complete. `out` is NULL on failure. */
dqt_status embedding_create(dqt_context *ctx, size_t vocab, size_t hidden, const dqt_layer_options *o, dqt_layer **out);
dqt_status linear_create(dqt_context *ctx, size_t in, size_t out_features, const dqt_layer_options *o, dqt_layer **out);
dqt_status rmsnorm_create(dqt_context *ctx, size_t features, const dqt_layer_options *o, dqt_layer **out);
dqt_status attention_create(dqt_context *ctx, size_t hidden, size_t heads, size_t kv_heads, const dqt_layer_options *o,
                            dqt_layer **out);
dqt_status mlp_create(dqt_context *ctx, size_t hidden, size_t intermediate, const dqt_layer_options *o,
                      dqt_layer **out);
dqt_status block_create(dqt_context *ctx, size_t hidden, size_t intermediate, size_t heads, size_t kv_heads,
                        const dqt_layer_options *o, dqt_layer **out);
dqt_status head_create(dqt_context *ctx, size_t hidden, size_t classes, dqt_layer *tied, const dqt_layer_options *o,
                       dqt_layer **out);
void layer_destroy(dqt_layer *layer);

/* Parameters in enumeration order: own weights, then the parts'. A tied head has none. */
size_t layer_num_parameters(const dqt_layer *layer);
struct update_target layer_parameter(const dqt_layer *layer, size_t index);

/* The parameters of a list of layers, as tapes and updaters number them; at least one layer. NULL without memory. */
struct update_target *layers_targets(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, size_t *count);
void layers_targets_free(dqt_context *ctx, struct update_target *targets, size_t count);

/* Bytes that are allocated for the layer and its parts: weights by codes and scales, and structs. */
size_t layer_memory(const dqt_layer *layer);

static inline float *gain_of(const dqt_tensor *t) {
    return (float *)(void *)t->data;
}

#endif
