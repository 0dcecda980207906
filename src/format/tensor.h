/* dqt_tensor: packed codes or floats, scales, and how layers read them. */
#ifndef DQT_SRC_FORMAT_TENSOR_H
#define DQT_SRC_FORMAT_TENSOR_H

#include "core/memory.h"
#include "format/format.h"

struct dqt_tensor {
    dqt_context *ctx;
    size_t rows, cols;
    enum format storage, compute;
    int scale_rule, scale_axis;
    float sigma;
    bool train_scale;
    size_t row_bytes, data_bytes;
    size_t num_scales;   /* 0 for floats, 1, or rows */
    unsigned char *data; /* NULL: shape only */
    float *scales;       /* NULL for floats */
    float compute_scale; /* where compute != storage: scale of the re-quantised weight, kept current by every writer */
};

extern const dqt_tensor_options tensor_defaults; /* as dqt_tensor_options_init fills them */
/* Zeros of tensor options become defaults; `storage` is the default format. */
void tensor_complete(dqt_tensor_options *o, int32_t storage);
/* The formats that checked options name (tensor_check); compute is the storage format where they say SAME. */
enum format options_storage(const dqt_tensor_options *o);
enum format options_compute(const dqt_tensor_options *o);
/* The rule that DQT_SCALE_AUTO stands for, or the one asked for. */
int tensor_scale_rule(const dqt_tensor_options *o);
/* Checks options (already sized). */
dqt_status tensor_check(const dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o);
/* Bytes that tensor_create allocates; SIZE_MAX on overflow. */
size_t tensor_memory(size_t rows, size_t cols, const dqt_tensor_options *o);
dqt_status tensor_create(dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o, bool shape_only,
                         dqt_tensor **out);
void tensor_destroy(dqt_tensor *t);

/* Called by every writer of weights (quantise, set_codes, updater): refreshes compute_scale. Cheap when compute is the
 * storage format. */
void tensor_refresh(dqt_tensor *t);

static inline unsigned char *tensor_row(const dqt_tensor *t, size_t row) {
    return t->data + row * t->row_bytes;
}
static inline float tensor_scale(const dqt_tensor *t, size_t row) {
    return t->num_scales == 0 ? 1.0f : t->scales[t->num_scales == 1 ? 0 : row];
}

/* The scale that multiplies a *compute* code of this row. */
static inline float tensor_compute_scale(const dqt_tensor *t, size_t row) {
    return t->compute == t->storage ? tensor_scale(t, row) : t->compute_scale;
}

/* Sets the storage codes of a row, codes[cols]; the last block is padded with code 0. */
void tensor_pack_codes(dqt_tensor *t, size_t row, const int8_t *codes);

/* The tensor as the updater sees it: reads of the view give storage codes and values. */
static inline dqt_tensor tensor_as_stored(const dqt_tensor *t) {
    dqt_tensor view = *t;
    view.compute = view.storage;
    return view;
}

/* What layers read. Columns [col, col + count), col a multiple of 64. Integer compute format: codes, re-quantised from
 * the storage where they differ (multiply by tensor_compute_scale). Any compute format: floats, scale included. */
void tensor_read_codes(const dqt_tensor *t, size_t row, size_t col, size_t count, int8_t *codes);
void tensor_read_floats(const dqt_tensor *t, size_t row, size_t col, size_t count, float *out);

/* Storage value as floats, scale included. */
void tensor_dequantize_row(const dqt_tensor *t, size_t row, float *out);

/* Copying from a tensor of the same shape, storage and number of scales; the first says why it cannot be. */
dqt_status tensor_check_copy(const dqt_tensor *to, const dqt_tensor *from);
void tensor_copy(dqt_tensor *to, const dqt_tensor *from);

/* Scales by the rule and codes by rounding; weights are finite. */
void tensor_quantize(dqt_tensor *t, const float *weights, bool stochastic, uint64_t seed);

/* Fills with normal(0, std) from (seed, id), quantised to nearest, in bounded memory. */
void tensor_init_normal(dqt_tensor *t, uint64_t seed, uint32_t id, float std);

#endif
