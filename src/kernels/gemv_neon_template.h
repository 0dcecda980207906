/* One token with NEON: DOT_ROWS packed rows at a time, each byte read once. 16 bytes of 2-bit codes are a block and
 * hold its values in the order of x (format/planes.h), 32 bytes of 4-bit codes too: nothing need be permuted. What is
 * multiplied is u, a code without its bias, at most 15, or a byte as it is: both are signed bytes. Included once per
 * instruction set; parameters (types and functions are defined before):
 *
 *   SUITE(name)            the name of a function that others use
 *   SHORT, SHORT_ZERO()    vector type of sums of products
 *   DOT(sum, u, x)         adds 16 products to a SHORT
 *   WIDEN(total, sum)      adds a SHORT to four 32-bit sums
 *   DOT_BYTES(total, w, x) adds 16 products of bytes to four 32-bit sums
 *   struct crumb_sums, CRUMBS_ZERO(), DOT_CRUMBS(s, v, x[4]), WIDEN_CRUMBS(total, s)
 *                          the same for 16 bytes of 2-bit codes
 *   CRUMB_BLOCKS, NIBBLE_BLOCKS
 *                          blocks of 64 codes whose products fit the sums */
#include "core/size.h"
#include "kernels/prefetch.h"
#include "kernels/registers.h"

enum { WIDTH = 16, LINE = PACK_BLOCK, CRUMB_BYTES = PACK_BLOCK / 4, NIBBLE_BYTES = PACK_BLOCK / 2 };

/* The sums of four vectors. */
static inline int32x4_t sum_each(const int32x4_t v[DOT_ROWS]) {
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

CONSTANTS_INLINE void prefetch_rows(const uint8_t *const rows[DOT_ROWS], size_t at) {
    UNROLL_CLANG
    for (size_t r = 0; r < DOT_ROWS; r++)
        prefetch_ahead(rows[r], at + PREFETCH_WEIGHTS);
}

/* One block of each row, at `at`, with x[PACK_BLOCK]. */
CONSTANTS_INLINE void crumb_block(const uint8_t *const rows[DOT_ROWS], size_t at, const int8_t *x,
                                  struct crumb_sums s[DOT_ROWS]) {
    const int8x16_t xv[4] = {vld1q_s8(x), vld1q_s8(x + 16), vld1q_s8(x + 32), vld1q_s8(x + 48)};
    UNROLL_CLANG
    for (size_t r = 0; r < DOT_ROWS; r++)
        s[r] = DOT_CRUMBS(s[r], vld1q_u8(rows[r] + at), xv);
}

static inline int8x16_t lower(uint8x16_t v) {
    return vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
}

static inline int8x16_t upper(uint8x16_t v) {
    return vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
}

CONSTANTS_INLINE void nibble_block(const uint8_t *const rows[DOT_ROWS], size_t at, const int8_t *x, SHORT s[DOT_ROWS]) {
    const int8x16_t x0 = vld1q_s8(x), x1 = vld1q_s8(x + 16), x2 = vld1q_s8(x + 32), x3 = vld1q_s8(x + 48);
    UNROLL_CLANG
    for (size_t r = 0; r < DOT_ROWS; r++) {
        const uint8x16_t v = vld1q_u8(rows[r] + at), w = vld1q_u8(rows[r] + at + WIDTH);
        s[r] = DOT(DOT(s[r], lower(v), x0), lower(w), x1);
        s[r] = DOT(DOT(s[r], upper(v), x2), upper(w), x3);
    }
}

/* Added to total[r]: row r, so many bytes, whole blocks. */
static void add_crumbs(const uint8_t *const rows[DOT_ROWS], size_t bytes, const int8_t *x, int32x4_t total[DOT_ROWS]) {
    for (size_t at = 0; at < bytes;) {
        struct crumb_sums s[DOT_ROWS];
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++)
            s[r] = CRUMBS_ZERO();
        for (const size_t stop = size_min(bytes, at + CRUMB_BLOCKS * CRUMB_BYTES); at < stop;) {
            prefetch_rows(rows, at);
            for (const size_t line = size_min(stop, at + LINE); at < line; at += CRUMB_BYTES, x += PACK_BLOCK)
                crumb_block(rows, at, x, s);
        }
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++)
            total[r] = WIDEN_CRUMBS(total[r], s[r]);
    }
}

static void add_nibbles(const uint8_t *const rows[DOT_ROWS], size_t bytes, const int8_t *x, int32x4_t total[DOT_ROWS]) {
    for (size_t at = 0; at < bytes;) {
        SHORT s[DOT_ROWS];
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++)
            s[r] = SHORT_ZERO();
        for (const size_t stop = size_min(bytes, at + NIBBLE_BLOCKS * NIBBLE_BYTES); at < stop;) {
            prefetch_rows(rows, at);
            for (const size_t line = size_min(stop, at + LINE); at < line; at += NIBBLE_BYTES, x += PACK_BLOCK)
                nibble_block(rows, at, x, s);
        }
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++)
            total[r] = WIDEN(total[r], s[r]);
    }
}

/* 16 bytes of each row with x[WIDTH]. */
CONSTANTS_INLINE void byte_vector(const uint8_t *const rows[DOT_ROWS], size_t at, const int8_t *x,
                                  int32x4_t total[DOT_ROWS]) {
    const int8x16_t xv = vld1q_s8(x);
    UNROLL_CLANG
    for (size_t r = 0; r < DOT_ROWS; r++)
        total[r] = DOT_BYTES(total[r], vreinterpretq_s8_u8(vld1q_u8(rows[r] + at)), xv);
}

static void add_bytes(const uint8_t *const rows[DOT_ROWS], size_t bytes, const int8_t *x, int32x4_t total[DOT_ROWS]) {
    for (size_t at = 0; at < bytes; at += LINE) {
        prefetch_rows(rows, at);
        UNROLL_CLANG
        for (size_t i = 0; i < LINE; i += WIDTH)
            byte_vector(rows, at + i, x + at + i, total);
    }
}

static inline void zero_totals(int32x4_t total[DOT_ROWS]) {
    UNROLL_CLANG
    for (size_t r = 0; r < DOT_ROWS; r++)
        total[r] = vdupq_n_s32(0);
}

/* x as it is: a group of the order that dot_packed reads is one block. */
void SUITE(permute_for_dot)(const struct packing *p, const int8_t *x, size_t blocks, size_t token, size_t tokens,
                            int8_t *out) {
    permute_planes(p, x, blocks, packing_block_bytes(p), token, tokens, out);
}

void SUITE(dot_packed)(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks, const int8_t *x,
                       int32_t x_sum, int32_t sums[DOT_ROWS]) {
    const size_t bytes = blocks * packing_block_bytes(p);
    int32x4_t total[DOT_ROWS];
    DQT_ASSERT(dot_packed_takes(p) || packing_is_bytes(p));
    zero_totals(total);
    if (packing_is_bytes(p)) {
        add_bytes(rows, bytes, x, total);
    } else if (p->planes[0].plane == PLANE_NIBBLES) {
        add_nibbles(rows, bytes, x, total);
    } else {
        add_crumbs(rows, bytes, x, total);
    }
    vst1q_s32(sums, vaddq_s32(sum_each(total), vdupq_n_s32(p->bias * x_sum))); /* codes are stored minus the bias */
}

int32_t SUITE(dot_codes)(const int8_t *codes, const int8_t *x, size_t n) {
    DQT_ASSERT(n % 32 == 0);
    int32x4_t s0 = vdupq_n_s32(0), s1 = s0;
    for (size_t i = 0; i < n; i += 2 * WIDTH) {
        s0 = DOT_BYTES(s0, vld1q_s8(codes + i), vld1q_s8(x + i));
        s1 = DOT_BYTES(s1, vld1q_s8(codes + i + WIDTH), vld1q_s8(x + i + WIDTH));
    }
    return vaddvq_s32(vaddq_s32(s0, s1));
}

/* total[r]: the sum of the group that begins at byte `at` of each row. plane is a constant. */
CONSTANTS_INLINE void group_sums(enum plane plane, const uint8_t *const rows[DOT_ROWS], size_t at, size_t group,
                                 const int8_t *x, int32x4_t total[DOT_ROWS]) {
    zero_totals(total);
    if (plane == PLANE_CRUMBS) {
        struct crumb_sums s[DOT_ROWS];
        _Static_assert(MAX_GROUP <= CRUMB_BLOCKS * PACK_BLOCK, "a group's products fit the sums");
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++)
            s[r] = CRUMBS_ZERO();
        for (size_t c = 0; c < group; c += PACK_BLOCK)
            crumb_block(rows, at + c / 4, x + c, s);
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++)
            total[r] = WIDEN_CRUMBS(total[r], s[r]);
    } else if (plane == PLANE_NIBBLES) {
        for (size_t c = 0; c < group;) {
            SHORT s[DOT_ROWS];
            UNROLL_CLANG
            for (size_t r = 0; r < DOT_ROWS; r++)
                s[r] = SHORT_ZERO();
            for (const size_t stop = size_min(group, c + NIBBLE_BLOCKS * PACK_BLOCK); c < stop; c += PACK_BLOCK)
                nibble_block(rows, at + c / 2, x + c, s);
            UNROLL_CLANG
            for (size_t r = 0; r < DOT_ROWS; r++)
                total[r] = WIDEN(total[r], s[r]);
        }
    } else {
        for (size_t c = 0; c < group; c += WIDTH)
            byte_vector(rows, at + c, x + c, total);
    }
}

/* sum + (float)(the group's sum) * scale of each row, both rounded. */
static inline float32x4_t add_group(float32x4_t sum, const int32x4_t total[DOT_ROWS], int32_t correction,
                                    const float *scale) {
    const int32x4_t exact = vaddq_s32(sum_each(total), vdupq_n_s32(correction));
    return vaddq_f32(sum, vmulq_f32(vcvtq_f32_s32(exact), vld1q_f32(scale)));
}

/* The loop over groups; plane is a constant, group too where such groups are usual. */
CONSTANTS_INLINE void add_groups(enum plane plane, const uint8_t *const rows[DOT_ROWS], size_t group, size_t groups,
                                 const int8_t *x, const int32_t *x_sums, int32_t bias, const float *scales,
                                 float sums[DOT_ROWS]) {
    const size_t step = group * (size_t)plane / 8, end = step * groups; /* step: bytes of a group */
    float32x4_t sum = vdupq_n_f32(-0.0f); /* to which any number can be added without a change */
    for (size_t at = 0; at < end; at += step, x += group, x_sums++, scales += DOT_ROWS) {
        int32x4_t total[DOT_ROWS];
        for (size_t line = at; at % LINE == 0 && line < at + step; line += LINE)
            prefetch_rows(rows, line);
        group_sums(plane, rows, at, group, x, total);
        sum = add_group(sum, total, bias * *x_sums, scales);
    }
    vst1q_f32(sums, sum);
}

/* Groups of 32 columns with 4 bits are halves of a block: the lower and the upper halves of its bytes. */
static void add_half_blocks(const uint8_t *const rows[DOT_ROWS], size_t groups, const int8_t *x, const int32_t *x_sums,
                            int32_t bias, const float *scales, float sums[DOT_ROWS]) {
    float32x4_t sum = vdupq_n_f32(-0.0f);
    for (size_t g = 0; g < groups; g += 2, x += PACK_BLOCK) {
        const int8x16_t x0 = vld1q_s8(x), x1 = vld1q_s8(x + 16), x2 = vld1q_s8(x + 32), x3 = vld1q_s8(x + 48);
        const size_t at = g / 2 * NIBBLE_BYTES;
        int32x4_t low[DOT_ROWS], high[DOT_ROWS];
        if (at % LINE == 0) prefetch_rows(rows, at);
        zero_totals(low);
        zero_totals(high);
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++) {
            const uint8x16_t v = vld1q_u8(rows[r] + at), w = vld1q_u8(rows[r] + at + WIDTH);
            low[r] = WIDEN(low[r], DOT(DOT(SHORT_ZERO(), lower(v), x0), lower(w), x1));
            high[r] = WIDEN(high[r], DOT(DOT(SHORT_ZERO(), upper(v), x2), upper(w), x3));
        }
        sum = add_group(sum, low, bias * x_sums[g], scales + g * DOT_ROWS);
        if (g + 1 < groups) sum = add_group(sum, high, bias * x_sums[g + 1], scales + (g + 1) * DOT_ROWS);
    }
    vst1q_f32(sums, sum);
}

void SUITE(dot_groups)(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t group, size_t groups,
                       const int8_t *x, const int32_t *x_sums, const float *scales, float sums[DOT_ROWS]) {
    const enum plane plane = p->planes[0].plane;
    DQT_ASSERT(dot_groups_takes(p, group));
    if (plane == PLANE_NIBBLES && group == 32) {
        add_half_blocks(rows, groups, x, x_sums, p->bias, scales, sums);
    } else if (plane == PLANE_NIBBLES) {
        add_groups(PLANE_NIBBLES, rows, group, groups, x, x_sums, p->bias, scales, sums);
    } else if (plane == PLANE_CRUMBS && group == 256) {
        add_groups(PLANE_CRUMBS, rows, 256, groups, x, x_sums, p->bias, scales, sums);
    } else if (plane == PLANE_CRUMBS) {
        add_groups(PLANE_CRUMBS, rows, group, groups, x, x_sums, p->bias, scales, sums);
    } else if (group == 32) {
        add_groups(PLANE_BYTES, rows, 32, groups, x, x_sums, 0, scales, sums);
    } else {
        add_groups(PLANE_BYTES, rows, group, groups, x, x_sums, 0, scales, sums);
    }
}
