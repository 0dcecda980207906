/* Checkpoints: resumed training is uninterrupted training; version 1, the host's bytes, streams, paths, arguments. */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_world.h"
#include "formats.h"

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
    TEST(crc32c_values),     TEST(resume_adamw), TEST(resume_adafactor),         TEST(resume_sgd), TEST(resume_formats),
    TEST(version_1_is_read), TEST(host_bytes),   TEST(streams_are_not_overread), TEST(paths),      TEST(arguments),
};
TEST_MAIN(tests)
