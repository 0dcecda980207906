/* Which floats are codes times one scale? The smallest magnitude is j codes, for some j. Each weight then bounds the
 * scale from both sides by half a unit in the last place of its type; if the bounds still leave a scale in the end, it
 * is tried. */
#include <float.h>
#include <math.h>

#include "io/safetensors.h"

/* In 16-bit types only codes of up to 4 bits are looked for: ratios of two such codes differ by 1/56 or more, which
 * even bf16's 8 bits tell apart; ratios of 8-bit codes can look the same. */
enum { MOST_NARROW = 8 };

static float rounded(float x, enum element_type type) {
    return type == TYPE_BF16 ? bf16_to_f32(f32_to_bf16(x)) : type == TYPE_F16 ? f16_to_f32(f32_to_f16(x)) : x;
}

/* Half the distance to the next greater number of this type. */
static double half_unit(float magnitude, enum element_type type) {
    const int bits = type == TYPE_F32    ? 24
                     : type == TYPE_BF16 ? 8
                                         : 11,
              lowest = type == TYPE_F16    ? -24
                       : type == TYPE_BF16 ? -133
                                           : -149;
    int exponent;
    frexp((double)magnitude, &exponent);
    return ldexp(1.0, (exponent - bits < lowest ? lowest : exponent - bits) - 1);
}

/* The numbers that are rounded to a, an a > 0 of this type, end here: half way to its neighbours, of which the lower
 * one is nearer below a power of two. */
static double least_rounded(double a, enum element_type type) {
    int exponent;
    const double half = half_unit((float)a, type);
    const bool power = frexp(a, &exponent) == 0.5;
    return a - (power && half > half_unit((float)(a / 2), type) ? half / 2 : half);
}

static double most_rounded(double a, enum element_type type) {
    return a + half_unit((float)a, type);
}

static bool all_on(const float *w, size_t count, enum element_type type, int low, int high, float scale) {
    if (!(scale >= FLT_MIN && scale <= FLT_MAX / (float)(high + 1))) return false; /* tensor_scale_valid */
    for (size_t i = 0; i < count; i++) {
        const float q = rintf(w[i] / scale);
        /* -0 is not a code times a scale, but it is the same weight. */
        const float expected = rounded(scale * q, type);
        if (q < (float)low || q > (float)high || expected < w[i] || expected > w[i]) return false;
    }
    return true;
}

/* The bounds of the scale if the smallest magnitude is j codes; false as soon as they exclude each other. */
static bool bound(const float *w, size_t count, enum element_type type, double smallest, int j, int most,
                  float *scale) {
    double low = least_rounded(smallest, type) / j, high = most_rounded(smallest, type) / j;
    for (size_t i = 0; i < count; i++) {
        const double a = fabs((double)w[i]), q = rint(2 * a / (low + high));
        if (a > 0 && (q < 1 || q > most)) return false;
        if (!(a > 0)) continue;
        const double from = least_rounded(a, type) / q, to = most_rounded(a, type) / q;
        if (from > low) low = from;
        if (to < high) high = to;
        if (low > high) return false;
    }
    *scale = (float)((low + high) / 2);
    return true;
}

bool grid_find(const float *weights, size_t count, enum element_type type, int low, int high, float *scale) {
    const int most = -low > high ? -low : high;
    if (type != TYPE_F32 && most > MOST_NARROW) return false;
    float smallest = INFINITY;
    for (size_t i = 0; i < count; i++)
        if (fabsf(weights[i]) > 0 && fabsf(weights[i]) < smallest) smallest = fabsf(weights[i]);
    if (!isfinite(smallest)) return false;
    for (int j = 1; j <= most; j++) {
        float s;
        if (!bound(weights, count, type, (double)smallest, j, most, &s)) continue;
        const float tries[] = {s, nextafterf(s, 0), nextafterf(s, INFINITY)};
        for (int i = 0; i < 3; i++)
            if (all_on(weights, count, type, low, high, tries[i])) {
                *scale = tries[i];
                return true;
            }
    }
    return false;
}

/* As fp16, which may be negative where the codes' range asks for it: the grid of Q4_0. The coarsest scale may have no
 * place in fp16 (7 times one that has: of a group with one code other than 0), a part of it then has. */
static bool half_grid_find(const float *w, size_t count, enum element_type type, int low, int high, uint16_t *half) {
    float scale;
    for (int sign = 1; sign >= -1; sign -= 2) {
        const int from = sign > 0 ? low : -high, to = sign > 0 ? high : -low;
        if (!grid_find(w, count, type, from, to, &scale)) continue;
        for (int k = 1; k <= -low; k++) {
            *half = f32_to_f16((float)sign * scale / (float)k);
            const float kept = (float)sign * f16_to_f32(*half);
            if (isfinite(kept) && all_on(w, count, type, from, to, kept)) return true;
        }
    }
    return false;
}

static bool all_zero(const float *w, size_t count) {
    for (size_t k = 0; k < count; k++)
        if (w[k] < 0 || w[k] > 0) return false;
    return true;
}

/* Zeros have any scale; in fp16 they get 0, as in quantising. */
static bool grid_scale(dqt_tensor *t, size_t index, const float *w, size_t count, enum element_type type) {
    const int low = format_min(t->storage), high = format_max(t->storage);
    if (all_zero(w, count)) {
        if (t->half_scales)
            t->half_scales[index] = 0;
        else
            t->scales[index] = 1;
        return true;
    }
    return t->half_scales ? half_grid_find(w, count, type, low, high, &t->half_scales[index])
                          : grid_find(w, count, type, low, high, &t->scales[index]);
}

bool grid_store(dqt_tensor *t, const float *weights, enum element_type type) {
    const size_t count = t->num_scales == 1 ? t->rows * t->cols : t->group_cols;
    for (size_t i = 0; i < t->num_scales; i++)
        if (!grid_scale(t, i, weights + i * count, count, type)) return false;
    const struct packing *packing = format_packing(t->storage);
    const size_t block_bytes = packing_block_bytes(packing);
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->cols; c += PACK_BLOCK) {
            int8_t codes[PACK_BLOCK] = {0};
            for (size_t k = 0; k < PACK_BLOCK && c + k < t->cols; k++) {
                const float w = weights[r * t->cols + c + k];
                if (w < 0 || w > 0) codes[k] = (int8_t)rintf(w / tensor_group_scale(t, r, (c + k) / t->group_cols));
            }
            block_pack(packing, codes, tensor_row(t, r) + c / PACK_BLOCK * block_bytes);
        }
    return true;
}
