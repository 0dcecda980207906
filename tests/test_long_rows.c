/* Products of one token with rows so long that sums of codes which are multiplied where they lie would leave 32 bits,
 * though the true sums do not: each instruction set gives the sum of plain numbers. */
#include <math.h>

#include "calls.h"
#include "isa_contexts.h"

enum { COLUMNS = 9000000 };

static void check_sum(dqt_context *ctx, int format, int code) {
    dqt_layer_options o = DQT_INIT(dqt_layer_options);
    dqt_layer *layer;
    dqt_tape *tape;
    dqt_parameter weight = DQT_INIT(dqt_parameter);
    const size_t columns = format == DQT_FORMAT_TERNARY ? COLUMNS : 6000000;
    o.weight.storage = format;
    o.weight.scale_rule = DQT_SCALE_ABSMAX;
    o.init_std = -1;
    OK(ctx, dqt_linear_create(ctx, columns, 1, &o, &layer));
    OK(ctx, dqt_layer_get_parameter(layer, 0, &weight));
    int8_t *codes = malloc(columns);
    float *x = malloc(columns * sizeof *x), y = 0, scale = 1;
    CHECK(codes && x);
    memset(codes, code, columns);
    for (size_t i = 0; i < columns; i++)
        x[i] = 1;
    OK(ctx, dqt_tensor_set_codes(weight.tensor, 0, 1, codes));
    OK(ctx, dqt_tensor_set_scales(weight.tensor, &scale));
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    t.max_length = 1;
    t.inference = 1;
    OK(ctx, dqt_tape_create(ctx, &layer, 1, &t, &tape));
    OK(ctx, dqt_layer_forward(layer, tape, batch_shape(1, 1), x, &y));
    const double want = (double)columns * code;
    CHECKF(fabs(y - want) < 1e-5 * fabs(want), "isa %d, format %d: %g instead of %g", dqt_context_isa(ctx), format, y,
           want);
    dqt_tape_destroy(tape);
    dqt_layer_destroy(layer);
    free(x);
    free(codes);
}

static void one_token(void) {
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 1);
        if (!ctx) continue;
        check_sum(ctx, DQT_FORMAT_TERNARY, 1);
        check_sum(ctx, DQT_FORMAT_TERNARY, -1);
        check_sum(ctx, DQT_FORMAT_INT2, 1);
        check_sum(ctx, DQT_FORMAT_INT2, -2);
        dqt_context_destroy(ctx);
    }
}

static const struct test tests[] = {
    TEST(one_token),
};
TEST_MAIN(tests)
