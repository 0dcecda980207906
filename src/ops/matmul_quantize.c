#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "ops/matmul.h"

enum { TOKENS_PER_ITEM = 16 };

struct quantize {
    const float *x;
    size_t tokens, cols, ld;
    int8_t *codes;
    float *step;
};

static void quantize_item(void *arg, size_t item, int lane) {
    const struct quantize *q = arg;
    (void)lane;
    size_t first = item * TOKENS_PER_ITEM;
    size_t last = q->tokens - first < TOKENS_PER_ITEM ? q->tokens : first + TOKENS_PER_ITEM;
    for (size_t t = first; t < last; t++) {
        const float *x = q->x + t * q->cols;
        int8_t *codes = q->codes + t * q->ld;
        float amax = 1e-5f;
        for (size_t c = 0; c < q->cols; c++) amax = fabsf(x[c]) > amax ? fabsf(x[c]) : amax;
        float factor = 127.0f / amax;
        for (size_t c = 0; c < q->cols; c++) {
            float v = rintf(x[c] * factor);
            codes[c] = (int8_t)(v > 127.0f ? 127.0f : v > -128.0f ? v : -128.0f); /* NaN: -128 */
        }
        memset(codes + q->cols, 0, q->ld - q->cols);
        q->step[t] = amax / 127.0f;
    }
}

void activations_quantize(const dqt_context *ctx, const float *x, size_t tokens, size_t cols, int8_t *codes, size_t ld,
                          float *step) {
    struct quantize q = {x, tokens, cols, ld, codes, step};
    parallel_run(ctx, (tokens + TOKENS_PER_ITEM - 1) / TOKENS_PER_ITEM, quantize_item, &q);
}
