/* Search for scales in plain C: sums of many tries. */
#include <string.h>

#include "kernels/kernels_scalar.h"

enum { LANES = SEARCH_LANES };

/* Codes of LANES weights as floats. */
static inline void codes_of(const float *restrict w, float inverse, float low, float high, float *restrict q) {
    const float shift = 0x1.8p23f; /* rounds to nearest, ties to even, what is below 2^22 */
    for (int k = 0; k < LANES; k++) {
        float x = w[k] * inverse;
        x = x > low ? x : low;
        x = x < high ? x : high;
        q[k] = (x + shift) - shift;
    }
}

/* Weights and their importance, in runs of LANES; the last ones are followed by zeros. */
struct lanes {
    const float *w, *importance; /* importance NULL: 1 */
    size_t count;
    float rest[LANES], rest_importance[LANES];
};

static const float ones[LANES] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static const float *lanes_at(const struct lanes *l, size_t i, const float **importance) {
    const bool whole = i + LANES <= l->count;
    *importance = !l->importance ? ones : whole ? l->importance + i : l->rest_importance;
    return whole ? l->w + i : l->rest;
}

static void add_floats(const struct search *f, int t, const float *restrict w, const float *restrict importance,
                       float *restrict product, float *restrict square) {
    float q[LANES];
    codes_of(w, f->inverse[t], (float)f->use.low, (float)f->use.high, q);
    for (int k = 0; k < LANES; k++) {
        product[k] += w[k] * q[k] * importance[k];
        square[k] += q[k] * q[k] * importance[k];
    }
}

static void add_doubles(const struct search *f, int t, const float *restrict w, const float *restrict importance,
                        double *restrict product, double *restrict square) {
    float q[LANES];
    codes_of(w, f->inverse[t], (float)f->use.low, (float)f->use.high, q);
    for (int k = 0; k < LANES; k++) {
        product[k] += (double)w[k] * (double)q[k] * (double)importance[k];
        square[k] += (double)(q[k] * q[k]) * (double)importance[k];
    }
}

static double try_doubles(const struct search *f, int t, const struct lanes *l, double *square_sum) {
    double product[LANES] = {0}, square[LANES] = {0};
    for (size_t i = 0; i < l->count; i += LANES) {
        const float *importance, *w = lanes_at(l, i, &importance);
        add_doubles(f, t, w, importance, product, square);
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++) {
            product[k] += product[half + k];
            square[k] += square[half + k];
        }
    *square_sum = square[0];
    return product[0];
}

static double try_floats(const struct search *f, int t, const struct lanes *l, double *square_sum) {
    float product[LANES] = {0}, square[LANES] = {0};
    for (size_t i = 0; i < l->count; i += LANES) {
        const float *importance, *w = lanes_at(l, i, &importance);
        add_floats(f, t, w, importance, product, square);
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++) {
            product[k] += product[half + k];
            square[k] += square[half + k];
        }
    *square_sum = (double)square[0];
    return (double)product[0];
}

void search_add_scalar(const struct search *f, struct search_sums *sums, const float *w, const float *importance,
                       size_t count) {
    const bool exact = search_is_exact(f);
    const size_t whole = count / LANES * LANES;
    struct lanes l = {.w = w, .importance = importance, .count = count};
    memcpy(l.rest, w + whole, (count - whole) * sizeof *w);
    if (importance) memcpy(l.rest_importance, importance + whole, (count - whole) * sizeof *importance);
    for (int t = 0; t < f->count; t++) {
        double square;
        sums->product[t] += (exact ? try_doubles : try_floats)(f, t, &l, &square);
        sums->square[t] += square;
    }
}
