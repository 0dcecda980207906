/* Philox4x32-10 (core/rng.h) for AVX-512, eight blocks a vector. Included between TARGET_BEGIN and TARGET_END. */
#ifndef DQT_KERNELS_PHILOX_AVX512_H
#define DQT_KERNELS_PHILOX_AVX512_H

#include <immintrin.h>

#include "core/rng.h"

enum { PHILOX_VECTORS = 4 }; /* at most */

/* The blocks of counters from `first` on, out[8 * vectors][4]; `vectors` is a constant. Eight counters per register, a
 * 64-bit lane for each 32-bit word; the upper half of a lane is never read. */
static inline void philox_vectors(const struct rng *r, uint64_t first, int vectors, uint32_t *restrict out) {
    const __m512i multiplier0 = _mm512_set1_epi64(0xD2511F53), multiplier1 = _mm512_set1_epi64(0xCD9E8D57);
    const __m512i lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i first_half = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second_half = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i c0[PHILOX_VECTORS], c1[PHILOX_VECTORS], c2[PHILOX_VECTORS], c3[PHILOX_VECTORS];
    for (int i = 0; i < vectors; i++) {
        c0[i] = _mm512_add_epi64(_mm512_set1_epi64((int64_t)(first + 8 * (uint64_t)i)), lanes);
        c1[i] = _mm512_srli_epi64(c0[i], 32);
        c2[i] = _mm512_set1_epi64(r->high[0]);
        c3[i] = _mm512_set1_epi64(r->high[1]);
    }
    uint32_t k0 = r->key[0], k1 = r->key[1];
    for (int round = 0; round < 10; round++) {
        const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
        for (int i = 0; i < vectors; i++) {
            const __m512i p0 = _mm512_mul_epu32(multiplier0, c0[i]), p1 = _mm512_mul_epu32(multiplier1, c2[i]);
            c0[i] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c1[i], key0, 0x96); /* a ^ b ^ c */
            c2[i] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3[i], key1, 0x96);
            c1[i] = p1;
            c3[i] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < vectors; i++, out += 32) {
        const __m512i c01 = _mm512_mask_blend_epi32(0xAAAA, c0[i], _mm512_slli_epi64(c1[i], 32));
        const __m512i c23 = _mm512_mask_blend_epi32(0xAAAA, c2[i], _mm512_slli_epi64(c3[i], 32));
        const __m512i even = _mm512_unpacklo_epi64(c01, c23), odd = _mm512_unpackhi_epi64(c01, c23);
        _mm512_storeu_si512(out, _mm512_permutex2var_epi64(even, first_half, odd));
        _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi64(even, second_half, odd));
    }
}

#endif
