/* Limits of the machine, measured in the run that compares with them. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include "bench.h"
#include "core/parallel.h"
#include "limits.h"

enum { MAX_THREADS = 64 };

/* What 1, 2, 4, ... threads go up to: the CPUs that the library finds. */
static inline int machine_threads(void) {
    dqt_context *ctx;
    if (dqt_context_create(NULL, &ctx) != DQT_OK) return 1;
    const int threads = dqt_context_num_threads(ctx);
    dqt_context_destroy(ctx);
    return threads < MAX_THREADS ? threads : MAX_THREADS;
}

/* The number of threads that the first word is; 0: it is none. */
static inline int machine_take_threads(struct bench *b) {
    const int threads = b->num_words ? atoi(b->words[0]) : 0;
    if (threads <= 0 || threads > MAX_THREADS || b->words[0][strspn(b->words[0], "0123456789")]) return 0;
    bench_next_word(b);
    return threads;
}

/* NULL: not to be had here. */
static inline dqt_context *machine_context(int isa, int threads) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.num_threads = threads;
    if (dqt_context_create(&o, &ctx) != DQT_OK) return NULL;
    if (dqt_context_isa(ctx) == isa && dqt_context_num_threads(ctx) == threads) return ctx;
    dqt_context_destroy(ctx);
    return NULL;
}

struct limit_run {
    const dqt_context *ctx;
    task_fn item;
    limit_fn fn;
    double work; /* of one lane */
    float *x;
    size_t count; /* floats of one lane */
    float sink[MAX_THREADS];
};

static inline void limit_compute_task(void *arg, size_t item, int lane) {
    struct limit_run *r = arg;
    (void)lane;
    const double work = r->fn();
    if (item == 0) r->work = work;
}
static inline void limit_read_task(void *arg, size_t item, int lane) {
    struct limit_run *r = arg;
    (void)lane;
    r->sink[item] = limit_read(r->x + item * r->count, r->count);
}
static inline void limit_triad_task(void *arg, size_t item, int lane) {
    struct limit_run *r = arg;
    (void)lane;
    float *x = r->x + item * r->count;
    const size_t third = r->count / 3;
    limit_triad(x, x + third, x + 2 * third, third);
}

static inline void limit_run(void *arg) {
    struct limit_run *r = arg;
    parallel_run(r->ctx, (size_t)r->ctx->num_threads, 1e9, r->item, r);
}

/* T(FL)OP/s of a loop over registers; 0: no such instructions. */
static inline double machine_compute(struct bench *b, enum limit what, const dqt_context *ctx) {
    static const char *const names[] = {"limit int8", "limit bf16", "limit f32"};
    const int isa = dqt_context_isa(ctx), threads = ctx->num_threads;
    struct limit_run r = {
        .ctx = ctx, .item = limit_compute_task, .fn = limit_of(what, isa, dqt_context_cpu_features(ctx))};
    if (!r.fn) return 0;
    const struct bench_times t = bench_time(limit_run, &r);
    return bench_rate(b, names[what], "registers", isa, threads, &t, 2 * r.work * threads, 1e-12,
                      what == LIMIT_INT8 ? "TOP/s" : "TFLOP/s", 0);
}

/* GB/s of reading, or of a[i] = b[i] + c[i] (two reads and a write), `mib` MiB a thread. */
static inline double machine_memory(struct bench *b, bool triad, size_t mib, int threads) {
    dqt_context *ctx = machine_context(DQT_ISA_SCALAR, threads);
    if (!ctx) return 0;
    struct limit_run r = {.ctx = ctx, .item = triad ? limit_triad_task : limit_read_task, .count = mib << 18};
    const size_t total = r.count * (size_t)threads;
    char shape[32];
    snprintf(shape, sizeof shape, "%zu MiB a thread", mib);
    r.x = bench_alloc(total * sizeof(float));
    for (size_t i = 0; i < total; i++)
        r.x[i] = 1.0f;
    const struct bench_times t = bench_time(limit_run, &r);
    const double rate = bench_rate(b, triad ? "limit triad" : "limit read", shape, DQT_ISA_SCALAR, threads, &t,
                                   (double)total * 4.0, 1e-9, "GB/s", 0);
    free(r.x);
    dqt_context_destroy(ctx);
    return rate;
}

/* measure(isa, threads) for all instruction sets and 1, 2, 4, ... threads, or for those that the first words name. */
static inline void machine_for_each(struct bench *b, void (*measure)(struct bench *b, int isa, int threads)) {
    static const int isas[] = {DQT_ISA_AMX,       DQT_ISA_VNNI,         DQT_ISA_AVX512, DQT_ISA_AVX_VNNI, DQT_ISA_AVX2,
                               DQT_ISA_NEON_I8MM, DQT_ISA_NEON_DOTPROD, DQT_ISA_NEON,   DQT_ISA_SCALAR};
    int only = 0;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if (b->num_words && strcmp(b->words[0], bench_isa_name(isas[i])) == 0) only = isas[i];
    if (only) bench_next_word(b);
    b->names_isa = only != 0;
    const int named = machine_take_threads(b), most = named ? named : machine_threads();
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        for (int threads = named ? named : 1; threads <= most; threads *= 2)
            if (!only || only == isas[i]) measure(b, isas[i], threads);
}

#endif
