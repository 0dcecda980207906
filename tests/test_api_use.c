/* Bad input to functions that compute, update and write: NULLs, values out of range, calls out of order, numbers that
 * are not finite. Each refusal has the documented status and a sentence that names what is wrong, and changes nothing.
 */
#include "api_world.h"
#include "calls.h"

/* ---- Forward and backward of layers -------------------------------------------------------------------------- */

static void layer_passes(void) {
    struct world w;
    begin(&w);
    dqt_context *ctx = w.ctx;
    float x[TOKENS * HIDDEN] = {0}, y[TOKENS * HIDDEN], logits[TOKENS * 10], loss;
    int32_t tokens[TOKENS] = {0}, targets[TOKENS] = {0};
    const uint64_t before = hash_world(&w);

    REFUSED(NULL, DQT_E_ARGUMENT, "layer", dqt_layer_forward(NULL, w.own_tape, batch_shape(1, 1), x, y));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_layer_forward(w.linear, NULL, batch_shape(1, 1), x, y));
    REFUSED(ctx, DQT_E_ARGUMENT, "x is", dqt_layer_forward(w.linear, w.own_tape, batch_shape(1, 1), NULL, y));
    REFUSED(ctx, DQT_E_ARGUMENT, "y is", dqt_layer_forward(w.linear, w.own_tape, batch_shape(1, 1), x, NULL));
    REFUSED(ctx, DQT_E_STATE, "not in the tape", dqt_layer_forward(w.linear, w.tape, batch_shape(1, 1), x, y));
    REFUSED(ctx, DQT_E_ARGUMENT, "kind", dqt_layer_forward(w.embedding, w.own_tape, batch_shape(1, 1), x, y));
    REFUSED(ctx, DQT_E_ARGUMENT, "kind", dqt_layer_forward(w.head, w.own_tape, batch_shape(1, 1), x, y));
    static const size_t sizes[][2] = {{1, 0}, {0, 0}, {BATCH + 1, 1}, {1, LENGTH + 1}, {SIZE_MAX, SIZE_MAX}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t b = sizes[i][0], l = sizes[i][1];
        REFUSED(ctx, DQT_E_SHAPE, "batch", dqt_layer_forward(w.linear, w.own_tape, batch_shape(b, l), x, y));
        REFUSED(ctx, DQT_E_SHAPE, "batch",
                dqt_embedding_forward(w.embedding, w.own_tape, batch_tokens(tokens, b, l), y));
        REFUSED(ctx, DQT_E_SHAPE, "batch",
                dqt_head_loss(w.head, w.own_tape, batch_targets(targets, b, l), x, &loss, NULL));
        REFUSED(ctx, DQT_E_SHAPE, "batch", dqt_head_logits(w.head, w.own_tape, batch_shape(b, l), x, logits));
        REFUSED(ctx, DQT_E_SHAPE, "batch", dqt_llama_forward(w.model, w.tape, batch_tokens(w.tokens, b, l), NULL));
        REFUSED(ctx, DQT_E_SHAPE, "batch",
                dqt_llama_loss(w.model, w.tape, batch_pairs(w.tokens, w.targets, b, l), &loss, NULL));
        REFUSED(ctx, DQT_E_SHAPE, "batch",
                dqt_llama_forward_blocks(w.model, w.tape, batch_pairs(w.tokens, w.targets, b, l), x, &loss, NULL));
    }
    REFUSED(NULL, DQT_E_ARGUMENT, "layer", dqt_embedding_forward(NULL, w.own_tape, batch_tokens(tokens, 1, 1), y));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_embedding_forward(w.embedding, NULL, batch_tokens(tokens, 1, 1), y));
    REFUSED(ctx, DQT_E_ARGUMENT, "tokens", dqt_embedding_forward(w.embedding, w.own_tape, batch_tokens(NULL, 1, 1), y));
    REFUSED(ctx, DQT_E_ARGUMENT, "y is",
            dqt_embedding_forward(w.embedding, w.own_tape, batch_tokens(tokens, 1, 1), NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "kind", dqt_embedding_forward(w.linear, w.own_tape, batch_tokens(tokens, 1, 1), y));
    REFUSED(ctx, DQT_E_STATE, "not in the tape",
            dqt_embedding_forward(w.embedding, w.tape, batch_tokens(tokens, 1, 1), y));
    REFUSED(NULL, DQT_E_ARGUMENT, "layer",
            dqt_head_loss(NULL, w.own_tape, batch_targets(targets, 1, 1), x, &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_head_loss(w.head, NULL, batch_targets(targets, 1, 1), x, &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "x is",
            dqt_head_loss(w.head, w.own_tape, batch_targets(targets, 1, 1), NULL, &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "loss",
            dqt_head_loss(w.head, w.own_tape, batch_targets(targets, 1, 1), x, NULL, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "kind",
            dqt_head_loss(w.linear, w.own_tape, batch_targets(targets, 1, 1), x, &loss, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "layer", dqt_head_logits(NULL, w.own_tape, batch_shape(1, 1), x, logits));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_head_logits(w.head, NULL, batch_shape(1, 1), x, logits));
    REFUSED(ctx, DQT_E_ARGUMENT, "x is", dqt_head_logits(w.head, w.own_tape, batch_shape(1, 1), NULL, logits));
    REFUSED(ctx, DQT_E_ARGUMENT, "logits", dqt_head_logits(w.head, w.own_tape, batch_shape(1, 1), x, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "kind", dqt_head_logits(w.norm, w.own_tape, batch_shape(1, 1), x, logits));
    static const int32_t bad_tokens[] = {-1, 10, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        tokens[TOKENS - 1] = bad_tokens[i];
        REFUSED(ctx, DQT_E_ARGUMENT, "tokens[11]",
                dqt_embedding_forward(w.embedding, w.own_tape, batch_tokens(tokens, BATCH, LENGTH), y));
        targets[TOKENS - 1] = i == 0 ? -2 : bad_tokens[i];
        REFUSED(ctx, DQT_E_ARGUMENT, "targets[11]",
                dqt_head_loss(w.head, w.own_tape, batch_targets(targets, BATCH, LENGTH), x, &loss, NULL));
    }
    tokens[TOKENS - 1] = targets[TOKENS - 1] = 0;

    /* Backward wants a forward, once, and buffers. */
    REFUSED(ctx, DQT_E_STATE, "forward", dqt_layer_backward(w.linear, w.own_tape, y, x));
    REFUSED(ctx, DQT_E_STATE, "forward", dqt_embedding_backward(w.embedding, w.own_tape, y));
    REFUSED(ctx, DQT_E_STATE, "forward", dqt_head_backward(w.head, w.own_tape, 1, x));
    memset(y, 0, sizeof y);
    OK(ctx, dqt_embedding_forward(w.embedding, w.own_tape, batch_tokens(tokens, BATCH, LENGTH), x));
    OK(ctx, dqt_layer_forward(w.linear, w.own_tape, batch_shape(BATCH, LENGTH), x, y));
    OK(ctx, dqt_layer_forward(w.norm, w.own_tape, batch_shape(BATCH, LENGTH), y, y));
    OK(ctx, dqt_head_loss(w.head, w.own_tape, batch_targets(targets, BATCH, LENGTH), y, &loss, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "layer", dqt_layer_backward(NULL, w.own_tape, y, x));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_layer_backward(w.linear, NULL, y, x));
    REFUSED(ctx, DQT_E_ARGUMENT, "dy", dqt_layer_backward(w.linear, w.own_tape, NULL, x));
    REFUSED(ctx, DQT_E_ARGUMENT, "kind", dqt_layer_backward(w.head, w.own_tape, y, x));
    REFUSED(ctx, DQT_E_STATE, "not in the tape", dqt_layer_backward(w.linear, w.tape, y, x));
    REFUSED(NULL, DQT_E_ARGUMENT, "layer", dqt_embedding_backward(NULL, w.own_tape, y));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_embedding_backward(w.embedding, NULL, y));
    REFUSED(ctx, DQT_E_ARGUMENT, "dy", dqt_embedding_backward(w.embedding, w.own_tape, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "kind", dqt_embedding_backward(w.linear, w.own_tape, y));
    REFUSED(NULL, DQT_E_ARGUMENT, "layer", dqt_head_backward(NULL, w.own_tape, 1, x));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_head_backward(w.head, NULL, 1, x));
    REFUSED(ctx, DQT_E_NUMERIC, "loss_scale", dqt_head_backward(w.head, w.own_tape, NAN, x));
    REFUSED(ctx, DQT_E_ARGUMENT, "kind", dqt_head_backward(w.norm, w.own_tape, 1, x));
    CHECK(hash_world(&w) == before);
    OK(ctx, dqt_head_backward(w.head, w.own_tape, 1, y));
    OK(ctx, dqt_layer_backward(w.norm, w.own_tape, y, y));
    OK(ctx, dqt_layer_backward(w.linear, w.own_tape, y, NULL));
    OK(ctx, dqt_embedding_backward(w.embedding, w.own_tape, x));
    const uint64_t after = hash_world(&w);
    CHECK(after != before);
    REFUSED(ctx, DQT_E_STATE, "forward", dqt_head_backward(w.head, w.own_tape, 1, x));
    REFUSED(ctx, DQT_E_STATE, "forward", dqt_layer_backward(w.norm, w.own_tape, y, y));
    REFUSED(ctx, DQT_E_STATE, "forward", dqt_layer_backward(w.linear, w.own_tape, y, x));
    REFUSED(ctx, DQT_E_STATE, "forward", dqt_embedding_backward(w.embedding, w.own_tape, x));
    CHECK(hash_world(&w) == after);

    /* Tapes of the model that cannot go back. */
    for (size_t i = 0; i < TOKENS * HIDDEN; i++)
        x[i] = (float)(i % 7) - 3;
    OK(ctx, dqt_layer_forward(w.layers[1], w.inference, batch_shape(BATCH, LENGTH), x, y));
    REFUSED(ctx, DQT_E_STATE, "gradient", dqt_layer_backward(w.layers[1], w.inference, x, y));
    OK(ctx, dqt_layer_forward(w.layers[1], w.without, batch_shape(BATCH, LENGTH), x, y));
    REFUSED(ctx, DQT_E_STATE, "gradient", dqt_layer_backward(w.layers[1], w.without, x, y));
    OK(ctx, dqt_layer_forward(w.layers[1], w.tape, batch_shape(BATCH, LENGTH), x, y));
    CHECK(hash_world(&w) == after);
    OK(ctx, dqt_layer_backward(w.layers[1], w.tape, x, NULL));
    CHECK(hash_world(&w) != after);
    end(&w);
}

/* ---- The model ----------------------------------------------------------------------------------------------- */

static void llama_passes(void) {
    struct world w;
    begin(&w);
    dqt_context *ctx = w.ctx;
    float x[TOKENS * HIDDEN] = {0}, loss = 7;
    dqt_layer *const *layers;
    size_t n;
    dqt_llama_config c = {.struct_size = sizeof c};
    const uint64_t before = hash_world(&w);
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_get_layers(NULL, &layers, &n));
    REFUSED(ctx, DQT_E_ARGUMENT, "layers", dqt_llama_get_layers(w.model, NULL, &n));
    REFUSED(ctx, DQT_E_ARGUMENT, "num_layers", dqt_llama_get_layers(w.model, &layers, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_get_config(NULL, &c));
    REFUSED(ctx, DQT_E_ARGUMENT, "dqt_llama_config", dqt_llama_get_config(w.model, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_forward(NULL, w.tape, batch_tokens(w.tokens, 1, 1), NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_llama_forward(w.model, NULL, batch_tokens(w.tokens, 1, 1), NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "tokens", dqt_llama_forward(w.model, w.tape, batch_tokens(NULL, 1, 1), NULL));
    REFUSED(ctx, DQT_E_STATE, "tape", dqt_llama_forward(w.model, w.own_tape, batch_tokens(w.tokens, 1, 1), NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model",
            dqt_llama_loss(NULL, w.tape, batch_pairs(w.tokens, w.targets, 1, 1), &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape",
            dqt_llama_loss(w.model, NULL, batch_pairs(w.tokens, w.targets, 1, 1), &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "tokens",
            dqt_llama_loss(w.model, w.tape, batch_pairs(NULL, w.targets, 1, 1), &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "loss",
            dqt_llama_loss(w.model, w.tape, batch_pairs(w.tokens, w.targets, 1, 1), NULL, NULL));
    REFUSED(ctx, DQT_E_STATE, "tape",
            dqt_llama_loss(w.model, w.own_tape, batch_pairs(w.tokens, w.targets, 1, 1), &loss, NULL));
    static const int32_t wrong[] = {-1, VOCAB, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        int32_t bad[TOKENS] = {0};
        bad[7] = wrong[i];
        REFUSED(ctx, DQT_E_ARGUMENT, "tokens[7]",
                dqt_llama_forward(w.model, w.tape, batch_tokens(bad, BATCH, LENGTH), NULL));
        REFUSED(ctx, DQT_E_ARGUMENT, "tokens[7]",
                dqt_llama_loss(w.model, w.tape, batch_pairs(bad, w.targets, BATCH, LENGTH), &loss, NULL));
        if (i == 0) bad[7] = -2;
        REFUSED(ctx, DQT_E_ARGUMENT, "targets[7]",
                dqt_llama_loss(w.model, w.tape, batch_pairs(w.tokens, bad, BATCH, LENGTH), &loss, NULL));
    }
    CHECK(loss >= 7 && loss <= 7);
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_backward(NULL, w.tape, 1));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_llama_backward(w.model, NULL, 1));
    REFUSED(ctx, DQT_E_STATE, "tape", dqt_llama_backward(w.model, w.own_tape, 1));
    REFUSED(ctx, DQT_E_STATE, "loss", dqt_llama_backward(w.model, w.tape, 1));
    OK(ctx, dqt_llama_forward(w.model, w.tape, batch_tokens(w.tokens, BATCH, LENGTH), NULL));
    REFUSED(ctx, DQT_E_STATE, "loss", dqt_llama_backward(w.model, w.tape, 1));
    OK(ctx, dqt_llama_loss(w.model, w.inference, batch_pairs(w.tokens, w.targets, BATCH, LENGTH), &loss, NULL));
    REFUSED(ctx, DQT_E_STATE, "inference", dqt_llama_backward(w.model, w.inference, 1));
    OK(ctx, dqt_llama_loss(w.model, w.without, batch_pairs(w.tokens, w.targets, BATCH, LENGTH), &loss, NULL));
    REFUSED(ctx, DQT_E_STATE, "gradient", dqt_llama_backward(w.model, w.without, 1));
    OK(ctx, dqt_llama_loss(w.model, w.tape, batch_pairs(w.tokens, w.targets, BATCH, LENGTH), &loss, NULL));
    REFUSED(ctx, DQT_E_NUMERIC, "loss_scale", dqt_llama_backward(w.model, w.tape, NAN));
    REFUSED(ctx, DQT_E_NUMERIC, "loss_scale", dqt_llama_backward(w.model, w.tape, INFINITY));
    CHECK(hash_world(&w) == before);
    OK(ctx, dqt_llama_backward(w.model, w.tape, 1));
    const uint64_t after = hash_world(&w);
    REFUSED(ctx, DQT_E_STATE, "loss", dqt_llama_backward(w.model, w.tape, 1));
    /* A loss whose layers were used for something else since cannot be gone back from. */
    OK(ctx, dqt_llama_loss(w.model, w.tape, batch_pairs(w.tokens, w.targets, BATCH, LENGTH), &loss, NULL));
    OK(ctx, dqt_layer_forward(w.layers[2], w.tape, batch_shape(1, 3), x, x));
    REFUSED(ctx, DQT_E_STATE, "blocks.1", dqt_llama_backward(w.model, w.tape, 1));
    REFUSED(ctx, DQT_E_STATE, "blocks.1", dqt_llama_backward_blocks(w.model, w.tape, 1, x));

    const dqt_batch *pair = batch_pairs(w.tokens, w.targets, 1, 3);
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_forward_blocks(NULL, w.tape, pair, x, &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_llama_forward_blocks(w.model, NULL, pair, x, &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "batch", dqt_llama_forward_blocks(w.model, w.tape, NULL, x, &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "x is", dqt_llama_forward_blocks(w.model, w.tape, pair, NULL, &loss, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "loss", dqt_llama_forward_blocks(w.model, w.tape, pair, x, NULL, NULL));
    REFUSED(ctx, DQT_E_STATE, "tape", dqt_llama_forward_blocks(w.model, w.own_tape, pair, x, &loss, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_backward_blocks(NULL, w.tape, 1, x));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_llama_backward_blocks(w.model, NULL, 1, x));
    OK(ctx, dqt_llama_forward_blocks(w.model, w.tape, pair, x, &loss, NULL));
    CHECK(hash_world(&w) == after);
    REFUSED(ctx, DQT_E_NUMERIC, "loss_scale", dqt_llama_backward_blocks(w.model, w.tape, NAN, x));
    OK(ctx, dqt_llama_backward_blocks(w.model, w.tape, 1, x));
    REFUSED(ctx, DQT_E_STATE, "no loss", dqt_llama_backward_blocks(w.model, w.tape, 1, x));
    end(&w);
}

/* A weight that the host itself made NaN: the loss is not finite, and there is nothing to go back from. */
static void loss_is_not_finite(void) {
    struct world w;
    begin(&w);
    dqt_parameter p = {.struct_size = sizeof p};
    void *data = NULL;
    size_t bytes = 0;
    float loss = 7;
    OK(w.ctx, dqt_layer_get_parameter(w.layers[w.num_layers - 2], 0, &p)); /* the final norm's gain, F32 */
    OK(w.ctx, dqt_tensor_data(p.tensor, &data, &bytes));
    const float nan = NAN;
    memcpy(data, &nan, sizeof nan);
    OK(w.ctx, dqt_tensor_touch(p.tensor));
    const uint64_t before = hash_world(&w);
    REFUSED(w.ctx, DQT_E_NUMERIC, "loss",
            dqt_llama_loss(w.model, w.tape, batch_pairs(w.tokens, w.targets, BATCH, LENGTH), &loss, NULL));
    CHECK(loss >= 7 && loss <= 7);
    REFUSED(w.ctx, DQT_E_STATE, "loss", dqt_llama_backward(w.model, w.tape, 1));
    REFUSED(w.ctx, DQT_E_STATE, "loss", dqt_llama_backward_update(w.model, w.tape, w.fused, step_rate(1e-3f), NULL));
    CHECK(hash_world(&w) == before);
    end(&w);
}

/* ---- Updaters ------------------------------------------------------------------------------------------------ */

static void updater_steps(void) {
    struct world w;
    begin(&w);
    dqt_context *ctx = w.ctx;
    uint64_t step = 9;
    float loss;
    dqt_updater_options u = {.struct_size = sizeof u};
    OK(ctx, dqt_llama_loss(w.model, w.tape, batch_pairs(w.tokens, w.targets, BATCH, LENGTH), &loss, NULL));
    const uint64_t before = hash_world(&w);
    REFUSED(NULL, DQT_E_ARGUMENT, "updater", dqt_updater_step(NULL, w.tape, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_updater_step(w.updater, NULL, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_NUMERIC, "learning_rate", dqt_updater_step(w.updater, w.tape, step_rate(NAN), NULL));
    REFUSED(ctx, DQT_E_NUMERIC, "learning_rate", dqt_updater_step(w.updater, w.tape, step_rate(INFINITY), NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "learning_rate", dqt_updater_step(w.updater, w.tape, step_rate(-1e-3f), NULL));
    REFUSED(ctx, DQT_E_STATE, "gradient", dqt_updater_step(w.updater, w.without, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_STATE, "gradient", dqt_updater_step(w.updater, w.inference, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_STATE, "parameters", dqt_updater_step(w.updater, w.own_tape, step_rate(1e-3f), NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "updater", dqt_updater_get_step(NULL, &step));
    REFUSED(ctx, DQT_E_ARGUMENT, "step", dqt_updater_get_step(w.updater, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "updater", dqt_updater_set_step(NULL, 3));
    REFUSED(NULL, DQT_E_ARGUMENT, "updater", dqt_updater_get_options(NULL, &u));
    REFUSED(ctx, DQT_E_ARGUMENT, "dqt_updater_options", dqt_updater_get_options(w.updater, NULL));
    OK(ctx, dqt_updater_get_options(w.fused, &u));
    CHECK(u.clip == DQT_CLIP_NONE && u.optimizer == DQT_OPTIMIZER_ADAMW);

    /* As many parameters, but others. */
    dqt_layer *others[4] = {w.embedding, w.norm, w.linear, w.head};
    dqt_updater *same_number = NULL;
    OK(ctx, dqt_updater_create(ctx, others, 4, NULL, &same_number));
    REFUSED(ctx, DQT_E_STATE, "parameter 1", dqt_updater_step(same_number, w.own_tape, step_rate(1e-3f), NULL));
    dqt_updater_destroy(same_number);

    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_backward_update(NULL, w.tape, w.fused, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "tape", dqt_llama_backward_update(w.model, NULL, w.fused, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "updater", dqt_llama_backward_update(w.model, w.tape, NULL, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_NUMERIC, "learning_rate",
            dqt_llama_backward_update(w.model, w.tape, w.fused, step_rate(NAN), NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "learning_rate",
            dqt_llama_backward_update(w.model, w.tape, w.fused, step_rate(-1), NULL));
    REFUSED(ctx, DQT_E_STATE, "parameters",
            dqt_llama_backward_update(w.model, w.tape, w.own_updater, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_UNSUPPORTED, "PREVIOUS_NORM",
            dqt_llama_backward_update(w.model, w.tape, w.updater, step_rate(1e-3f), NULL));
    u = updater_options();
    u.clip = DQT_CLIP_NONE;
    u.part = 1;
    u.num_parts = 2;
    OK(ctx, dqt_updater_create(ctx, w.layers, w.num_layers, &u, &same_number));
    REFUSED(ctx, DQT_E_UNSUPPORTED, "part 1 of 2",
            dqt_llama_backward_update(w.model, w.tape, same_number, step_rate(1e-3f), NULL));
    dqt_updater_destroy(same_number);
    REFUSED(ctx, DQT_E_STATE, "loss", dqt_llama_backward_update(w.model, w.without, w.fused, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_STATE, "tape", dqt_llama_backward_update(w.model, w.own_tape, w.fused, step_rate(1e-3f), NULL));
    dqt_layer *reversed[8];
    for (size_t i = 0; i < w.num_layers; i++)
        reversed[i] = w.layers[w.num_layers - 1 - i];
    u = updater_options();
    u.clip = DQT_CLIP_NONE;
    OK(ctx, dqt_updater_create(ctx, reversed, w.num_layers, &u, &same_number));
    REFUSED(ctx, DQT_E_STATE, "parameter 0",
            dqt_llama_backward_update(w.model, w.tape, same_number, step_rate(1e-3f), NULL));
    dqt_updater_destroy(same_number);
    CHECK(hash_world(&w) == before);
    OK(ctx, dqt_llama_backward_update(w.model, w.tape, w.fused, step_rate(1e-3f), NULL));
    REFUSED(ctx, DQT_E_STATE, "loss", dqt_llama_backward_update(w.model, w.tape, w.fused, step_rate(1e-3f), NULL));
    OK(ctx, dqt_updater_get_step(w.fused, &step));
    CHECK(step == 1);
    OK(ctx, dqt_updater_set_step(w.fused, 77));
    OK(ctx, dqt_updater_get_step(w.fused, &step));
    CHECK(step == 77);
    end(&w);
}

/* One gradient that is not finite: neither weights nor optimiser state change, which the steps that follow show against
 * a world that never saw it. */
static void gradient_is_not_finite(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int32_t optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_MUON; optimizer++) {
        struct world w[2];
        dqt_updater *u[2] = {NULL};
        for (int i = 0; i < 2; i++) {
            begin(&w[i]);
            dqt_updater_options o = updater_options();
            o.optimizer = optimizer;
            o.momentum_state = o.variance_state = optimizer % 3;
            OK(w[i].ctx, dqt_updater_create(w[i].ctx, w[i].layers, w[i].num_layers, &o, &u[i]));
        }
        for (size_t round = 0; round < 3; round++)
            for (int i = 0; i < 2; i++) {
                float loss, *gradient = NULL;
                dqt_context *ctx = w[i].ctx;
                OK(ctx, dqt_tape_zero_gradients(w[i].tape));
                OK(ctx, dqt_llama_loss(w[i].model, w[i].tape, batch_pairs(w[i].tokens, w[i].targets, BATCH, LENGTH),
                                       &loss, NULL));
                OK(ctx, dqt_llama_backward(w[i].model, w[i].tape, 1));
                if (i == 1) {
                    OK(ctx, dqt_tape_gradient_data(w[i].tape, 8 + round, &gradient));
                    const float good = gradient[3];
                    gradient[3] = bad[round];
                    const uint64_t before = hash_world(&w[i]);
                    dqt_step_stats stats = {.struct_size = sizeof stats, .reserved = 7};
                    REFUSED(ctx, DQT_E_NUMERIC, "blocks.0",
                            dqt_updater_step(u[i], w[i].tape, step_rate(1e-2f), &stats));
                    CHECK(hash_world(&w[i]) == before && stats.reserved == 7);
                    gradient[3] = good;
                }
                OK(ctx, dqt_updater_step(u[i], w[i].tape, step_rate(1e-2f), NULL));
            }
        CHECKF(hash_world(&w[0]) == hash_world(&w[1]), "optimizer %d", optimizer);
        for (int i = 0; i < 2; i++) {
            dqt_updater_destroy(u[i]);
            end(&w[i]);
        }
    }
}

/* Warm-up from peak / warmup to the peak, then down to final_fraction, and there it stays. */
static void schedules(void) {
    CHECK(fabsf(dqt_schedule_cosine(0, 10, 100, 2, 0.1f) - 0.2f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_cosine(9, 10, 100, 2, 0.1f) - 2.0f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_cosine(10, 10, 100, 2, 0.1f) - 2.0f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_cosine(55, 10, 100, 2, 0.1f) - 1.1f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_linear(55, 10, 100, 2, 0.1f) - 1.1f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_cosine(40, 10, 100, 2, 0.0f) - 1.5f) < 1e-5f);
    CHECK(fabsf(dqt_schedule_linear(40, 10, 100, 2, 0.0f) - 4.0f / 3) < 1e-5f);
    for (uint64_t step = 100; step < 103; step++) {
        CHECK(fabsf(dqt_schedule_cosine(step, 10, 100, 2, 0.1f) - 0.2f) < 1e-6f);
        CHECK(fabsf(dqt_schedule_linear(step, 10, 100, 2, 0.1f) - 0.2f) < 1e-6f);
    }
    CHECK(fabsf(dqt_schedule_linear(0, 0, 100, 2, 0) - 2.0f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_cosine(UINT64_MAX, 0, 0, 2, 0.5f) - 1.0f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_cosine(5, 10, 5, 2, 0.5f) - 1.2f) < 1e-6f);
}

/* The peak until (1 - decay) * total, then a line, which a longer warm-up shortens; odd fractions are 0 or 1. */
static void schedule_wsd(void) {
    const float end = 2 * 0.1f, none[] = {0, -0.0f, -1, -INFINITY}, all[] = {1, 1.5f, INFINITY, NAN};
    for (uint64_t step = 0; step < 10; step++)
        CHECK(dqt_schedule_wsd(step, 10, 100, 2, 0.1f, 0.5f) == dqt_schedule_cosine(step, 10, 100, 2, 0.1f));
    for (uint64_t step = 10; step <= 50; step++)
        CHECK(dqt_schedule_wsd(step, 10, 100, 2, 0.1f, 0.5f) == 2);
    CHECK(fabsf(dqt_schedule_wsd(51, 10, 100, 2, 0.1f, 0.5f) - 1.964f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_wsd(75, 10, 100, 2, 0.1f, 0.5f) - 1.1f) < 1e-6f);
    CHECK(fabsf(dqt_schedule_wsd(99, 10, 100, 2, 0.1f, 0.5f) - 0.236f) < 1e-6f);
    for (uint64_t step = 100; step < 103; step++)
        CHECK(dqt_schedule_wsd(step, 10, 100, 2, 0.1f, 0.5f) == end);
    /* The fall begins between two steps, at 87.5. */
    CHECK(dqt_schedule_wsd(87, 0, 100, 2, 0.1f, 0.125f) == 2);
    CHECK(fabsf(dqt_schedule_wsd(88, 0, 100, 2, 0.1f, 0.125f) - 1.928f) < 1e-6f);
    for (uint64_t step = 0; step < 103; step++) {
        const float linear = dqt_schedule_linear(step, 10, 100, 2, 0.1f);
        const float late = dqt_schedule_linear(step, 80, 100, 2, 0.1f);
        CHECK(dqt_schedule_wsd(step, 80, 100, 2, 0.1f, 0.5f) == late);
        const float flat = step < 10 ? linear : step < 100 ? 2 : end;
        for (int i = 0; i < 4; i++) {
            CHECK(dqt_schedule_wsd(step, 10, 100, 2, 0.1f, all[i]) == linear);
            CHECK(dqt_schedule_wsd(step, 10, 100, 2, 0.1f, none[i]) == flat);
        }
    }
    CHECK(dqt_schedule_wsd(0, 0, 0, 2, 0.5f, 0.5f) == 1 && dqt_schedule_wsd(5, 5, 5, 2, 0.5f, 0) == 1);
    CHECK(dqt_schedule_wsd(UINT64_MAX, 0, 100, 2, 0.5f, 0.5f) == 1);
    CHECK(dqt_schedule_wsd(UINT64_MAX - 1, 0, UINT64_MAX, 2, 0.5f, 0) == 2);
}

/* ---- Files (their content is the matter of test_checkpoint) --------------------------------------------------- */

static size_t read_nothing(void *user_data, void *buffer, size_t size) {
    (void)user_data;
    (void)buffer;
    (void)size;
    return 0;
}
static int32_t write_nothing(void *user_data, const void *buffer, size_t size) {
    (void)user_data;
    (void)buffer;
    (void)size;
    return 0;
}

static void files(void) {
    struct world w;
    begin(&w);
    dqt_context *ctx = w.ctx;
    dqt_llama *model;
    dqt_updater *updater;
    void *host;
    size_t host_size = 5;
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_save(NULL, NULL, "x", NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "path", dqt_llama_save(w.model, NULL, NULL, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "host", dqt_llama_save(w.model, NULL, "x", save_host(NULL, 3)));
    REFUSED(ctx, DQT_E_IO, "/nowhere/at", dqt_llama_save(w.model, NULL, "/nowhere/at/all", NULL));
    REFUSED(ctx, DQT_E_UNSUPPORTED, "updater", dqt_llama_save(w.model, w.own_updater, "x", NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_write(NULL, NULL, write_nothing, NULL, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "write", dqt_llama_write(w.model, NULL, NULL, NULL, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "host", dqt_llama_write(w.model, NULL, write_nothing, NULL, save_host(NULL, 3)));
    NOT_CREATED(NULL, DQT_E_ARGUMENT, "ctx", model, load_checkpoint(NULL, "x", &model, NULL, NULL, NULL));
    NOT_CREATED(ctx, DQT_E_ARGUMENT, "path", model, load_checkpoint(ctx, NULL, &model, NULL, NULL, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "dqt_checkpoint", dqt_llama_load(ctx, "x", NULL, NULL));
    NOT_CREATED(ctx, DQT_E_IO, "/nowhere/at", model,
                load_checkpoint(ctx, "/nowhere/at/all", &model, &updater, &host, &host_size));
    CHECK(!updater && !host && host_size == 0);
    NOT_CREATED(NULL, DQT_E_ARGUMENT, "ctx", model,
                read_checkpoint(NULL, read_nothing, NULL, &model, NULL, NULL, NULL));
    NOT_CREATED(ctx, DQT_E_ARGUMENT, "read", model, read_checkpoint(ctx, NULL, NULL, &model, NULL, NULL, NULL));
    NOT_CREATED(ctx, DQT_E_FORMAT, "checkpoint", model,
                read_checkpoint(ctx, read_nothing, NULL, &model, NULL, NULL, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_export_gguf(NULL, "x", NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "path", dqt_llama_export_gguf(w.model, NULL, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_write_gguf(NULL, write_nothing, NULL, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "write", dqt_llama_write_gguf(w.model, NULL, NULL, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_export_safetensors(NULL, "x", NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "path", dqt_llama_export_safetensors(w.model, NULL, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model", dqt_llama_write_safetensors(NULL, write_nothing, NULL, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "write", dqt_llama_write_safetensors(w.model, NULL, NULL, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "model",
            dqt_llama_import_safetensors(NULL, "x", import_rounding(DQT_ROUND_NEAREST, 0)));
    REFUSED(ctx, DQT_E_ARGUMENT, "path",
            dqt_llama_import_safetensors(w.model, NULL, import_rounding(DQT_ROUND_NEAREST, 0)));
    REFUSED(ctx, DQT_E_ARGUMENT, "rounding",
            dqt_llama_import_safetensors(w.model, "x", import_rounding(DQT_ROUND_ECO_NEAREST, 0)));
    dqt_host_bytes_free(NULL, NULL, 0);
    dqt_host_bytes_free(ctx, NULL, 0);
    end(&w);
}

/* ---- Sentences ----------------------------------------------------------------------------------------------- */

/* The whole sentence: name, value and what would be right. */
#define SAYS(status, sentence, call)                                                                                   \
    do {                                                                                                               \
        CHECK((call) == (status));                                                                                     \
        CHECKF(strcmp(dqt_last_error(w.ctx), sentence) == 0, "%s", dqt_last_error(w.ctx));                             \
    } while (0)

static void sentences_give_values_and_limits(void) {
    struct world w;
    begin(&w);
    float x[TOKENS * HIDDEN] = {0}, y[TOKENS * HIDDEN], loss;
    int32_t token = 10;
    SAYS(DQT_E_ARGUMENT, "tokens[0] is 10; it must be 0 to 9",
         dqt_embedding_forward(w.embedding, w.own_tape, batch_tokens(&token, 1, 1), y));
    SAYS(DQT_E_ARGUMENT, "targets[0] is 10; it must be -1 to 9",
         dqt_head_loss(w.head, w.own_tape, batch_targets(&token, 1, 1), x, &loss, NULL));
    SAYS(DQT_E_SHAPE, "batch 3 x length 4; this tape takes 1 to 2 x 1 to 6",
         dqt_layer_forward(w.linear, w.own_tape, batch_shape(3, 4), x, y));
    SAYS(DQT_E_ARGUMENT, "learning_rate is -0.5; it must not be negative",
         dqt_updater_step(w.updater, w.tape, step_rate(-0.5f), NULL));
    SAYS(DQT_E_NUMERIC, "learning_rate[0] is inf", dqt_updater_step(w.updater, w.tape, step_rate(INFINITY), NULL));
    dqt_parameter p = {.struct_size = sizeof p};
    SAYS(DQT_E_ARGUMENT, "parameter index is 4; there are 4", dqt_tape_get_parameter(w.own_tape, 4, &p));

    dqt_session *session;
    float logits[VOCAB];
    OK(w.ctx, dqt_session_create(w.model, session_of(4), &session));
    OK(w.ctx, dqt_session_append(session, w.tokens, 2, logits));
    SAYS(DQT_E_STATE, "3 tokens do not fit: the session holds 2 of at most 4",
         dqt_session_append(session, w.tokens, 3, logits));
    SAYS(DQT_E_ARGUMENT, "length is 3; the session holds 2 tokens", dqt_session_truncate(session, 3));
    dqt_session_destroy(session);
    SAYS(DQT_E_SHAPE, "max_length is 2147483648; it must be at most 2147483647",
         dqt_session_create(w.model, session_of((size_t)1 << 31), &session));

    dqt_sampler *sampler;
    dqt_sampler_options s;
    OK(w.ctx, dqt_sampler_options_init(&s, sizeof s));
    SAYS(DQT_E_SHAPE, "vocab_size is 0; it must be 1 to 2147483647", dqt_sampler_create(w.ctx, 0, &s, &sampler));
    s.top_p = 1.5f;
    SAYS(DQT_E_ARGUMENT, "top_p is 1.5; it must be above 0 and at most 1", dqt_sampler_create(w.ctx, 2, &s, &sampler));
    s.temperature = -1;
    SAYS(DQT_E_ARGUMENT, "temperature is -1; it must be finite and not negative",
         dqt_sampler_create(w.ctx, 2, &s, &sampler));

    dqt_layer_options o = layer_options();
    dqt_layer *layer;
    o.name = "a name of forty-eight bytes, that is one too man";
    SAYS(DQT_E_ARGUMENT, "name has 48 bytes; it may have 47", dqt_linear_create(w.ctx, 8, 6, &o, &layer));
    o.name = NULL;
    SAYS(DQT_E_SHAPE, "vocab is 4294967295; it must be 1 to 2147483647",
         dqt_embedding_create(w.ctx, UINT32_MAX, 8, &o, &layer));
    end(&w);
}

static const struct test tests[] = {
    TEST(layer_passes),
    TEST(llama_passes),
    TEST(loss_is_not_finite),
    TEST(updater_steps),
    TEST(gradient_is_not_finite),
    TEST(schedules),
    TEST(schedule_wsd),
    TEST(files),
    TEST(sentences_give_values_and_limits),
};
TEST_MAIN(tests)
