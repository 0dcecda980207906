/* Several tokens with AVX-512 VNNI (gemv_avx512_vnni.c has one): a vector of packed bytes is unpacked once, in
 * registers, and multiplied with four or eight vectors of activations, which lie beside each other in L1. */
typedef int gemv_tokens_avx512_vnni_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512_VNNI)
#include "core/assert.h"
#include "core/size.h"
#include "kernels/kernels_avx512_vnni.h"
#include "kernels/prefetch.h"
#include "kernels/registers.h"

/* Sums in registers: of two rows and eight tokens or four rows and four tokens, with vectors of their codes. */
enum { WIDTH = 64, SUMS = 16 };

/* Adds the products of 64 packed bytes of each row, u, to sum [rows][tokens]. rows, tokens and planes are constants
 * where this is inlined. */
CONSTANTS_INLINE void add_step(const __m512i *v, size_t rows, const int8_t *x, size_t tokens, size_t planes,
                               __m512i sum[SUMS]) {
    const __m512i mask = _mm512_set1_epi8(planes == 4 ? 3 : 15);
    __m512i u[DOT_ROWS];
    for (size_t p = 0; p < planes; p++) {
        for (size_t r = 0; r < rows; r++)
            u[r] = _mm512_and_si512(_mm512_srli_epi16(v[r], (uint8_t)(p * 8 / planes)), mask);
        for (size_t t = 0; t < tokens; t++) {
            const __m512i xv = _mm512_loadu_si512(x + (t * planes + p) * WIDTH);
            for (size_t r = 0; r < rows; r++)
                sum[r * tokens + t] = _mm512_dpbusd_epi32(sum[r * tokens + t], u[r], xv);
        }
    }
}

CONSTANTS_INLINE void dot_rows(const uint8_t *const *row, size_t rows, size_t bytes, const int8_t *x, size_t tokens,
                               size_t planes, __m512i sum[SUMS]) {
    __m512i v[DOT_ROWS];
    size_t i = 0;
    for (size_t j = 0; j < SUMS; j++)
        sum[j] = _mm512_setzero_si512();
    for (; i + WIDTH <= bytes; i += WIDTH, x += tokens * planes * WIDTH) {
        for (size_t r = 0; r < rows; r++) {
            v[r] = _mm512_loadu_si512(row[r] + i);
            prefetch_ahead(row[r], i + PREFETCH_WEIGHTS);
        }
        add_step(v, rows, x, tokens, planes, sum);
    }
    if (i < bytes) {
        for (size_t r = 0; r < rows; r++)
            v[r] = _mm512_maskz_loadu_epi8(((__mmask64)1 << (bytes - i)) - 1, row[r] + i);
        add_step(v, rows, x, tokens, planes, sum);
    }
}

/* Of two vectors: lanes of 32 bits, of 64 and of 128, are added to their neighbours, those of a beside those of b. */
static inline __m512i add_odd32(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

static inline __m512i add_odd64(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

static inline __m512i add_odd128(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/* sum: [DOT_ROWS][tokens], the sums of whose lanes become sums[tokens][DOT_ROWS]. */
CONSTANTS_INLINE void finish(const __m512i *sum, size_t tokens, int32_t bias, const int32_t *x_sums,
                             int32_t sums[][DOT_ROWS]) {
    const __m512i each = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    for (size_t t = 0; t < tokens; t += 4) {
        __m512i v[4];
        for (size_t i = 0; i < 4; i++)
            v[i] = add_odd64(add_odd32(sum[t + i], sum[tokens + t + i]),
                             add_odd32(sum[2 * tokens + t + i], sum[3 * tokens + t + i]));
        const __m512i all = add_odd128(add_odd128(v[0], v[1]), add_odd128(v[2], v[3]));
        const __m512i x_sum = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)(x_sums + t)));
        const __m512i correction = _mm512_mullo_epi32(_mm512_permutexvar_epi32(each, x_sum), _mm512_set1_epi32(bias));
        _mm512_storeu_si512(sums[t], _mm512_add_epi32(all, correction)); /* codes are stored minus the bias */
    }
}

CONSTANTS_INLINE void dot_tokens(const uint8_t *const rows[DOT_ROWS], size_t bytes, const int8_t *x, size_t tokens,
                                 size_t planes, int32_t bias, const int32_t *x_sums, int32_t sums[][DOT_ROWS]) {
    const size_t together = SUMS / tokens; /* rows */
    __m512i sum[DOT_ROWS * DOT_MOST_TOKENS];
    for (size_t r = 0; r < DOT_ROWS; r += together)
        dot_rows(rows + r, together, bytes, x, tokens, planes, sum + r * tokens);
    finish(sum, tokens, bias, x_sums, sums);
}

void dot_packed_tokens_avx512_vnni(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks,
                                   const int8_t *x, size_t tokens, const int32_t *x_sums, int32_t sums[][DOT_ROWS]) {
    const size_t bytes = blocks * packing_block_bytes(p);
    const bool nibbles = p->planes[0].plane == PLANE_NIBBLES, few = tokens == DOT_TOKENS;
    DQT_ASSERT(dot_packed_takes(p) && (few || tokens == DOT_MOST_TOKENS));
    if (nibbles && few) {
        dot_tokens(rows, bytes, x, DOT_TOKENS, 2, p->bias, x_sums, sums);
    } else if (nibbles) {
        dot_tokens(rows, bytes, x, DOT_MOST_TOKENS, 2, p->bias, x_sums, sums);
    } else if (few) {
        dot_tokens(rows, bytes, x, DOT_TOKENS, 4, p->bias, x_sums, sums);
    } else {
        dot_tokens(rows, bytes, x, DOT_MOST_TOKENS, 4, p->bias, x_sums, sums);
    }
}

TARGET_END
#endif
