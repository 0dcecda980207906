#include "vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "die.h"
#include "tokens.h"
#include "unicode.h"

#define CASELESS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const struct split_name split_names[] = {
    {SPLIT_GPT2, false, false, "gpt-2", NULL}, /* what ByteLevel of tokenizer.json does by itself */
    {SPLIT_DIGIT_GPT2, false, false, "smollm", NULL},
    {SPLIT_LLAMA3, true, false, "llama-bpe", CASELESS "\\p{N}{1,3}" REST},
    {SPLIT_LLAMA3, true, false, "llama3", NULL},
    {SPLIT_LLAMA3, true, false, "llama-v3", NULL},
    {SPLIT_QWEN2, false, true, "qwen2", CASELESS "\\p{N}" REST},
};
const size_t num_split_names = sizeof split_names / sizeof *split_names;

/* Byte-level BPE writes printable bytes as themselves and the others, in order, as U+0100, U+0101, ... (GPT-2's
 * bytes_to_unicode). */
static bool printable(unsigned byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* The byte that a character stands for, or -1. */
static int byte_of(uint32_t character) {
    if (character < 256) return printable(character) ? (int)character : -1;
    unsigned others = character - 256;
    for (unsigned byte = 0; byte < 256; byte++)
        if (!printable(byte) && others-- == 0) return (int)byte;
    return -1;
}

/* Decodes in place; false for what is not in that notation. */
static bool to_bytes(unsigned char *text, size_t *size) {
    size_t out = 0;
    for (size_t at = 0; at < *size;) {
        uint32_t c;
        at += utf8_decode(text + at, *size - at, &c);
        const int byte = byte_of(c);
        if (byte < 0) return false;
        text[out++] = (unsigned char)byte;
    }
    *size = out;
    return true;
}

uint64_t bytes_hash(const unsigned char *bytes, size_t size) {
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < size; i++)
        h = (h ^ bytes[i]) * 0x100000001B3u;
    return h ^ h >> 32;
}

void vocabulary_add(struct vocabulary *v, uint32_t number, const char *text, size_t size, bool literal) {
    if (number >= 1u << 24) die("the tokenizer has a token of number %lu", (unsigned long)number);
    if (number >= v->count) {
        const size_t count = number + 1u > 2 * v->count ? number + 1u : 2 * v->count;
        v->tokens = must_grow(v->tokens, count, sizeof *v->tokens);
        memset(v->tokens + v->count, 0, (count - v->count) * sizeof *v->tokens);
        v->count = count;
    }
    struct token_text *t = &v->tokens[number];
    if (t->bytes) return; /* an added token, whose text is literal */
    t->bytes = must_alloc(size + 1, 1);
    memcpy(t->bytes, text, size);
    t->size = size;
    /* What is not in the notation of bytes is an added token, whose text is literal. */
    if (!literal && !to_bytes(t->bytes, &t->size)) {
        memcpy(t->bytes, text, size);
        t->size = size;
    }
}

void vocabulary_add_special(struct vocabulary *v, uint32_t number) {
    v->specials = must_grow(v->specials, v->num_specials + 1, sizeof *v->specials);
    v->specials[v->num_specials++] = number;
    v->tokens[number].special = true;
}

void vocabulary_index(struct vocabulary *v) {
    while (v->count && !v->tokens[v->count - 1].bytes)
        v->count--;
    for (v->hash_size = 1024; v->hash_size < 2 * v->count;)
        v->hash_size *= 2;
    v->hash = must_alloc(v->hash_size, sizeof *v->hash);
    for (size_t i = 0; i < v->hash_size; i++)
        v->hash[i] = NO_TOKEN;
    for (uint32_t n = 0; n < v->count; n++) {
        const struct token_text *t = &v->tokens[n];
        if (!t->bytes || t->apart || vocabulary_find(v, t->bytes, t->size) != NO_TOKEN) continue;
        size_t at = (size_t)bytes_hash(t->bytes, t->size) & (v->hash_size - 1);
        while (v->hash[at] != NO_TOKEN)
            at = (at + 1) & (v->hash_size - 1);
        v->hash[at] = n;
    }
    for (unsigned i = 0; i < 256 && !v->order; i++) {
        const unsigned char byte = (unsigned char)i;
        v->bytes[i] = vocabulary_find(v, &byte, 1);
    }
}

uint32_t vocabulary_find(const struct vocabulary *v, const unsigned char *bytes, size_t size) {
    size_t at = (size_t)bytes_hash(bytes, size) & (v->hash_size - 1);
    for (; v->hash[at] != NO_TOKEN; at = (at + 1) & (v->hash_size - 1)) {
        const struct token_text *t = &v->tokens[v->hash[at]];
        if (t->size == size && memcmp(t->bytes, bytes, size) == 0) return v->hash[at];
    }
    return NO_TOKEN;
}

void vocabulary_merge(struct vocabulary *v, const char *left, size_t left_size, const char *right, size_t right_size) {
    unsigned char *both = must_alloc(left_size + right_size + 1, 1);
    size_t first = left_size, second = right_size;
    memcpy(both, left, left_size);
    bool good = to_bytes(both, &first);
    memcpy(both + first, right, right_size);
    good = good && to_bytes(both + first, &second);
    const struct merge m = {vocabulary_find(v, both, first), vocabulary_find(v, both + first, second),
                            vocabulary_find(v, both, first + second)};
    free(both);
    if (!good || m.left == NO_TOKEN || m.right == NO_TOKEN || m.result == NO_TOKEN)
        die("the tokenizer merges \"%.*s\" and \"%.*s\", of which one, or what they make, is no token", (int)left_size,
            left, (int)right_size, right);
    if ((v->num_merges & (v->num_merges + 1)) == 0) /* full at 0, 1, 3, 7, ... */
        v->merges = must_grow(v->merges, 2 * v->num_merges + 1, sizeof *v->merges);
    v->merges[v->num_merges++] = m;
}

void vocabulary_open(struct vocabulary *v, const char *path) {
    char inside[1024];
    struct stat s;
    struct token_file f;
    *v = (struct vocabulary){0};
    if (stat(path, &s) == 0 && S_ISDIR(s.st_mode)) {
        if (snprintf(inside, sizeof inside, "%s/tokenizer.json", path) >= (int)sizeof inside)
            die("the folder's name is too long");
        path = inside;
    }
    const char *problem = token_file_open(&f, path);
    if (problem) die("%s: %s", path, problem);
    if (f.size >= 4 && memcmp(f.base, "GGUF", 4) == 0) {
        vocabulary_from_gguf(v, path, f.base, f.size);
    } else {
        char *text = must_alloc(f.size + 1, 1);
        memcpy(text, f.base, f.size);
        text[f.size] = '\0';
        vocabulary_from_json(v, path, text, f.size);
        free(text);
    }
    token_file_close(&f);
}

void vocabulary_free(struct vocabulary *v) {
    for (size_t i = 0; i < v->count; i++)
        free(v->tokens[i].bytes);
    free(v->tokens);
    free(v->merges);
    free(v->specials);
    free(v->order);
    free(v->hash);
    *v = (struct vocabulary){0};
}
