/* Safetensors files as others write them: their data lie in another order than the header lists them (Hugging Face's
 * are sorted by name, others are as they were made), or a head is listed that the model ties to its embedding. */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "calls.h"
#include "counting_alloc.h"
#include "memory_file.h"

/* The same file with its tensors' data in another order than the header lists them: tensor i of n comes at place
 * (i * step) % n of the data. */
static struct memory_file shuffled(const struct memory_file *f, size_t step) {
    enum { MOST = 200 };
    struct memory_file out = memory_new(), header = memory_new();
    unsigned long long length = 0, begin[MOST], end[MOST], at[MOST], to = 0;
    for (size_t i = 8; i-- > 0;)
        length = length << 8 | f->bytes[i];
    char *text = calloc(1, (size_t)length + 1);
    memcpy(text, f->bytes + 8, (size_t)length);
    static const char mark[] = "\"data_offsets\":[";
    size_t n = 0;
    for (char *p = text; (p = strstr(p, mark)) && n < MOST; p++, n++)
        CHECK(sscanf(p + sizeof mark - 1, "%llu,%llu", &begin[n], &end[n]) == 2);
    CHECK(n > step && n < MOST && (step == 1 || n % step != 0));
    for (size_t place = 0; place < n; place++)
        for (size_t i = 0; i < n; i++)
            if (i * step % n == place) {
                at[i] = to;
                to += end[i] - begin[i];
            }
    n = 0;
    for (char *p = text, *next; *p; p = next) {
        next = strstr(p, mark);
        next = next ? next + sizeof mark - 1 : text + length;
        memory_write(&header, p, (size_t)(next - p));
        if (!*next) break;
        char numbers[64];
        const int count = snprintf(numbers, sizeof numbers, "%llu,%llu", at[n], at[n] + end[n] - begin[n]);
        memory_write(&header, numbers, (size_t)count);
        next = strchr(next, ']');
        n++;
    }
    for (size_t i = 0; i < 8; i++)
        memory_write(&out, &(unsigned char){(unsigned char)((uint64_t)header.size >> (8 * i))}, 1);
    memory_write(&out, header.bytes, header.size);
    for (size_t place = 0; place < n; place++)
        for (size_t i = 0; i < n; i++)
            if (i * step % n == place)
                memory_write(&out, f->bytes + 8 + length + begin[i], (size_t)(end[i] - begin[i]));
    CHECK(out.size - header.size == f->size - length);
    free(text);
    free(header.bytes);
    return out;
}

static dqt_llama *model_new(dqt_context *ctx, uint64_t seed, bool tied) {
    dqt_llama_config c;
    dqt_llama *model = NULL;
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 40;
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.seed = seed;
    c.tie_embeddings = tied;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    return model;
}

static dqt_status import_bytes(dqt_llama *model, const struct memory_file *f) {
    char path[] = "/tmp/dqt-order-XXXXXX";
    const int descriptor = mkstemp(path);
    CHECK(descriptor >= 0 && write(descriptor, f->bytes, f->size) == (ssize_t)f->size && close(descriptor) == 0);
    const dqt_status status = dqt_llama_import_safetensors(model, path, import_rounding(DQT_ROUND_NEAREST, 0));
    unlink(path);
    return status;
}

static void data_in_any_order(void) {
    static const size_t steps[] = {1, 7, 13, 17};
    static const int32_t dtypes[] = {DQT_SAFETENSORS_F32, DQT_SAFETENSORS_CODES};
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama *from = model_new(ctx, 5, false);
    for (size_t d = 0; d < 2; d++) {
        dqt_safetensors_options o = DQT_INIT(dqt_safetensors_options);
        struct memory_file f = memory_new();
        o.dtype = dtypes[d];
        o.stored = 1;
        OK(ctx, dqt_llama_write_safetensors(from, memory_write, &f, &o));
        for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
            struct memory_file other = shuffled(&f, steps[k]), again = memory_new();
            dqt_llama *to = model_new(ctx, 6, false);
            OK(ctx, import_bytes(to, &other));
            OK(ctx, dqt_llama_write_safetensors(to, memory_write, &again, &o));
            CHECKF(same_bytes(&f, &again), "dtype %d, step %zu", dtypes[d], steps[k]);
            CHECK(steps[k] == 1 || !same_bytes(&f, &other));
            free(other.bytes);
            free(again.bytes);
            dqt_llama_destroy(to);
        }
        free(f.bytes);
    }
    dqt_llama_destroy(from);
    counting_end(ctx, &counting);
}

/* ---- The head of a tied model -------------------------------------------------------------------------------- */

static dqt_tensor *first_weight(dqt_context *ctx, dqt_llama *model, bool of_the_head) {
    dqt_layer *const *layers;
    size_t count;
    dqt_parameter p = DQT_INIT(dqt_parameter);
    OK(ctx, dqt_llama_get_layers(model, &layers, &count));
    OK(ctx, dqt_layer_get_parameter(layers[of_the_head ? count - 1 : 0], 0, &p));
    return p.tensor;
}

/* The data of lm_head.weight in a file. */
static unsigned char *head_data(const struct memory_file *f, size_t *size) {
    unsigned long long length = 0, begin = 0, end = 0;
    for (size_t i = 8; i-- > 0;)
        length = length << 8 | f->bytes[i];
    char *text = calloc(1, (size_t)length + 1), *at;
    memcpy(text, f->bytes + 8, (size_t)length);
    at = strstr(text, "\"lm_head.weight\"");
    at = at ? strstr(at, "\"data_offsets\":[") : NULL;
    CHECK(at && sscanf(at, "\"data_offsets\":[%llu,%llu", &begin, &end) == 2);
    free(text);
    *size = (size_t)(end - begin);
    return f->bytes + 8 + length + begin;
}

static struct memory_file weights_of(dqt_context *ctx, dqt_llama *model) {
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write(model, NULL, memory_write, &f, NULL));
    return f;
}

static void check_head_refused(dqt_context *ctx, const struct memory_file *f, const char *what) {
    dqt_llama *to = model_new(ctx, 6, true);
    struct memory_file before = weights_of(ctx, to);
    CHECKF(import_bytes(to, f) == DQT_E_FORMAT && strstr(dqt_last_error(ctx), "lm_head.weight"), "%s: %s", what,
           dqt_last_error(ctx));
    struct memory_file after = weights_of(ctx, to);
    CHECKF(same_bytes(&before, &after), "%s", what);
    free(before.bytes);
    free(after.bytes);
    dqt_llama_destroy(to);
}

/* Files of tied models list the head too, or do not. One that is the embedding is taken, in any order of the data; one
 * that differs in a single bit is refused, since the model could not have both. */
static void head_of_a_tied_model(void) {
    static const size_t steps[] = {1, 7, 13};
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama *from = model_new(ctx, 5, false);
    OK(ctx, dqt_tensor_copy(first_weight(ctx, from, true), first_weight(ctx, from, false)));
    for (int32_t dtype = DQT_SAFETENSORS_F32; dtype <= DQT_SAFETENSORS_BF16; dtype++) {
        dqt_safetensors_options o = DQT_INIT(dqt_safetensors_options);
        struct memory_file f = memory_new();
        o.dtype = dtype;
        o.stored = 1;
        OK(ctx, dqt_llama_write_safetensors(from, memory_write, &f, &o));
        for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
            struct memory_file other = shuffled(&f, steps[k]);
            dqt_llama *to = model_new(ctx, 6, true);
            float here[32], there[32];
            OK(ctx, import_bytes(to, &other));
            OK(ctx, dqt_tensor_dequantize(first_weight(ctx, to, false), 39, 1, here));
            OK(ctx, dqt_tensor_dequantize(first_weight(ctx, from, false), 39, 1, there));
            CHECK(dtype != DQT_SAFETENSORS_F32 || memcmp(here, there, sizeof here) == 0);
            dqt_llama_destroy(to);
            size_t size;
            unsigned char *head = head_data(&other, &size);
            const size_t bytes = dtype == DQT_SAFETENSORS_F32 ? 4 : 2, places[] = {0, 700 * bytes, size - bytes};
            for (size_t i = 0; i < 3; i++) {
                head[places[i]] ^= 1; /* the last bit of a number */
                check_head_refused(ctx, &other, "one bit");
                head[places[i]] ^= 1;
            }
            memset(head + size - 2, 0xff, 2);
            check_head_refused(ctx, &other, "NaN");
            free(other.bytes);
        }
        free(f.bytes);
    }
    struct memory_file codes = memory_new();
    const dqt_safetensors_options o = {.struct_size = sizeof o, .dtype = DQT_SAFETENSORS_CODES};
    OK(ctx, dqt_llama_write_safetensors(from, memory_write, &codes, &o));
    check_head_refused(ctx, &codes, "codes");
    free(codes.bytes);
    dqt_llama_destroy(from);
    counting_end(ctx, &counting);
}

static const struct test tests[] = {TEST(data_in_any_order), TEST(head_of_a_tied_model)};
TEST_MAIN(tests)
