/* Files for the readers of others, and what libdqt itself makes of the same models.
 *
 *   files make DIR TEXT MODEL.dqt
 *                         takes the byte model of `make demo` as `bitnet` (ternary, sub-norms, tied: as architecture
 *                         bitnet) and trains a second on TEXT, `llama` (int4, row scales, untied). Of each, in DIR:
 *                         NAME.dqt; NAME-TYPE.gguf; NAME-DTYPE.safetensors; NAME.weights (what the layers read: lines
 *                         "NAME ROWS COLS", each followed by the floats); NAME.reference (greedy
 *                         continuations, see outputs.h); and text.tokens, the bytes of TEXT
 *   files tokenizer TOKENIZER.json VOCAB OUT.gguf
 *                         an untrained model of VOCAB tokens, with this tokenizer and keys of every type
 *   files import MODEL.dqt FILE.safetensors OUT.dqt
 *                         reads the weights into a model of this config and other weights */
#include <math.h>

#include "outputs.h"

enum { BATCH = 8, LENGTH = 96, STEPS = 250 };

static const char *in(const char *dir, const char *name, const char *rest) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s%s", dir, name, rest);
    return path;
}

/* The bytes of a text as tokens, which go into DIR/text.tokens too, as uint16. */
static int32_t *read_text(const char *path, const char *dir, size_t *size) {
    FILE *f = need(fopen(path, "rb"), path), *out = need(fopen(in(dir, "text", ".tokens"), "wb"), dir);
    const size_t room = 1 << 20;
    int32_t *text = need(malloc(room * sizeof *text), "memory");
    int byte;
    for (*size = 0; *size < room && (byte = fgetc(f)) != EOF; (*size)++) {
        text[*size] = byte;
        fputc(byte, out);
        fputc(0, out);
    }
    fclose(f);
    if (fclose(out) || *size < 10 * LENGTH) need(NULL, "enough text");
    return text;
}

static void train(dqt_llama *model, const int32_t *text, size_t size) {
    dqt_layer *const *layers;
    size_t count;
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_tape_options t;
    dqt_updater_options u;
    ok(dqt_llama_get_layers(model, &layers, &count), "layers");
    ok(dqt_tape_options_init(&t, sizeof t), "options");
    t.max_batch = BATCH;
    t.max_length = LENGTH;
    ok(dqt_tape_create(ctx, layers, count, &t, &tape), "tape");
    ok(dqt_updater_options_init(&u, sizeof u), "options");
    u.rounding = DQT_ROUND_ECO_STOCHASTIC;
    u.beta1 = 0.8f;
    ok(dqt_updater_create(ctx, layers, count, &u, &updater), "updater");
    int32_t tokens[BATCH * LENGTH], targets[BATCH * LENGTH];
    uint64_t random = 1;
    float loss = 0;
    for (uint64_t step = 0; step < STEPS; step++) {
        for (size_t b = 0; b < BATCH; b++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            const int32_t *from = text + (random >> 33) % (size - LENGTH - 1);
            for (size_t i = 0; i < LENGTH; i++) {
                tokens[b * LENGTH + i] = from[i];
                targets[b * LENGTH + i] = from[i + 1];
            }
        }
        ok(dqt_tape_zero_gradients(tape), "zero");
        ok(dqt_llama_loss(model, tape, batch_pairs(tokens, targets, BATCH, LENGTH), &loss, NULL), "loss");
        ok(dqt_llama_backward(model, tape, 1), "backward");
        ok(dqt_updater_step(updater, tape, step_rate(dqt_schedule_cosine(step, 10, STEPS, 3e-3f, 0.1f)), NULL), "step");
    }
    printf("llama: %.3f bits per byte after %d steps\n", (double)loss / log(2.0), STEPS);
    dqt_updater_destroy(updater);
    dqt_tape_destroy(tape);
}

static void write_weights(dqt_llama *model, const char *path) {
    FILE *f = need(fopen(path, "wb"), path);
    dqt_layer *const *layers;
    size_t count;
    ok(dqt_llama_get_layers(model, &layers, &count), "layers");
    for (size_t i = 0; i < count; i++) {
        dqt_layer_info info = {.struct_size = sizeof info};
        ok(dqt_layer_get_info(layers[i], &info), "info");
        for (size_t p = 0; p < info.num_parameters; p++) {
            dqt_parameter q = {.struct_size = sizeof q};
            ok(dqt_layer_get_parameter(layers[i], p, &q), "parameter");
            float *row = need(malloc(q.cols * sizeof *row), "memory");
            fprintf(f, "%s %zu %zu\n", q.name, q.rows, q.cols);
            for (size_t r = 0; r < q.rows; r++) {
                ok(dqt_tensor_dequantize(q.tensor, r, 1, row), "dequantize");
                fwrite(row, sizeof *row, q.cols, f);
            }
            free(row);
        }
    }
    fclose(f);
}

static void export_all(dqt_llama *model, const char *dir, const char *name, int ternary) {
    static const struct {
        const char *suffix;
        int32_t linear, embedding;
        int ternary; /* only then */
    } ggufs[] = {{"-auto.gguf", DQT_GGUF_AUTO, DQT_GGUF_AUTO, 0}, {"-tq1_0.gguf", DQT_GGUF_TQ1_0, DQT_GGUF_F16, 1},
                 {"-q8_0.gguf", DQT_GGUF_Q8_0, DQT_GGUF_AUTO, 0}, {"-q4_0.gguf", DQT_GGUF_Q4_0, DQT_GGUF_F32, 0},
                 {"-f16.gguf", DQT_GGUF_F16, DQT_GGUF_F16, 0},    {"-f32.gguf", DQT_GGUF_F32, DQT_GGUF_F32, 0}};
    static const char *const tensors[] = {"-f32.safetensors", "-bf16.safetensors", "-codes.safetensors"};
    for (size_t i = 0; i < sizeof ggufs / sizeof *ggufs; i++) {
        dqt_gguf_options o;
        ok(dqt_gguf_options_init(&o, sizeof o), "options");
        o.linear_type = ggufs[i].linear;
        o.embedding_type = ggufs[i].embedding;
        o.context_length = 512;
        if (ternary || !ggufs[i].ternary) ok(dqt_llama_export_gguf(model, in(dir, name, ggufs[i].suffix), &o), "GGUF");
    }
    for (int32_t i = 0; i < 3; i++) {
        dqt_safetensors_options o;
        ok(dqt_safetensors_options_init(&o, sizeof o), "options");
        o.dtype = i;
        ok(dqt_llama_export_safetensors(model, in(dir, name, tensors[i]), &o), "safetensors");
    }
}

static void write_all(dqt_llama *model, const char *dir, const char *name, const int32_t *text, size_t size,
                      int ternary) {
    ok(dqt_llama_save(model, NULL, in(dir, name, ".dqt"), NULL), "checkpoint");
    write_weights(model, in(dir, name, ".weights"));
    write_reference(model, text, size, in(dir, name, ".reference"));
    export_all(model, dir, name, ternary);
    dqt_llama_destroy(model);
}

static dqt_llama *trained_llama(const int32_t *text, size_t size) {
    dqt_llama_config c;
    dqt_llama *model;
    ok(dqt_llama_config_init(&c, sizeof c), "config");
    c.hidden_size = 256;
    c.intermediate_size = 512;
    c.num_heads = 8;
    c.num_kv_heads = 4;
    c.no_sub_norms = 1;
    c.linear.storage = DQT_FORMAT_INT4;
    c.linear.scale_rule = DQT_SCALE_SIGMA;
    c.linear.sigma = 2.5f;
    c.linear.scale_axis = DQT_AXIS_ROW;
    ok(dqt_llama_create(ctx, &c, &model), "model");
    train(model, text, size);
    return model;
}

static void tokenizer(const char *json, const char *vocab, const char *out) {
    static const char *const tags[] = {"one tag", "another \xC3\xA9"};
    static const dqt_gguf_key keys[] = {
        {sizeof(dqt_gguf_key), .key = "general.name", .value_type = DQT_GGUF_VALUE_STRING, .text = "a name"},
        {sizeof(dqt_gguf_key), .key = "general.tags", .value_type = DQT_GGUF_VALUE_STRINGS, .texts = tags,
         .num_texts = 2},
        {sizeof(dqt_gguf_key), .key = "own.u32", .value_type = DQT_GGUF_VALUE_UINT32, .integer = UINT32_MAX},
        {sizeof(dqt_gguf_key), .key = "own.i32", .value_type = DQT_GGUF_VALUE_INT32, .integer = -2},
        {sizeof(dqt_gguf_key), .key = "own.u64", .value_type = DQT_GGUF_VALUE_UINT64, .integer = INT64_MAX},
        {sizeof(dqt_gguf_key), .key = "own.i64", .value_type = DQT_GGUF_VALUE_INT64, .integer = INT64_MIN},
        {sizeof(dqt_gguf_key), .key = "own.f32", .value_type = DQT_GGUF_VALUE_FLOAT32, .number = 0.1},
        {sizeof(dqt_gguf_key), .key = "own.f64", .value_type = DQT_GGUF_VALUE_FLOAT64, .number = 0.1},
        {sizeof(dqt_gguf_key), .key = "own.bool", .value_type = DQT_GGUF_VALUE_BOOL, .integer = 1}};
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_gguf_options o = DQT_INIT(dqt_gguf_options);
    dqt_llama *model;
    c.vocab_size = (size_t)strtoul(vocab, NULL, 10);
    c.no_sub_norms = 1;
    ok(dqt_llama_create(ctx, &c, &model), "model");
    o.tokenizer = json;
    o.keys = keys;
    o.num_keys = sizeof keys / sizeof *keys;
    o.context_length = 77;
    ok(dqt_llama_export_gguf(model, out, &o), out);
    dqt_llama_destroy(model);
}

static void import(const char *checkpoint, const char *tensors, const char *out) {
    dqt_llama *model;
    ok(load_checkpoint(ctx, checkpoint, &model, NULL, NULL, NULL), checkpoint);
    dqt_layer *const *layers;
    size_t count;
    ok(dqt_llama_get_layers(model, &layers, &count), "layers");
    for (size_t i = 0; i < count; i++) { /* other weights: all that is to come back must come from the file */
        dqt_layer_info info = {.struct_size = sizeof info};
        ok(dqt_layer_get_info(layers[i], &info), "info");
        for (size_t p = 0; p < info.num_parameters; p++) {
            dqt_parameter q = {.struct_size = sizeof q};
            ok(dqt_layer_get_parameter(layers[i], p, &q), "parameter");
            float *zeros = need(calloc(q.rows * q.cols, sizeof *zeros), "memory");
            ok(dqt_tensor_quantize(q.tensor, zeros, DQT_ROUND_NEAREST, 0), "quantize");
            free(zeros);
        }
    }
    ok(dqt_llama_import_safetensors(model, tensors, import_rounding(DQT_ROUND_NEAREST, 0)), tensors);
    ok(dqt_llama_save(model, NULL, out, NULL), out);
    dqt_llama_destroy(model);
}

int main(int argc, char **argv) {
    ok(dqt_context_create(NULL, &ctx), "context");
    if (argc == 5 && strcmp(argv[1], "make") == 0) {
        size_t size;
        dqt_llama *model;
        int32_t *text = read_text(argv[3], argv[2], &size);
        ok(load_checkpoint(ctx, argv[4], &model, NULL, NULL, NULL), argv[4]);
        write_all(model, argv[2], "bitnet", text, size, 1);
        write_all(trained_llama(text, size), argv[2], "llama", text, size, 0);
        free(text);
    } else if (argc == 5 && strcmp(argv[1], "tokenizer") == 0) {
        tokenizer(argv[2], argv[3], argv[4]);
    } else if (argc == 5 && strcmp(argv[1], "import") == 0) {
        import(argv[2], argv[3], argv[4]);
    } else {
        fprintf(stderr, "usage: files make DIR TEXT MODEL.dqt | files import MODEL.dqt FILE.safetensors OUT.dqt\n");
        return 2;
    }
    dqt_context_destroy(ctx);
    return 0;
}
