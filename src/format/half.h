/* IEEE binary16, in software: the same on every system. */
#ifndef DQT_FORMAT_HALF_H
#define DQT_FORMAT_HALF_H

#include "core/bits.h"

/* Nearest, ties to even; too large becomes infinity. */
static inline uint16_t f32_to_f16(float f) {
    const uint32_t u = f32_bits(f), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 2^16 and above */
    if (magnitude < 0x38800000u) { /* below 2^-14: multiples of 2^-24; the sum rounds at its last bit, which is that */
        const float rounded = f32_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (f32_bits(rounded) - f32_bits(0.5f)));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13));
}

static inline float f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) return f32_from_bits(sign | f32_bits((float)mantissa * 0x1p-24f));
    return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

#endif
