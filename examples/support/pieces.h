/* BPE models of SentencePiece (Llama 2, TinyLlama, Mistral): pieces have scores instead of merges, U+2581 is a space,
 * and characters that no piece has become pieces of bytes, <0x00> to <0xFF>. As llama.cpp does it: src/llama-vocab.cpp,
 * llm_tokenizer_spm. */
#ifndef PIECES_H
#define PIECES_H

#include "vocabulary.h"

/* Puts spaces in place of U+2581, in place; returns the bytes that are left. */
size_t pieces_to_spaces(unsigned char *text, size_t size);

/* Sets token `number` to the byte that <0xXX> names; false: the text is not of that kind. */
bool pieces_add_byte(struct vocabulary *v, uint32_t number, const char *text, size_t size);

/* After all pieces: their order by score, how a text is cut, and what vocabulary_find needs. */
void pieces_index(struct vocabulary *v, const float *scores, size_t count);

#endif
