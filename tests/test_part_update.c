/* The update inside backward by updaters of one part each, whose tapes have one gradient buffer: against the update
 * inside backward of all rows, bit for bit; what is out of order, and gradients that are not finite. */
#include "parts_world.h"

enum { LENGTH = 20 };

/* A model, with a tape of `buffers` (dqt_tape_options.no_gradient_buffers). */
struct model {
    struct replica r;
    dqt_llama *llama;
    size_t part, parts; /* parts 0: all rows */
    size_t shown;       /* gradients that the callback saw */
    size_t poison;      /* the parameter whose last own row gets a NaN; SIZE_MAX: none */
    size_t stop_at;     /* the parameter at which the callback stops; SIZE_MAX: none */
};

static dqt_updater_options fused_options(const struct setting *s, size_t part, size_t parts) {
    dqt_updater_options u = options_of(s, part, parts);
    u.lagged = 1;
    if (u.clip == DQT_CLIP_GLOBAL_NORM) u.clip = DQT_CLIP_PREVIOUS_NORM;
    return u;
}

static int32_t gradient_ready(void *user_data, size_t index) {
    struct model *m = user_data;
    const dqt_parameter p = parameter(&m->r, index);
    float *g = NULL;
    size_t row, count;
    OK(m->r.ctx, dqt_tape_gradient_data(m->r.tape, index, &g));
    CHECK(dqt_tape_gradient_data(m->r.tape, index ? 0 : 1, &g) == DQT_E_STATE);
    m->shown++;
    if (index == m->stop_at) return 1;
    /* what a reduce-scatter leaves: other parts' rows are anything */
    OK(m->r.ctx, dqt_updater_get_part(m->r.updater, index, m->part, m->parts ? m->parts : 1, &row, &count));
    OK(m->r.ctx, dqt_tape_gradient_data(m->r.tape, index, &g));
    for (size_t k = 0; k < p.rows * p.cols; k++)
        if (k < row * p.cols || k >= (row + count) * p.cols) g[k] = INFINITY;
    if (index == m->poison && count) g[(row + count) * p.cols - 1] = NAN;
    return 0;
}

static void open_model(struct model *m, const struct setting *s, bool tied, size_t part, size_t parts, int buffers) {
    *m = (struct model){
        .r.memory = counting_new(), .part = part, .parts = parts, .poison = SIZE_MAX, .stop_at = SIZE_MAX};
    const dqt_context_options o = counting_options(&m->r.memory);
    dqt_llama_config c = {.struct_size = sizeof c,
                          .vocab_size = 200,
                          .hidden_size = 96,
                          .intermediate_size = 130,
                          .num_layers = 2,
                          .num_heads = 4,
                          .tie_embeddings = tied,
                          .linear = {.scale_axis = DQT_AXIS_ROW, .train_scale = tied}};
    dqt_tape_options t = {.struct_size = sizeof t, .max_length = LENGTH, .no_gradient_buffers = buffers};
    dqt_updater_options u = fused_options(s, part, parts);
    dqt_tape_memory_info plan = {.struct_size = sizeof plan};
    dqt_updater_memory_info state = {.struct_size = sizeof state};
    dqt_layer *const *layers;
    size_t n;
    OK(NULL, dqt_context_create(&o, &m->r.ctx));
    dqt_context *ctx = m->r.ctx;
    OK(ctx, dqt_llama_create(ctx, &c, &m->llama));
    OK(ctx, dqt_llama_get_layers(m->llama, &layers, &n));
    OK(ctx, dqt_tape_memory(ctx, layers, n, &t, &plan));
    size_t before = m->r.memory.bytes;
    OK(ctx, dqt_tape_create(ctx, layers, n, &t, &m->r.tape));
    CHECK(m->r.memory.bytes - before == plan.total);
    if (buffers) CHECKF(plan.gradients == (buffers == 2 ? 200 * 96 * sizeof(float) : 0), "%zu bytes", plan.gradients);
    before = m->r.memory.bytes;
    OK(ctx, dqt_updater_memory(ctx, layers, n, &u, &state));
    OK(ctx, dqt_updater_create(ctx, layers, n, &u, &m->r.updater));
    CHECK(m->r.memory.bytes - before == state.total);
    OK(ctx, dqt_tape_get_num_parameters(m->r.tape, &m->r.count));
    if (buffers == 2) OK(ctx, dqt_tape_on_gradient(m->r.tape, gradient_ready, m));
}

static void close_model(struct model *m) {
    dqt_updater_destroy(m->r.updater);
    dqt_tape_destroy(m->r.tape);
    dqt_llama_destroy(m->llama);
    counting_end(m->r.ctx, &m->r.memory);
}

static void forward(struct model *m, int step) {
    int32_t tokens[LENGTH], targets[LENGTH];
    float loss;
    for (int i = 0; i < LENGTH; i++) {
        tokens[i] = (i * i + 31 * step) % 200;
        targets[i] = (i * 7 + step) % 200;
    }
    OK(m->r.ctx, dqt_llama_loss(m->llama, m->r.tape, batch_pairs(tokens, targets, 1, LENGTH), &loss, NULL));
}

static dqt_step_options step_of(int step) {
    return (dqt_step_options){.struct_size = sizeof(dqt_step_options),
                              .learning_rate = rate_of((uint64_t)step),
                              .gradient_scale = step % 2 ? 0.5f : 0};
}

/* Forward, and backward with the update; what is to be exchanged goes to sums. */
static void fused_part(struct model *m, int step, dqt_step_sums *sums, dqt_step_stats *stats) {
    const dqt_step_options o = step_of(step);
    *sums = (dqt_step_sums){.struct_size = sizeof *sums};
    *stats = (dqt_step_stats){.struct_size = sizeof *stats};
    forward(m, step);
    OK(m->r.ctx, dqt_tape_begin_update(m->r.tape, m->r.updater, &o));
    OK(m->r.ctx, dqt_llama_backward(m->llama, m->r.tape, 1));
    OK(m->r.ctx, dqt_tape_end_update_part(m->r.tape, sums, stats));
}

/* Of all parts, until the step ends; returns the exchanges. expected: of the last continue. */
static size_t exchange_all(struct model *m, size_t parts, dqt_step_sums *sums, dqt_step_stats *stats,
                           dqt_status expected) {
    size_t times = 0;
    for (; sums[0].data && times < 1000; times++) {
        exchange(sums, parts);
        for (size_t k = 0; k < parts; k++) {
            const dqt_status status = dqt_updater_continue_step(m[k].r.updater, m[k].r.tape, &sums[k], &stats[k]);
            CHECKF(status == (sums[k].data ? DQT_OK : expected), "status %d: %s", (int)status,
                   dqt_last_error(m[k].r.ctx));
        }
    }
    for (size_t k = 0; k < parts; k++)
        CHECK(!sums[k].data);
    return times;
}

static void gather_models(struct model *m, size_t parts) {
    struct replica r[MOST_PARTS] = {0};
    for (size_t k = 0; k < parts; k++)
        r[k] = m[k].r;
    gather(r, parts);
}

static void same_model(const struct model *m, const struct model *whole, const char *what) {
    struct memory_file a = memory_new(), b = memory_new();
    OK(m->r.ctx, dqt_llama_write(m->llama, NULL, memory_write, &a, NULL));
    OK(whole->r.ctx, dqt_llama_write(whole->llama, NULL, memory_write, &b, NULL));
    CHECKF(same_bytes(&a, &b), "%s: the weights", what);
    free(a.bytes);
    free(b.bytes);
}

static void freeze(const struct model *m, int how) {
    const dqt_group_options g = {.struct_size = sizeof g, .pattern = "blocks.1.*.o", .freeze = how};
    OK(m->r.ctx, dqt_updater_add_group(m->r.updater, &g, NULL));
}

static void run_setting(const struct setting *s, bool tied, size_t parts) {
    struct model whole, one, m[MOST_PARTS];
    dqt_step_sums sums[MOST_PARTS];
    dqt_step_stats stats[MOST_PARTS], expected, own;
    char what[128];
    open_model(&whole, s, tied, 0, 0, 1);
    open_model(&one, s, tied, 0, 0, 2); /* an updater of all rows, with one buffer */
    for (size_t k = 0; k < parts; k++)
        open_model(&m[k], s, tied, k, parts, 2);
    for (int step = 0; step < STEPS; step++) {
        snprintf(what, sizeof what, "%s, %s, %zu parts, step %d", s->name, tied ? "tied" : "untied", parts, step);
        const size_t calls = m[0].r.memory.calls;
        if (step == 2 || step == 3) {
            freeze(&whole, step == 2 ? 1 : -1);
            freeze(&one, step == 2 ? 1 : -1);
            for (size_t k = 0; k < parts; k++)
                freeze(&m[k], step == 2 ? 1 : -1);
        }
        fused_part(&whole, step, &sums[0], &expected);
        CHECK(!sums[0].data && expected.flipped > 0);
        fused_part(&one, step, &sums[0], &own);
        CHECKF(!sums[0].data && memcmp(&own, &expected, sizeof own) == 0, "%s: stats of one buffer", what);
        same_model(&one, &whole, what);
        for (size_t k = 0; k < parts; k++)
            fused_part(&m[k], step, &sums[k], &stats[k]);
        const size_t times = exchange_all(m, parts, sums, stats, DQT_OK);
        if (parts > 1 && s->optimizer != DQT_OPTIMIZER_ADAFACTOR) CHECKF(times == 1, "%s: %zu exchanges", what, times);
        gather_models(m, parts);
        CHECKF(m[0].r.memory.calls == calls, "%s: a step allocated", what);
        for (size_t k = 0; k < parts; k++) {
            CHECKF(memcmp(&stats[k], &expected, sizeof expected) == 0, "%s: stats of part %zu", what, k);
            same_model(&m[k], &whole, what);
            compare_states(&m[k].r, &whole.r, k, parts, what);
        }
    }
    CHECK(m[0].shown == STEPS * m[0].r.count);
    for (size_t k = 0; k < parts; k++)
        close_model(&m[k]);
    close_model(&one);
    close_model(&whole);
}

static void parts_are_the_whole(void) {
    static const size_t parts[] = {1, 2, 3, 5, 8};
    for (int s = 0; s < SETTINGS; s++)
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            run_setting(&settings[s], (s + (int)k) % 2, parts[k]);
}

/* ---- What goes wrong --------------------------------------------------------------------------------------------- */

enum { ADAFACTOR = 5, POISONED = 3 };

#define REFUSED(m, call, expected, words)                                                                              \
    do {                                                                                                               \
        const dqt_status refused = (call);                                                                             \
        CHECKF(refused == (expected), "status %d: %s", (int)refused, dqt_last_error((m).r.ctx));                       \
        CHECKF(strstr(dqt_last_error((m).r.ctx), words), "%s", dqt_last_error((m).r.ctx));                             \
    } while (0)

/* A part that has a gradient that is not finite leaves its rows of that parameter; all learn of it, and all other
 * parameters have what they would have. */
static void not_finite_anywhere(void) {
    struct model whole, m[3], one, before;
    dqt_step_sums sums[3];
    dqt_step_stats stats[3], expected;
    open_model(&whole, &settings[ADAFACTOR], false, 0, 0, 1);
    open_model(&before, &settings[ADAFACTOR], false, 0, 0, 1);
    open_model(&one, &settings[ADAFACTOR], false, 0, 0, 2);
    fused_part(&whole, 0, &sums[0], &expected);
    one.poison = POISONED;
    const dqt_step_options o = step_of(0);
    forward(&one, 0);
    OK(one.r.ctx, dqt_tape_begin_update(one.r.tape, one.r.updater, &o));
    OK(one.r.ctx, dqt_llama_backward(one.llama, one.r.tape, 1));
    REFUSED(one, dqt_tape_end_update_part(one.r.tape, &sums[0], NULL), DQT_E_NUMERIC, "not finite");
    for (size_t k = 0; k < 3; k++) {
        open_model(&m[k], &settings[ADAFACTOR], false, k, 3, 2);
        if (k == 1) m[k].poison = POISONED;
        fused_part(&m[k], 0, &sums[k], &stats[k]);
    }
    exchange_all(m, 3, sums, stats, DQT_E_NUMERIC);
    gather_models(m, 3);
    for (size_t i = 0; i < whole.r.count; i++) {
        const struct bytes w = packed(parameter(&whole.r, i).tensor), b = packed(parameter(&before.r, i).tensor);
        const struct bytes alone = packed(parameter(&one.r, i).tensor);
        CHECKF(memcmp(alone.data, i == POISONED ? b.data : w.data, w.size) == 0, "parameter %zu of one buffer", i);
        for (size_t k = 0; k < 3; k++) {
            const struct bytes mine = packed(parameter(&m[k].r, i).tensor);
            size_t row, count;
            OK(m[k].r.ctx, dqt_updater_get_part(m[k].r.updater, i, 1, 3, &row, &count));
            const struct bytes *from = i == POISONED ? &b : &w;
            CHECKF(memcmp(mine.data + row * w.row_bytes, from->data + row * w.row_bytes, count * w.row_bytes) == 0,
                   "rows of part 1 of parameter %zu", i);
            if (i != POISONED) CHECKF(memcmp(mine.data, w.data, w.size) == 0, "parameter %zu", i);
        }
    }
    for (size_t k = 0; k < 3; k++) {
        CHECK(stats[k].step == 1 && stats[k].flipped > 0 && memcmp(&stats[k], &stats[0], sizeof *stats) == 0);
        close_model(&m[k]);
    }
    close_model(&one);
    close_model(&before);
    close_model(&whole);
}

/* Parameters that do not go backward in an update stay as they are, with their statistics. */
static void left_out(void) {
    struct model m[3]; /* the last has all rows */
    dqt_step_sums sums[3];
    dqt_step_stats stats[3];
    static float dx[LENGTH * 96];
    for (size_t k = 0; k < 3; k++) {
        open_model(&m[k], &settings[ADAFACTOR], false, k % 2, k < 2 ? 2 : 0, k < 2 ? 2 : 1);
        fused_part(&m[k], 0, &sums[k], &stats[k]);
    }
    exchange_all(m, 2, sums, stats, DQT_OK);
    gather_models(m, 2);
    for (size_t k = 0; k < 3; k++) {
        dqt_layer *const *layers;
        size_t n;
        const dqt_step_options o = step_of(1);
        forward(&m[k], 1);
        OK(m[k].r.ctx, dqt_llama_get_layers(m[k].llama, &layers, &n));
        OK(m[k].r.ctx, dqt_tape_begin_update(m[k].r.tape, m[k].r.updater, &o));
        OK(m[k].r.ctx, dqt_head_backward(layers[n - 1], m[k].r.tape, 1, dx));
        OK(m[k].r.ctx, dqt_tape_end_update_part(m[k].r.tape, &sums[k], &stats[k]));
    }
    exchange_all(m, 2, sums, stats, DQT_OK);
    gather_models(m, 2);
    for (size_t k = 0; k < 2; k++) {
        CHECK(memcmp(&stats[k], &stats[2], sizeof *stats) == 0);
        same_model(&m[k], &m[2], "after an update of the head");
        compare_states(&m[k].r, &m[2].r, k, 2, "after an update of the head");
    }
    for (size_t k = 0; k < 3; k++)
        close_model(&m[k]);
}

/* Sums that no part can have sent are refused, and with right ones the step goes on to the same bits. */
static void wrong_sums(void) {
    struct model whole, m[2];
    dqt_step_sums sums[2];
    dqt_step_stats stats[2], expected;
    open_model(&whole, &settings[ADAFACTOR], true, 0, 0, 1);
    fused_part(&whole, 0, &sums[0], &expected);
    for (size_t k = 0; k < 2; k++) {
        open_model(&m[k], &settings[ADAFACTOR], true, k, 2, 2);
        fused_part(&m[k], 0, &sums[k], &stats[k]);
    }
    size_t points = 0;
    for (; sums[0].data; points++) {
        exchange(sums, 2);
        float *first = sums[0].data, kept[2];
        memcpy(kept, first, sizeof kept);
        first[0] = first[1] = -1; /* as floats and as a double */
        REFUSED(m[0], dqt_updater_continue_step(m[0].r.updater, m[0].r.tape, &sums[0], NULL), DQT_E_NUMERIC, "no part");
        memset(first, 0xff, sizeof kept);
        REFUSED(m[0], dqt_updater_continue_step(m[0].r.updater, m[0].r.tape, &sums[0], NULL), DQT_E_NUMERIC, "no part");
        memcpy(first, kept, sizeof kept);
        for (size_t k = 0; k < 2; k++)
            OK(m[k].r.ctx, dqt_updater_continue_step(m[k].r.updater, m[k].r.tape, &sums[k], &stats[k]));
    }
    CHECK(points > 10 && memcmp(&stats[0], &expected, sizeof expected) == 0);
    gather_models(m, 2);
    for (size_t k = 0; k < 2; k++) {
        same_model(&m[k], &whole, "after wrong sums");
        compare_states(&m[k].r, &whole.r, k, 2, "after wrong sums");
        close_model(&m[k]);
    }
    close_model(&whole);
}

static void mistakes(void) {
    struct model half, plain, buffers;
    dqt_step_sums sums = {.struct_size = sizeof sums};
    dqt_step_stats stats = {.struct_size = sizeof stats};
    const dqt_step_options o = step_of(0);
    float *g;
    open_model(&half, &settings[ADAFACTOR], true, 1, 2, 2);
    open_model(&plain, &settings[ADAFACTOR], true, 1, 2, 1);
    open_model(&buffers, &settings[ADAFACTOR], true, 0, 0, 0);
    REFUSED(plain, dqt_tape_begin_update(plain.r.tape, plain.r.updater, &o), DQT_E_UNSUPPORTED,
            "no_gradient_buffers 2");
    REFUSED(half, dqt_llama_backward_update(half.llama, half.r.tape, half.r.updater, &o, NULL), DQT_E_STATE, "");
    forward(&half, 0);
    REFUSED(half, dqt_llama_backward_update(half.llama, half.r.tape, half.r.updater, &o, NULL), DQT_E_UNSUPPORTED,
            "part 1 of 2");
    REFUSED(half, dqt_llama_backward(half.llama, half.r.tape, 1), DQT_E_STATE, "no gradient buffers");
    REFUSED(half, dqt_tape_gradient_data(half.r.tape, 0, &g), DQT_E_STATE, "inside its callback only");
    REFUSED(half, dqt_tape_end_update_part(half.r.tape, &sums, NULL), DQT_E_STATE, "no update");
    CHECK(dqt_tape_end_update_part(NULL, &sums, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_begin_step(half.r.updater, half.r.tape, &o, &sums) == DQT_E_STATE);
    OK(half.r.ctx, dqt_tape_zero_gradients(half.r.tape));
    OK(half.r.ctx, dqt_tape_begin_update(half.r.tape, half.r.updater, &o));
    REFUSED(half, dqt_tape_end_update(half.r.tape, NULL), DQT_E_UNSUPPORTED, "dqt_tape_end_update_part");
    REFUSED(half, dqt_tape_end_update_part(half.r.tape, NULL, NULL), DQT_E_ARGUMENT, "sums");
    half.stop_at = 5;
    REFUSED(half, dqt_llama_backward(half.llama, half.r.tape, 1), DQT_E_CANCELLED, "parameter 5");
    OK(half.r.ctx, dqt_tape_end_update_part(half.r.tape, &sums, &stats));
    REFUSED(half, dqt_updater_set_step(half.r.updater, 3), DQT_E_STATE, "is open");
    while (sums.data)
        OK(half.r.ctx, dqt_updater_continue_step(half.r.updater, half.r.tape, &sums, &stats));
    CHECK(stats.step == 1);

    /* a tied head without its embedding */
    dqt_layer *const *layers;
    size_t n;
    static float dx[LENGTH * 96];
    half.stop_at = SIZE_MAX;
    OK(half.r.ctx, dqt_llama_get_layers(half.llama, &layers, &n));
    forward(&half, 1);
    OK(half.r.ctx, dqt_tape_begin_update(half.r.tape, half.r.updater, &o));
    OK(half.r.ctx, dqt_head_backward(layers[n - 1], half.r.tape, 1, dx));
    REFUSED(half, dqt_tape_end_update_part(half.r.tape, &sums, &stats), DQT_E_STATE, "did not go backward");
    CHECK(sums.data);
    while (sums.data)
        OK(half.r.ctx, dqt_updater_continue_step(half.r.updater, half.r.tape, &sums, &stats));
    CHECK(stats.step == 2 && stats.flipped == 0);

    /* destroying either drops the update */
    forward(&half, 1);
    OK(half.r.ctx, dqt_tape_begin_update(half.r.tape, half.r.updater, &o));
    dqt_tape_destroy(half.r.tape);
    half.r.tape = NULL;
    uint64_t step = 0;
    OK(half.r.ctx, dqt_updater_get_step(half.r.updater, &step));
    CHECK(step == 2);
    OK(half.r.ctx, dqt_updater_set_step(half.r.updater, 2));

    dqt_updater *other;
    dqt_tape *tape;
    dqt_updater_options u = fused_options(&settings[ADAFACTOR], 1, 2);
    dqt_tape_options t = {.struct_size = sizeof t, .no_gradient_buffers = 2};
    u.lagged = 0;
    OK(half.r.ctx, dqt_updater_create(half.r.ctx, layers, n, &u, &other));
    OK(half.r.ctx, dqt_tape_create(half.r.ctx, layers, n, &t, &tape));
    REFUSED(half, dqt_tape_begin_update(tape, other, &o), DQT_E_UNSUPPORTED, "lagged");
    dqt_updater_destroy(other);
    dqt_tape_destroy(tape);
    t.gradient_format = DQT_FLOAT_BF16;
    REFUSED(half, dqt_tape_create(half.r.ctx, layers, n, &t, &tape), DQT_E_UNSUPPORTED, "F32");
    t.no_gradient_buffers = 3;
    REFUSED(half, dqt_tape_create(half.r.ctx, layers, n, &t, &tape), DQT_E_ARGUMENT, "no_gradient_buffers is 3");

    /* a tape with buffers may update inside backward too, of all rows */
    sums = (dqt_step_sums){.struct_size = sizeof sums};
    forward(&buffers, 0);
    OK(buffers.r.ctx, dqt_tape_begin_update(buffers.r.tape, buffers.r.updater, &o));
    OK(buffers.r.ctx, dqt_llama_backward(buffers.llama, buffers.r.tape, 1));
    OK(buffers.r.ctx, dqt_tape_end_update_part(buffers.r.tape, &sums, &stats));
    CHECK(!sums.data && stats.step == 1);
    close_model(&buffers);
    close_model(&plain);
    close_model(&half);
}

static const struct test tests[] = {TEST(parts_are_the_whole), TEST(not_finite_anywhere), TEST(left_out),
                                    TEST(wrong_sums), TEST(mistakes)};
TEST_MAIN(tests)
