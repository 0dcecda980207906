/* Layout and life of tapes. */
#include "layer/run.h"

#include "core/status.h"
#include "kernels/kernels.h"
#include "ops/norm.h"

/* Blocks bring their sublayers. */
static bool is_sublayer_of(const dqt_layer *sublayer, const dqt_layer *layer) {
    for (int i = 0; i < MAX_SUBLAYERS; i++)
        if (layer->sublayer[i] == sublayer) return true;
    return false;
}

static dqt_status check_layers(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers) {
    if (num_layers == 0) return fail(ctx, DQT_E_ARGUMENT, "num_layers is 0; a tape needs at least one layer");
    for (size_t i = 0; i < num_layers; i++) {
        if (!layers[i]) return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] is NULL", i);
        if (layers[i]->ctx != ctx) return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] belongs to another context", i);
        bool tied_found = !layers[i]->tied;
        for (size_t j = 0; j < i; j++) {
            if (layers[j] == layers[i])
                return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] and layers[%zu] are the same", j, i);
            if (is_sublayer_of(layers[j], layers[i]) || is_sublayer_of(layers[i], layers[j]))
                return fail(ctx, DQT_E_ARGUMENT,
                            "of layers[%zu] and layers[%zu] one is a sublayer of the other, and comes with it", j, i);
            if (layers[j] == layers[i]->tied) tied_found = true;
        }
        if (!tied_found)
            return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] is a tied head whose embedding is not before it", i);
    }
    return DQT_OK;
}

/* Rows of a weight that one product of backward sums over. */
static size_t summed_rows(const dqt_layer *l, int weight) {
    const size_t rows = l->weight[weight]->rows;
    return l->kind->id == DQT_LAYER_HEAD ? size_min(rows, head_tile(l)) : rows;
}

/* So many rows of codes of at most 127 times the weight's have a sum that fits int32. */
static uint64_t most_rows(const dqt_tensor *w) {
    const uint64_t largest = (uint64_t)size_max((size_t)-format_min(w->compute), (size_t)format_max(w->compute));
    return (((uint64_t)1 << 31) - 1) / (largest * 127);
}

/* Precision INT8: dX needs one scale a row, which is folded into dY, and sums that fit int32. */
static bool fits_integer_gradients(const dqt_layer *l, int weight) {
    const dqt_tensor *w = l->weight[weight];
    return w->row_groups <= 1 && summed_rows(l, weight) <= most_rows(w);
}

/* Where INT8 is named, what does not fit is refused. */
static dqt_status check_integer_gradients(dqt_context *ctx, const dqt_layer *l) {
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        if (!layer_weight_is_integer(l, i)) continue;
        const dqt_tensor *w = l->weight[i];
        const char *name = l->tied ? l->name : l->weight_name[i];
        if (fits_integer_gradients(l, i)) continue;
        if (w->row_groups > 1)
            return fail(ctx, DQT_E_UNSUPPORTED,
                        "precision INT8 needs one scale a row or tensor; %s has scales of groups of %zu columns", name,
                        w->group_cols);
        return fail(ctx, DQT_E_SHAPE,
                    "%s: with precision INT8 %zu outputs of %s could overflow an int32 sum; at most %llu are safe",
                    name, w->rows, format_name(w->compute), (unsigned long long)most_rows(w));
    }
    for (int i = 0; i < MAX_SUBLAYERS; i++)
        if (l->sublayer[i]) TRY(check_integer_gradients(ctx, l->sublayer[i]));
    return DQT_OK;
}

static bool is_flag(int32_t v) {
    return v == 0 || v == 1;
}

dqt_status tape_check(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o) {
    TRY(check_layers(ctx, layers, num_layers));
    size_t tokens;
    if (o->precision < DQT_PRECISION_AUTO || o->precision > DQT_PRECISION_INT8)
        return fail(ctx, DQT_E_ARGUMENT, "precision is %d; it must be a DQT_PRECISION_* value", o->precision);
    if (o->no_gradient_buffers < 0 || o->no_gradient_buffers > ONE_GRADIENT_BUFFER)
        return fail(ctx, DQT_E_ARGUMENT, "no_gradient_buffers is %d; it must be 0, 1 or 2", o->no_gradient_buffers);
    if (!is_flag(o->inference) || !is_flag(o->recompute))
        return fail(ctx, DQT_E_ARGUMENT, "inference %d and recompute %d must be 0 or 1", o->inference, o->recompute);
    if (o->gradient_format < DQT_FLOAT_F32 || o->gradient_format > DQT_FLOAT_FP8_E5M2)
        return fail(ctx, DQT_E_ARGUMENT, "gradient_format is %d; it must be a DQT_FLOAT_* value", o->gradient_format);
    if (o->no_gradient_buffers == ONE_GRADIENT_BUFFER && o->gradient_format != DQT_FLOAT_F32)
        return fail(ctx, DQT_E_UNSUPPORTED, "with one gradient buffer gradient_format must be F32");
    if (o->checkpoint_format < DQT_FLOAT_F32 || o->checkpoint_format > DQT_FLOAT_FP8_E5M2)
        return fail(ctx, DQT_E_ARGUMENT, "checkpoint_format is %d; it must be a DQT_FLOAT_* value",
                    o->checkpoint_format);
    if (o->max_batch == 0 || o->max_length == 0 || !size_mul(o->max_batch, o->max_length, &tokens) ||
        tokens > INT32_MAX)
        return fail(ctx, DQT_E_SHAPE, "max_batch %zu x max_length %zu must be 1 to %d tokens", o->max_batch,
                    o->max_length, INT32_MAX);
    for (size_t i = 0; i < num_layers && o->precision == DQT_PRECISION_INT8; i++)
        TRY(check_integer_gradients(ctx, layers[i]));
    return DQT_OK;
}

float *layout_rows(const dqt_tape *t, size_t cols, struct arena *a) {
    return arena_take(a, t->max_tokens, cols * sizeof(float));
}

struct activation_buffer layout_input(const dqt_tape *t, const dqt_layer *l, size_t cols, struct arena *a) {
    struct activation_buffer b = {.cols = cols};
    if (l->activation == DQT_ACTIVATION_INT8) {
        b.ld = round_up(cols, PACK_BLOCK);
        b.codes = arena_take(a, t->max_tokens, b.ld);
        b.step = layout_rows(t, 1, a);
    } else {
        b.ld = cols;
        b.floats = layout_rows(t, cols, a);
    }
    return b;
}

static void layout_slot(const dqt_tape *t, struct slot *s, struct arena *a) {
    if (s->layer->kind->layout) s->layer->kind->layout(t, s, a);
}

static bool in_overlay(const dqt_tape *t, const struct slot *s) {
    return !tape_saves(t) || (t->options.recompute && s->is_sublayer);
}

/* Lays out all overlaid slots from `base` on (NULL: counts) and returns the size of the largest group of slots that are
 * in use at the same time: in inference one slot, with recompute the sublayers of one block. */
static size_t layout_overlay(const dqt_tape *t, unsigned char *base) {
    struct arena a = {.base = base};
    for (size_t i = 0; i < t->num_slots; i++) {
        struct slot *s = &t->slots[i];
        if (!in_overlay(t, s)) continue;
        const bool first_of_group = !tape_saves(t) || !t->slots[i - 1].is_sublayer;
        if (first_of_group) a.used = 0;
        layout_slot(t, s, &a);
    }
    return a.largest;
}

/* The largest number of bytes that forward or backward of a layer takes from t->temporaries, by running what takes
 * them. */
static size_t count_temporaries(dqt_tape *t) {
    t->temporaries = (struct arena){0};
    for (size_t i = 0; i < t->num_slots; i++) {
        const dqt_layer *l = t->slots[i].layer;
        if (l->kind->forward_temporaries) l->kind->forward_temporaries(t, l, t->max_tokens);
        tape_release(t, 0);
        if (l->kind->backward_temporaries && tape_saves(t)) l->kind->backward_temporaries(t, l, t->max_tokens);
        tape_release(t, 0);
    }
    return t->temporaries.largest;
}

/* Rounded to 8 bits once more, gradients lose: docs/results.md, "INT8 backward". */
static bool has_fp8(const dqt_tape_options *o) {
    return o->gradient_format >= DQT_FLOAT_FP8_E4M3 || o->checkpoint_format >= DQT_FLOAT_FP8_E4M3;
}

/* Backward multiplies codes with this weight. AUTO decides weight by weight, so that a partial model, or a tape of some
 * of the layers, has the bits of all. */
static bool weight_is_multiplied_as_codes(const dqt_tape *t, const dqt_layer *l, int weight) {
    if (!tape_saves(t) || !layer_weight_is_integer(l, weight)) return false;
    if (t->options.precision == DQT_PRECISION_INT8) return true;
    return t->options.precision == DQT_PRECISION_AUTO && t->ctx->kernels->fast_int8_backward && !has_fp8(&t->options) &&
           fits_integer_gradients(l, weight);
}

void weight_scratch(const dqt_tape *t, const dqt_layer *l, int weight, size_t rows, struct scratch_need *need) {
    const dqt_tensor *w = l->weight[weight];
    gemm_scratch(t->ctx, t->max_tokens, rows, w->cols, tensor_compute_group_cols(w), need);
    if (weight_is_multiplied_as_codes(t, l, weight))
        gemm_int8_gradient_scratch(t->ctx, t->max_tokens, rows, w->cols, need);
}

void layer_scratch(const dqt_tape *t, const dqt_layer *l, struct scratch_need *need) {
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        const dqt_tensor *w = l->weight[i];
        if (!w) continue;
        activations_scratch(w->cols, need);
        const int parameter_class = l->kind->weights[i].parameter_class;
        size_t rows;
        if (parameter_class == DQT_CLASS_NORM && size_mul(t->max_tokens, layer_normed_rows(l, i), &rows))
            norm_scratch(rows, w->cols, need);
        if (!class_is_vector(parameter_class)) weight_scratch(t, l, i, w->rows, need);
    }
}

/* Own scratch of the kind, and a row for gradient_add_rows. */
static void slot_scratch(const dqt_tape *t, const dqt_layer *l, struct scratch_need *need) {
    for (int i = 0; i < MAX_WEIGHTS; i++)
        if (l->weight[i]) scratch_max(need, 0, 0, l->weight[i]->cols * sizeof(float));
    if (l->kind->scratch) l->kind->scratch(t, l, need);
}

/* What add_layer has added so far. */
struct front {
    size_t slots, parameters;
    struct arena saved; /* what kinds keep in their slots */
};

/* Slots and parameters of a layer and its sublayers; while t->slots is NULL they are only counted. */
static void add_layer(dqt_tape *t, struct front *f, dqt_layer *l, bool is_sublayer) {
    struct slot *s = t->slots ? &t->slots[f->slots] : NULL;
    void *saved = arena_take(&f->saved, 1, l->kind->saved_bytes);
    f->slots++;
    if (s) {
        s->layer = l;
        s->is_sublayer = is_sublayer;
        s->saved = saved;
    }
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        if (!l->weight[i] || l->tied) continue;
        if (s) {
            s->parameter[i] = f->parameters;
            struct tape_parameter *p = &t->parameters[f->parameters];
            p->name = l->weight_name[i];
            p->parameter_class = l->kind->weights[i].parameter_class;
            p->tensor = l->weight[i];
            p->gradient = (struct gradient){
                .format = t->options.gradient_format, .rows = p->tensor->rows, .cols = p->tensor->cols};
        }
        f->parameters++;
    }
    for (int i = 0; i < MAX_SUBLAYERS; i++)
        if (l->sublayer[i]) add_layer(t, f, l->sublayer[i], true);
    if (!s) return;
    if (l->tied) memcpy(s->parameter, tape_slot(t, l->tied)->parameter, sizeof s->parameter);
    for (int i = 0; i < MAX_WEIGHTS; i++)
        if (weight_is_multiplied_as_codes(t, l, i)) t->parameters[s->parameter[i]].integer_products = true;
}

static void add_layers(dqt_tape *t, struct front *f, dqt_layer *const *layers) {
    for (size_t i = 0; i < t->num_layers; i++)
        add_layer(t, f, layers[i], false);
}

/* The front of the tape's block, before what layers need; NULL while it is counted. */
static dqt_tape *layout_front(struct arena *a, const dqt_tape *as, struct front *f) {
    const size_t saved = f->saved.used;
    dqt_tape *t = arena_take(a, 1, sizeof *t);
    dqt_tape filled = *as;
    filled.parameters = arena_take(a, as->num_parameters, sizeof *as->parameters);
    filled.gradient_list = arena_take(a, as->num_parameters, sizeof *as->gradient_list);
    filled.slots = arena_take(a, as->num_slots, sizeof *as->slots);
    *f = (struct front){.saved = {.base = arena_take(a, saved, 1), .used = t ? 0 : saved, .size = saved}};
    if (t) *t = filled;
    return t;
}

/* Of each parameter, or of the largest for one after the other. */
static void layout_gradients(dqt_tape *t, struct arena *a) {
    struct arena one = {0};
    if (!tape_saves(t) || (t->options.no_gradient_buffers && !tape_has_one_buffer(t))) return;
    for (int pass = 0; pass < (tape_has_one_buffer(t) ? 2 : 1); pass++) {
        if (pass == 1) one = (struct arena){.base = arena_take(a, one.largest, 1), .size = one.largest};
        for (size_t i = 0; i < t->num_parameters; i++) {
            gradient_place(&t->parameters[i].gradient, tape_has_one_buffer(t) ? &one : a);
            one.used = 0;
        }
    }
}

/* Lays the tape out in `a`, behind its front. */
static void tape_layout(dqt_tape *t, struct arena *a, dqt_tape_memory_info *m, struct scratch_need *need) {
    const size_t begin = a->used;
    for (size_t i = 0; i < t->num_slots; i++) {
        struct slot *s = &t->slots[i];
        if (s->layer->kind->mixes_tokens && !s->is_sublayer)
            s->run_start = arena_take(a, t->max_tokens + 1, sizeof *s->run_start);
        if (s->layer->kind->layout_tables) s->layer->kind->layout_tables(t, s, a);
        if (!in_overlay(t, s)) layout_slot(t, s, a);
        slot_scratch(t, s->layer, need);
    }
    const size_t overlay = layout_overlay(t, NULL);
    layout_overlay(t, arena_take(a, overlay, 1));
    const size_t temporaries = count_temporaries(t);
    t->temporaries = (struct arena){.base = arena_take(a, temporaries, 1), .size = temporaries};
    const dqt_layer *first = t->slots[0].layer;
    if (first->kind->takes_tokens) {
        t->stream = layout_rows(t, first->shape.out, a);
        if (tape_saves(t)) t->stream_gradient = layout_rows(t, first->shape.out, a);
    }
    m->activations = a->used - begin;
    layout_gradients(t, a);
    m->gradients = a->used - begin - m->activations;
}

static int resolve_precision(const dqt_context *ctx, int precision) {
    if (precision == DQT_PRECISION_F32 || precision == DQT_PRECISION_BF16) return precision;
    return ctx->kernels->fast_bf16 ? DQT_PRECISION_BF16 : DQT_PRECISION_F32;
}

/* Makes a tape in a block of so many bytes. With block 0 its memory is measured: only the front is there, and what lies
 * behind it has no addresses. */
static dqt_status tape_setup(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                             size_t positions, size_t block, dqt_tape **out, dqt_tape_memory_info *m,
                             struct scratch_need *need) {
    DQT_ASSERT(positions >= o->max_length);
    dqt_tape as = {.ctx = ctx,
                   .options = *o,
                   .precision = resolve_precision(ctx, o->precision),
                   .num_layers = num_layers,
                   .first_parameter = layers[0]->whole.parameter,
                   .first_slot = layers[0]->whole.slot,
                   .max_tokens = o->max_batch * o->max_length,
                   .positions = positions};
    struct front f = {0};
    add_layers(&as, &f, layers);
    as.num_slots = f.slots;
    as.num_parameters = as.shown = f.parameters;
    struct arena a = {0};
    layout_front(&a, &as, &f);
    const size_t front = a.used;
    as.bytes = block ? block : front;
    a = (struct arena){.base = memory_alloc_raw(ctx, as.bytes), .size = as.bytes};
    if (!a.base) return fail(ctx, DQT_E_MEMORY, "no memory for a tape of %zu bytes", as.bytes);
    memset(a.base, 0, front);
    dqt_tape *t = layout_front(&a, &as, &f);
    add_layers(t, &f, layers);
    if (!block) a.base = NULL;
    *m = (dqt_tape_memory_info){.struct_size = sizeof *m, .other = front};
    tape_layout(t, &a, m, need);
    m->workspace = workspace_bytes(need, ctx->num_threads);
    if (!size_add(a.used, m->workspace, &m->total)) {
        memory_free(ctx, t, t->bytes);
        return fail(ctx, DQT_E_SHAPE, "a tape of %zu tokens is too large", as.max_tokens);
    }
    *out = t;
    return DQT_OK;
}

dqt_status tape_memory(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                       size_t positions, dqt_tape_memory_info *out) {
    struct scratch_need need = {0};
    dqt_tape *t;
    TRY(tape_setup(ctx, layers, num_layers, o, positions, 0, &t, out, &need));
    memory_free(ctx, t, t->bytes);
    return DQT_OK;
}

dqt_status tape_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                       size_t positions, dqt_tape **out) {
    *out = NULL;
    dqt_tape_memory_info m;
    struct scratch_need need = {0};
    dqt_tape *t;
    TRY(tape_memory(ctx, layers, num_layers, o, positions, &m));
    TRY(tape_setup(ctx, layers, num_layers, o, positions, m.total - m.workspace, &t, &m, &need));
    dqt_status status = workspace_create(ctx, &need, &t->workspace);
    if (status != DQT_OK) {
        memory_free(ctx, t, t->bytes);
        return status;
    }
    for (size_t i = 0; i < t->num_parameters; i++)
        if (t->parameters[i].gradient.data) gradient_zero(&t->parameters[i].gradient);
    for (size_t i = 0; i < t->num_parameters; i++)
        t->gradient_list[i] = &t->parameters[i].gradient;
    *out = t;
    return DQT_OK;
}

int tape_precision(const dqt_tape *t) {
    if (t->options.precision == DQT_PRECISION_INT8) return DQT_PRECISION_INT8;
    for (size_t i = 0; i < t->num_parameters; i++)
        if (t->parameters[i].integer_products) return DQT_PRECISION_INT8;
    return t->precision;
}

void tape_destroy(dqt_tape *t) {
    if (!t) return;
    if (t->fused && updater_options(t->fused)->num_parts) updater_release(t->fused); /* no part ends it alone */
    if (t->fused) tape_end_update(t, NULL);
    workspace_destroy(t->ctx, &t->workspace);
    memory_free(t->ctx, t, t->bytes);
}
