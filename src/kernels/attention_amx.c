/* Attention tiles with bf16 operands on AMX. */
#include "core/assert.h"
#include "kernels/kernels_amx.h"

#if defined(__x86_64__) && !defined(_WIN32)
#include <immintrin.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AMX)

enum { TILE = ATTENTION_TILE, LANES = 16, STEP = 32 /* bf16 in a tile row */ };

static const float log2_e = 1.44269504f;

/* Eight tiles of 16 rows of 64 bytes: 0-3 sums, 4-5 of A, 6-7 of B. Constant, because the intrinsic does not tell the
 * compiler that it reads all of it. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} config = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

static void begin(void) {
    _tile_loadconfig(&config);
}

static void end(void) {
    _tile_release();
}

static void product(size_t rows, size_t cols, size_t depth, const uint16_t *a, size_t lda, const uint32_t *b,
                    size_t ldb, float *c, size_t ldc, bool accumulate) {
    DQT_ASSERT(rows % ATTENTION_COLUMNS == 0 && cols % ATTENTION_COLUMNS == 0 && depth % ATTENTION_COLUMNS == 0);
    const size_t a_bytes = lda * sizeof *a, b_bytes = ldb * sizeof *b, c_bytes = ldc * sizeof *c;
    for (size_t j = 0; j < cols; j += 2 * LANES)
        for (size_t i = 0; i < rows; i += 2 * LANES) {
            float *corner = c + i * ldc + j;
            if (accumulate) {
                _tile_loadd(0, corner, c_bytes);
                _tile_loadd(1, corner + LANES, c_bytes);
                _tile_loadd(2, corner + LANES * ldc, c_bytes);
                _tile_loadd(3, corner + LANES * ldc + LANES, c_bytes);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (size_t k = 0; k < depth; k += STEP) {
                const uint32_t *from = b + k / 2 * ldb + j;
                _tile_loadd(4, a + i * lda + k, a_bytes);
                _tile_loadd(6, from, b_bytes);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, from + LANES, b_bytes);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, a + (i + LANES) * lda + k, a_bytes);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, corner, c_bytes);
            _tile_stored(1, corner + LANES, c_bytes);
            _tile_stored(2, corner + LANES * ldc, c_bytes);
            _tile_stored(3, corner + LANES * ldc + LANES, c_bytes);
        }
}

static inline __mmask16 first_lanes(size_t count) {
    return (__mmask16)(count >= LANES ? 0xffffu : (1u << count) - 1);
}

static inline __m512i pair(__m512 low, __m512 high) {
    __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
    __m512i h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
    return _mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}

static void pack_rows(const float *x, size_t ldx, size_t rows, size_t cols, size_t padded_rows, size_t padded_cols,
                      uint16_t *out) {
    for (size_t r = 0; r < padded_rows; r++)
        for (size_t c = 0; c < padded_cols; c += LANES) {
            __mmask16 mask = r < rows && c < cols ? first_lanes(cols - c) : 0;
            __m512 v = mask ? _mm512_maskz_loadu_ps(mask, x + r * ldx + c) : _mm512_setzero_ps();
            _mm256_storeu_si256((__m256i *)(void *)(out + r * padded_cols + c), (__m256i)_mm512_cvtneps_pbh(v));
        }
}

static void pack_pairs(const float *x, size_t ldx, size_t rows, size_t cols, size_t padded_rows, size_t padded_cols,
                       uint32_t *out) {
    for (size_t r = 0; r < padded_rows; r += 2)
        for (size_t c = 0; c < padded_cols; c += LANES) {
            __mmask16 mask = c < cols ? first_lanes(cols - c) : 0;
            __m512 low = _mm512_setzero_ps(), high = low;
            if (mask && r < rows) low = _mm512_maskz_loadu_ps(mask, x + r * ldx + c);
            if (mask && r + 1 < rows) high = _mm512_maskz_loadu_ps(mask, x + (r + 1) * ldx + c);
            _mm512_storeu_si512(out + r / 2 * padded_cols + c, pair(low, high));
        }
}

static float dot(const uint16_t *x, const float *y, size_t n) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = first_lanes(n - i);
        __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x + i));
        sum =
            _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), _mm512_maskz_loadu_ps(mask, y + i), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

/* 16 by 16: pairs of words, of double words, then quarters of registers change places. */
static inline void transpose_block(const uint32_t *x, size_t ldx, uint32_t *out, size_t ldo) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++)
        a[i] = _mm512_loadu_si512(x + i * ldx);
#pragma GCC unroll 8
    for (size_t i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    /* a[4 g + k]: in its quarter l, column 4 l + k of rows 4 g .. 4 g + 3 */
#pragma GCC unroll 4
    for (size_t i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; k++) {
        __m512i low01 = _mm512_shuffle_i32x4(a[k], a[4 + k], 0x44), high01 = _mm512_shuffle_i32x4(a[k], a[4 + k], 0xee);
        __m512i low23 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0x44);
        __m512i high23 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0xee);
        _mm512_storeu_si512(out + k * ldo, _mm512_shuffle_i32x4(low01, low23, 0x88));
        _mm512_storeu_si512(out + (4 + k) * ldo, _mm512_shuffle_i32x4(low01, low23, 0xdd));
        _mm512_storeu_si512(out + (8 + k) * ldo, _mm512_shuffle_i32x4(high01, high23, 0x88));
        _mm512_storeu_si512(out + (12 + k) * ldo, _mm512_shuffle_i32x4(high01, high23, 0xdd));
    }
}

static void transpose(const uint32_t *x, size_t ldx, size_t rows, size_t cols, uint32_t *out, size_t ldo) {
    for (size_t r = 0; r < rows; r += 16)
        for (size_t c = 0; c < cols; c += 16)
            transpose_block(x + r * ldx + c, ldx, out + c * ldo + r, ldo);
}

/* 2^t for t <= 0 to about 2e-7, far below the rounding to bf16 that follows; below 2^-125 that value. NaN stays NaN. */
static inline __m512 exp2_negative(__m512 t) {
    t = _mm512_max_ps(_mm512_set1_ps(-125), t); /* the second operand where it is NaN */
    __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(t, n);
    __m512 p = _mm512_set1_ps(1.3333558e-3f); /* Taylor terms ln(2)^k / k!, |f| <= 1/2 */
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6181291e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504109e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* Lanes of queries first .. first + 15 that see the key. */
static inline __mmask16 causal_mask(size_t first, size_t key) {
    return (__mmask16)(key <= first ? 0xffffu : key - first >= LANES ? 0u : 0xffffu << (key - first));
}

static inline size_t keys_for(size_t q, size_t keys, bool diagonal) {
    size_t seen = (q / ATTENTION_COLUMNS + 1) * ATTENTION_COLUMNS;
    return diagonal && seen < keys ? seen : keys;
}

static void softmax(const float *s, size_t keys, size_t queries, bool diagonal, float scale, float *maximum, float *sum,
                    float *correction, uint32_t *p) {
    DQT_ASSERT(keys % ATTENTION_COLUMNS == 0 && keys <= TILE && queries % ATTENTION_COLUMNS == 0 && queries <= TILE);
    const __m512 factor = _mm512_set1_ps(scale * log2_e);
    for (size_t q = 0; q < queries; q += LANES) {
        size_t last = keys_for(q, keys, diagonal);
        __m512 old = _mm512_loadu_ps(maximum + q), best = old, second = old;
        for (size_t j = 0; j < last; j += 2) {
            const float *row = s + j * TILE + q;
            __mmask16 m0 = diagonal ? causal_mask(q, j) : (__mmask16)0xffff;
            __mmask16 m1 = diagonal ? causal_mask(q, j + 1) : (__mmask16)0xffff;
            best = _mm512_mask_max_ps(best, m0, _mm512_loadu_ps(row), best);
            second = _mm512_mask_max_ps(second, m1, _mm512_loadu_ps(row + TILE), second);
        }
        best = _mm512_max_ps(second, best);
        const __m512 shift = _mm512_mul_ps(best, factor);
        __m512 total0 = _mm512_setzero_ps(), total1 = total0;
        for (size_t j = 0; j < last; j += 2) {
            const float *row = s + j * TILE + q;
            __m512 p0 = exp2_negative(_mm512_fmsub_ps(_mm512_loadu_ps(row), factor, shift));
            __m512 p1 = exp2_negative(_mm512_fmsub_ps(_mm512_loadu_ps(row + TILE), factor, shift));
            if (diagonal) {
                p0 = _mm512_maskz_mov_ps(causal_mask(q, j), p0);
                p1 = _mm512_maskz_mov_ps(causal_mask(q, j + 1), p1);
            }
            total0 = _mm512_add_ps(total0, p0);
            total1 = _mm512_add_ps(total1, p1);
            _mm512_storeu_si512(p + j / 2 * TILE + q, pair(p0, p1));
        }
        __m512 fade = exp2_negative(_mm512_mul_ps(_mm512_sub_ps(old, best), factor));
        _mm512_storeu_ps(maximum + q, best);
        _mm512_storeu_ps(correction + q, fade);
        _mm512_storeu_ps(sum + q, _mm512_fmadd_ps(_mm512_loadu_ps(sum + q), fade, _mm512_add_ps(total0, total1)));
    }
}

static void softmax_gradient(const float *s, const float *dp, size_t keys, size_t queries, bool diagonal, float scale,
                             const float *log_sum, const float *delta, uint16_t *p, uint16_t *ds, uint32_t *ds_pairs) {
    DQT_ASSERT(keys % ATTENTION_COLUMNS == 0 && keys <= TILE && queries % ATTENTION_COLUMNS == 0 && queries <= TILE);
    const __m512 factor = _mm512_set1_ps(scale * log2_e), times = _mm512_set1_ps(scale);
    for (size_t q = 0; q < queries; q += LANES) {
        size_t last = keys_for(q, keys, diagonal);
        const __m512 shift = _mm512_mul_ps(_mm512_loadu_ps(log_sum + q), _mm512_set1_ps(log2_e));
        const __m512 mean = _mm512_loadu_ps(delta + q);
        for (size_t j = 0; j < last; j += 2) {
            __m512 gradient[2];
            for (size_t i = 0; i < 2; i++) {
                size_t at = (j + i) * TILE + q;
                __mmask16 mask = diagonal ? causal_mask(q, j + i) : (__mmask16)0xffff;
                __m512 t = _mm512_fmsub_ps(_mm512_loadu_ps(s + at), factor, shift);
                __m512 weight = _mm512_maskz_mov_ps(mask, exp2_negative(t));
                __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(dp + at), mean), times);
                gradient[i] = _mm512_maskz_mul_ps(mask, weight, d);
                _mm256_storeu_si256((__m256i *)(void *)(p + at), (__m256i)_mm512_cvtneps_pbh(weight));
                _mm256_storeu_si256((__m256i *)(void *)(ds + at), (__m256i)_mm512_cvtneps_pbh(gradient[i]));
            }
            _mm512_storeu_si512(ds_pairs + j / 2 * TILE + q, pair(gradient[0], gradient[1]));
        }
    }
}

const struct attention_bf16_kernels attention_bf16_amx = {.begin = begin,
                                                          .end = end,
                                                          .product = product,
                                                          .pack_rows = pack_rows,
                                                          .pack_pairs = pack_pairs,
                                                          .dot = dot,
                                                          .transpose = transpose,
                                                          .softmax = softmax,
                                                          .softmax_gradient = softmax_gradient};

TARGET_END
#else
typedef int attention_amx_unused;
#endif
