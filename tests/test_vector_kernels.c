/* Row and elementwise kernels: exp against the C library's in double; every instruction set against the scalar one, bit
 * for bit, at every small size, with arrays that begin or end at an unmapped page. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "core/cpu.h"
#include "dqt.h"
#include "format/format.h"
#include "isa/isa.h"
#include "test.h"

enum { PAGE_FLOATS = 1024, MAX_N = 131, ARRAYS = 6 };

struct set {
    const char *name;
    struct vector_kernels k;
};

/* The kernels of every cap, each once. */
static size_t all_sets(struct set sets[ISA_CAP_COUNT]) {
    size_t count = 0;
    for (size_t i = 0; i < ISA_CAP_COUNT; i++) {
        struct kernels k;
        struct isa_choice choice;
        isa_select(&k, &choice, cpu_features() & isa_caps[i].allows);
        bool new = true;
        for (size_t j = 0; j < count; j++)
            new = new &&sets[j].k.dot != k.vector.dot;
        if (new) sets[count++] = (struct set){choice.from[ISA_SLOT_vector]->name, k.vector};
    }
    return count;
}

/* One page between two that are not mapped. */
static float *guarded_page(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = PAGE_FLOATS * sizeof(float);
    bytes = (bytes + page - 1) / page * page;
    char *p = mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + page, bytes, PROT_READ | PROT_WRITE)) abort();
    return (float *)(void *)(p + page);
}

static size_t page_floats(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = PAGE_FLOATS * sizeof(float);
    return (bytes + page - 1) / page * page / sizeof(float);
}

static double exp_error(const struct vector_kernels *k, float x) {
    float y;
    k->exp_sum(&x, 1, 0, &y);
    double exact = exp((double)x);
    if (exact < 0x1p-126) return y == 0 ? 0 : 1e9;
    if (exact > (double)0x1.fffffep127f) return y == INFINITY || y >= 0x1.fffffcp127f ? 0 : 1e9;
    int e;
    frexp(exact, &e);
    return fabs((double)y - exact) / ldexp(1, e - 24);
}

static void test_exp(void) {
    struct set sets[ISA_CAP_COUNT];
    size_t count = all_sets(sets);
    for (size_t s = 0; s < count; s++) {
        double worst = 0;
        float at = 0;
        for (uint64_t bits = 0; bits < 0x100000000u; bits += 1021) {
            uint32_t u = (uint32_t)bits;
            float x;
            memcpy(&x, &u, 4);
            if (x != x || fabsf(x) > 1000) continue;
            double e = exp_error(&sets[s].k, x);
            if (e > worst) {
                worst = e;
                at = x;
            }
        }
        for (int i = -110000; i < 110000; i++) { /* dense where results are ordinary, and around both ends */
            double e = exp_error(&sets[s].k, (float)i * 0.001f);
            if (e > worst) {
                worst = e;
                at = (float)i * 0.001f;
            }
        }
        CHECKF(worst <= 1, "%s: %g units in the last place at %.9g", sets[s].name, worst, (double)at);
        float special[] = {INFINITY, -INFINITY, NAN, -NAN, 0, -0.0f, 1e30f, -1e30f, 88.8f, -87.4f, 0x1p-149f};
        float out[sizeof special / 4];
        sets[s].k.exp_sum(special, sizeof special / 4, 0, out);
        CHECK(out[0] == INFINITY && out[1] == 0 && out[2] != out[2] && out[3] != out[3] && out[4] == 1 && out[5] == 1);
        CHECK(out[6] == INFINITY && out[7] == 0 && out[8] == INFINITY && out[9] == 0 && out[10] == 1);
    }
}

/* Operation `op` on arrays a[0..5]; returns what it returns. */
enum { OPS = 19 };
static float apply(const struct vector_kernels *k, int op, size_t n, float *const a[ARRAYS]) {
    switch (op) {
    case 0: return k->sum_squares(a[0], n);
    case 1: return k->dot3(a[0], a[1], a[2], n);
    case 2: return k->maximum(a[0], n);
    case 3: return k->exp_sum(a[0], n, 0.25f, a[3]);
    case 4: return k->exp_sum(a[0], n, -0.5f, NULL);
    case 5: k->norm_row(a[0], a[1], 0.7f, n, a[3]); return 0;
    case 6: k->norm_gradient_row(a[0], a[1], a[2], 0.7f, 0.3f, n, true, a[3], a[4]); return 0;
    case 7: k->norm_gradient_row(a[0], a[1], a[2], 0.7f, 0.3f, n, false, a[0], NULL); return 0;
    case 8: k->add(a[0], n, a[3]); return 0;
    case 9: k->swiglu(a[0], a[1], n, a[0]); return 0;
    case 10: k->swiglu_gradient(a[0], a[1], a[2], n, a[0], a[2]); return 0;
    case 11: k->squared_relu(a[0], n, a[3]); return 0;
    case 12: k->squared_relu_gradient(a[0], a[1], n, a[1]); return 0;
    case 13: return k->dot(a[0], a[1], n);
    case 14: k->scale(a[0], n, 0.7f, a[3]); return 0;
    case 15: k->multiply(a[0], n, a[3]); return 0;
    case 16: k->gated_squared_relu(a[0], a[1], n, a[0]); return 0;
    case 17: k->gated_squared_relu_gradient(a[0], a[1], a[2], n, a[0], a[2]); return 0;
    default: k->softmax_scale(a[0], n, 0.4f, 1.7f); return 0;
    }
}

static void fill(float *const a[ARRAYS], size_t n, uint64_t seed) {
    for (size_t i = 0; i < ARRAYS; i++)
        for (size_t j = 0; j < n; j++)
            a[i][j] = 4 * test_uniform(&seed);
}

static void test_sets_agree(void) {
    struct set sets[ISA_CAP_COUNT];
    size_t count = all_sets(sets), room = page_floats();
    float *page[ARRAYS], *a[ARRAYS], expected[ARRAYS][MAX_N];
    for (size_t i = 0; i < ARRAYS; i++)
        page[i] = guarded_page();
    for (int op = 0; op < OPS; op++)
        for (size_t n = 0; n <= MAX_N; n++)
            for (int at_end = 0; at_end < 2; at_end++) {
                float result = 0;
                for (size_t i = 0; i < ARRAYS; i++)
                    a[i] = at_end ? page[i] + room - n : page[i];
                for (size_t s = 0; s < count; s++) {
                    fill(a, n, n * 100 + (size_t)op);
                    float r = apply(&sets[s].k, op, n, a);
                    if (s == 0) {
                        result = r;
                        for (size_t i = 0; i < ARRAYS; i++)
                            memcpy(expected[i], a[i], n * sizeof(float));
                        continue;
                    }
                    CHECKF(memcmp(&r, &result, 4) == 0, "%s: operation %d, n %zu: %.9g, scalar %.9g", sets[s].name, op,
                           n, (double)r, (double)result);
                    for (size_t i = 0; i < ARRAYS; i++)
                        CHECKF(memcmp(expected[i], a[i], n * sizeof(float)) == 0, "%s: operation %d, n %zu, array %zu",
                               sets[s].name, op, n, i);
                }
            }
}

static void test_rope_rows(void) {
    struct set sets[ISA_CAP_COUNT];
    size_t count = all_sets(sets), room = page_floats();
    float *page[3] = {guarded_page(), guarded_page(), guarded_page()}, expected[PAGE_FLOATS];
    for (size_t half = 1; half <= 40; half++)
        for (size_t s = 0; s < count; s++) {
            size_t heads = 3, n = heads * 2 * half;
            float *x = page[0] + room - n, *cosines = page[1] + room - half, *sines = page[2] + room - half;
            uint64_t seed = half;
            for (size_t i = 0; i < n; i++)
                x[i] = test_uniform(&seed);
            for (size_t i = 0; i < half; i++) {
                cosines[i] = test_uniform(&seed);
                sines[i] = test_uniform(&seed);
            }
            sets[s].k.rope_row(x, heads, half, cosines, sines, -1);
            if (s == 0)
                memcpy(expected, x, n * sizeof *x);
            else
                CHECKF(memcmp(expected, x, n * sizeof *x) == 0, "%s: half %zu", sets[s].name, half);
        }
}

/* Of a row of the cache that lies at the end of a page: element i, in any format. */
static double cached_value(const void *row, size_t i, int32_t format) {
    if (format == DQT_CACHE_BF16) return (double)bf16_to_f32(((const uint16_t *)row)[i]);
    if (format == DQT_CACHE_INT8) return (double)((const int8_t *)row)[i];
    return (double)((const float *)row)[i];
}

static void cached_set(void *row, size_t i, int32_t format, float x) {
    if (format == DQT_CACHE_BF16) ((uint16_t *)row)[i] = f32_to_bf16(x);
    if (format == DQT_CACHE_INT8) ((int8_t *)row)[i] = (int8_t)(x * 127.0f);
    if (format == DQT_CACHE_F32) ((float *)row)[i] = x;
}

static void check_cached_kernels(const struct set *set, int32_t format, char *k_end, float *q_end, float *out_end,
                                 float *scores_end, size_t size, size_t keys) {
    const size_t ld = size + 2, span = (keys - 1) * ld + size, bytes = cache_element_bytes(format);
    void *k = k_end - span * bytes;
    float *q = q_end - size, *out = out_end - size, *scores = scores_end - keys;
    const double tolerance = format == DQT_CACHE_INT8 ? 1e-3 : 1e-5; /* codes are a hundred times larger */
    uint64_t seed = size * 10 + keys;
    for (size_t i = 0; i < span; i++)
        cached_set(k, i, format, test_uniform(&seed));
    for (size_t i = 0; i < size; i++) {
        q[i] = test_uniform(&seed);
        out[i] = 1;
    }
    set->k.attention_scores[format](q, k, ld, keys, size, 0.5f, scores);
    for (size_t j = 0; j < keys; j++) {
        double sum = 0;
        for (size_t i = 0; i < size; i++)
            sum += (double)q[i] * cached_value(k, j * ld + i, format);
        CHECKF(fabs(sum * 0.5 - (double)scores[j]) < tolerance, "%s, format %d: head size %zu, key %zu", set->name,
               format, size, j);
        scores[j] /= format == DQT_CACHE_INT8 ? 127.0f : 1.0f;
    }
    set->k.attention_mix[format](scores, k, ld, keys, size, 0.25f, out);
    for (size_t i = 0; i < size; i++) {
        double sum = 0.25;
        for (size_t j = 0; j < keys; j++)
            sum += (double)scores[j] * cached_value(k, j * ld + i, format);
        CHECKF(fabs(sum - (double)out[i]) < tolerance, "%s, format %d: head size %zu, column %zu", set->name, format,
               size, i);
    }
}

/* Rows that follow each other, to the end of their page, become floats; each is a product of one rounding. */
static void check_widen(const struct set *set, int32_t format, char *x_end, float *steps_end, float *out_end,
                        size_t size, size_t rows) {
    const size_t ldo = size + 1;
    void *x = x_end - rows * size * cache_element_bytes(format);
    float *steps = steps_end - rows, *out = out_end - ((rows - 1) * ldo + size);
    uint64_t seed = size * 10 + rows;
    for (size_t i = 0; i < rows * size; i++)
        cached_set(x, i, format, test_uniform(&seed));
    for (size_t r = 0; r < rows; r++)
        steps[r] = test_uniform(&seed);
    for (int with = 0; with < 2; with++) {
        for (float *p = out; p < out_end; p++)
            *p = -7;
        set->k.attention_widen[format](x, with ? steps : NULL, rows, size, out, ldo);
        for (size_t i = 0; i < (rows - 1) * ldo + size; i++) {
            const size_t r = i / ldo, c = i % ldo;
            const float value = c < size ? (float)cached_value(x, r * size + c, format) : 0;
            CHECKF(out[i] == (c == size ? -7
                              : with    ? value * steps[r]
                                        : value),
                   "%s, format %d: size %zu, row %zu, %zu", set->name, format, size, r, c);
        }
    }
}

/* The kernels of generation read the cache directly: nothing beyond the last head. */
static void test_cached_kernels(void) {
    struct set sets[ISA_CAP_COUNT];
    size_t count = all_sets(sets), room = page_floats();
    float *kp = guarded_page(), *qp = guarded_page(), *op = guarded_page(), *sp = guarded_page();
    for (size_t s = 0; s < count; s++)
        for (int32_t format = 0; format < CACHE_FORMATS; format++)
            for (size_t size = 16; size <= 100; size += 6)
                for (size_t keys = 1; keys <= 9; keys++) {
                    check_cached_kernels(&sets[s], format, (char *)(kp + room), qp + room, op + room, sp + room, size,
                                         keys);
                    check_widen(&sets[s], format, (char *)(kp + room), sp + room, op + room, size, keys);
                }
}

static void test_transpose(void) {
    struct set sets[ISA_CAP_COUNT];
    size_t count = all_sets(sets), room = page_floats();
    float *page = guarded_page(), out[64 * 64];
    for (size_t s = 0; s < count; s++)
        for (size_t rows = 1; rows <= 64; rows++)
            for (size_t cols = 1; cols * rows <= 1024 && cols <= 64; cols += rows > 8 ? 5 : 1) {
                float *x = page + room - rows * cols;
                for (size_t i = 0; i < rows * cols; i++)
                    x[i] = (float)i + 1;
                memset(out, 0xff, sizeof out);
                sets[s].k.attention_transpose(x, cols, rows, cols, 2, out, 64);
                bool good = true;
                for (size_t c = 0; c < cols; c++)
                    for (size_t r = 0; r < (rows + 31) / 32 * 32; r++)
                        good = good && out[c * 64 + r] == (r < rows ? 2 * ((float)(r * cols + c) + 1) : 0);
                CHECKF(good, "%s: %zu x %zu", sets[s].name, rows, cols);
            }
}

static const struct test tests[] = {TEST(test_exp), TEST(test_sets_agree), TEST(test_rope_rows),
                                    TEST(test_cached_kernels), TEST(test_transpose)};
TEST_MAIN(tests)
