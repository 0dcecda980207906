/* What a foreign file says of its model: the keys of config.json or of GGUF that this library asks for, by one table.
 */
#ifndef DQT_IO_FACTS_H
#define DQT_IO_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum fact_kind { FACT_ABSENT /* or null */, FACT_BOOL, FACT_NUMBER, FACT_TEXT, FACT_OTHER /* an object or array */ };
enum { FACT_TEXT_BYTES = 64 };

struct fact {
    enum fact_kind kind;
    const char *key;            /* as the file calls it */
    double number;              /* of a BOOL 0 or 1 */
    char text[FACT_TEXT_BYTES]; /* cut off */
};

enum fact_name {
    ARCHITECTURE,
    VOCAB_SIZE,
    HIDDEN_SIZE,
    INTERMEDIATE_SIZE,
    NUM_LAYERS,
    NUM_HEADS,
    NUM_KV_HEADS,
    HEAD_DIM,
    VALUE_DIM,
    ROTARY_DIM,
    ROTARY_FACTOR,
    NORM_EPS,
    ROPE_THETA,
    ROPE_TYPE,
    ROPE_FACTOR,
    ROPE_LOW_FACTOR,
    ROPE_HIGH_FACTOR,
    ROPE_ORIGINAL_LENGTH,
    TIE_EMBEDDINGS,
    MAX_LENGTH,
    SLIDING_WINDOW,
    USE_SLIDING_WINDOW,
    LAYER_TYPES,
    HIDDEN_ACT,
    ATTENTION_BIAS,
    MLP_BIAS,
    NUM_EXPERTS,
    QUANTIZATION,
    QUANTIZATION_CLASS,
    QUANTIZATION_MODE,
    QUANTIZATION_EXCEPT,
    QUANTIZATION_NORMS,
    FILE_ALIGNMENT,
    NUM_FACTS
};

struct facts {
    bool gguf;
    struct fact list[NUM_FACTS];
};

/* The fact that a key of config.json ("rope_scaling.factor" inside an object) or of a GGUF file ("llama.block_count")
 * is about; NULL: none that is asked for. */
struct fact *fact_of_key(struct facts *facts, const char *key);

/* DQT_E_UNSUPPORTED that names key and value; `why` says what would be right. */
dqt_status fact_refuse(const dqt_context *ctx, const struct facts *facts, enum fact_name name, const char *why);

/* Reads config.json; `text` is its content. */
dqt_status facts_read_json(const dqt_context *ctx, const char *text, size_t length, struct facts *facts);

#endif
