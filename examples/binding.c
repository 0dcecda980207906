/* What every binding does: trains a tiny ternary model on a fixed text for 20 steps, prints each loss with its bits and
 * writes a checkpoint. The programs in rust/, zig/, python/ and cpp/ print the same lines and write the same file, byte
 * for byte; tests/bindings compares them. The last line is a mistake, made to show the sentence that a host gets.
 *
 * usage: binding CHECKPOINT (the losses depend on the instruction set; DQT_ISA caps it) */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dqt.h"

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

enum { BATCH = 2, LENGTH = 64, STEPS = 20 };

/* 2 sequences of 64 bytes and the byte after each. */
static const char text[] =
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief";
static const char host[] = "binding";

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: binding CHECKPOINT\n"), 2;
    ok(dqt_context_create(NULL, &ctx));

    dqt_llama_config config;
    ok(dqt_llama_config_init(&config, sizeof config));
    config.hidden_size = 64;
    config.intermediate_size = 128;
    config.num_layers = 2;
    config.num_heads = 4; /* 256 bytes are the vocabulary, blocks are ternary: the defaults */
    dqt_llama *model;
    ok(dqt_llama_create(ctx, &config, &model));
    dqt_layer *const *layers;
    size_t num_layers;
    ok(dqt_llama_get_layers(model, &layers, &num_layers));

    dqt_tape_options tape_options;
    ok(dqt_tape_options_init(&tape_options, sizeof tape_options));
    tape_options.max_batch = BATCH;
    tape_options.max_length = LENGTH;
    dqt_tape *tape;
    ok(dqt_tape_create(ctx, layers, num_layers, &tape_options, &tape));

    dqt_updater_options updater_options;
    ok(dqt_updater_options_init(&updater_options, sizeof updater_options));
    dqt_updater *updater;
    ok(dqt_updater_create(ctx, layers, num_layers, &updater_options, &updater));

    int32_t tokens[BATCH * LENGTH], targets[BATCH * LENGTH];
    for (int i = 0; i < BATCH * LENGTH; i++) {
        tokens[i] = (unsigned char)text[i];
        targets[i] = (unsigned char)text[i + 1];
    }
    const dqt_batch batch = {
        .struct_size = sizeof batch, .batch = BATCH, .length = LENGTH, .tokens = tokens, .targets = targets};
    for (uint64_t step = 0; step < STEPS; step++) {
        float loss;
        dqt_step_options rate = DQT_INIT(dqt_step_options);
        rate.learning_rate = dqt_schedule_cosine(step, 2, STEPS, 0.02f, 0.1f);
        ok(dqt_tape_zero_gradients(tape));
        ok(dqt_llama_loss(model, tape, &batch, &loss, NULL));
        ok(dqt_llama_backward(model, tape, 1.0f));
        ok(dqt_updater_step(updater, tape, &rate, NULL));
        uint32_t bits;
        memcpy(&bits, &loss, sizeof bits);
        printf("step %2" PRIu64 "  loss %.6f  %08" PRIx32 "\n", step, (double)loss, bits);
    }
    const dqt_save_options note = {.struct_size = sizeof note, .host = host, .host_size = sizeof host - 1};
    ok(dqt_llama_save(model, updater, argv[1], &note));

    float loss;
    tokens[3] = 256;
    dqt_status status = dqt_llama_loss(model, tape, &batch, &loss, NULL);
    printf("%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));

    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
    return 0;
}
