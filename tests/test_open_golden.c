/* Models that transformers and PyPI's gguf made (tests/golden/make_models.py), of every architecture: logits as
 * transformers computes them. */
#define _POSIX_C_SOURCE 200809L
#include "io/names.h"
#include "open_world.h"

enum { MOST_LOGITS = 24 * 40 };

/* "models/NAME", found by a file in it. */
static const char *model_path(char path[GOLDEN_PATH_BYTES], const char *name, const char *file) {
    char full[96];
    snprintf(full, sizeof full, "models/%s%s%s", name, *file ? "/" : "", file);
    return golden_path(path, full);
}

/* The largest difference of a model's logits from the golden ones of `name`, by the largest of them. */
static double logits_error(dqt_context *ctx, dqt_llama *model, const char *name) {
    char path[GOLDEN_PATH_BYTES];
    struct memory_file f = slurp(model_path(path, name, "logits.golden"));
    const unsigned char *raw_tokens, *raw_logits;
    const size_t length = golden_record(&f, "tokens", &raw_tokens), count = golden_record(&f, "logits", &raw_logits);
    int32_t tokens[MOST_LOGITS];
    float logits[MOST_LOGITS];
    double most = 0, error = 0;
    CHECKF(length && count == length * 40 && count <= MOST_LOGITS, "%s", name);
    if (!length || count > MOST_LOGITS) return INFINITY;
    for (size_t i = 0; i < length; i++)
        tokens[i] = (int32_t)golden_u32(raw_tokens + 4 * i);
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.max_length = length;
    o.inference = 1;
    o.precision = DQT_PRECISION_F32;
    dqt_tape *tape;
    dqt_layer *const *layers;
    size_t num_layers;
    OK(ctx, dqt_llama_get_layers(model, &layers, &num_layers));
    OK(ctx, dqt_tape_create(ctx, layers, num_layers, &o, &tape));
    OK(ctx, dqt_llama_forward(model, tape, batch_tokens(tokens, 1, length), logits));
    for (size_t i = 0; i < count; i++) {
        const double expected = (double)golden_f32(raw_logits + 4 * i);
        most = fmax(most, fabs(expected));
        error = fmax(error, fabs((double)logits[i] - expected));
    }
    dqt_tape_destroy(tape);
    free(f.bytes);
    return error / most;
}

/* name: of the logits; what is opened is that, or a GGUF file. transformers computes BitNet's without activation codes
 * too.
 */
static void opens_as(const char *name, bool gguf) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    char path[GOLDEN_PATH_BYTES], file[80];
    dqt_open_options o = DQT_INIT(dqt_open_options);
    dqt_llama *model;
    o.activation = DQT_ACTIVATION_NONE;
    snprintf(file, sizeof file, "%s.gguf", name);
    if (gguf) {
        model_path(path, file, "");
    } else {
        model_path(path, name, "config.json");
        path[strlen(path) - strlen("/config.json")] = '\0';
    }
    OK(ctx, dqt_llama_open(ctx, path, &o, &model));
    if (model) {
        const double error = logits_error(ctx, model, name);
        CHECKF(error < 1e-5, "%s: logits differ by %g of the largest", path, error);
        CHECK(format_public(model->layers[1]->sublayer[BLOCK_MLP]->weight[MLP_UP]->storage) ==
              (gguf ? DQT_FORMAT_F32 : DQT_FORMAT_BF16));
    }
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static void folders(void) {
    static const char *const names[] = {"llama",   "llama_tied", "llama_llama3", "llama_linear", "llama_head_dim",
                                        "mistral", "qwen2",      "qwen3",        "bitnet"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        opens_as(names[i], false);
}

static void gguf_files(void) {
    static const char *const names[] = {"llama", "llama_llama3", "qwen2", "qwen3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        opens_as(names[i], true);
}

/* ---- BitNet as Hugging Face quantises it ----------------------------------------------------------------------- */

/* The folder NAME, whose files can be changed. */
struct copy {
    struct open_world w;
    struct memory_file config, weights;
};

static void copy_begin(struct copy *c, const char *name) {
    char path[GOLDEN_PATH_BYTES];
    world_begin(&c->w);
    c->config = slurp(model_path(path, name, "config.json"));
    c->weights = slurp(model_path(path, name, "model.safetensors"));
    CHECK(c->config.size && c->weights.size > 8);
}

static void copy_end(struct copy *c) {
    world_remove(&c->w, "config.json");
    world_remove(&c->w, "model.safetensors");
    free(c->config.bytes);
    free(c->weights.bytes);
    world_end(&c->w);
}

static dqt_status open_copy(struct copy *c, const dqt_open_options *o, dqt_llama **model) {
    world_write(&c->w, "config.json", c->config.bytes, c->config.size);
    world_write(&c->w, "model.safetensors", c->weights.bytes, c->weights.size);
    return dqt_llama_open(c->w.ctx, c->w.folder, o, model);
}

/* By default it is opened as codes or masters with INT8 activations, as transformers computes it. The golden models are
 * those in which no activation and no weight lies within 2e-4 codes of the middle between two codes (make_models.py),
 * which is far more than rounding errors of floats make; so no code differs, and logits are as close as unquantised
 * ones.
 */
static void computes_as(struct copy *c, const char *name, const dqt_open_options *o, int32_t storage) {
    dqt_llama *model;
    OK(c->w.ctx, open_copy(c, o, &model));
    if (!model) return;
    const double error = logits_error(c->w.ctx, model, name);
    CHECKF(error < 1e-5, "%s: logits differ by %g of the largest", name, error);
    for (size_t l = 1; l <= 2; l++)
        for (size_t k = 0; k <= MLP_DOWN; k++) {
            const dqt_tensor *t = model->layers[l]->sublayer[BLOCK_MLP]->weight[k];
            CHECK(format_public(t->storage) == storage && format_public(t->compute) == DQT_FORMAT_TERNARY);
        }
    CHECK(model->config.activation == DQT_ACTIVATION_INT8);
    dqt_llama_destroy(model);
}

/* The record "codes" is k's of the second block; `scale` is what its codes are times. */
static void codes_are(struct copy *c, const char *name, const dqt_open_options *o, double scale, double within) {
    char path[GOLDEN_PATH_BYTES];
    struct memory_file f = slurp(model_path(path, name, "logits.golden"));
    const unsigned char *raw = f.bytes;
    const size_t count = golden_record(&f, "codes", &raw);
    dqt_llama *model;
    float row[32];
    CHECK(count == 16 * 32);
    OK(c->w.ctx, open_copy(c, o, &model));
    const dqt_tensor *k = model ? model->layers[2]->sublayer[BLOCK_ATTENTION]->weight[ATTENTION_K] : NULL;
    for (size_t i = 0; k && i < count; i++) {
        if (i % 32 == 0) tensor_read_floats(k, i / 32, 0, 32, row);
        const double expected = scale * (double)(int32_t)golden_u32(raw + 4 * i);
        CHECKF(fabs((double)row[i % 32] - expected) <= within * scale, "%s: %zu: %g, not %g", name, i,
               (double)row[i % 32], expected);
    }
    dqt_llama_destroy(model);
    free(f.bytes);
}

/* Where the header of the weights has this text; what comes behind it. */
static unsigned char *header_text(const struct copy *c, const char *text) {
    const size_t n = strlen(text), end = 8 + (size_t)get_le(c->weights.bytes, 8);
    for (size_t at = 8; at + n <= end; at++)
        if (memcmp(c->weights.bytes + at, text, n) == 0) return c->weights.bytes + at;
    CHECKF(false, "no %s", text);
    return c->weights.bytes + 8;
}

/* The data of a tensor. */
static unsigned char *data_of(const struct copy *c, const char *name) {
    const char *at = strstr((const char *)header_text(c, name), "\"data_offsets\":[");
    return c->weights.bytes + 8 + get_le(c->weights.bytes, 8) + strtoul(at + strlen("\"data_offsets\":["), NULL, 10);
}

static float bf16_at(const unsigned char *p) {
    return bf16_to_f32((uint16_t)get_le(p, 2));
}

#define LAST_K "model.layers.1.self_attn.k_proj.weight"
#define GATE "model.layers.0.mlp.gate_proj.weight"

static void packed_folders(void) {
    static const char *const names[] = {"bitnet_packed", "bitnet_bitlinear", "llama_bitnet"};
    for (size_t i = 0; i < 3; i++) {
        struct copy c;
        copy_begin(&c, names[i]);
        const double scale = (double)bf16_at(data_of(&c, LAST_K "_scale"));
        computes_as(&c, names[i], NULL, DQT_FORMAT_TERNARY);
        codes_are(&c, names[i], NULL, i ? 1 / scale : scale, i ? 1e-7 : 0);
        copy_end(&c);
    }
}

/* Masters in bf16, which each use makes ternary: also where the host wants them as floats, as codes of more bits that
 * hold them closely, or as the codes themselves.
 */
static void online_folder(void) {
    struct copy c;
    dqt_open_options o = DQT_INIT(dqt_open_options);
    copy_begin(&c, "bitnet_online");
    double mean = 0;
    for (size_t i = 0; i < 16 * 32; i++)
        mean += fabs((double)bf16_at(data_of(&c, LAST_K "\"") + 2 * i)) / (16 * 32);
    computes_as(&c, "bitnet_online", NULL, DQT_FORMAT_BF16);
    codes_are(&c, "bitnet_online", NULL, mean, 1e-6);
    o.linear.storage = DQT_FORMAT_F32;
    computes_as(&c, "bitnet_online", &o, DQT_FORMAT_F32);
    o.linear.storage = DQT_FORMAT_TERNARY;
    computes_as(&c, "bitnet_online", &o, DQT_FORMAT_TERNARY);
    codes_are(&c, "bitnet_online", &o, mean, 1e-6);
    o.linear.storage = DQT_FORMAT_INT8;
    o.linear.scale_axis = DQT_AXIS_ROW;
    dqt_llama *model;
    OK(c.w.ctx, open_copy(&c, &o, &model));
    if (model) {
        const dqt_tensor *k = model->layers[2]->sublayer[BLOCK_ATTENTION]->weight[ATTENTION_K];
        CHECK(format_public(k->storage) == DQT_FORMAT_INT8 && format_public(k->compute) == DQT_FORMAT_TERNARY);
    }
    dqt_llama_destroy(model);
    o.linear.storage = DQT_FORMAT_F32; /* codes of the host's choice have the rule of import, not the ternary ones' */
    o.linear.compute = DQT_FORMAT_INT4;
    OK(c.w.ctx, open_copy(&c, &o, &model));
    if (model) {
        const dqt_tensor *k = model->layers[2]->sublayer[BLOCK_ATTENTION]->weight[ATTENTION_K];
        CHECK(format_public(k->compute) == DQT_FORMAT_INT4 && k->scale_rule == DQT_SCALE_ABSMAX);
    }
    dqt_llama_destroy(model);
    copy_end(&c);
}

static void is_refused(struct copy *c, dqt_status expected, const char *word) {
    dqt_llama *model;
    const size_t before = c->w.memory.bytes;
    const dqt_status status = open_copy(c, NULL, &model);
    CHECKF(status == expected && !model, "%s: %s", word, dqt_status_string(status));
    CHECKF(strstr(dqt_last_error(c->w.ctx), word) != NULL, "wanted \"%s\": %s", word, dqt_last_error(c->w.ctx));
    dqt_llama_destroy(model);
    CHECK(c->w.memory.bytes == before);
}

/* Weights of a header whose text `from` is `to`, which is no longer; blanks fill up. */
static void with_header(const char *name, const char *from, const char *to, dqt_status expected, const char *word) {
    struct copy c;
    copy_begin(&c, name);
    const size_t n = strlen(from), m = strlen(to);
    unsigned char *at = header_text(&c, from), *end = c.weights.bytes + 8 + get_le(c.weights.bytes, 8);
    memcpy(at, to, m);
    memmove(at + m, at + n, (size_t)(end - at) - n);
    memset(end - (n - m), ' ', n - m);
    is_refused(&c, expected, word);
    copy_end(&c);
}

/* Keys behind the last one; where one comes twice the last one holds. */
static void add_keys(struct copy *c, const char *keys) {
    while (c->config.bytes[c->config.size - 1] != '}')
        c->config.size--;
    c->config.size--;
    memory_write(&c->config, ",", 1);
    memory_write(&c->config, keys, strlen(keys));
    memory_write(&c->config, "}", 1);
}

static void with_keys(const char *name, const char *keys, dqt_status expected, const char *word) {
    struct copy c;
    copy_begin(&c, name);
    add_keys(&c, keys);
    is_refused(&c, expected, word);
    copy_end(&c);
}

static void damaged_scales(void) {
    static const uint16_t scales[] = {0, 0x8000, 0x7f80, 0xff80, 0x7fc0}; /* 0, -0, infinities, NaN as BF16 */
    static const char *const names[] = {"bitnet_packed", "bitnet_bitlinear"};
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; k < sizeof scales / sizeof *scales; k++) {
            struct copy c;
            copy_begin(&c, names[i]);
            put_le(data_of(&c, GATE "_scale"), scales[k], 2);
            is_refused(&c, DQT_E_FORMAT, GATE "_scale is no scale");
            copy_end(&c);
        }
        with_header(names[i], GATE "_scale", "x.rotary_emb.inv_freq", DQT_E_FORMAT,
                    GATE " has packed codes without their scale");
    }
    with_header("bitnet_packed", GATE "_scale", LAST_K "_sc", DQT_E_FORMAT, "is no parameter");
}

static void damaged_codes(void) {
    for (int field = 0; field < 4; field++) {
        struct copy c;
        copy_begin(&c, "bitnet_packed");
        data_of(&c, GATE "\"")[100] |= (unsigned char)(3 << 2 * field);
        is_refused(&c, DQT_E_FORMAT, GATE " has a ternary field of 3");
        copy_end(&c);
    }
}

/* Of 50 rows 12 bytes' rows hold 48. The tensor is put in front of all others, which do not fit 50 either. */
static void damaged_shapes(void) {
    struct copy c;
    copy_begin(&c, "bitnet_packed");
    unsigned char *const first = header_text(&c, "\"model."), *const gate = header_text(&c, "\"" GATE "\"");
    const size_t n = (size_t)(strstr((const char *)gate, "]},") - (const char *)gate) + 3;
    char entry[256];
    CHECK(n < sizeof entry && gate > first);
    memcpy(entry, gate, n);
    memmove(first + n, first, (size_t)(gate - first));
    memcpy(first, entry, n);
    dqt_llama *model;
    OK(c.w.ctx, open_copy(&c, NULL, &model)); /* the order of the entries means nothing */
    dqt_llama_destroy(model);
    add_keys(&c, "\"intermediate_size\": 50");
    is_refused(&c, DQT_E_SHAPE, GATE " is 12 x 32; the model's is 50 x 32");
    copy_end(&c);
}

static void wrong_quantization(void) {
    static const struct {
        const char *keys, *word;
    } cases[] = {
        {"\"quant_method\": \"gptq\"", "quantization_config.quant_method is gptq"},
        {"\"linear_class\": \"x\"", "quantization_config.linear_class is x: bitlinear and autobitlinear"},
        {"\"quantization_mode\": \"x\"", "quantization_config.quantization_mode is x: offline and online"},
        {"\"quantization_mode\": true", "quantization_config.quantization_mode is true"},
        {"\"use_rms_norm\": true", "quantization_config.use_rms_norm is true"},
        {"\"modules_to_not_convert\": [\"model.layers.0.mlp.gate_proj\"]",
         "quantization_config.modules_to_not_convert is model.layers.0.mlp.gate_proj"},
        {"\"modules_to_not_convert\": [\"lm_head\", \"x\"]",
         "quantization_config.modules_to_not_convert is a list or object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char keys[160];
        snprintf(keys, sizeof keys, "\"quantization_config\": {%s}", cases[i].keys);
        with_keys("bitnet_packed", keys, DQT_E_UNSUPPORTED, cases[i].word);
    }
    /* codes that nothing says the meaning of, and those where floats are said to be */
    with_keys("bitnet_packed", "\"quantization_config\": {\"quantization_mode\": \"online\"}", DQT_E_FORMAT,
              "has a dtype that cannot be read");
    with_keys("bitnet", "\"quantization_config\": {\"quantization_mode\": \"online\"}", DQT_E_UNSUPPORTED,
              "quantization_config.quant_method is absent");
    with_keys("llama", "\"quantization_config\": {\"quant_method\": \"bitnet\"}", DQT_E_FORMAT,
              "is not packed, which quantization_config says that it is");
    with_keys("llama_bitnet", "\"quantization_config\": {\"quant_method\": \"bitsandbytes\"}", DQT_E_UNSUPPORTED,
              "quantization_config.quant_method is bitsandbytes");
    with_keys("llama_bitnet", "\"architectures\": [\"BitNetForCausalLM\"]", DQT_E_FORMAT,
              "inner_attn_ln.weight is missing");
}

static const struct test tests[] = {TEST(folders),        TEST(gguf_files),        TEST(packed_folders),
                                    TEST(online_folder),  TEST(damaged_scales),    TEST(damaged_codes),
                                    TEST(damaged_shapes), TEST(wrong_quantization)};

TEST_MAIN(tests)
