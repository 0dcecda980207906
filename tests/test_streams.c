/* Checkpoints from streams, whose length nobody knows: what they claim is allocated as their data arrive. */
#define _POSIX_C_SOURCE 200809L

#include "calls.h"
#include "files_fixture.h"

#include "io/checkpoint.h"

/* What a stream has made the library hold, compared with what came. */
struct watched {
    struct memory_file file;
    const struct counting *memory;
    size_t base, most_held, wrong;
};

static void watch(struct watched *w) {
    const size_t held = w->memory->bytes - w->base;
    if (held > w->most_held) w->most_held = held;
    w->wrong += held > 7 * w->file.position + (4u << 20);
}

static size_t watched_read(void *user_data, void *buffer, size_t size) {
    struct watched *w = user_data;
    watch(w);
    const size_t got = memory_read(&w->file, buffer, size);
    watch(w);
    return got;
}

static void put_section(struct sink *s, const char *tag, const char *label, uint64_t payload) {
    sink_flush(s);
    s->crc = 0;
    sink_bytes(s, tag, 4);
    sink_number(s, strlen(label), 4);
    sink_number(s, payload, 8);
    sink_bytes(s, label, strlen(label));
    sink_number(s, s->crc, 4);
    sink_flush(s);
}

/* A stream of a kilobyte or two that claims to be a checkpoint of this shape, and breaks off after the head of its
 * first parameter. */
static struct memory_file claim(dqt_context *ctx, const dqt_llama_config *c, const struct file_tensor *head,
                                uint64_t payload) {
    struct memory_file f = memory_new();
    struct sink *s;
    OK(ctx, sink_create(ctx, &s));
    sink_begin(s, memory_write, &f);
    sink_bytes(s, checkpoint_magic, sizeof checkpoint_magic);
    sink_number(s, CHECKPOINT_VERSION, 4);
    sink_number(s, 1u << 30, 4);
    sink_number(s, (uint64_t)1 << 60, 8);
    sink_number(s, s->crc, 4);
    put_section(s, "CONF", "", entries_bytes(&config_table, c));
    entries_write(s, &config_table, c);
    sink_number(s, s->crc, 4);
    put_section(s, "PARM", "embedding.weight", payload);
    sink_number(s, entries_bytes(&tensor_table, head), 4);
    entries_write(s, &tensor_table, head);
    sink_flush(s);
    sink_destroy(s);
    return f;
}

static void check_claim(struct place *p, struct memory_file file, const char *what) {
    struct watched w = {.file = file, .memory = &p->memory, .base = p->memory.bytes};
    dqt_llama *model;
    void *host;
    size_t size;
    const dqt_status status = read_checkpoint(p->ctx, watched_read, &w, &model, NULL, &host, &size);
    CHECKF(status == DQT_E_FORMAT, "%s: status %d, %s", what, status, dqt_last_error(p->ctx));
    CHECKF(w.wrong == 0 && w.most_held < 4u << 20, "%s: %zu bytes were held for %zu", what, w.most_held, w.file.size);
    CHECK(p->memory.bytes == w.base);
    free(w.file.bytes);
}

/* Reading into what exists stages a copy of it, which is this small model's. */
static void check_claim_into(struct place *p, const struct memory_file *file) {
    struct watched w = {.file = *file, .memory = &p->memory, .base = p->memory.bytes};
    dqt_layer *const *layers;
    size_t count;
    dqt_checkpoint c = {.struct_size = sizeof c};
    OK(p->ctx, dqt_llama_get_layers(p->model, &layers, &count));
    CHECK(dqt_layers_read(layers, count, NULL, watched_read, &w, NULL, &c) == DQT_E_FORMAT);
    CHECKF(w.wrong == 0 && w.most_held < 4u << 20, "%zu bytes were held for %zu", w.most_held, file->size);
    CHECK(!c.host && p->memory.bytes == w.base);
}

static void streams_prove_what_they_claim(void) {
    struct place p;
    dqt_llama_config c, d;
    place_begin(&p);
    OK(p.ctx, dqt_llama_config_init(&c, sizeof c));
    OK(p.ctx, dqt_llama_config_init(&d, sizeof d));
    c.vocab_size = (size_t)1 << 22;
    c.hidden_size = 4096;
    c.intermediate_size = 4096;
    c.num_layers = 1;
    c.num_heads = c.num_kv_heads = 32;
    c.embedding.storage = DQT_FORMAT_INT8; /* 16 GiB */
    const struct file_tensor head = {.rows = c.vocab_size,
                                     .cols = c.hidden_size,
                                     .num_scales = 1,
                                     .storage = DQT_FORMAT_INT8,
                                     .compute = DQT_FORMAT_INT8,
                                     .scale_rule = DQT_SCALE_SIGMA,
                                     .scale_axis = DQT_AXIS_TENSOR};
    const uint64_t payload = 4 + entries_bytes(&tensor_table, &head) + 4 + ((uint64_t)1 << 34);
    struct memory_file f = claim(p.ctx, &c, &head, payload);
    CHECKF(f.size < 3000, "%zu", f.size);
    check_claim(&p, f, "an embedding of 16 GiB");
    d.num_layers = (size_t)1 << 30;
    check_claim(&p, claim(p.ctx, &d, &head, 99), "a billion layers");

    /* A small model whole, then host bytes that never come. */
    struct memory_file whole = memory_new();
    static const char mark[] = "HOST";
    OK(p.ctx, dqt_llama_write(p.model, NULL, memory_write, &whole, save_host("12345678", 8)));
    size_t at = whole.size;
    while (at > 4 && memcmp(whole.bytes + at - 4, mark, 4) != 0)
        at--;
    struct crc32c table;
    crc32c_init(&table);
    put_le(whole.bytes + 16, (uint64_t)1 << 50, 8); /* the file's length */
    put_le(whole.bytes + 24, crc32c_add(&table, 0, whole.bytes, 24), 4);
    put_le(whole.bytes + at + 4, (uint64_t)1 << 34, 8);
    put_le(whole.bytes + at + 12, crc32c_add(&table, 0, whole.bytes + at - 4, 16), 4);
    check_claim_into(&p, &whole);
    check_claim(&p, whole, "host bytes of 16 GiB");
    place_end(&p);
}

/* Reads it in odd pieces, with memory in proportion to what has come; then with every allocation failing. */
static void check_honest(struct place *p, dqt_llama *model, dqt_updater *updater, size_t host_size) {
    dqt_llama *loaded;
    dqt_updater *resumed;
    void *host;
    size_t size;
    unsigned char *bytes = malloc(host_size);
    for (size_t i = 0; i < host_size; i++)
        bytes[i] = (unsigned char)(i * 31 + (i >> 13));
    struct watched w = {.file = memory_new(), .memory = &p->memory, .base = p->memory.bytes};
    OK(p->ctx, dqt_llama_write(model, updater, memory_write, &w.file, save_host(bytes, host_size)));
    static const size_t pieces[] = {0, 1 << 20, 65537, 999};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        w.file.position = 0;
        w.file.most = pieces[i];
        OK(p->ctx, read_checkpoint(p->ctx, watched_read, &w, &loaded, &resumed, &host, &size));
        CHECKF(w.wrong == 0, "in %zu looks more was held than came allows, %zu at most", w.wrong, w.most_held);
        CHECK(size == host_size && memcmp(host, bytes, size) == 0 && w.file.position == w.file.size);
        struct memory_file again = memory_new();
        OK(p->ctx, dqt_llama_write(loaded, resumed, memory_write, &again, save_host(host, size)));
        CHECK(same_bytes(&w.file, &again));
        free(again.bytes);
        dqt_host_bytes_free(p->ctx, host, size);
        dqt_updater_destroy(resumed);
        dqt_llama_destroy(loaded);
    }
    w.file.most = 0;
    bool done = false;
    for (size_t n = 0; !done && n < 1000; n++) {
        w.file.position = 0;
        p->memory.fail_at = p->memory.calls + n;
        const dqt_status status = read_checkpoint(p->ctx, watched_read, &w, &loaded, &resumed, &host, &size);
        p->memory.fail_at = SIZE_MAX;
        done = status == DQT_OK;
        CHECK(done || (status == DQT_E_MEMORY && !loaded && !resumed && !host));
        dqt_host_bytes_free(p->ctx, host, size);
        dqt_updater_destroy(resumed);
        dqt_llama_destroy(loaded);
        CHECK(p->memory.bytes == w.base);
    }
    CHECK(done);
    free(bytes);
    free(w.file.bytes);
}

/* Large weights, large state, large host bytes. */
static void honest_streams(void) {
    struct place p;
    dqt_llama_config c;
    dqt_llama *model;
    dqt_updater *updater;
    dqt_layer *const *layers;
    size_t count;
    place_begin(&p);
    OK(p.ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 8000;
    c.hidden_size = 160;
    c.num_heads = 2;
    c.num_layers = 1;
    dqt_updater_options o;
    OK(p.ctx, dqt_updater_options_init(&o, sizeof o));
    o.optimizer = DQT_OPTIMIZER_ADAMW;
    o.momentum_state = o.variance_state = DQT_STATE_F32;
    OK(p.ctx, dqt_llama_create(p.ctx, &c, &model));
    OK(p.ctx, dqt_llama_get_layers(model, &layers, &count));
    OK(p.ctx, dqt_updater_create(p.ctx, layers, count, &o, &updater));
    check_honest(&p, model, updater, 100);
    dqt_updater_destroy(updater);
    dqt_llama_destroy(model);
    check_honest(&p, p.model, NULL, (size_t)5 << 20);
    place_end(&p);
}

static int32_t count_calls(void *user_data, const void *buffer, size_t size) {
    (void)buffer;
    CHECK(size > 0);
    ++*(int *)user_data;
    return 0;
}

/* A stream that ends where the buffer does is not asked for nothing. */
static void whole_buffers(void) {
    static const unsigned char zeros[STREAM_BUFFER];
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    struct sink *s = NULL;
    int calls = 0;
    OK(ctx, sink_create(ctx, &s));
    sink_begin(s, count_calls, &calls);
    CHECK(sink_flush(s) == DQT_OK && calls == 0);
    CHECK(sink_bytes(s, zeros, sizeof zeros) == DQT_OK && calls == 1);
    CHECK(sink_flush(s) == DQT_OK && calls == 1);
    CHECK(sink_bytes(s, zeros, 1) == DQT_OK && calls == 1);
    CHECK(sink_flush(s) == DQT_OK && calls == 2);
    sink_destroy(s);
    counting_end(ctx, &memory);
}

static const struct test tests[] = {TEST(whole_buffers), TEST(streams_prove_what_they_claim), TEST(honest_streams)};
TEST_MAIN(tests)
