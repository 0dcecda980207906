/* Products of one token with rows so long that sums of codes which are multiplied where they lie would leave 32 bits,
 * though the true sums do not: each instruction set gives the sum of plain numbers. */
#include <math.h>

#include "calls.h"
#include "isa_contexts.h"

enum { TERNARY_COLUMNS = 9000000, INT2_COLUMNS = 6000000 };

static int8_t *codes;
static float *x;

/* The greatest code times the greatest activation, `columns` times. */
static void check_sum(dqt_context *ctx, int format, size_t columns) {
    dqt_layer_options o = DQT_INIT(dqt_layer_options);
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    dqt_layer *layer;
    dqt_tape *tape;
    dqt_parameter weight = DQT_INIT(dqt_parameter);
    const float scale = 1;
    float y = 0;
    o.weight.storage = format;
    o.init_std = -1;
    OK(ctx, dqt_linear_create(ctx, columns, 1, &o, &layer));
    OK(ctx, dqt_layer_get_parameter(layer, 0, &weight));
    OK(ctx, dqt_tensor_set_codes(weight.tensor, 0, 1, codes));
    OK(ctx, dqt_tensor_set_scales(weight.tensor, &scale));
    t.max_length = 1;
    t.inference = t.no_gradient_buffers = 1;
    OK(ctx, dqt_tape_create(ctx, &layer, 1, &t, &tape));
    OK(ctx, dqt_layer_forward(layer, tape, batch_shape(1, 1), x, &y));
    CHECKF(fabs(y - (double)columns) < 1e-5 * (double)columns, "isa %d, format %d: %g instead of %zu",
           dqt_context_isa(ctx), format, y, columns);
    dqt_tape_destroy(tape);
    dqt_layer_destroy(layer);
}

static void one_token(void) {
    codes = malloc(TERNARY_COLUMNS);
    x = malloc(TERNARY_COLUMNS * sizeof *x);
    CHECK(codes && x);
    memset(codes, 1, TERNARY_COLUMNS);
    for (size_t i = 0; i < TERNARY_COLUMNS; i++)
        x[i] = 1;
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 1);
        if (!ctx) continue;
        check_sum(ctx, DQT_FORMAT_TERNARY, TERNARY_COLUMNS);
        check_sum(ctx, DQT_FORMAT_INT2, INT2_COLUMNS);
        dqt_context_destroy(ctx);
    }
    free(x);
    free(codes);
}

static const struct test tests[] = {
    TEST(one_token),
};
TEST_MAIN(tests)
