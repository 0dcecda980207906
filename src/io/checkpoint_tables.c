/* What a checkpoint of version 2 says by name. */
#include <stddef.h>

#include "io/checkpoint.h"

#define TABLE(name, what)                                                                                              \
    const struct entry_table name##_table = {what, name##_entries, sizeof name##_entries / sizeof *name##_entries}
#define TENSOR(prefix, type, member)                                                                                   \
    {prefix "storage", ENTRY_INT32, offsetof(type, member.storage), false},                                            \
        {prefix "compute", ENTRY_INT32, offsetof(type, member.compute), false},                                        \
        {prefix "scale_rule", ENTRY_INT32, offsetof(type, member.scale_rule), false},                                  \
        {prefix "scale_axis", ENTRY_INT32, offsetof(type, member.scale_axis), false},                                  \
        {prefix "sigma", ENTRY_FLOAT, offsetof(type, member.sigma), false},                                            \
        {prefix "train_scale", ENTRY_INT32, offsetof(type, member.train_scale), false}, {                              \
        prefix "group_size", ENTRY_INT32, offsetof(type, member.group_size), true                                      \
    }

#define CONFIG(kind, member)                                                                                           \
    { #member, ENTRY_##kind, offsetof(dqt_llama_config, member), false }
#define LATER(kind, member)                                                                                            \
    { #member, ENTRY_##kind, offsetof(dqt_llama_config, member), true }
static const struct entry config_entries[] = {CONFIG(INT32, mlp),
                                              CONFIG(SIZE, vocab_size),
                                              CONFIG(SIZE, hidden_size),
                                              CONFIG(SIZE, intermediate_size),
                                              CONFIG(SIZE, num_layers),
                                              CONFIG(SIZE, num_heads),
                                              CONFIG(SIZE, num_kv_heads),
                                              CONFIG(FLOAT, norm_eps),
                                              CONFIG(FLOAT, rope_theta),
                                              CONFIG(FLOAT, init_std),
                                              CONFIG(FLOAT, linear_init_std),
                                              CONFIG(INT32, no_sub_norms),
                                              CONFIG(INT32, tie_embeddings),
                                              CONFIG(INT32, activation),
                                              CONFIG(INT32, head_activation),
                                              CONFIG(UINT64, seed),
                                              TENSOR("linear.", dqt_llama_config, linear),
                                              TENSOR("embedding.", dqt_llama_config, embedding),
                                              TENSOR("head.", dqt_llama_config, head),
                                              LATER(SIZE, head_dim),
                                              LATER(INT32, attention_bias),
                                              LATER(INT32, qk_norm),
                                              LATER(INT32, rope_scaling),
                                              LATER(FLOAT, rope_factor),
                                              LATER(FLOAT, rope_low_freq_factor),
                                              LATER(FLOAT, rope_high_freq_factor),
                                              LATER(SIZE, rope_original_context),
                                              LATER(SIZE, first_block),
                                              LATER(SIZE, num_blocks)};
TABLE(config, "config");

static const struct entry override_entries[] = {TENSOR("", dqt_tensor_override, options)};
TABLE(override, "override");

#define SHAPE(kind, member)                                                                                            \
    { #member, ENTRY_##kind, offsetof(struct file_tensor, member), false }
static const struct entry tensor_entries[] = {
    SHAPE(SIZE, rows),        SHAPE(SIZE, cols),
    SHAPE(SIZE, num_scales),  SHAPE(INT32, storage),
    SHAPE(INT32, compute),    SHAPE(INT32, scale_rule),
    SHAPE(INT32, scale_axis), {"group_size", ENTRY_INT32, offsetof(struct file_tensor, group_size), true}};
TABLE(tensor, "parameter");

#define OPTION(kind, member)                                                                                           \
    { #member, ENTRY_##kind, offsetof(dqt_updater_options, member), false }
static const struct entry options_entries[] = {
    OPTION(INT32, optimizer),
    OPTION(INT32, rounding),
    OPTION(INT32, momentum_state),
    OPTION(INT32, variance_state),
    OPTION(FLOAT, beta1),
    OPTION(FLOAT, beta2),
    OPTION(FLOAT, eps),
    OPTION(FLOAT, weight_decay),
    OPTION(INT32, clip),
    OPTION(FLOAT, clip_norm),
    OPTION(FLOAT, update_clip),
    OPTION(INT32, lagged),
    OPTION(FLOAT, scale_lr),
    OPTION(UINT64, seed),
    OPTION(FLOAT, rounding_noise),
    {"rate_corrected", ENTRY_INT32, offsetof(dqt_updater_options, rate_corrected), true},
    {"part", ENTRY_UINT64, offsetof(dqt_updater_options, part), true},
    {"num_parts", ENTRY_UINT64, offsetof(dqt_updater_options, num_parts), true}};
TABLE(options, "updater's options");

#define RULE(kind, member)                                                                                             \
    { #member, ENTRY_##kind, offsetof(struct file_rule, member), false }
static const struct entry rule_entries[] = {RULE(INT32, optimizer),     RULE(INT32, rounding),     RULE(INT32, frozen),
                                            RULE(FLOAT, lr_factor),     RULE(FLOAT, weight_decay), RULE(FLOAT, beta1),
                                            RULE(FLOAT, rounding_noise)};
TABLE(rule, "rule");

static const struct entry list_entries[] = {{"num_parameters", ENTRY_SIZE, 0, false}};
TABLE(list, "list of layers");

static const struct entry tape_entries[] = {{"pass", ENTRY_UINT64, 0, false}};
TABLE(tape, "tape");
