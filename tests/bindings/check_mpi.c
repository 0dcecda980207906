/* examples/mpi below its programs, under mpirun: gradients on the wire keep their mean and are a function of their key;
 * what the ranks exchange is the sum, in their order, of what each has packed; the step of all parts is that of one
 * updater. Prints what is not so and ends with 1. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exchange.h"

enum { BATCH = 2, LENGTH = 16, STEPS = 3, SEED = 5 };

static int rank, ranks, failures;
static dqt_context *ctx;

static void check(int good, const char *what, size_t at) {
    if (good) return;
    if (failures++ < 20) fprintf(stderr, "rank %d: %s (%zu)\n", rank, what, at);
}

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "rank %d: %s: %s\n", rank, dqt_status_string(status), dqt_last_error(ctx));
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static void *room(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size);
    if (!p) ok(DQT_E_MEMORY);
    return p;
}

/* ---- The wire ------------------------------------------------------------------------------------------------ */

enum { COLS = 300, DRAWS = 500 };

static void fill(float *x, float size) {
    for (size_t k = 0; k < COLS; k++)
        x[k] = size * sinf(1.7f * (float)k + 0.3f) * (float)(k % 7 + 1);
}

static void decode(enum wire_format format, const struct wire_key *key, size_t row, const float *x, float *y) {
    unsigned char bytes[4 * COLS];
    memset(y, 0, COLS * sizeof *y);
    wire_pack_row(format, key, row, x, COLS, bytes);
    wire_add_row(format, bytes, COLS, y);
}

/* Largest rounding of a number of a row. */
static float step_of(enum wire_format format, const float *x, size_t k) {
    if (format == WIRE_BF16) return ldexpf(1, ilogbf(x[k] == 0 ? 1 : x[k]) - 7);
    float most = 0;
    for (size_t c = k / 128 * 128; c < COLS && c < k / 128 * 128 + 128; c++)
        most = fmaxf(most, fabsf(x[c]));
    return most / 127;
}

/* Means over steps within 5 standard errors: a rounding's standard deviation is at most half of the step. */
static void check_mean(enum wire_format format, float size) {
    float x[COLS], y[COLS];
    double sum[COLS] = {0};
    fill(x, size);
    for (size_t step = 0; step < DRAWS; step++) {
        const struct wire_key key = {SEED, step, 3, 1};
        decode(format, &key, 9, x, y);
        for (size_t k = 0; k < COLS; k++) {
            check(fabsf(y[k] - x[k]) <= 1.001f * step_of(format, x, k), "rounded by more than a step", k);
            sum[k] += y[k];
        }
    }
    for (size_t k = 0; k < COLS; k++)
        check(fabs(sum[k] / DRAWS - x[k]) <= 5 * 0.5 * step_of(format, x, k) / sqrt(DRAWS), "the mean is not kept", k);
}

/* Rows packed with two keys: how many numbers are rounded alike. Independent ones of halves are so half of the time. */
static size_t alike(enum wire_format format, struct wire_key a, size_t row_a, struct wire_key b, size_t row_b) {
    float x[COLS], ya[COLS], yb[COLS];
    size_t count = 0;
    for (size_t k = 0; k < COLS; k++)
        x[k] = k % 128 == 0 ? 127.0f : (float)(k % 60) + 0.5f; /* INT8: the scale is 1 */
    if (format == WIRE_BF16)
        for (size_t k = 0; k < COLS; k++)
            x[k] = 1 + ldexpf(1, -8);
    decode(format, &a, row_a, x, ya);
    decode(format, &b, row_b, x, yb);
    for (size_t k = 0; k < COLS; k++)
        count += ya[k] == yb[k];
    return count;
}

static void check_keys(enum wire_format format) {
    const struct wire_key a = {SEED, 7, 2, 0};
    struct wire_key others[4] = {a, a, a, a};
    others[0].seed++;
    others[1].step++;
    others[2].parameter++;
    others[3].rank++;
    check(alike(format, a, 4, a, 4) == COLS, "the same key has other bits", 0);
    check(alike(format, a, 4, a, 5) < COLS * 2 / 3, "rows are rounded alike", 0);
    for (size_t i = 0; i < 4; i++) {
        const size_t n = alike(format, a, 4, others[i], 4);
        check(n > COLS / 3 && n < COLS * 2 / 3, "seed, step, parameter or rank: rounded alike", i);
    }
}

static void check_not_finite(enum wire_format format) {
    const struct wire_key key = {SEED, 0, 0, 0};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        float x[COLS], y[COLS];
        fill(x, 1);
        x[150] = bad[i];
        decode(format, &key, 0, x, y);
        check(!isfinite(y[150]), "a number that is not finite is lost", i);
        check(isfinite(y[0]), "what is not finite spreads", i);
    }
}

static void check_wire(enum wire_format format) {
    float zeros[COLS] = {0}, y[COLS];
    const struct wire_key key = {SEED, 0, 0, 0};
    for (float size = 1e-30f; size < 1e30f; size *= 1e15f)
        check_mean(format, size);
    check_keys(format);
    check_not_finite(format);
    decode(format, &key, 0, zeros, y);
    check(memcmp(y, zeros, sizeof y) == 0, "zeros are not zeros", 0);
}

enum { ROWS = 3001, MESSAGES = 3 }; /* enough for several threads */

/* Rows side by side, packed and added by threads: what row after row gives. */
static void check_rows(enum wire_format format) {
    const size_t row_bytes = wire_row_bytes(format, COLS), apart = ROWS * row_bytes;
    float *x = room(ROWS * COLS, sizeof *x), *sum = room(ROWS * COLS, sizeof *sum), *y = room(COLS, sizeof *y);
    unsigned char *bytes = room(MESSAGES, apart), *row = room(1, row_bytes);
    for (size_t r = 0; r < ROWS; r++)
        fill(x + r * COLS, 1 + (float)r);
    for (int threads = 1; threads <= 5; threads += 2) {
        const struct wire_rows rows = {format, 7, ROWS, COLS, threads};
        for (int m = 0; m < MESSAGES; m++)
            wire_pack_rows(&rows, &(struct wire_key){SEED, 2, 3, m}, x, bytes + (size_t)m * apart);
        for (size_t k = 0; k < ROWS * COLS; k++)
            sum[k] = NAN;
        wire_sum_rows(&rows, MESSAGES, bytes, apart, sum);
        for (size_t r = 0; r < ROWS; r++) {
            memset(y, 0, COLS * sizeof *y);
            for (int m = 0; m < MESSAGES; m++) {
                wire_pack_row(format, &(struct wire_key){SEED, 2, 3, m}, 7 + r, x + r * COLS, COLS, row);
                check(memcmp(row, bytes + (size_t)m * apart + r * row_bytes, row_bytes) == 0, "threads: other bytes",
                      r);
                wire_add_row(format, row, COLS, y);
            }
            check(memcmp(y, sum + r * COLS, COLS * sizeof *y) == 0, "threads: another sum", r);
        }
    }
    free(x);
    free(sum);
    free(y);
    free(bytes);
    free(row);
}

/* ---- The exchange -------------------------------------------------------------------------------------------- */

struct replica {
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
    size_t count;
};

static struct replica replica(size_t part, size_t parts, int32_t no_gradient_buffers, int floats) {
    struct replica r;
    dqt_llama_config c;
    dqt_layer *const *layers;
    size_t num_layers;
    ok(dqt_llama_config_init(&c, sizeof c));
    c.hidden_size = 96;
    c.intermediate_size = 200;
    if (floats) c.embedding.storage = c.head.storage = DQT_FORMAT_F32;
    c.linear.scale_axis = DQT_AXIS_ROW;
    c.linear.train_scale = 1;
    dqt_tensor_override o = {.pattern = "blocks.*.mlp.*"}; /* read in another format: what is derived has to follow */
    ok(dqt_tensor_options_init(&o.options, sizeof o.options));
    o.options.storage = DQT_FORMAT_INT8;
    o.options.compute = DQT_FORMAT_TERNARY;
    c.overrides = &o;
    c.num_overrides = 1;
    ok(dqt_llama_create(ctx, &c, &r.model));
    ok(dqt_llama_get_layers(r.model, &layers, &num_layers));
    dqt_tape_options t;
    ok(dqt_tape_options_init(&t, sizeof t));
    t.max_batch = BATCH;
    t.max_length = LENGTH;
    t.no_gradient_buffers = no_gradient_buffers;
    ok(dqt_tape_create(ctx, layers, num_layers, &t, &r.tape));
    dqt_updater_options u;
    ok(dqt_updater_options_init(&u, sizeof u));
    u.optimizer = DQT_OPTIMIZER_ADAFACTOR;
    u.clip = DQT_CLIP_PREVIOUS_NORM;
    u.lagged = 1;
    u.part = part;
    u.num_parts = parts;
    ok(dqt_updater_create(ctx, layers, num_layers, &u, &r.updater));
    ok(dqt_tape_get_num_parameters(r.tape, &r.count));
    return r;
}

static void release(struct replica *r) {
    dqt_updater_destroy(r->updater);
    dqt_tape_destroy(r->tape);
    dqt_llama_destroy(r->model);
}

static dqt_parameter parameter(const struct replica *r, size_t index) {
    dqt_parameter p = {.struct_size = sizeof p};
    ok(dqt_tape_get_parameter(r->tape, index, &p));
    return p;
}

static float loss_of(struct replica *r, size_t step) {
    int32_t tokens[BATCH * LENGTH], targets[BATCH * LENGTH];
    for (size_t i = 0; i < BATCH * LENGTH; i++) {
        tokens[i] = (int32_t)((i * 7 + step * 31 + (size_t)rank * 57) % 256);
        targets[i] = (tokens[i] + 3) % 256;
    }
    const dqt_batch batch = {
        .struct_size = sizeof batch, .batch = BATCH, .length = LENGTH, .tokens = tokens, .targets = targets};
    float loss;
    ok(dqt_llama_loss(r->model, r->tape, &batch, &loss, NULL));
    return loss;
}

static void backward(struct replica *r, size_t step) {
    loss_of(r, step);
    ok(dqt_llama_backward(r->model, r->tape, 1.0f / (float)ranks));
}

/* Of gradients[ranks][rows][cols] the sum of what is packed, in the order of ranks, added to sum[rows][cols]. */
static void add_packed(enum wire_format format, size_t step, size_t index, const dqt_parameter *p,
                       const float *gradients, float *sum) {
    const size_t size = p->rows * p->cols;
    unsigned char *bytes = room(wire_row_bytes(format, p->cols), 1);
    for (int r = 0; r < ranks; r++)
        for (size_t row = 0; row < p->rows; row++) {
            const struct wire_key key = {SEED, step, index, r};
            wire_pack_row(format, &key, row, gradients + (size_t)r * size + row * p->cols, p->cols, bytes);
            wire_add_row(format, bytes, p->cols, sum + row * p->cols);
        }
    free(bytes);
}

/* The gradients of `from` as each rank has them, before they are exchanged, to the reference's tape. */
static void reference_gradients(enum wire_format format, size_t step, struct replica *from, struct replica *whole) {
    for (size_t i = 0; i < from->count; i++) {
        const dqt_parameter p = parameter(from, i);
        const size_t size = p.rows * p.cols;
        float *all = room((size_t)ranks * size, sizeof *all), *own, *sum;
        ok(dqt_tape_gradient_data(from->tape, i, &own));
        ok(dqt_tape_gradient_data(whole->tape, i, &sum));
        MPI_Allgather(own, (int)size, MPI_FLOAT, all, (int)size, MPI_FLOAT, MPI_COMM_WORLD);
        memset(sum, 0, size * sizeof *sum);
        add_packed(format, step, i, &p, all, sum);
        free(all);
    }
}

static void same_gradients(struct replica *part, struct replica *whole) {
    for (size_t i = 0; i < part->count; i++) {
        const dqt_parameter p = parameter(part, i);
        size_t row, count;
        float *a, *b;
        ok(dqt_updater_get_part(part->updater, i, (size_t)rank, (size_t)ranks, &row, &count));
        ok(dqt_tape_gradient_data(part->tape, i, &a));
        ok(dqt_tape_gradient_data(whole->tape, i, &b));
        check(memcmp(a + row * p.cols, b + row * p.cols, count * p.cols * sizeof *a) == 0, "another sum", i);
    }
}

static void same_weights(struct replica *a, struct replica *b) {
    for (size_t i = 0; i < a->count; i++) {
        const dqt_parameter pa = parameter(a, i), pb = parameter(b, i);
        dqt_tensor_info info = {.struct_size = sizeof info};
        void *da, *db;
        size_t bytes;
        ok(dqt_tensor_get_info(pa.tensor, &info));
        ok(dqt_tensor_data(pa.tensor, &da, &bytes));
        ok(dqt_tensor_data(pb.tensor, &db, &bytes));
        check(memcmp(da, db, bytes) == 0, "other codes than of one updater", i);
        float *sa = room(info.num_scales, sizeof *sa), *sb = room(info.num_scales, sizeof *sb);
        if (info.num_scales) ok(dqt_tensor_get_scales(pa.tensor, sa));
        if (info.num_scales) ok(dqt_tensor_get_scales(pb.tensor, sb));
        check(memcmp(sa, sb, info.num_scales * sizeof *sa) == 0, "other scales than of one updater", i);
        free(sa);
        free(sb);
    }
    const float la = loss_of(a, 0), lb = loss_of(b, 0);
    check(memcmp(&la, &lb, sizeof la) == 0, "another loss than of one updater", 0);
}

/* Gradients of rows that others update, once for each step. */
static double gradient_bytes(enum wire_format format, const struct replica *r) {
    double bytes = 0;
    for (size_t i = 0; i < r->count; i++) {
        const dqt_parameter p = parameter(r, i);
        size_t row, count;
        ok(dqt_updater_get_part(r->updater, i, (size_t)rank, (size_t)ranks, &row, &count));
        bytes += (double)((p.rows - count) * wire_row_bytes(format, p.cols));
    }
    return STEPS * bytes;
}

/* Two micro-batches in buffers, exchanged while the second one's backward runs. */
static void step_from_buffers(enum wire_format format, size_t step, struct exchange *x, struct replica *part,
                              struct replica *whole, const dqt_step_options *options, dqt_step_stats *stats) {
    ok(dqt_tape_zero_gradients(part->tape));
    backward(part, 2 * step);
    exchange_begin(x);
    backward(part, 2 * step + 1);
    reference_gradients(format, step, part, whole);
    ok(exchange_gradients(x));
    same_gradients(part, whole);
    ok(exchange_step(x, options, stats));
}

/* One buffer: the reference, which has the same weights, makes the gradients once more. */
static void step_in_backward(enum wire_format format, size_t step, struct exchange *x, struct replica *part,
                             struct replica *whole, const dqt_step_options *options, dqt_step_stats *stats) {
    ok(dqt_tape_zero_gradients(whole->tape));
    backward(whole, step);
    reference_gradients(format, step, whole, whole);
    exchange_begin(x);
    ok(dqt_tape_begin_update(part->tape, part->updater, options));
    backward(part, step);
    ok(exchange_end_update(x, stats));
}

/* What changes of float matrices, on the wire as INT8, unless gradients are sent as floats. */
struct change {
    float *weights, *before;
    size_t rows, cols, index;
};

enum { MATRICES = 2 }; /* embedding and head */

static void open_changes(struct replica *r, struct change changes[MATRICES]) {
    size_t count = 0;
    for (size_t i = 0; i < r->count; i++) {
        const dqt_parameter p = parameter(r, i);
        dqt_tensor_info info = {.struct_size = sizeof info};
        void *data;
        size_t bytes;
        ok(dqt_tensor_get_info(p.tensor, &info));
        ok(dqt_tensor_data(p.tensor, &data, &bytes));
        if (info.storage != DQT_FORMAT_F32 || p.rows == 1 || count == MATRICES) continue;
        changes[count++] = (struct change){data, room(bytes, 1), p.rows, p.cols, i};
    }
    check(count == MATRICES, "not as many float matrices", count);
}

static void before_step(struct change changes[MATRICES]) {
    for (int m = 0; m < MATRICES; m++)
        memcpy(changes[m].before, changes[m].weights, changes[m].rows * changes[m].cols * sizeof(float));
}

static void round_changes(struct change changes[MATRICES], size_t step, const struct replica *of) {
    for (int m = 0; m < MATRICES; m++) {
        const struct change *c = &changes[m];
        unsigned char *bytes = room(wire_row_bytes(WIRE_INT8, c->cols), 1);
        float *change = room(c->cols, sizeof *change);
        for (size_t row = 0; row < c->rows; row++) {
            const struct wire_key key = {SEED, step, of->count + c->index, 0};
            float *weights = c->weights + row * c->cols;
            const float *before = c->before + row * c->cols;
            for (size_t k = 0; k < c->cols; k++)
                change[k] = weights[k] - before[k];
            wire_pack_row(WIRE_INT8, &key, row, change, c->cols, bytes);
            memcpy(weights, before, c->cols * sizeof *weights);
            wire_add_row(WIRE_INT8, bytes, c->cols, weights);
        }
        free(change);
        free(bytes);
        ok(dqt_tensor_touch(parameter(of, c->index).tensor));
    }
}

static void check_exchange(enum wire_format format, int one_buffer, int floats) {
    struct replica part = replica((size_t)rank, (size_t)ranks, one_buffer ? 2 : 0, floats),
                   whole = replica(0, 1, 0, floats);
    struct change changes[MATRICES] = {{0}};
    const int rounded = floats && format != WIRE_F32;
    if (rounded) open_changes(&whole, changes);
    struct exchange *x = exchange_create(part.tape, part.updater, format, SEED, 2, MPI_COMM_WORLD);
    if (!x) ok(DQT_E_MEMORY);
    const dqt_step_options options = {.struct_size = sizeof options, .learning_rate = 1e-2f};
    dqt_step_stats a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b};
    const uint64_t before = exchange_hash(x);
    for (size_t step = 0; step < STEPS; step++) {
        if (rounded) before_step(changes);
        (one_buffer ? step_in_backward : step_from_buffers)(format, step, x, &part, &whole, &options, &a);
        ok(dqt_updater_step(whole.updater, whole.tape, &options, &b));
        if (rounded) round_changes(changes, step, &whole);
        same_weights(&part, &whole);
        check(memcmp(&a, &b, sizeof a) == 0, "other statistics", step);
    }
    check(exchange_hash(x) != before, "nothing was learnt", 0);
    check(exchange_sent(x).gradients == gradient_bytes(format, &part), "other bytes than of one exchange a step", 0);
    exchange_destroy(x);
    for (int m = 0; m < MATRICES; m++)
        free(changes[m].before);
    release(&part);
    release(&whole);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    dqt_context_options c;
    ok(dqt_context_options_init(&c, sizeof c));
    c.num_threads = 1;
    ok(dqt_context_create(&c, &ctx));
    if (rank == 0) {
        check_wire(WIRE_BF16);
        check_wire(WIRE_INT8);
        check_rows(WIRE_F32);
        check_rows(WIRE_BF16);
        check_rows(WIRE_INT8);
    }
    for (int kind = 0; kind < 4; kind++) {
        check_exchange(WIRE_F32, kind & 1, kind & 2);
        check_exchange(WIRE_BF16, kind & 1, kind & 2);
        check_exchange(WIRE_INT8, kind & 1, kind & 2);
    }
    dqt_context_destroy(ctx);
    MPI_Allreduce(MPI_IN_PLACE, &failures, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Finalize();
    return failures != 0;
}
