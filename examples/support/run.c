#include "run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plot.h"

struct run_options run_defaults(void) {
    return (struct run_options){
        .hidden = 128,
        .intermediate = 352,
        .layers = 2,
        .heads = 4,
        .format = DQT_FORMAT_TERNARY,
        .scale_rule = DQT_SCALE_AUTO,
        .embedding_format = DQT_FORMAT_F32,
        .head_format = DQT_FORMAT_F32,
        .activation = DQT_ACTIVATION_DEFAULT,
        .head_activation = DQT_ACTIVATION_NONE,
        .sigma = 4.0f,
        .init_std = 0.02f,
        .optimizer = DQT_OPTIMIZER_ADAMW,
        .rounding = DQT_ROUND_DEFAULT,
        .clip = DQT_CLIP_GLOBAL_NORM,
        .lr = 1e-3f,
        .beta1 = 0.8f,
        .beta2 = 0.95f,
        .clip_norm = 1.0f,
        .linear_lr = 1.0f,
        .linear_beta1 = -1.0f,
        .noise = 1.0f,
        .scale_lr = 1.0f,
        .batch = 16,
        .length = 128,
        .steps = 500,
        .warmup = 100,
        .eval_every = 100,
        .eval_windows = 256,
        .accumulate = 1,
        .seed = 1,
    };
}

#define STATES "f32=0 bf16=1 int8=2"

size_t run_model_args(struct run_options *o, struct arg *table) {
    const struct arg all[] = {
        {"--hidden", ARG_SIZE, &o->hidden, "hidden size", NULL},
        {"--ff", ARG_SIZE, &o->intermediate, "intermediate size of the MLP", NULL},
        {"--layers", ARG_SIZE, &o->layers, "number of blocks", NULL},
        {"--heads", ARG_SIZE, &o->heads, "attention heads", NULL},
        {"--kv-heads", ARG_SIZE, &o->kv_heads, "key and value heads (0: as heads)", NULL},
        {"--vocab", ARG_SIZE, &o->vocab, "vocabulary (0: of a text 256, of tokens the largest and one)", NULL},
        {"--format", ARG_CHOICE, &o->format, "storage of linear weights", FORMAT_CHOICES},
        {"--compute", ARG_CHOICE, &o->compute, "what layers read", "same=0 " FORMAT_CHOICES},
        {"--scale", ARG_CHOICE, &o->scale_rule, "scale rule", "auto=0 sigma=1 absmax=2 absmean=3"},
        {"--sigma", ARG_FLOAT, &o->sigma, "factor of the sigma rule", NULL},
        {"--row-scales", ARG_FLAG, &o->row_scales, "one scale per row", NULL},
        {"--group", ARG_INT, &o->group, "columns per scale: 32, 64, 128 or 256 (0: a scale per tensor or row)", NULL},
        {"--train-scales", ARG_FLAG, &o->train_scales, "train the scales of rows or groups", NULL},
        {"--embedding", ARG_CHOICE, &o->embedding_format, "storage of the embedding", FORMAT_CHOICES},
        {"--head", ARG_CHOICE, &o->head_format, "storage of the head", FORMAT_CHOICES},
        {"--tied", ARG_FLAG, &o->tied, "the head uses the embedding's weight", NULL},
        {"--no-sub-norms", ARG_FLAG, &o->no_sub_norms, "plain LLaMA blocks", NULL},
        {"--mlp", ARG_CHOICE, &o->mlp, "MLP kind", "swiglu=0 squared-relu=1"},
        {"--activation", ARG_CHOICE, &o->activation, "activations of linear layers", "auto=0 none=1 int8=2"},
        {"--head-activation", ARG_CHOICE, &o->head_activation, "activations of the head", "none=1 int8=2"},
        {"--init-std", ARG_FLOAT, &o->init_std, "standard deviation of initial weights", NULL},
        {"--linear-init-std", ARG_FLOAT, &o->linear_init_std, "the same of linear weights (0: init-std)", NULL},
    };
    memcpy(table, all, sizeof all);
    return sizeof all / sizeof *all;
}

size_t run_training_args(struct run_options *o, struct arg *table) {
    const struct arg all[] = {
        {"--optimizer", ARG_CHOICE, &o->optimizer, "optimiser", "sgd=1 adamw=2 adafactor=3 muon=4"},
        {"--rounding", ARG_CHOICE, &o->rounding, "rounding of codes",
         "auto=0 sr=1 nearest=2 eco=3 eco-nearest=4 accumulate=5 acc=5"},
        {"--momentum-state", ARG_CHOICE, &o->momentum_state, "precision of the first moment", STATES},
        {"--variance-state", ARG_CHOICE, &o->variance_state, "precision of AdamW's second moment", STATES},
        {"--lr", ARG_FLOAT, &o->lr, "peak learning rate", NULL},
        {"--linear-lr", ARG_FLOAT, &o->linear_lr, "learning-rate factor of linear weights", NULL},
        {"--linear-beta1", ARG_FLOAT, &o->linear_beta1, "beta1 of linear weights (-1: beta1)", NULL},
        {"--noise", ARG_FRACTION, &o->noise, "rounding noise of linear weights, 0 to 1", NULL},
        {"--rate-corrected", ARG_FLAG, &o->rate_corrected,
         "what ECO puts back keeps its size when the learning rate changes", NULL},
        {"--scale-lr", ARG_FLOAT, &o->scale_lr, "learning-rate factor of trained scales", NULL},
        {"--final-lr", ARG_FRACTION, &o->final_lr, "last learning rate as a fraction of the peak", NULL},
        {"--cooldown", ARG_FRACTION, &o->cooldown,
         "fraction of all steps, the last ones, in which the rate falls, by a line (0: a cosine)", NULL},
        {"--beta1", ARG_FLOAT, &o->beta1, "first-moment decay (0: no first moment)", NULL},
        {"--beta2", ARG_FLOAT, &o->beta2, "second-moment decay", NULL},
        {"--decay", ARG_FLOAT, &o->weight_decay, "decoupled weight decay of linear weights", NULL},
        {"--clip", ARG_CHOICE, &o->clip, "gradient clipping", "global=1 previous=2 tensor=3 none=4"},
        {"--clip-norm", ARG_FLOAT, &o->clip_norm, "norm to clip to", NULL},
        {"--fused", ARG_FLAG, &o->fused, "update inside backward: no gradient buffers", NULL},
        {"--recompute", ARG_FLAG, &o->recompute, "save only block inputs", NULL},
        {"--precision", ARG_CHOICE, &o->precision, "of gradient and float products (auto: int8 gradients where faster)",
         "auto=0 f32=1 bf16=2 int8=3"},
        {"--gradients", ARG_CHOICE, &o->gradient_format, "format of gradient buffers", "f32=0 bf16=1 e4m3=2 e5m2=3"},
        {"--checkpoints", ARG_CHOICE, &o->checkpoint_format, "format of recomputation inputs",
         "f32=0 bf16=1 e4m3=2 e5m2=3"},
        {"--batch", ARG_SIZE, &o->batch, "sequences per micro-batch", NULL},
        {"--accumulate", ARG_SIZE, &o->accumulate, "micro-batches per step", NULL},
        {"--seq", ARG_SIZE, &o->length, "tokens per sequence", NULL},
        {"--steps", ARG_SIZE, &o->steps, "steps of the whole schedule", NULL},
        {"--warmup", ARG_SIZE, &o->warmup, "steps of linear warm-up", NULL},
        {"--eval-every", ARG_SIZE, &o->eval_every, "steps between evaluations (0: only before and after)", NULL},
        {"--eval-windows", ARG_SIZE, &o->eval_windows, "held-out sequences per evaluation", NULL},
        {"--save-every", ARG_SIZE, &o->save_every, "steps between checkpoints (0: only at the end)", NULL},
        {"--stop-at", ARG_SIZE, &o->stop_at, "stop after this step, as Ctrl-C does (0: at the end)", NULL},
        {"--until", ARG_FLOAT, &o->until, "stop once an evaluation's held-out loss is at most this (0: at the end)",
         NULL},
        {"--seed", ARG_INT, &o->seed, "of weights, data order and rounding", NULL},
    };
    memcpy(table, all, sizeof all);
    return sizeof all / sizeof *all;
}

static dqt_status fill_config(const struct run_options *o, dqt_llama_config *c) {
    dqt_status status = dqt_llama_config_init(c, sizeof *c);
    c->vocab_size = o->vocab;
    c->hidden_size = o->hidden;
    c->intermediate_size = o->intermediate;
    c->num_layers = o->layers;
    c->num_heads = o->heads;
    c->num_kv_heads = o->kv_heads;
    c->mlp = o->mlp;
    c->no_sub_norms = o->no_sub_norms;
    c->tie_embeddings = o->tied;
    c->init_std = o->init_std;
    c->linear_init_std = o->linear_init_std;
    c->seed = (uint64_t)o->seed;
    c->linear.storage = o->format;
    c->linear.compute = o->compute;
    c->linear.scale_rule = o->scale_rule;
    c->linear.sigma = o->sigma;
    c->linear.scale_axis = o->group                           ? DQT_AXIS_GROUP
                           : o->row_scales || o->train_scales ? DQT_AXIS_ROW
                                                              : DQT_AXIS_TENSOR;
    c->linear.group_size = o->group;
    c->linear.train_scale = o->train_scales;
    c->embedding.storage = o->embedding_format;
    c->head.storage = o->head_format;
    if (o->tied) c->head = c->embedding;
    /* Plain LLaMA: float weights that are read as floats get float activations. */
    const int computed = o->compute ? o->compute : o->format;
    const int plain = computed == DQT_FORMAT_F32 || computed == DQT_FORMAT_BF16;
    c->head_activation = o->head_activation;
    c->activation = o->activation ? o->activation : plain ? DQT_ACTIVATION_NONE : DQT_ACTIVATION_INT8;
    return status;
}

/* *u holds on to the groups. */
static dqt_status fill_updater(const struct run_options *o, dqt_updater_options *u, dqt_group_options groups[2]) {
    dqt_status status = dqt_updater_options_init(u, sizeof *u);
    u->optimizer = o->optimizer;
    /* an accumulator is for the blocks' weights, in the groups below; codes of embedding and head keep a first moment
     */
    u->rounding = o->rounding == DQT_ROUND_ACCUMULATE ? DQT_ROUND_DEFAULT : o->rounding;
    u->momentum_state = o->momentum_state;
    u->variance_state = o->variance_state;
    u->beta1 = o->beta1 > 0 ? o->beta1 : -1; /* here 0 says: no first moment */
    u->beta2 = o->beta2;
    u->clip = o->fused && o->clip == DQT_CLIP_GLOBAL_NORM ? DQT_CLIP_PREVIOUS_NORM : o->clip;
    u->clip_norm = o->clip_norm;
    u->lagged = o->fused;
    u->rate_corrected = o->rate_corrected;
    u->scale_lr = o->scale_lr > 0 ? o->scale_lr : -1;
    u->seed = (uint64_t)o->seed;
    if (ranks_count() > 1) {
        u->part = ranks_own();
        u->num_parts = ranks_count();
    }
    const int32_t classes[] = {DQT_CLASS_ATTENTION, DQT_CLASS_MLP};
    for (int i = 0; i < 2 && status == DQT_OK; i++) {
        dqt_group_options *g = &groups[i];
        status = dqt_group_options_init(g, sizeof *g);
        g->parameter_class = classes[i];
        g->lr_factor = o->linear_lr;
        g->freeze = o->linear_lr > 0 ? 0 : 1;
        g->weight_decay = o->weight_decay;
        g->beta1 = o->linear_beta1 > 0 ? o->linear_beta1 : 0;
        g->rounding_noise = o->noise;
        g->rounding = o->rounding;
    }
    u->groups = groups;
    u->num_groups = 2;
    return status;
}

static dqt_status create_updater(struct run *r, dqt_layer *const *layers, size_t num_layers) {
    dqt_updater_options u;
    dqt_group_options groups[2];
    const dqt_status status = fill_updater(&r->options, &u, groups);
    return status == DQT_OK ? dqt_updater_create(r->ctx, layers, num_layers, &u, &r->updater) : status;
}

static dqt_status create_tape(struct run *r, dqt_layer *const *layers, size_t num_layers) {
    const struct run_options *o = &r->options;
    dqt_tape_options t;
    dqt_status status = dqt_tape_options_init(&t, sizeof t);
    t.max_batch = ranks_share(o->batch).count;
    t.max_length = o->length;
    t.precision = o->precision;
    t.no_gradient_buffers = !o->fused ? 0 : ranks_count() == 1 ? 1 : 2; /* 2: one, to exchange what is in it */
    t.recompute = o->recompute;
    t.inference = o->inference;
    t.gradient_format = o->gradient_format;
    t.checkpoint_format = o->checkpoint_format;
    t.seed = (uint64_t)o->seed + 0x9E3779B97F4A7C15u * ranks_own(); /* ranks round independently of each other */
    return status == DQT_OK ? dqt_tape_create(r->ctx, layers, num_layers, &t, &r->tape) : status;
}

/* What the host keeps in a checkpoint of its own. */
struct host_state {
    uint64_t step, pass; /* of the tape: rounding of low-precision gradients and recomputation inputs depends on it */
};

static dqt_status load(struct run *r, const char *path) {
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    const dqt_load_options l = {.struct_size = sizeof l, .part = ranks_own(), .num_parts = ranks_count()};
    dqt_status status = dqt_llama_load(r->ctx, path, &l, &c);
    if (status != DQT_OK) return status;
    r->model = c.model;
    r->updater = c.updater;
    struct host_state state = {0};
    if (c.host_size == sizeof state) memcpy(&state, c.host, c.host_size);
    dqt_host_bytes_free(r->ctx, c.host, c.host_size);
    r->step = (size_t)state.step;
    r->pass = state.pass;
    return DQT_OK;
}

/* Model and updater are there, or made as the options say. */
static dqt_status open_rest(struct run *r) {
    const struct run_options *o = &r->options;
    dqt_llama_config c;
    dqt_layer *const *layers;
    size_t num_layers;
    dqt_status status =
        windows_create(&r->windows, r->data, ranks_share(o->batch).count, o->length) ? DQT_OK : DQT_E_MEMORY;
    if (status == DQT_OK && !r->model) {
        status = fill_config(o, &c);
        if (status == DQT_OK) status = dqt_llama_create(r->ctx, &c, &r->model);
    }
    if (status == DQT_OK) status = dqt_llama_get_layers(r->model, &layers, &num_layers);
    if (status == DQT_OK && !r->updater && !o->inference) status = create_updater(r, layers, num_layers);
    if (status == DQT_OK) status = create_tape(r, layers, num_layers);
    if (status == DQT_OK) status = dqt_tape_set_pass(r->tape, r->pass);
    return status == DQT_OK && !o->inference ? ranks_open(r) : status;
}

struct unit run_unit(const struct tokens *data) {
    const struct unit bits = {"bits per byte", "bits_per_byte", log(2)}, nats = {"loss per token", "loss_per_token", 1};
    return data->train.width == 1 ? bits : nats;
}

static void begin(struct run *r, dqt_context *ctx, const struct tokens *data, const struct run_options *o) {
    *r = (struct run){.ctx = ctx, .data = data, .unit = run_unit(data), .options = *o, .train_loss = NAN};
    const size_t most = windows_most(data, o->length);
    if (o->eval_windows > most) r->options.eval_windows = most;
}

dqt_status run_open(struct run *r, dqt_context *ctx, const struct tokens *data, const struct run_options *o,
                    const char *path) {
    begin(r, ctx, data, o);
    dqt_status status = path ? load(r, path) : DQT_OK;
    if (status == DQT_OK) status = open_rest(r);
    if (status != DQT_OK) run_close(r);
    return status;
}

dqt_status run_open_model(struct run *r, dqt_context *ctx, const struct tokens *data, const struct run_options *o,
                          dqt_llama *model) {
    begin(r, ctx, data, o);
    r->model = model;
    const dqt_status status = open_rest(r);
    if (status != DQT_OK) run_close(r);
    return status;
}

void run_close(struct run *r) {
    ranks_close(r);
    dqt_tape_destroy(r->tape);
    dqt_updater_destroy(r->updater);
    dqt_llama_destroy(r->model);
    windows_free(&r->windows);
    *r = (struct run){0};
}

/* The first `sequences` of the windows. */
static dqt_batch batch_of(const struct run *r, size_t sequences) {
    dqt_batch b = DQT_INIT(dqt_batch);
    b.batch = sequences;
    b.length = r->options.length;
    b.tokens = r->windows.tokens;
    b.targets = r->windows.targets;
    b.segments = r->windows.segments;
    return b;
}

static float learning_rate(const struct run *r) {
    const struct run_options *o = &r->options;
    return o->cooldown > 0 ? dqt_schedule_wsd(r->step, o->warmup, o->steps, o->lr, o->final_lr, o->cooldown)
                           : dqt_schedule_cosine(r->step, o->warmup, o->steps, o->lr, o->final_lr);
}

dqt_status run_step(struct run *r) {
    const struct run_options *o = &r->options;
    dqt_step_options step = DQT_INIT(dqt_step_options);
    step.learning_rate = learning_rate(r);
    const struct share own = ranks_share(o->batch);
    const float weight = (float)own.count / (float)o->batch; /* of this rank's sequences in a micro-batch's mean */
    const dqt_batch batch = batch_of(r, own.count);
    const size_t parts = o->fused ? 1 : o->accumulate;
    double total = 0;
    dqt_status status = o->fused ? DQT_OK : dqt_tape_zero_gradients(r->tape);
    for (size_t i = 0; i < parts && status == DQT_OK; i++) {
        float loss;
        windows_draw(&r->windows, r->data, (uint64_t)o->seed, r->step * parts + i, own.first, own.count);
        status = dqt_llama_loss(r->model, r->tape, &batch, &loss, NULL);
        if (i + 1 == parts) ranks_last_pass(r);
        if (status == DQT_OK && !o->fused) status = dqt_llama_backward(r->model, r->tape, weight / (float)parts);
        total += loss * weight;
    }
    r->stats.struct_size = sizeof r->stats;
    if (status == DQT_OK)
        status = o->fused ? ranks_backward_update(r, weight, &step, &r->stats) : ranks_step(r, &step, &r->stats);
    if (status == DQT_OK) {
        r->step++;
        r->train_loss = ranks_sum(total) / (double)parts / r->unit.nats;
    }
    return status;
}

dqt_status run_evaluate(struct run *r, double *loss) {
    const struct run_options *o = &r->options;
    const struct share own = ranks_share(o->eval_windows);
    const size_t most = ranks_share(o->batch).count;
    double total = 0;
    for (size_t done = 0; done < own.count && !(r->interrupted && *r->interrupted);) {
        const size_t n = own.count - done < most ? own.count - done : most;
        for (size_t b = 0; b < n; b++)
            windows_held_out(&r->windows, r->data, b, own.first + done + b, o->eval_windows);
        float mean;
        const dqt_batch batch = batch_of(r, n);
        dqt_status status = dqt_llama_loss(r->model, r->tape, &batch, &mean, NULL);
        if (status != DQT_OK) return status;
        total += mean * (double)n;
        done += n;
    }
    *loss = ranks_sum(total) / (double)o->eval_windows / r->unit.nats;
    return DQT_OK;
}

dqt_status run_save(struct run *r, const char *path) {
    struct host_state state = {r->step, 0};
    dqt_status status = dqt_tape_get_pass(r->tape, &state.pass);
    if (status != DQT_OK) return status;
    const dqt_save_options s = {.struct_size = sizeof s, .host = &state, .host_size = sizeof state, .tape = r->tape};
    return ranks_save(r, path, &s);
}

dqt_status run_state_bytes(struct run *r, double *bytes) {
    dqt_layer *const *layers;
    size_t num_layers;
    dqt_updater_options u;
    dqt_group_options groups[2];
    dqt_status status = fill_updater(&r->options, &u, groups);
    if (status == DQT_OK) status = dqt_llama_get_layers(r->model, &layers, &num_layers);
    if (status != DQT_OK) return status;
    dqt_updater_memory_info m = {.struct_size = sizeof m};
    status = dqt_updater_memory(r->ctx, layers + 1, num_layers - 3, &u, &m);
    if (status != DQT_OK) return status;
    double codes = 0, weights = 0;
    for (size_t i = 1; i + 2 < num_layers; i++) {
        dqt_layer_info layer = {.struct_size = sizeof layer};
        dqt_layer_get_info(layers[i], &layer);
        for (size_t k = 0; k < layer.num_parameters; k++) {
            dqt_parameter p = {.struct_size = sizeof p};
            dqt_tensor_info t = {.struct_size = sizeof t};
            dqt_layer_get_parameter(layers[i], k, &p);
            dqt_tensor_get_info(p.tensor, &t);
            if (t.rows == 1) continue;                                            /* gains */
            const bool halves = t.scale_axis == DQT_AXIS_GROUP && !t.train_scale; /* fp16 */
            codes += (double)(t.data_bytes + t.num_scales * (halves ? 2 : sizeof(float)));
            weights += (double)t.rows * (double)t.cols;
        }
    }
    *bytes = (codes + (double)(m.momentum + m.variance + m.scales)) / weights;
    return DQT_OK;
}

bool run_plot(const char *path, const char *title, struct unit unit, const struct run_point *points, size_t count) {
    double *v = malloc((count ? count : 1) * 4 * sizeof *v);
    if (!v) return false;
    double *x = v, *train = v + count, *valid_x = v + 2 * count, *valid = v + 3 * count;
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        x[i] = points[i].step;
        train[i] = points[i].train_loss;
        if (!isfinite(points[i].valid_loss)) continue;
        valid_x[n] = points[i].step;
        valid[n++] = points[i].valid_loss;
    }
    const struct series series[] = {{"training batch", x, train, count, false}, {"held out", valid_x, valid, n, false}};
    const struct chart chart = {title, "step", unit.name, false, 0};
    const bool good = plot_svg(path, &chart, series, 2);
    free(v);
    return good;
}
