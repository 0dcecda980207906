#include <string.h>

#include "core/parallel.h"
#include "kernels/kernels.h"
#include "ops/matmul.h"

enum { TOKENS_PER_ITEM = 16 };

struct quantize {
    const dqt_context *ctx;
    const float *x;
    size_t tokens, cols, ld;
    int8_t *codes;
    float *step;
};

static void quantize_item(void *arg, size_t item, int lane) {
    const struct quantize *q = arg;
    (void)lane;
    const size_t first = item * TOKENS_PER_ITEM;
    const size_t last = q->tokens - first < TOKENS_PER_ITEM ? q->tokens : first + TOKENS_PER_ITEM;
    for (size_t t = first; t < last; t++) {
        int8_t *codes = q->codes + t * q->ld;
        q->step[t] = q->ctx->kernels->matmul.quantize(q->x + t * q->cols, q->cols, codes);
        memset(codes + q->cols, 0, q->ld - q->cols);
    }
}

void activations_quantize(const dqt_context *ctx, const float *x, size_t tokens, size_t cols, int8_t *codes, size_t ld,
                          float *step) {
    struct quantize q = {ctx, x, tokens, cols, ld, codes, step};
    parallel_run(ctx, (tokens + TOKENS_PER_ITEM - 1) / TOKENS_PER_ITEM, quantize_item, &q);
}
