/* Rounding of gradients for AVX2. */
#if defined(__x86_64__)
#include <stdbool.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "kernels/gradient_kernels.h"
#include "kernels/philox_avx2.h"

static inline void philox_part(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    _Static_assert(GRADIENT_PART / 8 == 8, "eight blocks");
    philox_eight(r, first, out);
}

#define GRADIENT_PHILOX
#define GRADIENT_KERNELS gradient_kernels_avx2
#include "kernels/gradient_template.h"

TARGET_END
#else
typedef int gradient_avx2_is_not_built;
#endif
