/* The updater's kernels for AVX2. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "kernels/kernels_avx2.h"
#include "kernels/philox_avx2.h"

static void philox_blocks(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    for (int i = 0; i < UPDATE_CHUNK / 4; i += 8)
        philox_eight(r, first + (uint64_t)i, out + 4 * i);
}

#define UPDATE_PHILOX
#define UPDATE_KERNELS update_kernels_avx2
#include "kernels/update_template.h"

TARGET_END
#else
typedef int update_avx2_is_not_built;
#endif
