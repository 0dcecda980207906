/* Checkpoints: resumed training is uninterrupted training; every flipped bit and every missing byte is noticed;
 * failures of the host's callbacks and allocator leave nothing behind. */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "calls.h"
#include "counting_alloc.h"
#include "formats.h"
#include "io/checkpoint.h"
#include "memory_file.h"

/* ---- A small model in training ------------------------------------------------------------------------------- */

enum { BATCH = 2, LENGTH = 8, VOCAB = 40 };

struct job {
    dqt_context *ctx;
    dqt_llama *model;
    dqt_updater *updater;
    dqt_tape *tape;
};

static dqt_llama_config small_config(void) {
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = VOCAB;
    c.hidden_size = 16;
    c.intermediate_size = 24;
    c.num_layers = 1;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    return c;
}

static void job_tape(struct job *j) {
    dqt_tape_options o;
    dqt_tape_options_init(&o, sizeof o);
    o.max_batch = BATCH;
    o.max_length = LENGTH;
    dqt_layer *const *layers;
    size_t count;
    OK(j->ctx, dqt_llama_get_layers(j->model, &layers, &count));
    OK(j->ctx, dqt_tape_create(j->ctx, layers, count, &o, &j->tape));
}

static struct job job_new(dqt_context *ctx, const dqt_llama_config *config, const dqt_updater_options *options) {
    struct job j = {.ctx = ctx};
    dqt_layer *const *layers;
    size_t count;
    OK(ctx, dqt_llama_create(ctx, config, &j.model));
    OK(ctx, dqt_llama_get_layers(j.model, &layers, &count));
    OK(ctx, dqt_updater_create(ctx, layers, count, options, &j.updater));
    job_tape(&j);
    return j;
}

static void job_end(struct job *j) {
    dqt_tape_destroy(j->tape);
    dqt_updater_destroy(j->updater);
    dqt_llama_destroy(j->model);
}

static void job_train(struct job *j, uint64_t first, uint64_t count) {
    for (uint64_t step = first; step < first + count; step++) {
        int32_t tokens[BATCH * LENGTH], targets[BATCH * LENGTH];
        uint64_t random = 77 + step;
        for (int i = 0; i < BATCH * LENGTH; i++) {
            tokens[i] = (int32_t)(test_random(&random) % VOCAB);
            targets[i] = (tokens[i] * 3 + 1) % VOCAB;
        }
        float loss;
        OK(j->ctx, dqt_tape_zero_gradients(j->tape));
        OK(j->ctx, dqt_llama_loss(j->model, j->tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL));
        OK(j->ctx, dqt_llama_backward(j->model, j->tape, 1));
        OK(j->ctx, dqt_updater_step(j->updater, j->tape, step_rate(0.02f), NULL));
    }
}

static dqt_updater_options updater_of(int32_t optimizer, int32_t momentum, int32_t variance, int32_t rounding) {
    dqt_updater_options o;
    dqt_updater_options_init(&o, sizeof o);
    o.optimizer = optimizer;
    o.momentum_state = momentum;
    o.variance_state = variance;
    o.rounding = rounding;
    o.weight_decay = 0.01f;
    return o;
}

static struct memory_file job_bytes(const struct job *j, const void *host, size_t host_size) {
    struct memory_file f = memory_new();
    OK(j->ctx, dqt_llama_write(j->model, j->updater, memory_write, &f, save_host(host, host_size)));
    return f;
}

/* A trained model of this kind, written with `host`. */
static struct memory_file trained_file(dqt_context *ctx, const void *host, size_t host_size) {
    const dqt_llama_config c = small_config();
    const dqt_updater_options o =
        updater_of(DQT_OPTIMIZER_ADAMW, DQT_STATE_INT8, DQT_STATE_BF16, DQT_ROUND_ECO_STOCHASTIC);
    struct job j = job_new(ctx, &c, &o);
    job_train(&j, 0, 3);
    struct memory_file f = job_bytes(&j, host, host_size);
    job_end(&j);
    return f;
}

/* ---- Resuming ------------------------------------------------------------------------------------------------ */

static void check_resume(const dqt_llama_config *c, const dqt_updater_options *o) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_group_options group;
    dqt_group_options_init(&group, sizeof group);
    group.pattern = "*.mlp.*";
    group.lr_factor = 0.5f;
    group.weight_decay = 0.1f;
    size_t matched;

    struct job whole = job_new(ctx, c, o);
    OK(ctx, dqt_updater_add_group(whole.updater, &group, &matched));
    CHECK(matched > 0);
    job_train(&whole, 0, 20);

    struct job part = job_new(ctx, c, o), resumed = {.ctx = ctx};
    OK(ctx, dqt_updater_add_group(part.updater, &group, &matched));
    job_train(&part, 0, 10);
    struct memory_file middle = job_bytes(&part, NULL, 0);
    job_end(&part);
    OK(ctx, read_checkpoint(ctx, memory_read, &middle, &resumed.model, &resumed.updater, NULL, NULL));
    struct memory_file again = job_bytes(&resumed, NULL, 0);
    CHECK(same_bytes(&middle, &again));
    job_tape(&resumed);
    uint64_t step = 0;
    OK(ctx, dqt_updater_get_step(resumed.updater, &step));
    CHECK(step == 10);
    job_train(&resumed, 10, 10);

    struct memory_file a = job_bytes(&whole, NULL, 0), b = job_bytes(&resumed, NULL, 0);
    CHECKF(same_bytes(&a, &b), "optimizer %d, states %d %d, rounding %d", o->optimizer, o->momentum_state,
           o->variance_state, o->rounding);
    CHECK(!same_bytes(&a, &middle));
    job_end(&whole);
    job_end(&resumed);
    free(middle.bytes);
    free(again.bytes);
    free(a.bytes);
    free(b.bytes);
    counting_end(ctx, &counting);
}

static void resume_adamw(void) {
    const dqt_llama_config c = small_config();
    for (int32_t m = DQT_STATE_F32; m <= DQT_STATE_INT8; m++)
        for (int32_t v = DQT_STATE_F32; v <= DQT_STATE_INT8; v++) {
            const dqt_updater_options o = updater_of(DQT_OPTIMIZER_ADAMW, m, v, DQT_ROUND_ECO_STOCHASTIC);
            check_resume(&c, &o);
        }
}

static void resume_adafactor(void) {
    const dqt_llama_config c = small_config();
    for (int32_t m = DQT_STATE_F32; m <= DQT_STATE_INT8; m++)
        for (int32_t lagged = 0; lagged < 2; lagged++)
            for (int momentum = 0; momentum < 2; momentum++) {
                dqt_updater_options o = updater_of(DQT_OPTIMIZER_ADAFACTOR, m, DQT_STATE_F32, DQT_ROUND_STOCHASTIC);
                o.lagged = lagged;
                o.clip = DQT_CLIP_PREVIOUS_NORM;
                if (!momentum) o.beta1 = -1;
                check_resume(&c, &o);
            }
}

static void resume_sgd(void) {
    const dqt_llama_config c = small_config();
    dqt_updater_options o = updater_of(DQT_OPTIMIZER_SGD, DQT_STATE_BF16, DQT_STATE_F32, DQT_ROUND_NEAREST);
    o.clip = DQT_CLIP_TENSOR_NORM;
    check_resume(&c, &o);
}

/* Every storage format, odd widths, trained row scales, compute formats, tied heads. */
static void resume_formats(void) {
    const dqt_updater_options o = updater_of(DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_STATE_F32, DQT_ROUND_STOCHASTIC);
    EACH_FORMAT(format) {
        dqt_llama_config c = small_config();
        c.hidden_size = 72;
        c.intermediate_size = 67;
        c.linear.storage = format;
        c.tie_embeddings = format % 2;
        c.linear.scale_rule = DQT_SCALE_SIGMA;
        c.linear.sigma = 2.5f;
        if (number_is_code(format)) {
            c.linear.scale_axis = DQT_AXIS_ROW;
            c.linear.train_scale = 1;
        }
        if (format == DQT_FORMAT_F32) c.linear.compute = DQT_FORMAT_TERNARY;
        if (format == DQT_FORMAT_BF16) c.linear.compute = DQT_FORMAT_INT4;
        check_resume(&c, &o);
    }
    dqt_llama_config c = small_config();
    c.linear.storage = DQT_FORMAT_INT8;
    c.linear.compute = DQT_FORMAT_TERNARY;
    c.mlp = DQT_MLP_SQUARED_RELU;
    c.no_sub_norms = 1;
    check_resume(&c, &o);
}

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

/* Writes the checksums of a file that was changed by hand. */
static void seal(struct memory_file *f) {
    struct crc32c table;
    crc32c_init(&table);
    put_le(f->bytes + HEADER_BYTES - 4, crc32c_add(&table, 0, f->bytes, HEADER_BYTES - 4), 4);
    for (size_t at = HEADER_BYTES; at < f->size;) {
        const size_t head = 16 + (size_t)get_le(f->bytes + at + 4, 4), payload = (size_t)get_le(f->bytes + at + 8, 8);
        if (head > f->size || payload > f->size - at) break;
        put_le(f->bytes + at + head, crc32c_add(&table, 0, f->bytes + at, head), 4);
        put_le(f->bytes + at + head + 4 + payload, crc32c_add(&table, 0, f->bytes + at, head + 4 + payload), 4);
        at += head + payload + 8;
    }
}

/* The payload of the first section of this tag and label. */
static unsigned char *find(const struct memory_file *f, const char *tag, const char *label) {
    for (size_t at = HEADER_BYTES; at < f->size;) {
        const size_t length = (size_t)get_le(f->bytes + at + 4, 4), payload = (size_t)get_le(f->bytes + at + 8, 8);
        if (memcmp(f->bytes + at, tag, 4) == 0 && length == strlen(label) &&
            memcmp(f->bytes + at + 16, label, length) == 0)
            return f->bytes + at + 16 + length + 4;
        at += length + payload + SECTION_FIXED_BYTES;
    }
    CHECKF(false, "no section %s %s", tag, label);
    return NULL;
}

/* Where the value of an entry begins; the entry is one of those that the payload, or a parameter's head, consists of.
 */
static unsigned char *entry(unsigned char *payload, const char *name) {
    for (unsigned char *e = payload;;) {
        const size_t length = (size_t)get_le(e, 2), bytes = (size_t)get_le(e + 2, 4);
        if (length == 0 || length > 60) break;
        if (length == strlen(name) && memcmp(e + 6, name, length) == 0) return e + 6 + length;
        e += 6 + length + bytes;
    }
    CHECKF(false, "no entry %s", name);
    return payload;
}

/* Sound checksums over values that a model cannot have. */
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
        {"RULE", "embedding", "rounding", 0, 4, 5},
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

/* tests/golden/checkpoint_v1.dqt was written by version 0.1 (docs/checkpoint.md): it is read, goes on, and its numbers
 * are those of the interface now. */
static void version_1_is_read(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama *model = NULL;
    dqt_updater *updater = NULL;
    void *host = NULL;
    size_t host_size = 0;
    OK(ctx, load_checkpoint(ctx, "tests/golden/checkpoint_v1.dqt", &model, &updater, &host, &host_size));
    if (!model || !updater) return;
    CHECK(host_size == 9 && memcmp(host, "version 1", 9) == 0);
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_updater_options o = DQT_INIT(dqt_updater_options);
    dqt_parameter_rule rule = DQT_INIT(dqt_parameter_rule);
    uint64_t step = 0;
    OK(ctx, dqt_llama_get_config(model, &c));
    OK(ctx, dqt_updater_get_options(updater, &o));
    OK(ctx, dqt_updater_get_step(updater, &step));
    CHECK(c.vocab_size == 40 && c.hidden_size == 16 && c.num_layers == 1 && c.num_kv_heads == 2 && !c.no_sub_norms);
    CHECK(c.activation == DQT_ACTIVATION_INT8 && c.head_activation == DQT_ACTIVATION_NONE);
    CHECK(c.linear.storage == DQT_FORMAT_INT3 && c.linear.scale_rule == DQT_SCALE_ABSMEAN);
    CHECK(c.embedding.scale_rule == DQT_SCALE_SIGMA);
    CHECK(o.rounding == DQT_ROUND_ECO_STOCHASTIC && o.clip == DQT_CLIP_NONE && step == 3);
    OK(ctx, dqt_updater_get_rule(updater, 1, &rule)); /* attention_norm of the block: frozen by a factor of 0 */
    CHECK(rule.frozen && rule.lr_factor > 0);
    OK(ctx, dqt_updater_get_rule(updater, 2, &rule));
    CHECK(!rule.frozen && rule.rounding == DQT_ROUND_STOCHASTIC);

    /* An option that this file leaves at 0. */
    struct memory_file changed = slurp("tests/golden/checkpoint_v1.dqt");
    dqt_llama *other = NULL;
    dqt_updater *lagging = NULL;
    CHECK(!o.lagged && memcmp(changed.bytes + 9930, "OPTS", 4) == 0);
    changed.bytes[9950 + 11 * 4] = 1;
    seal(&changed);
    OK(ctx, read_checkpoint(ctx, memory_read, &changed, &other, &lagging, NULL, NULL));
    OK(ctx, dqt_updater_get_options(lagging, &o));
    CHECK(o.lagged == 1);
    dqt_updater_destroy(lagging);
    dqt_llama_destroy(other);
    free(changed.bytes);

    /* It is written as version 2 and comes back as the same. */
    struct memory_file once = memory_new(), twice = memory_new();
    OK(ctx, dqt_llama_write(model, updater, memory_write, &once, save_host(host, host_size)));
    dqt_host_bytes_free(ctx, host, host_size);
    dqt_updater_destroy(updater);
    dqt_llama_destroy(model);
    OK(ctx, read_checkpoint(ctx, memory_read, &once, &model, &updater, &host, &host_size));
    OK(ctx, dqt_llama_write(model, updater, memory_write, &twice, save_host(host, host_size)));
    CHECK(same_bytes(&once, &twice));
    dqt_host_bytes_free(ctx, host, host_size);
    dqt_updater_destroy(updater);
    dqt_llama_destroy(model);
    free(once.bytes);
    free(twice.bytes);
    counting_end(ctx, &counting);
}

/* ---- Hosts --------------------------------------------------------------------------------------------------- */

static void host_bytes(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const size_t large = 1 << 20;
    unsigned char *bytes = malloc(large);
    uint64_t random = 9;
    for (size_t i = 0; i < large; i++)
        bytes[i] = (unsigned char)test_random(&random);
    for (int i = 0; i < 2; i++) {
        const size_t size = i ? large : 0;
        struct memory_file f = trained_file(ctx, i ? bytes : NULL, size);
        for (int wanted = 0; wanted < 4; wanted++) {
            dqt_llama *model;
            dqt_updater *updater = NULL;
            void *host = NULL;
            size_t host_size = 7;
            f.position = 0;
            f.most = wanted % 2 ? 1000 : 0;
            OK(ctx, read_checkpoint(ctx, memory_read, &f, &model, wanted & 1 ? &updater : NULL,
                                    wanted & 2 ? &host : NULL, &host_size));
            CHECK(host_size == (wanted & 2 ? size : 0) && (updater != NULL) == (wanted & 1));
            CHECK((host != NULL) == ((wanted & 2) && size));
            CHECK(!host || memcmp(host, bytes, size) == 0);
            CHECK(f.position == f.size);
            dqt_host_bytes_free(ctx, host, host_size);
            dqt_updater_destroy(updater);
            dqt_llama_destroy(model);
        }
        free(f.bytes);
    }
    free(bytes);
    counting_end(ctx, &counting);
}

/* A stream may go on after a checkpoint: not a byte of what follows is taken. */
static void streams_are_not_overread(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    struct memory_file f = trained_file(ctx, "xy", 2);
    const size_t size = f.size;
    memory_write(&f, f.bytes, 0);
    for (size_t i = 0; i < 3; i++)
        memory_write(&f, "tail", 4);
    dqt_llama *model;
    OK(ctx, read_checkpoint(ctx, memory_read, &f, &model, NULL, NULL, NULL));
    CHECK(f.position == size);
    dqt_llama_destroy(model);
    free(f.bytes);
    counting_end(ctx, &counting);
}

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

/* ---- Paths --------------------------------------------------------------------------------------------------- */

static size_t files_in(const char *folder) {
    size_t n = 0;
    DIR *d = opendir(folder);
    if (!d) return SIZE_MAX;
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void paths(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    char folder[] = "/tmp/dqt-checkpoint-XXXXXX", path[64], missing[64];
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/model.dqt", folder);
    snprintf(missing, sizeof missing, "%s/no/model.dqt", folder);
    const dqt_llama_config c = small_config();
    const dqt_updater_options o = updater_of(DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_STATE_F32, DQT_ROUND_STOCHASTIC);
    struct job j = job_new(ctx, &c, &o);
    OK(ctx, dqt_llama_save(j.model, j.updater, path, save_host("first", 5)));
    OK(ctx, dqt_llama_save(j.model, j.updater, path, save_host("again", 5)));
    CHECK(files_in(folder) == 1);
    struct memory_file f = job_bytes(&j, "again", 5), saved = slurp(path);
    CHECK(same_bytes(&f, &saved));

    /* A save that fails leaves the old file and no other. */
    CHECK(dqt_llama_save(j.model, j.updater, missing, NULL) == DQT_E_IO);
    counting.fail_at = counting.calls + 1; /* the buffer, after the path */
    CHECK(dqt_llama_save(j.model, j.updater, path, NULL) == DQT_E_MEMORY);
    counting.fail_at = SIZE_MAX;
    CHECK(files_in(folder) == 1);
    struct memory_file kept = slurp(path);
    CHECK(same_bytes(&f, &kept));

    dqt_llama *model;
    void *host;
    size_t size;
    OK(ctx, load_checkpoint(ctx, path, &model, NULL, &host, &size));
    CHECK(size == 5 && host && memcmp(host, "again", 5) == 0);
    dqt_host_bytes_free(ctx, host, size);
    dqt_llama_destroy(model);

    CHECK(load_checkpoint(ctx, missing, &model, NULL, NULL, NULL) == DQT_E_IO && !model);
    FILE *out = fopen(path, "ab");
    CHECK(out && fputc(0, out) == 0 && fclose(out) == 0);
    CHECK(load_checkpoint(ctx, path, &model, NULL, NULL, NULL) == DQT_E_FORMAT && !model);
    CHECK(truncate(path, (off_t)f.size - 1) == 0);
    CHECK(load_checkpoint(ctx, path, &model, NULL, NULL, NULL) == DQT_E_FORMAT && !model);
    CHECK(truncate(path, 0) == 0);
    CHECK(load_checkpoint(ctx, path, &model, NULL, NULL, NULL) == DQT_E_FORMAT && !model);
    unlink(path);
    rmdir(folder);
    free(f.bytes);
    free(saved.bytes);
    free(kept.bytes);
    job_end(&j);
    counting_end(ctx, &counting);
}

/* ---- Arguments ----------------------------------------------------------------------------------------------- */

static void arguments(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama_config c = small_config();
    const dqt_updater_options o = updater_of(DQT_OPTIMIZER_ADAMW, DQT_STATE_F32, DQT_STATE_F32, DQT_ROUND_STOCHASTIC);
    struct job j = job_new(ctx, &c, &o), other = job_new(ctx, &c, &o);
    struct memory_file f = memory_new();
    dqt_llama *model, *shape;
    c.shape_only = 1;
    OK(ctx, dqt_llama_create(ctx, &c, &shape));
    CHECK(dqt_llama_write(NULL, NULL, memory_write, &f, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_write(j.model, NULL, NULL, &f, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_write(j.model, NULL, memory_write, &f, save_host(NULL, 1)) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_write(shape, NULL, memory_write, &f, NULL) == DQT_E_STATE);
    CHECK(dqt_llama_write(j.model, other.updater, memory_write, &f, NULL) == DQT_E_UNSUPPORTED);
    CHECK(dqt_llama_save(j.model, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(load_checkpoint(ctx, NULL, &model, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(load_checkpoint(NULL, "x", &model, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(read_checkpoint(ctx, NULL, NULL, &model, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_read(ctx, memory_read, &f, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(f.size == 0);

    /* A model that could not be read again is not written. */
    dqt_parameter p = {.struct_size = sizeof p};
    void *gain;
    size_t bytes;
    OK(ctx, dqt_tape_get_parameter(j.tape, 1, &p));
    OK(ctx, dqt_tensor_data(p.tensor, &gain, &bytes));
    ((float *)gain)[3] = NAN;
    CHECK(dqt_llama_write(j.model, NULL, memory_write, &f, NULL) == DQT_E_NUMERIC && f.size == 0);
    dqt_host_bytes_free(NULL, NULL, 0);
    dqt_host_bytes_free(ctx, NULL, 0);
    dqt_llama_destroy(shape);
    job_end(&j);
    job_end(&other);
    free(f.bytes);
    counting_end(ctx, &counting);
}

/* The published check value, and every way of cutting the input in two. */
static void crc32c_values(void) {
    struct crc32c table;
    unsigned char bytes[100];
    crc32c_init(&table);
    CHECK(crc32c_add(&table, 0, "123456789", 9) == 0xE3069283u);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 37);
    const uint32_t whole = crc32c_add(&table, 0, bytes, sizeof bytes);
    for (size_t i = 0; i <= sizeof bytes; i++)
        CHECK(crc32c_add(&table, crc32c_add(&table, 0, bytes, i), bytes + i, sizeof bytes - i) == whole);
}

static const struct test tests[] = {
    TEST(crc32c_values),
    TEST(resume_adamw),
    TEST(resume_adafactor),
    TEST(resume_sgd),
    TEST(resume_formats),
    TEST(every_flip_is_noticed),
    TEST(every_truncation_is_noticed),
    TEST(strange_sections_are_refused),
    TEST(hostile_values_are_refused),
    TEST(entries_are_told_by_name),
    TEST(version_1_is_read),
    TEST(host_bytes),
    TEST(streams_are_not_overread),
    TEST(failing_callbacks),
    TEST(failing_allocations),
    TEST(paths),
    TEST(arguments),
};
TEST_MAIN(tests)
