/* Precision AUTO of a tape: which products of backward are INT8, on which instruction set; that these and the others
 * have the bits of the precision when it is named; and that AUTO refuses nothing. */
#include "kernels/kernels.h"
#include "training_world.h"

enum { IN = 64, OUT = 90, TIMES = 30, MOST_LAYERS = 2 };

/* Measured to be faster: docs/performance.md, "What AUTO takes". Nothing of NEON was measured. */
static bool takes_int8(int isa) {
    switch (isa) {
    case DQT_ISA_AVX2:
    case DQT_ISA_AVX_VNNI:
    case DQT_ISA_AVX512:
    case DQT_ISA_VNNI:
    case DQT_ISA_AMX: return true;
    default: return false;
    }
}

static int float_precision(const dqt_context *ctx) {
    return ctx->kernels->fast_bf16 ? DQT_PRECISION_BF16 : DQT_PRECISION_F32;
}

/* dX and dW of each layer, and the precision that the tape says. */
struct gradients {
    float dx[MOST_LAYERS][TIMES * IN], dw[MOST_LAYERS][OUT * IN];
    int precision;
};

static void run(dqt_context *ctx, dqt_layer *const *layers, size_t count, int precision, struct gradients *g) {
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    dqt_tape *tape = NULL;
    float *x = random_floats(TIMES * IN, 1, 1), *dy = random_floats(TIMES * OUT, 1, 2);
    static float y[TIMES * OUT];
    o.precision = precision;
    o.max_length = TIMES;
    o.seed = 9;
    OK(ctx, dqt_tape_create(ctx, layers, count, &o, &tape));
    dqt_tape_memory_info m = {.struct_size = sizeof m};
    OK(ctx, dqt_tape_memory(ctx, layers, count, &o, &m));
    OK(ctx, dqt_tape_get_options(tape, &o));
    g->precision = o.precision;
    for (size_t i = 0; i < count; i++) {
        OK(ctx, dqt_tape_set_pass(tape, 7));
        OK(ctx, dqt_layer_forward(layers[i], tape, batch_shape(1, TIMES), x, y));
        OK(ctx, dqt_layer_backward(layers[i], tape, dy, g->dx[i]));
        OK(ctx, dqt_tape_get_gradient(tape, i, 0, OUT, g->dw[i]));
    }
    free(x);
    free(dy);
    dqt_tape_destroy(tape);
}

static bool same(const struct gradients *a, size_t i, const struct gradients *b, size_t j) {
    return memcmp(a->dx[i], b->dx[j], sizeof a->dx[i]) == 0 && memcmp(a->dw[i], b->dw[j], sizeof a->dw[i]) == 0;
}

static void one_layer(dqt_context *ctx, int isa, int storage, int axis, int activation, bool codes) {
    static struct gradients got, named, other;
    dqt_layer *l = code_linear(ctx, IN, OUT, storage, axis, activation, false);
    const int want = codes && takes_int8(isa) ? DQT_PRECISION_INT8 : float_precision(ctx);
    run(ctx, &l, 1, DQT_PRECISION_AUTO, &got);
    CHECKF(got.precision == want, "isa %d, format %d, axis %d: precision %d, not %d", isa, storage, axis, got.precision,
           want);
    run(ctx, &l, 1, want, &named);
    CHECK(same(&got, 0, &named, 0));
    if (codes) { /* the comparison can fail */
        run(ctx, &l, 1, takes_int8(isa) ? float_precision(ctx) : DQT_PRECISION_INT8, &other);
        CHECK(!same(&got, 0, &other, 0));
    }
    dqt_layer_destroy(l);
}

static void by_instruction_set(void) {
    const int int8 = DQT_ACTIVATION_INT8, none = DQT_ACTIVATION_NONE;
    for (int i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 1);
        if (!ctx) continue;
        const int isa = isa_caps[i].isa;
        one_layer(ctx, isa, DQT_FORMAT_TERNARY, DQT_AXIS_TENSOR, int8, true);
        one_layer(ctx, isa, DQT_FORMAT_INT4, DQT_AXIS_ROW, int8, true);
        one_layer(ctx, isa, DQT_FORMAT_INT8, DQT_AXIS_ROW, int8, true);
        one_layer(ctx, isa, DQT_FORMAT_INT4, DQT_AXIS_GROUP, int8, false);
        one_layer(ctx, isa, DQT_FORMAT_INT4, DQT_AXIS_ROW, none, false);
        one_layer(ctx, isa, DQT_FORMAT_F32, DQT_AXIS_TENSOR, int8, false);
        dqt_context_destroy(ctx);
    }
}

/* Weight by weight: beside one with scales of groups another has the bits that it has alone. */
static void mixed(void) {
    static struct gradients both, alone, floats;
    dqt_context *ctx = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
    const bool int8 = takes_int8(dqt_context_isa(ctx));
    dqt_layer *l[2] = {code_linear(ctx, IN, OUT, DQT_FORMAT_TERNARY, DQT_AXIS_ROW, DQT_ACTIVATION_INT8, false),
                       code_linear(ctx, IN, OUT, DQT_FORMAT_INT4, DQT_AXIS_GROUP, DQT_ACTIVATION_INT8, false)};
    run(ctx, l, 2, DQT_PRECISION_AUTO, &both);
    run(ctx, l, 1, int8 ? DQT_PRECISION_INT8 : float_precision(ctx), &alone);
    run(ctx, l, 2, float_precision(ctx), &floats);
    CHECK(both.precision == (int8 ? DQT_PRECISION_INT8 : float_precision(ctx)));
    CHECK(same(&both, 0, &alone, 0) && same(&both, 1, &floats, 1));
    CHECK(same(&both, 0, &floats, 0) != int8);
    for (int i = 0; i < 2; i++)
        dqt_layer_destroy(l[i]);
    dqt_context_destroy(ctx);
}

/* 132105 outputs of int8 codes could overflow a sum, so that INT8 is refused: AUTO takes floats. A tape that never runs
 * backward says the precision of its float products. */
static void where_int8_is_refused(void) {
    dqt_context *ctx = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
    const size_t outputs[] = {132105, 132104};
    for (int i = 0; i < 3; i++) {
        dqt_layer_options o = DQT_INIT(dqt_layer_options);
        dqt_tape_options t = DQT_INIT(dqt_tape_options);
        dqt_layer *l = NULL;
        dqt_tape *tape = NULL;
        o.weight.storage = DQT_FORMAT_INT8;
        o.activation = DQT_ACTIVATION_INT8;
        t.max_length = 2;
        t.inference = i == 2;
        OK(ctx, dqt_linear_create(ctx, 4, outputs[i > 0], &o, &l));
        OK(ctx, dqt_tape_create(ctx, &l, 1, &t, &tape));
        OK(ctx, dqt_tape_get_options(tape, &t));
        CHECK((t.precision == DQT_PRECISION_INT8) == (i == 1 && takes_int8(dqt_context_isa(ctx))));
        if (i != 1) CHECK(t.precision == float_precision(ctx));
        dqt_tape_destroy(tape);
        dqt_layer_destroy(l);
    }
    dqt_context_destroy(ctx);
}

/* Gradients and checkpoints in FP8: floats. */
static void beside_fp8(void) {
    dqt_context *ctx = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
    dqt_layer *l = code_linear(ctx, IN, OUT, DQT_FORMAT_TERNARY, DQT_AXIS_ROW, DQT_ACTIVATION_INT8, false);
    for (int32_t gradients = DQT_FLOAT_F32; gradients <= DQT_FLOAT_FP8_E5M2; gradients++)
        for (int32_t checkpoints = DQT_FLOAT_F32; checkpoints <= DQT_FLOAT_FP8_E5M2; checkpoints++) {
            dqt_tape_options o = DQT_INIT(dqt_tape_options);
            dqt_tape *tape = NULL;
            o.gradient_format = gradients;
            o.checkpoint_format = checkpoints;
            const bool int8 =
                takes_int8(dqt_context_isa(ctx)) && gradients <= DQT_FLOAT_BF16 && checkpoints <= DQT_FLOAT_BF16;
            OK(ctx, dqt_tape_create(ctx, &l, 1, &o, &tape));
            OK(ctx, dqt_tape_get_options(tape, &o));
            CHECK(o.precision == (int8 ? DQT_PRECISION_INT8 : float_precision(ctx)));
            dqt_tape_destroy(tape);
        }
    dqt_layer_destroy(l);
    dqt_context_destroy(ctx);
}

/* Three steps of a model whose head has activation INT8 or NONE; *used: the precision that the tape says. */
static struct snapshot *train_as(dqt_context *ctx, const struct setup *s, bool integer_head, int precision, bool fused,
                                 int *used) {
    struct setup opened = *s;
    struct training t;
    opened.precision = integer_head ? DQT_PRECISION_INT8 : DQT_PRECISION_F32;
    CHECK(training_open(&t, ctx, &opened, !fused));
    dqt_tape_destroy(t.tape);
    t.setup.precision = precision;
    open_tape(&t, !fused);
    dqt_tape_options o = {.struct_size = sizeof o};
    OK(ctx, dqt_tape_get_options(t.tape, &o));
    *used = o.precision;
    train(&t, 3, fused);
    struct snapshot *taken = take_snapshot(&t);
    training_close(&t);
    return taken;
}

/* Whole models: fused on three threads as with buffers on one, and as when the precision is named. */
static void trained_models(void) {
    dqt_context *one = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
    dqt_context *three = context(DQT_ISA_AUTO, DQT_THREADING_HOST, 3, backwards_for);
    for (size_t k = 0; k < sizeof fused_setups / sizeof *fused_setups; k++) {
        const struct setup *s = &fused_setups[k];
        const bool integer_head = k % 2 && s->axis != DQT_AXIS_GROUP;
        int used, again;
        struct snapshot *expected = train_as(one, s, integer_head, DQT_PRECISION_AUTO, false, &used);
        struct snapshot *fused = train_as(three, s, integer_head, DQT_PRECISION_AUTO, true, &again);
        struct snapshot *named = train_as(one, s, integer_head, used, false, &again);
        CHECK(again == used);
        check_same(s->name, "fused, three threads", expected, fused);
        check_same(s->name, "named", expected, named);
        snapshot_free(expected);
        snapshot_free(fused);
        snapshot_free(named);
    }
    dqt_context_destroy(one);
    dqt_context_destroy(three);
}

static const struct test tests[] = {TEST(by_instruction_set), TEST(mixed), TEST(where_int8_is_refused),
                                    TEST(beside_fp8), TEST(trained_models)};
TEST_MAIN(tests)
