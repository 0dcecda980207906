/* Life, access and re-quantised reading of tensors. */
#include "format/tensor.h"

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

const dqt_tensor_options tensor_defaults = {
    .struct_size = sizeof(dqt_tensor_options), .storage = DQT_FORMAT_TERNARY, .scale_rule = DQT_SCALE_AUTO, .sigma = 4};

void tensor_complete(dqt_tensor_options *o, int32_t storage) {
    if (o->storage == 0) o->storage = storage;
    if (o->sigma == 0.0f) o->sigma = tensor_defaults.sigma;
}

static size_t scales_of(const dqt_tensor_options *o, size_t rows) {
    return !format_is_code(options_storage(o)) ? 0 : o->scale_axis == DQT_AXIS_ROW ? rows : 1;
}

static bool data_size(size_t rows, size_t cols, enum format storage, size_t *out) {
    size_t padded;
    return size_add(cols, PACK_BLOCK - 1, &padded) && size_mul(padded, 4, &padded) &&
           size_mul(rows, format_row_bytes(storage, cols), out) && *out <= SIZE_MAX / 4;
}

int tensor_scale_rule(const dqt_tensor_options *o) {
    if (o->scale_rule != DQT_SCALE_AUTO) return o->scale_rule;
    const enum format storage = options_storage(o);
    return format_default_scale_rule(format_is_code(storage) ? storage : options_compute(o));
}

dqt_status tensor_check(const dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *o) {
    size_t bytes;
    enum format storage, compute;
    if (!format_from_public(o->storage, &storage))
        return fail(ctx, DQT_E_ARGUMENT, "storage is %d; it must be a DQT_FORMAT_* value other than SAME", o->storage);
    compute = storage;
    if (o->compute != DQT_FORMAT_SAME && !format_from_public(o->compute, &compute))
        return fail(ctx, DQT_E_ARGUMENT, "compute is %d; it must be a DQT_FORMAT_* value", o->compute);
    if (o->scale_rule < DQT_SCALE_AUTO || o->scale_rule > DQT_SCALE_ABSMEAN)
        return fail(ctx, DQT_E_ARGUMENT, "scale_rule is %d; it must be a DQT_SCALE_* value", o->scale_rule);
    if (o->scale_axis != DQT_AXIS_TENSOR && o->scale_axis != DQT_AXIS_ROW)
        return fail(ctx, DQT_E_ARGUMENT, "scale_axis is %d; it must be a DQT_AXIS_* value", o->scale_axis);
    if (!(o->sigma > 0) || !isfinite(o->sigma))
        return fail(ctx, DQT_E_ARGUMENT, "sigma is %g; it must be finite and above 0", (double)o->sigma);
    if (o->train_scale != 0 && o->train_scale != 1)
        return fail(ctx, DQT_E_ARGUMENT, "train_scale is %d; it must be 0 or 1", o->train_scale);
    if (o->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_tensor_options is not 0");
    for (size_t i = 0; i < sizeof o->reserved64 / sizeof *o->reserved64; i++)
        if (o->reserved64[i]) return fail(ctx, DQT_E_ARGUMENT, "reserved64[%zu] of dqt_tensor_options is not 0", i);
    if (compute != storage && (!format_is_code(compute) || !format_fewer_values(compute, storage)))
        return fail(
            ctx, DQT_E_UNSUPPORTED,
            "compute format %s cannot be read from storage format %s: it must be an integer format of fewer bits",
            format_name(compute), format_name(storage));
    if (o->train_scale && (!format_is_code(storage) || o->scale_axis != DQT_AXIS_ROW || compute != storage))
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "train_scale needs integer storage, one scale per row and compute equal to storage");
    if (rows == 0 || cols == 0) return fail(ctx, DQT_E_SHAPE, "a tensor of %zu x %zu weights is empty", rows, cols);
    if (!data_size(rows, cols, storage, &bytes))
        return fail(ctx, DQT_E_SHAPE, "a tensor of %zu x %zu weights is too large", rows, cols);
    return DQT_OK;
}

/* One block: the struct, the scales, the data. */
static void lay_out(struct arena *a, size_t rows, size_t cols, const dqt_tensor_options *o, dqt_tensor **t,
                    float **scales, unsigned char **data) {
    size_t bytes = 0;
    *t = arena_take(a, 1, sizeof **t);
    *scales = arena_take(a, scales_of(o, rows), sizeof **scales);
    if (!data_size(rows, cols, options_storage(o), &bytes)) a->used = SIZE_MAX;
    *data = arena_take(a, bytes, 1);
}

size_t tensor_memory(size_t rows, size_t cols, const dqt_tensor_options *o) {
    struct arena a = {0};
    dqt_tensor *t;
    float *scales;
    unsigned char *data;
    lay_out(&a, rows, cols, o, &t, &scales, &data);
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
        lay_out(&a, rows, cols, o, &t, &scales, &data);
    *t = (dqt_tensor){.ctx = ctx,
                      .rows = rows,
                      .cols = cols,
                      .storage = options_storage(o),
                      .compute = options_compute(o),
                      .scale_rule = tensor_scale_rule(o),
                      .scale_axis = o->scale_axis,
                      .sigma = o->sigma,
                      .train_scale = o->train_scale != 0,
                      .row_bytes = format_row_bytes(options_storage(o), cols),
                      .num_scales = scales_of(o, rows),
                      .data = data,
                      .scales = scales,
                      .compute_scale = 1.0f};
    t->data_bytes = rows * t->row_bytes;
    if (data) {
        const int8_t zero[PACK_BLOCK] = {0};
        for (size_t i = 0; i < t->num_scales; i++)
            scales[i] = 1.0f;
        const struct packing *packing = format_packing(t->storage);
        for (size_t i = 0; packing && packing->bias && i < t->data_bytes; i += packing_block_bytes(packing))
            block_pack(packing, zero, data + i);
        tensor_refresh(t);
    }
    *out = t;
    return DQT_OK;
}

void tensor_destroy(dqt_tensor *t) {
    if (!t) return;
    dqt_tensor_options o = {.storage = format_public(t->storage), .scale_axis = t->scale_axis};
    memory_free(t->ctx, t, t->data ? tensor_memory(t->rows, t->cols, &o) : round_up(sizeof *t, ALIGNMENT));
}

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
        const float scale = tensor_scale(t, row);
        const struct packing *packing = format_packing(t->storage);
        const size_t block_bytes = packing_block_bytes(packing);
        int8_t codes[PACK_BLOCK];
        for (size_t i = 0; i < count; i += PACK_BLOCK) {
            block_unpack(packing, data + (col + i) / PACK_BLOCK * block_bytes, codes);
            for (size_t k = 0; k < PACK_BLOCK && i + k < count; k++)
                out[i + k] = scale * (float)codes[k];
        }
    }
}

void tensor_dequantize_row(const dqt_tensor *t, size_t row, float *out) {
    read_storage(t, row, 0, t->cols, out);
}

void tensor_read_codes(const dqt_tensor *t, size_t row, size_t col, size_t count, int8_t *codes) {
    DQT_ASSERT(format_is_code(t->compute) && col % PACK_BLOCK == 0 && row < t->rows && col + count <= t->cols);
    const struct packing *packing = format_packing(t->storage);
    const float inverse = 1.0f / t->compute_scale;
    const float low = (float)format_min(t->compute), high = (float)format_max(t->compute);
    float values[PACK_BLOCK];
    int8_t block_codes[PACK_BLOCK];
    for (size_t i = 0; i < count; i += PACK_BLOCK) {
        const size_t n = count - i < PACK_BLOCK ? count - i : PACK_BLOCK;
        if (t->compute == t->storage) {
            block_unpack(packing, tensor_row(t, row) + (col + i) / PACK_BLOCK * packing_block_bytes(packing),
                         block_codes);
            memcpy(codes + i, block_codes, n);
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
    DQT_ASSERT(col % PACK_BLOCK == 0 && row < t->rows && col + count <= t->cols);
    if (t->compute == t->storage) {
        read_storage(t, row, col, count, out);
        return;
    }
    int8_t codes[PACK_BLOCK];
    for (size_t i = 0; i < count; i += PACK_BLOCK) {
        const size_t n = count - i < PACK_BLOCK ? count - i : PACK_BLOCK;
        tensor_read_codes(t, row, col + i, n, codes);
        for (size_t k = 0; k < n; k++)
            out[i + k] = t->compute_scale * (float)codes[k];
    }
}

dqt_status tensor_check_copy(const dqt_tensor *to, const dqt_tensor *from) {
    if (to->rows != from->rows || to->cols != from->cols)
        return fail(to->ctx, DQT_E_SHAPE, "a tensor of %zu x %zu cannot be copied into one of %zu x %zu", from->rows,
                    from->cols, to->rows, to->cols);
    if (to->storage != from->storage || to->num_scales != from->num_scales)
        return fail(to->ctx, DQT_E_UNSUPPORTED,
                    "a tensor of %s and %zu scales cannot be copied into one of %s and %zu scales",
                    format_name(from->storage), from->num_scales, format_name(to->storage), to->num_scales);
    return DQT_OK;
}

void tensor_copy(dqt_tensor *to, const dqt_tensor *from) {
    if (to == from) return;
    memcpy(to->data, from->data, from->data_bytes);
    if (from->num_scales) memcpy(to->scales, from->scales, from->num_scales * sizeof *from->scales);
    tensor_refresh(to);
}
