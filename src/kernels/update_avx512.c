/* The updater's kernels for AVX-512. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512)
#include "kernels/kernels_avx512.h"
#include "kernels/philox_avx512.h"

static void philox_blocks(const struct rng *r, uint64_t first, uint32_t *restrict out) {
    _Static_assert(UPDATE_CHUNK / 4 == 8 * PHILOX_VECTORS, "four vectors of blocks");
    philox_vectors(r, first, PHILOX_VECTORS, out);
}

#define UPDATE_PHILOX
#define UPDATE_KERNELS update_kernels_avx512
#include "kernels/update_template.h"

TARGET_END
#else
typedef int update_avx512_is_not_built;
#endif
