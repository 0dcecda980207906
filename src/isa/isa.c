/* The choice among instruction sets, and what caps allow. */
#include "isa/isa.h"

#include <stdio.h>
#include <string.h>

#include "core/assert.h"

/* Weakest first; those of other architectures are not built. */
static const struct isa_set *const sets[] = {
    &isa_scalar,
#if defined(__x86_64__)
    &isa_avx2,   &isa_avx_vnni, &isa_avx512, &isa_avx512_vnni,
#if !defined(_WIN32)
    &isa_amx,
#endif
#elif defined(__aarch64__)
    &isa_neon,
    &isa_neon_dotprod,
    &isa_neon_i8mm,
#endif
};

void isa_select(struct kernels *k, struct isa_choice *choice, uint64_t features) {
    memset(k, 0, sizeof *k);
    *choice = (struct isa_choice){0};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        const struct isa_set *set = sets[i];
#define TAKE(name, member, source)                                                                                     \
    if (set->name.offer && !(set->name.needs & ~features)) {                                                           \
        k->member = source set->name.offer;                                                                            \
        choice->from[ISA_SLOT_##name] = choice->strongest = set;                                                       \
    }
#define TAKE_GROUP(name, member) TAKE(name, member, *)
#define TAKE_VALUE(name, member) TAKE(name, member, )
        ISA_SLOTS(TAKE_GROUP, TAKE_VALUE)
    }
}

#define ISA_NAME(name, member) #name,
const char *isa_slot_name(enum isa_slot slot) {
    static const char *const names[] = {ISA_SLOTS(ISA_NAME, ISA_NAME)};
    return names[slot];
}

/* Each cap allows what weaker ones allow and its own features, but that AVX512 leaves out AVX_VNNI: it stands for the
 * CPUs that have AVX-512 and neither form of VNNI, and under it their paths can be tested on newer ones. Two caps
 * together allow what both allow. */
const struct isa_cap isa_caps[ISA_CAP_COUNT] = {
    {DQT_ISA_SCALAR, "scalar", 0},
    {DQT_ISA_AVX2, "avx2", DQT_CPU_AVX2},
    {DQT_ISA_AVX_VNNI, "avxvnni", DQT_CPU_AVX2 | DQT_CPU_AVX_VNNI},
    {DQT_ISA_AVX512, "avx512", DQT_CPU_AVX2 | DQT_CPU_AVX512},
    {DQT_ISA_VNNI, "vnni",
     DQT_CPU_AVX2 | DQT_CPU_AVX_VNNI | DQT_CPU_AVX512 | DQT_CPU_AVX512_VNNI | DQT_CPU_AVX512_BF16},
    {DQT_ISA_AMX, "amx",
     DQT_CPU_AVX2 | DQT_CPU_AVX_VNNI | DQT_CPU_AVX512 | DQT_CPU_AVX512_VNNI | DQT_CPU_AVX512_BF16 | DQT_CPU_AMX_INT8 |
         DQT_CPU_AMX_BF16},
    {DQT_ISA_NEON, "neon", DQT_CPU_NEON},
    {DQT_ISA_NEON_DOTPROD, "dotprod", DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD},
    {DQT_ISA_NEON_I8MM, "i8mm", DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD | DQT_CPU_NEON_I8MM},
};

const struct isa_cap *isa_cap_find(int isa) {
    for (size_t i = 0; i < ISA_CAP_COUNT; i++)
        if (isa_caps[i].isa == isa) return &isa_caps[i];
    return NULL;
}

const struct isa_cap *isa_cap_find_name(const char *name) {
    for (size_t i = 0; i < ISA_CAP_COUNT; i++)
        if (strcmp(isa_caps[i].name, name) == 0) return &isa_caps[i];
    return NULL;
}

void isa_cap_names(char text[ISA_CAP_NAMES]) {
    size_t at = 0;
    for (size_t i = 0; i < ISA_CAP_COUNT && at < ISA_CAP_NAMES; i++)
        at += (size_t)snprintf(text + at, ISA_CAP_NAMES - at, "%s%s", i ? ", " : "", isa_caps[i].name);
    DQT_ASSERT(at < ISA_CAP_NAMES);
}
