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

/* Architectures of llama.cpp, by what their blocks have. */
struct gguf_architecture {
    const char *name;
    bool sub_norms, biases, head_norms;
    bool neighbours; /* rotates neighbours, where libdqt rotates halves */
    bool any_heads;  /* a head size of its own */
    bool factors;    /* frequencies may have factors, one by one */
};
/* NULL: there is none. */
const struct gguf_architecture *gguf_architecture_of(const dqt_llama_config *c);
/* The one whose keys begin as this one does; *rest is what follows its name and a dot. NULL: none. */
const struct gguf_architecture *gguf_architecture_of_key(const char *key, const char **rest);

/* `o` is complete. DQT_E_UNSUPPORTED or DQT_E_ARGUMENT for what such a file cannot express; then nothing is written. */
dqt_status gguf_write(const dqt_llama *model, const dqt_gguf_options *o, dqt_write_fn write, void *user_data);

#endif
