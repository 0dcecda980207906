/* Philox4x32-10 (core/rng.h) for AVX2, eight blocks at a time. Included between TARGET_BEGIN and TARGET_END. */
#ifndef DQT_KERNELS_PHILOX_AVX2_H
#define DQT_KERNELS_PHILOX_AVX2_H

#include <immintrin.h>

#include "core/rng.h"

/* The blocks of counters first .. first + 7, out[8][4]. Four counters per register, a 64-bit lane for each 32-bit word;
 * the upper half of a lane is never read. */
static inline void philox_eight(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    enum { VECTORS = 2 };
    const __m256i multiplier0 = _mm256_set1_epi64x(0xD2511F53), multiplier1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i c0[VECTORS], c1[VECTORS], c2[VECTORS], c3[VECTORS];
    for (int i = 0; i < VECTORS; i++) {
        c0[i] =
            _mm256_add_epi64(_mm256_set1_epi64x((int64_t)(first + 4 * (uint64_t)i)), _mm256_setr_epi64x(0, 1, 2, 3));
        c1[i] = _mm256_srli_epi64(c0[i], 32);
        c2[i] = _mm256_set1_epi64x(r->high[0]);
        c3[i] = _mm256_set1_epi64x(r->high[1]);
    }
    uint32_t k0 = r->key[0], k1 = r->key[1];
    for (int round = 0; round < 10; round++) {
        const __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
        for (int i = 0; i < VECTORS; i++) {
            const __m256i p0 = _mm256_mul_epu32(multiplier0, c0[i]), p1 = _mm256_mul_epu32(multiplier1, c2[i]);
            c0[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1[i]), key0);
            c2[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3[i]), key1);
            c1[i] = p1;
            c3[i] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < VECTORS; i++, out += 16) {
        const __m256i c01 = _mm256_blend_epi32(c0[i], _mm256_slli_epi64(c1[i], 32), 0xAA);
        const __m256i c23 = _mm256_blend_epi32(c2[i], _mm256_slli_epi64(c3[i], 32), 0xAA);
        const __m256i even = _mm256_unpacklo_epi64(c01, c23), odd = _mm256_unpackhi_epi64(c01, c23);
        _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256((__m256i *)(out + 8), _mm256_permute2x128_si256(even, odd, 0x31));
    }
}

#endif
