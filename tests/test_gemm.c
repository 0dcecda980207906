/* Products against a brute-force reference in double: every instruction set, storage x compute format, precision, odd
 * sizes, row ranges, accumulation; int8 products bit for bit across instruction sets; thread counts bit for bit. */
#define _DEFAULT_SOURCE
#include "codes.h"
#include "gemm_world.h"

#include "ops/activations.h"

static const struct {
    int storage, compute;
} formats[] = {{DQT_FORMAT_TERNARY, 0},
               {DQT_FORMAT_INT2, 0},
               {DQT_FORMAT_INT3, 0},
               {DQT_FORMAT_INT5, 0},
               {DQT_FORMAT_INT6, 0},
               {DQT_FORMAT_INT4, 0},
               {DQT_FORMAT_INT8, 0},
               {DQT_FORMAT_INT8, DQT_FORMAT_TERNARY},
               {DQT_FORMAT_F32, DQT_FORMAT_TERNARY},
               {DQT_FORMAT_BF16, DQT_FORMAT_INT4},
               {DQT_FORMAT_BF16, 0},
               {DQT_FORMAT_F32, 0}};
enum { INTEGER = 7, INTEGER_COMPUTE = 10 }; /* the first of them */

struct collected {
    float *dw;
    size_t rows, cols;
    unsigned char *seen;
    bool bad;
};

static void collect(void *arg, size_t row, size_t rows, float *tile, size_t ld, int lane) {
    struct collected *g = arg;
    (void)lane;
    if (row % GEMM_TILE_ROWS != 0 || rows > GEMM_TILE_ROWS || row + rows > g->rows) g->bad = true;
    for (size_t r = 0; r < rows; r++) {
        g->seen[row + r]++;
        memcpy(g->dw + (row + r) * g->cols, tile + r * ld, g->cols * sizeof(float));
    }
}

static void check_weight_gradient(dqt_context *ctx, const char *isa, const dqt_tensor *t, const struct setup *s,
                                  int precision) {
    struct workspace ws = workspace_for(ctx, s->tokens, t);
    struct collected g = {calloc(s->rows * s->cols, sizeof(float)), s->rows, s->cols, calloc(s->rows, 1), false};
    gemm_weight_gradient(ctx, &ws, s->dy, s->rows, s->rows, &s->x, precision, collect, &g);
    CHECK(!g.bad);
    for (size_t r = 0; r < s->rows; r++) {
        CHECK(g.seen[r] == 1);
        for (size_t c = 0; c < s->cols; c++) {
            double want = 0.0, magnitude = 0.0;
            for (size_t i = 0; i < s->tokens; i++) {
                double term = (double)s->dy[i * s->rows + r] * x_value(s, i, c);
                want += term;
                magnitude += fabs(term);
            }
            if (!(fabs((double)g.dw[r * s->cols + c] - want) <=
                  tolerance(s->tokens, precision == DQT_PRECISION_BF16, magnitude))) {
                CHECKF(false, "%s %zux%zux%zu precision %d: dw[%zu][%zu] = %g, not %g", isa, s->tokens, s->rows,
                       s->cols, precision, r, c, (double)g.dw[r * s->cols + c], want);
                goto done;
            }
        }
    }
done:
    free(g.dw);
    free(g.seen);
    workspace_destroy(ctx, &ws);
}

static const size_t sizes[][3] = {{1, 1, 1},     {1, 65, 63},   {2, 16, 64},   {3, 17, 65},
                                  {5, 31, 129},  {7, 130, 100}, {9, 33, 256},  {33, 70, 61},
                                  {17, 2, 1100}, {40, 129, 67}, {64, 64, 192}, {8, 5, 2100}};

static void all_products(int isa, const char *name) {
    dqt_context *ctx = context(isa, 2);
    if (!ctx) SKIP("this CPU lacks it");
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int quantized = 0; quantized < 2; quantized++) {
                const size_t tokens = sizes[i][0], rows = sizes[i][1], cols = sizes[i][2];
                dqt_tensor *t = weights(ctx, formats[f].storage, formats[f].compute, rows, cols, i + 1);
                struct setup s = setup(t, tokens, quantized != 0, i + 100);
                const int precision = (i + f) % 2 ? DQT_PRECISION_F32 : DQT_PRECISION_BF16;
                const size_t row = rows / 3, part = rows - row - rows / 4;
                check_forward(ctx, name, t, &s, 0, rows, precision, false);
                check_forward(ctx, name, t, &s, row, part, DQT_PRECISION_F32, true);
                if (quantized) {
                    check_input_gradient(ctx, name, t, &s, 0, rows, precision, false);
                    check_input_gradient(ctx, name, t, &s, row, part,
                                         DQT_PRECISION_F32 + DQT_PRECISION_BF16 - precision, true);
                }
                if (f == i % 10) {
                    check_weight_gradient(ctx, name, t, &s, DQT_PRECISION_F32);
                    check_weight_gradient(ctx, name, t, &s, DQT_PRECISION_BF16);
                }
                free(s.w);
                tensor_destroy(t);
                guard_free_all();
            }
        }
    }
    dqt_context_destroy(ctx);
}

static void scalar(void) {
    all_products(DQT_ISA_SCALAR, "scalar");
}
static void avx2(void) {
    all_products(DQT_ISA_AVX2, "avx2");
}
static void avx_vnni(void) {
    all_products(DQT_ISA_AVX_VNNI, "avxvnni");
}
static void avx512(void) {
    all_products(DQT_ISA_AVX512, "avx512");
}
static void vnni(void) {
    all_products(DQT_ISA_VNNI, "vnni");
}
static void amx(void) {
    all_products(DQT_ISA_AMX, "amx");
}
static void neon(void) {
    all_products(DQT_ISA_NEON, "neon");
}
static void dotprod(void) {
    all_products(DQT_ISA_NEON_DOTPROD, "dotprod");
}
static void i8mm(void) {
    all_products(DQT_ISA_NEON_I8MM, "i8mm");
}

/* Integer products: the same bits from every instruction set, by every path (few tokens, many tokens, ranges of
 * rows). */
static void integer_products_are_bit_identical(void) {
    for (size_t f = 0; f < INTEGER_COMPUTE; f++) {
        const size_t tokens = 61, rows = 75, cols = 2117; /* fill blocks of 32 almost */
        float *first = NULL;
        for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
            dqt_context *ctx = context(isa_caps[k].isa, 1);
            if (!ctx) continue;
            dqt_tensor *t = weights(ctx, formats[f].storage, formats[f].compute, rows, cols, 5);
            struct setup s = setup(t, tokens, true, 6);
            struct workspace ws = workspace_for(ctx, tokens, t);
            float *y = malloc(tokens * rows * sizeof(float)), *z = malloc(tokens * rows * sizeof(float));
            gemm_forward(ctx, &ws, &s.x, gemm_gemv_tokens(ctx, s.x.tokens), t, 0, rows, DQT_PRECISION_F32, false, y,
                         rows);
            for (size_t i = 0; i < tokens;) { /* 1, 2, 3, ... tokens at a time */
                const size_t n = i / 3 + 1 < tokens - i ? i / 3 + 1 : tokens - i;
                struct activations part = s.x;
                part.tokens = n;
                part.codes += i * part.ld;
                part.step += i;
                gemm_forward(ctx, &ws, &part, gemm_gemv_tokens(ctx, part.tokens), t, 0, 20, DQT_PRECISION_F32, false,
                             z + i * rows, rows);
                gemm_forward(ctx, &ws, &part, gemm_gemv_tokens(ctx, part.tokens), t, 20, rows - 20, DQT_PRECISION_F32,
                             false, z + i * rows + 20, rows);
                i += n;
            }
            CHECKF(memcmp(y, z, tokens * rows * sizeof(float)) == 0, "%s %s: parts differ from the whole",
                   isa_caps[k].name, format_public_name(formats[f].storage));
            if (first)
                CHECKF(memcmp(y, first, tokens * rows * sizeof(float)) == 0, "%s %s: differs from scalar",
                       isa_caps[k].name, format_public_name(formats[f].storage));
            workspace_destroy(ctx, &ws);
            free(z);
            if (first) {
                free(y);
            } else {
                first = y;
            }
            free(s.w);
            tensor_destroy(t);
            guard_free_all();
            dqt_context_destroy(ctx);
        }
        free(first);
    }
}

/* Float products of few tokens: a token's bits are those that it has alone, with any rows and other tokens beside it.
 */
static void float_tokens_are_independent(void) {
    static const int stored[] = {DQT_FORMAT_INT8, DQT_FORMAT_INT3, DQT_FORMAT_TERNARY, DQT_FORMAT_BF16, DQT_FORMAT_F32};
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        for (size_t f = 0; f < sizeof stored / sizeof *stored; f++) {
            dqt_context *ctx = context(isa_caps[k].isa, 1);
            if (!ctx) continue;
            const size_t tokens = 11, rows = 77, cols = 333;
            dqt_tensor *t = weights(ctx, stored[f], 0, rows, cols, 5);
            struct setup s = setup(t, tokens, false, 6);
            struct workspace ws = workspace_for(ctx, tokens, t);
            float *alone = malloc(tokens * rows * sizeof(float)), *y = malloc(tokens * rows * sizeof(float));
            struct activations part = s.x;
            for (size_t i = 0; i < tokens; i++) {
                part.tokens = 1;
                part.floats = s.x.floats + i * s.x.ld;
                gemm_forward(ctx, &ws, &part, 1, t, 0, rows, DQT_PRECISION_F32, false, alone + i * rows, rows);
            }
            for (size_t n = 1; n <= tokens; n++) {
                part.tokens = n;
                part.floats = s.x.floats + (tokens - n) * s.x.ld;
                memset(y, 0xff, tokens * rows * sizeof(float));
                gemm_forward(ctx, &ws, &part, n, t, 0, 20, DQT_PRECISION_F32, false, y, rows);
                gemm_forward(ctx, &ws, &part, n, t, 20, rows - 20, DQT_PRECISION_F32, false, y + 20, rows);
                CHECKF(memcmp(y, alone + (tokens - n) * rows, n * rows * sizeof(float)) == 0, "%s %s: %zu tokens",
                       isa_caps[k].name, format_public_name(stored[f]), n);
            }
            workspace_destroy(ctx, &ws);
            free(alone);
            free(y);
            free(s.w);
            tensor_destroy(t);
            guard_free_all();
            dqt_context_destroy(ctx);
        }
    }
}

/* Products of one x at once: each has the bits that it has alone, whatever formats and rows the others have. */
static void parts_are_alone(dqt_context *ctx, const char *isa, const int stored[2], const int computed[2],
                            bool quantized) {
    enum { PARTS = GEMM_MOST_PARTS, MOST = 50, TOKENS = 4, COLS = 133 };
    static const size_t rows[PARTS] = {MOST, 24, 1};
    static float alone[TOKENS * MOST], y[PARTS][TOKENS * MOST];
    dqt_tensor *w[PARTS];
    struct gemm_part part[PARTS];
    for (size_t i = 0; i < PARTS; i++) {
        w[i] = weights(ctx, stored[i % 2], computed[i % 2], rows[i], COLS, i + 1);
        part[i] = (struct gemm_part){w[i], 0, rows[i], y[i], rows[i]};
    }
    for (size_t tokens = 1; tokens <= TOKENS; tokens += 3) {
        struct setup s = setup(w[0], tokens, quantized, tokens);
        struct workspace ws = workspace_for(ctx, tokens, w[0]);
        const size_t few = gemm_gemv_tokens(ctx, tokens);
        memset(y, 0xff, sizeof y);
        gemm_forward_parts(ctx, &ws, &s.x, few, part, PARTS, DQT_PRECISION_F32);
        for (size_t i = 0; i < PARTS; i++) {
            gemm_forward(ctx, &ws, &s.x, few, w[i], 0, rows[i], DQT_PRECISION_F32, false, alone, rows[i]);
            CHECKF(memcmp(y[i], alone, tokens * rows[i] * sizeof(float)) == 0, "%s, %s and %s, %zu tokens: part %zu",
                   isa, format_public_name(stored[0]), format_public_name(stored[1]), tokens, i);
        }
        workspace_destroy(ctx, &ws);
        free(s.w);
    }
    for (size_t i = 0; i < PARTS; i++)
        tensor_destroy(w[i]);
    guard_free_all();
}

static void parts_are_products_of_their_own(void) {
    enum { FORMATS = sizeof formats / sizeof *formats };
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 2);
        for (size_t f = 0; ctx && f < 2 * FORMATS * FORMATS; f++) {
            const size_t a = f / 2 / FORMATS, b = f / 2 % FORMATS;
            parts_are_alone(ctx, isa_caps[k].name, (int[]){formats[a].storage, formats[b].storage},
                            (int[]){formats[a].compute, formats[b].compute}, f % 2);
        }
        dqt_context_destroy(ctx);
    }
}

/* The largest sums that 16 bits, 32 bits and the bias of unsigned codes have to bear: all codes and activations at an
 * end. */
static void extreme_values_are_exact(void) {
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        for (size_t f = 0; f < INTEGER; f++) {
            dqt_context *ctx = context(isa_caps[k].isa, 1);
            if (!ctx) continue;
            const size_t tokens = 30, rows = 33, cols = 1500, ld = round_up(cols, PACK_BLOCK);
            dqt_tensor *t = weights(ctx, formats[f].storage, 0, rows, cols, 5);
            const int low = format_min(t->storage), high = format_max(t->storage);
            int8_t *codes = calloc(tokens * ld, 1), *w = calloc(ld, 1);
            float step[30], y[30 * 33];
            for (size_t r = 0; r < rows; r++) {
                memset(w, r % 2 ? low : high, cols);
                tensor_pack_codes(t, r, w);
                t->scales[r] = 1.0f;
            }
            for (size_t i = 0; i < tokens; i++) {
                memset(codes + i * ld, i % 2 ? -127 : 127, cols);
                step[i] = 1.0f;
            }
            struct workspace ws = workspace_for(ctx, tokens, t);
            for (size_t n = 1; n <= tokens; n += n < 9 ? 8 : 21) {
                const struct activations x = {.tokens = n, .cols = cols, .codes = codes, .step = step, .ld = ld};
                gemm_forward(ctx, &ws, &x, gemm_gemv_tokens(ctx, x.tokens), t, 0, rows, DQT_PRECISION_F32, false, y,
                             rows);
                for (size_t i = 0; i < n; i++) {
                    for (size_t r = 0; r < rows; r++) {
                        const int want = (int)cols * (i % 2 ? -127 : 127) * (r % 2 ? low : high);
                        CHECKF(y[i * rows + r] == (float)want, "%s %s: %g, not %d", isa_caps[k].name,
                               format_public_name(formats[f].storage), (double)y[i * rows + r], want);
                    }
                }
            }
            workspace_destroy(ctx, &ws);
            free(codes);
            free(w);
            tensor_destroy(t);
            guard_free_all();
            dqt_context_destroy(ctx);
        }
    }
}

/* A host's parallel_for that runs the lanes in reverse order: any order must do. */
static void reversed(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    for (size_t i = count; i-- > 0;)
        task(task_data, i);
}

/* Threads of OpenMP, or lanes one after the other. */
static dqt_context *context_of_threads(int isa, int threads) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.num_threads = threads;
    if (threads % 2) {
        o.threading = DQT_THREADING_HOST;
        o.parallel_for = reversed;
    }
    if (dqt_context_create(&o, &ctx) != DQT_OK || dqt_context_isa(ctx) != isa) {
        dqt_context_destroy(ctx);
        return NULL;
    }
    share_all_work(ctx);
    return ctx;
}

enum { PRODUCTS = 3 };

static void products_of_threads(int k, int threads, size_t tokens, size_t rows, size_t cols, float *first[PRODUCTS]) {
    dqt_context *ctx = context_of_threads(isa_caps[k].isa, threads);
    if (!ctx) return;
    dqt_tensor *t = weights(ctx, DQT_FORMAT_INT4, 0, rows, cols, 5);
    struct setup s = setup(t, tokens, false, 6);
    struct workspace ws = workspace_for(ctx, tokens, t);
    float *y[PRODUCTS] = {malloc(tokens * rows * 4), malloc(tokens * cols * 4), malloc(rows * cols * 4)};
    struct collected g = {y[2], rows, cols, calloc(rows, 1), false};
    const size_t bytes[PRODUCTS] = {tokens * rows * 4, tokens * cols * 4, rows * cols * 4};
    gemm_forward(ctx, &ws, &s.x, gemm_gemv_tokens(ctx, s.x.tokens), t, 0, rows, DQT_PRECISION_BF16, false, y[0], rows);
    gemm_input_gradient(ctx, &ws, s.dy, rows, tokens, t, 0, rows, DQT_PRECISION_BF16, false, y[1]);
    gemm_weight_gradient(ctx, &ws, s.dy, rows, rows, &s.x, DQT_PRECISION_BF16, collect, &g);
    for (int i = 0; i < PRODUCTS; i++) {
        if (!first[i]) {
            first[i] = y[i];
            continue;
        }
        CHECKF(memcmp(first[i], y[i], bytes[i]) == 0, "%s, %d threads, %zu tokens, product %d", isa_caps[k].name,
               threads, tokens, i);
        free(y[i]);
    }
    free(g.seen);
    workspace_destroy(ctx, &ws);
    free(s.w);
    tensor_destroy(t);
    guard_free_all();
    dqt_context_destroy(ctx);
}

/* The second size: weight gradients of two blocks of tokens. */
static void threads_do_not_matter(void) {
    static const size_t shapes[][3] = {{50, 300, 290}, {GRADIENT_TOKENS + 30, 200, 70}};
    for (int k = 0; k < (int)ISA_CAP_COUNT; k++) {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            float *first[PRODUCTS] = {NULL};
            for (int threads = 1; threads <= 7; threads++)
                products_of_threads(k, threads, shapes[i][0], shapes[i][1], shapes[i][2], first);
            for (int j = 0; j < PRODUCTS; j++)
                free(first[j]);
        }
    }
}

/* size: tokens, rows, columns. */
static void check_large(dqt_context *ctx, const size_t *size) {
    const size_t tokens = size[0], rows = size[1], cols = size[2];
    dqt_tensor *t = weights(ctx, DQT_FORMAT_TERNARY, 0, rows, cols, 5);
    struct setup s = setup(t, tokens, true, 6);
    struct workspace ws = workspace_for(ctx, tokens, t);
    float *y = aligned_alloc(64, round_up(tokens * rows * sizeof(float), 64));
    memset(y, 0xff, tokens * rows * sizeof(float));
    gemm_forward(ctx, &ws, &s.x, gemm_gemv_tokens(ctx, s.x.tokens), t, 0, rows, DQT_PRECISION_F32, false, y, rows);
    int8_t *codes = malloc(round_up(cols, PACK_BLOCK));
    for (size_t r = 0; r < rows; r += 23) {
        tensor_unpack_codes(t, r, codes);
        for (size_t i = 0; i < tokens; i += 13) {
            int64_t sum = 0;
            for (size_t c = 0; c < cols; c++)
                sum += s.x.codes[i * s.x.ld + c] * codes[c];
            float want = (float)sum * (s.x.step[i] * t->scales[r]);
            CHECKF(y[i * rows + r] == want, "y[%zu][%zu] = %g, not %g", i, r, (double)y[i * rows + r], (double)want);
        }
    }
    free(codes);
    free(y);
    workspace_destroy(ctx, &ws);
    free(s.w);
    tensor_destroy(t);
    guard_free_all();
}

/* More A than one chunk holds, and more K than one block of B holds. */
static void large_products_are_chunked(void) {
    each_fast_set(check_large, (const size_t[]){300, 35, 34000});
}

/* Results that are written past the caches. */
static void large_results_are_whole(void) {
    each_fast_set(check_large, (const size_t[]){1100, 1024, 70});
    each_fast_set(check_large, (const size_t[]){1100, 1024 + 16, 70});
}

/* Several blocks of tokens, with more rows, or columns, than are in flight at once. */
static void check_blocks(dqt_context *ctx, const size_t *size) {
    dqt_tensor *t = weights(ctx, DQT_FORMAT_TERNARY, 0, size[1], size[2], 5);
    struct setup s = setup(t, size[0], false, 6);
    check_weight_gradient(ctx, "weight gradients of blocks", t, &s, DQT_PRECISION_F32);
    check_weight_gradient(ctx, "weight gradients of blocks", t, &s, DQT_PRECISION_BF16);
    free(s.w);
    tensor_destroy(t);
    guard_free_all();
}

static void weight_gradients_of_many_tokens_are_whole(void) {
    each_fast_set(check_blocks, (const size_t[]){GRADIENT_TOKENS + 30, 1100, 20});
    each_fast_set(check_blocks, (const size_t[]){2 * GRADIENT_TOKENS + 1, 65, 70});
    each_fast_set(check_blocks, (const size_t[]){GRADIENT_TOKENS + 30, 2, 2100});
}

/* Sizes that cannot be end in more bytes than can be had, not in few by overflow. */
static void impossible_sizes_need_impossible_scratch(void) {
    dqt_context *ctx = context(DQT_ISA_SCALAR, 1);
    const size_t large = (size_t)1 << 40, sizes3[][3] = {{large, large, 64}, {large, 64, large}, {64, large, large}};
    for (size_t i = 0; i < 3; i++) {
        struct scratch_need need = {0};
        gemm_scratch(ctx, sizes3[i][0], sizes3[i][1], sizes3[i][2], sizes3[i][2], &need);
        CHECK(workspace_bytes(&need, 2) > (size_t)1 << 45);
    }
    dqt_context_destroy(ctx);
}

static void quantizing_activations(void) {
    enum { TOKENS = 6, MAX = 200 };
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 1);
        if (!ctx) continue;
        for (size_t cols = 1; cols < MAX; cols += cols < 70 ? 1 : 37) {
            const size_t ld = round_up(cols, PACK_BLOCK);
            float *x = guard_alloc(TOKENS * cols * sizeof(float)), *step = guard_alloc(TOKENS * sizeof(float));
            int8_t *codes = guard_alloc(TOKENS * ld);
            uint64_t seed = cols;
            memset(codes, 1, TOKENS * ld);
            for (size_t i = 0; i < TOKENS * cols; i++)
                x[i] = test_uniform(&seed) * (i / cols == 1 ? 1e-7f : 3.0f);
            for (size_t c = 0; c < cols; c++)
                x[2 * cols + c] = (float)(c % 255) - 127.0f; /* exact codes and ties */
            for (size_t c = 0; c < cols; c++)
                x[3 * cols + c] = c % 2 ? 63.5f : -127.0f;
            const struct activation_source source = {.x = x};
            const struct activation_buffer out = {.codes = codes, .step = step, .cols = cols, .ld = ld};
            activations_make(ctx, NULL, &source, TOKENS, &out);
            for (size_t t = 0; t < TOKENS; t++) {
                float amax = 1e-5f;
                for (size_t c = 0; c < cols; c++)
                    amax = fmaxf(amax, fabsf(x[t * cols + c]));
                const float factor = 127.0f / amax;
                CHECK(step[t] == amax / 127.0f);
                for (size_t c = 0; c < ld; c++) {
                    float q = c < cols ? rintf(x[t * cols + c] * factor) : 0.0f;
                    if (codes[t * ld + c] != (int)fminf(fmaxf(q, -128.0f), 127.0f)) {
                        CHECKF(false, "%s: token %zu of %zu columns: code[%zu] = %d, not %g", isa_caps[k].name, t, cols,
                               c, codes[t * ld + c], (double)q);
                        break;
                    }
                }
            }
            guard_free_all();
        }
        dqt_context_destroy(ctx);
    }
}

static const struct test tests[] = {TEST(scalar),
                                    TEST(avx2),
                                    TEST(avx_vnni),
                                    TEST(avx512),
                                    TEST(vnni),
                                    TEST(amx),
                                    TEST(neon),
                                    TEST(dotprod),
                                    TEST(i8mm),
                                    TEST(integer_products_are_bit_identical),
                                    TEST(float_tokens_are_independent),
                                    TEST(parts_are_products_of_their_own),
                                    TEST(extreme_values_are_exact),
                                    TEST(threads_do_not_matter),
                                    TEST(large_products_are_chunked),
                                    TEST(large_results_are_whole),
                                    TEST(weight_gradients_of_many_tokens_are_whole),
                                    TEST(impossible_sizes_need_impossible_scratch),
                                    TEST(quantizing_activations)};
TEST_MAIN(tests)
