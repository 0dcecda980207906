/* Peak resident memory of real training steps: each configuration in its own process for 3 steps.
 *
 *   build/bench/memory            runs all configurations, prints a table, appends JSON lines to build/bench.jsonl
 *   build/bench/memory NAME       runs one in this process and prints its figures */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../tests/calls.h"
#include "bench.h"
#include "dqt.h"

enum { STEPS = 3 };

struct configuration {
    const char *name, *what;
    size_t vocab, hidden, intermediate, layers, heads, batch, length;
    int format, optimizer, rounding, momentum_state, embedding_format;
    float beta1;
    int fused, recompute, gradient_format;
    size_t limit_mib; /* what the project promises; 0: nothing */
};

static const struct configuration list[] = {
    {"134M-fused", "134 M, ternary ECO, Adafactor + 8-bit momentum, fused", 32002, 768, 2048, 12, 12, 4, 256,
     DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, DQT_STATE_INT8, DQT_FORMAT_INT8, 0.8f, 1, 1,
     DQT_FLOAT_F32, 420},
    {"134M-fused-saved", "the same, activations saved instead of recomputed", 32002, 768, 2048, 12, 12, 4, 256,
     DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, DQT_STATE_INT8, DQT_FORMAT_INT8, 0.8f, 1, 0,
     DQT_FLOAT_F32, 0},
    {"134M-unfused", "the same, gradients in memory", 32002, 768, 2048, 12, 12, 4, 256, DQT_FORMAT_TERNARY,
     DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, DQT_STATE_INT8, DQT_FORMAT_INT8, 0.8f, 0, 0, DQT_FLOAT_F32, 0},
    {"134M-adamw", "134 M, ternary SR, AdamW with f32 states, unfused, bf16 gradients", 32002, 768, 2048, 12, 12, 4,
     256, DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, DQT_STATE_F32, DQT_FORMAT_INT8, 0.9f, 0, 1,
     DQT_FLOAT_BF16, 1600},
    {"134M-adamw-f32", "the same, f32 gradients", 32002, 768, 2048, 12, 12, 4, 256, DQT_FORMAT_TERNARY,
     DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, DQT_STATE_F32, DQT_FORMAT_INT8, 0.9f, 0, 1, DQT_FLOAT_F32, 0},
    {"1.2B-momentum", "1.2 B linear weights, ternary ECO, factored + 8-bit momentum", 32000, 2048, 5461, 24, 32, 1, 512,
     DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, DQT_STATE_INT8, DQT_FORMAT_INT8, 0.8f, 1, 1,
     DQT_FLOAT_F32, 2048},
    {"1.2B-int8", "1.2 B, int8 SR, factored, no momentum", 32000, 2048, 5461, 24, 32, 1, 512, DQT_FORMAT_INT8,
     DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, DQT_STATE_F32, DQT_FORMAT_INT8, 0.0f, 1, 1, DQT_FLOAT_F32, 1638},
    {"1.2B-ternary", "1.2 B, ternary SR, factored, no momentum", 32000, 2048, 5461, 24, 32, 1, 512, DQT_FORMAT_TERNARY,
     DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, DQT_STATE_F32, DQT_FORMAT_INT8, 0.0f, 1, 1, DQT_FLOAT_F32, 768},
};

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct parts {
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    double linear_weights, state_bytes; /* codes, scales and optimiser state of all weights */
};

static struct parts create(const struct configuration *c) {
    struct parts p;
    dqt_llama_config m;
    dqt_llama_memory_info mm = {.struct_size = sizeof mm};
    ok(dqt_llama_config_init(&m, sizeof m));
    m.vocab_size = c->vocab;
    m.hidden_size = c->hidden;
    m.intermediate_size = c->intermediate;
    m.num_layers = c->layers;
    m.num_heads = c->heads;
    m.linear.storage = c->format;
    m.linear.scale_rule = c->format == DQT_FORMAT_INT8 ? DQT_SCALE_SIGMA : DQT_SCALE_ABSMEAN;
    m.embedding.storage = m.head.storage = c->embedding_format;
    ok(dqt_llama_create(ctx, &m, &p.model));
    ok(dqt_llama_memory(ctx, &m, &mm));

    dqt_layer *const *layers;
    size_t n;
    ok(dqt_llama_get_layers(p.model, &layers, &n));
    dqt_tape_options t;
    ok(dqt_tape_options_init(&t, sizeof t));
    t.max_batch = c->batch;
    t.max_length = c->length;
    t.no_gradient_buffers = !(!c->fused);
    t.gradient_format = c->gradient_format;
    t.recompute = c->recompute;
    t.checkpoint_format = c->recompute ? DQT_FLOAT_BF16 : DQT_FLOAT_F32;
    ok(dqt_tape_create(ctx, layers, n, &t, &p.tape));

    dqt_updater_options u;
    dqt_updater_memory_info um = {.struct_size = sizeof um};
    ok(dqt_updater_options_init(&u, sizeof u));
    u.optimizer = c->optimizer;
    u.rounding = c->rounding;
    u.momentum_state = c->momentum_state;
    u.beta1 = c->beta1;
    u.clip = c->fused ? DQT_CLIP_PREVIOUS_NORM : DQT_CLIP_GLOBAL_NORM;
    ok(dqt_updater_create(ctx, layers, n, &u, &p.updater));
    ok(dqt_updater_memory(ctx, layers, n, &u, &um));
    p.linear_weights = (double)mm.linear_weights;
    p.state_bytes =
        (double)(mm.linear_bytes + mm.embedding_bytes + mm.head_bytes + um.momentum + um.variance + um.scales) /
        (double)(mm.linear_weights + mm.embedding_weights + mm.head_weights);
    return p;
}

/* One text for all steps: the loss must fall. */
static int run(const struct configuration *c) {
    ok(dqt_context_create(NULL, &ctx));
    struct parts p = create(c);
    const size_t tokens = c->batch * c->length;
    int32_t *x = malloc(2 * tokens * sizeof *x), *y = x + tokens;
    if (!x) return 1;
    for (size_t i = 0; i < tokens; i++) {
        x[i] = (int32_t)(i * 7919 % c->vocab);
        y[i] = (int32_t)((i + 1) * 7919 % c->vocab);
    }
    float loss[STEPS + 1];
    double seconds[STEPS];
    for (int s = 0; s < STEPS; s++) {
        const double start = now();
        ok(dqt_llama_loss(p.model, p.tape, batch_pairs(x, y, c->batch, c->length), &loss[s], NULL));
        if (c->fused) {
            ok(dqt_llama_backward_update(p.model, p.tape, p.updater, step_rate(2e-3f), NULL));
        } else {
            ok(dqt_tape_zero_gradients(p.tape));
            ok(dqt_llama_backward(p.model, p.tape, 1.0f));
            ok(dqt_updater_step(p.updater, p.tape, step_rate(2e-3f), NULL));
        }
        seconds[s] = now() - start;
    }
    ok(dqt_llama_loss(p.model, p.tape, batch_pairs(x, y, c->batch, c->length), &loss[STEPS], NULL));
    const double best = seconds[1] < seconds[2] ? seconds[1] : seconds[2];
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%.1f %.4f %.1f %.4f %.4f %.0f %d %d\n", (double)usage.ru_maxrss / 1024.0, p.state_bytes,
           (double)tokens / best, (double)loss[0], (double)loss[STEPS], p.linear_weights, dqt_context_isa(ctx),
           dqt_context_num_threads(ctx));
    free(x);
    dqt_updater_destroy(p.updater);
    dqt_tape_destroy(p.tape);
    dqt_llama_destroy(p.model);
    dqt_context_destroy(ctx);
    return loss[STEPS] < loss[0] ? 0 : 1;
}

/* Runs this program for one configuration and reads its line. */
static int measure(const char *self, const struct configuration *c, FILE *json) {
    char command[1024];
    snprintf(command, sizeof command, "%s %s", self, c->name);
    FILE *child = popen(command, "r");
    double rss = 0, state = 0, rate = 0, before = 0, after = 0, weights = 0;
    int isa = 0, threads = 0;
    const int read = child ? fscanf(child, "%lf %lf %lf %lf %lf %lf %d %d", &rss, &state, &rate, &before, &after,
                                    &weights, &isa, &threads)
                           : 0;
    const int status = child ? pclose(child) : -1;
    if (read != 8 || status != 0) {
        printf("%-18s failed\n", c->name);
        return 1;
    }
    char limit[32] = "-";
    if (c->limit_mib) snprintf(limit, sizeof limit, "%zu", c->limit_mib);
    printf("%-18s %8.0f %8s %8.2f %9.0f   %.3f -> %.3f   %s\n", c->name, rss, limit, state, rate, before, after,
           c->what);
    fflush(stdout);
    if (json)
        fprintf(
            json,
            "{\"name\":\"memory %s\",\"shape\":\"%zux%zu "
            "tokens\",\"isa\":\"%s\",\"threads\":%d,\"median\":%.1f,\"min\":%.1f,"
            "\"unit\":\"MiB\",\"fraction_of_limit\":%.3f,\"state_bytes_per_weight\":%.4f,\"tokens_per_second\":%.1f}\n",
            c->name, c->batch, c->length, bench_isa_name(isa), threads, rss, rss,
            c->limit_mib ? rss / (double)c->limit_mib : 0.0, state, rate);
    return c->limit_mib && rss > (double)c->limit_mib;
}

int main(int argc, char **argv) {
    const size_t count = sizeof list / sizeof *list;
    if (argc > 1) {
        for (size_t i = 0; i < count; i++)
            if (strcmp(list[i].name, argv[1]) == 0) return run(&list[i]);
        fprintf(stderr, "unknown configuration %s\n", argv[1]);
        return 2;
    }
    FILE *json = fopen("build/bench.jsonl", "a");
    int over = 0;
    printf("%-18s %8s %8s %8s %9s   %s\n", "configuration", "RSS MiB", "limit", "state B/w", "tokens/s", "loss");
    for (size_t i = 0; i < count; i++)
        over += measure(argv[0], &list[i], json);
    if (json) fclose(json);
    return over ? 1 : 0;
}
