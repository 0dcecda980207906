/* Version 1 of checkpoints, which is only read: structs as their members one after the other, with the numbers that the
 * interface had then. */
#include <string.h>

#include "core/status.h"
#include "io/checkpoint_reader.h"

struct fields {
    unsigned char bytes[V1_CONFIG_BYTES];
    size_t used;
    bool bad; /* a number that this system's size_t cannot hold, or that was none of version 1 */
};

static uint64_t number(struct fields *f, size_t bytes) {
    DQT_ASSERT(f->used + bytes <= sizeof f->bytes);
    const uint64_t value = get_le(f->bytes + f->used, bytes);
    f->used += bytes;
    return value;
}

static int32_t field_int(struct fields *f) {
    return (int32_t)(uint32_t)number(f, 4);
}

static size_t field_size(struct fields *f) {
    const uint64_t value = number(f, 8);
    if (value > SIZE_MAX) f->bad = true;
    return (size_t)value;
}

static float field_float(struct fields *f) {
    return f32_from_bits((uint32_t)number(f, 4));
}

/* A choice that version 1 numbered from 0: its numbers in today's interface. */
static int32_t field_choice(struct fields *f, const int32_t *today, size_t count) {
    const uint32_t value = (uint32_t)field_int(f);
    if (value < count) return today[value];
    f->bad = true;
    return -1;
}

static const int32_t scale_rules[] = {DQT_SCALE_ABSMEAN, DQT_SCALE_SIGMA, DQT_SCALE_ABSMAX, DQT_SCALE_AUTO};
static const int32_t activations[] = {DQT_ACTIVATION_INT8, DQT_ACTIVATION_NONE};
static const int32_t roundings[] = {DQT_ROUND_STOCHASTIC, DQT_ROUND_NEAREST, DQT_ROUND_ECO_STOCHASTIC,
                                    DQT_ROUND_ECO_NEAREST};
static const int32_t clips[] = {DQT_CLIP_NONE, DQT_CLIP_GLOBAL_NORM, DQT_CLIP_PREVIOUS_NORM, DQT_CLIP_TENSOR_NORM};
#define CHOICE(f, table) field_choice(f, table, sizeof table / sizeof *table)

static void fields_tensor(struct fields *f, dqt_tensor_options *o) {
    o->struct_size = sizeof *o;
    o->storage = field_int(f);
    o->compute = field_int(f);
    o->scale_rule = CHOICE(f, scale_rules);
    o->scale_axis = field_int(f);
    o->sigma = field_float(f);
    o->train_scale = field_int(f);
}

static dqt_status begin(struct reader *r, struct fields *f, const char *what, uint64_t bytes) {
    *f = (struct fields){.used = 0};
    if (bytes > sizeof f->bytes || r->head.end - r->source->consumed < bytes)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the %s is damaged", what);
    return source_bytes(r->source, f->bytes, (size_t)bytes);
}

static dqt_status finish(const struct reader *r, const struct fields *f, const char *what) {
    return f->bad ? fail(r->ctx, DQT_E_FORMAT, "checkpoint: the %s has an impossible number", what) : DQT_OK;
}

dqt_status v1_config(struct reader *r, dqt_llama_config *c) {
    struct fields f;
    TRY(begin(r, &f, "config", V1_CONFIG_BYTES));
    c->mlp = field_int(&f);
    c->vocab_size = field_size(&f);
    c->hidden_size = field_size(&f);
    c->intermediate_size = field_size(&f);
    c->num_layers = field_size(&f);
    c->num_heads = field_size(&f);
    c->num_kv_heads = field_size(&f);
    c->norm_eps = field_float(&f);
    c->rope_theta = field_float(&f);
    c->init_std = field_float(&f);
    const int32_t sub_norms = field_int(&f);
    c->no_sub_norms = !sub_norms;
    c->tie_embeddings = field_int(&f);
    c->activation = CHOICE(&f, activations);
    c->head_activation = CHOICE(&f, activations);
    if (field_int(&f) != 0 || (sub_norms != 0 && sub_norms != 1)) f.bad = true; /* shape_only */
    fields_tensor(&f, &c->linear);
    fields_tensor(&f, &c->embedding);
    fields_tensor(&f, &c->head);
    c->seed = number(&f, 8);
    c->linear_init_std = field_float(&f);
    return finish(r, &f, "config");
}

dqt_status v1_options(struct reader *r, dqt_updater_options *o) {
    struct fields f;
    TRY(begin(r, &f, "updater's options", V1_OPTIONS_BYTES));
    o->optimizer = field_int(&f);
    o->rounding = CHOICE(&f, roundings);
    o->momentum_state = field_int(&f);
    o->variance_state = field_int(&f);
    o->beta1 = field_float(&f);
    o->beta2 = field_float(&f);
    o->eps = field_float(&f);
    o->weight_decay = field_float(&f);
    o->clip = CHOICE(&f, clips);
    o->clip_norm = field_float(&f);
    o->update_clip = field_float(&f);
    o->lagged = field_int(&f);
    o->scale_lr = field_float(&f);
    o->seed = number(&f, 8);
    o->rounding_noise = field_float(&f);
    return finish(r, &f, "updater's options");
}

dqt_status v1_rule(struct reader *r, struct file_rule *rule) {
    struct fields f;
    TRY(begin(r, &f, "rule", V1_RULE_BYTES));
    rule->lr_factor = field_float(&f);
    rule->frozen = rule->lr_factor == 0.0f; /* a factor of 0 froze */
    if (rule->frozen) rule->lr_factor = 1.0f;
    rule->weight_decay = field_float(&f);
    rule->rounding = CHOICE(&f, roundings);
    rule->beta1 = field_float(&f);
    rule->rounding_noise = field_float(&f);
    return finish(r, &f, "rule");
}

dqt_status v1_tensor(struct reader *r, struct file_tensor *t) {
    struct fields f;
    TRY(begin(r, &f, "parameter", PARAMETER_BYTES));
    t->rows = field_size(&f);
    t->cols = field_size(&f);
    t->num_scales = field_size(&f);
    t->storage = field_int(&f);
    t->compute = field_int(&f);
    t->scale_rule = CHOICE(&f, scale_rules);
    if (t->num_scales == 0) t->scale_rule = 0; /* floats have no rule */
    t->scale_axis = field_int(&f);
    return finish(r, &f, "parameter");
}
