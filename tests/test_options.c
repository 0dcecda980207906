/* Versioned structs with *_init: every such function, and every call that reads the struct, with callers that are older
 * (smaller structs), newer (larger ones) or wrong. */
#define _POSIX_C_SOURCE 200809L
#include "options_world.h"

#include <unistd.h>

/* ---- Defaults ------------------------------------------------------------------------------------------------ */

static dqt_status init_context(void *o, size_t size) {
    return dqt_context_options_init(o, size);
}
static dqt_status init_tensor(void *o, size_t size) {
    return dqt_tensor_options_init(o, size);
}
static dqt_status init_layer(void *o, size_t size) {
    return dqt_layer_options_init(o, size);
}
static dqt_status init_tape(void *o, size_t size) {
    return dqt_tape_options_init(o, size);
}
static dqt_status init_llama(void *o, size_t size) {
    return dqt_llama_config_init(o, size);
}
static dqt_status init_updater(void *o, size_t size) {
    return dqt_updater_options_init(o, size);
}
static dqt_status init_group(void *o, size_t size) {
    return dqt_group_options_init(o, size);
}
static dqt_status init_sampler(void *o, size_t size) {
    return dqt_sampler_options_init(o, size);
}
static dqt_status init_safetensors(void *o, size_t size) {
    return dqt_safetensors_options_init(o, size);
}
static dqt_status init_gguf(void *o, size_t size) {
    return dqt_gguf_options_init(o, size);
}

static dqt_status init_session(void *o, size_t size) {
    return dqt_session_options_init(o, size);
}
static dqt_status init_save(void *o, size_t size) {
    return dqt_save_options_init(o, size);
}
static dqt_status init_load(void *o, size_t size) {
    return dqt_load_options_init(o, size);
}
static dqt_status init_import(void *o, size_t size) {
    return dqt_import_options_init(o, size);
}
static dqt_status init_open(void *o, size_t size) {
    return dqt_open_options_init(o, size);
}
static dqt_status init_preset(void *o, size_t size) {
    return dqt_preset_options_init(o, size);
}

/* Users: create what the options are for and destroy it again. */
static dqt_status use_context(const void *o) {
    dqt_context *c;
    const dqt_status status = dqt_context_create(o, &c);
    CHECK((status == DQT_OK) == (c != NULL));
    dqt_context_destroy(c);
    return status;
}
static dqt_status use_tensor(const void *o) {
    dqt_tensor *t;
    const dqt_status status = dqt_tensor_create(ctx, 2, 3, o, &t);
    CHECK((status == DQT_OK) == (t != NULL));
    dqt_tensor_destroy(t);
    return status;
}
static dqt_status use_convert(const void *o) {
    dqt_tensor *t;
    const dqt_status status = dqt_tensor_convert(tensor, DQT_ROUND_NEAREST, 0, o, &t);
    CHECK((status == DQT_OK) == (t != NULL));
    dqt_tensor_destroy(t);
    return status;
}
static dqt_status layer_done(dqt_status status, dqt_layer *l) {
    CHECK((status == DQT_OK) == (l != NULL));
    dqt_layer_destroy(l);
    return status;
}
static dqt_status use_embedding(const void *o) {
    dqt_layer *l;
    const dqt_status status = dqt_embedding_create(ctx, 5, 4, o, &l);
    return layer_done(status, l);
}
static dqt_status use_linear(const void *o) {
    dqt_layer *l;
    const dqt_status status = dqt_linear_create(ctx, 5, 4, o, &l);
    return layer_done(status, l);
}
static dqt_status use_rmsnorm(const void *o) {
    dqt_layer *l;
    const dqt_status status = dqt_rmsnorm_create(ctx, 5, o, &l);
    return layer_done(status, l);
}
static dqt_status use_attention(const void *o) {
    dqt_layer *l;
    const dqt_status status = dqt_attention_create(ctx, 8, 2, 1, o, &l);
    return layer_done(status, l);
}
static dqt_status use_mlp(const void *o) {
    dqt_layer *l;
    const dqt_status status = dqt_mlp_create(ctx, 8, 12, o, &l);
    return layer_done(status, l);
}
static dqt_status use_block(const void *o) {
    dqt_layer *l;
    const dqt_status status = dqt_block_create(ctx, 8, 12, 2, 2, o, &l);
    return layer_done(status, l);
}
static dqt_status use_head(const void *o) {
    dqt_layer *l;
    const dqt_status status = dqt_head_create(ctx, NULL, 8, 12, o, &l);
    return layer_done(status, l);
}
static dqt_status use_tape(const void *o) {
    dqt_tape *t;
    const dqt_status status = dqt_tape_create(ctx, &linear, 1, o, &t);
    CHECK((status == DQT_OK) == (t != NULL));
    dqt_tape_destroy(t);
    return status;
}
static dqt_status use_tape_memory(const void *o) {
    dqt_tape_memory_info m = {.struct_size = sizeof m};
    return dqt_tape_memory(ctx, &linear, 1, o, &m);
}
static dqt_status use_llama(const void *o) {
    dqt_llama *m;
    const dqt_status status = dqt_llama_create(ctx, o, &m);
    CHECK((status == DQT_OK) == (m != NULL));
    dqt_llama_destroy(m);
    return status;
}
static dqt_status use_llama_memory(const void *o) {
    dqt_llama_memory_info m = {.struct_size = sizeof m};
    return dqt_llama_memory(ctx, o, &m);
}
static dqt_status use_updater(const void *o) {
    dqt_updater *u;
    const dqt_status status = dqt_updater_create(ctx, &linear, 1, o, &u);
    CHECK((status == DQT_OK) == (u != NULL));
    dqt_updater_destroy(u);
    return status;
}
static dqt_status use_updater_memory(const void *o) {
    dqt_updater_memory_info m = {.struct_size = sizeof m};
    return dqt_updater_memory(ctx, &linear, 1, o, &m);
}
static dqt_status use_group(const void *o) {
    return dqt_updater_add_group(updater, o, NULL);
}
static dqt_status use_sampler(const void *o) {
    dqt_sampler *s;
    const dqt_status status = dqt_sampler_create(ctx, 7, o, &s);
    CHECK((status == DQT_OK) == (s != NULL));
    dqt_sampler_destroy(s);
    return status;
}

static int32_t write_away(void *user_data, const void *buffer, size_t size) {
    (void)user_data;
    (void)buffer;
    (void)size;
    return 0;
}
static dqt_status use_gguf(const void *o) {
    return dqt_llama_write_gguf(model, write_away, NULL, o);
}
static dqt_status use_safetensors(const void *o) {
    return dqt_llama_write_safetensors(model, write_away, NULL, o);
}

static dqt_status use_session(const void *o) {
    dqt_session *session;
    const dqt_status status = dqt_session_create(model, o, &session);
    CHECK((status == DQT_OK) == (session != NULL));
    dqt_session_destroy(session);
    return status;
}
static dqt_status use_session_memory(const void *o) {
    dqt_session_memory_info m = DQT_INIT(dqt_session_memory_info);
    return dqt_session_memory(model, o, &m);
}
static dqt_status use_save(const void *o) {
    return dqt_llama_write(model, NULL, write_away, NULL, o);
}
static dqt_status use_load(const void *o) {
    struct memory_file file = memory_new();
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    OK(ctx, dqt_llama_write(model, NULL, memory_write, &file, NULL));
    const dqt_status status = dqt_llama_read(ctx, memory_read, &file, o, &c);
    CHECK((status == DQT_OK) == (c.model != NULL));
    dqt_llama_destroy(c.model);
    free(file.bytes);
    return status;
}
static dqt_status use_preset(const void *o) {
    dqt_preset preset = DQT_INIT(dqt_preset);
    return dqt_preset_get(o, NULL, NULL, &preset);
}
static dqt_status use_import(const void *o) {
    char path[] = "/tmp/dqt-options-XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0 && close(file) == 0); /* an open file cannot be replaced on Windows */
    OK(ctx, dqt_llama_export_safetensors(model, path, NULL));
    const dqt_status status = dqt_llama_import_safetensors(model, path, o);
    unlink(path);
    return status;
}

static dqt_status use_open(const void *o) {
    char path[] = "/tmp/dqt-options-XXXXXX";
    const int file = mkstemp(path);
    dqt_llama *opened;
    CHECK(file >= 0 && close(file) == 0);
    OK(ctx, dqt_llama_export_gguf(model, path, NULL));
    const dqt_status status = dqt_llama_open(ctx, path, o, &opened);
    dqt_llama_destroy(opened);
    unlink(path);
    return status;
}

/* Reads it and writes it back. */
static dqt_status use_preset_config(const void *o) {
    dqt_preset preset = DQT_INIT(dqt_preset);
    return dqt_preset_get(NULL, (dqt_llama_config *)(uintptr_t)o, NULL, &preset);
}

static const struct options_case cases[] = {
    {"dqt_context_options", sizeof(dqt_context_options), init_context, use_context, 4, 0, false, true},
    {"dqt_tensor_options", sizeof(dqt_tensor_options), init_tensor, use_tensor, 4, 0, false, false},
    {"dqt_tensor_options", sizeof(dqt_tensor_options), init_tensor, use_convert, 4, 0, false, false},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_embedding, 4, 0, false, false},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_linear, 4, 0, false, false},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_rmsnorm, 4, 0, false, false},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_attention, 4, 0, false, false},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_mlp, 4, 0, false, false},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_block, 4, 0, false, false},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_head, 4, 0, false, false},
    {"dqt_tape_options", sizeof(dqt_tape_options), init_tape, use_tape, 4, 0, false, false},
    {"dqt_tape_options", sizeof(dqt_tape_options), init_tape, use_tape_memory, 4, 0, false, false},
    {"dqt_llama_config", sizeof(dqt_llama_config), init_llama, use_llama, 40, 0, false, false},
    {"dqt_llama_config", sizeof(dqt_llama_config), init_llama, use_llama_memory, 4, 0, false, false},
    {"dqt_llama_config", sizeof(dqt_llama_config), init_llama, use_preset_config, 4, 0, false, true},
    {"dqt_updater_options", sizeof(dqt_updater_options), init_updater, use_updater, 4, 0, false, false},
    {"dqt_updater_options", sizeof(dqt_updater_options), init_updater, use_updater_memory, 4, 0, false, false},
    {"dqt_group_options", sizeof(dqt_group_options), init_group, use_group, 4, 0, true, false},
    {"dqt_sampler_options", sizeof(dqt_sampler_options), init_sampler, use_sampler, 4, 0, false, false},
    {"dqt_gguf_options", sizeof(dqt_gguf_options), init_gguf, use_gguf, 4, 0, false, false},
    {"dqt_safetensors_options", sizeof(dqt_safetensors_options), init_safetensors, use_safetensors, 4, 0, false, false},
    {"dqt_session_options", sizeof(dqt_session_options), init_session, use_session, 4, 0, false, false},
    {"dqt_session_options", sizeof(dqt_session_options), init_session, use_session_memory, 4, 0, false, false},
    {"dqt_save_options", sizeof(dqt_save_options), init_save, use_save, 4, 0, false, false},
    {"dqt_load_options", sizeof(dqt_load_options), init_load, use_load, 4, 0, false, false},
    {"dqt_preset_options", sizeof(dqt_preset_options), init_preset, use_preset, 4, 0, false, true},
    {"dqt_import_options", sizeof(dqt_import_options), init_import, use_import, 4, 0, false, false},
    {"dqt_open_options", sizeof(dqt_open_options), init_open, use_open, 4, 0, false, false},
};
enum { CASES = sizeof cases / sizeof *cases };

/* *_init fills exactly struct_size bytes: the known ones with defaults, the rest with zeros. */
static void init_fills_struct_size(void) {
    for (size_t i = 0; i < CASES; i++) {
        const struct options_case *c = &cases[i];
        unsigned char full[1024], buffer[1024 + 2 * MOST];
        CHECK(c->size < sizeof full);
        CHECK(c->init(full, c->size) == DQT_OK);
        uint32_t stored;
        memcpy(&stored, full, sizeof stored);
        CHECK(stored == c->size);
        for (size_t size = sizeof(uint32_t); size <= c->size + MOST; size += size == c->size + MORE ? MOST - MORE : 1) {
            memset(buffer, 0xCC, sizeof buffer);
            CHECK(c->init(buffer, size) == DQT_OK);
            memcpy(&stored, buffer, sizeof stored);
            CHECKF(stored == size, "%s: struct_size %u, not %zu", c->name, (unsigned)stored, size);
            const size_t known = size < c->size ? size : c->size;
            CHECK(memcmp(buffer + 4, full + 4, known - 4) == 0);
            for (size_t k = known; k < size; k++)
                CHECK(buffer[k] == 0);
            for (size_t k = size; k < sizeof buffer; k++)
                CHECKF(buffer[k] == 0xCC, "%s: byte %zu of a struct of %zu bytes was written", c->name, k, size);
        }
    }
}

static void init_refuses(void) {
    for (size_t i = 0; i < CASES; i++) {
        const struct options_case *c = &cases[i];
        const size_t wrong[] = {0, 1, 2, 3, c->size + MOST + 1, 4096, UINT32_MAX, SIZE_MAX};
        unsigned char buffer[16];
        memset(buffer, 0xCC, sizeof buffer);
        for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
            CHECK(c->init(buffer, wrong[k]) == DQT_E_ARGUMENT);
            CHECK(strstr(dqt_last_error(NULL), c->name) && strstr(dqt_last_error(NULL), "struct_size"));
        }
        for (size_t k = 0; k < sizeof buffer; k++)
            CHECK(buffer[k] == 0xCC);
        CHECK(c->init(NULL, c->size) == DQT_E_ARGUMENT);
        CHECK(strstr(dqt_last_error(NULL), c->name) && strstr(dqt_last_error(NULL), "NULL"));
    }
}

/* ---- Reading ------------------------------------------------------------------------------------------------- */

static void older_callers(void) {
    begin();
    for (size_t i = 0; i < CASES; i++)
        try_older(&cases[i]);
    end();
}

static void newer_callers(void) {
    begin();
    for (size_t i = 0; i < CASES; i++)
        try_newer(&cases[i]);
    end();
}

static void uninitialised_structs(void) {
    begin();
    for (size_t i = 0; i < CASES; i++)
        try_uninitialised(&cases[i]);
    end();
}

/* The part that an older caller gives counts, the rest is defaults. */
static void older_fields_count(void) {
    begin();
    const struct {
        uint32_t struct_size;
        int32_t storage;
    } old = {sizeof old, DQT_FORMAT_INT4};
    dqt_tensor *t = NULL;
    OK(ctx, dqt_tensor_create(ctx, 2, 2, (const dqt_tensor_options *)(const void *)&old, &t));
    dqt_tensor_info info = {.struct_size = sizeof info};
    OK(ctx, dqt_tensor_get_info(t, &info));
    CHECK(info.storage == DQT_FORMAT_INT4 && info.compute == DQT_FORMAT_INT4 && info.scale_rule == DQT_SCALE_ABSMEAN);
    CHECK(info.scale_axis == DQT_AXIS_TENSOR && info.sigma >= 4 && info.sigma <= 4 && info.train_scale == 0);
    dqt_tensor_destroy(t);
    end();
}

/* The default rule depends on what codes there are; what is told of a tensor or a model is the rule in use. */
static void scale_rules(void) {
    begin();
    static const struct {
        int32_t storage, compute, rule;
    } wanted[] = {{DQT_FORMAT_INT8, DQT_FORMAT_SAME, DQT_SCALE_SIGMA},
                  {DQT_FORMAT_INT8, DQT_FORMAT_TERNARY, DQT_SCALE_SIGMA},
                  {DQT_FORMAT_F32, DQT_FORMAT_INT8, DQT_SCALE_SIGMA},
                  {DQT_FORMAT_BF16, DQT_FORMAT_TERNARY, DQT_SCALE_ABSMEAN},
                  {DQT_FORMAT_INT4, DQT_FORMAT_SAME, DQT_SCALE_ABSMEAN},
                  {DQT_FORMAT_INT3, DQT_FORMAT_SAME, DQT_SCALE_ABSMEAN},
                  {DQT_FORMAT_INT2, DQT_FORMAT_SAME, DQT_SCALE_ABSMEAN},
                  {DQT_FORMAT_TERNARY, DQT_FORMAT_SAME, DQT_SCALE_ABSMEAN}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        dqt_tensor_options o;
        dqt_tensor_info info = {.struct_size = sizeof info};
        dqt_tensor *t = NULL;
        CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
        CHECK(o.scale_rule == DQT_SCALE_AUTO);
        o.storage = wanted[i].storage;
        o.compute = wanted[i].compute;
        OK(ctx, dqt_tensor_create(ctx, 2, 2, &o, &t));
        OK(ctx, dqt_tensor_get_info(t, &info));
        CHECKF(info.scale_rule == wanted[i].rule, "case %zu: %d", i, info.scale_rule);
        dqt_tensor_destroy(t);
        o.scale_rule = DQT_SCALE_ABSMAX;
        OK(ctx, dqt_tensor_create(ctx, 2, 2, &o, &t));
        OK(ctx, dqt_tensor_get_info(t, &info));
        CHECK(info.scale_rule == DQT_SCALE_ABSMAX);
        dqt_tensor_destroy(t);
    }
    dqt_llama_config c = {.struct_size = sizeof c};
    dqt_llama *llama = NULL;
    OK(ctx, dqt_llama_create(ctx, NULL, &llama));
    OK(ctx, dqt_llama_get_config(llama, &c));
    CHECK(c.linear.scale_rule == DQT_SCALE_ABSMEAN && c.embedding.scale_rule == DQT_SCALE_SIGMA);
    dqt_llama_destroy(llama);
    end();
}

/* dqt_tensor_options keeps its size, for it is embedded: there its struct_size is not looked at, but its reserve is. */
static void embedded_structs(void) {
    begin();
    CHECK(sizeof(dqt_tensor_options) == 64 && offsetof(dqt_tensor_options, reserved64) == 32);
    dqt_layer_options l;
    OK(ctx, dqt_layer_options_init(&l, sizeof l));
    l.weight.struct_size = 0;
    CHECKF(use_linear(&l) == DQT_OK, "%s", dqt_last_error(ctx));
    dqt_llama_config c;
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.linear.struct_size = c.embedding.struct_size = 0;
    c.head.struct_size = UINT32_MAX;
    CHECKF(use_llama_memory(&c) == DQT_OK, "%s", dqt_last_error(ctx));
    for (size_t k = 0; k < sizeof l.weight.reserved64 / sizeof *l.weight.reserved64; k++) {
        l.weight.reserved64[k] = c.linear.reserved64[k] = 1;
        CHECKF(use_linear(&l) == DQT_E_ARGUMENT && use_block(&l) == DQT_E_ARGUMENT, "reserved64[%zu]", k);
        CHECKF(use_llama(&c) == DQT_E_ARGUMENT, "reserved64[%zu]", k);
        l.weight.reserved64[k] = c.linear.reserved64[k] = 0;
    }
    c.embedding.reserved64[0] = 1;
    CHECK(use_llama(&c) == DQT_E_ARGUMENT);
    l.reserved = 1;
    CHECK(use_linear(&l) == DQT_E_ARGUMENT && use_block(&l) == DQT_E_ARGUMENT);
    end();
}

static const struct test tests[] = {
    TEST(init_fills_struct_size), TEST(init_refuses),          TEST(older_callers),
    TEST(older_fields_count),     TEST(scale_rules),           TEST(newer_callers),
    TEST(embedded_structs),       TEST(uninitialised_structs),
};
TEST_MAIN(tests)
