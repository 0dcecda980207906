/* The defaults of dqt.h: what options NULL, options of zeros and options from *_init come to. They belong to the major
 * version, so each is written here once more. */
#include "calls.h"
#include "counting_alloc.h"

/* The same struct by three ways: NULL, nothing but struct_size, *_init. */
enum { WAYS = 3 };
static const char *const ways[WAYS] = {"NULL", "zeros", "init"};
#define OPTIONS_BY(way, type, name)                                                                                    \
    type name = {.struct_size = sizeof name};                                                                          \
    if (way == 2) CHECK(type##_init(&name, sizeof name) == DQT_OK);                                                    \
    const type *name##_given = way == 0 ? NULL : &name

#define IS(field, value) CHECKF((double)(field) == (double)(value), "%s: it is %g", ways[way], (double)(field))

static void check_weights(int way, const dqt_tensor_options *o, int32_t storage) {
    IS(o->storage, storage);
    IS(o->compute, DQT_FORMAT_SAME);
    IS(o->scale_axis, DQT_AXIS_TENSOR);
    IS(o->sigma, 4);
    IS(o->train_scale, 0);
}

static void model(void) {
    for (int way = 0; way < WAYS; way++) {
        struct counting memory;
        dqt_context *ctx = counting_context(&memory);
        OPTIONS_BY(way, dqt_llama_config, config);
        dqt_llama *m;
        dqt_llama_config c = {.struct_size = sizeof c};
        OK(ctx, dqt_llama_create(ctx, config_given, &m));
        OK(ctx, dqt_llama_get_config(m, &c));
        IS(c.mlp, DQT_MLP_SWIGLU);
        IS(c.vocab_size, 256);
        IS(c.hidden_size, 128);
        IS(c.intermediate_size, 352);
        IS(c.num_layers, 2);
        IS(c.num_heads, 4);
        IS(c.num_kv_heads, 4);
        IS(c.norm_eps, 1e-5f);
        IS(c.rope_theta, 10000);
        IS(c.init_std, 0.02f);
        IS(c.linear_init_std, 0.02f);
        IS(c.no_sub_norms, 0);
        IS(c.tie_embeddings, 0);
        IS(c.activation, DQT_ACTIVATION_INT8);
        IS(c.head_activation, DQT_ACTIVATION_NONE);
        IS(c.shape_only, 0);
        IS(c.seed, way == 1 ? 0 : 1);
        check_weights(way, &c.linear, DQT_FORMAT_TERNARY);
        check_weights(way, &c.embedding, DQT_FORMAT_INT8);
        check_weights(way, &c.head, DQT_FORMAT_INT8);
        IS(c.linear.scale_rule, DQT_SCALE_ABSMEAN);
        IS(c.embedding.scale_rule, DQT_SCALE_SIGMA);
        IS(c.head.scale_rule, DQT_SCALE_SIGMA);
        dqt_llama_destroy(m);
        counting_end(ctx, &memory);
    }
}

static void training(void) {
    for (int way = 0; way < WAYS; way++) {
        struct counting memory;
        dqt_context *ctx = counting_context(&memory);
        OPTIONS_BY(way, dqt_updater_options, updater);
        OPTIONS_BY(way, dqt_tape_options, tape);
        dqt_layer *layer;
        dqt_updater *u;
        dqt_tape *t;
        dqt_updater_options o = {.struct_size = sizeof o};
        dqt_tape_options p = {.struct_size = sizeof p};
        OK(ctx, dqt_linear_create(ctx, 8, 6, NULL, &layer));
        OK(ctx, dqt_updater_create(ctx, &layer, 1, updater_given, &u));
        OK(ctx, dqt_tape_create(ctx, &layer, 1, tape_given, &t));
        OK(ctx, dqt_updater_get_options(u, &o));
        OK(ctx, dqt_tape_get_options(t, &p));
        IS(o.optimizer, DQT_OPTIMIZER_ADAMW);
        IS(o.rounding, DQT_ROUND_ECO_STOCHASTIC);
        IS(o.momentum_state, DQT_STATE_F32);
        IS(o.variance_state, DQT_STATE_F32);
        IS(o.beta1, 0.8f);
        IS(o.beta2, 0.95f);
        IS(o.eps, 1e-8f);
        IS(o.weight_decay, 0);
        IS(o.clip, DQT_CLIP_GLOBAL_NORM);
        IS(o.clip_norm, 1);
        IS(o.update_clip, 1);
        IS(o.lagged, 0);
        IS(o.scale_lr, 1);
        IS(o.rounding_noise, 1);
        IS(o.rate_corrected, 0);
        IS(o.seed, way == 1 ? 0 : 1);
        IS(p.max_batch, 1);
        IS(p.max_length, 128);
        IS(p.no_gradient_buffers, 0);
        IS(p.inference, 0);
        IS(p.recompute, 0);
        IS(p.gradient_format, DQT_FLOAT_F32);
        IS(p.checkpoint_format, DQT_FLOAT_F32);
        IS(p.seed, way == 1 ? 0 : 1);
        dqt_tape_destroy(t);
        dqt_updater_destroy(u);
        dqt_layer_destroy(layer);
        counting_end(ctx, &memory);
    }
}

/* A tensor's and a layer's: seen in what they are made with. */
static void weights(void) {
    for (int way = 0; way < WAYS; way++) {
        struct counting memory;
        dqt_context *ctx = counting_context(&memory);
        OPTIONS_BY(way, dqt_tensor_options, tensor);
        OPTIONS_BY(way, dqt_layer_options, layer);
        dqt_tensor *t;
        dqt_layer *l;
        dqt_parameter p = {.struct_size = sizeof p};
        dqt_tensor_info info = {.struct_size = sizeof info};
        OK(ctx, dqt_tensor_create(ctx, 4, 5, tensor_given, &t));
        OK(ctx, dqt_linear_create(ctx, 64, 64, layer_given, &l));
        OK(ctx, dqt_layer_get_parameter(l, 0, &p));
        for (int i = 0; i < 2; i++) {
            OK(ctx, dqt_tensor_get_info(i ? p.tensor : t, &info));
            IS(info.storage, DQT_FORMAT_TERNARY);
            IS(info.compute, DQT_FORMAT_TERNARY);
            IS(info.scale_rule, DQT_SCALE_ABSMEAN);
            IS(info.scale_axis, DQT_AXIS_TENSOR);
            IS(info.train_scale, 0);
            IS(info.num_scales, 1);
            IS(info.sigma, 4);
        }
        /* AbsMean of normal numbers: sqrt(2 / pi) standard deviations. */
        float scale = 0;
        OK(ctx, dqt_tensor_get_scales(p.tensor, &scale));
        CHECKF(fabsf(scale - 0.02f * 0.79788f) < 0.0006f, "%s: the scale is %g", ways[way], (double)scale);
        dqt_layer_destroy(l);
        dqt_tensor_destroy(t);
        counting_end(ctx, &memory);
    }
}

static void use(void) {
    for (int way = 0; way < WAYS; way++) {
        struct counting memory;
        dqt_context *ctx = counting_context(&memory);
        OPTIONS_BY(way, dqt_session_options, session);
        OPTIONS_BY(way, dqt_sampler_options, sampler);
        dqt_llama *m;
        dqt_session *s;
        dqt_sampler *p;
        dqt_session_options o = {.struct_size = sizeof o};
        OK(ctx, dqt_llama_create(ctx, NULL, &m));
        OK(ctx, dqt_session_create(m, session_given, &s));
        OK(ctx, dqt_session_get_options(s, &o));
        IS(o.max_length, 2048);
        IS(o.cache_format, DQT_CACHE_F32);
        /* Neither top_k nor top_p; init and NULL sample at temperature 1, zeros take the best. */
        static const float logits[3] = {0, 1, 0.5f};
        size_t counts[3] = {0};
        OK(ctx, dqt_sampler_create(ctx, 3, sampler_given, &p));
        for (int i = 0; i < 3000; i++) {
            int32_t token = 0;
            OK(ctx, dqt_sampler_sample(p, logits, &token));
            counts[token]++;
        }
        for (int k = 0; k < 3 && way != 1; k++) {
            const double expected = 3000 * exp((double)logits[k]) / (1 + exp(1.0) + exp(0.5));
            CHECKF(fabs((double)counts[k] - expected) < 5 * sqrt(expected), "%s: token %d %zu times, expected %g",
                   ways[way], k, counts[k], expected);
        }
        if (way == 1) IS(counts[1], 3000);
        dqt_sampler_destroy(p);
        dqt_session_destroy(s);
        dqt_llama_destroy(m);
        counting_end(ctx, &memory);
    }
}

/* Those that only *_init tells. */
static void files_and_groups(void) {
    const int way = 2;
    OPTIONS_BY(way, dqt_gguf_options, gguf);
    OPTIONS_BY(way, dqt_safetensors_options, safetensors);
    OPTIONS_BY(way, dqt_import_options, import);
    OPTIONS_BY(way, dqt_open_options, open);
    OPTIONS_BY(way, dqt_group_options, group);
    OPTIONS_BY(way, dqt_context_options, context);
    (void)gguf_given, (void)safetensors_given, (void)import_given, (void)open_given, (void)group_given,
        (void)context_given;
    IS(gguf.linear_type, DQT_GGUF_AUTO);
    IS(gguf.embedding_type, DQT_GGUF_AUTO);
    IS(gguf.bos_token, 0);
    IS(gguf.eos_token, 0);
    IS(gguf.unknown_token, 0);
    IS(gguf.add_bos, 0);
    IS(gguf.add_space_prefix, 0);
    IS(gguf.context_length, 0);
    IS(gguf.num_tokens, 0);
    IS(safetensors.dtype, DQT_SAFETENSORS_F32);
    IS(safetensors.stored, 0);
    IS(import.rounding, DQT_ROUND_NEAREST);
    IS(import.seed, 0);
    IS(open.activation, DQT_ACTIVATION_DEFAULT);
    IS(open.rounding, DQT_ROUND_NEAREST);
    IS(open.seed, 0);
    IS(open.max_length, 0);
    IS(open.linear.storage, 0);
    IS(open.embedding.storage, 0);
    IS(open.head.storage, 0);
    IS(group.parameter_class, 0);
    IS(group.rounding, 0);
    IS(group.lr_factor, 0);
    IS(group.weight_decay, 0);
    IS(group.beta1, 0);
    IS(group.rounding_noise, 0);
    IS(group.freeze, 0);
    IS(context.threading, DQT_THREADING_AUTO);
    IS(context.num_threads, 0);
    IS(context.isa, DQT_ISA_AUTO);
    IS(context.forbid_amx, 0);
    IS(context.log_level, DQT_LOG_WARNING);
    CHECK(!gguf.source && !gguf.tokens && !gguf.scores && !gguf.types && !group.pattern && !context.alloc &&
          !context.log);
}

/* Structs whose zeros are already what init gives. */
static void zeros_are_the_defaults(void) {
    dqt_session_options session, session_zeros = {.struct_size = sizeof session, .max_length = 2048};
    CHECK(dqt_session_options_init(&session, sizeof session) == DQT_OK);
    CHECK(memcmp(&session, &session_zeros, sizeof session) == 0);
    dqt_save_options save, save_zeros = {.struct_size = sizeof save};
    CHECK(dqt_save_options_init(&save, sizeof save) == DQT_OK && memcmp(&save, &save_zeros, sizeof save) == 0);
    dqt_load_options load, load_zeros = {.struct_size = sizeof load};
    CHECK(dqt_load_options_init(&load, sizeof load) == DQT_OK && memcmp(&load, &load_zeros, sizeof load) == 0);
    dqt_import_options import, import_zeros = {.struct_size = sizeof import};
    import_zeros.rounding = DQT_ROUND_NEAREST;
    CHECK(dqt_import_options_init(&import, sizeof import) == DQT_OK);
    CHECK(memcmp(&import, &import_zeros, sizeof import) == 0);
    dqt_preset_options preset, preset_zeros = {.struct_size = sizeof preset};
    CHECK(dqt_preset_options_init(&preset, sizeof preset) == DQT_OK);
    CHECK(memcmp(&preset, &preset_zeros, sizeof preset) == 0);
}

static const struct test tests[] = {TEST(model), TEST(training),         TEST(weights),
                                    TEST(use),   TEST(files_and_groups), TEST(zeros_are_the_defaults)};
TEST_MAIN(tests)
