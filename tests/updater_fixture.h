/* One or more tensors with gradients and an updater, for the updater's tests. */
#ifndef UPDATER_FIXTURE_H
#define UPDATER_FIXTURE_H

#include "codes.h"
#include "core/parallel.h"
#include "core/status.h"
#include "isa_contexts.h"
#include "optim/updater.h"

static inline dqt_updater_options plain_options(int optimizer, int rounding, float beta1) {
    const dqt_updater_options o = {.struct_size = sizeof o,
                                   .optimizer = optimizer,
                                   .rounding = rounding,
                                   .beta1 = beta1,
                                   .beta2 = 0.95f,
                                   .eps = 1e-8f,
                                   .clip = DQT_CLIP_NONE,
                                   .clip_norm = 1.0f,
                                   .update_clip = 1.0f,
                                   .scale_lr = 1.0f,
                                   .seed = 11,
                                   .rounding_noise = 1.0f};
    return o;
}

static inline dqt_tensor *make_tensor(dqt_context *ctx, size_t rows, size_t cols, int storage, bool row_scales,
                                      uint64_t seed) {
    dqt_tensor_options o = {.struct_size = sizeof o,
                            .storage = storage,
                            .scale_rule = storage == DQT_FORMAT_INT8 ? DQT_SCALE_SIGMA : DQT_SCALE_ABSMEAN,
                            .scale_axis = row_scales ? DQT_AXIS_ROW : DQT_AXIS_TENSOR,
                            .sigma = 4.0f,
                            .train_scale = row_scales};
    dqt_tensor *t = NULL;
    if (tensor_create(ctx, rows, cols, &o, false, &t) != DQT_OK) {
        printf("no tensor: %s\n", dqt_last_error(ctx));
        abort();
    }
    float *w = random_floats(rows * cols, 0.05f, seed);
    tensor_quantize(t, w, false, 0);
    free(w);
    return t;
}

static inline dqt_updater *make_updater(dqt_context *ctx, const struct update_target *targets, size_t count,
                                        const dqt_updater_options *o) {
    dqt_updater *u = NULL;
    if (updater_create(ctx, targets, count, o, &u) != DQT_OK) {
        printf("no updater: %s\n", dqt_last_error(ctx));
        abort();
    }
    return u;
}

/* An f32 gradient buffer around data[rows][cols]. */
static inline struct gradient gradient_around(float *data, const dqt_tensor *t) {
    const struct gradient g = {.format = DQT_FLOAT_F32, .rows = t->rows, .cols = t->cols, .data = data};
    return g;
}

/* The fused step of one gradient per parameter, tiles in the order that the threads take them. */
struct fused_pass {
    dqt_updater *u;
    size_t index, rows, cols;
    const float *gradient;
};

static inline void fused_task(void *arg, size_t item, int lane) {
    const struct fused_pass *p = arg;
    const size_t row = item * 64, rows = p->rows - row < 64 ? p->rows - row : 64;
    (void)lane;
    updater_apply_rows(p->u, p->index, row, rows, p->gradient + row * p->cols, p->cols);
}

static inline dqt_status fused_step(dqt_updater *u, const struct gradient *const *gradients, float lr,
                                    dqt_step_stats *stats) {
    TRY(updater_begin(u, lr));
    for (size_t i = updater_num_parameters(u); i-- > 0;) {
        struct fused_pass p = {u, i, gradients[i]->rows, gradients[i]->cols, gradients[i]->data};
        updater_begin_parameter(u, i);
        parallel_run(updater_context(u), (p.rows + 63) / 64, WORK_UPDATE * (double)p.rows * (double)p.cols, fused_task,
                     &p);
        updater_end_parameter(u, i);
    }
    return updater_end(u, stats);
}

/* FNV-1a over tensors and the updater's whole state. */
static inline uint64_t hash_bytes(uint64_t h, const void *data, size_t bytes) {
    const unsigned char *b = data;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ b[i]) * 0x100000001B3u;
    return h;
}

static inline dqt_status hash_piece(void *arg, const struct state_array *a) {
    uint64_t *h = arg;
    *h = hash_bytes(*h, a->label, strlen(a->label));
    *h = hash_bytes(*h, a->data, a->count * a->element_size);
    return DQT_OK;
}

static inline uint64_t hash_tensor(uint64_t h, const dqt_tensor *t) {
    h = hash_bytes(h, t->data, t->data_bytes);
    return hash_bytes(h, t->half_scales ? (const void *)t->half_scales : t->scales, tensor_scale_bytes(t));
}

static inline uint64_t hash_all(dqt_updater *u) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < updater_num_parameters(u); i++)
        h = hash_tensor(h, updater_target(u, i)->tensor);
    if (updater_visit_state(u, hash_piece, &h) != DQT_OK) abort();
    return h;
}

/* A piece of state by its label; NULL if there is none. */
struct find_state {
    const char *label;
    void *data;
    size_t count, element_size;
};

static inline dqt_status find_piece(void *arg, const struct state_array *a) {
    struct find_state *f = arg;
    if (strcmp(a->label, f->label) == 0) {
        f->data = a->data;
        f->count = a->count;
        f->element_size = a->element_size;
    }
    return DQT_OK;
}

static inline struct find_state state_piece(dqt_updater *u, const char *label) {
    struct find_state f = {label, NULL, 0, 0};
    if (updater_visit_state(u, find_piece, &f) != DQT_OK) abort();
    return f;
}

static inline int8_t *codes_of(const dqt_tensor *t) {
    const size_t padded = round_up(t->cols, 64);
    int8_t *row = malloc(padded), *all = malloc(t->rows * t->cols);
    if (!row || !all) abort();
    for (size_t r = 0; r < t->rows; r++) {
        tensor_unpack_codes(t, r, row);
        memcpy(all + r * t->cols, row, t->cols);
    }
    free(row);
    return all;
}

static inline void set_code(dqt_tensor *t, int8_t code) {
    int8_t *row = malloc(round_up(t->cols, 64));
    if (!row) abort();
    memset(row, 0, round_up(t->cols, 64));
    memset(row, code, t->cols);
    for (size_t r = 0; r < t->rows; r++)
        tensor_pack_codes(t, r, row);
    free(row);
}

#endif
