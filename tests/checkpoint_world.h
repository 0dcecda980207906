/* A small model in training, its checkpoints in memory, and the checksums of one that a test changes. */
#ifndef CHECKPOINT_WORLD_H
#define CHECKPOINT_WORLD_H

#include "calls.h"
#include "counting_alloc.h"
#include "io/checkpoint.h"
#include "memory_file.h"

enum { BATCH = 2, LENGTH = 8, VOCAB = 40 };

struct job {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_updater *updater;
    dqt_tape *tape;
};

static inline dqt_llama_config small_config(void) {
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = VOCAB;
    c.hidden_size = 16;
    c.intermediate_size = 24;
    c.num_layers = 1;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    return c;
}

static inline void job_tape(struct job *j) {
    dqt_tape_options o;
    dqt_tape_options_init(&o, sizeof o);
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    dqt_layer *const *layers;
    size_t count;
    OK(j->ctx, dqt_llama_get_layers(j->model, &layers, &count));
    OK(j->ctx, dqt_tape_create(j->ctx, layers, count, &o, &j->tape));
}

static inline struct job job_new(dqt_context *ctx, const dqt_llama_config *config, const dqt_updater_options *options) {
    struct job j = {.ctx = ctx};
    dqt_layer *const *layers;
    size_t count;
    OK(ctx, dqt_llama_create(ctx, config, &j.model));
    OK(ctx, dqt_llama_get_layers(j.model, &layers, &count));
    OK(ctx, dqt_updater_create(ctx, layers, count, options, &j.updater));
    job_tape(&j);
    return j;
}

static inline void job_end(struct job *j) {
    dqt_tape_destroy(j->tape);
    dqt_updater_destroy(j->updater);
    dqt_llama_destroy(j->model);
}

/* The loss of a step's own batch, on cleared gradients. */
static inline void job_loss(struct job *j, uint64_t step) {
    int32_t tokens[BATCH * LENGTH], targets[BATCH * LENGTH];
    uint64_t random = 77 + step;
    for (int i = 0; i < BATCH * LENGTH; i++) {
        tokens[i] = (int32_t)(test_random(&random) % VOCAB);
        targets[i] = (tokens[i] * 3 + 1) % VOCAB;
    }
    float loss;
    OK(j->ctx, dqt_tape_zero_gradients(j->tape));
    OK(j->ctx, dqt_llama_loss(j->model, j->tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL));
}

/* Steps of one pass each. Precision AUTO may round gradients by random numbers of the pass: a new tape goes on with it.
 */
static inline void job_train(struct job *j, uint64_t first, uint64_t count) {
    OK(j->ctx, dqt_tape_set_pass(j->tape, first));
    for (uint64_t step = first; step < first + count; step++) {
        job_loss(j, step);
        OK(j->ctx, dqt_llama_backward(j->model, j->tape, 1));
        OK(j->ctx, dqt_updater_step(j->updater, j->tape, step_rate(0.02f), NULL));
    }
}

static inline dqt_updater_options updater_of(int32_t optimizer, int32_t momentum, int32_t variance, int32_t rounding) {
    dqt_updater_options o;
    dqt_updater_options_init(&o, sizeof o);
    o.optimizer = optimizer;
    o.momentum_state = momentum;
    o.variance_state = variance;
    o.rounding = rounding;
    o.weight_decay = 0.01f;
    return o;
}

static inline struct memory_file job_bytes(const struct job *j, const void *host, size_t host_size) {
    struct memory_file f = memory_new();
    OK(j->ctx, dqt_llama_write(j->model, j->updater, memory_write, &f, save_host(host, host_size)));
    return f;
}

/* A job that goes on from a file, and would write its bytes again. False where it cannot be read. */
static inline bool job_resume(dqt_context *ctx, struct memory_file *file, struct job *j) {
    *j = (struct job){.ctx = ctx};
    OK(ctx, read_checkpoint(ctx, memory_read, file, &j->model, &j->updater, NULL, NULL));
    if (!j->updater) return false;
    struct memory_file again = job_bytes(j, NULL, 0);
    CHECK(same_bytes(file, &again));
    free(again.bytes);
    job_tape(j);
    return true;
}

/* Both have the same bytes, which are not the file's. */
static inline bool jobs_moved_alike(const struct job *a, const struct job *b, const struct memory_file *file) {
    struct memory_file x = job_bytes(a, NULL, 0), y = job_bytes(b, NULL, 0);
    const bool alike = same_bytes(&x, &y) && !same_bytes(&x, file);
    free(x.bytes);
    free(y.bytes);
    return alike;
}

/* A trained model of this kind, written with `host`. */
static inline struct memory_file trained_file(dqt_context *ctx, const void *host, size_t host_size) {
    const dqt_llama_config c = small_config();
    const dqt_updater_options o =
        updater_of(DQT_OPTIMIZER_ADAMW, DQT_STATE_INT8, DQT_STATE_BF16, DQT_ROUND_ECO_STOCHASTIC);
    struct job j = job_new(ctx, &c, &o);
    job_train(&j, 0, 3);
    struct memory_file f = job_bytes(&j, host, host_size);
    job_end(&j);
    return f;
}

/* The payload of the first section of this tag and label. */
static inline unsigned char *find(const struct memory_file *f, const char *tag, const char *label) {
    for (size_t at = HEADER_BYTES; at < f->size;) {
        const size_t length = (size_t)get_le(f->bytes + at + 4, 4), payload = (size_t)get_le(f->bytes + at + 8, 8);
        if (memcmp(f->bytes + at, tag, 4) == 0 && length == strlen(label) &&
            memcmp(f->bytes + at + 16, label, length) == 0)
            return f->bytes + at + 16 + length + 4;
        at += length + payload + SECTION_FIXED_BYTES;
    }
    CHECKF(false, "no section %s %s", tag, label);
    return NULL;
}

/* Where the value of an entry begins; the entry is one of those that the payload, or a parameter's head, consists of.
 */
static inline unsigned char *entry(unsigned char *payload, const char *name) {
    for (unsigned char *e = payload;;) {
        const size_t length = (size_t)get_le(e, 2), bytes = (size_t)get_le(e + 2, 4);
        if (length == 0 || length > 60) break;
        if (length == strlen(name) && memcmp(e + 6, name, length) == 0) return e + 6 + length;
        e += 6 + length + bytes;
    }
    CHECKF(false, "no entry %s", name);
    return payload;
}

/* Writes the checksums of a file that was changed by hand. */
static inline void seal(struct memory_file *f) {
    struct crc32c table;
    crc32c_init(&table);
    put_le(f->bytes + HEADER_BYTES - 4, crc32c_add(&table, 0, f->bytes, HEADER_BYTES - 4), 4);
    for (size_t at = HEADER_BYTES; at < f->size;) {
        const size_t head = 16 + (size_t)get_le(f->bytes + at + 4, 4), payload = (size_t)get_le(f->bytes + at + 8, 8);
        if (head > f->size || payload > f->size - at) break;
        put_le(f->bytes + at + head, crc32c_add(&table, 0, f->bytes + at, head), 4);
        put_le(f->bytes + at + head + 4 + payload, crc32c_add(&table, 0, f->bytes + at, head + 4 + payload), 4);
        at += head + payload + 8;
    }
}

#endif
