/* DQT_OPTIMIZER_MUON against its definition in double; what it is for, what it leaves to AdamW, what it refuses. */
#include "formats.h"
#include "optim/updater_state.h"
#include "updater_fixture.h"

enum { STEPS = 3, TURNS = 5 };
static const float RATE = 0.01f;

/* Rows, columns: wide, tall, of one tile and several, with sides that are no multiple of anything; none is square, for
 * the least singular values of a square matrix are so small that rounding decides what becomes of them. */
static const size_t shapes[][2] = {{40, 100}, {100, 40}, {130, 301}, {301, 130}, {2, 77}, {77, 2}, {65, 17}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

struct one {
    dqt_tensor *t;
    dqt_updater *u;
};

static struct one open_one(dqt_context *ctx, size_t rows, size_t cols, int storage, const dqt_updater_options *o) {
    struct one w = {.t = make_tensor(ctx, rows, cols, storage, false, 3)};
    const struct update_target target = {"w", DQT_CLASS_MLP, w.t, 0, 0};
    w.u = make_updater(ctx, &target, 1, o);
    return w;
}

static dqt_context *plain_context(int threads) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_options_init(&o, sizeof o));
    o.num_threads = threads;
    OK(NULL, dqt_context_create(&o, &ctx));
    return ctx;
}

static void close_one(struct one *w) {
    updater_destroy(w->u);
    tensor_destroy(w->t);
}

/* out[rows][cols] = the direction of d, by the formula. */
static void defined(const double *d, size_t rows, size_t cols, double *out) {
    const size_t less = rows < cols ? rows : cols, more = rows < cols ? cols : rows;
    double *x = malloc(less * more * sizeof *x), *next = malloc(less * more * sizeof *x);
    double *a = malloc(less * less * sizeof *a), *b = malloc(less * less * sizeof *b), squares = 0;
    for (size_t i = 0; i < rows * cols; i++)
        squares += d[i] * d[i];
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            x[rows > cols ? c * rows + r : r * cols + c] = d[r * cols + c] / sqrt(squares);
    for (int turn = 0; turn < TURNS; turn++) {
        for (size_t i = 0; i < less; i++)
            for (size_t j = 0; j < less; j++) {
                a[i * less + j] = 0;
                for (size_t k = 0; k < more; k++)
                    a[i * less + j] += x[i * more + k] * x[j * more + k];
            }
        for (size_t i = 0; i < less; i++)
            for (size_t j = 0; j < less; j++) {
                double sum = 0;
                for (size_t k = 0; k < less; k++)
                    sum += a[i * less + k] * a[k * less + j];
                b[i * less + j] = -4.7750 * a[i * less + j] + 2.0315 * sum;
            }
        for (size_t i = 0; i < less; i++)
            for (size_t k = 0; k < more; k++) {
                next[i * more + k] = 3.4445 * x[i * more + k];
                for (size_t j = 0; j < less; j++)
                    next[i * more + k] += b[i * less + j] * x[j * more + k];
            }
        double *swap = x;
        x = next;
        next = swap;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            out[r * cols + c] = 0.2 * sqrt((double)more) * x[rows > cols ? c * rows + r : r * cols + c];
    free(x);
    free(next);
    free(a);
    free(b);
}

/* Of F32 weights, in steps whose gradients are random. */
static void check_formula(dqt_context *ctx, const char *isa, size_t rows, size_t cols, double tolerance) {
    const size_t count = rows * cols;
    dqt_updater_options o = plain_options(DQT_OPTIMIZER_MUON, DQT_ROUND_STOCHASTIC, 0.0f);
    struct one w = open_one(ctx, rows, cols, DQT_FORMAT_F32, &o);
    double *m = calloc(count, sizeof *m), *d = malloc(count * sizeof *d), *u = malloc(count * sizeof *u);
    float *before = malloc(count * sizeof *before);
    for (int step = 0; step < STEPS; step++) {
        float *g = random_floats(count, 0.3f, (uint64_t)step + 7);
        const struct gradient gradient = gradient_around(g, w.t), *list = &gradient;
        memcpy(before, w.t->data, count * sizeof *before);
        OK(ctx, updater_step(w.u, &list, RATE, NULL));
        for (size_t i = 0; i < count; i++) {
            m[i] = 0.95 * m[i] + (double)g[i];
            d[i] = (double)g[i] + 0.95 * m[i];
        }
        defined(d, rows, cols, u);
        double errors = 0, all = 0, squares = 0;
        for (size_t i = 0; i < count; i++) {
            const double after = (double)((const float *)(const void *)w.t->data)[i];
            const double found = ((double)before[i] - after) / (double)RATE;
            errors += (found - u[i]) * (found - u[i]);
            all += u[i] * u[i];
            squares += found * found;
        }
        CHECKF(errors <= tolerance * tolerance * all, "%s, %zu x %zu, step %d: off by %g of its length", isa, rows,
               cols, step, sqrt(errors / all));
        /* singular values of 0.68 to 1.2: sum of squares over the smaller side */
        const double mean =
            squares / (0.04 * (double)(rows > cols ? rows : cols) * (double)(rows < cols ? rows : cols));
        CHECKF(mean > 0.46 && mean < 1.44, "%s, %zu x %zu: mean square of singular values %g", isa, rows, cols, mean);
        free(g);
    }
    free(before);
    free(m);
    free(d);
    free(u);
    close_one(&w);
}

static void directions_are_as_defined(void) {
    for (size_t k = 0; k < ISA_CAP_COUNT; k++) {
        dqt_context *ctx = isa_context(isa_caps[k].isa, 2);
        if (!ctx) continue;
        /* operands of bf16 are 2^-9 off, and a singular value that is small grows by 3.4 in each of five turns */
        const double tolerance = ctx->kernels->fast_bf16 ? 0.15 : 1e-5;
        for (size_t i = 0; i < SHAPES; i++)
            check_formula(ctx, isa_caps[k].name, shapes[i][0], shapes[i][1], tolerance);
        dqt_context_destroy(ctx);
    }
}

/* An m of 8 bits or bf16 gives nearly the steps that an m of floats does. */
static void momentum_in_fewer_bits(void) {
    static const struct {
        int state;
        double bound;
    } states[] = {{DQT_STATE_BF16, 0.02}, {DQT_STATE_INT8, 0.1}};
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    enum { ROWS = 60, COLS = 200, COUNT = ROWS * COLS };
    for (size_t k = 0; k < 2; k++) {
        dqt_updater_options o = plain_options(DQT_OPTIMIZER_MUON, DQT_ROUND_STOCHASTIC, 0.0f);
        struct one exact = open_one(ctx, ROWS, COLS, DQT_FORMAT_F32, &o);
        o.momentum_state = states[k].state;
        struct one fewer = open_one(ctx, ROWS, COLS, DQT_FORMAT_F32, &o);
        float *start = malloc(COUNT * sizeof *start);
        memcpy(start, exact.t->data, COUNT * sizeof *start);
        for (int step = 0; step < 10; step++) {
            float *g = random_floats(COUNT, 0.3f, (uint64_t)step + 7);
            const struct gradient gradient = gradient_around(g, exact.t), *list = &gradient;
            OK(ctx, updater_step(exact.u, &list, RATE, NULL));
            OK(ctx, updater_step(fewer.u, &list, RATE, NULL));
            free(g);
        }
        double difference = 0, way = 0;
        const float *a = (const float *)(const void *)exact.t->data, *b = (const float *)(const void *)fewer.t->data;
        for (size_t i = 0; i < COUNT; i++) {
            difference += pow((double)a[i] - (double)b[i], 2);
            way += pow((double)a[i] - (double)start[i], 2);
        }
        CHECKF(difference > 0 && sqrt(difference / way) < states[k].bound, "state %d: %g of the way", states[k].state,
               sqrt(difference / way));
        free(start);
        close_one(&exact);
        close_one(&fewer);
    }
    dqt_context_destroy(ctx);
}

/* Without gradients there is no direction, and nothing moves; the smallest and the greatest gradients have the same. */
static void extreme_gradients(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    enum { ROWS = 20, COLS = 50, COUNT = ROWS * COLS };
    static const float sizes[] = {0.0f, 1e-42f, 1e-30f, 1.0f, 1e14f};
    const dqt_updater_options o = plain_options(DQT_OPTIMIZER_MUON, DQT_ROUND_STOCHASTIC, 0.0f);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct one w = open_one(ctx, ROWS, COLS, DQT_FORMAT_F32, &o);
        float before[COUNT], after[COUNT];
        memcpy(before, w.t->data, sizeof before);
        float *g = random_floats(COUNT, 1.0f, 5);
        for (size_t i = 0; i < COUNT; i++)
            g[i] *= sizes[k];
        const struct gradient gradient = gradient_around(g, w.t), *list = &gradient;
        OK(ctx, updater_step(w.u, &list, RATE, NULL));
        memcpy(after, w.t->data, sizeof after);
        double moved = 0;
        for (size_t i = 0; i < COUNT; i++)
            moved += pow(((double)after[i] - (double)before[i]) / (double)RATE, 2);
        moved = sqrt(moved / COUNT);
        if (k == 0) CHECK(moved == 0);
        if (k > 1) CHECKF(moved > 0.1 && moved < 0.25, "gradients of %g: rms of u is %g", (double)sizes[k], moved);
        CHECKF(isfinite(moved), "gradients of %g", (double)sizes[k]);
        free(g);
        close_one(&w);
    }
    dqt_context_destroy(ctx);
}

/* An embedding beside a matrix is updated as by ADAMW, to the bit, and says so; so is a matrix of one row. */
static void others_take_adamw(void) {
    dqt_context *ctx = plain_context(1);
    enum { ROWS = 70, COLS = 64 };
    uint64_t hash[2];
    for (int muon = 0; muon < 2; muon++) {
        dqt_tensor *t[3] = {make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT8, false, 1),
                            make_tensor(ctx, 1, COLS, DQT_FORMAT_F32, false, 2),
                            make_tensor(ctx, ROWS, COLS, DQT_FORMAT_INT8, false, 3)};
        const struct update_target targets[] = {{"embedding", DQT_CLASS_EMBEDDING, t[0], 0, 0},
                                                {"row", DQT_CLASS_LINEAR, t[1], 0, 0},
                                                {"matrix", DQT_CLASS_ATTENTION, t[2], 0, 0}};
        const dqt_updater_options o =
            plain_options(muon ? DQT_OPTIMIZER_MUON : DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, 0.8f);
        dqt_updater *u = make_updater(ctx, targets, 3, &o);
        struct gradient gradients[3];
        const struct gradient *list[3];
        for (size_t i = 0; i < 3; i++) {
            gradients[i] = gradient_around(random_floats(t[i]->rows * COLS, 0.1f, i + 1), t[i]);
            list[i] = &gradients[i];
        }
        OK(ctx, updater_step(u, list, RATE, NULL));
        CHECK(updater_optimizer(u, 0) == DQT_OPTIMIZER_ADAMW && updater_optimizer(u, 1) == DQT_OPTIMIZER_ADAMW);
        CHECK(updater_optimizer(u, 2) == o.optimizer);
        hash[muon] = hash_tensor(hash_tensor(1, t[0]), t[1]);
        updater_destroy(u);
        for (size_t i = 0; i < 3; i++) {
            free(gradients[i].data);
            tensor_destroy(t[i]);
        }
    }
    CHECK(hash[0] == hash[1]);
    dqt_context_destroy(ctx);
}

/* The step of an update inside backward that has one buffer. */
static dqt_status one_buffer_step(dqt_updater *u, const struct gradient *gradient, float rate, dqt_step_stats *stats) {
    TRY(updater_begin(u, rate));
    updater_begin_parameter(u, 0);
    updater_apply_gradient(u, 0, gradient);
    updater_end_parameter(u, 0);
    return updater_end(u, stats);
}

/* In tiles, and from one buffer, as from buffers; a tile that is not finite leaves all weights, and moves m of the
 * others. */
static void inside_backward(void) {
    dqt_context *ctx = plain_context(2);
    enum { ROWS = 150, COLS = 96, COUNT = ROWS * COLS };
    const dqt_updater_options o = plain_options(DQT_OPTIMIZER_MUON, DQT_ROUND_ACCUMULATE, 0.6f);
    struct one whole = open_one(ctx, ROWS, COLS, DQT_FORMAT_INT4, &o);
    struct one tiles = open_one(ctx, ROWS, COLS, DQT_FORMAT_INT4, &o);
    struct one buffer = open_one(ctx, ROWS, COLS, DQT_FORMAT_INT4, &o);
    for (int step = 0; step < STEPS; step++) {
        float *g = random_floats(COUNT, 0.3f, (uint64_t)step + 7);
        const struct gradient gradient = gradient_around(g, whole.t), *list = &gradient;
        dqt_step_stats a = {.struct_size = sizeof a}, b = a;
        OK(ctx, updater_step(whole.u, &list, 0.05f, &a));
        OK(ctx, fused_step(tiles.u, &list, 0.05f, &b));
        CHECK(a.flipped > 0 && a.flipped == b.flipped && a.update_rms == b.update_rms && b.quantized == COUNT);
        CHECK(hash_all(whole.u) == hash_all(tiles.u));
        OK(ctx, one_buffer_step(buffer.u, list, 0.05f, &b));
        CHECK(a.flipped == b.flipped && a.update_rms == b.update_rms && hash_all(whole.u) == hash_all(buffer.u));
        free(g);
    }
    float *g = random_floats(COUNT, 0.3f, 99);
    const uint64_t before = hash_tensor(1, tiles.t);
    const float *m = state_piece(tiles.u, "0.m").data, first = m[0], spoilt = m[COUNT - 1];
    g[COUNT - 1] = INFINITY;
    const struct gradient gradient = gradient_around(g, tiles.t), *list = &gradient;
    CHECK(fused_step(tiles.u, &list, 0.05f, NULL) == DQT_E_NUMERIC);
    CHECK(hash_tensor(1, tiles.t) == before && m[0] != first && m[COUNT - 1] == spoilt);
    const uint64_t all = hash_tensor(1, buffer.t);
    CHECK(one_buffer_step(buffer.u, list, 0.05f, NULL) == DQT_E_NUMERIC && hash_tensor(1, buffer.t) == all);
    free(g);
    close_one(&whole);
    close_one(&tiles);
    close_one(&buffer);
    dqt_context_destroy(ctx);
}

static void refusals(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int k = 0; k < 3; k++) {
        dqt_updater_options o = plain_options(DQT_OPTIMIZER_MUON, DQT_ROUND_STOCHASTIC, 0.8f);
        dqt_tensor *t = make_tensor(ctx, 64, 64, DQT_FORMAT_INT4, k == 2, 1);
        const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
        dqt_updater *u = NULL;
        if (k == 0) o.rounding = DQT_ROUND_ECO_STOCHASTIC;
        if (k == 1) o.num_parts = 2;
        CHECKF(updater_create(ctx, &target, 1, &o, &u) == DQT_E_UNSUPPORTED && !u, "%d", k);
        CHECKF(strstr(dqt_last_error(ctx), "MUON"), "%s", dqt_last_error(ctx));
        tensor_destroy(t);
    }
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {TEST(directions_are_as_defined), TEST(momentum_in_fewer_bits),
                                    TEST(extreme_gradients),         TEST(others_take_adamw),
                                    TEST(inside_backward),           TEST(refusals)};
TEST_MAIN(tests)
