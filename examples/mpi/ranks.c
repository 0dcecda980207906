/* support/ranks.h over MPI. */
#include "ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agree.h"
#include "exchange.h"
#include "run.h"

static struct {
    int own, count, format;
    size_t first_step; /* of this process */
    double *sums;      /* [count] */
} ranks = {.count = 1, .format = WIRE_INT8};

void ranks_begin(int *argc, char ***argv) {
    int provided;
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &ranks.own);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks.count);
    if (!ranks_have_options(*argc, *argv)) {
        if (ranks.own == 0) fprintf(stderr, OTHER_OPTIONS "\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    ranks.sums = malloc((size_t)ranks.count * sizeof *ranks.sums);
    if (!ranks.sums || (ranks.own != 0 && !freopen("/dev/null", "w", stdout))) MPI_Abort(MPI_COMM_WORLD, 1);
}

int ranks_end(int status) {
    if (status != 0) {
        fflush(NULL);
        MPI_Abort(MPI_COMM_WORLD, status);
    }
    free(ranks.sums);
    MPI_Finalize();
    return status;
}

size_t ranks_own(void) {
    return (size_t)ranks.own;
}

size_t ranks_count(void) {
    return (size_t)ranks.count;
}

size_t ranks_args(struct arg *table) {
    const struct arg all[RANKS_ARGS] = {
        {"--wire", ARG_CHOICE, &ranks.format, "gradients between ranks", "f32=1 bf16=2 int8=3"}};
    memcpy(table, all, sizeof all);
    return RANKS_ARGS;
}

struct share ranks_share(size_t count) {
    const size_t each = count / ranks_count(), more = count % ranks_count(), own = ranks_own();
    return (struct share){own * each + (own < more ? own : more), each + (own < more)};
}

double ranks_sum(double own) {
    double sum = 0;
    MPI_Allgather(&own, 1, MPI_DOUBLE, ranks.sums, 1, MPI_DOUBLE, MPI_COMM_WORLD);
    for (int r = 0; r < ranks.count; r++)
        sum += ranks.sums[r];
    return sum;
}

bool ranks_any(bool own) {
    return ranks_sum(own) > 0;
}

/* A rank alone has nobody to exchange with: then everything is as in one_rank.c. */
dqt_status ranks_open(struct run *r) {
    ranks.first_step = r->step;
    if (ranks.count == 1) return DQT_OK;
    r->exchange = exchange_create(r->tape, r->updater, (enum wire_format)ranks.format, (uint64_t)r->options.seed,
                                  dqt_context_num_threads(r->ctx), MPI_COMM_WORLD);
    if (r->exchange) {
        if (ranks_agree(r->step) && ranks_agree(exchange_hash(r->exchange))) return DQT_OK;
        if (ranks.own == 0) fprintf(stderr, "the ranks' checkpoints are of different steps or models\n");
        return DQT_E_STATE;
    }
    fprintf(stderr, "rank %d: no memory for messages, or a tensor is too large for one of MPI's\n", ranks.own);
    return DQT_E_MEMORY;
}

void ranks_close(struct run *r) {
    exchange_destroy(r->exchange);
}

void ranks_last_pass(struct run *r) {
    if (r->exchange) exchange_begin(r->exchange);
}

dqt_status ranks_step(struct run *r, const dqt_step_options *options, dqt_step_stats *stats) {
    if (!r->exchange) return dqt_updater_step(r->updater, r->tape, options, stats);
    const dqt_status status = exchange_gradients(r->exchange);
    return status == DQT_OK ? exchange_step(r->exchange, options, stats) : status;
}

dqt_status ranks_backward_update(struct run *r, float weight, const dqt_step_options *options, dqt_step_stats *stats) {
    if (!r->exchange) return dqt_llama_backward_update(r->model, r->tape, r->updater, options, stats);
    dqt_status status = dqt_tape_begin_update(r->tape, r->updater, options);
    if (status == DQT_OK) status = dqt_llama_backward(r->model, r->tape, weight);
    return status == DQT_OK ? exchange_end_update(r->exchange, stats) : status;
}

/* ---- The checkpoint: rank 0 writes it, and gets the others' parts of the updater as it needs them -------------- */

enum { PART_TAG = 1 };

static size_t receive(void *user_data, size_t part, void *buffer, size_t size) {
    MPI_Status status;
    int count;
    (void)user_data;
    MPI_Recv(buffer, (int)size, MPI_BYTE, (int)part, PART_TAG, MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, MPI_BYTE, &count);
    return (size_t)count;
}

static int32_t send(void *user_data, const void *buffer, size_t size) {
    (void)user_data;
    return MPI_Send(buffer, (int)size, MPI_BYTE, 0, PART_TAG, MPI_COMM_WORLD) != MPI_SUCCESS;
}

dqt_status ranks_save(struct run *r, const char *path, const dqt_save_options *options) {
    dqt_status status;
    if (ranks.count > 1 && ranks.own > 0) {
        status = dqt_updater_write_part(r->updater, send, NULL);
    } else {
        dqt_save_options o = *options;
        o.read_part = receive;
        status = dqt_llama_save(r->model, r->updater, path, &o);
    }
    if (status == DQT_OK) MPI_Barrier(MPI_COMM_WORLD); /* the file is there for all */
    return status;
}

/* ---- In the end ------------------------------------------------------------------------------------------------ */

/* A design that all-reduces floats, by the usual rings, and updates everything everywhere. */
static double all_reduce_bytes(double weights) {
    return 2.0 * (ranks.count - 1) / ranks.count * 4 * weights;
}

static void say_bytes(struct run *r) {
    const struct exchange_bytes sent = exchange_sent(r->exchange);
    const double steps = (double)(r->step - ranks.first_step), parts = steps * ranks.count;
    const double gradients = ranks_sum(sent.gradients) / parts, sums = ranks_sum(sent.sums) / parts,
                 weights = ranks_sum(sent.weights) / parts,
                 whole = all_reduce_bytes((double)exchange_weights(r->exchange));
    printf("%d ranks: a step sends %.0f bytes of gradients, %.0f of sums and %.0f of weights from each on average; an "
           "f32 all-reduce %.0f: %.1f %% of that for gradients, %.1f %% for all\n",
           ranks.count, gradients, sums, weights, whole, 100 * gradients / whole,
           100 * (gradients + sums + weights) / whole);
}

/* Means over steps and ranks; what one rank waits for is also that another one is late. */
static void say_seconds(struct run *r) {
    const struct exchange_seconds spent = exchange_spent(r->exchange);
    const double parts = (double)(r->step - ranks.first_step) * ranks.count;
    const double each[] = {spent.pack, spent.send, spent.wait, spent.add, spent.sums, spent.weights};
    const char *const names[] = {"packing", "sending", "waiting for gradients", "adding", "sums", "weights"};
    printf("seconds of a step:");
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        printf("%s %.5f %s", i ? "," : "", ranks_sum(each[i]) / parts, names[i]);
    printf("\n");
}

bool ranks_report(struct run *r) {
    if (!r->exchange) return true;
    if (r->step > ranks.first_step) {
        say_bytes(r);
        say_seconds(r);
    }
    const uint64_t hash = exchange_hash(r->exchange);
    if (!ranks_agree(hash)) {
        fprintf(stderr, "rank %d: the ranks' weights have come apart\n", ranks.own);
        return false;
    }
    printf("all ranks have the same weights: %016llx\n", (unsigned long long)hash);
    return true;
}
