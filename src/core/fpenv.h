/* The floating-point mode of a thread: results must not depend on how a host's threads round, or whether they flush
 * denormal numbers to zero. Every public function that computes, and every lane of parallel_run, computes in the
 * default mode (round to nearest even, denormals kept, no exception trapped) and leaves the thread as it was, exception
 * flags included. Where the mode is the default already nothing is written. */
#ifndef DQT_CORE_FPENV_H
#define DQT_CORE_FPENV_H

#include <stdint.h>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <fenv.h>
#endif

#if defined(__x86_64__)

/* MXCSR, which rules all of SSE and AVX: Intel SDM volume 1, 10.2.3. 0x1f80: all exceptions masked, nearest even, FTZ
 * and DAZ off, no flag set. x87 is not used. */
struct fpenv {
    unsigned mxcsr;
};
enum { MXCSR_FLAGS = 0x3f, MXCSR_DEFAULT = 0x1f80 };

static inline struct fpenv fpenv_enter(void) {
    const struct fpenv host = {__builtin_ia32_stmxcsr()};
    if ((host.mxcsr & ~(unsigned)MXCSR_FLAGS) != MXCSR_DEFAULT) __builtin_ia32_ldmxcsr(MXCSR_DEFAULT);
    return host;
}
static inline void fpenv_leave(const struct fpenv *host) {
    if (__builtin_ia32_stmxcsr() != host->mxcsr) __builtin_ia32_ldmxcsr(host->mxcsr);
}

#elif defined(__aarch64__)

/* FPCR: Arm ARM, C5.2.8. 0: nearest even, no flushing, NaNs propagate, nothing trapped. Flags are in FPSR. */
struct fpenv {
    uint64_t fpcr, fpsr;
};

static inline struct fpenv fpenv_enter(void) {
    struct fpenv host;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(host.fpcr), "=r"(host.fpsr));
    if (host.fpcr != 0) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
    return host;
}
static inline void fpenv_leave(const struct fpenv *host) {
    if (host->fpcr != 0) __asm__ volatile("msr fpcr, %0" : : "r"(host->fpcr) : "memory");
    __asm__ volatile("msr fpsr, %0" : : "r"(host->fpsr) : "memory");
}

#else

struct fpenv {
    fenv_t env;
};

static inline struct fpenv fpenv_enter(void) {
    struct fpenv host;
    fegetenv(&host.env);
    fesetenv(FE_DFL_ENV);
    return host;
}
static inline void fpenv_leave(const struct fpenv *host) {
    fesetenv(&host->env);
}

#endif

/* From here to the end of the block. Compilers know nothing of modes, so what computes stays in functions of its own.
 */
#define FPENV_DEFAULT() __attribute__((cleanup(fpenv_leave), unused)) const struct fpenv fpenv_host = fpenv_enter()

#endif
