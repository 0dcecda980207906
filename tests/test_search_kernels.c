/* The kernel of the search for scales: plain C against the formula in double; every instruction set against plain C,
 * bit for bit, at every small size, with arrays that end at a page that cannot be touched. */
#define _GNU_SOURCE
#include <float.h>

#include "core/cpu.h"
#include "format/scale.h"
#include "gemm_world.h"
#include "isa/isa.h"
#include "test.h"

enum { MOST_N = 1024 };

struct set {
    const char *name;
    search_add_fn *add;
};

/* The kernels of every cap, each once; plain C first. */
static size_t all_sets(struct set sets[ISA_CAP_COUNT]) {
    size_t count = 0;
    for (size_t i = 0; i < ISA_CAP_COUNT; i++) {
        struct kernels k;
        struct isa_choice choice;
        isa_select(&k, &choice, cpu_features() & isa_caps[i].allows);
        bool new = true;
        for (size_t j = 0; j < count; j++)
            new = new &&sets[j].add != k.search_add;
        if (new) sets[count++] = (struct set){choice.from[ISA_SLOT_search_add]->name, k.search_add};
    }
    return count;
}

/* Tries of both signs; the codes of some weights are cut off. */
static struct search search_of(int low, int high, int count, double most, bool final) {
    struct search f = {.use = {.low = low, .high = high, .half = true}, .final = final, .count = count, .most = most};
    for (int t = 0; t < SEARCH_TRIES; t++) {
        f.tries[t] = fmaxf((float)(most / high * (1.2 - 0.1 * t)), FLT_MIN) * (t % 2 ? -1.0f : 1.0f);
        f.inverse[t] = 1.0f / f.tries[t];
    }
    return f;
}

static void fill(float *w, float *importance, size_t n, double most, uint64_t seed) {
    for (size_t i = 0; i < n; i++) {
        const float x = test_uniform(&seed);
        w[i] = test_random(&seed) % 8 ? (float)(most * (double)(x * x * x)) : test_random(&seed) % 2 ? 0.0f : -0.0f;
        importance[i] = 1.0f + 0.9f * test_uniform(&seed);
    }
}

static const int ranges[][2] = {{-8, 7}, {-1, 1}, {-128, 127}};
enum { RANGES = sizeof ranges / sizeof *ranges };

static void plain_c_is_the_formula(void) {
    struct set sets[ISA_CAP_COUNT];
    float w[97], importance[97];
    all_sets(sets);
    for (int r = 0; r < RANGES; r++) {
        const struct search f = search_of(ranges[r][0], ranges[r][1], SEARCH_TRIES, 3, true);
        struct search_sums sums = {{0}, {0}};
        fill(w, importance, 97, 3, 7);
        sets[0].add(&f, &sums, w, importance, 97);
        for (int t = 0; t < SEARCH_TRIES; t++) {
            double product = 0, square = 0;
            for (int i = 0; i < 97; i++) {
                const double q = fmin(fmax(rint((double)(w[i] * f.inverse[t])), ranges[r][0]), ranges[r][1]);
                product += (double)w[i] * q * (double)importance[i];
                square += q * q * (double)importance[i];
            }
            CHECKF(fabs(sums.product[t] - product) <= 1e-12 * fabs(product) &&
                       fabs(sums.square[t] - square) <= 1e-12 * square,
                   "range %d, try %d: %.17g and %.17g, not %.17g and %.17g", r, t, sums.product[t], sums.square[t],
                   product, square);
        }
    }
}

static bool same(const struct search *f, const struct search_sums *a, const struct search_sums *b) {
    const size_t bytes = (size_t)f->count * sizeof(double);
    return memcmp(a->product, b->product, bytes) == 0 && memcmp(a->square, b->square, bytes) == 0;
}

static void check_sets(const struct set *sets, size_t num_sets, const struct search *f, const float *w,
                       const float *importance, size_t n) {
    struct search_sums expected = {{0}, {0}};
    for (size_t s = 0; s < num_sets; s++) {
        struct search_sums sums = {{0.5, -3, 1e30}, {1, 2, 3}}; /* what is there stays */
        sets[s].add(f, &sums, w, importance, n);
        if (s == 0) expected = sums;
        CHECKF(same(f, &expected, &sums), "%s: %zu weights up to %g, %d tries, %d to %d, final %d, importance %d",
               sets[s].name, n, f->most, f->count, f->use.low, f->use.high, f->final, importance != NULL);
    }
}

static void sets_agree(void) {
    static const double mosts[] = {2, 1e-3, 0x1p101, 0x1p-101, 1e-38};
    struct set sets[ISA_CAP_COUNT];
    const size_t num_sets = all_sets(sets);
    float *const w = guard_alloc(MOST_N * sizeof *w), *const importance = guard_alloc(MOST_N * sizeof *w);
    for (size_t n = 0; n <= MOST_N; n = n < 70 ? n + 1 : n < 256 ? 256 : n + 256)
        for (size_t m = 0; m < sizeof mosts / sizeof *mosts; m++)
            for (int variant = 0; variant < 4 * RANGES; variant++) {
                const int *range = ranges[variant / 4], count = 1 + (int)(n + m) % SEARCH_TRIES;
                const struct search f = search_of(range[0], range[1], count, mosts[m], variant % 2);
                float *const w_end = w + (MOST_N - n), *const importance_end = importance + (MOST_N - n);
                fill(w_end, importance_end, n, mosts[m], n * 100 + m);
                check_sets(sets, num_sets, &f, w_end, variant % 4 < 2 ? NULL : importance_end, n);
            }
    guard_free_all();
}

static const struct test tests[] = {TEST(plain_c_is_the_formula), TEST(sets_agree)};
TEST_MAIN(tests)
