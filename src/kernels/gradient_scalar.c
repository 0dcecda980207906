/* Rounding of gradients for the baseline instruction set (on AArch64 that includes NEON): the specification. */
#define GRADIENT_KERNELS gradient_kernels_scalar
#include "kernels/gradient_template.h"
