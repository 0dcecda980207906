/* The sum of a vector's 8 floats, alone and of four vectors at a time: halves are added until one number is left. */
#ifndef DQT_KERNELS_SUM_LANES_AVX2_H
#define DQT_KERNELS_SUM_LANES_AVX2_H

#include <immintrin.h>

static inline float sum_lanes(__m256 v) {
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}

/* As sum_lanes does it, of four vectors. */
static inline __m128 sum_lanes4(const __m256 v[4]) {
    __m128 h[4];
    for (size_t t = 0; t < 4; t++)
        h[t] = _mm_add_ps(_mm256_castps256_ps128(v[t]), _mm256_extractf128_ps(v[t], 1));
    const __m128 a = _mm_add_ps(_mm_movelh_ps(h[0], h[1]), _mm_movehl_ps(h[1], h[0]));
    const __m128 b = _mm_add_ps(_mm_movelh_ps(h[2], h[3]), _mm_movehl_ps(h[3], h[2]));
    return _mm_add_ps(_mm_shuffle_ps(a, b, 0x88), _mm_shuffle_ps(a, b, 0xdd));
}

#endif
