/* dqt_tensor: packed codes or floats, scales, and how layers read them. */
#ifndef DQT_SRC_FORMAT_TENSOR_H
#define DQT_SRC_FORMAT_TENSOR_H

#include "core/memory.h"
#include "format/format.h"
#include "format/half.h"

struct dqt_tensor {
    dqt_context *ctx;
    size_t rows, cols;
    enum format storage, compute;
    int scale_rule, scale_axis;
    bool auto_rule; /* scale_rule is what DQT_SCALE_AUTO stands for: import chooses another */
    float sigma;
    bool train_scale;
    size_t row_bytes, data_bytes;
    size_t group_cols;     /* columns that have one scale: cols, or with DQT_AXIS_GROUP the group */
    size_t row_groups;     /* scales of a row: 1, or cols / group_cols */
    size_t num_scales;     /* 0 for floats; 1, rows, or rows * row_groups */
    unsigned char *data;   /* NULL: shape only */
    float *scales;         /* NULL for floats, and where scales are halves */
    uint16_t *half_scales; /* fixed group scales: fp16, of either sign or 0 */
    /* Where compute != storage: scales of the re-quantised weight, kept current by every writer; else none. */
    size_t num_compute_scales;
    float *compute_scales;
    uint16_t *half_compute_scales;
};

extern const dqt_tensor_options tensor_defaults; /* as dqt_tensor_options_init fills them */
extern const dqt_tensor_options tensor_floats;   /* F32, as it is */
/* Zeros of tensor options become defaults; `storage` is the default format. */
void tensor_complete(dqt_tensor_options *o, int32_t storage);
/* The formats that checked options name (tensor_check); compute is the storage format where they say SAME. */
enum format options_storage(const dqt_tensor_options *o);
enum format options_compute(const dqt_tensor_options *o);
/* The format whose codes the scale rule is for: the storage's, or where that is floats the compute format. */
enum format options_codes(const dqt_tensor_options *o);
/* The rule that DQT_SCALE_AUTO stands for, or the one asked for. */
int tensor_scale_rule(const dqt_tensor_options *o);
/* The options that a tensor was created with. */
dqt_tensor_options tensor_options_of(const dqt_tensor *t);
/* Checks options (already sized), but for what depends on the shape. */
dqt_status tensor_check_options(const dqt_context *ctx, const dqt_tensor_options *o);
dqt_status tensor_check(const dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o);
/* Bytes that tensor_create allocates; SIZE_MAX on overflow. */
size_t tensor_memory(size_t rows, size_t cols, const dqt_tensor_options *o);
dqt_status tensor_create(dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o, bool shape_only,
                         dqt_tensor **out);
void tensor_destroy(dqt_tensor *t);

/* Called by every writer of weights (quantise, set_codes, updater): refreshes the compute scales. Cheap when compute is
 * the storage format. */
void tensor_refresh(dqt_tensor *t);

static inline unsigned char *tensor_row(const dqt_tensor *t, size_t row) {
    return t->data + row * t->row_bytes;
}

/* ---- Scales: of the storage, and of what layers read. Outside src/format only these read them, and files. */

/* Of group `group` of a row, of `num` scales in one of the two arrays; num 0: 1. */
static inline float scale_at(const dqt_tensor *t, size_t num, const float *scales, const uint16_t *halves, size_t row,
                             size_t group) {
    DQT_ASSERT(row < t->rows && group < t->row_groups);
    if (num == 0) return 1.0f;
    const size_t index = num == 1 ? 0 : row * t->row_groups + group;
    return halves ? f16_to_f32(halves[index]) : scales[index];
}

/* Of the storage; 1 for floats. */
static inline float tensor_group_scale(const dqt_tensor *t, size_t row, size_t group) {
    return scale_at(t, t->num_scales, t->scales, t->half_scales, row, group);
}
static inline float tensor_scale(const dqt_tensor *t, size_t row) {
    DQT_ASSERT(t->row_groups == 1);
    return tensor_group_scale(t, row, 0);
}
/* Groups [first, first + count) of a row. */
void tensor_read_scales(const dqt_tensor *t, size_t row, size_t first, size_t count, float *out);

/* The scale that multiplies a *compute* code of this group, of tensor_compute_group_cols columns. */
static inline float tensor_compute_group_scale(const dqt_tensor *t, size_t row, size_t group) {
    if (t->compute == t->storage) return tensor_group_scale(t, row, group);
    return scale_at(t, t->num_compute_scales, t->compute_scales, t->half_compute_scales, row, group);
}
static inline size_t tensor_compute_group_cols(const dqt_tensor *t) {
    return t->group_cols;
}
void tensor_read_compute_scales(const dqt_tensor *t, size_t row, size_t first, size_t count, float *out);
/* Where a row has one scale. */
static inline float tensor_compute_scale(const dqt_tensor *t, size_t row) {
    DQT_ASSERT(t->row_groups == 1);
    return tensor_compute_group_scale(t, row, 0);
}

/* Whether the storage's scales are halves: fixed ones of groups. */
static inline bool tensor_has_halves(const dqt_tensor *t) {
    return t->num_scales && t->scale_axis == DQT_AXIS_GROUP && !t->train_scale;
}
/* Of all of the storage's scales. */
static inline size_t tensor_scale_bytes(const dqt_tensor *t) {
    return t->num_scales * (tensor_has_halves(t) ? sizeof(uint16_t) : sizeof(float));
}
/* Scales of what layers read; 0 for floats. */
static inline size_t tensor_num_compute_scales(const dqt_tensor *t) {
    return t->compute == t->storage ? t->num_scales : t->num_compute_scales;
}

/* All scales of the storage as floats, [num_scales], and back; halves are rounded to nearest. The caller has checked
 * them, and calls tensor_refresh. */
void tensor_get_scales(const dqt_tensor *t, float *out);
void tensor_set_scales(dqt_tensor *t, const float *scales);
/* Whether a number can be a scale: a normal number above 0 that no code times it makes infinite; as a half, finite. */
bool tensor_scale_valid(const dqt_tensor *t, float scale);
/* Codes[cols] and, for fixed group scales, halves[row_groups] of a row, as files have them: bit for bit. False, and
 * nothing changed, for a code or a half that cannot be. The caller calls tensor_refresh. */
bool tensor_set_row(dqt_tensor *t, size_t row, const int8_t *codes, const uint16_t *halves);

/* Sets the storage codes of a row, codes[cols]; the last block is padded with code 0. */
void tensor_pack_codes(dqt_tensor *t, size_t row, const int8_t *codes);

/* The tensor as the updater sees it: reads of the view give storage codes and values. */
static inline dqt_tensor tensor_as_stored(const dqt_tensor *t) {
    dqt_tensor view = *t;
    view.compute = view.storage;
    return view;
}

/* What layers read. Columns [col, col + count), col a multiple of 64. Integer compute format: codes, re-quantised from
 * the storage where they differ (multiply by the compute scale of their group). Any compute format: floats, scale
 * included. */
void tensor_read_codes(const dqt_tensor *t, size_t row, size_t col, size_t count, int8_t *codes);
void tensor_read_floats(const dqt_tensor *t, size_t row, size_t col, size_t count, float *out);

/* Storage value as floats, scale included. */
void tensor_dequantize_row(const dqt_tensor *t, size_t row, float *out);

/* Copying from a tensor of the same shape, storage and kind of scales; the first says why it cannot be. */
dqt_status tensor_check_copy(const dqt_tensor *to, const dqt_tensor *from);
void tensor_copy(dqt_tensor *to, const dqt_tensor *from);

/* What DQT_SCALE_AUTO stands for where weights that were trained elsewhere become codes: ABSMAX, but for groups MSE.
 * Over a row or tensor, least squared error cuts off the few large weights on which such models depend: SmolLM2 as int4
 * has a perplexity of 37.5 with ABSMAX a row and 69.8 with MSE, but 25.3 and 23.0 in groups of 32 (F32: 19.3). */
int scale_rule_of_trained(int32_t axis);
/* The rule by which import quantises this tensor. */
int tensor_import_rule(const dqt_tensor *t);

/* Scales by the rule and codes by rounding; weights are finite. */
void tensor_quantize(dqt_tensor *t, const float *weights, bool stochastic, uint64_t seed);
/* The same; DQT_SCALE_MSE multiplies the squared error of a weight by the importance of its column, importance[cols],
 * above 0 and about 1 (NULL: 1). */
void tensor_quantize_by_importance(dqt_tensor *t, const float *weights, const float *importance, bool stochastic,
                                   uint64_t seed);

/* Fills with normal(0, std) from (seed, id), quantised to nearest, in bounded memory. */
void tensor_init_normal(dqt_tensor *t, uint64_t seed, uint32_t id, float std);

#endif
