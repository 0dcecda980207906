#include "exchange.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "agree.h"

enum { TILE = 64 }; /* rows that are copied from and to the tape at a time, where its gradients are not floats */

/* Messages of one kind to and from each rank, in bytes. */
struct layout {
    int *counts, *offsets;
};

/* One parameter. */
struct slot {
    dqt_tensor *tensor;
    unsigned char *codes, *send, *receive; /* the latter two in the exchange's */
    float *scales;                         /* trained: [rows][scales_per_row], else NULL */
    size_t rows, cols, first, count;       /* of the rows [first, first + count) are this rank's */
    size_t wire_bytes, row_bytes, scales_per_row;
    struct layout sent, received, rows_of, scales_of;
    /* Of float weights whose changes are sent: the own rows before the step, and all rows' changes. Else NULL. */
    float *before;
    unsigned char *changes;
    size_t change_bytes;
    struct layout changes_of;
};

#define CHANGES WIRE_INT8 /* the format of changes */

struct exchange {
    dqt_tape *tape;
    dqt_updater *updater;
    MPI_Comm comm;
    enum wire_format format;
    uint64_t seed, step;
    int rank, ranks, threads, sending;
    int in_place;   /* gradients are floats */
    int one_buffer; /* of the tape, and of messages: a gradient is exchanged before the next one is made */
    size_t num_slots, num_requests;
    struct slot *slots;
    MPI_Request *requests;
    unsigned char *send, *receive;
    struct layout sums;
    float *tile; /* [TILE][largest cols] */
    struct exchange_bytes bytes;
    struct exchange_seconds seconds;
    dqt_status status; /* of what was done inside backward */
};

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* ---- Gradients ----------------------------------------------------------------------------------------------- */

/* All rows of a gradient, as they are sent. */
static dqt_status pack(struct exchange *x, size_t index) {
    const double begun = MPI_Wtime();
    const struct slot *s = &x->slots[index];
    const struct wire_key key = {x->seed, x->step, index, x->rank};
    struct wire_rows rows = {.format = x->format, .cols = s->cols, .threads = x->threads};
    float *whole = NULL;
    dqt_status status = x->in_place ? dqt_tape_gradient_data(x->tape, index, &whole) : DQT_OK;
    for (; status == DQT_OK && rows.first < s->rows; rows.first += rows.count) {
        rows.count = smaller(s->rows - rows.first, whole ? s->rows : TILE);
        if (!whole) status = dqt_tape_get_gradient(x->tape, index, rows.first, rows.count, x->tile);
        if (status == DQT_OK)
            wire_pack_rows(&rows, &key, whole ? whole : x->tile, s->send + rows.first * s->wire_bytes);
    }
    x->seconds.pack += MPI_Wtime() - begun;
    return status;
}

/* The own rows of a gradient: the sum of what the ranks have sent, in their order. */
static dqt_status add(struct exchange *x, size_t index) {
    const double begun = MPI_Wtime();
    const struct slot *s = &x->slots[index];
    struct wire_rows rows = {.format = x->format, .cols = s->cols, .threads = x->threads};
    float *whole = NULL;
    dqt_status status = x->in_place ? dqt_tape_gradient_data(x->tape, index, &whole) : DQT_OK;
    for (; status == DQT_OK && rows.first < s->count; rows.first += rows.count) {
        rows.count = smaller(s->count - rows.first, whole ? s->count : TILE);
        wire_sum_rows(&rows, (size_t)x->ranks, s->receive + rows.first * s->wire_bytes, s->count * s->wire_bytes,
                      whole ? whole + s->first * s->cols : x->tile);
        if (!whole) status = dqt_tape_set_gradient(x->tape, index, s->first + rows.first, rows.count, x->tile);
    }
    x->seconds.add += MPI_Wtime() - begun;
    return status;
}

static double wait_all(struct exchange *x) {
    const double begun = MPI_Wtime();
    MPI_Waitall((int)x->num_requests, x->requests, MPI_STATUSES_IGNORE);
    x->num_requests = 0;
    return MPI_Wtime() - begun;
}

/* Called inside backward: with buffers for all, this parameter is on its way while earlier layers are still being
 * differentiated. */
static int32_t gradient_ready(void *user_data, size_t index) {
    struct exchange *x = user_data;
    const struct slot *s = &x->slots[index];
    int done;
    if (!x->sending) return 0;
    x->status = pack(x, index);
    if (x->status != DQT_OK) return 1;
    const double begun = MPI_Wtime();
    MPI_Ialltoallv(s->send, s->sent.counts, s->sent.offsets, MPI_BYTE, s->receive, s->received.counts,
                   s->received.offsets, MPI_BYTE, x->comm, &x->requests[x->num_requests++]);
    x->bytes.gradients += (double)((s->rows - s->count) * s->wire_bytes);
    if (x->one_buffer) {
        x->seconds.wait += wait_all(x);
        x->status = add(x, index);
        return x->status != DQT_OK;
    }
    MPI_Testall((int)x->num_requests, x->requests, &done, MPI_STATUSES_IGNORE); /* lets MPI work on what is under way */
    x->seconds.send += MPI_Wtime() - begun;
    return 0;
}

static float *own_weights(const struct slot *s) {
    return (float *)(void *)s->codes + s->first * s->cols;
}

void exchange_begin(struct exchange *x) {
    x->sending = 1;
    for (size_t i = 0; i < x->num_slots; i++) {
        const struct slot *s = &x->slots[i];
        if (s->before) memcpy(s->before, own_weights(s), s->count * s->cols * sizeof(float));
    }
    x->status = dqt_updater_get_step(x->updater, &x->step);
}

dqt_status exchange_gradients(struct exchange *x) {
    x->sending = 0;
    x->seconds.wait += wait_all(x);
    for (size_t i = 0; i < x->num_slots && x->status == DQT_OK; i++)
        x->status = add(x, i);
    return x->status;
}

/* ---- The step ------------------------------------------------------------------------------------------------ */

/* Each rank has made sums of its own tiles; everybody needs all of them. */
static void gather_sums(struct exchange *x, const dqt_step_sums *sums) {
    const double begun = MPI_Wtime();
    for (int r = 0; r < x->ranks; r++) {
        x->sums.counts[r] = (int)(sums->offsets[r + 1] - sums->offsets[r]);
        x->sums.offsets[r] = (int)sums->offsets[r];
    }
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, sums->data, x->sums.counts, x->sums.offsets, MPI_BYTE, x->comm);
    x->bytes.sums += (double)x->sums.counts[x->rank] * (x->ranks - 1);
    x->seconds.sums += MPI_Wtime() - begun;
}

static void gather(struct exchange *x, void *data, const struct layout *of) {
    MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, of->counts, of->offsets, MPI_BYTE, x->comm,
                    &x->requests[x->num_requests++]);
    x->bytes.weights += (double)of->counts[x->rank] * (x->ranks - 1);
}

/* What the step has changed of the own rows, rounded to the wire; they are as before then. Whose rows they are is not
 * in the key: the random numbers of changes are those of no gradient, whose parameters have smaller numbers. */
static void pack_changes(struct exchange *x, size_t index) {
    const struct slot *s = &x->slots[index];
    const struct wire_key key = {x->seed, x->step, x->num_slots + index, 0};
    const struct wire_rows rows = {CHANGES, s->first, s->count, s->cols, x->threads};
    float *weights = own_weights(s);
    const size_t size = s->count * s->cols;
    for (size_t k = 0; k < size; k++) {
        const float old = s->before[k];
        s->before[k] = weights[k] - old;
        weights[k] = old;
    }
    wire_pack_rows(&rows, &key, s->before, s->changes + s->first * s->change_bytes);
}

/* The same on all ranks, for all rows. */
static void add_changes(struct exchange *x, const struct slot *s) {
    const struct wire_rows rows = {CHANGES, 0, s->rows, s->cols, x->threads};
    wire_add_rows(&rows, s->changes, (float *)(void *)s->codes);
}

/* Packed rows from the ranks that updated them, straight into the tensors; or what changed of them. */
static dqt_status gather_weights(struct exchange *x) {
    const double begun = MPI_Wtime();
    dqt_status status = DQT_OK;
    for (size_t i = 0; i < x->num_slots && status == DQT_OK; i++) {
        const struct slot *s = &x->slots[i];
        if (s->changes) {
            pack_changes(x, i);
            gather(x, s->changes, &s->changes_of);
        } else {
            gather(x, s->codes, &s->rows_of);
        }
        if (!s->scales) continue;
        status = dqt_tensor_get_scales(s->tensor, s->scales);
        gather(x, s->scales, &s->scales_of);
    }
    (void)wait_all(x);
    for (size_t i = 0; i < x->num_slots && status == DQT_OK; i++) {
        const struct slot *s = &x->slots[i];
        if (s->changes) add_changes(x, s);
        if (s->scales) status = dqt_tensor_set_scales(s->tensor, s->scales);
        if (status == DQT_OK) status = dqt_tensor_touch(s->tensor);
    }
    x->seconds.weights += MPI_Wtime() - begun;
    return status;
}

/* The rest of a step, from the first sums on. */
static dqt_status finish_step(struct exchange *x, dqt_step_sums *sums, dqt_step_stats *stats) {
    dqt_status status = DQT_OK;
    while (status == DQT_OK && sums->data) {
        gather_sums(x, sums);
        status = dqt_updater_continue_step(x->updater, x->tape, sums, stats);
    }
    return status == DQT_OK ? gather_weights(x) : status;
}

dqt_status exchange_step(struct exchange *x, const dqt_step_options *options, dqt_step_stats *stats) {
    dqt_step_sums sums = DQT_INIT(dqt_step_sums);
    const dqt_status status = dqt_updater_begin_step(x->updater, x->tape, options, &sums);
    return status == DQT_OK ? finish_step(x, &sums, stats) : status;
}

dqt_status exchange_end_update(struct exchange *x, dqt_step_stats *stats) {
    dqt_step_sums sums = DQT_INIT(dqt_step_sums);
    x->sending = 0;
    const dqt_status status = dqt_tape_end_update_part(x->tape, &sums, stats);
    return status == DQT_OK ? finish_step(x, &sums, stats) : status;
}

/* ---- Setting up ---------------------------------------------------------------------------------------------- */

static size_t out_bytes(const struct slot *s) {
    return s->rows * s->wire_bytes;
}

static size_t in_bytes(const struct exchange *x, const struct slot *s) {
    return s->count * (size_t)x->ranks * s->wire_bytes;
}

static int layout_create(struct layout *l, int ranks) {
    l->counts = calloc(2 * (size_t)ranks, sizeof(int));
    l->offsets = l->counts ? l->counts + ranks : NULL;
    return l->counts != NULL;
}

static void layout_set(struct layout *l, size_t r, size_t count, size_t offset) {
    l->counts[r] = (int)count;
    l->offsets[r] = (int)offset;
}

/* Which rows are whose. */
static dqt_status open_layouts(struct exchange *x, size_t index) {
    struct slot *s = &x->slots[index];
    const size_t ranks = (size_t)x->ranks, scale_bytes = s->scales_per_row * sizeof(float);
    dqt_status status = dqt_updater_get_part(x->updater, index, (size_t)x->rank, ranks, &s->first, &s->count);
    for (size_t r = 0; r < ranks && status == DQT_OK; r++) {
        size_t row, count;
        status = dqt_updater_get_part(x->updater, index, r, ranks, &row, &count);
        layout_set(&s->sent, r, count * s->wire_bytes, row * s->wire_bytes);
        layout_set(&s->received, r, s->count * s->wire_bytes, r * s->count * s->wire_bytes);
        layout_set(&s->rows_of, r, count * s->row_bytes, row * s->row_bytes);
        layout_set(&s->scales_of, r, count * scale_bytes, row * scale_bytes);
        layout_set(&s->changes_of, r, count * s->change_bytes, row * s->change_bytes);
    }
    return status;
}

static int open_slot(struct exchange *x, size_t index) {
    struct slot *s = &x->slots[index];
    dqt_parameter p = {.struct_size = sizeof p};
    dqt_tensor_info info = {.struct_size = sizeof info};
    void *data;
    size_t bytes;
    if (dqt_tape_get_parameter(x->tape, index, &p) != DQT_OK || dqt_tensor_get_info(p.tensor, &info) != DQT_OK ||
        dqt_tensor_data(p.tensor, &data, &bytes) != DQT_OK)
        return 0;
    *s = (struct slot){.tensor = p.tensor, .codes = data, .rows = p.rows, .cols = p.cols, .row_bytes = info.row_bytes};
    s->wire_bytes = wire_row_bytes(x->format, s->cols);
    s->change_bytes = wire_row_bytes(CHANGES, s->cols);
    s->scales_per_row = info.train_scale ? info.num_scales / s->rows : 0;
    if (s->rows + TILE * (size_t)x->ranks > INT_MAX / larger(s->wire_bytes, s->row_bytes)) return 0;
    if (!layout_create(&s->sent, x->ranks) || !layout_create(&s->received, x->ranks) ||
        !layout_create(&s->rows_of, x->ranks) || !layout_create(&s->scales_of, x->ranks) ||
        !layout_create(&s->changes_of, x->ranks) || open_layouts(x, index) != DQT_OK)
        return 0;
    if (x->format != WIRE_F32 && info.storage == DQT_FORMAT_F32 && s->rows > 1) { /* gains are few */
        s->before = malloc(larger(s->count, 1) * s->cols * sizeof(float));
        s->changes = malloc(s->rows * s->change_bytes);
        if (!s->before || !s->changes) return 0;
    }
    if (s->scales_per_row) s->scales = malloc(info.num_scales * sizeof(float));
    return s->scales || !s->scales_per_row;
}

/* Messages of each parameter, or of the largest one. */
static int create_messages(struct exchange *x) {
    size_t send = 0, receive = 0, most_out = 0, most_in = 0;
    for (size_t i = 0; i < x->num_slots; i++) {
        const struct slot *s = &x->slots[i];
        most_out = larger(most_out, out_bytes(s));
        most_in = larger(most_in, in_bytes(x, s));
        send += out_bytes(s);
        receive += in_bytes(x, s);
    }
    x->send = malloc(x->one_buffer ? most_out : send);
    x->receive = malloc((x->one_buffer ? most_in : receive) + 1);
    if (!x->send || !x->receive) return 0;
    unsigned char *to = x->send, *from = x->receive;
    for (size_t i = 0; i < x->num_slots; i++) {
        struct slot *s = &x->slots[i];
        s->send = to;
        s->receive = from;
        if (x->one_buffer) continue;
        to += out_bytes(s);
        from += in_bytes(x, s);
    }
    return 1;
}

static int open_slots(struct exchange *x) {
    size_t widest = 0;
    if (dqt_tape_get_num_parameters(x->tape, &x->num_slots) != DQT_OK) return 0;
    x->slots = calloc(x->num_slots, sizeof *x->slots);
    x->requests = calloc(2 * x->num_slots, sizeof(MPI_Request));
    if (!x->slots || !x->requests || !layout_create(&x->sums, x->ranks)) return 0;
    for (size_t i = 0; i < x->num_slots; i++) {
        if (!open_slot(x, i)) return 0;
        widest = larger(widest, x->slots[i].cols);
    }
    x->tile = malloc(TILE * widest * sizeof(float));
    return x->tile && create_messages(x) && dqt_tape_on_gradient(x->tape, gradient_ready, x) == DQT_OK;
}

struct exchange *exchange_create(dqt_tape *tape, dqt_updater *updater, enum wire_format format, uint64_t seed,
                                 int threads, MPI_Comm comm) {
    struct exchange *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->tape = tape;
    x->updater = updater;
    x->comm = comm;
    x->format = format;
    x->seed = seed;
    x->threads = threads;
    dqt_tape_options o = {.struct_size = sizeof o};
    if (dqt_tape_get_options(tape, &o) == DQT_OK) {
        x->one_buffer = o.no_gradient_buffers == 2;
        x->in_place = o.gradient_format == DQT_FLOAT_F32;
    }
    MPI_Comm_rank(comm, &x->rank);
    MPI_Comm_size(comm, &x->ranks);
    if (open_slots(x)) return x;
    exchange_destroy(x);
    return NULL;
}

void exchange_destroy(struct exchange *x) {
    if (!x) return;
    for (size_t i = 0; x->slots && i < x->num_slots; i++) {
        struct slot *s = &x->slots[i];
        free(s->sent.counts);
        free(s->received.counts);
        free(s->rows_of.counts);
        free(s->scales_of.counts);
        free(s->changes_of.counts);
        free(s->before);
        free(s->changes);
        free(s->scales);
    }
    free(x->slots);
    free(x->requests);
    free(x->send);
    free(x->receive);
    free(x->sums.counts);
    free(x->tile);
    free(x);
}

/* ---- What was done ------------------------------------------------------------------------------------------- */

size_t exchange_weights(const struct exchange *x) {
    size_t weights = 0;
    for (size_t i = 0; i < x->num_slots; i++)
        weights += x->slots[i].rows * x->slots[i].cols;
    return weights;
}

struct exchange_bytes exchange_sent(const struct exchange *x) {
    return x->bytes;
}

struct exchange_seconds exchange_spent(const struct exchange *x) {
    return x->seconds;
}

uint64_t exchange_hash(const struct exchange *x) {
    uint64_t h = FNV_FIRST;
    for (size_t i = 0; i < x->num_slots; i++) {
        const struct slot *s = &x->slots[i];
        h = fnv_hash(h, s->codes, s->rows * s->row_bytes);
        if (s->scales && dqt_tensor_get_scales(s->tensor, s->scales) == DQT_OK)
            h = fnv_hash(h, s->scales, s->rows * s->scales_per_row * sizeof(float));
    }
    return h;
}
