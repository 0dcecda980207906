/* The instruction set of a file, in the file itself, so that no build system need know it: everything between
 * TARGET_BEGIN and TARGET_END is compiled for it. System headers come before, so that their functions are not; the
 * project's headers with intrinsics in inline functions come after.
 *
 * What must still be given to the compiler is -ffp-contract=off: where there are instructions for multiply-add
 * (everywhere on AArch64), compilers otherwise fuse a * b + c, and results differ from other builds' in the last bit.
 * gcc has no pragma for it. tests/test_updater_identity.c and tests/test_vector_kernels.c notice.
 */
#ifndef DQT_KERNELS_TARGET_H
#define DQT_KERNELS_TARGET_H

#define TARGET_PRAGMA(text) _Pragma(#text)
#if defined(__clang__) && defined(__aarch64__)
#define TARGET_BEGIN(features) _Pragma("STDC FP_CONTRACT OFF") /* its arm_neon.h wants -march=... for the file */
#define TARGET_END
#elif defined(__clang__)
#define TARGET_BEGIN(features)                                                                                         \
    _Pragma("STDC FP_CONTRACT OFF")                                                                                    \
        TARGET_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END _Pragma("clang attribute pop")
/* clang takes whole registers of itself; 18 to 21 have a feature for them, which -march=native turns off on CPUs
 * without AVX-512 and avx512f does not turn on again. */
#if __clang_major__ >= 18 && __clang_major__ < 22 && !defined(__apple_build_version__)
#define TARGET_512 ",evex512"
#else
#define TARGET_512 ""
#endif
#else
#define TARGET_BEGIN(features) _Pragma("GCC push_options") TARGET_PRAGMA(GCC target(features))
#define TARGET_END _Pragma("GCC pop_options")
#define TARGET_512 ",prefer-vector-width=512"
#endif

#define TARGET_AVX2 "avx2,fma"
#define TARGET_AVX_VNNI "avx2,fma,avxvnni"
#define TARGET_AVX512 "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl" TARGET_512
#define TARGET_AVX512_VNNI "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni" TARGET_512
#define TARGET_NEON_DOTPROD "arch=armv8.2-a+dotprod"
#define TARGET_NEON_I8MM "arch=armv8.2-a+dotprod+i8mm"
#define TARGET_AMX                                                                                                     \
    "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16" TARGET_512

#endif
