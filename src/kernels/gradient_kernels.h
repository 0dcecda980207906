/* Kernels that round gradients to int8, stochastically, for the integer products of backward: contracts. The same bits
 * on every instruction set (docs/numerics.md, integer backward).
 *
 * A gradient dy[token][row] becomes z, which is dy times a scale, and then a code: with v = z * factor, held within
 * -127 .. 127,
 *
 *   code = floor(v + u / 65536), where v + 128 + u / 65536 is rounded to float first
 *
 * u is 16 random bits, a function of (rng, token, row): half row % 8 of the four words of Philox block
 * (token << 32 | row / 8); half 2 * w is the low one of word w. A v of 0 always becomes 0, and the mean of a code is v
 * to within 2^-17. */
#ifndef DQT_KERNELS_GRADIENT_KERNELS_H
#define DQT_KERNELS_GRADIENT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "core/rng.h"

enum { GRADIENT_PART = 64 }; /* rows that are rounded at a time: `row` is a multiple of it */

struct gradient_kernels {
    /* The greatest |dy[i] * scale[i]|, i < n; infinite or NaN where one of them is not finite. */
    float (*largest)(const float *dy, const float *scale, size_t n);
    /* most[i] becomes the greater of itself and |dy[i] * scale|, by the order of their bits: what is not finite stays.
     * Of one token. */
    void (*largest_by_row)(const float *dy, float scale, size_t n, float *most);
    /* codes[round_up(n, GRADIENT_PART)] of z = dy[i] * scale[i], which has one factor; zeros from n on. */
    void (*round)(const float *dy, const float *scale, float factor, size_t n, const struct rng *rng, uint64_t token,
                  uint64_t row, int8_t *codes);
    /* The same of z = dy[i] * scale, which has factor[i]. */
    void (*round_by_row)(const float *dy, float scale, const float *factor, size_t n, const struct rng *rng,
                         uint64_t token, uint64_t row, int8_t *codes);
};

extern const struct gradient_kernels gradient_kernels_scalar, gradient_kernels_avx2, gradient_kernels_avx512;

#endif
