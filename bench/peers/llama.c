/* This library beside llama.cpp, in one process, turn by turn: 128 tokens one by one, and a prompt of 512, of the tied
 * ternary model of 110 M parameters that `decode 110M 128` of build/bench/sessions measures. Here it is written as a
 * GGUF file (TQ2_0, embedding and head Q8_0), which llama.cpp reads. Beside them what memory allows: reading as many
 * bytes as a token's weights have. Times are those of the clock, or, on one thread, of the processor, so that other
 * work on the machine matters less. bench/peers/llama.sh builds and runs it.
 *
 *   llama FILE.gguf THREADS ROUNDS */
#include <llama.h>
#include <omp.h>

#include "../../tests/calls.h"
#include "../machine.h"

enum { VOCAB = 32002, PREFILL = 512, DECODE = 128, MOST_ROUNDS = 99 };
enum { HIDDEN = 768, INTERMEDIATE = 2048, LAYERS = 12 };
enum { READ, DECODE_DQT, DECODE_HALF, DECODE_LLAMA, PREFILL_DQT, PREFILL_HALF, PREFILL_LLAMA, KINDS };

/* 2-bit codes of the blocks, 8-bit codes of the head. */
static const size_t weight_bytes =
    LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE) / 4 + (size_t)VOCAB * HIDDEN;

struct peers {
    dqt_session *session, *half; /* the other one's cache is of BF16: 16 bits, as llama.cpp's is */
    struct llama_context *llama;
    int threads;
    float *weights, logits[VOCAB];
    int32_t tokens[PREFILL];
};

static void ok(const dqt_context *ctx, dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static void check(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "llama.cpp: %s\n", what);
    exit(1);
}

static dqt_llama *model_create(dqt_context *ctx) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_llama *model;
    c.vocab_size = VOCAB;
    c.hidden_size = HIDDEN;
    c.intermediate_size = INTERMEDIATE;
    c.num_layers = LAYERS;
    c.num_heads = 12;
    c.tie_embeddings = 1;
    ok(ctx, dqt_llama_create(ctx, &c, &model));
    return model;
}

static void write_gguf(dqt_context *ctx, const dqt_llama *model, const char *path) {
    static char names[VOCAB][16];
    static const char *tokens[VOCAB];
    static int32_t types[VOCAB];
    dqt_gguf_options o;
    for (int i = 0; i < VOCAB; i++) {
        const bool byte = i >= 3 && i < 259;
        snprintf(names[i], sizeof names[i], byte ? "<0x%02X>" : "t%d", byte ? i - 3 : i);
        tokens[i] = names[i];
        types[i] = byte ? 6 : i == 0 ? 2 : i < 3 ? 3 : 1;
    }
    dqt_gguf_options_init(&o, sizeof o);
    o.tokens = tokens;
    o.types = types;
    o.num_tokens = VOCAB;
    o.bos_token = 1;
    o.eos_token = 2;
    o.embedding_type = DQT_GGUF_Q8_0;
    ok(ctx, dqt_llama_export_gguf(model, path, &o));
}

static void silent(enum ggml_log_level level, const char *text, void *data) {
    (void)level, (void)text, (void)data;
}

static struct llama_context *llama_open(const char *path, int threads) {
    llama_log_set(silent, NULL);
    struct llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
    check(model, "cannot read the file");
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = PREFILL;
    p.n_threads = p.n_threads_batch = threads;
    struct llama_context *context = llama_init_from_model(model, p);
    check(context, "no context");
    return context;
}

static void with_dqt(dqt_session *session, struct peers *p, size_t count, size_t each) {
    const dqt_context *ctx = NULL;
    ok(ctx, dqt_session_truncate(session, 0));
    for (size_t i = 0; i < count; i += each)
        ok(ctx, dqt_session_append(session, &p->tokens[i], each, p->logits));
}

static void with_llama(struct peers *p, size_t count, size_t each) {
    llama_memory_clear(llama_get_memory(p->llama), true);
    for (size_t i = 0; i < count; i += each)
        check(!llama_decode(p->llama, llama_batch_get_one(&p->tokens[i], (int32_t)each)), "decode");
    llama_synchronize(p->llama);
}

static void read_weights(const struct peers *p) {
    const size_t count = weight_bytes / sizeof(float) / (size_t)p->threads;
    float sink = 0;
#pragma omp parallel num_threads(p->threads) reduction(+ : sink)
    sink += limit_read(p->weights + (size_t)omp_get_thread_num() * count, count);
    p->weights[0] = sink;
}

static void once(struct peers *p, int kind) {
    switch (kind) {
    case READ: read_weights(p); break;
    case DECODE_DQT: with_dqt(p->session, p, DECODE, 1); break;
    case DECODE_HALF: with_dqt(p->half, p, DECODE, 1); break;
    case DECODE_LLAMA: with_llama(p, DECODE, 1); break;
    case PREFILL_DQT: with_dqt(p->session, p, PREFILL, PREFILL); break;
    case PREFILL_HALF: with_dqt(p->half, p, PREFILL, PREFILL); break;
    default: with_llama(p, PREFILL, PREFILL); break;
    }
}

static double seconds(const struct peers *p) {
    struct timespec t;
    clock_gettime(p->threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, bench_compare);
    return values[count / 2];
}

/* Rates of both, and the median of the rounds' ratios with its quartiles. */
static void compare(const char *name, int threads, size_t tokens, const double *ours, const double *theirs,
                    int rounds) {
    double ratio[MOST_ROUNDS], a[MOST_ROUNDS], b[MOST_ROUNDS];
    for (int i = 0; i < rounds; i++) {
        ratio[i] = theirs[i] / ours[i];
        a[i] = (double)tokens / ours[i];
        b[i] = (double)tokens / theirs[i];
    }
    const double mid = median(ratio, rounds);
    printf("%-26s %d threads: libdqt %.0f, llama.cpp %.0f tokens/s, ratio %.2f (quartiles %.2f %.2f)\n", name, threads,
           median(a, rounds), median(b, rounds), mid, ratio[rounds / 4], ratio[rounds * 3 / 4]);
}

int main(int argc, char **argv) {
    static struct peers p;
    static double times[KINDS][MOST_ROUNDS];
    dqt_context_options o;
    dqt_context *ctx;
    if (argc != 4) return 1;
    p.threads = atoi(argv[2]);
    const int rounds = atoi(argv[3]) < MOST_ROUNDS ? atoi(argv[3]) : MOST_ROUNDS;
    dqt_context_options_init(&o, sizeof o);
    o.num_threads = p.threads;
    ok(NULL, dqt_context_create(&o, &ctx));
    dqt_llama *model = model_create(ctx);
    write_gguf(ctx, model, argv[1]);
    dqt_session_options so = *session_of(PREFILL);
    ok(ctx, dqt_session_create(model, &so, &p.session));
    so.cache_format = DQT_CACHE_BF16;
    ok(ctx, dqt_session_create(model, &so, &p.half));
    for (int i = 0; i < PREFILL; i++)
        p.tokens[i] = i * 7919 % VOCAB;
    p.llama = llama_open(argv[1], p.threads);
    p.weights = aligned_alloc(64, weight_bytes / 64 * 64);
    check(p.weights, "no memory");
    memset(p.weights, 0, weight_bytes / 64 * 64);
    for (int round = -1; round < rounds; round++) /* the first one warms up */
        for (int kind = 0; kind < KINDS; kind++) {
            const double before = seconds(&p);
            once(&p, kind);
            times[kind][round < 0 ? 0 : round] = seconds(&p) - before;
        }
    compare("decode 128", p.threads, DECODE, times[DECODE_DQT], times[DECODE_LLAMA], rounds);
    compare("decode 128, cache of bf16", p.threads, DECODE, times[DECODE_HALF], times[DECODE_LLAMA], rounds);
    compare("prefill 512", p.threads, PREFILL, times[PREFILL_DQT], times[PREFILL_LLAMA], rounds);
    compare("prefill 512, cache of bf16", p.threads, PREFILL, times[PREFILL_HALF], times[PREFILL_LLAMA], rounds);
    const double token = median(times[DECODE_DQT], rounds) / DECODE;
    printf("weights of a token, %.1f MB: reading alone %.1f GB/s, decoding %.1f GB/s\n", (double)weight_bytes * 1e-6,
           (double)weight_bytes * 1e-9 / median(times[READ], rounds), (double)weight_bytes * 1e-9 / token);
    dqt_session_destroy(p.session);
    dqt_session_destroy(p.half);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
    return 0;
}
