#include "io/names.h"

#include <stdio.h>
#include <string.h>

struct parameter_list parameter_list(const dqt_llama *model) {
    struct parameter_list list = {.model = model, .per_block = layer_num_parameters(model->layers[1])};
    for (size_t i = 0; i < model->num_layers; i++)
        list.count += layer_num_parameters(model->layers[i]);
    return list;
}

static size_t num_in_blocks(const struct parameter_list *list) {
    return list->model->config.num_layers * list->per_block;
}

static bool in_block(const struct parameter_list *list, size_t index) {
    return index >= 1 && index <= num_in_blocks(list);
}

/* The layer of a parameter; *index becomes its number there. */
static const dqt_layer *find(const struct parameter_list *list, size_t *index) {
    const dqt_llama *m = list->model;
    const size_t i = *index;
    DQT_ASSERT(i < list->count);
    *index = in_block(list, i) ? (i - 1) % list->per_block : 0;
    if (i == 0) return m->layers[0];
    return m->layers[in_block(list, i) ? 1 + (i - 1) / list->per_block : m->num_layers - 3 + i - num_in_blocks(list)];
}

struct update_target list_parameter(const struct parameter_list *list, size_t index) {
    const dqt_layer *layer = find(list, &index);
    return layer_parameter(layer, index);
}

static const struct parameter_names *names_of(const struct parameter_list *list, size_t index) {
    const dqt_layer *layer = find(list, &index);
    const struct parameter_names *names = layer_parameter_names(layer, index);
    return names->hf_name ? names : &llama_norm_names;
}

size_t list_heads(const struct parameter_list *list, size_t index) {
    const dqt_layer *layer = find(list, &index);
    return layer_parameter_heads(layer, index);
}

const char *name_end(int parameter_class) {
    return parameter_class == DQT_CLASS_BIAS ? ".bias" : ".weight";
}

static void whole_name(const struct parameter_list *list, size_t index, const char *prefix, const char *name,
                       char out[FILE_NAME_BYTES]) {
    const char *end = name_end(list_parameter(list, index).parameter_class);
    if (in_block(list, index))
        snprintf(out, FILE_NAME_BYTES, "%s%zu.%s%s", prefix, (index - 1) / list->per_block, name, end);
    else
        snprintf(out, FILE_NAME_BYTES, "%s%s", name, end);
}

static const char hf_prefix[] = "model.layers.", gguf_prefix[] = "blk.";

void hf_name(const struct parameter_list *list, size_t index, char out[FILE_NAME_BYTES]) {
    whole_name(list, index, hf_prefix, names_of(list, index)->hf_name, out);
}

void transformers_name(const struct parameter_list *list, size_t index, char out[FILE_NAME_BYTES]) {
    const struct parameter_names *names = names_of(list, index);
    whole_name(list, index, hf_prefix, names->hf_other_name ? names->hf_other_name : names->hf_name, out);
}

void gguf_name(const struct parameter_list *list, size_t index, char out[FILE_NAME_BYTES]) {
    whole_name(list, index, gguf_prefix, names_of(list, index)->gguf_name, out);
}

/* The block whose number follows the prefix, and what stands behind it and a dot. */
static size_t block_of(const struct parameter_list *list, const char *prefix, const char *name, const char **rest) {
    size_t block = 0;
    if (strncmp(name, prefix, strlen(prefix)) != 0) return SIZE_MAX;
    const char *digits = name + strlen(prefix), *p = digits;
    for (; *p >= '0' && *p <= '9' && p - digits < 7; p++)
        block = 10 * block + (size_t)(*p - '0');
    if (p == digits || *p != '.' || (*digits == '0' && p - digits > 1) || block >= list->model->config.num_layers)
        return SIZE_MAX;
    *rest = p + 1;
    return block;
}

size_t hf_block(const struct parameter_list *list, const char *name, const char **rest) {
    return block_of(list, hf_prefix, name, rest);
}

static bool is_of(const char *name, const char *module, const char *end) {
    const size_t n = module ? strlen(module) : 0;
    return n && strncmp(name, module, n) == 0 && strcmp(name + n, end) == 0;
}

/* Among the parameters of a block, or with SIZE_MAX of none, the one that the rest of a name is of. */
static size_t index_in(const struct parameter_list *list, size_t block, const char *rest, bool gguf) {
    const size_t candidates = block == SIZE_MAX ? list->count - num_in_blocks(list) : list->per_block;
    for (size_t k = 0; k < candidates; k++) {
        const size_t outside = k == 0 ? 0 : num_in_blocks(list) + k;
        const size_t index = block == SIZE_MAX ? outside : 1 + block * list->per_block + k;
        const struct parameter_names *names = names_of(list, index);
        const char *end = name_end(list_parameter(list, index).parameter_class);
        if (is_of(rest, gguf ? names->gguf_name : names->hf_name, end) ||
            is_of(rest, gguf ? NULL : names->hf_other_name, end))
            return index;
    }
    return SIZE_MAX;
}

size_t hf_index(const struct parameter_list *list, const char *name) {
    const char *rest = name;
    const size_t block = hf_block(list, name, &rest);
    return index_in(list, block, rest, false);
}

size_t gguf_index(const struct parameter_list *list, const char *name) {
    const char *rest = name;
    const size_t block = block_of(list, gguf_prefix, name, &rest);
    return index_in(list, block, rest, true);
}
