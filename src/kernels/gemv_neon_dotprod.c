/* Few tokens with the dot product instruction: sdot adds four products of signed bytes to each of four 32-bit sums. */
typedef int gemv_dotprod_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_NEON_DOTPROD)
#include "kernels/gemv_permute.h"
#include "kernels/kernels_neon_dotprod.h"

/* Products of a block with one sum: 4 of each plane. In place, codes of 2 bits are up to 48. */
enum { CRUMB_BLOCKS = 1 << 16, CRUMB_TOKENS_BLOCKS = 1 << 16, NIBBLE_BLOCKS = 1 << 16 };
_Static_assert((int64_t)CRUMB_BLOCKS * 4 * 48 * 128 <= INT32_MAX, "2 bits, 16 times the code");
_Static_assert((int64_t)CRUMB_TOKENS_BLOCKS * 4 * 4 * 3 * 128 <= INT32_MAX, "2 bits");
_Static_assert((int64_t)NIBBLE_BLOCKS * 4 * 4 * 15 * 128 <= INT32_MAX, "4 bits");

static inline int32x4_t short_zero(void) {
    return vdupq_n_s32(0);
}

/* Sums of u, 4 u and 16 u: bytes are masked where they are. Only the top bits are shifted, which takes no mask then. */
struct crumb_sums {
    int32x4_t once, fourfold, sixteenfold;
};

static inline struct crumb_sums crumbs_zero(void) {
    return (struct crumb_sums){vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
}

static inline struct crumb_sums dot_crumbs(struct crumb_sums s, uint8x16_t v, const int8x16_t x[4]) {
    s.once = vdotq_s32(s.once, vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(0x03))), x[0]);
    s.fourfold = vdotq_s32(s.fourfold, vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(0x0c))), x[1]);
    s.sixteenfold = vdotq_s32(s.sixteenfold, vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(0x30))), x[2]);
    s.once = vdotq_s32(s.once, vreinterpretq_s8_u8(vshrq_n_u8(v, 6)), x[3]);
    return s;
}

static inline int32x4_t widen_crumbs(int32x4_t total, struct crumb_sums s) {
    return vaddq_s32(total, vsraq_n_s32(vsraq_n_s32(s.once, s.fourfold, 2), s.sixteenfold, 4));
}

#define SUITE(name) name##_neon_dotprod
#define SHORT int32x4_t
#define SHORT_ZERO short_zero
#define DOT vdotq_s32
#define WIDEN vaddq_s32
#define DOT_BYTES vdotq_s32
#define CRUMBS_ZERO crumbs_zero
#define DOT_CRUMBS dot_crumbs
#define WIDEN_CRUMBS widen_crumbs
#include "kernels/gemv_neon_template.h"
#include "kernels/gemv_tokens_neon_template.h"

const struct packed_dot_kernels packed_dot_neon_dotprod = {.permute_for_dot = permute_for_dot_neon_dotprod,
                                                           .dot_packed = dot_packed_neon_dotprod,
                                                           .dot_packed_tokens = dot_packed_tokens_neon_dotprod,
                                                           .batch = DOT_TOKENS,
                                                           .max_tokens = 32,
                                                           .takes_bytes = true};

TARGET_END
#endif
