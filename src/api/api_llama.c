#define DQT_EXPERIMENTAL 1 /* what is declared so is defined here */
/* The LLaMA graph. */
#include <math.h>

#include "api/check.h"
#include "core/fpenv.h"
#include "model/llama.h"

static dqt_llama_config config_defaults(void) {
    dqt_tensor_options wide = tensor_defaults;
    wide.storage = DQT_FORMAT_INT8;
    return (dqt_llama_config){.struct_size = sizeof(dqt_llama_config),
                              .mlp = DQT_MLP_SWIGLU,
                              .vocab_size = 256,
                              .hidden_size = 128,
                              .intermediate_size = 352,
                              .num_layers = 2,
                              .num_heads = 4,
                              .norm_eps = 1e-5f,
                              .rope_theta = 10000.0f,
                              .init_std = 0.02f,
                              .linear = tensor_defaults,
                              .embedding = wide,
                              .head = wide,
                              .seed = 1};
}

dqt_status dqt_llama_config_init(dqt_llama_config *config, size_t struct_size) {
    const dqt_llama_config c = config_defaults();
    return options_init(config, struct_size, &c, sizeof c, "dqt_llama_config");
}

static dqt_status read_config(const dqt_context *ctx, const dqt_llama_config *given, dqt_llama_config *c) {
    const dqt_llama_config defaults = config_defaults();
    *c = defaults;
    TRY(options_read(ctx, c, sizeof *c, given, "dqt_llama_config"));
    DEFAULT_TO(c->vocab_size, defaults.vocab_size);
    DEFAULT_TO(c->hidden_size, defaults.hidden_size);
    DEFAULT_TO(c->intermediate_size, defaults.intermediate_size);
    DEFAULT_TO(c->num_layers, defaults.num_layers);
    DEFAULT_TO(c->num_heads, defaults.num_heads);
    DEFAULT_TO(c->norm_eps, defaults.norm_eps);
    DEFAULT_TO(c->rope_theta, defaults.rope_theta);
    DEFAULT_TO(c->init_std, defaults.init_std);
    DEFAULT_TO(c->activation, DQT_ACTIVATION_INT8);
    DEFAULT_TO(c->head_activation, DQT_ACTIVATION_NONE);
    tensor_complete(&c->linear, DQT_FORMAT_TERNARY);
    tensor_complete(&c->embedding, DQT_FORMAT_INT8);
    tensor_complete(&c->head, DQT_FORMAT_INT8);
    return DQT_OK;
}

dqt_status dqt_llama_memory(dqt_context *ctx, const dqt_llama_config *config, dqt_llama_memory_info *memory) {
    TRY(check_object(ctx, "ctx"));
    dqt_llama_config c;
    dqt_llama_memory_info m;
    TRY(read_config(ctx, config, &c));
    TRY(llama_memory(ctx, &c, &m));
    return options_return(ctx, memory, &m, sizeof m, "dqt_llama_memory_info");
}

dqt_status dqt_llama_create(dqt_context *ctx, const dqt_llama_config *config, dqt_llama **out) {
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, out, "out"));
    dqt_llama_config c;
    TRY(read_config(ctx, config, &c));
    return llama_create(ctx, &c, out);
}

void dqt_llama_destroy(dqt_llama *model) {
    llama_destroy(model);
}

dqt_status dqt_llama_get_config(const dqt_llama *model, dqt_llama_config *config) {
    TRY(check_object(model, "model"));
    dqt_llama_config c = model->config;
    c.head_dim = llama_head_dim(model);
    c.num_blocks = llama_num_blocks(&model->config);
    return options_return(model->ctx, config, &c, sizeof c, "dqt_llama_config");
}

dqt_status dqt_llama_get_layers(const dqt_llama *model, dqt_layer *const **layers, size_t *num_layers) {
    TRY(check_object(model, "model"));
    TRY(check_pointer(model->ctx, layers, "layers"));
    TRY(check_pointer(model->ctx, num_layers, "num_layers"));
    *layers = model->layers;
    *num_layers = model->num_layers;
    return DQT_OK;
}

static dqt_status check_pair(const dqt_llama *model, const dqt_tape *tape) {
    TRY(check_object(model, "model"));
    TRY(check_pointer(model->ctx, tape, "tape"));
    TRY(check_model(model));
    if (!llama_owns_tape(model, tape))
        return fail(model->ctx, DQT_E_STATE, "the tape was not made of exactly this model's layers");
    return DQT_OK;
}

static dqt_status check_input(const dqt_llama *model, const dqt_tape *tape, const dqt_batch *batch, dqt_batch *b) {
    TRY(check_pair(model, tape));
    if (llama_has_head(&model->config)) TRY(check_not_deferred(tape, llama_head_slot(tape)));
    TRY(read_batch(tape, batch, b));
    if (!llama_has_embedding(&model->config)) return DQT_OK;
    TRY(check_pointer(model->ctx, b->tokens, "tokens"));
    return check_tokens(model->ctx, b->tokens, b->batch * b->length, 0, model->config.vocab_size, "tokens");
}

/* After a failure no forward is left to go back from. */
static dqt_status finish(dqt_tape *tape) {
    const dqt_status status = tape_finish(tape);
    for (size_t i = 0; i < tape->num_slots && status != DQT_OK; i++)
        tape->slots[i].length = 0;
    return status;
}

dqt_status dqt_llama_forward(const dqt_llama *model, dqt_tape *tape, const dqt_batch *batch, float *logits) {
    FPENV_DEFAULT();
    dqt_batch b;
    TRY(check_whole_model(model));
    TRY(check_input(model, tape, batch, &b));
    if (llama_forward_stream(tape, &b, tape->stream)) {
        head_logits(tape, llama_head_slot(tape), b.batch, b.length, tape->stream, logits);
        const size_t count = logits ? b.batch * b.length * model->config.vocab_size : 0;
        const dqt_status status = check_finite(model->ctx, logits, count, "logits");
        if (status != DQT_OK) tape_stop(tape, status);
    }
    return finish(tape);
}

/* As far as the model has blocks; x: see llama_forward_stream. */
static dqt_status forward_loss(const dqt_llama *model, dqt_tape *tape, dqt_batch *b, float *x, float *loss,
                               float *token_losses) {
    const bool head = llama_has_head(&model->config);
    if (head) {
        TRY(check_pointer(model->ctx, loss, "loss"));
        TRY(read_targets(model->ctx, b, model->config.vocab_size));
    }
    if (llama_forward_stream(tape, b, x) && head) head_loss(tape, llama_head_slot(tape), b, x, loss, token_losses);
    return finish(tape);
}

dqt_status dqt_llama_loss(const dqt_llama *model, dqt_tape *tape, const dqt_batch *batch, float *loss,
                          float *token_losses) {
    FPENV_DEFAULT();
    dqt_batch b;
    TRY(check_whole_model(model));
    TRY(check_input(model, tape, batch, &b));
    return forward_loss(model, tape, &b, tape->stream, loss, token_losses);
}

dqt_status dqt_llama_forward_blocks(const dqt_llama *model, dqt_tape *tape, const dqt_batch *batch, float *x,
                                    float *loss, float *token_losses) {
    FPENV_DEFAULT();
    dqt_batch b;
    TRY(check_input(model, tape, batch, &b));
    TRY(check_pointer(model->ctx, x, "x"));
    return forward_loss(model, tape, &b, x, loss, token_losses);
}

/* loss: the latest forward must have made one. */
static dqt_status check_backward(const dqt_llama *model, const dqt_tape *tape, bool loss) {
    TRY(check_pair(model, tape));
    if (tape->options.inference) return fail(model->ctx, DQT_E_STATE, "this tape was made for inference");
    const struct slot *last = llama_last_slot(tape);
    if (last->length == 0 || (loss && !head_has_loss(last)))
        return fail(model->ctx, DQT_E_STATE, "there is no %s to go back from", loss ? "loss" : "forward");
    for (size_t i = 0; i < tape->num_slots; i++) {
        if (tape->slots[i].batch != last->batch || tape->slots[i].length != last->length)
            return fail(model->ctx, DQT_E_STATE, "layer %s was used otherwise since the loss",
                        tape->slots[i].layer->name);
        TRY(tape_check_update(tape, &tape->slots[i]));
    }
    return DQT_OK;
}

dqt_status dqt_llama_backward(const dqt_llama *model, dqt_tape *tape, float loss_scale) {
    FPENV_DEFAULT();
    TRY(check_whole_model(model));
    TRY(check_backward(model, tape, true));
    TRY(check_gradients_go(tape));
    TRY(check_finite(model->ctx, &loss_scale, 1, "loss_scale"));
    llama_backward(tape, &(struct head_gradient){.loss_scale = loss_scale}, tape->stream_gradient);
    return finish(tape);
}

dqt_status dqt_llama_backward_blocks(const dqt_llama *model, dqt_tape *tape, float loss_scale, float *dx) {
    FPENV_DEFAULT();
    TRY(check_object(model, "model"));
    const bool head = llama_has_head(&model->config);
    TRY(check_backward(model, tape, head));
    TRY(check_gradients_go(tape));
    TRY(check_finite(model->ctx, &loss_scale, 1, "loss_scale"));
    TRY(check_pointer(model->ctx, dx, "dx"));
    const struct head_gradient gradient = {.loss_scale = loss_scale};
    llama_backward(tape, head ? &gradient : NULL, dx);
    return finish(tape);
}

dqt_status dqt_llama_backward_logits(const dqt_llama *model, dqt_tape *tape, const dqt_logits_gradient *gradient) {
    FPENV_DEFAULT();
    struct head_gradient g = {.is_own = true};
    TRY(check_whole_model(model));
    TRY(check_backward(model, tape, false));
    TRY(check_gradients_go(tape));
    const size_t tokens = slot_tokens(llama_head_slot(tape));
    TRY(read_logits_gradient(model->ctx, gradient, tokens * model->config.vocab_size, &g.own));
    llama_backward(tape, &g, tape->stream_gradient);
    return finish(tape);
}

dqt_status dqt_llama_backward_update(dqt_llama *model, dqt_tape *tape, dqt_updater *updater,
                                     const dqt_step_options *options, dqt_step_stats *stats) {
    FPENV_DEFAULT();
    TRY(check_whole_model(model));
    TRY(check_backward(model, tape, true));
    TRY(options_check_result(model->ctx, stats, sizeof *stats, "dqt_step_stats"));
    if (updater) TRY(check_whole(updater, "dqt_llama_backward_update updates all rows (see dqt_tape_end_update_part)"));
    TRY(dqt_tape_begin_update(tape, updater, options));
    llama_backward(tape, &(struct head_gradient){.loss_scale = 1}, tape->stream_gradient);
    const dqt_status stopped = finish(tape), status = dqt_tape_end_update(tape, stats);
    return stopped != DQT_OK ? stopped : status;
}
