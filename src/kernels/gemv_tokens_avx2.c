/* Several tokens with AVX2 (gemv_avx2.c has one): a vector of packed bytes is unpacked once, in registers, and
 * multiplied with four or eight vectors of activations, which lie beside each other in L1. */
typedef int gemv_tokens_avx2_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "core/size.h"
#include "kernels/gemm_epilogue_avx2.h"
#include "kernels/kernels_avx2.h"
#include "kernels/prefetch.h"
#include "kernels/registers.h"

/* Compilers add products of several planes first, whose sums then do not fit the registers. */
#define KEEP_ORDER(v) __asm__("" : "+x"(v))

/* Steps of 32 packed bytes in a 16-bit sum of vpmaddubsw. A step adds to it the products of two codes of each plane. */
enum { WIDTH = 32, CRUMB_STEPS = 10, NIBBLE_STEPS = 4 };
_Static_assert(CRUMB_STEPS * 4 * 2 * 3 * 128 <= INT16_MAX, "2 bits");
_Static_assert(NIBBLE_STEPS * 2 * 2 * 15 * 128 <= INT16_MAX, "4 bits");

static inline __m256i load_half(const uint8_t *p) {
    return _mm256_inserti128_si256(_mm256_setzero_si256(), _mm_loadu_si128((const __m128i *)(const void *)p), 0);
}

/* Whole vectors of a row, or one that has 16 bytes. tokens, whose sums stay in registers, and planes are constants
 * where this is inlined. */
CONSTANTS_INLINE void add_steps(const uint8_t *row, size_t from, size_t to, bool half, const int8_t *x, size_t tokens,
                                size_t planes, __m256i *total) {
    const __m256i mask = _mm256_set1_epi8(planes == 4 ? 3 : 15);
    __m256i sum[DOT_MOST_TOKENS];
    for (size_t t = 0; t < tokens; t++)
        sum[t] = _mm256_setzero_si256();
    for (size_t i = from; i < to; i += WIDTH, x += tokens * planes * WIDTH) {
        const __m256i v = half ? load_half(row + i) : load_int(row + i);
        prefetch_ahead(row, i + PREFETCH_WEIGHTS);
        for (size_t p = 0; p < planes; p++) {
            const __m256i u = _mm256_and_si256(_mm256_srli_epi16(v, (int)(p * 8 / planes)), mask);
            for (size_t t = 0; t < tokens; t++) {
                sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(u, load_int(x + (t * planes + p) * WIDTH)));
                KEEP_ORDER(sum[t]);
            }
        }
    }
    for (size_t t = 0; t < tokens; t++)
        total[t] = _mm256_add_epi32(total[t], _mm256_madd_epi16(sum[t], _mm256_set1_epi16(1)));
}

/* total: [DOT_ROWS][tokens] */
CONSTANTS_INLINE void dot_tokens(const uint8_t *const rows[DOT_ROWS], size_t bytes, const int8_t *x, size_t tokens,
                                 size_t planes, __m256i *total) {
    const size_t part = (planes == 4 ? CRUMB_STEPS : NIBBLE_STEPS) * WIDTH, whole = bytes / WIDTH * WIDTH;
    const size_t step = tokens * planes; /* bytes of x beside one of a row */
    for (size_t r = 0; r < DOT_ROWS; r++, total += tokens) {
        for (size_t t = 0; t < tokens; t++)
            total[t] = _mm256_setzero_si256();
        for (size_t i = 0; i < whole; i += part)
            add_steps(rows[r], i, size_min(i + part, whole), false, x + i * step, tokens, planes, total);
        if (whole < bytes) add_steps(rows[r], whole, bytes, true, x + whole * step, tokens, planes, total);
    }
}

void dot_packed_tokens_avx2(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks,
                            const int8_t *x, size_t tokens, const int32_t *x_sums, int32_t sums[][DOT_ROWS]) {
    const size_t bytes = blocks * packing_block_bytes(p);
    const bool nibbles = p->planes[0].plane == PLANE_NIBBLES, few = tokens == DOT_TOKENS;
    __m256i total[DOT_ROWS * DOT_MOST_TOKENS]; /* [DOT_ROWS][tokens] */
    DQT_ASSERT(dot_packed_takes(p) && (few || tokens == DOT_MOST_TOKENS));
    if (nibbles && few) {
        dot_tokens(rows, bytes, x, DOT_TOKENS, 2, total);
    } else if (nibbles) {
        dot_tokens(rows, bytes, x, DOT_MOST_TOKENS, 2, total);
    } else if (few) {
        dot_tokens(rows, bytes, x, DOT_TOKENS, 4, total);
    } else {
        dot_tokens(rows, bytes, x, DOT_MOST_TOKENS, 4, total);
    }
    for (size_t t = 0; t < tokens; t++) {
        const __m256i low = _mm256_hadd_epi32(total[t], total[tokens + t]);
        const __m256i v = _mm256_hadd_epi32(low, _mm256_hadd_epi32(total[2 * tokens + t], total[3 * tokens + t]));
        const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        _mm_storeu_si128((__m128i *)(void *)sums[t], _mm_add_epi32(sum, _mm_set1_epi32(p->bias * x_sums[t])));
    }
}

TARGET_END
#endif
