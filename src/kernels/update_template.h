/* The updater's kernels, compiled once per instruction set by update_<isa>.c.
 *
 * The including file defines
 *   UPDATE_KERNELS  the name of the struct update_kernels that this file defines
 *   UPDATE_PHILOX   optional: it has its own static philox_blocks (integer products are exact in any form)
 *   UPDATE_ENCODE_SIGNED  optional: and its own static encode_signed
 * Plain loops of fixed length that the compiler turns into vectors; no operation may be reordered or fused, so that all
 * files give the same bits. Everything is static: nothing compiled here may be called on a lesser CPU.
 *
 * A row goes chunk by chunk (128 columns) through: gradient, moments and u; step in grid units; rounding; feedback;
 * states and codes written back. The last chunk is padded with zeros, which move nothing. */

#include <float.h>
#include <math.h>
#include <string.h>

#include "core/assert.h"
#include "dqt.h"
#include "format/format.h"
#include "format/half.h"
#include "kernels/philox.h"
#include "kernels/update_kernels.h"

enum { CHUNK = UPDATE_CHUNK, PART = UPDATE_PART, LANES = 64 };

static const float BF16_MAX = 0x1.fep127f;

/* Random words of one row and stream. Elements need not start at a multiple of 4, so the block that straddles two
 * chunks is carried over: word k of the chunk is words[offset + k]. */
struct stream {
    struct rng rng;
    uint64_t next; /* block */
    unsigned offset;
    uint32_t words[4 + CHUNK];
};

static void stream_start(struct stream *s, const struct rng *rng, uint64_t element) {
    s->rng = *rng;
    s->next = element / 4 + 1;
    s->offset = (unsigned)(element % 4);
    rng_block(rng, element / 4, s->words + CHUNK);
}

#ifndef UPDATE_PHILOX
static void philox_blocks(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    philox_words(r, first, CHUNK / 4, out);
}
#endif

static const uint32_t *stream_chunk(struct stream *s) {
    memcpy(s->words, s->words + CHUNK, 4 * sizeof *s->words);
    philox_blocks(&s->rng, s->next, s->words + 4);
    s->next += CHUNK / 4;
    return s->words + s->offset;
}

/* rng_uniform01 by way of a signed conversion, which every instruction set has. */
static inline float uniform01(uint32_t word) {
    return (float)(int32_t)(word >> 8) * 0x1p-24f;
}

/* floor(x + r) for |x| < 2^22 without rounding x + r: an x that is a whole number stays, whatever r. */
static inline int32_t floor_random(float x, uint32_t word) {
    const int32_t toward_zero = (int32_t)x;
    const int32_t below = toward_zero - ((float)toward_zero > x);
    return below + ((x - (float)below) + uniform01(word) >= 1.0f);
}

/* floor(x + 1/2 + noise * (r - 1/2)) for |x| < 2^22: between rounding to nearest (0) and stochastic rounding (1). */
static inline int32_t floor_noisy(float x, uint32_t word, float noise) {
    const float y = x + (0.5f + noise * (uniform01(word) - 0.5f));
    const int32_t toward_zero = (int32_t)y;
    return toward_zero - ((float)toward_zero > y);
}

/* Nearest whole number, ties to even, for |x| < 2^22. */
static inline float nearest(float x) {
    const float shift = 0x1.8p23f;
    return (x + shift) - shift;
}

static inline float least_float(float x, float y) {
    return x < y ? x : y;
}

static inline float clamp_float(float x, float low, float high) {
    x = x > low ? x : low;
    return x < high ? x : high;
}

/* clamp_float(x, -most, most), in fewer instructions: compilers make no min and max of two comparisons in a row. */
static inline float within(float x, float most) {
    return fabsf(x) < most ? x : copysignf(most, x);
}

/* The greatest magnitude, found on the bits: they order as the numbers do. */
static float largest(const float *x) {
    uint32_t bits[CHUNK], most = 0;
    memcpy(bits, x, sizeof bits);
    for (int k = 0; k < CHUNK; k++) {
        const uint32_t b = bits[k] & 0x7fffffffu;
        most = b > most ? b : most;
    }
    float a;
    memcpy(&a, &most, sizeof a);
    return a;
}

/* n columns of a float array, padded with zeros. */
static void pad_floats(const float *in, size_t n, float *restrict out) {
    memcpy(out, in, n * sizeof *out);
    if (n < CHUNK) memset(out + n, 0, (CHUNK - n) * sizeof *out);
}

static inline float limited(float g, float factor) {
    return within(g * factor, UPDATE_LIMIT);
}

#include "kernels/update_moments.h"
#include "kernels/update_states.h"

/* ---- Codes --------------------------------------------------------------------------------------------------- */

/* What the scale of each column of a chunk makes of the plan's rate. */
struct code_steps {
    float step[CHUNK];  /* lr / s */
    float decay[CHUNK]; /* lr * weight decay */
    float back[CHUNK];  /* ECO: what an error of one code adds to m, times the denominator */
    float reach[CHUNK]; /* the plan's accumulator_reach; 0: nothing moves */
    bool eco;
};

/* Of `count` columns with one scale. A scale of 0: nothing moves. */
static void steps_fill(const struct update_plan *p, float scale, size_t first, size_t count, struct code_steps *s) {
    const bool moves = scale < 0.0f || scale > 0.0f;
    /* the limits leave u * step and q * decay finite, and beyond them x is clamped */
    const float step = moves ? within(p->learning_rate / scale, 0x1p70f) : 0.0f;
    const float decay = moves ? least_float(p->learning_rate * p->weight_decay, 0x1p100f) : 0.0f;
    /* At learning rates near 0 the factor overflows, or m would: then nothing is fed back. */
    const float factor = p->eco_factor * scale, back = isfinite(factor) ? factor : 0.0f;
    const float reach = moves && p->learning_rate > 0.0f ? p->accumulator_reach : 0.0f;
    for (size_t k = first; k < first + count; k++) {
        s->step[k] = step;
        s->decay[k] = decay;
        s->back[k] = back;
        s->reach[k] = reach;
    }
    s->eco = p->eco && (count < CHUNK || isfinite(factor));
}

/* Of the chunk that begins at column `col`, where groups have scales. */
static void steps_of_groups(const struct update_plan *p, const struct update_row *row, size_t col, size_t n,
                            struct code_steps *s) {
    for (size_t k = 0; k < n; k += PART) {
        const float scale = f16_to_f32(row->half_scales[(col + k) / row->group_cols]);
        steps_fill(p, scale, k, PART, s);
    }
    if (n < CHUNK) steps_fill(p, 0.0f, n, CHUNK - n, s);
}

/* Codes q become new_q, kept within the format's range. */
static void codes_move(const struct packing *packing, const int32_t *restrict q, int32_t *restrict new_q,
                       int8_t *restrict codes, struct update_result *result) {
    const int32_t low = packing->min, high = packing->max;
    int32_t flipped = 0, saturated = 0;
    for (int k = 0; k < CHUNK; k++) {
        int32_t c = new_q[k] > low ? new_q[k] : low;
        c = c < high ? c : high;
        saturated += c != new_q[k];
        flipped += c != q[k];
        new_q[k] = c;
    }
    for (int k = 0; k < CHUNK; k++)
        codes[k] = (int8_t)new_q[k];
    result->flipped += (uint64_t)flipped;
    result->saturated += (uint64_t)saturated;
}

/* Codes of one chunk: x = -(lr * (u + decay * W)) / s is added to q and rounded. Working on x instead of q + x loses no
 * bits of a small step; q is whole, so floor(q + x + r) = q + floor(x + r). */
static void round_codes(const struct update_plan *p, const struct code_steps *s, const float *u, const uint32_t *words,
                        const float *denominator, float *m, int8_t *codes, struct update_result *result) {
    int32_t q[CHUNK], new_q[CHUNK];
    float x[CHUNK];
    for (int k = 0; k < CHUNK; k++)
        q[k] = codes[k];
    for (int k = 0; k < CHUNK; k++) {
        x[k] = within(-(u[k] * s->step[k] + (float)q[k] * s->decay[k]), 1024.0f);
    }
    if (p->stochastic && p->noise < 1.0f) {
        for (int k = 0; k < CHUNK; k++)
            new_q[k] = q[k] + floor_noisy(x[k], words[k], p->noise);
    } else if (p->stochastic) {
        for (int k = 0; k < CHUNK; k++)
            new_q[k] = q[k] + floor_random(x[k], words[k]);
    } else {
        for (int k = 0; k < CHUNK; k++)
            new_q[k] = (int32_t)nearest((float)q[k] + x[k]);
    }
    codes_move(p->packing, q, new_q, codes, result);
    /* e = (clamp(t, Qn - 0.5, Qp + 0.5) - q') * s, everything relative to q */
    if (!s->eco) return;
    const float floor_code = (float)p->packing->min - 0.5f, ceiling_code = (float)p->packing->max + 0.5f;
    for (int k = 0; k < CHUNK; k++) {
        const float reached = clamp_float(x[k], floor_code - (float)q[k], ceiling_code - (float)q[k]);
        const float e = reached - (float)(new_q[k] - q[k]);
        const float back = m[k] + e * s->back[k] * denominator[k];
        m[k] = fabsf(back) <= UPDATE_STATE_LIMIT ? back : m[k];
    }
}

/* Codes of one chunk by way of an accumulator, in steps of whose grid all is counted here: x, the step as above, goes
 * into it, and what q has moved by comes out of it. It is rounded as a change of the whole number that it was, so that
 * without a step it stays. words: of the codes, accumulator_words: of the accumulator. */
static void accumulate_codes(const struct update_plan *p, const struct code_steps *s, const float *u,
                             const uint32_t *words, const uint32_t *accumulator_words, int8_t *codes,
                             int8_t *accumulator, struct update_result *result) {
    const float unit = p->accumulator_unit, noise = p->noise;
    int32_t q[CHUNK], new_q[CHUNK], sum[CHUNK];
    float change[CHUNK];
    for (int k = 0; k < CHUNK; k++)
        q[k] = codes[k];
    for (int k = 0; k < CHUNK; k++)
        sum[k] = accumulator[k];
    for (int k = 0; k < CHUNK; k++)
        change[k] = within(-(u[k] * s->step[k] + (float)q[k] * s->decay[k]), UPDATE_STATE_LIMIT) * unit;
    for (int k = 0; k < CHUNK; k++) {
        const float x = within(((float)sum[k] + change[k]) * s->reach[k], 1024.0f);
        new_q[k] = q[k] + floor_noisy(x, words[k], noise);
    }
    codes_move(p->packing, q, new_q, codes, result);
    for (int k = 0; k < CHUNK; k++)
        change[k] = within(change[k] - (float)(new_q[k] - q[k]) * unit, 1024.0f);
    for (int k = 0; k < CHUNK; k++) {
        const int32_t most = UPDATE_ACCUMULATOR_MAX;
        int32_t c = sum[k] + floor_random(change[k], accumulator_words[k]);
        c = c > -most ? c : -most;
        sum[k] = c < most ? c : most;
    }
    for (int k = 0; k < CHUNK; k++)
        accumulator[k] = (int8_t)sum[k];
}

/* count: a power of two. */
static double lanes_sum(const float *lanes, int count) {
    double sum[LANES];
    for (int k = 0; k < count; k++)
        sum[k] = (double)lanes[k];
    for (int half = count / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            sum[k] += sum[half + k];
    return sum[0];
}

/* Of a raw gradient for a sum over a row: finite, whatever the gradient. */
static inline float finite_sum(float g) {
    return within(g, 0x1p100f);
}

/* What a chunk adds to the gradients of scales: the row's in LANES lanes, or each group's in PART. */
static void scale_gradients(const struct update_row *row, size_t col, size_t n, const float *g, const int8_t *codes,
                            float *lanes) {
    if (!row->scale_gradients) {
        for (int k = 0; k < LANES; k++)
            lanes[k] += finite_sum(g[k]) * (float)codes[k] + finite_sum(g[LANES + k]) * (float)codes[LANES + k];
        return;
    }
    for (size_t i = 0; i < n; i += PART) {
        const size_t at = col + i;
        if (at % row->group_cols == 0) memset(lanes, 0, PART * sizeof *lanes);
        for (size_t k = 0; k < PART; k++)
            lanes[k] += finite_sum(g[i + k]) * (float)codes[i + k];
        if ((at + PART) % row->group_cols == 0) row->scale_gradients[at / row->group_cols] = lanes_sum(lanes, PART);
    }
}

static void chunk_codes(const struct update_plan *p, const struct update_row *row, size_t col, size_t n, const float *g,
                        const float *u, struct stream *random, struct stream *m_random, const float *denominator,
                        float *m, float *scale_lanes, struct code_steps *steps, struct update_result *result) {
    const size_t block_bytes = packing_block_bytes(p->packing);
    uint8_t *packed = (uint8_t *)row->weight + col / PACK_BLOCK * block_bytes;
    int8_t codes[CHUNK] = {0};
    block_unpack(p->packing, packed, codes);
    if (n > PACK_BLOCK) block_unpack(p->packing, packed + block_bytes, codes + PACK_BLOCK);
    if (p->train_scale) scale_gradients(row, col, n, g, codes, scale_lanes);
    if (row->half_scales) steps_of_groups(p, row, col, n, steps);
    const uint32_t *words = p->stochastic ? stream_chunk(random) : NULL;
    if (p->accumulate) {
        int8_t sums[CHUNK] = {0};
        memcpy(sums, row->accumulator + col, n);
        accumulate_codes(p, steps, u, words, stream_chunk(m_random), codes, sums, result);
        memcpy(row->accumulator + col, sums, n);
    } else {
        round_codes(p, steps, u, words, denominator, m, codes, result);
    }
    block_pack(p->packing, codes, packed);
    if (n > PACK_BLOCK) block_pack(p->packing, codes + PACK_BLOCK, packed + block_bytes);
}

/* ---- Float weights ------------------------------------------------------------------------------------------- */

/* w -= rate * (u + decay * w); results beyond `most`, the largest finite number of the storage, stop there. That needs
 * a weight above 2^126 already: updater_check_rate keeps the step below it. Without decay at rate 0, where decay * w
 * may be infinite and 0 times it no number. */
static void step_floats(const struct update_plan *p, float most, const float *restrict u, float *restrict w) {
    const float rate = p->learning_rate, decay = rate > 0.0f ? p->weight_decay : 0.0f;
    for (int k = 0; k < CHUNK; k++)
        w[k] = within(w[k] - rate * (u[k] + decay * w[k]), most);
}

static void chunk_floats(const struct update_plan *p, const struct update_row *row, size_t col, size_t n,
                         const float *u, struct stream *random) {
    float buffer[CHUNK];
    if (p->float_bytes == sizeof(float)) {
        float *w = (float *)row->weight + col;
        if (n == CHUNK) {
            step_floats(p, FLT_MAX, u, w);
            return;
        }
        pad_floats(w, n, buffer);
        step_floats(p, FLT_MAX, u, buffer);
        memcpy(w, buffer, n * sizeof *w);
        return;
    }
    uint16_t *w = (uint16_t *)row->weight + col;
    decode_bf16(w, n, buffer);
    step_floats(p, BF16_MAX, u, buffer);
    if (p->stochastic) {
        encode_bf16(buffer, n, stream_chunk(random), false, w);
    } else {
        for (size_t k = 0; k < n; k++)
            w[k] = f32_to_bf16(buffer[k]);
    }
}

/* ---- Momentum ------------------------------------------------------------------------------------------------ */

/* The old m in units of this step's rate. */
static void scale_momentum(float factor, float *restrict m) {
    for (int k = 0; k < CHUNK; k++)
        m[k] = within(m[k] * factor, UPDATE_STATE_LIMIT);
}

/* ---- The row ------------------------------------------------------------------------------------------------- */

static void update_row(const struct update_plan *p, const struct update_row *row, struct update_result *result) {
    DQT_ASSERT((size_t)p->method < sizeof moments / sizeof *moments);
    DQT_ASSERT(!p->eco || (p->momentum && !p->momentum_held));
    DQT_ASSERT(!p->momentum || (p->momentum_factor >= 0.0f && isfinite(p->momentum_factor)));
    DQT_ASSERT(!p->accumulate || (p->packing && p->stochastic && !p->momentum && !p->eco && row->accumulator));
    float gradient[CHUNK], m_buffer[CHUNK], v_buffer[CHUNK], column[CHUNK], denominator[CHUNK], u[CHUNK];
    float square_lanes[LANES] = {0}, scale_lanes[LANES] = {0};
    struct stream weight_random, m_random, v_random;
    const bool codes = p->packing != NULL;
    struct code_steps steps;
    steps.eco = false;
    if (codes && !row->half_scales) steps_fill(p, row->scale, 0, CHUNK, &steps);
    memset(result, 0, sizeof *result);
    if (p->float_bytes != sizeof(float) && p->stochastic && !p->dry)
        stream_start(&weight_random, &p->weight, row->element);
    if (p->accumulate || (p->momentum && p->momentum_codec != UPDATE_F32))
        stream_start(&m_random, &p->momentum_rng, row->element);
    if (p->variance && p->variance_codec != UPDATE_F32) stream_start(&v_random, &p->variance_rng, row->element);
    if (!row->column)
        for (int k = 0; k < CHUNK; k++)
            column[k] = 1.0f;
    for (int k = 0; k < CHUNK; k++)
        denominator[k] = 1.0f;

    for (size_t col = 0; col < row->cols; col += CHUNK) {
        const size_t n = row->cols - col < CHUNK ? row->cols - col : CHUNK;
        const float *g = row->gradient + col;
        if (n < CHUNK) {
            pad_floats(g, n, gradient);
            g = gradient;
        }
        struct moments x = {g, column, row->row_factor, NULL, NULL, denominator, u};
        if (row->column) {
            x.column = row->column + col;
            if (n < CHUNK) {
                pad_floats(x.column, n, column);
                x.column = column;
            }
        }
        if (p->momentum) {
            x.m = state_open(p->momentum_codec, row->m, row->m_scale, col, n, p->dry || p->momentum_held, m_buffer);
            if (p->momentum_factor < 1.0f || p->momentum_factor > 1.0f) scale_momentum(p->momentum_factor, x.m);
        }
        if (p->variance) x.v = state_open(p->variance_codec, row->v, row->v_scale, col, n, p->dry, v_buffer);
        moments[p->method](p, &x);
        for (int k = 0; k < LANES; k++)
            square_lanes[k] += u[k] * u[k] + u[LANES + k] * u[LANES + k];
        if (p->dry) continue;
        if (codes) {
            chunk_codes(p, row, col, n, g, u, &weight_random, &m_random, denominator, x.m, scale_lanes, &steps, result);
        } else {
            chunk_floats(p, row, col, n, u, &weight_random);
        }
        if (x.m && !p->momentum_held) state_close(p->momentum_codec, row->m, row->m_scale, col, n, &m_random, x.m);
        if (x.v) state_close(p->variance_codec, row->v, row->v_scale, col, n, &v_random, x.v);
    }
    result->update_squares = lanes_sum(square_lanes, LANES);
    result->scale_gradient = row->scale_gradients ? 0.0 : lanes_sum(scale_lanes, LANES);
}

static double update_sum_squares(const float *g, size_t count) {
    enum { WIDTH = 32 };
    double sum[WIDTH] = {0};
    size_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH) {
        for (int k = 0; k < WIDTH; k++)
            sum[k] += (double)g[i + (size_t)k] * (double)g[i + (size_t)k];
    }
    for (int k = 0; i < count; i++, k++)
        sum[k] += (double)g[i] * (double)g[i];
    for (int half = WIDTH / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            sum[k] += sum[half + k];
    return sum[0];
}

static void update_add_squares(const float *restrict g, size_t count, float factor, float *restrict sums) {
    for (size_t k = 0; k < count; k++) {
        const float x = limited(g[k], factor);
        sums[k] += x * x;
    }
}

const struct update_kernels UPDATE_KERNELS = {
    .row = update_row, .sum_squares = update_sum_squares, .add_squares = update_add_squares};
