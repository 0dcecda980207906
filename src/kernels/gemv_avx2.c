/* Few tokens with AVX2. Packed bytes are masked, not unpacked: u, a code without its bias, is an unsigned byte, and
 * vpmaddubsw adds two products u * x with signed x to a 16-bit sum. It saturates, so each sum takes only as many of
 * these as are proved to fit before vpmaddwd widens it. */
typedef int gemv_avx2_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "kernels/gemm_epilogue_avx2.h"
#include "kernels/gemv_permute.h"
#include "kernels/kernels_avx2.h"
#include "kernels/prefetch.h"

/* Steps of 32 packed bytes in a 16-bit sum. A step adds to the sums of 2 bits two pairs of products of codes that are
 * 4 u where they are, 4 * 3 at most; to those of 4 bits two pairs of products of codes up to 15. */
enum { WIDTH = 32, CRUMB_STEPS = 5, NIBBLE_STEPS = 4 };
_Static_assert(CRUMB_STEPS * 2 * 2 * 4 * 3 * 128 <= INT16_MAX, "2 bits");
_Static_assert(NIBBLE_STEPS * 2 * 2 * 15 * 128 <= INT16_MAX, "4 bits");

/* 16-bit sums to 32-bit ones, two in one. */
static inline __m256i widened(__m256i sums) {
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}

/* The sums of four vectors. */
static inline __m128i sum_each(const __m256i v[DOT_ROWS]) {
    const __m256i h = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

static inline __m128i load16(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}

static inline __m256i load_two16(const void *low, const void *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(low)), load16(high), 1);
}

/* 16-bit sums of 2-bit codes: those of the first and third quarter, and 4 times those of the others. Only the upper
 * half of a byte is shifted. */
struct crumb_sums {
    __m256i once, fourfold;
};

static inline struct crumb_sums add_crumbs(struct crumb_sums s, __m256i v, const __m256i x[4]) {
    const __m256i m0 = _mm256_set1_epi8(0x03), m1 = _mm256_set1_epi8(0x0c), w = _mm256_srli_epi16(v, 4);
    s.once = _mm256_add_epi16(s.once, _mm256_maddubs_epi16(_mm256_and_si256(v, m0), x[0]));
    s.fourfold = _mm256_add_epi16(s.fourfold, _mm256_maddubs_epi16(_mm256_and_si256(v, m1), x[1]));
    s.once = _mm256_add_epi16(s.once, _mm256_maddubs_epi16(_mm256_and_si256(w, m0), x[2]));
    s.fourfold = _mm256_add_epi16(s.fourfold, _mm256_maddubs_epi16(_mm256_and_si256(w, m1), x[3]));
    return s;
}

static inline __m256i crumbs_widened(struct crumb_sums s) {
    return widened(_mm256_add_epi16(s.once, _mm256_srai_epi16(s.fourfold, 2)));
}

static inline __m256i add_nibbles(__m256i sum, __m256i v, __m256i x0, __m256i x1) {
    const __m256i mask = _mm256_set1_epi8(15);
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_and_si256(v, mask), x0));
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(v, 4), mask), x1));
}

/* |w| <= 128 fits an unsigned byte, and 2 * 128 * 127 a signed 16-bit number, which w * x as they are would not be: x
 * takes w's sign instead. */
static inline __m256i dot_bytes(__m256i w, __m256i x) {
    return widened(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)));
}

static void permute_for_dot(const struct packing *p, const int8_t *x, size_t blocks, size_t token, size_t tokens,
                            int8_t *out) {
    permute_planes(p, x, blocks, WIDTH, token, tokens, out);
}

/* Up to CRUMB_STEPS steps of whole vectors, or one that has 16 bytes. */
static inline void crumb_steps(const uint8_t *const rows[DOT_ROWS], size_t from, size_t to, bool half, const int8_t *x,
                               __m256i total[DOT_ROWS]) {
    struct crumb_sums s[DOT_ROWS];
    for (size_t r = 0; r < DOT_ROWS; r++)
        s[r].once = s[r].fourfold = _mm256_setzero_si256();
    for (size_t i = from; i < to; i += WIDTH, x += 4 * WIDTH) {
        __m256i xv[4];
        for (size_t q = 0; q < 4; q++)
            xv[q] = load_int(x + q * WIDTH);
        for (size_t r = 0; r < DOT_ROWS; r++) {
            const __m256i v =
                half ? _mm256_inserti128_si256(_mm256_setzero_si256(), load16(rows[r] + i), 0) : load_int(rows[r] + i);
            prefetch_ahead(rows[r], i + PREFETCH_WEIGHTS);
            s[r] = add_crumbs(s[r], v, xv);
        }
    }
    for (size_t r = 0; r < DOT_ROWS; r++)
        total[r] = _mm256_add_epi32(total[r], crumbs_widened(s[r]));
}

static inline void nibble_steps(const uint8_t *const rows[DOT_ROWS], size_t from, size_t to, const int8_t *x,
                                __m256i total[DOT_ROWS]) {
    __m256i s[DOT_ROWS];
    for (size_t r = 0; r < DOT_ROWS; r++)
        s[r] = _mm256_setzero_si256();
    for (size_t i = from; i < to; i += WIDTH, x += 2 * WIDTH) {
        const __m256i x0 = load_int(x), x1 = load_int(x + WIDTH);
        for (size_t r = 0; r < DOT_ROWS; r++) {
            prefetch_ahead(rows[r], i + PREFETCH_WEIGHTS);
            s[r] = add_nibbles(s[r], load_int(rows[r] + i), x0, x1);
        }
    }
    for (size_t r = 0; r < DOT_ROWS; r++)
        total[r] = _mm256_add_epi32(total[r], widened(s[r]));
}

static void dot_packed(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks, const int8_t *x,
                       int32_t x_sum, int32_t sums[DOT_ROWS]) {
    const size_t bytes = blocks * packing_block_bytes(p), whole = bytes / WIDTH * WIDTH;
    __m256i total[DOT_ROWS];
    DQT_ASSERT(dot_packed_takes(p));
    for (size_t r = 0; r < DOT_ROWS; r++)
        total[r] = _mm256_setzero_si256();
    if (p->planes[0].plane == PLANE_NIBBLES) {
        for (size_t i = 0; i < whole; i += NIBBLE_STEPS * WIDTH)
            nibble_steps(rows, i, size_min(i + NIBBLE_STEPS * WIDTH, whole), x + 2 * i, total);
    } else {
        for (size_t i = 0; i < whole; i += CRUMB_STEPS * WIDTH)
            crumb_steps(rows, i, size_min(i + CRUMB_STEPS * WIDTH, whole), false, x + 4 * i, total);
        if (whole < bytes) crumb_steps(rows, whole, bytes, true, x + 4 * whole, total);
    }
    const __m128i correction = _mm_set1_epi32(p->bias * x_sum); /* codes are stored minus the bias */
    _mm_storeu_si128((__m128i *)(void *)sums, _mm_add_epi32(sum_each(total), correction));
}

int32_t dot_codes_avx2(const int8_t *codes, const int8_t *x, size_t n) {
    DQT_ASSERT(n % 32 == 0);
    __m256i s0 = _mm256_setzero_si256(), s1 = s0;
    size_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        s0 = _mm256_add_epi32(s0, dot_bytes(load_int(codes + i), load_int(x + i)));
        s1 = _mm256_add_epi32(s1, dot_bytes(load_int(codes + i + WIDTH), load_int(x + i + WIDTH)));
    }
    if (i < n) s0 = _mm256_add_epi32(s0, dot_bytes(load_int(codes + i), load_int(x + i)));
    return sum_ints(_mm256_add_epi32(s0, s1));
}

/* ---- Scales of groups: 32-bit sums of a group of each row, in v ---- */

/* 32 packed bytes are two blocks: x, in order, is taken 16 bytes of each at a time. */
static inline void group_crumbs(const uint8_t *const rows[DOT_ROWS], size_t at, size_t group, const int8_t *x,
                                __m256i v[DOT_ROWS]) {
    struct crumb_sums s[DOT_ROWS];
    for (size_t r = 0; r < DOT_ROWS; r++)
        s[r].once = s[r].fourfold = _mm256_setzero_si256();
    for (size_t c = 0; c < group; c += 4 * WIDTH, at += WIDTH, x += 4 * WIDTH) {
        __m256i xv[4];
        for (size_t q = 0; q < 4; q++)
            xv[q] = load_two16(x + 16 * q, x + PACK_BLOCK + 16 * q);
        for (size_t r = 0; r < DOT_ROWS; r++)
            s[r] = add_crumbs(s[r], load_int(rows[r] + at), xv);
    }
    for (size_t r = 0; r < DOT_ROWS; r++)
        v[r] = crumbs_widened(s[r]);
}

static inline void group_nibbles(const uint8_t *const rows[DOT_ROWS], size_t at, size_t group, const int8_t *x,
                                 __m256i v[DOT_ROWS]) {
    for (size_t r = 0; r < DOT_ROWS; r++)
        v[r] = _mm256_setzero_si256();
    for (size_t c = 0; c < group; c += 2 * WIDTH, at += WIDTH, x += 2 * WIDTH)
        for (size_t r = 0; r < DOT_ROWS; r++)
            v[r] = add_nibbles(v[r], load_int(rows[r] + at), load_int(x), load_int(x + WIDTH));
    for (size_t r = 0; r < DOT_ROWS; r++)
        v[r] = widened(v[r]);
}

/* 32 columns: the lower or the upper halves of 32 bytes. */
static inline void half_nibbles(const uint8_t *const rows[DOT_ROWS], size_t at, bool upper, const int8_t *x,
                                __m256i v[DOT_ROWS]) {
    const __m256i mask = _mm256_set1_epi8(15), xv = load_int(x);
    for (size_t r = 0; r < DOT_ROWS; r++) {
        const __m256i u = load_int(rows[r] + at);
        v[r] = widened(_mm256_maddubs_epi16(_mm256_and_si256(upper ? _mm256_srli_epi16(u, 4) : u, mask), xv));
    }
}

static inline void group_bytes(const uint8_t *const rows[DOT_ROWS], size_t at, size_t group, const int8_t *x,
                               __m256i v[DOT_ROWS]) {
    for (size_t r = 0; r < DOT_ROWS; r++)
        v[r] = _mm256_setzero_si256();
    for (size_t c = 0; c < group; c += WIDTH)
        for (size_t r = 0; r < DOT_ROWS; r++)
            v[r] = _mm256_add_epi32(v[r], dot_bytes(load_int(rows[r] + at + c), load_int(x + c)));
}

/* sum + (float)(the group's sum) * scale of each row, both rounded. */
static inline __m128 add_group(__m128 sum, const __m256i v[DOT_ROWS], int32_t correction, const float *scale) {
    const __m128i sums = _mm_add_epi32(sum_each(v), _mm_set1_epi32(correction));
    return _mm_add_ps(sum, _mm_mul_ps(_mm_cvtepi32_ps(sums), _mm_loadu_ps(scale)));
}

void dot_groups_avx2(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t group, size_t groups,
                     const int8_t *x, const int32_t *x_sums, const float *scales, float sums[DOT_ROWS]) {
    const enum plane plane = p->planes[0].plane;
    const size_t step = group * (size_t)plane / 8; /* bytes of a group */
    __m256i v[DOT_ROWS];
    __m128 sum = _mm_set1_ps(-0.0f); /* to which any number can be added without a change */
    DQT_ASSERT(dot_groups_takes(p, group));
    if (plane == PLANE_NIBBLES && group == 32) {
        for (size_t g = 0; g < groups; g++, x += group, scales += DOT_ROWS) {
            half_nibbles(rows, g / 2 * WIDTH, g % 2, x, v);
            sum = add_group(sum, v, p->bias * x_sums[g], scales);
        }
    } else if (plane == PLANE_NIBBLES) {
        for (size_t g = 0; g < groups; g++, x += group, scales += DOT_ROWS) {
            group_nibbles(rows, g * step, group, x, v);
            sum = add_group(sum, v, p->bias * x_sums[g], scales);
        }
    } else if (plane == PLANE_CRUMBS) {
        for (size_t g = 0; g < groups; g++, x += group, scales += DOT_ROWS) {
            group_crumbs(rows, g * step, group, x, v);
            sum = add_group(sum, v, p->bias * x_sums[g], scales);
        }
    } else {
        for (size_t g = 0; g < groups; g++, x += group, scales += DOT_ROWS) {
            group_bytes(rows, g * step, group, x, v);
            sum = add_group(sum, v, 0, scales);
        }
    }
    _mm_storeu_ps(sums, sum);
}

const struct packed_dot_kernels packed_dot_avx2 = {.permute_for_dot = permute_for_dot,
                                                   .dot_packed = dot_packed,
                                                   .dot_packed_tokens = dot_packed_tokens_avx2,
                                                   .batch = DOT_MOST_TOKENS,
                                                   .max_tokens = 24};

TARGET_END
#endif
