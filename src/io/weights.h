/* What is in a tensor, checked on its way into a file or out of one. */
#ifndef DQT_IO_WEIGHTS_H
#define DQT_IO_WEIGHTS_H

#include "format/tensor.h"
#include "io/stream.h"

/* False for an infinity, a NaN, or a negative number where `negative` is false. size 2: bf16, 4: float, 8: double. */
bool numbers_valid(const void *data, size_t count, size_t size, bool negative);
/* FNV-1a over the floats' bits, -0 as 0. Each of its steps is invertible: one weight that differs is always seen. */
uint64_t weights_digest(const float *weights, size_t count);
/* See tensor_scale_valid. */
bool scales_valid(const dqt_tensor *t);
/* All within Qn..Qp, and those that only fill up a row's last pack block 0. */
bool codes_valid(const dqt_tensor *t);

/* Bytes of a number of a float storage format, 0 of a code format. */
static inline size_t float_bytes(const dqt_tensor *t) {
    return format_float_bytes(t->storage);
}

/* All scales, as floats or halves. */
dqt_status write_scales(struct sink *s, const dqt_tensor *t);
dqt_status read_scales(struct source *s, dqt_tensor *t);

/* Packed rows; codes that only fill up the last pack block are written as 0, whatever they are in memory. */
dqt_status write_codes(struct sink *s, const dqt_tensor *t);

#endif
