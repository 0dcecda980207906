/* The losses of examples/13_losses.c: their gradients against central differences of their values, with weights of
 * floats. Along the gradient g itself the derivative is |g|^2; the step is so small that the value moves by 2 MOVE. */
#define main example_main
#include "../examples/13_losses.c"
#undef main
#include "test.h"

static const double MOVE = 0x1p-7;

static double value_at(struct losses *l, enum loss_kind kind, dqt_tensor *tensor, const float *w, const float *g,
                       double step, size_t count) {
    float *moved = malloc(count * sizeof *moved);
    if (!moved) abort();
    for (size_t i = 0; i < count; i++)
        moved[i] = (float)((double)w[i] + step * (double)g[i]);
    ok(dqt_tensor_quantize(tensor, moved, DQT_ROUND_NEAREST, 0));
    free(moved);
    return loss_value(l, kind);
}

static void check_parameter(struct losses *l, enum loss_kind kind, size_t index) {
    dqt_parameter p = DQT_INIT(dqt_parameter);
    ok(dqt_tape_get_parameter(l->tape, index, &p));
    const size_t count = p.rows * p.cols;
    float *g = malloc(count * sizeof *g), *w = malloc(count * sizeof *w);
    double square = 0;
    if (!g || !w) abort();
    ok(dqt_tape_get_gradient(l->tape, index, 0, p.rows, g));
    ok(dqt_tensor_dequantize(p.tensor, 0, p.rows, w));
    for (size_t i = 0; i < count; i++)
        square += (double)g[i] * (double)g[i];
    const double step = MOVE / square;
    double d[2];
    for (int i = 0; i < 2; i++) {
        const double h = step * (i + 1);
        d[i] = (value_at(l, kind, p.tensor, w, g, h, count) - value_at(l, kind, p.tensor, w, g, -h, count)) / (2 * h);
    }
    value_at(l, kind, p.tensor, w, g, 0, count);
    const double found = (4 * d[0] - d[1]) / 3;
    CHECKF(square > 0 && fabs(found - square) < 2e-3 * square, "%s: %s: %g, not %g", loss_names[kind], p.name, square,
           found);
    free(g);
    free(w);
}

static void test_gradients(void) {
    static struct losses l;
    ok(dqt_context_create(NULL, &ctx));
    for (int kind = 0; kind < LOSS_KINDS; kind++) {
        dqt_llama_config c = student_config();
        c.activation = c.head_activation = DQT_ACTIVATION_NONE;
        c.linear.storage = c.embedding.storage = c.head.storage = DQT_FORMAT_F32;
        c.init_std = 0.2f;
        size_t num_parameters;
        create(&l, &c);
        loss_backward(&l, (enum loss_kind)kind);
        ok(dqt_tape_get_num_parameters(l.tape, &num_parameters));
        for (size_t i = 0; i < num_parameters; i++)
            check_parameter(&l, (enum loss_kind)kind, i);
        destroy(&l);
    }
    dqt_context_destroy(ctx);
}

static void test_example(void) {
    CHECK(example_main() == 0);
}

static const struct test tests[] = {TEST(test_gradients), TEST(test_example)};

TEST_MAIN(tests)
