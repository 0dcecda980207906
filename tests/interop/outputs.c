/* What libdqt says of a model that somebody else made or opens.
 *
 *   outputs logits MODEL TOKENS LENGTH WINDOWS OUT
 *                         the logits after each token of the first WINDOWS windows of LENGTH tokens, as raw floats; the
 *                         weights are F32, and MODEL is a folder or a GGUF file
 *   outputs passages MODEL TOKENS OUT
 *                         prompts of TOKENS and their greedy continuations, as outputs.h says; MODEL may be a
 * checkpoint
 *                         (.dqt) too
 *   outputs gguf MODEL.gguf OUT.gguf
 *                         the same model with all weights as F32
 *
 * TOKENS is a file of uint16 without a header (12_tokenize --raw). */
#include "outputs.h"

static int32_t *read_tokens(const char *path, size_t *count) {
    FILE *f = need(fopen(path, "rb"), path);
    ok(fseek(f, 0, SEEK_END) ? DQT_E_IO : DQT_OK, path);
    *count = (size_t)ftell(f) / 2;
    rewind(f);
    int32_t *tokens = need(malloc((*count + 1) * sizeof *tokens), "memory");
    for (size_t i = 0; i < *count; i++) {
        const int low = fgetc(f), high = fgetc(f);
        tokens[i] = low | high << 8;
    }
    fclose(f);
    return tokens;
}

static dqt_llama *open_f32(const char *path) {
    dqt_llama *model;
    dqt_open_options o = DQT_INIT(dqt_open_options);
    o.linear.storage = o.embedding.storage = o.head.storage = DQT_FORMAT_F32;
    ok(dqt_llama_open(ctx, path, &o, &model), path);
    return model;
}

static void write_logits(dqt_llama *model, const int32_t *tokens, size_t length, size_t windows, const char *path) {
    FILE *f = need(fopen(path, "wb"), path);
    dqt_llama_config c = {.struct_size = sizeof c};
    dqt_layer *const *layers;
    size_t count;
    dqt_tape *tape;
    dqt_tape_options t = DQT_INIT(dqt_tape_options);
    t.max_length = length;
    t.inference = 1;
    t.precision = DQT_PRECISION_F32;
    ok(dqt_llama_get_config(model, &c), "config");
    ok(dqt_llama_get_layers(model, &layers, &count), "layers");
    ok(dqt_tape_create(ctx, layers, count, &t, &tape), "tape");
    float *logits = need(malloc(length * c.vocab_size * sizeof *logits), "memory");
    for (size_t i = 0; i < windows; i++) {
        ok(dqt_llama_forward(model, tape, batch_tokens(tokens + i * length, 1, length), logits), "forward");
        if (fwrite(logits, sizeof *logits, length * c.vocab_size, f) != length * c.vocab_size) need(NULL, path);
    }
    if (fclose(f)) need(NULL, path);
    free(logits);
    dqt_tape_destroy(tape);
}

int main(int argc, char **argv) {
    dqt_llama *model;
    size_t count = 0;
    ok(dqt_context_create(NULL, &ctx), "context");
    if (argc == 7 && strcmp(argv[1], "logits") == 0) {
        const size_t length = strtoul(argv[4], NULL, 10), windows = strtoul(argv[5], NULL, 10);
        int32_t *tokens = read_tokens(argv[3], &count);
        if (length == 0 || windows > count / length) need(NULL, "so many tokens");
        model = open_f32(argv[2]);
        write_logits(model, tokens, length, windows, argv[6]);
        free(tokens);
    } else if (argc == 5 && strcmp(argv[1], "passages") == 0) {
        int32_t *tokens = read_tokens(argv[3], &count);
        const size_t n = strlen(argv[2]);
        if (count < (PROMPTS + 1) * PROMPT) need(NULL, "enough tokens");
        ok(n > 4 && strcmp(argv[2] + n - 4, ".dqt") == 0 ? load_checkpoint(ctx, argv[2], &model, NULL, NULL, NULL)
                                                         : dqt_llama_open(ctx, argv[2], NULL, &model),
           argv[2]);
        write_reference(model, tokens, count, argv[4]);
        free(tokens);
    } else if (argc == 4 && strcmp(argv[1], "gguf") == 0) {
        dqt_gguf_options o = DQT_INIT(dqt_gguf_options);
        o.linear_type = o.embedding_type = DQT_GGUF_F32;
        o.source = argv[2];
        model = open_f32(argv[2]);
        ok(dqt_llama_export_gguf(model, argv[3], &o), argv[3]);
    } else {
        fprintf(stderr, "usage: outputs logits MODEL TOKENS LENGTH WINDOWS OUT | outputs passages MODEL TOKENS OUT | "
                        "outputs gguf MODEL.gguf OUT.gguf\n");
        return 2;
    }
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
    return 0;
}
