/* Precision INT8 of a tape: what takes part, what is refused, and that training gives the same bits fused or not,
 * recomputed or not, interrupted or not, on any number of threads. The products themselves:
 * tests/test_integer_backward.c. */
#define _POSIX_C_SOURCE 200809L
#include "gemm/gemm.h"
#include "kernels/kernels.h"
#include "memory_file.h"
#include "training_world.h"

/* ---- Which layers -------------------------------------------------------------------------------------------- */

static dqt_tape_options integer_tape(size_t length) {
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.precision = DQT_PRECISION_INT8;
    o.max_length = length;
    o.seed = 9;
    return o;
}

static void expect(dqt_context *ctx, dqt_layer *l, dqt_status want, const char *words) {
    const dqt_tape_options o = integer_tape(20);
    dqt_tape_memory_info m = {.struct_size = sizeof m};
    const dqt_status got = dqt_tape_memory(ctx, &l, 1, &o, &m);
    CHECKF(got == want, "%s: %s", dqt_status_string(got), dqt_last_error(ctx));
    if (want != DQT_OK) CHECKF(strstr(dqt_last_error(ctx), words) != NULL, "%s", dqt_last_error(ctx));
    dqt_layer_destroy(l);
}

static void refused(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    const int int8 = DQT_ACTIVATION_INT8, none = DQT_ACTIVATION_NONE;
    expect(ctx, code_linear(ctx, 64, 8, DQT_FORMAT_INT4, DQT_AXIS_GROUP, int8, false), DQT_E_UNSUPPORTED,
           "groups of 32");
    expect(ctx, code_linear(ctx, 64, 8, DQT_FORMAT_INT4, DQT_AXIS_GROUP, none, false), DQT_OK, "");
    expect(ctx, code_linear(ctx, 32, 8, DQT_FORMAT_INT4, DQT_AXIS_GROUP, int8, false), DQT_OK, ""); /* one a row */
    expect(ctx, code_linear(ctx, 64, 8, DQT_FORMAT_F32, 0, int8, false), DQT_OK, "");
    /* 132105 * 127 * 128 is 2^31 and a little more */
    expect(ctx, code_linear(ctx, 4, 132105, DQT_FORMAT_INT8, 0, int8, true), DQT_E_SHAPE, "at most 132104");
    expect(ctx, code_linear(ctx, 4, 132104, DQT_FORMAT_INT8, 0, int8, true), DQT_OK, "");
    expect(ctx, code_linear(ctx, 4, 132105, DQT_FORMAT_INT8, 0, none, true), DQT_OK, "");
    expect(ctx, code_linear(ctx, 4, 2000000, DQT_FORMAT_TERNARY, 0, int8, true), DQT_OK, "");
    dqt_layer_options o = DQT_INIT(dqt_layer_options);
    dqt_layer *head = NULL, *block = NULL;
    o.activation = int8;
    o.weight.storage = DQT_FORMAT_INT8;
    o.shape_only = 1;
    OK(ctx, dqt_head_create(ctx, NULL, 4, 150000, &o, &head)); /* its classes come in tiles */
    expect(ctx, head, DQT_OK, "");
    o.weight.scale_axis = DQT_AXIS_GROUP;
    o.weight.group_size = 32;
    OK(ctx, dqt_block_create(ctx, 64, 128, 2, 2, &o, &block));
    expect(ctx, block, DQT_E_UNSUPPORTED, "groups of 32");
    dqt_layer *l = code_linear(ctx, 8, 8, DQT_FORMAT_INT8, 0, int8, false);
    dqt_tape_options t = integer_tape(4);
    dqt_tape_memory_info m = {.struct_size = sizeof m};
    t.precision = DQT_PRECISION_INT8 + 1;
    CHECK(dqt_tape_memory(ctx, &l, 1, &t, &m) == DQT_E_ARGUMENT);
    dqt_layer_destroy(l);
    dqt_context_destroy(ctx);
}

/* Saved activations take as much as with F32; the tape says what it was asked for. */
static void memory(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_layer *l = code_linear(ctx, 300, 200, DQT_FORMAT_TERNARY, 0, DQT_ACTIVATION_INT8, false);
    dqt_tape_options o = integer_tape(700);
    dqt_tape_memory_info m[2] = {{.struct_size = sizeof *m}, {.struct_size = sizeof *m}};
    dqt_tape *tape = NULL;
    OK(ctx, dqt_tape_memory(ctx, &l, 1, &o, &m[0]));
    OK(ctx, dqt_tape_create(ctx, &l, 1, &o, &tape));
    dqt_tape_options now = {.struct_size = sizeof now};
    OK(ctx, dqt_tape_get_options(tape, &now));
    CHECK(now.precision == DQT_PRECISION_INT8);
    o.precision = DQT_PRECISION_F32;
    OK(ctx, dqt_tape_memory(ctx, &l, 1, &o, &m[1]));
    CHECK(m[0].activations == m[1].activations && m[0].gradients == m[1].gradients);
    dqt_tape_destroy(tape);
    dqt_layer_destroy(l);
    dqt_context_destroy(ctx);
}

/* ---- Keys ---------------------------------------------------------------------------------------------------- */

enum { IN = 70, OUT = 90, TIMES = 30 };

static void collect(void *arg, size_t row, size_t rows, float *tile, size_t ld, int lane) {
    (void)lane;
    for (size_t r = 0; r < rows; r++)
        memcpy((float *)arg + (row + r) * IN, tile + r * ld, IN * sizeof(float));
}

/* The second layer of a tape, in its eighth pass: the products with random numbers of (seed 9, pass 7, parameter 1). */
static void keyed(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_layer *l[2] = {code_linear(ctx, 5, 6, DQT_FORMAT_TERNARY, 0, DQT_ACTIVATION_INT8, false),
                       code_linear(ctx, IN, OUT, DQT_FORMAT_INT4, DQT_AXIS_ROW, DQT_ACTIVATION_INT8, false)};
    const dqt_tape_options o = integer_tape(TIMES);
    dqt_tape *tape = NULL;
    float *x = random_floats(TIMES * IN, 1, 1), *dy = random_floats(TIMES * OUT, 1, 2);
    static float y[TIMES * OUT], dx[2][TIMES * IN], dw[2][OUT * IN], step[TIMES];
    static int8_t codes[TIMES * 128];
    OK(ctx, dqt_tape_create(ctx, l, 2, &o, &tape));
    OK(ctx, dqt_tape_set_pass(tape, 7));
    OK(ctx, dqt_layer_forward(l[1], tape, batch_shape(1, TIMES), x, y));
    OK(ctx, dqt_layer_backward(l[1], tape, dy, dx[0]));
    OK(ctx, dqt_tape_get_gradient(tape, 1, 0, OUT, dw[0]));
    for (size_t t = 0; t < TIMES; t++)
        step[t] = ctx->kernels->gemm.quantize(x + t * IN, IN, codes + t * 128);
    const struct activations a = {.tokens = TIMES, .cols = IN, .codes = codes, .step = step, .ld = 128};
    struct scratch_need need = {0};
    struct workspace ws;
    gemm_int8_gradient_scratch(ctx, TIMES, OUT, IN, &need);
    OK(ctx, workspace_create(ctx, &need, &ws));
    const struct rng for_dx = rng_make(9, 7, RNG_INPUT_PRODUCT, 1), for_dw = rng_make(9, 7, RNG_WEIGHT_PRODUCT, 1);
    dqt_parameter p = {.struct_size = sizeof p};
    OK(ctx, dqt_tape_get_parameter(tape, 1, &p));
    gemm_input_gradient_int8(ctx, &ws, dy, OUT, TIMES, p.tensor, 0, OUT, &for_dx, false, dx[1]);
    gemm_weight_gradient_int8(ctx, &ws, dy, OUT, 0, OUT, &a, &for_dw, collect, dw[1]);
    CHECK(memcmp(dx[0], dx[1], sizeof dx[0]) == 0);
    CHECK(memcmp(dw[0], dw[1], sizeof dw[0]) == 0);

    /* A second pass adds its own gradient. */
    static float both[OUT * IN], second[OUT * IN];
    OK(ctx, dqt_layer_forward(l[1], tape, batch_shape(1, TIMES), x, y));
    OK(ctx, dqt_layer_backward(l[1], tape, dy, NULL));
    OK(ctx, dqt_tape_get_gradient(tape, 1, 0, OUT, both));
    OK(ctx, dqt_tape_zero_gradients(tape));
    OK(ctx, dqt_tape_set_pass(tape, 8));
    OK(ctx, dqt_layer_forward(l[1], tape, batch_shape(1, TIMES), x, y));
    OK(ctx, dqt_layer_backward(l[1], tape, dy, NULL));
    OK(ctx, dqt_tape_get_gradient(tape, 1, 0, OUT, second));
    CHECK(memcmp(second, dw[0], sizeof second) != 0);
    for (size_t i = 0; i < OUT * IN; i++)
        CHECK(both[i] == dw[0][i] + second[i]);
    workspace_destroy(ctx, &ws);
    free(x);
    free(dy);
    dqt_tape_destroy(tape);
    for (int i = 0; i < 2; i++)
        dqt_layer_destroy(l[i]);
    dqt_context_destroy(ctx);
}

/* ---- Numbers that are not finite ----------------------------------------------------------------------------- */

/* A NaN that enters backward ends in DQT_E_NUMERIC, in both ways of updating, and no weight changes. */
static void not_finite(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int fused = 0; fused < 2; fused++) {
        dqt_layer *l = code_linear(ctx, IN, OUT, DQT_FORMAT_TERNARY, 0, DQT_ACTIVATION_INT8, false);
        dqt_tape_options o = integer_tape(TIMES);
        dqt_updater_options u = DQT_INIT(dqt_updater_options);
        dqt_tape *tape = NULL;
        dqt_updater *updater = NULL;
        float *x = random_floats(TIMES * IN, 1, 1), *dy = random_floats(TIMES * OUT, 1, 2);
        static float y[TIMES * OUT], dx[TIMES * IN];
        u.clip = DQT_CLIP_PREVIOUS_NORM;
        o.no_gradient_buffers = fused;
        dy[3 * OUT + 1] = NAN;
        OK(ctx, dqt_tape_create(ctx, &l, 1, &o, &tape));
        OK(ctx, dqt_updater_create(ctx, &l, 1, &u, &updater));
        struct snapshot before = {0}, after = {0};
        add_weights(&before, tape);
        OK(ctx, dqt_layer_forward(l, tape, batch_shape(1, TIMES), x, y));
        if (fused) OK(ctx, dqt_tape_begin_update(tape, updater, step_rate(0.1f)));
        OK(ctx, dqt_layer_backward(l, tape, dy, dx));
        CHECK((fused ? dqt_tape_end_update(tape, NULL) : dqt_updater_step(updater, tape, step_rate(0.1f), NULL)) ==
              DQT_E_NUMERIC);
        CHECK(isnan(dx[3 * IN]) && isfinite(dx[2 * IN]));
        add_weights(&after, tape);
        check_same("not finite", fused ? "fused" : "step", &before, &after);
        free(before.bytes);
        free(after.bytes);
        free(x);
        free(dy);
        dqt_updater_destroy(updater);
        dqt_tape_destroy(tape);
        dqt_layer_destroy(l);
    }
    dqt_context_destroy(ctx);
}

/* ---- Training ------------------------------------------------------------------------------------------------ */

static bool without_groups(const struct setup *s) {
    return s->axis != DQT_AXIS_GROUP;
}

static struct setup integer_setup(size_t k) {
    struct setup s = fused_setups[k];
    s.precision = DQT_PRECISION_INT8;
    s.tied = k & 1;
    return s;
}

#define EACH_SETUP(k)                                                                                                  \
    for (size_t k = 0; k < sizeof fused_setups / sizeof *fused_setups; k++)                                            \
        if (without_groups(&fused_setups[k]))

/* Fused, with gradient buffers, with recomputation, on one thread and on three: the same bits; and other bits than F32
 * has, where weights are codes. */
static void ways(void) {
    dqt_context *one = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
    dqt_context *three = context(DQT_ISA_AUTO, DQT_THREADING_HOST, 3, backwards_for);
    EACH_SETUP(k) {
        struct setup s = integer_setup(k);
        struct snapshot *expected = trained(one, &s, 5, false), *fused = trained(one, &s, 5, true);
        check_same(s.name, "fused", expected, fused);
        struct snapshot *lanes = trained(three, &s, 5, k & 1);
        check_same(s.name, "three threads", expected, lanes);
        s.recompute = 1;
        struct snapshot *recomputed = trained(three, &s, 5, false);
        check_same(s.name, "recomputed", expected, recomputed);
        s.recompute = 0;
        s.precision = DQT_PRECISION_F32;
        struct snapshot *floats = trained(one, &s, 5, false);
        CHECKF(memcmp(expected->bytes, floats->bytes, expected->used) != 0, "%s: as F32", s.name);
        struct snapshot *all[] = {expected, fused, lanes, recomputed, floats};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            snapshot_free(all[i]);
    }
    dqt_context_destroy(one);
    dqt_context_destroy(three);
}

/* Eight steps; and four, a checkpoint, and four more in another context with other threads, which reads the pass. */
static void interrupted(void) {
    EACH_SETUP(k) {
        const struct setup s = integer_setup(k);
        dqt_context *first = context(DQT_ISA_AUTO, DQT_THREADING_SERIAL, 1, NULL);
        dqt_context *second = context(DQT_ISA_AUTO, DQT_THREADING_HOST, 2, backwards_for);
        struct snapshot *expected = trained(first, &s, 8, true);
        struct memory_file f = memory_new();
        struct training t, resumed;
        if (!training_open(&t, first, &s, false)) return;
        train(&t, 4, true);
        const dqt_save_options save = {.struct_size = sizeof save, .tape = t.tape};
        OK(first, dqt_llama_write(t.model, t.updater, memory_write, &f, &save));
        resumed = t;
        training_close(&t);
        resumed.ctx = second;
        resumed.tape = NULL;
        dqt_checkpoint c = {.struct_size = sizeof c};
        OK(second, dqt_llama_read(second, memory_read, &f, NULL, &c));
        resumed.model = c.model;
        resumed.updater = c.updater;
        CHECK(c.passes == 4);
        if (resumed.model && resumed.updater) {
            open_tape(&resumed, false);
            OK(second, dqt_tape_set_pass(resumed.tape, c.passes));
            train(&resumed, 4, true);
            struct snapshot *found = take_snapshot(&resumed);
            check_same(s.name, "interrupted", expected, found);
            snapshot_free(found);
        }
        training_close(&resumed);
        snapshot_free(expected);
        free(f.bytes);
        dqt_context_destroy(first);
        dqt_context_destroy(second);
    }
}

static const struct test tests[] = {TEST(refused),    TEST(memory), TEST(keyed),
                                    TEST(not_finite), TEST(ways),   TEST(interrupted)};
TEST_MAIN(tests)
