/* dqt_llama: the block graph. */
#ifndef DQT_MODEL_LLAMA_H
#define DQT_MODEL_LLAMA_H

#include "layer/run.h"

enum { MAX_OVERRIDES = 4096 }; /* each is tried on each weight */

struct dqt_llama {
    dqt_context *ctx;
    dqt_llama_config config;        /* overrides are its own; head_dim is 0 where the other sizes imply it, first_block
                                       and num_blocks are where the model is whole */
    dqt_tensor_override *overrides; /* those of the config */
    size_t num_layers;              /* blocks, and what there is of embedding, norm and head: of a whole model + 3 */
    dqt_layer **layers;
    size_t bytes; /* of the block this struct begins */
};

static inline size_t llama_kv_heads(const dqt_llama_config *config) {
    return config->num_kv_heads ? config->num_kv_heads : config->num_heads;
}

/* head_dim, if it is not 0, is what 0 stands for. */
static inline bool llama_implies_head_dim(const dqt_llama_config *c) {
    return c->num_heads && c->hidden_size % c->num_heads == 0 && c->head_dim == c->hidden_size / c->num_heads;
}
static inline size_t llama_head_dim(const dqt_llama *model) {
    const dqt_llama_config *c = &model->config;
    return c->head_dim ? c->head_dim : c->hidden_size / c->num_heads;
}

static inline bool llama_is_partial(const dqt_llama_config *c) {
    return c->num_blocks != 0;
}
static inline size_t llama_num_blocks(const dqt_llama_config *c) {
    return llama_is_partial(c) ? c->num_blocks : c->num_layers;
}
static inline bool llama_has_embedding(const dqt_llama_config *c) {
    return c->first_block == 0;
}
static inline bool llama_has_head(const dqt_llama_config *c) {
    return c->first_block + llama_num_blocks(c) == c->num_layers;
}

dqt_status llama_create(dqt_context *ctx, const dqt_llama_config *config, dqt_llama **out);
void llama_destroy(dqt_llama *model);
dqt_status llama_memory(dqt_context *ctx, const dqt_llama_config *config, dqt_llama_memory_info *out);

/* Weights that were trained elsewhere come in: where what layers read of a tensor has scales of its own, and its rule
 * was left open, tensor and config get the rule of import, which a checkpoint then says too. The caller refreshes the
 * tensors. */
void llama_use_import_rules(dqt_llama *model);

/* The final norm's names; other parameters' are their layers'. */
extern const struct parameter_names llama_norm_names;

/* True if the tape was made of exactly the model's layers. */
bool llama_owns_tape(const dqt_llama *model, const dqt_tape *tape);

/* The slots of the model's layers, blocks as the tape counts them; and that of its last block, or of its head. */
struct slot *llama_embedding_slot(const dqt_tape *tape);
struct slot *llama_block_slot(const dqt_tape *tape, size_t block);
struct slot *llama_norm_slot(const dqt_tape *tape);
struct slot *llama_head_slot(const dqt_tape *tape);
struct slot *llama_last_slot(const dqt_tape *tape);

/* Embedding, blocks and norm, as far as the model has them, on x[tokens][hidden], which is read where there is no
 * embedding; leaves the head's input, or that of the block behind. False: the host stopped the tape. */
bool llama_forward_stream(dqt_tape *tape, const dqt_batch *b, float *x);
/* Head to embedding, the same way: d is read where there is no head, when gradient is NULL. With tape->fused each
 * weight is updated on the way. May stop the tape. */
void llama_backward(dqt_tape *tape, const struct head_gradient *gradient, float *d);

#endif
