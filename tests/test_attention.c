/* Attention: forward and backward against a naive one in double (itself checked by central differences), grouped heads,
 * lengths on both sides of the tiles, every instruction set; cached attention; the same bits for 1 to 4 threads. */
#include "bf16_kernels.h"
#include "format/format.h"
#include "isa_contexts.h"
#include "ops/attention.h"
#include "ops/kv_cache.h"

struct sizes {
    size_t q, k, l; /* elements of q, of k, of log_sum */
};

static struct sizes sizes_of(const struct attention_shape *s) {
    size_t tokens = s->batch * s->length;
    struct sizes z = {tokens * s->heads * s->head_size, tokens * s->kv_heads * s->head_size, tokens * s->heads};
    return z;
}

static double *doubles(size_t n) {
    double *p = calloc(n, sizeof *p);
    if (!p) abort();
    return p;
}

static double *widened(const float *x, size_t n) {
    double *p = doubles(n);
    for (size_t i = 0; i < n; i++)
        p[i] = (double)x[i];
    return p;
}

/* Weights p[0..i] of one query into p; returns log-sum-exp. */
static double weights(const struct attention_shape *s, const double *q, const double *k, size_t i, double *p) {
    double best = -INFINITY, sum = 0;
    for (size_t j = 0; j <= i; j++) {
        p[j] = 0;
        for (size_t c = 0; c < s->head_size; c++)
            p[j] += q[c] * k[j * s->kv_heads * s->head_size + c];
        p[j] /= sqrt((double)s->head_size);
        if (p[j] > best) best = p[j];
    }
    for (size_t j = 0; j <= i; j++)
        sum += p[j] = exp(p[j] - best);
    for (size_t j = 0; j <= i; j++)
        p[j] /= sum;
    return best + log(sum);
}

static void naive_forward(const struct attention_shape *s, const double *q, const double *k, const double *v,
                          double *out, double *log_sum) {
    size_t kd = s->kv_heads * s->head_size;
    double *p = doubles(s->length);
    for (size_t b = 0; b < s->batch; b++)
        for (size_t h = 0; h < s->heads; h++)
            for (size_t i = 0; i < s->length; i++) {
                size_t row = (b * s->length + i) * s->heads + h;
                size_t at = b * s->length * kd + h / (s->heads / s->kv_heads) * s->head_size;
                double ls = weights(s, q + row * s->head_size, k + at, i, p);
                if (log_sum) log_sum[row] = ls;
                for (size_t c = 0; c < s->head_size; c++) {
                    double sum = 0;
                    for (size_t j = 0; j <= i; j++)
                        sum += p[j] * v[at + j * kd + c];
                    out[row * s->head_size + c] = sum;
                }
            }
    free(p);
}

static void naive_backward(const struct attention_shape *s, const double *q, const double *k, const double *v,
                           const double *dout, double *dq, double *dk, double *dv) {
    size_t kd = s->kv_heads * s->head_size, size = s->head_size;
    double *p = doubles(s->length), *dp = doubles(s->length), scale = 1 / sqrt((double)size);
    for (size_t b = 0; b < s->batch; b++)
        for (size_t h = 0; h < s->heads; h++)
            for (size_t i = 0; i < s->length; i++) {
                size_t row = (b * s->length + i) * s->heads + h,
                       at = b * s->length * kd + h / (s->heads / s->kv_heads) * size;
                weights(s, q + row * size, k + at, i, p);
                double mean = 0;
                for (size_t j = 0; j <= i; j++) {
                    dp[j] = 0;
                    for (size_t c = 0; c < size; c++) {
                        dp[j] += dout[row * size + c] * v[at + j * kd + c];
                        dv[at + j * kd + c] += p[j] * dout[row * size + c];
                    }
                    mean += p[j] * dp[j];
                }
                for (size_t j = 0; j <= i; j++)
                    for (size_t c = 0; c < size; c++) {
                        double ds = p[j] * (dp[j] - mean) * scale;
                        dq[row * size + c] += ds * k[at + j * kd + c];
                        dk[at + j * kd + c] += ds * q[row * size + c];
                    }
            }
    free(p), free(dp);
}

static double weighted_loss(const struct attention_shape *s, const double *q, const double *k, const double *v,
                            const double *w) {
    size_t n = sizes_of(s).q;
    double *out = doubles(n), loss = 0;
    naive_forward(s, q, k, v, out, NULL);
    for (size_t i = 0; i < n; i++)
        loss += out[i] * w[i];
    free(out);
    return loss;
}

/* The reference itself. */
static void test_differences(void) {
    const struct attention_shape s = {2, 3, 4, 2, 6};
    struct sizes z = sizes_of(&s);
    float *parts[4] = {random_floats(z.q, 1, 1), random_floats(z.k, 1, 2), random_floats(z.k, 1, 3),
                       random_floats(z.q, 1, 4)};
    double *x[4] = {widened(parts[0], z.q), widened(parts[1], z.k), widened(parts[2], z.k), widened(parts[3], z.q)};
    double *d[3] = {doubles(z.q), doubles(z.k), doubles(z.k)};
    naive_backward(&s, x[0], x[1], x[2], x[3], d[0], d[1], d[2]);
    for (int part = 0; part < 3; part++)
        for (size_t i = 0; i < (part ? z.k : z.q); i++) {
            double keep = x[part][i], h = 1e-5;
            x[part][i] = keep + h;
            double up = weighted_loss(&s, x[0], x[1], x[2], x[3]);
            x[part][i] = keep - h;
            double slope = (up - weighted_loss(&s, x[0], x[1], x[2], x[3])) / (2 * h);
            x[part][i] = keep;
            CHECKF(fabs(slope - d[part][i]) < 1e-8, "part %d, element %zu: %g, %g", part, i, d[part][i], slope);
        }
    for (int i = 0; i < 4; i++)
        free(parts[i]), free(x[i]);
    for (int i = 0; i < 3; i++)
        free(d[i]);
}

/* Relative to the largest element, or to what rounding leaves where that vanishes: a sharp softmax has no gradient. */
static double worst(const double *expected, const float *got, size_t n, float scale) {
    double largest = 0.01 * (double)(scale * scale), error = 0;
    for (size_t i = 0; i < n; i++) {
        if (fabs(expected[i]) > largest) largest = fabs(expected[i]);
        double e = fabs(expected[i] - (double)got[i]);
        if (!(e <= error)) error = isnan(e) ? INFINITY : e;
    }
    return error / largest;
}

static struct workspace make_workspace(dqt_context *ctx, const struct attention_shape *s) {
    struct scratch_need need = {0, 0, 0};
    struct workspace ws = {0};
    attention_scratch(ctx, s, &need);
    attention_cached_scratch(ctx, s->length, s->heads, s->head_size, &need);
    OK(ctx, workspace_create(ctx, &need, &ws));
    if (ws.base) memset(ws.base, 0xff, ws.bytes); /* NaN: nothing may be read before it is written */
    return ws;
}

static void compare(dqt_context *ctx, const struct attention_shape *s, float scale, int precision, double tolerance) {
    struct sizes z = sizes_of(s);
    float *q = random_floats(z.q, scale, 1), *k = random_floats(z.k, scale, 2), *v = random_floats(z.k, 1, 3);
    float *dout = random_floats(z.q, 1, 4), *out = random_floats(z.q, 1, 5), *log_sum = random_floats(z.l, 1, 6);
    float *dq = random_floats(z.q, 1, 7), *dk = random_floats(z.k, 1, 8), *dv = random_floats(z.k, 1, 9);
    double *q64 = widened(q, z.q), *k64 = widened(k, z.k), *v64 = widened(v, z.k), *dout64 = widened(dout, z.q);
    double *out64 = doubles(z.q), *ls64 = doubles(z.l), *dq64 = doubles(z.q), *dk64 = doubles(z.k),
           *dv64 = doubles(z.k);
    struct workspace ws = make_workspace(ctx, s);
    naive_forward(s, q64, k64, v64, out64, ls64);
    naive_backward(s, q64, k64, v64, dout64, dq64, dk64, dv64);
    attention_forward(ctx, &ws, s, (struct attention_runs){0}, q, k, v, precision, out, log_sum);
    attention_backward(ctx, &ws, s, (struct attention_runs){0}, q, k, v, out, log_sum, dout, precision, dq, dk, dv);
    const double errors[5] = {worst(out64, out, z.q, 0), worst(ls64, log_sum, z.l, 0), worst(dq64, dq, z.q, scale),
                              worst(dk64, dk, z.k, scale), worst(dv64, dv, z.k, 0)};
    static const char *const names[5] = {"out", "log_sum", "dq", "dk", "dv"};
    for (int i = 0; i < 5; i++) {
        CHECKF(errors[i] < tolerance, "isa %d, batch %zu, length %zu, heads %zu of %zu, size %zu: %s is off by %g",
               dqt_context_isa(ctx), s->batch, s->length, s->heads, s->kv_heads, s->head_size, names[i], errors[i]);
    }
    workspace_destroy(ctx, &ws);
    free(q), free(k), free(v), free(dout), free(out), free(log_sum), free(dq), free(dk), free(dv);
    free(q64), free(k64), free(v64), free(dout64), free(out64), free(ls64), free(dq64), free(dk64), free(dv64);
}

static const struct attention_shape shapes[] = {
    {1, 1, 1, 1, 16},   {2, 3, 2, 1, 18},   {1, 8, 2, 2, 32},  {1, 15, 4, 2, 16}, {1, 17, 2, 2, 64},
    {1, 31, 1, 1, 34},  {1, 33, 3, 1, 48},  {1, 63, 2, 1, 64}, {2, 64, 2, 2, 64}, {1, 65, 2, 1, 80},
    {1, 100, 2, 2, 96}, {1, 130, 6, 2, 64}, {1, 70, 1, 1, 256}};

static void compare_all(int precision, float scale, double tolerance) {
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 2);
        if (!ctx) continue;
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++)
            compare(ctx, &shapes[j], scale, precision, tolerance);
        dqt_context_destroy(ctx);
    }
}

static void test_against_naive(void) {
    compare_all(DQT_PRECISION_F32, 1.5f, 1e-5);
}

/* Tiles of bf16 on any CPU. NULL where DQT_ISA asks for another set. */
static dqt_context *plain_bf16_context(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 2);
    if (ctx) use_plain_bf16(ctx);
    return ctx;
}

static void test_bf16(void) {
    compare_all(DQT_PRECISION_BF16, 1.5f, 2e-2);
    dqt_context *ctx = plain_bf16_context();
    for (size_t j = 0; ctx && j < sizeof shapes / sizeof *shapes; j++)
        compare(ctx, &shapes[j], 1.5f, DQT_PRECISION_BF16, 2e-2);
    dqt_context_destroy(ctx);
}

/* Scores of several thousands: one key takes all, nothing overflows. */
static void test_sharp(void) {
    compare_all(DQT_PRECISION_F32, 60, 3e-3);
}

/* Pieces of so many tokens at most: few, done one by one, and of up to two tiles. */
enum { FEW_TOKENS = 15, MOST_TOKENS = 200 };

/* One sequence in a cache of one layer, appended in pieces[] tokens, which are enough. */
static void append_pieces(dqt_context *ctx, const struct workspace *ws, const struct attention_shape *s, int32_t format,
                          const size_t *pieces, const float *q, const float *k, const float *v, float *out) {
    struct kv_cache cache = {
        .format = format, .layers = 1, .positions = s->length, .kv_heads = s->kv_heads, .head_size = s->head_size};
    struct kv_cache *caches[MOST_TOKENS];
    size_t bytes = kv_cache_layout(&cache), position[MOST_TOKENS];
    cache.data = malloc(bytes);
    memset(cache.data, 0xff, bytes); /* NaN: nothing may be read before it is written */
    for (size_t first = 0, count; first < s->length; first += count, pieces++) {
        count = *pieces < s->length - first ? *pieces : s->length - first;
        for (size_t i = 0; i < count; i++) {
            position[i] = first + i;
            caches[i] = &cache;
        }
        const struct cached_tokens tokens = {count, position, caches};
        size_t row = s->heads * s->head_size, kv_row = s->kv_heads * s->head_size;
        kv_cache_put(ctx, &tokens, 0, k + first * kv_row, v + first * kv_row);
        attention_cached(ctx, ws, &tokens, 0, s->heads, q + first * row, out + first * row);
    }
    free(cache.data);
}

/* Pieces of at most `most` tokens: of 200 1, 6, 31, 156; of 15 1, 6, 1, 6; of 1 one by one. */
static void cached_by_pieces(dqt_context *ctx, const struct workspace *ws, const struct attention_shape *s,
                             int32_t format, size_t most, const float *q, const float *k, const float *v, float *out) {
    size_t pieces[MOST_TOKENS];
    for (size_t i = 0, count = 1; i < MOST_TOKENS; i++, count = 5 * count % most + 1)
        pieces[i] = count;
    append_pieces(ctx, ws, s, format, pieces, q, k, v, out);
}

static double most_apart(const float *a, const float *b, size_t n) {
    double largest = 0;
    for (size_t e = 0; e < n; e++) {
        const double off = fabs((double)a[e] - (double)b[e]);
        if (!(off <= largest)) largest = off;
    }
    return largest;
}

/* What a cache of bf16, or of codes, makes of x[tokens][heads * size]. */
static float *as_cached(int32_t format, const float *x, size_t heads, size_t size) {
    float *y = malloc(heads * size * sizeof *y);
    for (size_t h = 0; h < heads; h++) {
        float most = 1e-5f;
        for (size_t i = h * size; i < (h + 1) * size; i++)
            most = fmaxf(most, fabsf(x[i]));
        for (size_t i = h * size; i < (h + 1) * size; i++)
            y[i] = format == DQT_CACHE_BF16 ? bf16_to_f32(f32_to_bf16(x[i]))
                                            : rintf(x[i] * (127.0f / most)) * (most / 127.0f);
    }
    return y;
}

/* F32 against the whole sequence; the others against F32 of what is left of keys and values: the same bits with bf16,
 * with codes the steps are multiplied later. Few tokens together have the bits of each alone. Some keys and values are
 * 0, whole heads. */
static void check_cached(dqt_context *ctx, const struct attention_shape *s) {
    struct sizes z = sizes_of(s);
    float *q = random_floats(z.q, 2, 1), *k = random_floats(z.k, 2, 2), *v = random_floats(z.k, 1, 3);
    float *out = random_floats(z.q, 1, 4), *cached = random_floats(z.q, 1, 5), *single = random_floats(z.q, 1, 6);
    struct workspace ws = make_workspace(ctx, s);
    for (size_t i = 0; i < s->head_size; i++)
        k[i] = v[z.k - 1 - i] = 0;
    attention_forward(ctx, &ws, s, (struct attention_runs){0}, q, k, v, DQT_PRECISION_F32, out, NULL);
    cached_by_pieces(ctx, &ws, s, DQT_CACHE_F32, MOST_TOKENS, q, k, v, cached);
    double off = most_apart(out, cached, z.q);
    CHECKF(off < 5e-6, "isa %d, length %zu: off by %g", dqt_context_isa(ctx), s->length, off);
    for (int32_t format = DQT_CACHE_BF16; format <= DQT_CACHE_INT8; format++) {
        float *k2 = as_cached(format, k, z.k / s->head_size, s->head_size);
        float *v2 = as_cached(format, v, z.k / s->head_size, s->head_size);
        cached_by_pieces(ctx, &ws, s, DQT_CACHE_F32, MOST_TOKENS, q, k2, v2, out);
        cached_by_pieces(ctx, &ws, s, format, FEW_TOKENS, q, k, v, cached);
        cached_by_pieces(ctx, &ws, s, format, 1, q, k, v, single);
        CHECK(memcmp(single, cached, z.q * sizeof *single) == 0);
        cached_by_pieces(ctx, &ws, s, format, MOST_TOKENS, q, k, v, cached);
        off = most_apart(single, cached, z.q);
        CHECKF(off < 5e-6, "isa %d, length %zu, format %d: one by one off by %g", dqt_context_isa(ctx), s->length,
               format, off);
        off = most_apart(out, cached, z.q);
        CHECKF(off <= (format == DQT_CACHE_BF16 ? 0 : 5e-6), "isa %d, length %zu, format %d: off by %g",
               dqt_context_isa(ctx), s->length, format, off);
        free(k2), free(v2);
    }
    workspace_destroy(ctx, &ws);
    free(q), free(k), free(v), free(out), free(cached), free(single);
}

static void test_cached(void) {
    static const struct attention_shape all[] = {
        {1, 1, 2, 1, 18}, {1, 150, 6, 2, 64}, {1, 64, 3, 3, 34}, {1, 65, 2, 1, 100}};
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 2);
        if (!ctx) continue;
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            check_cached(ctx, &all[j]);
        dqt_context_destroy(ctx);
    }
}

/* Pieces that begin at multiples of 32, so that their products are of bf16 where the context has them, unless the cache
 * is F32: one tile, the next with half a tile of keys before it, and one from another place in F32. */
static void bf16_pieces(dqt_context *ctx, const struct workspace *ws, const struct attention_shape *s, int32_t format,
                        const float *q, const float *k, const float *v, float *out) {
    static const size_t pieces[] = {32, 64, 35, 19, SIZE_MAX};
    append_pieces(ctx, ws, s, format, pieces, q, k, v, out);
}

static void check_cached_bf16(dqt_context *ctx, const struct attention_shape *s) {
    struct sizes z = sizes_of(s);
    float *q = random_floats(z.q, 2, 1), *k = random_floats(z.k, 2, 2), *v = random_floats(z.k, 1, 3);
    float *out = random_floats(z.q, 1, 4), *exact = random_floats(z.q, 1, 5);
    struct workspace ws = make_workspace(ctx, s);
    attention_forward(ctx, &ws, s, (struct attention_runs){0}, q, k, v, DQT_PRECISION_F32, exact, NULL);
    for (int32_t format = DQT_CACHE_F32; format <= DQT_CACHE_INT8; format++) {
        bf16_pieces(ctx, &ws, s, format, q, k, v, out);
        const double off = most_apart(exact, out, z.q);
        CHECKF(off < (format == DQT_CACHE_F32    ? 5e-6
                      : format == DQT_CACHE_BF16 ? 2e-2
                                                 : 6e-2),
               "isa %d, size %zu, format %d: off by %g", dqt_context_isa(ctx), s->head_size, format, off);
    }
    workspace_destroy(ctx, &ws);
    free(q), free(k), free(v), free(out), free(exact);
}

static void test_cached_bf16(void) {
    static const struct attention_shape all[] = {{1, 190, 4, 2, 64}, {1, 150, 2, 1, 18}, {1, 200, 3, 3, 100}};
    for (size_t i = 0; i <= ISA_COUNT; i++) {
        dqt_context *ctx = i < ISA_COUNT ? isa_context(isa_caps[i].isa, 2) : plain_bf16_context();
        for (size_t j = 0; ctx && j < sizeof all / sizeof *all; j++)
            check_cached_bf16(ctx, &all[j]);
        dqt_context_destroy(ctx);
    }
}

/* A key of NaN, a value of NaN or infinity are seen from their position on, in their head, whatever the format, where
 * tokens are few. */
static void test_cached_nonfinite(void) {
    const struct attention_shape s = {1, 20, 2, 2, 16};
    struct sizes z = sizes_of(&s);
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    struct workspace ws = make_workspace(ctx, &s);
    for (int32_t format = DQT_CACHE_F32; format <= DQT_CACHE_INT8; format++)
        for (int which = 0; which < 3; which++) {
            float *q = random_floats(z.q, 1, 1), *k = random_floats(z.k, 1, 2), *v = random_floats(z.k, 1, 3);
            float *out = random_floats(z.q, 1, 4);
            (which ? v : k)[(11 * s.kv_heads + 1) * s.head_size + 3] = which < 2 ? NAN : INFINITY;
            cached_by_pieces(ctx, &ws, &s, format, FEW_TOKENS, q, k, v, out);
            for (size_t t = 0; t < s.length; t++)
                for (size_t h = 0; h < s.heads; h++) {
                    size_t finite = 0;
                    for (size_t i = 0; i < s.head_size; i++)
                        finite += isfinite(out[(t * s.heads + h) * s.head_size + i]) != 0;
                    CHECKF(t >= 11 && h == 1 ? finite < s.head_size : finite == s.head_size,
                           "format %d, %d: token %zu, head %zu: %zu finite", format, which, t, h, finite);
                }
            free(q), free(k), free(v), free(out);
        }
    workspace_destroy(ctx, &ws);
    dqt_context_destroy(ctx);
}

#if defined(__x86_64__)
/* Whether this thread's tile registers hold something (XINUSE of XGETBV, Intel SDM 1, 13.2): then every switch of
 * threads saves their 8 KiB, and cores may not sleep deeply. */
static bool tiles_in_use(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    return (low >> 18 & 1) != 0;
}

static void test_tiles_are_released(void) {
    const struct attention_shape s = {1, 90, 2, 1, 32};
    struct sizes z = sizes_of(&s);
    dqt_context *ctx = isa_context(DQT_ISA_AMX, 1);
    if (!ctx) return;
    float *q = random_floats(z.q, 1, 1), *k = random_floats(z.k, 1, 2), *v = random_floats(z.k, 1, 3);
    float *out = random_floats(z.q, 1, 4), *dq = random_floats(z.q, 1, 5), *dk = random_floats(z.k, 1, 6);
    float *dv = random_floats(z.k, 1, 7), *log_sum = random_floats(z.l, 1, 8);
    struct workspace ws = make_workspace(ctx, &s);
    attention_forward(ctx, &ws, &s, (struct attention_runs){0}, q, k, v, DQT_PRECISION_BF16, out, log_sum);
    CHECK(!tiles_in_use());
    attention_backward(ctx, &ws, &s, (struct attention_runs){0}, q, k, v, out, log_sum, q, DQT_PRECISION_BF16, dq, dk,
                       dv);
    CHECK(!tiles_in_use());
    workspace_destroy(ctx, &ws);
    free(q), free(k), free(v), free(out), free(dq), free(dk), free(dv), free(log_sum);
    dqt_context_destroy(ctx);
}
#endif

/* A later token changes nothing before it, to the bit. */
static void test_causal(void) {
    const struct attention_shape s = {1, 90, 2, 1, 32};
    struct sizes z = sizes_of(&s);
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 1);
        if (!ctx) continue;
        float *q = random_floats(z.q, 1, 1), *k = random_floats(z.k, 1, 2), *v = random_floats(z.k, 1, 3);
        float *a = random_floats(z.q, 1, 4), *b = random_floats(z.q, 1, 5);
        struct workspace ws = make_workspace(ctx, &s);
        attention_forward(ctx, &ws, &s, (struct attention_runs){0}, q, k, v, DQT_PRECISION_F32, a, NULL);
        for (size_t at = 0; at < s.length; at += 11) {
            size_t row = s.heads * s.head_size, kv_row = s.kv_heads * s.head_size;
            random_fill(k + at * kv_row, z.k - at * kv_row, 9, at);
            random_fill(v + at * kv_row, z.k - at * kv_row, 9, at + 1);
            attention_forward(ctx, &ws, &s, (struct attention_runs){0}, q, k, v, DQT_PRECISION_F32, b, NULL);
            CHECKF(memcmp(a, b, at * row * sizeof *a) == 0, "isa %d, token %zu", isa_caps[i].isa, at);
            CHECKF(memcmp(a + at * row, b + at * row, row * sizeof *a) != 0, "isa %d, token %zu", isa_caps[i].isa, at);
            random_fill(k, z.k, 1, 2);
            random_fill(v, z.k, 1, 3);
        }
        workspace_destroy(ctx, &ws);
        free(q), free(k), free(v), free(a), free(b);
        dqt_context_destroy(ctx);
    }
}

static void test_threads(void) {
    const struct attention_shape s = {2, 75, 6, 2, 40};
    struct sizes z = sizes_of(&s);
    size_t total = 2 * z.q + 2 * z.k + z.l;
    for (size_t i = 0; i < 2 * ISA_COUNT; i++) {
        float *one = NULL;
        for (int threads = 1; threads <= 4; threads++) {
            dqt_context *ctx = isa_context(isa_caps[i / 2].isa, threads);
            if (!ctx) break;
            int precision = i % 2 ? DQT_PRECISION_BF16 : DQT_PRECISION_F32;
            float *q = random_floats(z.q, 1, 1), *k = random_floats(z.k, 1, 2), *v = random_floats(z.k, 1, 3);
            float *all = random_floats(total, 0, 4), *dq = all + z.q, *dk = dq + z.q, *dv = dk + z.k,
                  *log_sum = dv + z.k;
            struct workspace ws = make_workspace(ctx, &s);
            attention_forward(ctx, &ws, &s, (struct attention_runs){0}, q, k, v, precision, all, log_sum);
            attention_backward(ctx, &ws, &s, (struct attention_runs){0}, q, k, v, all, log_sum, q, precision, dq, dk,
                               dv);
            workspace_destroy(ctx, &ws);
            free(q), free(k), free(v);
            if (one)
                CHECKF(memcmp(one, all, total * sizeof *all) == 0, "isa %d, %d threads", isa_caps[i / 2].isa, threads);
            if (one)
                free(all);
            else
                one = all;
            dqt_context_destroy(ctx);
        }
        free(one);
    }
}

static const struct test tests[] = {
    TEST(test_differences),
    TEST(test_against_naive),
    TEST(test_bf16),
    TEST(test_sharp),
    TEST(test_cached),
    TEST(test_cached_bf16),
    TEST(test_cached_nonfinite),
    TEST(test_causal),
    TEST(test_threads),
#if defined(__x86_64__)
    TEST(test_tiles_are_released),
#endif
};
TEST_MAIN(tests)
