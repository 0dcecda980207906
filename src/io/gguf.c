/* The file is walked three times: to count and check, to list the tensors with their offsets, and to write their data.
 */
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>

#include "core/status.h"
#include "io/gguf_keys.h"
#include "io/names.h"

enum { NAME_ROOM = 64, DATA_ALIGNMENT = 32, RUN = 256 /* weights that are converted at a time */ };

/* By DQT_GGUF_*. `file` is what general.file_type calls a model of such weights; pack: a block of codes and its scale.
 */
static const struct {
    const char *name;
    unsigned type, file, block, bytes;
    void (*pack)(const int8_t *codes, uint16_t d, unsigned char *out);
} types[] = {
    [DQT_GGUF_F32] = {"F32", 0, 0, 1, 4, NULL},
    [DQT_GGUF_F16] = {"F16", 1, 1, 1, 2, NULL},
    [DQT_GGUF_Q8_0] = {"Q8_0", 8, 7, Q_BLOCK, Q8_0_BYTES, pack_q8_0},
    [DQT_GGUF_Q4_0] = {"Q4_0", 2, 2, Q_BLOCK, Q4_0_BYTES, pack_q4_0},
    [DQT_GGUF_TQ1_0] = {"TQ1_0", 34, 36, TQ_BLOCK, TQ1_0_BYTES, pack_tq1_0},
    [DQT_GGUF_TQ2_0] = {"TQ2_0", 35, 37, TQ_BLOCK, TQ2_0_BYTES, pack_tq2_0},
    [DQT_GGUF_Q5_0] = {"Q5_0", 6, 8, Q_BLOCK, Q5_0_BYTES, pack_q5_0},
};

enum { NUM_TYPES = sizeof types / sizeof *types };

enum content { WEIGHTS, SCALE /* the tensor's, one float */, FREQUENCIES /* what those of RoPE are divided by */ };

struct entry {
    char name[NAME_ROOM];
    enum content content;
    const dqt_tensor *tensor; /* NULL: FREQUENCIES */
    int type;                 /* DQT_GGUF_* */
    bool vector;              /* one dimension */
    bool scale_apart;         /* the tensor's scale is an entry of its own: block scales are 1 */
    size_t heads;             /* > 0: rows are permuted within this many heads */
};

struct gguf {
    const dqt_llama *model;
    const dqt_gguf_options *options;
    struct sink *sink;
    const struct gguf_architecture *architecture;
    uint64_t entries, offset;
};
typedef dqt_status (*entry_fn)(struct gguf *g, const struct entry *e);

/* ---- Types --------------------------------------------------------------------------------------------------- */

/* Types of token embeddings and heads, which llama.cpp does not read in every type. */
static bool is_wide(int type) {
    return type == DQT_GGUF_F32 || type == DQT_GGUF_F16 || type == DQT_GGUF_Q8_0;
}

/* A block has one scale: it is not wider than a group. */
static bool block_fits(int type, const dqt_tensor *t) {
    return t->scale_axis != DQT_AXIS_GROUP || !format_is_code(t->compute) || t->group_cols % types[type].block == 0;
}

/* The first type that holds the tensor exactly; AUTO: there is none. */
static int automatic_type(const dqt_tensor *t, bool linear) {
    const int *type = format_gguf_types(t->compute);
    while (*type != DQT_GGUF_AUTO && ((!linear && !is_wide(*type)) || !block_fits(*type, t)))
        type++;
    return *type;
}

/* The type can hold every weight of the format; floats are checked weight by weight. */
static bool type_holds(int type, enum format format) {
    if (type == DQT_GGUF_F32 || type == DQT_GGUF_F16) return true;
    for (const int *t = format_gguf_types(format); *t != DQT_GGUF_AUTO; t++)
        if (*t == type) return true;
    return false;
}

/* A row that is not whole blocks goes out as F16. */
static int entry_type(const dqt_tensor *t, int wanted, bool linear) {
    const int type = wanted == DQT_GGUF_AUTO ? automatic_type(t, linear) : wanted;
    return type != DQT_GGUF_AUTO && t->cols % types[type].block ? DQT_GGUF_F16 : type;
}

static bool one_scale(const dqt_tensor *t) {
    return tensor_num_compute_scales(t) == 1;
}

/* ---- Tensors ------------------------------------------------------------------------------------------------- */

static dqt_status visit_vector(struct gguf *g, entry_fn visit, const char *name, const dqt_tensor *t) {
    struct entry e = {.tensor = t, .type = DQT_GGUF_F32, .vector = true};
    snprintf(e.name, sizeof e.name, "%s", name);
    return visit(g, &e);
}

/* The embedding or the head. */
static dqt_status visit_wide(struct gguf *g, entry_fn visit, const dqt_layer *layer) {
    const dqt_tensor *t = layer->weight[W];
    struct entry e = {.tensor = t, .type = entry_type(t, g->options->embedding_type, false)};
    snprintf(e.name, sizeof e.name, "%s.weight", layer_parameter_names(layer, 0)->gguf_name);
    return visit(g, &e);
}

/* A gain or a bias. */
static dqt_status visit_block_vector(struct gguf *g, entry_fn visit, size_t block, const char *name,
                                     const struct update_target *p) {
    char full[NAME_ROOM];
    snprintf(full, sizeof full, "blk.%zu.%s%s", block, name, name_end(p->parameter_class));
    return visit_vector(g, visit, full, p->tensor);
}

static dqt_status visit_linear(struct gguf *g, entry_fn visit, size_t block, const char *name, const dqt_tensor *t,
                               size_t heads) {
    struct entry e = {.tensor = t,
                      .type = entry_type(t, g->options->linear_type, true),
                      .heads = g->architecture->neighbours ? heads : 0};
    e.scale_apart = g->architecture->sub_norms && format_is_code(t->compute) && one_scale(t) && e.type != DQT_GGUF_F32;
    snprintf(e.name, sizeof e.name, "blk.%zu.%s.weight", block, name);
    TRY(visit(g, &e));
    if (!e.scale_apart) return DQT_OK;
    struct entry scale = {.tensor = t, .type = DQT_GGUF_F32, .vector = true, .content = SCALE};
    snprintf(scale.name, sizeof scale.name, "blk.%zu.%s.scale", block, name);
    return visit(g, &scale);
}

/* Parameter `index` of a block. */
static dqt_status visit_parameter(struct gguf *g, entry_fn visit, size_t i, const dqt_layer *block, size_t index) {
    const struct update_target p = layer_parameter(block, index);
    const char *name = layer_parameter_names(block, index)->gguf_name;
    if (class_is_vector(p.parameter_class)) return visit_block_vector(g, visit, i, name, &p);
    return visit_linear(g, visit, i, name, p.tensor, layer_parameter_heads(block, index));
}

/* In the order of use: a sub-norm before the matrix that it stands before in the layer, and behind in the list. */
static dqt_status visit_block(struct gguf *g, entry_fn visit, size_t i, const dqt_layer *block) {
    const size_t count = layer_num_parameters(block);
    for (size_t k = 0; k < count; k++) {
        const bool normed = k + 1 < count && layer_parameter_is_sub_norm(block, k + 1);
        if (normed) TRY(visit_parameter(g, visit, i, block, k + 1));
        TRY(visit_parameter(g, visit, i, block, k));
        k += normed;
    }
    return DQT_OK;
}

static bool has_frequencies(const dqt_llama *m) {
    return m->config.rope_scaling == DQT_ROPE_LLAMA3;
}

static dqt_status each_entry(struct gguf *g, entry_fn visit) {
    const struct entry frequencies = {
        .name = "rope_freqs.weight", .content = FREQUENCIES, .type = DQT_GGUF_F32, .vector = true};
    const dqt_llama *m = g->model;
    TRY(visit_wide(g, visit, m->layers[0]));
    if (has_frequencies(m)) TRY(visit(g, &frequencies));
    for (size_t i = 0; i < m->config.num_layers; i++)
        TRY(visit_block(g, visit, i, m->layers[1 + i]));
    char norm[NAME_ROOM];
    snprintf(norm, sizeof norm, "%s.weight", llama_norm_names.gguf_name);
    TRY(visit_vector(g, visit, norm, m->layers[m->num_layers - 2]->weight[W]));
    if (m->config.tie_embeddings) return DQT_OK; /* llama.cpp then takes the embedding */
    return visit_wide(g, visit, m->layers[m->num_layers - 1]);
}

static size_t entry_cols(const struct gguf *g, const struct entry *e) {
    switch (e->content) {
    case WEIGHTS: return e->tensor->cols;
    case SCALE: return 1;
    case FREQUENCIES: return llama_head_dim(g->model) / 2;
    }
    return 0;
}

static uint64_t entry_bytes(const struct gguf *g, const struct entry *e) {
    const size_t rows = e->content == WEIGHTS ? e->tensor->rows : 1;
    return (uint64_t)rows * (entry_cols(g, e) / types[e->type].block) * types[e->type].bytes;
}

static uint64_t padding(uint64_t n) {
    return (DATA_ALIGNMENT - n % DATA_ALIGNMENT) % DATA_ALIGNMENT;
}

/* ---- Checks -------------------------------------------------------------------------------------------------- */

/* fp16 keeps 11 bits of a scale of at least 2^-14, fewer of smaller ones. */
static bool f16_good(float scale) {
    const float kept = f16_to_f32(f32_to_f16(scale));
    return isfinite(kept) && fabsf(kept - scale) <= fabsf(scale) * 0x1p-9f;
}

static dqt_status check_rows(struct gguf *g, const struct entry *e) {
    const dqt_tensor *t = e->tensor;
    const dqt_context *ctx = g->model->ctx;
    float values[RUN];
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->cols; c += RUN) {
            const size_t n = t->cols - c < RUN ? t->cols - c : RUN;
            tensor_read_floats(t, r, c, n, values);
            for (size_t k = 0; k < n; k++) {
                if (!isfinite(values[k]))
                    return fail(ctx, DQT_E_NUMERIC, "%s: the weight at row %zu, column %zu is %g", e->name, r, c + k,
                                (double)values[k]);
                if (e->type == DQT_GGUF_F16 && !e->scale_apart && fabsf(values[k]) >= 65520.0f)
                    return fail(ctx, DQT_E_UNSUPPORTED, "%s: the weight %g at row %zu, column %zu does not fit fp16",
                                e->name, (double)values[k], r, c + k);
            }
        }
    return DQT_OK;
}

static dqt_status check_scales(const struct gguf *g, const struct entry *e) {
    const dqt_tensor *t = e->tensor;
    for (size_t r = 0; r < (one_scale(t) ? 1 : t->rows); r++)
        for (size_t k = 0; k < t->row_groups; k++) {
            const float scale = tensor_compute_group_scale(t, r, k);
            if (!f16_good(scale))
                return fail(g->model->ctx, DQT_E_UNSUPPORTED,
                            "%s: the scale %g of row %zu would lose its accuracy as fp16; export as F32", e->name,
                            (double)scale, r);
        }
    return DQT_OK;
}

static dqt_status check_entry(struct gguf *g, const struct entry *e) {
    const dqt_tensor *t = e->tensor;
    g->entries++;
    if (e->content != WEIGHTS) return DQT_OK;
    if (e->type == DQT_GGUF_AUTO)
        return fail(g->model->ctx, DQT_E_UNSUPPORTED, "%s: no block type holds %s weights; export as F32", e->name,
                    format_name(t->compute));
    if (!type_holds(e->type, t->compute))
        return fail(g->model->ctx, DQT_E_UNSUPPORTED, "%s: type %s cannot hold %s weights", e->name,
                    types[e->type].name, format_name(t->compute));
    if (types[e->type].block > 1 && !block_fits(e->type, t))
        return fail(g->model->ctx, DQT_E_UNSUPPORTED,
                    "%s: blocks of type %s have %u weights; a group of %zu has a scale", e->name, types[e->type].name,
                    types[e->type].block, t->group_cols);
    if (e->type != DQT_GGUF_F32 && format_is_code(t->compute) && !e->scale_apart) TRY(check_scales(g, e));
    return !format_is_code(t->compute) || e->type == DQT_GGUF_F16 ? check_rows(g, e) : DQT_OK;
}

static dqt_status check_model(const dqt_llama *m, const dqt_gguf_options *o) {
    const dqt_context *ctx = m->ctx;
    const dqt_llama_config *c = &m->config;
    const size_t sizes[] = {o->context_length ? o->context_length : 1, c->hidden_size, c->intermediate_size,
                            c->vocab_size, llama_head_dim(m)};
    if (o->linear_type < DQT_GGUF_AUTO || o->linear_type >= NUM_TYPES)
        return fail(ctx, DQT_E_ARGUMENT, "linear_type is %d; it must be a DQT_GGUF_* value", o->linear_type);
    if (o->embedding_type != DQT_GGUF_AUTO && !is_wide(o->embedding_type))
        return fail(ctx, DQT_E_ARGUMENT, "embedding_type is %d; it must be AUTO, F32, F16 or Q8_0", o->embedding_type);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] == 0 || sizes[i] > INT32_MAX)
            return fail(ctx, DQT_E_ARGUMENT, "context_length and the model's sizes must be 1 to %d; one is %zu",
                        INT32_MAX, sizes[i]);
    if (c->mlp != DQT_MLP_SWIGLU)
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "llama.cpp has no architecture with this model's squared ReLU: only SWIGLU can be exported");
    if (!gguf_architecture_of(c))
        return fail(
            ctx, DQT_E_UNSUPPORTED,
            "llama.cpp has no architecture with all of no_sub_norms %d, attention_bias %d, qk_norm %d, head_dim %zu "
            "and rope_scaling %d",
            c->no_sub_norms, c->attention_bias, c->qk_norm, llama_head_dim(m), c->rope_scaling);
    if (!c->no_sub_norms && !c->tie_embeddings)
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "with sub-norms the architecture is bitnet, which uses the embedding as its head: train with "
                    "tie_embeddings, or "
                    "with no_sub_norms 1");
    return DQT_OK;
}

/* The type of most of the blocks' weights, by which readers name the file. */
static int main_type(const struct gguf *g) {
    const dqt_llama *m = g->model;
    double weights[NUM_TYPES] = {0};
    int most = DQT_GGUF_AUTO;
    if (g->options->linear_type != DQT_GGUF_AUTO) return g->options->linear_type;
    for (size_t i = 0; i < m->config.num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(m->layers[1 + i]); p++) {
            const struct update_target target = layer_parameter(m->layers[1 + i], p);
            if (class_is_vector(target.parameter_class)) continue;
            const int type = automatic_type(target.tensor, true);
            weights[type] += (double)target.tensor->rows * (double)target.tensor->cols;
            if (weights[type] > weights[most]) most = type;
        }
    return most;
}

/* ---- Data ---------------------------------------------------------------------------------------------------- */

static dqt_status write_info(struct gguf *g, const struct entry *e) {
    struct sink *s = g->sink;
    TRY(gguf_put_string(s, e->name));
    TRY(sink_number(s, e->vector ? 1 : 2, 4));
    TRY(sink_number(s, entry_cols(g, e), 8));
    if (!e->vector) TRY(sink_number(s, e->tensor->rows, 8));
    TRY(sink_number(s, types[e->type].type, 4));
    TRY(sink_number(s, g->offset, 8));
    g->offset += entry_bytes(g, e);
    g->offset += padding(g->offset);
    return DQT_OK;
}

/* llama.cpp rotates neighbours in the llama architecture, libdqt halves: row (half, i) of a head becomes row (i, half).
 */
static size_t source_row(const struct entry *e, size_t row) {
    if (e->heads == 0) return row;
    const size_t size = e->tensor->rows / e->heads, at = row % size;
    return row - at + at % 2 * (size / 2) + at / 2;
}

/* Columns [col, col + count) of a row. Scales of groups are fp16 already, or rounded. */
static dqt_status write_blocks(struct sink *s, const struct entry *e, size_t row, size_t col, const int8_t *codes,
                               size_t count) {
    unsigned char out[TQ2_0_BYTES];
    for (size_t i = 0; i < count; i += types[e->type].block) {
        const size_t group = (col + i) / tensor_compute_group_cols(e->tensor);
        const float scale = e->scale_apart ? 1.0f : tensor_compute_group_scale(e->tensor, row, group);
        types[e->type].pack(codes + i, f32_to_f16(scale), out);
        TRY(sink_bytes(s, out, types[e->type].bytes));
    }
    return DQT_OK;
}

static dqt_status write_floats(struct sink *s, const struct entry *e, const float *values, size_t count) {
    if (e->type == DQT_GGUF_F32) return sink_elements(s, values, count, 4);
    uint16_t halves[RUN];
    for (size_t k = 0; k < count; k++)
        halves[k] = f32_to_f16(values[k]);
    return sink_elements(s, halves, count, 2);
}

static dqt_status write_row(struct sink *s, const struct entry *e, size_t row) {
    const dqt_tensor *t = e->tensor;
    const bool blocks = types[e->type].block > 1;
    int8_t codes[RUN];
    float values[RUN];
    for (size_t c = 0; c < t->cols; c += RUN) {
        const size_t n = t->cols - c < RUN ? t->cols - c : RUN;
        if (blocks || e->scale_apart)
            tensor_read_codes(t, row, c, n, codes);
        else
            tensor_read_floats(t, row, c, n, values);
        if (blocks) {
            TRY(write_blocks(s, e, row, c, codes, n));
            continue;
        }
        if (e->scale_apart)
            for (size_t k = 0; k < n; k++)
                values[k] = (float)codes[k];
        TRY(write_floats(s, e, values, n));
    }
    return DQT_OK;
}

/* llama.cpp divides the frequencies of theta by these. */
static dqt_status write_frequencies(struct gguf *g) {
    const struct rope scaled = g->model->layers[1]->sublayer[BLOCK_ATTENTION]->rope, plain = {.theta = scaled.theta};
    const size_t size = llama_head_dim(g->model);
    for (size_t i = 0; i < size / 2; i++) {
        const double factor = rope_frequency(&plain, size, i) / rope_frequency(&scaled, size, i);
        TRY(sink_number(g->sink, f32_bits((float)factor), 4));
    }
    return DQT_OK;
}

static dqt_status write_data(struct gguf *g, const struct entry *e) {
    if (e->content == SCALE) TRY(sink_number(g->sink, f32_bits(tensor_compute_scale(e->tensor, 0)), 4));
    if (e->content == FREQUENCIES) TRY(write_frequencies(g));
    for (size_t r = 0; e->content == WEIGHTS && r < e->tensor->rows; r++)
        TRY(write_row(g->sink, e, source_row(e, r)));
    return sink_zeros(g->sink, (size_t)padding(entry_bytes(g, e)));
}

static dqt_status write_file(struct gguf *g, struct gguf_head *head) {
    struct sink *s = g->sink;
    TRY(sink_bytes(s, "GGUF", 4));
    TRY(sink_number(s, 3, 4));
    TRY(sink_number(s, g->entries, 8));
    TRY(head_write(head, s));
    TRY(each_entry(g, write_info));
    TRY(sink_zeros(s, (size_t)padding(s->written)));
    TRY(each_entry(g, write_data));
    return sink_flush(s);
}

dqt_status gguf_write(const dqt_llama *model, const dqt_gguf_options *o, dqt_write_fn write, void *user_data) {
    struct gguf g = {.model = model, .options = o, .architecture = gguf_architecture_of(&model->config)};
    struct gguf_head head = {.model = model, .options = o, .architecture = g.architecture};
    TRY(check_model(model, o));
    head.file_type = types[main_type(&g)].file;
    TRY(sink_create(model->ctx, &g.sink));
    dqt_status status = head_open(&head, g.sink);
    if (status == DQT_OK) status = each_entry(&g, check_entry);
    sink_begin(g.sink, write, user_data);
    if (status == DQT_OK) status = write_file(&g, &head);
    head_close(&head);
    sink_destroy(g.sink);
    return status;
}
