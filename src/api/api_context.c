/* Version and context. */
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "core/cpu.h"
#include "core/memory.h"
#include "core/options.h"
#include "kernels/kernels.h"

#define TEXT(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

enum { MAX_THREADS = 1024 };

uint32_t dqt_version(void) {
    return DQT_VERSION_MAJOR * 10000 + DQT_VERSION_MINOR * 100 + DQT_VERSION_PATCH;
}

const char *dqt_version_string(void) {
    return VERSION_TEXT(DQT_VERSION_MAJOR, DQT_VERSION_MINOR, DQT_VERSION_PATCH);
}

static void *libc_alloc(void *user_data, size_t size, size_t align) {
    (void)user_data;
    return aligned_alloc(align, round_up(size, align));
}

static void libc_free(void *user_data, void *ptr, size_t size, size_t align) {
    (void)user_data;
    (void)size;
    (void)align;
    free(ptr);
}

static const dqt_context_options context_defaults = {
    .struct_size = sizeof(dqt_context_options),
    .log_level = DQT_LOG_WARNING,
};

dqt_status dqt_context_options_init(dqt_context_options *options, size_t struct_size) {
    return options_init(options, struct_size, &context_defaults, sizeof context_defaults, "dqt_context_options");
}

static dqt_status resolve_threads(const dqt_context_options *o, int *threading, int *threads) {
#ifdef _OPENMP
    const bool openmp = true;
#else
    const bool openmp = false;
#endif
    if (o->threading < DQT_THREADING_AUTO || o->threading > DQT_THREADING_HOST)
        return fail(NULL, DQT_E_ARGUMENT, "threading is %d; it must be a DQT_THREADING_* value", o->threading);
    if (o->num_threads < 0 || o->num_threads > MAX_THREADS)
        return fail(NULL, DQT_E_ARGUMENT, "num_threads is %d; it must be 0 to %d", o->num_threads, MAX_THREADS);
    *threading = o->threading;
    if (*threading == DQT_THREADING_AUTO)
        *threading = o->parallel_for ? DQT_THREADING_HOST : openmp ? DQT_THREADING_OPENMP : DQT_THREADING_SERIAL;
    if (*threading == DQT_THREADING_OPENMP && !openmp)
        return fail(NULL, DQT_E_UNSUPPORTED, "threading is OPENMP but this library was built without OpenMP");
    if (*threading == DQT_THREADING_HOST && !o->parallel_for)
        return fail(NULL, DQT_E_ARGUMENT, "threading is HOST but parallel_for is NULL");
    *threads = o->num_threads ? o->num_threads : 1;
#ifdef _OPENMP
    if (*threading == DQT_THREADING_OPENMP && !o->num_threads) *threads = omp_get_max_threads();
#endif
    if (*threading == DQT_THREADING_SERIAL) *threads = 1;
    if (*threads > MAX_THREADS) *threads = MAX_THREADS;
    return DQT_OK;
}

static dqt_status resolve_isa(const dqt_context_options *o, uint64_t features, int *isa) {
    int cap = o->isa;
    const char *name = getenv("DQT_ISA"); /* the documented override for tests */
    if (cap != DQT_ISA_AUTO && cap != DQT_ISA_SCALAR && cap != DQT_ISA_NEON &&
        (cap < DQT_ISA_AVX2 || cap > DQT_ISA_AMX || cap % 10))
        return fail(NULL, DQT_E_ARGUMENT, "isa is %d; it must be a DQT_ISA_* value", o->isa);
#if !defined(__x86_64__)
    if (cap >= DQT_ISA_AVX2 && cap <= DQT_ISA_AMX)
        return fail(NULL, DQT_E_UNSUPPORTED, "isa is %d, an x86-64 instruction set, on another architecture", o->isa);
#endif
#if !defined(__aarch64__)
    if (cap == DQT_ISA_NEON) return fail(NULL, DQT_E_UNSUPPORTED, "isa is NEON on another architecture than AArch64");
#endif
    if (name && *name) {
        int limit = cpu_isa_from_name(name);
        if (!limit)
            return fail(NULL, DQT_E_ARGUMENT,
                        "DQT_ISA is \"%.20s\"; it must be scalar, avx2, avx512, vnni, amx or neon", name);
        if (cap == DQT_ISA_AUTO || limit < cap) cap = limit;
    }
    bool amx = (cap == DQT_ISA_AUTO || cap >= DQT_ISA_AMX) && !o->forbid_amx && (features & DQT_CPU_AMX_INT8) &&
               cpu_request_amx();
    *isa = cpu_best_isa(features, cap, amx);
    return DQT_OK;
}

dqt_status dqt_context_create(const dqt_context_options *options, dqt_context **out) {
    if (!out) return fail(NULL, DQT_E_ARGUMENT, "out is NULL");
    *out = NULL;
    last_error_clear();
    dqt_context_options o = context_defaults;
    TRY(options_read(NULL, &o, sizeof o, options, "dqt_context_options"));
    if (!o.alloc != !o.free) return fail(NULL, DQT_E_ARGUMENT, "alloc and free must both be set or both be NULL");
    if (o.log_level < 0 || o.log_level > DQT_LOG_INFO)
        return fail(NULL, DQT_E_ARGUMENT, "log_level is %d; it must be 0 or a DQT_LOG_* value", o.log_level);
    if (o.forbid_amx != 0 && o.forbid_amx != 1)
        return fail(NULL, DQT_E_ARGUMENT, "forbid_amx is %d; it must be 0 or 1", o.forbid_amx);

    dqt_context c = {.alloc = o.alloc ? o.alloc : libc_alloc,
                     .free = o.free ? o.free : libc_free,
                     .alloc_user_data = o.alloc_user_data,
                     .parallel_for = o.parallel_for,
                     .parallel_user_data = o.parallel_user_data,
                     .log = o.log,
                     .log_user_data = o.log_user_data,
                     .log_level = o.log_level,
                     .cpu_features = cpu_features()};
    TRY(resolve_threads(&o, &c.threading, &c.num_threads));
    TRY(resolve_isa(&o, c.cpu_features, &c.isa));

    dqt_context *ctx = memory_alloc(&c, sizeof *ctx);
    c.kernels = ctx ? memory_alloc(&c, sizeof *c.kernels) : NULL;
    if (!c.kernels) {
        memory_free(&c, ctx, sizeof *ctx);
        return fail(NULL, DQT_E_MEMORY, "no memory for a context");
    }
    kernels_select(c.kernels, c.isa, c.cpu_features);
    memcpy(ctx, &c, sizeof c);
    *out = ctx;
    return DQT_OK;
}

void dqt_context_destroy(dqt_context *ctx) {
    if (!ctx) return;
    dqt_context c;
    memcpy(&c, ctx, sizeof c);
    memory_free(&c, c.kernels, sizeof *c.kernels);
    memory_free(&c, ctx, sizeof *ctx);
}

const char *dqt_last_error(const dqt_context *ctx) {
    return last_error(ctx);
}

uint64_t dqt_cpu_features(const dqt_context *ctx) {
    return ctx ? ctx->cpu_features : 0;
}

int32_t dqt_context_isa(const dqt_context *ctx) {
    return ctx ? ctx->isa : 0;
}

int32_t dqt_context_num_threads(const dqt_context *ctx) {
    return ctx ? ctx->num_threads : 0;
}

size_t dqt_context_allocated(const dqt_context *ctx) {
    return ctx ? atomic_load(&ctx->allocated) : 0;
}
