/* Which instruction set fills which slot, for simulated CPUs: only the choice is looked at, no kernel is called. */
#include "isa/isa.h"

#include "core/cpu.h"
#include "test.h"

static struct kernels kernels;
static struct isa_choice choice;

/* The set that a slot comes from, "" for none. */
static const char *from(enum isa_slot slot) {
    return choice.from[slot] ? choice.from[slot]->name : "";
}

/* Which set each slot shall come from; the slots that are not named come from `others`. */
struct expected {
    enum isa_slot slot;
    const char *set;
};

static void check(const char *cpu, uint64_t features, int isa, const char *others, const struct expected *named,
                  size_t count) {
    isa_select(&kernels, &choice, features);
    CHECKF(choice.strongest->isa == isa, "%s: isa %d, not %d", cpu, choice.strongest->isa, isa);
    for (int slot = 0; slot < ISA_SLOT_COUNT; slot++) {
        const char *want = others;
        for (size_t i = 0; i < count; i++)
            if ((int)named[i].slot == slot) want = named[i].set;
        CHECKF(strcmp(from((enum isa_slot)slot), want) == 0, "%s: %s from \"%s\", not \"%s\"", cpu,
               isa_slot_name((enum isa_slot)slot), from((enum isa_slot)slot), want);
    }
}
#define CHECK_CPU(cpu, features, isa, others, ...)                                                                     \
    check(cpu, features, isa, others, (const struct expected[]){__VA_ARGS__},                                          \
          sizeof(const struct expected[]){__VA_ARGS__} / sizeof(struct expected))

/* What plain C does not have, and nobody needs. */
#define NO_PACKED_DOT                                                                                                  \
    {ISA_SLOT_packed_dot, ""}, {                                                                                       \
        ISA_SLOT_dot_groups, ""                                                                                        \
    }
#define NO_BF16                                                                                                        \
    {ISA_SLOT_attention_bf16, ""}, {                                                                                   \
        ISA_SLOT_fast_bf16, ""                                                                                         \
    }

#define NO_INT8_BACKWARD                                                                                               \
    { ISA_SLOT_fast_int8_backward, "" }

static void plain_c(void) {
    CHECK_CPU("plain C", 0, DQT_ISA_SCALAR, "scalar", NO_PACKED_DOT, NO_BF16, NO_INT8_BACKWARD);
    CHECK(!kernels.fast_int8_backward && !kernels.fast_bf16 && !kernels.attention_bf16.product);
}

/* Whatever the features: no engine lacks a function, no required slot is empty. */
static void check_whole(uint64_t features) {
    isa_select(&kernels, &choice, features);
    const struct gemm_engine *const integer[] = {&kernels.gemm.code, &kernels.gemm.int8};
    const struct gemm_engine *const floats[] = {&kernels.gemm.bf16, &kernels.gemm.f32};
    for (int i = 0; i < 2; i++) {
        const struct gemm_engine *e = integer[i];
        CHECK(e->gebp && e->pack_a_codes && e->pack_b_packed && e->rows && e->columns % PANEL == 0 && e->columns);
        CHECK(GEMM_K_ALIGN % e->k_align == 0 && e->k_align % e->group == 0 && e->kc_bytes &&
              (e->size == 1 || e->size == 2));
        CHECK(!e->begin == !e->end);
        e = floats[i];
        CHECK(e->gebp && e->pack_a && e->pack_a_transposed && e->pack_b && e->pack_b_transposed && e->pack_b_codes);
        CHECK(GEMM_K_ALIGN % e->k_align == 0 && e->k_align % e->group == 0 && e->kc_bytes &&
              (e->size == 2 || e->size == 4));
        CHECK(e->rows && e->columns % PANEL == 0 && e->columns && !e->begin == !e->end);
    }
    const struct gemm_engine *ternary = kernels.gemm.code.ternary; /* beside an engine of 16-bit sums only */
    CHECK(!ternary || (ternary->gebp && ternary->pack_a_codes && ternary->pack_b_packed && ternary->max_range == 2 &&
                       ternary->rows && kernels.gemm.code.max_range < 255));
    CHECK(kernels.gemm.bf16.emulates_bf16 == (kernels.gemm.bf16.size == 4) && !kernels.gemm.f32.emulates_bf16);
    CHECK(kernels.gemm.f32.size == 4);
    CHECK(!kernels.gemm.packed_dot.permute_for_dot == !kernels.gemm.packed_dot.dot_packed);
    CHECK(!kernels.gemm.packed_dot.dot_packed_tokens == !kernels.gemm.packed_dot.max_tokens &&
          !kernels.gemm.packed_dot.dot_packed_tokens == !kernels.gemm.packed_dot.batch);
    CHECK(kernels.gemm.float_dot.code && kernels.gemm.float_dot.bf16 && kernels.gemm.float_dot.f32);
    for (int slot = 0; slot < ISA_SLOT_COUNT; slot++)
        if (slot != ISA_SLOT_packed_dot && slot != ISA_SLOT_dot_groups && slot != ISA_SLOT_attention_bf16 &&
            slot != ISA_SLOT_fast_bf16 && slot != ISA_SLOT_fast_int8_backward)
            CHECKF(choice.from[slot], "features %#llx: no %s", (unsigned long long)features,
                   isa_slot_name((enum isa_slot)slot));
    /* structures of functions: no slot of theirs is NULL */
    void (*functions[sizeof(struct vector_kernels) / sizeof(void (*)(void))])(void);
    memcpy(functions, &kernels.vector, sizeof functions);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        CHECK(functions[i]);
    CHECK(kernels.gradient.largest && kernels.gradient.largest_by_row && kernels.gradient.round &&
          kernels.gradient.round_by_row);
    CHECK(kernels.update.row && kernels.update.sum_squares && kernels.update.add_squares && kernels.search_add);
}

static void every_slot_is_filled(void) {
    for (uint64_t features = 0; features < 1u << 10; features++)
        check_whole(features);
}

#if defined(__x86_64__)
enum {
    HASWELL = DQT_CPU_AVX2,
    ALDER_LAKE = DQT_CPU_AVX2 | DQT_CPU_AVX_VNNI,
    SKYLAKE_X = DQT_CPU_AVX2 | DQT_CPU_AVX512,
    ICE_LAKE = SKYLAKE_X | DQT_CPU_AVX512_VNNI,
    COOPER_LAKE = ICE_LAKE | DQT_CPU_AVX512_BF16,
    ZEN5 = COOPER_LAKE | DQT_CPU_AVX_VNNI,
    SAPPHIRE_RAPIDS = ZEN5 | DQT_CPU_AMX_INT8 | DQT_CPU_AMX_BF16
};

#define VNNI_SLOTS                                                                                                     \
    {ISA_SLOT_gemm_code, "avx512_vnni"}, {ISA_SLOT_gemm_int8, "avx512_vnni"}, {ISA_SLOT_packed_dot, "avx512_vnni"},    \
        {ISA_SLOT_dot_codes, "avx512_vnni"}, {ISA_SLOT_dot_groups, "avx2"}, {ISA_SLOT_search_add, "avx2"},             \
        {ISA_SLOT_fast_int8_backward, "avx2"}, {                                                                       \
        ISA_SLOT_gemv_max_tokens, "avx512_vnni"                                                                        \
    }
#define AMX_INT8_SLOTS                                                                                                 \
    {ISA_SLOT_gemm_code, "amx"}, {ISA_SLOT_gemm_int8, "amx"}, {ISA_SLOT_gemv_max_tokens, "amx"},                       \
        {ISA_SLOT_packed_dot, "amx"}, {ISA_SLOT_dot_groups, "avx2"}, {ISA_SLOT_search_add, "avx2"},                    \
        {ISA_SLOT_fast_int8_backward, "avx2"}, {                                                                       \
        ISA_SLOT_dot_codes, "avx512_vnni"                                                                              \
    }
#define AVX2_DOTS                                                                                                      \
    {ISA_SLOT_packed_dot, "avx2"}, {ISA_SLOT_dot_groups, "avx2"}, {ISA_SLOT_search_add, "avx2"},                       \
        {ISA_SLOT_fast_int8_backward, "avx2"}, {                                                                       \
        ISA_SLOT_dot_codes, "avx2"                                                                                     \
    }
#define SCALAR_MAX_TOKENS                                                                                              \
    { ISA_SLOT_gemv_max_tokens, "scalar" }

static void simulated_cpus(void) {
    CHECK_CPU("AVX2", HASWELL, DQT_ISA_AVX2, "avx2", NO_BF16, SCALAR_MAX_TOKENS);
    CHECK_CPU("AVX-VNNI without AVX-512", ALDER_LAKE, DQT_ISA_AVX_VNNI, "avx2", NO_BF16, SCALAR_MAX_TOKENS,
              {ISA_SLOT_gemm_code, "avx_vnni"}, {ISA_SLOT_gemm_int8, "avx_vnni"}, {ISA_SLOT_dot_codes, "avx_vnni"});
    CHECK_CPU("AVX-512 without VNNI", SKYLAKE_X, DQT_ISA_AVX512, "avx512", AVX2_DOTS, NO_BF16, SCALAR_MAX_TOKENS);
    CHECK(!kernels.fast_bf16);
    CHECK_CPU("AVX-512 VNNI", ICE_LAKE, DQT_ISA_VNNI, "avx512", NO_BF16, VNNI_SLOTS);
    CHECK_CPU("AVX-512 VNNI and BF16", COOPER_LAKE, DQT_ISA_VNNI, "avx512", {ISA_SLOT_attention_bf16, ""},
              {ISA_SLOT_fast_bf16, "avx512_vnni"}, VNNI_SLOTS);
    CHECK(kernels.fast_bf16 && kernels.gemm.bf16.emulates_bf16 && kernels.gemm.gemv_max_tokens == 6);
    CHECK_CPU("both forms of VNNI", ZEN5, DQT_ISA_VNNI, "avx512", {ISA_SLOT_attention_bf16, ""},
              {ISA_SLOT_fast_bf16, "avx512_vnni"}, VNNI_SLOTS);
    CHECK_CPU("AMX", SAPPHIRE_RAPIDS, DQT_ISA_AMX, "avx512", AMX_INT8_SLOTS, {ISA_SLOT_gemm_bf16, "amx"},
              {ISA_SLOT_attention_bf16, "amx"}, {ISA_SLOT_fast_bf16, "amx"});
    CHECK(kernels.fast_bf16 && !kernels.gemm.bf16.emulates_bf16 && kernels.gemm.gemv_max_tokens == 4);
    CHECK_CPU("AMX for integers alone", ICE_LAKE | DQT_CPU_AMX_INT8, DQT_ISA_AMX, "avx512", AMX_INT8_SLOTS, NO_BF16);
    CHECK_CPU("AMX for bf16 alone", COOPER_LAKE | DQT_CPU_AMX_BF16, DQT_ISA_AMX, "avx512", VNNI_SLOTS,
              {ISA_SLOT_gemm_bf16, "amx"}, {ISA_SLOT_attention_bf16, "amx"}, {ISA_SLOT_fast_bf16, "amx"});
    /* what cannot be used alone */
    CHECK_CPU("AVX-VNNI without AVX2", DQT_CPU_AVX_VNNI, DQT_ISA_SCALAR, "scalar", NO_PACKED_DOT, NO_BF16,
              NO_INT8_BACKWARD);
    CHECK_CPU("AMX without VNNI", SKYLAKE_X | DQT_CPU_AMX_INT8 | DQT_CPU_AMX_BF16, DQT_ISA_AVX512, "avx512", AVX2_DOTS,
              NO_BF16, SCALAR_MAX_TOKENS);
    CHECK_CPU("features of another architecture", DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD | DQT_CPU_NEON_I8MM,
              DQT_ISA_SCALAR, "scalar", NO_PACKED_DOT, NO_BF16, NO_INT8_BACKWARD);
}
#elif defined(__aarch64__)
static void simulated_cpus(void) {
#define BASELINE                                                                                                       \
    NO_BF16, NO_INT8_BACKWARD, {ISA_SLOT_gradient, "scalar"}, {ISA_SLOT_update, "scalar"},                             \
        {ISA_SLOT_search_add, "scalar"}, {                                                                             \
        ISA_SLOT_gemv_max_tokens, "scalar"                                                                             \
    }
#define DOTPROD                                                                                                        \
    {ISA_SLOT_dot_groups, "neon_dotprod"}, {                                                                           \
        ISA_SLOT_dot_codes, "neon_dotprod"                                                                             \
    }
    CHECK_CPU("NEON", DQT_CPU_NEON, DQT_ISA_NEON, "neon", BASELINE);
    CHECK_CPU("dot product", DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD, DQT_ISA_NEON_DOTPROD, "neon", BASELINE,
              {ISA_SLOT_gemm_code, "neon_dotprod"}, {ISA_SLOT_gemm_int8, "neon_dotprod"},
              {ISA_SLOT_packed_dot, "neon_dotprod"}, DOTPROD);
    CHECK_CPU("i8mm", DQT_CPU_NEON | DQT_CPU_NEON_DOTPROD | DQT_CPU_NEON_I8MM, DQT_ISA_NEON_I8MM, "neon", BASELINE,
              {ISA_SLOT_gemm_code, "neon_i8mm"}, {ISA_SLOT_gemm_int8, "neon_i8mm"}, {ISA_SLOT_packed_dot, "neon_i8mm"},
              DOTPROD);
    CHECK_CPU("i8mm without dot product", DQT_CPU_NEON | DQT_CPU_NEON_I8MM, DQT_ISA_NEON, "neon", BASELINE);
}
#else
static void simulated_cpus(void) {
    SKIP("no instruction set of this architecture");
}
#endif

/* Each cap's number and name find it; AUTO is none; each allows no more than a stronger one of its own line. */
static void caps(void) {
    for (int i = 0; i < ISA_CAP_COUNT; i++) {
        CHECK(isa_cap_find(isa_caps[i].isa) == &isa_caps[i] && isa_cap_find_name(isa_caps[i].name) == &isa_caps[i]);
        for (int j = 0; j < i; j++)
            CHECK(isa_caps[j].isa < isa_caps[i].isa && isa_caps[j].allows != isa_caps[i].allows);
    }
    CHECK(!isa_cap_find(DQT_ISA_AUTO) && !isa_cap_find(11) && !isa_cap_find_name("") && !isa_cap_find_name("auto"));
    CHECK(isa_cap_find(DQT_ISA_SCALAR)->allows == 0);
    CHECK(!(isa_cap_find(DQT_ISA_AVX512)->allows & DQT_CPU_AVX_VNNI));
}

/* The line that .ci/run looks for: the caps under which the tests ran kernels of their own on this CPU. */
static void print_what_runs(void) {
    printf("instruction sets run on this CPU:");
    for (int i = 0; i < ISA_CAP_COUNT; i++) {
        isa_select(&kernels, &choice, cpu_features() & isa_caps[i].allows);
        if (choice.strongest->isa == isa_caps[i].isa) printf(" %s", isa_caps[i].name);
    }
    printf("\n");
    isa_select(&kernels, &choice, cpu_features());
    printf("slots on this CPU:");
    for (int slot = 0; slot < ISA_SLOT_COUNT; slot++)
        printf(" %s=%s", isa_slot_name((enum isa_slot)slot), choice.from[slot] ? choice.from[slot]->name : "none");
    printf("\n");
}

static const struct test tests[] = {TEST(plain_c), TEST(every_slot_is_filled), TEST(simulated_cpus), TEST(caps),
                                    TEST(print_what_runs)};
TEST_MAIN(tests)
