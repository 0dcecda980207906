/* Models that transformers and PyPI's gguf made (tests/golden/make_models.py), of every architecture: logits as
 * transformers computes them. */
#define _POSIX_C_SOURCE 200809L
#include "io/names.h"
#include "open_world.h"

enum { MOST_LOGITS = 24 * 40 };

/* "models/NAME", found by a file in it. */
static const char *model_path(char path[GOLDEN_PATH_BYTES], const char *name, const char *file) {
    char full[96];
    snprintf(full, sizeof full, "models/%s%s%s", name, *file ? "/" : "", file);
    return golden_path(path, full);
}

/* The largest difference of a model's logits from the golden ones of `name`, by the largest of them. */
static double logits_error(dqt_context *ctx, dqt_llama *model, const char *name) {
    char path[GOLDEN_PATH_BYTES];
    struct memory_file f = slurp(model_path(path, name, "logits.golden"));
    const unsigned char *raw_tokens, *raw_logits;
    const size_t length = golden_record(&f, "tokens", &raw_tokens), count = golden_record(&f, "logits", &raw_logits);
    int32_t tokens[MOST_LOGITS];
    float logits[MOST_LOGITS];
    double most = 0, error = 0;
    CHECKF(length && count == length * 40 && count <= MOST_LOGITS, "%s", name);
    if (!length || count > MOST_LOGITS) return INFINITY;
    for (size_t i = 0; i < length; i++)
        tokens[i] = (int32_t)golden_u32(raw_tokens + 4 * i);
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.max_length = length;
    o.inference = 1;
    o.precision = DQT_PRECISION_F32;
    dqt_tape *tape;
    dqt_layer *const *layers;
    size_t num_layers;
    OK(ctx, dqt_llama_get_layers(model, &layers, &num_layers));
    OK(ctx, dqt_tape_create(ctx, layers, num_layers, &o, &tape));
    OK(ctx, dqt_llama_forward(model, tape, batch_tokens(tokens, 1, length), logits));
    for (size_t i = 0; i < count; i++) {
        const double expected = (double)golden_f32(raw_logits + 4 * i);
        most = fmax(most, fabs(expected));
        error = fmax(error, fabs((double)logits[i] - expected));
    }
    dqt_tape_destroy(tape);
    free(f.bytes);
    return error / most;
}

/* name: of the logits; what is opened is that, or a GGUF file. transformers computes BitNet's without activation codes
 * too.
 */
static void opens_as(const char *name, bool gguf) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    char path[GOLDEN_PATH_BYTES], file[80];
    dqt_open_options o = DQT_INIT(dqt_open_options);
    dqt_llama *model;
    o.activation = DQT_ACTIVATION_NONE;
    snprintf(file, sizeof file, "%s.gguf", name);
    if (gguf) {
        model_path(path, file, "");
    } else {
        model_path(path, name, "config.json");
        path[strlen(path) - strlen("/config.json")] = '\0';
    }
    OK(ctx, dqt_llama_open(ctx, path, &o, &model));
    if (model) {
        const double error = logits_error(ctx, model, name);
        CHECKF(error < 1e-5, "%s: logits differ by %g of the largest", path, error);
        CHECK(format_public(model->layers[1]->sublayer[BLOCK_MLP]->weight[MLP_UP]->storage) ==
              (gguf ? DQT_FORMAT_F32 : DQT_FORMAT_BF16));
    }
    dqt_llama_destroy(model);
    counting_end(ctx, &memory);
}

static void folders(void) {
    static const char *const names[] = {"llama",   "llama_tied", "llama_llama3", "llama_linear", "llama_head_dim",
                                        "mistral", "qwen2",      "qwen3",        "bitnet"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        opens_as(names[i], false);
}

static void gguf_files(void) {
    static const char *const names[] = {"llama", "llama_llama3", "qwen2", "qwen3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        opens_as(names[i], true);
}

static const struct test tests[] = {TEST(folders), TEST(gguf_files)};

TEST_MAIN(tests)
