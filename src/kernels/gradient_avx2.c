/* Rounding of gradients for AVX2. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "kernels/gradient_kernels.h"
#include "kernels/philox_avx2.h"

_Static_assert(GRADIENT_PART / 8 == 8, "eight blocks");
static inline void philox_part(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    philox_chains(r, first, 1, out);
}

static inline void philox_pair(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    philox_chains(r, first, 2, out);
}

/* v + 128 + u / 65536, cut to a whole number: between 128 and 256 a float's last bit is worth 1 / 65536. The order of
 * operands makes -127 of a NaN, as code_of does. */
static inline __m256i round_eight(const float *x, float one, const float *each, bool one_first, const uint16_t *u) {
    const __m256 dy = _mm256_loadu_ps(x), scale = _mm256_loadu_ps(each), factor = _mm256_set1_ps(one);
    const __m256 v =
        one_first ? _mm256_mul_ps(_mm256_mul_ps(dy, factor), scale) : _mm256_mul_ps(_mm256_mul_ps(dy, scale), factor);
    const __m256 within = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(127.0f));
    const __m256i half = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)u));
    const __m256 above = _mm256_castsi256_ps(_mm256_or_si256(half, _mm256_set1_epi32(0x43000000)));
    return _mm256_cvttps_epi32(_mm256_add_ps(within, above));
}

static inline void round_part(const float *x, float one, const float *each, bool one_first, const uint32_t *words,
                              int8_t *restrict codes) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), flip = _mm256_set1_epi8((char)0x80);
    const uint16_t *u = (const uint16_t *)(const void *)words;
    for (int i = 0; i < GRADIENT_PART; i += 32) {
        __m256i c[4];
        for (int j = 0; j < 4; j++)
            c[j] = round_eight(x + i + 8 * j, one, each + i + 8 * j, one_first, u + i + 8 * j);
        const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(c[0], c[1]), _mm256_packus_epi32(c[2], c[3]));
        _mm256_storeu_si256((__m256i *)(void *)(codes + i),
                            _mm256_xor_si256(_mm256_permutevar8x32_epi32(bytes, order), flip));
    }
}

#define GRADIENT_ROUND
#define GRADIENT_PAIR
#define GRADIENT_KERNELS gradient_kernels_avx2
#include "kernels/gradient_template.h"

TARGET_END
#else
typedef int gradient_avx2_is_not_built;
#endif
