/* Example 13, own losses: label smoothing, distillation from a larger model, and a policy gradient with the advantages
 * of a group (GRPO, arXiv 2402.03300), without a matrix of tokens x vocabulary in the student.
 *
 * Introduces: dqt_llama_backward_logits with a function that turns tiles of logits into gradients; weights and divisor
 * of a batch. tests/test_losses.c compares the gradients of all three with finite differences. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dqt.h"

enum { VOCAB = 96, BATCH = 4, LENGTH = 16, TOKENS = BATCH * LENGTH, STEPS = 60 };

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

/* ---- Label smoothing: a share of every target's probability goes to all classes alike ---- */

struct smoothing {
    const int32_t *targets; /* [TOKENS] */
    double share;
};

/* Mean cross-entropy of softmax(x) against the smoothed targets: its gradient is (p - target) / TOKENS. */
static int32_t smoothing_gradient(void *user_data, const dqt_logits_tile *tile) {
    const struct smoothing *s = user_data;
    for (size_t t = 0; t < tile->num_tokens; t++)
        for (size_t c = 0; c < tile->num_classes; c++) {
            float *x = &tile->logits[t * tile->ld + c];
            const int hit = (size_t)s->targets[tile->first_token + t] == tile->first_class + c;
            const double target = (1 - s->share) * hit + s->share / VOCAB;
            *x = (float)((exp((double)(*x - tile->log_sum_exp[t])) - target) / TOKENS);
        }
    return 0; /* anything else would end backward */
}

/* ---- Distillation: the teacher's probabilities are the targets (Hinton et al. 2015) ---- */

struct distillation {
    const float *teacher; /* its logits, [TOKENS][VOCAB] */
};

static double log_sum_exp(const float *logits) {
    double sum = 0;
    for (int c = 0; c < VOCAB; c++)
        sum += exp((double)logits[c]);
    return log(sum);
}

/* Mean divergence of the student from the teacher: its gradient is (p - q) / TOKENS. */
static int32_t distillation_gradient(void *user_data, const dqt_logits_tile *tile) {
    const struct distillation *d = user_data;
    for (size_t t = 0; t < tile->num_tokens; t++) {
        const float *teacher = d->teacher + (tile->first_token + t) * VOCAB;
        const double sum = log_sum_exp(teacher);
        for (size_t c = 0; c < tile->num_classes; c++) {
            float *x = &tile->logits[t * tile->ld + c];
            const double q = exp((double)teacher[tile->first_class + c] - sum);
            *x = (float)((exp((double)(*x - tile->log_sum_exp[t])) - q) / TOKENS);
        }
    }
    return 0;
}

/* ---- Policy gradient: tokens of a sampled sequence weigh as much as its reward is above the group's mean ---- */

/* weights[BATCH][LENGTH]: (reward - mean) / deviation, of the cross-entropy; with divisor TOKENS, for they sum to 0. */
static void group_advantages(const float *rewards, float *weights) {
    double mean = 0, square = 0;
    for (int b = 0; b < BATCH; b++)
        mean += (double)rewards[b] / BATCH;
    for (int b = 0; b < BATCH; b++)
        square += ((double)rewards[b] - mean) * ((double)rewards[b] - mean) / BATCH;
    for (int t = 0; t < TOKENS; t++)
        weights[t] = (float)(((double)rewards[t / LENGTH] - mean) / (sqrt(square) + 1e-6));
}

/* ---- All three ---- */

struct losses {
    dqt_llama *model, *teacher;
    dqt_tape *tape, *teacher_tape;
    int32_t tokens[TOKENS], targets[TOKENS];
    float weights[TOKENS];
    float logits[TOKENS * VOCAB], teacher_logits[TOKENS * VOCAB];
    struct smoothing smoothing;
    struct distillation distillation;
};

enum loss_kind { SMOOTHING, DISTILLATION, POLICY, LOSS_KINDS };
static const char *const loss_names[] = {"label smoothing", "distillation", "policy gradient"};

static dqt_batch batch_of(const struct losses *l) {
    dqt_batch b = DQT_INIT(dqt_batch);
    b.batch = BATCH;
    b.length = LENGTH;
    b.tokens = l->tokens;
    b.targets = l->targets;
    return b;
}

/* Forward and backward of a loss; the gradients are added to the tape's. */
static void loss_backward(struct losses *l, enum loss_kind kind) {
    dqt_batch b = batch_of(l);
    dqt_logits_gradient g = DQT_INIT(dqt_logits_gradient);
    float loss;
    if (kind == POLICY) {
        b.weights = l->weights;
        b.divisor = TOKENS;
        ok(dqt_llama_loss(l->model, l->tape, &b, &loss, NULL));
        ok(dqt_llama_backward(l->model, l->tape, 1));
        return;
    }
    g.callback = kind == SMOOTHING ? smoothing_gradient : distillation_gradient;
    g.user_data = kind == SMOOTHING ? (void *)&l->smoothing : (void *)&l->distillation;
    ok(dqt_llama_forward(l->model, l->tape, &b, NULL));
    ok(dqt_llama_backward_logits(l->model, l->tape, &g));
}

/* The loss itself, from whole logits: to watch it. */
static double loss_value(struct losses *l, enum loss_kind kind) {
    const dqt_batch b = batch_of(l);
    double total = 0;
    ok(dqt_llama_forward(l->model, l->tape, &b, l->logits));
    for (int t = 0; t < TOKENS; t++) {
        const float *x = l->logits + t * VOCAB, *teacher = l->teacher_logits + t * VOCAB;
        const double sum = log_sum_exp(x), teacher_sum = log_sum_exp(teacher);
        const double own = sum - (double)x[l->targets[t]];
        if (kind == POLICY) total += (double)l->weights[t] * own;
        if (kind == SMOOTHING) total += (1 - l->smoothing.share) * own;
        for (int c = 0; c < VOCAB; c++) {
            const double q = exp((double)teacher[c] - teacher_sum);
            if (kind == SMOOTHING) total += l->smoothing.share / VOCAB * (sum - (double)x[c]);
            if (kind == DISTILLATION) total += q * ((double)teacher[c] - teacher_sum - (double)x[c] + sum);
        }
    }
    return total / TOKENS;
}

static dqt_tape *tape_of(dqt_llama *model, int32_t inference) {
    dqt_layer *const *layers;
    size_t num_layers;
    dqt_tape *tape;
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    o.precision = DQT_PRECISION_F32;
    o.inference = inference;
    ok(dqt_llama_get_layers(model, &layers, &num_layers));
    ok(dqt_tape_create(ctx, layers, num_layers, &o, &tape));
    return tape;
}

/* config: of the student. The teacher is wider, and stands for a trained one. */
static void create(struct losses *l, const dqt_llama_config *config) {
    static const float rewards[BATCH] = {1, 0, 0, 3};
    dqt_llama_config c = *config;
    ok(dqt_llama_create(ctx, &c, &l->model));
    c.hidden_size *= 2;
    c.init_std = 0.3f;
    c.seed = 2;
    ok(dqt_llama_create(ctx, &c, &l->teacher));
    l->tape = tape_of(l->model, 0);
    l->teacher_tape = tape_of(l->teacher, 1);
    srand(1);
    for (int t = 0; t < TOKENS; t++) {
        l->tokens[t] = rand() % VOCAB;
        l->targets[t] = rand() % VOCAB;
    }
    group_advantages(rewards, l->weights);
    const dqt_batch b = batch_of(l);
    ok(dqt_llama_forward(l->teacher, l->teacher_tape, &b, l->teacher_logits));
    l->smoothing = (struct smoothing){l->targets, 0.1};
    l->distillation = (struct distillation){l->teacher_logits};
}

static void destroy(struct losses *l) {
    dqt_tape_destroy(l->tape);
    dqt_tape_destroy(l->teacher_tape);
    dqt_llama_destroy(l->model);
    dqt_llama_destroy(l->teacher);
}

static dqt_llama_config student_config(void) {
    dqt_llama_config c;
    ok(dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = VOCAB;
    c.hidden_size = 64;
    c.intermediate_size = 128;
    return c;
}

int main(void) {
    static struct losses l;
    ok(dqt_context_create(NULL, &ctx));
    for (int kind = 0; kind < LOSS_KINDS; kind++) {
        const dqt_llama_config c = student_config();
        create(&l, &c);
        dqt_layer *const *layers;
        size_t num_layers;
        dqt_updater *updater;
        ok(dqt_llama_get_layers(l.model, &layers, &num_layers));
        ok(dqt_updater_create(ctx, layers, num_layers, NULL, &updater));
        const double before = loss_value(&l, (enum loss_kind)kind);
        for (int step = 0; step < STEPS; step++) {
            dqt_step_options s = DQT_INIT(dqt_step_options);
            s.learning_rate = 5e-3f;
            ok(dqt_tape_zero_gradients(l.tape));
            loss_backward(&l, (enum loss_kind)kind);
            ok(dqt_updater_step(updater, l.tape, &s, NULL));
        }
        printf("%-15s %8.4f, after %d steps %8.4f\n", loss_names[kind], before, STEPS,
               loss_value(&l, (enum loss_kind)kind));
        dqt_updater_destroy(updater);
        destroy(&l);
    }
    dqt_context_destroy(ctx);
    return 0;
}
