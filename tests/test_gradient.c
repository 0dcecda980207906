/* Gradient buffers in F32, BF16 and both FP8 formats. */
#include "calls.h"
#include "counting_alloc.h"
#include "format/gradient.h"
#include "isa_contexts.h"

static struct gradient make(int format, size_t rows, size_t cols, void **block) {
    struct gradient g = {.format = format, .rows = rows, .cols = cols};
    struct arena count = {0};
    gradient_place(&g, &count);
    *block = counting_block(count.used);
    struct arena a = {.base = *block};
    gradient_place(&g, &a);
    gradient_zero(&g);
    return g;
}

/* Code 0 .. 0x7e (0x7b) of a row whose largest value makes the scale 1. */
static void fp8_values(void) {
    static const struct {
        int format, bias, mantissa, last;
        float largest;
    } f[] = {{DQT_FLOAT_FP8_E4M3, 7, 3, 0x7e, 448.0f}, {DQT_FLOAT_FP8_E5M2, 15, 2, 0x7b, 57344.0f}};
    for (int i = 0; i < 2; i++) {
        void *block;
        float row[256] = {0}, back[256];
        size_t cols = 0;
        struct gradient g = make(f[i].format, 1, (size_t)(2 * f[i].last + 2), &block);
        for (int sign = 0; sign < 2; sign++)
            for (int c = 0; c <= f[i].last; c++) {
                const int e = c >> f[i].mantissa, m = c & ((1 << f[i].mantissa) - 1);
                const double x = e ? ldexp(1.0 + m / (double)(1 << f[i].mantissa), e - f[i].bias)
                                   : ldexp(m, 1 - f[i].bias - f[i].mantissa);
                row[cols++] = (float)(sign ? -x : x);
            }
        CHECK(row[f[i].last] == f[i].largest);
        gradient_write_rows(&g, NULL, 0, 1, row);
        CHECK(g.row_scale[0] == 1.0f);
        const uint8_t *bytes = g.data;
        for (size_t k = 0; k < cols; k++) {
            const int sign = (int)(k / (size_t)(f[i].last + 1)), code = (int)(k % (size_t)(f[i].last + 1));
            CHECKF(bytes[k] == (sign << 7 | code), "format %d: %g is code %02x", f[i].format, (double)row[k], bytes[k]);
        }
        gradient_read_rows(&g, 0, 1, back);
        CHECK(memcmp(row, back, cols * sizeof *row) == 0);
        counting_block_free(block);
    }
}

static double spacing(int format, double x, double scale) {
    if (format == DQT_FLOAT_F32) return 0;
    if (format == DQT_FLOAT_BF16) return ldexp(1.0, ilogb(x) - 7);
    const int mantissa = format == DQT_FLOAT_FP8_E4M3 ? 3 : 2, least = format == DQT_FLOAT_FP8_E4M3 ? -6 : -14;
    const int e = ilogb(x / scale);
    return scale * ldexp(1.0, (e < least ? least : e) - mantissa);
}

static void written_rows_are_nearest(void) {
    enum { ROWS = 5, COLS = 203 };
    float in[ROWS * COLS], out[ROWS * COLS];
    for (int format = 0; format < 4; format++) {
        void *block;
        struct gradient g = make(format, ROWS, COLS, &block);
        random_fill(in, ROWS * COLS, 1.0f, 3);
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < COLS; k++)
                in[r * COLS + k] *= powf(10.0f, (float)(r - 6)) * powf(2.0f, (float)(k % 7));
        for (int k = 0; k < COLS; k++)
            in[4 * COLS + k] = 0.0f;
        gradient_write_rows(&g, NULL, 0, ROWS, in);
        gradient_read_rows(&g, 0, ROWS, out);
        for (int i = 0; i < ROWS * COLS; i++) {
            const double scale = g.row_scale ? (double)g.row_scale[i / COLS] : 1.0, x = (double)in[i];
            if (x == 0.0) {
                CHECK(out[i] == 0.0f);
            } else {
                CHECKF(fabs((double)out[i] - x) <= 0.5 * spacing(format, x, scale), "format %d: %g became %g", format,
                       x, (double)out[i]);
            }
        }
        for (int r = 0; g.row_scale && r < ROWS - 1; r++) {
            int e;
            double most = 0;
            for (int k = 0; k < COLS; k++)
                most = fmax(most, fabs((double)in[r * COLS + k]));
            CHECK(frexpf(g.row_scale[r], &e) == 0.5f); /* a power of two */
            const double limit = format == DQT_FLOAT_FP8_E4M3 ? 448 : 57344, s = (double)g.row_scale[r];
            CHECKF(most <= limit * s && most > limit * s / 2, "largest %g with scale %g", most, s);
        }
        counting_block_free(block);
    }
}

/* Sums of many additions stay unbiased: mean over columns of (sum - exact) within 5 standard errors (p < 6e-7). */
static void additions_are_unbiased(void) {
    enum { COLS = 8192, STEPS = 8 };
    static float tile[COLS], out[COLS], scratch[COLS];
    static double exact[COLS];
    for (int format = 0; format < 4; format++) {
        void *block;
        struct gradient g = make(format, 2, COLS, &block);
        memset(exact, 0, sizeof exact);
        for (int s = 0; s < STEPS; s++) {
            random_fill(tile, COLS, 1.0f, (uint64_t)s + 1);
            const struct rng r = rng_make(9, (uint64_t)s, RNG_GRADIENT, 0);
            gradient_add_rows(&g, &r, 1, 1, tile, COLS, scratch);
            for (int k = 0; k < COLS; k++)
                exact[k] += (double)tile[k];
        }
        gradient_read_rows(&g, 1, 1, out);
        double sum = 0, squares = 0;
        for (int k = 0; k < COLS; k++) {
            const double d = (double)out[k] - exact[k];
            sum += d;
            squares += d * d;
        }
        const double error = sqrt(squares / COLS / COLS);
        CHECKF(format == DQT_FLOAT_F32 ? fabs(sum) < 1e-3 : fabs(sum / COLS) < 5 * error,
               "format %d: bias %g, error %g", format, sum / COLS, error);
        gradient_read_rows(&g, 0, 1, out);
        for (int k = 0; k < COLS; k++)
            if (out[k] != 0.0f) CHECKF(false, "another row changed");
        counting_block_free(block);
    }
}

static void scale_grows_with_a_later_addition(void) {
    enum { COLS = 64 };
    float tile[COLS], out[COLS], scratch[COLS];
    for (int format = DQT_FLOAT_FP8_E4M3; format <= DQT_FLOAT_FP8_E5M2; format++) {
        void *block;
        struct gradient g = make(format, 1, COLS, &block);
        const struct rng r = rng_make(1, 0, RNG_GRADIENT, 0);
        for (int k = 0; k < COLS; k++)
            tile[k] = 1e-3f;
        gradient_add_rows(&g, &r, 0, 1, tile, COLS, scratch);
        const float before = g.row_scale[0];
        tile[5] = 1e6f;
        gradient_add_rows(&g, &r, 0, 1, tile, COLS, scratch);
        gradient_read_rows(&g, 0, 1, out);
        CHECK(g.row_scale[0] > before);
        CHECKF(fabsf(out[5] - 1e6f) <= 1.3e5f, "%g", (double)out[5]);
        counting_block_free(block);
    }
}

static void non_finite_stays_visible(void) {
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int format = 0; format < 4; format++)
        for (int i = 0; i < 3; i++) {
            void *block;
            float tile[4] = {1.0f, bad[i], 2.0f, 3.0f}, out[4], scratch[4];
            struct gradient g = make(format, 1, 4, &block);
            const struct rng r = rng_make(1, 0, RNG_GRADIENT, 0);
            gradient_add_rows(&g, &r, 0, 1, tile, 4, scratch);
            gradient_read_rows(&g, 0, 1, out);
            CHECK(isfinite(out[0]) && !isfinite(out[1]) && isfinite(out[2]));
            counting_block_free(block);
        }
}

/* Row starts that are no multiple of 4 elements, and rows added in any order, give the same numbers. */
static void rows_are_independent(void) {
    enum { ROWS = 7, COLS = 13 };
    float tile[ROWS * COLS], a[ROWS * COLS], b[ROWS * COLS], scratch[COLS];
    random_fill(tile, ROWS * COLS, 1.0f, 4);
    for (int format = 0; format < 4; format++) {
        void *block1, *block2;
        struct gradient g1 = make(format, ROWS, COLS, &block1), g2 = make(format, ROWS, COLS, &block2);
        const struct rng r = rng_make(1, 0, RNG_GRADIENT, 0);
        gradient_add_rows(&g1, &r, 0, ROWS, tile, COLS, scratch);
        for (size_t i = ROWS; i-- > 0;)
            gradient_add_rows(&g2, &r, i, 1, tile + i * COLS, COLS, scratch);
        gradient_read_rows(&g1, 0, ROWS, a);
        gradient_read_rows(&g2, 0, ROWS, b);
        CHECK(memcmp(a, b, sizeof a) == 0);
        counting_block_free(block1);
        counting_block_free(block2);
    }
}

/* ---- The noise of a tape ------------------------------------------------------------------------------------- */

enum { WIDTH = 32, LENGTH = 24, COUNT = LENGTH * WIDTH };

static dqt_tape *noisy_tape(dqt_context *ctx, dqt_layer *const *layers, size_t count, int format, uint64_t seed) {
    dqt_tape_options o;
    dqt_tape *tape = NULL;
    dqt_tape_options_init(&o, sizeof o);
    o.max_length = LENGTH;
    o.recompute = 1;
    o.checkpoint_format = o.gradient_format = format;
    o.seed = seed;
    OK(ctx, dqt_tape_create(ctx, layers, count, &o, &tape));
    return tape;
}

/* A block whose weights are 0 returns its input as it was saved. */
static void saved_by(dqt_context *ctx, dqt_layer *block, dqt_tape *tape, uint64_t pass, const float *x, float *y) {
    OK(ctx, dqt_tape_set_pass(tape, pass));
    OK(ctx, dqt_layer_forward(block, tape, batch_shape(1, LENGTH), x, y));
    for (size_t i = 0; i < COUNT; i++)
        if (!(fabsf(y[i] - x[i]) <= 0.25f)) CHECKF(false, "%g was saved as %g", (double)x[i], (double)y[i]);
}

/* Elements in which two results differ, where each rounds up or down by its own coin: 1/3 of them, were the values
 * uniform between two neighbours; between 1/5 and 1/2 here. */
static void check_independent(const char *what, int format, const float *a, const float *b) {
    size_t n = 0;
    for (size_t i = 0; i < COUNT; i++)
        n += a[i] != b[i];
    CHECKF(n > COUNT / 5 && n < COUNT / 2, "format %d: %s: %zu of %d numbers differ", format, what, n, COUNT);
}

/* Saved block inputs are rounded with numbers of their own for each block, pass and seed (all 64 bits of it). */
static void saved_inputs_have_noise_of_their_own(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_layer_options o;
    dqt_layer *blocks[2];
    static const float zeros[2 * WIDTH * WIDTH];
    float x[COUNT], y[5][COUNT];
    dqt_layer_options_init(&o, sizeof o);
    o.weight.storage = DQT_FORMAT_F32;
    for (int i = 0; i < 2; i++) {
        dqt_layer_info info = {.struct_size = sizeof info};
        OK(ctx, dqt_block_create(ctx, WIDTH, 2 * WIDTH, 2, 2, &o, &blocks[i]));
        OK(ctx, dqt_layer_get_info(blocks[i], &info));
        for (size_t k = 0; k < info.num_parameters; k++) {
            dqt_parameter p = {.struct_size = sizeof p};
            OK(ctx, dqt_layer_get_parameter(blocks[i], k, &p));
            if (p.rows > 1) OK(ctx, dqt_tensor_quantize(p.tensor, zeros, DQT_ROUND_NEAREST, 1));
        }
    }
    random_fill(x, COUNT, 1.0f, 8);
    for (int format = DQT_FLOAT_BF16; format <= DQT_FLOAT_FP8_E5M2; format++) {
        dqt_tape *tape = noisy_tape(ctx, blocks, 2, format, 5);
        dqt_tape *other = noisy_tape(ctx, blocks, 2, format, 5 | (uint64_t)1 << 32);
        saved_by(ctx, blocks[0], tape, 7, x, y[0]);
        saved_by(ctx, blocks[1], tape, 7, x, y[1]);
        saved_by(ctx, blocks[0], tape, 8, x, y[2]);
        saved_by(ctx, blocks[0], other, 7, x, y[3]);
        saved_by(ctx, blocks[0], tape, 7, x, y[4]);
        check_independent("two blocks", format, y[0], y[1]);
        check_independent("two passes", format, y[0], y[2]);
        check_independent("two seeds", format, y[0], y[3]);
        CHECK(memcmp(y[0], y[4], sizeof y[0]) == 0);
        dqt_tape_destroy(tape);
        dqt_tape_destroy(other);
    }
    for (int i = 0; i < 2; i++)
        dqt_layer_destroy(blocks[i]);
    dqt_context_destroy(ctx);
}

/* The gradient of one layer's weight when `dy` enters it. */
static void gradient_of(dqt_context *ctx, dqt_layer *layer, dqt_tape *tape, size_t parameter, uint64_t pass,
                        const float *x, const float *dy, float *gradient) {
    float y[COUNT];
    OK(ctx, dqt_tape_zero_gradients(tape));
    OK(ctx, dqt_tape_set_pass(tape, pass));
    OK(ctx, dqt_layer_forward(layer, tape, batch_shape(1, LENGTH), x, y));
    OK(ctx, dqt_layer_backward(layer, tape, dy, NULL));
    OK(ctx, dqt_tape_get_gradient(tape, parameter, 0, LENGTH, gradient));
}

/* The same for stored gradients: each parameter, pass and seed has its own numbers. */
static void stored_gradients_have_noise_of_their_own(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_layer *layers[2];
    float x[COUNT], dy[COUNT], g[5][COUNT];
    for (int i = 0; i < 2; i++)
        OK(ctx, dqt_linear_create(ctx, WIDTH, WIDTH, NULL, &layers[i]));
    random_fill(x, COUNT, 1.0f, 8);
    random_fill(dy, COUNT, 1.0f, 9);
    for (int format = DQT_FLOAT_BF16; format <= DQT_FLOAT_FP8_E5M2; format++) {
        dqt_tape *tape = noisy_tape(ctx, layers, 2, format, 5);
        dqt_tape *other = noisy_tape(ctx, layers, 2, format, 5 | (uint64_t)1 << 32);
        gradient_of(ctx, layers[0], tape, 0, 7, x, dy, g[0]);
        gradient_of(ctx, layers[1], tape, 1, 7, x, dy, g[1]);
        gradient_of(ctx, layers[0], tape, 0, 8, x, dy, g[2]);
        gradient_of(ctx, layers[0], other, 0, 7, x, dy, g[3]);
        gradient_of(ctx, layers[0], tape, 0, 7, x, dy, g[4]);
        check_independent("two parameters", format, g[0], g[1]);
        check_independent("two passes", format, g[0], g[2]);
        check_independent("two seeds", format, g[0], g[3]);
        CHECK(memcmp(g[0], g[4], sizeof g[0]) == 0);
        dqt_tape_destroy(tape);
        dqt_tape_destroy(other);
    }
    for (int i = 0; i < 2; i++)
        dqt_layer_destroy(layers[i]);
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {TEST(fp8_values),
                                    TEST(written_rows_are_nearest),
                                    TEST(additions_are_unbiased),
                                    TEST(scale_grows_with_a_later_addition),
                                    TEST(non_finite_stays_visible),
                                    TEST(rows_are_independent),
                                    TEST(saved_inputs_have_noise_of_their_own),
                                    TEST(stored_gradients_have_noise_of_their_own)};
TEST_MAIN(tests)
