/* Nothing in the file is believed: the config goes through the checks of model creation, lengths must be those that the
 * config implies, and a tensor is allocated when the file has given all that comes before it. Where a file's size is
 * known it bounds all lengths; the length that a stream claims has to be proved by data (source_prove). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "io/checkpoint.h"

enum {
    SENTENCE_BYTES = 400,
    BLOCK_SECTIONS = 8, /* the fewest of any block: two norms, q, k, v, o, up, down */
    BLOCK_BYTES = BLOCK_SECTIONS * (SECTION_FIXED_BYTES + PARAMETER_BYTES),
    BLOCK_MEMORY = 8192, /* more than a block with shapes only takes */
    STATE_PIECES = 8     /* at most, of a parameter */
};

struct reader {
    struct source *source;
    dqt_context *ctx;
    uint32_t sections, seen;
    uint64_t length; /* of the whole file */
    bool size_known; /* length is the file's, not only what its header says */
    struct {
        char tag[5], label[PARAMETER_NAME_BYTES];
        uint64_t payload, end; /* end: bytes consumed once the payload is */
    } head;
    struct checkpoint *out;
};

/* A failure of creation from the file's numbers is the file's, unless memory ran out. */
static dqt_status creation_failed(struct reader *r, dqt_status status, const char *what) {
    if (status == DQT_E_MEMORY) return status;
    char sentence[SENTENCE_BYTES];
    snprintf(sentence, sizeof sentence, "%s", last_error(r->ctx));
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %s: %s", what, sentence);
}

/* Before `size` bytes are allocated for what the stream claims to hold in its next `claimed` bytes. */
static dqt_status prove(struct reader *r, uint64_t claimed, uint64_t size) {
    return r->size_known ? DQT_OK : source_prove(r->source, claimed, size);
}

static dqt_status read_header(struct reader *r, uint64_t file_size) {
    struct source *s = r->source;
    unsigned char bytes[HEADER_BYTES];
    s->limit = HEADER_BYTES;
    TRY(source_bytes(s, bytes, sizeof bytes));
    if (memcmp(bytes, checkpoint_magic, sizeof checkpoint_magic) != 0)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: this is not a checkpoint of libdqt");
    if (crc32c_add(&s->table, 0, bytes, HEADER_BYTES - 4) != get_le(bytes + 24, 4))
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the header is damaged");
    const uint64_t version = get_le(bytes + 8, 4);
    if (version != CHECKPOINT_VERSION)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: format version %llu; this library reads version %d",
                    (unsigned long long)version, CHECKPOINT_VERSION);
    r->sections = (uint32_t)get_le(bytes + 12, 4);
    r->length = get_le(bytes + 16, 8);
    if (file_size != UINT64_MAX && file_size != r->length)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the file has %llu bytes, its header says %llu",
                    (unsigned long long)file_size, (unsigned long long)r->length);
    if (r->length < HEADER_BYTES) return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the header's length is impossible");
    s->limit = r->length;
    r->size_known = file_size != UINT64_MAX;
    return DQT_OK;
}

static dqt_status next_section(struct reader *r) {
    struct source *s = r->source;
    uint64_t label_length, crc;
    s->crc = 0;
    TRY(source_bytes(s, r->head.tag, 4));
    TRY(source_number(s, 4, &label_length));
    TRY(source_number(s, 8, &r->head.payload));
    if (label_length >= PARAMETER_NAME_BYTES)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %u is damaged", r->seen);
    TRY(source_bytes(s, r->head.label, (size_t)label_length));
    r->head.label[label_length] = '\0';
    const uint32_t expected = s->crc;
    TRY(source_number(s, 4, &crc));
    if (crc != expected || strlen(r->head.label) != label_length)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %u is damaged", r->seen);
    if (++r->seen > r->sections || r->head.payload > r->length - s->consumed)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %u goes beyond the end", r->seen - 1);
    r->head.end = s->consumed + r->head.payload;
    return DQT_OK;
}

static bool is_section(const struct reader *r, const char *tag, const char *label) {
    return strcmp(r->head.tag, tag) == 0 && strcmp(r->head.label, label) == 0;
}

static dqt_status expect_section(struct reader *r, const char *tag, const char *label, uint64_t payload) {
    TRY(next_section(r));
    if (!is_section(r, tag, label))
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %u is %s %s; expected %s %s", r->seen - 1, r->head.tag,
                    r->head.label, tag, label);
    if (r->head.payload != payload)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %s %s has %llu bytes; the config implies %llu", tag,
                    label, (unsigned long long)r->head.payload, (unsigned long long)payload);
    return DQT_OK;
}

static dqt_status end_section(struct reader *r) {
    const uint32_t expected = r->source->crc;
    uint64_t crc;
    TRY(source_number(r->source, 4, &crc));
    if (crc == expected) return DQT_OK;
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %s %s is damaged", r->head.tag, r->head.label);
}

/* Bytes of the parameters' sections, SIZE_MAX on overflow. */
static size_t parameters_bytes(const dqt_llama *m) {
    size_t total = 0;
    for (size_t i = 0; i < m->num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(m->layers[i]); p++) {
            const dqt_tensor *t = layer_parameter(m->layers[i], p).tensor;
            size_t scales;
            size_mul(t->num_scales, 4, &scales);
            size_add(total, scales, &total);
            size_add(total, t->data_bytes, &total);
        }
    return total;
}

/* The model has only its shape; tensors come with their sections. */
static dqt_status read_config(struct reader *r) {
    struct fields f = {.reading = true};
    TRY(expect_section(r, "CONF", "", CONFIG_BYTES));
    TRY(source_bytes(r->source, f.bytes, CONFIG_BYTES));
    TRY(end_section(r));
    dqt_llama_config c = {.struct_size = sizeof c,
                          .linear.struct_size = sizeof c.linear,
                          .embedding.struct_size = sizeof c.embedding,
                          .head.struct_size = sizeof c.head};
    fields_config(&f, &c);
    if (f.bad || c.shape_only) return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the config has an impossible number");
    if (c.num_layers > (r->length - r->source->consumed) / BLOCK_BYTES)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %zu layers do not fit the file's %llu bytes", c.num_layers,
                    (unsigned long long)r->length);
    if (c.num_layers > SOURCE_FREE / BLOCK_MEMORY) TRY(prove(r, c.num_layers * BLOCK_BYTES, UINT64_MAX));
    c.shape_only = 1;
    dqt_status status = llama_create(r->ctx, &c, &r->out->model);
    if (status != DQT_OK) return creation_failed(r, status, "config");
    if (parameters_bytes(r->out->model) > r->length - r->source->consumed)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the config's weights do not fit the file's %llu bytes",
                    (unsigned long long)r->length);
    return DQT_OK;
}

static dqt_status check_parameter(struct reader *r, const dqt_tensor *t) {
    const uint64_t expected[] = {t->rows,
                                 t->cols,
                                 t->num_scales,
                                 (uint64_t)format_public(t->storage),
                                 (uint64_t)format_public(t->compute),
                                 file_scale_rule(t->scale_rule),
                                 (uint64_t)t->scale_axis};
    bool same = true;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        uint64_t value;
        TRY(source_number(r->source, i < 3 ? 8 : 4, &value));
        same = same && value == expected[i];
    }
    return same ? DQT_OK
                : fail(r->ctx, DQT_E_FORMAT, "checkpoint: %s has another shape or format than the config's",
                       r->head.label);
}

static dqt_status read_parameter(struct reader *r, dqt_layer *layer, size_t index) {
    dqt_tensor **place = layer_parameter_place(layer, index), *t = *place;
    TRY(expect_section(r, "PARM", layer_parameter(layer, index).name,
                       PARAMETER_BYTES + 4 * (uint64_t)t->num_scales + t->data_bytes));
    TRY(check_parameter(r, t));
    const dqt_tensor_options o = {.struct_size = sizeof o,
                                  .storage = format_public(t->storage),
                                  .compute = format_public(t->compute),
                                  .scale_rule = t->scale_rule,
                                  .scale_axis = t->scale_axis,
                                  .sigma = t->sigma,
                                  .train_scale = t->train_scale};
    TRY(prove(r, r->head.end - r->source->consumed, r->head.payload));
    dqt_tensor *full;
    dqt_status status = tensor_create(r->ctx, t->rows, t->cols, &o, false, &full);
    if (status != DQT_OK) return creation_failed(r, status, r->head.label);
    tensor_destroy(t);
    *place = t = full;
    const size_t size = float_bytes(t);
    TRY(source_elements(r->source, t->scales, t->num_scales, 4));
    TRY(source_elements(r->source, t->data, t->data_bytes / (size ? size : 1), size ? size : 1));
    TRY(end_section(r));
    if (!scales_valid(t)) return fail(r->ctx, DQT_E_FORMAT, "checkpoint: a scale of %s is out of range", r->head.label);
    if (size ? !numbers_valid(t->data, t->rows * t->cols, size, true) : !codes_valid(t))
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %s holds a weight outside its format's range", r->head.label);
    tensor_refresh(t);
    return DQT_OK;
}

static dqt_status read_model(struct reader *r) {
    TRY(read_config(r));
    dqt_llama *m = r->out->model;
    for (size_t i = 0; i < m->num_layers; i++) {
        const size_t count = layer_num_parameters(m->layers[i]);
        for (size_t p = 0; p < count; p++)
            TRY(read_parameter(r, m->layers[i], p));
    }
    dqt_layer *head = m->layers[m->num_layers - 1];
    if (head->tied) head->weight[W] = head->tied->weight[W];
    m->config.shape_only = 0;
    return DQT_OK;
}

static dqt_status read_state(void *arg, const char *label, void *data, size_t count, size_t element_size) {
    struct reader *r = arg;
    TRY(expect_section(r, "STAT", label, (uint64_t)count * element_size));
    TRY(source_elements(r->source, data, count, element_size));
    TRY(end_section(r));
    if (state_valid(label, data, count, element_size)) return DQT_OK;
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: state %s holds a number that is not finite or has the wrong sign",
                label);
}

static dqt_status create_updater(struct reader *r, const dqt_updater_options *o) {
    size_t count;
    struct update_target *targets = layers_targets(r->ctx, r->out->model->layers, r->out->model->num_layers, &count);
    if (!targets) return fail(r->ctx, DQT_E_MEMORY, "no memory for a list of %zu parameters", count);
    dqt_updater_memory_info m;
    dqt_status status = updater_memory(r->ctx, targets, count, o, &m);
    /* The pieces of the state are rounded up in memory, not in the file. */
    const uint64_t rounding = (uint64_t)count * STATE_PIECES * ALIGNMENT;
    if (status == DQT_OK && m.momentum + m.variance + m.scales > rounding + r->length - r->source->consumed)
        status =
            fail(r->ctx, DQT_E_FORMAT, "its state does not fit the file's %llu bytes", (unsigned long long)r->length);
    const dqt_status proved = status == DQT_OK ? prove(r, r->length - r->source->consumed, m.total) : DQT_OK;
    if (status == DQT_OK && proved == DQT_OK) status = updater_create(r->ctx, targets, count, o, &r->out->updater);
    layers_targets_free(r->ctx, targets, count);
    TRY(proved);
    return status == DQT_OK ? DQT_OK : creation_failed(r, status, "updater");
}

static dqt_status read_rules(struct reader *r) {
    dqt_updater *u = r->out->updater;
    const size_t count = updater_num_parameters(u);
    TRY(expect_section(r, "RULE", "", (uint64_t)count * RULE_BYTES));
    for (size_t i = 0; i < count; i++) {
        struct fields f = {.reading = true};
        struct update_rule rule;
        TRY(source_bytes(r->source, f.bytes, RULE_BYTES));
        fields_rule(&f, &rule);
        if (!updater_set_rule(u, i, rule))
            return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the rule of %s is impossible", updater_target(u, i)->name);
    }
    return end_section(r);
}

/* The section OPTS has begun. */
static dqt_status read_updater(struct reader *r) {
    struct fields f = {.reading = true};
    if (r->head.payload != OPTIONS_BYTES)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the updater's options are damaged");
    TRY(source_bytes(r->source, f.bytes, OPTIONS_BYTES));
    TRY(end_section(r));
    dqt_updater_options o = {.struct_size = sizeof o};
    fields_options(&f, &o);
    TRY(create_updater(r, &o));
    TRY(read_rules(r));
    TRY(updater_visit_state(r->out->updater, read_state, r));
    return next_section(r);
}

static dqt_status skip_section(struct reader *r) {
    TRY(source_skip(r->source, r->head.end - r->source->consumed));
    TRY(end_section(r));
    return next_section(r);
}

static dqt_status read_host(struct reader *r, bool wanted) {
    if (!is_section(r, "HOST", ""))
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %u is %s %s; expected HOST", r->seen - 1, r->head.tag,
                    r->head.label);
    if (r->head.payload >= SIZE_MAX)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the host's bytes do not fit this system");
    const size_t size = (size_t)r->head.payload;
    r->out->host_size = size;
    if (wanted && size) {
        TRY(prove(r, size, size));
        r->out->host = memory_alloc_raw(r->ctx, size);
        if (!r->out->host) return fail(r->ctx, DQT_E_MEMORY, "no memory for the host's %zu bytes", size);
        TRY(source_bytes(r->source, r->out->host, size));
    } else {
        TRY(source_skip(r->source, size));
    }
    return end_section(r);
}

static dqt_status read_all(struct reader *r, uint64_t file_size, struct checkpoint_wanted wanted) {
    TRY(read_header(r, file_size));
    TRY(read_model(r));
    TRY(next_section(r));
    if (is_section(r, "OPTS", "") && wanted.updater) {
        TRY(read_updater(r));
    } else if (is_section(r, "OPTS", "")) {
        TRY(skip_section(r));
        while (is_section(r, "RULE", "") || strcmp(r->head.tag, "STAT") == 0)
            TRY(skip_section(r));
    }
    TRY(read_host(r, wanted.host));
    TRY(expect_section(r, "END.", "", 0));
    TRY(end_section(r));
    if (r->seen == r->sections && r->source->consumed == r->length) return DQT_OK;
    return fail(r->ctx, DQT_E_FORMAT,
                "checkpoint: it ends after %u sections and %llu bytes; the header says %u and %llu", r->seen,
                (unsigned long long)r->source->consumed, r->sections, (unsigned long long)r->length);
}

dqt_status checkpoint_read(dqt_context *ctx, dqt_read_fn read, void *user_data, uint64_t file_size,
                           struct checkpoint_wanted wanted, struct checkpoint *out) {
    *out = (struct checkpoint){0};
    struct reader r = {.ctx = ctx, .out = out};
    TRY(source_create(ctx, "checkpoint", read, user_data, &r.source));
    dqt_status status = read_all(&r, file_size, wanted);
    source_destroy(r.source);
    if (status == DQT_OK) return DQT_OK;
    updater_destroy(out->updater);
    llama_destroy(out->model);
    memory_free(ctx, out->host, out->host_size);
    *out = (struct checkpoint){0};
    return status;
}
