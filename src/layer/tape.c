/* Layout and life of tapes. */
#include "layer/tape.h"

#include "core/status.h"
#include "kernels/kernels.h"
#include "ops/attention.h"
#include "ops/norm.h"

/* Counts of floats are kept at multiples of a cache line. */
static size_t line(size_t count) {
    return round_up(count, ALIGNMENT / sizeof(float));
}

/* Blocks bring their parts. */
static bool is_part_of(const dqt_layer *part, const dqt_layer *layer) {
    for (int i = 0; i < BLOCK_PARTS; i++)
        if (layer->part[i] == part) return true;
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
            if (is_part_of(layers[j], layers[i]) || is_part_of(layers[i], layers[j]))
                return fail(ctx, DQT_E_ARGUMENT,
                            "of layers[%zu] and layers[%zu] one is a part of the other, and comes with it", j, i);
            if (layers[j] == layers[i]->tied) tied_found = true;
        }
        if (!tied_found)
            return fail(ctx, DQT_E_ARGUMENT, "layers[%zu] is a tied head whose embedding is not before it", i);
    }
    return DQT_OK;
}

static bool is_flag(int32_t v) {
    return v == 0 || v == 1;
}

dqt_status tape_check(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o) {
    TRY(check_layers(ctx, layers, num_layers));
    size_t tokens;
    if (o->precision < DQT_PRECISION_AUTO || o->precision > DQT_PRECISION_BF16)
        return fail(ctx, DQT_E_ARGUMENT, "precision is %d; it must be a DQT_PRECISION_* value", o->precision);
    if (!is_flag(o->gradients) || !is_flag(o->inference) || !is_flag(o->recompute))
        return fail(ctx, DQT_E_ARGUMENT, "gradients %d, inference %d and recompute %d must be 0 or 1", o->gradients,
                    o->inference, o->recompute);
    if (o->gradient_format < DQT_FLOAT_F32 || o->gradient_format > DQT_FLOAT_FP8_E5M2)
        return fail(ctx, DQT_E_ARGUMENT, "gradient_format is %d; it must be a DQT_FLOAT_* value", o->gradient_format);
    if (o->checkpoint_format < DQT_FLOAT_F32 || o->checkpoint_format > DQT_FLOAT_FP8_E5M2)
        return fail(ctx, DQT_E_ARGUMENT, "checkpoint_format is %d; it must be a DQT_FLOAT_* value",
                    o->checkpoint_format);
    if (o->max_batch == 0 || o->max_length == 0 || !size_mul(o->max_batch, o->max_length, &tokens) ||
        tokens > INT32_MAX)
        return fail(ctx, DQT_E_SHAPE, "max_batch %zu x max_length %zu must be 1 to %d tokens", o->max_batch,
                    o->max_length, INT32_MAX);
    return DQT_OK;
}

static bool is_inference(const dqt_tape *t) {
    return t->options.inference != 0;
}

static struct activation_buffer place_input(const dqt_tape *t, const dqt_layer *l, size_t cols, struct arena *a) {
    struct activation_buffer s = {.cols = cols};
    if (l->activation == DQT_ACTIVATION_INT8) {
        s.ld = round_up(cols, UNIT);
        s.codes = arena_take(a, t->max_tokens, s.ld);
        s.step = arena_take(a, t->max_tokens, sizeof *s.step);
    } else {
        s.ld = cols;
        s.floats = arena_take(a, t->max_tokens, cols * sizeof *s.floats);
    }
    return s;
}

static float *place_rows(const dqt_tape *t, size_t cols, struct arena *a) {
    return arena_take(a, t->max_tokens, cols * sizeof(float));
}

static void place_slot(const dqt_tape *t, struct slot *s, struct arena *a) {
    const dqt_layer *l = s->layer;
    const bool save = !is_inference(t);
    switch (l->kind) {
    case DQT_LAYER_EMBEDDING:
        if (!save) break;
        s->tokens = arena_take(a, t->max_tokens, sizeof *s->tokens);
        s->order = arena_take(a, t->max_tokens, sizeof *s->order);
        s->start = arena_take(a, l->in + 1, sizeof *s->start);
        break;
    case DQT_LAYER_LINEAR: s->input = place_input(t, l, l->in, a); break;
    case DQT_LAYER_RMSNORM:
        if (!save) break;
        s->x = place_rows(t, l->in, a);
        s->inverse_rms = place_rows(t, 1, a);
        break;
    case DQT_LAYER_ATTENTION:
        s->input = place_input(t, l, l->in, a);
        s->inner = place_input(t, l, l->in, a);
        s->q = place_rows(t, l->in, a);
        s->k = place_rows(t, l->kv_heads * l->head_size, a);
        s->v = place_rows(t, l->kv_heads * l->head_size, a);
        s->mixed = place_rows(t, l->in, a);
        if (!save) break;
        s->log_sum = place_rows(t, l->heads, a);
        if (l->weight[ATTENTION_NORM]) s->inverse_rms = place_rows(t, 1, a);
        break;
    case DQT_LAYER_MLP:
        s->input = place_input(t, l, l->in, a);
        s->inner = place_input(t, l, l->intermediate, a);
        if (l->weight[MLP_GATE]) s->gate = place_rows(t, l->intermediate, a);
        s->up = place_rows(t, l->intermediate, a);
        if (save && l->weight[MLP_NORM]) s->inverse_rms = place_rows(t, 1, a);
        break;
    case DQT_LAYER_BLOCK:
        if (!save || !t->options.recompute) break;
        s->checkpoint = (struct gradient){.format = t->options.checkpoint_format, .rows = t->max_tokens, .cols = l->in};
        gradient_place(&s->checkpoint, a);
        break;
    default: /* DQT_LAYER_HEAD */
        s->input = place_input(t, l, l->in, a);
        s->log_sum = place_rows(t, 3, a); /* log-sum-exp, then maximum and target logit while it is made */
        s->tokens = arena_take(a, t->max_tokens, sizeof *s->tokens);
    }
}

/* True if the slot at index i is a part of a block. */
static bool is_part(const dqt_tape *t, size_t i) {
    for (size_t back = 1; back <= BLOCK_PARTS && back <= i; back++)
        if (t->slots[i - back].layer->kind == DQT_LAYER_BLOCK) return true;
    return false;
}

static bool in_overlay(const dqt_tape *t, size_t i) {
    return is_inference(t) || (t->options.recompute && is_part(t, i));
}

/* Places all overlaid slots at `base` (NULL: counts) and returns the largest group's size. */
static size_t place_overlay(const dqt_tape *t, unsigned char *base) {
    size_t largest = 0;
    struct arena a = {.base = base};
    for (size_t i = 0; i < t->num_slots; i++) {
        if (!in_overlay(t, i)) continue;
        /* In inference each slot starts afresh; with recompute each block's parts do. */
        if (is_inference(t) || t->slots[i - 1].layer->kind == DQT_LAYER_BLOCK) a.used = 0;
        place_slot(t, &t->slots[i], &a);
        largest = size_max(largest, a.used);
    }
    return largest;
}

/* Floats of temporaries; they mirror the tape_take calls of each layer's forward and backward. */
static size_t forward_temporaries(const dqt_tape *t, const dqt_layer *l) {
    return l->kind == DQT_LAYER_HEAD ? line(t->max_tokens * t->head_tile) : 0;
}

static size_t backward_temporaries(const dqt_tape *t, const dqt_layer *l) {
    const size_t n = t->max_tokens;
    size_t parts, again;
    switch (l->kind) {
    case DQT_LAYER_RMSNORM: return line(l->in);
    case DQT_LAYER_ATTENTION: return 2 * line(n * l->in) + 2 * line(n * l->kv_heads * l->head_size) + line(l->in);
    case DQT_LAYER_MLP: return (l->weight[MLP_GATE] ? 2 : 1) * line(n * l->intermediate) + line(l->intermediate);
    case DQT_LAYER_BLOCK:
        parts = size_max(
            backward_temporaries(t, l->part[BLOCK_NORM1]),
            size_max(backward_temporaries(t, l->part[BLOCK_ATTENTION]), backward_temporaries(t, l->part[BLOCK_MLP])));
        again = t->options.recompute ? line(n * l->in) : 0;
        return size_max(line(n * l->in) + parts, again);
    case DQT_LAYER_HEAD: return line(n * t->head_tile);
    default: return 0;
    }
}

enum { HEAD_TILE_FLOATS = 2 << 20 }; /* 8 MiB of logits at a time */

static size_t choose_head_tile(size_t tokens, size_t classes) {
    size_t tile = HEAD_TILE_FLOATS / tokens / GEMM_TILE_ROWS * GEMM_TILE_ROWS;
    if (tile < GEMM_TILE_ROWS) tile = GEMM_TILE_ROWS;
    return tile < classes ? tile : round_up(classes, GEMM_TILE_ROWS);
}

static void scratch_of(const dqt_tape *t, const dqt_layer *l, struct scratch_need *need) {
    const struct attention_shape shape = {t->options.max_batch, t->positions, l->heads, l->kv_heads, l->head_size};
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        const dqt_tensor *w = l->weight[i];
        if (!w) continue;
        scratch_max(need, 0, 0, w->cols * sizeof(float)); /* gradient_add_rows */
        activations_scratch(w->cols, need);
        if (l->weight_class[i] == DQT_CLASS_NORM)
            norm_scratch(t->max_tokens, w->cols, need);
        else if (l->kind == DQT_LAYER_EMBEDDING)
            scratch_max(need, 0, GEMM_TILE_ROWS * w->cols * sizeof(float), 0);
        else
            gemm_scratch(t->ctx, t->max_tokens, l->kind == DQT_LAYER_HEAD ? t->head_tile : w->rows, w->cols, need);
    }
    if (l->kind == DQT_LAYER_ATTENTION) attention_scratch(t->ctx, &shape, need);
}

static void add_slot(dqt_tape *t, size_t *slots, size_t *parameters, dqt_layer *l) {
    struct slot *s = t->slots ? &t->slots[*slots] : NULL;
    ++*slots;
    if (s) s->layer = l;
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        if (!l->weight[i] || l->tied) continue;
        if (s) {
            s->parameter[i] = *parameters;
            struct tape_parameter *p = &t->parameters[*parameters];
            p->name = l->weight_name[i];
            p->parameter_class = l->weight_class[i];
            p->tensor = l->weight[i];
            p->gradient = (struct gradient){
                .format = t->options.gradient_format, .rows = p->tensor->rows, .cols = p->tensor->cols};
        }
        ++*parameters;
    }
    for (int i = 0; i < BLOCK_PARTS; i++)
        if (l->part[i]) add_slot(t, slots, parameters, l->part[i]);
    if (s && l->tied) s->parameter[W] = tape_slot(t, l->tied)->parameter[W];
}

static void place_rotation(dqt_tape *t, size_t index, struct arena *a) {
    struct slot *s = &t->slots[index];
    const dqt_layer *l = s->layer;
    if (l->kind != DQT_LAYER_ATTENTION) return;
    for (size_t i = 0; i < index; i++) {
        const struct slot *other = &t->slots[i];
        if (other->layer->kind == DQT_LAYER_ATTENTION && other->layer->head_size == l->head_size &&
            other->layer->rope_theta >= l->rope_theta && other->layer->rope_theta <= l->rope_theta) {
            s->cosines = other->cosines;
            s->sines = other->sines;
            return;
        }
    }
    s->cosines = arena_take(a, t->positions, l->head_size / 2 * sizeof(float));
    s->sines = arena_take(a, t->positions, l->head_size / 2 * sizeof(float));
    if (s->cosines) rope_table(l->rope_theta, l->head_size, t->positions, s->cosines, s->sines);
}

/* Lays the tape out in `a`, whose first part already holds tape, parameters and slots. */
static void tape_layout(dqt_tape *t, struct arena *a, dqt_tape_memory_info *m, struct scratch_need *need) {
    const size_t begin = a->used;
    for (size_t i = 0; i < t->num_slots; i++) {
        place_rotation(t, i, a);
        if (!in_overlay(t, i)) place_slot(t, &t->slots[i], a);
    }
    const size_t overlay = place_overlay(t, NULL);
    place_overlay(t, arena_take(a, overlay, 1));
    t->temporary_size = 0;
    for (size_t i = 0; i < t->num_slots; i++) {
        size_t count = forward_temporaries(t, t->slots[i].layer);
        if (!is_inference(t)) count = size_max(count, backward_temporaries(t, t->slots[i].layer));
        t->temporary_size = size_max(t->temporary_size, count);
        scratch_of(t, t->slots[i].layer, need);
    }
    t->temporary = arena_take(a, t->temporary_size, sizeof(float));
    const dqt_layer *first = t->slots[0].layer;
    if (first->kind == DQT_LAYER_EMBEDDING) {
        t->stream = place_rows(t, first->out, a);
        if (!is_inference(t)) t->stream_gradient = place_rows(t, first->out, a);
    }
    m->activations = a->used - begin;
    for (size_t i = 0; i < t->num_parameters && t->options.gradients && !is_inference(t); i++)
        gradient_place(&t->parameters[i].gradient, a);
    m->gradients = a->used - begin - m->activations;
}

/* Runs the layout on a tape whose slots and parameters lie in `a` (base NULL cannot hold them, so counting uses a small
 * block of its own; see measure). */
static dqt_status tape_setup(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                             size_t positions, size_t block, dqt_tape **out, dqt_tape_memory_info *m,
                             struct scratch_need *need) {
    dqt_tape head = {.ctx = ctx,
                     .options = *o,
                     .num_layers = num_layers,
                     .max_tokens = o->max_batch * o->max_length,
                     .positions = positions};
    for (size_t i = 0; i < num_layers; i++)
        add_slot(&head, &head.num_slots, &head.num_parameters, layers[i]);
    struct arena a = {0};
    arena_take(&a, 1, sizeof head);
    arena_take(&a, head.num_parameters, sizeof *head.parameters);
    arena_take(&a, head.num_parameters, sizeof *head.gradient_list);
    arena_take(&a, head.num_slots, sizeof *head.slots);
    const size_t front = a.used;
    a.base = memory_alloc_raw(ctx, block ? block : front);
    if (!a.base) return fail(ctx, DQT_E_MEMORY, "no memory for a tape of %zu bytes", block ? block : front);
    memset(a.base, 0, front);
    a.used = 0;
    dqt_tape *t = arena_take(&a, 1, sizeof *t);
    *t = head;
    t->bytes = block ? block : front;
    t->parameters = arena_take(&a, t->num_parameters, sizeof *t->parameters);
    t->gradient_list = arena_take(&a, t->num_parameters, sizeof *t->gradient_list);
    t->slots = arena_take(&a, t->num_slots, sizeof *t->slots);
    t->precision = o->precision;
    if (o->precision == DQT_PRECISION_AUTO)
        t->precision = ctx->kernels->fast_bf16 ? DQT_PRECISION_BF16 : DQT_PRECISION_F32;
    size_t slots = 0, parameters = 0;
    for (size_t i = 0; i < num_layers; i++)
        add_slot(t, &slots, &parameters, layers[i]);
    for (size_t i = 0; i < num_layers; i++)
        if (layers[i]->kind == DQT_LAYER_HEAD)
            t->head_tile = size_max(t->head_tile, choose_head_tile(t->max_tokens, layers[i]->out));
    if (!block) a.base = NULL;
    *m = (dqt_tape_memory_info){.struct_size = sizeof *m, .other = front};
    tape_layout(t, &a, m, need);
    m->workspace = workspace_bytes(need, ctx->num_threads);
    if (!size_add(a.used, m->workspace, &m->total)) {
        memory_free(ctx, t, t->bytes);
        return fail(ctx, DQT_E_SHAPE, "a tape of %zu tokens is too large", head.max_tokens);
    }
    *out = t;
    return DQT_OK;
}

static dqt_status measure(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                          size_t positions, dqt_tape_memory_info *out) {
    struct scratch_need need = {0};
    dqt_tape *t;
    TRY(tape_setup(ctx, layers, num_layers, o, positions, 0, &t, out, &need));
    memory_free(ctx, t, t->bytes);
    return DQT_OK;
}

dqt_status tape_memory(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                       dqt_tape_memory_info *out) {
    return measure(ctx, layers, num_layers, o, o->max_length, out);
}

dqt_status tape_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers, const dqt_tape_options *o,
                       size_t positions, dqt_tape **out) {
    *out = NULL;
    dqt_tape_memory_info m;
    struct scratch_need need = {0};
    dqt_tape *t;
    TRY(measure(ctx, layers, num_layers, o, positions, &m));
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

void tape_destroy(dqt_tape *t) {
    if (!t) return;
    workspace_destroy(t->ctx, &t->workspace);
    memory_free(t->ctx, t, t->bytes);
}
