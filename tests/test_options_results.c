/* Versioned structs that the library fills: every function that does, with callers that are older (smaller structs),
 * newer (larger ones) or wrong. */
#include "options_world.h"

/* ---- Results ------------------------------------------------------------------------------------------------- */

static dqt_status get_tensor_info(void *r) {
    return dqt_tensor_get_info(tensor, r);
}
static dqt_status get_tensor_stats(void *r) {
    return dqt_tensor_get_stats(tensor, r);
}
static dqt_status get_layer_info(void *r) {
    return dqt_layer_get_info(linear, r);
}
static dqt_status get_parameter(void *r) {
    return dqt_layer_get_parameter(linear, 0, r);
}
static dqt_status get_tape_parameter(void *r) {
    return dqt_tape_get_parameter(tape, 0, r);
}
static dqt_status get_tape_memory(void *r) {
    return dqt_tape_memory(ctx, &linear, 1, NULL, r);
}
static dqt_status get_llama_memory(void *r) {
    return dqt_llama_memory(ctx, NULL, r);
}
static dqt_status get_session_memory(void *r) {
    return dqt_session_memory(model, NULL, r);
}
static dqt_status get_config(void *r) {
    return dqt_llama_get_config(model, r);
}
static dqt_status get_updater_memory(void *r) {
    return dqt_updater_memory(ctx, &linear, 1, NULL, r);
}
static dqt_status get_updater_options(void *r) {
    return dqt_updater_get_options(updater, r);
}
static dqt_status get_rule(void *r) {
    return dqt_updater_get_rule(updater, 0, r);
}
static dqt_status get_tape_options(void *r) {
    return dqt_tape_get_options(tape, r);
}
static dqt_status get_session_options(void *r) {
    dqt_session *session;
    OK(ctx, dqt_session_create(model, NULL, &session));
    const dqt_status status = dqt_session_get_options(session, r);
    dqt_session_destroy(session);
    return status;
}
static dqt_status get_preset(void *r) {
    return dqt_preset_get(NULL, NULL, NULL, r);
}
static dqt_status get_preset_updater(void *r) {
    dqt_preset preset = DQT_INIT(dqt_preset);
    return dqt_preset_get(NULL, NULL, r, &preset);
}
/* Without model and updater, whose addresses would be others each time. */
static dqt_status get_checkpoint(void *r) {
    struct memory_file file = memory_new();
    OK(ctx, dqt_layers_write(&linear, 1, NULL, memory_write, &file, NULL));
    const dqt_status status = dqt_layers_read(&linear, 1, NULL, memory_read, &file, NULL, r);
    free(file.bytes);
    return status;
}
/* Always the first step, with zero gradients. */
static dqt_status get_step_stats(void *r) {
    OK(ctx, dqt_updater_set_step(updater, 0));
    return dqt_updater_step(updater, tape, step_rate(0), r);
}
/* The first exchange of a step, or its end, which fills the stats; the step is brought to its end. */
static dqt_status get_step_sums(void *r) {
    dqt_step_sums sums = {.struct_size = sizeof sums};
    OK(ctx, dqt_updater_set_step(updater, 0));
    const dqt_status status = dqt_updater_begin_step(updater, tape, step_rate(0), r);
    if (status != DQT_OK) return status;
    do
        OK(ctx, dqt_updater_continue_step(updater, tape, &sums, NULL));
    while (sums.data);
    return DQT_OK;
}
static dqt_status get_continued_sums(void *r) {
    dqt_step_sums sums = {.struct_size = sizeof sums};
    OK(ctx, dqt_updater_set_step(updater, 0));
    OK(ctx, dqt_updater_begin_step(updater, tape, step_rate(0), &sums));
    const dqt_status status = dqt_updater_continue_step(updater, tape, r, NULL);
    while (sums.data)
        OK(ctx, dqt_updater_continue_step(updater, tape, &sums, NULL));
    return status;
}
static dqt_status get_continued_stats(void *r) {
    dqt_step_sums sums = {.struct_size = sizeof sums};
    dqt_status status = DQT_OK;
    OK(ctx, dqt_updater_set_step(updater, 0));
    OK(ctx, dqt_updater_begin_step(updater, tape, step_rate(0), &sums));
    while (sums.data && status == DQT_OK)
        status = dqt_updater_continue_step(updater, tape, &sums, r);
    while (sums.data)
        OK(ctx, dqt_updater_continue_step(updater, tape, &sums, NULL));
    return status;
}
static dqt_status get_fused_stats(void *r) {
    static const int32_t tokens[2] = {1, 2}, targets[2] = {-1, -1};
    float loss;
    OK(ctx, dqt_updater_set_step(model_updater, 0));
    OK(ctx, dqt_llama_loss(model, model_tape, batch_pairs(tokens, targets, 1, 2), &loss, NULL));
    return dqt_llama_backward_update(model, model_tape, model_updater, step_rate(0), r);
}

static const struct result_case {
    const char *name;
    size_t size;
    dqt_status (*get)(void *result);
    bool optional; /* NULL: not wanted */
    bool apart;    /* failures are in no context */
} results[] = {
    {"dqt_tensor_info", sizeof(dqt_tensor_info), get_tensor_info, false, false},
    {"dqt_tensor_stats", sizeof(dqt_tensor_stats), get_tensor_stats, false, false},
    {"dqt_layer_info", sizeof(dqt_layer_info), get_layer_info, false, false},
    {"dqt_parameter", sizeof(dqt_parameter), get_parameter, false, false},
    {"dqt_parameter", sizeof(dqt_parameter), get_tape_parameter, false, false},
    {"dqt_tape_memory_info", sizeof(dqt_tape_memory_info), get_tape_memory, false, false},
    {"dqt_llama_memory_info", sizeof(dqt_llama_memory_info), get_llama_memory, false, false},
    {"dqt_session_memory_info", sizeof(dqt_session_memory_info), get_session_memory, false, false},
    {"dqt_llama_config", sizeof(dqt_llama_config), get_config, false, false},
    {"dqt_updater_memory_info", sizeof(dqt_updater_memory_info), get_updater_memory, false, false},
    {"dqt_updater_options", sizeof(dqt_updater_options), get_updater_options, false, false},
    {"dqt_tape_options", sizeof(dqt_tape_options), get_tape_options, false, false},
    {"dqt_session_options", sizeof(dqt_session_options), get_session_options, false, false},
    {"dqt_preset", sizeof(dqt_preset), get_preset, false, true},
    {"dqt_updater_options", sizeof(dqt_updater_options), get_preset_updater, true, true},
    {"dqt_checkpoint", sizeof(dqt_checkpoint), get_checkpoint, true, false},
    {"dqt_parameter_rule", sizeof(dqt_parameter_rule), get_rule, false, false},
    {"dqt_step_stats", sizeof(dqt_step_stats), get_step_stats, true, false},
    {"dqt_step_sums", sizeof(dqt_step_sums), get_step_sums, false, false},
    {"dqt_step_sums", sizeof(dqt_step_sums), get_continued_sums, false, false},
    {"dqt_step_stats", sizeof(dqt_step_stats), get_continued_stats, true, false},
    {"dqt_step_stats", sizeof(dqt_step_stats), get_fused_stats, true, false},
};
enum { RESULTS = sizeof results / sizeof *results };

static void results_fill_struct_size(void) {
    begin();
    static unsigned char full[4096], buffer[4096];
    for (size_t i = 0; i < RESULTS; i++) {
        const struct result_case *c = &results[i];
        memset(full, 0, sizeof full);
        const uint32_t full_size = (uint32_t)c->size;
        memcpy(full, &full_size, sizeof full_size);
        OK(ctx, c->get(full));
        for (uint32_t size = sizeof(uint32_t); size <= c->size + MORE; size += c->size > 1000 && size > 64 ? 252 : 4) {
            memset(buffer, 0xCC, sizeof buffer);
            memcpy(buffer, &size, sizeof size);
            OK(ctx, c->get(buffer));
            CHECK(memcmp(buffer, &size, sizeof size) == 0);
            const size_t known = size < c->size ? size : c->size;
            CHECKF(memcmp(buffer + 4, full + 4, known - 4) == 0, "%s of %u bytes", c->name, (unsigned)size);
            for (size_t k = known; k < size; k++)
                CHECK(buffer[k] == 0);
            for (size_t k = size; k < sizeof buffer; k++)
                CHECKF(buffer[k] == 0xCC, "%s: byte %zu of a struct of %u bytes was written", c->name, k,
                       (unsigned)size);
        }
    }
    end();
}

/* A result struct without a size is refused before anything happens: no step is made. */
static void results_refuse(void) {
    begin();
    for (size_t i = 0; i < RESULTS; i++) {
        const struct result_case *c = &results[i];
        const uint32_t wrong[] = {0, 1, 3, (uint32_t)c->size + MOST + 1, 4096, 0xCCCCCCCCu};
        static unsigned char buffer[4096];
        for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
            memset(buffer, 0xCC, sizeof buffer);
            memcpy(buffer, &wrong[k], sizeof wrong[k]);
            CHECK(c->get(buffer) == DQT_E_ARGUMENT);
            const char *error = dqt_last_error(c->apart ? NULL : ctx);
            CHECKF(strstr(error, c->name), "%s: %s", c->name, error);
            for (size_t b = 4; b < sizeof buffer; b++)
                CHECK(buffer[b] == 0xCC);
            uint64_t step = 99;
            OK(ctx, dqt_updater_get_step(c->get == get_fused_stats ? model_updater : updater, &step));
            if (c->get == get_step_stats || c->get == get_fused_stats) CHECKF(step == 0, "%s", c->name);
        }
        CHECKF(c->get(NULL) == (c->optional ? DQT_OK : DQT_E_ARGUMENT), "%s: NULL", c->name);
    }
    end();
}

static const struct test tests[] = {TEST(results_fill_struct_size), TEST(results_refuse)};
TEST_MAIN(tests)
