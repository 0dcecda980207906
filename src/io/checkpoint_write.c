#include <string.h>

#include "core/status.h"
#include "io/checkpoint_part.h"
#include "io/checkpoint_stage.h"

struct writer {
    struct sink *sink;
    const struct checkpoint_source *from;
    uint32_t sections;
    bool all_parts;        /* the file of an updater of all rows, from one of one part */
    struct parts *parts;   /* the others; NULL: of states of rows only the sections' heads are made */
    bool of_stages;        /* the file of a whole model, from partial ones */
    struct stages *stages; /* the others; NULL: their sections are left out */
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

static dqt_status write_entries(struct writer *w, const char *tag, const char *label, const struct entry_table *table,
                                const void *object) {
    TRY(begin_section(w, tag, label, entries_bytes(table, object)));
    TRY(entries_write(w->sink, table, object));
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
    const struct file_tensor head = file_tensor_of(t);
    const uint64_t head_bytes = entries_bytes(&tensor_table, &head);
    const size_t size = float_bytes(t);
    TRY(begin_section(w, "PARM", p->name, 4 + head_bytes + (uint64_t)tensor_scale_bytes(t) + t->data_bytes));
    TRY(sink_number(s, head_bytes, 4));
    TRY(entries_write(s, &tensor_table, &head));
    if (!s->write && (!scales_valid(t) || (size && !numbers_valid(t->data, t->rows * t->cols, size, true))))
        return not_finite(s->ctx, p->name);
    TRY(write_scales(s, t));
    if (size)
        TRY(sink_elements(s, t->data, t->rows * t->cols, size));
    else
        TRY(write_codes(s, t));
    return end_section(w);
}

static dqt_status write_state(void *arg, const struct state_array *a) {
    struct writer *w = arg;
    if (!w->sink->write && !state_valid(a->label, a->data, a->count, a->element_size))
        return not_finite(w->sink->ctx, a->label);
    const uint64_t own = (uint64_t)a->count * a->element_size;
    if (!w->all_parts || !a->row_elements) {
        TRY(begin_section(w, "STAT", a->label, own));
        TRY(sink_elements(w->sink, a->data, a->count, a->element_size));
        return end_section(w);
    }
    const uint64_t all = state_range_of(w->from->updater, a, 0, 1).all;
    TRY(begin_section(w, "STAT", a->label, all));
    if (!w->sink->write) w->sink->written += all;
    if (w->parts) TRY(parts_copy(w->parts, w->sink, a));
    return end_section(w);
}

/* ---- Groups of sections, of which partial models send theirs --------------------------------------------------------
 */

static bool is_of_parameter(const struct state_array *a) {
    return strchr(a->label, '.') != NULL;
}

static dqt_status write_total(void *arg, const struct state_array *a) {
    return is_of_parameter(a) ? DQT_OK : write_state(arg, a);
}

static dqt_status write_states_of_parameters(void *arg, const struct state_array *a) {
    return is_of_parameter(a) ? write_state(arg, a) : DQT_OK;
}

/* Both functions only read. */
static dqt_status visit(struct writer *w, state_visit_fn write) {
    return updater_visit_state((dqt_updater *)(uintptr_t)w->from->updater, write, w);
}

static dqt_status write_parameters(struct writer *w) {
    const struct checkpoint_source *from = w->from;
    for (size_t i = 0; i < from->num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(from->layers[i]); p++) {
            const struct update_target target = layer_parameter(from->layers[i], p);
            TRY(write_parameter(w, &target));
        }
    return DQT_OK;
}

static dqt_status write_rules(struct writer *w) {
    const dqt_updater *u = w->from->updater;
    for (size_t i = 0; i < updater_num_parameters(u); i++) {
        const struct file_rule rule = file_rule_of(u, i);
        TRY(write_entries(w, "RULE", updater_target(u, i)->name, &rule_table, &rule));
    }
    return DQT_OK;
}

static dqt_status write_group(struct writer *w, enum stage_group group) {
    switch (group) {
    case STAGE_PARAMETERS: return write_parameters(w);
    case STAGE_RULES: return w->from->updater ? write_rules(w) : DQT_OK;
    case STAGE_STATES: return w->from->updater ? visit(w, write_states_of_parameters) : DQT_OK;
    case STAGE_GROUPS: break;
    }
    return DQT_OK;
}

/* Its own, and the other partial models'. */
static dqt_status write_groups(struct writer *w, enum stage_group group) {
    TRY(write_group(w, group));
    return w->stages ? stages_copy(w->stages, group, w->sink, &w->sections) : DQT_OK;
}

/* ---- The sections in their order ----------------------------------------------------------------------------------
 */

static dqt_status write_config(struct writer *w) {
    dqt_llama_config c = w->from->model->config;
    if (w->of_stages) c.first_block = c.num_blocks = 0;
    TRY(write_entries(w, "CONF", "", &config_table, &c));
    for (size_t i = 0; i < c.num_overrides; i++)
        TRY(write_entries(w, "OVER", c.overrides[i].pattern, &override_table, &c.overrides[i]));
    return DQT_OK;
}

static dqt_status write_options(struct writer *w) {
    dqt_updater_options o = *updater_options(w->from->updater);
    if (w->all_parts) o.part = o.num_parts = 0;
    return write_entries(w, "OPTS", "", &options_table, &o);
}

static dqt_status write_updater(struct writer *w) {
    TRY(write_options(w));
    TRY(write_groups(w, STAGE_RULES));
    TRY(visit(w, write_total));
    return write_groups(w, STAGE_STATES);
}

static dqt_status write_layers(struct writer *w) {
    const struct checkpoint_source *from = w->from;
    size_t count = 0;
    for (size_t i = 0; i < from->num_layers; i++)
        count += layer_num_parameters(from->layers[i]);
    TRY(from->model ? write_config(w) : write_entries(w, "LIST", "", &list_table, &count));
    return write_groups(w, STAGE_PARAMETERS);
}

static dqt_status write_sections(struct writer *w) {
    w->sections = 0;
    if (w->from->num_layers) TRY(write_layers(w));
    if (w->from->updater) TRY(write_updater(w));
    if (w->from->num_layers) {
        TRY(write_entries(w, "TAPE", "", &tape_table, &w->from->pass));
        TRY(begin_section(w, "HOST", "", w->from->host_size));
        TRY(sink_bytes(w->sink, w->from->host, w->from->host_size));
        TRY(end_section(w));
    }
    TRY(begin_section(w, "END.", "", 0));
    return end_section(w);
}

/* ---- Parts ----------------------------------------------------------------------------------------------------- */

static const uint64_t EMPTY_DIGEST = 14695981039346656037u;

/* FNV-1a; no CRC, which is the same for all sections that end with theirs. */
static int32_t add_to_digest(void *user_data, const void *buffer, size_t size) {
    uint64_t *hash = user_data;
    for (size_t i = 0; i < size; i++)
        *hash = (*hash ^ ((const unsigned char *)buffer)[i]) * 1099511628211u;
    return 0;
}

/* Of what all parts have alike: OPTS, RULE and STAT as the file will have them, without states of rows. */
static dqt_status digest_of(struct writer *w, uint64_t *digest) {
    *digest = EMPTY_DIGEST;
    sink_begin(w->sink, add_to_digest, digest);
    TRY(write_updater(w));
    return sink_flush(w->sink);
}

static dqt_status create_parts(struct writer *w, struct parts **out) {
    uint64_t digest;
    TRY(digest_of(w, &digest));
    return parts_create(w->from->updater, digest, out);
}

static dqt_status send_part(struct writer *w, struct parts **parts, dqt_write_fn write, void *user_data) {
    sink_begin(w->sink, NULL, NULL);
    TRY(write_updater(w)); /* checks the numbers */
    TRY(create_parts(w, parts));
    return parts_send(*parts, write, user_data);
}

dqt_status checkpoint_write_part(const dqt_updater *updater, dqt_write_fn write, void *user_data) {
    const struct checkpoint_source from = {.updater = updater};
    struct writer w = {.from = &from, .all_parts = true};
    struct parts *parts = NULL;
    TRY(sink_create(updater_context(updater), &w.sink));
    dqt_status status = send_part(&w, &parts, write, user_data);
    parts_destroy(parts);
    sink_destroy(w.sink);
    return status;
}

/* ---- Partial models --------------------------------------------------------------------------------------------- */

/* Of what all have alike: CONF and OVER as the file will have them, OPTS, and STAT of no parameter. */
static dqt_status write_common(struct writer *w) {
    TRY(write_config(w));
    if (!w->from->updater) return DQT_OK;
    TRY(write_options(w));
    return visit(w, write_total);
}

/* Checks the numbers, too. */
static dqt_status describe_stage(struct writer *w, struct stage_head *h) {
    const struct checkpoint_source *from = w->from;
    *h = (struct stage_head){.first = from->layers[0]->whole.parameter,
                             .whole = from->layers[0]->whole.num_parameters,
                             .step = from->updater ? updater_step_count(from->updater) : 0,
                             .digest = EMPTY_DIGEST};
    for (size_t i = 0; i < from->num_layers; i++)
        h->count += layer_num_parameters(from->layers[i]);
    for (enum stage_group g = 0; g < STAGE_GROUPS; g++) {
        w->sections = 0;
        sink_begin(w->sink, NULL, NULL);
        TRY(write_group(w, g));
        h->bytes[g] = w->sink->written;
        h->sections[g] = w->sections;
    }
    sink_begin(w->sink, add_to_digest, &h->digest);
    TRY(write_common(w));
    return sink_flush(w->sink);
}

static dqt_status open_stages(struct writer *w) {
    struct stage_head own;
    TRY(describe_stage(w, &own));
    TRY(stages_create(w->sink->ctx, w->from->model->config.num_layers, &w->stages));
    return stages_open(w->stages, &own, w->from->read_part, w->from->part_user_data);
}

static dqt_status send_stage(struct writer *w, struct stages **stages, dqt_write_fn write, void *user_data) {
    struct stage_head own;
    TRY(describe_stage(w, &own));
    TRY(stages_create(w->sink->ctx, 0, stages));
    TRY(stages_send(*stages, &own, write, user_data));
    for (enum stage_group g = 0; g < STAGE_GROUPS; g++) {
        stages_begin_group(*stages, g);
        sink_begin(w->sink, stages_write, *stages);
        TRY(write_group(w, g));
        TRY(sink_flush(w->sink));
    }
    return DQT_OK;
}

dqt_status checkpoint_write_stage(const dqt_llama *model, const dqt_updater *updater, dqt_write_fn write,
                                  void *user_data) {
    const struct checkpoint_source from = {
        .model = model, .layers = model->layers, .num_layers = model->num_layers, .updater = updater};
    struct writer w = {.from = &from, .of_stages = true};
    struct stages *stages = NULL;
    TRY(sink_create(model->ctx, &w.sink));
    dqt_status status = send_stage(&w, &stages, write, user_data);
    stages_destroy(stages);
    sink_destroy(w.sink);
    return status;
}

/* ---- The file -------------------------------------------------------------------------------------------------- */

/* First all is counted and checked, then the header can tell the length. */
static dqt_status write_all(struct writer *w, dqt_write_fn write, void *user_data) {
    struct sink *s = w->sink;
    if (w->of_stages) TRY(open_stages(w));
    sink_begin(s, NULL, NULL);
    TRY(write_sections(w));
    const uint64_t length = HEADER_BYTES + s->written;
    const uint32_t sections = w->sections;
    if (w->all_parts) {
        TRY(create_parts(w, &w->parts));
        TRY(parts_open(w->parts, w->from->read_part, w->from->part_user_data));
    }
    sink_begin(s, write, user_data);
    TRY(sink_bytes(s, checkpoint_magic, sizeof checkpoint_magic));
    TRY(sink_number(s, CHECKPOINT_VERSION, 4));
    TRY(sink_number(s, sections, 4));
    TRY(sink_number(s, length, 8));
    TRY(sink_number(s, s->crc, 4));
    TRY(write_sections(w));
    return sink_flush(s);
}

dqt_status checkpoint_write(dqt_context *ctx, const struct checkpoint_source *from, dqt_write_fn write,
                            void *user_data) {
    struct writer w = {.from = from,
                       .all_parts = from->read_part && from->updater && updater_options(from->updater)->num_parts,
                       .of_stages = from->read_part && from->model && llama_is_partial(&from->model->config)};
    TRY(sink_create(ctx, &w.sink));
    dqt_status status = write_all(&w, write, user_data);
    parts_destroy(w.parts);
    stages_destroy(w.stages);
    sink_destroy(w.sink);
    return status;
}
