#include "read_as.h"

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
    if (status == DQT_OK) status = dqt_layers_copy(to, from, n);
    if (status != DQT_OK) {
        dqt_llama_destroy(*out);
        *out = NULL;
    }
    return status;
}
