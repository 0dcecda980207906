/* The header says where each tensor is; then the data are read once, from begin to end, into tensors beside the
 * model's. Only when all of it has been found good are the model's own weights overwritten. */
#include <math.h>
#include <stdio.h>

#include "core/status.h"
#include "io/import_report.h"
#include "io/order.h"
#include "io/safetensors.h"

/* Slots of a file: the weights of all parameters, the embedding's first, then scales of packed ones, then what is known
 * but not used: one table of rotary frequencies per block; last the head of a tied model, which must be the embedding.
 */
struct slot_of_file {
    bool seen;
    enum element_type type;
    uint64_t begin, end;
    char format[16]; /* metadata: of a parameter's codes; "": its class's */
};

struct importer {
    dqt_llama *model;
    dqt_context *ctx;
    struct parameter_list list;
    struct source *source;
    struct slot_of_file *slots;
    size_t *order;        /* the slots that were seen, by `begin` */
    dqt_tensor **tensors; /* the new weights */
    size_t num_slots, num_seen;
    size_t bytes;   /* of the one block that begins with slots */
    float *weights; /* of one tensor */
    size_t weights_bytes;
    char formats[3][16];           /* metadata: of embedding, linear, head */
    uint64_t embedding, tied_head; /* digests of their floats: only one of the two is ever in memory */
    uint64_t data_bytes;
    bool stochastic;
    uint64_t seed;
    struct import_report report;
};

static dqt_status refuse(const struct importer *m, const char *name, const char *why) {
    return fail(m->ctx, DQT_E_FORMAT, "safetensors: %s %s", name, why);
}

/* ---- Header -------------------------------------------------------------------------------------------------- */

static size_t tied_head_slot(const struct importer *m) {
    return m->num_slots - 1;
}

static size_t slot_index(const struct importer *m, const char *name) {
    static const char scale[] = "_scale";
    const size_t count = m->list.count, n = strlen(name);
    char weight[FILE_NAME_BYTES];
    const char *rest;
    size_t index = hf_index(&m->list, name);
    if (index != SIZE_MAX) return index;
    if (n >= sizeof scale && strcmp(name + n - (sizeof scale - 1), scale) == 0) {
        memcpy(weight, name, n - (sizeof scale - 1));
        weight[n - (sizeof scale - 1)] = '\0';
        index = hf_index(&m->list, weight);
        return index == SIZE_MAX ? SIZE_MAX : count + index;
    }
    index = hf_block(&m->list, name, &rest);
    if (index != SIZE_MAX && strcmp(rest, "self_attn.rotary_emb.inv_freq") == 0) return 2 * count + index;
    if (m->model->config.tie_embeddings && strcmp(name, "lm_head.weight") == 0) return tied_head_slot(m);
    return SIZE_MAX;
}

static dqt_status check_shape(const struct importer *m, const struct listing *l, size_t slot) {
    const size_t count = m->list.count;
    const dqt_tensor *t = list_parameter(&m->list, slot % count).tensor;
    const bool scale = slot >= count, vector = class_is_vector(list_parameter(&m->list, slot % count).parameter_class);
    if (scale ? l->type != scale_type(t) || !format_is_code(t->storage)
              : l->type == TYPE_OTHER || (l->type == TYPE_U8 && !format_is_code(t->storage)))
        return refuse(m, l->name, "has a dtype that cannot be read into this parameter");
    const uint64_t rows = t->rows, cols = scale ? t->num_scales : l->type == TYPE_U8 ? t->row_bytes : t->cols;
    if (scale || vector ? l->dims != 1 || l->shape[0] != cols
                        : l->dims != 2 || l->shape[0] != rows || l->shape[1] != cols)
        return fail(m->ctx, DQT_E_SHAPE, "safetensors: %s has another shape than the model's %zu x %zu", l->name,
                    t->rows, t->cols);
    const uint64_t elements = scale ? cols : rows * cols; /* the tensor exists, so this fits */
    if (l->end - l->begin != elements * element_bytes(l->type))
        return refuse(m, l->name, "has offsets that do not fit its shape");
    return DQT_OK;
}

static dqt_status on_tensor(void *arg, const struct listing *l) {
    struct importer *m = arg;
    const size_t slot = slot_index(m, l->name);
    if (slot == SIZE_MAX) return refuse(m, l->name, "is no parameter of this model");
    if (m->slots[slot].seen) return refuse(m, l->name, "is there twice");
    if (l->end > m->data_bytes) return refuse(m, l->name, "goes beyond the end of the file");
    if (slot == tied_head_slot(m) && l->type == TYPE_U8)
        return refuse(m, l->name,
                      "has codes; the head of a tied model can be compared with the embedding as floats only");
    if (slot < 2 * m->list.count || slot == tied_head_slot(m))
        TRY(check_shape(m, l, slot == tied_head_slot(m) ? EMBEDDING : slot));
    m->slots[slot].seen = true;
    m->slots[slot].type = l->type;
    m->slots[slot].begin = l->begin;
    m->slots[slot].end = l->end;
    m->order[m->num_seen++] = slot;
    return DQT_OK;
}

static void on_metadata(void *arg, const char *key, const char *value) {
    struct importer *m = arg;
    for (size_t i = 0; i < sizeof m->formats / sizeof *m->formats; i++)
        if (strcmp(key, format_keys[i]) == 0) snprintf(m->formats[i], sizeof m->formats[i], "%.15s", value);
    const size_t index = strncmp(key, "dqt.", 4) == 0 ? hf_index(&m->list, key + 4) : SIZE_MAX;
    if (index != SIZE_MAX) snprintf(m->slots[index].format, sizeof m->slots[index].format, "%.15s", value);
}

static bool before(const void *arg, size_t a, size_t b) {
    const struct importer *m = arg;
    const struct slot_of_file *x = &m->slots[a], *y = &m->slots[b];
    return x->begin != y->begin ? x->begin < y->begin : x->end < y->end;
}

static const char *format_of(const struct importer *m, size_t index) {
    const char *own = m->slots[index].format;
    return *own ? own : m->formats[format_key_of(list_parameter(&m->list, index).parameter_class)];
}

/* Everything is there, and the data are covered without holes and overlaps. */
static dqt_status check_listing(const struct importer *m) {
    char name[FILE_NAME_BYTES];
    uint64_t at = 0;
    for (size_t i = 0; i < m->num_seen; i++) {
        const struct slot_of_file *s = &m->slots[m->order[i]];
        if (s->begin != at)
            return fail(m->ctx, DQT_E_FORMAT,
                        "safetensors: a tensor begins at byte %llu of the data where byte %llu is next",
                        (unsigned long long)s->begin, (unsigned long long)at);
        at = s->end;
    }
    if (at != m->data_bytes)
        return fail(m->ctx, DQT_E_FORMAT, "safetensors: the tensors end at byte %llu of %llu bytes of data",
                    (unsigned long long)at, (unsigned long long)m->data_bytes);
    for (size_t i = 0; i < m->list.count; i++) {
        const struct update_target p = list_parameter(&m->list, i);
        const struct slot_of_file *weight = &m->slots[i], *scale = &m->slots[m->list.count + i];
        hf_name(&m->list, i, name);
        if (!weight->seen) return refuse(m, name, "is missing");
        if ((weight->type == TYPE_U8) != scale->seen)
            return refuse(m, name, "has codes without scales, or scales without codes");
        if (weight->type == TYPE_U8 && strcmp(format_of(m, i), format_name(p.tensor->storage)) != 0)
            return fail(m->ctx, DQT_E_FORMAT, "safetensors: %s has codes of format \"%s\"; the model's storage is %s",
                        name, format_of(m, i), format_name(p.tensor->storage));
    }
    if (m->slots[tied_head_slot(m)].seen && m->slots[EMBEDDING].type == TYPE_U8)
        return refuse(m, "lm_head.weight",
                      "cannot be compared with the codes of the embedding that the model ties it to");
    return DQT_OK;
}

static dqt_status read_header(struct importer *m, uint64_t file_size) {
    struct source *s = m->source;
    const struct header_visitor visitor = {on_tensor, on_metadata, m};
    uint64_t length;
    s->limit = 8;
    TRY(source_number(s, 8, &length));
    if (length > HEADER_MOST || length > file_size - 8)
        return fail(m->ctx, DQT_E_FORMAT,
                    "safetensors: a header of %llu bytes; the file has %llu and the format allows %d",
                    (unsigned long long)length, (unsigned long long)file_size, HEADER_MOST);
    s->limit = file_size;
    m->data_bytes = file_size - 8 - length;
    const size_t room = length ? (size_t)length : 1;
    char *text = memory_alloc(m->ctx, room);
    if (!text) return fail(m->ctx, DQT_E_MEMORY, "no memory for a header of %zu bytes", room);
    dqt_status status = source_bytes(s, text, (size_t)length);
    if (status == DQT_OK) status = header_read(m->ctx, text, (size_t)length, &visitor);
    memory_free(m->ctx, text, room);
    if (status != DQT_OK) return status;
    order_sort(m->order, m->num_seen, before, m);
    return check_listing(m);
}

/* ---- Data ---------------------------------------------------------------------------------------------------- */

/* The new tensor of a parameter; made when the first of its data come. */
static dqt_status new_tensor(struct importer *m, size_t index, dqt_tensor **out) {
    const dqt_tensor *t = list_parameter(&m->list, index).tensor;
    dqt_tensor_options o = tensor_options_of(t);
    o.scale_rule = tensor_import_rule(t);
    if (format_is_code(t->storage)) o.compute = DQT_FORMAT_SAME;
    if (!m->tensors[index]) TRY(tensor_create(m->ctx, t->rows, t->cols, &o, false, &m->tensors[index]));
    *out = m->tensors[index];
    return DQT_OK;
}

/* Into m->weights. */
static dqt_status read_floats(struct importer *m, size_t count, enum element_type type) {
    if (type == TYPE_F32) return source_elements(m->source, m->weights, count, 4);
    uint16_t part[1024];
    for (size_t i = 0; i < count;) {
        const size_t n = count - i < 1024 ? count - i : 1024;
        TRY(source_elements(m->source, part, n, 2));
        for (size_t k = 0; k < n; k++)
            m->weights[i + k] = type == TYPE_BF16 ? bf16_to_f32(part[k]) : f16_to_f32(part[k]);
        i += n;
    }
    return DQT_OK;
}

static dqt_status read_tied_head(struct importer *m) {
    const dqt_tensor *t = list_parameter(&m->list, EMBEDDING).tensor;
    TRY(read_floats(m, t->rows * t->cols, m->slots[tied_head_slot(m)].type));
    m->tied_head = weights_digest(m->weights, t->rows * t->cols);
    return DQT_OK;
}

static dqt_status check_tied_head(const struct importer *m) {
    if (!m->slots[tied_head_slot(m)].seen || m->tied_head == m->embedding) return DQT_OK;
    return refuse(m, "lm_head.weight",
                  "differs from the embedding, and this model has one tensor for both (tie_embeddings)");
}

static dqt_status read_weight(struct importer *m, size_t index) {
    const enum element_type type = m->slots[index].type;
    char name[FILE_NAME_BYTES];
    dqt_tensor *t;
    hf_name(&m->list, index, name);
    TRY(new_tensor(m, index, &t));
    if (type == TYPE_U8) {
        TRY(source_bytes(m->source, t->data, t->data_bytes));
        return codes_valid(t) ? DQT_OK : refuse(m, name, "has a code outside its format's range");
    }
    TRY(read_floats(m, t->rows * t->cols, type));
    if (!numbers_valid(m->weights, t->rows * t->cols, 4, true))
        return refuse(m, name, "has a weight that is not finite");
    if (index == EMBEDDING) m->embedding = weights_digest(m->weights, t->rows * t->cols);
    if (format_is_code(t->storage) && grid_store(t, m->weights, type)) return DQT_OK;
    tensor_quantize(t, m->weights, m->stochastic, m->seed + 0x9E3779B97F4A7C15u * index);
    import_report_add(&m->report, name, t, m->weights);
    if (format_float_bytes(t->storage) == 2 && !numbers_valid(t->data, t->rows * t->cols, 2, true))
        return refuse(m, name, "has a weight that bf16 cannot hold");
    return DQT_OK;
}

static dqt_status read_scale_list(struct importer *m, size_t index) {
    char name[FILE_NAME_BYTES];
    dqt_tensor *t;
    hf_name(&m->list, index, name);
    TRY(new_tensor(m, index, &t));
    TRY(read_scales(m->source, t));
    return scales_valid(t) ? DQT_OK : refuse(m, name, "has a scale that is not finite and above 0");
}

static dqt_status read_data(struct importer *m) {
    const size_t count = m->list.count;
    for (size_t i = 0; i < m->num_seen; i++) {
        const size_t slot = m->order[i];
        if (slot < count)
            TRY(read_weight(m, slot));
        else if (slot < 2 * count)
            TRY(read_scale_list(m, slot - count));
        else if (slot == tied_head_slot(m))
            TRY(read_tied_head(m));
        else
            TRY(source_skip(m->source, m->slots[slot].end - m->slots[slot].begin));
    }
    return check_tied_head(m);
}

/* The model's tensors stay where they are: updaters and tapes know them. */
static void take_over(struct importer *m) {
    llama_use_import_rules(m->model);
    for (size_t i = 0; i < m->list.count; i++)
        tensor_copy(list_parameter(&m->list, i).tensor, m->tensors[i]);
}

/* ---- Whole --------------------------------------------------------------------------------------------------- */

static dqt_status allocate(struct importer *m) {
    const size_t count = m->list.count;
    size_t most = 0;
    m->num_slots = 2 * count + m->model->config.num_layers + 1;
    struct arena a = {0};
    for (int pass = 0; pass < 2; pass++) {
        a.used = 0;
        m->slots = arena_take(&a, m->num_slots, sizeof *m->slots);
        m->order = arena_take(&a, m->num_slots, sizeof *m->order);
        m->tensors = arena_take(&a, count, sizeof(dqt_tensor *));
        m->bytes = a.used;
        if (pass == 0) a.base = memory_alloc(m->ctx, a.used);
        if (!a.base) return fail(m->ctx, DQT_E_MEMORY, "no memory for a list of %zu tensors", m->num_slots);
    }
    for (size_t i = 0; i < count; i++) {
        const dqt_tensor *t = list_parameter(&m->list, i).tensor;
        if (t->rows * t->cols > most) most = t->rows * t->cols;
    }
    if (size_mul(most, sizeof *m->weights, &m->weights_bytes)) m->weights = memory_alloc_raw(m->ctx, m->weights_bytes);
    if (!m->weights) return fail(m->ctx, DQT_E_MEMORY, "no memory for %zu weights", most);
    return DQT_OK;
}

static dqt_status import(struct importer *m, struct input_file *file) {
    if (file->size == UINT64_MAX) return fail(m->ctx, DQT_E_IO, "safetensors are read from regular files only");
    if (file->size < 8)
        return fail(m->ctx, DQT_E_FORMAT, "safetensors: the file has %llu bytes", (unsigned long long)file->size);
    TRY(allocate(m));
    TRY(source_create(m->ctx, "safetensors", file_read, file, &m->source));
    TRY(read_header(m, file->size));
    TRY(read_data(m));
    take_over(m);
    import_report_end(&m->report);
    return DQT_OK;
}

dqt_status safetensors_read(dqt_llama *model, struct input_file *file, bool stochastic, uint64_t seed) {
    struct importer m = {.model = model,
                         .ctx = model->ctx,
                         .list = parameter_list(model),
                         .stochastic = stochastic,
                         .seed = seed,
                         .report.ctx = model->ctx};
    dqt_status status = import(&m, file);
    for (size_t i = 0; m.tensors && i < m.list.count; i++)
        tensor_destroy(m.tensors[i]);
    memory_free(m.ctx, m.weights, m.weights_bytes);
    memory_free(m.ctx, m.slots, m.bytes);
    source_destroy(m.source);
    return status;
}
