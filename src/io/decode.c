/* Blocks of GGUF files to floats: the layouts of ggml-common.h, the operations and their order of ggml-quants.c. A
 * block of 32 or 256 weights has fp16 numbers, little-endian; q are its codes. */
#include "format/format.h"
#include "format/half.h"
#include "io/encoding.h"
#include "io/stream.h"

static float half_at(const unsigned char *in) {
    return f16_to_f32((uint16_t)get_le(in, 2));
}

bool decode_f32(const unsigned char *in, float *out) {
    *out = f32_from_bits((uint32_t)get_le(in, 4));
    return true;
}

bool decode_f16(const unsigned char *in, float *out) {
    *out = half_at(in);
    return true;
}

bool decode_bf16(const unsigned char *in, float *out) {
    *out = bf16_to_f32((uint16_t)get_le(in, 2));
    return true;
}

/* ---- 32 weights ---------------------------------------------------------------------------------------------- */

/* Weight k of 16 bytes of nibbles: the low ones first. */
static int nibble(const unsigned char *q, int k) {
    return k < 16 ? q[k] & 15 : q[k - 16] >> 4;
}

/* Codes times their scale. */
static bool decode_codes(bool (*codes)(const unsigned char *in, int8_t *q, uint16_t *scale), size_t count,
                         const unsigned char *in, float *out) {
    int8_t q[LARGEST_BLOCK];
    uint16_t scale;
    const bool valid = codes(in, q, &scale);
    const float d = f16_to_f32(scale);
    for (size_t k = 0; k < count; k++)
        out[k] = (float)q[k] * d;
    return valid;
}

bool codes_q4_0(const unsigned char *in, int8_t *q, uint16_t *scale) {
    *scale = (uint16_t)get_le(in, 2);
    for (int k = 0; k < 32; k++)
        q[k] = (int8_t)(nibble(in + 2, k) - 8);
    return true;
}

bool decode_q4_0(const unsigned char *in, float *out) {
    return decode_codes(codes_q4_0, 32, in, out);
}

bool decode_q4_1(const unsigned char *in, float *out) {
    const float d = half_at(in), m = half_at(in + 2);
    for (int k = 0; k < 32; k++)
        out[k] = (float)nibble(in + 4, k) * d + m;
    return true;
}

bool codes_q5_0(const unsigned char *in, int8_t *q, uint16_t *scale) {
    const uint32_t fifth = (uint32_t)get_le(in + 2, 4);
    *scale = (uint16_t)get_le(in, 2);
    for (int k = 0; k < 32; k++)
        q[k] = (int8_t)(nibble(in + 6, k) + (int)(fifth >> k & 1) * 16 - 16);
    return true;
}

bool decode_q5_0(const unsigned char *in, float *out) {
    return decode_codes(codes_q5_0, 32, in, out);
}

bool decode_q5_1(const unsigned char *in, float *out) {
    const float d = half_at(in), m = half_at(in + 2);
    const uint32_t fifth = (uint32_t)get_le(in + 4, 4);
    for (int k = 0; k < 32; k++)
        out[k] = (float)(nibble(in + 8, k) + (int)(fifth >> k & 1) * 16) * d + m;
    return true;
}

static int signed_byte(unsigned char byte) {
    return byte < 128 ? byte : byte - 256;
}

bool codes_q8_0(const unsigned char *in, int8_t *q, uint16_t *scale) {
    *scale = (uint16_t)get_le(in, 2);
    for (int k = 0; k < 32; k++)
        q[k] = (int8_t)signed_byte(in[2 + k]);
    return true;
}

bool decode_q8_0(const unsigned char *in, float *out) {
    return decode_codes(codes_q8_0, 32, in, out);
}

/* ---- 256 weights, with scales of their own for each 16 or 32 --------------------------------------------------- */

/* Two bits of weight k: 32 bytes hold 128 weights, 32 in each pair of bits. */
static int crumb(const unsigned char *q, int k) {
    return q[k / 128 * 32 + k % 32] >> k % 128 / 32 * 2 & 3;
}

bool decode_q2_k(const unsigned char *in, float *out) {
    const unsigned char *scales = in, *q = in + 16;
    const float d = half_at(in + 80), m = half_at(in + 82);
    for (int k = 0; k < 256; k++) {
        const int sub = scales[k / 16];
        out[k] = d * (float)(sub & 15) * (float)crumb(q, k) - m * (float)(sub >> 4);
    }
    return true;
}

bool decode_q3_k(const unsigned char *in, float *out) {
    const unsigned char *high = in, *q = in + 32, *scales = in + 96;
    const float d = half_at(in + 108);
    for (int k = 0; k < 256; k++) {
        const int i = k / 16, low4 = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
        const int scale = low4 | (scales[8 + i % 4] >> i / 4 * 2 & 3) << 4;
        const int code = crumb(q, k) - (high[k % 32] >> k / 32 & 1 ? 0 : 4);
        out[k] = d * (float)(scale - 32) * (float)code;
    }
    return true;
}

/* Scale and minimum of 32 weights, 6 bits each, 8 pairs in 12 bytes. */
static void scale_and_minimum(const unsigned char *in, int i, int *scale, int *minimum) {
    *scale = i < 4 ? in[i] & 63 : (in[i + 4] & 15) | in[i - 4] >> 6 << 4;
    *minimum = i < 4 ? in[i + 4] & 63 : in[i + 4] >> 4 | in[i] >> 6 << 4;
}

/* Four bits of weight k: 32 bytes hold 64 weights. */
static int long_nibble(const unsigned char *q, int k) {
    return q[k / 64 * 32 + k % 32] >> k % 64 / 32 * 4 & 15;
}

/* high: 32 bytes with a fifth bit of each weight, or NULL. */
static void decode_k(const unsigned char *in, const unsigned char *high, const unsigned char *q, float *out) {
    const float d = half_at(in), m = half_at(in + 2);
    for (int k = 0; k < 256; k++) {
        int scale, minimum, code = long_nibble(q, k);
        if (high) code += (high[k % 32] >> k / 32 & 1) * 16;
        scale_and_minimum(in + 4, k / 32, &scale, &minimum);
        out[k] = d * (float)scale * (float)code - m * (float)minimum;
    }
}

bool decode_q4_k(const unsigned char *in, float *out) {
    decode_k(in, NULL, in + 16, out);
    return true;
}

bool decode_q5_k(const unsigned char *in, float *out) {
    decode_k(in, in + 16, in + 48, out);
    return true;
}

bool decode_q6_k(const unsigned char *in, float *out) {
    const unsigned char *low = in, *high = in + 128, *scales = in + 192;
    const float d = half_at(in + 208);
    for (int k = 0; k < 256; k++) {
        /* 128 weights: nibbles of 64 bytes, the low ones of all first; two bits of 32 bytes */
        const int half = k / 128, at = k % 128;
        const int low4 = low[64 * half + at % 64] >> at / 64 * 4 & 15;
        const int high2 = high[32 * half + at % 32] >> at / 32 * 2 & 3;
        out[k] = d * (float)signed_byte(scales[k / 16]) * (float)((low4 | high2 << 4) - 32);
    }
    return true;
}

/* ---- Ternary ------------------------------------------------------------------------------------------------- */

/* The code of number n of v = trits / 243 of a byte, rounded up, most significant first. */
static int8_t trit(unsigned v, int n) {
    static const unsigned power[] = {1, 3, 9, 27, 81};
    return (int8_t)((int)((v * power[n] & 255) * 3 >> 8) - 1);
}

bool codes_tq1_0(const unsigned char *in, int8_t *q, uint16_t *scale) {
    *scale = (uint16_t)get_le(in + 52, 2);
    for (int k = 0; k < 160; k++)
        q[k] = trit(in[k % 32], k / 32);
    for (int k = 0; k < 80; k++)
        q[160 + k] = trit(in[32 + k % 16], k / 16);
    for (int k = 0; k < 16; k++)
        q[240 + k] = trit(in[48 + k % 4], k / 4);
    return true;
}

bool decode_tq1_0(const unsigned char *in, float *out) {
    return decode_codes(codes_tq1_0, 256, in, out);
}

bool codes_tq2_0(const unsigned char *in, int8_t *q, uint16_t *scale) {
    bool valid = true;
    *scale = (uint16_t)get_le(in + 64, 2);
    for (int k = 0; k < 256; k++) {
        const int field = crumb(in, k);
        valid = valid && field != 3;
        q[k] = (int8_t)(field - 1);
    }
    return valid;
}

bool decode_tq2_0(const unsigned char *in, float *out) {
    return decode_codes(codes_tq2_0, 256, in, out);
}
