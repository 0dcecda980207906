/* Updaters of one part each, on replicas that exchange sums of tiles and gather rows: against one updater of all rows,
 * bit for bit, with the same gradients. */
#include "parts_world.h"

/* ---- Tests ----------------------------------------------------------------------------------------------------- */

static void freeze(const struct replica *r, int how) {
    dqt_group_options g;
    OK(r->ctx, dqt_group_options_init(&g, sizeof g));
    g.pattern = "b";
    g.freeze = how;
    if (how > 0) g.rounding_noise = 0.7f; /* which moves the grid of accumulators */
    size_t matched;
    OK(r->ctx, dqt_updater_add_group(r->updater, &g, &matched));
    CHECK(matched == 1);
}

/* Parameters are frozen and thawed on the way: rows stay where they are. */
static void run_setting(const struct setting *s, size_t parts) {
    struct replica whole, replicas[MOST_PARTS];
    dqt_step_stats stats[MOST_PARTS];
    char what[128];
    size_t times = 0;
    open_replica(&whole, s, 1, 0, 0);
    for (size_t k = 0; k < parts; k++)
        open_replica(&replicas[k], s, parts == 3 && k == 1 ? 2 : 1, k, parts);
    for (uint64_t step = 0; step < STEPS; step++) {
        dqt_step_stats expected = {.struct_size = sizeof expected};
        snprintf(what, sizeof what, "%s, %zu parts, step %d", s->name, parts, (int)step);
        if (step == 2 || step == 3) freeze(&whole, step == 2 ? 1 : -1);
        set_gradients(&whole, step);
        for (size_t k = 0; k < parts; k++) {
            if (step == 2 || step == 3) freeze(&replicas[k], step == 2 ? 1 : -1);
            scatter_gradients(&replicas[k], &whole, k, parts);
        }
        OK(whole.ctx, dqt_updater_step(whole.updater, whole.tape, step_rate(rate_of(step)), &expected));
        CHECKF(expected.flipped > 0, "%s: nothing was updated", what);
        const size_t allocations = replicas[0].memory.calls;
        times = step_together(replicas, parts, rate_of(step), stats);
        CHECKF(replicas[0].memory.calls == allocations, "%s: a step allocated", what);
        for (size_t k = 0; k < parts; k++)
            CHECKF(memcmp(&stats[k], &expected, sizeof expected) == 0, "%s: stats of part %zu", what, k);
        gather(replicas, parts);
        for (size_t k = 0; k < parts; k++)
            compare_weights(&replicas[k], &whole, what);
    }
    for (size_t k = 0; k < parts; k++)
        compare_states(&replicas[k], &whole, k, parts, what);
    if (s->optimizer != DQT_OPTIMIZER_ADAFACTOR) CHECKF(times == 2, "%s: %zu exchanges", what, times);
    for (size_t k = 0; k < parts; k++)
        close_replica(&replicas[k]);
    close_replica(&whole);
}

static void parts_are_the_whole(void) {
    static const size_t parts[] = {1, 2, 3, 5, 8};
    for (int s = 0; s < SETTINGS; s++)
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            run_setting(&settings[s], parts[k]);
}

/* A file of all rows goes into updaters of one part, which take theirs out of it; a part's own file goes into that part
 * alone. A damaged one changes nothing. */
static void files_of_all_rows(void) {
    for (int s = 0; s < SETTINGS; s++) {
        struct replica whole, r[3];
        struct memory_file file = memory_new();
        open_replica(&whole, &settings[s], 1, 0, 0);
        for (uint64_t step = 0; step < 2; step++) {
            set_gradients(&whole, step);
            OK(whole.ctx, dqt_updater_step(whole.updater, whole.tape, step_rate(rate_of(step)), NULL));
        }
        OK(whole.ctx, dqt_layers_write(whole.layers, LAYERS, whole.updater, memory_write, &file, NULL));
        for (size_t k = 0; k < 3; k++) {
            struct memory_file own = memory_new();
            open_replica(&r[k], &settings[s], 1, k, 3);
            file.position = 0;
            OK(r[k].ctx, dqt_layers_read(r[k].layers, LAYERS, r[k].updater, memory_read, &file, NULL, NULL));
            compare_weights(&r[k], &whole, settings[s].name);
            compare_states(&r[k], &whole, k, 3, settings[s].name);
            OK(r[k].ctx, dqt_updater_write(r[k].updater, memory_write, &own));
            OK(r[k].ctx, dqt_updater_read(r[k].updater, memory_read, &own));
            own.position = 0;
            CHECK(dqt_updater_read(r[k ? 0 : k].updater, memory_read, &own) == (k ? DQT_E_UNSUPPORTED : DQT_OK));
            own.position = 0;
            CHECK(dqt_updater_read(whole.updater, memory_read, &own) == DQT_E_UNSUPPORTED);
            compare_states(&r[0], &whole, 0, 3, settings[s].name);
            free(own.bytes);
        }
        for (size_t k = 0; k < 3; k++)
            close_replica(&r[k]);
        close_replica(&whole);
        free(file.bytes);
    }
}

/* A model whose head is its embedding: backward of all replicas sees the same tokens. */
static void open_model(struct replica *r, dqt_llama **model, size_t part, size_t parts) {
    *r = (struct replica){.memory = counting_new()};
    const dqt_context_options o = counting_options(&r->memory);
    dqt_llama_config c;
    dqt_layer *const *layers;
    size_t num_layers;
    OK(NULL, dqt_context_create(&o, &r->ctx));
    OK(r->ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 200;
    c.hidden_size = 96;
    c.intermediate_size = 130;
    c.num_layers = 2;
    c.num_heads = 4;
    c.tie_embeddings = 1;
    c.linear.scale_axis = DQT_AXIS_ROW;
    c.linear.train_scale = 1;
    OK(r->ctx, dqt_llama_create(r->ctx, &c, model));
    OK(r->ctx, dqt_llama_get_layers(*model, &layers, &num_layers));
    dqt_tape_options t;
    OK(r->ctx, dqt_tape_options_init(&t, sizeof t));
    t.max_length = 20;
    OK(r->ctx, dqt_tape_create(r->ctx, layers, num_layers, &t, &r->tape));
    dqt_updater_options u = options_of(&settings[5], part, parts);
    OK(r->ctx, dqt_updater_create(r->ctx, layers, num_layers, &u, &r->updater));
    OK(r->ctx, dqt_tape_get_num_parameters(r->tape, &r->count));
}

static void model_gradients(struct replica *r, dqt_llama *model, int step) {
    int32_t tokens[20], targets[20];
    float loss;
    for (int i = 0; i < 20; i++) {
        tokens[i] = (i * i + 31 * step) % 200;
        targets[i] = (i * 7 + step) % 200;
    }
    OK(r->ctx, dqt_tape_zero_gradients(r->tape));
    OK(r->ctx, dqt_llama_loss(model, r->tape, batch_pairs(tokens, targets, 1, 20), &loss, NULL));
    OK(r->ctx, dqt_llama_backward(model, r->tape, 1));
}

static void tied_model(void) {
    struct replica r[4]; /* the last has all rows */
    dqt_llama *models[4];
    struct memory_file files[4];
    for (size_t k = 0; k < 4; k++)
        open_model(&r[k], &models[k], k % 3, k < 3 ? 3 : 0);
    for (int step = 0; step < STEPS; step++) {
        dqt_step_stats stats[MOST_PARTS];
        for (size_t k = 0; k < 4; k++)
            model_gradients(&r[k], models[k], step);
        step_together(r, 3, 0.01f, stats);
        gather(r, 3);
        OK(r[3].ctx, dqt_updater_step(r[3].updater, r[3].tape, step_rate(0.01f), NULL));
        for (size_t k = 0; k < 4; k++) {
            files[k] = memory_new();
            OK(r[k].ctx, dqt_llama_write(models[k], NULL, memory_write, &files[k], NULL));
        }
        for (size_t k = 0; k < 4; k++) {
            CHECKF(files[k].size == files[3].size && memcmp(files[k].bytes, files[3].bytes, files[k].size) == 0,
                   "the model of part %zu after step %d", k, step);
            if (k < 3) free(files[k].bytes);
        }
        free(files[3].bytes);
    }
    for (size_t k = 0; k < 4; k++)
        compare_states(&r[k], &r[3], k % 3, k < 3 ? 3 : 1, "tied model");
    for (size_t k = 0; k < 4; k++) {
        dqt_updater_destroy(r[k].updater);
        dqt_tape_destroy(r[k].tape);
        dqt_llama_destroy(models[k]);
        counting_end(r[k].ctx, &r[k].memory);
    }
}

/* What a part takes: state of its rows, and of all what is not of rows. */
static void memory_falls(void) {
    for (int i = 0; i < SETTINGS; i++)
        for (size_t parts = 2; parts <= MOST_PARTS; parts++) {
            struct replica r;
            dqt_updater_memory_info whole = {.struct_size = sizeof whole}, sum = {0};
            open_layers(&r, 1);
            dqt_updater_options u = options_of(&settings[i], 0, 0);
            OK(r.ctx, dqt_updater_memory(r.ctx, r.layers, LAYERS, &u, &whole));
            for (size_t part = 0; part < parts; part++) {
                dqt_updater_memory_info m = {.struct_size = sizeof m};
                u = options_of(&settings[i], part, parts);
                OK(r.ctx, dqt_updater_memory(r.ctx, r.layers, LAYERS, &u, &m));
                CHECKF(m.momentum <= whole.momentum * 3 / (2 * parts) + LAYERS * 2 * 64 + 64 * 130 * 4,
                       "%s: part %zu of %zu has %zu of %zu bytes of momentum", settings[i].name, part, parts,
                       m.momentum, whole.momentum);
                sum.momentum += m.momentum;
                sum.variance += m.variance;
            }
            /* arrays begin at multiples of 64 bytes; column statistics are in each */
            const size_t slack = parts * LAYERS * 3 * 64 + parts * 512 * sizeof(float);
            CHECKF(sum.momentum >= whole.momentum && sum.momentum <= whole.momentum + slack, "%zu, whole %zu",
                   sum.momentum, whole.momentum);
            CHECKF(sum.variance >= whole.variance && sum.variance <= whole.variance + slack, "%zu, whole %zu",
                   sum.variance, whole.variance);
            for (int k = 0; k < LAYERS; k++)
                dqt_layer_destroy(r.layers[k]);
            counting_end(r.ctx, &r.memory);
        }
}

/* Parts cover each row once, in tiles of 64; no two of a parameter, and none of all together, differ by more than one.
 */
static void ranges(void) {
    struct replica r;
    open_replica(&r, &settings[0], 1, 1, 3); /* whose own part does not matter */
    for (size_t parts = 1; parts <= 9; parts++) {
        size_t total[9] = {0};
        for (size_t i = 0; i < r.count; i++) {
            const size_t rows = parameter(&r, i).rows, tiles = (rows + 63) / 64;
            size_t next = 0;
            for (size_t part = 0; part < parts; part++) {
                size_t row, count;
                OK(r.ctx, dqt_updater_get_part(r.updater, i, part, parts, &row, &count));
                CHECK(row % 64 == 0 || (count == 0 && row == rows));
                total[part] += (count + 63) / 64;
                CHECKF((count + 63) / 64 - tiles / parts <= 1, "parameter %zu, part %zu of %zu has %zu rows", i, part,
                       parts, count);
                if (count == 0) continue;
                CHECKF(row == next, "parameter %zu, part %zu of %zu begins at %zu, not %zu", i, part, parts, row, next);
                next = row + count;
            }
            CHECKF(next == rows, "parameter %zu of %zu parts: %zu of %zu rows", i, parts, next, rows);
        }
        for (size_t part = 0; part < parts; part++)
            CHECKF(total[0] >= total[part] && total[0] <= total[part] + 1, "%zu parts: %zu and %zu tiles", parts,
                   total[0], total[part]);
    }
    close_replica(&r);
}

#define REFUSED(call, expected, words)                                                                                 \
    do {                                                                                                               \
        const dqt_status refused = (call);                                                                             \
        CHECKF(refused == (expected), "status %d", (int)refused);                                                      \
        CHECKF(strstr(dqt_last_error(r[0].ctx), words), "%s", dqt_last_error(r[0].ctx));                               \
    } while (0)

/* A gradient that is not finite is found by all parts, whoever has it, before anything is changed. */
static void not_finite_anywhere(void) {
    const struct setting *s = &settings[5];
    struct replica whole, r[3], same;
    dqt_step_sums sums[3];
    open_replica(&whole, s, 1, 0, 0);
    open_replica(&same, s, 1, 0, 0);
    set_gradients(&whole, 1);
    for (size_t k = 0; k < 3; k++) {
        open_replica(&r[k], s, 1, k, 3);
        scatter_gradients(&r[k], &whole, k, 3);
    }
    const float infinite[20] = {INFINITY};
    OK(r[2].ctx, dqt_tape_set_gradient(r[2].tape, 3, 319, 1, infinite));
    for (size_t k = 0; k < 3; k++) {
        sums[k] = (dqt_step_sums){.struct_size = sizeof *sums};
        OK(r[k].ctx, dqt_updater_begin_step(r[k].updater, r[k].tape, step_rate(0.1f), &sums[k]));
    }
    exchange(sums, 3);
    for (size_t k = 0; k < 3; k++) {
        CHECK(dqt_updater_continue_step(r[k].updater, r[k].tape, &sums[k], NULL) == DQT_E_NUMERIC);
        CHECK(!sums[k].data && !sums[k].offsets);
        compare_weights(&r[k], &same, "after a gradient that is not finite");
        compare_states(&r[k], &same, k, 3, "after a gradient that is not finite");
    }
    REFUSED(dqt_updater_continue_step(r[0].updater, r[0].tape, &sums[0], NULL), DQT_E_STATE, "no step");
    for (size_t k = 0; k < 3; k++)
        close_replica(&r[k]);
    close_replica(&same);
    close_replica(&whole);
}

/* Sums that no part can have sent are refused, and with right ones the step goes on to the same bits. */
static void wrong_sums(void) {
    const struct setting *s = &settings[5];
    struct replica whole, r[1];
    dqt_step_sums sums = {.struct_size = sizeof sums};
    open_replica(&whole, s, 1, 0, 0);
    open_replica(&r[0], s, 1, 0, 1);
    set_gradients(&whole, 1);
    set_gradients(&r[0], 1);
    OK(whole.ctx, dqt_updater_step(whole.updater, whole.tape, step_rate(0.01f), NULL));
    OK(r[0].ctx, dqt_updater_begin_step(r[0].updater, r[0].tape, step_rate(0.01f), &sums));
    OK(r[0].ctx, dqt_updater_continue_step(r[0].updater, r[0].tape, &sums, NULL));
    size_t points = 0;
    for (; sums.data; points++) {
        float *first = sums.data, kept[2];
        memcpy(kept, first, sizeof kept);
        first[0] = first[1] = -1; /* as floats and as a double */
        REFUSED(dqt_updater_continue_step(r[0].updater, r[0].tape, &sums, NULL), DQT_E_NUMERIC, "no part");
        memset(first, 0xff, sizeof kept);
        REFUSED(dqt_updater_continue_step(r[0].updater, r[0].tape, &sums, NULL), DQT_E_NUMERIC, "no part");
        memcpy(first, kept, sizeof kept);
        OK(r[0].ctx, dqt_updater_continue_step(r[0].updater, r[0].tape, &sums, NULL));
    }
    CHECK(points > 3);
    compare_weights(&r[0], &whole, "after wrong sums");
    compare_states(&r[0], &whole, 0, 1, "after wrong sums");
    close_replica(&r[0]);
    close_replica(&whole);
}

/* Mistakes change nothing. */
static void mistakes(void) {
    struct replica r[1], same;
    open_replica(&r[0], &settings[2], 1, 0, 2);
    open_replica(&same, &settings[2], 1, 0, 0);
    dqt_updater *u = r[0].updater, *other = NULL;
    dqt_tape *tape = r[0].tape;
    dqt_step_sums sums = {.struct_size = sizeof sums};
    size_t row, count;
    uint64_t step = 9;
    set_gradients(&r[0], 0);
    REFUSED(dqt_updater_step(u, tape, step_rate(0.1f), NULL), DQT_E_UNSUPPORTED, "part 0 of 2");
    REFUSED(dqt_updater_begin_step(u, NULL, step_rate(0.1f), &sums), DQT_E_ARGUMENT, "tape");
    REFUSED(dqt_updater_begin_step(u, tape, NULL, &sums), DQT_E_ARGUMENT, "options");
    REFUSED(dqt_updater_begin_step(u, tape, step_rate(0.1f), NULL), DQT_E_ARGUMENT, "sums");
    REFUSED(dqt_updater_begin_step(u, tape, step_rate(-0.1f), &sums), DQT_E_ARGUMENT, "learning_rate");
    REFUSED(dqt_updater_begin_step(u, tape, step_rate(1e38f), &sums), DQT_E_NUMERIC, "learning rate");
    REFUSED(dqt_updater_continue_step(u, tape, &sums, NULL), DQT_E_STATE, "no step");
    CHECK(dqt_updater_begin_step(NULL, tape, step_rate(0.1f), &sums) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_continue_step(NULL, tape, &sums, NULL) == DQT_E_ARGUMENT);
    OK(r[0].ctx, dqt_updater_begin_step(u, tape, step_rate(0.1f), &sums));
    REFUSED(dqt_updater_begin_step(u, tape, step_rate(0.1f), &sums), DQT_E_STATE, "is open");
    REFUSED(dqt_updater_set_step(u, 3), DQT_E_STATE, "is open");
    REFUSED(dqt_updater_continue_step(u, NULL, &sums, NULL), DQT_E_ARGUMENT, "tape");
    REFUSED(dqt_updater_continue_step(u, tape, NULL, NULL), DQT_E_ARGUMENT, "sums");
    OK(r[0].ctx, dqt_updater_get_step(u, &step));
    CHECK(step == 0);
    compare_weights(&r[0], &same, "after mistakes");
    compare_states(&r[0], &same, 0, 2, "after mistakes");
    dqt_updater_options o = options_of(&settings[2], 2, 2);
    REFUSED(dqt_updater_create(r[0].ctx, r[0].layers, LAYERS, &o, &other), DQT_E_ARGUMENT, "part is 2");
    o = options_of(&settings[2], 1, 0);
    REFUSED(dqt_updater_create(r[0].ctx, r[0].layers, LAYERS, &o, &other), DQT_E_ARGUMENT, "part is 1");
    o = options_of(&settings[2], 1, 65537);
    REFUSED(dqt_updater_create(r[0].ctx, r[0].layers, LAYERS, &o, &other), DQT_E_UNSUPPORTED, "num_parts is 65537");
    OK(r[0].ctx, dqt_updater_get_options(u, &o));
    CHECK(o.part == 0 && o.num_parts == 2);
    CHECK(dqt_updater_get_part(NULL, 0, 0, 1, &row, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(u, r[0].count, 0, 1, &row, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(u, 0, 1, 1, &row, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(u, 0, 0, 0, &row, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(u, 0, 0, 1, NULL, &count) == DQT_E_ARGUMENT);
    CHECK(dqt_updater_get_part(u, 0, 0, 1, &row, NULL) == DQT_E_ARGUMENT);
    close_replica(&same);
    close_replica(&r[0]);
}

static const struct test tests[] = {TEST(parts_are_the_whole), TEST(tied_model), TEST(files_of_all_rows),
                                    TEST(memory_falls),        TEST(ranges),     TEST(not_finite_anywhere),
                                    TEST(wrong_sums),          TEST(mistakes)};
TEST_MAIN(tests)
