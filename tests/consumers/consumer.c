/* A host in plain C: trains a few steps against the installed library. Its own functions have names that a library
 * might have used inside: they must not clash, not even with the static one. */
#include <dqt.h>
#include <stdio.h>

int fail(const char *what, const char *why);
int last_error(void);
int arena_take(void);
int tensor_create(void);
int parallel_run(void);
int memory_alloc(void);
int session_create(void);

int fail(const char *what, const char *why) {
    printf("%s: %s\n", what, why);
    return 1;
}
int last_error(void) {
    return 1;
}
int arena_take(void) {
    return 2;
}
int tensor_create(void) {
    return 3;
}
int parallel_run(void) {
    return 4;
}
int memory_alloc(void) {
    return 5;
}
int session_create(void) {
    return 6;
}

int main(void) {
    dqt_context *ctx = NULL;
    dqt_llama *model = NULL;
    dqt_tape *tape = NULL;
    dqt_updater *updater = NULL;
    dqt_layer *const *layers = NULL;
    dqt_llama_config config;
    dqt_batch batch = {0};
    dqt_step_options options = {0};
    int32_t tokens[16], targets[16];
    size_t n = 0;
    float first = 0, loss = 0;
    int i, sum = last_error() + arena_take() + tensor_create() + parallel_run() + memory_alloc() + session_create();

    if (dqt_version() != DQT_VERSION_MAJOR * 10000 + DQT_VERSION_MINOR * 100 + DQT_VERSION_PATCH)
        return fail("version", dqt_version_string());
    if (dqt_context_create(NULL, &ctx)) return fail("context", dqt_last_error(NULL));
    dqt_llama_config_init(&config, sizeof config);
    config.hidden_size = 32;
    config.intermediate_size = 48;
    config.num_layers = 1;
    if (dqt_llama_create(ctx, &config, &model) || dqt_llama_get_layers(model, &layers, &n) ||
        dqt_tape_create(ctx, layers, n, NULL, &tape) || dqt_updater_create(ctx, layers, n, NULL, &updater))
        return fail("creation", dqt_last_error(ctx));
    for (i = 0; i < 16; i++) {
        tokens[i] = 'a' + i % 4;
        targets[i] = 'a' + (i + 1) % 4;
    }
    batch.struct_size = sizeof batch;
    batch.length = 16;
    batch.tokens = tokens;
    batch.targets = targets;
    options.struct_size = sizeof options;
    options.learning_rate = 0.01f;
    for (i = 0; i < 20; i++) {
        if (dqt_tape_zero_gradients(tape) || dqt_llama_loss(model, tape, &batch, &loss, NULL) ||
            dqt_llama_backward(model, tape, 1.0f) || dqt_updater_step(updater, tape, &options, NULL))
            return fail("step", dqt_last_error(ctx));
        if (i == 0) first = loss;
    }
    if (!(loss < first) || sum != 21) return fail("loss", "it has not fallen");
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
    return 0;
}
