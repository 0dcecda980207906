#include <string.h>

#include "core/status.h"
#include "io/checkpoint.h"

struct writer {
    struct sink *sink;
    const dqt_llama *model;
    const dqt_updater *updater;
    const void *host;
    size_t host_size;
    uint32_t sections;
};

static dqt_status begin_section(struct writer *w, const char *tag, const char *label, uint64_t payload) {
    struct sink *s = w->sink;
    w->sections++;
    s->crc = 0;
    TRY(sink_bytes(s, tag, 4));
    TRY(sink_number(s, strlen(label), 4));
    TRY(sink_number(s, payload, 8));
    TRY(sink_bytes(s, label, strlen(label)));
    return sink_number(s, s->crc, 4);
}

static dqt_status end_section(struct writer *w) {
    return sink_number(w->sink, w->sink->crc, 4);
}

static dqt_status write_config(struct writer *w) {
    struct fields f = {.used = 0};
    dqt_llama_config config = w->model->config; /* fields_config stores what it is given */
    fields_config(&f, &config);
    TRY(begin_section(w, "CONF", "", f.used));
    TRY(sink_bytes(w->sink, f.bytes, f.used));
    return end_section(w);
}

static dqt_status not_finite(const dqt_context *ctx, const char *name) {
    return fail(ctx, DQT_E_NUMERIC,
                "%s holds a number that is not finite or has the wrong sign: a checkpoint with it could not be read",
                name);
}

static dqt_status write_parameter(struct writer *w, const struct update_target *p) {
    struct sink *s = w->sink;
    const dqt_tensor *t = p->tensor;
    const size_t size = float_bytes(t);
    TRY(begin_section(w, "PARM", p->name, PARAMETER_BYTES + 4 * (uint64_t)t->num_scales + t->data_bytes));
    TRY(sink_number(s, t->rows, 8));
    TRY(sink_number(s, t->cols, 8));
    TRY(sink_number(s, t->num_scales, 8));
    TRY(sink_number(s, (uint64_t)format_public(t->storage), 4));
    TRY(sink_number(s, (uint64_t)format_public(t->compute), 4));
    TRY(sink_number(s, file_scale_rule(t->scale_rule), 4));
    TRY(sink_number(s, (uint64_t)t->scale_axis, 4));
    if (!s->write && (!scales_valid(t) || (size && !numbers_valid(t->data, t->rows * t->cols, size, true))))
        return not_finite(s->ctx, p->name);
    TRY(sink_elements(s, t->scales, t->num_scales, 4));
    if (size)
        TRY(sink_elements(s, t->data, t->rows * t->cols, size));
    else
        TRY(write_codes(s, t));
    return end_section(w);
}

static dqt_status write_state(void *arg, const char *label, void *data, size_t count, size_t element_size) {
    struct writer *w = arg;
    if (!w->sink->write && !state_valid(label, data, count, element_size)) return not_finite(w->sink->ctx, label);
    TRY(begin_section(w, "STAT", label, (uint64_t)count * element_size));
    TRY(sink_elements(w->sink, data, count, element_size));
    return end_section(w);
}

static dqt_status write_updater(struct writer *w) {
    dqt_updater_options o = *updater_options(w->updater);
    struct fields f = {.used = 0};
    fields_options(&f, &o);
    TRY(begin_section(w, "OPTS", "", f.used));
    TRY(sink_bytes(w->sink, f.bytes, f.used));
    TRY(end_section(w));
    const size_t count = updater_num_parameters(w->updater);
    TRY(begin_section(w, "RULE", "", (uint64_t)count * RULE_BYTES));
    for (size_t i = 0; i < count; i++) {
        struct update_rule rule = updater_get_rule(w->updater, i);
        f.used = 0;
        fields_rule(&f, &rule);
        TRY(sink_bytes(w->sink, f.bytes, f.used));
    }
    TRY(end_section(w));
    /* reading a checkpoint stores through the same visit; write_state only reads */
    return updater_visit_state((dqt_updater *)(uintptr_t)w->updater, write_state, w);
}

static dqt_status write_sections(struct writer *w) {
    w->sections = 0;
    TRY(write_config(w));
    for (size_t i = 0; i < w->model->num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(w->model->layers[i]); p++) {
            const struct update_target l = layer_parameter(w->model->layers[i], p);
            TRY(write_parameter(w, &l));
        }
    if (w->updater) TRY(write_updater(w));
    TRY(begin_section(w, "HOST", "", w->host_size));
    TRY(sink_bytes(w->sink, w->host, w->host_size));
    TRY(end_section(w));
    TRY(begin_section(w, "END.", "", 0));
    return end_section(w);
}

/* First all is counted and checked, then the header can tell the length. */
static dqt_status write_all(struct writer *w, dqt_write_fn write, void *user_data) {
    struct sink *s = w->sink;
    sink_begin(s, NULL, NULL);
    TRY(write_sections(w));
    const uint64_t length = HEADER_BYTES + s->written;
    sink_begin(s, write, user_data);
    TRY(sink_bytes(s, checkpoint_magic, sizeof checkpoint_magic));
    TRY(sink_number(s, CHECKPOINT_VERSION, 4));
    TRY(sink_number(s, w->sections, 4));
    TRY(sink_number(s, length, 8));
    TRY(sink_number(s, s->crc, 4));
    TRY(write_sections(w));
    return sink_flush(s);
}

dqt_status checkpoint_write(const dqt_llama *model, const dqt_updater *updater, const void *host, size_t host_size,
                            dqt_write_fn write, void *user_data) {
    struct writer w = {.model = model, .updater = updater, .host = host, .host_size = host_size};
    TRY(sink_create(model->ctx, &w.sink));
    dqt_status status = write_all(&w, write, user_data);
    sink_destroy(w.sink);
    return status;
}
