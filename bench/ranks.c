/* Peak resident memory of each of several ranks that train one model data-parallel, beside what the planner says: 1, 2
 * and 4 processes, each with an updater of one part and a tape of one gradient buffer, which reduce a parameter's
 * gradient, update their rows of it and forget it (dqt_tape_end_update_part), and write one checkpoint in the end. One
 * rank has an updater of all rows and no gradient buffer. What they send each other goes through a file without a name,
 * so that no memory of a network is counted; gradients are added in the order of ranks.
 *
 *   build/bench/ranks            134 M weights; prints a table
 *   build/bench/ranks small      a small model, for a test of this program: all ranks must have the same loss in the
 * end
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../tests/calls.h"
#include "dqt.h"

enum { STEPS = 2, MOST_RANKS = 4, CHUNK = 1 << 16 };

struct method {
    const char *name;
    int32_t optimizer, momentum_state, rounding;
};

static const struct method methods[] = {
    {"AdamW, f32 states", DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_ROUND_STOCHASTIC},
    {"Adafactor, 8-bit momentum", DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_INT8, DQT_ROUND_ECO_STOCHASTIC},
};

/* What a rank tells the parent. */
struct figures {
    dqt_updater_memory_info updater;
    size_t planned;    /* bytes of model, tape and updater */
    double rss, saved; /* MiB: peak of the steps, and with the checkpoint */
    double file;       /* bytes of the checkpoint */
    float first, last; /* loss of this rank's tokens, and of all ranks' same tokens in the end */
};

struct shared {
    pthread_barrier_t barrier;
    struct figures of[MOST_RANKS];
};

struct rank {
    size_t own, count;
    struct shared *shared;
    int file;                 /* what ranks send each other */
    int pipes[MOST_RANKS][2]; /* of the checkpoint: from rank k to rank 0 */
    dqt_context *ctx;
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
};

static void stop(const char *sentence) {
    fprintf(stderr, "%s\n", sentence);
    exit(1);
}

static void ok(dqt_status status) {
    if (status != DQT_OK) stop(dqt_last_error(NULL));
}

static void put(const struct rank *r, const void *bytes, size_t size, size_t at) {
    for (size_t done = 0; done < size;) {
        const ssize_t n = pwrite(r->file, (const char *)bytes + done, size - done, (off_t)(at + done));
        if (n <= 0) stop("pwrite failed");
        done += (size_t)n;
    }
}

static void get(const struct rank *r, void *bytes, size_t size, size_t at) {
    for (size_t done = 0; done < size;) {
        const ssize_t n = pread(r->file, (char *)bytes + done, size - done, (off_t)(at + done));
        if (n <= 0) stop("pread failed");
        done += (size_t)n;
    }
}

static void meet(const struct rank *r) {
    pthread_barrier_wait(&r->shared->barrier);
}

/* Of part k the bytes from begin(k) on; the own ones are in place. */
static void all_gather(const struct rank *r, void *data, const size_t *offsets) {
    put(r, (char *)data + offsets[r->own], offsets[r->own + 1] - offsets[r->own], offsets[r->own]);
    meet(r);
    for (size_t k = 0; k < r->count; k++)
        if (k != r->own) get(r, (char *)data + offsets[k], offsets[k + 1] - offsets[k], offsets[k]);
    meet(r);
}

/* Inside backward: the own rows become the sum of all ranks', in their order. */
static int32_t reduce(void *user_data, size_t index) {
    const struct rank *r = user_data;
    static float chunk[CHUNK];
    dqt_parameter p = {.struct_size = sizeof p};
    float *g;
    size_t row, count;
    ok(dqt_tape_get_parameter(r->tape, index, &p));
    ok(dqt_tape_gradient_data(r->tape, index, &g));
    ok(dqt_updater_get_part(r->updater, index, r->own, r->count, &row, &count));
    const size_t bytes = p.rows * p.cols * sizeof *g;
    put(r, g, bytes, r->own * bytes);
    meet(r);
    g += row * p.cols;
    memset(g, 0, count * p.cols * sizeof *g);
    for (size_t k = 0; k < r->count; k++)
        for (size_t i = 0; i < count * p.cols; i += CHUNK) {
            const size_t n = count * p.cols - i < CHUNK ? count * p.cols - i : CHUNK;
            get(r, chunk, n * sizeof *chunk, k * bytes + (row * p.cols + i) * sizeof *chunk);
            for (size_t j = 0; j < n; j++)
                g[i + j] += chunk[j];
        }
    meet(r);
    return 0;
}

static void gather_weights(const struct rank *r) {
    size_t parameters;
    ok(dqt_tape_get_num_parameters(r->tape, &parameters));
    for (size_t i = 0; i < parameters; i++) {
        dqt_parameter p = {.struct_size = sizeof p};
        dqt_tensor_info info = {.struct_size = sizeof info};
        size_t bytes, offsets[MOST_RANKS + 1] = {0};
        void *data;
        ok(dqt_tape_get_parameter(r->tape, i, &p));
        ok(dqt_tensor_get_info(p.tensor, &info));
        ok(dqt_tensor_data(p.tensor, &data, &bytes));
        for (size_t k = 0; k < r->count; k++) {
            size_t row, count;
            ok(dqt_updater_get_part(r->updater, i, k, r->count, &row, &count));
            offsets[k + 1] = offsets[k] + count * info.row_bytes;
        }
        all_gather(r, data, offsets);
        ok(dqt_tensor_touch(p.tensor));
    }
}

static void create(struct rank *r, const dqt_llama_config *config, const struct method *m, struct figures *f) {
    dqt_context_options c = {.struct_size = sizeof c, .threading = DQT_THREADING_SERIAL};
    const dqt_tape_options t = {.struct_size = sizeof t,
                                .max_length = 256,
                                .recompute = 1,
                                .checkpoint_format = DQT_FLOAT_BF16,
                                .no_gradient_buffers = r->count > 1 ? 2 : 1};
    const dqt_updater_options u = {.struct_size = sizeof u,
                                   .optimizer = m->optimizer,
                                   .rounding = m->rounding,
                                   .momentum_state = m->momentum_state,
                                   .clip = DQT_CLIP_PREVIOUS_NORM,
                                   .lagged = 1,
                                   .part = r->own,
                                   .num_parts = r->count > 1 ? r->count : 0};
    dqt_llama_memory_info model = {.struct_size = sizeof model};
    dqt_tape_memory_info tape = {.struct_size = sizeof tape};
    dqt_layer *const *layers;
    size_t n;
    f->updater.struct_size = sizeof f->updater;
    ok(dqt_context_create(&c, &r->ctx));
    ok(dqt_llama_memory(r->ctx, config, &model));
    ok(dqt_llama_create(r->ctx, config, &r->model));
    ok(dqt_llama_get_layers(r->model, &layers, &n));
    ok(dqt_tape_memory(r->ctx, layers, n, &t, &tape));
    ok(dqt_updater_memory(r->ctx, layers, n, &u, &f->updater));
    ok(dqt_tape_create(r->ctx, layers, n, &t, &r->tape));
    ok(dqt_updater_create(r->ctx, layers, n, &u, &r->updater));
    if (r->count > 1) ok(dqt_tape_on_gradient(r->tape, reduce, r));
    f->planned = model.total + tape.total + f->updater.total;
}

static double peak(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024.0;
}

static float loss_of(const struct rank *r, size_t vocab, size_t text) {
    int32_t x[256], y[256];
    float loss;
    for (size_t i = 0; i < 256; i++) {
        x[i] = (int32_t)((i + 256 * text) * 7919 % vocab);
        y[i] = (int32_t)((i + 256 * text + 1) * 7919 % vocab);
    }
    ok(dqt_llama_loss(r->model, r->tape, batch_pairs(x, y, 1, 256), &loss, NULL));
    return loss;
}

static int32_t to_pipe(void *user_data, const void *buffer, size_t size) {
    const int pipe = *(const int *)user_data;
    for (size_t done = 0; done < size;) {
        const ssize_t n = write(pipe, (const char *)buffer + done, size - done);
        if (n <= 0) return 1;
        done += (size_t)n;
    }
    return 0;
}

static size_t from_pipe(void *user_data, size_t part, void *buffer, size_t size) {
    const struct rank *r = user_data;
    const ssize_t n = read(r->pipes[part][0], buffer, size);
    return n < 0 ? SIZE_MAX : (size_t)n;
}

static int32_t count_bytes(void *user_data, const void *buffer, size_t size) {
    (void)buffer;
    *(double *)user_data += (double)size;
    return 0;
}

static void save(struct rank *r, struct figures *f) {
    const dqt_save_options o = {.struct_size = sizeof o, .read_part = from_pipe, .part_user_data = r};
    if (r->own == 0)
        ok(dqt_llama_write(r->model, r->updater, count_bytes, &f->file, &o));
    else
        ok(dqt_updater_write_part(r->updater, to_pipe, &r->pipes[r->own][1]));
}

static void run(struct rank *r, const dqt_llama_config *config, const struct method *m) {
    struct figures *f = &r->shared->of[r->own];
    dqt_step_options step = {
        .struct_size = sizeof step, .learning_rate = 2e-3f, .gradient_scale = 1.0f / (float)r->count};
    create(r, config, m, f);
    for (int s = 0; s < STEPS; s++) {
        dqt_step_sums sums = {.struct_size = sizeof sums};
        const float loss = loss_of(r, config->vocab_size, r->own);
        if (s == 0) f->first = loss;
        ok(dqt_tape_begin_update(r->tape, r->updater, &step));
        ok(dqt_llama_backward(r->model, r->tape, 1));
        ok(dqt_tape_end_update_part(r->tape, &sums, NULL));
        while (sums.data) {
            all_gather(r, sums.data, sums.offsets);
            ok(dqt_updater_continue_step(r->updater, r->tape, &sums, NULL));
        }
        if (r->count > 1) gather_weights(r);
    }
    f->rss = peak();
    f->last = loss_of(r, config->vocab_size, 0);
    save(r, f);
    f->saved = peak();
    exit(0);
}

static const double MIB = 1048576.0;

/* Returns whether all went well. */
static int measure(const dqt_llama_config *config, const struct method *m, size_t count) {
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct rank r = {.count = count, .shared = shared};
    pthread_barrierattr_t attributes;
    FILE *file = tmpfile();
    if (shared == MAP_FAILED || !file) stop("no shared memory or file");
    r.file = fileno(file);
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared->barrier, &attributes, (unsigned)count);
    for (size_t k = 0; k < count; k++)
        if (pipe(r.pipes[k])) stop("no pipe");
    pid_t children[MOST_RANKS];
    int good = 1;
    fflush(stdout);
    for (size_t k = 0; k < count; k++) {
        r.own = k;
        children[k] = fork();
        if (children[k] == 0) run(&r, config, m);
        if (children[k] < 0) stop("no process");
    }
    for (size_t ended = 0; ended < count; ended++) {
        int status;
        wait(&status);
        if (status == 0 || !good) continue;
        good = 0; /* the others wait for it */
        for (size_t k = 0; k < count; k++)
            kill(children[k], 9);
    }
    const struct figures *f = shared->of;
    double state = 0, planned = 0, rss = 0, saved = 0;
    for (size_t k = 0; k < count; k++) {
        const double own = (double)(f[k].updater.momentum + f[k].updater.variance + f[k].updater.scales);
        good = good && f[k].last < f[0].first && f[k].last == f[0].last;
        state = own > state ? own : state;
        planned = (double)f[k].planned > planned ? (double)f[k].planned : planned;
        rss = f[k].rss > rss ? f[k].rss : rss;
        saved = f[k].saved > saved ? f[k].saved : saved;
    }
    printf("%-26s %5zu %9.1f %9.1f %9.1f %9.1f %9.1f   %.3f -> %.3f%s\n", m->name, count, state / MIB, planned / MIB,
           rss, saved, f[0].file / MIB, (double)f[0].first, (double)f[0].last, good ? "" : "   FAILED");
    for (size_t k = 0; k < count; k++)
        for (int end = 0; end < 2; end++)
            close(r.pipes[k][end]);
    fclose(file);
    munmap(shared, sizeof *shared);
    return good;
}

int main(int argc, char **argv) {
    dqt_llama_config c = {.struct_size = sizeof c,
                          .vocab_size = 32002,
                          .hidden_size = 768,
                          .intermediate_size = 2048,
                          .num_layers = 12,
                          .num_heads = 12};
    if (argc > 1 && strcmp(argv[1], "small") == 0) {
        c.vocab_size = 512;
        c.hidden_size = 128;
        c.intermediate_size = 256;
        c.num_layers = 2;
        c.num_heads = 4;
    } else if (argc > 1) {
        stop("the only argument is: small");
    }
    c.linear.storage = DQT_FORMAT_TERNARY;
    c.embedding.storage = c.head.storage = DQT_FORMAT_INT8;
    int good = 1;
    printf("MiB of the largest rank      ranks     state   planned  peak RSS   +saving      file   loss of rank 0\n");
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++)
        for (size_t ranks = 1; ranks <= MOST_RANKS; ranks *= 2)
            good = measure(&c, &methods[m], ranks) && good;
    return good ? 0 : 1;
}
