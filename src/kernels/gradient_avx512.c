/* Rounding of gradients for AVX-512. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512)
#include "kernels/gradient_kernels.h"
#include "kernels/philox_avx512.h"

static inline void philox_part(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    _Static_assert(GRADIENT_PART / 8 == 8, "eight blocks");
    philox_vectors(r, first, 1, out);
}

/* As round_eight of gradient_avx2.c. */
static inline __m512i round_sixteen(const float *x, float one, const float *each, bool one_first, const uint16_t *u) {
    const __m512 dy = _mm512_loadu_ps(x), scale = _mm512_loadu_ps(each), factor = _mm512_set1_ps(one);
    const __m512 v =
        one_first ? _mm512_mul_ps(_mm512_mul_ps(dy, factor), scale) : _mm512_mul_ps(_mm512_mul_ps(dy, scale), factor);
    const __m512 within = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f));
    const __m512i half = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)u));
    const __m512 above = _mm512_castsi512_ps(_mm512_or_si512(half, _mm512_set1_epi32(0x43000000)));
    return _mm512_cvttps_epi32(_mm512_add_ps(within, above));
}

static inline void round_part(const float *x, float one, const float *each, bool one_first, const uint32_t *words,
                              int8_t *restrict codes) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const uint16_t *u = (const uint16_t *)(const void *)words;
    __m512i c[4];
    for (int j = 0; j < 4; j++)
        c[j] = round_sixteen(x + 16 * j, one, each + 16 * j, one_first, u + 16 * j);
    const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(c[0], c[1]), _mm512_packus_epi32(c[2], c[3]));
    _mm512_storeu_si512(codes, _mm512_xor_si512(_mm512_permutexvar_epi32(order, bytes), _mm512_set1_epi8((char)0x80)));
}

#define GRADIENT_ROUND
#define GRADIENT_KERNELS gradient_kernels_avx512
#include "kernels/gradient_template.h"

TARGET_END
#else
typedef int gradient_avx512_is_not_built;
#endif
