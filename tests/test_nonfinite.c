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

static const struct test tests[] = {TEST(rows_and_gradients), TEST(extremes), TEST(models)};
TEST_MAIN(tests)
