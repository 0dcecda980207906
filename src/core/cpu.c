#define _GNU_SOURCE
#include "core/cpu.h"

#include "dqt.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>

/* Intel SDM vol. 1, 13.3: a register file may be used only if its XCR0 bit is set. */
enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6, XCR0_AMX = 0x60000 };

static uint64_t read_xcr0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

uint64_t cpu_features(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return 0;
    uint64_t xcr0 = read_xcr0(), features = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    unsigned a1 = 0, b1, c1, d1;
    __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
    if ((xcr0 & XCR0_AVX) == XCR0_AVX && (b & bit_AVX2)) features |= DQT_CPU_AVX2;
    if ((features & DQT_CPU_AVX2) && (a1 & (1u << 4))) features |= DQT_CPU_AVX_VNNI;
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((features & DQT_CPU_AVX2) && (xcr0 & XCR0_AVX512) == XCR0_AVX512 && (b & avx512) == avx512) {
        features |= DQT_CPU_AVX512;
        if (c & bit_AVX512VNNI) features |= DQT_CPU_AVX512_VNNI;
        if (a1 & (1u << 5)) features |= DQT_CPU_AVX512_BF16;
        if ((xcr0 & XCR0_AMX) == XCR0_AMX && (d & (1u << 24))) {
            if (d & (1u << 25)) features |= DQT_CPU_AMX_INT8;
            if (d & (1u << 22)) features |= DQT_CPU_AMX_BF16;
        }
    }
    return features;
}
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif
uint64_t cpu_features(void) {
    uint64_t features = DQT_CPU_NEON;
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & (1ul << 20)) features |= DQT_CPU_NEON_DOTPROD; /* HWCAP_ASIMDDP */
    if (getauxval(AT_HWCAP2) & (1ul << 13)) features |= DQT_CPU_NEON_I8MM;   /* HWCAP2_I8MM */
#endif
    return features;
}
#else
uint64_t cpu_features(void) {
    return 0;
}
#endif

bool cpu_request_amx(void) {
#if defined(__linux__) && defined(__x86_64__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA */
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}
