/* Several tokens with AVX2 (gemv_avx2.c has one): a vector of packed bytes is unpacked once, in registers, and
 * multiplied with DOT_TOKENS vectors of activations, which lie beside each other in L1. */
typedef int gemv_tokens_avx2_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "core/size.h"
#include "kernels/gemm_epilogue_avx2.h"
#include "kernels/kernels_avx2.h"

/* What has constants for arguments must be compiled for them: sums stay in registers. */
#define CONSTANTS_INLINE static inline __attribute__((always_inline))

/* Compilers add products of several planes first, whose sums then do not fit the registers. */
#define KEEP_ORDER(v) __asm__("" : "+x"(v))

/* Steps of 32 packed bytes in a 16-bit sum of vpmaddubsw. A step adds to it the products of two codes of each plane. */
enum { WIDTH = 32, CRUMB_STEPS = 10, NIBBLE_STEPS = 4 };
_Static_assert(CRUMB_STEPS * 4 * 2 * 3 * 128 <= INT16_MAX, "2 bits");
_Static_assert(NIBBLE_STEPS * 2 * 2 * 15 * 128 <= INT16_MAX, "4 bits");

static inline __m256i load_half(const uint8_t *p) {
    return _mm256_inserti128_si256(_mm256_setzero_si256(), _mm_loadu_si128((const __m128i *)(const void *)p), 0);
}

/* Sums of two rows and DOT_TOKENS tokens: with two of codes, a vector of x, a mask and room for products they fill the
 * registers. */
enum { TILE_ROWS = 2 };

/* Whole vectors of two rows, or one that has 16 bytes. planes is a constant where this is inlined. */
CONSTANTS_INLINE void add_steps(const uint8_t *const *rows, size_t from, size_t to, bool half, const int8_t *x,
                                size_t planes, __m256i total[TILE_ROWS][DOT_TOKENS]) {
    const __m256i mask = _mm256_set1_epi8(planes == 4 ? 3 : 15);
    __m256i sum[TILE_ROWS][DOT_TOKENS];
    for (size_t r = 0; r < TILE_ROWS; r++)
        for (size_t t = 0; t < DOT_TOKENS; t++)
            sum[r][t] = _mm256_setzero_si256();
    for (size_t i = from; i < to; i += WIDTH, x += DOT_TOKENS * planes * WIDTH) {
        __m256i v[TILE_ROWS], u[TILE_ROWS];
        for (size_t r = 0; r < TILE_ROWS; r++)
            v[r] = half ? load_half(rows[r] + i) : load_int(rows[r] + i);
        for (size_t p = 0; p < planes; p++) {
            for (size_t r = 0; r < TILE_ROWS; r++)
                u[r] = _mm256_and_si256(_mm256_srli_epi16(v[r], (int)(p * 8 / planes)), mask);
            for (size_t t = 0; t < DOT_TOKENS; t++) {
                const __m256i xv = load_int(x + (t * planes + p) * WIDTH);
                for (size_t r = 0; r < TILE_ROWS; r++) {
                    sum[r][t] = _mm256_add_epi16(sum[r][t], _mm256_maddubs_epi16(u[r], xv));
                    KEEP_ORDER(sum[r][t]);
                }
            }
        }
    }
    for (size_t r = 0; r < TILE_ROWS; r++)
        for (size_t t = 0; t < DOT_TOKENS; t++)
            total[r][t] = _mm256_add_epi32(total[r][t], _mm256_madd_epi16(sum[r][t], _mm256_set1_epi16(1)));
}

CONSTANTS_INLINE void dot_rows(const uint8_t *const *rows, size_t bytes, const int8_t *x, size_t planes,
                               __m256i total[TILE_ROWS][DOT_TOKENS]) {
    const size_t part = (planes == 4 ? CRUMB_STEPS : NIBBLE_STEPS) * WIDTH, whole = bytes / WIDTH * WIDTH;
    const size_t step = DOT_TOKENS * planes; /* bytes of x beside one of a row */
    for (size_t r = 0; r < TILE_ROWS; r++)
        for (size_t t = 0; t < DOT_TOKENS; t++)
            total[r][t] = _mm256_setzero_si256();
    for (size_t i = 0; i < whole; i += part)
        add_steps(rows, i, size_min(i + part, whole), false, x + i * step, planes, total);
    if (whole < bytes) add_steps(rows, whole, bytes, true, x + whole * step, planes, total);
}

void dot_packed_tokens_avx2(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks,
                            const int8_t *x, const int32_t x_sums[DOT_TOKENS], int32_t sums[DOT_TOKENS][DOT_ROWS]) {
    const size_t bytes = blocks * packing_block_bytes(p);
    __m256i total[DOT_ROWS][DOT_TOKENS];
    DQT_ASSERT(dot_packed_takes(p));
    for (size_t r = 0; r < DOT_ROWS; r += TILE_ROWS) {
        if (p->planes[0].plane == PLANE_NIBBLES) {
            dot_rows(rows + r, bytes, x, 2, total + r);
        } else {
            dot_rows(rows + r, bytes, x, 4, total + r);
        }
    }
    for (size_t t = 0; t < DOT_TOKENS; t++) {
        const __m256i low = _mm256_hadd_epi32(total[0][t], total[1][t]);
        const __m256i v = _mm256_hadd_epi32(low, _mm256_hadd_epi32(total[2][t], total[3][t]));
        const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        _mm_storeu_si128((__m128i *)(void *)sums[t], _mm_add_epi32(sum, _mm_set1_epi32(p->bias * x_sums[t])));
    }
}

TARGET_END
#endif
