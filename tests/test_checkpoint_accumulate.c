/* Checkpoints of DQT_ROUND_ACCUMULATE: resumed they have the bits of an updater that never stopped, whichever of its
 * parameters keep accumulators; files of another state are refused where that matters and change nothing; what a file
 * may claim of accumulators is read or refused. */
#include "checkpoint_world.h"

static dqt_updater_options options_of(int32_t optimizer, int32_t rounding, const dqt_group_options *groups,
                                      size_t num_groups) {
    dqt_updater_options o = updater_of(optimizer, DQT_STATE_INT8, DQT_STATE_F32, rounding);
    o.beta1 = 0.6f;
    o.rounding_noise = 0.3f;
    o.groups = groups;
    o.num_groups = num_groups;
    return o;
}

static const dqt_group_options mlp_only = {
    .struct_size = sizeof mlp_only, .parameter_class = DQT_CLASS_MLP, .rounding = DQT_ROUND_ACCUMULATE, .beta1 = 0.5f};
static const dqt_group_options but_mlp = {.struct_size = sizeof but_mlp,
                                          .parameter_class = DQT_CLASS_MLP,
                                          .optimizer = DQT_OPTIMIZER_ADAMW,
                                          .rounding = DQT_ROUND_ECO_NEAREST};

static dqt_llama_config ternary_config(void) {
    dqt_llama_config c = small_config();
    c.linear.storage = DQT_FORMAT_TERNARY;
    c.linear.scale_axis = DQT_AXIS_ROW;
    c.linear.train_scale = 1;
    return c;
}

/* Another grid for accumulators in the middle of training; only from then on has the file's rule another beta1. */
static void change_grid(dqt_updater *u) {
    const dqt_group_options g = {
        .struct_size = sizeof g, .parameter_class = DQT_CLASS_MLP, .beta1 = 0.7f, .rounding_noise = 0.9f};
    CHECK(dqt_updater_add_group(u, &g, NULL) == DQT_OK);
}

static size_t labels(const struct memory_file *f, const char *end) {
    size_t count = 0;
    for (size_t at = HEADER_BYTES; at < f->size;) {
        const size_t length = (size_t)get_le(f->bytes + at + 4, 4), payload = (size_t)get_le(f->bytes + at + 8, 8);
        const size_t most = strlen(end);
        count += memcmp(f->bytes + at, "STAT", 4) == 0 && length > most &&
                 memcmp(f->bytes + at + 16 + length - most, end, most) == 0;
        at += length + payload + SECTION_FIXED_BYTES;
    }
    return count;
}

/* accumulators: parameters that have one. */
static void check_resume(const dqt_updater_options *o, size_t accumulators) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = ternary_config();
    struct job whole = job_new(ctx, &c, o), resumed;
    job_train(&whole, 0, 4);
    change_grid(whole.updater);
    job_train(&whole, 4, 2);
    struct memory_file middle = job_bytes(&whole, NULL, 0);
    CHECKF(labels(&middle, ".accumulator") == accumulators, "%zu accumulators", labels(&middle, ".accumulator"));
    if (job_resume(ctx, &middle, &resumed)) {
        job_train(&whole, 6, 4);
        job_train(&resumed, 6, 4);
        CHECKF(jobs_moved_alike(&whole, &resumed, &middle), "optimizer %d", o->optimizer);
    }
    job_end(&whole);
    job_end(&resumed);
    free(middle.bytes);
    counting_end(ctx, &counting);
}

static void resumes(void) {
    for (int32_t optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++) {
        const dqt_updater_options all = options_of(optimizer, DQT_ROUND_ACCUMULATE, NULL, 0),
                                  some = options_of(optimizer, DQT_ROUND_ECO_STOCHASTIC, &mlp_only, 1),
                                  others = options_of(optimizer, DQT_ROUND_ACCUMULATE, &but_mlp, 1);
        check_resume(&all, 9); /* embedding, q, k, v, o, gate, up, down, head */
        check_resume(&some, 3);
        check_resume(&others, 6);
    }
}

/* Into a model and an updater that exist: only into those of the same state; an updater alone as well. */
static void fits_or_is_refused(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = ternary_config();
    const dqt_updater_options kinds[] = {options_of(DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ACCUMULATE, NULL, 0),
                                         options_of(DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, NULL, 0),
                                         options_of(DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ECO_STOCHASTIC, &mlp_only, 1),
                                         options_of(DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_STOCHASTIC, NULL, 0)};
    enum { KINDS = sizeof kinds / sizeof *kinds };
    struct job jobs[KINDS];
    struct memory_file files[KINDS], alone[KINDS];
    for (int i = 0; i < KINDS; i++) {
        jobs[i] = job_new(ctx, &c, &kinds[i]);
        job_train(&jobs[i], 0, 3);
        files[i] = job_bytes(&jobs[i], NULL, 0);
        alone[i] = memory_new();
        OK(ctx, dqt_updater_write(jobs[i].updater, memory_write, &alone[i]));
        job_train(&jobs[i], 3, 1);
    }
    for (int from = 0; from < KINDS; from++)
        for (int to = 0; to < KINDS; to++) {
            dqt_layer *const *layers;
            size_t count;
            OK(ctx, dqt_llama_get_layers(jobs[to].model, &layers, &count));
            struct memory_file before = job_bytes(&jobs[to], NULL, 0);
            const dqt_status expected = from == to ? DQT_OK : DQT_E_UNSUPPORTED;
            files[from].position = alone[from].position = 0;
            const dqt_status status =
                dqt_layers_read(layers, count, jobs[to].updater, memory_read, &files[from], NULL, NULL);
            CHECKF(status == expected, "from %d into %d: %s", from, to, dqt_status_string(status));
            if (status != DQT_OK) {
                struct memory_file after = job_bytes(&jobs[to], NULL, 0);
                CHECK(dqt_updater_read(jobs[to].updater, memory_read, &alone[from]) == DQT_E_UNSUPPORTED);
                CHECK(same_bytes(&before, &after));
                free(after.bytes);
            } else {
                struct memory_file after = job_bytes(&jobs[to], NULL, 0);
                CHECK(!same_bytes(&before, &after) && same_bytes(&files[from], &after));
                job_train(&jobs[to], 3, 1);
                OK(ctx, dqt_updater_read(jobs[to].updater, memory_read, &alone[from]));
                free(after.bytes);
            }
            free(before.bytes);
        }
    for (int i = 0; i < KINDS; i++) {
        job_end(&jobs[i]);
        free(files[i].bytes);
        free(alone[i].bytes);
    }
    counting_end(ctx, &counting);
}

/* Sound checksums over claims that cannot be. Any byte is an accumulator: -128, which none holds, becomes -127. */
static void claims(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = ternary_config();
    const dqt_updater_options o = options_of(DQT_OPTIMIZER_ADAFACTOR, DQT_ROUND_ACCUMULATE, &but_mlp, 1);
    static const struct {
        const char *label, *entry;
        uint64_t value;
        bool sound;
    } edits[] = {{"blocks.0.attention.q", "rounding", DQT_ROUND_STOCHASTIC, false},
                 {"blocks.0.attention.q", "rounding", 6, false},
                 {"blocks.0.attention.q", "rounding", 0, false},
                 {"blocks.0.attention.q", "optimizer", DQT_OPTIMIZER_ADAMW, false}, /* row and column, no v */
                 {"blocks.0.attention.q", "beta1", 0x3f800000u, false},             /* 1: no limit */
                 {"blocks.0.attention.q", "beta1", 0, false},                       /* the updater's is not */
                 {"blocks.0.attention.q", "beta1", 0x3f7fffffu, true},
                 {"blocks.0.attention.q", "rounding_noise", 0x7fc00000u, false},
                 {"blocks.0.attention.q", "rounding_noise", 0, true},
                 {"blocks.0.mlp.up", "rounding", DQT_ROUND_ACCUMULATE, false},
                 {"blocks.0.mlp.up", "rounding", 0x7fffffffu, false},
                 {"norm", "rounding", DQT_ROUND_ACCUMULATE, true}}; /* says nothing of floats */
    struct job j = job_new(ctx, &c, &o);
    job_train(&j, 0, 3);
    struct memory_file f = job_bytes(&j, NULL, 0);
    dqt_layer *const *layers;
    size_t count;
    OK(ctx, dqt_llama_get_layers(j.model, &layers, &count));
    for (size_t i = 0; i <= sizeof edits / sizeof *edits; i++) {
        struct memory_file copy = f;
        struct job new = {.ctx = ctx};
        const bool last = i == sizeof edits / sizeof *edits, sound = last || edits[i].sound;
        copy.bytes = malloc(f.size);
        memcpy(copy.bytes, f.bytes, f.size);
        if (last) {
            memset(find(&copy, "STAT", "2.accumulator"), 0x80, 16 * 16);
        } else {
            put_le(entry(find(&copy, "RULE", edits[i].label), edits[i].entry), edits[i].value, 4);
        }
        seal(&copy);
        copy.position = 0;
        const dqt_status status = read_checkpoint(ctx, memory_read, &copy, &new.model, &new.updater, NULL, NULL);
        CHECKF(status == (sound ? DQT_OK : DQT_E_FORMAT), "edit %zu: %s, %s", i, dqt_status_string(status),
               dqt_last_error(ctx));
        if (status == DQT_OK) {
            job_tape(&new);
            job_train(&new, 3, 2);
            struct memory_file g = job_bytes(&new, NULL, 0);
            const int8_t *sums = (const int8_t *)find(&g, "STAT", "2.accumulator");
            for (size_t k = 0; k < 16 * 16; k++)
                CHECK(sums[k] >= -127);
            free(g.bytes);
            job_end(&new);
        }
        struct memory_file before = job_bytes(&j, NULL, 0);
        copy.position = 0;
        const dqt_status into = dqt_layers_read(layers, count, j.updater, memory_read, &copy, NULL, NULL);
        CHECKF((into == DQT_OK) == sound && (sound || into == DQT_E_FORMAT || into == DQT_E_UNSUPPORTED),
               "edit %zu into layers: %s", i, dqt_status_string(into));
        struct memory_file after = job_bytes(&j, NULL, 0);
        CHECK(sound || same_bytes(&before, &after));
        copy.position = 0;
        free(before.bytes);
        free(after.bytes);
        free(copy.bytes);
    }
    free(f.bytes);
    job_end(&j);
    counting_end(ctx, &counting);
}

static const struct test tests[] = {TEST(resumes), TEST(fits_or_is_refused), TEST(claims)};
TEST_MAIN(tests)
