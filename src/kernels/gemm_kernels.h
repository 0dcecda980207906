/* Kernels of products: contracts.
 *
 * All products are C[M][N] = A[M][K] * B[K][N], summed over K in one fixed order. Both operands are first packed:
 *
 *   A, in blocks of `rows` rows:       B, in panels of 16 columns:
 *     [K / k_align][rows][k_align]         [K / group][16][group]
 *
 * so that what starts at k (a multiple of k_align) is k * rows * size bytes into a block of A, k * 16 * size into a
 * panel of B. For example an engine of int8 with rows 14, k_align 4 and group 4, K padded to 8:
 *
 *   A[3][6]   block 0, byte (6 / 4) * 14 * 4 + 3 * 4 + 6 % 4 = 70
 *   B[6][19]  panel 19 / 16 = 1, which starts at byte 8 * 16 = 128; in it (6 / 4) * 16 * 4 + (19 % 16) * 4 + 6 % 4 = 78
 *
 * One block of A is multiplied with consecutive panels of B (gebp of Goto and van de Geijn, "Anatomy of
 * high-performance matrix multiplication", 2008). group is 4 for int8, 2 for bf16 and 1 for f32: what the dot product
 * instructions (VNNI, AMX, AVX512_BF16, sdot) want. K is padded with zeros to a multiple of k_align (at most 64).
 *
 * Integer engines take A as signed bytes and B as codes minus a bias; the kernel adds row_add = bias * (sum of A's
 * row) to its sums, modulo 2^32, which is exact because the true sum fits int32. */
#ifndef DQT_KERNELS_GEMM_KERNELS_H
#define DQT_KERNELS_GEMM_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/planes.h"

enum {
    DOT_GROUP_BLOCKS = 4,    /* pack blocks of a group that dot_packed reads */
    PANEL = 16,              /* columns of a panel */
    GEMM_K_ALIGN = 64,       /* every k_align divides it */
    GEMM_MAX_ROWS = 32,      /* of an engine */
    MAX_GROUP = 256,         /* columns that have one scale */
    GEMM_KC_BYTES = 16 << 10 /* kc_bytes where L1 is 32 or 48 KiB and both operands pass through it */
};

/* One call of gebp. */
struct gemm_block {
    const void *a, *b;    /* both at the first k of this call */
    const void *prefetch; /* a hint: bytes that a later call will read, to be fetched into L2 */
    size_t prefetch_bytes;
    size_t panel_stride; /* bytes from a panel to the next; panels exist up to a multiple of the engine's columns */
    size_t m, n;         /* valid rows and columns, at least 1; m <= rows */
    size_t k;            /* a multiple of k_align */
    /* first: sums start at zero, else from `partial`; last: through the epilogue into y, else into `partial` */
    bool first, last;
    void *partial;          /* (round_up(m, rows) + extra_rows) * round_up(n, columns) 4-byte sums in the engine's own
                             * order, 64-byte aligned */
    const int32_t *row_add; /* [m]; integer engines */
    const float *row_scale; /* [m]; NULL: 1 */
    const float *col_scale; /* [n]; NULL: 1 */
    float *y; /* [m][ld_y]: y = or += (float)sum * (row_scale * col_scale), each product and sum rounded */
    size_t ld_y;
    bool accumulate;
    bool stream; /* a hint: y is aligned to 64 bytes, in every row, and larger than the caches */

    /* gebp_groups: y = or += row_scale * sum over groups of ((float)sum of a group * its scale), groups in order, each
     * product and sum rounded. k is whole groups, row_add is of this call's first, col_scale unused. Between calls
     * `partial` holds the float sums. */
    size_t group;              /* of K, a multiple of 32 */
    size_t row_add_stride;     /* from a group's row_add to the next's; row_add is [rows] there */
    const float *group_scale;  /* [groups][PANEL] of the first panel */
    size_t group_scale_stride; /* from a panel's scales to the next panel's */
};

struct gemm_engine;

/* src[m][ld], k a multiple of 32 and of k_align; sums[rows]: added to (the caller starts at zero), or, by engines of
 * signed codes, left as they are. */
typedef void pack_a_codes_fn(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                             int32_t *sums);
/* One block of A from src[k][ld], of which m columns are its rows; k is a multiple of GEMM_K_ALIGN. sums[m] are added
 * to. */
typedef void pack_a_rows_fn(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                            int32_t *sums);
/* n packed rows (one column of B each) of `blocks` pack blocks, stride bytes apart. Columns from n on: anything. */
typedef void pack_b_packed_fn(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                              size_t n, size_t blocks, void *panel);
/* One panel of B whose elements are codes minus `bias`, from src[k][ld], 16 columns readable; k is a multiple of
 * GEMM_K_ALIGN. */
typedef void pack_b_rows_fn(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, int bias, void *panel);
/* k_scale[k] multiplies A (NULL: 1) before it is rounded to the engine's type. */
typedef void pack_a_fn(const struct gemm_engine *e, const float *src, size_t ld, size_t m, size_t k,
                       const float *k_scale, void *out);
/* Columns from n on become zero. */
typedef void pack_b_fn(const struct gemm_engine *e, const float *src, size_t ld, size_t n, size_t k, void *panel);
/* src[k][ld], 16 columns readable. scale[k * ld_scale] multiplies row k (NULL: 1) before it is rounded to the engine's
 * type. */
typedef void pack_b_codes_fn(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, const float *scale,
                             size_t ld_scale, void *panel);

struct gemm_engine {
    size_t rows, columns, group, size, k_align; /* columns: taken at once, 16 or 32; size: bytes of an element */
    size_t extra_rows;                          /* of `partial`, behind the others, for the engine's own use */
    size_t kc_bytes;                            /* bytes of a block of A that stay in L1 while panels stream past */
    bool signed_codes;                          /* B holds the codes as they are */
    int bytes_bias; /* else q - bias: this bias where codes are packed as plain bytes, else their packing's own */
    int max_range;  /* its sums are exact for codes with max - min up to this */
    /* Faster where blocks of its rows are filled with tokens, for ternary codes with one scale a row and A of -127 ..
     * 127; NULL: none */
    const struct gemm_engine *ternary;
    /* f32 elements that hold bf16 values: BF16 without instructions for it */
    bool emulates_bf16;
    void (*begin)(void); /* around calls of block on one thread; NULL: nothing to do */
    void (*end)(void);
    void (*gebp)(const struct gemm_block *b);
    void (*gebp_groups)(const struct gemm_block *b); /* integer engines */

    /* Packing of one block of A (rows beyond m become zero) or one panel of B, k elements deep, padded to k_align. May
     * be done part by part of K: k is a multiple of k_align except in the last. Integer engines have the first four,
     * float engines the others. */
    pack_a_codes_fn *pack_a_codes;
    pack_a_rows_fn *pack_a_rows; /* NULL: gemm_pack_a_rows */
    pack_b_packed_fn *pack_b_packed;
    pack_b_rows_fn *pack_b_rows;  /* NULL: gemm_pack_b_rows */
    pack_a_fn *pack_a;            /* src[m][ld] */
    pack_a_fn *pack_a_transposed; /* src[k][ld] */
    pack_b_fn *pack_b;            /* src[k][ld] */
    pack_b_fn *pack_b_transposed; /* src[n][ld] */
    pack_b_codes_fn *pack_b_codes;
};

enum { DOT_ROWS = 4, DOT_MOST_TOKENS = 8, DOT_TOKENS = 4, DOT_TILE_ROWS = 3 };
_Static_assert(DOT_MOST_TOKENS == 2 * DOT_TOKENS, "a batch of either size begins at multiples of the smaller");

/* Tokens that kernels of several take together, with `left` to come, of those that take up to `most`. */
static inline size_t dot_batch(size_t left, size_t most) {
    return left > DOT_TOKENS ? most : DOT_TOKENS;
}

/* codes: any int8; x: -127 .. 127, as quantize makes them; n a multiple of 32 */
typedef int32_t dot_codes_fn(const int8_t *codes, const int8_t *x, size_t n);
/* A packed row of `blocks` pack blocks to codes. */
typedef void unpack_fn(const struct packing *p, const uint8_t *packed, size_t blocks, int8_t *codes);
/* One token's activations to codes (ops/activations.h); returns the step. A row with an infinity or a NaN gets codes 0
 * and a step of NaN: all that is made with it is NaN. The greatest magnitude is found by comparing bits: those of
 * numbers above 0 are in the numbers' order, and infinities and NaNs lie above all of them. */
typedef float quantize_fn(const float *x, size_t cols, int8_t *codes);

/* Products of vectors with packed rows, each byte of the weights read once from memory. Only for packings that
 * packed_dot_takes; plain bytes are among them where takes_bytes.
 *
 * permute_for_dot puts the codes of x[blocks * 64] into the order that the others read: groups of up to
 * DOT_GROUP_BLOCKS blocks, [groups][tokens][blocks of a group * 64], of which x is number `token`; zeros where the last
 * group has more than `blocks`.
 * dot_packed: sums[i] = x . row i for DOT_ROWS packed rows of `blocks` pack blocks; x_sum is the sum of x.
 * dot_packed_tokens: the same for `tokens` vectors, DOT_TOKENS or, where `batch` says so, DOT_MOST_TOKENS; sums[t][i].
 * NULL where max_tokens is 0; else up to so many tokens, from 3 on, are multiplied faster this way than one by one or
 * by the engines. */
typedef void permute_for_dot_fn(const struct packing *p, const int8_t *x, size_t blocks, size_t token, size_t tokens,
                                int8_t *out);
typedef void dot_packed_fn(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks, const int8_t *x,
                           int32_t x_sum, int32_t sums[DOT_ROWS]);
typedef void dot_packed_tokens_fn(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t blocks,
                                  const int8_t *x, size_t tokens, const int32_t *x_sums, int32_t sums[][DOT_ROWS]);
struct packed_dot_kernels {
    permute_for_dot_fn *permute_for_dot;
    dot_packed_fn *dot_packed;
    dot_packed_tokens_fn *dot_packed_tokens;
    size_t batch; /* most tokens of a call of it */
    size_t max_tokens;
    bool takes_bytes;
};

/* Products of float vectors x[n] with rows of codes, bf16 or f32. Each instruction set has its own order of sums. tile:
 * the same sums, to the bit, of `tokens` vectors, DOT_TOKENS or DOT_MOST_TOKENS, with each of DOT_TILE_ROWS rows; NULL:
 * there is none. */
enum dot_element { DOT_CODE, DOT_BF16, DOT_F32 };
struct float_dot_kernels {
    float (*code)(const int8_t *codes, const float *x, size_t n);
    float (*bf16)(const uint16_t *w, const float *x, size_t n);
    float (*f32)(const float *w, const float *x, size_t n);
    void (*tile)(enum dot_element type, const void *const rows[DOT_TILE_ROWS], const float *const *x, size_t tokens,
                 size_t n, float sums[DOT_TILE_ROWS][DOT_MOST_TOKENS]);
};

/* One plane of 2 or 4 bits: products can be summed from masked bytes. */
static inline bool dot_packed_takes(const struct packing *p) {
    return p->num_planes == 1 && (p->planes[0].plane == PLANE_CRUMBS || p->planes[0].plane == PLANE_NIBBLES);
}

static inline bool packed_dot_takes(const struct packed_dot_kernels *k, const struct packing *p) {
    return k->dot_packed && (dot_packed_takes(p) || (k->takes_bytes && packing_is_bytes(p)));
}

/* As dot_packed, with a scale for each `group` columns: sums[i] = the sum over `groups` groups, in order, of (float)(x
 * . the group's codes of row i) * its scale, each product and sum rounded. x[-127 .. 127] is not permuted;
 * x_sums[groups] are its groups' sums; scales[groups][DOT_ROWS]. Rows and x are whole pack blocks. */
typedef void dot_groups_fn(const struct packing *p, const uint8_t *const rows[DOT_ROWS], size_t group, size_t groups,
                           const int8_t *x, const int32_t *x_sums, const float *scales, float sums[DOT_ROWS]);

/* Others are unpacked to plain bytes first. */
static inline bool dot_groups_takes(const struct packing *p, size_t group) {
    if (p->num_planes != 1 || group % 32 != 0 || group > MAX_GROUP) return false;
    return p->planes[0].plane == PLANE_CRUMBS ? group % (2 * PACK_BLOCK) == 0 : p->planes[0].plane != PLANE_BITS;
}

/* The bias of B's elements in an integer engine: the kernel is given row_add = bias * (sum of A's row). */
static inline int panel_bias(const struct gemm_engine *e, const struct packing *p) {
    return e->signed_codes ? 0 : packing_is_bytes(p) ? e->bytes_bias : p->bias;
}

struct gemm_kernels {
    struct gemm_engine code; /* int8 activations x codes with max - min up to its max_range */
    struct gemm_engine int8; /* int8 activations x any codes */
    struct gemm_engine bf16; /* operands rounded to bf16, f32 sums */
    struct gemm_engine f32;

    /* For few tokens. packed_dot both NULL, or dot_groups: rows are unpacked and dot_codes is used. */
    struct packed_dot_kernels packed_dot;
    dot_groups_fn *dot_groups;
    dot_codes_fn *dot_codes;
    struct float_dot_kernels float_dot;
    size_t gemv_max_tokens; /* at most so many tokens are taken one by one */

    unpack_fn *unpack;
    quantize_fn *quantize;
};

#endif
