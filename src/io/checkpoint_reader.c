#include "io/checkpoint_reader.h"

#include <stdlib.h>
#include <string.h>

#include "core/status.h"
#include "io/checkpoint_part.h"
#include "optim/state.h"

const unsigned char checkpoint_magic[8] = {'D', 'Q', 'T', 'M', 'O', 'D', 'E', 'L'};

dqt_status reader_prove(struct reader *r, uint64_t claimed, uint64_t size) {
    return r->size_known ? DQT_OK : source_prove(r->source, claimed, size);
}

/* ---- Sections ------------------------------------------------------------------------------------------------ */

dqt_status reader_header(struct reader *r, uint64_t file_size) {
    struct source *s = r->source;
    unsigned char bytes[HEADER_BYTES];
    s->limit = HEADER_BYTES;
    TRY(source_bytes(s, bytes, sizeof bytes));
    if (memcmp(bytes, checkpoint_magic, sizeof checkpoint_magic) != 0)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: this is not a checkpoint of libdqt");
    if (crc32c_add(&s->table, 0, bytes, HEADER_BYTES - 4) != get_le(bytes + 24, 4))
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the header is damaged");
    r->version = get_le(bytes + 8, 4);
    if (r->version < 1 || r->version > CHECKPOINT_VERSION)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: format version %llu; this library reads versions 1 to %d",
                    (unsigned long long)r->version, CHECKPOINT_VERSION);
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

dqt_status reader_next(struct reader *r) {
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

bool reader_at(const struct reader *r, const char *tag, const char *label) {
    return strcmp(r->head.tag, tag) == 0 && strcmp(r->head.label, label) == 0;
}

dqt_status reader_check(struct reader *r, const char *tag, const char *label) {
    if (reader_at(r, tag, label)) return DQT_OK;
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %u is %s %s; expected %s %s", r->seen - 1, r->head.tag,
                r->head.label, tag, label);
}

static dqt_status check_payload(const struct reader *r, uint64_t payload) {
    if (r->head.payload == payload) return DQT_OK;
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %s %s has %llu bytes; expected %llu", r->head.tag,
                r->head.label, (unsigned long long)r->head.payload, (unsigned long long)payload);
}

dqt_status reader_expect(struct reader *r, const char *tag, const char *label, uint64_t payload) {
    TRY(reader_next(r));
    TRY(reader_check(r, tag, label));
    return check_payload(r, payload);
}

dqt_status reader_end(struct reader *r) {
    const uint32_t expected = r->source->crc;
    uint64_t crc;
    if (r->source->consumed != r->head.end)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %s %s has another length than expected", r->head.tag,
                    r->head.label);
    TRY(source_number(r->source, 4, &crc));
    if (crc == expected) return DQT_OK;
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %s %s is damaged", r->head.tag, r->head.label);
}

dqt_status reader_skip(struct reader *r) {
    TRY(source_skip(r->source, r->head.end - r->source->consumed));
    TRY(reader_end(r));
    return reader_next(r);
}

dqt_status reader_pass(struct reader *r, const char *tag, size_t count) {
    for (; count > 0; count--) {
        TRY(reader_next(r));
        if (strcmp(r->head.tag, tag) != 0)
            return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %u is %s %s; expected %s", r->seen - 1, r->head.tag,
                        r->head.label, tag);
        TRY(source_skip(r->source, r->head.end - r->source->consumed));
        TRY(reader_end(r));
    }
    return DQT_OK;
}

dqt_status reader_pass_states(struct reader *r, size_t number) {
    while (strcmp(r->head.tag, "STAT") == 0 && strchr(r->head.label, '.') && strtoull(r->head.label, NULL, 10) < number)
        TRY(reader_skip(r));
    return DQT_OK;
}

dqt_status reader_entries(struct reader *r, const struct entry_table *table, void *object) {
    TRY(entries_read(r->source, table, r->head.payload, object));
    return reader_end(r);
}

dqt_status reader_finish(struct reader *r) {
    TRY(reader_expect(r, "END.", "", 0));
    TRY(reader_end(r));
    if (r->seen == r->sections && r->source->consumed == r->length) return DQT_OK;
    return fail(r->ctx, DQT_E_FORMAT,
                "checkpoint: it ends after %u sections and %llu bytes; the header says %u and %llu", r->seen,
                (unsigned long long)r->source->consumed, r->sections, (unsigned long long)r->length);
}

/* ---- What is in them ----------------------------------------------------------------------------------------- */

static dqt_status tensor_head(struct reader *r, struct file_tensor *t) {
    if (r->version == 1) return v1_tensor(r, t);
    uint64_t bytes;
    TRY(source_number(r->source, 4, &bytes));
    if (bytes > r->head.end - r->source->consumed)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %s %s is damaged", r->head.tag, r->head.label);
    return entries_read(r->source, &tensor_table, bytes, t);
}

dqt_status reader_parameter(struct reader *r, dqt_tensor *t) {
    struct file_tensor head = {0};
    const struct file_tensor expected = file_tensor_of(t);
    TRY(tensor_head(r, &head));
    const char *difference = entries_difference(&tensor_table, &head, &expected);
    if (difference)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %s has another %s than expected", r->head.label, difference);
    if (r->head.end - r->source->consumed != (uint64_t)tensor_scale_bytes(t) + t->data_bytes)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %s has another length than its shape", r->head.label);
    const size_t size = float_bytes(t);
    TRY(read_scales(r->source, t));
    TRY(source_elements(r->source, t->data, t->data_bytes / (size ? size : 1), size ? size : 1));
    TRY(reader_end(r));
    if (!scales_valid(t)) return fail(r->ctx, DQT_E_FORMAT, "checkpoint: a scale of %s is out of range", r->head.label);
    if (size ? !numbers_valid(t->data, t->rows * t->cols, size, true) : !codes_valid(t))
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %s holds a weight outside its format's range", r->head.label);
    tensor_refresh(t);
    return DQT_OK;
}

dqt_status reader_state(struct reader *r, const struct state_array *a, const dqt_updater *of, void *data) {
    const uint64_t own = (uint64_t)a->count * a->element_size;
    struct state_range range = {0, own, own};
    if (of) {
        const dqt_updater_options *o = updater_options(of);
        range = state_range_of(of, a, (size_t)o->part, (size_t)o->num_parts);
        DQT_ASSERT(range.end - range.begin == own);
    }
    TRY(reader_next(r));
    TRY(reader_pass_states(r, r->before));
    TRY(reader_check(r, "STAT", a->label));
    TRY(check_payload(r, range.all));
    TRY(source_skip(r->source, range.begin));
    TRY(source_elements(r->source, data, a->count, a->element_size));
    TRY(source_skip(r->source, r->head.end - r->source->consumed));
    TRY(reader_end(r));
    if (state_valid(a->label, data, a->count, a->element_size)) return DQT_OK;
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: state %s holds a number that is not finite or has the wrong sign",
                a->label);
}

dqt_status reader_tail(struct reader *r, bool host) {
    if (r->version > 1) {
        TRY(reader_check(r, "TAPE", ""));
        TRY(reader_entries(r, &tape_table, &r->out->pass));
        TRY(reader_next(r));
    }
    TRY(reader_check(r, "HOST", ""));
    if (r->head.payload >= SIZE_MAX)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the host's bytes do not fit this system");
    const size_t size = (size_t)r->head.payload;
    r->out->host_size = host ? size : 0;
    if (host && size) {
        TRY(reader_prove(r, size, size));
        r->out->host = memory_alloc_raw(r->ctx, size);
        if (!r->out->host) return fail(r->ctx, DQT_E_MEMORY, "no memory for the host's %zu bytes", size);
        TRY(source_bytes(r->source, r->out->host, size));
    } else {
        TRY(source_skip(r->source, size));
    }
    return reader_end(r);
}

/* ---- Numbers ------------------------------------------------------------------------------------------------- */

struct file_tensor file_tensor_of(const dqt_tensor *t) {
    return (struct file_tensor){.rows = t->rows,
                                .cols = t->cols,
                                .num_scales = t->num_scales,
                                .storage = format_public(t->storage),
                                .compute = format_public(t->compute),
                                .scale_rule = t->num_scales ? t->scale_rule : 0,
                                .scale_axis = t->scale_axis,
                                .group_size = tensor_options_of(t).group_size};
}

struct file_rule file_rule_of(const dqt_updater *u, size_t index) {
    const struct update_rule r = updater_get_rule(u, index);
    return (struct file_rule){.optimizer = updater_optimizer(u, index),
                              .rounding = r.rounding,
                              .frozen = r.frozen,
                              .lr_factor = r.lr_factor,
                              .weight_decay = r.weight_decay,
                              .beta1 = r.beta1,
                              .rounding_noise = r.rounding_noise};
}

bool file_rule_set(dqt_updater *u, size_t index, const struct file_rule *rule) {
    if (rule->frozen != 0 && rule->frozen != 1) return false;
    return rule->optimizer == updater_optimizer(u, index) &&
           updater_set_rule(u, index,
                            (struct update_rule){.lr_factor = rule->lr_factor,
                                                 .weight_decay = rule->weight_decay,
                                                 .rounding = rule->rounding,
                                                 .beta1 = rule->beta1,
                                                 .rounding_noise = rule->rounding_noise,
                                                 .frozen = rule->frozen != 0});
}

bool state_valid(const char *label, const void *data, size_t count, size_t size) {
    if (size == 1 || strcmp(label, "step") == 0) return true;
    const char *dot = strchr(label, '.'), *what = dot ? dot + 1 : label;
    return numbers_valid(data, count, size, strcmp(what, "m") == 0 || strcmp(what, "scale_m") == 0) &&
           (size == 8 || strcmp(what, "rate") == 0 || state_in_range(data, count, size));
}
