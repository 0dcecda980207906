#include "api/check.h"

#include <math.h>

dqt_status check_object(const void *object, const char *name) {
    return object ? DQT_OK : fail(NULL, DQT_E_ARGUMENT, "%s is NULL", name);
}

dqt_status check_pointer(const dqt_context *ctx, const void *pointer, const char *name) {
    return pointer ? DQT_OK : fail(ctx, DQT_E_ARGUMENT, "%s is NULL", name);
}

dqt_status check_index(const dqt_context *ctx, size_t index, size_t count, const char *name) {
    if (index < count) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "%s is %zu; there are %zu", name, index, count);
}

dqt_status check_range(const dqt_context *ctx, size_t first, size_t count, size_t total, const char *name) {
    if (first <= total && count <= total - first) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "%s %zu to %zu + %zu are not all within %zu", name, first, first, count, total);
}

dqt_status check_finite(const dqt_context *ctx, const float *values, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return fail(ctx, DQT_E_NUMERIC, "%s[%zu] is %g", name, i, (double)values[i]);
    return DQT_OK;
}

dqt_status check_tokens(const dqt_context *ctx, const int32_t *tokens, size_t count, int32_t lowest, size_t vocab,
                        const char *name) {
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < lowest || (tokens[i] >= 0 && (size_t)tokens[i] >= vocab))
            return fail(ctx, DQT_E_ARGUMENT, "%s[%zu] is %d; it must be %d to %zu", name, i, tokens[i], lowest, vocab - 1);
    return DQT_OK;
}

struct update_target *list_targets(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, size_t *count) {
    size_t n = 0, k = 0;
    for (size_t i = 0; i < num_layers; i++) n += layer_num_parameters(layers[i]);
    *count = n;
    struct update_target *targets = memory_alloc(ctx, (n ? n : 1) * sizeof *targets);
    if (!targets) return NULL;
    for (size_t i = 0; i < num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(layers[i]); p++) {
            const struct layer_parameter l = layer_parameter(layers[i], p);
            targets[k++] = (struct update_target){l.name, l.parameter_class, l.tensor};
        }
    return targets;
}

void free_targets(dqt_context *ctx, struct update_target *targets, size_t count) {
    memory_free(ctx, targets, (count ? count : 1) * sizeof *targets);
}

dqt_status return_parameter(const dqt_context *ctx, dqt_parameter *out, const char *name, int parameter_class, dqt_tensor *t) {
    const dqt_parameter p = {.struct_size = sizeof p,
                             .parameter_class = parameter_class,
                             .name = name,
                             .tensor = t,
                             .rows = t->rows,
                             .cols = t->cols};
    return options_return(ctx, out, &p, sizeof p, "dqt_parameter");
}
