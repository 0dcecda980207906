/* What MPI moves between the ranks of this run, as a line of JSON that predict.py reads: seconds of a small message
 * between two ranks, bytes a second between two ranks while all others are silent, and what the collective operations
 * of examples/mpi take when all ranks take part: the operation of a few bytes, and bytes received a second by each rank
 * when it receives much; and the time for each number of a gradient to pack it for the wire, and for each number that
 * came to add it, by as many threads as are given, while all ranks do so. Medians over the repetitions, of the slowest
 * rank.
 *
 *   mpirun -n 4 build/bench/mpi/network 3
 *
 * A rank alone times packing and adding. With --hello it says how many ranks there are, and no more. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

/* RECEIVED: as much as a matrix of the models that are measured, in messages of the sizes that they make. A step sends
 * and receives each message in a place of its own, so the places here follow each other through LARGE bytes, which are
 * in no cache. */
enum {
    ROWS = 512,
    COLS = 4096,
    LARGE = 64 << 20,
    RECEIVED = 2 << 20,
    PAIR_LARGE = 4 << 20,
    PLACE = ROWS * COLS * (int)sizeof(float),
    REPEATS = 15,
    SMALL_REPEATS = 201,
    PINGS = 20
};

struct world {
    int rank, ranks, threads;
    char *whole_in, *whole_out; /* LARGE bytes each */
    size_t at;
    char *in, *out; /* what is used now, PLACE bytes each */
};

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of `bytes` that each rank receives from the others together, all ranks at once. As examples/mpi: nonblocking, then
 * waited for. */
static void all_to_all(const struct world *w, size_t bytes) {
    MPI_Request r;
    const int n = (int)(bytes / (size_t)w->ranks);
    MPI_Ialltoall(w->out, n, MPI_BYTE, w->in, n, MPI_BYTE, MPI_COMM_WORLD, &r);
    MPI_Wait(&r, MPI_STATUS_IGNORE);
}

static void all_gather(const struct world *w, size_t bytes) {
    MPI_Request r;
    const int n = (int)(bytes / (size_t)w->ranks);
    MPI_Iallgather(w->out, n, MPI_BYTE, w->in, n, MPI_BYTE, MPI_COMM_WORLD, &r);
    MPI_Wait(&r, MPI_STATUS_IGNORE);
}

static void all_reduce(const struct world *w, size_t bytes) {
    MPI_Request r;
    MPI_Iallreduce(MPI_IN_PLACE, w->in, (int)(bytes / sizeof(float)), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &r);
    MPI_Wait(&r, MPI_STATUS_IGNORE);
}

static void reduce_scatter(const struct world *w, size_t bytes) {
    MPI_Request r;
    const int n = (int)(bytes / sizeof(float) / (size_t)w->ranks);
    MPI_Ireduce_scatter_block(w->out, w->in, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &r);
    MPI_Wait(&r, MPI_STATUS_IGNORE);
}

/* Rank 0 and the last one, PINGS times to and fro. */
static void ping(const struct world *w, size_t bytes) {
    const int last = w->ranks - 1;
    for (int i = 0; i < PINGS && (w->rank == 0 || w->rank == last); i++) {
        if (w->rank == 0) MPI_Send(w->out, (int)bytes, MPI_BYTE, last, 0, MPI_COMM_WORLD);
        MPI_Recv(w->in, (int)bytes, MPI_BYTE, w->rank == 0 ? last : 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (w->rank != 0) MPI_Send(w->out, (int)bytes, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
    }
}

/* A gradient of ROWS x COLS: bytes is the format. */
static void pack(const struct world *w, size_t bytes) {
    const struct wire_key key = {1, 1, 1, w->rank};
    const struct wire_rows rows = {(enum wire_format)bytes, 0, ROWS, COLS, w->threads};
    wire_pack_rows(&rows, &key, (const float *)(void *)w->in, (unsigned char *)w->out);
}

/* The own rows of it, from all ranks. */
static void add(const struct world *w, size_t bytes) {
    const size_t messages = w->ranks < 2 ? 2 : (size_t)w->ranks, count = ROWS / messages;
    const struct wire_rows rows = {(enum wire_format)bytes, 0, count, COLS, w->threads};
    wire_sum_rows(&rows, messages, (const unsigned char *)w->out, count * wire_row_bytes(rows.format, COLS),
                  (float *)(void *)w->in);
}

static void next_place(struct world *w) {
    w->at = (w->at + PLACE) % LARGE;
    w->in = w->whole_in + w->at;
    w->out = w->whole_out + w->at;
}

static double seconds(struct world *w, void (*operation)(const struct world *, size_t), size_t bytes) {
    double t[SMALL_REPEATS];
    const int repeats = bytes > WIRE_INT8 && bytes < RECEIVED / 4 ? SMALL_REPEATS : REPEATS;
    operation(w, bytes);
    for (int i = 0; i < repeats; i++) {
        next_place(w);
        MPI_Barrier(MPI_COMM_WORLD);
        const double before = MPI_Wtime();
        operation(w, bytes);
        t[i] = MPI_Wtime() - before;
    }
    MPI_Allreduce(MPI_IN_PLACE, t, repeats, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    qsort(t, (size_t)repeats, sizeof *t, compare);
    return t[repeats / 2];
}

/* Pairs and collective operations, for the line of JSON. */
static void network(struct world *w) {
    static const struct {
        const char *name;
        void (*operation)(const struct world *, size_t);
        int twice; /* a rank receives the bytes twice, as parts of a sum and as sums */
    } operations[] = {{"all_to_all", all_to_all, 0},
                      {"all_gather", all_gather, 0},
                      {"all_reduce", all_reduce, 1},
                      {"reduce_scatter", reduce_scatter, 0}};
    const double small = seconds(w, ping, 8) / (2 * PINGS), large = seconds(w, ping, PAIR_LARGE) / (2 * PINGS);
    if (w->rank == 0)
        printf(",\"latency\":%.9f,\"pair_bytes_per_second\":%.0f", small,
               PAIR_LARGE / (large > small ? large - small : large));
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        const size_t few = 64 * (size_t)w->ranks;
        const double a = seconds(w, operations[i].operation, few), b = seconds(w, operations[i].operation, RECEIVED);
        const double received = (double)RECEIVED * (w->ranks - 1) / w->ranks * (operations[i].twice ? 2 : 1);
        if (w->rank == 0)
            printf(",\"%s\":{\"seconds\":%.9f,\"bytes_per_second\":%.0f}", operations[i].name, a,
                   received / (b > a ? b - a : b)); /* other programs can make any time long */
    }
}

int main(int argc, char **argv) {
    struct world w;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &w.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w.ranks);
    if (argc > 1 && strcmp(argv[1], "--hello") == 0) {
        if (w.rank == 0) printf("rank 0 of %d\n", w.ranks);
        MPI_Finalize();
        return 0;
    }
    w.threads = argc > 1 ? atoi(argv[1]) : 1;
    w.whole_in = malloc(LARGE);
    w.whole_out = malloc(LARGE);
    if (!w.whole_in || !w.whole_out) {
        fprintf(stderr, "no memory\n");
        MPI_Abort(MPI_COMM_WORLD, 1);
        return 1;
    }
    memset(w.whole_in, 0, LARGE);
    memset(w.whole_out, 0, LARGE);
    w.at = 0;
    next_place(&w);
    if (w.rank == 0) printf("{\"ranks\":%d,\"threads\":%d", w.ranks, w.threads);
    if (w.ranks > 1) network(&w);
    static const char *const formats[] = {[WIRE_F32] = "f32", [WIRE_BF16] = "bf16", [WIRE_INT8] = "int8"};
    for (size_t i = 0; i < LARGE / sizeof(float); i++) /* blocks of zeros would be packed faster */
        ((float *)(void *)w.whole_in)[i] = (float)(i * 7919 % 10007) * 1e-5f - 0.05f;
    for (size_t f = WIRE_F32; f <= WIRE_INT8; f++) {
        const double p = seconds(&w, pack, f) / (ROWS * COLS), a = seconds(&w, add, f) / (ROWS * COLS);
        if (w.rank == 0) printf(",\"%s\":{\"pack\":%.4g,\"add\":%.4g}", formats[f], p, a);
    }
    if (w.rank == 0) printf("}\n");
    free(w.whole_in);
    free(w.whole_out);
    MPI_Finalize();
    return 0;
}
