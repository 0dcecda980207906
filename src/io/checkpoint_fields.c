/* What writing and reading a checkpoint share: members of structs, lists of parameters, checks of numbers. */
#include "io/checkpoint.h"

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

static void fields_tensor(struct fields *f, dqt_tensor_options *o) {
    field_int(f, &o->storage);
    field_int(f, &o->compute);
    field_int(f, &o->scale_rule);
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
    field_int(f, &c->sub_norms);
    field_int(f, &c->tie_embeddings);
    field_int(f, &c->activation);
    field_int(f, &c->head_activation);
    field_int(f, &c->shape_only);
    fields_tensor(f, &c->linear);
    fields_tensor(f, &c->embedding);
    fields_tensor(f, &c->head);
    field_u64(f, &c->seed);
    field_float(f, &c->linear_init_std);
}

void fields_options(struct fields *f, dqt_updater_options *o) {
    field_int(f, &o->optimizer);
    field_int(f, &o->rounding);
    field_int(f, &o->momentum_state);
    field_int(f, &o->variance_state);
    field_float(f, &o->beta1);
    field_float(f, &o->beta2);
    field_float(f, &o->eps);
    field_float(f, &o->weight_decay);
    field_int(f, &o->clip);
    field_float(f, &o->clip_norm);
    field_float(f, &o->update_clip);
    field_int(f, &o->lagged);
    field_float(f, &o->scale_lr);
    field_u64(f, &o->seed);
    field_float(f, &o->rounding_noise);
}

void fields_rule(struct fields *f, struct update_rule *r) {
    field_float(f, &r->lr_factor);
    field_float(f, &r->weight_decay);
    field_int(f, &r->rounding);
    field_float(f, &r->beta1);
    field_float(f, &r->rounding_noise);
}

bool state_valid(const char *label, const void *data, size_t count, size_t size) {
    if (size == 1 || strcmp(label, "step") == 0) return true;
    const char *dot = strchr(label, '.'), *what = dot ? dot + 1 : label;
    return numbers_valid(data, count, size, strcmp(what, "m") == 0 || strcmp(what, "scale_m") == 0);
}
