/* Writes the first inputs of the fuzz targets into the folders checkpoint, safetensors, open and tokenizer under the
 * one it is given. (The files v1-* there were written by a library that wrote version 1.) */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "fuzz.h"

static void put_file(const char *folder, const char *kind, int which, int first, const struct bytes *b) {
    char path[512];
    mkdir(folder, 0777);
    snprintf(path, sizeof path, "%s/%s", folder, kind);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%d", folder, kind, which);
    FILE *f = fopen(path, "wb");
    REQUIRE(f, "%s", path);
    if (first >= 0) fputc(first, f);
    REQUIRE(fwrite(b->data, 1, b->size, f) == b->size && fclose(f) == 0, "%s", path);
}

/* An updater with a step behind it. NULL for one of the models. */
static dqt_updater *trained(dqt_llama *model, int which) {
    dqt_context *ctx = fuzz_context();
    dqt_layer *const *layers;
    dqt_updater *updater;
    dqt_tape *tape;
    size_t count;
    static const int32_t tokens[4] = {1, 2, 3, 4}, targets[4] = {2, 3, 4, 0};
    float loss;
    dqt_updater_options o;
    if (which == 5) return NULL;
    dqt_batch batch = DQT_INIT(dqt_batch);
    batch.length = 4;
    batch.tokens = tokens;
    batch.targets = targets;
    dqt_step_options step = DQT_INIT(dqt_step_options);
    step.learning_rate = 0.01f;
    fuzz_updater_options(which, &o);
    REQUIRE(dqt_llama_get_layers(model, &layers, &count) == DQT_OK, "layers");
    REQUIRE(dqt_updater_create(ctx, layers, count, &o, &updater) == DQT_OK, "%s", dqt_last_error(ctx));
    REQUIRE(dqt_tape_create(ctx, layers, count, NULL, &tape) == DQT_OK, "%s", dqt_last_error(ctx));
    REQUIRE(dqt_tape_zero_gradients(tape) == DQT_OK, "gradients");
    REQUIRE(dqt_llama_loss(model, tape, &batch, &loss, NULL) == DQT_OK, "%s", dqt_last_error(ctx));
    REQUIRE(dqt_llama_backward(model, tape, 1) == DQT_OK, "%s", dqt_last_error(ctx));
    REQUIRE(dqt_updater_step(updater, tape, &step, NULL) == DQT_OK, "%s", dqt_last_error(ctx));
    dqt_tape_destroy(tape);
    return updater;
}

/* As a GGUF file, and the tensors with a config as a folder, where they have no sub-norms. */
static void put_opened(const char *folder, const dqt_llama *model, int which, const struct bytes *tensors,
                       int32_t dtype) {
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    const dqt_llama_config c = fuzz_config(which);
    struct bytes file = {0};
    dqt_gguf_options o = DQT_INIT(dqt_gguf_options);
    o.tokens = names;
    o.num_tokens = 5;
    o.context_length = 16;
    if (dqt_llama_write_gguf(model, bytes_write, &file, &o) == DQT_OK) put_file(folder, "open", which, 0, &file);
    file.size = 0;
    char text[512];
    const int n = snprintf(text, sizeof text,
                           "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 5, \"hidden_size\": 4, "
                           "\"intermediate_size\": 3, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
                           "\"num_key_value_heads\": %zu, \"rms_norm_eps\": 1e-05, \"tie_word_embeddings\": %s}",
                           c.num_kv_heads, c.tie_embeddings ? "true" : "false");
    static const char index[] = "{\"weight_map\": {\"x\": \"a.safetensors\"}}";
    const int m = which % 4 == 2 ? (int)strlen(index) : 0;
    const uint8_t sizes[] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)m, 0};
    bytes_write(&file, sizes, sizeof sizes);
    bytes_write(&file, text, (size_t)n);
    bytes_write(&file, index, (size_t)m);
    if (tensors->size) bytes_write(&file, tensors->data, tensors->size);
    if (c.no_sub_norms && dtype != DQT_SAFETENSORS_CODES && tensors->size)
        put_file(folder, "open", which + FUZZ_MODELS, 1, &file);
    free(file.data);
}

/* What fuzz_tokenizer.c takes: each kind of tokenizer.json that has a name, arrays, and keys. */
static void put_tokenizers(const char *folder) {
#define INPUT(text)                                                                                                    \
    { sizeof(text) - 1, text }
#define A16 "aaaaaaaaaaaaaaaa"
#define A256 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16
#define LONGEST A256 A256 A256 A256 A256 A256 A256 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16 A16
#define TEN "a\0b\0ab\0c\0d\0e\0f\0g\0h\0i\0"
#define SIXTY TEN TEN TEN TEN TEN TEN
#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":"
#define SPLIT(regex)                                                                                                   \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false},"
#define REGEX(digits)                                                                                                  \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}" digits                             \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define LIST(first, use) "{\"type\":\"Sequence\",\"pretokenizers\":[" first BYTES use "}]}"
    static const struct {
        size_t size;
        const char *text;
    } inputs[] = {
        INPUT("\0\0{\"pre_tokenizer\":" BYTES "true}," MODEL
              "},\"added_tokens\":[{\"id\":3,\"content\":\"<e>\",\"special\":true}]}"),
        INPUT("\0\0{\"pre_tokenizer\":" LIST("{\"type\":\"Digits\",\"individual_digits\":true},", "true") "," MODEL
                                                                                                          "}}"),
        INPUT("\0\0{" MODEL ",\"ignore_merges\":true},\"pre_tokenizer\":" LIST(SPLIT(REGEX("{1,3}")), "false") "}"),
        INPUT("\0\0{\"normalizer\":{\"type\":\"NFC\"}," MODEL
              "},\"pre_tokenizer\":" LIST(SPLIT(REGEX("")), "false") "}"),
        INPUT("\1\0{\"model\":{\"vocab\":{\"a\":0,\"b\":4},\"merges\":[[\"a\",\"b\"]]}}"),
        INPUT("\1\0{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"" LONGEST "\",\"b\"]]}}"),
        INPUT("\2\0" SIXTY "w\0x\0y\0z"),
        INPUT("\2\100" SIXTY "w\0x\0y\0z\0a b\0ab a"),
        INPUT("\3\1general.name\0own.key\0a\0b"),
    };
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        struct bytes file = {0};
        bytes_write(&file, inputs[i].text, inputs[i].size);
        put_file(folder, "tokenizer", (int)i, -1, &file);
        free(file.data);
    }
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2, "usage: make_corpus FOLDER");
    for (int which = 0; which < FUZZ_MODELS; which++) {
        dqt_llama *model = fuzz_model(which);
        dqt_updater *updater = trained(model, which);
        struct bytes checkpoint = {0}, tensors = {0};
        dqt_safetensors_options o;
        dqt_safetensors_options_init(&o, sizeof o);
        o.dtype = which % 3;
        dqt_save_options save = DQT_INIT(dqt_save_options);
        save.host = which % 2 ? "host" : NULL;
        save.host_size = which % 2 ? 4 : 0;
        REQUIRE(dqt_llama_write(model, updater, bytes_write, &checkpoint, &save) == DQT_OK, "%s",
                dqt_last_error(fuzz_context()));
        if (which % 3 != 1) put_file(argv[1], "checkpoint", which, -1, &checkpoint);
        if (which % 3 != 2 && dqt_llama_write_safetensors(model, bytes_write, &tensors, &o) == DQT_OK)
            put_file(argv[1], "safetensors", which, which, &tensors);
        put_opened(argv[1], model, which, &tensors, o.dtype);
        free(checkpoint.data);
        free(tensors.data);
        dqt_updater_destroy(updater);
        dqt_llama_destroy(model);
    }
    put_tokenizers(argv[1]);
    dqt_context_destroy(fuzz_context());
    return 0;
}
