/* Folders of Hugging Face and GGUF files that transformers and PyPI's gguf made (tests/golden/make_models.py): logits
 * as transformers computes them, and what is wrong is refused with a sentence that names it. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>

#include "io/names.h"
#include "open_world.h"

/* ---- Out and in ------------------------------------------------------------------------------------------------ */

static dqt_llama_config small_config(void) {
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = 40;
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.no_sub_norms = 1;
    c.init_std = 0.3f;
    c.activation = DQT_ACTIVATION_NONE;
    c.linear.storage = c.embedding.storage = c.head.storage = DQT_FORMAT_BF16;
    return c;
}

/* What it exports is opened as the same model, config and weights, whatever the architecture. */
static void round_trip(const dqt_llama_config *c, int32_t dtype, const char *architecture) {
    struct open_world w;
    world_begin(&w);
    dqt_llama *from = NULL, *to = NULL;
    dqt_safetensors_options o = DQT_INIT(dqt_safetensors_options);
    dqt_open_options open = DQT_INIT(dqt_open_options);
    o.dtype = dtype;
    o.context_length = 64;
    open.activation = c->activation;
    OK(w.ctx, dqt_llama_create(w.ctx, c, &from));
    OK(w.ctx, dqt_llama_export_folder(from, w.folder, &o));
    struct memory_file text = slurp(world_path(&w, "config.json"));
    memory_write(&text, "", 1);
    CHECKF(strstr((const char *)text.bytes, architecture), "no %s in %s", architecture, (const char *)text.bytes);
    CHECK(strstr((const char *)text.bytes, "\"max_position_embeddings\": 64") != NULL);
    free(text.bytes);
    OK(w.ctx, dqt_llama_open(w.ctx, w.folder, &open, &to));
    if (to) {
        const struct parameter_list a = parameter_list(from), b = parameter_list(to);
        CHECK(a.count == b.count);
        for (size_t i = 0; i < a.count && i < b.count; i++) {
            const dqt_tensor *x = list_parameter(&a, i).tensor, *y = list_parameter(&b, i).tensor;
            float p[64], q[64];
            for (size_t r = 0; r < x->rows; r++) {
                tensor_dequantize_row(x, r, p);
                tensor_dequantize_row(y, r, q);
                CHECKF(memcmp(p, q, x->cols * sizeof *p) == 0, "%s, row %zu", list_parameter(&a, i).name, r);
            }
        }
        dqt_llama_config got = to->config, expected = from->config;
        got.linear = expected.linear;
        got.embedding = expected.embedding;
        got.head = expected.head;
        got.init_std = expected.init_std;
        got.linear_init_std = expected.linear_init_std;
        CHECKF(memcmp(&got, &expected, sizeof got) == 0, "%s: another config", architecture);
    }
    world_remove(&w, "config.json");
    world_remove(&w, "model.safetensors");
    dqt_llama_destroy(from);
    dqt_llama_destroy(to);
    world_end(&w);
}

static void round_trips(void) {
    for (int32_t dtype = DQT_SAFETENSORS_F32; dtype <= DQT_SAFETENSORS_BF16; dtype++) {
        dqt_llama_config c = small_config();
        round_trip(&c, dtype, "LlamaForCausalLM");
        c.tie_embeddings = 1;
        c.head_dim = 12;
        c.rope_theta = 123456.7f;
        c.norm_eps = 1.25e-6f;
        c.rope_scaling = DQT_ROPE_LINEAR;
        c.rope_factor = 2.5f;
        round_trip(&c, dtype, "LlamaForCausalLM");
        c.rope_scaling = DQT_ROPE_LLAMA3;
        c.rope_factor = 8;
        c.rope_low_freq_factor = 1;
        c.rope_high_freq_factor = 4;
        c.rope_original_context = 32;
        round_trip(&c, dtype, "LlamaForCausalLM");
        c = small_config();
        c.attention_bias = 1;
        round_trip(&c, dtype, "Qwen2ForCausalLM");
        c.attention_bias = 0;
        c.qk_norm = 1;
        c.head_dim = 16;
        round_trip(&c, dtype, "Qwen3ForCausalLM");
        c = small_config();
        c.no_sub_norms = 0;
        c.mlp = DQT_MLP_GATED_SQUARED_RELU;
        round_trip(&c, dtype, "BitNetForCausalLM");
        c.mlp = DQT_MLP_SWIGLU;
        round_trip(&c, dtype, "BitNetForCausalLM");
    }
}

/* GGUF files that this library writes, with all that their architectures may have. */
static void gguf_round_trips(void) {
    struct open_world w;
    world_begin(&w);
    for (int k = 0; k < 6; k++) {
        dqt_llama_config c = small_config();
        const char *names[40];
        dqt_gguf_options o;
        dqt_llama *from, *to;
        float logits[2][4 * 40];
        static const int32_t tokens[4] = {3, 1, 39, 7};
        c.linear.storage = c.embedding.storage = c.head.storage = DQT_FORMAT_F32;
        c.attention_bias = k == 1;
        c.qk_norm = k == 2;
        c.tie_embeddings = k % 2;
        c.no_sub_norms = k != 3;
        if (k >= 4) { /* of the divisors of four pairs the last two are the factor, or the last one */
            c.rope_scaling = DQT_ROPE_LLAMA3;
            c.rope_theta = 500;
            c.rope_factor = 8;
            c.rope_low_freq_factor = 1;
            c.rope_high_freq_factor = 4;
            c.rope_original_context = k == 4 ? 32 : 200;
        }
        for (size_t i = 0; i < 40; i++)
            names[i] = "x";
        OK(w.ctx, dqt_gguf_options_init(&o, sizeof o));
        o.tokens = names;
        o.num_tokens = 40;
        o.linear_type = o.embedding_type = DQT_GGUF_F32;
        OK(w.ctx, dqt_llama_create(w.ctx, &c, &from));
        OK(w.ctx, dqt_llama_export_gguf(from, world_path(&w, "m.gguf"), &o));
        dqt_open_options open = DQT_INIT(dqt_open_options);
        open.activation = DQT_ACTIVATION_NONE;
        OK(w.ctx, dqt_llama_open(w.ctx, world_path(&w, "m.gguf"), &open, &to));
        dqt_llama *const models[] = {from, to};
        for (int i = 0; i < 2; i++) {
            dqt_tape *tape;
            dqt_tape_options t = DQT_INIT(dqt_tape_options);
            t.max_length = 4;
            t.precision = DQT_PRECISION_F32;
            OK(w.ctx, dqt_tape_create(w.ctx, models[i]->layers, models[i]->num_layers, &t, &tape));
            OK(w.ctx, dqt_llama_forward(models[i], tape, batch_tokens(tokens, 1, 4), logits[i]));
            dqt_tape_destroy(tape);
        }
        CHECKF(memcmp(logits[0], logits[1], sizeof logits[0]) == 0, "%d: other logits", k);
        CHECK(to->config.rope_original_context == from->config.rope_original_context);
        dqt_llama_destroy(from);
        dqt_llama_destroy(to);
        world_remove(&w, "m.gguf");
    }
    world_end(&w);
}

static void export_refuses(void) {
    struct open_world w;
    world_begin(&w);
    dqt_llama_config c = small_config();
    dqt_safetensors_options o = DQT_INIT(dqt_safetensors_options);
    dqt_llama *model;
    c.mlp = DQT_MLP_SQUARED_RELU;
    OK(w.ctx, dqt_llama_create(w.ctx, &c, &model));
    CHECK(dqt_llama_export_folder(model, w.folder, NULL) == DQT_E_UNSUPPORTED);
    dqt_llama_destroy(model);
    c = small_config();
    OK(w.ctx, dqt_llama_create(w.ctx, &c, &model));
    CHECK(dqt_llama_export_folder(NULL, w.folder, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_export_folder(model, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_export_folder(model, world_path(&w, "none"), NULL) == DQT_E_IO);
    o.dtype = DQT_SAFETENSORS_CODES;
    CHECK(dqt_llama_export_folder(model, w.folder, &o) == DQT_E_ARGUMENT);
    o.dtype = 0;
    o.context_length = -1;
    CHECK(dqt_llama_export_folder(model, w.folder, &o) == DQT_E_ARGUMENT);
    dqt_llama_destroy(model);
    world_end(&w); /* nothing was written */
}

/* ---- Refusals -------------------------------------------------------------------------------------------------- */

/* A folder whose texts and weights can be changed. */
struct copy {
    struct open_world w;
    struct memory_file config, weights;
};

/* What the file has as the head: what it is, the embedding, or that but for the last bit of its last weight. */
enum head { HEAD_OWN, HEAD_EMBEDDING, HEAD_DIFFERS };

static void copy_begin_head(struct copy *c, int32_t dtype, enum head kind) {
    const dqt_llama_config config = small_config();
    dqt_safetensors_options o = DQT_INIT(dqt_safetensors_options);
    dqt_llama *model;
    world_begin(&c->w);
    o.dtype = dtype;
    o.context_length = 64;
    OK(c->w.ctx, dqt_llama_create(c->w.ctx, &config, &model));
    dqt_tensor *head = model->layers[model->num_layers - 1]->weight[W];
    if (kind != HEAD_OWN) tensor_copy(head, model->layers[0]->weight[W]);
    if (kind == HEAD_DIFFERS) ((uint16_t *)(void *)head->data)[head->rows * head->cols - 1] ^= 1;
    OK(c->w.ctx, dqt_llama_export_folder(model, c->w.folder, &o));
    dqt_llama_destroy(model);
    c->config = slurp(world_path(&c->w, "config.json"));
    c->weights = slurp(world_path(&c->w, "model.safetensors"));
}

static void copy_begin(struct copy *c) {
    copy_begin_head(c, DQT_SAFETENSORS_BF16, HEAD_OWN);
}

static void copy_end(struct copy *c) {
    world_remove(&c->w, "config.json");
    world_remove(&c->w, "model.safetensors");
    free(c->config.bytes);
    free(c->weights.bytes);
    world_end(&c->w);
}

static dqt_status open_copy(struct copy *c, const dqt_open_options *o, const char *word) {
    dqt_llama *model;
    const size_t before = c->w.memory.bytes;
    const dqt_status status = dqt_llama_open(c->w.ctx, c->w.folder, o, &model);
    CHECK((status == DQT_OK) == (model != NULL));
    if (status != DQT_OK)
        CHECKF(strstr(dqt_last_error(c->w.ctx), word) != NULL, "wanted \"%s\": %s", word, dqt_last_error(c->w.ctx));
    dqt_llama_destroy(model);
    CHECK(c->w.memory.bytes == before);
    return status;
}

/* Keys behind the first brace; where one comes twice the last one holds. */
static void write_config(struct copy *c, const char *keys) {
    struct memory_file f = memory_new();
    size_t end = c->config.size;
    while (end && c->config.bytes[end - 1] != '}')
        end--;
    memory_write(&f, c->config.bytes, end - 1);
    memory_write(&f, ", ", 2);
    memory_write(&f, keys, strlen(keys));
    memory_write(&f, "}", 1);
    world_write(&c->w, "config.json", f.bytes, f.size);
    free(f.bytes);
}

static void wrong_config(void) {
    static const struct {
        const char *keys;
        dqt_status status;
        const char *word;
    } cases[] = {
        {"\"x\": {\"y\": [1, {\"z\": null}]}", DQT_OK, ""},
        {"\"sliding_window\": 64", DQT_OK, ""},
        {"\"sliding_window\": null", DQT_OK, ""},
        {"\"sliding_window\": 63", DQT_E_UNSUPPORTED, "sliding_window is 63"},
        {"\"sliding_window\": 63, \"use_sliding_window\": false", DQT_OK, ""},
        {"\"sliding_window\": 63, \"layer_types\": [\"full_attention\", \"full_attention\"]", DQT_OK, ""},
        {"\"sliding_window\": 63, \"layer_types\": [\"full_attention\", \"sliding_attention\"]", DQT_E_UNSUPPORTED,
         "63"},
        {"\"sliding_window\": \"63\"", DQT_E_UNSUPPORTED, "sliding_window is 63"},
        {"\"hidden_act\": \"gelu\"", DQT_E_UNSUPPORTED, "hidden_act is gelu"},
        {"\"hidden_act\": \"relu2\"", DQT_OK, ""},
        {"\"mlp_bias\": true", DQT_E_UNSUPPORTED, "mlp_bias is true"},
        {"\"num_local_experts\": 4", DQT_E_UNSUPPORTED, "num_local_experts is 4"},
        {"\"partial_rotary_factor\": 0.5", DQT_E_UNSUPPORTED, "partial_rotary_factor is 0.5"},
        {"\"partial_rotary_factor\": 1.0", DQT_OK, ""},
        {"\"rope_scaling\": null", DQT_OK, ""},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", DQT_OK, ""},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5}", DQT_E_UNSUPPORTED, "rope_scaling.factor is 0.5"},
        {"\"rope_scaling\": {\"type\": \"linear\"}", DQT_E_UNSUPPORTED, "rope_scaling.factor is absent"},
        {"\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
         "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 32, \"rope_theta\": 5e2}",
         DQT_OK, ""},
        {"\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 4.0, "
         "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 32}",
         DQT_E_UNSUPPORTED, "low_freq_factor is 4"},
        {"\"attention_bias\": true", DQT_E_UNSUPPORTED, "attention_bias is true"},
        {"\"architectures\": [\"Qwen2ForCausalLM\"]", DQT_E_FORMAT, "q_proj.bias is missing"},
        {"\"architectures\": [\"MistralForCausalLM\"], \"max_position_embeddings\": 8192", DQT_E_UNSUPPORTED,
         "sliding_window is 4096"},
        {"\"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": null", DQT_OK, ""},
        {"\"rope_scaling\": {\"type\": \"default\"}", DQT_OK, ""},
        {"\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}", DQT_E_UNSUPPORTED,
         "rope_scaling.type is dynamic"},
        {"\"rope_scaling\": {\"rope_type\": \"yarn\"}", DQT_E_UNSUPPORTED, "rope_scaling.rope_type is yarn"},
        {"\"architectures\": [\"GemmaForCausalLM\"]", DQT_E_UNSUPPORTED, "architectures is GemmaForCausalLM"},
        {"\"architectures\": []", DQT_E_UNSUPPORTED, "architectures is a list"},
        {"\"architectures\": [\"LlamaForCausalLM\", \"X\"]", DQT_E_UNSUPPORTED, "architectures is a list"},
        {"\"architectures\": [1, [2]]", DQT_E_UNSUPPORTED, "architectures is a list"},
        {"\"quantization_config\": {\"quant_method\": \"gptq\"}", DQT_E_UNSUPPORTED, "quant_method is gptq"},
        {"\"hidden_size\": 32.5", DQT_E_UNSUPPORTED, "hidden_size is 32.5"},
        {"\"hidden_size\": \"32\"", DQT_E_UNSUPPORTED, "hidden_size is 32"},
        {"\"hidden_size\": -32", DQT_E_UNSUPPORTED, "hidden_size is -32"},
        {"\"vocab_size\": 4e9", DQT_E_UNSUPPORTED, "vocab_size is 4000000000"},
        {"\"vocab_size\": 41", DQT_E_SHAPE, "embed_tokens.weight is 40 x 32"},
        {"\"num_hidden_layers\": 3", DQT_E_FORMAT, "model.layers.2.input_layernorm.weight is missing"},
        {"\"num_hidden_layers\": 1", DQT_E_FORMAT, "is no parameter"},
        {"\"num_hidden_layers\": 30000", DQT_E_UNSUPPORTED, "num_hidden_layers is 30000"},
        {"\"rms_norm_eps\": 0", DQT_E_UNSUPPORTED, "rms_norm_eps is 0"},
        {"\"rms_norm_eps\": 1e-60", DQT_E_UNSUPPORTED, "rms_norm_eps is"},
        {"\"rope_theta\": true", DQT_E_UNSUPPORTED, "rope_theta is true"},
        {"\"tie_word_embeddings\": \"yes\"", DQT_E_UNSUPPORTED, "tie_word_embeddings is yes"},
        {"\"tie_word_embeddings\": true", DQT_E_FORMAT, "lm_head.weight differs from the embedding"},
        {"\"x\": [", DQT_E_FORMAT, "config.json, byte"},
        {"\"x\": 1} {", DQT_E_FORMAT, "config.json, byte"},
    };
    struct copy c;
    copy_begin(&c);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_config(&c, cases[i].keys);
        const dqt_status status = open_copy(&c, NULL, cases[i].word);
        CHECKF(status == cases[i].status, "%s: %s: %s", cases[i].keys, dqt_status_string(status),
               dqt_last_error(c.w.ctx));
    }
    dqt_open_options o = DQT_INIT(dqt_open_options);
    o.max_length = 16; /* what the host will run counts */
    write_config(&c, "\"sliding_window\": 16");
    CHECK(open_copy(&c, &o, "") == DQT_OK);
    o.max_length = 17;
    CHECK(open_copy(&c, &o, "sequences have up to 17 tokens") == DQT_E_UNSUPPORTED);
    copy_end(&c);
}

/* A folder that ties its head and has one all the same: it must be the embedding, whatever that becomes. */
static void tied_heads(void) {
    for (int k = 0; k < 8; k++) {
        const bool differs = k & 1;
        struct copy c;
        dqt_open_options o = DQT_INIT(dqt_open_options);
        copy_begin_head(&c, k & 2 ? DQT_SAFETENSORS_F32 : DQT_SAFETENSORS_BF16,
                        differs ? HEAD_DIFFERS : HEAD_EMBEDDING);
        write_config(&c, "\"tie_word_embeddings\": true");
        if (k & 4) o.linear.storage = o.embedding.storage = DQT_FORMAT_INT8;
        const dqt_status status = open_copy(&c, &o, "lm_head.weight differs from the embedding");
        CHECKF(status == (differs ? DQT_E_FORMAT : DQT_OK), "%d: %s", k, dqt_last_error(c.w.ctx));
        write_config(&c, "\"tie_word_embeddings\": true, \"vocab_size\": 41");
        CHECK(open_copy(&c, &o, "is 40 x 32") == DQT_E_SHAPE);
        copy_end(&c);
    }
}

/* Every beginning of the config, and of the weights. */
static void cut_off(void) {
    struct copy c;
    copy_begin(&c);
    for (size_t n = 0; n < c.config.size - 2; n++) {
        world_write(&c.w, "config.json", c.config.bytes, n);
        CHECKF(open_copy(&c, NULL, "config.json") == DQT_E_FORMAT, "%zu bytes", n);
    }
    world_write(&c.w, "config.json", c.config.bytes, c.config.size);
    for (size_t n = 0; n < c.weights.size; n += n < 64 ? 1 : 97) {
        world_write(&c.w, "model.safetensors", c.weights.bytes, n);
        CHECKF(open_copy(&c, NULL, "") == DQT_E_FORMAT, "%zu bytes", n);
    }
    copy_end(&c);
}

/* Words of the header, by others of the same length or with the header's length mended. */
static void wrong_weights(void) {
    static const struct {
        const char *from, *to;
        dqt_status status;
        const char *word;
    } cases[] = {
        {"\"BF16\"", "\"BF17\"", DQT_E_FORMAT, "dtype"},
        {"\"BF16\"", "\"F16\" ", DQT_OK, ""},
        {"model.norm.weight", "model.norn.weight", DQT_E_FORMAT, "is no parameter"},
        {"[32,32]", "[16,64]", DQT_E_SHAPE, "16 x 64"},
        {"layers.1.mlp.up_proj", "layers.0.mlp.up_proj", DQT_E_FORMAT, "twice"},
        {"\"data_offsets\":[0,", "\"data_offsets\":[1,", DQT_E_FORMAT, "is next"},
    };
    struct copy c;
    copy_begin(&c);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct memory_file f = memory_new();
        memory_write(&f, c.weights.bytes, c.weights.size);
        size_t at = 8;
        while (at + strlen(cases[i].from) < f.size && memcmp(f.bytes + at, cases[i].from, strlen(cases[i].from)) != 0)
            at++;
        CHECKF(at + strlen(cases[i].from) < f.size, "no %s", cases[i].from);
        memcpy(f.bytes + at, cases[i].to, strlen(cases[i].to));
        world_write(&c.w, "model.safetensors", f.bytes, f.size);
        const dqt_status status = open_copy(&c, NULL, cases[i].word);
        CHECKF(status == cases[i].status, "%s: %d: %s", cases[i].to, status, dqt_last_error(c.w.ctx));
        free(f.bytes);
    }
    unsigned char length[8];
    memcpy(length, c.weights.bytes, 8);
    put_le(c.weights.bytes, c.weights.size - 7, 8); /* one byte beyond the end */
    world_write(&c.w, "model.safetensors", c.weights.bytes, c.weights.size);
    CHECK(open_copy(&c, NULL, "a header of") == DQT_E_FORMAT);
    memcpy(c.weights.bytes, length, 8);
    c.weights.bytes[c.weights.size - 1] = 0x7f; /* a NaN */
    c.weights.bytes[c.weights.size - 2] = 0xff;
    world_write(&c.w, "model.safetensors", c.weights.bytes, c.weights.size);
    CHECK(open_copy(&c, NULL, "not finite") == DQT_E_FORMAT);
    copy_end(&c);
}

static void wrong_index(void) {
    static const struct {
        const char *text;
        dqt_status status;
        const char *word;
    } cases[] = {
        {"{\"metadata\": {\"total_size\": 1}, \"weight_map\": {\"a\": \"real.safetensors\", \"b\": "
         "\"real.safetensors\"}}",
         DQT_OK, ""},
        {"{\"weight_map\": {\"a\": \"model.safetensors.index.json\"}}", DQT_E_FORMAT, "must be a .safetensors file"},
        {"{\"weight_map\": {\"a\": \"../real.safetensors\"}}", DQT_E_FORMAT, "must be a .safetensors file"},
        {"{\"weight_map\": {\"a\": \"/etc/real.safetensors\"}}", DQT_E_FORMAT, "must be a .safetensors file"},
        {"{\"weight_map\": {\"a\": \"x\\\\real.safetensors\"}}", DQT_E_FORMAT, "must be a .safetensors file"},
        {"{\"weight_map\": {\"a\": \"c:real.safetensors\"}}", DQT_E_FORMAT, "must be a .safetensors file"},
        {"{\"weight_map\": {\"a\": \".safetensors\"}}", DQT_E_FORMAT, "must be a .safetensors file"},
        {"{\"weight_map\": {\"a\": \"\"}}", DQT_E_FORMAT, "must be a .safetensors file"},
        {"{\"weight_map\": {\"a\": \"other.safetensors\"}}", DQT_E_IO, "other.safetensors"},
        {"{\"weight_map\": {\"a\": \"loop.safetensors\"}}", DQT_E_IO, "loop.safetensors"},
        {"{\"weight_map\": {\"a\": \"again.safetensors\", \"b\": \"real.safetensors\"}}", DQT_E_FORMAT, "twice"},
        {"{\"weight_map\": {\"a\": 1}}", DQT_E_FORMAT, "index.json, byte"},
        {"{\"weight_map\": {}}", DQT_E_FORMAT, "names no file"},
        {"{\"weight_map\": []}", DQT_E_FORMAT, "index.json, byte"},
        {"{}", DQT_E_FORMAT, "names no file"},
        {"", DQT_E_FORMAT, "index.json, byte"},
    };
    static const char index[] = "model.safetensors.index.json";
    struct copy c;
    char real[GOLDEN_PATH_BYTES];
    copy_begin(&c);
    world_remove(&c.w, "model.safetensors");
    CHECK(open_copy(&c, NULL, "has neither") == DQT_E_IO);
    world_write(&c.w, "real.safetensors", c.weights.bytes, c.weights.size);
    snprintf(real, sizeof real, "%s", world_path(&c.w, "real.safetensors"));
    CHECK(symlink(real, world_path(&c.w, "again.safetensors")) == 0);
    CHECK(symlink("loop.safetensors", world_path(&c.w, "loop.safetensors")) == 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world_write(&c.w, index, cases[i].text, strlen(cases[i].text));
        const dqt_status status = open_copy(&c, NULL, cases[i].word);
        CHECKF(status == cases[i].status, "%s: %d: %s", cases[i].text, status, dqt_last_error(c.w.ctx));
    }
    static const char *const names[] = {"real.safetensors", "again.safetensors", "loop.safetensors", index};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        world_remove(&c.w, names[i]);
    copy_end(&c);
}

/* A fifo that nobody writes to, in place of each file: refused, and not waited for, which SIGALRM would end. */
static void fifos(void) {
    static const struct {
        const char *name, *word;
        dqt_status status;
    } files[] = {
        {"config.json", "config.json is no regular file", DQT_E_FORMAT},
        {"model.safetensors", "this is no regular file", DQT_E_FORMAT},
        {"model.safetensors.index.json", "index.json is no regular file", DQT_E_FORMAT},
    };
    struct copy c;
    alarm(60);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        copy_begin(&c);
        if (i == 2) world_remove(&c.w, "model.safetensors");
        world_remove(&c.w, files[i].name);
        CHECK(mkfifo(world_path(&c.w, files[i].name), 0600) == 0);
        const dqt_status status = open_copy(&c, NULL, files[i].word);
        CHECKF(status == files[i].status, "%s: %d: %s", files[i].name, status, dqt_last_error(c.w.ctx));
        world_remove(&c.w, files[i].name);
        copy_end(&c);
    }
    copy_begin(&c);
    dqt_llama *model = NULL;
    CHECK(mkfifo(world_path(&c.w, "fifo.gguf"), 0600) == 0);
    CHECK(dqt_llama_open(c.w.ctx, world_path(&c.w, "fifo.gguf"), NULL, &model) == DQT_E_IO && !model);
    world_remove(&c.w, "fifo.gguf");
    copy_end(&c);
    alarm(0);
}

static void arguments(void) {
    struct copy c;
    copy_begin(&c);
    dqt_llama *model = (dqt_llama *)&c;
    CHECK(dqt_llama_open(NULL, c.w.folder, NULL, &model) == DQT_E_ARGUMENT && !model);
    CHECK(dqt_llama_open(c.w.ctx, NULL, NULL, &model) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_open(c.w.ctx, c.w.folder, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_open(c.w.ctx, "", NULL, &model) == DQT_E_IO);
    CHECK(dqt_llama_open(c.w.ctx, world_path(&c.w, "none"), NULL, &model) == DQT_E_IO);
    CHECK(strstr(dqt_last_error(c.w.ctx), "none/config.json") != NULL);
    CHECK(dqt_llama_open(c.w.ctx, world_path(&c.w, "model.safetensors"), NULL, &model) == DQT_E_FORMAT);
    CHECK(strstr(dqt_last_error(c.w.ctx), "neither a folder") != NULL);
    dqt_open_options o = DQT_INIT(dqt_open_options);
    o.rounding = DQT_ROUND_ECO_NEAREST;
    CHECK(open_copy(&c, &o, "rounding is 4") == DQT_E_ARGUMENT);
    o = (dqt_open_options)DQT_INIT(dqt_open_options);
    o.activation = 3;
    CHECK(open_copy(&c, &o, "activation is 3") == DQT_E_ARGUMENT);
    o = (dqt_open_options)DQT_INIT(dqt_open_options);
    o.linear.storage = 77;
    CHECK(open_copy(&c, &o, "storage is 77") == DQT_E_ARGUMENT);
    o = (dqt_open_options)DQT_INIT(dqt_open_options);
    o.reserved = 1;
    CHECK(open_copy(&c, &o, "reserved") == DQT_E_ARGUMENT);
    o = (dqt_open_options)DQT_INIT(dqt_open_options);
    o.linear.storage = o.embedding.storage = o.head.storage = DQT_FORMAT_INT8;
    o.rounding = DQT_ROUND_STOCHASTIC;
    CHECK(open_copy(&c, &o, "") == DQT_OK);
    copy_end(&c);
}

static const struct test tests[] = {TEST(round_trips), TEST(gguf_round_trips), TEST(export_refuses), TEST(wrong_config),
                                    TEST(tied_heads),  TEST(cut_off),          TEST(wrong_weights),  TEST(wrong_index),
                                    TEST(fifos),       TEST(arguments)};

TEST_MAIN(tests)
