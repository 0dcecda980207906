/* The update inside backward, of any list of layers: the bits of backward and step, for own networks with tied and
 * untied heads and every kind of loss; what is out of order has a status and changes nothing; an offending tensor is
 * left as it was as a whole. */
#include "batch_world.h"
#include "lanes.h"
#include "memory_file.h"

/* ---- Own networks ---------------------------------------------------------------------------------------------- */

enum { NET_LAYERS = 5, STEPS = 4 };
enum loss_kind { LOSS, OWN_WHOLE, OWN_TILES, LOSS_KINDS };

/* Embedding, block, linear, norm, head. The tape has room for more tokens: then the head's classes come in 3 tiles. */
struct net {
    dqt_context *ctx;
    dqt_layer *layers[NET_LAYERS];
    dqt_tape *tape;
    dqt_updater *updater;
    float x[TOKENS * HIDDEN], d[TOKENS * HIDDEN], dlogits[TOKENS * VOCAB];
    int32_t tokens[TOKENS], targets[TOKENS];
};

static dqt_updater_options updater_options_of(int32_t optimizer, int32_t state) {
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    u.optimizer = optimizer;
    u.momentum_state = u.variance_state = state;
    u.clip = DQT_CLIP_PREVIOUS_NORM;
    u.weight_decay = 0.1f;
    u.lagged = 1;
    return u;
}

/* Of the tapes of nets. INT8: their heads multiply codes too. */
static int32_t net_precision;

static struct net *net_create(dqt_context *ctx, bool tied, bool buffers, const dqt_updater_options *u) {
    struct net *n = calloc(1, sizeof *n);
    dqt_layer_options o = DQT_INIT(dqt_layer_options);
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    if (!n) abort();
    n->ctx = ctx;
    o.weight.storage = DQT_FORMAT_INT4;
    o.init_std = 0.2f;
    OK(ctx, dqt_embedding_create(ctx, VOCAB, HIDDEN, &o, &n->layers[0]));
    o.weight.storage = DQT_FORMAT_TERNARY;
    OK(ctx, dqt_block_create(ctx, HIDDEN, 48, 4, 2, &o, &n->layers[1]));
    OK(ctx, dqt_linear_create(ctx, HIDDEN, HIDDEN, &o, &n->layers[2]));
    OK(ctx, dqt_rmsnorm_create(ctx, HIDDEN, &o, &n->layers[3]));
    o.weight.storage = DQT_FORMAT_INT8;
    if (net_precision == DQT_PRECISION_INT8) o.activation = DQT_ACTIVATION_INT8;
    t.precision = net_precision;
    OK(ctx, dqt_head_create(ctx, tied ? n->layers[0] : NULL, HIDDEN, VOCAB, &o, &n->layers[4]));
    t.max_batch = t.max_length = 64;
    t.no_gradient_buffers = !buffers;
    OK(ctx, dqt_tape_create(ctx, n->layers, NET_LAYERS, &t, &n->tape));
    OK(ctx, dqt_updater_create(ctx, n->layers, NET_LAYERS, u, &n->updater));
    return n;
}

static void net_destroy(struct net *n) {
    dqt_updater_destroy(n->updater);
    dqt_tape_destroy(n->tape);
    for (int i = NET_LAYERS; i-- > 0;)
        dqt_layer_destroy(n->layers[i]);
    free(n);
}

/* Pure: half the logits, or what is given. */
static int32_t halve(void *user_data, const dqt_logits_tile *tile) {
    const float *factor = user_data;
    for (size_t t = 0; t < tile->num_tokens; t++)
        for (size_t c = 0; c < tile->num_classes; c++)
            tile->logits[t * tile->ld + c] *= *factor;
    return 0;
}

/* Pure: small gradients, but of the last class huge ones. */
static int32_t huge_at_last(void *user_data, const dqt_logits_tile *tile) {
    (void)user_data;
    for (size_t t = 0; t < tile->num_tokens; t++)
        for (size_t c = 0; c < tile->num_classes; c++)
            tile->logits[t * tile->ld + c] = tile->first_class + c == VOCAB - 1 ? 3e37f : 1e-3f;
    return 0;
}

static void forward(struct net *n, int step, enum loss_kind loss_kind) {
    uint64_t random = (uint64_t)step + 5;
    for (int i = 0; i < TOKENS; i++) {
        n->tokens[i] = (int32_t)(test_random(&random) % VOCAB);
        n->targets[i] = i % 5 == 3 ? -1 : (int32_t)(test_random(&random) % VOCAB);
    }
    for (int i = 0; i < TOKENS * VOCAB; i++)
        n->dlogits[i] = (float)((double)(test_random(&random) % 1000) - 500) * 1e-5f;
    float loss;
    OK(n->ctx, dqt_embedding_forward(n->layers[0], n->tape, batch_tokens(n->tokens, BATCH, LENGTH), n->x));
    for (int i = 1; i < NET_LAYERS - 1; i++)
        OK(n->ctx, dqt_layer_forward(n->layers[i], n->tape, batch_shape(BATCH, LENGTH), n->x, n->x));
    const int32_t *targets = loss_kind == LOSS ? n->targets : NULL;
    OK(n->ctx, dqt_head_loss(n->layers[4], n->tape, batch_targets(targets, BATCH, LENGTH), n->x, &loss, NULL));
}

static float half = 0.5f;

static dqt_status head_backward(struct net *n, enum loss_kind loss_kind) {
    dqt_logits_gradient g = DQT_INIT(dqt_logits_gradient);
    if (loss_kind == LOSS) return dqt_head_backward(n->layers[4], n->tape, 0.5f, n->d);
    if (loss_kind == OWN_WHOLE) g.dlogits = n->dlogits;
    if (loss_kind == OWN_TILES) {
        g.callback = halve;
        g.user_data = &half;
    }
    return dqt_head_backward_logits(n->layers[4], n->tape, &g, n->d);
}

static void backward(struct net *n, enum loss_kind loss_kind) {
    OK(n->ctx, head_backward(n, loss_kind));
    for (int i = NET_LAYERS - 2; i > 0; i--)
        OK(n->ctx, dqt_layer_backward(n->layers[i], n->tape, n->d, n->d));
    OK(n->ctx, dqt_embedding_backward(n->layers[0], n->tape, n->d));
}

static dqt_step_options step_of(int step) {
    dqt_step_options o = DQT_INIT(dqt_step_options);
    o.learning_rate = 0.02f;
    o.gradient_scale = step % 2 ? 0.25f : 0;
    return o;
}

static void fused_step(struct net *n, int step, enum loss_kind loss_kind, dqt_step_stats *stats) {
    const dqt_step_options o = step_of(step);
    if (step % 2) forward(n, step, loss_kind);
    OK(n->ctx, dqt_tape_begin_update(n->tape, n->updater, &o));
    if (step % 2 == 0) forward(n, step, loss_kind);
    backward(n, loss_kind);
    OK(n->ctx, dqt_tape_end_update(n->tape, stats));
}

/* Weights and the updater's state. */
static struct memory_file bytes_of(const struct net *n) {
    struct memory_file f = memory_new();
    OK(n->ctx, dqt_layers_write(n->layers, NET_LAYERS, n->updater, memory_write, &f, NULL));
    return f;
}

static bool unchanged(const struct net *n, const struct memory_file *before) {
    struct memory_file now = bytes_of(n);
    const bool same = same_bytes(&now, before);
    free(now.bytes);
    return same;
}

static void check_list(dqt_context *ctx, bool tied, bool buffers, enum loss_kind loss_kind, int32_t optimizer,
                       int32_t state) {
    const dqt_updater_options u = updater_options_of(optimizer, state);
    struct net *plain = net_create(ctx, tied, true, &u), *fused = net_create(ctx, tied, buffers, &u);
    struct memory_file before = bytes_of(plain);
    for (int step = 0; step < STEPS; step++) {
        dqt_step_stats a = DQT_INIT(dqt_step_stats), b = DQT_INIT(dqt_step_stats);
        const dqt_step_options o = step_of(step);
        forward(plain, step, loss_kind);
        OK(ctx, dqt_tape_zero_gradients(plain->tape));
        backward(plain, loss_kind);
        OK(ctx, dqt_updater_step(plain->updater, plain->tape, &o, &a));
        fused_step(fused, step, loss_kind, &b);
        CHECK(a.flipped > 0 && a.quantized == b.quantized && a.flipped == b.flipped && a.saturated == b.saturated &&
              a.step == b.step && !memcmp(&a.gradient_norm, &b.gradient_norm, sizeof a.gradient_norm));
        struct memory_file expected = bytes_of(plain);
        CHECKF(unchanged(fused, &expected) && !same_bytes(&expected, &before),
               "tied %d, buffers %d, loss %d, optimizer %d, state %d, step %d", tied, buffers, loss_kind, optimizer,
               state, step);
        free(expected.bytes);
    }
    free(before.bytes);
    net_destroy(plain);
    net_destroy(fused);
}

static void test_any_list(void) {
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(NULL, &ctx));
    share_all_work(ctx);
    for (int tied = 0; tied < 2; tied++)
        for (int loss_kind = 0; loss_kind < LOSS_KINDS; loss_kind++)
            check_list(ctx, tied, loss_kind == LOSS, (enum loss_kind)loss_kind, DQT_OPTIMIZER_ADAMW, DQT_STATE_INT8);
    for (int32_t optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_MUON; optimizer++)
        check_list(ctx, optimizer == DQT_OPTIMIZER_ADAFACTOR, false, OWN_TILES, optimizer, DQT_STATE_BF16);
    net_precision = DQT_PRECISION_INT8; /* its random numbers depend on the pass, which each layer counts */
    for (int tied = 0; tied < 2; tied++)
        for (int loss_kind = 0; loss_kind < LOSS_KINDS; loss_kind++)
            check_list(ctx, tied, false, (enum loss_kind)loss_kind, DQT_OPTIMIZER_ADAMW, DQT_STATE_F32);
    net_precision = DQT_PRECISION_AUTO;
    dqt_context_destroy(ctx);
}

/* ---- The LLaMA graph --------------------------------------------------------------------------------------------- */

/* dqt_llama_backward_update, the three calls that it is, and with a host's own loss backward and step: the same bits.
 */
static void test_llama(void) {
    for (size_t i = 0; i < SETTINGS; i++) {
        struct memory_file files[5];
        for (int way = 0; way < 5; way++) {
            struct world *w = world_create(&settings[i]);
            dqt_updater *u = updater_of(w);
            const dqt_batch b = batch_of(w);
            const dqt_logits_gradient g = {.struct_size = sizeof g, .callback = halve, .user_data = &half};
            float loss;
            for (int step = 0; step < 2; step++) {
                OK(w->ctx, dqt_tape_zero_gradients(w->tape));
                OK(w->ctx, dqt_llama_loss(w->model, w->tape, &b, &loss, NULL));
                const bool apart = way == 1 || way == 3;
                if (apart) OK(w->ctx, dqt_tape_begin_update(w->tape, u, step_rate(0.05f)));
                if (way == 0) OK(w->ctx, dqt_llama_backward_update(w->model, w->tape, u, step_rate(0.05f), NULL));
                if (way == 1 || way == 2) OK(w->ctx, dqt_llama_backward(w->model, w->tape, 1));
                if (way == 3 || way == 4) OK(w->ctx, dqt_llama_backward_logits(w->model, w->tape, &g));
                if (apart) OK(w->ctx, dqt_tape_end_update(w->tape, NULL));
                if (way == 2 || way == 4) OK(w->ctx, dqt_updater_step(u, w->tape, step_rate(0.05f), NULL));
            }
            files[way] = memory_new();
            OK(w->ctx, dqt_llama_write(w->model, u, memory_write, &files[way], NULL));
            dqt_updater_destroy(u);
            world_destroy(w);
        }
        CHECKF(same_bytes(&files[0], &files[1]) && same_bytes(&files[0], &files[2]), "%s", settings[i].name);
        CHECKF(same_bytes(&files[3], &files[4]) && !same_bytes(&files[0], &files[3]), "%s", settings[i].name);
        for (int way = 0; way < 5; way++)
            free(files[way].bytes);
    }
}

/* ---- Out of order ------------------------------------------------------------------------------------------------ */

#define REFUSED(call, expected, word)                                                                                  \
    do {                                                                                                               \
        const dqt_status refused_status = (call);                                                                      \
        CHECKF(refused_status == (expected) && strstr(dqt_last_error(NULL), word), "%s: %s",                           \
               dqt_status_string(refused_status), dqt_last_error(NULL));                                               \
    } while (0)

static void test_begin_and_end(void) {
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(NULL, &ctx));
    dqt_updater_options u = updater_options_of(DQT_OPTIMIZER_ADAMW, DQT_STATE_F32);
    struct net *n = net_create(ctx, false, false, &u);
    dqt_updater *global = NULL, *one_part = NULL;
    dqt_tape *other = NULL, *inference = NULL;
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    dqt_step_options o = step_of(0);
    dqt_step_stats bad = {0};
    OK(ctx, dqt_tape_create(ctx, n->layers, NET_LAYERS, &t, &other));
    t.inference = 1;
    OK(ctx, dqt_tape_create(ctx, n->layers, NET_LAYERS, &t, &inference));
    OK(ctx, dqt_updater_create(ctx, n->layers, NET_LAYERS, NULL, &global));
    u.num_parts = 2;
    OK(ctx, dqt_updater_create(ctx, n->layers, NET_LAYERS, &u, &one_part));
    u.num_parts = 0;

    REFUSED(dqt_tape_end_update(n->tape, NULL), DQT_E_STATE, "no update has begun");
    REFUSED(dqt_tape_begin_update(NULL, n->updater, &o), DQT_E_ARGUMENT, "tape is NULL");
    REFUSED(dqt_tape_begin_update(n->tape, NULL, &o), DQT_E_ARGUMENT, "updater is NULL");
    REFUSED(dqt_tape_begin_update(n->tape, n->updater, NULL), DQT_E_ARGUMENT, "options is NULL");
    REFUSED(dqt_tape_begin_update(n->tape, global, &o), DQT_E_UNSUPPORTED, "global norm");
    REFUSED(dqt_tape_begin_update(inference, n->updater, &o), DQT_E_STATE, "inference");
    REFUSED(dqt_tape_begin_update(n->tape, one_part, &o), DQT_E_UNSUPPORTED, "part 0 of 2");
    o.learning_rate = 1e38f;
    REFUSED(dqt_tape_begin_update(n->tape, n->updater, &o), DQT_E_NUMERIC, "learning");
    o = step_of(0);
    forward(n, 0, LOSS);
    REFUSED(head_backward(n, LOSS), DQT_E_STATE, "no update has begun"); /* nothing of it all has begun one */

    struct memory_file before = bytes_of(n);
    OK(ctx, dqt_tape_begin_update(n->tape, n->updater, &o));
    REFUSED(dqt_tape_begin_update(n->tape, n->updater, &o), DQT_E_STATE, "has begun on this tape");
    REFUSED(dqt_tape_begin_update(other, n->updater, &o), DQT_E_STATE, "updates with this updater");
    REFUSED(dqt_updater_step(n->updater, other, &o, NULL), DQT_E_STATE, "updates with this updater");
    REFUSED(dqt_updater_set_step(n->updater, 7), DQT_E_STATE, "updates with this updater");
    const dqt_group_options group = {.struct_size = sizeof group, .freeze = 1};
    REFUSED(dqt_updater_add_group(n->updater, &group, NULL), DQT_E_STATE, "updates with this updater");
    struct memory_file f = memory_new();
    REFUSED(dqt_updater_write(n->updater, memory_write, &f), DQT_E_STATE, "updates with this updater");
    REFUSED(dqt_updater_read(n->updater, memory_read, &before), DQT_E_STATE, "updates with this updater");
    REFUSED(dqt_layers_write(n->layers, NET_LAYERS, n->updater, memory_write, &f, NULL), DQT_E_STATE, "updates with");
    REFUSED(dqt_layers_read(n->layers, NET_LAYERS, n->updater, memory_read, &before, NULL, NULL), DQT_E_STATE,
            "updates with");
    CHECK(f.size == 0 && before.position == 0);
    REFUSED(dqt_tape_end_update(n->tape, &bad), DQT_E_ARGUMENT, "struct_size");
    /* Only forward passes in between: the step counts, and nothing else has changed. */
    dqt_step_stats stats = DQT_INIT(dqt_step_stats);
    forward(n, 1, LOSS);
    OK(ctx, dqt_tape_end_update(n->tape, &stats));
    CHECK(stats.step == 1 && stats.flipped == 0 && stats.quantized == 0 && !(stats.gradient_norm > 0));
    REFUSED(dqt_tape_end_update(n->tape, NULL), DQT_E_STATE, "no update has begun");
    OK(ctx, dqt_updater_set_step(n->updater, 0));
    CHECK(unchanged(n, &before));

    /* A layer goes backward once, whole or in its block. */
    OK(ctx, dqt_tape_begin_update(n->tape, n->updater, &o));
    forward(n, 2, LOSS);
    backward(n, LOSS);
    forward(n, 3, LOSS);
    REFUSED(head_backward(n, LOSS), DQT_E_STATE, "head has gone backward");
    for (int i = 1; i < NET_LAYERS - 1; i++)
        REFUSED(dqt_layer_backward(n->layers[i], n->tape, n->d, n->d), DQT_E_STATE, "once");
    REFUSED(dqt_embedding_backward(n->layers[0], n->tape, n->d), DQT_E_STATE, "once");
    OK(ctx, dqt_tape_end_update(n->tape, NULL));
    fused_step(n, 1, LOSS, NULL);

    /* An updater that is gone has no update; a tape that is gone has ended it. */
    OK(ctx, dqt_tape_begin_update(n->tape, n->updater, &o));
    dqt_updater_destroy(n->updater);
    REFUSED(dqt_tape_end_update(n->tape, NULL), DQT_E_STATE, "gone");
    forward(n, 4, LOSS);
    REFUSED(head_backward(n, LOSS), DQT_E_STATE, "no update has begun");
    OK(ctx, dqt_updater_create(ctx, n->layers, NET_LAYERS, &u, &n->updater));
    OK(ctx, dqt_tape_begin_update(other, n->updater, &o));
    dqt_tape_destroy(other);
    uint64_t steps = 0;
    OK(ctx, dqt_updater_get_step(n->updater, &steps));
    CHECK(steps == 1);
    fused_step(n, 5, LOSS, NULL);
    free(before.bytes);
    dqt_updater_destroy(one_part);
    dqt_updater_destroy(global);
    dqt_tape_destroy(inference);
    net_destroy(n);
    dqt_context_destroy(ctx);
}

static struct memory_file weight_of(const struct net *n, size_t parameter) {
    struct memory_file f = memory_new();
    dqt_parameter p = DQT_INIT(dqt_parameter);
    OK(n->ctx, dqt_tape_get_parameter(n->tape, parameter, &p));
    float *w = malloc(p.rows * p.cols * sizeof *w);
    if (!w) abort();
    OK(n->ctx, dqt_tensor_dequantize(p.tensor, 0, p.rows, w));
    memory_write(&f, w, p.rows * p.cols * sizeof *w);
    free(w);
    return f;
}

/* Which of the parameters have changed, one bit each. */
struct weights {
    struct memory_file of[64];
    size_t count;
};
static struct weights weights_of(const struct net *n) {
    struct weights w = {0};
    OK(n->ctx, dqt_tape_get_num_parameters(n->tape, &w.count));
    for (size_t i = 0; i < w.count; i++)
        w.of[i] = weight_of(n, i);
    return w;
}
static uint64_t changed(const struct net *n, struct weights *before) {
    struct weights now = weights_of(n);
    uint64_t bits = 0;
    for (size_t i = 0; i < now.count; i++) {
        if (!same_bytes(&now.of[i], &before->of[i])) bits |= (uint64_t)1 << i;
        free(now.of[i].bytes);
        free(before->of[i].bytes);
    }
    return bits;
}

/* A tied head whose embedding has not gone backward. */
static void test_tied_heads(void) {
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(NULL, &ctx));
    const dqt_updater_options u = updater_options_of(DQT_OPTIMIZER_ADAMW, DQT_STATE_F32);
    const dqt_step_options o = step_of(0);
    struct net *n = net_create(ctx, true, false, &u);
    float loss;
    for (int frozen = 0; frozen < 2; frozen++) {
        dqt_step_stats stats = DQT_INIT(dqt_step_stats);
        struct weights before = weights_of(n);
        forward(n, 0, LOSS);
        OK(ctx, dqt_tape_begin_update(n->tape, n->updater, &o));
        OK(ctx, head_backward(n, LOSS));
        REFUSED(head_backward(n, LOSS), DQT_E_STATE, "once");
        REFUSED(dqt_head_loss(n->layers[4], n->tape, batch_targets(n->targets, BATCH, LENGTH), n->x, &loss, NULL),
                DQT_E_STATE, "waits for its embedding");
        REFUSED(dqt_head_logits(n->layers[4], n->tape, batch_shape(BATCH, LENGTH), n->x, n->dlogits), DQT_E_STATE,
                "waits for its embedding");
        OK(ctx, dqt_layer_backward(n->layers[3], n->tape, n->d, n->d));
        const dqt_status status = dqt_tape_end_update(n->tape, &stats);
        CHECK(status == (frozen ? DQT_OK : DQT_E_STATE) && stats.step == (uint64_t)frozen + 1);
        if (!frozen) CHECKF(strstr(dqt_last_error(ctx), "embedding was left as it was"), "%s", dqt_last_error(ctx));
        size_t count = 0;
        OK(ctx, dqt_tape_get_num_parameters(n->tape, &count));
        CHECK(changed(n, &before) == (uint64_t)1 << (count - 1)); /* the norm's gain */
        const dqt_group_options group = {
            .struct_size = sizeof group, .parameter_class = DQT_CLASS_EMBEDDING, .freeze = 1};
        OK(ctx, dqt_updater_add_group(n->updater, &group, NULL));
    }
    fused_step(n, 1, LOSS, NULL);

    /* Two heads of one embedding. */
    dqt_layer *layers[3] = {n->layers[0], n->layers[4], NULL};
    dqt_tape *tape = NULL;
    dqt_updater *updater = NULL;
    OK(ctx, dqt_head_create(ctx, n->layers[0], HIDDEN, VOCAB, NULL, &layers[2]));
    OK(ctx, dqt_tape_create(ctx, layers, 3, NULL, &tape));
    OK(ctx, dqt_updater_create(ctx, layers, 3, &u, &updater));
    REFUSED(dqt_tape_begin_update(tape, updater, &o), DQT_E_UNSUPPORTED, "tied to one embedding");
    OK(ctx, dqt_updater_set_step(updater, 3)); /* the updater is free */
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
    dqt_layer_destroy(layers[2]);
    net_destroy(n);
    dqt_context_destroy(ctx);
}

/* ---- What is not finite, and what is cancelled ---------------------------------------------------------------------
 */

/* Logits' gradients whose products with the input overflow, in the last tile of classes alone: the head's weight stays,
 * as a whole and with its state; the layers before it are not asked for. */
static void test_whole_tensors(void) {
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(NULL, &ctx));
    const dqt_updater_options u = updater_options_of(DQT_OPTIMIZER_ADAMW, DQT_STATE_F32);
    const dqt_step_options o = step_of(0);
    for (int tied = 0; tied < 2; tied++)
        for (int loss_kind = 0; loss_kind < LOSS_KINDS; loss_kind++) {
            struct net *n = net_create(ctx, tied, false, &u);
            dqt_logits_gradient g = DQT_INIT(dqt_logits_gradient);
            forward(n, 0, (enum loss_kind)loss_kind);
            for (int i = 0; i < TOKENS; i++)
                n->dlogits[i * VOCAB + VOCAB - 1] = 3e37f;
            g.dlogits = loss_kind == OWN_WHOLE ? n->dlogits : NULL;
            g.callback = loss_kind == OWN_TILES ? huge_at_last : NULL;
            struct memory_file before = bytes_of(n);
            struct weights weights = weights_of(n);
            OK(ctx, dqt_tape_begin_update(n->tape, n->updater, &o));
            if (loss_kind == LOSS)
                OK(ctx, dqt_head_backward(n->layers[4], n->tape, 3e38f, NULL));
            else
                OK(ctx, dqt_head_backward_logits(n->layers[4], n->tape, &g, NULL));
            for (int i = 0; i < TOKENS * HIDDEN; i++)
                n->d[i] = 0.01f * (float)(i % 7 - 3);
            OK(ctx, dqt_layer_backward(n->layers[3], n->tape, n->d, n->d));
            if (tied) OK(ctx, dqt_embedding_backward(n->layers[0], n->tape, n->d));
            CHECK(dqt_tape_end_update(n->tape, NULL) == DQT_E_NUMERIC);
            CHECKF(strstr(dqt_last_error(ctx), tied ? "embedding" : "head"), "%s", dqt_last_error(ctx));
            const uint64_t bits = changed(n, &weights);
            CHECKF(bits == (uint64_t)1 << (weights.count - (tied ? 1 : 2)), "tied %d, loss %d: %llx of %zu", tied,
                   loss_kind, (unsigned long long)bits, weights.count);
            fused_step(n, 1, (enum loss_kind)loss_kind, NULL); /* the state is finite */
            free(before.bytes);
            net_destroy(n);
        }
    dqt_context_destroy(ctx);
}

static int32_t stop_at(void *user_data, size_t parameter) {
    return *(const size_t *)user_data == parameter;
}

/* A gradient callback that stops: that parameter and those before it are updated, the layer's others are not. */
static void test_cancelled(void) {
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(NULL, &ctx));
    const dqt_updater_options u = updater_options_of(DQT_OPTIMIZER_SGD, DQT_STATE_F32);
    const dqt_step_options o = step_of(0);
    struct net *n = net_create(ctx, false, false, &u);
    dqt_step_stats stats = DQT_INIT(dqt_step_stats);
    size_t count = 0;
    OK(ctx, dqt_tape_get_num_parameters(n->tape, &count));
    size_t linear = count - 3;
    struct weights before = weights_of(n);
    forward(n, 0, LOSS);
    OK(ctx, dqt_tape_on_gradient(n->tape, stop_at, &linear));
    OK(ctx, dqt_tape_begin_update(n->tape, n->updater, &o));
    OK(ctx, head_backward(n, LOSS));
    OK(ctx, dqt_layer_backward(n->layers[3], n->tape, n->d, n->d));
    CHECK(dqt_layer_backward(n->layers[2], n->tape, n->d, n->d) == DQT_E_CANCELLED);
    OK(ctx, dqt_tape_end_update(n->tape, &stats));
    CHECK(stats.step == 1 && stats.flipped > 0);
    CHECKF(changed(n, &before) == (uint64_t)7 << linear, "of %zu", count);
    OK(ctx, dqt_tape_on_gradient(n->tape, NULL, NULL));
    fused_step(n, 1, LOSS, NULL);
    net_destroy(n);
    dqt_context_destroy(ctx);
}

/* One for each layer's backward, whether it updates or not; one for a model's. */
static void test_passes(void) {
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(NULL, &ctx));
    const dqt_updater_options u = updater_options_of(DQT_OPTIMIZER_SGD, DQT_STATE_F32);
    struct net *n = net_create(ctx, true, true, &u);
    uint64_t passes = 1;
    OK(ctx, dqt_tape_get_pass(n->tape, &passes));
    CHECK(passes == 0);
    forward(n, 0, LOSS);
    backward(n, LOSS);
    fused_step(n, 1, LOSS, NULL);
    OK(ctx, dqt_tape_get_pass(n->tape, &passes));
    CHECKF(passes == 2 * NET_LAYERS, "%llu", (unsigned long long)passes);
    net_destroy(n);
    dqt_context_destroy(ctx);
    struct world *w = world_create(&settings[0]);
    const dqt_batch b = batch_of(w);
    float loss;
    free(gradients_of(w, &b, &loss).values);
    OK(w->ctx, dqt_tape_get_pass(w->tape, &passes));
    CHECK(passes == 1);
    world_destroy(w);
}

static const struct test tests[] = {
    TEST(test_any_list),      TEST(test_llama),     TEST(test_begin_and_end), TEST(test_tied_heads),
    TEST(test_whole_tensors), TEST(test_cancelled), TEST(test_passes),
};

TEST_MAIN(tests)
