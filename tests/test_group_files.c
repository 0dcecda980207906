/* Scales of groups in files: checkpoints, safetensors and GGUF blocks hold their bits and give them back; damaged ones
 * are refused. */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "checkpoint_world.h"
#include "format/half.h"
#include "format/tensor.h"
#include "io/gguf.h"

enum { HIDDEN = 256, WIDE = 512 };

static dqt_llama_config grouped_config(int32_t storage, int32_t compute, int32_t group, bool trained) {
    dqt_llama_config c = small_config();
    c.hidden_size = HIDDEN;
    c.intermediate_size = WIDE;
    c.linear = (dqt_tensor_options){.struct_size = sizeof c.linear,
                                    .storage = storage,
                                    .compute = compute,
                                    .scale_rule = DQT_SCALE_ABSMAX,
                                    .scale_axis = DQT_AXIS_GROUP,
                                    .sigma = 4,
                                    .train_scale = trained,
                                    .group_size = group};
    c.no_sub_norms = 1;
    return c;
}

static dqt_tensor *tensor_of(const dqt_llama *m, size_t layer, size_t index) {
    dqt_layer *const *layers = NULL;
    size_t count = 0;
    dqt_parameter p = {.struct_size = sizeof p};
    if (dqt_llama_get_layers(m, &layers, &count) != DQT_OK) abort();
    return dqt_layer_get_parameter(layers[layer], index, &p) == DQT_OK ? p.tensor : NULL;
}

/* Codes and scales of every kind: negative, 0, -0, and fp16's least and largest numbers. */
static void fill(dqt_llama *m) {
    static const uint16_t halves[] = {0x2c00, 0xac13, 0, 0x8000, 1, 0x83ff, 0x3c01, 0x1234};
    uint64_t seed = 5;
    dqt_tensor *t;
    for (size_t i = 0; (t = tensor_of(m, 1, i)); i++) {
        if (!t->half_scales) continue;
        const int low = format_min(t->storage), range = format_max(t->storage) - low + 1;
        for (size_t r = 0; r < t->rows; r++) {
            int8_t codes[WIDE];
            uint16_t scales[WIDE / 32];
            for (size_t c = 0; c < t->cols; c++)
                codes[c] = (int8_t)(low + (int)(test_random(&seed) % (uint64_t)range));
            for (size_t g = 0; g < t->row_groups; g++)
                scales[g] = halves[test_random(&seed) % 8];
            CHECK(tensor_set_row(t, r, codes, scales));
        }
        tensor_refresh(t);
    }
}

static void check_same(const dqt_llama *a, const dqt_llama *b) {
    for (size_t layer = 0; layer < 4; layer++) {
        const dqt_tensor *x, *y;
        for (size_t i = 0; (x = tensor_of(a, layer, i)) && (y = tensor_of(b, layer, i)); i++) {
            CHECK(memcmp(x->data, y->data, x->data_bytes) == 0 && x->num_scales == y->num_scales);
            if (x->half_scales)
                CHECK(memcmp(x->half_scales, y->half_scales, tensor_scale_bytes(x)) == 0);
            else if (x->scales)
                CHECK(memcmp(x->scales, y->scales, tensor_scale_bytes(x)) == 0);
            for (size_t g = 0; g < x->row_groups && x->compute != x->storage; g++)
                CHECK(f32_bits(tensor_compute_group_scale(x, 0, g)) == f32_bits(tensor_compute_group_scale(y, 0, g)));
        }
    }
}

static const struct {
    int32_t storage, compute, group;
    bool trained;
} kinds[] = {
    {DQT_FORMAT_INT4, 0, 32, false},
    {DQT_FORMAT_INT8, 0, 32, false},
    {DQT_FORMAT_TERNARY, 0, 256, false},
    {DQT_FORMAT_INT3, 0, 64, false},
    {DQT_FORMAT_INT6, 0, 128, false},
    {DQT_FORMAT_INT4, 0, 32, true},
    {DQT_FORMAT_F32, DQT_FORMAT_INT4, 32, false},
    {DQT_FORMAT_INT8, DQT_FORMAT_INT4, 64, false},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static dqt_llama_config kind_config(size_t k) {
    return grouped_config(kinds[k].storage, kinds[k].compute, kinds[k].group, kinds[k].trained);
}

static dqt_llama *kind_model(dqt_context *ctx, size_t k) {
    const dqt_llama_config c = kind_config(k);
    dqt_llama *m = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    if (!kinds[k].compute) fill(m);
    return m;
}

static bool has_text(const struct memory_file *f, const char *text) {
    const size_t n = strlen(text);
    for (size_t i = 0; i + n <= f->size; i++)
        if (memcmp(f->bytes + i, text, n) == 0) return true;
    return false;
}

/* ---- Checkpoints ---------------------------------------------------------------------------------------------- */

/* What is read is what was written, and goes on to the same bytes; also into layers that exist. */
static void checkpoints(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    for (size_t k = 0; k < KINDS; k++) {
        const dqt_llama_config c = kind_config(k);
        dqt_updater_options o =
            updater_of(DQT_OPTIMIZER_ADAFACTOR, DQT_STATE_INT8, DQT_STATE_F32, DQT_ROUND_ECO_STOCHASTIC);
        struct job a = job_new(ctx, &c, &o), b = {.ctx = ctx}, into = job_new(ctx, &c, &o);
        job_train(&a, 0, 2);
        if (!kinds[k].trained && !kinds[k].compute) fill(a.model);
        struct memory_file file = job_bytes(&a, "host", 4), copy = file;
        CHECK(has_text(&file, "linear.group_size") && has_text(&file, "group_size"));
        OK(ctx, read_checkpoint(ctx, memory_read, &copy, &b.model, &b.updater, NULL, NULL));
        check_same(a.model, b.model);
        dqt_llama_config read = {.struct_size = sizeof read};
        OK(ctx, dqt_llama_get_config(b.model, &read));
        CHECK(read.linear.scale_axis == DQT_AXIS_GROUP && read.linear.group_size == kinds[k].group);
        struct memory_file again = job_bytes(&b, "host", 4);
        CHECK(same_bytes(&file, &again));
        job_tape(&b);
        dqt_layer *const *layers = NULL;
        size_t count = 0;
        dqt_checkpoint none = {.struct_size = sizeof none};
        OK(ctx, dqt_llama_get_layers(into.model, &layers, &count));
        copy = file;
        OK(ctx, dqt_layers_read(layers, count, into.updater, memory_read, &copy, NULL, &none));
        dqt_host_bytes_free(ctx, none.host, none.host_size);
        check_same(a.model, into.model);
        job_train(&a, 2, 2);
        job_train(&b, 2, 2);
        struct memory_file end_a = job_bytes(&a, NULL, 0), end_b = job_bytes(&b, NULL, 0);
        CHECKF(same_bytes(&end_a, &end_b), "kind %zu", k);
        free(file.bytes);
        free(again.bytes);
        free(end_a.bytes);
        free(end_b.bytes);
        job_end(&a);
        job_end(&b);
        job_end(&into);
    }
    counting_end(ctx, &counting);
}

/* A file without groups has not a byte that tells of them. */
static void nothing_new(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    struct memory_file f = trained_file(ctx, NULL, 0);
    CHECK(!has_text(&f, "group_size"));
    free(f.bytes);
    counting_end(ctx, &counting);
}

static size_t find_bytes(const struct memory_file *f, const void *bytes, size_t n) {
    for (size_t i = 0; i + n <= f->size; i++)
        if (memcmp(f->bytes + i, bytes, n) == 0) return i;
    return SIZE_MAX;
}

/* Scales that are no numbers, and groups that the shape has not. */
static void damaged_checkpoints(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama *m = kind_model(ctx, 0), *read = NULL;
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write(m, NULL, memory_write, &f, NULL));
    const dqt_tensor *t = tensor_of(m, 1, 3);
    unsigned char scales[64];
    for (size_t i = 0; i < sizeof scales / 2; i++)
        put_le(scales + 2 * i, t->half_scales[i], 2);
    const size_t at = find_bytes(&f, scales, sizeof scales), group = find_bytes(&f, "linear.group_size", 17);
    CHECK(at != SIZE_MAX && group != SIZE_MAX);
    for (int i = 0; at != SIZE_MAX && group != SIZE_MAX && i < 6; i++) {
        struct memory_file bad = f;
        bad.bytes = malloc(f.size);
        memcpy(bad.bytes, f.bytes, f.size);
        if (i == 0) put_le(bad.bytes + at + 6, 0x7c00, 2);
        if (i == 1) put_le(bad.bytes + at + 8, 0xfe01, 2);
        if (i == 2) put_le(bad.bytes + group + 17, 48, 4);
        if (i == 3) put_le(bad.bytes + group + 17, 64, 4);
        if (i == 4) put_le(bad.bytes + group + 17, 0, 4);
        if (i == 5) bad.bytes[group] = 'L'; /* an entry that nobody knows */
        seal(&bad);
        CHECKF(read_checkpoint(ctx, memory_read, &bad, &read, NULL, NULL, NULL) == DQT_E_FORMAT && !read, "%d: %s", i,
               dqt_last_error(ctx));
        free(bad.bytes);
    }
    free(f.bytes);
    dqt_llama_destroy(m);
    counting_end(ctx, &counting);
}

/* ---- safetensors ---------------------------------------------------------------------------------------------- */

static void safetensors(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    char path[] = "/tmp/dqt-groups-XXXXXX";
    close(mkstemp(path));
    for (size_t k = 0; k < KINDS; k++)
        for (int32_t dtype = DQT_SAFETENSORS_F32; dtype <= DQT_SAFETENSORS_CODES; dtype += 2) {
            dqt_llama *a = kind_model(ctx, k), *b = kind_model(ctx, k);
            const dqt_safetensors_options o = {.struct_size = sizeof o, .dtype = dtype, .stored = 1};
            fill(a);
            OK(ctx, dqt_llama_export_safetensors(a, path, &o));
            OK(ctx, dqt_llama_import_safetensors(b, path, NULL));
            if (dtype == DQT_SAFETENSORS_CODES)
                check_same(a, b);
            else /* the same weights, where a group of scale 0 has other codes, or all have a common factor */
                for (size_t r = 0; r < WIDE; r++) {
                    float x[HIDDEN], y[HIDDEN];
                    OK(ctx, dqt_tensor_dequantize(tensor_of(a, 1, 6), r, 1, x));
                    OK(ctx, dqt_tensor_dequantize(tensor_of(b, 1, 6), r, 1, y));
                    for (size_t c = 0; c < HIDDEN; c++)
                        CHECKF(!(x[c] < y[c] || x[c] > y[c]), "kind %zu: %g is %g", k, (double)x[c], (double)y[c]);
                }
            dqt_llama_destroy(a);
            dqt_llama_destroy(b);
        }
    /* codes of other groups have another number of scales */
    dqt_llama *a = kind_model(ctx, 0), *b = NULL;
    dqt_llama_config c = grouped_config(DQT_FORMAT_INT4, 0, 64, false);
    const dqt_safetensors_options o = {.struct_size = sizeof o, .dtype = DQT_SAFETENSORS_CODES};
    OK(ctx, dqt_llama_create(ctx, &c, &b));
    OK(ctx, dqt_llama_export_safetensors(a, path, &o));
    CHECK(dqt_llama_import_safetensors(b, path, NULL) == DQT_E_SHAPE);
    /* and a scale that is no number is refused */
    struct memory_file f = slurp(path);
    const dqt_tensor *t = tensor_of(a, 1, 3);
    unsigned char scales[64];
    for (size_t i = 0; i < sizeof scales / 2; i++)
        put_le(scales + 2 * i, t->half_scales[i], 2);
    const size_t at = find_bytes(&f, scales, sizeof scales);
    CHECK(at != SIZE_MAX);
    if (at != SIZE_MAX) {
        put_le(f.bytes + at, 0x7c00, 2);
        FILE *out = fopen(path, "wb");
        CHECK(out && fwrite(f.bytes, 1, f.size, out) == f.size && fclose(out) == 0);
        CHECK(dqt_llama_import_safetensors(a, path, NULL) == DQT_E_FORMAT);
    }
    free(f.bytes);
    dqt_llama_destroy(a);
    dqt_llama_destroy(b);
    unlink(path);
    counting_end(ctx, &counting);
}

/* ---- GGUF ----------------------------------------------------------------------------------------------------- */

static const char *const byte_tokens = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

static struct memory_file gguf_of(dqt_context *ctx, const dqt_llama *m, int32_t type, dqt_status expected) {
    const char *tokens[VOCAB];
    char texts[VOCAB][2] = {{0}};
    for (size_t i = 0; i < VOCAB; i++) {
        texts[i][0] = byte_tokens[i];
        tokens[i] = texts[i];
    }
    dqt_gguf_options o;
    struct memory_file f = memory_new();
    OK(ctx, dqt_gguf_options_init(&o, sizeof o));
    o.linear_type = type;
    o.tokens = tokens;
    o.num_tokens = VOCAB;
    const dqt_status status = dqt_llama_write_gguf(m, memory_write, &f, &o);
    CHECKF(status == expected, "%s: %s", dqt_status_string(status), dqt_last_error(ctx));
    return f;
}

typedef void (*pack_fn)(const int8_t *codes, uint16_t d, unsigned char *out);

/* The rows of a tensor as blocks, with the bits of its scales; they are in the file as they are. */
static void check_blocks(const struct memory_file *f, const dqt_tensor *t, pack_fn pack, size_t block, size_t bytes) {
    const size_t row_bytes = t->cols / block * bytes;
    unsigned char *blocks = malloc(t->rows * row_bytes);
    for (size_t r = 0; r < t->rows; r++) {
        int8_t codes[WIDE];
        const dqt_tensor stored = tensor_as_stored(t);
        tensor_read_codes(&stored, r, 0, t->cols, codes);
        for (size_t b = 0; b < t->cols / block; b++)
            pack(codes + b * block, t->half_scales[r * t->row_groups + b * block / t->group_cols],
                 blocks + r * row_bytes + b * bytes);
    }
    CHECK(find_bytes(f, blocks, t->rows * row_bytes) != SIZE_MAX);
    free(blocks);
}

static void gguf_blocks(void) {
    static const struct {
        int32_t storage, group, type;
        pack_fn pack;
        size_t block, bytes;
    } cases[] = {
        {DQT_FORMAT_INT4, 32, DQT_GGUF_AUTO, pack_q4_0, Q_BLOCK, Q4_0_BYTES},
        {DQT_FORMAT_INT4, 128, DQT_GGUF_AUTO, pack_q4_0, Q_BLOCK, Q4_0_BYTES},
        {DQT_FORMAT_INT8, 32, DQT_GGUF_AUTO, pack_q8_0, Q_BLOCK, Q8_0_BYTES},
        {DQT_FORMAT_INT5, 64, DQT_GGUF_AUTO, pack_q5_0, Q_BLOCK, Q5_0_BYTES},
        {DQT_FORMAT_INT4, 32, DQT_GGUF_Q8_0, pack_q8_0, Q_BLOCK, Q8_0_BYTES},
        {DQT_FORMAT_TERNARY, 256, DQT_GGUF_AUTO, pack_tq2_0, TQ_BLOCK, TQ2_0_BYTES},
        {DQT_FORMAT_TERNARY, 256, DQT_GGUF_TQ1_0, pack_tq1_0, TQ_BLOCK, TQ1_0_BYTES},
        {DQT_FORMAT_TERNARY, 32, DQT_GGUF_AUTO, pack_q4_0, Q_BLOCK, Q4_0_BYTES},
    };
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const dqt_llama_config c = grouped_config(cases[i].storage, 0, cases[i].group, false);
        dqt_llama *m = NULL;
        OK(ctx, dqt_llama_create(ctx, &c, &m));
        fill(m);
        struct memory_file f = gguf_of(ctx, m, cases[i].type, DQT_OK);
        for (size_t p = 3; p < 9;
             p++) { /* v and o, gate, up and down: rows are not permuted, unlike those of q and k */
            const dqt_tensor *t = tensor_of(m, 1, p);
            if (t && t->half_scales) check_blocks(&f, t, cases[i].pack, cases[i].block, cases[i].bytes);
        }
        free(f.bytes);
        dqt_llama_destroy(m);
    }
    dqt_llama_config c = grouped_config(DQT_FORMAT_TERNARY, 0, 128, false);
    dqt_llama *m = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    struct memory_file f = gguf_of(ctx, m, DQT_GGUF_TQ2_0, DQT_E_UNSUPPORTED);
    CHECKF(strstr(dqt_last_error(ctx), "256"), "%s", dqt_last_error(ctx));
    free(f.bytes);
    f = gguf_of(ctx, m, DQT_GGUF_F16, DQT_OK);
    free(f.bytes);
    dqt_llama_destroy(m);
    counting_end(ctx, &counting);
}

static const struct test tests[] = {
    TEST(checkpoints), TEST(nothing_new), TEST(damaged_checkpoints), TEST(safetensors), TEST(gguf_blocks),
};
TEST_MAIN(tests)
