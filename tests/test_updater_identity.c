/* The updater's bits: the same on every instruction set, for any number of threads, fused or not, after state went out
 * and in again; and unchanged by what is refused. Every optimiser x rounding x state x storage, with row starts that
 * are no multiple of 4 elements and ends that fill no tile, pack block or state block. */
#include "formats.h"
#include "optim/updater_state.h"
#include "updater_fixture.h"

enum { ROWS = 67, COLS = 133, COUNT = ROWS * COLS, GAIN = 77, STEPS = 3 };

struct combination {
    int storage, optimizer, rounding, state;
    float beta1;
};

enum { PINNED_EACH_FORMAT = 3 * 4 * 3 * 2, FOR_EACH_FORMAT = PINNED_EACH_FORMAT + 3 * 3 * 2 };

/* Number i of all combinations of the formats 1 .. formats; false: one that is refused. */
static bool combination_among(int formats, int i, struct combination *c) {
    c->storage = DQT_FORMAT_F32 + i % formats;
    i /= formats;
    if (i >= PINNED_EACH_FORMAT) { /* what came later */
        i -= PINNED_EACH_FORMAT;
        *c = (struct combination){c->storage, DQT_OPTIMIZER_SGD + i % 3, DQT_ROUND_ACCUMULATE, i / 3 % 3,
                                  i / 9 ? 0.0f : 0.9f};
        return true;
    }
    c->optimizer = DQT_OPTIMIZER_SGD + i % 3;
    c->rounding = DQT_ROUND_STOCHASTIC + i / 3 % 4;
    c->state = i / 12 % 3;
    c->beta1 = i / 36 ? 0.0f : 0.9f;
    return c->beta1 > 0.0f || c->rounding < DQT_ROUND_ECO_STOCHASTIC;
}
static bool combination_of(int i, struct combination *c) {
    return combination_among((int)format_count(), i, c);
}
static int combinations(void) {
    return (int)format_count() * FOR_EACH_FORMAT;
}

static const char *describe(const struct combination *c) {
    static char text[96];
    snprintf(text, sizeof text, "%s optimizer %d rounding %d state %d beta1 %g", format_public_name(c->storage),
             c->optimizer, c->rounding, c->state, (double)c->beta1);
    return text;
}

static dqt_updater_options options_of(const struct combination *c, int clip, bool lagged) {
    dqt_updater_options o = plain_options(c->optimizer, c->rounding, c->beta1);
    o.momentum_state = o.variance_state = c->state;
    o.weight_decay = 0.1f;
    o.clip = clip;
    o.lagged = lagged;
    return o;
}

/* The same, for some combinations with rate_corrected, which is not pinned. */
static dqt_updater_options any_options_of(int i, const struct combination *c, int clip, bool lagged) {
    dqt_updater_options o = options_of(c, clip, lagged);
    o.rate_corrected = i / 5 % 2;
    return o;
}

/* A matrix and a gain, trained for a few steps. */
struct training {
    dqt_tensor *tensors[2];
    dqt_updater *u;
};

static struct training begin(dqt_context *ctx, const struct combination *c, const dqt_updater_options *o) {
    struct training t;
    /* tests with integer codes train row scales as well in half of the cases */
    t.tensors[0] =
        make_tensor(ctx, ROWS, COLS, c->storage, number_is_code(c->storage) && c->state != DQT_STATE_BF16, 3);
    t.tensors[1] = make_tensor(ctx, 1, GAIN, DQT_FORMAT_F32, false, 4);
    const struct update_target targets[2] = {{"matrix", DQT_CLASS_LINEAR, t.tensors[0], 0, 0},
                                             {"gain", DQT_CLASS_NORM, t.tensors[1], 0, 0}};
    t.u = make_updater(ctx, targets, 2, o);
    return t;
}

static void end(struct training *t) {
    updater_destroy(t->u);
    for (int i = 0; i < 2; i++)
        tensor_destroy(t->tensors[i]);
}

/* Steps [first, last): learning rates and gradients depend on the step only. Returns a hash of the statistics. */
static uint64_t train(struct training *t, uint64_t first, uint64_t last, bool fused) {
    static float g[2][COUNT];
    uint64_t h = 1;
    for (uint64_t step = first; step < last; step++) {
        random_fill(g[0], COUNT, 0.3f, 2 * step + 1);
        random_fill(g[1], GAIN, 0.3f, 2 * step + 2);
        g[0][5] = g[0][200] = 0.0f;
        const struct gradient a = gradient_around(g[0], t->tensors[0]), b = gradient_around(g[1], t->tensors[1]);
        const struct gradient *list[2] = {&a, &b};
        dqt_step_stats stats = {.struct_size = sizeof stats};
        const float lr = 0.02f / (float)(step + 1);
        OK(updater_context(t->u), fused ? fused_step(t->u, list, lr, &stats) : updater_step(t->u, list, lr, &stats));
        h = hash_bytes(h, &stats, sizeof stats);
    }
    return h;
}

static uint64_t outcome(dqt_context *ctx, const struct combination *c, const dqt_updater_options *o, bool fused) {
    struct training t = begin(ctx, c, o);
    const uint64_t stats = train(&t, 0, STEPS, fused), all = hash_all(t.u);
    end(&t);
    return hash_bytes(all, &stats, sizeof stats);
}

static dqt_context *threads_context(int threads, int threading, dqt_parallel_for_fn parallel_for) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.num_threads = threads;
    o.threading = threading;
    o.parallel_for = parallel_for;
    if (dqt_context_create(&o, &ctx) != DQT_OK) return NULL;
    share_all_work(ctx);
    return ctx;
}

/* Every instruction set and thread count, unfused with this step's statistics and the global norm. */
static void unfused_is_one_result(void) {
    dqt_context *contexts[ISA_COUNT + 6];
    int kinds[ISA_COUNT + 6] = {0};
    size_t count = 0;
    for (size_t i = 0; i < ISA_COUNT; i++) {
        contexts[count] = isa_context(isa_caps[i].isa, 1);
        if (contexts[count]) count++;
    }
    for (int threads = 2; threads <= 4; threads++) {
        kinds[count] = DQT_THREADING_OPENMP;
        contexts[count] = threads_context(threads, DQT_THREADING_OPENMP, NULL);
        if (contexts[count]) count++;
        kinds[count] = DQT_THREADING_HOST;
        contexts[count] = threads_context(threads, DQT_THREADING_HOST, backwards_for);
        if (contexts[count]) count++;
    }
    for (int i = 0; i < combinations(); i++) {
        struct combination c;
        if (!combination_of(i, &c)) continue;
        const dqt_updater_options o = any_options_of(i, &c, DQT_CLIP_GLOBAL_NORM, false);
        const uint64_t expected = outcome(contexts[0], &c, &o, false);
        for (size_t k = 1; k < count; k++) {
            /* OpenMP's waiting threads make it slow, and some sets have the kernels of the one before: now and then is
             * enough */
            const int isa = (int)dqt_context_isa(contexts[k]);
            const bool again =
                kinds[k] == 0 && contexts[k]->kernels->update.row == contexts[k - 1]->kernels->update.row;
            if (i % 11 != 0 && (kinds[k] == DQT_THREADING_OPENMP || again)) continue;
            CHECKF(outcome(contexts[k], &c, &o, false) == expected, "%s: isa %d, %d threads", describe(&c), isa,
                   (int)dqt_context_num_threads(contexts[k]));
        }
    }
    for (size_t k = 0; k < count; k++)
        dqt_context_destroy(contexts[k]);
}

/* The result itself, which other architectures must give as well. It changes only with the formulas, the random numbers
 * or this test. Little-endian, as the hash sees bytes. */
static void result_is_pinned(void) {
    static const struct {
        int formats;     /* 7: those of 0.1 */
        int first, last; /* combinations of each format */
        uint64_t hash;
    } pinned[] = {{7, 0, PINNED_EACH_FORMAT, 0xe06acbef50b0b796u},
                  {9, 0, PINNED_EACH_FORMAT, 0x248e57428f357841u},
                  {9, PINNED_EACH_FORMAT, FOR_EACH_FORMAT, 0xeb47af39a8c8ddbcu}};
    dqt_context *ctx = threads_context(1, DQT_THREADING_SERIAL, NULL);
    for (size_t p = 0; p < sizeof pinned / sizeof *pinned; p++) {
        uint64_t h = 1;
        for (int i = pinned[p].first * pinned[p].formats; i < pinned[p].last * pinned[p].formats; i++) {
            struct combination c;
            if (!combination_among(pinned[p].formats, i, &c)) continue;
            const dqt_updater_options o = options_of(&c, DQT_CLIP_GLOBAL_NORM, i % 2);
            const uint64_t one = outcome(ctx, &c, &o, false);
            h = hash_bytes(h, &one, sizeof one);
        }
        CHECKF(h == pinned[p].hash, "%d formats from %d on: %016llx", pinned[p].formats, pinned[p].first,
               (unsigned long long)h);
    }
    dqt_context_destroy(ctx);
}

/* Fused and whole steps agree where dqt.h says so: lagged statistics, no clipping or by the previous norm. */
static void fused_is_unfused(void) {
    static const int clips[] = {DQT_CLIP_NONE, DQT_CLIP_PREVIOUS_NORM};
    dqt_context *scalar = isa_context(DQT_ISA_SCALAR, 1), *best = threads_context(3, DQT_THREADING_HOST, backwards_for);
    for (int i = 0; i < combinations(); i++) {
        struct combination c;
        if (!combination_of(i, &c)) continue;
        const dqt_updater_options o = any_options_of(i, &c, clips[i % 2], true);
        const uint64_t expected = outcome(best, &c, &o, false);
        CHECKF(outcome(best, &c, &o, true) == expected, "%s", describe(&c));
        CHECKF(outcome(scalar, &c, &o, true) == expected, "%s: scalar", describe(&c));
    }
    dqt_context_destroy(scalar);
    dqt_context_destroy(best);
}

/* ---- State --------------------------------------------------------------------------------------------------- */

struct stored {
    unsigned char *bytes;
    size_t used, size;
    bool load;
    char labels[64][16];
    size_t num_labels;
};

static dqt_status store_or_load(void *arg, const struct state_array *a) {
    struct stored *s = arg;
    const char *label = a->label;
    const size_t element_size = a->element_size, bytes = a->count * element_size;
    void *data = a->data;
    CHECK(bytes > 0 && (element_size == 1 || element_size == 2 || element_size == 4 || element_size == 8));
    if (s->load) {
        memcpy(data, s->bytes + s->used, bytes);
    } else {
        for (size_t i = 0; i < s->num_labels; i++)
            CHECKF(strcmp(s->labels[i], label) != 0, "%s comes twice", label);
        if (s->num_labels < 64) snprintf(s->labels[s->num_labels++], sizeof s->labels[0], "%s", label);
        if (s->used + bytes > s->size) {
            s->size = 2 * (s->used + bytes);
            s->bytes = realloc(s->bytes, s->size);
            if (!s->bytes) abort();
        }
        memcpy(s->bytes + s->used, data, bytes);
    }
    s->used += bytes;
    return DQT_OK;
}

/* State goes out of one updater and into a new one; both go on alike. */
static void state_goes_round(void) {
    dqt_context *ctx = threads_context(1, DQT_THREADING_SERIAL, NULL);
    for (int i = 0; i < combinations(); i += 5) {
        struct combination c;
        if (!combination_of(i, &c)) continue;
        const dqt_updater_options o = any_options_of(i, &c, DQT_CLIP_PREVIOUS_NORM, true);
        struct training a = begin(ctx, &c, &o), b = begin(ctx, &c, &o);
        train(&a, 0, STEPS, true);
        struct stored s = {NULL, 0, 0, false, {{0}}, 0};
        OK(ctx, updater_visit_state(a.u, store_or_load, &s));
        s.load = true;
        s.used = 0;
        OK(ctx, updater_visit_state(b.u, store_or_load, &s));
        for (int k = 0; k < 2; k++) {
            memcpy(b.tensors[k]->data, a.tensors[k]->data, a.tensors[k]->data_bytes);
            if (a.tensors[k]->num_scales)
                memcpy(b.tensors[k]->scales, a.tensors[k]->scales, a.tensors[k]->num_scales * sizeof(float));
        }
        CHECK(updater_step_count(b.u) == STEPS);
        train(&a, STEPS, 2 * STEPS, true);
        train(&b, STEPS, 2 * STEPS, true);
        CHECKF(hash_all(a.u) == hash_all(b.u), "%s", describe(&c));
        free(s.bytes);
        end(&a);
        end(&b);
    }
    dqt_context_destroy(ctx);
}

static dqt_status stop_at_third(void *arg, const struct state_array *a) {
    (void)a;
    return ++*(int *)arg == 3 ? DQT_E_IO : DQT_OK;
}

static void a_refusing_visitor_stops(void) {
    const struct combination c = {DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, DQT_STATE_INT8, 0.9f};
    const dqt_updater_options o = options_of(&c, DQT_CLIP_NONE, false);
    dqt_context *ctx = threads_context(1, DQT_THREADING_SERIAL, NULL);
    struct training t = begin(ctx, &c, &o);
    int calls = 0;
    CHECK(updater_visit_state(t.u, stop_at_third, &calls) == DQT_E_IO);
    CHECK(calls == 3);
    end(&t);
    dqt_context_destroy(ctx);
}

/* ---- Memory -------------------------------------------------------------------------------------------------- */

/* Planned bytes are what is allocated, and the parts are what the formats say. */
static void memory_is_as_planned(void) {
    for (int threads = 1; threads <= 3; threads += 2) {
        dqt_context *ctx = threads_context(threads, DQT_THREADING_HOST, backwards_for);
        for (int i = 0; i < combinations(); i++) {
            struct combination c;
            if (!combination_of(i, &c)) continue;
            const dqt_updater_options o = options_of(&c, DQT_CLIP_GLOBAL_NORM, false);
            dqt_tensor *t = make_tensor(ctx, 640, 256, c.storage, number_is_code(c.storage), 3);
            const struct update_target target = {"matrix", DQT_CLASS_LINEAR, t, 0, 0};
            dqt_updater_memory_info m = {.struct_size = sizeof m};
            OK(ctx, updater_memory(ctx, &target, 1, &o, &m));
            const size_t before = dqt_context_allocated(ctx);
            dqt_updater *u = make_updater(ctx, &target, 1, &o);
            CHECKF(dqt_context_allocated(ctx) - before == m.total, "%s: planned %zu, allocated %zu", describe(&c),
                   m.total, dqt_context_allocated(ctx) - before);
            CHECK(m.momentum + m.variance + m.scales + m.workspace + m.other == m.total);
            const size_t n = 640 * 256, bytes[] = {4 * n, 2 * n, n + 4 * n / 128};
            const bool accumulates = c.rounding == DQT_ROUND_ACCUMULATE && number_is_code(c.storage);
            const size_t momentum = accumulates ? n : c.beta1 > 0 ? bytes[c.state] : 0;
            CHECKF(m.momentum == momentum, "%s: momentum %zu", describe(&c), m.momentum);
            const size_t variance[] = {0, bytes[c.state], 4 * (640 + 256)};
            CHECKF(m.variance == variance[c.optimizer - 1], "%s: variance %zu", describe(&c), m.variance);
            CHECK(m.scales ==
                  (t->train_scale ? (c.beta1 > 0 ? 2u : 1u) * 640 * 4 + 64 : 0)); /* 64: their unit, in a line */
            updater_destroy(u);
            CHECK(dqt_context_allocated(ctx) == before);
            tensor_destroy(t);
        }
        CHECK(dqt_context_allocated(ctx) > 0);
        dqt_context_destroy(ctx);
    }
}

/* ---- Refusals ------------------------------------------------------------------------------------------------ */

/* One element that is not finite, anywhere: an unfused step changes nothing at all. */
static void bad_gradients_change_nothing(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static float g[COUNT], gain[GAIN];
    dqt_context *contexts[] = {isa_context(DQT_ISA_SCALAR, 1), threads_context(1, DQT_THREADING_SERIAL, NULL)};
    for (size_t k = 0; k < 2; k++) {
        dqt_context *ctx = contexts[k];
        for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++) {
            const struct combination c = {DQT_FORMAT_TERNARY, optimizer, DQT_ROUND_STOCHASTIC, DQT_STATE_INT8, 0.9f};
            const dqt_updater_options o = options_of(&c, DQT_CLIP_NONE, false);
            struct training t = begin(ctx, &c, &o);
            train(&t, 0, 1, false);
            const uint64_t before = hash_all(t.u);
            for (size_t i = 0; i < COUNT; i += 611) {
                random_fill(g, COUNT, 1.0f, 1);
                random_fill(gain, GAIN, 1.0f, 1);
                g[i] = bad[i % 3];
                const struct gradient a = gradient_around(g, t.tensors[0]), b = gradient_around(gain, t.tensors[1]);
                const struct gradient *list[2] = {&a, &b};
                dqt_step_stats stats = {.struct_size = sizeof stats};
                CHECK(updater_step(t.u, list, 0.1f, &stats) == DQT_E_NUMERIC);
                CHECK(strstr(dqt_last_error(ctx), "matrix") != NULL);
                g[i] = 0.0f;
                gain[i % GAIN] = bad[i % 3]; /* the last parameter: all before it are fine */
                CHECK(updater_step(t.u, list, 0.1f, &stats) == DQT_E_NUMERIC);
                CHECK(strstr(dqt_last_error(ctx), "gain") != NULL);
            }
            CHECK(hash_all(t.u) == before);
            end(&t);
        }
        dqt_context_destroy(ctx);
    }
}

/* Fused: the tile of 64 rows stays, the others move, the end tells. */
static void bad_tiles_stay(void) {
    static float g[COUNT], gain[GAIN];
    dqt_context *ctx = threads_context(2, DQT_THREADING_HOST, backwards_for);
    for (int optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++)
        for (size_t tile = 0; tile < 2; tile++) {
            const struct combination c = {DQT_FORMAT_INT8, optimizer, DQT_ROUND_STOCHASTIC, DQT_STATE_F32, 0.9f};
            const dqt_updater_options o = options_of(&c, DQT_CLIP_PREVIOUS_NORM, true);
            struct training t = begin(ctx, &c, &o);
            train(&t, 0, 1, true);
            random_fill(g, COUNT, 1.0f, 9);
            random_fill(gain, GAIN, 1.0f, 9);
            g[tile * 64 * COLS + 7] = NAN;
            int8_t *before = codes_of(t.tensors[0]);
            const float first_gain = ((float *)(void *)t.tensors[1]->data)[0];
            const float *m = state_piece(t.u, "0.m").data, m_bad = m[tile * 64 * COLS],
                        m_good = m[(1 - tile) * 64 * COLS];
            const struct gradient a = gradient_around(g, t.tensors[0]), b = gradient_around(gain, t.tensors[1]);
            const struct gradient *list[2] = {&a, &b};
            dqt_step_stats stats = {.struct_size = sizeof stats};
            double column[COLS]; /* Adafactor: the mean of g^2 over the rows of the good tile */
            const float *have_column = state_piece(t.u, "0.column").data;
            const double factor = 1 / (*(const double *)state_piece(t.u, "norm").data + 1e-6);
            for (size_t k = 0; have_column && k < COLS; k++) {
                const size_t first = tile ? 0 : 64, last = tile ? 64 : ROWS;
                double sum = 0;
                for (size_t r = first; r < last; r++)
                    sum += pow(factor * (double)g[r * COLS + k], 2);
                column[k] = 0.95 * (double)have_column[k] + 0.05 * sum / (double)(last - first);
            }
            CHECK(fused_step(t.u, list, 0.1f, &stats) == DQT_E_NUMERIC);
            for (size_t k = 0; have_column && k < COLS; k++)
                CHECKF(fabs((double)have_column[k] / column[k] - 1) < 1e-4, "column %zu: %g, expected %g", k,
                       (double)have_column[k], column[k]);
            CHECK(strstr(dqt_last_error(ctx), "matrix") != NULL);
            int8_t *after = codes_of(t.tensors[0]);
            size_t changed[2] = {0, 0};
            for (size_t i = 0; i < COUNT; i++)
                changed[i / (64 * COLS)] += before[i] != after[i];
            CHECKF(changed[tile] == 0 && changed[1 - tile] > 0, "tile %zu: %zu and %zu codes changed", tile, changed[0],
                   changed[1]);
            CHECK(m[tile * 64 * COLS] == m_bad && m[(1 - tile) * 64 * COLS] != m_good);
            CHECK(((float *)(void *)t.tensors[1]->data)[0] != first_gain);
            CHECK(stats.step == 2 && updater_step_count(t.u) == 2 && isfinite(stats.gradient_norm));
            free(before);
            free(after);
            train(&t, 2, 4, true); /* and training goes on */
            const float *state = state_piece(t.u, optimizer == DQT_OPTIMIZER_ADAFACTOR ? "0.column" : "0.m").data;
            for (size_t i = 0; i < COLS; i++)
                CHECK(isfinite(state[i]));
            end(&t);
        }
    dqt_context_destroy(ctx);
}

/* Huge but finite gradients leave finite weights and states. */
static void huge_gradients_stay_finite(void) {
    static float g[COUNT], gain[GAIN];
    dqt_context *ctx = threads_context(1, DQT_THREADING_SERIAL, NULL);
    for (int i = 0; i < combinations(); i++) {
        struct combination c;
        if (!combination_of(i, &c) || c.rounding == DQT_ROUND_NEAREST) continue;
        const dqt_updater_options o = options_of(&c, DQT_CLIP_NONE, i % 2);
        struct training t = begin(ctx, &c, &o);
        for (int step = 0; step < 2; step++) {
            random_fill(g, COUNT, 3e38f, 1);
            random_fill(gain, GAIN, 3e38f, 2);
            const struct gradient a = gradient_around(g, t.tensors[0]), b = gradient_around(gain, t.tensors[1]);
            const struct gradient *list[2] = {&a, &b};
            OK(ctx, updater_step(t.u, list, 1e-3f, NULL));
        }
        static float row[COLS];
        for (size_t r = 0; r < ROWS; r++) {
            tensor_dequantize_row(t.tensors[0], r, row);
            for (size_t k = 0; k < COLS; k++)
                if (!isfinite(row[k]))
                    CHECKF(false, "%s: weight %zu of row %zu is %g", describe(&c), k, r, (double)row[k]);
        }
        train(&t, 0, 1, false);
        end(&t);
    }
    dqt_context_destroy(ctx);
}

static void other_refusals(void) {
    const struct combination c = {DQT_FORMAT_TERNARY, DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, DQT_STATE_F32, 0.9f};
    dqt_updater_options o = options_of(&c, DQT_CLIP_GLOBAL_NORM, false);
    dqt_context *ctx = threads_context(1, DQT_THREADING_SERIAL, NULL);
    struct training t = begin(ctx, &c, &o);
    const uint64_t before = hash_all(t.u);
    static float g[COUNT], gain[GAIN];
    const struct gradient a = gradient_around(g, t.tensors[0]), b = gradient_around(gain, t.tensors[1]);
    const struct gradient *list[2] = {&a, &b}, *swapped[2] = {&b, &a};
    CHECK(updater_step(t.u, swapped, 0.1f, NULL) == DQT_E_SHAPE);
    static const float rates[] = {-1.0f, NAN, INFINITY};
    for (int i = 0; i < 3; i++)
        CHECK(updater_step(t.u, list, rates[i], NULL) == DQT_E_ARGUMENT);
    CHECK(hash_all(t.u) == before);

    const struct update_target *code = updater_target(t.u, 0), *gain_target = updater_target(t.u, 1);
    o.beta1 = 0.0f;
    for (int rounding = DQT_ROUND_ECO_STOCHASTIC; rounding <= DQT_ROUND_ECO_NEAREST; rounding++) {
        o.rounding = rounding;
        CHECK(updater_check(ctx, code, 1, &o) == DQT_E_UNSUPPORTED);
        CHECK(updater_check(ctx, gain_target, 1, &o) == DQT_OK); /* nothing to feed back */
    }
    o.rounding = DQT_ROUND_STOCHASTIC;
    dqt_updater *u = make_updater(ctx, code, 1, &o);
    dqt_group_options group = {.struct_size = sizeof group, .lr_factor = 0.5f, .rounding = DQT_ROUND_ECO_NEAREST};
    size_t matched = 9;
    CHECK(updater_add_group(u, &group, &matched) == DQT_E_UNSUPPORTED && matched == 0);
    CHECK(updater_get_rule(u, 0).rounding == DQT_ROUND_STOCHASTIC && updater_get_rule(u, 0).lr_factor == 1.0f);
    updater_destroy(u);
    end(&t);
    dqt_context_destroy(ctx);
}

/* ECO is allowed by what an optimiser is like, here one that is not in the table: m kept, but u not linear in it. */
static void properties_decide(void) {
    dqt_context *ctx = threads_context(1, DQT_THREADING_SERIAL, NULL);
    dqt_tensor *t[2] = {make_tensor(ctx, 4, 8, DQT_FORMAT_TERNARY, false, 1),
                        make_tensor(ctx, 4, 8, DQT_FORMAT_BF16, false, 1)};
    const struct update_target code = {"code", DQT_CLASS_MLP, t[0], 0, 0},
                               number = {"number", DQT_CLASS_MLP, t[1], 0, 0};
    struct optimizer o = *optimizer_of(DQT_OPTIMIZER_SGD);
    for (int32_t rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_ECO_NEAREST; rounding++) {
        const dqt_status eco = rounding_of(rounding)->eco ? DQT_E_UNSUPPORTED : DQT_OK;
        for (int linear = 0; linear < 2; linear++) {
            o.linear = linear;
            CHECK(updater_check_rounding(ctx, &o, 0.9f, rounding, &code) == (linear ? DQT_OK : eco));
            CHECK(updater_check_rounding(ctx, &o, 0.0f, rounding, &code) == eco);
            CHECK(updater_check_rounding(ctx, &o, 0.9f, rounding, &number) == DQT_OK);
        }
    }
    char list[200];
    CHECK(strcmp(optimizer_list(list, sizeof list), "SGD 1, ADAMW 2, ADAFACTOR 3, MUON 4") == 0);
    CHECK(!optimizer_of(0) && !optimizer_of(INT32_MAX) && !state_format_of(-1) && !rounding_of(-1));
    for (int i = 0; i < 2; i++)
        tensor_destroy(t[i]);
    dqt_context_destroy(ctx);
}

/* ---- Groups -------------------------------------------------------------------------------------------------- */

/* Later groups win; freezing keeps weight, state and norm as they are; factors scale the step; zeros change nothing. */
static void groups_act(void) {
    enum { N = 8 };
    dqt_context *ctx = threads_context(1, DQT_THREADING_SERIAL, NULL);
    dqt_tensor *t[3];
    for (int i = 0; i < 3; i++)
        t[i] = make_tensor(ctx, 2, N / 2, DQT_FORMAT_F32, false, 7);
    const struct update_target targets[3] = {{"blocks.0.a", DQT_CLASS_MLP, t[0], 0, 0},
                                             {"blocks.1.a", DQT_CLASS_MLP, t[1], 0, 0},
                                             {"head", DQT_CLASS_HEAD, t[2], 0, 0}};
    const dqt_updater_options o = plain_options(DQT_OPTIMIZER_SGD, DQT_ROUND_STOCHASTIC, 0.9f);
    dqt_updater *u = make_updater(ctx, targets, 3, &o);
    size_t matched = 0;
    dqt_group_options g = {.struct_size = sizeof g, .pattern = "blocks.*", .lr_factor = 0.25f, .weight_decay = 0.5f};
    CHECK(updater_add_group(u, &g, &matched) == DQT_OK && matched == 2);
    g = (dqt_group_options){
        .struct_size = sizeof g, .pattern = "*.?.a", .parameter_class = DQT_CLASS_MLP, .lr_factor = 2.0f};
    CHECK(updater_add_group(u, &g, &matched) == DQT_OK && matched == 2);
    g = (dqt_group_options){.struct_size = sizeof g, .freeze = 1};
    CHECK(updater_add_group(u, &g, &matched) == DQT_OK && matched == 3);
    g = (dqt_group_options){.struct_size = sizeof g, .pattern = "blocks.*", .freeze = -1};
    CHECK(updater_add_group(u, &g, &matched) == DQT_OK && matched == 2);
    g = (dqt_group_options){.struct_size = sizeof g, .pattern = "*1*", .weight_decay = -1};
    CHECK(updater_add_group(u, &g, &matched) == DQT_OK && matched == 1);
    g = (dqt_group_options){.struct_size = sizeof g}; /* zeros keep everything */
    CHECK(updater_add_group(u, &g, &matched) == DQT_OK && matched == 3);
    float grad[3][N], before[3][N];
    struct gradient buffers[3];
    const struct gradient *list[3];
    for (int i = 0; i < 3; i++) {
        random_fill(grad[i], N, 1.0f, (uint64_t)i);
        memcpy(before[i], t[i]->data, sizeof before[i]);
        buffers[i] = gradient_around(grad[i], t[i]);
        list[i] = &buffers[i];
    }
    dqt_step_stats stats = {.struct_size = sizeof stats};
    OK(ctx, updater_step(u, list, 0.1f, &stats));
    double norm = 0;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < N; k++) {
            const double w = (double)before[i][k], gk = (double)grad[i][k];
            const double want = i == 2 ? w : w - 0.2 * (gk + (i == 0 ? 0.5 * w : 0));
            const double have = (double)((float *)(void *)t[i]->data)[k];
            CHECKF(fabs(have - want) < 1e-6, "parameter %d: %g, expected %g", i, have, want);
            if (i < 2) norm += gk * gk;
        }
    CHECKF(fabs(stats.gradient_norm - sqrt(norm)) < 1e-9, "norm %g, expected %g", stats.gradient_norm, sqrt(norm));
    const float *frozen = state_piece(u, "2.m").data;
    for (int k = 0; k < N; k++)
        CHECK(frozen[k] == 0.0f);
    updater_destroy(u);
    for (int i = 0; i < 3; i++)
        tensor_destroy(t[i]);
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {TEST(unfused_is_one_result),
                                    TEST(result_is_pinned),
                                    TEST(fused_is_unfused),
                                    TEST(state_goes_round),
                                    TEST(a_refusing_visitor_stops),
                                    TEST(memory_is_as_planned),
                                    TEST(bad_gradients_change_nothing),
                                    TEST(bad_tiles_stay),
                                    TEST(huge_gradients_stay_finite),
                                    TEST(other_refusals),
                                    TEST(properties_decide),
                                    TEST(groups_act)};
TEST_MAIN(tests)
