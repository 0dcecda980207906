/* safetensors: what goes out comes back, by whatever dtype; headers of every bad kind are refused and change nothing.
 */
#define _POSIX_C_SOURCE 200809L

#include <float.h>
#include <unistd.h>

#include "calls.h"
#include "counting_alloc.h"
#include "formats.h"
#include "io/safetensors.h"
#include "memory_file.h"

/* ---- Models -------------------------------------------------------------------------------------------------- */

static dqt_llama_config small_config(void) {
    dqt_llama_config c;
    dqt_llama_config_init(&c, sizeof c);
    c.vocab_size = 24;
    c.hidden_size = 16;
    c.intermediate_size = 40;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    return c;
}

/* Packed weights and scales of the whole model. */
static struct memory_file model_bytes(dqt_context *ctx, dqt_llama *model) {
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write(model, NULL, memory_write, &f, NULL));
    return f;
}

static void set_path(const struct memory_file *f, const char *path) {
    FILE *out = fopen(path, "wb");
    CHECK(out && fwrite(f->bytes, 1, f->size, out) == f->size && fclose(out) == 0);
}

static char path[] = "/tmp/dqt-safetensors-XXXXXX";

static void path_new(void) {
    strcpy(path + strlen(path) - 6, "XXXXXX");
    const int descriptor = mkstemp(path);
    CHECK(descriptor >= 0);
    close(descriptor);
}

/* Gains and, with row scales, scales that no other model has. */
static dqt_llama *model_new(dqt_context *ctx, const dqt_llama_config *config, uint64_t seed) {
    dqt_llama_config c = *config;
    dqt_llama *model = NULL;
    c.seed = seed;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    const struct parameter_list list = parameter_list(model);
    for (size_t i = 0; i < list.count; i++) {
        const struct update_target p = list_parameter(&list, i);
        for (size_t k = 0; p.parameter_class == DQT_CLASS_NORM && k < p.tensor->cols; k++)
            ((float *)(void *)p.tensor->data)[k] = 1 + test_uniform(&seed) / 2;
    }
    return model;
}

static dqt_safetensors_options options_of(int32_t dtype, int32_t stored) {
    dqt_safetensors_options o;
    dqt_safetensors_options_init(&o, sizeof o);
    o.dtype = dtype;
    o.stored = stored;
    return o;
}

/* Exported and imported into a model of another seed: the same bits, or with `close_only` the same codes (of up to 4
 * bits) and scales nearly so. */
static void round_trip(dqt_context *ctx, const dqt_llama_config *c, int32_t dtype, bool close_only) {
    dqt_llama *from = model_new(ctx, c, 5), *to = model_new(ctx, c, 6);
    const dqt_safetensors_options o = options_of(dtype, 1);
    path_new();
    OK(ctx, dqt_llama_export_safetensors(from, path, &o));
    OK(ctx, dqt_llama_import_safetensors(to, path, import_rounding(DQT_ROUND_STOCHASTIC, 3)));
    const struct parameter_list a = parameter_list(from), b = parameter_list(to);
    for (size_t i = 0; i < a.count; i++) {
        const dqt_tensor *x = list_parameter(&a, i).tensor, *y = list_parameter(&b, i).tensor;
        const char *name = list_parameter(&a, i).name;
        if (close_only && format_max(x->storage) > 7) continue;
        if (format_is_code(x->storage) || !close_only)
            CHECKF(memcmp(x->data, y->data, x->data_bytes) == 0, "%s, storage %d, dtype %d", name, x->storage, dtype);
        for (size_t k = 0; k < x->num_scales; k++)
            CHECKF(close_only ? fabsf(x->scales[k] - y->scales[k]) <= 0x1p-8f * x->scales[k]
                              : f32_bits(x->scales[k]) == f32_bits(y->scales[k]),
                   "%s, storage %d, dtype %d: scale %zu is %.9g and %.9g", name, x->storage, dtype, k,
                   (double)x->scales[k], (double)y->scales[k]);
        for (size_t r = 0; r < x->rows && x->compute != x->storage && !close_only; r++)
            CHECK(f32_bits(tensor_compute_scale(x, r)) == f32_bits(tensor_compute_scale(y, r)));
    }
    unlink(path);
    dqt_llama_destroy(from);
    dqt_llama_destroy(to);
}

static void round_trips(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    EACH_FORMAT(format)
    for (int32_t kind = 0; kind < 4; kind++) {
        dqt_llama_config c = small_config();
        c.linear.storage = format;
        c.linear.scale_rule = DQT_SCALE_SIGMA;
        c.linear.sigma = 2.5f;
        c.linear.scale_axis = kind % 2 ? DQT_AXIS_ROW : DQT_AXIS_TENSOR;
        c.tie_embeddings = kind / 2;
        c.no_sub_norms = kind == 3;
        c.mlp = kind == 3 ? DQT_MLP_SQUARED_RELU : DQT_MLP_SWIGLU;
        if (kind == 2 && format != DQT_FORMAT_TERNARY) c.linear.compute = DQT_FORMAT_TERNARY;
        round_trip(ctx, &c, DQT_SAFETENSORS_F32, false);
        round_trip(ctx, &c, DQT_SAFETENSORS_CODES, false);
        round_trip(ctx, &c, DQT_SAFETENSORS_BF16, true);
    }
    counting_end(ctx, &counting);
}

/* The compute format goes out unless the stored weights are asked for. */
static void compute_or_stored(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama_config c = small_config();
    c.linear.storage = DQT_FORMAT_F32;
    c.linear.compute = DQT_FORMAT_TERNARY;
    dqt_llama *from = model_new(ctx, &c, 5), *to = model_new(ctx, &c, 6);
    const struct parameter_list a = parameter_list(from), b = parameter_list(to);
    const dqt_tensor *x = list_parameter(&a, 2).tensor, *y = list_parameter(&b, 2).tensor;
    path_new();
    OK(ctx, dqt_llama_export_safetensors(from, path, NULL));
    OK(ctx, dqt_llama_import_safetensors(to, path, import_rounding(DQT_ROUND_NEAREST, 0)));
    for (size_t r = 0; r < x->rows; r++) {
        float read[16], stored[16];
        tensor_read_floats(x, r, 0, 16, read);
        tensor_dequantize_row(y, r, stored);
        CHECK(memcmp(read, stored, sizeof read) == 0);
    }
    unlink(path);
    dqt_llama_destroy(from);
    dqt_llama_destroy(to);
    counting_end(ctx, &counting);
}

/* ---- Grids --------------------------------------------------------------------------------------------------- */

static void grids(void) {
    static const int lows[] = {-1, -2, -4, -8, -9, -16, -32, -128}, highs[] = {1, 1, 3, 7, 8, 15, 31, 127};
    enum { GRIDS = sizeof lows / sizeof *lows };
    uint64_t random = 11;
    float w[300];
    for (int trial = 0; trial < 4800; trial++) {
        const int f = trial % GRIDS, low = lows[f], high = highs[f];
        const enum element_type type = (enum element_type)(trial / GRIDS % 3);
        const float scale =
            ldexpf(1.0f + (float)(test_random(&random) % (1 << 23)) * 0x1p-23f, -(int)(test_random(&random) % 9) - 2);
        const size_t count = 1 + (size_t)(test_random(&random) % 300);
        int codes[300], divisor = 0; /* of all codes */
        for (size_t i = 0; i < count; i++) {
            codes[i] = low + (int)(test_random(&random) % (unsigned)(high - low + 1));
            for (int a = abs(codes[i]), rest; a; a = rest) {
                rest = divisor % a;
                divisor = a;
            }
            const float x = scale * (float)codes[i];
            w[i] = type == TYPE_F32 ? x : type == TYPE_BF16 ? bf16_to_f32(f32_to_bf16(x)) : f16_to_f32(f32_to_f16(x));
        }
        float found = 0;
        const bool on = grid_find(w, count, type, low, high, &found);
        CHECKF(on == (divisor != 0 && (type == TYPE_F32 || low >= -8)), "trial %d", trial);
        if (!on || divisor != 1) continue;
        bool exact = false; /* a weight that is the scale times a power of two tells all its bits */
        for (size_t i = 0; i < count; i++)
            exact = exact || (codes[i] && (abs(codes[i]) & (abs(codes[i]) - 1)) == 0);
        CHECKF(type != TYPE_F32 || !exact || found == scale, "trial %d: %.9g, %.9g", trial, (double)found,
               (double)scale);
        for (size_t i = 0; i < count; i++)
            CHECK(type != TYPE_F32 || found * (float)codes[i] == w[i]);
        CHECK(fabsf(found - scale) <= scale * 0x1p-8f);
        for (size_t i = 0; i < count; i++)
            CHECKF((int)rintf(w[i] / found) == codes[i], "trial %d, code %zu", trial, i);
        /* One weight beside the grid, or beyond its end, and there is none. */
        const size_t i = (size_t)(test_random(&random) % count);
        if (count < 20 || type != TYPE_F32) continue;
        w[i] = scale * ((float)codes[i] + 0.37f);
        CHECK(!grid_find(w, count, type, low, high, &found));
        w[i] = scale * (float)(high + 2);
        CHECK(f == 0 || divisor != 1 || !grid_find(w, count, type, low, high, &found) || found != scale);
    }
}

/* A scale is small enough that one more than the greatest code times it is finite: else no file could have it. */
static void scales_that_a_file_can_have(void) {
    static const int lows[] = {-1, -2, -4, -8, -128}, highs[] = {1, 1, 3, 7, 127};
    for (size_t f = 0; f < sizeof lows / sizeof *lows; f++) {
        const float most = FLT_MAX / (float)(highs[f] + 1);
        float found, w[3] = {FLT_MAX};
        CHECK(!grid_find(w, 3, TYPE_F32, lows[f], highs[f], &found) || found <= most);
        w[0] = most;
        CHECK(grid_find(w, 3, TYPE_F32, lows[f], highs[f], &found) && found <= most);
    }
}

/* Off the grid: the tensor's rule and the rounding that was asked for. */
static void quantised_imports(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama_config c = small_config(), wide = c;
    wide.linear.storage = wide.embedding.storage = wide.head.storage = DQT_FORMAT_F32;
    wide.linear.compute = DQT_FORMAT_SAME;
    dqt_llama *from = model_new(ctx, &wide, 5), *to = model_new(ctx, &c, 6);
    path_new();
    OK(ctx, dqt_llama_export_safetensors(from, path, NULL));
    OK(ctx, dqt_llama_import_safetensors(to, path, import_rounding(DQT_ROUND_NEAREST, 0)));
    const struct parameter_list a = parameter_list(from), b = parameter_list(to);
    for (size_t i = 0; i < a.count; i++) {
        const dqt_tensor *x = list_parameter(&a, i).tensor, *y = list_parameter(&b, i).tensor;
        if (!format_is_code(y->storage)) continue;
        dqt_tensor *expected = NULL;
        dqt_tensor_options o;
        dqt_tensor_options_init(&o, sizeof o);
        o.storage = format_public(y->storage);
        o.scale_rule = tensor_import_rule(y);
        o.sigma = y->sigma;
        OK(ctx, dqt_tensor_create(ctx, y->rows, y->cols, &o, &expected));
        OK(ctx, dqt_tensor_quantize(expected, (const float *)(const void *)x->data, DQT_ROUND_NEAREST, 0));
        CHECK(memcmp(expected->data, y->data, y->data_bytes) == 0 &&
              f32_bits(expected->scales[0]) == f32_bits(y->scales[0]));
        dqt_tensor_destroy(expected);
    }
    struct memory_file nearest = model_bytes(ctx, to);
    OK(ctx, dqt_llama_import_safetensors(to, path, import_rounding(DQT_ROUND_STOCHASTIC, 1)));
    struct memory_file one = model_bytes(ctx, to);
    OK(ctx, dqt_llama_import_safetensors(to, path, import_rounding(DQT_ROUND_STOCHASTIC, 2)));
    struct memory_file two = model_bytes(ctx, to);
    OK(ctx, dqt_llama_import_safetensors(to, path, import_rounding(DQT_ROUND_STOCHASTIC, 1)));
    struct memory_file again = model_bytes(ctx, to);
    CHECK(same_bytes(&one, &again) && !same_bytes(&one, &two) && !same_bytes(&one, &nearest));
    unlink(path);
    free(nearest.bytes);
    free(one.bytes);
    free(two.bytes);
    free(again.bytes);
    dqt_llama_destroy(from);
    dqt_llama_destroy(to);
    counting_end(ctx, &counting);
}

/* ---- Headers ------------------------------------------------------------------------------------------------- */

struct target {
    dqt_context *ctx;
    dqt_llama *model;
    struct memory_file before;
};

static struct target target_new(dqt_context *ctx, const dqt_llama_config *c) {
    struct target t = {.ctx = ctx, .model = model_new(ctx, c, 6)};
    t.before = model_bytes(ctx, t.model);
    return t;
}

static void target_end(struct target *t) {
    free(t->before.bytes);
    dqt_llama_destroy(t->model);
}

/* This file is refused with a sentence, and neither weights nor memory change. */
static void check_refused(const struct target *t, const struct memory_file *f, dqt_status expected, const char *what) {
    const size_t before = dqt_context_allocated(t->ctx);
    set_path(f, path);
    const dqt_status status = dqt_llama_import_safetensors(t->model, path, import_rounding(DQT_ROUND_NEAREST, 0));
    CHECKF(status == expected, "%s: %s: %s", what, dqt_status_string(status), dqt_last_error(t->ctx));
    CHECK(dqt_last_error(t->ctx)[0] != '\0' && dqt_context_allocated(t->ctx) == before);
    struct memory_file after = model_bytes(t->ctx, t->model);
    CHECKF(same_bytes(&t->before, &after), "%s changed the model", what);
    free(after.bytes);
}

static struct memory_file exported(dqt_context *ctx, const dqt_llama_config *c, int32_t dtype) {
    dqt_llama *from = model_new(ctx, c, 5);
    struct memory_file f = memory_new();
    const dqt_safetensors_options o = options_of(dtype, 1);
    OK(ctx, dqt_llama_write_safetensors(from, memory_write, &f, &o));
    dqt_llama_destroy(from);
    return f;
}

/* The same file with the first `from` of its header replaced. */
static struct memory_file edited(const struct memory_file *f, const char *from, const char *to) {
    struct memory_file out = memory_new();
    const size_t length = (size_t)get_le(f->bytes, 8), n = strlen(from), more = strlen(to);
    char *text = calloc(1, length + 1);
    memcpy(text, f->bytes + 8, length);
    const char *at = strstr(text, from);
    CHECKF(at != NULL, "%s", from);
    if (at) {
        unsigned char size[8];
        put_le(size, length - n + more, 8);
        memory_write(&out, size, 8);
        memory_write(&out, text, (size_t)(at - text));
        memory_write(&out, to, more);
        memory_write(&out, at + n, length - n - (size_t)(at - text));
        memory_write(&out, f->bytes + 8 + length, f->size - 8 - length);
    }
    free(text);
    return out;
}

static void hostile_headers(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = small_config();
    struct target t = target_new(ctx, &c);
    struct memory_file f = exported(ctx, &c, DQT_SAFETENSORS_F32);
    static const struct {
        const char *from, *to;
        dqt_status expected;
    } edits[] = {
        {"{\"__metadata__\"", "[\"__metadata__\"", DQT_E_FORMAT},
        {"{\"__metadata__\"", " {\"__metadata__\"", DQT_E_FORMAT},
        {"{\"__metadata__\":{\"format\":\"pt\"}", "{\"__metadata__\":{\"format\":{\"a\":\"b\"}}", DQT_E_FORMAT},
        {"{\"__metadata__\":{\"format\":\"pt\"}", "{\"__metadata__\":{\"format\":3}", DQT_E_FORMAT},
        {"{\"__metadata__\":{\"format\":\"pt\"}", "{\"__metadata__\":{\"format\":\"pt\"},\"__metadata__\":{}",
         DQT_E_FORMAT},
        {"{\"__metadata__\":{\"format\":\"pt\"}", "{\"__metadata__\":[[[[[[[[[[[[[[[[", DQT_E_FORMAT},
        {"\"pt\"", "\"p\\x\"", DQT_E_FORMAT},
        {"\"pt\"", "\"p\nt\"", DQT_E_FORMAT},
        {"\"pt\"", "\"p\\u12g4\"", DQT_E_FORMAT},
        {"model.norm.weight", "model.norn.weight", DQT_E_FORMAT},
        {"model.norm.weight", "model.norm.weight\\u0000", DQT_E_FORMAT},
        {"model.norm.weight", "model.embed_tokens.weight", DQT_E_FORMAT}, /* twice, and one is missing */
        {"model.layers.0.input", "model.layers.00.input", DQT_E_FORMAT},
        {"model.layers.0.input", "model.layers.18446744073709551616.input", DQT_E_FORMAT},
        {"model.layers.0.input", "model.layers.2.input", DQT_E_FORMAT},
        {"model.layers.0.input", "model.layers.-1.input", DQT_E_FORMAT},
        {"\"F32\"", "\"F64\"", DQT_E_FORMAT},
        {"\"F32\"", "\"BF16\"", DQT_E_FORMAT},
        {"\"F32\"", "\"U8\"", DQT_E_SHAPE},
        {"\"F32\"", "7", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[16,24]", DQT_E_SHAPE},
        {"\"shape\":[24,16]", "\"shape\":[384]", DQT_E_SHAPE},
        {"\"shape\":[24,16]", "\"shape\":[24,16,1]", DQT_E_SHAPE},
        {"\"shape\":[24,16]", "\"shape\":[24,16,1,1,1,1,1,1,1,1,1,1]", DQT_E_SHAPE},
        {"\"shape\":[24,16]", "\"shape\":[]", DQT_E_SHAPE},
        {"\"shape\":[24,16]", "\"shape\":[24,16", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[24,,16]", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[24,16,]", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[24,-16]", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[24,16.0]", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[24,1e1]", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[024,16]", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[4294967320,4294967312]", DQT_E_SHAPE},
        {"\"shape\":[24,16]", "\"shape\":[24,18446744073709551632]", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[[[[24,16]]]]", DQT_E_FORMAT},
        {"\"shape\":[24,16]", "\"shape\":[24,16],\"shape\":[24,16]", DQT_E_FORMAT},
        {"\"shape\":[24,16],", "", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[0,1536],\"more\":1", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[0,1532]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[4,1540]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[64,1600]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[1536,0]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[0]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[0,1536,1536]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[18446744073709550080,18446744073709551616]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]", "\"data_offsets\":[18446744073709550079,18446744073709551615]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]}", "\"data_offsets\":[0,1536]", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]},", "\"data_offsets\":[0,1536]}", DQT_E_FORMAT},
        {"\"data_offsets\":[0,1536]},", "\"data_offsets\":[0,1536]},,", DQT_E_FORMAT},
        {"}}", "}", DQT_E_FORMAT},
        {"}}", "}},", DQT_E_FORMAT},
        {"}}", "}}}", DQT_E_FORMAT},
        {"}}", "},}", DQT_E_FORMAT},
    };
    path_new();
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        struct memory_file bad = edited(&f, edits[i].from, edits[i].to);
        check_refused(&t, &bad, edits[i].expected, edits[i].to);
        free(bad.bytes);
    }
    /* Harmless ones are read. */
    static const char *const spaces[][2] = {{"}}", "} \n\t }  "},
                                            {"\"shape\":[24,16]", "\"shape\" : [ 24 , 16 ]"},
                                            {"model.norm.weight", "model.\\u006eorm.weight"},
                                            {"\"pt\"", "\"\\u00e4\\\"\\\\\\/\\b\\f\\n\\r\\t \\uD83D\\uDE00\""},
                                            {"{\"__metadata__\":{\"format\":\"pt\"},", "{\"__metadata__\":{},"},
                                            {"{\"__metadata__\":{\"format\":\"pt\"},", "{"},
                                            {"self_attn.inner_attn_ln", "self_attn.attn_sub_norm"},
                                            {"mlp.ffn_layernorm", "mlp.ffn_sub_norm"}};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        struct memory_file good = edited(&f, spaces[i][0], spaces[i][1]);
        set_path(&good, path);
        OK(ctx, dqt_llama_import_safetensors(t.model, path, import_rounding(DQT_ROUND_NEAREST, 0)));
        free(good.bytes);
    }
    unlink(path);
    free(f.bytes);
    target_end(&t);
    counting_end(ctx, &counting);
}

static void hostile_data(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = small_config();
    struct target t = target_new(ctx, &c);
    path_new();
    for (int32_t dtype = DQT_SAFETENSORS_F32; dtype <= DQT_SAFETENSORS_CODES; dtype++) {
        struct memory_file f = exported(ctx, &c, dtype);
        const size_t whole = f.size, data = 8 + (size_t)get_le(f.bytes, 8);
        /* Too short at every byte of the header and at some of the data, too long, and with a wrong length. */
        for (size_t n = 0; n < whole; n += n < 24 ? 1 : n < data ? 101 : 997) {
            f.size = n;
            check_refused(&t, &f, DQT_E_FORMAT, "a truncated file");
        }
        f.size = whole;
        const uint64_t lengths[] = {0, 1, data - 9, data - 7, whole, UINT64_MAX, (uint64_t)1 << 63, HEADER_MOST + 1};
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            put_le(f.bytes, lengths[i], 8);
            check_refused(&t, &f, DQT_E_FORMAT, "a wrong length");
        }
        put_le(f.bytes, data - 8, 8);
        memory_write(&f, "", 1);
        check_refused(&t, &f, DQT_E_FORMAT, "a longer file");
        f.size = whole;
        /* Numbers that are not finite: first and last of the file, floats of some kind in all but CODES. */
        unsigned char kept[4];
        memcpy(kept, f.bytes + data, 4);
        put_le(f.bytes + data, dtype == DQT_SAFETENSORS_CODES ? 0x7fc00000u : 0x7f800000u, 4); /* all begin with F32 */
        check_refused(&t, &f, DQT_E_FORMAT, "infinity");
        memcpy(f.bytes + data, kept, 4);
        if (dtype != DQT_SAFETENSORS_CODES) {
            memcpy(kept, f.bytes + whole - 2, 2);
            put_le(f.bytes + whole - 2, 0x7fc0u, 2);
            check_refused(&t, &f, DQT_E_FORMAT, "NaN at the end");
            memcpy(f.bytes + whole - 2, kept, 2);
        }
        set_path(&f, path);
        OK(ctx, dqt_llama_import_safetensors(
                    t.model, path, import_rounding(DQT_ROUND_NEAREST, 0))); /* and the file was good but for that */
        target_end(&t);
        t = target_new(ctx, &c);
        free(f.bytes);
    }
    unlink(path);
    target_end(&t);
    counting_end(ctx, &counting);
}

/* Codes must be of the model's format, and come with scales. */
static void hostile_codes(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama_config c = small_config();
    struct target t = target_new(ctx, &c);
    path_new();
    struct memory_file f = exported(ctx, &c, DQT_SAFETENSORS_CODES);
    static const char *const edits[][2] = {
        {"\"dqt.linear\":\"ternary\"", "\"dqt.linear\":\"int2\""},
        {"\"dqt.linear\":\"ternary\",", ""},
        {"\"dqt.embedding\":\"int8\"", "\"dqt.embedding\":\"ternary\""},
        {"q_proj.weight_scale", "q_proj.weight_scales"},
        {"q_proj.weight_scale", "q_proj._scale"},
        {"model.layers.0.self_attn.q_proj.weight_scale", "model.layers.0.input_layernorm.weight_scale"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        struct memory_file bad = edited(&f, edits[i][0], edits[i][1]);
        check_refused(&t, &bad, DQT_E_FORMAT, edits[i][1]);
        free(bad.bytes);
    }
    f.bytes[f.size - 1] = 0xff; /* the head's last byte: an int8 padding code */
    check_refused(&t, &f, DQT_E_FORMAT, "a padding code");
    free(f.bytes);
    dqt_llama_config other = c;
    other.linear.storage = DQT_FORMAT_INT2;
    f = exported(ctx, &other, DQT_SAFETENSORS_CODES); /* the same shapes */
    check_refused(&t, &f, DQT_E_FORMAT, "codes of another format");
    free(f.bytes);
    other = c;
    other.hidden_size = 32;
    f = exported(ctx, &other, DQT_SAFETENSORS_F32);
    check_refused(&t, &f, DQT_E_SHAPE, "a wider model");
    free(f.bytes);
    other = c;
    other.no_sub_norms = 1;
    f = exported(ctx, &other, DQT_SAFETENSORS_F32);
    check_refused(&t, &f, DQT_E_FORMAT, "a model without sub-norms");
    free(f.bytes);
    unlink(path);
    target_end(&t);
    counting_end(ctx, &counting);
}

static void failing_allocations(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    const dqt_llama_config c = small_config();
    struct target t = target_new(ctx, &c);
    struct memory_file f = exported(ctx, &c, DQT_SAFETENSORS_CODES), source = memory_new();
    path_new();
    set_path(&f, path);
    size_t n = 0;
    for (;; n++) {
        const size_t before = dqt_context_allocated(ctx);
        counting.fail_at = counting.calls + n;
        const dqt_status status = dqt_llama_import_safetensors(t.model, path, import_rounding(DQT_ROUND_NEAREST, 0));
        counting.fail_at = SIZE_MAX;
        CHECK(dqt_context_allocated(ctx) == before);
        struct memory_file after = model_bytes(ctx, t.model);
        CHECK(same_bytes(&after, &t.before) == (status != DQT_OK));
        free(after.bytes);
        if (status == DQT_OK) break;
        CHECK(status == DQT_E_MEMORY);
    }
    CHECKF(n > 20, "%zu", n);
    counting.fail_at = counting.calls;
    CHECK(dqt_llama_write_safetensors(t.model, memory_write, &source, NULL) == DQT_E_MEMORY && source.size == 0);
    counting.fail_at = SIZE_MAX;
    for (size_t at = 0; at < f.size; at += 333) {
        struct memory_file out = memory_new();
        const dqt_safetensors_options o = options_of(DQT_SAFETENSORS_CODES, 0);
        out.fail_at = at;
        CHECK(dqt_llama_write_safetensors(t.model, memory_write, &out, &o) == DQT_E_IO);
        free(out.bytes);
    }
    unlink(path);
    free(f.bytes);
    target_end(&t);
    counting_end(ctx, &counting);
}

static void arguments(void) {
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama_config c = small_config();
    dqt_llama *model = model_new(ctx, &c, 1), *shape;
    struct memory_file f = memory_new();
    c.shape_only = 1;
    OK(ctx, dqt_llama_create(ctx, &c, &shape));
    dqt_safetensors_options o = options_of(3, 0);
    CHECK(dqt_llama_write_safetensors(model, memory_write, &f, &o) == DQT_E_ARGUMENT);
    o = options_of(0, 2);
    CHECK(dqt_llama_write_safetensors(model, memory_write, &f, &o) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_write_safetensors(model, NULL, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_write_safetensors(NULL, memory_write, &f, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_write_safetensors(shape, memory_write, &f, NULL) == DQT_E_STATE);
    CHECK(dqt_llama_export_safetensors(model, NULL, NULL) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_export_safetensors(model, "/nonexistent/x", NULL) == DQT_E_IO);
    CHECK(dqt_llama_import_safetensors(model, NULL, import_rounding(0, 0)) == DQT_E_ARGUMENT);
    CHECK(dqt_llama_import_safetensors(model, "/nonexistent", import_rounding(0, 0)) == DQT_E_IO);
    CHECK(dqt_llama_import_safetensors(model, "/dev/null", import_rounding(0, 0)) == DQT_E_IO);
    CHECK(dqt_llama_import_safetensors(model, "/nonexistent", import_rounding(DQT_ROUND_ECO_NEAREST, 0)) ==
          DQT_E_ARGUMENT);
    CHECK(dqt_llama_import_safetensors(shape, "/nonexistent", import_rounding(0, 0)) == DQT_E_STATE);
    const struct parameter_list list = parameter_list(model);
    ((float *)(void *)list_parameter(&list, 1).tensor->data)[0] = NAN;
    CHECK(dqt_llama_write_safetensors(model, memory_write, &f, NULL) == DQT_E_NUMERIC && f.size == 0);
    dqt_llama_destroy(shape);
    dqt_llama_destroy(model);
    counting_end(ctx, &counting);
}

static const struct test tests[] = {
    TEST(round_trips),         TEST(compute_or_stored), TEST(grids),        TEST(scales_that_a_file_can_have),
    TEST(quantised_imports),   TEST(hostile_headers),   TEST(hostile_data), TEST(hostile_codes),
    TEST(failing_allocations), TEST(arguments),
};
TEST_MAIN(tests)
