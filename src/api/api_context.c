/* Version and context. */
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#include <malloc.h> /* _aligned_malloc */
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#include "core/contention.h"
#include "core/cpu.h"
#include "core/memory.h"
#include "core/options.h"
#include "core/parallel.h"
#include "core/process.h"
#include "isa/isa.h"

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
#if defined(_WIN32)
    return _aligned_malloc(size, align);
#else
    return aligned_alloc(align, round_up(size, align));
#endif
}

static void libc_free(void *user_data, void *ptr, size_t size, size_t align) {
    (void)user_data;
    (void)size;
    (void)align;
#if defined(_WIN32)
    _aligned_free(ptr);
#else
    free(ptr);
#endif
}

static const dqt_context_options context_defaults = {
    .struct_size = sizeof(dqt_context_options),
    .log_level = DQT_LOG_WARNING,
};

dqt_status dqt_context_options_init(dqt_context_options *options, size_t struct_size) {
    return options_init(options, struct_size, &context_defaults, sizeof context_defaults, "dqt_context_options");
}

/* OpenMP's own default, which the host or OMP_NUM_THREADS may have set, but no more than the processors that this
 * thread may use and that control groups grant. */
static int default_threads(void) {
    int threads = 1;
#ifdef _OPENMP
    const int quota = process_cpu_quota("");
    threads = omp_get_max_threads() < omp_get_num_procs() ? omp_get_max_threads() : omp_get_num_procs();
    if (quota && quota < threads) threads = quota;
#endif
    return threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
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
    /* In the child of a fork OpenMP's threads may be missing: there the host must vouch for them by name, and cannot
     * where this library's own use may have started them. */
    const enum process_history history = *threading == DQT_THREADING_OPENMP ? process_history() : PROCESS_WHOLE;
    if (history == PROCESS_FORKED_LATER || (history == PROCESS_FORKED && o->threading == DQT_THREADING_AUTO))
        *threading = DQT_THREADING_SERIAL;
    *threads = o->num_threads ? o->num_threads : *threading == DQT_THREADING_OPENMP ? default_threads() : 1;
    if (*threading == DQT_THREADING_SERIAL) *threads = 1;
    return DQT_OK;
}

/* The features that kernels may use: what the CPU has, the option and the environment allow, and the system grants. */
static dqt_status resolve_features(const dqt_context_options *o, uint64_t features, uint64_t *usable) {
    *usable = features;
    if (o->isa != DQT_ISA_AUTO) {
        const struct isa_cap *cap = isa_cap_find(o->isa);
        if (!cap) return fail(NULL, DQT_E_ARGUMENT, "isa is %d; it must be a DQT_ISA_* value", o->isa);
        if (cap->allows && !(cap->allows & CPU_ARCHITECTURE_FEATURES))
            return fail(NULL, DQT_E_UNSUPPORTED, "isa is %d (%s), an instruction set of another architecture", o->isa,
                        cap->name);
        *usable &= cap->allows;
    }
    const char *name = getenv("DQT_ISA"); /* the documented override for tests */
    if (name && *name) {
        const struct isa_cap *cap = isa_cap_find_name(name);
        if (!cap) {
            char names[ISA_CAP_NAMES];
            isa_cap_names(names);
            return fail(NULL, DQT_E_ARGUMENT, "DQT_ISA is \"%.20s\"; it must be one of %s", name, names);
        }
        *usable &= cap->allows;
    }
    const uint64_t amx = DQT_CPU_AMX_INT8 | DQT_CPU_AMX_BF16;
    if ((*usable & amx) && (o->forbid_amx || !cpu_request_amx())) *usable &= ~amx;
    return DQT_OK;
}

dqt_status dqt_context_create(const dqt_context_options *options, dqt_context **out) {
    if (!out) return fail(NULL, DQT_E_ARGUMENT, "out is NULL");
    *out = NULL;
    dqt_context_options o = context_defaults;
    TRY(options_read(NULL, &o, sizeof o, options, "dqt_context_options"));
    if (o.log_level == 0) o.log_level = DQT_LOG_WARNING;
    if (!o.alloc != !o.free) return fail(NULL, DQT_E_ARGUMENT, "alloc and free must both be set or both be NULL");
    if (o.log_level < 0 || o.log_level > DQT_LOG_INFO)
        return fail(NULL, DQT_E_ARGUMENT, "log_level is %d; it must be 0 or a DQT_LOG_* value", o.log_level);
    if (o.forbid_amx != 0 && o.forbid_amx != 1)
        return fail(NULL, DQT_E_ARGUMENT, "forbid_amx is %d; it must be 0 or 1", o.forbid_amx);

    dqt_context c = {.serial = context_serial(),
                     .alloc = o.alloc ? o.alloc : libc_alloc,
                     .free = o.free ? o.free : libc_free,
                     .alloc_user_data = o.alloc_user_data,
                     .parallel_for = o.parallel_for,
                     .parallel_user_data = o.parallel_user_data,
                     .log = o.log,
                     .log_user_data = o.log_user_data,
                     .log_level = o.log_level,
                     .lane_work = LANE_WORK,
                     .process_id = process_id(),
                     .interrupt = o.interrupt,
                     .interrupt_user_data = o.interrupt_user_data,
                     .cpu_features = cpu_features()};
    TRY(resolve_threads(&o, &c.threading, &c.num_threads));
    uint64_t usable;
    TRY(resolve_features(&o, c.cpu_features, &usable));

    dqt_context *ctx = memory_alloc(&c, sizeof *ctx);
    c.kernels = ctx ? memory_alloc(&c, sizeof *c.kernels) : NULL;
    if (c.kernels && c.threading == DQT_THREADING_OPENMP) c.contention = memory_alloc(&c, sizeof *c.contention);
    if (!c.kernels || (c.threading == DQT_THREADING_OPENMP && !c.contention)) {
        memory_free(&c, c.kernels, sizeof *c.kernels);
        memory_free(&c, ctx, sizeof *ctx);
        return fail(NULL, DQT_E_MEMORY, "no memory for a context");
    }
    if (c.contention) contention_init(c.contention, c.num_threads);
    struct isa_choice choice;
    isa_select(c.kernels, &choice, usable);
    c.search_add = c.kernels->search_add;
    c.isa = choice.strongest->isa;
    memcpy(ctx, &c, sizeof c);
    *out = ctx;
    return DQT_OK;
}

void dqt_context_destroy(dqt_context *ctx) {
    if (!ctx) return;
    dqt_context c;
    memcpy(&c, ctx, sizeof c);
    memory_free(&c, c.contention, sizeof *c.contention);
    memory_free(&c, c.kernels, sizeof *c.kernels);
    memory_free(&c, ctx, sizeof *ctx);
}

const char *dqt_last_error(const dqt_context *ctx) {
    return last_error(ctx);
}

uint64_t dqt_context_cpu_features(const dqt_context *ctx) {
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
