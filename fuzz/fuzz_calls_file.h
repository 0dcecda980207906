/* The calls that read and write files; the last part of fuzz_calls.h. */
#ifndef FUZZ_CALLS_FILE_H
#define FUZZ_CALLS_FILE_H

/* An updater of this model, often. */
static struct object *updater_of(const struct object *model) {
    struct object *u = any(UPDATER);
    return u->handle && u->num_layers == 1 && u->layers[0] == model ? u : one_in(16) ? u : &nothing;
}

static dqt_status call_llama_save(void) {
    struct object *m = any(MODEL);
    return dqt_llama_save(m->handle, updater_of(m)->handle, "host", byte() % 5, file_name());
}
static dqt_status call_llama_write(void) {
    struct object *m = any(MODEL);
    struct hash h = {0};
    return dqt_llama_write(m->handle, updater_of(m)->handle, null_sometimes("host"), byte() % 5, hash_write, &h);
}
static dqt_status loaded(struct object *o, dqt_status status, dqt_llama *m, dqt_updater *u, void *host, size_t size) {
    REQUIRE(status == DQT_OK || (!u && !host && !size), "%d", status);
    dqt_updater_destroy(u);
    if (host) dqt_host_bytes_free(world.ctx[o->ctx], host, size);
    return created_model(o, status, m);
}
static dqt_status call_llama_load(void) {
    struct object *o = place(MODEL);
    dqt_llama *m = (dqt_llama *)&nothing;
    dqt_updater *u = NULL;
    void *host = NULL;
    size_t size = 0;
    if (!o) return DQT_E_STATE;
    const dqt_status status =
        dqt_llama_load(context(&o->ctx), file_name(), &m, one_in(2) ? &u : NULL, one_in(2) ? &host : NULL, &size);
    if (!host) size = 0;
    return loaded(o, status, m, u, host, size);
}
/* A copy of a model through memory, now and then with a wrong byte or cut off. */
static dqt_status call_llama_read(void) {
    struct object *o = place(MODEL), *from = any(MODEL);
    struct bytes b = {.piece = one_in(4) ? 7 : 0};
    dqt_llama *m = (dqt_llama *)&nothing;
    dqt_updater *u = NULL;
    void *host = NULL;
    size_t size = 0;
    if (!o) return DQT_E_STATE;
    if (from->handle) dqt_llama_write(from->handle, updater_of(from)->handle, "host", 4, bytes_write, &b);
    if (b.size && one_in(8)) b.data[(byte() * 256u + byte()) % b.size] ^= 4;
    if (b.size && one_in(8)) b.size -= byte() % b.size;
    const dqt_status status = dqt_llama_read(context(&o->ctx), bytes_read, &b, &m, &u, &host, &size);
    free(b.data);
    return loaded(o, status, m, u, host, size);
}
static dqt_status call_host_bytes_free(void) {
    int c;
    dqt_host_bytes_free(context(&c), NULL, 0);
    return DQT_OK;
}

static dqt_gguf_options *gguf_options(void) {
    dqt_gguf_options *o = make_options(sizeof *o, init_gguf_options);
    SET(o, dqt_gguf_options, tokens, NULL);
    SET(o, dqt_gguf_options, scores, NULL);
    SET(o, dqt_gguf_options, types, NULL);
    if (one_in(4)) SET(o, dqt_gguf_options, linear_type, enum_or_odd(0, 7));
    return o;
}
static dqt_status call_llama_export_gguf(void) {
    dqt_gguf_options *o = gguf_options();
    const dqt_status status = dqt_llama_export_gguf(any(MODEL)->handle, null_sometimes(o), file_name());
    free(o);
    return status;
}
static dqt_status call_llama_write_gguf(void) {
    struct hash h = {0};
    dqt_gguf_options *o = gguf_options();
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    if (one_in(2)) {
        SET(o, dqt_gguf_options, tokens, names);
        SET(o, dqt_gguf_options, num_tokens, any(MODEL)->out <= 8 ? any(MODEL)->out : 0);
    }
    const dqt_status status = dqt_llama_write_gguf(any(MODEL)->handle, null_sometimes(o), hash_write, &h);
    free(o);
    return status;
}

static dqt_safetensors_options *safetensors_options(void) {
    dqt_safetensors_options *o = make_options(sizeof *o, init_safetensors_options);
    SET(o, dqt_safetensors_options, dtype, enum_or_odd(0, 3));
    return o;
}
static dqt_status call_llama_export_safetensors(void) {
    dqt_safetensors_options *o = safetensors_options();
    const dqt_status status = dqt_llama_export_safetensors(any(MODEL)->handle, null_sometimes(o), file_name());
    free(o);
    return status;
}
static dqt_status call_llama_write_safetensors(void) {
    struct hash h = {0};
    dqt_safetensors_options *o = safetensors_options();
    const dqt_status status = dqt_llama_write_safetensors(any(MODEL)->handle, null_sometimes(o), hash_write, &h);
    free(o);
    return status;
}
static dqt_status call_llama_import_safetensors(void) {
    return dqt_llama_import_safetensors(any(MODEL)->handle, file_name(), enum_or_odd(1, 2), byte());
}

/* ---- The beginning of each sequence --------------------------------------------------------------------------- */

/* So that most calls find something to work on. */
static void prepare(void) {
    static const call_fn first[] = {call_tensor_create, call_llama_create,   call_tape_create,   call_updater_create,
                                    call_linear_create, call_session_create, call_sampler_create};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        first[i]();
}

#endif
