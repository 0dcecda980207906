/* Checkpoints of rate_corrected: resumed in the middle of a schedule they have the bits of an updater that never
 * stopped; files without last rates are read, and go on as a first step does; what a file may claim of rates is read or
 * refused. */
#include "checkpoint_world.h"

enum { MIDDLE = 5, END = 9 };

/* Warm-up, a step at rate 0 before the middle, and a fall. */
static float rate_at(uint64_t step) {
    static const float rates[END] = {0.005f, 0.01f, 0.02f, 0.015f, 0.0f, 0.01f, 0.004f, 0.001f, 0.0f};
    return rates[step];
}

static dqt_updater_options corrected(int32_t optimizer, int32_t corrects, bool fused) {
    dqt_updater_options o = updater_of(optimizer, DQT_STATE_INT8, DQT_STATE_F32, DQT_ROUND_ECO_STOCHASTIC);
    o.rate_corrected = corrects;
    o.lagged = fused;
    o.clip = fused ? DQT_CLIP_PREVIOUS_NORM : DQT_CLIP_GLOBAL_NORM;
    return o;
}

static void train(struct job *j, uint64_t first, uint64_t end, bool fused) {
    OK(j->ctx, dqt_tape_set_pass(j->tape, first));
    for (uint64_t step = first; step < end; step++) {
        job_loss(j, step);
        if (fused) {
            OK(j->ctx, dqt_llama_backward_update(j->model, j->tape, j->updater, step_rate(rate_at(step)), NULL));
        } else {
            OK(j->ctx, dqt_llama_backward(j->model, j->tape, 1));
            OK(j->ctx, dqt_updater_step(j->updater, j->tape, step_rate(rate_at(step)), NULL));
        }
    }
}

/* Sections of states of last rates. */
static size_t rates_in(const struct memory_file *f) {
    size_t count = 0;
    for (size_t at = HEADER_BYTES; at < f->size;) {
        const size_t length = (size_t)get_le(f->bytes + at + 4, 4), payload = (size_t)get_le(f->bytes + at + 8, 8);
        count += memcmp(f->bytes + at, "STAT", 4) == 0 && length > 5 &&
                 memcmp(f->bytes + at + 16 + length - 5, ".rate", 5) == 0;
        at += length + payload + SECTION_FIXED_BYTES;
    }
    return count;
}

static void slow_mlp(struct job *j) {
    const dqt_group_options g = {.struct_size = sizeof g, .parameter_class = DQT_CLASS_MLP, .lr_factor = 0.5f};
    OK(j->ctx, dqt_updater_add_group(j->updater, &g, NULL));
}

static void check_resume(const dqt_updater_options *o, bool fused) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = small_config();
    struct job whole = job_new(ctx, &c, o), resumed;
    train(&whole, 0, 3, fused);
    slow_mlp(&whole);
    train(&whole, 3, MIDDLE, fused);
    struct memory_file middle = job_bytes(&whole, NULL, 0);
    CHECKF(rates_in(&middle) == 9, "%zu rates", rates_in(&middle)); /* embedding, q, k, v, o, gate, up, down, head */
    if (job_resume(ctx, &middle, &resumed)) {
        train(&whole, MIDDLE, END, fused);
        train(&resumed, MIDDLE, END, fused);
        CHECKF(jobs_moved_alike(&whole, &resumed, &middle), "optimizer %d, fused %d", o->optimizer, fused);
    }
    job_end(&whole);
    job_end(&resumed);
    free(middle.bytes);
    counting_end(ctx, &counting);
}

static void resumes(void) {
    for (int32_t optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++)
        for (int fused = 0; fused < 2; fused++) {
            const dqt_updater_options o = corrected(optimizer, 1, fused);
            check_resume(&o, fused);
        }
}

/* The same step, fused or not, in the middle of a schedule. */
static void fused_is_unfused(void) {
    for (int32_t optimizer = DQT_OPTIMIZER_SGD; optimizer <= DQT_OPTIMIZER_ADAFACTOR; optimizer++) {
        struct counting counting;
        dqt_context *ctx = counting_context(&counting);
        const dqt_llama_config c = small_config();
        const dqt_updater_options o = corrected(optimizer, 1, true);
        struct job jobs[] = {job_new(ctx, &c, &o), job_new(ctx, &c, &o)};
        struct memory_file files[2];
        for (int fused = 0; fused < 2; fused++) {
            train(&jobs[fused], 0, END, fused);
            files[fused] = job_bytes(&jobs[fused], NULL, 0);
            job_end(&jobs[fused]);
        }
        CHECKF(same_bytes(&files[0], &files[1]), "optimizer %d", optimizer);
        free(files[0].bytes);
        free(files[1].bytes);
        counting_end(ctx, &counting);
    }
}

static size_t section_bytes(const struct memory_file *f, size_t at) {
    return (size_t)get_le(f->bytes + at + 4, 4) + (size_t)get_le(f->bytes + at + 8, 8) + SECTION_FIXED_BYTES;
}

/* Section by section, but for OPTS and the last rates. */
static bool same_otherwise(const struct memory_file *a, const struct memory_file *b) {
    size_t at[2] = {HEADER_BYTES, HEADER_BYTES}, compared = 0;
    const struct memory_file *const files[2] = {a, b};
    for (;; compared++) {
        for (int i = 0; i < 2; i++) {
            while (at[i] < files[i]->size) {
                const unsigned char *head = files[i]->bytes + at[i];
                const size_t length = (size_t)get_le(head + 4, 4);
                const bool rate = length > 5 && memcmp(head + 16 + length - 5, ".rate", 5) == 0;
                if (!rate && memcmp(head, "OPTS", 4) != 0) break;
                at[i] += section_bytes(files[i], at[i]);
            }
        }
        const bool ends = at[0] >= a->size, others = at[1] >= b->size;
        if (ends || others) return ends && others && compared > 40;
        const size_t bytes = section_bytes(a, at[0]);
        if (section_bytes(b, at[1]) != bytes || memcmp(a->bytes + at[0], b->bytes + at[1], bytes) != 0) return false;
        at[0] += bytes;
        at[1] += bytes;
    }
}

/* A file of an updater without the option has none of its entries, and goes into one that has it, into layers or alone;
 * the next step finds no last rate. The reverse is refused. */
static void files_without_rates(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = small_config();
    const dqt_updater_options old = corrected(DQT_OPTIMIZER_ADAMW, 0, false),
                              new = corrected(DQT_OPTIMIZER_ADAMW, 1, false);
    for (int alone = 0; alone < 2; alone++) {
        struct job a = job_new(ctx, &c, &old), b = job_new(ctx, &c, &new);
        dqt_layer *const *layers;
        size_t count;
        train(&a, 0, 3, false);
        struct memory_file weights = job_bytes(&a, NULL, 0), file = alone ? memory_new() : weights;
        if (alone) OK(ctx, dqt_updater_write(a.updater, memory_write, &file));
        CHECK(rates_in(&weights) == 0);
        train(&b, 0, 2, false); /* which leaves rates that the file does not have */
        OK(ctx, dqt_llama_get_layers(b.model, &layers, &count));
        if (alone) {
            OK(ctx, dqt_layers_read(layers, count, NULL, memory_read, &weights, NULL, NULL));
            OK(ctx, dqt_updater_read(b.updater, memory_read, &file));
        } else {
            OK(ctx, dqt_layers_read(layers, count, b.updater, memory_read, &file, NULL, NULL));
        }
        struct memory_file read = job_bytes(&b, NULL, 0);
        CHECK(rates_in(&read) == 9 && same_otherwise(&weights, &read));
        train(&a, 3, 4, false);
        train(&b, 3, 4, false);
        struct memory_file x = job_bytes(&a, NULL, 0), y = job_bytes(&b, NULL, 0);
        CHECK(same_otherwise(&x, &y));
        y.position = 0;
        OK(ctx, dqt_llama_get_layers(a.model, &layers, &count));
        CHECK(dqt_layers_read(layers, count, a.updater, memory_read, &y, NULL, NULL) == DQT_E_UNSUPPORTED &&
              strstr(dqt_last_error(ctx), "rate_corrected"));
        struct memory_file unchanged = job_bytes(&a, NULL, 0);
        CHECK(same_bytes(&x, &unchanged));
        train(&a, 4, 6, false); /* a rate of 0, and another than that before it */
        train(&b, 4, 6, false);
        struct memory_file p = job_bytes(&a, NULL, 0), q = job_bytes(&b, NULL, 0);
        CHECK(!same_otherwise(&p, &q));
        struct memory_file *const all[] = {&weights, &read, &x, &y, &unchanged, &p, &q};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            free(all[i]->bytes);
        if (alone) free(file.bytes);
        job_end(&a);
        job_end(&b);
    }
    counting_end(ctx, &counting);
}

/* Sound checksums over claims that cannot be. Codes take any learning rate, so any finite one may have been the last.
 */
static void claims(void) {
    static const struct {
        const char *tag, *label;
        uint64_t value;
        bool sound;
    } edits[] = {{"STAT", "2.rate", 0x7f800000u, false},
                 {"STAT", "2.rate", 0x7fc00000u, false},
                 {"STAT", "2.rate", 0xbf800000u, false},
                 {"STAT", "2.rate", 0x7f7fffffu, true},
                 {"STAT", "2.rate", 0, true},
                 {"STAT", "2.rate", 1, true},
                 {"OPTS", "", 2, false},
                 {"OPTS", "", 0, false},
                 {"OPTS", "", UINT32_MAX, false}};
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = small_config();
    const dqt_updater_options o = corrected(DQT_OPTIMIZER_ADAMW, 1, false);
    struct job j = job_new(ctx, &c, &o);
    train(&j, 0, 3, false);
    struct memory_file f = job_bytes(&j, NULL, 0);
    dqt_layer *const *layers;
    size_t count;
    OK(ctx, dqt_llama_get_layers(j.model, &layers, &count));
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        struct memory_file copy = f, before = job_bytes(&j, NULL, 0);
        struct job new = {.ctx = ctx};
        copy.bytes = malloc(f.size);
        memcpy(copy.bytes, f.bytes, f.size);
        unsigned char *payload = find(&copy, edits[i].tag, edits[i].label);
        put_le(edits[i].label[0] ? payload : entry(payload, "rate_corrected"), edits[i].value, 4);
        seal(&copy);
        copy.position = 0;
        const dqt_status status = read_checkpoint(ctx, memory_read, &copy, &new.model, &new.updater, NULL, NULL);
        CHECKF(status == (edits[i].sound ? DQT_OK : DQT_E_FORMAT), "edit %zu: %s, %s", i, dqt_status_string(status),
               dqt_last_error(ctx));
        if (status == DQT_OK) {
            job_tape(&new);
            train(&new, 3, END, false);
            struct memory_file after = job_bytes(&new, NULL, 0);
            free(after.bytes);
            job_end(&new);
        }
        copy.position = 0;
        const dqt_status into = dqt_layers_read(layers, count, j.updater, memory_read, &copy, NULL, NULL);
        struct memory_file after = job_bytes(&j, NULL, 0);
        CHECKF((into == DQT_OK) == edits[i].sound, "edit %zu into layers: %s", i, dqt_status_string(into));
        CHECK(edits[i].sound || same_bytes(&before, &after));
        free(before.bytes);
        free(after.bytes);
        free(copy.bytes);
    }
    free(f.bytes);
    job_end(&j);
    counting_end(ctx, &counting);
}

static const struct test tests[] = {TEST(resumes), TEST(fused_is_unfused), TEST(files_without_rates), TEST(claims)};
TEST_MAIN(tests)
