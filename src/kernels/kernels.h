/* The kernels of one context: each slot from the best instruction set that offers it (isa/isa.h). Resolved once, when a
 * context is created. Kernels know nothing of threads, handles or errors. */
#ifndef DQT_KERNELS_KERNELS_H
#define DQT_KERNELS_KERNELS_H

#include <stdint.h>

#include "format/scale.h"
#include "kernels/gemm_kernels.h"
#include "kernels/gradient_kernels.h"
#include "kernels/update_kernels.h"
#include "kernels/vector_kernels.h"

struct kernels {
    struct gemm_kernels gemm;
    struct vector_kernels vector;
    struct attention_bf16_kernels attention_bf16; /* all NULL: attention is done in f32 */
    struct gradient_kernels gradient;
    struct update_kernels update;
    search_add_fn *search_add;
    /* What DQT_PRECISION_AUTO goes by, as measured (docs/performance.md, "What AUTO takes"). */
    bool fast_bf16;          /* products of floats are BF16: the CPU has instructions for bf16 operands */
    bool fast_int8_backward; /* products of backward are INT8 where the weight allows it */
};

#endif
