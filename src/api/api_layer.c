/* Layers: creation, description, forward and backward on a tape. */
#include <math.h>

#include "api/check.h"
#include "core/fpenv.h"
#include "layer/run.h"

static dqt_layer_options layer_defaults(void) {
    return (dqt_layer_options){.struct_size = sizeof(dqt_layer_options),
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
static dqt_status read_options(dqt_context *ctx, const dqt_layer_options *options, int32_t default_activation,
                               dqt_layer **out, dqt_layer_options *o) {
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, out, "out"));
    const dqt_layer_options defaults = layer_defaults();
    *o = defaults;
    TRY(options_read(ctx, o, sizeof *o, options, "dqt_layer_options"));
    if (o->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_layer_options is not 0");
    DEFAULT_TO(o->activation, default_activation);
    tensor_complete(&o->weight, DQT_FORMAT_TERNARY);
    DEFAULT_TO(o->init_std, defaults.init_std);
    if (o->init_std < 0 && isfinite(o->init_std)) o->init_std = 0;
    DEFAULT_TO(o->norm_eps, defaults.norm_eps);
    DEFAULT_TO(o->rope_theta, defaults.rope_theta);
    if ((o->sub_norm != 0 && o->sub_norm != 1) || (o->shape_only != 0 && o->shape_only != 1))
        return fail(ctx, DQT_E_ARGUMENT, "sub_norm %d and shape_only %d must be 0 or 1", o->sub_norm, o->shape_only);
    if (o->name && strlen(o->name) >= NAME_BYTES)
        return fail(ctx, DQT_E_ARGUMENT, "name has %zu bytes; it may have %d", strlen(o->name), NAME_BYTES - 1);
    return DQT_OK;
}

dqt_status dqt_embedding_create(dqt_context *ctx, size_t vocab, size_t hidden, const dqt_layer_options *options,
                                dqt_layer **out) {
    FPENV_DEFAULT();
    dqt_layer_options o;
    TRY(read_options(ctx, options, DQT_ACTIVATION_INT8, out, &o));
    if (vocab > INT32_MAX) return fail(ctx, DQT_E_SHAPE, "vocab is %zu; it must be 1 to %d", vocab, INT32_MAX);
    const struct layer_shape shape = {.in = vocab, .out = hidden};
    return layer_create(ctx, DQT_LAYER_EMBEDDING, &shape, NULL, &o, NULL, out);
}

dqt_status dqt_linear_create(dqt_context *ctx, size_t in_features, size_t out_features,
                             const dqt_layer_options *options, dqt_layer **out) {
    FPENV_DEFAULT();
    dqt_layer_options o;
    TRY(read_options(ctx, options, DQT_ACTIVATION_INT8, out, &o));
    const struct layer_shape shape = {.in = in_features, .out = out_features};
    return layer_create(ctx, DQT_LAYER_LINEAR, &shape, NULL, &o, NULL, out);
}

dqt_status dqt_rmsnorm_create(dqt_context *ctx, size_t features, const dqt_layer_options *options, dqt_layer **out) {
    FPENV_DEFAULT();
    dqt_layer_options o;
    TRY(read_options(ctx, options, DQT_ACTIVATION_INT8, out, &o));
    const struct layer_shape shape = {.in = features, .out = features};
    return layer_create(ctx, DQT_LAYER_RMSNORM, &shape, NULL, &o, NULL, out);
}

dqt_status dqt_attention_create(dqt_context *ctx, size_t hidden, size_t num_heads, size_t num_kv_heads,
                                const dqt_layer_options *options, dqt_layer **out) {
    FPENV_DEFAULT();
    dqt_layer_options o;
    TRY(read_options(ctx, options, DQT_ACTIVATION_INT8, out, &o));
    const struct layer_shape shape = {.in = hidden, .out = hidden, .heads = num_heads, .kv_heads = num_kv_heads};
    return layer_create(ctx, DQT_LAYER_ATTENTION, &shape, NULL, &o, NULL, out);
}

dqt_status dqt_mlp_create(dqt_context *ctx, size_t hidden, size_t intermediate, const dqt_layer_options *options,
                          dqt_layer **out) {
    FPENV_DEFAULT();
    dqt_layer_options o;
    TRY(read_options(ctx, options, DQT_ACTIVATION_INT8, out, &o));
    const struct layer_shape shape = {.in = hidden, .out = hidden, .intermediate = intermediate};
    return layer_create(ctx, DQT_LAYER_MLP, &shape, NULL, &o, NULL, out);
}

dqt_status dqt_block_create(dqt_context *ctx, size_t hidden, size_t intermediate, size_t num_heads, size_t num_kv_heads,
                            const dqt_layer_options *options, dqt_layer **out) {
    FPENV_DEFAULT();
    dqt_layer_options o;
    TRY(read_options(ctx, options, DQT_ACTIVATION_INT8, out, &o));
    const struct layer_shape shape = {
        .in = hidden, .out = hidden, .intermediate = intermediate, .heads = num_heads, .kv_heads = num_kv_heads};
    return layer_create(ctx, DQT_LAYER_BLOCK, &shape, NULL, &o, NULL, out);
}

dqt_status dqt_head_create(dqt_context *ctx, dqt_layer *tied, size_t hidden, size_t classes,
                           const dqt_layer_options *options, dqt_layer **out) {
    FPENV_DEFAULT();
    dqt_layer_options o;
    TRY(read_options(ctx, options, DQT_ACTIVATION_NONE, out, &o));
    if (classes > INT32_MAX) return fail(ctx, DQT_E_SHAPE, "classes is %zu; it must be 1 to %d", classes, INT32_MAX);
    const struct layer_shape shape = {.in = hidden, .out = classes};
    return layer_create(ctx, DQT_LAYER_HEAD, &shape, tied, &o, NULL, out);
}

void dqt_layer_destroy(dqt_layer *layer) {
    layer_destroy(layer);
}

dqt_status dqt_layer_get_info(const dqt_layer *layer, dqt_layer_info *info) {
    TRY(check_object(layer, "layer"));
    const dqt_layer_info i = {.struct_size = sizeof i,
                              .kind = layer->kind->id,
                              .in_features = layer->shape.in,
                              .out_features = layer->shape.out,
                              .num_parameters = layer_num_parameters(layer),
                              .num_sublayers = layer_num_sublayers(layer)};
    return options_return(layer->ctx, info, &i, sizeof i, "dqt_layer_info");
}

dqt_status dqt_layer_get_sublayer(dqt_layer *layer, size_t index, dqt_layer **sublayer) {
    if (sublayer) *sublayer = NULL;
    TRY(check_object(layer, "layer"));
    TRY(check_pointer(layer->ctx, sublayer, "sublayer"));
    TRY(check_index(layer->ctx, index, layer_num_sublayers(layer), "sublayer index"));
    *sublayer = layer->sublayer[index];
    return DQT_OK;
}

dqt_status dqt_layer_get_parameter(const dqt_layer *layer, size_t index, dqt_parameter *parameter) {
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
    TRY(check_gradients_go(tape));
    TRY(tape_check_update(tape, slot));
    if (slot->length == 0)
        return fail(tape->ctx, DQT_E_STATE, "layer %s has no forward pass to go back from", slot->layer->name);
    return DQT_OK;
}

dqt_status dqt_layer_forward(const dqt_layer *layer, dqt_tape *tape, const dqt_batch *batch, const float *x, float *y) {
    FPENV_DEFAULT();
    struct slot *slot = NULL;
    dqt_batch b;
    TRY(find_slot(layer, tape, 0, &slot));
    TRY(read_batch(tape, batch, &b));
    TRY(check_pointer(tape->ctx, x, "x"));
    TRY(check_pointer(tape->ctx, y, "y"));
    TRY(check_interrupt(tape->ctx));
    layer_forward(tape, slot, b.batch, b.length, b.segments, x, y);
    return DQT_OK;
}

dqt_status dqt_layer_backward(const dqt_layer *layer, dqt_tape *tape, const float *dy, float *dx) {
    FPENV_DEFAULT();
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, 0, &slot));
    TRY(check_backward(tape, slot));
    TRY(check_pointer(tape->ctx, dy, "dy"));
    TRY(check_interrupt(tape->ctx));
    layer_backward(tape, slot, dy, dx);
    tape->pass++;
    return tape_finish(tape);
}

dqt_status dqt_embedding_forward(const dqt_layer *layer, dqt_tape *tape, const dqt_batch *batch, float *y) {
    FPENV_DEFAULT();
    struct slot *slot = NULL;
    dqt_batch b;
    TRY(find_slot(layer, tape, DQT_LAYER_EMBEDDING, &slot));
    TRY(read_batch(tape, batch, &b));
    TRY(check_pointer(tape->ctx, b.tokens, "tokens"));
    TRY(check_pointer(tape->ctx, y, "y"));
    TRY(check_tokens(tape->ctx, b.tokens, b.batch * b.length, 0, layer->shape.in, "tokens"));
    embedding_forward(tape, slot, b.batch, b.length, b.tokens, y);
    return DQT_OK;
}

dqt_status dqt_embedding_backward(const dqt_layer *layer, dqt_tape *tape, const float *dy) {
    FPENV_DEFAULT();
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, DQT_LAYER_EMBEDDING, &slot));
    TRY(check_backward(tape, slot));
    TRY(check_pointer(tape->ctx, dy, "dy"));
    embedding_backward(tape, slot, dy);
    tape->pass++;
    return tape_finish(tape);
}

dqt_status dqt_head_loss(const dqt_layer *layer, dqt_tape *tape, const dqt_batch *batch, const float *x, float *loss,
                         float *token_losses) {
    FPENV_DEFAULT();
    struct slot *slot = NULL;
    dqt_batch b;
    TRY(find_slot(layer, tape, DQT_LAYER_HEAD, &slot));
    TRY(check_not_deferred(tape, slot));
    TRY(read_batch(tape, batch, &b));
    TRY(check_pointer(tape->ctx, x, "x"));
    TRY(check_pointer(tape->ctx, loss, "loss"));
    TRY(read_targets(tape->ctx, &b, layer->shape.out));
    head_loss(tape, slot, &b, x, loss, token_losses);
    return tape_finish(tape);
}

dqt_status dqt_head_backward(const dqt_layer *layer, dqt_tape *tape, float loss_scale, float *dx) {
    FPENV_DEFAULT();
    struct slot *slot = NULL;
    TRY(find_slot(layer, tape, DQT_LAYER_HEAD, &slot));
    TRY(check_backward(tape, slot));
    if (!head_has_loss(slot))
        return fail(tape->ctx, DQT_E_STATE, "the latest forward of layer %s made no loss", layer->name);
    TRY(check_finite(tape->ctx, &loss_scale, 1, "loss_scale"));
    head_backward(tape, slot, &(struct head_gradient){.loss_scale = loss_scale}, dx);
    tape->pass++;
    return tape_finish(tape);
}

dqt_status dqt_head_logits(const dqt_layer *layer, dqt_tape *tape, const dqt_batch *batch, const float *x,
                           float *logits) {
    FPENV_DEFAULT();
    struct slot *slot = NULL;
    dqt_batch b;
    TRY(find_slot(layer, tape, DQT_LAYER_HEAD, &slot));
    TRY(check_not_deferred(tape, slot));
    TRY(read_batch(tape, batch, &b));
    TRY(check_pointer(tape->ctx, x, "x"));
    TRY(check_pointer(tape->ctx, logits, "logits"));
    head_logits(tape, slot, b.batch, b.length, x, logits);
    return check_finite(tape->ctx, logits, b.batch * b.length * layer->shape.out, "logits");
}

dqt_status dqt_head_backward_logits(const dqt_layer *layer, dqt_tape *tape, const dqt_logits_gradient *gradient,
                                    float *dx) {
    FPENV_DEFAULT();
    struct slot *slot = NULL;
    struct head_gradient g = {.is_own = true};
    TRY(find_slot(layer, tape, DQT_LAYER_HEAD, &slot));
    TRY(check_backward(tape, slot));
    TRY(read_logits_gradient(tape->ctx, gradient, slot_tokens(slot) * layer->shape.out, &g.own));
    head_backward(tape, slot, &g, dx);
    tape->pass++;
    return tape_finish(tape);
}

/* Every parameter of one list beside that of the other. */
static dqt_status copy_lists(dqt_layer *const *to, dqt_layer *const *from, size_t num_layers, bool check) {
    for (size_t i = 0; i < num_layers; i++) {
        TRY(check_object(to[i], "destination"));
        TRY(check_pointer(to[i]->ctx, from[i], "source"));
        const size_t count = layer_num_parameters(to[i]);
        if (to[i]->kind != from[i]->kind || count != layer_num_parameters(from[i]))
            return fail(to[i]->ctx, DQT_E_SHAPE, "layers[%zu] are of different kinds or parameters: %s and %s", i,
                        to[i]->name, from[i]->name);
        for (size_t p = 0; p < count; p++) {
            dqt_tensor *a = layer_parameter(to[i], p).tensor;
            const dqt_tensor *b = layer_parameter(from[i], p).tensor;
            if (!a->data || !b->data)
                return fail(a->ctx, DQT_E_STATE, "layers[%zu] is shape-only: it has no weights", i);
            if (check)
                TRY(tensor_check_copy(a, b));
            else
                tensor_copy(a, b);
        }
    }
    return DQT_OK;
}

dqt_status dqt_layers_copy(dqt_layer *const *destination, dqt_layer *const *source, size_t num_layers) {
    TRY(check_object(destination, "destination"));
    TRY(check_object(source, "source"));
    TRY(copy_lists(destination, source, num_layers, true));
    return copy_lists(destination, source, num_layers, false);
}
