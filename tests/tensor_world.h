/* A context of its own for a test of tensors, what is documented of each format, and tensors made in few words. */
#ifndef TENSOR_WORLD_H
#define TENSOR_WORLD_H

#include "calls.h"
#include "counting_alloc.h"
#include "test.h"

/* What is documented, written anew; from many to few different values. */
static const int formats[] = {DQT_FORMAT_F32,  DQT_FORMAT_BF16, DQT_FORMAT_INT8, DQT_FORMAT_INT6,   DQT_FORMAT_INT5,
                              DQT_FORMAT_INT4, DQT_FORMAT_INT3, DQT_FORMAT_INT2, DQT_FORMAT_TERNARY};
enum { FORMATS = 9, FIRST_CODE = 2 };

static const int lowest[] = {0, 0, -128, -32, -16, -8, -4, -2, -1}, highest[] = {0, 0, 127, 31, 15, 7, 3, 1, 1};

static struct counting memory;
static dqt_context *ctx;

static inline void begin(void) {
    ctx = counting_context(&memory);
}
static inline void end(void) {
    counting_end(ctx, &memory);
}

static inline dqt_tensor_options options_of(int storage, int rule, int axis) {
    dqt_tensor_options o;
    dqt_tensor_options_init(&o, sizeof o);
    o.storage = storage;
    o.scale_rule = rule;
    o.scale_axis = axis;
    return o;
}

static inline dqt_tensor *make(size_t rows, size_t cols, int storage, int rule, int axis) {
    const dqt_tensor_options o = options_of(storage, rule, axis);
    dqt_tensor *t = NULL;
    OK(ctx, dqt_tensor_create(ctx, rows, cols, &o, &t));
    return t;
}

static inline dqt_tensor_info info_of(const dqt_tensor *t) {
    dqt_tensor_info i = {.struct_size = sizeof i};
    OK(ctx, dqt_tensor_get_info(t, &i));
    return i;
}

static inline unsigned char *bytes_of(dqt_tensor *t, size_t *count) {
    void *data = NULL;
    OK(ctx, dqt_tensor_data(t, &data, count));
    return data;
}

/* A normal number by the sum of twelve uniforms would have thin tails; Box-Muller has not. */
static inline float normal(uint64_t *seed) {
    const double u = ((double)(test_random(seed) >> 11) + 1) * 0x1p-53, v = (double)(test_random(seed) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static inline float *normals(size_t count, uint64_t seed) {
    float *w = malloc(count * sizeof *w);
    for (size_t i = 0; i < count; i++)
        w[i] = normal(&seed);
    return w;
}

#endif
