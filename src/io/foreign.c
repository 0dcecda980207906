/* The tensors of a foreign model by name, and into a model one after another: beside the result there is never more
 * than the largest tensor as floats, and a piece of the file. */
#include "io/foreign.h"

#include <math.h>
#include <stdio.h>

#include "core/status.h"
#include "io/import_report.h"
#include "io/importance.h"
#include "io/order.h"
#include "io/safetensors.h"

/* ---- Lists --------------------------------------------------------------------------------------------------- */

/* Room for one more of `size` bytes. */
static dqt_status grow(dqt_context *ctx, void **list, size_t count, size_t *room, size_t size) {
    size_t bytes;
    if (count < *room) return DQT_OK;
    const size_t more = size_max(16, 2 * *room);
    void *larger = size_mul(more, size, &bytes) ? memory_alloc(ctx, bytes) : NULL;
    if (!larger) return fail(ctx, DQT_E_MEMORY, "no memory for a list of %zu entries", more);
    if (count) memcpy(larger, *list, count * size);
    memory_free(ctx, *list, *room * size);
    *list = larger;
    *room = more;
    return DQT_OK;
}

dqt_status foreign_add(struct foreign *f, struct foreign_tensor **out) {
    void *list = f->tensors;
    const dqt_status status = grow(f->ctx, &list, f->num_tensors, &f->room, sizeof **out);
    f->tensors = list;
    if (status != DQT_OK) return status;
    *out = &f->tensors[f->num_tensors++];
    memset(*out, 0, sizeof **out);
    return DQT_OK;
}

const char *foreign_path(const struct foreign *f, size_t index) {
    return f->paths + index * f->path_bytes;
}

dqt_status foreign_add_path(struct foreign *f, const char *folder, const char *name) {
    const size_t n = strlen(folder);
    void *list = f->paths;
    if (!f->path_bytes) f->path_bytes = n + 1 + FILE_NAME_BYTES;
    const dqt_status status = grow(f->ctx, &list, f->num_paths, &f->paths_room, f->path_bytes);
    f->paths = list;
    if (status != DQT_OK) return status;
    DQT_ASSERT(n + 1 + strlen(name) < f->path_bytes);
    snprintf(f->paths + f->num_paths++ * f->path_bytes, f->path_bytes, "%s%s%s", folder, *name ? "/" : "", name);
    return DQT_OK;
}

void foreign_close(struct foreign *f) {
    memory_free(f->ctx, f->tensors, f->room * sizeof *f->tensors);
    memory_free(f->ctx, f->paths, f->paths_room * f->path_bytes);
}

static bool before(const void *arg, size_t a, size_t b) {
    const struct foreign_tensor *x = (const struct foreign_tensor *)arg + a,
                                *y = (const struct foreign_tensor *)arg + b;
    return x->offset != y->offset ? x->offset < y->offset : x->bytes < y->bytes;
}

static dqt_status check_order(const struct foreign *f, const struct foreign_tensor *list, const size_t *order,
                              size_t count, uint64_t begin, uint64_t end, bool whole) {
    uint64_t at = begin;
    for (size_t i = 0; i < count; i++) {
        const struct foreign_tensor *t = &list[order[i]];
        if (t->offset > end || t->bytes > end - t->offset)
            return fail(f->ctx, DQT_E_FORMAT, "%s: %s goes beyond the end of the file", f->what, t->name);
        if (t->offset < at || (whole && t->offset != at))
            return fail(f->ctx, DQT_E_FORMAT, "%s: %s begins at byte %llu of its file where byte %llu is next", f->what,
                        t->name, (unsigned long long)t->offset, (unsigned long long)at);
        at = t->offset + t->bytes;
    }
    if (whole && at != end)
        return fail(f->ctx, DQT_E_FORMAT, "%s: the tensors end at byte %llu of a file of %llu", f->what,
                    (unsigned long long)at, (unsigned long long)end);
    return DQT_OK;
}

dqt_status foreign_check_layout(const struct foreign *f, size_t first, uint64_t begin, uint64_t end, bool whole) {
    const size_t count = f->num_tensors - first;
    size_t bytes;
    if (count == 0) return DQT_OK;
    size_t *order = size_mul(count, sizeof *order, &bytes) ? memory_alloc_raw(f->ctx, bytes) : NULL;
    if (!order) return fail(f->ctx, DQT_E_MEMORY, "no memory for a list of %zu tensors", count);
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    order_sort(order, count, before, f->tensors + first);
    const dqt_status status = check_order(f, f->tensors + first, order, count, begin, end, whole);
    memory_free(f->ctx, order, bytes);
    return status;
}

/* ---- Names --------------------------------------------------------------------------------------------------- */

/* Where a parameter and the scale of its codes are in the list; NULL: nowhere. */
struct place {
    const struct foreign_tensor *weight, *scale;
};

struct loader {
    struct foreign *f;
    const struct foreign_options *o;
    struct parameter_list list;
    struct place *places;                   /* [list.count] */
    const struct foreign_tensor *tied_head; /* of a folder whose head is the embedding, and is there all the same */
    uint64_t embedding;                     /* digest of its floats, where there is such a head */
    struct input_file file;
    size_t open;        /* the path that `file` is, SIZE_MAX: none */
    unsigned char *raw; /* of rows as they are in the file */
    size_t raw_bytes;
    float *weights; /* of a tensor that is not stored as F32 */
    size_t weights_bytes;
    struct importance *importance; /* NULL: of all weights the same */
    struct import_report report;
};

static dqt_status refuse(const struct loader *l, const struct foreign_tensor *t, const char *why) {
    return fail(l->f->ctx, DQT_E_FORMAT, "%s: %s %s", l->f->what, t->name, why);
}

static bool ends_in(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Frequencies, which files hold beside the weights, and which are not needed. */
static bool is_known(const struct loader *l, const char *name) {
    return l->f->facts.gguf ? strcmp(name, "rope_freqs.weight") == 0 : ends_in(name, ".rotary_emb.inv_freq");
}

static bool is_tied_head(const struct loader *l, const char *name) {
    return !l->f->facts.gguf && l->list.model->config.tie_embeddings && strcmp(name, "lm_head.weight") == 0;
}

/* The parameter of a scale: NAME.scale of NAME.weight in GGUF files, NAME.weight_scale in folders. */
static size_t scale_index(const struct loader *l, const char *name) {
    const char *end = l->f->facts.gguf ? ".scale" : ".weight_scale";
    char weight[FILE_NAME_BYTES + 8];
    if (!ends_in(name, end)) return SIZE_MAX;
    snprintf(weight, sizeof weight, "%.*s.weight", (int)(strlen(name) - strlen(end)), name);
    return l->f->facts.gguf ? gguf_index(&l->list, weight) : hf_index(&l->list, weight);
}

/* The weights that BitNet quantises. */
static bool is_linear(int parameter_class) {
    return parameter_class == DQT_CLASS_ATTENTION || parameter_class == DQT_CLASS_MLP;
}

static dqt_status check_shape(const struct loader *l, const struct foreign_tensor *t, size_t index) {
    const struct update_target p = list_parameter(&l->list, index);
    const bool packed = t->encoding == &encoding_packed, vector = class_is_vector(p.parameter_class);
    const bool allowed = l->f->packed && is_linear(p.parameter_class);
    if (!t->encoding || (packed && !allowed))
        return refuse(l, t, "has a dtype that cannot be read into this parameter");
    if (allowed && !packed) return refuse(l, t, "is not packed, which quantization_config says that it is");
    const uint64_t rows = packed ? p.tensor->rows / 4 : p.tensor->rows;
    if (t->dims != (vector ? 1 : 2) || t->rows != rows || t->cols != p.tensor->cols || (packed && p.tensor->rows % 4))
        return fail(l->f->ctx, DQT_E_SHAPE, "%s: %s is %llu x %llu; the model's is %zu x %zu", l->f->what, t->name,
                    (unsigned long long)t->rows, (unsigned long long)t->cols, p.tensor->rows, p.tensor->cols);
    if (t->bytes != rows * (t->cols / t->encoding->block) * t->encoding->bytes)
        return refuse(l, t, "has offsets that do not fit its shape");
    return DQT_OK;
}

static dqt_status place_tied_head(struct loader *l, const struct foreign_tensor *t) {
    if (l->tied_head) return refuse(l, t, "is there twice");
    l->tied_head = t;
    return check_shape(l, t, EMBEDDING);
}

static dqt_status place_tensor(struct loader *l, const struct foreign_tensor *t) {
    if (is_tied_head(l, t->name)) return place_tied_head(l, t);
    const size_t index = l->f->facts.gguf ? gguf_index(&l->list, t->name) : hf_index(&l->list, t->name);
    const size_t scaled = index == SIZE_MAX ? scale_index(l, t->name) : SIZE_MAX;
    if (index == SIZE_MAX && scaled == SIZE_MAX)
        return is_known(l, t->name) ? DQT_OK : refuse(l, t, "is no parameter of this model");
    const struct foreign_tensor **place = scaled == SIZE_MAX ? &l->places[index].weight : &l->places[scaled].scale;
    if (*place) return refuse(l, t, "is there twice");
    if (scaled == SIZE_MAX)
        TRY(check_shape(l, t, index));
    else if (!t->encoding || t->encoding->block != 1 || t->rows * t->cols != 1 || t->bytes != t->encoding->bytes ||
             t->encoding == &encoding_packed)
        return refuse(l, t, "is not one number");
    *place = t;
    return DQT_OK;
}

static dqt_status place_all(struct loader *l) {
    char name[FILE_NAME_BYTES];
    for (size_t i = 0; i < l->f->num_tensors; i++)
        TRY(place_tensor(l, &l->f->tensors[i]));
    for (size_t i = 0; i < l->list.count; i++) {
        const struct place *p = &l->places[i];
        (l->f->facts.gguf ? gguf_name : hf_name)(&l->list, i, name);
        if (!p->weight) return fail(l->f->ctx, DQT_E_FORMAT, "%s: %s is missing", l->f->what, name);
        if (p->weight->encoding == &encoding_packed && !p->scale)
            return refuse(l, p->weight, "has packed codes without their scale");
        if (p->scale && !l->f->facts.gguf && p->weight->encoding != &encoding_packed)
            return refuse(l, p->scale, "is the scale of weights that are not packed");
    }
    return DQT_OK;
}

/* ---- Formats ------------------------------------------------------------------------------------------------- */

/* Codes keep their blocks' scales, but those with a scale beside them, whose blocks' are 1. */
static dqt_tensor_options kept(const struct place *p) {
    const struct encoding *e = p->weight->encoding;
    dqt_tensor_options o = {.struct_size = sizeof o, .storage = e->kept};
    if (!e->codes || p->scale) return o;
    o.scale_axis = DQT_AXIS_GROUP;
    o.group_size = (int32_t)e->block;
    return o;
}

/* As transformers' WeightQuant takes the codes: ternary, and one scale, the mean magnitude. What the host says goes
 * first. */
static void quantise_in_use(dqt_tensor_options *o) {
    if (o->compute == DQT_FORMAT_SAME && !format_has_mean_scale(options_storage(o))) o->compute = DQT_FORMAT_TERNARY;
    if (o->scale_rule == DQT_SCALE_AUTO && format_has_mean_scale(options_codes(o))) o->scale_rule = DQT_SCALE_ABSMEAN;
}

static bool same_kept(const dqt_tensor_options *a, const dqt_tensor_options *b) {
    return a->storage == b->storage && a->scale_axis == b->scale_axis && a->group_size == b->group_size;
}

/* What the host wants of a parameter of this class; a storage of 0: as the file has it. */
static const dqt_tensor_options *wanted_of(const struct loader *l, int parameter_class) {
    const dqt_tensor_options *const wanted[] = {&l->o->embedding, &l->o->linear, &l->o->head};
    return wanted[format_key_of(parameter_class)];
}

/* What a matrix becomes: what the host wants of its class, else what holds the file's weights exactly. */
static dqt_tensor_options options_of(const struct loader *l, size_t index, int parameter_class) {
    const dqt_tensor_options *wanted = wanted_of(l, parameter_class);
    dqt_tensor_options o = wanted->storage ? *wanted : kept(&l->places[index]);
    if (l->f->online && is_linear(parameter_class)) quantise_in_use(&o);
    tensor_complete(&o, o.storage);
    if (o.scale_rule == DQT_SCALE_AUTO) o.scale_rule = scale_rule_of_trained(o.scale_axis);
    return o;
}

/* The options of every class, and of the tensors that differ from the first one of theirs. */
static void choose_formats(const struct loader *l, dqt_llama_config *c, dqt_tensor_override *overrides) {
    dqt_tensor_options *const classes[] = {&c->embedding, &c->linear, &c->head};
    c->embedding = c->linear = c->head = (dqt_tensor_options){.struct_size = sizeof c->head};
    for (size_t i = 0; i < l->list.count; i++) {
        const struct update_target p = list_parameter(&l->list, i);
        dqt_tensor_options *const class = classes[format_key_of(p.parameter_class)];
        if (class_is_vector(p.parameter_class)) continue;
        const dqt_tensor_options own = options_of(l, i, p.parameter_class);
        if (!class->storage)
            *class = own;
        else if (!same_kept(class, &own))
            overrides[c->num_overrides++] = (dqt_tensor_override){p.name, own};
    }
    if (c->tie_embeddings) c->head = c->embedding;
    if (c->num_overrides) c->overrides = overrides;
}

/* The names of overrides are those of the shape, which is there until the model has copied them. */
static dqt_status create_model(const struct loader *l, dqt_llama_config *c, dqt_llama **out) {
    size_t bytes;
    dqt_tensor_override *overrides =
        size_mul(l->list.count, sizeof *overrides, &bytes) ? memory_alloc(l->f->ctx, bytes) : NULL;
    if (!overrides) return fail(l->f->ctx, DQT_E_MEMORY, "no memory for a list of %zu tensors", l->list.count);
    choose_formats(l, c, overrides);
    c->shape_only = 0;
    const dqt_status status = llama_create(l->f->ctx, c, out);
    memory_free(l->f->ctx, overrides, bytes);
    return status;
}

/* ---- Weights ------------------------------------------------------------------------------------------------- */

static dqt_status use_file(struct loader *l, size_t index) {
    if (l->open == index) return DQT_OK;
    if (l->open != SIZE_MAX) file_close(l->f->ctx, "", &l->file, DQT_OK);
    l->open = SIZE_MAX;
    TRY(file_open_at_once(l->f->ctx, foreign_path(l->f, index), &l->file));
    l->open = index;
    return DQT_OK;
}

/* Row `row` of a matrix of so many heads whose file rotates neighbours is this row of the model, which rotates halves.
 */
static size_t halves_row(size_t rows, size_t heads, size_t row) {
    const size_t size = rows / heads, at = row % size;
    return row - at + at % 2 * (size / 2) + at / 2;
}

static bool decode_row(const struct encoding *e, const unsigned char *in, size_t cols, float *out) {
    bool valid = true;
    for (size_t c = 0; c < cols; c += e->block, in += e->bytes)
        valid = e->decode(in, out + c) && valid;
    return valid;
}

/* A row of packed bytes is four rows. */
static bool unpack_rows(const unsigned char *in, size_t row, size_t rows, size_t cols, float *out) {
    bool valid = true;
    for (size_t k = 0; k < 4; k++)
        for (size_t c = 0; c < cols; c++) {
            const int field = in[c] >> 2 * k & 3;
            valid = valid && field != 3;
            out[(k * rows + row) * cols + c] = (float)(field - 1);
        }
    return valid;
}

/* A row of blocks into the tensor, code by code and scale by scale. scratch: cols codes, and behind them halves. */
static bool store_codes(dqt_tensor *t, size_t row, const struct encoding *e, const unsigned char *in, float *scratch) {
    uint16_t *halves = (uint16_t *)(void *)scratch;
    int8_t *codes = (int8_t *)(void *)(halves + t->row_groups);
    bool valid = true;
    for (size_t g = 0; g < t->row_groups; g++, in += e->bytes)
        valid = e->codes(in, codes + g * e->block, &halves[g]) && valid;
    return valid && tensor_set_row(t, row, codes, halves);
}

/* All rows of a tensor to out[rows][cols] in the model's order, or where they are kept exactly into `exact`, with out
 * as scratch. */
static dqt_status read_rows(struct loader *l, const struct foreign_tensor *t, size_t heads, float *out,
                            dqt_tensor *exact) {
    const size_t rows = (size_t)t->rows, cols = (size_t)t->cols, row_bytes = (size_t)(t->bytes / t->rows);
    const size_t at_once = size_max(1, l->raw_bytes / row_bytes);
    TRY(use_file(l, t->file));
    for (size_t r = 0; r < rows; r += at_once) {
        const size_t n = size_min(at_once, rows - r);
        TRY(file_read_at(l->f->ctx, &l->file, t->offset + (uint64_t)r * row_bytes, l->raw, n * row_bytes));
        for (size_t k = r; k < r + n; k++) {
            const unsigned char *in = l->raw + (k - r) * row_bytes;
            const size_t to = heads ? halves_row(rows, heads, k) : k;
            if (!(exact                             ? store_codes(exact, to, t->encoding, in, out)
                  : t->encoding == &encoding_packed ? unpack_rows(in, k, rows, cols, out)
                                                    : decode_row(t->encoding, in, cols, out + to * cols)))
                return refuse(l, t,
                              exact ? "has a ternary field of 3, which means no weight, or a scale that is not finite"
                                    : "has a ternary field of 3, which means no weight");
        }
    }
    return DQT_OK;
}

/* Hugging Face's BitLinear divides by its scale, AutoBitLinear multiplies by it. */
static dqt_status apply_scale(struct loader *l, const struct foreign_tensor *t, float *weights, size_t count) {
    const struct fact *kind = &l->f->facts.list[QUANTIZATION_CLASS];
    float scale;
    TRY(read_rows(l, t, 0, &scale, NULL));
    if (!isfinite(scale) || !(fabsf(scale) > 0)) return refuse(l, t, "is no scale: it is 0 or not finite");
    if (!l->f->facts.gguf && strcmp(kind->text, "autobitlinear") != 0) scale = 1 / scale;
    for (size_t i = 0; i < count; i++)
        weights[i] *= scale;
    return DQT_OK;
}

static enum element_type type_of(const struct place *p) {
    if (p->scale || p->weight->encoding->block != 1) return TYPE_F32;
    for (enum element_type type = TYPE_F32; type < TYPE_U8; type++)
        if (element_encoding(type) == p->weight->encoding) return type;
    return TYPE_F32;
}

/* The blocks are what the tensor keeps: codes and fp16 scales of groups. */
static bool is_exact(const struct place *p, const dqt_tensor *t) {
    const struct encoding *e = p->weight->encoding;
    return e->codes && !p->scale && format_public(t->storage) == e->kept && tensor_has_halves(t) &&
           t->group_cols == e->block;
}

/* Into the model's tensor, if need be by way of the buffer. */
static dqt_status store_weights(struct loader *l, size_t index, dqt_tensor *t) {
    const struct place *p = &l->places[index];
    const size_t count = t->rows * t->cols;
    if (format_is_code(t->storage) && grid_store(t, l->weights, type_of(p))) {
        tensor_refresh(t);
        return DQT_OK;
    }
    if (p->scale && !wanted_of(l, list_parameter(&l->list, index).parameter_class)->storage)
        return fail(l->f->ctx, DQT_E_UNSUPPORTED,
                    "%s: %s has scales of its blocks and one for all: what it is to become must be said", l->f->what,
                    p->weight->name);
    tensor_quantize_by_importance(t, l->weights, importance_of(l->importance, index), l->o->stochastic,
                                  l->o->seed + 0x9E3779B97F4A7C15u * index);
    import_report_add(&l->report, p->weight->name, t, l->weights);
    if (format_float_bytes(t->storage) == 2 && !numbers_valid(t->data, count, 2, true))
        return refuse(l, p->weight, "has a weight that bf16 cannot hold");
    return DQT_OK;
}

/* Number of the heads whose rows the file has in another order than the model, 0: none. */
static size_t heads_of_file(const struct loader *l, size_t index) {
    return l->f->facts.gguf && l->f->architecture->neighbours ? list_heads(&l->list, index) : 0;
}

/* All of a parameter, [rows][cols] floats. */
static dqt_status read_floats(struct loader *l, size_t index, float *weights) {
    const struct place *p = &l->places[index];
    const dqt_tensor *shape = list_parameter(&l->list, index).tensor;
    const size_t count = shape->rows * shape->cols;
    TRY(read_rows(l, p->weight, heads_of_file(l, index), weights, NULL));
    if (p->scale) TRY(apply_scale(l, p->scale, weights, count));
    return numbers_valid(weights, count, 4, true) ? DQT_OK : refuse(l, p->weight, "has a weight that is not finite");
}

static dqt_status read_parameter(struct loader *l, const dqt_llama *model, size_t index) {
    const struct parameter_list list = parameter_list(model);
    dqt_tensor *t = list_parameter(&list, index).tensor;
    const bool direct = format_float_bytes(t->storage) == sizeof(float), exact = is_exact(&l->places[index], t);
    float *weights = direct ? gain_of(t) : l->weights;
    if (exact)
        TRY(read_rows(l, l->places[index].weight, heads_of_file(l, index), weights, t));
    else
        TRY(read_floats(l, index, weights));
    if (index == EMBEDDING && l->tied_head) l->embedding = weights_digest(weights, t->rows * t->cols);
    if (!direct && !exact) return store_weights(l, index, t);
    tensor_refresh(t);
    return DQT_OK;
}

/* What the file has as the head of a tied model must be the embedding. */
static dqt_status check_tied_head(struct loader *l) {
    const struct foreign_tensor *t = l->tied_head;
    if (!t) return DQT_OK;
    TRY(read_rows(l, t, 0, l->weights, NULL));
    if (weights_digest(l->weights, (size_t)(t->rows * t->cols)) == l->embedding) return DQT_OK;
    return refuse(l, t, "differs from the embedding, and tie_word_embeddings says that it is the same");
}

/* ---- Importance ------------------------------------------------------------------------------------------------- */

/* Linears are quantised by the rule that AUTO means, and that one weighs errors. */
static bool wants_importance(const struct loader *l, const dqt_llama *model) {
    const struct parameter_list list = parameter_list(model);
    if (!l->o->linear.storage || l->o->linear.scale_rule != DQT_SCALE_AUTO) return false;
    for (size_t i = 0; i < list.count; i++) {
        const struct update_target p = list_parameter(&list, i);
        if (is_linear(p.parameter_class) && format_is_code(p.tensor->storage) &&
            p.tensor->scale_rule == DQT_SCALE_MSE && !is_exact(&l->places[i], p.tensor))
            return true;
    }
    return false;
}

/* Before the first parameter of a block is read into the model. */
static dqt_status measure_block(struct loader *l, const dqt_llama *model, size_t first) {
    if (!l->importance) TRY(importance_create(model, &l->importance));
    for (size_t k = 0; k < l->list.per_block; k++)
        TRY(read_floats(l, first + k, importance_weights(l->importance, k)));
    return importance_measure(l->importance);
}

static dqt_status read_all(struct loader *l, const dqt_llama *model) {
    const size_t per_block = l->list.per_block, end = 1 + model->config.num_layers * per_block;
    const bool weigh = wants_importance(l, model);
    for (size_t i = 0; i < l->list.count; i++) {
        if (weigh && i >= 1 && i < end && (i - 1) % per_block == 0) TRY(measure_block(l, model, i));
        TRY(read_parameter(l, model, i));
    }
    return check_tied_head(l);
}

/* Buffers for the largest tensor, and for rows of the file. */
static dqt_status allocate(struct loader *l, const dqt_llama *model) {
    enum { RAW_LEAST = 1 << 20 };
    const struct parameter_list list = parameter_list(model);
    const struct foreign_tensor *head = l->tied_head;
    size_t most = head ? (size_t)(head->rows * head->cols) : 0;
    l->raw_bytes = size_max(RAW_LEAST, head ? (size_t)(head->bytes / head->rows) : 0);
    for (size_t i = 0; i < list.count; i++) {
        const dqt_tensor *t = list_parameter(&list, i).tensor;
        const struct foreign_tensor *from = l->places[i].weight;
        l->raw_bytes = size_max(l->raw_bytes, (size_t)(from->bytes / from->rows));
        if (format_float_bytes(t->storage) != sizeof(float))
            most = size_max(most, is_exact(&l->places[i], t) ? t->cols : t->rows * t->cols);
    }
    l->raw = memory_alloc_raw(l->f->ctx, l->raw_bytes);
    const bool fits = size_mul(most, sizeof *l->weights, &l->weights_bytes);
    l->weights = fits ? memory_alloc_raw(l->f->ctx, l->weights_bytes) : NULL;
    if (!l->raw || (most && !l->weights))
        return fail(l->f->ctx, DQT_E_MEMORY, "no memory for a tensor of %zu weights, and %zu bytes of a file", most,
                    l->raw_bytes);
    return DQT_OK;
}

static dqt_status read_weights(struct loader *l, const dqt_llama *model) {
    dqt_status status = allocate(l, model);
    if (status == DQT_OK) status = read_all(l, model);
    importance_destroy(l->importance);
    if (l->open != SIZE_MAX) status = file_close(l->f->ctx, foreign_path(l->f, l->open), &l->file, status);
    if (status == DQT_OK) import_report_end(&l->report);
    memory_free(l->f->ctx, l->weights, l->weights_bytes);
    memory_free(l->f->ctx, l->raw, l->raw_bytes);
    return status;
}

/* `shape` gives the names. */
static dqt_status create_from(struct foreign *f, const struct foreign_options *o, const dqt_llama *shape,
                              dqt_llama_config *c, dqt_llama **out) {
    struct loader l = {.f = f, .o = o, .list = parameter_list(shape), .open = SIZE_MAX, .report.ctx = f->ctx};
    size_t bytes;
    if (size_mul(l.list.count, sizeof *l.places, &bytes)) l.places = memory_alloc(f->ctx, bytes);
    if (!l.places) return fail(f->ctx, DQT_E_MEMORY, "no memory for a list of %zu tensors", l.list.count);
    dqt_llama *model = NULL;
    dqt_status status = place_all(&l);
    if (status == DQT_OK) status = create_model(&l, c, &model);
    if (status == DQT_OK) status = read_weights(&l, model);
    memory_free(f->ctx, l.places, bytes);
    if (status == DQT_OK)
        *out = model;
    else
        llama_destroy(model);
    return status;
}

dqt_status foreign_create(struct foreign *f, const struct foreign_options *o, dqt_llama **out) {
    dqt_llama_config c = {.struct_size = sizeof c, .shape_only = 1};
    dqt_llama *shape;
    c.linear = c.embedding = c.head = tensor_floats;
    c.seed = 1;
    TRY(foreign_config(f, o, &c));
    TRY(llama_create(f->ctx, &c, &shape));
    dqt_status status = create_from(f, o, shape, &c, out);
    llama_destroy(shape);
    if (status == DQT_OK) (*out)->config.init_std = (*out)->config.linear_init_std = 0.02f; /* the config's default */
    return status;
}
