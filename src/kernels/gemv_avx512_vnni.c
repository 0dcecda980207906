/* Few tokens with VNNI: packed bytes are masked where they are, not shifted. 64 bytes of 2-bit codes are 256 codes:
 * bits 0-1 of every byte are one plane, bits 2-3 (four times the code) the next, and so on. Each plane has its own
 * sums, which are divided by 1, 4, 16 and 64 at the end, exactly: a lane's sum stays below 2^31 for 5 million
 * columns. */
typedef int gemv_vnni_translation_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512_VNNI)
#include "core/assert.h"
#include "kernels/gemv_permute.h"
#include "kernels/kernels_avx512_vnni.h"

static void permute_for_dot(const struct packing *p, const int8_t *x, size_t blocks, size_t token, size_t tokens,
                            int8_t *out) {
    permute_planes(p, x, blocks, 64, token, tokens, out);
}

static inline __mmask64 first_bytes(size_t count) {
    return count >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << count) - 1;
}

static void dot_2bit(const uint8_t *const rows[DOT_ROWS], size_t bytes, const int8_t *x, int32_t correction,
                     int32_t sums[DOT_ROWS]) {
    const __m512i m0 = _mm512_set1_epi8(0x03), m1 = _mm512_set1_epi8(0x0c), m2 = _mm512_set1_epi8(0x30),
                  m3 = _mm512_set1_epi8((char)0xc0);
    __m512i s[DOT_ROWS][4];
    for (int r = 0; r < DOT_ROWS; r++)
        for (int p = 0; p < 4; p++)
            s[r][p] = _mm512_setzero_si512();
    /* the rows after these: streams this short defeat hardware */
    const size_t prefetch = DOT_ROWS * ((uintptr_t)rows[1] - (uintptr_t)rows[0]);
    for (size_t i = 0; i < bytes; i += 64, x += 256) {
        const __mmask64 mask = first_bytes(bytes - i);
        const __m512i x0 = _mm512_loadu_si512(x), x1 = _mm512_loadu_si512(x + 64), x2 = _mm512_loadu_si512(x + 128),
                      x3 = _mm512_loadu_si512(x + 192);
        for (int r = 0; r < DOT_ROWS; r++) {
            const __m512i v = _mm512_maskz_loadu_epi8(mask, rows[r] + i);
            _mm_prefetch((const char *)((uintptr_t)rows[r] + i + prefetch), _MM_HINT_T0);
            s[r][0] = _mm512_dpbusd_epi32(s[r][0], _mm512_and_si512(v, m0), x0);
            s[r][1] = _mm512_dpbusd_epi32(s[r][1], _mm512_and_si512(v, m1), x1);
            s[r][2] = _mm512_dpbusd_epi32(s[r][2], _mm512_and_si512(v, m2), x2);
            s[r][3] = _mm512_dpbusd_epi32(s[r][3], _mm512_and_si512(v, m3), x3);
        }
    }
    for (int r = 0; r < DOT_ROWS; r++) {
        const __m512i a = _mm512_add_epi32(s[r][0], _mm512_srai_epi32(s[r][1], 2));
        const __m512i b = _mm512_add_epi32(_mm512_srai_epi32(s[r][2], 4), _mm512_srai_epi32(s[r][3], 6));
        sums[r] = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)) + correction;
    }
}

static void dot_4bit(const uint8_t *const rows[DOT_ROWS], size_t bytes, const int8_t *x, int32_t correction,
                     int32_t sums[DOT_ROWS]) {
    const __m512i m0 = _mm512_set1_epi8(0x0f), m1 = _mm512_set1_epi8((char)0xf0);
    __m512i s[DOT_ROWS][2];
    for (int r = 0; r < DOT_ROWS; r++)
        for (int p = 0; p < 2; p++)
            s[r][p] = _mm512_setzero_si512();
    for (size_t i = 0; i < bytes; i += 64, x += 128) {
        const __mmask64 mask = first_bytes(bytes - i);
        const __m512i x0 = _mm512_loadu_si512(x), x1 = _mm512_loadu_si512(x + 64);
        for (int r = 0; r < DOT_ROWS; r++) {
            const __m512i v = _mm512_maskz_loadu_epi8(mask, rows[r] + i);
            s[r][0] = _mm512_dpbusd_epi32(s[r][0], _mm512_and_si512(v, m0), x0);
            s[r][1] = _mm512_dpbusd_epi32(s[r][1], _mm512_and_si512(v, m1), x1);
        }
    }
    for (int r = 0; r < DOT_ROWS; r++)
        sums[r] = _mm512_reduce_add_epi32(_mm512_add_epi32(s[r][0], _mm512_srai_epi32(s[r][1], 4))) + correction;
}

static void dot_packed(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks, const int8_t *x,
                       int32_t x_sum, int32_t sums[DOT_ROWS]) {
    const size_t bytes = blocks * packing_block_bytes(p);
    const int32_t correction = p->bias * x_sum; /* codes are stored minus the bias */
    DQT_ASSERT(dot_packed_takes(p));
    if (p->planes[0].plane == PLANE_NIBBLES) {
        dot_4bit(rows, bytes, x, correction, sums);
    } else {
        dot_2bit(rows, bytes, x, correction, sums);
    }
}

/* a is made unsigned; 128 times the sum of b is taken away again. Wrap-around is exact. */
int32_t dot_codes_avx512_vnni(const int8_t *a, const int8_t *b, size_t n) {
    DQT_ASSERT(n % 32 == 0);
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    __m512i s0 = _mm512_setzero_si512(), s1 = s0;
    for (size_t i = 0; i < n; i += 64) {
        const __mmask64 mask = first_bytes(n - i);
        const __m512i y = _mm512_maskz_loadu_epi8(mask, b + i);
        s0 = _mm512_dpbusd_epi32(s0, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, a + i), flip), y);
        s1 = _mm512_dpbusd_epi32(s1, flip, y);
    }
    return _mm512_reduce_add_epi32(_mm512_sub_epi32(s0, s1));
}

const struct packed_dot_kernels packed_dot_avx512_vnni = {.permute_for_dot = permute_for_dot,
                                                          .dot_packed = dot_packed,
                                                          .dot_packed_tokens = dot_packed_tokens_avx512_vnni,
                                                          .batch = DOT_MOST_TOKENS,
                                                          .max_tokens = 24};

/* Beside AMX, whose tiles take 16 tokens in the time of one. */
const struct packed_dot_kernels packed_dot_avx512_vnni_amx = {.permute_for_dot = permute_for_dot,
                                                              .dot_packed = dot_packed,
                                                              .dot_packed_tokens = dot_packed_tokens_avx512_vnni,
                                                              .batch = DOT_MOST_TOKENS,
                                                              .max_tokens = 8};

TARGET_END
#endif
