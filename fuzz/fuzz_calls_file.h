/* The calls that read and write files; the last part of fuzz_calls.h. */
#ifndef FUZZ_CALLS_FILE_H
#define FUZZ_CALLS_FILE_H

/* An updater of this model, often. */
static struct object *updater_of(const struct object *model) {
    struct object *u = any(UPDATER);
    return u->handle && u->num_layers == 1 && u->layers[0] == model ? u : one_in(16) ? u : &nothing;
}

/* Parts that nobody sends. */
static size_t no_part(void *user_data, size_t part, void *buffer, size_t size) {
    (void)user_data;
    memset(buffer, (int)part, size);
    return one_in(3) ? SIZE_MAX : one_in(2) ? 0 : size;
}

static const dqt_save_options *save_options(void) {
    static dqt_save_options o;
    o = (dqt_save_options)DQT_INIT(dqt_save_options);
    o.host = null_sometimes("host");
    o.host_size = byte() % 5;
    if (one_in(4)) o.tape = any(TAPE)->handle;
    if (one_in(4)) o.read_part = no_part;
    return null_sometimes(&o);
}
static const dqt_load_options *load_options(void) {
    static dqt_load_options o;
    o = (dqt_load_options)DQT_INIT(dqt_load_options);
    o.skip_updater = enum_or_odd(0, 2);
    o.skip_host = enum_or_odd(0, 2);
    if (one_in(8)) o.num_parts = (uint64_t)size_or_odd(byte() % 4);
    if (one_in(8)) o.part = byte() % 4;
    if (one_in(8)) o.first_block = size_or_odd(byte() % 3);
    if (one_in(8)) o.num_blocks = size_or_odd(byte() % 3);
    return null_sometimes(&o);
}
static dqt_status call_llama_save(void) {
    struct object *m = any(MODEL);
    return dqt_llama_save(m->handle, updater_of(m)->handle, file_name(), save_options());
}
static dqt_status call_llama_write(void) {
    struct object *m = any(MODEL);
    struct hash h = {0};
    return dqt_llama_write(m->handle, updater_of(m)->handle, one_in(48) ? NULL : hash_write, &h, save_options());
}
/* The updater is of this model alone and goes with it: here at once. */
static dqt_status loaded(struct object *o, dqt_status status, dqt_checkpoint *c) {
    REQUIRE(status == DQT_OK || (!c->updater && !c->host && !c->host_size), "%d", status);
    dqt_updater_destroy(c->updater);
    if (c->host) dqt_host_bytes_free(world.ctx[o->ctx], c->host, c->host_size);
    return created_model(o, status, c->model);
}
static dqt_status call_llama_load(void) {
    struct object *o = place(MODEL);
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    if (!o) return DQT_E_STATE;
    const dqt_status status = dqt_llama_load(context(&o->ctx), file_name(), load_options(), &c);
    return loaded(o, status, &c);
}
/* Now and then with a wrong byte or cut off. */
static void damage(struct bytes *b) {
    b->piece = one_in(4) ? 7 : 0;
    if (b->size && one_in(8)) b->data[(byte() * 256u + byte()) % b->size] ^= 4;
    if (b->size && one_in(8)) b->size -= byte() % b->size;
}
static dqt_status call_llama_read(void) {
    struct object *o = place(MODEL), *from = any(MODEL);
    struct bytes b = {0};
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    if (!o) return DQT_E_STATE;
    if (from->handle) dqt_llama_write(from->handle, updater_of(from)->handle, bytes_write, &b, NULL);
    damage(&b);
    const dqt_status status = dqt_llama_read(context(&o->ctx), bytes_read, &b, load_options(), &c);
    free(b.data);
    return loaded(o, status, &c);
}

/* Lists of layers, usually with an updater of the same. */
static struct object *updater_of_list(const struct object *o) {
    for (int i = 0; i < SLOTS; i++) {
        struct object *u = &world.objects[UPDATER][i];
        if (u->handle && u->num_layers == o->num_layers && memcmp(u->layers, o->layers, sizeof u->layers) == 0)
            return u;
    }
    return one_in(8) ? any(UPDATER) : &nothing;
}
static dqt_status call_layers_save(void) {
    struct object o = {0};
    struct list l;
    list_layers(&o, &l);
    return dqt_layers_save(l.layers, l.count, updater_of_list(&o)->handle, file_name(), save_options());
}
static dqt_status call_layers_write(void) {
    struct object o = {0};
    struct list l;
    struct hash h = {0};
    list_layers(&o, &l);
    return dqt_layers_write(l.layers, l.count, updater_of_list(&o)->handle, hash_write, &h, save_options());
}
static dqt_status call_layers_load(void) {
    struct object o = {0};
    struct list l;
    list_layers(&o, &l);
    return dqt_layers_load(l.layers, l.count, updater_of_list(&o)->handle, file_name(), load_options(), NULL);
}
static dqt_status call_layers_read(void) {
    struct object o = {0};
    struct list l;
    struct bytes b = {0};
    list_layers(&o, &l);
    void *updater = updater_of_list(&o)->handle;
    if (l.count && l.layers[0]) dqt_layers_write(l.layers, l.count, updater, bytes_write, &b, NULL);
    damage(&b);
    const dqt_status status =
        dqt_layers_read(l.layers, l.count, one_in(4) ? NULL : updater, bytes_read, &b, load_options(), NULL);
    free(b.data);
    return status;
}
static dqt_status call_updater_write(void) {
    struct hash h = {0};
    return dqt_updater_write(any(UPDATER)->handle, hash_write, &h);
}
static dqt_status call_updater_write_part(void) {
    struct hash h = {0};
    return dqt_updater_write_part(any(UPDATER)->handle, one_in(48) ? NULL : hash_write, &h);
}
static dqt_status call_llama_write_part(void) {
    struct hash h = {0};
    struct object *u = any(UPDATER);
    return dqt_llama_write_part(model_of(u)->handle, one_in(4) ? NULL : u->handle, one_in(48) ? NULL : hash_write, &h);
}
static dqt_status call_updater_read(void) {
    struct bytes b = {0};
    struct object *u = any(UPDATER);
    if (u->handle) dqt_updater_write(u->handle, bytes_write, &b);
    damage(&b);
    const dqt_status status = dqt_updater_read(one_in(8) ? any(UPDATER)->handle : u->handle, bytes_read, &b);
    free(b.data);
    return status;
}
static dqt_status call_host_bytes_free(void) {
    int c;
    dqt_host_bytes_free(context(&c), NULL, 0);
    return DQT_OK;
}

/* A tokenizer.json, or another; a part of it. */
static void set_tokenizer(dqt_gguf_options *o) {
    static const char text[] = "{\"added_tokens\":[{\"id\":3,\"content\":\"<e>\",\"special\":true}],\"pre_tokenizer\":{"
                               "\"type\":\"ByteLevel\"},"
                               "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}";
    const bool given = one_in(4);
    SET(o, dqt_gguf_options, tokenizer, one_in(16) ? "/dev/null" : NULL);
    SET(o, dqt_gguf_options, tokenizer_json, given ? text : NULL);
    SET(o, dqt_gguf_options, tokenizer_json_size, !given ? 0 : one_in(4) ? one_in(2) : sizeof text - 1);
}
/* With names for the few tokens of our models. */
static dqt_gguf_options *gguf_options(const struct object *model) {
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    static const char *const merges[] = {"a b", "c"};
    static const dqt_gguf_key keys[] = {
        {sizeof keys[0], .key = "general.name", .value_type = 8, .text = "x"},
        {sizeof keys[0], .key = "general.tags", .value_type = 9, .texts = names, .num_texts = 8},
        {sizeof keys[0], .key = "tokenizer.ggml.model", .value_type = 4},
        {sizeof keys[0], .value_type = 13}};
    dqt_gguf_options *o = make_options(sizeof *o, init_gguf_options);
    const bool named = model->out <= 8 && !one_in(8);
    SET(o, dqt_gguf_options, tokens, named ? names : NULL);
    SET(o, dqt_gguf_options, num_tokens, named ? model->out : 0);
    SET(o, dqt_gguf_options, scores, NULL);
    SET(o, dqt_gguf_options, types, NULL);
    SET(o, dqt_gguf_options, source, one_in(8) ? "/dev/null" : NULL);
    const size_t num_keys = one_in(2) ? 0 : one_in(8) ? 4 : one_in(8) ? 3 : 2, num_merges = one_in(8) ? 2 : one_in(4);
    SET(o, dqt_gguf_options, keys, num_keys ? keys : NULL);
    SET(o, dqt_gguf_options, num_keys, num_keys);
    SET(o, dqt_gguf_options, merges, num_merges ? merges : NULL);
    SET(o, dqt_gguf_options, num_merges, num_merges);
    SET(o, dqt_gguf_options, pre_tokenizer, num_merges ? "gpt-2" : NULL);
    set_tokenizer(o);
    if (one_in(4)) SET(o, dqt_gguf_options, linear_type, enum_or_odd(0, 8));
    return o;
}
static dqt_status call_llama_export_gguf(void) {
    struct object *m = any(MODEL);
    dqt_gguf_options *o = gguf_options(m);
    const dqt_status status = dqt_llama_export_gguf(m->handle, file_name(), null_sometimes(o));
    free(o);
    return status;
}
static dqt_status call_llama_write_gguf(void) {
    struct object *m = any(MODEL);
    struct hash h = {0};
    dqt_gguf_options *o = gguf_options(m);
    const dqt_status status = dqt_llama_write_gguf(m->handle, hash_write, &h, null_sometimes(o));
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
    const dqt_status status = dqt_llama_export_safetensors(any(MODEL)->handle, file_name(), null_sometimes(o));
    free(o);
    return status;
}
static dqt_status call_llama_export_folder(void) {
    dqt_safetensors_options *o = safetensors_options();
    const dqt_status status =
        dqt_llama_export_folder(any(MODEL)->handle, one_in(8) ? file_name() : world.folder, null_sometimes(o));
    free(o);
    return status;
}
static dqt_status call_llama_write_safetensors(void) {
    struct hash h = {0};
    dqt_safetensors_options *o = safetensors_options();
    const dqt_status status = dqt_llama_write_safetensors(any(MODEL)->handle, hash_write, &h, null_sometimes(o));
    free(o);
    return status;
}
static dqt_status call_llama_import_safetensors(void) {
    dqt_import_options *o = make_options(sizeof *o, init_import_options);
    SET(o, dqt_import_options, rounding, enum_or_odd(0, 3));
    const dqt_status status = dqt_llama_import_safetensors(any(MODEL)->handle, file_name(), null_sometimes(o));
    free(o);
    return status;
}

/* What was exported under this name, often. */
static dqt_status call_llama_open(void) {
    struct object *o = place(MODEL);
    dqt_llama *model = (dqt_llama *)&nothing;
    if (!o) return DQT_E_STATE;
    dqt_open_options *options = make_options(sizeof *options, init_open_options);
    SET(options, dqt_open_options, activation, enum_or_odd(0, 3));
    SET(options, dqt_open_options, linear.storage, enum_or_odd(0, 10));
    const dqt_status status =
        dqt_llama_open(context(&o->ctx), one_in(4) ? world.folder : file_name(), null_sometimes(options), &model);
    free(options);
    return created_model(o, status, model);
}

/* ---- The beginning of each sequence --------------------------------------------------------------------------- */

/* So that most calls find something to work on. */
static void prepare(void) {
    static const call_fn first[] = {call_tensor_create, call_llama_create,     call_tape_create,    call_updater_create,
                                    call_linear_create, call_embedding_create, call_head_create,    call_mlp_create,
                                    call_tape_create,   call_tape_create,      call_updater_create, call_session_create,
                                    call_sampler_create};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        first[i]();
}

#endif
