/* GGUF files of the llama and bitnet architectures, as llama.cpp reads them (ggml/include/gguf.h, llama-model.cpp). */
#ifndef DQT_IO_GGUF_H
#define DQT_IO_GGUF_H

#include "format/half.h"
#include "io/stream.h"
#include "model/llama.h"

/* Blocks of ggml-common.h, with their fp16 scale `d`. q[TQ_BLOCK or Q_BLOCK] holds codes, one per weight; out has the
 * block's bytes. */
enum {
    TQ_BLOCK = 256,
    Q_BLOCK = 32,
    TQ2_0_BYTES = 66,
    TQ1_0_BYTES = 54,
    Q4_0_BYTES = 18,
    Q5_0_BYTES = 22,
    Q8_0_BYTES = 34
};
void pack_tq2_0(const int8_t *q, uint16_t d, unsigned char *out);
void pack_tq1_0(const int8_t *q, uint16_t d, unsigned char *out);
void pack_q4_0(const int8_t *q, uint16_t d, unsigned char *out);
void pack_q5_0(const int8_t *q, uint16_t d, unsigned char *out);
void pack_q8_0(const int8_t *q, uint16_t d, unsigned char *out);

/* Keys of a GGUF file go to a sink, byte by byte, and are counted: those that `wanted` says. `tokens` is the number of
 * its tokenizer's tokens, 0: it has none. sink NULL: only counting. */
struct gguf_keys {
    const char *path;
    bool (*wanted)(void *arg, const char *key);
    void *arg;
    uint64_t count, tokens;
};
dqt_status gguf_copy_keys(dqt_context *ctx, struct gguf_keys *keys, struct sink *sink);

/* Only counts them; DQT_E_ARGUMENT unless the file has so many tokens. */
dqt_status gguf_count_keys(dqt_context *ctx, struct gguf_keys *keys, size_t tokens);

/* `o` is complete. DQT_E_UNSUPPORTED or DQT_E_ARGUMENT for what such a file cannot express; then nothing is written. */
dqt_status gguf_write(const dqt_llama *model, const dqt_gguf_options *o, dqt_write_fn write, void *user_data);

#endif
