/* Limits of the machine and the products of ops/matmul.h, per instruction set, on one and two threads.
 *
 *     build/bench/bench [instruction set] [threads] [words that names contain ...] */
#include "bench.h"

#include "core/memory.h"
#include "core/parallel.h"
#include "limits.h"
#include "ops/matmul.h"
#include "quant/tensor.h"

enum { MAX_THREADS = 2 };

static dqt_context *context(int isa, int threads) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.num_threads = threads;
    if (dqt_context_create(&o, &ctx) != DQT_OK) return NULL;
    if (dqt_context_isa(ctx) == isa && dqt_context_num_threads(ctx) == threads) return ctx;
    dqt_context_destroy(ctx);
    return NULL;
}

/* ---- Limits ---- */

static double limits[3][64][MAX_THREADS + 1]; /* [what][isa][threads], T(FL)OP/s */
static double read_limit[MAX_THREADS + 1];    /* GB/s */

struct limit_run {
    const dqt_context *ctx;
    limit_fn fn;
    double work; /* of one lane */
    float *x;
    size_t count; /* floats of one lane */
    float sink[MAX_THREADS];
};

static void compute_item(void *arg, size_t item, int lane) {
    struct limit_run *r = arg;
    (void)lane;
    const double work = r->fn();
    if (item == 0) r->work = work;
}
static void compute_run(void *arg) {
    struct limit_run *r = arg;
    parallel_run(r->ctx, (size_t)r->ctx->num_threads, compute_item, r);
}
static void read_item(void *arg, size_t item, int lane) {
    struct limit_run *r = arg;
    (void)lane;
    r->sink[item] = limit_read(r->x + item * r->count, r->count);
}
static void read_run(void *arg) {
    struct limit_run *r = arg;
    parallel_run(r->ctx, (size_t)r->ctx->num_threads, read_item, r);
}
static void triad_item(void *arg, size_t item, int lane) {
    struct limit_run *r = arg;
    (void)lane;
    float *x = r->x + item * r->count;
    const size_t third = r->count / 3;
    limit_triad(x, x + third, x + 2 * third, third);
}
static void triad_run(void *arg) {
    struct limit_run *r = arg;
    parallel_run(r->ctx, (size_t)r->ctx->num_threads, triad_item, r);
}

static void measure_limits(struct bench *b, int isa, int threads) {
    static const char *const names[] = {"limit int8", "limit bf16", "limit f32"};
    dqt_context *ctx = context(isa, threads);
    if (!ctx) return;
    for (int what = LIMIT_INT8; what <= LIMIT_F32; what++) {
        struct limit_run r = {.ctx = ctx, .fn = limit_of((enum limit)what, isa, dqt_cpu_features(ctx))};
        if (!r.fn) continue;
        const struct bench_times t = bench_time(compute_run, &r);
        limits[what][isa % 64][threads] = bench_rate(b, names[what], "registers", isa, threads, &t,
                                                     2 * r.work * threads, 1e-12,
                                                     what == LIMIT_INT8 ? "TOP/s" : "TFLOP/s", 0);
    }
    dqt_context_destroy(ctx);
}

static void measure_memory(struct bench *b, int threads) {
    dqt_context *ctx = context(DQT_ISA_SCALAR, threads);
    if (!ctx) return;
    struct limit_run r = {.ctx = ctx, .count = (size_t)24 << 20};
    const size_t total = r.count * MAX_THREADS;
    r.x = bench_alloc(total * sizeof(float));
    for (size_t i = 0; i < total; i++) r.x[i] = 1.0f;
    struct bench_times t = bench_time(read_run, &r);
    const double bytes = (double)r.count * 4.0 * threads;
    bench_rate(b, "limit read", "96 MiB a thread", DQT_ISA_SCALAR, threads, &t, bytes, 1e-9, "GB/s", 0);
    t = bench_time(triad_run, &r);
    bench_rate(b, "limit triad", "96 MiB a thread", DQT_ISA_SCALAR, threads, &t, bytes, 1e-9, "GB/s", 0);
    r.count = (size_t)2 << 20; /* weights of one layer: L3 */
    t = bench_time(read_run, &r);
    read_limit[threads] = bench_rate(b, "limit read", "8 MiB a thread", DQT_ISA_SCALAR, threads, &t,
                                     (double)r.count * 4.0 * threads, 1e-9, "GB/s", 0);
    free(r.x);
    dqt_context_destroy(ctx);
}

/* ---- Products ---- */

enum product { FORWARD, FORWARD_FLOAT, INPUT_GRADIENT, WEIGHT_GRADIENT, QUANTIZE };

struct product_run {
    dqt_context *ctx;
    enum product product;
    int precision;
    size_t tokens, rows, cols, ld;
    dqt_tensor *w;
    struct workspace ws;
    float *x, *y, *step;
    int8_t *codes;
};

static void ignore(void *arg, size_t row, size_t rows, float *tile, size_t ld, int lane) {
    float *sink = arg;
    (void)row;
    (void)lane;
    sink[lane] += tile[(rows - 1) * ld];
}

static void product_run(void *arg) {
    struct product_run *r = arg;
    struct activations x = {.tokens = r->tokens, .cols = r->cols, .codes = r->codes, .step = r->step, .ld = r->ld};
    const struct activations floats = {.tokens = r->tokens, .cols = r->cols, .floats = r->x, .ld = r->cols};
    float sink[MAX_THREADS] = {0};
    switch (r->product) {
    case FORWARD: matmul_forward(r->ctx, &r->ws, &x, r->w, 0, r->rows, r->precision, false, r->y, r->rows); break;
    case FORWARD_FLOAT: matmul_forward(r->ctx, &r->ws, &floats, r->w, 0, r->rows, r->precision, false, r->y,
                                       r->rows); break;
    case INPUT_GRADIENT:
        matmul_input_gradient(r->ctx, &r->ws, r->y, r->rows, r->tokens, r->w, 0, r->rows, r->precision, false, r->x);
        break;
    case WEIGHT_GRADIENT:
        matmul_weight_gradient(r->ctx, &r->ws, r->y, r->rows, r->rows, &x, r->precision, ignore, sink);
        break;
    case QUANTIZE: activations_quantize(r->ctx, r->x, r->tokens, r->cols, r->codes, r->ld, r->step); break;
    }
}

static void product(struct bench *b, const char *name, int isa, int threads, enum product product, int format,
                    int precision,
                    size_t tokens, size_t rows, size_t cols) {
    if (!bench_wants(b, name)) return;
    dqt_context *ctx = context(isa, threads);
    if (!ctx) return;
    struct product_run r = {.ctx = ctx, .product = product, .precision = precision, .tokens = tokens, .rows = rows,
                            .cols = cols, .ld = round_up(cols, UNIT)};
    const dqt_tensor_options o = {.struct_size = sizeof o, .storage = format, .sigma = 4.0f};
    struct scratch_need need = {0};
    matmul_scratch(ctx, tokens, rows, cols, &need);
    r.x = bench_alloc(tokens * cols * sizeof(float));
    r.y = bench_alloc(tokens * rows * sizeof(float));
    r.step = bench_alloc(tokens * sizeof(float));
    r.codes = bench_alloc(tokens * r.ld);
    if (tensor_create(ctx, rows, cols, &o, false, &r.w) == DQT_OK && workspace_create(ctx, &need, &r.ws) == DQT_OK) {
        tensor_init_normal(r.w, 1, 1, 0.02f);
        for (size_t i = 0; i < tokens * cols; i++) r.x[i] = (float)(i * 2654435761u % 1024) / 512.0f - 1.0f;
        for (size_t i = 0; i < tokens * rows; i++) r.y[i] = (float)(i * 2654435761u % 1024) / 512.0f - 1.0f;
        activations_quantize(ctx, r.x, tokens, cols, r.codes, r.ld, r.step);
        const struct bench_times t = bench_time(product_run, &r);
        char shape[64];
        snprintf(shape, sizeof shape, "%zux%zux%zu", tokens, rows, cols);
        const double work = 2.0 * (double)tokens * (double)rows * (double)cols;
        const int what = product == FORWARD ? LIMIT_INT8 : precision == DQT_PRECISION_BF16 ? LIMIT_BF16 : LIMIT_F32;
        if (product == QUANTIZE) {
            bench_rate(b, name, shape, isa, threads, &t, (double)tokens * (double)cols * 5.0, 1e-9, "GB/s", 0);
        } else if (tokens <= 8) {
            const double bytes = (double)rows * (double)r.w->row_bytes;
            bench_microseconds(b, name, shape, isa, threads, &t,
                               read_limit[threads] > 0 ? bytes / read_limit[threads] * 1e-3 : 0);
        } else {
            double limit = limits[what][isa % 64][threads];
            if (what == LIMIT_BF16 && limits[LIMIT_F32][isa % 64][threads] > limit)
                limit = limits[LIMIT_F32][isa % 64][threads];
            bench_rate(b, name, shape, isa, threads, &t, work, 1e-12, product == FORWARD ? "TOP/s" : "TFLOP/s", limit);
        }
    }
    workspace_destroy(ctx, &r.ws);
    tensor_destroy(r.w);
    free(r.x);
    free(r.y);
    free(r.step);
    free(r.codes);
    dqt_context_destroy(ctx);
}

static void products(struct bench *b, int isa, int threads) {
    static const size_t shapes[][3] = {{1024, 2048, 768}, {1024, 768, 2048}, {2048, 2048, 2048}};
    const bool slow = isa == DQT_ISA_SCALAR;
    for (size_t i = 0; i < (slow ? 0 : sizeof shapes / sizeof *shapes); i++) {
        const size_t t = shapes[i][0], r = shapes[i][1], c = shapes[i][2];
        product(b, "forward ternary", isa, threads, FORWARD, DQT_FORMAT_TERNARY, DQT_PRECISION_F32, t, r, c);
        product(b, "forward int4", isa, threads, FORWARD, DQT_FORMAT_INT4, DQT_PRECISION_F32, t, r, c);
        product(b, "forward int8", isa, threads, FORWARD, DQT_FORMAT_INT8, DQT_PRECISION_F32, t, r, c);
        product(b, "dx bf16", isa, threads, INPUT_GRADIENT, DQT_FORMAT_TERNARY, DQT_PRECISION_BF16, t, r, c);
        product(b, "dw bf16", isa, threads, WEIGHT_GRADIENT, DQT_FORMAT_TERNARY, DQT_PRECISION_BF16, t, r, c);
    }
    if (!slow) {
        product(b, "forward int3", isa, threads, FORWARD, DQT_FORMAT_INT3, DQT_PRECISION_F32, 1024, 2048, 768);
        product(b, "dx f32", isa, threads, INPUT_GRADIENT, DQT_FORMAT_TERNARY, DQT_PRECISION_F32, 1024, 2048, 768);
        product(b, "dw f32", isa, threads, WEIGHT_GRADIENT, DQT_FORMAT_TERNARY, DQT_PRECISION_F32, 1024, 2048, 768);
        product(b, "head bf16", isa, threads, FORWARD_FLOAT, DQT_FORMAT_INT8, DQT_PRECISION_BF16, 1024, 2048, 768);
        product(b, "head f32", isa, threads, FORWARD_FLOAT, DQT_FORMAT_INT8, DQT_PRECISION_F32, 1024, 2048, 768);
        product(b, "f32 x f32", isa, threads, FORWARD_FLOAT, DQT_FORMAT_F32, DQT_PRECISION_F32, 1024, 2048, 768);
        product(b, "bf16 x bf16", isa, threads, FORWARD_FLOAT, DQT_FORMAT_BF16, DQT_PRECISION_BF16, 1024, 2048, 768);
    }
    product(b, "token ternary", isa, threads, FORWARD, DQT_FORMAT_TERNARY, DQT_PRECISION_F32, 1, 4096, 4096);
    product(b, "token int4", isa, threads, FORWARD, DQT_FORMAT_INT4, DQT_PRECISION_F32, 1, 4096, 4096);
    product(b, "token int8", isa, threads, FORWARD, DQT_FORMAT_INT8, DQT_PRECISION_F32, 1, 4096, 4096);
    product(b, "token ternary", isa, threads, FORWARD, DQT_FORMAT_TERNARY, DQT_PRECISION_F32, 8, 4096, 4096);
    product(b, "token head int8", isa, threads, FORWARD_FLOAT, DQT_FORMAT_INT8, DQT_PRECISION_F32, 1, 32000, 768);
    product(b, "token head f32", isa, threads, FORWARD_FLOAT, DQT_FORMAT_F32, DQT_PRECISION_F32, 1, 4096, 768);
    product(b, "quantize", isa, threads, QUANTIZE, DQT_FORMAT_TERNARY, DQT_PRECISION_F32, 1024, 64, 2048);
}

int main(int argc, char **argv) {
    static const int isas[] = {DQT_ISA_AMX, DQT_ISA_VNNI, DQT_ISA_AVX512, DQT_ISA_AVX2, DQT_ISA_NEON, DQT_ISA_SCALAR};
    struct bench b = bench_begin(argc, argv, true);
    int only = 0, only_threads = 0; /* first words that name an instruction set or a number of threads */
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if (b.num_words && strcmp(b.words[0], bench_isa_name(isas[i])) == 0) only = isas[i];
    if (only) bench_next_word(&b);
    if (b.num_words && atoi(b.words[0]) > 0) {
        only_threads = atoi(b.words[0]);
        bench_next_word(&b);
    }
    for (int threads = 1; threads <= MAX_THREADS; threads++) measure_memory(&b, threads);
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (only && only != isas[i]) continue;
        for (int threads = 1; threads <= MAX_THREADS; threads++) {
            if (only_threads && only_threads != threads) continue;
            measure_limits(&b, isas[i], threads);
            products(&b, isas[i], threads);
        }
    }
    bench_end(&b);
    return 0;
}
