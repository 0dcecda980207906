/* The head of a GGUF file: what it says of the model, its tokenizer, what a source said, and the host's own keys. */
#ifndef DQT_IO_GGUF_KEYS_H
#define DQT_IO_GGUF_KEYS_H

#include "io/gguf.h"
#include "io/tokenizer_json.h"

/* Numbers of value types, in files and in the interface. */
enum {
    VALUE_U32 = DQT_GGUF_VALUE_UINT32,
    VALUE_I32 = DQT_GGUF_VALUE_INT32,
    VALUE_F32 = DQT_GGUF_VALUE_FLOAT32,
    VALUE_BOOL = DQT_GGUF_VALUE_BOOL,
    VALUE_STRING = DQT_GGUF_VALUE_STRING,
    VALUE_ARRAY = DQT_GGUF_VALUE_STRINGS /* in files of anything */
};

enum { GGUF_KEY_ROOM = 128 /* of a key and its NUL: what gguf_copy_keys reads again */ };

/* Keys of a GGUF file go to a sink, byte by byte, and are counted: those that `wanted` says. `tokens` is the number of
 * its tokenizer's tokens, 0: it has none. sink NULL: only counting. */
struct gguf_keys {
    const char *path;
    bool (*wanted)(void *arg, const char *key);
    void *arg;
    uint64_t count, tokens;
};
dqt_status gguf_copy_keys(dqt_context *ctx, struct gguf_keys *keys, struct sink *sink);

struct gguf_head {
    const dqt_llama *model;
    const dqt_gguf_options *options;
    const struct gguf_architecture *architecture;
    uint32_t file_type;
    /* set by head_open */
    struct tokenizer tokenizer; /* of a tokenizer.json; text NULL: none */
    struct gguf_keys source;    /* path NULL: none */
    bool source_length;         /* it says the context's length */
    uint64_t total;             /* keys of the file */
    /* of one pass */
    struct sink *sink;
    uint64_t count; /* keys that the library wrote itself */
    size_t same;    /* of the host's, the number of one that it wrote too; SIZE_MAX: none */
};

/* Checks what the options say of keys and tokens, and reads what they name; counts with `sink`, which goes nowhere. The
 * first four members are set. What was opened is closed by head_close, whatever the status. */
dqt_status head_open(struct gguf_head *h, struct sink *sink);
/* The number of keys, and the keys. */
dqt_status head_write(struct gguf_head *h, struct sink *sink);
void head_close(struct gguf_head *h);

dqt_status gguf_put_string(struct sink *s, const char *text);
/* Keys go out through these, which count them and compare them with the host's. */
dqt_status head_put_string(struct gguf_head *h, const char *key, const char *text);
dqt_status head_put_number(struct gguf_head *h, const char *key, unsigned type, uint64_t bits);
/* count elements follow. */
dqt_status head_put_array(struct gguf_head *h, const char *key, unsigned type, size_t count);

/* Tokens, gguf_tokens.c. */
dqt_status head_open_tokens(struct gguf_head *h);
dqt_status head_write_tokens(struct gguf_head *h);

#endif
