/* tokenizer.json of Hugging Face's `tokenizers`: byte-level BPE. Its text stays in memory as it is, with the place of
 * each token in it. */
#ifndef DQT_IO_TOKENIZER_JSON_H
#define DQT_IO_TOKENIZER_JSON_H

#include "io/stream.h"

enum { TOKEN_ROOM = 2048 /* of a token or merge and its NUL; the longest of known models have some 300 bytes */ };

/* Of tokens, in GGUF files (tokenizer.ggml.token_type); 0: there is none. */
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE };

struct tokenizer {
    dqt_context *ctx;
    const char *text; /* NULL: none */
    size_t length;
    char *read;           /* the text, where it was read from a file */
    size_t *places;       /* [vocab] of the tokens' strings; 0: no such token */
    unsigned char *types; /* [vocab] */
    size_t vocab, bytes;  /* of the block that begins with places */
    size_t merges, num_merges;
    const char *pre; /* llama.cpp's name of the pre-tokenizer */
};

/* From a file, or with path NULL from text[length], which must stay. `pre`: the name of the pre-tokenizer, if the host
 * says it; else it is told by what the text says of pre-tokenizer, normalizer and merging. DQT_E_UNSUPPORTED names what
 * is not byte-level BPE, or has no known name; DQT_E_FORMAT: damaged, or more tokens than `vocab`. On failure too it is
 * to be closed. */
dqt_status tokenizer_open(dqt_context *ctx, const char *path, const char *text, size_t length, size_t vocab,
                          const char *pre, struct tokenizer *out);
void tokenizer_close(struct tokenizer *t);

/* Of a number that no token has, as llama.cpp's converter calls it: "[PAD7]", unused. */
dqt_status tokenizer_token(const struct tokenizer *t, size_t i, char out[TOKEN_ROOM]);
int tokenizer_type(const struct tokenizer *t, size_t i);
/* All merges, "left right", as GGUF strings; sink NULL: they are checked. */
dqt_status tokenizer_each_merge(struct tokenizer *t, struct sink *sink);

#endif
