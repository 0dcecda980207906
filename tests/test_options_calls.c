/* Versioned structs without *_init, which hosts begin with DQT_INIT: every call that takes one, with callers that are
 * older (smaller structs), newer (larger ones) or wrong; and arrays of structs, whose elements lie as far apart as the
 * first one says. */
#include "options_world.h"

static const int32_t tokens[2] = {1, 2};
static dqt_session *session, *other;

static void begin_calls(void) {
    begin();
    OK(ctx, dqt_session_create(model, NULL, &session));
    OK(ctx, dqt_session_create(model, NULL, &other));
}

static void end_calls(void) {
    dqt_session_destroy(session);
    dqt_session_destroy(other);
    end();
}

/* The first `size` bytes of a struct, and zeros behind. */
static dqt_status part_of(void *o, size_t size, const void *whole, size_t whole_size) {
    const uint32_t struct_size = (uint32_t)size;
    memset(o, 0, size);
    memcpy(o, whole, size < whole_size ? size : whole_size);
    memcpy(o, &struct_size, sizeof struct_size);
    return DQT_OK;
}

static dqt_status init_batch(void *o, size_t size) {
    const dqt_batch b = {.struct_size = sizeof b, .length = 2, .tokens = tokens, .targets = tokens};
    return part_of(o, size, &b, sizeof b);
}
static dqt_status init_step(void *o, size_t size) {
    const dqt_step_options s = {.struct_size = sizeof s, .learning_rate = 0.01f};
    return part_of(o, size, &s, sizeof s);
}
static dqt_status init_logits_gradient(void *o, size_t size) {
    static const float dlogits[2 * 256];
    const dqt_logits_gradient g = {.struct_size = sizeof g, .dlogits = dlogits};
    return part_of(o, size, &g, sizeof g);
}
static dqt_status init_session_step(void *o, size_t size) {
    const dqt_session_step s = {.struct_size = sizeof s, .session = session, .tokens = tokens, .count = 2};
    return part_of(o, size, &s, sizeof s);
}
static dqt_status init_gguf_key(void *o, size_t size) {
    const dqt_gguf_key k = {
        .struct_size = sizeof k, .value_type = DQT_GGUF_VALUE_STRING, .key = "general.name", .text = "x"};
    return part_of(o, size, &k, sizeof k);
}

static dqt_status use_layer_forward(const void *o) {
    static const float x[16];
    float y[8];
    return dqt_layer_forward(linear, tape, o, x, y);
}
static dqt_status use_embedding(const void *o) {
    dqt_layer *const *layers;
    size_t n;
    float y[32];
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    return dqt_embedding_forward(layers[0], model_tape, o, y);
}
static dqt_status use_head(const void *o) {
    dqt_layer *const *layers;
    size_t n;
    static const float x[32];
    float loss;
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    return dqt_head_loss(layers[n - 1], model_tape, o, x, &loss, NULL);
}
static dqt_status use_head_logits(const void *o) {
    dqt_layer *const *layers;
    size_t n;
    static const float x[32];
    static float logits[2 * 256];
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    return dqt_head_logits(layers[n - 1], model_tape, o, x, logits);
}
static dqt_status use_forward(const void *o) {
    return dqt_llama_forward(model, model_tape, o, NULL);
}
static dqt_status use_loss(const void *o) {
    float loss;
    return dqt_llama_loss(model, model_tape, o, &loss, NULL);
}
static dqt_status use_blocks(const void *o) {
    float x[32] = {0}, loss;
    return dqt_llama_forward_blocks(model, model_tape, o, x, &loss, NULL);
}
static dqt_status use_step(const void *o) {
    return dqt_updater_step(updater, tape, o, NULL);
}
static dqt_status use_update(const void *o) {
    const dqt_status status = dqt_tape_begin_update(model_tape, model_updater, o);
    if (status == DQT_OK) OK(ctx, dqt_tape_end_update(model_tape, NULL));
    return status;
}
static dqt_status use_fused(const void *o) {
    OK(ctx, use_loss(batch_pairs(tokens, tokens, 1, 2)));
    return dqt_llama_backward_update(model, model_tape, model_updater, o, NULL);
}
static dqt_status use_gradient(const void *o) {
    OK(ctx, use_forward(batch_tokens(tokens, 1, 2)));
    return dqt_llama_backward_logits(model, model_tape, o);
}
static dqt_status use_head_gradient(const void *o) {
    dqt_layer *const *layers;
    size_t n;
    OK(ctx, use_head_logits(batch_shape(1, 2)));
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    return dqt_head_backward_logits(layers[n - 1], model_tape, o, NULL);
}
static dqt_status use_sessions(const void *o) {
    OK(ctx, dqt_session_truncate(session, 0));
    return dqt_sessions_append(o, 1);
}
static dqt_status use_gguf_key(const void *o) {
    dqt_gguf_options g = DQT_INIT(dqt_gguf_options);
    struct memory_file f = memory_new();
    g.keys = o;
    g.num_keys = 1;
    const dqt_status status = dqt_llama_write_gguf(model, memory_write, &f, &g);
    free(f.bytes);
    return status;
}

#define UP_TO(type, member) (offsetof(type, member) + sizeof((type *)0)->member)
#define BATCH(use, last)                                                                                               \
    { "dqt_batch", sizeof(dqt_batch), init_batch, use, 4, UP_TO(dqt_batch, last), true, false }
static const struct options_case cases[] = {
    BATCH(use_layer_forward, length),
    BATCH(use_embedding, tokens),
    BATCH(use_head, targets),
    BATCH(use_head_logits, length),
    BATCH(use_forward, tokens),
    BATCH(use_loss, targets),
    BATCH(use_blocks, targets),
    {"dqt_step_options", sizeof(dqt_step_options), init_step, use_step, 4, 0, true, false},
    {"dqt_step_options", sizeof(dqt_step_options), init_step, use_update, 4, 0, true, false},
    {"dqt_step_options", sizeof(dqt_step_options), init_step, use_fused, 4, 0, true, false},
    {"dqt_logits_gradient", sizeof(dqt_logits_gradient), init_logits_gradient, use_gradient, 4,
     UP_TO(dqt_logits_gradient, dlogits), true, false},
    {"dqt_logits_gradient", sizeof(dqt_logits_gradient), init_logits_gradient, use_head_gradient, 4,
     UP_TO(dqt_logits_gradient, dlogits), true, false},
    {"dqt_gguf_key", sizeof(dqt_gguf_key), init_gguf_key, use_gguf_key, 4, UP_TO(dqt_gguf_key, text), true, false},
    {"dqt_session_step", sizeof(dqt_session_step), init_session_step, use_sessions, 4, UP_TO(dqt_session_step, count),
     true, true},
};
enum { CASES = sizeof cases / sizeof *cases };

static void older_callers(void) {
    begin_calls();
    for (size_t i = 0; i < CASES; i++)
        try_older(&cases[i]);
    end_calls();
}

static void newer_callers(void) {
    begin_calls();
    for (size_t i = 0; i < CASES; i++)
        try_newer(&cases[i]);
    end_calls();
}

static void uninitialised_structs(void) {
    begin_calls();
    for (size_t i = 0; i < CASES; i++)
        try_uninitialised(&cases[i]);
    end_calls();
}

/* A newer caller's array: its elements are read where they are, and what is behind the known part must be zero in each
 * of them. An older caller's: elements lie closer together. */
static void arrays(void) {
    begin_calls();
    struct newer_step {
        dqt_session_step step;
        uint64_t added;
    } steps[2] = {{{.struct_size = sizeof *steps, .session = session, .tokens = tokens, .count = 1}, 0},
                  {{.struct_size = sizeof *steps, .session = other, .tokens = tokens, .count = 2}, 0}};
    size_t length = 0;
    OK(ctx, dqt_sessions_append(&steps->step, 2));
    OK(ctx, dqt_session_get_length(other, &length));
    CHECK(length == 2);
    steps[1].added = 1;
    CHECK(dqt_sessions_append(&steps->step, 2) == DQT_E_ARGUMENT);
    steps[1].added = 0;
    steps[1].step.struct_size = 0xCCCCCCCCu;
    CHECK(dqt_sessions_append(&steps->step, 2) == DQT_E_ARGUMENT);
    CHECKF(strncmp(dqt_last_error(ctx), "steps[1].struct_size is 3435973836; that of steps[0] is ", 56) == 0, "%s",
           dqt_last_error(ctx));

    struct newer_group {
        dqt_group_options group;
        uint64_t added;
    } groups[2] = {{{.struct_size = sizeof *groups, .lr_factor = 0.5f}, 0},
                   {{.struct_size = sizeof *groups, .lr_factor = 0.25f}, 0}};
    dqt_updater_options o = DQT_INIT(dqt_updater_options);
    dqt_parameter_rule rule = DQT_INIT(dqt_parameter_rule);
    dqt_updater *u = NULL;
    o.groups = &groups->group;
    o.num_groups = 2;
    OK(ctx, dqt_updater_create(ctx, &linear, 1, &o, &u));
    OK(ctx, dqt_updater_get_rule(u, 0, &rule));
    CHECK(rule.lr_factor > 0.24f && rule.lr_factor < 0.26f);
    dqt_updater_destroy(u);
    groups[1].added = 1;
    CHECK(dqt_updater_create(ctx, &linear, 1, &o, &u) == DQT_E_ARGUMENT && !u);
    groups[1].added = 0;
    groups[1].group.struct_size = sizeof(dqt_group_options);
    CHECK(dqt_updater_create(ctx, &linear, 1, &o, &u) == DQT_E_ARGUMENT);
    CHECKF(strncmp(dqt_last_error(ctx), "groups[1].struct_size is ", 25) == 0, "%s", dqt_last_error(ctx));
    struct older_group {
        uint32_t struct_size;
        int32_t parameter_class;
        const char *pattern;
        int32_t optimizer, rounding;
        float lr_factor, weight_decay;
    } old[2] = {{.struct_size = sizeof *old, .lr_factor = 0.5f}, {.struct_size = sizeof *old, .weight_decay = 0.125f}};
    o.groups = (const dqt_group_options *)(const void *)old;
    OK(ctx, dqt_updater_create(ctx, &linear, 1, &o, &u));
    OK(ctx, dqt_updater_get_rule(u, 0, &rule));
    CHECK(rule.lr_factor > 0.49f && rule.weight_decay > 0.12f);
    dqt_updater_destroy(u);
    end_calls();
}

static const struct test tests[] = {TEST(older_callers), TEST(newer_callers), TEST(uninitialised_structs),
                                    TEST(arrays)};
TEST_MAIN(tests)
