/* What the machine can do at most: loops over registers, and over memory, on 1..n threads. */
#ifndef LIMITS_H
#define LIMITS_H

#include <stdint.h>

#include "bench.h"

enum limit { LIMIT_INT8, LIMIT_BF16, LIMIT_F32 };
enum { LIMIT_LOOPS = 100000 };

/* Each returns multiply-adds per call; NULL where the instruction set has none. */
typedef double (*limit_fn)(void);

#if defined(__x86_64__)
#include <immintrin.h>

/* 8 to 16 independent chains hide the latency of 4 to 6 cycles at two instructions a cycle (gcc unrolls up to 16). */
__attribute__((target("avx2,fma"))) static inline double limit_avx2_f32(void) {
    __m256 s[12], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    for (int i = 0; i < 12; i++)
        s[i] = _mm256_set1_ps((float)i);
    for (int n = 0; n < LIMIT_LOOPS; n++) {
        __asm__ volatile("" : "+x"(a)); /* not known to be the same each time */
        for (int i = 0; i < 12; i++)
            s[i] = _mm256_fmadd_ps(s[i], a, b);
    }
    for (int i = 0; i < 12; i++)
        __asm__ volatile("" ::"x"(s[i]));
    return 12.0 * 8 * LIMIT_LOOPS;
}

/* vpmaddubsw and vpaddw, as in the kernel for codes below 8 bits. */
__attribute__((target("avx2"))) static inline double limit_avx2_int8(void) {
    __m256i s[8], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1);
    for (int i = 0; i < 8; i++)
        s[i] = _mm256_set1_epi16((short)i);
    for (int n = 0; n < LIMIT_LOOPS; n++) {
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+x"(a)); /* or one product would do for all 8 sums */
            s[i] = _mm256_add_epi16(s[i], _mm256_maddubs_epi16(a, b));
        }
    }
    for (int i = 0; i < 8; i++)
        __asm__ volatile("" ::"x"(s[i]));
    return 8.0 * 32 * LIMIT_LOOPS;
}

__attribute__((target("avx512f"))) static inline double limit_avx512_f32(void) {
    __m512 s[16], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    for (int i = 0; i < 16; i++)
        s[i] = _mm512_set1_ps((float)i);
    for (int n = 0; n < LIMIT_LOOPS; n++) {
        __asm__ volatile("" : "+v"(a));
        for (int i = 0; i < 16; i++)
            s[i] = _mm512_fmadd_ps(s[i], a, b);
    }
    for (int i = 0; i < 16; i++)
        __asm__ volatile("" ::"v"(s[i]));
    return 16.0 * 16 * LIMIT_LOOPS;
}

__attribute__((target("avx512f,avx512bw"))) static inline double limit_avx512_int8(void) {
    __m512i s[8], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(1);
    for (int i = 0; i < 8; i++)
        s[i] = _mm512_set1_epi16((short)i);
    for (int n = 0; n < LIMIT_LOOPS; n++) {
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+v"(a)); /* or one product would do for all 8 sums */
            s[i] = _mm512_add_epi16(s[i], _mm512_maddubs_epi16(a, b));
        }
    }
    for (int i = 0; i < 8; i++)
        __asm__ volatile("" ::"v"(s[i]));
    return 8.0 * 64 * LIMIT_LOOPS;
}

__attribute__((target("avx512f,avx512vnni"))) static inline double limit_vnni_int8(void) {
    __m512i s[16], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(1);
    for (int i = 0; i < 16; i++)
        s[i] = _mm512_set1_epi32(i);
    for (int n = 0; n < LIMIT_LOOPS; n++) {
        __asm__ volatile("" : "+v"(a));
        for (int i = 0; i < 16; i++)
            s[i] = _mm512_dpbusd_epi32(s[i], a, b);
    }
    for (int i = 0; i < 16; i++)
        __asm__ volatile("" ::"v"(s[i]));
    return 16.0 * 64 * LIMIT_LOOPS;
}

__attribute__((target("avx512f,avx512bf16"))) static inline double limit_vnni_bf16(void) {
    __m512 s[16], one = _mm512_set1_ps(1.0f);
    const __m512bh a = _mm512_cvtne2ps_pbh(one, one);
    for (int i = 0; i < 16; i++)
        s[i] = _mm512_set1_ps((float)i);
    for (int n = 0; n < LIMIT_LOOPS; n++) {
        __asm__ volatile("" : "+v"(one));
        for (int i = 0; i < 16; i++)
            s[i] = _mm512_dpbf16_ps(s[i], a, (__m512bh)one);
    }
    for (int i = 0; i < 16; i++)
        __asm__ volatile("" ::"v"(s[i]));
    return 16.0 * 32 * LIMIT_LOOPS;
}

struct limit_tiles {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
};
static const struct limit_tiles limit_tiles = {
    .palette = 1, .bytes_per_row = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* A context with AMX must exist: it asks for the permission. */
__attribute__((target("amx-tile,amx-int8"))) static inline double limit_amx_int8(void) {
    _tile_loadconfig(&limit_tiles);
    for (int n = 0; n < LIMIT_LOOPS; n++) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 16 * 16 * 64 * LIMIT_LOOPS;
}

__attribute__((target("amx-tile,amx-bf16"))) static inline double limit_amx_bf16(void) {
    _tile_loadconfig(&limit_tiles);
    for (int n = 0; n < LIMIT_LOOPS; n++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 16 * 16 * 32 * LIMIT_LOOPS;
}

static inline limit_fn limit_of(enum limit what, int isa, uint64_t features) {
    switch (what) {
    case LIMIT_INT8:
        return isa == DQT_ISA_AMX      ? limit_amx_int8
               : isa == DQT_ISA_VNNI   ? limit_vnni_int8
               : isa == DQT_ISA_AVX512 ? limit_avx512_int8
               : isa == DQT_ISA_AVX2   ? limit_avx2_int8
                                       : NULL;
    case LIMIT_BF16:
        if (isa == DQT_ISA_AMX) return limit_amx_bf16;
        if (isa == DQT_ISA_VNNI && (features & DQT_CPU_AVX512_BF16)) return limit_vnni_bf16;
        break;
    case LIMIT_F32: break;
    }
    return isa >= DQT_ISA_AVX512 ? limit_avx512_f32 : isa == DQT_ISA_AVX2 ? limit_avx2_f32 : NULL;
}
#else
static inline limit_fn limit_of(enum limit what, int isa, uint64_t features) {
    (void)what;
    (void)isa;
    (void)features;
    return NULL;
}
#endif

/* Sums or a[i] = b[i] + 3 c[i] over `count` floats, 16 at a time so that compilers vectorise them. */
static inline float limit_read(const float *x, size_t count) {
    float s[64] = {0};
    for (size_t i = 0; i + 64 <= count; i += 64)
        for (size_t j = 0; j < 64; j++)
            s[j] += x[i + j];
    float sum = 0;
    for (size_t j = 0; j < 64; j++)
        sum += s[j];
    return sum;
}

static inline void limit_triad(float *a, const float *b, const float *c, size_t count) {
    for (size_t i = 0; i < count; i++)
        a[i] = b[i] + 3.0f * c[i];
}

#endif
