#include "io/names.h"

#include <stdio.h>
#include <string.h>

/* Within a block. `other`: BitNet b1.58 2B4T's names of the sub-norms; only read. */
static const struct {
    const char *own, *foreign, *other;
} names[] = {
    {"attention_norm", "input_layernorm", NULL},
    {"attention.q", "self_attn.q_proj", NULL},
    {"attention.k", "self_attn.k_proj", NULL},
    {"attention.v", "self_attn.v_proj", NULL},
    {"attention.o", "self_attn.o_proj", NULL},
    {"attention.sub_norm", "self_attn.inner_attn_ln", "self_attn.attn_sub_norm"},
    {"mlp_norm", "post_attention_layernorm", NULL},
    {"mlp.gate", "mlp.gate_proj", NULL},
    {"mlp.up", "mlp.up_proj", NULL},
    {"mlp.down", "mlp.down_proj", NULL},
    {"mlp.sub_norm", "mlp.ffn_layernorm", "mlp.ffn_sub_norm"},
};
enum { NAMES = sizeof names / sizeof *names };

struct parameter_list parameter_list(dqt_llama *model) {
    struct parameter_list list = {.model = model, .per_block = layer_num_parameters(model->layers[1])};
    for (size_t i = 0; i < model->num_layers; i++)
        list.count += layer_num_parameters(model->layers[i]);
    return list;
}

struct update_target list_parameter(const struct parameter_list *list, size_t index) {
    const dqt_llama *m = list->model;
    const size_t in_blocks = m->config.num_layers * list->per_block;
    if (index == 0) return layer_parameter(m->layers[0], 0);
    if (index <= in_blocks)
        return layer_parameter(m->layers[1 + (index - 1) / list->per_block], (index - 1) % list->per_block);
    return layer_parameter(m->layers[m->num_layers - 2 + (index - 1 - in_blocks)], 0);
}

/* "attention.q" of "blocks.3.attention.q" */
static const char *within_block(const char *own) {
    const char *dot = strchr(own, '.');
    return strchr(dot + 1, '.') + 1;
}

void foreign_name(const struct parameter_list *list, size_t index, char out[FOREIGN_NAME_BYTES]) {
    const size_t in_blocks = list->model->config.num_layers * list->per_block;
    const char *name = index == 0 ? "model.embed_tokens" : index == in_blocks + 1 ? "model.norm" : "lm_head";
    if (index == 0 || index > in_blocks) {
        snprintf(out, FOREIGN_NAME_BYTES, "%s.weight", name);
        return;
    }
    const char *own = within_block(list_parameter(list, index).name);
    for (int i = 0; i < NAMES; i++)
        if (strcmp(own, names[i].own) == 0) name = names[i].foreign;
    snprintf(out, FOREIGN_NAME_BYTES, "model.layers.%zu.%s.weight", (index - 1) / list->per_block, name);
}

size_t foreign_block(const struct parameter_list *list, const char *name, const char **rest) {
    static const char prefix[] = "model.layers.";
    size_t block = 0;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return SIZE_MAX;
    const char *digits = name + sizeof prefix - 1, *p = digits;
    for (; *p >= '0' && *p <= '9' && p - digits < 7; p++)
        block = 10 * block + (size_t)(*p - '0');
    if (p == digits || *p != '.' || (*digits == '0' && p - digits > 1) || block >= list->model->config.num_layers)
        return SIZE_MAX;
    *rest = p + 1;
    return block;
}

static bool is_weight_of(const char *name, const char *module) {
    const size_t n = module ? strlen(module) : 0;
    return n && strncmp(name, module, n) == 0 && strcmp(name + n, ".weight") == 0;
}

size_t foreign_index(const struct parameter_list *list, const char *name) {
    const size_t in_blocks = list->model->config.num_layers * list->per_block;
    const char *rest;
    if (is_weight_of(name, "model.embed_tokens")) return 0;
    if (is_weight_of(name, "model.norm")) return in_blocks + 1;
    if (is_weight_of(name, "lm_head")) return in_blocks + 2 < list->count ? in_blocks + 2 : SIZE_MAX;
    const size_t block = foreign_block(list, name, &rest);
    if (block == SIZE_MAX) return SIZE_MAX;
    for (int i = 0; i < NAMES; i++) {
        if (!is_weight_of(rest, names[i].foreign) && !is_weight_of(rest, names[i].other)) continue;
        for (size_t k = 0; k < list->per_block; k++) {
            const size_t index = 1 + block * list->per_block + k;
            if (strcmp(within_block(list_parameter(list, index).name), names[i].own) == 0) return index;
        }
    }
    return SIZE_MAX;
}
