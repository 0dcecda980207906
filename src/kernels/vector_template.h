/* Row and elementwise kernels, compiled once per instruction set. The including file defines before:
 *   VEC_WIDTH     floats in a vector: 4, 8 or 16
 *   vec           the vector type
 *   vec_set(x)    all lanes x
 *   VEC_TAILS     optional: it has its own vec_load_tail and vec_store_tail
 * No fused multiply-add here: the same bits on every instruction set (contracts: vector_kernels.h). */
#include <math.h>
#include <string.h>

#include "core/assert.h"
#include "core/size.h"
#include "format/format.h"

/* Unrolls the loops over register arrays, so that they become registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

typedef int32_t ivec __attribute__((vector_size(VEC_WIDTH * 4)));  /* what comparisons give */
typedef uint32_t uvec __attribute__((vector_size(VEC_WIDTH * 4))); /* arithmetic on bits: wraps */

enum { SUMS = 32, SUM_VECS = SUMS / VEC_WIDTH };

static inline vec vec_load(const float *x) {
    vec v;
    memcpy(&v, x, sizeof v);
    return v;
}
static inline void vec_store(float *x, vec v) {
    memcpy(x, &v, sizeof v);
}
/* The first n < VEC_WIDTH lanes; the others are `rest`. */
#ifndef VEC_TAILS
static inline vec vec_load_tail(const float *x, size_t n, float rest) {
    vec v = vec_set(rest);
    memcpy(&v, x, n * sizeof *x);
    return v;
}
static inline void vec_store_tail(float *x, size_t n, vec v) {
    memcpy(x, &v, n * sizeof *x);
}
#endif
static inline vec vec_select(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}
static inline vec vec_max(vec a, vec b) {
    return vec_select(a > b, a, b);
}

/* exp within 1 unit in the last place (1.2e-7) over the whole range; results below 2^-126 are 0, NaN stays NaN.
 * x = n ln 2 + r, |r| <= ln(2)/2: exp(r) is a polynomial, 2^n goes into the exponent. 12582912 = 1.5 * 2^23 rounds to
 * an integer and leaves it in the low bits. ln2_hi has 9 significant bits, so n * ln2_hi is exact. */
static inline vec vec_exp(vec x) {
    const float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    vec shifted = x * 1.44269504f + 12582912.0f;
    vec n = shifted - 12582912.0f;
    vec r = x - n * ln2_hi - n * ln2_lo;
    vec p = vec_set(1.9875691500e-4f); /* Cephes expf */
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    uvec bits = (uvec)p + (((uvec)shifted - 0x4B400000u) << 23);
    vec y = (vec)bits;
    y = (vec)((ivec)y & ~(x < vec_set(-87.33654f)));              /* ln 2^-126 */
    y = vec_select(x > vec_set(88.72283f), vec_set(INFINITY), y); /* ln FLT_MAX */
    return vec_select(x == x, y, x);
}

static inline float sums_total(const vec *sums) {
    vec v[SUM_VECS];
    memcpy(v, sums, sizeof v);
    for (size_t w = SUM_VECS / 2; w; w /= 2)
        for (size_t i = 0; i < w; i++)
            v[i] += v[i + w];
    float s[VEC_WIDTH];
    vec_store(s, v[0]);
    for (size_t w = VEC_WIDTH / 2; w; w /= 2)
        for (size_t i = 0; i < w; i++)
            s[i] += s[i + w];
    return s[0];
}

static float sum_squares(const float *x, size_t n) {
    vec sums[SUM_VECS] = {0};
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS) {
        UNROLL
        for (size_t j = 0; j < SUM_VECS; j++) {
            vec a = vec_load(x + i + j * VEC_WIDTH);
            sums[j] += a * a;
        }
    }
    for (size_t j = 0; i < n; j++, i += VEC_WIDTH) {
        size_t m = n - i;
        vec a = m < VEC_WIDTH ? vec_load_tail(x + i, m, 0) : vec_load(x + i);
        sums[j] += a * a;
    }
    return sums_total(sums);
}

static float dot(const float *x, const float *y, size_t n) {
    vec sums[SUM_VECS] = {0};
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS) {
        UNROLL
        for (size_t j = 0; j < SUM_VECS; j++)
            sums[j] += vec_load(x + i + j * VEC_WIDTH) * vec_load(y + i + j * VEC_WIDTH);
    }
    for (size_t j = 0; i < n; j++, i += VEC_WIDTH) {
        size_t m = n - i;
        if (m < VEC_WIDTH)
            sums[j] += vec_load_tail(x + i, m, 0) * vec_load_tail(y + i, m, 0);
        else
            sums[j] += vec_load(x + i) * vec_load(y + i);
    }
    return sums_total(sums);
}

static float dot3(const float *x, const float *y, const float *z, size_t n) {
    vec sums[SUM_VECS] = {0};
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS) {
        UNROLL
        for (size_t j = 0; j < SUM_VECS; j++) {
            size_t at = i + j * VEC_WIDTH;
            sums[j] += vec_load(x + at) * vec_load(y + at) * vec_load(z + at);
        }
    }
    for (size_t j = 0; i < n; j++, i += VEC_WIDTH) {
        size_t m = n - i;
        if (m < VEC_WIDTH)
            sums[j] += vec_load_tail(x + i, m, 0) * vec_load_tail(y + i, m, 0) * vec_load_tail(z + i, m, 0);
        else
            sums[j] += vec_load(x + i) * vec_load(y + i) * vec_load(z + i);
    }
    return sums_total(sums);
}

static float maximum(const float *x, size_t n) {
    vec best[SUM_VECS];
    for (size_t j = 0; j < SUM_VECS; j++)
        best[j] = vec_set(-INFINITY);
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS) {
        UNROLL
        for (size_t j = 0; j < SUM_VECS; j++)
            best[j] = vec_max(vec_load(x + i + j * VEC_WIDTH), best[j]);
    }
    for (; i < n; i += VEC_WIDTH) {
        size_t m = n - i;
        best[0] = vec_max(m < VEC_WIDTH ? vec_load_tail(x + i, m, -INFINITY) : vec_load(x + i), best[0]);
    }
    for (size_t j = 1; j < SUM_VECS; j++)
        best[0] = vec_max(best[j], best[0]);
    float s[VEC_WIDTH], result = -INFINITY;
    vec_store(s, best[0]);
    for (size_t j = 0; j < VEC_WIDTH; j++)
        result = s[j] > result ? s[j] : result;
    return result;
}

/* The first n < VEC_WIDTH lanes; the others are `rest`. */
static inline vec vec_keep(vec v, size_t n, float rest) {
    static const int32_t number[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ivec lane;
    memcpy(&lane, number, sizeof lane);
    return vec_select(lane < (int32_t)n, v, vec_set(rest));
}

static float exp_sum(const float *x, size_t n, float shift, float *out) {
    if (n == 1) { /* all other lanes would add 0 */
        const float e = vec_exp(vec_set(*x - shift))[0];
        if (out) *out = e;
        return e;
    }
    vec sums[SUM_VECS] = {0};
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS) {
        UNROLL
        for (size_t j = 0; j < SUM_VECS; j++) {
            vec e = vec_exp(vec_load(x + i + j * VEC_WIDTH) - shift);
            sums[j] += e;
            if (out) vec_store(out + i + j * VEC_WIDTH, e);
        }
    }
    for (size_t j = 0; i < n; j++, i += VEC_WIDTH) {
        const size_t m = n - i;
        if (m < VEC_WIDTH) {
            const vec e = vec_exp(vec_keep(vec_load_tail(x + i, m, 0) - shift, m, -INFINITY));
            sums[j] += e;
            if (out) vec_store_tail(out + i, m, e);
        } else {
            const vec e = vec_exp(vec_load(x + i) - shift);
            sums[j] += e;
            if (out) vec_store(out + i, e);
        }
    }
    return sums_total(sums);
}

static void norm_row(const float *x, const float *gain, float r, size_t n, float *y) {
    size_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH)
        vec_store(y + i, vec_load(x + i) * r * vec_load(gain + i));
    if (i < n) vec_store_tail(y + i, n - i, vec_load_tail(x + i, n - i, 0) * r * vec_load_tail(gain + i, n - i, 0));
}

static void norm_gradient_row(const float *dy, const float *x, const float *gain, float r, float c, size_t n,
                              bool accumulate, float *dx, float *dgain) {
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        size_t m = n - i;
        bool tail = m < VEC_WIDTH;
        vec d = tail ? vec_load_tail(dy + i, m, 0) : vec_load(dy + i);
        vec a = tail ? vec_load_tail(x + i, m, 0) : vec_load(x + i);
        vec g = tail ? vec_load_tail(gain + i, m, 0) : vec_load(gain + i);
        vec result = (d * g - a * c) * r;
        if (accumulate) result += tail ? vec_load_tail(dx + i, m, 0) : vec_load(dx + i);
        if (dgain) {
            vec sum = (tail ? vec_load_tail(dgain + i, m, 0) : vec_load(dgain + i)) + d * (a * r);
            if (tail)
                vec_store_tail(dgain + i, m, sum);
            else
                vec_store(dgain + i, sum);
        }
        if (tail)
            vec_store_tail(dx + i, m, result);
        else
            vec_store(dx + i, result);
    }
}

static void add(const float *x, size_t n, float *y) {
    size_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH)
        vec_store(y + i, vec_load(y + i) + vec_load(x + i));
    for (; i < n; i++)
        y[i] += x[i];
}

static void multiply(const float *x, size_t n, float *y) {
    size_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH)
        vec_store(y + i, vec_load(y + i) * vec_load(x + i));
    for (; i < n; i++)
        y[i] *= x[i];
}

static void scale(const float *x, size_t n, float factor, float *y) {
    size_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH)
        vec_store(y + i, vec_load(x + i) * factor);
    for (; i < n; i++)
        y[i] = x[i] * factor;
}

static void rope_row(float *x, size_t heads, size_t half, const float *cosines, const float *sines, float sign) {
    for (size_t h = 0; h < heads; h++) {
        float *x1 = x + h * 2 * half, *x2 = x1 + half;
        size_t i = 0;
        for (; i + VEC_WIDTH <= half; i += VEC_WIDTH) {
            vec a = vec_load(x1 + i), b = vec_load(x2 + i), c = vec_load(cosines + i), s = vec_load(sines + i) * sign;
            vec_store(x1 + i, a * c - b * s);
            vec_store(x2 + i, b * c + a * s);
        }
        for (; i < half; i++) {
            float a = x1[i], b = x2[i], c = cosines[i], s = sines[i] * sign;
            x1[i] = a * c - b * s;
            x2[i] = b * c + a * s;
        }
    }
}

static inline vec sigmoid(vec x) {
    return 1.0f / (1.0f + vec_exp(-x));
}

static void swiglu(const float *gate, const float *up, size_t n, float *h) {
    size_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        vec g = vec_load(gate + i);
        vec_store(h + i, g * sigmoid(g) * vec_load(up + i));
    }
    if (i < n) {
        vec g = vec_load_tail(gate + i, n - i, 0);
        vec_store_tail(h + i, n - i, g * sigmoid(g) * vec_load_tail(up + i, n - i, 0));
    }
}

/* silu'(g) = s (1 + g (1 - s)), s = sigmoid(g). */
static void swiglu_gradient(const float *gate, const float *up, const float *dh, size_t n, float *dgate, float *dup) {
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        size_t m = n - i;
        bool tail = m < VEC_WIDTH;
        vec g = tail ? vec_load_tail(gate + i, m, 0) : vec_load(gate + i);
        vec u = tail ? vec_load_tail(up + i, m, 0) : vec_load(up + i);
        vec d = tail ? vec_load_tail(dh + i, m, 0) : vec_load(dh + i);
        vec s = sigmoid(g);
        vec dg = d * u * (s * (1.0f + g * (1.0f - s))), du = d * (g * s);
        if (tail) {
            vec_store_tail(dgate + i, m, dg);
            vec_store_tail(dup + i, m, du);
        } else {
            vec_store(dgate + i, dg);
            vec_store(dup + i, du);
        }
    }
}

/* max(u, 0), but NaN stays NaN. */
static inline vec relu(vec u) {
    return vec_select(u < vec_set(0), vec_set(0), u);
}

static void squared_relu(const float *up, size_t n, float *h) {
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        size_t m = n - i;
        vec u = relu(m < VEC_WIDTH ? vec_load_tail(up + i, m, 0) : vec_load(up + i));
        if (m < VEC_WIDTH)
            vec_store_tail(h + i, m, u * u);
        else
            vec_store(h + i, u * u);
    }
}

static void squared_relu_gradient(const float *up, const float *dh, size_t n, float *dup) {
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        size_t m = n - i;
        bool tail = m < VEC_WIDTH;
        vec u = relu(tail ? vec_load_tail(up + i, m, 0) : vec_load(up + i));
        vec d = tail ? vec_load_tail(dh + i, m, 0) : vec_load(dh + i);
        if (tail)
            vec_store_tail(dup + i, m, 2.0f * u * d);
        else
            vec_store(dup + i, 2.0f * u * d);
    }
}

static void gated_squared_relu(const float *gate, const float *up, size_t n, float *h) {
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        size_t m = n - i;
        bool tail = m < VEC_WIDTH;
        vec g = relu(tail ? vec_load_tail(gate + i, m, 0) : vec_load(gate + i));
        vec u = tail ? vec_load_tail(up + i, m, 0) : vec_load(up + i);
        if (tail)
            vec_store_tail(h + i, m, g * g * u);
        else
            vec_store(h + i, g * g * u);
    }
}

static void gated_squared_relu_gradient(const float *gate, const float *up, const float *dh, size_t n, float *dgate,
                                        float *dup) {
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        size_t m = n - i;
        bool tail = m < VEC_WIDTH;
        vec g = relu(tail ? vec_load_tail(gate + i, m, 0) : vec_load(gate + i));
        vec u = tail ? vec_load_tail(up + i, m, 0) : vec_load(up + i);
        vec d = tail ? vec_load_tail(dh + i, m, 0) : vec_load(dh + i);
        vec dg = 2.0f * g * u * d, du = g * g * d;
        if (tail) {
            vec_store_tail(dgate + i, m, dg);
            vec_store_tail(dup + i, m, du);
        } else {
            vec_store(dgate + i, dg);
            vec_store(dup + i, du);
        }
    }
}

static void softmax_scale(float *x, size_t n, float log_sum, float factor) {
    size_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH)
        vec_store(x + i, vec_exp(vec_load(x + i) - log_sum) * factor);
    if (i < n) vec_store_tail(x + i, n - i, vec_exp(vec_load_tail(x + i, n - i, 0) - log_sum) * factor);
}
