/* What DQT_PRECISION_AUTO goes by (isa/isa_*.c, integer_gradients): fused steps of the 134 M model of step.c, 4 x 256
 * tokens, one thread, with INT8 gradients and with those of floats, in turn. Processor time of the process, so that
 * neighbours disturb little; by format of the linear weights.
 *
 *   [DQT_ISA=...] build/bench/precision [rounds [layers]]      default: 5 rounds, 12 layers */
#include "../tests/calls.h"
#include "bench.h"

enum { BATCH = 4, LENGTH = 256, TOKENS = BATCH * LENGTH, MOST_ROUNDS = 99 };

static const int32_t precisions[] = {DQT_PRECISION_INT8, DQT_PRECISION_BF16, DQT_PRECISION_F32};
enum { PRECISIONS = sizeof precisions / sizeof *precisions };

struct trained {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_updater *updater;
    dqt_tape *tape[PRECISIONS];
    int32_t tokens[TOKENS], targets[TOKENS];
};

static void ok(const dqt_context *ctx, dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static void open_all(struct trained *t, int32_t format, size_t blocks) {
    dqt_context_options o;
    dqt_llama_config c;
    dqt_updater_options u;
    dqt_layer *const *layers;
    size_t count;
    for (int i = 0; i < TOKENS; i++) {
        t->tokens[i] = i * 7919 % 32002;
        t->targets[i] = (i + 1) * 7919 % 32002;
    }
    ok(NULL, dqt_context_options_init(&o, sizeof o));
    o.num_threads = 1;
    ok(NULL, dqt_context_create(&o, &t->ctx));
    ok(t->ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 32002;
    c.hidden_size = 768;
    c.intermediate_size = 2048;
    c.num_layers = blocks;
    c.num_heads = 12;
    c.linear.storage = format;
    ok(t->ctx, dqt_llama_create(t->ctx, &c, &t->model));
    ok(t->ctx, dqt_llama_get_layers(t->model, &layers, &count));
    ok(t->ctx, dqt_updater_options_init(&u, sizeof u));
    u.clip = DQT_CLIP_PREVIOUS_NORM;
    ok(t->ctx, dqt_updater_create(t->ctx, layers, count, &u, &t->updater));
    for (int i = 0; i < PRECISIONS; i++) {
        dqt_tape_options to;
        ok(t->ctx, dqt_tape_options_init(&to, sizeof to));
        to.max_batch = BATCH;
        to.max_length = LENGTH;
        to.no_gradient_buffers = 1;
        to.precision = precisions[i];
        ok(t->ctx, dqt_tape_create(t->ctx, layers, count, &to, &t->tape[i]));
    }
}

static void close_all(struct trained *t) {
    for (int i = 0; i < PRECISIONS; i++)
        dqt_tape_destroy(t->tape[i]);
    dqt_updater_destroy(t->updater);
    dqt_llama_destroy(t->model);
    dqt_context_destroy(t->ctx);
}

/* Seconds of processor time of one step. */
static double step(struct trained *t, dqt_tape *tape) {
    float loss;
    const clock_t begin = clock();
    ok(t->ctx, dqt_llama_loss(t->model, tape, batch_pairs(t->tokens, t->targets, BATCH, LENGTH), &loss, NULL));
    ok(t->ctx, dqt_llama_backward_update(t->model, tape, t->updater, step_rate(1e-4f), NULL));
    return (double)(clock() - begin) / CLOCKS_PER_SEC;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *name, int32_t format, int rounds, size_t blocks) {
    static struct trained t;
    static double seconds[PRECISIONS][MOST_ROUNDS];
    open_all(&t, format, blocks);
    for (int round = -1; round < rounds; round++) /* the first touches all memory and does not count */
        for (int i = 0; i < PRECISIONS; i++) {
            const double s = step(&t, t.tape[i]);
            if (round >= 0) seconds[i][round] = s;
        }
    printf("%-8s %-8s", bench_isa_name(dqt_context_isa(t.ctx)), name);
    for (int i = 0; i < PRECISIONS; i++) {
        qsort(seconds[i], (size_t)rounds, sizeof **seconds, by_value);
        printf(" %8.3f %8.3f", seconds[i][0], seconds[i][rounds / 2]);
    }
    printf(" %7.2f %7.2f\n", seconds[1][rounds / 2] / seconds[0][rounds / 2],
           seconds[2][rounds / 2] / seconds[0][rounds / 2]);
    fflush(stdout);
    close_all(&t);
}

int main(int argc, char **argv) {
    const int rounds = argc > 1 ? atoi(argv[1]) : 5;
    const int blocks = argc > 2 ? atoi(argv[2]) : 12;
    if (rounds < 1 || rounds > MOST_ROUNDS || blocks < 1) return 2;
    printf("processor seconds a step, least and median; medians in proportion to INT8's\n%-8s %-8s %17s %17s %17s %7s "
           "%7s\n",
           "isa", "weights", "INT8", "BF16", "F32", "BF16", "F32");
    measure("ternary", DQT_FORMAT_TERNARY, rounds, (size_t)blocks);
    measure("int4", DQT_FORMAT_INT4, rounds, (size_t)blocks);
    measure("int8", DQT_FORMAT_INT8, rounds, (size_t)blocks);
    return 0;
}
