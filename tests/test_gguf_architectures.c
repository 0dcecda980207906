/* GGUF files of the architectures other than LLaMA 2's: names, keys, biases, norms of heads, the order of rows, factors
 * of frequencies; and what no architecture of llama.cpp has. */
#include "calls.h"
#include "counting_alloc.h"
#include "gguf_reader.h"

enum { HIDDEN = 64, HEADS = 4, KV_HEADS = 2 };

static dqt_llama_config config_of(void) {
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.hidden_size = HIDDEN;
    c.intermediate_size = 96;
    c.num_heads = HEADS;
    c.num_kv_heads = KV_HEADS;
    c.no_sub_norms = 1;
    c.linear.storage = c.embedding.storage = c.head.storage = DQT_FORMAT_F32;
    return c;
}

static void set_llama3(dqt_llama_config *c) {
    c->rope_scaling = DQT_ROPE_LLAMA3;
    c->rope_factor = 8;
    c->rope_low_freq_factor = 1;
    c->rope_high_freq_factor = 4;
    c->rope_original_context = 64;
}

/* With gains and biases that are not those of the beginning. */
static dqt_llama *model_of(dqt_context *ctx, const dqt_llama_config *c) {
    dqt_llama *model = NULL;
    dqt_layer *const *layers = NULL;
    size_t count = 0;
    uint64_t random = 3;
    OK(ctx, dqt_llama_create(ctx, c, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    for (size_t i = 0; i < count; i++) {
        dqt_layer_info info = {.struct_size = sizeof info};
        OK(ctx, dqt_layer_get_info(layers[i], &info));
        for (size_t p = 0; p < info.num_parameters; p++) {
            dqt_parameter parameter = {.struct_size = sizeof parameter};
            OK(ctx, dqt_layer_get_parameter(layers[i], p, &parameter));
            for (size_t k = 0; parameter.rows == 1 && k < parameter.cols; k++)
                ((float *)(void *)parameter.tensor->data)[k] += test_uniform(&random);
        }
    }
    return model;
}

static const dqt_tensor *tensor_named(dqt_context *ctx, dqt_llama *model, const char *name) {
    dqt_layer *block = NULL, *const *layers = NULL;
    size_t count = 0;
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    block = layers[2]; /* the second block */
    dqt_layer_info info = {.struct_size = sizeof info};
    OK(ctx, dqt_layer_get_info(block, &info));
    for (size_t p = 0; p < info.num_parameters; p++) {
        dqt_parameter parameter = {.struct_size = sizeof parameter};
        OK(ctx, dqt_layer_get_parameter(block, p, &parameter));
        if (strcmp(parameter.name, name) == 0) return parameter.tensor;
    }
    return NULL;
}

/* A tensor of the second block, F32. heads: its rows are in the order of neighbours, (head, half, i) as (head, i,
 * half); 0: as they are. */
static void check_tensor(struct reader *r, dqt_context *ctx, dqt_llama *model, const char *stored, const char *name,
                         size_t heads) {
    const dqt_tensor *t = tensor_named(ctx, model, name);
    struct stored s = {0};
    const bool found = find_tensor(r, stored, &s);
    CHECKF(found && t, "%s, %s", stored, name);
    if (!found || !t) return;
    CHECKF(s.type == 0 && s.cols == t->cols && s.rows == t->rows && s.dims == (t->rows > 1 ? 2u : 1u), "%s", stored);
    size_t wrong = 0;
    for (size_t i = 0; i < t->rows; i++) {
        const size_t size = heads ? t->rows / heads : 1, half = heads ? size / 2 : 1, at = i % size;
        const size_t row = heads ? i - at + 2 * (at % half) + at / half : i;
        for (size_t c = 0; c < t->cols; c++) {
            const float expected = ((const float *)(const void *)t->data)[i * t->cols + c];
            const float got = stored_weight(&s, row, c);
            wrong += !(got >= expected && got <= expected);
        }
    }
    CHECKF(wrong == 0, "%s: %zu numbers differ", stored, wrong);
}

static struct memory_file written(dqt_context *ctx, dqt_llama *model) {
    dqt_gguf_options o;
    dqt_gguf_options_init(&o, sizeof o);
    o.linear_type = o.embedding_type = DQT_GGUF_F32;
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write_gguf(model, memory_write, &f, &o));
    return f;
}

static void check_name(struct reader *r, const char *expected) {
    char text[128] = "";
    CHECK(find_key(r, "general.architecture") == 8);
    take_string(r, text, sizeof text);
    CHECKF(strcmp(text, expected) == 0, "%s", text);
}

static void qwen2(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_llama_config c = config_of();
    c.attention_bias = 1;
    dqt_llama *model = model_of(ctx, &c);
    struct memory_file f = written(ctx, model);
    struct reader r = reader_new(&f);
    check_name(&r, "qwen2");
    CHECK(number_key(&r, "qwen2.attention.head_count_kv", 4) == KV_HEADS);
    CHECK(find_key(&r, "qwen2.attention.key_length") == 0);
    check_tensor(&r, ctx, model, "blk.1.attn_q.weight", "blocks.1.attention.q", 0);
    check_tensor(&r, ctx, model, "blk.1.attn_k.weight", "blocks.1.attention.k", 0);
    check_tensor(&r, ctx, model, "blk.1.attn_q.bias", "blocks.1.attention.q_bias", 0);
    check_tensor(&r, ctx, model, "blk.1.attn_k.bias", "blocks.1.attention.k_bias", 0);
    check_tensor(&r, ctx, model, "blk.1.attn_v.bias", "blocks.1.attention.v_bias", 0);
    free(f.bytes);
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static void qwen3(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_llama_config c = config_of();
    c.qk_norm = 1;
    c.head_dim = 24;
    c.rope_scaling = DQT_ROPE_LINEAR;
    c.rope_factor = 4;
    dqt_llama *model = model_of(ctx, &c);
    struct memory_file f = written(ctx, model);
    struct reader r = reader_new(&f);
    char text[64] = "";
    check_name(&r, "qwen3");
    CHECK(number_key(&r, "qwen3.attention.key_length", 4) == 24);
    CHECK(number_key(&r, "qwen3.attention.value_length", 4) == 24);
    CHECK(number_key(&r, "qwen3.rope.dimension_count", 4) == 24);
    CHECK(number_key(&r, "qwen3.rope.scaling.factor", 6) == f32_bits(4.0f));
    CHECK(find_key(&r, "qwen3.rope.scaling.type") == 8);
    take_string(&r, text, sizeof text);
    CHECK(strcmp(text, "linear") == 0);
    check_tensor(&r, ctx, model, "blk.1.attn_q.weight", "blocks.1.attention.q", 0);
    check_tensor(&r, ctx, model, "blk.1.attn_output.weight", "blocks.1.attention.o", 0);
    check_tensor(&r, ctx, model, "blk.1.attn_q_norm.weight", "blocks.1.attention.q_norm", 0);
    check_tensor(&r, ctx, model, "blk.1.attn_k_norm.weight", "blocks.1.attention.k_norm", 0);
    free(f.bytes);
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

/* transformers' numbers of inv_freq, unscaled over scaled, for these settings (_compute_llama3_parameters in double).
 */
static void llama3(void) {
    static const double pi = 3.141592653589793;
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_llama_config c = config_of();
    c.head_dim = 24;
    set_llama3(&c);
    dqt_llama *model = model_of(ctx, &c);
    struct memory_file f = written(ctx, model);
    struct reader r = reader_new(&f);
    struct stored s = {0};
    check_name(&r, "llama");
    check_tensor(&r, ctx, model, "blk.1.attn_q.weight", "blocks.1.attention.q", HEADS);
    check_tensor(&r, ctx, model, "blk.1.attn_k.weight", "blocks.1.attention.k", KV_HEADS);
    CHECK(number_key(&r, "llama.attention.key_length", 4) == 24);
    CHECK(find_key(&r, "llama.rope.scaling.type") == 0);
    CHECK(find_tensor(&r, "rope_freqs.weight", &s) && s.dims == 1 && s.cols == 12 && s.type == 0);
    int whole = 0, none = 0;
    for (size_t i = 0; i < 12 && s.data; i++) {
        const double wavelength = 2 * pi * pow(10000, (double)i / 12), smooth = (64 / wavelength - 1) / (4 - 1);
        const double expected = wavelength > 64.0 / 1 ? 8 : wavelength < 64.0 / 4 ? 1 : 1 / ((1 - smooth) / 8 + smooth);
        const double got = (double)stored_weight(&s, 0, i);
        CHECKF(fabs(got - expected) <= 1e-6 * expected, "factor %zu is %g, not %g", i, got, expected);
        whole += got > 7.999;
        none += got < 1.001;
    }
    CHECKF(whole > 0 && none > 0 && whole + none < 12, "%d %d", whole, none);
    free(f.bytes);
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static void refusals(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    for (int kind = 0; kind < 7; kind++) {
        dqt_llama_config c = config_of();
        c.tie_embeddings = 1;
        if (kind < 3) c.no_sub_norms = 0;
        if (kind == 0) c.qk_norm = 1;
        if (kind == 1) c.head_dim = 24;
        if (kind == 2 || kind == 3) set_llama3(&c);
        if (kind == 3 || kind == 4 || kind == 5) c.attention_bias = 1;
        if (kind == 4) c.qk_norm = 1;
        if (kind == 5) c.head_dim = 24;
        if (kind == 6) c.mlp = DQT_MLP_GATED_SQUARED_RELU;
        dqt_llama *model = model_of(ctx, &c);
        struct memory_file f = memory_new();
        CHECKF(dqt_llama_write_gguf(model, memory_write, &f, NULL) == DQT_E_UNSUPPORTED && f.size == 0, "kind %d",
               kind);
        CHECKF(strstr(dqt_last_error(ctx), "llama.cpp has no architecture"), "%s", dqt_last_error(ctx));
        dqt_llama_destroy(model);
    }
    counting_end(ctx, &memory);
}

static const struct test tests[] = {TEST(qwen2), TEST(qwen3), TEST(llama3), TEST(refusals)};
TEST_MAIN(tests)
