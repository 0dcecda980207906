/* Philox4x32-10 (core/rng.h) for AVX2, eight blocks at a time. Included between TARGET_BEGIN and TARGET_END. */
#ifndef DQT_KERNELS_PHILOX_AVX2_H
#define DQT_KERNELS_PHILOX_AVX2_H

#include <immintrin.h>

#include "core/rng.h"
#include "kernels/registers.h"

/* The even or the odd dwords of both, in every 128 bits those of a first. */
static inline __m256i even_dwords(__m256i a, __m256i b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
static inline __m256i odd_dwords(__m256i a, __m256i b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd));
}

/* Lower and upper words of x times a multiplier. */
static inline void philox_multiply(__m256i x, __m256i multiplier, __m256i *low, __m256i *high) {
    const __m256i a = _mm256_mul_epu32(_mm256_unpacklo_epi32(x, x), multiplier);
    const __m256i b = _mm256_mul_epu32(_mm256_unpackhi_epi32(x, x), multiplier);
    *low = even_dwords(a, b);
    *high = odd_dwords(a, b);
}

/* The words of eight blocks, c[w] word w of them, to [8][4]. */
static inline void philox_store(const __m256i c[4], uint32_t *restrict out) {
    const __m256i low01 = _mm256_unpacklo_epi32(c[0], c[1]), high01 = _mm256_unpackhi_epi32(c[0], c[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(c[2], c[3]), high23 = _mm256_unpackhi_epi32(c[2], c[3]);
    const __m256i b0 = _mm256_unpacklo_epi64(low01, low23), b1 = _mm256_unpackhi_epi64(low01, low23);
    const __m256i b2 = _mm256_unpacklo_epi64(high01, high23), b3 = _mm256_unpackhi_epi64(high01, high23);
    _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(b0, b1, 0x20));
    _mm256_storeu_si256((__m256i *)(out + 8), _mm256_permute2x128_si256(b2, b3, 0x20));
    _mm256_storeu_si256((__m256i *)(out + 16), _mm256_permute2x128_si256(b0, b1, 0x31));
    _mm256_storeu_si256((__m256i *)(out + 24), _mm256_permute2x128_si256(b2, b3, 0x31));
}

/* The blocks of counters first .. first + 8 * chains - 1, out[8 * chains][4]. Eight counters are a chain of dependent
 * instructions, which leaves the processor idle: two chains, the most, take 1.5 times as long as one. */
CONSTANTS_INLINE void philox_chains(const struct rng *r, uint64_t first, int chains, uint32_t *restrict out) {
    const __m256i multiplier0 = _mm256_set1_epi32((int)0xD2511F53), multiplier1 = _mm256_set1_epi32((int)0xCD9E8D57);
    __m256i c[2][4], key0 = _mm256_set1_epi32((int)r->key[0]), key1 = _mm256_set1_epi32((int)r->key[1]);
    for (int i = 0; i < chains; i++) {
        const __m256i start = _mm256_set1_epi64x((int64_t)(first + 8 * (uint64_t)i));
        const __m256i a = _mm256_add_epi64(start, _mm256_setr_epi64x(0, 1, 4, 5));
        const __m256i b = _mm256_add_epi64(start, _mm256_setr_epi64x(2, 3, 6, 7));
        c[i][0] = even_dwords(a, b);
        c[i][1] = odd_dwords(a, b);
        c[i][2] = _mm256_set1_epi32((int)r->high[0]);
        c[i][3] = _mm256_set1_epi32((int)r->high[1]);
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < chains; i++) {
            __m256i low0, high0, low1, high1;
            philox_multiply(c[i][0], multiplier0, &low0, &high0);
            philox_multiply(c[i][2], multiplier1, &low1, &high1);
            c[i][0] = _mm256_xor_si256(high1, _mm256_xor_si256(c[i][1], key0));
            c[i][2] = _mm256_xor_si256(high0, _mm256_xor_si256(c[i][3], key1));
            c[i][1] = low1;
            c[i][3] = low0;
        }
        key0 = _mm256_add_epi32(key0, _mm256_set1_epi32((int)0x9E3779B9));
        key1 = _mm256_add_epi32(key1, _mm256_set1_epi32((int)0xBB67AE85));
    }
    for (int i = 0; i < chains; i++)
        philox_store(c[i], out + 32 * i);
}

#endif
