/* Partial models: stages of a pipeline against one process, bit for bit, with the same micro-batches. */
#include "partial_world.h"

#include <math.h>

/* Blocks of the stages; 0 ends. */
static const size_t splits[][MOST_STAGES + 1] = {{5}, {2, 3}, {1, 3, 1}, {1, 1, 1, 1, 1}};
enum { SPLITS = sizeof splits / sizeof *splits };

static size_t open_stages(struct stage *s, const struct setting *how, const size_t *blocks) {
    size_t stages = 0;
    for (size_t first = 0; blocks[stages]; first += blocks[stages++])
        stage_open(&s[stages], how, first, blocks[stages], stages == 1 ? 2 : 1);
    return stages;
}

/* Between steps; moves the grid of accumulators, by random numbers. */
static void add_group(const struct stage *t) {
    const dqt_group_options g = {.struct_size = sizeof g, .pattern = "blocks.3.*", .rounding_noise = 0.7f};
    OK(t->ctx, dqt_updater_add_group(t->updater, &g, NULL));
}

static void run(const struct setting *how, const size_t *blocks) {
    struct stage whole, s[MOST_STAGES];
    struct data d;
    char what[160];
    stage_open(&whole, how, 0, 0, 1);
    const size_t stages = open_stages(s, how, blocks);
    for (uint32_t step = 0; step < STEPS; step++) {
        float expected[MICRO], losses[MICRO] = {0};
        dqt_step_stats one = {.struct_size = sizeof one}, stats[MOST_STAGES];
        size_t number = 0, allocations = s[0].memory.calls;
        snprintf(what, sizeof what, "%s, %zu stages, step %u", how->name, stages, (unsigned)step);
        data_of(&d, step);
        for (size_t k = 0; k < stages && step == 2; k++)
            add_group(&s[k]);
        if (step == 2) add_group(&whole);
        whole_gradients(&whole, &d, expected);
        stages_gradients(s, stages, &d, MICRO * (uint64_t)step, losses);
        CHECKF(memcmp(losses, expected, sizeof losses) == 0, "%s: losses", what);
        for (size_t k = 0; k < stages; k++)
            for (size_t i = 0; i < s[k].count; i++)
                compare_gradients(&s[k], i, &whole, number++, what);
        OK(whole.ctx, dqt_updater_step(whole.updater, whole.tape, step_options(), &one));
        CHECKF(one.flipped > 0 && (step == 0 || one.gradient_norm > 0.5), "%s: nothing was updated or clipped", what);
        if (stages > 1) {
            const size_t times = stages_step(s, stages, stats);
            CHECKF(times == 2, "%s: %zu exchanges", what, times);
        } else {
            stats[0] = (dqt_step_stats){.struct_size = sizeof one};
            OK(s[0].ctx, dqt_updater_step(s[0].updater, s[0].tape, step_options(), &stats[0]));
        }
        CHECKF(s[0].memory.calls == allocations, "%s: a step allocated", what);
        for (size_t k = 0; k < stages; k++)
            CHECKF(memcmp(&stats[k], &one, sizeof one) == 0, "%s: stats of stage %zu", what, k);
        compare_stages(s, stages, &whole, what);
    }
    for (size_t k = 0; k < stages; k++)
        stage_close(&s[k]);
    stage_close(&whole);
}

static void stages_are_the_whole(void) {
    for (int i = 0; i < SETTINGS; i++)
        for (int k = 0; k < SPLITS; k++)
            run(&settings[i], splits[k]);
}

/* Weights, state and tape of a stage are those of its blocks; together they are the whole. */
static void memory_is_of_the_blocks(void) {
    struct counting memory = counting_new();
    dqt_context_options o = counting_options(&memory);
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(&o, &ctx));
    dqt_llama_config c = config_of(&settings[0], 0, 0);
    dqt_llama_memory_info whole = {.struct_size = sizeof whole}, two = whole, three = whole, one = whole;
    OK(ctx, dqt_llama_memory(ctx, &c, &whole));
    c = config_of(&settings[0], 0, 2);
    OK(ctx, dqt_llama_memory(ctx, &c, &two));
    c = config_of(&settings[0], 2, 0); /* to the end */
    OK(ctx, dqt_llama_memory(ctx, &c, &three));
    c = config_of(&settings[0], 3, 1);
    OK(ctx, dqt_llama_memory(ctx, &c, &one));
    CHECK(two.linear_bytes * BLOCKS == whole.linear_bytes * 2 && three.linear_bytes * BLOCKS == whole.linear_bytes * 3);
    CHECK(one.linear_weights * BLOCKS == whole.linear_weights);
    CHECK(two.embedding_bytes == whole.embedding_bytes && two.head_bytes == 0);
    CHECK(three.embedding_bytes == 0 && three.head_bytes == whole.head_bytes);
    CHECK(one.embedding_bytes == 0 && one.head_bytes == 0);
    CHECK(two.norm_weights + three.norm_weights == whole.norm_weights);
    CHECKF(one.total < whole.total / BLOCKS, "%zu of %zu bytes", one.total, whole.total);
    counting_end(ctx, &memory);
}

static void config_in_effect(void) {
    struct stage s;
    for (size_t first = 0; first < BLOCKS; first++) {
        stage_open(&s, &settings[1], first, 0, 1);
        dqt_llama_config c = {.struct_size = sizeof c};
        OK(s.ctx, dqt_llama_get_config(s.model, &c));
        CHECK(c.first_block == first && c.num_blocks == BLOCKS - first && c.num_layers == BLOCKS);
        CHECK(s.num_layers == BLOCKS - first + (first ? 2 : 3));
        stage_close(&s);
    }
}

#define REFUSED(call, expected, words)                                                                                 \
    do {                                                                                                               \
        const dqt_status refused = (call);                                                                             \
        CHECKF(refused == (expected), "status %d", (int)refused);                                                      \
        CHECKF(strstr(dqt_last_error(s.ctx), words), "%s", dqt_last_error(s.ctx));                                     \
    } while (0)

static void configs_refused(void) {
    struct stage s;
    dqt_llama *m;
    stage_context(&s, 1);
    dqt_llama_config c = config_of(&settings[0], BLOCKS, 0);
    REFUSED(dqt_llama_create(s.ctx, &c, &m), DQT_E_ARGUMENT, "first_block 5");
    c = config_of(&settings[0], 3, 3);
    REFUSED(dqt_llama_create(s.ctx, &c, &m), DQT_E_ARGUMENT, "num_blocks 3");
    c = config_of(&settings[0], 0, SIZE_MAX);
    REFUSED(dqt_llama_create(s.ctx, &c, &m), DQT_E_ARGUMENT, "num_blocks");
    c = config_of(&settings[0], 1, 0);
    c.tie_embeddings = 1;
    REFUSED(dqt_llama_create(s.ctx, &c, &m), DQT_E_UNSUPPORTED, "tie_embeddings");
    c.first_block = 0;
    c.num_blocks = BLOCKS; /* all of them: not partial */
    OK(s.ctx, dqt_llama_create(s.ctx, &c, &m));
    dqt_llama_destroy(m);
    c = config_of(&settings[1], 1, 1);
    const dqt_tensor_override unknown = {"blocks.5.*", overrides[0].options};
    c.overrides = &unknown;
    c.num_overrides = 1;
    REFUSED(dqt_llama_create(s.ctx, &c, &m), DQT_E_ARGUMENT, "blocks.5");
    CHECK(!m);
    counting_end(s.ctx, &s.memory);
}

/* What needs a whole model, or all stages of a step, says so. */
static void uses_refused(void) {
    struct stage s, other;
    struct data d;
    float loss = 0, logits[4];
    dqt_step_sums sums = {.struct_size = sizeof sums};
    dqt_session *session;
    dqt_session_memory_info info = {.struct_size = sizeof info};
    dqt_updater *updater;
    stage_open(&s, &settings[0], 1, 2, 1);
    stage_open(&other, &settings[0], 0, 2, 1);
    data_of(&d, 0);
    dqt_batch b = micro_batch(&d, 0);
    REFUSED(dqt_llama_loss(s.model, s.tape, &b, &loss, NULL), DQT_E_STATE, "partial: of 5 blocks it has 2 from");
    REFUSED(dqt_llama_forward(s.model, s.tape, &b, logits), DQT_E_STATE, "partial");
    REFUSED(dqt_llama_backward(s.model, s.tape, 1), DQT_E_STATE, "partial");
    REFUSED(dqt_llama_backward_logits(s.model, s.tape, NULL), DQT_E_STATE, "partial");
    REFUSED(dqt_llama_backward_update(s.model, s.tape, s.updater, step_rate(1), NULL), DQT_E_STATE, "partial");
    REFUSED(dqt_session_create(s.model, NULL, &session), DQT_E_STATE, "partial");
    REFUSED(dqt_session_memory(s.model, NULL, &info), DQT_E_STATE, "partial");
    REFUSED(dqt_llama_export_gguf(s.model, "/nowhere", NULL), DQT_E_STATE, "partial");
    REFUSED(dqt_llama_export_safetensors(s.model, "/nowhere", NULL), DQT_E_STATE, "partial");
    REFUSED(dqt_llama_export_folder(s.model, "/nowhere", NULL), DQT_E_STATE, "partial");
    REFUSED(dqt_llama_import_safetensors(s.model, "/nowhere", NULL), DQT_E_STATE, "partial");
    REFUSED(dqt_updater_step(s.updater, s.tape, step_rate(1), NULL), DQT_E_UNSUPPORTED, "partial model");
    REFUSED(dqt_tape_begin_update(s.tape, s.updater, step_rate(1)), DQT_E_UNSUPPORTED, "partial model");
    REFUSED(dqt_llama_forward_blocks(s.model, s.tape, &b, NULL, NULL, NULL), DQT_E_ARGUMENT, "x is NULL");
    REFUSED(dqt_llama_forward_blocks(s.model, other.tape, &b, s.x, NULL, NULL), DQT_E_STATE, "tape");
    REFUSED(dqt_llama_backward_blocks(s.model, s.tape, 1, s.x), DQT_E_STATE, "no forward");
    OK(s.ctx, dqt_llama_forward_blocks(s.model, s.tape, &b, s.x, NULL, NULL));
    REFUSED(dqt_llama_backward_blocks(s.model, s.tape, 1, NULL), DQT_E_ARGUMENT, "dx is NULL");
    OK(s.ctx, dqt_llama_backward_blocks(s.model, s.tape, 1, s.x));
    REFUSED(dqt_llama_backward_blocks(s.model, s.tape, 1, s.x), DQT_E_STATE, "no forward");
    b.tokens = NULL; /* which only the first stage reads, and targets only the last */
    b.targets = NULL;
    OK(s.ctx, dqt_llama_forward_blocks(s.model, s.tape, &b, s.x, NULL, NULL));
    CHECK(dqt_llama_forward_blocks(other.model, other.tape, &b, s.x, NULL, NULL) == DQT_E_ARGUMENT);
    /* a part of a partial model's layers has gaps in its numbers, or is not all */
    dqt_layer *swapped[] = {s.layers[1], s.layers[0]};
    REFUSED(dqt_updater_create(s.ctx, swapped, 2, NULL, &updater), DQT_E_UNSUPPORTED, "in order");
    dqt_updater_options u = updater_of(&settings[0]);
    u.num_parts = 2;
    REFUSED(dqt_updater_create(s.ctx, s.layers, s.num_layers, &u, &updater), DQT_E_UNSUPPORTED, "num_parts is 2");
    REFUSED(dqt_updater_continue_step(s.updater, s.tape, &sums, NULL), DQT_E_STATE, "no step");
    stage_close(&s);
    stage_close(&other);
}

/* A gradient that is not finite on one stage stops all of them before anything is changed; sums that no stage can have
 * sent are refused, and with the right ones the step goes on. */
static void sums_that_are_wrong(void) {
    static const size_t blocks[] = {2, 3, 0};
    struct stage whole, s[2];
    struct data d;
    float losses[MICRO];
    dqt_step_sums sums[2];
    const float infinite[HIDDEN] = {INFINITY};
    stage_open(&whole, &settings[2], 0, 0, 1);
    open_stages(s, &settings[2], blocks);
    data_of(&d, 0);
    whole_gradients(&whole, &d, losses);
    stages_gradients(s, 2, &d, 0, losses);
    OK(s[1].ctx, dqt_tape_set_gradient(s[1].tape, 1, 0, 1, infinite));
    for (int k = 0; k < 2; k++) {
        sums[k] = (dqt_step_sums){.struct_size = sizeof *sums};
        OK(s[k].ctx, dqt_updater_begin_step(s[k].updater, s[k].tape, step_options(), &sums[k]));
    }
    exchange(sums, 2);
    for (int k = 0; k < 2; k++) {
        CHECK(dqt_updater_continue_step(s[k].updater, s[k].tape, &sums[k], NULL) == DQT_E_NUMERIC);
        CHECKF(strstr(dqt_last_error(s[k].ctx), "not finite"), "%s", dqt_last_error(s[k].ctx));
        CHECK(!sums[k].data);
    }
    compare_stages(s, 2, &whole, "after a gradient that is not finite");

    stages_gradients(s, 2, &d, 0, losses);
    OK(whole.ctx, dqt_updater_step(whole.updater, whole.tape, step_options(), NULL));
    for (int k = 0; k < 2; k++)
        OK(s[k].ctx, dqt_updater_begin_step(s[k].updater, s[k].tape, step_options(), &sums[k]));
    exchange(sums, 2);
    for (int k = 0; k < 2; k++)
        OK(s[k].ctx, dqt_updater_continue_step(s[k].updater, s[k].tape, &sums[k], NULL));
    exchange(sums, 2);
    for (int i = 0; i < 4; i++) {
        double *number = (double *)sums[0].data + i + (i == 1 ? 4 : 0), kept = *number;
        *number = i == 0 ? -1.0 : i == 1 ? INFINITY : 1e300;
        CHECK(dqt_updater_continue_step(s[0].updater, s[0].tape, &sums[0], NULL) == DQT_E_NUMERIC);
        CHECK(sums[0].data);
        *number = kept;
    }
    for (int k = 0; k < 2; k++)
        OK(s[k].ctx, dqt_updater_continue_step(s[k].updater, s[k].tape, &sums[k], NULL));
    compare_stages(s, 2, &whole, "after wrong sums");
    for (int k = 0; k < 2; k++)
        stage_close(&s[k]);
    stage_close(&whole);
}

static const struct test tests[] = {TEST(stages_are_the_whole), TEST(memory_is_of_the_blocks),
                                    TEST(config_in_effect),     TEST(configs_refused),
                                    TEST(uses_refused),         TEST(sums_that_are_wrong)};
TEST_MAIN(tests)
