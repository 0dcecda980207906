/* One program for tests/tree/next_minor.sh, compiled against the header as it is and against that of a simulated next
 * minor version (-DNEXT), and run with both libraries. Every versioned struct lies at the end of a page whose successor
 * cannot be read or written; what is printed must not depend on library or header. With NEXT, fields that the next
 * version added are found zero, and the old library refuses them when they are not. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dqt.h"

static int bad;
static dqt_context *ctx;

static void failed(int line, const char *what, dqt_status status) {
    printf("line %d: %s: %s: %s / %s\n", line, what, dqt_status_string(status), dqt_last_error(ctx),
           dqt_last_error(NULL));
    bad = 1;
}
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        const dqt_status status_ = (call);                                                                             \
        if (status_ != DQT_OK) failed(__LINE__, #call, status_);                                                       \
    } while (0)

/* `size` bytes of rubbish that end where the next page cannot be touched. */
static void *at_the_end(size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (size + page - 1) / page * page;
    char *p = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + room, page, PROT_NONE)) exit(2);
    memset(p, 0xA5, room);
    return p + room - size;
}

/* Structs that the library initialises, those that begin as zeros, and those that it fills. */
#define OPTIONS(type, name)                                                                                            \
    type *name = at_the_end(sizeof(type));                                                                             \
    OK(type##_init(name, sizeof *name));                                                                               \
    FRESH(name)
#define ZEROS(type, name)                                                                                              \
    type *name = at_the_end(sizeof(type));                                                                             \
    memset(name, 0, sizeof *name);                                                                                     \
    name->struct_size = sizeof *name
#define RESULT(type, name)                                                                                             \
    type *name = at_the_end(sizeof(type));                                                                             \
    name->struct_size = sizeof *name

#ifdef NEXT
#define FRESH(name)                                                                                                    \
    if ((name)->next_double != 0 || (name)->next_pointer || (name)->next_numbers[3]) failed(__LINE__, #name, DQT_OK)
/* In the next version the new field means nothing; the old one must not act as if it knew it. */
static int refusals, acceptances;
#define REFUSED(name, call)                                                                                            \
    do {                                                                                                               \
        (name)->next_numbers[3] = 1;                                                                                   \
        const dqt_status status_ = (call);                                                                             \
        if (status_ == DQT_OK) acceptances++;                                                                          \
        if (status_ == DQT_E_ARGUMENT && strstr(dqt_last_error(NULL), "does not know")) refusals++;                    \
        (name)->next_numbers[3] = 0;                                                                                   \
    } while (0)
#else
#define FRESH(name) (void)0
#define REFUSED(name, call) (void)0
#endif

struct bytes {
    unsigned char *data;
    size_t size, at;
    uint64_t hash;
};
static int32_t put(void *user_data, const void *buffer, size_t size) {
    struct bytes *b = user_data;
    b->data = realloc(b->data, b->size + size);
    if (!b->data) return 12;
    memcpy(b->data + b->size, buffer, size);
    b->size += size;
    for (size_t i = 0; i < size; i++)
        b->hash = (b->hash ^ ((const unsigned char *)buffer)[i]) * 1099511628211u;
    return 0;
}
static size_t get(void *user_data, void *buffer, size_t size) {
    struct bytes *b = user_data;
    if (size > b->size - b->at) size = b->size - b->at;
    memcpy(buffer, b->data + b->at, size);
    b->at += size;
    return size;
}

static void tensors(void) {
    ZEROS(dqt_tensor_options, o);
    OK(dqt_tensor_options_init(o, sizeof *o));
    o->storage = DQT_FORMAT_INT4;
    o->scale_axis = DQT_AXIS_ROW;
    o->train_scale = 1;
    dqt_tensor *t;
    OK(dqt_tensor_create(ctx, 3, 70, o, &t));
#ifdef NEXT
    dqt_tensor *none;
    o->next_reserved = 1; /* was a reserve */
    if (dqt_tensor_create(ctx, 3, 70, o, &none) == DQT_OK)
        acceptances++, dqt_tensor_destroy(none);
    else
        refusals++;
#endif
    RESULT(dqt_tensor_info, i);
    OK(dqt_tensor_get_info(t, i));
    FRESH(i);
    printf("tensor %d %d %d %d %d %zu %zu %zu\n", i->storage, i->compute, i->scale_rule, i->code_min, i->code_max,
           i->row_bytes, i->data_bytes, i->num_scales);
    RESULT(dqt_tensor_stats, s);
    OK(dqt_tensor_get_stats(t, s));
    FRESH(s);
    printf("stats %" PRIu64 " %" PRIu64 "\n", s->histogram[128], s->zeros);
    dqt_tensor_destroy(t);
}

static void layers(void) {
    OPTIONS(dqt_layer_options, o);
    o->weight.storage = DQT_FORMAT_INT8;
    o->name = "own";
    dqt_layer *l, *none = NULL;
    OK(dqt_block_create(ctx, 32, 48, 4, 2, o, &l));
    REFUSED(o, dqt_linear_create(ctx, 8, 8, o, &none));
    dqt_layer_destroy(none);
    RESULT(dqt_layer_info, i);
    OK(dqt_layer_get_info(l, i));
    FRESH(i);
    RESULT(dqt_parameter, p);
    OK(dqt_layer_get_parameter(l, 2, p));
    FRESH(p);
    printf("layer %d %zu %zu: %d %s %zu\n", i->kind, i->num_parameters, i->num_sublayers, p->parameter_class, p->name,
           p->rows);
    dqt_layer_destroy(l);
}

static dqt_llama *model(void) {
    OPTIONS(dqt_preset_options, wanted);
    OPTIONS(dqt_llama_config, c);
    OPTIONS(dqt_updater_options, u);
    RESULT(dqt_preset, preset);
    c->hidden_size = 64;
    c->intermediate_size = 96;
    OK(dqt_preset_get(wanted, c, u, preset));
    REFUSED(wanted, dqt_preset_get(wanted, c, u, preset));
    FRESH(c);
    FRESH(u);
    FRESH(preset);
    printf("preset %s %g %d, %zu groups\n", preset->name, (double)preset->learning_rate, c->linear.train_scale,
           u->num_groups);
    OK(dqt_llama_config_init(c, sizeof *c));
    dqt_tensor_override *override = at_the_end(sizeof *override);
    override->pattern = "*.mlp.down";
    OK(dqt_tensor_options_init(&override->options, sizeof override->options));
    override->options.storage = DQT_FORMAT_INT8;
    c->hidden_size = 64;
    c->intermediate_size = 96;
    c->tie_embeddings = 1;
    c->linear.struct_size = 0; /* embedded: not looked at */
    c->overrides = override;
    c->num_overrides = 1;
    dqt_llama *m, *none = NULL;
    OK(dqt_llama_create(ctx, c, &m));
    REFUSED(c, dqt_llama_create(ctx, c, &none));
    dqt_llama_destroy(none);
    RESULT(dqt_llama_memory_info, i);
    OK(dqt_llama_memory(ctx, c, i));
    FRESH(i);
    RESULT(dqt_llama_config, back);
    OK(dqt_llama_get_config(m, back));
    FRESH(back);
    printf("model %zu %zu %zu, %zu %d %d\n", i->linear_bytes, i->embedding_bytes, i->linear_weights, back->num_kv_heads,
           back->linear.storage, back->overrides->options.storage);
    return m;
}

static dqt_updater *training(dqt_llama *m) {
    int32_t tokens[32], targets[32];
    dqt_layer *const *list;
    size_t n, hit;
    OK(dqt_llama_get_layers(m, &list, &n));
    OPTIONS(dqt_tape_options, o);
    o->max_batch = 2;
    o->max_length = 16;
    o->recompute = 1;
    o->gradient_format = DQT_FLOAT_BF16;
    RESULT(dqt_tape_memory_info, tm);
    OK(dqt_tape_memory(ctx, list, n, o, tm));
    FRESH(tm);
    dqt_tape *t, *no_tape = NULL;
    OK(dqt_tape_create(ctx, list, n, o, &t));
    REFUSED(o, dqt_tape_create(ctx, list, n, o, &no_tape));
    dqt_tape_destroy(no_tape);
    RESULT(dqt_tape_options, effect);
    OK(dqt_tape_get_options(t, effect));
    FRESH(effect);

    OPTIONS(dqt_group_options, g);
    g->pattern = "*attention*";
    g->lr_factor = 0.5f;
    OPTIONS(dqt_updater_options, u);
    u->variance_state = DQT_STATE_INT8;
    u->groups = g;
    u->num_groups = 1;
    RESULT(dqt_updater_memory_info, um);
    OK(dqt_updater_memory(ctx, list, n, u, um));
    FRESH(um);
    dqt_updater *updater, *no_updater = NULL;
    OK(dqt_updater_create(ctx, list, n, u, &updater));
    REFUSED(u, dqt_updater_create(ctx, list, n, u, &no_updater));
    dqt_updater_destroy(no_updater);
    no_updater = NULL;
    REFUSED(g, dqt_updater_create(ctx, list, n, u, &no_updater));
    dqt_updater_destroy(no_updater);
    OK(dqt_updater_add_group(updater, g, &hit));
    REFUSED(g, dqt_updater_add_group(updater, g, NULL));
    RESULT(dqt_parameter_rule, rule);
    OK(dqt_updater_get_rule(updater, 2, rule));
    FRESH(rule);
    RESULT(dqt_updater_options, uo);
    OK(dqt_updater_get_options(updater, uo));
    FRESH(uo);
    printf("tape %zu %zu %zu, updater %zu %zu, %zu %g %g\n", tm->gradients, effect->max_batch, effect->max_length,
           um->momentum, um->variance, hit, (double)rule->lr_factor, (double)uo->beta1);

    ZEROS(dqt_batch, b);
    b->batch = 2;
    b->length = 16;
    b->tokens = tokens;
    b->targets = targets;
    ZEROS(dqt_step_options, so);
    so->learning_rate = 0.01f;
    RESULT(dqt_step_stats, st);
    float loss = 0;
    for (int i = 0; i < 32; i++) {
        tokens[i] = i * 7 % 256;
        targets[i] = (i * 7 + 7) % 256;
    }
    for (int i = 0; i < 3; i++) {
        OK(dqt_tape_zero_gradients(t));
        OK(dqt_llama_loss(m, t, b, &loss, NULL));
        OK(dqt_llama_backward(m, t, 1));
        OK(dqt_updater_step(updater, t, so, st));
        FRESH(st);
    }
    RESULT(dqt_step_sums, sums);
    OK(dqt_updater_begin_step(updater, t, so, sums));
    while (sums->data) {
        FRESH(sums);
        OK(dqt_updater_continue_step(updater, t, sums, st));
    }
    FRESH(st);
    printf("step %" PRIu64 " flipped %" PRIu64 " loss %.9g\n", st->step, st->flipped, (double)loss);
    REFUSED(b, dqt_llama_loss(m, t, b, &loss, NULL));
    REFUSED(so, dqt_tape_begin_update(t, updater, so)); /* no step: this updater clips by the current norm */
    float *dlogits = calloc(32 * 256, sizeof *dlogits);
    ZEROS(dqt_logits_gradient, lg);
    lg->dlogits = dlogits;
    OK(dqt_llama_forward(m, t, b, NULL));
    OK(dqt_llama_backward_logits(m, t, lg));
    OK(dqt_llama_forward(m, t, b, NULL));
    REFUSED(lg, dqt_llama_backward_logits(m, t, lg));
    free(dlogits);
    dqt_tape_destroy(t);
    return updater;
}

static void files(dqt_llama *m, dqt_updater *updater) {
    struct bytes b = {NULL, 0, 0, 1}, g = b, s = b;
    OPTIONS(dqt_save_options, so);
    so->host = "host";
    so->host_size = 4;
    OPTIONS(dqt_load_options, lo);
    RESULT(dqt_checkpoint, c);
    REFUSED(so, dqt_llama_write(m, updater, put, &g, so));
    OK(dqt_llama_write(m, updater, put, &b, so));
    OK(dqt_llama_read(ctx, get, &b, lo, c));
    FRESH(c);
    dqt_updater_destroy(c->updater);
    dqt_llama_destroy(c->model);
    printf("checkpoint of %zu bytes, %016" PRIx64 ", %.*s\n", b.size, b.hash, (int)c->host_size, (const char *)c->host);
    dqt_host_bytes_free(ctx, c->host, c->host_size);
    b.at = 0;
    RESULT(dqt_checkpoint, again);
    again->updater = NULL;
    again->model = NULL;
    REFUSED(lo, dqt_llama_read(ctx, get, &b, lo, again));
    if (again->model) { /* the next version read it */
        dqt_updater_destroy(again->updater);
        dqt_llama_destroy(again->model);
        dqt_host_bytes_free(ctx, again->host, again->host_size);
    }
    OPTIONS(dqt_gguf_options, go);
    OPTIONS(dqt_safetensors_options, to);
    OPTIONS(dqt_import_options, io);
    to->dtype = DQT_SAFETENSORS_CODES;
    REFUSED(go, dqt_llama_write_gguf(m, put, &g, go));
    ZEROS(dqt_gguf_key, gk);
    gk->key = "general.name";
    gk->value_type = DQT_GGUF_VALUE_STRING;
    gk->text = "growing";
    go->keys = gk;
    go->num_keys = 1;
    REFUSED(gk, dqt_llama_write_gguf(m, put, &g, go));
    REFUSED(to, dqt_llama_write_safetensors(m, put, &s, to));
    g.hash = s.hash = 1;
    OK(dqt_llama_write_gguf(m, put, &g, go));
    OK(dqt_llama_write_safetensors(m, put, &s, to));
    char path[] = "growing.safetensors";
    OK(dqt_llama_export_safetensors(m, path, to));
    OK(dqt_llama_import_safetensors(m, path, io));
    REFUSED(io, dqt_llama_import_safetensors(m, path, io));
    unlink(path);
    char foreign[] = "growing.gguf";
    OPTIONS(dqt_open_options, oo);
    dqt_llama *opened, *not_opened = NULL;
    OK(dqt_llama_export_gguf(m, foreign, go));
    OK(dqt_llama_open(ctx, foreign, oo, &opened));
    REFUSED(oo, dqt_llama_open(ctx, foreign, oo, &not_opened));
    unlink(foreign);
    dqt_llama_destroy(not_opened);
    dqt_llama_destroy(opened);
    printf("gguf %016" PRIx64 ", safetensors %016" PRIx64 "\n", g.hash, s.hash);
    free(b.data);
    free(g.data);
    free(s.data);
}

static void generation(dqt_llama *m) {
    static const int32_t prompt[] = {3, 10, 17, 24};
    float logits[256];
    int32_t token = 0;
    OPTIONS(dqt_session_options, o);
    o->max_length = 16;
    RESULT(dqt_session_memory_info, sm);
    OK(dqt_session_memory(m, o, sm));
    FRESH(sm);
    dqt_session *session, *no_session = NULL;
    OK(dqt_session_create(m, o, &session));
    REFUSED(o, dqt_session_create(m, o, &no_session));
    dqt_session_destroy(no_session);
    RESULT(dqt_session_options, back);
    OK(dqt_session_get_options(session, back));
    FRESH(back);
    OPTIONS(dqt_sampler_options, so);
    so->top_k = 5;
    dqt_sampler *sampler, *no_sampler = NULL;
    OK(dqt_sampler_create(ctx, 256, so, &sampler));
    REFUSED(so, dqt_sampler_create(ctx, 256, so, &no_sampler));
    dqt_sampler_destroy(no_sampler);
    ZEROS(dqt_session_step, step);
    step->session = session;
    step->tokens = prompt;
    step->count = 4;
    step->logits = logits;
    OK(dqt_sessions_append(step, 1));
    printf("session of %zu, tokens", back->max_length);
    for (int i = 0; i < 6; i++) {
        OK(dqt_sampler_sample(sampler, logits, &token));
        printf(" %d", token);
        OK(dqt_session_append(session, &token, 1, logits));
    }
    printf("\n");
    step->count = 1;
    REFUSED(step, dqt_sessions_append(step, 1));
    dqt_session_destroy(session);
    dqt_sampler_destroy(sampler);
}

int main(void) {
    fprintf(stderr, "started\n"); /* a program that the loader refuses does not come here */
    OPTIONS(dqt_context_options, o);
    o->threading = DQT_THREADING_SERIAL;
    OK(dqt_context_create(o, &ctx));
    dqt_context *none = NULL;
    REFUSED(o, dqt_context_create(o, &none));
    dqt_context_destroy(none);
    tensors();
    layers();
    dqt_llama *m = model();
    dqt_updater *updater = training(m);
    files(m, updater);
    generation(m);
    dqt_updater_destroy(updater);
    dqt_llama_destroy(m);
    dqt_context_destroy(ctx);
    printf("%s\n", bad ? "FAILED" : "all calls as expected");
#ifdef NEXT
    fprintf(stderr, "new fields: %d refused, %d accepted\n", refusals, acceptances);
#endif
#ifdef NEXT_FUNCTION
    OK(dqt_added_in_next_minor(NULL));
#endif
    return bad;
}
