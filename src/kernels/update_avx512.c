/* The updater's kernels for AVX-512. */
#if defined(__x86_64__)

#include "kernels/update_isa.h"

#define UPDATE_SUFFIX(name) name##_avx512
#include "kernels/update_template.h"

#else
typedef int update_avx512_is_not_built;
#endif
