/* Rounding of gradients for AVX-512. */
#if defined(__x86_64__)
#include <stdbool.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512)

#define GRADIENT_KERNELS gradient_kernels_avx512
#include "kernels/gradient_template.h"

TARGET_END
#else
typedef int gradient_avx512_is_not_built;
#endif
