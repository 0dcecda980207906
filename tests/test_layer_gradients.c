/* Backward of every layer kind in F32 against central differences of its own forward, through the public functions.
 *
 * f = sum of dy * y over random dy (heads: the loss), in double. Along a direction d the derivative is (4 D(h) - D(2h))
 * / 3 with D(h) = (f(x + h d) - f(x - h d)) / 2h, whose error is of order h^4 f'''''. Entries of d are +-1, for
 * matrices +-1 / sqrt(cols), so that outputs near 1 move by about h. It is compared with g . d, which is about |g|
 * |d_i|: the numbers that float32 really added enter g . d, so only the forward's float32 sums are left as noise, near
 * 1e-7 |y| |dy| / h. With h = 2^-8 all errors stay below 6e-4 of |g| |d_i| here; the tolerance is 2e-3. One wrong entry
 * of n makes 1 / sqrt(n), 1e-2 for the largest here. */
#include "calls.h"
#include "isa_contexts.h"

enum { DIRECTIONS = 2, MOST_LAYERS = 8 };
static const float STEP = 0x1p-8f;

struct subject {
    dqt_context *ctx;
    const char *name;
    dqt_layer *own[MOST_LAYERS]; /* created here */
    dqt_llama *model;            /* or the model's */
    dqt_layer *const *layers;
    size_t num_layers;
    dqt_tape *tape;
    size_t batch, length, in, out;
    float *x, *y, *dy; /* x NULL: the input is tokens */
    int32_t *tokens, *targets;
    float loss_scale;
    double (*forward)(struct subject *s);
    void (*backward)(struct subject *s, float *dx);
};

/* ---- What is differentiated ---------------------------------------------------------------------------------- */

static double projection(const struct subject *s) {
    double sum = 0;
    for (size_t i = 0; i < s->batch * s->length * s->out; i++)
        sum += (double)s->dy[i] * (double)s->y[i];
    return sum;
}

/* The mean loss from the tokens' own, which has more digits than one float. */
static double mean_loss(const struct subject *s) {
    double sum = 0, used = 0;
    for (size_t i = 0; i < s->batch * s->length; i++) {
        sum += (double)s->y[i];
        used += s->targets[i] >= 0;
    }
    return used > 0 ? sum / used * (double)s->loss_scale : 0;
}

static double float_forward(struct subject *s) {
    OK(s->ctx, dqt_layer_forward(s->layers[0], s->tape, batch_shape(s->batch, s->length), s->x, s->y));
    return projection(s);
}
static void float_backward(struct subject *s, float *dx) {
    OK(s->ctx, dqt_layer_backward(s->layers[0], s->tape, s->dy, dx));
}
static double embedding_forward(struct subject *s) {
    OK(s->ctx, dqt_embedding_forward(s->layers[0], s->tape, batch_tokens(s->tokens, s->batch, s->length), s->y));
    return projection(s);
}
static void embedding_backward(struct subject *s, float *dx) {
    (void)dx;
    OK(s->ctx, dqt_embedding_backward(s->layers[0], s->tape, s->dy));
}
static double head_forward(struct subject *s) {
    float loss = 0;
    OK(s->ctx, dqt_head_loss(s->layers[0], s->tape, batch_targets(s->targets, s->batch, s->length), s->x, &loss, s->y));
    CHECKF(fabs((double)(loss * s->loss_scale) - mean_loss(s)) < 1e-5, "%s: loss %g", s->name, (double)loss);
    return mean_loss(s);
}
static void head_backward(struct subject *s, float *dx) {
    OK(s->ctx, dqt_head_backward(s->layers[0], s->tape, s->loss_scale, dx));
}
/* Embedding, then the head that uses its weight. */
static double tied_forward(struct subject *s) {
    float loss = 0;
    OK(s->ctx, dqt_embedding_forward(s->layers[0], s->tape, batch_tokens(s->tokens, s->batch, s->length), s->dy));
    OK(s->ctx,
       dqt_head_loss(s->layers[1], s->tape, batch_targets(s->targets, s->batch, s->length), s->dy, &loss, s->y));
    return mean_loss(s);
}
static void tied_backward(struct subject *s, float *dx) {
    (void)dx;
    OK(s->ctx, dqt_head_backward(s->layers[1], s->tape, s->loss_scale, s->dy));
    OK(s->ctx, dqt_embedding_backward(s->layers[0], s->tape, s->dy));
}
static double llama_forward(struct subject *s) {
    float loss = 0;
    OK(s->ctx, dqt_llama_loss(s->model, s->tape, batch_pairs(s->tokens, s->targets, s->batch, s->length), &loss, s->y));
    return mean_loss(s);
}
static void llama_backward(struct subject *s, float *dx) {
    (void)dx;
    OK(s->ctx, dqt_llama_backward(s->model, s->tape, s->loss_scale));
}

/* ---- Differences --------------------------------------------------------------------------------------------- */

/* Numbers that can be moved: the input, or a parameter. */
struct variable {
    struct subject *s;
    const char *name;
    float *input; /* NULL: tensor */
    dqt_tensor *tensor;
    size_t count;
    float move; /* magnitude of a direction's entries */
    const float *value, *gradient;
};

static void set_variable(const struct variable *v, const float *value) {
    if (v->input)
        memcpy(v->input, value, v->count * sizeof *value);
    else
        OK(v->s->ctx, dqt_tensor_quantize(v->tensor, value, DQT_ROUND_NEAREST, 0));
}

/* f(x + h d) - f(x - h d) over 2h; *along gets g . (the step really made) over 2h. */
static double difference(const struct variable *v, const float *d, float h, float *moved, double *along) {
    double f[2], dot = 0;
    for (int side = 0; side < 2; side++) {
        const float by = side ? -h : h;
        for (size_t i = 0; i < v->count; i++) {
            moved[i] = v->value[i] + by * d[i];
            dot += (side ? -1.0 : 1.0) * (double)v->gradient[i] * (double)moved[i];
        }
        set_variable(v, moved);
        f[side] = v->s->forward(v->s);
    }
    set_variable(v, v->value);
    *along = dot / (2 * (double)h);
    return (f[0] - f[1]) / (2 * (double)h);
}

static void check_variable(const struct variable *v, uint64_t seed) {
    float *d = malloc(v->count * sizeof *d), *moved = malloc(v->count * sizeof *moved);
    double norm = 0;
    for (size_t i = 0; i < v->count; i++)
        norm += (double)v->gradient[i] * (double)v->gradient[i];
    norm = sqrt(norm);
    CHECKF(norm > 0, "%s: %s has no gradient", v->s->name, v->name);
    for (int k = 0; k < DIRECTIONS; k++) {
        for (size_t i = 0; i < v->count; i++)
            d[i] = test_random(&seed) >> 63 ? v->move : -v->move;
        double along1, along2;
        const double d1 = difference(v, d, STEP, moved, &along1), d2 = difference(v, d, 2 * STEP, moved, &along2);
        const double measured = (4 * d1 - d2) / 3, expected = (4 * along1 - along2) / 3;
        CHECKF(fabs(measured - expected) <= 2e-3 * norm * (double)v->move,
               "%s: %s along direction %d: %.7g measured, %.7g returned, off by %.2g", v->s->name, v->name, k, measured,
               expected, fabs(measured - expected) / norm / (double)v->move);
    }
    free(d);
    free(moved);
}

/* Gains away from 1, weights in proportion to their inputs: numbers near 1 everywhere. */
static void set_parameters(struct subject *s, uint64_t seed) {
    size_t count = 0;
    OK(s->ctx, dqt_tape_get_num_parameters(s->tape, &count));
    for (size_t i = 0; i < count; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        OK(s->ctx, dqt_tape_get_parameter(s->tape, i, &p));
        const bool gain = p.parameter_class == DQT_CLASS_NORM, embedding = p.parameter_class == DQT_CLASS_EMBEDDING;
        float *w = random_floats(p.rows * p.cols,
                                 p.rows == 1 ? 0.5f
                                 : embedding ? 1.0f
                                             : 1.7f / sqrtf((float)p.cols),
                                 seed + i);
        for (size_t k = 0; k < p.rows * p.cols && gain; k++)
            w[k] += 1.0f;
        OK(s->ctx, dqt_tensor_quantize(p.tensor, w, DQT_ROUND_NEAREST, 0));
        free(w);
    }
}

/* Outputs and gradients may lie in the buffers of inputs. */
static void check_in_place(struct subject *s, const float *dx) {
    if (s->forward != float_forward || s->in != s->out) return;
    const size_t n = s->batch * s->length * s->in;
    float *y = malloc(n * sizeof *y), *d = malloc(n * sizeof *d);
    memcpy(y, s->x, n * sizeof *y);
    memcpy(d, s->dy, n * sizeof *d);
    s->forward(s);
    OK(s->ctx, dqt_layer_forward(s->layers[0], s->tape, batch_shape(s->batch, s->length), y, y));
    CHECKF(memcmp(y, s->y, n * sizeof *y) == 0, "%s: y in place of x", s->name);
    OK(s->ctx, dqt_layer_backward(s->layers[0], s->tape, d, d));
    CHECKF(memcmp(d, dx, n * sizeof *d) == 0, "%s: dx in place of dy", s->name);
    free(y);
    free(d);
}

/* Without dx the weight gradients are the same bits, whether a kind needs dx on the way or not. */
static void check_without_dx(struct subject *s, size_t count) {
    if (!s->x) return;
    float **kept = malloc(count * sizeof *kept);
    for (int pass = 0; pass < 2; pass++) {
        if (pass) {
            OK(s->ctx, dqt_tape_zero_gradients(s->tape));
            s->forward(s);
            s->backward(s, NULL);
        }
        for (size_t i = 0; i < count; i++) {
            dqt_parameter p = {.struct_size = sizeof p};
            float *g = NULL;
            OK(s->ctx, dqt_tape_get_parameter(s->tape, i, &p));
            OK(s->ctx, dqt_tape_gradient_data(s->tape, i, &g));
            const size_t bytes = p.rows * p.cols * sizeof *g;
            if (pass == 0) memcpy(kept[i] = malloc(bytes), g, bytes);
            if (pass) CHECKF(memcmp(kept[i], g, bytes) == 0, "%s: gradient of %s with dx NULL", s->name, p.name);
            if (pass) free(kept[i]);
        }
    }
    free(kept);
}

static void check_subject(struct subject *s) {
    size_t count = 0;
    const size_t inputs = s->x ? s->batch * s->length * s->in : 0;
    float *dx = malloc((inputs + 1) * sizeof *dx), *value = malloc((inputs + 1) * sizeof *value);
    set_parameters(s, 77);
    OK(s->ctx, dqt_tape_zero_gradients(s->tape));
    s->forward(s);
    s->backward(s, dx);
    OK(s->ctx, dqt_tape_get_num_parameters(s->tape, &count));
    check_without_dx(s, count);
    if (s->x) {
        memcpy(value, s->x, inputs * sizeof *value);
        const struct variable v = {s, "x", s->x, NULL, inputs, 1, value, dx};
        check_variable(&v, 1);
    }
    for (size_t i = 0; i < count; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        float *g = NULL;
        OK(s->ctx, dqt_tape_get_parameter(s->tape, i, &p));
        OK(s->ctx, dqt_tape_gradient_data(s->tape, i, &g));
        float *w = malloc(p.rows * p.cols * sizeof *w);
        OK(s->ctx, dqt_tensor_dequantize(p.tensor, 0, p.rows, w));
        const float move = p.rows > 1 && p.parameter_class != DQT_CLASS_EMBEDDING ? 1 / sqrtf((float)p.cols) : 1;
        const struct variable v = {s, p.name, NULL, p.tensor, p.rows * p.cols, move, w, g};
        if (g) check_variable(&v, 2 + i);
        free(w);
    }
    check_in_place(s, dx);
    free(dx);
    free(value);
}

/* ---- Subjects ------------------------------------------------------------------------------------------------ */

/* Small, and one beyond every tile: 64 rows of a product, 32 tokens of a norm, blocks of attention. */
struct shape {
    size_t batch, length, hidden, intermediate, heads, vocab;
};
static const struct shape shapes[] = {{2, 7, 24, 40, 4, 33}, {1, 71, 72, 134, 6, 131}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static dqt_layer_options layer_options(void) {
    dqt_layer_options o;
    dqt_layer_options_init(&o, sizeof o);
    o.activation = DQT_ACTIVATION_NONE;
    o.weight.storage = DQT_FORMAT_F32;
    return o;
}

static void subject_open(struct subject *s, int recompute) {
    dqt_tape_options o;
    dqt_tape_options_init(&o, sizeof o);
    o.precision = DQT_PRECISION_F32;
    o.max_batch = s->batch;
    o.max_length = s->length;
    o.recompute = recompute;
    while (s->num_layers < MOST_LAYERS && !s->model && s->own[s->num_layers])
        s->num_layers++;
    if (!s->model) s->layers = s->own;
    OK(s->ctx, dqt_tape_create(s->ctx, s->layers, s->num_layers, &o, &s->tape));
    const size_t tokens = s->batch * s->length;
    if (s->in) s->x = random_floats(tokens * s->in, 1.7f, 5);
    s->y = random_floats(tokens * (s->out ? s->out : 1), 1, 6);
    s->dy = random_floats(tokens * (s->out ? s->out : 1), 1, 7);
}

/* Tokens with repetitions; every seventh target is ignored. */
static void subject_tokens(struct subject *s, size_t vocab) {
    const size_t tokens = s->batch * s->length;
    uint64_t seed = 3;
    s->tokens = malloc(tokens * sizeof *s->tokens);
    s->targets = malloc(tokens * sizeof *s->targets);
    for (size_t i = 0; i < tokens; i++) {
        s->tokens[i] = (int32_t)(test_random(&seed) % vocab);
        s->targets[i] = i % 7 == 3 ? -1 : (int32_t)(test_random(&seed) % vocab);
    }
    s->loss_scale = 0.625f;
}

static void subject_run(struct subject *s) {
    if (s->tape) check_subject(s);
    dqt_tape_destroy(s->tape);
    for (size_t i = MOST_LAYERS; i-- > 0;)
        dqt_layer_destroy(s->own[i]);
    dqt_llama_destroy(s->model);
    free(s->x);
    free(s->y);
    free(s->dy);
    free(s->tokens);
    free(s->targets);
}

static void each_context(void (*run)(dqt_context *ctx, const struct shape *shape)) {
    const int isas[] = {DQT_ISA_SCALAR, DQT_ISA_AUTO};
    for (size_t k = 0; k < 2; k++) {
        dqt_context_options o;
        dqt_context *ctx = NULL;
        dqt_context_options_init(&o, sizeof o);
        o.isa = isas[k];
        o.num_threads = 1;
        OK(NULL, dqt_context_create(&o, &ctx));
        for (size_t i = k; i < SHAPES && ctx; i++)
            run(ctx, &shapes[i]); /* the best: only the larger */
        dqt_context_destroy(ctx);
    }
}

static struct subject float_subject(dqt_context *ctx, const char *name, const struct shape *h, size_t in, size_t out) {
    return (struct subject){.ctx = ctx,
                            .name = name,
                            .batch = h->batch,
                            .length = h->length,
                            .in = in,
                            .out = out,
                            .forward = float_forward,
                            .backward = float_backward};
}

static void run_linear(dqt_context *ctx, const struct shape *h) {
    const dqt_layer_options o = layer_options();
    struct subject s = float_subject(ctx, "linear", h, h->hidden, h->intermediate);
    OK(ctx, dqt_linear_create(ctx, h->hidden, h->intermediate, &o, &s.own[0]));
    subject_open(&s, 0);
    subject_run(&s);
}

static void run_rmsnorm(dqt_context *ctx, const struct shape *h) {
    dqt_layer_options o = layer_options();
    o.norm_eps = 0.125f; /* so that it counts */
    struct subject s = float_subject(ctx, "RMSNorm", h, h->hidden, h->hidden);
    OK(ctx, dqt_rmsnorm_create(ctx, h->hidden, &o, &s.own[0]));
    subject_open(&s, 0);
    subject_run(&s);
}

static void run_attention(dqt_context *ctx, const struct shape *h) {
    for (int sub_norm = 0; sub_norm < 2; sub_norm++)
        for (size_t groups = 1; groups <= h->heads; groups += groups == 1 ? 1 : h->heads - 2) {
            char name[64];
            dqt_layer_options o = layer_options();
            o.sub_norm = sub_norm;
            o.rope_theta = 100;
            snprintf(name, sizeof name, "attention, sub_norm %d, %zu heads to a kv head", sub_norm, groups);
            struct subject s = float_subject(ctx, name, h, h->hidden, h->hidden);
            OK(ctx, dqt_attention_create(ctx, h->hidden, h->heads, h->heads / groups, &o, &s.own[0]));
            subject_open(&s, 0);
            subject_run(&s);
        }
}

/* What attention of other architectures has: each by itself, then all of it. */
enum { HEAD_DIM = 1, BIAS = 2, QK_NORM = 4, LINEAR = 8, LLAMA3 = 16, SUB_NORM = 32 };
static const int attention_parts[] = {HEAD_DIM, BIAS,   QK_NORM,
                                      LINEAR,   LLAMA3, HEAD_DIM | BIAS | QK_NORM | LLAMA3 | SUB_NORM};
enum { ATTENTION_PARTS = sizeof attention_parts / sizeof *attention_parts };

static void set_attention_parts(dqt_layer_options *o, const struct shape *h, int parts) {
    o->rope_theta = 100;
    if (parts & HEAD_DIM) o->head_dim = h->hidden / h->heads + 4;
    o->attention_bias = (parts & BIAS) != 0;
    o->qk_norm = (parts & QK_NORM) != 0;
    o->sub_norm = (parts & SUB_NORM) != 0;
    if (parts & (LINEAR | LLAMA3)) o->rope_factor = 2.5f;
    if (parts & LINEAR) o->rope_scaling = DQT_ROPE_LINEAR;
    if (!(parts & LLAMA3)) return;
    o->rope_scaling = DQT_ROPE_LLAMA3;
    o->rope_low_freq_factor = 0.25f;
    o->rope_high_freq_factor = 2;
    o->rope_original_context = h->length;
}

static void run_attention_parts(dqt_context *ctx, const struct shape *h) {
    for (size_t i = 0; i < ATTENTION_PARTS; i++) {
        char name[64];
        dqt_layer_options o = layer_options();
        set_attention_parts(&o, h, attention_parts[i]);
        snprintf(name, sizeof name, "attention, parts %d", attention_parts[i]);
        struct subject s = float_subject(ctx, name, h, h->hidden, h->hidden);
        OK(ctx, dqt_attention_create(ctx, h->hidden, h->heads, h->heads / 2, &o, &s.own[0]));
        subject_open(&s, 0);
        subject_run(&s);
    }
}

static void run_mlp(dqt_context *ctx, const struct shape *h) {
    for (int kind = 0; kind < 6; kind++) {
        char name[64];
        dqt_layer_options o = layer_options();
        o.mlp = kind / 2;
        o.sub_norm = kind % 2;
        snprintf(name, sizeof name, "MLP, kind %d, sub_norm %d", o.mlp, o.sub_norm);
        struct subject s = float_subject(ctx, name, h, h->hidden, h->hidden);
        OK(ctx, dqt_mlp_create(ctx, h->hidden, h->intermediate, &o, &s.own[0]));
        subject_open(&s, 0);
        subject_run(&s);
    }
}

static void run_block(dqt_context *ctx, const struct shape *h) {
    for (int kind = 0; kind < 4; kind++) {
        const int recompute = kind % 2;
        dqt_layer_options o = layer_options();
        if (kind / 2) set_attention_parts(&o, h, attention_parts[ATTENTION_PARTS - 1]);
        if (kind / 2) o.mlp = DQT_MLP_GATED_SQUARED_RELU;
        o.sub_norm = 1;
        struct subject s = float_subject(ctx, recompute ? "block, recomputed" : "block", h, h->hidden, h->hidden);
        OK(ctx, dqt_block_create(ctx, h->hidden, h->intermediate, h->heads, h->heads / 2, &o, &s.own[0]));
        subject_open(&s, recompute);
        subject_run(&s);
    }
}

static void run_embedding(dqt_context *ctx, const struct shape *h) {
    const dqt_layer_options o = layer_options();
    struct subject s = float_subject(ctx, "embedding", h, 0, h->hidden);
    s.forward = embedding_forward;
    s.backward = embedding_backward;
    OK(ctx, dqt_embedding_create(ctx, h->vocab, h->hidden, &o, &s.own[0]));
    subject_open(&s, 0);
    subject_tokens(&s, h->vocab);
    subject_run(&s);
}

static void run_head(dqt_context *ctx, const struct shape *h) {
    const dqt_layer_options o = layer_options();
    struct subject s = float_subject(ctx, "head", h, h->hidden, 0);
    s.forward = head_forward;
    s.backward = head_backward;
    OK(ctx, dqt_head_create(ctx, NULL, h->hidden, h->vocab, &o, &s.own[0]));
    subject_open(&s, 0);
    subject_tokens(&s, h->vocab);
    subject_run(&s);
}

static void run_tied(dqt_context *ctx, const struct shape *h) {
    const dqt_layer_options o = layer_options();
    struct subject s = float_subject(ctx, "tied head", h, 0, h->hidden);
    s.forward = tied_forward;
    s.backward = tied_backward;
    OK(ctx, dqt_embedding_create(ctx, h->vocab, h->hidden, &o, &s.own[0]));
    OK(ctx, dqt_head_create(ctx, s.own[0], h->hidden, h->vocab, &o, &s.own[1]));
    subject_open(&s, 0);
    subject_tokens(&s, h->vocab);
    subject_run(&s);
}

static void run_llama(dqt_context *ctx, const struct shape *h) {
    for (int kind = 0; kind < 2; kind++) {
        struct subject s = float_subject(ctx, kind ? "LLaMA, tied, squared ReLU, recomputed" : "LLaMA", h, 0, 0);
        dqt_llama_config c;
        dqt_llama_config_init(&c, sizeof c);
        c.vocab_size = h->vocab;
        c.hidden_size = h->hidden;
        c.intermediate_size = h->intermediate;
        c.num_heads = h->heads;
        c.num_kv_heads = h->heads / 2;
        c.activation = DQT_ACTIVATION_NONE;
        c.linear.storage = c.embedding.storage = c.head.storage = DQT_FORMAT_F32;
        c.mlp = kind ? DQT_MLP_SQUARED_RELU : DQT_MLP_SWIGLU;
        c.tie_embeddings = kind;
        s.forward = llama_forward;
        s.backward = llama_backward;
        OK(ctx, dqt_llama_create(ctx, &c, &s.model));
        OK(ctx, dqt_llama_get_layers(s.model, &s.layers, &s.num_layers));
        subject_open(&s, kind);
        subject_tokens(&s, h->vocab);
        subject_run(&s);
    }
}

static void linear(void) {
    each_context(run_linear);
}
static void rmsnorm(void) {
    each_context(run_rmsnorm);
}
static void attention(void) {
    each_context(run_attention);
}
static void attention_of_others(void) {
    each_context(run_attention_parts);
}
static void mlp(void) {
    each_context(run_mlp);
}
static void block(void) {
    each_context(run_block);
}
static void embedding(void) {
    each_context(run_embedding);
}
static void head(void) {
    each_context(run_head);
}
static void tied_head(void) {
    each_context(run_tied);
}
static void llama(void) {
    each_context(run_llama);
}

static const struct test tests[] = {TEST(linear),    TEST(rmsnorm), TEST(attention), TEST(attention_of_others),
                                    TEST(mlp),       TEST(block),   TEST(embedding), TEST(head),
                                    TEST(tied_head), TEST(llama)};
TEST_MAIN(tests)
