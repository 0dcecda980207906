/* Several tokens with NEON (gemv_neon_template.h, included before, has one and the parameters SHORT, SHORT_ZERO, DOT,
 * WIDEN and NIBBLE_BLOCKS): a vector of packed bytes of four rows is unpacked once, in registers, and multiplied with
 * DOT_TOKENS vectors of activations, which lie beside each other: 16 sums, 4 vectors of packed bytes, 4 of codes, one
 * of x and a mask.
 *
 *   CRUMB_TOKENS_BLOCKS  blocks whose products of codes of 2 bits, all shifted down, fit a SHORT */

/* Else compilers load all of x first, and registers are missing. */
#define FENCE __asm__ volatile("" : : : "memory")

/* Value `plane` of each byte; planes, 4 or 2, and plane are constants. */
CONSTANTS_INLINE int8x16_t plane_of(uint8x16_t v, size_t planes, size_t plane) {
    if (planes == 2) return plane ? upper(v) : lower(v);
    const uint8x16_t mask = vdupq_n_u8(3);
    return vreinterpretq_s8_u8(plane == 0   ? vandq_u8(v, mask)
                               : plane == 1 ? vandq_u8(vshrq_n_u8(v, 2), mask)
                               : plane == 2 ? vandq_u8(vshrq_n_u8(v, 4), mask)
                                            : vshrq_n_u8(v, 6));
}

/* 16 bytes of each row at `at`; x[DOT_TOKENS][PACK_BLOCK], from what belongs to the first of these bytes. */
CONSTANTS_INLINE void add_vector(const uint8_t *const rows[DOT_ROWS], size_t at, const int8_t *x, size_t planes,
                                 SHORT sum[DOT_ROWS][DOT_TOKENS]) {
    uint8x16_t v[DOT_ROWS];
    UNROLL_CLANG
    for (size_t r = 0; r < DOT_ROWS; r++)
        v[r] = vld1q_u8(rows[r] + at);
    UNROLL_CLANG
    for (size_t p = 0; p < planes; p++) {
        int8x16_t u[DOT_ROWS];
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++)
            u[r] = plane_of(v[r], planes, p);
        UNROLL_CLANG
        for (size_t t = 0; t < DOT_TOKENS; t++) {
            const int8x16_t xv = vld1q_s8(x + t * PACK_BLOCK + p * (PACK_BLOCK / planes));
            UNROLL_CLANG
            for (size_t r = 0; r < DOT_ROWS; r++)
                sum[r][t] = DOT(sum[r][t], u[r], xv);
            FENCE;
        }
    }
}

CONSTANTS_INLINE void add_tokens(const uint8_t *const from[DOT_ROWS], size_t bytes, const int8_t *x, size_t planes,
                                 int32x4_t total[DOT_TOKENS][DOT_ROWS]) {
    const uint8_t *const rows[DOT_ROWS] = {from[0], from[1], from[2], from[3]}; /* fences leave these in registers */
    const size_t block = PACK_BLOCK / planes, most = (planes == 4 ? CRUMB_TOKENS_BLOCKS : NIBBLE_BLOCKS) * block;
    for (size_t at = 0; at < bytes;) {
        SHORT sum[DOT_ROWS][DOT_TOKENS];
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++) {
            UNROLL_CLANG
            for (size_t t = 0; t < DOT_TOKENS; t++)
                sum[r][t] = SHORT_ZERO();
        }
        for (const size_t part = size_min(bytes, at + most); at < part;) {
            prefetch_rows(rows, at);
            for (const size_t line = size_min(part, at + LINE); at < line; at += block, x += DOT_TOKENS * PACK_BLOCK)
                for (size_t i = 0; i < block; i += WIDTH)
                    add_vector(rows, at + i, x + i, planes, sum);
        }
        UNROLL_CLANG
        for (size_t t = 0; t < DOT_TOKENS; t++) {
            UNROLL_CLANG
            for (size_t r = 0; r < DOT_ROWS; r++)
                total[t][r] = WIDEN(total[t][r], sum[r][t]);
        }
    }
}

/* 16 bytes of each row at `at`, as they are, with sums of 32 bits. */
CONSTANTS_INLINE void add_byte_vector(const uint8_t *const rows[DOT_ROWS], size_t at, const int8_t *x,
                                      int32x4_t sum[DOT_ROWS][DOT_TOKENS]) {
    int8x16_t w[DOT_ROWS];
    UNROLL_CLANG
    for (size_t r = 0; r < DOT_ROWS; r++)
        w[r] = vreinterpretq_s8_u8(vld1q_u8(rows[r] + at));
    UNROLL_CLANG
    for (size_t t = 0; t < DOT_TOKENS; t++) {
        const int8x16_t xv = vld1q_s8(x + t * PACK_BLOCK);
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++)
            sum[r][t] = DOT_BYTES(sum[r][t], w[r], xv);
        FENCE;
    }
}

enum { BYTES_PART = 1 << 16 };

static void add_bytes_tokens(const uint8_t *const from[DOT_ROWS], size_t bytes, const int8_t *x,
                             int32x4_t total[DOT_TOKENS][DOT_ROWS]) {
    const uint8_t *const rows[DOT_ROWS] = {from[0], from[1], from[2], from[3]};
    /* Once, mostly: gcc keeps sums in registers that are made in a loop, and others in memory. */
    for (size_t at = 0; at < bytes;) {
        int32x4_t sum[DOT_ROWS][DOT_TOKENS];
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_ROWS; r++) {
            UNROLL_CLANG
            for (size_t t = 0; t < DOT_TOKENS; t++)
                sum[r][t] = vdupq_n_s32(0);
        }
        for (const size_t part = size_min(bytes, at + BYTES_PART); at < part;) {
            prefetch_rows(rows, at);
            for (size_t i = 0; i < LINE; i += WIDTH)
                add_byte_vector(rows, at + i, x + i, sum);
            at += LINE;
            x += DOT_TOKENS * PACK_BLOCK;
        }
        UNROLL_CLANG
        for (size_t t = 0; t < DOT_TOKENS; t++) {
            UNROLL_CLANG
            for (size_t r = 0; r < DOT_ROWS; r++)
                total[t][r] = vaddq_s32(total[t][r], sum[r][t]);
        }
    }
}

void SUITE(dot_packed_tokens)(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks,
                              const int8_t *x, size_t tokens, const int32_t *x_sums, int32_t sums[][DOT_ROWS]) {
    const size_t bytes = blocks * packing_block_bytes(p);
    int32x4_t total[DOT_TOKENS][DOT_ROWS];
    DQT_ASSERT((dot_packed_takes(p) || packing_is_bytes(p)) && tokens == DOT_TOKENS);
    (void)tokens; /* there is one size of batches */
    for (size_t t = 0; t < DOT_TOKENS; t++)
        zero_totals(total[t]);
    if (packing_is_bytes(p)) {
        add_bytes_tokens(rows, bytes, x, total);
    } else if (p->planes[0].plane == PLANE_NIBBLES) {
        add_tokens(rows, bytes, x, 2, total);
    } else {
        add_tokens(rows, bytes, x, 4, total);
    }
    UNROLL_CLANG
    for (size_t t = 0; t < DOT_TOKENS; t++)
        vst1q_s32(sums[t], vaddq_s32(sum_each(total[t]), vdupq_n_s32(p->bias * x_sums[t])));
}
