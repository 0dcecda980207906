/* Planned memory: what *_memory functions foretell is what the allocator counts, to the byte. */
#include "calls.h"
#include "counting_alloc.h"
#include "lanes.h"
#include "named_layers.h"

static void plain_for(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    for (size_t i = 0; i < count; i++)
        task(task_data, i);
}

/* A context of several threads: workspaces grow with them. */
static dqt_context *threads_context(struct counting *memory, int threads) {
    *memory = counting_new();
    dqt_context_options o = counting_options(memory);
    o.threading = DQT_THREADING_HOST;
    o.parallel_for = plain_for;
    o.num_threads = threads;
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(&o, &ctx));
    share_all_work(ctx);
    return ctx;
}

/* Configuration number i of a grid over every field that decides about memory. */
static dqt_llama_config grid_config(unsigned i) {
    static const int storage[] = {DQT_FORMAT_TERNARY, DQT_FORMAT_F32, DQT_FORMAT_INT8, DQT_FORMAT_BF16,
                                  DQT_FORMAT_INT3};
    dqt_llama_config c;
    CHECK(dqt_llama_config_init(&c, sizeof c) == DQT_OK);
    c.mlp = i & 1 ? DQT_MLP_SQUARED_RELU : DQT_MLP_SWIGLU;
    c.no_sub_norms = !((i >> 1) & 1);
    c.tie_embeddings = (i >> 2) & 1;
    c.num_kv_heads = i & 8 ? 1 : 0;
    c.num_layers = 1 + i % 3;
    c.vocab_size = i % 2 ? 67 : 40;
    c.hidden_size = i % 5 ? 32 : 72;
    c.num_heads = 4;
    c.intermediate_size = 50 + i % 7;
    c.linear.storage = storage[i % 5];
    c.linear.scale_axis = (int32_t)(i / 5 % 3);
    if (c.linear.scale_axis == DQT_AXIS_GROUP) {
        c.hidden_size = 64;
        c.intermediate_size = 96;
        c.linear.group_size = 32;
    }
    if (c.linear.storage == DQT_FORMAT_INT8) c.linear.compute = DQT_FORMAT_TERNARY;
    if (c.linear.storage == DQT_FORMAT_INT3 && c.linear.scale_axis != DQT_AXIS_TENSOR) c.linear.train_scale = 1;
    c.activation = i % 4 == 3 ? DQT_ACTIVATION_NONE : DQT_ACTIVATION_INT8;
    c.head_activation = i % 6 == 5 ? DQT_ACTIVATION_INT8 : DQT_ACTIVATION_NONE;
    return c;
}

enum { GRID = 32 };

static void check_tapes(dqt_context *ctx, const struct counting *memory, dqt_layer *const *plan,
                        dqt_layer *const *layers, size_t n, unsigned i) {
    for (unsigned k = 0; k < 12; k++) {
        dqt_tape_options o;
        CHECK(dqt_tape_options_init(&o, sizeof o) == DQT_OK);
        o.max_batch = 1 + (i + k) % 3;
        o.max_length = k % 2 ? 17 : 8;
        o.inference = k == 1;
        o.no_gradient_buffers = k == 2;
        o.recompute = k >= 3 && k <= 6;
        o.checkpoint_format = k == 4 ? DQT_FLOAT_BF16 : DQT_FLOAT_F32;
        o.gradient_format = k < 8 ? DQT_FLOAT_F32 : (int32_t)k - 8;
        o.precision = (int32_t)(k % (grid_config(i).linear.scale_axis == DQT_AXIS_GROUP ? 3 : 4)); /* INT8: no groups */
        dqt_tape_memory_info planned = {.struct_size = sizeof planned}, real = {.struct_size = sizeof real};
        const size_t before = memory->bytes;
        OK(ctx, dqt_tape_memory(ctx, plan, n, &o, &planned));
        OK(ctx, dqt_tape_memory(ctx, layers, n, &o, &real));
        CHECK(memcmp(&planned, &real, sizeof real) == 0);
        CHECK(memory->bytes == before);
        dqt_tape *tape = NULL;
        OK(ctx, dqt_tape_create(ctx, layers, n, &o, &tape));
        CHECKF(memory->bytes - before == planned.total, "model %u, tape %u: %zu bytes, planned %zu", i, k,
               memory->bytes - before, planned.total);
        CHECK(planned.total == planned.activations + planned.gradients + planned.workspace + planned.other);
        CHECK((planned.gradients > 0) == (!o.no_gradient_buffers && !o.inference));
        dqt_tape_destroy(tape);
        CHECK(memory->bytes == before);
    }
}

static void check_updaters(dqt_context *ctx, const struct counting *memory, dqt_layer *const *plan,
                           dqt_layer *const *layers, size_t n, unsigned i) {
    for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_MUON; optimizer++)
        for (int state = DQT_STATE_F32; state <= DQT_STATE_INT8; state++)
            for (int moment = 0; moment <= 3; moment++) {
                dqt_updater_options o;
                CHECK(dqt_updater_options_init(&o, sizeof o) == DQT_OK);
                o.optimizer = optimizer;
                o.momentum_state = state;
                o.variance_state = (state + 1) % 3;
                o.beta1 = moment % 2 ? 0.9f : -1;
                o.rounding =
                    moment % 2 && optimizer != DQT_OPTIMIZER_MUON ? DQT_ROUND_ECO_STOCHASTIC : DQT_ROUND_STOCHASTIC;
                if (moment > 1) o.rounding = DQT_ROUND_ACCUMULATE;
                o.rate_corrected = state % 2; /* takes nothing */
                dqt_updater_memory_info planned = {.struct_size = sizeof planned}, real = {.struct_size = sizeof real};
                const size_t before = memory->bytes;
                const dqt_status status = dqt_updater_memory(ctx, plan, n, &o, &planned);
                if (status == DQT_E_UNSUPPORTED && optimizer == DQT_OPTIMIZER_MUON) continue; /* trained scales */
                OK(ctx, status);
                OK(ctx, dqt_updater_memory(ctx, layers, n, &o, &real));
                CHECK(memcmp(&planned, &real, sizeof real) == 0);
                CHECK(memory->bytes == before);
                dqt_updater *updater = NULL;
                OK(ctx, dqt_updater_create(ctx, layers, n, &o, &updater));
                CHECKF(memory->bytes - before == planned.total, "model %u, updater %d %d %d: %zu bytes, planned %zu", i,
                       optimizer, state, moment, memory->bytes - before, planned.total);
                CHECK(planned.total ==
                      planned.momentum + planned.variance + planned.scales + planned.workspace + planned.other);
                CHECK((planned.momentum > 0) ==
                      (moment > 0 || optimizer == DQT_OPTIMIZER_MUON)); /* models have codes, and gains in any case */
                dqt_updater_destroy(updater);
                CHECK(memory->bytes == before);
            }
}

static size_t count_weights(dqt_context *ctx, dqt_layer *const *layers, size_t n, int32_t first, int32_t last,
                            size_t *bytes) {
    size_t weights = 0;
    *bytes = 0;
    for (size_t i = 0; i < n; i++) {
        dqt_layer_info info = {.struct_size = sizeof info};
        OK(ctx, dqt_layer_get_info(layers[i], &info));
        for (size_t k = 0; k < info.num_parameters; k++) {
            dqt_parameter p = {.struct_size = sizeof p};
            dqt_tensor_info t = {.struct_size = sizeof t};
            OK(ctx, dqt_layer_get_parameter(layers[i], k, &p));
            OK(ctx, dqt_tensor_get_info(p.tensor, &t));
            if (p.parameter_class < first || p.parameter_class > last) continue;
            weights += t.rows * t.cols;
            *bytes += t.data_bytes + (t.group_size && !t.train_scale ? 2 : 4) * t.num_scales; /* fp16, or floats */
        }
    }
    return weights;
}

static void check_model(int threads, unsigned i) {
    struct counting memory;
    dqt_context *ctx = threads_context(&memory, threads);
    dqt_llama_config c = grid_config(i);
    dqt_llama_memory_info planned = {.struct_size = sizeof planned};
    const size_t before = memory.bytes;
    OK(ctx, dqt_llama_memory(ctx, &c, &planned));
    CHECK(memory.bytes == before);
    dqt_llama *model = NULL, *plan = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    CHECKF(memory.bytes - before == planned.total, "model %u: %zu bytes, planned %zu", i, memory.bytes - before,
           planned.total);
    CHECK(planned.total == planned.linear_bytes + planned.embedding_bytes + planned.head_bytes + planned.other_bytes);
    c.shape_only = 1;
    OK(ctx, dqt_llama_create(ctx, &c, &plan));
    dqt_layer *const *layers = NULL, *const *shapes = NULL;
    size_t n = 0, m = 0, bytes = 0;
    OK(ctx, dqt_llama_get_layers(model, &layers, &n));
    OK(ctx, dqt_llama_get_layers(plan, &shapes, &m));
    CHECK(n == m && n == c.num_layers + 3);
    CHECK(planned.linear_weights == count_weights(ctx, layers, n, DQT_CLASS_ATTENTION, DQT_CLASS_MLP, &bytes));
    CHECK(planned.linear_bytes == bytes);
    CHECK(planned.embedding_weights == count_weights(ctx, layers, n, DQT_CLASS_EMBEDDING, DQT_CLASS_EMBEDDING, &bytes));
    CHECK(planned.embedding_bytes == bytes && planned.embedding_weights == c.vocab_size * c.hidden_size);
    CHECK(planned.head_weights == count_weights(ctx, layers, n, DQT_CLASS_HEAD, DQT_CLASS_HEAD, &bytes));
    CHECK(planned.head_bytes == bytes && (planned.head_weights == 0) == (c.tie_embeddings == 1));
    CHECK(planned.norm_weights == count_weights(ctx, layers, n, DQT_CLASS_NORM, DQT_CLASS_NORM, &bytes));
    check_tapes(ctx, &memory, shapes, layers, n, i);
    check_updaters(ctx, &memory, shapes, layers, n, i);
    dqt_llama_destroy(plan);
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static void planned_memory(void) {
    for (unsigned i = 0; i < GRID; i++)
        check_model(1 + (int)(i % 4), i);
}

/* The same for lists of layers that a host made itself. */
static void planned_memory_of_layers(void) {
    struct counting memory;
    dqt_context *ctx = threads_context(&memory, 3);
    dqt_layer *layers[2][7] = {{0}};
    for (int shape_only = 0; shape_only <= 1; shape_only++) {
        dqt_layer_options o = named_layer_options();
        dqt_layer **l = layers[shape_only];
        o.shape_only = shape_only;
        OK(ctx, dqt_linear_create(ctx, 30, 24, &o, &l[0]));
        OK(ctx, dqt_rmsnorm_create(ctx, 24, &o, &l[1]));
        OK(ctx, dqt_attention_create(ctx, 24, 4, 1, &o, &l[2]));
        OK(ctx, dqt_mlp_create(ctx, 24, 70, &o, &l[3]));
        OK(ctx, dqt_block_create(ctx, 24, 40, 2, 2, &o, &l[4]));
        OK(ctx, dqt_embedding_create(ctx, 90, 24, &o, &l[5]));
        OK(ctx, dqt_head_create(ctx, l[5], 24, 90, &o, &l[6]));
    }
    check_tapes(ctx, &memory, layers[1], layers[0], 7, 0);
    check_updaters(ctx, &memory, layers[1], layers[0], 7, 0);
    for (size_t i = 0; i < 7; i++)
        check_tapes(ctx, &memory, &layers[1][i == 6 ? 5 : i], &layers[0][i == 6 ? 5 : i], i >= 5 ? 2 : 1, 1);
    for (size_t i = 7; i-- > 0;) {
        dqt_layer_destroy(layers[0][i]);
        dqt_layer_destroy(layers[1][i]);
    }
    counting_end(ctx, &memory);
}

/* A billion-parameter model is planned without memory for it, and what cannot be counted is refused. */
static void planning_large_models(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_llama_config c;
    CHECK(dqt_llama_config_init(&c, sizeof c) == DQT_OK);
    c.vocab_size = 32000;
    c.hidden_size = 4096;
    c.intermediate_size = 11008;
    c.num_layers = 32;
    c.num_heads = 32;
    dqt_llama_memory_info m = {.struct_size = sizeof m};
    OK(ctx, dqt_llama_memory(ctx, &c, &m));
    CHECK(m.linear_weights == (size_t)32 * (4u * 4096u * 4096u + 3u * 4096u * 11008u));
    CHECK(m.linear_bytes == m.linear_weights / 4 + 32 * 7 * 4);
    CHECK(memory.blocks < 10);
    c.vocab_size = INT32_MAX;
    c.hidden_size = (size_t)1 << 60;
    CHECK(dqt_llama_memory(ctx, &c, &m) == DQT_E_SHAPE);
    c.hidden_size = (size_t)1 << 40;
    c.activation = DQT_ACTIVATION_NONE;
    CHECK(dqt_llama_memory(ctx, &c, &m) == DQT_E_SHAPE);

    dqt_layer_options l = named_layer_options();
    l.activation = DQT_ACTIVATION_NONE;
    l.shape_only = 1;
    dqt_layer *wide = NULL;
    OK(ctx, dqt_linear_create(ctx, (size_t)1 << 40, 2, &l, &wide));
    dqt_tape_options o;
    CHECK(dqt_tape_options_init(&o, sizeof o) == DQT_OK);
    dqt_tape_memory_info t = {.struct_size = sizeof t};
    o.max_batch = 1024;
    o.max_length = 2;
    OK(ctx, dqt_tape_memory(ctx, &wide, 1, &o, &t));
    CHECK(t.total >= (size_t)1 << 52);
    o.max_batch = INT32_MAX;
    o.max_length = 1;
    CHECK(dqt_tape_memory(ctx, &wide, 1, &o, &t) == DQT_E_SHAPE);
    CHECK(strstr(dqt_last_error(ctx), "too large"));
    dqt_layer_destroy(wide);
    counting_end(ctx, &memory);
}

static const struct test tests[] = {
    TEST(planned_memory),
    TEST(planned_memory_of_layers),
    TEST(planning_large_models),
};
TEST_MAIN(tests)
