/* The tokenizer in the metadata of a GGUF file (versions 2 and 3). */
#include <stdlib.h>
#include <string.h>

#include "die.h"
#include "pieces.h"
#include "vocabulary.h"

enum { TYPE_INT32 = 5, TYPE_FLOAT32 = 6, TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };
enum { TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_BYTE = 6 }; /* of tokenizer.ggml.token_type */

static const size_t value_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
enum { TYPES = sizeof value_bytes / sizeof *value_bytes };

struct gguf {
    const char *path;
    const unsigned char *data;
    size_t size, at;
};

/* An array of a key: its items begin at `at`. */
struct list {
    uint32_t type;
    uint64_t count;
    size_t at;
};

static const unsigned char *take(struct gguf *g, uint64_t bytes) {
    if (bytes > g->size - g->at) die("%s ends too early", g->path);
    g->at += (size_t)bytes;
    return g->data + g->at - (size_t)bytes;
}

static uint64_t take_number(struct gguf *g, size_t bytes) {
    const unsigned char *p = take(g, bytes);
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;)
        value = value << 8 | p[i];
    return value;
}

static const char *take_string(struct gguf *g, size_t *size) {
    const uint64_t n = take_number(g, 8);
    const char *text = (const char *)take(g, n);
    *size = (size_t)n;
    return text;
}

static bool same(const char *text, size_t size, const char *name) {
    return size == strlen(name) && memcmp(text, name, size) == 0;
}

static void skip_value(struct gguf *g, uint32_t type) {
    size_t size;
    if (type == TYPE_STRING)
        take_string(g, &size);
    else if (type >= TYPES || type == TYPE_ARRAY)
        die("%s has metadata of an unknown type", g->path);
    else
        take(g, value_bytes[type]);
}

static struct list take_list(struct gguf *g) {
    struct list l = {(uint32_t)take_number(g, 4), 0, 0};
    l.count = take_number(g, 8);
    l.at = g->at;
    for (uint64_t i = 0; i < l.count; i++)
        skip_value(g, l.type);
    return l;
}

struct keys {
    struct list tokens, merges, types, scores;
    const char *model, *pre;
    size_t model_size, pre_size;
    bool no_space; /* tokenizer.ggml.add_space_prefix is false */
};

static void read_keys(struct gguf *g, struct keys *k) {
    const struct {
        const char *name;
        uint32_t type;
        void *value;
        size_t *size; /* of a string */
    } wanted[] = {{"tokenizer.ggml.tokens", TYPE_ARRAY, &k->tokens, NULL},
                  {"tokenizer.ggml.merges", TYPE_ARRAY, &k->merges, NULL},
                  {"tokenizer.ggml.token_type", TYPE_ARRAY, &k->types, NULL},
                  {"tokenizer.ggml.scores", TYPE_ARRAY, &k->scores, NULL},
                  {"tokenizer.ggml.add_space_prefix", TYPE_BOOL, &k->no_space, NULL},
                  {"tokenizer.ggml.model", TYPE_STRING, &k->model, &k->model_size},
                  {"tokenizer.ggml.pre", TYPE_STRING, &k->pre, &k->pre_size}};
    enum { WANTED = sizeof wanted / sizeof *wanted };
    take(g, 4); /* magic */
    const uint64_t version = take_number(g, 4);
    if (version != 2 && version != 3) die("%s is of a version of GGUF that is not known", g->path);
    take(g, 8); /* number of tensors */
    const uint64_t count = take_number(g, 8);
    for (uint64_t i = 0; i < count; i++) {
        size_t size, w = 0;
        const char *name = take_string(g, &size);
        const uint32_t type = (uint32_t)take_number(g, 4);
        while (w < WANTED && !(same(name, size, wanted[w].name) && type == wanted[w].type))
            w++;
        if (type == TYPE_ARRAY) {
            const struct list l = take_list(g);
            if (w < WANTED) *(struct list *)wanted[w].value = l;
        } else if (w < WANTED && type == TYPE_BOOL) {
            *(bool *)wanted[w].value = take_number(g, 1) == 0;
        } else if (w < WANTED) {
            *(const char **)wanted[w].value = take_string(g, wanted[w].size);
        } else {
            skip_value(g, type);
        }
    }
}

static void set_split(struct vocabulary *v, const struct keys *k) {
    for (size_t i = 0; i < num_split_names; i++)
        if (k->pre && same(k->pre, k->pre_size, split_names[i].gguf)) {
            v->split = split_names[i].split;
            v->whole_words = split_names[i].whole_words;
            v->compose = split_names[i].compose;
            return;
        }
    die("the pre-tokenizer \"%.*s\" is not supported", k->pre ? (int)k->pre_size : 7, k->pre ? k->pre : "nothing");
}

static void read_merges(struct vocabulary *v, struct gguf *g, const struct list *merges) {
    size_t size;
    if (merges->type != TYPE_STRING) die("%s has no merges", g->path);
    g->at = merges->at;
    for (uint64_t i = 0; i < merges->count; i++) {
        const char *text = take_string(g, &size), *space = memchr(text, ' ', size);
        if (!space) die("merge %lu of %s is not two strings", (unsigned long)i, g->path);
        const size_t left = (size_t)(space - text);
        vocabulary_merge(v, text, left, space + 1, size - left - 1);
    }
}

static void read_bytewise(struct vocabulary *v, struct gguf *g, const struct keys *k) {
    struct gguf types = *g;
    size_t size;
    set_split(v, k);
    g->at = k->tokens.at;
    types.at = k->types.at;
    for (uint32_t i = 0; i < k->tokens.count; i++) {
        const uint64_t type = k->types.count ? take_number(&types, 4) : 1;
        const bool special = type == TOKEN_CONTROL || type == TOKEN_USER;
        const char *text = take_string(g, &size);
        vocabulary_add(v, i, text, size, special);
        if (special && size) vocabulary_add_special(v, i);
    }
    vocabulary_index(v);
    read_merges(v, g, &k->merges);
}

static void read_pieces(struct vocabulary *v, struct gguf *g, const struct keys *k) {
    struct gguf types = *g, scores = *g;
    const size_t count = (size_t)k->tokens.count;
    if (!k->types.count || k->scores.count != count || k->scores.type != TYPE_FLOAT32)
        die("%s has no types, or not a score for each of its tokens", g->path);
    float *score = must_alloc(count, sizeof *score);
    g->at = k->tokens.at;
    types.at = k->types.at;
    scores.at = k->scores.at;
    for (unsigned i = 0; i < 256; i++)
        v->bytes[i] = NO_TOKEN;
    for (uint32_t i = 0; i < count; i++) {
        size_t size;
        const uint64_t type = take_number(&types, 4);
        const char *text = take_string(g, &size);
        const uint32_t bits = (uint32_t)take_number(&scores, 4);
        memcpy(&score[i], &bits, sizeof bits);
        if (type == TOKEN_BYTE) {
            if (!pieces_add_byte(v, i, text, size)) die("token %lu of %s is no byte", (unsigned long)i, g->path);
            continue;
        }
        const bool special = type == TOKEN_CONTROL || type == TOKEN_USER || type == TOKEN_UNKNOWN;
        vocabulary_add(v, i, text, size, true);
        if (!special) v->tokens[i].size = pieces_to_spaces(v->tokens[i].bytes, size);
        if (special && size) vocabulary_add_special(v, i);
        v->tokens[i].apart = special;
    }
    v->space_first = !k->no_space;
    pieces_index(v, score, count);
    free(score);
}

void vocabulary_from_gguf(struct vocabulary *v, const char *path, const unsigned char *data, size_t size) {
    struct gguf g = {path, data, size, 0};
    struct keys k = {0};
    read_keys(&g, &k);
    const bool bytewise = k.model && same(k.model, k.model_size, "gpt2");
    if (!bytewise && !(k.model && same(k.model, k.model_size, "llama")))
        die("%s has a tokenizer of type \"%.*s\"; byte-level BPE (\"gpt2\") and SentencePiece's (\"llama\") are "
            "supported",
            path, k.model ? (int)k.model_size : 7, k.model ? k.model : "nothing");
    if (!k.tokens.count || k.tokens.type != TYPE_STRING || k.tokens.count >= NO_TOKEN) die("%s has no tokens", path);
    if (k.types.count && (k.types.count != k.tokens.count || k.types.type != TYPE_INT32))
        die("%s has another number of token types than of tokens", path);
    (bytewise ? read_bytewise : read_pieces)(v, &g, &k);
}
