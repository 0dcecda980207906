/* Part of kernels/update_template.h: the codecs of states, chunk by chunk.
 *
 * decode_*(in, n, ...): the first n columns, the rest of the chunk zeros; encode_*(values, n, words, ...): rounded
 * stochastically with one random word per column. */
#ifndef DQT_KERNELS_UPDATE_STATES_H
#define DQT_KERNELS_UPDATE_STATES_H

static void decode_bf16(const uint16_t *in, size_t n, float *restrict out) {
    uint16_t half[CHUNK] = {0};
    uint32_t bits[CHUNK];
    memcpy(half, in, n * sizeof *half);
    for (int k = 0; k < CHUNK; k++)
        bits[k] = (uint32_t)half[k] << 16;
    memcpy(out, bits, sizeof bits);
}

/* Stochastic, f32_to_bf16_stochastic in every lane. keep: a positive number never becomes 0. */
static void encode_bf16(const float *in, size_t n, const uint32_t *words, bool keep, uint16_t *out) {
    uint32_t bits[CHUNK];
    uint16_t half[CHUNK];
    memcpy(bits, in, sizeof bits);
    for (int k = 0; k < CHUNK; k++) {
        const uint32_t special = (bits[k] & 0x7f800000u) == 0x7f800000u;
        uint32_t h = (bits[k] + (special ? 0u : words[k] >> 16)) >> 16;
        h |= (uint32_t)(special && (bits[k] & 0x7fffffu)) << 6;
        half[k] = (uint16_t)h;
    }
    if (keep) {
        for (int k = 0; k < CHUNK; k++)
            half[k] = (uint16_t)(half[k] | (half[k] == 0 && bits[k] != 0));
    }
    memcpy(out, half, n * sizeof *half);
}

/* First moments in 8 bits: x = sign(z) * z^2 * a with z = code / 127, a = max|x| of the chunk. */
static void decode_signed(const int8_t *in, size_t n, float a, float *restrict out) {
    int8_t code[CHUNK] = {0};
    memcpy(code, in, n);
    for (int k = 0; k < CHUNK; k++) {
        const float z = (float)code[k] * (1.0f / 127.0f);
        out[k] = z * fabsf(z) * a;
    }
}

#ifndef UPDATE_ENCODE_SIGNED
/* Stochastic between the neighbours of |x| among the values (code / 127)^2 * a, with the probability that keeps the
 * mean of x (not of z: where |x| is 1e-4 of a the mean of z^2 would be 1.2 times x, at 1e-6 it would be 17 times). y =
 * |x| in units of a / 127^2; code + 1 is (2 code + 1) above code. */
static void encode_signed(const float *in, size_t n, const uint32_t *words, float *scale, int8_t *out) {
    float y[CHUNK], root[CHUNK]; /* one loop each: merged, the compiler finds branches instead of vectors */
    int32_t codes[CHUNK];
    int8_t code[CHUNK];
    float a = largest(in);
    a = a > 1e-30f ? a : 1e-30f;
    a = a < 0x1p120f ? a : 0x1p120f;
    const float units = 16129.0f / a;
    for (int k = 0; k < CHUNK; k++)
        y[k] = clamp_float(fabsf(in[k]) * units, 0.0f, 16129.0f);
    for (int k = 0; k < CHUNK; k++)
        root[k] = clamp_float(sqrtf(y[k]), 0.0f, 126.0f);
    for (int k = 0; k < CHUNK; k++) {
        const int32_t below = (int32_t)root[k];
        const float low = (float)below, gap = 2.0f * low + 1.0f;
        codes[k] = below + ((y[k] - low * low) + uniform01(words[k]) * gap >= gap);
    }
    for (int k = 0; k < CHUNK; k++)
        code[k] = (int8_t)(in[k] < 0.0f ? -codes[k] : codes[k]);
    *scale = a;
    memcpy(out, code, n);
}
#endif

/* Second moments in 8 bits: v = z^4 * a with z = code / 255, a = max v of the chunk. */
static inline float fourth(float code) {
    const float z = code * (1.0f / 255.0f);
    return (z * z) * (z * z);
}

static void decode_positive(const uint8_t *in, size_t n, float a, float *restrict out) {
    uint8_t code[CHUNK] = {0};
    memcpy(code, in, n);
    for (int k = 0; k < CHUNK; k++)
        out[k] = fourth((float)(int32_t)code[k]) * a;
}

/* Stochastic between the neighbours of v, with the probability that keeps the mean of v (not of z: the bias of z^4
 * would add up over steps). A positive v gets at least code 1, 2.4e-10 of the chunk's largest: rounding to 0 would
 * leave eps alone in the denominator and the update would explode, while this bounds it by sqrt(v) >= 1.5e-5 * sqrt(a).
 */
static void encode_positive(const float *in, size_t n, const uint32_t *words, float *scale, uint8_t *out) {
    float y[CHUNK], root[CHUNK]; /* one loop each: merged, the compiler finds branches instead of vectors */
    int32_t codes[CHUNK];
    uint8_t code[CHUNK];
    float a = largest(in);
    a = a > 1e-36f ? a : 1e-36f;
    a = a < 0x1p120f ? a : 0x1p120f;
    for (int k = 0; k < CHUNK; k++)
        y[k] = clamp_float(in[k] / a, 0.0f, 1.0f);
    for (int k = 0; k < CHUNK; k++)
        root[k] = clamp_float(sqrtf(sqrtf(y[k])) * 255.0f, 1.0f, 254.0f);
    for (int k = 0; k < CHUNK; k++) {
        const int32_t below = (int32_t)root[k];
        const float low = fourth((float)below), high = fourth((float)below + 1.0f);
        codes[k] = below + ((y[k] - low) / (high - low) + uniform01(words[k]) >= 1.0f);
    }
    for (int k = 0; k < CHUNK; k++)
        code[k] = (uint8_t)(in[k] > 0.0f ? codes[k] : 0);
    *scale = a;
    memcpy(out, code, n);
}

/* The state of columns [col, col + n): full float chunks are worked on in place, unless copy; others in `buffer`. */
static float *state_open(enum update_codec codec, void *base, const float *scale, size_t col, size_t n, bool copy,
                         float *buffer) {
    switch (codec) {
    case UPDATE_F32: {
        float *f = (float *)base + col;
        if (n == CHUNK && !copy) return f;
        pad_floats(f, n, buffer);
        break;
    }
    case UPDATE_BF16:
    case UPDATE_BF16_POSITIVE: decode_bf16((const uint16_t *)base + col, n, buffer); break;
    case UPDATE_INT8_SIGNED: decode_signed((const int8_t *)base + col, n, scale[col / CHUNK], buffer); break;
    case UPDATE_INT8_POSITIVE: decode_positive((const uint8_t *)base + col, n, scale[col / CHUNK], buffer); break;
    }
    return buffer;
}

static void state_close(enum update_codec codec, void *base, float *scale, size_t col, size_t n, struct stream *s,
                        const float *values) {
    switch (codec) {
    case UPDATE_F32:
        if (n < CHUNK) memcpy((float *)base + col, values, n * sizeof *values);
        break;
    case UPDATE_BF16:
    case UPDATE_BF16_POSITIVE:
        encode_bf16(values, n, stream_chunk(s), codec == UPDATE_BF16_POSITIVE, (uint16_t *)base + col);
        break;
    case UPDATE_INT8_SIGNED:
        encode_signed(values, n, stream_chunk(s), scale + col / CHUNK, (int8_t *)base + col);
        break;
    case UPDATE_INT8_POSITIVE:
        encode_positive(values, n, stream_chunk(s), scale + col / CHUNK, (uint8_t *)base + col);
        break;
    }
}

#endif
