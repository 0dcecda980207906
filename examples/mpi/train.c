/* Data-parallel training over MPI: every rank has the whole model in packed integers and a share of each step's
 * micro-batches.
 *
 * Introduces: dqt_tape_on_gradient (reductions that run while backward goes on), an updater of one part (each rank
 * updates its rows and has their optimiser state alone; sums of tiles are exchanged), packed codes on the wire. Weights
 * are never broadcast: the rounding is a function of (seed, step, tensor, element), so replicas with equal gradients
 * stay equal bit for bit. See README.md.
 *
 *   plain            gradients are all-reduced, every rank updates everything
 *   --sharded        gradients are all-reduced, each rank updates its rows, packed rows are all-gathered
 *   --scatter        gradients are reduce-scattered; else as --sharded. Nobody has the whole gradient
 *   --deterministic  gradients are gathered per micro-batch and added in their order: the same bits for any number of
 * ranks */
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "args.h"
#include "dqt.h"
#include "tokens.h"

enum { PATH_BYTES = 512 };

struct options {
    const char *data, *out;
    size_t hidden, intermediate, layers, heads, batch, length, micro_batches, steps, stop_at, warmup;
    int optimizer, state, train_scales, sharded, scatter, deterministic, resume, threads, seed;
    float lr, clip;
};

/* One parameter on the wire. */
struct slot {
    dqt_tensor *tensor;
    float *gradient; /* in the tape, [rows][cols] */
    float *gathered; /* deterministic: [local micro-batch][rank][rows][cols]; scatter: this rank's sum */
    float *scales;   /* trained: [rows], to gather; else NULL */
    unsigned char *packed;
    size_t rows, cols, row_bytes, first, own;  /* this rank's rows */
    int *elements;                             /* scatter, per rank: numbers of its rows */
    int *bytes, *byte_at, *row_count, *row_at; /* sharded, per rank */
};

struct trainer {
    struct options o;
    int rank, ranks;
    size_t local; /* micro-batches of this rank */
    struct tokens text;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    struct slot *slots;
    size_t count, pending;
    MPI_Request *requests;
    size_t micro_batch; /* the local one that is in backward */
    int32_t *tokens, *targets;
    float *losses;                                                           /* of all micro-batches */
    double gradient_bytes, weight_bytes, all_reduce_bytes, f32_weight_bytes; /* per step, received by this rank */
    double sum_bytes;                                                        /* the same, of the latest step */
    int *sum_count, *sum_at;                                                 /* sharded, per rank */
};

static void stop(const char *sentence) {
    fprintf(stderr, "%s\n", sentence);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static void ok(const struct trainer *t, dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "rank %d: %s: %s\n", t->rank, dqt_status_string(status), dqt_last_error(t->ctx));
    stop("stopped");
}

static void *allocate(size_t count, size_t size) {
    void *ptr = calloc(count ? count : 1, size);
    if (!ptr) stop("no memory");
    return ptr;
}

/* MPI counts in ints. */
static int count_of(size_t n) {
    if (n > INT_MAX) stop("a tensor is too large for one MPI message");
    return (int)n;
}

/* ---- Gradients ----------------------------------------------------------------------------------------------- */

/* Called inside backward: the reduction of this parameter goes on while earlier layers are still being differentiated.
 */
static int32_t gradient_ready(void *user_data, size_t index) {
    struct trainer *t = user_data;
    const struct slot *s = &t->slots[index];
    const size_t size = s->rows * s->cols;
    const int n = count_of(size);
    int done;
    if (t->o.deterministic) {
        float *all = s->gathered + t->micro_batch * (size_t)t->ranks * size;
        memcpy(all + (size_t)t->rank * size, s->gradient, size * sizeof *all);
        MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, all, n, MPI_FLOAT, MPI_COMM_WORLD,
                       &t->requests[t->pending++]);
    } else if (t->micro_batch + 1 < t->local) {
        return 0; /* more is to be added */
    } else if (t->o.scatter) {
        MPI_Ireduce_scatter(s->gradient, s->gathered, s->elements, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD,
                            &t->requests[t->pending++]);
    } else {
        MPI_Iallreduce(MPI_IN_PLACE, s->gradient, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &t->requests[t->pending++]);
    }
    MPI_Testall((int)t->pending, t->requests, &done, MPI_STATUSES_IGNORE); /* lets MPI work on what is under way */
    return 0;
}

static void wait_all(struct trainer *t) {
    MPI_Waitall((int)t->pending, t->requests, MPI_STATUSES_IGNORE);
    t->pending = 0;
}

/* The sum of all micro-batches in their order, whoever had them: rank r has r * local .. r * local + local - 1. */
static void add_in_order(const struct trainer *t, const struct slot *s) {
    const size_t size = s->rows * s->cols, ranks = (size_t)t->ranks;
    for (size_t m = 0; m < t->o.micro_batches; m++) {
        const float *one = s->gathered + ((m % t->local) * ranks + m / t->local) * size;
        if (m == 0) memcpy(s->gradient, one, size * sizeof *one);
        for (size_t k = 0; k < size && m > 0; k++)
            s->gradient[k] += one[k];
    }
}

/* Forward and backward of this rank's micro-batches; then the tape has the reduced gradient (scatter: of its own rows).
 */
static double make_gradients(struct trainer *t, size_t step) {
    const struct options *o = &t->o;
    dqt_batch batch = DQT_INIT(dqt_batch);
    batch.batch = o->batch;
    batch.length = o->length;
    batch.tokens = t->tokens;
    batch.targets = t->targets;
    struct windows windows = {t->tokens, t->targets, NULL, o->length};
    ok(t, dqt_tape_zero_gradients(t->tape));
    for (size_t m = 0; m < t->local; m++) {
        const size_t number = (size_t)t->rank * t->local + m;
        if (o->deterministic && m > 0) ok(t, dqt_tape_zero_gradients(t->tape));
        t->micro_batch = m;
        windows_draw(&windows, &t->text, (uint64_t)o->seed, step * o->micro_batches + number, o->batch);
        ok(t, dqt_llama_loss(t->model, t->tape, &batch, &t->losses[number], NULL));
        ok(t, dqt_llama_backward(t->model, t->tape, 1.0f / (float)o->micro_batches));
    }
    MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, t->losses, count_of(t->local), MPI_FLOAT, MPI_COMM_WORLD,
                   &t->requests[t->pending++]);
    wait_all(t);
    for (size_t i = 0; i < t->count; i++) {
        const struct slot *s = &t->slots[i];
        if (o->deterministic) add_in_order(t, s);
        if (o->scatter) memcpy(s->gradient + s->first * s->cols, s->gathered, s->own * s->cols * sizeof(float));
    }
    double sum = 0;
    for (size_t m = 0; m < o->micro_batches; m++)
        sum += (double)t->losses[m];
    return sum / (double)o->micro_batches;
}

/* ---- Weights ------------------------------------------------------------------------------------------------- */

/* Packed rows from the ranks that updated them, straight into the tensors. */
static void gather_weights(struct trainer *t) {
    for (size_t i = 0; i < t->count; i++) {
        const struct slot *s = &t->slots[i];
        MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, s->packed, s->bytes, s->byte_at, MPI_BYTE, MPI_COMM_WORLD,
                        &t->requests[t->pending++]);
        if (!s->scales) continue;
        ok(t, dqt_tensor_get_scales(s->tensor, s->scales));
        MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, s->scales, s->row_count, s->row_at, MPI_FLOAT,
                        MPI_COMM_WORLD, &t->requests[t->pending++]);
    }
    wait_all(t);
    for (size_t i = 0; i < t->count; i++) {
        const struct slot *s = &t->slots[i];
        if (s->scales) ok(t, dqt_tensor_set_scales(s->tensor, s->scales));
        ok(t, dqt_tensor_touch(s->tensor));
    }
}

/* Each rank has made sums of its own tiles; everybody needs all of them. */
static void gather_sums(struct trainer *t, const dqt_step_sums *sums) {
    const size_t own = (size_t)t->rank, ranks = (size_t)t->ranks;
    for (size_t r = 0; r < ranks; r++) {
        t->sum_count[r] = count_of(sums->offsets[r + 1] - sums->offsets[r]);
        t->sum_at[r] = count_of(sums->offsets[r]);
    }
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, sums->data, t->sum_count, t->sum_at, MPI_BYTE, MPI_COMM_WORLD);
    t->sum_bytes += (double)(sums->offsets[ranks] - (sums->offsets[own + 1] - sums->offsets[own]));
}

/* This rank's rows, from their gradients. */
static void update_part(struct trainer *t, const dqt_step_options *options) {
    dqt_step_sums sums = DQT_INIT(dqt_step_sums);
    t->sum_bytes = 0;
    ok(t, dqt_updater_begin_step(t->updater, t->tape, options, &sums));
    while (sums.data) {
        gather_sums(t, &sums);
        ok(t, dqt_updater_continue_step(t->updater, t->tape, &sums, NULL));
    }
}

static double step_once(struct trainer *t, size_t step) {
    const struct options *o = &t->o;
    dqt_step_options options = DQT_INIT(dqt_step_options);
    options.learning_rate = dqt_schedule_cosine(step, o->warmup, o->steps, o->lr, 0.1f);
    const double loss = make_gradients(t, step);
    if (o->sharded) {
        update_part(t, &options);
        gather_weights(t);
    } else {
        ok(t, dqt_updater_step(t->updater, t->tape, &options, NULL));
    }
    return loss;
}

/* ---- Setting up ---------------------------------------------------------------------------------------------- */

static void open_slot(struct trainer *t, size_t index) {
    struct slot *s = &t->slots[index];
    const size_t ranks = (size_t)t->ranks;
    dqt_parameter p = {.struct_size = sizeof p};
    dqt_tensor_info info = {.struct_size = sizeof info};
    void *data;
    size_t bytes, received = 0;
    ok(t, dqt_tape_get_parameter(t->tape, index, &p));
    ok(t, dqt_tensor_get_info(p.tensor, &info));
    ok(t, dqt_tensor_data(p.tensor, &data, &bytes));
    ok(t, dqt_tape_gradient_data(t->tape, index, &s->gradient));
    s->tensor = p.tensor;
    s->packed = data;
    s->rows = p.rows;
    s->cols = p.cols;
    s->row_bytes = info.row_bytes;
    s->elements = allocate(5 * ranks, sizeof(int));
    s->bytes = s->elements + ranks;
    s->byte_at = s->bytes + ranks;
    s->row_count = s->byte_at + ranks;
    s->row_at = s->row_count + ranks;
    for (size_t r = 0; r < ranks; r++) {
        size_t row, count;
        ok(t, dqt_updater_get_part(t->updater, index, r, ranks, &row, &count));
        s->elements[r] = count_of(count * s->cols);
        s->bytes[r] = count_of(count * s->row_bytes);
        s->byte_at[r] = count_of(row * s->row_bytes);
        s->row_count[r] = count_of(count);
        s->row_at[r] = count_of(row);
        if (r != (size_t)t->rank) {
            received += count;
            continue;
        }
        s->first = row;
        s->own = count;
    }
    const size_t size = s->rows * s->cols;
    if (t->o.deterministic) s->gathered = allocate(t->o.micro_batches * size, sizeof(float));
    if (t->o.scatter) s->gathered = allocate(s->own * s->cols, sizeof(float));
    if (t->o.sharded && info.train_scale) s->scales = allocate(s->rows, sizeof(float));

    /* as the usual ring algorithms do it, by the bytes that a rank receives */
    const double others = (double)(t->ranks - 1), share = others / (double)t->ranks, f32 = 4.0 * (double)size;
    t->gradient_bytes += t->o.deterministic ? others * (double)t->local * f32
                         : t->o.scatter     ? share * f32
                                            : 2 * share * f32;
    t->all_reduce_bytes += 2 * share * f32; /* as many as a reduce-scatter and an all-gather of f32 weights */
    if (!t->o.sharded) return;
    t->weight_bytes += (double)(received * (s->row_bytes + (s->scales ? sizeof(float) : 0)));
    t->f32_weight_bytes += (double)(received * s->cols * sizeof(float));
}

static void create_model(struct trainer *t) {
    const struct options *o = &t->o;
    dqt_llama_config c;
    ok(t, dqt_llama_config_init(&c, sizeof c));
    c.hidden_size = o->hidden;
    c.intermediate_size = o->intermediate;
    c.num_layers = o->layers;
    c.num_heads = o->heads;
    c.seed = (uint64_t)o->seed;
    c.linear.scale_axis = o->train_scales ? DQT_AXIS_ROW : DQT_AXIS_TENSOR;
    c.linear.train_scale = o->train_scales;
    ok(t, dqt_llama_create(t->ctx, &c, &t->model));
    dqt_layer *const *layers;
    size_t num_layers;
    ok(t, dqt_llama_get_layers(t->model, &layers, &num_layers));
    dqt_updater_options u;
    ok(t, dqt_updater_options_init(&u, sizeof u));
    u.optimizer = o->optimizer;
    u.momentum_state = u.variance_state = o->state;
    u.clip = o->clip > 0 ? DQT_CLIP_GLOBAL_NORM : DQT_CLIP_NONE;
    u.clip_norm = o->clip > 0 ? o->clip : 1.0f;
    u.seed = (uint64_t)o->seed;
    if (o->sharded) {
        u.part = (uint64_t)t->rank;
        u.num_parts = (uint64_t)t->ranks;
    }
    ok(t, dqt_updater_create(t->ctx, layers, num_layers, &u, &t->updater));
}

/* State files hold what one rank has: with --sharded each rank its own, else rank 0 for all. */
static void state_path(const struct trainer *t, char path[PATH_BYTES]) {
    const int n = t->o.sharded ? snprintf(path, PATH_BYTES, "%s/state-%d-of-%d.dqt", t->o.out, t->rank, t->ranks)
                               : snprintf(path, PATH_BYTES, "%s/state.dqt", t->o.out);
    if (n >= PATH_BYTES) stop("the folder's name is too long");
}

static void open_trainer(struct trainer *t) {
    const struct options *o = &t->o;
    dqt_context_options c;
    ok(t, dqt_context_options_init(&c, sizeof c));
    c.num_threads = o->threads;
    ok(t, dqt_context_create(&c, &t->ctx));
    if (o->resume) {
        char path[PATH_BYTES];
        state_path(t, path);
        dqt_checkpoint saved = DQT_INIT(dqt_checkpoint);
        ok(t, dqt_llama_load(t->ctx, path, NULL, &saved));
        if (!saved.updater) stop("the state file has no optimiser state");
        t->model = saved.model;
        t->updater = saved.updater;
    } else {
        create_model(t);
    }
    dqt_layer *const *layers;
    size_t num_layers;
    ok(t, dqt_llama_get_layers(t->model, &layers, &num_layers));
    dqt_tape_options tape;
    ok(t, dqt_tape_options_init(&tape, sizeof tape));
    tape.max_batch = o->batch;
    tape.max_length = o->length;
    ok(t, dqt_tape_create(t->ctx, layers, num_layers, &tape, &t->tape));
    ok(t, dqt_tape_on_gradient(t->tape, gradient_ready, t));
    ok(t, dqt_tape_get_num_parameters(t->tape, &t->count));
    t->local = o->micro_batches / (size_t)t->ranks;
    t->slots = allocate(t->count, sizeof *t->slots);
    t->requests = allocate(t->count * (t->local + 2) + 1, sizeof(MPI_Request));
    t->tokens = allocate(o->batch * o->length, sizeof(int32_t));
    t->targets = allocate(o->batch * o->length, sizeof(int32_t));
    t->losses = allocate(o->micro_batches, sizeof(float));
    t->sum_count = allocate(2 * (size_t)t->ranks, sizeof(int));
    t->sum_at = t->sum_count + t->ranks;
    for (size_t i = 0; i < t->count; i++)
        open_slot(t, i);
}

static void close_trainer(struct trainer *t) {
    for (size_t i = 0; i < t->count; i++) {
        free(t->slots[i].elements);
        free(t->slots[i].gathered);
        free(t->slots[i].scales);
    }
    free(t->slots);
    free(t->requests);
    free(t->tokens);
    free(t->targets);
    free(t->losses);
    free(t->sum_count);
    dqt_updater_destroy(t->updater);
    dqt_tape_destroy(t->tape);
    dqt_llama_destroy(t->model);
    dqt_context_destroy(t->ctx);
    tokens_close(&t->text);
}

/* ---- The run ------------------------------------------------------------------------------------------------- */

/* All replicas have the same bytes: FNV-1a of codes and scales, smallest and largest over the ranks. */
static void check_replicas(const struct trainer *t) {
    uint64_t h = 0xcbf29ce484222325u, pair[2];
    for (size_t i = 0; i < t->count; i++) {
        const struct slot *s = &t->slots[i];
        dqt_tensor_info info = {.struct_size = sizeof info};
        ok(t, dqt_tensor_get_info(s->tensor, &info));
        float *scales = allocate(info.num_scales, sizeof(float));
        if (info.num_scales) ok(t, dqt_tensor_get_scales(s->tensor, scales));
        for (size_t k = 0; k < s->rows * s->row_bytes; k++)
            h = (h ^ s->packed[k]) * 0x100000001B3u;
        for (size_t k = 0; k < info.num_scales * sizeof(float); k++)
            h = (h ^ ((const unsigned char *)scales)[k]) * 0x100000001B3u;
        free(scales);
    }
    pair[0] = h;
    pair[1] = ~h;
    MPI_Allreduce(MPI_IN_PLACE, pair, 2, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
    if (pair[0] != ~pair[1]) stop("the replicas have come apart");
    if (t->rank == 0) printf("all replicas are equal: %016llx\n", (unsigned long long)h);
}

static void report(const struct trainer *t) {
    dqt_updater_memory_info memory = {.struct_size = sizeof memory};
    dqt_updater_options u = {.struct_size = sizeof u};
    dqt_layer *const *layers;
    size_t num_layers, weights = 0, own = 0;
    ok(t, dqt_llama_get_layers(t->model, &layers, &num_layers));
    ok(t, dqt_updater_get_options(t->updater, &u));
    ok(t, dqt_updater_memory(t->ctx, layers, num_layers, &u, &memory));
    for (size_t i = 0; i < t->count; i++) {
        weights += t->slots[i].rows * t->slots[i].cols;
        own += t->slots[i].own * t->slots[i].cols;
    }
    if (t->rank != 0) return;
    const double ours = t->gradient_bytes + t->weight_bytes;
    printf("%d ranks, %zu weights, %zu micro-batches; rank 0 updates %zu weights, with an updater of %zu bytes\n",
           t->ranks, weights, t->o.micro_batches, t->o.sharded ? own : weights, memory.total);
    printf("on the wire per step and rank: gradients %.0f bytes, weights %.0f", t->gradient_bytes, t->weight_bytes);
    if (t->weight_bytes > 0) printf(" (%.1f times fewer than in f32)", t->f32_weight_bytes / t->weight_bytes);
    printf("; an f32 all-reduce: %.0f bytes", t->all_reduce_bytes);
    if (t->ranks > 1) printf(", this run has %.1f %% of that", 100 * ours / t->all_reduce_bytes);
    printf("\n");
}

static void train(struct trainer *t) {
    const struct options *o = &t->o;
    const size_t end = o->stop_at && o->stop_at < o->steps ? o->stop_at : o->steps;
    uint64_t step;
    ok(t, dqt_updater_get_step(t->updater, &step));
    report(t);
    const double started = MPI_Wtime();
    for (; step < end; step++) {
        const double loss = step_once(t, (size_t)step);
        if (t->rank == 0 && (step % 10 == 0 || step + 1 == end))
            printf("step %3llu  loss %.6f\n", (unsigned long long)step, loss);
    }
    if (t->rank == 0)
        printf("%.2f seconds; sums of tiles: %.0f bytes in a step\n", MPI_Wtime() - started, t->sum_bytes);
    check_replicas(t);
}

static void save(struct trainer *t) {
    char path[PATH_BYTES];
    if (mkdir(t->o.out, 0777) != 0 && errno != EEXIST) stop("the output folder cannot be made");
    MPI_Barrier(MPI_COMM_WORLD);
    state_path(t, path);
    if (t->o.sharded || t->rank == 0) ok(t, dqt_llama_save(t->model, t->updater, path, NULL));
    if (t->rank != 0) return;
    if (snprintf(path, sizeof path, "%s/model.dqt", t->o.out) >= PATH_BYTES) stop("the folder's name is too long");
    ok(t, dqt_llama_save(t->model, NULL, path, NULL));
    printf("written: %s (weights), and the state to resume from\n", path);
}

static const char *mistake(const struct options *o, int ranks) {
    if (!o->data || !o->batch || !o->length || !o->steps || !o->micro_batches)
        return "--data is needed; --batch, --seq, --steps and --micro-batches are at least 1";
    if (o->micro_batches % (size_t)ranks != 0) return "--micro-batches must be a multiple of the number of ranks";
    if (o->scatter && o->deterministic) return "--scatter has no --deterministic";
    return NULL;
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    struct trainer t = {.o = {.out = "mpi-run",
                              .hidden = 128,
                              .intermediate = 352,
                              .layers = 2,
                              .heads = 4,
                              .batch = 4,
                              .length = 64,
                              .micro_batches = 4,
                              .steps = 100,
                              .warmup = 10,
                              .optimizer = DQT_OPTIMIZER_ADAMW,
                              .threads = 1,
                              .seed = 1,
                              .lr = 3e-3f,
                              .clip = 1.0f}};
    struct options *o = &t.o;
    const struct arg table[] = {
        {"--data", ARG_TEXT, &o->data, "text to train on (any file; its bytes are the tokens)", NULL},
        {"--out", ARG_TEXT, &o->out, "folder for the checkpoints", NULL},
        {"--sharded", ARG_FLAG, &o->sharded, "each rank updates its rows; packed rows are gathered", NULL},
        {"--scatter", ARG_FLAG, &o->scatter, "sharded, and gradients are reduced to their rows only", NULL},
        {"--deterministic", ARG_FLAG, &o->deterministic, "the same bits for any number of ranks", NULL},
        {"--resume", ARG_FLAG, &o->resume, "go on from the folder's state, with the same options", NULL},
        {"--hidden", ARG_SIZE, &o->hidden, "hidden size", NULL},
        {"--ff", ARG_SIZE, &o->intermediate, "intermediate size", NULL},
        {"--layers", ARG_SIZE, &o->layers, "blocks", NULL},
        {"--heads", ARG_SIZE, &o->heads, "attention heads", NULL},
        {"--batch", ARG_SIZE, &o->batch, "sequences in a micro-batch", NULL},
        {"--seq", ARG_SIZE, &o->length, "bytes in a sequence", NULL},
        {"--micro-batches", ARG_SIZE, &o->micro_batches, "of a step, over all ranks", NULL},
        {"--steps", ARG_SIZE, &o->steps, "steps of the schedule", NULL},
        {"--stop-at", ARG_SIZE, &o->stop_at, "stop and save after this step", NULL},
        {"--warmup", ARG_SIZE, &o->warmup, "steps of warm-up", NULL},
        {"--lr", ARG_FLOAT, &o->lr, "peak learning rate", NULL},
        {"--clip", ARG_FLOAT, &o->clip, "largest norm of the gradient; 0: no clipping", NULL},
        {"--optimizer", ARG_CHOICE, &o->optimizer, "", "sgd=1 adamw=2 adafactor=3"},
        {"--state", ARG_CHOICE, &o->state, "of the moments", "f32=0 bf16=1 int8=2"},
        {"--train-scales", ARG_FLAG, &o->train_scales, "trained scales, one for each row of the blocks' weights", NULL},
        {"--threads", ARG_INT, &o->threads, "threads of each rank", NULL},
        {"--seed", ARG_INT, &o->seed, "of weights, data and rounding", NULL},
    };
    MPI_Comm_rank(MPI_COMM_WORLD, &t.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &t.ranks);
    const int answer = args_parse(argc, argv, table, sizeof table / sizeof *table, "Data-parallel training over MPI.");
    if (answer) {
        MPI_Finalize();
        return answer - 1;
    }
    if (o->scatter) o->sharded = 1;
    const char *wrong = mistake(o, t.ranks);
    const struct token_source source = {.train = o->data, .bytes = 1, .document_token = -1};
    if (!wrong) wrong = tokens_open(&t.text, &source, o->length);
    if (wrong) stop(wrong);
    open_trainer(&t);
    train(&t);
    save(&t);
    close_trainer(&t);
    MPI_Finalize();
    return 0;
}
