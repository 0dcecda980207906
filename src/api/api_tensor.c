/* Tensors. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "api/check.h"
#include "core/fpenv.h"

dqt_status dqt_tensor_options_init(dqt_tensor_options *options, size_t struct_size) {
    return options_init(options, struct_size, &tensor_defaults, sizeof tensor_defaults, "dqt_tensor_options");
}

dqt_status dqt_tensor_create(dqt_context *ctx, size_t rows, size_t cols, const dqt_tensor_options *options,
                             dqt_tensor **out) {
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, out, "out"));
    dqt_tensor_options o = tensor_defaults;
    TRY(options_read(ctx, &o, sizeof o, options, "dqt_tensor_options"));
    tensor_complete(&o, DQT_FORMAT_TERNARY);
    return tensor_create(ctx, rows, cols, &o, false, out);
}

void dqt_tensor_destroy(dqt_tensor *tensor) {
    tensor_destroy(tensor);
}

dqt_status dqt_tensor_get_info(const dqt_tensor *tensor, dqt_tensor_info *info) {
    TRY(check_object(tensor, "tensor"));
    const dqt_tensor *t = tensor;
    dqt_tensor_info i;
    memset(&i, 0, sizeof i); /* the gap before rows too: the whole struct is copied to the host */
    i.struct_size = sizeof i;
    i.storage = format_public(t->storage);
    i.compute = format_public(t->compute);
    i.scale_rule = t->scale_rule;
    i.scale_axis = t->scale_axis;
    i.train_scale = t->train_scale;
    i.code_min = format_min(t->storage);
    i.code_max = format_max(t->storage);
    i.sigma = t->sigma;
    i.group_size = tensor_options_of(t).group_size;
    i.rows = t->rows;
    i.cols = t->cols;
    i.row_bytes = t->row_bytes;
    i.data_bytes = t->data_bytes;
    i.num_scales = t->num_scales;
    return options_return(t->ctx, info, &i, sizeof i, "dqt_tensor_info");
}

/* A tensor with weights: shape-only ones have none. */
static dqt_status check_tensor(const dqt_tensor *t) {
    TRY(check_object(t, "tensor"));
    return t->data ? DQT_OK : fail(t->ctx, DQT_E_STATE, "the tensor is shape-only: it has no weights");
}

static dqt_status check_codes(const dqt_tensor *t) {
    if (format_is_code(t->storage)) return DQT_OK;
    return fail(t->ctx, DQT_E_UNSUPPORTED, "a tensor of %s storage has no codes", format_name(t->storage));
}

static dqt_status check_rounding(const dqt_context *ctx, int32_t rounding) {
    if (rounding == DQT_ROUND_DEFAULT || rounding == DQT_ROUND_STOCHASTIC || rounding == DQT_ROUND_NEAREST)
        return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "rounding is %d; it must be STOCHASTIC or NEAREST", rounding);
}

dqt_status dqt_tensor_quantize(dqt_tensor *tensor, const float *weights, int32_t rounding, uint64_t seed) {
    FPENV_DEFAULT();
    TRY(check_tensor(tensor));
    TRY(check_pointer(tensor->ctx, weights, "weights"));
    TRY(check_rounding(tensor->ctx, rounding));
    TRY(check_finite(tensor->ctx, weights, tensor->rows * tensor->cols, "weights"));
    tensor_quantize(tensor, weights, rounding == DQT_ROUND_STOCHASTIC, seed);
    return DQT_OK;
}

dqt_status dqt_tensor_dequantize(const dqt_tensor *tensor, size_t row, size_t count, float *out) {
    FPENV_DEFAULT();
    TRY(check_tensor(tensor));
    TRY(check_pointer(tensor->ctx, out, "out"));
    TRY(check_range(tensor->ctx, row, count, tensor->rows, "rows"));
    for (size_t r = 0; r < count; r++)
        tensor_dequantize_row(tensor, row + r, out + r * tensor->cols);
    return DQT_OK;
}

dqt_status dqt_tensor_get_codes(const dqt_tensor *tensor, size_t row, size_t count, int8_t *codes) {
    TRY(check_tensor(tensor));
    TRY(check_pointer(tensor->ctx, codes, "codes"));
    TRY(check_codes(tensor));
    TRY(check_range(tensor->ctx, row, count, tensor->rows, "rows"));
    const dqt_tensor stored = tensor_as_stored(tensor);
    for (size_t r = 0; r < count; r++)
        tensor_read_codes(&stored, row + r, 0, tensor->cols, codes + r * tensor->cols);
    return DQT_OK;
}

dqt_status dqt_tensor_set_codes(dqt_tensor *tensor, size_t row, size_t count, const int8_t *codes) {
    FPENV_DEFAULT();
    TRY(check_tensor(tensor));
    TRY(check_pointer(tensor->ctx, codes, "codes"));
    TRY(check_codes(tensor));
    TRY(check_range(tensor->ctx, row, count, tensor->rows, "rows"));
    const int low = format_min(tensor->storage), high = format_max(tensor->storage);
    for (size_t i = 0; i < count * tensor->cols; i++)
        if (codes[i] < low || codes[i] > high)
            return fail(tensor->ctx, DQT_E_ARGUMENT, "codes[%zu] is %d; %s holds %d to %d", i, codes[i],
                        format_name(tensor->storage), low, high);
    for (size_t r = 0; r < count; r++)
        tensor_pack_codes(tensor, row + r, codes + r * tensor->cols);
    tensor_refresh(tensor);
    return DQT_OK;
}

dqt_status dqt_tensor_get_scales(const dqt_tensor *tensor, float *scales) {
    FPENV_DEFAULT();
    TRY(check_tensor(tensor));
    TRY(check_pointer(tensor->ctx, scales, "scales"));
    TRY(check_codes(tensor));
    tensor_get_scales(tensor, scales);
    return DQT_OK;
}

dqt_status dqt_tensor_set_scales(dqt_tensor *tensor, const float *scales) {
    FPENV_DEFAULT();
    TRY(check_tensor(tensor));
    TRY(check_pointer(tensor->ctx, scales, "scales"));
    TRY(check_codes(tensor));
    for (size_t i = 0; i < tensor->num_scales; i++)
        if (tensor->half_scales ? !tensor_scale_valid(tensor, scales[i])
                                : !(scales[i] >= FLT_MIN) || !isfinite(scales[i] * 128.0f))
            return fail(tensor->ctx, DQT_E_ARGUMENT, "scales[%zu] is %g; it must be %g to %g", i, (double)scales[i],
                        tensor->half_scales ? -65504.0 : (double)FLT_MIN,
                        tensor->half_scales ? 65504.0 : (double)FLT_MAX / 128.0);
    tensor_set_scales(tensor, scales);
    tensor_refresh(tensor);
    return DQT_OK;
}

dqt_status dqt_tensor_data(dqt_tensor *tensor, void **data, size_t *bytes) {
    TRY(check_tensor(tensor));
    TRY(check_pointer(tensor->ctx, data, "data"));
    TRY(check_pointer(tensor->ctx, bytes, "bytes"));
    *data = tensor->data;
    *bytes = tensor->data_bytes;
    return DQT_OK;
}

dqt_status dqt_tensor_touch(dqt_tensor *tensor) {
    FPENV_DEFAULT();
    TRY(check_tensor(tensor));
    tensor_refresh(tensor);
    return DQT_OK;
}

static void count_row(const dqt_tensor *t, size_t row, dqt_tensor_stats *s, double *sum, double *square) {
    const int low = format_min(t->storage), high = format_max(t->storage);
    const struct packing *packing = format_packing(t->storage);
    int8_t codes[PACK_BLOCK];
    float values[PACK_BLOCK];
    const dqt_tensor view = tensor_as_stored(t);
    for (size_t c = 0; c < t->cols; c += PACK_BLOCK) {
        const size_t n = t->cols - c < PACK_BLOCK ? t->cols - c : PACK_BLOCK;
        tensor_read_floats(&view, row, c, n, values);
        if (packing) block_unpack(packing, tensor_row(t, row) + c / PACK_BLOCK * packing_block_bytes(packing), codes);
        for (size_t k = 0; k < n; k++) {
            *sum += (double)values[k];
            *square += (double)values[k] * (double)values[k];
            if (!packing) {
                s->zeros += !(values[k] < 0 || values[k] > 0);
                continue;
            }
            s->histogram[codes[k] + 128]++;
            s->zeros += codes[k] == 0;
            s->saturated += codes[k] == low || codes[k] == high;
        }
    }
}

dqt_status dqt_tensor_get_stats(const dqt_tensor *tensor, dqt_tensor_stats *stats) {
    FPENV_DEFAULT();
    TRY(check_tensor(tensor));
    dqt_tensor_stats s = {.struct_size = sizeof s};
    double sum = 0, square = 0;
    for (size_t r = 0; r < tensor->rows; r++)
        count_row(tensor, r, &s, &sum, &square);
    const double count = (double)tensor->rows * (double)tensor->cols;
    s.mean = sum / count;
    s.rms = sqrt(square / count);
    return options_return(tensor->ctx, stats, &s, sizeof s, "dqt_tensor_stats");
}

dqt_status dqt_tensor_convert(const dqt_tensor *source, int32_t rounding, uint64_t seed,
                              const dqt_tensor_options *options, dqt_tensor **out) {
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_tensor(source));
    dqt_context *ctx = source->ctx;
    TRY(check_pointer(ctx, out, "out"));
    TRY(check_rounding(ctx, rounding));
    dqt_tensor_options o = tensor_defaults;
    TRY(options_read(ctx, &o, sizeof o, options, "dqt_tensor_options"));
    tensor_complete(&o, DQT_FORMAT_TERNARY);
    dqt_tensor *t;
    TRY(tensor_create(ctx, source->rows, source->cols, &o, false, &t));
    size_t bytes;
    float *weights =
        size_mul(source->rows * source->cols, sizeof *weights, &bytes) ? memory_alloc_raw(ctx, bytes) : NULL;
    if (!weights) {
        tensor_destroy(t);
        return fail(ctx, DQT_E_MEMORY, "no memory for %zu weights", source->rows * source->cols);
    }
    for (size_t r = 0; r < source->rows; r++)
        tensor_dequantize_row(source, r, weights + r * source->cols);
    tensor_quantize(t, weights, rounding == DQT_ROUND_STOCHASTIC, seed);
    memory_free(ctx, weights, bytes);
    *out = t;
    return DQT_OK;
}

dqt_status dqt_tensor_copy(dqt_tensor *destination, const dqt_tensor *source) {
    TRY(check_tensor(destination));
    TRY(check_pointer(destination->ctx, source, "source"));
    TRY(check_tensor(source));
    TRY(tensor_check_copy(destination, source));
    tensor_copy(destination, source);
    return DQT_OK;
}
