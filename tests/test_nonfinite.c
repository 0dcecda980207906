/* Numbers that are not finite are never turned into codes: a row of activations with one comes out NaN, and losses,
 * logits, sessions and steps then say DQT_E_NUMERIC and change nothing. Rows beside it keep their bits. */
#include "calls.h"

#include "formats.h"
#include "isa_contexts.h"

static const float bad_values[] = {NAN, INFINITY, -INFINITY};
enum { BAD_VALUES = 3, COLS = 150, ROWS = 70, MOST_TOKENS = 9 };

static bool all_nan(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i])) return false;
    return true;
}

static bool all_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* Columns at the beginning, inside and at the end of vectors, and in the part of the row that fills none. */
static const size_t bad_columns[] = {0, 13, 127, 143, 144, 149};
enum { BAD_COLUMNS = sizeof bad_columns / sizeof *bad_columns };

struct linear {
    dqt_context *ctx;
    dqt_layer *layer;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_parameter weight;
};

static struct linear linear_open(dqt_context *ctx, int format, int gradient_format) {
    struct linear l = {.ctx = ctx, .weight = {.struct_size = sizeof l.weight}};
    dqt_layer_options o;
    dqt_tape_options t;
    dqt_layer_options_init(&o, sizeof o);
    dqt_tape_options_init(&t, sizeof t);
    o.weight.storage = format;
    t.max_length = MOST_TOKENS;
    t.gradient_format = gradient_format;
    OK(ctx, dqt_linear_create(ctx, COLS, ROWS, &o, &l.layer));
    OK(ctx, dqt_tape_create(ctx, &l.layer, 1, &t, &l.tape));
    OK(ctx, dqt_updater_create(ctx, &l.layer, 1, NULL, &l.updater));
    OK(ctx, dqt_layer_get_parameter(l.layer, 0, &l.weight));
    return l;
}

static void linear_close(struct linear *l) {
    dqt_updater_destroy(l->updater);
    dqt_tape_destroy(l->tape);
    dqt_layer_destroy(l->layer);
}

/* One row of `tokens` is bad. With one token the products are those of generation. */
static void check_rows(struct linear *l, size_t tokens, size_t row, size_t column, float value) {
    float *x = random_floats(tokens * COLS, 2, 3), y[MOST_TOKENS * ROWS], clean[MOST_TOKENS * ROWS];
    OK(l->ctx, dqt_layer_forward(l->layer, l->tape, batch_shape(1, tokens), x, clean));
    x[row * COLS + column] = value;
    OK(l->ctx, dqt_layer_forward(l->layer, l->tape, batch_shape(1, tokens), x, y));
    for (size_t t = 0; t < tokens; t++) {
        const float *got = y + t * ROWS;
        if (t == row)
            CHECKF(all_nan(got, ROWS), "%zu tokens, %g in column %zu", tokens, (double)value, column);
        else
            CHECKF(memcmp(got, clean + t * ROWS, ROWS * sizeof *got) == 0, "row %zu beside row %zu", t, row);
    }
    free(x);
}

/* The weight gradient of a bad row is NaN, also where dy is 0, and no step takes it. */
static void check_gradient(struct linear *l, float value) {
    float *x = random_floats(3 * COLS, 2, 3), y[3 * ROWS], dy[3 * ROWS] = {0}, before[COLS], after[COLS], got[COLS];
    x[COLS + 7] = value;
    for (size_t i = 0; i < 3 * ROWS; i += 2)
        dy[i] = 0.25f;
    OK(l->ctx, dqt_tape_zero_gradients(l->tape));
    OK(l->ctx, dqt_layer_forward(l->layer, l->tape, batch_shape(1, 3), x, y));
    OK(l->ctx, dqt_layer_backward(l->layer, l->tape, dy, NULL));
    for (size_t r = 0; r < ROWS; r++) {
        OK(l->ctx, dqt_tape_get_gradient(l->tape, 0, r, 1, got));
        CHECKF(!isfinite(got[0]) && !isfinite(got[COLS - 1]), "gradient row %zu: %g", r, (double)got[0]);
    }
    OK(l->ctx, dqt_tensor_dequantize(l->weight.tensor, 3, 1, before));
    CHECK(dqt_updater_step(l->updater, l->tape, step_rate(1e-2f), NULL) == DQT_E_NUMERIC);
    OK(l->ctx, dqt_tensor_dequantize(l->weight.tensor, 3, 1, after));
    CHECK(memcmp(before, after, sizeof before) == 0);
    free(x);
}

static void rows_and_gradients(void) {
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        dqt_context *ctx = isa_context(isa_caps[isa].isa, 1);
        if (!ctx) continue;
        EACH_FORMAT(format) {
            struct linear l = linear_open(ctx, format, format % 4); /* each with one of the gradient formats */
            for (size_t v = 0; v < BAD_VALUES; v++) {
                for (size_t c = 0; c < BAD_COLUMNS; c++) {
                    check_rows(&l, MOST_TOKENS, (c + v) % MOST_TOKENS, bad_columns[c], bad_values[v]);
                    check_rows(&l, 1, 0, bad_columns[c], bad_values[v]);
                }
                check_gradient(&l, bad_values[v]);
            }
            linear_close(&l);
        }
        dqt_context_destroy(ctx);
    }
}

/* Codes reach from -127 to 127: a row of opposite extremes meets a weight of its own extremes without wrapping. */
static void extremes(void) {
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        dqt_context *ctx = isa_context(isa_caps[isa].isa, 1);
        if (!ctx) continue;
        struct linear l = linear_open(ctx, DQT_FORMAT_INT8, DQT_FLOAT_F32);
        float *w = malloc(ROWS * COLS * sizeof *w), x[COLS], y[ROWS];
        for (size_t i = 0; i < ROWS * COLS; i++)
            w[i] = -100;
        OK(ctx, dqt_tensor_quantize(l.weight.tensor, w, DQT_ROUND_NEAREST, 0));
        static const float sizes[] = {1e-30f, 1e-5f, 1, 3e38f};
        for (size_t k = 0; k < 4; k++) {
            for (size_t i = 0; i < COLS; i++)
                x[i] = -sizes[k];
            OK(ctx, dqt_layer_forward(l.layer, l.tape, batch_shape(1, 1), x, y));
            const float first = y[0];
            CHECKF(first >= 0 && (k == 0 || first > 0), "size %g: %g", (double)sizes[k], (double)first);
            for (size_t i = 0; i < COLS; i++)
                x[i] = sizes[k];
            OK(ctx, dqt_layer_forward(l.layer, l.tape, batch_shape(1, 1), x, y));
            CHECKF(y[0] >= -first && y[0] <= -first, "size %g: %g and %g", (double)sizes[k], (double)first,
                   (double)y[0]); /* no -128 */
        }
        free(w);
        linear_close(&l);
        dqt_context_destroy(ctx);
    }
}

/* ---- Layers of every kind ------------------------------------------------------------------------------------ */

enum { HIDDEN = 48, FF = 80, TOKENS = 9, FIRST_OF_SECOND = 6 /* where the second document begins */ };

static dqt_layer *float_layer(dqt_context *ctx, int kind, const dqt_layer_options *o) {
    dqt_layer *l = NULL;
    switch (kind) {
    case DQT_LAYER_LINEAR: OK(ctx, dqt_linear_create(ctx, HIDDEN, HIDDEN, o, &l)); break;
    case DQT_LAYER_RMSNORM: OK(ctx, dqt_rmsnorm_create(ctx, HIDDEN, o, &l)); break;
    case DQT_LAYER_ATTENTION: OK(ctx, dqt_attention_create(ctx, HIDDEN, 4, 2, o, &l)); break;
    case DQT_LAYER_MLP: OK(ctx, dqt_mlp_create(ctx, HIDDEN, FF, o, &l)); break;
    case DQT_LAYER_BLOCK: OK(ctx, dqt_block_create(ctx, HIDDEN, FF, 4, 2, o, &l)); break;
    case DQT_LAYER_EMBEDDING: OK(ctx, dqt_embedding_create(ctx, TOKENS, HIDDEN, o, &l)); break;
    case DQT_LAYER_HEAD: OK(ctx, dqt_head_create(ctx, NULL, HIDDEN, TOKENS, o, &l)); break;
    default: break;
    }
    return l;
}

struct network {
    dqt_context *ctx;
    dqt_layer *layer;
    dqt_tape *tape;
    dqt_updater *updater;
};

static struct network network_open(dqt_context *ctx, int kind, const dqt_layer_options *o) {
    struct network n = {.ctx = ctx, .layer = float_layer(ctx, kind, o)};
    const dqt_tape_options t = {.struct_size = sizeof t, .max_length = TOKENS};
    OK(ctx, dqt_tape_create(ctx, &n.layer, 1, &t, &n.tape));
    OK(ctx, dqt_updater_create(ctx, &n.layer, 1, NULL, &n.updater));
    return n;
}

static void network_close(struct network *n) {
    dqt_updater_destroy(n->updater);
    dqt_tape_destroy(n->tape);
    dqt_layer_destroy(n->layer);
}

static int32_t hash_write(void *user_data, const void *buffer, size_t size) {
    uint64_t *h = user_data;
    for (size_t i = 0; i < size; i++)
        *h = (*h ^ ((const unsigned char *)buffer)[i]) * 1099511628211u;
    return 0;
}

/* Of all weights, state and the step. */
static uint64_t network_hash(const struct network *n) {
    uint64_t h = 1;
    OK(n->ctx, dqt_layers_write(&n->layer, 1, n->updater, hash_write, &h, NULL));
    return h;
}

static void check_step_refused(const struct network *n, const char *what) {
    const uint64_t before = network_hash(n);
    const dqt_status status = dqt_updater_step(n->updater, n->tape, step_rate(1e-2f), NULL);
    CHECKF(status == DQT_E_NUMERIC, "%s: the step's status is %d", what, status);
    CHECKF(network_hash(n) == before, "%s: the refused step changed something", what);
}

/* What the output of token t must be where x[bad] is not finite. Attention looks back, within a document; what is
 * before the bad token there meets it with a weight of 0, and 0 times NaN is NaN. */
enum fate { CLEAN, BAD, EITHER };
static enum fate fate_of(int kind, size_t t, size_t bad) {
    const bool looks_back = kind == DQT_LAYER_ATTENTION || kind == DQT_LAYER_BLOCK;
    if (t == bad) return BAD;
    if (!looks_back || (t >= FIRST_OF_SECOND) != (bad >= FIRST_OF_SECOND)) return CLEAN;
    return t > bad ? BAD : EITHER;
}

static void check_row(const float *got, const float *clean, enum fate fate, bool nan, const char *what, size_t t) {
    const bool same = memcmp(got, clean, HIDDEN * sizeof *got) == 0;
    const bool bad = nan ? all_nan(got, HIDDEN) : !all_finite(got, HIDDEN);
    CHECKF((same && fate != BAD) || (bad && fate != CLEAN), "%s: output %zu is %s", what, t,
           same  ? "as ever"
           : bad ? "bad"
                 : "another number");
}

static void check_float_layer(const struct network *n, int kind, size_t bad, float value, const char *what) {
    static const int32_t segments[TOKENS] = {4, 4, 4, 4, 4, 4, 2, 2, 2};
    const dqt_batch batch = {.struct_size = sizeof batch, .length = TOKENS, .segments = segments};
    float x[TOKENS * HIDDEN], y[TOKENS * HIDDEN], clean[TOKENS * HIDDEN], dy[TOKENS * HIDDEN], dx[TOKENS * HIDDEN];
    random_fill(x, TOKENS * HIDDEN, 2, 3);
    random_fill(dy, TOKENS * HIDDEN, 1, 4);
    OK(n->ctx, dqt_layer_forward(n->layer, n->tape, &batch, x, clean));
    CHECKF(all_finite(clean, TOKENS * HIDDEN), "%s", what);
    x[bad * HIDDEN + 31] = value;
    OK(n->ctx, dqt_tape_zero_gradients(n->tape));
    OK(n->ctx, dqt_layer_forward(n->layer, n->tape, &batch, x, y));
    for (size_t t = 0; t < TOKENS; t++)
        check_row(y + t * HIDDEN, clean + t * HIDDEN, fate_of(kind, t, bad), isnan(value), what, t);
    OK(n->ctx, dqt_layer_backward(n->layer, n->tape, dy, dx));
    check_step_refused(n, what);

    /* a gradient that is not finite, from above */
    x[bad * HIDDEN + 31] = 0.5f;
    dy[bad * HIDDEN + 11] = value;
    OK(n->ctx, dqt_tape_zero_gradients(n->tape));
    OK(n->ctx, dqt_layer_forward(n->layer, n->tape, &batch, x, y));
    OK(n->ctx, dqt_layer_backward(n->layer, n->tape, dy, dx));
    CHECKF(!all_finite(dx + bad * HIDDEN, HIDDEN), "%s: dx is finite", what);
    check_step_refused(n, what);
}

static void check_embedding(const struct network *n, size_t bad, float value, const char *what) {
    static const int32_t tokens[TOKENS] = {8, 7, 6, 5, 4, 3, 2, 1, 0};
    float y[TOKENS * HIDDEN], dy[TOKENS * HIDDEN];
    random_fill(dy, TOKENS * HIDDEN, 1, 4);
    dy[bad * HIDDEN + 31] = value;
    OK(n->ctx, dqt_tape_zero_gradients(n->tape));
    OK(n->ctx, dqt_embedding_forward(n->layer, n->tape, batch_tokens(tokens, 1, TOKENS), y));
    CHECKF(all_finite(y, TOKENS * HIDDEN), "%s", what);
    OK(n->ctx, dqt_embedding_backward(n->layer, n->tape, dy));
    check_step_refused(n, what);
}

static void check_head(const struct network *n, size_t bad, float value, const char *what) {
    float x[TOKENS * HIDDEN], logits[TOKENS * TOKENS], losses[TOKENS], loss = 0;
    int32_t targets[TOKENS] = {8, 7, 6, 5, 4, 3, 2, 1, 0};
    random_fill(x, TOKENS * HIDDEN, 2, 3);
    x[bad * HIDDEN + 31] = value;
    CHECKF(dqt_head_logits(n->layer, n->tape, batch_shape(1, TOKENS), x, logits) == DQT_E_NUMERIC, "%s", what);
    CHECKF(dqt_head_loss(n->layer, n->tape, batch_targets(targets, 1, TOKENS), x, &loss, losses) == DQT_E_NUMERIC,
           "%s: loss %g", what, (double)loss);
    /* where the bad token has no target the loss does not see it, but no step takes what comes of it */
    targets[bad] = -1;
    OK(n->ctx, dqt_tape_zero_gradients(n->tape));
    dqt_status status = dqt_head_loss(n->layer, n->tape, batch_targets(targets, 1, TOKENS), x, &loss, losses);
    CHECKF(status == DQT_E_NUMERIC || isfinite(loss), "%s: loss %g", what, (double)loss);
    if (status == DQT_OK) status = dqt_head_backward(n->layer, n->tape, 1.0f, NULL);
    if (status == DQT_OK) status = dqt_updater_step(n->updater, n->tape, step_rate(1e-2f), NULL);
    OK(n->ctx, dqt_head_loss(n->layer, n->tape, batch_targets(targets, 1, bad), x, &loss, losses)); /* still finite */
}

static void layers_of_every_kind(void) {
    static const int storages[] = {DQT_FORMAT_TERNARY, DQT_FORMAT_BF16};
    for (int i = 0; i < ISA_COUNT * 7 * 2 * 2 * 2; i++) {
        const int kind = DQT_LAYER_EMBEDDING + i / ISA_COUNT % 7, k = i / ISA_COUNT / 7;
        dqt_context *ctx = isa_context(isa_caps[i % ISA_COUNT].isa, 1);
        if (!ctx) continue;
        const dqt_layer_options o = {.struct_size = sizeof o,
                                     .activation = k & 1 ? DQT_ACTIVATION_NONE : DQT_ACTIVATION_INT8,
                                     .weight.storage = storages[k >> 1 & 1],
                                     .mlp = k >> 2 ? DQT_MLP_SQUARED_RELU : DQT_MLP_SWIGLU,
                                     .sub_norm = k >> 2};
        struct network n = network_open(ctx, kind, &o);
        for (size_t v = 0; v < BAD_VALUES; v++)
            for (size_t bad = 1; bad < TOKENS; bad += 3) {
                char what[96];
                snprintf(what, sizeof what, "isa %d, kind %d, options %d, %g in token %zu", dqt_context_isa(ctx), kind,
                         k, (double)bad_values[v], bad);
                if (kind == DQT_LAYER_EMBEDDING)
                    check_embedding(&n, bad, bad_values[v], what);
                else if (kind == DQT_LAYER_HEAD)
                    check_head(&n, bad, bad_values[v], what);
                else
                    check_float_layer(&n, kind, bad, bad_values[v], what);
            }
        network_close(&n);
        dqt_context_destroy(ctx);
    }
}

/* ---- Models -------------------------------------------------------------------------------------------------- */

enum { LENGTH = 12, VOCAB = 23 };

struct model {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    int32_t tokens[LENGTH], targets[LENGTH];
};

static struct model model_open(dqt_context *ctx, int activation, int mlp) {
    struct model m = {.ctx = ctx};
    dqt_llama_config c;
    dqt_tape_options t;
    dqt_layer *const *layers;
    size_t count;
    dqt_llama_config_init(&c, sizeof c);
    dqt_tape_options_init(&t, sizeof t);
    c.vocab_size = VOCAB;
    c.hidden_size = 48;
    c.intermediate_size = 80;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.mlp = mlp;
    c.activation = activation;
    c.linear.storage = DQT_FORMAT_INT4;
    t.max_length = LENGTH;
    OK(ctx, dqt_llama_create(ctx, &c, &m.model));
    OK(ctx, dqt_llama_get_layers(m.model, &layers, &count));
    OK(ctx, dqt_tape_create(ctx, layers, count, &t, &m.tape));
    for (int i = 0; i < LENGTH; i++) {
        m.tokens[i] = i * 7 % VOCAB;
        m.targets[i] = i * 5 % VOCAB;
    }
    return m;
}

static void model_close(struct model *m) {
    dqt_tape_destroy(m->tape);
    dqt_llama_destroy(m->model);
}

/* With one number of a gain not finite. */
static void check_bad_gain(struct model *m, const dqt_parameter *p) {
    float loss = 7, logits[LENGTH * VOCAB];
    dqt_session *s = NULL;
    size_t length = 0;
    OK(m->ctx, dqt_session_create(m->model, session_of(LENGTH), &s));
    OK(m->ctx, dqt_session_append(s, m->tokens, 3, NULL));
    void *data = NULL;
    size_t bytes = 0;
    OK(m->ctx, dqt_tensor_data(p->tensor, &data, &bytes));
    float *gain = data, good = gain[5];
    gain[5] = NAN;
    OK(m->ctx, dqt_tensor_touch(p->tensor));
    dqt_status status = dqt_llama_loss(m->model, m->tape, batch_pairs(m->tokens, m->targets, 1, LENGTH), &loss, NULL);
    CHECKF(status == DQT_E_NUMERIC, "%s: loss %g, status %d", p->name, (double)loss, status);
    status = dqt_llama_forward(m->model, m->tape, batch_tokens(m->tokens, 1, LENGTH), logits);
    CHECKF(status == DQT_E_NUMERIC, "%s: logits, status %d", p->name, status);
    status = dqt_session_append(s, m->tokens + 3, 4, logits);
    CHECKF(status == DQT_E_NUMERIC, "%s: session, status %d", p->name, status);
    OK(m->ctx, dqt_session_get_length(s, &length));
    CHECKF(length == 3, "%s: %zu tokens", p->name, length);
    gain[5] = good;
    OK(m->ctx, dqt_tensor_touch(p->tensor));
    /* the session goes on as if nothing had happened */
    float after[VOCAB], straight[VOCAB];
    dqt_session *other = NULL;
    OK(m->ctx, dqt_session_append(s, m->tokens + 3, 4, after));
    OK(m->ctx, dqt_session_create(m->model, session_of(LENGTH), &other));
    OK(m->ctx, dqt_session_append(other, m->tokens, 3, NULL));
    OK(m->ctx, dqt_session_append(other, m->tokens + 3, 4, straight));
    CHECK(all_finite(after, VOCAB) && memcmp(after, straight, sizeof after) == 0);
    dqt_session_destroy(other);
    dqt_session_destroy(s);
}

static void models(void) {
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        dqt_context *ctx = isa_context(isa_caps[isa].isa, 1);
        if (!ctx) continue;
        for (int kind = 0; kind < 4; kind++) {
            struct model m = model_open(ctx, kind & 1 ? DQT_ACTIVATION_NONE : DQT_ACTIVATION_INT8,
                                        kind & 2 ? DQT_MLP_SQUARED_RELU : DQT_MLP_SWIGLU);
            size_t count = 0, gains = 0;
            OK(ctx, dqt_tape_get_num_parameters(m.tape, &count));
            for (size_t i = 0; i < count; i++) {
                dqt_parameter p = {.struct_size = sizeof p};
                OK(ctx, dqt_tape_get_parameter(m.tape, i, &p));
                if (p.parameter_class != DQT_CLASS_NORM) continue;
                check_bad_gain(&m, &p);
                gains++;
            }
            CHECK(gains == 9); /* four a block, and the last */
            model_close(&m);
        }
        dqt_context_destroy(ctx);
    }
}

static const struct test tests[] = {TEST(rows_and_gradients), TEST(extremes), TEST(layers_of_every_kind), TEST(models)};
TEST_MAIN(tests)
