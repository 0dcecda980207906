/* For kernels whose small arrays are to be registers. */
#ifndef DQT_KERNELS_REGISTERS_H
#define DQT_KERNELS_REGISTERS_H

/* A function that must be compiled for the constants among its arguments, such as how many rows and tokens it takes. */
#define CONSTANTS_INLINE static inline __attribute__((always_inline))

/* Before loops over such arrays, which clang keeps in memory otherwise. gcc unrolls them anyway, and with better order
 * where it is not told to. */
#if defined(__clang__)
#define UNROLL_CLANG _Pragma("clang loop unroll(full)")
#else
#define UNROLL_CLANG
#endif

#endif
