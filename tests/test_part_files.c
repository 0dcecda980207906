/* One file of replicas whose updaters are of one part each: the bytes of one updater of all rows, for any number of
 * parts, whoever of them writes it. */
#define _GNU_SOURCE

#include "files_fixture.h"
#include "parts_world.h"

/* What dqt_updater_write_part has written, call by call, and how it is read. */
enum { MOST_MESSAGES = 1000 };
struct stream {
    struct memory_file bytes;
    size_t begins[MOST_MESSAGES], messages, read; /* read: whole messages, as long as none is cut */
    bool uneven;                                  /* a read was not of the size of a write */
};

struct streams {
    struct stream part[MOST_PARTS];
    size_t own;            /* of the replica that saves: it does not read its own */
    size_t most;           /* bytes of a read; 0: as many as wanted */
    size_t calls, fail_at; /* read number fail_at gives `answer` */
    size_t answer;
};

static int32_t stream_write(void *user_data, const void *buffer, size_t size) {
    struct stream *s = user_data;
    if (s->messages == MOST_MESSAGES) abort();
    CHECK(size > 0 && size <= 65540);
    const int32_t error = memory_write(&s->bytes, buffer, size);
    if (!error) s->begins[s->messages++] = s->bytes.size - size;
    return error;
}

static size_t stream_read(void *user_data, size_t part, void *buffer, size_t size) {
    struct streams *all = user_data;
    if (all->calls++ == all->fail_at) return all->answer == 1 ? size + 1 : all->answer;
    CHECK(part < MOST_PARTS && part != all->own);
    struct stream *s = &all->part[part];
    const size_t end = s->read + 1 < s->messages ? s->begins[s->read + 1] : s->bytes.size;
    if (s->read >= s->messages || s->bytes.position != s->begins[s->read] || end - s->begins[s->read] != size)
        s->uneven = true;
    s->read++;
    s->bytes.most = all->most;
    return memory_read(&s->bytes, buffer, size);
}

static void send_parts(struct replica *r, size_t parts, struct streams *s) {
    *s = (struct streams){.fail_at = SIZE_MAX};
    for (size_t k = 0; k < parts; k++) {
        s->part[k].bytes = memory_new();
        OK(r[k].ctx, dqt_updater_write_part(r[k].updater, stream_write, &s->part[k]));
    }
}

static void free_streams(struct streams *s) {
    for (size_t k = 0; k < MOST_PARTS; k++)
        free(s->part[k].bytes.bytes);
}

static dqt_save_options save_of(struct streams *s, size_t own) {
    s->own = own;
    s->calls = 0;
    for (size_t k = 0; k < MOST_PARTS; k++) {
        s->part[k].bytes.position = s->part[k].read = 0;
        s->part[k].uneven = false;
    }
    return (dqt_save_options){.struct_size = sizeof(dqt_save_options),
                              .host = "note",
                              .host_size = 4,
                              .read_part = stream_read,
                              .part_user_data = s};
}

static dqt_status write_file(struct replica *r, size_t own, struct streams *s, struct memory_file *out) {
    const dqt_save_options o = save_of(s, own);
    *out = memory_new();
    return dqt_layers_write(r[own].layers, LAYERS, r[own].updater, memory_write, out, &o);
}

static void train(struct replica *whole, struct replica *r, size_t parts, int steps) {
    dqt_step_stats stats[MOST_PARTS];
    for (int step = 0; step < steps; step++) {
        set_gradients(whole, (uint64_t)step);
        for (size_t k = 0; k < parts; k++)
            scatter_gradients(&r[k], whole, k, parts);
        const float rate = rate_of((uint64_t)step);
        OK(whole->ctx, dqt_updater_step(whole->updater, whole->tape, step_rate(rate), NULL));
        if (parts == 1) OK(r->ctx, dqt_updater_step(r->updater, r->tape, step_rate(rate), NULL));
        if (parts > 1) step_together(r, parts, rate, stats);
        if (parts > 1) gather(r, parts);
    }
}

static void open_parts(struct replica *r, const struct setting *s, size_t parts) {
    for (size_t k = 0; k < parts; k++)
        open_replica(&r[k], s, 1, k, parts);
}

static void close_parts(struct replica *r, size_t parts) {
    for (size_t k = 0; k < parts; k++)
        close_replica(&r[k]);
}

/* ---- The file ---------------------------------------------------------------------------------------------------- */

/* Written by `parts` parts, each in turn, it goes into 1, 2, 3, 5 and 8 parts, which then step as one does. */
static void run_setting(const struct setting *s, size_t parts) {
    static const size_t others[] = {1, 2, 3, 5, 8};
    struct replica whole, r[MOST_PARTS], next[MOST_PARTS];
    struct memory_file expected = memory_new(), file;
    struct streams streams = {.fail_at = SIZE_MAX};
    char what[128];
    open_replica(&whole, s, 1, 0, 0);
    open_parts(r, s, parts);
    train(&whole, r, parts, 2);
    OK(whole.ctx, dqt_layers_write(whole.layers, LAYERS, whole.updater, memory_write, &expected, save_host("note", 4)));
    if (parts > 1) send_parts(r, parts, &streams);
    for (size_t own = 0; own < parts; own++) {
        streams.most = own == 1 ? 7 : 0; /* reads that are cut short do no harm */
        OK(r[own].ctx, write_file(r, own, &streams, &file));
        CHECKF(same_bytes(&file, &expected), "%s: the file of part %zu of %zu", s->name, own, parts);
        for (size_t k = 0; k < parts && k != own && !streams.most; k++)
            CHECKF(!streams.part[k].uneven && streams.part[k].read == streams.part[k].messages,
                   "%s: reads of part %zu are not its writes", s->name, k);
        free(file.bytes);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(what, sizeof what, "%s: a file of %zu parts in %zu", s->name, parts, others[i]);
        open_parts(next, s, others[i]);
        for (size_t k = 0; k < others[i]; k++) {
            expected.position = 0;
            OK(next[k].ctx,
               dqt_layers_read(next[k].layers, LAYERS, next[k].updater, memory_read, &expected, NULL, NULL));
            compare_weights(&next[k], &whole, what);
            compare_states(&next[k], &whole, k, others[i], what);
        }
        close_parts(next, others[i]);
    }
    free(expected.bytes);
    free_streams(&streams);
    close_parts(r, parts);
    close_replica(&whole);
}

static void the_file_of_one(void) {
    static const size_t parts[] = {1, 2, 3, 5, 8};
    for (int s = 0; s < SETTINGS; s++)
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            run_setting(&settings[s], parts[k]);
}

/* Two parts, saved as one file after two steps, go on as three. */
static void other_number_of_parts(void) {
    const struct setting *s = &settings[6];
    struct replica whole, r[2], next[3];
    struct streams streams;
    struct memory_file file;
    open_replica(&whole, s, 1, 0, 0);
    open_parts(r, s, 2);
    train(&whole, r, 2, 2);
    send_parts(r, 2, &streams);
    OK(r[1].ctx, write_file(r, 1, &streams, &file));
    open_parts(next, s, 3);
    for (size_t k = 0; k < 3; k++) {
        file.position = 0;
        OK(next[k].ctx, dqt_layers_read(next[k].layers, LAYERS, next[k].updater, memory_read, &file, NULL, NULL));
    }
    train(&whole, next, 3, 3);
    for (size_t k = 0; k < 3; k++) {
        compare_weights(&next[k], &whole, "on three parts");
        compare_states(&next[k], &whole, k, 3, "on three parts");
    }
    free(file.bytes);
    free_streams(&streams);
    close_parts(next, 3);
    close_parts(r, 2);
    close_replica(&whole);
}

static void swap_messages(struct stream *s, size_t a, size_t b) {
    const size_t size = s->begins[a + 1] - s->begins[a];
    CHECK(size == s->begins[b + 1] - s->begins[b]);
    for (size_t i = 0; i < size; i++) {
        unsigned char *x = s->bytes.bytes + s->begins[a] + i, *y = s->bytes.bytes + s->begins[b] + i, t = *x;
        *x = *y;
        *y = t;
    }
}

/* States of many pieces; both sides hold a buffer, whatever the size of the state. */
static void bounded_memory(void) {
    enum { ROWS = 640, COLS = 300, PARTS = 3 };
    struct counting memory[PARTS + 1];
    dqt_context *ctx[PARTS + 1];
    dqt_layer *layer[PARTS + 1];
    dqt_updater *updater[PARTS + 1];
    struct streams s = {.fail_at = SIZE_MAX};
    struct memory_file expected = memory_new(), file = memory_new();
    for (size_t k = 0; k <= PARTS; k++) {
        dqt_updater_options o = {.struct_size = sizeof o, .part = k % PARTS, .num_parts = k < PARTS ? PARTS : 0};
        dqt_layer_options l = {.struct_size = sizeof l, .weight = {.storage = DQT_FORMAT_INT4}};
        memory[k] = counting_new();
        const dqt_context_options c = counting_options(&memory[k]);
        OK(NULL, dqt_context_create(&c, &ctx[k]));
        OK(ctx[k], dqt_linear_create(ctx[k], COLS, ROWS, &l, &layer[k]));
        OK(ctx[k], dqt_updater_create(ctx[k], &layer[k], 1, &o, &updater[k]));
        OK(ctx[k], dqt_updater_set_step(updater[k], 5));
    }
    for (size_t k = 0; k < PARTS; k++) {
        s.part[k].bytes = memory_new();
        OK(ctx[k], dqt_updater_write_part(updater[k], stream_write, &s.part[k]));
        CHECK(s.part[k].messages > 5);
    }
    const dqt_save_options o = save_of(&s, 2);
    memory[2].most = memory[2].bytes;
    const size_t before = memory[2].bytes;
    OK(ctx[2], dqt_layers_write(&layer[2], 1, updater[2], memory_write, &file, &o));
    OK(ctx[3], dqt_layers_write(&layer[3], 1, updater[3], memory_write, &expected, save_host("note", 4)));
    CHECK(same_bytes(&file, &expected) && !s.part[0].uneven && !s.part[1].uneven);
    CHECKF(memory[2].most - before < 200000, "%zu bytes while a file of %zu was written", memory[2].most - before,
           file.size);
    /* pieces of the same size that have changed places: of one state, and the first of m with the first of v */
    struct stream *first = &s.part[0];
    static const size_t swapped[][2] = {{1, 2}, {1, 6}};
    CHECK(first->messages == 11);
    for (int i = 0; i < 2; i++) {
        swap_messages(first, swapped[i][0], swapped[i][1]);
        const dqt_save_options again = save_of(&s, 2);
        file.size = 0;
        CHECK(dqt_layers_write(&layer[2], 1, updater[2], memory_write, &file, &again) == DQT_E_FORMAT);
        CHECK(strstr(dqt_last_error(ctx[2]), "part 0 of 3: state 0.m is damaged"));
        swap_messages(first, swapped[i][0], swapped[i][1]);
    }
    for (size_t k = 0; k <= PARTS; k++) {
        dqt_updater_destroy(updater[k]);
        dqt_layer_destroy(layer[k]);
        counting_end(ctx[k], &memory[k]);
    }
    free_streams(&s);
    free(file.bytes);
    free(expected.bytes);
}

/* A model's file makes updaters of any part, which write it again. */
static void models(void) {
    static const size_t counts[] = {0, 1, 2, 3, 8};
    struct replica whole = {.memory = counting_new()};
    const dqt_context_options c = counting_options(&whole.memory);
    dqt_llama_config config = {.struct_size = sizeof config,
                               .hidden_size = 96,
                               .intermediate_size = 200,
                               .tie_embeddings = 1,
                               .linear = {.scale_axis = DQT_AXIS_ROW, .train_scale = 1}};
    const dqt_group_options group = {.struct_size = sizeof group, .pattern = "*norm*", .optimizer = DQT_OPTIMIZER_SGD};
    dqt_updater_options u = {.struct_size = sizeof u, .optimizer = DQT_OPTIMIZER_ADAFACTOR};
    dqt_llama *model;
    dqt_layer *const *layers;
    size_t num_layers;
    struct memory_file file = memory_new();
    u.groups = &group;
    u.num_groups = 1;
    OK(NULL, dqt_context_create(&c, &whole.ctx));
    dqt_context *ctx = whole.ctx;
    OK(ctx, dqt_llama_create(ctx, &config, &model));
    OK(ctx, dqt_llama_get_layers(model, &layers, &num_layers));
    OK(ctx, dqt_tape_create(ctx, layers, num_layers, NULL, &whole.tape));
    OK(ctx, dqt_tape_get_num_parameters(whole.tape, &whole.count));
    OK(ctx, dqt_updater_create(ctx, layers, num_layers, &u, &whole.updater));
    set_gradients(&whole, 1);
    OK(ctx, dqt_updater_step(whole.updater, whole.tape, step_rate(0.01f), NULL));
    OK(ctx, dqt_llama_write(model, whole.updater, memory_write, &file, save_host("note", 4)));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct streams s = {.fail_at = SIZE_MAX};
        dqt_checkpoint out[MOST_PARTS];
        const size_t parts = counts[i] ? counts[i] : 1;
        for (size_t k = 0; k < parts; k++) {
            const dqt_load_options o = {.struct_size = sizeof o, .part = k, .num_parts = counts[i]};
            struct replica r = {.ctx = ctx};
            file.position = 0;
            out[k] = (dqt_checkpoint){.struct_size = sizeof *out};
            OK(ctx, dqt_llama_read(ctx, memory_read, &file, &o, &out[k]));
            r.updater = out[k].updater;
            compare_states(&r, &whole, k, parts, "a model's file");
            s.part[k].bytes = memory_new();
            if (parts > 1) OK(ctx, dqt_updater_write_part(out[k].updater, stream_write, &s.part[k]));
        }
        struct memory_file again = memory_new();
        const dqt_save_options save = save_of(&s, parts - 1);
        OK(ctx, dqt_llama_write(out[parts - 1].model, out[parts - 1].updater, memory_write, &again, &save));
        CHECKF(same_bytes(&again, &file), "a model's file of %zu parts", parts);
        free(again.bytes);
        free_streams(&s);
        for (size_t k = 0; k < parts; k++) {
            dqt_host_bytes_free(ctx, out[k].host, out[k].host_size);
            dqt_updater_destroy(out[k].updater);
            dqt_llama_destroy(out[k].model);
        }
    }
    free(file.bytes);
    dqt_updater_destroy(whole.updater);
    dqt_tape_destroy(whole.tape);
    dqt_llama_destroy(model);
    counting_end(ctx, &whole.memory);
}

/* ---- What goes wrong --------------------------------------------------------------------------------------------- */

#define REFUSED(call, expected, words)                                                                                 \
    do {                                                                                                               \
        const dqt_status refused = (call);                                                                             \
        CHECKF(refused == (expected), "status %d: %s", (int)refused, dqt_last_error(r[0].ctx));                        \
        CHECKF(strstr(dqt_last_error(r[0].ctx), words), "%s", dqt_last_error(r[0].ctx));                               \
    } while (0)

/* Three parts after a step, and what they send. */
static void open_world(struct replica *whole, struct replica *r, struct streams *s) {
    open_replica(whole, &settings[6], 1, 0, 0);
    open_parts(r, &settings[6], 3);
    train(whole, r, 3, 1);
    send_parts(r, 3, s);
}

static void close_world(struct replica *whole, struct replica *r, struct streams *s) {
    free_streams(s);
    close_parts(r, 3);
    close_replica(whole);
}

/* Each allocation, each read and each write fails in turn; then the same call gives the same bytes. */
static void faults(void) {
    struct replica whole, r[3];
    struct streams s;
    struct memory_file file, expected;
    open_world(&whole, r, &s);
    OK(r[0].ctx, write_file(r, 0, &s, &expected));
    const size_t reads = s.calls, bytes = r[0].memory.bytes;
    for (size_t n = 0;; n++) {
        r[0].memory.fail_at = r[0].memory.calls + n;
        const dqt_status status = write_file(r, 0, &s, &file);
        r[0].memory.fail_at = SIZE_MAX;
        CHECK(status == DQT_E_MEMORY ? file.size == 0 : same_bytes(&file, &expected));
        CHECK(r[0].memory.bytes == bytes);
        free(file.bytes);
        if (status == DQT_OK && n >= 2) break;
        CHECK(status == DQT_E_MEMORY);
    }
    static const size_t answers[] = {SIZE_MAX, 1, 0}; /* failed, too many, the end */
    for (size_t n = 0; n < reads; n++)
        for (int a = 0; a < 3; a++) {
            s.fail_at = n;
            s.answer = answers[a];
            REFUSED(write_file(r, 0, &s, &file), a < 2 ? DQT_E_IO : DQT_E_FORMAT, a < 2 ? "failed" : "ends before");
            CHECK(r[0].memory.bytes == bytes && (n >= 2 || file.size == 0)); /* heads come before the first byte */
            free(file.bytes);
        }
    s.fail_at = SIZE_MAX;
    for (size_t n = 0; n < 3; n++) { /* of the file */
        const dqt_save_options o = save_of(&s, 0);
        file = memory_new();
        file.fail_at = n * expected.size / 3;
        REFUSED(dqt_layers_write(r[0].layers, LAYERS, r[0].updater, memory_write, &file, &o), DQT_E_IO, "28");
        free(file.bytes);
    }
    for (size_t n = 0; n < s.part[0].messages; n++) { /* of a part */
        struct stream t = {.bytes = memory_new()};
        t.bytes.fail_at = s.part[0].begins[n];
        REFUSED(dqt_updater_write_part(r[0].updater, stream_write, &t), DQT_E_IO, "part 0 failed with error 28");
        CHECK(t.messages == n && r[0].memory.bytes == bytes);
        free(t.bytes.bytes);
    }
    for (size_t n = 0;; n++) {
        struct stream t = {.bytes = memory_new()};
        r[0].memory.fail_at = r[0].memory.calls + n;
        const dqt_status status = dqt_updater_write_part(r[0].updater, stream_write, &t);
        r[0].memory.fail_at = SIZE_MAX;
        CHECK(status == DQT_E_MEMORY ? t.messages == 0 : same_bytes(&t.bytes, &s.part[0].bytes));
        free(t.bytes.bytes);
        if (status == DQT_OK && n >= 2) break;
        CHECK(status == DQT_E_MEMORY);
    }
    OK(r[0].ctx, write_file(r, 0, &s, &file));
    CHECK(same_bytes(&file, &expected));
    free(file.bytes);
    free(expected.bytes);
    close_world(&whole, r, &s);
}

/* Message n of `from` is left out (times 0) or comes twice (times 2). */
static struct memory_file repeated(const struct stream *from, size_t n, int times) {
    struct memory_file f = memory_new();
    for (size_t i = 0; i < from->messages; i++) {
        const size_t end = i + 1 < from->messages ? from->begins[i + 1] : from->bytes.size;
        for (int k = 0; k < (i == n ? times : 1); k++)
            memory_write(&f, from->bytes.bytes + from->begins[i], end - from->begins[i]);
    }
    return f;
}

/* No byte of what parts send can change, and no message can go or come twice. */
static void damage(void) {
    struct replica whole, r[3];
    struct streams s;
    struct memory_file file;
    open_world(&whole, r, &s);
    for (size_t i = 0; i < s.part[1].bytes.size; i += i < 44 ? 1 : 1 + i % 37) {
        s.part[1].bytes.bytes[i] ^= (unsigned char)(1 << i % 8);
        CHECKF(write_file(r, 0, &s, &file) == DQT_E_FORMAT, "byte %zu", i);
        free(file.bytes);
        s.part[1].bytes.bytes[i] ^= (unsigned char)(1 << i % 8);
    }
    const struct stream kept = s.part[2];
    for (size_t n = 0; n < kept.messages; n++)
        for (int times = 0; times <= 2; times += 2) {
            if (times == 2 && n + 1 == kept.messages) continue; /* what is behind the end is not read */
            s.part[2].bytes = repeated(&kept, n, times);
            CHECKF(write_file(r, 0, &s, &file) == DQT_E_FORMAT, "message %zu %d times", n, times);
            free(file.bytes);
            free(s.part[2].bytes.bytes);
        }
    s.part[2] = kept;
    close_world(&whole, r, &s);
}

/* Replicas that are not of one step. */
static void strangers(void) {
    struct replica whole, r[3], other[2];
    struct streams s, t;
    struct memory_file file;
    open_world(&whole, r, &s);
    const struct stream first = s.part[1];
    s.part[1] = s.part[2];
    REFUSED(write_file(r, 0, &s, &file), DQT_E_FORMAT, "what has come as part 1 of 3 is part 2 of 3");
    free(file.bytes);
    open_parts(other, &settings[6], 2);
    send_parts(other, 2, &t);
    s.part[1] = t.part[1];
    REFUSED(write_file(r, 0, &s, &file), DQT_E_FORMAT, "is part 1 of 2");
    free(file.bytes);
    close_parts(other, 2);
    free_streams(&t);

    /* another step, another statistic, another rule, other options: nothing is written */
    for (int how = 0; how < 4; how++) {
        struct setting changed = settings[6];
        if (how == 3) changed.weight_decay = 0.25f;
        struct replica stranger[3], same;
        open_replica(&same, &settings[6], 1, 0, 0);
        open_parts(stranger, &changed, 3);
        if (how != 3) train(&same, stranger, 3, 1);
        if (how == 0) OK(stranger[1].ctx, dqt_updater_set_step(stranger[1].updater, 7));
        if (how == 1) {
            struct piece column = {.label = "0.column"};
            OK(stranger[1].ctx, updater_visit_state(stranger[1].updater, find_piece, &column));
            ((float *)column.a.data)[3] *= 2.0f;
        }
        if (how == 2) {
            size_t matched;
            const dqt_group_options g = {.struct_size = sizeof g, .pattern = "b", .lr_factor = 0.5f};
            OK(stranger[1].ctx, dqt_updater_add_group(stranger[1].updater, &g, &matched));
        }
        if (how == 3) OK(stranger[1].ctx, dqt_updater_set_step(stranger[1].updater, 1));
        t = (struct streams){.fail_at = SIZE_MAX};
        t.part[1].bytes = memory_new();
        OK(stranger[1].ctx, dqt_updater_write_part(stranger[1].updater, stream_write, &t.part[1]));
        s.part[1] = t.part[1];
        REFUSED(write_file(r, 0, &s, &file), DQT_E_FORMAT, how == 0 ? "has made 7 steps, part 0 1" : "has other");
        CHECK(file.size == 0);
        free(file.bytes);
        free_streams(&t);
        close_parts(stranger, 3);
        close_replica(&same);
    }
    s.part[1] = first;
    OK(r[0].ctx, write_file(r, 0, &s, &file));
    free(file.bytes);
    close_world(&whole, r, &s);
}

/* State that could not be read is not sent, and not believed when it comes. */
static void state_that_is_none(void) {
    struct replica whole, r[3];
    struct streams s;
    struct memory_file file;
    open_replica(&whole, &settings[2], 1, 0, 0);
    open_parts(r, &settings[2], 3);
    train(&whole, r, 3, 1);
    send_parts(r, 3, &s);
    struct piece v = {.label = "2.v"};
    OK(r[0].ctx, updater_visit_state(r[0].updater, find_piece, &v));
    const float kept = *(float *)v.a.data;
    *(float *)v.a.data = -1.0f;
    struct stream t = {.bytes = memory_new()};
    REFUSED(dqt_updater_write_part(r[0].updater, stream_write, &t), DQT_E_NUMERIC, "2.v");
    REFUSED(write_file(r, 0, &s, &file), DQT_E_NUMERIC, "2.v");
    CHECK(t.messages == 0 && file.size == 0);
    *(float *)v.a.data = kept;
    free(file.bytes);
    close_world(&whole, r, &s);
}

static void mistakes(void) {
    struct replica whole, r[3];
    struct streams s;
    struct stream t = {.bytes = memory_new()};
    open_world(&whole, r, &s);
    CHECK(dqt_updater_write_part(NULL, stream_write, &t) == DQT_E_ARGUMENT);
    REFUSED(dqt_updater_write_part(r[0].updater, NULL, &t), DQT_E_ARGUMENT, "write");
    CHECK(dqt_updater_write_part(whole.updater, stream_write, &t) == DQT_E_UNSUPPORTED);
    CHECK(strstr(dqt_last_error(whole.ctx), "all rows"));
    dqt_step_sums sums = {.struct_size = sizeof sums};
    set_gradients(&r[0], 1);
    OK(r[0].ctx, dqt_updater_begin_step(r[0].updater, r[0].tape, step_rate(0.1f), &sums));
    REFUSED(dqt_updater_write_part(r[0].updater, stream_write, &t), DQT_E_STATE, "is open");
    CHECK(t.messages == 0);
    close_world(&whole, r, &s);
}

/* Which part a file is loaded into. */
static void loading(void) {
    struct place p;
    struct memory_file file = memory_new();
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint), out = DQT_INIT(dqt_checkpoint);
    dqt_updater *updater;
    dqt_layer *const *layers;
    size_t n;
    place_begin(&p);
    OK(p.ctx, dqt_llama_get_layers(p.model, &layers, &n));
    const dqt_updater_options u = {.struct_size = sizeof u, .part = 1, .num_parts = 2};
    OK(p.ctx, dqt_updater_create(p.ctx, layers, n, &u, &updater));
    OK(p.ctx, dqt_llama_write(p.model, updater, memory_write, &file, NULL));
    static const struct {
        uint64_t part, num_parts;
        dqt_status status;
        const char *words;
    } cases[] = {{1, 2, DQT_OK, ""},
                 {0, 0, DQT_OK, ""},
                 {0, 1, DQT_OK, ""},
                 {0, 2, DQT_E_UNSUPPORTED, "of part 1 of 2"},
                 {1, 3, DQT_E_UNSUPPORTED, "of part 1 of 2"},
                 {2, 2, DQT_E_ARGUMENT, "part is 2"},
                 {1, 0, DQT_E_ARGUMENT, "part is 1"},
                 {1, 65537, DQT_E_UNSUPPORTED, "num_parts is 65537"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dqt_load_options o = {.struct_size = sizeof o, .part = cases[i].part, .num_parts = cases[i].num_parts};
        file.position = 0;
        const dqt_status status = dqt_llama_read(p.ctx, memory_read, &file, &o, &c);
        CHECKF(status == cases[i].status && (status == DQT_OK) == (c.updater != NULL), "case %zu: status %d", i,
               (int)status);
        if (status) CHECKF(strstr(dqt_last_error(p.ctx), cases[i].words), "%s", dqt_last_error(p.ctx));
        dqt_updater_destroy(c.updater);
        dqt_llama_destroy(c.model);
        if (status == DQT_E_UNSUPPORTED && cases[i].num_parts < 4) { /* its weights are anyone's */
            file.position = 0;
            o.skip_updater = 1;
            OK(p.ctx, dqt_llama_read(p.ctx, memory_read, &file, &o, &c));
            CHECK(c.model && !c.updater);
            dqt_llama_destroy(c.model);
        }
    }
    const dqt_load_options o = {.struct_size = sizeof o, .part = 1, .num_parts = 2};
    file.position = 0;
    CHECK(dqt_layers_read(layers, n, updater, memory_read, &file, &o, &out) == DQT_E_ARGUMENT);
    CHECK(strstr(dqt_last_error(p.ctx), "num_parts is 2"));
    dqt_updater_destroy(updater);
    free(file.bytes);
    place_end(&p);
}

/* Into a part: each allocation fails in turn, and the file of all rows ends at each of many bytes. */
static void loading_faults(void) {
    struct place p;
    struct memory_file file = memory_new();
    dqt_checkpoint c = DQT_INIT(dqt_checkpoint);
    const dqt_load_options o = {.struct_size = sizeof o, .part = 1, .num_parts = 2};
    dqt_updater *updater;
    dqt_layer *const *layers;
    size_t n;
    place_begin(&p);
    OK(p.ctx, dqt_llama_get_layers(p.model, &layers, &n));
    OK(p.ctx, dqt_updater_create(p.ctx, layers, n, NULL, &updater));
    OK(p.ctx, dqt_llama_write(p.model, updater, memory_write, &file, NULL));
    const size_t before = p.memory.bytes;
    for (size_t i = 0;; i++) {
        file.position = 0;
        p.memory.fail_at = p.memory.calls + i;
        const dqt_status status = dqt_llama_read(p.ctx, memory_read, &file, &o, &c);
        p.memory.fail_at = SIZE_MAX;
        if (status == DQT_OK) break;
        CHECKF(status == DQT_E_MEMORY && !c.model && !c.updater && p.memory.bytes == before, "allocation %zu", i);
    }
    dqt_updater_destroy(c.updater);
    dqt_llama_destroy(c.model);
    const size_t whole = file.size;
    for (size_t size = 0; size < whole; size += 1 + size / 50) {
        file.position = 0;
        file.size = size;
        CHECKF(dqt_llama_read(p.ctx, memory_read, &file, &o, &c) == DQT_E_FORMAT && !c.model, "%zu bytes", size);
        CHECK(p.memory.bytes == before);
    }
    dqt_updater_destroy(updater);
    free(file.bytes);
    place_end(&p);
}

/* A path: the old file stays when a part fails, and the new one is the whole's. Without read_part the file is of one
 * part. */
static void paths(void) {
    struct replica whole, r[3];
    struct streams s;
    struct memory_file expected = memory_new();
    struct place p;
    open_world(&whole, r, &s);
    place_begin(&p);
    const char *path = place_path(&p, "layers");
    OK(whole.ctx, dqt_layers_write(whole.layers, LAYERS, whole.updater, memory_write, &expected, save_host("note", 4)));
    dqt_save_options o = save_of(&s, 0);
    OK(r[0].ctx, dqt_layers_save(r[0].layers, LAYERS, r[0].updater, path, &o));
    struct memory_file file = slurp(path);
    CHECK(same_bytes(&file, &expected));
    free(file.bytes);
    o = save_of(&s, 0);
    s.fail_at = 9;
    s.answer = SIZE_MAX;
    REFUSED(dqt_layers_save(r[0].layers, LAYERS, r[0].updater, path, &o), DQT_E_IO, "part");
    file = slurp(path);
    CHECK(same_bytes(&file, &expected) && entries_in(p.folder) == 1);
    free(file.bytes);
    o = save_of(&s, 0);
    o.read_part = NULL;
    OK(r[0].ctx, dqt_layers_save(r[0].layers, LAYERS, r[0].updater, path, &o));
    REFUSED(dqt_layers_load(r[1].layers, LAYERS, r[1].updater, path, NULL, NULL), DQT_E_UNSUPPORTED, "");
    OK(r[0].ctx, dqt_layers_load(r[0].layers, LAYERS, r[0].updater, path, NULL, NULL));
    unlink(path);
    place_end(&p);
    free(expected.bytes);
    close_world(&whole, r, &s);
}

static const struct test tests[] = {TEST(the_file_of_one), TEST(other_number_of_parts),
                                    TEST(models),          TEST(bounded_memory),
                                    TEST(faults),          TEST(damage),
                                    TEST(strangers),       TEST(state_that_is_none),
                                    TEST(mistakes),        TEST(loading),
                                    TEST(loading_faults),  TEST(paths)};
TEST_MAIN(tests)
