/* Checkpoints from streams and from paths. Nothing that is refused leaves anything behind; memory is in proportion to
 * what came; what is accepted is written back as it was, can be used, and what is then written can be read.
 * The mutator takes a file apart into its sections, changes them, and puts it together with right checksums. */
#define _GNU_SOURCE
#include "fuzz.h"

#include "io/checkpoint.h"

/* ---- The target ----------------------------------------------------------------------------------------------- */

enum { LENGTH = 5, MOST_VOCAB = 4096, MOST_SIZE = 2048, MOST_LAYERS = 8 };

static dqt_status load(struct bytes *from, dqt_checkpoint *c) {
    memset(c, 0xCC, sizeof *c); /* all of it must be overwritten */
    c->struct_size = sizeof *c;
    return dqt_llama_read(fuzz_context(), bytes_read, from, NULL, c);
}

/* A tape, of one layer, that has made as many passes as the file says; NULL if none. */
static dqt_tape *tape_after(const dqt_checkpoint *c) {
    dqt_layer *const *layers;
    size_t count;
    dqt_tape *tape = NULL;
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.max_length = 1;
    if (c->passes == 0) return NULL;
    REQUIRE(dqt_llama_get_layers(c->model, &layers, &count) == DQT_OK, "layers");
    REQUIRE(dqt_tape_create(fuzz_context(), layers, 1, &o, &tape) == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    REQUIRE(dqt_tape_set_pass(tape, c->passes) == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    return tape;
}

static dqt_status store(const dqt_checkpoint *c, struct bytes *to) {
    dqt_save_options o = DQT_INIT(dqt_save_options);
    dqt_tape *tape = tape_after(c);
    o.host = c->host;
    o.host_size = c->host_size;
    o.tape = tape;
    const dqt_status status = dqt_llama_write(c->model, c->updater, bytes_write, to, &o);
    dqt_tape_destroy(tape);
    return status;
}

static void unload(dqt_checkpoint *c) {
    dqt_updater_destroy(c->updater);
    dqt_llama_destroy(c->model);
    dqt_host_bytes_free(fuzz_context(), c->host, c->host_size);
}

/* A step of training and a few tokens of generation, if the model is not too large for the time there is. */
static void use(const dqt_checkpoint *l) {
    dqt_context *ctx = fuzz_context();
    dqt_llama_config c = {.struct_size = sizeof c};
    REQUIRE(dqt_llama_get_config(l->model, &c) == DQT_OK, "config");
    if (c.vocab_size > MOST_VOCAB || c.hidden_size > MOST_SIZE || c.intermediate_size > MOST_SIZE ||
        c.num_layers > MOST_LAYERS)
        return;
    dqt_layer *const *layers;
    size_t count;
    dqt_tape *tape;
    dqt_tape_options o;
    dqt_tape_options_init(&o, sizeof o);
    o.max_length = LENGTH;
    REQUIRE(dqt_llama_get_layers(l->model, &layers, &count) == DQT_OK, "layers");
    int32_t tokens[LENGTH], targets[LENGTH];
    for (size_t i = 0; i < LENGTH; i++) {
        tokens[i] = (int32_t)(i % c.vocab_size);
        targets[i] = i == 2 ? -1 : (int32_t)((i + 1) % c.vocab_size);
    }
    dqt_batch batch = DQT_INIT(dqt_batch);
    batch.length = LENGTH;
    batch.tokens = tokens;
    batch.targets = targets;
    dqt_step_options step = DQT_INIT(dqt_step_options);
    step.learning_rate = 0.01f;
    if (dqt_tape_create(ctx, layers, count, &o, &tape) == DQT_OK) {
        float loss;
        if (dqt_tape_zero_gradients(tape) == DQT_OK && dqt_llama_loss(l->model, tape, &batch, &loss, NULL) == DQT_OK &&
            dqt_llama_backward(l->model, tape, 1.0f) == DQT_OK && l->updater)
            dqt_updater_step(l->updater, tape, &step, NULL);
        dqt_tape_destroy(tape);
    }
    dqt_session *session;
    float *logits = malloc(c.vocab_size * sizeof *logits);
    dqt_session_options so = DQT_INIT(dqt_session_options);
    so.max_length = LENGTH;
    if (dqt_session_create(l->model, &so, &session) == DQT_OK) {
        dqt_session_append(session, tokens, 3, logits);
        dqt_session_append(session, tokens, 1, logits);
        dqt_session_destroy(session);
    }
    free(logits);
}

static void check_accepted(dqt_checkpoint *l, const uint8_t *data, size_t size) {
    struct bytes same = {0}, later = {0};
    REQUIRE(store(l, &same) == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    REQUIRE(get_le(data + 8, 4) != CHECKPOINT_VERSION || bytes_equal(&same, data, size),
            "%zu bytes were read, %zu are written", size, same.size);
    use(l);
    if (store(l, &later) == DQT_OK) {
        dqt_checkpoint again;
        const dqt_status status = load(&later, &again);
        REQUIRE(status == DQT_OK || status == DQT_E_MEMORY, "%s", dqt_last_error(fuzz_context()));
        unload(&again);
    }
    free(same.data);
    free(later.data);
}

static void check_stream(const uint8_t *data, size_t size) {
    dqt_context *ctx = fuzz_context();
    const size_t before = fuzz_memory.now;
    struct bytes in = {.data = (uint8_t *)(uintptr_t)data, .size = size, .piece = size % 3 ? 0 : 7};
    dqt_checkpoint l;
    fuzz_memory.peak = before;
    const dqt_status status = load(&in, &l);
    REQUIRE(fuzz_memory.peak - before <= 7 * in.at + (4u << 20), "%zu bytes held for %zu", fuzz_memory.peak - before,
            in.at);
    if (status == DQT_OK) {
        check_accepted(&l, data, in.at);
    } else {
        REQUIRE(!l.model && !l.updater && !l.host && l.host_size == 0, "status %d leaves something", status);
        REQUIRE(status == DQT_E_FORMAT || status == DQT_E_MEMORY, "%d: %s", status, dqt_last_error(ctx));
        REQUIRE(dqt_last_error(ctx)[0], "no sentence");
    }
    unload(&l);
    REQUIRE(fuzz_memory.now == before, "%zu bytes leaked", fuzz_memory.now - before);
}

static void check_path(const uint8_t *data, size_t size) {
    dqt_context *ctx = fuzz_context();
    const size_t before = fuzz_memory.now;
    const struct path path = path_to(data, size);
    dqt_load_options o = DQT_INIT(dqt_load_options);
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    o.skip_updater = size % 2;
    fuzz_memory.peak = before;
    const dqt_status status = dqt_llama_load(ctx, path.text, &o, &c);
    close(path.descriptor);
    REQUIRE(fuzz_memory.peak - before <= 200 * size + (1u << 20), "%zu bytes for a file of %zu",
            fuzz_memory.peak - before, size);
    REQUIRE((status == DQT_OK) == (c.model != NULL), "%d", status);
    unload(&c);
    REQUIRE(fuzz_memory.now == before, "%zu bytes leaked", fuzz_memory.now - before);
}

/* A model with an updater that files are read into; what is refused must leave them as they were. */
static struct host {
    dqt_checkpoint c;
    struct bytes fresh;
} hosts[FUZZ_MODELS];

static struct host *host_of(size_t which) {
    struct host *h = &hosts[which];
    if (h->c.model) return h;
    dqt_updater_options o;
    dqt_layer *const *layers;
    size_t count;
    h->c.model = fuzz_model((int)which);
    fuzz_updater_options((int)which, &o);
    REQUIRE(dqt_llama_get_layers(h->c.model, &layers, &count) == DQT_OK, "layers");
    REQUIRE(dqt_updater_create(fuzz_context(), layers, count, &o, &h->c.updater) == DQT_OK, "%s",
            dqt_last_error(fuzz_context()));
    REQUIRE(store(&h->c, &h->fresh) == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    return h;
}

static void check_into(const uint8_t *data, size_t size) {
    struct host *h = host_of(size % FUZZ_MODELS);
    struct bytes in = {.data = (uint8_t *)(uintptr_t)data, .size = size, .piece = size % 3 ? 0 : 7}, now = {0};
    dqt_layer *const *layers;
    size_t count;
    const size_t before = fuzz_memory.now;
    REQUIRE(dqt_llama_get_layers(h->c.model, &layers, &count) == DQT_OK, "layers");
    const dqt_status status =
        size % 5 ? dqt_layers_read(layers, count, size % 2 ? h->c.updater : NULL, bytes_read, &in, NULL, NULL)
                 : dqt_updater_read(h->c.updater, bytes_read, &in);
    REQUIRE(fuzz_memory.now == before, "%zu bytes leaked", fuzz_memory.now - before);
    REQUIRE(store(&h->c, &now) == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    if (status == DQT_OK) {
        use(&h->c);
        unload(&h->c);
        free(h->fresh.data);
        *h = (struct host){0};
    } else {
        REQUIRE(bytes_equal(&now, h->fresh.data, h->fresh.size), "status %d, and something has changed", status);
    }
    free(now.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_context();
    check_stream(data, size);
    check_path(data, size);
    check_into(data, size);
    return 0;
}

/* ---- The mutator ---------------------------------------------------------------------------------------------- */

enum { MOST_SECTIONS = 250, LABEL_ROOM = 96, MOST_BYTES = 1 << 20, GROWTH = 64 };

struct section {
    uint8_t tag[4], label[LABEL_ROOM];
    size_t label_size, size, room; /* room: the bytes that payload can hold, at first GROWTH more than size */
    uint8_t *payload;
};

struct file {
    struct section sections[MOST_SECTIONS];
    size_t count;
    bool wrong_count, wrong_length;
    uint64_t version;
};

static struct section section_copy(const struct section *s) {
    struct section copy = *s;
    copy.room = s->size + GROWTH;
    copy.payload = malloc(copy.room);
    memcpy(copy.payload, s->payload, s->size);
    return copy;
}

/* As many sections as are whole. */
static void take_apart(struct file *f, const uint8_t *data, size_t size) {
    size_t at = HEADER_BYTES;
    f->count = 0;
    f->wrong_count = f->wrong_length = false;
    f->version = get_le(data + 8, 4);
    while (f->count < MOST_SECTIONS && size - at >= SECTION_FIXED_BYTES) {
        const uint64_t label = get_le(data + at + 4, 4), payload = get_le(data + at + 8, 8);
        if (label >= LABEL_ROOM || payload > size || at + SECTION_FIXED_BYTES + label + payload > size) break;
        struct section s = {.label_size = (size_t)label, .size = (size_t)payload};
        s.payload = (uint8_t *)(uintptr_t)(data + at + 20 + label);
        memcpy(s.tag, data + at, 4);
        memcpy(s.label, data + at + 16, s.label_size);
        f->sections[f->count++] = section_copy(&s);
        at += SECTION_FIXED_BYTES + s.label_size + s.size;
    }
}

static void change_number(struct section *s) {
    if (s->size < 8) return;
    const size_t at = chance(s->size / 4) * 4, width = at + 8 <= s->size && chance(2) ? 8 : 4;
    const uint64_t old = get_le(s->payload + at, width);
    put_le(s->payload + at, chance(3) ? odd_number() : old + chance(9) - 4, width);
}

static void change_label(struct section *s) {
    static const char usual[] = "0123456789.mv_";
    if (s->label_size)
        s->label[chance(s->label_size)] = chance(3) ? (uint8_t)usual[chance(sizeof usual - 1)] : (uint8_t)chance(256);
}

static void remove_section(struct file *f, size_t i) {
    free(f->sections[i].payload);
    memmove(f->sections + i, f->sections + i + 1, (--f->count - i) * sizeof *f->sections);
}

static void double_section(struct file *f, size_t i) {
    if (f->count == MOST_SECTIONS) return;
    memmove(f->sections + i + 1, f->sections + i, (f->count++ - i) * sizeof *f->sections);
    f->sections[i] = section_copy(&f->sections[i + 1]);
}

static void change(struct file *f) {
    if (!f->count) return;
    const size_t i = chance(4) ? chance(f->count) : 0, j = chance(f->count); /* the config above all */
    struct section *s = &f->sections[i], t;
    switch (chance(13)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: change_number(s); break;
    case 5:
        if (s->size) s->payload[chance(s->size)] ^= (uint8_t)(1u << chance(8));
        break;
    case 6:
        if (s->size) s->payload[chance(s->size)] = (uint8_t)chance(256);
        break;
    case 7: s->size = LLVMFuzzerMutate(s->payload, s->size, s->room); break;
    case 8: change_label(s); break;
    case 9:
        t = f->sections[i];
        f->sections[i] = f->sections[j];
        f->sections[j] = t;
        break;
    case 10: chance(2) ? remove_section(f, j) : double_section(f, j); break;
    case 11: f->version = chance(8) ? f->version : odd_number(); break;
    default: chance(2) ? (f->wrong_count = chance(4) == 0) : (f->wrong_length = chance(4) == 0); break;
    }
}

static size_t put_together(const struct file *f, uint8_t *out) {
    struct crc32c table;
    size_t at = HEADER_BYTES;
    crc32c_init(&table);
    for (size_t i = 0; i < f->count; i++) {
        const struct section *s = &f->sections[i];
        const size_t begin = at;
        if (at + SECTION_FIXED_BYTES + s->label_size + s->size > MOST_BYTES) break;
        memcpy(out + at, s->tag, 4);
        put_le(out + at + 4, s->label_size, 4);
        put_le(out + at + 8, s->size, 8);
        memcpy(out + at + 16, s->label, s->label_size);
        at += 16 + s->label_size;
        put_le(out + at, crc32c_add(&table, 0, out + begin, at - begin), 4);
        memcpy(out + at + 4, s->payload, s->size);
        at += 4 + s->size;
        put_le(out + at, crc32c_add(&table, 0, out + begin, at - begin), 4);
        at += 4;
    }
    memcpy(out, checkpoint_magic, 8);
    put_le(out + 8, f->version, 4);
    put_le(out + 12, f->wrong_count ? odd_number() : f->count, 4);
    put_le(out + 16, f->wrong_length ? odd_number() : at, 8);
    put_le(out + 24, crc32c_add(&table, 0, out, 24), 4);
    return at;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    static struct file file;
    static uint8_t out[MOST_BYTES];
    fuzz_state = seed;
    if (size < HEADER_BYTES || chance(50) == 0) return LLVMFuzzerMutate(data, size, max_size);
    take_apart(&file, data, size);
    for (size_t rounds = 1 + chance(3); rounds; rounds--)
        change(&file);
    const size_t made = put_together(&file, out), kept = made < max_size ? made : max_size;
    for (size_t i = 0; i < file.count; i++)
        free(file.sections[i].payload);
    memcpy(data, out, kept);
    return kept;
}
