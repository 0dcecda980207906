/* Tokens to train on: the bytes of a text, or a file of 16-bit or 32-bit tokens as nanoGPT and llm.c write them, split
 * into training and held-out parts; and windows of them, drawn by counter. */
#ifndef TOKENS_H
#define TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "args.h"

/* Where tokens come from, as options say it. */
struct token_source {
    const char *train;  /* of tokens: "train.bin" or "train.bin,valid.bin" */
    const char *valid;  /* held-out part; NULL: the last tenth of `train` */
    int bytes;          /* of a token: 1 (a text), 2 or 4; files with llm.c's header know better */
    int document_token; /* this token begins a document; negative: all is one */
    bool whole;         /* nothing is held out: both parts are all of `train` */
};

/* A part: little-endian numbers of `width` bytes each. */
struct token_array {
    const unsigned char *data;
    size_t count, width;
};

/* All bytes of a file: mapped, so that it may be larger than memory; what is not a regular file is read. */
struct token_file {
    void *base;
    size_t size;
    bool mapped;
};

/* NULL, or a sentence. */
const char *token_file_open(struct token_file *f, const char *path);
void token_file_close(struct token_file *f);

struct tokens {
    struct token_array train, valid;
    int document_token;
    struct token_file files[2];
};

/* --tokens, --valid, --token-bytes, --document-token; returns how many were written to `table`. */
size_t token_args(struct token_source *s, struct arg *table);
enum { TOKEN_ARGS = 4 };

/* Opens the parts; each holds at least `length` + 1 tokens. Returns NULL or a sentence about what is wrong, and then *t
 * is empty. Little-endian uint16 or uint32 numbers, with or without llm.c's
 * header of 256 int32 (magic 20240520 version 1: uint16; 20240801 version 7: uint32). */
const char *tokens_open(struct tokens *t, const struct token_source *s, size_t length);
void tokens_close(struct tokens *t);

/* 256 for bytes, else one more than the largest token of both parts, which are read once for it. */
size_t tokens_vocabulary(const struct tokens *t);

/* Token `index` of a part. */
int32_t token_at(const struct token_array *a, size_t index);

/* Room for [batch][length] tokens with their targets (the tokens one further on) and, where documents are separated,
 * the number of the document that each token is of (else NULL): see dqt_batch. */
struct windows {
    int32_t *tokens, *targets, *segments;
    size_t length;
};

bool windows_create(struct windows *w, const struct tokens *t, size_t batch, size_t length);
void windows_free(struct windows *w);

/* Sets window `row` to the tokens of `part` from `first` on. */
void windows_set(struct windows *w, const struct tokens *t, const struct token_array *part, size_t row, size_t first);

/* Random windows of the training part, from number `first` on of those of a step: a function of (seed, step, number)
 * alone, so that a resumed run sees the same data. */
void windows_draw(struct windows *w, const struct tokens *t, uint64_t seed, uint64_t step, size_t first, size_t count);

/* Sets window `row` to number `index` of `count` held-out windows: of a text they are spaced evenly over it, of tokens
 * they are the first, one after another, as perplexity is usually measured. */
void windows_held_out(struct windows *w, const struct tokens *t, size_t row, size_t index, size_t count);
/* The largest `count`. */
size_t windows_most(const struct tokens *t, size_t length);

#endif
