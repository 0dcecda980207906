/* The same bytes on every CPU: trains a model with the plain C kernels and saves it, or resumes such a file and saves
 * it anew. Builds for different CPUs, of either byte order and word size, write the same files and resume each other's;
 * .ci/run compares them.
 * usage: portable FILE (trains) | portable FILE RESUMED (resumes FILE) */
#include <dqt.h>
#include <stdio.h>
#include <stdlib.h>

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    printf("%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

enum { LENGTH = 32, STEPS = 5 };

int main(int argc, char **argv) {
    if (argc != 2 && argc != 3) return printf("usage: portable FILE [RESUMED]\n"), 2;
    dqt_context_options options;
    ok(dqt_context_options_init(&options, sizeof options));
    options.threading = DQT_THREADING_SERIAL;
    options.isa = DQT_ISA_SCALAR;
    ok(dqt_context_create(&options, &ctx));

    dqt_llama *model = NULL;
    dqt_updater *updater = NULL;
    dqt_layer *const *layers;
    size_t count;
    if (argc == 2) {
        dqt_llama_config config;
        ok(dqt_llama_config_init(&config, sizeof config));
        config.hidden_size = 32;
        config.intermediate_size = 40;
        config.linear.storage = DQT_FORMAT_INT3;
        ok(dqt_llama_create(ctx, &config, &model));
        dqt_updater_options how;
        ok(dqt_updater_options_init(&how, sizeof how));
        how.momentum_state = DQT_STATE_INT8;
        how.variance_state = DQT_STATE_BF16;
        ok(dqt_llama_get_layers(model, &layers, &count));
        ok(dqt_updater_create(ctx, layers, count, &how, &updater));
    } else {
        dqt_checkpoint file = DQT_INIT(dqt_checkpoint);
        ok(dqt_llama_load(ctx, argv[1], NULL, &file));
        model = file.model;
        updater = file.updater;
        ok(dqt_llama_get_layers(model, &layers, &count));
        dqt_host_bytes_free(ctx, file.host, file.host_size);
    }

    dqt_tape *tape;
    ok(dqt_tape_create(ctx, layers, count, NULL, &tape));
    int32_t tokens[LENGTH], targets[LENGTH];
    for (int i = 0; i < LENGTH; i++) {
        tokens[i] = 'a' + i % 26;
        targets[i] = 'a' + (i + 1) % 26;
    }
    const dqt_batch batch = {
        .struct_size = sizeof batch, .batch = 1, .length = LENGTH, .tokens = tokens, .targets = targets};
    dqt_step_options rate = DQT_INIT(dqt_step_options);
    rate.learning_rate = 1e-2f;
    for (int i = 0; i < STEPS; i++) {
        float loss;
        ok(dqt_tape_zero_gradients(tape));
        ok(dqt_llama_loss(model, tape, &batch, &loss, NULL));
        ok(dqt_llama_backward(model, tape, 1.0f));
        ok(dqt_updater_step(updater, tape, &rate, NULL));
        printf("%.9g ", (double)loss);
    }
    printf("\n");
    const dqt_save_options note = {.struct_size = sizeof note, .host = "portable", .host_size = 8};
    ok(dqt_llama_save(model, updater, argv[argc - 1], &note));

    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
    return 0;
}
