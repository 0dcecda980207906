/* Scale rules, rounding of whole tensors, initial weights. */
#include <float.h>
#include <math.h>

#include "core/parallel.h"
#include "core/rng.h"
#include "format/tensor.h"

/* Sums of a row, in double and in column order: scales do not depend on threads or instruction sets. */
struct sums {
    double abs, square, max;
};

static void add_row(struct sums *s, const float *w, size_t cols) {
    for (size_t c = 0; c < cols; c++) {
        double a = fabs((double)w[c]);
        s->abs += a;
        s->square += a * a;
        if (a > s->max) s->max = a;
    }
}

/* The scale of `count` weights: a normal float, and small enough that no code times it overflows. All-zero weights get
 * scale 1: any positive number represents them. */
static float scale_from(const struct sums *s, double count, int rule, float sigma, int qp) {
    double scale = rule == DQT_SCALE_ABSMEAN ? s->abs / count
                   : rule == DQT_SCALE_SIGMA ? (double)sigma * sqrt(s->square / count)
                                             : s->max;
    scale /= qp;
    const double largest = (double)FLT_MAX / (qp + 1);
    if (scale > largest) scale = largest;
    return (float)scale >= 0x1p-126f ? (float)scale : 1.0f;
}

/* Rows are read a few at a time through dequantisation, so that no copy of the matrix is made. */
enum { CHUNK = 1024 };

/* Sums over the whole tensor as SHARES fixed runs of rows, added in order: the same for any number of threads. */
enum { SHARES = 64 };
struct storage_job {
    dqt_tensor view;
    struct sums share[SHARES];
};

static void share_task(void *arg, size_t share, int lane) {
    (void)lane;
    struct storage_job *job = arg;
    const dqt_tensor *t = &job->view;
    const size_t per = ceil_div(t->rows, SHARES);
    float values[CHUNK];
    for (size_t r = share * per; r < t->rows && r < (share + 1) * per; r++)
        for (size_t c = 0; c < t->cols; c += CHUNK) {
            size_t n = t->cols - c < CHUNK ? t->cols - c : CHUNK;
            tensor_read_floats(t, r, c, n, values);
            add_row(&job->share[share], values, n);
        }
}

static void add_sums(struct sums *all, const struct sums *s) {
    all->abs += s->abs;
    all->square += s->square;
    if (s->max > all->max) all->max = s->max;
}

void tensor_refresh(dqt_tensor *t) {
    if (t->compute == t->storage || !t->data) return;
    struct storage_job job = {.view = tensor_as_stored(t)};
    parallel_run(t->ctx, SHARES, WORK_ELEMENT * (double)t->rows * (double)t->cols, share_task, &job);
    struct sums all = {0};
    for (int i = 0; i < SHARES; i++)
        add_sums(&all, &job.share[i]);
    const int rule = format_compute_scale_rule(t->compute, t->scale_rule);
    t->compute_scale = scale_from(&all, (double)t->rows * (double)t->cols, rule, t->sigma, format_max(t->compute));
}

static void store_row(dqt_tensor *t, size_t row, const float *w, bool stochastic, const struct rng *rng) {
    const size_t first = row * t->cols;
    uint32_t words[4];
    const size_t float_bytes = format_float_bytes(t->storage);
    if (float_bytes == sizeof(float)) {
        memcpy(tensor_row(t, row), w, t->cols * sizeof *w);
    } else if (float_bytes) {
        bf16_store(w, t->cols, first, stochastic ? rng : NULL, (uint16_t *)(void *)tensor_row(t, row));
    } else {
        const float inverse = 1.0f / tensor_scale(t, row);
        const float low = (float)format_min(t->storage), high = (float)format_max(t->storage);
        const struct packing *packing = format_packing(t->storage);
        const size_t block_bytes = packing_block_bytes(packing);
        int8_t codes[PACK_BLOCK] = {0};
        for (size_t c = 0; c < t->cols; c++) {
            float x = w[c] * inverse;
            if (stochastic) {
                if (c == 0 || (first + c) % 4 == 0) rng_block(rng, (first + c) / 4, words);
                x = floorf(x + rng_uniform01(words[(first + c) % 4]));
            } else {
                x = rintf(x);
            }
            codes[c % PACK_BLOCK] = (int8_t)(x < low ? low : x > high ? high : x);
            if (c % PACK_BLOCK == PACK_BLOCK - 1 || c == t->cols - 1) {
                block_pack(packing, codes, tensor_row(t, row) + c / PACK_BLOCK * block_bytes);
                memset(codes, 0, sizeof codes);
            }
        }
    }
}

void tensor_quantize(dqt_tensor *t, const float *weights, bool stochastic, uint64_t seed) {
    const struct rng rng = rng_make(seed, 0, RNG_QUANTIZE, 0);
    struct sums all = {0};
    for (size_t r = 0; r < t->rows && t->num_scales; r++) {
        struct sums row = {0};
        struct sums *s = t->num_scales == 1 ? &all : &row;
        add_row(s, weights + r * t->cols, t->cols);
        if (s == &row) t->scales[r] = scale_from(s, (double)t->cols, t->scale_rule, t->sigma, format_max(t->storage));
    }
    if (t->num_scales == 1)
        t->scales[0] =
            scale_from(&all, (double)t->rows * (double)t->cols, t->scale_rule, t->sigma, format_max(t->storage));
    for (size_t r = 0; r < t->rows; r++)
        store_row(t, r, weights + r * t->cols, stochastic, &rng);
    tensor_refresh(t);
}

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

static struct sums row_sums(const struct init_job *job, size_t row) {
    struct sums s = {0};
    float w[CHUNK];
    for (size_t c = 0; c < job->t->cols; c += CHUNK) {
        size_t n = job->t->cols - c < CHUNK ? job->t->cols - c : CHUNK;
        normal_run(&job->rng, row * job->t->cols + c, n, job->std, w);
        add_row(&s, w, n);
    }
    return s;
}

/* Nearest rounding of a run, without a buffer for the whole row. */
static void init_row(void *arg, size_t row, int lane) {
    (void)lane;
    const struct init_job *job = arg;
    dqt_tensor *t = job->t;
    if (t->num_scales > 1) {
        struct sums s = row_sums(job, row);
        t->scales[row] = scale_from(&s, (double)t->cols, t->scale_rule, t->sigma, format_max(t->storage));
    }
    float w[CHUNK];
    for (size_t c = 0; c < t->cols; c += CHUNK) {
        size_t n = t->cols - c < CHUNK ? t->cols - c : CHUNK;
        normal_run(&job->rng, row * t->cols + c, n, job->std, w);
        /* A view of this run as a one-row tensor: CHUNK is a multiple of the pack block, so packing agrees. */
        dqt_tensor run = *t;
        run.rows = 1;
        run.cols = n;
        run.row_bytes = format_row_bytes(t->storage, n);
        run.data = tensor_row(t, row) + format_row_bytes(t->storage, c);
        run.scales = t->num_scales > 1 ? t->scales + row : t->scales;
        store_row(&run, 0, w, false, &job->rng);
    }
}

enum {
    SCALE_ROWS = 4096
}; /* the per-tensor scale is taken from at most this many rows: a sample of the distribution */

void tensor_init_normal(dqt_tensor *t, uint64_t seed, uint32_t id, float std) {
    struct init_job job = {.t = t, .rng = rng_make(seed, 0, RNG_INIT, id), .std = std};
    if (t->num_scales == 1) {
        struct sums all = {0};
        size_t rows = size_min(t->rows, SCALE_ROWS);
        for (size_t r = 0; r < rows; r++) {
            struct sums s = row_sums(&job, r);
            add_sums(&all, &s);
        }
        t->scales[0] =
            scale_from(&all, (double)rows * (double)t->cols, t->scale_rule, t->sigma, format_max(t->storage));
    }
    parallel_run(t->ctx, t->rows, WORK_NORMAL * (double)t->rows * (double)t->cols, init_row, &job);
    tensor_refresh(t);
}
