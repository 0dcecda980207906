/* Creation and enumeration of layers, by the descriptions of their kinds. */
#include "layer/layer.h"

#include <math.h>
#include <stdio.h>

#include "core/pattern.h"
#include "core/status.h"
#include "gemm/gemm.h"

static dqt_status check_rope(dqt_context *ctx, const struct rope *r) {
    const float ends = fabsf(r->low_freq_factor) + fabsf(r->high_freq_factor);
    if (!(r->theta > 0) || !isfinite(r->theta))
        return fail(ctx, DQT_E_ARGUMENT, "rope_theta is %g; it must be finite and above 0", (double)r->theta);
    if (r->scaling < DQT_ROPE_NONE || r->scaling > DQT_ROPE_LLAMA3)
        return fail(ctx, DQT_E_ARGUMENT, "rope_scaling is %d; it must be a DQT_ROPE_* value", r->scaling);
    if (r->scaling == DQT_ROPE_NONE ? !(fabsf(r->factor) <= 0) : !(r->factor >= 1) || !isfinite(r->factor))
        return fail(ctx, DQT_E_ARGUMENT,
                    "rope_factor is %g; it must be finite and at least 1, or without rope_scaling 0",
                    (double)r->factor);
    if (r->scaling == DQT_ROPE_LLAMA3 ? !(r->low_freq_factor > 0) || !(r->high_freq_factor > r->low_freq_factor) ||
                                            !isfinite(ends) || r->original_context == 0
                                      : !(ends <= 0) || r->original_context != 0)
        return fail(
            ctx, DQT_E_ARGUMENT,
            "rope_low_freq_factor %g, rope_high_freq_factor %g and rope_original_context %zu must be above 0 and "
            "the first below the second, or but for rope_scaling LLAMA3 all 0",
            (double)r->low_freq_factor, (double)r->high_freq_factor, r->original_context);
    return DQT_OK;
}

static struct rope rope_of(const dqt_layer_options *o) {
    return (struct rope){.theta = o->rope_theta,
                         .scaling = o->rope_scaling,
                         .factor = o->rope_factor,
                         .low_freq_factor = o->rope_low_freq_factor,
                         .high_freq_factor = o->rope_high_freq_factor,
                         .original_context = o->rope_original_context};
}

static dqt_status check_options(dqt_context *ctx, const dqt_layer_options *o) {
    if (o->activation != DQT_ACTIVATION_INT8 && o->activation != DQT_ACTIVATION_NONE)
        return fail(ctx, DQT_E_ARGUMENT, "activation is %d; it must be a DQT_ACTIVATION_* value", o->activation);
    if (o->mlp < DQT_MLP_SWIGLU || o->mlp > DQT_MLP_GATED_SQUARED_RELU)
        return fail(ctx, DQT_E_ARGUMENT, "mlp is %d; it must be a DQT_MLP_* value", o->mlp);
    if (!(o->init_std >= 0) || !isfinite(o->init_std))
        return fail(ctx, DQT_E_ARGUMENT, "init_std is %g; it must be finite and not negative", (double)o->init_std);
    if (!(o->norm_eps > 0) || !isfinite(o->norm_eps))
        return fail(ctx, DQT_E_ARGUMENT, "norm_eps is %g; it must be finite and above 0", (double)o->norm_eps);
    if ((o->attention_bias != 0 && o->attention_bias != 1) || (o->qk_norm != 0 && o->qk_norm != 1))
        return fail(ctx, DQT_E_ARGUMENT, "attention_bias %d and qk_norm %d must be 0 or 1", o->attention_bias,
                    o->qk_norm);
    const struct rope rope = rope_of(o);
    return check_rope(ctx, &rope);
}

/* By DQT_LAYER_*. */
static const struct layer_kind *const kinds[] = {
    [DQT_LAYER_EMBEDDING] = &embedding_kind, [DQT_LAYER_LINEAR] = &linear_kind, [DQT_LAYER_RMSNORM] = &rmsnorm_kind,
    [DQT_LAYER_ATTENTION] = &attention_kind, [DQT_LAYER_MLP] = &mlp_kind,       [DQT_LAYER_BLOCK] = &block_kind,
    [DQT_LAYER_HEAD] = &head_kind,
};

size_t layer_size(const dqt_layer *l, enum layer_size size) {
    const struct layer_shape *s = &l->shape;
    switch (size) {
    case SIZE_NONE: return 0;
    case SIZE_ONE: return 1;
    case SIZE_IN: return s->in;
    case SIZE_OUT: return s->out;
    case SIZE_INTERMEDIATE: return s->intermediate;
    case SIZE_HEADS: return s->heads;
    case SIZE_KV_HEADS: return s->kv_heads;
    case SIZE_HEAD: return s->head_size;
    case SIZE_Q: return s->heads * s->head_size;
    case SIZE_KV: return s->kv_heads * s->head_size;
    }
    return 0;
}

/* Hash of a parameter's name: the id of its initial random numbers, so that they do not depend on creation order. */
static uint32_t name_id(const char *name) {
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return h & 0xffffffu;
}

/* An int8 activation is at most 128 in magnitude: design section 4 demands that cols such products fit an int32. */
static dqt_status check_overflow(dqt_context *ctx, const char *name, size_t cols, const dqt_layer_options *o) {
    const enum format compute = options_compute(&o->weight);
    if (o->activation != DQT_ACTIVATION_INT8 || !format_is_code(compute)) return DQT_OK;
    uint64_t largest = (uint64_t)-format_min(compute) * 128u;
    if (cols >= (((uint64_t)1 << 31) + largest - 1) / largest)
        return fail(ctx, DQT_E_SHAPE, "%s: %zu inputs of int8 x %s could overflow an int32 sum; at most %llu are safe",
                    name, cols, format_name(compute), (unsigned long long)((((uint64_t)1 << 31) - 1) / largest));
    return DQT_OK;
}

const dqt_tensor_options *override_of(const struct overrides *overrides, const char *name,
                                      const dqt_tensor_options *otherwise) {
    for (size_t i = overrides ? overrides->count : 0; i-- > 0;)
        if (name_matches(overrides->list[i].pattern, name)) return &overrides->list[i].options;
    return otherwise;
}

static dqt_status add_matrix(dqt_layer *layer, int index, size_t rows, size_t cols, const dqt_layer_options *o) {
    const char *name = layer->weight_name[index];
    TRY(tensor_check(layer->ctx, rows, cols, &o->weight));
    /* what is looked up by tokens is in no product */
    if (!layer->kind->takes_tokens) TRY(check_overflow(layer->ctx, name, cols, o));
    TRY(tensor_create(layer->ctx, rows, cols, &o->weight, o->shape_only != 0, &layer->weight[index]));
    if (!o->shape_only) tensor_init_normal(layer->weight[index], o->seed, name_id(name), o->init_std);
    return DQT_OK;
}

/* A gain or a bias. */
static dqt_status add_vector(dqt_layer *layer, int index, size_t rows, size_t cols, const dqt_layer_options *o) {
    const float initial = layer->kind->weights[index].parameter_class == DQT_CLASS_NORM ? 1.0f : 0.0f;
    const dqt_tensor_options f32 = {.struct_size = sizeof f32, .storage = DQT_FORMAT_F32, .sigma = 1};
    TRY(tensor_create(layer->ctx, rows, cols, &f32, o->shape_only != 0, &layer->weight[index]));
    for (size_t i = 0; i < cols && !o->shape_only; i++)
        gain_of(layer->weight[index])[i] = initial;
    return DQT_OK;
}

static bool has_weight(const dqt_layer *layer, const struct weight_description *w, const dqt_layer_options *o) {
    if (w->parameter_class == 0) return false;
    switch (w->need) {
    case ALWAYS: return true;
    case WITH_GATE: return layer->mlp != DQT_MLP_SQUARED_RELU;
    case WITH_SUB_NORM: return o->sub_norm != 0;
    case WITH_BIAS: return o->attention_bias != 0;
    case WITH_QK_NORM: return o->qk_norm != 0;
    }
    return false;
}

static dqt_status add_weights(dqt_layer *layer, const dqt_layer_options *o, const struct overrides *overrides) {
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        const struct weight_description *w = &layer->kind->weights[i];
        if (!has_weight(layer, w, o)) continue;
        const char *name = w->names.dqt_name;
        snprintf(layer->weight_name[i], PARAMETER_NAME_BYTES, "%s%s%s", layer->name, name ? "." : "", name ? name : "");
        const size_t rows = layer_size(layer, w->rows), cols = layer_size(layer, w->cols);
        dqt_layer_options own = *o;
        own.weight = *override_of(overrides, layer->weight_name[i], &o->weight);
        TRY((class_is_vector(w->parameter_class) ? add_vector : add_matrix)(layer, i, rows, cols, &own));
    }
    return DQT_OK;
}

static dqt_status add_sublayers(dqt_layer *layer, const dqt_layer_options *o, const struct overrides *overrides) {
    for (int i = 0; i < MAX_SUBLAYERS; i++) {
        const struct sublayer_description *sub = &layer->kind->sublayers[i];
        if (sub->kind == 0) continue;
        char name[PARAMETER_NAME_BYTES];
        snprintf(name, sizeof name, "%s.%s", layer->name, sub->names.dqt_name);
        dqt_layer_options named = *o;
        named.name = name;
        TRY(layer_create(layer->ctx, sub->kind, &layer->shape, NULL, &named, overrides, &layer->sublayer[i]));
    }
    return DQT_OK;
}

/* The weights of `tied`, which keeps them. They enter this layer's products: the options tell which activations do. */
static dqt_status borrow_weights(dqt_layer *layer, dqt_layer *tied, const dqt_layer_options *o) {
    layer->tied = tied;
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        if (!(layer->weight[i] = tied->weight[i])) continue;
        dqt_layer_options as_tied = *o;
        as_tied.weight.compute = format_public(tied->weight[i]->compute);
        as_tied.weight.storage = format_public(tied->weight[i]->storage);
        TRY(check_overflow(layer->ctx, layer->name, tied->weight[i]->cols, &as_tied));
    }
    return DQT_OK;
}

static dqt_status fill(dqt_layer *layer, dqt_layer *tied, const dqt_layer_options *o,
                       const struct overrides *overrides) {
    if (tied) return borrow_weights(layer, tied, o);
    TRY(add_weights(layer, o, overrides));
    return add_sublayers(layer, o, overrides);
}

/* 0: there is none, which attention refuses. */
static size_t head_size_of(const struct layer_shape *shape, const dqt_layer_options *o) {
    if (o->head_dim) return o->head_dim;
    return shape->heads && shape->in % shape->heads == 0 ? shape->in / shape->heads : 0;
}

dqt_status layer_create(dqt_context *ctx, int kind, const struct layer_shape *shape, dqt_layer *tied,
                        const dqt_layer_options *o, const struct overrides *overrides, dqt_layer **out) {
    DQT_ASSERT(kind > 0 && kind < (int)(sizeof kinds / sizeof *kinds) && kinds[kind]->id == kind);
    const struct layer_kind *k = kinds[kind];
    DQT_ASSERT(!tied || k->may_be_tied);
    *out = NULL;
    struct layer_shape own = *shape;
    own.head_size = head_size_of(shape, o);
    if (shape->in == 0 || shape->out == 0)
        return fail(ctx, DQT_E_SHAPE, "a %s layer of %zu to %zu features is empty", k->name, shape->in, shape->out);
    if (k->check) TRY(k->check(ctx, &own, tied));
    TRY(check_options(ctx, o));
    dqt_layer *layer = memory_alloc(ctx, sizeof *layer);
    if (!layer) return fail(ctx, DQT_E_MEMORY, "no memory for a %s layer", k->name);
    layer->ctx = ctx;
    layer->kind = k;
    layer->shape = own;
    layer->activation = o->activation;
    layer->mlp = o->mlp;
    layer->eps = o->norm_eps;
    layer->rope = rope_of(o);
    snprintf(layer->name, sizeof layer->name, "%s", o->name ? o->name : k->name);
    const dqt_status status = fill(layer, tied, o, overrides);
    if (status != DQT_OK) {
        layer_destroy(layer);
        return status;
    }
    *out = layer;
    return DQT_OK;
}

void layer_destroy(dqt_layer *layer) {
    if (!layer) return;
    for (int i = 0; i < MAX_WEIGHTS; i++)
        if (!layer->tied) tensor_destroy(layer->weight[i]);
    for (int i = 0; i < MAX_SUBLAYERS; i++)
        layer_destroy(layer->sublayer[i]);
    memory_free(layer->ctx, layer, sizeof *layer);
}

/* ---- Enumeration --------------------------------------------------------------------------------------------- */

size_t layer_num_sublayers(const dqt_layer *layer) {
    size_t n = 0;
    for (int i = 0; i < MAX_SUBLAYERS; i++)
        n += layer->sublayer[i] != NULL;
    return n;
}

size_t layer_num_parameters(const dqt_layer *layer) {
    size_t n = 0;
    for (int i = 0; i < MAX_WEIGHTS; i++)
        n += layer->weight[i] && !layer->tied;
    for (int i = 0; i < MAX_SUBLAYERS; i++)
        if (layer->sublayer[i]) n += layer_num_parameters(layer->sublayer[i]);
    return n;
}

/* Where a parameter is: in which layer, as which weight, and in which sublayer of the layer that was asked (NULL: its
 * own). */
struct found {
    const dqt_layer *layer;
    int weight;
    const struct sublayer_description *sublayer;
};

static struct found find(const dqt_layer *layer, size_t index) {
    DQT_ASSERT(index < layer_num_parameters(layer));
    for (int i = 0; i < MAX_WEIGHTS; i++)
        if (layer->weight[i] && !layer->tied && index-- == 0) return (struct found){.layer = layer, .weight = i};
    for (int i = 0; i < MAX_SUBLAYERS; i++) {
        const size_t n = layer->sublayer[i] ? layer_num_parameters(layer->sublayer[i]) : 0;
        if (index < n) {
            struct found f = find(layer->sublayer[i], index);
            f.sublayer = &layer->kind->sublayers[i];
            return f;
        }
        index -= n;
    }
    return (struct found){0};
}

struct update_target layer_parameter(const dqt_layer *layer, size_t index) {
    const struct found f = find(layer, index);
    return (struct update_target){.name = f.layer->weight_name[f.weight],
                                  .parameter_class = f.layer->kind->weights[f.weight].parameter_class,
                                  .tensor = f.layer->weight[f.weight]};
}

bool layer_weight_is_integer(const dqt_layer *layer, int weight) {
    const dqt_tensor *w = layer->weight[weight];
    return w && format_is_code(w->compute) && layer->activation == DQT_ACTIVATION_INT8 && !layer->kind->takes_tokens;
}

dqt_tensor **layer_parameter_place(dqt_layer *layer, size_t index) {
    const struct found f = find(layer, index);
    return &((dqt_layer *)f.layer)->weight[f.weight]; /* the caller may write its layer */
}

const struct parameter_names *layer_parameter_names(const dqt_layer *layer, size_t index) {
    const struct found f = find(layer, index);
    const struct parameter_names *own = &f.layer->kind->weights[f.weight].names;
    return own->hf_name || !f.sublayer ? own : &f.sublayer->names;
}

bool layer_parameter_is_sub_norm(const dqt_layer *layer, size_t index) {
    const struct found f = find(layer, index);
    return f.layer->kind->weights[f.weight].need == WITH_SUB_NORM;
}

size_t layer_normed_rows(const dqt_layer *layer, int weight) {
    const enum layer_size rows = layer->kind->weights[weight].normed_rows;
    return rows == SIZE_NONE ? 1 : layer_size(layer, rows);
}

size_t layer_parameter_heads(const dqt_layer *layer, size_t index) {
    const struct found f = find(layer, index);
    return layer_size(f.layer, f.layer->kind->weights[f.weight].rotated_heads);
}

static size_t targets_bytes(size_t count) {
    return (count ? count : 1) * sizeof(struct update_target);
}

struct update_target *layers_targets(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, size_t *count) {
    size_t n = 0, k = 0;
    for (size_t i = 0; i < num_layers; i++)
        n += layer_num_parameters(layers[i]);
    *count = n;
    struct update_target *targets = memory_alloc(ctx, targets_bytes(n));
    if (!targets) return NULL;
    for (size_t i = 0; i < num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(layers[i]); p++) {
            const struct layer_place *place = &layers[i]->whole;
            targets[k] = layer_parameter(layers[i], p);
            targets[k].whole = place->num_parameters;
            targets[k++].number = place->num_parameters ? place->parameter + p : 0;
        }
    return targets;
}

void layers_targets_free(dqt_context *ctx, struct update_target *targets, size_t count) {
    memory_free(ctx, targets, targets_bytes(count));
}

size_t layer_memory(const dqt_layer *layer) {
    size_t bytes = sizeof *layer;
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        const dqt_tensor *t = layer->tied ? NULL : layer->weight[i];
        if (!t) continue;
        const dqt_tensor_options o = tensor_options_of(t);
        size_add(bytes, tensor_memory(t->rows, t->cols, &o), &bytes);
    }
    for (int i = 0; i < MAX_SUBLAYERS; i++)
        if (layer->sublayer[i]) size_add(bytes, layer_memory(layer->sublayer[i]), &bytes);
    return bytes;
}
