/* The updater's kernels for the baseline instruction set (on AArch64 that includes NEON). */
#include "kernels/kernels_scalar.h"

#define UPDATE_KERNELS update_kernels_scalar
#include "kernels/update_template.h"
