/* The tests of a program that compares with golden values: one for each instruction set, by the program's own
 * static void check_isa(int isa). Included at its end. */
#ifndef DQT_TESTS_GOLDEN_ISAS_H
#define DQT_TESTS_GOLDEN_ISAS_H

#include "dqt.h"
#include "test.h"

static void golden_scalar(void) {
    check_isa(DQT_ISA_SCALAR);
}
static void golden_avx2(void) {
    check_isa(DQT_ISA_AVX2);
}
static void golden_avx_vnni(void) {
    check_isa(DQT_ISA_AVX_VNNI);
}
static void golden_avx512(void) {
    check_isa(DQT_ISA_AVX512);
}
static void golden_vnni(void) {
    check_isa(DQT_ISA_VNNI);
}
static void golden_amx(void) {
    check_isa(DQT_ISA_AMX);
}
static void golden_neon(void) {
    check_isa(DQT_ISA_NEON);
}
static void golden_dotprod(void) {
    check_isa(DQT_ISA_NEON_DOTPROD);
}
static void golden_i8mm(void) {
    check_isa(DQT_ISA_NEON_I8MM);
}

static const struct test tests[] = {TEST(golden_scalar), TEST(golden_avx2),    TEST(golden_avx_vnni),
                                    TEST(golden_avx512), TEST(golden_vnni),    TEST(golden_amx),
                                    TEST(golden_neon),   TEST(golden_dotprod), TEST(golden_i8mm)};
TEST_MAIN(tests)

#endif
