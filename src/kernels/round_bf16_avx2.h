/* Rounding to bf16 for the AVX2 files whose f32 operands hold bf16 values. */
#ifndef DQT_KERNELS_ROUND_BF16_AVX2_H
#define DQT_KERNELS_ROUND_BF16_AVX2_H

#include <immintrin.h>

/* f32_to_bf16 and back: nearest, ties to even; a NaN stays one. */
static inline __m256 round_to_bf16(__m256 v) {
    const __m256i u = _mm256_castps_si256(v), upper = _mm256_set1_epi32((int)0xffff0000);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd));
    const __m256i nan = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256 either =
        _mm256_blendv_ps(_mm256_castsi256_ps(r), _mm256_castsi256_ps(nan), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_and_ps(either, _mm256_castsi256_ps(upper));
}

#endif
