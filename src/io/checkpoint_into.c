/* Reading a checkpoint into objects that exist: everything goes into copies first, which replace the objects' content
 * when the whole file has proved sound. */
#include <string.h>

#include "core/status.h"
#include "io/checkpoint_reader.h"

struct stage {
    struct update_target *targets; /* [count] of the layers */
    dqt_tensor **tensors;          /* [count]: copies */
    size_t count;
    dqt_updater *updater;
    bool of_all;             /* the updater has one part, the file all */
    bool without_rates;      /* the file is of an updater without rate_corrected, and this one has it */
    struct file_rule *rules; /* [num_rules] */
    size_t num_rules;
    unsigned char *state; /* the arrays of updater_visit_state, one after the other */
    size_t state_bytes, state_used;
};

/* Of an array, so that the next one is aligned for any number. */
static size_t array_bytes(size_t count, size_t element_size) {
    return round_up(count * element_size, sizeof(uint64_t));
}

static dqt_status add_bytes(void *arg, const struct state_array *a) {
    *(size_t *)arg += array_bytes(a->count, a->element_size);
    return DQT_OK;
}

static dqt_status stage_tensors(dqt_context *ctx, struct stage *s, dqt_layer *const *layers, size_t num_layers) {
    s->targets = layers_targets(ctx, layers, num_layers, &s->count);
    s->tensors = s->targets ? memory_alloc(ctx, s->count * sizeof *s->tensors + 1) : NULL;
    if (!s->tensors) return fail(ctx, DQT_E_MEMORY, "no memory for a list of %zu parameters", s->count);
    for (size_t i = 0; i < s->count; i++) {
        const dqt_tensor *t = s->targets[i].tensor;
        const dqt_tensor_options o = tensor_options_of(t);
        TRY(tensor_create(ctx, t->rows, t->cols, &o, false, &s->tensors[i]));
    }
    return DQT_OK;
}

static dqt_status stage_updater(dqt_context *ctx, struct stage *s) {
    s->num_rules = updater_num_parameters(s->updater);
    TRY(updater_visit_state(s->updater, add_bytes, &s->state_bytes));
    s->rules = memory_alloc(ctx, s->num_rules * sizeof *s->rules + 1);
    s->state = memory_alloc_raw(ctx, s->state_bytes + 1);
    if (s->rules && s->state) return DQT_OK;
    return fail(ctx, DQT_E_MEMORY, "no memory for a copy of the updater's %zu bytes of state", s->state_bytes);
}

static void stage_destroy(dqt_context *ctx, struct stage *s) {
    memory_free(ctx, s->state, s->state_bytes + 1);
    memory_free(ctx, s->rules, s->num_rules * sizeof *s->rules + 1);
    for (size_t i = 0; s->tensors && i < s->count; i++)
        tensor_destroy(s->tensors[i]);
    memory_free(ctx, s->tensors, s->count * sizeof *s->tensors + 1);
    if (s->targets) layers_targets_free(ctx, s->targets, s->count);
}

/* ---- Reading ------------------------------------------------------------------------------------------------- */

/* CONF and OVER of a model, whose parameters alone count here, or LIST. Leaves the first PARM begun. */
static dqt_status read_front(struct reader *r, const struct stage *s) {
    TRY(reader_next(r));
    if (reader_at(r, "LIST", "")) {
        size_t count = 0;
        TRY(reader_entries(r, &list_table, &count));
        if (count != s->count)
            return fail(r->ctx, DQT_E_SHAPE, "checkpoint: it has %zu parameters, the layers %zu", count, s->count);
        return reader_next(r);
    }
    TRY(reader_check(r, "CONF", ""));
    TRY(reader_skip(r));
    while (strcmp(r->head.tag, "OVER") == 0)
        TRY(reader_skip(r));
    return DQT_OK;
}

static dqt_status read_parameters(struct reader *r, const struct stage *s) {
    for (size_t i = 0; i < s->count; i++) {
        if (!reader_at(r, "PARM", s->targets[i].name))
            return fail(r->ctx, DQT_E_SHAPE, "checkpoint: where parameter %zu of the layers is %s, it has %s %s", i,
                        s->targets[i].name, r->head.tag, r->head.label);
        TRY(reader_parameter(r, s->tensors[i]));
        TRY(reader_next(r));
    }
    if (strcmp(r->head.tag, "PARM") != 0) return DQT_OK;
    return fail(r->ctx, DQT_E_SHAPE, "checkpoint: it has parameter %s, the layers end before it", r->head.label);
}

static bool is_rate(const struct state_array *a) {
    const char *dot = strchr(a->label, '.');
    return dot && strcmp(dot, ".rate") == 0;
}

static dqt_status read_state(void *arg, const struct state_array *a) {
    struct reader *r = ((void **)arg)[0];
    struct stage *s = ((void **)arg)[1];
    if (s->without_rates && is_rate(a)) {
        memset(s->state + s->state_used, 0, a->count * a->element_size);
    } else {
        TRY(reader_state(r, a, s->of_all ? s->updater : NULL, s->state + s->state_used));
    }
    s->state_used += array_bytes(a->count, a->element_size);
    return DQT_OK;
}

static dqt_status check_options(struct reader *r, const dqt_updater_options *file, const dqt_updater_options *own) {
    const char *difference = entries_difference(&options_table, file, own);
    if (!difference) return DQT_OK;
    return fail(r->ctx, DQT_E_UNSUPPORTED, "checkpoint: its updater was created with another %s than this one",
                difference);
}

static dqt_status read_rules(struct reader *r, struct stage *s) {
    if (r->version == 1) TRY(reader_expect(r, "RULE", "", (uint64_t)s->num_rules * V1_RULE_BYTES));
    for (size_t i = 0; i < s->num_rules; i++) {
        if (r->version == 1) {
            TRY(v1_rule(r, &s->rules[i]));
            s->rules[i].optimizer = updater_options(s->updater)->optimizer;
        } else {
            TRY(reader_next(r));
            TRY(reader_check(r, "RULE", updater_target(s->updater, i)->name));
            TRY(reader_entries(r, &rule_table, &s->rules[i]));
        }
        const char *name = updater_target(s->updater, i)->name;
        if (s->rules[i].optimizer != updater_optimizer(s->updater, i))
            return fail(r->ctx, DQT_E_UNSUPPORTED, "checkpoint: %s had another optimiser than this updater gives it",
                        name);
        if (!updater_keeps_state(s->updater, i, s->rules[i].rounding))
            return fail(
                r->ctx, DQT_E_UNSUPPORTED,
                "checkpoint: %s had another state than here: rounding ACCUMULATE is the one's and not the other's",
                name);
    }
    return r->version == 1 ? reader_end(r) : DQT_OK;
}

/* The section OPTS has begun; leaves the one after the state begun, or for a file of an updater alone its last read. */
static dqt_status read_updater(struct reader *r, struct stage *s) {
    dqt_updater_options o = {.struct_size = sizeof o};
    void *both[] = {r, s};
    if (r->version == 1) {
        TRY(v1_options(r, &o));
        TRY(reader_end(r));
    } else {
        TRY(reader_entries(r, &options_table, &o));
    }
    s->of_all = o.num_parts == 0 && o.part == 0 && updater_options(s->updater)->num_parts > 0;
    if (s->of_all) {
        o.part = updater_options(s->updater)->part;
        o.num_parts = updater_options(s->updater)->num_parts;
    }
    s->without_rates = !o.rate_corrected && updater_options(s->updater)->rate_corrected;
    if (s->without_rates) o.rate_corrected = 1; /* the next step finds no last rate, as the first one does */
    TRY(check_options(r, &o, updater_options(s->updater)));
    TRY(read_rules(r, s));
    return updater_visit_state(s->updater, read_state, both);
}

static dqt_status read_all(struct reader *r, uint64_t file_size, struct stage *s, bool host) {
    TRY(reader_header(r, file_size));
    if (s->targets) {
        TRY(read_front(r, s));
        TRY(read_parameters(r, s));
    } else {
        TRY(reader_next(r));
    }
    if (s->updater) {
        if (!reader_at(r, "OPTS", "")) return fail(r->ctx, DQT_E_STATE, "checkpoint: it has no updater");
        TRY(read_updater(r, s));
        if (s->targets) TRY(reader_next(r));
    } else if (reader_at(r, "OPTS", "")) {
        TRY(reader_skip(r));
        while (strcmp(r->head.tag, "RULE") == 0 || strcmp(r->head.tag, "STAT") == 0)
            TRY(reader_skip(r));
    }
    if (s->targets) TRY(reader_tail(r, host));
    return reader_finish(r);
}

/* ---- Taking over --------------------------------------------------------------------------------------------- */

static dqt_status take_state(void *arg, const struct state_array *a) {
    struct stage *s = arg;
    if (a->count) memcpy(a->data, s->state + s->state_used, a->count * a->element_size);
    s->state_used += array_bytes(a->count, a->element_size);
    return DQT_OK;
}

/* Rules that a parameter cannot have are the last thing that may be found wrong: they are tried on a first pass. */
static dqt_status take_over(struct reader *r, struct stage *s) {
    for (size_t i = 0; s->updater && i < s->num_rules; i++) {
        const struct file_rule before = file_rule_of(s->updater, i);
        const bool possible = file_rule_set(s->updater, i, &s->rules[i]);
        file_rule_set(s->updater, i, &before);
        if (!possible)
            return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the rule of %s is impossible",
                        updater_target(s->updater, i)->name);
    }
    for (size_t i = 0; s->updater && i < s->num_rules; i++)
        file_rule_set(s->updater, i, &s->rules[i]);
    for (size_t i = 0; i < s->count; i++)
        tensor_copy(s->targets[i].tensor, s->tensors[i]);
    s->state_used = 0;
    return s->updater ? updater_visit_state(s->updater, take_state, s) : DQT_OK;
}

dqt_status checkpoint_read_into(dqt_context *ctx, dqt_read_fn read, void *user_data, uint64_t file_size,
                                dqt_layer *const *layers, size_t num_layers, dqt_updater *updater, bool host,
                                struct checkpoint *out) {
    *out = (struct checkpoint){0};
    struct reader r = {.ctx = ctx, .out = out};
    struct stage s = {.updater = updater};
    dqt_status status = layers ? stage_tensors(ctx, &s, layers, num_layers) : DQT_OK;
    if (status == DQT_OK && updater) status = stage_updater(ctx, &s);
    if (status == DQT_OK) status = source_create(ctx, "checkpoint", read, user_data, &r.source);
    if (status == DQT_OK) {
        status = read_all(&r, file_size, &s, host);
        source_destroy(r.source);
    }
    if (status == DQT_OK) status = take_over(&r, &s);
    stage_destroy(ctx, &s);
    if (status == DQT_OK) return DQT_OK;
    memory_free(ctx, out->host, out->host_size);
    *out = (struct checkpoint){0};
    return status;
}
