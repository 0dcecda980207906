/* Float vectors with rows of any of three types, with AVX2 and FMA; four sums hide the latency of multiply-add. */
typedef int dot_float_avx2_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "core/assert.h"
#include "kernels/kernels_avx2.h"
#include "kernels/prefetch.h"
#include "kernels/registers.h"
#include "kernels/sum_lanes_avx2.h"

CONSTANTS_INLINE __m256 load_row(const void *w, size_t i, enum dot_element type) {
    switch (type) {
    case DOT_CODE: {
        int64_t eight;
        memcpy(&eight, (const int8_t *)w + i, sizeof eight);
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(eight)));
    }
    case DOT_BF16: {
        const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)w + i));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    case DOT_F32: break;
    }
    return _mm256_loadu_ps((const float *)w + i);
}

static inline size_t element_bytes(enum dot_element type) {
    return type == DOT_CODE ? 1 : type == DOT_BF16 ? 2 : 4;
}

/* Ahead of 32 elements from i on. */
CONSTANTS_INLINE void prefetch_rows(const void *w, size_t i, enum dot_element type) {
    for (size_t line = 0; line < 32 * element_bytes(type); line += 64)
        prefetch_ahead(w, i * element_bytes(type) + line + PREFETCH_WEIGHTS);
}

CONSTANTS_INLINE float dot_row(const void *w, const float *x, size_t n, enum dot_element type) {
    __m256 s[4];
    for (int j = 0; j < 4; j++)
        s[j] = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        prefetch_rows(w, i, type);
        for (size_t j = 0; j < 4; j++)
            s[j] = _mm256_fmadd_ps(load_row(w, i + 8 * j, type), _mm256_loadu_ps(x + i + 8 * j), s[j]);
    }
    for (; i < n; i += 8) { /* copies of the last few: nothing beyond them is read */
        const size_t count = n - i < 8 ? n - i : 8, size = element_bytes(type);
        float w8[8] = {0}, x8[8] = {0};
        memcpy(w8, (const char *)w + i * size, count * size);
        memcpy(x8, x + i, count * sizeof *x);
        s[0] = _mm256_fmadd_ps(load_row(w8, 0, type), _mm256_loadu_ps(x8), s[0]);
    }
    return sum_lanes(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
}

static float dot_code_float(const int8_t *codes, const float *x, size_t n) {
    return dot_row(codes, x, n, DOT_CODE);
}

static float dot_bf16_float(const uint16_t *w, const float *x, size_t n) {
    return dot_row(w, x, n, DOT_BF16);
}

static float dot_float(const float *w, const float *x, size_t n) {
    return dot_row(w, x, n, DOT_F32);
}

/* ---- Several rows and tokens: the sums of dot_row, one of its four after the other, for so many fit the registers --
 */

enum { TOKENS = DOT_TOKENS };
typedef __m256 tile_sums[DOT_TILE_ROWS][TOKENS];

CONSTANTS_INLINE void tile_step(tile_sums s, const void *const rows[DOT_TILE_ROWS], const float *const x[TOKENS],
                                size_t i, enum dot_element type) {
    __m256 w[DOT_TILE_ROWS];
    for (size_t r = 0; r < DOT_TILE_ROWS; r++)
        w[r] = load_row(rows[r], i, type);
    for (size_t t = 0; t < TOKENS; t++) {
        const __m256 xv = _mm256_loadu_ps(x[t] + i);
        for (size_t r = 0; r < DOT_TILE_ROWS; r++)
            s[r][t] = _mm256_fmadd_ps(w[r], xv, s[r][t]);
    }
}

/* The last n - i < 8 columns. */
CONSTANTS_INLINE void tile_end(tile_sums s, const void *const rows[DOT_TILE_ROWS], const float *const x[TOKENS],
                               size_t i, size_t n, enum dot_element type) {
    float row8[DOT_TILE_ROWS][8] = {{0}}, x8[TOKENS][8] = {{0}};
    const void *last_rows[DOT_TILE_ROWS];
    const float *last_x[TOKENS];
    for (size_t r = 0; r < DOT_TILE_ROWS; r++) {
        memcpy(row8[r], (const char *)rows[r] + i * element_bytes(type), (n - i) * element_bytes(type));
        last_rows[r] = row8[r];
    }
    for (size_t t = 0; t < TOKENS; t++) {
        memcpy(x8[t], x[t] + i, (n - i) * sizeof(float));
        last_x[t] = x8[t];
    }
    tile_step(s, last_rows, last_x, 0, type);
}

CONSTANTS_INLINE void dot_tile_of(enum dot_element type, const void *const rows[DOT_TILE_ROWS],
                                  const float *const x[TOKENS], size_t n, float *sums) {
    const size_t whole = n / 32 * 32;
    tile_sums part[4];
    for (size_t j = 0; j < 4; j++) {
        tile_sums s;
        for (size_t r = 0; r < DOT_TILE_ROWS; r++)
            for (size_t t = 0; t < TOKENS; t++)
                s[r][t] = _mm256_setzero_ps();
        for (size_t i = 8 * j; i < whole; i += 32) {
            for (size_t r = 0; j == 0 && r < DOT_TILE_ROWS; r++)
                prefetch_rows(rows[r], i, type);
            tile_step(s, rows, x, i, type);
        }
        if (j == 0) {
            for (size_t i = whole; i < n; i += 8) {
                if (n - i < 8) {
                    tile_end(s, rows, x, i, n, type);
                } else {
                    tile_step(s, rows, x, i, type);
                }
            }
        }
        memcpy(part[j], s, sizeof s);
    }
    for (size_t r = 0; r < DOT_TILE_ROWS; r++) {
        __m256 v[TOKENS];
        for (size_t t = 0; t < TOKENS; t++)
            v[t] =
                _mm256_add_ps(_mm256_add_ps(part[0][r][t], part[1][r][t]), _mm256_add_ps(part[2][r][t], part[3][r][t]));
        _mm_storeu_ps(sums + r * DOT_MOST_TOKENS, sum_lanes4(v));
    }
}

static void dot_tile(enum dot_element type, const void *const rows[DOT_TILE_ROWS], const float *const *x, size_t tokens,
                     size_t n, float sums[DOT_TILE_ROWS][DOT_MOST_TOKENS]) {
    for (size_t t = 0; t < tokens; t += TOKENS) {
        float *to = &sums[0][t];
        switch (type) {
        case DOT_CODE: dot_tile_of(DOT_CODE, rows, x + t, n, to); break;
        case DOT_BF16: dot_tile_of(DOT_BF16, rows, x + t, n, to); break;
        case DOT_F32: dot_tile_of(DOT_F32, rows, x + t, n, to); break;
        }
    }
}

const struct float_dot_kernels float_dot_avx2 = {
    .code = dot_code_float, .bf16 = dot_bf16_float, .f32 = dot_float, .tile = dot_tile};

TARGET_END
#endif
