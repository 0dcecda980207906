/* Life, access and re-quantised reading of tensors. */
#include "format/tensor.h"

#include <float.h>
#include <math.h>

#include "core/status.h"

enum format options_storage(const dqt_tensor_options *o) {
    enum format format = FORMAT_F32;
    const bool known = format_from_public(o->storage, &format);
    DQT_ASSERT(known);
    (void)known;
    return format;
}

enum format options_compute(const dqt_tensor_options *o) {
    enum format format = options_storage(o);
    const bool known = o->compute == DQT_FORMAT_SAME || format_from_public(o->compute, &format);
    DQT_ASSERT(known);
    (void)known;
    return format;
}

enum format options_codes(const dqt_tensor_options *o) {
    const enum format storage = options_storage(o);
    return format_is_code(storage) ? storage : options_compute(o);
}

#define DEFAULT_SIGMA 4

const dqt_tensor_options tensor_defaults = {.struct_size = sizeof(dqt_tensor_options),
                                            .storage = DQT_FORMAT_TERNARY,
                                            .scale_rule = DQT_SCALE_AUTO,
                                            .sigma = DEFAULT_SIGMA};

const dqt_tensor_options tensor_floats = {
    .struct_size = sizeof(dqt_tensor_options), .storage = DQT_FORMAT_F32, .sigma = DEFAULT_SIGMA};

void tensor_complete(dqt_tensor_options *o, int32_t storage) {
    if (o->storage == 0) o->storage = storage;
    if (o->sigma == 0.0f) o->sigma = tensor_defaults.sigma;
    if (o->scale_axis == DQT_AXIS_GROUP && o->group_size == 0) o->group_size = 32;
}

/* What follows from the options and the shape about scales. */
struct scale_layout {
    size_t group_cols, row_groups;
    size_t stored, computed;             /* numbers of scales; SIZE_MAX on overflow */
    size_t stored_bytes, computed_bytes; /* of one: a float, or a half */
};

static size_t scales_of(int axis, size_t rows, size_t row_groups) {
    size_t count = 1;
    if (axis != DQT_AXIS_TENSOR) size_mul(rows, row_groups, &count);
    return count;
}

static struct scale_layout scale_layout(size_t rows, size_t cols, const dqt_tensor_options *o) {
    const bool groups = o->scale_axis == DQT_AXIS_GROUP;
    struct scale_layout l = {.group_cols = groups ? (size_t)o->group_size : cols};
    l.row_groups = cols / l.group_cols;
    const size_t count = scales_of(o->scale_axis, rows, l.row_groups);
    l.stored = format_is_code(options_storage(o)) ? count : 0;
    l.computed = options_compute(o) != options_storage(o) ? count : 0;
    l.stored_bytes = groups && !o->train_scale ? sizeof(uint16_t) : sizeof(float);
    l.computed_bytes = groups ? sizeof(uint16_t) : sizeof(float);
    return l;
}

static bool data_size(size_t rows, size_t cols, enum format storage, size_t *out) {
    size_t padded;
    return size_add(cols, PACK_BLOCK - 1, &padded) && size_mul(padded, 4, &padded) &&
           size_mul(rows, format_row_bytes(storage, cols), out) && *out <= SIZE_MAX / 4;
}

int tensor_scale_rule(const dqt_tensor_options *o) {
    if (o->scale_rule != DQT_SCALE_AUTO) return o->scale_rule;
    return format_default_scale_rule(options_codes(o));
}

int scale_rule_of_trained(int32_t axis) {
    return axis == DQT_AXIS_GROUP ? DQT_SCALE_MSE : DQT_SCALE_ABSMAX;
}

int tensor_import_rule(const dqt_tensor *t) {
    return t->auto_rule ? scale_rule_of_trained(t->scale_axis) : t->scale_rule;
}

static dqt_status check_scales(const dqt_context *ctx, const dqt_tensor_options *o) {
    if (o->scale_rule < DQT_SCALE_AUTO || o->scale_rule > DQT_SCALE_MSE)
        return fail(ctx, DQT_E_ARGUMENT, "scale_rule is %d; it must be a DQT_SCALE_* value", o->scale_rule);
    if (o->scale_axis < DQT_AXIS_TENSOR || o->scale_axis > DQT_AXIS_GROUP)
        return fail(ctx, DQT_E_ARGUMENT, "scale_axis is %d; it must be a DQT_AXIS_* value", o->scale_axis);
    const int32_t g = o->group_size;
    if (o->scale_axis == DQT_AXIS_GROUP ? g != 32 && g != 64 && g != 128 && g != 256 : g != 0)
        return fail(ctx, DQT_E_ARGUMENT,
                    "group_size is %d; it must be 32, 64, 128 or 256 with AXIS_GROUP, and 0 otherwise", g);
    if (!(o->sigma > 0) || !isfinite(o->sigma))
        return fail(ctx, DQT_E_ARGUMENT, "sigma is %g; it must be finite and above 0", (double)o->sigma);
    if (o->train_scale != 0 && o->train_scale != 1)
        return fail(ctx, DQT_E_ARGUMENT, "train_scale is %d; it must be 0 or 1", o->train_scale);
    return DQT_OK;
}

dqt_status tensor_check_options(const dqt_context *ctx, const dqt_tensor_options *o) {
    enum format storage, compute;
    if (!format_from_public(o->storage, &storage))
        return fail(ctx, DQT_E_ARGUMENT, "storage is %d; it must be a DQT_FORMAT_* value other than SAME", o->storage);
    compute = storage;
    if (o->compute != DQT_FORMAT_SAME && !format_from_public(o->compute, &compute))
        return fail(ctx, DQT_E_ARGUMENT, "compute is %d; it must be a DQT_FORMAT_* value", o->compute);
    TRY(check_scales(ctx, o));
    for (size_t i = 0; i < sizeof o->reserved64 / sizeof *o->reserved64; i++)
        if (o->reserved64[i]) return fail(ctx, DQT_E_ARGUMENT, "reserved64[%zu] of dqt_tensor_options is not 0", i);
    if (compute != storage && (!format_is_code(compute) || !format_fewer_values(compute, storage)))
        return fail(
            ctx, DQT_E_UNSUPPORTED,
            "compute format %s cannot be read from storage format %s: it must be an integer format of fewer bits",
            format_name(compute), format_name(storage));
    if (o->train_scale && (!format_is_code(storage) || o->scale_axis == DQT_AXIS_TENSOR || compute != storage))
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "train_scale needs integer storage, scales of rows or groups, and compute equal to storage");
    return DQT_OK;
}

dqt_status tensor_check(const dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o) {
    size_t bytes;
    TRY(tensor_check_options(ctx, o));
    if (rows == 0 || cols == 0) return fail(ctx, DQT_E_SHAPE, "a tensor of %zu x %zu weights is empty", rows, cols);
    if (!data_size(rows, cols, options_storage(o), &bytes))
        return fail(ctx, DQT_E_SHAPE, "a tensor of %zu x %zu weights is too large", rows, cols);
    if (o->scale_axis == DQT_AXIS_GROUP && cols % (size_t)o->group_size)
        return fail(ctx, DQT_E_SHAPE, "%zu columns are not whole groups of %d", cols, o->group_size);
    return DQT_OK;
}

/* One block: the struct, the scales, the data. */
struct tensor_parts {
    dqt_tensor *t;
    void *stored, *computed; /* scales */
    unsigned char *data;
};

static void lay_out(struct arena *a, size_t rows, size_t cols, const dqt_tensor_options *o,
                    struct tensor_parts *parts) {
    const struct scale_layout l = scale_layout(rows, cols, o);
    size_t bytes = 0;
    parts->t = arena_take(a, 1, sizeof *parts->t);
    parts->stored = arena_take(a, l.stored, l.stored_bytes);
    parts->computed = arena_take(a, l.computed, l.computed_bytes);
    if (!data_size(rows, cols, options_storage(o), &bytes)) a->used = SIZE_MAX;
    parts->data = arena_take(a, bytes, 1);
}

size_t tensor_memory(size_t rows, size_t cols, const dqt_tensor_options *o) {
    struct arena a = {0};
    struct tensor_parts parts;
    lay_out(&a, rows, cols, o, &parts);
    return a.used;
}

/* Zeros with scales 1. */
static void fill(dqt_tensor *t, const struct tensor_parts *parts) {
    const int8_t zero[PACK_BLOCK] = {0};
    const struct packing *packing = format_packing(t->storage);
    t->data = parts->data;
    if (t->scale_axis == DQT_AXIS_GROUP && !t->train_scale)
        t->half_scales = parts->stored;
    else
        t->scales = parts->stored;
    if (t->scale_axis == DQT_AXIS_GROUP)
        t->half_compute_scales = parts->computed;
    else
        t->compute_scales = parts->computed;
    for (size_t i = 0; i < t->num_scales; i++) {
        if (t->half_scales)
            t->half_scales[i] = f32_to_f16(1.0f);
        else
            t->scales[i] = 1.0f;
    }
    for (size_t i = 0; packing && packing->bias && i < t->data_bytes; i += packing_block_bytes(packing))
        block_pack(packing, zero, t->data + i);
    tensor_refresh(t);
}

dqt_status tensor_create(dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o, bool shape_only,
                         dqt_tensor **out) {
    *out = NULL;
    TRY(tensor_check(ctx, rows, cols, o));
    const struct scale_layout l = scale_layout(rows, cols, o);
    size_t bytes = shape_only ? round_up(sizeof(dqt_tensor), ALIGNMENT) : tensor_memory(rows, cols, o);
    struct arena a = {.base = memory_alloc(ctx, bytes), .size = bytes};
    if (!a.base) return fail(ctx, DQT_E_MEMORY, "no memory for a tensor of %zu bytes", bytes);
    struct tensor_parts parts = {0};
    if (shape_only)
        parts.t = arena_take(&a, 1, sizeof *parts.t);
    else
        lay_out(&a, rows, cols, o, &parts);
    dqt_tensor *t = parts.t;
    *t = (dqt_tensor){.ctx = ctx,
                      .rows = rows,
                      .cols = cols,
                      .storage = options_storage(o),
                      .compute = options_compute(o),
                      .scale_rule = tensor_scale_rule(o),
                      .scale_axis = o->scale_axis,
                      .auto_rule = o->scale_rule == DQT_SCALE_AUTO,
                      .sigma = o->sigma,
                      .train_scale = o->train_scale != 0,
                      .row_bytes = format_row_bytes(options_storage(o), cols),
                      .group_cols = l.group_cols,
                      .row_groups = l.row_groups,
                      .num_scales = l.stored,
                      .num_compute_scales = l.computed};
    t->data_bytes = rows * t->row_bytes;
    if (!shape_only) fill(t, &parts);
    *out = t;
    return DQT_OK;
}

dqt_tensor_options tensor_options_of(const dqt_tensor *t) {
    return (dqt_tensor_options){.struct_size = sizeof(dqt_tensor_options),
                                .storage = format_public(t->storage),
                                .compute = format_public(t->compute),
                                .scale_rule = t->scale_rule,
                                .scale_axis = t->scale_axis,
                                .sigma = t->sigma,
                                .train_scale = t->train_scale,
                                .group_size = t->scale_axis == DQT_AXIS_GROUP ? (int32_t)t->group_cols : 0};
}

void tensor_destroy(dqt_tensor *t) {
    if (!t) return;
    const dqt_tensor_options o = tensor_options_of(t);
    memory_free(t->ctx, t, t->data ? tensor_memory(t->rows, t->cols, &o) : round_up(sizeof *t, ALIGNMENT));
}

/* ---- Scales --------------------------------------------------------------------------------------------------- */

/* As scale_at, of `count` groups in a row. */
static void read_scales(const dqt_tensor *t, size_t num, const float *scales, const uint16_t *halves, size_t row,
                        size_t first, size_t count, float *out) {
    const size_t at = num > 1 ? row * t->row_groups + first : 0;
    DQT_ASSERT(row < t->rows && first + count <= t->row_groups);
    if (num > 1 && halves) {
        for (size_t i = 0; i < count; i++)
            out[i] = f16_to_f32(halves[at + i]);
    } else {
        for (size_t i = 0; i < count; i++)
            out[i] = scale_at(t, num, scales, halves, row, first + i);
    }
}

void tensor_read_scales(const dqt_tensor *t, size_t row, size_t first, size_t count, float *out) {
    read_scales(t, t->num_scales, t->scales, t->half_scales, row, first, count, out);
}

void tensor_read_compute_scales(const dqt_tensor *t, size_t row, size_t first, size_t count, float *out) {
    if (t->compute == t->storage) {
        tensor_read_scales(t, row, first, count, out);
    } else {
        read_scales(t, t->num_compute_scales, t->compute_scales, t->half_compute_scales, row, first, count, out);
    }
}

void tensor_get_scales(const dqt_tensor *t, float *out) {
    for (size_t i = 0; i < t->num_scales; i++)
        out[i] = t->half_scales ? f16_to_f32(t->half_scales[i]) : t->scales[i];
}

void tensor_set_scales(dqt_tensor *t, const float *scales) {
    for (size_t i = 0; i < t->num_scales; i++) {
        if (t->half_scales)
            t->half_scales[i] = f32_to_f16(scales[i]);
        else
            t->scales[i] = scales[i];
    }
}

bool tensor_scale_valid(const dqt_tensor *t, float scale) {
    if (t->half_scales) return isfinite(f16_to_f32(f32_to_f16(scale)));
    return scale >= FLT_MIN && scale <= FLT_MAX / (float)(format_max(t->storage) + 1);
}

/* ---- Rows ----------------------------------------------------------------------------------------------------- */

void tensor_pack_codes(dqt_tensor *t, size_t row, const int8_t *codes) {
    const struct packing *packing = format_packing(t->storage);
    const size_t block_bytes = packing_block_bytes(packing);
    unsigned char *packed = tensor_row(t, row);
    for (size_t c = 0; c < t->cols; c += PACK_BLOCK, packed += block_bytes) {
        int8_t padded[PACK_BLOCK] = {0};
        memcpy(padded, codes + c, t->cols - c < PACK_BLOCK ? t->cols - c : PACK_BLOCK);
        block_pack(packing, padded, packed);
    }
}

bool tensor_set_row(dqt_tensor *t, size_t row, const int8_t *codes, const uint16_t *halves) {
    const int low = format_min(t->storage), high = format_max(t->storage);
    for (size_t c = 0; c < t->cols; c++)
        if (codes[c] < low || codes[c] > high) return false;
    for (size_t g = 0; t->half_scales && g < t->row_groups; g++)
        if (!isfinite(f16_to_f32(halves[g]))) return false;
    tensor_pack_codes(t, row, codes);
    if (t->half_scales) memcpy(t->half_scales + row * t->row_groups, halves, t->row_groups * sizeof *halves);
    return true;
}

/* Columns from `col` on, at most `count`, to the end of their group. */
static size_t group_rest(const dqt_tensor *t, size_t col, size_t count) {
    return size_min(count, t->group_cols - col % t->group_cols);
}

/* out[k] = scale * codes[k] of a pack block's columns [col, col + count), which may be of two groups. */
static void scaled_codes(const dqt_tensor *t, size_t row, size_t col, size_t count, const int8_t *codes, float *out,
                         float (*scale_of)(const dqt_tensor *t, size_t row, size_t group)) {
    for (size_t i = 0; i < count;) {
        const size_t n = group_rest(t, col + i, count - i);
        const float scale = scale_of(t, row, (col + i) / t->group_cols);
        for (size_t k = i; k < i + n; k++)
            out[k] = scale * (float)codes[k];
        i += n;
    }
}

/* Storage value of columns [col, col + count), scale included. */
static void read_storage(const dqt_tensor *t, size_t row, size_t col, size_t count, float *out) {
    const unsigned char *data = tensor_row(t, row);
    const size_t float_bytes = format_float_bytes(t->storage);
    if (float_bytes == sizeof(float)) {
        memcpy(out, (const float *)(const void *)data + col, count * sizeof *out);
    } else if (float_bytes) {
        const uint16_t *h = (const uint16_t *)(const void *)data + col;
        for (size_t i = 0; i < count; i++)
            out[i] = bf16_to_f32(h[i]);
    } else {
        const struct packing *packing = format_packing(t->storage);
        const size_t block_bytes = packing_block_bytes(packing);
        int8_t codes[PACK_BLOCK];
        for (size_t i = 0; i < count; i += PACK_BLOCK) {
            block_unpack(packing, data + (col + i) / PACK_BLOCK * block_bytes, codes);
            scaled_codes(t, row, col + i, size_min(count - i, PACK_BLOCK), codes, out + i, tensor_group_scale);
        }
    }
}

void tensor_dequantize_row(const dqt_tensor *t, size_t row, float *out) {
    read_storage(t, row, 0, t->cols, out);
}

/* The codes of a pack block, or what there is of it, from values of the storage. */
static void requantize(const dqt_tensor *t, size_t row, size_t col, size_t count, const float *values, int8_t *codes) {
    const float low = (float)format_min(t->compute), high = (float)format_max(t->compute);
    for (size_t i = 0; i < count;) {
        const size_t n = group_rest(t, col + i, count - i);
        const float scale = tensor_compute_group_scale(t, row, (col + i) / t->group_cols);
        const float inverse = scale < 0 || scale > 0 ? 1.0f / scale : 0.0f;
        for (size_t k = i; k < i + n; k++) {
            const float q = rintf(values[k] * inverse);
            codes[k] = (int8_t)(q < low ? low : q > high ? high : q);
        }
        i += n;
    }
}

void tensor_read_codes(const dqt_tensor *t, size_t row, size_t col, size_t count, int8_t *codes) {
    DQT_ASSERT(format_is_code(t->compute) && col % PACK_BLOCK == 0 && row < t->rows && col + count <= t->cols);
    const struct packing *packing = format_packing(t->storage);
    float values[PACK_BLOCK];
    int8_t block_codes[PACK_BLOCK];
    for (size_t i = 0; i < count; i += PACK_BLOCK) {
        const size_t n = size_min(count - i, PACK_BLOCK);
        if (t->compute == t->storage) {
            block_unpack(packing, tensor_row(t, row) + (col + i) / PACK_BLOCK * packing_block_bytes(packing),
                         block_codes);
            memcpy(codes + i, block_codes, n);
        } else {
            read_storage(t, row, col + i, n, values);
            requantize(t, row, col + i, n, values, codes + i);
        }
    }
}

void tensor_read_floats(const dqt_tensor *t, size_t row, size_t col, size_t count, float *out) {
    DQT_ASSERT(col % PACK_BLOCK == 0 && row < t->rows && col + count <= t->cols);
    if (t->compute == t->storage) {
        read_storage(t, row, col, count, out);
        return;
    }
    int8_t codes[PACK_BLOCK];
    for (size_t i = 0; i < count; i += PACK_BLOCK) {
        const size_t n = size_min(count - i, PACK_BLOCK);
        tensor_read_codes(t, row, col + i, n, codes);
        scaled_codes(t, row, col + i, n, codes, out + i, tensor_compute_group_scale);
    }
}

/* ---- Copies --------------------------------------------------------------------------------------------------- */

dqt_status tensor_check_copy(const dqt_tensor *to, const dqt_tensor *from) {
    if (to->rows != from->rows || to->cols != from->cols)
        return fail(to->ctx, DQT_E_SHAPE, "a tensor of %zu x %zu cannot be copied into one of %zu x %zu", from->rows,
                    from->cols, to->rows, to->cols);
    if (to->storage != from->storage || to->num_scales != from->num_scales || !to->half_scales != !from->half_scales)
        return fail(to->ctx, DQT_E_UNSUPPORTED,
                    "a tensor of %s and %zu %sscales cannot be copied into one of %s and %zu %sscales",
                    format_name(from->storage), from->num_scales, from->half_scales ? "fp16 " : "",
                    format_name(to->storage), to->num_scales, to->half_scales ? "fp16 " : "");
    return DQT_OK;
}

void tensor_copy(dqt_tensor *to, const dqt_tensor *from) {
    if (to == from) return;
    memcpy(to->data, from->data, from->data_bytes);
    if (from->scales) memcpy(to->scales, from->scales, from->num_scales * sizeof *from->scales);
    if (from->half_scales) memcpy(to->half_scales, from->half_scales, from->num_scales * sizeof *from->half_scales);
    tensor_refresh(to);
}
