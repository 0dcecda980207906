/* The header is made twice, once to learn its length; then the data follow in the same order: floats first, so that
 * they are aligned. */
#include <math.h>
#include <stdio.h>

#include "core/status.h"
#include "io/safetensors.h"

enum { RUN = 256, LINE_BYTES = 320 };

struct writer {
    struct parameter_list list;
    int dtype;
    bool stored;       /* storage, not compute formats */
    bool transformers; /* names */
    struct sink *sink;
    uint64_t offset;
    bool first;
};

struct stored_tensor {
    char name[FILE_NAME_BYTES + 8];
    dqt_tensor tensor; /* with the compute format that is to be read */
    enum element_type type;
    bool scales, vector;
    size_t rows, cols; /* of the listing */
};
typedef dqt_status (*stored_fn)(struct writer *w, const struct stored_tensor *stored);

static bool packed(const struct writer *w, const dqt_tensor *t) {
    return w->dtype == DQT_SAFETENSORS_CODES && format_is_code(t->storage);
}

static enum element_type type_in(const struct writer *w, const struct update_target *p) {
    const dqt_tensor *t = p->tensor;
    if (packed(w, t)) return TYPE_U8;
    if (class_is_vector(p->parameter_class)) return TYPE_F32;
    if (w->dtype == DQT_SAFETENSORS_CODES) return format_float_bytes(t->storage) == 2 ? TYPE_BF16 : TYPE_F32;
    return w->dtype == DQT_SAFETENSORS_BF16 ? TYPE_BF16 : TYPE_F32;
}

static dqt_status visit_parameter(struct writer *w, stored_fn visit, size_t index, bool f32) {
    const struct update_target p = list_parameter(&w->list, index);
    struct stored_tensor stored = {
        .tensor = *p.tensor, .type = type_in(w, &p), .vector = class_is_vector(p.parameter_class)};
    if (w->stored) stored.tensor.compute = stored.tensor.storage;
    stored.rows = p.tensor->rows;
    stored.cols = stored.type == TYPE_U8 ? p.tensor->row_bytes : p.tensor->cols;
    (w->transformers ? transformers_name : hf_name)(&w->list, index, stored.name);
    if ((stored.type == TYPE_F32) == f32) TRY(visit(w, &stored));
    if (!packed(w, p.tensor) || (scale_type(p.tensor) == TYPE_F32) != f32) return DQT_OK;
    strcat(stored.name, "_scale");
    stored.type = scale_type(p.tensor);
    stored.scales = stored.vector = true;
    stored.cols = p.tensor->num_scales;
    return visit(w, &stored);
}

static dqt_status each_stored(struct writer *w, stored_fn visit) {
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < w->list.count; i++)
            TRY(visit_parameter(w, visit, i, pass == 0));
    return DQT_OK;
}

static dqt_status check_stored(struct writer *w, const struct stored_tensor *stored) {
    const dqt_tensor *t = &stored->tensor;
    const dqt_context *ctx = w->list.model->ctx;
    float values[RUN];
    if (!scales_valid(t)) return fail(ctx, DQT_E_NUMERIC, "%s: a scale is out of range", stored->name);
    if (format_is_code(t->storage)) return DQT_OK;
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->cols; c += RUN) {
            const size_t n = size_min(t->cols - c, RUN);
            tensor_read_floats(t, r, c, n, values);
            for (size_t k = 0; k < n; k++)
                if (!isfinite(stored->type == TYPE_BF16 ? bf16_to_f32(f32_to_bf16(values[k])) : values[k]))
                    return fail(ctx, DQT_E_NUMERIC, "%s: the weight at row %zu, column %zu is %g", stored->name, r,
                                c + k, (double)values[k]);
        }
    return DQT_OK;
}

static dqt_status list_stored(struct writer *w, const struct stored_tensor *stored) {
    static const char *const names[] = {"F32", "BF16", "F16", "U8"};
    char line[LINE_BYTES], shape[64];
    const uint64_t bytes = (uint64_t)stored->rows * stored->cols * element_bytes(stored->type);
    const uint64_t begin = w->offset;
    w->offset += stored->scales ? (uint64_t)tensor_scale_bytes(&stored->tensor) : bytes;
    if (stored->vector)
        snprintf(shape, sizeof shape, "%zu", stored->cols);
    else
        snprintf(shape, sizeof shape, "%zu,%zu", stored->rows, stored->cols);
    snprintf(line, sizeof line, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}", stored->name,
             names[stored->type], shape, (unsigned long long)begin, (unsigned long long)w->offset);
    return sink_bytes(w->sink, line, strlen(line));
}

static dqt_status write_metadata(struct writer *w, const char *key, const char *value) {
    char line[LINE_BYTES];
    snprintf(line, sizeof line, ",\"%s\":\"%s\"", key, value);
    return sink_bytes(w->sink, line, strlen(line));
}

/* What readers of codes must know. */
static dqt_status write_formats(struct writer *w) {
    const dqt_llama_config *c = &w->list.model->config;
    const int32_t formats[] = {c->embedding.storage, c->linear.storage, c->head.storage};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        TRY(write_metadata(w, format_keys[i], format_public_name(formats[i])));
    for (size_t i = 0; i < w->list.count; i++) {
        const struct update_target p = list_parameter(&w->list, i);
        char key[FILE_NAME_BYTES + 8] = "dqt.";
        if (!packed(w, p.tensor) || format_public(p.tensor->storage) == formats[format_key_of(p.parameter_class)])
            continue;
        hf_name(&w->list, i, key + strlen(key));
        TRY(write_metadata(w, key, format_name(p.tensor->storage)));
    }
    return DQT_OK;
}

/* "format" is what transformers asks for. */
static dqt_status write_header(struct writer *w) {
    static const char begin[] = "{\"__metadata__\":{\"format\":\"pt\"";
    w->offset = 0;
    TRY(sink_bytes(w->sink, begin, sizeof begin - 1));
    if (w->dtype == DQT_SAFETENSORS_CODES) TRY(write_formats(w));
    TRY(sink_bytes(w->sink, "}", 1));
    TRY(each_stored(w, list_stored));
    return sink_bytes(w->sink, "}", 1);
}

static dqt_status write_stored(struct writer *w, const struct stored_tensor *stored) {
    const dqt_tensor *t = &stored->tensor;
    float values[RUN];
    uint16_t halves[RUN];
    if (stored->scales) return write_scales(w->sink, t);
    if (stored->type == TYPE_U8) return write_codes(w->sink, t);
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->cols; c += RUN) {
            const size_t n = size_min(t->cols - c, RUN);
            tensor_read_floats(t, r, c, n, values);
            if (stored->type == TYPE_F32) {
                TRY(sink_elements(w->sink, values, n, 4));
                continue;
            }
            for (size_t k = 0; k < n; k++)
                halves[k] = f32_to_bf16(values[k]);
            TRY(sink_elements(w->sink, halves, n, 2));
        }
    return DQT_OK;
}

static dqt_status write_file(struct writer *w, dqt_write_fn write, void *user_data) {
    struct sink *s = w->sink;
    sink_begin(s, NULL, NULL);
    TRY(write_header(w));
    const uint64_t length = (s->written + 7) / 8 * 8;
    sink_begin(s, write, user_data);
    TRY(sink_number(s, length, 8));
    TRY(write_header(w));
    while (s->written < 8 + length)
        TRY(sink_bytes(s, " ", 1));
    TRY(each_stored(w, write_stored));
    return sink_flush(s);
}

dqt_status safetensors_write(const dqt_llama *model, const dqt_safetensors_options *o, bool transformers,
                             dqt_write_fn write, void *user_data) {
    struct writer w = {
        .list = parameter_list(model), .dtype = o->dtype, .stored = o->stored != 0, .transformers = transformers};
    if (o->dtype < DQT_SAFETENSORS_F32 || o->dtype > DQT_SAFETENSORS_CODES)
        return fail(model->ctx, DQT_E_ARGUMENT, "dtype is %d; it must be a DQT_SAFETENSORS_* value", o->dtype);
    if (o->stored != 0 && o->stored != 1)
        return fail(model->ctx, DQT_E_ARGUMENT, "stored is %d; it must be 0 or 1", o->stored);
    if (o->dtype == DQT_SAFETENSORS_CODES) w.stored = true;
    TRY(each_stored(&w, check_stored));
    TRY(sink_create(model->ctx, &w.sink));
    dqt_status status = write_file(&w, write, user_data);
    sink_destroy(w.sink);
    return status;
}
