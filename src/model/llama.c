/* The LLaMA graph: creation, memory, forward and backward over its layers. */
#include "model/llama.h"

#include <stdio.h>
#include <string.h>

#include "core/pattern.h"
#include "core/status.h"

const struct parameter_names llama_norm_names = {NULL, "model.norm", NULL, "output_norm"};

/* A tied head has no weights of its own: its options must say what the embedding's do. */
static bool same_weights(const dqt_tensor_options *a, const dqt_tensor_options *b) {
    const enum format compute_a = options_compute(a), compute_b = options_compute(b);
    return a->storage == b->storage && compute_a == compute_b && tensor_scale_rule(a) == tensor_scale_rule(b) &&
           a->scale_axis == b->scale_axis && a->sigma >= b->sigma && a->sigma <= b->sigma &&
           a->train_scale == b->train_scale && a->group_size == b->group_size;
}

static dqt_tensor_options override_options(const dqt_tensor_override *o) {
    dqt_tensor_options options = o->options;
    tensor_complete(&options, tensor_defaults.storage);
    return options;
}

static dqt_status check_overrides(dqt_context *ctx, const dqt_llama_config *c) {
    if (!c->overrides != !c->num_overrides)
        return fail(ctx, DQT_E_ARGUMENT, "overrides is %s, but num_overrides is %zu", c->overrides ? "set" : "NULL",
                    c->num_overrides);
    if (c->num_overrides > MAX_OVERRIDES)
        return fail(ctx, DQT_E_ARGUMENT, "num_overrides is %zu; it may be %d", c->num_overrides, MAX_OVERRIDES);
    for (size_t i = 0; i < c->num_overrides; i++) {
        const char *pattern = c->overrides[i].pattern;
        if (!pattern) return fail(ctx, DQT_E_ARGUMENT, "overrides[%zu].pattern is NULL", i);
        if (strlen(pattern) >= PARAMETER_NAME_BYTES)
            return fail(ctx, DQT_E_ARGUMENT, "overrides[%zu].pattern has %zu bytes; it may have %d", i, strlen(pattern),
                        PARAMETER_NAME_BYTES - 1);
        const dqt_tensor_options o = override_options(&c->overrides[i]);
        const dqt_status status = tensor_check_options(ctx, &o);
        if (status != DQT_OK) return fail(ctx, status, "overrides[%zu]: %s", i, last_error(ctx));
    }
    return DQT_OK;
}

static dqt_status check_blocks(dqt_context *ctx, const dqt_llama_config *c) {
    if (c->first_block >= c->num_layers || c->num_blocks > c->num_layers - c->first_block)
        return fail(ctx, DQT_E_ARGUMENT, "first_block %zu and num_blocks %zu are not within num_layers, %zu",
                    c->first_block, c->num_blocks, c->num_layers);
    if (c->tie_embeddings && llama_is_partial(c))
        return fail(ctx, DQT_E_UNSUPPORTED,
                    "tie_embeddings is 1: embedding and head are one weight, which a partial model cannot have");
    return DQT_OK;
}

static dqt_status check_config(dqt_context *ctx, const dqt_llama_config *c) {
    const size_t kv_heads = llama_kv_heads(c);
    if (c->num_layers == 0 || c->num_layers > 100000)
        return fail(ctx, DQT_E_SHAPE, "num_layers is %zu; it must be 1 to 100000", c->num_layers);
    if (c->vocab_size == 0 || c->vocab_size > INT32_MAX)
        return fail(ctx, DQT_E_SHAPE, "vocab_size is %zu; it must be 1 to %d", c->vocab_size, INT32_MAX);
    if (kv_heads > c->num_heads)
        return fail(ctx, DQT_E_SHAPE, "num_kv_heads %zu is more than num_heads %zu", kv_heads, c->num_heads);
    TRY(check_blocks(ctx, c));
    if (c->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_llama_config is not 0");
    if (!(c->linear_init_std >= 0))
        return fail(ctx, DQT_E_ARGUMENT, "linear_init_std is %g; it must be finite and not negative",
                    (double)c->linear_init_std);
    const int32_t flags[] = {c->no_sub_norms, c->tie_embeddings, c->shape_only};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i] != 0 && flags[i] != 1)
            return fail(ctx, DQT_E_ARGUMENT, "no_sub_norms %d, tie_embeddings %d and shape_only %d must be 0 or 1",
                        c->no_sub_norms, c->tie_embeddings, c->shape_only);
    const dqt_tensor_options *const weights[] = {&c->linear, &c->embedding, &c->head};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        TRY(tensor_check_options(ctx, weights[i])); /* the layers check the shapes */
    if (c->tie_embeddings && !same_weights(&c->embedding, &c->head))
        return fail(ctx, DQT_E_ARGUMENT, "tie_embeddings is 1, but the options of head are not those of embedding");
    return check_overrides(ctx, c);
}

/* ---- Overrides ----------------------------------------------------------------------------------------------- */

/* Room for the model's copy of the list and its patterns, behind the model. */
static void place_overrides(struct arena *a, const dqt_llama_config *c, dqt_tensor_override **list, char **patterns) {
    *list = arena_take(a, c->num_overrides, sizeof **list);
    *patterns = arena_take(a, c->num_overrides, PARAMETER_NAME_BYTES);
}

/* The copy is complete: it says what is in effect. */
static void copy_overrides(dqt_llama_config *c, dqt_tensor_override *list, char *patterns) {
    for (size_t i = 0; i < c->num_overrides; i++, patterns += PARAMETER_NAME_BYTES) {
        strcpy(patterns, c->overrides[i].pattern); /* its length was checked */
        list[i] = (dqt_tensor_override){patterns, override_options(&c->overrides[i])};
    }
    c->overrides = list;
}

static void resolve_rules(dqt_llama_config *c, dqt_tensor_override *list) {
    dqt_tensor_options *const weights[] = {&c->linear, &c->embedding, &c->head};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        weights[i]->scale_rule = tensor_scale_rule(weights[i]);
    for (size_t i = 0; i < c->num_overrides; i++)
        list[i].options.scale_rule = tensor_scale_rule(&list[i].options);
}

static bool matches_any(const dqt_llama *m, const char *pattern) {
    for (size_t i = 0; i < m->num_layers; i++) {
        if (m->layers[i]->tied && name_matches(pattern, m->layers[i]->name)) return true;
        for (size_t p = 0; p < layer_num_parameters(m->layers[i]); p++) {
            const struct update_target target = layer_parameter(m->layers[i], p);
            if (!class_is_vector(target.parameter_class) && name_matches(pattern, target.name)) return true;
        }
    }
    return false;
}

/* Every override is of a matrix, and what it says of a tied head is what holds for the embedding. */
static dqt_status check_matches(const dqt_llama *m) {
    const dqt_llama_config *c = &m->config;
    const struct overrides all = {c->overrides, c->num_overrides};
    for (size_t i = 0; i < c->num_overrides; i++)
        if (!matches_any(m, c->overrides[i].pattern))
            return fail(m->ctx, DQT_E_ARGUMENT, "overrides[%zu]: \"%s\" is the name of no weight matrix of this model",
                        i, c->overrides[i].pattern);
    const dqt_tensor_options *own = override_of(&all, m->layers[0]->name, &c->embedding);
    if (!c->tie_embeddings || same_weights(override_of(&all, m->layers[m->num_layers - 1]->name, own), own))
        return DQT_OK;
    return fail(m->ctx, DQT_E_ARGUMENT,
                "tie_embeddings is 1: an override of head must say what holds for embedding, whose weight it is");
}

/* ---- Creation ------------------------------------------------------------------------------------------------ */

static dqt_status create_layers(dqt_llama *m) {
    const dqt_llama_config *c = &m->config;
    const struct overrides overrides = {c->overrides, c->num_overrides};
    dqt_layer_options o = {.struct_size = sizeof o,
                           .activation = c->activation,
                           .weight = c->embedding,
                           .seed = c->seed,
                           .init_std = c->init_std,
                           .norm_eps = c->norm_eps,
                           .mlp = c->mlp,
                           .sub_norm = !c->no_sub_norms,
                           .rope_theta = c->rope_theta,
                           .shape_only = c->shape_only,
                           .head_dim = c->head_dim,
                           .attention_bias = c->attention_bias,
                           .qk_norm = c->qk_norm,
                           .rope_scaling = c->rope_scaling,
                           .rope_factor = c->rope_factor,
                           .rope_low_freq_factor = c->rope_low_freq_factor,
                           .rope_high_freq_factor = c->rope_high_freq_factor,
                           .rope_original_context = c->rope_original_context};
    const struct layer_shape embedding = {.in = c->vocab_size, .out = c->hidden_size};
    const struct layer_shape head = {.in = c->hidden_size, .out = c->vocab_size};
    const struct layer_shape block = {.in = c->hidden_size,
                                      .out = c->hidden_size,
                                      .intermediate = c->intermediate_size,
                                      .heads = c->num_heads,
                                      .kv_heads = llama_kv_heads(c)};
    dqt_layer **next = m->layers;
    if (llama_has_embedding(c))
        TRY(layer_create(m->ctx, DQT_LAYER_EMBEDDING, &embedding, NULL, &o, &overrides, next++));
    o.weight = c->linear;
    o.init_std = c->linear_init_std;
    for (size_t i = 0; i < llama_num_blocks(c); i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "blocks.%zu", c->first_block + i);
        o.name = name;
        TRY(layer_create(m->ctx, DQT_LAYER_BLOCK, &block, NULL, &o, &overrides, next++));
    }
    if (!llama_has_head(c)) return DQT_OK;
    o.name = NULL;
    o.init_std = c->init_std;
    TRY(layer_create(m->ctx, DQT_LAYER_RMSNORM, &block, NULL, &o, NULL, next++));
    o.activation = c->head_activation;
    o.weight = c->head;
    return layer_create(m->ctx, DQT_LAYER_HEAD, &head, c->tie_embeddings ? m->layers[0] : NULL, &o, &overrides, next);
}

/* Of the layers of a partial model: blocks have as many parameters each, embedding, norm and head one. */
static void set_places(dqt_llama *m) {
    const dqt_llama_config *c = &m->config;
    const bool embedding = llama_has_embedding(c);
    const size_t per_block = layer_num_parameters(m->layers[embedding ? 1 : 0]);
    for (size_t i = 0; i < m->num_layers; i++) {
        const size_t layer = c->first_block + i + !embedding; /* in the whole */
        const size_t blocks = layer == 0 ? 0 : size_min(layer - 1, c->num_layers);
        m->layers[i]->whole = (struct layer_place){.parameter = layer + blocks * (per_block - 1),
                                                   .slot = layer + blocks * BLOCK_SUBLAYERS,
                                                   .num_parameters = 3 + c->num_layers * per_block};
    }
}

/* The overrides are the whole model's: some may match nothing here. Before any weight is made. */
static dqt_status check_whole_matches(dqt_context *ctx, const dqt_llama_config *c) {
    dqt_llama_config whole = *c;
    dqt_llama_memory_info shape;
    if (!c->num_overrides || (c->shape_only && !llama_is_partial(c))) return DQT_OK;
    whole.first_block = whole.num_blocks = 0;
    return llama_memory(ctx, &whole, &shape);
}

/* Blocks that are all of them are not named. */
static dqt_llama_config complete_blocks(const dqt_llama_config *config) {
    dqt_llama_config c = *config;
    if (c.first_block && !c.num_blocks && c.first_block < c.num_layers) c.num_blocks = c.num_layers - c.first_block;
    if (!c.first_block && c.num_blocks == c.num_layers) c.num_blocks = 0;
    return c;
}

dqt_status llama_create(dqt_context *ctx, const dqt_llama_config *given, dqt_llama **out) {
    *out = NULL;
    const dqt_llama_config own = complete_blocks(given), *config = &own;
    TRY(check_config(ctx, config));
    TRY(check_whole_matches(ctx, config));
    const size_t num_layers =
        llama_has_embedding(config) + llama_num_blocks(config) + (llama_has_head(config) ? 2u : 0u);
    struct arena a = {0};
    dqt_llama *m = NULL;
    dqt_layer **layers = NULL;
    dqt_tensor_override *overrides = NULL;
    char *patterns = NULL;
    for (int pass = 0; pass < 2; pass++) {
        m = arena_take(&a, 1, sizeof *m);
        layers = arena_take(&a, num_layers, sizeof *layers);
        place_overrides(&a, config, &overrides, &patterns);
        if (pass == 0 && !arena_alloc(ctx, &a))
            return fail(ctx, DQT_E_MEMORY, "no memory for a model of %zu layers", num_layers);
    }
    *m = (dqt_llama){.ctx = ctx,
                     .config = *config,
                     .overrides = overrides,
                     .num_layers = num_layers,
                     .layers = layers,
                     .bytes = a.used};
    if (!m->config.num_kv_heads) m->config.num_kv_heads = m->config.num_heads;
    if (llama_implies_head_dim(&m->config)) m->config.head_dim = 0;
    if (!(m->config.linear_init_std > 0)) m->config.linear_init_std = m->config.init_std;
    if (overrides) copy_overrides(&m->config, overrides, patterns);
    dqt_status status = create_layers(m);
    resolve_rules(&m->config, overrides); /* only now: the tensors are to know that theirs was AUTO */
    if (status == DQT_OK && !llama_is_partial(&m->config)) status = check_matches(m);
    if (status != DQT_OK) {
        llama_destroy(m);
        return status;
    }
    if (llama_is_partial(&m->config)) set_places(m);
    *out = m;
    return DQT_OK;
}

/* ---- Import --------------------------------------------------------------------------------------------------- */

/* `of` is options in the model's own config. */
static void set_rule(dqt_llama *m, const dqt_tensor_options *of, int rule) {
    dqt_tensor_options *const weights[] = {&m->config.linear, &m->config.embedding, &m->config.head};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if (weights[i] == of) weights[i]->scale_rule = rule;
    for (size_t i = 0; i < m->config.num_overrides; i++)
        if (&m->overrides[i].options == of) m->overrides[i].options.scale_rule = rule;
}

/* A tied head goes on saying what the embedding does. */
static void use_rule(dqt_llama *m, const struct update_target *p, int rule) {
    const dqt_llama_config *c = &m->config;
    const struct overrides all = {c->overrides, c->num_overrides};
    const dqt_tensor_options *own = p->parameter_class == DQT_CLASS_EMBEDDING ? &c->embedding
                                    : p->parameter_class == DQT_CLASS_HEAD    ? &c->head
                                                                              : &c->linear;
    own = override_of(&all, p->name, own);
    set_rule(m, own, rule);
    if (p->parameter_class != DQT_CLASS_EMBEDDING || !c->tie_embeddings) return;
    const dqt_tensor_options *head = own == &c->embedding ? &c->head : own;
    set_rule(m, override_of(&all, m->layers[m->num_layers - 1]->name, head), rule);
}

void llama_use_import_rules(dqt_llama *m) {
    for (size_t i = 0; i < m->num_layers; i++)
        for (size_t k = 0; k < layer_num_parameters(m->layers[i]); k++) {
            const struct update_target p = layer_parameter(m->layers[i], k);
            if (p.tensor->compute == p.tensor->storage || !p.tensor->auto_rule) continue;
            p.tensor->scale_rule = tensor_import_rule(p.tensor);
            use_rule(m, &p, p.tensor->scale_rule);
        }
}

void llama_destroy(dqt_llama *m) {
    if (!m) return;
    for (size_t i = 0; i < m->num_layers; i++)
        layer_destroy(m->layers[i]);
    memory_free(m->ctx, m, m->bytes);
}

dqt_status llama_memory(dqt_context *ctx, const dqt_llama_config *config, dqt_llama_memory_info *out) {
    dqt_llama_config c = *config;
    c.shape_only = 1;
    dqt_llama *m;
    TRY(llama_create(ctx, &c, &m));
    *out = (dqt_llama_memory_info){.struct_size = sizeof *out, .total = m->bytes};
    for (size_t i = 0; i < m->num_layers; i++) {
        size_add(out->total, layer_memory(m->layers[i]), &out->total);
        for (size_t p = 0; p < layer_num_parameters(m->layers[i]); p++) {
            const struct update_target param = layer_parameter(m->layers[i], p);
            const size_t bytes = param.tensor->data_bytes + tensor_scale_bytes(param.tensor);
            const size_t count = param.tensor->rows * param.tensor->cols;
            switch (param.parameter_class) {
            case DQT_CLASS_EMBEDDING: out->embedding_bytes += bytes, out->embedding_weights += count; break;
            case DQT_CLASS_HEAD: out->head_bytes += bytes, out->head_weights += count; break;
            case DQT_CLASS_NORM:
            case DQT_CLASS_BIAS: out->norm_weights += count; break;
            default: out->linear_bytes += bytes, out->linear_weights += count;
            }
        }
    }
    out->other_bytes = out->total - out->linear_bytes - out->embedding_bytes - out->head_bytes;
    llama_destroy(m);
    if (out->total == SIZE_MAX) return fail(ctx, DQT_E_SHAPE, "the model is too large");
    return DQT_OK;
}

/* ---- Forward and backward ------------------------------------------------------------------------------------- */

static bool has_embedding(const dqt_tape *tape) {
    return tape->slots[0].layer->kind->takes_tokens;
}

static bool has_head(const dqt_tape *tape) {
    return tape->slots[tape->num_slots - 1].layer->kind->id == DQT_LAYER_HEAD;
}

static size_t num_blocks(const dqt_tape *tape) {
    return tape->num_layers - has_embedding(tape) - (has_head(tape) ? 2 : 0);
}

struct slot *llama_embedding_slot(const dqt_tape *tape) {
    DQT_ASSERT(has_embedding(tape));
    return &tape->slots[0];
}

struct slot *llama_block_slot(const dqt_tape *tape, size_t block) {
    return &tape->slots[has_embedding(tape) + block * (1 + BLOCK_SUBLAYERS)];
}

struct slot *llama_norm_slot(const dqt_tape *tape) {
    DQT_ASSERT(has_head(tape));
    return &tape->slots[tape->num_slots - 2];
}

struct slot *llama_head_slot(const dqt_tape *tape) {
    DQT_ASSERT(has_head(tape));
    return &tape->slots[tape->num_slots - 1];
}

struct slot *llama_last_slot(const dqt_tape *tape) {
    return has_head(tape) ? llama_head_slot(tape) : llama_block_slot(tape, num_blocks(tape) - 1);
}

bool llama_owns_tape(const dqt_llama *m, const dqt_tape *tape) {
    size_t slot = 0;
    if (tape->num_layers != m->num_layers) return false;
    for (size_t i = 0; i < m->num_layers; i++) {
        if (slot >= tape->num_slots || tape->slots[slot].layer != m->layers[i]) return false;
        slot += 1 + layer_num_sublayers(m->layers[i]);
    }
    return slot == tape->num_slots;
}

bool llama_forward_stream(dqt_tape *tape, const dqt_batch *b, float *x) {
    if (tape_interrupted(tape)) return false;
    if (has_embedding(tape)) embedding_forward(tape, llama_embedding_slot(tape), b->batch, b->length, b->tokens, x);
    for (size_t i = 0; i < num_blocks(tape); i++) {
        if (tape_interrupted(tape)) return false;
        layer_forward(tape, llama_block_slot(tape, i), b->batch, b->length, b->segments, x, x);
    }
    if (has_head(tape)) layer_forward(tape, llama_norm_slot(tape), b->batch, b->length, b->segments, x, x);
    return true;
}

void llama_backward(dqt_tape *tape, const struct head_gradient *gradient, float *d) {
    struct slot *last = llama_last_slot(tape);
    DQT_ASSERT(tape_saves(tape) && last->length >= 1 && has_head(tape) == (gradient != NULL));
    if (gradient) {
        head_backward(tape, last, gradient, d);
        if (!tape_interrupted(tape)) layer_backward(tape, llama_norm_slot(tape), d, d);
    }
    for (size_t i = num_blocks(tape); i-- > 0 && !tape_interrupted(tape);)
        layer_backward(tape, llama_block_slot(tape, i), d, d);
    if (has_embedding(tape) && !tape_interrupted(tape)) embedding_backward(tape, llama_embedding_slot(tape), d);
    last->deferred = false; /* of a backward that was stopped */
    last->length = 0;
    tape->pass++;
}
