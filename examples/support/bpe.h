/* Byte-level BPE, and SentencePiece's: a text to tokens. */
#ifndef BPE_H
#define BPE_H

#include "vocabulary.h"

struct bpe;

/* Receives tokens in order. */
typedef void (*bpe_sink)(void *user_data, const uint32_t *tokens, size_t count);

/* What encoding needs beside the vocabulary, which must stay. */
struct bpe *bpe_create(const struct vocabulary *v);
void bpe_destroy(struct bpe *b);

/* Encodes text[size]. Returns how many bytes were left out because the vocabulary has no token for them. */
size_t bpe_encode(struct bpe *b, const unsigned char *text, size_t size, bpe_sink sink, void *user_data);

#endif
