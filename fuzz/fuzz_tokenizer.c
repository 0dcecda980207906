/* What the host says of a GGUF file's tokens: a tokenizer.json in memory and by a path, arrays of tokens and merges,
 * and keys of its own. What is refused has a sentence, writes nothing and leaves nothing behind; memory is in
 * proportion to what came; path and memory do the same; what is written opens again, and its tokens go through a second
 * export. The first byte says which. The mutator puts in, takes out and repeats what tokenizers have. */
#define _GNU_SOURCE
#include "fuzz.h"

/* The model is F32, tied, without sub-norms. Its vocabulary's size leaves no room behind what is allocated for it. */
enum { FRONT = 2, MODEL = 6, VOCAB = 64, MOST = 96 };

struct result {
    dqt_status status;
    struct bytes file;
};

static unsigned long long tried, written;

static void report(void) {
    fprintf(stderr, "fuzz_tokenizer: %llu of %llu exports were written\n", written, tried);
}

static const dqt_llama *model(void) {
    static dqt_llama *m;
    if (m) return m;
    dqt_llama_config c = fuzz_config(MODEL);
    c.vocab_size = VOCAB;
    REQUIRE(dqt_llama_create(fuzz_context(), &c, &m) == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    atexit(report);
    return m;
}

static struct result export(const dqt_gguf_options *o, size_t size) {
    dqt_context *ctx = fuzz_context();
    struct result r = {.file = {.size = 0}};
    const size_t before = fuzz_memory.now;
    fuzz_memory.peak = before;
    r.status = dqt_llama_write_gguf(model(), bytes_write, &r.file, o);
    REQUIRE(fuzz_memory.now == before, "%zu bytes are left", fuzz_memory.now - before);
    REQUIRE(fuzz_memory.peak - before <= 2 * size + (1u << 20), "%zu bytes for %zu", fuzz_memory.peak - before, size);
    REQUIRE(r.status == DQT_OK || (*dqt_last_error(ctx) && r.file.size == 0), "%s, %zu bytes written: \"%s\"",
            dqt_status_string(r.status), r.file.size, dqt_last_error(ctx));
    tried++;
    written += r.status == DQT_OK;
    return r;
}

/* Readers open what was written, and it is a source of the same keys. */
static void give_back(const struct result *r, size_t size) {
    dqt_llama *again;
    if (r->status != DQT_OK) return;
    const struct path path = path_to(r->file.data, r->file.size);
    const dqt_status status = dqt_llama_open(fuzz_context(), path.text, NULL, &again);
    REQUIRE(status == DQT_OK, "own export: %s", dqt_last_error(fuzz_context()));
    dqt_llama_destroy(again);
    dqt_gguf_options o = DQT_INIT(dqt_gguf_options);
    o.source = path.text;
    struct result second = export(&o, size + r->file.size);
    REQUIRE(second.status == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    REQUIRE(second.file.size >= VOCAB, "%zu bytes", second.file.size);
    free(second.file.data);
    close(path.descriptor);
}

static void json(dqt_gguf_options *o, const uint8_t *data, size_t size, bool named) {
    o->pre_tokenizer = named ? "gpt-2" : NULL;
    o->tokenizer_json = data;
    o->tokenizer_json_size = size;
    struct result r = export(o, size);
    give_back(&r, size);
    const struct path path = path_to(data, size);
    o->tokenizer = path.text;
    o->tokenizer_json = NULL;
    o->tokenizer_json_size = 0;
    struct result by_path = export(o, size);
    close(path.descriptor);
    /* no text at all is an argument that is missing, and a file that is broken */
    REQUIRE(size == 0 || (by_path.status == r.status && bytes_equal(&by_path.file, r.file.data, r.file.size)),
            "by path %s, from memory %s", dqt_status_string(by_path.status), dqt_status_string(r.status));
    free(by_path.file.data);
    free(r.file.data);
}

/* Texts that end in a zero, each copied to a block of its own. */
static size_t cut(const uint8_t *data, size_t size, char *texts[MOST]) {
    size_t count = 0;
    for (size_t at = 0; at < size && count < MOST; count++) {
        const size_t n = strnlen((const char *)data + at, size - at);
        texts[count] = strndup((const char *)data + at, n);
        at += n + 1;
    }
    return count;
}

static void arrays(dqt_gguf_options *o, char *texts[MOST], size_t count, uint8_t how) {
    static const float scores[VOCAB] = {0, -1, 2, 3, 4};
    static int32_t types[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        types[i] = how % 8 + i % 2;
    const size_t tokens = count < VOCAB ? count : VOCAB;
    o->tokens = (const char *const *)texts;
    o->num_tokens = tokens;
    if (how & 16) o->types = types;
    if (how & 32) o->scores = scores;
    if (how & 64) o->pre_tokenizer = count ? texts[count - 1] : "";
    if (count > VOCAB) {
        o->merges = (const char *const *)texts + VOCAB;
        o->num_merges = count - VOCAB;
    }
}

static size_t host_keys(char *texts[MOST], size_t count, uint8_t how, dqt_gguf_key keys[MOST]) {
    const bool wild = how & 2;
    fuzz_state += how;
    for (size_t i = 0; i < count; i++) {
        keys[i] = (dqt_gguf_key)DQT_INIT(dqt_gguf_key);
        keys[i].key = texts[i];
        keys[i].value_type = 4 + (int32_t)chance(9);
        keys[i].integer = wild && chance(2) ? (int64_t)odd_number() : (int64_t)chance(2);
        keys[i].number = wild && chance(8) == 0 ? 1e300 : (double)keys[i].integer;
        keys[i].text = wild && chance(8) == 0 ? NULL : texts[(i + 1) % count];
        keys[i].texts = (const char *const *)texts + i;
        keys[i].num_texts = count - i;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *texts[MOST];
    dqt_gguf_key keys[MOST];
    if (size < FRONT) return 0;
    const uint8_t which = data[0] % 4, how = data[1];
    uint8_t *exact = malloc(size - FRONT ? size - FRONT : 1); /* not a byte more can be read */
    memcpy(exact, data + FRONT, size - FRONT);
    dqt_gguf_options o = DQT_INIT(dqt_gguf_options);
    o.bos_token = how & 128 ? -1 : 1;
    o.add_bos = how & 1;
    fuzz_state = size;
    model();
    if (which < 2) {
        json(&o, exact, size - FRONT, which == 1);
    } else {
        const char *names[VOCAB];
        for (int i = 0; i < VOCAB; i++)
            names[i] = "a";
        const size_t count = cut(exact, size - FRONT, texts);
        if (which == 2) {
            arrays(&o, texts, count, how);
        } else {
            o.tokens = names;
            o.num_tokens = VOCAB;
            o.num_keys = host_keys(texts, count, how, keys);
            o.keys = count ? keys : NULL;
        }
        struct result r = export(&o, size);
        give_back(&r, size);
        free(r.file.data);
        for (size_t i = 0; i < count; i++)
            free(texts[i]);
    }
    free(exact);
    return 0;
}

static const char *word(void) {
    static const char *const words[] = {"\"type\":",
                                        "\"BPE\"",
                                        "\"model\":{",
                                        "\"vocab\":{",
                                        "\"merges\":[",
                                        "\"a b\"",
                                        "[\"a\",\"b\"]",
                                        "\"added_tokens\":[",
                                        "{\"id\":3,\"content\":\"c\"}",
                                        "\"special\":true",
                                        "\"lstrip\":",
                                        "\"pre_tokenizer\":",
                                        "{\"type\":\"ByteLevel\"}",
                                        "\"Sequence\"",
                                        "\"pretokenizers\":[",
                                        "\"Digits\"",
                                        "\"individual_digits\":true",
                                        "\"Split\"",
                                        "\"pattern\":{\"Regex\":\"",
                                        "\"behavior\":\"Isolated\"",
                                        "\"use_regex\":false",
                                        "\"normalizer\":",
                                        "{\"type\":\"NFC\"}",
                                        "\"ignore_merges\":true",
                                        "\"byte_fallback\":",
                                        "null",
                                        "true",
                                        "4294967296",
                                        "63",
                                        "64",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "\"",
                                        "\\u0000",
                                        "\\ud800",
                                        "\\",
                                        "[[[[[[[[",
                                        "general.name",
                                        "llama.",
                                        "tokenizer.ggml."};
    return words[chance(sizeof words / sizeof *words)];
}

/* Puts n bytes in at `at`; they do not overlap data. */
static size_t put_in(uint8_t *data, size_t size, size_t max_size, size_t at, const uint8_t *bytes, size_t n) {
    if (size + n > max_size) return size;
    memmove(data + at + n, data + at, size - at);
    memcpy(data + at, bytes, n);
    return size + n;
}

/* A text behind `at` becomes longer than what texts are cut off to. */
static size_t lengthen(uint8_t *data, size_t size, size_t max_size, size_t at) {
    static uint8_t run[2500];
    const uint8_t *quote = memchr(data + at, '"', size - at);
    if (quote) at = (size_t)(quote - data) + 1;
    memset(run, 'a' + (int)chance(3), sizeof run);
    return put_in(data, size, max_size, at, run, chance(4) ? 2000 + chance(100) : chance(sizeof run));
}

/* The number behind `at` becomes another. */
static size_t renumber(uint8_t *data, size_t size, size_t max_size, size_t at) {
    static const char *const numbers[] = {"0",  "1",  "63", "64", "65", "4294967296", "18446744073709551615",
                                          "-1", "1e3"};
    const char *number = numbers[chance(sizeof numbers / sizeof *numbers)];
    size_t digits = 0;
    while (at < size && (data[at] < '0' || data[at] > '9'))
        at++;
    while (at + digits < size && data[at + digits] >= '0' && data[at + digits] <= '9')
        digits++;
    memmove(data + at, data + at + digits, size - at - digits);
    return put_in(data, size - digits, max_size, at, (const uint8_t *)number, strlen(number));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    uint8_t piece[64];
    fuzz_state = seed;
    if (size <= FRONT || chance(4) == 0) return LLVMFuzzerMutate(data, size, max_size);
    const size_t at = FRONT + chance(size - FRONT), rest = size - at;
    const size_t n = 1 + chance(rest < sizeof piece ? rest : sizeof piece);
    const size_t used = n > rest ? rest : n;
    switch (chance(6)) {
    case 0: {
        const char *text = word();
        return put_in(data, size, max_size, at, (const uint8_t *)text, strlen(text));
    }
    case 1: return lengthen(data, size, max_size, at);
    case 2: return renumber(data, size, max_size, at);
    case 3: memmove(data + at, data + at + used, rest - used); return size - used;
    case 4:
        memcpy(piece, data + at, used);
        return put_in(data, size, max_size, FRONT + chance(size - FRONT), piece, used);
    default: data[chance(4) ? at : chance(FRONT)] ^= (uint8_t)(1u << chance(8)); return size;
    }
}
