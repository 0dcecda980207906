#include "read_as.h"

#include <stdlib.h>

/* Codes and scales as they are; float weights by way of f32, which holds each exactly. */
static dqt_status copy_parameter(const dqt_parameter *from, const dqt_parameter *to) {
    dqt_tensor_info t = {.struct_size = sizeof t};
    dqt_status status = dqt_tensor_get_info(from->tensor, &t);
    if (status != DQT_OK) return status;
    int8_t *codes = malloc(from->rows * from->cols);
    float *values = malloc(from->rows * from->cols * sizeof *values); /* scales are fewer */
    if (!codes || !values) {
        status = DQT_E_MEMORY;
    } else if (t.num_scales == 0) {
        status = dqt_tensor_dequantize(from->tensor, 0, from->rows, values);
        if (status == DQT_OK) status = dqt_tensor_quantize(to->tensor, values, DQT_ROUND_NEAREST, 0);
    } else {
        status = dqt_tensor_get_codes(from->tensor, 0, from->rows, codes);
        if (status == DQT_OK) status = dqt_tensor_set_codes(to->tensor, 0, from->rows, codes);
        if (status == DQT_OK) status = dqt_tensor_get_scales(from->tensor, values);
        if (status == DQT_OK) status = dqt_tensor_set_scales(to->tensor, values);
    }
    free(codes);
    free(values);
    return status;
}

static dqt_status copy_layer(dqt_layer *from, dqt_layer *to) {
    dqt_layer_info info = {.struct_size = sizeof info};
    dqt_status status = dqt_layer_get_info(from, &info);
    for (size_t k = 0; k < info.num_parameters && status == DQT_OK; k++) {
        dqt_parameter a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b};
        status = dqt_layer_parameter(from, k, &a);
        if (status == DQT_OK) status = dqt_layer_parameter(to, k, &b);
        if (status == DQT_OK) status = copy_parameter(&a, &b);
    }
    return status;
}

dqt_status read_as(dqt_context *ctx, dqt_llama *model, int compute, dqt_llama **out) {
    dqt_llama_config c;
    dqt_layer *const *from, *const *to;
    size_t n = 0;
    *out = NULL;
    dqt_status status = dqt_llama_config_init(&c, sizeof c);
    if (status == DQT_OK) status = dqt_llama_get_config(model, &c);
    c.linear.compute = compute;
    c.linear.train_scale = 0;
    if (status == DQT_OK) status = dqt_llama_create(ctx, &c, out);
    if (status == DQT_OK) status = dqt_llama_layers(model, &from, &n);
    if (status == DQT_OK) status = dqt_llama_layers(*out, &to, &n);
    for (size_t i = 0; i < n && status == DQT_OK; i++)
        status = copy_layer(from[i], to[i]);
    if (status != DQT_OK) {
        dqt_llama_destroy(*out);
        *out = NULL;
    }
    return status;
}
