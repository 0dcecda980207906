/* Several tokens with smmla, which multiplies 8 bytes of two rows with 8 bytes of two tokens: 32 products, where sdot
 * has
 * 16. One token has no use for it and is left to sdot (gemv_neon_dotprod.c).
 *
 * Packed bytes of two rows are joined 8 by 8 before they are masked, and activations lie as that needs them:
 * [blocks][PACK_BLOCK / 8][DOT_TOKENS][8]. A vector of sums is row 0 with tokens 0 and 1, row 1 with tokens 0 and 1. */
typedef int gemv_i8mm_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_NEON_I8MM)
#include "core/size.h"
#include "kernels/gemv_permute.h"
#include "kernels/kernels_neon_dotprod.h"
#include "kernels/kernels_neon_i8mm.h"
#include "kernels/prefetch.h"
#include "kernels/registers.h"

/* CLASSES: sums of u, 4 u and 16 u (2-bit codes are masked where they are); 4-bit codes and bytes have the first only.
 */
enum { WIDTH = 16, LINE = 64, CHUNK = 8, PAIRS = DOT_ROWS / 2, CLASSES = 3 };

/* Bytes of a row whose products fit a sum: 16 of a block of 2-bit codes are up to 48. */
enum { MOST_BYTES = 1 << 18 };
_Static_assert((int64_t)MOST_BYTES / (PACK_BLOCK / 4) * 16 * 48 * 128 <= INT32_MAX, "2 bits, 16 times the code");
_Static_assert((int64_t)MOST_BYTES / (PACK_BLOCK / 2) * 64 * 15 * 128 <= INT32_MAX, "4 bits");

static void permute_for_dot(const struct packing *p, const int8_t *x, size_t blocks, size_t token, size_t tokens,
                            int8_t *out) {
    if (tokens == 1) {
        permute_for_dot_neon_dotprod(p, x, blocks, token, tokens, out);
        return;
    }
    for (size_t i = 0; i < blocks * PACK_BLOCK; i += CHUNK)
        memcpy(out + i * tokens + token * CHUNK, x + i, CHUNK);
}

struct tile {
    int32x4_t sum[PAIRS][DOT_TOKENS / 2];
};

/* 8 codes of each row, joined to pairs, with 8 of each token, at x. */
CONSTANTS_INLINE void add_chunk(struct tile *s, const uint8x16_t u[PAIRS], const int8_t *x) {
    for (size_t t = 0; t < DOT_TOKENS / 2; t++) {
        const int8x16_t xv = vld1q_s8(x + t * 2 * CHUNK);
        for (size_t i = 0; i < PAIRS; i++)
            s->sum[i][t] = vmmlaq_s32(s->sum[i][t], vreinterpretq_s8_u8(u[i]), xv);
    }
    __asm__ volatile("" : : : "memory"); /* else compilers load all of x first, and registers are missing */
}

/* Value `plane` of each byte, where it is but for the top bits; planes, 4, 2 or 1, and plane are constants. */
CONSTANTS_INLINE uint8x16_t plane_of(uint8x16_t v, size_t planes, size_t plane) {
    if (planes == 1) return v;
    if (plane == planes - 1) return planes == 4 ? vshrq_n_u8(v, 6) : vshrq_n_u8(v, 4);
    return vandq_u8(v, planes == 4 ? vdupq_n_u8((uint8_t)(3 << 2 * plane)) : vdupq_n_u8(15));
}

/* 16 bytes of each row at `at`; x from what belongs to the first of these bytes. */
CONSTANTS_INLINE void add_vector(const uint8_t *const rows[DOT_ROWS], size_t at, const int8_t *x, size_t planes,
                                 struct tile s[CLASSES]) {
    uint8x16_t v[2][PAIRS]; /* the first and the last 8 bytes */
    for (size_t i = 0; i < PAIRS; i++) {
        const uint64x2_t a = vreinterpretq_u64_u8(vld1q_u8(rows[2 * i] + at));
        const uint64x2_t b = vreinterpretq_u64_u8(vld1q_u8(rows[2 * i + 1] + at));
        v[0][i] = vreinterpretq_u8_u64(vzip1q_u64(a, b));
        v[1][i] = vreinterpretq_u8_u64(vzip2q_u64(a, b));
    }
    for (size_t p = 0; p < planes; p++)
        for (size_t half = 0; half < 2; half++) {
            uint8x16_t u[PAIRS];
            for (size_t i = 0; i < PAIRS; i++)
                u[i] = plane_of(v[half][i], planes, p);
            add_chunk(&s[p == planes - 1 ? 0 : p], u, x + (p * (PACK_BLOCK / planes) + half * CHUNK) * DOT_TOKENS);
        }
}

/* sums[t][r] += those of a tile, divided by 1 << shift. */
CONSTANTS_INLINE void add_tile(const struct tile *s, int32_t shift, int32_t sums[DOT_TOKENS][DOT_ROWS]) {
    const int32x4_t down = vdupq_n_s32(-shift);
    for (size_t t = 0; t < DOT_TOKENS / 2; t++) {
        const int32x4_t even = vuzp1q_s32(s->sum[0][t], s->sum[1][t]), odd = vuzp2q_s32(s->sum[0][t], s->sum[1][t]);
        vst1q_s32(sums[2 * t], vaddq_s32(vld1q_s32(sums[2 * t]), vshlq_s32(even, down)));
        vst1q_s32(sums[2 * t + 1], vaddq_s32(vld1q_s32(sums[2 * t + 1]), vshlq_s32(odd, down)));
    }
}

CONSTANTS_INLINE void add_tokens(const uint8_t *const from[DOT_ROWS], size_t bytes, const int8_t *x, size_t planes,
                                 int32_t sums[DOT_TOKENS][DOT_ROWS]) {
    const uint8_t *const rows[DOT_ROWS] = {from[0], from[1], from[2], from[3]}; /* fences leave these in registers */
    const size_t block = PACK_BLOCK / planes;
    for (size_t at = 0; at < bytes;) {
        struct tile s[CLASSES];
        for (size_t c = 0; c < CLASSES; c++)
            for (size_t i = 0; i < PAIRS; i++)
                s[c].sum[i][0] = s[c].sum[i][1] = vdupq_n_s32(0);
        for (const size_t part = size_min(bytes, at + MOST_BYTES); at < part;) {
            for (size_t r = 0; r < DOT_ROWS; r++)
                prefetch_ahead(rows[r], at + PREFETCH_WEIGHTS);
            for (const size_t line = size_min(part, at + LINE); at < line; at += block, x += DOT_TOKENS * PACK_BLOCK)
                for (size_t i = 0; i < block; i += WIDTH)
                    add_vector(rows, at + i, x + i * DOT_TOKENS, planes, s);
        }
        for (size_t c = 0; c < (planes == 4 ? CLASSES : 1); c++)
            add_tile(&s[c], 2 * (int32_t)c, sums);
    }
}

static void dot_packed_tokens(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks,
                              const int8_t *x, size_t tokens, const int32_t *x_sums, int32_t sums[][DOT_ROWS]) {
    const size_t bytes = blocks * packing_block_bytes(p);
    DQT_ASSERT((dot_packed_takes(p) || packing_is_bytes(p)) && tokens == DOT_TOKENS);
    (void)tokens; /* there is one size of batches */
    for (size_t t = 0; t < DOT_TOKENS; t++)
        vst1q_s32(sums[t], vdupq_n_s32(p->bias * x_sums[t])); /* codes are stored minus the bias */
    if (packing_is_bytes(p)) {
        add_tokens(rows, bytes, x, 1, sums);
    } else if (p->planes[0].plane == PLANE_NIBBLES) {
        add_tokens(rows, bytes, x, 2, sums);
    } else {
        add_tokens(rows, bytes, x, 4, sums);
    }
}

const struct packed_dot_kernels packed_dot_neon_i8mm = {.permute_for_dot = permute_for_dot,
                                                        .dot_packed = dot_packed_neon_dotprod,
                                                        .dot_packed_tokens = dot_packed_tokens,
                                                        .batch = DOT_TOKENS,
                                                        .max_tokens = 24,
                                                        .takes_bytes = true};

TARGET_END
#endif
