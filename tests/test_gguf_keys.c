/* What GGUF files say beside the weights: the host's own keys, keys of a source, and tokenizers of byte-level BPE from
 * arrays and from tokenizer.json. */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "counting_alloc.h"
#include "gguf_reader.h"
#include "model_files.h"

/* A model of so many tokens, and the file that it becomes. */
struct world {
    struct counting memory;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_gguf_options o;
    struct memory_file file;
    struct reader r;
};

static void world_begin(struct world *w, size_t vocab) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    w->ctx = counting_context(&w->memory);
    c.vocab_size = vocab;
    c.hidden_size = 32;
    c.intermediate_size = 32;
    c.num_layers = 1;
    c.num_heads = 2;
    c.no_sub_norms = 1;
    OK(w->ctx, dqt_llama_create(w->ctx, &c, &w->model));
    OK(w->ctx, dqt_gguf_options_init(&w->o, sizeof w->o));
    w->file = memory_new();
}

static void world_end(struct world *w) {
    free(w->file.bytes);
    dqt_llama_destroy(w->model);
    counting_end(w->ctx, &w->memory);
}

static void write_file(struct world *w) {
    free(w->file.bytes);
    w->file = memory_new();
    OK(w->ctx, dqt_llama_write_gguf(w->model, memory_write, &w->file, &w->o));
    if (w->file.size) w->r = reader_new(&w->file);
}

/* A sentence that has the word, no byte written, no memory held. */
static void refused(struct world *w, dqt_status expected, const char *word) {
    struct memory_file f = memory_new();
    const size_t before = dqt_context_allocated(w->ctx);
    const dqt_status status = dqt_llama_write_gguf(w->model, memory_write, &f, &w->o);
    CHECKF(status == expected && strstr(dqt_last_error(w->ctx), word), "%s, wanted \"%s\": %s",
           dqt_status_string(status), word, dqt_last_error(w->ctx));
    CHECK(f.size == 0 && dqt_context_allocated(w->ctx) == before);
    free(f.bytes);
}

static void text_is(struct world *w, const char *key, const char *expected) {
    char text[256] = "";
    if (find_key(&w->r, key) == 8) take_string(&w->r, text, sizeof text);
    CHECKF(strcmp(text, expected) == 0, "%s is \"%s\"", key, text);
}

/* An array of so many elements of this type; the reader is at the first. */
static bool array_is(struct reader *r, const char *key, uint64_t type, uint64_t count) {
    const bool good = find_key(r, key) == 9 && take(r, 4) == type && take(r, 8) == count;
    CHECKF(good, "%s", key);
    return good;
}

static void strings_are(struct world *w, const char *key, const char *const *expected, size_t count) {
    char text[256];
    if (!array_is(&w->r, key, 8, count)) return;
    for (size_t i = 0; i < count; i++) {
        take_string(&w->r, text, sizeof text);
        CHECKF(strcmp(text, expected[i]) == 0, "%s[%zu] is \"%s\"", key, i, text);
    }
}

static void types_are(struct world *w, const int *expected, size_t count) {
    if (!array_is(&w->r, "tokenizer.ggml.token_type", 5, count)) return;
    for (size_t i = 0; i < count; i++)
        CHECKF(take(&w->r, 4) == (uint64_t)expected[i], "type %zu", i);
}

/* ---- Keys of the host ------------------------------------------------------------------------------------------ */

#define SIZED .struct_size = sizeof(dqt_gguf_key)
static const char *const two[] = {"first", "second \xC3\xA9"};

static void host_keys(void) {
    const dqt_gguf_key keys[] = {
        {SIZED, .key = "general.name", .value_type = DQT_GGUF_VALUE_STRING, .text = "a name"},
        {SIZED, .key = "a.u32", .value_type = DQT_GGUF_VALUE_UINT32, .integer = UINT32_MAX},
        {SIZED, .key = "a.i32", .value_type = DQT_GGUF_VALUE_INT32, .integer = INT32_MIN},
        {SIZED, .key = "a.u64", .value_type = DQT_GGUF_VALUE_UINT64, .integer = INT64_MAX},
        {SIZED, .key = "a.i64", .value_type = DQT_GGUF_VALUE_INT64, .integer = INT64_MIN},
        {SIZED, .key = "a.f32", .value_type = DQT_GGUF_VALUE_FLOAT32, .number = 0.1},
        {SIZED, .key = "a.f64", .value_type = DQT_GGUF_VALUE_FLOAT64, .number = 0.1},
        {SIZED, .key = "a.yes", .value_type = DQT_GGUF_VALUE_BOOL, .integer = 1},
        {SIZED, .key = "a.no", .value_type = DQT_GGUF_VALUE_BOOL},
        {SIZED, .key = "general.tags", .value_type = DQT_GGUF_VALUE_STRINGS, .texts = two, .num_texts = 2},
        {SIZED, .key = "a.none", .value_type = DQT_GGUF_VALUE_STRINGS},
    };
    struct world w;
    world_begin(&w, 256);
    write_file(&w);
    const uint64_t before = w.r.keys;
    w.o.keys = keys;
    w.o.num_keys = sizeof keys / sizeof *keys;
    w.o.context_length = 77;
    write_file(&w);
    CHECK(w.r.keys == before + w.o.num_keys);
    text_is(&w, "general.name", "a name");
    strings_are(&w, "general.tags", two, 2);
    strings_are(&w, "a.none", two, 0);
    CHECK(number_key(&w.r, "a.u32", 4) == UINT32_MAX && number_key(&w.r, "a.i32", 5) == 0x80000000u);
    CHECK(number_key(&w.r, "a.u64", 10) == INT64_MAX && number_key(&w.r, "a.i64", 11) == (uint64_t)1 << 63);
    CHECK(number_key(&w.r, "a.f32", 6) == 0x3dcccccdu && number_key(&w.r, "a.f64", 12) == 0x3fb999999999999au);
    CHECK(number_key(&w.r, "a.yes", 7) == 1 && number_key(&w.r, "a.no", 7) == 0);
    CHECK(number_key(&w.r, "llama.context_length", 4) == 77);
    world_end(&w);
}

static void refused_keys(void) {
    char longest[128];
    memset(longest, 'k', 127);
    longest[127] = '\0';
    static const char *const hole[] = {"first", NULL};
    const struct {
        dqt_gguf_key key;
        const char *word;
    } cases[] = {
        {{SIZED, .value_type = 8, .text = "x"}, "keys[1].key is NULL"},
        {{SIZED, .key = "", .value_type = 8, .text = "x"}, "has 0 bytes"},
        {{SIZED, .key = longest, .value_type = 8, .text = "x"}, "has 127 bytes"},
        {{SIZED, .key = "k", .value_type = 8}, "text is NULL"},
        {{SIZED, .key = "k", .value_type = 9, .num_texts = 1}, "texts is NULL"},
        {{SIZED, .key = "k", .value_type = 9, .texts = hole, .num_texts = 2}, "texts[1] is NULL"},
        {{SIZED, .key = "k"}, "value_type is 0"},
        {{SIZED, .key = "k", .value_type = 3}, "value_type is 3"},
        {{SIZED, .key = "k", .value_type = 13}, "value_type is 13"},
        {{SIZED, .key = "k", .value_type = 4, .integer = -1}, "integer is -1; it must be 0 to 4294967295"},
        {{SIZED, .key = "k", .value_type = 4, .integer = (int64_t)1 << 32}, "integer is 4294967296"},
        {{SIZED, .key = "k", .value_type = 5, .integer = (int64_t)1 << 31}, "integer is 2147483648"},
        {{SIZED, .key = "k", .value_type = 10, .integer = -1}, "integer is -1"},
        {{SIZED, .key = "k", .value_type = 7, .integer = 2}, "integer is 2"},
        {{SIZED, .key = "k", .value_type = 6, .number = 1e39}, "number is 1e+39"},
        {{SIZED, .key = "k", .value_type = 6, .number = (double)NAN}, "number is"},
        {{SIZED, .key = "k", .value_type = 12, .number = -(double)INFINITY}, "number is -inf"},
        {{SIZED, .key = "a.name", .value_type = 4}, "a.name is there twice"},
        {{SIZED, .key = "general.architecture", .value_type = 8, .text = "qwen2"}, "general.architecture is said by"},
        {{SIZED, .key = "general.alignment", .value_type = 4, .integer = 64}, "general.alignment is said by"},
        {{SIZED, .key = "llama.block_count", .value_type = 4, .integer = 7}, "llama.block_count is said by"},
        {{SIZED, .key = "llama.context_length", .value_type = 4, .integer = 7}, "llama.context_length is said by"},
        {{SIZED, .key = "llama.rope.dimension_count", .value_type = 4, .integer = 16},
         "llama.rope.dimension_count is said by"},
        {{SIZED, .key = "llama.rope.scaling.type", .value_type = 8, .text = "yarn"},
         "llama.rope.scaling.type is said by"},
        {{SIZED, .key = "tokenizer.ggml.model", .value_type = 8, .text = "gpt2"},
         "keys[1]: tokenizer.ggml.model is said by"},
        {{SIZED, .key = "tokenizer.ggml.add_bos_token", .value_type = 7}, "tokenizer.ggml.add_bos_token is said by"},
    };
    struct world w;
    world_begin(&w, 256);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const dqt_gguf_key keys[] = {{SIZED, .key = "a.name", .value_type = DQT_GGUF_VALUE_STRING, .text = "x"},
                                     cases[i].key};
        w.o.keys = keys;
        w.o.num_keys = 2;
        refused(&w, DQT_E_ARGUMENT, cases[i].word);
        const char path[] = "/tmp/dqt-test-keys.gguf";
        CHECK(dqt_llama_export_gguf(w.model, path, &w.o) == DQT_E_ARGUMENT && access(path, F_OK) != 0);
    }
    dqt_gguf_key uneven[] = {{SIZED, .key = "a", .value_type = DQT_GGUF_VALUE_BOOL}, {.struct_size = 8}};
    w.o.keys = uneven;
    refused(&w, DQT_E_ARGUMENT, "keys[1].struct_size is 8");
    uneven[0].struct_size = 0;
    refused(&w, DQT_E_ARGUMENT, "dqt_gguf_key.struct_size is 0");
    const dqt_gguf_key good = {SIZED, .key = "qwen2.block_count", .value_type = DQT_GGUF_VALUE_UINT32, .integer = 3};
    w.o.keys = &good; /* of another architecture: it means nothing here */
    w.o.num_keys = 1;
    write_file(&w);
    w.o.num_keys = 0;
    refused(&w, DQT_E_ARGUMENT, "num_keys is 0");
    w.o.keys = NULL;
    w.o.num_keys = 1;
    refused(&w, DQT_E_ARGUMENT, "keys is NULL");
    world_end(&w);
}

/* Keys beside a source replace its own, or come behind them. */
static void beside_a_source(void) {
    char path[] = "/tmp/dqt-keys-XXXXXX";
    const dqt_gguf_key first[] = {
        {SIZED, .key = "general.name", .value_type = DQT_GGUF_VALUE_STRING, .text = "old"},
        {SIZED, .key = "general.url", .value_type = DQT_GGUF_VALUE_STRING, .text = "kept"},
    };
    const dqt_gguf_key second[] = {
        {SIZED, .key = "general.name", .value_type = DQT_GGUF_VALUE_STRING, .text = "new"},
        {SIZED, .key = "tokenizer.ggml.eos_token_id", .value_type = DQT_GGUF_VALUE_UINT32, .integer = 9},
        {SIZED, .key = "tokenizer.chat_template", .value_type = DQT_GGUF_VALUE_STRING, .text = "{{ messages }}"},
    };
    struct world w;
    world_begin(&w, 256);
    close(mkstemp(path));
    w.o.context_length = 64;
    w.o.keys = first;
    w.o.num_keys = 2;
    OK(w.ctx, dqt_llama_export_gguf(w.model, path, &w.o));
    write_file(&w);
    const uint64_t before = w.r.keys;
    OK(w.ctx, dqt_gguf_options_init(&w.o, sizeof w.o));
    w.o.source = path;
    w.o.keys = second;
    w.o.num_keys = 3;
    write_file(&w);
    CHECK(w.r.keys == before + 1); /* two are replaced, one is new */
    text_is(&w, "general.name", "new");
    text_is(&w, "general.url", "kept");
    text_is(&w, "tokenizer.chat_template", "{{ messages }}");
    CHECK(number_key(&w.r, "tokenizer.ggml.eos_token_id", 4) == 9);
    CHECK(number_key(&w.r, "llama.context_length", 4) == 64);
    w.o.context_length = 128;
    write_file(&w);
    CHECK(w.r.keys == before + 1 && number_key(&w.r, "llama.context_length", 4) == 128);
    const dqt_gguf_key wrong[] = {
        {SIZED, .key = "llama.context_length", .value_type = DQT_GGUF_VALUE_UINT32, .integer = 9}};
    w.o.keys = wrong;
    w.o.num_keys = 1;
    refused(&w, DQT_E_ARGUMENT, "llama.context_length is said by");
    const dqt_gguf_key few[] = {{SIZED, .key = "tokenizer.ggml.tokens", .value_type = DQT_GGUF_VALUE_STRINGS}};
    w.o.keys = few; /* its own tokens must be as many as the model has */
    refused(&w, DQT_E_ARGUMENT, "source has 0 tokens");
    w.o.keys = NULL;
    w.o.num_keys = 0;
    w.o.tokenizer = path;
    refused(&w, DQT_E_ARGUMENT, "source has a tokenizer: tokenizer must be NULL");
    unlink(path);
    world_end(&w);
}

/* ---- Merges from arrays ---------------------------------------------------------------------------------------- */

static void merges_given(void) {
    static const char *const tokens[] = {"<end>", "a", "b", "ab", "\xC4\xA0"};
    static const char *const merges[] = {"a b", "\xC4\xA0 ab"};
    static const int32_t types[] = {3, 1, 1, 1, 1};
    static const char *const wrong[] = {"ab", " a", "a ", "a b c", "a  b", "", NULL};
    const float scores[5] = {0};
    struct world w;
    world_begin(&w, 5);
    w.o.tokens = tokens;
    w.o.types = types;
    w.o.num_tokens = 5;
    w.o.merges = merges;
    w.o.num_merges = 2;
    refused(&w, DQT_E_ARGUMENT, "pre_tokenizer must name");
    w.o.pre_tokenizer = "";
    refused(&w, DQT_E_ARGUMENT, "pre_tokenizer must name");
    w.o.pre_tokenizer = "refact";
    write_file(&w);
    text_is(&w, "tokenizer.ggml.model", "gpt2");
    text_is(&w, "tokenizer.ggml.pre", "refact");
    strings_are(&w, "tokenizer.ggml.tokens", tokens, 5);
    strings_are(&w, "tokenizer.ggml.merges", merges, 2);
    types_are(&w, (const int[]){3, 1, 1, 1, 1}, 5);
    CHECK(find_key(&w.r, "tokenizer.ggml.scores") == 0);
    w.o.scores = scores;
    refused(&w, DQT_E_ARGUMENT, "scores must be NULL");
    w.o.scores = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *const list[] = {"a b", wrong[i]};
        w.o.merges = list;
        refused(&w, DQT_E_ARGUMENT, "merges[1] is");
    }
    w.o.num_merges = 0;
    refused(&w, DQT_E_ARGUMENT, "num_merges is 0");
    w.o.merges = NULL;
    refused(&w, DQT_E_ARGUMENT, "pre_tokenizer is of merges");
    w.o.pre_tokenizer = NULL;
    w.o.num_merges = 1;
    refused(&w, DQT_E_ARGUMENT, "merges is NULL");
    w.o.merges = merges;
    w.o.tokens = NULL;
    refused(&w, DQT_E_ARGUMENT, "tokens is NULL");
    world_end(&w);
}

/* ---- tokenizer.json -------------------------------------------------------------------------------------------- */

#define SPLIT(numbers)                                                                                                 \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"                            \
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" numbers                                  \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}," ISOLATED                \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]}"
#define ISOLATED "\"behavior\":\"Isolated\",\"invert\":false},"
#define LLAMA3 SPLIT("\\\\p{N}{1,3}")
#define QWEN2 SPLIT("\\\\p{N}")
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define DIGITS "{\"type\":\"Digits\",\"individual_digits\":true}"
#define LIST(of) "{\"type\":\"Sequence\",\"pretokenizers\":[" of "]}"
#define ADDED                                                                                                          \
    "{\"id\":0,\"content\":\"<end>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"special\":true},"       \
    "{\"id\":9,\"content\":\"\\u00e9 x\",\"special\":false,\"normalized\":null}"
#define VOCAB                                                                                                          \
    "{\"<end>\":0,\"a\":1,\"b\":2,\"ab\":3,\"\\u0120\":4,\"\xC4\xA0"                                                   \
    "ab\":5,\"\\\"\":7}"
#define MERGES "[\"a b\",[\"\\u0120\",\"ab\"]]"

/* A tokenizer.json; parts that are NULL are ordinary ones. */
struct parts {
    const char *added, *normalizer, *pre, *type, *vocab, *merges, *more;
};

static const char *or_else(const char *part, const char *ordinary) {
    return part ? part : ordinary;
}

static size_t put_json(const struct parts *p, char *out, size_t room) {
    const int n = snprintf(
        out, room,
        "{\"version\":\"1.0\",\"truncation\":null,\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,"
        "\"post_processor\":{\"a\":[1]},\"model\":{\"type\":\"%s\",\"dropout\":null,"
        "\"continuing_subword_prefix\":null,\"vocab\":%s,\"merges\":%s%s}}",
        or_else(p->added, ADDED), or_else(p->normalizer, "null"), or_else(p->pre, BYTES), or_else(p->type, "BPE"),
        or_else(p->vocab, VOCAB), or_else(p->merges, MERGES), or_else(p->more, ""));
    CHECK(n > 0 && (size_t)n < room);
    return (size_t)n;
}

enum { JSON_ROOM = 8192 };

static void give(struct world *w, const struct parts *p, char text[JSON_ROOM]) {
    w->o.tokenizer_json_size = put_json(p, text, JSON_ROOM);
    w->o.tokenizer_json = text;
}

static const char *const json_tokens[] = {"<end>",
                                          "a",
                                          "b",
                                          "ab",
                                          "\xC4\xA0",
                                          "\xC4\xA0"
                                          "ab",
                                          "[PAD6]",
                                          "\"",
                                          "[PAD8]",
                                          "\xC3\xA9 x",
                                          "[PAD10]"};
static const char *const json_merges[] = {"a b", "\xC4\xA0 ab"};

static void check_json(struct world *w, const char *pre) {
    text_is(w, "tokenizer.ggml.model", "gpt2");
    text_is(w, "tokenizer.ggml.pre", pre);
    strings_are(w, "tokenizer.ggml.tokens", json_tokens, 11);
    strings_are(w, "tokenizer.ggml.merges", json_merges, 2);
    types_are(w, (const int[]){3, 1, 1, 1, 1, 1, 5, 1, 5, 4, 5}, 11);
    CHECK(find_key(&w->r, "tokenizer.ggml.scores") == 0);
}

static void from_json(void) {
    static const struct {
        struct parts parts;
        const char *given, *pre;
    } cases[] = {
        {{.pre = BYTES}, NULL, "gpt-2"},
        {{.pre = "{\"trim_offsets\":true,\"use_regex\":true,\"type\":\"ByteLevel\"}"}, NULL, "gpt-2"},
        {{.pre = LIST(DIGITS "," BYTES)}, NULL, "smollm"},
        {{.pre = LLAMA3, .more = ",\"ignore_merges\":true"}, NULL, "llama-bpe"},
        {{.pre = QWEN2, .normalizer = "{\"type\":\"NFC\"}"}, NULL, "qwen2"},
        {{.pre = QWEN2, .more = ",\"ignore_merges\":false"}, NULL, "qwen2"},
        {{.pre = "{\"type\":\"Unknown\"}", .normalizer = "{\"type\":\"NFKC\"}", .more = ",\"ignore_merges\":true"},
         "deepseek-llm",
         "deepseek-llm"},
    };
    char text[JSON_ROOM], path[] = "/tmp/dqt-tokenizer-XXXXXX";
    struct world w;
    world_begin(&w, 11);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        give(&w, &cases[i].parts, text);
        w.o.pre_tokenizer = cases[i].given;
        w.o.eos_token = 9;
        write_file(&w);
        check_json(&w, cases[i].pre);
        CHECK(number_key(&w.r, "tokenizer.ggml.eos_token_id", 4) == 9);
    }
    w.o.pre_tokenizer = NULL;
    give(&w, &(struct parts){0}, text);
    const int fd = mkstemp(path);
    CHECK(write(fd, text, w.o.tokenizer_json_size) == (ssize_t)w.o.tokenizer_json_size && close(fd) == 0);
    w.o.tokenizer = path;
    refused(&w, DQT_E_ARGUMENT, "tokenizer has a tokenizer: tokenizer_json must be NULL");
    w.o.tokenizer_json = NULL;
    refused(&w, DQT_E_ARGUMENT, "tokenizer_json is NULL");
    w.o.tokenizer_json_size = 0;
    write_file(&w);
    check_json(&w, "gpt-2");
    CHECK(truncate(path, 100) == 0);
    refused(&w, DQT_E_FORMAT, "tokenizer.json, byte 100");
    unlink(path);
    refused(&w, DQT_E_IO, path);
    w.o.tokenizer = "/";
    CHECK(dqt_llama_write_gguf(w.model, memory_write, &w.file, &w.o) != DQT_OK);
    world_end(&w);
}

static void refused_json(void) {
    static const struct {
        struct parts parts;
        dqt_status status;
        const char *word;
    } cases[] = {
        {{.type = "Unigram"}, DQT_E_UNSUPPORTED, "model.type is Unigram"},
        {{.type = "Unigram", .vocab = "[[\"a\",-1.5]]"}, DQT_E_UNSUPPORTED, "model.vocab is no object"},
        {{.more = ",\"byte_fallback\":true"}, DQT_E_UNSUPPORTED, "byte_fallback is true"},
        {{.more = ",\"end_of_word_suffix\":\"</w>\""}, DQT_E_UNSUPPORTED, "end_of_word_suffix is </w>"},
        {{.more = ",\"continuing_subword_prefix\":\"##\""}, DQT_E_UNSUPPORTED, "continuing_subword_prefix is ##"},
        {{.more = ",\"ignore_merges\":true"}, DQT_E_UNSUPPORTED, "ignore_merges is true"},
        {{.pre = LLAMA3}, DQT_E_UNSUPPORTED, "ignore_merges is false"},
        {{.normalizer = "{\"type\":\"NFC\"}"}, DQT_E_UNSUPPORTED, "normalizer is NFC"},
        {{.normalizer = "{\"type\":\"Lowercase\"}", .pre = QWEN2}, DQT_E_UNSUPPORTED, "normalizer is Lowercase"},
        {{.pre = "null"}, DQT_E_UNSUPPORTED, "pre_tokenizer is none"},
        {{.pre = "{\"type\":\"Whitespace\"}"}, DQT_E_UNSUPPORTED, "pre_tokenizer is Whitespace"},
        {{.pre = "{}"}, DQT_E_UNSUPPORTED, "pre_tokenizer is no known one"},
        {{.pre = LIST(DIGITS)}, DQT_E_UNSUPPORTED, "pre_tokenizer is one without ByteLevel"},
        {{.pre = LIST("")}, DQT_E_UNSUPPORTED, "pre_tokenizer is one without ByteLevel"},
        {{.pre = LIST(BYTES "," DIGITS)}, DQT_E_UNSUPPORTED, "pre_tokenizer is Digits"},
        {{.pre = LIST(LIST(BYTES))}, DQT_E_UNSUPPORTED, "pre_tokenizer is Sequence"},
        {{.pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"}, DQT_E_UNSUPPORTED, "add_prefix_space"},
        {{.pre = "{\"type\":\"ByteLevel\",\"use_regex\":false}"}, DQT_E_UNSUPPORTED, "order of pre-tokenizers"},
        {{.pre = SPLIT("\\\\d")}, DQT_E_UNSUPPORTED, "the expression of the pre-tokenizer is (?i:"},
        {{.pre = LIST("{\"type\":\"Split\",\"pattern\":{\"String\":\" \"}," ISOLATED BYTES)},
         DQT_E_UNSUPPORTED,
         "no regular one"},
        {{.added = "{\"id\":0,\"content\":\"x\",\"lstrip\":true}"}, DQT_E_UNSUPPORTED, "lstrip or rstrip"},
        {{.added = "{\"id\":0,\"content\":\"x\",\"rstrip\":true}"}, DQT_E_UNSUPPORTED, "lstrip or rstrip"},
        {{.added = "{\"id\":0,\"content\":\"x\",\"single_word\":true}"}, DQT_E_UNSUPPORTED, "single_word"},
        {{.added = "{\"id\":0}"}, DQT_E_FORMAT, "an id and a content"},
        {{.added = "{\"content\":\"x\"}"}, DQT_E_FORMAT, "an id and a content"},
        {{.added = "{\"id\":11,\"content\":\"x\"}"}, DQT_E_FORMAT, "a token has number 11"},
        {{.added = ADDED "," ADDED}, DQT_E_FORMAT, "two tokens have number 0"},
        {{.vocab = "{\"a\":1,\"b\":1}"}, DQT_E_FORMAT, "two tokens have number 1"},
        {{.vocab = "{\"a\":18446744073709551615}"}, DQT_E_FORMAT, "a token has number 18446744073709551615"},
        {{.vocab = "{\"a\":-1}"}, DQT_E_FORMAT, "tokenizer.json, byte"},
        {{.vocab = "{\"a\":\"b\"}"}, DQT_E_FORMAT, "tokenizer.json, byte"},
        {{.vocab = "{}", .added = ""}, DQT_E_UNSUPPORTED, "model.vocab is empty"},
        {{.merges = "null"}, DQT_E_UNSUPPORTED, "model.merges is no list"},
        {{.merges = "[\"ab\"]"}, DQT_E_FORMAT, "two short texts"},
        {{.merges = "[\"a b c\"]"}, DQT_E_FORMAT, "two short texts"},
        {{.merges = "[[\"a\",\"b\",\"c\"]]"}, DQT_E_FORMAT, "tokenizer.json, byte"},
        {{.merges = "[[\"a\",\"b c\"]]"}, DQT_E_FORMAT, "two short texts"},
        {{.merges = "[[\"a\"]]"}, DQT_E_FORMAT, "tokenizer.json, byte"},
        {{.merges = "[1]"}, DQT_E_FORMAT, "tokenizer.json, byte"},
    };
    char text[JSON_ROOM];
    struct world w;
    world_begin(&w, 11);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        give(&w, &cases[i].parts, text);
        refused(&w, cases[i].status, cases[i].word);
    }
    /* a token, and a merge, that are too long */
    char wide[5000], name[2200];
    memset(name, 'x', sizeof name);
    for (size_t n = 2046; n <= 2048; n++) {
        snprintf(wide, sizeof wide, "{\"a\":1,\"%.*s\":2}", (int)n, name);
        give(&w, &(struct parts){.vocab = wide}, text);
        if (n == 2046)
            write_file(&w);
        else
            refused(&w, DQT_E_FORMAT, "a shorter token");
        snprintf(wide, sizeof wide, "[[\"%.*s\",\"y\"]]", (int)n - 2, name);
        give(&w, &(struct parts){.merges = wide}, text);
        if (n == 2046)
            write_file(&w);
        else
            refused(&w, DQT_E_FORMAT, "tokenizer.json, byte");
    }
    give(&w, &(struct parts){.pre = LIST(DIGITS "," BYTES)}, text);
    const size_t size = w.o.tokenizer_json_size;
    for (size_t n = 1; n < size; n++) { /* every beginning, in a block of its own, so that no byte behind it is read */
        char *cut = malloc(n);
        memcpy(cut, text, n);
        w.o.tokenizer_json = cut;
        w.o.tokenizer_json_size = n;
        refused(&w, DQT_E_FORMAT, "tokenizer.json, byte");
        free(cut);
    }
    world_end(&w);
}

static void memory_fails(void) {
    char text[JSON_ROOM];
    struct world w;
    world_begin(&w, 11);
    give(&w, &(struct parts){0}, text);
    size_t n = 0;
    for (dqt_status status = DQT_E_MEMORY; status == DQT_E_MEMORY && n < 50; n++) {
        struct memory_file f = memory_new();
        const size_t before = dqt_context_allocated(w.ctx);
        w.memory.fail_at = w.memory.calls + n;
        status = dqt_llama_write_gguf(w.model, memory_write, &f, &w.o);
        w.memory.fail_at = SIZE_MAX;
        CHECK(status == DQT_OK || (status == DQT_E_MEMORY && f.size == 0));
        CHECK(dqt_context_allocated(w.ctx) == before);
        free(f.bytes);
    }
    CHECK(n > 2 && n < 50);
    world_end(&w);
}

/* The four tokenizers that PyPI's `tokenizers` learned (tests/examples/make_golden.py); of one of them that script
 * wrote the keys of a GGUF file too, which must be ours. */
static void learned(void) {
    static const struct {
        const char *name, *pre;
        size_t vocab;
    } cases[] = {
        {"gpt2", "gpt-2", 700}, {"smollm", "smollm", 700}, {"llama3", "llama-bpe", 702}, {"qwen2", "qwen2", 701}};
    static const char *const arrays[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"};
    char path[GOLDEN_PATH_BYTES], name[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world w;
        world_begin(&w, cases[i].vocab);
        snprintf(name, sizeof name, "../examples/golden/%s.json", cases[i].name);
        w.o.tokenizer = golden_path(path, name);
        write_file(&w);
        text_is(&w, "tokenizer.ggml.pre", cases[i].pre);
        CHECK(array_is(&w.r, "tokenizer.ggml.merges", 8, 443));
        if (strcmp(cases[i].name, "smollm") == 0) {
            char golden[GOLDEN_PATH_BYTES];
            struct memory_file theirs = slurp(golden_path(golden, "../examples/golden/smollm.gguf"));
            struct reader r = reader_new(&theirs);
            for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++) {
                CHECK(find_key(&r, arrays[k]) == 9 && find_key(&w.r, arrays[k]) == 9);
                const size_t from = w.r.at, at = r.at;
                skip_value(&r, 9);
                const size_t n = r.at - at;
                CHECKF(n > 1000 && from + n <= w.file.size && memcmp(w.file.bytes + from, theirs.bytes + at, n) == 0,
                       "%s differs", arrays[k]);
            }
            free(theirs.bytes);
        }
        world_end(&w);
    }
}

static const struct test tests[] = {TEST(host_keys), TEST(refused_keys), TEST(beside_a_source), TEST(merges_given),
                                    TEST(from_json), TEST(refused_json), TEST(memory_fails),    TEST(learned)};
TEST_MAIN(tests)
