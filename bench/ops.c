/* What a step does besides products: attention, norms, rotary embedding, SwiGLU, codes of activations and the loss,
 * with the sizes of a 134 M model (4 x 256 tokens, hidden 768, ff 2048, 12 heads of 64, tiles of 2,048 classes).
 *
 *   build/bench/ops [instruction set] [threads] [words that names contain ...]
 *
 * Elementwise parts are compared with the triad of arrays in L3 (8 MiB a thread), attention with the peak of bf16. */
#include "core/memory.h"
#include "machine.h"
#include "ops/activations.h"
#include "ops/attention.h"
#include "ops/loss.h"
#include "ops/mlp.h"
#include "ops/norm.h"

enum { BATCH = 4, LENGTH = 256, TOKENS = BATCH * LENGTH, HEADS = 12, HEAD_SIZE = 64, HIDDEN = 768, FF = 2048 };
enum { ARRAYS = 8 };

struct ops {
    dqt_context *ctx;
    struct workspace ws;
    float *x[ARRAYS];   /* [TOKENS][FF] each */
    float *row, *dgain; /* [FF] */
    float *cosines, *sines;
    float *per_token[3];
    int32_t *targets;
    int8_t *codes;
    int precision;
};

static const struct attention_shape shape = {BATCH, LENGTH, HEADS, HEADS, HEAD_SIZE};

static void norm(void *arg) {
    struct ops *o = arg;
    const struct activation_source x = {
        .x = o->x[0], .kept = o->x[1], .gain = o->row, .eps = 1e-5f, .inverse_rms = o->per_token[0]};
    const struct activation_buffer out = {.codes = o->codes, .step = o->per_token[1], .cols = HIDDEN, .ld = HIDDEN};
    activations_make(o->ctx, &o->ws, &x, TOKENS, &out);
}
static void norm_gradient(void *arg) {
    struct ops *o = arg;
    const struct norm_gradient g = {
        .dy = o->x[1], .x = o->x[0], .dx = o->x[2], .gain = o->row, .inverse_rms = o->per_token[0], .dgain = o->dgain};
    norm_backward(o->ctx, &o->ws, &g, TOKENS, HIDDEN);
}
static void hidden(void *arg) {
    struct ops *o = arg;
    const struct activation_source x = {
        .gate = o->x[0], .up = o->x[1], .gain = o->row, .eps = 1e-5f, .inverse_rms = o->per_token[0]};
    const struct activation_buffer out = {.codes = o->codes, .step = o->per_token[1], .cols = FF, .ld = FF};
    activations_make(o->ctx, &o->ws, &x, TOKENS, &out);
}
static void hidden_gradient(void *arg) {
    struct ops *o = arg;
    const struct norm_gradient g = {.dy = o->x[2],
                                    .gate = o->x[0],
                                    .up = o->x[1],
                                    .dgate = o->x[3],
                                    .dup = o->x[4],
                                    .gain = o->row,
                                    .inverse_rms = o->per_token[0],
                                    .dgain = o->dgain};
    norm_backward(o->ctx, &o->ws, &g, TOKENS, FF);
}
static void rope(void *arg) {
    struct ops *o = arg;
    rope_apply(o->ctx, o->x[0], BATCH, LENGTH, (struct attention_runs){0}, HEADS, HEAD_SIZE, NULL, o->cosines, o->sines,
               false);
}
static void swiglu_gradient(void *arg) {
    struct ops *o = arg;
    hidden_backward(o->ctx, false, o->x[0], o->x[1], o->x[2], (size_t)TOKENS * FF, o->x[3], o->x[4]);
}
static void loss(void *arg) {
    struct ops *o = arg;
    for (size_t t = 0; t < TOKENS; t++) {
        o->per_token[0][t] = -1e30f;
        o->per_token[1][t] = 0;
    }
    loss_tile(o->ctx, o->x[0], FF, TOKENS, 0, FF, o->targets, o->per_token[0], o->per_token[1], o->per_token[2]);
}
static void loss_gradient(void *arg) { /* in place: the numbers shrink towards exp(0 - 8) */
    struct ops *o = arg;
    for (size_t t = 0; t < TOKENS; t++)
        o->per_token[0][t] = 8.0f;
    loss_tile_backward(o->ctx, o->x[5], FF, TOKENS, 0, FF, o->targets, o->per_token[1], o->per_token[0], 1.0f);
}
static void attend(void *arg) {
    struct ops *o = arg;
    attention_forward(o->ctx, &o->ws, &shape, (struct attention_runs){0}, o->x[0], o->x[1], o->x[2], o->precision,
                      o->x[3], o->per_token[0]);
}
static void attend_gradient(void *arg) {
    struct ops *o = arg;
    attention_backward(o->ctx, &o->ws, &shape, (struct attention_runs){0}, o->x[0], o->x[1], o->x[2], o->x[3],
                       o->per_token[0], o->x[4], o->precision, o->x[5], o->x[6], o->x[7]);
}

static double triad[MAX_THREADS + 1]; /* GB/s */

static void elementwise(struct bench *b, const char *name, struct ops *o, void (*fn)(void *), size_t columns,
                        double bytes) {
    if (!bench_wants(b, name)) return;
    const int threads = o->ctx->num_threads;
    char text[32];
    snprintf(text, sizeof text, "%dx%zu", TOKENS, columns);
    const struct bench_times t = bench_time(fn, o);
    bench_rate(b, name, text, dqt_context_isa(o->ctx), threads, &t, bytes * TOKENS * (double)columns, 1e-9, "GB/s",
               triad[threads]);
}

/* Two products forward and five backward of half a length x length matrix each. */
static void attention(struct bench *b, const char *name, struct ops *o, void (*fn)(void *), int precision,
                      double products, double limit) {
    if (!bench_wants(b, name)) return;
    o->precision = precision;
    const struct bench_times t = bench_time(fn, o);
    const double work = products * BATCH * HEADS * HEAD_SIZE * (double)LENGTH * LENGTH;
    bench_rate(b, name, "4x256, 12 x 64", dqt_context_isa(o->ctx), o->ctx->num_threads, &t, work, 1e-12, "TFLOP/s",
               limit);
}

static void fill(float *x, size_t n, unsigned seed) {
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((i * 2654435761u + seed) % 1024) / 512.0f - 1.0f;
}

static void run(struct bench *b, struct ops *o) {
    for (unsigned i = 0; i < ARRAYS; i++)
        fill(o->x[i], (size_t)TOKENS * FF, i * 37);
    fill(o->row, FF, 5);
    for (int t = 0; t < TOKENS; t++)
        o->targets[t] = t * 7919 % FF;
    rope_table(&(struct rope){.theta = 10000.0f}, HEAD_SIZE, LENGTH, o->cosines, o->sines);
    elementwise(b, "norm to codes", o, norm, HIDDEN, 9);
    elementwise(b, "norm backward", o, norm_gradient, HIDDEN, 12);
    elementwise(b, "rope", o, rope, HIDDEN, 8);
    elementwise(b, "swiglu, norm to codes", o, hidden, FF, 9);
    elementwise(b, "swiglu, norm backward", o, hidden_gradient, FF, 20);
    elementwise(b, "swiglu backward", o, swiglu_gradient, FF, 20);
    elementwise(b, "softmax", o, loss, FF, 4);
    elementwise(b, "softmax backward", o, loss_gradient, FF, 8);
    const double f32 = machine_compute(b, LIMIT_F32, o->ctx), bf16 = machine_compute(b, LIMIT_BF16, o->ctx);
    const double most = bf16 > f32 ? bf16 : f32;
    attention(b, "attention bf16", o, attend, DQT_PRECISION_BF16, 2, most);
    attention(b, "attention bf16 backward", o, attend_gradient, DQT_PRECISION_BF16, 5, most);
    attention(b, "attention f32", o, attend, DQT_PRECISION_F32, 2, f32);
    attention(b, "attention f32 backward", o, attend_gradient, DQT_PRECISION_F32, 5, f32);
}

static void measure(struct bench *b, int isa, int threads) {
    struct ops o = {.ctx = machine_context(isa, threads)};
    if (!o.ctx) return;
    struct scratch_need need = {0};
    attention_scratch(o.ctx, &shape, &need);
    norm_scratch(TOKENS, FF, &need);
    for (int i = 0; i < ARRAYS; i++)
        o.x[i] = bench_alloc((size_t)TOKENS * FF * sizeof(float));
    for (int i = 0; i < 3; i++)
        o.per_token[i] = bench_alloc((size_t)TOKENS * HEADS * sizeof(float));
    o.row = bench_alloc(FF * sizeof(float));
    o.dgain = bench_alloc(FF * sizeof(float));
    o.cosines = bench_alloc((size_t)LENGTH * HEAD_SIZE / 2 * sizeof(float));
    o.sines = bench_alloc((size_t)LENGTH * HEAD_SIZE / 2 * sizeof(float));
    o.targets = bench_alloc(TOKENS * sizeof(int32_t));
    o.codes = bench_alloc((size_t)TOKENS * FF);
    if (workspace_create(o.ctx, &need, &o.ws) == DQT_OK) run(b, &o);
    workspace_destroy(o.ctx, &o.ws);
    for (int i = 0; i < ARRAYS; i++)
        free(o.x[i]);
    for (int i = 0; i < 3; i++)
        free(o.per_token[i]);
    free(o.row);
    free(o.dgain);
    free(o.cosines);
    free(o.sines);
    free(o.targets);
    free(o.codes);
    dqt_context_destroy(o.ctx);
}

int main(int argc, char **argv) {
    const int most = machine_threads();
    struct bench b = bench_begin(argc, argv, false);
    for (int threads = 1; threads <= most; threads *= 2)
        triad[threads] = machine_memory(&b, true, 8, threads);
    machine_for_each(&b, measure);
    return bench_end(&b);
}
