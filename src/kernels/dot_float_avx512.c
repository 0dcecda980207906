/* Float vectors with rows of any of three types, with AVX-512; four sums hide the latency of multiply-add. */
typedef int dot_float_avx512_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512)
#include "core/assert.h"
#include "kernels/kernels_avx512.h"
#include "kernels/prefetch.h"
#include "kernels/registers.h"
#include "kernels/sum_lanes_avx2.h"

CONSTANTS_INLINE __m512 load_row(const void *w, size_t i, __mmask16 mask, enum dot_element type) {
    switch (type) {
    case DOT_CODE: return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, (const int8_t *)w + i)));
    case DOT_BF16:
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)w + i)), 16));
    case DOT_F32: break;
    }
    return _mm512_maskz_loadu_ps(mask, (const float *)w + i);
}

/* Ahead of 64 elements from i on. */
CONSTANTS_INLINE void prefetch_row(const void *w, size_t i, enum dot_element type) {
    const size_t bytes = type == DOT_CODE ? 1 : type == DOT_BF16 ? 2 : 4;
    for (size_t line = 0; line < 64 * bytes; line += 64)
        prefetch_ahead(w, i * bytes + line + PREFETCH_WEIGHTS);
}

/* Of the columns from i on. */
static inline __mmask16 first_columns(size_t i, size_t n) {
    return (__mmask16)(n - i >= 16 ? 0xffff : (1u << (n - i)) - 1);
}

/* Before sum_lanes. */
static inline __m256 add_halves(__m512 v) {
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

CONSTANTS_INLINE float dot_row(const void *w, const float *x, size_t n, enum dot_element type) {
    __m512 s[4];
    for (int j = 0; j < 4; j++)
        s[j] = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (size_t j = 0; j < 4; j++)
            s[j] = _mm512_fmadd_ps(load_row(w, i + 16 * j, 0xffff, type), _mm512_loadu_ps(x + i + 16 * j), s[j]);
    for (; i < n; i += 16) {
        const __mmask16 mask = first_columns(i, n);
        s[0] = _mm512_fmadd_ps(load_row(w, i, mask, type), _mm512_maskz_loadu_ps(mask, x + i), s[0]);
    }
    return sum_lanes(add_halves(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]))));
}

static float dot_code_float(const int8_t *codes, const float *x, size_t n) {
    return dot_row(codes, x, n, DOT_CODE);
}

static float dot_bf16_float(const uint16_t *w, const float *x, size_t n) {
    return dot_row(w, x, n, DOT_BF16);
}

static float dot_f32_float(const float *w, const float *x, size_t n) {
    return dot_row(w, x, n, DOT_F32);
}

/* ---- Several rows and tokens: the sums of dot_row, one of its four after the other ---- */

typedef __m512 tile_sums[DOT_TILE_ROWS][DOT_MOST_TOKENS];

CONSTANTS_INLINE void tile_step(tile_sums s, const void *const rows[DOT_TILE_ROWS], const float *const *x,
                                size_t tokens, size_t i, __mmask16 mask, enum dot_element type) {
    __m512 w[DOT_TILE_ROWS];
    for (size_t r = 0; r < DOT_TILE_ROWS; r++)
        w[r] = load_row(rows[r], i, mask, type);
    for (size_t t = 0; t < tokens; t++) {
        const __m512 xv = _mm512_maskz_loadu_ps(mask, x[t] + i);
        for (size_t r = 0; r < DOT_TILE_ROWS; r++)
            s[r][t] = _mm512_fmadd_ps(w[r], xv, s[r][t]);
    }
}

CONSTANTS_INLINE void dot_tile_of(enum dot_element type, const void *const rows[DOT_TILE_ROWS], const float *const *x,
                                  size_t tokens, size_t n, float sums[DOT_TILE_ROWS][DOT_MOST_TOKENS]) {
    const size_t whole = n / 64 * 64;
    tile_sums part[4];
    for (size_t j = 0; j < 4; j++) {
        tile_sums s;
        for (size_t r = 0; r < DOT_TILE_ROWS; r++)
            for (size_t t = 0; t < tokens; t++)
                s[r][t] = _mm512_setzero_ps();
        for (size_t i = 16 * j; i < whole; i += 64) {
            for (size_t r = 0; j == 0 && r < DOT_TILE_ROWS; r++)
                prefetch_row(rows[r], i, type);
            tile_step(s, rows, x, tokens, i, 0xffff, type);
        }
        for (size_t i = whole; j == 0 && i < n; i += 16)
            tile_step(s, rows, x, tokens, i, first_columns(i, n), type);
        memcpy(part[j], s, sizeof s);
    }
    for (size_t r = 0; r < DOT_TILE_ROWS; r++)
        for (size_t first = 0; first < tokens; first += 4) {
            __m256 v[4];
            for (size_t i = 0; i < 4; i++) {
                const size_t t = first + i;
                v[i] = add_halves(_mm512_add_ps(_mm512_add_ps(part[0][r][t], part[1][r][t]),
                                                _mm512_add_ps(part[2][r][t], part[3][r][t])));
            }
            _mm_storeu_ps(sums[r] + first, sum_lanes4(v));
        }
}

#define DOT_TILE(type)                                                                                                 \
    case type:                                                                                                         \
        if (tokens == DOT_MOST_TOKENS) {                                                                               \
            dot_tile_of(type, rows, x, DOT_MOST_TOKENS, n, sums);                                                      \
        } else {                                                                                                       \
            dot_tile_of(type, rows, x, DOT_TOKENS, n, sums);                                                           \
        }                                                                                                              \
        return;

static void dot_tile(enum dot_element type, const void *const rows[DOT_TILE_ROWS], const float *const *x, size_t tokens,
                     size_t n, float sums[DOT_TILE_ROWS][DOT_MOST_TOKENS]) {
    DQT_ASSERT(tokens == DOT_MOST_TOKENS || tokens == DOT_TOKENS);
    switch (type) {
        DOT_TILE(DOT_CODE)
        DOT_TILE(DOT_BF16)
        DOT_TILE(DOT_F32)
    }
}

const struct float_dot_kernels float_dot_avx512 = {
    .code = dot_code_float, .bf16 = dot_bf16_float, .f32 = dot_f32_float, .tile = dot_tile};

TARGET_END
#endif
