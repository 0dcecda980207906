/* What a kind of layer is. Each kind has one description, in layer_<kind>.c, and one row of the table in layer.c;
 * everything else loops over descriptions and asks them for properties. */
#ifndef DQT_LAYER_KIND_H
#define DQT_LAYER_KIND_H

#include "core/memory.h"
#include "dqt.h"

struct slot; /* layer/tape.h */

/* A layer has at most MAX_WEIGHTS weights of its own, and is made of at most MAX_SUBLAYERS layers. */
enum { MAX_WEIGHTS = 10, MAX_SUBLAYERS = 4 };

/* The sizes that a layer is created with; those that its kind does not name are not read. A sublayer has the sizes of
 * its layer. */
struct layer_shape {
    size_t in, out; /* features; an embedding's vocabulary and a head's classes are sizes like these */
    size_t intermediate;
    size_t heads, kv_heads;
    size_t head_size; /* of attention */
};

/* A size by name: of a layer's shape, or made from it. */
enum layer_size {
    SIZE_NONE,
    SIZE_ONE,
    SIZE_IN,
    SIZE_OUT,
    SIZE_INTERMEDIATE,
    SIZE_HEADS,
    SIZE_KV_HEADS,
    SIZE_HEAD, /* head size */
    SIZE_Q,    /* heads * head size: of all queries of a token */
    SIZE_KV    /* kv_heads * head size: of all keys, or values, of a token */
};

/* When a layer has a weight. */
enum weight_need { ALWAYS, WITH_GATE /* of an MLP */, WITH_SUB_NORM, WITH_BIAS, WITH_QK_NORM };

/* What a parameter is called: dqt_name behind the layer's own name and a dot; hf_name in Hugging Face's files, behind
 * "model.layers.N." in a block, before ".weight" or, of a bias, ".bias"; gguf_name in GGUF files, behind "blk.N." in a
 * block, before the same. hf_other_name: another name under which files are read (BitNet b1.58 2B4T's). A weight
 * without names of its own has those of the sublayer that it is in. */
struct parameter_names {
    const char *dqt_name, *hf_name, *hf_other_name, *gguf_name;
};

struct weight_description {
    struct parameter_names names;
    int parameter_class; /* DQT_CLASS_*, of which NORM is a gain, at first 1, and BIAS a bias, at first 0, both f32 and
                            of one row; 0: there is no such weight */
    enum layer_size rows, cols; /* the tensor's shape */
    enum weight_need need;
    enum layer_size rotated_heads; /* the rows are so many heads that RoPE rotates; NONE: no rotation */
    enum layer_size normed_rows;   /* of a gain: so many rows of each token are normed; NONE: one */
};

/* Parameters of one row in f32, which no product reads. */
static inline bool class_is_vector(int parameter_class) {
    return parameter_class == DQT_CLASS_NORM || parameter_class == DQT_CLASS_BIAS;
}

struct sublayer_description {
    struct parameter_names names;
    int kind; /* DQT_LAYER_*; 0: there is no such sublayer */
};

/* The functions that take temporaries are run twice, as arenas are: by tape_layout, which only counts, and by forward
 * or backward itself. So nothing can be taken that was not counted. `tokens` is the tape's most while counting.
 * Temporaries are taken with tape_take and released together, when forward or backward ends or earlier by tape_release.
 * Functions may be NULL where a kind has nothing to do. */
struct layer_kind {
    int id; /* DQT_LAYER_* */
    const char *name;
    bool mixes_tokens; /* outputs depend on other tokens of a run */
    bool takes_tokens; /* its input are token ids; with forward NULL its output is a stream of features */
    struct weight_description weights[MAX_WEIGHTS];
    struct sublayer_description sublayers[MAX_SUBLAYERS];

    /* Whether such a layer can be made. Sizes of 0, options and overflow of sums are checked for all kinds alike. tied:
     * the layer whose weights are used instead of own ones, or NULL. */
    dqt_status (*check)(dqt_context *ctx, const struct layer_shape *shape, const dqt_layer *tied);
    bool may_be_tied;

    size_t saved_bytes; /* of the kind's own struct, slot->saved (zeroed) */
    /* Lays out what forward needs and what it saves for backward, in the slot and slot->saved. */
    void (*layout)(const dqt_tape *t, struct slot *s, struct arena *a);
    /* Lays out what must last as long as the tape, whatever lies over the rest. */
    void (*layout_tables)(const dqt_tape *t, struct slot *s, struct arena *a);
    void (*forward_temporaries)(dqt_tape *t, const dqt_layer *l, size_t tokens);
    void (*backward_temporaries)(dqt_tape *t, const dqt_layer *l, size_t tokens);
    /* Scratch of lanes, for at most the tape's tokens. */
    void (*scratch)(const dqt_tape *t, const dqt_layer *l, struct scratch_need *need);

    /* x[tokens][in] to y[tokens][out], which may be x where in == out; dy[tokens][out] to dx[tokens][in], which may be
     * dy where in == out, and NULL: only weight gradients. tokens is the slot's batch * length, which are set. NULL:
     * the kind has calls of its own (layer/run.h). */
    void (*forward)(dqt_tape *t, struct slot *s, const float *x, float *y);
    void (*backward)(dqt_tape *t, struct slot *s, const float *dy, float *dx);
};

extern const struct layer_kind embedding_kind, linear_kind, rmsnorm_kind, attention_kind, mlp_kind, block_kind,
    head_kind;

#endif
