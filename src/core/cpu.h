/* CPU features and the instruction set a context uses. */
#ifndef DQT_CORE_CPU_H
#define DQT_CORE_CPU_H

#include <stdbool.h>
#include <stdint.h>

/* DQT_CPU_* bits that CPUID and XCR0 (or the AArch64 hwcaps) show. AMX bits only say that the CPU has it. */
uint64_t cpu_features(void);

/* Asks Linux for AMX tile data (arch_prctl ARCH_REQ_XCOMP_PERM; process-wide, idempotent). */
bool cpu_request_amx(void);

/* The best DQT_ISA_* that `features` offer, at most `cap` (DQT_ISA_AUTO: no cap); never AMX without `amx`. */
int cpu_best_isa(uint64_t features, int cap, bool amx);

/* DQT_ISA_* from a name of the documented test override; 0 for an unknown one. */
int cpu_isa_from_name(const char *name);

#endif
