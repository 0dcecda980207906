/* Measurements: each program in bench/ includes this, times closures and reports them.
 *
 *     struct bench b = bench_begin(argc, argv, false);       // arguments: words; only names that contain one are run
 *     if (bench_wants(&b, "updater")) {
 *         struct bench_times t = bench_time(step, &argument); // median of at least 5 runs, and the worst
 *         bench_rate(&b, "updater", "4096x4096", isa, threads, &t, 16.8e6, 1e-9, "Gweight/s", limit);
 *     }
 *     return bench_end(&b);                                   // how speeds grow with threads, where several were used
 *
 * Of a word that ends in $ what is before it must end the name.
 *
 * A line of JSON per measurement is appended to build/bench.jsonl; a run of bench.c without arguments empties it
 * first. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dqt.h"

/* A line that was printed: how fast, whatever the unit. */
struct bench_result {
    char name[64], shape[64];
    int isa, threads;
    double speed;
};

struct bench {
    FILE *json;
    char **words;
    int num_words;
    bool names_isa; /* the first word was an instruction set */
    struct bench_result *results;
    size_t num_results, num_lines;
};

struct bench_times {
    double median, max; /* seconds */
};

static inline struct bench bench_begin(int argc, char **argv, bool empty) {
    struct bench b = {
        .json = fopen("build/bench.jsonl", empty && argc == 1 ? "w" : "a"), .words = argv + 1, .num_words = argc - 1};
    printf("%-22s %-20s %-7s %7s %12s %12s  %-10s %s\n", "name", "shape", "isa", "threads", "median", "worst", "unit",
           "of limit");
    return b;
}

static inline const char *bench_isa_name(int isa) {
    switch (isa) {
    case DQT_ISA_SCALAR: return "scalar";
    case DQT_ISA_AVX2: return "avx2";
    case DQT_ISA_AVX_VNNI: return "avxvnni";
    case DQT_ISA_AVX512: return "avx512";
    case DQT_ISA_VNNI: return "vnni";
    case DQT_ISA_AMX: return "amx";
    case DQT_ISA_NEON: return "neon";
    case DQT_ISA_NEON_DOTPROD: return "dotprod";
    case DQT_ISA_NEON_I8MM: return "i8mm";
    default: return "auto";
    }
}

/* The speed of a result's name, shape and instruction set on so many threads; 0: not measured. */
static inline double bench_speed(const struct bench *b, const struct bench_result *of, int threads) {
    for (size_t i = 0; i < b->num_results; i++) {
        const struct bench_result *r = &b->results[i];
        if (r->threads == threads && r->isa == of->isa && !strcmp(r->name, of->name) && !strcmp(r->shape, of->shape))
            return r->speed;
    }
    return 0;
}

/* What was measured on one thread and on more: speeds in proportion to one thread's. */
static inline void bench_scaling(const struct bench *b) {
    int most = 0;
    bool one = false;
    for (size_t i = 0; i < b->num_results; i++) {
        if (b->results[i].threads == 1) one = true;
        if (b->results[i].threads > most) most = b->results[i].threads;
    }
    if (!one || most < 2) return;
    printf("\nspeed in proportion to one thread, on 1, 2, 4, ... threads\n");
    for (size_t i = 0; i < b->num_results; i++) {
        const struct bench_result *r = &b->results[i];
        if (r->threads != 1 || r->speed <= 0) continue;
        printf("%-32s %-20s %-7s", r->name, r->shape, bench_isa_name(r->isa));
        for (int threads = 1; threads <= most; threads *= 2)
            printf(" %6.2f", bench_speed(b, r, threads) / r->speed);
        printf("\n");
    }
}

/* The program's exit status. */
static inline int bench_end(struct bench *b) {
    const bool nothing = b->num_lines == 0;
    bench_scaling(b);
    free(b->results);
    if (b->json) fclose(b->json);
    if (nothing)
        fprintf(stderr,
                "nothing was measured: no name contains one of the words, or this CPU lacks the instruction set;"
                " the file of the program says what it takes\n");
    return nothing;
}

static inline bool bench_wants(const struct bench *b, const char *name) {
    for (int i = 0; i < b->num_words; i++) {
        const char *word = b->words[i];
        const size_t length = strlen(word), all = strlen(name);
        const bool ends = length && word[length - 1] == '$'; /* $: what is before it must end the name */
        if (ends ? all >= length - 1 && strncmp(name + all - (length - 1), word, length - 1) == 0
                 : strstr(name, word) != NULL)
            return true;
    }
    return b->num_words == 0;
}

/* Aligned to a cache line, as the library's own buffers are; release with free. */
static inline void *bench_alloc(size_t size) {
    return aligned_alloc(64, (size + 63) / 64 * 64);
}

static inline void bench_next_word(struct bench *b) {
    b->words++;
    b->num_words--;
}

static inline double bench_now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int bench_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One run to warm up, then 5 to 101 runs within about a quarter of a second. */
static inline struct bench_times bench_time(void (*fn)(void *), void *arg) {
    double t[101];
    int count = 0;
    fn(arg);
    const double start = bench_now();
    do {
        const double before = bench_now();
        fn(arg);
        t[count++] = bench_now() - before;
    } while (count < 5 || (count < 101 && bench_now() - start < 0.25));
    qsort(t, (size_t)count, sizeof *t, bench_compare);
    const struct bench_times r = {t[count / 2], t[count - 1]};
    return r;
}

static inline void bench_keep(struct bench *b, const char *name, const char *shape, int isa, int threads,
                              double speed) {
    if (b->num_results % 64 == 0) {
        struct bench_result *more = realloc(b->results, (b->num_results + 64) * sizeof *more);
        if (!more) return;
        b->results = more;
    }
    struct bench_result *r = &b->results[b->num_results++];
    *r = (struct bench_result){.isa = isa, .threads = threads, .speed = speed};
    snprintf(r->name, sizeof r->name, "%s", name);
    snprintf(r->shape, sizeof r->shape, "%s", shape);
}

static inline void bench_line(struct bench *b, const char *name, const char *shape, int isa, int threads, double median,
                              double worst, const char *unit, double fraction) {
    b->num_lines++;
    printf("%-22s %-20s %-7s %7d %12.4g %12.4g  %-10s", name, shape, bench_isa_name(isa), threads, median, worst, unit);
    if (fraction > 0) printf(" %.2f", fraction);
    printf("\n");
    fflush(stdout);
    if (!b->json) return;
    fprintf(b->json,
            "{\"name\":\"%s\",\"shape\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"median\":%.6g,\"worst\":%.6g,"
            "\"unit\":\"%s\",\"fraction_of_limit\":",
            name, shape, bench_isa_name(isa), threads, median, worst, unit);
    if (fraction > 0) {
        fprintf(b->json, "%.4f}\n", fraction);
    } else {
        fprintf(b->json, "null}\n");
    }
}

/* `work` units per run, times `factor`: 1e-12 and "TOP/s", say. limit: in the same unit, 0: unknown. */
static inline double bench_rate(struct bench *b, const char *name, const char *shape, int isa, int threads,
                                const struct bench_times *t, double work, double factor, const char *unit,
                                double limit) {
    const double median = work / t->median * factor;
    bench_line(b, name, shape, isa, threads, median, work / t->max * factor, unit, limit > 0 ? median / limit : 0);
    bench_keep(b, name, shape, isa, threads, median);
    return median;
}

/* Microseconds; limit: the least possible, 0: unknown. */
static inline void bench_microseconds(struct bench *b, const char *name, const char *shape, int isa, int threads,
                                      const struct bench_times *t, double limit) {
    bench_line(b, name, shape, isa, threads, t->median * 1e6, t->max * 1e6, "us",
               limit > 0 ? limit / (t->median * 1e6) : 0);
    bench_keep(b, name, shape, isa, threads, 1 / t->median);
}

#endif
