/* Networks of a host's own layers: saved, loaded into new objects and gone on with, they have the bits of one that
 * never stopped, whatever the optimiser, state, rounding and storage; what does not fit is refused and changes nothing.
 */
#include "calls.h"
#include "counting_alloc.h"
#include "formats.h"
#include "memory_file.h"
#include "test.h"

enum { VOCAB = 20, HIDDEN = 16, T = 6, LAYERS = 7 };

/* How networks differ; zeros are defaults. */
struct variant {
    int32_t format, compute;
    int32_t tied, fused, sub_norm, mlp, recompute, checkpoint_format, gradient_format;
    bool train_scales;
};

/* One layer of every kind: embedding, linear, norm, attention, MLP, block, head. */
struct net {
    struct variant v;
    float rate; /* at which every optimiser changes codes */
    dqt_layer *layers[LAYERS];
    dqt_tape *tape;
    dqt_updater *updater;
};

static struct net open_variant(dqt_context *ctx, const struct variant *v, const dqt_updater_options *u, uint64_t seed) {
    struct net n = {.v = *v, .rate = u && u->optimizer == DQT_OPTIMIZER_SGD ? 0.1f : 0.01f};
    dqt_layer_options o = DQT_INIT(dqt_layer_options);
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    o.weight.storage = v->format;
    o.weight.compute = v->compute;
    o.seed = seed;
    o.init_std = 0.2f;
    o.sub_norm = v->sub_norm;
    o.mlp = v->mlp;
    if (v->format >= DQT_FORMAT_INT8) {
        o.weight.scale_axis = DQT_AXIS_ROW;
        o.weight.train_scale = v->train_scales;
    }
    OK(ctx, dqt_embedding_create(ctx, VOCAB, HIDDEN, &o, &n.layers[0]));
    OK(ctx, dqt_linear_create(ctx, HIDDEN, HIDDEN, &o, &n.layers[1]));
    OK(ctx, dqt_rmsnorm_create(ctx, HIDDEN, &o, &n.layers[2]));
    OK(ctx, dqt_attention_create(ctx, HIDDEN, 2, 1, &o, &n.layers[3]));
    OK(ctx, dqt_mlp_create(ctx, HIDDEN, 24, &o, &n.layers[4]));
    OK(ctx, dqt_block_create(ctx, HIDDEN, 24, 2, 2, &o, &n.layers[5]));
    OK(ctx, dqt_head_create(ctx, v->tied ? n.layers[0] : NULL, HIDDEN, VOCAB, &o, &n.layers[6]));
    t.max_length = T;
    t.no_gradient_buffers = v->fused;
    t.gradient_format = v->gradient_format;
    t.recompute = v->recompute;
    t.checkpoint_format = v->checkpoint_format;
    OK(ctx, dqt_tape_create(ctx, n.layers, LAYERS, &t, &n.tape));
    OK(ctx, dqt_updater_create(ctx, n.layers, LAYERS, u, &n.updater));
    return n;
}

/* With BF16 gradients, so that the pass number counts. */
static struct variant variant_of(int32_t format) {
    return (struct variant){
        .format = format, .gradient_format = DQT_FLOAT_BF16, .train_scales = format == DQT_FORMAT_TERNARY};
}

static struct net open_net(dqt_context *ctx, int32_t format, const dqt_updater_options *u, uint64_t seed) {
    const struct variant v = variant_of(format);
    return open_variant(ctx, &v, u, seed);
}

static void close_net(struct net *n) {
    dqt_updater_destroy(n->updater);
    dqt_tape_destroy(n->tape);
    for (int i = LAYERS; i-- > 0;)
        dqt_layer_destroy(n->layers[i]);
}

static void train(dqt_context *ctx, struct net *n, int from, int to) {
    float x[T * HIDDEN], loss;
    int32_t tokens[T], targets[T];
    for (int s = from; s < to; s++) {
        for (int i = 0; i < T; i++) {
            tokens[i] = (i * 7 + s * 3) % VOCAB;
            targets[i] = (i * 7 + s * 3 + 7) % VOCAB;
        }
        if (n->v.fused)
            OK(ctx, dqt_tape_begin_update(n->tape, n->updater, step_rate(n->rate)));
        else
            OK(ctx, dqt_tape_zero_gradients(n->tape));
        OK(ctx, dqt_embedding_forward(n->layers[0], n->tape, batch_tokens(tokens, 1, T), x));
        for (int i = 1; i < LAYERS - 1; i++)
            OK(ctx, dqt_layer_forward(n->layers[i], n->tape, batch_shape(1, T), x, x));
        OK(ctx, dqt_head_loss(n->layers[6], n->tape, batch_targets(targets, 1, T), x, &loss, NULL));
        OK(ctx, dqt_head_backward(n->layers[6], n->tape, 1, x));
        for (int i = LAYERS - 2; i > 0; i--)
            OK(ctx, dqt_layer_backward(n->layers[i], n->tape, x, x));
        OK(ctx, dqt_embedding_backward(n->layers[0], n->tape, x));
        if (n->v.fused)
            OK(ctx, dqt_tape_end_update(n->tape, NULL));
        else
            OK(ctx, dqt_updater_step(n->updater, n->tape, step_rate(n->rate), NULL));
    }
}

static struct memory_file save(dqt_context *ctx, const struct net *n) {
    struct memory_file f = memory_new();
    const dqt_save_options o = {.struct_size = sizeof o, .host = "mine", .host_size = 4, .tape = n->tape};
    OK(ctx, dqt_layers_write(n->layers, LAYERS, n->updater, memory_write, &f, &o));
    return f;
}

/* Codes (of F32 and BF16: weights) that differ, of all parameters of two networks. */
static size_t different(dqt_context *ctx, const struct net *a, const struct net *b) {
    size_t count = 0, differ = 0;
    OK(ctx, dqt_tape_get_num_parameters(a->tape, &count));
    for (size_t i = 0; i < count; i++) {
        dqt_parameter p = DQT_INIT(dqt_parameter), q = p;
        OK(ctx, dqt_tape_get_parameter(a->tape, i, &p));
        OK(ctx, dqt_tape_get_parameter(b->tape, i, &q));
        const size_t n = p.rows * p.cols;
        float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
        if (!x || !y) abort();
        OK(ctx, dqt_tensor_dequantize(p.tensor, 0, p.rows, x));
        OK(ctx, dqt_tensor_dequantize(q.tensor, 0, q.rows, y));
        for (size_t k = 0; k < n; k++)
            differ += memcmp(&x[k], &y[k], sizeof *x) != 0;
        free(x);
        free(y);
    }
    return differ;
}

/* 6 steps at once, or 3, saved, and 3 more by new objects that began otherwise. */
static void check_variant(dqt_context *ctx, const struct variant *v, const dqt_updater_options *u) {
    struct net whole = open_variant(ctx, v, u, 1), half = open_variant(ctx, v, u, 1),
               again = open_variant(ctx, v, u, 2);
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    train(ctx, &whole, 0, 6);
    train(ctx, &half, 0, 3);
    CHECKF(different(ctx, &whole, &half) > 0, "format %d, optimizer %d, rounding %d, states %d %d", v->format,
           u->optimizer, u->rounding, u->momentum_state,
           u->variance_state); /* the steps after the file change something */
    struct memory_file f = save(ctx, &half);
    train(ctx, &again, 3, 4);
    OK(ctx, dqt_layers_read(again.layers, LAYERS, again.updater, memory_read, &f, NULL, &c));
    CHECK(!c.model && !c.updater && c.host_size == 4 && c.host && memcmp(c.host, "mine", 4) == 0 && c.passes > 0);
    dqt_host_bytes_free(ctx, c.host, c.host_size);
    OK(ctx, dqt_tape_set_pass(again.tape, c.passes));
    train(ctx, &again, 3, 6);
    struct memory_file a = save(ctx, &whole), b = save(ctx, &again);
    CHECKF(same_bytes(&a, &b) && different(ctx, &whole, &again) == 0,
           "%zu codes differ: format %d, optimizer %d, rounding %d, states %d %d, tied %d, fused %d",
           different(ctx, &whole, &again), v->format, u->optimizer, u->rounding, u->momentum_state, u->variance_state,
           v->tied, v->fused);
    free(a.bytes);
    free(b.bytes);
    free(f.bytes);
    close_net(&whole);
    close_net(&half);
    close_net(&again);
}

static void check_resume(dqt_context *ctx, int32_t format, const dqt_updater_options *u) {
    const struct variant v = variant_of(format);
    check_variant(ctx, &v, u);
}

/* Every optimiser x rounding x state of each moment, with codes under fixed scales and under trained ones. */
static void every_rule_resumes(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    for (int32_t optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_MUON; optimizer++)
        for (int32_t rounding = DQT_ROUND_STOCHASTIC; rounding <= DQT_ROUND_ACCUMULATE; rounding++)
            for (int32_t states = 0; states < 9; states++) {
                const bool muon = optimizer == DQT_OPTIMIZER_MUON;
                dqt_updater_options u = DQT_INIT(dqt_updater_options);
                if (muon && (rounding == DQT_ROUND_ECO_STOCHASTIC || rounding == DQT_ROUND_ECO_NEAREST)) continue;
                u.optimizer = optimizer;
                u.rounding = rounding;
                u.momentum_state = states % 3;
                u.variance_state = states / 3;
                u.clip = DQT_CLIP_PREVIOUS_NORM;
                check_resume(ctx, DQT_FORMAT_INT4, &u);
                check_resume(ctx, muon ? DQT_FORMAT_INT8 : DQT_FORMAT_TERNARY, &u);
            }
    EACH_FORMAT(format) {
        dqt_updater_options u = DQT_INIT(dqt_updater_options);
        u.momentum_state = DQT_STATE_INT8;
        check_resume(ctx, format, &u);
    }
    counting_end(ctx, &memory);
}

/* What networks and steps can be otherwise, each with every optimiser: heads that are tied, updates inside backward,
 * other blocks, storage that is not what layers read, low-precision gradients and checkpoints, no first moment, other
 * clipping. */
static void every_network_resumes(void) {
    static const struct variant variants[] = {
        {.format = DQT_FORMAT_INT4, .tied = 1},
        {.format = DQT_FORMAT_INT4, .fused = 1},
        {.format = DQT_FORMAT_TERNARY, .tied = 1, .fused = 1, .train_scales = true},
        {.format = DQT_FORMAT_BF16, .tied = 1, .fused = 1},
        {.format = DQT_FORMAT_INT3, .sub_norm = 1, .mlp = DQT_MLP_SQUARED_RELU},
        {.format = DQT_FORMAT_INT8, .compute = DQT_FORMAT_TERNARY, .sub_norm = 1, .fused = 1},
        {.format = DQT_FORMAT_F32, .compute = DQT_FORMAT_TERNARY, .gradient_format = DQT_FLOAT_BF16},
        {.format = DQT_FORMAT_INT4, .gradient_format = DQT_FLOAT_FP8_E4M3, .recompute = 1},
        {.format = DQT_FORMAT_INT4, .gradient_format = DQT_FLOAT_FP8_E5M2, .tied = 1},
        {.format = DQT_FORMAT_INT4, .recompute = 1, .checkpoint_format = DQT_FLOAT_BF16, .fused = 1},
        {.format = DQT_FORMAT_INT4, .recompute = 1, .checkpoint_format = DQT_FLOAT_FP8_E4M3},
        {.format = DQT_FORMAT_INT4, .recompute = 1, .checkpoint_format = DQT_FLOAT_FP8_E5M2, .tied = 1, .fused = 1},
    };
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        for (int32_t optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_MUON; optimizer++)
            for (int32_t clip = DQT_CLIP_GLOBAL_NORM; clip <= DQT_CLIP_NONE; clip++) {
                const bool no_momentum = optimizer != DQT_OPTIMIZER_SGD && clip == DQT_CLIP_NONE;
                dqt_updater_options u = DQT_INIT(dqt_updater_options);
                if (variants[i].fused && clip == DQT_CLIP_GLOBAL_NORM) continue;
                if (optimizer == DQT_OPTIMIZER_MUON && variants[i].train_scales) continue;
                u.optimizer = optimizer;
                u.momentum_state = u.variance_state = DQT_STATE_INT8;
                u.clip = clip;
                u.weight_decay = 0.1f;
                u.lagged = clip == DQT_CLIP_TENSOR_NORM;
                if (no_momentum) u.beta1 = -1;
                check_variant(ctx, &variants[i], &u);
            }
    counting_end(ctx, &memory);
}

/* By path, and from a model's file; groups' rules come back. */
static void paths_and_models(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    const dqt_group_options group = {.struct_size = sizeof group, .pattern = "mlp*", .optimizer = DQT_OPTIMIZER_SGD};
    dqt_updater_options u = DQT_INIT(dqt_updater_options), plain = u;
    u.groups = &group;
    u.num_groups = 1;
    struct net a = open_net(ctx, DQT_FORMAT_INT3, &u, 1), b = open_net(ctx, DQT_FORMAT_INT3, &u, 2),
               other = open_net(ctx, DQT_FORMAT_INT3, &plain, 2);
    const char *path = "build/test_layers_file.dqt";
    dqt_group_options more = DQT_INIT(dqt_group_options);
    dqt_parameter_rule rule = DQT_INIT(dqt_parameter_rule);
    more.pattern = "norm";
    more.freeze = 1;
    OK(ctx, dqt_updater_add_group(a.updater, &more, NULL));
    train(ctx, &a, 0, 2);
    OK(ctx, dqt_layers_save(a.layers, LAYERS, a.updater, path, NULL));
    OK(ctx, dqt_layers_load(b.layers, LAYERS, b.updater, path, NULL, NULL));
    struct memory_file fa = save(ctx, &a), fb = save(ctx, &b);
    CHECK(fa.size == fb.size);
    OK(ctx, dqt_updater_get_rule(b.updater, 2, &rule));
    CHECK(rule.frozen);
    CHECK(dqt_layers_load(other.layers, LAYERS, other.updater, path, NULL, NULL) == DQT_E_UNSUPPORTED);
    CHECKF(strstr(dqt_last_error(ctx), "mlp"), "%s", dqt_last_error(ctx));
    OK(ctx, dqt_layers_load(other.layers, LAYERS, NULL, path, NULL, NULL)); /* the weights alone */
    OK(ctx, dqt_layers_save(a.layers, LAYERS, NULL, path, NULL));
    CHECK(dqt_layers_load(b.layers, LAYERS, b.updater, path, NULL, NULL) == DQT_E_STATE);
    remove(path);

    /* A model's file into its layers, one that was made of the same config. */
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    c.vocab_size = VOCAB;
    c.hidden_size = HIDDEN;
    c.intermediate_size = 24;
    c.num_layers = 1;
    c.num_heads = 2;
    dqt_llama *m = NULL, *n = NULL;
    dqt_layer *const *from, *const *to;
    size_t count;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    c.seed = 9;
    OK(ctx, dqt_llama_create(ctx, &c, &n));
    OK(ctx, dqt_llama_get_layers(m, &from, &count));
    OK(ctx, dqt_llama_get_layers(n, &to, &count));
    struct memory_file f = memory_new(), g = memory_new(), h = memory_new();
    OK(ctx, dqt_llama_write(m, NULL, memory_write, &f, NULL));
    OK(ctx, dqt_layers_read(to, count, NULL, memory_read, &f, NULL, NULL));
    OK(ctx, dqt_layers_write(from, count, NULL, memory_write, &g, NULL));
    OK(ctx, dqt_layers_write(to, count, NULL, memory_write, &h, NULL));
    CHECK(g.size == h.size && memcmp(g.bytes, h.bytes, g.size) == 0);
    g.position = 0;
    dqt_checkpoint none = DQT_INIT(dqt_checkpoint);
    CHECK(dqt_llama_read(ctx, memory_read, &g, NULL, &none) == DQT_E_FORMAT && !none.model); /* it has no config */
    dqt_llama_destroy(m);
    dqt_llama_destroy(n);
    free(f.bytes);
    free(g.bytes);
    free(h.bytes);
    free(fa.bytes);
    free(fb.bytes);
    close_net(&a);
    close_net(&b);
    close_net(&other);
    counting_end(ctx, &memory);
}

static void updaters_alone(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    struct net a = open_net(ctx, DQT_FORMAT_INT4, NULL, 1), b = open_net(ctx, DQT_FORMAT_INT4, NULL, 1);
    struct memory_file f = memory_new();
    train(ctx, &a, 0, 3);
    OK(ctx, dqt_updater_write(a.updater, memory_write, &f));
    OK(ctx, dqt_updater_read(b.updater, memory_read, &f));
    OK(ctx, dqt_layers_copy(b.layers, a.layers, LAYERS));
    uint64_t pass = 0;
    OK(ctx, dqt_tape_get_pass(a.tape, &pass));
    OK(ctx, dqt_tape_set_pass(b.tape, pass));
    train(ctx, &a, 3, 5);
    train(ctx, &b, 3, 5);
    struct memory_file fa = save(ctx, &a), fb = save(ctx, &b);
    CHECK(fa.size == fb.size && memcmp(fa.bytes, fb.bytes, fa.size) == 0);
    free(fa.bytes);
    free(fb.bytes);
    free(f.bytes);
    close_net(&a);
    close_net(&b);
    counting_end(ctx, &memory);
}

/* An updater and host bytes that are not wanted are not made, and into layers the updater stays as it is. */
static void parts_that_are_not_wanted(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_llama *m = NULL;
    dqt_updater *u = NULL;
    dqt_layer *const *layers;
    size_t count;
    OK(ctx, dqt_llama_create(ctx, NULL, &m));
    OK(ctx, dqt_llama_get_layers(m, &layers, &count));
    OK(ctx, dqt_updater_create(ctx, layers, count, NULL, &u));
    OK(ctx, dqt_updater_set_step(u, 7));
    struct memory_file f = memory_new();
    const dqt_save_options o = {.struct_size = sizeof o, .host = "host", .host_size = 4};
    OK(ctx, dqt_llama_write(m, u, memory_write, &f, &o));
    for (int32_t skip = 0; skip < 4; skip++) {
        const dqt_load_options l = {.struct_size = sizeof l, .skip_updater = skip & 1, .skip_host = skip >> 1};
        dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
        uint64_t step = 0;
        f.position = 0;
        OK(ctx, dqt_llama_read(ctx, memory_read, &f, &l, &c));
        CHECK(c.model && (c.updater == NULL) == l.skip_updater && (c.host == NULL) == l.skip_host);
        CHECK(c.host_size == (l.skip_host ? 0 : 4) && (l.skip_host || !memcmp(c.host, "host", 4)));
        dqt_host_bytes_free(ctx, c.host, c.host_size);
        dqt_updater_destroy(c.updater);
        dqt_llama_destroy(c.model);

        OK(ctx, dqt_updater_set_step(u, 9));
        f.position = 0;
        OK(ctx, dqt_layers_read(layers, count, u, memory_read, &f, &l, &c));
        OK(ctx, dqt_updater_get_step(u, &step));
        CHECK(step == (l.skip_updater ? 9 : 7) && !c.model && !c.updater && (c.host == NULL) == l.skip_host);
        dqt_host_bytes_free(ctx, c.host, c.host_size);
    }
    const dqt_load_options odd[] = {{.struct_size = sizeof odd[0], .skip_updater = 2},
                                    {.struct_size = sizeof odd[0], .skip_host = -1}};
    for (int i = 0; i < 2; i++) {
        dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
        f.position = 0;
        CHECK(dqt_llama_read(ctx, memory_read, &f, &odd[i], &c) == DQT_E_ARGUMENT && !c.model);
        CHECK(strstr(dqt_last_error(ctx), i ? "skip_host" : "skip_updater") != NULL);
    }
    free(f.bytes);
    dqt_updater_destroy(u);
    dqt_llama_destroy(m);
    counting_end(ctx, &memory);
}

/* Lists that are not copies of each other: refused with the reason, and nothing changes. */
static void copies_that_are_refused(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    struct net a = open_net(ctx, DQT_FORMAT_INT4, NULL, 1), b = open_net(ctx, DQT_FORMAT_INT4, NULL, 2);
    struct net other = open_net(ctx, DQT_FORMAT_INT8, NULL, 3);
    struct memory_file before = save(ctx, &b);
    dqt_layer *list[LAYERS];
    for (size_t i = 0; i < LAYERS; i++) {
        memcpy(list, a.layers, sizeof list);
        list[i] = NULL;
        CHECK(dqt_layers_copy(b.layers, list, LAYERS) == DQT_E_ARGUMENT && strstr(dqt_last_error(ctx), "source"));
        CHECK(dqt_layers_copy(list, b.layers, LAYERS) == DQT_E_ARGUMENT);
        CHECK(strstr(dqt_last_error(NULL), "destination") != NULL);
    }
    memcpy(list, a.layers, sizeof list);
    list[LAYERS - 1] = a.layers[0];
    CHECK(dqt_layers_copy(b.layers, list, LAYERS) == DQT_E_SHAPE);
    CHECK(dqt_layers_copy(b.layers, other.layers, LAYERS) == DQT_E_UNSUPPORTED);
    CHECK(dqt_layers_copy(NULL, a.layers, 1) == DQT_E_ARGUMENT && dqt_layers_copy(b.layers, NULL, 1) == DQT_E_ARGUMENT);
    struct memory_file after = save(ctx, &b);
    CHECK(same_bytes(&before, &after));
    free(before.bytes);
    free(after.bytes);
    close_net(&a);
    close_net(&b);
    close_net(&other);
    counting_end(ctx, &memory);
}

/* Every byte of a file changed, and every cut: refused, and nothing changes. */
static void damage_changes_nothing(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    struct net a = open_net(ctx, DQT_FORMAT_TERNARY, NULL, 1), b = open_net(ctx, DQT_FORMAT_TERNARY, NULL, 2);
    train(ctx, &a, 0, 1);
    train(ctx, &b, 0, 1);
    struct memory_file f = save(ctx, &a), before = save(ctx, &b);
    const size_t allocated = dqt_context_allocated(ctx);
    for (size_t i = 0; i < f.size; i += 97) {
        f.bytes[i] ^= 0x10;
        f.position = 0;
        dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
        const dqt_status status = dqt_layers_read(b.layers, LAYERS, b.updater, memory_read, &f, NULL, &c);
        CHECKF(status == DQT_E_FORMAT || status == DQT_E_SHAPE, "byte %zu: %s", i, dqt_status_string(status));
        CHECK(!c.host && dqt_context_allocated(ctx) == allocated);
        f.bytes[i] ^= 0x10;
        struct memory_file cut = f;
        cut.size = i;
        cut.position = 0;
        CHECK(dqt_layers_read(b.layers, LAYERS, b.updater, memory_read, &cut, NULL, NULL) == DQT_E_FORMAT);
    }
    struct memory_file after = save(ctx, &b);
    CHECK(after.size == before.size && memcmp(after.bytes, before.bytes, after.size) == 0);
    f.position = 0;
    CHECK(dqt_layers_read(b.layers, LAYERS - 1, NULL, memory_read, &f, NULL, NULL) == DQT_E_SHAPE);
    CHECK(dqt_layers_read(b.layers, LAYERS, a.updater, memory_read, &f, NULL, NULL) == DQT_E_UNSUPPORTED);
    CHECK(dqt_layers_read(NULL, 1, NULL, memory_read, &f, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_layers_read(b.layers, 0, NULL, memory_read, &f, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_layers_read(b.layers, LAYERS, NULL, NULL, &f, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_layers_write(b.layers, LAYERS, NULL, NULL, &f, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_layers_save(b.layers, LAYERS, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    free(f.bytes);
    free(before.bytes);
    free(after.bytes);
    close_net(&a);
    close_net(&b);
    counting_end(ctx, &memory);
}

static const struct test tests[] = {
    TEST(every_rule_resumes),      TEST(every_network_resumes),  TEST(paths_and_models),         TEST(updaters_alone),
    TEST(copies_that_are_refused), TEST(damage_changes_nothing), TEST(parts_that_are_not_wanted)};
TEST_MAIN(tests)
