/* The names that Hugging Face's LlamaForCausalLM (and BitNet's, with sub-norms) gives to a model's parameters, and
 * GGUF's: whole names, made of what the layer kinds say (layer/kind.h). */
#ifndef DQT_IO_NAMES_H
#define DQT_IO_NAMES_H

#include "model/llama.h"

enum { FILE_NAME_BYTES = 96 };
enum { EMBEDDING = 0 /* its weight's number in a list of parameters */ };

/* One number for every parameter: those of layer 0, then layer 1, ... */
struct parameter_list {
    const dqt_llama *model;
    size_t count;     /* of all parameters */
    size_t per_block; /* parameters of a block; the embedding comes before the blocks, norm and head after them */
};
struct parameter_list parameter_list(const dqt_llama *model);
struct update_target list_parameter(const struct parameter_list *list, size_t index);
/* Number of the heads that its rows are rotated in, 0: none. */
size_t list_heads(const struct parameter_list *list, size_t index);

/* What a parameter's name ends in, in both kinds of files: ".weight", or of a bias ".bias". */
const char *name_end(int parameter_class);

/* "model.layers.0.self_attn.q_proj.weight" */
void hf_name(const struct parameter_list *list, size_t index, char out[FILE_NAME_BYTES]);

/* As transformers' own classes have it: of sub-norms BitNetForCausalLM's. */
void transformers_name(const struct parameter_list *list, size_t index, char out[FILE_NAME_BYTES]);

/* SIZE_MAX if no parameter has this name. A few other names for the same are known too. */
size_t hf_index(const struct parameter_list *list, const char *name);

/* The same of GGUF files: "blk.0.attn_q.weight". */
void gguf_name(const struct parameter_list *list, size_t index, char out[FILE_NAME_BYTES]);
size_t gguf_index(const struct parameter_list *list, const char *name);

/* The block of "model.layers.N.", and the rest of the name; SIZE_MAX if it does not begin so or there is no such block.
 */
size_t hf_block(const struct parameter_list *list, const char *name, const char **rest);

#endif
