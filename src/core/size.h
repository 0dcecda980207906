/* Sizes: the smaller, the larger, and whole multiples. None of these checks for overflow; size_mul and size_add in
 * core/memory.h do. */
#ifndef DQT_CORE_SIZE_H
#define DQT_CORE_SIZE_H

#include <stddef.h>

static inline size_t size_min(size_t a, size_t b) {
    return a < b ? a : b;
}
static inline size_t size_max(size_t a, size_t b) {
    return a > b ? a : b;
}
/* The least multiple of `multiple` (above 0) that is not below n. */
static inline size_t round_up(size_t n, size_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}
/* n / divisor, rounded up. */
static inline size_t ceil_div(size_t n, size_t divisor) {
    return (n + divisor - 1) / divisor;
}

#endif
