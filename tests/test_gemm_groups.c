/* Products of weights whose scales belong to groups of columns: against sums in double, against their definition bit
 * for bit, on every instruction set, for any number of threads. */
#define _DEFAULT_SOURCE
#include "codes.h"
#include "gemm_world.h"

static const struct {
    int storage, compute;
} formats[] = {{DQT_FORMAT_TERNARY, 0},
               {DQT_FORMAT_INT2, 0},
               {DQT_FORMAT_INT3, 0},
               {DQT_FORMAT_INT4, 0},
               {DQT_FORMAT_INT5, 0},
               {DQT_FORMAT_INT6, 0},
               {DQT_FORMAT_INT8, 0},
               {DQT_FORMAT_INT8, DQT_FORMAT_INT4},
               {DQT_FORMAT_F32, DQT_FORMAT_INT4},
               {DQT_FORMAT_BF16, DQT_FORMAT_TERNARY},
               {DQT_FORMAT_F32, 0},
               {DQT_FORMAT_BF16, 0}};
enum { FORMATS = sizeof formats / sizeof *formats, INTEGER_STORAGE = 7, OF_CODES = FORMATS - 2 };

/* Tokens, rows, columns, group: columns of half a pack block more, one group a row, many. */
static const size_t sizes[][4] = {{1, 1, 32, 32},     {1, 33, 96, 32},    {2, 16, 64, 32},   {3, 17, 160, 32},
                                  {5, 31, 320, 64},   {7, 65, 192, 64},   {9, 33, 384, 128}, {17, 2, 1120, 32},
                                  {33, 70, 512, 256}, {40, 35, 768, 256}, {64, 64, 288, 32}, {8, 5, 2176, 128}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void all_products(int isa, const char *name) {
    dqt_context *ctx = context(isa, 2);
    if (!ctx) SKIP("this CPU lacks it");
    for (size_t f = 0; f < FORMATS; f++) {
        for (size_t i = 0; i < SIZES; i++) {
            for (int quantized = 0; quantized < 2; quantized++) {
                const size_t tokens = sizes[i][0], rows = sizes[i][1], cols = sizes[i][2];
                const bool trained = i % 2 && f < INTEGER_STORAGE;
                dqt_tensor *t =
                    group_weights(ctx, formats[f].storage, formats[f].compute, rows, cols, sizes[i][3], trained, i + 1);
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

/* y[tokens][rows], by the definition (docs/numerics.md). */
static void defined(const dqt_tensor *t, const struct activations *x, bool accumulate, float *y) {
    const size_t group = tensor_compute_group_cols(t);
    int8_t *codes = malloc(t->cols);
    for (size_t r = 0; r < t->rows; r++) {
        for (size_t c = 0; c < t->cols; c += PACK_BLOCK)
            tensor_read_codes(t, r, c, size_min(PACK_BLOCK, t->cols - c), codes + c);
        for (size_t i = 0; i < x->tokens; i++) {
            float total = 0.0f;
            for (size_t c = 0; c < t->cols; c += group) {
                int32_t sum = 0;
                for (size_t k = c; k < c + group; k++)
                    sum += codes[k] * x->codes[i * x->ld + k];
                const float value = (float)sum * tensor_compute_group_scale(t, r, c / group);
                total = c ? total + value : value;
            }
            const float value = total * x->step[i];
            y[i * t->rows + r] = accumulate ? y[i * t->rows + r] + value : value;
        }
    }
    free(codes);
}

static bool same_bits(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof *a) == 0;
}

static void forward(dqt_context *ctx, const struct workspace *ws, const struct activations *x, const dqt_tensor *t,
                    size_t row, size_t rows, int precision, bool accumulate, float *y) {
    gemm_forward(ctx, ws, x, gemm_gemv_tokens(ctx, x->tokens), t, row, rows, precision, accumulate, y, t->rows);
}

static void check_definition(dqt_context *ctx, const char *isa, const dqt_tensor *t, size_t tokens) {
    const size_t count = tokens * t->rows;
    const struct setup s = setup(t, tokens, true, tokens);
    struct workspace ws = workspace_for(ctx, tokens, t);
    float *y = malloc(count * sizeof *y), *want = malloc(count * sizeof *want);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        for (size_t i = 0; i < count; i++)
            y[i] = want[i] = 0.75f - (float)(i % 7);
        defined(t, &s.x, accumulate, want);
        forward(ctx, &ws, &s.x, t, 0, t->rows / 3, DQT_PRECISION_F32, accumulate, y);
        forward(ctx, &ws, &s.x, t, t->rows / 3, t->rows - t->rows / 3, DQT_PRECISION_F32, accumulate, y + t->rows / 3);
        CHECKF(same_bits(y, want, count), "%s %s/%s, %zu x %zu x %zu of groups of %zu, accumulate %d", isa,
               format_name(t->storage), format_name(t->compute), tokens, t->rows, t->cols, tensor_compute_group_cols(t),
               accumulate);
    }
    free(y);
    free(want);
    free(s.w);
    workspace_destroy(ctx, &ws);
}

static void integer_products_are_as_defined(void) {
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 1);
        if (!ctx) continue;
        for (size_t f = 0; f < OF_CODES; f++) {
            for (size_t group = 32; group <= 256; group *= 2) {
                const size_t cols = group * (group == 32 ? 5 : 3), rows = 37;
                dqt_tensor *t =
                    group_weights(ctx, formats[f].storage, formats[f].compute, rows, cols, group, false, group + f);
                for (size_t tokens = 1; tokens <= 33; tokens += tokens == 17 ? 16 : 1)
                    if (f == 3 || f == 6 || tokens % 5 == 1) check_definition(ctx, isa_caps[k].name, t, tokens);
                tensor_destroy(t);
                guard_free_all();
            }
        }
        dqt_context_destroy(ctx);
    }
}

/* More K than a pass over a block takes, and columns of B that do not divide evenly. */
static void long_rows_are_as_defined(void) {
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 1);
        if (!ctx) continue;
        for (size_t f = 0; f < INTEGER_STORAGE; f += 3) {
            for (size_t group = 32; group <= 256; group *= 2) {
                dqt_tensor *t = group_weights(ctx, formats[f].storage, 0, 45, 33 * 256 + group % 256, group, true, f);
                check_definition(ctx, isa_caps[k].name, t, 35);
                tensor_destroy(t);
                guard_free_all();
            }
        }
        dqt_context_destroy(ctx);
    }
}

/* The largest sums that 16 bits, 32 bits and the bias of unsigned codes have to bear. */
static void extreme_values_are_exact(void) {
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 1);
        if (!ctx) continue;
        for (size_t f = 0; f < INTEGER_STORAGE; f++) {
            for (size_t group = 32; group <= 256; group *= 8) {
                const size_t tokens = 19, rows = 33, cols = 3 * group, ld = round_up(cols, PACK_BLOCK);
                dqt_tensor *t = group_weights(ctx, formats[f].storage, 0, rows, cols, group, false, 5);
                const int low = format_min(t->storage), high = format_max(t->storage);
                int8_t *codes = calloc(tokens * ld, 1), *w = calloc(ld, 1);
                float step[19], y[19 * 33], scales[33 * 3];
                for (size_t i = 0; i < rows * 3; i++)
                    scales[i] = i % 3 == 2 ? 4.0f : 1.0f;
                tensor_set_scales(t, scales);
                for (size_t r = 0; r < rows; r++) {
                    memset(w, r % 2 ? low : high, cols);
                    tensor_pack_codes(t, r, w);
                }
                for (size_t i = 0; i < tokens; i++) {
                    memset(codes + i * ld, i % 2 ? -127 : 127, cols);
                    step[i] = 1.0f;
                }
                struct workspace ws = workspace_for(ctx, tokens, t);
                for (size_t n = 1; n <= tokens; n += tokens - 1) {
                    const struct activations x = {.tokens = n, .cols = cols, .codes = codes, .step = step, .ld = ld};
                    forward(ctx, &ws, &x, t, 0, rows, DQT_PRECISION_F32, false, y);
                    for (size_t i = 0; i < n * rows; i++) {
                        const int want = (int)(6 * group) * (i / rows % 2 ? -127 : 127) * (i % rows % 2 ? low : high);
                        CHECKF(y[i] == (float)want, "%s %s/%zu: %g, not %d", isa_caps[k].name, format_name(t->storage),
                               group, (double)y[i], want);
                    }
                }
                workspace_destroy(ctx, &ws);
                free(codes);
                free(w);
                tensor_destroy(t);
                guard_free_all();
            }
        }
        dqt_context_destroy(ctx);
    }
}

/* A token whose activations are not finite has a step of NaN: all that is made with it is NaN, and nothing else. */
static void steps_of_nan_stay_in_their_token(void) {
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 1);
        if (!ctx) continue;
        for (size_t tokens = 2; tokens <= 20; tokens += 18) {
            dqt_tensor *t = group_weights(ctx, DQT_FORMAT_INT4, 0, 19, 96, 32, false, 5);
            const struct setup s = setup(t, tokens, true, tokens);
            struct workspace ws = workspace_for(ctx, tokens, t);
            float y[20 * 19];
            ((float *)s.x.step)[1] = NAN;
            forward(ctx, &ws, &s.x, t, 0, t->rows, DQT_PRECISION_F32, false, y);
            for (size_t i = 0; i < tokens * t->rows; i++)
                CHECK(!isfinite(y[i]) == (i / t->rows == 1));
            workspace_destroy(ctx, &ws);
            free(s.w);
            tensor_destroy(t);
            guard_free_all();
        }
        dqt_context_destroy(ctx);
    }
}

/* The weights as floats, scale * code. */
static dqt_tensor *as_floats(dqt_context *ctx, const dqt_tensor *t) {
    const dqt_tensor_options o = {.storage = DQT_FORMAT_F32, .sigma = 4.0f};
    dqt_tensor *floats = NULL;
    OK(ctx, tensor_create(ctx, t->rows, t->cols, &o, false, &floats));
    for (size_t r = 0; r < t->rows; r++)
        tensor_read_floats(t, r, 0, t->cols, (float *)(void *)tensor_row(floats, r));
    return floats;
}

/* Where activations or gradients are floats, products are those of the weights as floats, bit for bit. */
static void float_products_are_those_of_floats(void) {
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        dqt_context *ctx = context(isa_caps[k].isa, 1);
        if (!ctx) continue;
        for (size_t f = 0; f < FORMATS; f++) {
            for (size_t group = 32; group <= 256; group *= 2) {
                const size_t cols = group * (group == 32 ? 5 : 3), rows = 69;
                dqt_tensor *t = group_weights(ctx, formats[f].storage, formats[f].compute, rows, cols, group, false, f);
                dqt_tensor *floats = as_floats(ctx, t);
                for (size_t tokens = 1; tokens <= 33; tokens += tokens == 1 ? 1 : 31) {
                    for (int p = 0; p < 2; p++) {
                        const int precision = p ? DQT_PRECISION_BF16 : DQT_PRECISION_F32;
                        const size_t count = tokens * size_max(rows, cols);
                        const struct setup s = setup(t, tokens, false, tokens);
                        struct workspace ws = workspace_for(ctx, tokens, t);
                        float *y = calloc(count, sizeof *y), *want = calloc(count, sizeof *want);
                        forward(ctx, &ws, &s.x, t, 0, rows, precision, false, y);
                        forward(ctx, &ws, &s.x, floats, 0, rows, precision, false, want);
                        CHECKF(same_bits(y, want, count), "%s %s/%zu: forward of %zu tokens, precision %d",
                               isa_caps[k].name, format_name(t->storage), group, tokens, precision);
                        gemm_input_gradient(ctx, &ws, s.dy, rows, tokens, t, 0, rows, precision, false, y);
                        gemm_input_gradient(ctx, &ws, s.dy, rows, tokens, floats, 0, rows, precision, false, want);
                        CHECKF(same_bits(y, want, count), "%s %s/%zu: dx of %zu tokens, precision %d", isa_caps[k].name,
                               format_name(t->storage), group, tokens, precision);
                        free(y);
                        free(want);
                        free(s.w);
                        workspace_destroy(ctx, &ws);
                    }
                }
                tensor_destroy(floats);
                tensor_destroy(t);
                guard_free_all();
            }
        }
        dqt_context_destroy(ctx);
    }
}

/* A host's parallel_for that runs the lanes in reverse order: any order must do. */
static void reversed(void *user_data, size_t count, dqt_task_fn task, void *task_data) {
    (void)user_data;
    for (size_t i = count; i-- > 0;)
        task(task_data, i);
}

static void threads_do_not_matter(void) {
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        float *first[2] = {NULL};
        for (int threads = 1; threads <= 7; threads += 3) {
            dqt_context_options o;
            dqt_context *ctx = NULL;
            dqt_context_options_init(&o, sizeof o);
            o.isa = isa_caps[k].isa;
            o.num_threads = threads;
            o.threading = DQT_THREADING_HOST;
            o.parallel_for = reversed;
            if (dqt_context_create(&o, &ctx) != DQT_OK || dqt_context_isa(ctx) != isa_caps[k].isa) {
                dqt_context_destroy(ctx);
                continue;
            }
            share_all_work(ctx);
            const size_t tokens = 50, rows = 300, cols = 288;
            dqt_tensor *t = group_weights(ctx, DQT_FORMAT_INT4, 0, rows, cols, 32, false, 5);
            struct setup s = setup(t, tokens, true, 6);
            struct workspace ws = workspace_for(ctx, tokens, t);
            float *y[2] = {malloc(tokens * rows * 4), malloc(tokens * cols * 4)};
            const size_t count[2] = {tokens * rows, tokens * cols};
            forward(ctx, &ws, &s.x, t, 0, rows, DQT_PRECISION_F32, false, y[0]);
            gemm_input_gradient(ctx, &ws, s.dy, rows, tokens, t, 0, rows, DQT_PRECISION_BF16, false, y[1]);
            for (int i = 0; i < 2; i++) {
                if (threads == 1) {
                    first[i] = y[i];
                } else {
                    CHECKF(same_bits(first[i], y[i], count[i]), "%s, %d threads, product %d", isa_caps[k].name, threads,
                           i);
                    free(y[i]);
                }
            }
            workspace_destroy(ctx, &ws);
            free(s.w);
            tensor_destroy(t);
            guard_free_all();
            dqt_context_destroy(ctx);
        }
        free(first[0]);
        free(first[1]);
    }
}

/* size: tokens, rows, columns, columns of a group. */
static void check_large(dqt_context *ctx, const size_t *size) {
    const size_t tokens = size[0], rows = size[1], cols = size[2], group = size[3];
    dqt_tensor *t = group_weights(ctx, DQT_FORMAT_TERNARY, 0, rows, cols, group, false, 5);
    struct setup s = setup(t, tokens, true, 6);
    struct workspace ws = workspace_for(ctx, tokens, t);
    float *y = aligned_alloc(64, round_up(tokens * rows * sizeof(float), 64));
    memset(y, 0xff, tokens * rows * sizeof(float));
    forward(ctx, &ws, &s.x, t, 0, rows, DQT_PRECISION_F32, false, y);
    int8_t *codes = malloc(round_up(cols, PACK_BLOCK));
    for (size_t r = 0; r < rows; r += 23) {
        tensor_unpack_codes(t, r, codes);
        for (size_t i = 0; i < tokens; i += 13) {
            float want = -0.0f;
            for (size_t c = 0; c < cols; c += group) {
                int32_t sum = 0;
                for (size_t j = c; j < c + group; j++)
                    sum += s.x.codes[i * s.x.ld + j] * codes[j];
                want += (float)sum * tensor_group_scale(t, r, c / group);
            }
            want *= s.x.step[i];
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

/* More A than one chunk holds, and more K than one block of B holds; results that are written past the caches. */
static void large_products_are_chunked(void) {
    each_fast_set(check_large, (const size_t[]){300, 35, 34016, 32});
    each_fast_set(check_large, (const size_t[]){1100, 1024 + 16, 96, 32});
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
                                    TEST(integer_products_are_as_defined),
                                    TEST(long_rows_are_as_defined),
                                    TEST(extreme_values_are_exact),
                                    TEST(steps_of_nan_stay_in_their_token),
                                    TEST(float_products_are_those_of_floats),
                                    TEST(threads_do_not_matter),
                                    TEST(large_products_are_chunked)};
TEST_MAIN(tests)
