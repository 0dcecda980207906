/* GGUF files are read back by a small reader written from the format's description (not from the writer) and compared
 * with the weights that the layers read. tests/interop runs the readers of others over the same files. */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "counting_alloc.h"
#include "format/half.h"
#include "format/tensor.h"
#include "formats.h"
#include "gguf_reader.h"

/* ---- Models -------------------------------------------------------------------------------------------------- */

static dqt_llama_config config_of(int32_t format, int32_t sub_norms, int32_t tied, int32_t axis) {
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.hidden_size = 256;
    c.intermediate_size = 352; /* 11 blocks of 32, not whole ones of 256 */
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.no_sub_norms = !(sub_norms);
    c.tie_embeddings = tied;
    c.linear.storage = format;
    c.linear.scale_axis = axis;
    c.linear.scale_rule = DQT_SCALE_SIGMA;
    c.linear.sigma = 2.5f;
    return c;
}

/* Gains of 1 could come from anywhere: other numbers go in. */
static void shake_gains(dqt_context *ctx, dqt_llama *model) {
    dqt_layer *const *layers;
    size_t count;
    uint64_t random = 3;
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    for (size_t i = 0; i < count; i++) {
        dqt_layer_info info = {.struct_size = sizeof info};
        OK(ctx, dqt_layer_get_info(layers[i], &info));
        for (size_t p = 0; p < info.num_parameters; p++) {
            dqt_parameter parameter = {.struct_size = sizeof parameter};
            OK(ctx, dqt_layer_get_parameter(layers[i], p, &parameter));
            if (parameter.parameter_class != DQT_CLASS_NORM) continue;
            for (size_t k = 0; k < parameter.cols; k++)
                ((float *)(void *)parameter.tensor->data)[k] = 1 + test_uniform(&random);
        }
    }
}

static dqt_llama *model_new(dqt_context *ctx, const dqt_llama_config *c) {
    dqt_llama *model = NULL;
    OK(ctx, dqt_llama_create(ctx, c, &model));
    shake_gains(ctx, model);
    return model;
}

static const dqt_tensor *parameter_named(dqt_context *ctx, dqt_llama *model, const char *name) {
    dqt_layer *const *layers;
    size_t count;
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    for (size_t i = 0; i < count; i++) {
        dqt_layer_info info = {.struct_size = sizeof info};
        OK(ctx, dqt_layer_get_info(layers[i], &info));
        for (size_t p = 0; p < info.num_parameters; p++) {
            dqt_parameter parameter = {.struct_size = sizeof parameter};
            OK(ctx, dqt_layer_get_parameter(layers[i], p, &parameter));
            if (strcmp(parameter.name, name) == 0) return parameter.tensor;
        }
    }
    CHECKF(false, "no parameter %s", name);
    return NULL;
}

/* The stored tensor is the layer's, to this relative error (and what fp16 loses of small numbers); rows permuted within
 * heads if there are any. */
static void compare(struct reader *r, dqt_context *ctx, dqt_llama *model, const char *stored_name, const char *name,
                    uint64_t type, float error, size_t heads) {
    const dqt_tensor *t = parameter_named(ctx, model, name);
    struct stored s;
    char full[128];
    snprintf(full, sizeof full, "%s.weight", stored_name);
    const bool found = find_tensor(r, full, &s);
    CHECKF(found, "no tensor %s", full);
    if (!found || !t) return;
    CHECKF(s.type == type, "%s has type %d", full, (int)s.type);
    CHECK(s.cols == t->cols && s.rows == t->rows && s.dims == (t->rows > 1 ? 2u : 1u) && s.offset % 32 == 0);
    struct stored scale = {0};
    snprintf(full, sizeof full, "%s.scale", stored_name);
    float factor = 1;
    if (find_tensor(r, full, &scale)) {
        CHECK(scale.type == 0 && scale.dims == 1 && scale.cols == 1);
        factor = stored_weight(&scale, 0, 0);
    }
    float row[1024];
    size_t wrong = 0;
    for (size_t i = 0; i < t->rows; i++) {
        tensor_read_floats(t, i, 0, t->cols, row);
        size_t at = i; /* (head, half, d / 2) -> (head, d / 2, half) */
        if (heads) {
            const size_t d = t->rows / heads, h = i / d, half = i % d / (d / 2), k = i % (d / 2);
            at = h * d + 2 * k + half;
        }
        for (size_t c = 0; c < t->cols; c++)
            if (!(fabsf(stored_weight(&s, at, c) * factor - row[c]) <=
                  error * fabsf(row[c]) + (error > 0 ? 0x1p-24f : 0)))
                wrong++;
    }
    CHECKF(wrong == 0, "%s: %zu of %zu weights differ", stored_name, wrong, t->rows * t->cols);
}

/* General checks and all tensors. exact: errors of scales and halves do not count (kept apart, or F32). */
static void check_file(dqt_context *ctx, dqt_llama *model, const dqt_llama_config *c, const dqt_gguf_options *o,
                       uint64_t type, uint64_t short_type, uint64_t embedding_type, bool exact) {
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write_gguf(model, memory_write, &f, o));
    struct reader r = reader_new(&f);
    const char *arch = !c->no_sub_norms ? "bitnet" : "llama";
    char text[128], name[128];
    CHECK(find_key(&r, "general.architecture") == 8);
    take_string(&r, text, sizeof text);
    CHECK(strcmp(text, arch) == 0);
    const struct {
        const char *key;
        uint64_t type, value;
    } keys[] = {{"context_length", 4, o && o->context_length ? o->context_length : 2048},
                {"embedding_length", 4, c->hidden_size},
                {"block_count", 4, c->num_layers},
                {"feed_forward_length", 4, c->intermediate_size},
                {"attention.head_count", 4, c->num_heads},
                {"attention.head_count_kv", 4, c->num_kv_heads},
                {"vocab_size", 4, c->vocab_size},
                {"attention.layer_norm_rms_epsilon", 6, f32_bits(c->norm_eps)},
                {"rope.freq_base", 6, f32_bits(c->rope_theta)}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(text, sizeof text, "%s.%s", arch, keys[i].key);
        CHECKF(number_key(&r, text, keys[i].type) == keys[i].value, "%s", text);
    }
    const float error = exact ? 0 : 0x1p-9f;
    compare(&r, ctx, model, "token_embd", "embedding", embedding_type, embedding_type ? 0x1p-9f : 0, 0);
    compare(&r, ctx, model, "output_norm", "norm", 0, 0, 0);
    static const struct {
        const char *stored, *name;
        int heads; /* 1: query, 2: key heads */
        bool narrow;
    } linears[] = {{"attn_q", "attention.q", 1, false}, {"attn_k", "attention.k", 2, false},
                   {"attn_v", "attention.v", 0, false}, {"attn_output", "attention.o", 0, false},
                   {"ffn_gate", "mlp.gate", 0, false},  {"ffn_up", "mlp.up", 0, false},
                   {"ffn_down", "mlp.down", 0, true}};
    static const struct {
        const char *stored, *name;
        bool sub;
    } gains[] = {{"attn_norm", "attention_norm", false},
                 {"ffn_norm", "mlp_norm", false},
                 {"attn_sub_norm", "attention.sub_norm", true},
                 {"ffn_sub_norm", "mlp.sub_norm", true}};
    for (size_t b = 0; b < c->num_layers; b++) {
        for (size_t i = 0; i < 7; i++) {
            snprintf(text, sizeof text, "blk.%zu.%s", b, linears[i].stored);
            snprintf(name, sizeof name, "blocks.%zu.%s", b, linears[i].name);
            const size_t heads = !c->no_sub_norms || !linears[i].heads ? 0
                                 : linears[i].heads == 1               ? c->num_heads
                                                                       : c->num_kv_heads;
            compare(&r, ctx, model, text, name, linears[i].narrow ? short_type : type, error, heads);
        }
        for (size_t i = 0; i < 4; i++) {
            snprintf(text, sizeof text, "blk.%zu.%s", b, gains[i].stored);
            snprintf(name, sizeof name, "blocks.%zu.%s", b, gains[i].name);
            if (!gains[i].sub || !c->no_sub_norms) compare(&r, ctx, model, text, name, 0, 0, 0);
        }
    }
    struct stored s;
    CHECK(find_tensor(&r, "output.weight", &s) == !c->tie_embeddings);
    if (!c->tie_embeddings) compare(&r, ctx, model, "output", "head", embedding_type, embedding_type ? 0x1p-9f : 0, 0);
    struct memory_file again = memory_new();
    OK(ctx, dqt_llama_write_gguf(model, memory_write, &again, o));
    CHECK(same_bytes(&f, &again) && f.size % 32 == 0);
    free(again.bytes);
    free(f.bytes);
}

static dqt_gguf_options options_of(int32_t linear, int32_t embedding) {
    dqt_gguf_options o;
    dqt_gguf_options_init(&o, sizeof o);
    o.linear_type = linear;
    o.embedding_type = embedding;
    return o;
}

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q5_0 = 6, Q8_0 = 8, TQ1_0 = 34, TQ2_0 = 35 };

static void every_format(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    static const uint64_t automatic[] = {0, F32, F16, Q8_0, Q4_0, Q4_0, Q4_0, TQ2_0, Q5_0, Q8_0};
    EACH_FORMAT(format)
    for (int kind = 0; kind < 6; kind++) {
        const int32_t sub = kind < 2, tied = kind < 4, axis = kind % 2;
        const dqt_llama_config c = config_of(format, sub, tied, axis);
        dqt_llama *model = model_new(ctx, &c);
        const uint64_t type = automatic[format], narrow = type == TQ2_0 ? F16 : type;
        const bool codes = number_is_code(format);
        check_file(ctx, model, &c, NULL, type, narrow, Q8_0, format == DQT_FORMAT_F32 || (codes && sub && !axis));
        const dqt_gguf_options wide = options_of(DQT_GGUF_F32, DQT_GGUF_F32);
        check_file(ctx, model, &c, &wide, F32, F32, F32, true);
        if (format == DQT_FORMAT_TERNARY) {
            const dqt_gguf_options small = options_of(DQT_GGUF_TQ1_0, DQT_GGUF_F16);
            check_file(ctx, model, &c, &small, TQ1_0, F16, F16, sub && !axis);
        }
        if (codes) {
            const dqt_gguf_options bytes = options_of(DQT_GGUF_Q8_0, DQT_GGUF_AUTO);
            check_file(ctx, model, &c, &bytes, Q8_0, Q8_0, Q8_0, sub && !axis);
        }
        dqt_llama_destroy(model);
    }
    counting_end(ctx, &counting);
}

/* What the layers read goes out, not what the updater writes. */
static void compute_formats(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    for (int32_t storage = DQT_FORMAT_F32; storage <= DQT_FORMAT_INT8; storage++) {
        dqt_llama_config c = config_of(storage, 1, 1, DQT_AXIS_TENSOR);
        c.linear.compute = DQT_FORMAT_TERNARY;
        dqt_llama *model = model_new(ctx, &c);
        check_file(ctx, model, &c, NULL, TQ2_0, F16, Q8_0, true);
        dqt_llama_destroy(model);
    }
    counting_end(ctx, &counting);
}

static void tokenizers(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama_config c = config_of(DQT_FORMAT_TERNARY, 1, 1, DQT_AXIS_TENSOR);
    dqt_llama *model = model_new(ctx, &c);
    struct memory_file f = memory_new();
    char text[64], expected[64];
    OK(ctx, dqt_llama_write_gguf(model, memory_write, &f, NULL));
    struct reader r = reader_new(&f);
    CHECK(find_key(&r, "tokenizer.ggml.tokens") == 9 && take(&r, 4) == 8 && take(&r, 8) == 256);
    for (int i = 0; i < 256; i++) {
        take_string(&r, text, sizeof text);
        snprintf(expected, sizeof expected, i == 32 ? "\xE2\x96\x81" : "<0x%02X>", i);
        CHECK(strcmp(text, expected) == 0);
    }
    CHECK(find_key(&r, "tokenizer.ggml.token_type") == 9 && take(&r, 4) == 5 && take(&r, 8) == 256);
    for (int i = 0; i < 256; i++)
        CHECK(take(&r, 4) == (i == 32 ? 1 : 6));
    CHECK(number_key(&r, "tokenizer.ggml.eos_token_id", 4) == 0);
    CHECK(number_key(&r, "tokenizer.ggml.add_bos_token", 7) == 0);
    CHECK(number_key(&r, "general.file_type", 4) == 37);
    dqt_llama_destroy(model);
    free(f.bytes);

    c.vocab_size = 3;
    model = model_new(ctx, &c);
    const char *tokens[] = {"<unk>", "a", "bc"};
    const float scores[] = {0, -1, -2.5f};
    const int32_t types[] = {2, 1, 4};
    dqt_gguf_options o = options_of(DQT_GGUF_AUTO, DQT_GGUF_AUTO);
    o.tokens = tokens;
    o.scores = scores;
    o.types = types;
    o.num_tokens = 3;
    o.bos_token = -1;
    o.eos_token = 2;
    o.add_bos = 1;
    o.context_length = 77;
    f = memory_new();
    OK(ctx, dqt_llama_write_gguf(model, memory_write, &f, &o));
    r = reader_new(&f);
    CHECK(find_key(&r, "tokenizer.ggml.tokens") == 9 && take(&r, 4) == 8 && take(&r, 8) == 3);
    for (int i = 0; i < 3; i++) {
        take_string(&r, text, sizeof text);
        CHECK(strcmp(text, tokens[i]) == 0);
    }
    CHECK(find_key(&r, "tokenizer.ggml.scores") == 9 && take(&r, 4) == 6 && take(&r, 8) == 3);
    for (int i = 0; i < 3; i++)
        CHECK(take(&r, 4) == f32_bits(scores[i]));
    CHECK(find_key(&r, "tokenizer.ggml.token_type") == 9 && take(&r, 4) == 5 && take(&r, 8) == 3);
    for (int i = 0; i < 3; i++)
        CHECK(take(&r, 4) == (uint64_t)types[i]);
    CHECK(find_key(&r, "tokenizer.ggml.bos_token_id") == 0);
    CHECK(number_key(&r, "tokenizer.ggml.eos_token_id", 4) == 2);
    CHECK(number_key(&r, "tokenizer.ggml.add_bos_token", 7) == 1);
    CHECK(number_key(&r, "bitnet.context_length", 4) == 77);
    free(f.bytes);

    o.num_tokens = 2;
    CHECK(dqt_llama_write_gguf(model, memory_write, &f, &o) == DQT_E_ARGUMENT);
    o.num_tokens = 3;
    o.eos_token = 3;
    CHECK(dqt_llama_write_gguf(model, memory_write, &f, &o) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_write_gguf(model, memory_write, &f, NULL) == DQT_E_ARGUMENT); /* 3 tokens are not bytes */
    dqt_llama_destroy(model);
    counting_end(ctx, &counting);
}

/* A refusal has a sentence, writes nothing and makes no file. */
static void check_refused(dqt_context *ctx, dqt_llama *model, const dqt_gguf_options *o, dqt_status expected,
                          const char *word) {
    struct memory_file f = memory_new();
    const size_t before = dqt_context_allocated(ctx);
    const char *path = "/tmp/dqt-test-refused.gguf";
    CHECK(dqt_llama_write_gguf(model, memory_write, &f, o) == expected && f.size == 0);
    CHECKF(strstr(dqt_last_error(ctx), word) != NULL, "\"%s\" has no \"%s\"", dqt_last_error(ctx), word);
    CHECK(dqt_llama_export_gguf(model, path, o) == expected && access(path, F_OK) != 0);
    CHECK(dqt_context_allocated(ctx) == before);
}

static void refusals(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama_config c = config_of(DQT_FORMAT_INT8, 1, 0, DQT_AXIS_TENSOR);
    dqt_llama *model = model_new(ctx, &c);
    check_refused(ctx, model, NULL, DQT_E_UNSUPPORTED, "tie_embeddings");
    dqt_llama_destroy(model);
    c.tie_embeddings = 1;
    c.mlp = DQT_MLP_SQUARED_RELU;
    model = model_new(ctx, &c);
    check_refused(ctx, model, NULL, DQT_E_UNSUPPORTED, "ReLU");
    dqt_llama_destroy(model);
    c.mlp = DQT_MLP_SWIGLU;
    model = model_new(ctx, &c);
    dqt_gguf_options o = options_of(DQT_GGUF_TQ2_0, DQT_GGUF_AUTO);
    check_refused(ctx, model, &o, DQT_E_UNSUPPORTED, "TQ2_0");
    o.linear_type = DQT_GGUF_Q4_0;
    check_refused(ctx, model, &o, DQT_E_UNSUPPORTED, "Q4_0");
    o.linear_type = DQT_GGUF_Q5_0; /* of int8 */
    check_refused(ctx, model, &o, DQT_E_UNSUPPORTED, "Q5_0");
    o.linear_type = 8;
    check_refused(ctx, model, &o, DQT_E_ARGUMENT, "linear_type");
    o.linear_type = DQT_GGUF_AUTO;
    o.embedding_type = DQT_GGUF_TQ2_0;
    check_refused(ctx, model, &o, DQT_E_ARGUMENT, "embedding_type");
    o.embedding_type = DQT_GGUF_AUTO;
    o.context_length = (size_t)INT32_MAX + 1;
    check_refused(ctx, model, &o, DQT_E_ARGUMENT, "context_length");
    const float tiny = 1e-7f;
    OK(ctx, dqt_tensor_set_scales((dqt_tensor *)(uintptr_t)parameter_named(ctx, model, "embedding"), &tiny));
    check_refused(ctx, model, NULL, DQT_E_UNSUPPORTED, "fp16");
    o = options_of(DQT_GGUF_AUTO, DQT_GGUF_F32);
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write_gguf(model, memory_write, &f, &o));
    const size_t whole = f.size;
    for (size_t at = 0; at < whole; at += whole / 7) {
        struct memory_file out = memory_new();
        out.fail_at = at;
        CHECK(dqt_llama_write_gguf(model, memory_write, &out, &o) == DQT_E_IO);
        free(out.bytes);
    }
    counting.fail_at = counting.calls;
    CHECK(dqt_llama_write_gguf(model, memory_write, &f, &o) == DQT_E_MEMORY);
    CHECK(f.size == whole);
    counting.fail_at = SIZE_MAX;
    ((float *)(void *)parameter_named(ctx, model, "norm")->data)[0] = INFINITY;
    check_refused(ctx, model, &o, DQT_E_NUMERIC, "output_norm");
    CHECK(dqt_llama_write_gguf(NULL, memory_write, &f, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_write_gguf(model, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_export_gguf(model, NULL, NULL) == DQT_E_ARGUMENT);
    free(f.bytes);
    dqt_llama_destroy(model);

    c.linear.storage = DQT_FORMAT_F32;
    model = model_new(ctx, &c);
    ((float *)(void *)parameter_named(ctx, model, "blocks.1.mlp.up")->data)[5] = 70000;
    o.linear_type = DQT_GGUF_F16;
    check_refused(ctx, model, &o, DQT_E_UNSUPPORTED, "fp16");
    dqt_llama_destroy(model);
    c.shape_only = 1;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    check_refused(ctx, model, NULL, DQT_E_STATE, "shape-only");
    dqt_llama_destroy(model);
    counting_end(ctx, &counting);
}

static void paths(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = config_of(DQT_FORMAT_TERNARY, 1, 1, DQT_AXIS_TENSOR);
    dqt_llama *model = model_new(ctx, &c);
    char path[] = "/tmp/dqt-gguf-XXXXXX";
    const int descriptor = mkstemp(path);
    CHECK(descriptor >= 0);
    close(descriptor);
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write_gguf(model, memory_write, &f, NULL));
    OK(ctx, dqt_llama_export_gguf(model, path, NULL));
    struct memory_file saved = slurp(path);
    CHECK(same_bytes(&f, &saved));
    unlink(path);
    free(f.bytes);
    free(saved.bytes);
    dqt_llama_destroy(model);
    counting_end(ctx, &counting);
}

/* Every half there is, and the numbers between two. */
static void halves(void) {
    for (uint32_t h = 0; h < 0x7c00; h++) {
        const float a = f16_to_f32((uint16_t)h), b = h == 0x7bff ? 65536.0f : f16_to_f32((uint16_t)(h + 1)),
                    middle = (a + b) / 2;
        CHECK(f32_to_f16(a) == h && f32_to_f16(-a) == (h | 0x8000));
        CHECK(a < b && f32_to_f16(middle) == (h % 2 ? h + 1 : h));
        CHECK(f32_to_f16(nextafterf(middle, 0)) == h && f32_to_f16(nextafterf(middle, INFINITY)) == h + 1);
    }
    CHECK(f16_to_f32(0x3c00) == 1.0f && f16_to_f32(0x0001) == 0x1p-24f && f16_to_f32(0x7bff) == 65504.0f);
    CHECK(f32_to_f16(INFINITY) == 0x7c00 && isinf(f16_to_f32(0xfc00)) && isnan(f16_to_f32(f32_to_f16(NAN))));
}

/* Each matrix goes out in what holds its own format; the file is named by the type of most weights. */
static void mixed_formats(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_tensor_override down = {
        "*.mlp.down", {.storage = DQT_FORMAT_INT8, .scale_rule = DQT_SCALE_ABSMAX, .scale_axis = DQT_AXIS_ROW}};
    dqt_llama_config c = config_of(DQT_FORMAT_INT4, 0, 0, DQT_AXIS_TENSOR);
    c.overrides = &down;
    c.num_overrides = 1;
    dqt_llama *model = model_new(ctx, &c);
    check_file(ctx, model, &c, NULL, Q4_0, Q8_0, Q8_0, false);
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write_gguf(model, memory_write, &f, NULL));
    struct reader r = reader_new(&f);
    CHECK(number_key(&r, "general.file_type", 4) == 2);
    free(f.bytes);
    dqt_llama_destroy(model);
    counting_end(ctx, &counting);
}

static const struct test tests[] = {
    TEST(halves),     TEST(mixed_formats), TEST(every_format), TEST(compute_formats),
    TEST(tokenizers), TEST(refusals),      TEST(paths),
};
TEST_MAIN(tests)
