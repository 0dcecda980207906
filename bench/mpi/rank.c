/* What one rank of many costs, as a line of JSON: bytes by the planner, before anything is allocated; with --time also
 * seconds of forward, backward and update on this machine. predict.py and measure.py run it.
 *
 *   build/bench/mpi/rank --hidden 4096 --ff 11008 --layers 32 --heads 32 --vocab 32000 --parts 8
 *   build/bench/mpi/rank --hidden 4096 --ff 11008 --layers 32 --heads 32 --vocab 32000 --first-block 1 --num-blocks 4
 *   build/bench/mpi/rank --hidden 4096 --ff 11008 --layers 2 --heads 32 --vocab 32000 --time 3 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "args.h"
#include "dqt.h"

struct options {
    size_t vocab, hidden, intermediate, layers, heads, kv_heads, batch, length, first_block, num_blocks;
    int format, optimizer, momentum, rounding, fused, recompute, part, parts, repeats, threads;
    float beta1;
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

static dqt_llama_config config_of(const struct options *o) {
    dqt_llama_config c;
    ok(dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = o->vocab;
    c.hidden_size = o->hidden;
    c.intermediate_size = o->intermediate;
    c.num_layers = o->layers;
    c.num_heads = o->heads;
    c.num_kv_heads = o->kv_heads;
    c.linear.storage = o->format;
    c.first_block = o->first_block;
    c.num_blocks = o->num_blocks;
    return c;
}

static dqt_tape_options tape_options(const struct options *o) {
    dqt_tape_options t;
    ok(dqt_tape_options_init(&t, sizeof t));
    t.max_batch = o->batch;
    t.max_length = o->length;
    t.no_gradient_buffers = !o->fused ? 0 : o->parts > 1 ? 2 : 1; /* 2: one, which ranks exchange */
    t.recompute = o->recompute;
    return t;
}

static dqt_updater_options updater_options(const struct options *o) {
    dqt_updater_options u;
    ok(dqt_updater_options_init(&u, sizeof u));
    u.optimizer = o->optimizer;
    u.rounding = o->rounding;
    u.momentum_state = u.variance_state = o->momentum;
    u.beta1 = o->beta1;
    u.clip = o->fused ? DQT_CLIP_PREVIOUS_NORM : DQT_CLIP_GLOBAL_NORM;
    if (o->parts > 1) {
        u.part = (uint64_t)o->part;
        u.num_parts = (uint64_t)o->parts;
    }
    return u;
}

static void plan(const struct options *o) {
    dqt_llama_config c = config_of(o);
    dqt_llama_memory_info m = {.struct_size = sizeof m};
    dqt_tape_memory_info t = {.struct_size = sizeof t};
    dqt_updater_memory_info u = {.struct_size = sizeof u};
    const dqt_tape_options tape = tape_options(o);
    const dqt_updater_options updater = updater_options(o);
    dqt_llama *model;
    dqt_layer *const *layers;
    size_t n;
    ok(dqt_llama_memory(ctx, &c, &m));
    c.shape_only = 1;
    ok(dqt_llama_create(ctx, &c, &model));
    ok(dqt_llama_get_layers(model, &layers, &n));
    ok(dqt_tape_memory(ctx, layers, n, &tape, &t));
    ok(dqt_updater_memory(ctx, layers, n, &updater, &u));
    dqt_llama_destroy(model);
    printf("\"model\":{\"total\":%zu,\"linear_bytes\":%zu,\"embedding_bytes\":%zu,\"head_bytes\":%zu,"
           "\"linear_weights\":%zu,\"embedding_weights\":%zu,\"head_weights\":%zu,\"norm_weights\":%zu},",
           m.total, m.linear_bytes, m.embedding_bytes, m.head_bytes, m.linear_weights, m.embedding_weights,
           m.head_weights, m.norm_weights);
    printf("\"tape\":{\"total\":%zu,\"activations\":%zu,\"gradients\":%zu,\"workspace\":%zu},", t.total, t.activations,
           t.gradients, t.workspace);
    printf("\"updater\":{\"total\":%zu,\"momentum\":%zu,\"variance\":%zu,\"workspace\":%zu}", u.total, u.momentum,
           u.variance, u.workspace);
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *seconds, int count) {
    qsort(seconds, (size_t)count, sizeof *seconds, compare);
    return seconds[count / 2];
}

/* Medians of forward with loss (and with setting gradients to 0), of backward and, where gradients are kept, of the
 * update. */
static void measure(const struct options *o) {
    enum { PHASES = 3 };
    const dqt_llama_config c = config_of(o);
    const dqt_tape_options to = tape_options(o);
    const dqt_updater_options uo = updater_options(o);
    const size_t tokens = o->batch * o->length;
    const dqt_step_options step = {.struct_size = sizeof step, .learning_rate = 1e-4f};
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_layer *const *layers;
    size_t n;
    ok(dqt_llama_create(ctx, &c, &model));
    ok(dqt_llama_get_layers(model, &layers, &n));
    ok(dqt_tape_create(ctx, layers, n, &to, &tape));
    ok(dqt_updater_create(ctx, layers, n, &uo, &updater));
    int32_t *ids = calloc(2 * tokens, sizeof *ids);
    double *seconds[PHASES];
    for (int p = 0; p < PHASES; p++)
        seconds[p] = calloc((size_t)o->repeats, sizeof **seconds);
    if (!ids || !seconds[0] || !seconds[1] || !seconds[2]) exit(1);
    for (size_t i = 0; i < tokens; i++) {
        ids[i] = (int32_t)(i * 7919 % o->vocab);
        ids[tokens + i] = (int32_t)((i + 1) * 7919 % o->vocab);
    }
    const dqt_batch batch = {
        .struct_size = sizeof batch, .batch = o->batch, .length = o->length, .tokens = ids, .targets = ids + tokens};
    float loss;
    for (int r = -1; r < o->repeats; r++) { /* the first one touches all memory */
        double at[PHASES + 1] = {now()};
        if (!o->fused) ok(dqt_tape_zero_gradients(tape));
        ok(dqt_llama_loss(model, tape, &batch, &loss, NULL));
        at[1] = now();
        ok(o->fused ? dqt_llama_backward_update(model, tape, updater, &step, NULL)
                    : dqt_llama_backward(model, tape, 1.0f));
        at[2] = now();
        if (!o->fused) ok(dqt_updater_step(updater, tape, &step, NULL));
        at[3] = now();
        for (int p = 0; p < PHASES && r >= 0; p++)
            seconds[p][r] = at[p + 1] - at[p];
    }
    printf(",\"seconds\":{\"forward\":%.6f,\"backward\":%.6f,\"update\":%.6f}", median(seconds[0], o->repeats),
           median(seconds[1], o->repeats), o->fused ? 0.0 : median(seconds[2], o->repeats));
    for (int p = 0; p < PHASES; p++)
        free(seconds[p]);
    free(ids);
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_llama_destroy(model);
}

int main(int argc, char **argv) {
    struct options o = {.vocab = 32000,
                        .hidden = 768,
                        .intermediate = 2048,
                        .layers = 12,
                        .heads = 12,
                        .batch = 4,
                        .length = 256,
                        .format = DQT_FORMAT_TERNARY,
                        .optimizer = DQT_OPTIMIZER_ADAMW,
                        .parts = 1};
    const struct arg table[] = {
        {"--vocab", ARG_SIZE, &o.vocab, "vocabulary", NULL},
        {"--hidden", ARG_SIZE, &o.hidden, "hidden size", NULL},
        {"--ff", ARG_SIZE, &o.intermediate, "intermediate size of the MLP", NULL},
        {"--layers", ARG_SIZE, &o.layers, "number of blocks", NULL},
        {"--heads", ARG_SIZE, &o.heads, "attention heads", NULL},
        {"--kv-heads", ARG_SIZE, &o.kv_heads, "key and value heads (0: as heads)", NULL},
        {"--batch", ARG_SIZE, &o.batch, "sequences in a micro-batch", NULL},
        {"--seq", ARG_SIZE, &o.length, "tokens in a sequence", NULL},
        {"--format", ARG_CHOICE, &o.format, "of linear weights", FORMAT_CHOICES},
        {"--optimizer", ARG_CHOICE, &o.optimizer, "", "sgd=1 adamw=2 adafactor=3"},
        {"--state", ARG_CHOICE, &o.momentum, "of the moments", "f32=0 bf16=1 int8=2"},
        {"--rounding", ARG_CHOICE, &o.rounding, "", "default=0 sr=1 eco=3 accumulate=5"},
        {"--beta1", ARG_FLOAT, &o.beta1, "negative: no first moment", NULL},
        {"--fused", ARG_FLAG, &o.fused, "the update inside backward: no gradient buffers, or one where there are parts",
         NULL},
        {"--recompute", ARG_FLAG, &o.recompute, "blocks save their input alone", NULL},
        {"--first-block", ARG_SIZE, &o.first_block, "the first block of a partial model", NULL},
        {"--num-blocks", ARG_SIZE, &o.num_blocks, "so many blocks (0: all that follow)", NULL},
        {"--part", ARG_INT, &o.part, "the updater's part", NULL},
        {"--parts", ARG_INT, &o.parts, "of so many", NULL},
        {"--time", ARG_INT, &o.repeats, "measure so many steps, of a whole model", NULL},
        {"--threads", ARG_INT, &o.threads, "of this process (0: as many as there are)", NULL},
    };
    const int answer = args_parse(argc, argv, table, sizeof table / sizeof *table, "What one rank of many costs.");
    if (answer) return answer - 1;
    dqt_context_options c;
    ok(dqt_context_options_init(&c, sizeof c));
    c.num_threads = o.threads;
    ok(dqt_context_create(&c, &ctx));
    printf("{\"isa\":%d,\"threads\":%d,", dqt_context_isa(ctx), dqt_context_num_threads(ctx));
    plan(&o);
    if (o.repeats > 0) measure(&o);
    printf("}\n");
    dqt_context_destroy(ctx);
    return 0;
}
