/* Example 14, own transformer: embedding, blocks, norm and head composed by the host, trained with soft targets and the
 * update inside backward, without gradient buffers; saved in the middle and resumed by new objects: the same bytes as
 * of the run that never stopped.
 *
 * Introduces: dqt_tape_begin_update and dqt_tape_end_update, dqt_head_backward_logits, dqt_layers_save and
 * dqt_layers_load. The programs of this name in cpp/, rust/, zig/ and python/ write the same files.
 *
 * usage: 14_own_transformer FOLDER (gets whole.dqt, half.dqt and resumed.dqt) */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dqt.h"

enum { VOCAB = 64, HIDDEN = 32, BLOCKS = 2, LAYERS = BLOCKS + 3, BATCH = 2, LENGTH = 16, TOKENS = BATCH * LENGTH };
enum { STEPS = 12, HALF = STEPS / 2 };

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

struct network {
    dqt_layer *layers[LAYERS]; /* embedding, blocks, norm, head */
    dqt_tape *tape;
    dqt_updater *updater;
};

static void create(struct network *n, uint64_t seed) {
    dqt_layer_options o = DQT_INIT(dqt_layer_options); /* ternary weights, int8 activations */
    o.seed = seed;
    for (int i = 1; i <= BLOCKS; i++) {
        dqt_layer_options b = o;
        char name[16]; /* parameters are saved by name */
        snprintf(name, sizeof name, "blocks.%d", i - 1);
        b.name = name;
        if (i == BLOCKS) { /* the last: int4 with a scale for each 32 columns */
            b.weight.storage = DQT_FORMAT_INT4;
            b.weight.scale_axis = DQT_AXIS_GROUP;
            b.weight.group_size = 32;
        }
        ok(dqt_block_create(ctx, HIDDEN, 2 * HIDDEN, 4, 2, &b, &n->layers[i]));
    }
    ok(dqt_rmsnorm_create(ctx, HIDDEN, &o, &n->layers[BLOCKS + 1]));
    o.weight.storage = DQT_FORMAT_INT8;
    ok(dqt_embedding_create(ctx, VOCAB, HIDDEN, &o, &n->layers[0]));
    ok(dqt_head_create(ctx, NULL, HIDDEN, VOCAB, &o, &n->layers[BLOCKS + 2]));

    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    t.max_batch = BATCH;
    t.max_length = LENGTH;
    t.no_gradient_buffers = 1;
    t.recompute = 1;
    t.checkpoint_format = DQT_FLOAT_BF16; /* with random numbers by the tape's pass, which is saved */
    t.seed = 1;
    ok(dqt_tape_create(ctx, n->layers, LAYERS, &t, &n->tape));

    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    u.momentum_state = u.variance_state = DQT_STATE_INT8;
    u.clip = DQT_CLIP_PREVIOUS_NORM;
    u.seed = 1;
    ok(dqt_updater_create(ctx, n->layers, LAYERS, &u, &n->updater));
}

static void destroy(struct network *n) {
    dqt_updater_destroy(n->updater);
    dqt_tape_destroy(n->tape);
    for (int i = 0; i < LAYERS; i++)
        dqt_layer_destroy(n->layers[i]);
}

/* The soft target of a token: the one 7 further, and a little of its neighbours. */
static double target(int32_t token, int class) {
    switch ((class - token - 7 + 2 * VOCAB) % VOCAB) {
    case 0: return 0.9;
    case 1:
    case VOCAB - 1: return 0.05;
    default: return 0;
    }
}

/* Mean cross-entropy against the targets; logits[TOKENS][VOCAB] become its gradient. */
static double soft_loss(const int32_t *tokens, float *logits) {
    double loss = 0;
    for (int t = 0; t < TOKENS; t++) {
        float *x = logits + t * VOCAB;
        double sum = 0;
        for (int c = 0; c < VOCAB; c++)
            sum += exp((double)x[c]);
        for (int c = 0; c < VOCAB; c++) {
            const double q = target(tokens[t], c);
            loss += q * (log(sum) - (double)x[c]) / TOKENS;
            x[c] = (float)((exp((double)x[c]) / sum - q) / TOKENS);
        }
    }
    return loss;
}

static void train(struct network *n, int from, int to) {
    static float x[TOKENS * HIDDEN], logits[TOKENS * VOCAB];
    int32_t tokens[TOKENS];
    dqt_batch b = DQT_INIT(dqt_batch);
    b.batch = BATCH;
    b.length = LENGTH;
    b.tokens = tokens;
    for (int step = from; step < to; step++) {
        for (int i = 0; i < TOKENS; i++)
            tokens[i] = (7 * i + 3 * step) % VOCAB;
        ok(dqt_embedding_forward(n->layers[0], n->tape, &b, x));
        for (int i = 1; i <= BLOCKS + 1; i++)
            ok(dqt_layer_forward(n->layers[i], n->tape, &b, x, x));
        ok(dqt_head_logits(n->layers[BLOCKS + 2], n->tape, &b, x, logits));
        printf("step %2d: loss %.6f\n", step, soft_loss(tokens, logits));

        dqt_step_options s = DQT_INIT(dqt_step_options);
        dqt_logits_gradient g = DQT_INIT(dqt_logits_gradient);
        s.learning_rate = dqt_schedule_cosine((uint64_t)step, 2, STEPS, 0.02f, 0.1f);
        g.dlogits = logits;
        ok(dqt_tape_begin_update(n->tape, n->updater, &s));
        ok(dqt_head_backward_logits(n->layers[BLOCKS + 2], n->tape, &g, x));
        for (int i = BLOCKS + 1; i >= 1; i--)
            ok(dqt_layer_backward(n->layers[i], n->tape, x, x));
        ok(dqt_embedding_backward(n->layers[0], n->tape, x));
        ok(dqt_tape_end_update(n->tape, NULL));
    }
}

/* The host's own bytes are the steps done, as text. */
static void save(const struct network *n, const char *path, int steps) {
    char text[16];
    dqt_save_options o = DQT_INIT(dqt_save_options);
    o.host_size = (size_t)snprintf(text, sizeof text, "%d", steps);
    o.host = text;
    o.tape = n->tape;
    ok(dqt_layers_save(n->layers, LAYERS, n->updater, path, &o));
}

/* Into a network that has been created alike. Returns the steps done. */
static int load(struct network *n, const char *path) {
    char text[16] = {0};
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    ok(dqt_layers_load(n->layers, LAYERS, n->updater, path, NULL, &c));
    if (c.host) memcpy(text, c.host, c.host_size < sizeof text ? c.host_size : sizeof text - 1);
    dqt_host_bytes_free(ctx, c.host, c.host_size);
    ok(dqt_tape_set_pass(n->tape, c.passes));
    return atoi(text);
}

static int same_files(const char *a, const char *b) {
    FILE *f = fopen(a, "rb"), *g = fopen(b, "rb");
    int x = EOF, y = 0;
    while (f && g && (x = getc(f)) == (y = getc(g)) && x != EOF) {
    }
    if (f) fclose(f);
    if (g) fclose(g);
    return x == EOF && y == EOF;
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: 14_own_transformer FOLDER\n"), 2;
    char whole[512], half[512], resumed[512];
    snprintf(whole, sizeof whole, "%s/whole.dqt", argv[1]);
    snprintf(half, sizeof half, "%s/half.dqt", argv[1]);
    snprintf(resumed, sizeof resumed, "%s/resumed.dqt", argv[1]);
    struct network n;
    ok(dqt_context_create(NULL, &ctx));

    create(&n, 1);
    train(&n, 0, HALF);
    save(&n, half, HALF);
    train(&n, HALF, STEPS);
    save(&n, whole, STEPS);
    destroy(&n);

    create(&n, 2); /* other weights, which loading replaces */
    const int done = load(&n, half);
    train(&n, done, STEPS);
    save(&n, resumed, STEPS);
    destroy(&n);
    dqt_context_destroy(ctx);

    if (!same_files(whole, resumed)) return fprintf(stderr, "%s and %s differ\n", whole, resumed), 1;
    printf("resumed after step %d: the same bytes\n", done);
    return 0;
}
