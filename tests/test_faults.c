/* Allocation faults: every function that allocates is called with allocation 0, 1, 2, ... failing, until it succeeds,
 * and with all that follow failing too. */
#define _POSIX_C_SOURCE 200809L
#include "calls.h"
#include "counting_alloc.h"
#include "memory_file.h"
#include "named_layers.h"

/* What creation functions are given; all of it must come out of a failure unchanged. */
struct world {
    struct counting memory;
    dqt_context *ctx;
    dqt_tensor *tensor;
    dqt_layer *embedding, *linear;
    dqt_llama *model;
    dqt_layer *const *layers;
    size_t num_layers;
    dqt_tape *tape;
    dqt_updater *updater;
    struct memory_file file;                     /* a checkpoint of model and updater, with bytes of the host */
    char folder[32], safetensors[64], saved[64]; /* files on disk: the model's codes, and a place for checkpoints */
};

static dqt_llama_config small_config(void) {
    dqt_llama_config c;
    CHECK(dqt_llama_config_init(&c, sizeof c) == DQT_OK);
    c.vocab_size = 40;
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    return c;
}

/* The weights of MLPs keep accumulators, the others moments: a checkpoint then says more than options. */
static dqt_status updater_some_accumulate(struct world *w, void **out) {
    const dqt_group_options g = {
        .struct_size = sizeof g, .parameter_class = DQT_CLASS_MLP, .rounding = DQT_ROUND_ACCUMULATE};
    dqt_updater_options o = DQT_INIT(dqt_updater_options);
    o.groups = &g;
    o.num_groups = 1;
    return dqt_updater_create(w->ctx, w->layers, w->num_layers, &o, (dqt_updater **)out);
}

static void world_begin(struct world *w) {
    *w = (struct world){0};
    w->ctx = counting_context(&w->memory);
    dqt_llama_config c = small_config();
    c.vocab_size = 256;
    c.tie_embeddings = 1;
    OK(w->ctx, dqt_tensor_create(w->ctx, 5, 70, NULL, &w->tensor));
    OK(w->ctx, dqt_embedding_create(w->ctx, 12, 16, NULL, &w->embedding));
    OK(w->ctx, dqt_linear_create(w->ctx, 16, 12, NULL, &w->linear));
    OK(w->ctx, dqt_llama_create(w->ctx, &c, &w->model));
    OK(w->ctx, dqt_llama_get_layers(w->model, &w->layers, &w->num_layers));
    OK(w->ctx, dqt_tape_create(w->ctx, w->layers, w->num_layers, NULL, &w->tape));
    OK(w->ctx, updater_some_accumulate(w, (void **)&w->updater));
    w->file = memory_new();
    OK(w->ctx, dqt_llama_write(w->model, w->updater, memory_write, &w->file, save_host("host", 4)));
    snprintf(w->folder, sizeof w->folder, "/tmp/dqt-faults-XXXXXX");
    CHECK(mkdtemp(w->folder) != NULL);
    snprintf(w->safetensors, sizeof w->safetensors, "%s/a", w->folder);
    snprintf(w->saved, sizeof w->saved, "%s/b", w->folder);
    dqt_safetensors_options o;
    OK(w->ctx, dqt_safetensors_options_init(&o, sizeof o));
    o.dtype = DQT_SAFETENSORS_CODES;
    OK(w->ctx, dqt_llama_export_safetensors(w->model, w->safetensors, &o));
}

static void world_end(struct world *w) {
    free(w->file.bytes);
    remove(w->safetensors);
    remove(w->saved);
    CHECKF(remove(w->folder) == 0, "a temporary file was left in %s", w->folder);
    dqt_updater_destroy(w->updater);
    dqt_tape_destroy(w->tape);
    dqt_llama_destroy(w->model);
    dqt_layer_destroy(w->linear);
    dqt_layer_destroy(w->embedding);
    dqt_tensor_destroy(w->tensor);
    counting_end(w->ctx, &w->memory);
}

static uint64_t hash_bytes(uint64_t h, const void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return h;
}

static uint64_t hash_tensor(uint64_t h, dqt_context *ctx, dqt_tensor *t) {
    void *data = NULL;
    size_t bytes = 0;
    dqt_tensor_info i = {.struct_size = sizeof i};
    float scales[64] = {0};
    OK(ctx, dqt_tensor_get_info(t, &i));
    OK(ctx, dqt_tensor_data(t, &data, &bytes));
    if (i.num_scales) OK(ctx, dqt_tensor_get_scales(t, scales));
    h = hash_bytes(h, scales, sizeof scales);
    return hash_bytes(h, data, bytes);
}

static uint64_t world_hash(struct world *w) {
    uint64_t h = hash_tensor(14695981039346656037u, w->ctx, w->tensor), step = 0;
    size_t n = 0;
    OK(w->ctx, dqt_tape_get_num_parameters(w->tape, &n));
    for (size_t i = 0; i < n; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        float *gradient = NULL;
        OK(w->ctx, dqt_tape_get_parameter(w->tape, i, &p));
        OK(w->ctx, dqt_tape_gradient_data(w->tape, i, &gradient));
        h = hash_tensor(h, w->ctx, p.tensor);
        h = hash_bytes(h, gradient, p.rows * p.cols * sizeof *gradient);
    }
    OK(w->ctx, dqt_updater_get_step(w->updater, &step));
    return hash_bytes(h, &step, sizeof step);
}

/* ---- Things to create ---------------------------------------------------------------------------------------- */

static dqt_tensor_options tensor_options(int storage, int compute, int axis) {
    dqt_tensor_options o;
    CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
    o.storage = storage;
    o.compute = compute;
    o.scale_axis = axis;
    return o;
}

static dqt_status tensor_plain(struct world *w, void **out) {
    return dqt_tensor_create(w->ctx, 9, 65, NULL, (dqt_tensor **)out);
}
static dqt_status tensor_other(struct world *w, void **out) {
    const dqt_tensor_options o = tensor_options(DQT_FORMAT_INT8, DQT_FORMAT_TERNARY, DQT_AXIS_ROW);
    return dqt_tensor_create(w->ctx, 9, 65, &o, (dqt_tensor **)out);
}
static dqt_status tensor_convert(struct world *w, void **out) {
    const dqt_tensor_options o = tensor_options(DQT_FORMAT_BF16, DQT_FORMAT_SAME, DQT_AXIS_TENSOR);
    return dqt_tensor_convert(w->tensor, DQT_ROUND_STOCHASTIC, 3, &o, (dqt_tensor **)out);
}
static void destroy_tensor(void *t) {
    dqt_tensor_destroy(t);
}

static dqt_status embedding(struct world *w, void **out) {
    return dqt_embedding_create(w->ctx, 20, 16, NULL, (dqt_layer **)out);
}
static dqt_status linear(struct world *w, void **out) {
    return dqt_linear_create(w->ctx, 20, 16, NULL, (dqt_layer **)out);
}
static dqt_status rmsnorm(struct world *w, void **out) {
    return dqt_rmsnorm_create(w->ctx, 20, NULL, (dqt_layer **)out);
}
static dqt_status attention(struct world *w, void **out) {
    const dqt_layer_options o = named_layer_options();
    return dqt_attention_create(w->ctx, 24, 4, 2, &o, (dqt_layer **)out);
}
static dqt_status mlp(struct world *w, void **out) {
    const dqt_layer_options o = named_layer_options();
    return dqt_mlp_create(w->ctx, 24, 40, &o, (dqt_layer **)out);
}
static dqt_status mlp_squared(struct world *w, void **out) {
    dqt_layer_options o = named_layer_options();
    o.mlp = DQT_MLP_SQUARED_RELU;
    return dqt_mlp_create(w->ctx, 24, 40, &o, (dqt_layer **)out);
}
static dqt_status block(struct world *w, void **out) {
    const dqt_layer_options o = named_layer_options();
    return dqt_block_create(w->ctx, 24, 40, 4, 2, &o, (dqt_layer **)out);
}
static dqt_status head(struct world *w, void **out) {
    return dqt_head_create(w->ctx, NULL, 16, 12, NULL, (dqt_layer **)out);
}
static dqt_status head_tied(struct world *w, void **out) {
    return dqt_head_create(w->ctx, w->embedding, 16, 12, NULL, (dqt_layer **)out);
}
static dqt_status layer_shape_only(struct world *w, void **out) {
    dqt_layer_options o = named_layer_options();
    o.shape_only = 1;
    return dqt_block_create(w->ctx, 24, 40, 4, 2, &o, (dqt_layer **)out);
}
static void destroy_layer(void *l) {
    dqt_layer_destroy(l);
}

static dqt_status llama(struct world *w, void **out) {
    const dqt_llama_config c = small_config();
    return dqt_llama_create(w->ctx, &c, (dqt_llama **)out);
}
static dqt_status llama_tied(struct world *w, void **out) {
    dqt_llama_config c = small_config();
    c.tie_embeddings = 1;
    c.mlp = DQT_MLP_SQUARED_RELU;
    return dqt_llama_create(w->ctx, &c, (dqt_llama **)out);
}
static dqt_status llama_shape_only(struct world *w, void **out) {
    dqt_llama_config c = small_config();
    c.shape_only = 1;
    return dqt_llama_create(w->ctx, &c, (dqt_llama **)out);
}
static void destroy_llama(void *m) {
    dqt_llama_destroy(m);
}

static dqt_status tape_with(struct world *w, int which, void **out) {
    dqt_tape_options o;
    CHECK(dqt_tape_options_init(&o, sizeof o) == DQT_OK);
    o.max_batch = 2;
    o.max_length = 5;
    o.no_gradient_buffers = which == 1 ? 1 : which == 7 ? 2 : 0;
    o.inference = which == 2;
    o.recompute = which == 3 || which == 4;
    o.checkpoint_format = which == 4 ? DQT_FLOAT_BF16 : DQT_FLOAT_F32;
    o.gradient_format = which == 5 ? DQT_FLOAT_FP8_E4M3 : which == 6 ? DQT_FLOAT_BF16 : DQT_FLOAT_F32;
    return dqt_tape_create(w->ctx, w->layers, w->num_layers, &o, (dqt_tape **)out);
}
static dqt_status tape_plain(struct world *w, void **out) {
    return tape_with(w, 0, out);
}
static dqt_status tape_fused(struct world *w, void **out) {
    return tape_with(w, 1, out);
}
static dqt_status tape_inference(struct world *w, void **out) {
    return tape_with(w, 2, out);
}
static dqt_status tape_recompute(struct world *w, void **out) {
    return tape_with(w, 3, out);
}
static dqt_status tape_checkpoint(struct world *w, void **out) {
    return tape_with(w, 4, out);
}
static dqt_status tape_fp8(struct world *w, void **out) {
    return tape_with(w, 5, out);
}
static dqt_status tape_bf16(struct world *w, void **out) {
    return tape_with(w, 6, out);
}
static dqt_status tape_one_buffer(struct world *w, void **out) {
    return tape_with(w, 7, out);
}
static void destroy_tape(void *t) {
    dqt_tape_destroy(t);
}

static dqt_status updater_with(struct world *w, int optimizer, int state, float beta1, void **out) {
    dqt_updater_options o;
    CHECK(dqt_updater_options_init(&o, sizeof o) == DQT_OK);
    o.optimizer = optimizer;
    o.momentum_state = o.variance_state = state;
    o.beta1 = beta1;
    if (beta1 == 0) o.rounding = DQT_ROUND_STOCHASTIC;
    return dqt_updater_create(w->ctx, w->layers, w->num_layers, &o, (dqt_updater **)out);
}
static dqt_status updater_sgd(struct world *w, void **out) {
    return updater_with(w, DQT_OPTIMIZER_SGD, DQT_STATE_F32, 0.9f, out);
}
static dqt_status updater_adamw(struct world *w, void **out) {
    return updater_with(w, DQT_OPTIMIZER_ADAMW, DQT_STATE_INT8, 0.9f, out);
}
static dqt_status updater_adafactor(struct world *w, void **out) {
    return updater_with(w, DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_BF16, 0, out);
}
static dqt_status updater_muon(struct world *w, void **out) {
    return updater_with(w, DQT_OPTIMIZER_MUON, DQT_STATE_INT8, 0, out);
}
static void destroy_updater(void *u) {
    dqt_updater_destroy(u);
}

static dqt_status session(struct world *w, void **out) {
    return dqt_session_create(w->model, session_of(100), (dqt_session **)out);
}
static void destroy_session(void *s) {
    dqt_session_destroy(s);
}
static dqt_status sampler(struct world *w, void **out) {
    return dqt_sampler_create(w->ctx, 40, NULL, (dqt_sampler **)out);
}
static void destroy_sampler(void *s) {
    dqt_sampler_destroy(s);
}

/* Functions that allocate only while they run. */
static dqt_status llama_plan(struct world *w, void **out) {
    const dqt_llama_config c = small_config();
    dqt_llama_memory_info m = {.struct_size = sizeof m};
    const dqt_status status = dqt_llama_memory(w->ctx, &c, &m);
    *out = status == DQT_OK ? w : NULL;
    return status;
}
static dqt_status tape_plan(struct world *w, void **out) {
    dqt_tape_memory_info m = {.struct_size = sizeof m};
    const dqt_status status = dqt_tape_memory(w->ctx, w->layers, w->num_layers, NULL, &m);
    *out = status == DQT_OK ? w : NULL;
    return status;
}
static dqt_status session_plan(struct world *w, void **out) {
    dqt_session_memory_info m = {.struct_size = sizeof m};
    const dqt_status status = dqt_session_memory(w->model, NULL, &m);
    *out = status == DQT_OK ? w : NULL;
    return status;
}
static dqt_status updater_plan(struct world *w, void **out) {
    dqt_updater_memory_info m = {.struct_size = sizeof m};
    const dqt_status status = dqt_updater_memory(w->ctx, w->layers, w->num_layers, NULL, &m);
    *out = status == DQT_OK ? w : NULL;
    return status;
}
static int32_t write_away(void *user_data, const void *buffer, size_t size) {
    (void)user_data;
    (void)buffer;
    (void)size;
    return 0;
}
static dqt_status write_checkpoint(struct world *w, void **out) {
    const dqt_status status = dqt_llama_write(w->model, w->updater, write_away, NULL, save_host("host", 4));
    *out = status == DQT_OK ? w : NULL;
    return status;
}
static dqt_status save_checkpoint(struct world *w, void **out) {
    const dqt_status status = dqt_llama_save(w->model, w->updater, w->saved, save_host("host", 4));
    *out = status == DQT_OK ? w : NULL;
    return status;
}
/* The model's own codes: a success changes nothing, and neither may a failure. */
static dqt_status import_safetensors(struct world *w, void **out) {
    const dqt_status status =
        dqt_llama_import_safetensors(w->model, w->safetensors, import_rounding(DQT_ROUND_NEAREST, 0));
    *out = status == DQT_OK ? w : NULL;
    return status;
}
static dqt_status write_gguf(struct world *w, void **out) {
    const dqt_status status = dqt_llama_write_gguf(w->model, write_away, NULL, NULL);
    *out = status == DQT_OK ? w : NULL;
    return status;
}
static dqt_status write_safetensors(struct world *w, void **out) {
    const dqt_status status = dqt_llama_write_safetensors(w->model, write_away, NULL, NULL);
    *out = status == DQT_OK ? w : NULL;
    return status;
}

/* What dqt_llama_read makes. */
static struct loaded {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_updater *updater;
    void *host;
    size_t host_size;
} loaded;

static dqt_status read_back(struct world *w, void **out) {
    loaded = (struct loaded){.ctx = w->ctx};
    w->file.position = 0;
    const dqt_status status =
        read_checkpoint(w->ctx, memory_read, &w->file, &loaded.model, &loaded.updater, &loaded.host, &loaded.host_size);
    *out = status == DQT_OK ? &loaded : NULL;
    CHECK((status == DQT_OK) == (loaded.model != NULL) && !loaded.model == !loaded.updater &&
          !loaded.model == !loaded.host);
    return status;
}
static void destroy_loaded(void *p) {
    struct loaded *l = p;
    dqt_host_bytes_free(l->ctx, l->host, l->host_size);
    dqt_updater_destroy(l->updater);
    dqt_llama_destroy(l->model);
}

static void destroy_nothing(void *p) {
    (void)p;
}

static const struct creation {
    const char *name;
    dqt_status (*create)(struct world *w, void **out);
    void (*destroy)(void *object);
    size_t allocations; /* at least */
} creations[] = {
    {"tensor", tensor_plain, destroy_tensor, 1},
    {"tensor read in another format", tensor_other, destroy_tensor, 1},
    {"tensor_convert", tensor_convert, destroy_tensor, 2},
    {"embedding", embedding, destroy_layer, 2},
    {"linear", linear, destroy_layer, 2},
    {"rmsnorm", rmsnorm, destroy_layer, 2},
    {"attention", attention, destroy_layer, 6},
    {"mlp", mlp, destroy_layer, 5},
    {"mlp, squared ReLU", mlp_squared, destroy_layer, 4},
    {"block", block, destroy_layer, 14},
    {"head", head, destroy_layer, 2},
    {"tied head", head_tied, destroy_layer, 1},
    {"block, shape only", layer_shape_only, destroy_layer, 14},
    {"llama", llama, destroy_llama, 30},
    {"llama, tied", llama_tied, destroy_llama, 25},
    {"llama, shape only", llama_shape_only, destroy_llama, 30},
    {"tape", tape_plain, destroy_tape, 2},
    {"tape without gradients", tape_fused, destroy_tape, 2},
    {"tape, inference", tape_inference, destroy_tape, 2},
    {"tape, recompute", tape_recompute, destroy_tape, 2},
    {"tape, bf16 checkpoints", tape_checkpoint, destroy_tape, 2},
    {"tape, fp8 gradients", tape_fp8, destroy_tape, 2},
    {"tape, bf16 gradients", tape_bf16, destroy_tape, 2},
    {"tape, one gradient buffer", tape_one_buffer, destroy_tape, 2},
    {"updater, SGD", updater_sgd, destroy_updater, 1},
    {"updater, AdamW int8", updater_adamw, destroy_updater, 1},
    {"updater, Adafactor", updater_adafactor, destroy_updater, 1},
    {"updater, Muon", updater_muon, destroy_updater, 1},
    {"updater, some accumulators", updater_some_accumulate, destroy_updater, 1},
    {"session", session, destroy_session, 3},
    {"sampler", sampler, destroy_sampler, 1},
    {"llama_memory", llama_plan, destroy_nothing, 30},
    {"tape_memory", tape_plan, destroy_nothing, 1},
    {"updater_memory", updater_plan, destroy_nothing, 1},
    {"session_memory", session_plan, destroy_nothing, 1},
    {"llama_write", write_checkpoint, destroy_nothing, 1},
    {"llama_read", read_back, destroy_loaded, 30},
    {"llama_save", save_checkpoint, destroy_nothing, 1},
    {"llama_import_safetensors", import_safetensors, destroy_nothing, 1},
    {"llama_write_gguf", write_gguf, destroy_nothing, 1},
    {"llama_write_safetensors", write_safetensors, destroy_nothing, 1},
};

/* persistent: every later allocation fails too, as when memory has really run out. */
static void fault_loop(bool persistent) {
    struct world w;
    world_begin(&w);
    const uint64_t before = world_hash(&w);
    for (size_t i = 0; i < sizeof creations / sizeof *creations; i++) {
        const struct creation *c = &creations[i];
        const size_t bytes = w.memory.bytes, blocks = w.memory.blocks;
        size_t n = 0;
        for (;; n++) {
            void *object = &w;
            const size_t call = w.memory.calls + n;
            w.memory.fail_at = persistent ? SIZE_MAX : call;
            w.memory.fail_from = persistent ? call : SIZE_MAX;
            const dqt_status status = c->create(&w, &object);
            const bool reached = w.memory.calls > call;
            w.memory.fail_at = w.memory.fail_from = SIZE_MAX;
            if (status == DQT_OK) {
                CHECKF(!reached, "%s: allocation %zu failed unnoticed", c->name, n);
                CHECK(object != NULL);
                c->destroy(object);
                break;
            }
            CHECKF(status == DQT_E_MEMORY, "%s, allocation %zu: %s", c->name, n, dqt_status_string(status));
            CHECKF(object == NULL, "%s, allocation %zu: out is not NULL", c->name, n);
            CHECKF(w.memory.bytes == bytes && w.memory.blocks == blocks, "%s, allocation %zu: %zu bytes are left",
                   c->name, n, w.memory.bytes - bytes);
            CHECKF(strstr(dqt_last_error(w.ctx), "memory"), "%s: %s", c->name, dqt_last_error(w.ctx));
            CHECK(dqt_context_allocated(w.ctx) == w.memory.bytes);
            if (status != DQT_E_MEMORY || n > 1000) break;
        }
        CHECKF(n >= c->allocations, "%s: only %zu allocations", c->name, n);
        CHECKF(w.memory.bytes == bytes && w.memory.blocks == blocks, "%s leaks %zu bytes", c->name,
               w.memory.bytes - bytes);
        CHECKF(w.memory.errors == 0, "%s", c->name);
    }
    CHECK(world_hash(&w) == before);
    world_end(&w);
}

static void one_allocation_fails(void) {
    fault_loop(false);
}
static void all_allocations_fail(void) {
    fault_loop(true);
}

static void context_creation_fails(void) {
    struct counting memory = counting_new();
    const dqt_context_options o = counting_options(&memory);
    for (size_t n = 0;; n++) {
        dqt_context *ctx = (dqt_context *)(void *)&memory;
        memory.calls = 0;
        memory.fail_at = n;
        const dqt_status status = dqt_context_create(&o, &ctx);
        if (status == DQT_OK) {
            CHECK(n >= 1 && ctx);
            dqt_context_destroy(ctx);
            break;
        }
        CHECK(status == DQT_E_MEMORY && !ctx && memory.bytes == 0 && memory.blocks == 0);
        CHECK(strstr(dqt_last_error(NULL), "memory"));
    }
    CHECK(memory.bytes == 0 && memory.errors == 0);
}

static const struct test tests[] = {
    TEST(one_allocation_fails),
    TEST(all_allocations_fail),
    TEST(context_creation_fails),
};
TEST_MAIN(tests)
