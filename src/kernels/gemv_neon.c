/* Few tokens with NEON alone: smlal adds the product of two bytes to a 16-bit sum, eight at a time. So each sum takes
 * only as many as are proved to fit before sadalp widens it. */
typedef int gemv_neon_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#include "kernels/gemv_permute.h"
#include "kernels/kernels_neon.h"

/* A block of 2-bit codes is 8 products of one sum, where all are shifted down; for one token, 6 of codes up to 3 and 2
 * of codes that are 4 u where they are, which have sums of their own. A block of 4-bit codes is 8 products too. */
enum { CRUMB_BLOCKS = 8, CRUMB_TOKENS_BLOCKS = 8, NIBBLE_BLOCKS = 2 };
_Static_assert(CRUMB_BLOCKS * 2 * 4 * 3 * 128 <= INT16_MAX, "2 bits, four times the code");
_Static_assert(CRUMB_BLOCKS *(6 + 2) * 3 * 128 <= INT16_MAX, "2 bits, the code and a quarter of the former");
_Static_assert(CRUMB_TOKENS_BLOCKS * 8 * 3 * 128 <= INT16_MAX, "2 bits");
_Static_assert(NIBBLE_BLOCKS * 8 * 15 * 128 <= INT16_MAX, "4 bits");

static inline int16x8_t short_zero(void) {
    return vdupq_n_s16(0);
}

static inline int16x8_t dot(int16x8_t sum, int8x16_t u, int8x16_t x) {
    return vmlal_high_s8(vmlal_s8(sum, vget_low_s8(u), vget_low_s8(x)), u, x);
}

/* Two products fit 16 bits: x is -127 .. 127, and 2 * 128 * 127 is below 2^15. */
static inline int32x4_t dot_bytes(int32x4_t total, int8x16_t w, int8x16_t x) {
    return vpadalq_s16(total, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x));
}

/* Sums of u and of 4 u: only the upper half of a byte is shifted. */
struct crumb_sums {
    int16x8_t once, fourfold;
};

static inline struct crumb_sums crumbs_zero(void) {
    return (struct crumb_sums){vdupq_n_s16(0), vdupq_n_s16(0)};
}

static inline struct crumb_sums dot_crumbs(struct crumb_sums s, uint8x16_t v, const int8x16_t x[4]) {
    const uint8x16_t m0 = vdupq_n_u8(0x03), m1 = vdupq_n_u8(0x0c);
    s.once = dot(s.once, vreinterpretq_s8_u8(vandq_u8(v, m0)), x[0]);
    s.fourfold = dot(s.fourfold, vreinterpretq_s8_u8(vandq_u8(v, m1)), x[1]);
    s.once = dot(s.once, vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 4), m0)), x[2]);
    s.once = dot(s.once, vreinterpretq_s8_u8(vshrq_n_u8(v, 6)), x[3]);
    return s;
}

static inline int32x4_t widen_crumbs(int32x4_t total, struct crumb_sums s) {
    return vpadalq_s16(total, vsraq_n_s16(s.once, s.fourfold, 2));
}

#define SUITE(name) name##_neon
#define SHORT int16x8_t
#define SHORT_ZERO short_zero
#define DOT dot
#define WIDEN vpadalq_s16
#define DOT_BYTES dot_bytes
#define CRUMBS_ZERO crumbs_zero
#define DOT_CRUMBS dot_crumbs
#define WIDEN_CRUMBS widen_crumbs
#include "kernels/gemv_neon_template.h"
#include "kernels/gemv_tokens_neon_template.h"

const struct packed_dot_kernels packed_dot_neon = {.permute_for_dot = permute_for_dot_neon,
                                                   .dot_packed = dot_packed_neon,
                                                   .dot_packed_tokens = dot_packed_tokens_neon,
                                                   .batch = DOT_TOKENS,
                                                   .max_tokens = 32,
                                                   .takes_bytes = true};
#endif
