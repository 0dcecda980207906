/* Layers: creation, description, forward and backward on a tape. */
#include "api/check.h"
#include "layer/run.h"

static dqt_layer_options layer_defaults(void) {
    return (dqt_layer_options){.struct_size = sizeof(dqt_layer_options),
                               .activation = DQT_ACTIVATION_INT8,
                               .weight = tensor_defaults,
                               .seed = 1,
                               .init_std = 0.02f,
                               .norm_eps = 1e-5f,
                               .mlp = DQT_MLP_SWIGLU,
                               .rope_theta = 10000.0f};
}

dqt_status dqt_layer_options_init(dqt_layer_options *options, size_t struct_size) {
    const dqt_layer_options o = layer_defaults();
    return options_init(options, struct_size, &o, sizeof o, "dqt_layer_options");
}

/* What all creation functions begin with. */
static dqt_status read_options(dqt_context *ctx, const dqt_layer_options *options, dqt_layer **out,
                               dqt_layer_options *o) {
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, out, "out"));
    *o = layer_defaults();
    TRY(options_read(ctx, o, sizeof *o, options, "dqt_layer_options"));
    if ((o->sub_norm != 0 && o->sub_norm != 1) || (o->shape_only != 0 && o->shape_only != 1))
        return fail(ctx, DQT_E_ARGUMENT, "sub_norm %d and shape_only %d must be 0 or 1", o->sub_norm, o->shape_only);
    if (o->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_layer_options is not 0");
    if (o->name && strlen(o->name) >= NAME_BYTES)
        return fail(ctx, DQT_E_ARGUMENT, "name has %zu bytes; it may have %d", strlen(o->name), NAME_BYTES - 1);
    return DQT_OK;
}

dqt_status dqt_embedding_create(dqt_context *ctx, size_t vocab, size_t hidden, const dqt_layer_options *options,
                                dqt_layer **out) {
    dqt_layer_options o;
    TRY(read_options(ctx, options, out, &o));
    if (vocab > INT32_MAX) return fail(ctx, DQT_E_SHAPE, "vocab is %zu; it must be 1 to %d", vocab, INT32_MAX);
    const struct layer_shape shape = {.in = vocab, .out = hidden};
    return layer_create(ctx, DQT_LAYER_EMBEDDING, &shape, NULL, &o, out);
}

dqt_status dqt_linear_create(dqt_context *ctx, size_t in, size_t out_features, const dqt_layer_options *options,
                             dqt_layer **out) {
    dqt_layer_options o;
    TRY(read_options(ctx, options, out, &o));
    const struct layer_shape shape = {.in = in, .out = out_features};
    return layer_create(ctx, DQT_LAYER_LINEAR, &shape, NULL, &o, out);
}

dqt_status dqt_rmsnorm_create(dqt_context *ctx, size_t features, const dqt_layer_options *options, dqt_layer **out) {
    dqt_layer_options o;
    TRY(read_options(ctx, options, out, &o));
    const struct layer_shape shape = {.in = features, .out = features};
    return layer_create(ctx, DQT_LAYER_RMSNORM, &shape, NULL, &o, out);
}

dqt_status dqt_attention_create(dqt_context *ctx, size_t hidden, size_t num_heads, size_t num_kv_heads,
                                const dqt_layer_options *options, dqt_layer **out) {
    dqt_layer_options o;
    TRY(read_options(ctx, options, out, &o));
    const struct layer_shape shape = {.in = hidden, .out = hidden, .heads = num_heads, .kv_heads = num_kv_heads};
    return layer_create(ctx, DQT_LAYER_ATTENTION, &shape, NULL, &o, out);
}

dqt_status dqt_mlp_create(dqt_context *ctx, size_t hidden, size_t intermediate, const dqt_layer_options *options,
                          dqt_layer **out) {
    dqt_layer_options o;
    TRY(read_options(ctx, options, out, &o));
    const struct layer_shape shape = {.in = hidden, .out = hidden, .intermediate = intermediate};
    return layer_create(ctx, DQT_LAYER_MLP, &shape, NULL, &o, out);
}

dqt_status dqt_block_create(dqt_context *ctx, size_t hidden, size_t intermediate, size_t num_heads, size_t num_kv_heads,
                            const dqt_layer_options *options, dqt_layer **out) {
    dqt_layer_options o;
    TRY(read_options(ctx, options, out, &o));
    const struct layer_shape shape = {
        .in = hidden, .out = hidden, .intermediate = intermediate, .heads = num_heads, .kv_heads = num_kv_heads};
    return layer_create(ctx, DQT_LAYER_BLOCK, &shape, NULL, &o, out);
}

dqt_status dqt_head_create(dqt_context *ctx, size_t hidden, size_t classes, dqt_layer *tied,
                           const dqt_layer_options *options, dqt_layer **out) {
    dqt_layer_options o;
    TRY(read_options(ctx, options, out, &o));
    if (!options) o.activation = DQT_ACTIVATION_NONE;
    if (classes > INT32_MAX) return fail(ctx, DQT_E_SHAPE, "classes is %zu; it must be 1 to %d", classes, INT32_MAX);
    const struct layer_shape shape = {.in = hidden, .out = classes};
    return layer_create(ctx, DQT_LAYER_HEAD, &shape, tied, &o, out);
}

void dqt_layer_destroy(dqt_layer *layer) {
    layer_destroy(layer);
}

dqt_status dqt_layer_get_info(const dqt_layer *layer, dqt_layer_info *info) {
    TRY(check_object(layer, "layer"));
    const dqt_layer_info i = {.struct_size = sizeof i,
                              .kind = layer->kind->id,
                              .in = layer->shape.in,
                              .out = layer->shape.out,
                              .num_parameters = layer_num_parameters(layer),
                              .num_parts = layer_num_sublayers(layer)};
    return options_return(layer->ctx, info, &i, sizeof i, "dqt_layer_info");
}

dqt_status dqt_layer_part(dqt_layer *layer, size_t index, dqt_layer **part) {
    if (part) *part = NULL;
    TRY(check_object(layer, "layer"));
    TRY(check_pointer(layer->ctx, part, "part"));
    TRY(check_index(layer->ctx, index, layer_num_sublayers(layer), "part index"));
    *part = layer->sublayer[index];
    return DQT_OK;
}

dqt_status dqt_layer_parameter(dqt_layer *layer, size_t index, dqt_parameter *parameter) {
    TRY(check_object(layer, "layer"));
    TRY(check_index(layer->ctx, index, layer_num_parameters(layer), "parameter index"));
    const struct update_target p = layer_parameter(layer, index);
    return return_parameter(layer->ctx, parameter, p.name, p.parameter_class, p.tensor);
}

static bool has_weights(const dqt_layer *layer) {
    const dqt_tensor *t = layer->tied ? layer->weight[W] : layer_parameter(layer, 0).tensor;
    return t->data != NULL;
}

/* The slot of a layer of the wanted kind (0: a float layer). */
static dqt_status find_slot(const dqt_layer *layer, const dqt_tape *tape, int kind, struct slot **slot) {
    TRY(check_object(layer, "layer"));
    TRY(check_pointer(layer->ctx, tape, "tape"));
    if (kind ? layer->kind->id != kind : !layer->kind->forward)
        return fail(layer->ctx, DQT_E_ARGUMENT, "layer %s is not of the kind this function is for", layer->name);
    *slot = tape_slot(tape, layer);
    if (!*slot) return fail(layer->ctx, DQT_E_STATE, "layer %s is not in the tape", layer->name);
    if (!has_weights(layer))
        return fail(layer->ctx, DQT_E_STATE, "layer %s is shape-only: it has no weights", layer->name);
    return DQT_OK;
}

static dqt_status check_backward(const dqt_tape *tape, const struct slot *slot) {
    if (tape->options.inference || !tape->options.gradients)
        return fail(tape->ctx, DQT_E_STATE, "this tape has no gradient buffers");
    if (slot->length == 0)
        return fail(tape->ctx, DQT_E_STATE, "layer %s has no forward pass to go back from", slot->layer->name);
    return DQT_OK;
}

dqt_status dqt_layer_forward(dqt_layer *layer, dqt_tape *tape, size_t batch, size_t length, const float *x, float *y) {
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, 0, &slot));
    TRY(check_batch(tape, batch, length));
    TRY(check_pointer(tape->ctx, x, "x"));
    TRY(check_pointer(tape->ctx, y, "y"));
    layer_forward(tape, slot, batch, length, x, y);
    return DQT_OK;
}

dqt_status dqt_layer_backward(dqt_layer *layer, dqt_tape *tape, const float *dy, float *dx) {
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, 0, &slot));
    TRY(check_backward(tape, slot));
    TRY(check_pointer(tape->ctx, dy, "dy"));
    layer_backward(tape, slot, dy, dx);
    tape->pass++;
    return DQT_OK;
}

dqt_status dqt_embedding_forward(dqt_layer *layer, dqt_tape *tape, size_t batch, size_t length, const int32_t *tokens,
                                 float *y) {
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, DQT_LAYER_EMBEDDING, &slot));
    TRY(check_batch(tape, batch, length));
    TRY(check_pointer(tape->ctx, tokens, "tokens"));
    TRY(check_pointer(tape->ctx, y, "y"));
    TRY(check_tokens(tape->ctx, tokens, batch * length, 0, layer->shape.in, "tokens"));
    embedding_forward(tape, slot, batch, length, tokens, y);
    return DQT_OK;
}

dqt_status dqt_embedding_backward(dqt_layer *layer, dqt_tape *tape, const float *dy) {
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, DQT_LAYER_EMBEDDING, &slot));
    TRY(check_backward(tape, slot));
    TRY(check_pointer(tape->ctx, dy, "dy"));
    embedding_backward(tape, slot, dy, NULL, 0);
    tape->pass++;
    return DQT_OK;
}

dqt_status dqt_head_loss(dqt_layer *layer, dqt_tape *tape, size_t batch, size_t length, const float *x,
                         const int32_t *targets, float *loss, float *token_losses) {
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, DQT_LAYER_HEAD, &slot));
    TRY(check_batch(tape, batch, length));
    TRY(check_pointer(tape->ctx, x, "x"));
    TRY(check_pointer(tape->ctx, targets, "targets"));
    TRY(check_pointer(tape->ctx, loss, "loss"));
    TRY(check_tokens(tape->ctx, targets, batch * length, -1, layer->shape.out, "targets"));
    return head_loss(tape, slot, batch, length, x, targets, loss, token_losses);
}

dqt_status dqt_head_backward(dqt_layer *layer, dqt_tape *tape, float loss_scale, float *dx) {
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, DQT_LAYER_HEAD, &slot));
    TRY(check_backward(tape, slot));
    TRY(check_finite(tape->ctx, &loss_scale, 1, "loss_scale"));
    head_backward(tape, slot, loss_scale, dx);
    tape->pass++;
    return DQT_OK;
}

dqt_status dqt_head_logits(dqt_layer *layer, dqt_tape *tape, size_t batch, size_t length, const float *x,
                           float *logits) {
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, DQT_LAYER_HEAD, &slot));
    TRY(check_batch(tape, batch, length));
    TRY(check_pointer(tape->ctx, x, "x"));
    TRY(check_pointer(tape->ctx, logits, "logits"));
    head_logits(tape, slot, batch, length, x, logits);
    return DQT_OK;
}
