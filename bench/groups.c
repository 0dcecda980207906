/* What scales of groups cost a whole model: a training step of 2 x 256 tokens, 500 tokens appended to a session, and
 * one token, by a model of 3 blocks all of whose matrices have one format, in proportion to the same with a scale per
 * row. Both turn by turn, so that they meet the same machine.
 *
 *   build/bench/groups [instruction set] [threads] [words that names contain ...] */
#include "../tests/calls.h"
#include "machine.h"

enum { LENGTH = 256, BATCH = 2, PROMPT = 500, VOCAB = 4096, ROUNDS = 9 };
enum { STEP, PREFILL, TOKEN, KINDS };
static const char *const kinds[KINDS] = {"groups step", "groups prefill 500", "groups one token"};

/* With a scale per row, and with a scale per group. */
struct side {
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_session *session;
};

static int32_t tokens[PROMPT + BATCH * LENGTH], targets[BATCH * LENGTH];
static float logits[VOCAB];

static void ok(const dqt_context *ctx, dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static void open_side(dqt_context *ctx, struct side *s, int format, size_t hidden, int group) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    const dqt_tensor_options matrix = {.struct_size = sizeof matrix,
                                       .storage = format,
                                       .scale_rule = DQT_SCALE_ABSMAX,
                                       .scale_axis = group ? DQT_AXIS_GROUP : DQT_AXIS_ROW,
                                       .group_size = group};
    c.vocab_size = VOCAB;
    c.hidden_size = hidden;
    c.intermediate_size = 1536;
    c.num_layers = 3;
    c.num_heads = hidden / 64;
    c.linear = c.embedding = c.head = matrix;
    ok(ctx, dqt_llama_create(ctx, &c, &s->model));
    dqt_layer *const *layers;
    size_t count;
    ok(ctx, dqt_llama_get_layers(s->model, &layers, &count));
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    t.max_batch = BATCH;
    t.max_length = LENGTH;
    t.no_gradient_buffers = 1;
    ok(ctx, dqt_tape_create(ctx, layers, count, &t, &s->tape));
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    u.clip = DQT_CLIP_PREVIOUS_NORM;
    ok(ctx, dqt_updater_create(ctx, layers, count, &u, &s->updater));
    ok(ctx, dqt_session_create(s->model, session_of(PROMPT + 1), &s->session));
    ok(ctx, dqt_session_append(s->session, tokens, PROMPT, NULL));
}

static void close_side(struct side *s) {
    dqt_session_destroy(s->session);
    dqt_updater_destroy(s->updater);
    dqt_tape_destroy(s->tape);
    dqt_llama_destroy(s->model);
}

static double seconds(const dqt_context *ctx, struct side *s, int kind) {
    float loss;
    if (kind != STEP) ok(ctx, dqt_session_truncate(s->session, kind == TOKEN ? PROMPT : 0));
    const double before = bench_now();
    switch (kind) {
    case STEP:
        ok(ctx, dqt_llama_loss(s->model, s->tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL));
        ok(ctx, dqt_llama_backward_update(s->model, s->tape, s->updater, step_rate(1e-4f), NULL));
        break;
    case PREFILL: ok(ctx, dqt_session_append(s->session, tokens, PROMPT, logits)); break;
    default: ok(ctx, dqt_session_append(s->session, tokens, 1, logits)); break;
    }
    return bench_now() - before;
}

static void measure(struct bench *b, int isa, int threads) {
    static const struct {
        const char *name;
        int format;
        size_t hidden;
        int group;
    } formats[] = {{"int4/32 : int4", DQT_FORMAT_INT4, 576, 32},
                   {"int8/32 : int8", DQT_FORMAT_INT8, 576, 32},
                   {"int4/128 : int4", DQT_FORMAT_INT4, 640, 128},
                   {"ternary/256 : ternary", DQT_FORMAT_TERNARY, 512, 256}};
    if (isa == DQT_ISA_SCALAR && !b->names_isa) return;
    dqt_context *ctx = machine_context(isa, threads);
    if (!ctx) return;
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        struct side sides[2];
        double times[2][ROUNDS];
        for (size_t i = 0; i < 2; i++)
            open_side(ctx, &sides[i], formats[f].format, formats[f].hidden, i ? formats[f].group : 0);
        for (int kind = 0; kind < KINDS; kind++) {
            if (!bench_wants(b, kinds[kind])) continue;
            for (int round = -1; round < ROUNDS; round++) /* the first one warms up */
                for (size_t i = 0; i < 2; i++)
                    times[i][round < 0 ? 0 : round] = seconds(ctx, &sides[i], kind);
            for (size_t i = 0; i < 2; i++)
                qsort(times[i], ROUNDS, sizeof(double), bench_compare);
            bench_line(b, kinds[kind], formats[f].name, isa, threads, times[1][ROUNDS / 2] / times[0][ROUNDS / 2],
                       times[1][0] / times[0][0], "ratio", 0);
        }
        for (size_t i = 0; i < 2; i++)
            close_side(&sides[i]);
    }
    dqt_context_destroy(ctx);
}

int main(int argc, char **argv) {
    struct bench b = bench_begin(argc, argv, false);
    for (int i = 0; i < PROMPT + BATCH * LENGTH; i++)
        tokens[i] = i * 7919 % VOCAB;
    for (int i = 0; i < BATCH * LENGTH; i++)
        targets[i] = (i + 1) * 7919 % VOCAB;
    machine_for_each(&b, measure);
    return bench_end(&b);
}
