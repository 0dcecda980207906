/* AVX2: packing of A for its engines, whose blocks have 4 rows of bytes, or 6 of 16-bit pairs or floats. The same bytes
 * as those of gemm_pack.c. */
typedef int gemm_pack_avx2_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "core/assert.h"
#include "kernels/gemm_epilogue_avx2.h"
#include "kernels/kernels_avx2.h"
#include "kernels/round_bf16_avx2.h"

enum { FOUR = 4, SIX = 6 }; /* rows of a block */

/* The first six dwords of v. */
static inline void store_six(uint32_t *to, __m256i v) {
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(v));
    _mm_storel_epi64((__m128i *)(void *)(to + 4), _mm256_extracti128_si256(v, 1));
}

/* The first six dwords of v and two that do not matter, over which the next are written; the last are just six. */
static inline void store_next_six(uint32_t *to, __m256i v, bool last) {
    if (last) {
        store_six(to, v);
    } else {
        store_int(to, v);
    }
}

/* Six dwords of each of `count` columns of the rows r, of which the last two are not used. */
static inline void store_columns(uint32_t *to, __m256i r[8], size_t count, bool last) {
    transpose_ints(r);
    for (size_t j = 0; j < count; j++)
        store_next_six(to + j * SIX, r[j], last && j == count - 1);
}

/* [k / 4][4][4] bytes. */
void gemm_pack_a_codes_avx2(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                            int32_t *sums) {
    const __m256i one_byte = _mm256_set1_epi8(1), one = _mm256_set1_epi16(1);
    __m256i sum[FOUR];
    DQT_ASSERT(e->rows == FOUR && e->k_align == 4 && e->size == 1 && k % 32 == 0);
    for (int i = 0; i < FOUR; i++)
        sum[i] = _mm256_setzero_si256();
    for (size_t c = 0; c < k; c += 32) {
        uint8_t *to = (uint8_t *)out + c * FOUR;
        __m256i r[FOUR], q[4];
        for (size_t i = 0; i < FOUR; i++) {
            r[i] = i < m ? load_int(src + i * ld + c) : _mm256_setzero_si256();
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(one_byte, r[i]), one));
        }
        const __m256i low0 = _mm256_unpacklo_epi32(r[0], r[1]), low1 = _mm256_unpacklo_epi32(r[2], r[3]);
        const __m256i high0 = _mm256_unpackhi_epi32(r[0], r[1]), high1 = _mm256_unpackhi_epi32(r[2], r[3]);
        q[0] = _mm256_unpacklo_epi64(low0, low1); /* dwords 0 and 4 of the rows */
        q[1] = _mm256_unpackhi_epi64(low0, low1);
        q[2] = _mm256_unpacklo_epi64(high0, high1);
        q[3] = _mm256_unpackhi_epi64(high0, high1);
        store_int(to, _mm256_permute2x128_si256(q[0], q[1], 0x20));
        store_int(to + 32, _mm256_permute2x128_si256(q[2], q[3], 0x20));
        store_int(to + 64, _mm256_permute2x128_si256(q[0], q[1], 0x31));
        store_int(to + 96, _mm256_permute2x128_si256(q[2], q[3], 0x31));
    }
    for (size_t i = 0; i < m; i++)
        sums[i] += sum_ints(sum[i]);
    (void)e;
}

/* [k / 2][6][2] 16-bit numbers. */
void gemm_pack_a_codes16_avx2(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                              int32_t *sums) {
    __m256i sum[SIX];
    DQT_ASSERT(e->rows == SIX && e->k_align == 2 && e->size == 2 && k % 16 == 0);
    for (int i = 0; i < SIX; i++)
        sum[i] = _mm256_setzero_si256();
    for (size_t c = 0; c < k; c += 16) {
        __m256i r[8];
        for (size_t i = 0; i < SIX; i++) {
            r[i] = i < m ? _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(src + i * ld + c)))
                         : _mm256_setzero_si256();
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(r[i], _mm256_set1_epi16(1)));
        }
        r[6] = r[7] = _mm256_setzero_si256();
        store_columns((uint32_t *)out + c / 2 * SIX, r, 8, c + 16 == k);
    }
    for (size_t i = 0; i < m; i++)
        sums[i] += sum_ints(sum[i]);
    (void)e;
}

/* The first m bytes of a row, and others where eight are readable. */
static inline __m128i load_codes(const int8_t *row, size_t m, bool eight) {
    if (eight) return _mm_loadl_epi64((const __m128i *)(const void *)row);
    int64_t bytes = 0;
    memcpy(&bytes, row, m);
    return _mm_cvtsi64_si128(bytes);
}

/* The same from rows of K. */
void gemm_pack_a_rows16_avx2(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                             int32_t *sums) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)m), lane), one = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    int32_t total[8];
    DQT_ASSERT(e->rows == SIX && e->k_align == 2 && e->size == 2 && k % 2 == 0 && m <= SIX);
    for (size_t c = 0; c < k; c += 2, src += 2 * ld) {
        const bool last = c + 2 == k;
        const __m128i a = load_codes(src, m, ld >= 8); /* those behind m are the next row's */
        const __m128i b = load_codes(src + ld, m, ld >= 8 && !last);
        const __m256i pairs = _mm256_and_si256(_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)), valid);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, one));
        store_next_six((uint32_t *)out + c / 2 * SIX, pairs, last);
    }
    store_int(total, sum);
    for (size_t i = 0; i < m; i++)
        sums[i] += total[i];
    (void)e;
}

/* Eight floats of which `count` are there, the others zeros, times their scales (NULL: 1). */
static inline __m256 load_scaled(const float *x, const float *scale, size_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    if (count >= 8) return scale ? _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(scale)) : _mm256_loadu_ps(x);
    const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane);
    const __m256 v = _mm256_maskload_ps(x, valid);
    return scale ? _mm256_mul_ps(v, _mm256_maskload_ps(scale, valid)) : v;
}

/* [k][6] floats. */
void gemm_pack_a_avx2(const struct gemm_engine *e, const float *src, size_t ld, size_t m, size_t k,
                      const float *k_scale, void *out) {
    const bool rounds = e->emulates_bf16;
    DQT_ASSERT(e->rows == SIX && e->k_align == 1 && e->size == 4);
    for (size_t c = 0; c < k; c += 8) {
        const size_t count = k - c < 8 ? k - c : 8;
        __m256i r[8];
        for (size_t i = 0; i < 8; i++) {
            __m256 v = _mm256_setzero_ps();
            if (i < SIX && i < m) v = load_scaled(src + i * ld + c, k_scale ? k_scale + c : NULL, count);
            r[i] = _mm256_castps_si256(rounds ? round_to_bf16(v) : v);
        }
        store_columns((uint32_t *)out + c * SIX, r, count, c + 8 >= k);
    }
}

TARGET_END
#endif
