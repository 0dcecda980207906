/* A host that loads the library as a plug-in does: by dlopen, 100 rounds of loading, use on two threads (drawing the
 * weights is work enough for them) and unloading; with a second file of the library 25 rounds of both at once. usage:
 * unload LIBRARY [ANOTHER] */
#define _POSIX_C_SOURCE 200809L
#define DQT_EXPERIMENTAL 1
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "dqt.h"

enum { ROUNDS = 100, ROUNDS_OF_TWO = 25, LENGTH = 32 };

/* Each call through dlsym: the program itself is not linked with the library. */
struct library {
    void *handle;
    __typeof__(&dqt_context_options_init) options_init;
    __typeof__(&dqt_context_create) context_create;
    __typeof__(&dqt_context_destroy) context_destroy;
    __typeof__(&dqt_last_error) last_error;
    __typeof__(&dqt_llama_create) llama_create;
    __typeof__(&dqt_llama_destroy) llama_destroy;
    __typeof__(&dqt_llama_get_layers) llama_get_layers;
    __typeof__(&dqt_tape_create) tape_create;
    __typeof__(&dqt_tape_destroy) tape_destroy;
    __typeof__(&dqt_llama_loss) llama_loss;
};

static void *symbol(const struct library *l, const char *name) {
    void *found = dlsym(l->handle, name);
    if (!found) printf("%s: %s\n", name, dlerror());
    return found;
}

/* 0, or the number of the first symbol that is missing. */
static int library_open(struct library *l, const char *path) {
    l->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!l->handle) {
        printf("%s\n", dlerror());
        return 1;
    }
    *(void **)&l->options_init = symbol(l, "dqt_context_options_init");
    *(void **)&l->context_create = symbol(l, "dqt_context_create");
    *(void **)&l->context_destroy = symbol(l, "dqt_context_destroy");
    *(void **)&l->last_error = symbol(l, "dqt_last_error");
    *(void **)&l->llama_create = symbol(l, "dqt_llama_create");
    *(void **)&l->llama_destroy = symbol(l, "dqt_llama_destroy");
    *(void **)&l->llama_get_layers = symbol(l, "dqt_llama_get_layers");
    *(void **)&l->tape_create = symbol(l, "dqt_tape_create");
    *(void **)&l->tape_destroy = symbol(l, "dqt_tape_destroy");
    *(void **)&l->llama_loss = symbol(l, "dqt_llama_loss");
    return !l->llama_loss || !l->context_create;
}

/* The loss of a new model; negative: a call failed. */
static float use(const struct library *l) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_llama *model = NULL;
    dqt_tape *tape = NULL;
    dqt_layer *const *layers;
    size_t count;
    static int32_t text[LENGTH + 1];
    const dqt_batch batch = {.struct_size = sizeof batch, .length = LENGTH, .tokens = text, .targets = text + 1};
    const dqt_llama_config c = {.struct_size = sizeof c, .num_layers = 1};
    const dqt_tape_options t = {.struct_size = sizeof t, .max_length = LENGTH};
    float loss = -1.0f;
    for (int i = 0; i <= LENGTH; i++)
        text[i] = i * 7 % 256;
    l->options_init(&o, sizeof o);
    o.num_threads = 2;
    if (l->context_create(&o, &ctx) || l->llama_create(ctx, &c, &model) ||
        l->llama_get_layers(model, &layers, &count) || l->tape_create(ctx, layers, count, &t, &tape) ||
        l->llama_loss(model, tape, &batch, &loss, NULL))
        printf("%s\n", l->last_error(NULL));
    l->tape_destroy(tape);
    l->llama_destroy(model);
    l->context_destroy(ctx);
    return loss;
}

int main(int argc, char **argv) {
    const struct timespec pause = {0, 1000000};
    float first = -1.0f;
    const int rounds = argc > 2 ? ROUNDS_OF_TWO : ROUNDS;
    for (int round = 0; round < rounds; round++) {
        struct library one = {NULL}, two = {NULL};
        if (argc < 2 || library_open(&one, argv[1]) || (argc > 2 && library_open(&two, argv[2]))) return 2;
        if (argc > 2 && (one.handle == two.handle || one.context_create == two.context_create)) return 3;
        const float loss = use(&one);
        if (round == 0) first = loss;
        if (!(loss > 0.0f) || loss != first) return 4;
        if (argc > 2 && (use(&two) != first || use(&one) != first)) return 5;
        dlclose(one.handle);
        if (argc > 2) dlclose(two.handle);
        nanosleep(&pause, NULL); /* idle threads go on waiting */
    }
    return 0;
}
