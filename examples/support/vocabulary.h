/* The tokenizer of a model: byte-level BPE, from Hugging Face's tokenizer.json or the metadata of a GGUF file, or a BPE
 * model of SentencePiece from the latter. What is wrong with the file, or not supported, ends the program with a
 * sentence (die.h). */
#ifndef VOCABULARY_H
#define VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pretokenize.h"

#define NO_TOKEN UINT32_MAX

/* The bytes that a token stands for; NULL for numbers that no token has. Pieces of SentencePiece have spaces for its
 * U+2581. */
struct token_text {
    unsigned char *bytes;
    size_t size;
    bool special; /* found in a text before it is cut */
    bool apart;   /* nothing is merged into it: special pieces, and pieces that stand for bytes */
};

/* The pair left, right becomes result; lower places in the list go first. */
struct merge {
    uint32_t left, right, result;
};

struct vocabulary {
    struct token_text *tokens; /* [count], by number */
    size_t count;
    struct merge *merges;
    size_t num_merges;
    uint32_t *specials;
    size_t num_specials;
    uint32_t bytes[256]; /* tokens of single bytes */
    uint32_t *order;     /* [count], of SentencePiece: neighbours that are together a piece become it, the piece of the
                            least order first; NULL: merges say what becomes of what */
    bool space_first;    /* a text, and what follows a special token, gets a space before it */
    enum split split;
    bool whole_words; /* a word that is a token is that token, whatever merges say */
    bool compose;     /* texts are brought into normalization form C first */
    uint32_t *hash;   /* numbers of tokens by their bytes, open addressing; hash_size is a power of two */
    size_t hash_size;
};

void vocabulary_open(struct vocabulary *v, const char *path);
void vocabulary_free(struct vocabulary *v);

/* The token of these bytes, or NO_TOKEN. */
uint32_t vocabulary_find(const struct vocabulary *v, const unsigned char *bytes, size_t size);

/* FNV-1a. */
uint64_t bytes_hash(const unsigned char *bytes, size_t size);

/* ---- For the two readers, vocabulary_json.c and vocabulary_gguf.c ---------------------------------------------------
 */

/* What either knows a way of cutting by: a regular expression in tokenizer.json, a name in GGUF; NULL: has none. */
struct split_name {
    enum split split;
    bool whole_words, compose; /* where GGUF does not say so itself */
    const char *gguf, *regex;
};
extern const struct split_name split_names[];
extern const size_t num_split_names;

/* Sets token `number` to a text: as it is, or in the notation of byte-level BPE, a character for each byte. Text that
 * is not in that notation is literal. */
void vocabulary_add(struct vocabulary *v, uint32_t number, const char *text, size_t size, bool literal);
void vocabulary_add_special(struct vocabulary *v, uint32_t number);
/* After all tokens: what vocabulary_find needs, and bytes where `order` is NULL; then merges, by the parts in the
 * notation of byte-level BPE. */
void vocabulary_index(struct vocabulary *v);
void vocabulary_merge(struct vocabulary *v, const char *left, size_t left_size, const char *right, size_t right_size);

void vocabulary_from_json(struct vocabulary *v, const char *path, char *text, size_t size);
void vocabulary_from_gguf(struct vocabulary *v, const char *path, const unsigned char *data, size_t size);

#endif
