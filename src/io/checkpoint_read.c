/* Creating a model from a checkpoint. Nothing in the file is believed: the config goes through the checks of model
 * creation, lengths must be those that the config implies, and a tensor is allocated when the file has given all that
 * comes before it. Where a file's size is known it bounds all lengths; the length that a stream claims has to be proved
 * by data (source_prove). */
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "io/checkpoint_reader.h"
#include "optim/rounding.h"

enum {
    SENTENCE_BYTES = 400,
    BLOCK_SECTIONS = 8, /* the fewest of any block: two norms, q, k, v, o, up, down */
    BLOCK_BYTES = BLOCK_SECTIONS * (SECTION_FIXED_BYTES + PARAMETER_BYTES),
    BLOCK_MEMORY = 16384, /* more than a block with shapes only takes */
    STATE_ARRAYS = 8      /* at most, of a parameter */
};

/* A failure of creation from the file's numbers is the file's, unless memory ran out. */
static dqt_status creation_failed(struct reader *r, dqt_status status, const char *what) {
    if (status == DQT_E_MEMORY) return status;
    char sentence[SENTENCE_BYTES];
    snprintf(sentence, sizeof sentence, "%s", last_error(r->ctx));
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %s: %s", what, sentence);
}

/* Bytes of the parameters' sections, SIZE_MAX on overflow. */
static size_t parameters_bytes(const dqt_llama *m) {
    size_t total = 0;
    for (size_t i = 0; i < m->num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(m->layers[i]); p++) {
            const dqt_tensor *t = layer_parameter(m->layers[i], p).tensor;
            size_add(total, tensor_scale_bytes(t), &total);
            size_add(total, t->data_bytes, &total);
        }
    return total;
}

/* The model has only its shape; tensors come with their sections. */
static dqt_status create_model(struct reader *r, const dqt_llama_config *config) {
    dqt_llama_config c = *config;
    const size_t blocks = llama_num_blocks(&c);
    if (blocks > (r->length - r->source->consumed) / BLOCK_BYTES)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %zu layers do not fit the file's %llu bytes", blocks,
                    (unsigned long long)r->length);
    if (blocks > SOURCE_FREE / BLOCK_MEMORY) TRY(reader_prove(r, blocks * BLOCK_BYTES, UINT64_MAX));
    c.shape_only = 1;
    dqt_status status = llama_create(r->ctx, &c, &r->out->model);
    if (status != DQT_OK) return creation_failed(r, status, "config");
    if (parameters_bytes(r->out->model) > r->length - r->source->consumed)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the config's weights do not fit the file's %llu bytes",
                    (unsigned long long)r->length);
    return DQT_OK;
}

/* The config's overrides as they come: `room` of them have memory, in which patterns are behind the list. */
struct override_list {
    dqt_tensor_override *list;
    char (*patterns)[PARAMETER_NAME_BYTES];
    size_t count, room, bytes;
};

static dqt_status list_grow(struct reader *r, struct override_list *o) {
    struct override_list larger = {.count = o->count, .room = 2 * o->room + 4};
    struct arena a = {0};
    for (int pass = 0; pass < 2; pass++) {
        larger.list = arena_take(&a, larger.room, sizeof *larger.list);
        larger.patterns = arena_take(&a, larger.room, sizeof *larger.patterns);
        larger.bytes = a.used;
        if (pass == 0 && !arena_alloc(r->ctx, &a))
            return fail(r->ctx, DQT_E_MEMORY, "no memory for %zu overrides", larger.room);
    }
    for (size_t i = 0; i < o->count; i++) {
        larger.list[i] = o->list[i];
        memcpy(larger.patterns[i], o->patterns[i], sizeof *o->patterns);
        larger.list[i].pattern = larger.patterns[i];
    }
    memory_free(r->ctx, o->list, o->bytes);
    *o = larger;
    return DQT_OK;
}

/* Sections OVER, of which the first has begun, if there are any; leaves what follows begun. */
static dqt_status read_overrides(struct reader *r, struct override_list *o) {
    for (; strcmp(r->head.tag, "OVER") == 0; o->count++) {
        if (o->count == MAX_OVERRIDES)
            return fail(r->ctx, DQT_E_FORMAT, "checkpoint: it has more than %d overrides", MAX_OVERRIDES);
        if (o->count == o->room) TRY(list_grow(r, o));
        dqt_tensor_override *next = &o->list[o->count];
        memcpy(o->patterns[o->count], r->head.label, sizeof *o->patterns);
        *next = (dqt_tensor_override){o->patterns[o->count], {.struct_size = sizeof next->options}};
        TRY(reader_entries(r, &override_table, next));
        TRY(reader_next(r));
    }
    return DQT_OK;
}

/* A file has the config in effect: what is written again has the same bytes. */
static dqt_status check_complete(const struct reader *r, const dqt_llama_config *c) {
    const int32_t rules[] = {c->linear.scale_rule, c->embedding.scale_rule, c->head.scale_rule};
    bool complete = c->num_kv_heads > 0 && c->linear_init_std > 0 && !llama_implies_head_dim(c) &&
                    (c->num_blocks ? c->num_blocks < c->num_layers : c->first_block == 0);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        complete = complete && rules[i] != DQT_SCALE_AUTO;
    if (complete) return DQT_OK;
    return fail(
        r->ctx, DQT_E_FORMAT,
        "checkpoint: the config leaves num_kv_heads, linear_init_std, num_blocks or a scale_rule open, or says a "
        "head_dim or num_blocks that goes without saying");
}

/* A part of a whole model's file. */
static dqt_status choose_blocks(const struct reader *r, const struct checkpoint_wanted *wanted, dqt_llama_config *c) {
    if (wanted->first_block == 0 && wanted->num_blocks == 0) return DQT_OK;
    if (r->version == 1)
        return fail(r->ctx, DQT_E_UNSUPPORTED, "checkpoint: of version 1 no part can be loaded: save it anew");
    if (wanted->first_block >= c->num_layers || wanted->num_blocks > c->num_layers - wanted->first_block)
        return fail(r->ctx, DQT_E_ARGUMENT, "first_block %zu and num_blocks %zu are not within the file's %zu blocks",
                    wanted->first_block, wanted->num_blocks, c->num_layers);
    const size_t count = wanted->num_blocks ? wanted->num_blocks : c->num_layers - wanted->first_block;
    if (llama_is_partial(c) && (c->first_block != wanted->first_block || c->num_blocks != count))
        return fail(r->ctx, DQT_E_UNSUPPORTED, "checkpoint: it has %zu blocks from number %zu on, no others",
                    c->num_blocks, c->first_block);
    if (c->tie_embeddings && count != c->num_layers)
        return fail(r->ctx, DQT_E_UNSUPPORTED, "checkpoint: a model with tie_embeddings cannot be partial");
    c->first_block = wanted->first_block;
    c->num_blocks = count < c->num_layers ? count : 0;
    return DQT_OK;
}

/* What a whole file has beside a partial model. */
static void count_others(struct reader *r) {
    const dqt_llama *m = r->out->model;
    const struct layer_place *place = &m->layers[0]->whole;
    r->before = place->parameter;
    r->after = place->num_parameters - place->parameter;
    for (size_t i = 0; i < m->num_layers; i++)
        r->after -= layer_num_parameters(m->layers[i]);
}

/* CONF and OVER. Leaves the first section PARM begun. */
static dqt_status read_config(struct reader *r, const struct checkpoint_wanted *wanted) {
    dqt_llama_config c = {.struct_size = sizeof c,
                          .linear.struct_size = sizeof c.linear,
                          .embedding.struct_size = sizeof c.embedding,
                          .head.struct_size = sizeof c.head};
    TRY(reader_next(r));
    TRY(reader_check(r, "CONF", ""));
    if (r->version == 1) {
        TRY(v1_config(r, &c));
        TRY(reader_end(r));
    } else {
        TRY(reader_entries(r, &config_table, &c));
        TRY(check_complete(r, &c));
    }
    TRY(reader_next(r));
    struct override_list o = {0};
    dqt_status status = read_overrides(r, &o);
    c.overrides = o.list;
    c.num_overrides = o.count;
    const bool whole = !llama_is_partial(&c);
    if (status == DQT_OK) status = choose_blocks(r, wanted, &c);
    if (status == DQT_OK) status = create_model(r, &c);
    if (status == DQT_OK && whole && llama_is_partial(&c)) count_others(r);
    memory_free(r->ctx, o.list, o.bytes);
    return status;
}

/* The section PARM that has begun. */
static dqt_status read_parameter(struct reader *r, dqt_layer *layer, size_t index) {
    dqt_tensor **place = layer_parameter_place(layer, index), *t = *place;
    TRY(reader_check(r, "PARM", layer_parameter(layer, index).name));
    const dqt_tensor_options o = tensor_options_of(t);
    if (r->head.payload < t->data_bytes)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: %s has another length than its shape", r->head.label);
    TRY(reader_prove(r, r->head.end - r->source->consumed, r->head.payload));
    dqt_tensor *full;
    dqt_status status = tensor_create(r->ctx, t->rows, t->cols, &o, false, &full);
    if (status != DQT_OK) return creation_failed(r, status, r->head.label);
    tensor_destroy(t);
    *place = full;
    TRY(reader_parameter(r, full));
    return reader_next(r);
}

/* Parameters that are not wanted; the first section has begun, and so has the one behind them then. */
static dqt_status pass_parameters(struct reader *r, size_t count) {
    for (; count > 0; count--) {
        if (strcmp(r->head.tag, "PARM") != 0)
            return fail(r->ctx, DQT_E_FORMAT, "checkpoint: section %u is %s; expected a parameter", r->seen - 1,
                        r->head.tag);
        TRY(reader_skip(r));
    }
    return DQT_OK;
}

static dqt_status read_model(struct reader *r, const struct checkpoint_wanted *wanted) {
    TRY(read_config(r, wanted));
    dqt_llama *m = r->out->model;
    TRY(pass_parameters(r, r->before));
    for (size_t i = 0; i < m->num_layers; i++) {
        const size_t count = layer_num_parameters(m->layers[i]);
        for (size_t p = 0; p < count; p++)
            TRY(read_parameter(r, m->layers[i], p));
    }
    TRY(pass_parameters(r, r->after));
    dqt_layer *head = m->layers[m->num_layers - 1];
    if (head->tied) head->weight[W] = head->tied->weight[W];
    m->config.shape_only = 0;
    return DQT_OK;
}

/* ---- Updater ------------------------------------------------------------------------------------------------- */

/* What precedes an updater's state: options, and a rule for each of the model's parameters. */
struct plan {
    dqt_updater_options options;
    struct update_target *targets; /* [count] */
    struct file_rule *rules;       /* [count] */
    dqt_group_options *groups; /* [count]: one for each parameter whose rule keeps another state than the options say */
    size_t count;
    bool of_all; /* one part is made of a file of all rows */
};

static dqt_status plan_create(struct reader *r, struct plan *p) {
    p->targets = layers_targets(r->ctx, r->out->model->layers, r->out->model->num_layers, &p->count);
    p->rules = memory_alloc(r->ctx, p->count * sizeof *p->rules);
    p->groups = memory_alloc(r->ctx, p->count * sizeof *p->groups);
    if (p->targets && p->rules && p->groups) return DQT_OK;
    return fail(r->ctx, DQT_E_MEMORY, "no memory for a list of %zu parameters", p->count);
}

static void plan_destroy(struct reader *r, struct plan *p) {
    memory_free(r->ctx, p->groups, p->count * sizeof *p->groups);
    memory_free(r->ctx, p->rules, p->count * sizeof *p->rules);
    if (p->targets) layers_targets_free(r->ctx, p->targets, p->count);
}

/* Version 1 has all rules in one section and one optimiser. */
static dqt_status read_rules_v1(struct reader *r, struct plan *p) {
    TRY(reader_expect(r, "RULE", "", (uint64_t)p->count * V1_RULE_BYTES));
    for (size_t i = 0; i < p->count; i++) {
        TRY(v1_rule(r, &p->rules[i]));
        p->rules[i].optimizer = p->options.optimizer;
    }
    return reader_end(r);
}

static dqt_status impossible_rule(const struct reader *r, const struct plan *p, size_t index) {
    return fail(r->ctx, DQT_E_FORMAT, "checkpoint: the rule of %s is impossible", p->targets[index].name);
}

static dqt_status read_rules(struct reader *r, struct plan *p) {
    TRY(reader_pass(r, "RULE", r->before));
    for (size_t i = 0; i < p->count; i++) {
        TRY(reader_next(r));
        TRY(reader_check(r, "RULE", p->targets[i].name));
        TRY(reader_entries(r, &rule_table, &p->rules[i]));
        if (p->rules[i].optimizer == p->options.optimizer && p->rules[i].rounding == p->options.rounding) continue;
        if (!rounding_of(p->rules[i].rounding)) return impossible_rule(r, p, i);
        p->groups[p->options.num_groups++] = (dqt_group_options){.struct_size = sizeof *p->groups,
                                                                 .pattern = p->targets[i].name,
                                                                 .optimizer = p->rules[i].optimizer,
                                                                 .rounding = p->rules[i].rounding};
    }
    TRY(reader_pass(r, "RULE", r->after));
    if (p->options.num_groups) p->options.groups = p->groups;
    return DQT_OK;
}

static dqt_status create_updater(struct reader *r, const struct plan *p) {
    dqt_updater_memory_info m;
    dqt_status status = updater_memory(r->ctx, p->targets, p->count, &p->options, &m);
    if (status != DQT_OK) return creation_failed(r, status, "updater");
    /* The arrays of the state are rounded up in memory, not in the file. */
    const uint64_t rounding = (uint64_t)p->count * STATE_ARRAYS * ALIGNMENT;
    if (m.momentum + m.variance + m.scales > rounding + r->length - r->source->consumed)
        return fail(r->ctx, DQT_E_FORMAT, "checkpoint: updater: its state does not fit the file's %llu bytes",
                    (unsigned long long)r->length);
    TRY(reader_prove(r, r->length - r->source->consumed, m.total));
    status = updater_create(r->ctx, p->targets, p->count, &p->options, &r->out->updater);
    return status == DQT_OK ? DQT_OK : creation_failed(r, status, "updater");
}

static dqt_status read_state(void *arg, const struct state_array *a) {
    struct reader *r = ((void **)arg)[0];
    const struct plan *p = ((void **)arg)[1];
    return reader_state(r, a, p->of_all ? r->out->updater : NULL, a->data);
}

static dqt_status read_planned(struct reader *r, struct plan *p) {
    TRY(plan_create(r, p));
    TRY(r->version == 1 ? read_rules_v1(r, p) : read_rules(r, p));
    TRY(create_updater(r, p));
    for (size_t i = 0; i < p->count; i++)
        if (!file_rule_set(r->out->updater, i, &p->rules[i])) return impossible_rule(r, p, i);
    void *both[] = {r, p};
    return updater_visit_state(r->out->updater, read_state, both);
}

static dqt_status choose_part(const struct reader *r, const struct checkpoint_wanted *wanted, struct plan *p) {
    dqt_updater_options *o = &p->options;
    if (wanted->num_parts == 0 || (wanted->num_parts == o->num_parts && wanted->part == o->part)) return DQT_OK;
    if (o->num_parts || o->part)
        return fail(r->ctx, DQT_E_UNSUPPORTED, "checkpoint: its updater is of part %llu of %llu, not of all rows",
                    (unsigned long long)o->part, (unsigned long long)o->num_parts);
    p->of_all = true;
    o->part = wanted->part;
    o->num_parts = wanted->num_parts;
    return DQT_OK;
}

/* The section OPTS has begun; leaves the one after the state begun. */
static dqt_status read_updater(struct reader *r, const struct checkpoint_wanted *wanted) {
    struct plan p = {.options = {.struct_size = sizeof p.options}};
    if (r->version == 1) {
        TRY(v1_options(r, &p.options));
        TRY(reader_end(r));
    } else {
        TRY(reader_entries(r, &options_table, &p.options));
    }
    TRY(choose_part(r, wanted, &p));
    dqt_status status = read_planned(r, &p);
    plan_destroy(r, &p);
    TRY(status);
    TRY(reader_next(r));
    return r->after ? reader_pass_states(r, SIZE_MAX) : DQT_OK;
}

static dqt_status read_all(struct reader *r, uint64_t file_size, struct checkpoint_wanted wanted) {
    TRY(reader_header(r, file_size));
    TRY(read_model(r, &wanted));
    if (reader_at(r, "OPTS", "") && wanted.updater) {
        TRY(read_updater(r, &wanted));
    } else if (reader_at(r, "OPTS", "")) {
        TRY(reader_skip(r));
        while (strcmp(r->head.tag, "RULE") == 0 || strcmp(r->head.tag, "STAT") == 0)
            TRY(reader_skip(r));
    }
    TRY(reader_tail(r, wanted.host));
    return reader_finish(r);
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
