/* Example 11, evaluate: the perplexity of a model on a file of tokens, in the format that is asked for.
 *
 * Introduces: dqt_llama_open: what people have on disk, opened as it is or quantised as it is read.
 *
 *   11_evaluate --model model.gguf --tokens valid.bin
 *   11_evaluate --model model.gguf --tokens valid.bin --format int4 --group 32
 *
 * Windows of --length tokens, one after another from the file's beginning, each without what was before it; every token
 * of a window predicts the next one. The last line is "perplexity X". */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "foreign.h"
#include "job.h"

int main(int argc, char **argv) {
    struct foreign_options model = {0};
    struct token_source source = {.bytes = 2, .document_token = -1, .whole = true};
    struct run_options o = run_defaults();
    struct run run;
    struct tokens data;
    int threads = 0;
    o.inference = 1;
    o.batch = 1;
    o.length = 512;
    o.eval_windows = 64;
    struct arg table[FOREIGN_ARGS + 7] = {
        {"--tokens", ARG_TEXT, &source.train, "file of tokens (uint16 or uint32; 12_tokenize makes it)", NULL},
        {"--token-bytes", ARG_INT, &source.bytes, "of each token of a file without llm.c's header: 2 or 4", NULL},
        {"--document-token", ARG_INT, &source.document_token, "token that begins a document; attention stays inside",
         NULL},
        {"--length", ARG_SIZE, &o.length, "tokens per window", NULL},
        {"--windows", ARG_SIZE, &o.eval_windows, "windows (0: all of the file)", NULL},
        {"--threads", ARG_INT, &threads, "threads (0: as OpenMP says)", NULL},
        {"--precision", ARG_CHOICE, &o.precision,
         "inputs of float products (auto: bf16 where the CPU has such products)", "auto=0 f32=1 bf16=2"},
    };
    const size_t count = 7 + foreign_args(&model, table + 7);
    const int stop = args_parse(argc, argv, table, count, "Measures the perplexity of a model on tokens.");
    if (stop) return stop - 1;
    if (!model.path || !source.train || o.length == 0) {
        fprintf(stderr, "--model and --tokens are needed, and --length is at least 1\n");
        return 2;
    }
    const char *problem = tokens_open(&data, &source, o.length);
    if (problem) {
        fprintf(stderr, "%s: %s\n", source.train, problem);
        return 1;
    }
    if (!o.eval_windows) o.eval_windows = windows_most(&data, o.length);
    model.length = o.length;
    dqt_context *ctx = job_context(threads);
    dqt_llama *opened = NULL;
    double loss = NAN;
    dqt_status status = ctx ? foreign_open(ctx, &model, &opened) : DQT_E_STATE;
    if (status == DQT_OK) status = run_open_model(&run, ctx, &data, &o, opened);
    if (status == DQT_OK) {
        status = run_evaluate(&run, &loss);
        if (status == DQT_OK) {
            const size_t windows = run.options.eval_windows;
            printf("%zu windows of %zu tokens, %.1f MiB\nloss per token %.6f\nperplexity %.4f\n", windows, o.length,
                   (double)dqt_context_allocated(ctx) / 1048576.0, loss, exp(loss));
        }
        run_close(&run);
    }
    const bool good = status == DQT_OK || (ctx && job_failed(ctx, status));
    dqt_context_destroy(ctx);
    tokens_close(&data);
    return !good;
}
