/* Example 2, own network: a classifier that the host composes from layers, without the LLaMA graph.
 *
 * Introduces: dqt_layer, dqt_tape (activations and gradients of a list of layers), dqt_updater, forward and backward
 * layer by layer, ternary weights that learn. The task: two interleaved spirals, two classes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dqt.h"

enum { FEATURES = 16, HIDDEN = 64, INTERMEDIATE = 128, CLASSES = 2, BATCH = 128, STEPS = 300 };

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

/* A point on a spiral, given to the network as sines and cosines of its coordinates. */
static int32_t spiral_point(float *x) {
    const int32_t class = rand() % 2;
    const double turn = 0.25 + 1.5 * (double)rand() / RAND_MAX, angle = 6.2831853 * turn + 3.14159265 * class;
    const double at[2] = {turn * cos(angle), turn * sin(angle)};
    for (int i = 0; i < FEATURES; i++) {
        const double phase = at[i % 2] * (1 + i / 4) * 1.5;
        x[i] = (float)(i / 2 % 2 ? cos(phase) : sin(phase));
    }
    return class;
}

/* The network: linear -> RMSNorm -> MLP (added to its input) -> head. */
struct network {
    dqt_layer *layers[4]; /* linear, norm, mlp, head */
    dqt_tape *tape;
    float h[BATCH * HIDDEN], n[BATCH * HIDDEN], m[BATCH * HIDDEN], d[BATCH * HIDDEN], dn[BATCH * HIDDEN];
};

static void create(struct network *net) {
    dqt_layer_options o;
    ok(dqt_layer_options_init(&o, sizeof o)); /* ternary weights, int8 activations */
    o.init_std = 0.1f;
    ok(dqt_linear_create(ctx, FEATURES, HIDDEN, &o, &net->layers[0]));
    ok(dqt_rmsnorm_create(ctx, HIDDEN, &o, &net->layers[1]));
    ok(dqt_mlp_create(ctx, HIDDEN, INTERMEDIATE, &o, &net->layers[2]));
    ok(dqt_head_create(ctx, NULL, HIDDEN, CLASSES, &o, &net->layers[3]));
    dqt_tape_options t;
    ok(dqt_tape_options_init(&t, sizeof t));
    t.max_batch = BATCH; /* independent samples: BATCH sequences of one token */
    t.max_length = 1;
    ok(dqt_tape_create(ctx, net->layers, 4, &t, &net->tape));
}

static float forward(struct network *net, const float *x, const int32_t *classes, float *losses) {
    float loss;
    dqt_batch b = DQT_INIT(dqt_batch);
    b.batch = BATCH;
    b.length = 1;
    b.targets = classes;
    ok(dqt_layer_forward(net->layers[0], net->tape, &b, x, net->h));
    ok(dqt_layer_forward(net->layers[1], net->tape, &b, net->h, net->n));
    ok(dqt_layer_forward(net->layers[2], net->tape, &b, net->n, net->m));
    for (int i = 0; i < BATCH * HIDDEN; i++)
        net->m[i] += net->n[i];
    ok(dqt_head_loss(net->layers[3], net->tape, &b, net->m, &loss, losses));
    return loss;
}

static void backward(struct network *net) {
    ok(dqt_tape_zero_gradients(net->tape));
    ok(dqt_head_backward(net->layers[3], net->tape, 1.0f, net->d));
    ok(dqt_layer_backward(net->layers[2], net->tape, net->d, net->dn));
    for (int i = 0; i < BATCH * HIDDEN; i++)
        net->d[i] += net->dn[i];
    ok(dqt_layer_backward(net->layers[1], net->tape, net->d, net->dn));
    ok(dqt_layer_backward(net->layers[0], net->tape, net->dn, NULL));
}

int main(void) {
    static struct network net;
    static float x[BATCH * FEATURES], losses[BATCH];
    static int32_t classes[BATCH];
    ok(dqt_context_create(NULL, &ctx));
    create(&net);
    dqt_updater_options o;
    ok(dqt_updater_options_init(&o, sizeof o));
    dqt_updater *updater;
    ok(dqt_updater_create(ctx, net.layers, 4, &o, &updater));

    srand(1);
    for (int step = 0; step <= STEPS; step++) {
        for (int b = 0; b < BATCH; b++)
            classes[b] = spiral_point(x + b * FEATURES);
        const float loss = forward(&net, x, classes, losses);
        if (step % 50 == 0) {
            int right = 0; /* with two classes a loss below ln 2 means the right one is likelier */
            for (int b = 0; b < BATCH; b++)
                right += losses[b] < 0.6931472f;
            printf("step %4d: loss %.4f, %5.1f %% of new points right\n", step, (double)loss, 100.0 * right / BATCH);
        }
        if (step == STEPS) break;
        backward(&net);
        dqt_step_options s = DQT_INIT(dqt_step_options);
        s.learning_rate = dqt_schedule_cosine((uint64_t)step, 20, STEPS, 2e-2f, 0.0f);
        ok(dqt_updater_step(updater, net.tape, &s, NULL));
    }
    dqt_updater_destroy(updater);
    dqt_tape_destroy(net.tape);
    for (int i = 0; i < 4; i++)
        dqt_layer_destroy(net.layers[i]);
    dqt_context_destroy(ctx);
    return 0;
}
