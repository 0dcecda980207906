/* Small models of the architectures against transformers, on every instruction set: logits to 2e-5 of the largest,
 * gradients to 5e-4 of their norm (tests/golden/make_architectures.py's files hold them to 1e-4). */
#include "architectures.h"
#include "isa_contexts.h"

static void check_logits(dqt_context *ctx, const struct golden *g, const struct subject *s, const struct made *m,
                         double tolerance) {
    double expected[TOKENS * VOCAB] = {0}, largest = 0, worst = 0;
    float logits[TOKENS * VOCAB];
    CHECK(golden_read(g, "logits", "", expected, TOKENS * VOCAB) == TOKENS * VOCAB);
    OK(ctx, dqt_llama_forward(m->model, m->tape, batch_tokens(s->tokens, BATCH, LENGTH), logits));
    for (size_t i = 0; i < TOKENS * VOCAB; i++) {
        largest = fmax(largest, fabs(expected[i]));
        worst = fmax(worst, fabs(expected[i] - (double)logits[i]));
    }
    CHECKF(worst <= tolerance * largest, "%s: logits are off by %g of the largest", s->name, worst / largest);
}

static void check_gradients(dqt_context *ctx, const struct golden *g, const struct subject *s, const struct made *m,
                            double tolerance) {
    double expected[MOST], loss_expected = 0;
    float loss = 0;
    CHECK(golden_read(g, "loss", "", &loss_expected, 1) == 1);
    OK(ctx, dqt_llama_loss(m->model, m->tape, batch_pairs(s->tokens, s->targets, BATCH, LENGTH), &loss, NULL));
    CHECKF(fabs((double)loss - loss_expected) <= tolerance * loss_expected, "%s: loss %.8g, not %.8g", s->name,
           (double)loss, loss_expected);
    OK(ctx, dqt_llama_backward(m->model, m->tape, 1.0f));
    for (size_t i = 0; i < m->num_parameters; i++) {
        const dqt_parameter p = parameter(ctx, m, i);
        char record[32];
        float *d = NULL;
        double error = 0, norm = 0;
        snprintf(record, sizeof record, "gradient %zu", i);
        OK(ctx, dqt_tape_gradient_data(m->tape, i, &d));
        CHECKF(golden_read(g, record, "", expected, MOST) == p.rows * p.cols, "%s: %s", s->name, p.name);
        for (size_t k = 0; k < p.rows * p.cols && d; k++) {
            error += (expected[k] - (double)d[k]) * (expected[k] - (double)d[k]);
            norm += expected[k] * expected[k];
        }
        CHECKF(sqrt(error) <= tolerance * sqrt(norm), "%s: gradient of %s is off by %g of its norm", s->name, p.name,
               sqrt(error / norm));
    }
}

/* The file is of these tokens and targets. */
static void check_tokens(const struct golden *g, const struct subject *s) {
    double x[TOKENS] = {0}, y[TOKENS] = {0};
    CHECK(golden_read(g, "tokens", "", x, TOKENS) == TOKENS && golden_read(g, "targets", "", y, TOKENS) == TOKENS);
    for (int i = 0; i < TOKENS; i++)
        CHECKF((int32_t)x[i] == s->tokens[i] && (int32_t)y[i] == s->targets[i], "%s: token %d", s->name, i);
}

/* bf16 has 8 bits, relative errors of 2^-9: bounds as in test_golden.c, where no number is quantised. */
static void check_isa(int isa) {
    dqt_context *ctx = isa_context(isa, 1);
    if (!ctx) {
        printf("isa %d: skipped: this CPU lacks it\n", isa);
        test_skipped = true;
        return;
    }
    for (size_t i = 0; i < 2 * SUBJECTS; i++) {
        struct subject s = subjects[i / 2];
        struct golden g;
        char file[64];
        subject_open(&s);
        snprintf(file, sizeof file, "arch_%s", s.name);
        const bool opened = golden_open(&g, file), bf16 = i % 2;
        CHECKF(opened, "tests/golden/%s.golden", file);
        if (opened) {
            dqt_tape_options o = tape_options();
            if (bf16) o.precision = DQT_PRECISION_BF16;
            struct made m = make(ctx, &s.config, &o);
            set_weights(ctx, &m);
            check_tokens(&g, &s);
            check_logits(ctx, &g, &s, &m, bf16 ? 0.03 : 2e-5);
            check_gradients(ctx, &g, &s, &m, bf16 ? 0.06 : 5e-4);
            unmake(&m);
        }
        free(g.data);
    }
    dqt_context_destroy(ctx);
}

#include "golden_isas.h"
