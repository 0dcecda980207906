/* Hostile checkpoints: every flipped bit and every missing byte is noticed, values that no model has are refused with
 * right checksums too; failures of the host's callbacks and allocator leave nothing behind. */
#include "checkpoint_world.h"

/* ---- Damage -------------------------------------------------------------------------------------------------- */

/* Reading fails with this status, gives nothing and keeps nothing. */
static void check_refused(dqt_context *ctx, struct memory_file *f, dqt_status expected, const char *what,
                          size_t where) {
    const size_t before = dqt_context_allocated(ctx);
    dqt_llama *model = (dqt_llama *)(void *)ctx;
    dqt_updater *updater = (dqt_updater *)(void *)ctx;
    void *host = ctx;
    size_t host_size = 99;
    f->position = 0;
    const dqt_status status = read_checkpoint(ctx, memory_read, f, &model, &updater, &host, &host_size);
    CHECKF(status == expected, "%s at byte %zu of %zu: %s", what, where, f->size, dqt_status_string(status));
    CHECK(status == DQT_OK || dqt_last_error(ctx)[0] != '\0');
    CHECK(!model && !updater && !host && host_size == 0);
    CHECK(dqt_context_allocated(ctx) == before);
    if (status == DQT_OK) {
        dqt_updater_destroy(updater);
        dqt_llama_destroy(model);
        dqt_host_bytes_free(ctx, host, host_size);
    }
}

/* Ends of the header, of every section head, payload and checksum. */
static size_t boundaries(const struct memory_file *f, size_t *out, size_t room) {
    size_t n = 0, at = HEADER_BYTES;
    out[n++] = at;
    while (at < f->size && n + 3 < room) {
        const uint64_t label = get_le(f->bytes + at + 4, 4), payload = get_le(f->bytes + at + 8, 8);
        out[n++] = at += 16 + (size_t)label + 4;
        out[n++] = at += (size_t)payload;
        out[n++] = at += 4;
    }
    CHECK(at == f->size);
    return n;
}

static void every_flip_is_noticed(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const unsigned char host[5] = {1, 2, 3, 4, 5};
    struct memory_file f = trained_file(ctx, host, sizeof host);
    uint64_t random = 5;
    for (size_t at = 0; at < f.size; at++) { /* one bit of every byte */
        const unsigned char bit = (unsigned char)(1u << test_random(&random) % 8);
        f.bytes[at] ^= bit;
        check_refused(ctx, &f, DQT_E_FORMAT, "flip", at);
        f.bytes[at] ^= bit;
        if (test_failures) break;
    }
    free(f.bytes);
    counting_end(ctx, &counting);
}

static void every_truncation_is_noticed(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const unsigned char host[5] = {1, 2, 3, 4, 5};
    struct memory_file f = trained_file(ctx, host, sizeof host);
    const size_t whole = f.size;
    size_t edges[400];
    const size_t count = boundaries(&f, edges, 400);
    CHECK(count > 60 && edges[count - 1] == whole);
    for (size_t i = 0; i < count; i++)
        for (int d = -1; d <= 1; d++) {
            f.size = edges[i] + (size_t)d;
            if (f.size < whole) check_refused(ctx, &f, DQT_E_FORMAT, "truncation", f.size);
        }
    uint64_t random = 6;
    for (int i = 0; i < 1000; i++) {
        f.size = (size_t)(test_random(&random) % whole);
        f.most = i % 3 == 0 ? 7 : 0;
        check_refused(ctx, &f, DQT_E_FORMAT, "truncation", f.size);
    }
    free(f.bytes);
    counting_end(ctx, &counting);
}

/* Every section has its place: one that is called otherwise, with right checksums, is refused, also into layers. */
static void strange_sections_are_refused(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    struct memory_file f = trained_file(ctx, "abc", 3);
    dqt_llama *model = NULL;
    dqt_updater *updater = NULL;
    dqt_layer *const *layers = NULL;
    size_t num_layers = 0, sections = 0;
    OK(ctx, read_checkpoint(ctx, memory_read, &f, &model, &updater, NULL, NULL));
    if (!model) return;
    OK(ctx, dqt_llama_get_layers(model, &layers, &num_layers));
    for (size_t at = HEADER_BYTES; at < f.size; sections++) {
        const size_t head = 16 + (size_t)get_le(f.bytes + at + 4, 4), payload = (size_t)get_le(f.bytes + at + 8, 8);
        unsigned char tag[4];
        memcpy(tag, f.bytes + at, 4);
        memcpy(f.bytes + at, "ZZZZ", 4);
        seal(&f);
        f.position = 0;
        const dqt_status into = dqt_layers_read(layers, num_layers, updater, memory_read, &f, NULL, NULL);
        CHECKF(into == DQT_E_FORMAT || into == DQT_E_SHAPE || into == DQT_E_STATE, "%.4s: %s", (const char *)tag,
               dqt_status_string(into));
        check_refused(ctx, &f, DQT_E_FORMAT, "a strange section", at);
        memcpy(f.bytes + at, tag, 4);
        at += head + payload + 8;
    }
    CHECK(sections > 10);
    dqt_updater_destroy(updater);
    dqt_llama_destroy(model);
    free(f.bytes);
    counting_end(ctx, &counting);
}

/* Sound checksums over values that a model cannot have. */
static void hostile_values_are_refused(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    struct memory_file f = trained_file(ctx, "abc", 3);
    const uint64_t nan = 0x7fc00000u, infinity = 0x7f800000u, negative = 0xbf800000u;
    const struct {
        const char *tag, *label,
            *entry; /* entry NULL: bytes at this offset behind a parameter's head, or in the payload */
        size_t offset, bytes;
        uint64_t value;
    } edits[] = {
        {"CONF", "", "mlp", 0, 4, 7},
        {"CONF", "", "vocab_size", 0, 8, 0},
        {"CONF", "", "vocab_size", 0, 8, (uint64_t)1 << 30}, /* one larger than the file */
        {"CONF", "", "hidden_size", 0, 8, UINT64_MAX},
        {"CONF", "", "intermediate_size", 0, 8, (uint64_t)1 << 62},
        {"CONF", "", "num_layers", 0, 8, 100000},
        {"CONF", "", "num_layers", 0, 8, 2},
        {"CONF", "", "num_heads", 0, 8, 3}, /* do not divide */
        {"CONF", "", "norm_eps", 0, 4, nan},
        {"CONF", "", "no_sub_norms", 0, 4, 2},
        {"CONF", "", "activation", 0, 4, 77},
        {"CONF", "", "num_kv_heads", 0, 8, 0}, /* a default, where files have what is in effect */
        {"CONF", "", "linear_init_std", 0, 4, 0},
        {"CONF", "", "head.scale_rule", 0, 4, DQT_SCALE_AUTO},
        {"CONF", "", "linear.storage", 0, 4, 3}, /* another than the sections' */
        {"PARM", "embedding", "rows", 0, 8, 41},
        {"PARM", "embedding", "storage", 0, 4, 4},
        {"PARM", "embedding", NULL, 0, 4, nan},        /* scale */
        {"PARM", "embedding", NULL, 0, 4, 0},          /* scale */
        {"PARM", "embedding", NULL, 4 + 16, 1, 1},     /* a code in the padding of a row of 16 */
        {"PARM", "norm", NULL, 0, 4, infinity},        /* gain */
        {"PARM", "blocks.0.mlp.up", NULL, 4, 1, 0xff}, /* code 2 of a ternary tensor */
        {"OPTS", "", "optimizer", 0, 4, 9},
        {"OPTS", "", "beta1", 0, 4, nan},
        {"OPTS", "", "clip", 0, 4, 0},
        {"RULE", "embedding", "lr_factor", 0, 4, nan},
        {"RULE", "embedding", "rounding", 0, 4, 6},
        {"RULE", "embedding", "rounding", 0, 4, DQT_ROUND_ACCUMULATE}, /* the file has moments, no accumulator */
        {"RULE", "embedding", "rounding", 0, 4, 0},
        {"RULE", "embedding", "frozen", 0, 4, 2},
        {"RULE", "norm", "optimizer", 0, 4, 99},
        {"STAT", "0.m_scale", NULL, 0, 4, nan},
        {"STAT", "0.m_scale", NULL, 4, 4, negative},
        {"STAT", "0.v", NULL, 0, 2, 0x7f80},
        {"STAT", "0.v", NULL, 2, 2, 0x8123},
        {"STAT", "0.history", NULL, 0, 8, (uint64_t)0x7ff << 52},
        {"STAT", "norm", NULL, 0, 8, (uint64_t)0xfff8 << 48},
    };
    seal(&f);
    f.position = 0;
    struct memory_file copy = f;
    copy.bytes = malloc(f.size);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        memcpy(copy.bytes, f.bytes, f.size);
        unsigned char *p = find(&copy, edits[i].tag, edits[i].label);
        if (!p) continue;
        const bool parameter = strcmp(edits[i].tag, "PARM") == 0;
        const size_t head = parameter ? (size_t)get_le(p, 4) : 0;
        if (parameter) p += 4;
        p = edits[i].entry ? entry(p, edits[i].entry) : p + head;
        put_le(p + edits[i].offset, edits[i].value, edits[i].bytes);
        seal(&copy);
        check_refused(ctx, &copy, DQT_E_FORMAT, edits[i].tag, i);
    }
    /* The seal itself is right: the first edit undone is a good file. */
    memcpy(copy.bytes, f.bytes, f.size);
    seal(&copy);
    CHECK(same_bytes(&copy, &f));
    free(copy.bytes);
    free(f.bytes);
    counting_end(ctx, &counting);
}

/* Entries by name: one that is unknown, cut short or missing is told by its name. */
static void entries_are_told_by_name(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    struct memory_file f = trained_file(ctx, "abc", 3);
    static const struct {
        const char *tag, *label, *entry;
        size_t at; /* of the byte before the value that changes: the name's last, or in the length of the value */
        bool length;
        const char *word;
    } edits[] = {{"CONF", "", "mlp", 1, false, "\"mlq\""},
                 {"CONF", "", "head.sigma", 1, false, "\"head.sigmb\""},
                 {"OPTS", "", "eps", 1, false, "\"ept\""},
                 {"RULE", "norm", "frozen", 1, false, "\"frozeo\""},
                 {"CONF", "", "mlp", 0, true, "damaged"}};
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        struct memory_file copy = f;
        copy.bytes = malloc(f.size);
        memcpy(copy.bytes, f.bytes, f.size);
        unsigned char *p = find(&copy, edits[i].tag, edits[i].label);
        p = entry(p, edits[i].entry);
        if (edits[i].length)
            (p - strlen(edits[i].entry) - 4)[0] = 3;
        else
            (p - edits[i].at)[0]++;
        seal(&copy);
        check_refused(ctx, &copy, DQT_E_FORMAT, edits[i].entry, i);
        CHECKF(strstr(dqt_last_error(ctx), edits[i].word), "%s: %s", edits[i].word, dqt_last_error(ctx));
        free(copy.bytes);
    }
    free(f.bytes);
    counting_end(ctx, &counting);
}

/* Entries that came later: what creation refuses, and numbers that are left out because they go without saying. */
static void later_entries_are_checked(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama_config c = small_config();
    c.head_dim = 6;
    c.attention_bias = c.qk_norm = 1;
    c.rope_scaling = DQT_ROPE_LLAMA3;
    c.rope_factor = 8;
    c.rope_low_freq_factor = 1;
    c.rope_high_freq_factor = 4;
    c.rope_original_context = 64;
    const dqt_updater_options o = updater_of(DQT_OPTIMIZER_SGD, DQT_STATE_F32, DQT_STATE_F32, DQT_ROUND_STOCHASTIC);
    struct job j = job_new(ctx, &c, &o);
    struct memory_file f = job_bytes(&j, "host", 4);
    job_end(&j);
    static const struct {
        const char *entry;
        size_t bytes;
        uint64_t value;
        const char *word;
    } edits[] = {{"head_dim", 8, 0, "left out"},
                 {"head_dim", 8, 4, "goes without saying"}, /* 16 / 4 */
                 {"head_dim", 8, 5, "even"},
                 {"head_dim", 8, 8, "another"}, /* than the sections' */
                 {"head_dim", 8, UINT64_MAX - 1, ""},
                 {"attention_bias", 4, 0, "left out"},
                 {"attention_bias", 4, 2, "attention_bias"},
                 {"qk_norm", 4, 2, "qk_norm"},
                 {"rope_scaling", 4, DQT_ROPE_LINEAR, "LLAMA3"},
                 {"rope_scaling", 4, 3, "rope_scaling"},
                 {"rope_factor", 4, 0x7fc00000u, "rope_factor"},
                 {"rope_low_freq_factor", 4, 0x40800000u, "rope_low_freq_factor"},
                 {"rope_original_context", 8, 0, "left out"}};
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        struct memory_file copy = f;
        copy.bytes = malloc(f.size);
        memcpy(copy.bytes, f.bytes, f.size);
        put_le(entry(find(&copy, "CONF", ""), edits[i].entry), edits[i].value, edits[i].bytes);
        seal(&copy);
        check_refused(ctx, &copy, DQT_E_FORMAT, edits[i].entry, i);
        CHECKF(strstr(dqt_last_error(ctx), edits[i].word), "%s: %s", edits[i].word, dqt_last_error(ctx));
        free(copy.bytes);
    }
    free(f.bytes);
    counting_end(ctx, &counting);
}

/* ---- Failing hosts ------------------------------------------------------------------------------------------- */

static void failing_callbacks(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = small_config();
    const dqt_updater_options o =
        updater_of(DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_INT8, DQT_STATE_F32, DQT_ROUND_STOCHASTIC);
    struct job j = job_new(ctx, &c, &o);
    job_train(&j, 0, 1);
    struct memory_file f = job_bytes(&j, "host", 4);
    size_t edges[400];
    const size_t count = boundaries(&f, edges, 400), before = dqt_context_allocated(ctx);
    f.most = 61;
    for (size_t i = 0; i < count; i++) {
        f.fail_at = edges[i] - 1;
        check_refused(ctx, &f, DQT_E_IO, "failing read", f.fail_at);
        struct memory_file out = memory_new();
        out.fail_at = f.fail_at;
        CHECK(dqt_llama_write(j.model, j.updater, memory_write, &out, save_host("host", 4)) == DQT_E_IO);
        CHECK(strstr(dqt_last_error(ctx), "28") != NULL);
        CHECK(dqt_context_allocated(ctx) == before);
        free(out.bytes);
    }
    struct memory_file again = job_bytes(&j, "host", 4);
    CHECK(same_bytes(&f, &again));
    free(again.bytes);
    free(f.bytes);
    job_end(&j);
    counting_end(ctx, &counting);
}

static void failing_allocations(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    struct memory_file f = trained_file(ctx, "host", 4);
    size_t refusals = 0;
    for (size_t n = 0;; n++) {
        dqt_llama *model;
        dqt_updater *updater;
        void *host;
        size_t host_size;
        const size_t before = dqt_context_allocated(ctx);
        f.position = 0;
        counting.fail_at = counting.calls + n;
        const dqt_status status = read_checkpoint(ctx, memory_read, &f, &model, &updater, &host, &host_size);
        counting.fail_at = SIZE_MAX;
        if (status == DQT_OK) {
            const size_t loaded = dqt_context_allocated(ctx);
            counting.fail_at = counting.calls;
            struct memory_file out = memory_new();
            CHECK(dqt_llama_write(model, updater, memory_write, &out, NULL) == DQT_E_MEMORY);
            CHECK(out.size == 0 && dqt_context_allocated(ctx) == loaded);
            counting.fail_at = SIZE_MAX;
            dqt_host_bytes_free(ctx, host, host_size);
            dqt_updater_destroy(updater);
            dqt_llama_destroy(model);
            break;
        }
        refusals++;
        CHECK(status == DQT_E_MEMORY && !model && !updater && !host);
        CHECK(dqt_context_allocated(ctx) == before);
    }
    CHECKF(refusals > 20, "%zu", refusals);
    free(f.bytes);
    counting_end(ctx, &counting);
}

static const struct test tests[] = {
    TEST(every_flip_is_noticed),      TEST(every_truncation_is_noticed), TEST(strange_sections_are_refused),
    TEST(hostile_values_are_refused), TEST(entries_are_told_by_name),    TEST(later_entries_are_checked),
    TEST(failing_callbacks),          TEST(failing_allocations),
};
TEST_MAIN(tests)
