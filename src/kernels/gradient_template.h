/* The kernels of gradient_kernels.h, compiled once per instruction set by gradient_<isa>.c, which defines
 *   GRADIENT_KERNELS  the name of the struct gradient_kernels that this file defines
 *   GRADIENT_ROUND    optional: it has its own static philox_part and round_part
 *   GRADIENT_PAIR     optional: it has its own static philox_pair, the words of two parts
 * Plain loops of fixed length that the compiler turns into vectors; nothing may be reordered or fused, so that all
 * files give the same bits. Everything is static: nothing compiled here may be called on a lesser CPU. */
#include <stdbool.h>
#include <string.h>

#include "core/assert.h"
#include "kernels/gradient_kernels.h"
#include "kernels/philox.h"

enum { PART = GRADIENT_PART, BLOCKS = PART / 8 };

/* The magnitude's bits, in the order of the numbers; those of infinities and NaNs lie above all others. */
static inline int32_t magnitude(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

static float largest(const float *dy, const float *scale, size_t n) {
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t bits = magnitude(dy[i] * scale[i]);
        most = bits > most ? bits : most;
    }
    float x;
    memcpy(&x, &most, sizeof x);
    return x;
}

static void largest_by_row(const float *dy, float scale, size_t n, float *restrict most) {
    for (size_t i = 0; i < n; i++) {
        const int32_t bits = magnitude(dy[i] * scale), before = magnitude(most[i]);
        const int32_t greater = bits > before ? bits : before;
        memcpy(&most[i], &greater, sizeof greater);
    }
}

#ifndef GRADIENT_ROUND
static void philox_part(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    philox_words(r, first, BLOCKS, out);
}

static inline int8_t code_of(float v, uint32_t half) {
    const float above = v > -127.0f ? v : -127.0f; /* NaN becomes a number: its step is NaN */
    const float within = above < 127.0f ? above : 127.0f;
    return (int8_t)((int32_t)(within + (128.0f + (float)(int32_t)half * 0x1p-16f)) - 128);
}

/* PART codes of v = x * one * each, or x * each * one. */
static inline void round_part(const float *x, float one, const float *each, bool one_first, const uint32_t *words,
                              int8_t *restrict codes) {
    uint32_t halves[PART];
    for (int i = 0; i < PART / 2; i++) {
        halves[2 * i] = words[i] & 0xffffu;
        halves[2 * i + 1] = words[i] >> 16;
    }
    for (int i = 0; i < PART; i++)
        codes[i] = code_of(one_first ? x[i] * one * each[i] : x[i] * each[i] * one, halves[i]);
}
#endif

#ifndef GRADIENT_PAIR
static inline void philox_pair(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    philox_part(r, first, out);
    philox_part(r, first + BLOCKS, out + PART / 2);
}
#endif

/* v = dy * scale * factor, of which one is a number and the other has one for each row. */
static inline void round_rows(const float *dy, float one, const float *each, bool each_is_factor, size_t n,
                              const struct rng *rng, uint64_t token, uint64_t row, int8_t *restrict codes) {
    DQT_ASSERT(row % PART == 0 && token <= UINT32_MAX);
    uint32_t words[2][PART / 2];
    for (size_t k = 0, odd = 0; k < n; k += PART, codes += PART, odd = !odd) {
        const size_t count = n - k < PART ? n - k : PART;
        const uint64_t block = token << 32 | (row + k) / 8;
        const float *x = dy + k, *e = each + k;
        float padded[2][PART];
        if (count < PART) {
            memset(padded, 0, sizeof padded);
            x = memcpy(padded[0], x, count * sizeof *x);
            e = memcpy(padded[1], e, count * sizeof *e);
        }
        if (!odd && n - k > PART) philox_pair(rng, block, words[0]);
        if (!odd && n - k <= PART) philox_part(rng, block, words[0]);
        round_part(x, one, e, each_is_factor, words[odd], codes);
    }
}

static void round_token(const float *dy, const float *scale, float factor, size_t n, const struct rng *rng,
                        uint64_t token, uint64_t row, int8_t *codes) {
    round_rows(dy, factor, scale, false, n, rng, token, row, codes);
}

static void round_by_row(const float *dy, float scale, const float *factor, size_t n, const struct rng *rng,
                         uint64_t token, uint64_t row, int8_t *codes) {
    round_rows(dy, scale, factor, true, n, rng, token, row, codes);
}

const struct gradient_kernels GRADIENT_KERNELS = {largest, largest_by_row, round_token, round_by_row};
