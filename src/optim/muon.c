/* Muon [Jordan et al. 2024]: the momentum of a matrix, as a direction whose singular values are all about 1. With
 * m = 0.95 m + g the direction is that of g + 0.95 m; five turns of X = a X + (b A + c A A) X, A = X X^T, from
 * X = direction / its norm, bring the singular values to between 0.7 and 1.2 (Newton and Schulz's method, with
 * coefficients that rise fastest). u = 0.2 sqrt(greater side) X has about the rms that AdamW's u has [Liu et al. 2025],
 * so that rates carry over.
 *
 * A direction needs all rows of a gradient. Rows of momentum and of g + 0.95 m are made tile by tile, in one scratch
 * that all parameters share; then X, then the weights' step, for which X is a gradient of SGD without momentum. */
#include "optim/muon.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "optim/updater_state.h"

extern const struct optimizer optimizer_muon;
const struct optimizer optimizer_muon = {
    .id = DQT_OPTIMIZER_MUON,
    .name = "MUON",
    .method = UPDATE_MUON,
    .second = SECOND_NONE,
    .orthogonal = true,
};

static const float MOMENTUM = 0.95f;
static const float RMS = 0.2f;
enum { TURNS = 5 };
static const float A = 3.4445f, B = -4.7750f, C = 2.0315f;

bool muon_takes(const struct update_target *t) {
    const int class = t->parameter_class;
    return (class == DQT_CLASS_ATTENTION || class == DQT_CLASS_MLP || class == DQT_CLASS_LINEAR) &&
           t->tensor->rows > 1 && t->tensor->cols > 1;
}

/* ---- Scratch ------------------------------------------------------------------------------------------------- */

void muon_need(const dqt_context *ctx, const dqt_tensor *t, struct muon_sizes *sizes) {
    const size_t less = size_min(t->rows, t->cols), more = size_max(t->rows, t->cols);
    size_t elements, square;
    size_mul(t->rows, t->cols, &elements);
    size_mul(less, less, &square);
    sizes->elements = size_max(sizes->elements, elements);
    sizes->square = size_max(sizes->square, square);
    gemm_scratch(ctx, less, less, more, more, &sizes->products);
}

/* ---- Momentum ------------------------------------------------------------------------------------------------ */

void muon_momentum_row(const dqt_updater *u, const struct parameter *p, const struct update_row *row, float *out) {
    struct update_plan plan = p->plan;
    struct update_row r = *row;
    struct update_result result;
    plan.method = UPDATE_MUON;
    plan.packing = NULL;
    plan.float_bytes = sizeof(float);
    plan.accumulate = plan.train_scale = false;
    plan.momentum = true;
    plan.beta1 = MOMENTUM;
    plan.learning_rate = -1.0f; /* 0 becomes u */
    memset(out, 0, r.cols * sizeof *out);
    r.weight = out;
    r.half_scales = NULL;
    updater_kernels(u)->row(&plan, &r, &result);
}

/* ---- The direction ------------------------------------------------------------------------------------------- */

static dqt_tensor matrix(dqt_context *ctx, float *data, size_t rows, size_t cols) {
    const size_t bytes = cols * sizeof(float);
    return (dqt_tensor){.ctx = ctx,
                        .rows = rows,
                        .cols = cols,
                        .storage = FORMAT_F32,
                        .compute = FORMAT_F32,
                        .row_bytes = bytes,
                        .data_bytes = rows * bytes,
                        .group_cols = cols,
                        .row_groups = 1,
                        .data = (unsigned char *)data};
}

/* What tasks of GEMM_TILE_ROWS rows do: out = scale * in, or scale * in + add * out, or out = scale * in^T. */
struct pass {
    const dqt_updater *u;
    const float *in;
    float *out;
    size_t rows, cols; /* of in */
    float scale, add;
};

static size_t pass_end(const struct pass *p, size_t first) {
    return size_min(p->rows, first + GEMM_TILE_ROWS);
}

static void squares_task(void *arg, size_t task, int lane) {
    const struct pass *p = arg;
    const size_t first = task * GEMM_TILE_ROWS;
    (void)lane;
    p->u->update_sums[task] =
        updater_kernels(p->u)->sum_squares(p->in + first * p->cols, (pass_end(p, first) - first) * p->cols);
}

static void scale_task(void *arg, size_t task, int lane) {
    const struct pass *p = arg;
    const size_t first = task * GEMM_TILE_ROWS * p->cols, end = pass_end(p, task * GEMM_TILE_ROWS) * p->cols;
    (void)lane;
    for (size_t i = first; i < end; i++)
        p->out[i] = p->scale * p->in[i];
}

static void combine_task(void *arg, size_t task, int lane) {
    const struct pass *p = arg;
    const size_t first = task * GEMM_TILE_ROWS * p->cols, end = pass_end(p, task * GEMM_TILE_ROWS) * p->cols;
    (void)lane;
    for (size_t i = first; i < end; i++)
        p->out[i] = p->scale * p->in[i] + p->add * p->out[i];
}

static void transpose_task(void *arg, size_t task, int lane) {
    const struct pass *p = arg;
    const size_t first = task * GEMM_TILE_ROWS, end = pass_end(p, first);
    (void)lane;
    for (size_t c = 0; c < p->cols; c++)
        for (size_t r = first; r < end; r++)
            p->out[c * p->rows + r] = p->scale * p->in[r * p->cols + c];
}

static void run(const struct pass *p, task_fn task) {
    struct pass arg = *p;
    parallel_run(p->u->ctx, ceil_div(p->rows, GEMM_TILE_ROWS), WORK_ELEMENT * (double)p->rows * (double)p->cols, task,
                 &arg);
}

/* out[rows][rows] = x x^T, x[rows][cols]. */
static void product(const dqt_updater *u, float *x, size_t rows, size_t cols, int precision, float *out) {
    const dqt_tensor w = matrix(u->ctx, x, rows, cols);
    const struct activations a = {.tokens = rows, .cols = cols, .floats = x, .ld = cols};
    gemm_forward(u->ctx, &u->muon.products, &a, 0, &w, 0, rows, precision, false, out, rows);
}

float *muon_direction(const dqt_updater *u, const struct parameter *p) {
    const size_t rows = p->target.tensor->rows, cols = p->target.tensor->cols;
    const size_t less = size_min(rows, cols), more = size_max(rows, cols);
    const int precision = u->ctx->kernels->fast_bf16 ? DQT_PRECISION_BF16 : DQT_PRECISION_F32;
    float *x = u->muon.direction, *other = u->muon.spare;
    struct pass pass = {.u = u, .in = x, .out = other, .rows = rows, .cols = cols};
    run(&pass, squares_task);
    double squares = 0.0;
    for (size_t i = 0; i < ceil_div(rows, GEMM_TILE_ROWS); i++)
        squares += u->update_sums[i];
    if (!(squares > 0.0)) return x; /* zeros */
    pass.scale = (float)fmin(1.0 / sqrt(squares), (double)FLT_MAX);
    run(&pass, rows > cols ? transpose_task : scale_task);
    x = other;
    other = u->muon.direction;
    for (int turn = 0; turn < TURNS; turn++) {
        float *square = u->muon.square, *polynomial = u->muon.polynomial;
        const dqt_tensor w = matrix(u->ctx, x, less, more);
        product(u, x, less, more, precision, square);
        product(u, square, less, less, precision, polynomial); /* A is symmetric: A A^T is A A */
        run(&(struct pass){.u = u, .in = square, .out = polynomial, .rows = less, .cols = less, .scale = B, .add = C},
            combine_task);
        run(&(struct pass){.u = u, .in = x, .out = other, .rows = less, .cols = more, .scale = A}, scale_task);
        gemm_input_gradient(u->ctx, &u->muon.products, polynomial, less, less, &w, 0, less, precision, true, other);
        float *next = other;
        other = x;
        x = next;
    }
    if (rows <= cols) return x;
    run(&(struct pass){.u = u, .in = x, .out = other, .rows = cols, .cols = rows, .scale = 1.0f}, transpose_task);
    return other;
}

float muon_factor(const struct parameter *p) {
    return RMS * sqrtf((float)size_max(p->target.tensor->rows, p->target.tensor->cols));
}
