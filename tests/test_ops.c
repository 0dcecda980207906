/* RMSNorm, activations, rotary embedding and cross-entropy tiles: forward against references in double, backward
 * against central differences of those references, on every instruction set; the same bits for 1 to 4 threads. */
#include "isa_contexts.h"
#include "ops/activations.h"
#include "ops/attention.h"
#include "ops/loss.h"
#include "ops/mlp.h"
#include "ops/norm.h"

static void each_isa(void (*check)(dqt_context *ctx)) {
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 2);
        if (!ctx) continue;
        check(ctx);
        CHECK(dqt_context_allocated(ctx) > 0);
        dqt_context_destroy(ctx);
    }
}

static bool close_to(double expected, float got, double tolerance) {
    return fabs(expected - (double)got) <= tolerance * (1 + fabs(expected));
}

/* ---- RMSNorm ---- */

/* L = sum w . y. */
static double norm_reference(const double *x, const double *gain, const float *w, size_t tokens, size_t n, double *y) {
    double loss = 0;
    for (size_t t = 0; t < tokens; t++) {
        double squares = 0;
        for (size_t i = 0; i < n; i++)
            squares += x[t * n + i] * x[t * n + i];
        double r = 1 / sqrt(squares / (double)n + (double)1e-5f);
        for (size_t i = 0; i < n; i++) {
            double v = x[t * n + i] * r * gain[i];
            if (y) y[t * n + i] = v;
            loss += v * (double)w[t * n + i];
        }
    }
    return loss;
}

static void widen(const float *x, size_t n, double *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = (double)x[i];
}

/* Rows of a source as floats. */
static void make_floats(const dqt_context *ctx, struct activation_source source, size_t tokens, size_t cols, float *y) {
    const struct activation_buffer out = {.floats = y, .cols = cols, .ld = cols};
    activations_make(ctx, NULL, &source, tokens, &out);
}

static void norm_forward(const dqt_context *ctx, const float *x, const float *gain, size_t tokens, size_t cols,
                         float *y, float *inverse_rms) {
    make_floats(ctx, (struct activation_source){.x = x, .gain = gain, .eps = 1e-5f, .inverse_rms = inverse_rms}, tokens,
                cols, y);
}

static void check_norm(dqt_context *ctx) {
    enum { TOKENS = 35, N = 37 };
    static double x64[TOKENS * N], gain64[N], y64[TOKENS * N];
    float *x = random_floats(TOKENS * N, 2, 1), *gain = random_floats(N, 1, 2), *w = random_floats(TOKENS * N, 1, 3);
    float *y = random_floats(TOKENS * N, 1, 4), *dx = random_floats(TOKENS * N, 1, 5), dgain[N], r[TOKENS];
    float *added = random_floats(TOKENS * N, 1, 5);
    for (size_t i = 0; i < N; i++)
        x[3 * N + i] = 0; /* a row of zeros */
    widen(x, TOKENS * N, x64);
    widen(gain, N, gain64);
    norm_reference(x64, gain64, w, TOKENS, N, y64);
    norm_forward(ctx, x, gain, TOKENS, N, y, r);
    for (size_t i = 0; i < TOKENS * N; i++)
        CHECKF(close_to(y64[i], y[i], 2e-6), "y[%zu] %g", i, (double)y[i]);

    struct scratch_need need = {0, 0, 0};
    struct workspace ws;
    norm_scratch(TOKENS, N, &need);
    OK(ctx, workspace_create(ctx, &need, &ws));
    struct norm_gradient g = {.dy = w, .x = x, .gain = gain, .inverse_rms = r, .dx = dx, .dgain = dgain};
    norm_backward(ctx, &ws, &g, TOKENS, N);
    g.accumulate = true;
    g.dx = added;
    g.dgain = NULL;
    norm_backward(ctx, &ws, &g, TOKENS, N);
    for (size_t i = 0; i < TOKENS * N; i++) {
        double keep = x64[i], h = 1e-5;
        x64[i] = keep + h;
        double up = norm_reference(x64, gain64, w, TOKENS, N, NULL);
        x64[i] = keep - h;
        double slope = (up - norm_reference(x64, gain64, w, TOKENS, N, NULL)) / (2 * h);
        x64[i] = keep;
        /* where x is 0, r is 1/sqrt(eps) = 316 and the curvature within h is not small */
        CHECKF(close_to(slope, dx[i], 2e-5), "dx[%zu] %g, %g", i, (double)dx[i], slope);
    }
    float *base = random_floats(TOKENS * N, 1, 5);
    for (size_t i = 0; i < TOKENS * N; i++)
        CHECK(added[i] == base[i] + dx[i]);
    for (size_t i = 0; i < N; i++) {
        double keep = gain64[i], h = 1e-4;
        gain64[i] = keep + h;
        double up = norm_reference(x64, gain64, w, TOKENS, N, NULL);
        gain64[i] = keep - h;
        double slope = (up - norm_reference(x64, gain64, w, TOKENS, N, NULL)) / (2 * h);
        gain64[i] = keep;
        CHECKF(close_to(slope, dgain[i], 1e-5), "dgain[%zu] %g, %g", i, (double)dgain[i], slope);
    }
    /* in place */
    memcpy(y, w, TOKENS * N * sizeof *y);
    g.accumulate = false;
    g.dy = g.dx = y;
    norm_backward(ctx, &ws, &g, TOKENS, N);
    CHECK(memcmp(y, dx, TOKENS * N * sizeof *y) == 0);
    workspace_destroy(ctx, &ws);
    free(x), free(gain), free(w), free(y), free(dx), free(added), free(base);
}

static void test_norm(void) {
    each_isa(check_norm);
}

/* ---- Activations ---- */

static double silu_product(double g, double u) {
    return g / (1 + exp(-g)) * u;
}
static double relu_square(double u) {
    return u > 0 ? u * u : 0;
}

/* max(gate, 0)^2 * up and its gradients, also over their inputs; NaN stay NaN. */
static void check_gated_squared_relu(dqt_context *ctx) {
    enum { N = 16384 + 1003 };
    float *gate = random_floats(N, 3, 1), *up = random_floats(N, 3, 2), *dh = random_floats(N, 1, 3);
    float *h = random_floats(N, 1, 4), *dgate = random_floats(N, 1, 5), *dup = random_floats(N, 1, 6);
    make_floats(ctx, (struct activation_source){.gate = gate, .up = up, .squared = true}, 1, N, h);
    hidden_backward(ctx, true, gate, up, dh, N, dgate, dup);
    for (size_t i = 0; i < N; i++) {
        const double g = gate[i] > 0 ? (double)gate[i] : 0, u = (double)up[i], d = (double)dh[i];
        CHECK(close_to(g * g * u, h[i], 1e-6) && close_to(2 * g * u * d, dgate[i], 2e-6));
        CHECK(close_to(g * g * d, dup[i], 2e-6));
    }
    hidden_backward(ctx, true, gate, up, dh, N, gate, dh);
    CHECK(memcmp(gate, dgate, N * sizeof *gate) == 0 && memcmp(dh, dup, N * sizeof *dh) == 0);
    float bad[2] = {NAN, 1}, ones[2] = {1, NAN}, out[2], d[2];
    make_floats(ctx, (struct activation_source){.gate = bad, .up = ones, .squared = true}, 1, 2, out);
    CHECK(isnan(out[0]) && isnan(out[1]));
    hidden_backward(ctx, true, bad, ones, ones, 2, out, d);
    CHECK(isnan(out[0]) && isnan(out[1]) && isnan(d[0]) && isnan(d[1]));
    free(gate), free(up), free(dh), free(h), free(dgate), free(dup);
}

static void check_activations(dqt_context *ctx) {
    enum { N = 16384 + 1003 };
    float *gate = random_floats(N, 9, 1), *up = random_floats(N, 3, 2), *dh = random_floats(N, 1, 3);
    float *h = random_floats(N, 1, 4), *dgate = random_floats(N, 1, 5), *dup = random_floats(N, 1, 6);
    make_floats(ctx, (struct activation_source){.gate = gate, .up = up}, 1, N, h);
    hidden_backward(ctx, false, gate, up, dh, N, dgate, dup);
    for (size_t i = 0; i < N; i++) {
        double g = (double)gate[i], u = (double)up[i], d = (double)dh[i], e = 1e-5;
        CHECKF(close_to(silu_product(g, u), h[i], 1e-6), "h[%zu] %g", i, (double)h[i]);
        CHECK(close_to((silu_product(g + e, u) - silu_product(g - e, u)) / (2 * e) * d, dgate[i], 2e-6));
        CHECK(close_to((silu_product(g, u + e) - silu_product(g, u - e)) / (2 * e) * d, dup[i], 2e-6));
    }
    make_floats(ctx, (struct activation_source){.up = up}, 1, N, h);
    hidden_backward(ctx, false, NULL, up, dh, N, NULL, dup);
    for (size_t i = 0; i < N; i++) {
        double u = (double)up[i], e = 1e-6;
        CHECK(close_to(relu_square(u), h[i], 1e-6));
        CHECK(close_to((relu_square(u + e) - relu_square(u - e)) / (2 * e) * (double)dh[i], dup[i], 2e-6));
    }
    /* outputs over inputs */
    float *g2 = random_floats(N, 9, 1), *u2 = random_floats(N, 3, 2), *d2 = random_floats(N, 1, 3);
    hidden_backward(ctx, false, gate, up, dh, N, dgate, dup);
    hidden_backward(ctx, false, g2, u2, d2, N, g2, u2);
    CHECK(memcmp(g2, dgate, N * sizeof *g2) == 0 && memcmp(u2, dup, N * sizeof *u2) == 0);
    /* far out: no NaN from exp overflowing */
    float extreme[4] = {1e4f, -1e4f, 3e38f, -3e38f}, ones[4] = {1, 1, 1, 1}, eh[4], eg[4], eu[4];
    make_floats(ctx, (struct activation_source){.gate = extreme, .up = ones}, 1, 4, eh);
    hidden_backward(ctx, false, extreme, ones, ones, 4, eg, eu);
    CHECK(eh[0] == 1e4f && eh[1] == 0 && eh[2] == 3e38f && eh[3] == 0);
    CHECK(eg[0] == 1 && eg[1] == 0 && eg[2] == 1 && eg[3] == 0 && eu[0] == 1e4f && eu[1] == 0);
    float bad[1] = {NAN};
    make_floats(ctx, (struct activation_source){.up = bad}, 1, 1, eh);
    CHECK(isnan(eh[0]));
    make_floats(ctx, (struct activation_source){.gate = bad, .up = ones}, 1, 1, eh);
    CHECK(isnan(eh[0]));
    free(gate), free(up), free(dh), free(h), free(dgate), free(dup), free(g2), free(u2), free(d2);
}

/* A chain in one call gives the bits of its ops one by one: hidden rows, norm, codes, and backward through both. */
static void check_chain(dqt_context *ctx) {
    enum { TOKENS = 67, N = 131, LD = 192, SIZE = TOKENS * N };
    float *gate = random_floats(SIZE, 5, 1), *up = random_floats(SIZE, 3, 2), *dh = random_floats(SIZE, 1, 3);
    float *gain = random_floats(N, 1, 4), *h = random_floats(SIZE, 0, 5), *normed = random_floats(SIZE, 0, 6);
    float *kept = random_floats(SIZE, 0, 7), *dx = random_floats(SIZE, 0, 8), *dgate[2], *dup[2];
    float r[2][TOKENS], step[2][TOKENS], dgain[2][N];
    static int8_t codes[2][TOKENS * LD];
    for (int i = 0; i < 2; i++) {
        dgate[i] = random_floats(SIZE, 1, 9);
        dup[i] = random_floats(SIZE, 1, 10);
    }
    struct scratch_need need = {0, 0, 0};
    struct workspace ws;
    norm_scratch(TOKENS, N, &need);
    activations_scratch(N, &need);
    OK(ctx, workspace_create(ctx, &need, &ws));
    for (int gated = 0; gated < 2; gated++) {
        const float *g = gated ? gate : NULL;
        memset(codes, 1, sizeof codes);
        make_floats(ctx, (struct activation_source){.gate = g, .up = up}, TOKENS, N, h);
        norm_forward(ctx, h, gain, TOKENS, N, normed, r[0]);
        const struct activation_source plain = {.x = normed, .kept = kept};
        const struct activation_buffer out = {.codes = codes[0], .step = step[0], .cols = N, .ld = LD};
        activations_make(ctx, NULL, &plain, TOKENS, &out);
        CHECK(memcmp(kept, normed, SIZE * sizeof *kept) == 0);

        const struct activation_source chain = {.gate = g, .up = up, .gain = gain, .eps = 1e-5f, .inverse_rms = r[1]};
        const struct activation_buffer at_once = {.codes = codes[1], .step = step[1], .cols = N, .ld = LD};
        activations_make(ctx, &ws, &chain, TOKENS, &at_once);
        CHECK(memcmp(r[0], r[1], sizeof r[0]) == 0 && memcmp(step[0], step[1], sizeof step[0]) == 0);
        CHECK(memcmp(codes[0], codes[1], sizeof codes[0]) == 0 && codes[0][N] == 0 && codes[0][LD - 1] == 0);

        struct norm_gradient b = {.dy = dh, .x = h, .gain = gain, .inverse_rms = r[0], .dx = dx, .dgain = dgain[0]};
        norm_backward(ctx, &ws, &b, TOKENS, N);
        hidden_backward(ctx, false, g, up, dx, SIZE, dgate[0], dup[0]);
        memcpy(dup[1], dh, SIZE * sizeof *dh); /* in place */
        b = (struct norm_gradient){.dy = dup[1],
                                   .gate = g,
                                   .up = up,
                                   .gain = gain,
                                   .inverse_rms = r[0],
                                   .dgate = dgate[1],
                                   .dup = dup[1],
                                   .dgain = dgain[1]};
        norm_backward(ctx, &ws, &b, TOKENS, N);
        CHECK(memcmp(dup[0], dup[1], SIZE * sizeof *dh) == 0 && memcmp(dgain[0], dgain[1], sizeof dgain[0]) == 0);
        CHECK(memcmp(dgate[0], dgate[1], SIZE * sizeof *dh) == 0);
    }
    workspace_destroy(ctx, &ws);
    for (int i = 0; i < 2; i++)
        free(dgate[i]), free(dup[i]);
    free(gate), free(up), free(dh), free(gain), free(h), free(normed), free(kept), free(dx);
}

static void test_chain(void) {
    each_isa(check_chain);
}

static void test_activations(void) {
    each_isa(check_activations);
    each_isa(check_gated_squared_relu);
}

/* ---- Rotary embedding ---- */

static void check_rope(dqt_context *ctx) {
    enum {
        BATCH = 2,
        LENGTH = 21,
        HEADS = 3,
        SIZE = 18,
        HALF = SIZE / 2,
        FIRST = 5,
        N = BATCH * LENGTH * HEADS * SIZE
    };
    float cosines[(FIRST + LENGTH) * HALF], sines[(FIRST + LENGTH) * HALF];
    float *x = random_floats(N, 1, 1), *y = random_floats(N, 1, 1), *w = random_floats(N, 1, 2);
    size_t position[BATCH * LENGTH];
    for (size_t t = 0; t < BATCH * LENGTH; t++)
        position[t] = FIRST + t % LENGTH;
    rope_table(&(struct rope){.theta = 10000}, SIZE, FIRST + LENGTH, cosines, sines);
    rope_apply(ctx, y, BATCH, LENGTH, (struct attention_runs){0}, HEADS, SIZE, position, cosines, sines, false);
    double before = 0;
    for (size_t t = 0; t < BATCH * LENGTH; t++)
        for (size_t h = 0; h < HEADS; h++)
            for (size_t i = 0; i < HALF; i++) {
                size_t at = (t * HEADS + h) * SIZE + i;
                double angle = (double)(FIRST + t % LENGTH) * pow(10000, -2.0 * (double)i / SIZE);
                double a = (double)x[at], b = (double)x[at + HALF];
                CHECKF(close_to(a * cos(angle) - b * sin(angle), y[at], 1e-6), "token %zu, head %zu, %zu", t, h, i);
                CHECKF(close_to(b * cos(angle) + a * sin(angle), y[at + HALF], 1e-6), "token %zu, head %zu, %zu", t, h,
                       i);
                before += (double)y[at] * (double)w[at] + (double)y[at + HALF] * (double)w[at + HALF];
            }
    /* <R x, w> = <x, R^-1 w>: the inverse is the gradient */
    rope_apply(ctx, w, BATCH, LENGTH, (struct attention_runs){0}, HEADS, SIZE, position, cosines, sines, true);
    double after = 0;
    for (size_t i = 0; i < N; i++)
        after += (double)x[i] * (double)w[i];
    CHECKF(fabs(before - after) < 1e-4, "%g, %g", before, after);
    rope_apply(ctx, y, BATCH, LENGTH, (struct attention_runs){0}, HEADS, SIZE, position, cosines, sines, true);
    for (size_t i = 0; i < N; i++)
        CHECK(close_to((double)x[i], y[i], 1e-6));
    free(x), free(y), free(w);
}

static void test_rope(void) {
    each_isa(check_rope);
}

/* ---- Cross-entropy ---- */

static double loss_reference(const float *row, size_t n, int32_t target) {
    double best = (double)row[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        if ((double)row[i] > best) best = (double)row[i];
    for (size_t i = 0; i < n; i++)
        sum += exp((double)row[i] - best);
    return best + log(sum) - (double)row[target];
}

/* logits[tokens][classes] through tiles of `tile` classes; losses and, in place, gradients times 0.5. */
static void tiled_loss(dqt_context *ctx, float *logits, size_t tokens, size_t classes, size_t tile,
                       const int32_t *targets, float *losses) {
    enum { MOST = 64 };
    float maximum[MOST], sum[MOST], target_logit[MOST] = {0}, log_sum[MOST], weights[MOST];
    for (size_t t = 0; t < tokens; t++) {
        weights[t] = 2;
        maximum[t] = -INFINITY;
        sum[t] = 0;
    }
    for (size_t c = 0; c < classes; c += tile)
        loss_tile(ctx, logits + c, classes, tokens, c, classes - c < tile ? classes - c : tile, targets, maximum, sum,
                  target_logit);
    for (size_t t = 0; t < tokens; t++) {
        log_sum[t] = maximum[t] + logf(sum[t]);
        losses[t] = targets[t] < 0 ? 0 : log_sum[t] - target_logit[t];
    }
    for (size_t c = 0; c < classes; c += tile)
        loss_tile_backward(ctx, logits + c, classes, tokens, c, classes - c < tile ? classes - c : tile, targets,
                           weights, log_sum, 0.25f);
}

static void check_loss(dqt_context *ctx) {
    enum { TOKENS = 19, CLASSES = 101 };
    static const size_t tiles[] = {1, 16, 33, 64, CLASSES};
    for (size_t s = 0; s < 5; s++) {
        float *logits = random_floats(TOKENS * CLASSES, 5, 1), *given = random_floats(TOKENS * CLASSES, 5, 1);
        float losses[TOKENS];
        int32_t targets[TOKENS];
        for (int i = 0; i < TOKENS; i++)
            targets[i] = i % 5 == 4 ? -1 : i * 37 % CLASSES;
        for (size_t i = 0; i < CLASSES; i++) {
            given[i] = logits[i] = i % 2 ? 1e4f : -1e4f;                          /* token 0: 50 equal winners */
            given[CLASSES + i] = logits[CLASSES + i] = i == 37 ? 1e4f : -1e4f;    /* token 1: certain and right */
            given[2 * CLASSES + i] = logits[2 * CLASSES + i] = i == 3 ? 1e4f : 0; /* token 2: certain and wrong */
        }
        tiled_loss(ctx, logits, TOKENS, CLASSES, tiles[s], targets, losses);
        for (size_t t = 0; t < TOKENS; t++) {
            const float *row = given + t * CLASSES, *gradient = logits + t * CLASSES;
            if (targets[t] < 0) {
                for (size_t i = 0; i < CLASSES; i++)
                    CHECK(gradient[i] == 0);
                continue;
            }
            double expected = loss_reference(row, CLASSES, targets[t]);
            CHECKF(close_to(expected, losses[t], 2e-6), "token %zu: %g, %g", t, (double)losses[t], expected);
            double log_sum = expected + (double)row[targets[t]];
            for (size_t i = 0; i < CLASSES; i++) {
                double slope = 0.5 * (exp((double)row[i] - log_sum) - (i == (size_t)targets[t] ? 1 : 0));
                /* log_sum[t] is a float: half a unit of 1e4 is 5e-4 */
                double tolerance = t < 3 ? 6e-4 : 2e-6;
                CHECKF(close_to(slope, gradient[i], tolerance), "token %zu, class %zu: %g, %g", t, i,
                       (double)gradient[i], slope);
            }
        }
        CHECK(losses[1] == 0);
        free(logits), free(given);
    }
    /* nothing counts */
    float logits[3] = {1, NAN, 2}, losses[1];
    int32_t none[1] = {-1};
    tiled_loss(ctx, logits, 1, 3, 3, none, losses);
    CHECK(losses[0] == 0 && logits[0] == 0 && logits[1] == 0 && logits[2] == 0);
    /* NaN is seen */
    float bad[3] = {1, NAN, 2};
    int32_t first[1] = {0};
    tiled_loss(ctx, bad, 1, 3, 3, first, losses);
    CHECK(isnan(losses[0]));
}

static void test_loss(void) {
    each_isa(check_loss);
}

/* Central differences of the whole tiled loss. */
static void test_loss_gradient(void) {
    enum { N = 23 };
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    if (!ctx) SKIP("no scalar context");
    float *row = random_floats(N, 3, 7), gradient[N], losses[1];
    int32_t target = 5;
    memcpy(gradient, row, sizeof gradient);
    tiled_loss(ctx, gradient, 1, N, 8, &target, losses);
    for (size_t i = 0; i < N; i++) {
        float keep = row[i];
        row[i] = keep + 0x1p-10f;
        double up = loss_reference(row, N, target);
        row[i] = keep - 0x1p-10f;
        double slope = (up - loss_reference(row, N, target)) / 0x1p-9;
        row[i] = keep;
        CHECKF(close_to(slope * 0.5, gradient[i], 1e-5), "class %zu", i);
    }
    free(row);
    dqt_context_destroy(ctx);
}

/* ---- Threads ---- */

static void test_threads(void) {
    enum { TOKENS = 203, N = 130, SIZE = TOKENS * N };
    for (size_t isa = 0; isa < ISA_COUNT; isa++) {
        float *first = NULL;
        for (int threads = 1; threads <= 4; threads++) {
            dqt_context *ctx = isa_context(isa_caps[isa].isa, threads);
            if (!ctx) break;
            struct scratch_need need = {0, 0, 0};
            struct workspace ws;
            norm_scratch(TOKENS, N, &need);
            OK(ctx, workspace_create(ctx, &need, &ws));
            float *x = random_floats(SIZE, 3, 1), *dy = random_floats(SIZE, 1, 2), *gain = random_floats(N, 1, 3);
            float *out = random_floats(4 * SIZE + N, 0, 4), r[TOKENS];
            norm_forward(ctx, x, gain, TOKENS, N, out, r);
            const struct norm_gradient g = {
                .dy = dy, .x = x, .gain = gain, .inverse_rms = r, .dx = out + SIZE, .dgain = out + 4 * SIZE};
            norm_backward(ctx, &ws, &g, TOKENS, N);
            hidden_backward(ctx, false, x, dy, dy, SIZE, out + 2 * SIZE, out + 3 * SIZE);
            if (!first) {
                first = out;
            } else {
                CHECKF(memcmp(first, out, (4 * SIZE + N) * sizeof *out) == 0, "isa %d, %d threads", isa_caps[isa].isa,
                       threads);
                free(out);
            }
            free(x), free(dy), free(gain);
            workspace_destroy(ctx, &ws);
            dqt_context_destroy(ctx);
        }
        free(first);
    }
}

static const struct test tests[] = {TEST(test_norm), TEST(test_activations),   TEST(test_chain),  TEST(test_rope),
                                    TEST(test_loss), TEST(test_loss_gradient), TEST(test_threads)};
TEST_MAIN(tests)
