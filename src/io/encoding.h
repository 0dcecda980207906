/* How files store weights: one table of the types of GGUF and safetensors that are read, with how a block of each
 * becomes floats. */
#ifndef DQT_IO_ENCODING_H
#define DQT_IO_ENCODING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LARGEST_BLOCK = 256 /* weights */ };

struct encoding {
    const char *name;
    int gguf;     /* number of the type in GGUF files (ggml.h, enum ggml_type); -1: none */
    size_t block; /* weights of a block; a row is whole blocks */
    size_t bytes; /* of a block */
    int32_t kept; /* DQT_FORMAT_* that holds such weights exactly: where there are codes, with a scale for each block */
    /* A block to out[block]; false for bytes that mean no weights. NULL: the type cannot be read. */
    bool (*decode)(const unsigned char *in, float *out);
    /* A block to q[block] and their scale, fp16; false as above. NULL: not of this kind. */
    bool (*codes)(const unsigned char *in, int8_t *q, uint16_t *scale);
};

/* NULL: no such type. Types that are known and cannot be read have no decode. */
const struct encoding *encoding_of_gguf(uint32_t type);
/* Four ternary weights a byte, as Hugging Face packs BitNet's: byte row r of n has the weights' rows r, r + n, r + 2n,
 * r
 * + 3n, in pairs of bits from the lowest, as weight + 1. */
extern const struct encoding encoding_packed;

bool decode_f32(const unsigned char *in, float *out);
bool decode_f16(const unsigned char *in, float *out);
bool decode_bf16(const unsigned char *in, float *out);
bool codes_q4_0(const unsigned char *in, int8_t *q, uint16_t *scale);
bool decode_q4_0(const unsigned char *in, float *out);
bool decode_q4_1(const unsigned char *in, float *out);
bool codes_q5_0(const unsigned char *in, int8_t *q, uint16_t *scale);
bool decode_q5_0(const unsigned char *in, float *out);
bool decode_q5_1(const unsigned char *in, float *out);
bool codes_q8_0(const unsigned char *in, int8_t *q, uint16_t *scale);
bool decode_q8_0(const unsigned char *in, float *out);
bool decode_q2_k(const unsigned char *in, float *out);
bool decode_q3_k(const unsigned char *in, float *out);
bool decode_q4_k(const unsigned char *in, float *out);
bool decode_q5_k(const unsigned char *in, float *out);
bool decode_q6_k(const unsigned char *in, float *out);
bool codes_tq1_0(const unsigned char *in, int8_t *q, uint16_t *scale);
bool decode_tq1_0(const unsigned char *in, float *out);
bool codes_tq2_0(const unsigned char *in, int8_t *q, uint16_t *scale);
bool decode_tq2_0(const unsigned char *in, float *out);

#endif
