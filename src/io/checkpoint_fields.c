/* What writing and reading a checkpoint share: members of structs, lists of parameters, checks of numbers. */
#include "io/checkpoint.h"
#include "optim/state.h"

const unsigned char checkpoint_magic[8] = {'D', 'Q', 'T', 'M', 'O', 'D', 'E', 'L'};

static uint64_t number(struct fields *f, uint64_t value, size_t bytes) {
    if (f->reading)
        value = get_le(f->bytes + f->used, bytes);
    else
        put_le(f->bytes + f->used, value, bytes);
    f->used += bytes;
    return value;
}

static void field_int(struct fields *f, int32_t *x) {
    *x = (int32_t)(uint32_t)number(f, (uint32_t)*x, 4);
}

static void field_u64(struct fields *f, uint64_t *x) {
    *x = number(f, *x, 8);
}

static void field_size(struct fields *f, size_t *x) {
    const uint64_t value = number(f, *x, 8);
    if (value > SIZE_MAX) f->bad = true;
    *x = (size_t)value;
}

static void field_float(struct fields *f, float *x) {
    *x = f32_from_bits((uint32_t)number(f, f32_bits(*x), 4));
}

/* Version 1 numbers `inside` of the interface as `file`; what the interface calls `file` has no number in it. */
static void field_renumbered(struct fields *f, int32_t *x, int32_t file, int32_t inside) {
    int32_t value = *x == inside ? file : *x;
    field_int(f, &value);
    if (f->reading) *x = value == file ? inside : value == inside ? -1 : value;
}

static void field_scale_rule(struct fields *f, int32_t *x) {
    field_renumbered(f, x, 0, DQT_SCALE_ABSMEAN);
}

static void field_rounding(struct fields *f, int32_t *x) {
    int32_t value = *x - 1;
    field_int(f, &value);
    if (f->reading) *x = value >= 0 && value < DQT_ROUND_ECO_NEAREST ? value + 1 : -1;
}

static void field_not(struct fields *f, int32_t *x) {
    int32_t value = !*x;
    field_int(f, &value);
    if (f->reading) *x = value == 0 || value == 1 ? !value : -1;
}

static void fields_tensor(struct fields *f, dqt_tensor_options *o) {
    field_int(f, &o->storage);
    field_int(f, &o->compute);
    field_scale_rule(f, &o->scale_rule);
    field_int(f, &o->scale_axis);
    field_float(f, &o->sigma);
    field_int(f, &o->train_scale);
}

void fields_config(struct fields *f, dqt_llama_config *c) {
    field_int(f, &c->mlp);
    field_size(f, &c->vocab_size);
    field_size(f, &c->hidden_size);
    field_size(f, &c->intermediate_size);
    field_size(f, &c->num_layers);
    field_size(f, &c->num_heads);
    field_size(f, &c->num_kv_heads);
    field_float(f, &c->norm_eps);
    field_float(f, &c->rope_theta);
    field_float(f, &c->init_std);
    field_not(f, &c->no_sub_norms);
    field_int(f, &c->tie_embeddings);
    field_renumbered(f, &c->activation, 0, DQT_ACTIVATION_INT8);
    field_renumbered(f, &c->head_activation, 0, DQT_ACTIVATION_INT8);
    field_int(f, &c->shape_only);
    fields_tensor(f, &c->linear);
    fields_tensor(f, &c->embedding);
    fields_tensor(f, &c->head);
    field_u64(f, &c->seed);
    field_float(f, &c->linear_init_std);
}

void fields_options(struct fields *f, dqt_updater_options *o) {
    field_int(f, &o->optimizer);
    field_rounding(f, &o->rounding);
    field_int(f, &o->momentum_state);
    field_int(f, &o->variance_state);
    field_float(f, &o->beta1);
    field_float(f, &o->beta2);
    field_float(f, &o->eps);
    field_float(f, &o->weight_decay);
    field_renumbered(f, &o->clip, 0, DQT_CLIP_NONE);
    field_float(f, &o->clip_norm);
    field_float(f, &o->update_clip);
    field_int(f, &o->lagged);
    field_float(f, &o->scale_lr);
    field_u64(f, &o->seed);
    field_float(f, &o->rounding_noise);
}

void fields_rule(struct fields *f, struct update_rule *r) {
    float lr_factor = f->reading || r->frozen ? 0.0f : r->lr_factor; /* version 1 freezes so */
    field_float(f, &lr_factor);
    if (f->reading) {
        r->frozen = lr_factor == 0.0f;
        r->lr_factor = r->frozen ? 1.0f : lr_factor;
    }
    field_float(f, &r->weight_decay);
    field_rounding(f, &r->rounding);
    field_float(f, &r->beta1);
    field_float(f, &r->rounding_noise);
}

uint64_t file_scale_rule(int rule) {
    return rule == DQT_SCALE_ABSMEAN ? 0 : (uint64_t)rule;
}

bool state_valid(const char *label, const void *data, size_t count, size_t size) {
    if (size == 1 || strcmp(label, "step") == 0) return true;
    const char *dot = strchr(label, '.'), *what = dot ? dot + 1 : label;
    return numbers_valid(data, count, size, strcmp(what, "m") == 0 || strcmp(what, "scale_m") == 0) &&
           (size == 8 || state_in_range(data, count, size));
}
