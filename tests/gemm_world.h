/* What the tests of products share: operands at guard pages, and forward products and input gradients against sums in
 * double. Define _DEFAULT_SOURCE before. */
#ifndef GEMM_WORLD_H
#define GEMM_WORLD_H

#include "lanes.h"
#include "test.h"

#include "core/memory.h"
#include "format/tensor.h"
#include "formats.h"
#include "gemm/gemm.h"
#include "isa/isa.h"

#include <sys/mman.h>
#include <unistd.h>

/* A context of exactly this instruction set, or NULL where the CPU lacks it. */
static inline dqt_context *context(int isa, int threads) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.num_threads = threads;
    if (threads == 1) o.threading = DQT_THREADING_SERIAL;
    if (dqt_context_create(&o, &ctx) != DQT_OK) return NULL;
    share_all_work(ctx);
    if (dqt_context_isa(ctx) == isa) return ctx;
    dqt_context_destroy(ctx);
    return NULL;
}

/* For products that would take long with plain C: calls with every other instruction set, or with it if it is alone. */
static inline void each_fast_set(void (*call)(dqt_context *ctx, const size_t *size), const size_t *size) {
    bool found = false;
    for (size_t k = ISA_CAP_COUNT; k-- > 0;) {
        dqt_context *ctx = context(isa_caps[k].isa, 2);
        if (!ctx) continue;
        if (isa_caps[k].isa != DQT_ISA_SCALAR || !found) call(ctx, size);
        dqt_context_destroy(ctx);
        found = true;
    }
}

/* Memory that ends at a page that cannot be touched. Freed by guard_free_all. */
static struct {
    void *base;
    size_t bytes;
} guards[64];
static size_t num_guards;

static inline void *guard_alloc(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    unsigned char *base = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || num_guards == sizeof guards / sizeof *guards) abort();
    mprotect(base + body, page, PROT_NONE);
    guards[num_guards].base = base;
    guards[num_guards++].bytes = body + page;
    return base + body - bytes;
}

static inline void guard_free_all(void) {
    while (num_guards) {
        num_guards--;
        munmap(guards[num_guards].base, guards[num_guards].bytes);
    }
}

/* A scale of a group: also 0, below 0, and, kept as halves, subnormal. */
static inline float group_scale(uint64_t *seed, bool trained) {
    const float scale = 0.5f + 0.25f * test_uniform(seed);
    const uint64_t kind = trained ? 7 : test_random(seed) % 8;
    return kind == 0 ? 0.0f : kind == 1 ? -scale : kind == 2 ? scale * 0x1p-17f : scale;
}

/* Random weights, biased to the extreme codes, in memory that ends at a guard page; one scale a row, or (group > 0) for
 * `group` columns. */
static inline dqt_tensor *group_weights(dqt_context *ctx, int storage, int compute, size_t rows, size_t cols,
                                        size_t group, bool trained, uint64_t seed) {
    dqt_tensor_options o = {.storage = storage, .compute = compute, .sigma = 4.0f, .train_scale = trained};
    dqt_tensor *t = NULL;
    if (number_is_code(storage) && !compute) o.scale_axis = DQT_AXIS_ROW;
    if (group) o.scale_axis = DQT_AXIS_GROUP;
    o.group_size = (int32_t)group;
    OK(ctx, tensor_create(ctx, rows, cols, &o, false, &t));
    unsigned char *data = guard_alloc(t->data_bytes);
    memcpy(data, t->data, t->data_bytes); /* padding codes */
    unsigned char *own = t->data;
    t->data = data;
    int8_t *codes = calloc(round_up(cols, PACK_BLOCK), 1);
    for (size_t r = 0; r < rows; r++) {
        if (number_is_code(storage)) {
            const int low = format_min(t->storage), span = format_max(t->storage) - low + 1;
            for (size_t c = 0; c < cols; c++) {
                uint64_t u = test_random(&seed);
                codes[c] = (int8_t)(u % 4 == 0   ? low
                                    : u % 4 == 1 ? low + span - 1
                                                 : low + (int)((u >> 8) % (unsigned)span));
            }
            tensor_pack_codes(t, r, codes);
            if (!group && r < t->num_scales) t->scales[r] = 0.5f + 0.25f * test_uniform(&seed);
        } else {
            for (size_t c = 0; c < cols; c++) {
                float f = test_uniform(&seed);
                uint16_t h = f32_to_bf16(f);
                if (storage == DQT_FORMAT_F32) memcpy(tensor_row(t, r) + c * 4, &f, 4);
                if (storage == DQT_FORMAT_BF16) memcpy(tensor_row(t, r) + c * 2, &h, 2);
            }
        }
    }
    free(codes);
    if (group && t->num_scales) {
        float *scales = malloc(t->num_scales * sizeof *scales);
        for (size_t i = 0; i < t->num_scales; i++)
            scales[i] = group_scale(&seed, trained);
        tensor_set_scales(t, scales);
        free(scales);
    }
    tensor_refresh(t);
    (void)own; /* belongs to the tensor's block */
    return t;
}

static inline dqt_tensor *weights(dqt_context *ctx, int storage, int compute, size_t rows, size_t cols, uint64_t seed) {
    return group_weights(ctx, storage, compute, rows, cols, 0, false, seed);
}

struct setup {
    size_t tokens, rows, cols;
    struct activations x;
    float *floats, *dy;
    double *w; /* [rows][cols] */
};

/* Either codes at the extremes or floats; dy[tokens][rows]. */
static inline struct setup setup(const dqt_tensor *t, size_t tokens, bool quantized, uint64_t seed) {
    struct setup s = {.tokens = tokens, .rows = t->rows, .cols = t->cols};
    const size_t ld = round_up(t->cols, PACK_BLOCK);
    s.x.tokens = tokens;
    s.x.cols = t->cols;
    s.dy = guard_alloc(tokens * t->rows * sizeof(float));
    for (size_t i = 0; i < tokens * t->rows; i++)
        s.dy[i] = test_uniform(&seed);
    if (quantized) {
        int8_t *codes = guard_alloc(tokens * ld);
        float *step = guard_alloc(tokens * sizeof(float));
        for (size_t i = 0; i < tokens; i++) {
            step[i] = 0.01f * (1.5f + test_uniform(&seed));
            for (size_t c = 0; c < t->cols; c++) {
                uint64_t u = test_random(&seed);
                codes[i * ld + c] = (int8_t)(u % 4 == 0 ? -127 : u % 4 == 1 ? 127 : (int)((u >> 8) % 255) - 127);
            }
        }
        s.x.codes = codes;
        s.x.step = step;
        s.x.ld = ld;
    } else {
        s.x.ld = t->cols;
        s.floats = guard_alloc(tokens * t->cols * sizeof(float));
        for (size_t i = 0; i < tokens * t->cols; i++)
            s.floats[i] = test_uniform(&seed);
        s.x.floats = s.floats;
    }
    s.w = malloc(t->rows * t->cols * sizeof(double));
    float *row = malloc(t->cols * sizeof(float));
    for (size_t r = 0; r < t->rows; r++) {
        tensor_read_floats(t, r, 0, t->cols, row);
        for (size_t c = 0; c < t->cols; c++)
            s.w[r * t->cols + c] = (double)row[c];
    }
    free(row);
    return s;
}

static inline double x_value(const struct setup *s, size_t t, size_t c) {
    return s->x.codes ? (double)s->x.codes[t * s->x.ld + c] * (double)s->x.step[t] : (double)s->floats[t * s->cols + c];
}

/* |got - want| against `bound` * sum |terms|: f32 sums of k terms err by at most k * 2^-24 * sum |terms| to first order
 * (Higham 2002, section 4.2); inputs emulates_bf16 to bf16 add 2 * 2^-8 (half a unit in 8 bits, each factor). */
static inline double tolerance(size_t k, bool emulates_bf16, double magnitude) {
    return (((double)k + 8.0) * 0x1p-24 + (emulates_bf16 ? 2.0 * 0x1p-8 : 0.0)) * magnitude + 1e-30;
}

static inline struct workspace workspace_for(dqt_context *ctx, size_t tokens, const dqt_tensor *t) {
    struct scratch_need need = {0};
    struct workspace ws = {0};
    gemm_scratch(ctx, tokens, t->rows, t->cols, tensor_compute_group_cols(t), &need);
    OK(ctx, workspace_create(ctx, &need, &ws));
    return ws;
}

static inline void check_forward(dqt_context *ctx, const char *isa, const dqt_tensor *t, const struct setup *s,
                                 size_t row, size_t rows, int precision, bool accumulate) {
    const size_t ld_y = rows + 3;
    struct workspace ws = workspace_for(ctx, s->tokens, t);
    float *y = guard_alloc(((s->tokens - 1) * ld_y + rows) * sizeof(float));
    for (size_t i = 0; i < (s->tokens - 1) * ld_y + rows; i++)
        y[i] = 0.25f;
    gemm_forward(ctx, &ws, &s->x, gemm_gemv_tokens(ctx, s->x.tokens), t, row, rows, precision, accumulate, y, ld_y);
    const bool emulates_bf16 = !s->x.codes && precision == DQT_PRECISION_BF16;
    for (size_t i = 0; i < s->tokens; i++) {
        for (size_t r = 0; r < rows; r++) {
            double want = accumulate ? 0.25 : 0.0, magnitude = want;
            for (size_t c = 0; c < s->cols; c++) {
                double term = x_value(s, i, c) * s->w[(row + r) * s->cols + c];
                want += term;
                magnitude += fabs(term);
            }
            double error = fabs((double)y[i * ld_y + r] - want);
            if (!(error <= tolerance(s->cols, emulates_bf16, magnitude))) {
                CHECKF(false, "%s %s/%s %zux%zux%zu precision %d: y[%zu][%zu] = %g, not %g", isa,
                       format_name(t->storage), format_name(t->compute), s->tokens, rows, s->cols, precision, i, r,
                       (double)y[i * ld_y + r], want);
                goto done;
            }
        }
        for (size_t r = rows; r < ld_y && i + 1 < s->tokens; r++)
            CHECK(y[i * ld_y + r] == 0.25f);
    }
done:
    workspace_destroy(ctx, &ws);
}

static inline void check_input_gradient(dqt_context *ctx, const char *isa, const dqt_tensor *t, const struct setup *s,
                                        size_t row, size_t rows, int precision, bool accumulate) {
    struct workspace ws = workspace_for(ctx, s->tokens, t);
    float *dx = guard_alloc(s->tokens * s->cols * sizeof(float));
    for (size_t i = 0; i < s->tokens * s->cols; i++)
        dx[i] = 0.25f;
    gemm_input_gradient(ctx, &ws, s->dy + row, s->rows, s->tokens, t, row, rows, precision, accumulate, dx);
    for (size_t i = 0; i < s->tokens; i++) {
        for (size_t c = 0; c < s->cols; c++) {
            double want = accumulate ? 0.25 : 0.0, magnitude = want;
            for (size_t r = 0; r < rows; r++) {
                double term = (double)s->dy[i * s->rows + row + r] * s->w[(row + r) * s->cols + c];
                want += term;
                magnitude += fabs(term);
            }
            if (!(fabs((double)dx[i * s->cols + c] - want) <=
                  tolerance(rows, precision == DQT_PRECISION_BF16, magnitude))) {
                CHECKF(false, "%s %s/%s %zux%zux%zu precision %d: dx[%zu][%zu] = %g, not %g", isa,
                       format_name(t->storage), format_name(t->compute), s->tokens, rows, s->cols, precision, i, c,
                       (double)dx[i * s->cols + c], want);
                goto done;
            }
        }
    }
done:
    workspace_destroy(ctx, &ws);
}

#endif
