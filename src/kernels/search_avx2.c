/* Search for scales with AVX2: a vector is of tries, so that sums of lanes are sums of vectors. */
typedef int search_avx2_translation_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "kernels/kernels_avx2.h"

enum { LANES = SEARCH_LANES, FLOATS = 8, DOUBLES = 4 };

#define ROUNDS_BELOW_2_22 0x1.8p23f /* added and taken off again: to nearest, ties to even */

static inline void add_to(double *sums, __m256 x) {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(x)), high = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), low));
    _mm256_storeu_pd(sums + 4, _mm256_add_pd(_mm256_loadu_pd(sums + 4), high));
}

/* sums += those of FLOATS tries with these inverse scales. */
static inline void add_floats(const struct search *f, int first, const float *w, const float *importance, size_t count,
                              struct search_sums *sums) {
    const __m256 low = _mm256_set1_ps((float)f->use.low), high = _mm256_set1_ps((float)f->use.high);
    const __m256 shift = _mm256_set1_ps(ROUNDS_BELOW_2_22), inverse = _mm256_loadu_ps(f->inverse + first);
    __m256 product[LANES], square[LANES];
    for (size_t k = 0; k < LANES; k++) {
        __m256 p = _mm256_setzero_ps(), s = p;
        for (size_t i = k; i < count; i += LANES) {
            const __m256 v = _mm256_broadcast_ss(w + i);
            __m256 q = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(v, inverse), low), high);
            q = _mm256_sub_ps(_mm256_add_ps(q, shift), shift);
            __m256 vq = _mm256_mul_ps(v, q), qq = _mm256_mul_ps(q, q);
            if (importance) {
                vq = _mm256_mul_ps(vq, _mm256_broadcast_ss(importance + i));
                qq = _mm256_mul_ps(qq, _mm256_broadcast_ss(importance + i));
            }
            p = _mm256_add_ps(p, vq);
            s = _mm256_add_ps(s, qq);
        }
        product[k] = p;
        square[k] = s;
    }
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t k = 0; k < half; k++) {
            product[k] = _mm256_add_ps(product[k], product[half + k]);
            square[k] = _mm256_add_ps(square[k], square[half + k]);
        }
    add_to(sums->product + first, product[0]);
    add_to(sums->square + first, square[0]);
}

/* The same of DOUBLES tries, in double. */
static inline void add_doubles(const struct search *f, int first, const float *w, const float *importance, size_t count,
                               struct search_sums *sums) {
    const __m128 low = _mm_set1_ps((float)f->use.low), high = _mm_set1_ps((float)f->use.high);
    const __m128 shift = _mm_set1_ps(ROUNDS_BELOW_2_22), inverse = _mm_loadu_ps(f->inverse + first);
    __m256d product[LANES], square[LANES];
    for (size_t k = 0; k < LANES; k++) {
        __m256d p = _mm256_setzero_pd(), s = p;
        for (size_t i = k; i < count; i += LANES) {
            const __m128 v = _mm_broadcast_ss(w + i);
            __m128 code = _mm_min_ps(_mm_max_ps(_mm_mul_ps(v, inverse), low), high);
            const __m256d q = _mm256_cvtps_pd(_mm_sub_ps(_mm_add_ps(code, shift), shift));
            __m256d vq = _mm256_mul_pd(_mm256_cvtps_pd(v), q), qq = _mm256_mul_pd(q, q);
            if (importance) {
                const __m256d weight = _mm256_cvtps_pd(_mm_broadcast_ss(importance + i));
                vq = _mm256_mul_pd(vq, weight);
                qq = _mm256_mul_pd(qq, weight);
            }
            p = _mm256_add_pd(p, vq);
            s = _mm256_add_pd(s, qq);
        }
        product[k] = p;
        square[k] = s;
    }
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t k = 0; k < half; k++) {
            product[k] = _mm256_add_pd(product[k], product[half + k]);
            square[k] = _mm256_add_pd(square[k], square[half + k]);
        }
    double *p = sums->product + first, *s = sums->square + first;
    _mm256_storeu_pd(p, _mm256_add_pd(_mm256_loadu_pd(p), product[0]));
    _mm256_storeu_pd(s, _mm256_add_pd(_mm256_loadu_pd(s), square[0]));
}

void search_add_avx2(const struct search *f, struct search_sums *sums, const float *w, const float *importance,
                     size_t count) {
    _Static_assert(SEARCH_TRIES % FLOATS == 0 && SEARCH_TRIES % DOUBLES == 0, "whole vectors of tries");
    if (search_is_exact(f)) {
        for (int t = 0; t < f->count; t += DOUBLES)
            if (importance)
                add_doubles(f, t, w, importance, count, sums);
            else
                add_doubles(f, t, w, NULL, count, sums);
    } else {
        for (int t = 0; t < f->count; t += FLOATS)
            if (importance)
                add_floats(f, t, w, importance, count, sums);
            else
                add_floats(f, t, w, NULL, count, sums);
    }
}

TARGET_END
#endif
