/* Pre-tokenizers: how BPE cuts a text into words, inside which merges happen. */
#ifndef PRETOKENIZE_H
#define PRETOKENIZE_H

#include <stddef.h>

enum split {
    SPLIT_NONE,       /* one word */
    SPLIT_SPACES,     /* SentencePiece: a word is its spaces and what follows up to the next space */
    SPLIT_GPT2,       /* GPT-2 */
    SPLIT_DIGIT_GPT2, /* SmolLM: each digit is a word, the rest is cut as GPT-2 does */
    SPLIT_LLAMA3,     /* Llama 3: digits by threes */
    SPLIT_QWEN2       /* Qwen 2 and 3: digits one by one */
};

/* Bytes of the word that text[0..size) begins with, 1 to size; size at least 1. What one call returns is the next one's
 * beginning. */
size_t pretokenize(enum split split, const unsigned char *text, size_t size);

#endif
