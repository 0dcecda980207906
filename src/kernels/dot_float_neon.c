/* Float vectors with rows of any of three types, with NEON: the sums of plain C (gemm_scalar.c), to the bit. Eight
 * partial sums are two vectors; products are rounded before they are added. */
typedef int dot_float_neon_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#include "core/assert.h"
#include "kernels/kernels_neon.h"
#include "kernels/prefetch.h"
#include "kernels/registers.h"

enum { SUMS = 8, STEP = 32 };

struct floats8 {
    float32x4_t low, high;
};

static inline struct floats8 load_floats(const float *x) {
    return (struct floats8){vld1q_f32(x), vld1q_f32(x + 4)};
}

CONSTANTS_INLINE struct floats8 load_row(const void *w, size_t i, enum dot_element type) {
    switch (type) {
    case DOT_CODE: {
        const int16x8_t v = vmovl_s8(vld1_s8((const int8_t *)w + i));
        return (struct floats8){vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), vcvtq_f32_s32(vmovl_high_s16(v))};
    }
    case DOT_BF16: {
        const uint16x8_t v = vld1q_u16((const uint16_t *)w + i);
        return (struct floats8){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)),
                                vreinterpretq_f32_u32(vshll_high_n_u16(v, 16))};
    }
    case DOT_F32: break;
    }
    return load_floats((const float *)w + i);
}

static inline size_t element_bytes(enum dot_element type) {
    return type == DOT_CODE ? 1 : type == DOT_BF16 ? 2 : 4;
}

/* Ahead of STEP elements from i on. */
CONSTANTS_INLINE void prefetch_row(const void *w, size_t i, enum dot_element type) {
    for (size_t line = 0; line < STEP * element_bytes(type); line += 64)
        prefetch_ahead(w, i * element_bytes(type) + line + PREFETCH_WEIGHTS);
}

static inline struct floats8 zero_sums(void) {
    return (struct floats8){vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
}

CONSTANTS_INLINE struct floats8 add_products(struct floats8 s, struct floats8 w, struct floats8 x) {
    s.low = vaddq_f32(s.low, vmulq_f32(w.low, x.low));
    s.high = vaddq_f32(s.high, vmulq_f32(w.high, x.high));
    return s;
}

/* ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])) */
static inline float add_sums(struct floats8 s) {
    const float32x4_t v = vaddq_f32(s.low, s.high);
    return vpadds_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)));
}

/* The last `count` elements, and zeros up to `room`, which change no sum. */
CONSTANTS_INLINE void copy_end(void *to, size_t room, const void *from, size_t i, size_t count, size_t size) {
    memset(to, 0, room * size);
    memcpy(to, (const char *)from + i * size, count * size);
}

CONSTANTS_INLINE float dot_row(const void *w, const float *x, size_t n, enum dot_element type) {
    struct floats8 s = zero_sums();
    size_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        prefetch_row(w, i, type);
        UNROLL_CLANG
        for (size_t j = 0; j < STEP; j += SUMS)
            s = add_products(s, load_row(w, i + j, type), load_floats(x + i + j));
    }
    for (; i + SUMS <= n; i += SUMS)
        s = add_products(s, load_row(w, i, type), load_floats(x + i));
    if (i < n) {
        float w8[SUMS], x8[SUMS];
        copy_end(w8, SUMS, w, i, n - i, element_bytes(type));
        copy_end(x8, SUMS, x, i, n - i, sizeof *x);
        s = add_products(s, load_row(w8, 0, type), load_floats(x8));
    }
    return add_sums(s);
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

/* ---- Several rows and tokens: codes become floats once for all tokens. The eight partial sums of a product are made
 * four at a time, `half` 0 or 1, for 12 vectors of sums leave room in the registers, and 24 do not ---- */

enum { PAIR = 2 * SUMS };
_Static_assert(DOT_TILE_ROWS == 3 && DOT_TOKENS == 4, "as written in tile_half");

struct tile_rows {
    float32x4_t v[DOT_TILE_ROWS][2]; /* of elements i and i + SUMS */
};

CONSTANTS_INLINE float32x4_t load_floats4(const void *x, size_t i) {
    return vld1q_f32((const float *)x + i);
}

/* Elements i + 4 * half and the next three, and i + SUMS + 4 * half and so on. */
CONSTANTS_INLINE void load_pair(const void *w, size_t i, size_t half, enum dot_element type, float32x4_t out[2]) {
    switch (type) {
    case DOT_CODE: {
        const int8x16_t v = vld1q_s8((const int8_t *)w + i);
        const int16x8_t a = vmovl_s8(vget_low_s8(v)), b = vmovl_high_s8(v);
        out[0] = vcvtq_f32_s32(half ? vmovl_high_s16(a) : vmovl_s16(vget_low_s16(a)));
        out[1] = vcvtq_f32_s32(half ? vmovl_high_s16(b) : vmovl_s16(vget_low_s16(b)));
        return;
    }
    case DOT_BF16:
        for (size_t j = 0; j < 2; j++)
            out[j] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *)w + i + j * SUMS + 4 * half), 16));
        return;
    case DOT_F32: break;
    }
    out[0] = load_floats4(w, i + 4 * half);
    out[1] = load_floats4(w, i + SUMS + 4 * half);
}

typedef float32x4_t tile_sums[DOT_TILE_ROWS][DOT_TOKENS];

/* PAIR elements of each row and token. */
CONSTANTS_INLINE void tile_step(tile_sums s, const void *const rows[DOT_TILE_ROWS], const float *const x[DOT_TOKENS],
                                size_t i, size_t half, enum dot_element type) {
    struct tile_rows w;
    UNROLL_CLANG
    for (size_t r = 0; r < DOT_TILE_ROWS; r++)
        load_pair(rows[r], i, half, type, w.v[r]);
    UNROLL_CLANG
    for (size_t t = 0; t < DOT_TOKENS; t++) {
        const float32x4_t x0 = load_floats4(x[t], i + 4 * half), x1 = load_floats4(x[t], i + SUMS + 4 * half);
        UNROLL_CLANG
        for (size_t r = 0; r < DOT_TILE_ROWS; r++)
            s[r][t] = vaddq_f32(vaddq_f32(s[r][t], vmulq_f32(w.v[r][0], x0)), vmulq_f32(w.v[r][1], x1));
    }
}

/* The last n - i < PAIR elements, and zeros. */
CONSTANTS_INLINE void tile_end(tile_sums s, const void *const rows[DOT_TILE_ROWS], const float *const x[DOT_TOKENS],
                               size_t i, size_t n, size_t half, enum dot_element type) {
    float row16[DOT_TILE_ROWS][PAIR], x16[DOT_TOKENS][PAIR];
    for (size_t r = 0; r < DOT_TILE_ROWS; r++)
        copy_end(row16[r], PAIR, rows[r], i, n - i, element_bytes(type));
    for (size_t t = 0; t < DOT_TOKENS; t++)
        copy_end(x16[t], PAIR, x[t], i, n - i, sizeof(float));
    const void *const last_rows[DOT_TILE_ROWS] = {row16[0], row16[1], row16[2]};
    const float *const last_x[DOT_TOKENS] = {x16[0], x16[1], x16[2], x16[3]};
    tile_step(s, last_rows, last_x, 0, half, type);
}

CONSTANTS_INLINE void tile_half(tile_sums out, const void *const rows[DOT_TILE_ROWS], const float *const x[DOT_TOKENS],
                                size_t n, size_t half, enum dot_element type) {
    tile_sums s;
    size_t i = 0;
    UNROLL_CLANG
    for (size_t t = 0; t < DOT_TOKENS; t++)
        s[0][t] = s[1][t] = s[2][t] = vdupq_n_f32(0.0f);
    for (; i + STEP <= n; i += STEP) {
        for (size_t r = 0; half == 0 && r < DOT_TILE_ROWS; r++)
            prefetch_row(rows[r], i, type);
        tile_step(s, rows, x, i, half, type);
        tile_step(s, rows, x, i + PAIR, half, type);
    }
    if (i + PAIR <= n) {
        tile_step(s, rows, x, i, half, type);
        i += PAIR;
    }
    if (i < n) tile_end(s, rows, x, i, n, half, type);
    UNROLL_CLANG
    for (size_t t = 0; t < DOT_TOKENS; t++) {
        out[0][t] = s[0][t];
        out[1][t] = s[1][t];
        out[2][t] = s[2][t];
    }
}

CONSTANTS_INLINE void dot_tile_of(enum dot_element type, const void *const rows[DOT_TILE_ROWS],
                                  const float *const x[DOT_TOKENS], size_t n, float *sums) {
    tile_sums low, high;
    tile_half(low, rows, x, n, 0, type);
    tile_half(high, rows, x, n, 1, type);
    for (size_t r = 0; r < DOT_TILE_ROWS; r++)
        for (size_t t = 0; t < DOT_TOKENS; t++)
            sums[r * DOT_MOST_TOKENS + t] = add_sums((struct floats8){low[r][t], high[r][t]});
}

static void dot_tile(enum dot_element type, const void *const rows[DOT_TILE_ROWS], const float *const *x, size_t tokens,
                     size_t n, float sums[DOT_TILE_ROWS][DOT_MOST_TOKENS]) {
    for (size_t t = 0; t < tokens; t += DOT_TOKENS) {
        float *to = &sums[0][t];
        switch (type) {
        case DOT_CODE: dot_tile_of(DOT_CODE, rows, x + t, n, to); break;
        case DOT_BF16: dot_tile_of(DOT_BF16, rows, x + t, n, to); break;
        case DOT_F32: dot_tile_of(DOT_F32, rows, x + t, n, to); break;
        }
    }
}

const struct float_dot_kernels float_dot_neon = {
    .code = dot_code_float, .bf16 = dot_bf16_float, .f32 = dot_float, .tile = dot_tile};
#endif
