/* The updater's kernels for AVX2. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "kernels/kernels_avx2.h"
#include "kernels/philox_avx2.h"

static void philox_blocks(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    for (int i = 0; i < UPDATE_CHUNK / 4; i += 16)
        philox_chains(r, first + (uint64_t)i, 2, out + 4 * i);
}

/* 128 numbers' greatest magnitude, by their bits. */
static inline float greatest_magnitude(const float *x) {
    __m256i most = _mm256_setzero_si256();
    for (int k = 0; k < UPDATE_CHUNK; k += 8) {
        const __m256i bits = _mm256_loadu_si256((const __m256i *)(const void *)(x + k));
        most = _mm256_max_epi32(most, _mm256_and_si256(bits, _mm256_set1_epi32(INT32_MAX)));
    }
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1))));
}

/* update_states.h's, eight at a time: what compilers make of that takes two instructions for a minimum or maximum. The
 * order of operands makes 0 of a NaN, as clamp_float does. */
static inline __m256i encode_eight(const float *in, const uint32_t *words, __m256 units) {
    const __m256 x = _mm256_loadu_ps(in), zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f);
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    const __m256 y = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(magnitude, units), zero), _mm256_set1_ps(16129.0f));
    const __m256i below = _mm256_cvttps_epi32(_mm256_min_ps(_mm256_sqrt_ps(y), _mm256_set1_ps(126.0f)));
    const __m256 low = _mm256_cvtepi32_ps(below), gap = _mm256_add_ps(_mm256_add_ps(low, low), one);
    const __m256i word = _mm256_srli_epi32(_mm256_loadu_si256((const __m256i *)(const void *)words), 8);
    const __m256 r = _mm256_mul_ps(_mm256_cvtepi32_ps(word), _mm256_set1_ps(0x1p-24f));
    const __m256 reached = _mm256_add_ps(_mm256_sub_ps(y, _mm256_mul_ps(low, low)), _mm256_mul_ps(r, gap));
    const __m256i code = _mm256_sub_epi32(below, _mm256_castps_si256(_mm256_cmp_ps(reached, gap, _CMP_GE_OQ)));
    return _mm256_sign_epi32(code, _mm256_or_si256(_mm256_castps_si256(x), _mm256_set1_epi32(1)));
}

static void encode_signed(const float *in, size_t n, const uint32_t *words, float *scale, int8_t *out) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int8_t code[UPDATE_CHUNK];
    float a = greatest_magnitude(in);
    a = a > 1e-30f ? a : 1e-30f;
    a = a < 0x1p120f ? a : 0x1p120f;
    const __m256 units = _mm256_set1_ps(16129.0f / a);
    for (int k = 0; k < UPDATE_CHUNK; k += 32) {
        __m256i c[4];
        for (int i = 0; i < 4; i++)
            c[i] = encode_eight(in + k + 8 * i, words + k + 8 * i, units);
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
        _mm256_storeu_si256((__m256i *)(void *)(code + k), _mm256_permutevar8x32_epi32(bytes, order));
    }
    *scale = a;
    memcpy(out, code, n);
}

#define UPDATE_PHILOX
#define UPDATE_ENCODE_SIGNED
#define UPDATE_KERNELS update_kernels_avx2
#include "kernels/update_template.h"

TARGET_END
#else
typedef int update_avx2_is_not_built;
#endif
