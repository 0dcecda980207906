/* Pipelining by blocks over MPI: each rank has some of a model's blocks, with their gradients and optimiser state, and
 * passes activations to the next rank and their gradients to the one before.
 *
 * Introduces: partial models (first_block, num_blocks), dqt_llama_forward_blocks and dqt_llama_backward_blocks, a step
 * of which the ranks exchange sums of parameters, one checkpoint of all ranks (dqt_llama_write_part) that any number of
 * ranks, and a program with the whole model, loads.
 *
 * Micro-batches go in the order 1F1B (one forward, one backward): rank r of n runs n - 1 - r forwards ahead, then a
 * backward for each forward. It idles as long as GPipe does, which runs all forwards first, (n - 1) / (m + n - 1) of a
 * step of m micro-batches, but a rank keeps the inputs of at most n - r micro-batches instead of m. Only these inputs
 * are kept: backward runs forward again where another one has come between. Both orders go backward in the order of
 * micro-batches, as one process does, so any number of ranks gives the bits of one. */
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DQT_EXPERIMENTAL
#include "../agree.h"
#include "args.h"
#include "dqt.h"
#include "tokens.h"

enum { PATH_BYTES = 512, FORWARD = 1, BACKWARD, PART };

struct options {
    const char *data, *out, *blocks;
    size_t hidden, intermediate, layers, heads, batch, length, micro_batches, steps, stop_at, save_every, warmup;
    int format, optimizer, state, precision, resume, threads, seed;
    float lr, clip;
};

/* A micro-batch that is under way. */
struct flight {
    float *in;  /* [tokens][hidden]: from the rank before */
    float *out; /* for the next one, until `sent` */
    MPI_Request sent;
};

struct stage {
    struct options o;
    int rank, ranks;
    size_t first_block, num_blocks;
    struct tokens text;
    struct windows windows;
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    size_t depth; /* micro-batches under way at most */
    struct flight *flights;
    float *gradient[2]; /* [tokens][hidden]: one is sent while the next is made */
    MPI_Request sent[2];
    uint64_t step;
    size_t latest;        /* micro-batch of the tape's forward; SIZE_MAX: none */
    float loss;           /* of the step, on the last rank */
    int *counts, *places; /* [ranks] of the sums in an exchange */
    double sent_bytes;
};

static void stop(const char *sentence) {
    fprintf(stderr, "%s\n", sentence);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static void ok(const struct stage *s, dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "rank %d: %s: %s\n", s->rank, dqt_status_string(status), dqt_last_error(s->ctx));
    stop("stopped");
}

static void *allocate(size_t count, size_t size) {
    void *ptr = calloc(count ? count : 1, size);
    if (!ptr) stop("no memory");
    return ptr;
}

static bool is_first(const struct stage *s) {
    return s->rank == 0;
}
static bool is_last(const struct stage *s) {
    return s->rank + 1 == s->ranks;
}
static size_t stream_size(const struct stage *s) {
    return s->o.batch * s->o.length * s->o.hidden;
}

/* ---- Micro-batches -------------------------------------------------------------------------------------------------
 */

/* Forward of what lies in x. The number of backward passes that one process would have made is what some random numbers
 * depend on (precision INT8, gradients and checkpoints below F32). */
static void run_forward(struct stage *s, size_t m, float *x) {
    const struct options *o = &s->o;
    dqt_batch b = DQT_INIT(dqt_batch);
    float loss = 0;
    windows_draw(&s->windows, &s->text, (uint64_t)o->seed, s->step, m * o->batch, o->batch);
    b.divisor = (double)(o->micro_batches * o->batch * o->length);
    b.batch = o->batch;
    b.length = o->length;
    b.tokens = s->windows.tokens;
    b.targets = s->windows.targets;
    ok(s, dqt_tape_set_pass(s->tape, s->step * o->micro_batches + m));
    ok(s, dqt_llama_forward_blocks(s->model, s->tape, &b, x, &loss, NULL));
    if (is_last(s) && s->latest != m) s->loss += loss;
    s->latest = m;
}

static void forward(struct stage *s, size_t m) {
    struct flight *f = &s->flights[m % s->depth];
    const size_t size = stream_size(s);
    MPI_Wait(&f->sent, MPI_STATUS_IGNORE);
    if (!is_first(s)) MPI_Recv(f->in, (int)size, MPI_FLOAT, s->rank - 1, FORWARD, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    memcpy(f->out, f->in, size * sizeof *f->out);
    run_forward(s, m, f->out);
    if (is_last(s)) return;
    MPI_Isend(f->out, (int)size, MPI_FLOAT, s->rank + 1, FORWARD, MPI_COMM_WORLD, &f->sent);
    s->sent_bytes += (double)(size * sizeof(float));
}

static void backward(struct stage *s, size_t m) {
    float *d = s->gradient[m % 2];
    const size_t size = stream_size(s);
    MPI_Wait(&s->sent[m % 2], MPI_STATUS_IGNORE);
    if (s->latest != m) {
        memcpy(d, s->flights[m % s->depth].in, size * sizeof *d);
        run_forward(s, m, d);
    }
    if (!is_last(s)) MPI_Recv(d, (int)size, MPI_FLOAT, s->rank + 1, BACKWARD, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    ok(s, dqt_llama_backward_blocks(s->model, s->tape, 1, d));
    s->latest = SIZE_MAX;
    if (is_first(s)) return;
    MPI_Isend(d, (int)size, MPI_FLOAT, s->rank - 1, BACKWARD, MPI_COMM_WORLD, &s->sent[m % 2]);
    s->sent_bytes += (double)(size * sizeof(float));
}

static void make_gradients(struct stage *s) {
    const size_t count = s->o.micro_batches;
    const size_t ahead = s->depth - 1 < count ? s->depth - 1 : count;
    s->loss = 0;
    s->latest = SIZE_MAX;
    ok(s, dqt_tape_zero_gradients(s->tape));
    for (size_t m = 0; m < ahead; m++)
        forward(s, m);
    for (size_t m = 0; m < count; m++) {
        if (ahead + m < count) forward(s, ahead + m);
        backward(s, m);
    }
    for (size_t i = 0; i < s->depth; i++)
        MPI_Wait(&s->flights[i].sent, MPI_STATUS_IGNORE);
    MPI_Waitall(2, s->sent, MPI_STATUSES_IGNORE);
}

/* ---- The step ------------------------------------------------------------------------------------------------------
 */

/* Each rank has sums of its own parameters; everybody needs all of them. */
static void gather_sums(struct stage *s, const dqt_step_sums *sums) {
    const size_t own = sums->num_parts == 3 ? 1 : 0; /* of a whole model there is one part */
    const int place = (int)sums->offsets[own], count = (int)(sums->offsets[own + 1] - sums->offsets[own]);
    MPI_Allgather(&place, 1, MPI_INT, s->places, 1, MPI_INT, MPI_COMM_WORLD);
    MPI_Allgather(&count, 1, MPI_INT, s->counts, 1, MPI_INT, MPI_COMM_WORLD);
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, sums->data, s->counts, s->places, MPI_BYTE, MPI_COMM_WORLD);
}

static void update(struct stage *s, dqt_step_stats *stats) {
    dqt_step_options options = DQT_INIT(dqt_step_options);
    dqt_step_sums sums = DQT_INIT(dqt_step_sums);
    options.learning_rate = dqt_schedule_cosine(s->step, s->o.warmup, s->o.steps, s->o.lr, 0.1f);
    ok(s, dqt_updater_begin_step(s->updater, s->tape, &options, &sums));
    while (sums.data) {
        gather_sums(s, &sums);
        ok(s, dqt_updater_continue_step(s->updater, s->tape, &sums, stats));
    }
}

/* ---- Checkpoints: rank 0 writes the file, the others' sections come as messages
 * ---------------------------------------- */

static int32_t send_part(void *user_data, const void *bytes, size_t size) {
    (void)user_data;
    return MPI_Send(bytes, (int)size, MPI_BYTE, 0, PART, MPI_COMM_WORLD) != MPI_SUCCESS;
}

static size_t receive_part(void *user_data, size_t part, void *bytes, size_t size) {
    MPI_Status status;
    int count = 0;
    (void)user_data;
    MPI_Recv(bytes, (int)size, MPI_BYTE, (int)part, PART, MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, MPI_BYTE, &count);
    return (size_t)count;
}

static void checkpoint_path(const struct stage *s, char path[PATH_BYTES]) {
    if (snprintf(path, PATH_BYTES, "%s/model.dqt", s->o.out) >= PATH_BYTES) stop("the folder's name is too long");
}

static void save(struct stage *s) {
    char path[PATH_BYTES];
    checkpoint_path(s, path);
    if (!is_first(s)) {
        ok(s, dqt_llama_write_part(s->model, s->updater, send_part, NULL));
        return;
    }
    if (mkdir(s->o.out, 0777) != 0 && errno != EEXIST) stop("the output folder cannot be made");
    dqt_save_options o = DQT_INIT(dqt_save_options);
    o.tape = s->tape;
    o.read_part = receive_part;
    ok(s, dqt_tape_set_pass(s->tape, s->step * s->o.micro_batches));
    ok(s, dqt_llama_save(s->model, s->updater, path, &o));
    printf("written: %s\n", path);
}

/* ---- Setting up
 * ------------------------------------------------------------------------------------------------------ */

/* --blocks 3,3,2, or evenly; the last rank has the head as well, so it gets the fewest. */
static void share_blocks(struct stage *s) {
    const size_t ranks = (size_t)s->ranks, each = s->o.layers / ranks, more = s->o.layers % ranks;
    const char *text = s->o.blocks;
    size_t first = 0;
    for (size_t r = 0; r < ranks; r++) {
        char *end = NULL;
        const size_t count = text ? (size_t)strtoul(text, &end, 10) : each + (r < more ? 1 : 0);
        if (count == 0 || count > s->o.layers - first || (text && *end != (r + 1 < ranks ? ',' : '\0')))
            stop("--blocks must be a number above 0 for each rank, with commas between, which make up --layers");
        if (r == (size_t)s->rank) {
            s->first_block = first;
            s->num_blocks = count;
        }
        first += count;
        if (text) text = end + 1;
    }
    if (first != s->o.layers) stop("--blocks must make up --layers");
}

static void create_model(struct stage *s) {
    const struct options *o = &s->o;
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    dqt_layer *const *layers;
    size_t num_layers;
    c.hidden_size = o->hidden;
    c.intermediate_size = o->intermediate;
    c.num_layers = o->layers;
    c.num_heads = o->heads;
    c.seed = u.seed = (uint64_t)o->seed;
    c.linear.struct_size = sizeof c.linear;
    c.linear.storage = o->format;
    c.first_block = s->first_block;
    c.num_blocks = s->num_blocks;
    ok(s, dqt_llama_create(s->ctx, &c, &s->model));
    ok(s, dqt_llama_get_layers(s->model, &layers, &num_layers));
    u.optimizer = o->optimizer;
    u.momentum_state = u.variance_state = o->state;
    u.clip = o->clip > 0 ? DQT_CLIP_GLOBAL_NORM : DQT_CLIP_NONE;
    u.clip_norm = o->clip;
    ok(s, dqt_updater_create(s->ctx, layers, num_layers, &u, &s->updater));
}

/* A part of the file, whatever number of ranks has written it. */
static void load(struct stage *s) {
    char path[PATH_BYTES];
    dqt_load_options o = DQT_INIT(dqt_load_options);
    dqt_checkpoint saved = DQT_INIT(dqt_checkpoint);
    checkpoint_path(s, path);
    o.first_block = s->first_block;
    o.num_blocks = s->num_blocks;
    ok(s, dqt_llama_load(s->ctx, path, &o, &saved));
    if (!saved.updater) stop("the checkpoint has no optimiser state");
    s->model = saved.model;
    s->updater = saved.updater;
    ok(s, dqt_updater_get_step(s->updater, &s->step));
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    ok(s, dqt_llama_get_config(s->model, &c));
    if (c.hidden_size != s->o.hidden || c.num_layers != s->o.layers)
        stop("--resume: the checkpoint's model has another --hidden or --layers");
    if (!ranks_agree(s->step)) stop("the ranks' checkpoints are of different steps");
}

static void open_stage(struct stage *s) {
    const struct options *o = &s->o;
    dqt_context_options c = DQT_INIT(dqt_context_options);
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    dqt_layer *const *layers;
    size_t num_layers;
    c.num_threads = o->threads;
    ok(s, dqt_context_create(&c, &s->ctx));
    if (o->resume)
        load(s);
    else
        create_model(s);
    ok(s, dqt_llama_get_layers(s->model, &layers, &num_layers));
    t.max_batch = o->batch;
    t.max_length = o->length;
    t.precision = o->precision;
    ok(s, dqt_tape_create(s->ctx, layers, num_layers, &t, &s->tape));
    if (stream_size(s) > INT_MAX) stop("a micro-batch is too large for one MPI message");
    s->depth = (size_t)(s->ranks - s->rank);
    s->flights = allocate(s->depth, sizeof *s->flights);
    for (size_t i = 0; i < s->depth; i++)
        s->flights[i] = (struct flight){.in = allocate(stream_size(s), sizeof(float)),
                                        .out = allocate(stream_size(s), sizeof(float)),
                                        .sent = MPI_REQUEST_NULL};
    for (int i = 0; i < 2; i++) {
        s->gradient[i] = allocate(stream_size(s), sizeof(float));
        s->sent[i] = MPI_REQUEST_NULL;
    }
    s->counts = allocate(2 * (size_t)s->ranks, sizeof(int));
    s->places = s->counts + s->ranks;
    if (!windows_create(&s->windows, &s->text, o->batch, o->length)) stop("no memory");
}

static void close_stage(struct stage *s) {
    for (size_t i = 0; i < s->depth; i++) {
        free(s->flights[i].in);
        free(s->flights[i].out);
    }
    for (int i = 0; i < 2; i++)
        free(s->gradient[i]);
    free(s->flights);
    free(s->counts);
    windows_free(&s->windows);
    tokens_close(&s->text);
    dqt_updater_destroy(s->updater);
    dqt_tape_destroy(s->tape);
    dqt_llama_destroy(s->model);
    dqt_context_destroy(s->ctx);
}

/* ---- The run
 * --------------------------------------------------------------------------------------------------------- */

static void report(const struct stage *s) {
    unsigned long long own[3] = {s->first_block, s->num_blocks, dqt_context_allocated(s->ctx)};
    unsigned long long *all = allocate(3 * (size_t)s->ranks, sizeof *all);
    MPI_Gather(own, 3, MPI_UNSIGNED_LONG_LONG, all, 3, MPI_UNSIGNED_LONG_LONG, 0, MPI_COMM_WORLD);
    for (int r = 0; r < s->ranks && s->rank == 0; r++)
        printf("rank %d: blocks %llu to %llu of %zu, %llu bytes\n", r, all[3 * r], all[3 * r] + all[3 * r + 1] - 1,
               s->o.layers, all[3 * r + 2]);
    free(all);
}

static void train(struct stage *s) {
    const struct options *o = &s->o;
    const size_t end = o->stop_at && o->stop_at < o->steps ? o->stop_at : o->steps;
    const double started = MPI_Wtime();
    const uint64_t first = s->step;
    double warm = started; /* after the first step, which touches memory */
    report(s);
    while (s->step < end) {
        dqt_step_stats stats = DQT_INIT(dqt_step_stats);
        s->sent_bytes = 0;
        make_gradients(s);
        update(s, &stats);
        MPI_Bcast(&s->loss, 1, MPI_FLOAT, s->ranks - 1, MPI_COMM_WORLD);
        if (s->rank == 0 && (s->step % 10 == 0 || s->step + 1 == end))
            printf("step %3llu  loss %.6f  gradient norm %.6f\n", (unsigned long long)s->step, (double)s->loss,
                   stats.gradient_norm);
        if (s->step == first) warm = MPI_Wtime();
        s->step++;
        if (o->save_every && s->step % o->save_every == 0 && s->step < end) save(s);
    }
    const double ended = MPI_Wtime();
    if (s->rank == 0 && s->step > first + 1)
        printf("%.4f seconds a step after the first\n", (ended - warm) / (double)(s->step - first - 1));
    if (s->rank == 0) printf("%.2f seconds; rank 0 sends %.0f bytes in a step\n", ended - started, s->sent_bytes);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    struct stage s = {.o = {.out = "pipeline-run",
                            .hidden = 128,
                            .intermediate = 352,
                            .layers = 4,
                            .heads = 4,
                            .batch = 2,
                            .length = 64,
                            .micro_batches = 8,
                            .steps = 100,
                            .warmup = 10,
                            .format = DQT_FORMAT_TERNARY,
                            .optimizer = DQT_OPTIMIZER_ADAMW,
                            .threads = 1,
                            .seed = 1,
                            .lr = 3e-3f,
                            .clip = 1.0f}};
    struct options *o = &s.o;
    const struct arg table[] = {
        {"--data", ARG_TEXT, &o->data, "text to train on (any file; its bytes are the tokens)", NULL},
        {"--out", ARG_TEXT, &o->out, "folder for the checkpoint, model.dqt", NULL},
        {"--resume", ARG_FLAG, &o->resume, "go on from the folder's checkpoint, with the same options", NULL},
        {"--blocks", ARG_TEXT, &o->blocks, "of each rank, such as 3,3,2; default: evenly", NULL},
        {"--hidden", ARG_SIZE, &o->hidden, "hidden size", NULL},
        {"--ff", ARG_SIZE, &o->intermediate, "intermediate size", NULL},
        {"--layers", ARG_SIZE, &o->layers, "blocks of the whole model", NULL},
        {"--heads", ARG_SIZE, &o->heads, "attention heads", NULL},
        {"--batch", ARG_SIZE, &o->batch, "sequences in a micro-batch", NULL},
        {"--seq", ARG_SIZE, &o->length, "bytes in a sequence", NULL},
        {"--micro-batches", ARG_SIZE, &o->micro_batches, "of a step", NULL},
        {"--steps", ARG_SIZE, &o->steps, "steps of the schedule", NULL},
        {"--stop-at", ARG_SIZE, &o->stop_at, "stop and save after this step", NULL},
        {"--save-every", ARG_SIZE, &o->save_every, "steps between checkpoints (0: only at the end)", NULL},
        {"--warmup", ARG_SIZE, &o->warmup, "steps of warm-up", NULL},
        {"--lr", ARG_FLOAT, &o->lr, "peak learning rate", NULL},
        {"--clip", ARG_FLOAT, &o->clip, "largest norm of the gradient of the whole model; 0: no clipping", NULL},
        {"--format", ARG_CHOICE, &o->format, "of the blocks' weights", FORMAT_CHOICES},
        {"--optimizer", ARG_CHOICE, &o->optimizer, "", "sgd=1 adamw=2 adafactor=3 muon=4"},
        {"--state", ARG_CHOICE, &o->state, "of the moments", "f32=0 bf16=1 int8=2"},
        {"--precision", ARG_CHOICE, &o->precision, "of products (auto: int8 gradients where faster)",
         "auto=0 f32=1 bf16=2 int8=3"},
        {"--threads", ARG_INT, &o->threads, "threads of each rank", NULL},
        {"--seed", ARG_INT, &o->seed, "of weights, data and rounding", NULL},
    };
    MPI_Comm_rank(MPI_COMM_WORLD, &s.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &s.ranks);
    if (!ranks_have_options(argc, argv)) stop(OTHER_OPTIONS);
    const int answer = args_parse(argc, argv, table, sizeof table / sizeof *table, "Pipelining by blocks over MPI.");
    if (answer) {
        MPI_Finalize();
        return answer - 1;
    }
    const char *wrong = NULL;
    if (!o->data || !o->batch || !o->length || !o->steps || !o->micro_batches)
        wrong = "--data is needed; --batch, --seq, --steps and --micro-batches are at least 1";
    const struct token_source source = {.train = o->data, .bytes = 1, .document_token = -1};
    if (!wrong) wrong = tokens_open(&s.text, &source, o->length);
    if (wrong) stop(wrong);
    share_blocks(&s);
    open_stage(&s);
    train(&s);
    save(&s);
    close_stage(&s);
    MPI_Finalize();
    return 0;
}
