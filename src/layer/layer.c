/* Creation and enumeration of layers. */
#include "layer/layer.h"

#include <math.h>
#include <stdio.h>

#include "core/status.h"

static dqt_status check_options(dqt_context *ctx, const dqt_layer_options *o) {
    if (o->activation != DQT_ACTIVATION_INT8 && o->activation != DQT_ACTIVATION_NONE)
        return fail(ctx, DQT_E_ARGUMENT, "activation is %d; it must be a DQT_ACTIVATION_* value", o->activation);
    if (o->mlp != DQT_MLP_SWIGLU && o->mlp != DQT_MLP_SQUARED_RELU)
        return fail(ctx, DQT_E_ARGUMENT, "mlp is %d; it must be a DQT_MLP_* value", o->mlp);
    if (!(o->init_std >= 0) || !isfinite(o->init_std))
        return fail(ctx, DQT_E_ARGUMENT, "init_std is %g; it must be finite and not negative", (double)o->init_std);
    if (!(o->norm_eps > 0) || !isfinite(o->norm_eps))
        return fail(ctx, DQT_E_ARGUMENT, "norm_eps is %g; it must be finite and above 0", (double)o->norm_eps);
    if (!(o->rope_theta > 0) || !isfinite(o->rope_theta))
        return fail(ctx, DQT_E_ARGUMENT, "rope_theta is %g; it must be finite and above 0", (double)o->rope_theta);
    return DQT_OK;
}

static dqt_status layer_new(dqt_context *ctx, int kind, const char *default_name, size_t in, size_t out_features,
                            const dqt_layer_options *o, dqt_layer **out) {
    *out = NULL;
    TRY(check_options(ctx, o));
    if (in == 0 || out_features == 0)
        return fail(ctx, DQT_E_SHAPE, "a %s layer of %zu to %zu features is empty", default_name, in, out_features);
    dqt_layer *layer = memory_alloc(ctx, sizeof *layer);
    if (!layer) return fail(ctx, DQT_E_MEMORY, "no memory for a %s layer", default_name);
    layer->ctx = ctx;
    layer->kind = kind;
    layer->in = in;
    layer->out = out_features;
    layer->activation = o->activation;
    layer->mlp = o->mlp;
    layer->eps = o->norm_eps;
    layer->rope_theta = o->rope_theta;
    snprintf(layer->name, sizeof layer->name, "%s", o->name ? o->name : default_name);
    *out = layer;
    return DQT_OK;
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
    int compute = o->weight.compute ? o->weight.compute : o->weight.storage;
    if (o->activation != DQT_ACTIVATION_INT8 || !format_is_code(compute)) return DQT_OK;
    uint64_t largest = (uint64_t)-format_min(compute) * 128u;
    if (cols >= (((uint64_t)1 << 31) + largest - 1) / largest)
        return fail(ctx, DQT_E_SHAPE, "%s: %zu inputs of int8 x %s could overflow an int32 sum; at most %llu are safe",
                    name, cols, format_name(compute), (unsigned long long)((((uint64_t)1 << 31) - 1) / largest));
    return DQT_OK;
}

static dqt_status add_weight(dqt_layer *layer, int index, const char *suffix, int parameter_class, size_t rows,
                             size_t cols, const dqt_layer_options *o) {
    char *name = layer->weight_name[index];
    snprintf(name, PARAMETER_NAME_BYTES, "%s%s%s", layer->name, *suffix ? "." : "", suffix);
    layer->weight_class[index] = parameter_class;
    TRY(tensor_check(layer->ctx, rows, cols, &o->weight));
    if (parameter_class != DQT_CLASS_EMBEDDING) TRY(check_overflow(layer->ctx, name, cols, o));
    TRY(tensor_create(layer->ctx, rows, cols, &o->weight, o->shape_only != 0, &layer->weight[index]));
    if (!o->shape_only) tensor_init_normal(layer->weight[index], o->seed, name_id(name), o->init_std);
    return DQT_OK;
}

static dqt_status add_gain(dqt_layer *layer, int index, const char *suffix, size_t features,
                           const dqt_layer_options *o) {
    const dqt_tensor_options f32 = {.struct_size = sizeof f32, .storage = DQT_FORMAT_F32, .sigma = 1};
    snprintf(layer->weight_name[index], PARAMETER_NAME_BYTES, "%s%s%s", layer->name, *suffix ? "." : "", suffix);
    layer->weight_class[index] = DQT_CLASS_NORM;
    TRY(tensor_create(layer->ctx, 1, features, &f32, o->shape_only != 0, &layer->weight[index]));
    if (!o->shape_only)
        for (size_t i = 0; i < features; i++)
            gain_of(layer->weight[index])[i] = 1.0f;
    return DQT_OK;
}

/* Finishes creation: on failure the half-made layer goes. */
static dqt_status finish(dqt_status status, dqt_layer **out) {
    if (status != DQT_OK) {
        layer_destroy(*out);
        *out = NULL;
    }
    return status;
}

dqt_status embedding_create(dqt_context *ctx, size_t vocab, size_t hidden, const dqt_layer_options *o,
                            dqt_layer **out) {
    TRY(layer_new(ctx, DQT_LAYER_EMBEDDING, "embedding", vocab, hidden, o, out));
    return finish(add_weight(*out, W, "", DQT_CLASS_EMBEDDING, vocab, hidden, o), out);
}

dqt_status linear_create(dqt_context *ctx, size_t in, size_t out_features, const dqt_layer_options *o,
                         dqt_layer **out) {
    TRY(layer_new(ctx, DQT_LAYER_LINEAR, "linear", in, out_features, o, out));
    return finish(add_weight(*out, W, "", DQT_CLASS_LINEAR, out_features, in, o), out);
}

dqt_status rmsnorm_create(dqt_context *ctx, size_t features, const dqt_layer_options *o, dqt_layer **out) {
    TRY(layer_new(ctx, DQT_LAYER_RMSNORM, "norm", features, features, o, out));
    return finish(add_gain(*out, W, "", features, o), out);
}

static dqt_status check_heads(dqt_context *ctx, size_t hidden, size_t heads, size_t kv_heads) {
    if (heads == 0 || hidden % heads || hidden / heads % 2)
        return fail(ctx, DQT_E_SHAPE, "hidden %zu must be num_heads %zu times an even head size", hidden, heads);
    if (kv_heads == 0 || heads % kv_heads)
        return fail(ctx, DQT_E_SHAPE, "num_kv_heads %zu must divide num_heads %zu", kv_heads, heads);
    return DQT_OK;
}

static dqt_status attention_weights(dqt_layer *a, const dqt_layer_options *o) {
    const size_t kv = a->kv_heads * a->head_size;
    TRY(add_weight(a, ATTENTION_Q, "q", DQT_CLASS_ATTENTION, a->in, a->in, o));
    TRY(add_weight(a, ATTENTION_K, "k", DQT_CLASS_ATTENTION, kv, a->in, o));
    TRY(add_weight(a, ATTENTION_V, "v", DQT_CLASS_ATTENTION, kv, a->in, o));
    TRY(add_weight(a, ATTENTION_O, "o", DQT_CLASS_ATTENTION, a->in, a->in, o));
    return o->sub_norm ? add_gain(a, ATTENTION_NORM, "sub_norm", a->in, o) : DQT_OK;
}

dqt_status attention_create(dqt_context *ctx, size_t hidden, size_t heads, size_t kv_heads, const dqt_layer_options *o,
                            dqt_layer **out) {
    TRY(check_heads(ctx, hidden, heads, kv_heads));
    TRY(layer_new(ctx, DQT_LAYER_ATTENTION, "attention", hidden, hidden, o, out));
    (*out)->heads = heads;
    (*out)->kv_heads = kv_heads;
    (*out)->head_size = hidden / heads;
    return finish(attention_weights(*out, o), out);
}

static dqt_status mlp_weights(dqt_layer *m, const dqt_layer_options *o) {
    if (m->mlp == DQT_MLP_SWIGLU) TRY(add_weight(m, MLP_GATE, "gate", DQT_CLASS_MLP, m->intermediate, m->in, o));
    TRY(add_weight(m, MLP_UP, "up", DQT_CLASS_MLP, m->intermediate, m->in, o));
    TRY(add_weight(m, MLP_DOWN, "down", DQT_CLASS_MLP, m->in, m->intermediate, o));
    return o->sub_norm ? add_gain(m, MLP_NORM, "sub_norm", m->intermediate, o) : DQT_OK;
}

dqt_status mlp_create(dqt_context *ctx, size_t hidden, size_t intermediate, const dqt_layer_options *o,
                      dqt_layer **out) {
    TRY(layer_new(ctx, DQT_LAYER_MLP, "mlp", hidden, hidden, o, out));
    (*out)->intermediate = intermediate;
    return finish(mlp_weights(*out, o), out);
}

static dqt_status block_parts(dqt_layer *b, const dqt_layer_options *o) {
    static const char *const names[BLOCK_PARTS] = {"attention_norm", "attention", "mlp_norm", "mlp"};
    char name[BLOCK_PARTS][PARAMETER_NAME_BYTES];
    dqt_layer_options p[BLOCK_PARTS];
    for (int i = 0; i < BLOCK_PARTS; i++) {
        snprintf(name[i], sizeof name[i], "%s.%s", b->name, names[i]);
        p[i] = *o;
        p[i].name = name[i];
    }
    TRY(rmsnorm_create(b->ctx, b->in, &p[BLOCK_NORM1], &b->part[BLOCK_NORM1]));
    TRY(attention_create(b->ctx, b->in, b->heads, b->kv_heads, &p[BLOCK_ATTENTION], &b->part[BLOCK_ATTENTION]));
    TRY(rmsnorm_create(b->ctx, b->in, &p[BLOCK_NORM2], &b->part[BLOCK_NORM2]));
    return mlp_create(b->ctx, b->in, b->intermediate, &p[BLOCK_MLP], &b->part[BLOCK_MLP]);
}

dqt_status block_create(dqt_context *ctx, size_t hidden, size_t intermediate, size_t heads, size_t kv_heads,
                        const dqt_layer_options *o, dqt_layer **out) {
    TRY(check_heads(ctx, hidden, heads, kv_heads));
    TRY(layer_new(ctx, DQT_LAYER_BLOCK, "block", hidden, hidden, o, out));
    (*out)->intermediate = intermediate;
    (*out)->heads = heads;
    (*out)->kv_heads = kv_heads;
    (*out)->head_size = hidden / heads;
    return finish(block_parts(*out, o), out);
}

static dqt_status check_tied(dqt_context *ctx, size_t hidden, size_t classes, const dqt_layer *tied) {
    if (tied->kind != DQT_LAYER_EMBEDDING || tied->ctx != ctx)
        return fail(ctx, DQT_E_ARGUMENT, "tied must be an embedding of the same context");
    if (tied->in != classes || tied->out != hidden)
        return fail(ctx, DQT_E_SHAPE, "a head of %zu x %zu cannot use an embedding of %zu x %zu", classes, hidden,
                    tied->in, tied->out);
    return DQT_OK;
}

dqt_status head_create(dqt_context *ctx, size_t hidden, size_t classes, dqt_layer *tied, const dqt_layer_options *o,
                       dqt_layer **out) {
    if (tied) TRY(check_tied(ctx, hidden, classes, tied));
    TRY(layer_new(ctx, DQT_LAYER_HEAD, "head", hidden, classes, o, out));
    if (!tied) return finish(add_weight(*out, W, "", DQT_CLASS_HEAD, classes, hidden, o), out);
    dqt_layer_options as_embedding = *o;
    as_embedding.weight.compute = tied->weight[W]->compute;
    as_embedding.weight.storage = tied->weight[W]->storage;
    (*out)->tied = tied;
    (*out)->weight[W] = tied->weight[W];
    return finish(check_overflow(ctx, (*out)->name, hidden, &as_embedding), out);
}

void layer_destroy(dqt_layer *layer) {
    if (!layer) return;
    for (int i = 0; i < MAX_WEIGHTS; i++)
        if (!layer->tied) tensor_destroy(layer->weight[i]);
    for (int i = 0; i < BLOCK_PARTS; i++)
        layer_destroy(layer->part[i]);
    memory_free(layer->ctx, layer, sizeof *layer);
}

size_t layer_num_parameters(const dqt_layer *layer) {
    size_t n = 0;
    for (int i = 0; i < MAX_WEIGHTS; i++)
        n += layer->weight[i] && !layer->tied;
    for (int i = 0; i < BLOCK_PARTS; i++)
        if (layer->part[i]) n += layer_num_parameters(layer->part[i]);
    return n;
}

struct update_target layer_parameter(const dqt_layer *layer, size_t index) {
    for (int i = 0; i < MAX_WEIGHTS; i++)
        if (layer->weight[i] && !layer->tied && index-- == 0)
            return (struct update_target){layer->weight_name[i], layer->weight_class[i], layer->weight[i]};
    for (int i = 0; i < BLOCK_PARTS; i++) {
        size_t n = layer->part[i] ? layer_num_parameters(layer->part[i]) : 0;
        if (index < n) return layer_parameter(layer->part[i], index);
        index -= n;
    }
    return (struct update_target){0};
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
        for (size_t p = 0; p < layer_num_parameters(layers[i]); p++)
            targets[k++] = layer_parameter(layers[i], p);
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
        const dqt_tensor_options o = {.storage = t->storage, .scale_axis = t->scale_axis};
        size_add(bytes, tensor_memory(t->rows, t->cols, &o), &bytes);
    }
    for (int i = 0; i < BLOCK_PARTS; i++)
        if (layer->part[i]) size_add(bytes, layer_memory(layer->part[i]), &bytes);
    return bytes;
}
