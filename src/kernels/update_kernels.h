/* Kernels of the updater: contracts.
 *
 * All of them use IEEE operations in one fixed order (no fused multiply-add, sums in a fixed shape), so that every
 * instruction set gives the same bits. Rows are independent of each other. */
#ifndef DQT_KERNELS_UPDATE_KERNELS_H
#define DQT_KERNELS_UPDATE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/rng.h"
#include "format/planes.h"

/* Columns that a kernel works on at once: two pack blocks, one block of an 8-bit state. */
enum { UPDATE_CHUNK = 128 };
/* Columns that have one scale in any case. */
enum { UPDATE_PART = 32 };
/* Greatest code of an accumulator: its grid has 255 values, 0 in their middle. */
enum { UPDATE_ACCUMULATOR_MAX = 127 };

/* What keeps every number of a step finite, whatever the gradients and the learning rate: gradients (after clipping)
 * and updates u are limited to +-2^50, so that sums of their squares are finite in f32; first moments stay within
 * +-2^100 (averages and decayed sums of such gradients do, ECO does not lead out of them, and what momentum_factor
 * makes ends there), second moments below 2^102 with all rounding. Hence m / (1 - beta1^t) and v / (1 - beta2^t) are
 * below 2^126: 1 - beta^t is at least 2^-24.
 */
#define UPDATE_LIMIT 0x1p50f
#define UPDATE_STATE_LIMIT 0x1p100f
/* Largest step of a float weight's update that is proved finite: rate * u <= 2^126. Codes are clamped anyway. */
#define UPDATE_RATE_LIMIT 0x1p76f

/* The one list of optimisers: X(NAME, name) stands for the public DQT_OPTIMIZER_NAME, UPDATE_NAME here, moments_name in
 * kernels/update_moments.h and the description optimizer_name in optim/name.c. */
#define UPDATE_METHODS(X) X(SGD, sgd) X(ADAMW, adamw) X(ADAFACTOR, adafactor) X(MUON, muon)

enum update_method {
#define METHOD(NAME, name) UPDATE_##NAME,
    UPDATE_METHODS(METHOD)
#undef METHOD
};

/* How a state lies in memory. POSITIVE: a second moment, never negative, and above 0 it never becomes 0. */
enum update_codec { UPDATE_F32, UPDATE_BF16, UPDATE_BF16_POSITIVE, UPDATE_INT8_SIGNED, UPDATE_INT8_POSITIVE };

/* What is constant over one parameter and step. Low-precision states and codes are rounded with the numbers of their
 * stream, element = row * cols + col. */
struct update_plan {
    enum update_method method;
    const struct packing *packing; /* of the codes; NULL: floats of float_bytes */
    size_t float_bytes;            /* 4: f32; 2: bf16 */
    bool stochastic;               /* else nearest */
    bool eco;                      /* feed the rounding error back into the momentum */
    bool accumulate;               /* steps of codes go into the row's accumulator; no first moment */
    bool train_scale;              /* return the scale's gradient */
    bool dry;                      /* only update_squares: nothing is written */
    bool momentum;                 /* a first moment is kept */
    bool variance;                 /* a second moment is kept for each weight */
    enum update_codec momentum_codec, variance_codec;
    float clip; /* factor of the gradient */
    float learning_rate, weight_decay;
    float beta1, one_minus_beta1; /* the latter 1 where m is a sum (SGD) */
    float momentum_factor; /* of the old m, before it moves on: 0 or more and finite; 1 where nothing is corrected */
    bool momentum_held;    /* u is made of an m that moves on, but the state stays as it is; not with eco */
    float beta2, one_minus_beta2;
    float eps;
    float noise;                        /* stochastic: 1, or less for floor(x + 1/2 + noise * (r - 1/2)) */
    float inverse_bias1, inverse_bias2; /* 1 / (1 - beta^t); the former 1 where m is a sum */
    float update_factor;                /* u is multiplied by it (Adafactor's update clipping) */
    float eco_factor;        /* (1 - 1 / beta1) * (1 - beta1^t) / learning_rate; a sum: without the bias term */
    float accumulator_unit;  /* accumulate: steps of the accumulator's grid in one step of codes */
    float accumulator_reach; /* steps of codes by which one step of the grid moves a code */
    struct rng weight, momentum_rng, variance_rng; /* momentum_rng: of the accumulator too */
};

/* One row. m and v point at the row's states: float, uint16_t (bf16) or one byte each, with one scale per chunk. */
struct update_row {
    const float *gradient; /* [cols] */
    size_t cols;
    uint64_t element;            /* row * cols */
    void *weight;                /* packed codes, or cols floats or bf16 */
    float scale;                 /* of one code, in which steps are measured */
    const uint16_t *half_scales; /* fp16 scales of groups in place of it, [cols / group_cols]; 0: the codes stay */
    size_t group_cols;           /* a multiple of UPDATE_PART, where there are groups */
    double *scale_gradients;     /* out, [cols / group_cols]: of groups' trained scales; NULL: the row has one */
    void *m, *v;
    float *m_scale, *v_scale; /* codecs with scales: [ceil(cols / UPDATE_CHUNK)] */
    int8_t *accumulator;      /* accumulate: [cols], within +-UPDATE_ACCUMULATOR_MAX */
    const float *column;      /* factored second moment: column statistic [cols]; NULL: all 1 */
    float row_factor;
};

struct update_result {
    double update_squares; /* sum of u^2 */
    double scale_gradient; /* sum of gradient * code, before the update and without the clip factor */
    uint64_t flipped, saturated;
};

struct update_kernels {
    void (*row)(const struct update_plan *plan, const struct update_row *row, struct update_result *result);
    /* Sum of g^2 in double; not finite exactly if an element is not. */
    double (*sum_squares)(const float *g, size_t count);
    /* sums[k] += (factor * g[k])^2, limited as in row. */
    void (*add_squares)(const float *g, size_t count, float factor, float *sums);
};

#endif
