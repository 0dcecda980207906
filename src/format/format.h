/* Weight formats and how they are packed.
 *
 * A packed row is a sequence of units of 64 codes; the last one is padded with code 0. u = q - Qn is what is stored in
 * formats below 8 bits (ternary: u = q + 1). In unit order:
 *   TERNARY, INT2  16 bytes: byte b holds codes b, 16+b, 32+b, 48+b in bits 0-1, 2-3, 4-5, 6-7
 *   INT3           24 bytes: 16 bytes as INT2 of u & 3, then 8 bytes: bit k of a little-endian uint64 is u >> 2 of code
 * k INT4           32 bytes: byte b holds code b in the low nibble, 32+b in the high one INT8           64 bytes, two's
 * complement so one shift and one mask turn a byte vector into consecutive codes. Rows start at multiples of the unit
 * size; F32 and BF16 rows are plain and not padded. */
#ifndef DQT_SRC_FORMAT_FORMAT_H
#define DQT_SRC_FORMAT_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/rng.h"
#include "dqt.h"

enum { UNIT = 64 }; /* codes per unit */

static inline bool format_valid(int format) {
    return format >= DQT_FORMAT_F32 && format <= DQT_FORMAT_TERNARY;
}
static inline bool format_is_code(int format) {
    return format >= DQT_FORMAT_INT8 && format <= DQT_FORMAT_TERNARY;
}

/* Bytes of one unit of 64 codes; 0 for floats. */
size_t format_unit_bytes(int format);
size_t format_row_bytes(int format, size_t cols);
int format_min(int format); /* Qn; 0 for floats */
int format_max(int format); /* Qp; 0 for floats */
const char *format_name(int format);

/* One unit to or from 64 codes in two's complement. The scalar specification of packing. */
void unit_unpack(int format, const uint8_t *packed, int8_t codes[UNIT]);
void unit_pack(int format, const int8_t codes[UNIT], uint8_t *packed);

static inline float bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Nearest, ties to even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* Stochastic: adds 16 random bits below the kept ones. Finite input may round up to infinity only at the very top. */
static inline uint16_t f32_to_bf16_stochastic(float f, uint32_t random) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7f800000u) == 0x7f800000u) return f32_to_bf16(f);
    return (uint16_t)((u + (random >> 16)) >> 16);
}

/* in[count] rounded to bf16: stochastically with the numbers of elements first, first + 1, ... or, rng NULL, to
 * nearest. */
void bf16_store(const float *in, size_t count, uint64_t first, const struct rng *rng, uint16_t *out);

#endif
