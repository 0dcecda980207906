/* What the CPU and the system offer. */
#ifndef DQT_CORE_CPU_H
#define DQT_CORE_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "dqt.h"

/* The DQT_CPU_* bits that exist on this architecture. */
#if defined(__x86_64__)
#define CPU_ARCHITECTURE_FEATURES                                                                                      \
    ((uint64_t)(DQT_CPU_AVX2 | DQT_CPU_AVX_VNNI | DQT_CPU_AVX512 | DQT_CPU_AVX512_VNNI | DQT_CPU_AVX512_BF16 |         \
                DQT_CPU_AMX_INT8 | DQT_CPU_AMX_BF16))
#elif defined(__aarch64__)
#define CPU_ARCHITECTURE_FEATURES ((uint64_t)(DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD | DQT_CPU_NEON_I8MM))
#else
#define CPU_ARCHITECTURE_FEATURES ((uint64_t)0)
#endif

/* DQT_CPU_* bits that CPUID and XCR0 (or the AArch64 hwcaps) show. AMX bits only say that the CPU has it. */
uint64_t cpu_features(void);

/* Asks Linux for AMX tile data (arch_prctl ARCH_REQ_XCOMP_PERM; process-wide, idempotent). */
bool cpu_request_amx(void);

#endif
