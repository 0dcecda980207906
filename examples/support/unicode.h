/* What a tokenizer needs of Unicode: UTF-8, three classes of characters, and canonical composition. */
#ifndef UNICODE_H
#define UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* \p{L}, \p{N}, \s, and what is none of them; unicode_table.h has these numbers. */
enum { CLASS_OTHER = 0, CLASS_LETTER = 1, CLASS_NUMBER = 2, CLASS_SPACE = 3 };

/* A byte that is no UTF-8 counts as a character of its own: this and the byte. It is of CLASS_OTHER. */
enum { NOT_UTF8 = 0x110000 };

/* The character at p[0..size), size at least 1; returns its bytes. */
size_t utf8_decode(const unsigned char *p, size_t size, uint32_t *character);
/* Writes at most 4 bytes and returns how many. */
size_t utf8_encode(uint32_t character, unsigned char *out);

int unicode_class(uint32_t character);

/* Normalization form C of text[size] in a buffer that the caller frees; NULL where there is no memory. */
unsigned char *unicode_nfc(const unsigned char *text, size_t size, size_t *out_size);

#endif
