/* Example 7, plan: what a model will cost in memory, before anything is allocated.
 *
 * Introduces: shape-only models, dqt_llama_memory, dqt_tape_memory and dqt_updater_memory: exact bytes by category for
 * each choice of format, optimiser state, fused update and recomputation; then of what 10_finetune does by itself, and
 * with --accumulate 1.
 *
 *   07_plan --hidden 2048 --ff 5461 --layers 24 --heads 32 --vocab 32000 --batch 1 --seq 512 */
#include <stdio.h>
#include <stdlib.h>

#include "args.h"
#include "dqt.h"

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

struct choice {
    const char *name;
    int32_t format, optimizer, momentum_state, variance_state;
    float beta1;
    int32_t fused, recompute, rounding; /* rounding: DQT_ROUND_* */
};

static const struct choice choices[] = {
    {"f32, AdamW", DQT_FORMAT_F32, DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_STATE_F32, 0.9f, 0, 0, 0},
    {"int8, AdamW f32 states", DQT_FORMAT_INT8, DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_STATE_F32, 0.9f, 0, 0, 0},
    {"ternary, AdamW f32 states", DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_STATE_F32, 0.9f, 0, 0, 0},
    {"  recompute activations", DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_STATE_F32, 0.9f, 0, 1, 0},
    {"  and fused: no gradients", DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_STATE_F32, 0.9f, 1, 1, 0},
    {"  and 8-bit states", DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAMW, DQT_STATE_INT8, DQT_STATE_INT8, 0.9f, 1, 1, 0},
    {"  and factored variance", DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_INT8, DQT_STATE_F32, 0.9f, 1, 1,
     0},
    {"  accumulator, no momentum", DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_F32, DQT_STATE_F32, 0.9f, 1,
     1, DQT_ROUND_ACCUMULATE},
    {"  and no momentum", DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_F32, DQT_STATE_F32, 0.0f, 1, 1, 0},
    {"  as int4, 8-bit momentum", DQT_FORMAT_INT4, DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_INT8, DQT_STATE_F32, 0.9f, 1, 1,
     0},
    {"  as int8, no momentum", DQT_FORMAT_INT8, DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_F32, DQT_STATE_F32, 0.0f, 1, 1, 0},
};

/* 10_finetune --format int4 of a plain LLaMA: the recipe's states, gradients in buffers, activations saved. */
static const struct choice tuned[] = {
    {"10_finetune, int4", DQT_FORMAT_INT4, DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_INT8, DQT_STATE_F32, 0.8f, 0, 0, 0},
    {"  --accumulate 1: fused", DQT_FORMAT_INT4, DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_INT8, DQT_STATE_F32, 0.8f, 1, 0, 0},
};

static double mib(size_t bytes) {
    return (double)bytes / 1048576.0;
}

/* A trained model as dqt_llama_open makes it: no sub-norms, float activations, a scale per row. */
static dqt_llama_config trained(const dqt_llama_config *base) {
    dqt_llama_config m = *base;
    m.no_sub_norms = 1;
    m.activation = DQT_ACTIVATION_NONE;
    m.linear.scale_axis = m.embedding.scale_axis = m.head.scale_axis = DQT_AXIS_ROW;
    return m;
}

static void plan(const dqt_llama_config *base, size_t batch, size_t length, const struct choice *c) {
    dqt_llama_config m = *base;
    m.linear.storage = c->format;
    if (c->format == DQT_FORMAT_F32) {
        m.embedding.storage = m.head.storage = DQT_FORMAT_F32;
        m.activation = DQT_ACTIVATION_NONE;
    }
    dqt_llama_memory_info mm = {.struct_size = sizeof mm};
    ok(dqt_llama_memory(ctx, &m, &mm));

    m.shape_only = 1;
    dqt_llama *model;
    dqt_layer *const *layers;
    size_t n;
    ok(dqt_llama_create(ctx, &m, &model));
    ok(dqt_llama_get_layers(model, &layers, &n));

    dqt_tape_options t;
    dqt_tape_memory_info tm = {.struct_size = sizeof tm};
    ok(dqt_tape_options_init(&t, sizeof t));
    t.max_batch = batch;
    t.max_length = length;
    t.no_gradient_buffers = c->fused;
    t.recompute = c->recompute;
    ok(dqt_tape_memory(ctx, layers, n, &t, &tm));

    dqt_updater_options u;
    dqt_updater_memory_info um = {.struct_size = sizeof um};
    ok(dqt_updater_options_init(&u, sizeof u));
    u.optimizer = c->optimizer;
    u.momentum_state = c->momentum_state;
    u.variance_state = c->variance_state;
    u.beta1 = c->beta1;
    u.rounding = c->rounding;
    if (!(u.beta1 > 0)) u.beta1 = -1; /* no first moment */
    ok(dqt_updater_memory(ctx, layers, n, &u, &um));
    dqt_llama_destroy(model);

    const size_t total = mm.total + tm.total + um.total;
    const double weights = (double)(mm.linear_weights + mm.embedding_weights + mm.head_weights);
    printf("%-27s %9.1f %9.1f %9.1f %11.1f %9.1f %9.1f %10.2f\n", c->name, mib(mm.total),
           mib(um.momentum + um.variance + um.scales), mib(tm.gradients), mib(tm.activations),
           mib(tm.workspace + tm.other + um.workspace + um.other), mib(total), (double)total / weights);
}

int main(int argc, char **argv) {
    dqt_llama_config m;
    size_t batch = 4, length = 256;
    ok(dqt_llama_config_init(&m, sizeof m));
    m.vocab_size = 32002;
    m.hidden_size = 768;
    m.intermediate_size = 2048;
    m.num_layers = 12;
    m.num_heads = 12;
    const struct arg table[] = {
        {"--vocab", ARG_SIZE, &m.vocab_size, "vocabulary", NULL},
        {"--hidden", ARG_SIZE, &m.hidden_size, "hidden size", NULL},
        {"--ff", ARG_SIZE, &m.intermediate_size, "intermediate size of the MLP", NULL},
        {"--layers", ARG_SIZE, &m.num_layers, "number of blocks", NULL},
        {"--heads", ARG_SIZE, &m.num_heads, "attention heads", NULL},
        {"--kv-heads", ARG_SIZE, &m.num_kv_heads, "key and value heads (0: as heads)", NULL},
        {"--tied", ARG_FLAG, &m.tie_embeddings, "the head uses the embedding's weight", NULL},
        {"--batch", ARG_SIZE, &batch, "sequences of a pass", NULL},
        {"--seq", ARG_SIZE, &length, "tokens per sequence", NULL},
    };
    const int stop =
        args_parse(argc, argv, table, sizeof table / sizeof *table, "Prints what training a model costs in memory.");
    if (stop) return stop - 1;
    ok(dqt_context_create(NULL, &ctx));
    dqt_llama_memory_info mm = {.struct_size = sizeof mm};
    ok(dqt_llama_memory(ctx, &m, &mm));
    printf("%.1f M linear weights, %.1f M in embedding and head; %zu x %zu tokens; MiB\n\n",
           (double)mm.linear_weights / 1e6, (double)(mm.embedding_weights + mm.head_weights) / 1e6, batch, length);
    printf("%-27s %9s %9s %9s %11s %9s %9s %10s\n", "", "weights", "state", "gradients", "activations", "scratch",
           "all", "B/weight");
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        plan(&m, batch, length, &choices[i]);
    m = trained(&m);
    for (size_t i = 0; i < sizeof tuned / sizeof *tuned; i++)
        plan(&m, batch, length, &tuned[i]);
    dqt_context_destroy(ctx);
    return 0;
}
