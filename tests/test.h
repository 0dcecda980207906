/* The test harness: each test program is a list of functions; TEST_MAIN prints "name: N passed, N failed[, N skipped]".
 * A failed check prints where and why, and the function goes on to its end. */
#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
    const char *name;
    void (*run)(void);
};

static int test_failures; /* in the current function */
static bool test_skipped;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            test_failures++;                                                                                           \
            printf("%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #condition);                             \
        }                                                                                                              \
    } while (0)

/* As CHECK, with a printf sentence about the values. */
#define CHECKF(condition, ...)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            test_failures++;                                                                                           \
            printf("%s:%d: %s: not true: %s: ", __FILE__, __LINE__, __func__, #condition);                             \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
        }                                                                                                              \
    } while (0)

/* The call returns DQT_OK. Needs dqt.h; `ctx` gives the sentence. */
#define OK(ctx, call)                                                                                                  \
    do {                                                                                                               \
        dqt_status test_status = (call);                                                                               \
        CHECKF(test_status == DQT_OK, "%s: %s", dqt_status_string(test_status), dqt_last_error(ctx));                  \
    } while (0)

#define SKIP(why)                                                                                                      \
    do {                                                                                                               \
        printf("%s: skipped: %s\n", __func__, why);                                                                    \
        test_skipped = true;                                                                                           \
        return;                                                                                                        \
    } while (0)

#define TEST(f)                                                                                                        \
    { #f, f }

static int test_main(const char *program, const struct test *tests, size_t count, const char *only) {
    int passed = 0, failed = 0, skipped = 0;
    for (size_t i = 0; i < count; i++) {
        if (only && !strstr(tests[i].name, only)) continue;
        test_failures = 0;
        test_skipped = false;
        tests[i].run();
        if (test_failures) {
            failed++;
            printf("FAILED %s\n", tests[i].name);
        } else if (test_skipped) {
            skipped++;
        } else {
            passed++;
        }
        fflush(stdout);
    }
    const char *base = strrchr(program, '/');
    printf("%s: %d passed, %d failed, %d skipped\n", base ? base + 1 : program, passed, failed, skipped);
    return failed ? 1 : 0;
}

/* One argument: run only tests whose name contains it. */
#define TEST_MAIN(list)                                                                                                \
    int main(int argc, char **argv) {                                                                                  \
        return test_main(argv[0], list, sizeof(list) / sizeof *(list), argc > 1 ? argv[1] : NULL);                     \
    }

/* A small fixed-seed generator for test data. */
static inline uint64_t test_random(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
/* Uniform in [-1, 1). */
static inline float test_uniform(uint64_t *state) {
    return (float)((double)(test_random(state) >> 11) * 0x1p-52 - 1.0);
}

#endif
