#include "read_as.h"

#include <stdlib.h>

/* Codes and scales. Trained scales of groups are floats, and those of the copy fp16: they are rounded. */
static dqt_status copy_rounded(dqt_tensor *to, const dqt_tensor *from) {
    dqt_tensor_info info = DQT_INIT(dqt_tensor_info);
    dqt_status status = dqt_tensor_get_info(from, &info);
    if (status != DQT_OK) return status;
    if (!info.train_scale || info.scale_axis != DQT_AXIS_GROUP) return dqt_tensor_copy(to, from);
    float *scales = malloc(info.num_scales * sizeof *scales);
    int8_t *codes = malloc(info.cols);
    if (!scales || !codes) status = DQT_E_MEMORY;
    if (status == DQT_OK) status = dqt_tensor_get_scales(from, scales);
    if (status == DQT_OK) status = dqt_tensor_set_scales(to, scales);
    for (size_t row = 0; row < info.rows && status == DQT_OK; row++) {
        status = dqt_tensor_get_codes(from, row, 1, codes);
        if (status == DQT_OK) status = dqt_tensor_set_codes(to, row, 1, codes);
    }
    free(codes);
    free(scales);
    return status;
}

static dqt_status copy_layer(dqt_layer *to, const dqt_layer *from) {
    dqt_layer_info info = DQT_INIT(dqt_layer_info);
    dqt_status status = dqt_layer_get_info(from, &info);
    for (size_t i = 0; i < info.num_parameters && status == DQT_OK; i++) {
        dqt_parameter source = DQT_INIT(dqt_parameter), target = DQT_INIT(dqt_parameter);
        status = dqt_layer_get_parameter(from, i, &source);
        if (status == DQT_OK) status = dqt_layer_get_parameter(to, i, &target);
        if (status == DQT_OK) status = copy_rounded(target.tensor, source.tensor);
    }
    return status;
}

dqt_status read_as(dqt_context *ctx, dqt_llama *model, int compute, dqt_llama **out) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_layer *const *from, *const *to;
    size_t n = 0;
    *out = NULL;
    dqt_status status = dqt_llama_get_config(model, &c);
    c.linear.compute = compute;
    c.linear.train_scale = 0;
    if (status == DQT_OK) status = dqt_llama_create(ctx, &c, out);
    if (status == DQT_OK) status = dqt_llama_get_layers(model, &from, &n);
    if (status == DQT_OK) status = dqt_llama_get_layers(*out, &to, &n);
    for (size_t i = 0; i < n && status == DQT_OK; i++)
        status = copy_layer(to[i], from[i]);
    if (status != DQT_OK) {
        dqt_llama_destroy(*out);
        *out = NULL;
    }
    return status;
}
