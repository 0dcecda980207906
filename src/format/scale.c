#include "format/scale.h"

#include <float.h>
#include <math.h>

#include "core/assert.h"
#include "dqt.h"
#include "format/half.h"

static const float HALF_LEAST = 0x1p-24f, HALF_MOST = 65504.0f;

void scale_sums_add(struct scale_sums *s, const float *w, size_t count) {
    for (size_t c = 0; c < count; c++) {
        const double a = fabs((double)w[c]);
        s->abs += a;
        s->square += a * a;
        if (a > s->max) s->max = a;
    }
}

void scale_sums_merge(struct scale_sums *all, const struct scale_sums *s) {
    all->abs += s->abs;
    all->square += s->square;
    if (s->max > all->max) all->max = s->max;
}

/* As it is kept: a half, or a normal float that is small enough that no code times it overflows. */
static float kept(const struct scale_use *use, double scale) {
    if (use->half) {
        const double most = (double)HALF_MOST, least = (double)HALF_LEAST;
        const double size = fabs(scale) > most ? most : fabs(scale) < least ? least : fabs(scale);
        return f16_to_f32(f32_to_f16((float)(scale < 0 ? -size : size)));
    }
    const double largest = (double)FLT_MAX / (use->high + 1);
    if (scale > largest) scale = largest;
    return (float)scale >= FLT_MIN ? (float)scale : 1.0f;
}

/* All-zero weights: any number represents them. 1 lets them move later; a group that is 0 in fp16 stays as it is. */
static float scale_of_zeros(const struct scale_use *use) {
    return use->half ? 0.0f : 1.0f;
}

float scale_from_sums(const struct scale_use *use, const struct scale_sums *s, double count) {
    DQT_ASSERT(use->rule != DQT_SCALE_AUTO && use->rule != DQT_SCALE_MSE);
    if (!(s->max > 0)) return scale_of_zeros(use);
    const double scale = use->rule == DQT_SCALE_ABSMEAN ? s->abs / count
                         : use->rule == DQT_SCALE_SIGMA ? (double)use->sigma * sqrt(s->square / count)
                                                        : s->max;
    return kept(use, scale / use->high);
}

/* ---- MSE ------------------------------------------------------------------------------------------------------ */

/* Neighbours of the grid are 2^(1/8) apart: the codes tell where between them the best scale lies. */
static const double STEP = 0x1.d5818dcfba487p-1;       /* 2^(-1/8) */
static const double ABOVE_MOST = 0x1.306fe0a31b715p+0; /* 2^(2/8): where the grid begins, over ABSMAX */

static void add_kept(struct search *f, float s, float inverse) {
    DQT_ASSERT(f->count < SEARCH_TRIES);
    f->tries[f->count] = s;
    f->inverse[f->count++] = inverse;
}

static void add_try(struct search *f, double scale) {
    const float s = kept(&f->use, scale);
    add_kept(f, s, 1.0f / s);
}

/* Below 0.8 rms / Qp even two values would do worse: the best two-valued scale of any weights is their mean magnitude,
 * and of heavier tails more. */
void search_begin(struct search *f, const struct scale_use *use, const struct scale_sums *sums, double count) {
    const double rms = sqrt(sums->square / count);
    *f = (struct search){.use = *use,
                         .scale = ABOVE_MOST * sums->max / use->high,
                         .least = fmax(0.8 * rms / -use->low, ABOVE_MOST * sums->max / use->high * 0x1p-10)};
    f->most = sums->max;
    f->result = scale_of_zeros(use);
    f->done = !(sums->max > 0);
}

static void next_of_grid(struct search *f) {
    const int signs = f->use.half && f->use.high + f->use.low != 0 ? 2 : 1;
    while (f->count + signs <= SEARCH_TRIES && f->scale >= f->least) {
        const float s = kept(&f->use, f->scale), inverse = 1.0f / s;
        add_kept(f, s, inverse);
        if (signs > 1) add_kept(f, -s, -inverse);
        f->scale *= STEP;
    }
}

bool search_next(struct search *f) {
    f->count = 0;
    if (f->done) return false;
    next_of_grid(f);
    if (f->count > 0) return true;
    f->final = true;
    add_try(f, f->most / f->use.high);
    if (f->use.half) { /* the largest weight becomes Qn: Q4_0's scale */
        add_try(f, f->most / f->use.low);
        add_try(f, f->most / -f->use.low);
    }
    for (int i = 0; i < 2; i++)
        if (f->best[i].gain > 0) add_try(f, f->best[i].scale);
    return true;
}

void search_sums_merge(struct search_sums *all, const struct search_sums *s) {
    for (int t = 0; t < SEARCH_TRIES; t++) {
        all->product[t] += s->product[t];
        all->square[t] += s->square[t];
    }
}

static void take_gains(struct search *f, const struct search_sums *s) {
    for (int t = 0; t < f->count; t++) {
        const double product = s->product[t], square = s->square[t];
        const int sign = f->tries[t] < 0;
        /* most are not divided out, which is slow: they are less, beyond rounding */
        if (!(square > 0) || product * product < 0.999 * f->best[sign].gain * square) continue;
        const double gain = product * product / square;
        if (gain <= f->best[sign].gain) continue;
        f->best[sign].gain = gain;
        f->best[sign].scale = product / square;
    }
}

void search_take(struct search *f, const struct search_sums *s) {
    double least = INFINITY;
    for (int t = 0; f->final && t < f->count; t++) {
        const double scale = (double)f->tries[t];
        const double error = scale * (scale * s->square[t] - 2 * s->product[t]); /* less the sum of w^2 */
        if (error < least) {
            least = error;
            f->result = f->tries[t];
        }
    }
    if (!f->final) take_gains(f, s);
    f->done = f->final;
}

float search_scale(const struct search *f) {
    DQT_ASSERT(f->done);
    return f->result;
}
