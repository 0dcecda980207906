/* Limits of the machine and the products of gemm/gemm.h, per instruction set, on 1, 2, 4, ... threads.
 *
 *     build/bench/bench [instruction set] [threads] [words that names contain ...] */
#include "core/memory.h"
#include "format/tensor.h"
#include "gemm/gemm_block.h"
#include "machine.h"
#include "ops/activations.h"

static double limits[3][64][MAX_THREADS + 1]; /* [what][isa][threads], T(FL)OP/s */
static double read_limit[MAX_THREADS + 1];    /* GB/s, from L3: the weights of one layer */

static void measure_limits(struct bench *b, int isa, int threads) {
    dqt_context *ctx = machine_context(isa, threads);
    if (!ctx) return;
    for (int what = LIMIT_INT8; what <= LIMIT_F32; what++)
        limits[what][isa % 64][threads] = machine_compute(b, (enum limit)what, ctx);
    dqt_context_destroy(ctx);
}

static void measure_memory(struct bench *b, int threads) {
    machine_memory(b, false, 96, threads);
    machine_memory(b, true, 96, threads);
    read_limit[threads] = machine_memory(b, false, 8, threads);
}

/* ---- Kernels alone ---- */

enum { KERNEL_ROWS = 256, KERNEL_COLUMNS = 256, KERNEL_K = 2048 };

/* Packed operands (bytes of K per row: KERNEL_K) that stay in L2, the result too. */
struct kernel_run {
    const dqt_context *ctx;
    const struct gemm_engine *e;
    unsigned char *a[MAX_THREADS], *b[MAX_THREADS];
    float *partial[MAX_THREADS], *y[MAX_THREADS], *scale;
    int32_t *row_add;
};

static void kernel_task(void *arg, size_t item, int lane) {
    struct kernel_run *r = arg;
    (void)lane;
    const struct gemm_engine *e = r->e;
    const struct operand o = {.e = e,
                              .a = r->a[item],
                              .m = KERNEL_ROWS,
                              .padded_k = KERNEL_K / e->size,
                              .row_add = r->row_add,
                              .row_scale = r->scale};
    const struct result to = {.y = r->y[item], .ld_y = KERNEL_COLUMNS, .col_scale = r->scale};
    block_begin(e);
    for (size_t i = 0; i < KERNEL_ROWS; i += e->rows)
        gebp_multiply(&o, i, r->b[item], KERNEL_COLUMNS, r->partial[item], &to, (struct prefetch){NULL, 0});
    block_end(e);
}

static void kernel_run(void *arg) {
    struct kernel_run *r = arg;
    parallel_run(r->ctx, (size_t)r->ctx->num_threads, 1e9, kernel_task, r);
}

/* Random ternary codes, where an engine reads them as places of a table. */
static void pack_ternary(const struct gemm_engine *e, unsigned char *b) {
    const struct packing *p = format_packing(FORMAT_TERNARY);
    const size_t bytes = KERNEL_K / PACK_BLOCK * packing_block_bytes(p);
    uint8_t *rows = bench_alloc(PANEL * bytes);
    for (size_t n = 0; n < KERNEL_COLUMNS; n += PANEL) {
        for (size_t i = 0; i < PANEL * bytes; i++)
            rows[i] = (uint8_t)(((n + 1) * (i + 1) * 2654435761u) >> 24);
        e->pack_b_packed(e, p, rows, bytes, PANEL, KERNEL_K / PACK_BLOCK, b + n * KERNEL_K);
    }
    free(rows);
}

static void kernel(struct bench *b, const char *name, const dqt_context *ctx, const struct gemm_engine *e,
                   enum limit limit) {
    if (!bench_wants(b, name)) return;
    struct kernel_run r = {
        .ctx = ctx, .e = e, .scale = bench_alloc(KERNEL_COLUMNS * 4), .row_add = bench_alloc(KERNEL_ROWS * 4)};
    for (size_t i = 0; i < KERNEL_COLUMNS; i++)
        r.scale[i] = 1.0f;
    memset(r.row_add, 0, KERNEL_ROWS * 4);
    for (int t = 0; t < ctx->num_threads; t++) {
        r.a[t] = bench_alloc((KERNEL_ROWS + 64) * KERNEL_K);
        r.b[t] = bench_alloc(KERNEL_COLUMNS * KERNEL_K);
        r.partial[t] = bench_alloc(64 * KERNEL_COLUMNS * 4);
        r.y[t] = bench_alloc(KERNEL_ROWS * KERNEL_COLUMNS * 4);
        memset(r.a[t], 0x3c, (KERNEL_ROWS + 64) * KERNEL_K); /* small numbers in every type */
        memset(r.b[t], 0x3c, KERNEL_COLUMNS * KERNEL_K);
        if (e->max_range == 2) pack_ternary(e, r.b[t]);
    }
    const struct bench_times t = bench_time(kernel_run, &r);
    const int threads = ctx->num_threads, isa = dqt_context_isa(ctx);
    const double work = 2.0 * KERNEL_ROWS * KERNEL_COLUMNS * (double)(KERNEL_K / e->size);
    bench_rate(b, name, "operands in L2", isa, threads, &t, work * threads, 1e-12,
               limit == LIMIT_INT8 ? "TOP/s" : "TFLOP/s", limits[limit][isa % 64][threads]);
    for (int i = 0; i < threads; i++)
        free(r.a[i]), free(r.b[i]), free(r.partial[i]), free(r.y[i]);
    free(r.scale);
    free(r.row_add);
}

static void kernels(struct bench *b, int isa, int threads) {
    dqt_context *ctx = machine_context(isa, threads);
    if (!ctx) return;
    const struct gemm_kernels *m = &ctx->kernels->gemm;
    if (isa != DQT_ISA_SCALAR) {
        kernel(b, "kernel codes", ctx, &m->code, LIMIT_INT8);
        if (m->code.ternary) kernel(b, "kernel ternary", ctx, m->code.ternary, LIMIT_INT8);
        kernel(b, "kernel int8", ctx, &m->int8, LIMIT_INT8);
        kernel(b, "kernel bf16", ctx, &m->bf16, m->bf16.size == 2 ? LIMIT_BF16 : LIMIT_F32);
        kernel(b, "kernel f32", ctx, &m->f32, LIMIT_F32);
    }
    dqt_context_destroy(ctx);
}

/* ---- Products ---- */

enum product { FORWARD, FORWARD_FLOAT, INPUT_GRADIENT, WEIGHT_GRADIENT };

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
    const struct rng rng = rng_make(1, 1, RNG_INPUT_PRODUCT, 1);
    const bool int8 = r->precision == DQT_PRECISION_INT8;
    float sink[MAX_THREADS] = {0};
    switch (r->product) {
    case FORWARD:
        gemm_forward(r->ctx, &r->ws, &x, gemm_gemv_tokens(r->ctx, x.tokens), r->w, 0, r->rows, r->precision, false,
                     r->y, r->rows);
        break;
    case FORWARD_FLOAT:
        gemm_forward(r->ctx, &r->ws, &floats, gemm_gemv_tokens(r->ctx, floats.tokens), r->w, 0, r->rows, r->precision,
                     false, r->y, r->rows);
        break;
    case INPUT_GRADIENT:
        if (int8)
            gemm_input_gradient_int8(r->ctx, &r->ws, r->y, r->rows, r->tokens, r->w, 0, r->rows, &rng, false, r->x);
        else
            gemm_input_gradient(r->ctx, &r->ws, r->y, r->rows, r->tokens, r->w, 0, r->rows, r->precision, false, r->x);
        break;
    case WEIGHT_GRADIENT:
        if (int8)
            gemm_weight_gradient_int8(r->ctx, &r->ws, r->y, r->rows, 0, r->rows, &x, &rng, ignore, sink);
        else
            gemm_weight_gradient(r->ctx, &r->ws, r->y, r->rows, r->rows, &x, r->precision, ignore, sink);
        break;
    }
}

/* group: columns of a scale; 0: one scale for all weights. */
static void group_product(struct bench *b, const char *name, int isa, int threads, enum product product, int format,
                          size_t group, int precision, size_t tokens, size_t rows, size_t cols) {
    if (!bench_wants(b, name)) return;
    dqt_context *ctx = machine_context(isa, threads);
    if (!ctx) return;
    struct product_run r = {.ctx = ctx,
                            .product = product,
                            .precision = precision,
                            .tokens = tokens,
                            .rows = rows,
                            .cols = cols,
                            .ld = round_up(cols, PACK_BLOCK)};
    const dqt_tensor_options o = {.struct_size = sizeof o,
                                  .storage = format,
                                  .scale_axis = group ? DQT_AXIS_GROUP : DQT_AXIS_TENSOR,
                                  .group_size = (int32_t)group,
                                  .sigma = 4.0f};
    struct scratch_need need = {0};
    gemm_scratch(ctx, tokens, rows, cols, group ? group : cols, &need);
    if (precision == DQT_PRECISION_INT8) gemm_int8_gradient_scratch(ctx, tokens, rows, cols, &need);
    r.x = bench_alloc(tokens * cols * sizeof(float));
    r.y = bench_alloc(tokens * rows * sizeof(float));
    r.step = bench_alloc(tokens * sizeof(float));
    r.codes = bench_alloc(tokens * r.ld);
    if (tensor_create(ctx, rows, cols, &o, false, &r.w) == DQT_OK && workspace_create(ctx, &need, &r.ws) == DQT_OK) {
        tensor_init_normal(r.w, 1, 1, 0.02f);
        for (size_t i = 0; i < tokens * cols; i++)
            r.x[i] = (float)(i * 2654435761u % 1024) / 512.0f - 1.0f;
        for (size_t i = 0; i < tokens * rows; i++)
            r.y[i] = (float)(i * 2654435761u % 1024) / 512.0f - 1.0f;
        const struct activation_source source = {.x = r.x};
        const struct activation_buffer codes = {.codes = r.codes, .step = r.step, .cols = cols, .ld = r.ld};
        activations_make(ctx, &r.ws, &source, tokens, &codes);
        const struct bench_times t = bench_time(product_run, &r);
        char shape[64];
        snprintf(shape, sizeof shape, "%zux%zux%zu", tokens, rows, cols);
        const double work = 2.0 * (double)tokens * (double)rows * (double)cols;
        const bool integer = product == FORWARD || precision == DQT_PRECISION_INT8;
        const int what = integer ? LIMIT_INT8 : precision == DQT_PRECISION_BF16 ? LIMIT_BF16 : LIMIT_F32;
        if (tokens <= 8) {
            const double bytes = (double)rows * (double)r.w->row_bytes;
            bench_microseconds(b, name, shape, isa, threads, &t,
                               read_limit[threads] > 0 ? bytes / read_limit[threads] * 1e-3 : 0);
        } else {
            double limit = limits[what][isa % 64][threads];
            if (what == LIMIT_BF16 && limits[LIMIT_F32][isa % 64][threads] > limit)
                limit = limits[LIMIT_F32][isa % 64][threads];
            bench_rate(b, name, shape, isa, threads, &t, work, 1e-12, integer ? "TOP/s" : "TFLOP/s", limit);
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

static void product(struct bench *b, const char *name, int isa, int threads, enum product product, int format,
                    int precision, size_t tokens, size_t rows, size_t cols) {
    group_product(b, name, isa, threads, product, format, 0, precision, tokens, rows, cols);
}

/* Scales of groups beside one scale. */
static void group_products(struct bench *b, int isa, int threads) {
    static const struct {
        int format;
        size_t group;
        const char *names[3];
    } kinds[] = {
        {DQT_FORMAT_INT4, 0, {"groups int4", "groups dx int4", "groups token int4"}},
        {DQT_FORMAT_INT4, 32, {"groups int4/32", "groups dx int4/32", "groups token int4/32"}},
        {DQT_FORMAT_INT4, 128, {"groups int4/128", "groups dx int4/128", "groups token int4/128"}},
        {DQT_FORMAT_INT8, 0, {"groups int8", "groups dx int8", "groups token int8"}},
        {DQT_FORMAT_INT8, 32, {"groups int8/32", "groups dx int8/32", "groups token int8/32"}},
        {DQT_FORMAT_TERNARY, 0, {"groups ternary", "groups dx ternary", "groups token ternary"}},
        {DQT_FORMAT_TERNARY, 256, {"groups ternary/256", "groups dx ternary/256", "groups token ternary/256"}}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const int f = kinds[i].format;
        const size_t g = kinds[i].group, tokens = isa == DQT_ISA_SCALAR ? 16 : 512;
        group_product(b, kinds[i].names[0], isa, threads, FORWARD, f, g, DQT_PRECISION_F32, tokens, 2048, 768);
        group_product(b, kinds[i].names[1], isa, threads, INPUT_GRADIENT, f, g, DQT_PRECISION_BF16, tokens, 2048, 768);
        group_product(b, kinds[i].names[2], isa, threads, FORWARD, f, g, DQT_PRECISION_F32, 1, 4096, 4096);
    }
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
        product(b, "dx int8 of ternary", isa, threads, INPUT_GRADIENT, DQT_FORMAT_TERNARY, DQT_PRECISION_INT8, t, r, c);
        product(b, "dx int8 of int8", isa, threads, INPUT_GRADIENT, DQT_FORMAT_INT8, DQT_PRECISION_INT8, t, r, c);
        product(b, "dw int8", isa, threads, WEIGHT_GRADIENT, DQT_FORMAT_TERNARY, DQT_PRECISION_INT8, t, r, c);
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
}

static void measure(struct bench *b, int isa, int threads) {
    measure_limits(b, isa, threads);
    kernels(b, isa, threads);
    products(b, isa, threads);
    group_products(b, isa, threads);
}

int main(int argc, char **argv) {
    const int most = machine_threads();
    struct bench b = bench_begin(argc, argv, true);
    for (int threads = 1; threads <= most; threads *= 2)
        measure_memory(&b, threads);
    machine_for_each(&b, measure);
    return bench_end(&b);
}
