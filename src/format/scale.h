/* The scale of a set of weights that share one, by rule. */
#ifndef DQT_FORMAT_SCALE_H
#define DQT_FORMAT_SCALE_H

#include <stdbool.h>
#include <stddef.h>

/* What a scale is for. */
struct scale_use {
    int rule; /* DQT_SCALE_*, not AUTO */
    float sigma;
    int low, high; /* Qn, Qp of the codes */
    bool half;     /* kept as fp16, of either sign, 0 only for weights that are all 0; else normal and above 0 */
};

/* Sums of weights, in double and in the order in which they come: scales do not depend on threads or instruction sets.
 */
struct scale_sums {
    double abs, square, max;
};
void scale_sums_add(struct scale_sums *s, const float *w, size_t count);
void scale_sums_merge(struct scale_sums *all, const struct scale_sums *s);

/* By a rule other than MSE. */
float scale_from_sums(const struct scale_use *use, const struct scale_sums *s, double count);

/* ---- DQT_SCALE_MSE --------------------------------------------------------------------------------------------
 *
 * Tried are scales s from above max|w| / Qp downwards (and their negatives, where that is allowed). With q the codes
 * that s rounds the weights to, the error is least not at s but at sum(w q) / sum(q^2) [as ggml's make_qx_quants]; the
 * best of those is compared, with its own codes, with ABSMAX. Where weights matter differently, each squared error, and
 * with it each term of the sums, is multiplied by the weight's importance. A search goes through the weights several
 * times:
 *
 *   search_begin(&f, use, &sums, count);
 *   while (search_next(&f)) { struct search_sums t = {0}; ctx->search_add(&f, &t, w, NULL, n) for all weights;
 *                             search_take(&f, &t); }
 *   scale = search_scale(&f); */
enum { SEARCH_TRIES = 8 };

/* Over the weights, for each scale that is tried: sums of w * q and of q * q, times importance. */
struct search_sums {
    double product[SEARCH_TRIES], square[SEARCH_TRIES];
};

struct search {
    struct scale_use use;
    double scale, least; /* the next of the grid, and where it ends */
    bool final;          /* the grid is done; what is tried are the last few */
    bool done;
    int count;
    float tries[SEARCH_TRIES], inverse[SEARCH_TRIES];
    struct {
        double gain, scale;
    } best[2]; /* of the scales above and below 0: sum(w q)^2 / sum(q^2), and sum(w q) / sum(q^2) */
    double most;
    float result;
};
void search_begin(struct search *f, const struct scale_use *use, const struct scale_sums *sums, double count);
bool search_next(struct search *f);
/* The grid is gone through in f32; what is compared in the end, and what f32 cannot multiply, in double. */
static inline bool search_is_exact(const struct search *f) {
    return f->final || f->most > 0x1p100 || f->most < 0x1p-100;
}
void search_sums_merge(struct search_sums *all, const struct search_sums *s);
void search_take(struct search *f, const struct search_sums *sums);
float search_scale(const struct search *f);

/* Adds to `sums` those of w[count], for the first f->count tries (the others become anything). What is tried are scales
 * as they are kept, whose inverses are finite. importance[count], above 0 and about 1; NULL: 1.
 *
 * A kernel (kernels/search_<set>.c) with the same bits on every instruction set: weight i adds to lane i mod
 * SEARCH_LANES, in order, every operation rounded for itself, in f32 or, if search_is_exact, in double (codes are made
 * in f32 always); then lane k + 8 is added to lane k for k < 8, lane k + 4 for k < 4, and so on. */
enum { SEARCH_LANES = 16 };
typedef void search_add_fn(const struct search *f, struct search_sums *sums, const float *w, const float *importance,
                           size_t count);

#endif
