/* Life, access and re-quantised reading of tensors. */
#include "format/tensor.h"

#include <math.h>

#include "core/status.h"

static size_t scales_of(const dqt_tensor_options *o, size_t rows) {
    return !format_is_code(o->storage) ? 0 : o->scale_axis == DQT_AXIS_ROW ? rows : 1;
}

static bool data_size(size_t rows, size_t cols, int storage, size_t *out) {
    size_t padded;
    return size_add(cols, UNIT - 1, &padded) && size_mul(padded, 4, &padded) &&
           size_mul(rows, format_row_bytes(storage, cols), out) && *out <= SIZE_MAX / 4;
}

int tensor_scale_rule(const dqt_tensor_options *o) {
    if (o->scale_rule != DQT_SCALE_AUTO) return o->scale_rule;
    const int codes = format_is_code(o->storage) ? o->storage : o->compute;
    return codes == DQT_FORMAT_INT8 ? DQT_SCALE_SIGMA : DQT_SCALE_ABSMEAN;
}

dqt_status tensor_check(const dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o) {
    size_t bytes;
    if (!format_valid(o->storage))
        return fail(ctx, DQT_E_ARGUMENT, "storage is %d; it must be a DQT_FORMAT_* value other than SAME", o->storage);
    if (o->compute != DQT_FORMAT_SAME && !format_valid(o->compute))
        return fail(ctx, DQT_E_ARGUMENT, "compute is %d; it must be a DQT_FORMAT_* value", o->compute);
    if (o->scale_rule < DQT_SCALE_ABSMEAN || o->scale_rule > DQT_SCALE_AUTO)
        return fail(ctx, DQT_E_ARGUMENT, "scale_rule is %d; it must be a DQT_SCALE_* value", o->scale_rule);
    if (o->scale_axis != DQT_AXIS_TENSOR && o->scale_axis != DQT_AXIS_ROW)
        return fail(ctx, DQT_E_ARGUMENT, "scale_axis is %d; it must be a DQT_AXIS_* value", o->scale_axis);
    if (!(o->sigma > 0) || !isfinite(o->sigma))
        return fail(ctx, DQT_E_ARGUMENT, "sigma is %g; it must be finite and above 0", (double)o->sigma);
    if (o->train_scale != 0 && o->train_scale != 1)
        return fail(ctx, DQT_E_ARGUMENT, "train_scale is %d; it must be 0 or 1", o->train_scale);
    for (size_t i = 0; i < sizeof o->reserved / sizeof *o->reserved; i++)
        if (o->reserved[i]) return fail(ctx, DQT_E_ARGUMENT, "reserved[%zu] of dqt_tensor_options is not 0", i);
    int compute = o->compute ? o->compute : o->storage;
    if (compute != o->storage && (!format_is_code(compute) || compute < o->storage))
        return fail(
            ctx, DQT_E_UNSUPPORTED,
            "compute format %s cannot be read from storage format %s: it must be an integer format of fewer bits",
            format_name(compute), format_name(o->storage));
    if (o->train_scale && (!format_is_code(o->storage) || o->scale_axis != DQT_AXIS_ROW || compute != o->storage))
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "train_scale needs integer storage, one scale per row and compute equal to storage");
    if (rows == 0 || cols == 0) return fail(ctx, DQT_E_SHAPE, "a tensor of %zu x %zu weights is empty", rows, cols);
    if (!data_size(rows, cols, o->storage, &bytes))
        return fail(ctx, DQT_E_SHAPE, "a tensor of %zu x %zu weights is too large", rows, cols);
    return DQT_OK;
}

/* One block: the struct, the scales, the data. */
static void place(struct arena *a, size_t rows, size_t cols, const dqt_tensor_options *o, dqt_tensor **t,
                  float **scales, unsigned char **data) {
    size_t bytes = 0;
    *t = arena_take(a, 1, sizeof **t);
    *scales = arena_take(a, scales_of(o, rows), sizeof **scales);
    if (!data_size(rows, cols, o->storage, &bytes)) a->used = SIZE_MAX;
    *data = arena_take(a, bytes, 1);
}

size_t tensor_memory(size_t rows, size_t cols, const dqt_tensor_options *o) {
    struct arena a = {0};
    dqt_tensor *t;
    float *scales;
    unsigned char *data;
    place(&a, rows, cols, o, &t, &scales, &data);
    return a.used;
}

dqt_status tensor_create(dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o, bool shape_only,
                         dqt_tensor **out) {
    *out = NULL;
    TRY(tensor_check(ctx, rows, cols, o));
    size_t bytes = shape_only ? round_up(sizeof(dqt_tensor), ALIGNMENT) : tensor_memory(rows, cols, o);
    struct arena a = {.base = memory_alloc(ctx, bytes), .size = bytes};
    if (!a.base) return fail(ctx, DQT_E_MEMORY, "no memory for a tensor of %zu bytes", bytes);
    dqt_tensor *t;
    float *scales = NULL;
    unsigned char *data = NULL;
    if (shape_only)
        t = arena_take(&a, 1, sizeof *t);
    else
        place(&a, rows, cols, o, &t, &scales, &data);
    *t = (dqt_tensor){.ctx = ctx,
                      .rows = rows,
                      .cols = cols,
                      .storage = o->storage,
                      .compute = o->compute ? o->compute : o->storage,
                      .scale_rule = tensor_scale_rule(o),
                      .scale_axis = o->scale_axis,
                      .sigma = o->sigma,
                      .train_scale = o->train_scale != 0,
                      .row_bytes = format_row_bytes(o->storage, cols),
                      .num_scales = scales_of(o, rows),
                      .data = data,
                      .scales = scales,
                      .compute_scale = 1.0f};
    t->data_bytes = rows * t->row_bytes;
    if (data) {
        const int8_t zero[UNIT] = {0};
        for (size_t i = 0; i < t->num_scales; i++)
            scales[i] = 1.0f;
        if (format_is_code(t->storage) && t->storage != DQT_FORMAT_INT8) {
            const size_t unit = format_unit_bytes(t->storage);
            for (size_t i = 0; i < t->data_bytes; i += unit)
                unit_pack(t->storage, zero, data + i);
        }
        tensor_refresh(t);
    }
    *out = t;
    return DQT_OK;
}

void tensor_destroy(dqt_tensor *t) {
    if (!t) return;
    dqt_tensor_options o = {.storage = t->storage, .scale_axis = t->scale_axis};
    memory_free(t->ctx, t, t->data ? tensor_memory(t->rows, t->cols, &o) : round_up(sizeof *t, ALIGNMENT));
}

void tensor_pack_codes(dqt_tensor *t, size_t row, const int8_t *codes) {
    const size_t unit = format_unit_bytes(t->storage);
    unsigned char *packed = tensor_row(t, row);
    for (size_t c = 0; c < t->cols; c += UNIT, packed += unit) {
        int8_t padded[UNIT] = {0};
        memcpy(padded, codes + c, t->cols - c < UNIT ? t->cols - c : UNIT);
        unit_pack(t->storage, padded, packed);
    }
}

/* Storage value of columns [col, col + count), scale included. */
static void read_storage(const dqt_tensor *t, size_t row, size_t col, size_t count, float *out) {
    const unsigned char *data = tensor_row(t, row);
    if (t->storage == DQT_FORMAT_F32) {
        memcpy(out, (const float *)(const void *)data + col, count * sizeof *out);
    } else if (t->storage == DQT_FORMAT_BF16) {
        const uint16_t *h = (const uint16_t *)(const void *)data + col;
        for (size_t i = 0; i < count; i++)
            out[i] = bf16_to_f32(h[i]);
    } else {
        const float scale = tensor_scale(t, row);
        const size_t unit = format_unit_bytes(t->storage);
        int8_t codes[UNIT];
        for (size_t i = 0; i < count; i += UNIT) {
            unit_unpack(t->storage, data + (col + i) / UNIT * unit, codes);
            for (size_t k = 0; k < UNIT && i + k < count; k++)
                out[i + k] = scale * (float)codes[k];
        }
    }
}

void tensor_dequantize_row(const dqt_tensor *t, size_t row, float *out) {
    read_storage(t, row, 0, t->cols, out);
}

void tensor_read_codes(const dqt_tensor *t, size_t row, size_t col, size_t count, int8_t *codes) {
    const float inverse = 1.0f / t->compute_scale;
    const float low = (float)format_min(t->compute), high = (float)format_max(t->compute);
    float values[UNIT];
    int8_t unit_codes[UNIT];
    for (size_t i = 0; i < count; i += UNIT) {
        const size_t n = count - i < UNIT ? count - i : UNIT;
        if (t->compute == t->storage) {
            unit_unpack(t->storage, tensor_row(t, row) + (col + i) / UNIT * format_unit_bytes(t->storage), unit_codes);
            memcpy(codes + i, unit_codes, n);
        } else {
            read_storage(t, row, col + i, n, values);
            for (size_t k = 0; k < n; k++) {
                float q = rintf(values[k] * inverse);
                codes[i + k] = (int8_t)(q < low ? low : q > high ? high : q);
            }
        }
    }
}

void tensor_read_floats(const dqt_tensor *t, size_t row, size_t col, size_t count, float *out) {
    if (t->compute == t->storage) {
        read_storage(t, row, col, count, out);
        return;
    }
    int8_t codes[UNIT];
    for (size_t i = 0; i < count; i += UNIT) {
        const size_t n = count - i < UNIT ? count - i : UNIT;
        tensor_read_codes(t, row, col + i, n, codes);
        for (size_t k = 0; k < n; k++)
            out[i + k] = t->compute_scale * (float)codes[k];
    }
}
