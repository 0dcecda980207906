/* The calls of tapes, models, updaters, sessions and files; the second half of fuzz_calls.h. */
#ifndef FUZZ_CALLS_MODEL_H
#define FUZZ_CALLS_MODEL_H

/* ---- Lists of layers ------------------------------------------------------------------------------------------ */

/* A model's layers, or some of the host's own, usually of one context and different; `o` will need them. */
struct list {
    dqt_layer *own[MOST_NEEDS], *const *layers;
    size_t count;
};
static bool listed(const struct object *o, const struct object *layer) {
    for (size_t i = 0; i < o->num_layers; i++)
        if (o->layers[i] == layer) return true;
    return false;
}
static void list_layers(struct object *o, struct list *l) {
    struct object *model = any(MODEL);
    *l = (struct list){.layers = l->own};
    o->num_layers = 0;
    if (model->handle && !one_in(2) && dqt_llama_get_layers(model->handle, &l->layers, &l->count) == DQT_OK) {
        need(o, model);
        o->layers[o->num_layers++] = model;
        return;
    }
    for (size_t n = 2 * up_to(2); n && l->count < MOST_NEEDS; n--) {
        struct object *layer = any(LAYER);
        const bool fits = layer->handle && !listed(o, layer) && (!o->num_layers || o->layers[0]->ctx == layer->ctx);
        if (!fits && !one_in(24)) continue;
        if (layer->handle) o->layers[o->num_layers++] = layer;
        need(o, layer);
        l->own[l->count++] = layer->handle;
    }
}
/* Usually that of the layers. */
static dqt_context *context_of(struct object *o) {
    if (o->num_layers == 0 || one_in(24)) return context(&o->ctx);
    o->ctx = o->layers[0]->ctx;
    return world.ctx[o->ctx];
}

/* ---- Tape ----------------------------------------------------------------------------------------------------- */

static dqt_tape_options *tape_options(size_t *batch, size_t *length) {
    dqt_tape_options *o = make_options(sizeof *o, init_tape_options);
    *batch = up_to(3);
    *length = up_to(MOST_TOKENS / 3);
    SET(o, dqt_tape_options, max_batch, *batch); /* no odd ones: buffers are made for these */
    SET(o, dqt_tape_options, max_length, *length);
    if (one_in(4)) SET(o, dqt_tape_options, gradient_format, enum_or_odd(0, 4));
    if (one_in(4)) SET(o, dqt_tape_options, recompute, enum_or_odd(0, 2));
    return o;
}
static dqt_status call_tape_create(void) {
    struct object *o = place(TAPE);
    struct list l;
    dqt_tape *t = (dqt_tape *)&nothing;
    dqt_tape_memory_info m = {.struct_size = sizeof m};
    if (!o) return DQT_E_STATE;
    list_layers(o, &l);
    dqt_tape_options *options = tape_options(&o->batch, &o->length), read;
    dqt_tape_options_init(&read, sizeof read);
    uint32_t size;
    memcpy(&size, options, 4);
    if (size >= offsetof(dqt_tape_options, max_length) + sizeof read.max_length || size < 4) {
        dqt_context *ctx = context_of(o);
        const size_t before = dqt_context_allocated(ctx);
        const dqt_status planned = dqt_tape_memory(ctx, l.layers, l.count, options, &m);
        const dqt_status status = dqt_tape_create(ctx, l.layers, l.count, options, &t);
        REQUIRE(status != DQT_OK || (planned == DQT_OK && dqt_context_allocated(ctx) - before == m.total),
                "a tape of %zu bytes, %zu were planned", dqt_context_allocated(ctx) - before, m.total);
        free(options);
        return created(o, status, t, "tape");
    }
    free(options); /* its default length would be too long for our buffers */
    return DQT_E_STATE;
}
static dqt_status call_tape_memory(void) {
    struct object o = {0};
    struct list l;
    size_t batch, length;
    RESULT(dqt_tape_memory_info, m);
    list_layers(&o, &l);
    dqt_tape_options *options = tape_options(&batch, &length);
    const dqt_status status =
        dqt_tape_memory(context_of(&o), l.layers, l.count, null_sometimes(options), null_sometimes(&m));
    free(options);
    return status;
}
static dqt_status call_tape_destroy(void) {
    struct object *o = any(TAPE);
    if (one_in(4)) destroy(o);
    dqt_tape_destroy(NULL);
    return DQT_OK;
}
static dqt_status call_tape_get_num_parameters(void) {
    size_t count;
    return dqt_tape_get_num_parameters(any(TAPE)->handle, null_sometimes(&count));
}
/* A parameter of a tape with its shape. */
static size_t parameter_of(const struct object *tape, dqt_parameter *p) {
    size_t count = 0;
    *p = (dqt_parameter){.struct_size = sizeof *p};
    if (tape->handle) dqt_tape_get_num_parameters(tape->handle, &count);
    const size_t index = count ? byte() % count : 0;
    if (count) dqt_tape_get_parameter(tape->handle, index, p);
    return size_or_odd(index);
}
static dqt_status call_tape_get_parameter(void) {
    struct object *t = any(TAPE);
    dqt_parameter p;
    const size_t index = parameter_of(t, &p);
    RESULT(dqt_parameter, q);
    return dqt_tape_get_parameter(t->handle, index, null_sometimes(&q));
}
static dqt_status call_tape_gradient_data(void) {
    struct object *t = any(TAPE);
    dqt_parameter p;
    float *gradient;
    const size_t index = parameter_of(t, &p);
    return dqt_tape_gradient_data(t->handle, index, null_sometimes(&gradient));
}
static dqt_status call_tape_get_gradient(void) {
    struct object *t = any(TAPE);
    dqt_parameter p;
    size_t row, count;
    const size_t index = parameter_of(t, &p);
    rows_of(&(struct object){.rows = p.rows}, &row, &count);
    return dqt_tape_get_gradient(t->handle, index, row, count, results());
}
static dqt_status call_tape_set_gradient(void) {
    struct object *t = any(TAPE);
    dqt_parameter p;
    size_t row, count;
    const size_t index = parameter_of(t, &p);
    rows_of(&(struct object){.rows = p.rows}, &row, &count);
    return dqt_tape_set_gradient(t->handle, index, row, count, floats(p.rows * p.cols));
}
static dqt_status call_tape_zero_gradients(void) {
    return dqt_tape_zero_gradients(any(TAPE)->handle);
}
static dqt_status call_tape_get_pass(void) {
    uint64_t pass;
    return dqt_tape_get_pass(any(TAPE)->handle, null_sometimes(&pass));
}
static dqt_status call_tape_set_pass(void) {
    return dqt_tape_set_pass(any(TAPE)->handle, byte());
}
static int32_t on_gradient(void *user_data, size_t parameter_index) {
    REQUIRE(user_data == &world && parameter_index < 1000, "%zu", parameter_index);
    return one_in(64);
}
static dqt_status call_tape_get_options(void) {
    RESULT(dqt_tape_options, o);
    return dqt_tape_get_options(any(TAPE)->handle, null_sometimes(&o));
}
static dqt_status call_tape_on_gradient(void) {
    return dqt_tape_on_gradient(any(TAPE)->handle, one_in(3) ? NULL : on_gradient, &world);
}

/* ---- Model ---------------------------------------------------------------------------------------------------- */

static const char *pattern(void) {
    static const char *const patterns[] = {"*", "*.q", "blocks.*", "head", "*.weight", "??", "", "no such", "*a*b*"};
    return patterns[byte() % (sizeof patterns / sizeof *patterns)];
}
static dqt_llama_config *llama_config(void) {
    dqt_llama_config *o = make_options(sizeof *o, init_llama_config);
    const size_t heads = up_to(2);
    SET(o, dqt_llama_config, vocab_size, size_or_odd(4 + up_to(4)));
    SET(o, dqt_llama_config, hidden_size, size_or_odd((size_t)4 << byte() % 3));
    SET(o, dqt_llama_config, intermediate_size, size_or_odd(up_to(9)));
    SET(o, dqt_llama_config, num_layers, size_or_odd(up_to(2)));
    SET(o, dqt_llama_config, num_heads, size_or_odd(heads));
    SET(o, dqt_llama_config, num_kv_heads, one_in(2) ? 0 : heads);
    SET(o, dqt_llama_config, tie_embeddings, one_in(2));
    SET(o, dqt_llama_config, no_sub_norms, one_in(2));
    if (one_in(8)) SET(o, dqt_llama_config, first_block, size_or_odd(1));
    if (one_in(8)) SET(o, dqt_llama_config, num_blocks, size_or_odd(1));
    if (one_in(4)) {
        const int32_t scaling = enum_or_odd(0, 3);
        SET(o, dqt_llama_config, mlp, enum_or_odd(0, 3));
        SET(o, dqt_llama_config, head_dim, size_or_odd(2 * up_to(3)));
        SET(o, dqt_llama_config, attention_bias, one_in(2));
        SET(o, dqt_llama_config, qk_norm, one_in(2));
        SET(o, dqt_llama_config, rope_scaling, scaling);
        SET(o, dqt_llama_config, rope_factor, one_in(8) ? number() : scaling ? 2 : 0);
        SET(o, dqt_llama_config, rope_low_freq_factor, scaling == DQT_ROPE_LLAMA3 ? 1 : 0);
        SET(o, dqt_llama_config, rope_high_freq_factor, scaling == DQT_ROPE_LLAMA3 ? 4 : 0);
        SET(o, dqt_llama_config, rope_original_context, scaling == DQT_ROPE_LLAMA3 ? size_or_odd(8) : 0);
    }
    static dqt_tensor_override overrides[2];
    const size_t num_overrides = one_in(3) ? 1 + byte() % 2 : 0;
    for (size_t i = 0; i < num_overrides; i++)
        overrides[i] = (dqt_tensor_override){
            pattern(),
            {.storage = enum_or_odd(DQT_FORMAT_SAME, 10), .scale_axis = one_in(2), .train_scale = one_in(8)}};
    SET(o, dqt_llama_config, overrides, num_overrides || one_in(32) ? overrides : NULL);
    SET(o, dqt_llama_config, num_overrides, one_in(32) ? 1 : num_overrides);
    if (one_in(2)) SET(o, dqt_llama_config, linear.storage, enum_or_odd(DQT_FORMAT_F32, 8));
    return o;
}
static dqt_status created_model(struct object *o, dqt_status status, dqt_llama *m) {
    status = created(o, status, m, "model");
    if (!m) return status;
    dqt_llama_config c = {.struct_size = sizeof c};
    REQUIRE(dqt_llama_get_config(m, &c) == DQT_OK, "config");
    o->in = c.hidden_size;
    o->out = c.vocab_size;
    if (c.hidden_size > MOST_DIM || c.vocab_size > 256 || c.intermediate_size > 352 || c.num_layers > 4) destroy(o);
    return status;
}
static dqt_status call_llama_create(void) {
    struct object *o = place(MODEL);
    dqt_llama *m = (dqt_llama *)&nothing;
    dqt_llama_memory_info plan = {.struct_size = sizeof plan};
    if (!o) return DQT_E_STATE;
    dqt_llama_config *config = llama_config();
    dqt_context *ctx = context(&o->ctx);
    const size_t before = dqt_context_allocated(ctx);
    const dqt_status planned = dqt_llama_memory(ctx, config, &plan);
    const dqt_status status = dqt_llama_create(ctx, config, &m);
    dqt_llama_config c = {.struct_size = sizeof c};
    if (status == DQT_OK) {
        REQUIRE(dqt_llama_get_config(m, &c) == DQT_OK, "config");
        const size_t held = dqt_context_allocated(ctx) - before;
        REQUIRE(c.shape_only || (planned == DQT_OK && held == plan.total), "%zu bytes, %zu planned", held, plan.total);
    }
    free(config);
    return created_model(o, status, m);
}
static dqt_status call_llama_memory(void) {
    int c;
    RESULT(dqt_llama_memory_info, m);
    dqt_llama_config *config = llama_config();
    const dqt_status status = dqt_llama_memory(context(&c), null_sometimes(config), null_sometimes(&m));
    free(config);
    return status;
}
static dqt_status call_llama_destroy(void) {
    struct object *o = any(MODEL);
    if (one_in(8) && o->users == 0) destroy(o);
    dqt_llama_destroy(NULL);
    return DQT_OK;
}
static dqt_status call_llama_get_config(void) {
    RESULT(dqt_llama_config, c);
    return dqt_llama_get_config(any(MODEL)->handle, null_sometimes(&c));
}
static dqt_status call_llama_get_layers(void) {
    dqt_layer *const *layers;
    size_t count;
    return dqt_llama_get_layers(any(MODEL)->handle, null_sometimes(&layers), &count);
}

/* A tape, and usually the model that it is of. */
static struct object *model_of(const struct object *tape) {
    if (tape->num_layers == 1 && tape->layers[0]->kind == MODEL && !one_in(24)) return tape->layers[0];
    return any(MODEL);
}
static dqt_status call_llama_forward(void) {
    struct object *t = any(TAPE), *m = model_of(t);
    return dqt_llama_forward(m->handle, t->handle, batch_of(t, m->out, m->out), results());
}
static dqt_status loss_of(struct object *t, struct object *m) {
    float loss;
    return dqt_llama_loss(m->handle, t->handle, batch_of(t, m->out, m->out), null_sometimes(&loss),
                          one_in(2) ? world.y : NULL);
}
static dqt_status call_llama_loss(void) {
    struct object *t = any(TAPE);
    return loss_of(t, model_of(t));
}
static dqt_status call_llama_backward(void) {
    struct object *t = any(TAPE), *m = model_of(t);
    if (!one_in(4)) loss_of(t, m);
    return dqt_llama_backward(m->handle, t->handle, number());
}
static dqt_status call_llama_backward_logits(void) {
    struct object *t = any(TAPE), *m = model_of(t);
    if (!one_in(4)) loss_of(t, m);
    return dqt_llama_backward_logits(m->handle, t->handle, logits_gradient());
}
static dqt_status blocks_forward(struct object *t, struct object *m) {
    return dqt_llama_forward_blocks(m->handle, t->handle, batch_of(t, m->out, m->out), floats(MOST_TOKENS * MOST_DIM),
                                    floats(1), floats(MOST_TOKENS));
}
static dqt_status call_llama_forward_blocks(void) {
    struct object *t = any(TAPE);
    return blocks_forward(t, model_of(t));
}
static dqt_status call_llama_backward_blocks(void) {
    struct object *t = any(TAPE), *m = model_of(t);
    if (!one_in(4)) blocks_forward(t, m);
    return dqt_llama_backward_blocks(m->handle, t->handle, number(), floats(MOST_TOKENS * MOST_DIM));
}

/* ---- Updater -------------------------------------------------------------------------------------------------- */

static dqt_updater_options *updater_options(void) {
    dqt_updater_options *o = make_options(sizeof *o, init_updater_options);
    SET(o, dqt_updater_options, groups, NULL);
    SET(o, dqt_updater_options, num_groups, 0);
    SET(o, dqt_updater_options, optimizer, enum_or_odd(DQT_OPTIMIZER_SGD, 4));
    if (one_in(2)) SET(o, dqt_updater_options, momentum_state, enum_or_odd(0, 3));
    if (one_in(4)) SET(o, dqt_updater_options, variance_state, enum_or_odd(0, 3));
    if (one_in(4)) SET(o, dqt_updater_options, rounding, enum_or_odd(1, 4));
    if (one_in(4)) SET(o, dqt_updater_options, rate_corrected, enum_or_odd(0, 2));
    SET(o, dqt_updater_options, clip, enum_or_odd(0, 5));
    if (one_in(4)) SET(o, dqt_updater_options, num_parts, (uint64_t)up_to(4));
    if (one_in(8)) SET(o, dqt_updater_options, part, (uint64_t)size_or_odd(byte() % 3));
    return o;
}
static dqt_status call_updater_create(void) {
    struct object *o = place(UPDATER);
    struct list l;
    dqt_updater *u = (dqt_updater *)&nothing;
    dqt_updater_memory_info m = {.struct_size = sizeof m};
    if (!o) return DQT_E_STATE;
    list_layers(o, &l);
    dqt_updater_options *options = updater_options();
    dqt_context *ctx = context_of(o);
    const size_t before = dqt_context_allocated(ctx);
    const dqt_status planned = dqt_updater_memory(ctx, l.layers, l.count, options, &m);
    const dqt_status status = dqt_updater_create(ctx, l.layers, l.count, options, &u);
    REQUIRE(status != DQT_OK || (planned == DQT_OK && dqt_context_allocated(ctx) - before == m.total),
            "an updater of %zu bytes, %zu were planned", dqt_context_allocated(ctx) - before, m.total);
    free(options);
    return created(o, status, u, "updater");
}
static dqt_status call_updater_memory(void) {
    struct object o = {0};
    struct list l;
    RESULT(dqt_updater_memory_info, m);
    list_layers(&o, &l);
    dqt_updater_options *options = updater_options();
    const dqt_status status =
        dqt_updater_memory(context_of(&o), l.layers, l.count, null_sometimes(options), null_sometimes(&m));
    free(options);
    return status;
}
static dqt_status call_updater_destroy(void) {
    struct object *o = any(UPDATER);
    if (one_in(4)) destroy(o);
    dqt_updater_destroy(NULL);
    return DQT_OK;
}
static dqt_status call_updater_add_group(void) {
    dqt_group_options *o = make_options(sizeof *o, init_group_options);
    size_t matched;
    SET(o, dqt_group_options, pattern, null_sometimes((void *)(uintptr_t)pattern()));
    if (one_in(2)) SET(o, dqt_group_options, lr_factor, number());
    const dqt_status status =
        dqt_updater_add_group(any(UPDATER)->handle, null_sometimes(o), one_in(2) ? &matched : NULL);
    free(o);
    return status;
}

/* An updater, and usually a tape of the same layers. */
static struct object *tape_of(const struct object *updater) {
    for (int i = 0; i < SLOTS; i++) {
        struct object *t = &world.objects[TAPE][i];
        if (t->handle && t->num_layers == updater->num_layers &&
            memcmp(t->layers, updater->layers, sizeof t->layers) == 0 && !one_in(24))
            return t;
    }
    return any(TAPE);
}
static const dqt_step_options *step_options(void) {
    static dqt_step_options o;
    o = (dqt_step_options)DQT_INIT(dqt_step_options);
    o.learning_rate = number();
    if (one_in(4)) o.gradient_scale = number();
    return null_sometimes(&o);
}
static dqt_status call_updater_step(void) {
    struct object *u = any(UPDATER), *t = tape_of(u);
    RESULT(dqt_step_stats, stats);
    return dqt_updater_step(u->handle, t->handle, step_options(), null_sometimes(&stats));
}
/* A step in pieces, some of them left out: the updater then waits, and refuses what else comes. */
static dqt_status call_updater_begin_step(void) {
    struct object *u = any(UPDATER), *t = tape_of(u);
    RESULT(dqt_step_sums, sums);
    return dqt_updater_begin_step(u->handle, t->handle, step_options(), null_sometimes(&sums));
}
static dqt_status call_updater_continue_step(void) {
    struct object *u = any(UPDATER), *t = tape_of(u);
    RESULT(dqt_step_sums, sums);
    RESULT(dqt_step_stats, stats);
    return dqt_updater_continue_step(u->handle, t->handle, null_sometimes(&sums), null_sometimes(&stats));
}
static dqt_status call_updater_get_part(void) {
    size_t row, count;
    return dqt_updater_get_part(any(UPDATER)->handle, size_or_odd(byte() % 2), size_or_odd(0), size_or_odd(up_to(3)),
                                null_sometimes(&row), &count);
}
static dqt_status call_updater_get_rule(void) {
    RESULT(dqt_parameter_rule, rule);
    return dqt_updater_get_rule(any(UPDATER)->handle, size_or_odd(byte() % 4), null_sometimes(&rule));
}
/* The header says that in a fused step earlier tensors may be updated when a later one fails. */
static dqt_status call_llama_backward_update(void) {
    struct object *u = any(UPDATER), *t = tape_of(u), *m = model_of(t);
    RESULT(dqt_step_stats, stats);
    world.changes = true;
    if (!one_in(4)) loss_of(t, m);
    return dqt_llama_backward_update(m->handle, t->handle, u->handle, step_options(), null_sometimes(&stats));
}
/* Mostly with a backward and the end; an update that is left open meets all other calls. */
static dqt_status update_in_backward(void) {
    struct object *u = any(UPDATER), *t = tape_of(u), *m = model_of(t);
    RESULT(dqt_step_stats, stats);
    world.changes = true;
    loss_of(t, m);
    const dqt_status status = dqt_tape_begin_update(t->handle, u->handle, step_options());
    if (status != DQT_OK) return status;
    if (one_in(3)) {
        world.update_open = true;
        return DQT_OK;
    }
    if (!one_in(8)) dqt_llama_backward(m->handle, t->handle, 1);
    stats.struct_size = sizeof stats;
    const dqt_status ended = dqt_tape_end_update(t->handle, &stats);
    if (ended == DQT_E_UNSUPPORTED) { /* an updater of one part: its update goes on */
        world.update_open = true;
        return ended;
    }
    REQUIRE(ended == DQT_OK || ended == DQT_E_NUMERIC || ended == DQT_E_CANCELLED || ended == DQT_E_STATE, "%d", ended);
    return ended;
}
static dqt_status call_tape_begin_update(void) {
    return update_in_backward();
}
static dqt_status call_tape_end_update(void) {
    RESULT(dqt_step_stats, stats);
    if (one_in(2)) return dqt_tape_end_update(any(TAPE)->handle, null_sometimes(&stats));
    return update_in_backward();
}
static dqt_status call_tape_end_update_part(void) {
    RESULT(dqt_step_sums, sums);
    RESULT(dqt_step_stats, stats);
    if (one_in(4)) return update_in_backward();
    world.changes = true;
    return dqt_tape_end_update_part(any(TAPE)->handle, null_sometimes(&sums), null_sometimes(&stats));
}
static dqt_status call_layers_copy(void) {
    struct object a = {0}, b = {0};
    struct list to, from;
    list_layers(&a, &to);
    list_layers(&b, &from);
    return dqt_layers_copy(to.layers, one_in(2) ? to.layers : from.layers,
                           to.count < from.count ? to.count : from.count);
}
static dqt_status call_preset_get(void) {
    dqt_preset_options *o = make_options(sizeof *o, init_preset_options);
    dqt_llama_config c;
    dqt_updater_options u;
    RESULT(dqt_preset, p);
    dqt_llama_config_init(&c, sizeof c);
    dqt_updater_options_init(&u, sizeof u);
    const dqt_status status =
        dqt_preset_get(null_sometimes(o), null_sometimes(&c), null_sometimes(&u), null_sometimes(&p));
    free(o);
    return status;
}
static dqt_status call_updater_get_step(void) {
    uint64_t step;
    return dqt_updater_get_step(any(UPDATER)->handle, null_sometimes(&step));
}
static dqt_status call_updater_set_step(void) {
    return dqt_updater_set_step(any(UPDATER)->handle, size_or_odd(byte()));
}
static dqt_status call_updater_get_options(void) {
    RESULT(dqt_updater_options, o);
    return dqt_updater_get_options(any(UPDATER)->handle, null_sometimes(&o));
}
static dqt_status call_schedule_cosine(void) {
    (void)dqt_schedule_cosine(size_or_odd(byte()), size_or_odd(10), size_or_odd(200), number(), number());
    return DQT_OK;
}
static dqt_status call_schedule_linear(void) {
    (void)dqt_schedule_linear(size_or_odd(byte()), size_or_odd(10), size_or_odd(200), number(), number());
    return DQT_OK;
}
static dqt_status call_schedule_wsd(void) {
    (void)dqt_schedule_wsd(size_or_odd(byte()), size_or_odd(10), size_or_odd(200), number(), number(), number());
    return DQT_OK;
}

/* ---- Session and sampler -------------------------------------------------------------------------------------- */

static dqt_status call_session_create(void) {
    struct object *o = place(SESSION), *m = any(MODEL);
    dqt_session *s = (dqt_session *)&nothing;
    if (!o) return DQT_E_STATE;
    need(o, m);
    o->layers[0] = m;
    dqt_session_options *options = make_options(sizeof *options, init_session_options);
    SET(options, dqt_session_options, max_length, size_or_odd(up_to(20)));
    if (one_in(4)) SET(options, dqt_session_options, cache_format, enum_or_odd(0, 3));
    const dqt_status status = dqt_session_create(m->handle, null_sometimes(options), &s);
    free(options);
    return created(o, status, s, "session");
}
static dqt_status call_session_fork(void) {
    struct object *o = place(SESSION), *from = any(SESSION);
    dqt_session *s = (dqt_session *)&nothing;
    if (!o) return DQT_E_STATE;
    if (from->handle) need(o, from->layers[0]);
    o->layers[0] = from->layers[0];
    const dqt_status status = dqt_session_fork(from->handle, &s);
    return created(o, status, s, "fork");
}
static dqt_status call_session_copy(void) {
    return dqt_session_copy(any(SESSION)->handle, any(SESSION)->handle);
}
static dqt_status call_session_destroy(void) {
    struct object *o = any(SESSION);
    if (one_in(4)) destroy(o);
    dqt_session_destroy(NULL);
    return DQT_OK;
}
static size_t vocab_of(const struct object *session) {
    return session->handle ? session->layers[0]->out : 1;
}
static dqt_status call_session_append(void) {
    struct object *s = any(SESSION);
    return dqt_session_append(s->handle, tokens(world.tokens, vocab_of(s), false), size_or_odd(up_to(4)),
                              one_in(4) ? NULL : world.y);
}
static dqt_status call_session_score(void) {
    struct object *s = any(SESSION);
    return dqt_session_score(s->handle, tokens(world.tokens, vocab_of(s), false), size_or_odd(up_to(4)), results());
}
static dqt_status call_sessions_append(void) {
    dqt_session_step steps[3];
    const size_t count = up_to(3);
    for (size_t i = 0; i < count; i++) {
        struct object *s = &world.objects[SESSION][i];
        if (!s->handle || one_in(16)) s = any(SESSION);
        steps[i] = (dqt_session_step)DQT_INIT(dqt_session_step);
        steps[i].session = s->handle;
        steps[i].tokens = tokens(world.tokens, vocab_of(s), false);
        steps[i].count = size_or_odd(up_to(3));
        steps[i].logits = one_in(4) ? NULL : world.y + 1024 * i;
    }
    return dqt_sessions_append(null_sometimes(steps), one_in(24) ? 0 : count);
}
static dqt_status call_session_get_length(void) {
    size_t length;
    return dqt_session_get_length(any(SESSION)->handle, null_sometimes(&length));
}
static dqt_status call_session_get_options(void) {
    RESULT(dqt_session_options, o);
    return dqt_session_get_options(any(SESSION)->handle, null_sometimes(&o));
}
static dqt_status call_session_memory(void) {
    RESULT(dqt_session_memory_info, m);
    dqt_session_options *options = make_options(sizeof *options, init_session_options);
    SET(options, dqt_session_options, max_length, size_or_odd(up_to(20)));
    SET(options, dqt_session_options, cache_format, enum_or_odd(0, 3));
    const dqt_status status = dqt_session_memory(any(MODEL)->handle, null_sometimes(options), null_sometimes(&m));
    free(options);
    return status;
}
static dqt_status call_session_truncate(void) {
    return dqt_session_truncate(any(SESSION)->handle, size_or_odd(byte() % 3));
}
static dqt_status call_sampler_get_draws(void) {
    uint64_t draws;
    return dqt_sampler_get_draws(any(SAMPLER)->handle, null_sometimes(&draws));
}
static dqt_status call_sampler_set_draws(void) {
    return dqt_sampler_set_draws(any(SAMPLER)->handle, byte());
}
static dqt_status call_sampler_create(void) {
    struct object *o = place(SAMPLER);
    dqt_sampler *s = (dqt_sampler *)&nothing;
    if (!o) return DQT_E_STATE;
    dqt_sampler_options *options = make_options(sizeof *options, init_sampler_options);
    o->out = up_to(MOST_DIM);
    const dqt_status status = dqt_sampler_create(context(&o->ctx), o->out, null_sometimes(options), &s);
    free(options);
    return created(o, status, s, "sampler");
}
static dqt_status call_sampler_destroy(void) {
    struct object *o = any(SAMPLER);
    if (one_in(4)) destroy(o);
    dqt_sampler_destroy(NULL);
    return DQT_OK;
}
static dqt_status call_sampler_sample(void) {
    struct object *s = any(SAMPLER);
    int32_t token = 0;
    const dqt_status status = dqt_sampler_sample(s->handle, floats(MOST_DIM), null_sometimes(&token));
    REQUIRE(status != DQT_OK || (token >= 0 && (size_t)token < s->out), "token %d", token);
    return status;
}

#include "fuzz_calls_file.h"

#endif
