/* Short ways to write the structs that calls of dqt.h take. */
#ifndef CALLS_H
#define CALLS_H

#ifndef DQT_EXPERIMENTAL
#define DQT_EXPERIMENTAL 1
#endif
#include "dqt.h"

#define batch_shape(b, l) (&(dqt_batch){.struct_size = sizeof(dqt_batch), .batch = (b), .length = (l)})
#define batch_tokens(t, b, l)                                                                                          \
    (&(dqt_batch){.struct_size = sizeof(dqt_batch), .batch = (b), .length = (l), .tokens = (t)})
#define batch_targets(t, b, l)                                                                                         \
    (&(dqt_batch){.struct_size = sizeof(dqt_batch), .batch = (b), .length = (l), .targets = (t)})
#define batch_pairs(in, to, b, l)                                                                                      \
    (&(dqt_batch){.struct_size = sizeof(dqt_batch), .batch = (b), .length = (l), .tokens = (in), .targets = (to)})
#define step_rate(rate) (&(dqt_step_options){.struct_size = sizeof(dqt_step_options), .learning_rate = (rate)})
#define session_of(length) (&(dqt_session_options){.struct_size = sizeof(dqt_session_options), .max_length = (length)})
#define save_host(bytes, size)                                                                                         \
    (&(dqt_save_options){.struct_size = sizeof(dqt_save_options), .host = (bytes), .host_size = (size)})
#define import_rounding(how, number)                                                                                   \
    (&(dqt_import_options){.struct_size = sizeof(dqt_import_options), .rounding = (how), .seed = (number)})

/* What a checkpoint holds, into variables; NULL: not wanted. */
static inline dqt_status checkpoint_parts(dqt_status status, const dqt_checkpoint *c, dqt_llama **model,
                                          dqt_updater **updater, void **host, size_t *host_size) {
    *model = c->model;
    if (updater) *updater = c->updater;
    if (host) *host = c->host;
    if (host_size) *host_size = c->host_size;
    return status;
}

static inline dqt_load_options checkpoint_wanted(dqt_updater **updater, void **host) {
    return (dqt_load_options){.struct_size = sizeof(dqt_load_options), .skip_updater = !updater, .skip_host = !host};
}

static inline dqt_status load_checkpoint(dqt_context *ctx, const char *path, dqt_llama **model, dqt_updater **updater,
                                         void **host, size_t *host_size) {
    dqt_checkpoint c = {.struct_size = sizeof c};
    const dqt_load_options o = checkpoint_wanted(updater, host);
    const dqt_status status = dqt_llama_load(ctx, path, &o, &c);
    return checkpoint_parts(status, &c, model, updater, host, host_size);
}

static inline dqt_status read_checkpoint(dqt_context *ctx, dqt_read_fn read, void *user_data, dqt_llama **model,
                                         dqt_updater **updater, void **host, size_t *host_size) {
    dqt_checkpoint c = {.struct_size = sizeof c};
    const dqt_load_options o = checkpoint_wanted(updater, host);
    const dqt_status status = dqt_llama_read(ctx, read, user_data, &o, &c);
    return checkpoint_parts(status, &c, model, updater, host, host_size);
}

#endif
