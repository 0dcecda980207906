/* Versioned structs: every *_init, every function that reads options and every one that fills a result, with callers
 * that are older (smaller structs), newer (larger ones) or wrong. */
#include "calls.h"
#include "counting_alloc.h"
#include "memory_file.h"
#include "test.h"

#include <stddef.h>

enum { MORE = 64, MOST = 512 }; /* bytes beyond today's structs: tried, and the documented limit */

static dqt_context *ctx;
static dqt_layer *linear;
static dqt_tensor *tensor;
static dqt_tape *tape;
static dqt_updater *updater;
static dqt_llama *model;
static dqt_tape *model_tape;
static dqt_updater *model_updater;
static struct counting memory;

static void begin(void) {
    ctx = counting_context(&memory);
    dqt_layer *const *layers;
    size_t n;
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = 256;
    c.tie_embeddings = 1; /* a GGUF file wants it */
    c.hidden_size = 16;
    c.intermediate_size = 24;
    c.num_layers = 1;
    c.num_heads = 2;
    dqt_updater_options u;
    dqt_updater_options_init(&u, sizeof u);
    u.clip = DQT_CLIP_NONE;
    OK(ctx, dqt_linear_create(ctx, 8, 4, NULL, &linear));
    OK(ctx, dqt_tensor_create(ctx, 3, 70, NULL, &tensor));
    OK(ctx, dqt_tape_create(ctx, &linear, 1, NULL, &tape));
    OK(ctx, dqt_updater_create(ctx, &linear, 1, NULL, &updater));
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_tape_create(ctx, layers, n, NULL, &model_tape));
    OK(ctx, dqt_updater_create(ctx, layers, n, &u, &model_updater));
}

static void end(void) {
    dqt_updater_destroy(model_updater);
    dqt_tape_destroy(model_tape);
    dqt_llama_destroy(model);
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_tensor_destroy(tensor);
    dqt_layer_destroy(linear);
    counting_end(ctx, &memory);
}

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
    const dqt_status status = dqt_tensor_convert(tensor, o, DQT_ROUND_NEAREST, 0, &t);
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
    const dqt_status status = dqt_head_create(ctx, 8, 12, NULL, o, &l);
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

static const struct options_case {
    const char *name;
    size_t size;
    dqt_status (*init)(void *options, size_t size);
    dqt_status (*use)(const void *options);
    size_t step; /* of struct sizes to try; creation of a whole model is slow */
} cases[] = {
    {"dqt_context_options", sizeof(dqt_context_options), init_context, use_context, 4},
    {"dqt_tensor_options", sizeof(dqt_tensor_options), init_tensor, use_tensor, 4},
    {"dqt_tensor_options", sizeof(dqt_tensor_options), init_tensor, use_convert, 4},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_embedding, 4},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_linear, 4},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_rmsnorm, 4},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_attention, 4},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_mlp, 4},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_block, 4},
    {"dqt_layer_options", sizeof(dqt_layer_options), init_layer, use_head, 4},
    {"dqt_tape_options", sizeof(dqt_tape_options), init_tape, use_tape, 4},
    {"dqt_tape_options", sizeof(dqt_tape_options), init_tape, use_tape_memory, 4},
    {"dqt_llama_config", sizeof(dqt_llama_config), init_llama, use_llama, 40},
    {"dqt_llama_config", sizeof(dqt_llama_config), init_llama, use_llama_memory, 4},
    {"dqt_updater_options", sizeof(dqt_updater_options), init_updater, use_updater, 4},
    {"dqt_updater_options", sizeof(dqt_updater_options), init_updater, use_updater_memory, 4},
    {"dqt_group_options", sizeof(dqt_group_options), init_group, use_group, 4},
    {"dqt_sampler_options", sizeof(dqt_sampler_options), init_sampler, use_sampler, 4},
    {"dqt_gguf_options", sizeof(dqt_gguf_options), init_gguf, use_gguf, 4},
    {"dqt_safetensors_options", sizeof(dqt_safetensors_options), init_safetensors, use_safetensors, 4},
    {"dqt_session_options", sizeof(dqt_session_options), init_session, use_session, 4},
    {"dqt_save_options", sizeof(dqt_save_options), init_save, use_save, 4},
    {"dqt_load_options", sizeof(dqt_load_options), init_load, use_load, 4},
    {"dqt_preset_options", sizeof(dqt_preset_options), init_preset, use_preset, 4},
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

/* An older caller's struct ends early: what lies behind it is not looked at (it would be refused or crash). */
static void older_callers(void) {
    begin();
    for (size_t i = 0; i < CASES; i++) {
        const struct options_case *c = &cases[i];
        for (size_t size = sizeof(uint32_t); size <= c->size; size += c->step) {
            unsigned char *exact = malloc(size); /* for the address sanitizer */
            unsigned char dirty[1024];
            memset(dirty, 0x7B, sizeof dirty);
            CHECK(c->init(exact, size) == DQT_OK && c->init(dirty, size) == DQT_OK);
            CHECKF(c->use(exact) == DQT_OK, "%s of %zu bytes: %s", c->name, size, dqt_last_error(ctx));
            CHECKF(c->use(dirty) == DQT_OK, "%s of %zu bytes: %s", c->name, size, dqt_last_error(ctx));
            free(exact);
        }
    }
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

/* A newer caller's struct is longer: accepted while it uses nothing that this library does not know. */
static void newer_callers(void) {
    begin();
    for (size_t i = 0; i < CASES; i++) {
        const struct options_case *c = &cases[i];
        for (size_t more = 1; more <= MORE; more += c->step / 4 * 3 + 4) {
            unsigned char *buffer = malloc(c->size + more);
            CHECK(c->init(buffer, c->size + more) == DQT_OK);
            CHECKF(c->use(buffer) == DQT_OK, "%s of %zu bytes: %s", c->name, c->size + more, dqt_last_error(ctx));
            for (size_t k = 0; k < more; k++) {
                buffer[c->size + k] = 1;
                CHECKF(c->use(buffer) == DQT_E_ARGUMENT, "%s of %zu bytes, byte %zu", c->name, c->size + more,
                       c->size + k);
                const char *error = dqt_last_error(c->use == use_context || c->use == use_preset ? NULL : ctx);
                CHECKF(strstr(error, c->name), "%s: %s", c->name, error);
                buffer[c->size + k] = 0;
            }
            free(buffer);
        }
    }
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
    c.embedding.reserved = 1;
    CHECK(use_llama(&c) == DQT_E_ARGUMENT);
    l.reserved = 1;
    CHECK(use_linear(&l) == DQT_E_ARGUMENT && use_block(&l) == DQT_E_ARGUMENT);
    end();
}

static void uninitialised_structs(void) {
    begin();
    for (size_t i = 0; i < CASES; i++) {
        const struct options_case *c = &cases[i];
        const uint32_t wrong[] = {0, 1, 2, 3, (uint32_t)c->size + MOST + 1, 4096, 0xCCCCCCCCu, UINT32_MAX};
        unsigned char buffer[1024];
        CHECK(c->init(buffer, c->size) == DQT_OK);
        for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
            memcpy(buffer, &wrong[k], sizeof wrong[k]);
            CHECK(c->use(buffer) == DQT_E_ARGUMENT);
            const char *error = dqt_last_error(c->use == use_context || c->use == use_preset ? NULL : ctx);
            CHECKF(strstr(error, c->name) && strstr(error, "struct_size"), "%s: %s", c->name, error);
        }
        if (c->use != use_group) CHECKF(c->use(NULL) == DQT_OK, "%s: NULL means defaults", c->name);
    }
    end();
}

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
/* Always the first step, with zero gradients. */
static dqt_status get_step_stats(void *r) {
    OK(ctx, dqt_updater_set_step(updater, 0));
    return dqt_updater_step(updater, tape, step_rate(0), r);
}
static dqt_status get_range_stats(void *r) {
    OK(ctx, dqt_updater_set_step(updater, 0));
    return dqt_updater_step(updater, tape, step_part(0, 0, 2), r);
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
} results[] = {
    {"dqt_tensor_info", sizeof(dqt_tensor_info), get_tensor_info},
    {"dqt_tensor_stats", sizeof(dqt_tensor_stats), get_tensor_stats},
    {"dqt_layer_info", sizeof(dqt_layer_info), get_layer_info},
    {"dqt_parameter", sizeof(dqt_parameter), get_parameter},
    {"dqt_parameter", sizeof(dqt_parameter), get_tape_parameter},
    {"dqt_tape_memory_info", sizeof(dqt_tape_memory_info), get_tape_memory},
    {"dqt_llama_memory_info", sizeof(dqt_llama_memory_info), get_llama_memory},
    {"dqt_session_memory_info", sizeof(dqt_session_memory_info), get_session_memory},
    {"dqt_llama_config", sizeof(dqt_llama_config), get_config},
    {"dqt_updater_memory_info", sizeof(dqt_updater_memory_info), get_updater_memory},
    {"dqt_updater_options", sizeof(dqt_updater_options), get_updater_options},
    {"dqt_parameter_rule", sizeof(dqt_parameter_rule), get_rule},
    {"dqt_step_stats", sizeof(dqt_step_stats), get_step_stats},
    {"dqt_step_stats", sizeof(dqt_step_stats), get_range_stats},
    {"dqt_step_stats", sizeof(dqt_step_stats), get_fused_stats},
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
            CHECKF(strstr(dqt_last_error(ctx), c->name), "%s: %s", c->name, dqt_last_error(ctx));
            for (size_t b = 4; b < sizeof buffer; b++)
                CHECK(buffer[b] == 0xCC);
            uint64_t step = 99;
            OK(ctx, dqt_updater_get_step(c->get == get_fused_stats ? model_updater : updater, &step));
            if (c->get == get_step_stats || c->get == get_range_stats || c->get == get_fused_stats)
                CHECKF(step == 0, "%s", c->name);
        }
        if (c->get == get_step_stats || c->get == get_range_stats || c->get == get_fused_stats)
            OK(ctx, c->get(NULL));
        else
            CHECK(c->get(NULL) == DQT_E_ARGUMENT);
    }
    end();
}

static const struct test tests[] = {
    TEST(init_fills_struct_size), TEST(init_refuses),     TEST(older_callers),
    TEST(older_fields_count),     TEST(scale_rules),      TEST(newer_callers),
    TEST(uninitialised_structs),  TEST(embedded_structs), TEST(results_fill_struct_size),
    TEST(results_refuse),
};
TEST_MAIN(tests)
