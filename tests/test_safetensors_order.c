/* Safetensors files whose data lie in another order than the header lists them: Hugging Face's are sorted by name,
 * others are as they were made. */
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
    char *text = calloc(1, length + 1);
    memcpy(text, f->bytes + 8, length);
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
        memory_write(&out, &(unsigned char){(unsigned char)(header.size >> (8 * i))}, 1);
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

static dqt_llama *model_new(dqt_context *ctx, uint64_t seed) {
    dqt_llama_config c;
    dqt_llama *model = NULL;
    OK(ctx, dqt_llama_config_init(&c, sizeof c));
    c.vocab_size = 40;
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.seed = seed;
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    return model;
}

static void import_bytes(dqt_context *ctx, dqt_llama *model, const struct memory_file *f) {
    char path[] = "/tmp/dqt-order-XXXXXX";
    const int descriptor = mkstemp(path);
    CHECK(descriptor >= 0 && write(descriptor, f->bytes, f->size) == (ssize_t)f->size && close(descriptor) == 0);
    OK(ctx, dqt_llama_import_safetensors(model, path, import_rounding(DQT_ROUND_NEAREST, 0)));
    unlink(path);
}

static void data_in_any_order(void) {
    static const size_t steps[] = {1, 7, 13, 17};
    static const int32_t dtypes[] = {DQT_SAFETENSORS_F32, DQT_SAFETENSORS_CODES};
    struct counting counting;
    dqt_context *ctx = counting_context(&counting);
    dqt_llama *from = model_new(ctx, 5);
    for (size_t d = 0; d < 2; d++) {
        dqt_safetensors_options o = DQT_INIT(dqt_safetensors_options);
        struct memory_file f = memory_new();
        o.dtype = dtypes[d];
        o.stored = 1;
        OK(ctx, dqt_llama_write_safetensors(from, memory_write, &f, &o));
        for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
            struct memory_file other = shuffled(&f, steps[k]), again = memory_new();
            dqt_llama *to = model_new(ctx, 6);
            import_bytes(ctx, to, &other);
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

static const struct test tests[] = {TEST(data_in_any_order)};
TEST_MAIN(tests)
