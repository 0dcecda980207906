/* Files of partial models: one that all of them write, whose bytes are those of the whole model's; parts of it; files
 * of one partial model alone; messages that are damaged, missing or of something else. */
#include "partial_world.h"

#include "io/stream.h"
#include "model/llama.h"

static const size_t splits[][MOST_STAGES + 1] = {{2, 3}, {1, 3, 1}, {1, 1, 1, 1, 1}};
enum { SPLITS = sizeof splits / sizeof *splits, MESSAGES = 1000, MOST_BYTES = STREAM_BUFFER + 4 };

static size_t open_stages(struct stage *s, const struct setting *how, const size_t *blocks) {
    size_t stages = 0;
    for (size_t first = 0; blocks[stages]; first += blocks[stages++])
        stage_open(&s[stages], how, first, blocks[stages], 1);
    return stages;
}

static void close_stages(struct stage *s, size_t stages) {
    for (size_t k = 0; k < stages; k++)
        stage_close(&s[k]);
}

static void train(struct stage *whole, struct stage *s, size_t stages, uint32_t step) {
    struct data d;
    float losses[MICRO];
    dqt_step_stats stats[MOST_STAGES];
    data_of(&d, step);
    if (whole) {
        whole_gradients(whole, &d, losses);
        OK(whole->ctx, dqt_updater_step(whole->updater, whole->tape, step_options(), NULL));
    }
    stages_gradients(s, stages, &d, MICRO * (uint64_t)step, losses);
    stages_step(s, stages, stats);
}

/* ---- Messages ------------------------------------------------------------------------------------------------------
 */

/* What one partial model has written, message by message. */
struct sent {
    struct memory_file file;
    size_t sizes[MESSAGES], count, next; /* next: to be read */
};

static int32_t send(void *user_data, const void *bytes, size_t size) {
    struct sent *to = user_data;
    CHECK(size <= MOST_BYTES && to->count < MESSAGES);
    to->sizes[to->count++] = size;
    return memory_write(&to->file, bytes, size);
}

static size_t receive(void *user_data, size_t part, void *bytes, size_t size) {
    struct sent *from = (struct sent *)user_data + part;
    CHECKF(from->next >= from->count || size == from->sizes[from->next], "message %zu of part %zu", from->next, part);
    from->next++;
    return memory_read(&from->file, bytes, size);
}

/* The same without looking at sizes, and little at a time. */
static size_t trickle(void *user_data, size_t part, void *bytes, size_t size) {
    struct sent *from = (struct sent *)user_data + part;
    return memory_read(&from->file, bytes, size < 1000 ? size : 1000);
}

static void send_all(struct stage *s, size_t stages, struct sent *sent, bool updater) {
    for (size_t k = 1; k < stages; k++) {
        sent[k] = (struct sent){.file = memory_new()};
        OK(s[k].ctx, dqt_llama_write_part(s[k].model, updater ? s[k].updater : NULL, send, &sent[k]));
    }
}

static void again(struct sent *sent, size_t stages) {
    for (size_t k = 1; k < stages; k++)
        sent[k].file.position = sent[k].next = 0;
}

static void release(struct sent *sent, size_t stages) {
    for (size_t k = 1; k < stages; k++)
        free(sent[k].file.bytes);
}

static const char host[] = "the host's";

static dqt_save_options options_of(const struct stage *t, dqt_read_part_fn read, struct sent *sent) {
    return (dqt_save_options){.struct_size = sizeof(dqt_save_options),
                              .host = host,
                              .host_size = sizeof host,
                              .tape = t->tape,
                              .read_part = read,
                              .part_user_data = sent};
}

static dqt_status write_all(struct stage *first, struct sent *sent, dqt_read_part_fn read, bool updater,
                            struct memory_file *out) {
    const dqt_save_options o = options_of(first, read, sent);
    *out = memory_new();
    return dqt_llama_write(first->model, updater ? first->updater : NULL, memory_write, out, &o);
}

static struct memory_file file_of_whole(struct stage *whole, bool updater) {
    struct memory_file f = memory_new();
    const dqt_save_options o = options_of(whole, NULL, NULL);
    OK(whole->ctx, dqt_llama_write(whole->model, updater ? whole->updater : NULL, memory_write, &f, &o));
    return f;
}

/* ---- Tests ---------------------------------------------------------------------------------------------------------
 */

static void one_file(void) {
    for (int i = 0; i < SETTINGS; i++)
        for (int k = 0; k < SPLITS; k++) {
            struct stage whole, s[MOST_STAGES];
            struct sent sent[MOST_STAGES];
            stage_open(&whole, &settings[i], 0, 0, 1);
            const size_t stages = open_stages(s, &settings[i], splits[k]);
            for (uint32_t step = 0; step < 2; step++)
                train(&whole, s, stages, step);
            for (int updater = 0; updater < 2; updater++) {
                struct memory_file expected = file_of_whole(&whole, updater), file;
                send_all(s, stages, sent, updater);
                OK(s[0].ctx, write_all(&s[0], sent, receive, updater, &file));
                CHECKF(same_bytes(&file, &expected), "%s, %zu stages, updater %d: the file", settings[i].name, stages,
                       updater);
                for (size_t n = 1; n < stages; n++)
                    CHECK(sent[n].next == sent[n].count && sent[n].file.position == sent[n].file.size);
                if (i == 0 && k == 0 && updater) CHECKF(sent[1].count > 5, "%zu messages", sent[1].count);
                free(file.bytes);
                again(sent, stages);
                OK(s[0].ctx, write_all(&s[0], sent, trickle, updater, &file));
                CHECK(same_bytes(&file, &expected));
                free(file.bytes);
                free(expected.bytes);
                release(sent, stages);
            }
            close_stages(s, stages);
            stage_close(&whole);
        }
}

static dqt_status load_stage(struct stage *t, struct memory_file *f, const struct setting *how, size_t first,
                             size_t count) {
    const dqt_load_options o = {.struct_size = sizeof o, .first_block = first, .num_blocks = count};
    dqt_checkpoint c = {.struct_size = sizeof c};
    stage_context(t, 1);
    f->position = 0;
    const dqt_status status = dqt_llama_read(t->ctx, memory_read, f, &o, &c);
    if (status != DQT_OK) return status;
    CHECK(c.host_size == sizeof host && memcmp(c.host, host, sizeof host) == 0);
    dqt_host_bytes_free(t->ctx, c.host, c.host_size);
    t->model = c.model;
    t->updater = c.updater;
    stage_tape(t, how);
    OK(t->ctx, dqt_tape_set_pass(t->tape, c.passes));
    return DQT_OK;
}

/* A whole model's file goes into the stages of any pipeline, which go on as the whole does; memory is a stage's. */
static void parts_of_a_file(void) {
    for (int i = 0; i < SETTINGS; i++) {
        struct stage whole, s[MOST_STAGES], loaded[MOST_STAGES];
        stage_open(&whole, &settings[i], 0, 0, 1);
        size_t stages = open_stages(s, &settings[i], splits[0]);
        train(&whole, s, stages, 0);
        struct memory_file f = file_of_whole(&whole, true);
        close_stages(s, stages);
        for (int k = 0; k < SPLITS; k++) {
            stages = 0;
            for (size_t first = 0; splits[k][stages]; first += splits[k][stages++])
                OK(loaded[stages].ctx, load_stage(&loaded[stages], &f, &settings[i], first, splits[k][stages]));
            compare_stages(loaded, stages, &whole, settings[i].name);
            stages = 0;
            for (size_t first = 0; splits[k][stages]; first += splits[k][stages++]) {
                stage_open(&s[stages], &settings[i], first, splits[k][stages], 1);
                CHECKF(loaded[stages].memory.bytes == s[stages].memory.bytes, "%s: %zu bytes, created %zu",
                       settings[i].name, loaded[stages].memory.bytes, s[stages].memory.bytes);
            }
            close_stages(s, stages);
            if (k == SPLITS - 1) {
                train(&whole, loaded, stages, 1);
                compare_stages(loaded, stages, &whole, settings[i].name);
            }
            close_stages(loaded, stages);
        }
        free(f.bytes);
        stage_close(&whole);
    }
}

/* Without read_part: the file of one partial model, which loads as such and as nothing else. */
static void alone(void) {
    struct stage s, t;
    stage_open(&s, &settings[1], 1, 3, 1);
    struct memory_file f = memory_new(), g = memory_new();
    const dqt_save_options o = options_of(&s, NULL, NULL);
    OK(s.ctx, dqt_llama_write(s.model, s.updater, memory_write, &f, &o));
    OK(t.ctx, load_stage(&t, &f, &settings[1], 0, 0));
    dqt_llama_config c = {.struct_size = sizeof c};
    OK(t.ctx, dqt_llama_get_config(t.model, &c));
    CHECK(c.first_block == 1 && c.num_blocks == 3 && c.num_layers == BLOCKS);
    for (size_t i = 0; i < s.count; i++)
        compare_weights(&t, i, &s, i, "alone");
    OK(t.ctx, dqt_llama_write(t.model, t.updater, memory_write, &g, &o));
    CHECK(same_bytes(&f, &g));
    f.position = 0;
    OK(t.ctx, dqt_layers_read(t.layers, t.num_layers, t.updater, memory_read, &f, NULL, NULL));
    stage_close(&t);
    OK(t.ctx, load_stage(&t, &f, &settings[1], 1, 3));
    stage_close(&t);
    static const size_t others[][2] = {{1, 0}, {1, 2}, {0, 4}, {2, 2}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK(load_stage(&t, &f, &settings[1], others[i][0], others[i][1]) == DQT_E_UNSUPPORTED);
        CHECKF(strstr(dqt_last_error(t.ctx), "3 blocks from number 1"), "%s", dqt_last_error(t.ctx));
        counting_end(t.ctx, &t.memory);
    }
    free(f.bytes);
    free(g.bytes);
    stage_close(&s);
}

#define REFUSED(t, call, expected, words)                                                                              \
    do {                                                                                                               \
        const dqt_status refused = (call);                                                                             \
        CHECKF(refused == (expected), "status %d: %s", (int)refused, dqt_last_error((t).ctx));                         \
        CHECKF(strstr(dqt_last_error((t).ctx), words), "%s", dqt_last_error((t).ctx));                                 \
    } while (0)

/* Whatever comes instead of the right messages is refused. */
static void wrong_messages(void) {
    struct stage s[MOST_STAGES], other;
    struct sent sent[MOST_STAGES];
    struct memory_file file;
    const size_t stages = open_stages(s, &settings[1], splits[1]);
    train(NULL, s, stages, 0);
    send_all(s, stages, sent, true);
    struct sent right = sent[1];
    /* a byte of another value: in all of the head, and at the ends of messages */
    for (size_t message = 0, at = 0; message < right.count; at += right.sizes[message++])
        for (size_t i = 0; i < right.sizes[message]; i++) {
            if (message > 0 && i > 2 && i + 6 < right.sizes[message]) continue;
            right.file.bytes[at + i] ^= 4;
            again(sent, stages);
            const dqt_status status = write_all(&s[0], sent, receive, true, &file);
            CHECKF(status == DQT_E_FORMAT, "byte %zu of message %zu: status %d", i, message, (int)status);
            right.file.bytes[at + i] ^= 4;
            free(file.bytes);
        }
    /* an end, and a failure, before each message */
    for (size_t message = 0, at = 0; message < right.count; at += right.sizes[message++])
        for (int failure = 0; failure < 2; failure++) {
            again(sent, stages);
            if (failure)
                sent[1].file.fail_at = at + 1;
            else
                sent[1].file.size = at + right.sizes[message] / 2;
            REFUSED(s[0], write_all(&s[0], sent, failure ? receive : trickle, true, &file),
                    failure ? DQT_E_IO : DQT_E_FORMAT, failure ? "failed" : "ends before");
            sent[1] = right;
            free(file.bytes);
        }
    /* messages in another order, of another part, step, config, updater or none */
    again(sent, stages);
    sent[1] = sent[2];
    REFUSED(s[0], write_all(&s[0], sent, receive, true, &file), DQT_E_FORMAT, "must go on from number");
    sent[1] = right;
    stage_open(&other, &settings[1], 1, 3, 1);
    sent[1] = (struct sent){.file = memory_new()};
    OK(other.ctx, dqt_llama_write_part(other.model, other.updater, send, &sent[1]));
    REFUSED(s[0], write_all(&s[0], sent, receive, true, &file), DQT_E_FORMAT, "0 steps, the first 1");
    free(sent[1].file.bytes);
    OK(other.ctx, dqt_updater_set_step(other.updater, 1)); /* but it has another norm */
    sent[1] = (struct sent){.file = memory_new()};
    OK(other.ctx, dqt_llama_write_part(other.model, other.updater, send, &sent[1]));
    again(sent, stages);
    REFUSED(s[0], write_all(&s[0], sent, receive, true, &file), DQT_E_FORMAT, "another norm");
    free(sent[1].file.bytes);
    sent[1] = (struct sent){.file = memory_new()};
    OK(other.ctx, dqt_llama_write_part(other.model, NULL, send, &sent[1]));
    again(sent, stages);
    REFUSED(s[0], write_all(&s[0], sent, receive, true, &file), DQT_E_FORMAT, "steps");
    free(sent[1].file.bytes);
    stage_close(&other);
    stage_open(&other, &settings[0], 1, 3, 1);
    sent[1] = (struct sent){.file = memory_new()};
    OK(other.ctx, dqt_llama_write_part(other.model, NULL, send, &sent[1]));
    REFUSED(s[0], write_all(&s[0], sent, receive, false, &file), DQT_E_FORMAT, "another config");
    free(sent[1].file.bytes);
    stage_close(&other);
    sent[1] = right;
    release(sent, stages);
    close_stages(s, stages);
}

/* Pieces of the same size that have changed places. */
static void pieces_in_another_order(void) {
    struct stage s[MOST_STAGES];
    struct sent sent[MOST_STAGES];
    struct memory_file file;
    const size_t stages = open_stages(s, &settings[0], splits[0]);
    send_all(s, stages, sent, true);
    size_t at = 0, m = 0;
    while (m + 1 < sent[1].count && (sent[1].sizes[m] != MOST_BYTES || sent[1].sizes[m + 1] != MOST_BYTES))
        at += sent[1].sizes[m++];
    CHECK(m + 1 < sent[1].count);
    unsigned char *first = sent[1].file.bytes + at;
    for (size_t i = 0; i < MOST_BYTES; i++) {
        const unsigned char kept = first[i];
        first[i] = first[MOST_BYTES + i];
        first[MOST_BYTES + i] = kept;
    }
    REFUSED(s[0], write_all(&s[0], sent, receive, true, &file), DQT_E_FORMAT, "damaged");
    free(file.bytes);
    release(sent, stages);
    close_stages(s, stages);
}

/* All blocks are the whole model; a config that leaves its blocks open is no checkpoint's; tied models have no parts.
 */
static void blocks_of_a_file(void) {
    struct stage whole, t, s;
    stage_open(&whole, &settings[0], 0, 0, 1);
    struct memory_file f = file_of_whole(&whole, true);
    OK(t.ctx, load_stage(&t, &f, &settings[0], 0, BLOCKS));
    CHECK(t.count == whole.count && t.memory.bytes == whole.memory.bytes);
    stage_close(&t);
    free(f.bytes);
    whole.model->config.num_blocks = BLOCKS; /* which goes without saying */
    f = file_of_whole(&whole, false);
    whole.model->config.num_blocks = 0;
    CHECK(load_stage(&t, &f, &settings[0], 0, 0) == DQT_E_FORMAT);
    counting_end(t.ctx, &t.memory);
    free(f.bytes);
    stage_open(&s, &settings[0], 2, 0, 1);
    s.model->config.num_blocks = 0;
    f = file_of_whole(&s, false);
    s.model->config.num_blocks = BLOCKS - 2;
    CHECK(load_stage(&t, &f, &settings[0], 0, 0) == DQT_E_FORMAT);
    counting_end(t.ctx, &t.memory);
    free(f.bytes);
    stage_close(&s);
    stage_close(&whole);

    stage_context(&s, 1);
    dqt_llama_config c = config_of(&settings[0], 0, 0);
    c.tie_embeddings = 1;
    f = memory_new();
    OK(s.ctx, dqt_llama_create(s.ctx, &c, &s.model));
    OK(s.ctx, dqt_llama_write(s.model, NULL, memory_write, &f, NULL));
    REFUSED(t, load_stage(&t, &f, &settings[0], 1, 2), DQT_E_UNSUPPORTED, "tie_embeddings");
    counting_end(t.ctx, &t.memory);
    free(f.bytes);
    dqt_llama_destroy(s.model);
    counting_end(s.ctx, &s.memory);
}

static int32_t refuse(void *user_data, const void *bytes, size_t size) {
    (void)bytes;
    return size > 200 || *(int *)user_data == 0 ? 7 : 0;
}

static void mistakes(void) {
    struct stage whole, s[MOST_STAGES];
    struct sent sent[MOST_STAGES];
    struct memory_file file = memory_new();
    const size_t stages = open_stages(s, &settings[0], splits[0]);
    stage_open(&whole, &settings[0], 0, 0, 1);
    CHECK(dqt_llama_write_part(NULL, NULL, send, sent) == DQT_E_ARGUMENT);
    REFUSED(s[1], dqt_llama_write_part(s[1].model, NULL, NULL, NULL), DQT_E_ARGUMENT, "write is NULL");
    REFUSED(s[1], dqt_llama_write_part(s[1].model, s[0].updater, send, sent), DQT_E_UNSUPPORTED, "parameters");
    REFUSED(whole, dqt_llama_write_part(whole.model, NULL, send, sent), DQT_E_UNSUPPORTED, "whole");
    for (int head = 0; head < 2; head++)
        REFUSED(s[1], dqt_llama_write_part(s[1].model, s[1].updater, refuse, &head), DQT_E_IO, "error 7");
    const dqt_save_options o = options_of(&s[1], receive, sent);
    REFUSED(s[1], dqt_llama_write(s[1].model, s[1].updater, memory_write, &file, &o), DQT_E_ARGUMENT,
            "begins at block 2");
    CHECK(file.size == 0);
    /* a whole model does not look at read_part */
    const dqt_save_options unread = options_of(&whole, receive, NULL);
    OK(whole.ctx, dqt_llama_write(whole.model, NULL, memory_write, &file, &unread));
    static const size_t ranges[][2] = {{BLOCKS, 0}, {3, 3}, {0, SIZE_MAX}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        struct stage t;
        CHECK(load_stage(&t, &file, &settings[0], ranges[i][0], ranges[i][1]) == DQT_E_ARGUMENT);
        CHECKF(strstr(dqt_last_error(t.ctx), "5 blocks"), "%s", dqt_last_error(t.ctx));
        counting_end(t.ctx, &t.memory);
    }
    const dqt_load_options range = {.struct_size = sizeof range, .first_block = 1};
    file.position = 0;
    REFUSED(s[1], dqt_layers_read(s[1].layers, s[1].num_layers, NULL, memory_read, &file, &range, NULL), DQT_E_ARGUMENT,
            "first_block 1");
    free(file.bytes);
    stage_close(&whole);
    close_stages(s, stages);
}

/* Without memory nothing leaks, on either side. */
static void no_memory(void) {
    struct stage s[MOST_STAGES];
    struct sent sent[MOST_STAGES];
    const size_t stages = open_stages(s, &settings[0], splits[0]);
    send_all(s, stages, sent, true);
    for (int side = 0; side < 2; side++) {
        dqt_status status = DQT_E_MEMORY;
        for (size_t n = 0; status == DQT_E_MEMORY && n < 20; n++) {
            struct memory_file file = memory_new();
            struct sent unused = {.file = memory_new()};
            again(sent, stages);
            s[side].memory.fail_at = s[side].memory.calls + n;
            status = side ? dqt_llama_write_part(s[1].model, s[1].updater, send, &unused)
                          : write_all(&s[0], sent, receive, true, &file);
            s[side].memory.fail_at = SIZE_MAX;
            if (n == 0) CHECK(status == DQT_E_MEMORY);
            if (n == 0 && side) CHECK(unused.count == 0);
            free(file.bytes);
            free(unused.file.bytes);
        }
        CHECK(status == DQT_OK);
    }
    release(sent, stages);
    close_stages(s, stages);
}

/* A file that is cut, or has another byte somewhere, is refused by those who load a part, too. */
static void damaged(void) {
    struct stage whole, t;
    stage_open(&whole, &settings[1], 0, 0, 1);
    struct memory_file f = file_of_whole(&whole, true);
    const size_t size = f.size;
    for (size_t at = 0; at < size; at += at < 3000 ? 7 : 911) {
        f.bytes[at] ^= 16;
        CHECKF(load_stage(&t, &f, &settings[1], 1, 2) == DQT_E_FORMAT, "byte %zu", at);
        counting_end(t.ctx, &t.memory);
        f.bytes[at] ^= 16;
        f.size = at;
        CHECKF(load_stage(&t, &f, &settings[1], 1, 2) == DQT_E_FORMAT, "%zu bytes", at);
        counting_end(t.ctx, &t.memory);
        f.size = size;
    }
    free(f.bytes);
    stage_close(&whole);
}

static const struct test tests[] = {
    TEST(one_file),        TEST(parts_of_a_file), TEST(alone),   TEST(wrong_messages),
    TEST(mistakes),        TEST(no_memory),       TEST(damaged), TEST(pieces_in_another_order),
    TEST(blocks_of_a_file)};
TEST_MAIN(tests)
