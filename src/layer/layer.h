/* dqt_layer: shapes and weights of one operation. One struct for all kinds (layer/kind.h). */
#ifndef DQT_LAYER_LAYER_H
#define DQT_LAYER_LAYER_H

#include "layer/kind.h"
#include "ops/attention.h"
#include "optim/updater.h"

/* A host's name, that name with a sublayer's behind it, and that with a weight's behind it; each with its final zero.
 */
enum { NAME_BYTES = 48, LAYER_NAME_BYTES = 64, PARAMETER_NAME_BYTES = 80 };

/* Index into weight[] and sublayer[] by kind. Embedding, linear, RMSNorm and head have one weight, W. */
enum { W = 0 };
enum {
    ATTENTION_Q,
    ATTENTION_K,
    ATTENTION_V,
    ATTENTION_O,
    ATTENTION_NORM,
    ATTENTION_BIASES,                            /* of q, k, v, in this order */
    ATTENTION_HEAD_NORMS = ATTENTION_BIASES + 3, /* of the heads of q, of k */
    ATTENTION_WEIGHTS = ATTENTION_HEAD_NORMS + 2
};
enum { MLP_GATE, MLP_UP, MLP_DOWN, MLP_NORM, MLP_WEIGHTS }; /* no gate in a squared-ReLU MLP */
enum { BLOCK_NORM1, BLOCK_ATTENTION, BLOCK_NORM2, BLOCK_MLP, BLOCK_SUBLAYERS };
_Static_assert((int)ATTENTION_WEIGHTS <= (int)MAX_WEIGHTS && (int)MLP_WEIGHTS <= (int)MAX_WEIGHTS, "room for weights");
_Static_assert((int)BLOCK_SUBLAYERS <= (int)MAX_SUBLAYERS, "room for sublayers");

/* Where the layer of a partial model is in the whole one, by whose numbers random numbers are drawn: those of its first
 * parameter and slot, and how many parameters the whole has. 0: it is of no partial model. */
struct layer_place {
    size_t parameter, slot, num_parameters;
};

struct dqt_layer {
    dqt_context *ctx;
    const struct layer_kind *kind;
    char name[LAYER_NAME_BYTES];
    struct layer_shape shape;
    int activation; /* DQT_ACTIVATION_*: of what enters its products */
    int mlp;        /* DQT_MLP_* */
    float eps;
    struct rope rope;
    dqt_tensor *weight[MAX_WEIGHTS]; /* as the kind's weights; some NULL */
    char weight_name[MAX_WEIGHTS][PARAMETER_NAME_BYTES];
    struct dqt_layer *tied;                    /* the layer that owns the weights, where this one does not */
    struct dqt_layer *sublayer[MAX_SUBLAYERS]; /* as the kind's sublayers */
    struct layer_place whole;
};

/* Tensor options of weight matrices by name; the last that matches holds. */
struct overrides {
    const dqt_tensor_override *list; /* [count] */
    size_t count;
};
/* What holds for the matrix of this name: an override, or `otherwise`. overrides NULL: none. */
const dqt_tensor_options *override_of(const struct overrides *overrides, const char *name,
                                      const dqt_tensor_options *otherwise);

/* Checked creation; options are complete, and say what the shape's head_size is. kind: DQT_LAYER_*. tied: NULL, or
 * where the kind may be tied the layer whose weights it uses. overrides: of the options' `weight`; NULL: none. `out` is
 * NULL on failure. */
dqt_status layer_create(dqt_context *ctx, int kind, const struct layer_shape *shape, dqt_layer *tied,
                        const dqt_layer_options *o, const struct overrides *overrides, dqt_layer **out);
void layer_destroy(dqt_layer *layer);

size_t layer_size(const dqt_layer *layer, enum layer_size size);
size_t layer_num_sublayers(const dqt_layer *layer);

/* Parameters in enumeration order: own weights, then the sublayers'. A tied layer has none. index is below
 * layer_num_parameters. */
size_t layer_num_parameters(const dqt_layer *layer);
struct update_target layer_parameter(const dqt_layer *layer, size_t index);
/* Both factors of its products are codes, the weight's and int8 of what enters: backward may be done in integers. */
bool layer_weight_is_integer(const dqt_layer *layer, int weight);
/* The place of its tensor in the layer. */
dqt_tensor **layer_parameter_place(dqt_layer *layer, size_t index);
const struct parameter_names *layer_parameter_names(const dqt_layer *layer, size_t index);
/* A gain over what enters the parameter before it. */
bool layer_parameter_is_sub_norm(const dqt_layer *layer, size_t index);
/* Rows of each token that the gain of an RMSNorm is applied to. */
size_t layer_normed_rows(const dqt_layer *layer, int weight);
/* Number of the heads that its rows are rotated in, 0: none. */
size_t layer_parameter_heads(const dqt_layer *layer, size_t index);

/* The parameters of a list of layers, as tapes and updaters number them; at least one layer. NULL without memory. */
struct update_target *layers_targets(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, size_t *count);
void layers_targets_free(dqt_context *ctx, struct update_target *targets, size_t count);

/* Bytes that are allocated for the layer and its sublayers: weights by codes and scales, and structs. */
size_t layer_memory(const dqt_layer *layer);

/* The floats of a gain or a bias. */
static inline float *gain_of(const dqt_tensor *t) {
    return (float *)(void *)t->data;
}

#endif
