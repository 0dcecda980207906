/* Scales of tensors, rounding of whole tensors, initial weights. */
#include <math.h>

#include "core/parallel.h"
#include "core/rng.h"
#include "format/scale.h"
#include "format/tensor.h"

/* Weights are read in runs, so that no copy of the matrix is made: from the host's array, from the storage, or from
 * random numbers. CHUNK is a multiple of pack blocks and groups. */
enum { CHUNK = 1024 };

/* out[count] from row and column on; col is a multiple of CHUNK. */
typedef void (*read_fn)(const void *from, size_t row, size_t col, size_t count, float *out);
struct weights {
    const void *from;
    read_fn read;
    size_t rows, cols;
};

/* ---- Scales --------------------------------------------------------------------------------------------------- */

/* The weights of one row or group: in memory, or read run by run. */
struct unit {
    const dqt_context *ctx;
    const float *held;       /* [count]; NULL: not in memory */
    const float *importance; /* [count]; NULL: 1 */
    size_t count, row;
    const struct weights *w;
    float *buffer; /* [CHUNK] */
};

static const float *unit_run(const struct unit *u, size_t at, size_t *count) {
    *count = size_min(u->count - at, CHUNK);
    if (u->held) return u->held + at;
    u->w->read(u->w->from, u->row, at, *count, u->buffer);
    return u->buffer;
}

static float unit_scale(const struct unit *u, const struct scale_use *use) {
    struct scale_sums sums = {0};
    size_t n;
    for (size_t at = 0; at < u->count; at += n) {
        const float *w = unit_run(u, at, &n);
        scale_sums_add(&sums, w, n);
    }
    if (use->rule != DQT_SCALE_MSE) return scale_from_sums(use, &sums, (double)u->count);
    struct search f;
    search_begin(&f, use, &sums, (double)u->count);
    while (search_next(&f)) {
        struct search_sums s = {{0}, {0}};
        for (size_t at = 0; at < u->count; at += n) {
            const float *w = unit_run(u, at, &n);
            u->ctx->search_add(&f, &s, w, u->importance ? u->importance + at : NULL, n);
        }
        search_take(&f, &s);
    }
    return search_scale(&f);
}

/* The whole tensor as runs of `per` rows each, of which SHARES are summed at a time, added in order: the same for any
 * number of threads. */
enum { SHARES = 64 };
struct whole_job {
    const dqt_context *ctx;
    const struct weights *w;
    size_t per, first;
    const struct search *search; /* NULL: scale_sums */
    const float *importance;     /* [cols]; NULL: 1 */
    union {
        struct scale_sums sums;
        struct search_sums found;
    } share[SHARES];
};

static void whole_task(void *arg, size_t index, int lane) {
    (void)lane;
    struct whole_job *job = arg;
    const struct weights *w = job->w;
    const size_t begin = (job->first + index) * job->per, end = size_min(w->rows, begin + job->per);
    float values[CHUNK];
    memset(&job->share[index], 0, sizeof job->share[index]);
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < w->cols; c += CHUNK) {
            const size_t n = size_min(w->cols - c, CHUNK);
            w->read(w->from, r, c, n, values);
            if (job->search)
                job->ctx->search_add(job->search, &job->share[index].found, values,
                                     job->importance ? job->importance + c : NULL, n);
            else
                scale_sums_add(&job->share[index].sums, values, n);
        }
}

/* Runs all shares; adds them to one of the two. */
static void whole_sums(struct whole_job *job, struct scale_sums *sums, struct search_sums *found) {
    const size_t shares = ceil_div(job->w->rows, job->per);
    for (job->first = 0; job->first < shares; job->first += SHARES) {
        const size_t count = size_min(shares - job->first, SHARES);
        const double weights = (double)(count * job->per) * (double)job->w->cols;
        parallel_run(job->ctx, count, WORK_ELEMENT * (job->search ? SEARCH_TRIES : 1) * weights, whole_task, job);
        for (size_t i = 0; i < count; i++) {
            if (job->search)
                search_sums_merge(found, &job->share[i].found);
            else
                scale_sums_merge(sums, &job->share[i].sums);
        }
    }
}

static float whole_scale(const dqt_context *ctx, const struct weights *w, const struct scale_use *use,
                         const float *importance, size_t per) {
    struct whole_job job = {.ctx = ctx, .w = w, .per = per, .importance = importance};
    const double count = (double)w->rows * (double)w->cols;
    struct scale_sums sums = {0};
    whole_sums(&job, &sums, NULL);
    if (use->rule != DQT_SCALE_MSE) return scale_from_sums(use, &sums, count);
    struct search f;
    search_begin(&f, use, &sums, count);
    job.search = &f;
    job.per = ceil_div(w->rows, SHARES);
    while (search_next(&f)) {
        struct search_sums found = {{0}, {0}};
        whole_sums(&job, NULL, &found);
        search_take(&f, &found);
    }
    return search_scale(&f);
}

/* Where scales go: the storage's, or those of the re-quantised weight. */
struct scaling {
    dqt_tensor *t;
    bool compute;
    struct scale_use use;
    struct weights w;
    const float *importance; /* [cols]; NULL: 1 */
};

static struct scaling scaling_of(dqt_tensor *t, bool compute, struct weights w) {
    const enum format format = compute ? t->compute : t->storage;
    return (struct scaling){.t = t,
                            .compute = compute,
                            .use = {.rule = compute ? format_compute_scale_rule(format, t->scale_rule) : t->scale_rule,
                                    .sigma = t->sigma,
                                    .low = format_min(format),
                                    .high = format_max(format),
                                    .half = compute ? t->half_compute_scales != NULL : t->half_scales != NULL},
                            .w = w};
}

static void put_scale(const struct scaling *s, size_t index, float scale) {
    dqt_tensor *t = s->t;
    uint16_t *halves = s->compute ? t->half_compute_scales : t->half_scales;
    if (halves)
        halves[index] = f32_to_f16(scale);
    else
        (s->compute ? t->compute_scales : t->scales)[index] = scale;
}

/* Scales of a row that has its own. */
static void row_scales(const struct scaling *s, size_t row) {
    const dqt_tensor *t = s->t;
    float buffer[CHUNK];
    struct unit u = {
        .ctx = t->ctx, .count = t->group_cols, .row = row, .w = &s->w, .buffer = buffer, .importance = s->importance};
    if (t->group_cols > CHUNK) {
        put_scale(s, row, unit_scale(&u, &s->use));
        return;
    }
    size_t n;
    for (size_t c = 0; c < t->cols; c += n) {
        n = size_min(t->cols - c, CHUNK);
        s->w.read(s->w.from, row, c, n, buffer);
        for (size_t k = 0; k < n; k += t->group_cols) {
            u.held = buffer + k;
            if (s->importance) u.importance = s->importance + c + k;
            put_scale(s, row * t->row_groups + (c + k) / t->group_cols, unit_scale(&u, &s->use));
        }
    }
}

static void row_scales_task(void *arg, size_t row, int lane) {
    (void)lane;
    row_scales(arg, row);
}

/* Nanoseconds, roughly. */
static double scaling_work(const struct scaling *s) {
    const double tries = s->use.rule == DQT_SCALE_MSE ? 20.0 : 1.0;
    return tries * WORK_ELEMENT * (double)s->t->rows * (double)s->t->cols;
}

/* All scales. per: rows of a run of the whole tensor's sums. */
static void set_scales(struct scaling *s, size_t per) {
    dqt_tensor *t = s->t;
    if (t->scale_axis == DQT_AXIS_TENSOR)
        put_scale(s, 0, whole_scale(t->ctx, &s->w, &s->use, s->importance, per));
    else
        parallel_run(t->ctx, t->rows, scaling_work(s), row_scales_task, s);
}

/* ---- Reading and writing -------------------------------------------------------------------------------------- */

static void read_stored(const void *from, size_t row, size_t col, size_t count, float *out) {
    tensor_read_floats(from, row, col, count, out);
}

void tensor_refresh(dqt_tensor *t) {
    if (t->compute == t->storage || !t->data) return;
    const dqt_tensor stored = tensor_as_stored(t);
    struct scaling s = scaling_of(t, true, (struct weights){&stored, read_stored, t->rows, t->cols});
    set_scales(&s, ceil_div(t->rows, SHARES));
}

/* Codes of columns [col, col + count), col a multiple of the pack block, count too but at the row's end. rng NULL: to
 * nearest. */
static void store_codes(dqt_tensor *t, size_t row, size_t col, size_t count, const float *w, const struct rng *rng) {
    const float low = (float)format_min(t->storage), high = (float)format_max(t->storage);
    const struct packing *packing = format_packing(t->storage);
    const size_t block_bytes = packing_block_bytes(packing), first = row * t->cols;
    int8_t codes[PACK_BLOCK] = {0};
    uint32_t words[4];
    float inverse = 0;
    for (size_t k = 0; k < count; k++) {
        const size_t c = col + k;
        if (k == 0 || c % t->group_cols == 0) {
            const float scale = tensor_group_scale(t, row, c / t->group_cols);
            inverse = scale < 0 || scale > 0 ? 1.0f / scale : 0.0f;
        }
        float x = w[k] * inverse;
        if (rng) {
            if (k == 0 || (first + c) % 4 == 0) rng_block(rng, (first + c) / 4, words);
            x = floorf(x + rng_uniform01(words[(first + c) % 4]));
        } else {
            x = rintf(x);
        }
        codes[k % PACK_BLOCK] = (int8_t)(x < low ? low : x > high ? high : x);
        if (k % PACK_BLOCK == PACK_BLOCK - 1 || k == count - 1) {
            block_pack(packing, codes, tensor_row(t, row) + c / PACK_BLOCK * block_bytes);
            memset(codes, 0, sizeof codes);
        }
    }
}

/* A run of a row, rounded to the storage by its scales. */
static void store(dqt_tensor *t, size_t row, size_t col, size_t count, const float *w, const struct rng *rng) {
    const size_t float_bytes = format_float_bytes(t->storage);
    unsigned char *data = tensor_row(t, row);
    if (float_bytes == sizeof(float))
        memcpy((float *)(void *)data + col, w, count * sizeof *w);
    else if (float_bytes)
        bf16_store(w, count, row * t->cols + col, rng, (uint16_t *)(void *)data + col);
    else
        store_codes(t, row, col, count, w, rng);
}

struct quantize_job {
    dqt_tensor *t;
    const float *weights;
    const struct rng *rng;
};

static void quantize_row(void *arg, size_t row, int lane) {
    (void)lane;
    const struct quantize_job *job = arg;
    store(job->t, row, 0, job->t->cols, job->weights + row * job->t->cols, job->rng);
}

static void read_array(const void *from, size_t row, size_t col, size_t count, float *out) {
    const struct quantize_job *job = from;
    memcpy(out, job->weights + row * job->t->cols + col, count * sizeof *out);
}

void tensor_quantize(dqt_tensor *t, const float *weights, bool stochastic, uint64_t seed) {
    tensor_quantize_by_importance(t, weights, NULL, stochastic, seed);
}

void tensor_quantize_by_importance(dqt_tensor *t, const float *weights, const float *importance, bool stochastic,
                                   uint64_t seed) {
    const struct rng rng = rng_make(seed, 0, RNG_QUANTIZE, 0);
    struct quantize_job job = {t, weights, stochastic ? &rng : NULL};
    if (t->num_scales) {
        struct scaling s = scaling_of(t, false, (struct weights){&job, read_array, t->rows, t->cols});
        s.importance = importance;
        set_scales(&s, t->rows);
    }
    parallel_run(t->ctx, t->rows, 4 * WORK_ELEMENT * (double)t->rows * (double)t->cols, quantize_row, &job);
    tensor_refresh(t);
}

/* ---- Initial weights ------------------------------------------------------------------------------------------- */

/* Box-Muller: two normals from two words. log and cos come from libm, so initial weights are the same on every machine
 * with the same libm; the float result hides differences in the last bits of double. */
static void normal_block(const struct rng *rng, uint64_t block, float std, float out[4]) {
    uint32_t w[4];
    rng_block(rng, block, w);
    for (int i = 0; i < 4; i += 2) {
        double u = ((double)w[i] + 1.0) * 0x1p-32, angle = 6.283185307179586 * (double)w[i + 1] * 0x1p-32;
        double radius = (double)std * sqrt(-2.0 * log(u));
        out[i] = (float)(radius * cos(angle));
        out[i + 1] = (float)(radius * sin(angle));
    }
}

struct init_job {
    dqt_tensor *t;
    struct rng rng;
    float std;
};

/* Weights of a row come in runs of CHUNK; rows do not start at multiples of 4 elements in general. */
static void normal_run(const struct rng *rng, size_t first, size_t count, float std, float *out) {
    float block[4];
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || (first + i) % 4 == 0) normal_block(rng, (first + i) / 4, std, block);
        out[i] = block[(first + i) % 4];
    }
}

static void read_normal(const void *from, size_t row, size_t col, size_t count, float *out) {
    const struct init_job *job = from;
    normal_run(&job->rng, row * job->t->cols + col, count, job->std, out);
}

/* Without a buffer for the whole row. */
static void init_row(void *arg, size_t row, int lane) {
    (void)lane;
    const struct init_job *job = arg;
    float w[CHUNK];
    for (size_t c = 0; c < job->t->cols; c += CHUNK) {
        const size_t n = size_min(job->t->cols - c, CHUNK);
        read_normal(job, row, c, n, w);
        store(job->t, row, c, n, w, NULL);
    }
}

/* The scale of a tensor is taken from at most this many rows: a sample of the distribution. */
enum { SCALE_ROWS = 4096 };

void tensor_init_normal(dqt_tensor *t, uint64_t seed, uint32_t id, float std) {
    if (!(std > 0)) return; /* zeros with scales of 1: what tensors begin as */
    struct init_job job = {.t = t, .rng = rng_make(seed, 0, RNG_INIT, id), .std = std};
    if (t->num_scales) {
        const size_t rows = t->scale_axis == DQT_AXIS_TENSOR ? size_min(t->rows, SCALE_ROWS) : t->rows;
        struct scaling s = scaling_of(t, false, (struct weights){&job, read_normal, rows, t->cols});
        set_scales(&s, 1);
    }
    parallel_run(t->ctx, t->rows, WORK_NORMAL * (double)t->rows * (double)t->cols, init_row, &job);
    tensor_refresh(t);
}
