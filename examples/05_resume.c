/* Example 5, resume: a run that is saved, ended and loaded again goes on bit for bit as if it had not been interrupted.
 *
 * Introduces: dqt_llama_save and dqt_llama_load with an updater and bytes of the host's own; random numbers that depend
 * on the step and not on history. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dqt.h"

enum { BATCH = 4, LENGTH = 32, STEPS = 20, HALF = 10 };

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

struct trainer {
    dqt_llama *model;
    dqt_updater *updater;
};

/* The data of a step: counting sequences, a function of the step alone. */
static void fill(uint64_t step, int32_t *tokens, int32_t *targets) {
    for (int i = 0; i < BATCH * LENGTH; i++) {
        const int start = (int)(step * 7 + (uint64_t)(i / LENGTH) * 31), at = i % LENGTH;
        tokens[i] = (start + 3 * at) % 256;
        targets[i] = (start + 3 * (at + 1)) % 256;
    }
}

static void train(struct trainer *t, uint64_t first, uint64_t end) {
    static int32_t tokens[BATCH * LENGTH], targets[BATCH * LENGTH];
    dqt_layer *const *layers;
    size_t num_layers;
    dqt_tape_options o;
    dqt_tape *tape;
    ok(dqt_llama_get_layers(t->model, &layers, &num_layers));
    ok(dqt_tape_options_init(&o, sizeof o));
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    ok(dqt_tape_create(ctx, layers, num_layers, &o, &tape));
    ok(dqt_tape_set_pass(tape, first)); /* one pass a step: gradients may be rounded by random numbers of its number */
    for (uint64_t step = first; step < end; step++) {
        float loss;
        fill(step, tokens, targets);
        ok(dqt_tape_zero_gradients(tape));
        const dqt_batch batch = {
            .struct_size = sizeof batch, .batch = BATCH, .length = LENGTH, .tokens = tokens, .targets = targets};
        const dqt_step_options step_options = {.struct_size = sizeof step_options, .learning_rate = 2e-3f};
        ok(dqt_llama_loss(t->model, tape, &batch, &loss, NULL));
        ok(dqt_llama_backward(t->model, tape, 1.0f));
        ok(dqt_updater_step(t->updater, tape, &step_options, NULL));
        if (step + 1 == end) printf("step %2d: loss %.6f\n", (int)end, (double)loss);
    }
    dqt_tape_destroy(tape);
}

static struct trainer create(void) {
    struct trainer t;
    dqt_layer *const *layers;
    size_t num_layers;
    ok(dqt_llama_create(ctx, NULL, &t.model)); /* 2 layers, ternary */
    ok(dqt_llama_get_layers(t.model, &layers, &num_layers));
    ok(dqt_updater_create(ctx, layers, num_layers, NULL, &t.updater)); /* AdamW, stochastic rounding */
    return t;
}

static void destroy(struct trainer *t) {
    dqt_updater_destroy(t->updater);
    dqt_llama_destroy(t->model);
}

static int same_files(const char *a, const char *b) {
    FILE *fa = fopen(a, "rb"), *fb = fopen(b, "rb");
    int ca = 0, cb = 0;
    while (fa && fb && ca != EOF && ca == cb) {
        ca = getc(fa);
        cb = getc(fb);
    }
    const int same = fa && fb && ca == cb;
    if (fa) fclose(fa);
    if (fb) fclose(fb);
    return same;
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "/tmp";
    char whole[512], part[512];
    snprintf(whole, sizeof whole, "%s/dqt-whole.dqt", folder);
    snprintf(part, sizeof part, "%s/dqt-part.dqt", folder);
    ok(dqt_context_create(NULL, &ctx));

    printf("uninterrupted\n");
    struct trainer t = create();
    train(&t, 0, STEPS);
    ok(dqt_llama_save(t.model, t.updater, whole, NULL));
    destroy(&t);

    printf("half, saved with a note of the host's\n");
    const char note[] = "the next step is 10";
    t = create();
    train(&t, 0, HALF);
    const dqt_save_options with_note = {.struct_size = sizeof with_note, .host = note, .host_size = sizeof note};
    ok(dqt_llama_save(t.model, t.updater, part, &with_note));
    destroy(&t);

    dqt_checkpoint loaded = DQT_INIT(dqt_checkpoint);
    ok(dqt_llama_load(ctx, part, NULL, &loaded));
    t = (struct trainer){loaded.model, loaded.updater};
    printf("loaded: \"%s\"\n", (const char *)loaded.host);
    dqt_host_bytes_free(ctx, loaded.host, loaded.host_size);
    train(&t, HALF, STEPS);
    ok(dqt_llama_save(t.model, t.updater, part, NULL));
    destroy(&t);

    const int same = same_files(whole, part);
    printf("the two checkpoints %s\n", same ? "are the same, byte for byte" : "differ");
    remove(whole);
    remove(part);
    dqt_context_destroy(ctx);
    return same ? 0 : 1;
}
