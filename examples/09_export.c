/* Example 9, export: a checkpoint as a file that other programs run or read.
 *
 * Introduces: dqt_llama_export_gguf (llama.cpp and its clients), dqt_llama_export_safetensors (Hugging Face names).
 *
 *   09_export --model run/model.dqt --gguf model.gguf --safetensors model.safetensors --dtype codes */
#include <stdio.h>

#include "args.h"
#include "dqt.h"

static dqt_status export_gguf(dqt_llama *model, int linear_type, int embedding_type, size_t context, const char *source,
                              const char *path) {
    dqt_gguf_options o;
    dqt_status status = dqt_gguf_options_init(&o, sizeof o);
    o.linear_type = linear_type;
    o.embedding_type = embedding_type;
    o.context_length = context;
    o.source = source;
    return status == DQT_OK ? dqt_llama_export_gguf(model, path, &o) : status;
}

static dqt_status export_safetensors(dqt_llama *model, int dtype, const char *path) {
    dqt_safetensors_options o;
    dqt_status status = dqt_safetensors_options_init(&o, sizeof o);
    o.dtype = dtype;
    return status == DQT_OK ? dqt_llama_export_safetensors(model, path, &o) : status;
}

int main(int argc, char **argv) {
    const char *path = "run/model.dqt", *gguf = NULL, *safetensors = NULL, *source = NULL;
    int linear_type = DQT_GGUF_AUTO, embedding_type = DQT_GGUF_AUTO, dtype = DQT_SAFETENSORS_F32;
    size_t context = 0;
    const struct arg table[] = {
        {"--model", ARG_TEXT, &path, "checkpoint", NULL},
        {"--gguf", ARG_TEXT, &gguf, "file for llama.cpp (with sub-norms the model must be trained with --tied)", NULL},
        {"--type", ARG_CHOICE, &linear_type, "weights of blocks in GGUF",
         "auto=0 f32=1 f16=2 q8_0=3 q4_0=4 tq1_0=5 tq2_0=6"},
        {"--embedding-type", ARG_CHOICE, &embedding_type, "embedding in GGUF", "auto=0 f32=1 f16=2 q8_0=3"},
        {"--context", ARG_SIZE, &context, "longest text in tokens, as GGUF states it (0: as the source, or 2048)",
         NULL},
        {"--source", ARG_TEXT, &source, "GGUF file whose tokenizer and other keys the GGUF file gets", NULL},
        {"--safetensors", ARG_TEXT, &safetensors, "file with the names of Hugging Face", NULL},
        {"--dtype", ARG_CHOICE, &dtype, "numbers in safetensors", "f32=0 bf16=1 codes=2"},
    };
    const int stop = args_parse(argc, argv, table, sizeof table / sizeof *table, "Exports a checkpoint.");
    if (stop) return stop - 1;
    if (!gguf && !safetensors) {
        fprintf(stderr, "--gguf or --safetensors is needed\n");
        return 2;
    }

    dqt_context *ctx = NULL;
    dqt_llama *model = NULL;
    dqt_status status = dqt_context_create(NULL, &ctx);
    dqt_checkpoint loaded = DQT_INIT(dqt_checkpoint);
    const dqt_load_options weights_only = {.struct_size = sizeof weights_only, .skip_updater = 1, .skip_host = 1};
    if (status == DQT_OK) status = dqt_llama_load(ctx, path, &weights_only, &loaded);
    model = loaded.model;
    if (status == DQT_OK && gguf) status = export_gguf(model, linear_type, embedding_type, context, source, gguf);
    if (status == DQT_OK && safetensors) status = export_safetensors(model, dtype, safetensors);
    if (status == DQT_OK)
        printf("written:%s%s%s%s\n", gguf ? " " : "", gguf ? gguf : "", safetensors ? " " : "",
               safetensors ? safetensors : "");
    else
        fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
    return status != DQT_OK;
}
