/* The updater's kernels for AVX2. */
#if defined(__x86_64__)

#include "kernels/update_isa.h"

#define UPDATE_SUFFIX(name) name##_avx2
#include "kernels/update_template.h"

#else
typedef int update_avx2_is_not_built;
#endif
