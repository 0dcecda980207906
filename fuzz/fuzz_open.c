/* Models of other programs: GGUF files, and folders of config.json, an index and one file of tensors. What is refused
 * has a sentence and leaves nothing behind, and takes memory in proportion to what came; what is accepted generates,
 * and is exported and opened again. The first byte says which: even, a GGUF file; odd, a folder, with the sizes of
 * config and index as two bytes each. The mutator changes numbers and texts. */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "fuzz.h"

enum { FRONT = 5 };

static char folder[64];

static const char *in_folder(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Emptied, not removed: links that lead out of it were never made. */
static void put_file(const char *name, const uint8_t *data, size_t size) {
    FILE *f = fopen(in_folder(name), "wb");
    REQUIRE(f && fwrite(data, 1, size, f) == size && fclose(f) == 0, "%s", name);
}

static void remove_folder(void) {
    static const char *const names[] = {"config.json", "model.safetensors.index.json", "model.safetensors",
                                        "a.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(in_folder(names[i]));
    rmdir(folder);
}

static void make_folder(void) {
    if (*folder) return;
    snprintf(folder, sizeof folder, "%s/dqt-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    REQUIRE(mkdtemp(folder), "%s", folder);
    atexit(remove_folder);
}

/* With an index the tensors are in the file that it may name. */
static void put_folder(const uint8_t *data, size_t size) {
    size_t config = data[0] | (size_t)data[1] << 8, index = data[2] | (size_t)data[3] << 8;
    data += 4;
    size -= 4;
    if (config > size) config = size;
    if (index > size - config) index = size - config;
    make_folder();
    put_file("config.json", data, config);
    unlink(in_folder("model.safetensors"));
    unlink(in_folder("a.safetensors"));
    put_file("model.safetensors.index.json", data + config, index);
    put_file(index ? "a.safetensors" : "model.safetensors", data + config + index, size - config - index);
}

static const dqt_open_options *options_for(size_t size) {
    static dqt_open_options o;
    static const int32_t formats[] = {DQT_FORMAT_SAME, DQT_FORMAT_INT8, DQT_FORMAT_TERNARY, DQT_FORMAT_BF16};
    o = (dqt_open_options)DQT_INIT(dqt_open_options);
    o.linear.storage = formats[size % 4];
    o.embedding.storage = o.head.storage = formats[size / 4 % 4];
    o.linear.scale_axis = size / 16 % 2 ? DQT_AXIS_ROW : DQT_AXIS_TENSOR;
    o.rounding = size / 32 % 2 ? DQT_ROUND_STOCHASTIC : 0;
    return &o;
}

static dqt_status open_file(const uint8_t *data, size_t size, const dqt_open_options *o, dqt_llama **model) {
    const struct path path = path_to(data, size);
    const dqt_status status = dqt_llama_open(fuzz_context(), path.text, o, model);
    close(path.descriptor);
    return status;
}

static void use(dqt_llama *model) {
    dqt_context *ctx = fuzz_context();
    dqt_llama_config c = {.struct_size = sizeof c};
    REQUIRE(dqt_llama_get_config(model, &c) == DQT_OK, "config");
    if (c.vocab_size > 4096 || c.num_layers > 64) return;
    static const int32_t tokens[3] = {0, 0, 0};
    float logits[4096];
    dqt_session *session;
    dqt_session_options so = DQT_INIT(dqt_session_options);
    so.max_length = 4;
    if (dqt_session_create(model, &so, &session) == DQT_OK) dqt_session_append(session, tokens, 3, logits);
    dqt_session_destroy(session);
    dqt_gguf_options o = DQT_INIT(dqt_gguf_options);
    const char *names[4096];
    for (size_t i = 0; i < c.vocab_size; i++)
        names[i] = "x";
    o.tokens = names;
    o.num_tokens = c.vocab_size;
    o.context_length = 16;
    o.linear_type = o.embedding_type = DQT_GGUF_F32;
    struct bytes out = {0};
    if (dqt_llama_write_gguf(model, bytes_write, &out, &o) == DQT_OK) {
        dqt_llama *again;
        const dqt_status status = open_file(out.data, out.size, NULL, &again);
        REQUIRE(status == DQT_OK, "own export: %s", dqt_last_error(ctx));
        dqt_llama_destroy(again);
    }
    free(out.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    dqt_context *ctx = fuzz_context();
    dqt_llama *model = NULL;
    if (size < FRONT) return 0;
    const size_t before = fuzz_memory.now;
    fuzz_memory.peak = before;
    dqt_status status;
    if (data[0] % 2 == 0) {
        status = open_file(data + 1, size - 1, options_for(size), &model);
    } else {
        put_folder(data + 1, size - 1);
        status = dqt_llama_open(ctx, folder, options_for(size), &model);
    }
    /* a megabyte of rows, buffers of streams, floats of what has two bits, and names */
    REQUIRE(fuzz_memory.peak - before <= 160 * size + (3u << 20), "%zu bytes for %zu", fuzz_memory.peak - before, size);
    REQUIRE((status == DQT_OK) == (model != NULL), "%d", status);
    REQUIRE(status == DQT_OK || dqt_last_error(ctx)[0], "no sentence");
    if (model) use(model);
    dqt_llama_destroy(model);
    REQUIRE(fuzz_memory.now == before, "%zu bytes leaked", fuzz_memory.now - before);
    return 0;
}

/* ---- The mutator ---------------------------------------------------------------------------------------------- */

/* A number of the little-endian head of a GGUF file. */
static void change_number(uint8_t *data, size_t size) {
    const size_t bytes = chance(2) ? 8 : 4, head = size < 1500 || chance(4) == 0 ? size : 1500;
    if (head < bytes) return;
    const size_t at = chance(head - bytes + 1);
    uint64_t number = 0;
    memcpy(&number, data + at, bytes);
    number = chance(3) ? number + chance(9) - 4 : odd_number();
    memcpy(data + at, &number, bytes);
}

/* Puts a word of JSON over what is there. */
static void change_word(uint8_t *data, size_t size) {
    static const char *const words[] = {"\"BF16\"",
                                        "\"F16\"",
                                        "null",
                                        "true",
                                        "[]",
                                        "{}",
                                        "[[",
                                        "0",
                                        "-1",
                                        "1e9",
                                        "32",
                                        "\\ud800",
                                        "..",
                                        "/",
                                        "\"",
                                        "silu",
                                        "relu2",
                                        "llama3",
                                        "linear",
                                        "full_attention",
                                        "model.layers.0.",
                                        "\"a.safetensors\"",
                                        "sliding_window",
                                        "rope_scaling",
                                        "head_dim",
                                        "U8"};
    const char *word = words[chance(sizeof words / sizeof *words)];
    if (size < strlen(word)) return;
    memcpy(data + chance(size - strlen(word) + 1), word, strlen(word));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    fuzz_state = seed;
    if (size < FRONT || chance(8) == 0) return LLVMFuzzerMutate(data, size, max_size);
    const size_t texts = FRONT + (data[1] | (size_t)data[2] << 8) + (data[3] | (size_t)data[4] << 8);
    if (data[0] % 2 == 0)
        change_number(data + 1, size - 1);
    else if (chance(2))
        change_word(data + FRONT, (texts < size ? texts + 2000 < size ? texts + 2000 : size : size) - FRONT);
    else
        data[chance(size)] ^= (uint8_t)(1u << chance(8));
    return size;
}
