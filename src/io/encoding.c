#include "io/encoding.h"

#include "dqt.h"

static const struct encoding encodings[] = {
    {"F32", 0, 1, 4, DQT_FORMAT_F32, decode_f32, NULL},
    {"F16", 1, 1, 2, DQT_FORMAT_F32, decode_f16, NULL},
    {"BF16", 30, 1, 2, DQT_FORMAT_BF16, decode_bf16, NULL},
    {"Q4_0", 2, 32, 18, DQT_FORMAT_INT4, decode_q4_0, codes_q4_0},
    {"Q4_1", 3, 32, 20, DQT_FORMAT_F32, decode_q4_1, NULL},
    {"Q5_0", 6, 32, 22, DQT_FORMAT_INT5, decode_q5_0, codes_q5_0},
    {"Q5_1", 7, 32, 24, DQT_FORMAT_F32, decode_q5_1, NULL},
    {"Q8_0", 8, 32, 34, DQT_FORMAT_INT8, decode_q8_0, codes_q8_0},
    {"Q2_K", 10, 256, 84, DQT_FORMAT_F32, decode_q2_k, NULL},
    {"Q3_K", 11, 256, 110, DQT_FORMAT_F32, decode_q3_k, NULL},
    {"Q4_K", 12, 256, 144, DQT_FORMAT_F32, decode_q4_k, NULL},
    {"Q5_K", 13, 256, 176, DQT_FORMAT_F32, decode_q5_k, NULL},
    {"Q6_K", 14, 256, 210, DQT_FORMAT_F32, decode_q6_k, NULL},
    {"TQ1_0", 34, 256, 54, DQT_FORMAT_TERNARY, decode_tq1_0, codes_tq1_0},
    {"TQ2_0", 35, 256, 66, DQT_FORMAT_TERNARY, decode_tq2_0, codes_tq2_0},
    /* known by name only */
    {.name = "Q8_1", .gguf = 9},
    {.name = "Q8_K", .gguf = 15},
    {.name = "IQ2_XXS", .gguf = 16},
    {.name = "IQ2_XS", .gguf = 17},
    {.name = "IQ3_XXS", .gguf = 18},
    {.name = "IQ1_S", .gguf = 19},
    {.name = "IQ4_NL", .gguf = 20},
    {.name = "IQ3_S", .gguf = 21},
    {.name = "IQ2_S", .gguf = 22},
    {.name = "IQ4_XS", .gguf = 23},
    {.name = "I8", .gguf = 24},
    {.name = "I16", .gguf = 25},
    {.name = "I32", .gguf = 26},
    {.name = "I64", .gguf = 27},
    {.name = "F64", .gguf = 28},
    {.name = "IQ1_M", .gguf = 29},
    {.name = "MXFP4", .gguf = 39},
};

const struct encoding encoding_packed = {"U8", -1, 1, 1, DQT_FORMAT_TERNARY, NULL, NULL};

const struct encoding *encoding_of_gguf(uint32_t type) {
    for (size_t i = 0; i < sizeof encodings / sizeof *encodings; i++)
        if ((uint32_t)encodings[i].gguf == type) return &encodings[i];
    return NULL;
}
