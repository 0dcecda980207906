/* The updater's kernels for the baseline instruction set (on AArch64 that includes NEON). */
#include "kernels/update_isa.h"

#define UPDATE_SUFFIX(name) name##_scalar
#include "kernels/update_template.h"
